# pyright: basic
"""Image to payload and back, part by part: memory that does not grow with the picture.

A picture is coded in slices of at most 1024 x 1024 pixels, each a rANS stream of its own; one that fits a slice is one stream.
The transforms see the picture in tiles, each inside a window that covers their receptive field: neither leaves a seam. Only the
latents are whole, 2.5 bytes a pixel.

Payload: the streams in raster order, each but the last behind its length (4 bytes, big endian).
Conventions: boxes are (top, bottom, left, right) in pixels of the padded picture, ends excluded.
"""

import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hfdbench.errors import StreamError
from hfdbench.hfd.autoencoder import STRIDE, Autoencoder

SLICE = 1024  # pixels a side, a multiple of 64; part of the format
TILE = 768  # pixels a side, a multiple of 16; changes memory and speed, nothing else
LATENT = 16  # pixels per latent
LENGTH = struct.Struct(">I")

Box = tuple[int, int, int, int]


def boxes(height: int, width: int, side: int) -> Iterator[Box]:
    """Of at most side x side pixels, in raster order: together the padded picture."""
    height, width = padded(height), padded(width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield top, min(top + side, height), left, min(left + side, width)


def padded(length: int) -> int:
    return length + -length % STRIDE


def windows(height: int, width: int, margin: int) -> Iterator[tuple[Box, Box, tuple[slice, slice]]]:
    """Of every tile of the transforms: its box, the box of its window, and the tile's latents within the window's."""
    height, width = padded(height), padded(width)
    for box in boxes(height, width, TILE):
        top, left = max(box[0] - margin, 0), max(box[2] - margin, 0)
        window = top, min(box[1] + margin, height), left, min(box[3] + margin, width)
        yield box, window, latents_of((box[0] - top, box[1] - top, box[2] - left, box[3] - left))


def latents_of(box: Box) -> tuple[slice, slice]:
    top, bottom, left, right = (side // LATENT for side in box)
    return slice(top, bottom), slice(left, right)


@torch.inference_mode()
def encode(image: np.ndarray, rate: int, transforms: Autoencoder, coder: Autoencoder) -> bytes:
    """Payload of a uint8 image, H x W x 3. `coder` is the same model on the CPU: coding is exact there."""
    device = transforms.log_gain.device
    height, width = image.shape[:2]
    y = torch.empty(1, coder.config.latents, padded(height) // LATENT, padded(width) // LATENT)
    for tile, window, inner in windows(height, width, coder.margin):
        # Beyond its end the picture repeats its last row and column; the rate still counts the original pixels.
        rows, columns = np.arange(*window[:2]).clip(max=height - 1), np.arange(*window[2:]).clip(max=width - 1)
        x = torch.from_numpy(image[rows[:, None], columns]).to(device).permute(2, 0, 1)[None].float() / 255
        y[..., *latents_of(tile)] = transforms.analyse(x, torch.tensor([rate], device=device))[..., *inner].cpu()
    parts = [coder.compress(y[..., *latents_of(box)], rate) for box in boxes(height, width, SLICE)]
    return b"".join(LENGTH.pack(len(part)) + part for part in parts[:-1]) + parts[-1]


@torch.inference_mode()
def decode(
    payload: bytes, height: int, width: int, rate: int, transforms: Autoencoder, coder: Autoencoder
) -> tuple[np.ndarray, Tensor]:
    """The reconstruction (uint8, H x W x 3) and the decoded latents, scaled.

    Raises StreamError for lengths that do not fit, and before anything is allocated for a payload that is too short for its size.
    """
    device = transforms.log_gain.device
    shape = padded(height) // LATENT, padded(width) // LATENT
    if 8 * len(payload) < coder.symbols(shape) * coder.least_bits - 64:
        raise StreamError(
            f"hfd stream is damaged: {len(payload)} bytes cannot hold {width}x{height} pixels; encode it again"
        )
    y_hat = torch.empty(1, coder.config.latents, *shape)
    coded = list(boxes(height, width, SLICE))
    for box, part in zip(coded, split(payload, len(coded)), strict=True):
        rows, columns = latents_of(box)
        shape = rows.stop - rows.start, columns.stop - columns.start
        y_hat[..., rows, columns] = coder.decompress(part, shape, rate)
    x_hat = np.empty((height, width, 3), np.uint8)
    for (top, bottom, left, right), window, inner in windows(height, width, coder.margin):
        seen = y_hat[..., *latents_of(window)].to(device)
        x = transforms.synthesise(seen, torch.tensor([rate], device=device))
        x = x[..., *(slice(side.start * LATENT, side.stop * LATENT) for side in inner)]
        # Eight bits, as in training: samplers then start from what the MSE decoder shows.
        x = (x.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).cpu().numpy()
        place = x_hat[top:bottom, left:right]
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
