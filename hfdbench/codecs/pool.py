"""Worker processes from the outside: start them in their sandbox, ask them within limits, outlive them.

Conventions: what a worker answers is not trusted. Lengths are bounded before anything is read, messages are cut and
without control characters, times are the larger of the worker's and of what this process's monotonic clock says.

Limits, where none is given: a call may take 300 s and an hour a megapixel; a process tree 4 GiB and 4 KiB a pixel (8 GiB
on a GPU); a stream 8 bytes a pixel; a picture what the original takes.
"""

import json
import math
import os
import queue
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

from hfdbench.cards.find import PACKAGE
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import environments, sandbox
from hfdbench.codecs.environments import Environment
from hfdbench.codecs.identity import named_files
from hfdbench.codecs.protocol import base_card, beside, blueprint
from hfdbench.codecs.sandbox import LEVELS, LIMIT, REFUSED, Policy
from hfdbench.codecs.worker import LENGTHS, PEAKS, THREADS, exactly, send
from hfdbench.errors import Unavailable, UsageError, unknown, without_controls
from hfdbench.files import places, temporary
from hfdbench.files.remote import on_disk

HIDDEN = ("HFDBENCH_DATA", "HFDBENCH_INCEPTION", "PWD", "OLDPWD")  # what would tell a codec where the images are
CACHES = {"TORCH_HOME": "torch", "HF_HOME": "huggingface"}  # in the user's cache folder
LOAD_S, CALL_S, MEGAPIXEL_S = 600.0, 300.0, 3600.0
HEADER_BYTES, MESSAGE = 1 << 20, 2000
STREAM_BYTES_PER_PIXEL, LEAST_STREAM = 8, 1 << 20
CLOSING_S = 5.0  # between the end of a process's pipe and its own
LARGEST = 1 << 26  # pixels of an image whose size is not known
MEMORY, MEMORY_CUDA, MEMORY_PER_PIXEL = 4 << 30, 8 << 30, 4 << 10
SHUFFLED = 32  # streams among which the next one is drawn
J = TypeVar("J")
R = TypeVar("R")


class CodecFailed(Exception):
    """The codec raised, ended its process, took too long or too much: an error row, not the end of a run.

    Parameters
    ----------
    message : str
        What happened.
    type : str
        Name of the codec's exception; empty when it did not raise.
    passing : bool
        Whether it may go well another time: the process died or reached a limit.
    """

    def __init__(self, message: str, type: str = "", passing: bool = False):
        super().__init__(f"{type}: {message}" if type else message)
        self.message, self.type, self.passing = message, type, passing


class Stopped(Exception):
    """The run is being stopped."""


@dataclass(frozen=True)
class Limits:
    """What one call may take."""

    seconds: float
    memory_bytes: int
    answer_bytes: int
    given: bool = False  # the seconds are the user's

    @classmethod
    def of(cls, do: str, pixels: int | None, device: str, timeout_s: float | None) -> "Limits":
        """Those of a request for so many pixels."""
        pixels = LARGEST if pixels is None else pixels
        seconds = LOAD_S if do == "load" else CALL_S + MEGAPIXEL_S * pixels / 1e6
        base = MEMORY if device == "cpu" else MEMORY_CUDA
        answers = {"encode": LEAST_STREAM + STREAM_BYTES_PER_PIXEL * pixels, "decode": 3 * pixels}
        answers["decode_batch"] = answers["decode"]
        if timeout_s is not None:
            seconds = max(seconds, timeout_s) if do == "load" else timeout_s
        memory_bytes = base + MEMORY_PER_PIXEL * pixels
        return cls(seconds, memory_bytes, answers.get(do, 0), given=timeout_s is not None)


