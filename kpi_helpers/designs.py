"""Before an experiment: units, power, smallest effect and days, for rates, means and ratios, from history."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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

    `days` until the units have come, by a history of `known_days` days (0: none given). It is NaN with the `reason`
    "history" if that is too short, as `effect` is with the reason "none" if these units cannot show one.
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
    margin: float | None
    metrics: int
    solved: str
    reason: str

    def sentence(self, language: str = "en") -> str:
        def shown(value: float, unit: str) -> str:
            digits = 2 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0  # three that count
            plainly = number(value, language, decimals=max(digits, 0), sign=unit == "pp")
            return measure(value, unit, language) if self.is_rate else plainly

        told = {"effect": shown(self.effect, "pp"), "baseline": shown(self.baseline, "share")}
        told |= {
            "margin": shown(self.margin or 0, "pp").lstrip("+"),
            "power": percent(self.power, language, decimals=0),
        }
        names = ("n_control", "n_treatment", "days", "known_days", "metrics")
        told |= {k: number(getattr(self, k), language) for k in names}
        told["level"] = percent(1 - self.confidence, language, decimals=0)
        told["groups"] = say(f"design.{'each' if self.n_control == self.n_treatment else 'groups'}", language, **told)
        told["aim"] = say(f"design.{'see' if self.margin is None else 'no worse'}", language, **told)
        said = say(f"design.{'none' if self.reason == 'none' else self.solved}", language, **told)
        said += say(f"design.{self.reason or 'days'}", language, **told) if self.known_days else "."
        return said + (say("design.metrics", language, **told) if self.metrics > 1 else "")


def plan_rates(
    baseline_rate: float | History, absolute_effect: float | None = None, *, n_control: int | None = None,
    power: float = 0.8, confidence: float = 0.95, allocation: float = 1.0, alternative: str = "two-sided",
    margin: float | None = None, metrics: int = 1, reached: ArrayLike | None = None,
) -> Plan:  # fmt: skip
    """Tell the units that show a change of a rate; or, if `n_control` is given, their power or smallest effect.

    With effect and `power`: the units. With effect and `n_control`: the power. With `n_control` alone: the smallest
    effect that has `power`. The score test pools the rates where nothing differs (Fleiss, Levin & Paik 2003,
    Statistical Methods for Rates and Proportions, section 4.2), with a margin it does not (Chow, Shao & Wang 2008,
    Sample Size Calculations in Clinical Research, p. 90).

    Parameters: `baseline_rate` in (0, 1); `absolute_effect`, 0.01 is one point; `allocation`, treatment units for each
    of the control; `alternative`, "two-sided", "larger" or "smaller"; `margin`, the loss still allowed, above 0
    (non-inferiority, one-sided; the effect may be 0); `metrics` that share the false alarms (Bonferroni); `reached`
    (days,), distinct units that a history saw in its first 1, 2, 3, ... days. Raises `KpiError` if one is outside, or
    the effect lies on the side that is not tested.

    >>> plan_rates(0.10, 0.01)  # R: power.prop.test(p1 = .1, p2 = .11, power = .8) gives 14750.79
    To see +1.0 pp on 10.0% (power 80%), the test needs 14,751 customers in each group.
    """
    require_known(alternative, ("two-sided", "larger", "smaller"), f"alternative={alternative!r} is not known.")
    require(metrics >= 1 and allocation > 0, f"metrics={metrics}, allocation={allocation}: need 1 or more, above 0.")
    level, sides = (1 - checked_confidence(confidence)) / metrics, 2 if alternative == "two-sided" else 1
    sign = -1 if alternative == "smaller" else 1
    rate = isinstance(baseline_rate, int | float)
    value, variance = _past(baseline_rate)
    test = _Test(value, variance, rate, allocation, sides, sign, margin, level / sides)
    require(
        level < power < 1, f"power={power} must lie between the false alarms, {level:.3g}, and 1. Write 0.8 for 80%."
    )
    _check(test, absolute_effect, n_control)
    n, effect, solved = n_control or math.nan, absolute_effect or 0.0, "power"
    if n_control is None:
        n, solved = _least(lambda n: test.power(effect, n) >= power, 2 * max(1, 1 / allocation)), "n"
        require(
            n < math.inf, f"absolute_effect={effect} is so small that no number of units shows it. Plan a larger one."
        )
    elif absolute_effect is None:
        effect, solved = sign * _least(lambda d: test.power(sign * d, n) >= power, 1e-9 * math.sqrt(variance)), "effect"
    else:
        power = test.power(effect, n)
    groups = [math.ceil(size * (1 - 1e-9)) for size in (n, allocation * n)]
    days, known_days = _days(sum(groups), reached)
    reason = "none" if math.isinf(effect) else "history" if known_days and math.isnan(days) else ""
    return Plan(
        n_control=groups[0], n_treatment=groups[1], n_total=sum(groups), effect=math.nan if reason == "none" else effect,
        power=power, days=days, known_days=known_days, baseline=value, is_rate=rate, confidence=confidence,
        margin=margin, metrics=metrics, solved=solved, reason=reason,
    )  # fmt: skip


def plan_means(history: History, absolute_effect: float | None = None, **options: Any) -> Plan:
    """Do for a mean or ratio with a history what `plan_rates` does for a rate, in units of its value.

    By the noncentral t (Cohen 1988, Statistical Power Analysis, section 2.5), both groups as variable as the past.
    Parameters: `history`, anything with `.value` and `.variance`, that of one unit; `options`, and Raises, as there.

    >>> from types import SimpleNamespace
    >>> plan_means(SimpleNamespace(value=50, variance=100), 1)  # statsmodels' TTestIndPower gives 1570.73
    To see +1.00 on 50.0 (power 80%), the test needs 1,571 customers in each group.
    """
    return plan_rates(history, absolute_effect, **options)


class _Test(NamedTuple):
    value: float
    variance: float
    is_rate: bool
    allocation: float
    sides: int
    sign: int
    margin: float | None
    tail: float

    def distance(self, effect: float) -> float:
        """How far the effect is from what the test must reject."""
        return abs(effect) if self.sides == 2 else self.sign * effect + (self.margin or 0.0)

    def power(self, effect: float, n: float) -> float:
        other, more = float(self.sides - 1), self.allocation * n
        if self.is_rate:
            p, q = self.value, min(max(self.value + effect, 0.0), 1.0)
            far, pooled = self.distance(q - p), (p + self.allocation * q) / (1 + self.allocation)
            sd = math.sqrt(p * (1 - p) / n + q * (1 - q) / more)
            null = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / more)) if self.margin is None else sd
            z = -ndtri(self.tail) * null
            return float(ndtr((far - z) / sd) + other * ndtr((-far - z) / sd))
        far, df = self.distance(effect) / math.sqrt(self.variance * (1 / n + 1 / more)), n + more - 2
        t = stdtrit(df, self.tail)
        return float(nctdtr(df, -far, t) + other * nctdtr(df, far, t))


def _past(baseline: float | History) -> tuple[float, float]:
    if isinstance(baseline, int | float):
        require(0 < baseline < 1, f"baseline_rate={baseline} must lie in (0, 1). Write 0.1 for 10%.")
        return float(baseline), baseline * (1 - baseline)
    value, variance = float(baseline.value), float(baseline.variance)
    told = f"value={value}, variance={variance}: it needs units that differ"
    require(math.isfinite(value) and 0 < variance < math.inf, f"The plan cannot be computed from this history, {told}.")
    return value, variance


def _check(test: _Test, effect: float | None, n: float | None) -> None:
    fits = test.margin is None or (test.margin > 0 and test.sides == 1 and effect is not None)
    require(
        fits, f"margin={test.margin} is an allowed loss: above 0, with an effect and alternative larger or smaller."
    )
    require(n is not None or effect is not None, "Give absolute_effect, or n_control to be told what it can show.")
    enough = n is None or 2 <= n * min(1, test.allocation) < math.inf
    require(enough, f"n_control={n}, allocation={test.allocation}: each group needs two units or more.")
    if effect is not None:
        possible = math.isfinite(effect) and (not test.is_rate or 0 <= test.value + effect <= 1)
        require(possible, f"absolute_effect={effect} is impossible with {test.value}. Write 0.01 for one point.")
        tested = n is not None or test.distance(effect) > 0
        require(
            tested, f"absolute_effect={effect}: no number of units shows it. It must lie on the side that is tested."
        )


def _least(reaches: Callable[[float], bool], low: float) -> float:
    """The least number from `low` on that reaches, as do all above it; infinite if none does."""
    high = next((low * 2.0**k for k in range(60) if reaches(low * 2.0**k)), math.inf)
    low = max(low, high / 2)
    for _ in range(60 if low < high < math.inf else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _days(total: int, reached: ArrayLike | None) -> tuple[float, int]:
    """First day on which that many units had come, NaN if never; days of the history."""
    if reached is None:
        return math.nan, 0
    seen = np.atleast_1d(np.asarray(reached, dtype=float))
    rising = seen.ndim == 1 and len(seen) > 0 and bool(np.all(np.diff(seen, prepend=0) >= 0))
    require(
        rising, "reached must not fall: give the distinct units of the first day, of the first two days, and so on."
    )
    return (float(np.argmax(seen >= total)) + 1 if seen[-1] >= total else math.nan), len(seen)
