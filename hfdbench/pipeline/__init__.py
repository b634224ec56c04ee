"""Encode -> streams -> sealed decode -> score."""

from .engine import Progress, Summary, run, score

__all__ = ["Progress", "Summary", "run", "score"]
