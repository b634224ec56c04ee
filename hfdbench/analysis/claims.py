"""What HFD's paper claims, tried here: numbers with intervals, and whether each claim holds.

Conventions: a difference is the claimed winner's value minus the other's at the same streams, so negative distances are what
the paper claims. Intervals: 95 %, over images, of each difference alone (`analysis.estimate`). A claim *holds* where all its
differences lie on the claimed side, and *does not hold* where one lies on the other side, beyond chance among all claims and
differences (Holm): where nothing differs, at most 5 % of all tables have a wrong verdict anywhere. It is *undecided here*
otherwise, over too few images for a verdict on a distance, and where KID has the other sign; and *not tried* where a point
that it is stated for is missing, or was measured over other patches. Claims of the paper as the project's sources report
them (arXiv:2305.18231; docs/models.md says what is certain).

Claims 1 to 3 are read from the decoders' own points, as is 9, a control of ours: whether HFD's FID is below that of the
reconstruction with plain grain, which no network chose. 4 to 8 are read from variants of hfd and hfd-rf at one rate, which
are points of codecs named `hfd.shift-1` and the like, run by `hfdbench claims --run` (possibly on the dataset's first
images alone).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfdbench.analysis import deviations
from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.caveats import caveats, fewest_images, kid_sign, one_seed
from hfdbench.analysis.decoded import Decoder
from hfdbench.analysis.estimate import Estimate, holm
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard
from hfdbench.datasets.dataset import Dataset, dataset_id, open_dataset
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.files import places
from hfdbench.metrics.registry import METRICS
from hfdbench.results.stored import Results, StoredTrial

LEVEL = 0.95
POINTS = ("q1", "q2", "q3", "q4", "q5")  # what claims 1 to 3 and 9 are stated for
POINT = "q2"  # the rate of the variants
STEPS = (2, 4, 8, 16, 32)
MANY = 100
MSE = "mse-unet"  # the best MSE decoder of the same streams, its network the one that all decoders share
GRAIN = ("elic-grain", "mse-grain")  # plain grain on the streams' own decoder and on that one
DECODERS = (MSE, *GRAIN, "hfd", "hific", "po-elic")
EQUAL = 0.02  # claim 7: distances within this share count as equal
PSNR_BOUND_DB = 10 * math.log10(2)  # a factor of two in squared error
PSNR_CLAIM = "HFD's PSNR is lower than the MSE decoder's, by at most 3 dB (a factor of 2 in squared error)"
SPECTRUM_CLAIM = (
    "HFD+ brings back high frequencies: its residual's power spectrum is closer to the original's than HFD's"
)

# Samplings of the variants, over the card's own: full samples.
_SAMPLE = {"strength": 1.0, "mean": 0.0, "grain": 0.0}
VARIANTS: dict[str, tuple[str, dict]] = {
    **{f"hfd.shift-{shift}": ("hfd", {"shift": shift, **_SAMPLE}) for shift in (0.5, 1.0, 2.0)},
    **{f"hfd.gamma-{gamma}": ("hfd", {"solver": "ancestral", "gamma": gamma, **_SAMPLE}) for gamma in (0.0, 0.5, 1.0)},
    **{f"hfd.steps-{steps}": ("hfd", {"steps": steps, **_SAMPLE}) for steps in (*STEPS, MANY)},
    **{f"hfd-rf.steps-{steps}": ("hfd-rf", {"steps": steps, **_SAMPLE}) for steps in STEPS},
    "hfd.whole": ("hfd", {"tile": 0, **_SAMPLE}),
    "hfd.tiles-128": ("hfd", {"tile": 128, **_SAMPLE}),
}


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Parameters
    ----------
    number : int
        The claim's.
    claim : str
        What the paper says.
    verdict : str
        "holds", "does not hold", "undecided here" or "not tried".
    numbers : tuple of str
        A line each: differences with their intervals, and why there is no verdict.
    notes : tuple of str
        What a reader must know of the distances.
    """

    number: int
    claim: str
    verdict: str
    numbers: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Difference:
    """A difference that lies between low and high where the claim holds.

    kid: sign of that of the KIDs, 0 where it says nothing; fewest: images that a verdict takes, 0 for what is no distance.
    """

    name: str
    estimate: Estimate
    low: float = -math.inf
    high: float = 0.0
    unit: str = ""
    kid: float = 0.0
    fewest: int = 0

    def __str__(self) -> str:
        low, high = self.estimate.interval(LEVEL)
        return f"{self.name}: {self.estimate.value:+.3g}{self.unit} [{low:+.3g}, {high:+.3g}]"

    @property
    def p_inside(self) -> float:
        """One-sided p-value of "it does not lie between low and high" (two one-sided tests, Schuirmann 1987)."""
        return max(self.estimate.p_above(self.low), self.estimate.p_below(self.high))

    @property
    def p_outside(self) -> float:
        return min(
            2 * self.estimate.p_below(self.low), self.estimate.p_above(self.high) * (1 + np.isfinite(self.low)), 1
        )


