"""The page: one HTML file that holds curves, pictures and the provenance of every number, and needs no network.

Conventions: the file is template/page.html with its style, scripts, plotly.js (of the Python package plotly), one JSON
document (page.document) and one base64 element per picture (page.album). Sizes are in bytes, 1 MB = 1,000,000 bytes.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template

import pandas as pd

from hfdbench import __version__
from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.curves import ENOUGH_PATCHES, IDENTITIES
from hfdbench.analysis.seeds import with_spreads
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
from hfdbench.datasets.dataset import dataset_id
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import Unavailable
from hfdbench.files.atomic import write_text
from hfdbench.metrics.distribution.patches import PATCH
from hfdbench.progress import Progress, Silent
from hfdbench.report.page.album import Album, Choice
from hfdbench.report.page.document import (
    add_intervals,
    chosen_trials,
    codec_entry,
    dataset_section,
    environments,
    figure_entry,
    metric_entries,
    over_seeds,
)
from hfdbench.report.style import inks, kinds_of
from hfdbench.report.tables import shown_columns
from hfdbench.report.text import to_json
from hfdbench.results.stored import Results

SPARE = 150  # bytes that a point takes after the pictures were chosen
TEMPLATE = Path(__file__).parent / "template"


@dataclass(frozen=True)
class Page:
    """What was written: the file, its size, and what a reader of stderr must know."""

    path: Path
    bytes: int
    notes: tuple[str, ...]


def write_page(
    out: Path,
    to: Path,
    figures: Iterable[FigureCard],
    choice: Choice = Choice(),
    only_codecs: Sequence[str] = (),
    only_datasets: Sequence[str] = (),
    data_root: Path | None = None,
    cards: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Page:
    """Write the page of the points stored below `out` into `to`/index.html; no codecs or datasets: all of them.

    Raises UsageError when there are no points, and Unavailable when plotly is not installed.
    """
    script = _plotly()
    codecs, datasets = find_cards(CodecCard, cards), find_cards(DatasetCard, cards)
    results = Results.of(out)
    trials = chosen_trials(results, only_codecs, [dataset_id(spec) for spec in only_datasets])
    authors = {trial.row["codec"]: trial.metadata["card"] for trial in trials if trial.row["badge"]}
    table = pd.DataFrame([trial.row for trial in trials])
    ink = inks(table, kinds_of(codecs.values()))
    grouped = {
        name: over_seeds([t for t in trials if t.row["dataset"] == name]) for name in sorted(set(table["dataset"]))
    }
    means = pd.DataFrame([point.row for some in grouped.values() for point in some])
    sections = [dataset_section(name, some, datasets.get(parse_id(name).base)) for name, some in grouped.items()]
    document = {
        "version": __version__,
        "plotly": version("plotly"),
        "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": results.commit(),
        "quality": choice.quality,
        "patch": PATCH,
        "enough_patches": ENOUGH_PATCHES,
        "identities": IDENTITIES,
        "columns": [
            c for c in with_spreads(shown_columns(means), means) if c not in ("codec", "point", "dataset", "images")
        ],
        "metrics": metric_entries(means),
        "figures": [figure_entry(card) for card in figures if card.chart == "curves"],
        "codecs": {
            codec: codec_entry(codec, ink[codec], codecs.get(codec), table, authors.get(codec)) for codec in ink
        },
        "environments": environments(sections, [point.trial for some in grouped.values() for point in some]),
        "datasets": sections,
    }
    progress = progress or Silent()
    if choice.intervals is not False:
        progress.start(len(uncertainty.COLUMNS) * len(sections), "intervals")
        for section, some in zip(sections, grouped.values(), strict=True):
            add_intervals(results, some, section, bool(choice.intervals), progress)
    frame, style, *program = (
        (TEMPLATE / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "chart.js", "viewer.js", "page.js")
    )
    fixed = len("".join([script, frame, style, *program, _json(document)]).encode())
    room = choice.max_mb * 1e6 - fixed - SPARE * (10 + len(trials))
    album = Album(choice, codecs, data_root, cards, [s for s in only_datasets if s.startswith("folder:")], progress)
    for index, (section, some) in enumerate(zip(sections, grouped.values(), strict=True)):
        room -= album.add(index, section, [point.trial for point in some], room / (len(sections) - index))
    text = Template(frame).substitute(
        title=html.escape(f"hfdbench: {', '.join(section['title'] for section in sections)}"),
        style=style,
        data=_json(document),
        plotly=_inert(script),
        script=_inert("".join(program)),
        pictures="\n".join(album.elements),
    )
    path = to / "index.html"
    write_text(path, text)
    return Page(path, path.stat().st_size, tuple(album.notes))


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise Unavailable("the page needs the Python package plotly", "pip install 'hfdbench[page]'") from None
    return get_plotlyjs()


def _inert(script: str) -> str:
    """A script that cannot close its element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _json(value: object) -> str:
    return to_json(value, separators=(",", ":")).replace("<", "\\u003c")
