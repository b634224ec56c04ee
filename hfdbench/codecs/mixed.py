"""A rate between two settings of a codec that knows only steps: some images of a set take the one, the rest the other.

Conventions: which images is decided by their pixels alone, so that neither order nor company matters: the image whose hash,
as a fraction of 1, lies below `share` takes `high`. Streams must say themselves how they were coded, as those of JPEG and its
kind do: one decoder serves both.
"""

import hashlib
import importlib
from typing import Any

import numpy as np

from hfdbench.codecs.protocol import Codec, adapter_name


def fraction(image: np.ndarray) -> float:
    """Hash of an image's pixels and size, spread evenly over 0 to 1."""
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    return int.from_bytes(digest[:6]) / 2**48


class Mixed:
    """`adapter` with the options `high` for a `share` of all images, `low` for the others."""

    version = 1
    libraries = ()

    def __init__(self, adapter: str, low: dict[str, Any], high: dict[str, Any], share: float):
        module, _, name = adapter_name(adapter).partition(":")
        made = getattr(importlib.import_module(module), name)
        self._low: Codec = made(**low)
        self._high: Codec = made(**high)
        self._share = share

    def encode(self, image: np.ndarray) -> bytes:
        return (self._high if fraction(image) < self._share else self._low).encode(image)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        return self._low.decode(stream, seed=seed)
