"""The running year against its target, and the rates that moved."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.backtests import Holidays, baseline
from kpi_helpers.baselines import SEASONS
from kpi_helpers.calendars import holiday_regressors
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import Result, measure, percent, pill, probability, say, span, table
from kpi_helpers.result import uplift as written
from kpi_helpers.sources import Source
from kpi_helpers.targets import project, rank

#: lowest probability of each status of a running target
STATUSES = ((0.8, "on track"), (0.4, "too close to call"), (0.1, "at risk"), (0.0, "behind"))
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Pace(Result):
    """The running calendar year against its target, one row a KPI.

    Attributes
    ----------
    actual : tuple of float
        Sum of the complete periods so far.
    projected, projected_low, projected_high : tuple of float
        The complete periods and the forecast of the rest, and its interval.
    last_year, target : tuple of float
        Last year's value, and that plus the uplift.
    remaining_factor : tuple of float
        What the rest of the year must reach, relative to the target's own share of the rest (1 = on plan).
    probability, status : tuple
        Chance of meeting the target, and its word.
    """

    kpi: tuple[str, ...]
    actual: tuple[float, ...]
    projected: tuple[float, ...]
    projected_low: tuple[float, ...]
    projected_high: tuple[float, ...]
    last_year: tuple[float, ...]
    target: tuple[float, ...]
    remaining_factor: tuple[float, ...]
    probability: tuple[float, ...]
    status: tuple[str, ...]
    year: int
    uplift: float
    confidence: float
    currency: str

    def sentence(self, language: str = "en") -> str:
        """Chance of the first KPI's yearly target."""
        kind = "sentence" if math.isfinite(self.probability[0]) else "unknown"
        return say(
            f"pace.{kind}", language, name=kpis.kpi(self.kpi[0]).name[language], year=self.year,
            uplift=written(self.uplift, language),
            status=say(f"status.{self.status[0]}", language).lower(), chance=probability(self.probability[0], language),
        )  # fmt: skip

    def html(self, language: str = "en") -> str:
        """One tile a KPI: so far, projection, target, chance, status."""
        tiles = "".join(self._tile(i, language) for i in range(len(self.kpi)))
        uplift = written(self.uplift, language)
        note = say("pace.note", language, year=self.year, before=self.year - 1, uplift=uplift)
        return f'<ul class="strip">{tiles}</ul><p class="strip-note">{html.escape(note)}</p>'

    def _tile(self, i: int, language: str) -> str:
        k = kpis.kpi(self.kpi[i])
        so_far, *terms = say("pace.words", language, level=f"{self.confidence:.0%}").split("|")
        low, high = self.projected_low[i], self.projected_high[i]
        values = (self.actual[i], self.projected[i], self.target[i])
        actual, projected, target = (measure(v, k.unit, language, self.currency) for v in values)
        between = span(low, high, k.unit, language, self.currency)
        rest = self.remaining_factor[i]
        left = say("pace.reached", language) if rest <= 0 else percent(rest, language, decimals=0)
        told = (projected, between, target, left, probability(self.probability[i], language))
        facts = "".join(
            f"<div><dt>{term}</dt><dd>{html.escape(v)}</dd></div>"
            for term, v in zip(terms, told, strict=True)
        )  # fmt: skip
        drawn = _range(self.projected[i], low, high, self.target[i]) + f"<dl>{facts}</dl>"
        return (
            f'<li class="tile"><h3>{k.name[language]}</h3>'
            f'<p class="value">{actual} <span class="unit">{so_far}</span></p>'
            f"{drawn if math.isfinite(self.probability[i]) else ''}{pill(self.status[i], language)}</li>"
        )


