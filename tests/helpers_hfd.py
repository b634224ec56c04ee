"""Small models of both stages with random weights: quick to make, and their latents and samples are not all alike."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from hfdbench.hfd.autoencoder import Autoencoder, AutoencoderConfig
from hfdbench.hfd.decoder import Decoder
from hfdbench.hfd.network import NetworkConfig
from hfdbench.hfd.weights import build
from hfdbench.training.pairs import AutoencoderBase

SMALL = AutoencoderConfig(widths=(8, 16, 16), groups=(4, 4, 8), hyper=8, context=16, lambdas=(0.002, 0.01))
LAPPED = AutoencoderConfig(
    architecture="lapped", widths=(16, 24), blocks=(2, 1), groups=(4, 4, 8), hyper=16, context=16, lambdas=(0.002, 0.01)
)
LEVELS = replace(LAPPED, levels=2)
NETWORK = NetworkConfig(widths=(8, 16), blocks=(1, 1), embedding=16, rates=2)


def autoencoder(seed: int = 0, config: AutoencoderConfig = SMALL) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
        model.freeze_tables()
        if config.architecture == "lapped":  # whose networks start at zero
            for parameter in model.parameters():
                if not parameter.any() and parameter.ndim == 4:
                    torch.nn.init.normal_(parameter, 0, 0.05)
            return model.eval().requires_grad_(False)
    with torch.no_grad():
        model.log_gain += math.log(30)  # latents of a few units, so that there is something to code
        model.log_inverse_gain -= math.log(30)
        for layer in model.spatial_context:  # as after its first use, which masks the weights themselves
            layer.weight *= layer.mask
    return model.eval().requires_grad_(False)


def base(seed: int = 0) -> AutoencoderBase:
    return AutoencoderBase(autoencoder(seed))


def decoder(latents: int = 0, seed: int = 0, noise: float = 0.0) -> Decoder:
    """None of its layers is zero, so that its output depends on all that it sees."""
    model = Decoder(replace(NETWORK, latents=latents, noise=noise))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5 / max(1, parameter[0].numel()) ** 0.5, generator=generator)
        model.root.copy_(0.1 * torch.eye(3) + 0.02)
    return model.eval().requires_grad_(False)


def write(model: torch.nn.Module, path: Path, objective: str, base: str = "", points: tuple[str, ...] = ()) -> Path:
    metadata = {"config": json.dumps(asdict(model.config)), "objective": objective}
    metadata |= {"base": base, "points": json.dumps(points)}
    save_file(model.state_dict(), path, metadata)
    return path


def picture(height: int, width: int, seed: int = 1) -> np.ndarray:
    """Smooth shades and some noise, uint8, height x width x 3."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).round().astype(np.uint8)
