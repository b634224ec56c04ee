"""KID: by hand, torch-fidelity's value at its seed, and the rule for small sets."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from hfdbench.metrics.distribution.kid import kid


def sets(count: int, dimensions: int = 24) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    shape = (count, dimensions)
    return random.normal(size=shape).astype(np.float32), random.normal(0.3, 1.2, shape).astype(np.float32)


def test_by_hand():
    # D = 1, kernel (xy + 1)^3: within a 0 and 1: k = 1; within b 1 and 2: k = 27; across: 1, 1, 8, 27.
    value, deviation = kid(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
    assert value == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert deviation is None


@pytest.mark.parametrize("count", [260, 800])  # one kernel matrix for all subsets, and one for each
def test_equals_torch_fidelity(count):
    a, b = sets(count)
    expected = kid_features_to_metric(
        torch.from_numpy(a),
        torch.from_numpy(b),
        kid_subsets=10,
        kid_subset_size=200,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        rng_seed=2020,
        verbose=False,
    )
    ours = kid(a, b, seed=2020, subsets=10, subset_size=200)
    assert ours == pytest.approx(tuple(expected.values()), rel=1e-4)


def test_default_is_a_hundred_subsets_of_a_thousand():
    a, b = sets(1001, 8)
    mean, deviation = kid(a, b)
    assert (mean, deviation) == kid(a, b, seed=0, subsets=100, subset_size=1000)
    assert mean > 100 * deviation > 0


def test_full_set_does_not_depend_on_order():
    a, b = sets(300)
    assert kid(a[::-1], np.roll(b, 7, axis=0))[0] == pytest.approx(kid(a, b)[0], rel=1e-5)


def test_is_unbiased():
    random = np.random.default_rng(1)
    values = [kid(random.normal(size=(20, 4)), random.normal(size=(20, 4)))[0] for _ in range(400)]
    assert min(values) < 0 and abs(np.mean(values)) < 4 * np.std(values) / 20


def test_refuses_what_has_no_distance():
    a, _ = sets(5)
    for bad, match in ((a[:1], "at least 2"), (a[:, :3], "one D"), (a * np.nan, "NaN")):
        with pytest.raises(ValueError, match=match):
            kid(a, bad)
