"""Is codec A better than codec B at equal rate, by how much, and is that more than the choice of images?

Conventions
    gain       positive where A is better, in the metric's unit. At each of A's points B is taken at the same stream where
               the two share streams, else from its curve at A's rate, by PCHIP in log rate (Fréchet distances in their
               logarithm). Deltas are those of `analysis.bd`, A against B; a negative BD-rate is rate saved.
    interval   of `analysis.estimate`, over images: rates and metrics of both codecs lose the same image at a time, and
               interpolation and integration are done anew. Several seeds of a decoder are averaged, and their spread counts.
    verdict    of all rows of one comparison at once (Holm): two codecs that are equal get a wrong verdict anywhere in at most
               1 - level of all comparisons. "better", "worse", "equal" (no image says otherwise), or "open", and `why`; null
               where there is no interval. One on a Fréchet distance is given only where the KID of the same features, which
               does not depend on the number of patches, does not have the other sign.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.bd import Delta, RateCurve, at_rate, bd_metric, bd_rate
from hfdbench.analysis.caveats import authors, caveats, fewest_images, is_frechet, kid_sign, one_seed
from hfdbench.analysis.estimate import Estimate, holm
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.registry import METRICS
from hfdbench.results.stored import Results, StoredTrial

DEFAULT = ("psnr_db", "fid")
NOISE = 1e-6  # a Fréchet distance below it is one of equal features, and rounding
BY_CHANCE, AMONG_ALL, FEW = "not more than chance", "not more than chance among all rows", "too few images"
SIGN = "KID has the other sign: the number of patches decides it"
EDGE = "without one of the images the curves do not give it"
VALUE = {"bd_rate": bd_rate, "bd_metric": bd_metric}


@dataclass(frozen=True)
class CodecComparison:
    """Two codecs on one dataset.

    Parameters
    ----------
    a, b, dataset : str
        Ids.
    level : float
        Of the intervals, and of all verdicts together.
    points : DataFrame
        A row per metric and point of A: metric, point, bpp, a, b, gain, lo, hi, verdict, why, by.
    deltas : DataFrame
        A row per metric and kind of delta: metric, delta, unit, value, lo, hi, verdict, why, akima, low, high,
        overlap_a, overlap_b.
    notes : tuple of str
        What was left out, and what a reader must know.
    """

    a: str
    b: str
    dataset: str
    level: float
    points: pd.DataFrame
    deltas: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Point:
    """A point of a codec over its seeds: rate, value and, for a Fréchet distance, the KID of the same features."""

    name: str
    stream_key: str
    rate: Estimate
    value: Estimate
    kid: float


@dataclass(frozen=True)
class _Row:
    """A row in the making: its estimate, the sign that is good for A, the sign that KID gives (0: it says nothing)."""

    metric: str
    start: dict
    estimate: Estimate | None
    good: int
    kid_sign: float
    end: dict


def compare_codecs(
    results: Results | Path,
    a: str,
    b: str,
    *,
    metrics: Iterable[str] | None = None,
    dataset: str | None = None,
    level: float = 0.95,
) -> CodecComparison:
    """Compare two stored codecs.

    Parameters
    ----------
    results : Results or Path
        The stored results, or their folder.
    a, b : str
        Ids of the codecs.
    metrics : iterable of str, optional
        Columns to compare; DEFAULT when not given.
    dataset : str, optional
        Needed where both have results of several.
    level : float
        Of the intervals, and of all verdicts together.

    Raises
    ------
    UsageError
        There is nothing to compare, or something asked for is not known.
    """
    if not 0 < level < 1:
        raise UsageError(f"--level {level}: must lie between 0 and 1")
    known = tuple(column for column in uncertainty.COLUMNS if column in METRICS and column != "bpp")
    for metric in metrics or ():
        if metric not in known:
            raise unknown("metric that can be compared", metric, known)
    metrics = tuple(metrics or DEFAULT)
    results = Results.of(results)
    results.points()  # refuses a folder without any
    dataset = _dataset(results.trials(), a, b, dataset)
    notes: list[str] = []
    chosen = [_chosen(results.trials(), codec, dataset, notes) for codec in (a, b)]
    images = {trial.images for side in chosen for trial in side}
    if len(images) > 1:
        raise UsageError(
            f"{a} and {b} have results over {' and '.join(map(str, sorted(images)))} images; run them again"
        )
    rows: list[_Row] = []
    for metric in metrics:
        try:
            _refuse_mixed([trial for side in chosen for trial in side], metric)
            first, second = (_side(side, codec, metric, notes) for codec, side in zip((a, b), chosen, strict=True))
        except ValueError as error:
            notes.append(f"{metric}: {error}")
            continue
        rows += _gains(first, second, metric, notes) + _deltas(first, second, metric, notes)
    if not rows:
        raise UsageError(f"{a} and {b} cannot be compared on {dataset}: {'; '.join(notes)}")
    every = [trial.row for side in chosen for trial in side]
    notes += [*authors(every), *caveats(every, metrics), *one_seed(every)]
    judged = _judged(rows, level)
    points, deltas = (
        [r for r, row in zip(judged, rows, strict=True) if kind in row.start] for kind in ("point", "delta")
    )
    return CodecComparison(
        a, b, dataset, level, pd.DataFrame(points), pd.DataFrame(deltas), tuple(dict.fromkeys(notes))
    )


def _dataset(trials: Iterable[StoredTrial], a: str, b: str, wanted: str | None) -> str:
    """The one dataset that both have results of."""
    measured: dict[str, set[str]] = {}
    for trial in trials:
        if trial.row["status"] == "ok":
            measured.setdefault(trial.row["codec"], set()).add(trial.row["dataset"])
    for codec in (a, b):
        if codec not in measured:
            raise unknown("measured codec", codec, measured)
    both = measured[a] & measured[b]
    if wanted is not None and wanted not in both:
        raise unknown(f"dataset that both {a} and {b} have results of", wanted, both)
    if not both:
        raise UsageError(f"{a} and {b} have no dataset in common; run one of them on a dataset of the other")
    if wanted is None and len(both) > 1:
        raise UsageError(f"{a} and {b} have results of {', '.join(sorted(both))}; choose with --dataset")
    return wanted or both.pop()


def _chosen(trials: Iterable[StoredTrial], codec: str, dataset: str, notes: list[str]) -> list[StoredTrial]:
    """A codec's whole trials, by rate; `notes` names the others."""
    mine = [trial for trial in trials if trial.row["codec"] == codec and trial.row["dataset"] == dataset]
    for trial in mine:
        if trial.row["status"] != "ok":
            failed = f"{trial.row['failed']} of {trial.images + trial.row['failed']} images failed"
            notes.append(f"{codec} {trial.row['point']} is left out: {failed}; hfdbench run does them again")
    mine = [trial for trial in mine if trial.row["status"] == "ok"]
    names = [(trial.row["point"], trial.row["seed"]) for trial in mine]
    for name in names:
        if names.count(name) > 1:
            same = ", ".join(trial.name for trial in mine if (trial.row["point"], trial.row["seed"]) == name)
            raise UsageError(
                f"{codec} {name[0]} on {dataset} is stored more than once ({same}); delete the outdated points"
            )
    return sorted(mine, key=lambda trial: trial.row["bpp"])


