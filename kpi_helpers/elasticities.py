"""How a KPI went with spend in the past: the elasticity, with its interval. It is never an effect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from kpi_helpers.errors import require
from kpi_helpers.result import Result, number, say

FEWEST, SHORT = 30, 60  # usable periods: for any estimate; for one that stands without the prior
LEAST_CHANGE = 0.05  # standard deviation of log spend beside season and trend
PRIOR = (0.5, 0.3)  # mean and standard deviation of elasticities, where the history is short


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
