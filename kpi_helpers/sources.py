"""Connect to anything Ibis reads and map it to the contracts. The only module that names an engine."""

import contextlib
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
import pandas as pd
from ibis import _

from kpi_helpers import preparing, simulate, texts
from kpi_helpers.contracts import TABLES, Check, Problem, broken_rules
from kpi_helpers.errors import ContractError, KpiError, require
from kpi_helpers.mappings import ENCODINGS, PERIODS, SECRET_URL, locate, project_root, read_mapping
from kpi_helpers.preparing import ROW, Join, Part, Prepared
from kpi_helpers.result import Text, both_say

FILES = (".parquet", ".csv", ".csv.gz")
#: Parquet of so many rows is typed once and kept; more stays in its file
KEPT_ROWS = 2_000_000
DATABASES = (".duckdb", ".ddb", ".db")
PLANS = ("targets",)  # dated by days to come


class Source:
    """Tables that keep their contract, whatever stands behind them; made by `connect`."""

    def __init__(self, name: str, backend: Any, folder: Path | None, mapping: dict[str, Any]) -> None:
        self.name, self._backend, self._folder, self._mapping = name, backend, folder, mapping

    @property
    def tables(self) -> list[str]:
        """Names of the contract tables that this source holds."""
        return [name for name in TABLES if name in self._mapping or self._specs(name)]

    def files(self) -> list[Path]:
        """Files behind the tables and what they join, for fingerprints; none for a database."""
        held = [(name, each) for name, spec in self._told() for each in (spec, *spec.get("join", ()))]
        named = dict.fromkeys(file for told in held for place in self._places(*told) for file in place)
        return [self._folder / file for file in named] if self._folder else []

    def period(self, name: str = "") -> str:
        """What a row covers: ``day``, ``week`` or ``month``; of channel_daily, or else the longest of the tables."""
        if not name and "channel_daily" not in self.tables:
            return max((self.period(n) for n in self.tables), key=[*PERIODS].index, default="day")
        return str(self._given(name or "channel_daily")[0].get("period", "day")).lower()

    def require_grain(self, grain: str, name: str = "") -> None:
        """Raise a `KpiError` if the rows (of table `name`, or as `period` says) are coarser than `grain`."""
        lengths, period = [*PERIODS, "total"], self.period(name)
        told = f"grain={grain!r}: the rows of {self.name} cover a {period} each. Choose that or longer."
        require(lengths.index(grain) >= lengths.index(period), told)

    def currency(self) -> str:
        """ISO code of the money columns as the mapping says it, or ""; a `KpiError` if tables differ."""
        codes = {str(spec["currency"]): name for name, spec in self._told() if "currency" in spec}
        listed = " and ".join(f"{name} in {code}" for code, name in codes.items())
        require(len(codes) <= 1, f"{self.name} holds {listed}: money is never mixed. Convert in the source.")
        return "".join(codes)

    def table(self, name: str) -> ir.Table:
        """An Ibis table that keeps the contract `name`; else a `ContractError` tells every problem at once."""
        check = self.check(name)
        if not check.ok:
            raise ContractError("\n".join([f"{self.name} breaks its contract.", *check.lines()]))
        return self._kept(name)

    def columns(self, name: str) -> list[str]:
        """Columns of the contract `name` that the source has; none if it lacks the table."""
        there = self._prepared(name).rows.columns if name in self.tables else ()
        return [c.name for c in TABLES[name].columns if c.name in there]

    def whole(self, name: str) -> frozenset[str]:
        """Columns of the table `name` that are known in each row."""
        found = self._check(name)[0]
        return frozenset(c for c in self.columns(name) if found.get(f"filled {c}") == found["n"])

    def check(self, name: str | None = None) -> Check:
        """Check one table or all of them, one scan each; data problems are returned, never raised.

        >>> connect("data/demo").check("channel_daily")
        Read channel_daily (8,508 rows): every rule of the contract holds.
        """
        names = [name] if name else self.tables
        if not self.tables or (name and name not in self.tables):
            known = name or f"{', '.join([*TABLES][:3])} or another of data/README.md"
            raise ContractError(
                f"{self.name} holds no table {known}; it holds {self._listing()}. "
                f"Name your file or table in a mapping: {name or 'channel_daily'}: {{file: your_file.csv}}"
            )
        found, problems, notes = zip(*(self._check(each) for each in names), strict=True)
        # a wide table has one row for all its channels
        wide = [len(specs[0].get("channels") or [0]) if len(specs) == 1 else 1 for specs in map(self._given, names)]
        n_rows = tuple(each["n"] // width for each, width in zip(found, wide, strict=True))
        return Check(tables=tuple(names), n_rows=n_rows, problems=sum(problems, ()), notes=sum(notes, ()))

    def first_day(self) -> date | None:
        """First day of the data: of channel_daily, or else of any table; None if nothing is dated."""
        return self._span()[0]

    def as_of(self, day: str | None = None) -> date | None:
        """Day up to which to read: `day` as YYYY-MM-DD if the data reach it, else the last complete day, if any.

        A day of channel_daily is complete when each channel has a row that has not been silent for more than a week
        (two periods of a weekly or monthly table). Without channel_daily it is the last day of any table.

        >>> connect("data/demo").as_of(None)
        datetime.date(2026, 11, 21)
        """
        first, last = self._span()
        if day is None or (last is None and day == "undated"):  # as reports name data without a day
            return last
        if first is None or last is None:
            raise KpiError(f"as_of={day!r}: no table of {self.name} is dated. Leave as_of out.")
        try:
            chosen = date.fromisoformat(day)
        except ValueError:
            raise KpiError(f"as_of={day!r} is no date. Write YYYY-MM-DD, such as {last}.") from None
        require(chosen <= last, f"as_of={day} lies after the last complete day of the data. Give {last} or earlier.")
        require(chosen >= first, f"as_of={day} lies before the first day of the data. Give {first} or later.")
        return chosen

    @cache  # noqa: B019  # a source lives as long as its notebook
    def _kept(self, name: str) -> ir.Table:
        """The typed columns; files of moderate size are parsed once for all queries."""
        typed = self._prepared(name).rows.select(self.columns(name))
        if self._given(name)[0].get("lines"):
            typed = preparing.collapsed(typed, TABLES[name])
        small = self._folder and self._check(name)[0]["n"] <= KEPT_ROWS
        return self._backend.create_table(name, typed, temp=True) if small else typed

    @cache  # noqa: B019
    def _span(self) -> tuple[date | None, date | None]:
        """First day, and last complete day."""
        if "channel_daily" not in self.tables:
            dated = {n: found for n in self.tables if n not in PLANS and (found := self._check(n)[0]).get("last")}
            ends = [pd.Period(found["last"], PERIODS[self.period(n)]).end_time.date() for n, found in dated.items()]
            return min((found["first"] for found in dated.values()), default=None), max(ends, default=None)
        length = {"day": 7, "week": 14, "month": 62}[self.period()]
        spans = self.table("channel_daily").group_by("channel").aggregate(first=_.date.min(), last=_.date.max())
        rows = spans.to_pyarrow().to_pylist()
        latest = max(row["last"] for row in rows)
        begin = min(row["last"] for row in rows if (latest - row["last"]).days <= length)
        return min(row["first"] for row in rows), pd.Period(begin, PERIODS[self.period()]).end_time.date()

    @cache  # noqa: B019
    def _check(self, name: str) -> tuple[dict[str, Any], tuple[Problem, ...], tuple[Text, ...]]:
        """What the scan of one table found, with problems and notes."""
        contract, period, lines = TABLES[name], self.period(name), bool(self._given(name)[0].get("lines"))
        try:
            prepared = self._prepared(name)
            rows, asked = prepared.rows, preparing.questions(prepared)
            broken, notes, found = broken_rules(rows, contract, prepared.told, period, asked, lines=lines)
            signed = [(c, "credit") for c in prepared.says("signed")]
            broken = [preparing.cured(p, contract, prepared) for p in broken if (p.column, p.rule) not in signed]
            missed, told = preparing.answered(prepared, name, found)
            notes = [*prepared.notes, *told, *notes]
            if name == "channel_daily" and {"date", "channel"} <= set(rows.columns):
                notes += self._gaps(rows.filter(_.date.notnull(), _.channel.notnull()))
            return found, (*prepared.problems, *missed, *broken), tuple(notes)
        except duckdb.Error as error:
            if not self._folder:
                raise
            files = ", ".join(str(self._folder / file) for _spec, place in self._specs(name) for file in place)
            raise ContractError(f"{files} cannot be read: {_first_line(error)} Export again.") from None

    def _gaps(self, prepared: ir.Table) -> list[Text]:
        """Notes of missing periods, and of channels whose name looks like a word for nothing."""
        span = prepared.group_by("channel").aggregate(first=_.date.min(), last=_.date.max(), n=_.date.nunique())
        notes, period = [], self.period()
        for row in span.order_by("channel").to_pyarrow().to_pylist():
            total = len(pd.period_range(row["first"], row["last"], freq=PERIODS[period]))
            if total > row["n"]:
                told = row | {"n": total - row["n"], "total": total, "period": both_say(f"period.{period}")}
                notes.append(both_say("check.gap", **told))
            if re.search(texts.MARKERS, row["channel"]):
                notes.append(both_say("check.marker", value=row["channel"]))
        return notes

    @cache  # noqa: B019
    def _prepared(self, name: str) -> Prepared:
        parts = [self._part(name, spec, place) for spec, place in self._specs(name)]
        return preparing.prepare(TABLES[name], parts)

    def _part(self, name: str, spec: dict[str, Any], place: tuple[str, ...]) -> Part:
        header = tuple(map(str, spec.get("header", ())))
        raw, *sheets = self._open(place, str(spec.get("encoding", "utf-8")).lower(), header, bool(spec.get("spaces")))
        blocks = [spec.get("columns") or {}, *(spec.get("channels") or {}).values()]
        if any(isinstance(entry, dict) and "row" in entry for block in blocks for entry in block.values()):
            told = f"mapping: {name}: row: true numbers the lines of a file; a table has no order. Map its key."
            require(self._folder is not None, told)
            raw = raw.mutate(**{ROW: ibis.row_number() + 1})
        joins: list[Join] = []
        for given in spec.get("join", ()):
            there, *others = self._places(name, given)
            require(not others, f"mapping: {name}: join takes one file, and {given.get('file')} names several.")
            other, *more = self._open(there, str(given.get("encoding", "utf-8")).lower(), (), False)
            on = [given["on"]] if isinstance(given["on"], str) else given["on"]
            on, forms = on if isinstance(on, dict) else {c: c for c in on}, texts.date_forms(spec | given)
            raw, join = preparing.joined(raw, other, there[0], on, given.get("first"), self._stem(there), forms)
            joins, sheets = [*joins, join], [*sheets, *more]
        spec = spec | {"of_files": self._backend.name == "duckdb"}
        return Part(self._stem(place), raw, spec, tuple(sheets), tuple(joins))

    @cache  # noqa: B019
    def _open(self, place: tuple[str, ...], encoding: str, header: tuple[str, ...], spaces: bool) -> Any:
        """Rows of a file or table, and the cells of a CSV file with what was seen on the way to them."""
        if self._folder is None:
            schema, _dot, bare = place[0].rpartition(".")
            return (self._backend.table(bare, database=schema or None),)
        if place[0].endswith(".parquet"):
            return (self._backend.read_parquet([self._folder / file for file in place], union_by_name=True),)
        sheet = texts.read_csv(self._folder / place[0], encoding, ENCODINGS[encoding], header, spaces)
        return self._backend.create_table(f"{place[0]} {encoding} {header} {spaces}", sheet.cells, temp=True), sheet

    def _told(self) -> list[tuple[str, dict[str, Any]]]:
        """Each table with what the mapping says of each of its parts."""
        return [(name, spec) for name in self.tables for spec in self._given(name)]

    def _given(self, name: str) -> list[dict[str, Any]]:
        """What the mapping says of each part of a table."""
        told = self._mapping.get(name, {})
        return told if isinstance(told, list) else [told]

    @cache  # noqa: B019
    def _specs(self, name: str) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
        """Each part of a table, and the files or the table behind it; none if there is none."""
        return [(spec, place) for spec in self._given(name) for place in self._places(name, spec)]

    def _places(self, name: str, spec: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Files (Parquet files of one pattern are read as one) or the table that a part names."""
        if self._folder is None:
            wanted = str(spec.get("table", name))
            schema, _dot, bare = wanted.rpartition(".")
            there = [wanted] if bare in self._listed(schema) else []
        else:
            wanted = str(spec.get("file", ""))
            sought = [wanted] if wanted else [name + ending for ending in FILES]
            there = [file for file in sought if (self._folder / file).is_file()]
            if "*" in wanted:
                there = sorted(p.relative_to(self._folder).as_posix() for p in self._folder.glob(wanted))
        twice = f"{self.name} holds {' and '.join(there)}. Keep one, or name it in the mapping: file."
        require(len(there) <= 1 or "*" in wanted, twice)
        if name in self._mapping and not there:
            raise KpiError(
                f'{self.name} has no "{wanted or name}" for {name}; it holds {self._listing()}. '
                "Correct file or table in the mapping."
            )
        pressed = tuple(file for file in there if file.endswith(".parquet"))
        return [*([pressed] if pressed else []), *((file,) for file in there if file not in pressed)]

    def _stem(self, place: tuple[str, ...]) -> str:
        """Name of a file without its endings, or of a table without its schema."""
        return Path(place[0]).name.split(".")[0] if self._folder else place[0].rpartition(".")[2]

    @cache  # noqa: B019
    def _listed(self, schema: str) -> list[str]:
        return list(self._backend.list_tables(database=schema or None))

    def _listing(self) -> str:
        held = sorted(p.name for p in self._folder.iterdir()) if self._folder else self._backend.list_tables()
        return ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"


def connect(source: str | Path, mapping: str | Path | Mapping[str, Any] | None = None) -> Source:
    """Connect to a folder of CSV or Parquet, a DuckDB file, a URL that `ibis.connect` takes, or ``env:NAME`` for one.

    ``data/demo`` is the simulated company, written on first use. `mapping`, a YAML file or dict, says which of your
    columns is which (``data/README.md``). A `KpiError` says what does not exist, does not answer or is not understood.
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
        rules = {name: {"currency": simulate.CURRENCY} for name in TABLES if any(path.glob(f"{name}.*"))} | rules
    if path.is_dir():
        return Source(name, _duckdb(), path, rules)
    if path.suffix in DATABASES and path.exists():
        return Source(name, _answer(lambda: _duckdb(path, read_only=True), name), None, rules)
    what = "is a file" if path.exists() else "does not exist"
    raise KpiError(
        f"source={name!r} {what}. Give a folder (and name its file in the mapping), a .duckdb file, "
        "a database URL, or data/demo for the simulated company."
    )


def _duckdb(*place: Path, **options: Any) -> Any:
    """DuckDB without its progress bar, which would stand in notebooks as the machine was slow or fast."""
    backend = ibis.duckdb.connect(*place, **options)
    with contextlib.suppress(duckdb.InvalidInputException):  # a notebook without widgets has no bar to turn off
        backend.settings["enable_progress_bar"] = False
    return backend


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _answer(opening: Callable[[], Any], name: str) -> Any:
    try:
        return opening()
    except Exception as error:  # each driver has an exception of its own
        told = SECRET_URL.sub("://…@", _first_line(error))
        raise ContractError(f"{name} does not answer: {told} Check address, user and driver.") from None
