"""The pictures of the page: chosen, embedded while there is room, and what each patch pulls on a distance.

Conventions: a picture is one base64 element of WebP. Pictures are embedded in the order of `decoded.worth_showing` until the
file would pass its limit; a whole point has pictures or none. Sizes are in bytes.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hfdbench.analysis import decoded as pictures
from hfdbench.analysis import intervals as uncertainty
from hfdbench.cards.schema import CodecCard
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import arrays
from hfdbench.metrics.distribution.influence import pull
from hfdbench.metrics.distribution.patches import PATCH
from hfdbench.progress import Progress
from hfdbench.report.page.document import rounded
from hfdbench.report.text import to_json
from hfdbench.results.parquet import read_table
from hfdbench.results.stored import StoredTrial

QUALITY, MAX_MB, IMAGES = 80, 60.0, 24


@dataclass(frozen=True)
class Choice:
    """What the page holds.

    images: pictures of the first ones of each dataset; points: with pictures, per codec, None for all that fit; intervals:
    None for those that take seconds, True for those that take minutes too.
    """

    quality: int = QUALITY
    max_mb: float = MAX_MB
    images: int = IMAGES
    points: int | None = None
    intervals: bool | None = None

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--pictures-quality {self.quality}: must lie between 1 and 100")


class Album:
    """The pictures of a page, dataset by dataset: HTML elements, and notes on those that are missing or differ."""

    def __init__(self, choice: Choice, codecs: Mapping[str, CodecCard], data_root, cards, folders, progress: Progress):
        self._choice, self._codecs, self._progress = choice, codecs, progress
        self._place = {"data_root": data_root, "cards": cards, "folders": folders}
        self.elements: list[str] = []
        self.notes: list[str] = []

    def add(self, index: int, section: dict, trials: list[StoredTrial], room: float) -> int:
        """Embed pictures of a dataset while there is room; every point records what became of its own.

        Parameters
        ----------
        index : int
            Number of the section.
        section : dict
            The dataset's section of the document; it and its points are completed.
        trials : list of StoredTrial
            Of the section's points, in order.
        room : float
            Bytes that may be used.

        Returns
        -------
        int
            Bytes that were.
        """
        name, count = section["id"], min(self._choice.images, len(section["images"]))
        try:
            dataset = pictures.originals(name, trials[0].metadata["dataset_sha256"], **self._place)
            own = pictures.embed(pictures.load_originals(dataset, count), self._choice.quality)
            if _size(own) > room or not own.webp:
                raise Unavailable(
                    f"no room for pictures in {self._choice.max_mb:g} MB" if own.webp else "none were asked for"
                )
        except Unavailable as error:
            section["no_pictures"] = (
                "they were not available, or had no room, when it was made"  # the error may name folders
            )
            self.notes.append(f"{name}: no pictures: {error}")
            return 0
        section["pictures"], section["loss_db"] = count, rounded(own.loss_db)
        used = (
            _size(own) + 40 * sum(image["width"] * image["height"] for image in section["images"][:count]) // PATCH**2
        )
        self._embed(f"{index}-o", own)
        order = _order(trials, self._choice.points)
        self._progress.start(count * len(order), f"pictures of {name}")
        for done, place in enumerate(order):
            trial, point = trials[place], section["points"][place]
            shown = self._decoded(trial, count)
            pulls = None if shown.reason else _pull(trial, section)
            added = _size(shown) + len(to_json(pulls, separators=(",", ":")))
            if not shown.reason and used + added > room:
                limit = f"the file is limited to {self._choice.max_mb:g} MB"
                for other in order[done:]:
                    section["points"][other]["reason"] = limit
                self.notes.append(
                    f"{name}: {len(order) - done} of {len(order)} points without pictures: {limit} (--max-mb)"
                )
                break
            point["reason"], point["pictures"], point["differs"] = shown.reason, not shown.reason, shown.differs
            point["pull"] = pulls
            self._embed(f"{index}-{place}", shown)
            used += added
            if shown.reason:
                self.notes.append(f"{trial.name}: no pictures: {shown.reason}")
            if shown.differs:
                self.notes.append(f"{trial.name}: {shown.differs} pictures decode to other pixels than those measured")
        for place in set(range(len(trials))) - set(order):
            section["points"][place]["reason"] = "pictures of this point were not asked for"
        return used

    def _decoded(self, trial: StoredTrial, count: int) -> pictures.Pictures:
        card = self._codecs.get(trial.row["codec"])
        return pictures.decoded(trial, card, count, self._choice.quality, self._progress.advance)

    def _embed(self, prefix: str, shown: pictures.Pictures) -> None:
        for number, data in shown.webp.items():
            text = base64.b64encode(data).decode()
            self.elements.append(f'<script type="text/plain" id="p-{prefix}-{number}">{text}</script>')


def _size(shown: pictures.Pictures) -> int:
    """Bytes that pictures take in the file."""
    return sum(4 * math.ceil(len(data) / 3) + 64 for data in shown.webp.values())


def _order(trials: list[StoredTrial], limit: int | None) -> list[int]:
    """Places of the trials whose pictures are wanted, those first that compare best."""
    places: dict[str, list[int]] = {}
    for place, trial in enumerate(trials):
        if trial.row["bpp"]:
            places.setdefault(trial.row["codec"], []).append(place)
    rates = {codec: [trials[place].row["bpp"] for place in some] for codec, some in places.items()}
    return [places[codec][i] for codec, i in pictures.worth_showing(rates, limit)]


def _pull(trial: StoredTrial, section: dict) -> list[float] | None:
    """Pull of every patch of the pictured images on the distance that the section ranks by; None without features."""
    files = uncertainty.sources(trial, section["ranked"])
    if not files:
        return None
    own, reference = files
    places = read_table(own, ["image", "top", "left"])
    seen = np.array(places["image"]) < section["pictures"]
    if not seen.any() or len(places) < 3:
        return None
    if section["patches"] is None:
        section["patches"] = {name: np.array(places[name])[seen].tolist() for name in ("image", "top", "left")}
    path = trial.results.folder.pull(own, reference)
    values = arrays.kept(path)
    if values is None or values.shape != seen.shape:
        values = pull(uncertainty.features(reference)[0], uncertainty.features(own)[0])
        arrays.keep(path, values)
    return [float(f"{value:.4g}") for value in values[seen]]
