"""Touches and conversions as they were recorded: read and checked in the engine."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from kpi_helpers.errors import require, require_known
from kpi_helpers.units import as_table

if TYPE_CHECKING:
    import ibis.expr.types as ir

GAP_DAYS, STRAY = 366, 0.01  # days without any row; of the rows: so few beyond a gap of a lookback are wrong dates
KINDS = {"", "click", "view", "impression"}
TIMES, VALUES = ("ordered_at", "converted_at"), ("revenue", "value")


def _timed(table: "ir.Table", what: str, times: Sequence[str], *columns: str) -> tuple[Any, Any]:
    """Time of each row, and whether it is `named`: it has a person, a time and what else the `columns` hold."""
    at = next((name for name in times if name in table.columns), times[0])
    for column in ("customer_id", at, *columns):
        require_known(column, table.columns, f"The {what} have no column {column}.")
    kind, named = table[at].type(), table[at].notnull()
    fine = kind.is_date() or (kind.is_timestamp() and kind.timezone is None)
    require(fine, f"{at} is {kind}, not a date or local time without zone. Convert it, naming its format.")
    for column in ("customer_id", *columns):
        filled = table[column].strip() != "" if table[column].type().is_string() else True
        named &= table[column].notnull() & filled
    return table[at].cast("timestamp"), named


def read_touchpoints(given: Any, view_credit: float) -> "ir.Table":
    """Touches with a person, a time, a channel and what they weigh beside a click; views weigh `view_credit`."""
    import ibis

    table = as_table(given)
    at, named = _timed(table, "touchpoints", ("touched_at",), "channel")
    require(table.channel.type().is_string(), f"channel is {table.channel.type()}, not text: name the channels.")
    view: Any = ibis.literal(False)
    if "kind" in table.columns:
        kind = table.kind.strip().lower().fill_null("")
        known = sorted(kind.name("kind").as_table().distinct().to_pyarrow()["kind"].to_pylist())
        require({*known} <= KINDS, f"kind is one of {known}: a touch is a click, a view or an impression.")
        view = kind.isin(["view", "impression"])
    credit = view.ifelse(float(view_credit), 1.0)
    told = {"at": at, "named": named, "channel": table.channel.strip(), "credit": credit, "used": credit > 0}
    return table.select("customer_id", **told, priced=ibis.literal(True), negative=ibis.literal(False))


def read_conversions(given: Any) -> "ir.Table":
    """Conversions with a person, a time, a value and a type; `used` those that were completed."""
    import ibis

    table = as_table(given)
    at, named = _timed(table, "conversions", TIMES)
    done = table.status.fill_null("completed") == "completed" if "status" in table.columns else ibis.literal(True)
    paid = next((name for name in VALUES if name in table.columns), None)
    numeric = paid is None or table[paid].type().is_numeric()
    require(numeric, f"{paid} holds text: a value must be a number. Convert it, naming its decimal mark.")
    value = table[paid].cast("float64") if paid else ibis.literal(0.0)
    priced = value.notnull() & ~value.isnan()
    value = priced.ifelse(value, 0.0)
    kind = table.conversion if "conversion" in table.columns else ibis.null("string")
    return table.select(
        "customer_id", at=at, named=named, value=value, kind=kind, used=done, priced=priced, negative=value < 0
    )


def checked(touched: "ir.Table", bought: "ir.Table", lookback_days: int) -> tuple[dict[str, int], datetime, date]:
    """Rows left out by why, from when and until what day conversions could have had a touch; one query a table."""
    from ibis import _

    days = [
        read_all(t.group_by(on=t.at.date()).aggregate(
            n=_.count(), named=_.named.sum(), used=(_.named & _.used).sum(), negative=(_.named & _.negative).sum(),
            first=_.at.min(where=_.named), unpriced=(_.named & ~_.priced).sum(),
        ), "on") for t in (touched, bought)
    ]  # fmt: skip
    wrong = int(days[1]["negative"].sum())
    require(not wrong, f"{wrong} conversions have a negative value. Net refunds with their orders, or leave them out.")
    seen = [sorted(pd.to_datetime(t["on"][t["named"] > 0]).dt.date) for t in days]
    require(bool(seen[0] and seen[1]), "There must be touches and conversions with a person and a time.")
    for one, two, many, part in _gaps([*days, pd.concat(days)]):
        rule = f"Nothing happened between {one} and {two}: a wrong date, or one in the future? Correct or leave it out."
        require(many <= GAP_DAYS and (many <= max(lookback_days, 31) or part >= STRAY), rule)
    reach = seen[0][-1] + timedelta(lookback_days)
    told = [t[["n", "named", "used"]].sum() for t in days]
    counts = {"touches": told[0]["n"], "unnamed": told[0]["n"] - told[0]["named"] + told[1]["n"] - told[1]["named"]}
    counts |= {"views": told[0]["named"] - told[0]["used"], "used": told[0]["used"], "unseen": told[1]["named"]}
    counts["unpriced"] = days[1]["unpriced"].sum()
    begin, last = days[0]["first"].min().to_pydatetime(), min(max(seen[0][-1], seen[1][-1]), reach)
    after = pd.to_datetime(days[1]["on"]).dt.date
    counts["late"] = days[1].loc[(after > seen[0][-1]) & (after <= last), "named"].sum()
    return {what: int(n) for what, n in counts.items()}, begin, last


def _gaps(tables: Sequence[pd.DataFrame]) -> Iterator[tuple[date, date, int, float]]:
    """Days of rows with none between them, how many those are, and what part of the rows is on the lesser side."""
    for t in tables:
        n = t.assign(on=pd.to_datetime(t["on"]).dt.date)[t["named"] > 0].groupby("on")["named"].sum()
        before = n.cumsum() / n.sum()
        for (one, part), two in zip(before[:-1].items(), n.index[1:], strict=True):
            yield one, two, (two - one).days, min(part, 1 - part)


def read_all(asked: "ir.Table", *order: str) -> pd.DataFrame:
    """The few rows of an aggregate, in order."""
    frame: pd.DataFrame = asked.order_by(list(order)).to_pyarrow().to_pandas()
    return frame
