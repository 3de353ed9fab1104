"""The tables that the toolkit understands, and their checks: every problem at once, in one aggregate query."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from kpi_helpers.result import Result, Text, asset, both_say, number, say

if TYPE_CHECKING:
    import ibis.expr.types as ir

OPEN = "text, marks not named"
GROUPED = r"^\D*[1-9]\d{0,2}(\.\d{3})+\D*$"  # 1.234 is a thousand in one country and little more than 1 in another
NOTES = ("before", "above", "tidied")
BETWEEN = "\x1f"  # parts the columns of a key, so that "A | B", "C" is not "A", "B | C"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a contract, as ``contracts.yaml`` declares it; its kinds and marks are told there."""

    name: str
    about: Text
    kind: str = "number"
    required: bool = False
    money: bool = False
    signed: bool = False
    at_most: str | None = None
    after: str | None = None
    below: str | None = None
    one_of: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A contract: what a row is, the columns that together occur once, the column that dates a row, what to count."""

    name: str
    about: Text
    key: tuple[str, ...]
    dated: str
    columns: tuple[Column, ...]
    measures: dict[str, str]
    rows: str = "one"

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the number columns, each of which is a measure too."""
        return tuple(c.name for c in self.columns if c.kind in ("number", "flag"))


def _read(name: str, told: dict[str, Any]) -> Table:
    columns = [
        Column(column, Text(entry.pop("en"), entry.pop("vi")), one_of=tuple(entry.pop("one_of", ())), **entry)
        for column, entry in told["columns"].items()
    ]
    rows, measures = told.get("rows", "one"), told.get("measures", {})
    return Table(name, Text(**told["about"]), tuple(told["key"]), told.get("dated", ""), tuple(columns), measures, rows)