@dataclass(frozen=True)
class _Trial:
    """A claim with its differences; `lines` follow them. Without differences it was not tried: `lines` say why."""

    number: int
    claim: str
    differences: tuple[_Difference, ...]
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def p_values(self) -> tuple[float, float]:
        """That of "it does not hold": each difference must lie inside. That of "it holds": one outside is enough."""
        holds = max(difference.p_inside for difference in self.differences)
        return holds, min(1.0, len(self.differences) * min(difference.p_outside for difference in self.differences))

    def verdict(self, p: float) -> Verdict:
        """p: the smaller of both p-values, two-sided, adjusted for all claims."""
        lines = (*map(str, self.differences), *self.lines)
        few = [(d.estimate.images, d.fewest) for d in self.differences if d.estimate.images < d.fewest]
        signs = [d.name for d in self.differences if d.kid * d.estimate.value < 0]
        if not self.differences:
            verdict = "not tried"
        elif not p < 1 - LEVEL:
            verdict = "undecided here"
        elif few:
            verdict = "undecided here"
            lines = (*lines, f"{few[0][0]} images are too few for a verdict on this distance: at least {few[0][1]}")
        elif signs:
            verdict = "undecided here"
            lines = (*lines, f"KID has the other sign, so that the number of patches decides: {'; '.join(signs)}")
        else:
            holds, fails = self.p_values
            verdict = "holds" if holds <= fails else "does not hold"
        return Verdict(self.number, self.claim, verdict, lines, self.notes)


def variants(cards: dict[str, CodecCard]) -> list[CodecCard]:
    """The cards of all variants, from those of hfd and hfd-rf: one point each."""
    made = []
    for name, (of, sampling) in VARIANTS.items():
        card = cards[of]
        point = card.point(POINT)
        sampling = {**point.options["sampling"], **sampling}
        before = cards[card.base].point(POINT).network_evaluations if card.base else None
        evaluations = sampling["steps"] + (before or 0)
        update = {"options": {**point.options, "sampling": sampling}, "network_evaluations": evaluations}
        made.append(card.model_copy(update={"id": name, "title": name, "points": (point.model_copy(update=update),)}))
    return made


def from_stored(
    out: Path, dataset: str, limit: int | None, metric: str, data_root: Path | None, folders: Iterable[Path]
) -> list[Verdict]:
    """`claims`, with the pictures of claim 8 where dataset and cards are available. Raises UsageError for an unknown dataset."""
    cards, results = find_cards(CodecCard, folders), Results(out)
    known = {*find_cards(DatasetCard, folders), *results.points()["dataset"]}
    spec, dataset = dataset, dataset_id(dataset)
    if not {dataset, parse_id(dataset).base} & known:
        raise unknown("dataset", dataset, known)
    try:
        pictures = open_dataset(spec, cards=folders, data_root=places.data_root(data_root), limit=limit)
    except (UsageError, Unavailable):
        return claims(results, dataset, f"{dataset}@{limit}" if limit else None, metric=metric)
    return claims(results, dataset, pictures.id, metric=metric, pictures=stored_pictures(cards, pictures))


