"""Training of both stages from a folder of photographs: seeded, logged, resumable to the step.

A recipe (TOML) says everything that shapes the result; it is stored with the weights, together with the hash of the data.
Step k draws its crops and noise from (seed, k) alone, so a run that was stopped and resumed equals one that was not
(on the same machine and thread count).
"""

import hashlib
import io
import json
import logging
import math
import os
import time
import tomllib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import photos
from .autoencoder import STRIDE, Autoencoder, AutoencoderConfig
from .decoder import Decoder
from .diffusion import Schedule
from .network import NetworkConfig
from .weights import configured, load_into

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
    shift: float = 1.0  # of the noise schedule, decoders only
    pair_side: int = 384  # pixels of the parts of photographs that are coded, decoders only
    init: str | None = None  # weights to start from (safetensors)

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
        recipe = Recipe(**data)
        if recipe.crop % STRIDE:
            raise ValueError(f"{path}: crop {recipe.crop} is not a multiple of {STRIDE}")
        return recipe


@contextmanager
def seeded(seed: int):
    """Torch draws from this seed inside, and goes on as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class AutoencoderTask:
    """Rate-distortion training of every rate at once: each crop of a batch draws its own rate."""

    def __init__(self, recipe: Recipe, data: photos.Photos):
        self.recipe = recipe
        self.data = data
        with seeded(recipe.seed):
            self.model = Autoencoder(configured(AutoencoderConfig, recipe.model))
        if recipe.init:
            load_into(self.model, Path(recipe.init))

    def config(self) -> dict:
        return asdict(self.model.config)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        pixels, _ = photos.crops(self.data.images, recipe.batch, recipe.crop, rng)
        rate = torch.from_numpy(rng.permutation(np.arange(recipe.batch) % len(self.model.config.lambdas)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255), rate

    def loss(self, image: Tensor, rate: Tensor) -> tuple[Tensor, dict[str, float]]:
        loss, bpp, mse = self.model.rate_loss(image, rate)
        said = {"rd": loss.item(), "bpp": bpp.mean().item(), "psnr_db": (-10 * mse.log10()).mean().item()}
        return loss + self.model.bottleneck.loss(), said  # the second term fits the quantiles of the hyper-latents

    def finish(self, model: nn.Module) -> None:
        model.freeze_tables()


class DecoderTask:
    """Diffusion training on pairs (photograph, its stage-1 reconstruction); the autoencoder is frozen, pairs are made once.

    HFD precomputes its pairs from larger crops and drops their border (arXiv:2305.18231, section 5.3); here the border stays,
    so that the network has seen the borders of pictures.
    """

    def __init__(self, recipe: Recipe, data: photos.Photos, autoencoder: Autoencoder, cache: Path):
        self.recipe = recipe
        self.data = data
        self.schedule = Schedule(recipe.shift)
        rates = len(autoencoder.config.lambdas)
        with seeded(recipe.seed):
            self.model = Decoder(configured(NetworkConfig, recipe.model | {"rates": rates}))
        if recipe.init:
            load_into(self.model, Path(recipe.init))
        self.pairs = make_pairs(data, autoencoder, recipe.pair_side, cache)
        self.rates = np.array([pair.rate for pair in self.pairs])
        self.model.root.copy_(residual_roots(self.pairs, rates))

    def config(self) -> dict:
        return asdict(self.model.config)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        recipe = self.recipe
        stacks, picked = photos.crops([pair.pixels for pair in self.pairs], recipe.batch, recipe.crop, rng)
        image, reconstruction = torch.from_numpy(stacks).permute(0, 3, 1, 2).float().div_(255).chunk(2, 1)
        # Evenly spread times: one uniform offset, a different stratum each (less variance than independent draws).
        t = torch.from_numpy((rng.random() + rng.permutation(recipe.batch) / recipe.batch) % 1)
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        return image, reconstruction, torch.from_numpy(self.rates[picked]), t, noise

    def loss(self, image, reconstruction, rate, t, noise) -> tuple[Tensor, dict[str, float]]:
        losses = self.model.loss(image, reconstruction, rate, t, noise, self.schedule)
        low = t < 0.5  # the cleaner half of the schedule
        return losses.mean(), {"clean_half": losses[low].mean().item(), "noisy_half": losses[~low].mean().item()}

    def finish(self, model: nn.Module) -> None:
        pass


@dataclass(frozen=True)
class Pair:
    """pixels: uint8, H x W x 6, a photograph and its reconstruction at `rate`."""

    pixels: np.ndarray
    rate: int


@torch.inference_mode()
def make_pairs(data: photos.Photos, autoencoder: Autoencoder, side: int, cache: Path) -> list[Pair]:
    """A part of each photograph, at most side x side pixels, at two of the rates, the rates taking turns.

    Kept in `cache`, named by data and weights, so that an interrupted start goes on. Raises ValueError for fewer
    photographs than rates.
    """
    digest = hashlib.sha256(f"{data.sha256} {side}".encode())
    for name, tensor in autoencoder.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    folder = cache / f"pairs-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    rates = len(autoencoder.config.lambdas)
    if len(data.images) < rates:
        raise ValueError(f"{len(data.images)} photographs are too few for {rates} rates; give at least {rates}")
    pairs = []
    for index, photo in enumerate(tqdm(data.images, desc="pairs", unit="photo", dynamic_ncols=True)):
        rng = np.random.default_rng((17, index))
        height, width = min(side, photo.shape[0]), min(side, photo.shape[1])
        top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
        image = photo[top : top + height, left : left + width]
        for rate in sorted({index % rates, (index + rates // 2) % rates}):
            path = folder / f"{index:06d}-{rate}.npy"
            if not path.exists():
                x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
                x_hat = autoencoder.reconstruct(x, torch.tensor([rate]))[0].clamp(0, 1)
                pixels = np.concatenate([image, (x_hat * 255).round().byte().permute(1, 2, 0).numpy()], 2)
                write_atomically(path, lambda temporary, a=pixels: temporary.write_bytes(_npy(a)))
            pairs.append(Pair(np.load(path, allow_pickle=False), rate))
    return pairs


def residual_roots(pairs: list[Pair], rates: int) -> Tensor:
    """Symmetric square root of the covariance of x - x_hat over its colours, in [0, 1] pixels: rates x 3 x 3."""
    products, counts = np.zeros((rates, 3, 3)), np.zeros(rates)
    for pair in pairs:
        difference = (pair.pixels[..., :3].astype(np.float32) - pair.pixels[..., 3:]).reshape(-1, 3) / 255
        products[pair.rate] += difference.T.astype(np.float64) @ difference
        counts[pair.rate] += len(difference)
    values, vectors = np.linalg.eigh(products / counts[:, None, None])
    return torch.from_numpy((vectors * np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def train(
    task, recipe: Recipe, out: Path, device: str = "cpu", keep_every: int = 500, stop_after_s: float | None = None
) -> Path | None:
    """Train to the recipe's last step. Writes out/checkpoint.pt, out/log.jsonl and, at the end, out/weights.safetensors.

    Resumes from out/checkpoint.pt when it is there. Returns the path of the weights, or None when stop_after_s ran out first.
    Raises ValueError when the checkpoint was made by another recipe or other data.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = task.model.to(device=device, memory_format=torch.channels_last).train()
    # Gains and quantiles have far to go and little to upset: ten times the pace. The quantiles of the entropy bottleneck
    # have a loss of their own, so they have no say in gradient clipping.
    names = dict(model.named_parameters())
    quantiles = [p for name, p in names.items() if name.endswith("quantiles")]
    gains = [p for name, p in names.items() if name.endswith("gain")]
    weights = [p for name, p in names.items() if not name.endswith(("quantiles", "gain"))]
    groups = [{"params": weights, "pace": 1}, {"params": gains, "pace": 10}, {"params": quantiles, "pace": 10}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
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
        state = dict(
            identity=identity, model=model.state_dict(), optimizer=optimizer.state_dict(), average=average, step=step
        )
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
            norm = nn.utils.clip_grad_norm_(weights + gains, recipe.clip)
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
                journal.write(
                    json.dumps(
                        {
                            "step": step + 1,
                            "learning_rate": rate,
                            "elapsed_s": round(time.monotonic() - began, 1),
                            **means,
                        }
                    )
                    + "\n"
                )
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
        "recipe": json.dumps(asdict(recipe) | {"init": recipe.init and Path(recipe.init).name}),
        "data_sha256": task.data.sha256,
        "photographs": str(len(task.data.names)),
        "steps": str(steps),
        "torch": torch.__version__,
    }
    state = {k: v.detach().cpu().contiguous() for k, v in task.model.state_dict().items()}
    tensors = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}  # half the size, no loss seen
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to a fiftieth of it."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def write_atomically(path: Path, write) -> None:
    """Let `write` fill a temporary neighbour, then rename it: the old file stays whole if anything fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def train_recipe(
    recipe_name: str,
    data: Path,
    out: Path,
    autoencoder: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stop_after_s: float | None = None,
) -> Path | None:
    """`train` from a recipe's path, or its bare name for a bundled one; logs to out/train.log.

    Raises ValueError for a recipe, folder or weights that cannot be used.
    """
    from ..cards import bundled_root
    from .weights import read_autoencoder

    path = Path(recipe_name)
    if not path.exists() and path.name == recipe_name:
        path = bundled_root() / "codecs" / "recipes" / f"{recipe_name}.toml"
    recipe = Recipe.read(path)
    if recipe.stage == "decoder" and autoencoder is None:
        raise ValueError(f"{path}: stage 2 needs the stage-1 weights; give them with --autoencoder")
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such folder")
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.parent.addHandler(handler)
    log.parent.setLevel(logging.INFO)
    try:
        found = photos.read_photos(data, recipe.crop)
        log.info(
            "%s: %d photographs, sha256 %s, %d left out", path, len(found.names), found.sha256, len(found.left_out)
        )
        (out / "data.txt").write_text("".join(f"{name}\n" for name in found.names))
        if recipe.stage == "autoencoder":
            task = AutoencoderTask(recipe, found)
        else:
            task = DecoderTask(recipe, found, read_autoencoder(autoencoder).module, out)
        return train(task, recipe, out, device, stop_after_s=stop_after_s)
    finally:
        log.parent.removeHandler(handler)
        handler.close()
