"""Figures for a paper: PDF (fonts embedded as type 42), SVG (text as text), PNG, and the caption as Markdown.

Conventions: lengths in inches, type sizes in points. The width is exactly that of a column or a page: type keeps
its size in the paper. The same data give the same bytes: no dates, no random identifiers. Drawing leaves the settings
of Matplotlib as they were and needs no display.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .. import __version__
from ..cards import FigureCard
from ..errors import BadRequest, Unavailable, unknown
from .curves import Axis, Curve, FigureData, datasets, figure_data

FORMATS = ("pdf", "svg", "png")
WIDTH_IN = {"column": 3.35, "full": 6.9}  # CVPR: 3.25 and 6.875; Elsevier and IEEE within 4 %
AXES_IN = {"column": 2.15, "full": 3.2}
LINE_IN = 0.122  # height of one label


@dataclass(frozen=True)
class Style:
    """How a kind of codec is drawn. Colours and markers are taken together, in order."""

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
    "gan": Style((0, (5, 1, 1, 1)), 1.2, ("#AA4499", "#882255", "#CC79A7"), "Dpv"),
    "diffusion": Style("solid", 1.8, ("#D55E00", "#A50026", "#FF8C69", "#7A3B00"), "*Ph^"),
    "flow": Style((0, (7, 1)), 1.6, ("#EE3377", "#994F88", "#CC6677"), "X*d"),
}
MARKER_SIZE = {"P": 4.2, "X": 4.2, "*": 6.5}  # a star covers less than a square as wide

RC = {
    **sns.axes_style("ticks"),
    "font.family": "STIXGeneral",  # matches a body set in Times; comes with Matplotlib, so every machine has it
    "axes.linewidth": 0.6,
    **{f"{axis}tick.{key}": size for axis in "xy" for key, size in (("major.width", 0.6), ("major.size", 2.6))},
    **{f"{axis}tick.{key}": size for axis in "xy" for key, size in (("minor.width", 0.4), ("minor.size", 1.5))},
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "hfdbench",
}
METADATA = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Ink:
    """Colour, marker and line of one codec, the same in every figure of a report."""

    colour: str
    marker: str
    style: Style


@dataclass(frozen=True)
class Drawn:
    """What `draw_all` did: the files, and one error per figure that could not be drawn."""

    files: tuple[Path, ...]
    refused: tuple[Exception, ...]


def inks(points: pd.DataFrame, known: Mapping[str, str] | None = None) -> dict[str, Ink]:
    """Ink of every codec of the table. `known`: kind of every codec that exists, by id.

    A codec prefers the colour of its place among the known ones of its kind, so measuring one more recolours no other,
    unless two prefer the same colour: then the later takes the next free one.
    """
    kinds = dict(zip(points["codec"], points["kind"], strict=True))
    everyone = {**(known or {}), **kinds}
    chosen: dict[str, Ink] = {}
    taken: dict[str, list[int]] = {}
    for codec, kind in sorted(kinds.items()):
        style = STYLES[kind]
        used = taken.setdefault(kind, [])
        count = len(style.colours)
        lap = len(used) // count  # colours are spent: start over, with other markers
        place = sorted(other for other in everyone if everyone[other] == kind).index(codec) % count
        while place in used[lap * count :]:
            place = (place + 1) % count
        used.append(place)
        chosen[codec] = Ink(style.colours[place], style.markers[(place + lap) % count], style)
    return chosen


def draw_all(
    points: pd.DataFrame,
    cards: Iterable[FigureCard],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    dataset_titles: Mapping[str, str] | None = None,
    known: Mapping[str, str] | None = None,
    commit: str = "",
) -> Drawn:
    """Draw every card for every dataset it shows. Raises only when nothing could be drawn; `refused` names the rest."""
    files: list[Path] = []
    refused: list[Exception] = []
    options = dict(formats=formats, dataset_titles=dataset_titles, known=known, commit=commit)
    for card in cards:
        try:
            for dataset in datasets(points, card):
                try:
                    files += draw(points, card.model_copy(update={"dataset": dataset}), out, **options)
                except (BadRequest, Unavailable) as error:
                    refused.append(error)
        except BadRequest as error:
            refused.append(error)
    if refused and not files:
        raise refused[0]
    return Drawn(tuple(files), tuple(refused))


def draw(
    points: pd.DataFrame,
    card: FigureCard,
    out: Path = Path("reports/build"),
    *,
    formats: Sequence[str] = FORMATS,
    dataset_titles: Mapping[str, str] | None = None,
    known: Mapping[str, str] | None = None,
    commit: str = "",
) -> list[Path]:
    """Draw a card, one figure per dataset, into `out/<figure>-<dataset>.<format>` and its caption beside it (.md).

    known: kind of every codec that has a card, by id, which steadies the colours; commit: of the data, printed below.
    Raises BadRequest, and Unavailable when no point has the values asked for.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    every = [
        figure_data(points, card, dataset, dataset_titles=dataset_titles, known=known or ())
        for dataset in datasets(points, card)
    ]
    ink = inks(points, known)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for data in every:
        stem = f"{card.id}-{data.dataset}"
        with rc_context(RC):
            figure = _figure(data, ink, card.width, _source(commit))
            for name in formats:
                files.append(out / f"{stem}.{name}")
                figure.savefig(files[-1], format=name, dpi=300, metadata=METADATA[name])
        files.append(out / f"{stem}.md")
        files[-1].write_text(caption(data, card.note, _source(commit)), encoding="utf-8")
    return files