class Pool:
    """Processes of one role, each asked by one thread at a time.

    A process starts when it is first needed, in a sandbox with empty folders of its own, all removed with it; points of
    one card share it, another card gets a new one.

    Parameters
    ----------
    role : str
        "encoder" or "decoder".
    count : int
        Processes at once.
    device : str
        "cpu" or "cuda".
    timeout_s : float, optional
        Seconds that a call may take, instead of the limit by size.
    watch_s : float, optional
        Time since which a side file counts as one; the processes are then watched (see `hfdbench.codecs.worker`).
    hidden : iterable of Path
        Files and folders that no codec may see: images, data root, results.
    retries : int
        How often a call is made again, in a new process, when its process died or reached a limit.
    """

    def __init__(
        self,
        role: str,
        count: int,
        device: str,
        timeout_s: float | None = None,
        watch_s: float | None = None,
        *,
        hidden: Iterable[Path] = (),
        retries: int = 1,
    ):
        self.role, self.count, self.device, self.timeout_s, self.watch_s = role, count, device, timeout_s, watch_s
        self.retries = retries
        self.hidden = tuple(dict.fromkeys(path for name in hidden for path in _both_names(name)))
        self.prepared: set[tuple[str, str]] = set()
        self._all = [_Process(self) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self.closed = False

    def ask(
        self,
        card: CodecCard,
        point: str,
        header: dict,
        body: bytes | memoryview = b"",
        pixels: int | None = None,
        *,
        retries: int | None = None,
    ) -> tuple[dict, bytes]:
        """One answer of the codec.

        Parameters
        ----------
        card, point
            The codec.
        header : dict
            The request (see `hfdbench.codecs.worker`); an empty one only builds the codec.
        body : bytes
            Pixels or stream.
        pixels : int, optional
            Of the image that is coded or decoded, or of all images of a batch; the call's limits follow from it.
        retries : int, optional
            Instead of the pool's.

        Raises
        ------
        CodecFailed
            After which the next request finds a new process if need be.
        Stopped
            The pool was closed meanwhile.
        """
        process = self._idle.get()
        retries = self.retries if retries is None else retries
        if pixels is None and "shape" in header:
            pixels = header["shape"][0] * header["shape"][1]
        try:
            for attempt in range(retries + 1):
                try:
                    process.load(card, point)
                    return process.exchange(header, body, pixels) if header else ({}, b"")
                except CodecFailed as error:
                    if not error.passing:
                        raise
                    if attempt == retries:
                        again = f", {attempt + 1} times in a row" if attempt else ""
                        raise CodecFailed(error.message + again, error.type, passing=True) from None
            raise AssertionError("unreachable")
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End every process with all that it started, wait until they are gone, and remove their folders."""
        self.closed = True
        for process in self._all:
            process.end()
        for process in self._all:
            process.stop()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- the seal: which level this machine allows is found when the first process starts

_level = 0  # index into LEVELS
_found = False  # whether a process has started at that level


def _levels() -> list[str]:
    forced = os.environ.get("HFDBENCH_SEAL")
    if forced:
        if forced not in LEVELS:
            raise unknown("seal (HFDBENCH_SEAL)", forced, LEVELS)
        return [forced]
    return list(LEVELS[_level:]) if sys.platform == "linux" else ["process"]


def find_seal() -> str:
    """What this machine can keep a codec from: "sandbox" or "process", as results call it.

    A process is started to see, unless one was before.
    """
    return sandbox.seal(find_level())


def find_level() -> str:
    """The level of `hfdbench.codecs.sandbox` that processes of this machine get."""
    if not _found:
        with Pool("codec", 1, "cpu") as pool:
            pool._all[0].probe()
    return _levels()[0]


def require_sandbox() -> None:
    """Raise UsageError where codecs cannot be kept from the rest of the machine."""
    if find_seal() != "sandbox":
        raise UsageError(
            "--require-seal: this machine allows neither namespaces of an unprivileged user nor Landlock; "
            "allow one of them (sysctl kernel.unprivileged_userns_clone=1) or run without --require-seal"
        )


class _Process:
    def __init__(self, pool: Pool):
        self._pool, self._lock = pool, threading.Lock()
        self._popen: subprocess.Popen | None = None
        self._folder: Path | None = None
        self._errors: IO[bytes] | None = None
        self._control: int | None = None
        self._loaded: tuple[str, str] | None = None
        self._memory_bytes = 0

    def load(self, card: CodecCard, point: str) -> None:
        """Let the process be one that has built the codec of a point."""
        if self._loaded == (card.id, point):
            return
        if self._loaded is None or self._loaded[0] != card.id:
            self.stop()
        try:
            self._build(card, point)
        except CodecFailed as error:
            # What it lacks may be a download, which its sandbox forbids: build it once where there is a network,
            # before it has seen any image.
            if error.type == "UsageError" or (card.id, point) in self._pool.prepared or _levels()[0] == "process":
                raise
            self._pool.prepared.add((card.id, point))
            self.stop()
            try:
                self._build(card, point, network=True)
            finally:
                self.stop()
            self._build(card, point)
        self._loaded = (card.id, point)

    def _build(self, card: CodecCard, point: str, network: bool = False) -> None:
        if self._popen is None:
            self._start(card, network)
        self._loaded = None
        self.exchange({"do": "load", "device": self._pool.device, "blueprint": asdict(blueprint(card, point))})

    def probe(self) -> None:
        """Start without a card, to find the level."""
        self._start(None, False)

    def _start(self, card: CodecCard | None, network: bool) -> None:
        global _found, _level
        levels = _levels()
        try:
            own = environments.found(card.id, card.python) if card and card.python else None
        except Unavailable as error:
            raise CodecFailed(str(error), "Unavailable") from None
        for level in levels:
            self._spawn(card, level, network, own)
            try:
                if self._receive(HEADER_BYTES, 0)[0] != {"hello": level}:
                    raise ValueError
                _level, _found = LEVELS.index(level) if len(levels) > 1 else _level, True
                return
            except (EOFError, OSError, ValueError):
                if self._pool.closed:
                    raise Stopped from None
                code, tail = self._ended(), self._tail()
                self.stop()
                if code == REFUSED and len(levels) == 1:
                    raise UsageError(f"HFDBENCH_SEAL={level}: not on this machine{tail}") from None
                if code != REFUSED:
                    raise CodecFailed(f"{self._pool.role} died: exit {code}{tail}", passing=True) from None
        raise AssertionError("the last level is never refused")

    def _spawn(self, card: CodecCard | None, level: str, network: bool, own: Environment | None) -> None:
        with self._lock:
            if self._pool.closed:
                raise Stopped
            folder = self._folder = temporary.new_folder()
            for name in ("cwd", "tmp", "home", "root"):
                (folder / name).mkdir()
            caches = _caches()
            environment = {name: value for name, value in os.environ.items() if name not in HIDDEN} | caches
            environment |= {"TMPDIR": str(folder / "tmp"), "HFDBENCH_WORKER": str(folder)}
            environment |= {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "home" / ".cache")}
            environment |= {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
            environment |= _python_variables(own, folder)
            if self._pool.watch_s is not None:
                environment["HFDBENCH_WATCH"] = str(self._pool.watch_s)
            self._memory_bytes = Limits.of("load", 0, self._pool.device, None).memory_bytes
            named = [*(caches.values() if not network else ()), *_card_paths(card)]
            hidden = self._pool.hidden
            if own is None:
                readable = sandbox.needed_paths(named)
            else:
                named += [str(PACKAGE), str(folder / "lib")]
                readable = sandbox.needed_paths(named, str(own.prefix), environment["PATH"])
                hidden = (*hidden, *sandbox.installed_packages())
            policy = Policy(
                level,
                str(folder),
                readable=readable,
                hidden=sandbox.reachable(hidden, readable),
                writable=tuple(caches.values()) if network else (),
                network=network,
                memory_bytes=self._memory_bytes,
                devices=(*sandbox.DEVICES, *(sandbox.gpu_devices() if self._pool.device != "cpu" else ())),
            )
            if network:
                for cache in caches.values():
                    os.makedirs(cache, exist_ok=True)
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
            theirs, self._control = os.pipe()
            try:
                # A session of its own: Ctrl-C reaches the run alone.
                self._popen = subprocess.Popen(
                    [own.python if own else sys.executable, "-P", "-m", "hfdbench.codecs.worker", str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    cwd=folder / "cwd",
                    env=environment,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            text = json.dumps(policy.to_json()).encode()
            with suppress(OSError):  # it is dead: the next read says so
                requests = cast(BinaryIO, self._popen.stdin)
                requests.write(len(text).to_bytes(4, "big") + text)
                requests.flush()
            temporary.let_go(folder)  # the process removes it, however this one ends

    def exchange(
        self, header: dict, body: bytes | memoryview = b"", pixels: int | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Ask and wait. Raises CodecFailed for an error, a dead process, a limit reached, an answer that is none."""
        pool, popen, late = self._pool, self._popen, threading.Event()
        timeout_s = pool.timeout_s and pool.timeout_s * len(header.get("lengths", "1"))  # the user's is for one picture
        limits = Limits.of(header["do"], pixels, pool.device, timeout_s)
        self._allow(limits.memory_bytes)
        timer = threading.Timer(limits.seconds, lambda: (late.set(), self.end()))
        timer.daemon = True
        timer.start()
        try:
            if popen is None or popen.stdin is None:
                raise EOFError
            sending = time.perf_counter()
            send(cast(BinaryIO, popen.stdin), header, body)
            began = time.perf_counter()
            answer, data, arrived = self._receive(HEADER_BYTES, limits.answer_bytes)
        except (EOFError, OSError, ValueError) as error:
            if pool.closed:
                raise Stopped from None
            if isinstance(error, _Malformed):
                self.stop()
                raise CodecFailed(f"{pool.role} {error}") from None
            code, tail = self._ended(), self._tail()
            self.stop()
            if late.is_set():
                how = "--timeout-s" if limits.given else "its limit for this size; --timeout-s sets another"
                raise CodecFailed(f"{pool.role} stopped after {limits.seconds:g} s ({how})", passing=True) from None
            if code == sandbox.TOO_MUCH_MEMORY:
                raise CodecFailed(f"{pool.role} {tail.removeprefix('; ').splitlines()[-1]}", passing=True) from None
            raise CodecFailed(f"{pool.role} died: exit {code}{tail}", passing=True) from None
        finally:
            timer.cancel()
        if "error" in answer:
            raise CodecFailed(_plain(answer["error"]), _plain(answer.get("type", "")))
        try:
            return _checked(header, answer, data, arrived - began, arrived - sending), data
        except _Malformed as error:
            self.stop()
            raise CodecFailed(f"{pool.role} {error}") from None

    def _allow(self, memory_bytes: int) -> None:
        if memory_bytes != self._memory_bytes and self._control is not None:
            self._memory_bytes = memory_bytes
            with suppress(OSError):
                os.write(self._control, LIMIT.pack(memory_bytes))

    def _receive(self, header_bytes: int, body_bytes: int) -> tuple[dict, bytes, float]:
        """The next frame and when it came. Raises EOFError, _Malformed."""
        assert self._popen is not None and self._popen.stdout is not None
        file = cast(BinaryIO, self._popen.stdout)
        lengths = exactly(file, LENGTHS.size)
        arrived = time.perf_counter()
        text_length, body_length = LENGTHS.unpack(lengths)
        if text_length > header_bytes:
            raise _Malformed(f"answered with a header of {text_length:,} bytes")
        try:
            header = json.loads(exactly(file, text_length))
        except (ValueError, RecursionError):
            raise _Malformed("answered with something that is no frame") from None
        if not isinstance(header, dict):
            raise _Malformed("answered with something that is no frame")
        if body_length > body_bytes:
            what = _size(header)
            raise _Malformed(
                f"answered with {body_length:,} bytes{what}, where {body_bytes:,} are the most there can be"
            )
        return header, exactly(file, body_length), arrived

    def _ended(self) -> int:
        """Exit code of a process whose pipe has ended."""
        popen = self._popen
        if popen is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return popen.wait(CLOSING_S)
        self.end()  # it has closed its pipe and lives
        return popen.wait()

    def _tail(self) -> str:
        if self._errors is None:
            return ""
        with suppress(OSError, ValueError):
            end = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, end - MESSAGE))
            text = _plain(self._errors.read().decode(errors="replace")).strip()
            return f"; {text}" if text else ""
        return ""

    def end(self) -> None:
        """Ask the supervisor to end everything; does not wait."""
        with self._lock:
            control, self._control = self._control, None
            if control is not None:
                os.close(control)
                if sys.platform != "linux" and self._popen is not None:  # no supervisor there
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(self._popen.pid, 9)

    def stop(self) -> None:
        """End everything and wait until it has ended."""
        self.end()
        with self._lock:
            popen, self._popen, self._loaded = self._popen, None, None
            if popen is None:
                return
            popen.wait()
            for file in (popen.stdin, popen.stdout):
                if file is not None:
                    with suppress(OSError, ValueError):
                        file.close()
            if self._errors is not None:
                self._errors.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


