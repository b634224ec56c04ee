"""A value of a set of images with how sure it is: standard error, interval, p-value; and several statements held at once.

Conventions: the images are a sample of those that might have been measured, so that a value has a standard error; the
interval is Student's, wider where few images carry the spread, and on the side to which they are skewed. Estimates of the
same images subtract image by image: what the images do to both cancels. Where a decoder samples and several seeds were
measured, the value is the mean over seeds and the variance is that of the images plus that of the seeds; with one seed the
latter is unknown, and missing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value and what each image does to it.

    Parameters
    ----------
    value : float
        The value of all images, in the metric's unit.
    deviations : ndarray of float64, shape (I,)
        `analysis.deviations`: their sum is 0, and those of a mean are the images' values less the mean.
    seed_variance : float
        Variance of the value over seeds of a decoder that samples; 0 where one seed was measured.
    seed_freedom : float
        Degrees of freedom of that variance.
    pairs : ndarray of float64
        `analysis.deviations.of_kid`: the sum of squares is by how much the variance over images is too large; at most half of
        it is taken off, which is what it is of equal codecs.
    subsets : ndarray of float64
        `analysis.deviations.of_kid`: values of random subsets, less their mean, where `value` is their mean.
    """

    value: float
    deviations: np.ndarray
    seed_variance: float = 0.0
    seed_freedom: float = math.inf
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    subsets: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def over_seeds(cls, estimates: Sequence["Estimate"]) -> "Estimate":
        """The mean of estimates of the same images at S seeds, with the spread of the seeds."""
        if len(estimates) == 1:
            return estimates[0]
        values = np.array([each.value for each in estimates])
        deviations = np.mean([each.deviations for each in estimates], axis=0)
        alike = len({each.pairs.shape for each in estimates}) == 1
        pairs = np.mean([each.pairs for each in estimates], axis=0) if alike else np.zeros(0)
        subsets = np.mean(_alike([each.subsets for each in estimates]), axis=0)
        variance = float(values.var(ddof=1)) / len(values)
        return cls(float(values.mean()), deviations, variance, len(values) - 1, pairs, subsets)

    @classmethod
    def of_function(cls, function: Callable[..., float], estimates: Sequence["Estimate"]) -> "Estimate":
        """A smooth function of values of the same images, by the jackknife: what it loses without each image.

        Parameters
        ----------
        function : callable
            (float, ...) -> float, of as many values as there are estimates.
        estimates : sequence of Estimate
            Its arguments. The spread over seeds is carried to first order, as if they were independent.

        Raises
        ------
        ValueError
            As the function does, for the values of all images or those without one of them.
        """
        values = np.array([each.value for each in estimates])
        moves = np.stack([each.deviations for each in estimates], axis=1) / max(estimates[0].images - 1, 1)
        value = float(function(*values))
        pseudo = (len(moves) - 1) * (value - np.array([function(*(values - move)) for move in moves]))
        pooled = (0.0, math.inf)
        for number, each in enumerate(estimates):
            if each.seed_variance:
                step = math.sqrt(each.seed_variance) * (np.arange(len(values)) == number)
                slope = (function(*(values + step)) - function(*(values - step))) / 2
                pooled = _pooled(pooled, (slope**2, each.seed_freedom))
        draws = np.stack(_alike([each.subsets for each in estimates]), axis=1)
        few = max(len(draws) - 1, 1)  # small steps, as above
        subsets = few * (value - np.array([function(*(values - draw / few)) for draw in draws]))
        return cls(value, pseudo - pseudo.mean(), *pooled, subsets=subsets)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference. Raises ValueError when the two are of different numbers of images."""
        if len(self.deviations) != len(other.deviations):
            raise ValueError(
                f"estimates over {len(self.deviations)} and {len(other.deviations)} images have no paired difference"
            )
        variance, freedom = _pooled((self.seed_variance, self.seed_freedom), (other.seed_variance, other.seed_freedom))
        pairs = self.pairs - other.pairs if self.pairs.shape == other.pairs.shape else np.zeros(0)
        mine, theirs = _alike([self.subsets, other.subsets])
        return Estimate(
            self.value - other.value, self.deviations - other.deviations, variance, freedom, pairs, mine - theirs
        )

    def __neg__(self) -> "Estimate":
        return replace(self, value=-self.value, deviations=-self.deviations, pairs=-self.pairs, subsets=-self.subsets)

    @property
    def images(self) -> int:
        """How many images, I."""
        return len(self.deviations)

    @property
    def standard_error(self) -> float:
        """Of the value, over images and seeds; NaN for fewer than two images."""
        return math.sqrt(self._variance_and_freedom[0])

    @property
    def _variance_and_freedom(self) -> tuple[float, float]:
        if self.images < 2:
            return math.nan, math.nan
        of_images = float(np.square(self.deviations).sum()) / (self.images * (self.images - 1))
        of_images -= min(float(np.square(self.pairs).sum()), of_images / 2)
        pooled = _pooled((of_images, self.images - 1), (self.seed_variance, self.seed_freedom))
        drawn = len(self.subsets)
        return _pooled(pooled, (float(self.subsets.var(ddof=1)) / drawn, drawn - 1)) if drawn > 1 else pooled

    @property
    def _freedom(self) -> float:
        """Degrees of freedom of the standard error, fewer where few images carry it: 2 I / (kurtosis - 1), at most I - 1.

        The variance of a variance is its square times (kurtosis - 1) / I; a chi square's is 2 / its degrees of freedom.
        """
        freedom = self._variance_and_freedom[1]
        squares = np.square(self.deviations)
        if not squares.any():
            return freedom
        kurtosis = float(np.square(squares).mean() / squares.mean() ** 2)
        return min(freedom, max(2 * self.images / (kurtosis - 1), 2.0)) if kurtosis > 1 else freedom

    @property
    def _skewness(self) -> float:
        """Of the value's sampling distribution by the skewness of the deviations, / 6: the factor in `interval`."""
        spread = math.sqrt(float(np.square(self.deviations).mean()))
        if not spread or self.images < 3:
            return 0.0
        correction = math.sqrt(self.images * (self.images - 1)) / (self.images - 2)
        return correction * float(((self.deviations / spread) ** 3).mean()) / (6 * math.sqrt(self.images))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the value would lie had other images been measured.

        Student's t, wider on the side to which the images are skewed by the first term of its Edgeworth expansion,
        s (2 t^2 + 1) / (6 sqrt I) (Hall 1992, "The Bootstrap and Edgeworth Expansion", section 2.6), and no narrower on
        the other: the rare images that make the skewness are missing from many samples.

        Parameters
        ----------
        level : float
            Of the interval, 0 to 1.

        Returns
        -------
        (float, float)
            NaN for fewer than two images.
        """
        from scipy.special import stdtrit

        error, skewness = self.standard_error, self._skewness
        quantile = float(stdtrit(self._freedom, (1 + level) / 2))
        more = skewness * (2 * quantile**2 + 1)
        return self.value - (quantile + max(-more, 0)) * error, self.value + (quantile + max(more, 0)) * error

    def p_above(self, bound: float = 0.0) -> float:
        """One-sided p-value of "the value is at most `bound`": small where it lies above; NaN for fewer than two images.

        It is below a where `interval(1 - 2 a)` lies above `bound`.
        """
        from scipy.special import stdtr

        error, distance = self.standard_error, self.value - bound
        if math.isnan(error):
            return math.nan
        if error == 0:  # every image says the same
            return 0.0 if distance > 0 else 1.0
        quantile, skewness = distance / error, max(-self._skewness, 0)
        if skewness and quantile > skewness:  # that of q + s (2 q^2 + 1) = distance / error
            quantile = (math.sqrt(1 + 8 * skewness * (quantile - skewness)) - 1) / (4 * skewness)
        return float(stdtr(self._freedom, -quantile))

    def p_below(self, bound: float = 0.0) -> float:
        """One-sided p-value of "the value is at least `bound`": small where it lies below."""
        return (-self).p_above(-bound)

    def p_differs(self, bound: float = 0.0) -> float:
        """Two-sided p-value of "the value is `bound`"."""
        return min(1.0, 2 * min(self.p_above(bound), self.p_below(bound)))


def _alike(subsets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """In one length: what has no subsets does not vary over them."""
    length = max(map(len, subsets))
    return [each if len(each) == length else np.zeros(length) for each in subsets]


def _pooled(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Variance and degrees of freedom of a sum: Satterthwaite 1946, doi:10.2307/3002019."""
    total = first[0] + second[0]
    if not total:
        return total, min(first[1], second[1])
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in (first, second))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted so that all statements with one of at most a hold together but for a probability of a.

    Holm 1979, "A simple sequentially rejective multiple test procedure". NaN is no statement and stays NaN.
    """
    values = np.asarray(p_values, np.float64)
    adjusted = np.full(len(values), np.nan)
    there = np.flatnonzero(~np.isnan(values))
    order = there[np.argsort(values[there], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
