"""Shards of a run: a record of what each was part of, and which of them a merge lacks.

Conventions: a shard writes work/shard-<index>-<count>.json when it begins and again when it is run again. Pieces of another plan
lie under other keys, so they are never merged; the records say why images are missing. They go with the last pieces.
"""

import json
import platform
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import NamedTuple

from hfdbench.datasets.ids import parse_id
from hfdbench.errors import UsageError
from hfdbench.files.atomic import write_text
from hfdbench.pipeline.plan import Plan, Request, Trial, part_of
from hfdbench.pipeline.session import Session
from hfdbench.results.folder import ResultsFolder


class Asked(NamedTuple):
    """A trial as it was asked for, whatever images and versions it met, and what it was there."""

    name: str
    stream_key: str
    trial_key: str
    dataset_sha256: str


@dataclass(frozen=True)
class Shard:
    """What one shard was part of.

    Attributes
    ----------
    versions : Mapping of str to str
        Of hfdbench, Python and libraries.
    trials : tuple of Asked
    networks : Mapping of str to str
        Keys of feature networks, by name.
    """

    index: int
    count: int
    host: str
    versions: Mapping[str, str]
    trials: tuple[Asked, ...]
    networks: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, image: int, images: int) -> bool:
        """Whether an image of a dataset of so many is in it."""
        return image in part_of(images, self.index, self.count)


@dataclass(frozen=True)
class Absent:
    """Images of a trial that are not in a table yet. `network`: name, when the table is of features."""

    trial: Trial
    table: str
    images: tuple[int, ...]
    network: str = ""

    def __str__(self) -> str:
        count = len(self.trial.dataset.names)
        which = f"the first is image {self.images[0]}"
        return f"{self.trial.label}: {len(self.images)} of {count} images are not in {self.table} yet, {which}"


def record(session: Session, plan: Plan) -> None:
    """Store what this shard is part of."""
    index, count = session.request.shard or (0, 1)
    shard = _of_session(session, plan.trials, index, count)
    write_text(session.folder.shard(index, count), json.dumps(asdict(shard)))


def _of_session(session: Session, trials: Iterable[Trial], index: int, count: int) -> Shard:
    asked = tuple(Asked(_asked_name(t), t.stream_key, t.trial_key, t.dataset.sha256) for t in trials)
    networks = {name: extractor.key for name, extractor in session.instruments.extractors.items()}
    return Shard(index, count, platform.node(), session.environment["versions"], asked, networks)


def _asked_name(trial: Trial) -> str:
    """Without what a change of the images or --limit would change."""
    base = parse_id(trial.dataset.id).base
    if base.startswith("folder-"):
        base = base.rpartition("-")[0]
    return f"{trial.codec.id}-{trial.point}-{base}-{trial.seed}"


def stored(folder: ResultsFolder) -> list[Shard]:
    """Read the records that are there; one that is damaged is left out."""
    found = []
    for path in folder.all_shards():
        with suppress(OSError, ValueError, TypeError):
            fields = json.loads(path.read_text())
            fields["trials"] = tuple(Asked(*one) for one in fields["trials"])
            found.append(Shard(**fields))
    return found


def forget(folder: ResultsFolder) -> None:
    """Remove the records of shards of which no piece is left."""
    for shard in stored(folder):
        keys = {key for one in shard.trials for key in (one.stream_key, one.trial_key)}
        if not any(folder.work(key).exists() for key in keys):
            folder.shard(shard.index, shard.count).unlink(missing_ok=True)


def explained(session: Session, absent: list[Absent]) -> UsageError:
    """Say why images are missing, and which command makes them.

    Parameters
    ----------
    session : Session
        Of the merge.
    absent : list of Absent
        At least one.
    """
    shards = stored(session.folder)
    for each in absent:
        if error := _of_another_plan(session, each, shards):
            return error
    first = absent[0]
    run = command(session.request)
    alike = [shard for shard in shards if _asked_name(first.trial) in {one.name for one in shard.trials}]
    counts = Counter(shard.count for shard in alike)
    if not counts:
        return UsageError(f"{first}: no shard of it was run; run all of them: {run} --shard I/N")
    count = counts.most_common(1)[0][0]
    missing = sorted({index for each in absent for index in _holding(each, count)})
    names = _ranges(missing)
    if len(missing) == 1:
        return UsageError(
            f"{first}: shard {names}/{count} is missing or did not end; run: {run} --shard {names}/{count}"
        )
    return UsageError(
        f"{first}: shards {names} of {count} are missing or did not end; run each: {run} --shard I/{count} (as an array of "
        f"Slurm: sbatch --array={names})"
    )


def _of_another_plan(session: Session, absent: Absent, shards: list[Shard]) -> UsageError | None:
    """Name the shard that holds a missing image and was run with another plan, and what differs."""
    trial, images = absent.trial, len(absent.trial.dataset.names)
    here = _of_session(session, [trial], 0, 1)
    (mine,) = here.trials
    for shard in shards:
        theirs = [one for one in shard.trials if one.name == mine.name]
        if not theirs or not any(shard.holds(image, images) for image in absent.images):
            continue
        network = absent.network
        if mine in theirs and (not network or shard.networks.get(network) in (None, here.networks[network])):
            continue
        names = sorted(shard.versions.keys() | here.versions.keys())
        versions = [
            f"{name} {shard.versions.get(name, 'absent')} there, {here.versions.get(name, 'absent')} here"
            for name in names
            if shard.versions.get(name) != here.versions.get(name)
        ]
        if mine in theirs:
            why = f"{network} has other weights"
        elif mine.dataset_sha256 not in {one.dataset_sha256 for one in theirs}:
            why = "the images differ"
        else:
            why = ", ".join(versions) or "weights, options or the class of device differ"
        return UsageError(
            f"shard {shard.name}, run on {shard.host}, is of another plan: {absent.trial.label} has another key ({why}); shards "
            f"are merged when all were run with the same: {command(session.request)} --shard {shard.name}"
        )
    return None


def _holding(absent: Absent, count: int) -> list[int]:
    """Numbers of the shards that hold the missing images."""
    images, wanted = len(absent.trial.dataset.names), set(absent.images)
    return [i for i in range(count) if not wanted.isdisjoint(part_of(images, i, count))]


def _ranges(numbers: list[int]) -> str:
    """Numbers as Slurm writes them: 1,4-7."""
    step: Callable[[tuple[int, int]], int] = lambda pair: pair[1] - pair[0]  # noqa: E731
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), step)]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def command(request: Request) -> str:
    """The command line of a request, without a shard."""
    words = ["hfdbench", "run"]
    for option, values in (
        ("codec", [card.id for card in request.codecs]),
        ("dataset", request.datasets),
        ("point", request.points),
        ("limit", [] if request.limit is None else [request.limit]),
        ("seed", [request.seed] if request.seed else []),
        ("seeds", [request.seeds] if request.seeds != 1 else []),
        ("out", [request.out]),
        ("device", [request.device]),
        ("inception", [request.inception] if request.inception else []),
        ("feature", request.features),
        ("metric", request.metrics),
        ("weights", [f"{name}={path}" for name, path in request.weights]),
        ("data-root", [request.data_root] if request.data_root else []),
        ("cards", request.cards),
    ):
        for value in values:
            words += [f"--{option}", str(value)]
    return shlex.join(words)
