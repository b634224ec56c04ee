# pyright: basic
"""Stage 1, second architecture: a lapped transform coder whose linear parts start as a real transform, beside small networks.

An untrained network spends most of a small budget on learning that pictures have colours and frequencies. Here the linear path
is a transform coder from the first step: orthonormal luma and chroma, time-domain lapping across the edges of blocks of 16 pixels
(Tran, Liang, Tu 2003, "Lapped transform via time-domain pre- and post-filtering") and their DCT, of which the coefficients of
highest variance are kept. Networks at 1/8 and 1/16 of the resolution add to the latents and to the picture; their last layers
start at zero. Flat areas are flat by construction: the mean of every area of 64 pixels travels in the hyper-latents.

The entropy model has the structure of ELIC's (see autoencoder.py), its contexts added up instead of concatenated.
"""

import itertools
import math
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import CheckerboardMaskedConv2d
from compressai.ops import LowerBound, quantize_ste
from torch import Tensor, nn

from hfdbench.hfd import fixed_point
from hfdbench.hfd.autoencoder import (
    SCALE_MAX,
    SCALE_MIN,
    SCALES,
    Autoencoder,
    AutoencoderConfig,
    Parameters,
    checkerboard,
    gaussian_likelihood,
    scale_index,
)
from hfdbench.hfd.network import zeroed

BLOCK = 16  # pixels
COLOURS = 3
LUMA_BANDS = (1, 2, 4, 6, 9, 13)  # of luma, by the sum of both frequencies: up to each of these, and the rest
BANDS = len(LUMA_BANDS) + 3  # and two of chroma
FINE = 4  # where levels are coded: block means of the coarsest are coded in steps of a quarter, so that flat areas come out flat
# Where the passes between the first and the last find their nearest neighbours in a window of 5 x 5.
LEVEL_TAPS = ((0, 0), (0, 4), (4, 0), (4, 4)), ((0, 2), (2, 0), (2, 4), (4, 2)), ((1, 1), (1, 3), (3, 1), (3, 3))
# Rows: luma and two chroma axes, orthonormal, close to the principal axes of photographs.
COLOUR = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


def cosines(size: int, kind: int = 2) -> np.ndarray:
    """Orthonormal DCT-II or DCT-IV, frequency x position."""
    frequency, position = np.arange(size)[:, None] + (kind == 4) * 0.5, np.arange(size)[None] + 0.5
    basis = np.sqrt(2 / size) * np.cos(np.pi * frequency * position / size)
    if kind == 2:
        basis[0] /= np.sqrt(2)
    return basis


def lapping(size: int = BLOCK) -> np.ndarray:
    """Filter of the `size` pixels around an edge of blocks, size x size; the decoder applies its inverse.

    Tran et al. 2003, with the lowest frequency of the odd half scaled by 1.4: coding gain 9.93 dB on a Markov source of
    correlation 0.95, where the DCT has 9.46.
    """
    half = size // 2
    eye = np.eye(half)
    turn, zero = eye[::-1], np.zeros((half, half))
    butterfly = np.block([[eye, turn], [turn, -eye]]) / np.sqrt(2)
    scale = np.ones(half)
    scale[0] = 1.4
    odd = turn @ cosines(half).T @ np.diag(scale) @ cosines(half, 4) @ turn
    return butterfly @ np.block([[eye, zero], [zero, odd]]) @ butterfly


def typical_variance() -> np.ndarray:
    """Relative variance of the coefficients of photographs, colours x 16 x 16: a model, good enough to order them by."""
    u, v = np.mgrid[:BLOCK, :BLOCK]
    return np.array([1, 0.06, 0.02])[:, None, None] / (u + v + 0.5) ** 2.6


