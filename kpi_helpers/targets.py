"""Targets with odds: grade uplifts, targets at chosen odds, allocate a total, project a year by its season."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from kpi_helpers.errors import require
from kpi_helpers.rates import shrink_rates as shrink_rates
from kpi_helpers.result import Framed, number, probability, say, uplift
from kpi_helpers.stats import Floats, chance_above

GRADES = ((0.5, "safe"), (0.2, "stretch"), (0.05, "ambitious"), (0.0, "unrealistic"))  # lowest probability of each
MOST_ELASTIC = 1.5  # no target may imply a higher elasticity, unless history supports it


class TargetGrades(Framed):
    """Odds of each `target`, the mean times one plus its `uplift` (0.10 = 10% better: of a cost, 10% lower).

    `implied_elasticity`: ln(1 + uplift) / ln(1 + spend growth), NaN unless spend grows; `rejected` where it exceeds
    `most_elastic`: 1.5 or, if higher, the upper 95% bound of the elasticity.
    """

    columns = ("uplift", "target", "probability", "grade", "implied_elasticity", "rejected")

    def sentence(self, language: str = "en") -> str:
        graded, refused = list[str](), list[str]()
        known = "supported" if self.most_elastic > MOST_ELASTIC else "plausible"
        growth = uplift(self.spend_growth, language) if True in self.rejected else ""
        told = {"most": number(self.most_elastic, language, decimals=2), "growth": growth}
        for row in self.to_frame().itertuples():
            told |= {"uplift": uplift(row.uplift, language), "chance": probability(row.probability, language)}
            told |= {"elasticity": number(row.implied_elasticity, language, decimals=2)}
            graded += [say("target_grades.row", language, **told, grade=say(f"status.{row.grade}", language).lower())]
            refused += [say(f"target_grades.{known}", language, **told)] if row.rejected else []
        return "; ".join(graded + refused)


def grade_uplifts(
    mean: float, sd: float, uplifts: ArrayLike, *, spend_growth: float | None = None,
    elasticity: float | None = None, elasticity_se: float | None = None, direction: str = "up",
) -> TargetGrades:  # fmt: skip
    """Grade targets that lie above a forecast by the chance that a normal total reaches them.

    With an `elasticity` more spend moves the mean by (1 + spend_growth) ** elasticity (Hanssens, Parsons & Schultz
    2001, Market Response Models, ch. 3), and its standard error adds to the spread. Parameters: `mean` and `sd` of the
    total, in the KPI's unit, both above 0; `uplifts`, fractions on top of `mean`, above −1; `spend_growth`, planned, a
    fraction above −1; `elasticity`, percent more of the KPI for one percent more spend, and its standard error;
    `direction`, "up", or "down" for costs: the target lies below the mean, and none is rejected. Raises `KpiError` if
    an argument is out of range, or ``sd`` is 0 so that no odds can be computed.

    >>> grade_uplifts(12000, 900, [0.10, 0.15, 0.20], spend_growth=0.10)
    +10%: 9% (ambitious); +15%: 2% (unrealistic); +20%: <1% (unrealistic); \
