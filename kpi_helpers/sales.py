"""Marketing and sales on one page: what each channel cost and brought, which campaigns paid, goals day by day."""

import math
from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri, stdtr

from kpi_helpers import kpis
from kpi_helpers.catalogue import OfKpis, declared
from kpi_helpers.errors import require
from kpi_helpers.pacing import STATUSES
from kpi_helpers.result import TONES as STATUS_TONES
from kpi_helpers.result import Framed, labelled_pill, measure, number, percent, say
from kpi_helpers.sources import Source
from kpi_helpers.stats import checked_confidence
from kpi_helpers.targets import project, rank

#: what a sales team reads beside the funnel, as far as the source feeds it
FIGURES = (
    "visitor_lead_rate", "lead_customer_rate", "win_rate", "win_rate_negotiation", "sales_cycle", "aov", "call_time",
    "cart_abandon", "checkout_abandon", "cost_sales_ratio", "cac", "roas", "roi",
)  # fmt: skip
#: column of the page -> KPI and which of its sums; a lead counts for the time in which it came
PAGE = {
    "sessions": ("visitor_lead_rate", "denominator"), "leads": ("lead_customer_rate", "denominator"),
    "mql": ("mql_rate", "numerator"), "sal": ("sal_rate", "numerator"), "opportunities": ("win_rate", "denominator"),
    "won": ("lead_customer_rate", "numerator"), "orders": ("orders", "numerator"), "revenue": ("revenue", "numerator"),
    "cost": ("cac", "numerator"), "new_customers": ("cac", "denominator"),
}  # fmt: skip
SIGNS = {"up": 1, "down": -1}  # of a KPI's direction
VERDICTS = ("profit", "loss", "open")
TONES = {"profit": "good", "loss": "bad", "open": "none", "met": "good", "missed": "bad"} | STATUS_TONES


class Figures(OfKpis):
    """KPIs of sales with their intervals; those that the source cannot feed are left out."""

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        first = self.frame.head(2).itertuples()
        told = (f"{kpis.kpi(r.kpi).name[language]} {measure(r.value, r.unit, language, self.currency)}" for r in first)
        return say("figures.sentence", language, first=", ".join(told), n=len(self.frame))


def figures(
    data: Source, ids: Sequence[str] = FIGURES, *, as_of: date | None = None, confidence: float = 0.95
) -> Figures:
    """KPIs of the whole time up to `as_of`, such as both close rates, which never share a denominator."""
    missing = kpis.feeds(data)
    fed = [key for key in ids if not missing[key]]
    require(len(fed) > 0, f"{data.name} feeds none of {', '.join(ids)}. Map leads, orders, calls or costs.")
    frame = kpis.scorecard(data, fed, end=as_of, confidence=confidence).dropna(subset=["value"])
    kept = frame[["kpi", "value", "low", "high", "numerator", "denominator", "unit"]].reset_index(drop=True)
    return Figures(frame=kept, whole={"confidence": confidence, "currency": data.currency()})


class SalesPage(Framed):
    """Leads to won, orders, revenue and all cost by channel; shared costs have a row, so that columns add up.

    Holds the columns that the source knows; `roas` is revenue by cost, `cac` cost by new customers.
    """

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        total = self.total
        told = {k: number(total.get(k), language) for k in ("leads", "won", "orders")}
        told |= {k: measure(total.get(k), "money", language, self.currency) for k in ("revenue", "cost")}
        told["ratio"] = percent(total.get("cost", math.nan) / total.get("revenue", math.nan), language)
        parts = [say(f"sales_page.{k}_told", language, **told) for k in ("leads", "orders", "cost") if k in total]
        return say("sales_page.sentence", language, parts="; ".join(parts))

    @property
    def total(self) -> dict[str, float]:
        """What the columns add up to."""
        total: dict[str, float] = dict(self.frame.drop(columns="channel").sum())
        ratios = {"roas": ("revenue", "cost"), "cac": ("cost", "new_customers")}
        return total | {k: total[x] / (total[n] or math.nan) for k, (x, n) in ratios.items() if k in total}

    def shown(self, language: str) -> tuple[list[str], list[list[str]]]:
        """Heads and cells as the page shows them, the total last."""
        units = dict.fromkeys(("revenue", "cost", "cac"), "money") | {"roas": "ratio"}
        columns = [c for c in self.frame if c not in ("sessions", "new_customers")]
        rows = [*self.frame.to_dict("records"), {"channel": say("sales_page.total", language), **self.total}]
        cells = [
            [r["channel"] or say("sales_page.shared", language)]
            + [measure(r[c], units.get(str(c), "count"), language, self.currency) for c in columns[1:]] for r in rows
        ]  # fmt: skip
        return [say(f"sales_page.{c}", language) for c in columns], cells


