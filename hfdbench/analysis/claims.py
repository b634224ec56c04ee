"""What HFD's paper claims, tried here: numbers with intervals, and whether each claim holds.

Conventions: a difference is the claimed winner's value minus the other's at the same streams, so negative distances are what
the paper claims. Intervals: 95 %, image-clustered paired bootstrap (`metrics.bootstrap`). A claim *holds* where the
intervals of all its differences lie on the claimed side, *does not hold* where one lies on the other side, and is
*undecided here* otherwise, or where points are missing. Claims of the paper as the project's sources report them
(arXiv:2305.18231; docs/models.md says what is certain).

Claims 1 to 3 are read from the decoders' own points, as is 9, a control of ours: whether HFD's FID is below that of the
reconstruction with plain grain, which no network chose. 4 to 8 are read from variants of hfd and hfd-rf at one rate, which
are points of codecs named `hfd.shift-1` and the like, run by `hfdbench claims --run` (possibly on the dataset's first
images alone).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfdbench.analysis import bootstrap
from hfdbench.analysis import intervals as uncertainty
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.pipeline.plan import Request
from hfdbench.results.stored import Results, StoredTrial

DRAWS = 300
LEVEL = 0.95
POINT = "q2"  # the rate of the variants
STEPS = (2, 4, 8, 16, 32)
MANY = 100
DECODERS = ("elic-mse", "elic-grain", "hfd", "hific", "po-elic")
EQUAL = 0.02  # claim 7: distances within this share count as equal
PSNR_BOUND_DB = 10 * np.log10(2)  # a factor of two in squared error

# Samplings of the variants, over the card's own. Steps are compared with all of the detail added, solvers as trained.
VARIANTS: dict[str, tuple[str, dict]] = {
    **{f"hfd.shift-{shift}": ("hfd", {"shift": shift}) for shift in (0.5, 1.0, 2.0)},
    **{f"hfd.gamma-{gamma}": ("hfd", {"gamma": gamma}) for gamma in (0.0, 0.5, 1.0)},
    **{f"hfd.steps-{steps}": ("hfd", {"steps": steps, "strength": 1.0}) for steps in (*STEPS, MANY)},
    **{f"hfd-rf.steps-{steps}": ("hfd-rf", {"steps": steps, "strength": 1.0}) for steps in STEPS},
    "hfd.whole": ("hfd", {"tile": 0}),
    "hfd.tiles-128": ("hfd", {"tile": 128}),
}


@dataclass(frozen=True)
class Verdict:
    """number and claim: as the paper's; verdict: "holds", "does not hold" or "undecided here"; numbers: a line each."""

    number: int
    claim: str
    verdict: str
    numbers: tuple[str, ...]


def variants(cards: dict[str, CodecCard]) -> list[CodecCard]:
    """The cards of all variants, from those of hfd and hfd-rf: one point each."""
    made = []
    for name, (base, sampling) in VARIANTS.items():
        point = cards[base].point(POINT)
        sampling = {**point.options["sampling"], **sampling}
        options = {**point.options, "sampling": sampling}
        point = point.model_copy(update={"options": options, "network_evaluations": sampling["steps"]})
        made.append(cards[base].model_copy(update={"id": name, "title": name, "points": (point,)}))
    return made


def requests(dataset: str, limit: int | None, **common) -> list[Request]:
    """What to run for all claims: the decoders on the dataset, the variants on its first `limit` images."""
    cards = find_cards(CodecCard, common.get("cards", ()))
    main = Request(codecs=tuple(cards[name] for name in DECODERS), datasets=(dataset,), **common)
    few = (cards["elic-mse"], cards["hfd"], cards["hfd-plus"], *variants(cards))
    return [main, Request(codecs=few, datasets=(dataset,), points=(POINT,), limit=limit, **common)]


def from_stored(
    out: Path, dataset: str, limit: int | None, metric: str, data_root: Path | None, folders: Iterable[Path]
) -> list[Verdict]:
    """`claims`, with the pictures of claim 8 where dataset and cards are at hand."""
    cards = find_cards(CodecCard, folders)
    try:
        pictures = open_dataset(dataset, cards=folders, data_root=places.data_root(data_root), limit=limit)
    except (UsageError, Unavailable):
        return claims(out, dataset, f"{dataset}@{limit}" if limit else None, metric=metric)
    return claims(out, dataset, pictures.id, metric=metric, pictures=stored_pictures(cards, pictures))


