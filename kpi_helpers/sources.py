"""Connect to anything Ibis reads and map it to the contracts. The only module that names an engine."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pandas as pd
from ibis import _

from kpi_helpers import simulate, texts
from kpi_helpers.contracts import OPEN, TABLES, Check, Column, Problem, Table, both_say, broken_rules
from kpi_helpers.errors import ContractError, KpiError, require
from kpi_helpers.mappings import ENCODINGS, PERIODS, SECRET_URL, locate, project_root, read_mapping
from kpi_helpers.result import Text
from kpi_helpers.texts import EXACT

FILES = (".parquet", ".csv", ".csv.gz")
DATABASES = (".duckdb", ".ddb", ".db")


class Source:
    """Tables that keep their contract, whatever stands behind them; made by `connect`."""

    def __init__(self, name: str, backend: Any, folder: Path | None, mapping: dict[str, dict[str, Any]]) -> None:
        self.name = name
        self._backend = backend
        self._folder = folder
        self._mapping = mapping

    @property
    def tables(self) -> list[str]:
        """Names of the contract tables that this source holds."""
        return [name for name in TABLES if name in self._mapping or self._origin(name)]

    def files(self) -> list[Path]:
        """Files behind the tables, for fingerprints; none for a database."""
        return [self._folder / self._origin(name) for name in self.tables] if self._folder else []

    def period(self) -> str:
        """What a row covers: ``day``, ``week`` or ``month``, beginning on its date."""
        return str(self._spec("channel_daily").get("period", "day")).lower()

    def require_grain(self, grain: str) -> None:
        """Raise a `KpiError` if the rows are coarser than `grain`."""
        lengths = [*PERIODS, "total"]
        told = f"grain={grain!r}: the rows of {self.name} cover a {self.period()} each. Choose that or longer."
        require(lengths.index(grain) >= lengths.index(self.period()), told)

    def currency(self) -> str:
        """ISO code of the money columns as the mapping says it; empty where nobody has said."""
        return str(self._spec("channel_daily").get("currency", ""))

    def table(self, name: str) -> ir.Table:
        """Return an Ibis table that keeps the contract `name`: date, text, and exact decimals.

        Raises
        ------
        ContractError
            With every problem at once, if the data break the contract.
        """
        check = self.check(name)
        if not check.ok:
            raise ContractError("\n".join([f"{self.name} breaks its contract.", *check.lines()]))
        return self._kept(name)

    def columns(self, name: str) -> list[str]:
        """Columns of the contract `name` that this source has, whether or not they keep it."""
        prepared, _told, _problems = self._prepare(TABLES[name])
        return [c.name for c in TABLES[name].columns if c.name in prepared.columns]

    def check(self, name: str | None = None) -> Check:
        """Check one table or all of them; data problems are returned, never raised.

        Examples
        --------
        >>> connect("data/demo").check("channel_daily")
        Read channel_daily (8,508 rows): every rule of the contract holds.
        """
        names = [name] if name else self.tables
        if not self.tables or (name and name not in self.tables):
            raise ContractError(
                f"{self.name} holds no table {name or ' or '.join(TABLES)}; it holds {self._listing()}. "
                f"Name your file or table in a mapping: {name or 'channel_daily'}: {{file: your_file.csv}}"
            )
        n_rows, problems, notes = zip(*(self._check(each) for each in names), strict=True)
        return Check(tables=tuple(names), n_rows=n_rows, problems=sum(problems, ()), notes=sum(notes, ()))

    def first_day(self) -> date:
        """First day of the data."""
        return self._span()[0]

    def as_of(self, day: str | None = None) -> date:
        """Day up to which to read: `day` as YYYY-MM-DD if the data reach it, else the last complete day.

        A day is complete when each channel that still reports has a row; a channel that has been silent for more
        than a week (two periods of a weekly or monthly table) is taken to have ended.

        >>> connect("data/demo").as_of(None)
        datetime.date(2026, 11, 21)
        """
        first, last = self._span()
        if day is None:
            return last
        try:
            chosen = date.fromisoformat(day)
        except ValueError:
            raise KpiError(f"as_of={day!r} is no date. Write YYYY-MM-DD, such as {last}.") from None
        late = f"as_of={day} lies after the last complete day of the data. Give {last} or earlier."
        require(chosen <= last, late)
        require(chosen >= first, f"as_of={day} lies before the first day of the data. Give {first} or later.")
        return chosen

    def _spec(self, name: str) -> dict[str, Any]:
        return self._mapping.get(name, {})

    @cache  # noqa: B019  # a source lives as long as its notebook
    def _kept(self, name: str) -> ir.Table:
        """The typed columns; text files are parsed once for all queries."""
        prepared, _told, _problems = self._prepare(TABLES[name])
        typed = prepared.select([c.name for c in TABLES[name].columns if c.name in prepared.columns])
        if self._folder is None or self._origin(name).endswith(".parquet"):
            return typed
        return self._backend.create_table(name, typed, temp=True)

    @cache  # noqa: B019
    def _span(self) -> tuple[date, date]:
        """First day, and last complete day."""
        length = {"day": 7, "week": 14, "month": 62}[self.period()]
        spans = self.table("channel_daily").group_by("channel").aggregate(first=_.date.min(), last=_.date.max())
        rows = spans.to_pyarrow().to_pylist()
        latest = max(row["last"] for row in rows)
        begin = min(row["last"] for row in rows if (latest - row["last"]).days <= length)
        return min(row["first"] for row in rows), pd.Period(begin, PERIODS[self.period()]).end_time.date()

    @cache  # noqa: B019
    def _check(self, name: str) -> tuple[int, tuple[Problem, ...], tuple[Text, ...]]:
        """Rows, problems and notes of one table."""
        contract, sheet = TABLES[name], self._sheet(name)
        try:
            prepared, told, problems = self._prepare(contract)
            n, broken, tidied = broken_rules(prepared, contract, more=told, period=self.period())
            entries = [pair for block in self._blocks(contract).values() for pair in block.items()]
            credited = {name for name, entry in entries if isinstance(entry, dict) and entry.get("signed")}
            broken = [p for p in broken if p.rule != "credit" or p.column not in credited]
            problems += [self._cured(p, prepared, contract) if p.more.startswith("text") else p for p in broken]
            notes = [*(sheet.notes if sheet else ()), *(note for c in tidied for note in self._tidied(prepared, c))]
            if name == "channel_daily" and {"date", "channel"} <= set(prepared.columns):
                notes += self._gaps(prepared.filter(_.date.notnull(), _.channel.notnull()))
            return n // len(self._spec(name).get("channels") or [0]), tuple(problems), tuple(notes)
        except duckdb.Error as error:
            if not self._folder:
                raise
            path, first = self._folder / self._origin(name), str(error).strip().splitlines()[0]
            raise ContractError(f"{path} cannot be read: {first} Export it again.") from None

    def _cured(self, problem: Problem, prepared: ir.Table, contract: Table) -> Problem:
        """Add what the mapping could say of texts that did not read."""
        column = next(c for c in contract.columns if c.name == problem.column)
        raw, blocks = prepared[f"{column.name}__raw"], self._blocks(contract).values()
        own = (block[column.name] for block in blocks if isinstance(block.get(column.name), dict))
        options = self._spec(contract.name) | next(own, {})
        if self._backend.name != "duckdb":
            return replace(problem, more="date (text)", cures=(both_say("cure.cast", kind=column.kind),))
        if column.kind == "date":
            more, cures = texts.date_hints(raw, texts.date_forms(options))
            return replace(problem, examples=(), more=more, cures=cures)
        return replace(problem, more="", cures=texts.number_hints(raw, options, money=column.money))

    def _tidied(self, prepared: ir.Table, name: str) -> list[Text]:
        """Notes of the values that were read from other spellings, the most frequent first."""
        typed, raw = prepared[name], prepared[f"{name}__raw"]
        spelt = prepared.group_by(value=typed).aggregate(n=(typed != raw).sum(), k=raw.nunique()).filter(_.n > 0)
        rows = spelt.order_by(ibis.desc("n"), "value").limit(5).to_pyarrow().to_pylist()
        return [both_say("check.tidied", column=name, **row) for row in rows]

    def _gaps(self, prepared: ir.Table) -> list[Text]:
        """Notes of missing periods, and of channels whose name looks like a word for nothing."""
        span = prepared.group_by("channel").aggregate(first=_.date.min(), last=_.date.max(), n=_.date.nunique())
        notes, period = [], self.period()
        for row in span.order_by("channel").to_pyarrow().to_pylist():
            first, last = (pd.Period(row[end], PERIODS[period]) for end in ("first", "last"))
            total = (last - first).n + 1
            if total > row["n"]:
                told = row | {"n": total - row["n"], "total": total, "period": both_say(f"period.{period}")}
                notes.append(both_say("check.gap", **told))
            if re.search(texts.MARKERS, row["channel"]):
                notes.append(both_say("check.marker", value=row["channel"]))
        return notes

    def _blocks(self, contract: Table) -> dict[str | None, dict[str, Any]]:
        """Which column of the source is which of ours, for each channel of a wide table, or once."""
        spec, sheet = self._spec(contract.name), self._sheet(contract.name)
        wide = {*contract.numbers, "channel"} if "channels" in spec else set()  # a block names its own measures
        # a name that occurs twice is asked for, and lacking
        there = {*self._raw(contract.name).columns, *(sheet.repeated if sheet else ())}
        own = {c.name: c.name for c in contract.columns if c.name in there and c.name not in wide}
        named = own | (spec.get("columns") or {})
        return {channel: named | block for channel, block in (spec.get("channels") or {None: {}}).items()}

    def _prepare(self, contract: Table) -> tuple[ir.Table, dict[str, str], list[Problem]]:
        """Typed columns beside their raw text; what the reading was told; columns that are not there."""
        raw, sheet, blocks = self._raw(contract.name), self._sheet(contract.name), self._blocks(contract)
        options = self._spec(contract.name) | {"tidy": self._folder is None or (sheet and sheet.tidy)}
        problems: list[Problem] = []
        if sheet and (n := len(sheet.ragged)):
            shown, n_cells = tuple(sheet.ragged[:2]), str(len(raw.columns))
            problems = [Problem(contract.name, "*", "ragged", n, n + len(sheet.cells), shown, n_cells)]
        held = [c for c in contract.columns if any(c.name in block for block in blocks.values())]
        told: dict[str, str] = {}
        parts = []
        for channel, block in blocks.items():
            given = {name: _entry(entry, raw.columns) for name, entry in block.items() if entry is not None}
            problems += _absent(contract, given, raw.columns, wide=channel is not None)
            columns: dict[str, ir.Value] = {}
            for c in held:
                entry = given.get(c.name, {})
                found = entry.get("column") in raw.columns
                if found or not c.required:
                    typed, text, how = self._read(raw, c, entry if found else None, options | entry)
                    columns |= {c.name: typed, f"{c.name}__raw": text}
                    told[c.name] = how or told.get(c.name, "")
            if channel is not None:
                columns |= {"channel": ibis.literal(channel), "channel__raw": ibis.literal(channel)}
            parts.append(raw.select(**columns) if columns else raw)
        return (ibis.union(*parts) if len(parts) > 1 else parts[0]), told, list(dict.fromkeys(problems))

    def _read(self, raw: ir.Table, c: Column, entry: Any, options: dict[str, Any]) -> tuple[Any, Any, str]:
        """Typed value, original text, and what the reading was told, of one column."""
        null = ibis.null({"date": "date", "time": "timestamp", "text": "string"}.get(c.kind, EXACT))
        if entry is None:
            return null, ibis.null("string"), ""
        column, kind = raw[entry["column"]], raw[entry["column"]].type()
        if kind.is_string():
            return self._read_text(column, c, null, options)
        text = column.cast("string")
        if c.kind == "text":
            return text, text, ""
        if c.kind == "time":
            good = kind.is_date() or kind.is_timestamp()
            return column.cast("timestamp") if good else null, text, "" if good else f"time ({kind})"
        if c.kind == "date":
            good = kind.is_date() or kind.is_timestamp()
            day = column.cast("date") if good else null
            day = day.year().between(1900, 2099).ifelse(day, null) if good else null
            return day, text, "" if good else f"date ({kind})"
        if not kind.is_numeric() or kind.is_boolean():
            return null, text, ""
        if kind.is_integer():
            column = (column.abs() > 10**17).ifelse(ibis.null(kind), column)
        if kind.is_floating():  # NaN and infinity have no exact value: shown as not a number
            bad = column.isnan() | column.isinf() | (column.abs() > 1e17)
            column = bad.ifelse(ibis.null("float64"), column)
        return _scaled(column, options), text, ""

    def _read_text(self, column: Any, c: Column, null: Any, options: dict[str, Any]) -> tuple[Any, Any, str]:
        bare = column.strip() if options["tidy"] else texts.cleaned(column)
        bare = bare.isin(["", *texts.null_values(options)]).ifelse(ibis.null("string"), bare)
        if c.kind == "text":
            return bare, column, ""
        if self._backend.name != "duckdb":  # other engines raise on text that does not fit
            return null, bare, "text"
        if c.kind == "date":
            return texts.text_as_date(bare, texts.date_forms(options)), bare, "text"
        told = "text" if {"decimal", "thousands"} & set(options) else OPEN
        value = texts.text_as_number(bare, options if c.money else {**options, "currency": ""})
        return _scaled(value, options), bare, told

    @cache  # noqa: B019
    def _sheet(self, name: str) -> texts.Sheet | None:
        """Cells of a CSV file, and what was seen on the way to them."""
        if self._folder is None or self._origin(name).endswith(".parquet"):
            return None
        encoding = str(self._spec(name).get("encoding", "utf-8")).lower()
        return texts.read_csv(self._folder / self._origin(name), encoding, ENCODINGS[encoding])

    @cache  # noqa: B019  # a source lives as long as its notebook
    def _raw(self, name: str) -> ir.Table:
        origin = self._origin(name)
        if self._folder is None:
            schema, _dot, bare = origin.rpartition(".")
            return self._backend.table(bare, database=schema or None)
        if sheet := self._sheet(name):
            return self._backend.create_table(f"{name} as text", sheet.cells, temp=True)
        return self._backend.read_parquet(self._folder / origin)

    @cache  # noqa: B019
    def _origin(self, name: str) -> str:
        """File or table behind a contract, or an empty string."""
        spec = self._spec(name)
        if self._folder is None:
            wanted = str(spec.get("table", name))
            schema, _dot, bare = wanted.rpartition(".")
            there = [wanted] if bare in self._backend.list_tables(database=schema or None) else []
        else:
            wanted = str(spec.get("file", ""))
            sought = [wanted] if wanted else [name + ending for ending in FILES]
            there = [file for file in sought if (self._folder / file).exists()]
        twice = f"{self.name} holds {' and '.join(there)}. Keep one, or name it in the mapping: file."
        require(len(there) <= 1, twice)
        if name in self._mapping and not there:
            raise KpiError(
                f'{self.name} has no "{wanted or name}" for {name}; it holds {self._listing()}. '
                "Correct file or table in the mapping."
            )
        return "".join(there)

    def _listing(self) -> str:
        held = sorted(p.name for p in self._folder.iterdir()) if self._folder else self._backend.list_tables()
        return ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"


def connect(source: str | Path, mapping: str | Path | Mapping[str, Any] | None = None) -> Source:
    """Connect to a folder of CSV or Parquet files, a DuckDB file or a database URL.

    `source` is a folder, a ``.duckdb`` file, a URL that `ibis.connect` takes (``postgresql://user@host/db``), or
    ``env:NAME`` for a URL that an environment variable holds. ``data/demo`` is the simulated company, written on
    first use. `mapping` is a YAML file or dict that says which of your columns is which; see ``data/README.md``.

    Raises
    ------
    KpiError
        If the source does not exist or does not answer, or the mapping is not understood.
    """
    name, rules = str(source), read_mapping(mapping)
    url = os.environ.get(name[4:], "") if name.startswith("env:") else name
    require(url != "", f"source={name!r}: there is no environment variable {name[4:]}. Set it to the URL.")
    open_secret = "://" in name and SECRET_URL.search(name) is not None
    told = "The source URL holds a password, which reports would store. "
    require(not open_secret, told + "Put the URL into an environment variable and give source=env:NAME.")
    if "://" in name or name.startswith("env:"):
        return Source(name, _answer(lambda: ibis.connect(url), name), None, rules)
    path = locate(name)
    if path == project_root() / simulate.HOME or name == simulate.HOME:
        simulate.write(path)
        rules = {name: {"currency": simulate.CURRENCY} for name in TABLES} | rules
    if path.is_dir():
        return Source(name, ibis.duckdb.connect(), path, rules)
    if path.suffix in DATABASES and path.exists():
        return Source(name, _answer(lambda: ibis.duckdb.connect(path, read_only=True), name), None, rules)
    what = "is a file" if path.exists() else "does not exist"
    raise KpiError(
        f"source={name!r} {what}. Give a folder (and name its file in the mapping), a .duckdb file, "
        "a database URL, or data/demo for the simulated company."
    )


def _answer(opening: Callable[[], Any], name: str) -> Any:
    try:
        return opening()
    except ModuleNotFoundError as error:
        raise KpiError(f"{name} needs a driver that is not installed: {error.name}.") from None
    except Exception as error:  # each driver has an exception of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ContractError(
            f"{name} does not answer: {SECRET_URL.sub('://…@', first)} Check address and user."
        ) from None


def _absent(contract: Table, given: dict[str, Any], there: Sequence[str], *, wide: bool) -> list[Problem]:
    """Columns that the mapping names and the source lacks, that no table can do without, or that lack their unit."""
    problems, needed = [], {c.name for c in contract.columns if c.required} - ({"channel"} if wide else set())
    for c in contract.columns:
        entry = given.get(c.name, {})
        wanted = (entry["column"],) if entry else ()
        lacking = wanted[0] not in there if wanted else c.name in needed
        if lacking:
            problems.append(Problem(contract.name, c.name, "missing column", 0, 0, wanted, ", ".join(there)))
        elif wanted and c.money and "factor" not in entry and wanted[0].lower().endswith("micros"):
            problems.append(Problem(contract.name, c.name, "micros", 0, 0, wanted))
    if contract.rows == "day" and not set(contract.numbers) & set(given):
        problems.append(Problem(contract.name, "*", "no measure", 0, 0, (), ", ".join(contract.numbers)))
    return problems


def _entry(entry: Any, there: Sequence[str]) -> dict[str, Any]:
    """Options of a column; a name that is not there is sought as the header of a file is cleaned."""
    given = entry if isinstance(entry, dict) else {"column": entry}
    name = str(given["column"])
    return given | {"column": name if name in there else texts.clean(name)}


def _scaled(value: ir.Value, options: dict[str, Any]) -> ir.Value:
    """Apply the unit factor (1e-6 for micros) and store exactly, to six places."""
    factor = options.get("factor")
    return (value.cast("float64") * float(factor) if factor else value).cast(EXACT)
