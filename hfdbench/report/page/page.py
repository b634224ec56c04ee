"""The page: one HTML file that holds curves, pictures and the provenance of every number, and needs no network.

Conventions: the file is template/page.html with its style, scripts, plotly.js (of the Python package plotly), one JSON
document and one base64 element per picture. Sizes are in bytes, 1 MB = 1,000,000 bytes. Pictures are embedded in the
order of `pictures.worth_showing` until the file would pass its limit; a whole point has pictures or none.
"""

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hfdbench import __version__
from hfdbench.analysis import decoded as pictures
from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.curves import ENOUGH_PATCHES, IDENTITIES, stored_intervals
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
from hfdbench.datasets.dataset import open_dataset
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.atomic import replacing, write_text
from hfdbench.metrics.distribution.influence import pull
from hfdbench.metrics.distribution.patches import PATCH
from hfdbench.metrics.registry import METRICS
from hfdbench.report.style import Ink, inks
from hfdbench.report.tables import POINT_COLUMNS
from hfdbench.results.columns import POINT_COLUMNS as POINTS_COLUMNS
from hfdbench.results.parquet import read_table
from hfdbench.results.stored import Results, StoredTrial

if TYPE_CHECKING:
    from hfdbench.progress import Progress

QUALITY, MAX_MB, IMAGES = 80, 60.0, 24
SPARE = 150  # bytes a point is told after the pictures were chosen
TEMPLATE = Path(__file__).parent / "template"
SYMBOLS = {  # Matplotlib's marker -> plotly's symbol
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left"},
    **{"P": "cross", "X": "x", "*": "star", "p": "pentagon", "h": "hexagon", "d": "diamond-tall"},
}
CROP_COLUMNS = ("bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s")
ENVIRONMENT = ("versions", "commit", "device", "cpu", "threads", "workers", "started_utc")


@dataclass(frozen=True)
class Choice:
    """What the page holds.

    images: pictures of the first ones of each dataset; points: with pictures, per codec, None for all that fit; intervals:
    None for those that take seconds, True for those that take minutes too.
    """

    quality: int = QUALITY
    max_mb: float = MAX_MB
    images: int = IMAGES
    points: int | None = None
    intervals: bool | None = None

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--pictures-quality {self.quality}: must lie between 1 and 100")


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
    progress: "Progress | None" = None,
) -> Page:
    """Write the page of the points stored below `out` into `to`/index.html; no codecs or datasets: all of them.

    Raises UsageError when there are no points, and Unavailable when plotly is not installed.
    """
    script = _plotly()
    codecs, datasets = find_cards(CodecCard, cards), find_cards(DatasetCard, cards)
    results = Results.of(out)
    trials = _trials(results, only_codecs, [_named(spec) for spec in only_datasets])
    table = pd.DataFrame([trial.row for trial in trials])
    ink = inks(table, {card.id: card.kind for card in codecs.values()})
    grouped = {name: [t for t in trials if t.row["dataset"] == name] for name in sorted(set(table["dataset"]))}
    sections = [_section(name, some, datasets.get(parse_id(name).base)) for name, some in grouped.items()]
    document = {
        "version": __version__,
        "plotly": version("plotly"),
        "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": results.commit(),
        "quality": choice.quality,
        "patch": PATCH,
        "enough_patches": ENOUGH_PATCHES,
        "identities": IDENTITIES,
        "columns": [c for c in POINT_COLUMNS if c not in ("codec", "point", "dataset", "images")],
        "metrics": _metrics(table),
        "figures": [_figure(card) for card in figures if card.chart == "curves"],
        "codecs": {codec: _codec(codec, ink[codec], codecs.get(codec), table) for codec in ink},
        "environments": _shared(sections, [trial for some in grouped.values() for trial in some]),
        "datasets": sections,
    }
    progress = progress or _Silent()
    if choice.intervals is not False:
        progress.start(len(uncertainty.COLUMNS) * len(sections), "intervals")
        for section, some in zip(sections, grouped.values(), strict=True):
            _intervals(results, some, section, bool(choice.intervals), progress)
    frame, style, *program = (
        (TEMPLATE / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "chart.js", "viewer.js", "page.js")
    )
    fixed = len("".join([script, frame, style, *program, _json(document)]).encode())
    room = choice.max_mb * 1e6 - fixed - SPARE * (10 + len(trials))
    album = _Album(choice, codecs, data_root, cards, [s for s in only_datasets if s.startswith("folder:")], progress)
    for index, (section, some) in enumerate(zip(sections, grouped.values(), strict=True)):
        room -= album.add(index, section, some, room / (len(sections) - index))
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


class _Silent:
    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...


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
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


# ---- what is known without pictures


def _named(spec: str) -> str:
    return open_dataset(spec).id if spec.startswith("folder:") else spec


