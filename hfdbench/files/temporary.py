"""Temporary files and folders: none outlives this process, unless it is killed.

Conventions: a path is claimed before it is there, and let go once it is gone or somebody else looks after it. What is still
claimed when the interpreter ends, or when `abandon` is called before a harder end, is removed then: an interrupt may come
between any two instructions.
"""

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_claimed: set[Path] = set()


def claim(path: Path) -> Path:
    """Let a file or folder that is about to be made be removed at the end of this process, and return its path."""
    _claimed.add(path)
    return path


def let_go(path: Path) -> None:
    """Leave a claimed path to somebody else."""
    _claimed.discard(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, if it is there. Ctrl-C meanwhile is raised when it is gone."""
    try:
        _remove(path)
    except KeyboardInterrupt:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
    let_go(path)


@atexit.register
def abandon() -> None:
    """Remove all that is claimed. Call it before an end of this process that skips the interpreter's own."""
    for path in tuple(_claimed):
        _remove(path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claimed.clear)


def new_folder() -> Path:
    """Make a folder where temporary ones belong (TMPDIR), and claim it."""
    folder = claim(Path(tempfile.gettempdir()).resolve() / f"hfdbench-{uuid.uuid4().hex[:12]}")
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is removed when the block ends."""
    folder = new_folder()
    try:
        yield folder
    finally:
        remove(folder)
