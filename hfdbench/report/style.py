"""How codecs look: a colour, a marker and a line for each, the same in every figure of a report; published systems are hollow.

Conventions: the kind of a codec (classical, autoencoder, gan, diffusion, flow, other) gives its line and its family of colours.
Marks are filled for what hfdbench decoded itself and hollow for pixels that somebody else made. Sizes in points.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import seaborn as sns

from hfdbench.analysis.curves import PIXELS
from hfdbench.cards.schema import CodecCard
from hfdbench.report.fonts import FIRST


@dataclass(frozen=True)
class Style:
    """How a kind of codec is drawn. Colours and markers are taken together, in order.

    Parameters
    ----------
    dash : str or tuple
        Line style of Matplotlib.
    width : float
        Of the line, in points.
    colours : tuple of str
        Of its codecs, "#rrggbb".
    markers : str
        Of its codecs, one character each.
    """

    dash: tuple | str
    width: float
    colours: tuple[str, ...]
    markers: str


# Hues after Okabe & Ito 2008 and Tol 2021 (safe for colour-blind readers): cool for what is built by hand, warm for
# what is learned; markers and dashes tell curves apart in black and white.
STYLES = {
    "classical": Style(
        (0, (3.2, 1.4)),
        1.0,
        ("#0072B2", "#56B4E9", "#009E73", "#332288", "#999933", "#7F7F7F", "#9467BD", "#1F4E3D"),
        "osD^vPX<",
    ),
    "autoencoder": Style("solid", 1.1, ("#000000", "#E69F00", "#8C564B", "#C49C94", "#5B3A1E"), "s^oDv"),
    "gan": Style((0, (5, 1, 1, 1)), 1.2, ("#AA4499", "#6A1B4D", "#CC79A7", "#7B5EA7"), "Dpv^"),
    "diffusion": Style("solid", 1.5, ("#D55E00", "#A50026", "#FF8C69", "#7A3B00", "#E8A33D", "#C2185B"), "*Ph^s8"),
    "flow": Style((0, (7, 1)), 1.4, ("#EE3377", "#994F88", "#CC6677"), "X*d"),
    "other": Style((0, (1.2, 1.2)), 1.2, ("#117733", "#44AA99", "#661100", "#5D5D5D"), "o^sD"),
}
HOLLOW = (*"os^Dv>p<hPX8d*H", (4, 1, 0), (6, 1, 0), (4, 1, 45))
HOLLOW_COLOUR = "#4A4A4A"
QUIET = "#B8B8B8"
PARTS = ("#A50026", "#E8A33D", "#4E79A7", "#7F7F7F", "#59A14F", "#9467BD")  # of a stream, in its order
MARKER_SIZE: dict[str | tuple, float] = {"P": 4.2, "X": 4.2, "*": 6.5}  # a star covers less than a square as wide

RC: dict[Any, Any] = {  # Matplotlib declares the names of its settings as literals
    **sns.axes_style("ticks"),
    "font.family": list(FIRST),
    "text.parse_math": False,  # titles are others' text: a dollar sign is a dollar sign
    "axes.linewidth": 0.6,
    **{f"{axis}tick.{key}": size for axis in "xy" for key, size in (("major.width", 0.6), ("major.size", 2.6))},
    **{f"{axis}tick.{key}": size for axis in "xy" for key, size in (("minor.width", 0.4), ("minor.size", 1.5))},
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "hfdbench",
}


@dataclass(frozen=True)
class Ink:
    """Colour, marker and line of one codec.

    Parameters
    ----------
    colour : str
        "#rrggbb".
    marker : str
        Of Matplotlib.
    style : Style
        Its kind's.
    hollow : bool
        Whether its pixels were made by somebody else (badge "author's pixels").
    quiet : bool
        Whether it stands behind a codec in focus: thin, grey, named in small letters.
    """

    colour: str
    marker: str
    style: Style
    hollow: bool = False
    quiet: bool = False


def kinds_of(cards: Iterable[CodecCard]) -> dict[str, str]:
    """Kind of every codec by id, in the order in which they choose their colours: those first that were tried.

    A card of a codec that nobody could try here recolours none of the others.
    """
    return {card.id: card.kind for card in sorted(cards, key=lambda card: (bool(card.untried), card.id))}


def inks(points: pd.DataFrame, known: Mapping[str, str] | None = None) -> dict[str, Ink]:
    """Ink of every codec.

    A codec prefers the colour of its place among the known ones of its kind, so measuring one more recolours no other,
    unless two prefer the same colour: then the later takes the next free one.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table; a column `badge` is optional.
    known : mapping of str to str, optional
        Kind of every codec that exists, by id, in the order of their choice (`kinds_of`).

    Returns
    -------
    dict of str to Ink
        By id of the codec.
    """
    badges = points["badge"] if "badge" in points else pd.Series("", index=points.index)
    foreign = set(points.loc[badges.fillna("").str.startswith(PIXELS), "codec"])
    kinds = dict(sorted(set(zip(points["codec"], points["kind"], strict=True))))
    everyone = {**(known or {}), **kinds}
    chosen: dict[str, Ink] = {}
    taken: dict[str, list[int]] = {}
    for codec, kind in sorted(kinds.items()):
        style = STYLES[kind]
        used = taken.setdefault(kind, [])
        count = len(style.colours)
        lap = len(used) // count  # colours are spent: start over, with other markers
        place = [other for other in everyone if everyone[other] == kind].index(codec) % count
        while place in used[lap * count :]:
            place = (place + 1) % count
        used.append(place)
        chosen[codec] = Ink(style.colours[place], style.markers[(place + lap) % count], style, codec in foreign)
    return chosen


def focused(chosen: Mapping[str, Ink], focus: Iterable[str]) -> dict[str, Ink]:
    """The inks with all codecs but those in focus quiet; unchanged when none is named."""
    focus = set(focus)
    if not focus:
        return dict(chosen)
    return {
        codec: ink if codec in focus else replace(ink, colour=QUIET, style=replace(ink.style, width=0.6), quiet=True)
        for codec, ink in chosen.items()
    }


def hollow_marks(systems: Iterable[str]) -> dict[str, str | tuple]:
    """The mark of every published system, the same in every figure; the last of very many share one."""
    return {system: HOLLOW[place % len(HOLLOW)] for place, system in enumerate(sorted(set(systems)))}


def line(ink: Ink) -> dict:
    """Properties of a curve and of its sample beside the label: for both."""
    return dict(
        color=ink.colour,
        linestyle=ink.style.dash,
        linewidth=ink.style.width,
        marker=ink.marker,
        markersize=MARKER_SIZE.get(ink.marker, 3.4),
        markerfacecolor="white" if ink.hollow else ink.colour,
        markeredgecolor=ink.colour if ink.hollow else "white",
        markeredgewidth=0.8 if ink.hollow else 0.4,
        zorder=2 + ink.style.width,
    )
