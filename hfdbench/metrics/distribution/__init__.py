"""Distances between sets of patches."""