def pace(
    values: kpis.KpiTable, keys: Sequence[str], *, as_of: date, uplift: float, confidence: float = 0.9,
    holidays: Holidays | None = None,
) -> Pace:  # fmt: skip
    """Compare the running year and the forecast of its rest with last year plus `uplift`.

    A period belongs to the year in which it begins; missing periods take the seasonal share of the known
    ones. A KPI whose last year or running year is less than 80% known is "not enough data".

    Raises
    ------
    KpiError
        If a KPI is a ratio, whose periods do not add up to a year, or the grain or `holidays` do not fit.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> pace(values, ["orders"], as_of=date(2026, 11, 21), uplift=0.05).status
    ('on track',)
    """
    ratios = [key for key in keys if not kpis.kpi(key).additive]
    require(not ratios, f"{', '.join(ratios)}: a ratio does not add up over a year. Watch it instead.")
    require(values.grain in SEASONS, f"A pace needs days, weeks or months, not grain={values.grain!r}. Compute those.")
    holiday_regressors(pd.period_range(as_of, as_of, freq="D"), holidays)  # a wrong day is no lack of data
    plan = (SEASONS[values.grain], as_of, uplift, confidence, holidays)
    rows = [_pace_row(values.series(key), key, *plan) for key in keys]
    names = ("kpi", "actual", "projected", "projected_low", "projected_high", "last_year", "target",
             "remaining_factor", "probability", "status")  # fmt: skip
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    return Pace(**columns, year=as_of.year, uplift=uplift, confidence=confidence, currency=values.currency)


def _pace_row(
    series: pd.Series, key: str, season: int, as_of: date, uplift: float, confidence: float, holidays: Holidays | None
) -> tuple[Any, ...]:
    series = series[series.index.end_time.date <= as_of]
    unknown = (math.nan,) * 7
    year = pd.period_range(f"{as_of.year}-01-01", f"{as_of.year}-12-31", freq=series.index.freq)
    year = year[year.start_time.year == as_of.year]
    last_year = series.reindex(year - season)
    done = series.reindex(year)[: int((year.end_time.date <= as_of).sum())].to_numpy(dtype=float)
    known = np.isfinite(done).mean() if len(done) else 0.0
    if min(last_year.notna().mean(), known) < 0.8 or last_year.sum() <= 0:
        return (key, float(np.nansum(done)), *unknown, "not enough data")
    before = last_year.interpolate(limit_direction="both")
    weights, target = before.clip(lower=0).to_numpy(dtype=float), before.sum() * (1 + uplift)
    share = weights[: len(done)].sum() / weights.sum()
    actual, so_far = float(np.nansum(done)), project(done, weights[: len(done)])
    ahead = len(year) - len(done)
    projected = low = high = so_far
    chance = float(so_far >= target)
    if ahead:
        try:
            until = pd.period_range(series.index[0], year[len(done) - 1])  # the KPI may have fallen silent before
            told, _cleaned = baseline(series.reindex(until), ahead, holidays)
        except KpiError:
            return (key, actual, *unknown, "not enough data")
        projected, low, high = (so_far + part for part in told.total(confidence))
        chance = float(told.whole().chance_above(target - so_far))
    left = (target - so_far) / (target * (1 - share)) if share < 1 else math.nan
    status = rank(chance, STATUSES) if math.isfinite(chance) else "not enough data"
    return (key, actual, projected, low, high, float(before.sum()), float(target), left, chance, status)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Watch(Result):
    """Rates and costs that moved clearly against the same weeks of last year, largest change first.

    Clear means that the two intervals do not overlap, which is stricter than a test at the same level.
    """

    kpi: tuple[str, ...]
    segment: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]
    now_low: tuple[float, ...]
    now_high: tuple[float, ...]
    better: tuple[bool, ...]
    confidence: float
    currency: str
    known: bool = True

    def sentence(self, language: str = "en") -> str:
        """How many moved, how many for the worse."""
        kind = "unknown" if not self.known else "some" if self.kpi else "none"
        return say(f"watch.{kind}", language, n=len(self.kpi), worse=self.better.count(False))

    def html(self, language: str = "en") -> str:
        """The largest changes: what, before, now with interval, better or worse."""
        if not self.kpi:
            return f"<p>{self.sentence(language)}</p>"
        rows = [self._row(i, language) for i in range(len(self.kpi))[:SHOWN]]
        return table(say("watch.heads", language).split("|"), rows, caption=self.sentence(language), numeric=(1, 2, 3))

    def _row(self, i: int, language: str) -> list[str]:
        k = kpis.kpi(self.kpi[i])
        before, now = (measure(v[i], k.unit, language, self.currency) for v in (self.before, self.now))
        between = span(self.now_low[i], self.now_high[i], k.unit, language, self.currency)
        change = percent(self.now[i] / self.before[i] - 1, language, sign=True) if self.before[i] else "–"
        verdict = say("watch.better" if self.better[i] else "watch.worse", language)
        under = f"<small>{html.escape(self.segment[i])}</small>" if self.segment[i] else ""
        return [
            k.name[language] + under,
            before,
            f"{now}<small>{between}</small>",
            f"{change}<small>{verdict}</small>",
        ]


