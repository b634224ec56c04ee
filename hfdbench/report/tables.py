"""Any table as text: aligned for a terminal, Markdown and LaTeX to be read; JSON and CSV, unrounded, to be read back.

Conventions: a null is "-" in print, null in JSON, an empty field in CSV, never NaN. Numbers are rounded by the unit in
the column's name: bpp to 4 decimals, dB and FID to 2, seconds to 3 significant digits. An interval follows its value in
print and has columns of its own, <column>_lo and <column>_hi, in JSON and CSV. Codecs are at one rate when their bpp lie
within 5 % of the lowest of them; the best of them is bold in Markdown and LaTeX.

A point that lacks images is marked †, never bold, and explained below the table; so are a FID by other weights than the
published ones and one of few patches. Points that were decoded without a sandbox, or on several classes of processors between
which their pixels may differ, are named, too. One that its authors coded, or decoded too, is marked ‡, and not bold where its
rate is an estimate. JSON and CSV name all this in the columns `status`, `seal`, `processor`, `tolerance`, `badge`, `fid_label`
and `fid_patches`, which are added where they say such a thing. A CSV cell that a spreadsheet would take for a formula begins
with an apostrophe.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hfdbench.analysis.curves import ENOUGH_PATCHES, FINGERPRINTED
from hfdbench.analysis.seeds import several_devices
from hfdbench.errors import unknown
from hfdbench.metrics.registry import METRICS, identity, small_sample_note
from hfdbench.report import text

FORMATS = ("table", "json", "csv", "markdown", "latex")
POINT_COLUMNS = [
    "codec",
    "point",
    "dataset",
    "images",
    "bpp",
    "psnr_db",
    "ms_ssim",
    "fid",
    "kid",
    "fd_mini",
    "encode_s",
    "decode_s",
]
IF_MEASURED = ("lpips", "lpips_vgg", "dists", "ssimulacra2", "butteraugli_3norm")  # shown, too, where a point has them
ONE_RATE = 1.05
BOLD = "Bold: the best of the codecs whose rates lie within 5 %."
MARK = "†"  # of a point that lacks images
AUTHORS = "‡"  # of a point that its authors coded, or decoded too


@dataclass(frozen=True)
class Cell:
    """One printed value. `mark`: stands behind it; `gap`: some room above its row."""

    text: str
    bold: bool = False
    interval: str = ""
    mark: str = ""
    gap: bool = False


def shown_columns(points: pd.DataFrame) -> list[str]:
    """Columns of the points table that are printed when none are chosen: those on request where a point has a value."""
    place = POINT_COLUMNS.index("fid")
    measured = [name for name in IF_MEASURED if name in points and points.loc[:, name].count()]
    return [*POINT_COLUMNS[:place], *measured, *POINT_COLUMNS[place:]]


def render(frame: pd.DataFrame, form: str = "table", columns: Iterable[str] | None = None) -> str:
    """The table in a form of FORMATS, ending in a newline; all columns when none are chosen.

    Raises UsageError for a form or column that is not known, naming the nearest.
    """
    if form not in FORMATS:
        raise unknown("table format", form, FORMATS)
    columns = list(frame.columns if columns is None else columns)
    for column in columns:
        if column not in frame.columns:
            raise unknown("column", column, frame.columns)
    frame = frame.loc[:, columns]
    if form == "json":
        records = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        return text.to_json(records, indent=2) + "\n"
    if form == "csv":
        safe = frame.apply(
            lambda column: column.map(lambda value: text.csv(value) if isinstance(value, str) else value)
        )
        return (safe if len(frame) else frame).to_csv(index=False, lineterminator="\n")
    return _print(form, columns, _cells(frame), frame)


def render_points(
    points: pd.DataFrame,
    form: str = "table",
    columns: Iterable[str] | None = None,
    intervals: Callable[[pd.DataFrame, str], pd.DataFrame] | None = None,
) -> str:
    """The points table; Markdown and LaTeX are made for a paper: rows of one rate stand together, the best value is bold.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table.
    form : str
        One of FORMATS.
    columns : iterable of str, optional
        Columns to print, in order; all by default.
    intervals : callable, optional
        (points, column) -> frame with `lo` and `hi`, indexed like the points; printed where there are some.

    Returns
    -------
    str
        Ends in a newline.

    Raises
    ------
    UsageError
        For a form or column that is not known, naming the nearest.
    """
    columns = list(points.columns if columns is None else columns)
    paper = form in ("markdown", "latex")
    rate = pd.Series(dtype=int)
    if paper:
        rate = one_rate(points)
        points = points.assign(_rate=rate).sort_values(["dataset", "_rate", "codec", "bpp"], kind="stable")
        rate = points.pop("_rate")
    if form in ("json", "csv"):
        columns += [name for name in _caveats(points, columns) if name not in columns]
    plain = render(points, form, columns)  # refuses unknown names before the intervals are computed
    measured = [name for name in columns if name in METRICS and name in points]
    found = {} if intervals is None else {name: intervals(points, name) for name in measured}
    found = {name: bounds for name, bounds in found.items() if bounds.loc[:, "lo"].notna().any()}
    if form in ("json", "csv"):
        wide = points.assign(
            **{f"{name}_{side}": bounds[side] for name, bounds in found.items() for side in ("lo", "hi")}
        )
        sides = {name: [f"{name}_lo", f"{name}_hi"] if name in found else [] for name in columns}
        return render(wide, form, [each for name in columns for each in (name, *sides[name])]) if found else plain
    frame = points.loc[:, columns]
    cells = _cells(frame)
    for name, bounds in found.items():
        place = columns.index(name)
        for row, (lo, hi) in zip(cells, bounds[["lo", "hi"]].to_numpy().tolist(), strict=True):
            if not _missing(lo):
                row[place] = replace(row[place], interval=f"[{_cell(name, lo)}, {_cell(name, hi)}]")
    marked = next((columns.index(name) for name in ("point", "codec") if name in columns), 0)
    for mark, rows in ((MARK, _incomplete(points)), (AUTHORS, _badges(points) != "")):
        for row in rows.to_numpy().nonzero()[0]:
            cells[row][marked] = replace(cells[row][marked], mark=cells[row][marked].mark + mark)
    if paper:
        for place, name in enumerate(columns):
            for row in _best(points, rate, name, [row[place].text for row in cells]):
                cells[row][place] = replace(cells[row][place], bold=True)
        for row in range(1, len(cells)):
            if rate.iloc[row] != rate.iloc[row - 1]:
                cells[row][0] = replace(cells[row][0], gap=True)
    return _print(form, columns, cells, frame, caveats(points, columns))


def render_values(values: pd.DataFrame, form: str = "table") -> str:
    """A table of metrics, a row each, rounded as in the points table.

    Parameters
    ----------
    values : DataFrame
        Columns `column` (of the points table), `value`, `lo`, `hi` (NaN where there is no interval) and `id`.
    form : str
        One of FORMATS.
    """
    rows = []
    for column, value, lo, hi, fingerprint in values[["column", "value", "lo", "hi", "id"]].values.tolist():
        interval = "" if _missing(lo) else f"[{_cell(column, lo)}, {_cell(column, hi)}]"
        unit = METRICS[column].unit_or_none
        rows.append((METRICS[column].name, _cell(column, value), interval, unit, fingerprint or ""))
    return render(pd.DataFrame(rows, columns=["metric", "value", "95 % interval", "unit", "fingerprint"]), form)


def caveats(points: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """What must be known to read these columns of these points, such as missing images, no sandbox, other weights, few patches.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table.
    columns : iterable of str
        The columns that are shown.

    Returns
    -------
    list of str
        Sentences; the first ones begin with the mark of the points they are about.
    """
    columns, notes = list(columns), []
    for row in points.loc[_incomplete(points)].to_dict("records"):
        why = row.get("note") or "some images failed"
        notes.append(
            f"{MARK} {row['codec']} {row['point']} on {row['dataset']}: {row['status']} ({why}); not comparable."
        )
    if _unsealed(points).any():
        codecs = ", ".join(sorted(set(points.loc[_unsealed(points), "codec"])))
        notes.append(f"Decoded without a sandbox (seal: process): {codecs}.")
    notes += [_across(points)] if len(_processors(points)) > 1 else []
    if devices := several_devices(points, columns):
        notes.append(f"Times are of several devices ({', '.join(devices)}): compare them on one alone.")
    for badge, some in points.groupby(_badges(points)):
        if badge:
            notes.append(f"{AUTHORS} {', '.join(sorted(set(some['codec'])))}: {badge}.")
    shown = [name for name in columns if name in FINGERPRINTED]
    if not shown:
        return notes
    names = ", ".join(METRICS[name].name for name in shown if name in METRICS)
    for name in _caveats(points, columns):
        if name == "fid_label":
            labels = sorted({label for label in points["fid_label"].dropna() if label not in ("", "FID")})
            kinds = ", ".join(label.removeprefix("FID").strip(" ()") for label in labels)
            notes.append(f"{names}: by {kinds}, not by the published weights; compare only among themselves.")
        if name == "fid_patches":
            counts = points.loc[_few(points), "fid_patches"].astype(int)
            notes += [f"{small_sample_note('fid', count)}." for count in sorted(set(counts))]
    return notes


def _unsealed(points: pd.DataFrame) -> pd.Series:
    """Which points were decoded without a sandbox."""
    if "seal" not in points:
        return pd.Series(False, index=points.index)
    return points.loc[:, "seal"].fillna("").str.contains("process")


def _across(points: pd.DataFrame) -> str:
    """What a reader must know where points of decoders with a tolerance were decoded by several classes of processors."""
    levels = max(int(each) for each in points["tolerance"].dropna().tolist())
    return (
        f"Decoded on {' and on '.join(_processors(points))}: between them the pixels of learned codecs may differ by {levels} "
        f"grey level{'s' * (levels > 1)}."
    )


def _processors(points: pd.DataFrame) -> list[str]:
    """Classes of processors, and of devices, that decoded points which have a tolerance."""
    if not {"tolerance", "processor", "device"} <= set(points.columns):
        return []
    some = points.loc[points["tolerance"].fillna(0) > 0]
    places = zip(some["processor"].fillna(""), some["device"], strict=True)
    classes = {(name, device) for names, device in places for name in names.split(", ") if name}
    return sorted(name if device == "cpu" else f"{device} beside {name}" for name, device in classes)


def _caveats(points: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Columns that say what must be known about these ones."""
    found = ["status"] if _incomplete(points).any() else []
    found += ["seal"] if _unsealed(points).any() else []
    found += ["processor", "tolerance"] if len(_processors(points)) > 1 else []
    if several_devices(points, columns):
        found += [name for name in ("device", "device_name") if name in points]
    found += ["badge"] if (_badges(points) != "").any() else []
    if any(name in FINGERPRINTED for name in columns):
        labels = points.get("fid_label")
        if labels is not None and not labels.dropna().isin(["", "FID"]).all():
            found.append("fid_label")
        if "fid" in columns and _few(points).any():
            found.append("fid_patches")
    return found


