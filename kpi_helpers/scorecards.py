"""Notebook 02: which KPIs left their own normal range, how channels grow, which of them bring and which sell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import numpy as np
import pandas as pd
from ibis import _
from scipy.special import stdtr, stdtrit

from kpi_helpers import kpis, plots
from kpi_helpers.backtests import Holidays, baseline
from kpi_helpers.calendars import SEASONS
from kpi_helpers.changes import Change
from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import KpiError, require
from kpi_helpers.explanations import explain
from kpi_helpers.mappings import PERIODS
from kpi_helpers.outlooks import OfKpis
from kpi_helpers.result import day, labelled_pill, measure, number, one_unit, percent, say, span
from kpi_helpers.sources import Source
from kpi_helpers.stats import Floats, holm, ratio_margin, wilson

#: few KPIs that are known when a period ends, by whose work they show; those of the objective join them
SIDES = {
    "marketing": ("sessions", "visitor_lead_rate", "ctr_ad", "cpc", "cpa", "open_rate", "ctr_email"),
    "sales": ("revenue", "orders", "aov", "order_rate_session", "roi", "opportunities", "call_answer_rate"),
}
#: status -> tone of its pill
TONES = {
    "worse": "bad", "better": "good", "unusual": "watch", "inside": "calm", "unknown": "none",
    "met": "good", "missed": "bad", "open": "none", "running": "calm",
    "main": "good", "feeder": "calm", "both": "good", "small": "none", "unclear": "none",
}  # fmt: skip
SHOWN, LEVEL, TOP = 13, 0.05, 8


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OfScores(OfKpis):
    """A result of this page: its HTML has pills of its own and draws sparklines."""

    ways: ClassVar[Mapping[str, Any]] = {
        **OfKpis.ways, "number": number, "mark": lambda s, words: labelled_pill(TONES[s], words),
        "points": lambda row: _points(row), "nan": math.nan, "moved_words": lambda *told: moved_words(*told),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Scorecard(OfScores):
    """The last full period of KPIs, whole and by channel (`segment`), each against what its own past led to expect.

    `value` with the interval of a ratio; `usual` is the forecast from the periods before, `usual_low` to `usual_high`
    its normal range, `p` how rarely an honest period lies so far off, `adjusted` the same after Holm's control over
    all rows. `before`, `last_year`: the period before and the same one of last year. `target` and `benchmark` are the
    user's, NaN without. `history`: the last periods, the newest last. `missing`: KPIs that the source cannot feed.
    """

    side: tuple[str, ...]
    kpi: tuple[str, ...]
    segment: tuple[str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    usual: tuple[float, ...]
    usual_low: tuple[float, ...]
    usual_high: tuple[float, ...]
    p: tuple[float, ...]
    before: tuple[float, ...]
    last_year: tuple[float, ...]
    target: tuple[float, ...]
    target_status: tuple[str, ...]
    benchmark: tuple[float, ...]
    benchmark_status: tuple[str, ...]
    history: tuple[tuple[float, ...], ...]
    adjusted: tuple[float, ...]
    status: tuple[str, ...]
    main: str
    grain: str
    period_at: date
    until_at: date
    confidence: float
    currency: str
    missing: tuple[tuple[str, str], ...] = ()

    aside: ClassVar = ("history", "missing", "main", "grain", "currency")

    @property
    def outside(self) -> list[int]:
        """Rows outside their range after control: the worse first, and the surest of them first."""
        order = {"worse": 0, "unusual": 1, "better": 2}
        found = [i for i, s in enumerate(self.status) if s in order]
        return sorted(found, key=lambda i: (order[self.status[i]], self.adjusted[i], i))

    @property
    def below_last(self) -> int:
        """Rows that a reader of "red is worse than the period before" would call red."""
        turn = [-1.0 if kpis.kpi(k).direction == "down" else 1.0 for k in self.kpi]
        return int(np.sum(np.array(turn) * (np.array(self.value) - np.array(self.before)) < 0))

    @property
    def first(self) -> str:
        """The KPI to explain: the one to call about, or else the main one."""
        return self.kpi[self.outside[0]] if self.outside else self.main

    def sentence(self, language: str = "en") -> str:
        told = {"n": len(self.outside), "k": sum(map(math.isfinite, self.p)), "red": self.below_last}
        told["alone"] = sum(p < LEVEL for p in self.p)
        return say("scorecard.sentence", language, period=say(f"period.{self.grain}", language), **told)

    def named(self, i: int, language: str) -> str:
        """A row in words: its KPI, and the channel if it is of one."""
        name = kpis.kpi(self.kpi[i]).name[language]
        return say("scorecard.of", language, name=name, segment=self.segment[i]) if self.segment[i] else name


def scorecard(
    data: Source, *, as_of: date, objective: str = "sales", ids: Sequence[str] = (), grain: str = "week",
    targets: Sequence[str] = (), benchmarks: Sequence[str] = (), holidays: Holidays | None = None,
    confidence: float = 0.95,
) -> Scorecard:  # fmt: skip
    """Judge the last full period of each KPI, whole and by channel, against its own past, false alarms controlled.

    `ids` replace the KPIs of both `SIDES`; those that the source cannot feed are named as missing. `targets` and
    `benchmarks` are lines such as ``"ctr_ad 0.012"``, for one period of the `grain`. A row leaves its range only if
    its one-step forecast from the periods before says so after Holm's control at 5% over all rows.

    Raises a `KpiError` if a KPI, the grain or a line is wrong, or the source feeds no KPI at all.
    """
    require(grain in SEASONS, f"grain={grain!r} is not one of {', '.join(SEASONS)}.")
    last = pd.Period(as_of, PERIODS[grain])
    last = last if last.end_time.date() <= as_of else last - 1
    chosen, lacking = kpis.choose(data, objective, most=4), kpis.feeds(data)
    wanted = list(dict.fromkeys(kpis.kpi(k).id for k in ids or [*chosen.kpis, *SIDES["marketing"], *SIDES["sales"]]))
    fed = [k for k in wanted if not lacking[k]]
    told = {"grain": grain, "confidence": confidence}
    tables = [_series(data, fed, last, **told), _series(data, [k for k in chosen.kpis if k in fed], last, by="channel", **told)]
    lines = _lines(targets, "targets"), _lines(benchmarks, "benchmarks")
    rows = [_judged(*row, last, holidays, *lines) for table in tables for row in table]
    require(len(rows) > 0, f"{data.name} feeds none of {', '.join(wanted)} up to {last.end_time.date()}.")
    p = np.array([row[9] for row in rows])
    adjusted = holm(p)
    status = [_status(row[1], row[3], row[6], a) for row, a in zip(rows, adjusted, strict=True)]
    rows = [(*row, float(a), s) for row, a, s in zip(rows, adjusted, status, strict=True)]
    rows.sort(key=lambda row: (row[2] != "", row[0] != "marketing"))
    return Scorecard.of(
        rows, main=chosen.main, grain=grain, period_at=last.start_time.date(), until_at=last.end_time.date(),
        confidence=confidence, currency=data.currency(),
        missing=tuple((k, ", ".join(lacking[k])) for k in wanted if lacking[k]),
    )  # fmt: skip


def _series(data: Source, ids: Sequence[str], last: pd.Period, *, grain: str, confidence: float, by: str = "") -> list[Any]:
    """Each KPI by period up to `last`, NaN where not fully known, and the interval of its last value."""
    until, out = last.end_time.date(), []
    daily = [k for k in ids if kpis.kpi(k).tables == {"channel_daily"} and kpis.kpi(k).kind != "stock"]
    if daily:
        table = kpis.compute(data, daily, by=by or None, grain=grain, until=until, confidence=confidence)
        for key in daily:
            for segment in table.segments():
                low, high = (table.series(key, segment, f"value_{end}").get(last, math.nan) for end in ("low", "high"))
                out.append((key, segment, table.series(key, segment), low, high))
    rest = [k for k in ids if k not in daily] if not by else []
    frame = kpis.scorecard(data, rest, grain=grain, end=until, confidence=confidence) if rest else pd.DataFrame()
    for key in rest:
        own = frame[(frame["kpi"] == key) & frame["period"].notna()].set_index("period").iloc[1:]  # the first may be part
        own.index = pd.PeriodIndex(own.index, freq=last.freq)
        ends = (own[end].get(last, math.nan) for end in ("low", "high"))
        out.append((key, "", own["value"], *ends))
    known = [row for row in out if row[2].notna().any()]
    return [row for row in known if row[1] == "" or row[2].last_valid_index() >= last - 3]  # ended channels are history


def _judged(
    key: str, segment: str, series: pd.Series, low: float, high: float, last: pd.Period, holidays: Holidays | None,
    targets: Mapping[str, float], benchmarks: Mapping[str, float],
) -> tuple[Any, ...]:  # fmt: skip
    """Fields of a row up to `history`."""
    k = kpis.kpi(key)
    series = series.reindex(pd.period_range(min(series.index[0], last), last, freq=last.freq)).astype(float)
    value, grain = float(series.iloc[-1]), {v: n for n, v in PERIODS.items()}[last.freqstr]
    usual, *ends, p = _expected(series, holidays)
    before, year = (float(series.get(last - n, math.nan)) for n in (1, SEASONS[grain]))
    asked = [math.nan if segment else lines.get(key, math.nan) for lines in (targets, benchmarks)]
    verdicts = [against(value, low, high, level, k.direction) for level in asked]
    side = "sales" if key in SIDES["sales"] or k.group in ("sales", "customer", "operations") else "marketing"
    tail = series.iloc[-SHOWN:].tolist()
    told = (asked[0], verdicts[0], asked[1], verdicts[1], tuple([math.nan] * (SHOWN - len(tail)) + tail))
    return (side, key, segment, value, low, high, usual, *ends, p, before, year, *told)


def _expected(series: pd.Series, holidays: Holidays | None) -> tuple[float, float, float, float]:
    """Forecast of the last period from those before it, its normal range, and how rarely honest ones lie so far off.

    The spread is that of all past one-step errors, and Student's t has as many degrees of freedom as there are errors,
    or as few as their kurtosis asks for (6 / (v - 4) in excess): tails that the past did show are not surprising.
    """
    try:
        told, _found = baseline(series.iloc[:-1], 1, holidays)
    except KpiError:
        return (math.nan,) * 4
    missed, centre = told.missed([1.0]), float(told.mean[0])
    if len(missed) < 2 or not (missed**2).sum() > 0:
        return (math.nan,) * 4
    square = float((missed**2).mean())
    excess = float((missed**4).mean()) / square**2 - 3
    freedom = min(float(len(missed)), 4 + 6 / max(excess, 1e-9))
    spread = math.sqrt((square * (1 + 1 / len(missed)) + float(told.noise[0, 0])) * (freedom - 2) / freedom)
    factor = told.multiplicative and centre > 0
    ends = stdtrit(freedom, [LEVEL / 2, 1 - LEVEL / 2]) * spread
    low, high = (centre * np.exp(ends) if factor else centre + ends).tolist()
    value = float(series.iloc[-1])
    far = (math.log(value / centre) if value > 0 else -math.inf) if factor else value - centre
    p = 2 * float(stdtr(freedom, -abs(far) / spread)) if math.isfinite(value) else math.nan
    return centre, max(low, 0.0) if told.never_negative else low, high, p


def _status(key: str, value: float, usual: float, adjusted: float) -> str:
    if not math.isfinite(adjusted):
        return "unknown"
    if adjusted >= LEVEL:
        return "inside"
    direction = kpis.kpi(key).direction
    return "unusual" if direction == "none" else "better" if (value > usual) == (direction == "up") else "worse"


def against(value: float, low: float, high: float, level: float, direction: str) -> str:
    """``met``, ``missed`` or ``open`` (its interval holds the `level`); empty without a level or a value.

    >>> against(0.031, 0.029, 0.033, 0.03, "up"), against(0.031, 0.029, 0.033, 0.02, "down")
    ('open', 'missed')
    """
    if not (math.isfinite(level) and math.isfinite(value)) or direction == "none":
        return ""
    if low <= level <= high:
        return "open"
    return "met" if value == level or (value > level) == (direction == "up") else "missed"


def _lines(given: Sequence[str], name: str) -> dict[str, float]:
    """Lines such as ``ctr_ad 0.012``, read."""
    read = {}
    for line in given:
        key, _space, text = line.strip().partition(" ")
        try:
            read[kpis.kpi(key).id] = float(text)
        except ValueError:
            raise KpiError(f'{name}: "{line}" is no KPI and number. Write a line such as "ctr_ad 0.012".') from None
    return read


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call(OfScores):
    """Which rows of a scorecard left their own range, and the one to call about first: the head of the report."""

    card: Scorecard

    aside: ClassVar = ("card",)

    @property
    def name(self) -> str:
        """The answer of the report."""
        return "answer"

    def to_frame(self) -> pd.DataFrame:
        c = self.card
        return c.to_frame().iloc[c.outside].drop(columns=["confidence"])

    def sentence(self, language: str = "en") -> str:
        return " ".join(self.parts(language))

    def parts(self, language: str) -> list[str]:
        """The sentences of the headline."""
        c = self.card
        told: dict[str, Any] = {"n": len(c.outside), "k": sum(map(math.isfinite, c.p))}
        told["when"] = say(f"scorecard.last {c.grain}", language)
        if not c.outside:
            kind = "none" if told["k"] else "unknown"
            return [say(f"call.{kind}", language, **told)]
        told["name"] = c.named(c.outside[0], language)
        return [say("call.some", language, **told), say(f"call.{c.status[c.outside[0]]}", language, **told)]


def growth(data: Source, ids: Sequence[str], *, as_of: date, days: int = 28, confidence: float = 0.95) -> "Growth":
    """KPIs of each channel in the last `days` up to `as_of`, against as many days before."""
    times = [(as_of - timedelta(days=n * days - 1), as_of - timedelta(days=(n - 1) * days)) for n in (1, 2)]
    now, was = (kpis.scorecard(data, ids, by="channel", start=a, end=b, confidence=confidence) for a, b in times)
    both = now.merge(was, on=["kpi", "channel"], how="left", suffixes=("", "_was"))
    both = both[both["value"].notna()]
    moved = [moves(row.value, row.low, row.high, row.value_was, row.low_was, row.high_was, unit=row.unit)
             for row in both.itertuples()]  # fmt: skip
    rows = [(r.channel, r.kpi, r.value, r.low, r.high, *m) for r, m in zip(both.itertuples(), moved, strict=True)]
    return Growth.of(rows, days=days, since_at=times[0][0], until_at=as_of, confidence=confidence, currency=data.currency())


def moves(
    value: float, low: float, high: float, was: float, was_low: float, was_high: float, *, unit: str
) -> tuple[float, float, float]:
    """Change between two independent values with its interval: of a share in points, of all else relative.

    The distances of the ends add up in squares, of relative changes on the logarithms. Zou & Donner (2008), Statistics
    in Medicine 27:1693-1702; a value of 0 has no relative change.

    >>> [round(x, 4) for x in moves(0.03, 0.027, 0.034, 0.02, 0.018, 0.023, unit="share")]
    [0.01, 0.0058, 0.0145]
    """
    points = unit in ("share", "change", "pp", "points")
    if not points and not min(value, was) > 0:
        return (math.nan,) * 3
    with np.errstate(divide="ignore"):
        a, b = (np.array(t) if points else np.log(np.maximum(t, 0)) for t in ((value, low, high), (was, was_low, was_high)))
    ends = a[0] - b[0] - np.hypot(a[0] - a[1], b[2] - b[0]), a[0] - b[0] + np.hypot(a[2] - a[0], b[0] - b[1])
    told = [float(a[0] - b[0]), *map(float, ends)]
    return tuple(told) if points else tuple(math.expm1(x) for x in told)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Growth(OfScores):
    """KPIs of each channel over some days with intervals, and how they moved against as many days before."""

    channel: tuple[str, ...]
    kpi: tuple[str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    moved: tuple[float, ...]
    moved_low: tuple[float, ...]
    moved_high: tuple[float, ...]
    days: int
    since_at: date
    until_at: date
    confidence: float
    currency: str

    aside: ClassVar = ("currency",)

    @property
    def channels(self) -> list[str]:
        """Channels, by falling size of the first KPI."""
        frame = self.to_frame()
        size = frame[frame["kpi"] == self.kpi[0]].sort_values("value", ascending=False, kind="stable")["channel"]
        return list(dict.fromkeys([*size, *self.channel]))

    def sentence(self, language: str = "en") -> str:
        clear = sum(low > 0 or high < 0 for low, high in zip(self.moved_low, self.moved_high, strict=True))
        known = sum(map(math.isfinite, self.moved))
        first, last = day(self.since_at, language), day(self.until_at, language)
        return say("growth.sentence", language, n=clear, k=known, days=self.days, first=first, last=last)


def moved_words(moved: float, low: float, high: float, unit: str, language: str) -> str:
    """A change in words: points for a share, percent for all else, with its range if it has one."""
    if not math.isfinite(moved):
        return "–"
    pp = " " + say("unit.pp", language).strip() if unit in ("share", "change", "pp") else ""
    decimals = 2 if pp and abs(moved) < 0.01 else 1
    ends = [percent(x, language, decimals=decimals, sign=True) for x in (moved, low, high)]
    ends = [e.replace("%", pp) if pp else e for e in ends]
    return ends[0] + (say("growth.range", language, low=ends[1].removesuffix(pp) if pp else ends[1], high=ends[2]) if math.isfinite(low + high) else "")


def _points(row: Mapping[str, Any]) -> dict[str, Any]:
    """Where the marks of a sparkline stand, in a box of 136 by 36: pieces of the line, the last point, the range."""
    known = [v for v in row["history"] if math.isfinite(v)]
    ends = [v for v in (*known, row["usual_low"], row["usual_high"]) if math.isfinite(v)]
    least, room = min(ends), (max(ends) - min(ends)) or 1.0
    at = [(3 + 130 * i / (SHOWN - 1), 33 - 30 * (v - least) / room) for i, v in enumerate(row["history"])]
    pieces: list[list[str]] = [[]]
    for x, y in at:
        if math.isfinite(y):
            pieces[-1].append(f"{x:.1f},{y:.1f}")
        elif pieces[-1]:
            pieces.append([])
    band = [33 - 30 * (v - least) / room for v in (row["usual_high"], row["usual_low"])]
    told = {"lines": [" ".join(p) for p in pieces if p], "x": f"{at[-1][0]:.1f}", "y": at[-1][1]}
    return told | {"top": f"{band[0]:.1f}", "tall": f"{max(band[1] - band[0], 1):.1f}", "banded": math.isfinite(sum(band)),
                   "least": min(known), "most": max(known)}  # fmt: skip
