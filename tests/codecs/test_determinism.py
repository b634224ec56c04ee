"""Pixels of the bundled decoders do not depend on workers, nor on variables that set threads; on kernels only as declared."""

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


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_workers_and_threads_change_nothing_and_kernels_no_more_than_is_declared(name, streams, monkeypatch):
    first = decoded(name, streams, 1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "4")
    np.testing.assert_array_equal(decoded(name, streams, 2), first)
    assert (first[0] != first[1]).any()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    difference = np.stack(decoded(name, streams, 1)).astype(int) - np.stack(first)
    assert np.abs(difference).max() <= tolerance(choose(CodecCard, [name])[0]) == 1


def test_a_codec_without_floating_point_declares_none():
    assert tolerance(choose(CodecCard, ["jpeg"])[0]) == 0
