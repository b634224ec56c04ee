"""What the benchmarks share: calls or whole commands taken in turn, their medians and spread.

Conventions: A B A B …, so that a busy minute meets all alike. CPU seconds are user and system time, which neighbours stretch less
than the clock on the wall; of a command with those of every process it started. The kernel adds up those that were waited for;
others, as sealed workers, which are killed with all that they started, are looked at 20 times a second, and what a process
takes after its last look, 25 ms on average, is lost. Spread: the smallest and largest of the rounds.
"""

import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Runs:
    """cpu_s, wall_s: a number a round; peak_bytes: resident, of the largest process; last: what it returned, or its stdout."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    last: object = None

    def add(self, other: "Runs") -> None:
        """The rounds of `other` after its own."""
        self.cpu_s += other.cpu_s
        self.wall_s += other.wall_s
        self.peak_bytes, self.last = max(self.peak_bytes, other.peak_bytes), other.last

    def __str__(self) -> str:
        cpu, wall = (f"{median(s):.4g} s ({min(s):.4g} to {max(s):.4g})" for s in (self.cpu_s, self.wall_s))
        return f"{cpu} of CPU, {wall} on the wall" + (
            f", peak {self.peak_bytes / 2**20:.0f} MiB" if self.peak_bytes else ""
        )


def calls(named: dict[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, Runs]:
    """Functions of this process; `warm`: each called once beforehand."""
    runs = {name: Runs(last=call() if warm else None) for name, call in named.items()}
    for _ in range(rounds):
        for name, call in named.items():
            cpu, wall = time.process_time(), time.perf_counter()
            runs[name].last = call()
            runs[name].cpu_s.append(time.process_time() - cpu)
            runs[name].wall_s.append(time.perf_counter() - wall)
    return runs


def commands(named: dict[str, list[str]], rounds: int, threads: int = 1, **environment: str) -> dict[str, Runs]:
    """Whole commands; raises SystemExit for one that fails."""
    runs = {name: Runs() for name in named}
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | environment
    for _ in range(rounds):
        for name, words in named.items():
            start = time.perf_counter()
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
            with watched(process.pid) as seen:
                said = process.stdout.read()
                _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} failed: {' '.join(words)}")
            runs[name].wall_s.append(time.perf_counter() - start)
            runs[name].cpu_s.append(max(used.ru_utime + used.ru_stime, sum(seen.values())))
            runs[name].peak_bytes = max(runs[name].peak_bytes, 1024 * used.ru_maxrss)
            runs[name].last = said
    return runs


def family(root: int) -> dict[int, list[str]]:
    """Fields of /proc/PID/stat after the name, of a process and its descendants: 11 and 12 ticks, 19 when it began, 21 pages."""
    found, waiting = {}, [root]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
            waiting += [int(pid) for file in folder.glob("task/*/children") for pid in file.read_text().split()]
        except OSError:
            continue
    return found


@contextmanager
def watched(root: int) -> Iterator[dict[tuple[int, str], float]]:
    """CPU seconds of a process and of each of its descendants, without their children, when they were looked at last."""
    seen, ended, ticks = {}, threading.Event(), os.sysconf("SC_CLK_TCK")

    def look() -> None:
        for pid, fields in family(root).items():
            seen[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / ticks

    def watch() -> None:
        while not ended.wait(0.05):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        look()


def ratio(theirs: Runs, ours: Runs, wall: bool = False) -> tuple[float, str]:
    """Median of theirs over ours, round by round, and as text with its spread; of CPU seconds unless `wall`."""
    pairs = zip(theirs.wall_s, ours.wall_s, strict=True) if wall else zip(theirs.cpu_s, ours.cpu_s, strict=True)
    ratios = sorted(a / b for a, b in pairs)
    return median(ratios), f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def machine() -> str:
    """Class of the processor and how many this process may use."""
    with open("/proc/cpuinfo") as file:
        lines = dict(line.split("\t", 1) for line in file if "\t" in line)
    flags = lines["flags"].split()
    best = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    model = lines["model name"].lstrip("\t: ").strip()
    return f"{model}, {best}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {platform.system()}"