def page(data: Source, *, start: date | None = None, as_of: date | None = None) -> SalesPage:
    """Put marketing and sales of each channel into one row: sums only, which reconcile to the tables to the cent."""
    missing = kpis.feeds(data)
    there = {name: told for name, told in PAGE.items() if not missing[told[0]]}
    require(len(there) > 0, f"{data.name} has neither leads nor orders nor costs by channel. Map one of them.")
    ids = list(dict.fromkeys(key for key, _part in there.values()))
    told = kpis.scorecard(data, ids, by="channel", start=start, end=as_of)
    cells = told[told["channel"].notna()].set_index(["kpi", "channel"])
    names = sorted(set(cells.index.get_level_values(1)), key=lambda name: (name == "", name))  # shared costs last
    frame = pd.DataFrame({"channel": names})
    for name, (key, part) in there.items():
        if key in cells.index:
            frame[name] = cells.loc[key, part].reindex(names).to_numpy(dtype=float)
    if {"revenue", "cost"} <= set(frame):
        frame["roas"] = frame["revenue"] / frame["cost"].where(frame["cost"] > 0)
        frame["cac"] = frame["cost"] / frame["new_customers"].where((frame["new_customers"] > 0) & (frame["cost"] > 0))
    return SalesPage(frame=frame, whole={"currency": data.currency()})


class CampaignProfits(Framed):
    """Margin credited to each campaign less its `loaded` cost, with the interval that chance in its orders gives.

    `loaded` is the media cost times what all costs are of it; `verdict`: profit, loss, or open if the interval holds 0
    or cannot be computed, because margin is unknown on `missing` days with orders, or never differs.
    """

    columns: ClassVar = (
        "campaign", "since", "until", "orders", "revenue", "margin", "cost", "loaded", "profit", "low", "high",
        "missing", "verdict",
    )  # fmt: skip
    aside: ClassVar = ("currency",)
    ways: ClassVar = {"mark": lambda kind, words: labelled_pill(TONES[kind], words)}

    def sentence(self, language: str = "en") -> str:
        if not len(self.frame):
            return say("campaign_profits.none", language)
        n = {kind: int((self.frame["verdict"] == kind).sum()) for kind in VERDICTS}
        return say("campaign_profits.sentence", language, k=len(self.frame), level=f"{self.confidence:.0%}", **n)


def campaign_profits(data: Source, *, as_of: date | None = None, confidence: float = 0.95) -> CampaignProfits:
    """Say of each campaign with media cost whether it made a profit, lost, or whether that cannot be told.

    Orders come by chance and differ in margin: a compound Poisson sum has the variance Σm². Without a table of orders
    with campaign and margin, the days are the sample. Needs campaign, spend and margin in channel_daily, or is empty.
    """
    z = float(ndtri((1 + checked_confidence(confidence)) / 2))
    whole = {"confidence": confidence, "currency": data.currency()}
    there = set(data.columns("channel_daily")) if "channel_daily" in data.tables else set()
    if not {"campaign", "spend", "margin"} <= there:
        return CampaignProfits.of((), **whole, factor=math.nan)
    end = data.as_of(as_of.isoformat() if as_of else None)
    days = _campaign_days(data, end)
    factor = _all_costs(data, days["date"].min(), end) / (days["spend"].sum() or math.nan)  # unnamed campaigns, too
    factor = max(factor, 1.0) if math.isfinite(factor) else 1.0
    days = days.dropna(subset="campaign")
    sums = {c: (c, "sum") for c in ("orders", "revenue", "margin", "missing")} | {"cost": ("spend", "sum")}
    own = days.groupby("campaign").agg(since=("date", "min"), until=("date", "max"), **sums)
    own = own[own["cost"] > 0].sort_values(["until", "since"], ascending=False, kind="stable")
    own["margin"] = own["margin"].where(own["missing"] == 0)
    own["loaded"] = own["cost"] * factor
    own["profit"] = own["margin"] - own["loaded"]
    variance, none = (v.reindex(own.index) for v in _spread(data, days, end, confidence))
    half = z * np.sqrt(variance.where(variance > 0))
    own["low"] = (own["profit"] - half).fillna(own["profit"].where(none > 0))
    own["high"] = (own["profit"] + half).fillna(own["profit"] + none.where(none > 0))
    own["verdict"] = np.where(own["low"] > 0, "profit", np.where(own["high"] < 0, "loss", "open"))
    frame = own.reset_index()[list(CampaignProfits.columns)]
    return CampaignProfits(frame=frame, whole=whole | {"factor": factor})


