# pyright: basic
"""What GAN decoders are trained against: discriminators, and the frozen network of the perceptual loss.

Conventions: images N x 3 x H x W in [0, 1]; latents N x C x H/16 x W/16.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 64, 128, 256)  # half of HiFiC's 64 to 512: our decoders are smaller still


class Discriminator(nn.Module):
    """Patches real or not: spectrally normalised 4x4 convolutions, leaky ReLU 0.2 (Miyato et al. 2018, arXiv:1802.05957).

    With latents it is HiFiC's (Mentzer et al. 2020, arXiv:2006.09965): a 3x3 convolution takes them to 12 channels, which are
    enlarged by repetition and seen beside the image. Without, a PatchGAN (Isola et al. 2017, arXiv:1611.07004).
    """

    def __init__(self, latents: int = 0):
        super().__init__()
        self.see = spectral_norm(nn.Conv2d(latents, 12, 3, padding=1)) if latents else None
        layers: list[nn.Module] = []
        before = 3 + 12 * bool(latents)
        for k, width in enumerate(WIDTHS):
            layers += [spectral_norm(nn.Conv2d(before, width, 4, 2 if k < 3 else 1, 1)), nn.LeakyReLU(0.2)]
            before = width
        self.judge = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 1)))

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        """Logits, N x 1 x H/8 x W/8, or one row and column less."""
        if self.see is not None:
            seen = F.interpolate(F.leaky_relu(self.see(latents), 0.2), size=image.shape[2:], mode="nearest")
            image = torch.cat([image, seen], 1)
        return self.judge(2 * image - 1).float()


class ResidualDiscriminator(nn.Module):
    """Patches of whitened residuals real or not, beside the reconstruction: spectrally normalised 3x3 convolutions, each but the
    last halved through a binomial blur (Zhang 2019, arXiv:1904.11486), as strided ones would teach a decoder their grid."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        before = 6
        for k, width in enumerate(WIDTHS):
            layers += [spectral_norm(nn.Conv2d(before, width, 3, padding=1)), nn.LeakyReLU(0.2)]
            layers += [Halve(width)] if k < 3 else []
            before = width
        self.judge = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 1)))

    def forward(self, residual: Tensor, reconstruction: Tensor) -> Tensor:
        """Logits, N x 1 x H/8 x W/8; both N x 3 x H x W, the residual of unit variance."""
        return self.judge(torch.cat([residual, 4 * (reconstruction - 0.5)], 1)).float()


class Halve(nn.Module):
    """Half the resolution through the binomial filter 1 3 3 1."""

    kernel: Tensor

    def __init__(self, width: int):
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (line[:, None] * line).repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype), stride=2, padding=1, groups=x.shape[1])


class Perceptual(nn.Module):
    """A frozen network's feature maps after each of its stages, every position scaled to unit mean square over channels."""

    def __init__(self, stages: list[nn.Module], scale: float, offset: float):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.scale, self.offset = scale, offset
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image * self.scale + self.offset
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x.float() * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6))
        return maps


def distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Mean squared difference of normalised features, mean over stages: LPIPS without learned weights."""
    return torch.stack([F.mse_loss(x, y) for x, y in zip(a, b, strict=True)]).mean()


def style(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Mean squared difference of Gram matrices, mean over stages (Gatys et al. 2016)."""

    def gram(x: Tensor) -> Tensor:
        x = x.flatten(2)
        return x @ x.transpose(1, 2) / x.shape[2]

    return torch.stack([F.mse_loss(gram(x), gram(y)) for x, y in zip(a, b, strict=True)]).mean()


def read_perceptual(network: str, weights: Path) -> Perceptual:
    """network: "inception" (its first blocks, far below the layer of FID), "vgg16" or "alexnet" (torchvision's files).

    Raises ValueError when the file is not weights of that network.
    """
    try:
        if network == "inception":
            from hfdbench.metrics.networks.inception import read_network

            net: Any = read_network(weights)
            stages: list[nn.Module] = [
                nn.Sequential(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3),
                nn.Sequential(net.MaxPool_1, net.Conv2d_3b_1x1, net.Conv2d_4a_3x3),
                nn.Sequential(net.MaxPool_2, net.Mixed_5b, net.Mixed_5c, net.Mixed_5d),
            ]
            return Perceptual(stages, 255 / 128, -1.0)
        from torchvision import models

        build, ends = {"vgg16": (models.vgg16, (4, 9, 16, 23)), "alexnet": (models.alexnet, (2, 5, 8, 10, 12))}[network]
        net: Any = build()
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        layers = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in net.features]  # not in place
        starts = (0, *ends[:-1])
        parts = [nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True)]
        return Perceptual(
            list(parts), 1 / 0.226, -0.449 / 0.226
        )  # ImageNet's mean and deviation, averaged over colours
    except KeyError:
        raise ValueError(f'perceptual network "{network}" is unknown; use inception, vgg16 or alexnet') from None
    except (OSError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{weights}: not weights of {network}: {error}") from None
