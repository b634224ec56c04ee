"""Stage 1, second architecture: a lapped transform coder whose linear parts start as a real transform, beside small networks.

An untrained network spends most of a small budget on learning that pictures have colours and frequencies. Here the linear path
is a transform coder from the first step: orthonormal luma and chroma, time-domain lapping across the edges of blocks of 16 pixels
(Tran, Liang, Tu 2003, "Lapped transform via time-domain pre- and post-filtering") and their DCT, of which the coefficients of
highest variance are kept. Networks at 1/8 and 1/16 of the resolution add to the latents and to the picture; their last layers
start at zero. Flat areas are flat by construction: the mean of every area of 64 pixels travels in the hyper-latents.

The entropy model has the structure of ELIC's (see autoencoder.py), its contexts added up instead of concatenated.
"""

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
    SCALE_MIN,
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


def basis(latents: int) -> np.ndarray:
    """The transform of lapped blocks, latents x 3 x 16 x 16, in descending order of typical variance after the three means."""
    variance = typical_variance()
    variance[:, 0, 0] = np.array([3, 2, 1]) * 1e3  # block means come first
    colour, u, v = np.unravel_index(np.argsort(-variance.ravel(), kind="stable")[:latents], variance.shape)
    dct = cosines(BLOCK)
    return np.einsum("kc,ki,kj->kcij", COLOUR[colour], dct[u], dct[v])


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


def repeated(z: Tensor) -> Tensor:
    """The means of areas with the outermost ones repeated beyond the picture, N x 3 x H/64 + 2 x W/64 + 2."""
    return F.pad(z[:, :COLOURS], (1, 1, 1, 1), mode="replicate")


