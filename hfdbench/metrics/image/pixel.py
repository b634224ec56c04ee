"""Pixel distortion between an original and its reconstruction, both 8-bit RGB.

Conventions: images are uint8, H x W x 3, of one shape; mse is the mean over all H * W * 3 samples, in squared grey
levels, summed exactly; PSNR is in dB with a peak of 255; MS-SSIM has no unit, 1 is identical.
Identical images have no PSNR: it is None, never infinity and never a made-up number.
MS-SSIM needs a side of at least 161 pixels (five scales of an 11-pixel window); below that it is None. Negative
contrast terms count as 0, as pytorch-msssim has it.
"""

import math
from collections.abc import Iterable

import numpy as np

MS_SSIM_SIDE = 161  # pixels: (11 - 1) * 2^(5 - 1) + 1


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error of two uint8 images over all samples, exact. Raises ValueError for other inputs."""
    _check(a, b)
    total = 0.0  # a whole number below 2^53, which float64 holds exactly whatever the order
    for row_a, row_b in zip(a, b, strict=True):  # one row at a time: memory does not grow with the image
        difference = (row_a.astype(np.float64) - row_b).ravel()
        total += float(difference @ difference)
    return total / a.size


def psnr_db(mse: float) -> float | None:
    """Peak signal-to-noise ratio of a mean squared error; None when it is 0."""
    return None if mse == 0 else 10 * math.log10(255**2 / mse)


def psnr_pooled_db(images: Iterable[tuple[float, int]]) -> float | None:
    """PSNR of the pooled error of (mse, pixels) pairs, one per image: every pixel weighs the same.

    None when all images are identical to their originals. Raises ValueError when there is none.
    """
    images = list(images)
    if not images:
        raise ValueError("pooled PSNR of no image")
    return psnr_db(math.fsum(mse * pixels for mse, pixels in images) / sum(pixels for _, pixels in images))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Multi-scale structural similarity, mean over the RGB channels; None when a side is under 161 pixels.

    Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity for image quality assessment", eq. 7.
    """
    _check(a, b)
    if min(a.shape[:2]) < MS_SSIM_SIDE:
        return None
    import torch
    from pytorch_msssim import ms_ssim as similarity

    with torch.inference_mode():
        # Channels-last, as pictures are anyway: five times as fast as planes.
        batches = (torch.from_numpy(np.ascontiguousarray(x)[None]).permute(0, 3, 1, 2) for x in (a, b))
        pair = [batch.float().contiguous(memory_format=torch.channels_last) for batch in batches]
        return similarity(*pair, data_range=255).item()


def ms_ssim_db(ms_ssim: float) -> float | None:
    """MS-SSIM on a logarithmic scale, -10 log10(1 - x); None when identical."""
    return None if ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"an image must be uint8, H x W x 3, not {image.dtype} {image.shape}")
    if a.shape != b.shape:
        raise ValueError(f"original and reconstruction differ in shape: {a.shape} and {b.shape}")
