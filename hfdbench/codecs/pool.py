"""Worker processes from the outside: start them, ask them, outlive them."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.worker import receive, send
from hfdbench.files import places

HIDDEN = ("HFDBENCH_DATA", "HFDBENCH_INCEPTION", "PWD", "OLDPWD")  # what would tell a codec where the pictures are
CACHES = {"TORCH_HOME": "torch", "HF_HOME": "huggingface"}  # in the user's cache folder
J, R = TypeVar("J"), TypeVar("R")


class CodecFailed(Exception):
    """The codec raised (`type` is its exception's name), ended its process or took too long: an error row, not the end."""

    def __init__(self, message: str, type: str = ""):
        super().__init__(f"{type}: {message}" if type else message)
        self.message, self.type = message, type


class Stopped(Exception):
    """The run is being stopped."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Processes of one role ("encoder" or "decoder"), each asked by one thread at a time.

    A process starts when it is first needed, in a fresh empty folder with a temporary folder of its own, both removed
    with it; points of one card share it, another card gets a new one. `watch_s`: time since which a side file counts
    as one; the processes are then watched (see worker) and get a home folder of their own, too.
    """

    def __init__(self, role: str, count: int, device: str, timeout_s: float | None, watch_s: float | None = None):
        self.role, self.count, self.device, self.timeout_s, self.watch_s = role, count, device, timeout_s, watch_s
        self._all = [_Process(self) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self.closed = False

    def ask(self, card: CodecCard, point: str, header: dict, body: bytes | memoryview = b"") -> tuple[dict, bytes]:
        """One answer of the codec. Raises CodecFailed, after which the next question finds a new process if need be."""
        process = self._idle.get()
        try:
            process.load(card, point)
            return process.exchange(header, body) if header else ({}, b"")
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Kill every process and remove its folder."""
        self.closed = True
        for process in self._all:
            process.stop()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Process:
    def __init__(self, pool: Pool):
        self._pool, self._lock = pool, threading.Lock()
        self._popen: subprocess.Popen | None = None
        self._folder = self._errors = self._loaded = None

    def load(self, card: CodecCard, point: str) -> None:
        if self._loaded == (card.id, point):
            return
        if self._loaded is None or self._loaded[0] != card.id:
            self.stop()
        threads = max(1, cores() // self._pool.count)
        if given := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]:
            threads = min(threads, int(given)) if given.isdigit() else threads
        if self._popen is None:
            self._start(threads)
        self._loaded = None
        self.exchange(
            {"do": "load", "card": card.model_dump(mode="json"), "source": str(Path(card.source).resolve())}
            | {"base_source": card.base_source and str(card.base_source)}
            | {"point": point, "device": self._pool.device, "threads": threads}
        )
        self._loaded = (card.id, point)

    def _start(self, threads: int) -> None:
        with self._lock:
            if self._pool.closed:
                raise Stopped
            self._folder = Path(tempfile.mkdtemp(prefix="hfdbench-"))
            for name in ("cwd", "tmp"):
                (self._folder / name).mkdir()
            environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
            environment |= {"TMPDIR": str(self._folder / "tmp"), "HFDBENCH_WORKER": str(self._folder)}
            environment |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
            environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).resolve()) for p in sys.path if Path(p).exists())
            if self._pool.watch_s is not None:
                environment |= _away_from_home(self._folder / "home") | {"HFDBENCH_WATCH": str(self._pool.watch_s)}
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
            # A session of its own: Ctrl-C reaches the run alone, and the codec's own programs die with the worker.
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "hfdbench.codecs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=self._folder / "cwd",
                env=environment,
                start_new_session=True,
            )

    def exchange(self, header: dict, body: bytes | memoryview = b"") -> tuple[dict, bytes]:
        popen, late = self._popen, threading.Event()
        timer = None
        if self._pool.timeout_s is not None:
            timer = threading.Timer(self._pool.timeout_s, lambda: (late.set(), _kill(popen)))
            timer.daemon = True
            timer.start()
        try:
            send(popen.stdin, header, body)
            answer, data = receive(popen.stdout)
        except (EOFError, OSError, ValueError):
            if self._pool.closed:
                raise Stopped from None
            _kill(popen)
            code, tail = popen.wait(), self._tail()
            self.stop()
            if late.is_set():
                raise CodecFailed(f"{self._pool.role} stopped after {self._pool.timeout_s:g} s (--timeout-s)") from None
            raise CodecFailed(f"{self._pool.role} died: exit {code}{tail}") from None
        finally:
            if timer is not None:
                timer.cancel()
        if "error" in answer:
            raise CodecFailed(answer["error"], answer["type"])
        return answer, data

    def _tail(self) -> str:
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, end - 2000))
        text = self._errors.read().decode(errors="replace").strip()
        return f"; {text}" if text else ""

    def stop(self) -> None:
        with self._lock:
            popen, self._popen, self._loaded = self._popen, None, None
            if popen is None:
                return
            _kill(popen)
            popen.wait()
            for file in (popen.stdin, popen.stdout):
                with suppress(OSError, ValueError):
                    file.close()
            self._errors.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _away_from_home(home: Path) -> dict[str, str]:
    """The environment of a process with an empty home, that still finds what torch and Hugging Face have downloaded."""
    home.mkdir()
    found = {name: os.environ.get(name) or str(places.xdg_cache() / folder) for name, folder in CACHES.items()}
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), **found}


def _kill(popen: subprocess.Popen) -> None:
    try:
        os.killpg(popen.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        popen.kill()


def in_order(pool: Pool, jobs: Iterable[J], work: Callable[[J], R]) -> Iterator[R]:
    """Results in the order of the jobs, `pool.count` at work at once; jobs are drawn only as they are needed."""
    waiting: deque = deque()
    with ThreadPoolExecutor(pool.count) as threads:
        try:
            for job in jobs:
                waiting.append(threads.submit(work, job))
                if len(waiting) > pool.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            for future in waiting:
                future.cancel()
            pool.close()  # frees the threads that wait for an answer
            threads.shutdown()
            pool.closed = False  # the next trial may use it: processes start when they are needed
            raise