class Analysis(nn.Module):
    """Image around zero, N x 3 x H x W, to unscaled latents, N x latents x H/16 x W/16."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        fine, coarse = config.widths
        self.lapping = Lapping(lapping())
        self.basis = nn.Parameter(torch.tensor(basis(config.latents).reshape(config.latents, -1), dtype=torch.float32))
        self.first = nn.Conv2d(COLOURS * 64, fine, 1)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(config.blocks[0])))
        self.down = nn.Conv2d(4 * fine, coarse, 1)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(config.blocks[1])))
        self.last = zeroed(nn.Conv2d(coarse, config.latents, 1))
        self.rate = nn.Parameter(torch.zeros(len(config.lambdas), coarse))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        linear = F.conv2d(F.pixel_unshuffle(self.lapping(x), BLOCK), self.basis[:, :, None, None])
        seen = self.fine(self.first(4 * F.pixel_unshuffle(x, 8)))
        seen = self.down(F.pixel_unshuffle(seen, 2)) + self.rate[rate][:, :, None, None]
        return linear + self.last(self.coarse(seen))


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

    def forward(self, y: Tensor, rate: Tensor) -> Tensor:
        linear = F.conv2d(y, self.basis.T[:, :, None, None])
        seen = self.coarse(self.first(y) + self.rate[rate][:, :, None, None])
        seen = self.fine(F.pixel_shuffle(self.up(seen), 2))
        return self.lapping(F.pixel_shuffle(linear, BLOCK)) + F.pixel_shuffle(self.last(seen), 8)


class LappedAutoencoder(Autoencoder):
    """The same streams and methods as Autoencoder, other transforms and other networks in the entropy model."""

    def _build(self) -> None:
        config = self.config
        if len(config.widths) != 2 or len(config.blocks) != 2 or config.groups[0] < COLOURS:
            raise ValueError(
                "architecture lapped takes two widths, two blocks, and a first group of at least 3 latents"
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
        # Means of areas of 64 pixels: orthonormal sums of 4 x 4 block means, back by bilinear interpolation.
        self.area_synthesis = nn.ConvTranspose2d(COLOURS, config.groups[0], 8, 4, 6)
        self.neighbours = CheckerboardMaskedConv2d(config.groups[0], config.groups[0], 3, 1, 1)
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
                nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), zeroed(nn.Conv2d(width, 2 * group, 1)))
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
        self.log_hyper_gain = nn.Parameter(hyper_gain)
        self.log_hyper_inverse_gain = nn.Parameter(-hyper_gain)
        self.log_scale = nn.Parameter(torch.zeros(rates, m))
        with torch.no_grad():
            ramp = 1 - (torch.arange(8) - 3.5).abs() / 4
            zeroed(self.area_synthesis)
            zeroed(self.neighbours)
            for c in range(COLOURS):
                self.neighbours.weight[c, c] = 0.2
                self.area_synthesis.weight[c, c] = ramp[:, None] * ramp / 4
            for net in self.channel_context[1:]:
                cast(nn.Conv2d, cast(nn.Sequential, net)[0]).weight[:, :COLOURS] /= (
                    8  # block means are far larger than the rest
                )
        self.bottleneck = EntropyBottleneck(h)
        with torch.no_grad():
            self.bottleneck.quantiles[:COLOURS] = torch.tensor([-64.0, 0.0, 64.0])
        self.gaussian = GaussianConditional(None, scale_bound=SCALE_MIN)
        self.scale_bound = LowerBound(math.log(SCALE_MIN))

    @torch.no_grad()
    def calibrate(self, image: Tensor) -> None:
        """Start the scales of the entropy model at those of the latents of `image`, N x 3 x H x W in [0, 1]."""
        spread = self.analysis(image - 0.5, torch.zeros(len(image), dtype=torch.long))
        spread = spread - F.avg_pool2d(
            spread, 3, 1, 1, count_include_pad=False
        )  # about what contexts leave of block means
        spread = spread.square().mean((0, 2, 3)).sqrt()
        self.log_scale.copy_((self.log_gain + spread.log()).clamp(math.log(SCALE_MIN), math.log(100)))

    def estimate(self, image: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        y = self.analyse(image, rate).float()
        with torch.autocast(image.device.type, enabled=False):
            z = self.hyper_latents(y, rate)
            _, z_likelihood = self.bottleneck(z)
            medians = self.bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
            z_hat = (quantize_ste(z - medians) + medians) * self.log_hyper_inverse_gain[rate].exp()[:, :, None, None]
            bits = -z_likelihood.log2().sum((1, 2, 3))
            hyper, means = self.hyper_synthesis(z_hat), self.area_synthesis(repeated(z_hat))
            anchors = checkerboard(y)
            coded: list[Tensor] = []
            log_scales = self.log_scale[rate][:, :, None, None].split(self.config.groups, 1)
            for k, y_k in enumerate(y.split(self.config.groups, 1)):
                context = self.hyper_context[k](hyper)
                if k:
                    context = context + self.channel_context[k](torch.cat(coded, 1))
                mean_a, log_scale_a = self.entropy_parameters[k](context).chunk(2, 1)
                if not k:
                    mean_a = mean_a + means
                y_hat_a = (quantize_ste(y_k - mean_a) + mean_a) * anchors
                context = context + self.spatial_context[k](y_hat_a)
                mean_n, log_scale_n = self.entropy_parameters[k](context).chunk(2, 1)
                if not k:
                    mean_n = mean_n + means + self.neighbours((y_hat_a - means) * anchors)
                mean = torch.where(anchors, mean_a, mean_n)
                log_scale = torch.where(anchors, log_scale_a, log_scale_n) + log_scales[k]
                coded.append(quantize_ste(y_k - mean) + mean)
                noisy = y_k + torch.empty_like(y_k).uniform_(-0.5, 0.5) if self.training else coded[-1]
                likelihood = gaussian_likelihood(noisy - mean, self.scale_bound(log_scale))
                bits = bits - likelihood.log2().sum((1, 2, 3))
        return torch.cat(coded, 1), bits

    def analyse(self, image: Tensor, rate: Tensor) -> Tensor:
        return self.analysis(image - 0.5, rate) * self.log_gain[rate].exp()[:, :, None, None]

    def synthesise(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        return self.synthesis(self.unscale(y_hat, rate), rate).float() + 0.5

    def hyper_latents(self, y: Tensor, rate: Tensor) -> Tensor:
        """Before rounding, N x hyper x H/64 x W/64, of scaled latents."""
        z = self.hyper_analysis(y.sign() * y.abs().log1p())
        areas = 4 * F.avg_pool2d(y[:, :COLOURS], 4)
        z = torch.cat([z[:, :COLOURS] / 8 + areas, z[:, COLOURS:]], 1)
        return z * self.log_hyper_gain[rate].exp()[:, :, None, None]

    # Coding: as `estimate`, in exact arithmetic.

    def _contexts(self, symbols: Tensor, rate: int) -> Any:
        z_hat = self._hyper_values(symbols, rate)
        return fixed_point.run(self.hyper_synthesis, z_hat), fixed_point.run(self.area_synthesis, repeated(z_hat))

    def _code_groups(self, contexts: Any, rate: int, code) -> Tensor:
        hyper, means = contexts
        anchors = checkerboard(hyper)
        coded: list[Tensor] = []
        start = 0
        for k, group in enumerate(self.config.groups):
            part = slice(start, start + group)
            log_scale = fixed_point.to_grid(self.log_scale[rate, part])[None, :, None, None]
            context = fixed_point.run(self.hyper_context[k], hyper)
            if k:
                context = context + fixed_point.run(self.channel_context[k], torch.cat(coded, 1))
            shift = torch.zeros(1) if k else means
            y_hat = torch.zeros(1, group, *hyper.shape[2:], dtype=torch.float64)
            for mask in (anchors, ~anchors):
                parameters = self._predict(k, context, shift, log_scale)
                mask = mask.expand_as(y_hat)
                y_hat = torch.where(mask, fixed_point.to_grid(code(part, mask, parameters) + parameters.mean), y_hat)
                if mask[0, 0, 0, 0]:
                    context = fixed_point.to_grid(context + fixed_point.run(self.spatial_context[k], y_hat))
                    if not k:
                        shift = shift + fixed_point.run(self.neighbours, (y_hat - means) * anchors)
            coded.append(y_hat)
            start += group
        return torch.cat(coded, 1).float()

    def _predict(self, k: int, context: Tensor, shift: Tensor, log_scale: Tensor) -> Parameters:
        mean, residual_log_scale = fixed_point.run(self.entropy_parameters[k], fixed_point.to_grid(context)).chunk(2, 1)
        return Parameters(mean + shift, scale_index(residual_log_scale + log_scale))
