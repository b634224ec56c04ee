"""Pixels of the bundled decoders do not depend on workers, on variables that set threads, or on company."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pool import Pool, in_order

IMAGES = [
    np.asarray(Image.effect_mandelbrot((104, 88), (-2 + i / 3, -1.2, 1 + i / 3, 1.2), 60).convert("RGB"))
    for i in range(3)
]


def digests(card: CodecCard, encoder: CodecCard, point: str, workers: int) -> list[tuple[str, str]]:
    """Hashes of streams and pixels."""

    def encode(image: np.ndarray) -> bytes:
        return pool.ask(encoder, point, {"do": "encode", "shape": image.shape}, image.tobytes())[1]

    def decode(stream: bytes) -> bytes:
        return pool.ask(card, point, {"do": "decode", "seed": 3}, stream, IMAGES[0][..., 0].size)[1]

    with Pool("encoder", workers, "cpu") as pool:
        streams = list(in_order(pool, IMAGES, encode))
    with Pool("decoder", workers, "cpu") as pool:
        pixels = list(in_order(pool, streams, decode, shuffled=3))
    return [tuple(hashlib.sha256(part).hexdigest() for part in pair) for pair in zip(streams, pixels, strict=True)]


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_workers_and_threads_change_nothing(name, monkeypatch):
    (card,), (encoder,) = choose(CodecCard, [name]), choose(CodecCard, ["elic-mse"])
    first = digests(card, encoder, "q1", 1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "4")
    assert digests(card, encoder, "q1", 2) == first
