"""Codecs behind one interface, and the processes that run them."""
