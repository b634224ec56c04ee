"""Overhead of the harness over the codec calls and the metric arithmetic it contains: at most 3 % on Kodak with JPEG and FID.

    python tests/bench/bench_overhead.py [--limit 24] [--rounds 3]

Conventions: whole processes in turn, less their own start-up imports; CPU seconds, those of sealed workers included. Bare: one
process reads each picture once, codes it, computes every metric that the run computes, and writes no file. The run adds workers
in a sandbox, plan, digests, intervals and tables: parts of a fixed size, so that fewer pictures show more of it. Takes
HFDBENCH_DATA. Exit code 1 over the limit, 2 without the data.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import turns

LIMIT = 1.03

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
from hfdbench.metrics.distribution.precision_recall import precision_recall
from hfdbench.metrics.networks.extractors import find_extractor
root, limit = Path(sys.argv[1]), int(sys.argv[2])
before = time.process_time()
(card,) = choose(CodecCard, ["jpeg"])
dataset = open_dataset("kodak", data_root=root)
networks = [find_extractor("mini", None, None).build("cpu"), Inception(find_inception(None, root))]
originals = [dataset.load(i) for i in range(limit)]
cut = lambda images: (pixels for image in images for *_, pixels in patches(image, "fid256"))
references = [network.features(cut(originals)) for network in networks]
codec, decoded = load_codec(card, "q25"), []
for image in originals:
    decoded.append(codec.decode(codec.encode(image), seed=0))
    distortion.psnr_db(distortion.mse(image, decoded[-1]))
    distortion.ms_ssim(image, decoded[-1])
for network, reference in zip(networks, references):
    features = network.features(cut(decoded))
    frechet_distance(Moments.of(reference), Moments.of(features))
kid(reference, features)
precision_recall(reference, features)
print(before)
"""

RUN = """
import sys, time
from pathlib import Path
import numpy as np, pandas, pyarrow.parquet, torch, pytorch_msssim, torch_fidelity.feature_extractor_inceptionv3
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.pipeline.run import run
from hfdbench.pipeline.plan import Request
root, limit, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
before = time.process_time()
cards = tuple(choose(CodecCard, ["jpeg"]))
summary = run(Request(codecs=cards, datasets=("kodak",), points=("q25",), limit=limit, out=out, data_root=root))
assert summary.exit_code == 0 and len(summary.done) == 1 and summary.points["fid"].notna().all(), summary
print(before)
"""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--limit", type=int, default=24, help="pictures")
    options.add_argument("--rounds", type=int, default=3)
    options = options.parse_args()
    root = os.environ.get("HFDBENCH_DATA")
    if not root:
        print("HFDBENCH_DATA names no folder of images and weights", file=sys.stderr)
        return 2
    sides = {"run": turns.Runs(), "bare": turns.Runs()}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            given = [root, str(options.limit), str(Path(folder) / "out")]
            scripts = {"bare": [sys.executable, "-c", BARE, *given], "run": [sys.executable, "-c", RUN, *given]}
            for name, one in turns.commands(scripts, 1).items():
                one.cpu_s[0] -= float(one.last.split()[-1])
                sides[name].add(one)
    print(f"{options.limit} pictures, JPEG at q25; {turns.machine()}")
    for name, runs in sides.items():
        print(f"{name}: {runs}")
    ratio, text = turns.ratio(sides["run"], sides["bare"])
    print(f"overhead: ratio {text}, limit {LIMIT:.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
