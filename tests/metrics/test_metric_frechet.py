"""Fréchet distance: closed forms, torch-fidelity's value, and moments that merge exactly."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_metrics import patches, random_weights, theirs
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.networks.inception import Inception


def reference(a: np.ndarray, b: np.ndarray) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(np.ascontiguousarray(x))) for x in (a, b)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def cross(x: float, y: float, angle: float = 0.0, centre=(0.0, 0.0)) -> np.ndarray:
    """Four points with standard deviations x and y along axes turned by an angle."""
    points = np.array([[x, 0], [-x, 0], [0, y], [0, -y]]) * 1.5**0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + centre


def test_by_hand_on_common_axes():
    a, b = Moments.of(cross(1, 2)), Moments.of(cross(3, 5, centre=(1, -2)))
    np.testing.assert_allclose(a.covariance, np.diag([1, 4]), atol=1e-12)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (3 - 1) ** 2 + (5 - 2) ** 2, rel=1e-12)


def test_by_hand_on_turned_axes():
    # tr (AB)^(1/2) of 2 x 2 matrices is (tr AB + 2 (det AB)^(1/2))^(1/2). A = diag(1, 4); B is diag(9, 1) turned by
    # 45 degrees: 5 on the diagonal, so tr AB = 5 + 20 and det AB = 4 * 9.
    a, b = Moments.of(cross(1, 2)), Moments.of(cross(3, 1, np.pi / 4))
    assert frechet_distance(a, b) == pytest.approx(5 + 10 - 2 * (25 + 2 * 6) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("count", [20, 300])  # singular and full covariances
def test_equals_torch_fidelity(count):
    random = np.random.default_rng(0)
    mixing = random.normal(size=(96, 96)) * np.logspace(0, -3, 96)
    a, b = (random.normal(size=(count, 96)) @ mixing + 0.1 * i for i in range(2))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(reference(a, b), rel=1e-6)


def test_is_exact_where_covariances_are_singular():
    # With A = X'X / (n - 1) and B = Y'Y / (n - 1), tr (AB)^(1/2) is the sum of the singular values of XY' / (n - 1).
    random = np.random.default_rng(2)
    a, b = random.normal(size=(12, 400)), random.normal(0.1, 2, size=(12, 400))
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + ((x**2).sum() + (y**2).sum() - 2 * root) / 11
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-10)


def test_fid_equals_torch_fidelity_from_the_pixels_on(tmp_path):
    """With trained weights where HFDBENCH_DATA has inception/*.pth, else with random ones."""
    root = os.environ.get("HFDBENCH_DATA")
    found = sorted(Path(root, "inception").glob("*.pth")) if root else []
    weights = found[0] if found else random_weights(tmp_path / "random.pth")
    # Few patches leave torch-fidelity 2,000 zero eigenvalues, whose rounding costs it 5e-5 of distance (ours is exact,
    # see below): hence a strong distortion.
    originals = patches(6)
    coarse = [(image // 64 * 64).astype(np.uint8) for image in originals]
    inception = Inception(weights, batch=6)
    ours = frechet_distance(*(Moments.of(inception.features(images)) for images in (originals, coarse)))
    expected = reference(*(theirs(weights, images).numpy() for images in (originals, coarse)))
    assert ours == pytest.approx(expected, rel=1e-4)


def test_moments_are_numpys_and_merge_exactly():
    random = np.random.default_rng(0)
    features = (random.normal(size=(500, 16)) + 1000).astype(
        np.float32
    )  # far from 0: naive sums of squares lose digits
    whole = Moments.of(features)
    np.testing.assert_allclose(whole.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=0, atol=1e-12)

    streamed = Moments(16)
    for part in np.split(features[random.permutation(500)], [1, 7, 7, 100]):
        streamed.update(part)
    halves = Moments.of(features[:123])
    halves.merge(Moments.of(features[123:]))
    halves.merge(Moments(16))
    for other in (streamed, halves):
        assert other.count == 500
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(other.covariance, whole.covariance, rtol=0, atol=1e-12)


def test_merging_leaves_the_other_alone():
    other = Moments.of(cross(3, 5))
    moments = Moments(2)
    moments.merge(other)
    moments.update(cross(1, 1))
    np.testing.assert_allclose(other.covariance, np.diag([9, 25]), atol=1e-12)
    assert other.count == 4


def test_is_symmetric_zero_on_itself_and_never_negative():
    random = np.random.default_rng(1)
    a, b = (Moments.of(random.normal(size=(count, 32))) for count in (10, 200))
    assert frechet_distance(a, b) == frechet_distance(b, a) > 1
    assert 0 <= frechet_distance(a, a) < 1e-8
    a, b = (random.normal(size=(200, 32)) for _ in range(2))
    a[:, 3] = b[:, 3] = 0  # a feature that never fires
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(reference(a, b), rel=1e-6)
    constant = Moments.of(np.ones((5, 32)))
    assert frechet_distance(constant, constant) == 0


@pytest.mark.parametrize("order", ["same", "reversed", "shuffled"])
@pytest.mark.parametrize("decay", [0, 12], ids=["even", "ill-conditioned"])
@pytest.mark.parametrize(("count", "dimensions"), [(30, 64), (200, 64), (100, 256), (300, 256)])
def test_equal_sets_are_exactly_0_apart(count, dimensions, decay, order):
    """Rounding noise is neither a distance nor the base of a ratio or a logarithm."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(dimensions, dimensions)))[0]
    scale = np.exp(-decay * np.arange(dimensions) / dimensions)
    features = ((random.normal(size=(count, dimensions)) * scale) @ turn + 0.3).astype(np.float32)
    ordered = {"same": features, "reversed": features[::-1], "shuffled": features[random.permutation(count)]}[order]
    assert frechet_distance(Moments.of(features), Moments.of(ordered)) == 0


def test_what_is_above_the_resolution_is_kept():
    features = np.random.default_rng(0).normal(size=(3000, 32))
    moved = features + 1e-3 * np.eye(32)[0]
    assert frechet_distance(Moments.of(features), Moments.of(features + 0.01)) == pytest.approx(32e-4, rel=1e-6)
    assert frechet_distance(Moments.of(features), Moments.of(moved)) == 0  # 1e-6 of a variance of 64: under 1e-7


def test_says_when_it_is_biased():
    assert Moments.of(np.random.default_rng(0).normal(size=(32, 32))).biased
    assert not Moments.of(np.random.default_rng(0).normal(size=(33, 32))).biased


def test_refuses_what_has_no_distance():
    good = Moments.of(cross(1, 2))
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 1"):
        frechet_distance(good, Moments.of(np.zeros((1, 2))))
    with pytest.raises(ValueError, match="2 and of 3 dimensions"):
        frechet_distance(good, Moments.of(np.eye(3)))
    with pytest.raises(ValueError, match="N x 2"):
        good.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="do not merge"):
        good.merge(Moments(3))
    with pytest.raises(ValueError, match="feature vector 1 of 2 holds NaN"):
        good.update(np.array([[0, 0], [np.nan, 0]]))
    assert good.count == 4
