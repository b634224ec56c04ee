"""Intervals of stored points: where a value would lie had other images of the same kind been measured.

Conventions: by the image-clustered bootstrap of `metrics.bootstrap`; every point of a dataset sees the same draws, so that
two points' draws pair. Draws are kept as out/cache/bootstrap-<trial key>-....npy and are made anew when what they were
made from is younger. NaN: the point has no such value, or is not backed by stored images (a published one).
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .. import store
from ..errors import BadRequest, unknown
from ..metrics import bootstrap
from ..plan import key

METHOD = 1  # part of the cache's names: count it up when the numbers change
MEANS = ("psnr_db", "ms_ssim")
DISTANCES = {"fid": bootstrap.frechet, "kid": bootstrap.kid}
COLUMNS = ("bpp", *MEANS, *DISTANCES)


@dataclass(frozen=True)
class Trial:
    """The stored files of a point; `reference`: features of the originals."""

    row: Mapping
    key: str
    stream_key: str
    crops: Path
    features: Path
    reference: Path

    @property
    def images(self) -> int:
        return int(self.row["images"])


def trials(out: Path) -> list[Trial]:
    """Every stored point below `out` with the files behind it."""
    found = []
    for path in sorted((Path(out) / "points").glob("*.parquet")):
        meta, row = store.read_metadata(path), store.read_table(path).to_pylist()[0]
        inception = meta.get("inception") or ""
        reference = key("reference", meta.get("dataset_sha256"), row["fid_protocol"], inception, meta.get("device"))
        features = Path(out) / "features"
        found.append(
            Trial(
                row=row,
                key=meta.get("trial_key", ""),
                stream_key=meta.get("stream_key", ""),
                crops=Path(out) / "crops" / path.name,
                features=features / f"{path.stem}-{inception}.parquet",
                reference=features / f"reference-{row['dataset']}-{reference}.parquet",
            )
        )
    return found


def intervals(out: Path, points: pd.DataFrame, column: str, *, level: float = 0.95, count: int = 300) -> pd.DataFrame:
    """Columns lo and hi, indexed like `points`; NaN where there is none. Raises BadRequest for a column without them."""
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
    return (*(row[name] for name in ("codec", "point", "dataset", "seed", "device", "images")), row[column])


def draw(out: Path, trial: Trial, column: str, count: int, seed: int = 0) -> np.ndarray | None:
    """The column's value in each of `count` draws, distances centred on their value; None where there is no value."""
    value = trial.row[column]
    needed = [trial.features, trial.reference] if column in DISTANCES else [trial.crops]
    if value is None or pd.isna(value) or not trial.images or not all(path.is_file() for path in needed):
        return None
    cached = Path(out) / "cache" / f"bootstrap-{trial.key}-{column}-{count}-{seed}-v{METHOD}.npy"
    if cached.is_file() and cached.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in needed):
        samples = np.load(cached)
    else:
        samples = _draw(trial, column, bootstrap.draws(trial.images, count, seed))
        _keep(cached, samples)
    return bootstrap.centred(samples, float(value), positive=column != "kid") if column in DISTANCES else samples


def _draw(trial: Trial, column: str, drawn: np.ndarray) -> np.ndarray:
    if column in DISTANCES:
        (reference, _), (test, image_of_patch) = features(trial.reference), features(trial.features)
        return DISTANCES[column](reference, test, image_of_patch, drawn)
    rows = store.read_table(trial.crops).to_pandas()
    rows = rows[rows["status"] == "ok"].sort_values("image")
    if column == "bpp":
        return 8 * bootstrap.mean(rows["bytes"], drawn) / bootstrap.mean(rows["pixels"], drawn)
    return bootstrap.mean(rows[column].astype(float), drawn)


def features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, N x D, and the image of each patch."""
    batches = list(store.read_batches(path))
    if not batches:
        raise BadRequest(f"{path}: holds no features; delete it and run again")
    matrix = [batch["features"].flatten().to_numpy().reshape(len(batch), -1) for batch in batches]
    return np.concatenate(matrix), np.concatenate([batch["image"].to_numpy() for batch in batches])


def _keep(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
    with open(temporary, "wb") as file:
        np.save(file, samples)
    os.replace(temporary, path)
