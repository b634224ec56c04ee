"""Images and features of a trial -> its row of the points table, and what a reader must know about the run."""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from hfdbench.codecs.identity import tolerance
from hfdbench.codecs.worker import PEAKS
from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.fingerprint import fid_id, weights_label
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.image import pixel as distortion
from hfdbench.metrics.networks.extractors import Extractor
from hfdbench.metrics.registry import METRICS, network_columns, of_network, resolve
from hfdbench.pipeline.instruments import without
from hfdbench.pipeline.plan import Trial
from hfdbench.pipeline.select import Need, networks_used, stored_measures
from hfdbench.pipeline.session import PLACE, Session
from hfdbench.results import parquet, schema
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.stored import read_point

SHOWN = ("seal", *PLACE)  # in a point's row: each that there is
UNREAD = {"codec", "point", "dataset", "width", "height", "stream_sha256", "pixels_sha256", "error", "passing"}
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
    columns = [name for name in schema.IMAGES.names if name not in UNREAD]
    images = parquet.read_table(folder.images(trial.name), columns, schema.IMAGES)
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
    for path in session.folder.points_of(trial.stem):
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
    cost = trial.codec.point(trial.point)
    row |= {"network_evaluations": cost.network_evaluations, "macs_per_pixel": cost.macs}
    row |= {"images": len(rows), "failed": failed, "badge": trial.given.badge if trial.given else None}
    row |= {"tolerance": None if trial.given and trial.given.pictures else tolerance(trial.codec)}
    row |= {name: ", ".join(sorted({r[name] for r in every if r[name]})) or None for name in SHOWN}
    row["status"] = "ok" if not failed else "partial" if rows else "failed"
    notes = [f"{failed} of {len(every)} images failed"] if failed else []
    if rows:
        row |= _rate(rows) | distortion_row(rows)
        row |= {name: _largest(rows, name) for name in ("batch", *PEAKS)}
        times, reasons = _times(rows)
        row |= times
        notes += reasons
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
        lines = parquet.read_table(path, ["image", "metric", "value", "error"]).to_pylist()
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


def distortion_row(rows: list[dict]) -> dict:
    """Aggregate the pixel metrics of images.

    Parameters
    ----------
    rows : list of dict
        With `mse`, `psnr_db`, `ms_ssim` and `pixels`, as in an images table; at least one.

    Returns
    -------
    dict
        The columns of the points table that come from them.
    """
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


def _largest(rows: list[dict], name: str) -> int | None:
    return max((row[name] for row in rows if row.get(name) is not None), default=None)


def _times(rows: list[dict]) -> tuple[dict, list[str]]:
    """Times, never averaged over several kinds of devices, as of shards on different machines; and why some are missing."""
    megapixels = sum(row["pixels"] for row in rows) / 1e6
    decoders = {(row["processor"], row["device_name"]) for row in rows if row.get("processor")}
    encoders = {row["encoded_on"] for row in rows if row.get("encoded_on")}
    places = {"decode_s": sorted(f"{name or '?'} ({kind})" for kind, name in decoders), "encode_s": sorted(encoders)}
    times, reasons = {}, []
    for name in ("encode_s", "decode_s"):
        seconds = [row[name] for row in rows]
        if len(places[name]) > 1:
            reasons.append(f"no {name}: on {' and '.join(places[name])}, see images/")
        elif None not in seconds:  # somebody else's, who did not say
            times |= {name: statistics.median(seconds), f"{name}_per_mpx": sum(seconds) / megapixels}
    if len(encoders) == 1 and decoders and encoders.isdisjoint(name for _, name in decoders):
        reasons.append(f"encode_s: on {encoders.pop()}")
    return times, reasons


def _realism(trial: Trial, compared: Compared) -> tuple[dict, str]:
    """What is computed from the stored features of a network, and the reason why some of it is missing."""
    ours, originals = (parquet.read_table(path, ["image"]).num_rows for path in (compared.features, compared.reference))
    if ours != originals:
        raise DamagedFile(compared.features, f"{ours} patches, the originals have {originals}")
    sides = Features.stored(compared.reference), Features.stored(compared.features)
    return feature_row(compared.extractor, trial.dataset.protocol, trial.dataset.sha256, *sides)


