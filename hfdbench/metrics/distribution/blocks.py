"""Features a block of rows at a time: in memory is what is worked on, however many there are.

Features may be mapped from a file (`numpy.memmap`): the pages of a block are given back to the kernel when it is done.
"""

import mmap
from collections.abc import Iterator

import numpy as np


def spans(count: int, rows: int) -> Iterator[slice]:
    """Slices of so many rows that cover `count`."""
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def given_back(features: np.ndarray) -> None:
    """Let the kernel take back what was read of a mapped file; it is read again when it is needed."""
    base, mode = features, None
    while isinstance(base, np.ndarray):
        base, mode = base.base, getattr(base, "mode", mode)
    if isinstance(base, mmap.mmap) and mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def chosen(features: np.ndarray, indices: np.ndarray, rows: int = 50) -> np.ndarray:
    """Rows in memory, a block at a time: reading one that lies alone brings its neighbours in the file into memory, too."""
    found = np.empty((len(indices), features.shape[1]), features.dtype)
    for span in spans(len(indices), rows):
        found[span] = features[indices[span]]
        given_back(features)
    return found


def finite(features: np.ndarray, rows: int = 1000) -> bool:
    """Whether no value is NaN or infinite."""
    for span in spans(len(features), rows):
        if not np.isfinite(features[span]).all():
            return False
        given_back(features)
    return True


def mean(features: np.ndarray, rows: int = 1000) -> np.ndarray:
    """The mean of the rows in the type of the features, to the bit that of `numpy.mean`."""
    total = np.empty((0, features.shape[1]), features.dtype)
    for span in spans(len(features), rows):
        total = np.concatenate([total, features[span]]).sum(axis=0, keepdims=True)
        given_back(features)
    return total[0] / features.dtype.type(len(features))
