"""What a run measures with: feature networks and the metrics of `--metric`, found before the first encode."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.metrics.image.measure import ALWAYS as UNASKED
from hfdbench.metrics.image.measure import BY_NAME, Measure, Place, open_measure
from hfdbench.metrics.image.measure import NONE as NO_METRIC
from hfdbench.metrics.networks.extractors import ALWAYS, NONE, Extractor, Network, find_extractor, parse_feature
from hfdbench.metrics.registry import frechet_column
from hfdbench.pipeline.plan import Request

DEAR_S = 5  # core seconds a megapixel: of such a metric that nobody asked for, users are told beforehand


@dataclass(frozen=True)
class Instruments:
    """What is here, and why the rest is not.

    Attributes
    ----------
    device : str
        Where networks are built.
    extractors : Mapping of str to Extractor
        Feature networks whose weights are here, by name.
    absent : Mapping of str to Unavailable
        The others that are always used or were asked for.
    measures : Mapping of str to Measure
        Metrics on images that work here, asked for by `--metric` or measured always, by name.
    unmeasured : Mapping of str to Unavailable
        Those that were asked for and do not.
    unasked : frozenset of str
        Those of `measures` that nobody asked for.
    """

    device: str
    extractors: Mapping[str, Extractor]
    absent: Mapping[str, Unavailable]
    measures: Mapping[str, Measure]
    unmeasured: Mapping[str, Unavailable]
    unasked: frozenset[str] = frozenset()
    _built: dict[str, Network] = field(default_factory=dict, compare=False, repr=False)

    def network(self, name: str) -> Network:
        """Return a feature network, built when it is first asked for. Raises UsageError for damaged weights."""
        if name not in self._built:
            self._built[name] = self.extractors[name].build(self.device)
        return self._built[name]


def open_instruments(request: Request) -> Instruments:
    """Find the networks and metrics of a request. Raises UsageError for an unknown name or a wrong file."""
    root = places.data_root(request.data_root)
    extractors, absent = {}, {}
    asked = {name: None for name in ALWAYS} | {"inception": request.inception}
    if NONE in request.features:
        if request.inception is not None:
            raise UsageError("--inception: --feature none leaves FID out; leave one of the two options out")
        asked = {}
    asked |= dict(parse_feature(feature) for feature in request.features if feature != NONE)
    for name, file in asked.items():
        try:
            extractors[name] = find_extractor(name, file, root, allow_download=not request.dry_run)
        except Unavailable as error:
            absent[name] = error
    measures, unmeasured = {}, {}
    weights = dict(request.weights)
    for name in weights:
        if name not in request.metrics and name not in UNASKED:
            raise UsageError(f"--weights {name}=…: {name} is not asked for; add --metric {name}")
    wanted = [*request.metrics, *weights]
    unasked = () if NO_METRIC in wanted else UNASKED
    for name in dict.fromkeys(name for name in (*wanted, *unasked) if name != NO_METRIC):
        asked = name in wanted
        try:
            place = Place(weights.get(name), root, request.device, asked and not request.dry_run)
            measures[name] = open_measure(name, place)
        except Unavailable as error:
            if asked:
                unmeasured[name] = error
    return Instruments(
        request.device,
        MappingProxyType(extractors),
        MappingProxyType(absent),
        MappingProxyType(measures),
        MappingProxyType(unmeasured),
        frozenset(measures.keys() - {*wanted}),
    )


def costs(instruments: Instruments, names: Container[str]) -> list[str]:
    """Say of metrics that nobody asked for what takes long, and how to leave it out; `names`: those to be measured."""
    if instruments.device != "cpu":
        return []
    seconds = {name: rows[0].core_s or 0 for name, rows in BY_NAME.items() if name in instruments.unasked}
    others = "".join(f" --metric {name}" for name, each in seconds.items() if each < DEAR_S)
    return [
        f"{name} takes a core about {each:g} s a megapixel; leave it out with --metric none{others}"
        for name, each in seconds.items()
        if name in names and each >= DEAR_S
    ]


def without(name: str) -> str:
    """Say which distance a missing network costs: "no FID"."""
    return "no FID" if name == "inception" else f"no {frechet_column(name) or name}"


def absences(instruments: Instruments, busy: bool) -> list[str]:
    """Say what is not here and which command completes the results; `busy`: something is to be measured."""
    lines = []
    for name, error in instruments.absent.items():
        if busy or name not in ALWAYS:
            asking = "" if name in ALWAYS else f" --feature {name}"
            lines.append(f"{without(name)}: {error}; then: hfdbench score{asking}")
    for name, error in instruments.unmeasured.items():
        lines.append(f"no {name}: {error}; then: hfdbench score --metric {name}")
    return lines
