"""The tables that the toolkit understands, and their checks: every problem at once, in one aggregate query."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from kpi_helpers.result import LANGUAGES, Result, Text, asset, number, say, table

if TYPE_CHECKING:
    import ibis.expr.types as ir

OPEN = "text, marks not named"
GROUPED = r"^\D*[1-9]\d{0,2}(\.\d{3})+\D*$"  # 1.234 is a thousand in one country and little more than 1 in another
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
    one_of: tuple[str, ...] = ()


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
    about = Text(**told["about"])
    rows, measures = told.get("rows", "one"), told.get("measures", {})
    return Table(name, about, tuple(told["key"]), told["dated"], tuple(columns), measures, rows)


TABLES = {name: _read(name, told) for name, told in yaml.safe_load(asset("contracts.yaml")).items()}
CHANNEL_DAILY = TABLES["channel_daily"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that the data break: where, how often, two examples; `cures` fit these data better than the remedy."""

    table: str
    column: str
    rule: str
    n_rows: int
    n_total: int
    examples: tuple[str, ...] = ()
    more: str = ""
    cures: tuple[Text, ...] = ()

    def what(self, language: str = "en") -> str:
        """What is wrong, with examples."""
        what = say(f"rule.{self.rule}", language, **self._told(language))
        examples = "" if self.rule == "missing column" else ", ".join(f'"{e}"' for e in self.examples)
        return say("check.such", language, what=what, examples=examples) if examples else what

    def remedy(self, language: str = "en") -> str:
        """What the user can do about it."""
        plain = say(f"remedy.{self.rule}", language, **self._told(language))
        return " ".join([cure[language] for cure in self.cures] or [plain])

    def line(self, language: str = "en") -> str:
        """Everything in one line: ``table.column: what. Remedy.``"""
        return f"{self.table}.{self.column}: {self.what(language)}. {self.remedy(language)}"

    def _told(self, language: str) -> dict[str, str]:
        counts = {"n": number(self.n_rows, language), "total": number(self.n_total, language)}
        first = "".join(self.examples[:1])
        told = {"column": self.column, "more": self.more, "bare": first, "wanted": f' "{first}"' if first else ""}
        return told | counts


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Check(Result):
    """What a check of a source found.

    `tables` were read, with `n_rows` each; `problems` are the rules broken, none when the data keep their contract;
    `notes` tell what is allowed but worth knowing, such as missing days.
    """

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

        heads = ["table", "column", "rule", "n_rows", "examples", "what", "remedy"]
        rows = [
            (p.table, p.column, p.rule, p.n_rows, ", ".join(p.examples), p.what(), p.remedy()) for p in self.problems
        ]
        return pd.DataFrame(rows, columns=heads)

    def sentence(self, language: str = "en") -> str:
        """Rows read and problems found."""
        counts = zip(self.tables, self.n_rows, strict=True)
        read = ", ".join(say("check.read", language, table=t, n=number(n, language)) for t, n in counts)
        return say("check.ok" if self.ok else "check.bad", language, read=read, n=len(self.problems))

    def lines(self, language: str = "en") -> list[str]:
        """The whole check as lines of text."""
        notes = [say("check.note", language, note=note[language]) for note in self.notes]
        return [self.sentence(language), *(p.line(language) for p in self.problems), *notes]

    def html(self, language: str = "en") -> str:
        """The sentence, a table of the problems and a list of the notes."""
        heads, said = say("check.heads", language).split("|"), self.sentence(language)
        told = [(p.column, number(p.n_rows, language), p.what(language), p.remedy(language)) for p in self.problems]
        rows = [[html.escape(cell) for cell in row] for row in told]
        notes = "".join(f"<li>{html.escape(note[language])}</li>" for note in self.notes)
        problems = table(heads, rows, caption=said) if rows else f"<p>{said}</p>"
        return problems + (f'<ul class="prose">{notes}</ul>' if notes else "")


def both_say(key: str, **told: Any) -> Text:
    """A sentence in both languages; whole numbers and `Text` among `told` are written as each language does."""

    def fill(v: Any, lang: str) -> Any:
        return v[lang] if isinstance(v, Text) else number(v, lang) if isinstance(v, int) else v

    return Text(*(say(key, lang, **{k: fill(v, lang) for k, v in told.items()}) for lang in LANGUAGES))


class Rule(NamedTuple):
    """A rule of one column and its rows that break it; none do if any of `settled` holds."""

    column: str
    name: str
    bad: Any
    told: str = ""
    settled: Any = None


