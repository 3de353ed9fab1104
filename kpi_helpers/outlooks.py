"""Where a KPI is heading if nothing changes: forecast over the plan's months, beside last year."""

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis, plots
from kpi_helpers.backtests import BackTest, Holidays, back_test, baseline
from kpi_helpers.calendars import SEASONS, holiday_regressors
from kpi_helpers.catalogue import OfKpis
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import measure, one_unit, percent, say
from kpi_helpers.stats import Floats, checked_confidence

#: what is not known of a KPI without an outlook
UNKNOWN = dict.fromkeys(("total", "total_low", "total_high", "reference"), math.nan)


class Outlook(OfKpis):
    """Where one KPI is heading in the plan's periods (`period_at`: first days) if nothing changes.

    `segment`: a channel, empty for all. `total`, its interval and distribution `odds`: the sum over the plan; for a
    ratio, its value. `reference`: what uplifts are put on: last year's total, or `total` where that is not fully known.
    `weights`, `missed`: what the total sums, from the first unknown period on, and what it missed on each past path.
    `history`, `bridge`: Series of what is known, and of the forecast of the periods before the plan. `cleaned`: what
    was found in the history. `reason` why nothing can be forecast: ``short`` or ``ended``.
    """

    columns = ("period_at", "expected", "expected_low", "expected_high", "last_year")

    @property
    def knows_last_year(self) -> bool:
        """Whether the same periods of last year are all known; else uplifts are put on the forecast."""
        return bool(self.last_year) and _whole(self.last_year, self.weights) > 0

    @property
    def graded(self) -> bool:
        """Whether odds can be given: the history was long enough for whole paths, and missed its forecasts."""
        return not self.reason and bool(self.odds.spread_low + self.odds.spread_high > 0)

    @property
    def better(self) -> int:
        """Direction of an uplift: 1, or -1 where lower is better."""
        return -1 if kpis.kpi(self.kpi).direction == "down" else 1

    def chance(self, target: float) -> float:
        """Chance of reaching `target`: of exceeding it, or of staying below where lower is better."""
        above = float(self.odds.chance_above(target)) if target <= _most(self.kpi) else 0.0
        return above if self.better > 0 else 1 - above

    def target_at(self, chance: float) -> float:
        """Target that is reached with that chance."""
        return min(float(self.odds.quantile(1 - chance if self.better > 0 else chance)), _most(self.kpi))

    @property
    def change(self) -> float:
        """Expected change against last year, a fraction."""
        return float(self.total / self.reference - 1) if self.reference else math.nan

    def to_frame(self) -> pd.DataFrame:
        return self.frame.assign(kpi=self.kpi, segment=self.segment, confidence=self.confidence)

    def told(self, language: str) -> dict[str, str]:
        """The numbers of the outlook, written out."""
        k, values = kpis.kpi(self.kpi), {"total": self.total, "low": self.total_low, "high": self.total_high}
        told = {name: measure(v, k.unit, language, self.currency) for name, v in values.items()}
        told |= {"change": percent(self.change, language, sign=True), "level": f"{self.confidence:.0%}"}
        return told | {"name": k.name[language]}

    def sentence(self, language: str = "en") -> str:
        kind = "no_odds" if not self.graded else "sentence" if self.knows_last_year else "alone"
        kind = self.reason or kind
        return say(f"outlook.{kind}", language, segment=self.segment, **self.told(language))

    def title(self, language: str = "en") -> str:
        """The finding; no direction is claimed where the interval holds last year's value."""
        flat = self.total_low <= self.reference <= self.total_high
        kind = "flat" if flat else "rise" if self.change > 0 else "fall"
        kind = kind if self.knows_last_year and self.graded else "total"
        return say(f"outlook.{kind}", language, **self.told(language) | {"change": percent(abs(self.change), language)})

    def drawn(self, language: str) -> str:
        """The chart of history, forecast and last year as an HTML figure."""
        k, period = kpis.kpi(self.kpi), say(f"period.{self.grain}", language)
        divisor, unit = one_unit(max(self.expected_high), k.unit, self.currency, language)
        note = say("outlook.note", language, name=k.name[language], period=period, unit=unit)
        note += "" if self.seasonal else f" {say('outlook.no_season', language)}"
        history = self.history.set_axis(self.history.index.start_time)
        bridge = self.bridge.set_axis(self.bridge.index.start_time).to_frame("expected")
        expected = pd.concat([bridge, self.frame.set_index(pd.to_datetime(self.frame["period_at"]))])
        keys = ("actual", "expected", "interval", "last_year")
        words = [say(f"outlook.{key}", language, level=f"{self.confidence:.0%}") for key in keys]
        draw = partial(plots.forecast, history, expected, words=words, language=language, scale=divisor)
        return plots.chart(draw, title=self.title(language), note=note, alt=self.sentence(language))


