"""How much each patch pulls on a Fréchet distance: which patches make one codec's FID better than another's.

Conventions
    features   float32 or float64, N x D, patch by patch; row i of both sets is the same patch, original and decoded.
    pull       float64, N: the distance with patch i less the distance without it, to first order. The pull of patch i on
               FID(A) - FID(B) is pull_A[i] - pull_B[i]; above 0 the patch speaks for B.

With r, a the features of originals and decodings, centred, and M = r a' / (N - 1) = U S V' (N x N), the distance is
|mean r - mean a|^2 + tr cov r + tr cov a - 2 tr S, because S are the singular values of cov(r)^1/2 cov(a)^1/2. Let e of the
mass move to patch i: the influence function (Hampel 1974, doi:10.2307/2285666) is the derivative at e = 0,

    I_i = 2 (mean r - mean a)'(r_i - a_i) + |r_i|^2 + |a_i|^2 - (N - 1) ((U S U')_ii + (V S V')_ii)
          - tr cov r - tr cov a + 2 tr S,

and to leave a patch out is e = -1 / (N - 1): pull_i = I_i / (N - 1). The I_i sum to 0 (but for N / (N - 1) in the
covariances). First order is exact for small shares of the mass; the tests hold it against leaving patches out.
"""

import numpy as np


def pull(reference: np.ndarray, test: np.ndarray) -> np.ndarray:
    """First-order pull of every patch on the Fréchet distance of two paired sets. Raises ValueError when they are no pair."""
    if reference.shape != test.shape or len(reference) < 3:
        raise ValueError(f"pairs of at least 3 patches are needed, got {reference.shape} and {test.shape}")
    reference, test = np.asarray(reference, np.float64), np.asarray(test, np.float64)
    count, dimensions = reference.shape
    step = reference.mean(0) - test.mean(0)
    r, a = reference - reference.mean(0), test - test.mean(0)
    if count <= dimensions:
        left, values, right = np.linalg.svd(r @ a.T)
    else:  # the same singular triples from D x D
        (basis_r, core_r), (basis_a, core_a) = np.linalg.qr(r), np.linalg.qr(a)
        left, values, right = np.linalg.svd(core_r @ core_a.T)
        left, right = basis_r @ left, right @ basis_a.T
    share = (left**2) @ values + values @ (right**2)  # (N - 1) ((U S U')_ii + (V S V')_ii)
    own = (r**2).sum(1) + (a**2).sum(1)
    drawn = own - share
    return (2 * (r - a) @ step + drawn - drawn.sum() / (count - 1)) / (count - 1)