class _Malformed(ValueError):
    """An answer that no worker of ours would give."""


def _plain(text: object) -> str:
    """A message as one may print it: cut, and without control characters."""
    kept = without_controls(str(text)[: MESSAGE + 1])
    return kept if len(kept) <= MESSAGE else kept[:MESSAGE] + "…"


def _size(header: dict) -> str:
    shape = header.get("shape")
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(side, int) for side in shape):
        return f" ({shape[1]} x {shape[0]} pixels)"
    return ""


def _checked(header: dict, answer: dict, body: bytes, elapsed_s: float, most_s: float) -> dict:
    """The answer with a time that can be true: from `elapsed_s`, since all was sent, to `most_s`, since sending began.

    Raises _Malformed.
    """
    do = header["do"]
    if do in ("encode", "decode", "decode_batch"):
        name = f"{do.removesuffix('_batch')}_s"
        own = answer.get(name)
        if not isinstance(own, int | float):
            raise _Malformed("answered without a time")
        answer = answer | {name: float(own) if elapsed_s < own <= most_s else elapsed_s}
    if do == "decode" and not _is_shape(answer.get("shape"), len(body)):
        raise _Malformed("answered with pixels of another number than its shape says")
    if do == "decode_batch":
        shapes = answer.get("shapes")
        if not isinstance(shapes, list) or not all(_is_shape(shape) for shape in shapes):
            raise _Malformed("answered without shapes")
        if len(shapes) != len(header["lengths"]):
            raise _Malformed(f"answered with {len(shapes)} pictures of {len(header['lengths'])} streams")
        if sum(math.prod(shape) for shape in shapes) != len(body):
            raise _Malformed("answered with pixels of another number than its shapes say")
    if do in ("decode", "decode_batch"):
        answer |= {name: _count(answer.get(name)) for name in PEAKS}
    return answer


