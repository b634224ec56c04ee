"""How often 95 % intervals of paired differences of a Fréchet distance and its KID hold, with real features.

    python tests/bench/coverage_intervals.py [--data FOLDER] [--network mini] [--images 24 100] [--runs 400] [--draws 200]

The photographs of a population (folders below --data) and what simple codecs make of them (blur, noise, JPEG, WebP) are a
world of known truth: sets of images are drawn from it with replacement, and the truth at a number of images is the mean over
all sets. Columns: coverage in per cent (below and above the truth), and the mean half width over that of an ideal interval,
1.96 standard deviations. "was" is the bootstrap of each codec centred by its own factor, as before version 2 of the
intervals (--draws, slow). "false verdicts": runs in which the two codecs that are equal but for the noise differ. To that
end each image of a draw gives its two noisy versions to either of them by chance: the difference is then 0. Features are
computed once (fd_mini 5, Inception 10 minutes of a core for coco-val) and kept in --cache.
"""

import argparse
import io
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageFilter

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate
from hfdbench.metrics.distribution.kid import kid
from hfdbench.metrics.distribution.patches import patches

EQUAL = ("noise-8", "noise-8b")  # but for the noise
PAIRS = (
    ("blur-1", "noise-8"),
    ("jpeg-30", "jpeg-35"),
    ("jpeg-30", "webp-20"),
    EQUAL,
    ("blur-1", "blur-1-noise-5"),
    ("jpeg-30", "noise-8"),
    ("jpeg-35", "blur-1-noise-5"),
    ("webp-20", "blur-1"),
)


def coded(image: np.ndarray, form: str, quality: int) -> np.ndarray:
    file = io.BytesIO()
    extra = {"subsampling": 0} if form == "JPEG" else {"method": 2}
    Image.fromarray(image).save(file, form, quality=quality, **extra)
    return np.asarray(Image.open(file).convert("RGB"))


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return (image + random.normal(0, deviation, image.shape)).round().clip(0, 255).astype(np.uint8)


CODECS = {
    "original": lambda image, random: image,
    "jpeg-30": lambda image, random: coded(image, "JPEG", 30),
    "jpeg-35": lambda image, random: coded(image, "JPEG", 35),
    "webp-20": lambda image, random: coded(image, "WEBP", 20),
    "blur-1": lambda image, random: blurred(image, 1),
    "noise-8": lambda image, random: noisy(image, 8, random),
    "noise-8b": lambda image, random: noisy(image, 8, random),
    "blur-1-noise-5": lambda image, random: noisy(blurred(image, 1), 5, random),
}


def world(folders: list[Path], cache: Path, network_name: str = "mini") -> dict[str, np.ndarray]:
    """Features of every codec's patches by its name, and the image of each patch as "image"."""
    kept = cache / f"coverage-{network_name}-{'-'.join(folder.name for folder in folders)}.npz"
    if kept.exists():
        return dict(np.load(kept))
    from hfdbench.metrics.networks.extractors import find_extractor

    network = find_extractor(network_name, None, folders[0].parent).build("cpu")
    images: list[int] = []
    waiting: dict[str, list[np.ndarray]] = {name: [] for name in CODECS}
    found: dict[str, list[np.ndarray]] = {name: [] for name in CODECS}

    def flush() -> None:
        for name, cut in waiting.items():
            found[name].append(network.features(cut))
            cut.clear()

    for number, path in enumerate(sorted(path for folder in folders for path in folder.iterdir())):
        try:
            image = np.asarray(Image.open(path).convert("RGB"))[:512, :512]
        except OSError:
            continue
        images += [number] * len(patches(image, "fid256"))
        for k, (name, codec) in enumerate(CODECS.items()):
            made = np.ascontiguousarray(codec(image, np.random.default_rng([number, k])))
            waiting[name] += [patch.copy() for _, _, patch in patches(made, "fid256")]
        if len(waiting["original"]) >= 64:
            flush()
    flush()
    _, image = np.unique(images, return_inverse=True)
    features = {"image": image} | {name: np.concatenate(parts) for name, parts in found.items()}
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **features)
    return features


