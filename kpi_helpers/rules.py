"""Alert rules: read from YAML and evaluated on the results of a run, so that the same results give the same alerts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kpi_helpers.catalogue import ALIASES, Kpi, declared, kpi
from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.mappings import locate
from kpi_helpers.monitors import threshold
from kpi_helpers.result import LANGUAGES, Text, both_say, day, measure, plain
from kpi_helpers.stats import Floats

ANY = "*"  # every KPI that the notebook watches
MOST_DAYS = 366  # that a limit may look back
RECENT_DAYS = 7  # a monitor's alarm is told so long; deliveries are not repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When to tell whom: a limit broken on `sustain` of the last `of` days, or alarms that a `monitor` found.

    `kpi`: an id of the catalogue, or "*" for all that a monitor watches and that have no monitor of their own; `above`,
    `below` in the unit of the KPI (0.25 is 25%); `where`: column -> value of the rows that count, or ``result`` -> name
    of the result they stand in; `owner`: who looks after it; `mute_until`: last day on which it is shown but not sent.
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

    @property
    def label(self) -> str:
        """What tells it from other rules: its name, or else what it says."""
        limits = [f"{at} {v:g}" for at, v in (("above", self.above), ("below", self.below)) if v is not None]
        return self.name or ", ".join([self.kpi, *limits, *(f"{k}={v}" for k, v in self.where.items())])


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read rules from a YAML file, a list of mappings; a `KpiError` tells the first that is wrong, and how.

    `Rule` tells what a mapping may hold.
    """
    place = locate(path)
    require(place.is_file(), f"There is no file of alert rules {path}.")
    try:
        told = yaml.safe_load(place.read_text(encoding="utf-8")) or []
    except (yaml.YAMLError, ValueError) as error:  # such as a date that does not exist
        raise KpiError(f"{place.name} is no YAML in UTF-8: {error}") from error
    require(isinstance(told, list), f"{place.name} must be a list of rules, each beginning with '- kpi: ...'.")
    rules = tuple(_rule(given, f"{place.name}, rule {i}") for i, given in enumerate(told, 1))
    twice = [label for label, n in Counter(rule.label for rule in rules).items() if n > 1]
    require(not twice, f"{place.name}: {len(twice)} rules stand there twice: {'; '.join(twice)}. Give each a name.")
    return rules


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
    rule = replace(Rule(**given), kpi=ALIASES.get(given["kpi"], given["kpi"]))
    limits = rule.above is not None or rule.below is not None
    for limit in (rule.above, rule.below):
        require(
            limit is None or abs(limit) < 1e300, f"{at}: {str(limit)[:20]} is no limit. Write a number such as 0.25."
        )
    require(rule.of <= MOST_DAYS, f"{at}: of is {rule.of}, more than {MOST_DAYS} days.")
    plainly = all(isinstance(v, str | int | float) for v in rule.where.values())
    require(plainly, f"{at}: where is {rule.where!r}; each column needs one value, such as channel: Email.")
    require(limits != rule.monitor, f"{at}: give above, below or both; or else monitor: true.")
    try:
        threshold([], above=0 if rule.monitor else rule.above, below=rule.below, sustain=rule.sustain, of=rule.of)
    except KpiError as error:
        raise KpiError(f"{at}: {error}") from error
    return rule


