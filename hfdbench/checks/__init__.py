"""Checks of a codec and of an installation."""
