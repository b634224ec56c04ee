"""The gate: is a run worse than a stored baseline, point by point, by more than chance and more than its card allows?

Conventions
    baseline   a folder that `accept` wrote (one small Parquet file a point), or any results folder.
    change     how much worse, positive is worse: of rate, distances and times a fraction of the baseline's value, of
               PSNR a difference in dB. Rate by total bytes, PSNR by its mean over images, times by the median over
               images of the ratio of the same image's two times, each at least the card's floor.
    interval   of the change over images, by `analysis.estimate`: both sides lose the same image at a time. What an image
               does to a distance is the pull of its patches (metrics.distribution.influence), to first order, so that a
               baseline keeps one number an image in place of features. Of a median of times: by order statistics.
    worse      change > tolerance, the whole interval above 0, and, of rate, PSNR and distances, still more than chance
               (FAMILY) among all changes of all points together (Holm): many points raise no more false alarms than one.
               An image that failed where the baseline's did not, and a distance that is not 0 any more, too.
    identical  an image equal to its original has no PSNR; here it counts as one sample off by one grey level.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from hfdbench.analysis import deviations
from hfdbench.analysis import intervals as uncertainty
from hfdbench.analysis.caveats import PUBLISHED
from hfdbench.analysis.compare import NOISE
from hfdbench.analysis.estimate import Estimate, holm
from hfdbench.cards.schema import GateCard
from hfdbench.errors import UsageError, unknown
from hfdbench.files.remote import located
from hfdbench.metrics.distribution import fingerprint, influence
from hfdbench.metrics.registry import METRICS, frechet_column, small_sample_note
from hfdbench.results.parquet import read_metadata, read_table, write_table
from hfdbench.results.stored import Results, StoredTrial

FAMILY = 0.05  # chance of a false alarm by rate, PSNR or a distance of any point
WORST = 3  # images that are named
IMAGES = pa.schema(
    [
        ("image", pa.int64()),
        ("name", pa.string()),
        ("pixels", pa.int64()),
        ("bytes", pa.int64()),
        *((name, pa.float64()) for name in ("mse", "encode_s", "decode_s")),
        ("status", pa.string()),
    ]
)
DISTANCES = tuple(metric.column for metric in METRICS.values() if metric.interval == "frechet")
TOLERANCES = {metric.column: metric.tolerance for metric in METRICS.values() if metric.tolerance is not None}
GATED = ("bpp", "psnr_db", *DISTANCES, "encode_s", "decode_s")  # what a card may name
Verdict = Literal["ok", "worse", "better"]


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance of a point and its id: only distances of equal id may be compared."""

    value: float
    id: str


@dataclass(frozen=True)
class Measured:
    """One point as either side has it. `images`: the columns of IMAGES, by image number, and for each distance `<distance>_pull`,
    that of all patches of the image, NaN where there is none."""

    codec: str
    point: str
    dataset: str
    seed: int
    device: str
    dataset_sha256: str
    processor: str
    started_utc: str
    images: pd.DataFrame
    distances: dict[str, Distance]

    @property
    def label(self) -> str:
        return f"{self.codec}-{self.point}-{self.dataset}" + (f" (seed {self.seed})" if self.seed else "")


@dataclass(frozen=True)
class MetricChange:
    """One metric of one point. `worst`: (image, change), the worst first; p_worse, p_better: one-sided, of this change alone."""

    label: str
    metric: str
    baseline: float
    run: float
    change: float
    lo: float
    hi: float
    tolerance: float
    verdict: Verdict
    p_worse: float
    p_better: float
    worst: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return f"{METRICS[self.metric].name} {self.moved}"

    @property
    def moved(self) -> str:
        """The change and its interval, as the metric moved."""
        ends = (self.hi, self.lo) if self.metric == "psnr_db" else (self.lo, self.hi)
        return f"{moved_text(self.metric, self.change)} [{', '.join(moved_text(self.metric, end) for end in ends)}]"

    @property
    def images(self) -> str:
        """The worst images in words."""
        return ", ".join(f"{name} ({moved_text(self.metric, change)})" for name, change in self.worst)


@dataclass(frozen=True)
class GateReport:
    """Outcome of a gate. failed: (label, what); refused: why points cannot be compared; notes: what was not, and why."""

    baseline: Path
    card: GateCard
    changes: tuple[MetricChange, ...]
    failed: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def worse(self) -> tuple[MetricChange, ...]:
        return tuple(c for c in self.changes if c.verdict == "worse")

    @property
    def exit_code(self) -> int:
        """1: something is worse; 2: something cannot be compared; 0: neither."""
        return 1 if self.worse or self.failed else 2 if self.refused else 0