def claims(
    out: Path,
    dataset: str,
    subset: str | None = None,
    *,
    metric: str = "fid",
    pictures: Callable[[StoredTrial], Iterable[tuple[int, np.ndarray]]] | None = None,
) -> list[Verdict]:
    """All claims from stored results: 1 to 3 on `dataset`, 4 to 8 on `subset` (the same when None).

    metric: fid or fd_mini. pictures: decoded pictures of a trial, by number of the image, for claim 8; trial None: originals.
    Raises UsageError when there are no results.
    """
    results = Results.of(out)
    results.points()  # refuses a folder without any
    every = [trial for trial in results.trials() if trial.row["status"] == "ok"]
    main = _Points(every, dataset)
    few = _Points(every, subset or dataset)
    return [
        _lower(1, "HFD's FID is below the MSE decoder's at equal streams", main, metric, ("hfd", ["elic-mse"])),
        _lower(2, "HFD's FID is below HiFiC's and PO-ELIC's", main, metric, ("hfd", ["hific", "po-elic"])),
        _psnr(main),
        _variants(
            4,
            "a less noisy schedule lowers FID: shift 0.5 against 1 and 2",
            few,
            metric,
            [("hfd.shift-0.5", "hfd.shift-1.0"), ("hfd.shift-0.5", "hfd.shift-2.0")],
        ),
        _variants(
            5,
            "less sampling noise lowers FID: gamma 0 against 0.5 and 1",
            few,
            metric,
            [("hfd.gamma-0.0", "hfd.gamma-0.5"), ("hfd.gamma-0.0", "hfd.gamma-1.0")],
        ),
        _crossover(few, metric),
        _tiles(few, metric),
        _spectrum(few, pictures),
        _lower(
            9,
            "our control, no claim of the paper: HFD's FID is below plain grain's",
            main,
            metric,
            ("hfd", ["elic-grain"]),
        ),
    ]


class _Points:
    """Stored trials of a dataset by codec and point, and their draws."""

    def __init__(self, trials: list[StoredTrial], dataset: str):
        self.dataset = dataset
        mine = [trial for trial in trials if trial.row["dataset"] == dataset]
        self.trials = {(t.row["codec"], t.row["point"]): t for t in sorted(mine, key=lambda t: -t.row["seed"])}

    def points(self, codec: str) -> list[str]:
        return sorted(point for name, point in self.trials if name == codec)

    def value(self, codec: str, point: str, column: str) -> tuple[float, np.ndarray]:
        """The value and its draws. Raises Unavailable when the point is not stored or has none."""
        trial = self.trials.get((codec, point))
        samples = None if trial is None else uncertainty.draw(trial, column, DRAWS)
        if samples is None:
            raise Unavailable(f"{codec} {point} has no {column} on {self.dataset}", "run it, or hfdbench claims --run")
        return float(trial.row[column]), samples

    def difference(self, a: str, b: str, point: str, column: str) -> tuple[float, float, float]:
        """a minus b at one point: value, lo, hi."""
        (value, drawn), (other, other_drawn) = self.value(a, point, column), self.value(b, point, column)
        return value - other, *bootstrap.interval(drawn - other_drawn, LEVEL)


def _judge(intervals: Iterable[tuple[float, float]], low: float = -np.inf, high: float = 0.0) -> str:
    """holds: every interval strictly between low and high; does not hold: one wholly outside."""
    intervals = list(intervals)
    if intervals and all(low < lo and hi < high for lo, hi in intervals):
        return "holds"
    if any(hi < low or lo > high for lo, hi in intervals):
        return "does not hold"
    return "undecided here"


def _undecided(number: int, claim: str, error: Exception) -> Verdict:
    return Verdict(number, claim, "undecided here", (str(error),))


def _line(name: str, difference: tuple[float, float, float], unit: str = "") -> str:
    value, low, high = difference
    return f"{name}: {value:+.3g}{unit} [{low:+.3g}, {high:+.3g}]"


def _lower(number: int, claim: str, results: _Points, metric: str, pair: tuple[str, list[str]]) -> Verdict:
    a, others = pair
    lines, intervals = [], []
    try:
        points = results.points(a)
        if not points:
            raise Unavailable(f"{a} has no points on {results.dataset}", "run it, or hfdbench claims --run")
        for b in others:
            for point in points:
                difference = results.difference(a, b, point, metric)
                lines.append(_line(f"{point}, {metric} of {a} - {b}", difference))
                intervals.append(difference[1:])
    except Unavailable as error:
        return _undecided(number, claim, error)
    return Verdict(number, claim, _judge(intervals), tuple(lines))


