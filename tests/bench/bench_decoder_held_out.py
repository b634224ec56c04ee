"""Ways of running a decoder on a codec, compared on photographs that its training held out: KID, FID, PSNR, spectrum.

The yardstick that settings are chosen by; kodak and clic2025-val are kept for the report. Each held-out photograph gives its
central part of at most SIDE pixels, coded by the base at --point, decoded in every way that is asked for, and cut into patches of
256 pixels at every STRIDE pixels (they overlap: 25 of a whole part). KID and FID are those of all patches against the originals';
in the KID, pairs of patches of one photograph are left out, among the decoded, among the originals and across: patches overlap,
and a picture's own original would favour what is faithful (docs/protocol/statistics.md). Standard errors come from a jackknife
over photographs. Power: of what is added to the base's reconstruction, over that of the original residual, by octave of
frequency, lowest first.

    python tests/bench/bench_decoder_held_out.py weights.safetensors --data photos/ --point q12 \\
        --way '{"solver": "multistep", "steps": 16}' --way '{"solver": "none", "grain": 0.4}'

Decoders of elic-mse's streams: `--base elic-mse`, and a point of that card.

Conventions: a way is a JSON object of hfdbench.hfd.decoder.Sampling's options; {"solver": "none"}, the base alone, comes first.
Inception's weights are found as those of FID are (HFDBENCH_DATA). Finished ways are kept in --cache and not computed again.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.files import places
from hfdbench.hfd.decoder import Sampling
from hfdbench.hfd.weights import configured, read_decoder
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.networks.inception import Inception, find_inception
from hfdbench.training import pairs, photos

SIDE, STRIDE, PATCH = 384, 32, 256
EDGES = np.array([0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.75])  # cycles per pixel


def central(image: np.ndarray, side: int) -> np.ndarray:
    """The central part, its sides multiples of 16 and at most `side`."""
    height, width = (min(side, length // 16 * 16) for length in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width].copy()


def patches(image: np.ndarray, stride: int) -> list[np.ndarray]:
    tops, lefts = (range(0, length - PATCH + 1, stride) for length in image.shape[:2])
    return [image[top : top + PATCH, left : left + PATCH] for top in tops for left in lefts]


def octaves(difference: np.ndarray) -> np.ndarray:
    """Power of H x W x 3 by octave, summed over colours, of its central 256 x 256 pixels."""
    top, left = ((length - PATCH) // 2 for length in difference.shape[:2])
    window = np.hanning(PATCH)[:, None, None] * np.hanning(PATCH)[None, :, None]
    part = difference[top : top + PATCH, left : left + PATCH].astype(float) * window
    power = (np.abs(np.fft.fft2(part, axes=(0, 1))) ** 2).sum(2)
    line = np.fft.fftfreq(PATCH)
    band = np.digitize(np.hypot(line[:, None], line), EDGES) - 1
    return np.bincount(band.ravel(), power.ravel(), len(EDGES) - 1)[: len(EDGES) - 1]


def kid_by_photograph(a: np.ndarray, b: np.ndarray, owner: np.ndarray) -> tuple[float, np.ndarray]:
    """KID of features a against b (row k of both belongs to photograph owner[k]), and its values without each photograph."""

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    member = np.eye(owner.max() + 1)[owner]
    sums = sum(sign * (member.T @ kernel(x, y) @ member) for sign, x, y in ((1, a, a), (1, b, b), (-2, a, b)))
    pairs = np.outer(member.sum(0), member.sum(0))
    for matrix in (sums, pairs):
        np.fill_diagonal(matrix, 0)
    every = np.arange(len(sums))

    def mean(kept):
        return sums[np.ix_(kept, kept)].sum() / pairs[np.ix_(kept, kept)].sum()

    return mean(every), np.array([mean(every[every != k]) for k in every])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder that was trained on")
    parser.add_argument("--point", required=True, help="of the base's card")
    parser.add_argument("--base", help="its card, where the weights do not say")
    parser.add_argument("--way", action="append", default=[], help="JSON options of Sampling")
    parser.add_argument("--every", type=int, default=10, help="held_out of the recipe")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly spread")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--stride", type=int, default=STRIDE)
    parser.add_argument("--cache", type=Path, default=Path("held-out"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = read_decoder(asked.weights)
    model.module.to(memory_format=torch.channels_last)
    (card,) = choose(CodecCard, [asked.base or model.metadata["base"]])
    base, rate = pairs.CodecBase(card, (asked.point,)), json.loads(model.metadata["points"]).index(asked.point)
    found = photos.read_photos(asked.data, PATCH, asked.cache)
    chosen = [k for k, name in enumerate(found.names) if photos.held_out(name, asked.every)]
    if asked.limit:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, asked.limit).round().astype(int)]
    originals = [central(found.images[k], asked.side) for k in chosen]
    below = [base.reconstruct(image, 0)[0] for image in originals]
    owner = np.concatenate([[k] * len(patches(image, asked.stride)) for k, image in enumerate(originals)])
    inception = Inception(find_inception(None, places.data_root(None)))
    asked.cache.mkdir(parents=True, exist_ok=True)

    def kept(label: str, make):
        """The images of a way, their features and the seconds it took, from the cache where they are there."""
        where = [found.sha256, asked.every, asked.limit, asked.side, asked.stride, inception.id, base.digest().hex()]
        file = asked.cache / f"{hashlib.sha256(json.dumps([label, *where]).encode()).hexdigest()[:16]}.npz"
        if not file.exists():
            began = time.process_time()
            images = [make(k) for k in range(len(originals))]
            seconds = time.process_time() - began
            features = inception.features(patch for image in images for patch in patches(image, asked.stride))
            np.savez(file, features=features, seconds=seconds, **{f"image{k}": image for k, image in enumerate(images)})
        stored = np.load(file)
        return [stored[f"image{k}"] for k in range(len(originals))], stored["features"].astype(float), stored["seconds"]

    _, truth, _ = kept("originals", lambda k: originals[k])
    lost = sum(octaves(x.astype(float) - y) for x, y in zip(originals, below, strict=True))
    megapixels = sum(image.shape[0] * image.shape[1] for image in originals) / 1e6
    print(f"{card.id} {asked.point}: {len(chosen)} photographs, {megapixels:.1f} MP, {len(owner)} patches")
    print("KID x 1000 (its difference from the base's) | FID | PSNR | power by octave | s/MP | way", flush=True)
    reference = None
    for way in ({"solver": "none"}, *map(json.loads, asked.way)):
        how = configured(Sampling, {"tile": 0} | way)

        def make(k, how=how):
            return model.module.sample(below[k], rate, k, how)

        label = json.dumps([way, "" if way == {"solver": "none"} else model.id.hex()])
        images, features, seconds = kept(label, make)
        value, without = kid_by_photograph(features, truth, owner)
        reference = without if reference is None else reference
        n = len(without)
        error, paired = (np.sqrt((n - 1) * np.var(x)) for x in (without, without - reference))
        psnr = np.mean(
            [-10 * np.log10(np.mean((x / 255.0 - y / 255.0) ** 2)) for x, y in zip(images, originals, strict=True)]
        )
        added = sum(octaves(x.astype(float) - y) for x, y in zip(images, below, strict=True)) / lost
        fid = frechet_distance(Moments.of(features), Moments.of(truth))
        kid = f"{1000 * value:6.2f} ± {1000 * error:.2f}"
        change = f"{1000 * (value - np.mean(reference)):+.2f} ± {1000 * paired:.2f}"
        power = " ".join(f"{share:.2f}" for share in added)
        cost = f"{seconds / megapixels:5.1f} | {how.evaluations} {json.dumps(way)}"
        print(f"{kid} ({change}) | {fid:6.1f} | {psnr:.2f} | {power} | {cost}", flush=True)


if __name__ == "__main__":
    main()
