# pyright: basic
"""A U-Net that sees the noisy residual beside the stage-1 reconstruction.

Convolutional, without attention, normalised over channels at each pixel: nothing in it looks at the size of its input, so a
tile is computed as the same place of the whole image would be, up to the receptive field. Pixels enter and leave through a
2x2 space-to-depth (a quarter of the work at the finest level). HFD's paper leaves its network open; this one is ours.

Conventions: N x 3 x H x W, H and W multiples of 16; the noisy residual of unit variance when it is all noise, the
reconstruction in [0, 1]; latents (when the network takes them) N x latents x H/16 x W/16, at the scale of one rate for all;
log_snr and rate have N entries, or one for all.
"""

import itertools
import math
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdbench.hfd.autoencoder import bounded

L = TypeVar("L", bound=nn.Module)


@dataclass(frozen=True)
class NetworkConfig:
    """widths and blocks: channels and residual blocks at 1/2, 1/4, ... of the resolution; rates: number of stage-1 rates;
    latents: channels of the stage-1 latents that the coarsest level sees, 0 for none; highpass: standard deviation in pixels
    of the Gaussian blur that is taken off the residual before it is diffused, 0 for the whole residual; noise: deviation of the
    noise that a decoder of one evaluation sees and finds again in its residual, 0 to see none."""

    widths: tuple[int, ...] = (64, 128, 192)
    blocks: tuple[int, ...] = (1, 1, 2)
    embedding: int = 128
    rates: int = 5
    latents: int = 0
    highpass: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        """Raises ValueError for sizes that no model has: they come from files."""
        bounded("widths", self.widths, 4096)
        bounded("blocks", self.blocks, 64)
        bounded("embedding and rates", (self.embedding, self.rates), 4096)
        if not 1 <= len(self.widths) == len(self.blocks) or not (
            type(self.latents) is int and 0 <= self.latents <= 4096
        ):
            raise ValueError("as many blocks as widths, at least one; latents from 0 to 4096")
        if not 0 <= self.highpass <= 64:
            raise ValueError(f"highpass {self.highpass}: from 0 to 64 pixels")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise}: from 0 to 1")

    @property
    def multiple(self) -> int:
        """Pixels that a side must be a multiple of: the coarsest level's, and 16 for the latents' grid."""
        return max(16, 2 ** len(self.widths))


def normalise(x: Tensor) -> Tensor:
    """Every pixel's channels divided by their root mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5)


def zeroed(layer: L) -> L:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Block(nn.Module):
    """Residual block, scaled and shifted by the embedding; starts as the identity."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        zeroed(self.modulation)
        zeroed(self.second)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(F.silu(normalise(x)))
        h = torch.addcmul(shift, normalise(h), 1 + scale)
        return x + self.second(F.silu(h))


class UNet(nn.Module):
    def __init__(self, config: NetworkConfig = NetworkConfig()):
        super().__init__()
        self.config = config
        widths, e = config.widths, config.embedding
        self.time = nn.Sequential(nn.Linear(64, e), nn.SiLU(), nn.Linear(e, e))
        self.rate = nn.Embedding(config.rates, e)
        self.enter = nn.Conv2d(24, widths[0], 3, padding=1)

        def blocks(level):
            return nn.ModuleList(Block(widths[level], e) for _ in range(config.blocks[level]))

        levels = range(len(widths))
        self.down = nn.ModuleList(blocks(level) for level in levels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(blocks(level) for level in levels[:-1])
        if config.latents:  # starts at zero, so that a network trained without latents can go on with them
            self.latents = zeroed(nn.Conv2d(config.latents, widths[-1], 1))
        self.leave = zeroed(nn.Conv2d(widths[0], 12, 3, padding=1))

    def forward(
        self, noisy: Tensor, reconstruction: Tensor, log_snr: Tensor, rate: Tensor, latents: Tensor | None = None
    ) -> Tensor:
        """The network's output, N x 3 x H x W (the caller says what it predicts)."""
        embedding = F.silu(self.time(fourier(log_snr)) + self.rate(rate))
        x = torch.cat([noisy, 4 * (reconstruction - 0.5)], 1)
        x = self.enter(F.pixel_unshuffle(x, 2))
        skips = []
        for level, stage in enumerate(self.down):
            if level == len(self.shrink) and self.config.latents:
                x = x + F.interpolate(self.latents(latents), size=x.shape[2:], mode="nearest")
            for block in cast(nn.ModuleList, stage):
                x = block(x, embedding)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.up))):
            x = (F.pixel_shuffle(self.grow[level](x), 2) + skips[level]) * math.sqrt(0.5)
            for block in cast(nn.ModuleList, self.up[level]):
                x = block(x, embedding)
        return F.pixel_shuffle(self.leave(F.silu(normalise(x))), 2)


def fourier(log_snr: Tensor) -> Tensor:
    """Sines and cosines of the log-SNR, N x 64."""
    frequencies = torch.exp(torch.linspace(math.log(0.1), math.log(10), 32, device=log_snr.device))
    angles = log_snr.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
