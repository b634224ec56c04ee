"""Two folders of pictures, originals and decoded ones, measured as `run` measures what it decodes itself.

Conventions: pictures are paired by stem, the file name without its suffix. What has no partner, has several or differs in
size is named and left out; the fingerprint of a distance is that of the originals that were measured. Intervals are those
of `analysis.estimate`, over images. Nothing is stored.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets.dataset import Dataset
from hfdbench.datasets.folder import left_out, pictures_in, report_left_out
from hfdbench.datasets.ids import FOLDER, parse_id
from hfdbench.datasets.image_files import read_image
from hfdbench.errors import ImageError, Unavailable, UsageError, no_folder, unknown
from hfdbench.files.remote import located
from hfdbench.metrics.distribution.patches import patches
from hfdbench.metrics.image import pixel
from hfdbench.metrics.image.measure import Measure
from hfdbench.metrics.registry import METRICS, identity, small_sample_note
from hfdbench.pipeline.aggregate import Features, distortion_row, feature_row
from hfdbench.pipeline.features import FeatureBuffer
from hfdbench.pipeline.instruments import Instruments, costs, open_instruments, without
from hfdbench.pipeline.pairing import lossy_kind, paired
from hfdbench.pipeline.plan import Request, asked_dataset
from hfdbench.progress import Progress, Silent


@dataclass(frozen=True)
class Value:
    """A metric of all pairs.

    Attributes
    ----------
    value : float
        In the unit of the metric.
    lo, hi : float or None
        95 % interval over images; None where the metric has none.
    id : str or None
        Fingerprint: values of different fingerprints may not be compared.
    """

    value: float
    lo: float | None = None
    hi: float | None = None
    id: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured between two folders.

    Attributes
    ----------
    values : Mapping of str to Value
        By column of the points table, such as "psnr_db", in the order of the registry.
    images, patches : int
        Pairs that were measured, and their patches.
    protocol : str
        How images were cut into patches.
    left_out : tuple of (str, str)
        Name and reason of every picture that was not measured.
    notes : tuple of str
        What a reader must know.
    """

    values: Mapping[str, Value]
    images: int
    patches: int
    protocol: str
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: every picture was measured; 1: some were left out."""
        return 1 if self.left_out else 0


def measure(
    originals: str | Path,
    decoded: str | Path,
    *,
    metrics: Sequence[str] = (),
    features: Sequence[str] = (),
    inception: Path | None = None,
    weights: Mapping[str, Path] = MappingProxyType({}),
    data_root: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Measurement:
    """Measure decoded pictures against their originals.

    Parameters
    ----------
    originals : str or Path
        A folder, or the id of a dataset such as "kodak".
    decoded : str or Path
        A folder of pictures with the same stems.
    metrics : sequence of str
        Metrics on request, such as "dists"; the names of `--metric`.
    features : sequence of str
        Further feature networks, NAME or NAME=FILE; those of `--feature`.
    inception : Path, optional
        Weights of Inception for FID; found as `hfdbench run` finds them by default.
    weights : Mapping of str to Path
        Weight files of `metrics`, by name.
    data_root : Path, optional
        Folder of datasets and weights.
    device : str
        Where networks run: "cpu" or "cuda".
    progress : Progress, optional
        Told how many pairs are done.

    Returns
    -------
    Measurement

    Raises
    ------
    UsageError
        A folder, metric or file is not there, or the folders have no pair in common.
    """
    progress = progress or Silent()
    request = Request(
        codecs=(),
        datasets=(),
        metrics=tuple(metrics),
        features=tuple(features),
        inception=inception,
        weights=tuple(weights.items()),
        data_root=data_root,
        device=device,
    )
    spec, cards = _spec(originals), find_cards(DatasetCard)
    if not spec.startswith(FOLDER) and parse_id(spec).base not in cards:
        raise unknown("folder or dataset", spec, cards)
    dataset, folder = asked_dataset(spec, request), located(decoded).expanduser()
    if not folder.is_dir():
        raise no_folder(folder, "give one that holds the decoded pictures")
    report_left_out(folder, left_out(folder))
    pairs = paired(dataset, pictures_in(folder))
    lonely = [*((dataset.names[image], reason) for image, reason in pairs.lonely.items()), *pairs.strangers]
    if not pairs.files:
        raise UsageError(f"{folder}: no picture is named as one of {originals} is; pictures are paired by stem")
    instruments = open_instruments(request)
    scores = _Scores(instruments, dataset.protocol)
    for line in costs(instruments, instruments.measures):
        progress.note(line)
    progress.start(len(pairs.files), "pairs")
    for image, path in pairs.files.items():
        try:
            scores.add(image, dataset.load(image), read_image(path))
        except ImageError as error:
            lonely.append((dataset.names[image], str(error)))
        progress.advance()
    if not scores.rows:
        raise UsageError(f"{folder}: no pair could be measured; the first: {lonely[-len(pairs.files)][1]}")
    return scores.conclude(dataset.subset(scores.images), tuple(lonely), _lossy(pairs.files.values()))


def _spec(originals: str | Path) -> str:
    """How a request names them: a dataset's id, or folder:PATH."""
    spec = str(originals)
    if os.sep in spec or Path(spec).is_dir():
        return FOLDER + spec.removeprefix(FOLDER)
    return spec