def _incomplete(points: pd.DataFrame) -> pd.Series:
    """Which points lack images: partial and failed ones."""
    if "status" not in points:
        return pd.Series(False, index=points.index)
    return points.loc[:, "status"].ne("ok")


def _badges(points: pd.DataFrame) -> pd.Series:
    """The badge of each point, "" for what was coded and decoded here."""
    if "badge" not in points:
        return pd.Series("", index=points.index)
    return points.loc[:, "badge"].fillna("")


def _few(points: pd.DataFrame) -> pd.Series:
    """Which points have a FID of too few patches."""
    if "fid_patches" not in points or "fid" not in points:
        return pd.Series(False, index=points.index)
    return points.loc[:, "fid"].notna() & points.loc[:, "fid_patches"].astype(float).lt(ENOUGH_PATCHES)


def one_rate(points: pd.DataFrame) -> pd.Series:
    """A number for each point, equal for points of a dataset at one rate: within 5 % of the lowest of them."""
    numbers = pd.Series(-1, index=points.index)
    number = -1
    for _, some in points.sort_values("bpp").groupby("dataset"):
        lowest = -math.inf
        for index, bpp in some["bpp"].items():
            if not bpp <= lowest * ONE_RATE:
                number, lowest = number + 1, bpp
            numbers[index] = number
    return numbers


