"""How often the gate says "worse", by how much worse a codec is: its operating curve, as a Markdown table.

    python tests/bench/gate_power.py [--runs 1000] [--images 9 24 100] [--data FOLDER --cache FOLDER]

Rate and PSNR: images whose changes scatter around the change. fd_mini, where --data is given: real photographs coded by two
codecs (tests/bench/coverage_intervals.py), drawn with replacement. Judged by the code and the default card of the gate, one
change alone; a row with change 0 is the share of false alarms.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from coverage_intervals import frechet, world

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate
from hfdbench.analysis.gate import _change, tolerances
from hfdbench.cards.find import choose
from hfdbench.cards.schema import GateCard

CARD = choose(GateCard, ["default"])[0]
ALLOWED = tolerances(CARD)
REAL = (("noise-8", "noise-8b"), ("jpeg-35", "jpeg-30"), ("jpeg-30", "noise-8"))


def worse(metric: str, change: Estimate) -> bool:
    names = pd.Series([""] * change.images)
    judged = _change("", metric, (1, 1), change, ALLOWED[metric], CARD.level, names, change.deviations)
    return judged.verdict == "worse"


def rate(change: float, scatter: float, images: int, random: np.random.Generator) -> Estimate:
    before = np.exp(random.normal(11, 0.5, images))
    after = before * (1 + change) * np.exp(random.normal(0, scatter, images))
    return Estimate(after.sum() / before.sum() - 1, deviations.of_ratio(after, before))


def psnr(change: float, scatter: float, images: int, random: np.random.Generator) -> Estimate:
    loss = random.normal(change, scatter, images)
    return Estimate(float(loss.mean()), deviations.of_mean(loss))


def real(features: dict, before: str, after: str, images: int, random: np.random.Generator) -> Estimate:
    rows = [np.flatnonzero(features["image"] == k) for k in random.integers(features["image"].max() + 1, size=images)]
    patch, image = np.concatenate(rows), np.repeat(np.arange(images), [len(each) for each in rows])
    x, old, new = (features[name][patch].astype(float) for name in ("original", before, after))
    was, now = frechet(x, old), frechet(x, new)
    moves = [deviations.of_frechet(x, y, image, images) for y in (old, new)]
    return Estimate(now / was - 1, (moves[1] - now / was * moves[0]) / was)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=1000)
    options.add_argument("--images", type=int, nargs="+", default=[9, 24, 100])
    options.add_argument("--data", type=Path)
    options.add_argument("--population", nargs="+", default=["coco-val"])
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hfdbench-bench")
    options = options.parse_args()
    print("| metric | change | scatter of images | " + " | ".join(f"{n} images" for n in options.images) + " |")
    print("| --- | ---: | ---: |" + " ---: |" * len(options.images))

    def row(name: str, change: str, scatter: str, metric: str, make) -> None:
        shares = []
        for images in options.images:
            random = np.random.default_rng([5, images])
            shares.append(np.mean([worse(metric, make(images, random)) for _ in range(options.runs)]))
        print(f"| {name} | {change} | {scatter} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)

    for scatter in (0.01, 0.03):
        for change in (0, 0.02, 0.05):
            row("rate", f"{change:+.0%}", f"{scatter:.0%}", "bpp", lambda n, r, c=change, s=scatter: rate(c, s, n, r))
    for scatter in (0.1, 0.3):
        for change in (0, 0.1, 0.3):
            text = f"{-change:+.1f} dB" if change else "0 dB"
            row("PSNR", text, f"{scatter} dB", "psnr_db", lambda n, r, c=change, s=scatter: psnr(c, s, n, r))
    if options.data:
        features = world([options.data / name for name in options.population], options.cache)
        for before, after in REAL:
            whole = [
                frechet(features["original"].astype(float), features[name].astype(float)) for name in (before, after)
            ]
            change = f"{whole[1] / whole[0] - 1:+.0%}"
            row(
                f"fd_mini, {before} to {after}",
                change,
                "real",
                "fd_mini",
                lambda n, r, p=(before, after): real(features, *p, n, r),
            )


if __name__ == "__main__":
    main()
