"""Precision and recall of features: how much of what was decoded looks real, how much of what is real was decoded.

Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2. A set's manifold is the union of the balls around its features,
each reaching its third nearest other one. Precision: share of the decoded in the manifold of the originals; recall: share
of the originals in the manifold of the decoded.

Conventions: features are N x D; both values lie in 0 to 1, higher is better. They depend on N: compare only equal N. Ours
are sets of pairs, so values are higher than those of generators. Distances in the type of the features, as torch-fidelity
has them, whose values these are.
"""

import numpy as np

NEIGHBOURS = 3
ROWS = 1000  # of the matrix of distances held at a time


def precision_recall(reference: np.ndarray, test: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall. Raises ValueError when a set has too few features for the neighbours."""
    reference, test = np.asarray(reference), np.asarray(test)
    if reference.ndim != 2 or test.ndim != 2 or reference.shape[1] != test.shape[1]:
        raise ValueError(f"features must be N x D with one D, not {reference.shape} and {test.shape}")
    if min(len(reference), len(test)) <= neighbours:
        raise ValueError(
            f"precision and recall need {neighbours + 1} feature vectors a side, got {len(reference)} and {len(test)}"
        )
    centre = reference.mean(axis=0)  # near 0, squares cancel without loss
    reference, test = reference - centre, test - centre
    return _share_within(test, reference, neighbours), _share_within(reference, test, neighbours)


def of_features(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray) -> tuple[float, float]:
    """Precision and recall, as the registry asks for them."""
    return precision_recall(reference, test)


def _share_within(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    # The point itself is the nearest to it: hence one neighbour more. Squares order as distances do.
    reach = np.concatenate(
        [np.partition(squares, neighbours, axis=1)[:, neighbours] for squares in _squares(manifold, manifold, True)]
    )
    return float(np.concatenate([(squares <= reach).any(axis=1) for squares in _squares(points, manifold)]).mean())


def _squares(a: np.ndarray, b: np.ndarray, same: bool = False):
    """Squared distances of some rows of a to all of b at a time."""
    lengths_a, lengths_b = (np.einsum("nd,nd->n", side, side) for side in (a, b))
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        squares = (lengths_a[rows, None] + lengths_b - 2 * (a[rows] @ b.T)).clip(min=0)
        if same:
            np.fill_diagonal(squares[:, rows], 0)  # exactly, whatever the rounding
        yield squares
