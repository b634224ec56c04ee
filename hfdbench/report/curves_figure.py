"""A figure of curves: one panel of FigureData above the other, codecs named where they end or among the marks.

Conventions: lengths in inches, type sizes in points. Panels share their horizontal axis and its codecs' inks. Our codecs are
joined by the line of their kind; published numbers are hollow, grey and never joined.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hfdbench.analysis.curves import Axis, Curve, FigureData
from hfdbench.analysis.ledger import LedgerData
from hfdbench.report import labels as layout
from hfdbench.report.style import HOLLOW_COLOUR, MARKER_SIZE, Ink, line
from hfdbench.results.published import Overlay

WIDTH_IN = {"column": 3.35, "full": 6.9}  # CVPR: 3.25 and 6.875; Elsevier and IEEE within 4 %
AXES_IN = {"column": 2.15, "full": 3.2}
LOWER = 0.62  # height of a further panel, as a share of the first
LINE_IN = 0.122  # height of one label
STEP = 2.0  # pixels between the points that stand for a line; labels keep half of it off them
QUIET_TEXT = "#8C8C8C"
WARNING = "#A50026"


def curves_figure(
    panels: Sequence[FigureData],
    ink: Mapping[str, Ink],
    width: str,
    source: str,
    marks: Mapping[str, str | tuple],
    warning: str = "",
) -> Figure:
    """Draw the panels of one figure.

    Parameters
    ----------
    panels : sequence of FigureData
        The first is the figure; the others stand below it and share its horizontal axis.
    ink : mapping of str to Ink
        By id of the codec.
    width : {"column", "full"}
    source : str
        Last line of the small print.
    marks : mapping
        Marker of each published system.
    warning : str
        Printed in red above the axes.

    Returns
    -------
    Figure
    """
    figure = Figure()
    FigureCanvasAgg(figure)
    data, page_in = panels[0], WIDTH_IN[width]
    small = wrap(footer(data, source, panels[1:]), lambda text: text_in(figure, text, 5.5)[0], page_in - 0.1)
    left, bottom, top, between = 0.44, 0.40 + 0.085 * len(small), 0.2, 0.12
    height = AXES_IN[width]
    codecs = {curve.codec: curve for panel in panels for curve in panel.curves}
    if data.ties or data.arrows:  # marks of a codec stand for themselves, labels lie among them
        names, right = {}, 0.1
    else:
        # A title that would eat the axes gives way to the id.
        short = {c.codec: text_in(figure, c.title, 7)[0] < 0.27 * page_in for c in codecs.values()}
        names = {c.codec: c.title if short[c.codec] else c.codec for c in codecs.values()}
        right = 0.42 + max(text_in(figure, name, 7)[0] for name in names.values())
        height = max(height, LINE_IN * len(data.curves))  # every label finds room
    heights = [height, *(max(LOWER * height, LINE_IN * len(p.curves) if names else 0) for p in panels[1:])]
    page_height = bottom + sum(heights) + between * (len(panels) - 1) + top
    figure.set_size_inches(page_in, page_height)
    inner, above = page_in - left - right, top
    for place, (panel, own) in enumerate(zip(panels, heights, strict=True)):
        above += own
        box = (left / page_in, 1 - above / page_height, inner / page_in, own / page_height)
        axes = figure.add_axes(box)
        _panel(axes, panel, ink, marks)
        if place < len(panels) - 1:
            axes.tick_params(labelbottom=False)
            axes.set_xlim(*figure.axes[0].get_xlim())
        else:
            axes.set_xlabel(data.x.title, fontsize=8, labelpad=2)
        if place:
            axes.set_xlim(*figure.axes[0].get_xlim())
        if names:
            _label_ends(axes, panel, ink, names, own, inner)
        _label_marks(axes, panel, {} if names else ink)
        above += between
    figure.axes[0].set_title(data.dataset_title, fontsize=8, loc="left", pad=4)
    if warning:
        x = (
            (left + inner) / page_in
            if text_in(figure, data.dataset_title + warning, 8)[0] < inner
            else 1 - 0.05 / page_in
        )
        y = 1 - (top - 0.055) / page_height
        figure.text(x, y, warning, fontsize=6.5, color=WARNING, ha="right", va="bottom", gid="warning")
    write_footer(figure, small)
    return figure


def _panel(axes: Axes, data: FigureData, ink: Mapping[str, Ink], marks: Mapping[str, str | tuple]) -> None:
    for curve in data.curves:
        _draw_curve(axes, curve, ink[curve.codec], thin=bool(data.ties))
    for tie in data.ties:
        axes.plot(tie.x, tie.y, color="#BDBDBD", linewidth=0.7, zorder=1.5, gid="tie")
    for arrow in data.arrows:
        shape = dict(arrowstyle="-|>,head_length=0.28,head_width=0.13", shrinkA=2.5, shrinkB=3, linewidth=0.6)
        colour = "#BDBDBD" if ink[arrow.codec].quiet else ink[arrow.codec].colour
        properties = shape | dict(color=colour, alpha=0.75)
        drawn = axes.annotate("", arrow.to, arrow.base, arrowprops=properties, zorder=1.6, annotation_clip=True)
        if drawn.arrow_patch is not None:
            drawn.arrow_patch.set_gid(f"arrow-{arrow.codec}")
    for overlay in data.overlays:
        _draw_overlay(axes, overlay, marks[overlay.system], 1 if len(data.overlays) < 8 else 0.75)
    _set_axis(axes, data.x, "x")
    _set_axis(axes, data.y, "y")
    axes.tick_params(labelsize=7, pad=2)
    axes.set_ylabel(data.y.title, fontsize=8, labelpad=2)
    axes.grid(which="major", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def text_in(figure: Figure, text: str, size: float) -> tuple[float, float]:
    """Width and height of a line of text, in inches."""
    artist = figure.text(0, 0, text, fontsize=size)
    extent = artist.get_window_extent()
    artist.remove()
    return extent.width / figure.dpi, extent.height / figure.dpi


def write_footer(figure: Figure, lines: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    for row, words in enumerate(lines):
        y = (0.05 + 0.085 * (len(lines) - 1 - row)) / height
        figure.text(0.05 / width, y, words, fontsize=5.5, color="#555555", va="bottom")


def _draw_curve(axes: Axes, curve: Curve, ink: Ink, thin: bool) -> None:
    """Line, marks and intervals: a band along a line, upright strokes where lines are thin or points stand alone."""
    properties = line(ink)
    properties["linewidth"] *= 0.6 if thin else 1
    alone = [(place,) for place in range(len(curve.x)) if not any(place in run for run in curve.joined)]
    for run in (*curve.joined, *alone):
        x, y = ([values[place] for place in run] for values in (curve.x, curve.y))
        axes.plot(x, y, gid=f"curve-{curve.codec}", **properties)
        banded = [place for place in run if curve.band[place] is not None and not ink.quiet]
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
    figure: Any = axes.figure  # not a subfigure
    labels = [  # text, size, colour, marks it may stand at
        *((overlay.label, 5.5, HOLLOW_COLOUR, (overlay.x, overlay.y)) for overlay in data.overlays),
        *(
            (c.title, *((5.5, QUIET_TEXT) if ink[c.codec].quiet else (6.5, ink[c.codec].colour)), (c.x, c.y))
            for c in data.curves
            if c.codec in ink
        ),
        *((f"{tie.bpp:.2g} bpp", 5, "#8A8A8A", (tie.x[:1], tie.y[:1])) for tie in data.ties),
    ]
    if not labels:
        return
    anchors = [[tuple(mark) for mark in axes.transData.transform(np.column_stack(marks))] for *_, marks in labels]
    inches = [text_in(figure, text, size) for text, size, *_ in labels]
    sizes = [(figure.dpi * width + STEP, figure.dpi * height + STEP) for width, height in inches]
    points = figure.dpi / 72
    room = axes.get_window_extent()
    bounds = (room.x0 + points, room.y0 + points, room.x1 + 3 * points, room.y1 + 4 * points)
    placed = layout.place(sizes, anchors, _obstacles(axes, data), bounds, 3.2 * points)
    back = figure.transFigure.inverted()
    for (text, size, colour, _), (box, anchor) in zip(labels, placed, strict=True):
        left, bottom, right, top = box
        x, y = back.transform((left + STEP / 2, (bottom + top) / 2))
        behind = dict(facecolor="white", alpha=0.7, linewidth=0, pad=0.4)
        figure.text(x, y, text, fontsize=size, color=colour, va="center", gid=f"label-{text}", zorder=8, bbox=behind)
        near = (min(max(anchor[0], left), right), min(max(anchor[1], bottom), top))
        if np.hypot(near[0] - anchor[0], near[1] - anchor[1]) > 6 * points:
            ends = back.transform([near, anchor])
            figure.add_artist(Line2D(*ends.T, color=colour, linewidth=0.4, linestyle=(0, (1, 1.5))))


def _obstacles(axes: Axes, data: FigureData) -> np.ndarray:
    """Where there is ink: marks and points along lines, in pixels."""
    size = axes.figure.dpi / 72
    found = [np.empty((0, 2))]
    for arrow in data.arrows:
        start, end = axes.transData.transform([arrow.base, arrow.to])
        found.append(_along(start, end))
    for drawn in axes.lines:  # curves in the data's coordinates, hair-lines of end labels in those of the axes
        ends = drawn.get_transform().transform(np.column_stack(drawn.get_data(orig=False)).astype(float))
        if drawn.get_linestyle() != "None":
            for a, b in pairwise(ends):
                # A hair-line would strike a word through: it weighs more than a curve.
                found += [_along(a, b)] * (4 if drawn.get_transform() is axes.transAxes else 1)
        if drawn.get_marker() not in ("None", None, ""):
            reach = [(dx * size, dy * size) for dx in (-1.6, 0, 1.6) for dy in (-1.6, 0, 1.6)]
            found += [ends + offset for offset in reach] * 2  # a mark weighs more than a line
    return np.concatenate(found)


def _along(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points from `a` to `b`, in pixels, STEP apart."""
    return a + np.linspace(0, 1, max(2, int(np.hypot(*(b - a)) / STEP)))[:, None] * (b - a)


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
    getattr(axes, f"set_{name}lim")(axis.range or (_marked(axes, name) if axis.log else None))
    if axis.log:
        low, high = getattr(axes, f"get_{name}lim")()
        steps = (1, 2, 5) if high / low < 300 else (1,)
        few = high / low < 4  # round numbers of a linear axis: powers of ten would leave one tick, or none
        ticks.set_major_locator(
            MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)) if few else LogLocator(subs=steps, numticks=20)
        )
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(LogLocator(subs=range(1, 10), numticks=20))
        ticks.set_minor_formatter(NullFormatter())
    else:
        ticks.set_major_locator(MaxNLocator(7, steps=(1, 2, 2.5, 5, 10)))
        ticks.set_minor_locator(NullLocator())


