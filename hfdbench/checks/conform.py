"""The conformance kit: one screen that tells the author of a codec what holds.

Every check ends as pass, FAIL, skip (it does not apply, with the reason) or info. Codecs run in the pipeline's worker
processes, here with a home folder of their own, too; encoders are dead and their folders gone before a decoder starts.

Conventions
    seed       0, by default; images are uint8, H x W x 3.
    damage     A truncated, empty or foreign stream must raise StreamError: its length betrays it. A stream with one bit
               flipped may raise StreamError or decode to any picture, because no rule asks a codec to spend bits on a
               checksum; another exception, a dead process or one that hangs fails, since streams are untrusted.
    side file  Python's audit hooks name every file that is written outside the process's own folder and every younger
               one that is read. Writes of C libraries and of other programs are not seen; the bound sees their use.
    bound      A mosaic of n random values, normal with deviation s, holds n values whatever the size of its tiles. B bytes
               of it cannot be decoded with an error below mse = s^2 2^(-16 B / n) on average, by any codec (Cover &
               Thomas, "Elements of Information Theory", 2006, theorem 10.3.2). A decoder that does better has the image
               from elsewhere: memory, a file, the network. One level is granted for rounding and clipping, a fifth
               for the luck of one image (6 deviations of its variance).
It closes honest mistakes and the usual tricks. It is no sandbox.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.identity import batch
from hfdbench.codecs.pool import CodecFailed, Pool
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places

ODD = ((1, 97), (97, 1), (255, 257))
NATURAL = ((180, 236), (180, 236))
FLIPS, CUTS = 24, (0.02, 0.3, 0.7, 0.95)
FOREIGN = (b"", b"\0", b"not a stream of any codec", bytes(4096))
DRIFT, CHART_DRIFT = 2.0, 4.0  # grey levels that a mean colour may move: of a photograph, of flat patches
MOSAIC, TILE, DEVIATION = 24, 4, 45.0  # tiles a side, pixels a side of a tile, grey levels
TINT = {"classical": 8, "autoencoder": 12}  # mean spread of the channels of a grey image; others: 25
Verdict = Literal["pass", "FAIL", "skip", "info"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    verdict: Verdict
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.name:17}  {self.reason}"


class Broken(Exception):
    """A check failed: the reason."""


class Inapplicable(Exception):
    """A check does not apply: the reason."""


def conform(
    card: CodecCard,
    point: str,
    *,
    encoder: CodecCard | None = None,
    device: str = "cpu",
    timeout_s: float = 120.0,
    memory_gib: float = 4.0,
    megapixels: float = 2.0,
) -> Iterator[Finding]:
    """Check one point of a codec. `encoder`: the card that makes its streams, when that is another.

    Raises Unavailable when the codec does not work here, UsageError when its card is wrong.
    """
    kit = _Kit(card, point, encoder or card, device, timeout_s, memory_gib, megapixels)
    kit.encode()
    kit.decode()
    try:
        for name, check in kit.checks():
            try:
                verdict, reason = "pass", check()
                if name in ("seeds", "rate"):
                    verdict = "info"
            except Broken as broken:
                verdict, reason = "FAIL", str(broken)
            except Inapplicable as inapplicable:
                verdict, reason = "skip", str(inapplicable)
            yield Finding(name, verdict, " ".join(reason.split()))
    finally:
        kit.pool.close()


class _Kit:
    """Everything that is coded once and looked at by several checks. An answer of a codec is kept as it came, errors too."""

    def __init__(self, card, point, encoder, device, timeout_s, memory_gib, megapixels):
        self.card, self.point, self.encoder, self.device = card, point, encoder, device
        self.timeout_s, self.memory_gib = timeout_s, memory_gib
        self.began = time.time()
        self.images = _images(megapixels)
        self.hidden = (places.data_root(), Path("results").absolute(), *open_dataset("samples").paths)
        self.streams: dict[str, bytes | CodecFailed] = {}
        self.again: dict[str, bytes | CodecFailed] = {}  # in another process and order
        self.here: dict[str, np.ndarray | CodecFailed] = {}  # decoded where they were encoded
        self.decoded: dict[str, np.ndarray | CodecFailed] = {}  # in a clean process
        self.once_more: dict[str, np.ndarray | CodecFailed] = {}  # in another one, in another order
        self.touched: list[str] = []
        self.peak_bytes = 0
        self.pool = self._pool("decoder")

    def _pool(self, role: str) -> Pool:
        return Pool(role, 1, self.device, self.timeout_s, self.began, hidden=self.hidden, retries=0)

    def _encode(self, pool: Pool, name: str) -> bytes | CodecFailed:
        image = self.images[name]
        try:
            ask = {"do": "encode", "shape": image.shape}
            return pool.ask(self.encoder, self.point, ask, image.data.cast("B"))[1]
        except CodecFailed as error:
            return error

    def _decode(self, pool: Pool, stream: bytes | CodecFailed, seed: int = 0) -> np.ndarray | CodecFailed:
        if isinstance(stream, CodecFailed):
            return stream
        try:
            answer, body = pool.ask(self.card, self.point, {"do": "decode", "seed": seed}, stream)
            return np.frombuffer(body, np.uint8).reshape(answer["shape"])
        except CodecFailed as error:
            return error

    def _usage(self, pool: Pool, card: CodecCard) -> dict:
        usage, _ = pool.ask(card, self.point, {"do": "usage"})
        self.touched += [path for path in usage["touched"] if path not in self.touched]
        return usage

    def _build(self, pool: Pool, card: CodecCard) -> None:
        try:
            pool.ask(card, self.point, {})
        except CodecFailed as error:
            if error.type == "Unavailable":
                raise Unavailable(f"{card.id}: {error.message}") from None
            raise UsageError(f"{card.id} cannot be built, in an empty home folder: {error}") from None

    def encode(self) -> None:
        with self._pool("encoder") as pool:
            self._build(pool, self.encoder)
            for name in self.images:
                self.streams[name] = self._encode(pool, name)
            self._usage(pool, self.encoder)
            if self.encoder is self.card:
                self.here = {name: self._decode(pool, self.streams[name]) for name in ("natural", "other")}
        with self._pool("encoder") as pool:
            for name in ("other", "grey", "natural"):
                self.again[name] = self._encode(pool, name)

    def decode(self) -> None:
        with self._pool("decoder") as pool:
            self._build(pool, self.card)
            for name in self.images:  # the large one is the last
                self.decoded[name] = self._decode(pool, self.streams[name])
            self.peak_bytes = self._usage(pool, self.card)["peak_bytes"]
        for name in ("other", "natural"):
            self.once_more[name] = self._decode(self.pool, self.streams[name])

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("1x1", self.one_pixel),
            ("odd sizes", self.odd_sizes),
            ("grey", self.grey),
            ("colour drift", self.colour_drift),
            ("same stream", self.same_stream),
            ("same pixels", self.same_pixels),
            ("seeds", self.seeds),
            ("batch invariance", self.batches),
            ("truncated", self.truncated),
            ("flipped bits", self.flipped),
            ("sealed decode", self.sealed),
            ("side files", self.side_files),
            ("bound", self.bound),
            ("rate", self.rate),
            ("memory", self.memory),
        ]

    # ---- what it codes

    def one_pixel(self) -> str:
        self._shape("1x1")
        return f"{len(self._stream('1x1'))} bytes"

    def odd_sizes(self) -> str:
        names = [f"{height}x{width}" for height, width in ODD]
        for name in names:
            self._shape(name)
        return ", ".join(f"{name} in {len(self._stream(name))} bytes" for name in names)

    def _shape(self, name: str) -> None:
        stream = self.streams[name]
        if isinstance(stream, CodecFailed) and stream.type == "CodecError":
            raise Inapplicable(f"refuses {name}: {stream.message}")
        decoded, wanted = self._picture(name), self.images[name].shape
        if decoded.shape != wanted:
            raise Broken(f"{name} (height x width) decodes to {decoded.shape[0]}x{decoded.shape[1]}")

    def _picture(self, name: str) -> np.ndarray:
        self._stream(name)
        picture = self.decoded[name]
        if isinstance(picture, CodecFailed):
            raise Broken(f"decode of {name}: {picture}")
        return picture

    def _stream(self, name: str) -> bytes:
        stream = self.streams[name]
        if isinstance(stream, CodecFailed):
            raise Broken(f"encode of {name}: {stream}")
        return stream

    def grey(self) -> str:
        spread = np.ptp(self._picture("grey").astype(float), axis=2).mean()
        limit = TINT.get(self.card.kind, 25)
        found = f"channels {spread:.2f} levels apart on average, {limit} allowed"
        return found if spread <= limit else _broken(found)

    def colour_drift(self) -> str:
        found, fails = [], False
        for name, title, limit in (("natural", "photograph", DRIFT), ("chart", "flat patches", CHART_DRIFT)):
            drift = self._picture(name).mean((0, 1)) - self.images[name].mean((0, 1))
            found.append(f"{title} {', '.join(f'{x:+.2f}' for x in drift)} of {limit:g} levels")
            fails |= bool(np.abs(drift).max() > limit)
        return _broken("; ".join(found)) if fails else "; ".join(found)

    # ---- what it repeats

    def same_stream(self) -> str:
        if self.encoder is not self.card:
            raise Inapplicable(f"never encodes: decodes the streams of {self.encoder.id}")
        for name, stream in self.again.items():
            self._picture(name)
            if stream != self.streams[name]:
                raise Broken(
                    "another process and another order of images gave another stream: encode keeps state or draws"
                )
        return "another process, another order of images: equal bytes"

    def same_pixels(self) -> str:
        for name, picture in self.once_more.items():
            if not _equal(self._picture(name), picture):
                raise Broken("another process and another order of streams gave other pixels at the same seed")
        return "another process, another order of streams: equal pixels"

    def seeds(self) -> str:
        first = self._picture("natural")
        other = self._decode(self.pool, self.streams["natural"], seed=1)
        if isinstance(other, CodecFailed):
            raise Broken(f"seed 1: {other}")
        if np.array_equal(first, other):
            return "the seed makes no difference"
        return f"another seed moves a sample by {np.abs(first.astype(float) - other).mean():.2f} levels on average"

    def batches(self) -> str:
        if not self._usage(self.pool, self.card)["batched"]:
            if batch(self.card) > 1:
                raise Broken("declares a batch and has no decode_batch")
            raise Inapplicable("has no decode_batch")
        names = ["natural", "other", "natural"]
        alone = [self._picture(name) for name in names]
        streams = [self._stream(name) for name in names]
        ask = {"do": "decode_batch", "seed": 0, "lengths": [len(stream) for stream in streams]}
        try:
            answer, body = self.pool.ask(self.card, self.point, ask, b"".join(streams))
        except CodecFailed as error:
            raise Broken(f"decode_batch: {error}") from None
        if [tuple(shape) for shape in answer["shapes"]] != [picture.shape for picture in alone] or body != b"".join(
            picture.tobytes() for picture in alone
        ):
            raise Broken("decode_batch gives other pixels than decode")
        return "three streams at once: pixels of each alone"

    # ---- what it withstands

    def truncated(self) -> str:
        stream = self._valid_stream()
        cut = [(f"the first {share:.0%}", stream[: int(len(stream) * share)]) for share in CUTS]
        cut.append(("all but one byte", stream[:-1]))
        for what, short in [*cut, *((f"foreign bytes ({len(f)})", f) for f in FOREIGN)]:
            answer = self._decode(self.pool, short)
            if not isinstance(answer, CodecFailed):
                raise Broken(f"{what}: decoded to a picture; refuse it with StreamError")
            if answer.type != "StreamError":
                raise Broken(f"{what}: {answer}; raise StreamError")
        return f"{len(cut)} cuts and {len(FOREIGN)} foreign streams refused"

    def flipped(self) -> str:
        stream, refused = self._valid_stream(), 0
        for number, at in enumerate(np.linspace(0, len(stream) - 1, FLIPS).astype(int)):
            damaged = bytearray(stream)
            damaged[at] ^= 1 << number % 8
            answer = self._decode(self.pool, bytes(damaged))
            if isinstance(answer, CodecFailed) and answer.type != "StreamError":
                raise Broken(f"bit {number % 8} of byte {at}: {answer}; raise StreamError")
            refused += isinstance(answer, CodecFailed)
        return f"{FLIPS} streams: {refused} refused, {FLIPS - refused} decoded to some picture"

    def _valid_stream(self) -> bytes:
        self._picture("natural")  # it decodes
        return self._stream("natural")

    # ---- whether it is honest

    def sealed(self) -> str:
        for name, other in (("natural", "other"), ("other", "natural")):
            here = self.here.get(name)
            if isinstance(here, np.ndarray) and isinstance(self.decoded[name], CodecFailed):
                raise Broken(f"decodes beside its encoder, but not in a clean process: {self.decoded[name]}")
            picture = self._picture(name)
            own, foreign = _mse(picture, self.images[name]), _mse(picture, self.images[other])
            if not own < foreign:
                raise Broken("decodes to another image than the one that was coded: the stream does not say which")
            stable = _equal(picture, self.once_more[name])
            if here is not None and stable and not _equal(here, picture):
                raise Broken("other pixels beside its encoder than in a clean process: it knows more there")
        beside = "as beside the encoder" if self.here else "of streams of another process"
        return f"clean process, home, folders; encoder gone: pixels {beside}"

    def side_files(self) -> str:
        self._usage(self.pool, self.card)
        if self.touched:
            more = f" and {len(self.touched) - 2} more" if len(self.touched) > 2 else ""
            raise Broken(f"{', '.join(self.touched[:2])}{more}: a decoder may use its stream alone")
        return "nothing written outside its own folder, nothing young read"

    def bound(self) -> str:
        mse, values = _mse(self._picture("mosaic"), self.images["mosaic"]), 3 * MOSAIC**2
        stream_bytes = len(self._stream("mosaic"))
        least = 0.8 * max(0.0, DEVIATION * 2 ** (-8 * stream_bytes / values) - 1) ** 2
        found = f"{values} random values in {stream_bytes} bytes: mse {mse:.1f}, possible from {least:.1f} on"
        return found if mse >= least else _broken(f"{found}; the decoder has the image from elsewhere")

    def rate(self) -> str:
        for name in ("chart", "natural", "mosaic"):
            self._picture(name)  # it decodes
        sizes = {name: len(self._stream(name)) for name in ("chart", "natural", "mosaic")}
        if len({self._stream(name) for name in ("natural", "other", "chart", "mosaic")}) < 4:
            raise Broken("different images have the same stream")
        return ", ".join(f"{name} {8 * size / self.images[name][..., 0].size:.3f} bpp" for name, size in sizes.items())

    def memory(self) -> str:
        large = self.images["large"]
        pixels = f"{large.shape[0] * large.shape[1] / 1e6:.1f} megapixels"
        for answer in (self.streams["large"], self.decoded["large"]):
            if isinstance(answer, CodecFailed) and "--timeout-s" in answer.message:
                raise Inapplicable(f"{pixels}: {answer.message}")
        self._picture("large")
        found = f"{pixels} decoded with a peak of {self.peak_bytes / 2**30:.2f} GiB, {self.memory_gib:g} allowed"
        return found if self.peak_bytes <= self.memory_gib * 2**30 else _broken(found)


def _broken(reason: str) -> str:
    raise Broken(reason)


def _equal(a, b) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a.astype(float) - b) ** 2).mean()) if a.shape == b.shape else math.inf


@cache
def _images(megapixels: float) -> dict[str, np.ndarray]:
    """What is coded, by name: photographs at awkward sizes, grey, flat patches, random tiles; the large one last."""
    photographs = open_dataset("samples")
    load = {photographs.names[i].partition(".")[0]: i for i in range(len(photographs.names))}
    coffee, chelsea = (photographs.load(load[name]) for name in ("coffee", "chelsea"))
    (height, width), _ = NATURAL
    natural, other = coffee[60 : 60 + height, 150 : 150 + width], chelsea[40 : 40 + height, 90 : 90 + width]
    rng = np.random.default_rng(0)
    images = {f"{h}x{w}": coffee[100 : 100 + h, 200 : 200 + w] for h, w in ((1, 1), *ODD)}
    images |= {"natural": natural, "other": other, "grey": natural[..., 1:2].repeat(3, 2)}
    images["chart"] = rng.integers(16, 240, (6, 6, 3)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
    mosaic = rng.normal(128, DEVIATION, (MOSAIC, MOSAIC, 3)).round().clip(0, 255)
    images["mosaic"] = mosaic.repeat(TILE, 0).repeat(TILE, 1).astype(np.uint8)
    wide = round(math.sqrt(megapixels * 1e6 * 4 / 3))
    copies = -(-wide // min(coffee.shape[:2]))
    images["large"] = np.tile(coffee, (copies, copies, 1))[: wide * 3 // 4, :wide]
    return {name: np.ascontiguousarray(image) for name, image in images.items()}