+20% for +10% spend implies an elasticity of 1.91; at most 1.50 is plausible: rejected
    """
    up = np.atleast_1d(np.asarray(uplifts, dtype=float))
    growth, slope, slope_se = spend_growth or 0.0, elasticity or 0.0, elasticity_se or 0.0
    require(0 < mean < math.inf, f"mean={mean} must be above 0 to put an uplift on it.")
    require(0 <= sd < math.inf, f"sd={sd} must be a standard deviation, above 0.")
    require(sd > 0, "The odds cannot be computed, because sd=0: the history never missed its own forecast.")
    require(bool(np.all(np.isfinite(up) & (up > -1))), f"uplifts={up} must be fractions above -1: 0.10 is 10%.")
    require(direction in ("up", "down"), f"direction={direction!r} is neither 'up' nor 'down'.")
    require(direction == "up" or bool(np.all(up < 1)), f"uplifts={up}: a cost cannot fall by 100% or more.")
    require(-1 < growth < math.inf, f"spend_growth={spend_growth} must be above -1: 0.10 is 10%.")
    require(math.isfinite(slope), f"elasticity={elasticity} must be a finite number, or left out.")
    require(elasticity is None or spend_growth is not None, "elasticity needs spend_growth. Pass both or neither.")
    right = 0 <= slope_se < math.inf and (elasticity_se is None or elasticity is not None)
    require(right, f"elasticity_se={elasticity_se} needs an elasticity and must not be negative.")
    centre = mean * (1 + growth) ** slope
    factor = 1 + up if direction == "up" else 1 - up
    above = chance_above(mean * factor, centre, math.hypot(sd, centre * math.log1p(growth) * slope_se))
    chances = above if direction == "up" else 1 - above
    implied = np.log(factor) / math.log1p(growth) if growth > 0 else up * np.nan
    most = max(MOST_ELASTIC, slope + 1.96 * slope_se)
    grades, rejected = [rank(p, GRADES) for p in chances], (implied > most) & (direction == "up")
    rows = zip(*(np.array(v).tolist() for v in (up, mean * factor, chances, grades, implied, rejected)), strict=True)
    return TargetGrades.of(rows, most_elastic=most, spend_growth=math.nan if spend_growth is None else spend_growth)


def target_at(mean: ArrayLike, sd: ArrayLike, odds: ArrayLike, direction: str = "up") -> Floats:
    """Target that a normal total reaches with the chosen odds; with ``direction="down"``, stays below.

    Parameters: `mean` and `sd` in the KPI's unit, `sd` above 0; `odds` in (0, 1); each array_like. Raises `KpiError` if
    one is out of range.

    >>> target_at(12000, 900, [0.8, 0.5, 0.2]).round(4).tolist()
    [11242.5409, 12000.0, 12757.4591]
    """
    m, s, p = (np.asarray(v, dtype=float) for v in (mean, sd, odds))
    good = direction in ("up", "down") and np.all((p > 0) & (p < 1)) and np.all(np.isfinite(m + s) & (s > 0))
    require(bool(good), f"{mean=}, {sd=}, {odds=}, {direction=}: sd above 0, odds in (0, 1), 'up' or 'down', please.")
    return np.asarray(m + s * ndtri(1 - p if direction == "up" else p))


def chance_of_all(
    means: ArrayLike, sds: ArrayLike, correlation: ArrayLike, targets: ArrayLike, directions: str | Sequence[str] = "up"
) -> float:
    """Odds that all targets are met together, from a multivariate normal, to 0.1 percentage points.

    A correlation that no data can have is mended: its negative eigenvalues are set to 0. Parameters: `means`, `sds` and
    `targets` (k,), in each KPI's unit, `sds` above 0; `correlation` (k, k), of the forecasts' errors; `directions`,
    "up" or "down" or one a target: whether a total must reach it or stay below. Raises `KpiError` if shapes differ or
    an argument is out of range.

    >>> round(chance_of_all([100, 50], [10, 5], [[1, 0.5], [0.5, 1]], [100, 50]), 4)  # 1/4 + asin(0.5) / 2π
    0.3333
    """
    from scipy.stats import multivariate_normal

    m, s, goal = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (means, sds, targets))
    r, k = np.asarray(correlation, dtype=float), len(m)
    ways = np.array([directions] * k if isinstance(directions, str) else directions)
    fits = m.shape == s.shape == goal.shape == ways.shape == (k,) and r.shape == (k, k) and k > 0
    good = fits and np.isfinite([m, s, goal]).all() and (s > 0).all() and {*ways} <= {"up", "down"}
    good = good and np.allclose(r, r.T) and np.allclose(np.diag(r), 1) and np.abs(r).max() < 1 + 1e-9
    require(bool(good), f"{k} means need as many sds above 0, targets, directions (up, down), "
            "a symmetric correlation with 1 on its diagonal, no gaps.")  # fmt: skip
    sign = np.where(ways == "up", 1.0, -1.0)
    values, vectors = np.linalg.eigh(sign[:, None] * r * sign)
    mended = (vectors * values.clip(0)) @ vectors.T
    spread, limit = np.sqrt(np.diag(mended)), sign * (m - goal) / s
    chance = multivariate_normal.cdf(limit, cov=mended / np.outer(spread, spread), allow_singular=True, rng=0)
    return float(np.clip(chance, max(0.0, 1 - ndtr(-limit).sum()), ndtr(limit).min()))  # never beyond Fréchet's bounds


def allocate(total: float, weights: ArrayLike) -> list[int]:
    """Split a whole number in proportion to weights; the parts add up to it exactly.

    Largest remainder: each part is rounded down, and what is left goes to the largest fractions, ties to the earlier.
    Parameters: `total`, a whole number, 0 or more; `weights` (n,), none negative, at least one above 0. Raises
    `KpiError` if they are not.

    >>> allocate(10, [1, 1, 1])
    [4, 3, 3]
    """
    whole = isinstance(total, int | np.integer) or (math.isfinite(total) and total.is_integer())
    require(whole and total >= 0, f"total={total} must be a whole number, 0 or more. Round it.")
    given = np.asarray(weights, dtype=float)
    good = given.ndim == 1 and len(given) > 0 and bool(np.all(np.isfinite(given) & (given >= 0))) and given.sum() > 0
    require(good, f"weights={given} must be a list of numbers, none negative, not all 0.")
    return _split(int(total), [Fraction(repr(w)) for w in given.tolist()])  # decimals as written: a tie is a tie


def _split(total: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [total * share / (sum(shares) or 1) for share in shares]
    parts = [math.floor(part) for part in exact]
    more = {*sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))[: total - sum(parts)]}
    return [part + (i in more) for i, part in enumerate(parts)]


def allocate_levels(total: float, weights: pd.Series) -> pd.Series:
    """Split a whole number down the levels of an index, such as year, month, week, channel.

    From the top: the parts of every level add up to the one above exactly, each within 1 of its share of it.
    Parameters: `total`, a whole number, 0 or more; `weights`, none negative, not all 0, their index unique, the
    outermost level first. Raises `KpiError` if they are not.

    >>> months = pd.MultiIndex.from_tuples([("Q1", 1), ("Q1", 2), ("Q2", 4)])
    >>> allocate_levels(10, pd.Series([1, 1, 1], months)).tolist()
    [4, 3, 3]
    """
    index, given = weights.index, weights.to_numpy(dtype=float)
    allocate(total, given)  # refuses what is no total or no proportion
    require(index.is_unique and index.to_frame().notna().all(axis=None), "weights need a unique index, none missing.")
    keys = [key if isinstance(key, tuple) else (key,) for key in index]
    parts: dict[Any, int] = {(): int(total)}
    for level in range(index.nlevels):
        below: dict[Any, dict[Any, Fraction]] = {above: {} for above in parts}
        for key, weight in zip(keys, given.tolist(), strict=True):
            group, name = below[key[:level]], key[: level + 1]
            group[name] = group.get(name, Fraction()) + Fraction(repr(weight))
        split = [(group, _split(parts[above], [*group.values()])) for above, group in below.items()]
        parts = {name: part for group, found in split for name, part in zip(group, found, strict=True)}
    return pd.Series([parts[key] for key in keys], index=index, dtype="int64", name=weights.name)


def project(actuals: ArrayLike, weights: ArrayLike) -> float:
    """Project a year from its first periods by the season, never by a straight line.

    Parameters: `actuals` (k,), values of the first k periods, NaN is missing; `weights` (n,), n >= k, seasonal weights
    of all periods, such as the values of last year. Raises `KpiError` if there are more actuals than weights, or no
    known period carries weight.

    >>> indices = [0.9, 0.6, 0.9, 1, 1, 1, 1, 1, 1.05, 1.1, 1.15, 1.3]
    >>> round(project([9100, 5600, 9400], indices), 6)
    120500.0
    """
    done, w = np.asarray(actuals, dtype=float), np.asarray(weights, dtype=float)
    require(len(done) <= len(w), f"{len(done)} actuals but {len(w)} weights. Give a weight for each period.")
    require(bool(np.all(np.isfinite(w) & (w >= 0))), "weights must be numbers, none negative and none missing.")
    weight = w[: len(done)][known := np.isfinite(done)].sum()
    require(weight > 0, "A projection cannot be computed, because no period with weight is known.")
    return float(done[known].sum() * (w.sum() / weight))


def rank(chance: float, scale: Sequence[tuple[float, str]]) -> str:
    """First word of `scale` whose lowest probability `chance` reaches."""
    return next(word for lowest, word in scale if chance >= lowest)
