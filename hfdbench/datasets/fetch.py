"""Download a dataset from its official address, check it, and take its pictures out safely.

Conventions
    place     data root / folder of the card. It appears whole, by one rename, or not at all.
    resume    what has arrived is kept in `.fetch/` below the data root; the next run asks for the rest (HTTP Range, with
              If-Range on the server's ETag or date). A server that ignores the range, or whose file has changed, makes it
              start over.
    checks    size and sha256 where the card lists them, and the number of pictures. Only http and https addresses,
              redirects included.
    archives  only pictures are taken out, without their folders. One member that points outside (absolute, "..", a drive),
              is a link or a device, is encrypted, or holds far more than its archive refuses the whole archive, before
              anything is written.
"""

import hashlib
import http.client
import re
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from hfdbench import __version__
from hfdbench.cards.schema import DatasetCard, Source
from hfdbench.datasets.dataset import listed_names, members, packaged
from hfdbench.datasets.folder import pictures_in
from hfdbench.datasets.image_files import SUFFIXES
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places

CHUNK = 1 << 20
# Pictures are compressed already: an archive that unpacks to much more than itself is a bomb.
MOST_GROWTH = 10
SLACK_BYTES = 16 << 20


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


@dataclass(frozen=True)
class Patience:
    """How long a download is kept up: tries in a row that bring less than 1 MiB, the first pause, silence on the line."""

    tries: int = 6
    pause_s: float = 1.0
    timeout_s: float = 30.0


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
    folder = root / card.folder
    if folder.is_dir() and any(folder.iterdir()):
        return Fetched(card.id, folder, len(members(card, folder)), fresh=False)
    if not card.sources:
        raise Unavailable(f"dataset {card.id} has no official address", f"put its pictures into {folder}")
    wanted = set(listed_names(card)) if card.names else None
    work = root / ".fetch" / card.folder
    files = [work / f"{number:03d}-{_file_name(source.url)}" for number, source in enumerate(card.sources)]
    _make_folder(work)
    _check_disk(card, files, root)
    # A dry disk or a killed process leaves `work` as it is: the next run goes on from there.
    for source, file in zip(card.sources, files, strict=True):
        download(source, file, progress=progress, patience=patience or Patience())
    new = work / "pictures"
    shutil.rmtree(new, ignore_errors=True)
    _make_folder(new)
    try:
        for source, file in zip(card.sources, files, strict=True):
            if source.unpack:
                unpack(file, source, new, wanted)
            else:
                shutil.copyfile(file, new / _file_name(source.url))
        _check_count(card, new, wanted and len(wanted))
        if folder.is_dir():
            folder.rmdir()  # an empty one stands in the way of the rename
        new.rename(folder)
    except OSError as error:
        raise UsageError(f"dataset {card.id}: cannot write to {root}: {error.strerror}; make room there") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    return Fetched(card.id, folder, len(members(card, folder)), fresh=True)


def _check_count(card: DatasetCard, folder: Path, listed: int | None) -> None:
    found, expected = len(pictures_in(folder)), listed or card.pool or card.count
    if found == 0 or (expected is not None and found != expected):
        raise Unavailable(
            f"dataset {card.id}: its sources hold {found:,} of its pictures, expected {expected or 'some'}",
            f"the official files have changed; mend {card.source}",
        )


def _file_name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^\w.+-]", "_", name) or "file"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}; give another --data-root") from None


