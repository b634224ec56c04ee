"""Images and features of a trial -> its row of the points table, and what a reader must know about the run."""

import statistics
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.fingerprint import fid_id, weights_label
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.image import pixel as distortion
from hfdbench.metrics.networks.extractors import Extractor
from hfdbench.metrics.registry import METRICS, network_columns, of_network, resolve
from hfdbench.pipeline.instruments import without
from hfdbench.pipeline.plan import Trial
from hfdbench.pipeline.select import Need, networks_used, stored_measures
from hfdbench.pipeline.session import Session
from hfdbench.results import parquet, schema
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.stored import read_point

PLACE = ("seal", "host", "processor")
NAMED = 5  # images that a note names


@dataclass(frozen=True)
class Compared:
    """Files of features by one network: of what was decoded, and of the originals."""

    extractor: Extractor
    features: Path
    reference: Path


def conclude(session: Session, trial: Trial, need: Need) -> None:
    """Compute a trial's row of the points table from its images, features and metrics, and store it."""
    folder, instruments = session.folder, session.instruments
    compared = [
        Compared(e, folder.features(trial.name, e.key), session.reference(trial.dataset, e))
        for e in instruments.extractors.values()
        if folder.features(trial.name, e.key).exists()
    ]
    used = {name: extractor.key for name, extractor in instruments.extractors.items()}
    path, kept, before = folder.points(trial.name), {}, {}
    if path.exists():
        row, before = read_point(path)
        if not need.images:  # what a network gave that is not here now stays
            for name, its_key in networks_used(before).items():
                if name not in used:
                    used[name] = its_key
                    kept |= {column: row.get(column) for column in network_columns(name)}
    absent = [f"{without(name)}: {e.reason}" for name, e in instruments.absent.items() if name not in used]
    images = parquet.read_table(folder.images(trial.name), schema=schema.IMAGES)
    row = point_row(trial, images.to_pylist(), compared, absent) | kept
    measured = {name: folder.quality(trial.name, name) for name in stored_measures(folder, trial)}
    means, remarks = measured_row(measured)
    remarks += [f"no {name}: {error.reason}" for name, error in instruments.unmeasured.items() if name not in measured]
    row |= means | {"note": "; ".join(note for note in (row["note"], *remarks) if note)}
    metadata = {
        **session.metadata(trial, trial.codec),
        "inception": used.get("inception", ""),
        "features": used,
        "measures": stored_measures(folder, trial),
        "generation": before.get("generation") or 1 + _last_generation(session, trial),
    }
    parquet.write_table(path, pa.Table.from_pylist([row], schema.POINTS), metadata)


def _last_generation(session: Session, trial: Trial) -> int:
    """How often this point has been measured under other keys; a clock that was set back does not matter."""
    found = [0]
    for path in session.folder.points_of(trial.label):
        with suppress(UsageError):
            row, metadata = read_point(path)
            if (row["seed"], row["device"]) == (trial.seed, trial.device):
                found.append(metadata.get("generation", 0))
    return max(found)


def point_row(trial: Trial, every: list[dict], compared: list[Compared], absent: list[str]) -> dict:
    """Compute one row of the points table.

    Parameters
    ----------
    trial : Trial
    every : list of dict
        Rows of its images table, one per image of the dataset.
    compared : list of Compared
        The feature networks that are here.
    absent : list of str
        Why the others are not.

    Returns
    -------
    dict
        In the columns of `schema.POINTS`, without those of `--metric`.
    """
    rows = [row for row in every if row["status"] == "ok"]
    failed = len(every) - len(rows)
    row = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id, "kind": trial.codec.kind}
    row |= {"title": trial.codec.title or trial.codec.id, "device": trial.device, "seed": trial.seed}
    row |= {"network_evaluations": trial.codec.point(trial.point).network_evaluations}
    row |= {"images": len(rows), "failed": failed}
    row |= {name: ", ".join(sorted({r[name] for r in every if r[name]})) or None for name in PLACE}
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
    if compared and (small := _without_patches(trial, every, compared[0].features)):
        notes.append(small)
    return row | {"note": "; ".join([*notes, *absent])}


def _without_patches(trial: Trial, every: list[dict], features: Path) -> str:
    """Say which images are too small for a patch: they count in no distance."""
    with_patches = set(parquet.read_table(features, ["image"])["image"].to_pylist())
    small = [row["name"] for row in every if row["image"] not in with_patches]
    if not small or len(small) == len(every):
        return ""
    names = ", ".join([*small[:NAMED], *["..."] * (len(small) > NAMED)])
    which = f"{len(small)} of {len(every)} images"
    return f"{which} are smaller than a patch of {trial.dataset.protocol} and count in no distance: {names}"


def measured_row(paths: dict[str, Path]) -> tuple[dict, list[str]]:
    """Means of the measures of --metric, over the images that have a value, and what must be known about them."""
    row, remarks = {}, []
    for name, path in paths.items():
        lines = parquet.read_table(path).to_pylist()
        for column in dict.fromkeys(line["metric"] for line in lines):
            present = [line["value"] for line in lines if line["metric"] == column and line["value"] is not None]
            row[column] = statistics.fmean(present) if present else None
        if remark := parquet.read_metadata(path).get("remark"):
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
    finite_db = [db for value in similar if (db := distortion.ms_ssim_db(value)) is not None]
    return {
        "identical": psnr.count(None),
        "psnr_db": None if None in psnr else statistics.fmean(psnr),
        "psnr_pooled_db": distortion.psnr_pooled_db((row["mse"], row["pixels"]) for row in rows),
        "ms_ssim": statistics.fmean(similar) if similar else None,
        "ms_ssim_db": statistics.fmean(finite_db) if similar and len(finite_db) == len(similar) else None,
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
    if ours.count != originals.count:
        raise DamagedFile(features, f"{ours.count} patches, the originals have {originals.count}")
    inception = extractor.name == "inception"
    if ours.count < 2:
        few = f"{ours.count} patches of 256 x 256 pixels"
        return ({"fid_patches": ours.count}, f"no FID: {few}") if inception else ({}, f"no {extractor.column}: {few}")
    made = fid_id(trial.dataset.protocol, ours.count, extractor.id, trial.dataset.sha256)
    metrics = of_network(extractor.name)
    values: dict[str, Any] = {metric.identity: made for metric in metrics if metric.identity}
    if extractor.column:
        values[extractor.column] = frechet_distance(originals, ours)
    reasons = []
    others = [metric for metric in metrics if metric.interval != "frechet"]
    pair = (_array(reference), _array(features)) if others else ()
    for compute, group in groupby(others, lambda metric: metric.compute):
        columns = [metric.column for metric in group]
        try:
            image_of_patch = parquet.read_table(features, ["image"])["image"].to_numpy()
            values |= dict(zip(columns, resolve(compute)(*pair, image_of_patch), strict=True))
        except ValueError as error:
            reasons.append(f"no {METRICS[columns[0]].name}: {error}")
    if inception:
        values["fid_label"] = weights_label(extractor.sha256)
        values |= {"fid_patches": ours.count, "fid_protocol": trial.dataset.protocol}
    return values, "; ".join(reasons)


def _moments(path: Path) -> Moments:
    moments = Moments(parquet.read_schema(path).field("features").type.list_size)
    for batch in parquet.read_batches(path):
        moments.update(_matrix(batch["features"]))
    return moments


def _array(path: Path) -> np.ndarray:
    """All features of a file, float32, N x D."""
    return np.concatenate([_matrix(batch["features"]) for batch in parquet.read_batches(path)])


def _matrix(column) -> np.ndarray:
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)
