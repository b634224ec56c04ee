"""Ctrl-C ends a run soon, twice at once, and nothing is left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import processes
from PIL import Image

pytestmark = [pytest.mark.faults]
CARD = """
id = "slow"
kind = "classical"
adapter = "helpers_codec:Quantiser"
points = [{ id = "p", options = { step = 16, pause_s = 0.2 } }]
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ends_soon_and_leaves_nothing(tmp_path, presses):
    """At a moment by chance after the first worker has started."""
    for folder in ("codecs", "images", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "codecs" / "slow.toml").write_text(CARD)
    for number in range(40):
        Image.fromarray(np.full((40, 56, 3), number, np.uint8)).save(tmp_path / "images" / f"{number:02}.png")
    marker = f"interrupted-{os.getpid()}-{presses}"
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "MARKED": marker}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    script = "import signal; signal.signal(2, signal.default_int_handler); from hfdbench.cli import main; main()"
    words = ["run", "--cards", ".", "--codec", "slow", "--dataset", "folder:images", "--workers", "2"]
    command = [sys.executable, "-c", script, *words]
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "tmp").glob("hfdbench-*")):
        assert run.poll() is None, run.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.uniform(0, 2))
    began = time.monotonic()
    for _ in range(presses):
        run.send_signal(signal.SIGINT)
        time.sleep(0.05)
    errors = run.communicate(timeout=60)[1].decode()
    took = time.monotonic() - began
    assert run.returncode == 130 and "the same command continues from there" in errors, errors
    assert took < 8, took  # 2 s on an idle machine
    deadline = time.monotonic() + 60  # the supervisors' own time
    while processes(marker) or list((tmp_path / "tmp").glob("hfdbench-*")):
        assert time.monotonic() < deadline, processes(marker)
        time.sleep(0.05)


PRESSED = """
import _frozen_importlib, ctypes, os, signal, subprocess, sys, threading, time
from hfdbench.cli import interrupts, main

press = lambda *_: os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["hfdbench", "--version"]

class Out:
    write = lambda self, text: press()
    flush = isatty = lambda self: False

class Late:
    def __del__(self, kill=os.kill, process=os.getpid()):  # when the interpreter has given signals up
        kill(process, 2)

moment, settle = os.environ["MOMENT"], interrupts.settle
if moment == "import":  # PyTorch's C++ calls Python while it starts: an exception that is raised there aborts
    lock = _frozen_importlib._lock_unlock_module
    _frozen_importlib._lock_unlock_module = lambda name: (name == "torch.multiprocessing" and press(), lock(name))
    Out.write = lambda self, text: __import__("torch")
    sys.stdout = Out()
elif moment == "output":
    sys.stdout = Out()
elif moment == "settle":
    interrupts.settle = lambda pressed=[]: settle() if pressed else press(pressed.append(1))
elif moment == "threads":
    threading.Thread(target=lambda: (time.sleep(1), press())).start()
elif moment == "end":
    late = Late()
elif moment.startswith("stuck"):  # in C, for ever
    libc, mutex = (ctypes.PyDLL if "lock" in moment else ctypes.CDLL)(None), ctypes.create_string_buffer(64)

    class Out:
        flush = isatty = lambda self: False
        def write(self, text):
            presses = "sleep 0.2; kill -2 $0; " * (2 if "twice" in moment else 1)
            subprocess.Popen(["sh", "-c", presses, str(os.getpid())], stderr=subprocess.DEVNULL)
            os.write(2, f"stuck at {time.monotonic()} ".encode())
            libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)

    sys.stdout = Out()
main()
"""


@pytest.mark.parametrize("moment", ["import", "output", "settle", "threads", "end"])
def test_a_press_at_the_moments_that_are_not_the_command_s(moment):
    """While it is imported, when it has ended, and until the interpreter has, which ignores the last of them."""
    environment = os.environ | {"MOMENT": moment}
    run = subprocess.run([sys.executable, "-c", PRESSED], env=environment, capture_output=True, timeout=60, text=True)
    assert run.returncode == (0 if moment == "end" else 130) and "Traceback" not in run.stderr, run.stderr


@pytest.mark.parametrize(
    ("moment", "code"),
    [("stuck", 130), ("stuck, twice", 130), ("stuck with Python's lock, twice", -signal.SIGINT)],  # a shell says 130
)
def test_a_press_while_the_main_thread_is_in_a_library(moment, code):
    """Its handler cannot run: the first ends the process when its patience is over, the second at once."""
    environment = os.environ | {"MOMENT": moment}
    run = subprocess.run([sys.executable, "-c", PRESSED], env=environment, capture_output=True, timeout=60, text=True)
    ended = time.monotonic()
    assert run.returncode == code and "Traceback" not in run.stderr, run.stderr
    took_s = ended - float(run.stderr.split("stuck at ")[1].split()[0])
    assert 0.4 < took_s < 1.9 if "twice" in moment else 1.9 < took_s < 8
