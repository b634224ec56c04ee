"""Training of both stages from a folder of photographs: seeded, logged, resumable to the step.

A recipe (TOML) says everything that shapes the result; it is stored with the weights, together with the hash of the data.
Step k draws its crops and noise from (seed, k) alone, so a run that was stopped and resumed equals one that was not
(on the same machine and thread count).
"""

import json
import logging
import os
import time
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import photos
from .autoencoder import Autoencoder, AutoencoderConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """stage: autoencoder | decoder; crop: pixels; learning_rate: peak, reached after `warmup` steps, then cosine to 1/50 of it;
    ema: decay of the averaged weights, which are what is kept; bf16: run the convolutions in bfloat16."""

    stage: str
    steps: int
    batch: int = 8
    crop: int = 128
    learning_rate: float = 4e-4
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0
    model: dict = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> "Recipe":
        """Raises ValueError naming file and key for anything unknown or missing."""
        try:
            data = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path}: not a readable recipe: {error}") from None
        known = {f.name for f in fields(Recipe)}
        for key in data:
            if key not in known:
                raise ValueError(f'{path}: unknown key "{key}"; a recipe knows {", ".join(sorted(known))}')
        for key in ("stage", "steps"):
            if key not in data:
                raise ValueError(f'{path}: key "{key}" is missing')
        if data["stage"] not in ("autoencoder", "decoder"):
            raise ValueError(f'{path}: stage "{data["stage"]}" is unknown; use "autoencoder" or "decoder"')
        return Recipe(**data)


class AutoencoderTask:
    """Rate-distortion training of every rate at once: each crop of a batch draws its own rate."""

    def __init__(self, recipe: Recipe, data: photos.Photos):
        self.recipe = recipe
        self.data = data
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.model.items()}
        self.model = Autoencoder(AutoencoderConfig(**config))

    def config(self) -> dict:
        return asdict(self.model.config)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        pixels = photos.crops(self.data.images, recipe.batch, recipe.crop, rng)
        rate = torch.from_numpy(rng.permutation(np.arange(recipe.batch) % len(self.model.config.lambdas)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255), rate

    def loss(self, image: Tensor, rate: Tensor) -> tuple[Tensor, dict[str, float]]:
        loss, bpp, mse = self.model.rate_loss(image, rate)
        said = {"rd": loss.item(), "bpp": bpp.mean().item(), "psnr_db": (-10 * mse.log10()).mean().item()}
        return loss + self.model.bottleneck.loss(), said  # the second term fits the quantiles of the hyper-latents

    def finish(self, model: nn.Module) -> None:
        model.freeze_tables()


def train(task, recipe: Recipe, out: Path, device: str = "cpu", keep_every: int = 500, stop_after_s: float | None = None) -> Path | None:
    """Train to the recipe's last step. Writes out/checkpoint.pt, out/log.jsonl and, at the end, out/weights.safetensors.

    Resumes from out/checkpoint.pt when it is there. Returns the path of the weights, or None when stop_after_s ran out first.
    Raises ValueError when the checkpoint was made by another recipe or other data.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = task.model.to(device=device, memory_format=torch.channels_last).train()
    # The quantiles of the entropy bottleneck have a loss of their own: faster steps, and no say in gradient clipping.
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam([{"params": weights, "pace": 1}, {"params": quantiles, "pace": 10}], betas=(0.9, 0.99))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    identity = json.dumps({"recipe": asdict(recipe), "data": task.data.sha256}, sort_keys=True)
    start = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["identity"] != identity:
            raise ValueError(f"{checkpoint}: made by another recipe or other data; choose another --out or delete it")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, start = saved["average"], saved["step"]
        log.info("resuming at step %d", start)

    def keep(step: int) -> None:
        state = dict(identity=identity, model=model.state_dict(), optimizer=optimizer.state_dict(), average=average, step=step)
        write_atomically(checkpoint, lambda path: torch.save(state, path))

    began = time.monotonic()
    sums: dict[str, float] = {}
    with open(out / "log.jsonl", "a") as journal, torch.random.fork_rng(devices=[]):
        bar = tqdm(total=recipe.steps, initial=start, unit="step", dynamic_ncols=True)
        for step in range(start, recipe.steps):
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]
            rng = np.random.default_rng((recipe.seed, step))
            torch.manual_seed(int(rng.integers(2**63)))  # noise inside the loss; the generator is restored afterwards
            inputs = [x.to(device) for x in task.batch(rng)]
            inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=recipe.bf16):
                loss, said = task.loss(*inputs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(weights, recipe.clip)
            if torch.isfinite(norm):
                optimizer.step()
            with torch.no_grad():
                decay = min(recipe.ema, (step + 1) / (step + 10))
                for name, value in model.state_dict().items():
                    if value.is_floating_point():
                        average[name].lerp_(value, 1 - decay)
                    else:
                        average[name].copy_(value)
            for key, value in {"loss": loss.item(), "grad_norm": norm.item(), **said}.items():
                sums[key] = sums.get(key, 0.0) + value
            bar.update()
            if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
                count = (step % 100) + 1
                means = {key: round(value / count, 5) for key, value in sums.items()}
                sums = {}
                journal.write(json.dumps({"step": step + 1, "learning_rate": rate, "elapsed_s": round(time.monotonic() - began, 1), **means}) + "\n")
                journal.flush()
                bar.set_postfix(means)
            late = stop_after_s is not None and time.monotonic() - began > stop_after_s
            if (step + 1) % keep_every == 0 or step + 1 == recipe.steps or late:
                keep(step + 1)
            if late and step + 1 < recipe.steps:
                bar.close()
                return None
        bar.close()
    return export(task, recipe, average, recipe.steps, out / "weights.safetensors")


def export(task, recipe: Recipe, average: dict[str, Tensor], steps: int, path: Path) -> Path:
    """Write averaged weights with everything needed to name them: config, recipe, data hash, steps, in the metadata."""
    task.model.load_state_dict(average)
    task.model.cpu().eval()
    task.finish(task.model)
    metadata = {
        "config": json.dumps(task.config()),
        "recipe": json.dumps(asdict(recipe)),
        "data_sha256": task.data.sha256,
        "photographs": str(len(task.data.names)),
        "steps": str(steps),
        "torch": torch.__version__,
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in task.model.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to a fiftieth of it."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress)))


def write_atomically(path: Path, write) -> None:
    """Let `write` fill a temporary neighbour, then rename it: the old file stays whole if anything fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
