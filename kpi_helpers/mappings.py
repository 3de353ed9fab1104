"""Mapping files: which file or table, which column is which, how dates and numbers are written."""

import difflib
import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import KpiError

PERIODS = ("day", "week", "month")
COLUMN_OPTIONS = {"column", "factor", "date_format", "decimal", "thousands", "null_values"}
OPTIONS = {
    "file", "table", "period", "currency", "date_format", "decimal", "thousands", "null_values", "columns", "channels",
    "encoding",
}  # fmt: skip
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
    if not isinstance(mapping, str | Path):
        rules: Any = mapping
    else:
        import yaml

        path = locate(mapping)
        if not path.is_file():
            raise KpiError(f"mapping={str(mapping)!r} does not exist. Give the path of a YAML file.")
        try:
            rules = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise KpiError(
                f"{mapping} is not YAML in UTF-8: {' '.join(str(error).split())}. Mind the spaces."
            ) from None
    if not isinstance(rules, Mapping):
        raise KpiError(f"mapping {mapping} holds no table. Begin with a line such as channel_daily:")
    for name, spec in rules.items():
        _known(name, TABLES, "table")
        _check_table(name, spec)
    return dict(rules)


def period_end(begin: date, period: str) -> date:
    """Last day of the period that begins on `begin`.

    >>> period_end(date(2026, 2, 1), "month"), period_end(date(2019, 11, 11), "week")
    (datetime.date(2026, 2, 28), datetime.date(2019, 11, 17))
    """
    if period == "month":
        return (begin.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return begin + timedelta(days=6 if period == "week" else 0)


def n_periods(first: date, last: date, period: str) -> int:
    """Number of periods from `first` to `last`, both included.

    >>> n_periods(date(2025, 12, 1), date(2026, 2, 1), "month"), n_periods(date(2026, 1, 1), date(2026, 1, 1), "day")
    (3, 1)
    """
    if period == "month":
        return (last.year - first.year) * 12 + last.month - first.month + 1
    return (last - first).days // (7 if period == "week" else 1) + 1


def _check_table(name: str, spec: Any) -> None:
    if not isinstance(spec, dict):
        raise KpiError(f"mapping: {name} holds {spec!r}, but needs options such as file and columns.")
    for option in spec:
        _known(option, OPTIONS, f"option of {name}")
    if (period := spec.get("period", "day")) not in PERIODS:
        raise KpiError(f"mapping: period {period!r} is not one of {', '.join(PERIODS)}.")
    if (encoding := str(spec.get("encoding", "utf-8")).lower()) not in ENCODINGS:
        raise KpiError(f"mapping: encoding {encoding!r} is not one of {', '.join(ENCODINGS)}.")
    columns, channels = spec.get("columns") or {}, spec.get("channels") or {}
    inner = channels if isinstance(channels, dict) else {}
    for where, given in {"columns": columns, "channels": channels, **inner}.items():
        if not isinstance(given, dict):
            raise KpiError(f"mapping: {where} holds {given!r}, but needs pairs such as {{spend: cost}}.")
    _check_marks(spec, name)
    for column, entry in (pair for block in (columns, *channels.values()) for pair in block.items()):
        _known(column, [c.name for c in TABLES[name].columns], f"column of {name}")
        if isinstance(entry, dict):
            _check_column(column, entry)
            _check_marks(spec | entry, column)


def _check_column(column: str, entry: dict[str, Any]) -> None:
    for option in entry:
        _known(option, COLUMN_OPTIONS, f"option of {column}")
    if "column" not in entry or not isinstance(entry.get("factor", 1), int | float):
        raise KpiError(f"mapping: {column} holds {entry!r}; it needs column: your_name, and a number as factor.")


def _check_marks(options: Mapping[str, Any], where: str) -> None:
    for option in ("decimal", "thousands"):
        if not isinstance(options.get(option, ""), str):
            raise KpiError(
                f"mapping: {where}: {option} holds {options[option]!r}. Put the mark in quotes, such as ','."
            )
    formats = options.get("date_format", [])
    for form in [formats] if isinstance(formats, str) else formats if isinstance(formats, list) else [None]:
        if not isinstance(form, str) or "%" in re.sub(r"%-?[YymdHMSfbBaAjpI%]", "", form) or "%" not in form:
            raise KpiError(f'mapping: {where}: date_format holds {form!r}. Write it such as "%d/%m/%Y".')
    if options.get("thousands") and options["thousands"] == options.get("decimal", "."):
        mark = options["thousands"]
        raise KpiError(f"mapping: {where}: decimal and thousands are both {mark!r}. Name both, such as ',' and '.'.")


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), list(known), 1)
        hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(sorted(known))}."
        raise KpiError(f"mapping: {name!r} is no {what}. {hint}")
