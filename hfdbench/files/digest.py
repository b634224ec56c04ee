"""Hashes of files."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
