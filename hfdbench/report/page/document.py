"""What the page says in numbers and words: its JSON document, from stored trials and cards; no pictures.

Conventions: numbers of images are rounded to six digits; what a point lacks is null or left out, never NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.curves import IDENTITIES, stored_intervals
from hfdbench.analysis.seeds import mean_of_seeds, same_but_seed
from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import UsageError
from hfdbench.metrics.registry import METRICS
from hfdbench.progress import Progress
from hfdbench.report.style import Ink
from hfdbench.results.columns import POINT_COLUMNS as POINTS_COLUMNS
from hfdbench.results.stored import Results, StoredTrial

SYMBOLS = {  # Matplotlib's marker -> plotly's symbol
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left"},
    **{"P": "cross", "X": "x", "*": "star", "p": "pentagon", "h": "hexagon", "d": "diamond-tall", "8": "octagon"},
}
CROP_COLUMNS = ("bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s")
ENVIRONMENT = ("versions", "commit", "device", "cpu", "threads", "workers", "started_utc")


def chosen_trials(results: Results, only_codecs: Sequence[str], only_datasets: Sequence[str]) -> list[StoredTrial]:
    """List stored trials; of trials that differ in nothing but their key, the newest.

    Parameters
    ----------
    results : Results
    only_codecs, only_datasets : sequence of str
        Ids; all when empty. The id of a dataset covers its subsets.

    Returns
    -------
    list of StoredTrial
        By dataset, codec, rate and seed.

    Raises
    ------
    UsageError
        No stored point fits.
    """
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


@dataclass(frozen=True)
class Point:
    """A point over its seeds.

    Attributes
    ----------
    trial : StoredTrial
        Of the lowest seed, whose pictures are shown.
    row : mapping
        Of the trial; of several seeds their means and spreads, by `analysis.seeds.mean_of_seeds`.
    seeds : tuple of StoredTrial
        All of them by seed, where there are several.
    """

    trial: StoredTrial
    row: Mapping[Any, Any]
    seeds: tuple[StoredTrial, ...]


def over_seeds(trials: Sequence[StoredTrial]) -> list[Point]:
    """Put together the trials that differ in their seed alone, in their order."""
    rows = [trial.row for trial in trials]
    found = []
    for place, row in mean_of_seeds(pd.DataFrame(rows)).to_dict("index").items():
        if row.get("seeds", 1) == 1:
            found.append(Point(trials[int(place)], rows[int(place)], ()))
            continue
        same = [trial for trial, fits in zip(trials, same_but_seed(rows, row), strict=True) if fits]
        found.append(Point(trials[int(place)], row, tuple(sorted(same, key=lambda trial: trial.row["seed"]))))
    return found


def dataset_section(name: str, chosen: list[Point], card: DatasetCard | None) -> dict:
    """Describe a dataset: its images, and its points with the numbers of each image.

    Parameters
    ----------
    name : str
        Its id.
    chosen : list of Point
        Those of this dataset, at least one.
    card : DatasetCard or None
        Its card, if it has one.

    Returns
    -------
    dict
        A section of the document, still without intervals and pictures.
    """
    trials = [point.trial for point in chosen]
    crops = {trial.name: trial.read_images().to_pylist() for trial in trials}
    widest = max(crops.values(), key=len)
    found = parse_id(name)
    title = found.title(card.title if card and card.title else found.base)
    points = []
    for trial, point in zip(trials, chosen, strict=True):
        by_image = {crop["image"]: crop for crop in crops[trial.name] if crop["status"] == "ok"}
        rows = [by_image.get(crop["image"], {}) for crop in widest]
        points.append(
            {
                "name": trial.name,
                **{k: trial.row[k] for k in ("codec", "point", "status", "note", "seed", "device")},
                **{k: trial.row[k] for k in ("fid_label", "fid_protocol")},
                "ids": {k: trial.row.get(k) for k in set(IDENTITIES.values())},
                "values": _numbers(point.row),
                "seeds": [{"seed": t.row["seed"], "name": t.name, "values": _numbers(t.row)} for t in point.seeds],
                "intervals": {},
                "crops": {column: [rounded(row.get(column)) for row in rows] for column in CROP_COLUMNS},
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


def rounded(value: object) -> float | None:
    """Round a number to six digits.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    float or None
        None for what is not a finite number.
    """
    return float(f"{value:.6g}") if _is_number(value) else None


def _options(metadata: Mapping[str, Any]) -> dict:
    point = next(p for p in metadata["card"]["points"] if p["id"] == metadata["point"])
    return {"options": point["options"], "weights": {w["file"]: w["sha256"] for w in point["weights"]}}


def environments(sections: list[dict], trials: list[StoredTrial]) -> list[dict]:
    """List the environments of the runs, each once, and give every point the number of its own.

    Parameters
    ----------
    sections : list of dict
        Sections of the document; their points gain `environment`.
    trials : list of StoredTrial
        The trial of each point, in the order of the sections.

    Returns
    -------
    list of dict
        Versions, commit, device, processor, threads, workers and start.
    """
    found: list[dict] = []
    for point, trial in zip((p for s in sections for p in s["points"]), trials, strict=True):
        environment = {name: trial.metadata.get(name) for name in ENVIRONMENT}
        if environment not in found:
            found.append(environment)
        point["environment"] = found.index(environment)
    return found


def codec_entry(
    codec: str, ink: Ink, card: CodecCard | None, table: pd.DataFrame, author: Mapping[str, Any] | None = None
) -> dict:
    """Describe a codec: its name with its badge, how it is drawn, what its card says.

    Parameters
    ----------
    codec : str
        Its id.
    ink : Ink
        As in the figures.
    card : CodecCard or None
        Its card, where it is here.
    table : DataFrame
        The points table, with points of it.
    author : Mapping, optional
        Of a system measured by its author's pictures or streams: the stored card, which says where they are from.

    Returns
    -------
    dict
    """
    titles = table.loc[table["codec"] == codec, "title"]
    badge = ", ".join(sorted(set(table.loc[table["codec"] == codec, "badge"].dropna())))
    dash = "solid" if ink.style.dash == "solid" else ",".join(f"{4 * part:g}px" for part in ink.style.dash[1])
    return {
        "title": f"{titles.iloc[0] or codec}{f' ({badge})' if badge else ''}",
        "hollow": ink.hollow,
        "kind": table.loc[table["codec"] == codec, "kind"].iloc[0],
        "colour": ink.colour,
        "symbol": SYMBOLS[ink.marker],
        "dash": dash,
        "width": ink.style.width,
        "settings": card.settings if card else "",
        "source": author["settings"] if author else "",
        "paper": card.paper if card else "",
    }


def figure_entry(card: FigureCard) -> dict:
    """Describe a figure that the chart offers.

    Parameters
    ----------
    card : FigureCard

    Returns
    -------
    dict
        Id, title, axes and note of the card.
    """
    return {name: getattr(card, name) for name in ("id", "title", "x", "y", "x_log", "y_log", "dataset", "note")}


def metric_entries(table: pd.DataFrame) -> dict:
    """Describe every numeric column: what it is, how its axis is titled, what it is checked against.

    Parameters
    ----------
    table : DataFrame
        The points table.

    Returns
    -------
    dict of str to dict
        By column.
    """
    described = {column.name: column for column in POINTS_COLUMNS}
    columns = [c for c in table.columns if c != "seed" and table.loc[:, c].map(_is_number).any()]
    document = {}
    for column in columns:
        own = METRICS.get(column)
        document[column] = {
            "title": own.title if own else column,
            "name": own.name if own else column,
            "direction": own.direction if own else None,
            "reference": own.reference if own else None,
            "year": own.year if own else None,
            "decimals": own.decimals if own else None,
            "module": own.module.removeprefix("hfdbench.") if own else None,
            "top": own.range[1] if own and own.direction == "higher" else None,
            "unit": described[column].unit if column in described else "",
            "meaning": described[column].meaning.replace("`", "") if column in described else _meaning(column),
        }
    return document


def _meaning(column: str) -> str:
    """Of the columns that means over seeds have."""
    if column == "seeds":
        return "Seeds of the decoder that the row is the mean of."
    measured = column.removesuffix("_spread")
    return f"Standard deviation of {measured} over seeds of the decoder." if measured != column else ""


def _numbers(row: Mapping[str, Any]) -> dict:
    return {k: value for k, value in row.items() if _is_number(value) and k != "seed"}


def add_intervals(results: Results, chosen: list[Point], section: dict, slow: bool, progress: Progress) -> None:
    """Add the 95 % interval of every value that has one to the points of a section.

    Parameters
    ----------
    results : Results
    chosen : list of Point
        The section's, in order.
    section : dict
        Its points gain `intervals`, (low, high) by column.
    slow : bool
        Whether those that take minutes are computed, too.
    progress : Progress
        Told after each column.
    """
    rows = pd.DataFrame([point.row for point in chosen])
    look_up = stored_intervals(results, slow)
    for column in uncertainty.COLUMNS:
        for point, (low, high) in zip(section["points"], look_up(rows, column).itertuples(index=False), strict=True):
            if math.isfinite(low) and math.isfinite(high):
                point["intervals"][column] = [rounded(low), rounded(high)]
        progress.advance()
