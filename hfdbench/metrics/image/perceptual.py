"""LPIPS and DISTS: distances between an original and its reconstruction as classification networks see them.

Conventions: images are uint8, H x W x 3, of one shape, measured whole at their original size, never resized; distances have
no unit, 0 is identical, lower is better; computed in float32 by torchmetrics.
LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1): AlexNet, linear layers of version 0.1, input scaled to [-1, 1]; None when
a side is under 31 pixels, where AlexNet's third layer has nothing to see. `lpips_vgg` is the same with VGG-16.
DISTS (Ding et al. 2020, arXiv:2004.07728): VGG-16, input scaled to [0, 1]. Its authors shrink large photographs to
256 pixels a side first; here nothing is shrunk, so values compare only with others measured so.

torchmetrics carries the small calibrated layers; the networks' ImageNet weights (torchvision's) it would download. Here
their file may also be given. Other weights are used and named with every number: such numbers are for development.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from hfdbench.cards.schema import Source
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.files.digest import file_sha256
from hfdbench.files.download import Patience, download
from hfdbench.files.remote import located
from hfdbench.files.temporary import temporary_folder
from hfdbench.metrics.image.measure import Place
from hfdbench.metrics.networks.batching import full_precision
from hfdbench.metrics.networks.weights import TIMEOUT_S

if TYPE_CHECKING:
    import torch

EXTRA = "pip install 'hfdbench[perceptual]'"


class _Network:
    """A metric of torchmetrics on a network of torchvision."""

    columns: tuple[str, ...]
    file: str  # of torchvision's weights; ends in the first digits of its sha256
    side = 1  # pixels that a side needs

    def _build(self) -> "torch.nn.Module":
        """The network, its weights from torch.hub's folder."""
        raise NotImplementedError

    def _distance(self, a: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
        """Distance of two images in [0, 1], 1 x 3 x H x W."""
        raise NotImplementedError

    def __init__(self, place: Place):
        name = self.columns[0]
        try:
            from importlib.metadata import version

            library = f"torchmetrics {version('torchmetrics')}"
        except ModuleNotFoundError:
            raise Unavailable("torchmetrics is not installed", EXTRA) from None
        path = find_weights(name, self.file, place)
        sha256 = file_sha256(path)
        published = sha256.startswith(_digits(self.file))
        self.remark = "" if published else f"{name} with other weights than the published {self.file} ({sha256[:12]})"
        self.identity = f"{library}, weights {sha256[:12]}"
        self._device, self._lock = place.device, Lock()
        import torch

        with _hub(path, self.file):
            try:
                torch.load(path, map_location="cpu", weights_only=True)  # torchvision would unpickle anything
                self._net = self._build().eval().to(place.device)
            except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
                cause = " ".join(str(error).split())[:200] or type(error).__name__
                raise UsageError(f"{name}: {path}: not the weights {self.file} ({cause}…)") from None

    def __call__(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float | None]:
        if original.shape != decoded.shape:
            raise ValueError(f"original and reconstruction differ in shape: {original.shape} and {decoded.shape}")
        if min(original.shape[:2]) < self.side:
            return (None,)
        import torch

        with self._lock, torch.inference_mode(), full_precision():
            pair = (torch.from_numpy(np.array(x)).to(self._device) for x in (decoded, original))
            try:
                return (self._distance(*(x.permute(2, 0, 1)[None].float() / 255 for x in pair)).item(),)
            except RuntimeError as error:  # out of memory
                raise Unavailable(str(error).splitlines()[0]) from None


class Lpips(_Network):
    """LPIPS with AlexNet."""

    columns = ("lpips",)
    file = "alexnet-owt-7be5be79.pth"
    side = 31

    def _build(self):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex").net

    def _distance(self, a, b):
        return self._net(a, b, normalize=True)  # takes [0, 1] and scales to [-1, 1]


class LpipsVgg(_Network):
    """LPIPS with VGG-16."""

    columns = ("lpips_vgg",)
    file = "vgg16-397923af.pth"
    side = 16  # four times halved, something is left

    def _build(self):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="vgg").net

    def _distance(self, a, b):
        return self._net(a, b, normalize=True)


class Dists(_Network):
    """DISTS."""

    columns = ("dists",)
    file = "vgg16-397923af.pth"

    def _build(self):
        from torchmetrics.functional.image.dists import DISTSNetwork  # the metric class builds one anew for every image

        return DISTSNetwork()

    def _distance(self, a, b):
        return self._net(a, b)


def find_weights(name: str, file: str, place: Place) -> Path:
    """The network's file: given, HFDBENCH_<NAME>, DATA/<name>/FILE, torch's cache, its download.

    Raises UsageError when the file asked for is not there, Unavailable when there is none.
    """
    variable = f"HFDBENCH_{name.upper()}"
    for path, asked in ((place.weights, "--weights"), (os.environ.get(variable), variable)):
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{name}: {asked} {path}: no such file; give torchvision's {file}")
            return Path(path)
    if place.data_root is not None and (local := located(place.data_root) / name / file).is_file():
        return local
    cached = places.torch_hub_checkpoints() / file
    if not cached.is_file():
        url = f"https://download.pytorch.org/models/{file}"
        hint = f"download {url} elsewhere and give it with --weights {name}=PATH or {variable}"
        if not place.allow_download:
            raise Unavailable("its network's weights are not here; a run that asks for it downloads them", hint)
        _download(name, Source(url=url), cached, hint)
    return cached


def _download(name: str, source: Source, path: Path, hint: str) -> None:
    reason = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(source, path, patience=Patience(tries=1, timeout_s=TIMEOUT_S))
        if not file_sha256(path).startswith(_digits(path.name)):
            reason = f"{source.url}: its sha256 is not that of its name"
        if reason:
            path.unlink()
    except (Unavailable, UsageError, OSError) as error:
        reason = error.reason if isinstance(error, Unavailable) else str(error)
    if reason:
        raise Unavailable(f"its network's weights could not be downloaded ({reason})", hint)


def _digits(file: str) -> str:
    return Path(file).stem.rpartition("-")[2]


@contextmanager
def _hub(path: Path, file: str) -> Iterator[None]:
    """Inside, torchvision takes its weights `file` from `path`: torchmetrics has no argument for that."""
    import torch

    before = torch.hub.get_dir()
    with temporary_folder() as folder:
        place = folder / "checkpoints" / file
        place.parent.mkdir()
        try:
            place.symlink_to(path.resolve())
        except OSError:  # Windows, unprivileged
            import shutil

            shutil.copyfile(path, place)
        torch.hub.set_dir(str(folder))
        try:
            yield
        finally:
            torch.hub.set_dir(before)
