"""The baseline of one KPI: its history cleaned, Tết and holidays known, and the whole tested on its own past."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from kpi_helpers.baselines import Forecast, forecast
from kpi_helpers.calendars import GRAINS, SEASONS, holiday_regressors
from kpi_helpers.cleaning import Cleaned, clean
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import Framed, percent, say
from kpi_helpers.stats import Floats

Holidays = Mapping[str, Sequence[date | str]]  # name -> dates, or "MM-DD" of every year
ODDS = (0.8, 0.5, 0.2)


def baseline(series: pd.Series, horizon: int, holidays: Holidays | None = None) -> tuple[Forecast, Cleaned]:
    """Forecast a KPI (Series with a PeriodIndex without holes) with Tết and `holidays` known ahead; and what was found.

    Gaps and outliers are left out, values before a lasting change are brought to the present level.
    """
    require(len(series) > 0, "A forecast cannot be computed, because no value is known. Check the column and dates.")
    grain = GRAINS[series.index.freqstr[0]]
    ahead = pd.period_range(series.index[-1] + 1, periods=horizon, freq=series.index.freq)
    moved = holiday_regressors(series.index.append(ahead), holidays)
    x = moved.to_numpy()
    found = clean(series, season=7 if grain == "day" else 1, expected=(x[: len(series)] > 0).any(axis=1))
    level = pd.Series(found.values, index=series.index)
    for kind, first, now, was in zip(found.kind, found.first, found.observed, found.expected, strict=True):
        if kind == "break" and was > 0:
            level[level.index.start_time < pd.Timestamp(first)] *= now / was
    return forecast(level.to_numpy(), season=SEASONS[grain], horizon=horizon, regressors=x), found


def surprise(
    series: pd.Series, holidays: Holidays | None = None, *, confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """What the periods before led to expect of the last one, its normal range, and how rarely one lies so far off.

    The spread is that of all past one-step errors, and Student's t has as many degrees of freedom as there are errors,
    or as few as their kurtosis asks for (6 / (v - 4) in excess): tails that the past did show are no surprise. NaN
    where the history is too short or never moved.
    """
    nothing = (math.nan,) * 4
    try:
        told, _found = baseline(series.iloc[:-1], 1, holidays)
    except KpiError:
        return nothing
    missed, centre, value = told.missed([1.0]), float(told.mean[0]), float(series.iloc[-1])
    if not (missed**2).sum() > 0:
        return nothing
    square, n = float((missed**2).mean()), len(missed)
    freedom = min(float(n), 4 + 6 / max(float((missed**4).mean()) / square**2 - 3, 1e-9))
    spread = math.sqrt((square * (1 + 1 / n) + float(told.noise[0, 0])) * (freedom - 2) / freedom)
    factor = told.multiplicative and centre > 0
    ends = stdtrit(freedom, [(1 - confidence) / 2, (1 + confidence) / 2]) * spread
    low, high = (centre * np.exp(ends) if factor else centre + ends).tolist()
    far = (math.log(value / centre) if value > 0 else -math.inf) if factor else value - centre
    p = 2 * float(stdtr(freedom, -abs(far) / spread)) if math.isfinite(value) else math.nan
    return centre, max(low, 0.0) if told.never_negative else low, high, p


class BackTest(Framed):
    """What the same method would have said on past dates (`origin_at`: first day that was not known), and what came.

    `actual`, `expected` with its interval: totals of the plan's periods; `chance` that had been given to a higher one;
    `same_as_last_year`: what last year's periods promised. `covered_80` to `above_80`: shares of single periods.
    `mase`: mean absolute error of a period over that of the seasonal naive rule. `rule`, `weight`: of today.
    """

    columns = ("origin_at", "actual", "expected", "expected_low", "expected_high", "chance", "same_as_last_year")
    aside: ClassVar = ("rule", "weight")
    ways: ClassVar = {"ODDS": ODDS}

    @property
    def error(self) -> float:
        """Mean absolute error of the totals, a share of their sum."""
        return self._missed("expected")

    @property
    def error_last_year(self) -> float:
        """The same of the rule "as last year", on the dates on which it is known; NaN if on none."""
        return self._missed("same_as_last_year")

    def _missed(self, said: str) -> float:
        known = self.frame[self.frame[said].notna()].astype({said: float, "actual": float})
        missed, total = (known[said] - known["actual"]).abs().sum(), known["actual"].abs().sum()
        return float(missed / total) if total > 0 else 0.0 if len(known) and missed == 0 else math.nan

    @property
    def n_inside(self) -> int:
        """Totals inside their interval, of those that have one."""
        return int(self.frame["actual"].between(self.frame["expected_low"], self.frame["expected_high"]).sum())

    def met(self, odds: float) -> int:
        """How often a target that had been set at these odds was met, of those with known odds."""
        return int((self.frame["chance"] <= odds).sum())

    def sentence(self, language: str = "en") -> str:
        if not self.actual:
            return say("back_test.none", language)
        told: dict[str, object] = {"n": len(self.actual), "inside": self.n_inside, "level": f"{self.confidence:.0%}"}
        told |= {"error": percent(self.error, language), "before": percent(self.error_last_year, language)}
        told |= {"of": sum(map(math.isfinite, self.expected_low))}
        kind = "sentence" if math.isfinite(self.error_last_year) else "alone"
        worse = self.error > self.error_last_year
        return say(f"back_test.{kind}", language, **told) + (f" {say('back_test.worse', language)}" if worse else "")


def back_test(
    series: pd.Series, horizon: int, *, weights: Sequence[float] | None = None, holidays: Holidays | None = None,
    most: int = 8, confidence: float = 0.9,
) -> BackTest:  # fmt: skip
    """Repeat the whole `baseline` on past dates: cleaning, effects, rules, intervals, each from what was known then.

    `weights`: what the total sums, one a period ahead; 0 leaves out the periods before a plan begins. `most`: past
    dates at most, evenly spaced; a date needs half of the history, and two seasons where there are more.
    """
    require(most >= 1, f"most={most}: at least one past date.")
    w = np.ones(horizon) if weights is None else np.asarray(weights, dtype=float)
    season = SEASONS[GRAINS[series.index.freqstr[0]]]
    y, n = series.to_numpy(dtype=float), len(series)
    first = 2 * season + 8 if n >= 2 * season + horizon + 12 else n // 2
    origins = np.unique(np.linspace(first, n - horizon, most).astype(int)).tolist() if n - horizon >= first else []
    rows, periods = [], []
    for o in origins:
        came = y[o : o + horizon]
        known = np.isfinite(came)
        if not (part := w * known).any():
            continue
        try:
            told, _found = baseline(series.iloc[:o], horizon, holidays)
        except KpiError:
            continue
        last = y[o - season : o - season + horizon] if o >= season else came * np.nan
        actual = float(part[known] @ came[known])
        before = float(part[known] @ last[known]) if len(last) == horizon else math.nan
        total, chance = told.total(confidence, weights=part), float(told.whole(part).chance_above(actual))
        rows.append((series.index[o].start_time.date(), actual, *total, chance, before))
        periods.append(_scored(told, came, y[:o], season))
    today, _found = baseline(series, horizon, holidays)
    names = ["covered_80", "covered_95", "below_80", "above_80", "mase"]
    scores = pd.DataFrame(periods, columns=names, dtype=float).mean().to_dict()
    rule, weight = tuple(today.weights), tuple(today.weights.values())
    return BackTest.of(rows, **scores, confidence=confidence, rule=rule, weight=weight)


def _scored(told: Forecast, came: Floats, before: Floats, season: int) -> list[float]:
    """Shares of known periods inside 80% and 95%, below and above 80%, and the mean absolute scaled error."""
    known = np.isfinite(came)
    (low, high), wide = (told.interval(level) for level in (0.8, 0.95))
    inside = [((a <= came) & (came <= b))[known].mean() for a, b in ((low, high), wide)]
    lag = season if len(before) > season else 1
    scale = pd.Series(np.abs(before[lag:] - before[:-lag])).mean()
    error = np.abs(came - told.mean)[known].mean()
    return [*inside, (came < low)[known].mean(), (came > high)[known].mean(), error / scale if scale > 0 else math.nan]