def _best(points: pd.DataFrame, rate: pd.Series, column: str, texts: list[str]) -> list[int]:
    """Rows, by place, that hold the best value of their rate; none where one codec is alone or fingerprints differ.

    Points that lack images take no part, since their values are those of other images; nor do estimated rates.
    """
    if column not in METRICS or METRICS[column].computed == "pipeline":
        return []
    rows = pd.DataFrame({"value": points[column].astype(float), "codec": points["codec"], "text": texts, "rate": rate})
    rows["identity"] = points.get(identity(column), "")
    rows["place"] = range(len(rows))
    rows = rows.loc[~_incomplete(points) & ~_badges(points).str.endswith("estimated")]
    found = []
    for _, some in rows.dropna(subset="value").groupby("rate"):
        if some["codec"].nunique() > 1 and some["identity"].nunique(dropna=False) == 1:
            best = some["value"].idxmin() if METRICS[column].direction == "lower" else some["value"].idxmax()
            found += list(some["place"][some["text"] == some["text"][best]])  # equal as printed: equally good
    return found


def _cells(frame: pd.DataFrame) -> list[list[Cell]]:
    return [
        [Cell(_cell(name, value)) for name, value in zip(frame.columns, row, strict=True)]
        for row in frame.values.tolist()
    ]


