"""Numbers of others, each with its source, laid over a figure of the same dataset and protocol, and over no other.

Conventions: one row is one value of one metric at one point. Files are CSV (UTF-8, a head line) or Parquet with the same
columns, all of them present; empty means none. A byte-order mark, any line end and empty columns at the end, as spreadsheets
write them, are ignored. The bundled folder results/published/ is read first, then <out>/published/, where `hfdbench import`
and users put theirs.

    system          who is measured, as its paper calls it: HiFiC
    variant         which curve of it, when there are several: beta 2.56
    point           which point of the curve: the metrics of one point share it
    dataset         id of our dataset card: kodak, clic
    protocol        how the metric was taken: `published` of its row in metrics.registry; another text, such as "fid256,
                    pytorch-fid", never meets a figure of ours
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

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hfdbench.cards.find import bundled_root
from hfdbench.errors import UsageError, unknown
from hfdbench.files.atomic import write_text
from hfdbench.files.remote import located
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
    """All published points: the bundled ones and those below `out`.

    Parameters
    ----------
    out : Path, optional
        Folder of results; its `published/` is read after the bundled one.

    Returns
    -------
    DataFrame
        The columns of COLUMNS.

    Raises
    ------
    UsageError
        For a file that is not right, or a point that is given twice.
    """
    every = _with_files(out)
    twice = every.duplicated(IDENTITY)
    if twice.any():
        row = every[twice].iloc[0]
        same = every.loc[(every[IDENTITY] == row[IDENTITY]).all(axis=1), "file"].unique()
        raise UsageError(
            f"{row['file']}: {_named(row)} is given twice ({' and '.join(same)}); remove one, or tell them apart by variant"
        )
    return every.drop(columns="file")


def _with_files(out: Path | None) -> pd.DataFrame:
    """The points, and the file that each is from."""
    roots = [bundled_root() / "results", *([] if out is None else [located(out)])]
    folders = list(dict.fromkeys((root / "published").resolve() for root in roots))
    paths = [path for folder in folders for kind in ("csv", "parquet") for path in sorted(folder.glob(f"*.{kind}"))]
    frames = [read_file(path) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS, "file"])


def read_file(path: Path) -> pd.DataFrame:
    """One file of published points. Raises UsageError naming file, row, column, cause and hint."""
    if path.suffix == ".parquet":
        try:
            frame = pd.read_parquet(path)
        except Exception as error:
            raise UsageError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fix or delete it") from None
    else:
        frame = read_csv(path)
    for column in COLUMNS:
        if column not in frame.columns:
            raise UsageError(f'{path}: column "{column}" is missing; columns: {", ".join(COLUMNS)}')
    for column in frame.columns:
        if column not in COLUMNS:
            raise UsageError(f"{path}: {unknown('column', column, COLUMNS)}")
    return checked(frame, path).assign(file=str(path))


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text cells, whatever program wrote it.

    A byte-order mark, any line end, spaces around names, empty lines, and empty cells and columns at the end are ignored.

    Raises
    ------
    UsageError
        For a file that cannot be read, or a row with more cells than the head line names.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if any(map(str.strip, line))]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check its name and permissions") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from None
    if not lines:
        raise UsageError(f"{path}: is empty; give a head line and a row for each value")
    head = [name.strip() for name in lines[0]]
    while head and not head[-1]:
        head.pop()
    if len(head) == 1 and ";" in head[0]:
        raise UsageError(f"{path}: its cells are separated by semicolons; save it with commas")
    if len(set(head)) < len(head) or "" in head:
        raise UsageError(f"{path}: a column has no name, or the name of another; fix its head line")
    for number, line in enumerate(lines[1:], 2):
        if any(map(str.strip, line[len(head) :])):
            raise UsageError(f"{path}, row {number}: has {len(line)} cells, the head line names {len(head)}")
    rows = [[cell.strip() for cell in line[: len(head)]] + [""] * (len(head) - len(line)) for line in lines[1:]]
    return pd.DataFrame(rows, columns=head, dtype=object)


def checked(frame: pd.DataFrame, name: Path | str) -> pd.DataFrame:
    """The columns of COLUMNS in their types.

    Parameters
    ----------
    frame : DataFrame
        Cells as text or as numbers.
    name : Path or str
        What a message calls their file.

    Raises
    ------
    UsageError
        For a value that cannot be right, naming its row; the head line counts as row 1.
    """
    frame = frame.loc[:, list(COLUMNS)].reset_index(drop=True)
    for column in TEXT:
        frame[column] = frame[column].fillna("").astype(str)
    for column in NUMBERS:
        frame[column] = _numbers(name, frame, column)
    for place, row in enumerate(frame.to_dict("records")):
        _check(f"{name}, row {place + 2}", row)
    return frame


def keep(rows: pd.DataFrame, out: Path, name: Path | str) -> Path:
    """Write the points of one curve below `out`, as a file of their own that is named by system, variant and dataset.

    Parameters
    ----------
    rows : DataFrame
        The columns of COLUMNS, of one system, variant and dataset.
    out : Path
        Folder of results.
    name : Path or str
        The file that they come from, for messages.

    Returns
    -------
    Path
        The file written. The same rows may be kept again.

    Raises
    ------
    UsageError
        When a value cannot be right, or a point of that name is there with other values; nothing is written then.
    """
    rows = checked(rows, name)
    twice = rows[rows.duplicated(IDENTITY)]
    if len(twice):
        raise UsageError(f"{name}: {_named(twice.iloc[0])} is given twice; tell the curves apart by variant")
    first = rows.iloc[0]
    stem = "-".join(part for part in (first["system"], first["variant"], first["dataset"]) if part)
    target = located(out) / "published" / f"{''.join(c if c.isalnum() or c in '.+-' else '_' for c in stem)}.csv"
    known = _with_files(out).set_index(IDENTITY)
    for row in rows.to_dict("records"):
        place = tuple(row[column] for column in IDENTITY)
        if place not in known.index:
            continue
        same = known.loc[[place]].iloc[0]
        if (same["bpp"], same["value"]) != (row["bpp"], row["value"]) or str(target.resolve()) != same["file"]:
            raise UsageError(
                f"{name}: {_named(row)} is known already, as {same['value']:g} at {same['bpp']:g} bpp from {same['source']} "
                f"({same['file']}); name this curve with --variant, or delete that file to replace it"
            )
    if target.exists() and set(map(tuple, read_file(target)[IDENTITY].to_numpy())) - set(
        map(tuple, rows[IDENTITY].to_numpy())
    ):
        raise UsageError(
            f"{target}: holds other points of {first['system']}; name this curve with --variant, or delete the file"
        )
    write_text(target, rows.to_csv(index=False, lineterminator="\n"))
    return target


def _numbers(name: Path | str, frame: pd.DataFrame, column: str) -> pd.Series:
    given = frame.loc[:, column].map(lambda value: None if value == "" else value)
    numbers = pd.Series(pd.to_numeric(given, errors="coerce"), dtype=float)
    wrong = ~numbers.map(math.isfinite) & given.notna()
    if column not in OPTIONAL:
        wrong |= numbers.isna()
    if wrong.any():
        index = wrong.idxmax()
        raise UsageError(f'{name}, row {index + 2}: {column} "{frame[column][index]}" is not a number; fix it')
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
    return published.loc[wanted]


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
    of_metric = published.loc[published["metric"].isin(axes)]
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
    theirs = sorted(
        {f"{row['metric']} of {row['dataset']} ({row['protocol']})" for row in of_metric.to_dict("records")}
    )
    return f"published points are not overlaid: they are {', '.join(theirs)}; the figure shows {ours}"


def _origin(rows: pd.DataFrame) -> str:
    parts = []
    groups: Any = rows.groupby(["badge", "source", "note"])
    for (badge, source, note), some in groups:
        off = some[some["plus_minus"] > 0].groupby("metric")["plus_minus"].max()
        readings = (f"{METRICS[metric].name} ±{value:g}" for metric, value in off.items())
        words = [badge, *readings, source, *([note] if note else [])]
        parts.append(", ".join(words))
    return "; ".join(parts)


def summary(published: pd.DataFrame) -> pd.DataFrame:
    """What there is, a row per curve, dataset and source: for `hfdbench list published`."""
    groups: Any = published.groupby(["system", "variant", "dataset", "badge", "source"], sort=True)

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
