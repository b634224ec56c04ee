"""Matched rates: the settings at which a classical codec spends as many bytes on a dataset as another codec's points do.

Conventions: the setting is the one numeric option in which the points of the codec's card differ, within their range. Whole
numbers stay whole: where none comes within the tolerance, a share of the images takes the next one (`adapters.mixed`). The
answer is a card of its own, out/matched/codecs/<codec>-as-<other>-<dataset>.toml, whose points bear the other's ids and are
measured like any: `hfdbench run --cards out/matched`. The bytes of every encode of the search are kept image by image in
out/cache/bytes-<stream key>.jsonl; those of stored streams are read from there.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from hfdbench.cards.schema import CodecCard, Point
from hfdbench.codecs.identity import identity, provide, stream_key
from hfdbench.codecs.mixed import fraction
from hfdbench.codecs.pool import CodecFailed, Pool, in_order
from hfdbench.datasets.dataset import Dataset, open_dataset
from hfdbench.errors import ImageError, Unavailable, UsageError, unknown
from hfdbench.files import places
from hfdbench.files.atomic import write_text
from hfdbench.pipeline.plan import Request
from hfdbench.progress import Progress
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import read_table
from hfdbench.results.stored import Results

STEPS = 24  # of the bisection of a real number
DIGITS = 6  # significant ones of a real setting


@dataclass(frozen=True)
class Solved:
    """Options of a point: `low`, and `high` for a share of the images. `gap`: (bytes - wanted bytes) / wanted bytes."""

    point: str
    low: dict[str, Any]
    high: dict[str, Any]
    share: float
    says: str
    gap: float


@dataclass(frozen=True)
class Matched:
    """The card that was written, and (point, reason) of what it lacks."""

    card: Path
    solved: tuple[Solved, ...]
    left_out: tuple[tuple[str, str], ...]


def match(request: Request, other: str, progress: Progress, tolerance: float = 0.01) -> Matched:
    """Solve for the stored points of `other` (those of request.points) on the request's one dataset and write the card.

    Raises UsageError when nothing can be solved, Unavailable when the dataset is not here.
    """
    (card,), (spec,) = request.codecs, request.datasets
    dataset = open_dataset(
        spec, cards=request.cards, data_root=places.data_root(request.data_root), limit=request.limit
    )
    wanted = _wanted(request, other, dataset)
    solved, left_out = [], []
    hidden = (request.out, places.data_root(request.data_root), *dataset.paths)
    with Pool("encoder", request.workers, request.device, request.timeout_s, hidden=hidden) as pool:
        search = _Search(request.out, card, dataset, pool, progress)
        for point, total_bytes in wanted.items():
            try:
                found = search.solve(point, total_bytes, tolerance)
            except UsageError as error:
                left_out.append((point, str(error)))
                continue
            if abs(found.gap) > tolerance:
                left_out.append((point, f"{found.says} comes nearest, {100 * found.gap:+.2f} % off"))
            else:
                solved.append(found)
    if not solved:
        reasons = "; ".join(f"{point}: {reason}" for point, reason in left_out)
        raise UsageError(f"{card.id} matches no point of {other} on {dataset.id}: {reasons}")
    path = _write(request.out, card, other, dataset.id, solved)
    return Matched(path, tuple(solved), tuple(left_out))


def setting(card: CodecCard) -> str:
    """The option that is solved for. Raises UsageError when the card does not have exactly one."""
    if card.kind != "classical" or card.streams:
        raise UsageError(
            f"{card.id} is no classical codec; name one, such as jpeg: only those have a setting that spans all rates"
        )
    names = sorted({name for point in card.points for name in point.options})
    values = {name: [point.options.get(name) for point in card.points] for name in names}
    varied = [name for name in names if any(value != values[name][0] for value in values[name])]
    numeric = [name for name in varied if all(isinstance(v, int | float) for v in values[name])]
    if len(varied) != 1 or not numeric:
        raise UsageError(
            f"{card.source}: points differ in {', '.join(varied) or 'nothing'}; to be matched they must differ in one "
            "number alone"
        )
    if any("{level}" in word for word in card.points[0].options.get("decode", ())):
        raise UsageError(f"{card.source}: its decoder takes the level as an option; such codecs cannot be matched")
    return varied[0]


def _wanted(request: Request, other: str, dataset: Dataset) -> dict[str, int]:
    """Bytes of the other codec's stored points, by rate."""
    points = Results(request.out).points()
    if other not in set(points["codec"]):
        raise unknown("measured codec", other, set(points["codec"]))
    points = points.loc[(points["codec"] == other) & (points["dataset"] == dataset.id) & (points["status"] == "ok")]
    if points.empty:
        raise UsageError(f"{other} has no results of {dataset.id}; first: hfdbench run --codec {other}")
    for name in request.points:
        if name not in set(points["point"]):
            raise unknown(f"measured point of {other}", name, set(points["point"]))
    if request.points:
        points = points.loc[points["point"].isin(request.points)]
    for name, group in points.groupby("point"):
        if group["bytes"].nunique() > 1:
            raise UsageError(f"{other} {name} is stored with several rates; delete the outdated points")
    return {row.point: int(row.bytes) for row in points.sort_values("bytes").itertuples()}


