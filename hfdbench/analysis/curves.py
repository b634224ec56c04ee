"""The points table and a figure card -> plain frozen data, ready to be drawn by anything.

Conventions: a figure shows one dataset. A curve holds the points of one codec; a point with a null
coordinate is left out and named in `notes`. Curves whose y depends on the feature network are drawn together only
when they carry the same fingerprint (`fid_id`). A tie joins the points of different codecs that decode the same streams:
points of one dataset whose bytes are equal to the last one. An interval is None where there is none.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hfdbench.analysis.seeds import mean_of_seeds, several_devices
from hfdbench.cards.schema import FigureCard
from hfdbench.errors import Unavailable, UsageError, unknown
from hfdbench.metrics.registry import METRICS, NETWORKS, of_network, small_sample_note
from hfdbench.results import published as others
from hfdbench.results.stored import Results

PROTOCOLS = {"fid256": "256×256 patches of two grids", "whole": "whole pictures"}
PIXELS = "author's pixels"  # how the badge of pictures that were not decoded here begins
COSTS = ("bpp", "network_evaluations", "decode_s_per_mpx")  # less is obviously better
RULES = {"bpp": "rate: all bits / all pixels"}  # those that the axis title does not say
IDENTITIES = {
    metric.column: metric.identity for metric in METRICS.values() if metric.identity
}  # fingerprint of a column
FINGERPRINTED = tuple(metric.column for metric in of_network("inception"))
ENOUGH_PATCHES = NETWORKS["inception"].dimensions  # with fewer the covariance is singular, FID is biased upwards


@dataclass(frozen=True)
class Axis:
    """One axis: column of the points table, title with unit, scale, range (None: fit the data).

    zero: a logarithmic axis keeps a place for 0; to_one: the values end at 1, a logarithmic axis is one of 1 - value.
    """

    column: str
    title: str
    log: bool = False
    range: tuple[float, float] | None = None
    zero: bool = False
    to_one: bool = False


@dataclass(frozen=True)
class Curve:
    """One codec on one dataset, its points sorted by x, or by rate on a card that joins streams. `band`: the interval of each y.

    joined: runs of places that one line joins: all of them, or those of equal streams on a card that joins streams.
    """

    codec: str
    title: str
    kind: str
    points: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    band: tuple[tuple[float, float] | None, ...]
    joined: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Tie:
    """Decoders of the same streams, sorted by x; `bpp` is the rate they share."""

    bpp: float
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Arrow:
    """From a codec's point to what the decoder `codec` makes of the same streams; (x, y) each."""

    codec: str
    base: tuple[float, float]
    to: tuple[float, float]


