"""What a reader must know of a distance before he believes a verdict on it; one line each, in the `notes` of every result.

Conventions: rows are those of the points table. A Fréchet distance of fewer patches than its features have dimensions is
biased upwards, and by another amount for each codec: a difference may change its sign with more patches.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hfdbench.analysis.intervals import NETWORKS
from hfdbench.metrics.registry import METRICS, small_sample_note

FEWEST_IMAGES = {
    "inception": 24
}  # for a verdict on a distance: intervals of fewer images hold less often than they say
FEWEST_IMAGES_ELSE = 48  # measured for fd_mini, taken for networks that were not measured
PUBLISHED = "FID"  # the label of a FID by the published weights


def is_frechet(column: str) -> bool:
    """Whether a column is a Fréchet distance, whose bias depends on the number of patches."""
    return column in METRICS and METRICS[column].interval == "frechet"


def fewest_images(column: str) -> int:
    """Return how many images a verdict takes: 0 for what is no distance (tests/bench/coverage_intervals.py)."""
    return FEWEST_IMAGES.get(NETWORKS[column], FEWEST_IMAGES_ELSE) if column in NETWORKS else 0


def kid_sign(a: float, b: float) -> float:
    """Sign of a - b of two KIDs; 0 where they are within 1 % of each other, or one is not known."""
    return float(np.sign(a - b)) if abs(a - b) > 0.01 * max(abs(a), abs(b)) else 0.0


def caveats(rows: Iterable[Mapping[Any, Any]], columns: Iterable[str]) -> tuple[str, ...]:
    """Notes on the distances among `columns`, for these points.

    Parameters
    ----------
    rows : iterable of Mapping
        Rows of the points table.
    columns : iterable of str
        The columns that are shown or judged.

    Returns
    -------
    tuple of str
        Each note once.
    """
    rows, notes = list(rows), []
    for column in columns:
        if column not in NETWORKS:
            continue
        mine = [row for row in rows if isinstance(row.get(column), float) and row[column] == row[column]]
        name, network = METRICS[column].name, NETWORKS[column]
        labels = {str(row["fid_label"]) for row in mine if row.get("fid_label")} - {PUBLISHED}
        if network == "inception" and labels:
            notes.append(
                f"{column} is {', '.join(sorted(labels)).replace('FID', name)}: not comparable with published values"
            )
        patches = [int(row["fid_patches"]) for row in mine if row.get("fid_patches")]
        notes += filter(None, [small_sample_note(column, min(patches, default=None))])
        few = sorted({int(row["images"]) for row in mine if row["images"] < fewest_images(column)})
        if few:
            notes.append(
                f"{name} of {few[0]} images: too few for a verdict, at least {fewest_images(column)} are needed"
            )
    return tuple(dict.fromkeys(notes))


def authors(rows: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """Notes on codecs whose streams, or pixels too, are their authors': a line for each badge."""
    named: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row.get("badge"), str):
            named.setdefault(row["badge"], set()).add(row["codec"])
    return tuple(f"{', '.join(sorted(codecs))}: {badge}" for badge, codecs in sorted(named.items()))


def one_seed(rows: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """Notes on decoders that sample and were measured with one seed: the spread of seeds is in no interval of theirs."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        if (row.get("network_evaluations") or 0) > 1:
            seeds.setdefault(row["codec"], set()).add(row["seed"])
    single = sorted(codec for codec, found in seeds.items() if len(found) == 1)
    if not single:
        return ()
    return (
        f"one seed of {', '.join(single)}: how much another seed of the sampling moves the values is not in the intervals "
        "(hfdbench run --seeds 4)",
    )
