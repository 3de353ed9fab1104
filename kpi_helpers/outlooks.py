"""Where a KPI is heading if nothing changes: forecast over the plan's months, beside last year."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis, plots
from kpi_helpers.backtests import BackTest, Holidays, back_test, baseline
from kpi_helpers.baselines import SEASONS, Total
from kpi_helpers.calendars import holiday_regressors
from kpi_helpers.cleaning import Cleaned
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import (
    Result,
    day,
    measure,
    one_unit,
    percent,
    say,
    table,
)
from kpi_helpers.stats import checked_confidence

#: a channel of which nothing is known for so long is taken to have ended
ENDED_DAYS = 35
UNKNOWN = Total(mean=math.nan, spread_low=math.nan, spread_high=math.nan, multiplicative=False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outlook(Result):
    """Where one KPI is heading in the plan's periods if nothing changes.

    Attributes
    ----------
    kpi, segment : str
        Id, and channel (empty for all).
    period_at : tuple of date
        First days of the plan's periods.
    expected, expected_low, expected_high : tuple of float
        Forecast and interval of each period.
    last_year : tuple of float
        Value of the same period one season before; NaN if unknown as of then.
    total, total_low, total_high : float
        The sum over the plan and its interval; for a ratio, its value over the plan.
    odds : Total
        Distribution of that total.
    reference : float
        What uplifts are put on: last year's total, or `total` where last year is not fully known.
    cleaned : Cleaned
        What was found in the history.
    weights, missed : tuple of float
        What the total sums, from the first unknown period on; what it missed on each past path.
    history_at, history, bridge_at, bridge : tuple
        For the chart: the periods known, and the forecast of those between them and the plan.
    reason : str
        Why nothing can be forecast: ``short`` history, or ``ended`` channel; empty when it can.
    seasonal : bool
        False when the history is too short for a season, so that the last value is carried on.
    """

    kpi: str
    segment: str
    grain: str
    confidence: float
    currency: str
    period_at: tuple[date, ...] = ()
    expected: tuple[float, ...] = ()
    expected_low: tuple[float, ...] = ()
    expected_high: tuple[float, ...] = ()
    last_year: tuple[float, ...] = ()
    total: float = math.nan
    total_low: float = math.nan
    total_high: float = math.nan
    odds: Total = UNKNOWN
    cleaned: Cleaned | None = None
    weights: tuple[float, ...] = ()
    missed: tuple[float, ...] = ()
    reference: float = math.nan
    history_at: tuple[date, ...] = ()
    history: tuple[float, ...] = ()
    bridge_at: tuple[date, ...] = ()
    bridge: tuple[float, ...] = ()
    reason: str = ""
    seasonal: bool = True

    @property
    def knows_last_year(self) -> bool:
        """Whether the same periods of last year are all known; else uplifts are put on the forecast."""
        return bool(self.last_year) and _whole(self.last_year, self.weights) > 0

    @property
    def graded(self) -> bool:
        """Whether odds can be given: the history was long enough for whole paths, and missed its forecasts."""
        return not self.reason and self.odds.spread_low + self.odds.spread_high > 0

    def chance(self, target: float) -> float:
        """Chance of reaching `target`: of exceeding it, or of staying below where lower is better."""
        k = kpis.kpi(self.kpi)
        above = float(self.odds.chance_above(target)) if target <= _most(k) else 0.0
        return above if k.direction != "down" else 1 - above

    def target_at(self, chance: float) -> float:
        """Target that is reached with that chance."""
        k = kpis.kpi(self.kpi)
        return min(float(self.odds.quantile(chance if k.direction == "down" else 1 - chance)), _most(k))

    @property
    def change(self) -> float:
        """Expected change against last year, a fraction."""
        return self.total / self.reference - 1 if self.reference else math.nan

    def to_frame(self) -> pd.DataFrame:
        """One row a period of the plan."""
        columns = ("period_at", "expected", "expected_low", "expected_high", "last_year")
        frame = pd.DataFrame({c: getattr(self, c) for c in columns})
        return frame.assign(kpi=self.kpi, segment=self.segment, confidence=self.confidence)

    def told(self, language: str) -> dict[str, str]:
        """The numbers of the outlook, written out."""
        k = kpis.kpi(self.kpi)
        values = {"total": self.total, "low": self.total_low, "high": self.total_high}
        written = {name: measure(v, k.unit, language, self.currency) for name, v in values.items()}
        change = percent(self.change, language, sign=True)
        return {**written, "name": k.name[language], "change": change, "level": f"{self.confidence:.0%}"}

    def sentence(self, language: str = "en") -> str:
        """Expected total, interval, and change against last year; or why there is none."""
        kind = self.reason or ("sentence" if self.knows_last_year else "alone")
        if not self.reason and not self.graded:
            kind = "no_odds"
        return say(f"outlook.{kind}", language, segment=self.segment, **self.told(language))

    def title(self, language: str = "en") -> str:
        """The finding; no direction is claimed where the interval holds last year's value."""
        flat = self.total_low <= self.reference <= self.total_high
        kind = "flat" if flat else "rise" if self.change > 0 else "fall"
        if not (self.knows_last_year and self.graded):
            kind = "total"
        return say(f"outlook.{kind}", language, **self.told(language) | {"change": percent(abs(self.change), language)})

    def html(self, language: str = "en") -> str:
        """Chart of history and forecast, its numbers folded below."""
        if self.reason:
            return f"<p>{html.escape(self.sentence(language))}</p>"
        k = kpis.kpi(self.kpi)
        divisor, unit = one_unit(max(self.expected_high), k.unit, self.currency, language)
        period = say(f"period.{self.grain}", language)
        note = say("outlook.note", language, name=k.name[language], period=period, unit=unit)
        drawn = plots.chart(
            lambda axes, narrow: self.plot(axes, narrow=narrow, language=language, scale=divisor),
            title=self.title(language),
            note=f"{note} {say('outlook.no_season', language)}" if not self.seasonal else note,
            alt=self.sentence(language),
        )
        lines = zip(self.expected, self.expected_low, self.expected_high, self.last_year, strict=True)
        rows = [
            [day(at, language), *(measure(v, k.unit, language, self.currency) for v in values)]
            for at, values in zip(self.period_at, lines, strict=True)
        ]
        heads = say("outlook.heads", language).split("|")
        folded = table(heads, rows, caption=self.title(language), kind="tight", numeric=range(1, 5))
        found = self.cleaned.html(language) if self.cleaned else ""
        folded = f'<details class="code"><summary>{say("outlook.numbers", language)}</summary>{folded}</details>'
        return f"{drawn}{folded}{found}"

    def plot(self, axes: Any = None, *, language: str = "en", **options: Any) -> Any:
        """Draw history, forecast and last year on `axes` (new ones if none); returns the axes."""
        history = pd.Series(self.history, index=pd.to_datetime(self.history_at))
        bridge = pd.DataFrame({"expected": self.bridge}, index=pd.to_datetime(self.bridge_at))
        expected = pd.concat([bridge, self.to_frame().set_index(pd.to_datetime(self.period_at))])
        keys = ("actual", "expected", "interval", "last_year")
        words = [say(f"outlook.{key}", language, level=f"{self.confidence:.0%}") for key in keys]
        return plots.forecast(history, expected, axes, words=words, language=language, **options)


