"""Tiles leave no seams: the mean absolute step across their borders is within 5 % of the mean step elsewhere.

Conventions: a step is the difference of neighbouring pixels in grey levels, mean over colours; across borders: between the pixels
on both sides of every line between cells; elsewhere: everywhere else, or only on lines within 16 pixels of a border, whose content
is the same. The second ratio is judged, the first depends on what the photograph shows there; both are printed for the original,
too. Three photographs of clic2025-val of 2 to 3 megapixels, hfd at q2 with 4 steps of its own sampler.
Run it with HFDBENCH_DATA set: python tests/bench/bench_hfd_seams.py. Exit 1 over the limit, 2 without the data.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

LIMIT = 0.05
PHOTOGRAPHS = 3
STEPS = 4
NEAR = 16  # pixels


def borders(image: np.ndarray, tile: int) -> tuple[float, float]:
    """Mean step across the lines between cells over the mean step everywhere else, and over that near the lines."""
    across, elsewhere, near = [], [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(image.astype(np.int16), axis=axis)).mean(2)
        at = np.arange(tile - 1, steps.shape[axis], tile)
        away = np.abs(np.arange(steps.shape[axis])[:, None] - at).min(1)
        for values, lines in ((across, away == 0), (elsewhere, away > 0), (near, (away > 0) & (away <= NEAR))):
            values.append(np.compress(lines, steps, axis).ravel())
    across, elsewhere, near = (np.concatenate(values).mean() for values in (across, elsewhere, near))
    return across / elsewhere, across / near


def main() -> int:
    if "HFDBENCH_DATA" not in os.environ:
        print("HFDBENCH_DATA names no folder of photographs")
        return 2
    torch.set_num_threads(1)
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.codecs.hfd import HFD
    from hfdbench.datasets.dataset import open_dataset

    (card,) = choose(CodecCard, ["hfd"])
    point = card.point("q2")
    files = [card.source.parent / entry.file for entry in point.weights]
    hfd = HFD(files, point.options["rate"], point.options["sampling"] | {"steps": STEPS})
    tile = hfd._sampling.tile
    photographs = open_dataset("clic2025-val", data_root=Path(os.environ["HFDBENCH_DATA"]))
    shares = []
    for k in range(len(photographs)):
        image = photographs.load(k)
        if not 1.5e6 < image.shape[0] * image.shape[1] < 3.5e6:
            continue
        stream = hfd.encode(image)
        (anywhere, near), (own, own_near) = borders(hfd.decode(stream, seed=0), tile), borders(image, tile)
        shares.append(near)
        print(
            f"{photographs.names[k]}, {image.shape[1]}x{image.shape[0]}: step across borders over the mean step elsewhere "
            f"{anywhere:.4f} (in the original {own:.4f}), over that near them {near:.4f} (in the original {own_near:.4f})",
            flush=True,
        )
        if len(shares) == PHOTOGRAPHS:
            break
    worst = max(abs(share - 1) for share in shares)
    print(f"seams: {worst:.4f} from 1 at most, limit {LIMIT}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
