"""Figures, tables and pages from plain data."""
