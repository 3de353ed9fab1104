"""The KPI catalogue, and KPI values at any grain as ratio of sums with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import views
from kpi_helpers.catalogue import UPSTREAM, OfKpis, declared
from kpi_helpers.catalogue import Kpi as Kpi
from kpi_helpers.catalogue import catalogue as catalogue
from kpi_helpers.catalogue import cost_per as cost_per
from kpi_helpers.catalogue import kpi as kpi
from kpi_helpers.catalogue import suggest as suggest
from kpi_helpers.changes import explain_change as explain_change
from kpi_helpers.contracts import CHANNEL_DAILY
from kpi_helpers.errors import KpiError, require
from kpi_helpers.readings import Ask, read
from kpi_helpers.result import Result, day, say
from kpi_helpers.scoring import GRAINS, cells, in_rows, intervals, lacking, last_known
from kpi_helpers.scoring import feeds as feeds
from kpi_helpers.scoring import scorecard as scorecard
from kpi_helpers.sources import Source
from kpi_helpers.stats import checked_confidence

#: on which days rows are dated, by what they cover
DATED = {"day": "D", "week": "W-MON", "month": "MS"}
#: The rate that tells most about channels of a group, whatever the objective.
OWN_RATE = {"ads": "ctr_ad", "messaging": "ctr_email"}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KpiChoice(Result):
    """KPIs that serve the `objective`, or the next one upstream that the data can feed (`served`), by importance;
    `main` is the sum that the plan is made for.
    """

    ways: ClassVar = {"kpi": kpi}
    objective: str
    served: str
    main: str
    kpis: tuple[str, ...]

    @property
    def plannable(self) -> list[str]:
        """Ids of the sums that a target can be set and split for."""
        return [k for k in self.kpis if kpi(k).plannable]

    @property
    def graded(self) -> list[str]:
        """Ids that a target can be set for, ratios and costs too."""
        return [k for k in self.kpis if kpi(k).direction != "none"]

    def sentence(self, language: str = "en") -> str:
        names = ", ".join(kpi(k).name[language] for k in self.kpis)
        asked, served = (say(f"objective.{o}", language) for o in (self.objective, self.served))
        kind = "sentence" if self.objective == self.served else "upstream"
        return say(f"kpi_choice.{kind}", language, asked=asked, served=served, names=names)


def choose(data: Source, objective: str, *, most: int = 5) -> KpiChoice:
    """Choose at most `most` KPIs that serve `objective` and that `data` can feed, and a rate for each channel group.

    A source that cannot feed the objective (no orders, say) is planned for the next one up the funnel, and says so.
    Raises a `KpiError` if the objective is unknown, or the data can feed no KPI at all.

    >>> from kpi_helpers.sources import connect
    >>> choose(connect("data/demo"), "sales", most=3)
    For the objective sales, watch Revenue, Orders, Average order value, Ad click-through rate, Click rate of messages.
    """
    require(objective in UPSTREAM, f"objective={objective!r} is not one of {', '.join(UPSTREAM)}.")
    held = {"channel_daily": set(data.table("channel_daily").columns)}
    possible = [k for k in declared().values() if k.kind != "stock" and not lacking(k, held)]
    known = daily_sums(data, possible).notna().any()  # a ratio needs a row that knows both of its parts
    fed = [k for k in possible if known[f"{k.id}__num"]]
    served: str | None = objective
    while served and not any(k.plannable for k in fed if served in k.objectives):
        served = UPSTREAM[served]
    if not served:
        raise KpiError(f"The columns of {data.name} feed no KPI for {objective}. Map more columns; see data/README.md.")
    found = [k for k in fed if served in k.objectives]
    main = min((k for k in found if k.plannable), key=lambda k: k.id != served)  # leads for leads, else the first
    chosen = [main, *[k for k in found if k != main][: most - 1]]
    groups = {k.group for k in chosen}  # a channel of messages or ads is also read by a rate of its own
    own = [k for group, k in OWN_RATE.items() if group not in groups and known.get(f"{k}__num", False)]
    return KpiChoice(objective=objective, served=served, main=main.id, kpis=(*[k.id for k in chosen], *own))


class KpiTable(OfKpis):
    """Values of KPIs by period (`period_at`: first day) and segment, which is empty for the whole.

    `numerator` and `denominator` are sums over the rows that know both. A sum was counted and has no interval.
    `n_days` are the dates that a value rests on, and `complete` says whether they are each date of the period.
    """

    def segments(self) -> list[str]:
        """Segments, by falling size of the first KPI."""
        first = self.frame.query("kpi == @self.kpi[0]").groupby("segment")["numerator"].sum()
        return [str(s) for s in first.sort_values(ascending=False, kind="stable").index]

    def series(self, key: str, segment: str = "", column: str = "value") -> pd.Series:
        """One KPI by period, without holes in the calendar; NaN where a period is incomplete."""
        frame = self.frame.query("kpi == @key and segment == @segment")
        at = pd.PeriodIndex(frame["period_at"], freq=GRAINS[self.grain])
        known = pd.Series(frame[column].where(frame["complete"]).to_numpy(dtype=float), index=at)
        return known.reindex(pd.period_range(at.min(), at.max(), freq=GRAINS[self.grain])) if len(at) else known

    def sentence(self, language: str = "en") -> str:
        first, last = (day(d, language) for d in (min(self.period_at), self.until_at))
        return say("kpi_table.sentence", language, n=len(self.value), k=len(set(self.kpi)), first=first, last=last)


def compute(
    data: Source, ids: Sequence[str], *, by: str | None = None, grain: str = "week",
    since: date | None = None, until: date | None = None, confidence: float = 0.95,
) -> KpiTable:  # fmt: skip
    """Compute KPIs by period and segment as Σ numerator / Σ denominator, in one query.

    `ids` are those of the catalogue; `by` is a dimension, such as ``"channel"``; `since` and `until` are the first and
    last date to read. Weeks begin on Monday; the grain ``"total"`` is the whole time in one. `confidence` is the
    coverage of the intervals: Wilson's for a share, the delta method over days for other ratios. Raises a `KpiError` if
    a KPI, grain or dimension is unknown, or the data are coarser than the grain.

    >>> from kpi_helpers.sources import connect
    >>> table = compute(connect("data/demo"), ["ctr_ad"], grain="total", until=date(2023, 11, 30))
    >>> round(table.value[0], 4), round(table.value_low[0], 4), round(table.value_high[0], 4)
    (0.0164, 0.0162, 0.0166)
    """
    checked_confidence(confidence)
    require(len(ids) > 0, f"ids is empty. Name at least one KPI of {', '.join(declared())}.")
    require(grain in GRAINS, f"grain={grain!r} is not one of {', '.join(GRAINS)}.")
    data.require_grain(grain)
    wanted = [kpi(k) for k in ids]
    other = [k.id for k in wanted if k.tables != {"channel_daily"} or k.kind == "stock"]
    require(not other, f"{', '.join(other)}: no sum or ratio of channel_daily. Use kpis.scorecard for all others.")
    daily = daily_sums(data, wanted, by=by, since=since, until=until)
    require(not daily.empty, f"{data.name} has no row between {since or 'its beginning'} and {until or 'its end'}.")
    at = daily["date"].dt.to_period(GRAINS[grain])
    daily["period_at"] = daily["date"].min() if grain == "total" else at.dt.start_time
    frame = _values(daily, wanted, confidence)
    dates = pd.date_range(at.min().start_time, at.max().end_time, freq=DATED[data.period()]).to_period(GRAINS[grain])
    expected = frame["period_at"].dt.to_period(GRAINS[grain]).map(dates.value_counts())
    frame["complete"] = frame["n_days"] >= (daily["date"].nunique() if grain == "total" else expected)
    frame["period_at"] = frame["period_at"].dt.date
    whole = {"grain": grain, "until_at": until or daily["date"].max().date(), "confidence": confidence}
    return KpiTable(frame=frame, whole=whole | {"currency": data.currency()})


def daily_sums(
    data: Source, wanted: Sequence[Kpi], *, by: str | None = None,
    since: date | None = None, until: date | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Exact sums per date and segment for every KPI, one scan: columns date, segment, ``<id>__num/__den``."""
    rows = data.table("channel_daily")
    what = "no dimension" if by in rows.columns else "no column"
    known = by is None or (by in rows.columns and by not in (*CHANNEL_DAILY.numbers, "date"))
    require(known, f"by={by!r} is {what} of channel_daily; it has {', '.join(rows.columns)}.")
    without = set[str]().union(*(lacking(k, {"channel_daily": set(rows.columns)}) for k in wanted))
    columns = ", ".join(sorted(name.partition(".")[2] for name in without))
    require(not without, f"{data.name} has no column {columns}. Map it, or choose other KPIs.")
    until = last_known(data, until) if until else None
    asks = [Ask(k.id, k.numerator, k.denominator) for k in wanted]
    dims = (by,) if by else ()
    frame = read(views.rows(data, "channel_daily", dims, None, None), asks, by=dims, start=since, end=until)
    frame = frame.assign(segment=frame[by] if by else "").drop(columns=list(dims))
    sums = [c for c in frame if c not in ("date", "segment")]
    return frame[["date", "segment", *sums]].sort_values(["segment", "date"], ignore_index=True)


def _values(daily: pd.DataFrame, ks: Sequence[Kpi], confidence: float) -> pd.DataFrame:
    """KPIs by period and segment from their daily sums; a plain sum was counted and has no interval here."""
    c = cells(ks, daily, daily[["period_at", "segment"]], daily=True)
    value, low, high = intervals(ks, c, confidence)
    scale = np.array([k.scale for k in ks])
    counted = np.where([k.additive for k in ks], np.nan, 1.0)
    told = {"numerator": c.num, "denominator": c.den, "value": value * scale, "value_low": low * scale * counted,
            "value_high": high * scale * counted, "n_days": c.n.astype(int)}  # fmt: skip
    return in_rows(ks, c, told)[["kpi", "segment", "period_at", *told]]
