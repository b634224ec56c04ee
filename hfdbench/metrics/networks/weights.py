"""Where the weights of a feature network are: bundled with a package, or published and found, downloaded and verified here.

Conventions: a file is looked for where the user says (option, then environment variable), then in the data folder, then in
torch.hub's cache, and downloaded into that cache last. Nothing in a file of weights is ever executed.
"""

import importlib.util
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hfdbench.cards.schema import Source
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.files.digest import file_sha256
from hfdbench.files.download import Patience, download
from hfdbench.files.remote import located
from hfdbench.metrics.distribution.fingerprint import PUBLISHED_SHA256

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 10
RETRY_S = 24 * 3600  # a download that failed is tried again after


class Weights(Protocol):
    """A file of weights that can be found. The `weights` of a `registry.FeatureNetwork` is one."""

    def find(self, given: Path | None, data_root: Path | None, allow_download: bool) -> Path:
        """Find the file.

        Parameters
        ----------
        given : Path, optional
            The file that the user names.
        data_root : Path, optional
            Folder of the data.
        allow_download : bool
            Whether it may be downloaded.

        Raises
        ------
        UsageError
            A file that was asked for is not there, or it is not clear which of several is meant.
        Unavailable
            There is none.
        """
        ...


@dataclass(frozen=True)
class Bundled:
    """Weights that a package carries.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        Of its content.
    package : str
        Who carries it; named in errors.
    """

    path: Path
    sha256: str
    package: str = "hfdbench"

    def find(self, given: Path | None = None, data_root: Path | None = None, allow_download: bool = True) -> Path:
        """The file, verified. Raises UsageError for one that was altered."""
        if given is not None:
            raise UsageError(f"{given}: this network's weights are part of {self.package}; give no file")
        if not self.path.is_file() or file_sha256(self.path) != self.sha256:
            raise UsageError(f"{self.path}: is not what {self.package} was shipped with; reinstall {self.package}")
        return self.path


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish.

    Parameters
    ----------
    network : str
        Name of the network, for messages.
    name : str
        Name of the file.
    source : Source
        Where it is published, with its sha256.
    option, variable : str
        Command line option and environment variable that name another file.
    folder : str
        Its folder below the data root.
    package, extra : str
        Python package that the network needs, and the extra of hfdbench that installs it; empty for none.
    """

    network: str
    name: str
    source: Source
    option: str
    variable: str
    folder: str
    package: str = ""
    extra: str = ""

    def find(self, given: Path | None = None, data_root: Path | None = None, allow_download: bool = True) -> Path:
        """The file: given, of the environment variable, in the data folder, in torch.hub's cache, downloaded. See `Weights`."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise Unavailable(
                f"{self.network} needs the package {self.package}", f"pip install 'hfdbench[{self.extra}]'"
            )
        for path, asked in ((given, self.option), (os.environ.get(self.variable), self.variable)):
            if path:
                if not Path(path).is_file():
                    named = f"{asked}{path}" if asked.endswith("=") else f"{asked} {path}"  # --feature dinov2=FILE
                    raise UsageError(f"{named}: no such file; give the file of {self.network} weights ({self.name})")
                return Path(path)
        if data_root is not None:
            found = sorted(p for p in (located(data_root) / self.folder).glob("*") if p.suffix in (".pth", ".pt"))
            named = [path for path in found if path.name == self.name]
            if len(found) > 1 and not named:
                raise UsageError(
                    f"{found[0].parent}: {len(found)} files of weights ({', '.join(path.name for path in found)}); "
                    f"choose one with {self.option}"
                )
            if found:
                return (named or found)[0]
        cached = places.torch_hub_checkpoints() / self.name
        if not cached.is_file():
            if not allow_download:
                raise self._unavailable(f"there are no {self.network} weights here")
            self._download(cached)
        return cached

    def _unavailable(self, reason: str) -> Unavailable:
        hint = f"download {self.source.url} elsewhere and give it with {self.option} or {self.variable}"
        return Unavailable(reason, hint)

    def _download(self, path: Path) -> None:
        """Bring the file, whole and verified. Raises Unavailable whatever goes wrong: no metric is worth stopping a run for.

        A failure is remembered beside the file and not repeated for a day: a machine without network waits once.
        """
        failed = path.with_name(f"{path.name}.failed")
        with suppress(OSError):
            if time.time() - failed.stat().st_mtime < RETRY_S:
                raise self._unavailable(
                    f"{self.network} weights could not be downloaded ({failed.read_text().strip()}; remembered for a "
                    f"day, delete {failed} to try now)"
                )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(self.source, path, patience=Patience(tries=1, timeout_s=TIMEOUT_S))
        except (Unavailable, UsageError, OSError) as error:
            reason = error.reason if isinstance(error, Unavailable) else error
            with suppress(OSError):
                failed.write_text(f"{reason}\n")
            raise self._unavailable(f"{self.network} weights could not be downloaded ({reason})") from None
        failed.unlink(missing_ok=True)


INCEPTION = Published(
    network="Inception",
    name="weights-inception-2015-12-05-6726825d.pth",
    source=Source(
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        bytes=95_628_359,
        sha256=PUBLISHED_SHA256,
    ),
    option="--inception",
    variable="HFDBENCH_INCEPTION",
    folder="inception",
)
MINI = Bundled(
    path=Path(__file__).parent / "weights" / "fd-mini-v2.safetensors",
    sha256="a74dc8516910ab4067c8c2f253bcc685008deda2aa7b0bd2f358f9089484f370",
)
DINOV2 = Published(
    network="DINOv2",
    name="dinov2_vitb14_pretrain.pth",
    source=Source(
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        bytes=346_378_731,
        sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    option="--feature dinov2=",
    variable="HFDBENCH_DINOV2",
    folder="dinov2",
    package="timm",
    extra="vit",
)
_CLIP_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"  # torch-fidelity's, too
CLIP = Published(
    network="CLIP",
    name="ViT-B-32.pt",
    source=Source(
        url=f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-B-32.pt", sha256=_CLIP_SHA256
    ),
    option="--feature clip=",
    variable="HFDBENCH_CLIP",
    folder="clip",
)


def read_state(weights: Path, hint: str) -> "dict[str, torch.Tensor]":
    """Read a file's table of weights without executing anything in it.

    Parameters
    ----------
    weights : Path
        A file that torch.save wrote.
    hint : str
        Ends the message of an error: which file to give instead.

    Raises
    ------
    UsageError
        It holds no table of weights, or a weight that is NaN or infinite.
    """
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