def outlook(
    values: kpis.KpiTable, key: str, *, segment: str = "", as_of: date, months: int = 3, confidence: float = 0.9,
    holidays: Holidays | None = None,
) -> Outlook:  # fmt: skip
    """Forecast one KPI over the next `months` whole months after `as_of`.

    A period belongs to the month in which it begins. A ratio is weighted by the denominators of the same
    periods of last year. Uplifts are later put on those periods where all of them are known.

    Raises
    ------
    KpiError
        If the history is too short for an error to be known, or `months` or the grain cannot be planned.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> outlook(values, "orders", as_of=date(2026, 11, 21)).period_at[0]
    datetime.date(2026, 12, 7)
    """
    series = _known(values, key, segment, as_of)
    future, skip = _plan(series.index, as_of, months)
    season, most = SEASONS[values.grain], _most(kpis.kpi(key))
    weights = _weights(values, key, segment, as_of, future, skip)
    told, cleaned = baseline(series, len(future), holidays)
    low, high = told.interval(confidence)
    total, total_low, total_high = (min(v, most) for v in told.total(confidence, weights=weights))
    if np.count_nonzero(weights) == 1:  # one period is the whole: one quantity, one interval
        low[-1], high[-1] = total_low / weights[-1], total_high / weights[-1]
    before = series.reindex([p - season for p in future[skip:]]).to_numpy(dtype=float)
    reference = _whole(before, weights)
    return Outlook(
        kpi=key, segment=segment, grain=values.grain, confidence=confidence, currency=values.currency,
        period_at=tuple(p.start_time.date() for p in future[skip:]),
        expected=tuple(told.mean[skip:].clip(max=most).tolist()), last_year=tuple(before.tolist()),
        expected_low=tuple(low[skip:].clip(max=most).tolist()), odds=told.whole(weights),
        expected_high=tuple(high[skip:].clip(max=most).tolist()),
        total=total, total_low=total_low, total_high=total_high,
        seasonal=told.season > 1 or len(series) >= 2 * season, cleaned=cleaned, weights=tuple(weights.tolist()),
        missed=tuple(told.missed(weights).tolist()), reference=reference if reference > 0 else total,
        history_at=tuple(p.start_time.date() for p in series.index), history=tuple(series.tolist()),
        bridge_at=tuple(p.start_time.date() for p in future[:skip]),
        bridge=tuple(told.mean[:skip].clip(max=most).tolist()),
    )  # fmt: skip


