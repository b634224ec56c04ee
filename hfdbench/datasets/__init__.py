"""Data sets and how their pictures are read."""
