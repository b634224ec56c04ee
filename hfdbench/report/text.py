"""Foreign text made safe for where it is printed: a terminal, Markdown, LaTeX, CSV, XML, JSON.

Conventions: titles, ids, file names and messages come from other people. Each function returns text that its reader shows as
it stands: nothing in it is read as mark-up, as a formula or as a command of the terminal. A character that cannot be shown
appears as its escape, such as \\x1b.
"""

import json
import re
import unicodedata

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reorder what follows
ENDS = frozenset("\t\n\r\v\f\x85\u2028\u2029")
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs a cell that begins with one of these

TEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\ a bare one opens an optional argument, and a bare * means "no page break"
    "*": "{*}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "–": "--",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\textsuperscript{\textdagger}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
}


def plain(text: object) -> str:
    """Text on one line, of characters that a terminal shows.

    Line ends and tabs become spaces; control characters, lone surrogates and marks that reorder text become escapes.

    Parameters
    ----------
    text : object
        Anything; its `str` is taken.

    Returns
    -------
    str
        Can be encoded as UTF-8, and is allowed in XML.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character in ENDS:
        return " "
    if unicodedata.category(character) in ("Zs", "Cf") and character not in BIDI:
        return character  # no-break spaces; joiners, which scripts and emoji need
    return character.encode("unicode_escape").decode("ascii")


def width(text: str) -> int:
    """Columns that a terminal gives to a text: two for a wide East Asian character, none for a combining mark."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)


def tex(text: object) -> str:
    """Text that LaTeX prints as it stands, in a paragraph or a cell."""
    return "".join(TEX.get(character, character) for character in plain(text))


def markdown(text: object) -> str:
    """Text that Markdown (GitHub's too) prints as it stands, in a paragraph or a cell."""
    escaped = re.sub(r"[\\`*<>|$~\[\]]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", plain(text))
    return re.sub(r"^([-+#]|\d+[.)])(?=\s|$)", r"\\\1", escaped)


def csv(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: one that begins like one is given an apostrophe in front."""
    shown = plain(text)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown


def to_json(value: object, **options) -> str:
    """JSON (never NaN) that any terminal shows and any file can hold: lone surrogates and controls are escapes.

    Parameters
    ----------
    value : object
        What `json.dumps` takes.
    **options
        Further arguments of `json.dumps`, such as `indent`.
    """
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", _json_escape, dumped)


def _json_escape(found: re.Match) -> str:
    return f"\\u{ord(found[0]):04x}"
