"""The points table and a figure card -> plain frozen data, ready to be drawn by anything.

Conventions: a figure shows one dataset. A curve holds the points of one codec sorted by x; a point with a null
coordinate is left out and named in `notes`. Curves whose y depends on the feature network are drawn together only
when they carry the same fingerprint (`fid_id`). A tie joins the points of different codecs that decode the same streams:
points of one dataset whose bytes are equal to the last one. Bands are NaN where there is no interval.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from ..cards import FigureCard
from ..errors import BadRequest, Unavailable, unknown
from ..metrics import METRICS
from . import published as others

PROTOCOLS = {"fid256": "256×256 patches of two grids", "whole": "whole pictures"}
RULES = {"bpp": "rate: all bits / all pixels"}  # those that the axis title does not say
IDENTITIES = {"fid": "fid_id", "kid": "fid_id", "kid_std": "fid_id", "fd_mini": "fd_mini_id"}  # fingerprint of a column
FINGERPRINTED = ("fid", "kid", "kid_std")  # on Inception features
ENOUGH_PATCHES = 2048  # fewer than the feature's dimensions: the covariance is singular, FID is biased upwards


@dataclass(frozen=True)
class Axis:
    """One axis: column of the points table, title with unit, scale, range (None: fit the data)."""

    column: str
    title: str
    log: bool = False
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """One codec on one dataset, its points sorted by x. `lo`, `hi`: interval of each y.

    joined: runs of places that one line joins: all of them, or those of equal streams on a card that joins streams.
    """

    codec: str
    title: str
    kind: str
    points: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]
    joined: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Tie:
    """Decoders of the same streams, sorted by x; `bpp` is the rate they share."""

    bpp: float
    x: tuple[float, ...]
    y: tuple[float, ...]


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
    overlays: tuple[others.Overlay, ...] = ()
    not_overlaid: str = ""


def datasets(points: pd.DataFrame, card: FigureCard) -> tuple[str, ...]:
    """Ids of the datasets that the card shows, one figure each. Raises BadRequest when it names one without points."""
    if points.empty:
        raise BadRequest("the points table is empty; first: hfdbench run --codec jpeg --dataset samples")
    present = sorted(points["dataset"].unique())
    if card.dataset is None:
        return tuple(present)
    if card.dataset not in present:
        raise BadRequest(f'{card.source}: key "dataset": {unknown("measured dataset", card.dataset, present)}')
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

    Raises BadRequest for a codec or column that is not known and for mixed fingerprints, Unavailable when no point
    has the value asked for.
    """
    for key, column in (("x", card.x), ("y", card.y)):
        if column not in points.columns and column in METRICS:
            points = points.assign(**{column: math.nan})  # a metric that this run did not compute
        if column not in points.columns:
            raise BadRequest(f'{card.source}: key "{key}": {unknown("column", column, points.columns)}')
        try:
            points = points.assign(**{column: points[column].astype(float)})
        except (TypeError, ValueError):
            raise BadRequest(f'{card.source}: key "{key}": {column} is not a number; choose another column') from None
    measured = set(points["codec"])
    for codec in card.codecs:
        if codec not in measured | set(known):
            raise BadRequest(f'{card.source}: key "codecs": {unknown("codec", codec, measured | set(known))}')

    rows = points[points["dataset"] == dataset]
    if card.codecs:
        rows = rows[rows["codec"].isin(card.codecs)]
    notes = [f"{codec}: not measured" for codec in card.codecs if codec not in set(rows["codec"])]
    rows = _usable(rows, notes)
    scored = rows
    for column, log in ((card.x, card.x_log), (card.y, card.y_log)):
        rows = _keep(rows, rows[column].notna(), f"no {column}", notes)
        rows = _keep(rows, (rows[column] > 0) | (not log), f"{column} is 0, the axis logarithmic", notes)
    if rows.empty:
        raise _nothing(card, dataset, scored, notes)
    for column in dict.fromkeys(IDENTITIES[axis] for axis in (card.x, card.y) if axis in IDENTITIES):
        if column in rows:
            _refuse_mixed(rows, column, card, dataset)
    bands = pd.DataFrame(math.nan, index=rows.index, columns=["lo", "hi"])
    if intervals is not None:
        bands = intervals(rows, card.y)
    rows = rows.assign(_lo=bands["lo"], _hi=bands["hi"])
    over, not_overlaid = _overlaid(published, rows, card, dataset)
    whole = (-math.inf, math.inf)
    seen = rows[card.x].between(*card.x_range or whole) & rows[card.y].between(*card.y_range or whole)
    if not seen.all():
        notes.append(f"{(~seen).sum()} of {len(rows)} points, outside the axes")
    return FigureData(
        id=card.id,
        title=card.title,
        dataset=dataset,
        dataset_title=(dataset_titles or {}).get(dataset) or dataset,
        x=Axis(card.x, _axis_title(card.x, rows, arrow=False), card.x_log, card.x_range),
        y=Axis(card.y, _axis_title(card.y, rows, arrow=True), card.y_log, card.y_range),
        curves=tuple(_curve(codec, some, card) for codec, some in rows.groupby("codec")),
        facts=_facts(rows, card),
        notes=tuple(notes),
        ties=_ties(rows, card) if card.join == "streams" else (),
        overlays=over,
        not_overlaid=not_overlaid,
    )