def _side(trials: list[StoredTrial], codec: str, metric: str, notes: list[str]) -> list[_Point]:
    """A codec's points that have the metric, by rate; `notes` names the others."""
    seeds: dict[str, list[StoredTrial]] = {}
    for trial in trials:
        seeds.setdefault(trial.row["point"], []).append(trial)
    points = []
    for name, same in seeds.items():
        rates = [uncertainty.estimate(trial, "bpp") for trial in same]
        values = [uncertainty.estimate(trial, metric) for trial in same]
        rates, values = [rate for rate in rates if rate is not None], [value for value in values if value is not None]
        if len(rates) < len(same) or len(values) < len(same):
            lossless = same[0].row[metric] is None and same[0].row["identical"] == same[0].images
            why = "every image equals its original" if lossless else f"no {metric}, or no images stored behind it"
            notes.append(f"{metric}: {codec} {name} is left out: {why}")
        elif METRICS[metric].scale == "log" and min(value.value for value in values) < NOISE:
            notes.append(f"{metric}: {codec} {name} is left out: a distance of 0 has no logarithm")
        else:
            kid = (
                float(np.mean([uncertainty.kernel_distance(trial, metric) for trial in same]))
                if is_frechet(metric)
                else np.nan
            )
            rate, value = Estimate.over_seeds(rates), Estimate.over_seeds(values)
            points.append(_Point(name, same[0].stream_key, rate, value, kid))
    if not points:
        raise ValueError(f"{codec} has none; hfdbench show --codec {codec} --columns all says why")
    return sorted(points, key=lambda point: point.rate.value)


