"""Which networks' features are compared: the column of each one's Fréchet distance, and where its weights are.

Conventions: "inception" gives fid and kid, "mini" gives fd_mini: both are computed whenever they can be. "dinov2" and
"clip" give fd_dinov2 and fd_clip, when asked for. An extractor's key is the first 8 digits of the sha256 of its weights:
it names the files of features.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from hfdbench.cards.schema import Source
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.distribution.fingerprint import extractor_id
from hfdbench.metrics.networks.inception import Weights, find_inception, find_weights

COLUMNS = MappingProxyType({"inception": "fid", "mini": "fd_mini", "dinov2": "fd_dinov2", "clip": "fd_clip"})
ALWAYS = ("inception", "mini")
MINI = Path(__file__).parent / "weights" / "fd-mini-v2.safetensors"
MINI_SHA256 = "a74dc8516910ab4067c8c2f253bcc685008deda2aa7b0bd2f358f9089484f370"
DINOV2 = Weights(
    network="DINOv2",
    name="dinov2_vitb14_pretrain.pth",
    source=Source(
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        bytes=346_378_731,
        sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    option="--feature dinov2=",
    variable="HFDBENCH_DINOV2",
    folder="dinov2",
)
_CLIP_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"  # torch-fidelity's, too
CLIP = Weights(
    network="CLIP",
    name="ViT-B-32.pt",
    source=Source(
        url=f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-B-32.pt", sha256=_CLIP_SHA256
    ),
    option="--feature clip=",
    variable="HFDBENCH_CLIP",
    folder="clip",
)
_DIMENSIONS = {"inception": 2048, "mini": 256, "dinov2": 768, "clip": 512}
_CLASSES = {"inception": "inception:Inception", "mini": "fd_mini:Mini", "dinov2": "vit:DINOv2", "clip": "vit:CLIP"}


class Network(Protocol):
    """What `Extractor.build` gives."""

    batch: int

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """uint8 patches, H x W x 3, of one size -> float32, N x D, each independent of its neighbours."""


@dataclass(frozen=True)
class Extractor:
    """A network whose weights are at hand."""

    name: str
    weights: Path

    @property
    def column(self) -> str:
        """Of its Fréchet distance."""
        return COLUMNS[self.name]

    @cached_property
    def sha256(self) -> str:
        with open(self.weights, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @property
    def key(self) -> str:
        return self.sha256[:8]

    @property
    def dimensions(self) -> int:
        return _DIMENSIONS[self.name]

    @property
    def id(self) -> str:
        """The middle part of the distance's fingerprint."""
        return extractor_id("tf1" if self.name == "inception" else self.name, self.sha256)

    def build(self, device: str) -> Network:
        """Raises UsageError for a file that does not hold its weights."""
        module, _, name = _CLASSES[self.name].partition(":")
        return getattr(import_module(f".{module}", __package__), name)(self.weights, device)


def parse_feature(text: str) -> tuple[str, Path | None]:
    """A user's "NAME" or "NAME=FILE". Raises UsageError for an unknown name."""
    name, _, file = text.partition("=")
    if name not in COLUMNS:
        raise unknown("feature", name, COLUMNS)
    if name in ALWAYS:
        raise UsageError(f"--feature {name}: is computed always" + "; its weights: --inception" * (name == "inception"))
    return name, Path(file) if file else None


def find_extractor(name: str, given: Path | None, data_root: Path | None, allow_download: bool = True) -> Extractor:
    """An extractor by its name; `given`: its file of weights.

    Raises Unavailable when its weights are not here, UsageError for a file that is asked for and not there.
    """
    if name == "mini":
        mini = Extractor(name, MINI)
        if mini.sha256 != MINI_SHA256:
            raise UsageError(f"{MINI}: is not what hfdbench was shipped with; reinstall hfdbench")
        return mini
    if name == "inception":
        return Extractor(name, find_inception(given, data_root, allow_download))
    return Extractor(name, find_weights({"dinov2": DINOV2, "clip": CLIP}[name], given, data_root, allow_download))
