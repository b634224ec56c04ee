"""What a stage-1 model reaches: rate and distortion against AVIF on Kodak, flat fields, errors of block means on CLIC 2025.

Run it with HFDBENCH_DATA set: python tests/bench/measure_stage1.py WEIGHTS... Prints Markdown tables. With --folder FOLDER
--held-out N: rate and distortion alone, on those photographs of a folder that a recipe's `held_out` N keeps out of training
(512 x 512 pixels of each); settings are chosen there, never on the test sets. With --golden FOLDER AVIF's points on Kodak are read
from packed results, not made again; --limit N takes so many photographs of each set, evenly spread (of Kodak all, with --golden).

Conventions: rates are whole streams, bits over pixels, mean of the pictures; PSNR is that of RGB, mean of the pictures' decibels;
AVIF is the bundled card `avif`, its PSNR interpolated in the logarithm of the rate. Errors are in grey levels.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

PART = 1024  # pixels of a CLIC photograph, from its middle
FIELD = 256
BLOCK = 16


def fields() -> dict[str, np.ndarray]:
    """Constants and linear gradients, FIELD x FIELD x 3 uint8."""
    colours = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (118, 118, 118), "sky": (120, 170, 225)}
    colours |= {"purple": (52, 18, 60), "leaf": (40, 110, 35), "skin": (224, 172, 140)}
    made = {name: np.broadcast_to(np.uint8(rgb), (FIELD, FIELD, 3)).copy() for name, rgb in colours.items()}
    ramp = np.linspace(0, 1, FIELD)
    for name, (start, end) in {
        "dusk": ((20, 25, 60), (210, 150, 120)),
        "grey": ((60, 60, 60), (190, 190, 190)),
    }.items():
        across = np.broadcast_to(ramp[None, :, None], (FIELD, FIELD, 1))
        slanted = (ramp[None, :, None] + ramp[:, None, None]) / 2
        for direction, place in (("across", across), ("slanted", slanted)):
            shade = np.array(start) + place * (np.array(end) - np.array(start))
            made[f"{name}, {direction}"] = shade.round().astype(np.uint8)
    return made


def grid(error: np.ndarray) -> tuple[float, float]:
    """Mean squared step of an error across the lines between blocks, and across lines 2 and 3 pixels from them."""
    on, near = [], []
    for axis in (0, 1):
        steps = np.moveaxis(np.diff(error, axis=axis), axis, 0) ** 2
        line = (np.arange(len(steps)) + 1) % BLOCK
        on.append(steps[line == 0].mean())
        near.append(steps[np.isin(line, (2, 3, 13, 14))].mean())
    return float(np.mean(on)), float(np.mean(near))


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    return -10 * np.log10(max(1e-10, np.square((original.astype(float) - decoded) / 255).mean()))


def curve(codecs: dict, images: list[np.ndarray]) -> np.ndarray:
    """Rate (bits per pixel) and PSNR (dB) of every point, mean of the images: points x 2."""
    rows = []
    for codec in codecs.values():
        streams = [codec.encode(image) for image in images]
        rates = [8 * len(stream) / image[..., 0].size for stream, image in zip(streams, images, strict=True)]
        decoded = [codec.decode(stream, seed=0) for stream in streams]
        rows.append((np.mean(rates), np.mean([psnr(a, b) for a, b in zip(images, decoded, strict=True)])))
    return np.array(rows)


def against(images: list[np.ndarray], avif: np.ndarray, model: dict) -> None:
    print("| rate | bpp | PSNR dB | AVIF at that rate | difference |\n|---|---|---|---|---|")
    for name, (bpp, db) in zip(model, curve(model, images), strict=True):
        other = np.interp(np.log(bpp), np.log(avif[:, 0]), avif[:, 1], np.nan, np.nan)
        print(f"| {name} | {bpp:.4f} | {db:.2f} | {other:.2f} | {db - other:+.2f} |", flush=True)


def flat(model: dict) -> None:
    print(
        "| rate | rms error, mean | worst | step power on the lines over beside them, mean | worst |\n|---|---|---|---|---|"
    )
    for name, codec in model.items():
        rms, ratios = {}, {}
        for field, image in fields().items():
            error = codec.decode(codec.encode(image), seed=0).astype(float) - image
            on, near = grid(error)
            rms[field] = np.sqrt(np.square(error).mean())
            ratios[field] = (on + 0.01) / (near + 0.01)  # a hundredth: powers under it cannot be seen
        worst, grid_worst = max(rms, key=rms.get), max(ratios, key=ratios.get)
        print(
            f"| {name} | {np.mean(list(rms.values())):.2f} | {rms[worst]:.2f} ({worst}) | "
            f"{np.mean(list(ratios.values())):.2f} | {ratios[grid_worst]:.2f} ({grid_worst}) |",
            flush=True,
        )


def block_means(codecs: dict, images: list[np.ndarray]) -> None:
    print("| rate | bpp | MSE | of means of 32 pixels | share |\n|---|---|---|---|---|")
    for name, codec in codecs.items():
        rates, errors, blocks = [], [], []
        for image in images:
            stream = codec.encode(image)
            error = codec.decode(stream, seed=0).astype(float) - image
            rates.append(8 * len(stream) / image[..., 0].size)
            height, width = (side // 32 for side in error.shape[:2])
            means = error[: height * 32, : width * 32].reshape(height, 32, width, 32, 3).mean((1, 3))
            errors.append(np.square(error).mean())
            blocks.append(np.square(means).mean())
        share = np.mean(blocks) / np.mean(errors)
        print(
            f"| {name} | {np.mean(rates):.4f} | {np.mean(errors):.2f} | {np.mean(blocks):.3f} | {share:.1%} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    if "HFDBENCH_DATA" not in os.environ:
        print("HFDBENCH_DATA names no folder of photographs")
        return 2
    torch.set_num_threads(1)
    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import CodecCard
    from hfdbench.codecs.hfd import HFD
    from hfdbench.codecs.pillow import AVIF
    from hfdbench.datasets.dataset import open_dataset
    from hfdbench.hfd.weights import read_autoencoder
    from hfdbench.results.stored import Results
    from hfdbench.training import photos

    def photographs(name: str) -> list[np.ndarray]:
        dataset = open_dataset(name, data_root=Path(os.environ["HFDBENCH_DATA"]))
        kept = range(len(dataset))
        if options.limit and not (options.golden and name == "kodak"):
            kept = np.linspace(0, len(dataset) - 1, options.limit).round().astype(int)
        return [dataset.load(int(k)) for k in kept]

    card = find_cards(CodecCard)["avif"]
    avif = {point.id: AVIF(**point.options) for point in card.points if point.options["quality"] <= 70}
    models = {
        path.stem: {
            f"q{rate + 1}": HFD([path], rate) for rate in range(len(read_autoencoder(path).module.config.lambdas))
        }
        for path in options.weights
    }
    if options.folder:
        found = photos.read_photos(options.folder, 192, Path(tempfile.mkdtemp()))
        pairs = zip(found.names, found.images, strict=True)
        images = [image[:512, :512] for name, image in pairs if photos.held_out(name, options.held_out)]
    else:
        images = photographs("kodak")
    if options.golden and not options.folder:
        points = Results(options.golden).points().query("codec == 'avif' and dataset == 'kodak'").sort_values("bpp")
        curve_of_avif = points[["bpp_mean", "psnr_db"]].to_numpy()
    else:
        curve_of_avif = curve(avif, images)
    for name, model in models.items():
        print(f"\n## {name}: {len(images)} pictures")
        against(images, curve_of_avif, model)
    if options.folder:
        return 0
    parts = []
    for image in photographs("clic2025-val"):
        top, left = ((side - PART) // 2 for side in image.shape[:2])
        parts.append(image[max(0, top) :, max(0, left) :][:PART, :PART])
    for name, model in models.items():
        print(f"\n## {name}: constant and gradient fields")
        flat(model)
        print(f"\n## {name}: errors of block means, CLIC 2025 validation")
        block_means(model, parts)
    if options.golden:
        return 0
    print("\n## AVIF: errors of block means, CLIC 2025 validation")
    block_means({name: avif[name] for name in ("q5", "q12", "q20", "q28", "q45", "q68")}, parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
