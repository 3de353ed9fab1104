"""What the past tells: rates of small counts, shrunk; what a funnel needs upstream; how a KPI went with spend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, betaln, expit, logit, stdtrit, xlogy

from kpi_helpers.errors import require
from kpi_helpers.result import Framed, Result, measure, number, say
from kpi_helpers.stats import Floats, wilson

FEWEST, SHORT = 30, 60  # usable periods: for any estimate; for one that stands without the prior
LEAST_CHANGE = 0.05  # standard deviation of log spend beside season and trend
PRIOR = (0.5, 0.3)  # mean and standard deviation of elasticities, where the history is short


class ShrunkRates(Framed):
    """Rates of segments drawn towards a common Beta(a, b); `pooled` (a, b infinite): one mean for all."""

    columns = ("mean", "mean_low", "mean_high")

    def sentence(self, language: str = "en") -> str:
        low, high = (measure(f(self.mean), "share", language) for f in (min, max))
        kind = "pooled" if self.pooled else "sentence"
        return say(f"shrunk_rates.{kind}", language, n=len(self.mean), low=low, high=high)


def shrink_rates(successes: ArrayLike, trials: ArrayLike, *, prior: tuple[float, float] | None = None) -> ShrunkRates:
    """Shrink the rates of segments towards each other, the more the fewer their trials.

    Without a `prior` the means take the likeliest beta distribution (Griffiths 1973, Biometrics 29:637-648), never
    weaker than one trial; the 90% intervals allow for not knowing it. Parameters: `successes` and `trials` (n,),
    counts, 0 <= successes <= trials, no trial gives the common mean; `prior`, (a, b) of the beta distribution of the
    rates, both above 0. Raises `KpiError` if the counts are impossible, or there is neither a trial nor a prior.

    >>> shrink_rates([2, 30, 1, 90, 20], [100, 300, 40, 600, 500])
    5 rates between 3.20% and 14.6%, small counts drawn towards the common mean.
    """
    x, n = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (successes, trials))
    possible = x.ndim == 1 and x.shape == n.shape and len(x) > 0 and bool(np.all((x >= 0) & (x <= n) & np.isfinite(n)))
    require(possible, f"successes={x}, trials={n}: each segment needs 0 <= successes <= trials. Were they swapped?")
    a, b = map(float, prior or _likeliest(x, n))
    require(a > 0 and b > 0, f"prior={prior} must be two numbers above 0.")
    pooled = math.isinf(a)
    mean = x.sum() / n.sum() + 0 * x if pooled else (a + x) / (a + b + n)
    shapes = (a + x, b + n - x) if prior else _beta_of_each(x, n)
    low, high = (betaincinv(*shapes, tail) for tail in (0.05, 0.95))
    rows = np.column_stack([mean, np.minimum(low, mean), np.maximum(high, mean)]).tolist()
    return ShrunkRates.of(rows, a=a, b=b, pooled=pooled)


def _beta_of_each(x: Floats, n: Floats) -> tuple[Floats, Floats]:
    # a priori a / (a + b) and 1 / sqrt(a + b) are uniform (Gelman et al. 2013, Bayesian Data Analysis, section 5.3)
    size = np.geomspace(1, 100 * n.max(), 40)[:, None]  # a + b
    worth = (size + 1) / (size + n.clip(1))  # of a trial, the less the more alike those of a segment are
    tried, won = ((worth * v).sum(axis=1, keepdims=True) for v in (n, x))
    centre = (won + 0.5) / (tried + 1)
    step = 1 / np.sqrt(centre * (1 - centre) * (tried + 1))  # standard error of its logit
    rate = expit(logit(centre) + step * np.linspace(-3, 3, 9))
    a, b = (size * rate)[..., None], (size * (1 - rate))[..., None]
    likely = _log_likelihood(a, b, x, n)
    weight = np.exp(likely - likely.max()) * rate * (1 - rate) * step / np.sqrt(size)  # by the spacing of the grid
    weight = weight[..., None] / weight.sum()
    each = (a + x) / (a + b + n)
    mean = (weight * each).sum(axis=(0, 1))
    variance = (weight * ((each - mean) ** 2 + each * (1 - each) / (a + b + n + 1))).sum(axis=(0, 1))
    total = mean * (1 - mean) / variance - 1
    return mean * total, (1 - mean) * total


def _log_likelihood(a: Floats, b: Floats, x: Floats, n: Floats) -> Floats:
    return np.asarray((betaln(a + x, b + n - x) - betaln(a, b)).sum(axis=-1))


def _likeliest(x: Floats, n: Floats) -> tuple[float, float]:
    """Maximum likelihood of (a, b); infinite where no finite pair beats one rate for all."""
    from scipy.optimize import minimize

    require(n.sum() > 0, "The rates cannot be computed, because no segment has a trial. Give a prior.")
    p = x.sum() / n.sum()
    together = float((xlogy(x, p) + xlogy(n - x, 1 - p)).sum())
    if together == 0:  # none or all succeeded
        return math.inf, math.inf

    def loss(t: Any) -> float:
        a, b = np.exp(t[1]) * expit([t[0], -t[0]])
        return -float(_log_likelihood(a, b, x, n))

    sizes = np.linspace(0, math.log(100 * n.max()), 40)  # log of a + b; beyond 100 times the data all are pooled
    start = min(([logit(p), size] for size in sizes), key=loss)
    best = minimize(loss, start, method="Nelder-Mead", bounds=[(-40, 40), (0, sizes[-1])], options={"xatol": 1e-8})
    finite = -best.fun > together + 1e-9 * (1 - together)
    return tuple(np.exp(best.x[1]) * expit([best.x[0], -best.x[0]])) if finite else (math.inf, math.inf)


class FunnelNeeds(Framed):
    """What must enter each step of a funnel, whole counts with 90% interval, for `target` to leave the last."""

    columns = ("need", "need_low", "need_high")

    def sentence(self, language: str = "en") -> str:
        told = {k: number(getattr(self, k)[0], language) for k in ("need", "need_low", "need_high")}
        return say("funnel_needs.sentence", language, **told, target=number(self.target, language))


def upstream_needs(target: float, steps: Sequence[tuple[int, int]]) -> FunnelNeeds:
    """Turn a target at the end of a funnel into what each step needs at the rates of the past.

    The 90% intervals (logs of Wilson limits, Zou & Donner 2008, Statistics in Medicine 27:1693-1702) know chance alone,
    not that rates change. Parameters: `target`, a count to leave the last step, above 0; `steps`, whole counts
    (successes, trials), the outermost first. Raises `KpiError` if a count is impossible, or a step never succeeded.

    >>> upstream_needs(120, [(500, 10_000), (60, 500)])
    For 120 at the end, 20,000 must enter at the top (16,235 to 24,767, 90% interval).
    """
    require(0 < target < math.inf, f"target={target} must be a count above 0.")
    possible = len(steps) > 0 and all(0 <= x <= n and n >= 1 and x % 1 == n % 1 == 0 for x, n in steps)
    require(possible, f"steps={steps} must be pairs of whole counts (successes, trials). Were they swapped?")
    require(all(x for x, _n in steps), f"The needs cannot be computed, because a step never succeeded: {steps}.")
    needs = [math.ceil(target)]  # from the last step up
    for won, tried in reversed(steps):
        needs.append(-(-needs[-1] * int(tried) // int(won)))  # whole numbers, rounded up
    x, n = np.array(steps[::-1], dtype=float).T
    more, fewer = (np.exp(np.sqrt(np.cumsum(np.log(end * n / x) ** 2))) for end in wilson(x, n, confidence=0.9))
    exact = needs[0] / np.cumprod(x / n)
    rows = np.ceil([needs[1:], np.maximum(exact / fewer, needs[0]), np.maximum(exact * more, needs[1:])]).astype(int)
    return FunnelNeeds.of(rows.T[::-1].tolist(), target=needs[0])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Elasticity(Result):
    """Percent of the KPI that went together with 1% more spend, 1.96 `se` to `low` and `high`; NaN with a `reason`.

    `n_zero` periods without spend or result are left out; `shrunk`: a short history, drawn towards 0.5.
    """

    elasticity: float = math.nan
    low: float = math.nan
    high: float = math.nan
    se: float = math.nan
    n: int
    n_zero: int
    shrunk: bool = False
    reason: str = ""

    def sentence(self, language: str = "en") -> str:
        told = {k: number(getattr(self, k), language, decimals=2) for k in ("elasticity", "low", "high")}
        said = say(f"elasticity.{self.reason or 'sentence'}", language, n=self.n, n_zero=self.n_zero, **told)
        return f"{said} {say('elasticity.shrunk', language)}" if self.shrunk else said


def estimate_elasticity(kpi: ArrayLike, spend: ArrayLike, *, season: float | Sequence[float]) -> Elasticity:
    """Estimate the elasticity of a KPI to spend from their history: least squares on logs beside season and trend.

    Errors may last: the variance is the mean of K = 0.4 n^(2/3) squared cosine sums, with Student's t of K degrees
    (Lazarus, Lewis, Stock & Watson 2018, JBES 36:541-559). What moved both, such as demand, is in the estimate too.
    Parameters: `kpi` and `spend` (n,), values of the same consecutive periods, none negative, NaN is missing; `season`,
    periods in a season: 52 for weeks, 12 for months, (7, 364) for days, of each of which up to three waves are fitted.
    Raises `KpiError` if the lengths differ or a value is negative.

    >>> spend = np.exp(np.sin(np.arange(120.0) ** 2))
    >>> round(estimate_elasticity(3 * spend**0.6, spend, season=7).elasticity, 6)
    0.6
    """
    y, x = np.asarray(kpi, dtype=float), np.asarray(spend, dtype=float)
    require(y.ndim == 1 and y.shape == x.shape, f"kpi has shape {y.shape}, spend {x.shape}. Give both by period.")
    require(not np.any((y < 0) | (x < 0)), "kpi and spend must not be negative. Take refunds out first.")
    known = np.isfinite(y) & np.isfinite(x)
    used = known & (y > 0) & (x > 0)
    n, n_zero, seasons = int(used.sum()), int((known & ~used).sum()), np.atleast_1d(np.asarray(season, dtype=float))
    t = np.arange(len(y))
    waves = [f(2 * np.pi * k * t / s) for s in seasons for k in (1, 2, 3) if 2 * k < s for f in (np.cos, np.sin)]
    z = np.column_stack([np.ones(len(y)), t, *waves])[used]
    logs = np.log(np.column_stack([y, x])[used])
    left, paid = (logs - z @ np.linalg.lstsq(z, logs)[0]).T  # what season and trend leave
    many_zeros = (known & (x > 0) & (y == 0)).sum() > n / 20  # to leave out many failures would flatter spend
    reason = "short" if n < max(FEWEST, 2 * z.shape[1]) else "zeros" if many_zeros else ""
    if reason or paid.std() < LEAST_CHANGE:
        return Elasticity(n=n, n_zero=n_zero, reason=reason or "flat")
    slope, score = float(paid @ left / (paid @ paid)), np.zeros(len(y))
    score[used] = paid * (left - slope * paid)  # missing periods keep their place
    k = int(0.4 * n ** (2 / 3))
    cosines = np.cos(np.pi * np.outer(np.arange(1, k + 1), t + 0.5) / len(y))
    variance = 2 * float(np.mean((cosines @ score) ** 2)) * n / (n - z.shape[1] - 1)
    se = math.sqrt(variance) / float(paid @ paid) * float(stdtrit(k, 0.975)) / 1.96
    shrunk = bool(n < max(SHORT, 2 * seasons.max()))
    weight = PRIOR[1] ** 2 / (PRIOR[1] ** 2 + se**2) if shrunk else 1.0
    slope, se = PRIOR[0] + weight * (slope - PRIOR[0]), se * math.sqrt(weight)
    low, high = slope - 1.96 * se, slope + 1.96 * se
    return Elasticity(elasticity=slope, low=low, high=high, se=se, n=n, n_zero=n_zero, shrunk=shrunk)
