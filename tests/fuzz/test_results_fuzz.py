"""Damage of every kind to every table: what is read is what was written, or the file is refused by name."""

import random

import numpy as np
import pyarrow as pa
import pytest

from hfdbench.errors import UsageError
from hfdbench.results import parquet, schema
from hfdbench.results.stored import read_point

pytestmark = pytest.mark.fuzz
TABLES = {
    "streams": schema.STREAMS,
    "images": schema.IMAGES,
    "features": schema.features_schema(16),
    "quality": schema.QUALITY,
    "points": schema.POINTS,
}
METADATA = {"trial_key": "0123456789abcdef", "dataset_sha256": "ab" * 32, "card": {"id": "mine"}, "seed": 3}


def made(columns: pa.Schema, rows: int) -> pa.Table:
    """A table of random values with some nulls."""
    draw = np.random.default_rng(rows)

    def value(field: pa.Field, row: int):
        if field.name == "image":
            return row
        if draw.random() < 0.1:
            return None
        if pa.types.is_floating(field.type):
            return float(draw.normal())
        if pa.types.is_fixed_size_list(field.type):
            return draw.normal(size=16).astype(np.float32).tolist()
        if pa.types.is_boolean(field.type):
            return bool(draw.integers(2))
        if pa.types.is_binary(field.type):
            return draw.bytes(50)
        return int(draw.integers(1000)) if pa.types.is_integer(field.type) else f"text {draw.integers(1000)}"

    rows_ = [{field.name: value(field, row) for field in columns} for row in range(rows)]
    for row in rows_:
        if "features" in row and row["features"] is None:
            row["features"] = [0.0] * 16
    return pa.Table.from_pylist(rows_, columns)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut, double or blank a part."""
    changed, kind = (
        bytearray(data),
        chance.choice(["bit", "bit", "bit", "footer bit", "cut", "blank", "double", "insert"]),
    )
    place = chance.randrange(len(data))
    if kind == "bit":
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == "footer bit":
        place = len(data) - 1 - chance.randrange(min(len(data), 1500))
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del changed[place:]
    elif kind == "blank":
        end = min(len(data), place + chance.randrange(1, 200))
        changed[place:end] = bytes(end - place)
    elif kind == "double":
        changed[place:place] = changed[place : place + 40]
    else:
        changed[place:place] = bytes([chance.randrange(256)])
    return bytes(changed)


@pytest.mark.parametrize("kind", TABLES)
def test_no_damage_is_silent(tmp_path, kind, fuzz_budget):
    columns = TABLES[kind]
    table, path = made(columns, 1 if kind == "points" else 30), tmp_path / f"{kind}.parquet"
    parquet.write_batches(path, columns, table.to_batches(), METADATA, rows=8)
    data, chance = path.read_bytes(), random.Random(kind)
    refused = 0
    for _ in range(300 * fuzz_budget):
        path.write_bytes(damaged(data, chance))
        for read, expected in (
            (lambda: parquet.read_table(path, schema=columns), table),
            (lambda: pa.Table.from_batches(parquet.read_batches(path, columns), columns), table),
            (lambda: parquet.read_metadata(path), METADATA),
            (lambda: parquet.row_count(path), len(table)),
        ):
            try:
                found = read()
            except UsageError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                assert found == expected
    assert refused > 300 * fuzz_budget


def test_a_point_is_one_row_of_its_name(tmp_path):
    row = {"codec": "a", "point": "p", "dataset": "d", "images": 3, "failed": 0}
    one = pa.Table.from_pylist([row], schema.POINTS)
    name = "a-p-d-0123456789abcdef.parquet"
    for table, metadata, file in (
        (pa.concat_tables([one, one]), METADATA, name),
        (one.slice(0, 0), METADATA, name),
        (one, METADATA, "b-p-d-0123456789abcdef.parquet"),
        (one, METADATA | {"trial_key": "f" * 16}, name),
        (one.drop_columns(["codec"]), METADATA, name),
        (one.set_column(0, "codec", pa.array([1])), METADATA, name),
    ):
        parquet.write_table(tmp_path / file, table, metadata)
        with pytest.raises(UsageError, match=file):
            read_point(tmp_path / file)
    parquet.write_table(tmp_path / name, one, METADATA)
    assert read_point(tmp_path / name)[0]["images"] == 3


@pytest.mark.parametrize("text", [b"[]", b"3", b"{", b'{"a": }', b"\xff"])
def test_metadata_that_is_no_object(tmp_path, text):
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [1]}).replace_schema_metadata({b"hfdbench": text}), path)
    with pytest.raises(UsageError, match=r"a\.parquet: damaged"):
        parquet.read_metadata(path)
