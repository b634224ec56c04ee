"""Bjøntegaard deltas: how much rate, or how much of a metric, one curve saves over another where both have values.

G. Bjøntegaard 2001, VCEG-M33; with piecewise cubics as in VCEG-AL22 (PCHIP) and Herglotz et al. 2022,
doi:10.1109/TIP.2022.3149236 (Akima), because one cubic through all points overshoots.

Conventions: a curve is its rates (bits per pixel) and values, point by point, in any order; values rise or fall strictly
with the rate, alike in both curves. Rates are integrated in their logarithm; `log_value`: the metric too (FID).
    bd_rate    mean over the common values of log rate(test) - log rate(reference), as a share: -0.2 is 20 % less rate
    bd_metric  mean over the common log rates of test - reference, in the metric's unit; with log_value as a share
Agreement with the package `bjontegaard`: 1e-9, enforced by tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MINIMUM_POINTS = 3
MINIMUM_OVERLAP = 0.25  # of each of the two ranges; below it a delta says little of that curve
Method = Literal["pchip", "akima"]


@dataclass(frozen=True)
class RateCurve:
    """Values of a codec over its rates.

    Parameters
    ----------
    rates : ndarray of float, shape (K,)
        Bits per pixel, in any order.
    values : ndarray of float, shape (K,)
        The metric at each rate.
    """

    rates: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Delta:
    """A Bjøntegaard delta and what it was taken over.

    Parameters
    ----------
    value : float
        The delta: a share of the rate, a share of the metric, or in the metric's unit.
    low, high : float
        What both curves cover, in values (bd_rate) or in bits per pixel (bd_metric).
    share_of_reference, share_of_test : float
        That part of each curve's own range, 0 to 1.
    """

    value: float
    low: float
    high: float
    share_of_reference: float
    share_of_test: float


def bd_rate(reference: RateCurve, test: RateCurve, method: Method = "pchip", log_value: bool = False) -> Delta:
    """Rate that `test` needs more than `reference` for equal values, as a share.

    Parameters
    ----------
    reference, test : RateCurve
        At least 3 points each, strictly rising or falling with the rate.
    method : {"pchip", "akima"}
        The piecewise cubic.
    log_value : bool
        Whether the values are taken in their logarithm.

    Raises
    ------
    ValueError
        The delta is not defined: too few points, a curve that is not monotone, or too small an overlap.
    """
    sides = _pair(reference, test, log_value)
    order = 1 if sides[0][1][-1] > sides[0][1][0] else -1
    sides = [(values[::order], rates[::order]) for rates, values in sides]
    return _delta(sides, method, log_axis=log_value, log_answer=True)


def bd_metric(reference: RateCurve, test: RateCurve, method: Method = "pchip", log_value: bool = False) -> Delta:
    """What `test` has more than `reference` at equal rates; parameters and errors are those of `bd_rate`."""
    return _delta(_pair(reference, test, log_value), method, log_axis=True, log_answer=log_value)


def at_rate(curve: RateCurve, rate: float, log_value: bool = False) -> float:
    """The value of a curve at a rate, by PCHIP in log rate.

    Raises
    ------
    ValueError
        The rate lies outside the curve's, or the curve has fewer than 3 points or two values at one rate.
    """
    rates, values = _checked(curve, log_value, monotone=False)
    if not rates[0] <= np.log(rate) <= rates[-1]:
        low, high = np.exp(rates[[0, -1]])
        raise ValueError(f"rate {rate:.4g} lies outside the curve's {low:.4g} to {high:.4g} bpp")
    value = float(_interpolator("pchip")(rates, values)(np.log(rate)))
    return float(np.exp(value)) if log_value else value


def _checked(curve: RateCurve, log_value: bool, monotone: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Log rates, ascending, and values (or their logs)."""
    rates, values = np.asarray(curve.rates, np.float64), np.asarray(curve.values, np.float64)
    if rates.ndim != 1 or rates.shape != values.shape:
        raise ValueError(f"a curve is one value for each rate, not {values.shape} for {rates.shape}")
    if len(rates) < MINIMUM_POINTS:
        raise ValueError(f"a curve needs at least {MINIMUM_POINTS} points, this one has {len(rates)}")
    if not (np.isfinite(rates).all() and np.isfinite(values).all() and rates.min() > 0):
        raise ValueError("rates must be positive, rates and values finite")
    if log_value and values.min() <= 0:
        raise ValueError(f"a value of {values.min():.4g} has no logarithm")
    order = np.argsort(rates)
    rates, values = rates[order], values[order]
    steps = np.diff(values) * np.sign(values[-1] - values[0])
    for low, high, rate_step, step in zip(rates, rates[1:], np.diff(rates), steps, strict=False):
        if rate_step <= 0:
            raise ValueError(f"two points at one rate, {low:.4g} bpp; leave out one of them")
        if monotone and step <= 0:
            raise ValueError(f"not monotone: no gain from {low:.4g} to {high:.4g} bpp; leave out one of the points")
    return np.log(rates), np.log(values) if log_value else values


def _pair(reference: RateCurve, test: RateCurve, log_value: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    sides = [_checked(curve, log_value) for curve in (reference, test)]
    if len({bool(values[-1] > values[0]) for _, values in sides}) > 1:
        raise ValueError("one curve rises with the rate, the other falls")
    return sides


def _delta(sides: Sequence[tuple[np.ndarray, np.ndarray]], method: Method, log_axis: bool, log_answer: bool) -> Delta:
    """Mean of test's answers less reference's, over the common part of the axis, along which both rise."""
    low, high = max(float(axis[0]) for axis, _ in sides), min(float(axis[-1]) for axis, _ in sides)
    shares = [max(high - low, 0) / float(axis[-1] - axis[0]) for axis, _ in sides]
    if min(shares) < MINIMUM_OVERLAP:
        raise ValueError(
            f"the curves share {100 * shares[0]:.0f} % of the reference's range and {100 * shares[1]:.0f} % of the other's, "
            f"at least {100 * MINIMUM_OVERLAP:.0f} % of both are needed; measure points in between"
        )
    means = [_interpolator(method)(axis, answers).integrate(low, high) / (high - low) for axis, answers in sides]
    value = float(means[1] - means[0])
    ends = [float(np.exp(end)) if log_axis else end for end in (low, high)]
    return Delta(float(np.expm1(value)) if log_answer else value, ends[0], ends[1], shares[0], shares[1])


def _interpolator(method: Method):
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    return {"pchip": PchipInterpolator, "akima": Akima1DInterpolator}[method]