def within_reach(features: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Originals and decodings of each codec in an orthonormal basis of both: as far apart as before, and fewer numbers.

    The two of EQUAL have one basis.
    """
    found = {}
    for group in (EQUAL, *((name,) for name in CODECS if name not in ("original", *EQUAL))):
        sets = [features[name].astype(float) for name in ("original", *group)]
        rows = np.concatenate(sets)
        basis = np.linalg.qr(rows.T)[0] if len(rows) < rows.shape[1] else np.eye(rows.shape[1])
        found |= {name: (sets[0] @ basis, each @ basis) for name, each in zip(group, sets[1:], strict=True)}
    return found


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """By the nuclear norm of the N x N cross product, which is quick for few patches, or of D x D factors."""
    step, count = x.mean(0) - y.mean(0), len(x)
    x, y = x - x.mean(0), y - y.mean(0)
    spread = (x**2).sum() + (y**2).sum()
    if count > x.shape[1]:
        x, y = np.linalg.qr(x, mode="r"), np.linalg.qr(y, mode="r")
    return float(step @ step + (spread - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()) / (count - 1))


def simulate(features: dict[str, np.ndarray], images: int, runs: int, drawn: int) -> dict[tuple, np.ndarray]:
    """(pair, distance, method) -> value, low, high of each run."""
    rows = [np.flatnonzero(features["image"] == k) for k in range(features["image"].max() + 1)]
    names = sorted({name for pair in PAIRS for name in pair})
    reached = within_reach(features)
    found: dict[tuple, list[tuple[float, ...]]] = {}
    for run in range(runs):
        random = np.random.default_rng([7, images, run])
        chosen = [rows[k] for k in random.integers(len(rows), size=images)]
        patch, image = np.concatenate(chosen), np.repeat(np.arange(images), [len(each) for each in chosen])
        sides, was = {}, {}
        swapped = (random.random(images) < 0.5)[image, None]
        for name in names:
            x, y = (side[patch] for side in reached[name])
            other = EQUAL[1 - EQUAL.index(name)] if name in EQUAL else name
            y = np.where(swapped, reached[other][1][patch], y)
            sides[name, "fd"] = Estimate(frechet(x, y), deviations.of_frechet(x, y, image, images))
            x, y = features["original"][patch], np.where(swapped, features[other][patch], features[name][patch])
            own, pairs = deviations.of_kid(x, y, image, images)
            sides[name, "kid"] = Estimate(kid(x, y)[0], own, pairs=pairs)
        if drawn:
            draws = [
                np.concatenate([np.flatnonzero(image == k) for k in random.integers(images, size=images)])
                for _ in range(drawn)
            ]
            for name in names:
                x, y = (side[patch] for side in reached[name])
                samples = np.array([frechet(x[draw], y[draw]) for draw in draws])
                was[name] = samples * sides[name, "fd"].value / samples.mean()
        for a, b in PAIRS:
            for distance in ("fd", "kid"):
                difference = sides[a, distance] - sides[b, distance]
                low, high = difference.interval()
                found.setdefault(((a, b), distance, "now"), []).append(
                    (difference.value, low, high, difference.p_differs())
                )
                if drawn and distance == "fd":
                    low, high = np.quantile(was[a] - was[b], [0.025, 0.975])
                    found.setdefault(((a, b), distance, "was"), []).append((difference.value, low, high, np.nan))
    return {key: np.array(values) for key, values in found.items()}


def report(found: dict[tuple, np.ndarray]) -> None:
    """Print a line for each pair, and the worst, the mean and the best of each method."""
    shares: dict[tuple, list[tuple[float, float]]] = {}
    for ((a, b), distance, method), values in found.items():
        truth = values[:, 0].mean()
        below, above = (values[:, 2] < truth).mean(), (values[:, 1] > truth).mean()
        width = (values[:, 2] - values[:, 1]).mean() / 2 / (1.96 * values[:, 0].std(ddof=1))
        shares.setdefault((distance, method), []).append((1 - below - above, width))
        equal = f"  false verdicts {(values[:, 3] < 0.05).mean():.1%}" if (a, b) == EQUAL and method == "now" else ""
        print(
            f"  {a + ' - ' + b:26} {distance:3} {method}: {100 * (1 - below - above):5.1f} "
            f"({100 * below:4.1f}, {100 * above:4.1f})  width {width:.2f}{equal}"
        )
    for (distance, method), pairs in shares.items():
        held, width = np.transpose(pairs)
        print(
            f"  {distance} {method}: lowest {held.min():.1%}, mean {held.mean():.1%}, highest {held.max():.1%}, "
            f"width {width.mean():.2f}",
            flush=True,
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, default=Path(os.environ.get("HFDBENCH_DATA", "data")))
    options.add_argument("--population", nargs="+", default=["coco-val"], help="folders below --data")
    options.add_argument("--network", default="mini", choices=["mini", "inception"])
    options.add_argument("--images", type=int, nargs="+", default=[24, 48, 100])
    options.add_argument("--runs", type=int, default=400)
    options.add_argument("--draws", type=int, default=0, help="of the former bootstrap; 0: leave it out")
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hfdbench-bench")
    options = options.parse_args()
    features = world([options.data / name for name in options.population], options.cache, options.network)
    for images in options.images:
        began = time.monotonic()
        found = simulate(features, images, options.runs, options.draws)
        place = " and ".join(options.population)
        print(f"{options.network}: {images} images of {place}, {options.runs} runs, {time.monotonic() - began:.0f} s")
        report(found)


if __name__ == "__main__":
    main()