class _Search:
    def __init__(self, out: Path, card: CodecCard, dataset: Dataset, pool: Pool, progress: Progress):
        self.folder, self.card, self.dataset, self.pool, self.progress = (
            ResultsFolder(out),
            card,
            dataset,
            pool,
            progress,
        )
        self.option = setting(card)
        self.settings = sorted({point.options[self.option] for point in card.points})
        self.whole = all(isinstance(value, int) for value in self.settings)
        self._known: dict[float, np.ndarray] = {}

    def solve(self, point: str, wanted: int, tolerance: float) -> Solved:
        """The setting that comes within the tolerance, or the nearest there is. Raises UsageError when out of reach."""
        below, above = self._bracket(wanted, tolerance)
        for _ in range(STEPS):
            if self._gap(below, wanted) == 0 or (self.whole and abs(above - below) <= 1):
                break
            middle = (below + above) // 2 if self.whole else _rounded((below + above) / 2)
            if middle in (below, above):
                break
            below, above = (middle, above) if self._gap(middle, wanted) <= 0 else (below, middle)
            if not self.whole and min(abs(self._gap(end, wanted)) for end in (below, above)) < tolerance / 4:
                break
        nearest = min((below, above), key=lambda value: abs(self._gap(value, wanted)))
        gap = self._gap(nearest, wanted)
        if not self.whole or abs(gap) <= tolerance:
            return Solved(point, self._options(nearest), self._options(nearest), 0, f"{self.option} {nearest:g}", gap)
        return self._mix(point, below, above, wanted)

    def _bracket(self, wanted: int, tolerance: float) -> tuple[float, float]:
        """Neighbours among the card's settings, one with fewer bytes than wanted and one with more."""
        below, above = sorted((self.settings[0], self.settings[-1]), key=lambda value: self.bytes(value).sum())
        for end, sign in ((below, 1), (above, -1)):
            gap = self._gap(end, wanted)
            if abs(gap) <= tolerance:
                return end, end
            if sign * gap > 0:
                ends = (self.bytes(value).sum() for value in (below, above))
                raise UsageError(
                    f"{self.card.id} spends {' to '.join(f'{total:,}' for total in ends)} bytes, {wanted:,} are wanted"
                )
        low, high = self.settings.index(below), self.settings.index(above)
        while abs(high - low) > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._gap(self.settings[middle], wanted) <= 0 else (low, middle)
        return self.settings[low], self.settings[high]

    def _mix(self, point: str, below: float, above: float, wanted: int) -> Solved:
        """The share of images that takes the larger of two neighbouring settings."""
        fractions = np.array([fraction(self.dataset.load(index)) for index in range(len(self.dataset.names))])
        order = np.argsort(fractions)
        more = (self.bytes(above) - self.bytes(below))[order]
        totals = self.bytes(below).sum() + np.concatenate([[0], np.cumsum(more)])
        count = int(np.abs(totals - wanted).argmin())
        edges = np.concatenate([[0], np.sort(fractions), [1]])
        share = float(edges[count] + edges[count + 1]) / 2
        images = len(order)
        says = f"{self.option} {above} for {count} of {images} images, {below} for {images - count}"
        return Solved(point, self._options(below), self._options(above), share, says, totals[count] / wanted - 1)

    def _gap(self, value: float, wanted: int) -> float:
        return float(self.bytes(value).sum() / wanted - 1)

    def _options(self, value: float) -> dict[str, Any]:
        return {**self.card.points[0].options, self.option: value}

    def bytes(self, value: float) -> np.ndarray:
        """Bytes of every image at a setting, from stored streams, from the cache, or from encoding them now."""
        if value not in self._known:
            name = f"{self.option}-{value:g}".lower()
            card = self.card.model_copy(update={"points": (Point(id=name, options=self._options(value)),)})
            try:
                provide(card, name)
                key = stream_key(identity(card, name), self.dataset.sha256)
            except Unavailable as error:
                raise UsageError(f"{self.card.id}: {error}") from None
            stored = self.folder.streams_of_key(key)
            rows = read_table(stored, ["bytes", "status"]).to_pandas() if stored else None
            if rows is not None and (rows["status"] == "ok").all():
                self._known[value] = rows["bytes"].to_numpy()
            else:
                self._known[value] = np.array(self._encoded(card, name, self.folder.coded_bytes(key)))
        return self._known[value]

    def _encoded(self, card: CodecCard, point: str, cache: Path) -> list[int]:
        found = _lines(cache)
        if len(found) == len(self.dataset.names):
            return found

        def one(index: int) -> int:
            try:
                image = self.dataset.load(index)
                _, stream = self.pool.ask(card, point, {"do": "encode", "shape": image.shape}, image.data.cast("B"))
            except (ImageError, CodecFailed) as error:
                raise UsageError(f"{card.id}, {point}: {self.dataset.names[index]}: {error}") from None
            return len(stream)

        self.progress.start(len(self.dataset.names), f"{card.id} {point}")
        self.progress.advance(len(found))
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open(cache, "w") as file:  # anew, because a killed run may have left half a line
            file.writelines(f"{count}\n" for count in found)
            file.flush()
            for count in in_order(self.pool, range(len(found), len(self.dataset.names)), one):
                file.write(f"{count}\n")
                file.flush()
                found.append(count)
                self.progress.advance()
        return found


def _lines(cache: Path) -> list[int]:
    """The whole lines of a cache."""
    if not cache.is_file():
        return []
    return [int(line) for line in cache.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value


def _write(out: Path, card: CodecCard, other: str, dataset: str, solved: list[Solved]) -> Path:
    name = f"{card.id}-as-{other}-{dataset}".replace("@", ".").lower()
    mixed = any(found.share for found in solved)
    how = "; ".join(f"{found.point}: {found.says} ({100 * found.gap:+.2f} %)" for found in solved)
    points = []
    for found in solved:
        options = {"adapter": card.adapter, "low": found.low, "high": found.high, "share": found.share}
        points.append({"id": found.point, "options": options if mixed else found.low})
    matched = {
        "id": name,
        "title": f"{card.title or card.id}, at the rates of {other}",
        "kind": card.kind,
        "adapter": "hfdbench.codecs.mixed:Mixed" if mixed else card.adapter,
        "paper": card.paper,
        "settings": f"{card.settings} Matched to the bytes of {other} on {dataset}: {how}.".strip(),
        "points": points,
    }
    path = ResultsFolder(out).matched_card(name)
    write_text(path, tomli_w.dumps(matched))
    return path