def _overlaid(
    published: pd.DataFrame | None, rows: pd.DataFrame, card: FigureCard, dataset: str
) -> tuple[tuple[others.Overlay, ...], str]:
    """The published curves of this dataset and protocol, or why there are none."""
    if published is None:
        return (), ""
    protocols = {column: others.protocol(column, rows) for column in (card.x, card.y)}
    try:
        return others.overlays(published, dataset, card.x, card.y, protocols), ""
    except BadRequest as error:
        return (), f'figure "{card.id}": {error}'


def _usable(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows of trials that succeeded, the lowest seed of each; every row put aside is named in `notes`."""
    bad = rows["status"] != "ok"
    for row in rows[bad].itertuples():
        notes.append(f"{row.codec} {row.point}: {row.status}" + (f" ({row.note})" if _given(row.note) else ""))
    rows = rows[~bad]
    for codec, some in rows[rows["failed"] > 0].groupby("codec"):
        notes.append(f"{codec} {', '.join(some['point'])}: without {int(some['failed'].max())} failed images")
    first = rows["seed"] == rows.groupby(["codec", "point"])["seed"].transform("min")
    if not first.all():
        notes.append(f"seeds {', '.join(str(seed) for seed in sorted(set(rows[~first]['seed'])))} are not drawn")
    return rows[first]


def _keep(rows: pd.DataFrame, good: pd.Series, reason: str, notes: list[str]) -> pd.DataFrame:
    """The good rows; the others are named in `notes`, a line per codec."""
    for codec, some in rows[~good].groupby("codec"):
        notes.append(f"{codec} {', '.join(some['point'])}: {reason}")
    return rows[good]


def _curve(codec: str, rows: pd.DataFrame, card: FigureCard) -> Curve:
    rows = rows.sort_values([card.x, "point"])
    title = rows["title"].iloc[0]
    joined = tuple(range(len(rows))),
    if card.join == "streams":
        places = pd.Series(range(len(rows)), index=rows["bytes"].to_numpy())
        runs = (tuple(run) for _, run in places.groupby(level=0))
        # A codec that decodes the same streams in several ways (more steps) is joined along them, else along its rates.
        joined = tuple(run for run in runs if len(run) > 1) or joined
    return Curve(
        codec=codec,
        title=title if _given(title) else codec,
        kind=rows["kind"].iloc[0],
        points=tuple(rows["point"]),
        x=tuple(float(value) for value in rows[card.x]),
        y=tuple(float(value) for value in rows[card.y]),
        lo=tuple(float(value) for value in rows["_lo"]),
        hi=tuple(float(value) for value in rows["_hi"]),
        joined=joined,
    )


def _ties(rows: pd.DataFrame, card: FigureCard) -> tuple[Tie, ...]:
    """A tie per rate at which at least two codecs decode the same streams; a codec's points among themselves are none."""
    ties = []
    for _, some in rows.groupby("bytes"):
        some = some.drop_duplicates("codec", keep=False).sort_values([card.x, card.y])
        if len(some) > 1:
            ties.append(Tie(float(some["bpp"].iloc[0]), tuple(some[card.x].astype(float)), tuple(some[card.y].astype(float))))
    return tuple(ties)


def _is_fingerprinted(card: FigureCard) -> bool:
    return card.x in FINGERPRINTED or card.y in FINGERPRINTED


def _refuse_mixed(rows: pd.DataFrame, column: str, card: FigureCard, dataset: str) -> None:
    ids = rows.groupby(rows[column].fillna("none"))["codec"].unique()
    if len(ids) > 1:
        listed = "; ".join(f"{fid_id}: {', '.join(sorted(codecs))}" for fid_id, codecs in ids.items())
        raise BadRequest(
            f'figure "{card.id}": {dataset} has {len(ids)} fingerprints that cannot share an axis ({listed}); '
            'score all with the same weights (hfdbench score) or name codecs of one fingerprint in the card\'s "codecs"'
        )


def _nothing(card: FigureCard, dataset: str, rows: pd.DataFrame, notes: list[str]) -> Unavailable:
    reason = f'figure "{card.id}": no point of {dataset} has both {card.x} and {card.y}'
    if _is_fingerprinted(card) and not rows[card.y].notna().any() and len(rows):
        return Unavailable(f"{reason}: scored without Inception weights", "hfdbench score --inception PATH")
    codec = card.codecs[0] if card.codecs else "jpeg"
    return Unavailable(f"{reason} ({'; '.join(notes)})", f"hfdbench run --codec {codec} --dataset {dataset}")


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
        few = patches < ENOUGH_PATCHES and "fid" in (card.x, card.y)
        facts.append(f"{patches:,} patches" + few * ": FID biased upwards, compare only within this figure")
        rules.append(f"{first['fid_protocol']}: {PROTOCOLS.get(first['fid_protocol'], 'own protocol')}")
        rules.append(f"fingerprint {first['fid_id']}")
    return (*facts, *rules)


def _given(value: object) -> bool:
    return isinstance(value, str) and value != ""
