# pyright: basic
"""Stage 1: an ELIC-style autoencoder trained for mean squared error, one model for all its rates.

Transforms and entropy model follow He et al. 2022 (ELIC, arXiv:2203.10886): strided 5x5 convolutions with residual
bottleneck blocks, unevenly sized channel groups coded one after the other, each with a two-pass checkerboard context,
the groups before it and a hyperprior as context. The parts are CompressAI's. Two things are ours: a small width that
trains on CPUs, and gain units (Cui et al. 2021, "Asymmetric Gained Deep Image Compression", arXiv:2003.02012): a vector per
rate scales the latents before rounding and another scales them back, so that one network serves every rate.

Entropy coding is exact (see fixed_point.py): a stream decodes to the same latents for any batch size, thread count or machine.

Conventions: images are float32, N x 3 x H x W in [0, 1], H and W multiples of 64; `rate` is a long tensor of N indices.
"""

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import conv, deconv
from compressai.ops import LowerBound, quantize_ste
from torch import Tensor, nn

from hfdbench.errors import StreamError
from hfdbench.hfd import fixed_point

STRIDE = 64  # latents at 1/16, hyper-latents at 1/64 of the resolution
SCALES = 64  # entries of the table of Gaussian scales
SCALE_MIN, SCALE_MAX = 0.11, 128.0
LARGEST_SYMBOL = 2**15  # magnitude; the coder never ends on numbers near 2^31
DAMAGED = "hfd stream is damaged: its symbols are not those of any image; encode the image again"


@dataclass(frozen=True)
class AutoencoderConfig:
    """architecture: "elic" (this module) or "lapped" (lapped.py); widths: channels after each strided convolution, or at 1/8 and
    1/16 of the resolution; blocks: residual blocks at each of these, "lapped" only; groups: latent channels coded together;
    levels: how many of the first groups are coded in five passes from coarse to fine, "lapped" only; lambdas: one per rate."""

    architecture: str = "elic"
    widths: tuple[int, ...] = (48, 96, 128)
    blocks: tuple[int, ...] = ()
    groups: tuple[int, ...] = (8, 8, 16, 32, 96)
    hyper: int = 96
    context: int = 96
    levels: int = 0
    lambdas: tuple[float, ...] = (0.0008, 0.0016, 0.0032, 0.0064, 0.0128)

    def __post_init__(self):
        """Raises ValueError for sizes that no model has: they come from files."""
        bounded("widths", self.widths, 4096)
        bounded("blocks", self.blocks, 64)
        bounded("groups", self.groups, 4096)
        bounded("hyper and context", (self.hyper, self.context), 4096)
        if type(self.levels) is not int or not 0 <= self.levels <= len(self.groups):
            raise ValueError(f"levels {self.levels}: a whole number from 0 to the {len(self.groups)} groups")
        if not 1 <= len(self.lambdas) <= 255 or not all(0 < value < math.inf for value in self.lambdas):
            raise ValueError(f"lambdas {self.lambdas}: 1 to 255 numbers above 0")

    @property
    def latents(self) -> int:
        return sum(self.groups)


@dataclass
class Parameters:
    """What the entropy model says of one pass, N x C x H x W: means, log-scale-table indices, and into how many steps each step
    of the latents is divided, which broadcasts."""

    mean: Tensor
    index: Tensor = field(repr=False)
    fine: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64), repr=False)


def bounded(name: str, values: tuple[int, ...], most: int) -> None:
    """Raises ValueError unless these are at most 16 whole numbers from 1 to `most`."""
    if len(values) > 16 or not all(type(value) is int and 1 <= value <= most for value in values):
        raise ValueError(f"{name} {values}: at most 16 whole numbers from 1 to {most}")


def checkerboard(like: Tensor) -> Tensor:
    """1 x 1 x H x W: True on the anchors, which are coded first without spatial context."""
    height, width = like.shape[-2:]
    row = torch.arange(height, device=like.device)[:, None]
    column = torch.arange(width, device=like.device)[None]
    return ((row + column) % 2 == 0)[None, None]


