"""Subscriptions, read in the engine: MRR from period to period, cohort triangles, durations, churn by tenure."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _

from kpi_helpers import plots
from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.mappings import PERIODS
from kpi_helpers.result import Framed, Result, measure, number, one_unit, percent, say
from kpi_helpers.result import day as written_day
from kpi_helpers.sources import Source
from kpi_helpers.stats import moves, wilson
from kpi_helpers.texts import EXACT
from kpi_helpers.units import as_table

Day = date | str | None


class MrrBridge(Framed):
    """Monthly recurring revenue as each period ends, and what customers did to it since the one before.

    `opening` + `new` + `expansion` − `contraction` − `churn` = `closing`, to the cent; `returned` is the part of `new`
    from customers who came back; rates are fractions of the start. One not `complete` goes as far as the data do.
    """

    columns: ClassVar = (
        "period", "opening", "new", "expansion", "contraction", "churn", "closing", "returned", "customers", "gained",
        "lost", "logo_churn", "gross_retention", "net_retention", "complete",
    )  # fmt: skip

    @property
    def last(self) -> pd.Series:
        """The last period that is over, or else the last."""
        return (self.frame[self.frame["complete"]] if any(self.complete) else self.frame).iloc[-1]

    def drawn(self, language: str) -> str:
        """What made up the last period, as an HTML figure."""
        row, words = self.last, say("mrr_bridge.bars", language).split("|")
        steps = [row["new"], row["expansion"], -row["contraction"], -row["churn"]]
        scale, note = one_unit(max(row["opening"], row["closing"]), "money", self.currency, language)
        numbers = [
            number(v / scale, language, decimals=int(scale > 1)) for v in (row["opening"], *steps, row["closing"])
        ]
        bars = row["opening"], steps, words, numbers, [True] * 4
        told = {"title": say("mrr_bridge.title", language), "note": note, "alt": self.sentence(language)}
        return plots.chart(lambda axes, _narrow: plots.bridge(axes, *bars), **told)

    def sentence(self, language: str = "en") -> str:
        row = self.last
        told = {k: measure(row[k], "money", language, self.currency) for k in self.columns[1:7]}
        told |= {k: percent(row[k], language) for k in self.columns[11:14]}
        return say("mrr_bridge.sentence", language, period=written_day(row["period"], language), **told)


def bridge(subscriptions: Any, grain: str = "month", *, as_of: Day = None, currency: str = "") -> MrrBridge:
    """Tell why MRR changed; a customer who swaps one subscription for another is neither new nor lost.

    Parameters: `subscriptions`, the contract table (Ibis, DataFrame or file), one row a price; without customer_id a
    subscription is a customer; `grain`, day, week or month; `as_of`, up to when it is known, by default the last day in
    it. Raises `KpiError` if rows or columns lack.
    """
    require_known("price", as_table(subscriptions).columns, "subscriptions has no column price.")
    rows, end = _running(subscriptions, as_of)
    came, left, both = (_.before == 0) & (_.after > 0), (_.before > 0) & (_.after == 0), (_.before > 0) & (_.after > 0)
    kinds = {"new": came, "expansion": both & (_.step > 0), "contraction": both & (_.step < 0), "churn": left}
    kinds["returned"] = came & (_.period > _.seen)
    sums = {k: _.step.abs().sum(where=kind) for k, kind in kinds.items()}
    sums |= {"gained": _.count(where=came), "lost": _.count(where=left)}
    told = _levels(rows, grain).group_by("period").aggregate(**sums).to_pyarrow().to_pandas().fillna(0)
    periods = _periods(told, grain, end)
    f = told.set_index("period").astype(object).reindex([p.start_time.date() for p in periods], fill_value=0)
    f["closing"] = (f["new"] + f["expansion"] - f["contraction"] - f["churn"]).cumsum()  # of decimals: exact
    f["opening"], f["customers"] = (v.shift(fill_value=0) for v in (f["closing"], (f["gained"] - f["lost"]).cumsum()))
    f["complete"] = [p.end_time.date() <= end for p in periods]
    kept = (f["opening"] - f["contraction"] - f["churn"]).astype(float)
    whole = ("customers", "gained", "lost")
    f = f.reset_index().astype({k: int if k in whole else float for k in MrrBridge.columns[1:11]})
    start = f["opening"].where(f["opening"] > 0).to_numpy()
    f["logo_churn"] = f["lost"] / f["customers"].where(f["customers"] > 0)
    f["gross_retention"], f["net_retention"] = kept.to_numpy() / start, (f["closing"] - f["new"]) / start
    return MrrBridge(frame=f[list(MrrBridge.columns)], whole={"grain": grain, "currency": currency})


class CohortTriangle(Framed):
    """Customers of each `cohort` (period of the start) who are there at each `age` in periods, and their revenue.

    `share` is of all who `started`, `revenue_share` of the revenue at age 0. Whole periods only, as they end.
    """

    columns: ClassVar = ("cohort", "age", "started", "customers", "share", "revenue", "revenue_share")
    aside: ClassVar = ("share", "revenue_share")

    def sentence(self, language: str = "en") -> str:
        next_one = self.frame[self.frame["age"] == 1]
        kept = next_one["customers"].sum() / next_one["started"].sum() if len(next_one) else None
        return say("cohort_triangle.sentence", language, n=len(set(self.cohort)), kept=percent(kept, language))


def cohorts(subscriptions: Any, grain: str = "month", *, as_of: Day = None, currency: str = "") -> CohortTriangle:
    """Follow customers by the period in which they started. Parameters and errors as in `bridge`."""
    rows, end = _running(subscriptions, as_of)
    moved = _levels(rows, grain).mutate(n=(_.after > 0).ifelse(1, 0) - (_.before > 0).ifelse(1, 0))
    moved = moved.mutate(cohort=_.period.min().over(ibis.window(group_by="who"))).group_by("cohort", "period")
    told = moved.aggregate(n=_.n.sum(), step=_.step.sum(), started=_.count()).to_pyarrow().to_pandas()
    days = [p.start_time.date() for p in _periods(told, grain, end) if p.end_time.date() <= end]
    require(len(days) > 0, f"No {grain} is over by {end}: there is nothing to follow. Choose a shorter grain.")
    cells = told.pivot_table(index="cohort", columns="period", aggfunc="first").reindex(index=days).fillna(0)
    n, revenue = (cells[k].reindex(columns=days, fill_value=0).to_numpy().cumsum(axis=1) for k in ("n", "step"))
    started = cells["started"].reindex(columns=days, fill_value=0).to_numpy().diagonal()
    i, j = np.triu_indices(len(days))
    held = {"started": started[i], "customers": n[i, j], "revenue": revenue[i, j], "base": revenue.diagonal()[i]}
    f = pd.DataFrame({"cohort": np.array(days)[i], "age": j - i} | {k: v.astype(float) for k, v in held.items()})
    f = f[f["started"] > 0].astype({"started": int, "customers": int}).reset_index(drop=True)
    f["share"], f["revenue_share"] = f["customers"] / f["started"], f["revenue"] / f["base"].where(f["base"] > 0)
    return CohortTriangle(frame=f[list(CohortTriangle.columns)], whole={"grain": grain, "currency": currency})


def spells(subscriptions: Any, as_of: Day = None, *, by: str = "") -> ir.Table:
    """Subscriptions over all price rows: ``spell, begun, over`` (empty while it runs) and `by` of the first row."""
    rows, _end = _running(subscriptions, as_of)
    require_known(by or "spell", rows.columns, f"subscriptions has no column {by}.")
    label = {by: _[by].argmin(_.begun)} if by else {}
    told = rows.group_by("spell").aggregate(**label, begun=_.begun.min(), over=_.over.max(), runs=_.over.isnull().any())
    return told.mutate(over=told.runs.ifelse(None, told.over)).drop("runs")


def durations(subscriptions: Any, as_of: Day = None, *, by: str = "") -> pd.DataFrame:
    """Count subscriptions by the months that they lasted, for `retention.survival` with ``weights=counts.n``.

    A begun month counts where it ended, only whole ones where it runs; price rows of a subscription are one. Columns:
    `by` (of its first row, if wanted), ``duration``, ``observed`` (1 if it ended by then), ``n``.
    """
    told, end = spells(subscriptions, as_of, by=by), _running(subscriptions, as_of)[1]
    so_far, whole = _months(told.begun, ibis.literal(end)), _months(told.begun, told.over, up=True)
    ended = (whole <= so_far).fill_null(False)
    told = told.mutate(observed=ended.ifelse(1, 0), duration=ended.ifelse(whole, so_far))
    keys = [*([by] if by else []), "duration", "observed"]
    return told.group_by(keys).aggregate(n=_.count()).order_by(keys).to_pyarrow().to_pandas()


def tenure_churn(subscriptions: Any, period_start: date | str, period_end: date | str) -> pd.DataFrame:
    """Count customers who run as a period starts (`at_risk`) and gone as it ends (`lost`), by `tenure`, months."""
    rows, _end = _running(subscriptions, period_end)
    start = known_day(period_start)
    was, still = (_.begun < start) & (_.over.isnull() | (_.over >= start)), _.over.isnull()
    each = rows.group_by("who").aggregate(since=_.begun.min(), was=was.any(), still=still.any()).filter(_.was)
    each = each.mutate(tenure=_months(each.since, ibis.literal(start)))
    counted = each.group_by("tenure").aggregate(at_risk=_.count(), lost=_.count(where=~_.still))
    return counted.order_by("tenure").to_pyarrow().to_pandas()


def month_and_year_before(month: str | None, end: date) -> list[tuple[date, date]]:
    """First and last day of a month (YYYY-MM, by default the last one that is over by `end`), and of a year before."""
    try:
        last = pd.Period(month, "M") if month else pd.Period(end + timedelta(1), "M") - 1
    except ValueError:
        raise KpiError(f"month={month!r} is no month. Write YYYY-MM.") from None
    require(last.end_time.date() <= end, f"month={month} is not over by {end}. Take an earlier one.")
    return [(p.start_time.date(), p.end_time.date()) for p in (last, last - 12)]


class Setting(Framed):
    """How leaving can be seen: by a `contract` that ends, by `orders` that stop, or both, in these `tables`."""

    aside: ClassVar = ("tables",)

    def sentence(self, language: str = "en") -> str:
        return say(f"setting.{'_'.join(self.tables)}", language)


def setting(data: Source) -> Setting:
    """Decide whether customers of a source have a contract, buy without one, or both; `KpiError` if none is known."""
    tables = [name for name in ("subscriptions", "orders") if name in data.tables]
    require(bool(tables), "Churn needs the table subscriptions (a contract) or orders (none). Map one of them.")
    return Setting.of([()], contract="subscriptions" in tables, orders="orders" in tables, tables=tables)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Leaving(Result):
    """Who leaves, of members or else of buyers (`told`), and what to do: the head of the report."""

    told: Result
    campaign: Result | None = None

    aside: ClassVar = ("told", "campaign")

    name = "answer"

    def to_frame(self) -> pd.DataFrame:
        return self.told.to_frame().tail(1)

    def sentence(self, language: str = "en") -> str:
        return self.told.sentence(language)


class StandardisedChurn(Framed):
    """Churn `was` and `now`, and that of now at the tenures of then: `standardised`, `low`, `high`.

    `change` is standardised less `was`, of the tenures that now has, too.
    """

    def sentence(self, language: str = "en") -> str:
        kind = "fell" if self.change_high < 0 else "rose" if self.change_low > 0 else "same"
        told = {k: percent(self.whole[k], language) for k in ("was", "now", "standardised", "low", "high")}
        return say(f"standardised_churn.{kind}", language, level=f"{self.confidence:.0%}", **told)


def standardised_churn(now: pd.DataFrame, was: pd.DataFrame, *, confidence: float = 0.95) -> StandardisedChurn:
    """Compare churn at one mix of tenures: many new customers change churned / all though nobody stays longer.

    Parameters: `now` and `was` as `tenure_churn` counts them. Direct standardisation; its interval is Wilson's of as
    many customers as have its variance, Σw²p(1−p)/n, each rate p drawn to the mean of all by two customers.
    Raises `KpiError` if they have no tenure in common.
    """
    both = was.merge(now[now["at_risk"] > 0], on="tenure", suffixes=("_was", ""))
    n = float(both["at_risk_was"].sum())
    require(n > 0, "now and was have no tenure in common: there is no mix to compare at.")
    weight, lost, at_risk = both["at_risk_was"] / n, both["lost"], both["at_risk"]
    value, before = float(weight @ (lost / at_risk)), float(both["lost_was"].sum() / n)
    drawn = (lost + 2 * lost.sum() / at_risk.sum()) / (at_risk + 2)  # a tenure of one customer has no spread of its own
    centre = weight @ drawn
    spread, least = ((weight**2 * v / at_risk).sum() for v in (drawn * (1 - drawn), 1))
    trials = np.array([centre * (1 - centre) / spread if spread else 1 / least, n])
    lows, highs = wilson(trials * (value, before), trials, confidence=confidence)
    ends = [float(v) for v in (lows[0], highs[0], *moves(*zip((value, before), lows, highs, strict=True)))]
    whole = {"was": before, "now": float(now["lost"].sum() / now["at_risk"].sum()), "standardised": value}
    whole |= dict(zip(("low", "high", "change", "change_low", "change_high"), ends, strict=True))
    return StandardisedChurn.of([()], **whole, covered=n / float(was["at_risk"].sum()), confidence=confidence)


def _running(subscriptions: Any, as_of: Day) -> tuple[ir.Table, date]:
    """Rows by customer (`who`) as they were known as a day ends, and that day; `over` is null where they ran."""
    table = as_table(subscriptions)
    for column in ("subscription_id", "started_at"):
        require_known(column, table.columns, f"subscriptions has no column {column}.")
    kinds = {"customer_id": "string", "ended_at": "date", "price": EXACT}
    there = {c: (table[c] if c in table.columns else ibis.null(kind)).cast(kind) for c, kind in kinds.items()}
    spell = table.subscription_id.cast("string")
    named = {"spell": spell, "who": there["customer_id"].fill_null(ibis.literal("\x1f") + spell)}
    named |= {"begun": table.started_at.cast("date"), "over": there["ended_at"], "price": there["price"].fill_null(0)}
    rows = table.mutate(**named)
    ends = rows.aggregate(begun=_.begun.max(), over=_.over.max()).to_pyarrow().to_pylist()[0]
    end = known_day(as_of or max((d for d in ends.values() if d), default=None))
    kept = rows.filter(_.begun <= end, _.over.isnull() | (_.over > _.begun))
    return kept.mutate(over=(_.over <= end).ifelse(_.over, None)), end


def _levels(rows: ir.Table, grain: str) -> ir.Table:
    """Periods in which a customer changed: `step` in money, rows `before` and `after` it, when first `seen`."""
    require_known(grain, PERIODS, f"grain={grain!r} is not known.")
    begun, over = rows.select("who", "price", day=_.begun, n=1), rows.filter(_.over.notnull())
    steps = begun.union(over.select("who", price=-_.price, day=_.over, n=-1))
    steps = steps.group_by("who", period=_.day.truncate(grain).cast("date")).aggregate(step=_.price.sum(), n=_.n.sum())
    so_far = ibis.window(group_by="who", order_by="period", preceding=None, following=0)
    steps = steps.mutate(after=_.n.sum().over(so_far)).mutate(before=_.after - _.n)
    return steps.mutate(seen=_.period.min(where=_.after > 0).over(ibis.window(group_by="who")))


def _periods(told: pd.DataFrame, grain: str, end: date) -> pd.PeriodIndex:
    require(len(told) > 0, f"There are no rows up to {end}. Choose a later as_of.")
    return pd.period_range(told["period"].min(), end, freq=PERIODS[grain])


def _months(begun: Any, until: Any, *, up: bool = False) -> Any:
    """Whole months (`up`: begun ones) from one day to the other."""
    months, begins, ends = (until.year() - begun.year()) * 12 + until.month() - begun.month(), begun.day(), until.day()
    return months + (ends > begins).ifelse(1, 0) if up else months - (ends < begins).ifelse(1, 0)


def known_day(told: Day) -> date:
    """A day that may be written YYYY-MM-DD."""
    require(told is not None, "The table has no rows with a day: check the export, the mapping and the filters.")
    try:
        return date.fromisoformat(str(told)[:10])
    except ValueError:
        raise KpiError(f"{told!r} is no day. Write YYYY-MM-DD.") from None