def _trials(results: Results, only_codecs: Sequence[str], only_datasets: Sequence[str]) -> list[StoredTrial]:
    """Stored trials, sorted; of trials that differ in nothing but their key the newest."""
    found = []
    for trial in results.newest():
        row = trial.row
        names = {row["dataset"], parse_id(row["dataset"]).base}
        if (not only_codecs or row["codec"] in only_codecs) and (not only_datasets or names & set(only_datasets)):
            found.append(trial)
    if not found:
        results.points()  # refuses a folder without any
        raise UsageError(f"{results.folder.root}: no stored point fits; hfdbench show lists what is there")
    return sorted(found, key=lambda t: (t.row["dataset"], t.row["codec"], t.row["bpp"] or 0, t.row["seed"]))


def _section(name: str, trials: list[StoredTrial], card: DatasetCard | None) -> dict:
    """A dataset: its images, and its points with the numbers of each image."""
    crops = {trial.name: trial.read_images().to_pylist() for trial in trials}
    widest = max(crops.values(), key=len)
    found = parse_id(name)
    title = found.title(card.title if card and card.title else found.base)
    points = []
    for trial in trials:
        by_image = {crop["image"]: crop for crop in crops[trial.name] if crop["status"] == "ok"}
        rows = [by_image.get(crop["image"], {}) for crop in widest]
        points.append(
            {
                "name": trial.name,
                **{k: trial.row[k] for k in ("codec", "point", "status", "note", "seed", "device")},
                **{k: trial.row[k] for k in ("fid_label", "fid_protocol")},
                "ids": {k: trial.row.get(k) for k in set(IDENTITIES.values())},
                "values": {k: value for k, value in trial.row.items() if _is_number(value) and k != "seed"},
                "intervals": {},
                "crops": {column: [_rounded(row.get(column)) for row in rows] for column in CROP_COLUMNS},
                "failed": [f"{crop['name']}: {crop['error']}" for crop in crops[trial.name] if crop["status"] != "ok"],
                "pictures": False,
                "reason": "",
                "differs": 0,
                "pull": None,
                "options": _options(trial.metadata),
                "keys": {k: trial.metadata.get(k) for k in ("dataset_sha256", "stream_key", "trial_key", "inception")},
            }
        )
    return {
        "id": name,
        "title": title,
        "licence": card.licence if card else "",
        "note": card.note if card else "",
        "images": [{k: crop[k] for k in ("name", "width", "height")} for crop in widest],
        "points": points,
        "pictures": 0,
        "loss_db": None,
        "no_pictures": "",
        "patches": None,
        "ranked": "fid" if any(trial.row["fid"] is not None for trial in trials) else "fd_mini",
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(value: object) -> float | None:
    return float(f"{value:.6g}") if _is_number(value) else None


def _options(metadata: dict) -> dict:
    point = next(p for p in metadata["card"]["points"] if p["id"] == metadata["point"])
    return {"options": point["options"], "weights": {w["file"]: w["sha256"] for w in point["weights"]}}


def _shared(sections: list[dict], trials: list[StoredTrial]) -> list[dict]:
    """Environments of the runs, each once; every point is given the number of its own."""
    found: list[dict] = []
    for point, trial in zip((p for s in sections for p in s["points"]), trials, strict=True):
        environment = {name: trial.metadata.get(name) for name in ENVIRONMENT}
        if environment not in found:
            found.append(environment)
        point["environment"] = found.index(environment)
    return found


def _codec(codec: str, ink: Ink, card: CodecCard | None, table: pd.DataFrame) -> dict:
    titles = table.loc[table["codec"] == codec, "title"]
    dash = "solid" if ink.style.dash == "solid" else ",".join(f"{4 * part:g}px" for part in ink.style.dash[1])
    return {
        "title": titles.iloc[0] or codec,
        "kind": table.loc[table["codec"] == codec, "kind"].iloc[0],
        "colour": ink.colour,
        "symbol": SYMBOLS[ink.marker],
        "dash": dash,
        "width": ink.style.width,
        "settings": card.settings if card else "",
        "paper": card.paper if card else "",
    }


def _figure(card: FigureCard) -> dict:
    return {name: getattr(card, name) for name in ("id", "title", "x", "y", "x_log", "y_log", "dataset", "note")}


def _metrics(table: pd.DataFrame) -> dict:
    """Every numeric column: what it is, how its axis is titled, what it is checked against."""
    described = {column.name: column for column in POINTS_COLUMNS}
    columns = [c for c in table.columns if c != "seed" and table[c].map(_is_number).any()]
    document = {}
    for column in columns:
        own = METRICS.get(column)
        document[column] = {
            "title": own.title if own else column,
            "name": own.name if own else column,
            "direction": own.direction if own else None,
            "reference": own.reference if own else None,
            "year": own.year if own else None,
            "module": own.module.removeprefix("hfdbench.") if own else None,
            "top": own.range[1] if own and own.direction == "higher" else None,
            "unit": described[column].unit if column in described else "",
            "meaning": described[column].meaning.replace("`", "") if column in described else "",
        }
    return document


# ---- pictures and what needs them


class _Album:
    """The pictures of a page, dataset by dataset: HTML elements, and notes on those that are missing or differ."""

    def __init__(self, choice: Choice, codecs: Mapping[str, CodecCard], data_root, cards, folders, progress):
        self._choice, self._codecs, self._progress = choice, codecs, progress
        self._place = {"data_root": data_root, "cards": cards, "folders": folders}
        self.elements: list[str] = []
        self.notes: list[str] = []

    def add(self, index: int, section: dict, trials: list[StoredTrial], room: float) -> int:
        """Embed pictures of a dataset while there is room; the bytes they take. Every point is told what became of it."""
        name, count = section["id"], min(self._choice.images, len(section["images"]))
        try:
            dataset = pictures.originals(name, trials[0].metadata["dataset_sha256"], **self._place)
            own = pictures.embed(pictures.load_originals(dataset, count), self._choice.quality)
            if _size(own) > room or not own.webp:
                raise Unavailable(
                    f"no room for pictures in {self._choice.max_mb:g} MB" if own.webp else "none were asked for"
                )
        except Unavailable as error:
            section["no_pictures"] = (
                "they were not at hand, or had no room, when it was made"  # the error may name folders
            )
            self.notes.append(f"{name}: no pictures: {error}")
            return 0
        section["pictures"], section["loss_db"] = count, _rounded(own.loss_db)
        used = (
            _size(own) + 40 * sum(image["width"] * image["height"] for image in section["images"][:count]) // PATCH**2
        )
        self._embed(f"{index}-o", own)
        order = _order(trials, self._choice.points)
        self._progress.start(count * len(order), f"pictures of {name}")
        for done, place in enumerate(order):
            trial, point = trials[place], section["points"][place]
            shown = self._decoded(trial, count)
            pulls = None if shown.reason else _pull(trial, section)
            added = _size(shown) + len(_json(pulls))
            if not shown.reason and used + added > room:
                limit = f"the file is limited to {self._choice.max_mb:g} MB"
                for other in order[done:]:
                    section["points"][other]["reason"] = limit
                self.notes.append(
                    f"{name}: {len(order) - done} of {len(order)} points without pictures: {limit} (--max-mb)"
                )
                break
            point["reason"], point["pictures"], point["differs"] = shown.reason, not shown.reason, shown.differs
            point["pull"] = pulls
            self._embed(f"{index}-{place}", shown)
            used += added
            if shown.reason:
                self.notes.append(f"{trial.name}: no pictures: {shown.reason}")
            if shown.differs:
                self.notes.append(f"{trial.name}: {shown.differs} pictures decode to other pixels than those measured")
        for place in set(range(len(trials))) - set(order):
            section["points"][place]["reason"] = "pictures of this point were not asked for"
        return used

    def _decoded(self, trial: StoredTrial, count: int) -> pictures.Pictures:
        card = self._codecs.get(trial.row["codec"])
        return pictures.decoded(trial, card, count, self._choice.quality, self._progress.advance)

    def _embed(self, prefix: str, shown: pictures.Pictures) -> None:
        for number, data in shown.webp.items():
            text = base64.b64encode(data).decode()
            self.elements.append(f'<script type="text/plain" id="p-{prefix}-{number}">{text}</script>')


def _size(shown: pictures.Pictures) -> int:
    """Bytes that pictures take in the file."""
    return sum(4 * math.ceil(len(data) / 3) + 64 for data in shown.webp.values())


def _order(trials: list[StoredTrial], limit: int | None) -> list[int]:
    """Places of the trials whose pictures are wanted, those first that compare best."""
    places: dict[str, list[int]] = {}
    for place, trial in enumerate(trials):
        if trial.row["bpp"]:
            places.setdefault(trial.row["codec"], []).append(place)
    rates = {codec: [trials[place].row["bpp"] for place in some] for codec, some in places.items()}
    return [places[codec][i] for codec, i in pictures.worth_showing(rates, limit)]


def _pull(trial: StoredTrial, section: dict) -> list[float] | None:
    """Pull of every patch of the pictured images on the distance that the section ranks by; None without features."""
    files = uncertainty.sources(trial, section["ranked"])
    if not files:
        return None
    own, reference = files
    places = read_table(own, ["image", "top", "left"])
    seen = np.array(places["image"]) < section["pictures"]
    if not seen.any() or len(places) < 3:
        return None
    if section["patches"] is None:
        section["patches"] = {name: np.array(places[name])[seen].tolist() for name in ("image", "top", "left")}
    kept = trial.results.folder.pull(own, reference)
    if kept.exists():
        values = np.load(kept)
    else:
        values = pull(uncertainty.features(reference)[0], uncertainty.features(own)[0])
        with replacing(kept) as temporary, open(temporary, "wb") as file:
            np.save(file, values)
    return [float(f"{value:.4g}") for value in values[seen]]


def _intervals(results: Results, trials: list[StoredTrial], section: dict, slow: bool, progress: "Progress") -> None:
    """95 % intervals of every value that has them; slow: those that take minutes too."""
    rows = pd.DataFrame([trial.row for trial in trials])
    look_up = stored_intervals(results, slow)
    for column in uncertainty.COLUMNS:
        for point, (low, high) in zip(section["points"], look_up(rows, column).itertuples(index=False), strict=True):
            if math.isfinite(low) and math.isfinite(high):
                point["intervals"][column] = [_rounded(low), _rounded(high)]
        progress.advance()
