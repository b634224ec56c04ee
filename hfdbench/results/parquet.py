"""Parquet files that exist whole or not at all, and are checked when they are read.

Conventions: the metadata of a run is JSON under the schema's key `hfdbench`. The footer's key `hfdbench.file` holds the
schema version, the number of rows, the sha256 of that JSON, and length and CRC of the data before the footer; the footer's
own CRC stands between both, where readers of Parquet look at nothing. A file that does not agree with its own record, or with
what the reader asks for, is a DamagedFile: never a shorter table, never another number.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing
from hfdbench.results.schema import VERSION, completed

RUN, FILE = b"hfdbench", b"hfdbench.file"  # keys of the metadata: of the run, of the file itself
CRC = struct.Struct("<I")
KNOWN = {RUN, FILE, b"ARROW:schema", b"pandas"}


class DamagedFile(UsageError):
    """A file of results that is not what was written, or not what its name says.

    Attributes
    ----------
    path : Path
        The file.
    cause : str
        What is wrong with it.
    """

    def __init__(self, path: Path, cause: str):
        super().__init__(f"{path}: damaged ({cause}); hfdbench run sets it aside and measures it again")
        self.path, self.cause = path, cause


def write_table(path: Path, table: pa.Table, metadata: dict, *, once: bool = False) -> None:
    """Write one file: whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder is made when it is not there.
    table : pa.Table
    metadata : dict
        Anything JSON can say.
    once : bool
        Raise FileExistsError instead of replacing a file of this name, even one that another process writes at the
        same time.
    """
    write_batches(path, table.schema, table.to_batches(), metadata, rows=1 << 16, once=once)


def write_batches(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    metadata: dict,
    rows: int,
    *,
    once: bool = False,
) -> None:
    """Write a stream of batches as `write_table` does, in row groups of `rows` however the batches are cut."""
    text = json.dumps(metadata, sort_keys=True).encode()
    schema = schema.with_metadata({RUN: text})
    with replacing(path, once=once) as temporary, open(temporary, "w+b") as file:
        _lock(file.fileno())  # freed by the kernel when this process dies: how `sweep` knows an orphan
        words: Any = [column.name for column in schema if pa.types.is_string(column.type)]  # what may come twice
        with pq.ParquetWriter(
            file, schema, compression="zstd", write_page_checksum=True, use_dictionary=words or False
        ) as writer:
            count = 0
            for table in _regrouped(schema, batches, rows):
                writer.write_table(table, row_group_size=rows)
                count += len(table)
            record = {"schema": VERSION, "rows": count, "sha256": hashlib.sha256(text).hexdigest()}
            record["columns"] = _columns_sha256(schema)
            record["pages"] = file.tell()
            file.seek(0)
            record["crc32"] = _crc32(file, record["pages"])
            file.seek(record["pages"])
            writer.add_key_value_metadata({FILE: json.dumps(record).encode()})
        file.seek(record["pages"])
        footer = file.read()
        file.seek(record["pages"])
        file.write(CRC.pack(zlib.crc32(footer)) + footer)


def _lock(handle: int) -> None:
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes below a folder; those of living ones are locked."""
    try:
        import fcntl
    except ImportError:
        return
    for path in folder.glob("*/**/.*.tmp"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if os.fstat(handle).st_size:  # an empty one may be about to be locked
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)


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
def _readable(path: Path, whole: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a file; `whole`: check every byte before its footer, too."""
    try:
        with open(path, "rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            record = _check_record(path, file)
            if "pages" in record:
                stream.seek(record["pages"])
                expected, footer = stream.read(CRC.size), stream.read()
                if expected != CRC.pack(zlib.crc32(footer)):
                    raise DamagedFile(path, "its footer was changed")
                stream.seek(0)
                if whole and _crc32(stream, record["pages"]) != record["crc32"]:  # pages' own leave out their headers
                    raise DamagedFile(path, "its data were changed")
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run it again") from None
    except UsageError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise DamagedFile(path, (str(error).splitlines() or [type(error).__name__])[0]) from None


def _check_record(path: Path, file: pq.ParquetFile) -> dict:
    """Check what a file says of itself and return it. Raises UsageError for a newer version, DamagedFile for any other fault."""
    footer = file.metadata.metadata or {}
    if unknown := footer.keys() - KNOWN:
        raise DamagedFile(path, f"unknown metadata {min(unknown)!r}")
    if RUN not in footer:
        raise DamagedFile(path, "no metadata of hfdbench")
    if FILE not in footer:
        return {}  # of version 1, or of another program
    record = json.loads(footer[FILE])
    if record["schema"] > VERSION:
        raise UsageError(
            f"{path}: written by a newer hfdbench (schema {record['schema']}, this one reads up to {VERSION}); update hfdbench"
        )
    if record["rows"] != file.metadata.num_rows:
        raise DamagedFile(path, f"{file.metadata.num_rows} rows instead of {record['rows']}")
    if record.get("columns", _columns_sha256(file.schema_arrow)) != _columns_sha256(file.schema_arrow):
        raise DamagedFile(path, "its columns were changed")
    if record["sha256"] != hashlib.sha256(_run_metadata(file)).hexdigest():
        raise DamagedFile(path, "its metadata was changed")
    return record


def _crc32(file: BinaryIO, length: int) -> int:
    """Of the next `length` bytes."""
    found = 0
    while length and (part := file.read(min(length, 1 << 20))):
        found, length = zlib.crc32(part, found), length - len(part)
    return found


def _columns_sha256(schema: pa.Schema) -> str:
    return hashlib.sha256(json.dumps(schema.names).encode()).hexdigest()


def _run_metadata(file: pq.ParquetFile) -> bytes:
    return (file.schema_arrow.metadata or {}).get(RUN, b"{}")


def _metadata(path: Path, file: pq.ParquetFile) -> dict:
    metadata = json.loads(_run_metadata(file))
    if not isinstance(metadata, dict):
        raise DamagedFile(path, "its metadata is no object")
    return metadata


def read_table(path: Path, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """Read a whole file and check every page of it.

    Parameters
    ----------
    path : Path
    columns : list of str, optional
        Only these.
    schema : pa.Schema, optional
        What the file must hold; columns that were added since it was written are null.

    Raises
    ------
    DamagedFile
        The file is damaged, has other columns or another number of rows than it was written with.
    UsageError
        There is no such file, or a newer hfdbench wrote it.
    """
    with _readable(path, whole=True) as file:
        if schema is None:
            table = file.read(columns=columns)
        else:
            _check_schema(path, file, schema)
            table = completed(file.read().replace_schema_metadata(None), schema)
            table = table if columns is None else table.select(columns)
        if len(table) != file.metadata.num_rows:
            raise DamagedFile(path, f"{len(table)} rows instead of {file.metadata.num_rows}")
        table.validate(full=True)  # text that is no UTF-8, offsets beyond the data
        return table


def _check_schema(path: Path, file: pq.ParquetFile, schema: pa.Schema) -> None:
    try:
        completed(file.schema_arrow.remove_metadata().empty_table(), schema)
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None


def read_metadata(path: Path) -> dict:
    """Read the metadata of the run that wrote a file."""
    with _readable(path) as file:
        return _metadata(path, file)


def read_schema(path: Path) -> pa.Schema:
    """Read the columns of a file."""
    with _readable(path) as file:
        return file.schema_arrow


def read_batches(path: Path, schema: pa.Schema | None = None, images: range | None = None) -> Iterator[pa.RecordBatch]:
    """Read the row groups of a file, one in memory at a time, checked as `read_table` checks the whole.

    Parameters
    ----------
    path : Path
    schema : pa.Schema, optional
        What the file must hold.
    images : range, optional
        Only row groups that hold some of these images, by a column `image`; only what is read is checked, page by page.
    """
    with _readable(path, whole=images is None) as file:
        if schema is not None:
            _check_schema(path, file, schema)
        for group in range(file.num_row_groups):
            if images is not None and not _overlap(file, group, images):
                continue
            table = file.read_row_group(group)
            table.validate(full=True)
            if schema is not None:
                table = completed(table.replace_schema_metadata(None), schema)
            yield from table.combine_chunks().to_batches()


def _overlap(file: pq.ParquetFile, group: int, images: range) -> bool:
    """Whether a row group may hold rows of some images, by its statistics."""
    column = file.metadata.row_group(group).column(file.schema_arrow.get_field_index("image"))
    known = column.statistics
    return known is None or not known.has_min_max or (known.min < images.stop and images.start <= known.max)


def row_count(path: Path) -> int:
    """Read how many rows a file holds, from its footer."""
    with _readable(path) as file:
        return file.metadata.num_rows