def _part(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def _check_disk(card: DatasetCard, files: list[Path], root: Path) -> None:
    need_bytes = 0
    for source, file in zip(card.sources, files, strict=True):
        here = next((path.stat().st_size for path in (file, _part(file)) if path.is_file()), 0)
        # Twice: the download, and the pictures taken out of it.
        need_bytes += max(0, (source.bytes or 0) - here) + (source.bytes or 0)
    free_bytes = shutil.disk_usage(root).free
    if need_bytes > free_bytes:
        raise UsageError(
            f"dataset {card.id} needs {need_bytes / 1e9:.1f} GB below {root}, where {free_bytes / 1e9:.1f} GB are free; "
            "make room or give another --data-root"
        )


# --- download ---------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The line broke or the server stumbled: worth another try."""


def download(source: Source, file: Path, *, progress: bool = True, patience: Patience = Patience()) -> None:
    """Bring one file, going on from `file`.part, and check its size and sha256. Raises Unavailable."""
    if file.is_file() and _fault(source, file) is None:
        return
    part = _part(file)
    for resumed in (part.is_file(), False):
        _bring(source, part, progress, patience)
        fault = _fault(source, part)
        if fault is None:
            part.replace(file)
            _validator_file(part).unlink(missing_ok=True)
            return
        _forget(part)  # it cannot be mended by asking for more of it
        if not resumed:
            break  # what an earlier run had left may be at fault: only then is it worth starting over
    raise Unavailable(
        f"{source.url}: {fault}", "the file was changed or damaged on its way; try again, or fix the card"
    )


def _bring(source: Source, part: Path, progress: bool, patience: Patience) -> None:
    from tqdm import tqdm

    failures, base_bytes = 0, _length(part)
    with tqdm(
        total=source.bytes,
        initial=base_bytes,
        unit="B",
        unit_scale=True,
        desc=_file_name(source.url),
        file=sys.stderr,
        disable=not progress,
    ) as bar:
        while True:
            try:
                _attempt(source, part, bar, patience.timeout_s)
                return
            except _Broken as error:
                now_bytes = _length(part)
                failures = 1 if now_bytes - base_bytes >= CHUNK else failures + 1
                base_bytes = now_bytes
                if failures >= patience.tries:
                    raise Unavailable(
                        f"{source.url}: {error}", "check the network and run it again: it resumes"
                    ) from None
                time.sleep(patience.pause_s * 2 ** (failures - 1))


def _attempt(source: Source, part: Path, bar, timeout_s: float) -> None:
    """One request: append what it brings to the part. Returns when the file is complete, raises _Broken when not."""
    have = _length(part)
    if source.bytes is not None and have == source.bytes:
        return
    headers = {"User-Agent": f"hfdbench/{__version__}", "Accept-Encoding": "identity"}
    validator = _validator_file(part).read_text() if _validator_file(part).is_file() else None
    if have and validator is None and source.sha256 is None:
        have = 0  # nothing would tell whether both halves are of the same file
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        with _opener().open(urllib.request.Request(source.url, headers=headers), timeout=timeout_s) as response:
            total = _total(response, have)
            if response.status == 206 and total is None:
                _forget(part)
                raise _Broken("the server answered another range than the one asked for")
            if response.status != 206:
                have = 0
                _remember_validator(part, response.headers)
            if source.bytes is not None and total is not None and total != source.bytes:
                _forget(part)
                raise Unavailable(
                    f"{source.url}: the server offers {total:,} bytes where {source.bytes:,} are expected",
                    "the official file has changed; fix the card",
                )
            bar.total, bar.n = source.bytes or total, have
            bar.refresh()
            _save(response, part, have, source.bytes or total, bar)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the file: of another file
            _forget(part)
            raise _Broken("the server holds less than an earlier run left here") from None
        if error.code < 500 and error.code not in (408, 429):
            raise Unavailable(
                f"{source.url}: the server answered {error.code} {error.reason}",
                "the address may have moved; fix the card",
            ) from None
        raise _Broken(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if "unknown url type" in str(error.reason):
            raise Unavailable(f"{source.url}: redirected to something that is not http", "fix the card") from None
        raise _Broken(f"no connection: {error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Broken(f"the connection broke: {error or type(error).__name__}") from None
    except OSError as error:  # TLS and sockets; a full disk has been told apart below
        raise _Broken(f"the connection broke: {error}") from None


def _save(response, part: Path, have: int, total: int | None, bar) -> None:
    while block := response.read(CHUNK):
        try:
            with open(part, "r+b" if have else "wb") as out:
                out.seek(have)
                out.write(block)
        except OSError as error:
            raise UsageError(f"{part}: cannot be written: {error.strerror}; make room there and run it again") from None
        have += len(block)
        bar.update(len(block))
        if total is not None and have > total:
            break
    if total is not None and have < total:
        raise _Broken(f"the connection broke after {have:,} of {total:,} bytes")


def _total(response, have: int) -> int | None:
    """Length of the whole file as the answer tells it; None for a partial answer that does not start where asked."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[2]) if match and int(match[1]) == have else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener: a redirect must not lead to file: or ftp:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _remember_validator(part: Path, headers) -> None:
    etag = headers.get("ETag", "")
    tag = etag if etag.startswith('"') else headers.get("Last-Modified")  # a weak ETag may not be used with If-Range
    _validator_file(part).unlink(missing_ok=True)
    if tag:
        _validator_file(part).write_text(tag)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fault(source: Source, file: Path) -> str | None:
    """What is wrong with a downloaded file, or None."""
    if source.bytes is not None and _length(file) != source.bytes:
        return f"{_length(file):,} bytes arrived where {source.bytes:,} are expected"
    if source.sha256 is not None:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != source.sha256:
            return f"sha256 differs (expected {source.sha256[:12]}…, got {found[:12]}…)"
    return None


# --- archives ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    name: str
    bytes: int
    is_file: bool
    is_folder: bool
    entry: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: Path, source: Source, folder: Path, wanted: set[str] | None = None) -> int:
    """Take the pictures of an archive into a folder, without their folders; their number. Raises Unavailable.

    wanted: names, with or without suffix, of those to take; None takes all.
    """
    try:
        with zipfile.ZipFile(archive) if source.unpack == "zip" else tarfile.open(archive) as opened:
            listing = list(_zip_members(opened) if source.unpack == "zip" else _tar_members(opened, archive))
            kept = _checked(listing, archive, wanted)
            need_bytes = sum(member.bytes for member in kept)
            if need_bytes > shutil.disk_usage(folder).free:
                raise UsageError(f"{folder}: {need_bytes / 1e9:.1f} GB do not fit on this disk; make room there")
            for member in kept:
                target = folder / PurePosixPath(member.name).name
                if target.exists():
                    raise _refused(archive, member.name, "two pictures have this name")
                with (
                    opened.open(member.entry) if source.unpack == "zip" else opened.extractfile(member.entry) as stream
                ):
                    _write(stream, target, member, archive)
            return len(kept)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unavailable(
            f"{_shown(archive)}: not a whole {source.unpack} archive: {error}",
            "delete it and run it again, or fix the card",
        ) from None


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1  # bit 0: encrypted
        # orig_filename: ZipFile cuts the other name at a zero byte.
        yield _Member(info.orig_filename, info.file_size, plain and not info.is_dir(), plain and info.is_dir(), info)


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    total_bytes = 0
    for info in opened:
        total_bytes += info.size
        if total_bytes > _most_bytes(archive):  # here too: listing a compressed tar means unpacking it
            raise _refused(archive, info.name, "it unpacks to far more than an archive of pictures does")
        yield _Member(info.name, info.size, info.isreg() and not info.issparse(), info.isdir(), info)


def _checked(listing: list[_Member], archive: Path, wanted: set[str] | None) -> list[_Member]:
    kept = []
    for member in listing:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", member.name):
            raise _refused(archive, member.name, "it points outside")
        if member.is_folder:
            continue
        if not member.is_file:
            raise _refused(archive, member.name, "it is a link, a device or encrypted")
        hidden = path.name.startswith(".") or "__MACOSX" in path.parts
        listed = wanted is None or path.name in wanted or path.stem in wanted
        if path.suffix.lower() in SUFFIXES and not hidden and listed:
            kept.append(member)
    if sum(member.bytes for member in listing) > _most_bytes(archive):
        raise _refused(archive, listing[0].name, "it unpacks to far more than an archive of pictures does")
    return kept


def _write(stream: BinaryIO, target: Path, member: _Member, archive: Path) -> None:
    left = member.bytes
    with open(target, "xb") as out:
        while block := stream.read(min(CHUNK, left + 1)):
            left -= len(block)
            if left < 0:
                raise _refused(archive, member.name, "it is longer than it says")
            out.write(block)
    if left:
        raise _refused(archive, member.name, "it is shorter than it says")


def _most_bytes(archive: Path) -> int:
    return MOST_GROWTH * archive.stat().st_size + SLACK_BYTES


def _shown(archive: Path) -> str:
    return archive.name.partition("-")[2] or archive.name


def _refused(archive: Path, member: str, cause: str) -> Unavailable:
    return Unavailable(
        f"{_shown(archive)}: refused for its member {member!a}: {cause}",
        f"nothing was unpacked; look at {archive} by hand",
    )
