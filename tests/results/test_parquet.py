"""Files exist whole or not at all, and say what is wrong with them."""

import os
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfdbench.errors import UsageError
from hfdbench.results import parquet, schema
from hfdbench.results.stored import Results

NUMBERS = pa.schema([("image", pa.int64()), ("value", pa.float64())])


def numbers(first: int, last: int) -> pa.Table:
    images = list(range(first, last))
    return pa.table({"image": images, "value": [i / 7 for i in images]}, schema=NUMBERS)


def test_round_trip_with_metadata(tmp_path):
    path = tmp_path / "deep" / "a.parquet"
    parquet.write_table(path, numbers(0, 5), {"seed": 3, "card": {"id": "x"}})
    assert parquet.read_table(path).equals(numbers(0, 5))
    assert parquet.read_metadata(path) == {"seed": 3, "card": {"id": "x"}}
    assert parquet.read_table(path, ["image"]).column_names == ["image"]
    assert os.listdir(path.parent) == ["a.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(path, numbers(0, 5), {})

    def breaks():
        yield from numbers(0, 3).to_batches()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parquet.write_batches(path, NUMBERS, breaks(), {}, rows=1)
    assert parquet.read_table(path).equals(numbers(0, 5))
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_row_groups_of_some_images_alone(tmp_path):
    """The others are not even read: damage there is found by whoever reads them."""
    path = tmp_path / "a.parquet"
    parquet.write_batches(path, NUMBERS, numbers(0, 40).to_batches(), {}, rows=8)
    read = list(parquet.read_batches(path, NUMBERS, range(9, 17)))
    assert pa.Table.from_batches(read).equals(numbers(8, 24))
    assert not list(parquet.read_batches(path, NUMBERS, range(40, 50)))
    data = bytearray(path.read_bytes())
    last = pq.read_metadata(path).row_group(4).column(1)
    data[last.data_page_offset + last.total_compressed_size - 3] ^= 0xFF
    path.write_bytes(data)
    assert pa.Table.from_batches(parquet.read_batches(path, NUMBERS, range(9, 17))).equals(numbers(8, 24))
    for images in (None, range(30, 40)):
        with pytest.raises(UsageError, match="damaged"):
            list(parquet.read_batches(path, NUMBERS, images))


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "garbled"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "points" / "a.parquet"
    parquet.write_table(path, numbers(0, 5000), {})
    whole = path.read_bytes()
    changed = {
        "cut": whole[: len(whole) // 2],
        "foreign": b"hello",
        "empty": b"",
        "garbled": whole[:8] + bytes(200) + whole[208:],
    }
    path.write_bytes(changed[damage])
    with pytest.raises(UsageError, match=r"a\.parquet: damaged .*sets it aside"):
        parquet.read_table(path)
    with pytest.raises(UsageError, match=r"a\.parquet"):
        Results(tmp_path).points()


def point(**values) -> pa.Table:
    return pa.Table.from_pylist([values], schema.POINTS)


def test_points_are_one_table(tmp_path):
    with pytest.raises(UsageError, match="no points yet"):
        Results(tmp_path).points()
    parquet.write_table(tmp_path / "points" / "a.parquet", point(codec="a", bpp=0.5, fid=None), {"x": 1})
    parquet.write_table(tmp_path / "points" / "b.parquet", point(codec="b", bpp=1.5, fid=7.0, kid=None), {"x": 2})
    (tmp_path / "points" / ".b.parquet.0.tmp").write_bytes(b"half")
    table = Results(tmp_path).points()
    assert list(table.columns) == schema.POINTS.names
    assert table["bpp"].tolist() == [0.5, 1.5]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "points"), table)
    parquet.write_table(tmp_path / "points" / "c.parquet", numbers(0, 1), {})
    with pytest.raises(UsageError, match=r"c\.parquet: damaged \(no column codec"):
        Results(tmp_path).points()


def test_row_groups_do_not_depend_on_the_batches(tmp_path):
    shapes = []
    for name, cuts in (("a", [0, 10]), ("b", [0, 1, 2, 7, 10]), ("c", [0, 9, 9, 10])):
        batches = [b for i, j in pairwise(cuts) for b in numbers(i, j).to_batches()]
        parquet.write_batches(tmp_path / name, NUMBERS, batches, {}, rows=4)
        meta = pq.read_metadata(tmp_path / name)
        shapes.append([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])
        assert parquet.read_table(tmp_path / name).equals(numbers(0, 10))
    assert shapes == [[4, 4, 2]] * 3
    assert [len(batch) for batch in parquet.read_batches(tmp_path / "b")] == [4, 4, 2]


def test_features_keep_their_bits(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2048)
    index = pa.array([0, 0, 1], pa.int64())
    parquet.write_table(tmp_path / "f", pa.table([index, index, index, column], schema=schema.FEATURES), {})
    (batch,) = parquet.read_batches(tmp_path / "f")
    assert np.array_equal(batch["features"].flatten().to_numpy().reshape(-1, 2048), values)


def test_readme_explains_every_column():
    from hfdbench.cards.find import bundled_root

    sections = (bundled_root() / "results" / "README.md").read_text().split("\n## ")[1:]
    tables = [section for section in sections if not section.startswith("golden/")]
    assert len(tables) == 5
    for section in tables:
        columns = getattr(schema, section.split("/")[0].upper())
        first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        explained = [name for cell in first_cells for name in cell.replace("`", "").replace(",", " ").split()]
        assert sorted(explained) == sorted(columns.names), section[:20]


def test_points_of_an_older_version_have_null_in_the_columns_added_since(tmp_path):
    row = {"codec": "old", "point": "a", "dataset": "kodak", "bpp": 0.5}
    old = pa.Table.from_pylist([row], schema.POINTS).drop_columns(sorted(schema.ADDED & set(schema.POINTS.names)))
    parquet.write_table(tmp_path / "points" / "old.parquet", old, {})
    points = Results(tmp_path).points()
    assert list(points.columns) == schema.POINTS.names
    assert points["bpp"][0] == 0.5 and points["lpips"].isna().all()
    parquet.write_table(tmp_path / "points" / "older.parquet", old.drop_columns(["bpp"]), {})
    with pytest.raises(UsageError, match=r"no column bpp"):
        Results(tmp_path).points()
