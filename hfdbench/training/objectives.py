# pyright: basic
"""What each decoder of stage 2 is trained for. All share one network, one start, the same crops; here they differ.

| objective | predicts | loss |
| --- | --- | --- |
| hfd | v of the diffused residual | squared error of v; times uniform on the cosine schedule (Hoogeboom et al. 2023) |
| hfd-rf | the same v, read as the straight path's velocity | squared error of r - e; times uniform on that path (Liu et al. 2022) |
| hfd-plus | v, latents seen | hfd's, and the squared error of v's fine detail; ours: the paper's HFD+ was not available |
| dirac | v, read as the residual | squared error of r (Ghouse et al. 2023, "DIRAC") |
| hfd-fast | v of the residual that two of a teacher's steps arrive at | squared error of v (Salimans and Ho 2022, progressive \
distillation) |
| mse | the residual, in one evaluation | squared error of the image, over the residual's power at its rate |
| hific | the residual, in one evaluation | squared error, perceptual, GAN on latents (Mentzer et al. 2020, arXiv:2006.09965) |
| po-elic | the residual, in one evaluation | Charbonnier, perceptual, style, hinge PatchGAN (He et al. 2022, "PO-ELIC") |
| hfd-gan | the residual, from noise in one evaluation | hinge GAN on residuals beside reconstructions, squared error of their \
means (ours, after Sauer et al. 2023, arXiv:2311.17042: a diffusion decoder goes on against a discriminator) |

With z = alpha r + sigma e and an error d of v: the error of r is -sigma d, that of the velocity r - e is -(sigma + alpha) d.

Conventions: crops as `Batch`; a pass is (name of the network it trains, function of the batch -> scalar loss, numbers to log).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdbench.hfd.decoder import AT_ONCE, recolour
from hfdbench.hfd.sampling import LOG_SNR_LIMIT, Schedule, alpha_sigma
from hfdbench.training.adversaries import Discriminator, ResidualDiscriminator, distance, style
from hfdbench.training.pairs import highpassed


@dataclass(frozen=True)
class Batch:
    """image, reconstruction: N x 3 x H x W in [0, 1]; rate: N; latents: N x C x H/16 x W/16; t: N in [0, 1]; noise like image."""

    image: Tensor
    reconstruction: Tensor
    rate: Tensor
    latents: Tensor
    t: Tensor
    noise: Tensor


Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
DIFFUSION = ("hfd", "hfd-rf", "hfd-plus", "dirac")
PERCEPTUAL = ("hific", "po-elic")
MSE = "mse"
DISTILLED = "hfd-fast"
OBJECTIVES = (*DIFFUSION, *AT_ONCE, DISTILLED)

# Weights of the losses of GAN decoders, in whitened residuals and normalised features: ours, in the proportions of the papers'
# terms at the start of training.
HIFIC = {"squared": 0.3, "perceptual": 1.0, "adversarial": 0.15}
PO_ELIC = {"charbonnier": 0.15, "perceptual": 1.0, "style": 1.0, "adversarial": 0.15}
HFD_GAN = {"means": 4.0, "adversarial": 0.15}
DETAIL = 1.0  # hfd-plus: weight of the squared error of v's fine detail


def whitened(model: Any, batch: Batch) -> Tensor:
    residual = highpassed(batch.image - batch.reconstruction, model.config.highpass)
    return recolour(torch.linalg.inv(model.root[batch.rate]), residual)


def diffusion(model: Any, objective: str, schedule: Schedule) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        log_snr = schedule.log_snr(batch.t).float()
        alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(log_snr))
        r = whitened(model, batch)
        z = alpha * r + sigma * batch.noise
        latents = batch.latents if model.config.latents else None
        error = model(z, batch.reconstruction, log_snr, batch.rate, latents) - (alpha * batch.noise - sigma * r)
        losses = error.square().mean((1, 2, 3))
        shown = {"v": losses.mean()}
        if objective == "hfd-rf":
            losses = losses * (alpha + sigma).flatten().square()
        elif objective == "dirac":
            losses = losses * sigma.flatten().square()
        elif objective == "hfd-plus":
            detail = fine(error).square().mean((1, 2, 3))
            losses, shown = losses + DETAIL * detail, shown | {"detail": detail.mean()}
        return losses.mean(), shown

    return loss


def distillation(model: Any, teacher: Any, schedule: Schedule, evaluations: int) -> Loss:
    """One DDIM step of the student shall do what two of the teacher's do (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2).

    The student's steps are those of `Sampling("euler", evaluations)`; the teacher takes twice as many.
    """

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        latents = batch.latents if model.config.latents else None
        step = (batch.t * evaluations).floor().clamp(max=evaluations - 1) + 1
        levels = [schedule.log_snr((step - back) / evaluations).float() for back in (0, 0.5, 1)]
        (alpha, sigma), between, (alpha_end, sigma_end) = (
            [x[:, None, None, None] for x in alpha_sigma(each)] for each in levels
        )
        z = alpha * whitened(model, batch) + sigma * batch.noise
        with torch.no_grad():
            end = z
            for now, (a, s), (a_then, s_then) in (
                (levels[0], (alpha, sigma), between),
                (levels[1], between, (alpha_end, sigma_end)),
            ):
                v = teacher(end, batch.reconstruction, now, batch.rate, latents)
                end = a_then * (a * end - s * v) + s_then * (a * v + s * end)
            ratio = sigma_end / sigma
            r = (end - ratio * z) / (alpha_end - ratio * alpha)
            target = (alpha * z - r) / sigma
        error = model(z, batch.reconstruction, levels[0], batch.rate, latents) - target
        loss = error.square().mean()
        return loss, {"v": loss}

    return loss


def fine(x: Tensor) -> Tensor:
    """What a 3x3 binomial blur takes away, N x C x H x W."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    kernel = (line[:, None] * line)[None, None].expand(x.shape[1], 1, 3, 3)
    return x - F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


