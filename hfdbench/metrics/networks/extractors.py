"""Feature networks by name, with the weights that were found for them.

Conventions: the table of networks is `registry.NETWORKS`. An extractor's key is the first 8 digits of the sha256 of its
weights: it names the files of features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from hfdbench.errors import UsageError, unknown
from hfdbench.files.digest import file_sha256
from hfdbench.metrics.distribution.fingerprint import extractor_id
from hfdbench.metrics.networks.weights import Weights
from hfdbench.metrics.registry import NETWORKS, FeatureNetwork, frechet_column, resolve

ALWAYS = tuple(network.name for network in NETWORKS.values() if network.always)
NONE = "none"  # of `--feature`: not even those of ALWAYS


class Network(Protocol):
    """A network that is ready to compute, as `Extractor.build` gives it."""

    batch: int

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Compute features.

        Parameters
        ----------
        patches : iterable of ndarray
            uint8, H x W x 3, RGB, all of one size.

        Returns
        -------
        ndarray
            float32, N x D, in the order of the patches; each independent of its neighbours.
        """
        ...


@dataclass(frozen=True)
class Extractor:
    """A feature network and the file of its weights.

    Parameters
    ----------
    name : str
        Of the network in `registry.NETWORKS`.
    weights : Path
        The file.
    """

    name: str
    weights: Path

    @property
    def network(self) -> FeatureNetwork:
        """Its row in the table."""
        return NETWORKS[self.name]

    @property
    def column(self) -> str:
        """Column of its Fréchet distance."""
        return frechet_column(self.name)

    @cached_property
    def sha256(self) -> str:
        """Of the weights."""
        return file_sha256(self.weights)

    @property
    def key(self) -> str:
        """Names its files of features."""
        return self.sha256[:8]

    @property
    def dimensions(self) -> int:
        """Length of a feature vector."""
        return self.network.dimensions

    @property
    def id(self) -> str:
        """The middle part of the distance's fingerprint."""
        return extractor_id(self.network.rule, self.sha256)

    def build(self, device: str) -> Network:
        """Load the network. Raises UsageError for a file that does not hold its weights."""
        return resolve(self.network.build)(self.weights, device)


def parse_feature(text: str) -> tuple[str, Path | None]:
    """Split a user's "NAME" or "NAME=FILE". Raises UsageError for an unknown name or one that needs no asking."""
    name, _, file = text.partition("=")
    if name not in NETWORKS:
        raise unknown("feature", name, [*NETWORKS, NONE])
    if name in ALWAYS:
        raise UsageError(f"--feature {name}: is computed always" + "; its weights: --inception" * (name == "inception"))
    return name, Path(file) if file else None


def find_extractor(name: str, given: Path | None, data_root: Path | None, allow_download: bool = True) -> Extractor:
    """Find the weights of a network.

    Parameters
    ----------
    name : str
        Of the network in `registry.NETWORKS`.
    given : Path, optional
        The file that the user names.
    data_root : Path, optional
        Folder of the data.
    allow_download : bool
        Whether weights may be downloaded.

    Raises
    ------
    UsageError
        A file that was asked for is not there, or was altered.
    Unavailable
        There are no weights here.
    """
    weights: Weights = resolve(NETWORKS[name].weights)
    return Extractor(name, weights.find(given, data_root, allow_download))
