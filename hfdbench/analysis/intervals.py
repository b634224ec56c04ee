"""Intervals of stored points: where a value would lie had other images of the same kind been measured.

Conventions: by the image-clustered bootstrap of `metrics.bootstrap`; every point of a dataset sees the same draws, so that
two points' draws pair. Draws are kept as out/cache/bootstrap-<trial key>-....npy and are made anew when what they were
made from is younger; where that is not stored (features are large), kept draws serve. NaN: the point has no such value,
or is not backed by stored images (a published one).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hfdbench.analysis import bootstrap
from hfdbench.codecs.identity import key
from hfdbench.errors import UsageError, unknown
from hfdbench.files.atomic import replacing
from hfdbench.results import store

METHOD = 1  # part of the cache's names: count it up when the numbers change
MEANS = ("psnr_db", "ms_ssim")
NETWORKS = {"fid": "inception", "kid": "inception", "fd_mini": "mini", "fd_dinov2": "dinov2", "fd_clip": "clip"}
COLUMNS = ("bpp", *MEANS, *NETWORKS)


@dataclass(frozen=True)
class Trial:
    """The stored files of a point. `pairs`: features of its decodings and of the originals, by network."""

    row: Mapping
    key: str
    stream_key: str
    crops: Path
    pairs: Mapping[str, tuple[Path, Path]]

    @property
    def images(self) -> int:
        return int(self.row["images"])

    @property
    def features(self) -> Path:
        """Inception's, of the decodings."""
        return self.pairs["inception"][0]

    @property
    def reference(self) -> Path:
        """Inception's, of the originals."""
        return self.pairs["inception"][1]

    def files(self, column: str) -> tuple[Path, ...]:
        """What the column is computed from; empty where it is not stored."""
        files = self.pairs.get(NETWORKS[column], ()) if column in NETWORKS else (self.crops,)
        return files if all(path.is_file() for path in files) else ()


def trials(out: Path) -> list[Trial]:
    """Every stored point below `out` with the files behind it."""
    found = []
    for path in sorted((Path(out) / "points").glob("*.parquet")):
        meta, row = store.read_metadata(path), store.read_table(path).to_pylist()[0]
        used = {"inception": meta.get("inception") or ""} | meta.get("features", {})  # keys of networks
        pairs = {
            name: (
                Path(out) / "features" / f"{path.stem}-{network}.parquet",
                _originals(out, row["dataset"], meta, network),
            )
            for name, network in used.items()
        }
        crops = Path(out) / "crops" / path.name
        found.append(Trial(row, meta.get("trial_key", ""), meta.get("stream_key", ""), crops, pairs))
    return found


def _originals(out: Path, dataset: str, meta: dict, network: str) -> Path:
    """Features of the originals, under the protocol that they were cut by."""
    paths = []
    for protocol in ("fid256", "whole"):
        reference = key("reference", meta.get("dataset_sha256"), protocol, network, meta.get("device"))
        paths.append(Path(out) / "features" / f"reference-{dataset}-{reference}.parquet")
    return next(filter(Path.is_file, paths), paths[0])


def intervals(out: Path, points: pd.DataFrame, column: str, *, level: float = 0.95, count: int = 300) -> pd.DataFrame:
    """Columns lo and hi, indexed like `points`; NaN where there is none. Raises UsageError for a column without them."""
    if column not in COLUMNS:
        raise unknown("column with intervals", column, COLUMNS)
    stored = {}
    for trial in trials(out):
        stored.setdefault(_identity(trial.row, column), trial)
    rows = []
    for _, point in points.iterrows():
        trial = stored.get(_identity(point, column))
        samples = None if trial is None else draw(out, trial, column, count)
        rows.append((np.nan, np.nan) if samples is None else bootstrap.interval(samples, level))
    return pd.DataFrame(rows, index=points.index, columns=["lo", "hi"], dtype=float)


def _identity(row: Mapping, column: str) -> tuple:
    """What tells a point from every other, a newer measurement of the same included."""
    return (*(row[name] for name in ("codec", "point", "dataset", "seed", "device", "images")), row.get(column))


def draw(out: Path, trial: Trial, column: str, count: int, seed: int = 0) -> np.ndarray | None:
    """The column's value in each of `count` draws, distances centred on their value; None where there is no value."""
    value, files = trial.row.get(column), trial.files(column)
    if value is None or pd.isna(value) or not trial.images:
        return None
    cached = Path(out) / "cache" / f"bootstrap-{trial.key}-{column}-{count}-{seed}-v{METHOD}.npy"
    if cached.is_file() and cached.stat().st_mtime_ns >= max((path.stat().st_mtime_ns for path in files), default=0):
        samples = np.load(cached)
    elif not files:
        return None
    else:
        samples = _draw(files, column, bootstrap.draws(trial.images, count, seed))
        _keep(cached, samples)
    return bootstrap.centred(samples, float(value), positive=column != "kid") if column in NETWORKS else samples


def _draw(files: tuple[Path, ...], column: str, drawn: np.ndarray) -> np.ndarray:
    if column in NETWORKS:
        (test, image_of_patch), (reference, _) = map(features, files)
        distance = bootstrap.kid if column == "kid" else bootstrap.frechet
        return distance(reference, test, image_of_patch, drawn)
    rows = store.read_table(*files).to_pandas()
    rows = rows[rows["status"] == "ok"].sort_values("image")
    if column == "bpp":
        return 8 * bootstrap.mean(rows["bytes"], drawn) / bootstrap.mean(rows["pixels"], drawn)
    return bootstrap.mean(rows[column].astype(float), drawn)


def features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, N x D, and the image of each patch."""
    batches = list(store.read_batches(path))
    if not batches:
        raise UsageError(f"{path}: holds no features; delete it and run again")
    matrix = [batch["features"].flatten().to_numpy().reshape(len(batch), -1) for batch in batches]
    return np.concatenate(matrix), np.concatenate([batch["image"].to_numpy() for batch in batches])


def _keep(path: Path, samples: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, samples)
