"""Ctrl-C: the first ends the command within two seconds, the second at once, and the exit code is 130 at every moment.

Conventions: the first press is a KeyboardInterrupt, so that what is finished is written. While a module is imported nothing is
unfinished, and libraries that Ctrl-C meets in their own start may abort: the process ends there and then. An interrupted
command skips the interpreter's own end for the same reason. Worker processes have supervisors, which end them and remove their
folders when this process is gone, however it went.

Python runs handlers between two instructions of the main thread, which may be seconds away: an eigenvalue decomposition is one.
So a thread waits for the presses, too, and ends the process when patience is over or a second one comes. That takes Python's
lock, which some libraries hold for as long: of two presses before the first was handled, the second is the system's, which
ends the process by the signal (130, as shells count).
"""

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
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
    can_answer = _for_one_press()
    signals, ours = socket.socketpair()
    ours.setblocking(False)
    signal.set_wakeup_fd(ours.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(signals, can_answer), daemon=True).start()
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
    signal.signal(signal.SIGINT, _handle)
    os.write(2, f"\n{STOPPED}\n".encode())  # typer swallows the exception that follows
    if _importing(frame):
        _leave()
    raise KeyboardInterrupt


def _for_one_press() -> Callable[[], object]:
    """Let the system have the press after the next, unless what is returned was called. Needs glibc; else nothing changes."""
    with suppress(AttributeError, TypeError, OSError):
        libc = ctypes.CDLL(None)
        once, always = libc.sysv_signal, libc.signal
        for function in (once, always):
            function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        handler = always(signal.SIGINT, None)
        once(signal.SIGINT, handler)
        return lambda: (always(signal.SIGINT, handler), signal.siginterrupt(signal.SIGINT, True))
    return lambda: None


def _watch(signals: socket.socket, can_answer: Callable[[], object]) -> None:
    for patience_s in (None, PATIENCE_S):
        signals.settimeout(patience_s)
        with suppress(TimeoutError):
            while signals.recv(1) != bytes([signal.SIGINT]):
                pass
            can_answer()
    _leave()


if hasattr(os, "register_at_fork"):  # a press reaches every process of a terminal, and is one to this thread
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _leave(*_: object) -> None:
    if temporary := sys.modules.get("hfdbench.files.temporary"):
        with suppress(Exception):
            temporary.abandon()
    os._exit(130)
