"""What cards may say: one frozen pydantic model for each kind, and one door through which TOML becomes a model.

The same door serves everything that users write in TOML or as options, recipes of trainings for example::

    class Recipe(Table):
        steps: int = Field(gt=0)

    recipe = validated(Recipe, read_toml(path), path)

A mistake ends in a UsageError such as `FILE: key "points.0.wieghts": is unknown; known keys: id, options`.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hfdbench.errors import UsageError, unknown
from hfdbench.files import places
from hfdbench.files.download import file_name


def _plain_id(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", value):
        raise ValueError("must be lower-case letters, digits and . _ + -")
    return value


def _requirement(value: str) -> str:
    if not re.match(r"[A-Za-z0-9]", value) or "\n" in value:
        raise ValueError('must be a requirement such as "torch==2.0.1"; options of pip go into its configuration')
    return value


HTTP = r"^https?://[^/]+/.+"
Id = Annotated[str, AfterValidator(_plain_id)]


SHARED = (
    "weights",
    "network_evaluations",
    "macs_per_evaluation",
    "macs_per_pixel",
)  # of all points, unless one says otherwise
Kind = Literal["classical", "autoencoder", "gan", "diffusion", "flow", "other"]


class Table(BaseModel):
    """A table of a card: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Card(Table):
    """What every card has. `source` is the file it was read from.

    `thing` and `folder_of_cards` are of the kind: what messages call it, and the folder that its cards lie in.
    """

    thing: ClassVar[str] = "card"
    folder_of_cards: ClassVar[str] = ""

    id: Id
    title: str = ""
    source: Path = Field(default=Path("card"), exclude=True)


class WeightFile(Table):
    """A file of weights: beside the card, or published at an address and kept in the cache by `hfdbench fetch`.

    file: path from the card's folder. url, mirrors: where the same bytes are published, tried in this order; bytes: their number;
    licence: its name, which whoever downloads them accepts; licence_url: its text. A url whose sha256 is not known may do without:
    the first download then counts, and its hash becomes part of the codec's key.
    """

    file: str | None = None
    url: str | None = Field(default=None, pattern=HTTP)
    mirrors: tuple[Annotated[str, Field(pattern=HTTP)], ...] = ()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, ge=1)
    licence: str = ""
    licence_url: str = ""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError('give either "file" or "url"')
        if self.url is not None and not self.licence:
            raise ValueError('"url" needs "licence", the name that is shown before the download')
        if self.sha256 is None and (self.file is not None or self.mirrors):
            raise ValueError('"sha256" is missing; only a single "url" may do without')
        if self.file is not None and (self.mirrors or self.bytes):
            raise ValueError('"mirrors" and "bytes" go with "url"')
        return self

    @property
    def name(self) -> str:
        """The file as messages call it."""
        return self.file or file_name(self.url or "")

    def path(self, card: Card) -> Path:
        """Where it lies, or will."""
        if self.file is not None:
            return Path(card.source).parent / self.file
        folder = self.sha256 or "unpinned-" + hashlib.sha256((self.url or "").encode()).hexdigest()[:16]
        return places.cache_folder() / "weights" / folder / self.name

    def hint(self, card: Card) -> str:
        """How to get it when it is missing."""
        return "reinstall hfdbench or train it anew" if self.file is not None else f"hfdbench fetch {card.id}"


class Point(Table):
    """One operating point: the keyword arguments of the adapter.

    network_evaluations: passes of the decoder's network over each pixel, the cost that samplers are compared by.
    macs_per_evaluation: multiply-adds of one such pass for each pixel. macs_per_pixel: those of all else that decoding runs
    networks for. Both of a large picture, without padding and the overlaps of tiles.
    """

    id: Id
    options: dict[str, Any] = {}
    weights: tuple[WeightFile, ...] = ()
    network_evaluations: int | None = Field(default=None, ge=0)
    macs_per_evaluation: float | None = Field(default=None, ge=0)
    macs_per_pixel: float | None = Field(default=None, ge=0)

    @property
    def macs(self) -> float | None:
        """Multiply-adds of decoding for each pixel, all evaluations together; None where the card does not say."""
        if self.macs_per_evaluation is None:
            return self.macs_per_pixel
        return (self.macs_per_pixel or 0) + self.macs_per_evaluation * (self.network_evaluations or 0)


class Skip(Table):
    """An honest absence, shown in the report with its reason. Without point or dataset it covers all of them."""

    reason: str
    point: str | None = None
    dataset: str | None = None