def outlook(
    values: kpis.KpiTable, key: str, *, segment: str = "", as_of: date, months: int = 3, confidence: float = 0.9,
    holidays: Holidays | None = None,
) -> Outlook:  # fmt: skip
    """Forecast one KPI over the next `months` whole months after `as_of`.

    A period belongs to the month in which it begins. A ratio is weighted by last year's denominators. Raises a
    `KpiError` if the history is too short for an error to be known, or `months` or the grain cannot be planned.
    """
    series = _complete(values, key, segment, as_of)
    require(bool(series.notna().any()), f"{key} of {segment or 'all channels'} has no complete period up to {as_of}.")
    future, skip = _plan(series.index, as_of, months)
    season, weights = SEASONS[values.grain], _weights(values, key, segment, as_of, future, skip)
    told, cleaned = baseline(series, len(future), holidays)
    low, high = told.interval(confidence)
    total, total_low, total_high = (min(v, _most(key)) for v in told.total(confidence, weights=weights))
    if np.count_nonzero(weights) == 1:  # one period is the whole: one quantity, one interval
        low[-1], high[-1] = total_low / weights[-1], total_high / weights[-1]
    before = series.reindex(future - season).tolist()
    reference = _whole(before, weights)
    mean, low, high = (part.clip(max=_most(key)).tolist() for part in (told.mean, low, high))
    rows = list(zip(future.start_time.date, mean, low, high, before, strict=True))[skip:]
    return Outlook.of(
        rows, kpi=key, segment=segment, grain=values.grain, confidence=confidence, odds=told.whole(weights),
        currency=values.currency, total=total, total_low=total_low, total_high=total_high, cleaned=cleaned, reason="",
        seasonal=told.season > 1 or len(series) >= 2 * season, reference=reference if reference > 0 else total,
        weights=tuple(weights.tolist()), missed=tuple(told.missed(weights).tolist()), history=series,
        bridge=pd.Series(mean[:skip], future[:skip], dtype=float),
    )  # fmt: skip


def past_outlooks(values: kpis.KpiTable, told: Outlook, *, as_of: date, holidays: Holidays | None = None) -> BackTest:
    """Repeat the outlook on past dates: the same distance, the same periods, only what was known then."""
    require(not told.reason, f"{told.kpi} {told.segment} has no outlook that could be repeated on past dates.")
    series = _complete(values, told.kpi, told.segment, as_of)
    return back_test(series, len(told.weights), weights=told.weights, holidays=holidays, confidence=told.confidence)


def _complete(values: kpis.KpiTable, key: str, segment: str, as_of: date, column: str = "value") -> pd.Series:
    require(values.grain in SEASONS, f"A plan needs days, weeks or months, not grain={values.grain!r}. Compute those.")
    series = values.series(key, segment, column)
    return series[series.index.end_time.date <= as_of]  # the running period is not over


def _plan(known: pd.PeriodIndex, as_of: date, months: int) -> tuple[pd.PeriodIndex, int]:
    """Periods from the first unknown to the end of the plan, and how many of them lie before it."""
    require(months >= 1 and int(months) == months, f"months={months} must be a whole number of months, at least 1.")
    first = (pd.Timestamp(as_of) + pd.offsets.MonthBegin()).date()
    last = (pd.Timestamp(first) + pd.DateOffset(months=months)).date() - timedelta(days=1)
    future = pd.period_range(known[-1] + 1, pd.Timestamp(last), freq=known.freq)
    future = future[future.start_time.date <= last]
    return future, int((future.start_time.date < first).sum())


def _weights(values: kpis.KpiTable, key: str, segment: str, as_of: date, future: pd.PeriodIndex, skip: int) -> Floats:
    """What the plan's total sums: each period once, or for a ratio by last year's denominators."""
    planned = np.arange(len(future)) >= skip
    if kpis.kpi(key).additive:
        return planned.astype(float)
    series = _complete(values, key, segment, as_of, "denominator")
    before = series.reindex(future - SEASONS[values.grain]).to_numpy(dtype=float)
    known = np.isfinite(before[skip:]).all() and before[skip:].sum() > 0
    weights = np.where(planned, before if known else 1.0, 0.0)
    return np.asarray(weights / weights.sum())


def _whole(before: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """Last year's total by the plan's weights; NaN unless every period that counts is known."""
    w = np.asarray(weights, dtype=float)[len(weights) - len(before) :]
    return float(w[w > 0] @ np.asarray(before, dtype=float)[w > 0])


def _most(key: str) -> float:
    return 1.0 if kpis.kpi(key).unit == "share" else math.inf


def outlook_kpis(values: kpis.KpiTable, keys: Sequence[str], *, as_of: date, **options: Any) -> list[Outlook]:
    """Forecast several KPIs of all channels; one whose history is too short keeps its place, with the reason."""
    return [_outlook_or_reason(values, key, "", as_of=as_of, **options) for key in keys]


def outlook_channels(values: kpis.KpiTable, key: str, *, as_of: date, **options: Any) -> list[Outlook]:
    """Forecast one KPI for each channel that knows it; one that has ended or is too young keeps its place too."""
    rows = values.to_frame().query("kpi == @key")
    known = set(rows["segment"][rows["value"].notna()])
    return [_outlook_or_reason(values, key, s, as_of=as_of, **options) for s in values.segments() if s in known]


def _outlook_or_reason(
    values: kpis.KpiTable, key: str, segment: str, *, as_of: date, confidence: float = 0.9, **options: Any
) -> Outlook:
    series = _complete(values, key, segment, as_of).dropna()
    checked_confidence(confidence)  # what was asked for wrongly is no short history
    holiday_regressors(series.index, options.get("holidays"))
    require(options.get("months", 1) >= 1, f"months={options.get('months')} must be at least 1.")
    # a channel of which nothing is known for five weeks is taken to have ended
    ended = len(series) and (as_of - series.index[-1].end_time.date()).days > 35
    if not ended:
        with suppress(KpiError):
            return outlook(values, key, segment=segment, as_of=as_of, confidence=confidence, **options)
    told = UNKNOWN | {"kpi": key, "segment": segment, "grain": values.grain, "currency": values.currency}
    return Outlook.of([], **told, confidence=confidence, reason="ended" if ended else "short", cleaned=None)
