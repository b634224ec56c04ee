"""Damage by chance."""

import numpy as np


def mutated(stream: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, or bytes cut off, repeated, inserted."""
    data = bytearray(stream)
    place = int(rng.integers(len(data)))
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    elif kind == 1:
        del data[place : place + int(rng.integers(1, 9))]
    elif kind == 2:
        data[place:place] = rng.bytes(int(rng.integers(1, 9)))
    else:
        data = data[:place] + bytes(rng.choice([b"\0", b"\xff"])) * 64
    return bytes(data)
