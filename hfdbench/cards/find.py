"""Find the cards of a kind in every folder that may hold some.

Conventions
    roots       later ones add to earlier ones: the bundled folder, folders named by entry points of the group `hfdbench.cards`
                (an entry point is a path, or a function that returns one), the current folder, and every --cards DIR.
    folders     a root holds `codecs/*.toml`, `datasets/*.toml`, `reports/*.toml`, `reports/gate/*.toml`.
    twins       two cards of one id are refused, unless the files are equal to the byte (a checkout beside an installed copy).
    code        reading cards imports no codec: the modules that cards name are imported when a codec is built. Entry points are
                code of installed packages; one that fails is named on stderr and left out.
"""

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hfdbench.cards.schema import C, CodecCard, read_card
from hfdbench.errors import UsageError, no_folder, unknown

PACKAGE = Path(__file__).resolve().parent.parent  # of hfdbench
log = logging.getLogger(__name__)


def bundled_root() -> Path:
    """Folder that holds codecs/, datasets/, reports/: inside an installed package, or the checkout itself."""
    installed = PACKAGE / "_data"
    return installed if installed.is_dir() else PACKAGE.parent


def card_roots(extra: Iterable[Path | str] = ()) -> list[Path]:
    """Every folder that cards are looked for in, in order. Raises UsageError for a --cards folder that is not there."""
    roots = [bundled_root(), *_entry_point_roots(), Path.cwd()]
    for folder in extra:
        if not Path(folder).is_dir():
            raise no_folder(folder, "give one that holds codecs/, datasets/ or reports/", f"--cards {folder}")
        roots.append(Path(folder))
    return list(dict.fromkeys(root.resolve() for root in roots))


@cache
def _entry_point_roots() -> tuple[Path, ...]:
    roots = []
    for entry in entry_points(group="hfdbench.cards"):
        try:
            place: Any = entry.load()
            found: Any = place() if callable(place) else place
            roots.append(Path(found))
        except Exception as error:  # an installed package may fail in any way; the other cards are still good
            log.warning(
                'cards of entry point "%s" of %s are left out: %s; fix or uninstall that package',
                *(entry.name, entry.value, error or type(error).__name__),
            )
    return tuple(roots)


def find_cards(kind: type[C], extra: Iterable[Path | str] = ()) -> dict[str, C]:
    """Every card of a kind.

    Parameters
    ----------
    kind : type of Card
        CodecCard, DatasetCard, FigureCard or GateCard.
    extra : iterable of Path
        Further roots, after the usual ones.

    Returns
    -------
    dict of str to Card
        Cards by id, sorted.

    Raises
    ------
    UsageError
        For an invalid card or an id given twice.
    """
    found: dict[str, C] = {}
    for root in card_roots(extra):
        for path in sorted((root / kind.folder_of_cards).glob("*.toml")):
            card = read_card(path, kind)
            twin = found.get(card.id)
            if twin is None:
                found[card.id] = card
            elif twin.source.read_bytes() != path.read_bytes():
                raise UsageError(f'{path}: id "{card.id}" is taken by {twin.source}; choose another id')
    codecs = {name: card for name, card in found.items() if isinstance(card, CodecCard)}
    for name, card in codecs.items():
        if card.base is not None:
            bases = _bases(card, codecs)
            streams = bases[-1].streams or bases[-1].id
            if card.streams not in (card.base, streams):
                raise UsageError(
                    f'{card.source}: key "base": {card.base} decodes the streams of {streams}, "streams" is {card.streams}; '
                    "leave that out"
                )
            sources = tuple(base.source.resolve() for base in bases)
            found[name] = card.model_copy(update={"streams": streams, "base_sources": sources})
        elif card.streams is not None:
            _named(card, "streams", card.streams, codecs)
    return dict(sorted(found.items()))


def _bases(card: CodecCard, cards: Mapping[str, CodecCard]) -> list[CodecCard]:
    """The card whose decoded images this one starts from, then the one that it starts from itself, to one that has no base.

    Raises UsageError when one is missing, runs in another Python, or starts from this one.
    """
    bases: list[CodecCard] = []
    below = card
    while below.base is not None:
        base = _named(below, "base", below.base, cards)
        if any(base.id == each.id for each in (card, *bases)):
            raise UsageError(
                f'{card.source}: key "base": {card.base} leads back to {base.id}; name a codec that decodes streams'
            )
        if base.python not in ((), card.python):
            raise UsageError(
                f'{card.source}: key "base": {base.id} has a Python of its own, in which this one must run, too; '
                'copy its "python"'
            )
        bases.append(base)
        below = base
    return bases


def _named(card: CodecCard, key: str, name: str, cards: Mapping[str, CodecCard]) -> CodecCard:
    """The card that a key names. Raises UsageError when there is none with the same points."""
    if (other := cards.get(name)) is None:
        raise UsageError(f'{card.source}: key "{key}": {unknown("codec", name, cards)}')
    for point in card.points:
        if all(point.id != theirs.id for theirs in other.points):
            raise UsageError(f'{card.source}: point "{point.id}": {other.id} has no such point; rename it')
    return other


def choose(kind: type[C], wanted: Iterable[str], extra: Iterable[Path | str] = ()) -> list[C]:
    """Cards by id, in the order asked for. Raises UsageError for an unknown one, naming the nearest."""
    cards = find_cards(kind, extra)
    chosen = []
    for name in dict.fromkeys(wanted):
        if name not in cards:
            raise unknown(kind.thing, name, cards)
        chosen.append(cards[name])
    return chosen
