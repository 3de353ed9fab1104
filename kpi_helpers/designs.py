"""Before an experiment: units, power, smallest effect and days, for rates, means and ratios, from history."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, ndtr, ndtri, stdtrit

from kpi_helpers.errors import require, require_known
from kpi_helpers.moments import Moments
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import checked_confidence


class Design(Framed):
    """Units, `power` and absolute `effect` (treatment - control) that go together; `solved` is the one asked for.

    ``n_control, n_treatment, n_total, effect, power, days`` of the ``known_days``, and what was asked: ``baseline,
    is_rate, confidence, margin, metrics``. `reason` of a NaN: "history" is too short to tell the days, "none": no
    effect has the power.
    """

    def sentence(self, language: str = "en") -> str:
        def shown(value: float, unit: str) -> str:
            digits = 0 if math.isnan(value) else 2 - math.floor(math.log10(abs(value) or 1)) - 2 * self.is_rate  # three
            text = (percent if self.is_rate else number)(value, language, decimals=max(digits, 0), sign=unit == "pp")
            return text.replace("%", say("unit.pp", language)) if unit == "pp" else text

        told = {"effect": shown(self.effect, "pp"), "baseline": shown(self.baseline, "share")}
        told |= {"margin": shown(self.margin, "pp").lstrip("+"), "power": percent(self.power, language, decimals=0)}
        for k in ("n_control", "n_treatment", "days", "known_days", "metrics"):
            told[k] = number(getattr(self, k), language)
        told["level"] = percent(1 - self.confidence, language, decimals=0)
        told["groups"] = say(f"design.{'each' if self.n_control == self.n_treatment else 'groups'}", language, **told)
        told["aim"] = say(f"design.{'no worse' if self.margin else 'see'}", language, **told)
        said = say(f"design.{'none' if self.reason == 'none' else self.solved}", language, **told)
        said += say(f"design.{'days' if self.days > 0 else 'history'}", language, **told) if self.known_days else "."
        return said + (say("design.metrics", language, **told) if self.metrics > 1 else "")


def plan_rates(
    baseline_rate: float | Moments, absolute_effect: float | None = None, *, n_control: int | None = None,
    power: float = 0.8, confidence: float = 0.95, allocation: float = 1.0, alternative: str = "two-sided",
    margin: float | None = None, metrics: int = 1, reached: ArrayLike | None = None,
) -> Design:  # fmt: skip
    """Tell the units that show a change of a rate; with `n_control` the power of those or, lacking it, the effect.

    The score test pools the rates (Fleiss, Levin & Paik 2003, Statistical Methods for Rates and Proportions, 4.2), but
    not with a margin (Chow, Shao & Wang 2008, Sample Size Calculations, p. 90). Parameters: `baseline_rate` in (0, 1);
    `absolute_effect`, 0.01 is one point; `allocation`, treatment units for each of the control; `alternative`,
    "two-sided", "larger" or "smaller"; `margin`, the loss still allowed, above 0 (one-sided, the effect may be 0);
    `metrics` that share the false alarms (Bonferroni); `reached` (days,), distinct units that a history saw in its
    first 1, 2, 3, ... days. Raises `KpiError` if one is outside, or the effect is on the side that is not tested.

    >>> plan_rates(0.10, 0.01)  # R: power.prop.test(p1 = .1, p2 = .11, power = .8) gives 14750.79
    To see +1.00 pp on 10.0% (80% power), the test needs 14,751 customers in each group.
    """
    value = float(baseline_rate if isinstance(baseline_rate, int | float) else baseline_rate.value)
    variance = None if isinstance(baseline_rate, int | float) else float(baseline_rate.variance)
    require(variance is not None or 0 < value < 1, f"baseline_rate={value} must lie in (0, 1). Write 0.1 for 10%.")
    told = f"The plan cannot be computed, because the history has variance {variance}: it needs units that differ."
    require(variance is None or (math.isfinite(value) and 0 < variance < math.inf), told)
    require_known(alternative, ("two-sided", "larger", "smaller"), f"alternative={alternative!r} is not known.")
    fine = metrics >= 1 and metrics == int(metrics) and 0 < allocation < math.inf
    require(fine, f"{metrics=} must be 1 or more, {allocation=} above 0.")
    level, both = (1 - checked_confidence(confidence)) / metrics, alternative == "two-sided"
    require(level < power < 1, f"power={power} must lie above the false alarms, {level:.3g}, and below 1, as 0.8 does.")
    told = f"margin={margin} is a loss still allowed: above 0, with an effect and alternative larger or smaller."
    require(margin is None or (margin > 0 and not both and absolute_effect is not None), told)
    enough = n_control is None or 2 <= n_control * min(1, allocation) < math.inf
    require(enough, f"n_control={n_control}, allocation={allocation}: each group needs two units or more.")
    effect, n, sign = absolute_effect or 0.0, n_control or 0.0, -1 if alternative == "smaller" else 1
    possible = math.isfinite(effect) and (variance is not None or 0 <= value + effect <= 1)
    require(possible, f"absolute_effect={effect} is impossible from {value}. Write 0.01 for one point.")

    def chance(d: float, n: float) -> float:
        far = abs(d) if both else sign * d + (margin or 0)
        return _power((value, variance), d, (n, allocation * n), far, level / (1 + both), both, margin is None)

    if n_control is None:
        n, solved = _least(lambda n: chance(effect, n) >= power, 2 * max(1, 1 / allocation)), "n"
        require(n < math.inf, f"{absolute_effect=}: no number of units shows it. Give one on the side that is tested.")
    elif absolute_effect is None:
        room, low = (math.inf, 1e-9 * math.sqrt(variance)) if variance else (value if sign < 0 else 1 - value, 1e-9)
        effect, solved = sign * _least(lambda d: chance(sign * min(d, room), n) >= power, low), "effect"
    else:
        power, solved = chance(effect, n), "power"
    units = [math.ceil(size * (1 - 1e-9)) for size in (n, allocation * n)]
    seen = np.atleast_1d(np.asarray([] if reached is None else reached, dtype=float))
    require(bool(np.all(np.diff(seen, prepend=0) >= 0)), "reached falls. Give the units of the first 1, 2, ... days.")
    days = float(np.argmax(seen >= sum(units))) + 1 if np.any(seen >= sum(units)) else math.nan
    reason = "none" if math.isinf(effect) else "history" if len(seen) and math.isnan(days) else ""
    return Design.of(
        [()], n_control=units[0], n_treatment=units[1], n_total=sum(units),
        effect=math.nan if reason == "none" else effect, power=power, days=days, known_days=len(seen), baseline=value,
        is_rate=variance is None, confidence=confidence, margin=margin or 0.0, metrics=metrics, solved=solved,
        reason=reason,
    )  # fmt: skip


def plan_means(history: Moments, absolute_effect: float | None = None, **options: Any) -> Design:
    """Do for a mean or ratio with a history what `plan_rates` does for a rate; Parameters and Raises as there.

    By the noncentral t (Cohen 1988, Statistical Power Analysis, 2.5), both groups as variable as the past.

    >>> from types import SimpleNamespace
    >>> plan_means(SimpleNamespace(value=50, variance=100), 1)  # statsmodels' TTestIndPower gives 1570.73
    To see +1.00 on 50.0 (80% power), the test needs 1,571 customers in each group.
    """
    return plan_rates(history, absolute_effect, **options)


def _power(
    past: tuple[float, float | None], d: float, n: tuple[float, float], far: float, tail: float, both: bool, pool: bool
) -> float:  # fmt: skip
    """Chance that n units reject what lies `far` from the truth, by t of a mean or normal of a rate."""
    (value, variance), spread, df = past, 1 / n[0] + 1 / n[1], sum(n) - 2
    if variance is not None:
        nc, t = far / math.sqrt(variance * spread), stdtrit(df, tail)
        return float(nctdtr(df, -nc, t) + both * nctdtr(df, nc, t))
    p, mean = value + d, value + d * n[1] / sum(n)
    sd = math.sqrt(value * (1 - value) / n[0] + p * (1 - p) / n[1])
    z = -ndtri(tail) * (math.sqrt(mean * (1 - mean) * spread) if pool else sd)
    return float(ndtr((far - z) / sd) + both * ndtr((-far - z) / sd))


def _least(reaches: Callable[[float], bool], low: float) -> float:
    """The least number from `low` on that reaches, as do all above it; infinite if none does."""
    high = next((low * 2.0**k for k in range(60) if reaches(low * 2.0**k)), math.inf)
    low = max(low, high / 2)
    for _ in range(60 if low < high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
