"""Purchase histories of customers: orders to the few numbers that a model of purchases needs, inside the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.result import Framed, day, number, say
from kpi_helpers.units import as_table

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAYS = {"day": 1.0, "week": 7.0, "month": 30.4375, "year": 365.25}
MOST_A_DAY, GAP_DAYS = 20, 366  # orders of one customer; days without any order before the last
KEYS = ("frequency", "recency_days", "age_days")


class HistoryIssues(Framed):
    """What was set aside or put together on the way from `n_rows` orders to the histories: `what`, and how many."""

    columns: ClassVar = ("what", "n")

    def sentence(self, language: str = "en") -> str:
        told = {key: number(self.whole[key], language) for key in ("n_rows", "n_customers", "n_purchases")}
        told |= {key: day(self.whole[key], language) for key in ("start", "end")}
        return say(f"history_issues.{'some' if len(self.frame) else 'none'}", language, **told)


@dataclass(frozen=True, slots=True)
class Histories:
    """Customers as unique `rows` with weights, and one by one in the engine (`table`).

    `rows`: `frequency` (days with a purchase after the first), `recency_days` and `recency` (first to last purchase, in
    days and in `unit`), `age_days` and `age` (first purchase to the end of the calibration), `weight` (customers); with
    a split `held_out`, purchase days after it; the column `by`. `spend`: (`frequency`, `mean_value`, `weight`) of those
    who came back, the mean of their days without the first. `margin`: of the revenue up to the split, or None.
    """

    table: "ir.Table"
    rows: pd.DataFrame
    spend: pd.DataFrame
    issues: HistoryIssues
    unit: str
    start: date
    split: date | None
    end: date
    currency: str
    margin: float | None

    @property
    def n_customers(self) -> int:
        """Customers with a purchase up to the split."""
        return int(self.rows["weight"].sum())

    @property
    def unit_days(self) -> float:
        """Days of one unit of time."""
        return DAYS[self.unit]

    @property
    def horizon_days(self) -> int:
        """Days held out, after the split."""
        return (self.end - self.split).days if self.split else 0

    def score(self, frame: pd.DataFrame) -> "ir.Table":
        """Give each customer of the `table` what `frame` says of its frequency, recency_days and age_days."""
        require(set(KEYS) <= set(frame), f"The scores need the columns {', '.join(KEYS)}.")
        require(not frame.duplicated(list(KEYS)).any(), f"The scores must hold each {', '.join(KEYS)} once.")
        scores = as_table(frame)
        new = [c for c in frame if c not in self.table.columns]
        joined = self.table.left_join(scores, [self.table[k] == scores[k] for k in KEYS])
        return joined.select(self.table, *(scores[c] for c in new))


def summarise(
    orders: Any, *, unit: str = "week", split: date | str | None = None, end: date | str | None = None,
    by: str | None = None, currency: str = "",
) -> Histories:  # fmt: skip
    """Summarise orders to frequency, recency and age of each customer; only unique rows leave the engine.

    A purchase is a day on which a customer ordered: what is bought on one day is one purchase, refunds (revenue below
    zero) are netted, a day that they bring to zero or below is none. Only completed orders count. The calibration ends
    with `split` (that day is in it), the holdout with `end`; customers who came later are left out.

    Parameters: `orders`, an Ibis table, a DataFrame or the path of a Parquet or CSV file with `customer_id`,
    `ordered_at` (local) and maybe `order_id`, `status`, `revenue`, `margin`, `currency`; `unit`, day, week, month
    (30.4375 days) or year; `split` and `end`, days, by default none and the last day of the data; `by`, a column whose
    value at the first order splits the rows, such as channel. Raises `KpiError` for dates that are text or lie far
    ahead, several currencies, no purchase, days out of order. Fader & Hardie (2013), brucehardie.com/notes/026.

    >>> days = pd.to_datetime(["2026-01-01", "2026-01-08", "2026-01-08", "2026-01-05"])
    >>> found = summarise(pd.DataFrame({"customer_id": [1, 1, 1, 2], "ordered_at": days}), unit="day")
    >>> found.rows[["frequency", "recency", "age", "weight"]].to_numpy().tolist()
    [[0.0, 0.0, 3.0, 1.0], [1.0, 7.0, 7.0, 1.0]]
    """
    require_known(unit, DAYS, f"unit={unit!r} is not known.")
    table = _opened(orders, by)
    seen = _days(table)
    currency = _currency(seen, currency)
    until, last = _last(seen, _day("end", end)), _day("split", split)
    begun = seen["on"][seen["bought"] > 0].min()
    require(begun <= until, f"end={until} is before the first order, {begun}.")
    require(last is None or begun <= last < until, f"split={last} must lie between {begun} and the end, {until}.")
    customers = _customers(table.filter(table.bought, table.on <= until), last or until).cache()
    told = _told(customers)
    require(told["customers"] > 0, "No customer bought anything up to the split: every day was refunded.")
    counts = _counted(table, seen, until) | {k: told[k] for k in ISSUES if k in told}
    issues = HistoryIssues.of(
        [(what, int(counts[what])) for what in ISSUES if counts.get(what)], n_rows=int(seen["n"].sum()),
        n_customers=told["customers"], n_purchases=told["purchases"], start=begun, end=until,
    )  # fmt: skip
    shown = _shown(customers, table, by, split=last, until=until)
    margin = float(told["margin"]) / float(told["margin_of"]) if told.get("margin_of") else None
    keys = [*KEYS, *(["held_out"] if last else []), *([by] if by else [])]
    rows = _unique(shown, keys)
    at = list(rows).index("age_days") + 1
    rows.insert(at, "recency", rows["recency_days"] / DAYS[unit])
    rows.insert(at + 1, "age", rows["age_days"] / DAYS[unit])
    spend = _unique(shown.filter(shown.frequency > 0, shown.mean_value.notnull()), ["frequency", "mean_value"])
    return Histories(shown, rows, spend, issues, unit, begun, last, until, currency, margin)


ISSUES = (
    "unnamed", "late", "undone", "unpriced", "lines", "shared", "merged", "refunds", "void", "free", "after_split",
    "mad",
)  # fmt: skip


def _day(name: str, given: date | str | None) -> date | None:
    try:
        return None if given is None else date.fromisoformat(str(given)[:10])
    except ValueError:
        raise KpiError(f"{name}={given!r} must be a day. Write YYYY-MM-DD.") from None


def _opened(orders: Any, by: str | None) -> "ir.Table":
    """The rows with their day (`on`), whether somebody bought (`bought`), and money as exact numbers."""
    import ibis

    table = as_table(orders)
    for column in ("customer_id", "ordered_at", *([by] if by else [])):
        require_known(column, table.columns, f"The orders have no column {column}.")
    kind = table.ordered_at.type()
    fine = kind.is_date() or (kind.is_timestamp() and kind.timezone is None)
    require(fine, f"ordered_at is {kind}, not a date or local time without zone. Convert it, naming its format.")
    money = {}
    for column in ("revenue", "margin"):
        if column in table.columns:
            value = table[column]
            require(value.type().is_numeric(), f"{column} is {value.type()}: money must be numbers.")
            if value.type().is_floating():
                value = (value.isnan() | value.isinf()).ifelse(None, value)
            money[column] = value if value.type().is_integer() else value.cast("decimal(38, 6)")
    status = table.status if "status" in table.columns else ibis.null("string")
    completed = status.fill_null("completed") == "completed"
    keys = {c: table[c] for c in ("customer_id", "ordered_at", "order_id", "currency", by or "") if c in table.columns}
    named = table.customer_id.notnull() & table.ordered_at.notnull()
    told = table.select(**keys, **money, on=table.ordered_at.cast("date"), named=named, completed=completed)
    return told.mutate(bought=told.named & told.completed)


def _days(table: "ir.Table") -> pd.DataFrame:
    """Rows of each day: all (`n`), without a customer or day, not completed, purchases and what is odd in them."""
    bought = table.bought
    sums = {"unnamed": (~table.named).sum(), "undone": (table.named & ~table.completed).sum(), "bought": bought.sum()}
    if "currency" in table.columns:
        sums |= {"least": table.currency.min(where=bought), "most": table.currency.max(where=bought)}
    if "revenue" in table.columns:
        sums["unpriced"] = (bought & table.revenue.isnull()).sum()
    seen = table.group_by("on").aggregate(n=table.count(), **sums).order_by("on").to_pyarrow().to_pandas()
    require(seen["bought"].sum() > 0, "No order is completed and has a customer and a date: check export and mapping.")
    return seen


def _currency(seen: pd.DataFrame, currency: str) -> str:
    """The one currency of the orders, or that which was given where they do not tell."""
    if "least" not in seen:
        return currency
    found = sorted({*seen["least"].dropna(), *seen["most"].dropna()})
    remedy = "Convert them, or summarise each currency by itself."
    require(len(found) < 2, f"The orders are in several currencies ({', '.join(found)}), which do not add up. {remedy}")
    return str(found[0]) if found else currency


def _last(seen: pd.DataFrame, end: date | None) -> date:
    """Last day of the histories; an order far behind all others is rather a wrong date."""
    days = seen["on"][seen["bought"] > 0].tolist()
    if end is None and len(days) > 1 and days[-1] - days[-2] > timedelta(GAP_DAYS):
        raise KpiError(
            f"The last order is of {days[-1]}, all others up to {days[-2]}: a date in the future? Give end=."
        )
    return end or days[-1]


def _customers(rows: "ir.Table", split: date) -> "ir.Table":
    """Each customer: purchases up to the split and after it, and what was merged or netted; one pass over the rows."""
    import ibis
    from ibis import _

    sums = {"n": _.count()}
    if "revenue" in rows.columns:
        sums |= {"value": _.revenue.fill_null(0).sum(), "refunds": (_.revenue < 0).fill_null(False).sum()}
        if "margin" in rows.columns:
            sums |= {"margin": _.margin.sum(), "margin_of": _.revenue.sum(where=_.margin.notnull())}
    days = rows.group_by("customer_id", "on").aggregate(**sums)
    if "revenue" not in rows.columns:
        days = days.mutate(value=ibis.null("float64"), refunds=0)
    void = (days.refunds > 0) & (days.value <= 0)
    days = days.mutate(void=void, known=~void & (days.on <= split), held=~void & (days.on > split))
    known = {name: _[name].sum(where=_.known) for name in ("value", "margin", "margin_of") if name in days.columns}
    return days.group_by("customer_id").aggregate(
        first_on=_.on.min(where=_.known), last_on=_.on.max(where=_.known), n_known=_.known.sum(), n_held=_.held.sum(),
        first_value=_.value.argmin(_.on, where=_.known), held_value=_.value.sum(where=_.held), **known,
        n_rows=_.n.sum(), n_days=_.count(), most=_.n.max(), refunds=_.refunds.sum(), void=_.void.sum(),
        free=(~_.void & (_.value == 0)).sum(),
    )  # fmt: skip


def _told(customers: "ir.Table") -> dict[str, Any]:
    """Sums over all customers."""
    from ibis import _

    kept = _.n_known > 0
    asked = {name: _[name].sum(where=kept) for name in ("margin", "margin_of") if name in customers.columns}
    asked |= {name: _[name].sum() for name in ("refunds", "void", "free")}
    asked |= {"merged": (_.n_rows - _.n_days).sum(), "mad": (_.most > MOST_A_DAY).sum()}
    asked |= {"after_split": (~kept & (_.n_held > 0)).sum(), "customers": kept.sum()}
    asked["purchases"] = (_.n_known + _.n_held).sum(where=kept)
    found: dict[str, Any] = customers.aggregate(**asked).to_pyarrow().to_pylist()[0]
    return {k: v or 0 for k, v in found.items()}


def _counted(table: "ir.Table", seen: pd.DataFrame, until: date) -> dict[str, int]:
    """Rows that were left out, and order ids that come twice or with several customers."""
    from ibis import _

    late = seen["on"] > until
    counts = {"unnamed": seen["unnamed"].sum(), "late": (seen["n"] - seen["unnamed"])[late].sum()}
    counts |= {name: seen[name][~late].sum() for name in ("undone", "unpriced") if name in seen}
    if "order_id" in table.columns:
        rows = table.filter(table.bought, table.on <= until, table.order_id.notnull())
        ids = rows.group_by("order_id").aggregate(n=_.count(), who=_.customer_id.min(), other=_.customer_id.max())
        asked = {"lines": (_.n - 1).sum(), "shared": (_.who != _.other).sum()}
        counts |= ids.filter(_.n > 1).aggregate(**asked).to_pyarrow().to_pylist()[0]
    return {name: n or 0 for name, n in counts.items()}


def _shown(customers: "ir.Table", orders: "ir.Table", by: str | None, *, split: date | None, until: date) -> "ir.Table":
    """The customers as others see them: those with a purchase up to the split."""
    from ibis import _

    known = customers.filter(customers.n_known > 0)
    if by:
        first = orders.filter(orders.bought).mutate(place=_first(orders, by))
        first = first.filter(first.place == 0).select("customer_id", "on", by)
        same = [known.customer_id == first.customer_id, known.first_on == first.on]
        known = known.left_join(first, same).select(known, first[by])
    at = (split or until).toordinal() - date(1970, 1, 1).toordinal()
    told: dict[str, Any] = {
        "frequency": _.n_known - 1,
        "recency_days": (_.last_on.epoch_days() - _.first_on.epoch_days()).cast("int64"),
        "age_days": (at - _.first_on.epoch_days()).cast("int64"),
        "mean_value": (_.value - _.first_value).cast("float64") / (_.n_known - 1).nullif(0),
        "total_value": _.value.cast("float64"),
    }
    told |= {"total_margin": _.margin.cast("float64")} if "margin" in known.columns else {}
    told |= {"held_out": _.n_held, "held_out_value": _.held_value.fill_null(0).cast("float64")} if split else {}
    return known.select("customer_id", "first_on", "last_on", **told, **({by: _[by]} if by else {}))


def _first(orders: "ir.Table", by: str) -> Any:
    """Place of an order among those of its customer and day, refunds last, ties by id and by the value itself."""
    import ibis

    order = [(orders.revenue < 0).fill_null(False)] if "revenue" in orders.columns else []
    order += [orders.ordered_at, *([orders.order_id] if "order_id" in orders.columns else []), orders[by]]
    return ibis.row_number().over(ibis.window(group_by=["customer_id", "on"], order_by=order))


def _unique(table: "ir.Table", keys: Sequence[str]) -> pd.DataFrame:
    """How many customers share each combination of `keys`."""
    counted = table.group_by(list(keys)).aggregate(weight=table.count()).order_by(list(keys))
    frame: pd.DataFrame = counted.to_pyarrow().to_pandas()
    return frame
