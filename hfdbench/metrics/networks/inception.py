"""Inception features as torch-fidelity computes them (`inception-v3-compat`, 2048), about three times as fast on a CPU.

Conventions: patches are uint8, H x W x 3, RGB, all of one size; features are float32, N x 2048, in the order of the
patches, equal to torch-fidelity's to 1e-4 (features are of order 1). Patches are resized to 299 x 299 by the rule of
TensorFlow 1 and normalised to (x - 128) / 128. The network always sees batches of one fixed shape, the last filled up
with black, in full float32 (no TF32, no autotuning): a patch's features do not depend on its neighbours.

What makes it fast: batch norm folded into the convolutions; channels-last; the resize as two matrix products; and the
first layers run on two patches at a time, because activations of tens of megabytes go through fresh memory pages
on every layer, which costs as much as the arithmetic.
"""

import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfdbench.cards.schema import Source
from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.distribution.fingerprint import PUBLISHED_SHA256, extractor_id, weights_label

if TYPE_CHECKING:
    import torch

VARIABLE = "HFDBENCH_INCEPTION"
PUBLISHED_NAME = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = Source(
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{PUBLISHED_NAME}",
    bytes=95_628_359,
    sha256=PUBLISHED_SHA256,
)
TIMEOUT_S = 10
RETRY_S = 24 * 3600  # a download that failed is tried again after
SIDE = 299  # pixels: input of the network
STEM_PATCHES = 2


@dataclass(frozen=True)
class Weights:
    """A file of published weights: what it is of, its name, and where it may be given or lie (`folder` of the data)."""

    network: str
    name: str
    source: Source
    option: str
    variable: str
    folder: str


def find_inception(given: Path | None = None, data_root: Path | None = None, allow_download: bool = True) -> Path:
    """File of Inception weights: given, HFDBENCH_INCEPTION, DATA/inception/*.pth, torch-fidelity's cache, its download.

    Raises UsageError when the file asked for is not there or several could be meant, Unavailable when there is none.
    """
    inception = Weights("Inception", PUBLISHED_NAME, PUBLISHED, "--inception", VARIABLE, "inception")
    return find_weights(inception, given, data_root, allow_download)


def find_weights(weights: Weights, given: Path | None, data_root: Path | None, allow_download: bool) -> Path:
    """The rule of `find_inception` for any network."""
    for path, asked in ((given, weights.option), (os.environ.get(weights.variable), weights.variable)):
        if path:
            if not Path(path).is_file():
                raise UsageError(
                    f"{asked} {path}: no such file; give the file of {weights.network} weights ({weights.name})"
                )
            return Path(path)
    if data_root is not None:
        found = sorted(p for p in (Path(data_root) / weights.folder).glob("*") if p.suffix in (".pth", ".pt"))
        named = [path for path in found if path.name == weights.name]
        if len(found) > 1 and not named:
            raise UsageError(
                f"{found[0].parent}: {len(found)} files of weights ({', '.join(path.name for path in found)}); "
                f"choose one with {weights.option}"
            )
        if found:
            return (named or found)[0]
    cached = _cache_folder() / weights.name
    if not cached.is_file():
        if not allow_download:
            raise _unavailable(weights, f"there are no {weights.network} weights here")
        _download(weights, cached)
    return cached


def _cache_folder() -> Path:
    # torch.hub.get_dir() without importing torch.
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser() / "hub" / "checkpoints"


def _unavailable(weights: Weights, reason: str) -> Unavailable:
    hint = f"download {weights.source.url} elsewhere and give it with {weights.option} or {weights.variable}"
    return Unavailable(reason, hint)


