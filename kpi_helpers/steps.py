"""Units that follow steps as cohorts, read in the engine: step rates, times, and who is still within the window."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, ClassVar

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.recurring import Day, known_day
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import checked_confidence, kaplan_meier, wilson
from kpi_helpers.units import as_table

#: names that a step and its time go by, in the order in which they are looked for
STEP, TIME = ("step", "event", "stage"), ("at", "happened_at", "occurred_at", "time", "timestamp", "date")
#: steps of a lead, and the column of each one's time
STAGES = {"lead": "created_at", "mql": "mql_at", "sal": "sal_at", "opportunity": "opportunity_at",
          "negotiation": "negotiation_at", "won": "won_at"}  # fmt: skip
NAMED = (*STAGES, "visit", "search", "view", "cart", "checkout", "purchase")
MOST = 3660  # days of a window
#: what is counted and told: rows without unit or time; units that never began, whose later step has no time after the
#: one before, that skipped one, that reached the last more than once, that reached the next one too late
ISSUES = ("no_unit", "no_time", "no_start", "out_of_order", "skipped", "again", "late")


def step_name(step: str, language: str = "en") -> str:
    """A step as a reader calls it; names that are not ours stay as they are."""
    return say(f"step.{step}", language) if step in NAMED else step


class OfSteps(Framed):
    """Share of units that took each step: `rate` of the `before` who reached the one before, `overall` of all.

    Units whose window is over, by `group` (the first is all of them), intervals by Wilson.
    """

    columns: ClassVar = (
        "group",
        "step",
        "n",
        "before",
        "rate",
        "low",
        "high",
        "overall",
        "overall_low",
        "overall_high",
    )
    aside: ClassVar = ("steps", "counts", "waits", "issues")
    ways: ClassVar = {"step_name": step_name}

    def rows(self, group: str = "") -> pd.DataFrame:
        """Rows of one group, by step."""
        return self.frame[self.frame["group"] == group].set_index("step")


class Funnel(OfSteps):
    """Steps by segment, all of them first; `n_open` units are still within their window and count in no rate.

    Aside: `counts` by month, segment and depth; `waits` for a step in `time_unit`; `issues` of the data, counted.
    """

    def sentence(self, language: str = "en") -> str:
        rows = self.rows()
        first, last = rows.iloc[0], rows.iloc[-1]
        told = {"n": number(first["n"], language), "window": self.window_days, "open": number(self.n_open, language)}
        if not first["n"]:
            return say("funnel.unknown", language, **told)
        weak = rows["rate"].iloc[1:].idxmin()
        told |= {f"share{k}": percent(last[f"overall{k}"], language) for k in ("", "_low", "_high")}
        told |= {"weakest": self.named(weak, language), "level": f"{self.confidence:.0%}"}
        told |= {"last": step_name(self.steps[-1], language), "rate": percent(rows.loc[weak, "rate"], language)}
        return say("funnel.sentence", language, **told) + (say("funnel.open", language, **told) if self.n_open else "")

    def named(self, step: str, language: str) -> str:
        """The way to a step from the one before."""
        return " → ".join(step_name(s, language) for s in (self.steps[self.steps.index(step) - 1], step))

    def told(self, language: str) -> list[str]:
        """Issues of the data in words, those that occur."""
        return [say(f"funnel.{k}", language, n=number(n, language)) for k, n in self.issues.items() if n]


def stages(leads: Any) -> ir.Table:
    """Events of leads, as `read_steps` takes them: a row a lead and stage that has a time, from a column a stage.

    Parameters: `leads`, the contract table (Ibis, DataFrame or file). Result: its text columns, ``step`` (lead, mql,
    sal, opportunity, negotiation or won, as far as the table has their columns) and ``at``.
    """
    table = as_table(leads)
    for column in ("lead_id", "created_at"):
        require_known(column, table.columns, f"The leads have no column {column}.")
    texts = [c for c in table.columns if table[c].type().is_string() or c == "lead_id"]
    there = [(step, c) for step, c in STAGES.items() if c in table.columns]
    for _step, c in there:
        _require_time(table, c)
    told = [table.select(*texts, step=ibis.literal(step), at=table[c].cast("timestamp")) for step, c in there]
    return ibis.union(told[0], *(t.filter(_.at.notnull()) for t in told[1:]))


def _require_time(table: ir.Table, column: str) -> None:
    kind = table[column].type()
    fine = kind.is_date() or (kind.is_timestamp() and kind.timezone is None)
    require(fine, f"{column} is {kind}, not a date or local time without zone. Convert it, naming its format.")


def covered(events: Any, as_of: Day = None) -> date:
    """Return the last day of the events, or `as_of` if that is earlier: until then units can be followed.

    >>> rows = pd.DataFrame({"at": pd.to_datetime(["2026-03-01", "2026-03-09"])})
    >>> covered(rows, "2026-03-31"), covered(rows, "2026-03-05")
    (datetime.date(2026, 3, 9), datetime.date(2026, 3, 5))
    """
    table = as_table(events)
    at = next((c for c in TIME if c in table.columns), TIME[0])
    require_known(at, table.columns, f"The events have no column {at!r}.")
    last: date | None = table[at].cast("date").max().to_pyarrow().as_py()
    if last is None:
        raise KpiError(f"No row has a time in {at}: check the export and the mapping.")
    return min(last, known_day(as_of)) if as_of is not None else last


def read_steps(
    events: Any, *, unit: str, steps: Sequence[str], window_days: int, by: str = "", as_of: Day = None,
    confidence: float = 0.95,
) -> Funnel:  # fmt: skip
    """Follow units through `steps`: entered with the first, then each at or after the one before, within the window.

    The earliest way counts, so that revisiting an early step takes nothing back. A unit whose window is not over by the
    end of the data is open: it counts in no rate, only in the times.

    Parameters
    ----------
    events : Ibis table, DataFrame or Parquet or CSV file, one row an event
        With `unit`, a column of names of steps (step, event or stage) and one of times without zone (at, happened_at,
        occurred_at, time, timestamp or date). Rows of other steps are passed over.
    steps : names, two or more, in order
    window_days : whole number of days of 24 hours from the entry, 1 or more, to their very end
    by : column that splits the funnel, as known when a unit enters
    as_of : last day that the rows cover, by default their last; see `covered` where a source ends on another day

    Raises
    ------
    KpiError
        If a column or step is unknown, the window is below 1, or no row has unit, step and time.

    Examples
    --------
    >>> at = pd.to_datetime(["2026-03-01", "2026-03-02", "2026-03-01", "2026-03-20"])
    >>> rows = pd.DataFrame({"who": ["a", "a", "b", "c"], "step": ["lead", "won", "lead", "lead"], "at": at})
    >>> read_steps(rows, unit="who", steps=["lead", "won"], window_days=7).rows()["n"].tolist()  # c is still open
    [2, 1]
    """
    checked_confidence(confidence)
    whole_days = isinstance(window_days, int) and not isinstance(window_days, bool) and 1 <= window_days <= MOST
    require(whole_days, f"window_days={window_days!r} must be a whole number of days, 1 to {MOST}.")
    steps = [str(step) for step in steps]
    rows, counted, end = _rows(events, unit, steps, by, as_of)
    units = _followed(rows, len(steps), window_days, split=bool(by)).cache()
    k, last = range(len(steps)), ibis.literal(end)
    depth = sum((units[f"t{i}"].notnull().ifelse(1, 0) for i in k[1:]), units.t0.notnull().ifelse(1, 0))
    month, running = units.t0.truncate("month").cast("date"), (units.until > last).ifelse(1, 0)
    entered = units.filter(_.t0.notnull())
    keys = ["month", "group", "depth", "open"]
    counts = entered.mutate(month=month, depth=depth, open=running).group_by(keys).aggregate(n=_.count())
    frame = counts.order_by(keys).to_pyarrow().to_pandas()
    name = "minutes" if window_days <= 2 else "days"
    whole = {
        "unit": unit, "by": by, "window_days": window_days, "until": end.date(), "time_unit": name,
        "n_open": int(frame.loc[frame["open"] == 1, "n"].sum()), "confidence": confidence, "steps": tuple(steps),
        "counts": frame, "waits": _waits(entered, k, last, name), "issues": counted | _issues(units, k),
    }  # fmt: skip
    return Funnel(frame=_shares(frame, whole["steps"], "group" if by else "", confidence), whole=whole)


def _rows(events: Any, unit: str, steps: list[str], by: str, as_of: Day) -> tuple[ir.Table, dict[str, int], Any]:
    """Rows of the steps by their place, rows without unit or time counted, and the end of what is known."""
    table = as_table(events)
    require(len(set(steps)) == len(steps) > 1, f"steps={steps} must be two or more, each once, in their order.")
    step, at = (next((c for c in known if c in table.columns), known[0]) for known in (STEP, TIME))
    for column in (unit, step, at, *([by] if by else [])):
        require_known(column, table.columns, f"The events have no column {column!r}.")
    _require_time(table, at)
    who, group = table[unit].cast("string").nullif(""), table[by].cast("string") if by else ibis.literal("")
    rows = table.select(
        who=who, group=group.fill_null(""), step=table[step].cast("string"), at=table[at].cast("timestamp")
    )
    if as_of is not None:
        end = pd.Timestamp(known_day(as_of)) + timedelta(days=1) - timedelta(microseconds=1)
        rows = rows.filter(_.at.isnull() | (_.at <= ibis.literal(end.to_pydatetime())))
    rows = rows.mutate(place=ibis.cases(*((_.step == s, i) for i, s in enumerate(steps))))
    of_it, named = rows.place.notnull(), rows.who.notnull() & rows["at"].notnull()
    asked = {"no_unit": (of_it & rows.who.isnull()).sum(), "no_time": (of_it & rows["at"].isnull()).sum()}
    asked |= {f"n{i}": (named & (rows.place == i)).sum() for i in range(len(steps))} | {"last": rows["at"].max()}
    told = rows.aggregate(**asked).to_pyarrow().to_pylist()[0]
    for i, s in enumerate(steps):
        if not told[f"n{i}"]:
            known = [v for v in rows.filter(named).step.as_table().distinct().to_pyarrow()["step"].to_pylist() if v]
            require(bool(known), f"No row has {unit}, {step} and {at}: check the export, the mapping and the filters.")
            require_known(s, sorted(set(known) - {s}), f"No row with {unit} and {at} has the step {s!r}.")
    counted = {name: int(told[name] or 0) for name in ISSUES[:2]}
    return rows.filter(of_it, named), counted, end if as_of is not None else pd.Timestamp(told["last"])


def _followed(rows: ir.Table, n: int, window_days: int, *, split: bool) -> ir.Table:
    """A row a unit: the time of each step within the window (`t0`, …), the first after the one before at any time
    (`after1`, …) and at all (`any0`, …), end of the window, times of the last step; one pass, units keep lists."""

    def first(times: Any, since: Any) -> Any:
        return times.filter(lambda at: at >= since).mins()

    sums = {f"any{i}": _.at.min(where=_.place == i) for i in range(n)}
    sums |= {f"times{i}": _.at.collect(where=_.place == i) for i in range(1, n)}
    units = rows.group_by("who").aggregate(**sums, ends=_.at.nunique(where=_.place == n - 1))
    units = units.mutate(t0=_.any0, until=_.any0 + ibis.interval(days=window_days))
    for i in range(1, n):
        units = units.mutate(**{f"after{i}": first(units[f"times{i}"], units[f"t{i - 1}"])})
        units = units.mutate(**{f"t{i}": (_[f"after{i}"] <= _.until).ifelse(_[f"after{i}"], None)})
    units = units.drop(*(f"times{i}" for i in range(1, n)))
    if not split:
        return units.mutate(group=ibis.literal(""))
    entry = rows.filter(_.place == 0).mutate(t0=_.at.min().over(ibis.window(group_by="who"))).filter(_.at == _.t0)
    groups = entry.group_by("who").aggregate(group=_.group.min())
    return units.left_join(groups, "who").drop("who_right")


def _issues(units: ir.Table, k: range) -> dict[str, int]:
    """Units by what is wrong with their steps, see `ISSUES`."""
    began, pairs = units.t0.notnull(), list(pairwise(k))
    seen = {i: units[f"any{i}"].notnull() for i in k}
    kinds = {
        "out_of_order": [units[f"t{i}"].notnull() & units[f"after{j}"].isnull() & seen[j] for i, j in pairs],
        "skipped": [~seen[i] & seen[j] for i, j in pairs], "again": [units.ends > 1],
        "late": [units[f"after{j}"].notnull() & units[f"t{j}"].isnull() for _i, j in pairs],
    }  # fmt: skip
    asked = {"no_start": (~began).sum()} | {name: (began & ibis.or_(*each)).sum() for name, each in kinds.items()}
    told = units.aggregate(**asked).to_pyarrow().to_pylist()[0]
    return {name: int(told[name] or 0) for name in ISSUES[2:]}


def _waits(units: ir.Table, k: range, last: Any, name: str) -> pd.DataFrame:
    """Units by the time from each step to the next: those who took it, and those who were waiting when last seen."""
    parts = []
    for i in k[1:]:
        begun, done = units[f"t{i - 1}"], units[f"t{i}"]
        seen = ibis.coalesce(done, ibis.least(units.until, last))
        seconds = seen.epoch_seconds() - begun.epoch_seconds()
        waited = seconds / 60 if name == "minutes" else (seconds / 86_400).floor().cast("int64")
        told = units.select(step=ibis.literal(i), time=waited, took=done.notnull().ifelse(1, 0), on=begun)
        parts.append(told.filter(_.on.notnull(), _.time >= 0).drop("on"))
    keys = ["step", "time"]
    told = ibis.union(*parts) if len(parts) > 1 else parts[0]
    counted = told.group_by(keys).aggregate(events=_.took.sum(), waiting=(1 - _.took).sum()).order_by(keys)
    return counted.to_pyarrow().to_pandas()


def _shares(counts: pd.DataFrame, steps: Sequence[str], key: str, confidence: float) -> pd.DataFrame:
    """Rows of `OfSteps` for all units whose window is over and, with a `key`, for each group of them."""
    names, n = depths(counts, len(steps), key)
    before = np.column_stack([n[:, 0], n[:, :-1]])
    told: dict[str, Any] = {"group": np.repeat(names, len(steps)), "step": list(steps) * len(n), "n": n.ravel()}
    told["before"] = before.ravel()
    entered = np.repeat(n[:, 0], len(steps))
    for name, base in (("rate", told["before"]), ("overall", entered)):
        ends = wilson(told["n"], base, confidence=confidence)
        prefix = "" if name == "rate" else "overall_"
        told |= {name: told["n"] / np.where(base > 0, base, np.nan), f"{prefix}low": ends[0], f"{prefix}high": ends[1]}
    return pd.DataFrame(told)[list(OfSteps.columns)]


def depths(counts: pd.DataFrame, n_steps: int, key: str) -> tuple[list[str], Any]:
    """Names, all ("") first, then by size or month; and units that reached each step (names, steps), windows over."""
    closed = counts[counts["open"] == 0]
    closed = closed.assign(group=closed["group"].replace("", "–")) if key == "group" else closed
    split = closed.groupby(key) if key else ()
    parts = [("", closed), *((str(name)[:7] if key == "month" else name, part) for name, part in split)]
    n = [[int(part.loc[part["depth"] > i, "n"].sum()) for i in range(n_steps)] for _name, part in parts]
    order = sorted(range(1, len(parts)), key=lambda i: (0 if key == "month" else -n[i][0], parts[i][0]))
    return [parts[i][0] for i in (0, *order)], np.array(n)[[0, *order]]


class FunnelMonths(OfSteps):
    """Steps by month of entry (`group`), all together first; of a month still open only its first days count."""

    def sentence(self, language: str = "en") -> str:
        rows = self.frame[(self.frame["step"] == self.steps[-1]) & (self.frame["group"] != "")]
        if not len(rows):
            return say("funnel_months.none", language)
        told = {k: percent(getattr(rows["overall"], k)(), language) for k in ("min", "max")}
        told |= {"last": step_name(self.steps[-1], language), "window": self.window_days}
        return say("funnel_months.sentence", language, n=len(rows), open=number(self.n_open, language), **told)

    def parts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows of all and of the last twelve months, and those of the months before."""
        old = self.frame["group"].isin(list(dict.fromkeys(self.group))[1:-12])
        return self.frame[~old], self.frame[old]


