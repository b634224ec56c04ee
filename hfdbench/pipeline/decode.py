"""Streams -> decoded images -> the images table, features and metrics of `--metric`, whichever are missing.

The decoders are given streams alone: one at a time or, where a codec declares a batch, those of several pictures of one
size; in an order by chance. A trial whose images are stored already is decoded to the same pixels or not at all: its new
features and metrics must be those of the images that were measured.
"""

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hfdbench.codecs import identity
from hfdbench.codecs.pool import SHUFFLED, CodecFailed, Pool, in_order
from hfdbench.codecs.worker import PEAKS
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

BATCH_PIXELS = 1 << 23  # of all pictures of a batch, unless one alone has more
_Measured = tuple[dict, list[Patch], dict[str, list[dict]]]  # a row of images, patches, rows of quality
_Answer = tuple[dict, np.ndarray] | CodecFailed | ImageError | None  # columns and image


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

        def some(streams: list[dict]) -> list[_Measured]:
            answers = _answers(session, trial, streams, pool)
            return [one(stream, answer) for stream, answer in zip(streams, answers, strict=True)]

        def one(stream: dict, answer: _Answer) -> _Measured:
            row, image, original = _measure(session, trial, stream, answer)
            cut = patches(image, trial.dataset.protocol) if tables.buffers and image is not None else []
            values = {name: _values(row, measure, original, image) for name, measure in tables.measures.items()}
            return row, cut, values

        with ExitStack() as stack:
            for pieces in tables.pieces:
                stack.enter_context(pieces)
            alone = session.request.give_up or _pictures(trial) is not None
            most = 1 if alone else identity.batch(trial.codec)
            groups = _groups(_streams(session, trial, set(missing)), most)
            measured = in_order(pool, groups, some, shuffled=max(1, SHUFFLED // most))
            for row, cut, values in _sorted(measured, missing):
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
        mine = session.images(len(trial.dataset.names))
        self.images = session.pieces(key, "images", schema.IMAGES, "pixels_sha256", mine) if need.images else None
        self.features: dict[str, Pieces] = {}
        for name, extractor in session.instruments.extractors.items():
            if name in need.features or need.again:
                columns = schema.features_schema(extractor.dimensions)
                self.features[name] = session.pieces(key, f"features-{extractor.key}", columns, "features", mine)
        measured = stored_measures(folder, trial) if need.again else {}
        for name in measured.keys() & session.instruments.measures.keys():
            self.measures[name] = session.instruments.measures[name]
        self.quality = {
            name: session.pieces(key, f"quality-{name}", schema.QUALITY, "value", mine) for name in self.measures
        }
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
    if not wanted:
        return
    path, span = session.folder.streams(trial.stream_name), range(min(wanted), max(wanted) + 1)
    if path.exists():
        batches = parquet.read_batches(path, schema.STREAMS, span)
    else:
        batches = session.pieces(trial.stream_key, "streams", schema.STREAMS, "stream", span).batches()
    for batch in batches:
        for i, image in enumerate(batch["image"].to_pylist()):
            if image in wanted:
                yield from batch.slice(i, 1).to_pylist()


def _groups(streams: Iterable[dict], most: int) -> Iterator[list[dict]]:
    """Streams that the decoder is given at once: of pictures of one size, among SHUFFLED that follow one another."""
    streams = iter(streams)
    while some := list(islice(streams, SHUFFLED if most > 1 else 1)):
        alike: dict[tuple, list[dict]] = {}
        for stream in some:
            alone = stream["image"] if stream["status"] != "ok" else None
            alike.setdefault((alone, stream["width"], stream["height"]), []).append(stream)
        for group in alike.values():
            count = 1 if len(group) == 1 else max(1, min(most, BATCH_PIXELS // _pixels(group[0])))
            yield from (group[first : first + count] for first in range(0, len(group), count))


def _sorted(groups: Iterable[list[_Measured]], images: list[int]) -> Iterator[_Measured]:
    """What was measured in the order of the images, as soon as it is there."""
    waiting, wanted = {}, iter(images)
    image = next(wanted, None)
    for group in groups:
        waiting |= {measured[0]["image"]: measured for measured in group}
        while image in waiting:
            yield waiting.pop(image)
            image = next(wanted, None)
    yield from (waiting[left] for left in sorted(waiting))  # of a table that lacks others


def _pictures(trial: Trial) -> Mapping[int, Path] | None:
    """Files of pictures that somebody else decoded."""
    return trial.given.files if trial.given and trial.given.pictures else None


def _answers(session: Session, trial: Trial, streams: list[dict], pool: Pool) -> Iterator[_Answer]:
    """What becomes of each stream, asked for when it is used; None for one that is not there.

    A batch that fails is decoded stream by stream: only what is to blame becomes an error.
    """
    if len(streams) > 1:
        with suppress(CodecFailed):
            yield from _batch(trial, streams, pool)
            return
    pictures = _pictures(trial)
    for stream in streams:
        try:
            if stream["status"] != "ok":
                yield None
            elif session.request.give_up:
                yield CodecFailed(session.request.give_up, passing=True)
            elif pictures is not None:
                yield {}, read_image(pictures[stream["image"]])
            else:
                ask = {"do": "decode", "seed": trial.seed}
                answer, body = pool.ask(trial.codec, trial.point, ask, stream["stream"], _pixels(stream))
                yield _columns(answer, 1, 1), np.frombuffer(bytearray(body), np.uint8).reshape(answer["shape"])
        except (ImageError, CodecFailed) as error:
            yield error


def _batch(trial: Trial, streams: list[dict], pool: Pool) -> list[_Answer]:
    """Images of several streams, which the decoder is given in an order by chance; its time is divided by pixels."""
    order = random.SystemRandom().sample(range(len(streams)), len(streams))
    given = [streams[number]["stream"] for number in order]
    ask = {"do": "decode_batch", "seed": trial.seed, "lengths": [len(stream) for stream in given]}
    pixels = sum(map(_pixels, streams))
    answer, body = pool.ask(trial.codec, trial.point, ask, b"".join(given), pixels, retries=0)
    found: dict[int, _Answer] = {}
    start = 0
    for number, shape in zip(order, answer["shapes"], strict=True):
        end = start + math.prod(shape)
        columns = _columns(answer, len(streams), _pixels(streams[number]) / pixels)
        found[number] = columns, np.frombuffer(bytearray(body[start:end]), np.uint8).reshape(shape)
        start = end
    return [found[number] for number in range(len(streams))]


def _columns(answer: dict, count: int, share: float) -> dict[str, Any]:
    """Columns of the images table that an answer to `count` streams says: this one's share of the time, the memory of all."""
    return {"decode_s": answer["decode_s"] * share, "batch": count, **{name: answer[name] for name in PEAKS}}


def _pixels(stream: dict) -> int:
    return stream["width"] * stream["height"]


def _measure(
    session: Session, trial: Trial, stream: dict, answer: _Answer
) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
    """One row of the images table, and the decoded image and its original when they can be compared."""
    row: dict[str, Any] = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id}
    row["status"] = "error"
    row |= {
        name: stream[name] for name in ("image", "name", "width", "height", "bytes", "encode_s", "error", "passing")
    }
    row["encoded_on"] = stream["device_name"]
    if _pictures(trial) is None:  # decoded here
        row |= {"seal": session.environment.get("seal"), **session.place}
    if answer is None:
        return row, None, None
    row["pixels"] = _pixels(stream)
    row["bpp"] = row["bytes"] * 8 / row["pixels"]
    if stream["stream"] is not None and not session.request.give_up:
        row["stream_sha256"] = hashlib.sha256(stream["stream"]).hexdigest()
    try:
        if isinstance(answer, Exception):
            raise answer
        columns, image = answer
        row |= columns
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
