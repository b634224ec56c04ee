"""fd_mini's network against Inception's (ours) on patches of 256 x 256, in one process in turn.

    python tests/bench/bench_fd_mini.py [--patches 32] [--rounds 5] [--weights FILE]

Conventions: one thread, CPU seconds. Exit code 1 when the ratio is below the limit.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import turns

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

    runs = turns.calls(
        {"mini": lambda: mini.features(images), "inception": lambda: inception.features(images)}, options.rounds
    )
    ratio, text = turns.ratio(runs["inception"], runs["mini"])
    print(f"{options.patches} patches, one thread on both sides; {turns.machine()}")
    print(f"fd_mini: {runs['mini']}; Inception: {runs['inception']}; ratio {text}, limit {LIMIT}")
    return int(ratio < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
