"""Notebook 02: which KPIs left their own normal range in the last full period, false alarms controlled."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.backtests import Holidays, surprise
from kpi_helpers.calendars import SEASONS
from kpi_helpers.catalogue import OfKpis
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import labelled_pill, number, say
from kpi_helpers.scoring import last_full
from kpi_helpers.sources import Source
from kpi_helpers.stats import holm

#: few KPIs that are known when a period ends, by whose work they show; those of the objective join them
SIDES = {
    "marketing": ("sessions", "visitor_lead_rate", "ctr_ad", "cpc", "cpa", "open_rate", "ctr_email"),
    "sales": ("revenue", "orders", "aov", "order_rate_session", "roi", "opportunities", "call_answer_rate"),
}
#: status -> tone of its pill
TONES = {
    "worse": "bad", "better": "calm", "unusual": "watch", "inside": "good", "noise": "none", "unknown": "none",
    "met": "good", "missed": "bad", "open": "none", "running": "calm", "late": "none",
    "main": "good", "feeder": "calm", "both": "good", "small": "none", "unclear": "none",
}  # fmt: skip
SHOWN, LEVEL = 13, 0.05
COLUMNS = (
    "side", "kpi", "segment", "value", "low", "high", "usual", "usual_low", "usual_high", "p", "before", "last_year",
    "target", "target_status", "benchmark", "benchmark_status", "history",
)  # fmt: skip
IN_POINTS = ("share", "change", "pp", "points")  # these move by a difference, all else by a quotient


class Scores(OfKpis):
    """A result of this page: its HTML has pills of its own, changes in words and sparklines."""

    ways: ClassVar = {
        **OfKpis.ways, "nan": math.nan, "mark": lambda s, words: labelled_pill(TONES[s], words),
        "points": lambda row: _points(row), "IN_POINTS": IN_POINTS,
        "moved_words": lambda *told, **how: moved_words(*told, **how),
    }  # fmt: skip


class Scorecard(Scores):
    """The last full period of KPIs, whole and by channel (`segment`), each against what its own past led to expect.

    `value` with the interval of a ratio; `usual` is the forecast from the periods before, `usual_low` to `usual_high`
    its normal range, `p` how rarely an honest period lies so far off, `adjusted` the same after Holm's control over
    all rows. `before`, `last_year`: the period before and the same one of last year. `target` and `benchmark` are the
    user's, NaN without. `history`: the last periods, the newest last. `missing`: KPIs that the source cannot feed.
    """

    aside: ClassVar = ("history", "part", "missing", "main", "grain", "currency")

    @property
    def outside(self) -> list[int]:
        """Rows outside their range after control: the worse first, and the surest of them first."""
        order = {"worse": 0, "unusual": 1, "better": 2}
        found = self.frame.assign(order=self.frame["status"].map(order)).dropna(subset="order")
        return [int(i) for i in found.sort_values(["order", "adjusted"], kind="stable").index]

    @property
    def below_last(self) -> int:
        """Rows that a reader of "red is worse than the period before" would call red."""
        moved, down = self.frame["value"] - self.frame["before"], [kpis.kpi(k).direction == "down" for k in self.kpi]
        return int(np.sum(np.where(down, moved > 0, moved < 0)))

    @property
    def first(self) -> str:
        """The KPI to explain: that of the row to call about, or else the main one."""
        found = [self.kpi[i] for i in self.outside if kpis.kpi(self.kpi[i]).tables == {"channel_daily"}]
        return str([*found, self.main][0])

    def call(self) -> "Call":
        """The head of the report."""
        return Call(frame=self.frame, whole=self.whole)

    def sentence(self, language: str = "en") -> str:
        told = {"n": len(self.outside), "k": sum(map(math.isfinite, self.p)), "red": self.below_last}
        period, alone = say(f"period.{self.grain}", language), sum(p < LEVEL for p in self.p)
        return say("scorecard.sentence", language, period=period, alone=alone, **told)

    def named(self, i: int, language: str) -> str:
        """A row in words: its KPI, and the channel if it is of one."""
        name = kpis.kpi(self.kpi[i]).name[language]
        return say("scorecard.of", language, name=name, segment=self.segment[i]) if self.segment[i] else name


def scorecard(
    data: Source, *, as_of: date, objective: str = "sales", ids: Sequence[str] = (), grain: str = "week",
    goals: Sequence[str] = (), benchmarks: Sequence[str] = (), holidays: Holidays | None = None,
    confidence: float = 0.95,
) -> Scorecard:  # fmt: skip
    """Judge the last full period of each KPI, whole and by channel, against its own past, false alarms controlled.

    `ids` replace the KPIs of both `SIDES`; those that the source cannot feed are named as missing. `goals` and
    `benchmarks` are lines such as ``"ctr_ad 0.012"``, for one period of the `grain`. A row leaves its range only if
    its one-step forecast from the periods before says so after Holm's control at 5% over all rows.
    Raises a `KpiError` if a KPI, the grain or a line is wrong, or the source feeds no KPI at all.
    """
    require(grain in SEASONS, f"grain={grain!r} is not one of {', '.join(SEASONS)}.")
    last, chosen, lacking = last_full(as_of, grain), kpis.choose(data, objective, most=4), kpis.feeds(data)
    wanted = list(dict.fromkeys(kpis.kpi(k).id for k in ids or [*chosen.kpis, *SIDES["marketing"], *SIDES["sales"]]))
    fed = [k for k in wanted if not lacking[k]]
    lines = _lines(goals, "goals"), _lines(benchmarks, "benchmarks")
    main, options = [k for k in ids or chosen.kpis if k in fed], (last, grain, confidence)
    found = _known(data, fed, *options) + _known(data, main, *options, by="channel")
    rows = [_judged(row, last, SEASONS[grain], holidays, lines) for row in found]
    require(len(rows) > 0, f"{data.name} feeds none of {', '.join(wanted)} up to {last.end_time.date()}.")
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["adjusted"] = holm(frame["p"])
    whole = {"main": chosen.main, "grain": grain, "period_at": last.start_time.date(), "until_at": last.end_time.date()}
    whole |= {"confidence": confidence, "currency": data.currency()}
    whole["missing"] = tuple((k, ", ".join(lacking[k])) for k in wanted if lacking[k])
    frame["status"] = [_status(row) for row in frame.itertuples()]
    told = np.where(frame["status"].isin(["worse", "better", "unusual"]), "channel", "")  # calm channels are not shown
    return Scorecard(frame=frame.assign(part=frame["side"].where(frame["segment"] == "", told)), whole=whole)


def _known(
    data: Source, ids: Sequence[str], last: pd.Period, grain: str, confidence: float, by: str | None = None
) -> list[tuple[Any, ...]]:
    """Each KPI, its segment, its values by period up to `last` (NaN where not fully known), its last interval."""
    until, out = last.end_time.date(), []
    daily = [k for k in ids if kpis.kpi(k).tables == {"channel_daily"} and kpis.kpi(k).kind != "stock"]
    rest = [] if by else [k for k in ids if k not in daily]
    if daily:
        table = kpis.compute(data, daily, by=by, grain=grain, until=until, confidence=confidence)
        columns = "value", "value_low", "value_high"
        out += [(k, s, *(table.series(k, s, c) for c in columns)) for k in daily for s in table.segments()]
    if rest:
        frame = kpis.scorecard(data, rest, grain=grain, end=until, confidence=confidence)
        for key, own in frame[frame["period"].notna()].set_index("period").groupby("kpi", sort=False):
            own = own.iloc[1:].set_axis(pd.PeriodIndex(own.index[1:], freq=last.freq))  # the first may be a part of one
            out.append((key, "", own["value"], own["low"], own["high"]))
    return [row for row in out if row[2][-4:].notna().any() and row[2].index[-1] >= last - 3]


def _judged(
    row: tuple[Any, ...], last: pd.Period, season: int, holidays: Holidays | None, lines: Sequence[Mapping[str, float]]
) -> tuple[Any, ...]:
    """Fields of a row up to `history`."""
    key, segment, series, *ends = row
    k = kpis.kpi(key)
    series = series.reindex(pd.period_range(min(series.index[0], last - SHOWN + 1), last, freq=last.freq)).astype(float)
    value, (low, high) = float(series.iloc[-1]), (float(end.get(last, math.nan)) for end in ends)
    before, year = (float(series.get(last - n, math.nan)) for n in (1, season))
    asked = [math.nan if segment else line.get(key, math.nan) for line in lines]
    verdicts = [against(value, low, high, level, k.direction) for level in asked]
    side = "sales" if key in SIDES["sales"] or k.group in ("sales", "customer", "operations") else "marketing"
    told = (asked[0], verdicts[0], asked[1], verdicts[1], tuple(series.iloc[-SHOWN:].tolist()))
    return (side, key, segment, value, low, high, *surprise(series, holidays), before, year, *told)


def _status(row: Any) -> str:
    if not math.isfinite(row.adjusted):
        return "unknown"
    if row.adjusted >= LEVEL:
        return "noise" if row.p < LEVEL else "inside"
    direction = kpis.kpi(row.kpi).direction
    return "unusual" if direction == "none" else "better" if (row.value > row.usual) == (direction == "up") else "worse"


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


class Call(Scorecard):
    """Which rows of a scorecard left their own range, and the one to call about first: the head of the report."""

    @property
    def name(self) -> str:
        """The answer of the report."""
        return "answer"

    def to_frame(self) -> pd.DataFrame:
        return super().to_frame().iloc[self.outside].drop(columns=["confidence"])

    def sentence(self, language: str = "en") -> str:
        return " ".join(self.parts(language))

    def standing(self, language: str) -> str:
        """The sentence of the whole scorecard."""
        return super().sentence(language)

    def parts(self, language: str) -> list[str]:
        """The sentences of the headline."""
        outside, known = self.outside, sum(map(math.isfinite, self.p))
        told = {"n": len(outside), "k": known, "when": say(f"scorecard.last {self.grain}", language)}
        if not outside:
            return [say("call.none" if known else "call.unknown", language, **told)]
        first = say(f"call.{self.status[outside[0]]}", language, name=self.named(outside[0], language))
        return [say("call.some", language, **told), first]


def moved_words(moved: float, unit: str, language: str, *, bare: bool = False) -> str:
    """A change in words: points for a share, percent for all else; `bare` without the unit."""
    after = say("unit.pp", language) if unit in IN_POINTS else "%"
    text = number(100 * moved, language, decimals=2 if unit == "share" else 1, sign=True)
    return text if bare or not math.isfinite(moved) else text + after


def _points(row: Any) -> dict[str, Any]:
    """Marks of a sparkline in a box of 136 by 36: its line, which breaks at gaps, its last point, its range."""
    history = np.array(row.history)
    ends = np.array([*history, row.usual_low, row.usual_high])
    least, room = np.nanmin(ends), np.ptp(ends[np.isfinite(ends)]) or 1.0
    x, y = np.linspace(3, 123, SHOWN), 33 - 30 * (ends - least) / room
    gap = ~np.isfinite(np.append(np.nan, history[:-1]))
    line = "".join(f"{'ML'[not g]}{a:.1f} {b:.1f}" for g, a, b in zip(gap, x, y[:-2], strict=True) if math.isfinite(b))
    told = {"line": line, "y": float(y[-3]), "top": float(y[-1]), "tall": max(float(y[-2] - y[-1]), 1.0)}
    return told | {"least": float(np.nanmin(history)), "most": float(np.nanmax(history))}
