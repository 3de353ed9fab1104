"""Mapping files: which file or table, which column is which, how dates and numbers are written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import KpiError, require, require_known

#: what a row may cover, and what pandas calls it; weeks begin on Monday
PERIODS = {"day": "D", "week": "W-SUN", "month": "M"}
READING = ("date_format", "decimal", "thousands", "null_values")
COLUMN_OPTIONS = ("column", "factor", "signed", *READING)
OPTIONS = ("channels", "columns", "currency", "encoding", "file", "period", "table", *READING)
#: names of encodings, and what Python calls them; UTF-8 may begin with a byte order mark
ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "windows-1258": "cp1258"}
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


def read_mapping(mapping: str | Path | Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Read a mapping from a YAML file (or take it as a dict) and check every name in it.

    Raises
    ------
    KpiError
        If the file does not read, or a table, option or column is not known; with the nearest known name.

    Examples
    --------
    >>> read_mapping({"channel_daily": {"columns": {"spend": "cost"}}})
    {'channel_daily': {'columns': {'spend': 'cost'}}}
    """
    if mapping is None:
        return {}
    rules = _yaml(mapping) if isinstance(mapping, str | Path) else mapping
    told = f"mapping {mapping} holds no table. Begin with a line such as channel_daily:"
    require(isinstance(rules, Mapping), told)
    for name, spec in rules.items():
        require_known(name, TABLES, f"mapping: {name!r} is no table.")
        _check_table(name, spec)
    return dict(rules)


def _yaml(mapping: str | Path) -> Any:
    import yaml

    path = locate(mapping)
    require(path.is_file(), f"mapping={str(mapping)!r} does not exist. Give the path of a YAML file.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KpiError(f"{mapping} is not YAML in UTF-8: {' '.join(str(error).split())}. Mind the spaces.") from None


def _check_table(name: str, spec: Any) -> None:
    require(isinstance(spec, dict), f"mapping: {name} holds {spec!r}, but needs options such as file and columns.")
    for option in spec:
        require_known(option, OPTIONS, f"mapping: {option!r} is no option of {name}.")
    for option, known in {"period": PERIODS, "encoding": ENCODINGS}.items():
        given = str(spec.get(option, next(iter(known)))).lower()
        require(given in known, f"mapping: {option} {given!r} is not one of {', '.join(known)}.")
    columns, channels = spec.get("columns") or {}, spec.get("channels") or {}
    inner = channels if isinstance(channels, dict) else {}
    for where, block in {"columns": columns, "channels": channels, **inner}.items():
        told = f"mapping: {where} holds {block!r}, but needs pairs such as {{spend: cost}}."
        require(isinstance(block, dict), told)
    _check_marks(spec, name)
    for column, entry in (pair for block in (columns, *channels.values()) for pair in block.items()):
        ours = [c.name for c in TABLES[name].columns]
        require_known(column, ours, f"mapping: {column!r} is no column of {name}.")
        if isinstance(entry, dict):
            _check_column(column, entry)
            _check_marks(spec | entry, column)


def _check_column(column: str, entry: dict[str, Any]) -> None:
    for option in entry:
        require_known(option, COLUMN_OPTIONS, f"mapping: {option!r} is no option of {column}.")
    whole = "column" in entry and isinstance(entry.get("factor", 1), int | float)
    require(whole, f"mapping: {column} holds {entry!r}; it needs column: your_name, and a number as factor.")


def _check_marks(options: Mapping[str, Any], where: str) -> None:
    for option in ("decimal", "thousands"):
        mark = options.get(option, "")
        told = f"mapping: {where}: {option} holds {mark!r}. Put the mark in quotes, such as ','."
        require(isinstance(mark, str), told)
    forms = options.get("date_format", [])
    for form in forms if isinstance(forms, list) else [forms]:
        good = isinstance(form, str) and "%" in form and "%" not in re.sub(r"%-?[YymdHMSfbBaAjpI%]", "", form)
        require(good, f'mapping: {where}: date_format holds {form!r}. Write it such as "%d/%m/%Y".')
    if mark := options.get("thousands"):
        told = f"mapping: {where}: decimal and thousands are both {mark!r}. Name both, such as ',' and '.'."
        require(mark != options.get("decimal", "."), told)
