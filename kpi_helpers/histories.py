"""Purchase histories of customers: orders to the few numbers that a model of purchases needs, inside the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.purchases import DAYS, in_units
from kpi_helpers.result import Framed, day, number, say
from kpi_helpers.units import as_table

if TYPE_CHECKING:
    import ibis.expr.types as ir

MOST_A_DAY, GAP_DAYS = 20, 366  # rows of a customer; days without any order
MOST, MICRO = 1e12, 1e6  # money of a row; parts of a unit of it that are told apart
KEYS = ("frequency", "recency_days", "age_days")
NOTED = ("merged", "void", "free", "mad")
ISSUES = ("unnamed", "late", "undone", "unpriced", "lines", "shared", "refunds", *NOTED, "after_split")


class HistoryIssues(Framed):
    """What was set aside or put together on the way from `n_rows` rows to histories: `what`, and how many."""

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
    def horizon_days(self) -> int:
        """Days held out, after the split."""
        return (self.end - self.split).days if self.split else 0

    def score(self, frame: pd.DataFrame) -> "ir.Table":
        """Give each customer of the `table` what `frame` says of its frequency, recency_days and age_days."""
        once = set(KEYS) <= set(frame) and not frame.duplicated(list(KEYS)).any()
        require(once, f"The scores must hold each combination of {', '.join(KEYS)} once.")
        scores = as_table(frame[[*KEYS, *(c for c in frame if c not in self.table.columns)]])
        return self.table.left_join(scores, KEYS).drop(*(f"{key}_right" for key in KEYS))


def summarise(
    orders: Any, *, unit: str = "week", split: date | str | None = None, end: date | str | None = None,
    by: str | None = None, currency: str = "",
) -> Histories:  # fmt: skip
    """Summarise orders to frequency, recency and age of each customer; only unique rows leave the engine.

    A purchase is a day on which a customer ordered: what is bought on one day is one purchase, refunds (revenue below
    zero) are netted; a day that they bring to zero or below is none, though its money is taken off. Only completed
    orders count. The calibration ends with `split` (that day is in it), the holdout with `end`; customers who came
    later are left out.

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
    try:
        last, until = (None if d is None else date.fromisoformat(str(d)[:10]) for d in (split, end))
    except ValueError:
        raise KpiError(f"split={split}, end={end}: these must be days. Write YYYY-MM-DD.") from None
    table = opened(orders, by)
    scan = _scanned(table, last, until, currency)
    until = scan["end"]
    customers = _customers(table.filter(table.bought, table.on <= until), last or until, by)
    told = _sums(customers) | scan["counts"]
    require(told["customers"] > 0, "No customer bought anything up to the split: every day was refunded.")
    found = [(what, told[what]) for what in ISSUES if told.get(what)]
    whole = {f"n_{name}": told[name] for name in ("rows", "customers", "purchases")}
    issues = HistoryIssues.of(found, **whole, start=scan["start"], end=until)
    held, keys = ("held_out", "held_out_value"), [*KEYS, *(["held_out"] if last else []), *([by] if by else [])]
    customers = customers.filter(customers.frequency >= 0).drop(*NOTED, *(() if last else held))
    rows = _unique(customers, keys)
    rows.insert(3, "recency", rows["recency_days"] / DAYS[unit])
    rows.insert(4, "age", rows["age_days"] / DAYS[unit])
    spend = _unique(customers.filter(customers.mean_value.notnull()), ["frequency", "mean_value"])
    kept = {name: scan[name] for name in ("start", "end", "currency", "margin")}
    return Histories(table=customers, rows=rows, spend=spend, issues=issues, unit=unit, split=last, **kept)


def before(end: date, time: str) -> date:
    """The day that lies a `time` in words before the `end`, to split there.

    >>> before(date(2026, 11, 21), "39 weeks")
    datetime.date(2026, 2, 21)
    """
    return end - timedelta(round(in_units(time, "day")))


