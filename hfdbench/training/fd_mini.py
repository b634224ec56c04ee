# pyright: basic
"""Teach fd_mini's network what Inception sees in photographs and in their coded versions.

    python -m hfdbench.metrics.distill prepare --data PHOTOS --inception WEIGHTS --out FOLDER
    python -m hfdbench.metrics.distill maps --inception WEIGHTS --out FOLDER
    python -m hfdbench.metrics.distill train --out FOLDER --weights FILE

Conventions: a group is a random 256 x 256 crop and coded, blurred, noisy versions of it, the original first; patches are
uint8, groups x P x 256 x 256 x 3, Inception's features of them float16, groups x P x 2048; maps are the teacher's at three
depths, as principal components, float16, groups x P x positions x D. All are stored in shards of some groups. What a
group holds depends on seed and number alone, so `prepare` and `maps` resume at the shard they were stopped in. Every
fifth group is held out: the convolutions are never trained on it.
"""

import hashlib
import json
import math
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hfdbench.files.atomic import replacing

SIDE = 256  # pixels
TEACHER_PIXEL = SIDE / 299  # of its input, in pixels of the patch
HELD_OUT = 5  # every fifth group
CRAFTED = ("jpeg", "webp", "avif", "jp2", "jxl", "blur", "noise", "grain", "levels")  # other kinds are cards
LOG_STEPS = 50
RECIPE = Path(__file__).parent / "weights" / "fd-mini-v2.toml"


@dataclass(frozen=True)
class Level:
    """One depth of the teacher that a stage of the student imitates, at every `step`-th of the teacher's positions."""

    module: str
    stage: int | None  # None: all stages together
    positions: int  # a side; they lie symmetrically in the patch
    pitch: float  # between them, pixels of the patch
    components: int
    step: int = 1


LEVELS = (
    Level("Mixed_5d", 1, 18, 16 * TEACHER_PIXEL, 64, 2),
    Level("Mixed_6e", 2, 17, 16 * TEACHER_PIXEL, 128),
    Level("Mixed_7c", None, 8, 32 * TEACHER_PIXEL, 256),
)


