"""A request becomes trials, each with a key that changes when anything changes that could change its numbers.

Conventions: a trial is (codec, point, dataset, seed) on a class of device. stream_key: the identity of the point that
encodes and the dataset's content. trial_key: stream_key, the identity of the point that decodes, seed, class of device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.identity import identity, provide, stream_key, trial_key
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.files import places

if TYPE_CHECKING:
    from hfdbench.datasets.dataset import Dataset


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    points : tuple of str
        Only these point ids; all when empty.
    limit : int, optional
        Only the first images of each dataset.
    timeout_s : float, optional
        Seconds that a call of a codec may take.
    features : tuple of str
        Further feature networks, NAME or NAME=FILE; "none": not even those that are always computed.
    cards : tuple of Path
        Further folders of cards.
    metrics : tuple of str
        Names of metrics to measure besides; "none": not even those that are measured unasked.
    weights : tuple of (str, Path)
        Name of such a metric and its file.
    require_seal : bool
        Refuse to run where codecs cannot be kept in a sandbox.
    retry_failed : bool
        Try every failed image again, not only those whose failure may pass.
    shard : (int, int), optional
        (i, n): do the i-th, from 0, of n parts of every dataset's images, and leave merging to `merge`.
    verify : int
        Decode so many stored streams of every trial again, in fresh processes, and compare the pixels.
    seeds : int
        Decode with so many seeds, from `seed` on, what is not of kind classical; decoders to which the seed makes no
        difference decode once.
    give_up : str
        Why images that are not done become error rows without being tried; empty: they are done.
    """

    codecs: tuple[CodecCard, ...]
    datasets: tuple[str, ...]
    out: Path = Path("results")
    points: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 1
    timeout_s: float | None = None
    inception: Path | None = None
    features: tuple[str, ...] = ()
    data_root: Path | None = None
    cards: tuple[Path, ...] = ()
    dry_run: bool = False
    metrics: tuple[str, ...] = ()
    weights: tuple[tuple[str, Path], ...] = ()
    require_seal: bool = False
    retry_failed: bool = False
    shard: tuple[int, int] | None = None
    verify: int = 0
    seeds: int = 1
    give_up: str = ""


@dataclass(frozen=True)
class Given:
    """What somebody else made of a dataset: decoded pictures and the sizes of their streams, or the streams.

    Attributes
    ----------
    badge : str
        How its results are marked.
    rows : tuple of dict
        Of the streams table, one per image, without the streams themselves.
    files : Mapping of int to Path
        The picture or stream of each image whose row has no error.
    streams : bool
        Whether the files are streams.
    """

    badge: str
    rows: tuple[dict, ...]
    files: Mapping[int, Path]
    streams: bool

    @property
    def pictures(self) -> bool:
        """Whether the files are pictures: nothing is decoded then."""
        return not self.streams


@dataclass(frozen=True, eq=False)
class Trial:
    """One point of one codec on one dataset. `encoder` is the card that makes its streams: often the codec's own.

    given: what takes the place of encoding, and with pictures that of decoding.
    """

    codec: CodecCard
    encoder: CodecCard
    point: str
    dataset: "Dataset"
    seed: int
    device: str
    stream_key: str
    trial_key: str
    given: Given | None = None

    @property
    def stem(self) -> str:
        return f"{self.codec.id}-{self.point}-{self.dataset.id}"

    @property
    def label(self) -> str:
        return self.stem + (f" (seed {self.seed})" if self.seed else "")

    @property
    def name(self) -> str:
        return f"{self.stem}-{self.trial_key}"

    @property
    def stream_name(self) -> str:
        return f"{self.encoder.id}-{self.point}-{self.dataset.id}-{self.stream_key}"


@dataclass(frozen=True)
class Plan:
    """Trials in the order asked for, and those left out: (label, reason)."""

    trials: tuple[Trial, ...]
    skipped: tuple[tuple[str, str], ...]


def part_of(images: int, index: int, count: int) -> range:
    """The images of part `index` of so many: what `--shard` cuts."""
    return range(images * index // count, images * (index + 1) // count)


def asked_dataset(spec: str, request: Request) -> "Dataset":
    """Open a dataset that a request names. Raises UsageError when it is not here."""
    from hfdbench.datasets.dataset import open_dataset

    root = places.data_root(request.data_root)
    try:
        return open_dataset(spec, cards=request.cards, data_root=root, limit=request.limit)
    except Unavailable as error:
        raise UsageError(str(error) if spec in str(error) else f"dataset {spec}: {error}") from None


def make_plan(request: Request) -> Plan:
    """Check the request and list its trials. Raises UsageError for anything wrong that can be known beforehand."""
    if request.workers < 1:
        raise UsageError(f"--workers {request.workers}: must be at least 1")
    if request.timeout_s is not None and not request.timeout_s > 0:
        raise UsageError(f"--timeout-s {request.timeout_s:g}: must be above 0; 600 lets one image take ten minutes")
    if request.shard and not 0 <= request.shard[0] < request.shard[1]:
        raise UsageError(f"--shard {request.shard[0]}/{request.shard[1]}: must be I/N, with I from 0 to N - 1")
    if request.seeds < 1:
        raise UsageError(f"--seeds {request.seeds}: must be at least 1")
    if request.shard and request.verify:
        raise UsageError("--verify with --shard: a shard's images lie in pieces; verify after hfdbench merge")
    if not request.codecs or not request.datasets:
        raise UsageError("nothing to run; give --codec and --dataset")
    device = request.device.split(":")[0]
    if device not in ("cpu", "cuda"):
        raise unknown("device", request.device, ("cpu", "cuda"))
    known = {point.id for card in request.codecs for point in card.points}
    for point in request.points:
        if point not in known:
            raise unknown("point", point, known)
    datasets = [asked_dataset(spec, request) for spec in dict.fromkeys(request.datasets)]
    every = find_cards(CodecCard, request.cards) if any(card.streams for card in request.codecs) else {}
    trials, skipped = [], []
    for card in {card.id: card for card in request.codecs}.values():
        encoder = every[card.streams] if card.streams else card
        if request.points and not any(point.id in request.points for point in card.points):
            skipped.append((card.id, f"has no point {' or '.join(request.points)}"))
        for point in card.points:
            if request.points and point.id not in request.points:
                continue
            wanted = []
            for dataset in datasets:
                reason = card.skipped(point.id, parse_id(dataset.id).base)  # a skip holds for subsets too
                if reason is None:
                    wanted.append(dataset)
                else:
                    skipped.append((f"{card.id}-{point.id}-{dataset.id}", reason))
            if not wanted:
                continue
            try:
                for needed in (encoder, card):
                    provide(needed, point.id)
                encodes, decodes = identity(encoder, point.id), identity(card, point.id)
            except Unavailable as error:
                skipped.extend((f"{card.id}-{point.id}-{dataset.id}", str(error)) for dataset in wanted)
                continue
            for dataset in wanted:
                streams = stream_key(encodes, dataset.sha256)
                for seed in range(request.seed, request.seed + (1 if card.kind == "classical" else request.seeds)):
                    pixels = trial_key(streams, decodes, seed, device)
                    trials.append(Trial(card, encoder, point.id, dataset, seed, request.device, streams, pixels))
    return Plan(tuple(trials), tuple(skipped))
