# pyright: basic
"""The training loop of every task: seeded, logged, resumable to the step.

Step k draws its crops and noise from (seed, k) alone, so a run that was stopped and resumed equals one that was not (on the same
machine and thread count). Lightning Fabric runs it: one CPU, one GPU or many, in bfloat16 where the recipe says so.
"""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing
from hfdbench.hfd.weights import pack
from hfdbench.training import plots
from hfdbench.training.objectives import Loss
from hfdbench.training.tasks import DecoderTask, Task

log = logging.getLogger(__name__)
LOG_EVERY = 100  # steps
FOREIGN = "choose another --out or delete it"


@dataclass
class Pass:
    """One network's part of a step: its loss, its optimizer, and the parameters whose gradient is clipped."""

    name: str
    loss: Loss
    optimizer: torch.optim.Optimizer
    clipped: list[nn.Parameter]

    def step(self, batch: Any, learning_rate: float, clip: float, fabric: Fabric) -> dict[str, Tensor]:
        """Take a step and return what is logged of it. A gradient that is not finite is skipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["pace"]
        loss, shown = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.clipped, clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        prefix = "" if self.name == "model" else f"{self.name}_"
        return {prefix + key: value.detach() for key, value in {"loss": loss, "grad_norm": norm, **shown}.items()}


class Log:
    """Means of what the steps return, a line of JSON every `LOG_EVERY` steps."""

    def __init__(self, path: Path):
        self._path = path
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def cut(self, start: int) -> None:
        """Drop the lines after a step: a training goes on from there."""
        if self._path.is_file():
            lines = self._path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
            with replacing(self._path) as temporary:
                temporary.write_text("".join(kept))

    def add(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value

    def count(self) -> None:
        self._steps += 1

    def write(self, **line: float) -> dict[str, float]:
        """Append a line and begin anew. Raises UsageError when the disk is full."""
        means = {key: round(float(value) / self._steps, 5) for key, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps(line | means) + "\n")
        except OSError as error:
            raise UsageError(
                f"{self._path}: could not be written ({error}); the last checkpoint is intact; free disk space and run again"
            ) from None
        return means


@dataclass
class Checkpoint:
    """The file that a training continues from.

    identity: what it must have been made by, recipe and data.
    """

    path: Path
    identity: str

    def read(self, device: torch.device) -> dict | None:
        """What was kept, None where nothing was. Raises UsageError for a damaged file, or one of another recipe or other data."""
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            same = saved["identity"] == self.identity
        except Exception as error:  # torch raises half a dozen types for a damaged file, with long messages
            raise UsageError(f"{self.path}: not a checkpoint of hfdbench ({type(error).__name__}); {FOREIGN}") from None
        if not same:
            raise UsageError(f"{self.path}: made by another recipe or other data; {FOREIGN}")
        return saved

    def write(self, **state: object) -> None:
        with replacing(self.path, RuntimeError) as temporary:
            torch.save({"identity": self.identity, **state}, temporary)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of parameters and buffers, whose decay grows to `decay` over the first steps."""

    def average(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        if not value.is_floating_point():
            return value
        return torch.lerp(mean, value, 1 - min(decay, (int(count) + 1) / (int(count) + 10)))

    return AveragedModel(model, avg_fn=average, use_buffers=True)


def train(
    task: Task,
    out: Path,
    fabric: Fabric | None = None,
    *,
    keep_every_s: float = 60.0,
    stop_after_s: float | None = None,
    finish_after_s: float | None = None,
    compiled: bool = False,
) -> Path | None:
    """Train to the end of the recipe, resuming from out/checkpoint.pt where there is one.

    Writes checkpoint.pt, log.jsonl, loss.png and, at the end, samples.png and weights.safetensors.

    Parameters
    ----------
    task : Task
    out : Path
        Folder of what is written.
    fabric : Fabric, optional
        Devices and precision; one CPU by default.
    keep_every_s : float
        Seconds between checkpoints: what is lost when a training is interrupted or killed.
    stop_after_s : float, optional
        Seconds after which this call stops, to be resumed.
    finish_after_s : float, optional
        Seconds, over all calls, in which the training shall end: the schedule then runs by time where time is ahead of the steps.
    compiled : bool
        torch.compile the networks; takes a C++ compiler on a CPU.

    Returns
    -------
    Path or None
        The weights; None when `stop_after_s` ran out first.

    Raises
    ------
    UsageError
        The checkpoint was made by another recipe or other data, or cannot be read; the disk is full.
    """
    recipe = task.recipe
    fabric = fabric or make_fabric("cpu", 1, recipe.bf16)
    out.mkdir(parents=True, exist_ok=True)
    average = averaged(task.model.to(fabric.device), recipe.ema)
    modules, optimizers = {}, {}
    for name, module in task.modules.items():
        module.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(parameter_groups(module), betas=(0.9, 0.99) if name == "model" else (0.5, 0.9))
        if compiled:
            module.forward = torch.compile(module.forward)
        modules[name], optimizers[name] = fabric.setup(module, optimizer)
    identity = json.dumps({"recipe": recipe.identity(), "data": task.data.sha256}, sort_keys=True)
    checkpoint = Checkpoint(out / "checkpoint.pt", identity)
    start, spent_s = 0, 0.0
    if saved := checkpoint.read(fabric.device):
        for name, module in task.modules.items():
            module.load_state_dict(saved["modules"][name])
            optimizers[name].load_state_dict(saved["optimizers"][name])
        average.module.load_state_dict(saved["average"])
        start, spent_s = saved["step"], saved["spent_s"]
        average.n_averaged.fill_(start)
        log.info("resuming at step %d", start)
    passes = [
        # The quantiles of the entropy bottleneck have a loss of their own: they have no say in clipping.
        Pass(
            name,
            loss,
            optimizers[name],
            [p for n, p in task.modules[name].named_parameters() if not n.endswith("quantiles")],
        )
        for name, loss in task.passes(modules, fabric)
    ]
    count, rank = max(1, recipe.batch // fabric.world_size), fabric.global_rank

    def draw(step: int) -> tuple[tuple[Tensor, ...], int]:
        """Crops of a step, and the seed of the noise that is drawn on the device: all from (seed, step, rank)."""
        rng = np.random.default_rng((recipe.seed, step, rank))
        return task.draw(count, rng), int(rng.integers(2**63))

    limited = stop_after_s is not None or finish_after_s is not None
    written, began, kept_s = Log(out / "log.jsonl"), time.monotonic(), 0.0
    if fabric.is_global_zero:
        written.cut(start)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        ThreadPoolExecutor(1) as loader,
        _bar(recipe.steps, start, fabric) as bar,
    ):
        shown = task.batch(*task.draw(6, np.random.default_rng((recipe.seed, 2**40))))
        upcoming = loader.submit(draw, start)
        step, decaying, elapsed_s = start, recipe.at(start) >= 1 - recipe.decay, 0.0
        while step < recipe.steps:
            progress = recipe.at(step)
            if finish_after_s:
                progress = max(progress, min(1, (spent_s + elapsed_s) / finish_after_s))
            if recipe.schedule == "wsd" and not decaying and progress >= 1 - recipe.decay:
                decaying = True
                if fabric.is_global_zero:  # what a later, longer training starts from
                    export(task, out / "before-decay.safetensors", average.module.state_dict())
            drawn, noise_seed = upcoming.result()
            upcoming = loader.submit(draw, step + 1)  # while this step is computed
            torch.manual_seed(noise_seed)  # of the batch and inside the loss; the generators are restored afterwards
            batch = task.batch(*fabric.to_device(drawn))
            rate = recipe.learning_rate_at(step, progress)
            for part in passes:
                written.add(part.step(batch, rate, recipe.clip, fabric))
            written.count()
            average.update_parameters(task.model)
            step += 1
            bar.update()
            elapsed_s = time.monotonic() - began
            if limited and fabric.world_size > 1:  # clocks differ, and all processes must end with the same step
                elapsed_s = fabric.broadcast(elapsed_s)
            last = step == recipe.steps or (finish_after_s is not None and spent_s + elapsed_s >= finish_after_s)
            if fabric.is_global_zero and (step % LOG_EVERY == 0 or last):
                bar.set_postfix(written.write(step=step, learning_rate=rate, elapsed_s=round(elapsed_s, 1)))
            late = stop_after_s is not None and elapsed_s > stop_after_s
            if fabric.is_global_zero and (elapsed_s - kept_s >= keep_every_s or last or late):
                kept_s = elapsed_s
                checkpoint.write(
                    modules={name: module.state_dict() for name, module in task.modules.items()},
                    optimizers={name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                    average=average.module.state_dict(),
                    step=step,
                    spent_s=spent_s + elapsed_s,
                )
                plots.loss_curves(out / "log.jsonl", out / "loss.png")
            if last:
                break
            if late:
                return None
    task.model.load_state_dict(average.module.state_dict())
    task.model.cpu().eval()
    task.finish()
    if fabric.is_global_zero:
        made: Any = task.samples
        plots.sample_grid(made(shown), out / "samples.png")
        export(task, out / "weights.safetensors", steps=step)
    return out / "weights.safetensors"


def _bar(total: int, initial: int, fabric: Fabric) -> tqdm:
    return tqdm(total=total, initial=initial, unit="step", dynamic_ncols=True, disable=not fabric.is_global_zero)


def make_fabric(device: str, devices: int, bf16: bool) -> Fabric:
    """Devices and precision of a training: one process for each of `devices`, gradients averaged between them.

    float32 on a CPU that oneDNN has no bfloat16 kernels for: torch's own would take some twelve times as long.
    """
    if bf16 and device == "cpu":
        bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if not bf16:
            log.info("bf16: this CPU has no kernels for it; training in float32")
    strategy = "ddp" if devices > 1 else "auto"
    precision = "bf16-mixed" if bf16 else "32-true"
    return Fabric(accelerator=device, devices=devices, strategy=strategy, precision=precision)


def parameter_groups(module: nn.Module) -> list[dict]:
    """Groups by pace, a factor on the learning rate.

    Gains, scales and quantiles of the autoencoder have far to go and little to upset: ten. Bases start as a transform, whose small
    numbers a full pace would blur: a fortieth.
    """
    paces: dict[float, list] = {1: [], 10: [], 0.025: []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        pace = 10 if name.endswith(("quantiles", "gain", "log_scale")) else 0.025 if name.endswith("basis") else 1
        paces[pace].append(parameter)
    return [{"params": parameters, "pace": pace} for pace, parameters in paces.items() if parameters]


def export(task: Task, path: Path, state: dict[str, Tensor] | None = None, steps: int | None = None) -> None:
    """Write weights with everything needed to name them: config, recipe, hash of the data, steps, in the metadata.

    Raises
    ------
    UsageError
        A number is not finite: the training diverged; or the file cannot be written.
    """
    state = state or task.model.state_dict()
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UsageError(
                f"{path}: not written: {name} holds NaN or infinity; the training diverged, lower learning_rate or clip"
            )
    metadata = {
        "config": json.dumps(asdict(cast(Any, task.model.config))),
        "recipe": task.recipe.model_dump_json(),
        "objective": task.recipe.objective,
        "data_sha256": task.data.sha256,
        "photographs": str(len(task.data.names)),
        "steps": str(steps or task.recipe.steps),
        "torch": torch.__version__,
    }
    if isinstance(task, DecoderTask):
        metadata |= {"base": task.base.name, "points": json.dumps(task.base.points)}
    tensors = pack(state, task.recipe.stored)
    with replacing(path, SafetensorError) as temporary:
        save_file(tensors, temporary, metadata)
