"""Errors a user can act on. Each message names the thing, the cause and a hint."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class UsageError(Exception):
    """The request cannot be carried out as asked; the command line ends with exit code 2."""


class Unavailable(Exception):
    """Something optional is missing: a program, weights, a plugin.

    Parameters
    ----------
    reason : str
        What is missing and for what.
    hint : str
        The command or step that provides it; may be empty.
    """

    def __init__(self, reason: str, hint: str = ""):
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason, self.hint = reason, hint


class StreamError(Exception):
    """A bit-stream that is damaged, truncated, foreign or made by another model."""


class ImageError(Exception):
    """An image that cannot be read, or is too small to measure."""


class CodecError(Exception):
    """A codec failed at its own work: its program ended with an error or did not end in time."""


def unknown(thing: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name, with the nearest known one as its hint.

    Parameters
    ----------
    thing : str
        What kind of name it is, such as "codec".
    name : str
        The name that was asked for.
    known : iterable of str
        The names that exist.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f'no {thing} "{name}"; {hint}')


def no_folder(path: Path | str, hint: str, named: str = "") -> UsageError:
    """Build the error for a path that is not a folder.

    Parameters
    ----------
    path : Path or str
        The path.
    hint : str
        Which folder to give.
    named : str, optional
        How the user named it, such as "--data photos"; the path by default.
    """
    cause = "a file, where a folder is needed" if Path(path).exists() else "no such folder"
    return UsageError(f"{named or path}: {cause}; {hint}")


SYSTEM = {  # what the system says of a file, and what helps
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file lies where a folder is needed; choose another path",
    errno.EISDIR: "give a file in it",
    errno.EEXIST: "it is a file; choose another path",
    errno.ENOSPC: "free some room and run the same command again: what is stored stays",
    errno.EDQUOT: "free some room and run the same command again: what is stored stays",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}


def of_system(error: OSError) -> UsageError:
    """Build the error for a file or folder that the system refuses.

    Parameters
    ----------
    error : OSError
        With the path in `filename`.
    """
    may = "choose one that you may read and, where results go, write"
    return UsageError(f"{error.filename}: {error.strerror or error}; {SYSTEM.get(error.errno or 0, may)}")


def without_controls(text: str) -> str:
    """Text of a program as a message may hold it: control characters, but for ends of lines, become spaces."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
