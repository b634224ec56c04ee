"""What HFD is to reach here: targets of our own, tried on stored results, and what no results folder can say.

Conventions: rates are bpp of the dataset; PSNR is compared at equal rate, the other curve interpolated in the logarithm of its
rate; ratios and differences are of point estimates, intervals (95 %) are given where a target asks for them. A target is *met*
where every number that was asked for is there and keeps to it, *not met* where one does not, and *not measured* otherwise.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.claims import MSE, Verdict
from hfdbench.analysis.estimate import Estimate
from hfdbench.errors import Unavailable
from hfdbench.results import published
from hfdbench.results.stored import Results

RATES = (0.06, 0.6)  # bpp between which stage 1 is compared
ELIC_DB = 1.5  # how far below the published curve a model trained on CPUs may lie
JPEG_POINTS = ("q12", "q18", "q25")
BY_SCRIPT = "no results folder holds it: {} measures it"


def targets(results: Results | Path, dataset: str, first: int = 10) -> list[Verdict]:
    """Try the targets on what is stored of a dataset.

    Parameters
    ----------
    results : Results or Path
        The stored results, or their folder.
    dataset : str
    first : int
        Number of the first target.

    Returns
    -------
    list of Verdict
        One for each target; its claim says what is asked.
    """
    results = Results.of(results)
    stored = _Stored(results, dataset)
    stage_1, sampled = (
        BY_SCRIPT.format(f"tests/bench/{name}.py") for name in ("measure_stage1", "bench_decoder_held_out")
    )
    rows: list[tuple[str, Callable[[], list[tuple[str, bool]]]]] = [
        (
            "constant and gradient fields: rms error at most 1 grey level (q1: 1.5), no 16-pixel grid",
            _elsewhere(stage_1),
        ),
        ("error of the means of 32-pixel blocks at most 3 % of the MSE, every rate", _elsewhere(stage_1)),
        (
            "elic-mse not below AVIF 4:2:0 in PSNR at equal rate, 0.06 to 0.6 bpp",
            lambda: _against_avif(stored, "elic-mse"),
        ),
        (f"the same: {MSE}", lambda: _against_avif(stored, MSE)),
        (f"elic-mse within {ELIC_DB:g} dB of ELIC's published curve", lambda: _against_elic(stored, "elic-mse")),
        (f"the same: {MSE}", lambda: _against_elic(stored, MSE)),
        (
            "KID at most half its base's at the two lowest rates, PSNR loss under 3 dB: hfd",
            lambda: _halved(stored, "hfd", "elic-mse"),
        ),
        ("the same: hfd-fast", lambda: _halved(stored, "hfd-fast", "elic-mse")),
        ("the same: hfd-avif", lambda: _halved(stored, "hfd-avif", "avif")),
        ("hfd-fast: at most 8 evaluations, KID at most 1.1 of hfd's", lambda: _fast(stored)),
        (
            "KID and FID of hfd below plain grain's, FID's interval at the two lowest rates too",
            lambda: _below_grain(stored, "hfd", "elic-grain"),
        ),
        (f"the same, grain on {MSE}", lambda: _below_grain(stored, "hfd", "mse-grain")),
        ("the same: hfd-fast", lambda: _below_grain(stored, "hfd-fast", "elic-grain")),
        ("the same: hfd-avif", lambda: _below_grain(stored, "hfd-avif", "avif-grain")),
        ("the same: hfd-jpeg", lambda: _below_grain(stored, "hfd-jpeg", "jpeg-grain")),
        ("hfd-jpeg at q12 to q25: KID at most half JPEG's, PSNR at most 0.5 dB below", lambda: _on_jpeg(stored)),
        ("samples: power of every octave 0.8 to 1.2 of the original residual's", _elsewhere(sampled)),
    ]
    made = []
    for number, (asked, measure) in enumerate(rows, first):
        try:
            lines = measure()
        except Unavailable as error:
            made.append(Verdict(number, asked, "not measured", (str(error),)))
            continue
        verdict = "met" if all(kept for _, kept in lines) else "not met"
        made.append(Verdict(number, asked, verdict, tuple(line for line, _ in lines)))
    return made


class _Stored:
    """Points of a dataset, and estimates with intervals, means over all seeds."""

    def __init__(self, results: Results, dataset: str):
        points: Any = results.points()
        self.dataset = dataset
        self.points = points[(points["dataset"] == dataset) & (points["status"] == "ok")]
        self.trials = [t for t in results.newest() if t.row["dataset"] == dataset and t.row["status"] == "ok"]

    def codec(self, codec: str, *columns: str) -> Any:
        """Means of columns by point, a frame in the order of rate. Raises Unavailable where one is missing."""
        rows = self.points[self.points["codec"] == codec]
        if rows.empty:
            raise Unavailable(f"{codec} was not measured on {self.dataset}", "run it")
        means = rows.groupby("point")[list({"bpp", *columns})].mean().sort_values("bpp")
        for column in columns:
            if means[column].isna().any():
                raise Unavailable(
                    f"{codec} has no {column} at {', '.join(means.index[means[column].isna()])}", "hfdbench score"
                )
        return means

    def both(self, a: str, b: str, *columns: str) -> Any:
        """Frame of the points of both codecs, `column` and `column_of_b`. Raises Unavailable where there are none."""
        joined = self.codec(a, *columns).join(self.codec(b, *columns), rsuffix="_of_b", how="inner")
        if joined.empty:
            raise Unavailable(f"{a} and {b} have no point in common on {self.dataset}", "run them")
        return joined

    def estimate(self, codec: str, point: str, column: str) -> Estimate:
        """Raises Unavailable where a trial has no such value."""
        trials = [t for t in self.trials if (t.row["codec"], t.row["point"]) == (codec, point)]
        found = [each for trial in trials if (each := uncertainty.estimate(trial, column)) is not None]
        if not found:
            raise Unavailable(f"{codec} {point} has no interval of {column}", "hfdbench score")
        return Estimate.over_seeds(found)


def _elsewhere(why: str) -> Callable[[], list[tuple[str, bool]]]:
    def measure():
        raise Unavailable(why, "run it")

    return measure


def _above(curve: Any, other: Any, rates: tuple[float, float]) -> Iterable[tuple[str, float, float]]:
    """Point, bpp, and PSNR less the other curve's at that rate, of the points within `rates` and the other's."""
    for point, row in curve.iterrows():
        bpp = float(row["bpp"])
        low, high = max(rates[0], other["bpp"].iloc[0]), min(rates[1], other["bpp"].iloc[-1])
        if low <= bpp <= high:
            there = np.interp(np.log(bpp), np.log(other["bpp"]), other["psnr_db"])
            yield str(point), bpp, float(row["psnr_db"] - there)


def _compared(
    stored: _Stored, codec: str, other: Any, rates: tuple[float, float], least: float
) -> list[tuple[str, bool]]:
    curve = _above(stored.codec(codec, "psnr_db"), other, rates)
    lines = [(f"{codec} {point}, {bpp:.3f} bpp: {gain:+.2f} dB", gain >= least) for point, bpp, gain in curve]
    if not lines:
        raise Unavailable(f"no point of {codec} on {stored.dataset} is at these rates", "run it")
    return lines


def _against_avif(stored: _Stored, codec: str) -> list[tuple[str, bool]]:
    return _compared(stored, codec, stored.codec("avif", "psnr_db"), RATES, 0.0)


def _against_elic(stored: _Stored, codec: str) -> list[tuple[str, bool]]:
    rows: Any = published.read()
    rows = rows[(rows["system"] == "ELIC") & (rows["dataset"] == stored.dataset) & (rows["metric"] == "psnr_db")]
    if rows.empty:
        raise Unavailable(f"ELIC's PSNR on {stored.dataset} was not published", "use kodak")
    curve = rows.rename(columns={"value": "psnr_db"})[["bpp", "psnr_db"]].sort_values("bpp")
    return _compared(stored, codec, curve, (0.0, np.inf), -ELIC_DB)


def _halved(stored: _Stored, codec: str, base: str) -> list[tuple[str, bool]]:
    lines = []
    for point, row in stored.both(codec, base, "kid", "psnr_db").head(2).iterrows():
        ratio, loss = row["kid"] / row["kid_of_b"], row["psnr_db_of_b"] - row["psnr_db"]
        kept = row["kid"] <= 0.5 * row["kid_of_b"] and loss < 3
        lines.append((f"{point}: KID {ratio:.2f} of {base}'s, PSNR {-loss:+.2f} dB", bool(kept)))
    return lines


def _fast(stored: _Stored) -> list[tuple[str, bool]]:
    lines = []
    for point, row in stored.both("hfd-fast", "hfd", "kid", "network_evaluations").iterrows():
        kept = row["kid"] <= 1.1 * row["kid_of_b"] and row["network_evaluations"] <= 8
        shown = f"{row['network_evaluations']:.0f} evaluations, KID {row['kid'] / row['kid_of_b']:.2f} of hfd's"
        lines.append((f"{point}: {shown}", bool(kept)))
    return lines


def _below_grain(stored: _Stored, codec: str, grain: str) -> list[tuple[str, bool]]:
    lines = []
    for place, (point, row) in enumerate(stored.both(codec, grain, "kid", "fid").iterrows()):
        kid, fid = row["kid"] - row["kid_of_b"], row["fid"] - row["fid_of_b"]
        line, kept = f"{point}: KID x 1000 {1000 * kid:+.1f}, FID {fid:+.1f}", kid < 0 and fid < 0
        if place < 2:
            estimates = [stored.estimate(name, str(point), "fid") for name in (codec, grain)]
            low, high = (estimates[0] - estimates[1]).interval()
            line, kept = f"{line} [{low:+.1f}, {high:+.1f}]", kept and high < 0
        lines.append((line, bool(kept)))
    return lines


def _on_jpeg(stored: _Stored) -> list[tuple[str, bool]]:
    rows = stored.both("hfd-jpeg", "jpeg", "kid", "psnr_db")
    missing = [point for point in JPEG_POINTS if point not in rows.index]
    if missing:
        raise Unavailable(f"hfd-jpeg or jpeg has no {', '.join(missing)} on {stored.dataset}", "run them")
    lines = []
    for point, row in rows.loc[list(JPEG_POINTS)].iterrows():
        gain = row["psnr_db"] - row["psnr_db_of_b"]
        kept = row["kid"] <= 0.5 * row["kid_of_b"] and gain >= -0.5
        lines.append((f"{point}: KID {row['kid'] / row['kid_of_b']:.2f} of jpeg's, PSNR {gain:+.2f} dB", bool(kept)))
    return lines
