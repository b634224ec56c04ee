"""Ctrl-C: the first ends the command within two seconds, the second at once.

Worker processes have supervisors, which end them and remove their folders when this process is gone, however it went.
"""

import os
import signal
import sys
import threading
from types import FrameType

STOPPED = "hfdbench: stopped; finished results are kept, and the same command continues from there"
PATIENCE_S = 1.8  # for writing what is finished


interrupted = threading.Event()


def install() -> None:
    """Handle SIGINT so; where it is ignored (a shell's background job) it stays ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return

    def leave() -> None:
        if temporary := sys.modules.get("hfdbench.files.temporary"):
            temporary.abandon()
        os._exit(130)

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            leave()
        interrupted.set()
        os.write(2, f"\n{STOPPED}\n".encode())  # typer swallows the exception that follows
        timer = threading.Timer(PATIENCE_S, leave)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)


def settle() -> None:
    """After an interrupt, when only the interpreter's own end is left: it restores the default action of signals, and
    one more Ctrl-C would change the exit code.
    """
    if interrupted.is_set():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
