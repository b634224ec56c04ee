"""Teach fd_mini's network what Inception sees in photographs and in their coded versions.

    python -m hfdbench.metrics.distill prepare --data PHOTOS --inception WEIGHTS --out FOLDER
    python -m hfdbench.metrics.distill train --out FOLDER

Conventions: a group is a random 256 x 256 crop and coded, blurred, noisy versions of it, the original first; patches are
uint8, groups x P x 256 x 256 x 3, Inception's features of them float16, groups x P x 2048; the first groups also have the
maps that features are the mean of, groups x P x 64 positions x 2048. They are stored in shards of some groups. What a
group holds depends on seed and number alone, so `prepare` resumes at the shard it was stopped in.
"""

import hashlib
import json
import math
import time
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np

SIDE = 256  # pixels
POSITIONS = 8  # a side of the teacher's last map
LOG_STEPS = 50
RECIPE = Path(__file__).parent / "weights" / "fd-mini-v1.toml"


class Versions:
    """Random versions of a patch, of kinds drawn by weight. The learned codecs come through their cards."""

    def __init__(self, kinds: dict[str, float]):
        self._kinds = list(kinds)
        self._weights = np.array(list(kinds.values()), float) / sum(kinds.values())
        self._learned = {name: _points(name) for name in ("elic-mse", "hfd") if name in kinds}

    def draw(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from ..adapters import pillow

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
    from ..cards import CodecCard, choose
    from ..codec import load_codec

    (card,) = choose(CodecCard, [card_id], ())
    return [load_codec(card, point.id, "cpu") for point in card.points]


def _blurred(patch: np.ndarray, sigma: float) -> np.ndarray:
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(patch).filter(ImageFilter.GaussianBlur(sigma)), float)


def _uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def prepare(photos: Path, inception: Path, out: Path, recipe: dict) -> None:
    """Write the shards that are not there yet."""
    from ..hfd.photos import crops, read_photos
    from .features import Inception

    images = read_photos(photos, SIDE)
    data, versions, teacher = recipe["data"], Versions(recipe["data"]["kinds"]), Inception(inception)
    out.mkdir(parents=True, exist_ok=True)
    for first in range(0, data["groups"], data["shard_groups"]):
        name = f"{first:05d}.npy"
        if (out / f"features-{name}").exists():
            continue
        groups = []
        for number in range(first, min(first + data["shard_groups"], data["groups"])):
            rng = np.random.default_rng((recipe["seed"], number))
            original = crops(list(images.images), 1, SIDE, rng)[0][0]
            drawn = [versions.draw(original, rng) for _ in range(data["group_patches"] - 1)]
            groups.append(np.stack([original, *drawn]))
        patches = np.stack(groups)
        maps = teacher.maps(patches.reshape(-1, SIDE, SIDE, 3)).reshape(*patches.shape[:2], POSITIONS**2, -1)
        np.save(out / f"patches-{name}", patches)
        if first < data["map_groups"]:
            np.save(out / f"maps-{name}", maps)
        np.save(out / f"part-{name}", maps.astype(np.float32).mean(axis=2).astype(np.float16))
        (out / f"part-{name}").rename(out / f"features-{name}")  # last: a shard is there when its features are
        print(f"{first + len(groups)} of {data['groups']} groups", flush=True)


def train(out: Path, recipe: dict, threads: int, weights: Path) -> None:
    """Fit, train, fit again on the shards of a folder; log and checkpoint beside them; resumes what it finds there."""
    import torch

    from .mini import NetworkConfig, build

    torch.set_num_threads(threads)
    data = _Shards(out)
    settings = recipe["training"]
    config = NetworkConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in recipe["network"].items()})
    basis = _Basis(data, config.components)
    torch.manual_seed(recipe["seed"])
    network = build(config, training=True)
    if settings["steps"]:
        _descend(network, data, basis, recipe, out)
    explained = _fit(network, data, basis, settings, data.groups)
    export(network, config, recipe, data, explained, weights)


