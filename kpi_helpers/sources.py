"""Connect to anything Ibis reads and map it to the contracts. The only module that names an engine."""

import os
import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
from ibis import _

from kpi_helpers import simulate
from kpi_helpers.contracts import TABLES, Check, Column, Problem, Table, broken_rules
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.mappings import SECRET_URL, locate, n_periods, period_end, project_root, read_mapping
from kpi_helpers.result import LANGUAGES, Text, number, say

FILES = (".parquet", ".csv", ".csv.gz")
DATABASES = (".duckdb", ".ddb", ".db")
ISO_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
EXACT = "decimal(24, 6)"


@ibis.udf.scalar.builtin(name="try_strptime", signature=(("string", "string"), "timestamp"))
def _read_date(text, form):  # type: ignore[no-untyped-def]  # a function of DuckDB: NULL where the text does not fit
    ...


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
        try:
            prepared, told, absent = self._prepare(contract)
            n, problems = broken_rules(prepared, contract, more=told, period=self.period(contract.name))
            problems = absent + [self._spellings(p, prepared) if p.rule == "not a date" else p for p in problems]
            return n, problems, [] if problems else self._gaps(prepared, contract)
        except (duckdb.Error, UnicodeError) as error:
            if not self._folder:
                raise
            first = str(error).strip().splitlines()[0]
            raise ContractError(
                f"{self._folder / self._origin(contract.name)} cannot be read: {first} "
                "CSV must be text in UTF-8 with as many cells in each line; .gz and .parquet must be what they say."
            ) from None

    def _spellings(self, problem: Problem, prepared: ir.Table) -> Problem:
        """Add how often each spelling of the date occurs."""
        raw = prepared[f"{problem.column}__raw"]
        shapes = (
            prepared.filter(raw.notnull())
            .group_by(shape=raw.re_replace(r"\d+", "9"))
            .aggregate(n=_.count(), such=raw.min())
        )
        rows = shapes.order_by(ibis.desc("n"), "shape").limit(4).to_pyarrow().to_pylist()
        counted = ", ".join(f'{number(row["n"])} × "{row["such"]}"' for row in rows)
        more = f"{problem.more} [{counted}]"
        return Problem(problem.table, problem.column, problem.rule, problem.n_rows, problem.n_total, (), more)

    def _gaps(self, prepared: ir.Table, contract: Table) -> list[Text]:
        span = prepared.group_by("channel").aggregate(first=_.date.min(), last=_.date.max(), n=_.date.nunique())
        notes, period = [], self.period(contract.name)
        for row in span.order_by("channel").to_pyarrow().to_pylist():
            total = n_periods(row["first"], row["last"], period)
            if total > row["n"]:
                told = row | {"n": total - row["n"], "total": total}
                said = [say("check.gap", lang, period=say(f"period.{period}", lang), **told) for lang in LANGUAGES]
                notes.append(Text(*said))
        return notes

    def _prepare(self, contract: Table) -> tuple[ir.Table, dict[str, str], list[Problem]]:
        """Typed columns beside their raw text; what the reading was told; columns that are not there."""
        raw, spec = self._raw(contract.name), self._mapping.get(contract.name, {})
        blocks = spec.get("channels") or {None: {}}
        wide = {*contract.measures, "channel"} if "channels" in spec else set()  # a block names its own measures
        own = {c.name: c.name for c in contract.columns if c.name in raw.columns and c.name not in wide}
        named = own | (spec.get("columns") or {})
        absent: list[Problem] = []
        told: dict[str, str] = {}
        parts = []
        held = [c for c in contract.columns if any(c.name in named | block for block in blocks.values())]
        for channel, block in blocks.items():
            given = {name: entry for name, entry in (named | block).items() if entry is not None}
            columns: dict[str, ir.Value] = {}
            for c in held:
                entry = given.get(c.name)
                if entry is not None and _column_of(entry) not in raw.columns:
                    absent.append(self._lacks(contract, c.name, raw, _column_of(entry)))
                    entry = None
                if entry is None and c.required:
                    continue
                typed, text, how = self._read(raw, c, entry, spec)
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

    def _read(self, raw: ir.Table, c: Column, entry: Any, spec: dict[str, Any]) -> tuple[Any, Any, str]:
        """Typed value, original text, and what the reading was told, of one column."""
        types = {"date": "date", "text": "string", "number": EXACT}
        if entry is None:
            return ibis.null(types[c.kind]), ibis.null("string"), ""
        options = {**spec, **(entry if isinstance(entry, dict) else {})}
        column = raw[_column_of(entry)]
        if column.type().is_string():
            text = column.strip()
            tokens = options.get("null_values") or []
            tokens = [tokens] if isinstance(tokens, str) else [str(token) for token in tokens]
            text = text.isin(["", *tokens]).ifelse(ibis.null("string"), text)
            if c.kind == "text":
                return text, text, ""
            if self._backend.name != "duckdb":  # other engines raise on text that does not fit
                return ibis.null(types[c.kind]), text, f"{c.kind} (text in the database: cast it there)"
            return _text_as_date(text, options) if c.kind == "date" else _text_as_number(text, options)
        text = column.cast("string")
        kind = column.type()
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

    @cache  # noqa: B019  # a source lives as long as its notebook
    def _raw(self, name: str) -> ir.Table:
        origin = self._origin(name)
        if self._folder is None:
            schema, _dot, bare = origin.rpartition(".")
            return self._backend.table(bare, database=schema or None)
        path = self._folder / origin
        if path.name.endswith(".parquet"):
            return self._backend.read_parquet(path)
        return self._backend.read_csv(path, all_varchar=True, header=True)

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


