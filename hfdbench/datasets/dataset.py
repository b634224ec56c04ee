"""A dataset: a named, ordered, hashed list of pictures, each read on demand in one stated form.

Conventions
    picture   uint8, H x W x 3, sRGB, by the rules of `ingest`, then brought to the card's crop:
              none        as it is.
              center256   the 256 x 256 pixels at its centre (rounded towards the top left); a smaller picture is refused.
              resize256   its central square of the short side, resized to 256 x 256 by Pillow's bicubic filter, which
                          averages when it shrinks.
    order     that of the card's list of names; by file name without one; with a pool, that of its choice (below).
    sha256    of ingest version, crop, and name and content of every picture of the set or subset.
    limit     the first N pictures in that order: another dataset, with an id ("kodak@4") and a title of its own.

Choice from a pool: a card with `pool` names a set of `count` pictures out of a larger folder. They are the first `count`,
in the order of the sha256 of their file names (UTF-8; hexadecimal), that have both sides of at least 256 pixels. The
choice depends on the published archive alone. It is written beside the folder at the first opening, with its own
sha256, and read from there afterwards.
"""

import hashlib
import importlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets.folder import left_out, pictures_in, report_left_out
from hfdbench.datasets.ids import FOLDER, DatasetId, folder_id, parse_id, printable
from hfdbench.datasets.image_files import SUFFIXES, picture_size, read_image, rules_version
from hfdbench.errors import ImageError, Unavailable, UsageError, no_folder
from hfdbench.files import places
from hfdbench.files.atomic import write_text
from hfdbench.files.digest import file_sha256
from hfdbench.files.remote import located

CROP = 256


@dataclass(frozen=True)
class Dataset:
    """The pictures of a card or folder, or the first few of them. Holds names and places, no pixels.

    expected_patches: FID/256 patches of the whole set as its card states them, None for a subset or where unknown.
    """

    id: str
    title: str
    protocol: str
    crop: str
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    sha256: str
    expected_patches: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, images: Sequence[int]) -> "Dataset":
        """Some of its images, in that order, with the sha256 of those; the dataset itself when they are all."""
        if list(images) == list(range(len(self))):
            return self
        paths = tuple(self.paths[image] for image in images)
        return replace(
            self,
            names=tuple(self.names[image] for image in images),
            paths=paths,
            sha256=_digest(paths, self.crop),
            expected_patches=None,
        )

    def load(self, index: int) -> np.ndarray:
        """Picture number `index`: uint8, H x W x 3. Raises ImageError naming the file and the cause."""
        return cropped(read_image(self.paths[index]), self.crop, self.names[index])


def open_dataset(
    spec: str, *, cards: Iterable[Path] = (), data_root: Path | None = None, limit: int | None = None
) -> Dataset:
    """Open a dataset.

    Parameters
    ----------
    spec : str
        A card's id, "ID@N" for its first N images, or "folder:PATH". What a folder leaves out is named on stderr.
    cards : iterable of Path
        Further folders of cards.
    data_root : Path or None
        Folder of the downloaded datasets; see `hfdbench.files.places`.
    limit : int or None
        Only the first `limit` images.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        For an unknown id, an empty folder or one that does not hold what its card says.
    Unavailable
        For images that are not on this machine, with the command that fetches them.
    """
    base, number = parse_id(spec)
    limits = [n for n in (limit, number) if n is not None]
    if limits and min(limits) < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    limit = min(limits, default=None)
    if base.startswith(FOLDER):
        folder = located(base.removeprefix(FOLDER)).expanduser()
        if not base.removeprefix(FOLDER):
            raise UsageError(f'dataset "{spec}": names no folder; give one that holds pictures, as folder:photos')
        if not folder.is_dir():
            raise no_folder(folder, "give one that holds pictures", f'dataset "{spec}"')
        paths, others = pictures_in(folder), left_out(folder)
        if not paths:
            held = f" ({', '.join(others[:3])})" if others else ""
            raise UsageError(f'dataset "{spec}": no pictures in it{held}; known suffixes: {" ".join(SUFFIXES)}')
        report_left_out(folder, others)
        return _folder_dataset(folder, paths, limit)
    try:
        (card,) = choose(DatasetCard, [base], cards)
    except UsageError:
        if not located(base).is_dir():
            raise
        raise UsageError(f'no dataset "{base}"; for the folder of that name: folder:{base}') from None
    paths = packaged(card) if card.package else members(card, place(card, places.data_root(data_root)))
    return _card_dataset(card, paths, limit)


