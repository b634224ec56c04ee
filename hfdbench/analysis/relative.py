"""Curves of a figure relative to one of them at equal rate: ratios of distances, differences of everything else."""

from dataclasses import replace

import numpy as np

from hfdbench.analysis.bd import RateCurve, at_rate
from hfdbench.analysis.curves import Axis, Curve, FigureData
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.metrics.registry import METRICS


def relative(data: FigureData, reference: str) -> FigureData:
    """Hold every curve against a reference codec, interpolated at the curve's own rates.

    A metric that is interpolated on a logarithmic scale (FID and its kin) becomes value / reference, any other value -
    reference. Intervals are not drawn: those of a ratio are not those of its numerator.

    Parameters
    ----------
    data : FigureData
        A figure over bpp.
    reference : str
        Id of one of its codecs.

    Returns
    -------
    FigureData
        Points outside the reference's rates are left out, and named in the notes.

    Raises
    ------
    UsageError
        When the figure is not over bpp, or the codec is none of its own.
    Unavailable
        When the reference has a single point, or the curves share no rates.
    """
    column = data.y.column
    if data.x.column != "bpp" or column not in METRICS:
        raise UsageError(f'figure "{data.id}": a panel relative to {reference} needs x = "bpp" and a metric as y')
    curves = {curve.codec: curve for curve in data.curves}
    if reference not in curves:
        raise unknown(f'codec in figure "{data.id}"', reference, curves)
    base = curves[reference]
    if len(base.x) < 2:
        raise Unavailable(
            f'figure "{data.id}": {reference} has one point, nothing to interpolate', "choose another reference"
        )
    ratio = METRICS[column].scale == "log"
    rate_curve = RateCurve(np.array(base.x), np.array(base.y))
    notes: list[str] = []

    def against(x: tuple[float, ...], y: tuple[float, ...]) -> tuple[list[int], list[float]]:
        kept, values = [], []
        for place, (rate, value) in enumerate(zip(x, y, strict=True)):
            try:
                there = base.y[base.x.index(rate)] if rate in base.x else at_rate(rate_curve, rate, ratio)
            except ValueError:
                continue
            kept.append(place)
            values.append(value / there if ratio else value - there)
        return kept, values

    made: list[Curve] = []
    for curve in data.curves:
        kept, values = against(curve.x, curve.y)
        outside = [point for place, point in enumerate(curve.points) if place not in kept]
        if outside:
            notes.append(f"{curve.codec} {', '.join(outside)}: outside {reference}'s rates")
        if kept:
            made.append(
                replace(
                    curve,
                    points=tuple(curve.points[place] for place in kept),
                    x=tuple(curve.x[place] for place in kept),
                    y=tuple(values),
                    band=(None,) * len(kept),
                    joined=(tuple(range(len(kept))),),
                )
            )
    if len(made) < 2:
        raise Unavailable(f'figure "{data.id}": no codec shares rates with {reference}', "choose another reference")
    overlays = []
    for overlay in data.overlays:
        kept, values = against(overlay.x, overlay.y)
        if kept:
            pick = {name: tuple(getattr(overlay, name)[k] for k in kept) for name in ("points", "x", "x_plus_minus")}
            overlays.append(replace(overlay, **pick, y=tuple(values), y_plus_minus=(0.0,) * len(kept)))
    name = METRICS[column].name
    unit = "" if METRICS[column].unit == "1" else f" ({METRICS[column].unit})"
    arrow = "↓" if METRICS[column].direction == "lower" else "↑"
    title = f"{name} / {base.title} {arrow}" if ratio else f"{name} − {base.title}{unit} {arrow}"
    return replace(
        data,
        y=Axis(column, title, log=ratio),
        curves=tuple(made),
        notes=tuple(notes),
        overlays=tuple(overlays),
        ties=(),
    )
