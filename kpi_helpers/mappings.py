"""Mapping files: which file or table, which column is which, how dates and numbers are written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kpi_helpers.contracts import TABLES, Column
from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.result import asset

#: what a row may cover, and what pandas calls it; weeks begin on Monday
PERIODS = {"day": "D", "week": "W-SUN", "month": "M"}
#: names of encodings, and what Python calls them; UTF-8 may begin with a byte order mark
ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "windows-1258": "cp1258"}
SCHEMAS = yaml.safe_load(asset("mapping.yaml"))
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
            _check(name, spec)
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


def _check(name: str, spec: Any) -> None:
    """Refuse what does not fit the schemas, and what does not go together."""
    contract, known = TABLES[name], {c.name: c for c in TABLES[name].columns}
    _fit(name, spec, SCHEMAS["table"])
    told = f"mapping: {name}: period is for sums of a day; a row of {name} is {contract.about.en}."
    require("period" not in spec or contract.rows == "day", told)
    told = f"mapping: {name}: lines: true adds up the rows of a key; a row of {name} has none."
    require(not spec.get("lines") or bool(contract.key), told)
    _check_marks(name, spec)
    for block in (spec.get("columns") or {}, *spec.get("channels", {}).values()):
        for column, entry in block.items():
            require_known(column, known, f"mapping: {column!r} is no column of {name}.")
            if isinstance(entry, dict):
                _fit(column, entry, _schema(known[column]))
                _check_marks(column, spec | entry)


def _check_marks(where: str, options: dict[str, Any]) -> None:
    point, group = options.get("decimal", "."), options.get("thousands", "")
    told = f"mapping: {where}: decimal and thousands are both {point!r}. Name both, such as ',' and '.'."
    require(point != group, told)


def _schema(c: Column) -> dict[str, Any]:
    """Schema of what a mapping may say of a column."""
    own = SCHEMAS["kinds"][c.kind]
    if c.one_of:
        word = {"description": f"one among {', '.join(c.one_of)}", "enum": c.one_of}
        own = own | {"constant": word, "values": own["values"] | {"additionalProperties": word}}
    return {**SCHEMAS["column"], "properties": SCHEMAS["column"]["properties"] | own}


def _fit(where: str, given: Any, schema: dict[str, Any]) -> None:
    """Refuse the first option that is not known, or that does not fit: where, what it holds, what it needs."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(given):
        place = [where, *(step for step in error.absolute_path if isinstance(step, str))]
        for option in error.instance if error.validator == "additionalProperties" else ():
            require_known(
                option, sorted(error.schema["properties"]), f"mapping: {option!r} is no option of {place[-1]}."
            )
        needs = error.schema["description"]
        raise KpiError(f"mapping: {': '.join(place)} holds {error.instance!r}, but needs {needs}.")