@dataclass(frozen=True)
class FigureData:
    """All that a figure says. `facts` are printed below it; `notes` say what was left out and why.

    overlays: published curves; not_overlaid: why there are none though they were asked for.
    """

    id: str
    title: str
    dataset: str
    dataset_title: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...]
    ties: tuple[Tie, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    overlays: tuple[others.Overlay, ...] = ()
    not_overlaid: str = ""


def stored_intervals(out: Results | Path, slow: bool = False) -> Callable[[pd.DataFrame, str], pd.DataFrame]:
    """(points, column) -> lo and hi, by the bootstrap of what is stored below `out`; NaN where there is none.

    slow: also of distances over so many patches that a draw takes seconds.
    """
    from hfdbench.analysis.intervals import COLUMNS, intervals

    results = Results.of(out)

    def look_up(points: pd.DataFrame, column: str) -> pd.DataFrame:
        found = pd.DataFrame(math.nan, index=points.index, columns=["lo", "hi"])
        if column in COLUMNS:
            every = slow or column not in FINGERPRINTED
            found.update(
                intervals(results, points if every else points.loc[points["fid_patches"] < ENOUGH_PATCHES], column)
            )
        return found

    return look_up


def datasets(points: pd.DataFrame, card: FigureCard) -> tuple[str, ...]:
    """Ids of the datasets that the card shows, one figure each. Raises UsageError when it names one without points."""
    if points.empty:
        raise UsageError("the points table is empty; first: hfdbench run --codec jpeg --dataset samples")
    present = sorted(points["dataset"].unique())
    if card.dataset is None:
        return tuple(present)
    if card.dataset not in present:
        raise UsageError(f'{card.source}: key "dataset": {unknown("measured dataset", card.dataset, present)}')
    return (card.dataset,)


def figure_data(
    points: pd.DataFrame,
    card: FigureCard,
    dataset: str,
    *,
    dataset_titles: Mapping[str, str] | None = None,
    known: Iterable[str] = (),
    intervals: Callable[[pd.DataFrame, str], pd.DataFrame] | None = None,
    published: pd.DataFrame | None = None,
) -> FigureData:
    """The figure of a card on one dataset. `known`: ids of codecs that exist, measured or not.

    intervals: (points, column) -> their lo and hi, for bands around y; published: the points of others to lay over it.

    Raises UsageError for a codec or column that is not known and for mixed fingerprints, Unavailable when no point
    has the value asked for.
    """
    for key, column in (("x", card.x), ("y", card.y)):
        if column not in points.columns and column in METRICS:
            points = points.assign(**{column: math.nan})  # a metric that this run did not compute
        if column not in points.columns:
            raise UsageError(f'{card.source}: key "{key}": {unknown("column", column, points.columns)}')
        try:
            points = points.assign(**{column: points[column].astype(float)})
        except (TypeError, ValueError):
            raise UsageError(f'{card.source}: key "{key}": {column} is not a number; choose another column') from None
    measured = set(points["codec"])
    for codec in card.codecs:
        if codec not in measured | set(known):
            raise UsageError(f'{card.source}: key "codecs": {unknown("codec", codec, measured | set(known))}')

    rows = points.loc[points["dataset"] == dataset]
    if card.codecs:
        rows = rows[rows["codec"].isin(card.codecs)]
    notes = [f"{codec}: not measured" for codec in card.codecs if codec not in set(rows["codec"])]
    rows = _usable(rows, notes)
    scored = rows
    for column, log in ((card.x, card.x_log and not card.x_zero), (card.y, card.y_log)):
        rows = _keep(rows, rows.loc[:, column].notna(), f"no {column}", notes)
        rows = _keep(rows, (rows.loc[:, column] > 0) | (not log), f"{column} is 0, the axis logarithmic", notes)
    if rows.empty:
        raise _nothing(card, dataset, scored, notes)
    for column in dict.fromkeys(IDENTITIES[axis] for axis in (card.x, card.y) if axis in IDENTITIES):
        if column in rows:
            _refuse_mixed(rows, column, card, dataset)
    if devices := several_devices(rows, (card.x, card.y)):
        raise Unavailable(
            f'figure "{card.id}": the times of {dataset} are of several devices ({", ".join(devices)})',
            "hfdbench run --out FOLDER on one of them, or name codecs of one in the card",
        )
    bands = pd.DataFrame(math.nan, index=rows.index, columns=["lo", "hi"])
    if intervals is not None:
        bands = intervals(rows, card.y)
    rows = rows.assign(_lo=bands["lo"], _hi=bands["hi"])
    over, not_overlaid = _overlaid(published, rows, card, dataset, notes)
    whole = (-math.inf, math.inf)
    seen = rows[card.x].between(*card.x_range or whole) & rows[card.y].between(*card.y_range or whole)
    if not seen.all():
        notes.append(f"{(~seen).sum()} of {len(rows)} points, outside the axes")
    return FigureData(
        id=card.id,
        title=card.title,
        dataset=dataset,
        dataset_title=(dataset_titles or {}).get(dataset) or dataset,
        x=_axis(card.x, rows, card.x_log, card.x_range, arrow=card.x not in COSTS, zero=card.x_zero),
        y=_axis(card.y, rows, card.y_log, card.y_range, arrow=True),
        curves=tuple(_curve(str(codec), some, card) for codec, some in rows.groupby("codec")),
        facts=_facts(rows, card),
        notes=tuple(notes),
        ties=_ties(rows, card) if card.join == "streams" else (),
        overlays=over,
        not_overlaid=not_overlaid,
    )


def _overlaid(
    published: pd.DataFrame | None, rows: pd.DataFrame, card: FigureCard, dataset: str, notes: list[str]
) -> tuple[tuple[others.Overlay, ...], str]:
    """The published curves of this dataset and protocol, as far as ours reach, or why there are none."""
    if published is None:
        return (), ""
    protocols = {column: others.protocol(column, rows) for column in (card.x, card.y)}
    try:
        found = others.overlays(published, dataset, card.x, card.y, protocols)
    except UsageError as error:
        return (), f'figure "{card.id}": {error}'
    low, high = card.x_range or _reach(rows.loc[:, card.x], card.x_log)
    bottom, top = card.y_range or (-math.inf, math.inf)
    seen = tuple(o for o in (overlay.within((low, high), (bottom, top)) for overlay in found) if o.points)
    hidden = sum(len(overlay.points) for overlay in found) - sum(len(overlay.points) for overlay in seen)
    if not seen:
        return (), f'figure "{card.id}": published points lie outside its axes ({card.x} {low:.3g} to {high:.3g})'
    notes.extend([f"{hidden} published points, outside the axes"] if hidden else [])
    return seen, ""


def _reach(values: pd.Series, log: bool) -> tuple[float, float]:
    """The range of our points and a tenth more on both sides: published ones shall not push ours into a corner."""
    low, high = float(values.min()), float(values.max())
    if log and low > 0:
        factor = max((high / low) ** 0.1, 1.25)
        return low / factor, high * factor
    margin = max((high - low) / 10, abs(high) / 20)
    return low - margin, high + margin


def _usable(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows of trials that succeeded, means over seeds; every row put aside is named in `notes`."""
    bad = rows["status"] != "ok"
    for row in rows.loc[bad].itertuples():
        notes.append(f"{row.codec} {row.point}: {row.status}" + (f" ({row.note})" if _given(row.note) else ""))
    rows = rows.loc[~bad]
    for codec, some in rows.loc[rows["failed"] > 0].groupby("codec"):
        notes.append(f"{codec} {', '.join(some['point'])}: without {int(some['failed'].max())} failed images")
    rows = mean_of_seeds(rows)
    if "seeds" in rows:
        for (codec, seeds), some in rows.loc[rows["seeds"] > 1].groupby(["codec", "seeds"]):
            notes.append(f"{codec} {', '.join(some['point'])}: means of {seeds} seeds")
    first = rows["seed"] == rows.groupby(["codec", "point"])["seed"].transform("min")
    if not first.all():
        notes.append(f"seeds {', '.join(str(seed) for seed in sorted(set(rows[~first]['seed'])))} are not drawn")
    return rows.loc[first]


def _keep(rows: pd.DataFrame, good: pd.Series, reason: str, notes: list[str]) -> pd.DataFrame:
    """The good rows; the others are named in `notes`: codecs by their ids where no point is good, else with the points."""
    bad = rows.loc[~good].groupby("codec")
    none_good = [codec for codec, some in bad if not good[rows["codec"] == codec].any()]
    notes += [f"{', '.join(none_good)}: {reason}"] if none_good else []
    notes += [f"{codec} {', '.join(some['point'])}: {reason}" for codec, some in bad if codec not in none_good]
    return rows.loc[good]


def _curve(codec: str, rows: pd.DataFrame, card: FigureCard) -> Curve:
    rows = rows.sort_values([card.x, "point"] if card.join == "codec" else ["bytes", card.x, "point"])
    title = rows["title"].iloc[0]
    joined = (tuple(range(len(rows))),)
    if card.join == "streams":
        places = pd.Series(range(len(rows)), index=rows["bytes"].to_numpy())
        runs = (tuple(run) for _, run in places.groupby(level=0))
        # A codec that decodes the same streams in several ways (more steps) is joined along them, else along its rates.
        joined = tuple(run for run in runs if len(run) > 1) or joined * (rows[card.x].nunique() > 1)
    return Curve(
        codec=codec,
        title=title if _given(title) else codec,
        kind=rows["kind"].iloc[0],
        points=tuple(rows["point"]),
        x=tuple(float(value) for value in rows[card.x]),
        y=tuple(float(value) for value in rows[card.y]),
        band=tuple((lo, hi) if lo <= hi else None for lo, hi in zip(rows["_lo"], rows["_hi"], strict=True)),
        joined=joined,
    )


def _ties(rows: pd.DataFrame, card: FigureCard) -> tuple[Tie, ...]:
    """A tie per rate at which at least two codecs decode the same streams; a codec's points among themselves are none."""
    ties = []
    for _, some in rows.groupby("bytes"):
        some = some.drop_duplicates("codec", keep=False).sort_values([card.x, card.y])
        if len(some) > 1:
            ties.append(
                Tie(float(some["bpp"].iloc[0]), tuple(some[card.x].astype(float)), tuple(some[card.y].astype(float)))
            )
    return tuple(ties)


def _is_fingerprinted(card: FigureCard) -> bool:
    return card.x in FINGERPRINTED or card.y in FINGERPRINTED


def _refuse_mixed(rows: pd.DataFrame, column: str, card: FigureCard, dataset: str) -> None:
    ids = rows.groupby(rows[column].fillna("none"))["codec"].unique()
    if len(ids) > 1:
        listed = "; ".join(f"{fid_id}: {', '.join(sorted(codecs))}" for fid_id, codecs in ids.items())
        raise UsageError(
            f'figure "{card.id}": {dataset} has {len(ids)} fingerprints that cannot share an axis ({listed}); '
            'score all with the same weights (hfdbench score) or name codecs of one fingerprint in the card\'s "codecs"'
        )


def _nothing(card: FigureCard, dataset: str, rows: pd.DataFrame, notes: list[str]) -> Unavailable:
    reason = f'figure "{card.id}": no point of {dataset} has both {card.x} and {card.y}'
    if card.y in IDENTITIES and not rows.loc[:, card.y].notna().any() and len(rows):
        if _is_fingerprinted(card):
            return Unavailable(f"{reason}: scored without Inception weights", "hfdbench score --inception PATH")
        return Unavailable(f"{reason}: scored without it", "hfdbench score")
    codec = card.codecs[0] if card.codecs else "jpeg"
    return Unavailable(f"{reason} ({'; '.join(notes)})", f"hfdbench run --codec {codec} --dataset {dataset}")


def _axis(
    column: str, rows: pd.DataFrame, log: bool, limits: tuple[float, float] | None, *, arrow: bool, zero: bool = False
) -> Axis:
    to_one = column in METRICS and METRICS[column].range[1] == 1 and METRICS[column].direction == "higher"
    return Axis(column, _axis_title(column, rows, arrow), log, limits, zero and bool((rows[column] == 0).any()), to_one)


def _axis_title(column: str, rows: pd.DataFrame, arrow: bool) -> str:
    if column not in METRICS:
        return column
    title = METRICS[column].title
    label = rows["fid_label"].iloc[0]
    if column in FINGERPRINTED and _given(label):
        title += label.removeprefix("FID")  # "(refitted Inception)" holds for every metric on these features
    return f"{title} {'↓' if METRICS[column].direction == 'lower' else '↑'}" if arrow else title


def _facts(rows: pd.DataFrame, card: FigureCard) -> tuple[str, ...]:
    counts = sorted(set(int(n) for n in rows["images"]))
    facts = [f"{'–'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} images"]
    rules = [RULES[column] for column in (card.x, card.y) if column in RULES]
    if _is_fingerprinted(card):
        first = rows.iloc[0]
        patches = int(first["fid_patches"])
        note = next(filter(None, (small_sample_note(column, patches) for column in (card.y, card.x))), "")
        facts.append(note or f"{patches:,} patches")
        rules.append(f"{first['fid_protocol']}: {PROTOCOLS.get(first['fid_protocol'], 'own protocol')}")
    if "badge" in rows:
        for badge, some in rows.groupby("badge"):
            named = ", ".join(sorted(set(some["title"])))
            facts.append(f"{'hollow: ' * str(badge).startswith(PIXELS)}{badge}: {named}")
    ids = dict.fromkeys(IDENTITIES[axis] for axis in (card.x, card.y) if axis in IDENTITIES)
    rules += [f"fingerprint {rows[column].iloc[0]}" for column in ids if column in rows]
    return (*facts, *rules)


def _given(value: object) -> bool:
    return isinstance(value, str) and value != ""
