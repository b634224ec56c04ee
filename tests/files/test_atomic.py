"""Files appear whole or not at all, whatever happens while they are written."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing, write_bytes, write_text


@contextmanager
def files_of_at_most(bytes_):
    """The system refuses longer files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "eins\nzwei ü")
    assert path.read_bytes() == "eins\nzwei ü".encode()
    write_bytes(path, b"b")
    assert path.read_bytes() == b"b"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npy"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize(("old", "kept"), [(b"old", "the old file is intact"), (None, "there was none before")])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, old, kept):
    path = tmp_path / "a.npy"
    if old:
        write_bytes(path, old)
    with files_of_at_most(5000), pytest.raises(UsageError, match=rf"a\.npy: cannot be written: .+; {kept}; check free"):  # noqa: SIM117
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.zeros(10_000))
    assert os.listdir(tmp_path) == (["a.npy"] if old else [])
    assert not old or path.read_bytes() == old


def test_a_library_with_errors_of_its_own(tmp_path):
    says = r"a: cannot be written: no room left, says the library; there was none before"
    with pytest.raises(UsageError, match=says), replacing(tmp_path / "a", ArithmeticError):
        raise ArithmeticError("no room left, says the library")
    with pytest.raises(ArithmeticError), replacing(tmp_path / "a"):
        raise ArithmeticError("something else")


def test_a_folder_that_is_a_file_and_a_block_that_writes_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file.a: cannot be written: a file is where a folder should be"):
        write_text(tmp_path / "file" / "a", "")
    with pytest.raises(UsageError, match=r"b: cannot be written: No such file"), replacing(tmp_path / "b"):
        pass


@pytest.mark.parametrize("name", ["n" * 250, "ü" * 120, os.fsdecode(b"caf\xe9")])
def test_any_name_that_the_file_system_takes(tmp_path, name):
    write_text(tmp_path / name, "content")
    assert os.listdir(tmp_path) == [name]


def test_a_killed_writer_leaves_only_a_hidden_file(tmp_path):
    code = (
        "import os, sys, pathlib; from hfdbench.files.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    write_bytes(tmp_path / "a", b"old")
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a"]).returncode == -9
    assert (tmp_path / "a").read_bytes() == b"old"
    (left,) = (name for name in os.listdir(tmp_path) if name != "a")
    assert left.startswith(".a.") and left.endswith(".tmp")


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path, capfd):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_text(tmp_path / "link", "content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").read_text() == "content"
    write_text("/dev/stdout", "on the screen")
    assert capfd.readouterr().out == "on the screen"
