# pyright: basic
"""Training of HFD and its rivals."""
