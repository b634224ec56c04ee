"""The whole extension point: a codec turns an image into bytes and bytes into an image.

Conventions: an image is uint8, H x W x 3, sRGB; the caller never pads. A class whose constructor takes the options of a
card's point and that has these two methods is a codec; nothing is inherited, nothing registered in code.

A constructor parameter named `weights` receives the paths of the point's weight files, verified by sha256, one named `device`
receives "cpu" or "cuda", and one named `base` receives the `BasePoint` of a card that names a base. A constructor raises
Unavailable when something it needs is not installed, before it does anything slow; encode raises CodecError for an image it cannot
code; decode raises StreamError for a stream it cannot honour. Optional: `ledger(stream) -> dict[str, int]`, the bytes of a stream
by what they are for, which add up to it; figures of what streams consist of show it. Optional: `decode_batch(streams, *, seed) ->
list of images`, the pixels that decode gives for each alone; the pipeline does not call it, `hfdbench conform` holds it to that.
"""

import importlib
import inspect
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256

if TYPE_CHECKING:
    import numpy as np

    from hfdbench.cards.schema import CodecCard

    Image = np.ndarray


class Codec(Protocol):
    """One operating point of one compressor."""

    version: int
    """Raised when its output may change. Declared in the class body; optional beside it: `libraries`, `tolerance` (`identity`)."""

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


def find_adapter(card: "CodecCard") -> type:
    """Import the class behind a card, without building it.

    Raises
    ------
    UsageError
        The card names no such module or class.
    Unavailable
        A package that the adapter imports is missing.
    """
    module_name, _, class_name = adapter_name(card.adapter).partition(":")
    look_beside(card)
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UsageError(f'{card.source}: key "adapter": no module "{error.name}"; fix the card') from None
        raise Unavailable(f"{card.id} needs the Python package {error.name}", f"pip install {error.name}") from None
    except AttributeError:
        raise UsageError(f'{card.source}: key "adapter": {module_name} has no "{class_name}"; fix the card') from None


def load_codec(card: "CodecCard", point_id: str, device: str = "cpu") -> Codec:
    """Build the codec of a card's point.

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
        It cannot work here: a program, a package or weights are missing.
    UsageError
        The card is wrong: unknown point, adapter or option.
    """
    point = card.point(point_id)
    adapter, class_name = find_adapter(card), card.adapter.partition(":")[2]
    arguments = dict(point.options)
    accepted = inspect.signature(adapter).parameters
    if "weights" in accepted:
        arguments["weights"] = [verified(card, point_id, entry.file, entry.sha256) for entry in point.weights]
    if "device" in accepted:
        arguments["device"] = device
    if "base" in accepted and card.base is not None:
        arguments["base"] = BasePoint(card.base, point_id, load_codec(base_card(card), point_id, device))
    try:
        inspect.signature(adapter).bind(**arguments)
    except TypeError as error:
        raise UsageError(f'{card.source}: point "{point_id}": options do not fit {class_name}: {error}') from None
    try:
        return adapter(**arguments)
    except UsageError as error:
        raise UsageError(f'{card.source}: point "{point_id}": {error}') from None


def base_card(card: "CodecCard") -> "CodecCard":
    """The card that `card.base` names: where it was found, else among the bundled cards and those beside this one."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard, read_card

    if card.base_source is not None:
        return read_card(card.base_source, CodecCard)
    return choose(CodecCard, [card.base or ""], [Path(card.source).resolve().parent.parent])[0]


def search_path(card: "CodecCard") -> list[str]:
    """Where the modules of a card's adapter are looked for: Python's path, then the folder beside the card's codecs/."""
    path = [entry or "." for entry in sys.path]
    beside = _beside(card)
    return path if beside is None or beside in path else [*path, beside]


def look_beside(card: "CodecCard") -> None:
    """Let Python find, after all else, a module that lies beside the codecs/ folder of a user's card."""
    beside = _beside(card)
    if beside is not None and beside not in sys.path:
        sys.path.append(beside)


def _beside(card: "CodecCard") -> str | None:
    from hfdbench.cards.find import bundled_root

    folder = Path(card.source).resolve().parent.parent
    return None if folder == bundled_root().resolve() else str(folder)


def verified(card: "CodecCard", point_id: str, file: str, sha256: str) -> Path:
    """Path of a weight file named in a card, relative to the card.

    Raises
    ------
    Unavailable
        The file is missing.
    UsageError
        Its sha256 is not the card's.
    """
    path = Path(card.source).parent / file
    if not path.is_file():
        raise Unavailable(
            f'{card.source}: point "{point_id}": {file} is missing', "reinstall hfdbench or train it anew"
        )
    found = file_sha256(path)
    if found != sha256:
        raise UsageError(
            f'{card.source}: point "{point_id}": sha256 of {file} differs (expected {sha256[:12]}…, got {found[:12]}…); '
            "restore the file or fix the card"
        )
    return path
