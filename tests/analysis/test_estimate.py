"""Estimates: by hand, against SciPy's tests and bootstrap, and several statements at once."""

import math

import numpy as np
import pytest
from scipy import stats

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate, holm

VALUES = np.random.default_rng(0).gamma(2.0, 1.0, 30)
OTHERS = VALUES + np.random.default_rng(1).normal(0.2, 0.5, 30)


def of(values) -> Estimate:
    """That of a mean."""
    values = np.asarray(values, float)
    return Estimate(values.mean(), values - values.mean())


def test_where_no_image_stands_out_it_is_the_t_test():
    sides = np.array([1.0, -1] * 15) * 0.7 + 0.2  # kurtosis 1, no skewness
    test = stats.ttest_1samp(sides, 0)
    assert of(sides).interval(0.9) == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert of(sides).p_differs() == pytest.approx(test.pvalue)
    assert of(sides).p_below(0.5) == pytest.approx(stats.ttest_1samp(sides, 0.5, alternative="less").pvalue)
    difference = of(OTHERS + sides) - of(OTHERS)
    assert difference.p_above() == pytest.approx(stats.ttest_rel(OTHERS + sides, OTHERS, alternative="greater").pvalue)


@pytest.mark.parametrize("values", [VALUES - 1.8, 1.8 - VALUES, VALUES - OTHERS])
def test_the_p_value_is_below_a_where_the_interval_excludes_the_bound(values):
    for level in (0.5, 0.9, 0.99):
        low, high = of(values).interval(level)
        assert of(values).p_above(low) == pytest.approx((1 - level) / 2, rel=1e-6)
        assert of(values).p_below(high) == pytest.approx((1 - level) / 2, rel=1e-6)


def test_the_interval_is_wider_on_the_side_of_the_skewness():
    low, high = of(VALUES).interval()
    student = stats.ttest_1samp(VALUES, 0).confidence_interval()
    assert high - VALUES.mean() > 1.05 * (VALUES.mean() - low)
    assert low == pytest.approx(student.low, abs=0.1) and low <= student.low and high > student.high
    assert of(-VALUES).interval() == pytest.approx((-high, -low))


def test_intervals_of_skewed_values_hold_more_often_than_students():
    held = {"ours": 0, "Student": 0}
    for trial in range(500):
        values = np.exp(np.random.default_rng([4, trial]).normal(0, 1, 24))
        student = stats.ttest_1samp(values, 0).confidence_interval()
        for name, (low, high) in (("ours", of(values).interval()), ("Student", student)):
            held[name] += low <= np.exp(0.5) <= high
    assert held["Student"] < 445 < 455 < held["ours"]


def test_the_standard_error_is_that_of_scipys_bootstrap():
    witness = stats.bootstrap((VALUES,), np.mean, n_resamples=4000, method="percentile", random_state=0)
    found = of(VALUES)
    assert found.standard_error == pytest.approx(witness.standard_error, rel=0.05)  # N - 1 for N: 1.7 % more
    assert found.interval() == pytest.approx(tuple(witness.confidence_interval), abs=0.15)


def test_deviations_of_a_ratio_give_the_error_of_scipys_bootstrap():
    bits, pixels = VALUES, VALUES + np.random.default_rng(2).gamma(2.0, 1.0, 30)

    def ratio(a, b, axis=-1):
        return a.sum(axis=axis) / b.sum(axis=axis)

    witness = stats.bootstrap((bits, pixels), ratio, paired=True, n_resamples=4000, random_state=0)
    found = Estimate(ratio(bits, pixels), deviations.of_ratio(bits, pixels))
    assert found.standard_error == pytest.approx(witness.standard_error, rel=0.06)


def test_a_function_of_estimates_has_the_error_of_scipys_bootstrap():
    def log_ratio(a, b, axis=-1):
        return np.log(a.mean(axis=axis) / b.mean(axis=axis))

    witness = stats.bootstrap((VALUES, OTHERS), log_ratio, paired=True, n_resamples=4000, random_state=0)
    found = Estimate.of_function(lambda a, b: math.log(a / b), [of(VALUES), of(OTHERS)])
    assert found.value == pytest.approx(log_ratio(VALUES, OTHERS))
    assert found.standard_error == pytest.approx(witness.standard_error, rel=0.06)
    seeds = Estimate.over_seeds([of(VALUES - 0.2), of(VALUES + 0.2)])
    doubled = Estimate.of_function(lambda a: 2 * a, [seeds])
    assert doubled.standard_error == pytest.approx(2 * seeds.standard_error)
    with pytest.raises(ValueError):
        Estimate.of_function(lambda a: math.log(a), [of(VALUES - VALUES.mean() - 0.001)])


def test_what_every_image_says_alike_is_certain():
    certain = of(VALUES + 1) - of(VALUES)
    assert certain.standard_error == pytest.approx(0, abs=1e-12)
    assert of(np.ones(5)).p_above() == 0 and of(np.zeros(5)).p_differs() == 1
    assert of(np.zeros(5)).interval() == (0, 0)


def test_one_image_says_nothing_of_others():
    alone = of([3.0])
    assert math.isnan(alone.standard_error) and math.isnan(alone.p_above()) and math.isnan(alone.interval()[0])


def test_different_numbers_of_images_do_not_pair():
    with pytest.raises(ValueError, match="30 and 29 images"):
        of(VALUES) - of(VALUES[1:])


def test_the_spread_of_seeds_widens_the_interval():
    seeds = [of(VALUES + shift) for shift in (-0.3, 0.1, 0.2)]
    together = Estimate.over_seeds(seeds)
    assert together.value == pytest.approx(VALUES.mean())
    of_images, of_seeds = VALUES.var(ddof=1) / 30, np.var([-0.3, 0.1, 0.2], ddof=1) / 3
    assert together.standard_error == pytest.approx(math.sqrt(of_images + of_seeds))
    low, high = together.interval()
    assert high - low > of(VALUES).interval()[1] - of(VALUES).interval()[0]
    difference = together - of(VALUES)  # a decoder without seeds: the images cancel, the seeds do not
    assert difference.standard_error == pytest.approx(math.sqrt(of_seeds))
    assert Estimate.over_seeds(seeds[:1]) is seeds[0]


def test_seeds_are_part_of_the_coverage():
    """Without them the interval of a sampling decoder's mean holds far less often than it says."""
    held = {1: 0, 4: 0}
    for trial in range(400):
        random = np.random.default_rng([3, trial])
        images = random.normal(size=20)
        for count in held:
            made = [of(images + 0.1 * random.normal(size=20) + 0.4 * random.normal()) for _ in range(count)]
            low, high = (Estimate.over_seeds(made) - of(images)).interval()
            held[count] += low <= 0 <= high
    assert held[1] < 150 and 368 <= held[4] <= 396


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert len(holm([])) == 0


def test_holm_keeps_the_share_of_runs_with_a_false_verdict():
    false = {"one by one": 0, "Holm": 0}
    for trial in range(400):
        common, noise = np.random.default_rng([9, trial]).normal(size=(2, 12, 30))
        p_values = [of(each).p_differs() for each in 0.3 * common[0] + noise]
        false["one by one"] += min(p_values) < 0.05
        false["Holm"] += holm(p_values).min() < 0.05
    assert false["Holm"] <= 30 < 120 < false["one by one"]