def opened(orders: Any, by: str | None = None) -> "ir.Table":
    """Rows of orders with their day (`on`), whether somebody bought (`bought`), and money as exact numbers."""
    import ibis

    table = as_table(orders)
    for column in ("customer_id", "ordered_at", *([by] if by else [])):
        require_known(column, table.columns, f"The orders have no column {column}.")
    if isinstance(orders, str | Path) and ".csv" in Path(orders).name:  # an engine guesses what 01/02 is; ISO is read
        text = ibis.read_csv(orders, types={"ordered_at": "string"})
        table = text.mutate(ordered_at=text.ordered_at.try_cast("timestamp"))
    kind = table.ordered_at.type()
    fine = kind.is_date() or (kind.is_timestamp() and kind.timezone is None)
    require(fine, f"ordered_at is {kind}, not a date or local time without zone. Convert it, naming its format.")
    told: dict[str, Any] = {"on": table.ordered_at.cast("date"), "revenue": ibis.null("float64")}
    for column in (c for c in ("revenue", "margin") if c in table.columns):
        value = table[column]
        require(value.type().is_numeric(), f"{column} is {value.type()}: money must be numbers.")
        value = value.cast("float64")  # whole millionths: their sums are exact, so the same in every order of rows
        told[column] = ((value.abs() < MOST).ifelse(value, None) * MICRO).round().cast("float64")
    named = table.customer_id.strip() != "" if table.customer_id.type().is_string() else True
    named = table.customer_id.notnull() & table.ordered_at.notnull() & named
    done = table.status.fill_null("completed") == "completed" if "status" in table.columns else ibis.literal(True)
    told |= {"named": named, "bought": named & done, "unpriced": ibis.literal(False)}
    if "revenue" in table.columns:
        told |= {"unpriced": named & done & told["revenue"].isnull(), "revenue": told["revenue"].fill_null(0)}
    keep = dict.fromkeys(("customer_id", "ordered_at", "order_id", "currency", by))
    return table.select(*(c for c in keep if c in table.columns), **told)


def _scanned(table: "ir.Table", split: date | None, end: date | None, currency: str) -> dict[str, Any]:
    """First and last day, currency, margin, and counts of rows that are left out or repeat an order id."""
    from ibis import _

    asked = {"n": _.count(), "named": _.named.sum(), "bought": _.bought.sum(), "unpriced": _.unpriced.sum()}
    asked["refunds"] = _.count(where=_.bought & (_.revenue < 0))
    if "currency" in table.columns:
        asked |= {"least": _.currency.min(where=_.bought), "most": _.currency.max(where=_.bought)}
    if "margin" in table.columns:
        known = _.bought & ~_.unpriced & _.margin.notnull()
        asked |= {"margin": _.margin.sum(where=known), "margin_of": _.revenue.sum(where=known)}
    seen = table.group_by("on").aggregate(**asked).to_pyarrow().to_pandas()
    told = {"rows": seen["n"].sum(), "unnamed": (seen["n"] - seen["named"]).sum()}
    seen = seen[seen["named"] > 0]
    days = sorted(seen["on"][seen["bought"] > 0])
    require(len(days) > 0, "No order is completed and has a customer and a date (in a CSV file: YYYY-MM-DD).")
    for one, two in pairwise(d for d in days if end is None or d <= end):
        lost = f"No order is of the days between {one} and {two}: a wrong date, or a date in the future? Give end="
        require(two - one <= timedelta(GAP_DAYS), f"{lost} to leave out what came later, or correct the dates.")
    until = end or days[-1]
    require(days[0] <= until, f"end={until} is before the first order, {days[0]}.")
    if "currency" in table.columns:
        found = sorted({*seen["least"].dropna(), *seen["most"].dropna()})
        require(len(found) < 2, f"Orders in {', '.join(found)} do not add up: convert them or take each by itself.")
        currency = found[0] if found else currency
    require(split is None or days[0] <= split < until, f"split={split} must lie from {days[0]} to before {until}.")
    late, seen = seen[seen["on"] > until], seen[seen["on"] <= until]
    told |= {"late": late["named"].sum(), "undone": (seen["named"] - seen["bought"]).sum()}
    told |= {name: seen[name].sum() for name in ("unpriced", "refunds")}
    known = seen[seen["on"] <= (split or until)].sum(numeric_only=True)
    margin = float(known["margin"] / known["margin_of"]) if known.get("margin_of") else None
    if "order_id" in table.columns:
        told |= _order_ids(table.filter(_.bought, _.on <= until, _.order_id.notnull()))
    counts = {name: int(n) for name, n in told.items()}
    return {"start": days[0], "end": until, "currency": currency, "margin": margin, "counts": counts}