def watch_year(
    data: Source, ids: Sequence[str], *, since: date, until: date, by: str = "channel", confidence: float = 0.95
) -> Watch:
    """Compare the time from `since` to `until` with the same weekdays 52 weeks before.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> watch_year(connect("data/demo"), ["aov"], since=date(2024, 1, 1), until=date(2024, 3, 31))
    What moved cannot be told, because the same weeks of last year are not known.
    """
    window: dict[str, Any] = {"by": by, "grain": "total", "confidence": confidence}
    now, year = kpis.compute(data, ids, since=since, until=until, **window), timedelta(weeks=52)
    if (first := data.first_day()) is None or first > since - year:
        nothing: dict[str, Any] = dict.fromkeys(
            ("kpi", "segment", "before", "now", "now_low", "now_high", "better"), ()
        )
        return Watch(**nothing, confidence=confidence, currency=now.currency, known=False)
    return watch(now, kpis.compute(data, ids, since=since - year, until=until - year, **window))


def watch(now: kpis.KpiTable, before: kpis.KpiTable) -> Watch:
    """Compare two tables of totals, KPI by KPI and segment by segment; sums are left to the pace.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> total = kpis.compute(connect("data/demo"), ["aov"], by="channel", grain="total")
    >>> watch(total, total)
    No rate or cost moved clearly against the same weeks of last year.
    """
    keys = ["kpi", "segment"]
    both = (
        now.to_frame()
        .merge(before.to_frame(), on=keys, suffixes=("", "_was"))
        .dropna(subset=["value_low", "value_low_was"])
    )
    rose, fell = both["value_low"] > both["value_high_was"], both["value_high"] < both["value_low_was"]
    directions = both["kpi"].map(lambda k: kpis.kpi(k).direction)
    floor = 1e-12  # a rate that came from or fell to nothing has moved most of all
    size = np.abs(np.log(both["value"].clip(floor) / both["value_was"].clip(floor)))
    moved = both.assign(better=rose == (directions == "up"), size=size)[(rose | fell) & (directions != "none")]
    moved = moved.sort_values(["size", *keys], ascending=[False, True, True])
    return Watch(
        kpi=tuple(moved["kpi"]), segment=tuple(moved["segment"]), before=tuple(moved["value_was"].tolist()),
        now=tuple(moved["value"].tolist()), now_low=tuple(moved["value_low"].tolist()),
        now_high=tuple(moved["value_high"].tolist()), better=tuple(moved["better"].tolist()),
        confidence=now.confidence, currency=now.currency,
    )  # fmt: skip


def _range(value: float, low: float, high: float, target: float) -> str:
    """An interval, its estimate and the target on one axis, for the eye only."""
    left, right = min(low, target), max(high, target)
    pad = 0.2 * (right - left) or 1.0
    at = [f"{(v - left + pad) / (right - left + 2 * pad):.1%}" for v in (low, high, value, target)]
    return (
        f'<span class="range" aria-hidden="true"><i class="iv" style="--lo:{at[0]};--hi:{at[1]}"></i>'
        f'<i class="pt" style="--at:{at[2]}"></i><i class="tg" style="--tg:{at[3]}"></i></span>'
    )
