"""What is damaged, short, doubled or failed for a passing reason is done again, and nothing else is."""

import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pytest
from test_pipeline import assert_equal, codec, offline, one_file, pictures, tables  # noqa: F401  (offline is a fixture)

from hfdbench import cli
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.errors import UsageError
from hfdbench.pipeline import shards
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import merge, run, score
from hfdbench.results import parquet
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.stored import Results


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path) -> None:
    """Flip a bit in the middle of the first page."""
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)


def shorten(path) -> None:
    """A whole file, of fewer rows."""
    parquet.write_table(path, parquet.read_table(path).slice(0, 1), parquet.read_metadata(path))


def double(path) -> None:
    """A whole file with every row twice."""
    table = parquet.read_table(path)
    parquet.write_table(path, pa.concat_tables([table, table]), parquet.read_metadata(path))


def exchange(path) -> None:
    """A whole file of another trial."""
    other = next(other for other in sorted(path.parent.iterdir()) if other != path and other.name[:5] == path.name[:5])
    path.write_bytes(other.read_bytes())


def replace_column(path) -> None:
    table = parquet.read_table(path)
    name = table.column_names[-1]
    parquet.write_table(
        path, table.drop_columns([name]).append_column("other", table[name]), parquet.read_metadata(path)
    )


DAMAGE = [
    ("points", truncate), ("points", double), ("points", exchange), ("images", flip), ("images", shorten),
    ("images", replace_column), ("streams", truncate), ("streams", shorten), ("features", flip), ("features", exchange),
]  # fmt: skip


def test_damaged_files_are_set_aside_and_done_again(tmp_path):
    """One trial for each kind of damage: one run repairs them all, and the tables are those from before."""
    points = [(f"p{number}", {"step": 4 + number}) for number in range(len(DAMAGE) + 1)]
    spec = pictures(tmp_path / "p", 2, 256, 256)
    request = Request(codecs=(codec(points=points),), datasets=(spec,), out=tmp_path / "out")
    run(request)
    folder, before = ResultsFolder(request.out), tables(request.out)
    undamaged = {path: path.stat().st_mtime_ns for path in request.out.glob("*/mine-p10-*")}
    paths = []
    for number, (table, damage) in enumerate(DAMAGE):
        (path,) = (request.out / table).glob(f"mine-p{number}-*")
        damage(path)
        paths.append(path)
    (whole,) = (request.out / "points").glob("mine-p10-*")
    copy = whole.with_name("mine-p10 (copy).parquet")
    shutil.copy(whole, copy)  # every reader would count it
    summary = run(request)
    assert summary.exit_code == 0 and len(summary.done) == len(DAMAGE) and len(summary.existing) == 1
    assert_equal(before, tables(request.out))
    assert len(list(folder.damaged.iterdir())) == len(DAMAGE) + 1
    for path in [*paths, copy]:
        assert any(note.startswith(f"{path}: damaged (") and "moved to" in note for note in summary.notes)
    assert {path: path.stat().st_mtime_ns for path in undamaged} == undamaged
    assert len(run(request).existing) == len(points)


def test_readers_refuse_by_name(tmp_path):
    request = Request(
        codecs=(codec(points=[("a", {}), ("b", {"step": 9})]),),
        datasets=(pictures(tmp_path / "p", 2),),
        out=tmp_path / "out",
    )
    run(request)
    images = next((request.out / "images").glob("mine-a-*"))
    shorten(images)
    trial = Results(request.out).trials()[0]
    with pytest.raises(UsageError, match=f"{images.name}: damaged .*hfdbench run sets it aside"):
        trial.read_images()
    point = next((request.out / "points").glob("mine-a-*"))
    (point.parent / f"copy-{point.name}").write_bytes(point.read_bytes())
    with pytest.raises(UsageError, match=r"copy-mine-a-.* damaged .it holds mine-a-"):
        Results(request.out).points()


