"""Images -> streams."""

import hashlib
from collections.abc import Set

import pyarrow as pa

from hfdbench.codecs.pool import CodecFailed, Pool, in_order
from hfdbench.errors import ImageError, UsageError
from hfdbench.pipeline.plan import Given, Trial
from hfdbench.pipeline.session import STREAM_ROWS, Session
from hfdbench.results import parquet, schema
from hfdbench.results.work import finish


def encode(session: Session, trial: Trial, again: Set[int], pool: Pool) -> None:
    """Store the streams of a trial.

    Parameters
    ----------
    session : Session
    trial : Trial
    again : set of int
        Images whose stored streams are made again.
    pool : Pool
        Encoders.
    """
    path, count = session.folder.streams(trial.stream_name), len(trial.dataset.names)
    mine = session.images(count)
    with session.lock(trial.stream_key):
        pieces = session.pieces(trial.stream_key, "streams", schema.STREAMS, "stream", mine)
        if path.exists():
            if not again:  # another run that we waited for was faster
                return session.progress.advance(len(mine))
            pieces.take_back(path, count, again)
        missing = pieces.missing(mine)
        session.progress.advance(len(mine) - len(missing))
        with pieces:
            for row in in_order(pool, missing, lambda image: _encode_image(session, trial, image, pool)):
                pieces.add(row["image"], pa.Table.from_pylist([row], schema.STREAMS))
                session.progress.advance()
        if not session.request.shard:
            session.report_conflicts(pieces)
            pieces.merge(path, session.metadata(trial, trial.encoder), STREAM_ROWS, count)
            finish(session.folder, trial.stream_key)


def check_streams(session: Session, trial: Trial) -> None:
    """Check that streams that were made again are those that the stored images were decoded from.

    Raises
    ------
    UsageError
        They are not: the codec or a library has changed, though its key has not.
    """
    path = session.folder.images(trial.name)
    images = parquet.read_table(path, ["name", "stream_sha256"]).to_pylist()
    made = parquet.read_table(session.folder.streams(trial.stream_name), ["stream"])["stream"].to_pylist()
    for image, stream in zip(images, made, strict=True):
        if stream is not None and image["stream_sha256"] not in (None, hashlib.sha256(stream).hexdigest()):
            raise UsageError(
                f"{image['name']} is encoded to another stream than the one that {path} was measured from; the codec or a "
                "library has changed: delete that file and run again"
            )


def _encode_image(session: Session, trial: Trial, index: int, pool: Pool) -> dict:
    """One row of the streams table."""
    if trial.given is not None:
        return _given_row(trial, trial.given, index)
    row = {"image": index, "name": trial.dataset.names[index], "status": "error", **session.place}
    if session.request.give_up:
        return row | {"error": session.request.give_up, "passing": True}
    try:
        image = trial.dataset.load(index)
        row |= {"height": image.shape[0], "width": image.shape[1]}
        ask = {"do": "encode", "shape": image.shape}
        answer, stream = pool.ask(trial.encoder, trial.point, ask, image.data.cast("B"))
        row |= {"stream": stream, "bytes": len(stream), "encode_s": answer["encode_s"], "status": "ok"}
    except (ImageError, CodecFailed) as error:
        row |= failure(error)
    return row


def _given_row(trial: Trial, given: Given, index: int) -> dict:
    """A row of the streams table that somebody else made: of pictures, the sizes of their streams alone are known."""
    row = given.rows[index]
    if row["status"] != "ok":
        return row
    try:
        height, width, _ = trial.dataset.load(index).shape
        row = row | {"width": width, "height": height}
        if given.streams:
            stream = given.files[index].read_bytes()
            row |= {"stream": stream, "bytes": len(stream)}
        return row
    except (ImageError, OSError) as error:
        return row | {"status": "error", **failure(error)}


def failure(error: Exception) -> dict:
    """Columns `error` and `passing` of an image that failed."""
    passing = isinstance(error, CodecFailed) and (
        error.passing or error.type in ("MemoryError", "OSError", "OutOfMemoryError")
    )
    return {"error": str(error), "passing": passing}
