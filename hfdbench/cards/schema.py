"""Cards: TOML files that say what is compared, on what, and how it is shown. Read, validate, find them.

A card is found in, later folders adding to earlier ones: the bundled folder, folders named by entry points of the group
`hfdbench.cards` (an entry point is a path, or a function that returns one), the current directory, and every --cards DIR.
Each of these holds `codecs/*.toml`, `datasets/*.toml`, `reports/*.toml`. Two cards of one id are refused, unless the
files are equal to the byte (a checkout beside an installed copy).
"""

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hfdbench.errors import UsageError, unknown

ID = re.compile(r"[a-z0-9][a-z0-9._+-]*")

PACKAGE = Path(__file__).parent.parent  # of hfdbench


class Table(BaseModel):
    """A table of a card: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Card(Table):
    """What every card has. `source` is the file it was read from."""

    id: str
    title: str = ""
    source: Path = Field(default=Path("card"), exclude=True)

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError("must be lower-case letters, digits and . _ + -")
        return value


class WeightFile(Table):
    """A file of weights beside the card."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Point(Table):
    """One operating point: the keyword arguments of the adapter.

    network_evaluations: passes of the decoder's network over each pixel, the cost that samplers are compared by.
    """

    id: str
    options: dict[str, Any] = {}
    weights: tuple[WeightFile, ...] = ()
    network_evaluations: int | None = Field(default=None, ge=0)

    _plain = field_validator("id")(Card._plain_id.__func__)


class Skip(Table):
    """An honest absence, shown in the report with its reason. Without point or dataset it covers all of them."""

    reason: str
    point: str | None = None
    dataset: str | None = None


class CodecCard(Card):
    """What is compared. `settings` states what a reader must know: encoder, chroma, effort, colour path.

    options, weights, network_evaluations: what all points have in common; a point's own options are added, the others
    replace the common ones.
    streams: id of the codec whose streams (of the same point ids) this one decodes; it then never encodes.
    """

    kind: Literal["classical", "autoencoder", "gan", "diffusion", "flow"]
    adapter: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    paper: str = ""
    settings: str = ""
    streams: str | None = None
    options: dict[str, Any] = {}
    weights: tuple[WeightFile, ...] = ()
    network_evaluations: int | None = Field(default=None, ge=0)
    points: tuple[Point, ...] = Field(min_length=1)
    skip: tuple[Skip, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        points, common = data.get("points"), data.get("options", {})
        shared = {key: data[key] for key in ("weights", "network_evaluations") if key in data}
        if not isinstance(common, dict) or not isinstance(points, list):
            return data  # left to the validation of the fields

        def whole(point: Any) -> Any:
            own = point.get("options", {}) if isinstance(point, dict) else None
            return {**shared, **point, "options": {**common, **own}} if isinstance(own, dict) else point

        return {**data, "points": [whole(point) for point in points]}

    @model_validator(mode="after")
    def _unique_points(self):
        ids = [point.id for point in self.points]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f'point "{name}" is given twice')
        return self

    def point(self, point_id: str) -> Point:
        for point in self.points:
            if point.id == point_id:
                return point
        raise unknown(f"point of {self.id}", point_id, (p.id for p in self.points))

    def skipped(self, point_id: str, dataset_id: str) -> str | None:
        """The reason why this point is not run on this dataset, or None."""
        for skip in self.skip:
            if skip.point in (None, point_id) and skip.dataset in (None, dataset_id):
                return skip.reason
        return None


class Source(Table):
    """A file to download. `unpack`: take the pictures out of this archive; `sha256` and `bytes` are checked when given."""

    url: str = Field(pattern=r"^https?://[^/]+/.+")
    bytes: int | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    unpack: Literal["zip", "tar"] | None = None


class DatasetCard(Card):
    """On what it is compared.

    folder: below the data root; count: number of images of the whole set, asserted; patches: number of FID/256 patches
    of the whole set, asserted; protocol: how FID cuts it; crop: how each picture is brought to its crop on reading;
    names: file beside the card that lists the pictures of the set in order, one a line, pinned by names_sha256;
    pool: number of pictures in the folder, asserted, when the set is only `count` of them, chosen by the rule of `dataset`;
    package: Python function "module:function" that returns the paths of the pictures, instead of a folder.
    """

    folder: str | None = Field(default=None, pattern=r"^\w[\w.+-]*$")
    package: str | None = None
    count: int | None = Field(default=None, ge=1)
    patches: int | None = Field(default=None, ge=1)
    pool: int | None = Field(default=None, ge=1)
    protocol: Literal["fid256", "whole"] = "fid256"
    crop: Literal["none", "center256", "resize256"] = "none"
    names: str | None = None
    names_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    licence: str = ""
    note: str = ""
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _has_a_place(self):
        if (self.folder is None) == (self.package is None):
            raise ValueError('give either "folder" or "package"')
        return self

    @model_validator(mode="after")
    def _has_one_list(self):
        if (self.names is None) != (self.names_sha256 is None):
            raise ValueError('"names" and "names_sha256" go together')
        if self.pool is not None and (self.folder is None or self.names is not None or self.count is None):
            raise ValueError('"pool" needs "folder" and "count", and no "names"')
        return self


