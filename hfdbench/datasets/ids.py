"""Names of datasets: "kodak", "kodak@4" for its first four images, "folder:PATH" for a folder without a card."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from hfdbench.errors import UsageError

FOLDER = "folder:"
MOST_CHARACTERS = 40  # of a folder's name in an id, which becomes part of file names


class DatasetId(NamedTuple):
    """An id taken apart.

    Attributes
    ----------
    base : str
        Id of the whole set, or "folder:PATH".
    limit : int or None
        Number of its first images, None for all.
    """

    base: str
    limit: int | None = None

    def __str__(self) -> str:
        return self.base if self.limit is None else f"{self.base}@{self.limit}"

    def title(self, whole: str) -> str:
        """Title of the set, from that of the whole one."""
        return whole if self.limit is None else f"{whole}, first {self.limit:,} images"


def parse_id(text: str) -> DatasetId:
    """Take an id apart.

    Parameters
    ----------
    text : str
        Such as "kodak", "kodak@4", "folder:PATH".

    Returns
    -------
    DatasetId
        A "@" in the path of a folder belongs to the path.

    Raises
    ------
    UsageError
        When what follows "@" is not a number from 1.
    """
    base, found, limit = text.partition("@")
    if not found or text.startswith(FOLDER):
        return DatasetId(text)
    if not limit.isascii() or not limit.isdecimal() or int(limit) < 1:
        raise UsageError(f'dataset "{text}": "{limit}" is not a number of images; write {base}@4 for the first four')
    return DatasetId(base, int(limit))


def folder_id(folder: Path, sha256: str) -> str:
    """Id of a folder's images: its name, as readable as an id may be, and the start of the images' sha256.

    Parameters
    ----------
    folder : Path
        The folder. Accents are dropped from Latin letters; letters of other scripts stay; the rest becomes "_".
    sha256 : str
        Of names and contents.

    Returns
    -------
    str
        At most 60 characters.
    """
    name = unicodedata.normalize("NFC", printable(folder.resolve().name)).lower()
    letters = []
    for letter in name:
        plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
        letters.append(plain if plain.isascii() else letter)
    short = re.sub(r"[^\w.+-]+", "_", "".join(letters)).strip("_")[:MOST_CHARACTERS].rstrip("_")
    return f"folder-{short or 'root'}-{sha256[:8]}"


def printable(name: str) -> str:
    r"""A file name for people and tables: bytes that are not UTF-8 as \xNN."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