class Autoencoder(nn.Module):
    """The model of architecture "elic".

    margin: pixels that its transforms see beyond a tile, a multiple of 16; by_rate: parameters whose first axis is the rate.
    """

    margin = 80  # analysis reaches 72 pixels, synthesis as far
    by_rate: tuple[str, ...] = ("log_gain", "log_inverse_gain", "log_hyper_gain", "log_hyper_inverse_gain")

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        self._build()

    def _build(self) -> None:
        config = self.config
        a, b, c = config.widths
        m, h, context = config.latents, config.hyper, config.context

        def blocks(width):
            return [ResidualBottleneckBlock(width, width) for _ in range(3)]

        self.analysis = nn.Sequential(
            conv(3, a), *blocks(a), conv(a, b), *blocks(b), conv(b, c), *blocks(c), conv(c, m)
        )
        self.synthesis = nn.Sequential(
            deconv(m, c), *blocks(c), deconv(c, b), *blocks(b), deconv(b, a), *blocks(a), deconv(a, 3)
        )
        self.hyper_analysis = nn.Sequential(conv(m, h, 3, 1), nn.ReLU(), conv(h, h), nn.ReLU(), conv(h, h))
        self.hyper_synthesis = nn.Sequential(
            deconv(h, h), nn.ReLU(), deconv(h, h), nn.ReLU(), conv(h, 2 * context, 3, 1)
        )
        self.channel_context = nn.ModuleList()
        self.spatial_context = nn.ModuleList()
        self.entropy_parameters = nn.ModuleList()
        done = 0
        for group in config.groups:
            self.channel_context.append(
                nn.Sequential(conv(done, context, 3, 1), nn.ReLU(), conv(context, context, 3, 1))
                if done
                else nn.Identity()
            )
            self.spatial_context.append(CheckerboardMaskedConv2d(group, context, 5, 1, 2))
            width = context * (4 if done else 3)
            self.entropy_parameters.append(
                nn.Sequential(
                    conv(width, 128, 1, 1), nn.ReLU(), conv(128, 128, 1, 1), nn.ReLU(), conv(128, 2 * group, 1, 1)
                )
            )
            done += group
        # Gains start where a uniform quantiser would put them: step^2 proportional to 1/lambda.
        start = [0.5 * math.log(value / config.lambdas[-1]) for value in config.lambdas]
        log_gain = torch.tensor(start)[:, None]
        self.log_gain = nn.Parameter(log_gain.repeat(1, m))
        self.log_inverse_gain = nn.Parameter(-log_gain.repeat(1, m))
        # A fresh network's hyper-latents would all round to zero and teach nothing: start them eight times larger.
        self.log_hyper_gain = nn.Parameter(torch.full((len(start), h), math.log(8)))
        self.log_hyper_inverse_gain = nn.Parameter(torch.full((len(start), h), -math.log(8)))
        self.bottleneck = EntropyBottleneck(h)
        self.gaussian = GaussianConditional(None, scale_bound=SCALE_MIN)
        self.scale_bound = LowerBound(math.log(SCALE_MIN))

    def calibrate(self, image: Tensor) -> None:
        """Fit what can be fitted without gradients to images, N x 3 x H x W in [0, 1], before training."""

    # Training: rates are estimated, rounding passes gradients straight through.

    def forward(self, image: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (N x 3 x H x W, not clipped) and estimated bits per image (N)."""
        y_hat, bits = self.estimate(image, rate)
        return self.synthesise(y_hat, rate), bits

    def estimate(self, image: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded latents (N x latents x H/16 x W/16) and estimated bits per image (N), without coding."""
        y = self.analyse(image, rate).float()
        with torch.autocast(image.device.type, enabled=False):
            z = self.hyper_latents(y, rate)
            _, z_likelihood = self.bottleneck(z)
            medians = self.bottleneck._get_medians().detach()[None, :, :]
            z_hat = quantize_ste(z - medians.reshape(1, -1, 1, 1)) + medians.reshape(1, -1, 1, 1)
            hyper = self.hyper_synthesis(z_hat * self.log_hyper_inverse_gain[rate].exp()[:, :, None, None])
            bits = -z_likelihood.log2().sum((1, 2, 3))
            anchors = checkerboard(y)
            coded: list[Tensor] = []
            for k, y_k in enumerate(y.split(self.config.groups, 1)):
                context = [hyper, self.channel_context[k](torch.cat(coded, 1))] if k else [hyper]
                blank = y.new_zeros(len(y), self.config.context, *y.shape[2:])
                mean_a, log_scale_a = self.entropy_parameters[k](torch.cat([blank, *context], 1)).chunk(2, 1)
                y_hat_a = (quantize_ste(y_k - mean_a) + mean_a) * anchors
                spatial = self.spatial_context[k](y_hat_a) * ~anchors
                mean_n, log_scale_n = self.entropy_parameters[k](torch.cat([spatial, *context], 1)).chunk(2, 1)
                mean = torch.where(anchors, mean_a, mean_n)
                log_scale = torch.where(anchors, log_scale_a, log_scale_n)
                coded.append(quantize_ste(y_k - mean) + mean)
                # Training needs a smooth rate: noise for rounding (Balle et al. 2017, arXiv:1611.01704).
                noisy = y_k + torch.empty_like(y_k).uniform_(-0.5, 0.5) if self.training else coded[-1]
                likelihood = gaussian_likelihood(noisy - mean, self.scale_bound(log_scale))
                bits = bits - likelihood.log2().sum((1, 2, 3))
        return torch.cat(coded, 1), bits

    def hyper_latents(self, y: Tensor, rate: Tensor) -> Tensor:
        """Before rounding, N x hyper x H/64 x W/64, of scaled latents."""
        return self.hyper_analysis(y) * self.log_hyper_gain[rate].exp()[:, :, None, None]

    def analyse(self, image: Tensor, rate: Tensor) -> Tensor:
        """Scaled latents, N x latents x H/16 x W/16, before rounding."""
        return self.analysis(image - 0.5) * self.log_gain[rate].exp()[:, :, None, None]

    def synthesise(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        """Image from decoded latents, N x 3 x H x W, not clipped."""
        return self.synthesis(self.unscale(y_hat, rate)).float() + 0.5

    def unscale(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        """Latents at the scale that all rates share, as synthesis sees them."""
        return y_hat * self.log_inverse_gain[rate].exp()[:, :, None, None]

    @torch.inference_mode()
    def reconstruct(self, image: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """What decoding gives up to float rounding, without coding: image in [0, 1], any N x 3 x H x W, and unscaled latents."""
        height, width = image.shape[2:]
        y_hat, _ = self.estimate(pad(image), rate)
        return self.synthesise(y_hat, rate)[:, :, :height, :width].clamp(0, 1), self.unscale(y_hat, rate)

    # Coding: one image at a time, on the CPU, exact.

    @torch.inference_mode()
    def compress(self, y: Tensor, rate: int) -> bytes:
        """One rANS stream (hyper-latents, then latents) of scaled latents `y`: 1 x latents x H/16 x W/16, H, W multiples of 64."""
        z = self.hyper_latents(y, torch.tensor([rate]))
        medians = fixed_point.to_grid(self.bottleneck._get_medians().reshape(1, -1, 1, 1))
        symbols = (z.double() - medians).round().clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL).int()
        encoder = BufferedRansEncoder()
        self._push(encoder, symbols, self._bottleneck_index(symbols.shape), self._bottleneck_table)
        contexts = self._contexts(symbols, rate)
        y = y.double()

        def code(part: slice, mask: Tensor, parameters: Parameters) -> Tensor:
            symbols = self._symbols(y[:, part], parameters, part, rate).clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL)
            self._push(encoder, symbols[mask].int(), parameters.index[mask], self._gaussian_table)
            return symbols

        self._code_groups(contexts, rate, code)
        return encoder.flush()

    @torch.inference_mode()
    def decompress(self, stream: bytes, shape: tuple[int, int], rate: int) -> Tensor:
        """Decoded latents of a stream made by `compress`.

        Parameters
        ----------
        stream : bytes
        shape : tuple of int
            Height and width of the latents: (H/16, W/16), multiples of 4.
        rate : int
            Index of the rate.

        Returns
        -------
        Tensor
            float32, 1 x latents x shape.

        Raises
        ------
        StreamError
            `compress` writes another stream for these latents: this one is damaged, or of another model or size. The coder itself
            decodes any bytes to something.
        """
        decoder = RansDecoder()
        decoded: list[tuple[list[int], list[int]]] = []  # symbols and rows of their tables
        # The coder reads past the end of a damaged stream, at most four bytes a symbol: let it find zeros there.
        decoder.set_stream(stream + bytes(4 * self.symbols(shape) + 64))

        def pull(index: Tensor, table) -> Tensor:
            rows = index.flatten().tolist()
            symbols = decoder.decode_stream(rows, *table)
            found = np.array(symbols, np.int32)
            if found.size and not -LARGEST_SYMBOL <= found.min() <= found.max() <= LARGEST_SYMBOL:
                raise StreamError(DAMAGED)
            decoded.append((symbols, rows))
            return torch.from_numpy(found)  # torch.tensor reads a list slower

        z_shape = (1, self.config.hyper, shape[0] // 4, shape[1] // 4)
        symbols = pull(self._bottleneck_index(z_shape), self._bottleneck_table).reshape(z_shape)
        contexts = self._contexts(symbols, rate)

        def code(part: slice, mask: Tensor, parameters: Parameters) -> Tensor:
            symbols = torch.zeros_like(parameters.mean)
            symbols[mask] = pull(parameters.index[mask], self._gaussian_table).double()
            return symbols

        y_hat = self._code_groups(contexts, rate, code)
        again, (hyper, *latents) = BufferedRansEncoder(), decoded
        again.encode_with_indexes(*hyper, *self._bottleneck_table)
        symbols, rows = (list(itertools.chain.from_iterable(parts)) for parts in zip(*latents, strict=True))
        again.encode_with_indexes(symbols, rows, *self._gaussian_table)  # at once: each call copies its table
        if again.flush() != stream:
            raise StreamError(DAMAGED)
        return y_hat

    def symbols(self, shape: tuple[int, int]) -> int:
        """Number of symbols in a stream of latents of this shape, (H/16, W/16)."""
        return self.config.latents * shape[0] * shape[1] + self.config.hyper * (shape[0] // 4) * (shape[1] // 4)

    @cached_property
    def least_bits(self) -> float:
        """Bits that a symbol takes at least, by the tables of probabilities."""
        most = 0
        for cdf, lengths, _ in (self._bottleneck_table, self._gaussian_table):
            for row, length in zip(cdf, lengths, strict=True):
                most = max(most, *(high - low for low, high in itertools.pairwise(row[:length])))
        return -math.log2(most / 2**16)

    def hyper_bytes(self, stream: bytes, shape: tuple[int, int]) -> int:
        """Bytes that the hyper-latents of a stream take when they are coded alone; shape is (H/16, W/16)."""
        decoder, encoder = RansDecoder(), BufferedRansEncoder()
        decoder.set_stream(stream)
        rows = self._bottleneck_index((1, self.config.hyper, shape[0] // 4, shape[1] // 4)).flatten().tolist()
        encoder.encode_with_indexes(decoder.decode_stream(rows, *self._bottleneck_table), rows, *self._bottleneck_table)
        return len(encoder.flush())

    def _contexts(self, symbols: Tensor, rate: int) -> Tensor:
        """What the hyper-latents say of the latents, exactly."""
        return fixed_point.run(self.hyper_synthesis, self._hyper_values(symbols, rate))

    def _code_groups(self, hyper: Tensor, rate: int, code) -> Tensor:
        """Walk groups and checkerboard passes in coding order; `code` turns parameters into symbols. Returns y_hat."""
        anchors = checkerboard(hyper)
        coded: list[Tensor] = []
        start = 0
        for k, group in enumerate(self.config.groups):
            part = slice(start, start + group)
            context = [hyper, fixed_point.run(self.channel_context[k], torch.cat(coded, 1))] if k else [hyper]
            spatial = torch.zeros(1, self.config.context, *hyper.shape[2:], dtype=torch.float64)
            y_hat = torch.zeros(1, group, *hyper.shape[2:], dtype=torch.float64)
            for mask in (anchors, ~anchors):
                parameters = self._predict(k, torch.cat([spatial, *context], 1), mask)
                mask = mask.expand_as(y_hat)
                y_hat = torch.where(mask, fixed_point.to_grid(code(part, mask, parameters) + parameters.mean), y_hat)
                if mask[0, 0, 0, 0]:
                    spatial = fixed_point.run(self.spatial_context[k], y_hat)
            coded.append(y_hat)
            start += group
        return torch.cat(coded, 1).float()

    def _hyper_values(self, symbols: Tensor, rate: int) -> Tensor:
        medians = fixed_point.to_grid(self.bottleneck._get_medians().reshape(1, -1, 1, 1))
        gain = fixed_point.to_grid(self.log_hyper_inverse_gain[rate].exp())[None, :, None, None]
        return fixed_point.to_grid((symbols + medians) * gain)

    def _predict(self, k: int, context: Tensor, mask: Tensor) -> Parameters:
        """Parameters of a group where `mask` is set, else 0: these layers see one position at a time."""
        at = mask[0, 0]
        some = fixed_point.run(self.entropy_parameters[k], context[..., at][:, :, None])[:, :, 0]
        every = torch.zeros(1, some.shape[1], *at.shape, dtype=torch.float64)
        every[..., at] = some
        mean, log_scale = every.chunk(2, 1)
        return Parameters(mean, scale_index(log_scale))

    def _symbols(self, y: Tensor, parameters: Parameters, part: slice, rate: int) -> Tensor:
        """The whole numbers that are coded for latents `y`, those of `part`."""
        return (y - parameters.mean).round()

    def _bottleneck_index(self, shape) -> Tensor:
        return torch.arange(shape[1], dtype=torch.int32)[None, :, None, None].expand(shape)

    @staticmethod
    def _push(encoder, symbols: Tensor, index: Tensor, table) -> None:
        encoder.encode_with_indexes(symbols.flatten().tolist(), index.flatten().tolist(), *table)

    @property
    def _bottleneck_table(self):
        return _table(self.bottleneck)

    @property
    def _gaussian_table(self):
        return _table(self.gaussian)

    def freeze_tables(self) -> None:
        """Compute the integer probability tables once; they are saved with the weights, so every machine codes alike."""
        scales = torch.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), SCALES).exp()
        self.gaussian.update_scale_table(scales, force=True)
        self.bottleneck.update(force=True)

    def check_tables(self) -> None:
        """Raises ValueError for probability tables that the entropy coder, which trusts them, would crash or never end on."""
        for name, model, rows in (
            ("bottleneck", self.bottleneck, self.config.hyper),
            ("gaussian", self.gaussian, SCALES),
        ):
            cdf, lengths, offsets = _table(model)
            good = len(cdf) == len(lengths) == len(offsets) == rows and all(
                3 <= length <= len(row)
                and row[0] == 0
                and row[length - 1] == 2**16
                and all(low < high for low, high in itertools.pairwise(row[:length]))
                and abs(offset) <= LARGEST_SYMBOL
                for row, length, offset in zip(cdf, lengths, offsets, strict=True)
            )
            if not good:
                raise ValueError(f"the probability tables of {name} are not such tables")


def pad(image: Tensor) -> Tensor:
    """Repeat the last row and column up to multiples of 64; the rate still counts the original pixels."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def gaussian_likelihood(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Probability of the unit interval around `residual` under a zero-mean Gaussian, at least 1e-9."""
    scale = log_scale.clamp(max=math.log(SCALE_MAX)).exp()
    residual = residual.abs()
    upper = torch.special.ndtr((0.5 - residual) / scale)
    lower = torch.special.ndtr((-0.5 - residual) / scale)
    return (upper - lower).clamp_min(1e-9)


def scale_index(log_scale: Tensor) -> Tensor:
    """Index of the nearest entry of the table of Gaussian scales."""
    low, high = math.log(SCALE_MIN), math.log(SCALE_MAX)
    return ((log_scale - low) * ((SCALES - 1) / (high - low))).round().clamp(0, SCALES - 1).int()


def _table(model) -> tuple[list, list, list]:
    cached = model.__dict__.get("_lists")
    if cached is None or cached[0] is not model._quantized_cdf:
        lengths = model._cdf_length.flatten().tolist()
        rows = zip(model._quantized_cdf.tolist(), lengths, strict=True)  # without their padding: each call copies all
        lists = [row[:length] for row, length in rows], lengths, model._offset.flatten().tolist()
        cached = model.__dict__["_lists"] = (model._quantized_cdf, lists)
    return cached[1]
