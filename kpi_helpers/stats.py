"""Kernels on sufficient statistics: vectorised, numpy and scipy.special only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from kpi_helpers.errors import KpiError

Floats = NDArray[np.float64]


def checked_confidence(confidence: float) -> float:
    """Return `confidence` if it lies in (0, 1).

    >>> checked_confidence(0.9)
    0.9
    """
    if not 0 < confidence < 1:
        raise KpiError(f"confidence={confidence!r} is not in (0, 1). Write 0.95 for 95%.")
    return confidence


def wilson(successes: ArrayLike, trials: ArrayLike, *, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Score interval of a proportion; keeps its coverage for small counts and near 0 or 1.

    Parameters
    ----------
    successes, trials : array_like of counts, same shape
        A bound is NaN where ``trials`` is not positive or ``successes`` is outside ``[0, trials]``.
    confidence : float
        Two-sided coverage, in (0, 1).

    Returns
    -------
    (low, high) : arrays of fractions in [0, 1]

    References
    ----------
    Wilson (1927), JASA 22:209-212; Newcombe (1998), Statistics in Medicine 17:857-872, method 3.

    Examples
    --------
    >>> low, high = wilson(2425, 9700)
    >>> round(float(low), 6), round(float(high), 6)
    (0.241483, 0.258715)
    """
    x, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    z = ndtri((1 + checked_confidence(confidence)) / 2)
    n = np.where((n > 0) & (x >= 0) & (x <= n), n, np.nan)
    centre = x + z**2 / 2
    half = z * np.sqrt(x * (n - x) / n + z**2 / 4)
    low, high = (centre - half) / (n + z**2), (centre + half) / (n + z**2)
    return np.where(x == 0, np.minimum(low, 0), low).clip(0), np.where(x == n, 1 + 0 * high, high).clip(None, 1)


def ratio_margin(n: ArrayLike, total: ArrayLike, squared: ArrayLike, *, confidence: float = 0.95) -> Floats:
    """Half-width of the interval of a ratio of sums, Σx/Σy, over `n` days, by the delta method.

    The days are the sample: each is compared with what the common ratio would make of it. Use it for costs
    and averages (spend per click, revenue per order), which have no trials to count.

    Parameters
    ----------
    n : array_like of int
        Days; below 2 there is nothing to compare and the margin is NaN.
    total : array_like
        Σy, the denominator.
    squared : array_like
        Σ(x − R·y)², with R = Σx/Σy.
    confidence : float
        Two-sided coverage, in (0, 1); Student's t with n − 1 degrees of freedom.

    References
    ----------
    Cochran (1977), Sampling Techniques, 3rd ed., section 6.3: variance of the ratio estimate.

    Examples
    --------
    >>> x, y = np.array([10.0, 22.0, 28.0]), np.array([1.0, 2.0, 3.0])
    >>> round(float(ratio_margin(3, y.sum(), ((x - 10 * y) ** 2).sum())), 4)
    2.4841
    """
    n, total, squared = (np.asarray(a, dtype=float) for a in (n, total, squared))
    many = np.where((n >= 2) & (total != 0), n, np.nan)
    t = stdtrit(many - 1, (1 + checked_confidence(confidence)) / 2)
    return np.asarray(t * np.sqrt(many / (many - 1) * squared) / np.abs(np.where(total != 0, total, np.nan)))


def chance_above(threshold: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> Floats:
    """Probability that a normal quantity exceeds `threshold`.

    >>> round(float(chance_above(13200, 12000, 900)), 6)
    0.091211
    """
    return np.asarray(ndtr((np.asarray(mean) - np.asarray(threshold)) / np.asarray(sd)), dtype=float)


def weighted_quantile(values: ArrayLike, weights: ArrayLike, at: ArrayLike) -> Floats:
    """Quantiles of a weighted sample, linear between its points.

    Parameters
    ----------
    values, weights : array_like (n,)
        Sample without NaN, and how much each point counts: positive, only their ratios matter.
    at : array_like
        Probabilities in [0, 1]; beyond the first and last point, those.

    References
    ----------
    With equal weights each point stands at (i - 0.5) / n, definition 5 of Hyndman & Fan (1996),
    The American Statistician 50:361-365.

    Examples
    --------
    >>> weighted_quantile([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1], [0.125, 0.5]).tolist()
    [1.0, 2.5]
    """
    x, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    order = np.argsort(x, kind="stable")
    reached = np.cumsum(w[order])
    place = (reached - w[order] / 2) / reached[-1]
    return np.asarray(np.interp(np.asarray(at, dtype=float), place, x[order]))
