"""Networks with random weights; an Inception made so that its features differ between pictures as the real one's do."""

import io
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    """torch-fidelity's network as initialised: its constructor always loads a file, this one ignores it."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return None


def random_weights(path: Path, seed: int = 0) -> Path:
    """Write a state dict of the right shapes, activations of order 1 in every layer, and batch norms that do something."""
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    net = _Untrained("random", ["2048"], feature_extractor_weights_path=empty)
    random = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=random)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2, generator=random)
            module.bias.normal_(0, 0.1, generator=random)
            module.running_mean.normal_(0, 0.1, generator=random)
            module.running_var.uniform_(0.8, 1.2, generator=random)
    torch.save(net.state_dict(), path)
    return path


def patches(count: int, height: int = 256, width: int = 256, seed: int = 0) -> list[np.ndarray]:
    """Smooth noise of varied scale and colour, uint8."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        cell = int(random.choice([1, 2, 4, 8, 16, 32]))
        coarse = random.normal(random.uniform(60, 190, 3), 45, (-(-height // cell), -(-width // cell), 3))
        fine = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
        made.append(fine.round().clip(0, 255).astype(np.uint8))
    return made


def save_all(images: list[np.ndarray], folder: Path) -> Path:
    """Write images as 0.png, 1.png ... into a folder; returns it."""
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def theirs(weights: Path, images: list[np.ndarray], batch: int = 8) -> torch.Tensor:
    """torch-fidelity's own features, N x 2048."""
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return torch.cat([net(part)[0] for part in pixels.split(batch)])


def random_network(path: Path, name: str, seed: int = 0) -> Path:
    """Weights as torchvision stores them. The classifier, which nobody reads, is one zero seen many times: a small file."""
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in getattr(torchvision.models, name)(weights=None).state_dict().items()
        }
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.startswith("classifier"):
            state[key] = torch.zeros(1).expand(shape)
        else:
            fan_in = np.prod(shape[1:])
            state[key] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    torch.save(state, path)
    return path
