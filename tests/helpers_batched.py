"""The bundled networks, asked for several pictures in one call."""

import numpy as np

from hfdbench.codecs.hfd import HFD


class BatchedHFD(HFD):
    """Decodes three at once, one after the other."""

    version = 1
    batch = 3

    def decode_batch(self, streams: list[bytes], *, seed: int) -> list[np.ndarray]:
        return [self.decode(stream, seed=seed) for stream in streams]