def _refuse_mixed(trials: Iterable[StoredTrial], metric: str) -> None:
    column = METRICS[metric].identity
    if column is None:
        return
    ids = {trial.row[column] for trial in trials if trial.row[metric] is not None}
    if len(ids) > 1:
        listed = ", ".join(sorted(str(each) for each in ids))
        raise ValueError(f"fingerprints differ ({listed}); score all with the same weights (hfdbench score)")


def _gains(a: list[_Point], b: list[_Point], metric: str, notes: list[str]) -> list[_Row]:
    """A row per point of A."""
    sign = 1 if METRICS[metric].direction == "higher" else -1
    log = METRICS[metric].scale == "log"
    streams = {point.stream_key: point for point in b}
    rows: list[_Row] = []
    without: dict[str, list[str]] = {}
    for point in a:
        shared = streams.get(point.stream_key)
        if shared is not None:
            other, kid = shared.value.value, shared.kid
            gain = point.value - shared.value
        else:
            rates, values = [each.rate for each in b], [each.value for each in b]
            try:
                other = at_rate(_curve([r.value for r in rates], [v.value for v in values]), point.rate.value, log)
            except ValueError as error:
                without.setdefault(_why(error, b), []).append(point.name)
                continue
            kid = _or_nan(at_rate, _curve([r.value for r in rates], [each.kid for each in b]), point.rate.value)
            gain = _or_none(partial(_difference_at, count=len(b), log=log), [point.rate, point.value, *rates, *values])
            if gain is None:
                notes.append(f"{metric}: {point.name} has no interval: {EDGE}")
        rows.append(
            _Row(
                metric,
                {"metric": metric, "point": point.name, "bpp": point.rate.value, "a": point.value.value, "b": other}
                | {"gain": sign * (point.value.value - other)},
                -gain if gain is not None and sign < 0 else gain,
                1,
                kid_sign(kid, point.kid),
                {"by": "interpolated" if shared is None else "shared streams"},
            )
        )
    notes += [f"{metric}: {', '.join(names)}: {why}" for why, names in without.items()]
    return rows


def _why(error: ValueError, b: list[_Point]) -> str:
    """Why the other's curve has no value at a rate, in words that hold for several rates."""
    low, high = b[0].rate.value, b[-1].rate.value
    return (
        f"the other's rates, {low:.4g} to {high:.4g} bpp, do not reach" if "lies outside" in str(error) else str(error)
    )


def _or_none(function: Callable[..., float], estimates: list[Estimate]) -> Estimate | None:
    """The estimate of a function; None where it is not defined without one of the images."""
    try:
        return Estimate.of_function(function, estimates)
    except ValueError:
        return None


