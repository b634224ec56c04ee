"""How far a number would move had other images been drawn: bootstrap over images, never over patches.

Conventions: a draw is `images` indices with replacement; all patches of a drawn image come with it, because they are not
independent (Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Two codecs are compared with
the same draws: what the images do to both then cancels. Results are float64, one per draw.

The interval is the percentile one. For distances of feature distributions the draws lie above the value itself: a draw
holds fewer distinct patches (about 63 %), and such distances fall with their number. `centred` moves the draws t* so that
their mean is the value t: FID by the factor t / mean(t*), as it is positive and its bias grows with it (Kodak: 7 to 9 %,
from FID 80 to 170), KID by t - mean(t*). The interval is then one for the value that *as many* patches of other images
would give, not for the value at infinitely many. In simulations of that value (24 to 60 images of 3 to 8 patches, 95 %) it
holds in 97 to 100 % of cases, being 1.2 to 1.5 times wider than need be; to first order in 90 to 95 %; the percentile and
the basic interval (2t - t*), not centred, hold in 20 to 70 %. Pairs of codecs are centred each, before their difference
is taken.
"""

import numpy as np

from hfdbench.metrics.distribution.frechet import Moments, frechet_distance

ROWS = 4096  # features held in float64 at a time
LARGE = 512  # dimensions from which on a D x D distance for every draw would take too long


def draws(images: int, count: int = 1000, seed: int = 0) -> np.ndarray:
    """Image indices, int, count x images; the same for everybody who asks with the same numbers."""
    if images < 1:
        raise ValueError("a bootstrap needs at least one image")
    return np.random.default_rng(seed).integers(images, size=(count, images))


