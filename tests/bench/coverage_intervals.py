"""How often 95 % intervals of paired differences of a Fréchet distance and its KID hold, with real features.

    python tests/bench/coverage_intervals.py [--data FOLDER] [--network mini] [--images 24 100] [--runs 400]

The photographs of a population (folders below --data) and what simple codecs make of them (blur, noise, JPEG, WebP) are a
world of known truth: sets of images are drawn from it with replacement, and the truth at a number of images is the mean over
all sets. Columns: coverage in per cent (below and above the truth), and the mean half width over that of an ideal interval,
1.96 standard deviations. "false verdicts": runs in which the two codecs that are equal but for the noise differ. To that
end each image of a draw gives its two noisy versions to either of them by chance: the difference is then 0. Features are
computed once (fd_mini 5, Inception 10 minutes of a core for coco-val) and kept in --cache.
"""

import argparse
import io
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageFilter

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.kid import SUBSET_SIZE, SUBSETS, kid
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


@dataclass(frozen=True)
class World:
    """A codec's patches of all photographs; the two of EQUAL have both their versions of each, one after the other.

    Attributes
    ----------
    x, y : ndarray of float64, shape (P, D)
        Features of originals and decodings in an orthonormal basis of both: as far apart as before, and fewer numbers.
    photo : ndarray of int, shape (P,)
        The photograph of each patch; a second version's is another one.
    kernels : tuple of ndarray, shape (P, P)
        Of KID: originals, decodings, and one with the other.
    """

    x: np.ndarray
    y: np.ndarray
    photo: np.ndarray
    kernels: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, features: dict[str, np.ndarray], name: str) -> "World":
        names = (name, EQUAL[1 - EQUAL.index(name)]) if name in EQUAL else (name,)
        original, photo = features["original"].astype(float), features["image"]
        sides = (
            np.concatenate([original] * len(names)),
            np.concatenate([features[each] for each in names]).astype(float),
        )
        kernels = tuple((a @ b.T / a.shape[1] + 1) ** 3 for a, b in (sides[:1] * 2, sides[1:] * 2, sides))
        rows = np.concatenate([original, sides[1]])
        basis = np.linalg.qr(rows.T)[0] if len(rows) < rows.shape[1] else np.eye(rows.shape[1])
        photos = [photo + number * (photo.max() + 1) for number in range(len(names))]
        return cls(sides[0] @ basis, sides[1] @ basis, np.concatenate(photos), kernels)

    @cached_property
    def sums(self) -> tuple[np.ndarray, ...]:
        """`within`, `cross`, `itself` and `patches` of `deviations.of_kernel_sums`, of photographs in place of images."""
        member = (self.photo == np.arange(self.photo.max() + 1)[:, None]).astype(float)
        originals, decodings, both = self.kernels
        within, itself = originals + decodings, np.diag(originals) + np.diag(decodings)
        return member @ within @ member.T, member @ both @ member.T, member @ itself, member.sum(axis=1)

    def estimates(self, drawn: np.ndarray) -> tuple[Estimate, Estimate]:
        """The Fréchet distance and the KID of a set of images, each a copy of one of the photographs.

        They are hfdbench's own numbers (`agree`), from the distinct patches and how often each was drawn: a set of 428
        images from 100 photographs costs no more than one of 100.
        """
        times = np.bincount(drawn, minlength=self.photo.max() + 1)[self.photo].astype(float)
        there = np.flatnonzero(times)
        times, x, y = times[there], self.x[there], self.y[there]
        count = times.sum()
        r, a = x - times @ x / count, y - times @ y / count
        step, root = times @ (x - y) / count, np.sqrt(times)[:, None]
        left, values, right = np.linalg.svd((r * root) @ (a * root).T)
        share = ((left**2) @ values + values @ right**2) / times
        apart = (r**2).sum(axis=1) + (a**2).sum(axis=1) - share
        distance = step @ step + times @ apart / (count - 1)
        pull = (2 * (r - a) @ step + apart - times @ apart / (count - 1)) / (count - 1)
        pulls = np.bincount(self.photo[there], pull, self.photo.max() + 1)[drawn]
        within, cross, itself, patches = self.sums
        grid = np.ix_(drawn, drawn)
        values = self.subset_values(drawn)
        own, pairs = deviations.of_kernel_sums(within[grid], cross[grid], itself[drawn], patches[drawn])
        return (
            Estimate(float(distance), len(drawn) * (pulls - pulls.mean())),
            Estimate(float(values.mean()), own, pairs=pairs, subsets=values - values.mean()),
        )

    def subset_values(self, drawn: np.ndarray) -> np.ndarray:
        """`subset_values`, of subsets from 1,000 patches on."""
        rows = np.concatenate([np.flatnonzero(self.photo == photo) for photo in drawn])
        size = min(len(rows), SUBSET_SIZE)
        random, subsets = np.random.RandomState(0), SUBSETS if len(rows) >= SUBSET_SIZE else 1
        chosen = [[random.choice(len(rows), size, replace=False) for _ in "xy"] for _ in range(subsets)]
        times = [
            np.stack([np.bincount(rows[subset[side]], minlength=len(self.photo)) for subset in chosen]).astype(float)
            for side in range(2)
        ]
        value = -2 * ((times[0] @ self.kernels[2]) * times[1]).sum(axis=1) / size**2
        for each, kernel in zip(times, self.kernels, strict=False):
            value += (((each @ kernel) * each).sum(axis=1) - each @ np.diag(kernel)) / (size * (size - 1))
        return value


