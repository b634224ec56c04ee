"""Pixel distortion between an original and its reconstruction, both 8-bit RGB.

Conventions: images are uint8, H x W x 3, of one shape; mse is the mean over all H * W * 3 samples, in squared grey
levels, summed exactly; PSNR is in dB with a peak of 255; MS-SSIM has no unit, 1 is identical.
Identical images have no PSNR: it is None, never infinity and never a made-up number.
MS-SSIM needs a side of at least 161 pixels (five scales of an 11-pixel window); below that it is None. Negative
contrast terms count as 0, as in pytorch-msssim.
"""

import math
from collections.abc import Iterable

import numpy as np
from scipy.ndimage import correlate1d

MS_SSIM_SIDE = 161  # pixels: (11 - 1) * 2^(5 - 1) + 1
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
STRIP = 32  # rows of a map at a time


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error over all samples, exact.

    Parameters
    ----------
    a, b : ndarray
        Original and reconstruction, uint8, H x W x 3.

    Returns
    -------
    float
        Squared grey levels, 0 to 65025.

    Raises
    ------
    ValueError
        The two are no images of one shape.
    """
    _check(a, b)
    total = 0.0  # a whole number below 2^53, which float64 holds exactly whatever the order
    for row_a, row_b in zip(a, b, strict=True):  # one row at a time: memory does not grow with the image
        difference = (row_a.astype(np.float64) - row_b).ravel()
        total += float(difference @ difference)
    return total / a.size


def psnr_db(mse: float) -> float | None:
    """Peak signal-to-noise ratio, in dB with a peak of 255, of a mean squared error; None when that is 0."""
    return None if mse == 0 else 10 * math.log10(255**2 / mse)


def psnr_pooled_db(images: Iterable[tuple[float, int]]) -> float | None:
    """PSNR of the error pooled over images, so that every pixel weighs the same.

    Parameters
    ----------
    images : iterable of (float, int)
        Mean squared error and number of pixels of each image.

    Returns
    -------
    float or None
        dB; None when all images are identical to their originals.

    Raises
    ------
    ValueError
        There is no image.
    """
    images = list(images)
    if not images:
        raise ValueError("pooled PSNR of no image")
    return psnr_db(math.fsum(mse * pixels for mse, pixels in images) / sum(pixels for _, pixels in images))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Multi-scale structural similarity, mean over the RGB channels.

    Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity for image quality assessment", eq. 7; windows, scales and
    borders as in pytorch-msssim, but in float64: in float32 the variances of bright flat areas are rounding noise.

    Parameters
    ----------
    a, b : ndarray
        Original and reconstruction, uint8, H x W x 3.

    Returns
    -------
    float or None
        0 to 1; None when a side is under 161 pixels.

    Raises
    ------
    ValueError
        The two are no images of one shape.
    """
    _check(a, b)
    if min(a.shape[:2]) < MS_SSIM_SIDE:
        return None
    channels = [_ms_ssim(a[..., c].astype(np.float64), b[..., c].astype(np.float64)) for c in range(3)]
    return min(math.fsum(channels) / 3, 1.0)


def _ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of one channel, float64, H x W."""
    value = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
        structure, similarity = _ssim(a, b)
        value *= max(similarity if scale == len(WEIGHTS) - 1 else structure, 0.0) ** weight
    return value


def _ssim(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean contrast-structure term and mean SSIM of one scale.

    The maps are made strip by strip: what a strip takes stays in the processor's cache and out of fresh pages.
    """
    border = len(WINDOW) - 1
    structure, similarity = np.empty((2, a.shape[0] - border, a.shape[1] - border))
    for top in range(0, len(structure), STRIP):
        rows = slice(top, top + STRIP + border)
        structure[top : top + STRIP], similarity[top : top + STRIP] = _ssim_maps(a[rows], b[rows])
    return float(structure.mean()), float(similarity.mean())


def _ssim_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contrast-structure term and SSIM wherever the window lies inside the image."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    products = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    covariance = _blurred(a * b) - products
    variances = _blurred(a**2 + b**2) - squares
    structure = (2 * covariance + C2) / (variances + C2)
    return structure, structure * (2 * products + C1) / (squares + C1)


def _blurred(x: np.ndarray) -> np.ndarray:
    """Gaussian-weighted local means, where the window lies inside the image."""
    edge, height = len(WINDOW) // 2, len(x) - len(WINDOW) + 1
    rows = x[edge : edge + height] * WINDOW[edge]  # down the columns, for which correlate1d takes three times as long
    pair = np.empty_like(rows)
    for step in range(edge, 0, -1):
        np.add(x[edge - step :][:height], x[edge + step :][:height], out=pair)
        pair *= WINDOW[edge - step]
        rows += pair
    return correlate1d(rows, WINDOW, axis=1)[:, edge:-edge]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd side gets a line of zeros at both ends first, as in pytorch-msssim."""
    x = np.pad(x, [(side % 2, side % 2) for side in x.shape])
    height, width = (side // 2 * 2 for side in x.shape)
    upper, lower = x[0:height:2, :width], x[1:height:2, :width]
    columns = upper + lower
    return (columns[:, 0::2] + columns[:, 1::2]) / 4


def size_mismatch(original: np.ndarray, decoded: np.ndarray) -> str:
    """Why a pair of images (H x W x 3) cannot be compared; empty when it can."""
    if original.shape == decoded.shape:
        return ""
    (h, w, _), (height, width, _) = decoded.shape, original.shape
    return f"decoded to {w}x{h} pixels, the original has {width}x{height}"


def compare(original: np.ndarray, decoded: np.ndarray) -> dict[str, float | bool | None]:
    """Compute the pixel metrics of a pair of images, in the columns of an images table.

    Parameters
    ----------
    original, decoded : ndarray
        uint8, H x W x 3.

    Returns
    -------
    dict
        `mse`, `psnr_db`, `identical` and `ms_ssim`.

    Raises
    ------
    ValueError
        The two are no images of one shape.
    """
    error = mse(original, decoded)
    return {
        "mse": error,
        "psnr_db": psnr_db(error),
        "identical": error == 0,
        "ms_ssim": ms_ssim(original, decoded),
    }


def ms_ssim_db(ms_ssim: float) -> float | None:
    """MS-SSIM on a logarithmic scale, -10 log10(1 - x); None when identical."""
    return None if ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"an image must be uint8, H x W x 3, not {image.dtype} {image.shape}")
    if a.shape != b.shape:
        raise ValueError(f"original and reconstruction differ in shape: {a.shape} and {b.shape}")
