"""Pieces of tables: resumed, merged in order whoever wrote them, compared where two hold the same image; locks; sweeping."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from hfdbench.errors import UsageError
from hfdbench.results import parquet, schema, work
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.work import Pieces, discard, prepare, working

NUMBERS = pa.schema([("image", pa.int64()), ("value", pa.int64())])


def rows(first: int, last: int, value: int = 0) -> pa.Table:
    numbers = range(first, last + 1)
    return pa.table({"image": list(numbers), "value": [10 * i + value for i in numbers]}, schema=NUMBERS)


def pieces(folder: ResultsFolder, host: str = "here") -> Pieces:
    return Pieces(folder, "k", "images", NUMBERS, "value", host)


@pytest.fixture
def folder(tmp_path) -> ResultsFolder:
    return ResultsFolder(tmp_path)


def fill(table: Pieces, images, value: int = 0) -> None:
    with table:
        for image in images:
            table.add(image, rows(image, image, value))


def test_resume(folder, monkeypatch):
    monkeypatch.setattr(work, "FLUSH_IMAGES", 3)
    table = pieces(folder)
    for image in range(8):
        table.add(image, rows(image, image))
    assert table.missing(range(10)) == [8, 9]  # and here the process dies: 6 and 7 are lost
    again = pieces(folder)
    assert again.missing(range(10)) == [6, 7, 8, 9]
    fill(again, range(4, 10))
    again.merge(folder.new_images("whole"), {}, rows=100, images=10)
    assert parquet.read_table(folder.images("whole")).equals(rows(0, 9))
    assert not Pieces(folder, "k", "features", NUMBERS, "value").missing([])


def test_a_part_looks_at_its_own_pieces_alone(folder):
    """So that what a unit reads does not grow with the number of units."""
    for first in (0, 4, 8):
        fill(pieces(folder), range(first, first + 4))
    other, mine = (folder.work("k") / f"images-{span}.parquet" for span in ("000000-000003", "000004-000007"))
    other.write_bytes(b"torn")
    part = Pieces(folder, "k", "images", NUMBERS, "value", images=range(5, 8))
    assert not part.set_aside and not part.missing(range(4, 8)) and other.exists()
    assert pa.Table.from_batches(part.batches()).equals(rows(4, 7))
    mine.write_bytes(b"torn")
    assert len(Pieces(folder, "k", "images", NUMBERS, "value", images=range(5, 8)).set_aside) == 1 and other.exists()


@pytest.mark.parametrize(
    "order", [(range(5, 10), range(0, 5)), ([9, 0, 1, 7, 8], [2, 5, 3, 4, 6]), (range(0, 7), range(3, 10))]
)
def test_merged_in_the_order_of_the_images(folder, order):
    """Whoever did what, in whatever order and twice: the bytes of the merged file are those of one run."""
    tables = [pieces(folder) for _ in order]  # none sees the pieces of the other
    for table, images in zip(tables, order, strict=True):
        fill(table, images)
    whole = pieces(folder)
    assert whole.conflicts() == []
    whole.merge(folder.new_images("whole"), {}, rows=4, images=10)
    alone = ResultsFolder(folder.root / "alone")
    fill(pieces(alone), range(10))
    pieces(alone).merge(alone.new_images("whole"), {}, rows=4, images=10)
    assert folder.images("whole").read_bytes() == alone.images("whole").read_bytes()


def test_missing_images_are_named(folder):
    fill(pieces(folder), [0, 1, 4])
    with pytest.raises(UsageError, match=r"2 of 5 images are missing, the first is 2"):
        pieces(folder).merge(folder.new_images("whole"), {}, rows=4, images=5)
    assert not folder.images("whole").exists()


@pytest.mark.parametrize("span", [range(0, 4), range(2, 6)], ids=["same piece", "overlap"])
def test_different_results_of_one_image_are_reported(folder, span):
    one, two = pieces(folder, "a"), pieces(folder, "b")
    fill(one, range(0, 4))
    fill(two, span, value=1)
    (conflict,) = two.conflicts()
    images = ", ".join(str(image) for image in span if image < 4)
    assert f"image {images} was computed twice, by a and b, with different value" in conflict
    pieces(folder).merge(folder.new_images("whole"), {}, rows=9, images=4)
    assert parquet.read_table(folder.images("whole")).slice(0, 4).equals(rows(0, 3))  # the first one counts


def test_damaged_piece_is_set_aside_and_done_again(folder):
    fill(pieces(folder), [0, 1])
    fill(pieces(folder), [2, 3])
    (first, *_) = sorted(folder.work("k").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    table = pieces(folder)
    ((error, place),) = table.set_aside
    assert error.path == first and place.parent == folder.damaged and place.exists()
    assert table.missing(range(4)) == [0, 1]


def test_flush_by_weight_and_time(folder, monkeypatch):
    monkeypatch.setattr(work, "FLUSH_BYTES", 100)
    table = pieces(folder)
    table.add(0, rows(0, 0))
    assert not list(folder.work("k").glob("*"))
    table.add(1, pa.concat_tables([rows(1, 1)] * 20))
    assert len(list(folder.work("k").glob("*"))) == 1
    monkeypatch.setattr(work, "FLUSH_S", 0.0)
    table.add(2, rows(2, 2))
    assert len(list(folder.work("k").glob("*"))) == 2


def test_an_image_may_have_no_rows(folder):
    table = Pieces(folder, "k", "features", schema.FEATURES, "features")
    with table:
        table.add(0, schema.FEATURES.empty_table())
    table.merge(folder.features("whole", "12345678"), {}, rows=4, images=1)
    assert len(parquet.read_table(folder.features("whole", "12345678"))) == 0
    assert Pieces(folder, "k", "features", schema.FEATURES, "features").missing([0]) == []


def test_take_back(folder):
    fill(pieces(folder), range(6))
    finished = folder.new_images("whole")
    pieces(folder).merge(finished, {}, rows=9, images=6)
    work.finish(folder, "k")
    table = pieces(folder)
    table.take_back(finished, 6, {0, 3})
    assert not finished.exists() and pieces(folder).missing(range(6)) == [0, 3]


def write_once(root, number: int, barrier, wins) -> None:
    barrier.wait()
    try:
        parquet.write_table(root / "piece.parquet", rows(0, 3, number), {}, once=True)
        wins.put(number)
    except FileExistsError:
        pass


def test_of_many_writers_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=write_once, args=(tmp_path, n, barrier, wins)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winner = wins.get()
    assert wins.empty() and parquet.read_table(tmp_path / "piece.parquet").equals(rows(0, 3, winner))
    assert os.listdir(tmp_path) == ["piece.parquet"]


def test_a_lock_has_one_holder_though_its_file_is_removed(folder):
    """Waiters used to lock a folder that its last holder had removed, and the next run one of the same name."""
    inside, most, done = [], [], []

    def hold(number: int) -> None:
        for _ in range(20):
            with working(folder, "k"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(number)
            discard(folder, "k")
        done.append(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4 and max(most) == 1 and not list(folder.root.glob("work/*"))


def test_discard_leaves_what_another_run_holds(folder):
    with working(folder, "k"):
        fill(pieces(folder), [0])
        discard(folder, "k")
        assert folder.work("k").exists()
    discard(folder, "k")
    assert not folder.work("k").exists()


def test_prepare(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be written .* choose another folder with --out"):
        prepare(ResultsFolder(tmp_path / "file" / "out"), 0)
    with pytest.raises(UsageError, match="MiB free, about"):
        prepare(folder, 1 << 60)
    (tmp_path / "points").mkdir()
    orphan, alive = tmp_path / "points" / ".a.tmp", tmp_path / "points" / ".b.tmp"
    orphan.write_bytes(b"half")
    os.utime(orphan, (time.time() + 1e6,) * 2)  # the clock was set back meanwhile
    with open(alive, "wb") as file:
        file.write(b"half")
        file.flush()
        parquet._lock(file.fileno())
        os.utime(alive, (time.time() - 1e6,) * 2)
        prepare(folder, 0)
        assert not orphan.exists() and alive.exists()


FULL = """
import resource, signal, sys
from pathlib import Path
import pyarrow as pa
from hfdbench.results import parquet
path, once = Path(sys.argv[1]), sys.argv[2] == "once"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
parquet.write_table(path, pa.table({"image": list(range(100000))}), {}, once=once)
"""


@pytest.mark.parametrize("once", ["once", "replace"])
def test_full_disk_leaves_what_was_there(tmp_path, once):
    path = tmp_path / "a.parquet"
    if once == "replace":
        parquet.write_table(path, rows(0, 3), {})
    result = subprocess.run([sys.executable, "-c", FULL, str(path), once], capture_output=True, text=True)
    assert result.returncode and f"{path}: cannot be written: " in result.stderr
    assert os.listdir(tmp_path) == ["a.parquet"] * (once == "replace")
    assert once == "once" or parquet.read_table(path).equals(rows(0, 3))
