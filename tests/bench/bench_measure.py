"""Two folders measured by `hfdbench measure` and by the packages that people use in turn: values and seconds.

    python tests/bench/bench_measure.py [--images 24] [--inception FILE]

The others: torch-fidelity's features, FID and KID on the 256 x 256 patch of each image, pytorch-msssim, scikit-image's PSNR.
Without --inception its weights are random ones: the time is the same. hfdbench computes more (printed), the ratio counts it all.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HTTPS_PROXY", "http://127.0.0.1:9")

import numpy as np
import torch
from helpers_metrics import patches as textures
from helpers_metrics import random_weights, theirs
from PIL import Image
from pytorch_msssim import ms_ssim
from skimage.metrics import peak_signal_noise_ratio
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

import hfdbench


def others(inception: Path, originals: Path, decoded: Path) -> dict[str, float]:
    """What the packages say, each reading the folders anew."""
    sides = [[np.array(Image.open(path)) for path in sorted(folder.iterdir())] for folder in (originals, decoded)]
    values = {"psnr_db": float(np.mean([peak_signal_noise_ratio(a, b) for a, b in zip(*sides, strict=True)]))}
    pairs = zip(*sides, strict=True)
    tensors = [[torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in pair] for pair in pairs]
    values["ms_ssim"] = float(np.mean([float(ms_ssim(*pair, data_range=255)) for pair in tensors]))
    features = [theirs(inception, [image[:256, :256] for image in side]) for side in sides]
    statistics = map(fid_features_to_statistics, features)
    values["fid"] = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    kid = kid_features_to_metric(*features, kid_subsets=1, kid_subset_size=len(features[0]), verbose=False)
    values["kid"] = kid["kernel_inception_distance_mean"]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--inception", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inception = given.inception or random_weights(root / "random.pth")
        originals, decoded = root / "originals", root / "decoded"
        for place in (originals, decoded):
            place.mkdir()
        for number, image in enumerate(textures(given.images, 300, 260)):
            Image.fromarray(image).save(originals / f"{number:04}.png")
            Image.fromarray(image // 16 * 16 + 8).save(decoded / f"{number:04}.png")
        seconds, values = {}, {}
        start = time.perf_counter()
        measured = hfdbench.measure(originals, decoded, inception=inception)
        seconds["hfdbench"] = time.perf_counter() - start
        values["hfdbench"] = {name: value.value for name, value in measured.values.items()}
        start = time.perf_counter()
        values["others"] = others(inception, originals, decoded)
        seconds["others"] = time.perf_counter() - start
    for name, theirs_ in values["others"].items():
        ours = values["hfdbench"][name]
        print(f"{name:8} hfdbench {ours:.8g}  others {theirs_:.8g}  difference {abs(ours - theirs_):.1e}")
    extra = sorted(values["hfdbench"].keys() - values["others"].keys())
    print(
        f"{given.images} images: hfdbench {seconds['hfdbench']:.1f} s, with {', '.join(extra)} and intervals; ", end=""
    )
    print(f"others {seconds['others']:.1f} s; ratio {seconds['hfdbench'] / seconds['others']:.2f}")


if __name__ == "__main__":
    main()
