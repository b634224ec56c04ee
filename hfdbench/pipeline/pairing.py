"""Files of others beside the images of a dataset: which file belongs to which image, and what fits none.

Conventions: names are compared by stem, the file name without its suffix. Images are numbered as in the dataset.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfdbench.datasets.dataset import Dataset
from hfdbench.datasets.ids import printable

LOSSY = {"JPEG": (0, b"\xff\xd8\xff"), "lossy WebP": (8, b"WEBPVP8 "), "AVIF": (4, b"ftypavif")}


@dataclass(frozen=True)
class Pairs:
    """Which files belong to which images.

    Attributes
    ----------
    files : dict of int to Path
        The file of each image that has exactly one, in the order of the images.
    lonely : dict of int to str
        Why each other image has none.
    strangers : tuple of (str, str)
        Name and reason of files that belong to no image.
    """

    files: dict[int, Path]
    lonely: dict[int, str]
    strangers: tuple[tuple[str, str], ...]


def paired(dataset: Dataset, files: Iterable[Path], what: str = "decoded picture") -> Pairs:
    """Pair files with the images of a dataset.

    Parameters
    ----------
    dataset : Dataset
    files : iterable of Path
    what : str
        What a message calls such a file.

    Returns
    -------
    Pairs
    """
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    images: dict[str, list[int]] = {}
    for image, path in enumerate(dataset.paths):
        images.setdefault(path.stem, []).append(image)
    found, lonely = {}, {}
    for stem, numbers in images.items():
        own = by_stem.pop(stem, [])
        if len(numbers) == len(own) == 1:
            found[numbers[0]] = own[0]
        elif not own:
            lonely |= dict.fromkeys(numbers, f"no {what} has its stem")
        else:
            names = ", ".join([*(dataset.names[n] for n in numbers), *(printable(path.name) for path in own)])
            lonely |= dict.fromkeys(numbers, f"several pictures of one stem ({names}); keep one on each side")
    strangers = [(printable(path.name), "no original has its stem") for paths in by_stem.values() for path in paths]
    return Pairs(dict(sorted(found.items())), lonely, tuple(strangers))


def lossy_kind(path: Path) -> str | None:
    """Return the lossy format that a file is in, one of `LOSSY`; None for any other, and where it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return None
    return next((kind for kind, (place, magic) in LOSSY.items() if head.startswith(magic, place)), None)


def several(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names: "a, b, c and 7 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
