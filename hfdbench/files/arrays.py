"""Arrays that are kept so as not to compute them again: read as they were written, or not at all.

Conventions: a file is what `numpy.save` writes and the CRC-32 of that, little-endian.
"""

import io
import tokenize
import zlib
from pathlib import Path

import numpy as np

from hfdbench.files.atomic import replacing

CRC_BYTES = 4


def keep(path: Path, array: np.ndarray) -> None:
    """Write an array, whole or not at all."""
    data = io.BytesIO()
    np.save(data, array)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data.getvalue() + _crc(data.getvalue()))


def kept(path: Path) -> np.ndarray | None:
    """Read an array; None where none is kept, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    data, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    return parsed(data) if data and crc == _crc(data) else None


def parsed(data: bytes) -> np.ndarray | None:
    """Read what `numpy.save` wrote; None where it did not."""
    try:
        return np.load(io.BytesIO(data))
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError, tokenize.TokenError):
        return None


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little")
