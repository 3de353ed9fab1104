"""Sums behind the KPIs: one query a table, however many KPIs; rows stay in the engine."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import reduce
from operator import and_
from typing import Any

import ibis
import ibis.expr.types as ir
import pandas as pd

MEASURE = re.compile(r"(?:rows|(?P<how>sum|distinct) (?P<column>\w+))(?: if (?P<conditions>.+))?")
SQUARES = ("sq", "xy", "yy", "rows")  # Σx², Σxy, Σy² and rows with y; of a sum without a ratio the first only
Signed = list[tuple[int, str]]  # 1 or -1, and what is added or taken away
CONDITION = re.compile(r"(?P<column>\w+)(?: (?P<sign>=|!=|>=|<=) (?P<value>.+))?")


@dataclass(frozen=True, slots=True)
class Ask:
    """One ratio of sums to read: signed measures above and below the line, and whether their `squares` are wanted too.

    Squares tell how rows differ, for which a ratio needs products and the number of rows as well: see `SQUARES`.
    """

    name: str
    above: tuple[str, ...]
    below: tuple[str, ...] = ()
    squares: bool = False

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, without their signs."""
        return tuple(dict.fromkeys(m.lstrip("-") for m in self.above + self.below))


@dataclass(slots=True)
class Rows:
    """Rows of a table or view, ready to be summed: `measures` are declared as in ``contracts.yaml``.

    ``date`` is the day that a row belongs to, if any; `daily` rows are sums of a day, so that days are the sample;
    `whole` are measures known in each row.
    """

    table: ir.Table
    measures: Mapping[str, str]
    daily: bool = False
    whole: frozenset[str] = field(default_factory=frozenset)

    @property
    def dated(self) -> bool:
        """Whether rows have a date."""
        return "date" in self.table.columns

    def within(self, start: date | None, end: date | None) -> ir.Table:
        """The rows from the first to the last day; all of them where rows have no date."""
        bounds = [self.table.date >= ibis.literal(start)] if start and self.dated else []
        bounds += [self.table.date <= ibis.literal(end)] if end and self.dated else []
        return self.table.filter(*bounds) if bounds else self.table


def columns_of(measure: str) -> set[str]:
    """Columns that a measure needs.

    >>> sorted(columns_of("sum revenue if status = completed and first != @channel"))
    ['channel', 'first', 'revenue', 'status']
    """
    found = MEASURE.fullmatch(measure)
    assert found, measure
    parts = [c for c in map(CONDITION.fullmatch, (found["conditions"] or "").split(" and ")) if c]
    named = {c["column"] for c in parts} | {c["value"][1:] for c in parts if (c["value"] or "").startswith("@")}
    return named | {found["column"]} - {None}


def value(rows: ir.Table, measure: str) -> tuple[str, Any]:
    """How a measure is summed (``rows``, ``sum`` or ``distinct``) and its value in each row, null where unknown."""
    found = MEASURE.fullmatch(measure)
    assert found, measure
    holds = [_holds(rows, text) for text in (found["conditions"] or "").split(" and ") if text]
    kept = reduce(and_, holds) if holds else None
    if not found["column"]:
        return "rows", (rows[rows.columns[0]].isnull() | True if kept is None else kept).ifelse(1, 0)
    column = rows[found["column"]]
    return found["how"], column if kept is None else kept.ifelse(column, None)


def _holds(rows: ir.Table, text: str) -> Any:
    found = CONDITION.fullmatch(text)
    assert found, text
    column, sign, told = rows[found["column"]], found["sign"], found["value"]
    if not sign:
        return column.notnull()
    if told.startswith("@"):
        return (column != rows[told[1:]]).fill_null(False)
    if sign in (">=", "<="):
        holds = column >= float(told) if sign == ">=" else column <= float(told)
    else:
        among = column.isin(told.split("|"))
        holds = among if sign == "=" else ~among
    return holds.fill_null(False)


def read(
    rows: Rows, asks: Sequence[Ask], *, by: Sequence[str] = (), grain: str | None = None,
    start: date | None = None, end: date | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Sum every `Ask` in one query, by day (of daily rows) or by period, and by the columns `by`.

    A ratio sums only the rows that know both of its parts, so that a channel without clicks does not lend its
    conversions to the conversion rate per click. Columns: ``date`` (day, or first day of the period; none for the
    whole span of single rows), `by`, then ``<name>__num``, ``__den`` and `SQUARES`.
    """
    table = rows.within(start, end)
    keys: dict[str, Any] = {name: table[name] for name in by}
    if rows.daily or grain:
        keys = {"date": table.date if rows.daily else table.date.truncate(str(grain))} | keys
    sums, plans = _shared_sums(rows, table, asks)
    frame = (table.group_by(**keys) if keys else table).aggregate(**sums).to_pyarrow().to_pandas()
    frame = frame.astype(dict.fromkeys(sums, float))
    found = frame[list(keys)].copy()
    for ask, parts in zip(asks, plans, strict=True):
        for ending, signed in zip(("num", "den", *SQUARES), parts, strict=False):
            if signed:
                found[f"{ask.name}__{ending}"] = sum(sign * frame[name] for sign, name in signed)
    if "date" in keys:
        found["date"] = pd.to_datetime(found["date"])
    for name in by:
        found[name] = found[name].fillna("").astype(str)
    return found.sort_values(list(keys), ignore_index=True) if keys else found


def _shared_sums(rows: Rows, table: ir.Table, asks: Sequence[Ask]) -> tuple[dict[str, Any], list[list[Signed]]]:
    """Sums by a short name, each measure once for each set of others that must be known; and signed names of an ask's
    sums above the line, below it, and of its squares."""
    each = {m: value(table, rows.measures[m]) for ask in asks for m in ask.measures}
    named: dict[Any, tuple[str, Any]] = {}

    def total(key: Any, need: frozenset[str], summed: Any, how: str = "sum") -> str:
        known = [each[name][1].notnull() for name in sorted(need)]
        told = summed.nunique() if how == "distinct" else summed.sum(where=reduce(and_, known) if known else None)
        return named.setdefault((key, need), (f"a{len(named)}", told))[0]

    plans = []
    for ask in asks:
        need = frozenset(m for m in ask.measures if each[m][0] == "sum" and m not in rows.whole)
        above, below = ([(-1 if m[0] == "-" else 1, m.lstrip("-")) for m in side] for side in (ask.above, ask.below))
        plan: list[Signed] = []
        for side in (above, below):
            others = {m: frozenset() if each[m][0] == "distinct" else need - {m} for _sign, m in side}
            plan.append([(sign, total(m, others[m], each[m][1], each[m][0])) for sign, m in side])
        if ask.squares:
            x, y = (sum(sign * each[m][1].cast("float64") for sign, m in side) for side in (above, below))
            told = {"sq": x * x} | ({"xy": x * y, "yy": y * y, "rows": (y != 0).ifelse(1, 0)} if below else {})
            plan += [[(1, total((name, ask.above, ask.below), need, v))] for name, v in told.items()]
        plans.append(plan)
    return dict(named.values()), plans
