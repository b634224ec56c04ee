"""Kernel Inception distance: the squared maximum mean discrepancy (MMD) of two sets of features, without bias.

Kernel k(x, y) = (x'y / D + 1)^3; Binkowski et al. 2018, arXiv:1801.01401, section 4.

Conventions: features are N x D; lower is better, and values slightly below 0 are right for equal distributions. From
1,000 features a side on: mean and standard deviation over 100 subsets of 1,000, drawn without replacement by the rule
of torch-fidelity, whose value this is at the same seed (its default is 2020). Below that: one estimate over all
features, and no deviation (None).
"""

import numpy as np

SUBSETS = 100
SUBSET_SIZE = 1000


def kid(
    a: np.ndarray, b: np.ndarray, seed: int = 0, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float | None]:
    """Mean and standard deviation of the MMD^2 of two sets of features. Raises ValueError when it is not defined."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be N x D with one D, not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"KID needs at least 2 feature vectors a side, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold NaN or infinity")
    if min(len(a), len(b)) < subset_size:
        return mmd2(a, b), None
    # The legacy generator, because torch-fidelity draws with it.
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        of_a = random.choice(len(a), subset_size, replace=False)
        of_b = random.choice(len(b), subset_size, replace=False)
        values.append(mmd2(a[of_a], b[of_b]))
    return float(np.mean(values)), float(np.std(values))


def mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD^2 of two samples: Gretton et al. 2012, "A kernel two-sample test", eq. 3."""
    within = sum((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)) for x in (a, b) for k in (_kernel(x, x),))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    base = a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1
    return base * base * base  # numpy's ** 3 is several times slower
