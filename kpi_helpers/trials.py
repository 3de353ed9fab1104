"""Experiments without any effect, run thousands of times: how often does a test raise a false alarm?"""

from typing import Any, ClassVar

import numpy as np
from scipy.special import bdtrik

from kpi_helpers import contrasts
from kpi_helpers.comparisons import contrast
from kpi_helpers.errors import require, require_known
from kpi_helpers.moments import Columns
from kpi_helpers.result import Framed, number, percent, say

ALPHA, DRAWN, WEEKS, RATES = 0.05, 500_000, 4, {"rate": 1, "many metrics": 20}  # DRAWN units at once; rows of a store
KINDS = (*RATES, "mean", "skewed", "ratio", "adjusted", "wrong unit")
USERS = np.array([(0, 1, 0.25), (1, 1, 0.2), (0, 2, 0.2), (1, 2, 0.1), (2, 2, 0.05), (0, 6, 0.1), (2, 6, 0.1)])


class FalseAlarms(Framed):
    """Share of runs with p < 0.05 by tail, where an exact test's lies between `low` and `high` 99 times in 100."""

    columns: ClassVar = ("tail", "share", "low", "high")

    def sentence(self, language: str = "en") -> str:
        told = {name: percent(v, language) for name, v in zip(self.tail, self.share, strict=True)}
        told |= {"low": percent(self.low[0], language), "high": percent(self.high[0], language)}
        told["runs"], key = number(self.runs, language), "inside" if self.inside else "outside"
        return say(f"trials.{key}", language, **told)


def false_alarms(
    kind: str, *, n: tuple[int, int] = (2000, 2000), runs: int = 10_000, seed: int = 1, pooled: bool = False,
    correlation: float = 0.9,
) -> FalseAlarms:  # fmt: skip
    """Run experiments without any effect (A/A), `n` units of control and treatment, and count false alarms by tail.

    Kinds: "rate" (10%), "mean" (exponential), "skewed" (5% buy, lognormal with sigma 1.5), "ratio" (orders by session
    of users), "adjusted" (CUPED); and two wrong ways: "wrong unit" (four weeks of a store, with their `correlation`, as
    if each were a store) and "many metrics" (the best of 20 rates). `pooled` takes one variance for both arms of means.

    >>> false_alarms("many metrics", runs=2000).share[0] > 0.6  # 1 - 0.95**20 is 0.64
    True
    """
    require_known(kind, KINDS, f"kind={kind!r} is not known.")
    fine, rule = min(*n, runs + 1) >= 2 and 0 <= correlation <= 1, "an arm needs two units, a trial one run, or more"
    require(fine, f"n={n}, runs={runs}, correlation={correlation}: {rule}; a correlation is in [0, 1].")
    rng = np.random.default_rng(seed)
    if kind in RATES:  # without an error there are no intervals, which take their time
        found = contrasts.rates(*((rng.binomial(m, 0.1, (RATES[kind], runs)), m) for m in n), alpha=np.nan)
    else:
        arms = [_arm(kind, rng, m, runs, correlation) for m in n]
        found = contrast(kind if kind in ("ratio", "adjusted") else "mean", *arms, pooled=pooled)
    p, up = (np.atleast_2d(v) for v in (np.nan_to_num(found.p_value, nan=1), found.difference > 0))
    alarm, up = p.min(axis=0) < ALPHA, up[p.argmin(axis=0), np.arange(runs)]
    share = np.array([seen.mean() for seen in (alarm, alarm & ~up, alarm & up)])
    low, high = np.ceil(bdtrik([[0.005], [0.995]], runs, ALPHA / np.array([1, 2, 2]))) / runs
    rows = zip(("all", "lower", "higher"), share.tolist(), low.tolist(), high.tolist(), strict=True)
    return FalseAlarms.of(rows, runs=runs, inside=bool(((low <= share) & (share <= high)).all()))


def _arm(kind: str, rng: np.random.Generator, n: int, runs: int, correlation: float) -> Columns:
    """Moments of an arm in each run, some runs at once: sums by their own law if they have one, else from units."""
    each, size = max(1, DRAWN // n), n * WEEKS if kind == "wrong unit" else n
    blocks = [_sums(kind, rng, n, min(each, runs - done), correlation) for done in range(0, runs, each)]
    means, products = (np.concatenate(v) / size for v in zip(*blocks, strict=True))
    return np.full(runs, float(size)), means, (products - means[:, :, None] * means[:, None, :]) * size / (size - 1)


def _sums(kind: str, rng: np.random.Generator, n: int, runs: int, rho: float) -> tuple[Any, Any]:
    if kind == "ratio":
        counts, users = rng.multinomial(n, USERS[:, 2], runs), USERS[:, :2]  # who comes more often orders less often
        return counts @ users, np.einsum("ru,ui,uj->rij", counts, users, users)
    if kind == "skewed":
        buyers = rng.binomial(n, 0.05, runs)
        run, spent = np.repeat(np.arange(runs), buyers), rng.lognormal(0, 1.5, buyers.sum())
        return np.bincount(run, spent, runs)[:, None], np.bincount(run, spent**2, runs)[:, None, None]
    if kind == "wrong unit":
        stores, weeks = rng.standard_normal((runs, n, 1)), rng.standard_normal((runs, n, WEEKS))
        x = (np.sqrt(rho) * stores + np.sqrt(1 - rho) * weeks).reshape(runs, -1, 1)
    else:  # an outcome holds its covariate and as much again
        x = rng.standard_exponential((runs, n, 1 + (kind == "adjusted"))).cumsum(axis=2)[:, :, ::-1]
    return x.sum(axis=1), x.swapaxes(1, 2) @ x
