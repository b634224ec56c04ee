"""The pictures of the page: decoded again from the stored streams, checked against what was measured, as small WebP files.

Conventions: a picture is uint8, H x W x 3, sRGB. What took the decoder longer than SLOW_S is kept, lossless, as
out/cache/pictures/<trial key>/<image>.png and not decoded twice. A point's pictures are those of the first images of the
dataset. `differs` counts pictures whose sha256 is not that of the measured ones: the page says so.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hfdbench.analysis.curves import PIXELS
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import load_codec
from hfdbench.datasets.dataset import Dataset, open_dataset
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import ImageError, StreamError, Unavailable, UsageError
from hfdbench.files.atomic import replacing
from hfdbench.results.parquet import read_batches
from hfdbench.results.stored import StoredTrial

SLOW_S = 0.1


@dataclass(frozen=True)
class Pictures:
    """WebP files of one point (or of the originals) by number of the image; `reason` says why there are none.

    loss_db: PSNR of the WebP files against the pictures they show, of the pooled error.
    """

    webp: Mapping[int, bytes]
    differs: int = 0
    loss_db: float | None = None
    reason: str = ""

    @property
    def bytes(self) -> int:
        return sum(map(len, self.webp.values()))


def originals(
    dataset_id: str, sha256: str, data_root: Path | None, cards: Sequence[Path], folders: Iterable[str]
) -> Dataset:
    """The measured dataset, whose pictures are available. Raises Unavailable when they are not, or are others.

    folders: "folder:PATH" of datasets that have no card.
    """
    name, limit = parse_id(dataset_id)
    try:
        found = [open_dataset(spec, limit=limit) for spec in folders if name.startswith("folder-")]
        dataset = next((one for one in found if one.id == dataset_id), None)
        if dataset is None and name.startswith("folder-"):
            raise Unavailable(f"the pictures of {dataset_id} are not named", "hfdbench report --dataset folder:PATH")
        dataset = dataset or open_dataset(name, cards=cards, data_root=data_root, limit=limit)
    except UsageError as error:
        raise Unavailable(str(error)) from None
    if dataset.sha256 != sha256:
        raise Unavailable(f"the pictures of {dataset_id} here are not those that were measured")
    return dataset


def embed(pictures: Iterable[tuple[int, np.ndarray]], quality: int, differs: Callable[[], int] = lambda: 0) -> Pictures:
    """Pictures as WebP of a quality."""
    webp, error, samples = {}, 0.0, 0
    for number, picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "WEBP", quality=quality, method=4)
        webp[number] = file.getvalue()
        shown = np.asarray(Image.open(file).convert("RGB"), np.int32)
        error, samples = error + float(np.square(shown - picture, dtype=np.int64).sum()), samples + picture.size
    loss_db = 10 * math.log10(255**2 * samples / error) if error else None
    return Pictures(webp, differs(), loss_db)


def load_originals(dataset: Dataset, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first pictures of a dataset that can be read."""
    for number in range(min(count, len(dataset))):
        try:
            yield number, dataset.load(number)
        except ImageError:
            continue


def decoded(
    trial: StoredTrial, card: CodecCard | None, count: int, quality: int, advance: Callable[[], None]
) -> Pictures:
    """Decode the streams of a point anew and embed them; without pictures, says why."""
    try:
        if str(trial.row["badge"] or "").startswith(PIXELS):
            raise Unavailable("its pixels are its author's, and not stored here")
        if card is None:
            raise Unavailable(f"no card of {trial.row['codec']} is here; give its folder with --cards")
        decoder = Decoder(trial, card, count, advance)
        return embed(decoder, quality, lambda: decoder.differs)
    except Exception as error:  # a codec may raise anything: its point goes without pictures, the page is still made
        return Pictures({}, reason=str(error) or type(error).__name__)


class Decoder:
    """The decoded pictures of a point, from the cache where they are there."""

    def __init__(self, trial: StoredTrial, card: CodecCard, count: int, advance: Callable[[], None]):
        self._trial, self._card, self._row, self._count, self._advance = trial, card, trial.row, count, advance
        self._folder = trial.results.folder
        self._streams = self._folder.streams_of_key(trial.stream_key)
        columns = ["image", "pixels_sha256", "decode_s", "status"]
        self._measured = {row["image"]: row for row in trial.read_images(columns).to_pylist()}
        self._codec = None
        self.differs = 0

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._streams is None:
            raise Unavailable("its streams are not stored here")
        for batch in read_batches(self._streams):
            for stream in batch.to_pylist():
                measured = self._measured.get(stream["image"])
                if stream["image"] >= self._count:
                    return
                if measured is not None and measured["status"] == "ok":
                    picture = self._one(stream, measured)
                    self.differs += hashlib.sha256(picture.tobytes()).hexdigest() != measured["pixels_sha256"]
                    yield stream["image"], picture
                self._advance()

    def _one(self, stream: dict, measured: dict) -> np.ndarray:
        kept = self._folder.picture(self._trial.key, stream["image"])
        if kept.exists():
            with Image.open(kept) as file:
                return np.asarray(file)
        if self._codec is None:
            self._codec = load_codec(self._card, self._row["point"], _device(self._row["device"]))
        picture = np.ascontiguousarray(self._codec.decode(stream["stream"], seed=self._row["seed"]))
        if picture.shape != (stream["height"], stream["width"], 3):
            raise StreamError(f"{stream['name']} decodes to shape {picture.shape}")
        if measured["decode_s"] > SLOW_S:
            with replacing(kept) as temporary:
                Image.fromarray(picture).save(temporary, "PNG", compress_level=3)
        return picture


def _device(measured_on: str) -> str:
    if measured_on != "cuda":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def worth_showing(rates: Mapping[str, Sequence[float]], limit: int | None = None) -> list[tuple[str, int]]:
    """(codec, index of its rate) of every point in the order in which pictures are worth their bytes.

    Codecs are compared at equal rates: first come, rate by rate, the points nearest to rates spread evenly, in the
    logarithm, over what all codecs reach, then the others, from the middle of that range outwards. limit: points per codec.
    """
    if not rates:
        return []
    low, high = max(min(r) for r in rates.values()), min(max(r) for r in rates.values())
    low, high = math.log(min(low, high)), math.log(max(low, high))
    middle = (low + high) / 2
    targets = [middle, low, high, (low + middle) / 2, (middle + high) / 2]
    chosen: list[tuple[str, int]] = []
    for target in targets[:limit]:
        for codec, values in rates.items():
            nearest = min(range(len(values)), key=lambda i: abs(math.log(values[i]) - target))
            if (codec, nearest) not in chosen:
                chosen.append((codec, nearest))
    rest = [(codec, i) for codec, values in rates.items() for i in range(len(values)) if (codec, i) not in chosen]
    rest.sort(key=lambda one: abs(math.log(rates[one[0]][one[1]]) - middle))
    order = chosen + rest
    if limit is None:
        return order
    spent: dict[str, int] = {}
    kept = []
    for codec, i in order:
        spent[codec] = spent.get(codec, 0) + 1
        if spent[codec] <= limit:
            kept.append((codec, i))
    return kept
