"""A results folder as it is read: every stored trial once, its files checked, the newest measurement of each point.

Conventions: a trial is (codec, point, dataset, seed) on a device, under a key; the same point measured again under
another key is another trial. Its newest measurement is the one with the highest `generation` (counted by the run, not by
a clock), then the latest start. Reading refuses a damaged or doubled file by name; `hfdbench run` repairs.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hfdbench.errors import UsageError
from hfdbench.files import arrays
from hfdbench.files.remote import located
from hfdbench.results import parquet
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.schema import IMAGES, POINTS

if TYPE_CHECKING:
    import pandas as pd

SAME = ("dataset", "codec", "point", "seed", "device")  # what measurements of one point have in common
PACKED_POINTS = pa.schema(
    [("trial", pa.string()), ("metadata", pa.string()), ("images_metadata", pa.string()), *POINTS]
)
PACKED_IMAGES = pa.schema([("trial", pa.string()), *IMAGES])
DEVIATIONS = pa.schema(
    [
        *(("trial_key", pa.string()), ("column", pa.string()), ("method", pa.int64())),
        ("deviations", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True, eq=False)
class StoredTrial:
    """One stored point.

    Attributes
    ----------
    results : Results
    name : str
        <codec>-<point>-<dataset>-<trial key>: the stem of its files.
    row : Mapping
        Its row of the points table, in the columns of `schema.POINTS`.
    metadata : Mapping
        Of the run that measured it.
    """

    results: "Results"
    name: str
    row: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its trial key."""
        return self.metadata.get("trial_key", "")

    @property
    def stream_key(self) -> str:
        """The key of its streams."""
        return self.metadata.get("stream_key", "")

    @property
    def images(self) -> int:
        """Number of images that were measured."""
        return int(self.row["images"])

    @property
    def networks(self) -> Mapping[str, str]:
        """Keys of the feature networks that its distances are of, by the network's name."""
        return {"inception": self.metadata.get("inception") or ""} | self.metadata.get("features", {})

    @property
    def images_path(self) -> Path:
        """Where its images table lies."""
        packed = self.results.folder.packed_images
        return packed if self.name in self.results.packed else self.results.folder.images(self.name)

    def read_images(self, columns: list[str] | None = None) -> pa.Table:
        """Read its images table, one row per image of the dataset.

        Raises
        ------
        DamagedFile
            It is damaged, or has another number of images than the point was computed from.
        """
        if self.name in self.results.packed:
            table = self.results.packed_images.get(self.name, IMAGES.empty_table())
        else:
            table = parquet.read_table(self.images_path, schema=IMAGES)
        expected = self.images + int(self.row["failed"] or 0)
        if table["image"].to_pylist() != list(range(expected)):
            raise DamagedFile(self.images_path, f"not the {expected} images of {self.name} in order")
        return table if columns is None else table.select(columns)

    def read_images_metadata(self) -> dict:
        """Read the metadata of the run that decoded its images."""
        if self.name in self.results.packed:
            return self.results.packed[self.name]
        return parquet.read_metadata(self.images_path)

    def features(self, network: str) -> tuple[Path, Path] | None:
        """Paths of a network's features of its decodings and of the originals; None where either is not stored.

        Parameters
        ----------
        network : str
            Name of the network, as in `networks`.
        """
        if network not in self.networks:
            return None
        folder, number = self.results.folder, self.networks[network]
        given = self.metadata.get("dataset_sha256"), self.metadata.get("device")
        originals = [
            folder.reference(self.row["dataset"], given[0], protocol, number, given[1])
            for protocol in ("fid256", "whole")
        ]
        pair = folder.features(self.name, number), next(filter(Path.is_file, originals), originals[0])
        return pair if all(path.is_file() for path in pair) else None


