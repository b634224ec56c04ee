"""Results and pictures on an object store: the tables of a local run, each piece committed once, faults named with a hint.

Against moto's S3 server on loopback, which honours "If-None-Match: *"; skipped where s3fs or moto is not installed.
"""

import importlib
import sys

import pyarrow as pa
import pytest
from test_pipeline import assert_equal, codec, offline, pictures, tables  # noqa: F401  (offline is a fixture)
from typer.testing import CliRunner

from hfdbench.cli.app import app
from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing, write_text
from hfdbench.files.remote import RemotePath, located, on_disk, remove_tree
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import merge, run
from hfdbench.results import parquet
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.stored import Results
from hfdbench.results.work import Pieces, prepare

pytestmark = pytest.mark.s3
NUMBERS = pa.schema([("image", pa.int64()), ("value", pa.int64())])


@pytest.fixture(scope="module")
def server():
    """A server with a bucket, and the address of both."""
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'hfdbench[s3]'")
    moto = pytest.importorskip("moto.server", reason="needs moto's server: pip install 'hfdbench[test]'")
    serving = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bench")
        yield f"http://{host}:{port}"
        s3fs.S3FileSystem.clear_instance_cache()
    serving.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield located("s3://bench")
    remove_tree(located("s3://bench/run"))


def put(text: str, path: RemotePath) -> None:
    write_text(path, text)


def brought(folder: RemotePath, to):
    """A copy of a results folder on this machine."""
    for table in folder.iterdir():
        for path in table.iterdir():
            (to / table.name).mkdir(parents=True, exist_ok=True)
            (to / table.name / path.name).write_bytes(path.read_bytes())
    return to


def test_a_path_of_a_store_is_a_path(bucket):
    root = bucket / "run"
    assert located(root / "a") == root / "a" and str((root / "a" / "b.txt").parent) == "s3://bench/run/a"
    assert not root.exists() and not isinstance(located("C:/run"), RemotePath)
    put("one", root / "a" / "b.txt")
    assert (root / "a").is_dir() and (root / "a" / "b.txt").is_file() and (root / "a" / "b.txt").stat().st_size == 3
    copy = on_disk(root)
    with open(root / "a" / "b.txt") as file:
        assert file.read() == "one" and copy in list(located(file.name).parents)
    put("three", root / "a" / "b.txt")
    assert (root / "a" / "b.txt").read_text() == "three"
    assert [path.read_text() for path in copy.rglob("b.txt") if path.is_file()] == ["three"]  # no copy of what is gone
    with pytest.raises(FileExistsError), replacing(root / "a" / "b.txt", once=True) as temporary:
        temporary.write_text("four")
    assert (root / "a" / "b.txt").read_text() == "three"
    assert list((root / "a").glob("[a-c].*")) == [root / "a" / "b.txt"] and not list((root / "a").glob("*.csv"))
    with pytest.raises(OSError):
        (root / "a" / "b.txt").write_text("past replacing")
    (root / "a" / "b.txt").rename(root / "damaged" / "b")
    assert [path.name for path in root.iterdir()] == ["damaged"]
    remove_tree(root)
    assert not root.exists() and not list(copy.rglob("*.tmp"))
    with pytest.raises(FileNotFoundError):
        (root / "a" / "b.txt").read_text()


