"""Bring a dataset from its official address: downloaded, checked, unpacked, and every file looked at.

Conventions
    place     data root / folder of the card. It appears whole, by one rename, or not at all.
    resume    what has arrived is kept in `.fetch/` below the data root; the next run asks for the rest (`files.download`).
    archives  only images are taken out, without their folders (`files.archive`).
    checks    size and sha256 where the card lists them, the number of images, and that each is an image by its content.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets.dataset import listed_names, members, packaged
from hfdbench.datasets.folder import pictures_in
from hfdbench.datasets.image_files import image_suffix, picture_size
from hfdbench.errors import ImageError, Unavailable, UsageError
from hfdbench.files import places
from hfdbench.files.archive import unpack
from hfdbench.files.download import Patience, download, file_name, part_of
from hfdbench.files.remote import RemotePath


@dataclass(frozen=True)
class Fetched:
    """Where a dataset's pictures are. `fresh`: they were downloaded just now."""

    card: str
    folder: Path | None
    pictures: int
    fresh: bool

    def __str__(self) -> str:
        if self.folder is None:
            return f"{self.card}: {self.pictures} pictures come with installed packages; nothing to fetch"
        return f"{self.card}: {self.pictures:,} pictures in {self.folder}{'' if self.fresh else ' (already there)'}"


def fetch(
    card: DatasetCard, data_root: Path | None = None, *, progress: bool = True, patience: Patience | None = None
) -> Fetched:
    """Bring a dataset's pictures below the data root; do nothing when they are there. Progress goes to stderr.

    Raises Unavailable when the network, the server or the file it serves is at fault, and UsageError when this machine is: a full
    disk, or a folder that holds something else.
    """
    if card.package:
        return Fetched(card.id, None, len(packaged(card)), fresh=False)
    root = places.data_root(data_root)
    if isinstance(root, RemotePath):
        raise UsageError(
            f"{root}: fetch writes to this machine alone; fetch to a folder, then: aws s3 sync FOLDER {root}"
        )
    folder = root / (card.folder or "")
    if folder.is_dir() and any(folder.iterdir()):
        return Fetched(card.id, folder, len(members(card, folder)), fresh=False)
    if not card.sources:
        raise Unavailable(f"dataset {card.id} has no official address", f"put its pictures into {folder}")
    wanted = set(listed_names(card)) if card.names else None
    work = root / ".fetch" / (card.folder or "")
    files = [work / f"{number:03d}-{file_name(source.url)}" for number, source in enumerate(card.sources)]
    _make_folder(work)
    _check_disk(card, files, root)
    # A dry disk or a killed process leaves `work` as it is: the next run goes on from there.
    for source, file in zip(card.sources, files, strict=True):
        download(source, file, progress=progress, patience=patience or Patience())
    new, seen = work / "pictures", set()
    shutil.rmtree(new, ignore_errors=True)
    _make_folder(new)
    try:
        for source, file in zip(card.sources, files, strict=True):
            if source.unpack:
                unpack(file, source.unpack, new, lambda name: _is_wanted(name, wanted))
            else:
                shutil.copyfile(file, new / file_name(source.url))
            _check_images(card, new, seen)
        _check_count(card, new, len(wanted) if wanted else None)
        if folder.is_dir():
            folder.rmdir()  # an empty one would keep the rename from working
        new.rename(folder)
    except OSError as error:
        raise UsageError(f"dataset {card.id}: cannot write to {root}: {error.strerror}; make room there") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    return Fetched(card.id, folder, len(members(card, folder)), fresh=True)


def _is_wanted(name: str, listed: set[str] | None) -> bool:
    return image_suffix(name) and (listed is None or name in listed or Path(name).stem in listed)


def _check_images(card: DatasetCard, folder: Path, seen: set[Path]) -> None:
    """Open the header of every new file: one that is no image is refused now, not when it is read."""
    for path in pictures_in(folder):
        if path not in seen:
            seen.add(path)
            try:
                picture_size(path)
            except ImageError as error:
                raise Unavailable(
                    f"dataset {card.id}: its sources hold a file that is no image: {error}",
                    f"the official files have changed; fix {card.source}",
                ) from None


def _check_count(card: DatasetCard, folder: Path, listed: int | None) -> None:
    found, expected = len(pictures_in(folder)), listed or card.pool or card.count
    if found == 0 or (expected is not None and found != expected):
        raise Unavailable(
            f"dataset {card.id}: its sources hold {found:,} of its pictures, expected {expected or 'some'}",
            f"the official files have changed; fix {card.source}",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}; give another --data-root") from None


def _check_disk(card: DatasetCard, files: list[Path], root: Path) -> None:
    need_bytes = 0
    for source, file in zip(card.sources, files, strict=True):
        here = next((path.stat().st_size for path in (file, part_of(file)) if path.is_file()), 0)
        # Twice: the download, and the pictures taken out of it.
        need_bytes += max(0, (source.bytes or 0) - here) + (source.bytes or 0)
    free_bytes = shutil.disk_usage(root).free
    if need_bytes > free_bytes:
        raise UsageError(
            f"dataset {card.id} needs {need_bytes / 1e9:.1f} GB below {root}, where {free_bytes / 1e9:.1f} GB are free; "
            "make room or give another --data-root"
        )
