"""Pixels of the bundled decoders do not depend on workers, nor on variables that set threads."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pool import Pool, in_order
from hfdbench.codecs.protocol import load_codec

SIZE = (88, 72)
IMAGES = [
    np.asarray(Image.effect_mandelbrot(SIZE[::-1], (-2 + i / 3, -1.2, 1 + i / 3, 1.2), 60).convert("RGB"))
    for i in (0, 1)
]


@pytest.fixture(scope="module")
def streams() -> list[bytes]:
    (encoder,) = choose(CodecCard, ["elic-mse"])
    codec = load_codec(encoder, "q1")
    return [codec.encode(image) for image in IMAGES]


def digests(name: str, streams: list[bytes], workers: int) -> list[str]:
    """Hashes of the pixels that a decoder gives."""
    (card,) = choose(CodecCard, [name])

    def decode(stream: bytes) -> str:
        pixels = pool.ask(card, "q1", {"do": "decode", "seed": 3}, stream, SIZE[0] * SIZE[1])[1]
        return hashlib.sha256(pixels).hexdigest()

    with Pool("decoder", workers, "cpu") as pool:
        return list(in_order(pool, streams, decode, shuffled=2))


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_workers_and_threads_change_nothing(name, streams, monkeypatch):
    first = digests(name, streams, 1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "4")
    assert digests(name, streams, 2) == first and len(set(first)) == 2
