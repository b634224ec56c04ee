"""FID at infinitely many patches: what is left of FID when its sample-size bias is extrapolated away.

Chong and Forsyth 2020, arXiv:1911.07023, section 4: FID of n samples is FID_infinity + c / n, to first order; a straight line
through FIDs of several n, over 1 / n, meets 0 there.

Conventions: features are N x D, row i of both sets the same patch; subsets are of whole images, the same on both sides, as
the originals are no larger set than the decoded (the paper has fixed, plentiful originals); lower is better, and values
slightly below 0 are possible. Subsets are nested: moments are updated from one to the next, and an order of images costs
one pass over the features. SIZES sizes are equally spaced from SMALLEST, as in the paper, to N.
"""

import numpy as np

from hfdbench.metrics.distribution.blocks import chosen, spans
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance

SMALLEST = 5000  # patches, as in the paper: the line bends where n is not well above the 2048 dimensions
SIZES = 15
ORDERS = 2
ROWS = 1000  # patches in memory at a time


def fid_infinity(
    reference: np.ndarray,
    test: np.ndarray,
    image_of_patch: np.ndarray,
    seed: int = 0,
    smallest: int = SMALLEST,
    sizes: int = SIZES,
    orders: int = ORDERS,
) -> float:
    """The extrapolated distance. Raises ValueError for fewer than twice `smallest` patches."""
    if reference.shape != test.shape or len(image_of_patch) != len(test):
        raise ValueError(f"no pairs: {reference.shape}, {test.shape} and {len(image_of_patch)} patches")
    if len(test) < 2 * smallest:
        raise ValueError(f"{len(test):,} patches, {2 * smallest:,} are needed")
    random = np.random.default_rng(seed)
    wanted = np.linspace(smallest, len(test), sizes)
    counts, distances = [], []
    for _ in range(orders):
        images = random.permutation(int(image_of_patch.max()) + 1)
        place = np.argsort(images)[image_of_patch]
        order = np.argsort(place, kind="stable")
        ends = np.flatnonzero(np.diff(place[order], append=-1)) + 1  # patches up to the end of each image
        ends = np.unique(ends[np.searchsorted(ends, wanted.round())])
        moments = Moments(test.shape[1]), Moments(test.shape[1])
        for start, end in zip([0, *ends], ends, strict=False):
            for side, features in zip(moments, (reference, test), strict=True):
                for rows in spans(end - start, ROWS):
                    side.update(chosen(features, order[start:end][rows]))
            counts.append(end)
            distances.append(frechet_distance(*moments))
    _, level = np.polyfit(1 / np.array(counts), distances, 1)
    return float(level)


def of_features(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray) -> tuple[float]:
    """The extrapolated distance, as the registry asks for it."""
    return (fid_infinity(reference, test, image_of_patch),)
