# pyright: basic
"""Training of both stages from a folder of photographs: seeded, logged, resumable to the step.

A recipe (TOML) says everything that shapes the result; it is stored with the weights, together with the hash of the data.
Step k draws its crops and noise from (seed, k) alone, so a run that was stopped and resumed equals one that was not
(on the same machine and thread count). Lightning Fabric runs it: one CPU, one GPU or many, in bfloat16 where the recipe says so.
"""

import contextlib
import hashlib
import json
import logging
import math
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hfdbench.files.atomic import replacing, write_text
from hfdbench.hfd.autoencoder import STRIDE, AutoencoderConfig, build
from hfdbench.hfd.decoder import Decoder, Sampling
from hfdbench.hfd.network import NetworkConfig
from hfdbench.hfd.sampling import Schedule
from hfdbench.hfd.weights import configured, load_into, pack
from hfdbench.training import objectives, pairs, photos
from hfdbench.training import plots as pictures
from hfdbench.training.adversaries import read_perceptual
from hfdbench.training.objectives import Batch, Loss

log = logging.getLogger(__name__)
LOG_EVERY = 100  # steps


@dataclass(frozen=True)
class Recipe:
    """objective: "autoencoder" for stage 1, else one of objectives.py; base, points: codec card that stage 2 decodes, and those of
    its points that the decoder's rates are, all when empty; held_out: one photograph in so many is kept out of the training
    (photos.held_out says which), 0 for none; batch: crops over all devices; crop: pixels;
    learning_rate: peak, reached after `warmup` steps; schedule: "cosine" to 1/50 of it, or "wsd", which stays at the peak until
    its last `decay` share of the steps falls linearly to 1/50; ema: decay of the averaged weights, which
    are what is kept; clip: largest norm of the gradient; bf16: run the networks in bfloat16 where the device has kernels
    for it; model: options of the network."""

    objective: str
    steps: int
    batch: int = 8
    crop: int = 128
    learning_rate: float = 4e-4
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0
    schedule: str = "cosine"
    decay: float = 0.15
    smooth: float = 0.0  # share of crops that are synthetic smooth fields, stage 1 only
    smallest_scale: float = 1.0  # of photographs, drawn anew for each crop, stage 1 only
    block_means: float = 0.0  # weight of the error of means of blocks of 8, 16, 32 pixels beside MSE, stage 1 only
    model: dict = field(default_factory=dict)
    pair_side: int = 384  # pixels of the parts of photographs that are coded, stage 2 only
    border: int = 64  # pixels around them that are coded with them and dropped, stage 2 only
    stored: str = "float16"  # or "int8": half the bytes
    base: str = ""
    points: list = field(default_factory=list)
    held_out: int = 0
    perceptual: str = "inception"  # network of the perceptual loss, GAN decoders only

    @staticmethod
    def read(path: Path) -> "Recipe":
        """Raises ValueError naming file and key for anything unknown, missing or of the wrong type."""
        try:
            data = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path}: not a readable recipe: {error}") from None
        known = {f.name: f.type for f in fields(Recipe)}
        for key, value in data.items():
            if key not in known:
                raise ValueError(f'{path}: unknown key "{key}"; a recipe knows {", ".join(sorted(known))}')
            if type(value) is not known[key] and not (known[key] is float and type(value) is int):
                raise ValueError(f"{path}: {key} = {value!r} must be of type {known[key].__name__}")
        for key in ("objective", "steps"):
            if key not in data:
                raise ValueError(f'{path}: key "{key}" is missing')
        recipe = Recipe(**data)
        stage_1 = recipe.objective == "autoencoder"
        if not stage_1 and recipe.objective not in objectives.OBJECTIVES:
            names = ", ".join(("autoencoder", *objectives.OBJECTIVES))
            raise ValueError(f'{path}: objective "{recipe.objective}" is unknown; use {names}')
        options = {f.name for f in fields(AutoencoderConfig if stage_1 else NetworkConfig)} - {"rates", "latents"}
        for key in recipe.model:
            if key not in options:
                raise ValueError(f'{path}: unknown key "{key}" in [model]; it knows {", ".join(sorted(options))}')
        if recipe.stored not in ("float16", "int8"):
            raise ValueError(f'{path}: stored "{recipe.stored}" is unknown; use float16 or int8')
        if recipe.schedule not in ("cosine", "wsd"):
            raise ValueError(f'{path}: schedule "{recipe.schedule}" is unknown; use cosine or wsd')
        if not 0 < recipe.smallest_scale <= 1 or not 0 <= recipe.smooth <= 1 or not 0 <= recipe.decay <= 1:
            raise ValueError(f"{path}: smallest_scale, smooth and decay are shares of 1")
        multiple = STRIDE if stage_1 else pairs.GRID
        if recipe.crop % multiple:
            raise ValueError(f"{path}: crop {recipe.crop} is not a multiple of {multiple}")
        if recipe.held_out < 0 or recipe.held_out == 1:
            raise ValueError(f"{path}: held_out {recipe.held_out}: 0 for none, or one photograph in 2 or more")
        if stage_1 and (recipe.base or recipe.points):
            raise ValueError(f"{path}: stage 1 has no base: leave out base and points")
        if any(type(point) is not str for point in recipe.points):
            raise ValueError(f"{path}: points must be ids of points of the base's card, in quotes")
        if min(recipe.steps, recipe.batch, recipe.crop) < 1:
            raise ValueError(f"{path}: steps, batch and crop must be at least 1")
        return recipe


