"""Stored results: schema, files, published numbers."""
