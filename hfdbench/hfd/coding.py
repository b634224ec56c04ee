"""Image to payload and back, slice by slice: memory that does not grow with the picture.

A picture is coded in slices of at most 1024 x 1024 pixels, each a rANS stream of its own; one that fits a slice is one stream.
The transforms see each slice inside a window that covers their receptive field, so slices leave no seams.

Payload: the streams in raster order, each but the last behind its length (4 bytes, big endian).
"""

import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import StreamError
from .autoencoder import STRIDE, Autoencoder

SLICE = 1024  # pixels a side, a multiple of 64
MARGIN = 128  # pixels: analysis reaches 72, synthesis fewer
LATENT = 16  # pixels per latent
LENGTH = struct.Struct(">I")


def slices(height: int, width: int) -> Iterator[tuple[tuple[int, int, int, int], tuple[int, int, int, int]]]:
    """(top, bottom, left, right) of every slice of the padded picture, and of its window."""
    height, width = (length + -length % STRIDE for length in (height, width))
    for top in range(0, height, SLICE):
        for left in range(0, width, SLICE):
            bottom, right = min(top + SLICE, height), min(left + SLICE, width)
            window = (
                max(top - MARGIN, 0),
                min(bottom + MARGIN, height),
                max(left - MARGIN, 0),
                min(right + MARGIN, width),
            )
            yield (top, bottom, left, right), window


@torch.inference_mode()
def encode(image: np.ndarray, rate: int, transforms: Autoencoder, coder: Autoencoder) -> bytes:
    """Payload of a uint8 image, H x W x 3. `coder` is the same model on the CPU: coding is exact there."""
    device = transforms.log_gain.device
    height, width = image.shape[:2]
    parts = []
    for inner, window in slices(height, width):
        # Beyond its end the picture repeats its last row and column; the rate still counts the original pixels.
        rows, columns = np.arange(*window[:2]).clip(max=height - 1), np.arange(*window[2:]).clip(max=width - 1)
        x = torch.from_numpy(image[rows[:, None], columns]).to(device).permute(2, 0, 1)[None].float() / 255
        y = transforms.analyse(x, torch.tensor([rate], device=device))
        parts.append(coder.compress(_inner(y, inner, window, LATENT).cpu(), rate))
    return b"".join(LENGTH.pack(len(part)) + part for part in parts[:-1]) + parts[-1]


@torch.inference_mode()
def decode(
    payload: bytes, height: int, width: int, rate: int, transforms: Autoencoder, coder: Autoencoder
) -> tuple[np.ndarray, Tensor]:
    """The reconstruction (uint8, H x W x 3) and the decoded latents, scaled. Raises StreamError for lengths that do not fit."""
    device = transforms.log_gain.device
    places = list(slices(height, width))
    bottom, right = places[-1][0][1], places[-1][0][3]
    y_hat = torch.empty(1, coder.config.latents, bottom // LATENT, right // LATENT)
    for (inner, _), part in zip(places, split(payload, len(places)), strict=True):
        top, bottom, left, right = (side // LATENT for side in inner)
        y_hat[..., top:bottom, left:right] = coder.decompress(part, (bottom - top, right - left), rate)
    x_hat = np.empty((height, width, 3), np.uint8)
    for inner, window in places:
        top, bottom, left, right = (side // LATENT for side in window)
        seen = y_hat[..., top:bottom, left:right].to(device)
        x = transforms.synthesise(seen, torch.tensor([rate], device=device))
        # Eight bits, as in training: samplers then start from what the MSE decoder shows.
        x = (_inner(x, inner, window, 1).clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).cpu().numpy()
        place = x_hat[inner[0] : inner[1], inner[2] : inner[3]]
        place[:] = x[: place.shape[0], : place.shape[1]]
    return x_hat, y_hat


def split(payload: bytes, count: int) -> list[bytes]:
    """The streams of a payload of `count` slices. Raises StreamError for lengths that do not fit."""
    parts, at = [], 0
    for _ in range(count - 1):
        if at + LENGTH.size > len(payload):
            raise StreamError("hfd stream ends inside its table of slices; encode the image again")
        (length,) = LENGTH.unpack_from(payload, at)
        parts.append(payload[at + LENGTH.size : at + LENGTH.size + length])
        at += LENGTH.size + length
    if at > len(payload):
        raise StreamError("hfd stream ends inside a slice; encode the image again")
    return [*parts, payload[at:]]


def _inner(x: Tensor, inner, window, scale: int) -> Tensor:
    top, left = (inner[0] - window[0]) // scale, (inner[2] - window[2]) // scale
    height, width = (inner[1] - inner[0]) // scale, (inner[3] - inner[2]) // scale
    return x[..., top : top + height, left : left + width]