def _difference_at(rate: float, value: float, *curve: float, count: int, log: bool) -> float:
    """A's value less that of B's curve (count rates, then count values) at A's rate."""
    return value - at_rate(_curve(curve[:count], curve[count:]), rate, log)


def _curve(rates: Iterable[float], values: Iterable[float]) -> RateCurve:
    return RateCurve(np.array(list(rates)), np.array(list(values)))


def _or_nan(function: Callable[..., float], *arguments: object) -> float:
    try:
        return function(*arguments)
    except ValueError:
        return np.nan


def _deltas(a: list[_Point], b: list[_Point], metric: str, notes: list[str]) -> list[_Row]:
    """The BD-rate and the BD of the metric, as far as they are defined."""
    log = METRICS[metric].scale == "log"
    rows = []
    for name, function in VALUE.items():
        share = log or name == "bd_rate"
        scale = 100 if share else 1
        both = [*(p.rate for p in b), *(p.value for p in b), *(p.rate for p in a), *(p.value for p in a)]
        delta = partial(_delta, function=function, count=len(b), log=log)
        try:
            whole = delta(*(each.value for each in both))
            akima = delta(*(each.value for each in both), method="akima")
        except ValueError as error:
            notes.append(f"{metric}: no {name}: {error}")
            continue
        estimate = _or_none(lambda *v, delta=delta, scale=scale: scale * delta(*v).value, both)
        if estimate is None:
            notes.append(f"{metric}: {name} has no interval: {EDGE}")
        good = -1 if name == "bd_rate" or METRICS[metric].direction == "lower" else 1
        kid = _or_nan(lambda: _delta(*_with_kid(b), *_with_kid(a), function=bd_metric, count=len(b), log=False).value)
        rows.append(
            _Row(
                metric,
                {
                    "metric": metric,
                    "delta": name,
                    "unit": "%" if share else METRICS[metric].unit_or_none,
                    "value": scale * whole.value,
                },
                estimate,
                good,
                kid_sign(kid, 0.0) if is_frechet(metric) else 0.0,
                {"akima": scale * akima.value, "low": whole.low, "high": whole.high}
                | {"overlap_a": whole.share_of_test, "overlap_b": whole.share_of_reference},
            )
        )
    return rows


def _with_kid(points: list[_Point]) -> list[float]:
    return [*(point.rate.value for point in points), *(point.kid for point in points)]


def _delta(*values: float, function: Callable[..., Delta], count: int, log: bool, method: str = "pchip") -> Delta:
    """Of B's rates and values, `count` each, and A's."""
    theirs, ours = values[: 2 * count], values[2 * count :]
    half = len(ours) // 2
    return function(_curve(theirs[:count], theirs[count:]), _curve(ours[:half], ours[half:]), method, log)


def _judged(rows: list[_Row], level: float) -> list[dict]:
    """The rows with interval, verdict and why."""
    adjusted = holm([np.nan if row.estimate is None else row.estimate.p_differs() for row in rows])
    found = []
    for row, p in zip(rows, adjusted, strict=True):
        estimate = row.estimate
        if estimate is None or np.isnan(p):
            judged = {"lo": np.nan, "hi": np.nan, "verdict": None, "why": "no interval"}
        else:
            low, high = estimate.interval(level)
            verdict, why = "open", ""
            if estimate.value == 0 and estimate.standard_error == 0:
                verdict = "equal"
            elif p > 1 - level:
                why = BY_CHANCE if low <= 0 <= high else AMONG_ALL
            elif estimate.images < fewest_images(row.metric):
                why = FEW
            elif row.kid_sign and row.kid_sign != np.sign(estimate.value):
                why = SIGN
            else:
                verdict = "better" if (estimate.value > 0) == (row.good > 0) else "worse"
            judged = {"lo": low, "hi": high, "verdict": verdict, "why": why}
        found.append(row.start | judged | row.end)
    return found