def _print(
    form: str, columns: list[str], cells: list[list[Cell]], frame: pd.DataFrame, notes: Iterable[str] = ()
) -> str:
    right = [
        all(_missing(value) or isinstance(value, int | float) for value in frame[name].tolist()) for name in columns
    ]
    return {"table": _table, "markdown": _markdown, "latex": _latex}[form](columns, cells, right, list(notes))


def _plain(value: Any) -> object:
    """A value JSON knows: numbers stay exact, null for what is missing."""
    if _missing(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str) else str(value)


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value))


def _cell(column: str, value: object) -> str:
    if _missing(value) or value == "":
        return "-"
    if not isinstance(value, float):
        return str(value)
    column = column.removesuffix("_spread")
    if column in METRICS and (decimals := METRICS[column].decimals) is not None:
        return f"{value:.{decimals}f}"
    if column.endswith("_s"):
        return _significant(value, 3)
    return str(int(value)) if value.is_integer() else _significant(value, 4)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _table(columns: list[str], cells: list[list[Cell]], right: list[bool], notes: list[str]) -> str:
    texts = [[text.plain(f"{cell.text}{cell.mark} {cell.interval}").rstrip() for cell in row] for row in cells]
    widths = [max(map(text.width, column)) for column in zip(columns, *texts, strict=True)]
    rows = [columns, ["-" * width for width in widths], *texts]

    def padded(cell: str, width: int, to_right: bool) -> str:
        room = " " * (width - text.width(cell))
        return room + cell if to_right else cell + room

    lines = ("  ".join(map(padded, row, widths, right)).rstrip() for row in rows)
    return _lines([*lines, *([""] if notes else []), *map(text.plain, notes)])


def _markdown(columns: list[str], cells: list[list[Cell]], right: list[bool], notes: list[str]) -> str:
    def printed(cell: Cell) -> str:
        escaped = text.markdown(cell.text) + cell.mark
        return " ".join(filter(None, [f"**{escaped}**" if cell.bold else escaped, cell.interval]))

    rows = [columns, ["---:" if to_right else "---" for to_right in right], *([*map(printed, row)] for row in cells)]
    below = [*map(text.markdown, notes), *([BOLD] if any(cell.bold for row in cells for cell in row) else [])]
    return _lines([*("| " + " | ".join(row) + " |" for row in rows), *(part for note in below for part in ("", note))])


def _latex(columns: list[str], cells: list[list[Cell]], right: list[bool], notes: list[str]) -> str:
    def printed(cell: Cell) -> str:
        escaped = text.tex(cell.text) + text.tex(cell.mark)
        bold = rf"\textbf{{{escaped}}}" if cell.bold else escaped
        return " ".join(filter(None, [bold, rf"{{\scriptsize {cell.interval}}}" if cell.interval else ""]))

    def line(row: list[str]) -> str:
        return "  " + " & ".join(row) + r" \\"

    spec = "".join("r" if to_right else "l" for to_right in right)
    head = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{spec}}}", r"  \toprule", line([*map(text.tex, columns)])]
    body = [part for row in cells for part in ([r"  \addlinespace"] * row[0].gap + [line([*map(printed, row)])])]
    above = [f"% {BOLD.replace('%', 'per cent')}"] if any(cell.bold for row in cells for cell in row) else []
    below = [rf"\par{{\footnotesize {text.tex(note)}}}" for note in notes]
    return _lines([*above, *head, r"  \midrule", *body, r"  \bottomrule", r"\end{tabular}", *below])


def _lines(rows: Iterable[str]) -> str:
    return "\n".join(rows) + "\n"
