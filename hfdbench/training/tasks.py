# pyright: basic
"""What is trained, on what: stage 1 on crops of photographs, decoders of stage 2 on pairs of a frozen base.

A task's `draw` makes a step's crops on the CPU, in a thread of its own; `batch` makes of them, once they are on the device, what
the losses see.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hfdbench.hfd.autoencoder import AutoencoderConfig
from hfdbench.hfd.decoder import AT_ONCE, Decoder, Sampling
from hfdbench.hfd.lapped import LappedAutoencoder
from hfdbench.hfd.network import NetworkConfig
from hfdbench.hfd.sampling import Schedule
from hfdbench.hfd.weights import build, configured, load_into, start_autoencoder
from hfdbench.training import objectives, pairs, photos
from hfdbench.training.adversaries import read_perceptual
from hfdbench.training.objectives import DIFFUSION, DISTILLED, MSE, PERCEPTUAL, Batch, Loss
from hfdbench.training.recipe import Recipe


class AutoencoderTask:
    """Rate-distortion training of every rate at once: each crop of a batch draws its own rate."""

    def __init__(self, recipe: Recipe, data: photos.Photos, init: Path | None = None):
        self.recipe, self.data = recipe, data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.modules = {"model": build(configured(AutoencoderConfig, recipe.model))}
        if init:
            start_autoencoder(self.modules["model"], init)
        else:
            pixels, _ = photos.crops(self.data.images, 64, recipe.crop, np.random.default_rng((recipe.seed, 2**41)))
            self.modules["model"].calibrate(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        self.model = self.modules["model"]
        self.groups = restrict(self.model, recipe.only) if recipe.only else None
        # Their loss stands outside the forward pass and is the same in every process: there is nothing to average.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, ["bottleneck.quantiles"])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        smooth = int(rng.binomial(count, recipe.smooth)) if recipe.smooth else 0
        if recipe.smallest_scale < 1:
            pixels = photos.scaled_crops(self.data.images, count - smooth, recipe.crop, recipe.smallest_scale, rng)
        else:
            pixels, _ = photos.crops(self.data.images, count - smooth, recipe.crop, rng)
        if smooth:
            pixels = np.concatenate([photos.smooth_fields(smooth, recipe.crop, rng), pixels])
        rates = len(self.model.config.lambdas)
        rate = torch.from_numpy(rng.permutation((np.arange(count) + rng.integers(rates)) % rates))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), rate

    @staticmethod
    def batch(pixels: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        return pixels.float() / 255, rate

    def passes(self, modules: dict[str, nn.Module], fabric: Fabric) -> Iterator[tuple[str, Loss]]:
        def loss(batch):
            image, rate = batch
            if self.groups:
                error, bits = modules["model"](image, rate, self.groups)
                lambdas = torch.tensor(self.model.config.lambdas, device=image.device)
                balance = (lambdas.median() / lambdas[rate]) ** 0.5  # about the share of the whole rate that a bit is
                per_pixel = 1 / (image.shape[2] * image.shape[3])
                shown = {"bpp": per_pixel * bits.detach().mean(), "error": per_pixel * error.detach().mean()}
                return per_pixel * ((bits + error) * balance).mean(), shown
            loss, bpp, mse = rate_distortion(modules["model"], image, rate, self.recipe.block_means)
            shown = {"rd": loss.detach(), "bpp": bpp.mean(), "psnr_db": (-10 * mse.log10()).mean()}
            return loss + self.model.bottleneck.loss(), shown  # the second term fits the quantiles of the hyper-latents

        yield "model", loss

    @torch.no_grad()
    def samples(self, batch) -> Tensor:
        """Rows of pictures: originals above reconstructions, 2 x N x 3 x H x W."""
        return torch.stack([batch[0], self.model.reconstruct(*batch)[0]])

    def finish(self) -> None:
        self.model.freeze_tables()


def restrict(model: nn.Module, only: tuple[str, ...]) -> int | None:
    """Freeze all parameters but those whose names begin with one of `only`.

    Returns
    -------
    int or None
        How many groups of latents the trained parameters have a say in, where they serve groups alone; else None.

    Raises
    ------
    ValueError
        For a beginning that no parameter has.
    """
    names = [name for name, _ in model.named_parameters()]
    for beginning in only:
        if not any(name.startswith(beginning) for name in names):
            raise ValueError(
                f'only: no parameter begins with "{beginning}"; there are {", ".join(sorted({n.split(".")[0] for n in names}))}'
            )
    groups: list[int] = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(only))
        if parameter.requires_grad:
            kind, _, rest = name.partition(".")
            of_group = kind in (
                "hyper_context",
                "channel_context",
                "spatial_context",
                "entropy_parameters",
                "level_context",
            )
            groups.append(
                int(rest.split(".")[0]) + 1 if of_group else 1 if kind in ("level_neighbours", "neighbours") else 0
            )
    return max(groups) if all(groups) and isinstance(model, LappedAutoencoder) else None


def rate_distortion(model: Any, image: Tensor, rate: Tensor, block_means: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rate-distortion loss (scalar), bits per pixel and MSE per image (N each).

    Loss of an image: (bpp + lambda * 255^2 * D) * (lambda_mid / lambda)^0.25; the last factor balances the rates (ours). D is the
    MSE plus `block_means` times the sum of the mean squared errors of means of blocks of 8, 16 and 32 pixels: errors of whole
    areas are seen before errors of texture.
    """
    reconstruction, bits = model(image, rate)
    error = reconstruction - image
    mse = error.square().mean((1, 2, 3))
    distortion = mse
    for _ in range(3 if block_means else 0):
        error = F.avg_pool2d(error, 2 if error.shape[3] < image.shape[3] else 8)
        distortion = distortion + block_means * error.square().mean((1, 2, 3))
    bpp = bits / (image.shape[2] * image.shape[3])
    lambdas = torch.tensor(model.config.lambdas, device=image.device)
    balance = (lambdas.median() / lambdas[rate]) ** 0.25
    return ((bpp + lambdas[rate] * 255**2 * distortion) * balance).mean(), bpp.detach(), mse.detach()


