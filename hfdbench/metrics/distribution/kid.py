"""Kernel Inception distance: the squared maximum mean discrepancy (MMD) of two sets of features, without bias.

Kernel k(x, y) = (x'y / D + 1)^3; Binkowski et al. 2018, arXiv:1801.01401, section 4.

Conventions: features are N x D; lower is better, and values slightly below 0 are right for equal distributions. From
1,000 features a side on: mean and standard deviation over 100 subsets of 1,000, drawn without replacement by the rule
of torch-fidelity, whose value this is at the same seed (its default is 2020). Below that: one estimate over all
features, and no deviation (None).
"""

import numpy as np

from hfdbench.metrics.distribution.blocks import chosen, finite, given_back, spans

SUBSETS = 100
SUBSET_SIZE = 1000
ROWS, CUBED = 1000, 100  # of the kernel matrix: held at a time, raised to the third power at a time


def kid(
    a: np.ndarray, b: np.ndarray, seed: int = 0, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float | None]:
    """Mean and standard deviation of the MMD^2 of two sets of features. Raises ValueError when it is not defined."""
    values = subset_values(a, b, seed, subsets, subset_size)
    return float(np.mean(values)), float(np.std(values)) if min(len(a), len(b)) >= subset_size else None


def subset_values(
    a: np.ndarray, b: np.ndarray, seed: int = 0, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> np.ndarray:
    """The MMD^2 of each pair of subsets, or the one of all features where they are few; `kid` is their mean."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be N x D with one D, not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"KID needs at least 2 feature vectors a side, got {len(a)} and {len(b)}")
    if not (finite(a) and finite(b)):
        raise ValueError("features hold NaN or infinity")
    if min(len(a), len(b)) < subset_size:
        return _mmd2(a, b, np.ones((len(a), 1)), np.ones((len(b), 1)))
    # The legacy generator, because torch-fidelity draws with it.
    random = np.random.RandomState(seed)
    draws = [[random.choice(len(x), subset_size, replace=False) for x in (a, b)] for _ in range(subsets)]
    if len(a) * len(b) <= subsets * subset_size**2:  # every kernel value once is fewer than every subset's
        return _mmd2(a, b, *(_members(len(x), [draw[side] for draw in draws]) for side, x in enumerate((a, b))))
    all_of_it = np.ones((subset_size, 1))
    return np.array([_mmd2(chosen(a, of_a), chosen(b, of_b), all_of_it, all_of_it)[0] for of_a, of_b in draws])


def of_features(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray) -> tuple[float, float | None]:
    """KID and its deviation, seed 0, as the registry asks for them."""
    return kid(reference, test, seed=0)


def _members(count: int, subsets: list[np.ndarray]) -> np.ndarray:
    """Membership, count x subsets: 1 where an index belongs to a subset."""
    members = np.zeros((count, len(subsets)))
    for column, indices in enumerate(subsets):
        members[indices, column] = 1
    return members


def _mmd2(a: np.ndarray, b: np.ndarray, in_a: np.ndarray, in_b: np.ndarray) -> np.ndarray:
    """Unbiased MMD^2 of every pair of subsets: Gretton et al. 2012, "A kernel two-sample test", eq. 3."""
    count_a, count_b = in_a.sum(axis=0), in_b.sum(axis=0)
    within_a = _kernel_sums(a, a, in_a, in_a, diagonal=False) / (count_a * (count_a - 1))
    within_b = _kernel_sums(b, b, in_b, in_b, diagonal=False) / (count_b * (count_b - 1))
    return within_a + within_b - 2 * _kernel_sums(a, b, in_a, in_b) / (count_a * count_b)


def _kernel_sums(a, b, in_a, in_b, diagonal: bool = True) -> np.ndarray:
    """Sum of kernel values over every pair of subsets, one block of rows at a time."""
    sums = np.zeros(in_a.shape[1])
    for rows in spans(len(a), ROWS):
        # Products in the type of the features, as torch-fidelity has them; sums in float64.
        kernel = (a[rows] @ b.T).astype(np.float64)
        given_back(a)
        given_back(b)
        for some in spans(len(kernel), CUBED):
            block = kernel[some]
            block /= a.shape[1]
            block += 1
            block *= block * block  # numpy's ** 3 is several times slower
        if not diagonal:
            np.fill_diagonal(kernel[:, rows], 0)
        sums += (in_a[rows] * (kernel @ in_b)).sum(axis=0)
    return sums
