"""The id of a Fréchet distance, a FID say: two may be compared only when their ids are equal.

    fid256-192p-tf1-6726825d0af5-f32-1a2b3c4d
    |      |    |   |            |   |
    |      |    |   |            |   sha256 of the reference, the originals (first 8 digits)
    |      |    |   |            type the features are computed in
    |      |    |   sha256 of the file of the network's weights (first 12 digits)
    |      |    rule: which network, and how a patch becomes its input ("tf1": Inception)
    |      number of patches on each side
    protocol: how images are cut

Conventions: sha256 in hexadecimal; parts never hold a hyphen.
"""

import re
from dataclasses import dataclass

from hfdbench.metrics.registry import METRICS, NETWORKS, frechet_column

# weights-inception-2015-12-05-6726825d.pth of torch-fidelity; pytorch-fid publishes the same file under another name.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# The same network with two of its 94 convolutions fitted anew: for development, never compared with published FIDs.
REFITTED_SHA256 = "52a67ba62dbf7adc2e867c9ce292f47b7eb813492a63bf8824da08115c6d7ba9"

PROTOCOLS = {
    "fid256": "256x256 patches, one grid from (0, 0) and one from (128, 128), incomplete borders dropped",
    "whole": "whole images",
}
RULES = {network.rule: network for network in NETWORKS.values()}
TYPES = {"f32": "float32"}
PATTERN = re.compile(r"([a-z0-9]+)-(\d+)p-([a-z0-9]+)-([0-9a-f]{12})-([a-z0-9]+)-([0-9a-f]{8})")


@dataclass(frozen=True)
class Fingerprint:
    """The parts of an id."""

    protocol: str
    patches: int
    rule: str
    weights: str
    dtype: str
    reference: str

    @property
    def label(self) -> str:
        """Name of the metric on an axis. Of Inception, only the published weights give what others call FID."""
        network = RULES.get(self.rule)
        if network is None:
            return f"Fréchet distance ({self.rule})"
        if network.name == "inception":
            return weights_label(self.weights)
        return METRICS[frechet_column(network.name)].name


def extractor_id(rule: str, weights_sha256: str, dtype: str = "f32") -> str:
    """Id of a feature extractor: the middle part of the distance's id."""
    return f"{rule}-{weights_sha256[:12]}-{dtype}"


def weights_label(weights_sha256: str) -> str:
    """Name of a FID by the sha256 of its Inception weights, at least 12 digits of it."""
    for known, label in ((PUBLISHED_SHA256, "FID"), (REFITTED_SHA256, "FID (refitted Inception)")):
        if weights_sha256[:12] == known[:12]:
            return label
    return "FID (other Inception)"


def fid_id(protocol: str, patches: int, extractor_id: str, reference_sha256: str) -> str:
    """Id of a Fréchet distance. Raises ValueError when a part does not fit."""
    made = f"{protocol}-{patches}p-{extractor_id}-{reference_sha256[:8]}"
    parse(made)
    return made


def parse(fid_id: str) -> Fingerprint:
    """The parts of an id. Raises ValueError for a text that is none."""
    match = PATTERN.fullmatch(fid_id)
    if match is None:
        raise ValueError(
            f'"{fid_id}" is not the id of a Fréchet distance, such as fid256-192p-tf1-6726825d0af5-f32-1a2b3c4d'
        )
    protocol, patches, *rest = match.groups()
    return Fingerprint(protocol, int(patches), *rest)


def explain(fid_id: str) -> str:
    """An id in words, one line. Raises ValueError for a text that is none."""
    parts = parse(fid_id)
    rule = RULES[parts.rule].description if parts.rule in RULES else parts.rule
    return (
        f"{parts.label}: {parts.patches} patches ({PROTOCOLS.get(parts.protocol, parts.protocol)}); "
        f"{rule}; weights {parts.weights}; "
        f"{TYPES.get(parts.dtype, parts.dtype)}; reference {parts.reference}"
    )


def differences(a: str, b: str) -> list[str]:
    """Why two FIDs cannot be compared, a line a part; empty when they can. Raises ValueError for a text that is no id."""
    left, right = vars(parse(a)), vars(parse(b))
    return [f"{part}: {left[part]} and {right[part]}" for part in left if left[part] != right[part]]
