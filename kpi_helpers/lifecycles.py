"""Customers by what they did so far: recency, frequency and money; how segments and the lifecycle move."""

from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from kpi_helpers import plots
from kpi_helpers.errors import require, require_known
from kpi_helpers.histories import Histories, opened, summarise
from kpi_helpers.mappings import PERIODS
from kpi_helpers.result import Framed, day, month, number, percent, say

if TYPE_CHECKING:
    import ibis.expr.types as ir

#: least scores of recency and of purchases with money: a customer is in the first segment whose both are reached
RULES = {
    "champions": (4, 4), "loyal": (3, 3), "at_risk": (1, 3), "promising": (4, 1), "attention": (3, 1),
    "hibernating": (1, 1),
}  # fmt: skip


class Rfm(Framed):
    """Segments of customers at a day (`on`): how many (`n`), their share, their revenue so far and its share."""

    columns: ClassVar = ("segment", "n", "share", "revenue", "revenue_share")

    def sentence(self, language: str = "en") -> str:
        told = dict(zip(self.segment, self.frame.itertuples(), strict=True))
        best, risk = told.get("champions"), told.get("at_risk")
        shares = {"share": best and best.share, "revenue": best and best.revenue_share, "risk": risk and risk.share}
        said = {name: percent(value or 0.0, language) for name, value in shares.items()}
        return say("rfm.said", language, n=number(sum(self.n), language), on=day(self.on, language), **said)


