"""Every metric by its column of the points table: title, direction, range, witness. This table drives all axes.

Conventions: `title` is the axis label with the unit; `direction` is where better codecs lie; a range's None is no bound;
`reference` is what the tests hold the value against; `year` is that of the paper that proposed it; `module` computes it.
A FID's axis is titled by `fingerprint.parse(fid_id).label`, because only the published weights give what others call FID.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One column of numbers."""

    column: str
    name: str
    title: str
    direction: Literal["higher", "lower"]
    range: tuple[float | None, float | None]
    reference: str
    year: int | None
    module: str


_TABLE = (
    # column, name, title, direction, range, reference, year, module
    ("bpp", "rate", "Rate (bits per pixel)", "lower", (0, None), "hand", None, "pipeline"),
    ("bpp_mean", "mean rate", "Rate, mean over images (bits per pixel)", "lower", (0, None), "hand", None, "pipeline"),
    ("psnr_db", "PSNR", "PSNR, mean over images (dB)", "higher", (0, None), "scikit-image", None, "distortion"),
    (
        "psnr_pooled_db",
        "pooled PSNR",
        "PSNR of pooled MSE (dB)",
        "higher",
        (0, None),
        "scikit-image",
        None,
        "distortion",
    ),
    ("ms_ssim", "MS-SSIM", "MS-SSIM", "higher", (0, 1), "hand, in float64", 2003, "distortion"),
    ("ms_ssim_db", "MS-SSIM in dB", "MS-SSIM, mean of dB (dB)", "higher", (0, None), "hand", 2003, "distortion"),
    ("fid", "FID", "FID", "lower", (0, None), "torch-fidelity", 2017, "frechet"),
    ("kid", "KID", "KID", "lower", (None, None), "torch-fidelity", 2018, "kid"),
    ("kid_std", "KID deviation", "KID, deviation over subsets", "lower", (0, None), "torch-fidelity", 2018, "kid"),
    ("precision", "precision", "Precision of features", "higher", (0, 1), "torch-fidelity", 2019, "precision_recall"),
    ("recall", "recall", "Recall of features", "higher", (0, 1), "torch-fidelity", 2019, "precision_recall"),
    ("fid_infinity", "FID∞", "FID∞", "lower", (None, None), "known distances", 2020, "fid_infinity"),
    ("fd_mini", "fd_mini", "fd_mini", "lower", (0, None), "rank of FID", None, "mini"),
    ("fd_dinov2", "FD-DINOv2", "FD-DINOv2", "lower", (0, None), "facebookresearch/dinov2", 2023, "vit"),
    ("fd_clip", "FD-CLIP", "FD-CLIP", "lower", (0, None), "torch-fidelity", 2021, "vit"),
    ("lpips", "LPIPS", "LPIPS (AlexNet)", "lower", (0, None), "lpips", 2018, "perceptual"),
    ("dists", "DISTS", "DISTS", "lower", (0, 1), "DISTS-pytorch", 2020, "perceptual"),
    ("ssimulacra2", "SSIMULACRA 2", "SSIMULACRA 2", "higher", (None, 100), "libjxl", 2022, "libjxl"),
    ("butteraugli", "Butteraugli", "Butteraugli, maximum", "lower", (0, None), "libjxl", 2017, "libjxl"),
    ("butteraugli_3norm", "Butteraugli 3-norm", "Butteraugli, 3-norm", "lower", (0, None), "libjxl", 2017, "libjxl"),
    ("encode_s", "encoding time", "Encoding time (s per image)", "lower", (0, None), "clock", None, "pipeline"),
    ("decode_s", "decoding time", "Decoding time (s per image)", "lower", (0, None), "clock", None, "pipeline"),
    (
        "decode_s_per_mpx",
        "decoding cost",
        "Decoding time (s per megapixel)",
        "lower",
        (0, None),
        "clock",
        None,
        "pipeline",
    ),
    (
        "network_evaluations",
        "network evaluations",
        "Network evaluations per image",
        "lower",
        (0, None),
        "hand",
        None,
        "pipeline",
    ),
)

METRICS = MappingProxyType({row[0]: Metric(*row) for row in _TABLE})
