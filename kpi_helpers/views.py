"""Tables that are made of contract tables: a customer in a period, a cart, a contact and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import ibis
import ibis.expr.types as ir
import pandas as pd
import yaml
from ibis import _

from kpi_helpers.contracts import TABLES
from kpi_helpers.mappings import PERIODS
from kpi_helpers.readings import Rows
from kpi_helpers.result import asset
from kpi_helpers.sources import Source

#: a target of these is met from below
FALLING = ("spend", "hard_bounces", "soft_bounces", "unsubscribes", "complaints")
WITHIN_DAYS, DORMANT_DAYS, CART_DAYS, STEP_DAYS = 30, 90, 7, 7
DAY = 86_400


@dataclass(frozen=True, slots=True)
class View:
    """A made table as ``views.yaml`` declares it, and how it is made.

    `make` takes the source, the dimensions wanted, the grain (None is the whole span) and the last day.
    """

    make: Callable[[Source, Sequence[str], str | None, date | None], ir.Table]
    needs: Mapping[str, Sequence[str]]
    dimensions: Sequence[str]
    measures: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    levels: bool = False


def rows(data: Source, name: str, by: Sequence[str], grain: str | None, end: date | None) -> Rows:
    """Rows of a contract table or a view, with what can be counted in them."""
    if view := VIEWS.get(name):
        return Rows(view.make(data, by, grain, end), view.measures, daily=view.levels)
    contract, table = TABLES[name], data.table(name)
    there = {c: f"sum {c}" for c in contract.numbers if c in table.columns}
    if contract.dated in table.columns and contract.dated != "date":
        table = table.mutate(date=table[contract.dated].cast("date"))
    whole = data.whole(name) & set(there)
    return Rows(table, there | contract.measures, daily=contract.rows == "day", whole=whole)


def is_daily(name: str) -> bool:
    """Whether the rows of a table or view are sums, or levels, of a day."""
    return VIEWS[name].levels if name in VIEWS else TABLES[name].rows == "day"


def _bought(data: Source) -> ir.Table:
    orders = data.table("orders")
    return orders.filter(_.status.fill_null("completed") == "completed") if "status" in orders.columns else orders


def _around(events: ir.Table, marks: ir.Table, who: str) -> ir.Table:
    """`events` (who, at, …) with the time of the last mark up to then and the first one later, of the same person."""
    rest = {c: ibis.null(events[c].type()) for c in events.columns if c not in (who, "at")}
    both = events.mutate(mark=1).union(marks.select(who, "at").mutate(**rest, mark=0).select(*events.columns, "mark"))
    order: dict[str, Any] = {"group_by": who, "order_by": ["at", "mark"]}
    marked = (both.mark == 0).ifelse(both["at"], None)
    told = both.mutate(
        before=marked.max().over(ibis.window(**order, preceding=None, following=0)),
        after=marked.min().over(ibis.window(**order, preceding=0, following=None)),
        until=both["at"].max().over(ibis.window()),
    )
    return told.filter(_.mark == 1)


def _seconds(later: Any, earlier: Any) -> Any:
    return later.epoch_seconds() - earlier.epoch_seconds()


def _judged(told: ir.Table, days: int) -> dict[str, Any]:
    """Whether so many days are over since each event (`ripe`), and whether its mark came within them (`came`)."""
    came = (_seconds(told.after, told["at"]) <= days * DAY).fill_null(False)
    ripe = _seconds(told.until, told["at"]) >= days * DAY
    return {"date": told["at"].cast("date"), "ripe": ripe.ifelse(1, 0), "came": came.ifelse(1, 0)}


def _start(day: Any, grain: str | None) -> Any:
    """First day of the period; one day for the whole span."""
    return day.truncate(grain) if grain else ibis.literal(date(1900, 1, 1))


def _buyers(data: Source, by: Sequence[str], grain: str | None, _end: date | None) -> ir.Table:
    bought = _bought(data)
    day = bought.ordered_at.cast("date")
    sums = {"margin": _.margin.sum()} if "margin" in bought.columns else {}
    grouped = bought.mutate(start=_start(day, grain), date=day).group_by("customer_id", "start", *by)
    return grouped.aggregate(n_orders=_.count(), date=_.date.max(), **sums)


def _returning(data: Source, by: Sequence[str], grain: str | None, _end: date | None) -> ir.Table:
    unit: Any = grain or "month"
    seen = _bought(data).mutate(start=_.ordered_at.cast("date").truncate(unit)).select("customer_id", "start", *by)
    seen = seen.distinct()
    nxt = seen.start.lead().over(ibis.window(group_by=["customer_id", *by], order_by="start"))
    following = (seen.start + ibis.interval(1, unit=unit)).cast("date")
    return seen.select(*by, date=following, kept=(nxt == following).fill_null(False).ifelse(1, 0))


def _answered(table: str, at: str) -> Callable[..., ir.Table]:
    """Contacts with a customer, and whether an order came within the days."""

    def make(data: Source, by: Sequence[str], _grain: str | None, _end: date | None) -> ir.Table:
        met = data.table(table).filter(_[at].notnull()).select("customer_id", *by, at=_[at])
        told = _around(met, _bought(data).select("customer_id", at=_.ordered_at), "customer_id")
        asleep = (_seconds(told["at"], told.before) > DORMANT_DAYS * DAY).fill_null(False).ifelse(1, 0)
        return told.select("customer_id", *by, asleep=asleep, **_judged(told, WITHIN_DAYS))

    return make


def _reached(data: Source, _by: Sequence[str], grain: str | None, _end: date | None) -> ir.Table:
    touches = data.table("touchpoints")
    day = touches.touched_at.cast("date")
    clicked = (touches.kind == "click").fill_null(False).ifelse(touches.channel, None)
    people = touches.mutate(start=_start(day, grain), date=day, clicked=clicked).group_by("customer_id", "start")
    return people.aggregate(n_channels=_.clicked.nunique(), date=_.date.max())


def _conversion_times(data: Source, _by: Sequence[str], _grain: str | None, _end: date | None) -> ir.Table:
    first = data.table("touchpoints").group_by("customer_id").aggregate(at=_.touched_at.min())
    told = _around(first, _bought(data).select("customer_id", at=_.ordered_at), "customer_id")
    return _lasting(told, told["at"], told.after, told.until)


def _deals(data: Source, by: Sequence[str], _grain: str | None, end: date | None) -> ir.Table:
    leads = data.table("leads").filter(_.opportunity_at.notnull())
    last = ibis.greatest(leads.won_at.max().over(ibis.window()), leads.created_at.max().over(ibis.window()))
    if end is not None:
        last = ibis.literal(pd.Timestamp(end)).cast("timestamp")
    return _lasting(leads.mutate(until=last), leads.opportunity_at, leads.won_at, None, by)


def _lasting(table: ir.Table, begun: Any, done: Any, until: Any, by: Sequence[str] = ()) -> ir.Table:
    """Whole days from `begun` to `done`, or as far as is known; `done` is null where it did not happen yet."""
    until = table.until if until is None else until
    happened = done.notnull() & (done <= until)
    days = (_seconds(happened.ifelse(done, until), begun) / DAY).floor().cast("int64")
    return table.select(*by, date=begun.cast("date"), days=days, event=happened.ifelse(1, 0)).filter(_.days >= 0)


def _carts(data: Source, by: Sequence[str], _grain: str | None, _end: date | None) -> ir.Table:
    events = data.table("web_events").filter(_.happened_at.notnull())
    events = events.mutate(happened_at=_.happened_at.cast("timestamp(6)"))
    carts = events.filter(_.event.isin(["cart", "checkout"])).mutate(day=_.happened_at.cast("date"))
    carts = carts.group_by("visitor_id", "day", "event", *by).aggregate(at=_.happened_at.min())
    # a purchase at the time of its cart comes after it: where only the day is known, all times of it are one
    after = (_.happened_at + ibis.interval(microseconds=1)).cast("timestamp(6)")
    bought = events.filter(_.event == "purchase").select("visitor_id", at=after)
    told = _around(carts.drop("day"), bought, "visitor_id")
    return told.select("event", *by, **_judged(told, CART_DAYS))


def _lead_stages(data: Source, by: Sequence[str], _grain: str | None, _end: date | None) -> ir.Table:
    leads = data.table("leads")
    there = [c for c in ("mql_at", "sal_at", "opportunity_at") if c in leads.columns]
    named = ((leads.filter(leads[c].notnull()), c) for c in there)
    return ibis.union(*(t.select(*by, date=t[c].cast("date"), stage=ibis.literal(c[:-3])) for t, c in named))


def _steps(data: Source, by: Sequence[str], _grain: str | None, _end: date | None) -> ir.Table:
    sent = data.table("messages").filter(_.workflow.notnull(), _.step.notnull(), _.sent_at.notnull())
    begun = sent.group_by("customer_id", "workflow", "step", *by).aggregate(at=_.sent_at.min())
    nxt = begun.step.lead().over(ibis.window(group_by=["customer_id", "workflow", *by], order_by="step"))
    last = begun.step.max().over(ibis.window(group_by="workflow"))
    told = begun.mutate(went_on=(nxt == begun.step + 1).fill_null(False).ifelse(1, 0), last=last)
    ripe = _seconds(begun["at"].max().over(ibis.window()), begun["at"]) >= STEP_DAYS * DAY
    told = told.mutate(ripe=ripe)
    return told.filter(told.step < told["last"], told.ripe).select(*by, "went_on", date=told["at"].cast("date"))


def _running(table: str, begun: str, over: str) -> Callable[..., ir.Table]:
    """What runs at the end of each period, one row a thing and period end."""

    def make(data: Source, by: Sequence[str], grain: str | None, end: date | None) -> ir.Table:
        things = data.table(table)
        ended = things[over] if over in things.columns else ibis.null("date")
        things = things.mutate(begun_on=things[begun].cast("date"), over_on=ended.cast("date"))
        if end is None:  # a thing that is over was seen to be over
            span = things.aggregate(last=ibis.greatest(_.begun_on.max(), _.over_on.max().fill_null(_.begun_on.max())))
            end = span.to_pyarrow()["last"][0].as_py()
        first = things.aggregate(first=_.begun_on.min()).to_pyarrow()["first"][0].as_py()
        periods = pd.period_range(first or end, end, freq=PERIODS[grain or "month"])
        days = sorted({min(p.end_time.date(), end) for p in periods})
        ends = ibis.memtable({"date": days}, schema={"date": "date"})
        kept = ends.cross_join(things).filter(_.begun_on <= _.date, _.over_on.isnull() | (_.over_on > _.date))
        return kept.select("date", *by, *(["price"] if "price" in things.columns else []))

    return make


def _campaign_results(data: Source, _by: Sequence[str], _grain: str | None, end: date | None) -> ir.Table:
    targets, daily = data.table("targets"), data.table("channel_daily")
    last = ibis.literal(end) if end else daily.date.max().as_scalar()
    held = [c for c in TABLES["channel_daily"].numbers if c in daily.columns]
    rows = daily.select("date", *held, on_campaign=daily.campaign)
    during = [targets.campaign == rows.on_campaign, targets.starts_on <= rows.date, targets.ends_on >= rows.date]
    joined = targets.join(rows, during, how="left")
    registered = joined.registered_on if "registered_on" in targets.columns else ibis.null("date")
    actual = ibis.cases(*((joined.kpi == c, joined[c]) for c in held))
    joined = joined.mutate(actual=actual, last=last, registered=registered).filter(_.kpi.isin(held))
    keys = ["campaign", "kpi", "target", "starts_on", "ends_on", "registered", "last"]
    summed = joined.group_by(keys).aggregate(actual=_.actual.sum())
    done = summed.filter(_.ends_on <= _["last"], _.registered.isnull() | (_.registered <= _.starts_on))
    met = done.kpi.isin(FALLING).ifelse(done.actual <= done.target, done.actual >= done.target)
    return done.select("campaign", date=done.ends_on, met=met.fill_null(False).ifelse(1, 0))


MADE: dict[str, Callable[..., ir.Table]] = {
    "completed_orders": lambda data, *_rest: _bought(data).mutate(date=_.ordered_at.cast("date")),
    "buyers": _buyers, "returning": _returning, "contacts": _answered("messages", "sent_at"),
    "touched": _answered("touchpoints", "touched_at"), "reached": _reached, "conversion_times": _conversion_times,
    "deals": _deals, "carts": _carts, "lead_stages": _lead_stages, "steps": _steps,
    "running_subscriptions": _running("subscriptions", "started_at", "ended_at"),
    "active_partners": _running("partners", "joined_at", "left_at"), "campaign_results": _campaign_results,
}  # fmt: skip
VIEWS = {name: View(make=MADE[name], **told) for name, told in yaml.safe_load(asset("views.yaml")).items()}