class CodecCard(Card):
    """What is compared. `settings` states what a reader must know: encoder, chroma, effort, colour path.

    options, weights, network_evaluations, macs_per_evaluation, macs_per_pixel: what all points have in common; a point's own
    options are added, the others replace the common ones.
    python: requirements, as pip takes them, of a Python of its own that the codec's processes start in; numpy is added.
    untried: what of it was never run by hfdbench's makers, in words; empty for a codec that was.
    streams: id of the codec whose streams (of the same point ids) this one decodes; it then never encodes.
    base: id of the codec whose decoded images this one starts from, which may have a base itself; its streams are then those
    that the base decodes. The adapter's constructor receives the base's point of the same id as `base`
    (hfdbench.codecs.protocol.BasePoint). base_sources: the file of the base, then those of the bases behind it.
    """

    thing: ClassVar[str] = "codec"
    folder_of_cards: ClassVar[str] = "codecs"

    kind: Kind
    adapter: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    paper: str = ""
    settings: str = ""
    streams: str | None = None
    base: str | None = None
    base_sources: tuple[Path, ...] = Field(default=(), exclude=True)
    python: tuple[Annotated[str, AfterValidator(_requirement)], ...] = ()
    untried: str = ""
    options: dict[str, Any] = {}
    weights: tuple[WeightFile, ...] = ()
    network_evaluations: int | None = Field(default=None, ge=0)
    macs_per_evaluation: float | None = Field(default=None, ge=0)
    macs_per_pixel: float | None = Field(default=None, ge=0)
    points: tuple[Point, ...] = Field(min_length=1)
    skip: tuple[Skip, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        if data.get("base") and data.get("streams") is None:
            data = {**data, "streams": data["base"]}  # find_cards follows the base
        points, common = data.get("points"), data.get("options", {})
        shared = {key: data[key] for key in SHARED if key in data}
        if not isinstance(common, dict) or not isinstance(points, list):
            return data  # left to the validation of the fields

        def whole(point: Any) -> Any:
            own = point.get("options", {}) if isinstance(point, dict) else None
            return {**shared, **point, "options": {**common, **own}} if isinstance(own, dict) else point

        return {**data, "points": [whole(point) for point in points]}

    @model_validator(mode="after")
    def _unique_points(self) -> Self:
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

    url: str = Field(pattern=HTTP)
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

    thing: ClassVar[str] = "dataset"
    folder_of_cards: ClassVar[str] = "datasets"

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
    def _has_a_place(self) -> Self:
        if (self.folder is None) == (self.package is None):
            raise ValueError('give either "folder" or "package"')
        return self

    @model_validator(mode="after")
    def _has_one_list(self) -> Self:
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
    join: what lines join, the points of a "codec" or also the decoders of equal "streams", a line for each rate; "base": no
    lines, but arrows from a codec's point to what decoders make of its streams, at the `rates` (bpp; the middle one when
    empty) and among all that spend as many bits; codecs: ids to draw, all when empty; focus: ids drawn in colour, the others
    in grey; reference: a codec that a second panel holds the others against, at equal rate; width: of the page, "column"
    (3.35 in) or "full" (6.9 in); note: a sentence for the caption, which opens with the title.
    """

    thing: ClassVar[str] = "figure"
    folder_of_cards: ClassVar[str] = "reports"

    chart: Literal["curves", "ledger"] = "curves"
    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    x_zero: bool = False
    join: Literal["codec", "streams", "base"] = "codec"
    rates: tuple[float, ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    codecs: tuple[str, ...] = ()
    focus: tuple[str, ...] = ()
    reference: str | None = None
    dataset: str | None = None
    width: Literal["column", "full"] = "column"
    note: str = ""

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for key in ("x", "y"):
            low, high = getattr(self, f"{key}_range") or (1, 2)
            if not low < high or (low <= 0 and getattr(self, f"{key}_log")):
                raise ValueError(f"{key}_range must be [low, high], both positive on a logarithmic axis")
        return self


class GateCard(Card):
    """What the gate lets pass. `level`: of the intervals; `time_floor_s`: shorter times count as this long.

    tolerance: how much worse a point may be, by metric: a fraction of the baseline's value, PSNR in dB. A metric that is not
    named is not gated; without the table the tolerances of `metrics.registry` hold.
    """

    thing: ClassVar[str] = "gate"
    folder_of_cards: ClassVar[str] = "reports/gate"

    level: float = Field(default=0.99, gt=0, lt=1)
    time_floor_s: float = Field(default=0.05, ge=0)
    tolerance: dict[str, Annotated[float, Field(ge=0)]] = {}


M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound=Card)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with or without a byte-order mark, with any line ends.

    Parameters
    ----------
    path : Path
        A UTF-8 file.

    Returns
    -------
    dict
        Its table.

    Raises
    ------
    UsageError
        When it cannot be read or is not valid TOML, naming the line.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}; fix that line") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read: {error}; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check its name and permissions") from None


def validated(kind: type[M], data: dict[str, Any], origin: Path | str, **more: Any) -> M:
    """Build a model from the keys of a table.

    Parameters
    ----------
    kind : type of BaseModel
        The model.
    data : dict
        Keys and values as they were written.
    origin : Path or str
        Where they were written, for messages.
    **more
        Fields that do not come from the table.

    Returns
    -------
    BaseModel
        An instance of `kind`.

    Raises
    ------
    UsageError
        For the first wrong key: its name, what is wrong with it, and the known keys where it is unknown.
    """
    if taken := sorted(data.keys() & more.keys()):
        raise UsageError(f'{origin}: key "{taken[0]}": is unknown; remove it')
    try:
        return kind(**data, **more)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(all of it)"
        cause = {"missing": "is missing", "extra_forbidden": "is unknown"}.get(first["type"], first["msg"])
        known = [name for name in _known_keys(kind, first["loc"]) if name not in more]
        hint = {"missing": "add it", "extra_forbidden": f"known keys: {', '.join(known)}"}.get(
            first["type"], "correct it"
        )
        raise UsageError(f'{origin}: key "{key}": {cause}; {hint}') from None


def read_card(path: Path, kind: type[C]) -> C:
    """Read and validate one card. Raises UsageError as `read_toml` and `validated` do."""
    found = {"base_sources": ()} if kind is CodecCard else {}  # filled in by find_cards
    return validated(kind, read_toml(path), path, source=path, **found)


def _known_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the table that a key at this location stands in."""
    for part in location[:-1]:
        if isinstance(part, str):
            tables = [t for t in get_args(kind.model_fields[part].annotation) if isinstance(t, type)]
            kind = next((table for table in tables if issubclass(table, BaseModel)), kind)
    return list(kind.model_fields)
