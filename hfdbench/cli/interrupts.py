"""Ctrl-C: the first ends the command within two seconds, the second at once, and the exit code is 130 at every moment.

Conventions: the first press is a KeyboardInterrupt, so that what is finished is written. While a module is imported nothing is
unfinished, and libraries that Ctrl-C meets in their own start may abort: the process ends there and then. An interrupted
command skips the interpreter's own end for the same reason. Worker processes have supervisors, which end them and remove their
folders when this process is gone, however it went.
"""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

STOPPED = "hfdbench: stopped; finished results are kept, and the same command continues from there"
PATIENCE_S = 1.8  # for writing what is finished
_pressed = threading.Event()


def install() -> None:
    """Handle SIGINT so; where it is ignored (a shell's background job) it stays ignored."""
    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, _leave):
        return
    _pressed.clear()
    signal.signal(signal.SIGINT, _handle)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the interpreter would restore its default action


def settle() -> None:
    """The command has ended. If it was interrupted, so does the process; else the next press ends it at once."""
    if _pressed.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        _leave()
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, _leave)


def _handle(number: int, frame: FrameType | None) -> None:
    if _pressed.is_set():
        _leave()
    _pressed.set()
    os.write(2, f"\n{STOPPED}\n".encode())  # typer swallows the exception that follows
    if _importing(frame):
        _leave()
    timer = threading.Timer(PATIENCE_S, _leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _leave(*_: object) -> None:
    if temporary := sys.modules.get("hfdbench.files.temporary"):
        with suppress(Exception):
            temporary.abandon()
    os._exit(130)