class AutoencoderTask:
    """Rate-distortion training of every rate at once: each crop of a batch draws its own rate.

    As of every task: `draw` makes a step's crops on the CPU, in a thread of its own; `batch` makes of them, once they are on
    the device, what the losses see.
    """

    def __init__(self, recipe: Recipe, data: photos.Photos, init: Path | None = None):
        self.recipe, self.data = recipe, data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.modules = {"model": build(configured(AutoencoderConfig, recipe.model))}
        if init:
            load_into(self.modules["model"], init)
        else:
            pixels, _ = photos.crops(self.data.images, 64, recipe.crop, np.random.default_rng((recipe.seed, 2**41)))
            self.modules["model"].calibrate(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        self.model = self.modules["model"]
        # Their loss stands outside the forward pass and is the same in every process: there is nothing to average.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, ["bottleneck.quantiles"])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        smooth = int(rng.binomial(count, recipe.smooth)) if recipe.smooth else 0
        if recipe.smallest_scale < 1:
            pixels = photos.scaled_crops(self.data.images, count - smooth, recipe.crop, recipe.smallest_scale, rng)
        else:
            pixels, _ = photos.crops(self.data.images, count - smooth, recipe.crop, rng)
        if smooth:
            pixels = np.concatenate([photos.smooth_fields(smooth, recipe.crop, rng), pixels])
        rates = len(self.model.config.lambdas)
        rate = torch.from_numpy(rng.permutation((np.arange(count) + rng.integers(rates)) % rates))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), rate

    @staticmethod
    def batch(pixels: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        return pixels.float() / 255, rate

    def passes(self, modules: dict[str, nn.Module], fabric: Fabric) -> Iterator[tuple[str, Loss]]:
        def loss(batch):
            loss, bpp, mse = rate_distortion(modules["model"], *batch, self.recipe.block_means)
            shown = {"rd": loss.detach(), "bpp": bpp.mean(), "psnr_db": (-10 * mse.log10()).mean()}
            return loss + self.model.bottleneck.loss(), shown  # the second term fits the quantiles of the hyper-latents

        yield "model", loss

    @torch.no_grad()
    def samples(self, batch) -> Tensor:
        """Rows of pictures: originals above reconstructions, 2 x N x 3 x H x W."""
        return torch.stack([batch[0], self.model.reconstruct(*batch)[0]])

    def finish(self) -> None:
        self.model.freeze_tables()


def rate_distortion(
    model: nn.Module, image: Tensor, rate: Tensor, block_means: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rate-distortion loss (scalar), bits per pixel and MSE per image (N each).

    Loss of an image: (bpp + lambda * 255^2 * D) * (lambda_mid / lambda)^0.25; the last factor balances the rates (ours). D is the
    MSE plus `block_means` times the sum of the mean squared errors of means of blocks of 8, 16 and 32 pixels: errors of whole
    areas are seen before errors of texture.
    """
    reconstruction, bits = model(image, rate)
    error = reconstruction - image
    mse = error.square().mean((1, 2, 3))
    distortion = mse
    for _ in range(3 if block_means else 0):
        error = F.avg_pool2d(error, 2 if error.shape[3] < image.shape[3] else 8)
        distortion = distortion + block_means * error.square().mean((1, 2, 3))
    bpp = bits / (image.shape[2] * image.shape[3])
    lambdas = torch.tensor(model.config.lambdas, device=image.device)
    balance = (lambdas.median() / lambdas[rate]) ** 0.25
    return ((bpp + lambdas[rate] * 255**2 * distortion) * balance).mean(), bpp.detach(), mse.detach()


class DecoderTask:
    """Training of a decoder, by any of the objectives, on pairs made once by the frozen base."""

    def __init__(
        self,
        recipe: Recipe,
        data: photos.Photos,
        base: pairs.Base,
        cache: Path,
        init: Path | None = None,
        perceptual: Path | None = None,
        first: int = 0,
    ):
        """first: index of the photograph that this process begins to make pairs with."""
        self.recipe, self.data = recipe, data
        self.base, rates, latents = base, len(base.points), base.latents
        if recipe.objective == "hfd-plus" and not latents:
            raise ValueError(f"objective hfd-plus sees latents, which base {base.name} does not have; train hfd")
        seen = latents if recipe.objective == "hfd-plus" else 0
        self.schedule = Schedule("linear" if recipe.objective == "hfd-rf" else "cosine")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            config = configured(NetworkConfig, recipe.model | {"rates": rates, "latents": seen})
            self.modules: dict[str, nn.Module] = {"model": Decoder(config)}
            if recipe.objective in objectives.ADVERSARIAL:
                if perceptual is None:
                    raise ValueError(f"objective {recipe.objective} needs the weights of {recipe.perceptual}")
                self.modules["critic"] = objectives.make_critic(recipe.objective, latents)
                self.perceptual = read_perceptual(recipe.perceptual, perceptual)
        self.model = self.modules["model"]
        if init:
            lacking = ("network.latents.weight", "network.latents.bias") if seen else ()
            load_into(self.model, init, may_lack=lacking, by_rate=("network.rate.weight", "root"))
        self.pairs = pairs.make_pairs(data, base, recipe.pair_side, recipe.border, cache, first)
        self.model.root.copy_(pairs.residual_roots(self.pairs, rates))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        # Evenly spread times: one uniform offset, a different stratum each (less variance than independent draws).
        t = torch.from_numpy((rng.random() + rng.permutation(count) / count) % 1)
        return *pairs.crops(self.pairs, count, self.recipe.crop, rng), t

    @staticmethod
    def batch(pixels: Tensor, rate: Tensor, latents: Tensor, t: Tensor) -> Batch:
        image, reconstruction = (pixels.float() / 255).chunk(2, 1)
        return Batch(image, reconstruction, rate, latents.float(), t, torch.randn_like(image))

    def passes(self, modules: dict[str, nn.Module], fabric: Fabric) -> Iterator[tuple[str, Loss]]:
        objective = self.recipe.objective
        if objective in objectives.DIFFUSION:
            yield "model", objectives.diffusion(modules["model"], objective, self.schedule)
            return
        frozen = self.perceptual.to(fabric.device, memory_format=torch.channels_last)

        def perceptual(image: Tensor) -> list[Tensor]:
            with fabric.autocast():
                return frozen(image)

        yield from objectives.adversarial(modules["model"], modules["critic"], perceptual, objective)

    @torch.no_grad()
    def samples(self, batch: Batch) -> Tensor:
        """Rows of pictures, 3 x N x 3 x H x W: originals, reconstructions, and what the decoder makes of them: sampled in 16 steps
        at full strength, or predicted at once where that is the objective."""
        solver = "euler" if self.schedule.path == "linear" else "ancestral"
        if self.recipe.objective in objectives.ADVERSARIAL:
            solver = "once"
        how = Sampling(solver, steps=16, path=self.schedule.path, tile=0)
        images = (batch.reconstruction * 255).round().byte().permute(0, 2, 3, 1).numpy()
        made = [
            self.model.sample(image, int(rate), seed, how, latents[None])
            for seed, (image, rate, latents) in enumerate(zip(images, batch.rate, batch.latents, strict=True))
        ]
        made = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 255
        return torch.stack([batch.image, batch.reconstruction, made])

    def finish(self) -> None:
        pass


def train(
    task: AutoencoderTask | DecoderTask,
    out: Path,
    fabric: Fabric | None = None,
    *,
    keep_every: int = 500,
    stop_after_s: float | None = None,
    compiled: bool = False,
) -> Path | None:
    """Train to the recipe's last step. Writes checkpoint.pt, log.jsonl, loss.png, at the end samples.png, weights.safetensors.

    Resumes from out/checkpoint.pt when it is there. Returns the path of the weights, or None when stop_after_s ran out first.
    compiled: torch.compile the networks (takes a C++ compiler; 1.6 times as fast on a CPU).
    Raises ValueError when the checkpoint was made by another recipe or other data, or cannot be read.
    """
    recipe = task.recipe
    fabric = fabric or make_fabric("cpu", 1, recipe.bf16)
    out.mkdir(parents=True, exist_ok=True)
    modules, optimizers, trained = {}, {}, {}
    for name, module in task.modules.items():
        module.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(parameter_groups(module), betas=(0.9, 0.99) if name == "model" else (0.5, 0.9))
        if compiled:
            module.forward = torch.compile(module.forward)
        modules[name], optimizers[name] = fabric.setup(module, optimizer)
        # The quantiles of the entropy bottleneck have a loss of their own: they have no say in clipping.
        trained[name] = [p for n, p in module.named_parameters() if not n.endswith("quantiles")]
    average = {k: v.detach().clone() for k, v in task.model.state_dict().items()}
    identity = identify(recipe, task.data)
    start, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        saved = read_checkpoint(checkpoint, identity, fabric.device)
        for name, module in task.modules.items():
            module.load_state_dict(saved["modules"][name])
            optimizers[name].load_state_dict(saved["optimizers"][name])
        average, start = saved["average"], saved["step"]
        log.info("resuming at step %d", start)

    def keep(step: int) -> None:
        fabric.barrier()
        if fabric.is_global_zero:
            state = dict(
                identity=identity,
                modules={name: module.state_dict() for name, module in task.modules.items()},
                optimizers={name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                average=average,
                step=step,
            )
            with replacing(checkpoint, RuntimeError) as temporary:
                torch.save(state, temporary)
            pictures.loss_curves(out / "log.jsonl", out / "loss.png")

    passes = list(task.passes(modules, fabric))
    count, rank = max(1, recipe.batch // fabric.world_size), fabric.global_rank

    def draw(step: int) -> tuple[tuple[Tensor, ...], int]:
        """Crops of a step, and the seed of the noise that is drawn on the device: all from (seed, step, rank)."""
        rng = np.random.default_rng((recipe.seed, step, rank))
        return task.draw(count, rng), int(rng.integers(2**63))

    began, sums, summed = time.monotonic(), {}, 0
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), ThreadPoolExecutor(1) as loader:
        bar = tqdm(
            total=recipe.steps, initial=start, unit="step", dynamic_ncols=True, disable=not fabric.is_global_zero
        )
        shown = task.batch(*task.draw(6, np.random.default_rng((recipe.seed, 2**40))))
        upcoming = loader.submit(draw, start)
        for step in range(start, recipe.steps):
            if recipe.schedule == "wsd" and step == recipe.steps - decay_steps(recipe) and fabric.is_global_zero:
                # What a later, longer training starts from.
                export(task, out / "before-decay.safetensors", average)
            drawn, noise_seed = upcoming.result()
            upcoming = loader.submit(draw, step + 1)  # while this step is computed
            torch.manual_seed(noise_seed)  # of the batch and inside the loss; the generators are restored afterwards
            batch = task.batch(*fabric.to_device(drawn))
            summed += 1
            for name, loss_of in passes:
                optimizer = optimizers[name]
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step) * group["pace"]
                loss, said = loss_of(batch)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                norm = nn.utils.clip_grad_norm_(trained[name], recipe.clip)
                if torch.isfinite(norm):
                    optimizer.step()
                for key, value in {"loss": loss, "grad_norm": norm, **said}.items():
                    key = key if name == "model" else f"{name}_{key}"
                    sums[key] = sums.get(key, 0.0) + value.detach()
            with torch.no_grad():
                decay = min(recipe.ema, (step + 1) / (step + 10))
                for name, value in task.model.state_dict().items():
                    if value.is_floating_point():
                        average[name].lerp_(value, 1 - decay)
                    else:
                        average[name].copy_(value)
            bar.update()
            last = step + 1 == recipe.steps
            if fabric.is_global_zero and ((step + 1) % LOG_EVERY == 0 or last):
                means = {key: round(float(value) / summed, 5) for key, value in sums.items()}
                sums, summed = {}, 0
                elapsed_s = round(time.monotonic() - began, 1)
                line = {"step": step + 1, "learning_rate": learning_rate(recipe, step), "elapsed_s": elapsed_s, **means}
                append(out / "log.jsonl", json.dumps(line))
                bar.set_postfix(means)
            late = stop_after_s is not None and time.monotonic() - began > stop_after_s
            if (step + 1) % keep_every == 0 or last or late:
                keep(step + 1)
            if late and not last:
                bar.close()
                return None
        bar.close()
    task.model.load_state_dict(average)
    task.model.cpu().eval()
    task.finish()
    if fabric.is_global_zero:
        pictures.sample_grid(task.samples(shown), out / "samples.png")
        export(task, out / "weights.safetensors")
    return out / "weights.safetensors"


def append(path: Path, line: str) -> None:
    """Raises OSError with the hint when the disk is full."""
    try:
        with open(path, "a") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise OSError(
            f"{path}: could not be written ({error}); the last checkpoint is intact; free disk space and run again"
        ) from None


def make_fabric(device: str, devices: int, bf16: bool) -> Fabric:
    """One process for each of `devices`, gradients averaged between them.

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
    """Gains, scales and quantiles of the autoencoder have far to go and little to upset: ten times the pace. Bases start as a
    transform, whose small numbers a full pace would blur: a fortieth."""
    paces: dict[float, list] = {1: [], 10: [], 0.025: []}
    for name, parameter in module.named_parameters():
        pace = 10 if name.endswith(("quantiles", "gain", "log_scale")) else 0.025 if name.endswith("basis") else 1
        paces[pace].append(parameter)
    return [{"params": parameters, "pace": pace} for pace, parameters in paces.items() if parameters]


def read_checkpoint(path: Path, identity: str, device) -> dict:
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        same = saved["identity"] == identity
    except Exception as error:  # torch raises half a dozen types for a damaged file
        kind = type(error).__name__  # what torch says is of no help, and long
        raise ValueError(f"{path}: not a checkpoint of hfdbench ({kind}); choose another --out or delete it") from None
    if not same:
        raise ValueError(f"{path}: made by another recipe or other data; choose another --out or delete it")
    return saved


def export(task: AutoencoderTask | DecoderTask, path: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write the weights with everything needed to name them: config, recipe, data hash, steps, in the metadata."""
    metadata = {
        "config": json.dumps(asdict(task.model.config)),
        "recipe": json.dumps(asdict(task.recipe)),
        "objective": task.recipe.objective,
        "data_sha256": task.data.sha256,
        "photographs": str(len(task.data.names)),
        "steps": str(task.recipe.steps),
        "torch": torch.__version__,
    }
    if isinstance(task, DecoderTask):
        metadata |= {"base": task.base.name, "points": json.dumps(task.base.points)}
    tensors = pack(state or task.model.state_dict(), task.recipe.stored)
    with replacing(path, SafetensorError) as temporary:
        save_file(tensors, temporary, metadata)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then the recipe's schedule from the peak to a fiftieth of it."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    if recipe.schedule == "wsd":
        left = (recipe.steps - step) / max(1, decay_steps(recipe))
        return recipe.learning_rate * (0.02 + 0.98 * min(1, left))
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def decay_steps(recipe: Recipe) -> int:
    return round(recipe.decay * recipe.steps)


def identify(recipe: Recipe, data: photos.Photos) -> str:
    """What a checkpoint must have been made by. A training at a constant rate may be made longer, or decay earlier."""
    options = asdict(recipe)
    if recipe.schedule == "wsd":
        del options["steps"], options["decay"]
    return json.dumps({"recipe": options, "data": data.sha256}, sort_keys=True)


def train_recipe(
    recipe_name: str,
    data: Path,
    out: Path,
    *,
    autoencoder: Path | None = None,
    base: str | None = None,
    init: Path | None = None,
    perceptual: Path | None = None,
    pair_cache: Path | None = None,
    data_root: Path | None = None,
    cards: Iterable[Path] = (),
    device: str = "cpu",
    devices: int = 1,
    threads: int | None = None,
    stop_after_s: float | None = None,
    compiled: bool = False,
    dry_run: bool = False,
) -> Path | None:
    """`train` from a recipe's path, or its bare name for a bundled one; logs to out/train.log.

    dry_run: one step on one crop in a folder that is thrown away; says what the recipe builds. Returns None.
    Raises ValueError for a recipe, folder or weights that cannot be used.
    """
    from hfdbench.cards.find import bundled_root
    from hfdbench.hfd.weights import read_autoencoder

    path = Path(recipe_name)
    if not path.exists() and path.name == recipe_name:
        path = bundled_root() / "codecs" / "recipes" / f"{recipe_name}.toml"
    recipe = Recipe.read(path)
    if base:
        recipe = replace(recipe, base=base)
    stage_1 = recipe.objective == "autoencoder"
    if stage_1 and base:
        raise ValueError(f"{path}: stage 1 has no base: leave out --base")
    if not stage_1 and (autoencoder is None) == (not recipe.base):
        raise ValueError(
            f"{path}: stage 2 needs one base: the stage-1 weights with --autoencoder, or a codec with --base"
            + (f" (the recipe names {recipe.base})" if recipe.base else "")
        )
    if recipe.objective in objectives.ADVERSARIAL and perceptual is None:
        perceptual = default_perceptual(path, recipe, data_root)
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such folder")
    if threads:
        torch.set_num_threads(threads)
    with contextlib.ExitStack() as stack:
        if dry_run:
            recipe = replace(recipe, steps=1, batch=devices)
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pair_cache = out
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(logged_to(out / "train.log"))
        fabric = make_fabric(device, devices, recipe.bf16)
        fabric.launch()
        found = photos.read_photos(data, recipe.crop + (0 if stage_1 else 2 * recipe.border))
        if recipe.held_out:
            found = photos.without_held_out(found, recipe.held_out)
        log.info(
            "%s: %d photographs, sha256 %s, %d left out", path, len(found.names), found.sha256, len(found.left_out)
        )
        if init:
            log.info("starting from %s, sha256 %s", init.name, hashlib.sha256(init.read_bytes()).hexdigest())
        write_text(out / "data.txt", "".join(f"{name}\n" for name in found.names))
        if stage_1:
            task = AutoencoderTask(recipe, found, init)
        else:
            if autoencoder:
                stands_on: pairs.Base = pairs.AutoencoderBase(read_autoencoder(autoencoder).module.to(fabric.device))
            else:
                stands_on = open_base(recipe.base, tuple(recipe.points), cards)
            if dry_run:
                few = len(stands_on.points)
                found = replace(found, names=found.names[:few], images=found.images[:few])
            first = len(found.images) * fabric.global_rank // fabric.world_size
            task = DecoderTask(recipe, found, stands_on, pair_cache or out, init, perceptual, first)
        weights = train(task, out, fabric, stop_after_s=stop_after_s, compiled=compiled)
        if not dry_run:
            return weights
        for name, module in task.modules.items():
            print(f"{path.stem}: {name} of {sum(p.numel() for p in module.parameters()):,} parameters: one step done")
        return None


def open_base(codec: str, points: tuple[str, ...], cards: Iterable[Path] = ()) -> pairs.CodecBase:
    """Raises ValueError for a codec or point that there is not, or that cannot run here."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.errors import UsageError

    try:
        (card,) = choose(CodecCard, [codec], cards)
    except UsageError as error:
        raise ValueError(f"base {codec}: {error}") from None
    return pairs.CodecBase(card, points)


def default_perceptual(path: Path, recipe: Recipe, data_root: Path | None) -> Path:
    """Inception's weights where FID finds them. Raises ValueError with the hint when there are none, or for another network."""
    from hfdbench.datasets.dataset import find_data_root
    from hfdbench.errors import Unavailable
    from hfdbench.metrics.networks.inception import find_inception

    if recipe.perceptual != "inception":
        raise ValueError(
            f"{path}: the perceptual loss needs the weights of {recipe.perceptual}; give --perceptual FILE"
        )
    try:
        return find_inception(None, find_data_root(data_root))
    except Unavailable as error:
        raise ValueError(f"{path}: the perceptual loss has no network: {error}; or give --perceptual FILE") from None


@contextlib.contextmanager
def logged_to(path: Path):
    """What this package logs goes to the file, too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.parent.addHandler(handler)
    log.parent.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.parent.removeHandler(handler)
        handler.close()