def by_month(funnel: Funnel) -> FunnelMonths:
    """Follow the units that entered in each month: shares of its own units, not of what came meanwhile."""
    frame = _shares(funnel.counts, funnel.steps, "month", funnel.confidence)
    return FunnelMonths(frame=frame, whole=funnel.whole)


class StepTimes(Framed):
    """Time from each step to the next of those who take it, in `time_unit`: `median` and its interval.

    `share` would take it if each had the whole window for it (Kaplan-Meier): more than do within the window since they
    entered. Half of these have by the median. `n` reached the step before.
    """

    columns: ClassVar = ("previous", "step", "n", "events", "share", "median", "low", "high")
    ways: ClassVar = {"step_name": step_name}

    @property
    def decimals(self) -> int:
        """Days are counted whole."""
        return int(self.time_unit == "minutes")

    def sentence(self, language: str = "en") -> str:
        rows = self.frame.dropna(subset="median")
        if not len(rows):
            return say("step_times.unknown", language)
        slow = rows.loc[rows["median"].idxmax()]
        if not slow["median"]:
            return say("step_times.quick", language, unit=say(f"step_times.one_{self.time_unit}", language))
        step = " → ".join(step_name(slow[k], language) for k in ("previous", "step"))
        told = {k: number(slow[k], language, decimals=self.decimals) for k in ("median", "low", "high")}
        unit = say(f"step_times.{self.time_unit}", language)
        return say("step_times.sentence", language, step=step, unit=unit, level=f"{self.confidence:.0%}", **told)


def time_to_step(funnel: Funnel) -> StepTimes:
    """Tell how long steps take, units that still wait counted as far as they got (Kaplan-Meier).

    A median among those who take the step: of all it is never reached where fewer than half go on. Its interval holds
    the shares of them that could be half by the binomial law (order statistics; of fewer than four the end is open).
    """
    rows, z = [], float(ndtri((1 + funnel.confidence) / 2))
    for i, step in enumerate(funnel.steps[1:], 1):
        told = funnel.waits[funnel.waits["step"] == i]
        curve = kaplan_meier(told["time"], told["events"], told["waiting"], confidence=funnel.confidence)
        share = float(1 - curve.survival[-1]) if len(told) else 0.0
        taken = int(told["events"].sum())
        n, off = taken + int(told["waiting"].sum()), z / 2 / max(taken, 1) ** 0.5
        half = [
            curve.reached(share * at)[0] if taken and at <= 1 else np.nan for at in (0.5, max(0.5 - off, 0), 0.5 + off)
        ]
        rows.append((funnel.steps[i - 1], step, n, taken, share if n else np.nan, *half))
    return StepTimes.of(rows, time_unit=funnel.time_unit, confidence=funnel.confidence)
