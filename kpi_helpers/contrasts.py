"""Two arms against each other, from their sums: tests and the intervals that invert them, vectorised."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv, betaln, gammaln, ndtr, ndtri, stdtr, stdtrit, xlog1py, xlogy

from kpi_helpers.errors import require
from kpi_helpers.stats import Floats

Triple = tuple[ArrayLike, ArrayLike, ArrayLike]
Distance = Callable[..., tuple[Floats, Floats]]
NEAR = 1e-12  # so far from the estimate the search begins: at rates of 0 and 1 the error there is 0
NODES, WEIGHTS = leggauss(64)
ALTERNATIVES = ("two-sided", "larger", "smaller")


class Contrast(NamedTuple):
    """Treatment less control and as a fraction of control, with bounds that leave out the null where p is below alpha.

    All of one shape; NaN where nothing can be computed. A lift without an end has an infinite bound.
    """

    control_value: Floats
    treatment_value: Floats
    difference: Floats
    difference_low: Floats
    difference_high: Floats
    lift: Floats
    lift_low: Floats
    lift_high: Floats
    p_value: Floats
    degrees_of_freedom: Floats


def tails(alpha: ArrayLike, alternative: str) -> tuple[Floats, Floats]:
    """Error below the lower and above the upper bound; a one-sided question has none on its other side."""
    require(alternative in ALTERNATIVES, f"alternative={alternative!r} is not one of {', '.join(ALTERNATIVES)}.")
    a = np.asarray(alpha, dtype=float)
    fine = alternative == "two-sided" or not (a >= 0.5).any()
    require(fine, "A one-sided question needs a confidence above 0.5: at 0.5 its bound is the estimate itself.")
    return {"two-sided": (a / 2, a / 2), "larger": (a, 0 * a), "smaller": (0 * a, a)}[alternative]


def _p_value(cdf: Callable[[Floats], Floats], z: Floats, alternative: str) -> Floats:
    """Chance of `z` or more under a symmetric law: from its lower tail, so that small ones keep their digits."""
    one = {"two-sided": -np.abs(z), "larger": -z, "smaller": z}[alternative]
    return np.asarray(cdf(one) * (2 if alternative == "two-sided" else 1))


def rates(
    control: tuple[ArrayLike, ArrayLike], treatment: tuple[ArrayLike, ArrayLike], *, alpha: ArrayLike = 0.05,
    alternative: str = "two-sided", null: ArrayLike = 0.0,
) -> Contrast:  # fmt: skip
    """Score test of two proportions, with its inversions for the difference and for the ratio.

    Mee (1984), Biometrics 40:1175-1176, and Koopman (1984), Biometrics 40:513-517: without the factor N/(N - 1), so
    that at 0 and 1 both are the pooled z test. Rates at a given difference: Miettinen & Nurminen (1985), Statistics in
    Medicine 4:213-226. Parameters: arms as (successes, trials), counts that broadcast; `alpha` in (0, 1), one less the
    coverage and the error of the test; `null` in (-1, 1), the difference that p speaks of. NaN where trials are 0.

    >>> c = rates((1000, 10000), (1100, 10000))
    >>> [round(float(v), 6) for v in (c.p_value, c.difference_low, c.difference_high)]
    [0.021075, 0.001504, 0.018505]
    """
    given = (np.asarray(a, dtype=float) for a in (*control, *treatment, alpha, null))
    x0, n0, x1, n1, alpha, null = np.broadcast_arrays(*given)
    n0, n1 = np.where(n0 > 0, n0, np.nan), np.where(n1 > 0, n1, np.nan)
    p0, p1, arms = x0 / n0, x1 / n1, (x0, n0, x1, n1)
    d, (below, above) = p1 - p0, tails(alpha, alternative)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (d - null) / _null_error(null, *arms)
        quantiles, part = np.stack([ndtri(below), -ndtri(above)]), p1 / (p0 + p1)
        low, high = _bounds(_by_difference, -1, d, quantiles, *arms)
        lift, lift_low, lift_high = (u / (1 - u) - 1 for u in (part, *_bounds(_by_ratio, 0, part, quantiles, *arms)))
    p, df = _p_value(ndtr, z, alternative), np.full(d.shape, np.inf)
    return Contrast(p0 + 0 * p1, p1, d, low, high, lift, lift_low, lift_high, p, df)


def _null_error(t: Floats, x0: Floats, n0: Floats, x1: Floats, n1: Floats) -> Floats:
    """Standard error of the difference where it is `t`: of the likeliest rates that are `t` apart."""
    n, x = n0 + n1, x0 + x1
    a, b, c = ((n1 + 2 * n0) * t - n - x) / n, ((n0 * t - n - 2 * x0) * t + x) / n, x0 * t * (1 - t) / n
    q = a**3 / 27 - a * b / 6 + c / 2
    p = np.copysign(np.sqrt(np.maximum(a**2 / 9 - b / 3, 0)), q)
    turned = (np.pi + np.arccos(np.clip(q / np.where(p == 0, 1, p) ** 3, -1, 1))) / 3
    first, last = np.maximum(0, -t), np.minimum(1, 1 - t)
    r = np.clip(2 * p * np.cos(turned) - a / 3, first, last)
    for _ in range(2):  # rates of one in a million lose their digits in the cosine
        slope = (3 * r + 2 * a) * r + b
        step = (((r + a) * r + b) * r + c) / np.where(slope == 0, np.inf, slope)
        r = np.clip(r - step, first, last)
    return np.asarray(np.sqrt(r * (1 - r) / n0 + (r + t) * (1 - r - t) / n1))


def _by_difference(t: Floats, x0: Floats, n0: Floats, x1: Floats, n1: Floats) -> tuple[Floats, Floats]:
    """How far the observed difference is above `t`, and the standard error of that where `t` is true."""
    return x1 / n1 - x0 / n0 - t, _null_error(t, x0, n0, x1, n1)


def _by_ratio(u: Floats, x0: Floats, n0: Floats, x1: Floats, n1: Floats) -> tuple[Floats, Floats]:
    """How far the observed ratio is above ``u / (1 - u)``, and its error there; both times ``1 - u``, to be finite."""
    b = n1 * u + x1 * (1 - u) + n0 * (1 - u) + x0 * u
    root = 2 * (x0 + x1) / (b + np.sqrt(np.maximum(b**2 - 4 * (n0 + n1) * u * (1 - u) * (x0 + x1), 0)))
    r0, r1 = np.minimum((1 - u) * root, 1), np.minimum(u * root, 1)
    error = np.sqrt((1 - u) ** 2 * r1 * (1 - r1) / n1 + u**2 * r0 * (1 - r0) / n0)
    return (1 - u) * x1 / n1 - u * x0 / n0, error


def _bounds(by: Distance, least: float, estimate: Floats, z: Floats, *arms: Floats) -> Floats:
    """Where the distance is -z errors, below and above the estimate, or else the end of what is possible."""
    from scipy.optimize.elementwise import find_root

    def excess(at: Floats, z: Floats, *arms: Floats) -> Floats:
        gap, error = by(at, *arms)
        return gap + z * error

    end, near = np.stack([least + 0 * estimate, 1 + 0 * estimate]), np.stack([estimate - NEAR, estimate + NEAR])
    asked = np.isfinite(z)  # a one-sided question has no bound on its other side
    if not asked.any():
        return end
    exact = {"xatol": 0, "xrtol": 1e-14, "fatol": 0, "frtol": 0}
    found = find_root(excess, (end, near), args=(np.where(asked, z, 0), *arms), tolerances=exact)
    return np.where((asked & found.success) | np.isnan(near), found.x, end)


def means(
    control: Triple, treatment: Triple, *, alpha: ArrayLike = 0.05, alternative: str = "two-sided",
    null: ArrayLike = 0.0, pooled: bool = False, base: Triple | None = None,
) -> Contrast:  # fmt: skip
    """Welch's test of two averages, with its interval and Fieller's for the lift: one statistic, so they agree.

    NaN with fewer than two units or no variance at all. Without an end of the lift the control's average cannot be told
    from zero; a lift on an average that is not above zero is NaN. Welch (1947), Biometrika 34:28-35; Fieller (1954),
    JRSS B 16:175-185. Parameters: arms as (estimate, variance of one unit, units) that broadcast, the estimate a mean,
    a ratio or an adjusted mean; `alpha`, `alternative` and `null` as in `rates`, in the units of the difference;
    `pooled`, one variance for both arms (Student), which keeps its level when a skewed outcome is split unequally;
    `base`, what the lift divides by if not the control's estimate: value, variance and covariance with the difference.

    >>> c = means((5.2, 62.96, 1000), (5.6, 78.76, 1100))
    >>> round(float(c.difference), 3), round(float(c.lift_low), 3), round(float(c.lift_high), 3)
    (0.4, -0.058, 0.231)
    """
    given = (np.asarray(a, dtype=float) for a in (*control, *treatment, alpha, null))
    m0, s0, n0, m1, s1, n1, alpha, null = np.broadcast_arrays(*given)
    below, above = tails(alpha, alternative)
    with np.errstate(divide="ignore", invalid="ignore"):
        if pooled:
            s0 = s1 = ((n0 - 1) * s0 + (n1 - 1) * s1) / (n0 + n1 - 2)
        v0, v1 = s0 / n0, s1 / n1
        v = np.where((n0 > 1) & (n1 > 1) & (v0 + v1 > 0), v0 + v1, np.nan)
        df = n0 + n1 - 2 if pooled else v**2 / (v0**2 / (n0 - 1) + v1**2 / (n1 - 1))
        levels = np.stack([below, above])
        d, q = m1 - m0, np.where(levels > 0, -stdtrit(df, levels), np.inf)  # not of 1 - level: it would lose digits
        p = _p_value(lambda z: stdtr(df, z), (d - null) / np.sqrt(v), alternative)
        value, variance, together = (m0, v0, -v0) if base is None else (np.asarray(a, dtype=float) for a in base)
        lift = np.where(value > 0, d / value, np.nan)
        lift_low = _fieller(d, v, value, variance, together, q[0], -1)
        lift_high = _fieller(d, v, value, variance, together, q[1], 1)
        low, high = d - q[0] * np.sqrt(v), d + q[1] * np.sqrt(v)
    first, second = value + 0 * m1, m1 if base is None else value + d
    return Contrast(first, second, d, low, high, lift, lift_low, lift_high, p, np.asarray(df))


def _fieller(d: Floats, v: Floats, value: Floats, variance: Floats, together: Floats, q: Floats, side: int) -> Floats:
    """Bound of ``d / value`` on one `side`: the root of (d - L value)² = q² Var(d - L value), infinite without one."""
    q2 = np.where(np.isfinite(q), q, np.nan) ** 2
    a, b, c = value**2 - q2 * variance, value * d - q2 * together, d**2 - q2 * v
    span = np.sqrt(np.maximum(b**2 - a * c, 0))
    bounded = (b + side * span) / a
    # the value cannot be told from 0: one branch beyond the roots holds the estimate, and leaves out 0 if the test does
    end = np.where((c > 0) & (d * side < 0), (b - side * np.copysign(span, a)) / a, side * np.inf)
    bound = np.where(np.isnan(q2), side * np.inf, np.where(a > 0, bounded, end))
    return np.where((value > 0) & np.isfinite(v), bound, np.nan)


def exact_rates(
    control: tuple[int, int], treatment: tuple[int, int], *, alpha: float = 0.05, alternative: str = "two-sided",
    null: float = 0.0,
) -> Contrast:  # fmt: skip
    """Exact unconditional version of `rates` for small counts: at least the coverage promised, whatever the rates.

    A tail is the largest chance, over the rates that fit the null, of a score statistic at least as far out; both tails
    count equally. Bounds invert it, for the difference and for the ratio. Chan & Zhang (1999), Biometrics 55:1202-1209;
    Barnard (1947), Biometrika 34:123-138. Parameters as in `rates`.

    >>> c = exact_rates((7, 15), (12, 15), alternative="larger")
    >>> round(float(c.p_value), 4)
    0.0341
    """
    plain, (below, above) = rates(control, treatment), tails(alpha, alternative)
    arms = (*control, *treatment)
    p = {side: float(_tail(_by_difference, null, side, *arms)) for side in (1, -1)}
    chosen = {"two-sided": min(1.0, 2 * min(p.values())), "larger": p[1], "smaller": p[-1]}[alternative]
    sides = ((1, float(below)), (-1, float(above)))
    low, high = np.array([_bound(_by_difference, *side, null, float(plain.difference), *arms) for side in sides])
    part = 1.0 if plain.lift == np.inf else float((1 + plain.lift) / (2 + plain.lift))
    ends = np.array([_bound(_by_ratio, *side, 0.5, part, *arms) for side in sides])
    with np.errstate(divide="ignore", invalid="ignore"):
        lifts = ends / (1 - ends) - 1 if part == part else np.full(2, np.nan)
    found = plain._replace(p_value=np.asarray(chosen), difference_low=low, difference_high=high)
    return found._replace(lift_low=lifts[0], lift_high=lifts[1])


def _bound(by: Distance, side: int, level: float, null: float, estimate: float, *arms: int) -> float:
    """Where the tail of `side` becomes the level: on the side of the null on which the test puts it."""
    end = (-1.0 if by is _by_difference else 0.0) if side > 0 else 1.0
    if level == 0 or not abs(estimate - end) > NEAR:
        return end
    past = _tail(by, null, side, *arms) < level
    inner = estimate if past else side * min(side * estimate, side * null)
    outer = null if past else end
    while abs(inner - outer) > 1e-10:
        half = (inner + outer) / 2
        inside = _tail(by, half, side, *arms) >= level
        inner, outer = (half, outer) if inside else (inner, half)
    return inner


def _tail(by: Distance, at: float, side: int, x0: int, n0: int, x1: int, n1: int) -> float:
    """Largest chance of a distance at least as far to one side, over all pairs of rates that `at` allows."""
    i, j = np.arange(n0 + 1.0)[:, None], np.arange(n1 + 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap, error = by(np.asarray(at), i, np.asarray(float(n0)), j, np.asarray(float(n1)))
        z = side * np.where(np.abs(gap) < NEAR, 0, gap / error)
    out = z >= z[x0, x1] - 1e-9
    first, last = (max(0, -at), min(1, 1 - at)) if by is _by_difference else (0, min(1, (1 - at) / max(at, NEAR)))
    best = 0.0
    for _ in range(3):  # ever closer around the worst rate
        rate = np.linspace(first, last, 65)
        other = rate + at if by is _by_difference else rate * at / (1 - at)
        chance = ((_binomial(n0, rate) @ out) * _binomial(n1, np.clip(other, 0, 1))).sum(axis=1)
        worst, step, best = rate[chance.argmax()], rate[1] - rate[0], max(best, float(chance.max()))
        first, last = max(first, worst - step), min(last, worst + step)
    return best


def _binomial(n: int, rate: Floats) -> Floats:
    """Chances of 0 to n successes, one row a rate."""
    k = np.arange(n + 1.0)
    log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.asarray(np.exp(log + xlogy(k, rate[:, None]) + xlog1py(n - k, -rate[:, None])))


def bayes_rates(
    control: tuple[ArrayLike, ArrayLike], treatment: tuple[ArrayLike, ArrayLike], *, prior: tuple[float, float] = (1, 1)
) -> tuple[Floats, Floats]:
    """Chance that the treatment's rate is the higher one, and what is lost on average by choosing the treatment.

    Counts as in `rates`, a beta `prior` for each rate. The loss is E max(control - treatment, 0), a fraction; that of
    choosing the control is the same less the expected difference, treatment - control. Stucchio (2015), Bayesian A/B
    testing at VWO, on the loss; Gauss-Legendre quadrature over the narrower of the two.

    >>> chance, loss = bayes_rates((1000, 10000), (1100, 10000))
    >>> round(float(chance), 8), f"{float(loss):.6e}"
    (0.98945735, '1.558244e-05')
    """
    given = (np.asarray(v, dtype=float) for v in (*control, *treatment))
    x0, n0, x1, n1 = (v[..., None] for v in np.broadcast_arrays(*given))
    first, second = (x0 + prior[0], n0 - x0 + prior[1]), (x1 + prior[0], n1 - x1 + prior[1])
    narrow = n0 > n1  # the control
    near, far = (tuple(np.where(narrow == k, a, b) for a, b in zip(first, second, strict=True)) for k in (True, False))
    low, high = betaincinv(*near, 1e-15), betaincinv(*near, 1 - 1e-15)
    x = low + (high - low) * (NODES + 1) / 2
    mass = np.exp(xlogy(near[0] - 1, x) + xlog1py(near[1] - 1, -x) - betaln(*near)) * WEIGHTS * (high - low) / 2
    below, mean = betainc(*far, x), far[0] / (far[0] + far[1])
    part = mean * below - np.exp(xlogy(far[0], x) + xlog1py(far[1], -x) - betaln(*far)) / (far[0] + far[1])
    chance = (mass * np.where(narrow, 1 - below, below)).sum(-1)  # part is E of far where it lies below
    return chance, (mass * np.where(narrow, x * below - part, mean - part - x * (1 - below))).sum(-1)


def bayes_means(difference: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats]:
    """As `bayes_rates` of averages: from a difference and its standard error, normal, without a prior opinion.

    >>> [round(float(v), 4) for v in bayes_means(0.0, 1.0)]
    [0.5, 0.3989]
    """
    d, e = np.asarray(difference, dtype=float), np.asarray(error, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = d / np.where(e > 0, e, np.nan)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return ndtr(z), np.maximum(e * density - d * ndtr(-z), 0)
