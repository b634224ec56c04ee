"""Precision and recall of features: how much of what was decoded looks real, how much of what is real was decoded.

Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2. A set's manifold is the union of the balls around its features,
each reaching its third nearest other one. Precision: share of the decoded in the manifold of the originals; recall: share
of the originals in the manifold of the decoded.

Conventions: features are N x D; both values lie in 0 to 1, higher is better. They depend on N: compare only equal N. Ours
are sets of pairs, so values are higher than those of generators. Distances in the type of the features, as torch-fidelity
has them, whose values these are. From COLUMNS features on, products are cut, which may round their last bit in another way.
"""

from collections.abc import Iterator

import numpy as np

from hfdbench.metrics.distribution.blocks import given_back, mean, spans

NEIGHBOURS = 3
ROWS, COLUMNS = 1000, 2048  # of the matrix of distances held at a time


def precision_recall(reference: np.ndarray, test: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall. Raises ValueError when a set has too few features for the neighbours."""
    reference, test = np.asarray(reference), np.asarray(test)
    if reference.ndim != 2 or test.ndim != 2 or reference.shape[1] != test.shape[1]:
        raise ValueError(f"features must be N x D with one D, not {reference.shape} and {test.shape}")
    if min(len(reference), len(test)) <= neighbours:
        raise ValueError(
            f"precision and recall need {neighbours + 1} feature vectors a side, got {len(reference)} and {len(test)}"
        )
    centre = mean(reference)  # near 0, squares cancel without loss
    return (
        _share_within(test, reference, centre, neighbours),
        _share_within(reference, test, centre, neighbours),
    )


def of_features(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray) -> tuple[float, float]:
    """Precision and recall, as the registry asks for them."""
    return precision_recall(reference, test)


def _share_within(points: np.ndarray, manifold: np.ndarray, centre: np.ndarray, neighbours: int) -> float:
    reach = np.concatenate([_reach(manifold, rows, centre, neighbours) for rows in spans(len(manifold), ROWS)])
    found = []
    for rows in spans(len(points), ROWS):
        within = np.zeros(rows.stop - rows.start, bool)
        for columns, squares in _squares(points, manifold, rows, centre):
            within |= (squares <= reach[columns]).any(axis=1)
        found.append(within)
    return float(np.concatenate(found).mean())


def _reach(manifold: np.ndarray, rows: slice, centre: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distances of some rows to their nearest others."""
    # The point itself is the nearest to it: hence one neighbour more. Squares order as distances do.
    nearest = np.empty((rows.stop - rows.start, 0), manifold.dtype)
    for _, squares in _squares(manifold, manifold, rows, centre):
        nearest = np.concatenate([nearest, squares], axis=1)
        if nearest.shape[1] > neighbours + 1:
            nearest = np.partition(nearest, neighbours, axis=1)[:, : neighbours + 1].copy()
    return np.partition(nearest, neighbours, axis=1)[:, neighbours]


def _squares(a: np.ndarray, b: np.ndarray, rows: slice, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some rows of a to rows of b, by the slice of these; a row has the distance 0 to itself."""
    some = a[rows] - centre
    given_back(a)
    lengths = np.einsum("nd,nd->n", some, some)
    for columns in spans(len(b), COLUMNS):
        # One array where both are the same: its product with itself is another routine, with another rounding.
        others = some if a is b and rows == columns else b[columns] - centre
        given_back(b)
        squares = lengths[:, None] + np.einsum("nd,nd->n", others, others) - 2 * (some @ others.T)
        squares = squares.clip(min=0, out=squares)
        if a is b:
            shared = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
            squares[shared - rows.start, shared - columns.start] = 0  # exactly, whatever the rounding
        yield columns, squares
