"""The driver's queue: which worker does which unit, and what becomes of units whose worker is lost.

Conventions: a lost worker may still be at work, so its unit may be done twice; pieces are committed once. A unit that costs
several workers is cut into single images, and the image that goes on doing so becomes an error row.
"""

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from hfdbench.errors import UsageError
from hfdbench.pipeline.engines.worker import Report, Unit, Wrong

STRAGGLES = 2.0  # times the median unit, after which an idle worker gets a copy
POLL_S = 1.0
MOST_STARTS = 3  # workers that may be lost in a row, for each there should be


class Lost(Exception):
    """A worker is gone, or cannot be reached; what it was given may still be under way."""


class Worker(Protocol):
    """A worker of an engine, one unit at a time."""

    @property
    def host(self) -> str: ...

    def submit(self, unit: Unit) -> "Future[Report | Wrong]":
        """Give it a unit. The future raises Lost."""
        ...

    def end(self) -> None:
        """End it and all that it started."""
        ...


@dataclass
class _Running:
    worker: Worker
    unit: Unit
    since: float


def carry_out(
    units: Iterable[Unit],
    workers: Sequence[Worker],
    start: Callable[[], Worker],
    *,
    images: int,
    losses: int,
    copies: bool,
    note: Callable[[str], None],
    advance: Callable[[], None],
) -> list[Report]:
    """Do every unit.

    Parameters
    ----------
    units : iterable of Unit
    workers : sequence of Worker
        All that there are; those that remain are ended.
    start : callable
        Makes a worker in place of one that was lost. Raises Lost when there can be none.
    images : int
        Of the largest dataset: a unit is cut no finer.
    losses : int
        How many workers a unit may cost.
    copies : bool
        Whether idle workers do a second copy of units that take too long.
    note, advance : callable
        What the user must know; a unit of those given is done.

    Returns
    -------
    list of Report

    Raises
    ------
    UsageError
        A unit cannot be done as asked, or no worker stays.
    """
    idle, waiting = deque(workers), deque(units)
    given, expected = {unit for unit in waiting}, max(1, len(workers))
    running: dict[Future, _Running] = {}
    cost: Counter[tuple[int, int]] = Counter()
    done: set[tuple[int, int]] = set()
    reports: list[Report] = []
    in_a_row = 0
    try:
        while waiting or any(_place(each.unit) not in done for each in running.values()):
            while idle and (unit := _next(waiting, running, done, reports if copies else [])):
                worker = idle.popleft()
                running[worker.submit(unit)] = _Running(worker, unit, time.monotonic())
            if not running:
                raise UsageError("no worker is left; the notes say why each was lost")
            for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                worker, unit = running[future].worker, running.pop(future).unit
                place = _place(unit)
                try:
                    answer = future.result()
                except Lost as error:
                    note(f"{worker.host}: {error}; its work is done again")
                    worker.end()
                    in_a_row += 1
                    if in_a_row > MOST_STARTS * expected:
                        raise UsageError(
                            f"{in_a_row} workers were lost one after the other, the last: {error}"
                        ) from None
                    if new := _started(start, note):
                        idle.append(new)
                    if place not in done and all(_place(each.unit) != place for each in running.values()):
                        cost[place] += 1
                        again = _again(unit, cost[place], losses, images, str(error))
                        cost.update({_place(one): cost[place] for one in again if _place(one) != place})
                        waiting.extendleft(again)
                    continue
                idle.append(worker)
                in_a_row = 0
                if isinstance(answer, Wrong):
                    raise UsageError(answer.message)
                if place not in done:
                    done.add(place)
                    reports.append(answer)
                    if unit in given:
                        advance()
    finally:
        for worker in [*idle, *(each.worker for each in running.values())]:
            worker.end()
    return reports


def _place(unit: Unit) -> tuple[int, int]:
    return unit.index, unit.count


def _next(waiting: deque[Unit], running: dict[Future, _Running], done: set, reports: list[Report]) -> Unit | None:
    """The next unit, or a second copy of one that takes too long."""
    while waiting:
        if _place(unit := waiting.popleft()) not in done:
            return unit
    if not reports:
        return None
    copies = Counter(_place(each.unit) for each in running.values())
    usual = statistics.median(report.seconds for report in reports)
    late = [
        (time.monotonic() - each.since, each.unit)
        for each in running.values()
        if copies[_place(each.unit)] == 1 and _place(each.unit) not in done
    ]
    elapsed, unit = max(late, key=lambda one: one[0], default=(0.0, None))
    return unit if elapsed > STRAGGLES * usual else None


def _started(start: Callable[[], Worker], note: Callable[[str], None]) -> Worker | None:
    try:
        return start()
    except Lost as error:
        note(f"no worker in its place: {error}")
        return None


def _again(unit: Unit, cost: int, losses: int, images: int, reason: str) -> list[Unit]:
    """What is done instead of a unit that has cost so many workers."""
    if cost < losses:
        return [unit]
    if unit.count < images:  # one image of it is to blame
        return unit.split(-(-images // unit.count))
    return [replace(unit, give_up=f"it cost {cost} workers: {reason}")]
