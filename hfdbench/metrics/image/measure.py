"""Metrics measured on each image, asked for by name (`--metric`) or wherever they can be: the door to `perceptual` and `libjxl`.

Conventions: images are uint8, H x W x 3, of one shape; a value is None where the metric's rule gives none (an image too
small). `identity` tells apart values that may not be compared: versions, and the sha256 of weights or program.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hfdbench.errors import unknown
from hfdbench.metrics.registry import on_request, resolve


class Measure(Protocol):
    """One metric, ready. `columns`: of METRICS, one per value. `remark`: what a reader of its numbers must know, or "".

    Called from several threads. Raises Unavailable when this pair of images cannot be measured.
    """

    columns: tuple[str, ...]
    identity: str
    remark: str

    def __call__(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float | None, ...]: ...


@dataclass(frozen=True)
class Place:
    """Where a measure looks for what it needs. `weights`: a file the user names."""

    weights: Path | None = None
    data_root: Path | None = None
    device: str = "cpu"
    allow_download: bool = True


BY_NAME = on_request()
ALWAYS = tuple(name for name, rows in BY_NAME.items() if rows[0].always)  # measured unasked where they can be
NONE = "none"  # of `--metric`: not even those of ALWAYS


def open_measure(name: str, place: Place) -> Measure:
    """Build one. Raises UsageError for an unknown name or a wrong file, Unavailable when something it needs is not here."""
    if name not in BY_NAME:
        raise unknown("metric", name, [*BY_NAME, NONE])
    return resolve(BY_NAME[name][0].compute)(place)
