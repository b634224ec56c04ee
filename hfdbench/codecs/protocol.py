"""The whole extension point: a codec turns an image into bytes and bytes into an image.

Conventions: an image is uint8, H x W x 3, sRGB; the caller never pads. A class whose constructor takes the options of a
card's point and that has these two methods is a codec; nothing is inherited, nothing registered in code.

A constructor parameter named `weights` receives the paths of the point's weight files, verified by sha256, one named `device`
receives "cpu" or "cuda", and one named `base` receives the `BasePoint` of a card that names a base. A constructor raises
Unavailable when something it needs is not installed, before it does anything slow; encode raises CodecError for an image it cannot
code; decode raises StreamError for a stream it cannot honour. Optional: `ledger(stream) -> dict[str, int]`, the bytes of a stream
by what they are for, which add up to it; figures of what streams consist of show it. Optional: `decode_batch(streams, *, seed) ->
list of images`, the pixels that decode gives for each alone, to the bit, whatever else is in the batch; `hfdbench conform` holds it
to that. A run calls it where the class declares `batch`, a number above 1, with so many streams of pictures of one size. Bundled
codecs declare none: a network's kernels are chosen by the size of the batch, too, and round differently.

A codec is built from a `Blueprint`, plain values that a card and its point become: whoever builds it imports nothing but the
standard library before the adapter, so that a Python of a codec's own (`hfdbench.codecs.environments`) needs no more than numpy.
"""

import importlib
import inspect
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256

if TYPE_CHECKING:
    import numpy as np

    from hfdbench.cards.schema import CodecCard

    Image = np.ndarray


class Codec(Protocol):
    """One operating point of one compressor."""

    version: int
    """Raised when its output may change. Declared in the class body, as `libraries`, `tolerance`, `batch` may be (`identity`)."""

    def encode(self, image: "Image") -> bytes:
        """Self-contained stream: its length is the rate."""
        ...

    def decode(self, stream: bytes, *, seed: int) -> "Image":
        """Same stream, seed and device: same pixels. The stream is all it may use."""
        ...


def adapter_name(reference: str) -> str:
    """The adapter that a card means: names of the first release are translated, with a warning.

    Parameters
    ----------
    reference : str
        "module:Class".
    """
    if not reference.startswith("hfdbench.adapters."):
        return reference
    name = reference.replace("hfdbench.adapters.", "hfdbench.codecs.", 1)
    warnings.warn(
        f'adapter "{reference}" is now "{name}"; write that in the card, the next release refuses the old name',
        DeprecationWarning,
        stacklevel=2,
    )
    return name


@dataclass(frozen=True)
class BasePoint:
    """The point of another card whose decoded images a codec starts from: ids of card and point, and the codec built."""

    id: str
    point: str
    codec: Codec


@dataclass(frozen=True)
class WeightsAt:
    """A file of weights: as the card names it, where it lies, its sha256 if known, and how to get it when it is not there."""

    name: str
    path: str
    sha256: str | None
    hint: str


@dataclass(frozen=True)
class Blueprint:
    """What building a point's codec takes, as plain values.

    Attributes
    ----------
    card, point : str
        Ids.
    source : str
        The card's file, for messages.
    adapter : str
        "module:Class".
    options : dict
        Keyword arguments of the class.
    weights : tuple of WeightsAt
    beside : str, optional
        Folder beside the card's codecs/, whose modules are looked for after all others.
    base : Blueprint, optional
        The base's point of the same id.
    """

    card: str
    point: str
    source: str
    adapter: str
    options: dict[str, Any]
    weights: tuple[WeightsAt, ...] = ()
    beside: str | None = None
    base: "Blueprint | None" = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Blueprint":
        """The blueprint whose `dataclasses.asdict` went through JSON."""
        weights = tuple(WeightsAt(**entry) for entry in values["weights"])
        base = values["base"] and cls.from_json(values["base"])
        return cls(**{**values, "weights": weights, "base": base})


def blueprint(card: "CodecCard", point_id: str) -> Blueprint:
    """What building the codec of a card's point takes.

    Raises
    ------
    UsageError
        There is no such point, here or in the base.
    """
    point = card.point(point_id)
    return Blueprint(
        card=card.id,
        point=point_id,
        source=str(card.source),
        adapter=adapter_name(card.adapter),
        options=point.options,
        weights=tuple(WeightsAt(w.name, os.path.abspath(w.path(card)), w.sha256, w.hint(card)) for w in point.weights),
        beside=beside(card),
        base=None if card.base is None else blueprint(base_card(card), point_id),
    )