def dataset_id(spec: str) -> str:
    """What results call a dataset: a folder by its name and its pictures.

    Parameters
    ----------
    spec : str
        An id, or "folder:PATH".

    Raises
    ------
    UsageError
        There is no such folder, or no picture in it.
    """
    return open_dataset(spec).id if spec.startswith(FOLDER) else spec


def cropped(image: np.ndarray, crop: str, name: str) -> np.ndarray:
    """The picture by the card's crop rule (see above)."""
    if crop == "none":
        return image
    height, width = image.shape[:2]
    side = min(height, width) if crop == "resize256" else CROP
    if min(height, width) < side:
        raise ImageError(f"{name}: {width}x{height} pixels; its {CROP}x{CROP} crop needs both sides that long")
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].copy()
    if side == CROP:
        return square
    return np.array(Image.fromarray(square).resize((CROP, CROP), Image.Resampling.BICUBIC))


def place(card: DatasetCard, data_root: Path) -> Path:
    """Folder of a card's pictures. Raises Unavailable, with the line that fetches them, when it is not there."""
    folder = data_root / (card.folder or "")
    if not folder.is_dir():
        hint = f"hfdbench fetch {card.id}" if card.sources else f"put its pictures into {folder}"
        raise Unavailable(f"dataset {card.id} is not on this machine ({folder})", hint)
    return folder


def members(card: DatasetCard, folder: Path) -> list[Path]:
    """The pictures of a card in its folder, in order. Raises UsageError when the folder does not hold what the card says."""
    present = pictures_in(folder)
    hint = f"move the folder away and run: hfdbench fetch {card.id}" if card.sources else "add or remove pictures"
    if card.names:
        return _named(card, folder, present, hint)
    expected = card.pool or card.count
    if expected is not None and len(present) != expected:
        others = left_out(folder)
        other = f" (left out: {', '.join(others[:3])})" if others else ""
        raise UsageError(
            f"dataset {card.id}: {folder} holds {len(present):,} pictures where {expected:,} are expected{other}; {hint}"
        )
    if not present:
        raise UsageError(f"dataset {card.id}: {folder} holds no pictures; {hint}")
    return _chosen(card, folder, present, hint) if card.pool else present


def listed_names(card: DatasetCard) -> list[str]:
    """Names of a card's list, in order; each is a file name with or without its suffix. Raises UsageError."""
    path = card.source.parent / (card.names or "")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f'{card.source}: key "names": {path} cannot be read: {error.strerror}; restore it') from None
    found = hashlib.sha256(content).hexdigest()
    if found != card.names_sha256:
        raise UsageError(
            f'{card.source}: key "names": sha256 of {card.names} differs (expected {(card.names_sha256 or "")[:12]}…, '
            f"got {found[:12]}…); restore the list or fix the card"
        )
    names = content.decode().splitlines()
    if card.count is not None and len(names) != card.count:
        raise UsageError(
            f'{card.source}: key "count": {card.count}, but {card.names} has {len(names)}; correct one of them'
        )
    return names


def packaged(card: DatasetCard) -> list[Path]:
    """The pictures that a card's Python function names."""
    module_name, _, function_name = (card.package or "").partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f'{card.source}: key "package": {error}; fix the card') from None
    paths = [Path(path) for path in function()]
    if card.count is not None and len(paths) != card.count:
        raise UsageError(f"dataset {card.id}: {len(paths)} pictures where {card.count} are expected; fix the card")
    return paths


