"""Overhead of the harness over the codec calls and the metric arithmetic it contains: under 10 % on Kodak with JPEG and FID.

Conventions: both sides do the same work on the same machine in the same minutes, and both are whole processes less their
own start-up imports. Bare: one process reads each picture once, codes it, computes every metric, with no file written.
Run it with HFDBENCH_DATA set: python tests/bench/bench_overhead.py. Exit 1 over the limit, 2 without the data.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 1.10
REPEATS = 3
POINTS = ("q25",)

BARE = """
import sys, time
from pathlib import Path
import numpy as np, pandas, pyarrow.parquet, torch, pytorch_msssim, torch_fidelity.feature_extractor_inceptionv3
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import load_codec
from hfdbench.metrics.distribution.patches import patches
from hfdbench.datasets.dataset import open_dataset
from hfdbench.metrics.image import pixel as distortion
from hfdbench.metrics.networks.inception import Inception, find_inception
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.kid import kid
root, points = Path(sys.argv[1]), sys.argv[2].split(",")
start = time.perf_counter()
(card,) = choose(CodecCard, ["jpeg"])
dataset = open_dataset("kodak", data_root=root)
network = Inception(find_inception(None, root))
originals = [dataset.load(i) for i in range(len(dataset))]
cut = lambda images: (pixels for image in images for *_, pixels in patches(image, "fid256"))
reference = network.features(cut(originals))
for point in points:
    codec, decoded = load_codec(card, point), []
    for image in originals:
        decoded.append(codec.decode(codec.encode(image), seed=0))
        distortion.psnr_db(distortion.mse(image, decoded[-1]))
        distortion.ms_ssim(image, decoded[-1])
    features = network.features(cut(decoded))
    frechet_distance(Moments.of(reference), Moments.of(features))
    kid(reference, features)
print(time.perf_counter() - start)
"""

RUN = """
import sys, time
from pathlib import Path
import numpy as np, pandas, pyarrow.parquet, torch, pytorch_msssim, torch_fidelity.feature_extractor_inceptionv3
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.pipeline.run import run
from hfdbench.pipeline.plan import Request
root, points, out = Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3])
start = time.perf_counter()
cards = tuple(choose(CodecCard, ["jpeg"]))
summary = run(Request(codecs=cards, datasets=("kodak",), points=tuple(points), out=out, data_root=root))
seconds = time.perf_counter() - start
assert summary.exit_code == 0 and len(summary.done) == len(points) and summary.points["fid"].notna().all(), summary
print(seconds)
"""


def seconds(script: str, *arguments: str) -> float:
    shown = subprocess.run([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return float(shown.stdout)


def main() -> int:
    root = os.environ.get("HFDBENCH_DATA")
    if not root:
        print("HFDBENCH_DATA names no folder of images and weights", file=sys.stderr)
        return 2
    pairs = []
    for _ in range(REPEATS):  # alternating, so that a busy minute hits both
        bare = seconds(BARE, root, ",".join(POINTS))
        with tempfile.TemporaryDirectory() as folder:
            whole = seconds(RUN, root, ",".join(POINTS), str(Path(folder) / "out"))
        pairs.append((whole / bare, whole, bare))
        print(f"run {whole:.1f} s, bare {bare:.1f} s, ratio {whole / bare:.3f}", flush=True)
    ratio = sorted(pairs)[len(pairs) // 2][0]
    print(f"overhead: median ratio {ratio:.3f}, limit {LIMIT:.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
