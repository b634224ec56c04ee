"""What the stages of one run share."""

import os
import platform
import subprocess
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa

from hfdbench import __version__
from hfdbench.cards.find import bundled_root
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import environments
from hfdbench.codecs.identity import processor
from hfdbench.codecs.pool import find_seal
from hfdbench.codecs.worker import THREADS
from hfdbench.datasets.dataset import Dataset
from hfdbench.metrics.networks.extractors import Extractor
from hfdbench.pipeline.instruments import Instruments
from hfdbench.pipeline.plan import Request, Trial, part_of
from hfdbench.progress import Progress
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.work import Pieces, working

PACKAGES = (
    "torch",
    "torch-fidelity",
    "torchmetrics",
    "numpy",
    "pillow",
    "pyarrow",
    "compressai",
    "pillow-heif",
    "pillow-jxl-plugin",
)
PLACE = ("host", "processor", "device_name")
STREAM_ROWS, IMAGE_ROWS, FEATURE_ROWS = 16, 4096, 256  # of a row group


@dataclass(frozen=True)
class Session:
    """What the stages of one run share; nothing of it changes but `notes`.

    Attributes
    ----------
    notes : list of str
        What the user must know.
    """

    request: Request
    folder: ResultsFolder
    instruments: Instruments
    progress: Progress
    notes: list[str] = field(default_factory=list)

    @cached_property
    def environment(self) -> dict:
        """Metadata of every file of the run."""
        return environment(self.request) | {"seal": find_seal()}

    @property
    def place(self) -> dict[str, str | None]:
        """Columns `host`, `processor` and `device_name` of what is measured here."""
        return {name: self.environment[name] for name in PLACE}

    def note(self, text: str) -> None:
        """Report something that is worth a line."""
        self.notes.append(text)
        self.progress.note(text)

    def images(self, count: int) -> range:
        """Return the images of a dataset that are this run's: its shard, or all."""
        return part_of(count, *(self.request.shard or (0, 1)))

    def reference(self, dataset: Dataset, extractor: Extractor) -> Path:
        """Path of a network's features of a dataset's originals."""
        return self.folder.reference(dataset.id, dataset.sha256, dataset.protocol, extractor.key, self.request.device)

    def pieces(self, key: str, table: str, columns: pa.Schema, compare: str, images: range | None = None) -> Pieces:
        """Open an unfinished table, or the part of some images; damaged pieces are set aside and made again."""
        pieces = Pieces(self.folder, key, table, columns, compare, platform.node(), images)
        for error, place in pieces.set_aside:
            self.note(f"{error.path}: damaged ({error.cause}); moved to {place}, its images are done again")
        return pieces

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Hold the unfinished tables of a key; shards of one machine do not wait for one another."""
        return nullcontext() if self.request.shard else working(self.folder, key)

    def report_conflicts(self, pieces: Pieces) -> None:
        """Report images that were computed twice with different results."""
        for conflict in pieces.conflicts():
            self.note(conflict)

    def metadata(self, trial: Trial, card: CodecCard) -> dict:
        """Metadata of a trial's files."""
        return {
            **self.environment,
            "card": card.model_dump(mode="json"),
            "point": trial.point,
            "dataset": trial.dataset.id,
            "dataset_sha256": trial.dataset.sha256,
            "stream_key": trial.stream_key,
            "trial_key": trial.trial_key,
            **({"packages": environments.found(card.id, card.python).packages} if card.python else {}),
        }


def environment(request: Request) -> dict:
    """Metadata of every file of a run: versions, commit, machine, seed, time."""
    versions = {"hfdbench": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": _commit(bundled_root()),
        "device": request.device,
        "cpu": _cpu(),
        "device_name": _device_name(request.device),
        "host": platform.node(),
        "processor": processor(),
        "threads": THREADS,
        "workers": request.workers,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "seed": request.seed,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _commit(root: Path) -> str | None:
    """Commit of a checkout, "-dirty" when files were changed; None outside one."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _device_name(device: str) -> str:
    """Name of the GPU that networks run on, as torch says it, or of the CPU."""
    if device.split(":")[0] == "cuda":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(device)
    return _cpu()


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
