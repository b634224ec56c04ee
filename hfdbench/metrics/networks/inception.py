"""Inception features as torch-fidelity computes them (`inception-v3-compat`, 2048), twice as fast on a CPU (docs/benchmarks.md).

Conventions: patches are uint8, H x W x 3, RGB, all of one size; features are float32, N x 2048, in the order of the
patches, equal to torch-fidelity's to 1e-4 (features are of order 1). Patches are resized to 299 x 299 by the rule of
TensorFlow 1 and normalised to (x - 128) / 128. The network always sees batches of one fixed shape, the last filled up
with black, in full float32 (no TF32, no autotuning): a patch's features do not depend on its neighbours.

What makes it fast: batch norm folded into the convolutions; channels-last; the resize as two matrix products; and the
first layers run on two patches at a time, because activations of tens of megabytes go through fresh memory pages
on every layer, which costs as much as the arithmetic.
"""

import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfdbench.errors import UsageError
from hfdbench.files.digest import file_sha256
from hfdbench.metrics.distribution.fingerprint import extractor_id, weights_label
from hfdbench.metrics.networks.batching import Resizer, described
from hfdbench.metrics.networks.weights import INCEPTION, read_state

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

SIDE = 299  # pixels: input of the network
STEM_PATCHES = 2


def find_inception(given: Path | None = None, data_root: Path | None = None, allow_download: bool = True) -> Path:
    """File of Inception weights: given, HFDBENCH_INCEPTION, DATA/inception/*.pth, torch-fidelity's cache, its download.

    Raises UsageError when the file asked for is not there or several could be meant, Unavailable when there is none.
    """
    return INCEPTION.find(given, data_root, allow_download)


class Inception:
    """The feature extractor.

    Parameters
    ----------
    weights : Path
        A file of torch-fidelity's weights.
    device : str
        Where it computes.
    batch : int
        Patches at a time.

    Raises
    ------
    UsageError
        The file does not hold its weights.
    """

    dimensions = 2048

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):
        import torch
        from torch.nn.utils.fusion import fuse_conv_bn_eval
        from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

        self.sha256 = file_sha256(weights)
        self.id = extractor_id("tf1", self.sha256)
        self.batch, self.device = batch, device
        net = read_network(Path(weights))
        for block in net.modules():
            if isinstance(block, BasicConv2d):
                # In float64, so that folding costs no precision.
                block.conv = fuse_conv_bn_eval(block.conv.double(), block.bn.double()).float()
                setattr(block, "bn", torch.nn.Identity())  # noqa: B010 (declared as a batch norm)
        self._net = net.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        # Small activations pay on a CPU only.
        self._stem_patches = STEM_PATCHES if torch.device(device).type == "cpu" else batch
        self._resize = Resizer(SIDE, device)

    @cached_property
    def label(self) -> str:
        """What a Fréchet distance of these features may be called."""
        return weights_label(self.sha256)

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x 2048; holds one batch of patches. Raises ValueError for unequal patches."""
        return described(patches, self.batch, self.dimensions, self._forward)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        net = self._net
        pixels = torch.from_numpy(batch).to(self.device)
        parts = []
        for part in pixels.split(self._stem_patches):
            part = (part.permute(0, 3, 1, 2).float() - 128) / 128
            x = self._resize(part).contiguous(memory_format=torch.channels_last)
            x = net.MaxPool_1(net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x))))
            parts.append(net.MaxPool_2(net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x))))
        x = torch.cat(parts)  # batch x 192 x 35 x 35
        for name, block in net.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3)).cpu().numpy()


def read_network(weights: Path) -> "FeatureExtractorInceptionV3":
    """torch-fidelity's network with these weights, of any float type. Raises UsageError for another file."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    hint = f"give {INCEPTION.name} with {INCEPTION.option}"
    state = read_state(weights, hint)
    # Its constructor unpickles whatever file it is given; so it is given what was just read safely.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=safe)
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:200]
        raise UsageError(f"{weights}: not the weights of torch-fidelity's Inception ({cause}…); {hint}") from None
