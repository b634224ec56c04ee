"""Fonts that have every character of a figure's text, or the characters that no font of this machine has.

Conventions: FIRST comes with Matplotlib, so figures look the same everywhere; another installed font is taken only for
characters that FIRST lacks, Chinese ones for example.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from matplotlib import font_manager

FIRST = ("STIXGeneral", "DejaVu Sans")  # the first matches a body set in Times
NOT_TEXT = "Last Resort"  # a font of placeholders: it claims every character


def families(texts: Iterable[str]) -> tuple[list[str], str]:
    """Font families for some text.

    Parameters
    ----------
    texts : iterable of str
        All that a figure says in words of others.

    Returns
    -------
    families : list of str
        FIRST, and the installed fonts that are needed besides, in the order in which Matplotlib is to try them.
    missing : str
        Characters that none of them has.
    """
    missing = {character for text in texts for character in text if not character.isspace()}
    found: list[str] = []
    for name in (*FIRST, *_installed()):
        if not missing:
            break
        has = {character for character in missing if ord(character) in _characters(name)}
        if has and name not in FIRST:
            found.append(name)
        missing -= has
    return [*FIRST, *found], "".join(sorted(missing))


def is_postscript(family: str) -> bool:
    """Whether a font's outlines are PostScript's (CFF), which PDF cannot embed as type 42."""
    return _path(family).read_bytes()[:4] == b"OTTO" or b"CFF " in _path(family).read_bytes()[:2048]


def _installed() -> list[str]:
    names = {entry.name for entry in font_manager.fontManager.ttflist if entry.style == "normal"}
    return sorted(name for name in names if name not in FIRST and not name.startswith(NOT_TEXT))


def _path(family: str) -> Path:
    return Path(font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False))


@cache
def _characters(family: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(str(_path(family))).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font file that cannot be read is not used
        return frozenset()
