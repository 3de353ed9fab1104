"""Kernels on sufficient statistics: vectorised, numpy and scipy.special only."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, gammaincinv, ndtr, ndtri, stdtrit

from kpi_helpers.errors import KpiError, require

Floats = NDArray[np.float64]
METHODS = ("holm", "hochberg", "benjamini-hochberg", "benjamini-yekutieli")


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


def corrected(p: ArrayLike, method: str = "holm", alpha: float = 0.05) -> tuple[Floats, Floats]:
    """Adjusted p-values of one family, and the error for each one's interval that matches its decision.

    Parameters
    ----------
    p : array_like (n,), each in [0, 1]; NaN is no test, stays NaN and does not count
    method : str
        "holm", "hochberg" (any false alarm in the family), "benjamini-hochberg" or "benjamini-yekutieli" (false alarms
        as a share of all alarms; the second under any dependence).
    alpha : float in (0, 1)

    Returns
    -------
    (adjusted, level) : arrays (n,)
        ``adjusted < alpha`` where, and only where, ``p < level``.

    References
    ----------
    Holm (1979), Scand. J. Stat. 6:65-70; Hochberg (1988), Biometrika 75:800-802; Benjamini & Hochberg (1995),
    JRSS B 57:289-300; Benjamini & Yekutieli (2001), Ann. Stat. 29:1165-1188, and (2005), JASA 100:71-81 for intervals.

    Examples
    --------
    >>> corrected([0.04, 0.001, 0.03, 0.02, 0.5])[0].tolist()
    [0.09, 0.005, 0.09, 0.08, 0.5]
    """
    require(method in METHODS, f"method={method!r} is not one of {', '.join(METHODS)}.")
    given = np.asarray(p, dtype=float)
    order = np.argsort(given, kind="stable")[: int(np.isfinite(given).sum())]
    rank = np.arange(1.0, len(order) + 1)
    left = len(order) + 1 - rank
    factor = {"holm": left, "hochberg": left, "benjamini-hochberg": len(order) / rank}.get(method)
    factor = len(order) / rank * (1 / rank).sum() if factor is None else factor
    raw = given[order] * factor
    steps = np.maximum.accumulate(raw) if method == "holm" else np.minimum.accumulate(raw[::-1])[::-1]
    alarms = int((steps < alpha).sum())
    # Holm: each alarm at its own step, the rest at the first that failed; others: all at the last that held
    at = np.minimum(rank, alarms + 1) if method == "holm" else np.full(len(order), max(alarms, 1))
    adjusted, level = np.full(given.shape, np.nan), np.full(given.shape, alpha)
    adjusted[order], level[order] = np.minimum(steps, 1), alpha / factor[at.astype(int) - 1]
    return adjusted, level


def holm(p: ArrayLike) -> Floats:
    """P-values adjusted by Holm's method, see `corrected`.

    >>> holm([0.01, 0.02, 0.03, 0.04]).round(2).tolist()
    [0.04, 0.06, 0.06, 0.06]
    """
    return corrected(p)[0]


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


def poisson_interval(count: ArrayLike, *, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Exact interval of the expected number of events behind a count.

    References
    ----------
    Garwood (1936), Biometrika 28:437-442.

    Examples
    --------
    >>> low, high = poisson_interval(10)
    >>> round(float(low), 4), round(float(high), 4)
    (4.7954, 18.3904)
    """
    x = np.asarray(count, dtype=float)
    tail = (1 - checked_confidence(confidence)) / 2
    low = np.where(x > 0, gammaincinv(np.where(x > 0, x, 1.0), tail), 0 * x)
    return low, gammaincinv(x + 1, 1 - tail)


def rate_difference(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], *, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of the difference of two proportions, first less second.

    Parameters
    ----------
    first, second : pair of array_like, counts of one shape
        (successes, trials), ``0 <= successes <= trials``; NaN where there are no trials.
    confidence : float
        Two-sided coverage, in (0, 1).

    References
    ----------
    Newcombe (1998), Statistics in Medicine 17:873-890, method 10.

    Examples
    --------
    >>> low, high = rate_difference((56, 70), (48, 80))
    >>> round(float(low), 4), round(float(high), 4)
    (0.0524, 0.3339)
    """
    (x1, n1), (x2, n2) = ((np.asarray(x, float), np.asarray(n, float)) for x, n in (first, second))
    (low1, high1), (low2, high2) = (wilson(x, n, confidence=confidence) for x, n in ((x1, n1), (x2, n2)))
    p1, p2 = x1 / np.where(n1 > 0, n1, np.nan), x2 / np.where(n2 > 0, n2, np.nan)
    return p1 - p2 - np.hypot(p1 - low1, high2 - p2), p1 - p2 + np.hypot(high1 - p1, p2 - low2)


def moves(now: ArrayLike, was: ArrayLike, *, relative: bool = False) -> tuple[Floats, Floats, Floats]:
    """Change between two independent estimates with its interval: the distances of the ends add up in squares.

    Parameters
    ----------
    now, was : array_like (3, ...) of value, low and high
    relative : now / was - 1, worked out on the logarithms, instead of now - was; NaN where a value is not above 0

    Returns
    -------
    Change, low, high, arrays (...), fractions if relative

    References
    ----------
    Zou & Donner (2008), Statistics in Medicine 27:1693-1702; of two Wilson intervals it is Newcombe's (1998).

    Examples
    --------
    >>> [round(float(x), 4) for x in moves((0.03, 0.027, 0.034), (0.02, 0.018, 0.023))]
    [0.01, 0.0058, 0.0145]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        (a, la, ha), (b, lb, hb) = (np.log(np.maximum(t, 0)) if relative else np.asarray(t, float) for t in (now, was))
        d = np.where(np.isfinite(a - b), a - b, np.nan)
        low, high = d - np.hypot(a - la, hb - b), d + np.hypot(ha - a, b - lb)
    return (np.expm1(d), np.expm1(low), np.expm1(high)) if relative else (d, low, high)


