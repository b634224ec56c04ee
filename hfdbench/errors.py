"""Errors a user can mend: each says the thing, the cause and the cure."""

import difflib
from collections.abc import Iterable


class BadRequest(Exception):
    """The request cannot be carried out as asked: exit code 2."""


class Unavailable(Exception):
    """Something optional is not here (a program, weights, a plugin). `reason` says what, `cure` the line that mends it."""

    def __init__(self, reason: str, cure: str = ""):
        super().__init__(f"{reason}; {cure}" if cure else reason)
        self.reason, self.cure = reason, cure


class StreamError(Exception):
    """A bit-stream that is damaged, truncated, foreign or of another model."""


class PictureError(Exception):
    """An image that cannot be read or is too small to measure."""


def unknown(thing: str, name: str, known: Iterable[str]) -> BadRequest:
    """The error for a name that is not known, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
    return BadRequest(f'no {thing} "{name}"; {hint}')