def _descend(network, data: "_Shards", basis: "_Basis", recipe: dict, out: Path) -> None:
    """Train all of the network from a first fit of its projection."""
    import torch

    settings = recipe["training"]
    state, step = out / "checkpoint.pt", 0
    if not state.exists():
        _fit(network, data, basis, settings, settings["first_fit_groups"])
    optimiser = torch.optim.AdamW(network.parameters(), settings["learning_rate"], weight_decay=1e-3)
    if state.exists():
        stored = torch.load(state, weights_only=True)
        network.load_state_dict(stored["network"])
        optimiser.load_state_dict(stored["optimiser"])
        step = stored["step"]
    network.train()
    started, losses = time.monotonic(), []
    while step < settings["steps"]:
        pixels, maps = data.draw(np.random.default_rng((recipe["seed"], 1, step)), settings["batch_groups"])
        target = torch.from_numpy(basis.of(maps))  # groups x P x positions x D
        with torch.autocast("cpu", torch.bfloat16):
            pooled = network.pool(torch.from_numpy(pixels).flatten(0, 1), POSITIONS)
        error = network.project(pooled.float()).unflatten(0, target.shape[:2]) - target
        # Of positions and of patches: the former are 64 times the supervision.
        here, whole = _shares(error, target), _shares(error.mean(2), target.mean(2))
        optimiser.zero_grad()
        sum(value + settings["difference"] * change for value, change in (here, whole)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        done = (step + 0.5) / settings["steps"]  # warm-up over a tenth, then a cosine to zero
        optimiser.param_groups[0]["lr"] = settings["learning_rate"] * min(10 * done, (1 + math.cos(math.pi * done)) / 2)
        optimiser.step()
        step += 1
        losses.append([share.item() for share in (*here, *whole)])
        if step % LOG_STEPS == 0 or step == settings["steps"]:
            mean, losses = np.mean(losses, axis=0), []
            line = ",".join([str(step), *(f"{share:.4f}" for share in mean), f"{time.monotonic() - started:.0f}"])
            print(line, flush=True)
            with open(out / "log.csv", "a") as log:
                log.write(line + "\n")
            tensors = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(tensors | {"step": step}, out / "checkpoint.part")
            (out / "checkpoint.part").rename(state)


def _shares(error, target):
    """Share of the target that is missed, of values and of changes by a version: groups x P x ... x D."""
    pairs = ((side, side[:, 1:] - side[:, :1]) for side in (error, target))
    (value, change), (all_value, all_change) = pairs
    return value.square().sum() / all_value.square().sum(), change.square().sum() / all_change.square().sum()


def _fit(network, data: "_Shards", basis: "_Basis", settings: dict, groups: int) -> dict[str, float]:
    """Set the projection to the ridge regression of the teacher on what the convolutions give for the first groups.

    Returns the share of the teacher's variance that a fit on four fifths of them explains in the last fifth.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.inference_mode():
        network.train()
        for first in range(0, min(groups, 64), 4):
            network.pool(torch.from_numpy(data.patches(first, first + 4)).flatten(0, 1))
        network.eval()
        pooled = [
            network.pool(torch.from_numpy(data.patches(first, min(first + 4, groups))).flatten(0, 1))[:, 0].double()
            for first in range(0, groups, 4)
        ]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    x = torch.cat(pooled).unflatten(0, (groups, -1))
    target = torch.from_numpy(basis.of(data.features[:groups])).double()
    centre, scale = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    x = (x - centre) / scale

    def rows(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, and changes by a version: both are to be met."""
        weight = settings["difference"] ** 0.5
        pairs = ((side[part], side[part, 1:] - side[part, :1]) for side in (x, target))
        return tuple(torch.cat([value.flatten(0, 1), weight * change.flatten(0, 1)]) for value, change in pairs)

    def solve(part: slice) -> torch.Tensor:
        a, b = rows(part)
        return torch.linalg.solve(a.T @ a + settings["ridge"] * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)

    cut = groups * 4 // 5
    true = target[cut:]
    value, change = _shares(x[cut:] @ solve(slice(cut)) - true, true)
    explained = {"value": 1 - value.item(), "change": 1 - change.item()}
    print(f"fit on {groups} groups explains, of others: " + json.dumps(explained), flush=True)
    weight = solve(slice(groups)) / scale[:, None]
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
        self._maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("maps-*.npy"))]
        self._places = [(shard, row) for shard, patches in enumerate(self._patches) for row in range(len(patches))]
        self.groups = len(self._places)

    def patches(self, first: int, last: int) -> np.ndarray:
        """Of consecutive groups, G x P x 256 x 256 x 3."""
        return np.stack([self._patches[shard][row] for shard, row in self._places[first:last]])

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Patches and maps of some groups that have maps; every other one mirrored, which Inception hardly notices."""
        picked = rng.choice(sum(map(len, self._maps)), count, replace=False)
        patches, maps = (
            np.stack([side[self._places[k][0]][self._places[k][1]] for k in picked])
            for side in (self._patches, self._maps)
        )
        mirrored = rng.random(count) < 0.5
        patches[mirrored] = patches[mirrored, :, :, ::-1]
        grid = maps.reshape(*maps.shape[:2], POSITIONS, POSITIONS, -1)  # a view
        grid[mirrored] = grid[mirrored, :, :, ::-1]
        return patches, maps

    def sha256(self) -> str:
        digest = hashlib.sha256(self.features.tobytes())
        for patches in self._patches:
            digest.update(patches.tobytes())
        return digest.hexdigest()


class _Basis:
    """Leading principal components of all features."""

    def __init__(self, data: _Shards, components: int):
        flat = data.features.reshape(-1, data.features.shape[-1]).astype(np.float64)
        self._mean = flat.mean(axis=0).astype(np.float32)
        values, vectors = np.linalg.eigh(np.cov(flat.T))
        self._vectors = np.ascontiguousarray(vectors[:, ::-1][:, :components], np.float32)
        print(
            f"{components} components hold {values[-components:].sum() / values.sum():.1%} of the variance", flush=True
        )

    def of(self, features: np.ndarray) -> np.ndarray:
        return (features.astype(np.float32) - self._mean) @ self._vectors


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare", help="crops, their versions and Inception's features of them")
    verb.add_argument("--data", type=Path, required=True, help="folder of photographs")
    verb.add_argument("--inception", type=Path, required=True, help="the teacher's weights")
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("train", help="the network, from what prepare stored")
    verb.add_argument("--out", type=Path, required=True, help="folder that prepare wrote")
    verb.add_argument("--weights", type=Path, required=True, help="file to write")
    verb.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    recipe = tomllib.loads(options.recipe.read_text())
    if options.verb == "prepare":
        prepare(options.data, options.inception, options.out, recipe)
    else:
        train(options.out, recipe, options.threads, options.weights)


if __name__ == "__main__":
    main()
