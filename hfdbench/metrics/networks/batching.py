"""How patches reach a feature network: in batches of one fixed shape, in full float32, resized by TensorFlow 1's rule.

Conventions: patches are uint8, H x W x 3, all of one size. The last batch is filled up with black: a patch's features then
depend neither on its neighbours nor on their number.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def described(
    patches: Iterable[np.ndarray], size: int, dimensions: int, forward: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Features of a stream of patches, one batch of which is held at a time.

    Parameters
    ----------
    patches : iterable of ndarray
        As `batches` takes them.
    size : int
        Patches per batch.
    dimensions : int
        Length of a feature vector.
    forward : callable
        The network: a batch, uint8, size x H x W x 3, to float32, size x D. Runs without gradients, in full float32.

    Returns
    -------
    ndarray
        float32, N x D, in the order of the patches.

    Raises
    ------
    ValueError
        As `batches` does.
    """
    import torch

    with torch.inference_mode(), full_precision():
        blocks = [forward(batch)[:filled] for batch, filled in batches(patches, size)]
    return np.concatenate(blocks) if blocks else np.empty((0, dimensions), np.float32)


def batches(patches: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut a stream of patches into batches of one shape.

    Parameters
    ----------
    patches : iterable of ndarray
        uint8, H x W x 3, all of one size.
    size : int
        Patches per batch.

    Yields
    ------
    batch : ndarray
        uint8, size x H x W x 3; a new array each time, so that consumers may keep it.
    filled : int
        How many of its patches are real.

    Raises
    ------
    ValueError
        A patch is no such array, or of another size than the first.
    """
    batch, filled, shape = None, 0, None
    for index, patch in enumerate(patches):
        if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[2] != 3 or patch.size == 0:
            raise ValueError(f"patch {index} must be uint8, H x W x 3, not {patch.dtype} {patch.shape}")
        shape = shape or patch.shape
        if patch.shape != shape:
            raise ValueError(f"patch {index} is {patch.shape}, the first was {shape}: they must be of one size")
        if batch is None:
            batch = np.zeros((size, *shape), np.uint8)
        batch[filled] = patch
        filled += 1
        if filled == size:
            yield batch, filled
            batch, filled = None, 0
    if batch is not None:
        yield batch, filled


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 and no autotuning inside; the caller's settings after."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Resizer:
    """Bilinear resize to a square by TensorFlow 1's rule: as a product with a matrix on each side.

    Parameters
    ----------
    side : int
        Of the result, in pixels.
    device : str
        Where the images are.
    """

    def __init__(self, side: int, device: str):
        self._side, self._device = side, device
        self._matrices: dict[int, torch.Tensor] = {}

    def __call__(self, images: "torch.Tensor") -> "torch.Tensor":
        """Float images, B x C x H x W -> B x C x side x side."""
        for side in images.shape[2:]:
            if side not in self._matrices:
                self._matrices[side] = resize_matrix(side, self._side).to(self._device)
        return self._matrices[images.shape[2]] @ (images @ self._matrices[images.shape[3]].T)


def resize_matrix(side: int, to: int) -> "torch.Tensor":
    """Matrix, to x side: pixel i of the output lies at i * side / to of the input, TensorFlow 1's corner rule."""
    import torch

    place = torch.arange(to, dtype=torch.float32) * (side / to)
    low = place.long()
    high = (low + 1).clamp(max=side - 1)
    matrix, row = torch.zeros(to, side), torch.arange(to)
    matrix[row, low] += 1 - (place - low)
    matrix[row, high] += place - low
    return matrix