def _marked(axes: Axes, name: str) -> tuple[float, float] | None:
    """Range of a logarithmic axis: all marks, and of the intervals what lies within a factor of two of them.

    An interval of a distance may reach to zero, which on such an axis is no end.
    """
    lines = [np.asarray(getattr(drawn, f"get_{name}data")(orig=False), float) for drawn in axes.lines]
    values = np.concatenate([np.empty(0), *lines])
    values = values[values > 0]
    if not values.size:
        return None
    low, high = getattr(axes.dataLim, f"interval{name}")
    low, high = max(low, values.min() / 2), min(high, values.max() * 2)
    margin = (high / low) ** 0.05 if low < high else 1.5  # of a single mark
    return low / margin, high * margin


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
        inside: dict[str, Any] = dict(transform=axes.transAxes, clip_on=False)
        axes.add_line(Line2D([x, start], [y, place], color=own.colour, linewidth=0.5, linestyle=(0, (1, 2)), **inside))
        axes.add_line(Line2D([start, middle, stop], [place] * 3, markevery=[1], **inside, **line(own)))
        colour, size = (QUIET_TEXT, 5.5) if own.quiet else (own.colour, 7)
        text: dict[str, Any] = dict(color=colour, fontsize=size, va="center_baseline", gid=f"label-{curve.codec}")
        axes.text(stop + 0.05 / width, place, names[curve.codec], transform=axes.transAxes, **text)


def _last_visible(axes: Axes, curve: Curve) -> tuple[float, float]:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inside = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if left <= x <= right and low <= y <= high]
    x, y = inside[-1] if inside else (curve.x[-1], curve.y[-1])
    return min(max(x, left), right), min(max(y, low), high)


def footer(data: FigureData | LedgerData, source: str, further: Sequence[FigureData] = ()) -> list[str]:
    """The small print: facts, what is left out of any panel, source."""
    notes = dict.fromkeys([*data.notes, *(note for panel in further for note in panel.notes)])
    left_out = [f"Left out: {'; '.join(notes)}"] if notes else []
    hollow = ["Hollow, grey: published numbers, same dataset and protocol"] if getattr(data, "overlays", ()) else []
    return ["; ".join(data.facts), *hollow, *left_out, source]


def wrap(paragraphs: Iterable[str], width_of, room: float) -> list[str]:
    """Lines no wider than `room`, broken at spaces; `width_of(text)` measures."""
    lines = []
    for paragraph in paragraphs:
        current = ""
        for word in paragraph.split(" "):
            longer = f"{current} {word}" if current else word
            if current and width_of(longer) > room:
                lines.append(current)
                current = word
            else:
                current = longer
        lines.append(current)
    return lines
