"""fd_mini's features: a small network that imitates Inception's, bundled, so that a Fréchet distance exists everywhere.

Conventions: patches are uint8, H x W x 3, RGB, all of one size; features are float32, N x D,
principal components of Inception's 2048 features as the network guesses them, in their natural scale, in the order of
the patches. Nothing is resized: 4 x 4 pixels become one position of 48 channels, which keeps the high frequencies that
codecs change. Batches have one fixed shape, in full float32: a patch's features do not depend on its neighbours.

A distance of these features is fd_mini, never FID; docs/fd_mini.md says how well the two agree.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfdbench.metrics.networks.batching import described

CELL = 4  # pixels a side that become one position


@dataclass(frozen=True)
class NetworkConfig:
    """Widths of the stages, each at half the resolution of the last; D."""

    widths: tuple[int, ...] = (48, 96, 192, 384)
    components: int = 256


def build(config: NetworkConfig, training: bool = False):
    """The network, B x H x W x 3 uint8 -> B x D. In training every convolution is followed by a batch norm."""
    import torch
    from torch import nn
    from torch.nn import functional

    def convolution(before: int, after: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(before, after, 3, stride, 1)
        return nn.Sequential(conv, nn.BatchNorm2d(after) if training else nn.Identity(), nn.ReLU(inplace=True))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            before = (3 * CELL**2, *config.widths[:-1])
            strides = (1, *[2] * (len(config.widths) - 1))
            self.enter = nn.ModuleList(map(convolution, before, config.widths, strides))
            self.refine = nn.ModuleList(map(convolution, config.widths, config.widths))
            self.project = nn.Linear(sum(config.widths), config.components)

        def stages(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            """Every stage's map."""
            x = (pixels.permute(0, 3, 1, 2).float() - 127.5) / 64
            x = functional.pad(x, (0, -x.shape[3] % CELL, 0, -x.shape[2] % CELL), mode="replicate")
            x = functional.pixel_unshuffle(x, CELL).contiguous(memory_format=torch.channels_last)
            maps = []
            for enter, refine in zip(self.enter, self.refine, strict=True):
                x = enter(x)
                x = x + refine(x)
                maps.append(x)
            return maps

        def pool(self, pixels: torch.Tensor) -> torch.Tensor:
            """Every stage's means, B x sum of widths. The fine stages see what codecs take away."""
            return torch.cat([x.mean((2, 3)) for x in self.stages(pixels)], dim=1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.project(self.pool(pixels))

    return Network().to(memory_format=torch.channels_last)


class Mini:
    """The feature extractor."""

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):
        from safetensors import safe_open

        self.batch, self.device = batch, device
        with safe_open(weights, "pt") as file:
            values = json.loads(file.metadata()["config"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = NetworkConfig(tuple(values["widths"]), values["components"])
        self.dimensions = config.components
        self._net = build(config)
        self._net.load_state_dict(state)
        self._net.eval().requires_grad_(False).to(device)

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x D; holds one batch of patches. Raises ValueError for unequal patches."""
        return described(patches, self.batch, self.dimensions, self._forward)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        return self._net(torch.from_numpy(batch).to(self.device)).cpu().numpy()
