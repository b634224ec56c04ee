"""Workers that are processes of this machine.

Conventions: a worker sees the GPU it was given and no other (CUDA_VISIBLE_DEVICES) and computes with one thread. It is in a
session of its own, so that Ctrl-C reaches the driver alone; when its pipe ends, it ends at once, and the supervisors of its
codecs end all that they started. Messages are pickles between processes of one user.
"""

import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue

from hfdbench.codecs.worker import THREADS
from hfdbench.files import temporary
from hfdbench.pipeline.engines.queue import Lost
from hfdbench.pipeline.engines.worker import Hello, Report, Unit, Wrong, do, hello
from hfdbench.pipeline.plan import Request

ENDING_S = 10.0
ENDED = 3  # exit code of a process whose pipe has ended


class Process:
    """A worker process.

    Parameters
    ----------
    request : Request
        What its units are parts of.
    device : str, optional
        Id of the only GPU that it sees.
    """

    def __init__(self, request: Request, device: str | None = None):
        self._pipe, theirs = Pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "hfdbench.pipeline.engines.processes", str(theirs.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._thread = ThreadPoolExecutor(1)
        with suppress(OSError):  # it is dead: its first answer says so
            self._pipe.send(request)
        self.host = f"process {self._popen.pid}"

    def hello(self) -> "Future[Hello | Wrong]":
        """What it would do."""
        return self._thread.submit(self._ask, None)

    def submit(self, unit: Unit) -> "Future[Report | Wrong]":
        """Give it a unit. The future raises Lost."""
        return self._thread.submit(self._ask, unit)

    def _ask(self, unit: Unit | None):
        try:
            self._pipe.send(unit)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise Lost(f"ended with exit code {self._popen.wait()}") from None

    def end(self) -> None:
        """End it and all that it started."""
        self._popen.terminate()
        try:
            self._popen.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._thread.shutdown()
        self._pipe.close()


def serve(pipe: Connection) -> None:
    """Answer units until the pipe ends."""
    asked: SimpleQueue[Unit | None] = SimpleQueue()
    request = pipe.recv()

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                asked.put(pipe.recv())
        temporary.abandon()
        os._exit(ENDED)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        unit = asked.get()
        pipe.send(hello(request) if unit is None else do(request, unit))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
