"""Is codec A better than codec B at equal rate, by how much, and is that more than the choice of images?

Conventions: a gain is positive where A is better, in the metric's unit. At each of A's points, B is taken at the same
stream where the two share streams, else from its curve at A's rate, by PCHIP in log rate (FID in its logarithm). Deltas are
those of `metrics.bd`, A against B; a negative BD-rate is rate saved. Intervals: the image-clustered bootstrap of
`report.uncertainty`; rates and metrics of both codecs see the same draws, and interpolation and integration are done anew
in each. `verdict` is "open" where the interval holds 0, null where there is none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hfdbench.analysis import bootstrap
from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.bd import Delta, RateCurve, at_rate, bd_metric, bd_rate
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.registry import METRICS
from hfdbench.results.stored import Results, StoredTrial

DEFAULT = ("psnr_db", "fid")
LOST = 0.05  # share of the draws that may have no value, because curves barely meet, before the interval is withheld


@dataclass(frozen=True)
class CodecComparison:
    """`points`: a row per metric and point of A; `deltas`: a row per metric and kind of delta; `notes`: what is missing."""

    a: str
    b: str
    dataset: str
    level: float
    draws: int
    points: pd.DataFrame
    deltas: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """A codec's points, K, by rate: values, and the same in each of M draws, M x K."""

    trials: tuple[StoredTrial, ...]
    rates: np.ndarray
    values: np.ndarray
    drawn_rates: np.ndarray
    drawn_values: np.ndarray

    def curve(self, draw: int | None) -> RateCurve:
        """The curve itself, or that of a draw."""
        if draw is None:
            return RateCurve(self.rates, self.values)
        return RateCurve(self.drawn_rates[draw], self.drawn_values[draw])


def compare_codecs(
    out: Path,
    a: str,
    b: str,
    *,
    metrics: Iterable[str] | None = None,
    dataset: str | None = None,
    level: float = 0.95,
    draws: int = 300,
) -> CodecComparison:
    """Compare two stored codecs on one dataset. Raises UsageError when there is nothing to compare."""
    if not 0 < level < 1:
        raise UsageError(f"--level {level}: must lie between 0 and 1")
    known = tuple(column for column in uncertainty.COLUMNS if column in METRICS and column != "bpp")
    for metric in metrics or ():
        if metric not in known:
            raise unknown("metric that can be compared", metric, known)
    results = Results.of(out)
    results.points()  # refuses a folder without any
    trials = [trial for trial in results.trials() if trial.row["status"] == "ok"]
    dataset = _dataset(trials, a, b, dataset)
    chosen = [_chosen(trials, codec, dataset) for codec in (a, b)]
    images = {trial.images for side in chosen for trial in side}
    if len(images) > 1:
        raise UsageError(
            f"{a} and {b} have results over {' and '.join(map(str, sorted(images)))} images; run them again"
        )
    points, deltas, notes = [], [], []
    for metric in metrics or DEFAULT:
        try:
            first, second = (_side(side, codec, metric, draws) for codec, side in zip((a, b), chosen, strict=True))
            _refuse_mixed(first, second, metric)
        except ValueError as error:
            notes.append(f"{metric}: {error}")
            continue
        points += _points(first, second, metric, level, notes)
        deltas += _deltas(first, second, metric, level, notes)
    if not points and not deltas:
        raise UsageError(f"{a} and {b} cannot be compared on {dataset}: {'; '.join(notes)}")
    return CodecComparison(a, b, dataset, level, draws, pd.DataFrame(points), pd.DataFrame(deltas), tuple(notes))


def _dataset(trials: list[StoredTrial], a: str, b: str, wanted: str | None) -> str:
    """The one dataset that both have results of."""
    measured = {}
    for trial in trials:
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


def _chosen(trials: list[StoredTrial], codec: str, dataset: str) -> list[StoredTrial]:
    """A codec's trials of the lowest seed, by rate."""
    mine = [trial for trial in trials if trial.row["codec"] == codec and trial.row["dataset"] == dataset]
    mine = [trial for trial in mine if trial.row["seed"] == min(other.row["seed"] for other in mine)]
    names = [trial.row["point"] for trial in mine]
    for name in names:
        if names.count(name) > 1:
            same = ", ".join(trial.name for trial in mine if trial.row["point"] == name)
            raise UsageError(
                f"{codec} {name} on {dataset} is stored more than once ({same}); delete the outdated points"
            )
    return sorted(mine, key=lambda trial: trial.row["bpp"])


