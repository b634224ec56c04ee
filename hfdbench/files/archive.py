"""Take files out of a ZIP or tar archive that may be hostile.

Conventions
    names    files are taken out without their folders. One member that points outside (absolute, "..", a drive), is a link or a
             device, is encrypted, or has the name of another refuses the whole archive, before anything is written.
    bounds   all members together may have MOST_GROWTH times the archive's own size, and SLACK_BYTES; one member MOST_MEMBER_BYTES;
             a header of a tar CHUNK; there may be MOST_MEMBERS of them. Nothing is held in memory but a block of CHUNK
             bytes and a decoder, MOST_DECODER_BYTES of xz. ZIP members by other methods than "stored" and "deflated" are
             refused: their decoders know no bound.
"""

import bz2
import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal, cast

from hfdbench.errors import Unavailable, UsageError

CHUNK = 1 << 20
# Pictures are compressed already: an archive that unpacks to much more than itself is a bomb.
MOST_GROWTH = 10
SLACK_BYTES = 16 << 20
MOST_MEMBER_BYTES = 1 << 30
MOST_MEMBERS = 2_000_000
MOST_DECODER_BYTES = 100 << 20  # xz -9 takes 65 MiB


class _Xz(io.RawIOBase):
    """The content of an xz file. `lzma.open` lets its dictionary be as large as the file says, up to 4 GiB."""

    def __init__(self, path: Path, mode: str):
        self._file = open(path, mode)  # noqa: SIM115  (for the object's whole life)
        self._start()

    def _start(self) -> None:
        self._file.seek(0)
        self._place, self._decoder = 0, lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_DECODER_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        if place < self._place:
            self._start()
        while self._place < place and self.read(min(CHUNK, place - self._place)):
            pass
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = b""
        while buffer and not data:
            packed = b""
            if self._decoder.eof:  # another stream may follow, after zeros
                packed = self._decoder.unused_data.lstrip(b"\0") or self._file.read(CHUNK).lstrip(b"\0")
                if not packed:
                    return 0
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_DECODER_BYTES)
            elif self._decoder.needs_input and not (packed := self._file.read(CHUNK)):
                raise EOFError("it ends too soon")
            data = self._decoder.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lambda *to: io.BufferedReader(_Xz(*to))}


@dataclass(frozen=True)
class _Member:
    name: str
    size_bytes: int
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, kind: Literal["zip", "tar"], folder: Path, wanted: Callable[[str], bool]) -> int:
    """Take files of an archive into a folder, without their folders.

    Parameters
    ----------
    archive : Path
        The archive. A tar may be compressed by gzip, bzip2 or xz.
    kind : "zip" or "tar"
        Its kind.
    folder : Path
        An existing folder.
    wanted : function of str
        Whether to take the file of this name (without folders). Hidden files never are.

    Returns
    -------
    int
        Number of files taken.

    Raises
    ------
    Unavailable
        When the archive is damaged or refused.
    UsageError
        When the disk is too small.
    """
    try:
        with ExitStack() as stack:
            members = list(_zip_members(archive, stack) if kind == "zip" else _tar_members(archive, stack))
            kept = _checked(members, archive, wanted)
            need_bytes = sum(member.size_bytes for member in kept)
            if need_bytes > shutil.disk_usage(folder).free:
                raise UsageError(f"{folder}: {need_bytes / 1e9:.1f} GB do not fit on this disk; make room there")
            for member in kept:
                with member.open() as stream:
                    _write(stream, folder / PurePosixPath(member.name).name, member, archive)
            return len(kept)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise Unavailable(
            f"{_shown(archive)}: not a whole {kind} archive: {error}",
            "delete it and run it again, or fix the card",
        ) from None
    except OSError as error:
        if error.errno is None:  # gzip and bzip2 report damage so; a disk's errors have a number
            raise Unavailable(
                f"{_shown(archive)}: not a whole {kind} archive: {error}", "delete it and run it again, or fix the card"
            ) from None
        raise


def _zip_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    opened = stack.enter_context(zipfile.ZipFile(archive))
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1  # bit 0: encrypted
        if not info.is_dir() and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(archive, info.orig_filename, f"it is compressed by method {info.compress_type}")
        # orig_filename: ZipFile cuts the other name at a zero byte.
        yield _Member(
            info.orig_filename,
            info.file_size,
            plain and not info.is_dir(),
            plain and info.is_dir(),
            lambda info=info: opened.open(info),
        )


def _tar_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        head = file.read(6)
    decompress: Any = next((function for magic, function in COMPRESSED.items() if head.startswith(magic)), io.FileIO)
    stream = stack.enter_context(decompress(archive, "rb"))
    bounded = _Bounded(stream, archive)
    opened = stack.enter_context(tarfile.open(fileobj=cast(Any, bounded), mode="r:"))  # noqa: SIM115
    for number, info in enumerate(opened):
        if number >= MOST_MEMBERS:
            raise _refused(archive, info.name, f"there are more than {MOST_MEMBERS:,}")
        plain = info.isreg() and not info.issparse()
        yield _Member(
            info.name, info.size, plain, info.isdir(), lambda info=info: cast(IO[bytes], opened.extractfile(info))
        )


class _Bounded:
    """The bytes of a tar, read in small pieces and not beyond what an archive may unpack to."""

    def __init__(self, stream: BinaryIO, archive: Path):
        self._stream, self._archive, self._most = stream, archive, _most_bytes(archive)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, place: int, whence: int = 0) -> int:
        if whence == 0 and place > self._most:
            raise _grows(self._archive, "(its headers)")
        return self._stream.seek(place, whence)

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= CHUNK:  # tarfile reads a header at once, whatever size it claims
            raise tarfile.ReadError(f"a header of {count:,} bytes where {CHUNK:,} are the most")
        if self._stream.tell() + count > self._most:
            raise _grows(self._archive, "(its headers)")
        return self._stream.read(count)


def _checked(members: list[_Member], archive: Path, wanted: Callable[[str], bool]) -> list[_Member]:
    kept, names, total_bytes = [], set(), 0
    for member in members:
        total_bytes += member.size_bytes
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", member.name):
            raise _refused(archive, member.name, "it points outside")
        if member.is_folder:
            continue
        if not member.is_file:
            raise _refused(archive, member.name, "it is a link, a device or encrypted")
        if member.size_bytes > MOST_MEMBER_BYTES:
            raise _refused(
                archive, member.name, f"it has {member.size_bytes:,} bytes, {MOST_MEMBER_BYTES:,} are the most"
            )
        if total_bytes > _most_bytes(archive):
            raise _grows(archive, member.name)
        if path.name.startswith(".") or "__MACOSX" in path.parts or not wanted(path.name):
            continue
        if path.name in names:
            raise _refused(archive, member.name, "two pictures have this name")
        names.add(path.name)
        kept.append(member)
    return kept


def _write(stream: IO[bytes], target: Path, member: _Member, archive: Path) -> None:
    left = member.size_bytes
    if target.exists():  # from another archive of the same set
        raise _refused(archive, member.name, "two pictures have this name")
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


def _grows(archive: Path, member: str) -> Unavailable:
    return _refused(archive, member, "it unpacks to far more than an archive of pictures does")


def _refused(archive: Path, member: str, cause: str) -> Unavailable:
    return Unavailable(
        f"{_shown(archive)}: refused for its member {member!a}: {cause}",
        f"nothing was unpacked; look at {archive} by hand",
    )
