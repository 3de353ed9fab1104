"""Values of any KPIs with their intervals: sums read once a table, then closed forms on the sums."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri

from kpi_helpers import contrasts, stats, views
from kpi_helpers.catalogue import Kpi, declared, kpi
from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import require, require_known
from kpi_helpers.mappings import PERIODS
from kpi_helpers.readings import Ask, columns_of, read
from kpi_helpers.result import say, session_language
from kpi_helpers.sources import Source, connect
from kpi_helpers.stats import Floats, checked_confidence, kaplan_meier

GRAINS = PERIODS | {"total": "Y"}
#: an excluded audience passes if it surely keeps this share of the conversion rate of its hold-out
KEPT_SHARE = 0.9
#: stands for the whole span while cells are worked out
WHOLE = pd.Timestamp(0)
Sums = dict[tuple[str, str | None], pd.DataFrame]
HEADS = ("value", "low", "high", "numerator", "denominator", "unit", "direction", "note")


def feeds(data: Source) -> dict[str, tuple[str, ...]]:
    """What is missing for each KPI, as ``table`` or ``table.column``; nothing where the data can feed it."""
    held = {name: set(data.columns(name)) for name in data.tables}
    return {k.id: tuple(sorted(lacking(k, held))) for k in declared().values()}


def _told(key: str, **what: str) -> str:
    """A note in the language of the screen."""
    return say(f"score.{key}", session_language(), **what)


def last_full(day: date, grain: str) -> pd.Period:
    """The last period that is over by the end of a day."""
    last = pd.Period(day, PERIODS[grain])
    return last if last.end_time.date() <= day else last - 1


def last_known(data: Source, until: date) -> Any:
    """Last day up to which rows are over: a week that is still running on that day is not known."""
    return last_full(until, data.period()).end_time.date()


def lacking(k: Kpi, held: dict[str, set[str]]) -> set[str]:
    """Tables and columns that a KPI needs beyond those that are `held`."""
    needed = dict[str, set[str]]()
    for table, measure in k.measures:
        if view := views.VIEWS.get(table):
            wanted = {name: set(columns) for name, columns in view.needs.items()}
            wanted[next(iter(wanted))] |= {column for name, column in view.optional.items() if name == measure}
        else:
            told = TABLES[table].measures.get(measure)
            wanted = {table: columns_of(told) if told else {measure}}
        needed |= {name: needed.get(name, set()) | columns for name, columns in wanted.items()}
    return {n for n in needed if n not in held} | {f"{n}.{c}" for n in needed if n in held for c in needed[n] - held[n]}


def dimensions(data: Source, table: str) -> list[str]:
    """Columns by which the KPIs of a table can be split."""
    if view := views.VIEWS.get(table):
        return [c for c in view.dimensions if c in data.columns(next(iter(view.needs)))]
    texts = [c.name for c in TABLES[table].columns if c.kind == "text" and not c.name.endswith("_id")]
    return [c for c in texts if c in data.columns(table)]


def scorecard(
    source: Source | str | Path, kpis: Sequence[str] | None = None, *, by: str | Sequence[str] = (),
    grain: str | None = None, start: date | None = None, end: date | None = None, confidence: float = 0.95,
) -> pd.DataFrame:  # fmt: skip
    """Compute KPIs from the tables of a source, each with its interval; one query a table, however many KPIs.

    `kpis` are ids, all of the catalogue if not given. `by` names dimensions, such as ``("channel", "campaign")``.
    `grain` is ``day``, ``week`` or ``month``; without it the whole span is one, and KPIs that compare periods
    (retention, growth) compare its last two full months. `start` and `end` are the first and last day to read,
    `confidence` the coverage of the intervals, in (0, 1).

    Returns a row a KPI, period and segment: ``kpi, period`` (first day, missing for the whole span), the columns of
    `by`, ``value, low, high, numerator, denominator, unit, direction, note``. A value that cannot be computed is
    missing, and its note says why, such as a table without a column of `by`. Raises a `KpiError` if a KPI, the grain or
    a dimension is unknown, or the data are coarser than the grain.

    >>> scorecard("data/demo", ["open_rate"])[["value", "low", "high"]].round(3).values.tolist()
    [[0.32, 0.307, 0.332]]
    """
    data = source if isinstance(source, Source) else connect(source)
    chosen, by = [kpi(k) for k in kpis or declared()], (by,) if isinstance(by, str) else tuple(by)
    checked_confidence(confidence)
    require(grain is None or grain in PERIODS, f"grain={grain!r} is not one of {', '.join(PERIODS)}.")
    for name in by:
        require_known(name, {c.name for t in TABLES.values() for c in t.columns if c.kind == "text"},
                      f"by={name!r} is no dimension of any table.")  # fmt: skip
    require(not (start and end) or start <= end, f"start={start} lies after end={end}. Swap them.")
    if grain:
        data.require_grain(grain)
    span = Span(by, grain, start, last_known(data, end) if end else data.as_of(None), confidence)
    missing, batches = feeds(data), dict[Batch, list[Kpi]]()
    rows = []
    for k in chosen:
        absent = {f"{t}.{b}" for t in k.tables for b in by if not missing[k.id] and b not in dimensions(data, t)}
        if without := missing[k.id] or sorted(absent):
            rows.append(_row(k, by, _told("missing", what=", ".join(without))))
        elif k.kind == "quantile":
            rows.append(_durations(data, k, span))
        elif k.passing:
            rows.append(_scored([k], _passing(data, k, span), span))
        else:
            above, below = _parted(k.numerator, k.table)[0], _parted(k.denominator, k.table)[0]
            batch = Batch(above, below if k.denominator else above, span.of(k), k.kind == "stock")
            batches.setdefault(batch, []).append(k)
    sums = _sums(data, batches, span)
    rows += [_scored(ks, _cells(batch, ks, sums, span), span) for batch, ks in batches.items()]
    frame = pd.concat([f for f in rows if len(f)], ignore_index=True)
    order = frame["kpi"].map({k.id: i for i, k in enumerate(chosen)})
    frame = frame.assign(order=order, period=frame["period"].where(frame["period"] != WHOLE)).sort_values(
        ["order", "period", *by], kind="stable", ignore_index=True
    )
    return frame[["kpi", "period", *by, *HEADS]]


class Span(NamedTuple):
    """What a scorecard covers: dimensions, grain, first and last day, coverage of its intervals."""

    by: tuple[str, ...]
    grain: str | None
    start: date | None
    end: date | None
    confidence: float

    def of(self, k: Kpi) -> str | None:
        """Grain of one KPI: those that compare periods take months where the span is one."""
        return self.grain or ("month" if k.change or k.paired else None)


def _begins(frame: pd.DataFrame, grain: str | None) -> Any:
    """First day of the period of each row; of the whole span `WHOLE`."""
    if not grain or "date" not in frame:
        return pd.Series(WHOLE, frame.index)
    return frame["date"].dt.to_period(GRAINS[grain]).dt.start_time


class Batch(NamedTuple):
    """KPIs that are worked out together: those of the same tables, grain and way of adding up."""

    above: str
    below: str
    grain: str | None
    level: bool


class Cells(NamedTuple):
    """Sums of KPIs (columns) by period and segment (rows `keys`): arrays (n_cells, n_kpis), NaN where unknown.

    `n` counts days or single rows, `squared` is how far they lie from the common ratio, `square` sums squares of rows.
    """

    keys: pd.DataFrame
    num: Floats
    den: Floats
    square: Floats
    n: Floats
    squared: Floats
    less: Floats
    less_of: Floats


def _parted(items: tuple[str, ...], table: str) -> tuple[str, tuple[str, ...]]:
    """Table of the measures, and their names without it: ``costs.amount`` stands in another table than the rest."""
    first, dot, _rest = items[0].lstrip("-").partition(".") if items else ("", "", "")
    return (first if dot else table), tuple(m.replace(f"{first}.", "", 1) if dot else m for m in items)


def _asks(k: Kpi) -> list[tuple[str, Ask]]:
    """What to read for a KPI, by table; numerator and denominator of one table are read together."""
    (table, above), (other, below) = _parted(k.numerator, k.table), _parted(k.denominator, k.table)
    if below and other != table:
        return [(table, Ask(k.id, above)), (other, Ask(f"{k.id}__of", below))]
    numbers = {c.name for c in TABLES[table].columns if c.kind == "number"} if table in TABLES else set()
    summed = bool(numbers & {m.lstrip("-") for m in above})  # a row holds many, such as likes of a post
    squares = not views.is_daily(table) and (k.kind == "mean" or k.unit == "money" or summed)
    asks = [(table, Ask(k.id, above, below, squares))]
    return [*asks, (table, Ask(f"{k.id}__less", k.less[:1], k.less[1:]))] if k.less else asks


def _job(table: str, grain: str | None) -> tuple[str, str | None]:
    """What is read once: tables of days for all grains, tables of single rows for each."""
    return table, None if views.is_daily(table) else grain


def _sums(data: Source, batches: dict[Batch, list[Kpi]], span: Span) -> Sums:
    """Read each job once for all KPIs."""
    jobs: dict[tuple[str, str | None], list[Ask]] = {}
    for batch, ks in batches.items():
        for table, ask in (pair for k in ks for pair in _asks(k)):
            jobs.setdefault(_job(table, batch.grain), []).append(ask)
    return {job: _read(data, job[0], asks, span, job[1]) for job, asks in jobs.items()}


def _read(data: Source, table: str, asks: Sequence[Ask], span: Span, grain: str | None, *more: str) -> pd.DataFrame:
    rows = views.rows(data, table, by := (*span.by, *more), grain, span.end)
    if not rows.dated and (grain or span.start):
        return pd.DataFrame()
    return read(rows, asks, by=by, grain=grain, start=span.start, end=span.end)


def _cells(batch: Batch, ks: Sequence[Kpi], sums: Sums, span: Span) -> Cells | None:
    frame = sums[_job(batch.above, batch.grain)]
    if frame.empty:
        return None
    if batch.below != batch.above:  # two tables: a day without a row has none of it
        names = {f"{k.id}__of__num": f"{k.id}__den" for k in ks}
        other = sums[_job(batch.below, batch.grain)].rename(columns=names)
        frame = frame.merge(other, on=[c for c in ("date", *span.by) if c in frame], how="outer")
        frame = frame.fillna({f"{k.id}__{e}": 0.0 for k in ks for e in ("num", "den")})
    keys = frame[list(span.by)].assign(period=_begins(frame, batch.grain))
    return cells(ks, frame, keys, daily=views.is_daily(batch.above), level=batch.level)


def cells(ks: Sequence[Kpi], frame: pd.DataFrame, keys: pd.DataFrame, *, daily: bool, level: bool = False) -> Cells:
    """Arrange sums by `keys`; sums of days are added up, of levels the last is taken."""

    def matrix(ending: str) -> Floats:
        found: Floats = frame.reindex(columns=[f"{k.id}__{ending}" for k in ks]).to_numpy(dtype=float)
        return found

    num, den = matrix("num"), matrix("den")
    unknown = np.full(num.shape, np.nan)
    if not daily and not level:
        ratio = num / np.where(den != 0, den, np.nan)
        squared = (matrix("sq") - 2 * ratio * matrix("xy") + ratio**2 * matrix("yy")).clip(0)
        return Cells(keys, num, den, matrix("sq"), matrix("rows"), squared, matrix("less__num"), matrix("less__den"))
    group = keys.groupby(list(keys), sort=True).ngroup().to_numpy()
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    first, unknown = keys.iloc[order[starts]].reset_index(drop=True), unknown[: len(starts)]

    def add(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values[order], starts), dtype=float)

    if level:
        day = np.where(np.isfinite(num), frame["date"].to_numpy()[:, None], np.datetime64("NaT", "ns"))
        last = np.fmax.reduceat(day[order], starts)
        num = add(np.where(day == last[group], np.nan_to_num(num), 0))
        return Cells(first, np.where(np.isnat(last), np.nan, num), *[unknown] * 6)
    alone = np.array([not k.denominator for k in ks])
    known = np.isfinite(num) & (np.isfinite(den) | alone)
    x, y = np.where(known, num, 0.0), np.where(known, np.where(alone, 1.0, den), 0.0)
    n, total_x, total_y = add(known.astype(float)), add(x), add(y)
    ratio = total_x / np.where(total_y != 0, total_y, np.nan)
    squared = add((x - np.nan_to_num(ratio)[group] * y) ** 2)
    less = [add(np.nan_to_num(matrix(f"less__{e}"))) for e in ("num", "den")]
    total_x, total_y = np.where(n > 0, total_x, np.nan), np.where((n > 0) & ~alone, total_y, np.nan)
    return Cells(first, total_x, total_y, unknown, n, squared, *less)


def intervals(ks: Sequence[Kpi], c: Cells, confidence: float) -> tuple[Floats, Floats, Floats]:
    """Value, low and high of each cell, before the KPI's scale.

    Shares: Wilson. Counts: Garwood's for Poisson. Sums of single rows that hold many or money: from their squares.
    Means, and ratios of such rows or of days: from how they differ; of two intervals the wider. Levels: no width.
    """
    unit, alone = np.array([k.unit for k in ks]), np.array([not k.denominator for k in ks])
    of = np.where(alone, 1.0, c.den)
    of = np.where(of != 0, of, np.nan)
    value = c.num / of
    low, high = np.full(value.shape, np.nan), np.full(value.shape, np.nan)

    def put(where: Any, ends: tuple[Floats, Floats]) -> None:
        low[:], high[:] = np.where(where, ends[0], low), np.where(where, ends[1], high)

    z = ndtri((1 + confidence) / 2)
    counted = stats.poisson_interval(np.where(c.num >= 0, c.num, np.nan), confidence=confidence)
    put(alone & ((unit == "count") | (unit == "change")), counted)
    put(np.isin(unit, ("ratio", "part")) & ~alone & np.isnan(c.n), (counted[0] / of, counted[1] / of))
    put(unit == "share", stats.wilson(c.num, c.den, confidence=confidence))
    put(alone & np.isfinite(c.square), (value - z * np.sqrt(c.square), value + z * np.sqrt(c.square)))
    days, of_day = np.where(alone, c.n, c.den), np.where(alone, c.n, 1)
    margin = stats.ratio_margin(c.n, days, c.squared, confidence=confidence) * of_day
    low, high = np.fmin(low, value - margin), np.fmax(high, value + margin)  # days differ by more than chance
    level = np.array([k.kind == "stock" for k in ks])
    low, high = np.where(level, value, low), np.where(level, value, high)
    low = np.where((unit == "share") | (unit == "count"), low.clip(0), low)
    return value, low, np.where((unit == "share") & (value <= 1), high.clip(None, 1), high)


def in_rows(ks: Sequence[Kpi], c: Cells, told: Mapping[str, Floats]) -> pd.DataFrame:
    """Arrays (n_cells, n_kpis) as rows: the keys of a cell, the KPI with its unit and direction, and what is told."""
    names = {"kpi": "id", "unit": "unit", "direction": "direction"}
    of_kpi = {name: np.repeat([getattr(k, field) for k in ks], len(c.keys)) for name, field in names.items()}
    frame = pd.concat([c.keys] * len(ks), ignore_index=True)
    return frame.assign(**of_kpi, **{name: values.T.ravel() for name, values in told.items()})


def _scored(ks: Sequence[Kpi], c: Cells | None, span: Span) -> pd.DataFrame:
    """Rows of the scorecard from the sums of some KPIs."""
    if c is None or not len(c.keys):
        return pd.concat([_row(k, span.by, _told("no rows")) for k in ks])
    value, low, high = intervals(ks, c, span.confidence)
    if (less := np.array([bool(k.less) for k in ks])).any():
        gap = stats.rate_difference((c.num, c.den), (c.less, c.less_of), confidence=span.confidence)
        value = np.where(less, value - c.less / np.where(c.less_of != 0, c.less_of, np.nan), value)
        low, high = np.where(less, gap[0], low), np.where(less, gap[1], high)
    scale = np.array([k.scale for k in ks])
    told = {"value": value * scale, "low": low * scale, "high": high * scale, "numerator": c.num, "denominator": c.den}
    frame, compared = in_rows(ks, c, told), ks[0].change or ks[0].paired
    if ks[0].change:
        frame = _changed(frame, str(span.of(ks[0])), span.by, level=ks[0].kind == "stock")
    ends = frame["period"].dt.to_period(GRAINS[span.of(ks[0]) or "day"]).dt.end_time.dt.date
    running = ends > span.end if compared and span.end else ends != ends
    if compared and not span.grain:  # the last month that is over
        frame = frame[frame["period"] == frame["period"].where(~running).max()]
    note = np.where(frame["numerator"].isna(), _told("no rows"), "")
    note = np.where(frame["denominator"].eq(0), _told("zero"), note)
    note = np.where((frame["unit"] == "share") & (frame["value"] > 1), _told("above one"), note)
    note = np.where(running[frame.index] & (note == ""), _told("running"), note)
    gone = [_row(k, span.by, _told("one period")) for k in ks if k.id not in set(frame["kpi"])]
    return pd.concat([frame.assign(note=note)[["kpi", "period", *span.by, *HEADS]], *gone])


def _changed(frame: pd.DataFrame, grain: str, by: tuple[str, ...], *, level: bool) -> pd.DataFrame:
    """Change against the period before; of sums with the interval of a ratio of two, of levels without width."""
    before = frame.assign(period=(frame["period"].dt.to_period(GRAINS[grain]) + 1).dt.start_time)
    before = before[["kpi", "period", *by, "low", "high", "numerator"]]
    both = frame.merge(before, on=["kpi", "period", *by], suffixes=("", "_was"))
    was = both["numerator_was"]
    ratio = both["numerator"] / was.where(was != 0)
    spread = pd.Series(0.0, both.index)
    if not level:
        spread = np.hypot((both["high"] - both["low"]) / 2 / both["numerator"].where(both["numerator"] != 0),
                          (both["high_was"] - both["low_was"]) / 2 / was.where(was != 0))  # fmt: skip
    low, high = ratio * np.exp(-spread) - 1, ratio * np.exp(spread) - 1
    return both.assign(value=ratio - 1, low=low, high=high, denominator=was)


def _durations(data: Source, k: Kpi, span: Span) -> pd.DataFrame:
    """Median time of those who convert in the end, the unfinished counted as far as they got (Kaplan-Meier)."""
    rows = views.rows(data, k.table, span.by, span.of(k), span.end)
    lasted = [*span.by, *(["date"] if span.grain else []), "days"]
    counts = rows.within(span.start, span.end).group_by(lasted).aggregate(events=_.event.sum(), n=_.count())
    frame = counts.to_pyarrow().to_pandas().astype({"date": "datetime64[ns]"} if span.grain else {})
    by = ["period", *span.by]
    frame = frame.assign(period=_begins(frame, span.grain)).drop(columns="date", errors="ignore")
    out = []
    for key, part in frame.groupby([*by, "days"], dropna=False).sum().reset_index("days").groupby(by, dropna=False):
        curve = kaplan_meier(part["days"], part["events"], part["n"] - part["events"], confidence=span.confidence)
        events, n = float(part["events"].sum()), float(part["n"].sum())
        reached = curve.reached((1 - curve.survival[-1]) / 2) if events else (np.nan,) * 3
        note = "" if events else _told("no events")
        out.append((k.id, *key, *reached, events, n, k.unit, k.direction, note))
    if not out:
        return _row(k, span.by, _told("no rows"))
    return pd.DataFrame(out, columns=["kpi", *by, *HEADS])


def _passing(data: Source, k: Kpi, span: Span) -> Cells:
    """Excluded people of the groups that surely lose little against their hold-out, and of all groups."""
    sides = ("excluded_conversions", "holdout", "holdout_conversions")
    asks = [Ask("all", k.numerator), *(Ask(name, (name,)) for name in sides)]
    days = _read(data, k.table, asks, span, None, k.passing)
    keys = [*span.by, "period"]
    groups = days.assign(period=_begins(days, span.grain)).groupby([*keys, k.passing]).sum(numeric_only=True)
    groups = groups.reset_index()
    n, x, m, y = (groups[f"{c}__num"] for c in ("all", *sides))
    passed = contrasts.rates((y, m), (x, n), alpha=1 - span.confidence).lift_low > KEPT_SHARE - 1
    groups = groups.assign(**{f"{k.id}__num": n.where(passed, 0.0), f"{k.id}__den": n})
    added = groups.groupby(keys)[[f"{k.id}__num", f"{k.id}__den"]].sum().reset_index()
    return cells([k], added, added[keys], daily=False)


def _row(k: Kpi, by: Sequence[str], note: str) -> pd.DataFrame:
    """The one row of a KPI that cannot be computed."""
    told = {"kpi": k.id, "period": pd.NaT, **dict.fromkeys(by, ""), **dict.fromkeys(HEADS[:5], np.nan)}
    return pd.DataFrame([told | {"unit": k.unit, "direction": k.direction, "note": note}])
