"""Stage 2: sample the photograph behind a stage-1 reconstruction.

The network is evaluated on tiles whose margin covers its receptive field, at every step, on one noise field of the whole
image: the result equals whole-image sampling and has no seams, while memory stays that of one tile.

The residual is whitened over its colours: r = root^-1 (x - x_hat), with root the symmetric square root of the covariance of
x - x_hat over red, green and blue at each rate, measured on the training pairs. What a codec loses is mostly luma; noise of
the same colours leaves the network little coloured speckle to remove (ours).

Conventions: images float32, N x 3 x H x W in [0, 1]; rate: long tensor of N indices; root: rates x 3 x 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diffusion import Schedule, alpha_sigma, ancestral
from .network import NetworkConfig, UNet


@dataclass(frozen=True)
class Sampling:
    """steps: network evaluations; gamma: noise knob of the ancestral sampler, 0 (least) to 1; shift: of the cosine schedule;
    strength: share of the sampled detail that is added to the reconstruction, 1 for all of it (ours: a dial between
    distortion and realism); tile: pixels of a tile's side without its margin. Raises ValueError for values out of range."""

    steps: int = 32
    gamma: float = 0.0
    shift: float = 1.0
    strength: float = 1.0
    tile: int = 896

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: at least 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma}: from 0 to 1")
        if not self.shift > 0:
            raise ValueError(f"shift {self.shift}: above 0")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength {self.strength}: above 0, at most 1")
        if self.tile < 64 or self.tile % 64:
            raise ValueError(f"tile {self.tile}: a multiple of 64, at least 64")


class Decoder(nn.Module):
    def __init__(self, config: NetworkConfig = NetworkConfig()):
        super().__init__()
        self.config = config
        self.network = UNet(config)
        self.register_buffer("root", torch.eye(3).repeat(config.rates, 1, 1))

    @property
    def margin(self) -> int:
        """Receptive field of the network to one side, in pixels, rounded up to its multiple."""
        reach, scale = 2 * 2, 2  # first and last convolution at 1/2
        for level, blocks in enumerate(self.config.blocks):
            passes = 1 if level == len(self.config.blocks) - 1 else 2
            reach += scale * 2 * blocks * passes
            scale *= 2
        return -(-reach // self.config.multiple) * self.config.multiple

    def loss(
        self, image: Tensor, reconstruction: Tensor, rate: Tensor, t: Tensor, noise: Tensor, schedule: Schedule
    ) -> Tensor:
        """Mean squared error of v, per image (N). Salimans and Ho 2022, arXiv:2202.00512, section 4."""
        log_snr = schedule.log_snr(t).float()
        alpha, sigma = (x[:, None, None, None] for x in alpha_sigma(log_snr))
        residual = recolour(torch.linalg.inv(self.root[rate]), image - reconstruction)
        z = alpha * residual + sigma * noise
        v = self.network(z, reconstruction, log_snr, rate).float()
        return (v - (alpha * noise - sigma * residual)).square().mean((1, 2, 3))

    @torch.inference_mode()
    def sample(self, reconstruction: Tensor, rate: int, seed: int, how: Sampling = Sampling()) -> Tensor:
        """A photograph that could have been coded to this reconstruction: 1 x 3 x H x W, in [0, 1].

        Same reconstruction, seed and device: same result, whatever the tile.
        """
        height, width = reconstruction.shape[2:]
        multiple = self.config.multiple
        x_hat = F.pad(reconstruction, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        x_hat = x_hat.contiguous(memory_format=torch.channels_last)
        root = self.root[rate][None]
        whitening = torch.linalg.inv(root)
        rates = torch.tensor([rate], device=x_hat.device)
        generator = torch.Generator().manual_seed(seed)

        def noise() -> Tensor:
            return torch.randn(x_hat.shape, generator=generator).to(x_hat)

        def predict(z: Tensor, log_snr: Tensor) -> Tensor:
            return self._tiled(z, x_hat, log_snr.to(z.device)[None], rates, how.tile)

        def clip(r: Tensor) -> Tensor:
            return recolour(whitening, (x_hat + recolour(root, r)).clamp(0, 1) - x_hat)

        r = ancestral(predict, noise(), noise, Schedule(how.shift), how.steps, how.gamma, clip)
        return (x_hat + how.strength * recolour(root, r))[:, :, :height, :width].clamp(0, 1)

    def _tiled(self, z: Tensor, x_hat: Tensor, log_snr: Tensor, rate: Tensor, tile: int) -> Tensor:
        height, width = z.shape[2:]
        if height <= tile and width <= tile:
            return self.network(z, x_hat, log_snr, rate)
        margin = self.margin
        out = torch.empty_like(z)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                above, before = max(top - margin, 0), max(left - margin, 0)
                window = (..., slice(above, min(bottom + margin, height)), slice(before, min(right + margin, width)))
                v = self.network(z[window], x_hat[window], log_snr, rate)
                out[..., top:bottom, left:right] = v[..., top - above : bottom - above, left - before : right - before]
        return out


def recolour(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply N x 3 x 3 matrices to the colours of N x 3 x H x W."""
    return torch.einsum("nij,njhw->nihw", matrix, x).contiguous(memory_format=torch.channels_last)