class FigureCard(Card):
    """How it is shown: one figure per dataset, or of the one named.

    chart: "curves" of y over x, or "ledger": what the streams consist of, a bar per point (x = "point", y = "bpp");
    x, y: columns of the points table; x_log, y_log: logarithmic axes, of 1 - value for a metric that ends at 1; x_zero: a
    logarithmic x that keeps a place for 0; x_range, y_range: limits of the axes, fitted to the data when not given;
    join: what lines join, the points of a "codec" or also the decoders of equal "streams", a line a rate; codecs: ids to
    draw, all when empty; width: of the page, "column" (3.35 in) or "full" (6.9 in); note: a sentence for the caption,
    which opens with the title.
    """

    chart: Literal["curves", "ledger"] = "curves"
    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    x_zero: bool = False
    join: Literal["codec", "streams"] = "codec"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    codecs: tuple[str, ...] = ()
    dataset: str | None = None
    width: Literal["column", "full"] = "column"
    note: str = ""

    @model_validator(mode="after")
    def _ordered_ranges(self):
        for key in ("x", "y"):
            low, high = getattr(self, f"{key}_range") or (1, 2)
            if not low < high or (low <= 0 and getattr(self, f"{key}_log")):
                raise ValueError(f"{key}_range must be [low, high], both positive on a logarithmic axis")
        return self


class Tolerance(Table):
    """How much worse a point may be: a fraction of the baseline's value, PSNR in dB. None: the metric is not gated."""

    bpp: float | None = Field(default=None, ge=0)
    psnr_db: float | None = Field(default=None, ge=0)
    fid: float | None = Field(default=None, ge=0)
    fd_mini: float | None = Field(default=None, ge=0)
    encode_s: float | None = Field(default=None, ge=0)
    decode_s: float | None = Field(default=None, ge=0)


class GateCard(Card):
    """What the gate lets pass. `level`: of the intervals; `time_floor_s`: shorter times count as this long."""

    level: float = Field(default=0.99, gt=0, lt=1)
    time_floor_s: float = Field(default=0.05, ge=0)
    tolerance: Tolerance


C = TypeVar("C", bound=Card)
FOLDERS: dict[type[Card], str] = {
    CodecCard: "codecs",
    DatasetCard: "datasets",
    FigureCard: "reports",
    GateCard: "reports/gate",
}


def bundled_root() -> Path:
    """Folder that holds codecs/, datasets/, reports/: inside an installed package, or the checkout itself."""
    installed = PACKAGE / "_data"
    return installed if installed.is_dir() else PACKAGE.parent


def card_roots(extra: Iterable[Path] = ()) -> list[Path]:
    """Every folder that cards are looked for in, in order. Raises UsageError for a --cards folder that is not there."""
    roots = [bundled_root(), *_entry_point_roots(), Path.cwd()]
    for folder in extra:
        if not Path(folder).is_dir():
            raise UsageError(f"--cards {folder}: no such folder; give one that holds codecs/, datasets/ or reports/")
        roots.append(Path(folder))
    return list(dict.fromkeys(root.resolve() for root in roots))


@cache
def _entry_point_roots() -> tuple[Path, ...]:
    roots = []
    for entry in entry_points(group="hfdbench.cards"):
        try:
            place = entry.load()
            roots.append(Path(place() if callable(place) else place))
        except Exception as error:
            raise UsageError(f'entry point "{entry.name}" of {entry.value}: {error}; mend or uninstall it') from error
    return tuple(roots)


def read_card(path: Path, kind: type[C]) -> C:
    """Read and validate one card. Raises UsageError naming file, key, cause and hint."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}; mend the line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if "source" in data:
        raise UsageError(f'{path}: key "source": unknown; remove it')
    try:
        return kind(**data, source=path)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole card)"
        cause = {"missing": "is missing", "extra_forbidden": "is unknown"}.get(first["type"], first["msg"])
        hint = {"missing": "add it", "extra_forbidden": f"known keys: {', '.join(_keys(kind, first['loc']))}"}
        raise UsageError(f'{path}: key "{key}": {cause}; {hint.get(first["type"], "fix the card")}') from None


def _keys(kind: type[BaseModel], location: tuple) -> list[str]:
    for part in location[:-1]:
        if isinstance(part, str):
            inner = [t for t in getattr(kind.model_fields[part].annotation, "__args__", ()) if isinstance(t, type)]
            tables = [t for t in inner if issubclass(t, BaseModel)]
            kind = tables[0] if tables else kind
    return [name for name in kind.model_fields if name != "source"]


def find_cards(kind: type[C], extra: Iterable[Path] = ()) -> dict[str, C]:
    """Every card of a kind by id, sorted. Raises UsageError for an invalid card or an id given twice."""
    found: dict[str, C] = {}
    for root in card_roots(extra):
        for path in sorted((root / FOLDERS[kind]).glob("*.toml")):
            card = read_card(path, kind)
            twin = found.get(card.id)
            if twin is None:
                found[card.id] = card
            elif twin.source.read_bytes() != path.read_bytes():
                raise UsageError(f'{path}: id "{card.id}" is taken by {twin.source}; choose another id')
    for card in found.values():
        if isinstance(card, CodecCard) and card.streams is not None:
            _check_streams(card, found)
    return dict(sorted(found.items()))


def _check_streams(card: CodecCard, cards: dict[str, Any]) -> None:
    maker = cards.get(card.streams)
    if maker is None:
        raise UsageError(f'{card.source}: key "streams": {unknown("codec", card.streams, cards)}')
    for point in card.points:
        if all(point.id != other.id for other in maker.points):
            raise UsageError(f'{card.source}: point "{point.id}": {maker.id} has no such point; rename it')


def choose(kind: type[C], wanted: Iterable[str], extra: Iterable[Path] = ()) -> list[C]:
    """Cards by id, in the order asked for. Raises UsageError for an unknown one, naming the nearest."""
    cards = find_cards(kind, extra)
    thing = {CodecCard: "codec", DatasetCard: "dataset", FigureCard: "figure", GateCard: "gate"}[kind]
    chosen = []
    for name in dict.fromkeys(wanted):
        if name not in cards:
            raise unknown(thing, name, cards)
        chosen.append(cards[name])
    return chosen