def find_adapter(plan: Blueprint) -> type:
    """Import the class of an adapter, without building it.

    Raises
    ------
    UsageError
        There is no such module or class.
    Unavailable
        A package that the adapter imports is missing.
    """
    module_name, _, class_name = plan.adapter.partition(":")
    if plan.beside is not None and plan.beside not in sys.path:
        sys.path.append(plan.beside)
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UsageError(f'{plan.source}: key "adapter": no module "{error.name}"; fix the card') from None
        raise Unavailable(f"{plan.card} needs the Python package {error.name}", f"pip install {error.name}") from None
    except AttributeError:
        raise UsageError(f'{plan.source}: key "adapter": {module_name} has no "{class_name}"; fix the card') from None


def load_codec(card: "CodecCard", point_id: str, device: str = "cpu") -> Codec:
    """Build the codec of a card's point in this process.

    Parameters
    ----------
    card : CodecCard
        The card.
    point_id : str
        One of its points.
    device : str
        "cpu" or "cuda"; passed on where the constructor has a parameter of that name.

    Raises
    ------
    Unavailable
        It cannot work here: a program, a package or weights are missing, or it has a Python of its own.
    UsageError
        The card is wrong: unknown point, adapter or option.
    """
    if card.python:
        raise Unavailable(
            f"{card.id} runs in a Python of its own, where only run, conform and doctor start it",
            f"hfdbench conform {card.id}",
        )
    return build(blueprint(card, point_id), device)


def build(plan: Blueprint, device: str = "cpu") -> Codec:
    """Build a codec in this process. Raises as `load_codec` does."""
    adapter = find_adapter(plan)
    arguments = dict(plan.options)
    accepted = inspect.signature(adapter).parameters
    if "weights" in accepted:
        arguments["weights"] = [verified(plan, entry) for entry in plan.weights]
    if "device" in accepted:
        arguments["device"] = device
    if "base" in accepted and plan.base is not None:
        arguments["base"] = BasePoint(plan.base.card, plan.point, build(plan.base, device))
    where = f'{plan.source}: point "{plan.point}"'
    try:
        inspect.signature(adapter).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{where}: options do not fit {plan.adapter.partition(':')[2]}: {error}") from None
    try:
        return adapter(**arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def base_card(card: "CodecCard") -> "CodecCard":
    """The card that `card.base` names: where it was found, else among the bundled cards and those beside this one."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard, read_card

    if card.base_sources:
        base, *behind = card.base_sources
        return read_card(base, CodecCard).model_copy(update={"base_sources": tuple(behind)})
    return choose(CodecCard, [card.base or ""], [Path(card.source).resolve().parent.parent])[0]


def search_path(card: "CodecCard") -> list[str]:
    """Where the modules of a card's adapter are looked for: Python's path, then the folder beside the card's codecs/."""
    path = [entry or "." for entry in sys.path]
    folder = beside(card)
    return path if folder is None or folder in path else [*path, folder]


def beside(card: "CodecCard") -> str | None:
    """The folder that holds the codecs/ folder of a user's card, where its modules may lie; None for a bundled card."""
    from hfdbench.cards.find import bundled_root

    folder = Path(card.source).resolve().parent.parent
    return None if folder == bundled_root().resolve() else str(folder)


def verified(plan: Blueprint, entry: WeightsAt) -> Path:
    """Path of a weight file that a blueprint names.

    Raises
    ------
    Unavailable
        The file is missing.
    UsageError
        Its sha256 is not the card's.
    """
    path, where = Path(entry.path), f'{plan.source}: point "{plan.point}"'
    if not path.is_file():
        raise Unavailable(f"{where}: {entry.name} is missing", entry.hint)
    if entry.sha256 is not None and (found := file_sha256(path)) != entry.sha256:
        raise UsageError(
            f"{where}: sha256 of {entry.name} differs (expected {entry.sha256[:12]}…, got {found[:12]}…); "
            "restore the file or fix the card"
        )
    return path