def predict(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The residual in one evaluation at the schedule's noisiest end, from no noise or the config's; and the image."""
    share = model.config.noise
    start = batch.noise if share else torch.zeros_like(batch.image)
    log_snr = torch.full((len(start),), -LOG_SNR_LIMIT, device=start.device)
    latents = batch.latents if model.config.latents else None
    r = share * start - model(start, batch.reconstruction, log_snr, batch.rate, latents)
    return r, batch.reconstruction + recolour(model.root[batch.rate], r)


def squared(model: Any) -> Loss:
    """What PSNR asks for: the mean of all photographs behind a reconstruction; rates count by the share of their residual."""

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, image = predict(model, batch)
        power = model.root[batch.rate].square().sum((1, 2)) / 3
        share = (image - batch.image).square().mean((1, 2, 3)) / power
        return share.mean(), {"share": share.mean()}

    return loss


def adversarial(
    model: Any, critic: nn.Module, perceptual: Callable[[Tensor], list[Tensor]], objective: str
) -> Iterator[tuple[str, Loss]]:
    """The generator's pass, then the discriminator's, on the image that the generator had just made."""
    made: list[Tensor] = []

    def generator(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r, image = predict(model, batch)
        made[:] = [image.detach()]
        seen, real = perceptual(image), perceptual(batch.image)
        logits = critic(image, batch.latents)
        difference = r - whitened(model, batch)
        if objective == "hific":
            weights = HIFIC
            terms = {"squared": difference.square().mean(), "adversarial": F.softplus(-logits).mean()}
        else:
            weights = PO_ELIC
            terms = {
                "charbonnier": (difference.square() + 1e-6).sqrt().mean(),
                "style": style(seen, real),
                "adversarial": -logits.mean(),
            }
        terms["perceptual"] = distance(seen, real)
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms

    def discriminator(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        real, fake = critic(batch.image, batch.latents), critic(made.pop(), batch.latents)
        bound = F.softplus if objective == "hific" else (lambda x: F.relu(1 + x))
        loss = bound(-real).mean() + bound(fake).mean()
        return loss, {"real": real.mean(), "fake": fake.mean()}

    yield "model", generator
    yield "critic", discriminator


def residual_gan(model: Any, critic: nn.Module) -> Iterator[tuple[str, Loss]]:
    """The generator's pass, then the discriminator's, which tells whitened residuals apart; both see the reconstruction.

    A squared error would ask for the mean of all residuals, so it is of means of 4x4 pixels: what stage 1 knows stays.
    """
    made: list[Tensor] = []

    def generator(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r, _ = predict(model, batch)
        made[:] = [r.detach()]
        terms = {
            "means": F.avg_pool2d(r - whitened(model, batch), 4).square().mean(),
            "adversarial": -critic(r, batch.reconstruction).mean(),
        }
        shown = terms | {"deviation": r.detach().std()}
        return torch.stack([HFD_GAN[name] * term for name, term in terms.items()]).sum(), shown

    def discriminator(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        both = torch.cat([whitened(model, batch), made.pop()])
        real, fake = critic(both, batch.reconstruction.repeat(2, 1, 1, 1)).chunk(2)
        return (F.relu(1 - real) + F.relu(1 + fake)).mean(), {"real": real.mean(), "fake": fake.mean()}

    yield "model", generator
    yield "critic", discriminator


def make_critic(objective: str, latents: int) -> nn.Module:
    if objective == "hfd-gan":
        return ResidualDiscriminator()
    return Discriminator(latents if objective == "hific" else 0)
