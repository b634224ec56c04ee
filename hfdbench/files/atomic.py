"""A file is written whole or not at all: it is filled beside its place and renamed into it.

Conventions
    temporary   `.NAME.RANDOM.tmp` in the same folder. The leading dot hides it from every reader of hfdbench; one that a killed
                process left behind may be deleted (`hfdbench run` deletes those of its tables that no living process has locked).
    durable     the content reaches the disk before the rename, so that a power cut leaves the old file or the new one.
    links       a symbolic link stays one: the file that it points to is replaced. A device or pipe is written as it is.
    stores      a file of an object store is filled in the cache of this machine and put as one object.
    errors      UsageError names the file, the cause and what stays intact.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfdbench.errors import UsageError
from hfdbench.files.remote import RemotePath, located
from hfdbench.files.temporary import claim, remove

MOST_NAME_BYTES = 200  # of the 255 that file systems allow, to leave room for the rest of the temporary name


@contextmanager
def replacing(path: Path, *errors: type[Exception], once: bool = False) -> Iterator[Path]:
    """Give a temporary path to fill; when the block ends, the file there becomes `path`.

    Missing parent folders are made. If the block raises, the temporary file is removed and `path` is as it was.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    *errors : type of Exception
        What the block's library raises, besides OSError, when it cannot write: torch's RuntimeError, for example.
    once : bool
        Keep a file that is there already, even one that another process writes at the same time, and raise FileExistsError.

    Yields
    ------
    Path
        A file name in the folder of `path` that does not exist. It ends with ".tmp": state the format to writers that go by
        the suffix, and open it for `numpy.save`, which appends one.

    Raises
    ------
    UsageError
        When the disk is full, the folder is not writable, or anything else keeps the file from being written.
    """
    path = located(path)
    if isinstance(path, RemotePath):
        with _committing(path, once) as temporary:
            yield temporary
        return
    special = path.is_relative_to("/dev") or path.is_fifo()
    path = path if special else Path(os.path.realpath(path))
    stem = path.name.encode(errors="surrogateescape")[:MOST_NAME_BYTES].decode(errors="ignore")
    temporary = path if special else claim(path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.tmp"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not special:
            _flush(temporary)
            if once:
                _link(temporary, path)
            else:
                os.replace(temporary, path)
    except FileExistsError:
        if once:
            raise
        raise UsageError(f"{path}: cannot be written: a file is where a folder should be; remove it") from None
    except (OSError, *errors) as error:
        cause = getattr(error, "strerror", None) or error or type(error).__name__
        kept = "the old file is intact" if os.path.exists(path) else "there was none before"
        raise UsageError(f"{path}: cannot be written: {cause}; {kept}; check free space and permissions") from error
    finally:
        if not special:
            remove(temporary)


@contextmanager
def _committing(path: RemotePath, once: bool) -> Iterator[Path]:
    temporary = path.temporary()
    try:
        yield temporary
        path.commit(temporary, once)
    except OSError as error:
        if once and isinstance(error, FileExistsError):
            raise
        raise UsageError(
            f"{path}: cannot be written: {error.strerror or error}; check free space and permissions"
        ) from error
    finally:
        remove(temporary)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: of two processes in the same instant the later one wins.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes, whole or not at all. Raises UsageError as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a file of UTF-8 text with the line ends it has, whole or not at all. Raises UsageError as `replacing` does."""
    write_bytes(path, content.encode("utf-8"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
