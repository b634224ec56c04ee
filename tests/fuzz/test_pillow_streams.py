"""Damaged files of the formats of Pillow and its plugins, in a sealed process: a picture or a StreamError, no crash or growth."""

import time

import numpy as np
import pytest
from helpers_fuzz import mutated
from helpers_hfd import picture

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pillow import CLAIM
from hfdbench.codecs.pool import CodecFailed, Pool

pytestmark = pytest.mark.fuzz
MUTATIONS = 30  # of each codec
LONGEST_S, GROWTH = 20.0, 600 << 20  # on a busy machine; bytes, for pictures of up to CLAIM pixels


@pytest.mark.parametrize("name", ["jpeg", "jpeg-baseline", "webp", "jp2", "avif", "heic", "jxl"])
def test_damaged_files_are_pictures_or_named_errors(name, fuzz_budget):
    (card,) = choose(CodecCard, [name])
    point, image, rng = card.points[0].id, picture(40, 70, seed=3), np.random.default_rng(0)
    with Pool("codec", 1, "cpu", retries=0) as pool:
        try:
            _, stream = pool.ask(card, point, {"do": "encode", "shape": image.shape}, image.data.cast("B"))
        except CodecFailed as error:
            assert error.type == "Unavailable", error
            pytest.skip(str(error))
        before = pool.ask(card, point, {"do": "usage"})[0]["peak_bytes"]
        for _ in range(MUTATIONS * fuzz_budget):
            damaged, began = mutated(stream, rng), time.perf_counter()
            try:
                answer, _ = pool.ask(card, point, {"do": "decode", "seed": 0}, damaged, CLAIM)
                assert answer["shape"][2] == 3
            except CodecFailed as error:
                assert error.type == "StreamError", (damaged.hex(), str(error))
            assert time.perf_counter() - began < LONGEST_S, damaged.hex()
        assert pool.ask(card, point, {"do": "usage"})[0]["peak_bytes"] - before < GROWTH
