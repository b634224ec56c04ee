"""The driver's queue: which worker does which unit, and what becomes of units whose worker is lost.

Conventions: streams of a key are decoded when all of them are stored and no encoder of that key can reach a decoder: a unit is
reported when all that it started is dead, and where every worker has a sandbox, copies and lost workers are kept apart by it.
Without one the queue waits for copies, and streams whose encoder may be alive on a lost worker are not decoded.

A lost worker may still be at work, so its unit may be done twice; pieces are committed once. A unit that costs several
workers is cut into single images, and the image that goes on doing so becomes an error row.
"""

import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from hfdbench.errors import UsageError
from hfdbench.pipeline.engines.worker import Report, Unit, Wrong

STRAGGLES = 2.0  # times the median unit, after which an idle worker gets a copy
POLL_S = 1.0
RETRY_S = 60.0  # between two attempts to replace a worker for which there was no room
MOST_STARTS = 3  # workers that may be lost in a row, for each there should be


class Lost(Exception):
    """A worker is gone, or cannot be reached; what it was given may still be under way.

    Parameters
    ----------
    message : str
        What happened.
    gone : bool
        Whether it is known that nothing it started is alive.
    """

    def __init__(self, message: str, gone: bool = False):
        super().__init__(message)
        self.gone = gone


class Worker(Protocol):
    """A worker of an engine, one unit at a time."""

    @property
    def host(self) -> str: ...

    @property
    def seal(self) -> str:
        """The seal that its codecs have."""
        ...

    def submit(self, unit: Unit) -> "Future[Report | Wrong]":
        """Give it a unit. The future raises Lost."""
        ...

    def end(self) -> None:
        """End it and all that it started."""
        ...


