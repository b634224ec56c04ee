"""Figures for a paper: PDF (fonts embedded as type 42), SVG (text as text), PNG; the caption as Markdown and LaTeX.

Conventions: lengths in inches, type sizes in points. The width is exactly that of a column or a page: type keeps
its size in the paper. The same data give the same bytes: no dates, no random identifiers. Drawing leaves the settings
of Matplotlib as they were and needs no display. Ours are filled marks in the codec's colour, joined by the line of its
kind; published numbers are hollow, grey and never joined.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hfdbench.analysis.curves import Axis, Curve, FigureData, datasets, figure_data
from hfdbench.analysis.ledger import LedgerData, ledger_data
from hfdbench.cards.schema import CodecCard, FigureCard
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.files.atomic import replacing, write_text
from hfdbench.report import captions
from hfdbench.report import labels as layout
from hfdbench.results.published import Overlay, choose

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
    "gan": Style((0, (5, 1, 1, 1)), 1.2, ("#AA4499", "#6A1B4D", "#CC79A7", "#7B5EA7"), "Dpv^"),
    "diffusion": Style("solid", 1.5, ("#D55E00", "#A50026", "#FF8C69", "#7A3B00", "#E8A33D", "#C2185B"), "*Ph^s8"),
    "flow": Style((0, (7, 1)), 1.4, ("#EE3377", "#994F88", "#CC6677"), "X*d"),
}
HOLLOW = (*"os^Dv>p<hPX8d*H", (4, 1, 0), (6, 1, 0), (4, 1, 45))
HOLLOW_COLOUR = "#4A4A4A"
PARTS = ("#A50026", "#E8A33D", "#4E79A7", "#7F7F7F", "#59A14F", "#9467BD")  # of a stream, in its order
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
    """What `draw_all` did: the files; one error per figure that could not be drawn; why figures have no overlay."""

    files: tuple[Path, ...]
    refused: tuple[Exception, ...]
    not_overlaid: tuple[str, ...]


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


@dataclass(frozen=True)
class Options:
    """How figures are drawn, beyond their cards.

    known: the codecs that have a card, by id: they steady the colours and tell ledgers; commit: of the data, printed
    below; width: instead of the card's; intervals: (points, column) -> lo and hi, for bands; published: all points of
    others, to lay over, of these `systems` when some are named; results: folder of the stored streams, for ledgers.
    """

    formats: Sequence[str] = FORMATS
    dataset_titles: Mapping[str, str] | None = None
    known: Mapping[str, CodecCard] | None = None
    commit: str = ""
    width: str | None = None
    intervals: Callable[[pd.DataFrame, str], pd.DataFrame] | None = None
    published: pd.DataFrame | None = None
    systems: Sequence[str] = ()
    results: Path = Path("results")


def hollow_marks(systems: Iterable[str]) -> dict[str, str | tuple]:
    """The mark of every published system, the same in every figure; the last of very many share one."""
    return {system: HOLLOW[place % len(HOLLOW)] for place, system in enumerate(sorted(set(systems)))}


def draw_all(points: pd.DataFrame, cards: Iterable[FigureCard], out: Path, options: Options = Options()) -> Drawn:
    """Draw every card for every dataset it shows. Raises only when nothing could be drawn; `refused` names the rest."""
    files: list[Path] = []
    refused: list[Exception] = []
    not_overlaid: list[str] = []
    for card in cards:
        try:
            for dataset in datasets(points, card):
                try:
                    drawn = draw(points, card.model_copy(update={"dataset": dataset}), out, options)
                    files += drawn.files
                    not_overlaid += drawn.not_overlaid
                except (UsageError, Unavailable) as error:
                    refused.append(error)
        except UsageError as error:
            refused.append(error)
    if refused and not files:
        raise refused[0]
    return Drawn(tuple(files), tuple(refused), tuple(not_overlaid))


def draw(
    points: pd.DataFrame, card: FigureCard, out: Path = Path("reports/build"), options: Options = Options()
) -> Drawn:
    """Draw a card, one figure per dataset: `out/<figure>-<dataset>.<format>`, its caption beside it as .md and .tex.

    Raises UsageError, and Unavailable when no point has the values asked for.
    """
    for name in options.formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    if options.width not in (None, *WIDTH_IN):
        raise unknown("width", options.width, WIDTH_IN)
    width = options.width or card.width
    marks = {} if options.published is None else hollow_marks(options.published["system"])
    every = [_data(points, card, dataset, options) for dataset in datasets(points, card)]
    ink = inks(points, {codec.id: codec.kind for codec in (options.known or {}).values()})
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for data in every:
        stem = f"{card.id}-{data.dataset}"
        with rc_context(RC):
            if isinstance(data, LedgerData):
                figure = _ledger_figure(data, width, captions.source(options.commit))
            else:
                figure = _figure(data, ink, width, captions.source(options.commit), marks)
            for name in options.formats:
                files.append(out / f"{stem}.{name}")
                with replacing(files[-1]) as temporary:
                    figure.savefig(temporary, format=name, dpi=300, metadata=METADATA[name])
        files += [out / f"{stem}.md", out / f"{stem}.tex"]
        write_text(files[-2], captions.markdown(data, card.note, options.commit))
        write_text(files[-1], captions.latex(data, card.note, options.commit, stem))
    refusals = (data.not_overlaid for data in every if isinstance(data, FigureData))
    return Drawn(tuple(files), (), tuple(filter(None, refusals)))


def _data(points: pd.DataFrame, card: FigureCard, dataset: str, options: Options) -> FigureData | LedgerData:
    known = options.known or {}
    if card.chart == "ledger":
        title = (options.dataset_titles or {}).get(dataset) or dataset
        return ledger_data(points, card, dataset, title, known, options.results)
    return figure_data(
        points,
        card,
        dataset,
        dataset_titles=options.dataset_titles,
        known=known,
        intervals=options.intervals,
        published=None if options.published is None else choose(options.published, options.systems),
    )


def _figure(
    data: FigureData, ink: Mapping[str, Ink], width: str, source: str, marks: Mapping[str, str | tuple]
) -> Figure:
    figure = Figure()
    FigureCanvasAgg(figure)
    page_in = WIDTH_IN[width]
    small = _wrap(_footer(data, source), lambda text: _text_in(figure, text, 5.5)[0], page_in - 0.1)
    left, bottom, top = 0.44, 0.40 + 0.085 * len(small), 0.2
    height = AXES_IN[width]
    if data.ties:  # marks of a codec stand for themselves, labels lie among them
        names, right = {}, 0.1
    else:
        # A title that would eat the axes gives way to the id.
        short = {c.codec: _text_in(figure, c.title, 7)[0] < 0.27 * page_in for c in data.curves}
        names = {c.codec: c.title if short[c.codec] else c.codec for c in data.curves}
        right = 0.42 + max(_text_in(figure, name, 7)[0] for name in names.values())
        height = max(height, LINE_IN * len(data.curves))  # every label finds room
    page_height = bottom + height + top
    figure.set_size_inches(page_in, page_height)
    box = (left / page_in, bottom / page_height, (page_in - left - right) / page_in, height / page_height)
    axes = figure.add_axes(box)

    for curve in data.curves:
        _draw_curve(axes, curve, ink[curve.codec], thin=bool(data.ties))
    for tie in data.ties:
        axes.plot(tie.x, tie.y, color="#BDBDBD", linewidth=0.7, zorder=1.5, gid="tie")
    for overlay in data.overlays:
        _draw_overlay(axes, overlay, marks[overlay.system], 1 if len(data.overlays) < 8 else 0.75)
    _set_axis(axes, data.x, "x")
    _set_axis(axes, data.y, "y")
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel(data.x.title, fontsize=8, labelpad=2)
    axes.set_ylabel(data.y.title, fontsize=8, labelpad=2)
    axes.set_title(data.dataset_title, fontsize=8, loc="left", pad=4)
    axes.grid(which="major", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    if names:
        _label_ends(axes, data, ink, names, height, page_in - left - right)
    _label_marks(axes, data, {} if names else ink)
    _write_footer(figure, small)
    return figure


def _text_in(figure: Figure, text: str, size: float) -> tuple[float, float]:
    """Width and height of a line of text, in inches."""
    artist = figure.text(0, 0, text, fontsize=size)
    extent = artist.get_window_extent(figure.canvas.get_renderer())
    artist.remove()
    return extent.width / figure.dpi, extent.height / figure.dpi


def _write_footer(figure: Figure, lines: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    for row, line in enumerate(lines):
        y = (0.05 + 0.085 * (len(lines) - 1 - row)) / height
        figure.text(0.05 / width, y, line, fontsize=5.5, color="#555555", va="bottom")


def _draw_curve(axes: Axes, curve: Curve, ink: Ink, thin: bool) -> None:
    """Line, marks and intervals: a band along a line, upright strokes where lines are thin or points stand alone."""
    line = _line(ink)
    line["linewidth"] *= 0.6 if thin else 1
    alone = [(place,) for place in range(len(curve.x)) if not any(place in run for run in curve.joined)]
    for run in (*curve.joined, *alone):
        x, y = ([values[place] for place in run] for values in (curve.x, curve.y))
        axes.plot(x, y, gid=f"curve-{curve.codec}", **line)
        banded = [place for place in run if curve.band[place] is not None]
        x, bands = [curve.x[place] for place in banded], np.array([curve.band[place] for place in banded])
        if len(banded) > 1 and not thin:
            axes.fill_between(x, *bands.T, color=ink.colour, alpha=0.16, linewidth=0, zorder=1.8)
        elif banded:
            axes.vlines(x, *bands.T, color=ink.colour, alpha=0.5, linewidth=0.8, zorder=1.8)


def _draw_overlay(axes: Axes, overlay: Overlay, mark: str | tuple, scale: float) -> None:
    axes.errorbar(
        overlay.x,
        overlay.y,
        xerr=overlay.x_plus_minus if any(overlay.x_plus_minus) else None,
        yerr=overlay.y_plus_minus if any(overlay.y_plus_minus) else None,
        linestyle="none",
        marker=mark,
        markersize=scale * MARKER_SIZE.get(mark, 3.4),
        markerfacecolor="white",
        color=HOLLOW_COLOUR,
        markeredgewidth=0.7 * scale,
        elinewidth=0.6,
        zorder=6,
        gid=f"published-{overlay.label}",
    )


def _label_marks(axes: Axes, data: FigureData, ink: Mapping[str, Ink]) -> None:
    """Name, free among the marks, published curves, the codecs of `ink` and the rates of ties."""
    figure = axes.figure
    labels = [  # text, size, colour, marks it may stand at
        *((overlay.label, 5.5, HOLLOW_COLOUR, (overlay.x, overlay.y)) for overlay in data.overlays),
        *((c.title, 6.5, ink[c.codec].colour, (c.x, c.y)) for c in data.curves if c.codec in ink),
        *((f"{tie.bpp:.2g} bpp", 5, "#8A8A8A", (tie.x[:1], tie.y[:1])) for tie in data.ties),
    ]
    if not labels:
        return
    anchors = [[tuple(mark) for mark in axes.transData.transform(np.column_stack(marks))] for *_, marks in labels]
    sizes = [tuple(figure.dpi * inches for inches in _text_in(figure, text, size)) for text, size, *_ in labels]
    points = figure.dpi / 72
    room = axes.get_window_extent()
    bounds = (room.x0 + points, room.y0 + points, room.x1 + 3 * points, room.y1 + 4 * points)
    placed = layout.place(sizes, anchors, _obstacles(axes), bounds, 3.2 * points)
    back = figure.transFigure.inverted()
    for (text, size, colour, _), (box, anchor) in zip(labels, placed, strict=True):
        left, bottom, right, top = box
        x, y = back.transform((left, (bottom + top) / 2))
        behind = dict(facecolor="white", alpha=0.7, linewidth=0, pad=0.4)
        figure.text(x, y, text, fontsize=size, color=colour, va="center", gid=f"label-{text}", zorder=8, bbox=behind)
        near = (min(max(anchor[0], left), right), min(max(anchor[1], bottom), top))
        if np.hypot(near[0] - anchor[0], near[1] - anchor[1]) > 6 * points:
            ends = back.transform([near, anchor])
            figure.add_artist(Line2D(*ends.T, color=colour, linewidth=0.4, linestyle=(0, (1, 1.5))))


def _obstacles(axes: Axes) -> np.ndarray:
    """Where there is ink: marks and points along lines, in pixels."""
    step, size = 2.0, axes.figure.dpi / 72
    found = [np.empty((0, 2))]
    for line in axes.lines:
        ends = axes.transData.transform(np.column_stack(line.get_data(orig=False)).astype(float))
        if line.get_linestyle() != "None":
            for a, b in pairwise(ends):
                count = max(2, int(np.hypot(*(b - a)) / step))
                found.append(a + np.linspace(0, 1, count)[:, None] * (b - a))
        if line.get_marker() not in ("None", None, ""):
            reach = [(dx * size, dy * size) for dx in (-1.6, 0, 1.6) for dy in (-1.6, 0, 1.6)]
            found += [ends + offset for offset in reach] * 2  # a mark weighs more than a line
    return np.concatenate(found)


def _ledger_figure(data: LedgerData, width: str, source: str) -> Figure:
    """Stacked bars, a bar per point, a colour per part; the shares stand at the end of each bar."""
    figure = Figure()
    FigureCanvasAgg(figure)
    page_in, row_in, gap_in = WIDTH_IN[width], 0.16, 0.10
    small = _wrap(_footer(data, source), lambda text: _text_in(figure, text, 5.5)[0], page_in - 0.1)
    names = list(dict.fromkeys(bar.title for bar in data.bars))
    shares = [" / ".join(f"{_percent(bar.parts.get(part, 0) / bar.bpp)}" for part in data.parts) for bar in data.bars]
    left = 0.12 + max(_text_in(figure, bar.point, 6.5)[0] for bar in data.bars)
    right = 0.12 + max(_text_in(figure, text, 6)[0] for text in shares)
    height = row_in * len(data.bars) + (gap_in + row_in) * len(names)
    bottom, top = 0.40 + 0.085 * len(small), 0.38
    page_height = bottom + height + top
    figure.set_size_inches(page_in, page_height)
    inner = page_in - left - right
    axes = figure.add_axes((left / page_in, bottom / page_height, inner / page_in, height / page_height))
    y, last = 0.0, None
    for bar, share in zip(data.bars, shares, strict=True):
        if bar.title != last:  # a heading per codec
            y += gap_in * (last is not None) + row_in
            axes.text(0, y - 0.45 * row_in, f" {bar.title}", fontsize=7, va="center", color="#222222")
            last = bar.title
        start = 0.0
        for part, colour in zip(data.parts, _cycled(PARTS, len(data.parts)), strict=True):
            length = bar.parts.get(part, 0)
            middle = y + row_in / 2
            axes.barh(
                middle, length, 0.72 * row_in, left=start, color=colour, linewidth=0, gid=f"bar-{bar.codec}-{part}"
            )
            start += length
        axes.text(0, middle, f"{bar.point}  ", fontsize=6.5, ha="right", va="center")
        axes.text(
            1, middle, f" {share}", transform=axes.get_yaxis_transform(), fontsize=6, va="center", color="#555555"
        )
        y += row_in
    axes.set_ylim(y + 0.03, 0)
    axes.set_xlim(0, 1.03 * max(bar.bpp for bar in data.bars))
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel("Rate (bits per pixel)", fontsize=8, labelpad=2)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    figure.text(left / page_in, 1 - 0.15 / page_height, data.dataset_title, fontsize=8, va="center")
    x = left
    for part, colour in zip(data.parts, _cycled(PARTS, len(data.parts)), strict=True):
        figure.text(x / page_in, 1 - 0.31 / page_height, part, fontsize=7, color=colour, va="center", fontweight="bold")
        x += _text_in(figure, part, 7)[0] * 1.12 + 0.1
    figure.text(
        1 - 0.06 / page_in, 1 - 0.31 / page_height, "share in %", fontsize=6, color="#555555", ha="right", va="center"
    )
    _write_footer(figure, small)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"


def _cycled(colours: Sequence[str], count: int) -> list[str]:
    return [colours[place % len(colours)] for place in range(count)]


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
    scale = getattr(axes, f"set_{name}scale")
    ticks = getattr(axes, f"{name}axis")
    if axis.log and axis.to_one:
        scale("function", functions=(lambda v: -np.log10(np.maximum(1 - v, 1e-9)), lambda v: 1 - 10.0**-v))
        low, high = getattr(axes.dataLim, f"interval{name}")
        low, high = axis.range or (1 - 1.15 * (1 - low), 1 - (1 - high) / 1.15)
        getattr(axes, f"set_{name}lim")(low, high)
        steps = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999]
        ticks.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(NullLocator())
        return
    if axis.log and axis.zero:
        scale("symlog", linthresh=1, linscale=0.5)
        getattr(axes, f"set_{name}lim")(axis.range or (-0.7, None))
        ticks.set_major_locator(FixedLocator([0, *(m * 10**e for e in range(5) for m in (1, 2, 5))]))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(NullLocator())
        return
    if axis.log:
        scale("log")
    getattr(axes, f"set_{name}lim")(axis.range)
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
    places = layout.spread([y for _, y in ends], LINE_IN / height, half, 1 - half)
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


def _footer(data: FigureData | LedgerData, source: str) -> list[str]:
    left_out = [f"Left out: {'; '.join(data.notes)}"] if data.notes else []
    hollow = ["Hollow: published numbers, same dataset and protocol"] if getattr(data, "overlays", ()) else []
    return ["; ".join(data.facts), *hollow, *left_out, source]


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
