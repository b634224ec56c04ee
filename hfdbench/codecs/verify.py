"""Stored streams decoded again: whether a machine still gives the pixels that were measured."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pool import SHUFFLED, CodecFailed, Pool, in_order


@dataclass(frozen=True)
class StoredStream:
    """A stream and what was measured of it; `pixels_sha256` is that of the decoded samples, H x W x 3 bytes."""

    name: str
    stream: bytes
    pixels: int
    pixels_sha256: str


@dataclass(frozen=True)
class Mismatch:
    """A stream that decodes to something else now, and how."""

    name: str
    reason: str


def spread(count: int, wanted: int) -> list[int]:
    """Indices of a sample, evenly spread over `count`, first and last included: the same each time.

    Parameters
    ----------
    count : int
        Of all.
    wanted : int
        Of the sample; all of them when there are no more.
    """
    if wanted >= count:
        return list(range(count))
    if wanted <= 1:
        return list(range(wanted))
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def verify(pool: Pool, card: CodecCard, point: str, seed: int, streams: Iterable[StoredStream]) -> Iterator[Mismatch]:
    """Decode streams again and compare the digests of their pixels.

    Parameters
    ----------
    pool : Pool
        Decoders.
    card, point : CodecCard, str
        What decoded them.
    seed : int
        With which.
    streams : iterable of StoredStream
        What is stored.

    Yields
    ------
    Mismatch
        One for each stream that fails or gives other pixels, in their order.
    """

    def again(stored: StoredStream) -> Mismatch | None:
        try:
            _, pixels = pool.ask(card, point, {"do": "decode", "seed": seed}, stored.stream, stored.pixels)
        except CodecFailed as error:
            return Mismatch(stored.name, str(error))
        found = hashlib.sha256(pixels).hexdigest()
        if found == stored.pixels_sha256:
            return None
        return Mismatch(stored.name, f"other pixels (sha256 {found[:12]}…, stored {stored.pixels_sha256[:12]}…)")

    yield from filter(None, in_order(pool, streams, again, shuffled=SHUFFLED))