def scored(histories: Histories) -> "ir.Table":
    """Each customer in the engine with scores `r`, `f`, `m` of 1 to 5 and its `segment`.

    A score is the fifth in which the customer stands by last purchase, purchases or revenue; equals share the lower
    one, so that fifths differ in size: where most bought once, they have f = 1. Segments go by r and the mean of f and
    m, halves up; without revenue by r and f.
    """
    import ibis

    known, place = histories.table, {"r": "last_on", "f": "frequency", "m": "total_value"}
    ranks = {name: ibis.rank().over(ibis.window(order_by=known[c])) for name, c in place.items()}
    found = known.mutate(**ranks, all=known.count().over(ibis.window()))
    found = found.mutate(**{name: (5 * found[name]) // found["all"] + 1 for name in place}).drop("all")
    often = found.total_value.isnull().ifelse(found.f, (found.f + found.m + 1) // 2)
    reached = [((found.r >= r) & (often >= v), name) for name, (r, v) in RULES.items()]
    return found.mutate(segment=ibis.cases(*reached))


def rfm(histories: Histories) -> Rfm:
    """Put customers into segments by recency, frequency and money at the end of the calibration; see `scored`.

    >>> days = pd.to_datetime(["2026-01-01", "2026-01-02", "2026-03-01", "2026-03-02"])
    >>> orders = pd.DataFrame({"customer_id": [1, 2, 3, 2], "ordered_at": days, "revenue": [5, 5, 1, 9]})
    >>> rfm(summarise(orders)).frame[["segment", "n", "revenue_share"]].to_numpy().tolist()
    [['champions', 1, 0.7], ['hibernating', 2, 0.3]]
    """
    from ibis import _

    counted = scored(histories).group_by("segment").aggregate(n=_.count(), revenue=_.total_value.sum())
    frame = counted.to_pyarrow().to_pandas().set_index("segment").astype({"n": int, "revenue": float})
    frame = frame.reindex([name for name in RULES if name in frame.index])
    share, paid = frame["n"] / frame["n"].sum(), frame["revenue"] / frame["revenue"].sum()
    rows = zip(frame.index, frame["n"], share, frame["revenue"], paid, strict=True)
    return Rfm.of(rows, on=histories.split or histories.end, currency=histories.currency)


class Migration(Framed):
    """How many customers (`n`) went from a segment at the day `before` ("new": not there yet) to one at `after`."""

    columns: ClassVar = ("segment_before", "segment_after", "n")

    def sentence(self, language: str = "en") -> str:
        old, best = self.frame[self.frame["segment_before"] != "new"], ("champions", "loyal")
        good = old[old["segment_before"].isin(best)]
        kept = good["n"][good["segment_after"].isin(best)].sum()
        told = {"n": good["n"].sum(), "kept": kept, "new": self.frame["n"].sum() - old["n"].sum()}
        said = {name: number(int(value), language) for name, value in told.items()}
        ends = {name: day(self.whole[name], language) for name in ("before", "after")}
        return say("migration.said", language, **said, **ends)


def migration(orders: Any, before: date | str, after: date | str) -> Migration:
    """Count customers by their segment at two days, each by the orders up to then; `orders` as in `summarise`."""
    from ibis import _

    old, new = (summarise(orders, end=end) for end in (before, after))
    require(old.end < new.end, f"before={before} must be earlier than after={after}.")
    was = scored(old).select("customer_id", segment_before="segment")
    told = scored(new).select("customer_id", segment_after="segment").left_join(was, "customer_id")
    counted = told.mutate(segment_before=_.segment_before.fill_null("new")).group_by(*Migration.columns[:2])
    frame = counted.aggregate(n=_.count()).to_pyarrow().to_pandas()
    order = {name: i for i, name in enumerate((*RULES, "new"))}
    frame = frame.sort_values(["segment_before", "segment_after"], key=lambda names: names.map(order))
    return Migration.of(frame.to_numpy().tolist(), before=old.end, after=new.end)


class Lifecycle(Framed):
    """Customers who bought (`active`) by period: `new`, `current` (in the period before too), `resurrected` (earlier).

    `dormant` bought in the period before, not in this one; `retention` is current by the active of the period before.
    `complete`: the orders reach to the end of the period.
    """

    columns: ClassVar = ("period", "active", "new", "current", "resurrected", "dormant", "retention", "complete")

    def sentence(self, language: str = "en") -> str:
        told = self.frame[self.frame["complete"]] if self.frame["complete"].any() else self.frame
        row = told.iloc[-1]
        said = {name: number(int(row[name]), language) for name in self.columns[1:6]}
        at = (month if self.grain == "month" else day)(row["period"], language)
        return say("lifecycle.said", language, at=at, retention=percent(row["retention"], language), **said)

    def drawn(self, language: str) -> str:
        """Customers by period and state, as an HTML figure; the dormant below zero."""
        words = say("lifecycle.states", language).split("|")
        return plots.chart(
            lambda axes, narrow: plots.lifecycle(self.frame, axes, narrow, words=words, language=language),
            title=say("lifecycle.title", language), note=say("lifecycle.note", language), alt=self.sentence(language),
        )  # fmt: skip


def lifecycle(orders: Any, *, grain: str = "month") -> Lifecycle:
    """Count new, current, resurrected and dormant customers by period; `orders` as in `summarise`.

    A row that is completed counts, as in the KPIs retention_rate and churn_rate; refunds are not netted. In each period
    active = new + current + resurrected, and the active of the period before are current + dormant.

    >>> days = pd.to_datetime(["2026-01-05", "2026-01-07", "2026-02-10", "2026-03-31"])
    >>> told = lifecycle(pd.DataFrame({"customer_id": [1, 2, 2, 1], "ordered_at": days}))
    >>> told.new, told.current, told.resurrected, told.dormant
    ((2, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1))
    """
    import ibis
    from ibis import _

    require_known(grain, PERIODS, f"grain={grain!r} is not known.")
    rows = opened(orders)
    seen = rows.filter(rows.bought).mutate(start=_.on.truncate(grain).cast("date")).group_by("customer_id", "start")
    seen = seen.aggregate(until=_.on.max())
    last = seen.start.lag().over(ibis.window(group_by="customer_id", order_by="start"))
    before = (seen.start - ibis.interval(1, unit=grain)).cast("date")
    told = seen.mutate(fresh=last.isnull(), kept=(last == before).fill_null(False)).group_by("start")
    sums = {"active": _.count(), "new": _.fresh.sum(), "current": _.kept.sum(), "until": _["until"].max()}
    found = told.aggregate(**sums).to_pyarrow().to_pandas()
    require(len(found) > 0, "No order is completed and has a customer and a date.")
    found.index = pd.PeriodIndex(found["start"], freq=PERIODS[grain])
    until = pd.Timestamp(found["until"].max())
    f = found[["active", "new", "current"]].reindex(pd.period_range(found.index.min(), found.index.max()), fill_value=0)
    was = f["active"].shift(fill_value=0)
    f = f.astype(int).assign(resurrected=f["active"] - f["new"] - f["current"], dormant=was - f["current"])
    f = f.assign(retention=f["current"] / was.where(was > 0), complete=f.index.end_time.normalize() <= until)
    f.insert(0, "period", [p.start_time.date() for p in f.index])
    return Lifecycle(frame=f[list(Lifecycle.columns)].reset_index(drop=True), whole={"grain": grain})