class Versions:
    """Random versions of a patch, of kinds drawn by weight. The learned codecs come through their cards."""

    def __init__(self, kinds: dict[str, float]):
        self._kinds = list(kinds)
        self._weights = np.array(list(kinds.values()), float) / sum(kinds.values())
        self._learned = {name: _points(name) for name in kinds if name not in CRAFTED}

    def draw(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from hfdbench.codecs import pillow

        kind = self._kinds[rng.choice(len(self._kinds), p=self._weights)]
        quality = int(1 + 94 * rng.random() ** 1.5)  # low qualities more often: there lie the large distances
        chroma = str(rng.choice(["4:2:0", "4:4:4"], p=[0.8, 0.2]))
        match kind:
            case "jpeg":
                codec = pillow.JPEG(max(quality, 3), chroma)
            case "webp":
                codec = pillow.WebP(quality, method=4)
            case "avif":
                codec = pillow.AVIF(quality, chroma, speed=8)
            case "jp2":
                codec = pillow.JPEG2000(0.06 * 50 ** rng.random())  # bpp, log-uniform
            case "jxl":
                codec = pillow.JPEGXL(max(quality, 5), effort=5)
            case "blur":
                return _uint8(_blurred(patch, rng.uniform(0.4, 3)))
            case "noise":
                return _uint8(patch + rng.normal(0, rng.uniform(1, 20), patch.shape))
            case "grain":
                return _uint8(_blurred(patch, rng.uniform(0.4, 2)) + rng.normal(0, rng.uniform(1, 12), patch.shape))
            case "levels":
                step = rng.uniform(4, 40)
                return _uint8((patch / step).round() * step)
            case learned:
                points = self._learned[learned]
                codec = points[rng.integers(len(points))]
        return codec.decode(codec.encode(patch), seed=int(rng.integers(1 << 31)))


def _points(card_id: str) -> list:
    """Every point of a bundled codec, ready to code."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.codecs.protocol import load_codec

    (card,) = choose(CodecCard, [card_id], ())
    return [load_codec(card, point.id, "cpu") for point in card.points]


def _blurred(patch: np.ndarray, sigma: float) -> np.ndarray:
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(patch).filter(ImageFilter.GaussianBlur(sigma)), float)


def _uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def prepare(photos: Path, inception: Path, out: Path, recipe: dict) -> None:
    """Write the shards that are not there yet."""
    from hfdbench.metrics.networks.inception import Inception
    from hfdbench.training.photos import crops, read_photos

    images = read_photos(photos, SIDE, out)
    data, teacher = recipe["data"], Inception(inception)
    out.mkdir(parents=True, exist_ok=True)
    end = 0
    for part in data["parts"]:
        start, end = end, end + part["groups"]
        versions: Versions | None = None
        for first in range(start, end, data["shard_groups"]):
            name = f"{first:05d}.npy"
            if (out / f"features-{name}").exists():
                continue
            versions = versions or Versions(part["kinds"])
            groups = []
            for number in range(first, min(first + data["shard_groups"], end)):
                rng = np.random.default_rng((recipe["seed"], number))
                original = crops(images.images, 1, SIDE, rng)[0][0]
                drawn = [versions.draw(original, rng) for _ in range(data["group_patches"] - 1)]
                groups.append(np.stack([original, *drawn]))
            patches = np.stack(groups)
            np.save(out / f"patches-{name}", patches)
            features = teacher.features(patches.reshape(-1, SIDE, SIDE, 3)).reshape(*patches.shape[:2], -1)
            with (
                replacing(out / f"features-{name}") as temporary,
                open(temporary, "wb") as file,
            ):  # last: then the shard is there
                np.save(file, features.astype(np.float16))
            print(f"{first + len(groups)} groups", flush=True)


def maps(inception: Path, out: Path, recipe: dict) -> None:
    """Write the maps that are not there yet, of the groups that are to have them and are not held out."""
    from hfdbench.metrics.networks.inception import Inception

    data, teacher = _Shards(out), Inception(inception)
    wanted, start = set(), 0
    for part in recipe["data"]["parts"]:
        wanted |= {f"{first:05d}" for first in range(start, start + part["map_groups"], recipe["data"]["shard_groups"])}
        start += part["groups"]
    seen: list[list[np.ndarray]] = [[] for _ in LEVELS]
    for level, blocks in zip(LEVELS, seen, strict=True):
        getattr(teacher._net, level.module).register_forward_hook(partial(_keep, level, blocks))
    bases = _stored_bases(out)
    for name, patches in data.shards():
        if name not in wanted or (out / f"maps-{name}.npz").exists():
            continue
        teacher.features(patches.reshape(-1, SIDE, SIDE, 3))
        whole = [np.concatenate(blocks)[: patches.shape[0] * patches.shape[1]] for blocks in seen]  # the rest fills
        for blocks in seen:
            blocks.clear()
        if not bases:  # of the first shard's positions; at the last level of all features, as the projection's
            samples = [*(x.reshape(-1, x.shape[2]) for x in whole[:-1]), data.features.reshape(-1, whole[-1].shape[2])]
            bases = [Basis.fit(x, level.components) for x, level in zip(samples, LEVELS, strict=True)]
            parts = {f"{key}{k}": value for k, basis in enumerate(bases) for key, value in vars(basis).items()}
            np.savez(out / "bases.npz", **parts)
        arrays = (basis.of(x).astype(np.float16) for basis, x in zip(bases, whole, strict=True))
        with replacing(out / f"maps-{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, *(x.reshape(*patches.shape[:2], *x.shape[1:]) for x in arrays))
        print(f"maps of shard {name}", flush=True)


def _keep(level: Level, blocks: list[np.ndarray], _module, _inputs, output) -> None:
    """Of a module's output, B x C x H x W, the level's positions, B x positions x C."""
    blocks.append(output[:, :, :: level.step, :: level.step].flatten(2).mT.numpy())


def _stored_bases(out: Path) -> "list[Basis]":
    """Those that an earlier `maps` wrote: all shards are to have the same."""
    if not (out / "bases.npz").exists():
        return []
    with np.load(out / "bases.npz") as file:
        return [Basis(file[f"mean{k}"], file[f"vectors{k}"]) for k in range(len(LEVELS))]


def train(out: Path, recipe: dict, threads: int, weights: Path) -> None:
    """Train the convolutions, then fit the projection, on the shards of a folder; log and checkpoint beside them."""
    import torch

    from hfdbench.metrics.networks.fd_mini import NetworkConfig, build

    torch.set_num_threads(threads)
    data = _Shards(out)
    settings = recipe["training"]
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe["network"].items()}
    config = NetworkConfig(**options)
    torch.manual_seed(recipe["seed"])
    network = build(config, training=True)
    if settings["steps"]:
        _descend(network, config, data, recipe, out)
    basis = Basis.fit(data.features.reshape(-1, data.features.shape[-1]), config.components)
    explained = _fit(network, data, basis, settings)
    export(network, config, recipe, data, explained, weights)


def _descend(network, config, data: "_Shards", recipe: dict, out: Path) -> None:
    """Train the convolutions to imitate the teacher's maps, position by position; resumes at the checkpoint of a folder."""
    import torch

    settings = recipe["training"]
    state, step = out / "checkpoint.pt", 0
    widths = [sum(config.widths) if level.stage is None else config.widths[level.stage] for level in LEVELS]
    heads = torch.nn.ModuleList(
        torch.nn.Linear(width, level.components) for width, level in zip(widths, LEVELS, strict=True)
    )
    both = torch.nn.ModuleDict({"network": network, "heads": heads})
    optimiser = torch.optim.AdamW(both.parameters(), settings["learning_rate"], weight_decay=1e-2)
    if state.exists():
        stored = torch.load(state, weights_only=True)
        both.load_state_dict(stored["both"])
        optimiser.load_state_dict(stored["optimiser"])
        step = stored["step"]
    network.train()
    groups, maps = data.maps()
    scales = [float(np.sqrt(np.square(x[:40].astype(np.float32)).mean())) for x in maps]
    started, losses = time.monotonic(), []
    while step < settings["steps"]:
        rng = np.random.default_rng((recipe["seed"], 1, step))
        pixels, targets = data.draw(groups, maps, rng, settings["batch_groups"])
        targets = [torch.from_numpy(x.astype(np.float32) / scale) for x, scale in zip(targets, scales, strict=True)]
        targets.append(targets[-1].mean(2))  # what the projection is to tell in the end
        with torch.autocast("cpu", torch.bfloat16):
            guesses = _guesses(network.stages(torch.from_numpy(pixels).flatten(0, 1)), heads)
        guesses = [x.float().unflatten(0, pixels.shape[:2]) for x in guesses]
        shares = [_shares(guess - target, target) for guess, target in zip(guesses, targets, strict=True)]
        optimiser.zero_grad()
        torch.stack([value + settings["difference"] * change for value, change in shares]).sum().backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        done = (step + 0.5) / settings["steps"]  # warm-up over a tenth, then a cosine to zero
        optimiser.param_groups[0]["lr"] = settings["learning_rate"] * min(10 * done, (1 + math.cos(math.pi * done)) / 2)
        optimiser.step()
        step += 1
        losses.append([share.item() for pair in shares for share in pair])
        if step % LOG_STEPS == 0 or step == settings["steps"]:
            mean, losses = np.mean(losses, axis=0), []
            line = ",".join([str(step), *(f"{share:.4f}" for share in mean), f"{time.monotonic() - started:.0f}"])
            print(line, flush=True)
            with open(out / "log.csv", "a") as log:
                log.write(line + "\n")
            tensors = {"both": both.state_dict(), "optimiser": optimiser.state_dict()}
            with replacing(state, RuntimeError) as part:
                torch.save(tensors | {"step": step}, part)


def _guesses(stages, heads) -> list:
    """Of every level at its positions, B x positions x D, and of the last one's mean over them, B x D."""
    import torch

    guesses = []
    for level, head in zip(LEVELS, heads, strict=True):
        chosen = stages if level.stage is None else [stages[level.stage]]
        guesses.append(head(torch.cat([_sampled(x, level) for x in chosen], dim=-1)))
    return [*guesses, heads[-1](torch.cat([x.float().mean((2, 3)) for x in stages], dim=-1))]


def _sampled(x, level: Level):
    """A stage's map, B x C x S x S, where the teacher's positions lie: B x positions x C."""
    import torch

    side = x.shape[2]
    cell = SIDE / side
    centres = SIDE / 2 + (np.arange(level.positions) - (level.positions - 1) / 2) * level.pitch
    distance = np.abs(centres[:, None] - (np.arange(side) + 0.5) * cell) / max(level.pitch, cell)
    weights = np.maximum(1 - distance, 0)  # a tent: interpolates, and averages what is finer
    weights = torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32)).to(x.dtype)
    x = x.permute(0, 2, 3, 1)  # channels last: contiguous
    rows = (weights @ x.flatten(2)).unflatten(2, x.shape[2:])  # B x positions x S x C
    return (weights @ rows).flatten(1, 2)


