"""FID of two folders of pictures: hfdbench against torch-fidelity, pytorch-fid and torchmetrics, whole processes in turn.

    pip install pytorch-fid torchmetrics        # into an environment that hfdbench is installed in, too
    python tests/bench/bench_fid_folder.py [--images 64] [--rounds 3] [--threads 1] [--inception FILE]

Conventions: all read the same PNG files of 256 x 256 pixels and the same weights (random ones without --inception), each at its own
default batch (torchmetrics has none: 64). A picture is one patch. `features`: building the network, reading, computing; `distance`:
from finished statistics to the value; the rest of a process is its imports. Values: torch-fidelity and torchmetrics (antialias off)
resize as TensorFlow 1 does and must agree to TOLERANCE; pytorch-fid resizes by another rule, its value is another one. Exit code 1
where values differ or the fastest peer is faster than LIMIT allows.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import turns

LIMIT = 1.5  # of features and building the network, CPU seconds; why not more: docs/benchmarks.md
TOLERANCE = (
    1e-3  # relative; general eigenvalues lose about 5e-5 where pictures are fewer than dimensions, float32 the rest
)
PEERS = ("torch-fidelity", "pytorch-fid", "torchmetrics")


def clocked(module, name: str, spent: list) -> None:
    """Have a function of a module note its CPU seconds."""
    import time

    function = getattr(module, name)

    def timed(*given, **named):
        start = time.process_time()
        result = function(*given, **named)
        spent.append(time.process_time() - start)
        return result

    setattr(module, name, timed)


def one(tool: str, a: str, b: str, weights: str) -> tuple[float, float]:
    """FID and the CPU seconds of its distance."""
    spent = []
    if tool == "hfdbench":
        import numpy as np
        from PIL import Image

        from hfdbench.metrics.distribution import frechet
        from hfdbench.metrics.networks.inception import Inception

        clocked(frechet, "frechet_distance", spent)
        network = Inception(Path(weights))
        moments = []
        for folder in (a, b):
            pictures = (np.asarray(Image.open(path)) for path in sorted(Path(folder).iterdir()))
            moments.append(frechet.Moments.of(network.features(pictures)))
        return frechet.frechet_distance(*moments), spent[0]
    if tool == "torch-fidelity":
        from torch_fidelity import calculate_metrics, metric_fid

        clocked(metric_fid, "fid_statistics_to_metric", spent)
        found = calculate_metrics(
            input1=a,
            input2=b,
            cuda=False,
            fid=True,
            cache=False,
            verbose=False,
            feature_extractor_weights_path=weights,
            save_cpu_ram=True,  # its loaders in this process: other processes' time is not in this clock
        )
        return found["frechet_inception_distance"], spent[0]
    if tool == "pytorch-fid":  # finds its weights in TORCH_HOME
        from pytorch_fid import fid_score

        clocked(fid_score, "calculate_frechet_distance", spent)
        return float(fid_score.calculate_fid_given_paths([a, b], 50, "cpu", 2048, num_workers=0)), spent[0]
    import numpy as np
    import torch
    from PIL import Image
    from torchmetrics.image import fid

    clocked(fid, "_compute_fid", spent)
    metric = fid.FrechetInceptionDistance(2048, antialias=False, feature_extractor_weights_path=weights)
    for folder, real in ((a, True), (b, False)):
        pictures = [torch.from_numpy(np.array(Image.open(path))) for path in sorted(Path(folder).iterdir())]
        for first in range(0, len(pictures), 64):
            metric.update(torch.stack(pictures[first : first + 64]).permute(0, 3, 1, 2), real=real)
    return float(metric.compute()), spent[0]


def child(tool: str, a: str, b: str, weights: str, threads: int) -> None:
    import time

    import torch

    torch.set_num_threads(threads)
    if tool == "pytorch-fid":
        import pytorch_fid.fid_score  # noqa: F401
    elif tool == "torchmetrics":
        import torchmetrics.image.fid  # noqa: F401
    else:
        import torch_fidelity  # noqa: F401
    start = time.process_time()
    value, distance_s = one(tool, a, b, weights)
    print(json.dumps({"fid": value, "distance_s": distance_s, "features_s": time.process_time() - start - distance_s}))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--inception", type=Path, help="weights of Inception; random ones without")
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.child:
        child(*options.child, options.threads)
        return 0

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_metrics import patches, random_weights, save_all

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = options.inception or random_weights(root / "random.pth")
        cached = root / "torch/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth"  # where pytorch-fid looks
        cached.parent.mkdir(parents=True)
        cached.symlink_to(weights.resolve())
        for folder in ("a", "b"):
            (root / folder).mkdir()
        images = patches(options.images)
        save_all(images, root / "a")
        save_all([image // 16 * 16 + 8 for image in images], root / "b")
        words = [sys.executable, "-W", "ignore", __file__, "--threads", str(options.threads), "--child"]
        named = {tool: [*words, tool, str(root / "a"), str(root / "b"), str(weights)] for tool in ("hfdbench", *PEERS)}
        runs: dict[str, turns.Runs] = {tool: turns.Runs() for tool in named}
        parts: dict[str, list[dict]] = {tool: [] for tool in named}
        for _ in range(options.rounds):
            for tool, run in turns.commands(named, 1, options.threads, TORCH_HOME=str(root / "torch")).items():
                runs[tool].add(run)
                parts[tool].append(json.loads(run.last.splitlines()[-1]))

    print(f"two folders of {options.images} pictures, threads on all sides: {options.threads}; {turns.machine()}")
    best, good, ours = {}, True, parts["hfdbench"]
    for tool, rows in parts.items():
        features, distance = ([row[part] for row in rows] for part in ("features_s", "distance_s"))
        rate = 2 * options.images / sorted(features)[len(features) // 2]
        gap = abs(rows[0]["fid"] / ours[0]["fid"] - 1)
        print(
            f"{tool}: {rate:.2f} images/s, distance {sorted(distance)[len(distance) // 2]:.2f} s, FID {rows[0]['fid']:.6f} "
            f"(relative difference {gap:.1e}); whole process {runs[tool]}"
        )
        good &= tool == "pytorch-fid" or gap <= TOLERANCE
        if tool != "hfdbench":
            for part in ("features_s", "distance_s"):
                ratios = turns.Runs([row[part] for row in rows]), turns.Runs([row[part] for row in ours])
                best[tool, part] = turns.ratio(*ratios)
            best[tool, "whole process"] = turns.ratio(runs[tool], runs["hfdbench"])
    for (tool, part), (_, text) in best.items():
        print(f"{tool} over hfdbench, {part}: {text}")
    slowest = min(best[tool, "features_s"][0] for tool in PEERS)
    print(
        f"features: {slowest:.2f} times as fast as the fastest of them, limit {LIMIT}; values {'agree' if good else 'DIFFER'}"
    )
    return int(slowest < LIMIT or not good)


if __name__ == "__main__":
    sys.exit(main())