def _psnr(results: _Points) -> Verdict:
    claim = "HFD's PSNR is lower than the MSE decoder's, by at most 3 dB (a factor of 2 in squared error)"
    try:
        rows = [(point, results.difference("hfd", "elic-mse", point, "psnr_db")) for point in results.points("hfd")]
        if not rows:
            raise Unavailable(f"hfd has no points on {results.dataset}", "run it, or hfdbench claims --run")
    except Unavailable as error:
        return _undecided(3, claim, error)
    lines = tuple(_line(point, difference, " dB") for point, difference in rows)
    return Verdict(3, claim, _judge((difference[1:] for _, difference in rows), low=-PSNR_BOUND_DB), lines)


def _variants(number: int, claim: str, results: _Points, metric: str, pairs: list[tuple[str, str]]) -> Verdict:
    try:
        rows = [(f"{a} - {b}", results.difference(a, b, POINT, metric)) for a, b in pairs]
    except Unavailable as error:
        return _undecided(number, claim, error)
    verdict = _judge(difference[1:] for _, difference in rows)
    return Verdict(number, claim, verdict, tuple(_line(name, difference) for name, difference in rows))


def _crossover(results: _Points, metric: str) -> Verdict:
    claim = "rectified flow wins at few steps, diffusion overtakes it at many"
    try:
        rows = [
            (steps, results.difference(f"hfd-rf.steps-{steps}", f"hfd.steps-{steps}", POINT, metric)) for steps in STEPS
        ]
        values = [(steps, results.value(f"hfd.steps-{steps}", POINT, metric)[0]) for steps in (*STEPS, MANY)]
    except Unavailable as error:
        return _undecided(6, claim, error)
    (_, few), (_, many) = rows[0], rows[-1]
    verdict = _judge([few[1:], (-many[2], -many[1])])
    overtaken = next((steps for steps, difference in rows if difference[0] > 0), None)
    where = f"diffusion is first ahead at {overtaken} steps" if overtaken else f"no crossover up to {STEPS[-1]} steps"
    lines = [_line(f"{steps} steps, {metric} of flow - diffusion", difference) for steps, difference in rows]
    lines.append(f"{metric} of diffusion: " + ", ".join(f"{value:.4g} at {steps}" for steps, value in values))
    return Verdict(6, claim, verdict, (*lines, where))


def _tiles(results: _Points, metric: str) -> Verdict:
    claim = f"sampling in tiles equals sampling the whole image: FID within {100 * EQUAL:g} %"
    try:
        whole, _ = results.value("hfd.whole", POINT, metric)
        difference = results.difference("hfd.tiles-128", "hfd.whole", POINT, metric)
    except Unavailable as error:
        return _undecided(7, claim, error)
    bound = EQUAL * whole
    lines = (_line("tiles of 128 pixels - whole", difference), f"within {bound:.3g} is equal")
    return Verdict(7, claim, _judge([difference[1:]], -bound, bound), lines)


def _spectrum(results: _Points, pictures) -> Verdict:
    claim = "HFD+ brings back high frequencies: its residual's power spectrum is closer to the original's than HFD's"
    try:
        if pictures is None:
            raise Unavailable("the pictures of the dataset are not at hand", "give --data-root")
        chosen = [results.trials.get((codec, POINT)) for codec in ("elic-mse", "hfd", "hfd-plus")]
        if None in chosen:
            raise Unavailable(f"elic-mse, hfd or hfd-plus has no {POINT} on {results.dataset}", "hfdbench claims --run")
        originals, base, plain, plus = (dict(pictures(trial)) for trial in (None, *chosen))
        gaps = np.array(
            [[gap(made[k], originals[k], base[k]) for made in (plain, plus)] for k in sorted(base) if k in originals]
        )
    except Unavailable as error:
        return _undecided(8, claim, error)
    drawn = bootstrap.draws(len(gaps), DRAWS)
    samples = bootstrap.mean(gaps[:, 1] - gaps[:, 0], drawn)
    difference = (float((gaps[:, 1] - gaps[:, 0]).mean()), *bootstrap.interval(samples, LEVEL))
    lines = (
        f"gap to the original's spectrum: hfd {gaps[:, 0].mean():.3g} dB, hfd-plus {gaps[:, 1].mean():.3g} dB",
        _line("hfd-plus - hfd", difference, " dB"),
    )
    return Verdict(8, claim, _judge([difference[1:]]), lines)


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


def stored_pictures(cards: dict[str, CodecCard], dataset):
    """`pictures` of `claims` from stored streams (decoded again, kept in out/cache) and the dataset's originals."""
    from hfdbench.analysis.decoded import Decoder

    def pictures(trial: StoredTrial | None) -> Iterable[tuple[int, np.ndarray]]:
        if trial is None:
            return ((k, dataset.load(k)) for k in range(len(dataset)))
        return Decoder(trial, cards[trial.row["codec"]], len(dataset), lambda: None)

    return pictures
