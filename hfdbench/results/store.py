"""Parquet files that exist whole or not at all, with the metadata of their run in the schema.

Conventions: one file per trial in each of streams/, crops/, features/, points/; every file of a folder has the schema
given here, so that pandas.read_parquet("results/points") is the whole table. results/README.md explains each column.
Work in progress lies in work/<key>/ as shards of consecutive images; two runs on one folder take turns by a lock.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd

FLUSH_S, FLUSH_IMAGES, FLUSH_BYTES = 15.0, 64, 16 << 20  # what a killed run may lose, and what it may hold in memory

TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_(), "bytes": pa.binary()}


def _schema(columns: str) -> pa.Schema:
    """Schema of lines "type: column column ..."."""
    pairs = (line.split(":") for line in columns.strip().splitlines())
    return pa.schema([(name, TYPES[kind.strip()]) for kind, names in pairs for name in names.split()])


STREAMS = _schema("""
    int: image
    text: name
    int: width height
    bytes: stream
    int: bytes
    float: encode_s
    text: status error
""")
CROPS = _schema("""
    text: codec point dataset
    int: image
    text: name
    int: width height pixels bytes
    float: bpp mse psnr_db
    bool: identical
    float: ms_ssim encode_s decode_s
    text: stream_sha256 pixels_sha256 status error
""")


def features_schema(dimensions: int) -> pa.Schema:
    return pa.schema([*_schema("int: image top left"), ("features", pa.list_(pa.float32(), dimensions))])


FEATURES = features_schema(2048)
QUALITY = _schema("""
    text: codec point dataset
    int: image
    text: name metric
    float: value
    text: error
""")
POINTS = _schema("""
    text: codec point dataset kind title
    int: images failed identical pixels bytes
    float: bpp bpp_mean psnr_db psnr_pooled_db ms_ssim ms_ssim_db
    int: ms_ssim_images
    float: fid
    text: fid_id fid_label
    int: fid_patches
    text: fid_protocol
    float: kid kid_std precision recall fid_infinity
    float: fd_mini
    text: fd_mini_id
    float: fd_dinov2
    text: fd_dinov2_id
    float: fd_clip
    text: fd_clip_id
    float: lpips dists ssimulacra2 butteraugli butteraugli_3norm
    float: encode_s decode_s encode_s_per_mpx decode_s_per_mpx
    int: network_evaluations
    text: device
    int: seed
    text: status note
""")

# Columns that older files lack.
ADDED = frozenset(
    [
        "precision",
        "recall",
        "fid_infinity",
        "fd_mini",
        "fd_mini_id",
        "fd_dinov2",
        "fd_dinov2_id",
        "fd_clip",
        "fd_clip_id",
        "lpips",
        "dists",
        "ssimulacra2",
        "butteraugli",
        "butteraugli_3norm",
        "network_evaluations",
    ]
)


def write_table(path: Path, table: pa.Table, metadata: dict) -> None:
    """Write one file at once: whole or not at all."""
    write_batches(path, table.schema, table.to_batches(), metadata, rows=1 << 16)


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], metadata: dict, rows: int) -> None:
    """Write a stream of batches, whole or not at all, in row groups of `rows` however the batches are cut."""
    schema = schema.with_metadata({b"hfdbench": json.dumps(metadata, sort_keys=True).encode()})
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in _regrouped(schema, batches, rows):
            writer.write_table(table, row_group_size=rows)


def _regrouped(schema: pa.Schema, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    held = schema.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(schema)])
        while len(held) >= rows:
            yield held.slice(0, rows).combine_chunks()
            held = held.slice(rows)
    if len(held):
        yield held.combine_chunks()


@contextmanager
def _readable(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run it again") from None
    except (pa.ArrowInvalid, OSError) as error:
        cause = str(error).splitlines()[0]
        raise UsageError(f"{path}: damaged ({cause}); delete it and run again") from None


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole file. Raises UsageError naming a damaged one."""
    with _readable(path) as file:
        return file.read(columns=columns)


def read_metadata(path: Path) -> dict:
    """The metadata of the run that wrote a file."""
    with _readable(path) as file:
        return json.loads((file.schema_arrow.metadata or {}).get(b"hfdbench", b"{}"))


def read_schema(path: Path) -> pa.Schema:
    with _readable(path) as file:
        return file.schema_arrow


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The row groups of a file, one in memory at a time."""
    with _readable(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).combine_chunks().to_batches()


def points(out: Path) -> "pd.DataFrame":
    """The whole points table below `out`. Raises UsageError when it is empty or a file is damaged or of another schema."""
    paths = sorted((Path(out) / "points").glob("*.parquet"))
    if not paths:
        raise UsageError(f'{Path(out) / "points"}: no points yet; "hfdbench run" writes them')
    tables = []
    for path in paths:
        table = read_table(path)
        try:
            tables.append(completed(table, POINTS))
        except ValueError:
            raise UsageError(f"{path}: columns of another version of hfdbench; delete it and run again") from None
    return pa.concat_tables(tables).to_pandas()


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with null in the columns that were added since. Raises ValueError when other columns differ."""
    missing = {field.name for field in schema} - set(table.column_names)
    if not missing <= ADDED:
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    for name in missing:
        table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    if len(table.schema) != len(schema) or any(table.schema.field(field.name).type != field.type for field in schema):
        raise ValueError("columns of another kind")
    return table.select(schema.names).replace_schema_metadata(None)


def commit(out: Path) -> str:
    """Commit of hfdbench that the stored points were measured with; several are joined by commas, none is empty."""
    commits = {read_metadata(path).get("commit") for path in (Path(out) / "points").glob("*.parquet")}
    return ", ".join(sorted(name for name in commits if name))


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
