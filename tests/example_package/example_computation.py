"""What the rows of `example_metrics` compute."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hfdbench.metrics.image.measure import Place
from hfdbench.metrics.networks.weights import Bundled

WEIGHTS = Bundled(
    path=Path(__file__).parent / "example_weights.json",
    sha256="d5986e26665c91caeef27633a6762f1710aec2493399cc570c4a69773e48644d",
    package="example_metrics",
)


class Blocks:
    """Mean colours of a grid of blocks: a network without learning."""

    batch = 16

    def __init__(self, weights: Path, device: str):
        self._grid = json.loads(weights.read_text())["grid"]

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """uint8 patches, H x W x 3 -> float32, N x 48."""
        rows = [self._blocks(patch) for patch in patches]
        return np.stack(rows).astype(np.float32) if rows else np.empty((0, 3 * self._grid**2), np.float32)

    def _blocks(self, patch: np.ndarray) -> np.ndarray:
        bands = np.array_split(patch.astype(float), self._grid, axis=0)
        blocks = [block for band in bands for block in np.array_split(band, self._grid, axis=1)]
        return np.concatenate([block.mean(axis=(0, 1)) for block in blocks])


class MeanAbsoluteError:
    """A `metrics.image.measure.Measure`."""

    columns = ("mae",)
    identity = "example_metrics 1.0"
    remark = ""

    def __init__(self, place: Place):
        pass

    def __call__(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float | None, ...]:
        """Mean over all samples."""
        return (float(np.abs(original.astype(float) - decoded).mean()),)
