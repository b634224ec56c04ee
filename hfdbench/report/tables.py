"""Any table as text: aligned for a terminal, Markdown and LaTeX to be read; JSON and CSV, unrounded, to be read back.

Conventions: a null is "-" in print, null in JSON, an empty field in CSV, never NaN. Numbers are rounded by the unit in
the column's name: bpp to 4 decimals, dB and FID to 2, seconds to 3 significant digits.
"""

import json
import math
from collections.abc import Iterable

import pandas as pd

from ..errors import unknown

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
    "encode_s",
    "decode_s",
]
LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def render(frame: pd.DataFrame, form: str = "table", columns: Iterable[str] | None = None) -> str:
    """The table in a form of FORMATS, ending in a newline; all columns when none are chosen.

    Raises BadRequest for a form or column that is not known, naming the nearest.
    """
    if form not in FORMATS:
        raise unknown("table format", form, FORMATS)
    columns = list(frame.columns if columns is None else columns)
    for column in columns:
        if column not in frame.columns:
            raise unknown("column", column, frame.columns)
    frame = frame[columns]
    if form == "json":
        records = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        return json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    cells = [[_cell(name, value) for name, value in zip(columns, row, strict=True)] for row in frame.values.tolist()]
    right = [
        all(_missing(value) or isinstance(value, int | float) for value in frame[name].tolist()) for name in columns
    ]
    return {"table": _table, "markdown": _markdown, "latex": _latex}[form](columns, cells, right)


def _plain(value: object) -> object:
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
    if column.startswith("bpp") or column == "ms_ssim":
        return f"{value:.4f}"
    if column.endswith("_db") or column == "fid":
        return f"{value:.2f}"
    if column.startswith("kid"):
        return f"{value:.5f}"
    if column.endswith("_s"):
        return _significant(value, 3)
    return str(int(value)) if value.is_integer() else _significant(value, 4)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _table(columns: list[str], cells: list[list[str]], right: list[bool]) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    rows = [columns, ["-" * width for width in widths], *cells]
    return _lines(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def _markdown(columns: list[str], cells: list[list[str]], right: list[bool]) -> str:
    rows = [columns, ["---:" if to_right else "---" for to_right in right], *cells]
    return _lines("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)


def _latex(columns: list[str], cells: list[list[str]], right: list[bool]) -> str:
    def line(row: list[str]) -> str:
        escaped = ("".join(LATEX.get(character, character) for character in cell) for cell in row)
        return "  " + " & ".join(escaped) + r" \\"

    spec = "".join("r" if to_right else "l" for to_right in right)
    head = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{spec}}}", r"  \toprule", line(columns), r"  \midrule"]
    return _lines([*head, *map(line, cells), r"  \bottomrule", r"\end{tabular}"])


def _lines(rows: Iterable[str]) -> str:
    return "\n".join(rows) + "\n"
