"""Carry out a request by an engine: units to workers, then the tables.

Cost is in seconds of one core (of one GPU for networks there). It need only be right within a factor of a few: it decides
how many units there are, not what they compute.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from hfdbench.datasets.dataset import Dataset
from hfdbench.datasets.image_files import picture_size
from hfdbench.errors import ImageError, UsageError
from hfdbench.pipeline import run as pipeline
from hfdbench.pipeline.engines import queue
from hfdbench.pipeline.engines.cluster import Cluster
from hfdbench.pipeline.engines.processes import Process
from hfdbench.pipeline.engines.settings import Engine
from hfdbench.pipeline.engines.worker import Unit
from hfdbench.pipeline.plan import Plan, Request, make_plan
from hfdbench.pipeline.run import Summary
from hfdbench.progress import Progress, Silent

CODEC_S = {"classical": 1.0, "autoencoder": 8.0, "gan": 10.0, "diffusion": 8.0, "flow": 8.0}  # a megapixel, both ways
EVALUATION_S, MEASURE_S = 8.0, 3.0  # a megapixel: one pass of a decoder's network; features and metrics
GPU_FASTER = 50
SAMPLED = 16  # images of a dataset whose size is read
UNITS_A_WORKER = 3  # at least, so that all end at about the same time


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
    if not plan.trials or not _unfinished(request, plan):
        return pipeline.run(request, progress)
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)
            progress.note(text)

    images = max(len(trial.dataset.names) for trial in plan.trials)
    with_copies = engine.engine == "ray"
    cluster = Cluster(engine, request) if with_copies else None
    try:
        if cluster:
            wanted = min(engine.workers or cluster.room, images)
            workers: Sequence[queue.Worker] = cluster.start(wanted)
            for each in cluster.notes:
                note(each)
            if not workers:
                raise UsageError(f"--address {engine.address}: no host can do it: {'; '.join(notes)}")
            start = cluster.restart
        else:
            devices = _assigned(engine, request)
            workers = [Process(request, device) for device in devices[:images]]
            turn = iter(range(len(workers), 10**9))

            def start() -> queue.Worker:
                return Process(request, devices[next(turn) % len(devices)])

        count = unit_count(plan, engine.unit_s, len(workers), request.device)
        progress.start(count, "units")
        reports = queue.carry_out(
            [Unit(index, count) for index in range(count)],
            workers,
            start,
            images=images,
            losses=engine.losses,
            copies=with_copies,
            note=note,
            advance=progress.advance,
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
    return pipeline.carry_out(request, plan, progress, "finish", notes)


def _unfinished(request: Request, plan: Plan) -> bool:
    dry = pipeline.carry_out(replace(request, dry_run=True), plan, Silent())
    return any(note.startswith("would run ") for note in dry.notes)


def _assigned(engine: Engine, request: Request) -> list[str | None]:
    """The GPU of each worker process: in turn."""
    if not engine.devices:
        return [None] * request.workers
    if request.device.split(":")[0] != "cuda":
        raise UsageError(
            f"--devices {','.join(engine.devices)}: there is no GPU here, or --device says {request.device}"
        )
    import torch

    found = torch.cuda.device_count()
    for device in engine.devices:
        if device.isdecimal() and int(device) >= found:
            raise UsageError(f"--devices: no GPU {device}; this machine has {found}, numbered from 0")
    return [engine.devices[i % len(engine.devices)] for i in range(max(request.workers, len(engine.devices)))]


def unit_count(plan: Plan, unit_s: float, workers: int, device: str) -> int:
    """How many units a plan is cut into.

    Parameters
    ----------
    plan : Plan
    unit_s : float
        Seconds that a unit is to take.
    workers : int
    device : str
        Where networks run.
    """
    faster = GPU_FASTER if device.startswith("cuda") else 1
    megapixels: dict[str, float] = {}
    seconds = 0.0
    for trial in plan.trials:
        dataset = trial.dataset
        if dataset.id not in megapixels:
            megapixels[dataset.id] = _megapixels(dataset)
        learned = 1 if trial.codec.kind == "classical" else faster
        evaluations = trial.codec.point(trial.point).network_evaluations or 0
        a_megapixel = (CODEC_S.get(trial.codec.kind, 8.0) + EVALUATION_S * evaluations) / learned + MEASURE_S / faster
        seconds += megapixels[dataset.id] * a_megapixel
    images = max(len(trial.dataset.names) for trial in plan.trials)
    return min(images, max(math.ceil(seconds / unit_s), UNITS_A_WORKER * workers))


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