class DecoderTask:
    """Training of a decoder, by any of the objectives, on pairs made once by the frozen base."""

    def __init__(
        self,
        recipe: Recipe,
        data: photos.Photos,
        base: pairs.Base,
        cache: Path,
        init: Path | None = None,
        perceptual: Path | None = None,
        first: int = 0,
    ):
        """first: index of the photograph that this process begins to make pairs with."""
        self.recipe, self.data = recipe, data
        self.base, rates, latents = base, len(base.points), base.latents
        if recipe.objective == "hfd-plus" and not latents:
            raise ValueError(f"objective hfd-plus sees latents, which base {base.name} does not have; train hfd")
        seen = latents if recipe.objective == "hfd-plus" else 0
        self.schedule = Schedule("linear" if recipe.objective == "hfd-rf" else "cosine")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            config = configured(NetworkConfig, dict(recipe.model) | {"rates": rates, "latents": seen})
            self.model = Decoder(config)
            self.modules: dict[str, nn.Module] = {"model": self.model}
            if recipe.objective in AT_ONCE and recipe.objective != MSE:
                self.modules["critic"] = objectives.make_critic(recipe.objective, latents)
            if recipe.objective in PERCEPTUAL:
                if perceptual is None:
                    raise ValueError(f"objective {recipe.objective} needs the weights of {recipe.perceptual}")
                self.perceptual = read_perceptual(recipe.perceptual, perceptual)
        if init:
            lacking = ("network.latents.weight", "network.latents.bias") if seen else ()
            load_into(self.model, init, may_lack=lacking, by_rate=("network.rate.weight", "root"))
        if recipe.objective == DISTILLED:
            self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.pairs = pairs.make_pairs(data, base, recipe.pair_side, recipe.border, cache, first, recipe.pair_rates)
        self.model.root.copy_(pairs.residual_roots(self.pairs, rates, config.highpass))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        # Evenly spread times: one uniform offset, a different stratum each (less variance than independent draws).
        t = torch.from_numpy((rng.random() + rng.permutation(count) / count) % 1)
        return *pairs.crops(self.pairs, count, self.recipe.crop, rng), t

    @staticmethod
    def batch(pixels: Tensor, rate: Tensor, latents: Tensor, t: Tensor) -> Batch:
        image, reconstruction = (pixels.float() / 255).chunk(2, 1)
        return Batch(image, reconstruction, rate, latents.float(), t, torch.randn_like(image))

    def passes(self, modules: dict[str, nn.Module], fabric: Fabric) -> Iterator[tuple[str, Loss]]:
        objective = self.recipe.objective
        if objective in DIFFUSION:
            yield "model", objectives.diffusion(modules["model"], objective, self.schedule)
            return
        if objective == DISTILLED:
            teacher = self.teacher.to(fabric.device).to(memory_format=torch.channels_last)
            yield "model", objectives.distillation(modules["model"], teacher, self.schedule, self.recipe.evaluations)
            return
        if objective == MSE:
            yield "model", objectives.squared(modules["model"])
            return
        if objective not in PERCEPTUAL:
            yield from objectives.residual_gan(modules["model"], modules["critic"])
            return
        frozen = self.perceptual.to(fabric.device).to(memory_format=torch.channels_last)

        def perceptual(image: Tensor) -> list[Tensor]:
            with fabric.autocast():
                return frozen(image)

        yield from objectives.adversarial(modules["model"], modules["critic"], perceptual, objective)

    @torch.no_grad()
    def samples(self, batch: Batch) -> Tensor:
        """Rows of pictures, 3 x N x 3 x H x W: originals, reconstructions, and what the decoder makes of them: sampled in 16 steps
        at full strength, or predicted at once where that is the objective."""
        solver = "euler" if self.schedule.path == "linear" or self.recipe.objective == DISTILLED else "ancestral"
        if self.recipe.objective in AT_ONCE:
            solver = "once"
        steps = self.recipe.evaluations if self.recipe.objective == DISTILLED else 16
        how = Sampling(solver, steps=steps, path=self.schedule.path, tile=0)
        images = (batch.reconstruction * 255).round().byte().permute(0, 2, 3, 1).numpy()
        made = [
            self.model.sample(image, int(rate), seed, how, latents[None])
            for seed, (image, rate, latents) in enumerate(zip(images, batch.rate, batch.latents, strict=True))
        ]
        made = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 255
        return torch.stack([batch.image, batch.reconstruction, made])

    def finish(self) -> None:
        pass


Task = AutoencoderTask | DecoderTask
