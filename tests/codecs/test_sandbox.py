"""What a codec sees in its sandbox, and that it stays inside."""

import fcntl
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import helpers_codec
import numpy as np
import pytest

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import sandbox
from hfdbench.codecs.pool import CodecFailed, Pool
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import UsageError

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(params=["namespaces", "landlock"])
def level(request, monkeypatch):
    monkeypatch.setenv("HFDBENCH_SEAL", request.param)
    try:
        with Pool("codec", 1, "cpu") as pool:
            pool._all[0].probe()
    except UsageError as error:
        pytest.skip(str(error))
    return request.param


def _known(path: str) -> tuple:
    """What the kernel keeps of a file, and a codec must not change."""
    stat = os.stat(path)
    attributes: list = []
    with suppress(OSError), open(path, "rb") as file:
        attributes += os.listxattr(file.fileno())
        attributes.append(fcntl.ioctl(file, 0x80087601, bytes(8)))  # FS_IOC_GETVERSION
    return stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, stat.st_size, *attributes


def test_a_codec_stays_inside(level, tmp_path):
    hidden = open_dataset("samples").paths[0]  # a photograph in an installed package
    assert hidden.stat().st_size > 1000
    (tmp_path / "secret").write_text("secret")
    options = {"hidden": str(hidden), "secret": str(tmp_path)}  # named, and yet
    card = CodecCard(
        id="p", kind="classical", adapter="helpers_codec:Prisoner", points=[{"id": "p", "options": options}]
    )
    marked = (helpers_codec.__file__, "/dev/null", "/dev/zero")
    before = [_known(path) for path in marked]
    with Pool("encoder", 1, "cpu", hidden=[hidden, tmp_path]) as pool:
        ask = {"do": "encode", "shape": IMAGE.shape}
        found = json.loads(pool.ask(card, "p", ask, IMAGE.tobytes())[1])
    assert [_known(path) for path in marked] == before
    assert found["settings"] == [] and found["null"] == 4 and not found["vsock"]
    assert found["hidden"] == found["after umount"] == found["after unshare"] == 0
    assert found["home"] == [] and found["own"] == 7 and not found["writes"]
    assert not found["secret"] and found["processes"] <= 3  # the first of the namespace and the worker
    needed = {path.split("/")[1] for path in (*sandbox.needed_paths(), str(Path(__file__)))}
    assert not {"work", "mnt", "srv", "media", "data"} - needed & set(found["root"])


def test_policy_survives_the_way_to_the_worker():
    policy = sandbox.Policy("landlock", "/own", ("/a", "/b"), ("/c",), (), True, 7)
    assert sandbox.Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert sandbox.seal("landlock") == sandbox.seal("namespaces") == "sandbox" and sandbox.seal("process") == "process"


def test_of_a_checkout_only_modules_are_seen(tmp_path):
    for name in (
        "module.py",
        "data.png",
        "library.so",
        "package/__init__.py",
        "results/x.parquet",
        "a.dist-info/RECORD",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    seen = {Path(path).name for path in sandbox.importable(str(tmp_path))}
    assert seen == {"module.py", "library.so", "package", "a.dist-info"}


def test_what_is_needed_is_there_and_exists():
    paths = sandbox.needed_paths(["/nowhere/at/all"])
    assert "/usr" in paths and sys.prefix in paths and "/nowhere/at/all" not in paths
    assert not {"/", "/home", "/root", "/tmp", "/var", "/proc", "/dev"} & set(paths)


def test_only_what_could_be_seen_needs_hiding():
    assert sandbox.reachable(["/usr/share/a", "/data/b", "/usr"], ["/usr", "/lib"]) == ("/usr/share/a", "/usr")


def test_landlock_opens_all_but_the_hidden(tmp_path):
    for name in ("a/1", "a/2", "b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("a")  # as lib64 is to lib in a virtual environment
    hidden = str(tmp_path / "a" / "1")
    opened = dict(sandbox._without(str(tmp_path), [hidden]))
    assert not {hidden, str(tmp_path / "link")} & set(opened) and opened[str(tmp_path)] == sandbox._READ_DIR
    assert opened[str(tmp_path / "a" / "2")] == opened[str(tmp_path / "b")] == sandbox._READING


def test_a_codec_without_network_says_so(level):
    card = CodecCard(id="d", kind="classical", adapter="helpers_codec:Downloader", points=[{"id": "p"}])
    with Pool("encoder", 1, "cpu", retries=0) as pool, pytest.raises(CodecFailed, match=r"OSError|PermissionError"):
        pool.ask(card, "p", {"do": "encode", "shape": IMAGE.shape}, IMAGE.tobytes())


def test_weights_may_be_downloaded_before_any_image_is_seen(level, tmp_path, monkeypatch):
    """The first time in the open, into a cache that the sandbox shows; then it works without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    card = CodecCard(id="f", kind="classical", adapter="helpers_codec:Fetcher", points=[{"id": "p"}])
    for _ in range(2):
        with Pool("encoder", 1, "cpu") as pool:
            assert pool.ask(card, "p", {"do": "encode", "shape": IMAGE.shape}, IMAGE.tobytes())[1] == b"downloaded"
            assert pool.prepared == ({("f", "p")} if _ == 0 else set())
