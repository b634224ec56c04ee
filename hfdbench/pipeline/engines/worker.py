"""One worker of an engine: does units in its own process, wherever that is."""

import platform
import time
from dataclasses import dataclass, replace

from hfdbench import __version__
from hfdbench.errors import Unavailable, UsageError
from hfdbench.pipeline.plan import Request, make_plan
from hfdbench.pipeline.run import run


@dataclass(frozen=True)
class Unit:
    """A part of every dataset's images.

    Attributes
    ----------
    index, count : int
        The part, as in `--shard`.
    give_up : str
        Why its images become error rows without being tried; empty: they are done.
    """

    index: int
    count: int
    give_up: str = ""

    def split(self, parts: int) -> "list[Unit]":
        """The same images in so many units."""
        return [Unit(self.index * parts + i, self.count * parts, self.give_up) for i in range(parts)]


@dataclass(frozen=True)
class Hello:
    """Who a worker is. `keys`: trials that it would do and their keys, which hold all that could change a number."""

    host: str
    version: str
    keys: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What became of a unit. `failed`: label and reason of trials that it could not do."""

    host: str
    seconds: float
    notes: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wrong:
    """A request that cannot be carried out as asked."""

    host: str
    message: str


def hello(request: Request) -> Hello | Wrong:
    """What a worker would do of a request."""
    try:
        plan = make_plan(request)
    except (UsageError, Unavailable) as error:
        return Wrong(platform.node(), str(error))
    keys = tuple((trial.label, trial.trial_key) for trial in plan.trials)
    return Hello(platform.node(), __version__, keys, plan.skipped)


def difference(mine: Hello, theirs: Hello) -> str:
    """Why a worker's numbers would be others than the driver's; empty when they would not."""
    if theirs.version != mine.version:
        return f"hfdbench {theirs.version} is installed there, {mine.version} here"
    wanted, found, reasons = dict(mine.keys), dict(theirs.keys), dict(theirs.skipped)
    for label, key in wanted.items():
        if label not in found:
            return f"it cannot do {label}: {reasons.get(label, 'it has no such codec or dataset')}"
        if found[label] != key:
            return f"{label} would be another there: versions of libraries, weights or images differ"
    return ""


def do(request: Request, unit: Unit) -> Report | Wrong:
    """Carry out a unit."""
    began = time.monotonic()
    try:
        part = replace(request, shard=(unit.index, unit.count), workers=1, give_up=unit.give_up, verify=0)
        summary = run(part)
    except (UsageError, Unavailable, OSError) as error:
        return Wrong(platform.node(), str(error))
    notes = tuple(note for note in summary.notes if not note.startswith("shard "))
    failed = [(label, "; ".join(errors)) for label, errors in summary.failed]
    return Report(platform.node(), time.monotonic() - began, notes, (*failed, *summary.skipped))