TABLES = {name: _read(name, told) for name, told in yaml.safe_load(asset("contracts.yaml")).items()}
CHANNEL_DAILY = TABLES["channel_daily"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that the data break: where, how often, two examples; a `cure` fits these data better than the remedy."""

    table: str
    column: str
    rule: str
    n_rows: int
    n_total: int
    examples: tuple[str, ...] = ()
    more: str = ""
    cure: Text | None = None

    def what(self, language: str = "en") -> str:
        """What is wrong, with examples."""
        shown = ", ".join(f'"{e}"' for e in self.examples if self.rule != "missing column")
        such = say("check.such", language, examples=shown) if shown else ""
        return both_say(f"rule.{self.rule}", **self.told)[language] + such

    def remedy(self, language: str = "en") -> str:
        """What the user can do about it."""
        return str((self.cure or both_say(f"remedy.{self.rule}", **self.told))[language])

    def line(self, language: str = "en") -> str:
        """Everything in one line: ``table.column: what. Remedy.``"""
        return f"{self.table}.{self.column}: {self.what(language)}. {self.remedy(language)}"

    @property
    def told(self) -> dict[str, Any]:
        """What the sentences about it are filled in with."""
        such = "".join(self.examples[:1])
        told = {"column": self.column, "more": self.more, "such": such, "wanted": f' "{such}"' if such else ""}
        return told | {"n": self.n_rows, "total": self.n_total}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Check(Result):
    """What a check found: `tables` with `n_rows` each, rules broken, `notes` of what is allowed but worth knowing."""

    tables: tuple[str, ...]
    n_rows: tuple[int, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Text, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every rule holds."""
        return not self.problems

    def to_frame(self) -> Any:
        """One row a problem: table, column, rule, n_rows, examples, what, remedy."""
        import pandas as pd

        told = [
            (p.table, p.column, p.rule, p.n_rows, ", ".join(p.examples), p.what(), p.remedy()) for p in self.problems
        ]
        return pd.DataFrame(told, columns=["table", "column", "rule", "n_rows", "examples", "what", "remedy"])

    def sentence(self, language: str = "en") -> str:
        """Rows read and problems found."""
        counts = zip(self.tables, self.n_rows, strict=True)
        read = ", ".join(say("check.read", language, table=t, n=number(n, language)) for t, n in counts)
        return say("check.ok" if self.ok else "check.bad", language, read=read, n=len(self.problems))

    def lines(self, language: str = "en") -> list[str]:
        """The whole check as lines of text."""
        notes = [say("check.note", language, note=note[language]) for note in self.notes]
        return [self.sentence(language), *(p.line(language) for p in self.problems), *notes]


class Rule(NamedTuple):
    """A rule of one column and its rows that break it; none do if any of `settled` holds."""

    column: str
    name: str
    bad: Any
    told: str = ""
    settled: Any = None


def broken_rules(
    prepared: "ir.Table", contract: Table, more: dict[str, str], period: str, asked: dict[str, Any], *, lines: bool
) -> tuple[list[Problem], list[Text], dict[str, Any]]:  # fmt: skip
    """Count the rows that break each rule, in one aggregate query: problems, notes and all that was found.

    `prepared` holds each column typed, and its text as ``<name>__raw``; `more` says what its reading was told; rows
    that are `lines` share their key; `asked` are more aggregates to answer in the same scan.
    """
    held = [c for c in contract.columns if c.name in prepared.columns]
    rules = [rule for c in held for rule in _rules(prepared, c, more.get(c.name, ""))]
    if period != "day" and contract.dated in prepared.columns:
        day = prepared[contract.dated]
        first = day.day_of_week.index() == 0 if period == "week" else day.day() == 1
        rules.append(Rule(contract.dated, "not the first day", ~first, period))
    keys = [k for k in contract.key if k in prepared.columns]
    key = _key(prepared, keys) if keys and all(c in held for c in contract.columns if c.required) else None
    found = prepared.aggregate(**asked, **_counts(prepared, contract, rules, key)).to_pyarrow().to_pylist()[0]
    broken, n = list(_broken(contract, rules, found)), found["n"]
    notes = [both_say(f"check.{p.rule}", **p.told) for p in broken if p.rule in NOTES]
    problems = [p for p in broken if p.rule not in NOTES]
    if bare := ", ".join(c.name for c in held if n and not c.required and not found[f"filled {c.name}"]):
        notes.append(both_say("check.bare", columns=bare))
    if key is not None and lines:
        notes.append(both_say("check.lines", n=n, k=found["n_distinct"], keyed=" + ".join(keys)))
    elif key is not None and (repeated := found["n_key"] - found["n_distinct"]):
        such = _repeated(prepared, key)
        problems.append(Problem(contract.name, keys[0], "duplicate", repeated, n, such, " + ".join(keys)))
    if not n:
        problems.append(Problem(contract.name, contract.columns[0].name, "no rows", 0, 0))
    return problems, notes, found


def _counts(prepared: "ir.Table", contract: Table, rules: list[Rule], key: Any) -> dict[str, Any]:
    """What to ask: rows, rows that break each rule with two examples, cells filled, keys, dates."""
    asked: dict[str, Any] = {"n": prepared.count()}
    for c in (c for c in contract.columns if c.name in prepared.columns):
        typed, raw = prepared[c.name], prepared[f"{c.name}__raw"]
        asked[f"filled {c.name}"] = raw.count()
        if c.name == contract.dated:
            asked |= {"first": typed.cast("date").min(), "last": typed.cast("date").max()}
    for i, rule in enumerate(rules):
        shown = rule.bad.ifelse(prepared[f"{rule.column}__raw"], None)
        asked |= {f"n{i}": rule.bad.sum(), f"low{i}": shown.min(), f"high{i}": shown.max()}
        if rule.settled is not None:
            asked[f"settled{i}"] = rule.settled.any()
    return asked if key is None else asked | {"n_key": key.count(), "n_distinct": key.nunique()}


def _broken(contract: Table, rules: list[Rule], found: dict[str, Any]) -> Iterator[Problem]:
    for i, rule in enumerate(rules):
        if found[f"n{i}"] and not found.get(f"settled{i}"):
            examples = tuple(sorted({e[:60] for e in (found[f"low{i}"], found[f"high{i}"]) if e and e.strip()}))
            yield Problem(contract.name, rule.column, rule.name, found[f"n{i}"], found["n"], examples, rule.told)


def _rules(prepared: "ir.Table", c: Column, told: str) -> Iterator[Rule]:
    typed, raw = prepared[c.name], prepared[f"{c.name}__raw"]
    if c.kind == "flag":
        yield Rule(c.name, "not a flag", raw.notnull() & (typed.isnull() | ((typed != 0) & (typed != 1))), told)
    elif c.kind != "text":
        yield Rule(c.name, f"not a {c.kind}", raw.notnull() & typed.isnull(), told)
    else:
        yield Rule(c.name, "tidied", typed != raw)
    if c.required:
        yield Rule(c.name, "empty", (typed if c.kind == "text" else raw).isnull())
    if told == OPEN:  # one point that cannot part thousands tells of all
        pointed, grouped = typed.notnull() & raw.contains("."), raw.re_search(GROUPED)
        yield Rule(c.name, "ambiguous number", pointed & grouped, settled=pointed & ~grouped)
    if c.scale:
        yield Rule(c.name, "off the scale", typed.notnull() & ~typed.between(*c.scale), "–".join(map(str, c.scale)))
    elif c.kind == "number" and not c.signed:
        yield Rule(c.name, "credit" if c.money else "negative", typed < 0)
    if c.one_of:
        yield Rule(c.name, "unknown word", typed.notnull() & ~typed.isin(c.one_of), ", ".join(c.one_of))
    for name, other in (("too large", c.at_most), ("before", c.after), ("above", c.below)):
        if other and other in prepared.columns:
            bound = prepared[other]
            yield Rule(c.name, name, typed < bound if name == "before" else typed > bound, other)


def _repeated(prepared: "ir.Table", key: Any) -> tuple[str, ...]:
    """Two keys that occur more than once."""
    counted = prepared.group_by(key=key).aggregate(n=prepared.count())
    shown = counted.filter(counted.key.notnull(), counted.n > 1).order_by("key").limit(2).to_pyarrow().to_pylist()
    return tuple(row["key"].strip(BETWEEN).replace(BETWEEN, " | ") for row in shown)


def _key(prepared: "ir.Table", keys: list[str]) -> "ir.StringValue":
    """The columns of a key in one; none without the first."""
    first, *rest = (prepared[k].cast("string") for k in keys)
    return reduce(lambda left, right: left + BETWEEN + right.fill_null(""), rest, first)
