"""Ctrl-C: the first ends the command within two seconds, the second at once.

Worker processes have supervisors, which end them and remove their folders when this process is gone, however it went.
"""

import os
import signal
import threading
from types import FrameType

STOPPED = "hfdbench: stopped; finished results are kept, and the same command continues from there"
PATIENCE_S = 1.8  # for writing what is finished


def install() -> None:
    """Handle SIGINT so; where it is ignored (a shell's background job) it stays ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            os._exit(130)
        interrupted.set()
        os.write(2, f"\n{STOPPED}\n".encode())  # typer swallows the exception that follows
        timer = threading.Timer(PATIENCE_S, os._exit, [130])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