def agree(features: dict[str, np.ndarray], name: str, drawn: np.ndarray, found: tuple[Estimate, Estimate]) -> None:
    """Stop unless hfdbench's own functions say the same of a set of images."""
    photographs = features["image"].max() + 1
    rows = [np.flatnonzero(features["image"] == photo % photographs) for photo in drawn]
    second = EQUAL[1 - EQUAL.index(name)] if name in EQUAL else name
    x = np.concatenate([features["original"][patches] for patches in rows])
    y = np.concatenate([features[second if c >= photographs else name][p] for c, p in zip(drawn, rows, strict=True)])
    image = np.repeat(np.arange(len(drawn)), [len(patches) for patches in rows])
    distance = frechet_distance(Moments.of(x), Moments.of(y))
    own, pairs, subsets = deviations.of_kid(x, y, image, len(drawn))
    pulls = deviations.of_frechet(x, y, image, len(drawn))
    wanted = Estimate(distance, pulls), Estimate(kid(x, y)[0], own, pairs=pairs, subsets=subsets)
    for ours, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.value, its.value, rtol=1e-4)
        np.testing.assert_allclose(ours.interval(), its.interval(), rtol=1e-4)


def simulate(features: dict[str, np.ndarray], images: int, runs: int) -> dict[tuple, np.ndarray]:
    """(pair, distance) -> value, low, high, p-value of each run."""
    photographs = features["image"].max() + 1
    worlds = {name: World.of(features, name) for name in sorted({name for pair in PAIRS for name in pair})}
    found: dict[tuple, list[tuple[float, ...]]] = {}
    for run in range(runs):
        random = np.random.default_rng([7, images, run])
        drawn = random.integers(photographs, size=images)
        swapped = photographs * (random.random(images) < 0.5)
        sides = {}
        for name, world in worlds.items():
            copies = drawn + swapped if name in EQUAL else drawn
            sides[name] = world.estimates(copies)
            if run == 0:
                agree(features, name, copies, sides[name])
        for a, b in PAIRS:
            for number, distance in enumerate(("fd", "kid")):
                difference = sides[a][number] - sides[b][number]
                low, high = difference.interval()
                found.setdefault(((a, b), distance), []).append((difference.value, low, high, difference.p_differs()))
    return {key: np.array(values) for key, values in found.items()}


def report(found: dict[tuple, np.ndarray]) -> None:
    """Print a line for each pair, and the worst, the mean and the best of each distance."""
    shares: dict[str, list[tuple[float, float]]] = {}
    for ((a, b), distance), values in found.items():
        truth = values[:, 0].mean()
        below, above = (values[:, 2] < truth).mean(), (values[:, 1] > truth).mean()
        width = (values[:, 2] - values[:, 1]).mean() / 2 / (1.96 * values[:, 0].std(ddof=1))
        shares.setdefault(distance, []).append((1 - below - above, width))
        equal = f"  false verdicts {(values[:, 3] < 0.05).mean():.1%}" if (a, b) == EQUAL else ""
        print(
            f"  {a + ' - ' + b:26} {distance:3}: {100 * (1 - below - above):5.1f} "
            f"({100 * below:4.1f}, {100 * above:4.1f})  width {width:.2f}{equal}"
        )
    for distance, pairs in shares.items():
        held, width = np.transpose(pairs)
        print(
            f"  {distance}: lowest {held.min():.1%}, mean {held.mean():.1%}, highest {held.max():.1%}, "
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
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hfdbench-bench")
    options = options.parse_args()
    features = world([options.data / name for name in options.population], options.cache, options.network)
    for images in options.images:
        began = time.monotonic()
        found = simulate(features, images, options.runs)
        place = " and ".join(options.population)
        print(f"{options.network}: {images} images of {place}, {options.runs} runs, {time.monotonic() - began:.0f} s")
        report(found)


if __name__ == "__main__":
    main()
