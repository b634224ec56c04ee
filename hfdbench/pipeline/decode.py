"""Streams -> decoded images -> the images table, features and metrics of `--metric`, whichever are missing.

The decoders are given streams alone. A trial whose images are stored already is decoded to the same pixels or not at
all: its new features and metrics must be those of the images that were measured.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from hfdbench.codecs.pool import SHUFFLED, CodecFailed, Pool, in_order
from hfdbench.datasets.image_files import read_image
from hfdbench.errors import ImageError, Unavailable, UsageError
from hfdbench.metrics.distribution.patches import patches
from hfdbench.metrics.image import pixel
from hfdbench.metrics.image.measure import Measure
from hfdbench.pipeline.encode import failure
from hfdbench.pipeline.features import FeatureBuffer, Patch
from hfdbench.pipeline.plan import Trial
from hfdbench.pipeline.select import Need, stored_measures
from hfdbench.pipeline.session import FEATURE_ROWS, IMAGE_ROWS, Session
from hfdbench.results import parquet, schema
from hfdbench.results.work import Pieces, finish


def decode(session: Session, trial: Trial, need: Need, pool: Pool) -> None:
    """Decode the streams of a trial and store what is missing.

    Parameters
    ----------
    session : Session
    trial : Trial
    need : Need
        What is missing.
    pool : Pool
        Decoders.

    Raises
    ------
    UsageError
        A stream decodes to other pixels than those that were measured before.
    """
    with session.lock(trial.trial_key):
        tables = _Tables(session, trial, need)
        mine = session.images(len(trial.dataset.names))
        missing = [image for image in mine if any(image not in pieces for pieces in tables.pieces)]
        session.progress.advance(len(mine) - len(missing))
        stored = {} if tables.images else _stored_pixels(session, trial)

        def one(stream: dict) -> tuple[dict, list[Patch], dict[str, list[dict]]]:
            row, image, original = _measure(session, trial, stream, pool)
            cut = patches(image, trial.dataset.protocol) if tables.buffers and image is not None else []
            values = {name: _values(row, measure, original, image) for name, measure in tables.measures.items()}
            return row, cut, values

        with ExitStack() as stack:
            for pieces in tables.pieces:
                stack.enter_context(pieces)
            for row, cut, values in in_order(pool, _streams(session, trial, set(missing)), one, shuffled=SHUFFLED):
                if not tables.images and stored[row["image"]] != row.get("pixels_sha256"):
                    path = session.folder.images(trial.name)
                    raise UsageError(
                        f"{row['name']} decodes to other pixels than those of {path}; the codec or the machine has "
                        "changed: delete that file and run again"
                    )
                tables.add(row, cut, values)
                session.progress.advance()
            tables.finish_features()
        if not session.request.shard:
            tables.merge()
            finish(session.folder, trial.trial_key)


def samples(session: Session, trial: Trial, pool: Pool) -> bool:
    """Whether the trial's seed gives other pixels than the request's first, tried on the longest stream."""
    mine = set(session.images(len(trial.dataset.names)))
    stream = max(_streams(session, trial, mine), key=lambda row: row["bytes"] or 0, default=None)
    if stream is None or stream["status"] != "ok":
        return True
    pixels = stream["width"] * stream["height"]
    try:
        asks = ({"do": "decode", "seed": seed} for seed in (session.request.seed, trial.seed))
        first, second = (pool.ask(trial.codec, trial.point, ask, stream["stream"], pixels)[1] for ask in asks)
    except CodecFailed:
        return True  # and the trial says how it fails
    return first != second


class _Tables:
    """The unfinished tables of a trial."""

    def __init__(self, session: Session, trial: Trial, need: Need):
        self._session, self._trial = session, trial
        self.measures = {name: session.instruments.measures[name] for name in need.measures}
        folder, key = session.folder, trial.trial_key
        self.images = session.pieces(key, "images", schema.IMAGES, "pixels_sha256") if need.images else None
        self.features: dict[str, Pieces] = {}
        for name, extractor in session.instruments.extractors.items():
            if name in need.features or need.again:
                columns = schema.features_schema(extractor.dimensions)
                self.features[name] = session.pieces(key, f"features-{extractor.key}", columns, "features")
        measured = stored_measures(folder, trial) if need.again else {}
        for name in measured.keys() & session.instruments.measures.keys():
            self.measures[name] = session.instruments.measures[name]
        self.quality = {name: session.pieces(key, f"quality-{name}", schema.QUALITY, "value") for name in self.measures}
        if need.again:
            self._take_back(need)
        self.buffers = {
            name: FeatureBuffer(session.instruments.network(name), session.instruments.extractors[name].dimensions, p)
            for name, p in self.features.items()
        }

    @property
    def pieces(self) -> list[Pieces]:
        return [*([self.images] if self.images else []), *self.features.values(), *self.quality.values()]

    def _take_back(self, need: Need) -> None:
        """Turn the finished tables into pieces without the images that are tried again."""
        folder, trial, count = self._session.folder, self._trial, len(self._trial.dataset.names)
        again = set(need.again)
        for name, pieces in self.features.items():
            path = folder.features(trial.name, self._session.instruments.extractors[name].key)
            if path.exists() and name not in need.features:
                pieces.take_back(path, count, again)
        for path in folder.all_features(trial.name):  # of networks that are not here: they lack the failed images
            if all(path != folder.features(trial.name, e.key) for e in self._session.instruments.extractors.values()):
                path.unlink()
        for name, pieces in self.quality.items():
            path = folder.quality(trial.name, name)
            if path.exists() and name not in need.measures:
                pieces.take_back(path, count, again)
        path = folder.images(trial.name)
        if path.exists() and self.images:
            self.images.take_back(path, count, again)

    def add(self, row: dict, cut: list[Patch], values: dict[str, list[dict]]) -> None:
        """Take what was measured of one image."""
        for name, rows in values.items():
            self.quality[name].add(row["image"], pa.Table.from_pylist(rows, schema.QUALITY))
        if self.images:
            self.images.add(row["image"], pa.Table.from_pylist([row], schema.IMAGES))
        for buffer in self.buffers.values():
            buffer.add(row["image"], cut)

    def finish_features(self) -> None:
        """Compute the features of the patches that wait for a full batch."""
        for buffer in self.buffers.values():
            buffer.finish()

    def merge(self) -> None:
        """Write the finished tables, the images last: they say that the others are there."""
        session, trial, count = self._session, self._trial, len(self._trial.dataset.names)
        for pieces in self.pieces:
            session.report_conflicts(pieces)
        metadata = session.metadata(trial, trial.codec)
        for name, pieces in self.features.items():
            path = session.folder.features(trial.name, session.instruments.extractors[name].key)
            pieces.merge(path, metadata, FEATURE_ROWS, count)
        for name, pieces in self.quality.items():
            identity = {"measure": self.measures[name].identity, "remark": self.measures[name].remark}
            pieces.merge(session.folder.quality(trial.name, name), metadata | identity, IMAGE_ROWS, count)
        if self.images:
            self.images.merge(session.folder.new_images(trial.name), metadata, IMAGE_ROWS, count)


def _stored_pixels(session: Session, trial: Trial) -> dict[int, str | None]:
    rows = parquet.read_table(session.folder.images(trial.name), ["image", "pixels_sha256"]).to_pylist()
    return {row["image"]: row["pixels_sha256"] for row in rows}


def _streams(session: Session, trial: Trial, wanted: set[int]) -> Iterator[dict]:
    """Rows of the streams table of some images, from the finished table or, in a shard, from its pieces."""
    path = session.folder.streams(trial.stream_name)
    if path.exists():
        batches = parquet.read_batches(path, schema.STREAMS)
    else:
        batches = session.pieces(trial.stream_key, "streams", schema.STREAMS, "stream").batches()
    for batch in batches:
        for i, image in enumerate(batch["image"].to_pylist()):
            if image in wanted:
                yield from batch.slice(i, 1).to_pylist()


def _measure(
    session: Session, trial: Trial, stream: dict, pool: Pool
) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
    """One row of the images table, and the decoded image and its original when they can be compared."""
    row: dict[str, Any] = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id}
    row["status"] = "error"
    row |= {
        name: stream[name] for name in ("image", "name", "width", "height", "bytes", "encode_s", "error", "passing")
    }
    pictures = trial.given.files if trial.given and trial.given.pictures else None
    if pictures is None:  # decoded here
        row |= {"seal": session.environment.get("seal"), **session.place}
    if stream["status"] != "ok":
        return row, None, None
    row["pixels"] = pixels = row["width"] * row["height"]
    row["bpp"] = row["bytes"] * 8 / pixels
    if session.request.give_up:
        return row | {"error": session.request.give_up, "passing": True}, None, None
    try:
        if pictures is not None:
            image = read_image(pictures[stream["image"]])
        else:
            row["stream_sha256"] = hashlib.sha256(stream["stream"]).hexdigest()
            ask = {"do": "decode", "seed": trial.seed}
            answer, body = pool.ask(trial.codec, trial.point, ask, stream["stream"], pixels)
            image = np.frombuffer(bytearray(body), np.uint8).reshape(answer["shape"])
            row["decode_s"] = answer["decode_s"]
        original = trial.dataset.load(stream["image"])
    except (ImageError, CodecFailed) as error:
        return row | failure(error), None, None
    if mismatch := pixel.size_mismatch(original, image):
        return row | {"error": mismatch}, None, None
    row |= pixel.compare(original, image) | {"status": "ok"}
    row["pixels_sha256"] = hashlib.sha256(image.data).hexdigest()
    return row, image, original


def _values(row: dict, measure: Measure, original: np.ndarray | None, image: np.ndarray | None) -> list[dict]:
    """Rows of the quality table of one image and one metric: a value, or the reason why there is none."""
    values, error = (None,) * len(measure.columns), row.get("error")
    if image is not None and original is not None:
        try:
            values = measure(original, image)
        except Unavailable as reason:
            error = str(reason)
    head = {name: row[name] for name in ("codec", "point", "dataset", "image", "name")} | {"error": error}
    return [head | {"metric": column, "value": value} for column, value in zip(measure.columns, values, strict=True)]
