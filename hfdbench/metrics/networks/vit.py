"""Features of two vision transformers, DINOv2 and CLIP, by torch-fidelity's rules: FD-DINOv2 and FD-CLIP.

Conventions: patches are uint8, H x W x 3, RGB, all of one size; features are float32, N x 768 (DINOv2 ViT-B/14, class
token after the last norm) and N x 512 (CLIP ViT-B/32, image embedding), in the order of the patches. Patches are resized
to 224 x 224 by the rule of TensorFlow 1 and normalised by the network's own mean and deviation. Batches have one fixed
shape, in full float32.

FD-DINOv2: Stein et al. 2023, arXiv:2306.04675. CLIP: Radford et al. 2021, arXiv:2103.00020. torch-fidelity takes CLIP
from a file, but DINOv2 (`dinov2-vit-b-14`) from torch.hub alone, with code from the network: so it is computed here, from
the published file of weights.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hfdbench.errors import UsageError
from hfdbench.metrics.networks.batching import Resizer, batches, full_precision
from hfdbench.metrics.networks.weights import read_state

SIDE = 224  # pixels: input of the networks
CELL = 14  # pixels a side of a token
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class DINOv2:
    """ViT-B/14 without registers. Raises UsageError for a file that does not hold its weights."""

    dimensions = 768

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):

        self.batch, self.device = batch, device
        hint = "give dinov2_vitb14_pretrain.pth with --feature dinov2=FILE"
        state = read_state(weights, hint)
        self._depth = sum(name.endswith(".norm1.weight") for name in state)
        need = {
            "cls_token": (1, 1, 768),
            "patch_embed.proj.weight": (768, 3, CELL, CELL),
            "blocks.0.ls2.gamma": (768,),
        }
        wrong = [name for name, shape in need.items() if name not in state or tuple(state[name].shape) != shape]
        if wrong:
            raise UsageError(f"{weights}: not the weights of DINOv2 ViT-B/14 ({wrong[0]}); {hint}")
        self._state = {name: value.float().to(device) for name, value in state.items()}
        self._place = self._places().to(device)
        self._to_side = Resizer(SIDE, device)

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x 768; holds one batch of patches. Raises ValueError for unequal patches."""
        import torch

        blocks = []
        with torch.inference_mode(), full_precision():
            for batch, filled in batches(patches, self.batch):
                pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float() / 255
                blocks.append(self._forward(self._resize(pixels))[:filled].cpu().numpy())
        return np.concatenate(blocks) if blocks else np.empty((0, self.dimensions), np.float32)

    def _resize(self, pixels):
        import torch

        pixels = self._to_side(pixels)
        mean, deviation = (torch.tensor(x, device=self.device)[:, None, None] for x in (MEAN, DEVIATION))
        return (pixels - mean) / deviation

    def _places(self):
        """Embedding of the places, 1 x (1 + 16 * 16) x 768: the published 37 x 37 grid, brought to ours."""
        import torch
        from torch.nn import functional

        known = self._state["pos_embed"]
        grid = known[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
        # The published code adds 0.1 to the number of cells before it takes the ratio, which shifts every place.
        ratio = (SIDE // CELL + 0.1) / 37
        grid = functional.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic")
        return torch.cat([known[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def _forward(self, x):
        """B x 3 x 224 x 224 -> B x 768. Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1-4, with scaled branches."""
        import torch
        from torch.nn import functional

        def linear(x, name):
            return functional.linear(x, self._state[f"{name}.weight"], self._state[f"{name}.bias"])

        def norm(x, name):
            return functional.layer_norm(
                x, x.shape[-1:], self._state[f"{name}.weight"], self._state[f"{name}.bias"], 1e-6
            )

        project = self._state["patch_embed.proj.weight"], self._state["patch_embed.proj.bias"]
        x = functional.conv2d(x, *project, stride=CELL).flatten(2).transpose(1, 2)
        x = torch.cat([self._state["cls_token"].expand(len(x), -1, -1), x], dim=1) + self._place
        for block in (f"blocks.{k}" for k in range(self._depth)):
            qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(2, (3, 12, 64))
            seen = functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
            x = x + linear(seen, f"{block}.attn.proj") * self._state[f"{block}.ls1.gamma"]
            wide = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + linear(wide, f"{block}.mlp.fc2") * self._state[f"{block}.ls2.gamma"]
        return norm(x, "norm")[:, 0]


class CLIP:
    """torch-fidelity's `clip-vit-b-32`. Raises UsageError for a file that does not hold its weights."""

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
        import torch

        blocks = []
        with torch.inference_mode(), full_precision():
            for batch, filled in batches(patches, self.batch):
                pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous()
                blocks.append(self._net(pixels)[0][:filled].cpu().numpy())
        return np.concatenate(blocks) if blocks else np.empty((0, self.dimensions), np.float32)
