"""Encode, store streams, decode in a sealed process, score."""
