"""Numbers of others, each with its source, laid over a figure of the same dataset and protocol, and over no other.

Conventions: one row is one value of one metric at one point. Files are CSV (UTF-8, a head line) or Parquet with the same
columns, all of them present; empty means none. The bundled folder results/published/ is read first, then <out>/published/,
where `hfdbench import` and users put theirs.

    system          who is measured, as its paper calls it: HiFiC
    variant         which curve of it, when there are several: beta 2.56
    point           which point of the curve: the metrics of one point share it
    dataset         id of our dataset card: kodak, clic
    protocol        how the metric was taken: `published` of its row in metrics.registry; another text never meets a figure of ours
    bpp             rate in bits per pixel, as the source averages it; > 0
    metric          a column of the points table that is a metric: psnr_db, fid
    value           in the unit of that column
    plus_minus      uncertainty of the reading of `value`, in its unit
    bpp_plus_minus  the same of `bpp`
    badge           author-file: numbers in a file of the system's authors; re-run: somebody else ran it;
                    digitised: read off a picture
    source          where: repository and file, or address
    note            what a reader must know, a few words; printed in captions
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hfdbench.cards.find import bundled_root
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.registry import METRICS, PATCHES

TEXT = ("system", "variant", "point", "dataset", "protocol", "metric", "badge", "source", "note")
NUMBERS = ("bpp", "value", "plus_minus", "bpp_plus_minus")
COLUMNS = (*TEXT[:5], "bpp", "metric", "value", "plus_minus", "bpp_plus_minus", *TEXT[6:])
OPTIONAL = ("variant", "note", "plus_minus", "bpp_plus_minus")  # may be empty
IDENTITY = ["system", "variant", "point", "dataset", "protocol", "metric"]
BADGES = ("author-file", "re-run", "digitised")


@dataclass(frozen=True)
class Overlay:
    """One published curve on a figure; `x`, `y` and their uncertainties (0: none given) are of equal length."""

    system: str
    label: str
    points: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_plus_minus: tuple[float, ...]
    y_plus_minus: tuple[float, ...]
    origin: str  # badge, uncertainty, source and note in words

    def within(self, x: tuple[float, float], y: tuple[float, float]) -> "Overlay":
        """The points inside these ranges."""
        kept = [i for i in range(len(self.x)) if x[0] <= self.x[i] <= x[1] and y[0] <= self.y[i] <= y[1]]
        columns = ("points", "x", "y", "x_plus_minus", "y_plus_minus")
        return replace(self, **{name: tuple(getattr(self, name)[i] for i in kept) for name in columns})


def read(out: Path | None = None) -> pd.DataFrame:
    """All published points: the bundled ones and those below `out`. Raises UsageError for a file that is not right."""
    roots = [bundled_root() / "results", *([] if out is None else [Path(out)])]
    folders = list(dict.fromkeys((root / "published").resolve() for root in roots))
    paths = [path for folder in folders for kind in ("csv", "parquet") for path in sorted(folder.glob(f"*.{kind}"))]
    frames = [read_file(path) for path in paths]
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    every = pd.concat(frames, ignore_index=True)
    twice = every.duplicated(IDENTITY)
    if twice.any():
        row = every[twice].iloc[0]
        raise UsageError(
            f"{row['file']}: {_named(row)} is given twice (or in another file of {', '.join(map(str, folders))}); "
            "remove one, or tell them apart by variant"
        )
    return every.drop(columns="file")


def read_file(path: Path) -> pd.DataFrame:
    """One file of published points. Raises UsageError naming file, row, column, cause and hint."""
    try:
        frame = (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        )
    except Exception as error:
        raise UsageError(f"{path}: cannot be read ({str(error).splitlines()[0]}); mend or delete it") from None
    for column in COLUMNS:
        if column not in frame.columns:
            raise UsageError(f'{path}: column "{column}" is missing; columns: {", ".join(COLUMNS)}')
    for column in frame.columns:
        if column not in COLUMNS:
            raise UsageError(f"{path}: {unknown('column', column, COLUMNS)}")
    frame = frame[list(COLUMNS)]
    for column in TEXT:
        frame[column] = frame[column].fillna("").astype(str)
    for column in NUMBERS:
        frame[column] = _numbers(path, frame, column)
    for place, row in enumerate(frame.to_dict("records")):
        _check(f"{path}, row {place + 2}", row)
    return frame.assign(file=str(path))


def _numbers(path: Path, frame: pd.DataFrame, column: str) -> pd.Series:
    given = frame[column].map(lambda value: None if value == "" else value)
    numbers = pd.to_numeric(given, errors="coerce").astype(float)
    wrong = ~numbers.map(math.isfinite) & given.notna()
    if column not in OPTIONAL:
        wrong |= numbers.isna()
    if wrong.any():
        index = wrong.idxmax()
        raise UsageError(f'{path}, row {index + 2}: {column} "{frame[column][index]}" is not a number; mend it')
    return numbers


def _check(place: str, row: Mapping) -> None:
    for column in TEXT:
        if column not in OPTIONAL and not row[column]:
            raise UsageError(f"{place}: {column} is empty; every point needs one")
    if row["badge"] not in BADGES:
        raise UsageError(f"{place}: {unknown('badge', row['badge'], BADGES)}")
    if row["metric"] not in METRICS:
        raise UsageError(f"{place}: {unknown('metric', row['metric'], METRICS)}")
    low, high = METRICS[row["metric"]].range
    if (low is not None and row["value"] < low) or (high is not None and row["value"] > high):
        raise UsageError(f"{place}: {row['metric']} {row['value']:g} is out of its range; is its unit that of ours?")
    if row["bpp"] <= 0:
        raise UsageError(f"{place}: bpp {row['bpp']:g} must be above 0")
    for column in ("plus_minus", "bpp_plus_minus"):
        if row[column] < 0:
            raise UsageError(f"{place}: {column} {row[column]:g} must not be below 0")


def _named(row: Mapping) -> str:
    return " ".join(str(row[name]) for name in IDENTITY if row[name])


def choose(published: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    """Rows of these systems (any case; "system variant" means that curve); all when none is named."""
    if not systems:
        return published
    names = published["system"].str.lower()
    labels = (published["system"] + " " + published["variant"]).str.strip().str.lower()
    wanted = pd.Series(False, index=published.index)
    for name in systems:
        fits = (names == name.lower()) | (labels == name.lower())
        if not fits.any():
            raise unknown("published system", name, set(published["system"]))
        wanted |= fits
    return published[wanted]


def protocol(column: str, rows: pd.DataFrame) -> str:
    """How a column of our points was taken, in the words of the published files; "" where nothing can compare."""
    protocol = METRICS[column].published if column in METRICS else ""
    if protocol != PATCHES:
        return protocol
    # A FID by other weights than the published ones has another protocol.
    label = rows["fid_label"].iloc[0]
    cut = str(rows["fid_protocol"].iloc[0])
    return cut if label == "FID" else f"{cut}, {str(label).removeprefix('FID').strip(' ()')}"


def overlays(
    published: pd.DataFrame, dataset: str, x: str, y: str, protocols: Mapping[str, str]
) -> tuple[Overlay, ...]:
    """Published curves for a figure of a dataset with these axes. `protocols`: of each axis but bpp.

    Raises UsageError, naming theirs and ours, when every published point is of another dataset or protocol.
    """
    axes = [column for column in (x, y) if column != "bpp"]
    of_metric = published[published["metric"].isin(axes)]
    fits = (of_metric["dataset"] == dataset) & (of_metric["protocol"] == of_metric["metric"].map(protocols))
    rows = of_metric[fits]
    identity = ["system", "variant", "point", "source"]
    counted = rows.groupby(identity)["metric"].nunique()
    whole = set(counted[counted == len(axes)].index)
    rows = rows[[key in whole for key in rows[identity].itertuples(index=False, name=None)]]
    if rows.empty:
        raise UsageError(_refusal(of_metric, dataset, axes, protocols))
    found = []
    for (system, variant), some in rows.groupby(["system", "variant"]):
        first = some[some["metric"] == axes[0]].sort_values(["bpp", "point"])
        where = {
            metric: part.set_index(identity).reindex(pd.MultiIndex.from_frame(first[identity]))
            for metric, part in some.groupby("metric")
        }
        value = {"bpp": (where[axes[0]]["bpp"], where[axes[0]]["bpp_plus_minus"])}
        value |= {metric: (part["value"], part["plus_minus"]) for metric, part in where.items()}
        found.append(
            Overlay(
                system=system,
                label=f"{system} {variant}".strip(),
                points=tuple(first["point"]),
                x=tuple(value[x][0].astype(float)),
                y=tuple(value[y][0].astype(float)),
                x_plus_minus=tuple(value[x][1].astype(float).fillna(0)),
                y_plus_minus=tuple(value[y][1].astype(float).fillna(0)),
                origin=_origin(some),
            )
        )
    return tuple(sorted(found, key=lambda overlay: overlay.label.lower()))


def _refusal(of_metric: pd.DataFrame, dataset: str, axes: Sequence[str], protocols: Mapping[str, str]) -> str:
    absent = [column for column in axes if column not in set(of_metric["metric"])]
    if absent:
        return f"published points are not overlaid: none has {' or '.join(absent)}"
    ours = " and ".join(
        f"{column} of {dataset} ({protocols.get(column) or 'a protocol of our own'})" for column in axes
    )
    theirs = sorted({f"{row.metric} of {row.dataset} ({row.protocol})" for row in of_metric.itertuples()})
    return f"published points are not overlaid: they are {', '.join(theirs)}; the figure shows {ours}"


def _origin(rows: pd.DataFrame) -> str:
    parts = []
    for (badge, source, note), some in rows.groupby(["badge", "source", "note"]):
        off = some[some["plus_minus"] > 0].groupby("metric")["plus_minus"].max()
        readings = (f"{METRICS[metric].name} ±{value:g}" for metric, value in off.items())
        words = [badge, *readings, source, *([note] if note else [])]
        parts.append(", ".join(words))
    return "; ".join(parts)


def summary(published: pd.DataFrame) -> pd.DataFrame:
    """What there is, a row per curve, dataset and source: for `hfdbench list published`."""
    groups = published.groupby(["system", "variant", "dataset", "badge", "source"], sort=True)

    def each(items: Iterable[str]) -> str:
        return " ".join(sorted(set(items)))

    rows = [
        dict(
            system=system,
            variant=variant,
            dataset=dataset,
            points=some["point"].nunique(),
            metrics=each(some["metric"]),
            protocols=each(part.replace(" ", "-") for part in some["protocol"]),
            badge=badge,
            source=source,
        )
        for (system, variant, dataset, badge, source), some in groups
    ]
    return pd.DataFrame(
        rows, columns=["system", "variant", "dataset", "points", "metrics", "protocols", "badge", "source"]
    )
