"""Carry out a request by an engine: units to workers, then the tables.

Cost is in seconds of one core (of one GPU for networks there). It need only be right within a factor of a few: it decides
how many units there are, not what they compute.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from hfdbench.datasets.dataset import Dataset
from hfdbench.datasets.image_files import picture_size
from hfdbench.errors import ImageError, UsageError
from hfdbench.pipeline import run as pipeline
from hfdbench.pipeline.engines import queue
from hfdbench.pipeline.engines.cluster import Cluster
from hfdbench.pipeline.engines.processes import Process
from hfdbench.pipeline.engines.settings import Engine
from hfdbench.pipeline.engines.worker import Hello, Stage, Unit, introduced
from hfdbench.pipeline.plan import Request, Trial, make_plan
from hfdbench.pipeline.run import Summary
from hfdbench.pipeline.select import Need
from hfdbench.pipeline.session import Session
from hfdbench.progress import Progress, Silent

ENCODE_S = {"classical": 0.5, "autoencoder": 4.0, "gan": 4.0, "diffusion": 4.0, "flow": 4.0}  # a megapixel
DECODE_S = {"classical": 0.5, "autoencoder": 4.0, "gan": 6.0, "diffusion": 4.0, "flow": 4.0}
EVALUATION_S, MEASURE_S, DESCRIBE_S = 8.0, 3.0, 2.5  # one pass of a decoder's network; features and metrics; features
GPU_FASTER = 50
SAMPLED = 16  # images of a dataset whose size is read
UNITS_A_WORKER = 3  # of a stage, so that all end at about the same time
LEAST_S = 5.0  # of a unit: starting its codec takes a second or two


def carry_out(request: Request, engine: Engine, progress: Progress | None = None) -> Summary:
    """Measure what is not measured yet, as `hfdbench.pipeline.run.run` does, by an engine.

    Parameters
    ----------
    request : Request
    engine : Engine
    progress : Progress, optional

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        For what can be known before the first encode, a device or cluster that is not there, or workers that keep dying.
    Unavailable
        The engine is not installed.
    """
    progress = progress or Silent()
    request = replace(request, workers=engine.workers or request.workers)
    if engine.engine == "local" or request.dry_run:
        return pipeline.run(request, progress)
    if request.shard:
        raise UsageError("--shard is an engine of its own: give it without --engine and --devices")
    plan = make_plan(request)
    session = pipeline.open_session(request, progress)
    needs = pipeline.survey(session, plan)
    work = list(work_of(session, needs))
    if not work:
        return pipeline.complete(session, plan, needs, "finish")
    pipeline.prepare_folder(session, {trial: need for trial, need in needs.items() if need.steps})
    pipeline.tell_costs(session, needs)

    def note(text: str) -> None:
        if text not in session.notes:
            session.note(text)

    mine, with_copies = introduced(plan), engine.engine == "ray"
    most = max(sum(part.images for part in work if part.stage == stage) for stage in {part.stage for part in work})
    cluster = Cluster(engine, request, mine) if with_copies else None
    try:
        if cluster:
            workers: Sequence[queue.Worker] = cluster.start(min(engine.workers or cluster.room, most))
            for each in cluster.notes:
                note(each)
            if not workers:
                raise UsageError(f"--address {engine.address}: no host can do it: {'; '.join(cluster.notes)}")
            start = cluster.restart
        else:
            devices = _assigned(engine, request)
            turn = iter(range(10**9))

            def start() -> queue.Worker:
                return _greeted(Process(request, devices[next(turn) % len(devices)]), mine)

            workers = _all_started(start, min(most, len(devices)), note)
        units = cut(work, engine.unit_s, len(workers))
        progress.start(len(units), "units")
        reports = queue.carry_out(
            units, workers, start, losses=engine.losses, copies=with_copies, note=note, advance=progress.advance
        )
    finally:
        if cluster:
            cluster.close()
    for report in reports:
        for each in report.notes:
            note(each)
        for label, reason in report.failed:
            if (label, reason) not in plan.skipped:
                note(f"{label} failed on {report.host}: {reason}")
    return pipeline.complete(session, plan, needs, "finish")


def _greeted(process: Process, mine: Hello) -> Process:
    """Wait until a process is ready. Raises UsageError when it would give other results, Lost when it does not start."""
    try:
        why = process.greet(mine)
    except queue.Lost:
        process.end()
        raise
    if why:
        process.end()
        raise UsageError(f"{process.host} is refused: {why}; was hfdbench or a library changed meanwhile?")
    return process


def _all_started(start: Callable[[], queue.Worker], count: int, note: Callable[[str], None]) -> list[queue.Worker]:
    """Start so many workers at once; those that do not start are noted. Raises UsageError when none does."""
    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(start) for _ in range(count)]
    workers = [future.result() for future in futures if not future.exception()]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, queue.Lost):
            for worker in workers:
                worker.end()
            raise error
        note(f"a worker was lost before it began: {error}")
    if not workers:
        raise UsageError(f"no worker starts; the last: {errors[-1]}")
    return workers


def _assigned(engine: Engine, request: Request) -> list[str | None]:
    """The GPU of each worker process: in turn."""
    if not engine.devices:
        return [None] * request.workers
    if request.device.split(":")[0] != "cuda":
        raise UsageError(
            f"--devices {','.join(engine.devices)}: there is no GPU here, or --device says {request.device}; leave --devices out"
        )
    import torch

    found = torch.cuda.device_count()
    for device in engine.devices:
        if device.isdecimal() and int(device) >= found:
            raise UsageError(f"--devices: no GPU {device}; this machine has {found}, numbered from 0")
    return [engine.devices[i % len(engine.devices)] for i in range(max(request.workers, len(engine.devices)))]


@dataclass(frozen=True)
class Work:
    """One stage of one key, and what it costs: `seconds` of one worker for all its images."""

    stage: Stage
    key: str
    images: int
    seconds: float
    needs: tuple[tuple[str, Need], ...] = ()
    networks: tuple[str, ...] = ()


def work_of(session: Session, needs: Mapping[Trial, Need]) -> Iterable[Work]:
    """What workers can do of what trials lack, in the order in which it is begun.

    Failed images that are tried again are left to the driver: they are few, and their tables are finished.
    """
    todo = {trial: need for trial, need in needs.items() if need.steps and not need.again}
    datasets = {trial.dataset.id: trial.dataset for trial in todo}
    megapixels = {name: _megapixels(dataset) for name, dataset in datasets.items()}
    faster = GPU_FASTER if session.request.device.startswith("cuda") else 1
    lacking: dict[str, list[str]] = {}
    for dataset, extractor in pipeline.missing_references(session, datasets.values()):
        lacking.setdefault(dataset.id, []).append(extractor.name)
    for name, networks in lacking.items():
        seconds = megapixels[name] * DESCRIBE_S * len(networks) / faster
        yield Work("originals", name, len(datasets[name].names), seconds, networks=tuple(networks))
    for trial in {trial.stream_name: trial for trial, need in todo.items() if need.encode}.values():
        sharing = [(t, need) for t, need in todo.items() if t.stream_name == trial.stream_name]
        seconds = megapixels[trial.dataset.id] * cost_s(trial.encoder.kind, "encode", 0, faster)
        named = tuple((t.name, need) for t, need in sharing)
        yield Work("encode", trial.stream_name, len(trial.dataset.names), seconds, named)
    decoding: dict[str, list[Trial]] = {}
    for trial, need in todo.items():
        if need.decode:
            decoding.setdefault(trial.stream_name, []).append(trial)
    for key, trials in decoding.items():
        seconds = sum(
            megapixels[t.dataset.id]
            * cost_s(t.codec.kind, "decode", t.codec.point(t.point).network_evaluations or 0, faster)
            for t in trials
        )
        named = tuple((t.name, replace(todo[t], streams=False)) for t in trials)
        yield Work("decode", key, len(trials[0].dataset.names), seconds, named)


def cost_s(kind: str, stage: str, evaluations: int, faster: float) -> float:
    """Seconds of a worker for a megapixel.

    Parameters
    ----------
    kind : str
        Of the codec.
    stage : {"encode", "decode"}
        Decoding includes features and metrics.
    evaluations : int
        Of a decoder's network.
    faster : float
        How many times faster networks are than on one core.
    """
    learned = 1 if kind == "classical" else faster
    if stage == "encode":
        return ENCODE_S.get(kind, 4.0) / learned
    return (DECODE_S.get(kind, 4.0) + EVALUATION_S * evaluations) / learned + MEASURE_S / faster


def cut(work: Sequence[Work], unit_s: float, workers: int) -> list[Unit]:
    """Cut work into units.

    Parameters
    ----------
    work : sequence of Work
    unit_s : float
        Seconds that a unit is to take.
    workers : int
        Each stage has some units for every one of them, unless they would be too short or have no image.
    """
    units = []
    for stage in dict.fromkeys(part.stage for part in work):
        parts = [part for part in work if part.stage == stage]
        total = sum(part.seconds for part in parts)
        most_s = min(unit_s, max(total / (UNITS_A_WORKER * workers), LEAST_S))
        for part in parts:
            count = min(part.images, max(1, math.ceil(part.seconds / most_s)))
            units += [
                Unit(part.stage, part.key, i, count, part.images, part.needs, part.networks) for i in range(count)
            ]
    return units


def _megapixels(dataset: Dataset) -> float:
    """Of all images, by the headers of a few."""
    sizes = []
    for path in dataset.paths[:: max(1, len(dataset.paths) // SAMPLED)]:
        try:
            height, width = picture_size(path)
            sizes.append(height * width / 1e6)
        except ImageError:
            continue
    return len(dataset.names) * (sum(sizes) / len(sizes) if sizes else 1.0)