def test_a_run_on_a_store_gives_the_tables_of_a_local_one(bucket, tmp_path):
    spec = pictures(tmp_path / "p", 3, 256, 300)
    local = Request(codecs=(codec(points=[("a", {}), ("b", {"step": 9})]),), datasets=(spec,), out=tmp_path / "out")
    run(local)
    for picture in sorted((tmp_path / "p").iterdir()):
        with replacing(bucket / "p" / picture.name) as temporary:
            temporary.write_bytes(picture.read_bytes())
    remote = Request(codecs=local.codecs, datasets=("folder:s3://bench/p",), out=bucket / "run" / "whole")
    summary = run(remote)
    assert summary.exit_code == 0 and len(summary.done) == 2
    here = brought(remote.out, tmp_path / "whole")
    assert_equal(tables(local.out), tables(here))
    assert not (here / "work").exists()
    assert len(run(remote).existing) == 2

    shards = Request(codecs=local.codecs, datasets=(spec,), out=bucket / "run" / "shards")
    for number in (0, 1):
        run(Request(**vars(shards) | {"shard": (number, 2)}))
    assert merge(shards).exit_code == 0
    assert_equal(tables(local.out), tables(brought(shards.out, tmp_path / "shards")))

    (images,) = (remote.out / "images").glob("mine-a-*")
    damaged = images.read_bytes()[:-100]
    with replacing(images) as temporary:
        temporary.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"s3://bench/run/whole/images/mine-a-.*: damaged"):
        Results(remote.out).trials()[0].read_images()
    summary = run(remote)
    assert [label.split()[0] for label in summary.done] and len(summary.existing) == 1
    assert [path.name for path in (remote.out / "damaged").iterdir()] == [f"images-{images.name}"]
    assert Results(remote.out).points()["psnr_db"].tolist() == Results(local.out).points()["psnr_db"].tolist()


def test_commands_read_a_store(bucket, tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=bucket / "run")
    run(request)

    def command(*words: str) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return result.output

    assert "mine" in command("show", "--out", "s3://bench/run", "--columns", "codec,images")
    command("report", "rate-psnr", "--out", "s3://bench/run", "--to", str(tmp_path / "figures"), "--format", "svg")
    assert list((tmp_path / "figures").iterdir())
    command("gate", "s3://bench/run", "--accept", str(tmp_path / "baseline"))
    assert "mine" in command("gate", "s3://bench/run", "--against", str(tmp_path / "baseline"))
    assert "mine" in command("gate", str(request.out), "--against", "s3://bench/run")


def test_a_piece_is_committed_once(bucket):
    """The second of two writers of one piece is told, by host, that it came to something else; the first counts."""
    folder = ResultsFolder(bucket / "run")
    first, second = (Pieces(folder, "k", "images", NUMBERS, "value", host) for host in ("one", "two"))
    for pieces, value in ((first, 1), (second, 2)):
        pieces.add(0, pa.table({"image": [0], "value": [value]}, schema=NUMBERS))
    first.flush()
    second.flush()
    (path,) = folder.work("k").glob("*.parquet")
    assert parquet.read_table(path)["value"].to_pylist() == [1]
    (conflict,) = second.conflicts()
    assert "image 0 was computed twice, by one and two, with different value" in conflict
    second.merge(folder.points("t"), {}, 16, 1)
    assert parquet.read_table(folder.points("t"))["value"].to_pylist() == [1]


def test_a_bucket_that_is_not_there(bucket):
    with pytest.raises(UsageError, match=r"s3://nowhere/run.*there is no bucket s3://nowhere; make it"):
        prepare(ResultsFolder(located("s3://nowhere/run")), 0)
    with pytest.raises(UsageError, match="there is no bucket s3://nowhere"):
        Results("s3://nowhere/run").trials()


def test_no_permission(bucket, monkeypatch):
    """The server is told to check keys, and does not know ours."""
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    for ask in (lambda: prepare(ResultsFolder(bucket / "run"), 0), lambda: Results(bucket / "run").trials()):
        with pytest.raises(UsageError, match=r"s3://bench/run.*: no permission .* need to list, read, write"):
            ask()
    monkeypatch.undo()


def test_nobody_at_the_endpoint_and_no_credentials(bucket, monkeypatch):
    import s3fs

    monkeypatch.setattr("hfdbench.files.remote.ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match=r"cannot be reached .*check AWS_ENDPOINT_URL=http://127.0.0.1:9"):
        Results(bucket / "run").trials()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        Results(bucket / "run").trials()
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_unknown_store_and_a_missing_package(monkeypatch):
    with pytest.raises(UsageError, match=r"what://bench/run.*no such kind of store"):
        Results("what://bench/run").trials()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'hfdbench\[s3\]'"):
        Results("s3://bench/run").trials()
