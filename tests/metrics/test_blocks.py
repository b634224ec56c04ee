"""Features a block at a time: to the bit what they are at once, and those of a file what they are in memory."""

import tempfile

import numpy as np
import pytest

from hfdbench.metrics.distribution import blocks
from hfdbench.metrics.distribution.fid_infinity import fid_infinity
from hfdbench.metrics.distribution.kid import kid
from hfdbench.metrics.distribution.precision_recall import precision_recall


def features(count: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(count).random((count, dimensions)) + shift).astype(np.float32)


def mapped(array: np.ndarray, mode: str = "r") -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        array.tofile(file)
        return np.memmap(file, array.dtype, mode, shape=array.shape)


@pytest.mark.parametrize("count", [1, 999, 1000, 2500])
def test_the_mean_is_that_of_numpy_to_the_bit(count):
    found = features(count, 37)
    assert np.array_equal(blocks.mean(found), found.mean(axis=0))
    assert np.array_equal(blocks.mean(mapped(found)), found.mean(axis=0))


@pytest.mark.parametrize("count", [50, 1400])
def test_features_of_a_file_are_measured_as_those_in_memory(count):
    a, b = features(count, 64), features(count, 64, 0.01)
    image = np.arange(count) // 2
    for metric in (kid, precision_recall, lambda a, b: fid_infinity(a, b, image, smallest=20, sizes=3, orders=1)):
        assert metric(mapped(a), mapped(b)) == metric(a, b)


def test_a_private_copy_of_a_file_keeps_its_changes():
    """Giving its pages back would lose them."""
    found = mapped(np.zeros((2000, 8), np.float32), "c")
    found += 1
    assert blocks.finite(found) and found.sum() == found.size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found_in_any_block(value):
    found = features(2500, 3)
    found[2400, 1] = value
    assert not blocks.finite(found)


def test_precision_and_recall_in_one_block_of_columns_or_many(monkeypatch):
    from hfdbench.metrics.distribution import precision_recall as module

    a, b = features(700, 32), features(700, 32, 0.05)
    whole = precision_recall(a, b)
    monkeypatch.setattr(module, "ROWS", 90)
    monkeypatch.setattr(module, "COLUMNS", 64)
    assert precision_recall(a, b) == whole
