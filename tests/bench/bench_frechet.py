"""Time of one Fréchet distance of 2048 dimensions, against torch-fidelity in the same process, turn about.

    python tests/bench/bench_frechet.py [--threads 1] [--features 3000] [--rounds 5]

Both start from finished means and covariances. Exit code 1 when the ratio is below the limit or the values differ by
more than 1e-4, relatively.
"""

import argparse
import os
import sys
import time
from statistics import median

LIMIT = 3.0
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

    # One thread: its own seconds, which busy neighbours do not stretch. More: the clock on the wall.
    clock = time.process_time if options.threads == 1 else time.perf_counter

    def timed(function) -> tuple[float, float]:
        start = clock()
        value = function()
        return clock() - start, value

    rounds = []
    for _ in range(options.rounds):
        ours_s, ours = timed(lambda: frechet_distance(*moments))
        theirs_s, theirs = timed(
            lambda: fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        )
        rounds.append((ours_s, theirs_s))
    ratio = median(theirs_s / ours_s for ours_s, theirs_s in rounds)
    gap = abs(ours / theirs - 1)
    ours_s, theirs_s = (median(times) for times in zip(*rounds, strict=True))
    print(
        f"distance: {ours_s:.2f} s, torch-fidelity {theirs_s:.2f} s, ratio {ratio:.2f} (limit {LIMIT}); "
        f"relative difference {gap:.1e} (limit {TOLERANCE:.0e}); {options.features} features of {DIMENSIONS} dimensions, "
        f"threads on both sides: {options.threads} ({clock.__name__})"
    )
    return int(ratio < LIMIT or gap > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
