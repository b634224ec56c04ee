"""A figure of ledgers: what each stream's bytes are for, a bar for each point, a colour for each part."""

from collections.abc import Sequence

import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hfdbench.analysis.ledger import LedgerData
from hfdbench.report.curves_figure import WIDTH_IN, footer, text_in, wrap, write_footer
from hfdbench.report.style import PARTS


def ledger_figure(data: LedgerData, width: str, source: str) -> Figure:
    """Stacked bars, a bar per point, a colour per part; the shares stand at the end of each bar."""
    figure = Figure()
    FigureCanvasAgg(figure)
    page_in, row_in, gap_in = WIDTH_IN[width], 0.16, 0.10
    small = wrap(footer(data, source), lambda text: text_in(figure, text, 5.5)[0], page_in - 0.1)
    names = list(dict.fromkeys(bar.title for bar in data.bars))
    shares = [" / ".join(f"{_percent(bar.parts.get(part, 0) / bar.bpp)}" for part in data.parts) for bar in data.bars]
    left = 0.12 + max(text_in(figure, bar.point, 6.5)[0] for bar in data.bars)
    right = 0.12 + max(text_in(figure, text, 6)[0] for text in shares)
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
        start, middle = 0.0, y + row_in / 2
        for part, colour in zip(data.parts, _cycled(PARTS, len(data.parts)), strict=True):
            length = bar.parts.get(part, 0)
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
        x += text_in(figure, part, 7)[0] * 1.12 + 0.1
    figure.text(
        1 - 0.06 / page_in, 1 - 0.31 / page_height, "share in %", fontsize=6, color="#555555", ha="right", va="center"
    )
    write_footer(figure, small)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"


def _cycled(colours: Sequence[str], count: int) -> list[str]:
    return [colours[place % len(colours)] for place in range(count)]
