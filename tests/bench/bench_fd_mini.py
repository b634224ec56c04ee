"""Patches per second of fd_mini's network against Inception's (ours) in the same process, turn about, on 256 x 256.

    python tests/bench/bench_fd_mini.py [--patches 32] [--rounds 5] [--weights FILE]

One thread, its own seconds, which busy neighbours do not stretch. Exit code 1 when the ratio is below the limit.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LIMIT = 8.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--patches", type=int, default=32)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--weights", type=Path, help="weights of Inception; random ones without")
    options = options.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

    import torch

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_metrics import patches, random_weights

    from hfdbench.metrics.networks.extractors import find_extractor
    from hfdbench.metrics.networks.inception import Inception

    torch.set_num_threads(1)
    images = patches(options.patches)
    with tempfile.TemporaryDirectory() as folder:
        inception = Inception(options.weights or random_weights(Path(folder) / "random.pth"))
    mini = find_extractor("mini", None, None).build("cpu")

    def timed(network) -> float:
        start = time.process_time()
        network.features(images)
        return time.process_time() - start

    for network in (mini, inception):
        timed(network)
    rounds = [(timed(mini), timed(inception)) for _ in range(options.rounds)]
    mini_s, inception_s = (median(times) for times in zip(*rounds, strict=True))
    ratio = median(inception / mini for mini, inception in rounds)
    print(
        f"fd_mini: {len(images) / mini_s:.0f} patches/s, Inception {len(images) / inception_s:.0f} patches/s, "
        f"ratio {ratio:.1f} (limit {LIMIT}); CPU, one thread on both sides"
    )
    return int(ratio < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