def tolerances(card: GateCard) -> dict[str, float]:
    """How much worse each gated metric may be: as the card says, or by default as the table of metrics does.

    Raises UsageError for a metric that cannot be gated.
    """
    for column in card.tolerance:
        if column not in GATED:
            raise UsageError(f'{card.source}: key "tolerance": {unknown("metric that can be gated", column, GATED)}')
    return dict(card.tolerance or TOLERANCES)


def check(run: Path, baseline: Path, card: GateCard, codecs: Iterable[str] = ()) -> GateReport:
    """Hold a results folder against a baseline. Raises UsageError when either holds nothing, or an unknown codec is asked for."""
    allowed = tolerances(card)
    theirs = _only(_baseline(located(baseline)), codecs, baseline)
    wanted = {(old.codec, old.point, old.dataset, old.seed) for old in theirs}
    notes: list[str] = []
    ours = _newest(_measured(located(run), wanted), notes)
    aside = _Aside([], [], notes)
    changes: list[MetricChange] = []
    for old in _newest(theirs, notes).values():
        same = [new for new in ours.values() if _point(new) == _point(old)]
        if not same:
            aside.refused.append(f"{old.label}: the run has no such point; run it, or delete it from {baseline}")
            continue
        new = next((new for new in same if new.device == old.device), same[0])
        if new.dataset_sha256 != old.dataset_sha256:
            aside.refused.append(
                f"{old.label}: {old.dataset} holds other images than the baseline's; accept a new baseline"
            )
            continue
        lost = old.images.loc[:, "status"].eq("ok") & ~new.images.loc[:, "status"].eq("ok")
        if lost.any():
            aside.failed.append((old.label, f"failed on {', '.join(old.images['name'][lost])}"))
        changes += _compare_images(old, new, card, allowed, aside)
        if not lost.any():
            changes += _compare_distances(old, new, card, allowed, aside)
    changes = _together(changes)
    remarks = tuple(aside.failed), tuple(aside.refused), tuple(dict.fromkeys(aside.notes))
    return GateReport(located(baseline), card, tuple(changes), *remarks)


def accept(run: Path, baseline: Path, codecs: Iterable[str] = ()) -> list[Path]:
    """Make a run's points the baseline, each replacing its own last one; the files written.

    Raises UsageError for a run without points, or with one that failed: that is nothing to hold others against.
    """
    if (located(baseline) / "points").exists():
        raise UsageError(f"{baseline}: is a folder of results; choose another folder for the baseline")
    notes: list[str] = []
    points = list(_newest(_only(_measured(located(run)), codecs, run), notes).values())
    for point in points:
        if not point.images.loc[:, "status"].eq("ok").all():
            raise UsageError(f"{point.label}: images failed; a baseline needs all of them")
    return [_write(located(baseline), point) for point in points]


# ---- both sides


def _baseline(folder: Path) -> list[Measured]:
    if (folder / "points").is_dir():
        return _measured(folder)
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise UsageError(f"{folder}: no baseline here; hfdbench gate RUN --accept {folder} makes one of a run")
    return [_read(path) for path in paths]


def _measured(out: Path, wanted: set[tuple] | None = None) -> list[Measured]:
    """Every point of a results folder, or those wanted."""
    found = []
    trials = Results.of(out).trials()
    if not trials:
        raise UsageError(f"{out / 'points'}: no points yet; hfdbench run --codec ID --dataset ID --out {out}")
    for trial in trials:
        row = trial.row
        if wanted is not None and tuple(row[name] for name in ("codec", "point", "dataset", "seed")) not in wanted:
            continue
        meta = trial.read_images_metadata()
        table = trial.read_images()
        images, names = _by_image(table.select(IMAGES.names)), set(table["device_name"].to_pylist()) - {None}
        distances = {}
        for column in DISTANCES:
            if row.get(column) is not None:
                distances[column] = Distance(row[column], row[f"{column}_id"])
                images[f"{column}_pull"] = pd.Series(_pulls(trial, column))
        found.append(
            Measured(
                **{name: row[name] for name in ("codec", "point", "dataset", "seed", "device")},
                dataset_sha256=meta["dataset_sha256"],
                processor=f"{'; '.join(sorted(names)) or meta.get('cpu')}, {meta.get('threads')} threads",
                started_utc=meta.get("started_utc", ""),
                images=images,
                distances=distances,
            )
        )
    return found


def _pulls(trial: StoredTrial, column: str) -> dict[int, float]:
    """The pull of each image's patches on the distance; 0 for an image without patches."""
    (test, image_of_patch), (reference, _) = map(uncertainty.features, uncertainty.sources(trial, column))
    if len(test) < 3:
        return {}
    return dict(enumerate(np.bincount(image_of_patch, influence.pull(reference, test), trial.images)))