def _count(value: object) -> int | None:
    """A number of bytes that can be one, or None."""
    return value if type(value) is int and 0 <= value < 1 << 62 else None


def _is_shape(shape: object, samples: int | None = None) -> bool:
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side >= 0 for side in shape):
        return False
    return shape[2] == 3 and samples in (None, shape[0] * shape[1] * 3)


def _caches() -> dict[str, str]:
    """Where torch and Hugging Face keep what they have downloaded."""
    cache = places.xdg_cache()
    return {name: str(Path(os.environ.get(name) or cache / folder).absolute()) for name, folder in CACHES.items()}


def _python_variables(own: Environment | None, folder: Path) -> dict[str, str]:
    """Where the process finds modules and programs. A Python of its own sees of our packages hfdbench alone."""
    if own is None:
        return {"PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if Path(p).exists())}
    (folder / "lib").mkdir()
    (folder / "lib" / "hfdbench").symlink_to(PACKAGE)
    ours = {str(Path(sys.executable).parent), sysconfig.get_path("scripts")}
    path = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry not in ours]
    return {
        "PATH": os.pathsep.join([str(own.bin), *path]),
        "VIRTUAL_ENV": str(own.prefix),
        "PYTHONPATH": str(folder / "lib"),
        "PYTHONNOUSERSITE": "1",
    }


