"""Pixels of the bundled decoders do not depend on workers, nor on variables that set threads; on kernels only as declared."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.identity import tolerance
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


def decoded(name: str, streams: list[bytes], workers: int) -> list[np.ndarray]:
    """The samples that a decoder gives."""
    (card,) = choose(CodecCard, [name])

    def decode(stream: bytes) -> np.ndarray:
        pixels = pool.ask(card, "q1", {"do": "decode", "seed": 3}, stream, SIZE[0] * SIZE[1])[1]
        return np.frombuffer(pixels, np.uint8)

    with Pool("decoder", workers, "cpu") as pool:
        return list(in_order(pool, streams, decode, shuffled=2))


def digests(name: str, streams: list[bytes], workers: int) -> list[str]:
    """Hashes of the pixels that a decoder gives."""
    return [hashlib.sha256(pixels).hexdigest() for pixels in decoded(name, streams, workers)]


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_workers_and_threads_change_nothing(name, streams, monkeypatch):
    first = digests(name, streams, 1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "4")
    assert digests(name, streams, 2) == first and len(set(first)) == 2


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_other_kernels_change_no_more_than_is_declared(name, streams, monkeypatch):
    first = np.stack(decoded(name, streams, 1)).astype(int)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert np.abs(np.stack(decoded(name, streams, 1)) - first).max() <= tolerance(choose(CodecCard, [name])[0]) == 1
    assert tolerance(choose(CodecCard, ["jpeg"])[0]) == 0
