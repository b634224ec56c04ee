"""Tables in progress: pieces of consecutive images, each committed once, merged in the order of the images.

Conventions: a table of a key grows as work/<key>/<table>-<first>-<last>.parquet, images first to last inclusive. The set of
those files is the only state: any number of processes, on any machines, may add to it, in any order. A piece that exists
is never replaced; where two pieces hold the same image, the results are compared. A lock keeps two runs on one machine
from doing the same work twice; nothing else depends on it, so file systems without locks are safe too.
"""

import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing
from hfdbench.files.remote import RemotePath, remove_tree
from hfdbench.files.temporary import claim, remove
from hfdbench.results import parquet
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import DamagedFile

pc: Any = compute  # makes its functions when it is imported: no type checker sees them

FLUSH_S, FLUSH_IMAGES, FLUSH_BYTES = 15.0, 64, 16 << 20  # what a killed run may lose, and what it may hold in memory


class Pieces:
    """A table in progress.

    Parameters
    ----------
    folder : ResultsFolder
    key : str
        Whose table it is: a stream key, a trial key or that of a reference.
    table : str
        "streams", "images", "features-<network>" ...
    schema : pa.Schema
        With a column `image`.
    compare : str
        The column that two results of one image must agree in.
    host : str
        This machine, named when they do not.
    images : range, optional
        Only pieces that hold some of these images are looked at: others are somebody else's.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        key: str,
        table: str,
        schema: pa.Schema,
        compare: str,
        host: str = "",
        images: range | None = None,
    ):
        self.schema, self.set_aside = schema, []
        self._mine = images
        self._folder, self._work, self._table = folder, folder.work(key), table
        self._compare, self._host = compare, host
        self._paths: dict[tuple[int, int], Path] = {}
        self._conflicts: list[str] = []
        self._held: list[pa.Table] = []
        self._first, self._end, self._since = 0, 0, time.monotonic()
        self._check()

    def _check(self) -> None:
        """Look at every piece that is there; a damaged one is set aside."""
        for span, path in self._found():
            try:
                for batch in parquet.read_batches(path, self.schema):
                    span_of_batch = pc.min_max(batch["image"]).as_py()
                    if batch.num_rows and not span[0] <= span_of_batch["min"] <= span_of_batch["max"] <= span[1]:
                        raise DamagedFile(path, "images of another piece")
                self._paths[span] = path
            except DamagedFile as error:
                self.set_aside.append((error, self._folder.set_aside(path)))

    def _found(self) -> Iterator[tuple[tuple[int, int], Path]]:
        name = re.compile(re.escape(self._table) + r"-(\d{6,})-(\d{6,})\.parquet")
        for path in sorted(self._work.glob("*.parquet")):
            if match := name.fullmatch(path.name):
                first, last = int(match[1]), int(match[2])
                if self._mine is None or (first < self._mine.stop and self._mine.start <= last):
                    yield (first, last), path

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __contains__(self, image: int) -> bool:
        return self._first <= image < self._end or any(first <= image <= last for first, last in self._paths)

    def missing(self, images: Iterable[int]) -> list[int]:
        """Images whose rows are not there."""
        return [image for image in images if image not in self]

    def add(self, image: int, table: pa.Table) -> None:
        """Take all rows of an image; those of an image that is there already are dropped.

        Parameters
        ----------
        image : int
        table : pa.Table
            In the columns of the schema.
        """
        if image in self:
            return
        if self._held and image != self._end:
            self.flush()
        if not self._held:
            self._first, self._since = image, time.monotonic()
        self._held.append(table)
        self._end = image + 1
        heavy = sum(held.nbytes for held in self._held) >= FLUSH_BYTES
        if heavy or self._end - self._first >= FLUSH_IMAGES or time.monotonic() - self._since >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Commit what is held in memory as a piece."""
        if self._held:
            self._commit(self._first, self._end - 1, pa.concat_tables(self._held))
        self._held, self._first, self._end = [], 0, 0

    def _commit(self, first: int, last: int, table: pa.Table) -> None:
        path = self._work / f"{self._table}-{first:06d}-{last:06d}.parquet"
        try:
            parquet.write_table(path, table, {"host": self._host}, once=True)
        except FileExistsError:  # somebody else was faster: theirs counts
            self._compared(parquet.read_table(path), table, parquet.read_metadata(path).get("host"), self._host)
        self._paths[first, last] = path

    def take_back(self, finished: Path, images: int, again: Set[int]) -> None:
        """Turn a finished table into pieces without the images `again`, and remove it."""
        table = parquet.read_table(finished, schema=self.schema)
        kept = [image for image in range(images) if image not in again and image not in self]
        for first, last in _runs(kept):
            self._commit(first, last, _between(table, first, last))
        finished.unlink()

    def refresh(self) -> None:
        """See pieces that other processes have added."""
        self._paths |= dict(self._found())

    def conflicts(self) -> list[str]:
        """Describe images that were computed twice with different results, by any process."""
        self.refresh()
        spans = sorted(self._paths)
        for i, (first, last) in enumerate(spans):
            for other in spans[i + 1 :]:
                if other[0] > last:
                    break
                paths = self._paths[first, last], self._paths[other]
                self._compared(*map(parquet.read_table, paths), *(parquet.read_metadata(p).get("host") for p in paths))
        return list(dict.fromkeys(self._conflicts))

    def _compared(self, a: pa.Table, b: pa.Table, *hosts: str | None) -> None:
        one, two = _by_image(a, self._compare), _by_image(b, self._compare)
        if differ := sorted(image for image in one.keys() & two.keys() if one[image] != two[image]):
            self._conflicts.append(
                f"{self._table}: image {', '.join(map(str, differ))} was computed twice, by "
                f"{' and '.join(host or '?' for host in hosts)}, with different {self._compare}: the codec is not "
                "deterministic; the first result counts"
            )

    def merge(self, path: Path, metadata: dict, rows: int, images: int) -> None:
        """Write the finished table, the rows in the order of the images.

        Parameters
        ----------
        path : Path
        metadata : dict
        rows : int
            Of a row group, however the pieces were cut.
        images : int
            How many there must be.

        Raises
        ------
        UsageError
            Some images are missing: another process removed pieces meanwhile.
        """
        self.flush()
        self.refresh()
        absent = self.missing(range(images))
        if absent and path.exists():  # another run, on a store without locks, has finished it
            return
        if absent:
            raise UsageError(
                f"{path}: {len(absent)} of {images} images are missing, the first is {absent[0]}; run again"
            )
        parquet.write_batches(path, self.schema, self.batches(), metadata, rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read what is committed, in the order of the images, each image once."""
        end = 0
        for (_, last), path in sorted(self._paths.items()):
            for batch in parquet.read_batches(path, self.schema):
                yield batch.filter(pc.greater_equal(batch["image"], end))
            end = max(end, last + 1)


def _between(table: pa.Table, first: int, last: int) -> pa.Table:
    image = table["image"]
    return table.filter(pc.and_(pc.greater_equal(image, first), pc.less_equal(image, last)))


def _by_image(table: pa.Table, column: str) -> dict[int, list]:
    found: dict[int, list] = {}
    for image, value in zip(table["image"].to_pylist(), table[column].to_pylist(), strict=True):
        found.setdefault(image, []).append(value)
    return found


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    run: list[int] = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run[0], run[-1]
            run = []
        run.append(number)
    if run:
        yield run[0], run[-1]


@contextmanager
def working(folder: ResultsFolder, key: str) -> Iterator[None]:
    """Hold the unfinished tables of a key; the kernel frees them when this process dies."""
    path = folder.work(key).with_name(f"{key}.lock")
    if isinstance(path, RemotePath):  # no locks there: two runs do the same work, and the first piece counts
        yield
        return
    handle = _locked(path, wait=True)
    try:
        yield
    finally:
        if handle is not None:
            _unlock(path, handle)


def discard(folder: ResultsFolder, key: str) -> None:
    """Remove what a run killed at its very end left of finished work, unless another run is busy there."""
    work, lock = folder.work(key), folder.work(key).with_name(f"{key}.lock")
    if not work.exists() and not lock.exists():
        return
    if isinstance(work, RemotePath):
        return remove_tree(work)
    handle = _locked(lock, wait=False)
    if handle is not None:
        remove_tree(work)
        _unlock(lock, handle)


def finish(folder: ResultsFolder, key: str) -> None:
    """Remove the pieces of a key whose tables are finished."""
    remove_tree(folder.work(key))


def _locked(path: Path, wait: bool) -> int | None:
    """Open and lock a file; None when another process holds it and `wait` is False.

    The holder removes the file, so that a lock counts only while its file still has its name: who waited for a file
    that is gone starts anew.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        except (ImportError, OSError):  # no locks here: two runs may do the same work twice
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def _unlock(path: Path, handle: int) -> None:
    with suppress(OSError):
        path.unlink()
    os.close(handle)


def prepare(folder: ResultsFolder, needed_bytes: int) -> None:
    """Make the folder and remove temporary files of killed runs.

    Raises
    ------
    UsageError
        It cannot be written, or has less than `needed_bytes` free.
    """
    root = folder.root
    if isinstance(root, RemotePath):
        probe = root / f".{platform.node()}-{os.getpid()}.probe"
        with replacing(probe) as temporary:
            temporary.touch()
        probe.unlink()
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = claim(root / f".{os.getpid()}.probe")
        try:
            probe.write_bytes(b"")
        finally:
            remove(probe)
    except OSError as error:
        raise UsageError(f"{root}: cannot be written ({error.strerror}); choose another folder with --out") from None
    free = shutil.disk_usage(root).free
    if free < needed_bytes:
        raise UsageError(f"{root}: {free >> 20} MiB free, about {needed_bytes >> 20} needed; free some or change --out")
    parquet.sweep(root)
