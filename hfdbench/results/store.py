"""Old names of what is in schema, parquet, folder and stored; for modules that have not been changed yet."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hfdbench.errors import UsageError
from hfdbench.results.parquet import (  # noqa: F401
    read_batches,
    read_metadata,
    read_schema,
    read_table,
    write_batches,
    write_table,
)
from hfdbench.results.schema import ADDED, FEATURES, POINTS, QUALITY, STREAMS, completed, features_schema  # noqa: F401
from hfdbench.results.schema import IMAGES as CROPS  # noqa: F401
from hfdbench.results.stored import Results

FLUSH_S, FLUSH_IMAGES, FLUSH_BYTES = 15.0, 64, 16 << 20


def points(out: Path):
    return Results(out).points()


def commit(out: Path) -> str:
    return Results(out).commit()


class Shards:
    """A table in progress: images in order, flushed as it grows, so that a killed run resumes behind the last flush."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema):
        self._folder, self._name, self._schema = folder, name, schema
        self._paths: list[Path] = []
        self.images = 0  # images 0 .. images - 1 are stored
        for path in sorted(folder.glob(f"{name}-*.parquet")):
            first, last = (int(part) for part in path.stem.split("-")[-2:])
            if first == self.images:
                self._paths.append(path)
                self.images = last + 1
        self._held: list[pa.Table] = []
        self._first, self._since = self.images, time.monotonic()

    def add(self, image: int, table: pa.Table) -> None:
        """Take the rows of the next image; those of an image that is stored already are dropped."""
        if image < self.images:
            return
        self._held.append(table)
        self.images = image + 1
        heavy = sum(held.nbytes for held in self._held) >= FLUSH_BYTES
        if heavy or self.images - self._first >= FLUSH_IMAGES or time.monotonic() - self._since >= FLUSH_S:
            self.flush()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        if self._held:
            path = self._folder / f"{self._name}-{self._first:06d}-{self.images - 1:06d}.parquet"
            write_table(path, pa.concat_tables(self._held), {})
            self._paths.append(path)
        self._held, self._first, self._since = [], self.images, time.monotonic()

    def rows(self) -> int:
        self.flush()
        return sum(pq.read_metadata(path).num_rows for path in self._paths)

    def merge(self, path: Path, metadata: dict, rows: int) -> None:
        """Write the finished file: equal row groups, however often the run was interrupted."""
        self.flush()
        batches = (batch for shard in self._paths for batch in read_batches(shard))
        write_batches(path, self._schema, batches, metadata, rows)


@contextmanager
def working(out: Path, key: str) -> Iterator[Path]:
    """The folder of work in progress of a key, held by one run at a time; the kernel frees it when that run dies."""
    folder = Path(out) / "work" / key
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        folder.mkdir(parents=True, exist_ok=True)  # the run we waited for may have finished and removed it
        yield folder
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    with suppress(ImportError, OSError):  # without locks renames stay atomic; two runs may do the same work twice
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def discard(out: Path, key: str) -> None:
    """Remove what a run killed at its very end left of finished work, unless another run is busy there."""
    folder = Path(out) / "work" / key
    if not folder.exists():
        return
    with suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def prepare(out: Path, needed_bytes: int) -> None:
    """Make the folder; sweep temporary files of killed runs. Raises UsageError when it cannot be written or is too full."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        probe = Path(out) / f".{uuid.uuid4().hex}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None
    free = shutil.disk_usage(out).free
    if free < needed_bytes:
        raise UsageError(f"{out}: {free >> 20} MiB free, about {needed_bytes >> 20} needed; free some or change --out")
    for path in Path(out).glob("*/**/.*.tmp"):
        if time.time() - path.stat().st_mtime > 86400:  # younger ones may belong to a run that is alive
            path.unlink(missing_ok=True)
