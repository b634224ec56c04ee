"""Bring what a codec's card names but does not hold: weights from their addresses, and the Python that it runs in.

Conventions
    place     weights/SHA256/FILE in hfdbench's cache folder, so that cards share files and no two versions meet.
    licence   shown before the first byte, and accepted by name: --accept-licence NAME or HFDBENCH_ACCEPT_LICENCE=NAME,NAME.
    mirrors   tried in the card's order; one that serves other bytes is refused by name.
    resume    what has arrived is kept; the next try asks for the rest (`files.download`).
"""

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hfdbench.cards.schema import CodecCard, WeightFile
from hfdbench.codecs import environments
from hfdbench.codecs.identity import require_named
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256
from hfdbench.files.download import Patience, download

ACCEPTED = "HFDBENCH_ACCEPT_LICENCE"


@dataclass(frozen=True)
class Fetched:
    """What a codec needs besides its card, now here. `fresh`: files that were downloaded just now."""

    card: str
    files: int
    fresh: int
    packages: int

    def __str__(self) -> str:
        parts = [f"{_files(self.files)} of weights ({self.fresh} new)"] if self.files else []
        parts += [f"a Python with {self.packages} packages"] if self.packages else []
        return f"{self.card}: {' and '.join(parts) or 'needs nothing that is downloaded'}"


@dataclass(frozen=True)
class _Address:
    url: str
    bytes: int | None
    sha256: str | None


def fetch(
    card: CodecCard, accepted: Iterable[str] = (), *, progress: bool = True, patience: Patience | None = None
) -> Fetched:
    """Download the weights that a card names by address and make its Python; do nothing for what is there.

    Parameters
    ----------
    card : CodecCard
    accepted : iterable of str
        Names of licences, besides those in HFDBENCH_ACCEPT_LICENCE.
    progress : bool
        Whether bars are drawn on stderr.
    patience : Patience, optional
        When to give up an address.

    Raises
    ------
    UsageError
        A licence is not accepted, or this machine is at fault: a full disk.
    Unavailable
        No address serves the file, the Python cannot be made, or no point has what its options take from the environment.
    """
    every = {entry.path(card): entry for point in card.points for entry in point.weights if entry.url is not None}
    missing = [entry for entry in every.values() if not _is_there(card, entry)]
    if missing or (card.python and not environments.find(card.python)):
        _require_named(card)
    _accept(card, missing, {*accepted, *os.environ.get(ACCEPTED, "").split(",")})
    for entry in missing:
        path = entry.path(card)
        _make_room(card, path.parent, sum(other.bytes or 0 for other in missing))
        _bring(card, entry, path, progress, patience or Patience())
    own = environments.make(card.id, card.python) if card.python else None
    return Fetched(card.id, len(every), len(missing), len(own.packages) if own else 0)


def _require_named(card: CodecCard) -> None:
    """Raise Unavailable where nothing could use what is downloaded: no point has what its card takes from variables."""
    absent = []
    for point in card.points:
        try:
            return require_named(card, point.id)
        except Unavailable as error:
            absent.append(error)
    raise absent[0]


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _is_there(card: CodecCard, entry: WeightFile) -> bool:
    path = entry.path(card)
    return path.is_file() and entry.sha256 in (None, file_sha256(path))


def _accept(card: CodecCard, missing: list[WeightFile], accepted: set[str]) -> None:
    for licence in dict.fromkeys(entry.licence for entry in missing):
        files = [entry for entry in missing if entry.licence == licence]
        text = next((f", {entry.licence_url}" for entry in files if entry.licence_url), "")
        size = sum(entry.bytes or 0 for entry in files)
        size_text = f", {size / 1e6:,.1f} MB" if size else ""
        print(f"{card.id}: {_files(len(files))} of weights{size_text}; licence: {licence}{text}", file=sys.stderr)
        if licence not in accepted:
            quoted = f'"{licence}"' if " " in licence else licence
            raise UsageError(
                f'{card.id}: nothing is downloaded before the licence "{licence}" is accepted{text}; '
                f"hfdbench fetch {card.id} --accept-licence {quoted}"
            )


def _bring(card: CodecCard, entry: WeightFile, path: Path, progress: bool, patience: Patience) -> None:
    addresses, refused = [entry.url or "", *entry.mirrors], []
    for url in addresses:
        try:
            download(_Address(url, entry.bytes, entry.sha256), path, progress=progress, patience=patience)
            if entry.sha256 is None:
                print(
                    f'{card.id}: {entry.name} is not pinned; its card may say sha256 = "{file_sha256(path)}"',
                    file=sys.stderr,
                )
            return
        except Unavailable as error:
            refused.append(error.reason)
            print(
                f"{card.id}: {error.reason}" + ("; trying the next address" * (url != addresses[-1])), file=sys.stderr
            )
    raise Unavailable(
        f"{card.id}: no address serves {entry.name}: {'; '.join(refused)}",
        f"put the file at {path} by hand, or name another mirror in the card",
    )


def _make_room(card: CodecCard, folder: Path, needed_bytes: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}; make room there or set XDG_CACHE_HOME") from None
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UsageError(
            f"{card.id} needs {needed_bytes / 1e9:.1f} GB in {folder}, where {free_bytes / 1e9:.1f} GB are free; "
            "make room or set XDG_CACHE_HOME"
        )
