"""What each image does to a value: the ground of its interval, and what two codecs are paired by.

Conventions: the unit is the image, never the patch: all patches of an image come with it, because they are not independent
(Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Two codecs see the same images, so that
what the images do to both cancels in the difference. Deviations are float64, one per image, and sum to 0: those of a mean
are the images' values less the mean. The variance of a value of I images is their sum of squares / (I (I - 1)).

Distances of feature distributions are not computed anew in bootstrap draws: a draw holds about 63 % of the patches, the
rest are copies, and such distances fall with the number of distinct patches, for each codec by another amount, which no
centring repairs. What an image does to a Fréchet distance is its influence (`metrics.distribution.influence`); to a KID,
what is lost without it. Both are of the value at *as many* patches.

The jackknife counts twice what *pairs* of images do to a KID, beyond what each does alone (Efron & Stein 1981,
doi:10.1214/aos/1176345462). For codecs that are nearly equal that is most of the variance of a difference. It is kept as
random projections of the matrix of pairs, whose sum of squares is the excess; those of two codecs subtract.

From 1,000 patches on a KID is a mean over random subsets of 1,000, the same for every codec. Their values less the mean are
kept, too: what the draw of subsets adds to a variance is theirs over their number, at 30,000 patches as much as the images do.

Coverage with real features: tests/bench/coverage_intervals.py, docs/protocol/statistics.md.
"""

import numpy as np

from hfdbench.metrics.distribution import influence
from hfdbench.metrics.distribution.kid import SUBSET_SIZE, SUBSETS, subset_values
from hfdbench.metrics.registry import METRICS

ROWS = 1024  # features whose kernel values are held at a time
PAIRS = 256  # projections of what pairs of images do


class TooFewPatches(ValueError):
    """The features are what they must be, but an interval takes more of them."""


def of_mean(values: np.ndarray) -> np.ndarray:
    """Deviations of a mean over the images that have a value (NaN: has none)."""
    values = np.asarray(values, np.float64)
    has = np.isfinite(values)
    return np.where(has, values - values[has].mean(), 0) / has.mean()


def of_ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Deviations, to first order, of sum(numerators) / sum(denominators), such as all bits over all pixels."""
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    return (numerators - numerators.sum() / denominators.sum() * denominators) / denominators.mean()


def of_distance(
    column: str, reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations of the distance in a column of the points table, pairs and subsets of `of_kid`; none of a Fréchet distance."""
    if METRICS[column].interval == "kid":
        return of_kid(reference, test, image_of_patch, images)
    return of_frechet(reference, test, image_of_patch, images), np.zeros(0), np.zeros(0)


