"""Damaged streams of our own codecs: a StreamError, or what the encoder writes for that picture; no hang or crash."""

import dataclasses

import numpy as np
import pytest
from helpers_fuzz import mutated
from helpers_hfd import LEVELS, SMALL, autoencoder, picture, write

from hfdbench.codecs.hfd import HFD
from hfdbench.errors import StreamError
from hfdbench.hfd.container import Coded

pytestmark = pytest.mark.fuzz
MUTATIONS = 150  # of each kind and architecture


@pytest.fixture(scope="module", params=[SMALL, LEVELS], ids=["elic", "lapped"])
def codec(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ae.safetensors"
    return HFD([write(autoencoder(config=request.param), path, "autoencoder")], rate=1)


@pytest.fixture(scope="module")
def image():
    return picture(40, 70, seed=3)


def test_mutated_streams_are_refused(codec, image, fuzz_budget):
    stream = codec.encode(image)
    rng = np.random.default_rng(0)
    for _ in range(MUTATIONS * fuzz_budget):
        damaged = mutated(stream, rng)
        if damaged != stream:
            with pytest.raises(StreamError):
                codec.decode(damaged, seed=0)


def test_mutated_payloads_under_a_right_checksum_are_refused_or_repeatable(codec, image, fuzz_budget):
    """Whoever makes the checksum right again gets another picture only where the encoder itself would write that payload.

    Such are rare (no code is without them: each picture has a payload), and they decode to the same picture every time.
    """
    coded = Coded.unpack(codec.encode(image))
    rng, tried, accepted = np.random.default_rng(1), 0, 0
    for _ in range(MUTATIONS * fuzz_budget):
        damaged = mutated(coded.payload, rng)
        if damaged == coded.payload:
            continue
        tried, stream = tried + 1, dataclasses.replace(coded, payload=damaged).pack()
        try:
            first = codec.decode(stream, seed=0)
        except StreamError:
            continue
        accepted += 1
        assert first.shape == image.shape and np.array_equal(first, codec.decode(stream, seed=0))
    print(f"{accepted} of {tried} mutated payloads are payloads of other pictures")
    assert accepted <= 1 + tried / 200


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