def _lossy(paths: Iterable[Path]) -> list[str]:
    """What must be said of decoded pictures that are in lossy files."""
    kinds = Counter(kind for path in paths if (kind := lossy_kind(path)))
    return [
        f"{count:,} of the decoded pictures are {kind} files, whose own losses are measured too: save them as PNG"
        for kind, count in kinds.items()
    ]


class _Memory:
    """Features of images, in memory."""

    def __init__(self) -> None:
        self.tables: dict[int, pa.Table] = {}

    def __contains__(self, image: int) -> bool:
        return image in self.tables

    def add(self, image: int, table: pa.Table) -> None:
        self.tables[image] = table


class _Side:
    """Patches of one folder on their way through one network."""

    def __init__(self, instruments: Instruments, name: str):
        self._memory = _Memory()
        self._dimensions = instruments.extractors[name].dimensions
        self.buffer = FeatureBuffer(instruments.network(name), self._dimensions, self._memory)

    @property
    def features(self) -> Features:
        return Features(self._dimensions, self._memory.tables.values)


class _Scores:
    """What is known of the pairs so far. Pairs that were measured are numbered from 0."""

    def __init__(self, instruments: Instruments, protocol: str):
        self._instruments, self._protocol = instruments, protocol
        self.images: list[int] = []  # their places in the dataset
        self.rows: list[dict] = []
        self._sides = {name: (_Side(instruments, name), _Side(instruments, name)) for name in instruments.extractors}
        self._quality: dict[str, list[float]] = {c: [] for m in instruments.measures.values() for c in m.columns}
        self._reasons: dict[str, list[str]] = {name: [] for name in instruments.measures}
        self._without_patches: list[int] = []
        self._patches = 0

    def add(self, image: int, original: np.ndarray, decoded: np.ndarray) -> None:
        """Measure a pair. Raises ImageError when the two differ in size."""
        if mismatch := pixel.size_mismatch(original, decoded):
            raise ImageError(mismatch)
        number = len(self.rows)
        self.images.append(image)
        self.rows.append(pixel.compare(original, decoded) | {"pixels": original.shape[0] * original.shape[1]})
        for name, measure in self._instruments.measures.items():
            self._ask(name, measure, original, decoded)
        cut = patches(original, self._protocol), patches(decoded, self._protocol)
        self._patches += len(cut[0])
        if not cut[0]:
            self._without_patches.append(number)
        for sides in self._sides.values():
            for side, some in zip(sides, cut, strict=True):
                side.buffer.add(number, some)

    def _ask(self, name: str, measure: Measure, original: np.ndarray, decoded: np.ndarray) -> None:
        values: tuple[float | None, ...] = (None,) * len(measure.columns)
        try:
            values = measure(original, decoded)
        except Unavailable as error:
            self._reasons[name].append(str(error))
        else:
            self._reasons[name] += ["too small"] if None in values else []
        for column, value in zip(measure.columns, values, strict=True):
            self._quality[column].append(np.nan if value is None else value)

    def conclude(self, dataset: Dataset, lonely: tuple[tuple[str, str], ...], notes: list[str]) -> Measurement:
        """Everything that follows from the pairs; `dataset` holds their originals."""
        row = distortion_row(self.rows)
        per_image = {c: np.array([r[c] for r in self.rows], float) for c in ("psnr_db", "ms_ssim")}
        per_image |= {column: np.array(values, float) for column, values in self._quality.items()}
        if row["identical"]:
            notes.append(f"PSNR has no mean: {row['identical']} images are identical to their originals")
        for column in self._quality:
            present = per_image[column][np.isfinite(per_image[column])]
            row[column] = statistics.fmean(present) if len(present) else None
        for name, measure in self._instruments.measures.items():
            notes += [measure.remark] if measure.remark else []
            if reasons := self._reasons[name]:
                notes.append(f"{name} lacks {len(reasons)} of {len(self.rows)} images: {reasons[0]}")
        spread = {c: (deviations.of_mean(each), np.zeros(0)) for c, each in per_image.items() if row[c] is not None}
        for name, sides in self._sides.items():
            for side in sides:
                side.buffer.finish()
            pair = sides[0].features, sides[1].features
            extractor = self._instruments.extractors[name]
            values, reason = feature_row(extractor, dataset.protocol, dataset.sha256, *pair)
            row |= values
            notes += [reason] if reason else []
            spread |= _distance_deviations(values, *pair, images=len(self.rows))
        if self._patches and (small := self._without_patches):
            names = ", ".join([*(dataset.names[i] for i in small[:5]), *["..."] * (len(small) > 5)])
            which = f"{len(small)} of {len(self.rows)} images"
            notes.append(f"{which} are smaller than a patch of {dataset.protocol} and count in no distance: {names}")
        missing = {**self._instruments.absent, **self._instruments.unmeasured}
        notes += [f"{without(n) if n in self._instruments.absent else f'no {n}'}: {e}" for n, e in missing.items()]
        if row.get("fid_label") not in (None, "FID"):
            notes.append(
                f"the distances of Inception are {row['fid_label']}: not by the published weights; compare only among "
                "themselves"
            )
        notes += [note for c in METRICS if row.get(c) is not None and (note := small_sample_note(c, self._patches))]
        values = {c: _value(row, c, spread) for c in METRICS if row.get(c) is not None}
        return Measurement(
            MappingProxyType(values), len(self.rows), self._patches, dataset.protocol, lonely, tuple(notes)
        )


Spread = dict[str, tuple[np.ndarray, np.ndarray]]  # deviations by image, and by pairs of images


def _distance_deviations(row: Mapping, reference: Features, test: Features, *, images: int) -> Spread:
    """What each image does to the distances of a network that have an interval."""
    found = {}
    for column in row:
        if column in METRICS and METRICS[column].interval is not None and images > 1:
            with suppress(deviations.TooFewPatches):
                arrays = reference.array, test.array, test.images()
                found[column] = deviations.of_distance(column, *arrays, images)
    return found


def _value(row: Mapping, column: str, spread: Spread) -> Value:
    id_column = identity(column)
    lo, hi = None, None
    if column in spread and len(spread[column][0]) > 1:
        lo, hi = Estimate(float(row[column]), spread[column][0], pairs=spread[column][1]).interval()
    return Value(float(row[column]), lo, hi, row.get(id_column) if id_column else None)
