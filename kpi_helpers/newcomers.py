"""What a new customer is worth, by group such as the channel of the first order, against what one costs."""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from kpi_helpers.errors import require
from kpi_helpers.histories import Histories
from kpi_helpers.purchases import DAYS, PurchaseFit, fit_purchases
from kpi_helpers.result import measure, number, say
from kpi_helpers.stats import checked_confidence
from kpi_helpers.valuations import STEP, Spoken, checked_margin, clock, discounted, moved

if TYPE_CHECKING:
    import ibis.expr.types as ir

FEWEST = 30  # customers of a group that are a sample


class NewCustomers(Spoken):
    """What a new customer is worth, by group: margin of the first purchase, value with it, and against its cost.

    Columns: ``group, customers, first, value, value_low, value_high, cac, ratio`` (value / cac), ``payback_days`` (0:
    the first purchase pays; NaN: not within the horizon, or no cost known). Money of one customer.
    """

    columns = ("group", "customers", "first", "value", "value_low", "value_high", "cac", "ratio", "payback_days")

    def sentence(self, language: str = "en") -> str:
        if self.frame.empty:
            return say("new_customers.none", language, n=FEWEST)
        known = self.frame[self.frame["cac"] > 0]
        told = {"horizon": self.horizon_told(language), "what": self.what(language)}
        if known.empty:
            best = self.frame.loc[self.frame["value"].idxmax()]
            told |= {"group": best["group"], "value": measure(best["value"], "money", language, self.currency)}
            return say("new_customers.no_cost", language, **told)
        best, worst = known.loc[known["ratio"].idxmax()], known.loc[known["ratio"].idxmin()]
        told |= {"best": best["group"], "ratio": number(best["ratio"], language, decimals=1)}
        told |= {"worst": worst["group"], "least": number(worst["ratio"], language, decimals=1)}
        return say(f"new_customers.{'several' if len(known) > 1 else 'one'}", language, **told)


def new_customers(
    histories: Histories, by: str, *, cac: Mapping[str, float] | None = None, model: str = "bg/nbd",
    horizon: str = "1 year", discount: float = 0.10, margin: float | None = None, confidence: float = 0.95,
) -> NewCustomers:  # fmt: skip
    """Value a new customer of each group that the histories know, as of ``summarise(by="channel")``.

    A group has its own model of purchases, its own first purchase, spend of later ones and margin (unless given); the
    interval adds the errors of the first three. `cac` is the cost of a new customer by group, in the currency of the
    histories; groups of fewer than 30 customers or without anybody who came back are left out. Raises `KpiError` for
    what `value` does not take, and for orders without revenue.
    """
    length, rate = clock(histories, horizon, discount)
    require(by in histories.rows, f"The histories do not know {by!r}. Give by={by!r} to summarise.")
    known, z = checked_margin(histories, margin), ndtri((1 + checked_confidence(confidence)) / 2)
    lines = []
    for money in _money(histories, by).itertuples(index=False):
        rows = histories.rows[histories.rows[by] == money.group]
        if money.customers < FEWEST or not rows["frequency"].any():
            continue
        told = (rows[c].to_numpy(float) for c in ("frequency", "recency", "age", "weight"))
        x, t, age, w = told
        fit = fit_purchases(x, t, age, model=model, weights=w, unit=histories.unit)
        times = np.linspace(0, length, 201)
        more = np.array([float(discounted(fit.expected_new, u, rate)) for u in times])
        first, later = money.first_value / money.customers, money.later / money.repeats
        own = money.margin / money.paid if margin is None and getattr(money, "paid", None) else known
        gained = (1.0 if known is None else own) * (first + later * more)
        require(np.isfinite(gained[-1]), f"The orders of {money.group!r} have no revenue: nothing can be valued.")
        half = z * gained[-1] / (first + later * more[-1]) * _error(money, fit, more[-1], length, rate)
        cost = (cac or {}).get(money.group, np.nan)
        paid = np.append(times[gained >= cost] * DAYS[histories.unit], np.nan)[0]
        ends = gained[0], gained[-1], gained[-1] - half, gained[-1] + half
        lines.append((money.group, int(money.customers), *ends, cost, gained[-1] / cost if cost > 0 else np.nan, paid))
    lines.sort(key=lambda line: (-line[3], line[0]))
    whole = {"horizon": horizon, "confidence": confidence, "currency": histories.currency, "model": model}
    return NewCustomers.of(lines, **whole, of_margin=known is not None)


def _error(money: Any, fit: PurchaseFit, more: float, length: float, rate: float) -> float:
    """Standard error of first + later x more purchases: of the two means over customers, and of the parameters."""
    first, later = money.first_value / money.customers, money.later / money.repeats
    of_first = (money.first_squares / money.customers - first**2) / money.customers
    spread = money.later_squares - 2 * later * money.products + later**2 * money.repeats_squared  # of a ratio
    both = (money.cross - later * money.first_products) / money.customers / money.repeats  # large first, large later
    moves = np.array([discounted(f.expected_new, length, rate) for _name, f in moved("purchases", fit)])
    slope = later * (moves[::2] - moves[1::2]) / (2 * STEP)
    of_money = of_first + more**2 * max(spread, 0.0) / money.repeats**2 + 2 * more * both
    return float(np.sqrt(max(of_money, 0.0) + slope @ fit.covariance @ slope))


def _money(histories: Histories, by: str) -> pd.DataFrame:
    """Sums of each group: first purchases, later ones, and what tells how customers differ in them; one query."""
    t = histories.table.filter(histories.table[by].notnull())
    x = t.frequency.cast("float64")
    later = x * t.mean_value.fill_null(0.0)
    first = t.total_value - later
    sums = {"customers": t.count(), "first_value": first.sum(), "first_squares": (first * first).sum()}
    sums |= {"repeats": x.sum(), "repeats_squared": (x * x).sum(), "later": later.sum()}
    sums |= {"later_squares": (later * later).sum(), "products": (x * later).sum()}
    sums |= {"cross": (first * later).sum(), "first_products": (first * x).sum()}
    if "total_margin" in t.columns:
        sums |= {"margin": t.total_margin.sum(), "paid": t.total_value.sum(where=t.total_margin.notnull())}
    grouped = t.group_by(group=t[by]).aggregate(**sums)
    frame: pd.DataFrame = grouped.order_by("group").to_pyarrow().to_pandas()
    return frame


def media_cost(channel_daily: "ir.Table", *, since: date, until: date) -> dict[str, float]:
    """Spend on media per new customer of each channel that spent: Σ spend / Σ new customers of the days."""
    t = channel_daily
    if not {"channel", "spend", "new_customers"} <= set(t.columns):
        return {}
    known = t.filter(t.date.between(since, until), t.spend.notnull(), t.new_customers.notnull())
    sums = known.group_by("channel").aggregate(spend=known.spend.sum(), new=known.new_customers.sum())
    rows = sums.filter(sums.spend > 0, sums.new > 0).order_by("channel").to_pyarrow().to_pylist()
    return {row["channel"]: float(row["spend"]) / float(row["new"]) for row in rows}