def _column_of(entry: Any) -> str:
    return str(entry["column"] if isinstance(entry, dict) else entry)


def _text_as_date(text: ir.StringValue, options: dict[str, Any]) -> tuple[Any, Any, str]:
    """Read a date by the given formats only; a text that two formats read differently is no date."""
    forms = options.get("date_format") or list(ISO_DATES)
    forms = [forms] if isinstance(forms, str) else forms
    read = [_read_date(text, form).date() for form in forms]
    typed = read[0]
    if len(read) > 1:
        typed = (ibis.least(*read) == ibis.greatest(*read)).ifelse(ibis.least(*read), ibis.null("date"))
    typed = (typed.year() >= 1900).ifelse(typed, ibis.null("date"))  # 17/2/26 is not the year 26
    return typed, text, " / ".join(forms if options.get("date_format") else forms[:1])


def _text_as_number(text: ir.StringValue, options: dict[str, Any]) -> tuple[Any, Any, str]:
    """Read a number by the given decimal mark and thousands separator only: "1.5" is never taken for 15."""
    point, group = options.get("decimal", "."), options.get("thousands", "")
    p, g = re.escape(point), re.escape(group)
    whole = rf"\d+|\d{{1,3}}({g}\d{{3}})+" if group else r"\d+"
    shape = rf"^[+-]?({whole})({p}\d+)?([eE][+-]?\d+)?$"
    bare = text.replace(group, "") if group else text
    bare = bare.replace(point, ".") if point != "." else bare
    bare = text.re_search(shape).ifelse(bare, ibis.null("string"))
    # the short decimal is read 200 times faster than the long one, which only sums of a trillion need
    value = ibis.coalesce(bare.try_cast("decimal(18, 6)").cast(EXACT), bare.try_cast(EXACT))
    return _scaled(value, options), text, ""


def _scaled(value: ir.Value, options: dict[str, Any]) -> ir.Value:
    """Apply the unit factor (1e-6 for micros) and store exactly, to six places."""
    factor = options.get("factor")
    return (value.cast("float64") * float(factor) if factor else value).cast(EXACT)
