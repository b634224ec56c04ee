"""Bjøntegaard deltas: how much rate, or how much of a metric, one curve saves over another where both have values.

G. Bjøntegaard 2001, VCEG-M33; with piecewise cubics as in VCEG-AL22 (PCHIP) and Herglotz et al. 2022,
doi:10.1109/TIP.2022.3149236 (Akima), because one cubic through all points overshoots.

Conventions: a curve is its rates (bits per pixel) and values, point by point, in any order; values rise or fall strictly
with the rate, alike in both curves. Rates are integrated in their logarithm; `log_value`: the metric too (FID).
    bd_rate    mean over the common values of log rate(test) - log rate(reference), as a share: -0.2 is 20 % less rate
    bd_metric  mean over the common log rates of test - reference, in the metric's unit; with log_value as a share
Agreement with the package `bjontegaard`: 1e-9, enforced by tests.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

MINIMUM_OVERLAP = 0.25  # of the shorter range; below it a delta says little of either curve
Method = Literal["pchip", "akima"]


@dataclass(frozen=True)
class Curve:
    """Rates and values of a codec's points, float, K each."""

    rates: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Delta:
    """`low` to `high` is what both curves cover, in values (bd_rate) or rates (bd_metric), and its share of each range."""

    value: float
    low: float
    high: float
    share_of_reference: float
    share_of_test: float


def bd_rate(reference: Curve, test: Curve, method: Method = "pchip", log_value: bool = False) -> Delta:
    """Rate that test needs more than reference for equal values. Raises ValueError when it is not defined."""
    sides = _pair(reference, test, log_value)
    order = 1 if sides[0][1][-1] > sides[0][1][0] else -1
    sides = [(values[::order], rates[::order]) for rates, values in sides]
    return _delta(sides, method, log_axis=log_value, log_answer=True)


def bd_metric(reference: Curve, test: Curve, method: Method = "pchip", log_value: bool = False) -> Delta:
    """What test has more than reference at equal rates. Raises ValueError when it is not defined."""
    return _delta(_pair(reference, test, log_value), method, log_axis=True, log_answer=log_value)


def at_rate(curve: Curve, rate: float, log_value: bool = False) -> float:
    """The curve's value at a rate within its range, by PCHIP in log rate. Raises ValueError outside it."""
    rates, values = _checked(curve, log_value, monotone=False)
    if not rates[0] <= np.log(rate) <= rates[-1]:
        low, high = np.exp(rates[[0, -1]])
        raise ValueError(f"rate {rate:.4g} lies outside the curve's {low:.4g} to {high:.4g}")
    value = float(_interpolator("pchip")(rates, values)(np.log(rate)))
    return float(np.exp(value)) if log_value else value


def _checked(curve: Curve, log_value: bool, monotone: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Log rates, ascending, and values (or their logs)."""
    rates, values = np.asarray(curve.rates, np.float64), np.asarray(curve.values, np.float64)
    if rates.ndim != 1 or rates.shape != values.shape or len(rates) < 3:
        raise ValueError(f"a curve needs at least 3 points, a value for each rate; got {rates.shape}, {values.shape}")
    if not (np.isfinite(rates).all() and np.isfinite(values).all() and rates.min() > 0):
        raise ValueError("rates must be positive, rates and values finite")
    if log_value and values.min() <= 0:
        raise ValueError(f"a value of {values.min():.4g} has no logarithm")
    order = np.argsort(rates)
    rates, values = rates[order], values[order]
    steps = np.diff(values) * np.sign(values[-1] - values[0])
    for low, high, rate_step, step in zip(rates, rates[1:], np.diff(rates), steps, strict=False):
        if rate_step <= 0 or (monotone and step <= 0):
            raise ValueError(f"not monotone: no gain from {low:.4g} to {high:.4g} bpp; leave out one of the points")
    return np.log(rates), np.log(values) if log_value else values


def _pair(reference: Curve, test: Curve, log_value: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    sides = [_checked(curve, log_value) for curve in (reference, test)]
    if len({values[-1] > values[0] for _, values in sides}) > 1:
        raise ValueError("one curve rises with the rate, the other falls")
    return sides


def _delta(sides, method: Method, log_axis: bool, log_answer: bool) -> Delta:
    """Mean of test's answers less reference's, over the common part of the axis, along which both rise."""
    low, high = max(axis[0] for axis, _ in sides), min(axis[-1] for axis, _ in sides)
    shares = [max(high - low, 0) / (axis[-1] - axis[0]) for axis, _ in sides]
    if max(shares) < MINIMUM_OVERLAP:
        raise ValueError(
            f"the curves share {100 * max(shares):.0f} % of the shorter range, at least {100 * MINIMUM_OVERLAP:.0f} % are "
            "needed; measure points in between"
        )
    means = [_interpolator(method)(axis, answers).integrate(low, high) / (high - low) for axis, answers in sides]
    value = float(means[1] - means[0])
    ends = (float(np.exp(end)) if log_axis else float(end) for end in (low, high))
    return Delta(float(np.expm1(value)) if log_answer else value, *ends, *shares)


def _interpolator(method: Method):
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    return {"pchip": PchipInterpolator, "akima": Akima1DInterpolator}[method]