def _campaign_days(data: Source, end: Any) -> pd.DataFrame:
    """Sums by campaign and day; `missing` is 1 where something was sold, or nothing says so, and margin is unknown."""
    daily = data.table("channel_daily").filter(_.date <= end)
    summed = {c: daily[c].sum() for c in ("orders", "revenue", "margin", "spend") if c in daily.columns}
    days = daily.group_by("campaign", "date").aggregate(**summed).order_by("campaign", "date").to_pyarrow().to_pandas()
    days = days.reindex(columns=["campaign", "date", "orders", "revenue", "margin", "spend"])
    days = days.astype(dict.fromkeys(days.columns[2:], float))
    sold = (days["orders"] > 0) | (days["revenue"].fillna(0) != 0)
    if not {"orders", "revenue"} & set(summed):
        sold = days["spend"] > 0
    never = days.groupby("campaign")[["margin", "orders", "revenue"]].transform("count").sum(axis=1) == 0
    return days.assign(missing=((sold | never) & days["margin"].isna()).astype(int))


def _all_costs(data: Source, start: Any, end: Any) -> float:
    """Everything that the table of costs holds in the days of the channels; NaN without one."""
    if "costs" not in data.tables:
        return math.nan
    costs = data.table("costs")
    return float(costs.filter(costs.date.between(start, end)).amount.sum().to_pyarrow().as_py() or math.nan)


def _spread(data: Source, days: pd.DataFrame, end: Any, confidence: float) -> tuple[pd.Series, pd.Series]:
    """Variance of each campaign's margin: Σm² of its orders, or n·s² of its days; and where it has no order at all,
    the margin that as many orders would bring as chance may have kept away (Poisson)."""
    if "orders" in data.tables and {"campaign", "margin"} <= set(data.columns("orders")):
        orders = data.table("orders").filter(_.ordered_at.cast("date") <= end)
        m = orders.margin.cast("float64")
        told = {"v": (m * m).sum(), "m": m.sum(), "known": m.count(), "n": orders.count()}
        own = orders.group_by("campaign").aggregate(**told).to_pyarrow().to_pandas().dropna(subset="campaign")
        own, mean = own.set_index("campaign"), own["m"].sum() / max(own["known"].sum(), 1)
        names = pd.Index(days["campaign"].unique()).difference(own.index)
        return own["v"] * own["n"] / own["known"].where(own["known"] > 0), pd.Series(
            -math.log((1 - confidence) / 2) * mean, names
        )
    of = days.groupby("campaign")["margin"]
    return of.var(ddof=1) * of.count(), pd.Series(dtype=float)


class Goals(Framed):
    """Goal and result of each day of a campaign, and both `so_far`; a day's goal has its share of last year's days.

    `summary`: a row a campaign and KPI with the projected total, its chance to reach the target, and a status.
    """

    columns: ClassVar = ("campaign", "kpi", "date", "goal", "actual", "goal_so_far", "actual_so_far")
    aside: ClassVar = ("summary", "currency")
    ways: ClassVar = OfKpis.ways | {"mark": lambda status, words: labelled_pill(TONES[status], words)}

    def sentence(self, language: str = "en") -> str:
        if not len(self.summary):
            return say("goals.none", language)
        row = self.summary.iloc[0]
        if not math.isfinite(row["actual"]):
            return say("goals.unknown", language, campaign=row["campaign"])
        told = {k: measure(row[k], declared()[row["kpi"]].unit, language, self.currency) for k in ("actual", "planned")}
        told |= {"campaign": row["campaign"], "kpi": declared()[row["kpi"]].name[language].lower()}
        return say("goals.sentence", language, done=int(row["done"]), days=int(row["days"]), **told)


