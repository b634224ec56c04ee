"""Features of two vision transformers, DINOv2 and CLIP, by torch-fidelity's rules: FD-DINOv2 and FD-CLIP.

Conventions: patches are uint8, H x W x 3, RGB, all of one size; features are float32, N x 768 (DINOv2 ViT-B/14, class
token after the last norm) and N x 512 (CLIP ViT-B/32, image embedding), in the order of the patches. Patches are resized
to 224 x 224 by the rule of TensorFlow 1 and normalised by the network's own mean and deviation. Batches have one fixed
shape, in full float32.

FD-DINOv2: Stein et al. 2023, arXiv:2306.04675; the network is timm's (extra `vit`), with the published weights and the
published code's rule for the embedding of places, from which timm's differs. CLIP: Radford et al. 2021, arXiv:2103.00020, by
torch-fidelity, which takes DINOv2 from torch.hub alone, with code from the network.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfdbench.errors import UsageError
from hfdbench.metrics.networks.batching import Resizer, described
from hfdbench.metrics.networks.weights import DINOV2, read_state

if TYPE_CHECKING:
    import torch

SIDE = 224  # pixels: input of the networks
CELL = 14  # pixels a side of a token
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class DINOv2:
    """ViT-B/14 without registers.

    Parameters
    ----------
    weights : Path
        The published file.
    device : str
        Where it computes.
    batch : int
        Patches at a time.

    Raises
    ------
    UsageError
        The file does not hold its weights.
    """

    dimensions = 768

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):
        import timm
        import torch

        self.batch, self.device = batch, device
        hint = f"give {DINOV2.name} with {DINOV2.option}FILE"
        state = read_state(weights, hint)
        state.pop("mask_token", None)  # of its training
        depth = sum(name.endswith(".norm1.weight") for name in state)
        net = timm.create_model("vit_base_patch14_dinov2", img_size=SIDE, depth=depth, num_classes=0)
        try:
            net.load_state_dict(state | {"pos_embed": _places(state["pos_embed"])})
        except (KeyError, RuntimeError) as error:
            cause = " ".join(str(error).split())[:200]
            raise UsageError(f"{weights}: not the weights of DINOv2 ViT-B/14 ({cause}…); {hint}") from None
        self._net = net.float().eval().requires_grad_(False).to(device)
        self._resize = Resizer(SIDE, device)
        self._mean, self._deviation = (torch.tensor(x, device=device)[:, None, None] for x in (MEAN, DEVIATION))

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x 768; holds one batch of patches. Raises ValueError for unequal patches."""
        return described(patches, self.batch, self.dimensions, self._forward)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float() / 255
        return self._net((self._resize(pixels) - self._mean) / self._deviation).cpu().numpy()


def _places(known: "torch.Tensor") -> "torch.Tensor":
    """Embedding of the places, 1 x (1 + 16 * 16) x 768: the published 37 x 37 grid, brought to ours."""
    import torch
    from torch.nn import functional

    grid = known[:, 1:].float().unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    # The published code adds 0.1 to the number of cells before it takes the ratio, which shifts every place.
    ratio = (SIDE // CELL + 0.1) / 37
    grid = functional.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic")
    return torch.cat([known[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class CLIP:
    """torch-fidelity's `clip-vit-b-32`.

    Parameters
    ----------
    weights : Path
        The published file.
    device : str
        Where it computes.
    batch : int
        Patches at a time.

    Raises
    ------
    UsageError
        The file does not hold its weights.
    """

    dimensions = 512

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):
        from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

        self.batch, self.device = batch, device
        hint = "give the published ViT-B-32.pt with --feature clip=FILE"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit's deprecation
                net = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(weights))
        except (RuntimeError, KeyError, ValueError) as error:  # not TorchScript, or another model's
            cause = " ".join(str(error).split())[:200]
            raise UsageError(f"{weights}: not the weights of CLIP ViT-B/32 ({cause}…); {hint}") from None
        found = getattr(net.model.visual, "output_dim", None)
        if found != self.dimensions or net.resolution != SIDE:
            raise UsageError(f"{weights}: CLIP of {found} features at {net.resolution} pixels, not ViT-B/32; {hint}")
        self._net = net.eval().to(device)

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x 512; holds one batch of patches. Raises ValueError for unequal patches."""
        return described(patches, self.batch, self.dimensions, self._forward)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous()
        return self._net(pixels)[0].cpu().numpy()
