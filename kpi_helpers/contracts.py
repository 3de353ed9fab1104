"""The tables that the toolkit understands, and their checks: every problem at once, in one aggregate query."""

import html
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from kpi_helpers.result import LANGUAGES, Result, Text, number, say, table

if TYPE_CHECKING:
    import ibis.expr.types as ir

OPEN = "text, marks not named"
GROUPED = r"^\D*[1-9]\d{0,2}(\.\d{3})+\D*$"  # 1.234 is a thousand in one country and little more than 1 in another
BETWEEN = "\x1f"  # parts the columns of a key, so that "A | B", "C" is not "A", "B | C"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a contract.

    `kind` is ``date``, ``text`` or ``number`` (exact decimal, six places); `at_most` names the column
    that it cannot exceed; `signed` numbers are money and may be negative.
    """

    name: str
    kind: str
    meaning: Text
    required: bool = False
    signed: bool = False
    at_most: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A contract: its columns and the columns that together occur once."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the number columns."""
        return tuple(c.name for c in self.columns if c.kind == "number")


CHANNEL_DAILY = Table(
    "channel_daily",
    ("date", "channel", "campaign"),
    (
        Column("date", "date", Text("first day that the row covers", "ngày đầu kỳ của dòng"), required=True),
        Column("channel", "text", Text("marketing channel", "kênh tiếp thị"), required=True),
        Column("campaign", "text", Text("campaign within the channel", "chiến dịch trong kênh")),
        Column("impressions", "number", Text("times an ad was shown", "số lần quảng cáo được hiển thị")),
        Column(
            "clicks",
            "number",
            Text("clicks on ads or links", "số lần nhấp vào quảng cáo hay liên kết"),
            at_most="impressions",
        ),
        Column("sessions", "number", Text("website sessions begun", "số phiên truy cập website")),
        Column("pageviews", "number", Text("pages viewed", "số lượt xem trang")),
        Column("spend", "number", Text("media cost, money", "chi phí quảng cáo (số tiền)"), signed=True),
        Column("leads", "number", Text("new leads, counted once", "số khách hàng tiềm năng mới, chỉ đếm một lần")),
        Column("conversions", "number", Text("conversions of the declared type", "số chuyển đổi của loại đã khai báo")),
        Column("orders", "number", Text("orders, net of cancellations", "số đơn hàng sau khi trừ đơn hủy")),
        Column("revenue", "number", Text("net revenue, money", "doanh thu thuần (số tiền)"), signed=True),
        Column("sent", "number", Text("messages sent", "số tin đã gửi")),
        Column("hard_bounces", "number", Text("undeliverable for good", "số tin bị trả lại vĩnh viễn"), at_most="sent"),
        Column("soft_bounces", "number", Text("undeliverable for now", "số tin bị trả lại tạm thời"), at_most="sent"),
        Column("unique_opens", "number", Text("recipients who opened", "số người mở tin"), at_most="sent"),
        Column("unique_clicks", "number", Text("recipients who clicked", "số người nhấp"), at_most="sent"),
        Column("unsubscribes", "number", Text("recipients who left", "số người hủy đăng ký"), at_most="sent"),
    ),
)
TABLES = {table.name: table for table in (CHANNEL_DAILY,)}


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

    Attributes
    ----------
    tables : tuple of str
        Tables that were read.
    n_rows : tuple of int
        Rows of each.
    problems : tuple of Problem
        Rules broken; empty when the data keep their contract.
    notes : tuple of Text
        What is allowed but worth knowing, such as missing days.
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
        rows = [
            [html.escape(cell) for cell in (p.column, number(p.n_rows, language), p.what(language), p.remedy(language))]
            for p in self.problems
        ]
        notes = "".join(f"<li>{html.escape(note[language])}</li>" for note in self.notes)
        return (table(heads, rows, caption=said) if rows else f"<p>{said}</p>") + (
            f'<ul class="prose">{notes}</ul>' if notes else ""
        )


def both_say(key: str, **told: Any) -> Text:
    """A sentence in both languages; whole numbers and `Text` among `told` are written as each language does."""

    def fill(v: Any, lang: str) -> Any:
        return v[lang] if isinstance(v, Text) else number(v, lang) if isinstance(v, int) else v

    return Text(*(say(key, lang, **{k: fill(v, lang) for k, v in told.items()}) for lang in LANGUAGES))


