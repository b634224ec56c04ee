"""Points at matched rates: what decoders make of the same streams, and who else spends as many bits.

Conventions: rates match within MATCHED of each other. A decoder shares the streams of its base, the codec that its card names
in `streams`, under the same point ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from hfdbench.analysis.curves import Arrow, FigureData
from hfdbench.cards.schema import CodecCard
from hfdbench.errors import Unavailable

MATCHED = 0.05  # share of the base's rate


def base_of(points: pd.DataFrame, cards: Mapping[str, CodecCard]) -> tuple[str, list[str]]:
    """The codec whose streams most of the measured codecs decode, and these decoders.

    Raises
    ------
    Unavailable
        When no measured codec decodes the streams of another one.
    """
    measured = set(points["codec"])
    decoders: dict[str, list[str]] = {}
    for codec in sorted(measured):
        card = cards.get(codec)
        if card is not None and card.streams in measured and card.streams is not None:
            decoders.setdefault(card.streams, []).append(codec)
    if not decoders:
        raise Unavailable("no measured codec decodes another's streams", "hfdbench run --codec elic-mse --codec hfd")
    base = max(sorted(decoders), key=lambda codec: len(decoders[codec]))
    return base, decoders[base]


def at_rates(points: pd.DataFrame, base: str, rates: Sequence[float]) -> tuple[pd.DataFrame, list[float]]:
    """Points whose rate matches one of the base's.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table, of one dataset.
    base : str
        Id of the codec whose rates are taken.
    rates : sequence of float
        Bits per pixel; the nearest points of the base are taken. Empty: the one in the middle.

    Returns
    -------
    points : DataFrame
        The rows that match.
    taken : list of float
        The rates of the base that were taken.
    """
    own = points.loc[(points["codec"] == base) & (points["status"] == "ok"), "bpp"].sort_values()
    taken = [own.iloc[(own - rate).abs().argmin()] for rate in rates] if rates else [own.iloc[len(own) // 2]]
    matches = pd.Series(False, index=points.index)
    for rate in taken:
        matches |= (points["bpp"] / rate - 1).abs() <= MATCHED
    return points.loc[matches], sorted({float(rate) for rate in taken})


def with_arrows(data: FigureData, base: str, decoders: Sequence[str]) -> FigureData:
    """The figure with an arrow from each point of the base to the decodings of its streams, and no lines."""
    origin = next((curve for curve in data.curves if curve.codec == base), None)
    arrows = []
    for curve in data.curves:
        if origin is None or curve.codec not in decoders:
            continue
        for point, x, y in zip(curve.points, curve.x, curve.y, strict=True):
            if point in origin.points:
                place = origin.points.index(point)
                arrows.append(Arrow(curve.codec, (origin.x[place], origin.y[place]), (x, y)))
    curves = tuple(replace(curve, joined=()) for curve in data.curves)
    return replace(data, curves=curves, ties=(), arrows=tuple(arrows))
