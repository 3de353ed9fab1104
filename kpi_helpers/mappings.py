"""Mapping files: which file or table, which column is which, how dates and numbers are written."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from kpi_helpers.contracts import TABLES, Column
from kpi_helpers.errors import KpiError, require, require_known

#: what a row may cover, and what pandas calls it; weeks begin on Monday
PERIODS = {"day": "D", "week": "W-SUN", "month": "M"}
#: names of encodings, and what Python calls them; UTF-8 may begin with a byte order mark
ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "windows-1258": "cp1258"}
READING = ("date_format", "decimal", "null_values", "thousands")
#: what may stand in a table, in one of its columns, in a join
OPTIONS = {
    "table": ("channels", "columns", "currency", "encoding", "file", "join", "lines", "period", "table", *READING),
    "column": ("column", "constant", "factor", "row", "signed", "values", *READING),
    "join": ("date_format", "encoding", "file", "first", "on", "table"),
}
#: option -> its type, or the words it takes, and what it needs
SHAPES: dict[str, tuple[Any, str]] = {
    "channels": (dict, "pairs such as {TV: {spend: tv_cost}}"),
    "decimal": (str, "a mark in quotes, such as ','"),
    "encoding": (ENCODINGS, f"one of {', '.join(ENCODINGS)}"),
    "factor": (int | float, "a number"),
    "join": (list, "a list such as [{file: deals.csv, on: lead_id}]"),
    "period": (PERIODS, f"one of {', '.join(PERIODS)}"),
    "thousands": (str, "a mark in quotes, such as '.'"),
}
#: a URL that carries a password or the like
SECRET_URL = re.compile(r"://[^@]*:[^@]*@|[?&](password|passwd|pwd|secret|token|api_?key)=[^&\s]*", re.IGNORECASE)


def project_root() -> Path:
    """Folder that relative paths fall back to: the checkout of kpi_helpers, else the working directory."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def locate(path: str | Path) -> Path:
    """Find a relative path from here, or else from the project's root (notebooks run in their own folder)."""
    here = Path(path).expanduser()
    return here if here.is_absolute() or here.exists() else project_root() / here


def read_mapping(mapping: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Read a mapping from a YAML file (or take it as a dict); a `KpiError` tells the first name that is not known.

    >>> read_mapping({"channel_daily": {"columns": {"spend": "cost"}}})
    {'channel_daily': {'columns': {'spend': 'cost'}}}
    """
    if mapping is None:
        return {}
    rules = _yaml(mapping) if isinstance(mapping, str | Path) else mapping
    told = f"mapping {mapping} holds no table. Begin with a line such as channel_daily:"
    require(isinstance(rules, Mapping), told)
    for name, told in rules.items():
        require_known(name, TABLES, f"mapping: {name!r} is no table.")
        specs = told if isinstance(told, list) and told else [told]
        for spec in specs:
            _check_table(name, spec)
        told = f"mapping: {name}: lines and period must be the same for each part of the list."
        require(len({(bool(s.get("lines")), s.get("period", "day")) for s in specs}) == 1, told)
    return dict(rules)


class _Plain(yaml.SafeLoader):
    """YAML where "on", "yes" and "no" are words; only true and false are truths."""


_Plain.yaml_implicit_resolvers = {
    letter: [pair for pair in pairs if letter in "tTfF" or not pair[0].endswith(":bool")]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(mapping: str | Path) -> Any:
    path = locate(mapping)
    require(path.is_file(), f"mapping={str(mapping)!r} does not exist. Give the path of a YAML file.")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KpiError(f"{mapping} is not YAML in UTF-8: {' '.join(str(error).split())}. Mind the spaces.") from None


def _check(where: str, given: Any, place: str, around: Mapping[str, Any]) -> None:
    """Options of a table, column or join: each known there and of its shape; its marks beside those `around`."""
    require(isinstance(given, dict), f"mapping: {where} holds {given!r}, but needs options such as file and columns.")
    for option, value in given.items():
        require_known(option, OPTIONS[place], f"mapping: {option!r} is no option of {where}.")
        kind, needs = SHAPES.get(option, (object, ""))
        fits = str(value).lower() in kind if isinstance(kind, dict) else isinstance(value, kind)
        require(fits, f"mapping: {where}: {option} holds {value!r}, but needs {needs}.")
    forms = given.get("date_format", [])
    for form in forms if isinstance(forms, list) else [forms]:
        good = isinstance(form, str) and "%" in form and "%" not in re.sub(r"%-?[YymdHMSfbBaAjpI%]", "", form)
        require(good, f'mapping: {where}: date_format holds {form!r}, but needs a spelling such as "%d/%m/%Y".')
    marks = {"decimal": ".", "thousands": "", **around, **given}
    told = f"mapping: {where}: decimal and thousands are both {marks['decimal']!r}. Name both, such as ',' and '.'."
    require(marks["decimal"] != marks["thousands"], told)


def _check_table(name: str, spec: Any) -> None:
    _check(name, spec, "table", {})
    for join in spec.get("join", ()):
        _check("join", join, "join", {})
        told = f"mapping: join holds {join!r}, but needs a list such as [{{file: deals.csv, on: lead_id}}]."
        require(bool(join.get("on")) and ("file" in join or "table" in join), told)
    contract, told = TABLES[name], f"mapping: {name}: period is for sums of a day; a row of {name} is"
    require("period" not in spec or contract.rows == "day", f"{told} {contract.about.en}.")
    told = f"mapping: {name}: lines: true adds up the rows of a key; a row of {name} has none."
    require(not spec.get("lines") or bool(contract.key), told)
    known = {c.name: c for c in contract.columns}
    for where, block in [("columns", spec.get("columns") or {}), *spec.get("channels", {}).items()]:
        told = f"mapping: {where} holds {block!r}, but needs pairs such as {{spend: cost}}."
        require(isinstance(block, dict), told)
        for column, entry in block.items():
            require_known(column, known, f"mapping: {column!r} is no column of {name}.")
            if isinstance(entry, dict):
                _check(column, entry, "column", spec)
                _check_entry(known[column], entry)


def _check_entry(c: Column, entry: dict[str, Any]) -> None:
    told, words = f"mapping: {c.name} holds {entry!r};", entry.get("values") or {}
    one = len({"column", "constant", "row"} & set(entry)) == 1 and entry.get("row", True) is True
    require(one, f"{told} it needs column: your_name, constant: a value or row: true.")
    several = "row" in entry or isinstance(entry.get("column"), list)
    require(c.kind == "text" or not several, f"{told} only text is made of row numbers or of several columns.")
    fits = "constant" not in entry or _fits(c, entry["constant"])
    require(fits, f"{told} the constant is no {' or '.join(c.one_of) or c.kind}.")
    good = isinstance(words, dict) and c.kind not in ("date", "time") and all(_fits(c, ours) for ours in words.values())
    known = f" among {', '.join(c.one_of)}" if c.one_of else " (0 or 1)" if c.kind == "flag" else ""
    require(not words or good, f"{told} values needs pairs {{your word: ours}}, for {c.kind}{known}.")


def _fits(c: Column, value: Any) -> bool:
    """Whether a value of the mapping is of the kind of a column."""
    if c.kind in ("date", "time"):
        try:
            return datetime.fromisoformat(str(value)).tzinfo is None
        except ValueError:
            return False
    if c.kind == "flag":
        return value in (0, 1)
    if c.kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str | int | float) and (not c.one_of or value in c.one_of)