def _card_paths(card: CodecCard | None) -> Iterator[str]:
    """What a card names: its weights, the files of its options, and the modules beside it."""
    if card is None:
        return
    if card.base is not None:
        base = base_card(card)
        yield str(Path(base.source).resolve())
        yield from _card_paths(base)
    for point in card.points:
        yield from (os.path.abspath(entry.path(card)) for entry in point.weights)
        yield from named_files(point.options)
    if (folder := beside(card)) is not None:
        yield from sandbox.importable(folder)


def _both_names(path: Path) -> tuple[str, str]:
    path = on_disk(path)
    return os.path.abspath(path), os.path.realpath(path)


def in_order(pool: Pool, jobs: Iterable[J], work: Callable[[J], R], *, shuffled: int = 0) -> Iterator[R]:
    """Results in the order of the jobs, `pool.count` at work at once; jobs are drawn only as they are needed.

    Parameters
    ----------
    pool : Pool
        It is closed when the caller or a job ends with an exception.
    jobs : iterable
        What is to be done.
    work : callable
        Does one job in a thread.
    shuffled : int
        The next job is drawn from so many, by chance: a decoder cannot tell from the order which stream it is given.
    """
    chance, source = random.SystemRandom(), iter(jobs)
    drawn: list[tuple[int, J]] = []
    futures: dict[int, Future[R]] = {}
    first = count = 0  # of the next result; of the jobs drawn so far
    exhausted = False
    with ThreadPoolExecutor(pool.count) as threads:
        try:
            while True:
                while not exhausted and len(drawn) < max(1, shuffled) and count - first <= shuffled + pool.count:
                    try:
                        drawn.append((count, next(source)))
                        count += 1
                    except StopIteration:
                        exhausted = True
                running = [future for future in futures.values() if not future.done()]
                if drawn and len(running) <= pool.count:
                    number, job = drawn.pop(chance.randrange(len(drawn)))
                    futures[number] = threads.submit(work, job)
                elif first in futures and futures[first].done():
                    yield futures.pop(first).result()
                    first += 1
                elif running:
                    wait(running, return_when=FIRST_COMPLETED)
                else:
                    return
        except BaseException:
            for future in futures.values():
                future.cancel()
            pool.close()  # frees the threads that wait for an answer
            threads.shutdown()
            pool.closed = False  # the next trial may use it: processes start when they are needed
            raise