def _named(card: DatasetCard, folder: Path, present: Sequence[Path], hint: str) -> list[Path]:
    by_name = {path.stem: path for path in reversed(present)} | {path.name: path for path in present}
    names = listed_names(card)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UsageError(
            f"dataset {card.id}: {folder} lacks {len(missing):,} of {len(names):,} pictures, {missing[0]} first; {hint}"
        )
    return [by_name[name] for name in names]


def _chosen(card: DatasetCard, folder: Path, present: Sequence[Path], hint: str) -> list[Path]:
    """The card's choice from its pool: as written down at the first opening, else made anew and written down."""
    record = folder.parent / f"{card.folder}-{card.count}.txt"
    by_name = {path.name: path for path in present}
    if record.is_file():
        head, _, body = record.read_text(encoding="utf-8").partition("\n")
        names = body.splitlines()
        if head != f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}" or not by_name.keys() >= set(names):
            raise UsageError(
                f"dataset {card.id}: {record} was altered or is of other pictures; delete it, it is made anew"
            )
        return [by_name[name] for name in names]
    count = card.count or 0  # a pool has one
    names = choice(present, count)
    if len(names) < count:
        raise UsageError(f"dataset {card.id}: only {len(names):,} of {card.count:,} pictures are large enough; {hint}")
    body = "".join(f"{name}\n" for name in names)
    with suppress(UsageError):  # a read-only data root: the rule gives the same names next time
        write_text(record, f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    return [by_name[name] for name in names]


def choice(pool: Iterable[Path], count: int) -> list[str]:
    """The first `count` names, in the order of their sha256, of pictures with both sides of at least 256 pixels."""
    names = []
    for path in sorted(pool, key=lambda path: hashlib.sha256(os.fsencode(path.name)).hexdigest()):
        try:
            large = min(picture_size(path)) >= CROP
        except ImageError as error:
            raise UsageError(f"{path.parent}: {error}; replace it") from None
        if large:
            names.append(path.name)
        if len(names) == count:
            break
    return names


def _digest(paths: Iterable[Path], crop: str) -> str:
    digest = hashlib.sha256(f"ingest 1, crop {crop}\n".encode())
    for path in paths:
        try:
            content = file_sha256(path)
        except OSError:
            content = "unreadable"  # becomes an error row when it is loaded; the others are still measured
        version = rules_version(path)
        rules = f" rules {version}" if version > 1 else ""
        digest.update(f"{content} {path.name}{rules}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _count(number: int) -> str:
    return f"{number:,} picture" + ("s" if number != 1 else "")


def _card_dataset(card: DatasetCard, paths: Sequence[Path], limit: int | None) -> Dataset:
    whole = limit is None or limit >= len(paths)
    kept = paths[:limit]
    return Dataset(
        id=str(DatasetId(card.id, None if whole else len(kept))),
        # The number of the whole set stands in no title but its own: 500 crops are never called COCO 30k.
        title=f"{card.title or card.id}, {'' if whole else 'subset of '}{_count(len(kept))}",
        protocol=card.protocol,
        crop=card.crop,
        names=tuple(printable(path.name) for path in kept),
        paths=tuple(path.absolute() for path in kept),
        sha256=_digest(kept, card.crop),
        expected_patches=card.patches if whole else None,
    )


def _folder_dataset(folder: Path, paths: Sequence[Path], limit: int | None) -> Dataset:
    whole = limit is None or limit >= len(paths)
    kept = paths[:limit]
    sha256 = _digest(kept, "none")
    return Dataset(
        id=str(DatasetId(folder_id(folder, sha256), None if whole else len(kept))),
        title=f"{printable(folder.resolve().name)}, {'' if whole else 'subset of '}{_count(len(kept))}",
        protocol="fid256",
        crop="none",
        names=tuple(printable(path.name) for path in kept),
        paths=tuple(path.absolute() for path in kept),
        sha256=sha256,
    )