def claims(
    results: Results | Path,
    dataset: str,
    subset: str | None = None,
    *,
    metric: str = "fid",
    points: Iterable[str] = POINTS,
    pictures: Callable[[StoredTrial | None], Iterable[tuple[int, np.ndarray]]] | None = None,
) -> list[Verdict]:
    """Try all claims on stored results.

    Parameters
    ----------
    results : Results or Path
        The stored results, or their folder.
    dataset : str
        Id of the dataset for claims 1 to 3 and 9.
    subset : str, optional
        That for claims 4 to 8; the same when not given.
    metric : str
        Column of a Fréchet distance: fid or fd_mini.
    points : iterable of str
        The points that claims 1 to 3 and 9 are stated for: without one of them they are not tried.
    pictures : callable, optional
        Gives decoded pictures of a trial by number of the image, for claim 8; of None, the originals.

    Raises
    ------
    UsageError
        There are no results, or the metric is no Fréchet distance.
    """
    distances = [row.column for row in METRICS.values() if row.interval == "frechet"]
    if metric not in distances:
        raise unknown("Fréchet distance", metric, distances)
    results = Results.of(results)
    results.points()  # refuses a folder without any
    main, few = _Points(results, dataset, metric), _Points(results, subset or dataset, metric)
    points = tuple(points)
    tried = [
        _tried(1, "HFD's FID is below the MSE decoder's at equal streams", _lower, main, points, "hfd", [MSE]),
        _tried(2, "HFD's FID is below HiFiC's and PO-ELIC's", _lower, main, points, "hfd", ["hific", "po-elic"]),
        _tried(3, PSNR_CLAIM, _psnr, main, points),
        _tried(
            4,
            "a less noisy schedule lowers FID: shift 0.5 against 1 and 2",
            _variants,
            few,
            [("hfd.shift-0.5", "hfd.shift-1.0"), ("hfd.shift-0.5", "hfd.shift-2.0")],
        ),
        _tried(
            5,
            "less sampling noise lowers FID: gamma 0 against 0.5 and 1",
            _variants,
            few,
            [("hfd.gamma-0.0", "hfd.gamma-0.5"), ("hfd.gamma-0.0", "hfd.gamma-1.0")],
        ),
        _tried(6, "rectified flow wins at few steps, diffusion overtakes it at many", _crossover, few),
        _tried(7, f"sampling in tiles equals sampling the whole image: FID within {100 * EQUAL:g} %", _tiles, few),
        _tried(8, SPECTRUM_CLAIM, _spectrum, few, pictures),
        _tried(
            9,
            "our control, no claim of the paper: HFD's FID is below plain grain's",
            _lower,
            main,
            points,
            "hfd",
            GRAIN,
        ),
    ]
    adjusted = holm([2 * min(each.p_values) if each.differences else math.nan for each in tried])
    return [each.verdict(p) for each, p in zip(tried, adjusted, strict=True)]


class _Points:
    """Stored trials of a dataset by codec and point, all seeds of it, and what was asked of them."""

    def __init__(self, results: Results, dataset: str, metric: str):
        self.dataset, self.metric = dataset, metric
        self.trials: dict[tuple[str, str], list[StoredTrial]] = {}
        for trial in results.newest():
            if trial.row["dataset"] == dataset and trial.row["status"] == "ok":
                self.trials.setdefault((trial.row["codec"], trial.row["point"]), []).append(trial)
        self.used: list[Mapping] = []

    def value(self, codec: str, point: str, column: str) -> Estimate:
        """The value over all seeds. Raises Unavailable when the point is not stored or has none."""
        same = self.trials.get((codec, point), [])
        found = [uncertainty.estimate(trial, column) for trial in same]
        estimates = [each for each in found if each is not None]
        if not same or len(estimates) < len(same):
            raise Unavailable(f"{codec} {point} has no {column} on {self.dataset}", "run it, or hfdbench claims --run")
        self.used += [trial.row for trial in same]
        return Estimate.over_seeds(estimates)

    def difference(self, a: str, b: str, point: str, name: str, **bounds: Any) -> _Difference:
        """a minus b at one point, of the distance. Raises Unavailable where there is none, or they are not alike."""
        column = self.metric
        values = [self.value(codec, point, column) for codec in (a, b)]
        rows = [trial.row for codec in (a, b) for trial in self.trials[codec, point]]
        for what, key in (("patches", "fid_patches"), ("fingerprints", METRICS[column].identity or "dataset")):
            if len(found := {row[key] for row in rows}) > 1:
                raise Unavailable(
                    f"{a} and {b} {point} have {what} {' and '.join(sorted(map(str, found)))}", "hfdbench score"
                )
        kids = [
            float(np.mean([uncertainty.kernel_distance(trial, column) for trial in self.trials[codec, point]]))
            for codec in (a, b)
        ]
        return _Difference(name, values[0] - values[1], kid=kid_sign(*kids), fewest=fewest_images(column), **bounds)


def _tried(number: int, claim: str, function: Callable[..., tuple], points: _Points, *arguments: object) -> _Trial:
    """The claim with what `function` gives of it: differences, further lines."""
    points.used = []
    try:
        differences, lines = function(points, *arguments)
    except Unavailable as error:
        return _Trial(number, claim, (), (str(error),))
    notes = caveats(points.used, [points.metric]) if any(each.fewest for each in differences) else ()
    return _Trial(number, claim, tuple(differences), tuple(lines), (*notes, *one_seed(points.used)))


def _lower(results: _Points, points: Iterable[str], a: str, others: Iterable[str]) -> tuple:
    metric = results.metric
    return [results.difference(a, b, point, f"{point}, {metric} of {a} - {b}") for b in others for point in points], ()


def _psnr(results: _Points, points: Iterable[str]) -> tuple:
    sides = ((point, *(results.value(codec, point, "psnr_db") for codec in ("hfd", MSE))) for point in points)
    bounds = {"low": -PSNR_BOUND_DB, "unit": " dB"}
    return [_Difference(point, a - b, **bounds) for point, a, b in sides], ()


