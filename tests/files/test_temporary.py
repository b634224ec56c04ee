"""Temporary files and folders are gone at the end of the process, whenever Ctrl-C comes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hfdbench
from hfdbench.files import atomic, temporary

END = {
    "the interpreter's own": "sys.exit(130)",
    "two presses": "os.kill(os.getpid(), 2)",
    "one press and no answer": "time.sleep(60)",
}
WRITER = """
import os, signal, sys, threading, time
from pathlib import Path
from hfdbench.cli import interrupts
from hfdbench.files import temporary
from hfdbench.files.atomic import replacing

path, end = Path(sys.argv[1]), sys.argv[2]
link, unlink, presses = os.link, Path.unlink, []

def linked(*names):
    link(*names)
    presses.append(1)

def pressed(self, **options):  # between the link and the end of the temporary name
    if presses:
        presses.pop()
        os.kill(os.getpid(), signal.SIGINT)
    unlink(self, **options)

def busy():
    with replacing(path / "b") as filled, temporary.temporary_folder() as folder:
        filled.write_bytes(b"half")
        (folder / "c").write_bytes(b"d")
        held.set()
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
if end != "sys.exit(130)":
    interrupts.PATIENCE_S = 0.2
    interrupts.install()
    held = threading.Event()
    threading.Thread(target=busy, daemon=True).start()
    held.wait()
os.link, Path.unlink = linked, pressed
try:
    with replacing(path / "a", once=True) as filled:
        filled.write_bytes(b"whole")
except KeyboardInterrupt:
    exec(end)
"""


@pytest.mark.parametrize("end", END)
def test_a_press_between_a_file_s_name_and_the_end_of_its_temporary_name(tmp_path, end):
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path), END[end]]
    began = time.monotonic()
    run = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, stderr=subprocess.PIPE, timeout=60
    )
    assert run.returncode == 130, run.stderr.decode()
    assert time.monotonic() - began < 30
    assert sorted(os.listdir(tmp_path)) == ["a", "tmp"] and os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_press_at_every_instruction(tmp_path, monkeypatch, kind):
    """One more each time, until none comes before the end. What stays then goes with the process."""
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    ours = {atomic.__file__, temporary.__file__, "contextlib.py"}

    def use():
        if kind == "folder":
            with temporary.temporary_folder() as folder:
                (folder / "a").touch()
        else:
            with atomic.replacing(tmp_path / "a") as filled:
                filled.touch()

    stayed = count = 0
    done = False
    while not done:
        left, done = count, True

        def trace(frame, event, argument):
            nonlocal left, done
            if frame.f_code.co_filename not in ours and not frame.f_code.co_filename.endswith("contextlib.py"):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left < 0:
                    done = False
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        stayed += bool(set(os.listdir(tmp_path)) - {"a"})
        temporary.abandon()
        assert set(os.listdir(tmp_path)) <= {"a"}, count
        count += 1
    assert count > 50 and not temporary._claimed
    assert stayed < count / 10


def test_there_is_one_place_that_makes_temporary_files():
    """`tempfile.TemporaryFile` has no name that could stay."""
    for path in Path(hfdbench.__file__).parent.rglob("*.py"):
        made = re.search(r"tempfile(\.| import )(?!TemporaryFile|gettempdir)\w+", path.read_text())
        assert not made, f"{path}: {made[0]}; take hfdbench.files.temporary"
