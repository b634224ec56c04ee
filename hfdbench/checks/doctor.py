"""What works on this machine, and the command that provides what does not."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfdbench.cards.find import bundled_root, find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard
from hfdbench.codecs.identity import require_named
from hfdbench.codecs.pool import CodecFailed, Pool, find_level
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.metrics.image.measure import BY_NAME, Place, open_measure


@dataclass(frozen=True)
class Diagnosis:
    """broken: something that should work and does not; an optional thing that is absent is not broken."""

    what: str
    state: str
    hint: str = ""
    broken: bool = False

    def __str__(self) -> str:
        return f"{self.what:<28} {self.state}" + (f"\n{'':28} -> {self.hint}" if self.hint else "")

    @property
    def works(self) -> bool:
        return not (self.broken or self.state.startswith("not here"))


def summary(findings: Sequence[Diagnosis]) -> str:
    """One line for somebody who has just installed hfdbench."""
    broken = [finding.what for finding in findings if finding.broken]
    text = f"{sum(finding.works for finding in findings)} of {len(findings)} are ready; "
    if broken:
        return text + f"broken: {', '.join(broken)}"
    return text + "the rest is optional, and the line below each says how to get it"


def examine(inception: Path | None, data_root: Path | None, cards: Iterable[Path]) -> Iterator[Diagnosis]:
    """Look at the sandbox, codecs, datasets, Inception weights and the metrics of --metric, one finding each.

    A codec whose card lies in the current folder is not built unless `cards` names that folder: building runs its code.
    """
    cards = tuple(cards)
    yield _seal()
    for codec in find_cards(CodecCard, cards).values():
        yield _codec(codec, cards)
    for dataset in find_cards(DatasetCard, cards).values():
        yield _dataset(dataset, data_root, cards)
    yield _inception(inception, data_root)
    for name in BY_NAME:
        yield _measure(name, data_root)


def _codec(card: CodecCard, named: Iterable[Path]) -> Diagnosis:
    """Build every point: bundled codecs here, others in the sandbox that a run would give them."""
    name, folder = f"codec {card.id}", Path(card.source).resolve().parent.parent
    bundled = folder == bundled_root().resolve()
    if folder == Path.cwd().resolve() and not bundled and folder not in {Path(place).resolve() for place in named}:
        return Diagnosis(
            name, "not here: not tried, it lies in the current folder", "hfdbench doctor --cards . builds it"
        )
    with Pool("codec", 1, "cpu", retries=0) as pool:
        for number, point in enumerate(card.points):
            try:
                if card.python:
                    require_named(card, point.id)
                if bundled and not card.python:
                    load_codec(card, point.id)
                else:
                    pool.ask(card, point.id, {})
            except Unavailable as error:
                where = f"point {point.id}: " if number else ""
                return Diagnosis(name, f"not here: {_untried(card)}{where}{error.reason}", error.hint)
            except CodecFailed as error:
                if error.type == "Unavailable":
                    reason, _, hint = error.message.rpartition("; ")
                    return Diagnosis(name, f"not here: {_untried(card)}{reason or hint}", hint if reason else "")
                return Diagnosis(name, f"broken: {_untried(card)}point {point.id}: {error}", broken=True)
            except Exception as error:  # whatever a library raises; the doctor goes on
                return Diagnosis(name, f"broken: point {point.id}: {error}", broken=True)
    return Diagnosis(name, f"works, {len(card.points)} points" + (", untried" if card.untried else ""))


def _untried(card: CodecCard) -> str:
    return "untried, " if card.untried else ""


def _seal() -> Diagnosis:
    level = find_level()
    if level == "process":
        reason = "codecs run in processes that see this machine; results say seal = process"
        return Diagnosis("sandbox", f"not here: {reason}", "allow unprivileged user namespaces, or Linux with Landlock")
    return Diagnosis("sandbox", f"works, by {level}")


def _dataset(card: DatasetCard, data_root: Path | None, cards: Iterable[Path]) -> Diagnosis:
    from hfdbench.datasets.dataset import open_dataset

    name = f"dataset {card.id}"
    try:
        opened = open_dataset(card.id, cards=cards, data_root=places.data_root(data_root))
    except Unavailable as error:
        reason = error.reason.removeprefix(f"dataset {card.id} is not on this machine ").strip("()")
        return Diagnosis(name, f"not here: {reason}", error.hint)
    except UsageError as error:
        return Diagnosis(name, f"broken: {error}", broken=True)
    return Diagnosis(name, f"here, {len(opened)} images")


def _inception(given: Path | None, data_root: Path | None) -> Diagnosis:
    from hfdbench.metrics.networks.inception import Inception, find_inception

    name = "Inception weights (FID, KID)"
    try:
        path = find_inception(given, places.data_root(data_root), allow_download=False)
        return Diagnosis(name, f"here: {Inception(path).label} from {path}")
    except Unavailable as error:
        return Diagnosis(name, f"not here: {error.reason}; a run downloads them", error.hint)
    except UsageError as error:
        return Diagnosis(name, f"broken: {error}", broken=True)


def _measure(name: str, data_root: Path | None) -> Diagnosis:

    what = f"metric {name}"
    try:
        measure = open_measure(name, Place(data_root=places.data_root(data_root), allow_download=False))
    except Unavailable as error:
        return Diagnosis(what, f"not here: {error.reason}", error.hint)
    except UsageError as error:
        return Diagnosis(what, f"broken: {error}", broken=True)
    return Diagnosis(what, f"works: {measure.remark or measure.identity}")
