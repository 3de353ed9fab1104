"""Before an experiment: units, power, smallest effect and days, for rates, means and ratios, from history."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, ndtr, ndtri, stdtrit

from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Result, measure, number, percent, say
from kpi_helpers.stats import checked_confidence


class History(Protocol):
    """What the past knows of a mean or ratio: its `value`, and the `variance` of one unit (n times that of `value`)."""

    @property
    def value(self) -> float: ...
    @property
    def variance(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Result):
    """Units, `power` and absolute `effect` (treatment - control) that go together; `solved` is the one asked for.

    `days` until the units have come, by a history of `known_days` (0: none); NaN with the `reason` "history" if that is
    too short, as `effect` is with the reason "none" if these units cannot show one. `margin` is 0 if there is none.
    """

    n_control: int
    n_treatment: int
    n_total: int
    effect: float
    power: float
    days: float
    known_days: int
    baseline: float
    is_rate: bool
    confidence: float
    margin: float
    metrics: int
    solved: str
    reason: str

    def sentence(self, language: str = "en") -> str:
        def shown(value: float, unit: str) -> str:
            digits = 0 if math.isnan(value) else max(2 - math.floor(math.log10(abs(value) or 1)), 0)  # three that count
            plainly = number(value, language, decimals=digits, sign=unit == "pp")
            return measure(value, unit, language) if self.is_rate else plainly

        counts = ("n_control", "n_treatment", "days", "known_days", "metrics")
        told = {k: number(getattr(self, k), language) for k in counts}
        told |= {
            k: percent(v, language, decimals=0) for k, v in (("power", self.power), ("level", 1 - self.confidence))
        }
        told |= {"effect": shown(self.effect, "pp"), "baseline": shown(self.baseline, "share")}
        told["margin"] = shown(self.margin, "pp").lstrip("+")
        told["groups"] = say(f"design.{'each' if self.n_control == self.n_treatment else 'groups'}", language, **told)
        told["aim"] = say(f"design.{'no worse' if self.margin else 'see'}", language, **told)
        said = say(f"design.{'none' if self.reason == 'none' else self.solved}", language, **told)
        said += say(f"design.{self.reason or 'days'}", language, **told) if self.known_days else "."
        return said + (say("design.metrics", language, **told) if self.metrics > 1 else "")


def plan_rates(
    baseline_rate: float | History, absolute_effect: float | None = None, *, n_control: int | None = None,
    power: float = 0.8, confidence: float = 0.95, allocation: float = 1.0, alternative: str = "two-sided",
    margin: float | None = None, metrics: int = 1, reached: ArrayLike | None = None,
) -> Plan:  # fmt: skip
    """Tell the units that show a change of a rate; or, if `n_control` is given, their power or smallest effect.

    An effect needs units for its `power`; an effect with `n_control` has a power; `n_control` alone has a smallest
    effect for `power`. The score test pools the rates (Fleiss, Levin & Paik 2003, Statistical Methods for Rates and
    Proportions, 4.2), but not with a margin (Chow, Shao & Wang 2008, Sample Size Calculations, p. 90).
    Parameters: `baseline_rate` in (0, 1); `absolute_effect`, 0.01 is one point; `allocation`, treatment units for each
    of the control; `alternative`, "two-sided", "larger" or "smaller"; `margin`, the loss still allowed, above 0
    (non-inferiority, one-sided, the effect may be 0); `metrics` that share the false alarms (Bonferroni); `reached`
    (days,), distinct units that a history saw in its first 1, 2, 3, ... days. Raises `KpiError` if one is outside, or
    the effect lies on the side that is not tested.

    >>> plan_rates(0.10, 0.01)  # R: power.prop.test(p1 = .1, p2 = .11, power = .8) gives 14750.79
    To see +1.0 pp on 10.0% (power 80%), the test needs 14,751 customers in each group.
    """
    require_known(alternative, ("two-sided", "larger", "smaller"), f"alternative={alternative!r} is not known.")
    require(metrics >= 1 and allocation > 0, f"metrics={metrics}, allocation={allocation}: need 1 or more, above 0.")
    level, sides = (1 - checked_confidence(confidence)) / metrics, 2 if alternative == "two-sided" else 1
    require(
        level < power < 1, f"power={power} must lie between the false alarms, {level:.3g}, and 1. Write 0.8 for 80%."
    )
    told = f"margin={margin} is a loss still allowed: above 0, with an effect and alternative larger or smaller."
    require(margin is None or (margin > 0 and sides == 1 and absolute_effect is not None), told)
    enough = n_control is None or 2 <= n_control * min(1, allocation) < math.inf
    require(enough, f"n_control={n_control}, allocation={allocation}: each group needs two units or more.")
    (value, variance), sign = _past(baseline_rate), -1 if alternative == "smaller" else 1
    room = math.inf if variance else value if sign < 0 else 1 - value
    effect, n, solved, reason = absolute_effect or 0.0, n_control or 0.0, "power", ""
    possible = variance or 0 <= value + effect <= 1
    require(bool(possible), f"absolute_effect={effect} is impossible from {value}. Write 0.01 for one point.")

    def chance(d: float, n: float) -> float:
        far = abs(d) if sides == 2 else sign * d + (margin or 0)
        return _power(value, variance, d, n, allocation * n, far, level / sides, sides == 2, margin is None)

    if n_control is None:
        n, solved = _least(lambda n: chance(effect, n) >= power, 2 * max(1, 1 / allocation)), "n"
        told = (
            f"absolute_effect={absolute_effect}: no number of units shows it. It must lie on the side that is tested."
        )
        require(n < math.inf, told)
    elif absolute_effect is None:
        least = _least(lambda d: chance(sign * min(d, room), n) >= power, 1e-9 * min(room, math.sqrt(variance or 1)))
        effect, solved, reason = (sign * least, "effect", "") if least < math.inf else (math.nan, "effect", "none")
    else:
        power = chance(effect, n)
    units = [math.ceil(size * (1 - 1e-9)) for size in (n, allocation * n)]
    days, known_days = _days(sum(units), reached)
    return Plan(
        n_control=units[0], n_treatment=units[1], n_total=sum(units), effect=effect, power=power, days=days,
        known_days=known_days, baseline=value, is_rate=not variance, confidence=confidence, margin=margin or 0.0,
        metrics=metrics, solved=solved, reason=reason or ("history" if known_days and math.isnan(days) else ""),
    )  # fmt: skip


def plan_means(history: History, absolute_effect: float | None = None, **options: Any) -> Plan:
    """Do for a mean or ratio with a history what `plan_rates` does for a rate, in units of its value.

    By the noncentral t (Cohen 1988, Statistical Power Analysis, 2.5), both groups as variable as the past. Parameters:
    `history`, anything with `.value` and `.variance`, that of one unit; `options`, and what it Raises, as there.

    >>> from types import SimpleNamespace
    >>> plan_means(SimpleNamespace(value=50, variance=100), 1)  # statsmodels' TTestIndPower gives 1570.73
    To see +1.00 on 50.0 (power 80%), the test needs 1,571 customers in each group.
    """
    return plan_rates(history, absolute_effect, **options)


def _past(baseline: float | History) -> tuple[float, float]:
    """Value, and variance of a unit; 0 stands for a rate, which has its own."""
    if isinstance(baseline, int | float):
        require(0 < baseline < 1, f"baseline_rate={baseline} must lie in (0, 1). Write 0.1 for 10%.")
        return float(baseline), 0.0
    value, variance = float(baseline.value), float(baseline.variance)
    told = f"The plan cannot be computed, because the history has the variance {variance}: it needs units that differ."
    require(math.isfinite(value) and 0 < variance < math.inf, told)
    return value, variance


def _power(
    value: float, variance: float, d: float, n: float, more: float, far: float, tail: float, both: bool, pooled: bool
) -> float:
    """Chance that n and `more` units reject what the truth is `far` from: t of a mean, normal of a rate."""
    if variance:
        nc, t = far / math.sqrt(variance * (1 / n + 1 / more)), stdtrit(n + more - 2, tail)
        return float(nctdtr(n + more - 2, -nc, t) + both * nctdtr(n + more - 2, nc, t))
    p, mean = value + d, value + d * more / (n + more)
    sd = math.sqrt(value * (1 - value) / n + p * (1 - p) / more)
    z = -ndtri(tail) * (math.sqrt(mean * (1 - mean) * (1 / n + 1 / more)) if pooled else sd)
    return float(ndtr((far - z) / sd) + both * ndtr((-far - z) / sd))


def _least(reaches: Callable[[float], bool], low: float) -> float:
    """The least number from `low` on that reaches, as do all above it; infinite if none does."""
    high = next((low * 2.0**k for k in range(60) if reaches(low * 2.0**k)), math.inf)
    low = max(low, high / 2) if high < math.inf else high
    for _ in range(60 if low < high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _days(total: int, reached: ArrayLike | None) -> tuple[float, int]:
    """First day by which so many units had come, NaN if they never had; days of the history."""
    seen = np.atleast_1d(np.asarray([] if reached is None else reached, dtype=float))
    told = "reached must not fall: give the distinct units of the first day, of the first two days, and so on."
    require(seen.ndim == 1 and bool(np.all(np.diff(seen, prepend=0) >= 0)), told)
    return float(np.argmax(seen >= total)) + 1 if np.any(seen >= total) else math.nan, len(seen)