class Survival(NamedTuple):
    """Share not yet converted just after each `time`, with its interval; `at_risk` just before it."""

    time: Floats
    at_risk: Floats
    survival: Floats
    low: Floats
    high: Floats

    def reached(self, share: float) -> tuple[float, float, float]:
        """Time by which `share` has converted, and its interval; NaN where the curve does not go so far.

        The interval holds the times at which the interval of the curve contains 1 - share (Brookmeyer & Crowley 1982,
        Biometrics 38:29-41).
        """
        level = 1 - share + 1e-12
        first = (self.time[curve <= level][:1] for curve in (self.survival, self.low, self.high))
        at, low, high = (float(t[0]) if len(t) else np.nan for t in first)
        return at, low, high


def kaplan_meier(time: ArrayLike, n_events: ArrayLike, n_censored: ArrayLike, *, confidence: float = 0.95) -> Survival:
    """Share of units to which nothing has happened yet, from counts by duration; the unfinished count as they lasted.

    Parameters
    ----------
    time : array_like (n,)
        Durations, any order, each once.
    n_events, n_censored : array_like (n,)
        Units that had the event after, and that were last seen at, each duration.
    confidence : float
        Coverage of the interval at one time, on the scale log(-log S).

    References
    ----------
    Kaplan & Meier (1958), JASA 53:457-481; Greenwood's variance; Kalbfleisch & Prentice (1980), section 1.3.

    Examples
    --------
    >>> curve = kaplan_meier([1, 2, 3], [1, 0, 1], [0, 1, 0])
    >>> curve.survival.round(3).tolist(), curve.reached(0.5)[0]
    ([0.667, 0.667, 0.0], 3.0)
    """
    t, d, c = (np.asarray(a, dtype=float) for a in (time, n_events, n_censored))
    order = np.argsort(t, kind="stable")
    t, d, c = t[order], d[order], c[order]
    at_risk = (d + c)[::-1].cumsum()[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(1 - d / at_risk)
        spread = np.sqrt(np.cumsum(d / (at_risk * (at_risk - d)))) / np.abs(np.log(survival))
        z = ndtri((1 + checked_confidence(confidence)) / 2)
        low, high = survival ** np.exp(z * spread), survival ** np.exp(-z * spread)
    inside = (survival > 0) & (survival < 1)
    return Survival(t, at_risk, survival, np.where(inside, low, survival), np.where(inside, high, survival))


def log_rank(time: ArrayLike, n_events: ArrayLike, n_censored: ArrayLike) -> tuple[float, int, float]:
    """Ask whether groups last equally long, from counts by duration: chi-square, degrees of freedom and p-value.

    Parameters: `time` (k,), durations, `n_events` and `n_censored` (groups, k) as in `kaplan_meier`. Where no
    event tells groups apart, df is 0 and p is NaN. Mantel (1966), Cancer Chemotherapy Reports 50:163-170; variance of
    several groups: Kalbfleisch & Prentice (1980), section 1.4.

    >>> log_rank([1, 2, 3, 4], [[1, 0, 1, 0], [0, 1, 0, 1]], np.zeros((2, 4)))[0].__round__(4)  # statsmodels: survdiff
    0.6154
    """
    order = np.argsort(np.asarray(time, dtype=float), kind="stable")
    d, c = (np.asarray(a, dtype=float)[:, order] for a in (n_events, n_censored))
    n = (d + c)[:, ::-1].cumsum(axis=1)[:, ::-1]
    all_n, all_d = n.sum(axis=0), d.sum(axis=0)
    share = n / np.maximum(all_n, 1)
    spread = all_d * (all_n - all_d) / np.maximum(all_n - 1, 1)
    excess = d.sum(axis=1) - share @ all_d
    variance = np.diag(share @ spread) - (share * spread) @ share.T
    df = int(np.linalg.matrix_rank(variance, hermitian=True))
    chi2 = float(excess @ np.linalg.pinv(variance, hermitian=True) @ excess)
    return chi2, df, float(chdtrc(df, chi2)) if df else np.nan
