"""Bjøntegaard deltas: closed forms, the package `bjontegaard`, laws, and refusals."""

import numpy as np
import pytest

from hfdbench.analysis.bd import RateCurve, at_rate, bd_metric, bd_rate

RATES = np.array([0.1, 0.2, 0.4, 0.8])
PSNR = np.array([27.0, 30.5, 33.0, 37.0])
OTHER = RateCurve(np.array([0.12, 0.21, 0.5, 0.9]), np.array([28.0, 31.0, 34.5, 37.5]))


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_by_hand_on_straight_lines(method):
    # 10 dB a decade; the other needs 20 % less rate everywhere, which is 10 log10(1 / 0.8) dB at equal rate.
    reference = RateCurve(RATES, 30 + 10 * np.log10(RATES))
    test = RateCurve(0.8 * RATES, reference.values)
    rate, metric = bd_rate(reference, test, method), bd_metric(reference, test, method)
    assert rate.value == pytest.approx(-0.2, rel=1e-12)
    assert metric.value == pytest.approx(10 * np.log10(1 / 0.8), rel=1e-12)
    assert (rate.low, rate.high) == pytest.approx((20, 30 + 10 * np.log10(0.8)))
    assert (metric.low, metric.high) == pytest.approx((0.1, 0.64))
    assert rate.share_of_reference == rate.share_of_test == 1
    assert metric.share_of_test == pytest.approx(np.log(6.4) / np.log(8))


def test_by_hand_on_a_metric_that_falls():
    reference, test = RateCurve(RATES, 20 / RATES), RateCurve(RATES, 10 / RATES)  # half the FID, or half the rate
    assert bd_metric(reference, test, log_value=True).value == pytest.approx(-0.5, rel=1e-12)
    assert bd_rate(reference, test, log_value=True).value == pytest.approx(-0.5, rel=1e-12)


@pytest.mark.parametrize("method", ["pchip", "akima"])
@pytest.mark.parametrize("log_value", [False, True])
def test_equals_bjontegaard(method, log_value):
    package = pytest.importorskip("bjontegaard", reason="needs the package bjontegaard: pip install bjontegaard")
    reference, test = RateCurve(RATES, 6000 / PSNR**2) if log_value else RateCurve(RATES, PSNR), OTHER
    if log_value:
        test = RateCurve(OTHER.rates, 5000 / OTHER.values**2)
    values = [np.log(c.values) if log_value else c.values for c in (reference, test)]
    theirs = (reference.rates, values[0], test.rates, values[1])
    # The package takes metrics that rise: a falling one is turned round, and its difference with it.
    sign = -1 if log_value else 1
    theirs = (theirs[0], sign * theirs[1], theirs[2], sign * theirs[3])
    settings = dict(method=method, require_matching_points=False, min_overlap=0)
    expected = package.bd_rate(*theirs, **settings) / 100
    assert bd_rate(reference, test, method, log_value).value == pytest.approx(expected, rel=1e-9)
    expected = sign * package.bd_psnr(*theirs, **settings)
    expected = np.expm1(expected) if log_value else expected
    assert bd_metric(reference, test, method, log_value).value == pytest.approx(expected, rel=1e-9)


def test_laws():
    reference, order = RateCurve(RATES, PSNR), [2, 0, 3, 1]
    there, back = bd_rate(reference, OTHER).value, bd_rate(OTHER, reference).value
    assert (1 + there) * (1 + back) == pytest.approx(1)
    assert bd_metric(reference, OTHER).value == pytest.approx(-bd_metric(OTHER, reference).value)
    assert bd_rate(reference, reference).value == 0
    assert bd_rate(RateCurve(RATES[order], PSNR[order]), OTHER).value == there
    assert bd_rate(RateCurve(8 * RATES, PSNR), RateCurve(8 * OTHER.rates, OTHER.values)).value == pytest.approx(there)


def test_value_at_a_rate():
    curve = RateCurve(RATES, 20 / RATES)
    assert at_rate(curve, 0.3, log_value=True) == pytest.approx(20 / 0.3)
    assert at_rate(RateCurve(RATES, PSNR), 0.4) == pytest.approx(33)
    with pytest.raises(ValueError, match=r"outside the curve's 0\.1 to 0\.8"):
        at_rate(curve, 0.9)


@pytest.mark.parametrize(
    "curve, message",
    [
        (RateCurve(RATES, PSNR[[0, 2, 1, 3]]), r"not monotone: no gain from 0.2 to 0.4 bpp"),
        (RateCurve(RATES[[0, 1, 1, 3]], PSNR), r"two points at one rate, 0\.2 bpp"),
        (
            RateCurve(RATES, PSNR + 9),
            r"share 10 % of the reference's range and 10 % of the other's, at least 25 % of both",
        ),
        (RateCurve(RATES, 36.7 + 0.1 * (PSNR - 27)), r"share 30 % of the reference's range and 3 % of the other's"),
        (RateCurve(RATES, PSNR + 20), "share 0 %"),
        (RateCurve(RATES, PSNR[::-1]), "one curve rises with the rate, the other falls"),
        (RateCurve(RATES[:2], PSNR[:2]), "at least 3 points, this one has 2"),
        (RateCurve(RATES, np.array([27, np.nan, 33, 37])), "finite"),
    ],
)
def test_refuses_what_has_no_delta(curve, message):
    with pytest.raises(ValueError, match=message):
        bd_rate(curve, RateCurve(RATES, PSNR))


def test_a_distance_of_zero_has_no_logarithm():
    with pytest.raises(ValueError, match="no logarithm"):
        bd_metric(
            RateCurve(RATES, np.array([3.0, 2, 1, 0])), RateCurve(RATES, np.array([3.0, 2, 1, 0.5])), log_value=True
        )
