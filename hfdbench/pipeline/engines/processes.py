"""Workers that are processes of this machine.

Conventions: a worker sees the GPU it was given and no other (CUDA_VISIBLE_DEVICES) and computes with one thread. It is in a
session of its own, so that Ctrl-C reaches the driver alone; when its pipe ends, it ends at once, and the supervisors of its
codecs end all that they started. All of them bear a number of the worker in their environment: a worker that died counts as
gone when nobody bears it any more. Messages are pickles between processes of one user.
"""

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue

from hfdbench.codecs.worker import THREADS
from hfdbench.files import temporary
from hfdbench.pipeline.engines.queue import Lost
from hfdbench.pipeline.engines.worker import Bench, Hello, Report, Unit, Wrong, difference
from hfdbench.pipeline.plan import Request

ENDING_S = 10.0
ENDED = 3  # exit code of a process whose pipe has ended
MARK = "HFDBENCH_ENGINE_WORKER"


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
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        environment[MARK] = self._mark.partition("=")[2]
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
        self.host, self.seal = f"process {self._popen.pid}", "process"
        self._hello: Future[Hello | Wrong] = self._thread.submit(self._ask, None)

    def greet(self, mine: Hello) -> str:
        """Wait until it is ready; why it would give other results than the driver, or empty. Raises Lost."""
        theirs = self._hello.result()
        if isinstance(theirs, Wrong):
            return theirs.message
        self.seal = theirs.seal
        return difference(mine, theirs)

    def submit(self, unit: Unit) -> "Future[Report | Wrong]":
        """Give it a unit. The future raises Lost."""
        return self._thread.submit(self._ask, unit)

    def _ask(self, unit: Unit | None):
        try:
            self._pipe.send(unit)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise Lost(f"ended with exit code {self._popen.wait()}", gone=self._all_ended()) from None

    def _all_ended(self) -> bool:
        """Wait for the processes of its codecs, which end by themselves. False where that cannot be seen."""
        if sys.platform != "linux":
            return False
        deadline, mark = time.monotonic() + ENDING_S, self._mark.encode()
        while any(mark in _environment(folder) for folder in Path("/proc").glob("[0-9]*")):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

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
    bench = Bench(pipe.recv())

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                asked.put(pipe.recv())
        temporary.abandon()
        os._exit(ENDED)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        unit = asked.get()
        pipe.send(bench.hello() if unit is None else bench.do(unit))


def _environment(folder: Path) -> bytes:
    with suppress(OSError):  # another user's, or gone
        return (folder / "environ").read_bytes()
    return b""


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
