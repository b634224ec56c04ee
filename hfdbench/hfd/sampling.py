# pyright: basic
"""Diffusion of the stage-1 residual: schedules and samplers.

HFD (Hoogeboom et al. 2023, arXiv:2305.18231) samples the original given the autoencoder's reconstruction. Here the
network works on the residual x - x_hat, scaled to unit variance (decoder.py), so that no capacity goes into copying
x_hat; this preconditioning is ours. In image scale the largest useful noise is then as large as what the autoencoder
lost: the paper's "less noise".

One network output serves diffusion and rectified flow alike: z = alpha r + sigma e with alpha^2 + sigma^2 = 1, and
v = alpha e - sigma r, hence r = alpha z - sigma v (Salimans and Ho 2022, arXiv:2202.00512). The flow's straight path
t r + (1 - t) e (Liu et al. 2022, arXiv:2209.03003) is z / (alpha + sigma) with t = alpha / (alpha + sigma): it visits the
same states in another scale and at other times, so its velocity r - e follows from v (ours: one parametrisation, so that
flow and diffusion differ in times, loss weights and solver, in nothing else).

Conventions: t in [0, 1], 0 clean; log_snr = log(alpha^2 / sigma^2). A sampler takes denoise(z, log_snr) -> r, the starting
noise, log-SNRs of its steps from noisy to clean, noise(step) -> a fresh standard normal, and returns the last r.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LOG_SNR_LIMIT = 15.0
Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]


@dataclass(frozen=True)
class Schedule:
    """log_snr(t), clamped to +-15; shift < 1 means less noise.

    cosine: -2 (log tan(pi t / 2) + log shift), as HFD's is cited; linear: 2 (log((1 - t) / t) - log shift), the straight path.
    """

    path: Literal["cosine", "linear"] = "cosine"
    shift: float = 1.0

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double().clamp(1e-6, 1 - 1e-6)
        noisiness = torch.tan(math.pi * t / 2) if self.path == "cosine" else t / (1 - t)  # sigma / alpha
        return (-2 * (noisiness.log() + math.log(self.shift))).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def ancestral(denoise: Denoise, start: Tensor, log_snrs: Tensor, noise: Noise, gamma: float) -> Tensor:
    """Ancestral sampling; gamma sets the fresh noise of a step.

    std = upper^gamma * lower^(1-gamma), between the forward process (upper) and its posterior (lower). What the next level's
    sigma asks for beyond it is the noise just estimated (Song, Meng, Ermon 2021, arXiv:2010.02502, eq. 12): at gamma 0 this is
    DDPM's sampler; at gamma 1 and few steps the fresh noise exceeds sigma, which leaves some grain. The log-linear form is
    ours (the paper studies gamma; its definition was not available).
    """
    z = start
    for step, (now, then) in enumerate(itertools.pairwise(log_snrs), 1):
        (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        r = denoise(z, now)
        estimated = (z - float(alpha) * r).div_(float(sigma))
        c = -torch.expm1(now - then)  # share of the noise that this step removes
        lower, upper = sigma_then * c.sqrt(), sigma * c.sqrt()  # upper: sigma_{t|s}
        fresh = upper**gamma * lower ** (1 - gamma)
        kept = (sigma_then**2 - fresh**2).clamp(min=0).sqrt()
        z = (float(alpha_then) * r).add_(estimated.mul_(float(kept))).add_(float(fresh) * noise(step))
    return denoise(z, log_snrs[-1])


def euler(denoise: Denoise, start: Tensor, log_snrs: Tensor) -> Tensor:
    """Euler steps along the straight path; in this scale they are DDIM's (arXiv:2010.02502, eq. 12 without noise)."""
    z = start
    for now, then in itertools.pairwise(log_snrs):
        (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        r = denoise(z, now)
        z = float(alpha_then) * r + float(sigma_then / sigma) * (z - float(alpha) * r)
    return denoise(z, log_snrs[-1])


def heun(denoise: Denoise, start: Tensor, log_snrs: Tensor) -> Tensor:
    """Heun's second-order steps along the straight path: two evaluations each, one for the last."""
    z = start
    for now, then in itertools.pairwise(log_snrs):
        (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        t, t_then = alpha / (alpha + sigma), alpha_then / (alpha_then + sigma_then)
        r = denoise(z, now)
        velocity = r - (z - float(alpha) * r) / float(sigma)
        ahead = float(alpha_then) * r + float(sigma_then / sigma) * (z - float(alpha) * r)
        r_ahead = denoise(ahead, then)
        velocity_ahead = r_ahead - (ahead - float(alpha_then) * r_ahead) / float(sigma_then)
        straight = z / float(alpha + sigma) + float(t_then - t) / 2 * (velocity + velocity_ahead)
        z = straight * float(alpha_then + sigma_then)
    return denoise(z, log_snrs[-1])


def multistep(denoise: Denoise, start: Tensor, log_snrs: Tensor, noise: Noise, eta: float) -> Tensor:
    """DPM-Solver++(2M): second order from the last two estimates (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    eta 0 solves the ODE, 1 the SDE (its section 6), values between take that share of the SDE's noise.
    """
    z, previous, h_previous = start, None, 1.0
    for step, (now, then) in enumerate(itertools.pairwise(log_snrs), 1):
        (_, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        r = denoise(z, now)
        h = float(then - now) / 2  # in half log-SNR, the solver's own time
        forward = r if previous is None else r + (r - previous) * (h / h_previous / 2)
        z = float(sigma_then / sigma) * math.exp(-eta * h) * z
        z = z - float(alpha_then) * math.expm1(-(1 + eta) * h) * forward
        if eta:
            z = z + float(sigma_then) * math.sqrt(-math.expm1(-2 * eta * h)) * noise(step)
        previous, h_previous = r, h
    return denoise(z, log_snrs[-1])
