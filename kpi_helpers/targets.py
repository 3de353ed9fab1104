"""Targets with odds: grade uplifts, allocate a total, project a year by its season."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from kpi_helpers.errors import require
from kpi_helpers.result import Result, probability, say, uplift
from kpi_helpers.stats import chance_above

#: lowest probability of each grade
GRADES = ((0.5, "safe"), (0.2, "stretch"), (0.05, "ambitious"), (0.0, "unrealistic"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TargetGrades(Result):
    """Odds of reaching the expected total times one plus each uplift.

    Attributes
    ----------
    uplift : tuple of float
        Fractions, 0.10 = 10% better; for lower-is-better KPIs, 10% lower.
    target : tuple of float
        Totals to reach.
    probability : tuple of float
        Chance of reaching each, in (0, 1).
    grade : tuple of str
        safe (0.5 or more), stretch (0.2), ambitious (0.05), unrealistic.
    implied_elasticity : tuple of float
        ln(1 + uplift) / ln(1 + spend growth); NaN without a change of spend.
    """

    uplift: tuple[float, ...]
    target: tuple[float, ...]
    probability: tuple[float, ...]
    grade: tuple[str, ...]
    implied_elasticity: tuple[float, ...]

    def sentence(self, language: str = "en") -> str:
        """Each uplift with its chance and grade."""
        return "; ".join(
            say(
                "target_grades.row", language, uplift=uplift(u, language),
                chance=probability(p, language), grade=say(f"status.{g}", language).lower(),
            )
            for u, p, g in zip(self.uplift, self.probability, self.grade, strict=True)
        )  # fmt: skip


def grade_uplifts(
    mean: float, sd: float, uplifts: ArrayLike, *, spend_growth: float | None = None,
    elasticity: float | None = None, elasticity_se: float | None = None, direction: str = "up",
) -> TargetGrades:  # fmt: skip
    """Grade targets that lie above a forecast by the chance of reaching them.

    The total is taken as normal. Without `elasticity` the odds are those of the status quo; with it, more
    spend moves the mean by (1 + spend_growth) ** elasticity, and the elasticity's standard error adds to
    the spread.

    Parameters
    ----------
    mean, sd : float
        Expected total of the period and its standard deviation, in the KPI's unit; both above 0.
    uplifts : array_like
        Fractions on top of `mean`, above −1.
    spend_growth : float, optional
        Planned growth of spend, a fraction above −1.
    elasticity, elasticity_se : float, optional
        Percent more of the KPI for one percent more spend, and its standard error.
    direction : {"up", "down"}
        ``"down"`` for KPIs such as costs: the target lies below the mean and is reached from above.

    Raises
    ------
    KpiError
        If an argument is out of range, or ``sd`` is 0 so that no odds can be computed.

    References
    ----------
    Elasticity as the ratio of log changes: Hanssens, Parsons & Schultz (2001), Market Response Models, ch. 3.

    Examples
    --------
    >>> grade_uplifts(12000, 900, [0.10, 0.15, 0.20], spend_growth=0.10)
    +10%: 9% (ambitious); +15%: 2% (unrealistic); +20%: <1% (unrealistic)
    """
    up = np.atleast_1d(np.asarray(uplifts, dtype=float))
    require(math.isfinite(mean) and mean > 0, f"mean={mean} must be above 0 to put an uplift on it.")
    require(math.isfinite(sd) and sd >= 0, f"sd={sd} must be a standard deviation, above 0.")
    require(sd > 0, "The odds cannot be computed, because sd=0: the history never missed its own forecast.")
    require(bool(np.all(np.isfinite(up) & (up > -1))), f"uplifts={up} must be fractions above -1: 0.10 is 10%.")
    require(direction in ("up", "down"), f"direction={direction!r} is neither 'up' nor 'down'.")
    require(direction == "up" or bool(np.all(up < 1)), f"uplifts={up}: a cost cannot fall by 100% or more.")
    require(
        spend_growth is None or spend_growth > -1,
        f"spend_growth={spend_growth} must be above -1: 0.10 is 10%.",
    )
    for name, given in (("spend_growth", spend_growth), ("elasticity", elasticity), ("elasticity_se", elasticity_se)):
        require(given is None or math.isfinite(given), f"{name}={given} must be a finite number, or left out.")
    require(elasticity is None or spend_growth is not None, "elasticity needs spend_growth. Pass both or neither.")
    require(elasticity_se is None or (elasticity is not None and elasticity_se >= 0),
             f"elasticity_se={elasticity_se} needs an elasticity and must not be negative.")  # fmt: skip
    centre, spread = mean, sd
    if elasticity is not None and spend_growth is not None:
        centre = mean * (1 + spend_growth) ** elasticity
        spread = math.hypot(sd, centre * math.log1p(spend_growth) * (elasticity_se or 0.0))
    factor = 1 + up if direction == "up" else 1 - up
    above = chance_above(mean * factor, centre, spread)
    chances = above if direction == "up" else 1 - above
    implied = np.log(factor) / math.log1p(spend_growth) if spend_growth else up * np.nan
    return TargetGrades(
        uplift=tuple(up.tolist()),
        target=tuple((mean * factor).tolist()),
        probability=tuple(chances.tolist()),
        grade=tuple(rank(p, GRADES) for p in chances),
        implied_elasticity=tuple(implied.tolist()),
    )


def allocate(total: float, weights: ArrayLike) -> list[int]:
    """Split a whole number in proportion to weights; the parts add up to it exactly.

    Largest remainder: each part is rounded down, and what is left goes to the largest fractions, ties to
    the earlier.

    Parameters
    ----------
    total : int
        Whole number, 0 or more.
    weights : array_like (n,)
        None negative, at least one above 0.

    Raises
    ------
    KpiError
        If `total` is not a whole number or the weights are not proportions.

    Examples
    --------
    >>> allocate(10, [1, 1, 1])
    [4, 3, 3]
    """
    whole = isinstance(total, int | np.integer) or (math.isfinite(total) and total.is_integer())
    require(whole and total >= 0, f"total={total} must be a whole number, 0 or more. Round it.")
    given = np.asarray(weights, dtype=float)
    good = given.ndim == 1 and len(given) > 0 and bool(np.all(np.isfinite(given) & (given >= 0))) and given.sum() > 0
    require(good, f"weights={given} must be a list of numbers, none negative, not all 0.")
    shares = [Fraction(repr(w)) for w in given.tolist()]  # decimals as written: a tie is a tie
    exact = [int(total) * share / sum(shares) for share in shares]
    parts = [math.floor(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: int(total) - sum(parts)]:
        parts[i] += 1
    return parts


def project(actuals: ArrayLike, weights: ArrayLike) -> float:
    """Project a year from its first periods by the season, never by a straight line.

    Parameters
    ----------
    actuals : array_like (k,)
        Values of the first k periods; NaN is missing and its weight is left out.
    weights : array_like (n,), n >= k
        Seasonal weights of all periods, such as the values of last year.

    Returns
    -------
    float
        Σ actuals × Σ weights / Σ weights of the periods that are known.

    Raises
    ------
    KpiError
        If there are more actuals than weights, or no known period carries weight.

    Examples
    --------
    >>> indices = [0.9, 0.6, 0.9, 1, 1, 1, 1, 1, 1.05, 1.1, 1.15, 1.3]
    >>> round(project([9100, 5600, 9400], indices), 6)
    120500.0
    """
    done, w = np.asarray(actuals, dtype=float), np.asarray(weights, dtype=float)
    require(len(done) <= len(w), f"{len(done)} actuals but {len(w)} weights. Give a weight for each period.")
    require(bool(np.all(np.isfinite(w) & (w >= 0))), "weights must be numbers, none negative and none missing.")
    known = np.isfinite(done)
    require(
        w[: len(done)][known].sum() > 0,
        "A projection cannot be computed, because no period with weight is known.",
    )
    return float(done[known].sum() * (w.sum() / w[: len(done)][known].sum()))


def rank(chance: float, scale: Sequence[tuple[float, str]]) -> str:
    """First word of `scale` whose lowest probability `chance` reaches.

    >>> rank(0.0912, GRADES)
    'ambitious'
    """
    return next(word for lowest, word in scale if chance >= lowest)