class Results:
    """A results folder, read once: later changes of its files are not seen by the same object.

    Parameters
    ----------
    root : Path
        The folder, of one file per trial as `hfdbench run` leaves it, or packed.
    """

    def __init__(self, root: Path | str):
        self.folder = ResultsFolder(located(root))
        self.packed: dict[str, dict] = {}  # metadata of the images of each packed trial

    @classmethod
    def of(cls, results: "Results | Path | str") -> "Results":
        """Return the results of a folder that may be open already."""
        return results if isinstance(results, Results) else cls(results)

    def trials(self) -> list[StoredTrial]:
        """List every stored trial, by name.

        Raises
        ------
        DamagedFile
            A file is damaged, of another table, or not the trial that its name says.
        UsageError
            A trial is stored twice.
        """
        return self._trials

    @cached_property
    def _trials(self) -> list[StoredTrial]:
        found = [*self._packed(), *map(self._one, self.folder.all_points())]
        for name, count in Counter(trial.name for trial in found).items():
            if count > 1:
                raise UsageError(f"{self.folder.root}: {name} is stored {count} times; delete all but one")
        return sorted(found, key=lambda trial: trial.name)

    def _one(self, path: Path) -> StoredTrial:
        row, metadata = read_point(path)
        return StoredTrial(self, path.stem, row, metadata)

    def _packed(self) -> Iterator[StoredTrial]:
        path = self.folder.packed_points
        if not path.exists():
            return
        for row in parquet.read_table(path, schema=PACKED_POINTS).to_pylist():
            name, metadata = row.pop("trial"), json.loads(row.pop("metadata"))
            self.packed[name] = json.loads(row.pop("images_metadata"))
            yield StoredTrial(self, name, row, metadata)

    @cached_property
    def packed_images(self) -> dict[str, pa.Table]:
        """Images tables of the trials of a packed folder, by the trial's name."""
        table = parquet.read_table(self.folder.packed_images, schema=PACKED_IMAGES)
        names = table["trial"].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if len(names) else []
        ends = [*starts[1:], len(names)]
        return {names[a]: table.slice(a, b - a).drop_columns(["trial"]) for a, b in zip(starts, ends, strict=True)}

    def newest(self) -> list[StoredTrial]:
        """List the newest measurement of every point, by name."""
        return newest(self.trials())

    def points(self, *, older: bool = False) -> "pd.DataFrame":
        """Return the points table, a row for the newest measurement of each point, by name.

        Parameters
        ----------
        older : bool
            With the older measurements too, of former versions of a codec, say; `measured` says when each began, in UTC.

        Raises
        ------
        UsageError
            It is empty.
        """
        trials = self.trials() if older else self.newest()
        if not trials:
            raise UsageError(
                f"{self.folder.root / 'points'}: no points yet; "
                f"hfdbench run --codec jpeg --dataset samples --out {self.folder.root}"
            )
        points = pa.Table.from_pylist([dict(trial.row) for trial in trials], POINTS).to_pandas()
        return points.assign(measured=[trial.metadata.get("started_utc") for trial in trials]) if older else points

    def older(self) -> list[StoredTrial]:
        """List what a newer measurement of the same point stands in for, by name."""
        newest = {trial.name for trial in self.newest()}
        return [trial for trial in self.trials() if trial.name not in newest]

    def commit(self) -> str:
        """Return the commits of hfdbench that the points were measured with, joined by commas."""
        return ", ".join(sorted({str(t.metadata["commit"]) for t in self.trials() if t.metadata.get("commit")}))

    # ---- what each image does to a distance

    def deviations(
        self, trial: StoredTrial, column: str, method: int, sources: Iterable[Path] = ()
    ) -> np.ndarray | None:
        """Return what each image does to a distance, float64, and what was kept behind it.

        None where nothing is kept, or one of the sources is younger.
        """
        if trial.name in self.packed:
            return self.packed_deviations.get((trial.key, column, method))
        path = self.folder.deviations(trial.key, column, method)
        try:
            if path.stat().st_mtime_ns < max((source.stat().st_mtime_ns for source in sources), default=0):
                return None
        except OSError:
            return None
        found = arrays.kept(path)
        return found if found is not None and found.ndim == 1 and len(found) >= trial.images else None

    def keep_deviations(self, trial: StoredTrial, column: str, method: int, deviations: np.ndarray) -> None:
        """Keep what each image does to a distance for the next time."""
        path = self.folder.deviations(trial.key, column, method)
        if trial.name not in self.packed:  # a packed folder is kept as it is
            arrays.keep(path, deviations)

    @cached_property
    def packed_deviations(self) -> dict[tuple[str, str, int], np.ndarray]:
        """What each image does to the distances of a packed folder, by trial key, column and method."""
        path = self.folder.packed_deviations
        if not path.exists():
            return {}
        table = parquet.read_table(path, schema=DEVIATIONS)
        keys = zip(*(table[name].to_pylist() for name in DEVIATIONS.names[:-1]), strict=True)
        return {number: np.array(kept.values) for number, kept in zip(keys, table["deviations"], strict=True)}


def newest(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Keep the newest measurement of each (dataset, codec, point, seed, device), by name."""
    found = {tuple(trial.row[name] for name in SAME): trial for trial in sorted(trials, key=age)}
    return sorted(found.values(), key=lambda trial: trial.name)


def age(trial: StoredTrial) -> tuple:
    """What orders measurements of one point, the newest last."""
    return trial.metadata.get("generation", 0), str(trial.metadata.get("started_utc", "")), trial.name


def read_point(path: Path) -> tuple[dict, dict]:
    """Read a points file: its row and its metadata.

    Raises
    ------
    DamagedFile
        It is damaged, does not hold exactly one row, or holds another trial than its name says.
    """
    table, metadata = parquet.read_table(path, schema=POINTS), parquet.read_metadata(path)
    if len(table) != 1:
        raise DamagedFile(path, f"{len(table)} rows instead of 1")
    (row,) = table.to_pylist()
    name = "-".join(str(part) for part in (row["codec"], row["point"], row["dataset"], metadata.get("trial_key")))
    if "trial_key" in metadata and name != path.stem:
        raise DamagedFile(path, f"it holds {name}")
    return row, metadata
