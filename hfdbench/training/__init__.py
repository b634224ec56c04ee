"""Training of HFD and its rivals."""
