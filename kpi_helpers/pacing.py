"""The running year against its target, and the rates that moved."""

import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.backtests import Holidays, baseline
from kpi_helpers.calendars import SEASONS, holiday_regressors
from kpi_helpers.catalogue import OfKpis
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import probability, say, uplift
from kpi_helpers.sources import Source
from kpi_helpers.targets import project, rank

STATUSES = ((0.8, "on track"), (0.4, "too close to call"), (0.1, "at risk"), (0.0, "behind"))  # lowest probability
UNKNOWN = (math.nan,) * 7


class Pace(OfKpis):
    """The running calendar year against its target, `last_year` plus the uplift, one row a KPI.

    `actual`: sum of the complete periods so far; `projected`: that and the forecast of the rest. `remaining_factor`:
    what the rest of the year must reach, relative to the target's own share of the rest (1 = on plan).
    """

    columns = (
        "kpi", "actual", "projected", "projected_low", "projected_high", "last_year", "target", "remaining_factor",
        "probability", "status",
    )  # fmt: skip

    def sentence(self, language: str = "en") -> str:
        kind = "sentence" if math.isfinite(self.probability[0]) else "unknown"
        told = {"name": kpis.kpi(self.kpi[0]).name[language], "uplift": uplift(self.uplift, language)}
        status, chance = say(f"status.{self.status[0]}", language).lower(), probability(self.probability[0], language)
        return say(f"pace.{kind}", language, year=self.year, status=status, chance=chance, **told)


def pace(
    values: kpis.KpiTable, keys: Sequence[str], *, as_of: date, uplift: float, confidence: float = 0.9,
    holidays: Holidays | None = None,
) -> Pace:  # fmt: skip
    """Compare the running year and the forecast of its rest with last year plus `uplift`.

    A period belongs to the year in which it begins; missing ones take the seasonal share of the known. A KPI whose last
    or running year is less than 80% known is "not enough data". Raises a `KpiError` if a KPI is a ratio or the grain or
    `holidays` do not fit.
    """
    ratios = [key for key in keys if not kpis.kpi(key).additive]
    require(not ratios, f"{', '.join(ratios)}: a ratio does not add up over a year. Watch it instead.")
    require(values.grain in SEASONS, f"A pace needs days, weeks or months, not grain={values.grain!r}. Compute those.")
    holiday_regressors(pd.period_range(as_of, as_of, freq="D"), holidays)  # a wrong day is no lack of data
    plan = (SEASONS[values.grain], as_of, uplift, confidence, holidays)
    rows = [(key, *_pace_row(values.series(key), *plan)) for key in keys]
    return Pace.of(rows, year=as_of.year, uplift=uplift, confidence=confidence, currency=values.currency)


def _pace_row(
    series: pd.Series, season: int, as_of: date, uplift: float, confidence: float, holidays: Holidays | None
) -> tuple[Any, ...]:
    series = series[series.index.end_time.date <= as_of]
    year = pd.period_range(f"{as_of.year}-01-01", f"{as_of.year}-12-31", freq=series.index.freq)
    last_year = series.reindex((year := year[year.start_time.year == as_of.year]) - season)
    done = series.reindex(year)[: int((year.end_time.date <= as_of).sum())].to_numpy(dtype=float)
    known, actual = np.isfinite(done).mean() if len(done) else 0.0, float(np.nansum(done))
    if min(last_year.notna().mean(), known) < 0.8 or last_year.sum() <= 0:
        return (actual, *UNKNOWN, "not enough data")
    before = last_year.interpolate(limit_direction="both")
    weights, target = before.clip(lower=0).to_numpy(dtype=float), before.sum() * (1 + uplift)
    share = weights[: len(done)].sum() / weights.sum()
    projected = low = high = so_far = project(done, weights[: len(done)])
    chance = float(so_far >= target)
    if ahead := len(year) - len(done):
        try:
            until = pd.period_range(series.index[0], year[len(done) - 1])  # the KPI may have fallen silent before
            told, _cleaned = baseline(series.reindex(until), ahead, holidays)
        except KpiError:
            return (actual, *UNKNOWN, "not enough data")
        projected, low, high = (so_far + part for part in told.total(confidence))
        chance = float(told.whole().chance_above(target - so_far))
    left = (target - so_far) / (target * (1 - share)) if share < 1 else math.nan
    status = rank(chance, STATUSES) if math.isfinite(chance) else "not enough data"
    return (actual, projected, low, high, float(before.sum()), float(target), left, chance, status)


class Watch(OfKpis):
    """Rates and costs whose intervals now and in the same weeks of last year do not overlap, largest change first."""

    columns = ("kpi", "segment", "before", "now", "now_low", "now_high", "better")

    def sentence(self, language: str = "en") -> str:
        kind = "unknown" if not self.known else "some" if self.kpi else "none"
        return say(f"watch.{kind}", language, n=len(self.kpi), worse=self.better.count(False))


def watch_year(
    data: Source, ids: Sequence[str], *, since: date, until: date, by: str = "channel", confidence: float = 0.95
) -> Watch:
    """Compare the time from `since` to `until` with the same weekdays 52 weeks before."""
    window: dict[str, Any] = {"by": by, "grain": "total", "confidence": confidence}
    now, year = kpis.compute(data, ids, since=since, until=until, **window), timedelta(weeks=52)
    if (first := data.first_day()) is None or first > since - year:
        return Watch.of((), confidence=confidence, currency=now.currency, known=False)
    return watch(now, kpis.compute(data, ids, since=since - year, until=until - year, **window))


def watch(now: kpis.KpiTable, before: kpis.KpiTable) -> Watch:
    """Compare two tables of totals, KPI by KPI and segment by segment; sums are left to the pace."""
    keys = ["kpi", "segment"]
    both = now.to_frame().merge(before.to_frame(), on=keys, suffixes=("", "_was"))
    both = both.dropna(subset=["value_low", "value_low_was"])
    rose, fell = both["value_low"] > both["value_high_was"], both["value_high"] < both["value_low_was"]
    directions = both["kpi"].map(lambda k: kpis.kpi(k).direction)
    size = np.abs(np.log(both["value"].clip(1e-12) / both["value_was"].clip(1e-12)))  # from or to nothing is most
    moved = both.assign(better=rose == (directions == "up"), size=size)[(rose | fell) & (directions != "none")]
    moved = moved.sort_values(["size", *keys], ascending=[False, True, True])
    rows = moved[[*keys, "value_was", "value", "value_low", "value_high", "better"]].itertuples(index=False)
    return Watch.of(rows, confidence=now.confidence, currency=now.currency, known=True)