@dataclass(frozen=True)
class Features:
    """Features of one side, in parts.

    Parameters
    ----------
    dimensions : int
        D.
    batches : callable
        () -> iterable of tables or record batches with columns `image` and `features`; called once for each pass.
    """

    dimensions: int
    batches: Callable[[], Iterable[pa.Table | pa.RecordBatch]]

    @classmethod
    def stored(cls, path: Path) -> "Features":
        """Features of a file."""
        dimensions = parquet.read_schema(path).field("features").type.list_size
        return cls(dimensions, partial(parquet.read_batches, path))

    def moments(self) -> Moments:
        """Count, mean and covariance."""
        moments = Moments(self.dimensions)
        for batch in self.batches():
            moments.update(self._matrix(batch["features"]))
        return moments

    @cached_property
    def array(self) -> np.ndarray:
        """All of them, float32, N x D, in a file without a name in the temporary folder: mapped, not held in memory."""
        with tempfile.TemporaryFile() as file:
            for batch in self.batches():
                self._matrix(batch["features"]).tofile(file)
            count = file.tell() // (4 * self.dimensions)
            if not count:
                return np.empty((0, self.dimensions), np.float32)
            return np.memmap(file, np.float32, "r", shape=(count, self.dimensions))

    def images(self) -> np.ndarray:
        """The image of each patch, int64, shape (N,)."""
        return np.concatenate([np.empty(0, np.int64), *(batch["image"].to_numpy() for batch in self.batches())])

    def _matrix(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return column.flatten().to_numpy().reshape(-1, self.dimensions)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS compute with one thread: with another number of threads it adds in another order."""
    import scipy.linalg  # noqa: F401  (what is not loaded yet is not limited)

    with threadpool_limits(1):
        yield


@one_thread()
def feature_row(
    extractor: Extractor, protocol: str, reference_sha256: str, reference: Features, test: Features
) -> tuple[dict, str]:
    """Compute the metrics on a network's features, to the same bit however many threads there are.

    Parameters
    ----------
    extractor : Extractor
        The network.
    protocol : str
        How images were cut.
    reference_sha256 : str
        Of the originals, for the fingerprint.
    reference, test : Features
        Of the originals and of what was decoded: the same patches in the same order.

    Returns
    -------
    values : dict
        In the columns of the points table.
    reason : str
        Why some of them are missing; "" where none is.
    """
    ours, originals = test.moments(), reference.moments()
    inception = extractor.name == "inception"
    if ours.count < 2:
        few = f"{ours.count} patches of 256 x 256 pixels"
        return ({"fid_patches": ours.count}, f"no FID: {few}") if inception else ({}, f"no {extractor.column}: {few}")
    made = fid_id(protocol, ours.count, extractor.id, reference_sha256)
    metrics = of_network(extractor.name)
    values: dict[str, Any] = {metric.identity: made for metric in metrics if metric.identity}
    if extractor.column:
        values[extractor.column] = frechet_distance(originals, ours)
    count = ours.count
    del ours, originals  # memory of the others, as what Arrow keeps of the pieces that were read
    pa.default_memory_pool().release_unused()
    reasons = []
    others = [metric for metric in metrics if metric.interval != "frechet"]
    arrays = (reference.array, test.array, test.images()) if others else ()
    for compute, group in groupby(others, lambda metric: metric.compute):
        columns = [metric.column for metric in group]
        try:
            values |= dict(zip(columns, resolve(compute)(*arrays), strict=True))
        except ValueError as error:
            reasons.append(f"no {METRICS[columns[0]].name}: {error}")
    if inception:
        values["fid_label"] = weights_label(extractor.sha256)
        values |= {"fid_patches": count, "fid_protocol": protocol}
    return values, "; ".join(reasons)
