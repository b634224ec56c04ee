"""A comparison of two codecs as sentences and tables, or as JSON."""

import json

import numpy as np

from hfdbench.analysis.compare import CodecComparison
from hfdbench.metrics.registry import METRICS
from hfdbench.report.tables import render
from hfdbench.report.text import to_json as dumps


def text(comparison: CodecComparison) -> str:
    """Sentences, then the tables.

    Parameters
    ----------
    comparison : CodecComparison
        What `analysis.compare.compare_codecs` found.

    Returns
    -------
    str
        Ends in a newline.
    """
    a, b = comparison.a, comparison.b
    level = f"{100 * comparison.level:g} %"
    head = f"{a} against {b} on {comparison.dataset}; {level} intervals over images, verdicts at {level} for all rows together"
    lines = [head, *(_gain(row, a, b) for row in comparison.points.to_dict("records"))]
    lines += [_delta(row) for row in comparison.deltas.to_dict("records")]
    tables = [render(frame) for frame in (comparison.points, comparison.deltas) if len(frame)]
    return "\n".join([*lines, "", "\n".join(tables)])


def to_json(comparison: CodecComparison) -> str:
    """Everything as JSON, unrounded."""
    head = {name: getattr(comparison, name) for name in ("a", "b", "dataset", "level", "notes")}
    frames = {name: json.loads(render(getattr(comparison, name), "json")) for name in ("points", "deltas")}
    return dumps(head | frames, indent=2) + "\n"


def _gain(row: dict, a: str, b: str) -> str:
    unit = " ".join(filter(None, (METRICS[row["metric"]].unit_or_none, METRICS[row["metric"]].name)))
    where = f"  at {row['bpp']:.4f} bpp {a}"
    if row["gain"] == 0:
        return f"{where} equals {b} in {METRICS[row['metric']].name} {_interval(row)}"
    what = "better" if row["gain"] > 0 else "worse"
    return f"{where} is {what} than {b} by {abs(row['gain']):.3g} {unit} {_interval(row, np.sign(row['gain']))}"


def _delta(row: dict) -> str:
    name, low, high = METRICS[row["metric"]].name, row["low"], row["high"]
    if row["delta"] == "bd_rate":
        what = f"BD-rate {row['value']:+.1f} % for equal {name}, {low:.4g} to {high:.4g}"
    else:
        unit = f" {row['unit']}" if row["unit"] else ""
        what = f"BD-{name} {row['value']:+.3g}{unit} at equal rate, {low:.4g} to {high:.4g} bpp"
    return f"  {what} {_interval(row)}"


def _interval(row: dict, sign: float = 1) -> str:
    if np.isnan(row["lo"]):
        return "(no interval)"
    low, high = sorted((sign * row["lo"], sign * row["hi"]))
    return f"[{low:.3g}, {high:.3g}]" + f" (open: {row['why']})" * (row["verdict"] == "open")
