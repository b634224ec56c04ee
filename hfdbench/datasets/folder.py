"""The images of a folder, and what else lies there."""

import logging
from functools import cache
from pathlib import Path

from hfdbench.datasets.ids import printable
from hfdbench.datasets.image_files import image_suffix

MOST_NAMED = 10
log = logging.getLogger(__name__)


def pictures_in(folder: Path) -> list[Path]:
    """Image files of a folder, by name; neither hidden ones nor those of folders inside it."""
    return sorted((path for path in _visible(folder) if _is_image(path)), key=lambda path: path.name)


def left_out(folder: Path) -> tuple[str, ...]:
    """Everything in a folder that is not taken as an image of it, except for hidden files.

    Parameters
    ----------
    folder : Path
        A folder.

    Returns
    -------
    tuple of str
        Names with the reason, sorted: "notes.txt (not an image file)".
    """
    reasons = []
    for path in _visible(folder):
        if path.is_dir():
            reason = "a folder"
        elif path.is_symlink() and not path.exists():
            reason = "a broken link"
        elif not image_suffix(path.name):
            reason = "not an image file by its suffix"
        elif not path.is_file():
            reason = "not a file"
        else:
            continue
        reasons.append(f"{printable(path.name)} ({reason})")
    return tuple(sorted(reasons))


@cache  # once for each folder and state of it
def report_left_out(folder: Path, names: tuple[str, ...]) -> None:
    """Say on stderr what a folder leaves out: how many, and their names."""
    if names:
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        shown = ", ".join(names[:MOST_NAMED])
        log.warning("%s: %s entries are left out: %s%s", folder, f"{len(names):,}", shown, more)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_image(path: Path) -> bool:
    return image_suffix(path.name) and path.is_file()
