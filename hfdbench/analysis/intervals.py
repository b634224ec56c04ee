"""Intervals of stored points: where a value would lie had other images of the same kind been measured.

Conventions: an interval is that of an `estimate.Estimate`, from what each image does to the value (`deviations`); estimates
of two points of a dataset subtract. The deviations of a distance are kept (hfdbench.results.folder) and computed anew when
the features are younger; where features are not stored (they are large) what is kept serves. NaN: the point has no such
value, or is not backed by stored images (a published one).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hfdbench.analysis import deviations, seeds
from hfdbench.analysis.estimate import Estimate
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.distribution.kid import kid
from hfdbench.metrics.registry import METRICS
from hfdbench.results.parquet import read_batches
from hfdbench.results.stored import Results, StoredTrial

METHOD = {"frechet": 2, "kid": 4}  # part of the cache's names: count it up when the numbers change
COLUMNS = tuple(metric.column for metric in METRICS.values() if metric.interval)
NETWORKS = {column: network for column in COLUMNS if (network := METRICS[column].network)}


def sources(trial: StoredTrial, column: str) -> tuple[Path, ...]:
    """Return the files that a column is computed from; empty where they are not stored."""
    if column in NETWORKS:
        return trial.features(NETWORKS[column]) or ()
    return (trial.images_path,) if trial.images_path.is_file() else ()


def intervals(results: Results | Path, points: pd.DataFrame, column: str, *, level: float = 0.95) -> pd.DataFrame:
    """Intervals of a column.

    Parameters
    ----------
    results : Results or Path
        The stored results, or their folder.
    points : DataFrame
        Rows of the points table.
    column : str
        One of COLUMNS.
    level : float
        Of the intervals, 0 to 1.

    Returns
    -------
    DataFrame
        Columns lo and hi, indexed like `points`; NaN where there is none.

    Raises
    ------
    UsageError
        The column has no intervals.
    """
    if column not in COLUMNS:
        raise unknown("column with intervals", column, COLUMNS)
    trials = Results.of(results).trials()
    stored: dict[tuple, StoredTrial] = {}
    for trial in trials:
        stored.setdefault(_identity(trial.row, column), trial)
    rows = []
    for point in points.to_dict("records"):
        if point.get("seeds", 1) > 1:
            found = _over_seeds(trials, point, column)
        else:
            trial = stored.get(_identity(point, column))
            found = None if trial is None else estimate(trial, column)
        rows.append((np.nan, np.nan) if found is None else found.interval(level))
    return pd.DataFrame(rows, index=points.index, columns=["lo", "hi"], dtype=float)


def _identity(row: Mapping[Any, Any], column: str) -> tuple:
    """What tells a point from every other, a newer measurement of the same included."""
    return (*(row[name] for name in ("codec", "point", "dataset", "seed", "device", "images")), row.get(column))


def _over_seeds(trials: Iterable[StoredTrial], point: Mapping[Any, Any], column: str) -> Estimate | None:
    """Of a row of `seeds.mean_of_seeds`: its trials are those that the row is the mean of."""
    trials = list(trials)
    mine = [t for t, fits in zip(trials, seeds.same_but_seed([t.row for t in trials], point), strict=True) if fits]
    found = [each for each in (estimate(trial, column) for trial in mine) if each is not None]
    return Estimate.over_seeds(found) if len(found) == point["seeds"] else None


def estimate(trial: StoredTrial, column: str) -> Estimate | None:
    """The value of a stored point and how sure it is.

    Parameters
    ----------
    trial : StoredTrial
        The point.
    column : str
        One of COLUMNS.

    Returns
    -------
    Estimate or None
        None where there is no value, or nothing is stored that says how sure it is.
    """
    value = trial.row.get(column)
    if value is None or pd.isna(value) or not trial.images:
        return None
    if column in NETWORKS:
        found = _distance_deviations(trial, column)
    else:
        found = (_mean_deviations(trial, column), np.zeros(0), np.zeros(0)) if sources(trial, column) else None
    return None if found is None else Estimate(float(value), found[0], pairs=found[1], subsets=found[2])


def kernel_distance(trial: StoredTrial, column: str) -> float:
    """The KID of the features that a Fréchet distance is of; NaN where neither it nor the features are stored."""
    if NETWORKS.get(column) == "inception":
        return float(np.nan if trial.row["kid"] is None else trial.row["kid"])
    files = sources(trial, column) if column in NETWORKS else ()
    if not files:
        return np.nan
    (test, _), (reference, _) = map(features, files)
    return kid(reference, test)[0]


def _mean_deviations(trial: StoredTrial, column: str) -> np.ndarray:
    """Of a mean over images, or of the ratio of bits to pixels."""
    rows = trial.read_images().to_pandas()
    rows = rows[rows["status"] == "ok"].sort_values("image")
    if METRICS[column].interval == "ratio":
        return deviations.of_ratio(8 * rows["bytes"].to_numpy(), rows["pixels"].to_numpy())
    return deviations.of_mean(rows[column].to_numpy(float))


def _distance_deviations(trial: StoredTrial, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of images, of pairs of them, and of subsets of patches."""
    files, method = sources(trial, column), METHOD[str(METRICS[column].interval)]
    found = trial.results.deviations(trial, column, method, files)
    if found is not None:
        return deviations.parts(found, trial.images)
    if not files:
        return None
    (test, image_of_patch), (reference, _) = map(features, files)
    try:
        computed = deviations.of_distance(column, reference, test, image_of_patch, trial.images)
    except deviations.TooFewPatches:
        return None
    trial.results.keep_deviations(trial, column, method, np.concatenate(computed))
    return computed


def features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, N x D, and the image of each patch."""
    batches = list(read_batches(path))
    if not batches:
        raise UsageError(f"{path}: holds no features; delete it and run again")
    matrix = [batch["features"].flatten().to_numpy().reshape(len(batch), -1) for batch in batches]
    return np.concatenate(matrix), np.concatenate([batch["image"].to_numpy() for batch in batches])
