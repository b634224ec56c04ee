"""Patches -> features of a network -> pieces of a table, and the features of a dataset's originals."""

from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from hfdbench.datasets.dataset import Dataset
from hfdbench.errors import ImageError, UsageError
from hfdbench.metrics.distribution.patches import patches
from hfdbench.metrics.networks.extractors import Extractor, Network
from hfdbench.pipeline.session import FEATURE_ROWS, Session
from hfdbench.results import schema
from hfdbench.results.work import Pieces, finish

Patch = tuple[int, int, np.ndarray]  # top, left, pixels


class Store(Protocol):
    """Where the features of images go: `Pieces`, or memory."""

    def __contains__(self, image: int) -> bool: ...

    def add(self, image: int, table: pa.Table) -> None: ...


class FeatureBuffer:
    """Patches of images on their way through a network in full batches, then into pieces of a table.

    Features do not depend on their neighbours in a batch, so how images are cut into runs and shards does not matter.

    Parameters
    ----------
    network : Network
    dimensions : int
        Of its features.
    pieces : Store
        Where they go.
    """

    def __init__(self, network: Network, dimensions: int, pieces: Store):
        self._network, self._dimensions, self._pieces = network, dimensions, pieces
        self._images: deque[tuple[int, int]] = deque()  # (image, patches) whose features are not complete
        self._places: deque[tuple[int, int, int]] = deque()
        self._pixels: list[np.ndarray] = []
        self._features: list[np.ndarray] = []

    def add(self, image: int, cut: Iterable[Patch]) -> None:
        """Take the patches of an image, unless its features are there already."""
        if image in self._pieces:
            return
        cut = list(cut)
        self._images.append((image, len(cut)))
        self._places.extend((image, top, left) for top, left, _ in cut)
        self._pixels.extend(pixels for *_, pixels in cut)
        self._compute(len(self._pixels) // self._network.batch * self._network.batch)

    def finish(self) -> None:
        """Compute what is left, in a batch that is not full."""
        self._compute(len(self._pixels))

    def _compute(self, count: int) -> None:
        if count:
            self._features.extend(self._network.features(self._pixels[:count]))
            del self._pixels[:count]
        while self._images and self._images[0][1] <= len(self._features):
            image, patch_count = self._images.popleft()
            places = [self._places.popleft() for _ in range(patch_count)]
            columns = [pa.array([place[i] for place in places], pa.int64()) for i in range(3)]
            flat = pa.array(np.concatenate([np.empty(0, np.float32), *self._features[:patch_count]]))
            del self._features[:patch_count]
            column = pa.FixedSizeListArray.from_arrays(flat, self._dimensions)
            self._pieces.add(image, pa.table([*columns, column], schema=schema.features_schema(self._dimensions)))


def describe_originals(session: Session, dataset: Dataset, extractors: Iterable[Extractor]) -> None:
    """Store networks' features of a dataset's originals; each picture is read once.

    Raises
    ------
    UsageError
        The whole set does not give the patches that its card states, or they are of several sizes.
    """
    count, mine = len(dataset.names), session.images(len(dataset.names))
    with ExitStack() as held:
        tables: dict[Path, tuple[Pieces, FeatureBuffer]] = {}
        for extractor in sorted(extractors, key=lambda one: one.key):  # two runs lock them in one order
            path = session.reference(dataset, extractor)
            held.enter_context(session.lock(path.stem))
            if path.exists():
                session.progress.advance(len(mine))
                continue
            columns = schema.features_schema(extractor.dimensions)
            pieces = session.pieces(path.stem, "features", columns, "features", mine)
            network = session.instruments.network(extractor.name)
            tables[path] = pieces, FeatureBuffer(network, extractor.dimensions, pieces)
        _describe(session, dataset, mine, list(tables.values()))
        for path, (pieces, _) in tables.items() if not session.request.shard else ():
            if dataset.expected_patches is not None:
                found = sum(len(batch) for batch in pieces.batches())
                if found != dataset.expected_patches and _all_readable(dataset):
                    raise UsageError(
                        f"dataset {dataset.id}: {found:,} patches where its card says {dataset.expected_patches:,}; "
                        "fetch the images again or fix the card"
                    )
            session.report_conflicts(pieces)
            pieces.merge(path, {**session.environment, "dataset_sha256": dataset.sha256}, FEATURE_ROWS, count)
            finish(session.folder, path.stem)


def _describe(session: Session, dataset: Dataset, mine: range, tables: list[tuple[Pieces, FeatureBuffer]]) -> None:
    try:
        with ExitStack() as flushed:
            for pieces, _ in tables:
                flushed.enter_context(pieces)
            for image in mine:
                if lacking := [buffer for pieces, buffer in tables if image not in pieces]:
                    cut = _readable_patches(dataset, image)
                    for buffer in lacking:
                        buffer.add(image, cut)
                session.progress.advance(len(tables))
            for _, buffer in tables:
                buffer.finish()
    except ValueError as error:  # patches of several sizes
        raise UsageError(f"dataset {dataset.id}: {error}") from None


def _readable_patches(dataset: Dataset, image: int) -> list[Patch]:
    try:
        return patches(dataset.load(image), dataset.protocol)
    except ImageError:  # an error row of every trial, none of which has a distance then
        return []


def _all_readable(dataset: Dataset) -> bool:
    for image in range(len(dataset.names)):
        try:
            dataset.load(image)
        except ImageError:
            return False
    return True
