"""One Fréchet distance of 2048 dimensions against torch-fidelity's and pytorch-fid's, in one process in turn.

    pip install pytorch-fid         # else it is left out
    python tests/bench/bench_frechet.py [--threads 1] [--features 3000] [--rounds 5]

Conventions: all start from finished means and covariances; torchmetrics computes what torch-fidelity does (general eigenvalues).
Exit code 1 when the fastest peer is faster than LIMIT allows, or values differ by more than TOLERANCE, relatively.
"""

import argparse
import os
import sys

import turns

LIMIT = 4.0
TOLERANCE = 1e-4
DIMENSIONS = 2048


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--features", type=int, default=3000)
    options.add_argument("--rounds", type=int, default=5)
    options = options.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

    import numpy as np
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from hfdbench.metrics.distribution.frechet import Moments, frechet_distance

    # Correlated features whose spectrum falls by a power law, as that of Inception features does, and a copy of them
    # with noise along the same axes: what a decoder makes of its originals.
    random = np.random.default_rng(0)
    shape = (options.features, DIMENSIONS)
    axes = np.linalg.qr(random.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    scale = np.arange(1, DIMENSIONS + 1)[:, None] ** -0.75 * axes
    originals = random.normal(size=shape) @ scale
    decoded = originals + 0.3 * random.normal(size=shape) @ scale + 0.005
    moments = [Moments.of(features) for features in (originals, decoded)]
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (originals, decoded)]

    named = {
        "hfdbench": lambda: frechet_distance(*moments),
        "torch-fidelity": lambda: fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
    }
    try:
        from pytorch_fid.fid_score import calculate_frechet_distance
    except ImportError:
        print("pytorch-fid is not installed: left out", file=sys.stderr)
    else:
        known = [part for one in statistics for part in (one["mu"], one["sigma"])]
        named["pytorch-fid"] = lambda: float(calculate_frechet_distance(*known))
    runs = turns.calls(named, options.rounds, warm=False)
    ours = runs.pop("hfdbench")
    print(f"{options.features} features, threads on all sides: {options.threads}; {turns.machine()}")
    print(f"hfdbench: {ours}, distance {ours.last:.8g}")
    good, ratios = True, []
    for name, theirs in runs.items():
        ratio, text = turns.ratio(theirs, ours, wall=options.threads > 1)
        gap = abs(ours.last / theirs.last - 1)
        print(f"{name}: {theirs}; over hfdbench {text}, limit {LIMIT}; relative difference {gap:.1e}")
        good &= gap <= TOLERANCE
        ratios.append(ratio)
    return int(min(ratios) < LIMIT or not good)


if __name__ == "__main__":
    sys.exit(main())
