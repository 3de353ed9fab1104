"""Alert rules: read from YAML and evaluated on the results of a run, so that the same results give the same alerts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kpi_helpers.catalogue import ALIASES, declared, kpi
from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.mappings import locate
from kpi_helpers.monitors import threshold
from kpi_helpers.result import LANGUAGES, day, measure, plain, say

ANY = "*"  # every KPI that the notebook watches
RECENT_DAYS = 7  # a monitor's alarm is told so long; deliveries are not repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When to tell whom: a limit broken on `sustain` of the last `of` days, or alarms that a `monitor` found.

    `kpi`: an id of the catalogue, or "*" for all that a monitor watches; `above`, `below` in the unit of the KPI (0.25
    is 25%); `where`: column -> value of the rows that count; `owner`: who looks after it; `mute_until`: last day on
    which it is shown but not sent.
    """

    kpi: str
    above: float | None = None
    below: float | None = None
    sustain: int = 2
    of: int = 3
    monitor: bool = False
    name: str = ""
    owner: str = ""
    mute_until: date | None = None
    where: Mapping[str, str] = field(default_factory=dict)


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read rules from a YAML file, a list of mappings; a `KpiError` tells the first that is wrong, and how.

    `Rule` tells what a mapping may hold.
    """
    place = locate(path)
    require(place.is_file(), f"There is no file of alert rules {path}.")
    try:
        told = yaml.safe_load(place.read_text(encoding="utf-8")) or []
    except yaml.YAMLError as error:
        raise KpiError(f"{place.name} is no YAML: {error}") from error
    require(isinstance(told, list), f"{place.name} must be a list of rules, each beginning with '- kpi: ...'.")
    return tuple(_rule(given, f"{place.name}, rule {i}") for i, given in enumerate(told, 1))


def _rule(given: Any, at: str) -> Rule:
    require(isinstance(given, dict) and "kpi" in given, f"{at}: must be a mapping with a kpi.")
    for key in given:
        require_known(key, [f.name for f in fields(Rule)], f"{at}: {key!r} is no part of a rule.")
    known = [*declared(), *ALIASES, ANY]
    require_known(
        given["kpi"], known if given.get("monitor") else known[:-1], f"{at}: there is no KPI {given['kpi']!r}."
    )
    for key, kind, what in (
        ("above", int | float, "a number"), ("below", int | float, "a number"), ("sustain", int, "a whole number"),
        ("of", int, "a whole number"), ("monitor", bool, "true or false"), ("mute_until", date, "a date, YYYY-MM-DD"),
        ("where", dict, "a mapping of column to value"), ("name", str, "a text"), ("owner", str, "a text"),
    ):  # fmt: skip
        right = isinstance(given.get(key), kind) and (kind is bool or not isinstance(given[key], bool))
        require(key not in given or right, f"{at}: {key} is {given.get(key)!r}, not {what}.")
    rule = Rule(**given)
    limits = rule.above is not None or rule.below is not None
    require(limits != rule.monitor, f"{at}: give above, below or both; or else monitor: true.")
    try:
        threshold([], above=0 if rule.monitor else rule.above, below=rule.below, sustain=rule.sustain, of=rule.of)
    except KpiError as error:
        raise KpiError(f"{at}: {error}") from error
    return rule


def evaluate(rules: Iterable[Rule], results: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    """Alerts that are active on the day `as_of`, of the results of one run as ``results.json`` holds them.

    Rows with a ``kpi`` and a ``value`` are looked at, by ``date`` where they have one. A broken limit is told with the
    first day on which it counted as broken, as long as it is; what a monitor found, for a week. Returns dicts: ``rule,
    kpi, date, kind, value, sentence, owner, muted``.
    """
    rows = [{**row, "from": r} for r in results for row in r["rows"] if {"kpi", "value"} <= row.keys()]
    found: list[dict[str, Any]] = []
    for rule in rules:
        mine = [
            row for row in rows
            if rule.kpi in (row["kpi"], ANY) and all(str(row.get(k)) == str(v) for k, v in rule.where.items())
        ]  # fmt: skip
        told = _monitored(mine, as_of) if rule.monitor else _broken(rule, mine, as_of)
        muted = rule.mute_until is not None and as_of <= rule.mute_until.isoformat()
        about = {"rule": rule.name or rule.kpi, "owner": rule.owner, "muted": muted}
        found += [{**about, **alert} for alert in told]
    unique = {(a["kpi"], a["date"], a["kind"], a["rule"]): a for a in found}
    return sorted(unique.values(), key=lambda a: (a["date"], a["kpi"], a["kind"], a["rule"]), reverse=True)


def _monitored(rows: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    since = (date.fromisoformat(as_of) - timedelta(RECENT_DAYS - 1)).isoformat() if as_of[:1].isdigit() else ""
    alerts = []
    for row in rows:
        if row.get("kind") and row.get("date", "") >= since:
            why = {(w["kpi"], w["date"]): w for w in row["from"].get("why", ())}[row["kpi"], row["date"]]
            sentence = {language: plain(why[language]) for language in LANGUAGES}
            alerts.append({"kpi": row["kpi"], "date": row["date"], "kind": row["kind"], "value": row["value"],
                           "sentence": sentence})  # fmt: skip
    return alerts


def _broken(rule: Rule, rows: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    """The limit of a rule, if it is broken on the last day; of a single value, if that breaks it."""
    by_day = {row["date"]: row["value"] for row in rows if row.get("date")}
    single = [row["value"] for row in rows if not row.get("date")]
    days = sorted(by_day) or [as_of]
    values = np.array([by_day[d] for d in days] if by_day else single[-1:], dtype=float)
    often = (rule.sustain, rule.of) if by_day else (1, 1)
    at = threshold(values, above=rule.above, below=rule.below, sustain=often[0], of=often[1])
    if len(values) == 0 or len(at) == 0 or at[-1] != len(values) - 1:
        return []
    first = len(values) - 1 - int((np.diff(at)[::-1] != 1).argmax() if (np.diff(at) != 1).any() else len(at) - 1)
    last = float(values[np.isfinite(values)][-1])
    kind = "above" if rule.above is not None and (rule.below is None or last > rule.above) else "below"
    k, limit = kpi(rule.kpi), rule.above if kind == "above" else rule.below
    sentence = {}
    for language in LANGUAGES:
        told = {"name": k.name[language], "sustain": often[0], "of": often[1]}
        told |= {at: measure(v, k.unit, language, "") for at, v in (("value", last), ("limit", limit))}
        told["since"] = day(date.fromisoformat(days[first]), language) if by_day else days[first]
        sentence[language] = plain(say(f"alert.{kind if by_day else kind + '_once'}", language, **told))
    return [{"kpi": rule.kpi, "date": days[first], "kind": kind, "value": last, "sentence": sentence}]