def _order_ids(rows: "ir.Table") -> dict[str, int]:
    """Rows that repeat an order id, and ids with several customers."""
    from ibis import _

    ids = rows.group_by("order_id").aggregate(n=_.count()).filter(_.n > 1)
    lines = ids.aggregate(n=(_.n - 1).sum().fill_null(0)).to_pyarrow()["n"][0].as_py()
    who = rows.semi_join(ids, "order_id").group_by("order_id").aggregate(n=_.customer_id.nunique())
    return {"lines": lines, "shared": who.filter(_.n > 1).count().to_pyarrow().as_py() if lines else 0}


def purchase_days(rows: "ir.Table") -> "ir.Table":
    """Days on which a customer bought: rows `n`, net money, and `void` where refunds left nothing."""
    from ibis import _

    sums = {"n": _.count(), "value": _.revenue.sum(), "refunded": (_.revenue < 0).any()}
    if "margin" in rows.columns:
        sums["margin"] = _.margin.sum()
    days = rows.group_by("customer_id", "on").aggregate(**sums)
    return days.mutate(void=(_.refunded & (_.value <= 0)).fill_null(False))


def _customers(rows: "ir.Table", split: date, by: str | None) -> "ir.Table":
    """Each customer, kept in the engine; those without a purchase up to the split have frequency -1. One pass."""
    import ibis
    from ibis import _

    days = purchase_days(rows).mutate(known=~_.void & (_.on <= split), held=~_.void & (_.on > split))
    paid = {f"total_{c}": _[c].sum(where=_.on <= split) for c in ("value", "margin") if c in days.columns}
    whole = days.group_by("customer_id").aggregate(
        first_on=_.on.min(where=_.known), last_on=_.on.max(where=_.known), frequency=_.count(where=_.known) - 1,
        first_value=_.value.argmin(_.on, where=_.known), **paid,
        held_out=_.count(where=_.held), held_out_value=_.value.sum(where=_.on > split), merged=_.n.sum() - _.count(),
        void=_.count(where=_.void), free=_.count(where=~_.void & (_.value == 0)), mad=_.n.max(),
    )  # fmt: skip
    repeat = (_.total_value - _.first_value) / MICRO / _.frequency.nullif(0)
    first, end = _.first_on.epoch_days(), split.toordinal() - date(1970, 1, 1).toordinal()
    found = whole.select(
        "customer_id", "first_on", "last_on", "frequency", "held_out",
        recency_days=(_.last_on.epoch_days() - first).cast("int64"), age_days=(end - first).cast("int64"),
        mean_value=repeat, held_out_value=(_.held_out_value / MICRO).fill_null(0),
        **{c: _[c] / MICRO for c in paid}, **{c: _[c].cast("int32") for c in NOTED},
    ).cache()  # fmt: skip
    if not by:
        return found
    on_first = rows.inner_join(found.select("customer_id", on="first_on"), ["customer_id", "on"])
    order = [on_first.revenue < 0, *(on_first[c] for c in ("ordered_at", "order_id", by) if c in rows.columns)]
    place = ibis.row_number().over(ibis.window(group_by="customer_id", order_by=order))
    first = on_first.mutate(place=place).filter(_.place == 0).select("customer_id", by)
    return found.left_join(first, "customer_id").drop("customer_id_right").cache()


def _sums(customers: "ir.Table") -> dict[str, Any]:
    """Sums over all customers."""
    from ibis import _

    asked = {name: _[name].sum() for name in ("void", "free", "merged")}
    kept = _.frequency >= 0
    asked |= {"mad": _.count(where=_.mad > MOST_A_DAY), "after_split": _.count(where=~kept & (_.held_out > 0))}
    asked |= {"customers": _.count(where=kept), "purchases": (_.frequency + 1 + _.held_out).sum(where=kept)}
    return dict(customers.aggregate(**asked).to_pyarrow().to_pylist()[0])


def _unique(table: "ir.Table", keys: Sequence[str]) -> pd.DataFrame:
    """How many customers share each combination of `keys`."""
    counted = table.group_by(list(keys)).aggregate(weight=table.count()).order_by(list(keys))
    frame: pd.DataFrame = counted.to_pyarrow().to_pandas()
    return frame