def test_failures_that_may_pass_are_tried_again(tmp_path, monkeypatch):
    """The process died in the middle: the next run does that image alone, and the tables are those of an undisturbed run."""
    points = [("e", {"fault": "segfault", "stage": "encode"}), ("d", {"fault": "segfault", "stage": "decode"})]
    spec = pictures(tmp_path / "p", 4, 256, 256, bad=(2,))
    request = Request(codecs=(codec("Faulty", points=points),), datasets=(spec,), out=tmp_path / "out")
    failed = run(request)
    assert failed.exit_code == 1 and failed.points["failed"].tolist() == [1, 1]
    monkeypatch.setenv("HFDBENCH_TEST_CALM", "1")
    streams = one_file_of(request.out / "streams", "mine-d-*")
    kept = parquet.read_table(streams)["encode_s"].to_pylist()
    again = run(request)
    assert again.exit_code == 0 and len(again.done) == 2 and again.points["failed"].tolist() == [0, 0]
    assert parquet.read_table(streams)["encode_s"].to_pylist() == kept  # those were well
    run(replace(request, out=tmp_path / "calm"))
    assert_equal(tables(tmp_path / "calm"), tables(request.out))
    assert again.points["fd_mini"].notna().all()


def one_file_of(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def test_retry_failed_takes_up_every_failure(tmp_path, monkeypatch):
    points = [("a", {"fault": "raise", "stage": "decode"})]
    spec = pictures(tmp_path / "p", 2, bad=(1,))
    request = Request(codecs=(codec("Faulty", points=points),), datasets=(spec,), out=tmp_path / "out")
    run(request)
    monkeypatch.setenv("HFDBENCH_TEST_CALM", "1")
    stays = run(request)
    assert stays.exit_code == 1 and len(stays.existing) == 1 and "--retry-failed" in " ".join(stays.notes)
    summary = run(replace(request, retry_failed=True))
    assert summary.exit_code == 0 and summary.points["failed"].tolist() == [0]


HELPED = """
import io
import numpy as np
from PIL import Image
import helpedscale

class Codec:
    def encode(self, image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "WEBP", quality=20 * helpedscale.scale)
        return file.getvalue()

    def decode(self, stream, *, seed):
        return np.asarray(Image.open(io.BytesIO(stream)).convert("RGB"))
"""


def test_a_codec_whose_helper_changed_does_not_go_on_with_old_pieces(tmp_path):
    """Half of the images were done, then a module that the adapter imports changed: no table mixes the two."""
    (tmp_path / "codecs").mkdir()
    card = 'id = "helped"\nkind = "classical"\nadapter = "helpedcodec:Codec"\npoints = [{ id = "a" }]\n'
    (tmp_path / "codecs" / "helped.toml").write_text(card)
    (tmp_path / "helpedcodec.py").write_text(HELPED)

    def helped(scale: int, out: str, **more):
        (tmp_path / "helpedscale.py").write_text(f"scale = {scale}\n")
        codecs = tuple(choose(CodecCard, ["helped"], (tmp_path,)))
        return run(Request(codecs=codecs, datasets=(spec,), out=tmp_path / out, cards=(tmp_path,), **more))

    spec = pictures(tmp_path / "p", 4)
    helped(4, "out", shard=(1, 2))
    assert list((tmp_path / "out").glob("work/*/streams-*"))
    helped(1, "out")
    helped(1, "fresh")
    assert_equal(tables(tmp_path / "out"), tables(tmp_path / "fresh"))


def test_small_images_are_counted_and_named(tmp_path):
    spec = pictures(tmp_path / "p", 2, 256, 256)
    pictures(tmp_path / "small", 1)
    os.rename(tmp_path / "small" / "00.png", tmp_path / "p" / "tiny.png")
    (point,) = run(Request(codecs=(codec(),), datasets=(spec,), out=tmp_path / "out")).points.to_dict("records")
    assert point["images"] == 3 and point["fd_mini"] > 0
    assert "1 of 3 images are smaller than a patch of fid256 and count in no distance: tiny.png" in point["note"]


def test_newest_does_not_trust_the_clock(tmp_path, monkeypatch, capsys):
    """The same point measured again under another key, after the clock was set back."""
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out")
    run(request)
    (old,) = Results(request.out).trials()
    path = ResultsFolder(request.out).points(old.name)
    parquet.write_table(path, parquet.read_table(path), {**old.metadata, "started_utc": "2099-01-01T00:00:00+00:00"})
    run(replace(request, codecs=(codec(points=[("a", {"step": 9})]),)))
    results = Results(request.out)
    (newest,) = results.newest()
    assert len(results.trials()) == 2 and newest.key != old.key
    assert len(results.points()) == 1 and [trial.key for trial in results.older()] == [old.key]

    def show(*options):
        monkeypatch.setattr("sys.argv", ["hfdbench", "show", "--out", str(request.out), *options])
        with suppress(SystemExit):
            cli.main()
        return capsys.readouterr()

    printed = show()
    assert printed.out.count("\nmine ") == 1 and "left out: measured again since: mine a on " in printed.err
    printed = show("--older")
    assert printed.out.count("\nmine ") == 2 and "2099-01-01" in printed.out and not printed.err


# ---- shards


@pytest.mark.parametrize("count", [2, 5])
def test_shards_merge_to_the_tables_of_one_run(tmp_path, count):
    spec = pictures(tmp_path / "p", 4, 256, 256, bad=(1,))  # with 5 shards one is empty
    card = codec("Faulty", points=[("a", {"fault": "raise", "stage": "decode"}), ("b", {"fault": "none", "stage": ""})])
    request = Request(codecs=(card,), datasets=(spec,), out=tmp_path / "out")
    first = next(index for index in range(count) if (index + 1) * 4 // count)  # which has image 0
    for index in reversed([index for index in range(count) if index != first]):
        summary = run(replace(request, shard=(index, count)))
        assert summary.exit_code == 0 and not summary.done and "hfdbench merge" in summary.notes[-1]
    with pytest.raises(UsageError, match=rf"did not end; run.*: hfdbench run --codec mine .* --shard .*/{count}"):
        merge(request)
    run(replace(request, shard=(first, count)))
    merged = merge(request)
    whole = run(replace(request, out=tmp_path / "whole"))
    assert len(merged.done) == 2 and merged.exit_code == whole.exit_code == 1
    assert_equal(tables(tmp_path / "whole"), tables(request.out))
    assert merged.points["fd_mini"].dropna().tolist() == whole.points["fd_mini"].dropna().tolist()
    assert not list(request.out.glob("work/*"))


def test_shards_of_two_plans_are_refused_by_name(tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 6),), out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"no shard of it was run; run all of them: hfdbench run .* --shard I/N"):
        merge(request)
    other = replace(request, codecs=(codec(points=[("a", {"step": 9})]),))
    run(replace(request, shard=(0, 3)))
    run(replace(other, shard=(2, 3)))
    with pytest.raises(
        UsageError, match=r"shard 2/3, run on .*, is of another plan: mine-a-.* has another key \(weights"
    ):
        merge(request)
    with pytest.raises(UsageError, match=r"shard 0/3, run on .*, is of another plan"):
        merge(other)
    record = request.out / "work" / "shard-00002-00003.json"
    record.write_text(record.read_text().replace('"pillow": "', '"pillow": "0.'))
    with pytest.raises(UsageError, match=r"another key \(pillow 0\.[\d.]+ there, \d"):
        merge(request)
    record.unlink()
    with pytest.raises(
        UsageError, match=r"shards 1-2 of 3 are missing .*--shard I/3 \(as an array of Slurm: sbatch --array=1-2"
    ):
        merge(request)
    shutil.copy(tmp_path / "p" / "04.png", tmp_path / "p" / "05.png")
    with pytest.raises(UsageError, match=r"shard 0/3, run on .* has another key \(the images differ"):
        merge(request)


def test_numbers_as_slurm_writes_them():
    assert shards._ranges([1, 4, 5, 6, 9]) == "1,4-6,9"


def test_a_run_finishes_what_shards_began(tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 4),), out=tmp_path / "out")
    run(replace(request, shard=(1, 2)))
    run(request)
    run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(request.out))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_is_none(tmp_path, shard):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 1),), out=tmp_path / "out", shard=shard)
    with pytest.raises(UsageError, match="--shard"):
        run(request)


def test_folder_removed_midway_is_an_error_of_the_trial(tmp_path):
    """Results that are deleted under a run are named; the next run makes them again."""
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out")
    run(request)
    one_file(request.out / "streams").unlink()
    one_file(request.out / "images").unlink()
    (skipped,) = score(request).skipped
    assert "no stored streams" in skipped[1]
    assert run(request).exit_code == 0
