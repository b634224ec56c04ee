"""Drivers that are killed, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

COMMAND = [sys.executable, "-c", "from hfdbench.cli import main; main()"]


def driver(words: Sequence[str]) -> subprocess.Popen:
    """Start a command of hfdbench, which finds the modules of the tests."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen([*COMMAND, *words], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def killed(words: Sequence[str], moment: Callable[[subprocess.Popen], bool]) -> bool:
    """Start a command and kill it (SIGKILL) when the moment has come; whether it still ran.

    Parameters
    ----------
    words : sequence of str
        After `hfdbench`.
    moment : callable
        Waits for the moment; whether it came.
    """
    process = driver(words)
    try:
        return moment(process) and process.poll() is None
    finally:
        process.kill()
        process.wait()


def pieces(out: Path) -> list[str]:
    """Pieces of unfinished tables."""
    return sorted(f"{path.parent.name}/{path.name}" for path in out.glob("work/*/*.parquet"))