def _download(weights: Weights, path: Path) -> None:
    """Bring the file, whole and verified. Raises Unavailable whatever goes wrong: a FID is not worth stopping a run.

    A try that failed is remembered beside the file and not repeated for a day: a machine without network waits once.
    """
    from hfdbench.datasets.fetch import Patience, download

    failed = path.with_name(f"{path.name}.failed")
    with suppress(OSError):
        if time.time() - failed.stat().st_mtime < RETRY_S:
            raise _unavailable(
                weights,
                f"{weights.network} weights could not be downloaded ({failed.read_text().strip()}; remembered for a "
                f"day, delete {failed} to try now)",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(weights.source, path, patience=Patience(tries=1, timeout_s=TIMEOUT_S))
    except (Unavailable, UsageError, OSError) as error:
        reason = error.reason if isinstance(error, Unavailable) else error
        with suppress(OSError):
            failed.write_text(f"{reason}\n")
        raise _unavailable(weights, f"{weights.network} weights could not be downloaded ({reason})") from None
    failed.unlink(missing_ok=True)


class Inception:
    """The feature extractor. Raises UsageError for a file that does not hold its weights."""

    dimensions = 2048

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 16):
        import torch
        from torch.nn.utils.fusion import fuse_conv_bn_eval
        from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

        with open(weights, "rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        self.id = extractor_id("tf1", self.sha256)
        self.batch, self.device = batch, device
        net = _network(Path(weights))
        for block in net.modules():
            if isinstance(block, BasicConv2d):
                # In float64, so that folding costs no precision.
                block.conv = fuse_conv_bn_eval(block.conv.double(), block.bn.double()).float()
                block.bn = torch.nn.Identity()
        self._net = net.requires_grad_(False).to(device, memory_format=torch.channels_last)
        # Small activations pay on a CPU only.
        self._stem_patches = STEM_PATCHES if torch.device(device).type == "cpu" else batch
        self._resizers: dict[int, torch.Tensor] = {}

    @cached_property
    def label(self) -> str:
        """What a Fréchet distance of these features may be called."""
        return weights_label(self.sha256)

    def features(self, patches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of patches, float32, N x 2048; holds one batch of patches. Raises ValueError for unequal patches."""
        blocks = [self._forward(batch)[:filled] for batch, filled in batches(patches, self.batch)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.dimensions), np.float32)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        net = self._net
        with torch.inference_mode(), full_precision():
            pixels = torch.from_numpy(batch).to(self.device)
            parts = []
            for part in pixels.split(self._stem_patches):
                x = self._resize(part).contiguous(memory_format=torch.channels_last)
                x = net.MaxPool_1(net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x))))
                parts.append(net.MaxPool_2(net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x))))
            x = torch.cat(parts)  # batch x 192 x 35 x 35
            for name, block in net.named_children():
                if name.startswith("Mixed"):
                    x = block(x)
            return x.mean((2, 3)).cpu().numpy()

    def _resize(self, pixels):
        """Normalise and resize, B x H x W x 3 uint8 -> B x 3 x 299 x 299: bilinear, as a product on each side."""
        x = (pixels.permute(0, 3, 1, 2).float() - 128) / 128
        for side in x.shape[2:]:
            if side not in self._resizers:
                self._resizers[side] = resizer(side, SIDE).to(self.device)
        return self._resizers[x.shape[2]] @ (x @ self._resizers[x.shape[3]].T)


def resizer(side: int, to: int):
    """Matrix to x side: pixel i of the output lies at i * side / to of the input, TensorFlow 1's corner rule."""
    import torch

    place = torch.arange(to, dtype=torch.float32) * (side / to)
    low = place.long()
    high = (low + 1).clamp(max=side - 1)
    matrix, row = torch.zeros(to, side), torch.arange(to)
    matrix[row, low] += 1 - (place - low)
    matrix[row, high] += place - low
    return matrix


def read_state(weights: Path, hint: str) -> "dict[str, torch.Tensor]":
    """A file's table of weights, read without running anything in it. Raises UsageError when it holds none."""
    import torch

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged or hostile file
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{weights}: not a file of weights alone ({cause}); {hint}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{weights}: holds no table of weights; {hint}")
    wrong = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if wrong:
        raise UsageError(f"{weights}: {wrong[0]} holds NaN or infinity; {hint}")
    return state


def _network(weights: Path):
    """torch-fidelity's network with these weights, of any float type."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    hint = f"give {PUBLISHED_NAME} with --inception"
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


def batches(patches: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one shape and how many patches each holds. Every array is new: consumers may keep it."""
    batch, filled, shape = None, 0, None
    for index, patch in enumerate(patches):
        if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[2] != 3 or patch.size == 0:
            raise ValueError(f"patch {index} must be uint8, H x W x 3, not {patch.dtype} {patch.shape}")
        shape = shape or patch.shape
        if patch.shape != shape:
            raise ValueError(f"patch {index} is {patch.shape}, the first was {shape}: they must be of one size")
        if batch is None:
            batch = np.zeros((size, *shape), np.uint8)
        batch[filled] = patch
        filled += 1
        if filled == size:
            yield batch, filled
            batch, filled = None, 0
    if filled:
        yield batch, filled


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 and no autotuning inside; the caller's settings after."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
