"""The row of the points table from a trial's crops and features, and what a reader must know about the run."""

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import numpy as np

from hfdbench import __version__
from hfdbench.cards.find import bundled_root
from hfdbench.codecs.identity import processor
from hfdbench.codecs.worker import THREADS
from hfdbench.metrics.distribution.fingerprint import fid_id, weights_label
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.image import pixel as distortion
from hfdbench.metrics.networks.extractors import Extractor
from hfdbench.metrics.registry import METRICS, of_network, resolve
from hfdbench.pipeline.plan import Request, Trial
from hfdbench.results import store

PACKAGES = (
    "torch",
    "torch-fidelity",
    "torchmetrics",
    "numpy",
    "pillow",
    "pyarrow",
    "compressai",
    "pillow-heif",
    "pillow-jxl-plugin",
)


@dataclass(frozen=True)
class Compared:
    """Files of features by one network: of what was decoded, and of the originals."""

    extractor: Extractor
    features: Path
    reference: Path


def point_row(trial: Trial, crops: Path, compared: list[Compared], absent: list[str]) -> dict:
    """One row of store.POINTS. absent: why some features are not there, a line a network."""
    every = store.read_table(crops).to_pylist()
    rows = [row for row in every if row["status"] == "ok"]
    failed = len(every) - len(rows)
    row = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id, "kind": trial.codec.kind}
    row |= {"title": trial.codec.title or trial.codec.id, "device": trial.device, "seed": trial.seed}
    row |= {"network_evaluations": trial.codec.point(trial.point).network_evaluations}
    row |= {"images": len(rows), "failed": failed}
    row["status"] = "ok" if not failed else "partial" if rows else "failed"
    notes = [f"{failed} of {len(every)} images failed"] if failed else []
    if rows:
        row |= _rate(rows) | _distortion(rows) | _times(rows)
        if row["identical"]:
            notes.append(f"PSNR has no mean: {row['identical']} images are identical to their originals")
    if failed:
        return row | {"note": "; ".join([*notes, "no FID over some of the images"])}
    for pair in compared:
        values, reason = _realism(trial, pair)
        row |= values
        notes += [reason] if reason else []
    return row | {"note": "; ".join([*notes, *absent])}


def measured_row(paths: dict[str, Path]) -> tuple[dict, list[str]]:
    """Means of the measures of --metric, over the images that have a value, and what must be known about them."""
    row, remarks = {}, []
    for name, path in paths.items():
        lines = store.read_table(path).to_pylist()
        for column in dict.fromkeys(line["metric"] for line in lines):
            present = [line["value"] for line in lines if line["metric"] == column and line["value"] is not None]
            row[column] = statistics.fmean(present) if present else None
        if remark := store.read_metadata(path).get("remark"):
            remarks.append(remark)
        without = {line["image"]: line["error"] for line in lines if line["value"] is None}
        if without:
            why = next(filter(None, without.values()), "too small")
            images = len({line["image"] for line in lines})
            remarks.append(f"{name} lacks {len(without)} of {images} images: {why}")
    return row, remarks


def _rate(rows: list[dict]) -> dict:
    pixels, stream_bytes = sum(row["pixels"] for row in rows), sum(row["bytes"] for row in rows)
    bpp_mean = statistics.fmean(row["bpp"] for row in rows)
    return {"pixels": pixels, "bytes": stream_bytes, "bpp": stream_bytes * 8 / pixels, "bpp_mean": bpp_mean}


def _distortion(rows: list[dict]) -> dict:
    psnr = [row["psnr_db"] for row in rows]
    similar = [row["ms_ssim"] for row in rows if row["ms_ssim"] is not None]
    similar_db = [distortion.ms_ssim_db(value) for value in similar]
    return {
        "identical": psnr.count(None),
        "psnr_db": None if None in psnr else statistics.fmean(psnr),
        "psnr_pooled_db": distortion.psnr_pooled_db((row["mse"], row["pixels"]) for row in rows),
        "ms_ssim": statistics.fmean(similar) if similar else None,
        "ms_ssim_db": statistics.fmean(similar_db) if similar_db and None not in similar_db else None,
        "ms_ssim_images": len(similar),
    }


def _times(rows: list[dict]) -> dict:
    megapixels = sum(row["pixels"] for row in rows) / 1e6
    times = {}
    for name in ("encode_s", "decode_s"):
        seconds = [row[name] for row in rows]
        times |= {name: statistics.median(seconds), f"{name}_per_mpx": sum(seconds) / megapixels}
    return times


def _realism(trial: Trial, compared: Compared) -> tuple[dict, str]:
    """What is computed from a network's features, and the reason why some of it is missing."""
    extractor, features, reference = compared.extractor, compared.features, compared.reference
    ours, originals = _moments(features), _moments(reference)
    inception = extractor.name == "inception"
    if ours.count < 2:
        few = f"{ours.count} patches of 256 x 256 pixels"
        return ({"fid_patches": ours.count}, f"no FID: {few}") if inception else ({}, f"no {extractor.column}: {few}")
    made = fid_id(trial.dataset.protocol, ours.count, extractor.id, trial.dataset.sha256)
    metrics = of_network(extractor.name)
    values = {metric.identity: made for metric in metrics}
    if extractor.column:
        values[extractor.column] = frechet_distance(originals, ours)
    reasons = []
    others = [metric for metric in metrics if metric.interval != "frechet"]
    pair = (_array(reference), _array(features)) if others else ()
    for compute, group in groupby(others, lambda metric: metric.compute):
        columns = [metric.column for metric in group]
        try:
            image_of_patch = store.read_table(features, ["image"])["image"].to_numpy()
            values |= dict(zip(columns, resolve(compute)(*pair, image_of_patch), strict=True))
        except ValueError as error:
            reasons.append(f"no {METRICS[columns[0]].name}: {error}")
    if inception:
        values["fid_label"] = weights_label(extractor.sha256)
        values |= {"fid_patches": ours.count, "fid_protocol": trial.dataset.protocol}
    return values, "; ".join(reasons)


def _moments(path: Path) -> Moments:
    moments = Moments(store.read_schema(path).field("features").type.list_size)
    for batch in store.read_batches(path):
        moments.update(_matrix(batch["features"]))
    return moments


def _array(path: Path) -> np.ndarray:
    """All features of a file, float32, N x D."""
    return np.concatenate([_matrix(batch["features"]) for batch in store.read_batches(path)])


def _matrix(column) -> np.ndarray:
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)


def environment(request: Request) -> dict:
    """Metadata of every file of a run: versions, commit, machine, seed, time."""
    versions = {"hfdbench": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": _commit(bundled_root()),
        "device": request.device,
        "cpu": _cpu(),
        "processor": processor(),
        "threads": THREADS,
        "workers": request.workers,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "seed": request.seed,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(root: Path) -> str | None:
    """Commit of a checkout, "-dirty" when files were changed; None outside one."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
