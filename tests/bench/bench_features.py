"""Images per second of the Inception features, against torch-fidelity in the same process, turn about.

    python tests/bench/bench_features.py [--threads 1] [--patches 64] [--rounds 5] [--weights FILE]

torch-fidelity runs at its default batch of 64; --their-batch tries another. Exit code 1 when the ratio is below the
limit or the features differ by more than 1e-4.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LIMIT = 2.5
TOLERANCE = 1e-4


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--patches", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--their-batch", type=int, default=64)
    options.add_argument("--weights", type=Path, help="weights of Inception; random ones without")
    options = options.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), OMP_WAIT_POLICY="PASSIVE")

    import numpy as np
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_metrics import patches, random_weights

    from hfdbench.metrics.networks.inception import Inception

    torch.set_num_threads(options.threads)
    images = patches(options.patches)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(Path(folder) / "random.pth")
        ours = Inception(weights)
        theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def run_theirs():
        with torch.inference_mode():
            return torch.cat([theirs(part)[0] for part in pixels.split(options.their_batch)]).numpy()

    # One thread: its own seconds, which busy neighbours do not stretch. More: the clock on the wall.
    clock = time.process_time if options.threads == 1 else time.perf_counter

    def timed(function) -> float:
        start = clock()
        function()
        return clock() - start

    gap = float(np.abs(ours.features(images) - run_theirs()).max())  # also the warm-up
    rounds = [(timed(lambda: ours.features(images)), timed(run_theirs)) for _ in range(options.rounds)]
    ours_s, theirs_s = (median(times) for times in zip(*rounds, strict=True))
    ratio = median(theirs_s / ours_s for ours_s, theirs_s in rounds)
    print(
        f"features: {len(images) / ours_s:.1f} images/s, torch-fidelity {len(images) / theirs_s:.1f} images/s, "
        f"ratio {ratio:.2f} (limit {LIMIT}); largest difference {gap:.1e} (limit {TOLERANCE:.0e}); "
        f"CPU, threads on both sides: {options.threads} ({clock.__name__}), batch {ours.batch} and {options.their_batch}"
    )
    return int(ratio < LIMIT or gap > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