def mean(values_per_image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean of each draw over the images that have a value (NaN: has none); NaN for a draw without any."""
    values = np.asarray(values_per_image, np.float64)
    has = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(has, values, 0)[draws].sum(axis=1) / has[draws].sum(axis=1)


def centred(samples: np.ndarray, value: float, positive: bool = True) -> np.ndarray:
    """Samples moved so that their mean is `value`: by a factor where they cannot be negative, else by a shift."""
    middle = samples.mean()
    return samples * (value / middle) if positive and middle > 0 else samples + (value - middle)


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN when a sample is."""
    low, high = np.quantile(np.asarray(samples, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def frechet(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Fréchet distance of every draw; row i of both is the same patch of the same image.

    N < D: exact, by N x N matrices (192 patches, 300 draws: half a second). Else exact by D x D matrices up to D = LARGE, and
    to first order beyond, which costs as much as five distances however many the draws.
    """
    reference, test, image_of_patch = _checked(reference, test, image_of_patch, draws)
    if len(test) < test.shape[1]:
        return _frechet_by_gram(reference, test, image_of_patch, draws)
    if test.shape[1] > LARGE:
        return _frechet_to_first_order(reference, test, image_of_patch, draws)
    distances = []
    for times in _times(image_of_patch, draws):
        drawn = np.repeat(np.arange(len(times)), times)
        distances.append(frechet_distance(*(_moments(features, drawn) for features in (reference, test))))
    return np.array(distances)


def _moments(features: np.ndarray, rows: np.ndarray) -> Moments:
    moments = Moments(features.shape[1])
    for start in range(0, len(rows), ROWS):
        moments.update(features[rows[start : start + ROWS]])
    return moments


def _frechet_to_first_order(reference, test, image_of_patch, draws) -> np.ndarray:
    """The distance plus, for every copy of an image more or less, its derivative by the image's weight.

    tr (AB)^(1/2) of the scatters A = X'X, B = Y'Y is the sum over patches of x'Tx with T A T = B (the optimal transport of
    A to B), and its derivative by the weight of a patch half of x'Tx plus half of the same of y.
    """
    rows = np.arange(len(test))
    x, y = _moments(reference, rows), _moments(test, rows)
    count, step = len(test), x.mean - y.mean
    spread, shift = -_transported(reference, x, y) - _transported(test, y, x), np.empty(count)
    for start in range(0, count, ROWS):
        block = slice(start, start + ROWS)
        a, b = reference[block] - x.mean, test[block] - y.mean
        spread[block] += (a**2).sum(axis=1) + (b**2).sum(axis=1)
        shift[block] = 2 * (a - b) @ step
    derivative = shift / count + (spread - spread.sum() / (count - 1)) / (count - 1)
    of_image = np.bincount(image_of_patch, derivative, draws.shape[1])
    return np.array(
        [of_image @ (np.bincount(drawn, minlength=len(of_image)) - 1) for drawn in draws]
    ) + frechet_distance(x, y)


def _transported(features: np.ndarray, own: Moments, other: Moments) -> np.ndarray:
    """x'Tx of every feature x, centred."""
    values, vectors = np.linalg.eigh(own.scatter)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    vectors, lengths = vectors[:, kept], np.sqrt(values[kept])
    inner, turn = np.linalg.eigh((vectors * lengths).T @ other.scatter @ (vectors * lengths))
    root = (vectors / lengths) @ turn * inner.clip(min=0) ** 0.25  # T = root root'
    blocks = (features[start : start + ROWS] - own.mean for start in range(0, len(features), ROWS))
    return np.concatenate([((block @ root) ** 2).sum(axis=1) for block in blocks])


def _frechet_by_gram(reference, test, image_of_patch, draws) -> np.ndarray:
    """With covariances A = X'X / (n - 1), B = Y'Y / (n - 1): tr (AB)^(1/2) is the nuclear norm of XY' / (n - 1).

    A row drawn w times is one row scaled by w^(1/2), and centring acts on the N x N products: features are touched once.
    """
    centre = reference.mean(axis=0, dtype=np.float64)
    x, y = reference - centre, test - centre
    xx, yy, xy = x @ x.T, y @ y.T, x @ y.T
    distances = []
    for times in _times(image_of_patch, draws):
        rows = np.flatnonzero(times)
        root, count = np.sqrt(times[rows]), times.sum()
        share = times[rows] / count
        inner_xx, inner_yy, inner_xy = (product[np.ix_(rows, rows)] for product in (xx, yy, xy))
        mean_xx, mean_yy, mean_xy = (share @ product @ share for product in (inner_xx, inner_yy, inner_xy))
        spread = share @ (np.diag(inner_xx) + np.diag(inner_yy)) - mean_xx - mean_yy
        centred = inner_xy - (inner_xy @ share)[:, None] - share @ inner_xy + mean_xy
        nuclear = np.linalg.svd(root[:, None] * centred * root, compute_uv=False).sum()
        distances.append(mean_xx + mean_yy - 2 * mean_xy + (count * spread - 2 * nuclear) / (count - 1))
    return np.array(distances).clip(min=0)


def kid(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Unbiased MMD^2 over all patches of every draw; a patch and its copy are no pair, as in `metrics.kid`.

    The kernel is summed once, over pairs of images: draws cost nothing.
    """
    reference, test, image_of_patch = _checked(reference, test, image_of_patch, draws)
    patches = np.bincount(image_of_patch, minlength=draws.shape[1]).astype(np.float64)
    cross = _kernel_sums(reference, test, image_of_patch, len(patches))
    within = np.zeros_like(cross)
    itself = np.zeros(len(patches))
    for features in (reference, test):
        within += _kernel_sums(features, features, image_of_patch, len(patches))
        squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
        itself += np.bincount(image_of_patch, (squares / features.shape[1] + 1) ** 3, len(patches))
    values = []
    for drawn in draws:
        times = np.bincount(drawn, minlength=len(patches)).astype(np.float64)
        count, copies = times @ patches, times**2 @ patches
        inside = (times @ within @ times - times**2 @ itself) / (count**2 - copies)
        values.append(inside - 2 * (times @ cross @ times) / count**2)
    return np.array(values)


def _kernel_sums(a: np.ndarray, b: np.ndarray, image_of_patch: np.ndarray, images: int) -> np.ndarray:
    """Sums of the KID kernel over the patches of every two images, images x images."""
    member = np.zeros((len(b), images))
    member[np.arange(len(b)), image_of_patch] = 1
    sums = np.zeros((images, images))
    for start in range(0, len(a), ROWS // 4):
        rows = slice(start, start + ROWS // 4)
        kernel = (a[rows] @ b.T).astype(np.float64) / a.shape[1] + 1
        kernel *= kernel * kernel
        sums += member[rows].T @ (kernel @ member)
    return sums


def _checked(reference, test, image_of_patch, draws):
    reference, test, image_of_patch = np.asarray(reference), np.asarray(test), np.asarray(image_of_patch)
    if reference.ndim != 2 or reference.shape != test.shape or image_of_patch.shape != (len(test),):
        raise ValueError(
            f"reference, test and image_of_patch must be N x D, N x D and N, not {reference.shape}, {test.shape} and "
            f"{image_of_patch.shape}"
        )
    if len(test) < 2 or image_of_patch.min() < 0 or image_of_patch.max() >= draws.shape[1]:
        raise ValueError(
            f"{len(test)} patches of images {np.unique(image_of_patch)} do not fit {draws.shape[1]} images"
        )
    return reference, test, image_of_patch


def _times(image_of_patch: np.ndarray, draws: np.ndarray):
    """How often each patch is in each draw."""
    for drawn in draws:
        yield np.bincount(drawn, minlength=draws.shape[1])[image_of_patch]