def _by_image(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas().set_index("image").sort_index()


def _write(folder: Path, point: Measured) -> Path:
    path = folder / f"{point.codec}-{point.point}-{point.dataset}-{point.seed}-{point.device}.parquet"
    names = ("codec", "point", "dataset", "seed", "device", "dataset_sha256", "processor", "started_utc")
    distances = {column: vars(distance) for column, distance in point.distances.items()}
    schema = pa.schema([*IMAGES, *((f"{column}_pull", pa.float64()) for column in distances)])
    table = pa.Table.from_pandas(point.images.reset_index(), schema, preserve_index=False)
    write_table(path, table, {name: getattr(point, name) for name in names} | {"distances": distances})
    return path


def _read(path: Path) -> Measured:
    meta = read_metadata(path)
    try:
        distances = {column: Distance(**distance) for column, distance in meta.pop("distances").items()}
        names = [*IMAGES.names, *(f"{column}_pull" for column in distances)]
        return Measured(**meta, images=_by_image(read_table(path, names)), distances=distances)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a baseline of this version ({error}); accept it anew") from None


def _point(measured: Measured) -> tuple:
    return measured.codec, measured.point, measured.dataset, measured.seed


def _only(points: list[Measured], codecs: Iterable[str], where: Path) -> list[Measured]:
    known = {point.codec for point in points}
    for name in codecs:
        if name not in known:
            raise unknown(f"codec in {where}", name, known)
    return [point for point in points if not codecs or point.codec in codecs]


def _newest(points: list[Measured], notes: list[str]) -> dict[tuple, Measured]:
    """One measurement a point and device: the newest."""
    newest: dict[tuple, Measured] = {}
    for point in sorted(points, key=lambda point: point.started_utc):
        place = (*_point(point), point.device)
        if place in newest:
            notes.append(f"{point.label} was measured several times; the one of {point.started_utc} is taken")
        newest[place] = point
    return newest


# ---- one point


@dataclass(frozen=True)
class _Aside:
    """What stands beside the changes: failures, points that cannot be compared, notes."""

    failed: list[tuple[str, str]]
    refused: list[str]
    notes: list[str]


def _compare_images(
    old: Measured, new: Measured, card: GateCard, allowed: dict[str, float], aside: "_Aside"
) -> list[MetricChange]:
    """Rate, PSNR and times, over the images that both coded."""
    both = old.images.loc[:, "status"].eq("ok") & new.images.loc[:, "status"].eq("ok")
    before, now = old.images.loc[both], new.images.loc[both]
    if before.empty:
        return []
    made: list[MetricChange] = []

    def add(metric: str, base: float, run: float, change: "Estimate | _Median", each: np.ndarray) -> None:
        made.append(_change(old.label, metric, (base, run), change, allowed[metric], card.level, before["name"], each))

    if "bpp" in allowed:
        size, new_size = before["bytes"].to_numpy(float), now["bytes"].to_numpy(float)
        pixels = before["pixels"].sum()
        change = Estimate(new_size.sum() / size.sum() - 1, deviations.of_ratio(new_size, size))
        add("bpp", 8 * size.sum() / pixels, 8 * new_size.sum() / pixels, change, new_size / size - 1)
    if "psnr_db" in allowed:
        psnr, new_psnr = _psnr_db(before), _psnr_db(now)
        loss = psnr - new_psnr
        add(
            "psnr_db",
            float(psnr.mean()),
            float(new_psnr.mean()),
            Estimate(float(loss.mean()), deviations.of_mean(loss)),
            loss,
        )
    times = [name for name in ("encode_s", "decode_s") if name in allowed]
    if times and old.device != new.device:
        aside.refused.append(
            f"{old.label}: times on {new.device} and on {old.device} cannot be compared; run on {old.device}, or use a "
            "gate card without encode_s and decode_s"
        )
    elif times and (old.processor != new.processor or ";" in new.processor):  # several devices within one point
        aside.notes.append(f"times are not compared: {new.processor} here, {old.processor} for the baseline")
    else:
        for name in times:
            seconds, new_seconds = (side[name].to_numpy(float).clip(card.time_floor_s) for side in (before, now))
            ratio = new_seconds / seconds
            add(name, float(before[name].median()), float(now[name].median()), _Median(ratio - 1), ratio - 1)
    return made


def _psnr_db(images: pd.DataFrame) -> np.ndarray:
    finest = 1 / (3 * images["pixels"].to_numpy(float))  # mse of one sample off by one
    return 10 * np.log10(255**2 / np.maximum(images["mse"].to_numpy(float), finest))


def _compare_distances(
    old: Measured, new: Measured, card: GateCard, allowed: dict[str, float], aside: "_Aside"
) -> list[MetricChange]:
    made: list[MetricChange] = []
    for column in DISTANCES:
        if column not in allowed or column not in old.distances:
            continue
        name = METRICS[column].name
        if column not in new.distances:
            aside.refused.append(
                f"{old.label}: the baseline has {name}, the run has none; give it what it needs: hfdbench doctor"
            )
            continue
        was, now = old.distances[column], new.distances[column]
        if was.id != now.id:
            aside.refused.append(
                f"{old.label}: {name} of another kind: {_differences(was.id, now.id)}; accept a new baseline"
            )
            continue
        aside.notes.extend(_caveats(column, now))
        if was.value < NOISE and now.value < NOISE:
            aside.notes.append(f"{old.label}: {name} is 0 on both sides: every patch has the features of its original")
            continue
        if was.value < NOISE:
            aside.failed.append((old.label, f"{name} was 0, as of equal images, and is {now.value:.4g}"))
            continue
        ratio = now.value / was.value
        pulls = (new.images[f"{column}_pull"] - ratio * old.images[f"{column}_pull"]).to_numpy() / was.value
        if not np.isfinite(pulls).all():
            aside.notes.append(f"{old.label}: {name} of fewer than 3 patches is not compared")
            continue
        change = Estimate(ratio - 1, len(pulls) * deviations.of_mean(pulls))
        sides = was.value, now.value
        made.append(
            _change(old.label, column, sides, change, allowed[column], card.level, old.images.loc[:, "name"], pulls)
        )
    return made


def _caveats(column: str, distance: Distance) -> list[str]:
    """What a reader must know of a distance, by its id."""
    try:
        parts = fingerprint.parse(distance.id)
    except ValueError:
        return []
    notes = [small_sample_note(column, parts.patches)]
    if column == frechet_column("inception") and parts.label != PUBLISHED:
        notes.append(f"{column} is {parts.label}: not comparable with published values")
    return [note for note in notes if note]


def _differences(was: str, now: str) -> str:
    try:
        return "; ".join(fingerprint.differences(was, now))
    except ValueError:
        return f"{was} and {now}"


@dataclass(frozen=True)
class _Median:
    """The median of one value an image, with its distribution-free interval and the p-values of the sign test.

    Conover 1999, "Practical Nonparametric Statistics", sections 3.2 and 3.4.
    """

    values: np.ndarray

    @property
    def value(self) -> float:
        return float(np.median(self.values))

    def interval(self, level: float) -> tuple[float, float]:
        """All of the values' range where there are too few for the level."""
        from scipy.stats import binom

        ordered, outside = np.sort(self.values), max(int(binom.ppf((1 - level) / 2, len(self.values), 0.5)) - 1, 0)
        return float(ordered[outside]), float(ordered[-1 - outside])

    def p_above(self) -> float:
        from scipy.stats import binom

        return float(binom.cdf((self.values <= 0).sum(), len(self.values), 0.5))

    def p_below(self) -> float:
        return _Median(-self.values).p_above()


def _change(
    label: str,
    metric: str,
    sides: tuple[float, float],
    change: Estimate | _Median,
    tolerance: float,
    level: float,
    names: pd.Series,
    each: np.ndarray,
) -> MetricChange:
    """A change, judged by itself. `sides`: baseline and run; `each`: what each image changed."""
    low, high = change.interval(level)
    p_worse, p_better = change.p_above(), change.p_below()
    verdict: Verdict = "ok"
    if change.value > tolerance and p_worse < (1 - level) / 2:
        verdict = "worse"
    elif change.value < -tolerance and p_better < (1 - level) / 2:
        verdict = "better"
    worst = sorted(zip(names, each, strict=True), key=lambda pair: -pair[1])[:WORST]
    named = tuple((name, float(value)) for name, value in worst if value > 0)
    return MetricChange(
        label,
        metric,
        float(sides[0]),
        float(sides[1]),
        float(change.value),
        low,
        high,
        tolerance,
        verdict,
        p_worse,
        p_better,
        named,
    )


def _together(changes: list[MetricChange]) -> list[MetricChange]:
    """The verdicts that hold among all changes; times are judged one by one: their noise is the machine's, not the images'."""
    others = [k for k, change in enumerate(changes) if change.metric not in ("encode_s", "decode_s")]
    kept = list(changes)
    for verdict, name in (("worse", "p_worse"), ("better", "p_better")):
        adjusted = holm([getattr(changes[k], name) for k in others])
        for k, p in zip(others, adjusted, strict=True):
            if kept[k].verdict == verdict and not p < FAMILY:
                kept[k] = replace(kept[k], verdict="ok")
    return kept


def moved_text(metric: str, change: float) -> str:
    """A change in words, as the metric moved, not as it got worse."""
    return f"{0 - change:+.3f} dB" if metric == "psnr_db" else f"{change:+.1%}"