def places(latents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour, row and column frequency of each latent: descending typical variance, the three block means first."""
    variance = typical_variance()
    variance[:, 0, 0] = np.array([3, 2, 1]) * 1e3
    order = np.argsort(-variance.ravel(), kind="stable")[:latents]
    colour, row, column = np.unravel_index(order, variance.shape)
    return colour, row, column


def basis(latents: int) -> np.ndarray:
    """The transform of lapped blocks, latents x 3 x 16 x 16."""
    colour, u, v = places(latents)
    dct = cosines(BLOCK)
    return np.einsum("kc,ki,kj->kcij", COLOUR[colour], dct[u], dct[v])


def bands(latents: int) -> np.ndarray:
    """Which band each latent belongs to, BANDS x latents of 0 and 1; block means belong to none."""
    colour, u, v = places(latents)
    band = np.where(colour == 0, np.searchsorted(LUMA_BANDS, u + v), len(LUMA_BANDS) + 1 + (u + v > 2))
    return (band == np.arange(BANDS)[:, None]) & (u + v > 0)


def passes(like: Tensor, levels: bool) -> list[Tensor]:
    """Positions of each pass, 1 x 1 x H x W: the two of a checkerboard, or every fourth row and column, then what halves the
    distances, turning by 45 degrees each time; the last is the checkerboard's second."""
    anchors = checkerboard(like)
    if not levels:
        return [anchors, ~anchors]
    row = torch.arange(like.shape[2], device=like.device)[:, None] % 4
    column = torch.arange(like.shape[3], device=like.device)[None] % 4
    first, second = ((row == k) & (column == k) for k in (0, 2))
    even = (row % 2 == 0) & (column % 2 == 0)
    return [first[None, None], second[None, None], (even & ~first & ~second)[None, None], anchors & ~even, ~anchors]


class Lapping(nn.Module):
    """Filters along rows and columns across the inner edges of blocks of 16 pixels: N x C x H x W to the same."""

    def __init__(self, kernel: np.ndarray):
        super().__init__()
        self.basis = nn.Parameter(torch.tensor(kernel, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self._columns(self._columns(x).transpose(2, 3)).transpose(2, 3)

    def _columns(self, x: Tensor) -> Tensor:
        half = BLOCK // 2
        if x.shape[3] <= BLOCK:
            return x
        inner = x[..., half:-half].unflatten(3, (-1, BLOCK)) @ self.basis.T
        return torch.cat([x[..., :half], inner.flatten(3), x[..., -half:]], 3)


class Block(nn.Module):
    """Residual bottleneck: 1x1, 3x3, 1x1 convolutions at half the width."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            nn.Conv2d(width, half, 1), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1), nn.ReLU(), nn.Conv2d(half, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def tabled(index: Tensor) -> Tensor:
    """Logarithms of the scales at indices of the table."""
    return math.log(SCALE_MIN) + index * (math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1))


def cheaper(residual: Tensor, log_scale: Tensor, weight: Tensor) -> Tensor:
    """Rate-distortion optimised rounding: the nearest integer, or the next one towards zero where that saves more than it costs.

    Parameters
    ----------
    residual, log_scale : Tensor
        Latents less their predicted means, in steps, and the logarithm of their predicted scales; of one shape.
    weight : Tensor
        Bits that a squared error of one step is worth; broadcasts.

    Returns
    -------
    Tensor
        Whole numbers in the shape of `residual`.
    """
    near = residual.round()
    lower = near - near.sign()
    cost = weight * ((residual - lower) ** 2 - (residual - near) ** 2)
    saved = (gaussian_likelihood(lower, log_scale) / gaussian_likelihood(near, log_scale)).log2()
    return torch.where(saved > cost, lower, near)


def repeated(z: Tensor) -> Tensor:
    """What hyper-latents say of areas, the outermost ones repeated beyond the picture: N x 3 + BANDS x H/64 + 2 x W/64 + 2."""
    z = z[:, : COLOURS + BANDS]
    z = torch.cat([z[:, :, :1], z, z[:, :, -1:]], 2)  # torch.compile cannot do F.pad's backward pass, channels last
    return torch.cat([z[..., :1], z, z[..., -1:]], 3)


class Analysis(nn.Module):
    """Image around zero, N x 3 x H x W, to unscaled latents, N x latents x H/16 x W/16."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        width = config.widths[1]
        self.lapping = Lapping(lapping())
        self.basis = nn.Parameter(torch.tensor(basis(config.latents).reshape(config.latents, -1), dtype=torch.float32))
        self.first = nn.Conv2d(config.latents, width, 1)
        self.rate = nn.Parameter(torch.zeros(len(config.lambdas), width))
        self.coarse = nn.Sequential(*(Block(width) for _ in range(config.blocks[1])))
        self.last = zeroed(nn.Conv2d(width, config.latents, 1))

    def linear(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pixel_unshuffle(self.lapping(x), BLOCK), self.basis[:, :, None, None])

    def forward(self, x: Tensor, rate: Tensor, spread: Tensor) -> Tensor:
        y = self.linear(x)
        seen = self.first(y / spread) + self.rate[rate][:, :, None, None]
        return y + self.last(self.coarse(seen)) * spread


class Synthesis(nn.Module):
    """Unscaled latents to the image around zero."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        fine, coarse = config.widths
        self.lapping = Lapping(np.linalg.inv(lapping()))
        self.basis = nn.Parameter(torch.tensor(basis(config.latents).reshape(config.latents, -1), dtype=torch.float32))
        self.first = nn.Conv2d(config.latents, coarse, 3, 1, 1)
        self.rate = nn.Parameter(torch.zeros(len(config.lambdas), coarse))
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(config.blocks[1])))
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(config.blocks[0])))
        self.last = zeroed(nn.Conv2d(fine, COLOURS * 64, 1))

    def forward(self, y: Tensor, rate: Tensor, spread: Tensor) -> Tensor:
        linear = F.conv2d(y, self.basis.T[:, :, None, None])
        seen = self.coarse(self.first(y / spread) + self.rate[rate][:, :, None, None])
        seen = self.fine(F.pixel_shuffle(self.up(seen), 2))
        return self.lapping(F.pixel_shuffle(linear, BLOCK)) + F.pixel_shuffle(self.last(seen) / 8, 8)


class LappedAutoencoder(Autoencoder):
    """The same streams and methods as Autoencoder, other transforms and other networks in the entropy model."""

    by_rate = (*Autoencoder.by_rate, "log_scale", "context_gain", "analysis.rate", "synthesis.rate")
    bands: Tensor
    spread: Tensor
    analysis: Any
    synthesis: Any

    def _build(self) -> None:
        config = self.config
        explicit = COLOURS + BANDS
        if len(config.widths) != 2 or len(config.blocks) != 2 or config.groups[0] < COLOURS or config.hyper < explicit:
            raise ValueError(
                f"architecture lapped takes two widths, two blocks, a first group of {COLOURS} or more, hyper {explicit} or more"
            )
        m, h, width = config.latents, config.hyper, config.context
        # Of the synthesis: its first convolution and the blocks at 1/16, the blocks at 1/8. The analysis sees one less.
        self.margin = 16 * (1 + config.blocks[1] + math.ceil(config.blocks[0] / 2))
        self.analysis, self.synthesis = Analysis(config), Synthesis(config)
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(m, h, 1), nn.ReLU(), nn.Conv2d(h, h, 5, 2, 2), nn.ReLU(), nn.Conv2d(h, h, 5, 2, 2)
        )
        self.hyper_synthesis = nn.Sequential(
            nn.ConvTranspose2d(h, h, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(h, h, 4, 2, 1), nn.ReLU()
        )
        # Of areas of 64 pixels: orthonormal sums of 4 x 4 block means, log energies of bands; back by bilinear interpolation.
        self.area_synthesis = nn.ConvTranspose2d(COLOURS + BANDS, COLOURS + BANDS, 8, 4, 6)
        self.band_scale = nn.Conv2d(BANDS, m, 1)
        self.neighbours = CheckerboardMaskedConv2d(COLOURS, COLOURS, 3, 1, 1)
        # Of the passes between the first and the last: what they see of their group, and of block means.
        self.level_context = nn.ModuleList(
            nn.ModuleList(zeroed(nn.Conv2d(group, width, 5, 1, 2)) for _ in LEVEL_TAPS)
            for group in config.groups[: config.levels]
        )
        self.level_neighbours = nn.ModuleList(
            zeroed(nn.Conv2d(COLOURS, COLOURS, 5, 1, 2)) for _ in (LEVEL_TAPS if config.levels else ())
        )
        self.hyper_context, self.channel_context = nn.ModuleList(), nn.ModuleList()
        self.spatial_context, self.entropy_parameters = nn.ModuleList(), nn.ModuleList()
        done = 0
        for group in config.groups:
            self.hyper_context.append(nn.Conv2d(h, width, 1))
            self.channel_context.append(
                nn.Sequential(nn.Conv2d(done, h, 3, 1, 1), nn.ReLU(), nn.Conv2d(h, width, 1)) if done else nn.Identity()
            )
            kernel = 5 if done + group <= 64 else 3
            self.spatial_context.append(CheckerboardMaskedConv2d(group, width, kernel, 1, kernel // 2))
            self.entropy_parameters.append(
                nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, 2 * group, 1))
            )
            done += group
        rates = len(config.lambdas)
        # The step that an ideal uniform quantiser takes at each lambda, by the slope of its rate and distortion.
        step = [math.sqrt(18 / (math.log(2) * value)) / 255 for value in config.lambdas]
        self.log_gain = nn.Parameter(-torch.tensor(step).log()[:, None].repeat(1, m))
        self.log_inverse_gain = nn.Parameter(torch.tensor(step).log()[:, None].repeat(1, m))
        hyper_gain = torch.full((rates, h), math.log(50))  # so that a fresh network's do not all round to zero
        # Areas are coded in the steps of the lowest rate at every rate.
        hyper_gain[:, :COLOURS] = torch.tensor(step).log()[:, None] - math.log(max(step))
        hyper_gain[:, COLOURS : COLOURS + BANDS] = torch.linspace(0, 1, rates)[
            :, None
        ]  # steps of 1 to 0.4 of a logarithm
        self.log_hyper_gain = nn.Parameter(hyper_gain)
        self.log_hyper_inverse_gain = nn.Parameter(-hyper_gain)
        self.log_scale = nn.Parameter(torch.zeros(rates, m))
        self.register_buffer("spread", torch.ones(1, m, 1, 1))  # typical size of unscaled latents
        self.register_buffer("bands", torch.tensor(bands(m), dtype=torch.float32))
        # What contexts see of latents, in steps: large ones made smaller.
        self.context_gain = nn.Parameter(torch.ones(rates, m), requires_grad=False)
        with torch.no_grad():
            ramp = 1 - (torch.arange(8) - 3.5).abs() / 4
            zeroed(self.area_synthesis)
            zeroed(self.neighbours)
            for net, taps in zip(self.level_neighbours, LEVEL_TAPS, strict=False):
                for c, (row, column) in itertools.product(range(COLOURS), taps):
                    cast(Tensor, net.weight)[c, c, row, column] = 0.2
            for c in range(COLOURS):
                self.neighbours.weight[c, c] = 0.2
                self.area_synthesis.weight[c, c] = ramp[:, None] * ramp / 4
            for k in range(COLOURS, COLOURS + BANDS):
                self.area_synthesis.weight[k, k] = ramp[:, None] * ramp
            self.band_scale.weight.copy_(self.bands.T[:, :, None, None])
            cast(Tensor, self.band_scale.bias).zero_()
            for net in self.entropy_parameters:
                last = cast(nn.Conv2d, cast(nn.Sequential, net)[-1])
                last.weight *= 0.1
                cast(Tensor, last.bias).zero_()
        self.bottleneck = EntropyBottleneck(h)
        with torch.no_grad():
            self.bottleneck.quantiles[:COLOURS] = torch.tensor([-64.0, 0.0, 64.0])
        self.gaussian = GaussianConditional(None, scale_bound=SCALE_MIN)
        self.scale_bound = LowerBound(math.log(SCALE_MIN))

    @torch.no_grad()
    def calibrate(self, image: Tensor) -> None:
        """Start the scales of the entropy model at those of the latents of `image`, N x 3 x H x W in [0, 1]."""
        y = self.analysis.linear(image - 0.5)
        self.spread.copy_(y.square().mean((0, 2, 3), keepdim=True).sqrt())
        energy = self.energies(y)
        local = torch.einsum("nbhw,bc->nchw", F.interpolate(energy, scale_factor=4, mode="bilinear"), self.bands)
        local[:, :COLOURS] = 0
        left = y - F.interpolate(F.avg_pool2d(y, 4), scale_factor=4, mode="bilinear")  # of block means
        y = torch.cat([left[:, :COLOURS] * 0.5, y[:, COLOURS:]], 1)
        self.log_scale.copy_(self.log_gain + 0.5 * (y * (-local).exp()).square().mean((0, 2, 3)).log())
        self.context_gain.copy_((2 / (self.spread[0, :, 0, 0] * self.log_gain.exp())).clamp(max=1))

    def energies(self, y: Tensor) -> Tensor:
        """Logarithm of how large unscaled latents are in each band and area, over what is typical: N x BANDS x H/64 x W/64."""
        size = F.avg_pool2d((y / self.spread).abs(), 4)
        weight = self.bands / self.bands.sum(1, keepdim=True).clamp(min=1)  # few latents leave bands empty
        return (F.conv2d(size, weight[:, :, None, None]) + 0.02).log()

    def forward(self, image: Tensor, rate: Tensor, groups: int | None = None) -> tuple[Tensor, Tensor]:
        """As in Autoencoder; with `groups`, of the hyper-latents and so many groups alone: what the errors of their latents are
        worth, in bits per image (N), and estimated bits."""
        if groups is None:
            return super().forward(image, rate)
        y = self.analyse(image, rate).float()
        y_hat, bits = self._estimate(y, rate, groups)
        weights = self.weights(rate)[:, : y_hat.shape[1]]
        return (weights * (y_hat - y[:, : y_hat.shape[1]]).square()).sum((1, 2, 3)), bits

    def estimate(self, image: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        return self._estimate(self.analyse(image, rate).float(), rate, len(self.config.groups))

    def _estimate(self, y: Tensor, rate: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            z = self.hyper_latents(y, rate)
            _, z_likelihood = self.bottleneck(z)
            medians = self.bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
            z_hat = (quantize_ste(z - medians) + medians) * self.log_hyper_inverse_gain[rate].exp()[:, :, None, None]
            bits = -z_likelihood.log2().sum((1, 2, 3))
            hyper = self.hyper_synthesis(z_hat)
            means, local = self.area_synthesis(repeated(z_hat)).split((COLOURS, BANDS), 1)
            local = self.band_scale(local)
            gains = self.context_gain[rate][:, :, None, None].split(self.config.groups, 1)
            coded: list[Tensor] = []
            seen: list[Tensor] = []  # of what is coded, what contexts see
            weights = self.weights(rate).split(self.config.groups, 1)
            log_scales = (self.log_scale[rate][:, :, None, None] + local).split(self.config.groups, 1)
            means = F.pad(means, (0, 0, 0, 0, 0, self.config.groups[0] - COLOURS))
            for k, y_k in enumerate(y.split(self.config.groups, 1)[:groups]):
                context = self.hyper_context[k](hyper)
                if k:
                    context = context + self.channel_context[k](torch.cat(seen, 1))
                masks = passes(y, k < self.config.levels)
                fine = self.fineness(k, masks)
                y_hat = torch.zeros_like(y_k)
                mean, log_scale = y_hat, y_hat
                for number, mask in enumerate(masks):
                    near, shift = context, means
                    if number:
                        near = context + self._near(k, number)(y_hat * gains[k])
                        if not k:
                            known = torch.stack(masks[:number]).any(0)
                            left = self._near_means(number)(((y_hat - means) * known)[:, :COLOURS])
                            shift = means + F.pad(left, (0, 0, 0, 0, 0, y_k.shape[1] - COLOURS))
                    mean_p, log_scale_p = self.entropy_parameters[k](near).chunk(2, 1)
                    mean = torch.where(mask, mean_p if k else mean_p + shift, mean)
                    log_scale = torch.where(mask, log_scale_p, log_scale)
                    if number < len(masks) - 1:
                        y_hat = (
                            y_hat
                            + self.rounded(y_k, mean, log_scale + log_scales[k] + fine.log(), weights[k], fine) * mask
                        )
                log_scale = log_scale + log_scales[k] + fine.log()
                coded.append(self.rounded(y_k, mean, log_scale, weights[k], fine))
                seen.append(coded[-1] * gains[k])
                log_scale = self.scale_bound(log_scale)
                likelihood = gaussian_likelihood(((coded[-1] - mean) * fine).detach(), log_scale)
                bits = bits - likelihood.log2().sum((1, 2, 3))
                if self.training:
                    # Scales learn from what is coded; latents and means, which need a smooth rate, from noise in place of
                    # rounding (Balle et al. 2017, arXiv:1611.01704), which leaves the value alone.
                    noise = torch.empty_like(y_k).uniform_(-0.5, 0.5)
                    smooth = gaussian_likelihood((y_k - mean) * fine + noise, log_scale.detach()).log2().sum((1, 2, 3))
                    bits = bits - smooth + smooth.detach()
        return torch.cat(coded, 1), bits

    def weights(self, rate: Tensor) -> Tensor:
        """Bits that a squared error of one step is worth in each latent, N x latents x 1 x 1; its basis is about orthonormal."""
        lambdas = torch.tensor(self.config.lambdas, device=rate.device)[rate, None]
        step = (self.log_inverse_gain[rate].detach() * 2).exp()
        return (lambdas * 255**2 / COLOURS * step)[:, :, None, None]

    def rounded(self, y: Tensor, mean: Tensor, log_scale: Tensor, weight: Tensor, fine: Tensor) -> Tensor:
        """Latents as they are decoded; `log_scale`: in steps of 1 / `fine`.

        Gradients pass straight through to `y` and, where nothing is coded and the mean is the result, to `mean`, too.
        """
        with torch.no_grad():
            log_scale = self.scale_bound(log_scale) if self.training else tabled(scale_index(log_scale))
            symbols = cheaper((y - mean) * fine, log_scale, weight / fine**2)
            change = symbols / fine + mean - y
            mean_alone = symbols == 0
        return y + change + (mean - mean.detach()) * mean_alone

    def fineness(self, k: int, masks: list[Tensor]) -> Tensor:
        """Into how many steps each step of the latents of group `k` is divided: 1 x 1 x H x W, or 1 x group x H x W."""
        ones = torch.ones_like(masks[0], dtype=torch.float32)
        if k or not self.config.levels:
            return ones
        first = torch.where(masks[0], FINE, ones).expand(-1, COLOURS, -1, -1)
        return torch.cat([first, ones.expand(-1, self.config.groups[0] - COLOURS, -1, -1)], 1)

    def _near(self, k: int, number: int) -> nn.Module:
        """What pass `number` of group `k` sees of the passes before it."""
        levels = cast(Any, self.level_context[k]) if k < self.config.levels else ()
        return levels[number - 1] if number <= len(levels) else self.spatial_context[k]

    def _near_means(self, number: int) -> nn.Module:
        """What pass `number` is told by the block means of the passes before it."""
        return self.level_neighbours[number - 1] if number <= len(self.level_neighbours) else self.neighbours

    def analyse(self, image: Tensor, rate: Tensor) -> Tensor:
        return self.analysis(image - 0.5, rate, self.spread) * self.log_gain[rate].exp()[:, :, None, None]

    def synthesise(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        return self.synthesis(self.unscale(y_hat, rate), rate, self.spread).float() + 0.5

    def hyper_latents(self, y: Tensor, rate: Tensor) -> Tensor:
        """Before rounding, N x hyper x H/64 x W/64, of scaled latents."""
        z = self.hyper_analysis(y.sign() * y.abs().log1p())
        areas = 4 * F.avg_pool2d(y[:, :COLOURS], 4)
        explicit = torch.cat([areas, self.energies(self.unscale(y, rate))], 1)
        z = torch.cat([z[:, : COLOURS + BANDS] / 50 + explicit, z[:, COLOURS + BANDS :]], 1)
        return z * self.log_hyper_gain[rate].exp()[:, :, None, None]

    # Coding: as `estimate`, in exact arithmetic.

    def _contexts(self, symbols: Tensor, rate: int) -> Any:
        z_hat = self._hyper_values(symbols, rate)
        means, local = fixed_point.run(self.area_synthesis, repeated(z_hat)).split((COLOURS, BANDS), 1)
        means = F.pad(means, (0, 0, 0, 0, 0, self.config.groups[0] - COLOURS))
        return fixed_point.run(self.hyper_synthesis, z_hat), means, fixed_point.run(self.band_scale, local)

    def _code_groups(self, contexts: Any, rate: int, code) -> Tensor:
        hyper, means, local = contexts
        coded: list[Tensor] = []
        seen: list[Tensor] = []
        start = 0
        log_scales = local + fixed_point.to_grid(self.log_scale[rate])[None, :, None, None]
        gains = fixed_point.to_grid(self.context_gain[rate])[None, :, None, None]
        for k, group in enumerate(self.config.groups):
            part = slice(start, start + group)
            context = fixed_point.run(self.hyper_context[k], hyper)
            if k:
                context = context + fixed_point.run(self.channel_context[k], torch.cat(seen, 1))
            masks = passes(hyper, k < self.config.levels)
            fine = self.fineness(k, masks).double()
            log_scale = log_scales[:, part] + fixed_point.to_grid(fine.log())
            y_hat = torch.zeros(1, group, *hyper.shape[2:], dtype=torch.float64)
            for number, mask in enumerate(masks):
                near, shift = context, torch.zeros(1) if k else means
                if number:
                    near = context + fixed_point.run(self._near(k, number), fixed_point.to_grid(y_hat * gains[:, part]))
                    if not k:
                        known = torch.stack(masks[:number]).any(0)
                        left = fixed_point.to_grid(((y_hat - means) * known)[:, :COLOURS])
                        left = fixed_point.run(self._near_means(number), left)
                        shift = means + F.pad(left, (0, 0, 0, 0, 0, group - COLOURS))
                parameters = self._predict(k, near, shift, log_scale, fine)
                mask = mask.expand_as(y_hat)
                value = code(part, mask, parameters) / fine + parameters.mean
                y_hat = torch.where(mask, fixed_point.to_grid(value), y_hat)
            coded.append(y_hat)
            seen.append(fixed_point.to_grid(y_hat * gains[:, part]))
            start += group
        return torch.cat(coded, 1).float()

    def _symbols(self, y: Tensor, parameters: Parameters, part: slice, rate: int) -> Tensor:
        weight = self.weights(torch.tensor([rate]))[:, part] / parameters.fine**2
        return cheaper((y - parameters.mean) * parameters.fine, tabled(parameters.index), weight)

    def _predict(self, k: int, context: Tensor, shift: Tensor, log_scale: Tensor, fine: Tensor) -> Parameters:
        mean, residual_log_scale = fixed_point.run(self.entropy_parameters[k], fixed_point.to_grid(context)).chunk(2, 1)
        return Parameters(mean + shift, scale_index(residual_log_scale + log_scale), fine)