def broken_rules(
    prepared: "ir.Table", contract: Table, *, more: dict[str, str], period: str = "day"
) -> tuple[int, list[Problem], dict[str, int]]:
    """Count the rows that break each rule of `contract`, in one aggregate query.

    Parameters
    ----------
    prepared : Ibis table
        For each column that the source has, the typed column and its original text as ``<name>__raw``.
    contract : Table
        Its rules.
    more : dict
        For each column, what its reading was told (a date's format), for the message.
    period : str
        What a row covers: a week begins on Monday, a month on its first.

    Returns
    -------
    (int, list of Problem, dict)
        Rows, rules broken, tidied rows of each text column. A second query fetches examples of repeated keys.
    """
    rules: dict[tuple[str, str], Any] = {}
    asked: dict[str, Any] = {"n": prepared.count()}
    for c in contract.columns:
        if c.name not in prepared.columns:
            continue
        typed, raw = prepared[c.name], prepared[f"{c.name}__raw"]
        if c.kind != "text":
            rule = "not a date" if c.kind == "date" else "not a number"
            rules[c.name, rule] = (raw.notnull() & typed.isnull(), raw, more.get(c.name, ""))
        else:
            asked[f"{c.name} tidied"] = (typed != raw).fill_null(False).sum()
        if c.kind == "date" and period != "day":
            begun = typed.day_of_week.index() == 0 if period == "week" else typed.day() == 1
            rules[c.name, "not the first day"] = (~begun, raw, period)
        if c.required:
            rules[c.name, "empty"] = ((typed if c.kind == "text" else raw).isnull(), raw, "")
        if more.get(c.name) == OPEN:
            doubt = (typed.notnull() & raw.contains(".")).ifelse(raw.re_search(GROUPED).ifelse(1, -1), 0)
            rules[c.name, "ambiguous number"] = (doubt == 1, raw, "")
            asked[f"{c.name} ambiguous number"] = doubt.min()  # one point that cannot part thousands tells of all
        if c.kind == "number" and not c.signed:
            rules[c.name, "negative"] = (typed < 0, raw, "")
        if c.at_most and c.at_most in prepared.columns:
            rules[c.name, "too large"] = (typed > prepared[c.at_most], raw, c.at_most)
    keyed = all(c.name in prepared.columns for c in contract.columns if c.required)
    if keyed:
        key = _key(prepared, contract)
        asked |= {"n_key": key.count(), "n_distinct": key.nunique()}
    for i, (bad, raw, _more) in enumerate(rules.values()):
        shown = bad.ifelse(raw, None)
        asked |= {f"n{i}": bad.fill_null(False).sum(), f"low{i}": shown.min(), f"high{i}": shown.max()}
    found = prepared.aggregate(**asked).to_pyarrow().to_pylist()[0]
    problems = []
    for i, ((column, rule), (_bad, _raw, told)) in enumerate(rules.items()):
        if found[f"n{i}"] and found.get(f"{column} {rule}", 0) >= 0:
            examples = sorted({e[:60] for e in (found[f"low{i}"], found[f"high{i}"]) if e and e.strip()})
            problems.append(Problem(contract.name, column, rule, found[f"n{i}"], found["n"], tuple(examples), told))
    if keyed and (repeated := found["n_key"] - found["n_distinct"]):
        first = contract.key[0]
        counted = prepared.group_by(key=key).aggregate(n=prepared.count())
        shown = counted.filter(counted.key.notnull(), counted.n > 1).order_by("key").limit(2).to_pyarrow().to_pylist()
        keys = tuple(row["key"].strip(BETWEEN).replace(BETWEEN, " | ") for row in shown)
        told = " + ".join(k for k in contract.key if k in prepared.columns)
        problems.append(Problem(contract.name, first, "duplicate", repeated, found["n"], keys, told))
    if not found["n"]:
        problems.append(Problem(contract.name, contract.key[0], "no rows", 0, 0))
    return found["n"], problems, {k.split()[0]: n for k, n in found.items() if k.endswith(" tidied") and n}


def _key(prepared: "ir.Table", contract: Table) -> "ir.StringValue":
    parts = [prepared[k].cast("string").fill_null("") for k in contract.key if k in prepared.columns]
    key = reduce(lambda left, right: left + BETWEEN + right, parts)
    return prepared[contract.key[0]].notnull().ifelse(key, None)