def past_outlooks(values: kpis.KpiTable, told: Outlook, *, as_of: date, holidays: Holidays | None = None) -> BackTest:
    """Repeat the outlook on past dates: the same distance, the same periods, only what was known then.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> told = outlook(values, "orders", as_of=date(2026, 11, 21))
    >>> len(past_outlooks(values, told, as_of=date(2026, 11, 21)).actual)
    8
    """
    require(not told.reason, f"{told.kpi} {told.segment} has no outlook that could be repeated on past dates.")
    series = _known(values, told.kpi, told.segment, as_of)
    return back_test(series, len(told.weights), weights=told.weights, holidays=holidays, confidence=told.confidence)


def _complete(values: kpis.KpiTable, key: str, segment: str, as_of: date, column: str = "value") -> pd.Series:
    require(values.grain in SEASONS, f"A plan needs days, weeks or months, not grain={values.grain!r}. Compute those.")
    series = values.series(key, segment, column)
    return series[series.index.end_time.date <= as_of]  # the running period is not over


def _known(values: kpis.KpiTable, key: str, segment: str, as_of: date) -> pd.Series:
    series = _complete(values, key, segment, as_of)
    require(bool(series.notna().any()), f"{key} of {segment or 'all channels'} has no complete period up to {as_of}.")
    return series


def _plan(known: pd.PeriodIndex, as_of: date, months: int) -> tuple[pd.PeriodIndex, int]:
    """Periods from the first unknown to the end of the plan, and how many of them lie before it."""
    require(months >= 1 and int(months) == months, f"months={months} must be a whole number of months, at least 1.")
    first = (pd.Timestamp(as_of) + pd.offsets.MonthBegin()).date()
    last = (pd.Timestamp(first) + pd.DateOffset(months=months)).date() - timedelta(days=1)
    future = pd.period_range(known[-1] + 1, pd.Timestamp(last), freq=known.freq)
    future = future[future.start_time.date <= last]
    return future, int((future.start_time.date < first).sum())


def _weights(
    values: kpis.KpiTable, key: str, segment: str, as_of: date, future: pd.PeriodIndex, skip: int
) -> np.ndarray:
    """What the plan's total sums: each period once, or for a ratio by last year's denominators."""
    weights = np.ones(len(future))
    if not kpis.kpi(key).additive:
        last_year = [p - SEASONS[values.grain] for p in future]
        before = _complete(values, key, segment, as_of, "denominator").reindex(last_year).to_numpy(dtype=float)
        known = np.isfinite(before[skip:]).all() and before[skip:].sum() > 0
        weights = before.copy() if known else weights
    weights[:skip] = 0.0
    return weights if kpis.kpi(key).additive else weights / weights.sum()


def _whole(before: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """Last year's total by the plan's weights; NaN unless every period that counts is known."""
    w = np.asarray(weights, dtype=float)[len(weights) - len(before) :]
    return float(w[w > 0] @ np.asarray(before, dtype=float)[w > 0])


def _most(k: kpis.Kpi) -> float:
    return 1.0 if k.unit == "share" else math.inf


def outlook_kpis(values: kpis.KpiTable, keys: Sequence[str], *, as_of: date, **options: Any) -> list[Outlook]:
    """Forecast several KPIs of all channels; one whose history is too short keeps its place, with the reason.

    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders", "revenue"])
    >>> [o.kpi for o in outlook_kpis(values, ["revenue"], as_of=date(2026, 11, 21))]
    ['revenue']
    """
    return [_outlook_or_reason(values, key, "", as_of=as_of, **options) for key in keys]


def outlook_channels(values: kpis.KpiTable, key: str, *, as_of: date, **options: Any) -> list[Outlook]:
    """Forecast one KPI for each channel that knows it.

    A channel that has ended (nothing known for five weeks) or is too young keeps its place, with the reason.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["spend"], by="channel")
    >>> [o.segment for o in outlook_channels(values, "spend", as_of=date(2026, 11, 21))]
    ['Paid social', 'Paid search', 'Affiliate']
    """
    rows = values.to_frame().query("kpi == @key")
    known = set(rows["segment"][rows["value"].notna()])
    return [_outlook_or_reason(values, key, s, as_of=as_of, **options) for s in values.segments() if s in known]


def _outlook_or_reason(
    values: kpis.KpiTable, key: str, segment: str, *, as_of: date, confidence: float = 0.9, **options: Any
) -> Outlook:
    series, reason = _complete(values, key, segment, as_of).dropna(), "short"
    checked_confidence(confidence)  # what was asked for wrongly is no short history
    holiday_regressors(series.index, options.get("holidays"))
    require(options.get("months", 1) >= 1, f"months={options.get('months')} must be at least 1.")
    if len(series) and (as_of - series.index[-1].end_time.date()).days > ENDED_DAYS:
        reason = "ended"
    else:
        try:
            return outlook(values, key, segment=segment, as_of=as_of, confidence=confidence, **options)
        except KpiError:
            pass
    return Outlook(kpi=key, segment=segment, grain=values.grain, confidence=confidence, currency=values.currency,
                   reason=reason)  # fmt: skip