class Clock:
    """The time, and waiting for workers; a simulation has another."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, running: Iterable[Future]) -> Iterable[Future]:
        """Futures that are done, after a while at the latest."""
        return wait(running, POLL_S, FIRST_COMPLETED).done


@dataclass
class _Running:
    worker: Worker
    unit: Unit
    since: float


class _Barrier:
    """Holds units of stage decode back until the streams of their key may be decoded."""

    def __init__(self, units: Iterable[Unit], note: Callable[[str], None]):
        units = list(units)
        self._note = note
        self._encoding = Counter(unit.key for unit in units if unit.stage == "encode")
        self._held = {key: [u for u in units if u.stage == "decode" and u.key == key] for key in self._encoding}
        self.free = [unit for unit in units if unit.stage != "decode" or unit.key not in self._held]
        self._alive: dict[str, str] = {}  # host where an encoder of a key may be
        self.sealed = True

    def __bool__(self) -> bool:
        return any(self._held.values())

    def lost(self, unit: Unit, host: str) -> None:
        """A worker cannot be reached that was given a unit."""
        if unit.stage == "encode":
            self._alive[unit.key] = host

    def cut(self, unit: Unit, parts: int) -> None:
        """A unit is done as so many others."""
        if unit.stage == "encode":
            self._encoding[unit.key] += parts - 1

    def done(self, unit: Unit) -> None:
        """A unit is done."""
        if unit.stage == "encode":
            self._encoding[unit.key] -= 1

    def released(self, running: Iterable[_Running]) -> list[Unit]:
        """Units that may be done now."""
        ready = [key for key, units in self._held.items() if units and not self._encoding[key]]
        if ready and not self.sealed:
            busy = {each.unit.key for each in running if each.unit.stage == "encode"}
            ready = [key for key in ready if key not in busy]
        units = []
        for key in ready:
            held = self._held.pop(key)
            if self.sealed or key not in self._alive:
                units += held
            else:
                self._note(
                    f"{key} is not decoded: there is no sandbox, and its encoder may still run on {self._alive[key]}, "
                    "which cannot be reached; run again when that has ended"
                )
        return units


def carry_out(
    units: Iterable[Unit],
    workers: Sequence[Worker],
    start: Callable[[], Worker],
    *,
    losses: int,
    copies: bool,
    note: Callable[[str], None],
    advance: Callable[[], None],
    clock: Clock | None = None,
) -> list[Report]:
    """Do every unit.

    Parameters
    ----------
    units : iterable of Unit
    workers : sequence of Worker
        All that there are; those that remain are ended.
    start : callable
        Makes a worker in place of one that was lost. Raises Lost when there can be none.
    losses : int
        How many workers a unit may cost.
    copies : bool
        Whether idle workers do a second copy of units that take too long.
    note, advance : callable
        What the user must know; a unit of those given is done.
    clock : Clock, optional

    Returns
    -------
    list of Report

    Raises
    ------
    UsageError
        A unit cannot be done as asked, or no worker stays.
    """
    clock = clock or Clock()
    given, idle, expected = set(units), deque(workers), max(1, len(workers))
    barrier = _Barrier(units, note)
    waiting = deque(barrier.free)
    running: dict[Future, _Running] = {}
    cost: Counter[Unit] = Counter()
    done: set[Unit] = set()
    reports: list[Report] = []
    seconds: dict[str, list[float]] = defaultdict(list)  # that units of a stage took
    in_a_row, retry_at = 0, 0.0
    barrier.sealed = all(worker.seal == "sandbox" for worker in workers)
    try:
        while waiting or barrier or any(each.unit not in done for each in running.values()):
            while idle and (unit := _next(waiting, running, done, clock.now(), seconds if copies else {})):
                worker = idle.popleft()
                running[worker.submit(unit)] = _Running(worker, unit, clock.now())
            if not running:
                raise UsageError("no worker is left; the notes say why each was lost")
            for future in clock.wait(running):
                worker, unit = running[future].worker, running.pop(future).unit
                try:
                    answer = future.result()
                except Lost as error:
                    note(f"{worker.host}: {error}; its work is done again")
                    if not error.gone:
                        barrier.lost(unit, worker.host)
                    worker.end()
                    in_a_row += 1
                    if in_a_row > MOST_STARTS * expected:
                        raise UsageError(
                            f"{in_a_row} workers were lost one after the other, the last: {error}"
                        ) from None
                    retry_at = clock.now()
                    if unit not in done and all(each.unit != unit for each in running.values()):
                        cost[unit] += 1
                        again = _again(unit, cost[unit], losses, str(error))
                        cost.update({one: cost[unit] for one in again if one != unit})
                        barrier.cut(unit, len(again))
                        waiting.extendleft(again)
                    continue
                idle.append(worker)
                in_a_row = 0
                if isinstance(answer, Wrong):
                    raise UsageError(answer.message)
                if unit not in done:
                    done.add(unit)
                    barrier.done(unit)
                    reports.append(answer)
                    seconds[unit.stage].append(answer.seconds)
                    if unit in given:
                        advance()
            waiting.extend(barrier.released(running.values()))
            while (waiting or barrier) and len(idle) + len(running) < expected and clock.now() >= retry_at:
                if new := _started(start, note):
                    idle.append(new)
                    barrier.sealed &= new.seal == "sandbox"
                else:
                    retry_at = clock.now() + RETRY_S
    finally:
        for worker in [*idle, *(each.worker for each in running.values())]:
            worker.end()
    return reports


def _next(
    waiting: deque[Unit], running: dict[Future, _Running], done: set, now: float, seconds: Mapping[str, list[float]]
) -> Unit | None:
    """The next unit, or a second copy of one that takes too long."""
    while waiting:
        if (unit := waiting.popleft()) not in done:
            return unit
    copies = Counter(each.unit for each in running.values())
    usual = {stage: statistics.median(taken) for stage, taken in seconds.items()}
    late = [
        (now - each.since - STRAGGLES * usual[each.unit.stage], each.unit)
        for each in running.values()
        if copies[each.unit] == 1 and each.unit not in done and each.unit.stage in usual
    ]
    over_s, unit = max(late, key=lambda one: one[0], default=(0.0, None))
    return unit if over_s > 0 else None


def _started(start: Callable[[], Worker], note: Callable[[str], None]) -> Worker | None:
    try:
        return start()
    except Lost as error:
        note(f"no worker in its place: {error}")
        return None


def _again(unit: Unit, cost: int, losses: int, reason: str) -> list[Unit]:
    """What is done instead of a unit that has cost so many workers."""
    if cost < losses:
        return [unit]
    if len(unit.part) > 1:  # one image of it is to blame
        return unit.split()
    if unit.stage == "originals":
        raise UsageError(
            f"dataset {unit.key}: image {unit.part.start} of {unit.images} cost {cost} workers when its features were "
            f"computed ({reason}); is there enough memory for it?"
        )
    return [replace(unit, give_up=f"it cost {cost} workers: {reason}")]
