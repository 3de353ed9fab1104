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
from ibis import _

from kpi_helpers import simulate, texts
from kpi_helpers.contracts import OPEN, TABLES, Check, Column, Problem, Table, both_say, broken_rules
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.mappings import ENCODINGS, SECRET_URL, locate, n_periods, period_end, project_root, read_mapping
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
        self._checks: dict[str, tuple[int, list[Problem], list[Text]]] = {}

    @property
    def tables(self) -> list[str]:
        """Names of the contract tables that this source holds."""
        return [name for name in TABLES if name in self._mapping or self._origin(name)]

    def files(self) -> list[Path]:
        """Files behind the tables, for fingerprints; none for a database."""
        return [self._folder / self._origin(name) for name in self.tables] if self._folder else []

    def period(self, name: str = "channel_daily") -> str:
        """What a row of the table covers: ``day``, ``week`` or ``month``, beginning on its date."""
        return str(self._mapping.get(name, {}).get("period", "day"))

    def currency(self, name: str = "channel_daily") -> str:
        """ISO code of the money columns as the mapping says it; empty where nobody has said."""
        return str(self._mapping.get(name, {}).get("currency", ""))

    def table(self, name: str) -> ir.Table:
        """Return an Ibis table that keeps the contract `name`: date, text, and exact decimals.

        Raises
        ------
        ContractError
            With every problem at once, if the data break the contract.

        Examples
        --------
        >>> connect("data/demo").table("channel_daily").columns[:3]
        ('date', 'channel', 'impressions')
        """
        check = self.check(name)
        if not check.ok:
            raise ContractError("\n".join([f"{self.name} breaks its contract.", *check.lines()]))
        return self._kept(name)

    def check(self, name: str | None = None) -> Check:
        """Check one table or all of them; data problems are returned, never raised.

        Examples
        --------
        >>> connect("data/demo").check()
        Read channel_daily (7,819 rows): every rule of the contract holds.
        """
        names = [name] if name else self.tables
        if not self.tables or (name and name not in self.tables):
            raise ContractError(
                f"{self.name} holds no table {name or ' or '.join(TABLES)}; it holds {self._listing()}. "
                f"Name your file or table in a mapping: {name or 'channel_daily'}: {{file: your_file.csv}}"
            )
        for each in names:
            if each not in self._checks:
                self._checks[each] = self._check(TABLES[each])
        found = [self._checks[each] for each in names]
        return Check(
            tables=tuple(names),
            n_rows=tuple(n for n, _problems, _notes in found),
            problems=tuple(p for _n, problems, _notes in found for p in problems),
            notes=tuple(t for _n, _problems, notes in found for t in notes),
        )

    def last_complete_day(self, name: str = "channel_daily") -> date:
        """Last day for which each channel that still reports has a row.

        A channel that has been silent for more than a week (two periods of a weekly or monthly table)
        is taken to have ended and does not hold back the others.
        """
        return self._span(name)[1]

    def first_day(self, name: str = "channel_daily") -> date:
        """First day of the data."""
        return self._span(name)[0]

    def as_of(self, day: str | None = None) -> date:
        """Day up to which to read: `day` as YYYY-MM-DD if the data reach it, else the last complete day.

        >>> connect("data/demo").as_of(None)
        datetime.date(2026, 11, 21)
        """
        first, last = self._span("channel_daily")
        if day is None:
            return last
        try:
            chosen = date.fromisoformat(day)
        except ValueError:
            raise KpiError(f"as_of={day!r} is no date. Write YYYY-MM-DD, such as {last}.") from None
        if chosen > last:
            raise KpiError(f"as_of={day} lies after the last complete day of the data. Give {last} or earlier.")
        if chosen < first:
            raise KpiError(f"as_of={day} lies before the first day of the data. Give {first} or later.")
        return chosen

    @cache  # noqa: B019  # a source lives as long as its notebook
    def _kept(self, name: str) -> ir.Table:
        """The typed columns; text files are parsed once for all queries."""
        prepared, _told, _problems = self._prepare(TABLES[name])
        typed = prepared.select([c.name for c in TABLES[name].columns if c.name in prepared.columns])
        if self._folder is None or self._origin(name).endswith(".parquet"):
            return typed
        return self._backend.create_table(name, typed, temp=True)

    @cache  # noqa: B019
    def _span(self, name: str) -> tuple[date, date]:
        """First day, and last complete day."""
        length = {"day": 7, "week": 14, "month": 62}[self.period(name)]
        spans = self.table(name).group_by("channel").aggregate(first=_.date.min(), last=_.date.max())
        rows = spans.to_pyarrow().to_pylist()
        latest = max(row["last"] for row in rows)
        begin = min(row["last"] for row in rows if (latest - row["last"]).days <= length)
        return min(row["first"] for row in rows), period_end(begin, self.period(name))

    def _check(self, contract: Table) -> tuple[int, list[Problem], list[Text]]:
        sheet, blocks = self._sheet(contract.name), self._mapping.get(contract.name, {}).get("channels") or {None: {}}
        try:
            prepared, told, problems = self._prepare(contract)
            n, broken, tidied = broken_rules(prepared, contract, more=told, period=self.period(contract.name))
            for p in broken:  # the blocks of a wide file repeat each cell of the columns that they share
                k = 1 if any(p.column in block for block in blocks.values()) else len(blocks)
                p = replace(p, n_rows=p.n_rows // k, n_total=p.n_total // k)
                problems.append(self._cured(p, prepared, contract) if p.more.startswith("text") else p)
            notes = [*(sheet.notes if sheet else ()), *(note for c in tidied for note in self._tidied(prepared, c))]
            if not any(p.column in ("date", "channel") and p.rule != "duplicate" for p in problems):
                notes += self._gaps(prepared, contract)
            return n // len(blocks), problems, notes
        except duckdb.Error as error:
            if not self._folder:
                raise
            path, first = self._folder / self._origin(contract.name), str(error).strip().splitlines()[0]
            raise ContractError(f"{path} cannot be read: {first} Export it again.") from None

    def _cured(self, problem: Problem, prepared: ir.Table, contract: Table) -> Problem:
        """Add what the mapping could say of texts that did not read."""
        column = next(c for c in contract.columns if c.name == problem.column)
        raw, spec = prepared[f"{column.name}__raw"], self._mapping.get(contract.name, {})
        blocks = (spec.get("columns") or {}, *(spec.get("channels") or {}).values())
        options = spec | next((b[column.name] for b in blocks if isinstance(b.get(column.name), dict)), {})
        if self._backend.name != "duckdb":
            return replace(problem, more="date (text)", cures=(both_say("cure.cast", kind=column.kind),))
        if column.kind == "date":
            more, cures = texts.date_hints(raw, texts.date_forms(options))
            return replace(problem, examples=(), more=more, cures=cures)
        return replace(problem, more="", cures=texts.number_hints(raw, options, money=column.signed))

    def _tidied(self, prepared: ir.Table, name: str) -> list[Text]:
        """Notes of the values that were read from other spellings, the most frequent first."""
        typed, raw = prepared[name], prepared[f"{name}__raw"]
        spelt = prepared.group_by(value=typed).aggregate(n=(typed != raw).sum(), k=raw.nunique()).filter(_.n > 0)
        rows = spelt.order_by(ibis.desc("n"), "value").limit(5).to_pyarrow().to_pylist()
        return [both_say("check.tidied", column=name, **row) for row in rows]

    def _gaps(self, prepared: ir.Table, contract: Table) -> list[Text]:
        span = prepared.group_by("channel").aggregate(first=_.date.min(), last=_.date.max(), n=_.date.nunique())
        notes, period = [], self.period(contract.name)
        for row in span.order_by("channel").to_pyarrow().to_pylist():
            total = n_periods(row["first"], row["last"], period)
            if total > row["n"]:
                told = row | {"n": total - row["n"], "total": total, "period": both_say(f"period.{period}")}
                notes.append(both_say("check.gap", **told))
            if re.search(texts.MARKERS, row["channel"]):
                notes.append(both_say("check.marker", value=row["channel"]))
        return notes

    def _prepare(self, contract: Table) -> tuple[ir.Table, dict[str, str], list[Problem]]:
        """Typed columns beside their raw text; what the reading was told; columns that are not there."""
        raw, sheet = self._raw(contract.name), self._sheet(contract.name)
        spec = self._mapping.get(contract.name, {}) | {"tidy": self._folder is None or (sheet and sheet.tidy)}
        blocks = spec.get("channels") or {None: {}}
        wide = {*contract.measures, "channel"} if "channels" in spec else set()  # a block names its own measures
        there = {*raw.columns, *(sheet.repeated if sheet else ())}  # a name that occurs twice is asked for, and lacking
        own = {c.name: c.name for c in contract.columns if c.name in there and c.name not in wide}
        named = own | (spec.get("columns") or {})
        absent: list[Problem] = []
        if sheet and (n := len(sheet.ragged)):
            shown, n_cells = tuple(sheet.ragged[:2]), str(len(raw.columns))
            absent = [Problem(contract.name, "*", "ragged", n, n + len(sheet.cells), shown, n_cells)]
        told: dict[str, str] = {}
        parts = []
        held = [c for c in contract.columns if any(c.name in named | block for block in blocks.values())]
        for channel, block in blocks.items():
            given = {name: _entry(entry, raw.columns) for name, entry in (named | block).items() if entry is not None}
            columns: dict[str, ir.Value] = {}
            for c in held:
                entry = given.get(c.name)
                if entry and entry["column"] not in raw.columns:
                    absent.append(self._lacks(contract, c.name, raw, entry["column"]))
                    entry = None
                if entry is None and c.required:
                    continue
                if entry and c.signed and "factor" not in entry and entry["column"].lower().endswith("micros"):
                    absent.append(Problem(contract.name, c.name, "micros", 0, 0, (entry["column"],)))
                typed, text, how = self._read(raw, c, entry, spec | (entry or {}))
                columns |= {c.name: typed, f"{c.name}__raw": text}
                told[c.name] = how or told.get(c.name, "")
            if channel is not None:
                columns |= {"channel": ibis.literal(channel), "channel__raw": ibis.literal(channel)}
            lacking = [c.name for c in contract.columns if c.required and c.name not in (*given, *columns)]
            absent += [self._lacks(contract, name, raw) for name in lacking]
            if not set(contract.measures) & set(given):
                absent.append(Problem(contract.name, "*", "no measure", 0, 0, (), ", ".join(contract.measures)))
            parts.append(raw.select(**columns) if columns else raw)
        return (ibis.union(*parts) if len(parts) > 1 else parts[0]), told, list(dict.fromkeys(absent))

    def _lacks(self, contract: Table, name: str, raw: ir.Table, *wanted: str) -> Problem:
        return Problem(contract.name, name, "missing column", 0, 0, wanted, ", ".join(raw.columns))

    def _read(self, raw: ir.Table, c: Column, entry: Any, options: dict[str, Any]) -> tuple[Any, Any, str]:
        """Typed value, original text, and what the reading was told, of one column."""
        types = {"date": "date", "text": "string", "number": EXACT}
        if entry is None:
            return ibis.null(types[c.kind]), ibis.null("string"), ""
        column, kind = raw[entry["column"]], raw[entry["column"]].type()
        text = column.cast("string")
        if kind.is_string():
            bare = column.strip() if options["tidy"] else texts.cleaned(column)
            tokens = options.get("null_values") or []
            tokens = [tokens] if isinstance(tokens, str) else [str(token) for token in tokens]
            bare = bare.isin(["", *tokens]).ifelse(ibis.null("string"), bare)
            if c.kind == "text":
                return bare, text, ""
            if self._backend.name != "duckdb":  # other engines raise on text that does not fit
                return ibis.null(types[c.kind]), bare, "text"
            if c.kind == "date":
                return texts.text_as_date(bare, texts.date_forms(options)), bare, "text"
            told = "text" if {"decimal", "thousands"} & set(options) else OPEN
            value = texts.text_as_number(bare, options if c.signed else {**options, "currency": ""})
            return _scaled(value, options), bare, told
        if c.kind == "text":
            return text, text, ""
        if c.kind == "date":
            good = kind.is_date() or kind.is_timestamp()
            return (column.cast("date") if good else ibis.null("date")), text, "" if good else f"date ({kind})"
        if not kind.is_numeric() or kind.is_boolean():
            return ibis.null(EXACT), text, ""
        if kind.is_integer():
            column = (column.abs() > 10**17).ifelse(ibis.null(kind), column)
        if kind.is_floating():  # NaN and infinity have no exact value: shown as not a number
            bad = column.isnan() | column.isinf() | (column.abs() > 1e17)
            column = bad.ifelse(ibis.null("float64"), column)
        return _scaled(column, options), text, ""

    @cache  # noqa: B019
    def _sheet(self, name: str) -> texts.Sheet | None:
        """Cells of a CSV file, and what was seen on the way to them."""
        if self._folder is None or self._origin(name).endswith(".parquet"):
            return None
        encoding = str(self._mapping.get(name, {}).get("encoding", "utf-8")).lower()
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
        spec = self._mapping.get(name, {})
        if self._folder is None:
            wanted = str(spec.get("table", name))
            schema, _dot, bare = wanted.rpartition(".")
            if bare in self._backend.list_tables(database=schema or None):
                return wanted
        else:
            wanted = str(spec.get("file", ""))
            there = [wanted] if wanted else [name + ending for ending in FILES]
            there = [file for file in there if (self._folder / file).exists()]
            if len(there) > 1:
                raise KpiError(f"{self.name} holds {' and '.join(there)}. Keep one, or name it in the mapping: file.")
            if there:
                return there[0]
        if name in self._mapping:
            raise KpiError(
                f'{self.name} has no "{wanted or name}" for {name}; it holds {self._listing()}. '
                "Correct file or table in the mapping."
            )
        return ""

    def _listing(self) -> str:
        held = sorted(p.name for p in self._folder.iterdir()) if self._folder else self._backend.list_tables()
        return ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"


def connect(source: str | Path, mapping: str | Path | Mapping[str, Any] | None = None) -> Source:
    """Connect to a folder of CSV or Parquet files, a DuckDB file or a database URL.

    Parameters
    ----------
    source : str or Path
        Folder, ``.duckdb`` file, URL that `ibis.connect` takes (``postgresql://user@host/db``), or
        ``env:NAME`` for a URL that an environment variable holds. ``data/demo`` is the simulated company,
        written on first use.
    mapping : path or dict, optional
        YAML file that says which of your columns is which; see ``data/README.md``.

    Returns
    -------
    Source
        `.check()` finds every problem, `.table(name)` gives an Ibis table that keeps the contract.

    Raises
    ------
    KpiError
        If the source does not exist or does not answer, or the mapping is not understood.

    Examples
    --------
    >>> connect("data/demo").tables
    ['channel_daily']
    """
    name, rules = str(source), read_mapping(mapping)
    if name.startswith("env:"):
        if not os.environ.get(name[4:]):
            raise KpiError(f"source={name!r}: there is no environment variable {name[4:]}. Set it to the URL.")
        return Source(name, _answer(lambda: ibis.connect(os.environ[name[4:]]), name), None, rules)
    if "://" in name:
        if SECRET_URL.search(name):
            raise KpiError(
                "The source URL holds a password, which reports would store. "
                "Put the URL into an environment variable and give source=env:NAME."
            )
        return Source(name, _answer(lambda: ibis.connect(name), name), None, rules)
    path = locate(name)
    if path == project_root() / simulate.HOME or name == simulate.HOME:
        simulate.write(path)
        rules = {"channel_daily": {"currency": simulate.CURRENCY}} | rules
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


def _entry(entry: Any, there: Sequence[str]) -> dict[str, Any]:
    """Options of a column; a name that is not there is sought as the header of a file is cleaned."""
    given = entry if isinstance(entry, dict) else {"column": entry}
    name = str(given["column"])
    return given | {"column": name if name in there else texts.clean(name)}


def _scaled(value: ir.Value, options: dict[str, Any]) -> ir.Value:
    """Apply the unit factor (1e-6 for micros) and store exactly, to six places."""
    factor = options.get("factor")
    return (value.cast("float64") * float(factor) if factor else value).cast(EXACT)
