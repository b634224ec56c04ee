"""A point that was measured with several seeds becomes one row: the mean, how many seeds, and how far they lie apart.

Conventions: points are rows of the points table. `seeds` counts the seeds of a row, and <column>_spread is the standard
deviation of a column between them (n - 1), in its unit, null for one seed. Both are added only where a point has several.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hfdbench.codecs.worker import PEAKS
from hfdbench.metrics.registry import METRICS

# Of rows that differ in their seed alone. Times are never averaged over classes of devices or processors.
SAME = ("codec", "point", "dataset", "device", "processor", "device_name", "status", "images", "bytes")
IDENTITIES = tuple(dict.fromkeys(metric.identity for metric in METRICS.values() if metric.identity))
TIMES = ("encode_s", "decode_s", "encode_s_per_mpx", "decode_s_per_mpx")


def mean_of_seeds(points: pd.DataFrame) -> pd.DataFrame:
    """Average what was measured of a point over its seeds.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table.

    Returns
    -------
    DataFrame
        One row for each point, with the lowest seed, by index. Rows that differ in more than the seed (a
        point that was measured before with another version, say) stay as they are.
    """
    same = [name for name in (*SAME, *IDENTITIES) if name in points]
    if "seed" not in points or points.empty:
        return points
    seeds = points.groupby(same, dropna=False)["seed"]
    number: Any = seeds.transform("nunique")
    several = (number > 1) & (number == seeds.transform("size"))
    if not several.any():
        return points
    measured = [name for name in METRICS if name in points and pd.api.types.is_numeric_dtype(points[name])]
    some: Any = points.sort_values(by="seed", kind="stable").loc[several]
    groups = some.groupby(same, dropna=False)
    means = groups[measured].transform(lambda values: values.mean(skipna=False)).astype(points.dtypes[measured])
    if peaks := [name for name in measured if name in PEAKS]:  # the largest of all
        means[peaks] = groups[peaks].transform("max")
    apart = groups[[name for name in measured if name not in (*TIMES, *PEAKS)]].transform(
        lambda values: values.std(skipna=False)
    )
    apart = apart.loc[:, (apart > 0).any()].add_suffix("_spread")
    means = some.assign(**means, seeds=number[several], **apart)[~some.duplicated(same)]
    return pd.concat([points[~several].assign(seeds=1), means]).sort_index(kind="stable")


def several_devices(points: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Names of the devices that the times of points are of, where there are several and a time is shown.

    A point of an older version, which did not note its device, counts as of any.

    Parameters
    ----------
    points : DataFrame
        Rows of the points table.
    columns : iterable of str
        Those that are shown.
    """
    if set(columns).isdisjoint(TIMES):
        return []
    kinds = points["device"].dropna().unique().tolist() if "device" in points else []
    names = points["device_name"].dropna().unique().tolist() if "device_name" in points else []
    devices = names if len(names) > 1 else kinds
    return sorted(map(str, devices)) if len(devices) > 1 else []


def same_but_seed(points: Iterable[Mapping[Any, Any]], mean: Mapping[Any, Any]) -> list[bool]:
    """Which points a row of `mean_of_seeds` is the mean of.

    Parameters
    ----------
    points : iterable of mapping
        Rows of the points table.
    mean : mapping
        The row, with `seeds`.
    """
    same = [name for name in (*SAME, *IDENTITIES) if name in mean]
    return [all(point[name] == mean[name] or pd.isna(mean[name]) for name in same) for point in points]


def with_spreads(columns: Iterable[str], points: pd.DataFrame) -> list[str]:
    """The columns that are printed of such a table: a distance is followed by its spread; the seeds are counted at the end."""
    columns = list(columns)
    if "seeds" not in points:
        return columns
    wide = [
        each
        for name in columns
        for each in (name, *([f"{name}_spread"] if name in METRICS and METRICS[name].network else []))
    ]
    return [name for name in (*wide, "seeds") if name in points or name in columns]
