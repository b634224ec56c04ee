"""What of a trial is stored and sound, and what is still to be done.

Conventions: `audit` looks at every finished file of a trial, `select` at which are there. Image numbers are those of the
dataset, 0 to n - 1. A failure that may pass (a worker that died or ran into a limit) is tried again by itself, any other
when it is asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from hfdbench.metrics.image.measure import BY_NAME
from hfdbench.pipeline.instruments import Instruments
from hfdbench.pipeline.plan import Trial
from hfdbench.results import parquet, schema
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.stored import read_point

pc: Any = compute  # makes its functions when it is imported: no type checker sees them

READ_WHOLE_BYTES = 64 << 20  # larger files of features are checked by their footer, page by page when they are used


@dataclass(frozen=True)
class Need:
    """What a trial lacks.

    Attributes
    ----------
    streams : bool
        Its streams are not stored, or some are to be made again.
    images : bool
        Its images table is not stored, or some images are to be measured again.
    features : tuple of str
        Names of feature networks.
    measures : tuple of str
        Names of metrics of `--metric`.
    point : bool
        Its row of the points table is not stored, or outdated.
    again : frozenset of int
        Images that failed before and are tried again.
    """

    streams: bool
    images: bool
    features: tuple[str, ...]
    measures: tuple[str, ...]
    point: bool
    again: frozenset[int] = frozenset()

    @property
    def decode(self) -> bool:
        """Whether streams must be decoded."""
        return self.images or bool(self.features or self.measures)

    @property
    def encode(self) -> bool:
        """Whether images must be encoded."""
        return self.streams and (self.decode or bool(self.again))

    @property
    def steps(self) -> list[str]:
        """Names of the stages to go through; empty when nothing is to be done."""
        return ["encode"] * self.encode + ["decode"] * self.decode + ["score"] * self.point


def select(
    trial: Trial, folder: ResultsFolder, instruments: Instruments, retry_failed: bool, *, retry: bool = True
) -> Need:
    """Compare what is stored of a trial with what is asked for.

    Parameters
    ----------
    trial : Trial
    folder : ResultsFolder
    instruments : Instruments
    retry_failed : bool
        Try every failed image again, not only those whose failure may pass.
    retry : bool
        Whether any is: no in a shard, since the others would do the same.
    """
    streams, images, point = folder.streams(trial.stream_name), folder.images(trial.name), folder.points(trial.name)
    failures = failed_images(images)
    again = frozenset(image for image, failure in failures.items() if retry and (retry_failed or failure.passing))
    features = tuple(
        name for name, e in instruments.extractors.items() if not folder.features(trial.name, e.key).exists()
    )
    if images.exists() and failures and not again:
        features = ()  # a distance over some of the images would be another number: it is null then
    stored = stored_measures(folder, trial)
    measures = tuple(name for name, measure in instruments.measures.items() if stored.get(name) != measure.identity)
    outdated = not point.exists()
    if not outdated:
        metadata = parquet.read_metadata(point)
        used = networks_used(metadata)
        outdated = any(used.get(name) != e.key for name, e in instruments.extractors.items())
        outdated |= metadata.get("measures", {}) != stored
    missing_images = not images.exists() or bool(again)
    stream_failures = failed_images(streams).keys() & again if again else set()
    return Need(
        streams=not streams.exists() or bool(stream_failures),
        images=missing_images,
        features=features,
        measures=measures,
        point=missing_images or bool(features or measures) or outdated,
        again=again,
    )


@dataclass(frozen=True)
class Failure:
    """Why an image failed, and whether the failure may pass."""

    name: str
    error: str
    passing: bool


def failed_images(path: Path) -> dict[int, Failure]:
    """Read the failures of a streams or images table by image; empty where there is no such file."""
    if not path.exists():
        return {}
    table = parquet.read_table(path)
    table = table.filter(pc.not_equal(table["status"], "ok"))
    return {
        row["image"]: Failure(row["name"], row["error"] or "", bool(row.get("passing"))) for row in table.to_pylist()
    }


def stored_measures(folder: ResultsFolder, trial: Trial) -> dict[str, str | None]:
    """Identities of the metrics of `--metric` whose values are stored, by name."""
    paths = {name: folder.quality(trial.name, name) for name in BY_NAME}
    return {name: parquet.read_metadata(path).get("measure") for name, path in paths.items() if path.exists()}


def networks_used(metadata: Mapping) -> dict[str, str]:
    """Keys of the feature networks that a stored point has seen, by name."""
    old = {"inception": metadata["inception"]} if metadata.get("inception") else {}
    return metadata.get("features", old)


# ---- looking at what is stored


def audit(trial: Trial, folder: ResultsFolder, instruments: Instruments) -> list[DamagedFile]:
    """Look at every finished file of a trial and list what is wrong.

    Checked are the checksums of all pages, the columns, the number and order of the rows, the names of the images, and
    that the file is of this trial. A file of features larger than READ_WHOLE_BYTES is checked by its footer alone.
    """
    checks: list[tuple[Path, Callable[[Path], None]]] = [
        (folder.streams(trial.stream_name), lambda path: _check_streams(path, trial)),
        (folder.images(trial.name), lambda path: _check_images(path, trial)),
        (folder.points(trial.name), lambda path: _check_point(path, trial)),
    ]
    for extractor in instruments.extractors.values():
        columns = schema.features_schema(extractor.dimensions)
        place = folder.features(trial.name, extractor.key)
        checks.append((place, lambda path, columns=columns: _check_features(path, trial, columns)))
    checks += [(folder.quality(trial.name, name), lambda path: _check_quality(path, trial)) for name in BY_NAME]
    found = []
    for path, check in checks:
        if path.exists():
            try:
                check(path)
            except DamagedFile as error:
                found.append(error)
    return found


def _check_streams(path: Path, trial: Trial) -> None:
    _check_key(path, "stream_key", trial.stream_key)
    images: list[int] = []
    for batch in parquet.read_batches(path, schema.STREAMS):
        images += batch["image"].to_pylist()
        _check_names(path, batch, trial)
        lengths = pc.binary_length(batch["stream"])
        if pc.any(pc.not_equal(lengths, batch["bytes"])).as_py():
            raise DamagedFile(path, "a stream is not as long as it says")
    _check_rows(path, images, range(len(trial.dataset.names)))


def _check_images(path: Path, trial: Trial) -> None:
    _check_key(path, "trial_key", trial.trial_key)
    table = parquet.read_table(path, schema=schema.IMAGES)
    _check_rows(path, table["image"].to_pylist(), range(len(trial.dataset.names)))
    _check_names(path, table, trial)


def _check_point(path: Path, trial: Trial) -> None:
    row, metadata = read_point(path)
    _check_key(path, "trial_key", trial.trial_key)
    if metadata and row["images"] + row["failed"] != len(trial.dataset.names):
        raise DamagedFile(path, f"{row['images'] + row['failed']} images instead of {len(trial.dataset.names)}")


def _check_features(path: Path, trial: Trial, columns: pa.Schema) -> None:
    _check_key(path, "trial_key", trial.trial_key)
    if error := damaged_features(path, columns):
        raise error


def damaged_features(path: Path, columns: pa.Schema) -> DamagedFile | None:
    """Say what is wrong with a file of features, of decoded images or of originals; None when it is sound."""
    try:
        _check_order(path, columns)
    except DamagedFile as error:
        return error
    return None


def _check_order(path: Path, columns: pa.Schema) -> None:
    if path.stat().st_size > READ_WHOLE_BYTES:
        with_columns = parquet.read_schema(path)
        if with_columns.remove_metadata() != columns:
            raise DamagedFile(path, "features of another network")
        return
    last = 0
    for batch in parquet.read_batches(path, columns):
        images = batch["image"].to_pylist()
        if images != sorted(images) or (images and images[0] < last):
            raise DamagedFile(path, "its images are not in order")
        last = images[-1] if images else last


def _check_quality(path: Path, trial: Trial) -> None:
    _check_key(path, "trial_key", trial.trial_key)
    images = parquet.read_table(path, schema=schema.QUALITY)["image"].to_pylist()
    columns = max(1, len(images) // max(1, len(trial.dataset.names)))
    _check_rows(path, images, [image for image in range(len(trial.dataset.names)) for _ in range(columns)])


def _check_key(path: Path, name: str, expected: str) -> None:
    stored = parquet.read_metadata(path).get(name)
    if stored not in (None, expected):
        raise DamagedFile(path, f"it is of another trial: {name} {stored}")


def _check_rows(path: Path, images: Iterable[int], expected: Iterable[int]) -> None:
    images, expected = list(images), list(expected)
    if images != expected:
        kind = (
            "doubled or out of order" if len(images) >= len(expected) else f"{len(images)} instead of {len(expected)}"
        )
        raise DamagedFile(path, f"rows of images: {kind}")


def _check_names(path: Path, table: pa.Table | pa.RecordBatch, trial: Trial) -> None:
    names = trial.dataset.names
    for image, name in zip(table["image"].to_pylist(), table["name"].to_pylist(), strict=True):
        if not 0 <= image < len(names) or names[image] != name:
            raise DamagedFile(path, f'image {image} is "{name}"')