def goals(data: Source, *, as_of: date | None = None, newest: int = 1) -> Goals:
    """Follow the targets of the newest campaigns day by day: the planned share of the days so far against the result.

    A day's share is that of the same day a year before in the sum of all channels, or even where that is not known.
    The rest is projected by these shares; how days differed from them gives the chance (Student's t). Only KPIs of
    which more, or less, is better have goals; a campaign that no row names has no result.
    """
    whole = {"currency": data.currency()}
    heads = ["campaign", "kpi", "target", "days", "done", "planned", "actual", "projected", "chance", "status"]
    summary = pd.DataFrame(columns=heads)
    missing = kpis.feeds(data)
    if missing["campaign_success"]:
        return Goals.of((), summary=summary, **whole)
    end = pd.Timestamp(data.as_of(as_of.isoformat() if as_of else None))
    asked = data.table("targets").to_pyarrow().to_pandas()
    asked = asked.assign(**{c: pd.to_datetime(asked[c]) for c in ("starts_on", "ends_on")})
    asked = asked[(asked["starts_on"] <= end) & asked["kpi"].isin(declared())]
    begun = asked.groupby("campaign", as_index=False)["starts_on"].max().sort_values(["starts_on", "campaign"])
    last = begun["campaign"].tail(newest)
    ks = [
        k
        for k in map(kpis.kpi, sorted(set(asked["kpi"])))
        if k.numerator == (k.id,) and k.direction in SIGNS and not missing[k.id]
    ]
    sums = kpis.daily_sums(data, ks, by="campaign", until=end.date()) if ks and len(last) else pd.DataFrame()
    parts, rows = [], []
    for t in asked[asked["campaign"].isin(last) & asked["kpi"].isin([k.id for k in ks])].itertuples():
        days = pd.date_range(t.starts_on, t.ends_on)
        every = sums.set_index("date")[[f"{t.kpi}__num", "segment"]]
        share = _shape(every[f"{t.kpi}__num"].groupby(level=0).sum(), days)
        own, done = every[every["segment"] == t.campaign][f"{t.kpi}__num"], days[days <= end]
        came, goal = own.reindex(done).fillna(0.0).to_numpy(dtype=float), float(t.target) * share[: len(done)]
        sign = SIGNS[kpis.kpi(t.kpi).direction]
        if t.campaign not in set(sums["segment"]):
            came = np.full(len(done), math.nan)
        so_far = {"goal_so_far": goal.cumsum(), "actual_so_far": came.cumsum()}
        names = {"campaign": t.campaign, "kpi": t.kpi, "date": done.date}
        parts.append(pd.DataFrame(names | {"goal": goal, "actual": came} | so_far))
        projected, chance = _odds(came, share, float(t.target))
        chance = chance if sign > 0 else 1 - chance
        status = rank(chance, STATUSES) if math.isfinite(chance) else "not enough data"
        over = ("met" if sign * came.sum() >= sign * t.target else "missed") if math.isfinite(came.sum()) else status
        status = over if len(done) == len(days) else status
        told = (float(t.target), len(days), len(done), goal.sum(), came.sum(), projected, chance, status)
        rows.append((t.campaign, t.kpi, *told))
    if not rows:
        return Goals.of((), summary=summary, **whole)
    whole |= {"summary": pd.DataFrame(rows, columns=heads)}
    return Goals(frame=pd.concat(parts, ignore_index=True), whole=whole)


def _shape(total: pd.Series, days: pd.DatetimeIndex) -> Any:
    """Share of each day in what the same calendar days brought a year before; even shares where that is not known."""
    before = total.reindex(days - pd.DateOffset(years=1)).to_numpy(dtype=float)
    return (
        before / before.sum() if np.isfinite(before).all() and (before > 0).all() else np.full(len(days), 1 / len(days))
    )


def _odds(came: Any, share: Any, target: float) -> tuple[float, float]:
    """Projected total, and the chance that it reaches the target: days to come miss their shares as those so far."""
    done, rest = len(came), share[len(came) :]
    if (done < 2 and len(rest)) or not np.isfinite(came).all():
        return math.nan, math.nan
    total = project(came, share)
    missed = float((came / (total * share[:done])).std(ddof=1)) if total else 0.0  # relative: large days miss by more
    error = total * missed * math.sqrt((rest**2).sum() + rest.sum() ** 2 / done)
    return total, float(stdtr(done - 1, (total - target) / error)) if error else float(total >= target)