def evaluate(rules: Iterable[Rule], results: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    """Alerts that are active on the day `as_of`, of the results of one run as ``results.json`` holds them.

    Rows with a ``kpi`` and a ``value`` are looked at, by ``date`` where they have one. A broken limit is told with the
    first day on which it counted as broken, as long as it is (`open`: it was so when the days shown begin); what a
    monitor found, for a week. A limit is never held to several values at once: that is told as `kind` "unclear", muted.
    Returns dicts: ``rule, name, kpi, date, open, kind, value, low, high, sentence, owner, muted``.
    """
    rules, found = tuple(rules), list[dict[str, Any]]()
    rows = [{**row, "from": r, "result": r["name"]} for r in results for row in r["rows"] if {"kpi", "value"} <= {*row}]
    own = {rule.kpi for rule in rules if rule.monitor}
    for rule in rules:
        mine = [
            row for row in rows
            if (rule.kpi == row["kpi"] or (rule.kpi == ANY and row["kpi"] not in own))
            and all(str(row.get(k)) == str(v) for k, v in rule.where.items())
        ]  # fmt: skip
        told = _monitored(mine, as_of) if rule.monitor else _broken(rule, mine, as_of)
        muted = rule.mute_until is not None and as_of <= rule.mute_until.isoformat()
        about = {"rule": rule.label, "name": rule.name, "owner": rule.owner, "muted": muted, "open": False}
        found += [{**about, **alert} for alert in told]
    unique = {(a["kpi"], a["date"], a["kind"], a["rule"]): a for a in found}
    return sorted(unique.values(), key=lambda a: (a["date"], a["kpi"], a["kind"], a["rule"]), reverse=True)


def _monitored(rows: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    since = (date.fromisoformat(as_of) - timedelta(RECENT_DAYS - 1)).isoformat() if as_of[:1].isdigit() else ""
    alerts = []
    for row in rows:
        if row.get("kind") and since <= (row.get("date") or "") <= as_of:
            whys = [w for w in row["from"].get("why", ()) if (w["kpi"], w["date"]) == (row["kpi"], row["date"])]
            why = (whys or [row["from"]["sentence"]])[0]
            told = {at: row.get(at) for at in ("kpi", "date", "kind", "value", "low", "high")}
            alerts.append({**told, "sentence": {language: plain(why[language]) for language in LANGUAGES}})
    return alerts


def _broken(rule: Rule, rows: Sequence[Mapping[str, Any]], as_of: str) -> list[dict[str, Any]]:
    """The limit of a rule, if it is broken on the last day; of a single value, if that breaks it."""
    dated = {(row["date"], row["value"]) for row in rows if row.get("date") and row["date"] <= as_of}
    by_day, single, k = dict(dated), {row["value"] for row in rows if not row.get("date")}, kpi(rule.kpi)
    alert = {"kpi": rule.kpi, "low": rule.below, "high": rule.above, "date": as_of, "value": None}
    steps = np.diff(np.array(sorted(by_day), dtype="datetime64[D]")).astype(int)
    coarse = len(steps) > 0 and steps.min() > 1
    if coarse or len(dated) > len(by_day) or (not dated and len(single) > 1):
        word = "coarse" if coarse else "unclear"
        why = both_say(f"alert.{word}", name=k.name, n=len({row["value"] for row in rows}), rule=rule.label)
        return [{**alert, "kind": "unclear", "sentence": why._asdict(), "muted": True}]
    days = sorted(by_day)
    if days:
        last_day = as_of if as_of[:1].isdigit() else days[-1]  # a source without any date is "undated"
        first, last, now = (date.fromisoformat(d) for d in (days[0], days[-1], last_day))
        if (now - last).days >= RECENT_DAYS:  # what was, is no alert of today
            return []
        days = [(first + timedelta(i)).isoformat() for i in range((last - first).days + 1)]
    values = np.array([by_day.get(d) for d in days] if days else [*single], dtype=float)
    for kind, limit in (("above", rule.above), ("below", rule.below)):
        if limit is not None and (found := _beyond(rule, k, kind, limit, days, values)):
            return [{**alert, **found}]
    return []


def _beyond(rule: Rule, k: Kpi, kind: str, limit: float, days: Sequence[str], values: Floats) -> dict[str, Any]:
    """What an alert says of one limit that is broken on the last of `days`, or by a single value; else nothing."""
    sustain, of = (rule.sustain, rule.of) if days else (1, 1)
    at = threshold(values, above=limit if kind == "above" else None, below=limit if kind == "below" else None,
                   sustain=sustain, of=of)  # fmt: skip
    if len(at) == 0 or at[-1] != len(values) - 1:
        return {}
    broken = np.flatnonzero(values > limit if kind == "above" else values < limit)
    last, first = float(values[np.isfinite(values)][-1]), int(at[np.flatnonzero(np.diff(at, prepend=-2) != 1)[-1]])
    told: dict[str, Any] = {"name": k.name, "n": int((broken >= len(values) - of).sum()), "of": of}
    for name, v in (("limit", limit), ("value", last)):
        told[name] = Text(*(measure(v, k.unit, language, "") for language in LANGUAGES))
    found: dict[str, Any] = {"kind": kind, "value": last}
    if days:
        found |= {"date": days[first], "open": first < of}  # before that day too few are known to tell
        since = Text(*(day(date.fromisoformat(days[first]), lang) for lang in LANGUAGES))
        told["since"] = both_say("alert.or_earlier", day=since) if found["open"] else since
    why = both_say(f"alert.{kind if days else kind + '_once'}", **told)
    return {**found, "sentence": {lang: plain(why[lang]) for lang in LANGUAGES}}
