"""Figures for a paper: PDF (fonts embedded as type 42), SVG (text as text), PNG; the caption as Markdown and LaTeX.

Conventions: lengths in inches, type sizes in points. The width is exactly that of a column or a page: type keeps its size in
the paper. The same data give the same bytes: no dates, no random identifiers. Drawing leaves the settings of Matplotlib as they
were and needs no display. A title whose characters no font has gives way to the id, with a warning. A FID of few patches has a
warning above it and KID below it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context

from hfdbench.analysis.curves import FigureData, datasets, figure_data
from hfdbench.analysis.ledger import LedgerData, ledger_data
from hfdbench.analysis.matched import MATCHED, at_rates, base_of, with_arrows
from hfdbench.analysis.relative import relative
from hfdbench.cards.schema import CodecCard, FigureCard
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.files.atomic import replacing, write_text
from hfdbench.metrics.registry import small_sample_note
from hfdbench.report import captions, fonts, text
from hfdbench.report.curves_figure import WIDTH_IN, curves_figure
from hfdbench.report.ledger_figure import ledger_figure
from hfdbench.report.style import RC, focused, hollow_marks, inks, kinds_of
from hfdbench.results.published import choose

FORMATS = ("pdf", "svg", "png")
METADATA = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Options:
    """How figures are drawn, beyond their cards.

    known: the codecs that have a card, by id: they steady the colours and tell ledgers; commit: of the data, printed
    below; width: instead of the card's; intervals: (points, column) -> lo and hi, for bands; published: all points of
    others, to lay over, of these `systems` when some are named; results: folder of the stored streams, for ledgers; focus,
    reference: instead of the card's.
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
    focus: Sequence[str] = ()
    reference: str | None = None


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Parameters
    ----------
    files : tuple of Path
        The figures and their captions.
    refused : tuple of Exception
        One for each figure that could not be drawn.
    not_overlaid : tuple of str
        Why figures have no published numbers though they were asked for.
    warnings : tuple of str
        What a figure shows in another way than asked for.
    """

    files: tuple[Path, ...]
    refused: tuple[Exception, ...]
    not_overlaid: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def draw_all(points: pd.DataFrame, cards: Iterable[FigureCard], out: Path, options: Options = Options()) -> Drawn:
    """Draw every card for every dataset it shows. Raises only when nothing could be drawn; `refused` names the rest."""
    files: list[Path] = []
    refused: list[Exception] = []
    not_overlaid: list[str] = []
    warnings: list[str] = []
    for card in cards:
        try:
            for dataset in datasets(points, card):
                try:
                    drawn = draw(points, card.model_copy(update={"dataset": dataset}), out, options)
                    files += drawn.files
                    not_overlaid += drawn.not_overlaid
                    warnings += drawn.warnings
                except (UsageError, Unavailable) as error:
                    refused.append(error)
        except UsageError as error:
            refused.append(error)
    if refused and not files:
        raise refused[0]
    return Drawn(tuple(files), tuple(refused), tuple(not_overlaid), tuple(dict.fromkeys(warnings)))


def draw(
    points: pd.DataFrame, card: FigureCard, out: Path = Path("reports/build"), options: Options = Options()
) -> Drawn:
    """Draw a card, one figure for each dataset: `out/<figure>-<dataset>.<format>`, its caption beside it as .md and .tex.

    Parameters
    ----------
    points : DataFrame
        The points table.
    card : FigureCard
    out : Path
        Folder of the files; made where it is missing.
    options : Options

    Returns
    -------
    Drawn

    Raises
    ------
    UsageError
        For an unknown name, and for fingerprints that cannot share an axis.
    Unavailable
        When no point has the values asked for.
    """
    for name in options.formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    if options.width not in (None, *WIDTH_IN):
        raise unknown("width", options.width, WIDTH_IN)
    focus = tuple(options.focus) or card.focus
    known = options.known or {}
    for codec in focus:
        if codec not in {*points["codec"], *known}:
            raise unknown("codec in focus", codec, {*points["codec"], *known})
    width = options.width or card.width
    marks = {} if options.published is None else hollow_marks(options.published["system"])
    every = [_panels(points, card, dataset, options) for dataset in datasets(points, card)]
    ink = focused(inks(points, kinds_of(known.values())), focus)
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    warnings: list[str] = []
    for panels in every:
        panels, settings = _printable(panels, warnings)
        data = panels[0]
        stem = f"{card.id}-{data.dataset}"
        with rc_context(RC | settings):
            source = captions.source(options.commit)
            if isinstance(data, LedgerData):
                figure = ledger_figure(data, width, source)
            else:
                curves = [panel for panel in panels if isinstance(panel, FigureData)]
                figure = curves_figure(curves, ink, width, source, marks, _warning(points, data))
            for name in options.formats:
                files.append(out / f"{stem}.{name}")
                with replacing(files[-1]) as temporary:
                    figure.savefig(temporary, format=name, dpi=300, metadata=METADATA[name])
        files += [out / f"{stem}.md", out / f"{stem}.tex"]
        further = tuple(panel.y.title for panel in panels[1:] if isinstance(panel, FigureData))
        write_text(files[-2], captions.markdown(data, card.note, options.commit, further))
        write_text(files[-1], captions.latex(data, card.note, options.commit, stem, further))
    refusals = (panels[0].not_overlaid for panels in every if isinstance(panels[0], FigureData))
    return Drawn(tuple(files), (), tuple(filter(None, refusals)), tuple(warnings))


def _panels(points: pd.DataFrame, card: FigureCard, dataset: str, options: Options) -> list[FigureData | LedgerData]:
    """The figure of a dataset, and the panels that stand below it."""
    known = options.known or {}
    if card.chart == "ledger":
        title = (options.dataset_titles or {}).get(dataset) or dataset
        return [ledger_data(points, card, dataset, title, known, options.results)]
    published = None if options.published is None else choose(options.published, options.systems)
    base, taken = "", []
    decoders: list[str] = []
    if card.join == "base":
        rows = points.loc[points["dataset"] == dataset]
        rows = rows[rows["codec"].isin(card.codecs)] if card.codecs else rows
        base, decoders = base_of(rows, known)
        points, taken = at_rates(rows, base, card.rates)
        if published is not None:
            near = [(published["bpp"] / rate - 1).abs() <= MATCHED for rate in taken]
            published = published.loc[pd.concat(near, axis=1).any(axis=1)]

    def drawn(card: FigureCard) -> FigureData:
        made = figure_data(
            points,
            card,
            dataset,
            dataset_titles=options.dataset_titles,
            known=known,
            intervals=options.intervals,
            published=published,
        )
        if not decoders:
            return made
        rates = " and ".join(f"{rate:.3g}" for rate in taken)
        facts = (
            *made.facts,
            f"all at {rates} bpp, within {100 * MATCHED:g} %; arrows: from {base} to decoders of its streams",
        )
        return replace(with_arrows(made, base, decoders), facts=facts)

    panels: list[FigureData | LedgerData] = [first := drawn(card)]
    if card.y == "fid" and _warning(points, first):
        with suppress(UsageError, Unavailable):  # points of an older hfdbench have no KID
            panels.append(drawn(card.model_copy(update={"y": "kid", "y_log": False, "y_range": None})))
    if reference := (options.reference if card.x == "bpp" else None) or card.reference:
        panels.append(relative(first, reference))
    return panels


def _warning(points: pd.DataFrame, data: FigureData) -> str:
    """What stands above a FID of few patches."""
    rows = points.loc[(points["dataset"] == data.dataset) & points["codec"].isin([c.codec for c in data.curves])]
    if "fid" not in (data.x.column, data.y.column) or "fid_patches" not in rows:
        return ""
    patches = int(rows["fid_patches"].dropna().min())
    return f"FID of {patches:,} patches is biased: see KID" if small_sample_note("fid", patches) else ""


def _printable(
    panels: list[FigureData | LedgerData], warnings: list[str]
) -> tuple[list[FigureData | LedgerData], dict[Any, Any]]:
    """The panels in characters that fonts have, and the settings that find these fonts."""
    written: list[str] = []
    for data in panels:
        written += [data.dataset_title, *_titles(data)]
    families, missing = fonts.families(map(text.plain, written))
    if missing:
        warnings.append(
            f'no installed font has "{missing}": ids stand in for the titles that need it; install one, such as Noto Sans CJK'
        )

    def shown(title: str, id_: str) -> str:
        title = text.plain(title)
        return id_ if set(title) & set(missing) else title

    made: list[FigureData | LedgerData] = []
    for data in panels:
        title = shown(data.dataset_title, data.dataset)
        if isinstance(data, LedgerData):
            bars = tuple(replace(bar, title=shown(bar.title, bar.codec)) for bar in data.bars)
            made.append(replace(data, dataset_title=title, bars=bars))
            continue
        curves = tuple(replace(curve, title=shown(curve.title, curve.codec)) for curve in data.curves)
        overlays = tuple(replace(overlay, label=shown(overlay.label, "?")) for overlay in data.overlays)
        made.append(replace(data, dataset_title=title, curves=curves, overlays=overlays))
    type_3 = any(fonts.is_postscript(name) for name in families if name not in fonts.FIRST)
    return made, {"font.family": families} | ({"pdf.fonttype": 3} if type_3 else {})


def _titles(data: FigureData | LedgerData) -> list[str]:
    if isinstance(data, LedgerData):
        return [bar.title for bar in data.bars]
    return [*(curve.title for curve in data.curves), *(overlay.label for overlay in data.overlays)]
