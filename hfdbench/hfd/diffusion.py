"""Diffusion of the stage-1 residual: schedule, prediction, ancestral sampler.

HFD (Hoogeboom et al. 2023, arXiv:2305.18231) samples the original given the autoencoder's reconstruction. Here the
network works on the residual x - x_hat, scaled to unit variance (decoder.py), so that no capacity goes into copying
x_hat; this preconditioning is ours. In image scale the largest useful noise is then as large as what the autoencoder
lost: the paper's "less noise".

Conventions: t in [0, 1], 0 clean; log_snr = log(alpha^2 / sigma^2); variance preserving, alpha^2 = sigmoid(log_snr).
z = alpha r + sigma e; v = alpha e - sigma r, hence r = alpha z - sigma v (Salimans and Ho 2022, arXiv:2202.00512).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_SNR_LIMIT = 15.0


@dataclass(frozen=True)
class Schedule:
    """Shifted cosine: log_snr(t) = -2 (log tan(pi t / 2) + log shift), clamped to +-15; shift < 1 means less noise."""

    shift: float = 1.0

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double().clamp(1e-6, 1 - 1e-6)
        value = -2 * (torch.log(torch.tan(math.pi * t / 2)) + math.log(self.shift))
        return value.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def ancestral(
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    noise: Callable[[], Tensor],
    schedule: Schedule,
    steps: int,
    gamma: float,
    clip: Callable[[Tensor], Tensor] = lambda r: r,
) -> Tensor:
    """Sample r from noise `start` in `steps` network evaluations.

    predict(z, log_snr) returns v; noise() a fresh standard normal of the same shape; clip keeps r where images can be.
    gamma sets the fresh noise of a step: std = upper^gamma * lower^(1-gamma), between the forward process (upper) and its
    posterior (lower). What the next level's sigma asks for beyond it is the noise just estimated (Song, Meng, Ermon 2021,
    arXiv:2010.02502, eq. 12): at gamma 0 this is DDPM's sampler; at gamma 1 and few steps the fresh noise exceeds sigma,
    which leaves some grain. The log-linear form is ours (the paper studies gamma; its definition was not at hand).
    """
    z = start
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    log_snrs = schedule.log_snr(times)
    for i in range(steps):
        now, then = log_snrs[i], log_snrs[i + 1]
        (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        v = predict(z, now.float())
        r = clip(float(alpha) * z - float(sigma) * v)
        if i == steps - 1:
            return r
        noise_now = (z - float(alpha) * r) / float(sigma)
        c = -torch.expm1(now - then)  # share of the noise that this step removes
        lower = sigma_then * c.sqrt()
        upper = sigma * c.sqrt()  # sigma_{t|s}
        fresh = upper**gamma * lower ** (1 - gamma)
        kept = (sigma_then**2 - fresh**2).clamp(min=0).sqrt()
        z = float(alpha_then) * r + float(kept) * noise_now + float(fresh) * noise()
    return z
