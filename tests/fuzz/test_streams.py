"""Damaged streams of our own codecs: a StreamError or the very picture, never another one, a hang or a crash."""

import dataclasses

import numpy as np
import pytest
from helpers_hfd import LAPPED, LEVELS, SMALL, autoencoder, picture, write

from hfdbench.codecs.hfd import HFD
from hfdbench.errors import StreamError
from hfdbench.hfd.container import Coded

pytestmark = pytest.mark.fuzz
MUTATIONS = 150  # of each kind and architecture


@pytest.fixture(scope="module", params=[SMALL, LAPPED, LEVELS], ids=["elic", "lapped", "levels"])
def codec(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ae.safetensors"
    return HFD([write(autoencoder(config=request.param), path, "autoencoder")], rate=1)


@pytest.fixture(scope="module")
def image():
    return picture(40, 70, seed=3)


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


def test_mutated_streams_are_refused(codec, image, fuzz_budget):
    stream = codec.encode(image)
    rng = np.random.default_rng(0)
    for _ in range(MUTATIONS * fuzz_budget):
        damaged = mutated(stream, rng)
        if damaged != stream:
            with pytest.raises(StreamError):
                codec.decode(damaged, seed=0)


def test_mutated_payloads_under_a_right_checksum_are_refused(codec, image, fuzz_budget):
    """Whoever makes the checksum right again does not get another picture: a payload decodes only if the encoder would write it."""
    coded = Coded.unpack(codec.encode(image))
    rng = np.random.default_rng(1)
    for _ in range(MUTATIONS * fuzz_budget):
        damaged = mutated(coded.payload, rng)
        if damaged != coded.payload:
            with pytest.raises(StreamError):
                codec.decode(dataclasses.replace(coded, payload=damaged).pack(), seed=0)


@pytest.mark.parametrize(("height", "width"), [(41, 70), (40, 200), (1, 1), (2048, 2048), (65535, 65535)])
def test_other_sizes_under_a_right_checksum_are_refused_or_repeatable(codec, image, height, width):
    """A payload says nothing of the size but its number of symbols: sizes of one padded size share it."""
    coded = dataclasses.replace(Coded.unpack(codec.encode(image)), height=height, width=width)
    if height == 41:
        shapes = [codec.decode(coded.pack(), seed=0).shape for _ in range(2)]
        assert shapes == [(41, 70, 3)] * 2
    else:
        with pytest.raises(StreamError):
            codec.decode(coded.pack(), seed=0)
