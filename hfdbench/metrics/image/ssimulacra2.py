"""SSIMULACRA 2 without libjxl's program: the same sums, in float64, for where that program is not.

Conventions: images are uint8, H x W x 3, sRGB, of one shape; 100 is identical, higher is better. The metric is that of
libjxl's tools/ssimulacra2.cc (Sneyers 2022, updated in April 2023): in XYB, at up to six scales halved in linear light, an
SSIM map and two maps of edges that one image has and the other lacks, each by its mean and its 4-norm; a weighted sum of
the 108 norms is mapped to the score. Blurs are the truncated-cosine Gaussian of Charalampidis (2016, IEEE TSP 64), sigma 1.5,
zero beyond the borders, as libjxl's recursive filter computes it.

Agreement with libjxl's program on the same pixels: within 0.01 where pictures have texture, 0.1 at sharp edges in flat
surroundings and 0.5 on smooth gradients; on pictures of one colour up to 2, since libjxl computes in float32 and its recursive
blur rounds there more than the two pictures differ. The tests hold values that libjxl's program printed. (The Python package
`ssimulacra2` 0.3.0 mirrors at two borders and differs by tens on some of the same pictures, by 5 on a JPEG of quality 20.)
"""

from functools import cache

import numpy as np
from scipy.ndimage import correlate1d

VERSION = 1
SCALES, SMALLEST, SIGMA, RADIUS = 6, 8, 1.5, 5
C2 = 0.0009
ABSORBANCE = np.array(  # libjxl's opsin absorbance: linear RGB to the responses of three cones
    [
        [0.3, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ]
)
BIAS = 0.0037930732552754493
# Weights that are not 0, by place among the 108: channel (X, Y, B), scale, norm (mean, 4-norm), map (SSIM, gained, lost).
WEIGHTS = {
    **{1: 0.0007376606707406586, 4: 0.0007793481682867309, 7: 0.0004371155730107379, 9: 1.1041726426657346},
    **{10: 0.00066284834129271, 11: 0.00015231632783718752, 13: 0.0016406437456599754, 15: 1.8422455520539298},
    **{16: 11.441172603757666, 18: 0.0007989109436015163, 19: 0.000176816438078653, 21: 1.8787594979546387},
    **{22: 10.94906990605142, 24: 0.0007289346991508072, 25: 0.9677937080626833, 27: 0.00014003424285435884},
    **{28: 0.9981766977854967, 29: 0.00031949755934435053, 30: 0.0004550992113792063, 33: 0.0013648766163243398},
    **{39: 7.466890328078848, 41: 17.445833984131262, 42: 0.0006235601634041466, 45: 6.683678146179332},
    **{46: 0.00037724407979611296, 47: 1.027889937768264, 48: 225.20515300849274, 51: 19.213238186143016},
    **{52: 0.0011401524586618361, 53: 0.001237755635509985, 54: 176.39317598450694, 57: 24.43300999870476},
    **{58: 0.28520802612117757, 59: 0.0004485436923833408, 63: 34.77906344483772, 64: 44.835625328877896},
    **{73: 0.0008680556573291698, 79: 0.0005313191874358747, 81: 0.00016533814161379112, 85: 0.0004179171803251336},
    **{86: 0.0017290828234722833, 88: 0.0020827005846636437, 91: 8.826982764996862, 92: 23.19243343998926},
    **{94: 95.1080498811086, 95: 0.9863978034400682, 96: 0.9834382792465353, 97: 0.0012286405048278493},
    **{98: 171.2667255897307, 99: 0.9807858872435379, 103: 0.0005130064588990679, 105: 0.00010854057858411537},
}


def score(original: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA 2 of a pair.

    Parameters
    ----------
    original, decoded : ndarray of uint8, H x W x 3
        sRGB; both sides at least 8 pixels.

    Returns
    -------
    float
        At most 100.
    """
    if np.array_equal(original, decoded):
        return 100.0
    pair = [_linear(original), _linear(decoded)]
    norms = np.zeros((3, SCALES, 2, 3))
    count = 0
    for scale in range(SCALES):
        if min(pair[0].shape[:2]) < SMALLEST:
            break
        if scale:
            pair = [_halved(image) for image in pair]
        norms[:, scale] = _norms(*map(_xyb, pair))
        count += 1
    # Fewer scales move the weights: they are counted along the norms that there are.
    flat = norms[:, :count].ravel()
    weighted = 0.9562382616834844 * sum(weight * flat[i] for i, weight in WEIGHTS.items() if i < len(flat))
    mapped = 2.326765642916932 * weighted - 0.020884521182843837 * weighted**2 + 6.248496625763138e-05 * weighted**3
    return 100 - 10 * mapped**0.6276336467831387 if mapped > 0 else 100.0


def _linear(image: np.ndarray) -> np.ndarray:
    values = np.arange(256) / 255
    table = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return table[image]


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is repeated."""
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def _xyb(linear: np.ndarray) -> np.ndarray:
    """XYB with every channel shifted and scaled to be about 0 to 1."""
    cones = np.cbrt(np.maximum(linear @ ABSORBANCE.T + BIAS, 0)) - np.cbrt(BIAS)
    x, y = (cones[..., 0] - cones[..., 1]) / 2, (cones[..., 0] + cones[..., 1]) / 2
    return np.stack([14 * x + 0.42, y + 0.01, cones[..., 2] - y + 0.55], axis=2)


@cache
def _kernel() -> np.ndarray:
    """Taps of the blur, -4 to 4: a sum of three cosines (Charalampidis 2016, equations 33 to 56)."""
    odd = np.array([1, 3, 5])
    omega = odd * np.pi / (2 * RADIUS)
    sign = np.array([1, -1, 1])
    p = sign / np.tan(omega / 2)
    r = sign * p**2 / np.sin(omega)
    rho = np.exp(-(SIGMA**2) * omega**2 / 2) / RADIUS
    zeta = np.cross(p, r) / np.cross(p, r)[2]
    beta = np.linalg.solve(np.stack([p, r, zeta]), [1, RADIUS**2 - SIGMA**2, zeta @ rho])
    return np.cos(np.outer(np.arange(1 - RADIUS, RADIUS), omega)) @ beta


def _blurred(image: np.ndarray) -> np.ndarray:
    rows = correlate1d(image, _kernel(), axis=0, mode="constant")
    return correlate1d(rows, _kernel(), axis=1, mode="constant")


def _norms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean and 4-norm of the three maps of each channel: channel, norm, map."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    covariance = _blurred(a * b) - mean_a * mean_b
    variances = _blurred(a * a) - mean_a**2 + _blurred(b * b) - mean_b**2
    similar = (1 - (mean_a - mean_b) ** 2) * (2 * covariance + C2) / (variances + C2)
    edges = (1 + np.abs(b - mean_b)) / (1 + np.abs(a - mean_a)) - 1
    maps = np.stack([np.maximum(1 - similar, 0), np.maximum(edges, 0), np.maximum(-edges, 0)])
    return np.stack([maps.mean((1, 2)), (maps**4).mean((1, 2)) ** 0.25]).transpose(2, 0, 1)
