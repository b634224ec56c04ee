# pyright: basic
"""Stage 2: the photograph behind a stage-1 reconstruction, sampled or predicted at once.

The residual is whitened over its colours: r = root^-1 (x - x_hat), with root the symmetric square root of the covariance of
x - x_hat over red, green and blue at each rate, measured on the training pairs. What a codec loses is mostly luma; noise of
the same colours leaves the network little coloured speckle to remove (ours).

Conventions: images of `Decoder.forward` float32, N x 3 x H x W in [0, 1]; rate: long tensor of N indices; root: rates x 3 x 3;
images of `Decoder.sample` uint8, H x W x 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hfdbench.hfd.network import NetworkConfig, UNet
from hfdbench.hfd.sampling import LOG_SNR_LIMIT, Schedule, alpha_sigma, ancestral, euler, heun, multistep
from hfdbench.hfd.tiling import Order, Window, groups, noise

Solver = Literal["ancestral", "euler", "heun", "multistep", "once", "none"]
SOLVERS = Solver.__args__
AT_ONCE = ("mse", "hific", "po-elic", "hfd-gan")  # objectives whose decoders are run by solver "once"


@dataclass(frozen=True)
class Sampling:
    """How a decoder is run. Raises ValueError for values out of range.

    solver: "once" is a single evaluation, for decoders trained for that, from no noise or the network config's; "none" is no
        evaluation: the reconstruction and its grain, the control that a sampler has to beat.
    steps: of the solver; Heun's take two network evaluations each but the last.
    path, shift: of the noise schedule; start: the time in (0, 1] to start from, 1 from nothing but noise (DIRAC's late start).
    run: how many of the steps are run, the last estimate being the result (DIRAC's dial); 0 for all.
    gamma: noise knob of the ancestral sampler; eta: share of the SDE's noise in the multistep solver; both 0 to 1.
    temperature: standard deviation of all noise that is drawn, 0 to 1 (CDC, arXiv:2209.06950, starts from 0.8);
        below 1 samples are nearer to their mean: more PSNR, less detail.
    strength: share of the sampled detail that is added to the reconstruction (ours: a dial between distortion and realism).
    mean: share, 0 to 1, of the mean of all photographs behind the reconstruction, one evaluation more, in the result; the rest
        is the sample (ours: a dial between distortion and realism that lets the decoder mend what the codec did).
    grain: noise added to the result, of the residual's colours, in standard deviations of the residual (ours: HFD+).
    tile, overlap: pixels of a cell's side and of what its window adds on each; tile 0 samples the whole picture at once.
    """

    solver: Solver = "ancestral"
    steps: int = 32
    path: Literal["cosine", "linear"] = "cosine"
    shift: float = 1.0
    start: float = 1.0
    run: int = 0
    gamma: float = 0.0
    eta: float = 0.0
    temperature: float = 1.0
    strength: float = 1.0
    mean: float = 0.0
    grain: float = 0.0
    tile: int = 512
    overlap: int = 32
    order: Order = "checkerboard"

    def __post_init__(self):
        for name, known in (("solver", SOLVERS), ("path", ("cosine", "linear")), ("order", Order.__args__)):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} "{getattr(self, name)}" is unknown; use {", ".join(known)}')
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: at least 1")
        if not 0 <= self.run <= self.steps:
            raise ValueError(f"run {self.run}: from 0 to the {self.steps} steps")
        for name in ("gamma", "eta", "temperature", "mean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: from 0 to 1")
        if not self.shift > 0:
            raise ValueError(f"shift {self.shift}: above 0")
        for name in ("strength", "start"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: above 0, at most 1")
        if not self.grain >= 0:
            raise ValueError(f"grain {self.grain}: at least 0")
        if self.tile < 0 or self.tile % 64:
            raise ValueError(f"tile {self.tile}: a multiple of 64, or 0 for the whole picture")
        if self.overlap < 0 or self.overlap % 16:
            raise ValueError(f"overlap {self.overlap}: a multiple of 16, at least 0")

    @property
    def evaluations(self) -> int:
        """Network evaluations per pixel, those on overlaps not counted."""
        if self.solver == "none":
            return 0
        if self.solver == "once":
            return 1
        steps = self.run or self.steps
        return (2 * steps - 1 if self.solver == "heun" else steps) + (self.mean > 0)

    def log_snrs(self) -> Tensor:
        """Of the steps that are run, from noisy to clean."""
        times = self.start * torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)[:-1]
        return Schedule(self.path, self.shift).log_snr(times)[: self.run or self.steps]


class Decoder(nn.Module):
    root: Tensor

    def __init__(self, config: NetworkConfig = NetworkConfig()):
        super().__init__()
        self.config = config
        self.network = UNet(config)
        self.register_buffer("root", torch.eye(3).repeat(config.rates, 1, 1))

    def forward(
        self, z: Tensor, reconstruction: Tensor, log_snr: Tensor, rate: Tensor, latents: Tensor | None = None
    ) -> Tensor:
        """v of the noisy whitened residual z, N x 3 x H x W."""
        return self.network(z, reconstruction, log_snr, rate, latents).float()

    @torch.inference_mode()
    def sample(
        self,
        reconstruction: np.ndarray,
        rate: int,
        seed: int,
        how: Sampling,
        latents: Tensor | None = None,
        at_once: int = 1,
    ) -> np.ndarray:
        """A photograph that could have been coded to this reconstruction.

        latents: 1 x C x ceil(H/16) x ceil(W/16) or larger, for networks that see them. Same input, seed and device: same result,
        however many windows are sampled `at_once`.
        """
        height, width = (length + -length % self.config.multiple for length in reconstruction.shape[:2])
        done = reconstruction.copy()
        turns = [] if how.solver == "none" else groups(height, width, how.tile, how.overlap, how.order)
        for group in turns:
            by_shape: dict[tuple[int, ...], list[Window]] = {}
            for window in group:
                by_shape.setdefault(tuple(window.known.shape), []).append(window)
            for windows in by_shape.values():
                for first in range(0, len(windows), at_once):
                    self._sample_windows(
                        windows[first : first + at_once], reconstruction, done, rate, seed, how, latents
                    )
        if how.grain:
            self._add_grain(done, rate, seed, how)
        return done

    def _add_grain(self, done: np.ndarray, rate: int, seed: int, how: Sampling) -> None:
        """After all windows, so that none shows its neighbours' grain to the network."""
        root = 255 * how.grain * self.root[rate][None].cpu()
        for top in range(0, len(done), 256):
            rows = done[top : top + 256]
            field = recolour(root, noise(seed, how.steps, (top, top + len(rows), 0, rows.shape[1])))
            rows[:] = (torch.from_numpy(rows) + field[0].permute(1, 2, 0)).round().clamp(0, 255).byte().numpy()

    def _sample_windows(self, windows: list[Window], x_hat, done, rate: int, seed: int, how: Sampling, latents) -> None:
        """Fill the windows' cells of `done`; windows of one shape are one batch."""
        device = self.root.device
        root = self.root[rate][None]
        whitening = torch.linalg.inv(root)
        outers = [window.outer for window in windows]
        view = _cut(x_hat, outers, device)
        below = _interleaved(view)
        known = torch.stack([window.known for window in windows])[:, None].to(device)
        finished = recolour(whitening, (_cut(done, outers, device) - view) / how.strength) if known.any() else None
        rates = torch.tensor([rate], device=device)  # one entry for all: a batch is computed as its parts would be
        seen = None
        if self.config.latents:
            seen = torch.cat([latents[..., t // 16 : b // 16, a // 16 : c // 16] for t, b, a, c in outers]).to(device)

        def fresh(step: int) -> Tensor:
            return how.temperature * torch.cat([noise(seed, step, outer).to(device) for outer in outers])

        once, noisiest = how.solver == "once", torch.tensor([-LOG_SNR_LIMIT], dtype=torch.float64)
        log_snrs, kept = (noisiest, self.config.noise) if once else (how.log_snrs(), 0.0)
        nothing = torch.zeros_like(view)
        beginning = nothing if once and not kept else float(alpha_sigma(log_snrs[0])[1]) * fresh(0)

        def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
            alpha, sigma = (float(value) for value in alpha_sigma(log_snr))
            if finished is not None:  # what is finished is shown at the noise level of the rest
                z = torch.where(known, alpha * finished + beginning * sigma, z)
            level = log_snr.float().to(device)[None]
            # A CPU's kernels are chosen by the size of the batch, too, and round differently: there one window at a time.
            many = 1 if device.type == "cpu" else len(windows)
            latents_of = [None] * len(windows) if seen is None else seen.split(many)
            parts = zip(_interleaved(z).split(many), below.split(many), latents_of, strict=False)
            v = torch.cat([self(*images, level, rates, y).contiguous() for *images, y in parts])
            r = ((alpha + kept) * z).sub_(sigma * v)
            image = recolour(root, r).add_(view).clamp_(0, 1)  # keep r where images can be
            r = recolour(whitening, image.sub_(view))
            return r if finished is None else torch.where(known, finished, r)

        solve = {
            "ancestral": partial(ancestral, noise=fresh, gamma=how.gamma),
            "euler": euler,
            "heun": heun,
            "multistep": partial(multistep, noise=fresh, eta=how.eta),
            "once": euler,
        }[how.solver]
        r = solve(denoise, beginning, log_snrs)
        if how.mean and not once:
            r = torch.lerp(r, denoise(nothing, noisiest[0]), how.mean)
        image = ((view + how.strength * recolour(root, r)).clamp(0, 1) * 255).round().byte()
        for window, pixels in zip(windows, image.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            (top, bottom, left, right), (above, _, before, _) = window.cell, window.outer
            cell = done[top:bottom, left:right]
            cell[:] = pixels[top - above :, left - before :][: cell.shape[0], : cell.shape[1]]


def _cut(image: np.ndarray, boxes, device) -> Tensor:
    """Boxes of a uint8 image as a float batch in [0, 1]; beyond its end its last row and column."""
    height, width = image.shape[:2]
    stack = np.stack(
        [
            image[np.arange(top, bottom).clip(max=height - 1)[:, None], np.arange(left, right).clip(max=width - 1)]
            for top, bottom, left, right in boxes
        ]
    )
    return torch.from_numpy(stack).to(device).permute(0, 3, 1, 2).contiguous().float() / 255


def _interleaved(x: Tensor) -> Tensor:
    """A copy with the channels last in memory, as networks see images: which of its kernels torch takes depends on that."""
    return x.contiguous(memory_format=torch.channels_last)


def recolour(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply N x 3 x 3 (or 1 x 3 x 3) matrices to the colours of N x 3 x H x W."""
    matrix = matrix.expand(len(x), 3, 3)
    return torch.einsum("nij,njhw->nihw", matrix, x)