def broken_rules(
    prepared: "ir.Table", contract: Table, *, more: dict[str, str], period: str = "day"
) -> tuple[int, list[Problem], list[str]]:
    """Count the rows that break each rule of `contract`, in one aggregate query.

    `prepared` holds, for each column that the source has, the typed column and its original text as
    ``<name>__raw``; `more` says for each what its reading was told (a date's format). A week begins on Monday,
    a month on its first. A second query fetches examples of repeated keys.

    Returns the number of rows, the problems, and the text columns that were tidied.
    """
    held = [c for c in contract.columns if c.name in prepared.columns]
    rules = [rule for c in held for rule in _rules(prepared, c, more.get(c.name, ""), period)]
    kept = [c.name for c in held if c.kind == "text"]
    asked = {name: (prepared[name] != prepared[f"{name}__raw"]).fill_null(False).sum() for name in kept}
    asked["n"] = prepared.count()
    for i, rule in enumerate(rules):
        shown = rule.bad.ifelse(prepared[f"{rule.column}__raw"], None)
        asked |= {f"n{i}": rule.bad.fill_null(False).sum(), f"low{i}": shown.min(), f"high{i}": shown.max()}
        if rule.settled is not None:
            asked[f"settled{i}"] = rule.settled.fill_null(False).any()
    if keyed := bool(contract.key) and all(c in held for c in contract.columns if c.required):
        key = _key(prepared, contract)
        asked |= {"n_key": key.count(), "n_distinct": key.nunique()}
    found = prepared.aggregate(**asked).to_pyarrow().to_pylist()[0]
    problems = []
    for i, rule in enumerate(rules):
        if found[f"n{i}"] and not found.get(f"settled{i}"):
            examples = sorted({e[:60] for e in (found[f"low{i}"], found[f"high{i}"]) if e and e.strip()})
            told = (found[f"n{i}"], found["n"], tuple(examples), rule.told)
            problems.append(Problem(contract.name, rule.column, rule.name, *told))
    if keyed and (repeated := found["n_key"] - found["n_distinct"]):
        problems.append(_repeated(prepared, contract, repeated, found["n"]))
    if not found["n"]:
        problems.append(Problem(contract.name, contract.columns[0].name, "no rows", 0, 0))
    return found["n"], problems, [name for name in kept if found[name]]


def _rules(prepared: "ir.Table", c: Column, told: str, period: str) -> Iterator[Rule]:
    """The rules of one column that the source has."""
    typed, raw = prepared[c.name], prepared[f"{c.name}__raw"]
    if c.kind != "text":
        yield Rule(
            c.name, "not a number" if c.kind == "flag" else f"not a {c.kind}", raw.notnull() & typed.isnull(), told
        )
    if c.kind == "date" and period != "day":
        begun = typed.day_of_week.index() == 0 if period == "week" else typed.day() == 1
        yield Rule(c.name, "not the first day", ~begun, period)
    if c.required:
        yield Rule(c.name, "empty", (typed if c.kind == "text" else raw).isnull())
    if told == OPEN:  # one point that cannot part thousands tells of all
        pointed, grouped = typed.notnull() & raw.contains("."), raw.re_search(GROUPED)
        yield Rule(c.name, "ambiguous number", pointed & grouped, settled=pointed & ~grouped)
    if c.kind == "number" and not c.signed:
        yield Rule(c.name, "credit" if c.money else "negative", typed < 0)
    if c.kind == "flag":
        yield Rule(c.name, "not a flag", (typed != 0) & (typed != 1))
    if c.one_of:
        yield Rule(c.name, "unknown word", typed.notnull() & ~typed.isin(c.one_of), ", ".join(c.one_of))
    if c.at_most and c.at_most in prepared.columns:
        yield Rule(c.name, "too large", typed > prepared[c.at_most], c.at_most)


def _repeated(prepared: "ir.Table", contract: Table, repeated: int, n: int) -> Problem:
    """The problem of `repeated` rows with a key that stood before, with two examples."""
    counted = prepared.group_by(key=_key(prepared, contract)).aggregate(n=prepared.count())
    shown = counted.filter(counted.key.notnull(), counted.n > 1).order_by("key").limit(2).to_pyarrow().to_pylist()
    keys = tuple(row["key"].strip(BETWEEN).replace(BETWEEN, " | ") for row in shown)
    told = " + ".join(k for k in contract.key if k in prepared.columns)
    return Problem(contract.name, contract.key[0], "duplicate", repeated, n, keys, told)


def _key(prepared: "ir.Table", contract: Table) -> "ir.StringValue":
    parts = [prepared[k].cast("string").fill_null("") for k in contract.key if k in prepared.columns]
    key = reduce(lambda left, right: left + BETWEEN + right, parts)
    return prepared[contract.key[0]].notnull().ifelse(key, None)