def _shares(error, target):
    """Share of the target that is missed, of values and of changes by a version: groups x P x ... x D."""
    pairs = ((side, side[:, 1:] - side[:, :1]) for side in (error, target))
    (value, change), (all_value, all_change) = pairs
    return value.square().sum() / all_value.square().sum(), change.square().sum() / all_change.square().sum()


def _fit(network, data: "_Shards", basis: "Basis", settings: dict) -> dict[str, float]:
    """Set the projection to the ridge regression of the teacher on what the convolutions give, for all groups.

    Returns the share of the teacher's variance that a fit without the held-out groups explains in them.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    groups = data.groups
    with torch.inference_mode():
        network.train()
        for first in range(0, groups, max(groups // 32, 4)):  # a sample of all parts
            network.stages(torch.from_numpy(data.patches(first, min(first + 4, groups))).flatten(0, 1))
        network.eval()
        pooled = [
            network.pool(torch.from_numpy(data.patches(first, min(first + 4, groups))).flatten(0, 1)).double()
            for first in range(0, groups, 4)
        ]
    x = torch.cat(pooled).unflatten(0, (groups, -1))
    target = torch.from_numpy(basis.of(data.features)).double()
    centre, scale = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    x = (x - centre) / scale

    def rows(part) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, and changes by a version: both are to be met."""
        weight = settings["difference"] ** 0.5
        pairs = ((side[part], side[part, 1:] - side[part, :1]) for side in (x, target))
        one, other = (torch.cat([value.flatten(0, 1), weight * change.flatten(0, 1)]) for value, change in pairs)
        return one, other

    def solve(part) -> torch.Tensor:
        a, b = rows(part)
        return torch.linalg.solve(a.T @ a + settings["ridge"] * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)

    held_out = torch.from_numpy(data.held_out)
    true = target[held_out]
    value, change = _shares(x[held_out] @ solve(~held_out) - true, true)
    explained = {"value": 1 - value.item(), "change": 1 - change.item()}
    print("explained, of held-out groups: " + json.dumps(explained), flush=True)
    weight = solve(slice(None)) / scale[:, None]
    with torch.no_grad():
        network.project.weight.copy_(weight.T)
        network.project.bias.copy_(-(centre @ weight))
    return explained