def parts(kept: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `of_distance` returned, of its concatenation."""
    behind = kept[images:]
    pairs = len(behind) - (SUBSETS if len(behind) in (SUBSETS, PAIRS + SUBSETS) else 0)
    return kept[:images], behind[:pairs], behind[pairs:]


def of_frechet(reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray, images: int) -> np.ndarray:
    """Deviations of a Fréchet distance, to first order.

    Parameters
    ----------
    reference, test : ndarray of float, shape (N, D)
        Features; row i of both is the same patch of the same image.
    image_of_patch : ndarray of int, shape (N,)
        The image of each patch, 0 to I - 1.
    images : int
        I.

    Returns
    -------
    ndarray of float64, shape (I,)

    Raises
    ------
    ValueError
        The shapes do not fit, or there are fewer than 3 patches.
    """
    reference, test, image_of_patch = _checked(reference, test, image_of_patch, images)
    pulls = np.bincount(image_of_patch, influence.pull(reference, test), images)
    return images * (pulls - pulls.mean())


def of_kid(
    reference: np.ndarray, test: np.ndarray, image_of_patch: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations of the KID: the jackknife's pseudo-values less their mean; and what pairs of images do.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 11.5. Parameters and errors are those of
    `of_frechet`. The kernel is summed once, over pairs of images: leaving one out costs nothing.

    Returns
    -------
    deviations : ndarray of float64, shape (I,)
    pairs : ndarray of float64, shape (PAIRS,)
        The sum of squares is about what the variance by `deviations` is too large; exact for equal numbers of patches an image
        but for a relative error of about sqrt(8 / PAIRS). Empty for fewer than 4 images.
    subsets : ndarray of float64, shape (SUBSETS,)
        The values of `kid`'s subsets less their mean; empty where it has none.
    """
    reference, test, image_of_patch = _checked(reference, test, image_of_patch, images)
    patches = np.bincount(image_of_patch, minlength=images).astype(np.float64)
    cross = _kernel_sums(reference, test, image_of_patch, images)
    within, itself = np.zeros_like(cross), np.zeros(images)
    for features in (reference, test):
        within += _kernel_sums(features, features, image_of_patch, images)
        squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
        itself += np.bincount(image_of_patch, (squares / features.shape[1] + 1) ** 3, images)
    values = subset_values(reference, test) if len(test) >= SUBSET_SIZE else np.zeros(0)
    return *of_kernel_sums(within, cross, itself, patches), values - (values.mean() if len(values) else 0)


def of_kernel_sums(
    within: np.ndarray, cross: np.ndarray, itself: np.ndarray, patches: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Deviations and pairs of `of_kid`, of what the kernel sums to over the patches of every two images.

    Parameters
    ----------
    within, cross : ndarray of float64, shape (I, I)
        Over pairs of originals plus pairs of decoded patches; over pairs of an original and a decoded patch.
    itself : ndarray of float64, shape (I,)
        What of `within` is of a patch with itself.
    patches : ndarray of float64, shape (I,)
        How many there are of each image.
    """
    images = len(patches)
    times = np.concatenate([np.ones((1, images)), 1 - np.eye(images)])  # all images, then all but the i-th
    count = times @ patches
    if count.min() < 2:
        raise TooFewPatches("an interval of a KID needs 2 patches without any one image")
    values = (((times @ within) * times).sum(axis=1) - times @ itself) / (count * (count - 1))
    values -= 2 * ((times @ cross) * times).sum(axis=1) / count**2
    pseudo = (images - 1) * (values[0] - values[1:])
    return pseudo - pseudo.mean(), _pairs((within - cross - cross.T) / patches.mean() ** 2)


def _pairs(kernel: np.ndarray) -> np.ndarray:
    """Projections of a symmetric kernel of images, I x I, without what each image does alone (Hoeffding 1948)."""
    images = len(kernel)
    if images < 4:
        return np.zeros(0)
    apart = ~np.eye(images, dtype=bool)
    alone = (kernel * apart).sum(axis=1) / (images - 2)
    both = apart * (kernel - alone[:, None] - alone + alone.sum() / (images - 1))
    left, right = np.random.default_rng(0).choice([-1.0, 1.0], size=(2, PAIRS, images))
    return ((left @ both) * right).sum(axis=1) * np.sqrt(2 / PAIRS / (images - 1) / images**3)


def _kernel_sums(a: np.ndarray, b: np.ndarray, image_of_patch: np.ndarray, images: int) -> np.ndarray:
    """Sums of the KID kernel over the patches of every two images, I x I."""
    member = np.zeros((len(b), images))
    member[np.arange(len(b)), image_of_patch] = 1
    sums = np.zeros((images, images))
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        kernel = (a[rows] @ b.T).astype(np.float64) / a.shape[1] + 1
        kernel *= kernel * kernel
        sums += member[rows].T @ (kernel @ member)
    return sums


def _checked(reference, test, image_of_patch, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference, test, image_of_patch = np.asarray(reference), np.asarray(test), np.asarray(image_of_patch)
    if reference.ndim != 2 or reference.shape != test.shape or image_of_patch.shape != (len(test),):
        raise ValueError(
            f"reference, test and image_of_patch must be N x D, N x D and N, not {reference.shape}, {test.shape} and "
            f"{image_of_patch.shape}"
        )
    if len(test) and not 0 <= image_of_patch.min() <= image_of_patch.max() < images:
        raise ValueError(f"{len(test)} patches of images {np.unique(image_of_patch)} do not fit {images} images")
    if len(test) < 3:
        raise TooFewPatches(f"{len(test)} patches: an interval takes at least 3")
    return reference, test, image_of_patch
