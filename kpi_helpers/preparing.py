"""A mapping applied: columns found, joined, translated and typed, each beside its original text."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
from ibis import _

from kpi_helpers import texts
from kpi_helpers.contracts import BETWEEN, OPEN, Column, Problem, Table
from kpi_helpers.errors import require
from kpi_helpers.result import Text, both_say
from kpi_helpers.texts import EXACT

ROW = "row number"
NULLS = {"date": "date", "time": "timestamp", "text": "string"}


class Join(NamedTuple):
    """A file or table that was joined: its name, columns that were joined on (ours, theirs), its number, its rows."""

    name: str
    on: dict[str, str]
    n: str
    rows: ir.Table


class Part(NamedTuple):
    """A file or table of a mapping, with what it joins: rows, options, sheets of its files.

    Beside the mapping's options: `tidy`, text is in one Unicode spelling; `of_files`, the engine tries to read text.
    """

    name: str
    raw: ir.Table
    spec: dict[str, Any]
    sheets: tuple[texts.Sheet, ...]
    joins: tuple[Join, ...]

    @property
    def names(self) -> list[str]:
        """Columns of the source."""
        own = {ROW, *(f"{what} {join.n}" for join in self.joins for what in ("copies", "key"))}
        return [name for name in self.raw.columns if name not in own]


class Prepared(NamedTuple):
    """Typed columns beside their raw text, what the reading was told and found; rows and options of each part."""

    rows: ir.Table
    told: dict[str, str]
    problems: list[Problem]
    notes: list[Text]
    joins: list[Join]
    parts: list[tuple[ir.Table, dict[str, Any]]]

    def says(self, option: str) -> list[str]:
        """Columns for which the mapping gives an option."""
        return sorted({c for _rows, options in self.parts for c, given in options.items() if given.get(option)})


def joined(raw: ir.Table, join: Join, first: str | None, stem: str, forms: list[str]) -> ir.Table:
    """Add the columns of a join to `raw`, one row for each key; a name that stands in both follows that of its file.

    ``copies n`` counts the rows of a key in it (none: no row), ``key n`` is the key that was found.
    """
    name, on, n, other = join
    asked = [*((c, raw) for c in on), *((c, other) for c in (*on.values(), *([first] if first else [])))]
    for column, table in asked:
        told = f"join with {name}: the column {column} is not there; there are {', '.join(table.columns)}."
        require(column in table.columns, f"{told} Correct on or first in the mapping.")
    taken = {column.casefold() for column in raw.columns}
    ours = {c: f"{stem}.{c}" if c.casefold() in taken else c for c in other.columns}
    rows = other.select(**{ours[c]: other[c] for c in other.columns}, **{f"key {n}": _key(other, [*on.values()])})
    same, order = ibis.window(group_by=f"key {n}"), [rows[c] for c in ours.values()]
    copies = rows.count().over(same)
    if first:
        begin = rows[ours[first]]
        begin = texts.text_as_time(begin, forms) if begin.type().is_string() else begin
        unread = (begin.isnull() & rows[ours[first]].notnull()).sum().over(same)
        copies, order = (unread > 0).ifelse(copies, 1), [begin, *order]
    place = ibis.row_number().over(ibis.window(group_by=f"key {n}", order_by=order))
    rows = rows.mutate(**{f"copies {n}": copies, f"place {n}": place})
    rows = rows.filter(rows[f"place {n}"] == 0).drop(f"place {n}")
    return raw.left_join(rows, _key(raw, [*on]) == rows[f"key {n}"])


def _key(table: ir.Table, columns: list[str]) -> ir.StringValue:
    parts = [table[c].cast("string").strip().nullif("") for c in columns]
    return reduce(lambda left, right: left + BETWEEN + right, parts)


def prepare(contract: Table, parts: Sequence[Part]) -> Prepared:
    """Type every part and put them below each other."""
    plans = [(p, _blocks(contract, p)) for p in parts]
    pairs = [(p, given) for p, plan in plans for given in plan.values()]
    held = [c for c in contract.columns if any(_find(p, given.get(c.name), c) is not None for p, given in pairs)]
    joins = [join for p in parts for join in p.joins]
    notes = [note for p in parts for sheet in p.sheets for note in sheet.notes]
    told: dict[str, str] = {}
    problems: list[Problem] = []
    stacks: list[tuple[ir.Table, dict[str, Any]]] = []
    for p, plan in plans:
        for s in (s for s in p.sheets if s.ragged):
            n, cells = len(s.ragged), str(s.cells.num_columns)
            problems.append(Problem(contract.name, "*", "ragged", n, n + len(s.cells), tuple(s.ragged[:2]), cells))
        blocks: list[ir.Table] = []
        for channel, given in plan.items():
            problems += _absent(contract, p, given, alone=len(parts) == 1, wide=channel is not None)
            columns = _typed(p, given, held, told)
            if channel is not None:
                columns |= {"channel": ibis.literal(channel), "channel__raw": ibis.literal(channel)}
            for join in joins:  # counted once, not once a channel
                own = join.n in {j.n for j in p.joins} and not blocks
                columns[f"copies {join.n}"] = p.raw[f"copies {join.n}"].fill_null(0) if own else ibis.null("int64")
                columns[f"key {join.n}"] = p.raw[f"key {join.n}"] if own else ibis.null("string")
            blocks.append(p.raw.select(**columns) if columns else p.raw)
        whole = {name: entry for given in reversed(plan.values()) for name, entry in given.items()}
        stacks.append((_stacked(blocks), {c.name: p.spec | whole.get(c.name, {}) for c in held}))
    rows = _stacked([rows for rows, _options in stacks])
    prepared = Prepared(rows, told, list(dict.fromkeys(problems)), list(dict.fromkeys(notes)), joins, stacks)
    prepared.notes.extend(both_say("check.numbered", column=c) for c in prepared.says("row"))
    return prepared


def _stacked(parts: list[ir.Table]) -> ir.Table:
    """Rows of all parts; whole numbers beside exact decimals become such."""
    kinds = [part.schema() for part in parts]
    mixed = [name for name in parts[0].columns if len({kind[name] for kind in kinds}) > 1]
    if mixed:
        parts = [part.mutate(**{name: part[name].cast(EXACT) for name in mixed}) for part in parts]
    return ibis.union(*parts) if len(parts) > 1 else parts[0]


def _typed(p: Part, given: dict[str, Any], held: list[Column], told: dict[str, str]) -> dict[str, Any]:
    """Each column typed, and its text; `told` keeps what the readings were told."""
    columns: dict[str, Any] = {}
    for c in held:
        entry = given.get(c.name, {})
        columns[c.name], columns[f"{c.name}__raw"], how = _read(_find(p, entry, c), c, p.spec | entry)
        told[c.name] = how if how == OPEN else told.get(c.name) or how
    return columns


def _blocks(contract: Table, part: Part) -> dict[str | None, dict[str, dict[str, Any]]]:
    """Which column of the source is which of ours, for each channel of a wide table, or once."""
    spec = part.spec
    wide = {*contract.numbers, "channel"} if "channels" in spec else set()  # a block names its own measures
    # a name that occurs twice is asked for, and lacking
    there = {*part.names, *(name for sheet in part.sheets for name in sheet.repeated)}
    own = {c.name: c.name for c in contract.columns if c.name in there and c.name not in wide}
    named = own | (spec.get("columns") or {})
    return {
        channel: {c: _entry(told, part.names) for c, told in (named | block).items() if told is not None}
        for channel, block in (spec.get("channels") or {None: {}}).items()
    }


def _entry(told: Any, there: Sequence[str]) -> dict[str, Any]:
    """Options of a column; a name that is not there is sought as the header of a file is cleaned."""
    given = told if isinstance(told, dict) else {"column": told}
    wanted = given["column"] if isinstance(given.get("column"), list) else [given.get("column", "")]
    names = [name if name in there else texts.clean(name) for name in map(str, wanted)]
    return given | {"column": names} if "column" in given else given


def _find(part: Part, entry: dict[str, Any] | None, c: Column) -> Any:
    """The value that a column of ours is read from, or nothing."""
    if not entry:
        return None
    if "constant" in entry:
        return _literal(entry["constant"], c)
    if entry.get("row"):
        return ibis.literal(f"{part.name}:") + part.raw[ROW].cast("string")
    found = [_reach(part.raw, name) for name in entry["column"]]
    if any(value is None for value in found):
        return None
    return reduce(lambda left, right: left.cast("string") + "." + right.cast("string"), found)


def _literal(value: Any, c: Column) -> Any:
    if c.kind == "text":
        return ibis.literal(str(value))
    if c.kind in ("date", "time"):
        moment = datetime.fromisoformat(str(value))
        return ibis.literal(moment if c.kind == "time" else moment.date())
    return ibis.literal(Decimal(str(int(value) if isinstance(value, bool) else value))).cast(EXACT)


def _reach(raw: ir.Table, name: str) -> Any:
    """A column, or by a dotted name what stands in a struct, or under a key in an array of keys and values."""
    if name in raw.columns:
        return raw[name]
    head, *path = name.split(".")
    if not path or head not in raw.columns:
        return None
    value: Any = raw[head]
    for step in path:
        kind = value.type()
        if kind.is_struct() and step in kind.names:
            value = value[step]
        elif kind.is_array() and kind.value_type.is_struct() and {"key", "value"} <= {*kind.value_type.names}:
            value = value.filter(lambda pair, step=step: pair["key"] == step)[0]["value"]
            if value.type().is_struct():  # of string_value, int_value and the like one is filled
                value = ibis.coalesce(*(value[field].cast("string") for field in value.type().names))
        else:
            return None
    return value


def _read(value: Any, c: Column, options: dict[str, Any]) -> tuple[Any, Any, str]:
    """Typed value, original text, and what the reading was told, of one column."""
    null = ibis.null(NULLS.get(c.kind, EXACT))
    if value is None:
        return null, ibis.null("string"), ""
    kind, words = value.type(), options.get("values") or {}
    if kind.is_string() or (words and c.kind in ("text", "flag")):
        return _read_text(value.cast("string"), c, null, options)
    text = value.cast("string")
    if c.kind == "text":
        return text, text, ""
    if c.kind in ("date", "time"):
        zoned = kind.is_timestamp() and kind.timezone is not None
        if zoned or not (kind.is_date() or kind.is_timestamp()):
            return null, text, f"{'zoned' if zoned else c.kind} ({kind})"
        moment = value.cast(NULLS[c.kind])
        return moment.year().between(1900, 2099).ifelse(moment, null), text, ""
    if kind.is_boolean() and c.kind == "flag":
        return ibis.cases((value, 1), (~value, 0), else_=None).cast(EXACT), text, ""  # not known is not 0
    if not kind.is_numeric() or kind.is_boolean():
        return null, text, ""
    if kind.is_integer():
        value = (value.abs() > 10**17).ifelse(ibis.null(kind), value).cast("int64")
        if not options.get("factor") and "" not in words:  # whole numbers are exact as they are, and quicker to add
            return value, text, ""
    if kind.is_floating():  # NaN and infinity have no exact value: shown as not a number
        bad = value.isnan() | value.isinf() | (value.abs() > 1e17)
        value = bad.ifelse(ibis.null("float64"), value)
    value = _scaled(value, options)
    return (text.isnull().ifelse(words[""], value).cast(EXACT) if "" in words else value), text, ""


def _read_text(column: Any, c: Column, null: Any, options: dict[str, Any]) -> tuple[Any, Any, str]:
    bare = column.strip() if options["tidy"] else texts.cleaned(column)
    bare = bare.isin(["", *texts.null_values(options)]).ifelse(ibis.null("string"), bare)
    words = options.get("values") or {}
    bare = texts.translated(bare, words)
    if c.kind == "text":
        return bare, bare if words else column, ""
    if c.kind == "flag":
        return texts.text_as_flag(bare), bare, ""
    if not options["of_files"]:  # other engines raise on text that does not fit
        return null, bare, "text"
    if c.kind in ("date", "time"):
        moment = texts.text_as_time(bare, texts.date_forms(options))
        return (moment.date() if c.kind == "date" else moment), bare, "text"
    told = "text" if {"decimal", "thousands"} & set(options) else OPEN
    value = texts.text_as_number(bare, options if c.money else {**options, "currency": ""})
    return _scaled(value, options), bare, told


def _scaled(value: Any, options: dict[str, Any]) -> Any:
    """Apply the unit factor (1e-6 for micros) and store exactly, to six places."""
    factor = options.get("factor")
    return (value.cast("float64") * float(factor) if factor else value).cast(EXACT)


def _absent(contract: Table, part: Part, given: dict[str, Any], *, alone: bool, wide: bool) -> list[Problem]:
    """Columns that the mapping names and the source lacks, that no table can do without, or that lack their unit."""
    problems, needed = [], {c.name for c in contract.columns if c.required} - ({"channel"} if wide else set())
    there = ("" if alone else f"{part.name}: ") + ", ".join(part.names)
    for c in contract.columns:
        entry = given.get(c.name, {})
        wanted = tuple(entry.get("column", ()))
        if _find(part, entry, c) is None and (entry or c.name in needed):
            problems.append(Problem(contract.name, c.name, "missing column", 0, 0, wanted, there))
        elif wanted and c.money and "factor" not in entry and wanted[0].lower().endswith("micros"):
            problems.append(Problem(contract.name, c.name, "micros", 0, 0, wanted))
    if contract.rows == "day" and not set(contract.numbers) & set(given):
        problems.append(Problem(contract.name, "*", "no measure", 0, 0, (), ", ".join(contract.numbers)))
    return problems


def questions(prepared: Prepared) -> dict[str, Any]:
    """What to ask of each join in the scan of the rules."""
    asked: dict[str, Any] = {}
    for n, join in ((join.n, join) for join in prepared.joins):
        copies, key = prepared.rows[f"copies {n}"], prepared.rows[f"key {n}"]
        asked |= {f"of {n}": copies.count(), f"found {n}": (copies > 0).sum(), f"again {n}": (copies > 1).sum()}
        asked |= {f"such {n}": (copies > 1).ifelse(key, None).min(), f"used {n}": key.nunique()}
        asked[f"there {join.name}"] = join.rows.count().as_scalar()  # asked once, however often it was joined
    return asked


def answered(prepared: Prepared, table: str, found: dict[str, Any]) -> tuple[list[Problem], list[Text]]:
    """Problems and notes of the joins: keys that repeat, rows that found none, rows that were not used."""
    problems, notes = [], []
    for join in prepared.joins:
        told = {what: found[f"{what} {join.n}"] or 0 for what in ("of", "found", "used", "again")}
        notes.append(both_say("check.joined", file=join.name, there=found[f"there {join.name}"], **told))
        if told["again"]:
            such = (str(found[f"such {join.n}"]).replace(BETWEEN, " | "),)
            problems.append(
                Problem(table, " + ".join(join.on), "joined twice", told["again"], told["of"], such, join.name)
            )
    return problems, notes


def cured(problem: Problem, contract: Table, prepared: Prepared) -> Problem:
    """Add what the mapping could say of texts that did not read, and what to do about time zones."""
    c = next(c for c in contract.columns if c.name == problem.column)
    if not problem.more.startswith(("text", "zoned")):
        return problem
    if problem.more.startswith("zoned"):
        return replace(problem, more=problem.more.replace("zoned", c.kind), cures=(both_say("cure.zone"),))
    if not prepared.parts[0][1][c.name]["of_files"]:
        return replace(problem, more=f"{c.kind} (text)", cures=(both_say("cure.cast", kind=c.kind),))
    more: list[str] = []
    cures: list[Text] = []
    for rows, options in prepared.parts:
        raw, own = rows[f"{c.name}__raw"], options[c.name]
        if "column" not in own:
            continue
        if c.kind in ("date", "time"):
            told, hints = texts.date_hints(raw, texts.date_forms(own))
            more.append(told)
        else:
            hints = texts.number_hints(raw, own, money=c.money)
        cures += hints
    return replace(
        problem, examples=() if more else problem.examples, more="; ".join(more), cures=tuple(dict.fromkeys(cures))
    )


def tidied(rows: ir.Table, name: str) -> list[Text]:
    """Notes of the values that were read from other spellings, the most frequent first."""
    typed, raw = rows[name], rows[f"{name}__raw"]
    spelt = rows.group_by(value=typed).aggregate(n=(typed != raw).sum(), k=raw.nunique()).filter(_.n > 0)
    found = spelt.order_by(ibis.desc("n"), "value").limit(5).to_pyarrow().to_pylist()
    return [both_say("check.tidied", column=name, **row) for row in found]


def collapsed(lines: ir.Table, contract: Table) -> ir.Table:
    """One row for each key of `lines`: numbers are added up, of everything else the smallest is kept."""
    keys = [k for k in contract.key if k in lines.columns]
    others = [c for c in contract.columns if c.name in lines.columns and c.name not in keys]
    whole = {c.name: lines[c.name].sum().cast(EXACT) if c.kind == "number" else lines[c.name].min() for c in others}
    return lines.group_by(keys).aggregate(**whole).select(*lines.columns)