def _side(trials: list[StoredTrial], codec: str, metric: str, draws: int) -> _Side:
    drawn = [(trial, uncertainty.draw(trial, "bpp", draws), uncertainty.draw(trial, metric, draws)) for trial in trials]
    drawn = [entry for entry in drawn if entry[1] is not None and entry[2] is not None]
    if not drawn:
        raise ValueError(f"{codec} has none; hfdbench show --codec {codec} --columns all says why")
    trials, rates, values = zip(*drawn, strict=True)
    return _Side(
        trials,
        np.array([trial.row["bpp"] for trial in trials]),
        np.array([trial.row[metric] for trial in trials]),
        np.stack(rates, axis=1),
        np.stack(values, axis=1),
    )


def _refuse_mixed(a: _Side, b: _Side, metric: str) -> None:
    column = METRICS[metric].identity
    ids = {trial.row[column] for side in (a, b) for trial in side.trials} if column else set()
    if len(ids) > 1:
        raise ValueError(
            f"fingerprints differ ({', '.join(sorted(ids))}); score all with the same weights (hfdbench score)"
        )


def _points(a: _Side, b: _Side, metric: str, level: float, notes: list[str]) -> list[dict]:
    sign = 1 if METRICS[metric].direction == "higher" else -1
    streams = {trial.stream_key: k for k, trial in enumerate(b.trials)}
    rows, outside = [], []
    for k, trial in enumerate(a.trials):
        shared = streams.get(trial.stream_key)

        def other(draw: int | None, k: int = k, shared: int | None = shared) -> float:
            curve = b.curve(draw)
            if shared is not None:
                return curve.values[shared]
            return at_rate(curve, a.curve(draw).rates[k], METRICS[metric].scale == "log")

        try:
            value = other(None)
        except ValueError:
            outside.append(trial.row["point"])
            continue
        gains = _each_draw(
            lambda draw, k=k, other=other: sign * (a.drawn_values[draw, k] - other(draw)), len(a.drawn_values)
        )
        row = {"metric": metric, "point": trial.row["point"], "bpp": a.rates[k], "a": a.values[k], "b": value}
        rows.append(
            row
            | {"gain": sign * (a.values[k] - value)}
            | _judged(gains, level, good=1)
            | {"by": "interpolated" if shared is None else "shared streams"}
        )
    if outside:
        notes.append(f"{metric}: the other's rates do not reach {', '.join(outside)}")
    return rows


def _deltas(a: _Side, b: _Side, metric: str, level: float, notes: list[str]) -> list[dict]:
    log = METRICS[metric].scale == "log"
    rows = []
    for name, function in (("bd_rate", bd_rate), ("bd_metric", bd_metric)):
        try:
            delta, akima = (function(b.curve(None), a.curve(None), method, log) for method in ("pchip", "akima"))
        except ValueError as error:
            notes.append(f"{metric}: no {name}: {error}")
            continue
        share = log or name == "bd_rate"
        scale = 100 if share else 1

        def drawn(draw: int, function: Callable[..., Delta] = function, scale: float = scale) -> float:
            return scale * function(b.curve(draw), a.curve(draw), "pchip", log).value

        good = -1 if name == "bd_rate" or METRICS[metric].direction == "lower" else 1
        rows.append(
            {
                "metric": metric,
                "delta": name,
                "unit": "%" if share else METRICS[metric].unit_or_none,
                "value": scale * delta.value,
            }
            | _judged(_each_draw(drawn, len(a.drawn_values)), level, good)
            | {"akima": scale * akima.value, "low": delta.low, "high": delta.high}
            | {"overlap_a": delta.share_of_test, "overlap_b": delta.share_of_reference}
        )
    return rows


def _each_draw(function: Callable[[int], float], count: int) -> np.ndarray:
    """The function's values; NaN in draws whose curves do not meet."""
    values = np.full(count, np.nan)
    for draw in range(count):
        try:
            values[draw] = function(draw)
        except ValueError:
            continue
    return values


def _judged(samples: np.ndarray, level: float, good: int) -> dict:
    """Interval and verdict; none where more than LOST of the samples are missing."""
    there = samples[np.isfinite(samples)]
    if len(there) < (1 - LOST) * len(samples):
        return {"lo": np.nan, "hi": np.nan, "verdict": None}
    low, high = bootstrap.interval(there, level)
    verdict = "open" if low <= 0 <= high else "better" if (low > 0) == (good > 0) else "worse"
    return {"lo": low, "hi": high, "verdict": verdict}
