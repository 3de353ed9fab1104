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

from kpi_helpers import kpis
from kpi_helpers.backtests import Holidays, baseline
from kpi_helpers.calendars import SEASONS
from kpi_helpers.catalogue import declared
from kpi_helpers.errors import KpiError, require
from kpi_helpers.mappings import PERIODS
from kpi_helpers.outlooks import OfKpis
from kpi_helpers.result import day, labelled_pill, one_unit, percent, say
from kpi_helpers.sources import Source
from kpi_helpers.stats import Floats, holm, ratio_margin, wilson

#: few KPIs that are known when a period ends, by whose work they show; those of the objective join them
SIDES = {
    "marketing": ("sessions", "visitor_lead_rate", "ctr_ad", "cpc", "cpa", "open_rate", "ctr_email"),
    "sales": ("revenue", "orders", "aov", "order_rate_session", "roi", "opportunities", "call_answer_rate"),
}
#: status -> tone of its pill
TONES = {
    "worse": "bad", "better": "calm", "unusual": "watch", "inside": "good", "unknown": "none",
    "met": "good", "missed": "bad", "open": "none", "running": "calm", "late": "none",
    "main": "good", "feeder": "calm", "both": "good", "small": "none", "unclear": "none",
}  # fmt: skip
SHOWN, LEVEL, TOP = 13, 0.05, 8


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OfScores(OfKpis):
    """A result of this page: its HTML has pills of its own and draws sparklines."""

    ways: ClassVar[Mapping[str, Any]] = {
        **OfKpis.ways, "mark": lambda s, words: labelled_pill(TONES[s], words),
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
        """The KPI to explain: that of the row to call about, or else the main one."""
        found = [self.kpi[i] for i in self.outside if kpis.kpi(self.kpi[i]).tables == {"channel_daily"}]
        return [*found, self.main][0]

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
    last = pd.Period(as_of, PERIODS[grain])
    last = last if last.end_time.date() <= as_of else last - 1
    chosen, lacking = kpis.choose(data, objective, most=4), kpis.feeds(data)
    wanted = list(dict.fromkeys(kpis.kpi(k).id for k in ids or [*chosen.kpis, *SIDES["marketing"], *SIDES["sales"]]))
    fed = [k for k in wanted if not lacking[k]]
    told = {"grain": grain, "confidence": confidence}
    tables = [
        _series(data, fed, last, **told),
        _series(data, [k for k in chosen.kpis if k in fed], last, by="channel", **told),
    ]
    lines = _lines(goals, "goals"), _lines(benchmarks, "benchmarks")
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


def _series(
    data: Source, ids: Sequence[str], last: pd.Period, *, grain: str, confidence: float, by: str = ""
) -> list[Any]:
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
        own = (
            frame[(frame["kpi"] == key) & frame["period"].notna()].set_index("period").iloc[1:]
        )  # the first may be part
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
    return Growth.of(
        rows, days=days, since_at=times[0][0], until_at=as_of, confidence=confidence, currency=data.currency()
    )


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
        a, b = (
            np.array(t) if points else np.log(np.maximum(t, 0)) for t in ((value, low, high), (was, was_low, was_high))
        )
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
    return ends[0] + (
        say("growth.range", language, low=ends[1].removesuffix(pp) if pp else ends[1], high=ends[2])
        if math.isfinite(low + high)
        else ""
    )


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Roles(OfScores):
    """What each channel does: its share of the KPI that is sold and of the people whom it met first, in some days.

    A share counts as large where its whole interval lies above one n-th for n channels. `role`: ``main`` sells more
    than it brings, ``feeder`` brings more than it sells, ``both``, ``small``, or ``unclear``. `first` is NaN without
    touchpoints, and then no channel is a feeder.
    """

    channel: tuple[str, ...]
    value: tuple[float, ...]
    share: tuple[float, ...]
    share_low: tuple[float, ...]
    share_high: tuple[float, ...]
    first: tuple[float, ...]
    first_low: tuple[float, ...]
    first_high: tuple[float, ...]
    role: tuple[str, ...]
    kpi: str
    days: int
    confidence: float
    currency: str

    aside: ClassVar = ("kpi", "currency")

    def sentence(self, language: str = "en") -> str:
        name = kpis.kpi(self.kpi).name[language]
        if len(self.channel) < 2:
            return say("roles.whole", language, name=name)
        told = {
            r: ", ".join(c for c, role in zip(self.channel, self.role, strict=True) if role == r) or "–" for r in TONES
        }
        kind = "sentence" if math.isfinite(sum(self.first)) else "alone"
        return say(f"roles.{kind}", language, main=told["main"], feeder=told["feeder"], both=told["both"], name=name)


def roles(data: Source, key: str, *, as_of: date, days: int = 28, confidence: float = 0.95) -> Roles:
    """Tell main channels, which sell, from feeders, which bring people, by a sum such as ``revenue``."""
    since = as_of - timedelta(days=days - 1)
    sums = kpis.daily_sums(data, [kpis.kpi(key)], by="channel", since=since, until=as_of)
    x = sums.pivot_table(index="date", columns="segment", values=f"{key}__num", aggfunc="sum").fillna(0.0)
    x = x.loc[:, x.sum() != 0]
    sold, whole, n = x.sum(), x.sum(axis=1).to_numpy(), len(x)
    share = (sold / whole.sum()).to_numpy()
    missed = ((x.to_numpy() - whole[:, None] * share) ** 2).sum(axis=0)
    margin = ratio_margin(np.full(len(share), n), np.full(len(share), whole.sum()), missed, confidence=confidence)
    met = _first_met(data, since, as_of).reindex(x.columns, fill_value=0)
    first = met.to_numpy() / met.sum() if met.sum() else np.full(len(share), math.nan)
    ends = wilson(met, met.sum(), confidence=confidence) if met.sum() else (first, first)
    fair = 1 / max(len(share), 1)
    sells, brings = _large(share - margin, share + margin, fair), _large(*ends, fair)
    words = {(1, -1): "main", (-1, 1): "feeder", (1, 1): "both", (-1, -1): "small", (1, 2): "main", (-1, 2): "small"}
    role = [words.get(pair, "unclear") for pair in zip(sells, brings, strict=True)]
    rows = zip(x.columns, sold, share, share - margin, share + margin, first, *ends, role, strict=True)
    ranked = sorted(rows, key=lambda row: -row[1])
    return Roles.of(ranked, kpi=key, days=days, confidence=confidence, currency=data.currency())


def _large(low: Floats, high: Floats, fair: float) -> list[int]:
    """Whether shares are large (1), small (-1) or too close to call (0); 2 where nothing is known."""
    return [2 if math.isnan(a) else 1 if a >= fair else -1 if b < fair else 0 for a, b in zip(low, high, strict=True)]


def _first_met(data: Source, since: date, until: date) -> pd.Series:
    """People by the channel of their first contact in these days."""
    if "touchpoints" not in data.tables:
        return pd.Series(dtype=float)
    touches = data.table("touchpoints").mutate(on=_.touched_at.cast("date")).filter(_.on.between(since, until))
    order = ibis.window(group_by="customer_id", order_by=["touched_at", "channel"])
    first = touches.mutate(nth=ibis.row_number().over(order)).filter(_.nth == 0)
    frame = first.group_by("channel").aggregate(people=_.count()).to_pyarrow().to_pandas()
    return frame.set_index("channel")["people"].astype(float)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Campaigns(OfScores):
    """Targets of campaigns against what came, newest first, and the share that was met with its interval."""

    campaign: tuple[str, ...]
    kpi: tuple[str, ...]
    target: tuple[float, ...]
    actual: tuple[float, ...]
    ends_on: tuple[date, ...]
    status: tuple[str, ...]
    met: float
    met_low: float
    met_high: float
    confidence: float
    currency: str

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        if not self.campaign:
            return say("campaigns.none", language)
        done = [s for s in self.status if s in ("met", "missed")]
        told = {"n": done.count("met"), "k": len(done), "share": percent(self.met, language, decimals=0)}
        told |= {
            "low": percent(self.met_low, language, decimals=0),
            "high": percent(self.met_high, language, decimals=0),
        }
        return say("campaigns.sentence", language, level=f"{self.confidence:.0%}", **told)


def campaigns(data: Source, *, as_of: date, confidence: float = 0.95) -> Campaigns:
    """Compare the targets of campaigns with their sums up to `as_of`; empty where the source has none."""
    whole: dict[str, Any] = {"confidence": confidence, "currency": data.currency()}
    if kpis.feeds(data)["campaign_success"]:
        return Campaigns.of((), met=math.nan, met_low=math.nan, met_high=math.nan, **whole)
    asked = data.table("targets").to_pyarrow().to_pandas()
    asked = asked[pd.to_datetime(asked["starts_on"]) <= pd.Timestamp(as_of)]
    summed = [k for k in map(kpis.kpi, sorted(set(asked["kpi"]) & declared().keys())) if k.numerator == (k.id,)]
    daily = kpis.daily_sums(data, summed, by="campaign", until=as_of).set_index("segment")
    rows = []
    for t in asked[asked["kpi"].isin([k.id for k in summed])].itertuples():
        own = daily[
            (daily.index == t.campaign) & daily["date"].between(pd.Timestamp(t.starts_on), pd.Timestamp(t.ends_on))
        ]
        actual, ends = float(own[f"{t.kpi}__num"].sum()), pd.Timestamp(t.ends_on).date()
        late = pd.notna(told := getattr(t, "registered_on", None)) and pd.Timestamp(told) > pd.Timestamp(t.starts_on)
        status = "running" if ends > as_of else "late" if late else "met" if actual >= t.target else "missed"
        rows.append((t.campaign, t.kpi, float(t.target), actual, ends, status))
    rows.sort(key=lambda row: (-row[4].toordinal(), row[0], row[1]))
    met = kpis.scorecard(data, ["campaign_success"], end=as_of, confidence=confidence).iloc[0]
    return Campaigns.of(rows, met=float(met["value"]), met_low=float(met["low"]), met_high=float(met["high"]), **whole)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Drill(OfScores):
    """One KPI by campaign, channel and period: the largest rows, all others as one, and the total that they make."""

    segment: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    period_at: tuple[date, ...]
    kpi: str
    grain: str
    currency: str

    aside: ClassVar = ("values", "period_at", "kpi", "grain", "currency")

    def to_frame(self) -> pd.DataFrame:
        columns = [d.isoformat() for d in self.period_at]
        return pd.DataFrame(self.values, columns=columns).assign(segment=self.segment, kpi=self.kpi)

    def sentence(self, language: str = "en") -> str:
        return say("drill.sentence", language, name=kpis.kpi(self.kpi).name[language])

    def printed(self, language: str) -> tuple[Floats, str, int]:
        """Cells in one unit, rounded so that the columns of a sum add up as printed; the unit's words, decimals."""
        k, cells = kpis.kpi(self.kpi), np.array(self.values)
        size, unit = one_unit(float(np.nanmax(np.abs(cells))), k.unit, self.currency, language)
        if not k.additive:
            return cells, "", -1
        decimals = int(size > 1)
        ends = np.round(np.cumsum(np.nan_to_num(cells[:-1]) / size, axis=0), decimals)
        return np.vstack([np.diff(ends, axis=0, prepend=0), ends[-1:]]), unit, decimals


def drill(data: Source, key: str, *, as_of: date, grain: str = "week", periods: int = 5) -> Drill:
    """Split a KPI of ``channel_daily`` by campaign and channel over the last full periods."""
    k, last = kpis.kpi(key), pd.Period(as_of, PERIODS[grain])
    require(k.tables == {"channel_daily"}, f"drill={key!r} is no KPI of channel_daily. Choose one such as orders.")
    last = last if last.end_time.date() <= as_of else last - 1
    at = pd.period_range(last - (periods - 1), last, freq=last.freq)
    by = [c for c in ("campaign", "channel") if c in data.columns("channel_daily")]
    span_of: dict[str, Any] = {"grain": grain, "start": at[0].start_time.date(), "end": last.end_time.date()}
    frame = kpis.scorecard(data, [key], by=by, **span_of)
    frame = frame.assign(name=frame[by].replace("", "–").agg(" · ".join, axis=1), den=frame["denominator"].fillna(1.0))
    num, den = (frame.pivot_table(index="name", columns="period", values=c, aggfunc="sum").reindex(columns=at.start_time)
                for c in ("numerator", "den"))  # fmt: skip
    order = (num if k.additive else den).sum(axis=1).sort_values(ascending=False, kind="stable").index
    named = [*order[:TOP], *(["other"] if len(order) > TOP else [])]
    fold = {name: name if name in order[:TOP] else "other" for name in order}
    num, den = (t.groupby(fold).sum(min_count=1).reindex(named) for t in (num, den))
    num, den = (pd.concat([t, t.sum(min_count=1).to_frame("total").T]) for t in (num, den))
    cells = num if k.additive else num / den.where(den != 0) * k.scale
    return Drill.of(
        zip([*named, "total"], map(tuple, cells.to_numpy(dtype=float).tolist()), strict=True),
        period_at=tuple(p.start_time.date() for p in at), kpi=k.id, grain=grain, currency=data.currency(),
    )  # fmt: skip
