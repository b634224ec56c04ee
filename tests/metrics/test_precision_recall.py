"""Precision, recall and FID-infinity: by hand, against torch-fidelity, laws, known distances."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from hfdbench.metrics.distribution.fid_infinity import fid_infinity
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.precision_recall import precision_recall


def test_by_hand_on_a_line():
    # Originals 0 1 2 3 reach 3, 2, 2, 3 (their third nearest other): together -3 to 6. Decodings 5.5 6.5 7 20 reach
    # 14.5, 13.5, 13 and 14.5: together -9 to 34.5.
    originals, decoded = np.array([[0.0], [1], [2], [3]]), np.array([[5.5], [6.5], [7], [20]])
    assert precision_recall(originals, decoded) == (0.25, 1)
    # One neighbour: the originals reach from -1 to 4, the decodings from 4.5 on.
    assert precision_recall(originals, decoded, neighbours=1) == (0, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_equals_torch_fidelity(dtype, spread):
    random = np.random.default_rng(0)
    a, b = random.normal(3, 1, size=(400, 16)).astype(dtype), random.normal(3, spread, size=(300, 16)).astype(dtype)
    expected = calculate_precision_recall_full(torch.from_numpy(b), torch.from_numpy(a))
    assert precision_recall(a, b) == pytest.approx(expected, abs=1e-6)
    assert min(expected) > 0 and expected != (1, 1)


def test_laws():
    random = np.random.default_rng(1)
    a, b = random.normal(size=(1100, 8)), random.normal(0.5, 1, size=(1100, 8))  # more than a block of rows
    precision, recall = precision_recall(a, b)
    assert precision_recall(b, a) == (recall, precision)
    assert precision_recall(a[random.permutation(1100)], b[::-1]) == (precision, recall)
    turn = np.linalg.qr(random.normal(size=(8, 8)))[0]
    assert precision_recall(7 * a @ turn + 2, 7 * b @ turn + 2) == (precision, recall)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="need 4 feature vectors a side, got 3 and 3"):
        precision_recall(np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="with one D"):
        precision_recall(np.eye(3), np.eye(4))


def pairs(seed: int, images: int = 300, patches: int = 4, dimensions: int = 32):
    """Gaussian features, alike within an image, and decodings; and their distance at infinitely many images."""
    random = np.random.default_rng([3, seed])
    scale = np.arange(1, dimensions + 1) ** -0.5
    noise = 0.3 * np.roll(scale, 1)
    image = np.repeat(np.arange(images), patches)
    shape = (images * patches, dimensions)
    x = 0.7 * (random.normal(size=(images, dimensions))[image] + random.normal(size=shape)) * scale
    y = 0.85 * x + random.normal(size=shape) * noise
    deviations = 0.98**0.5 * scale, (0.98 * (0.85 * scale) ** 2 + noise**2) ** 0.5
    return x, y, image, ((deviations[0] - deviations[1]) ** 2).sum()


def test_fid_infinity_is_nearer_to_the_known_distance_than_fid():
    found, plain = [], []
    for seed in range(12):
        x, y, image, known = pairs(seed)
        found.append(fid_infinity(x, y, image, smallest=300))
        plain.append(frechet_distance(Moments.of(x), Moments.of(y)))
    assert np.mean(plain) > 1.08 * known
    assert np.mean(found) == pytest.approx(known, rel=0.03)


def test_fid_infinity_depends_on_seed_alone_and_keeps_images_whole():
    x, y, image, _ = pairs(0)
    value = fid_infinity(x, y, image, smallest=300)
    assert fid_infinity(x, y, image, smallest=300) == value != fid_infinity(x, y, image, seed=1, smallest=300)
    order = np.random.default_rng(0).permutation(len(x))
    assert fid_infinity(x[order], y[order], image[order], smallest=300) == pytest.approx(value, rel=1e-9)


def test_fid_infinity_refuses_small_sets():
    x, y, image, _ = pairs(0)
    with pytest.raises(ValueError, match="1,200 patches, 10,000 are needed"):
        fid_infinity(x, y, image)
    with pytest.raises(ValueError, match="no pairs"):
        fid_infinity(x, y[1:], image, smallest=300)
