"""Metrics of one image."""
