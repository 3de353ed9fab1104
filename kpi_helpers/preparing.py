"""A mapping applied: columns found, joined, translated and typed, each beside its original text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from kpi_helpers import texts
from kpi_helpers.contracts import BETWEEN, OPEN, Column, Problem, Table
from kpi_helpers.errors import require
from kpi_helpers.result import Text, both_say
from kpi_helpers.texts import EXACT

ROW, KEY, COPIES = (f"{BETWEEN}{name}" for name in ("row", "key", "copies"))  # what is no column of a source
NULLS = {"date": "date", "time": "timestamp", "text": "string"}


class Join(NamedTuple):
    """A file or table that was joined: its name, columns that were joined on (ours, theirs), what to ask of it."""

    name: str
    on: dict[str, str]
    asked: dict[str, ir.Scalar]
    there: ir.Scalar


class Part(NamedTuple):
    """A file or table of a mapping, with what it joins; `of_files` in `spec`: the engine tries to read text."""

    name: str
    raw: ir.Table
    spec: dict[str, Any]
    sheets: tuple[texts.Sheet, ...]
    joins: tuple[Join, ...]

    @property
    def names(self) -> list[str]:
        """Columns of the source."""
        return [name for name in self.raw.columns if not name.startswith(BETWEEN)]


class Prepared(NamedTuple):
    """Typed columns beside their raw text, what the reading was told and found; the options of each part."""

    rows: ir.Table
    told: dict[str, str]
    problems: list[Problem]
    notes: list[Text]
    joins: list[Join]
    options: list[dict[str, Any]]

    def says(self, option: str) -> list[str]:
        """Columns for which the mapping gives an option."""
        return sorted({c for options in self.options for c, given in options.items() if given.get(option)})


def joined(
    raw: ir.Table, other: ir.Table, name: str, on: dict[str, str], first: str | None, stem: str, forms: list[str]
) -> tuple[ir.Table, Join]:
    """Add the columns of another table to `raw`, one row for each key: the `first` by date, if that is asked for."""
    asked = [*((c, raw) for c in on), *((c, other) for c in (*on.values(), first) if c)]
    for column, table in asked:
        told = f"join with {name}: the column {column} is not there; there are {', '.join(table.columns)}."
        require(column in table.columns, f"{told} Correct on or first in the mapping.")
    taken = {column.casefold() for column in raw.columns}
    rows = other.mutate(**{KEY: _key(other, on.values())})
    same, order, repeated = ibis.window(group_by=KEY), [rows[c] for c in other.columns], ibis.literal(True)
    if first:  # which must read, wherever it is told
        begin = texts.text_as_time(rows[first], forms) if rows[first].type().is_string() else rows[first]
        order, repeated = [begin, *order], (begin.isnull() & rows[first].notnull()).any().over(same)
    rows = rows.mutate(**{COPIES: repeated.ifelse(rows.count().over(same), 1)})
    rows = rows.filter(ibis.row_number().over(ibis.window(group_by=KEY, order_by=order)) == 0)
    rows = rows.rename({f"{stem}.{c}": c for c in other.columns if c.casefold() in taken})
    found = raw.left_join(rows, _key(raw, on) == rows[KEY])
    again = found[COPIES] > 1
    counts = found.aggregate(
        of=found.count(), found=found[KEY].count(), used=found[KEY].nunique(),
        again=again.sum(), such=again.ifelse(found[KEY], None).min(),
    )  # fmt: skip
    scalars = {what: counts[what].as_scalar() for what in counts.columns}
    return found.drop(KEY, COPIES), Join(name, on, scalars, other.count().as_scalar())


def _key(table: ir.Table, columns: Iterable[str]) -> ir.StringValue:
    parts = [table[c].cast("string").strip().nullif("") for c in columns]
    return reduce(lambda left, right: left + BETWEEN + right, parts)


def prepare(contract: Table, parts: Sequence[Part]) -> Prepared:
    """Type every part and put them below each other."""
    blocks = [block for p in parts for block in _blocks(contract, p)]
    held = [c for c in contract.columns if any(_find(b, c) is not None for b in blocks)]
    joins = list({join.asked["of"].op(): join for p in parts for join in p.joins}.values())  # an engine asks once
    told: dict[str, str] = {}
    problems: list[Problem] = []
    typed, options = [], [{c.name: b.spec | b.spec["columns"].get(c.name, {}) for c in held} for b in blocks]
    for b, given in zip(blocks, options, strict=True):
        for s in (s for s in b.sheets if s.ragged):
            n, cells = len(s.ragged), str(s.cells.num_columns)
            problems.append(Problem(contract.name, "*", "ragged", n, n + len(s.cells), tuple(s.ragged[:2]), cells))
        problems += _absent(contract, b, "" if len(parts) == 1 else f"{b.name}: ")
        columns = {}
        for c in held:
            columns[c.name], columns[f"{c.name}__raw"], how = _read(_find(b, c), c, given[c.name])
            told[c.name] = how if how == OPEN else told.get(c.name) or how
        typed.append(b.raw.select(**columns) if columns else b.raw)
    notes = [note for p in parts for sheet in p.sheets for note in sheet.notes]
    found = list(dict.fromkeys(problems)), list(dict.fromkeys(notes))
    prepared = Prepared(_stacked(typed), told, *found, joins, options)
    prepared.notes.extend(both_say("check.numbered", column=c) for c in prepared.says("row"))
    return prepared


def _stacked(parts: list[ir.Table]) -> ir.Table:
    """Rows of all parts; whole numbers beside exact decimals become such."""
    kinds = [part.schema() for part in parts]
    mixed = [name for name in parts[0].columns if len({kind[name] for kind in kinds}) > 1]
    if mixed:
        parts = [part.mutate(**{name: part[name].cast(EXACT) for name in mixed}) for part in parts]
    return ibis.union(*parts) if len(parts) > 1 else parts[0]


def _blocks(contract: Table, part: Part) -> Iterator[Part]:
    """A part for each channel of a wide table, or one; its columns say what each of ours is read from."""
    spec, channels = part.spec, part.spec.get("channels") or {}
    wide = {*contract.numbers, "channel"} if channels else set()  # a block names its own measures
    # a name that occurs twice is asked for, and lacking
    there = {*part.names, *(name for sheet in part.sheets for name in sheet.repeated)}
    named: dict[str, Any] = {c.name: c.name for c in contract.columns if c.name in there and c.name not in wide}
    named |= spec.get("columns") or {}
    for channel, block in (channels or {"": {}}).items():
        own = {"channel": {"constant": channel}} if channels else {}
        told = {c: _entry(told, part.names) for c, told in (named | block | own).items() if told is not None}
        yield part._replace(spec=spec | {"columns": told})
        part = part._replace(sheets=())  # are told of once, not once a channel


def _entry(told: Any, there: Sequence[str]) -> dict[str, Any]:
    """Options of a column; a name that is not there is sought as the header of a file is cleaned."""
    given = told if isinstance(told, dict) else {"column": told}
    if "column" not in given:
        return given
    wanted = given["column"] if isinstance(given["column"], list) else [given["column"]]
    return given | {"column": [name if name in there else texts.clean(name) for name in map(str, wanted)]}


def _find(part: Part, c: Column) -> Any:
    """The value that a column of ours is read from, or nothing."""
    entry = part.spec["columns"].get(c.name, {})
    if "constant" in entry:
        return ibis.literal(str(entry["constant"]))
    if "row" in entry:
        return ibis.literal(f"{part.name}:") + part.raw[ROW].cast("string")
    found = [_reach(part.raw, name) for name in entry.get("column", [""])]
    if any(value is None for value in found):
        return None
    mark = "." if c.kind == "text" else " "  # between an id and its context, or a date and its time
    return reduce(lambda left, right: left.cast("string") + mark + right.cast("string"), found)


def _reach(raw: ir.Table, name: str) -> Any:
    """A column, or by a dotted name what stands in a struct, or under a key in an array of keys and values."""
    if name in raw.columns:
        return raw[name]
    head, _dot, key = name.partition(".")
    if head not in raw.columns:
        return None
    value, kind = raw[head], raw[head].type()
    if kind.is_struct():
        return value[key] if key in kind.names else None
    if not (kind.is_array() and kind.value_type.is_struct() and {"key", "value"} <= {*kind.value_type.names}):
        return None
    found = value.filter(lambda pair: pair["key"] == key)[0]["value"]
    several = found.type().is_struct()  # of string_value, int_value and the like one is filled
    return ibis.coalesce(*(found[field].cast("string") for field in found.type().names)) if several else found


def _read(value: Any, c: Column, options: dict[str, Any]) -> tuple[Any, Any, str]:
    """Typed value, original text, and what the reading was told, of one column."""
    null = ibis.null(NULLS.get(c.kind, EXACT))
    if value is None:
        return null, ibis.null("string"), ""
    kind, text, words = value.type(), value.cast("string"), options.get("values") or {}
    if kind.is_string() or (words and c.kind in ("text", "flag")):
        return _read_text(text, c, null, options)
    if c.kind == "text":
        return text, text, ""
    if c.kind in ("date", "time"):
        if not kind.is_date() and not (kind.is_timestamp() and kind.timezone is None):
            return null, text, f"{c.kind} ({kind})"
        moment = value.cast(NULLS[c.kind])
        return moment.year().between(1900, 2099).ifelse(moment, null), text, ""
    if kind.is_boolean() and c.kind == "flag":
        return ibis.cases((value, 1), (~value, 0), else_=None).cast(EXACT), text, ""  # not known is not 0
    if not kind.is_numeric() or kind.is_boolean():
        return null, text, ""
    # shown as not a number: what has no exact value, such as infinity
    bad = value.abs() > 10**17 if kind.is_integer() else value.cast("float64").abs() > 1e17
    value = (bad | value.isnan() if kind.is_floating() else bad).ifelse(ibis.null(kind), value)
    if kind.is_integer() and not options.get("factor") and "" not in words:
        return value.cast("int64"), text, ""  # whole numbers are exact as they are, and quicker to add
    value = _scaled(value, options)
    return (text.isnull().ifelse(words[""], value).cast(EXACT) if "" in words else value), text, ""


def _read_text(column: Any, c: Column, null: Any, options: dict[str, Any]) -> tuple[Any, Any, str]:
    bare = texts.cleaned(column) if options["of_files"] else column.strip()
    bare = bare.isin(["", *texts.listed(options, "null_values")]).ifelse(ibis.null("string"), bare)
    words = options.get("values") or {}
    bare = texts.translated(bare, words)
    if c.kind == "text":
        return bare, bare if words else column, ""
    if c.kind == "flag":
        flag = ibis.cases((bare.isin(["1", "1.0"]), 1), (bare.isin(["0", "0.0"]), 0), else_=None)
        return flag.cast(EXACT), bare, ""  # every other word needs the mapping's `values`
    if not options["of_files"]:  # other engines raise on text that does not fit
        return null, bare, "text"
    if c.kind in ("date", "time"):
        moment = texts.text_as_time(bare, texts.date_forms(options))
        return (moment.date() if c.kind == "date" else moment), bare, "text"
    told = "text" if {"decimal", "thousands"} & set(options) else OPEN
    value = texts.text_as_number(bare, options if c.money else {**options, "currency": ""})
    return _scaled(value, options), bare, told


def _scaled(value: Any, options: dict[str, Any]) -> Any:
    factor = options.get("factor")  # such as 1e-6 for micros
    return (value.cast("float64") * float(factor) if factor else value).cast(EXACT)


def _absent(contract: Table, part: Part, name: str) -> list[Problem]:
    """Columns that the mapping names and the source lacks, that no table can do without, or that lack their unit."""
    problems, given, there = [], part.spec["columns"], name + ", ".join(part.names)
    for c in contract.columns:
        entry = given.get(c.name, {})
        wanted = tuple(entry.get("column", ()))
        if _find(part, c) is None and (entry or c.required):
            problems.append(Problem(contract.name, c.name, "missing column", 0, 0, wanted, there))
        elif wanted and c.money and "factor" not in entry and wanted[0].lower().endswith("micros"):
            problems.append(Problem(contract.name, c.name, "micros", 0, 0, wanted))
    if contract.rows == "day" and not set(contract.numbers) & set(given):
        problems.append(Problem(contract.name, "*", "no measure", 0, 0, (), ", ".join(contract.numbers)))
    return problems


def questions(prepared: Prepared) -> dict[str, Any]:
    """What to ask of each join in the scan of the rules."""
    asked = {f"{what} {i}": scalar for i, join in enumerate(prepared.joins) for what, scalar in join.asked.items()}
    return asked | {f"there {join.name}": join.there for join in prepared.joins}


def answered(prepared: Prepared, table: str, found: dict[str, Any]) -> tuple[list[Problem], list[Text]]:
    """Problems and notes of the joins: keys that repeat, rows that found none, rows that were not used."""
    problems, notes = [], []
    for i, join in enumerate(prepared.joins):
        told = {what: found[f"{what} {i}"] or 0 for what in ("of", "found", "used")}
        notes.append(both_say("check.joined", file=join.name, there=found[f"there {join.name}"], **told))
        if again := found[f"again {i}"]:
            such = (found[f"such {i}"].replace(BETWEEN, " | "),)
            problems.append(Problem(table, " + ".join(join.on), "joined twice", again, told["of"], such, join.name))
    return problems, notes


def cured(problem: Problem, contract: Table, prepared: Prepared) -> Problem:
    """Add to a problem of texts that did not read how they are spelt, or where to cast them."""
    if problem.more not in ("text", OPEN):
        return problem
    c = next(c for c in contract.columns if c.name == problem.column)
    options, rows = [own[c.name] for own in prepared.options], prepared.rows
    if not options[0]["of_files"]:
        return replace(problem, more=f"{c.kind} (text)", cure=both_say("cure.cast", kind=c.kind))
    raw = rows[f"{c.name}__raw"]
    if c.kind == "number":
        found = texts.spellings(rows[c.name].isnull().ifelse(raw, None))
        return replace(problem, cure=both_say("cure.number", found=found))
    forms = " / ".join(dict.fromkeys(form for own in options for form in texts.date_forms(own)))
    return replace(problem, examples=(), more=f"{forms} [{texts.spellings(raw)}]")


def collapsed(lines: ir.Table, contract: Table) -> ir.Table:
    """One row for each key of `lines`: numbers are added up, of everything else the smallest is kept."""
    keys = [k for k in contract.key if k in lines.columns]
    others = [c for c in contract.columns if c.name in lines.columns and c.name not in keys]
    whole = {c.name: lines[c.name].sum().cast(EXACT) if c.kind == "number" else lines[c.name].min() for c in others}
    return lines.group_by(keys).aggregate(**whole).select(*lines.columns)