def _variants(results: _Points, pairs: Iterable[tuple[str, str]]) -> tuple:
    return [results.difference(a, b, POINT, f"{a} - {b}") for a, b in pairs], ()


def _crossover(results: _Points) -> tuple:
    metric = results.metric
    rows = [
        results.difference(f"hfd-rf.steps-{n}", f"hfd.steps-{n}", POINT, f"{n} steps, {metric} of flow - diffusion")
        for n in STEPS
    ]
    values = [(n, results.value(f"hfd.steps-{n}", POINT, metric).value) for n in (*STEPS, MANY)]
    overtaken = next((n for n, row in zip(STEPS, rows, strict=True) if row.estimate.value > 0), None)
    where = f"diffusion is first ahead at {overtaken} steps" if overtaken else f"no crossover up to {STEPS[-1]} steps"
    last = results.difference(
        f"hfd.steps-{STEPS[-1]}", f"hfd-rf.steps-{STEPS[-1]}", POINT, f"{STEPS[-1]} steps, {metric} of diffusion - flow"
    )
    lines = [*map(str, rows[1:-1]), f"{metric} of diffusion: " + ", ".join(f"{v:.4g} at {n}" for n, v in values), where]
    return [rows[0], last], lines


def _tiles(results: _Points) -> tuple:
    bound = EQUAL * results.value("hfd.whole", POINT, results.metric).value
    name = "tiles of 128 pixels - whole"
    difference = results.difference("hfd.tiles-128", "hfd.whole", POINT, name, low=-bound, high=bound)
    return [replace(difference, kid=0.0)], [f"within {bound:.3g} is equal"]


def _spectrum(results: _Points, pictures) -> tuple:
    if pictures is None:
        raise Unavailable("the pictures of the dataset are not here", "give --data-root")
    chosen = [results.trials.get((codec, POINT)) for codec in ("elic-mse", "hfd", "hfd-plus")]
    if None in chosen:
        raise Unavailable(f"elic-mse, hfd or hfd-plus has no {POINT} on {results.dataset}", "hfdbench claims --run")
    originals, base, plain, plus = (dict(pictures(trial)) for trial in (None, *(same[0] for same in chosen if same)))
    gaps = np.array(
        [[gap(made[k], originals[k], base[k]) for made in (plain, plus)] for k in sorted(base) if k in originals]
    )
    less = gaps[:, 1] - gaps[:, 0]
    estimate = Estimate(float(less.mean()), deviations.of_mean(less))
    line = f"gap to the original's spectrum: hfd {gaps[:, 0].mean():.3g} dB, hfd-plus {gaps[:, 1].mean():.3g} dB"
    return [_Difference("hfd-plus - hfd", estimate, unit=" dB")], [line]


def gap(made: np.ndarray, original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean distance in dB between the radial spectra of two residuals, over the upper half of the frequencies.

    Pictures are uint8, H x W x 3; residuals are against the MSE reconstruction; luma (BT.601).
    """
    spectra = [radial_power(image.astype(np.float64) - reconstruction) for image in (made, original)]
    half = len(spectra[0]) // 2
    decibels = [10 * np.log10(spectrum[half:] + 1e-3) for spectrum in spectra]
    return float(np.abs(decibels[0] - decibels[1]).mean())


def radial_power(residual: np.ndarray, bins: int = 32) -> np.ndarray:
    """Mean power of the luma of H x W x 3 in `bins` rings of frequency, 0 to 0.5 cycles per pixel, squared grey levels."""
    luma = residual @ np.array([0.299, 0.587, 0.114])
    window = np.outer(np.hanning(luma.shape[0]), np.hanning(luma.shape[1]))
    power = np.abs(np.fft.fft2(luma * window)) ** 2 / np.square(window).sum()
    radius = np.hypot(np.fft.fftfreq(luma.shape[0])[:, None], np.fft.fftfreq(luma.shape[1])[None])
    ring = np.minimum((radius * 2 * bins).astype(int), bins)  # the corners beyond 0.5 fall into a ring of their own
    total = np.bincount(ring.ravel(), power.ravel(), bins + 1)[:bins]
    return total / np.maximum(np.bincount(ring.ravel(), minlength=bins + 1)[:bins], 1)


def stored_pictures(cards: Mapping[str, CodecCard], dataset: Dataset):
    """`pictures` of `claims` from stored streams (decoded again, kept in out/cache) and the dataset's originals."""

    def pictures(trial: StoredTrial | None) -> Iterable[tuple[int, np.ndarray]]:
        if trial is None:
            return ((k, dataset.load(k)) for k in range(len(dataset)))
        return Decoder(trial, cards[trial.row["codec"]], len(dataset), lambda: None)

    return pictures