def export(network, config, recipe: dict, data: "_Shards", explained: dict, weights: Path) -> None:
    """Write the weights in float16, batch norms folded into the convolutions, with the recipe in the metadata."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network.eval()
    for block in [*network.enter, *network.refine]:
        block[0] = fuse_conv_bn_eval(block[0].double(), block[1].double()).float()
        block[1] = torch.nn.Identity()
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    described = {
        "config": asdict(config),
        "recipe": recipe,
        "groups": data.groups,
        "explained": explained,
        "data_sha256": data.sha256(),
        "torch": torch.__version__,
    }
    save_file(tensors, weights, {name: json.dumps(value) for name, value in described.items()})
    print(f"{weights}: {weights.stat().st_size:,} bytes")


class _Shards:
    """What `prepare` stored, as one sequence of groups."""

    def __init__(self, folder: Path):
        names = [path.name.removeprefix("features-") for path in sorted(folder.glob("features-*.npy"))]
        if not names:
            raise SystemExit(f"{folder}: no shards; run prepare first")
        self.features = np.concatenate([np.load(folder / f"features-{name}") for name in names])  # G x P x 2048
        self._patches = [np.load(folder / f"patches-{name}", mmap_mode="r") for name in names]
        self._folder, self._names = folder, [name.removesuffix(".npy") for name in names]
        self._places = [(shard, row) for shard, patches in enumerate(self._patches) for row in range(len(patches))]
        self.groups = len(self._places)
        self.held_out = np.arange(self.groups) % HELD_OUT == HELD_OUT - 1

    def patches(self, first: int, last: int) -> np.ndarray:
        """Of consecutive groups, G x P x 256 x 256 x 3."""
        return np.stack([self._patches[shard][row] for shard, row in self._places[first:last]])

    def shards(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every shard's name, and its patches but the groups that are held out."""
        first = 0
        for name, patches in zip(self._names, self._patches, strict=True):
            yield name, patches[~self.held_out[first : first + len(patches)]]
            first += len(patches)

    def maps(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The groups that have maps, and these at every level, G x P x positions x D."""
        groups, shards = [], []
        for shard, name in enumerate(self._names):
            if (path := self._folder / f"maps-{name}.npz").exists():
                groups += [k for k, place in enumerate(self._places) if place[0] == shard and not self.held_out[k]]
                shards.append(np.load(path))
        return np.array(groups), [np.concatenate([shard[f"arr_{k}"] for shard in shards]) for k in range(len(LEVELS))]

    def draw(
        self, groups: np.ndarray, maps: list[np.ndarray], rng: np.random.Generator, count: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Patches and maps of some groups; every other one mirrored, which Inception hardly notices."""
        picked = rng.choice(len(groups), count, replace=False)
        patches = np.stack([self._patches[shard][row] for shard, row in (self._places[k] for k in groups[picked])])
        mirrored = rng.random(count) < 0.5
        patches[mirrored] = patches[mirrored, :, :, ::-1]
        drawn = []
        for level, side in zip(LEVELS, maps, strict=True):
            grid = side[picked].reshape(*patches.shape[:2], level.positions, level.positions, -1)
            grid[mirrored] = grid[mirrored, :, :, ::-1]
            drawn.append(grid.reshape(*patches.shape[:2], level.positions**2, -1))
        return patches, drawn

    def sha256(self) -> str:
        digest = hashlib.sha256(self.features.tobytes())
        for patches in self._patches:
            digest.update(patches.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Basis:
    """Leading principal components: mean (D) and vectors (D x components)."""

    mean: np.ndarray
    vectors: np.ndarray

    @classmethod
    def fit(cls, samples: np.ndarray, components: int) -> "Basis":
        samples = samples.astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(samples.T))
        share = values[-components:].sum() / values.sum()
        print(f"{components} components hold {share:.1%} of the variance", flush=True)
        leading = np.ascontiguousarray(vectors[:, ::-1][:, :components], np.float32)
        return cls(samples.mean(axis=0).astype(np.float32), leading)

    def of(self, samples: np.ndarray) -> np.ndarray:
        return (samples.astype(np.float32) - self.mean) @ self.vectors


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare", help="crops, their versions and Inception's features of them")
    verb.add_argument("--data", type=Path, required=True, help="folder of photographs")
    verb.add_argument("--inception", type=Path, required=True, help="the teacher's weights")
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("maps", help="Inception's maps, which the convolutions are trained on")
    verb.add_argument("--inception", type=Path, required=True, help="the teacher's weights")
    verb.add_argument("--out", type=Path, required=True, help="folder that prepare wrote")
    verb = verbs.add_parser("train", help="the network, from what prepare and maps stored")
    verb.add_argument("--out", type=Path, required=True, help="folder that prepare wrote")
    verb.add_argument("--weights", type=Path, required=True, help="file to write")
    verb.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    recipe = tomllib.loads(options.recipe.read_text())
    match options.verb:
        case "prepare":
            prepare(options.data, options.inception, options.out, recipe)
        case "maps":
            maps(options.inception, options.out, recipe)
        case "train":
            train(options.out, recipe, options.threads, options.weights)


if __name__ == "__main__":
    main()