def caption(data: FigureData, note: str, source: str) -> str:
    """Caption as Markdown: what is shown, by which rules, what was left out and why."""
    lines = [f"**{data.title or data.id} on {data.dataset_title}.** {note}".strip(), f"{'; '.join(data.facts)}."]
    lines += [f"Left out: {'; '.join(data.notes)}."] if data.notes else []
    return "\n".join([*lines, f"{source}.", ""])


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart within [low, high], in the order of `wanted` and as near to it as can be.

    Too many for the room are spaced evenly over it.
    """
    if len(wanted) > 1:
        gap = min(gap, (high - low) / (len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Least squares under order (pool adjacent violators): subtract the gaps, merge what is out of order to its mean.
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap])
        while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) > sum(blocks[-1]) / len(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = [sum(block) / len(block) for block in blocks for _ in block]
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(level[rank], low), high - (len(wanted) - 1) * gap) + rank * gap
    return placed


def _source(commit: str) -> str:
    return f"hfdbench {__version__}" + (f", data of commit {commit[:12]}" if commit else "")


def _figure(data: FigureData, ink: Mapping[str, Ink], width: str, source: str) -> Figure:
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    page_in = WIDTH_IN[width]

    def text_in(text: str, size: float) -> float:
        artist = figure.text(0, 0, text, fontsize=size)
        extent = artist.get_window_extent(canvas.get_renderer())
        artist.remove()
        return extent.width / figure.dpi

    # A title that would eat the axes gives way to the id.
    names = {c.codec: c.title if text_in(c.title, 7) < 0.27 * page_in else c.codec for c in data.curves}
    small = _wrap(_footer(data, source), lambda text: text_in(text, 5.5), page_in - 0.1)

    left, right = 0.44, 0.42 + max(text_in(name, 7) for name in names.values())
    bottom, top = 0.40 + 0.085 * len(small), 0.2
    height = max(AXES_IN[width], LINE_IN * len(data.curves))  # every label finds room
    figure.set_size_inches(page_in, bottom + height + top)
    page_height = bottom + height + top
    box = (left / page_in, bottom / page_height, (page_in - left - right) / page_in, height / page_height)
    axes = figure.add_axes(box)

    for curve in data.curves:
        axes.plot(curve.x, curve.y, gid=f"curve-{curve.codec}", **_line(ink[curve.codec]))
    _set_axis(axes, data.x, "x")
    _set_axis(axes, data.y, "y")
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel(data.x.title, fontsize=8, labelpad=2)
    axes.set_ylabel(data.y.title, fontsize=8, labelpad=2)
    axes.set_title(data.dataset_title, fontsize=8, loc="left", pad=4)
    axes.grid(which="major", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    _label_ends(axes, data, ink, names, height, page_in - left - right)
    for row, line in enumerate(small):
        y = (0.05 + 0.085 * (len(small) - 1 - row)) / page_height
        figure.text(0.05 / page_in, y, line, fontsize=5.5, color="#555555", va="bottom")
    return figure


def _line(ink: Ink) -> dict:
    """Properties of a curve and of its sample beside the label: one truth for both."""
    return dict(
        color=ink.colour,
        linestyle=ink.style.dash,
        linewidth=ink.style.width,
        marker=ink.marker,
        markersize=MARKER_SIZE.get(ink.marker, 3.4),
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=2 + ink.style.width,
    )


def _set_axis(axes: Axes, axis: Axis, name: str) -> None:
    if axis.log:
        getattr(axes, f"set_{name}scale")("log")
    getattr(axes, f"set_{name}lim")(axis.range)
    ticks = getattr(axes, f"{name}axis")
    if axis.log:
        low, high = getattr(axes, f"get_{name}lim")()
        steps = (1, 2, 5) if high / low < 300 else (1,)
        ticks.set_major_locator(LogLocator(subs=steps, numticks=20))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(LogLocator(subs=range(1, 10), numticks=20))
        ticks.set_minor_formatter(NullFormatter())
    else:
        ticks.set_major_locator(MaxNLocator(7, steps=(1, 2, 2.5, 5, 10)))
        ticks.set_minor_locator(NullLocator())


def _label_ends(
    axes: Axes, data: FigureData, ink: Mapping[str, Ink], names: Mapping[str, str], height: float, width: float
) -> None:
    """Name every curve right of the axes, at the height where it ends, joined to its end by a hair-line."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(_last_visible(axes, curve)) for curve in data.curves]
    half = LINE_IN / height / 2
    places = spread([y for _, y in ends], LINE_IN / height, half, 1 - half)
    start, middle, stop = (1 + inches / width for inches in (0.05, 0.175, 0.30))
    for curve, (x, y), place in zip(data.curves, ends, places, strict=True):
        own = ink[curve.codec]
        inside = dict(transform=axes.transAxes, clip_on=False)
        axes.add_line(Line2D([x, start], [y, place], color=own.colour, linewidth=0.5, linestyle=(0, (1, 2)), **inside))
        axes.add_line(Line2D([start, middle, stop], [place] * 3, markevery=[1], **inside, **_line(own)))
        text = dict(color=own.colour, fontsize=7, va="center_baseline", gid=f"label-{curve.codec}")
        axes.text(stop + 0.05 / width, place, names[curve.codec], transform=axes.transAxes, **text)


def _last_visible(axes: Axes, curve: Curve) -> tuple[float, float]:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inside = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if left <= x <= right and low <= y <= high]
    x, y = inside[-1] if inside else (curve.x[-1], curve.y[-1])
    return min(max(x, left), right), min(max(y, low), high)


def _footer(data: FigureData, source: str) -> list[str]:
    left_out = [f"Left out: {'; '.join(data.notes)}"] if data.notes else []
    return ["; ".join(data.facts), *left_out, source]


def _wrap(paragraphs: Iterable[str], width_of, room: float) -> list[str]:
    """Lines no wider than `room`, broken at spaces; `width_of(text)` measures."""
    lines = []
    for paragraph in paragraphs:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and width_of(longer) > room:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines
