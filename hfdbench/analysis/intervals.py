"""Intervals of stored points: where a value would lie had other images of the same kind been measured.

Conventions: by the image-clustered bootstrap of `metrics.bootstrap`; every point of a dataset sees the same draws, so that
two points' draws pair. Draws are kept as out/cache/ (hfdbench.results.folder) and are made anew when what they were
made from is younger; where that is not stored (features are large), kept draws serve. NaN: the point has no such value,
or is not backed by stored images (a published one).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hfdbench.analysis import bootstrap
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.registry import METRICS
from hfdbench.results.parquet import read_batches
from hfdbench.results.stored import Results, StoredTrial

METHOD = 1  # part of the cache's names: count it up when the numbers change
COLUMNS = tuple(metric.column for metric in METRICS.values() if metric.interval)
NETWORKS = {column: network for column in COLUMNS if (network := METRICS[column].network)}


def sources(trial: StoredTrial, column: str) -> tuple[Path, ...]:
    """Return the files that a column is computed from; empty where they are not stored."""
    if column in NETWORKS:
        return trial.features(NETWORKS[column]) or ()
    return (trial.images_path,) if trial.images_path.is_file() else ()


def intervals(
    results: Results | Path, points: pd.DataFrame, column: str, *, level: float = 0.95, count: int = 300
) -> pd.DataFrame:
    """Columns lo and hi, indexed like `points`; NaN where there is none. Raises UsageError for a column without them."""
    if column not in COLUMNS:
        raise unknown("column with intervals", column, COLUMNS)
    stored = {}
    for trial in Results.of(results).trials():
        stored.setdefault(_identity(trial.row, column), trial)
    rows = []
    for _, point in points.iterrows():
        trial = stored.get(_identity(point, column))
        samples = None if trial is None else draw(trial, column, count)
        rows.append((np.nan, np.nan) if samples is None else bootstrap.interval(samples, level))
    return pd.DataFrame(rows, index=points.index, columns=["lo", "hi"], dtype=float)


def _identity(row: Mapping, column: str) -> tuple:
    """What tells a point from every other, a newer measurement of the same included."""
    return (*(row[name] for name in ("codec", "point", "dataset", "seed", "device", "images")), row.get(column))


def draw(trial: StoredTrial, column: str, count: int, seed: int = 0) -> np.ndarray | None:
    """The column's value in each of `count` draws, distances centred on their value; None where there is no value."""
    value, files = trial.row.get(column), sources(trial, column)
    if value is None or pd.isna(value) or not trial.images:
        return None
    samples = trial.results.draws(trial, column, count, seed, METHOD, files)
    if samples is None:
        if not files:
            return None
        samples = _draw(trial, column, bootstrap.draws(trial.images, count, seed))
        trial.results.keep_draws(trial, column, seed, METHOD, samples)
    return (
        bootstrap.centred(samples, float(value), positive=METRICS[column].interval != "kid")
        if column in NETWORKS
        else samples
    )


def _draw(trial: StoredTrial, column: str, drawn: np.ndarray) -> np.ndarray:
    if column in NETWORKS:
        (test, image_of_patch), (reference, _) = map(features, sources(trial, column))
        distance = bootstrap.kid if METRICS[column].interval == "kid" else bootstrap.frechet
        return distance(reference, test, image_of_patch, drawn)
    rows = trial.read_images().to_pandas()
    rows = rows[rows["status"] == "ok"].sort_values("image")
    if METRICS[column].interval == "ratio":
        return 8 * bootstrap.mean(rows["bytes"], drawn) / bootstrap.mean(rows["pixels"], drawn)
    return bootstrap.mean(rows[column].astype(float), drawn)


def features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, N x D, and the image of each patch."""
    batches = list(read_batches(path))
    if not batches:
        raise UsageError(f"{path}: holds no features; delete it and run again")
    matrix = [batch["features"].flatten().to_numpy().reshape(len(batch), -1) for batch in batches]
    return np.concatenate(matrix), np.concatenate([batch["image"].to_numpy() for batch in batches])
