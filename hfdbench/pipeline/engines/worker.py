"""One worker of an engine: does units in its own process, wherever that is."""

import platform
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from hfdbench import __version__
from hfdbench.codecs.pool import find_seal
from hfdbench.errors import Unavailable, UsageError
from hfdbench.pipeline.features import describe_originals
from hfdbench.pipeline.instruments import Instruments, open_instruments
from hfdbench.pipeline.plan import Plan, Request, make_plan, part_of
from hfdbench.pipeline.run import Outcome, Seen, do_stage
from hfdbench.pipeline.select import Need
from hfdbench.pipeline.session import Session
from hfdbench.progress import Silent
from hfdbench.results.folder import ResultsFolder

Stage = Literal["originals", "encode", "decode"]


@dataclass(frozen=True)
class Unit:
    """One stage of a part of the images of one key.

    Attributes
    ----------
    stage : {"originals", "encode", "decode"}
    key : str
        Name of the streams that it makes or decodes; of originals, the dataset.
    index, count : int
        The part, as in `--shard`.
    images : int
        Of all parts.
    needs : tuple of (str, Need)
        Names of trials and what they lack.
    networks : tuple of str
        Those that describe the originals.
    give_up : str
        Why its images become error rows without being tried; empty: they are done.
    """

    stage: Stage
    key: str
    index: int
    count: int
    images: int
    needs: tuple[tuple[str, Need], ...] = field(default=(), compare=False)
    networks: tuple[str, ...] = field(default=(), compare=False)
    give_up: str = field(default="", compare=False)

    @property
    def part(self) -> range:
        """Its images."""
        return part_of(self.images, self.index, self.count)

    def split(self) -> "list[Unit]":
        """The same images, each a unit."""
        parts = -(-self.images // self.count)
        units = (replace(self, index=self.index * parts + i, count=self.count * parts) for i in range(parts))
        return [unit for unit in units if unit.part]


@dataclass(frozen=True)
class Hello:
    """Who a worker is. `keys`: trials that it would do and their keys, which hold all that could change a number."""

    host: str
    version: str
    keys: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    seal: str = "sandbox"


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


def introduced(plan: Plan) -> Hello:
    """What this process would do of a plan."""
    keys = tuple((trial.label, trial.trial_key) for trial in plan.trials)
    return Hello(platform.node(), __version__, keys, plan.skipped, find_seal())


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


class Bench:
    """What a worker keeps from one unit to the next: plan, networks, what it has found out about codecs.

    Parameters
    ----------
    request : Request
        What its units are parts of.
    """

    def __init__(self, request: Request):
        self._request = replace(request, workers=1, verify=0)
        self._seen = Seen()

    @cached_property
    def _plan(self) -> Plan:
        return make_plan(self._request)

    @cached_property
    def _instruments(self) -> Instruments:
        return open_instruments(self._request)

    def hello(self) -> Hello | Wrong:
        """What it would do."""
        try:
            return introduced(self._plan)
        except (UsageError, Unavailable) as error:
            return Wrong(platform.node(), str(error))

    def do(self, unit: Unit) -> Report | Wrong:
        """Carry out a unit. When it returns, every process that it started is dead."""
        began = time.monotonic()
        try:
            notes, outcome = self._do(unit)
        except (UsageError, Unavailable, OSError) as error:
            return Wrong(platform.node(), str(error))
        failed = [(label, "; ".join(errors)) for label, errors in outcome.failed.items()]
        seconds = time.monotonic() - began
        return Report(platform.node(), seconds, tuple(notes), (*failed, *outcome.skipped.items()))

    def _do(self, unit: Unit) -> tuple[list[str], Outcome]:
        part = replace(self._request, shard=(unit.index, unit.count), give_up=unit.give_up)
        session = Session(part, ResultsFolder(part.out), self._instruments, Silent())
        if unit.stage == "originals":
            dataset = next(t.dataset for t in self._plan.trials if t.dataset.id == unit.key)
            describe_originals(session, dataset, [self._instruments.extractors[name] for name in unit.networks])
            return session.notes, Outcome({})
        needs = dict(unit.needs)
        todo = {trial: needs[trial.name] for trial in self._plan.trials if trial.name in needs}
        return session.notes, do_stage(session, todo, unit.stage, self._seen)
