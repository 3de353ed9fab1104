"""The KPI plan of notebook 01: outlook, graded targets, plan by month and channel, and the answer."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis, plots
from kpi_helpers.baselines import SEASONS, Forecast, forecast
from kpi_helpers.errors import KpiError
from kpi_helpers.result import (
    TONES,
    Result,
    day,
    measure,
    month,
    number,
    percent,
    pill,
    plain,
    probability,
    say,
    span,
    table,
    uplift,
)
from kpi_helpers.targets import allocate, grade_uplifts


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outlook(Result):
    """Where one KPI is heading in the plan's periods if nothing changes.

    Attributes
    ----------
    kpi, segment : str
        Id, and channel (empty for all).
    period_at : tuple of date
        First days of the plan's periods.
    expected, expected_low, expected_high : tuple of float
        Forecast and interval of each period.
    last_year : tuple of float
        Value of the same period one season before; NaN if unknown.
    total, total_low, total_high, total_sd : float
        The sum over the plan.
    reference : float
        What uplifts are put on: last year's sum, or `total` where last year is not fully known.
    history_at, history, bridge_at, bridge : tuple
        For the chart: the periods known, and the forecast of those between them and the plan.
    reason : str
        Why nothing can be forecast; empty when it can.
    """

    kpi: str
    segment: str
    grain: str
    confidence: float
    currency: str
    period_at: tuple[date, ...] = ()
    expected: tuple[float, ...] = ()
    expected_low: tuple[float, ...] = ()
    expected_high: tuple[float, ...] = ()
    last_year: tuple[float, ...] = ()
    total: float = math.nan
    total_low: float = math.nan
    total_high: float = math.nan
    total_sd: float = math.nan
    reference: float = math.nan
    history_at: tuple[date, ...] = ()
    history: tuple[float, ...] = ()
    bridge_at: tuple[date, ...] = ()
    bridge: tuple[float, ...] = ()
    reason: str = ""

    @property
    def knows_last_year(self) -> bool:
        """Whether the same periods of last year are all known; else uplifts are put on the forecast."""
        return bool(self.last_year) and all(map(math.isfinite, self.last_year)) and sum(self.last_year) > 0

    @property
    def change(self) -> float:
        """Expected change against last year, a fraction."""
        return self.total / self.reference - 1

    def to_frame(self) -> pd.DataFrame:
        """One row a period of the plan."""
        columns = ("period_at", "expected", "expected_low", "expected_high", "last_year")
        frame = pd.DataFrame({c: getattr(self, c) for c in columns})
        return frame.assign(kpi=self.kpi, segment=self.segment, confidence=self.confidence)

    def told(self, language: str) -> dict[str, str]:
        """The numbers of the outlook, written out."""
        k = kpis.kpi(self.kpi)
        values = {"total": self.total, "low": self.total_low, "high": self.total_high}
        written = {name: measure(v, k.unit, language, self.currency) for name, v in values.items()}
        change = percent(self.change, language, sign=True)
        return {**written, "name": k.name[language], "change": change, "level": f"{self.confidence:.0%}"}

    def sentence(self, language: str = "en") -> str:
        """Expected total, interval, and change against last year; or why there is none."""
        kind = "unknown" if self.reason else "sentence" if self.knows_last_year else "alone"
        return say(f"outlook.{kind}", language, reason=self.reason, **self.told(language))

    def title(self, language: str = "en") -> str:
        """The finding; no direction is claimed where the interval holds last year's value."""
        flat = self.total_low <= self.reference <= self.total_high
        kind = "flat" if flat else "rise" if self.change > 0 else "fall"
        if not self.knows_last_year:
            kind = "total"
        return say(f"outlook.{kind}", language, **self.told(language) | {"change": percent(abs(self.change), language)})

    def html(self, language: str = "en") -> str:
        """Chart of history and forecast, its numbers folded below."""
        if self.reason:
            return f"<p>{html.escape(self.sentence(language))}</p>"
        k = kpis.kpi(self.kpi)
        divisor, unit = _scale(max(self.expected_high), k.unit, self.currency, language)
        period = say(f"period.{self.grain}", language)
        drawn = plots.chart(
            lambda axes, narrow: self.plot(axes, narrow=narrow, language=language, scale=divisor),
            title=self.title(language),
            note=say("outlook.note", language, name=k.name[language], period=period, unit=unit),
            alt=self.sentence(language),
        )
        lines = zip(self.expected, self.expected_low, self.expected_high, self.last_year, strict=True)
        rows = [
            [day(at, language), *(measure(v, k.unit, language, self.currency) for v in values)]
            for at, values in zip(self.period_at, lines, strict=True)
        ]
        heads = say("outlook.heads", language).split("|")
        folded = table(heads, rows, caption=self.title(language), kind="tight", numeric=range(1, 5))
        return f'{drawn}<details class="code"><summary>{say("outlook.numbers", language)}</summary>{folded}</details>'

    def plot(self, axes: Any = None, *, language: str = "en", **options: Any) -> Any:
        """Draw history, forecast and last year on `axes` (new ones if none); returns the axes."""
        history = pd.Series(self.history, index=pd.to_datetime(self.history_at))
        bridge = pd.DataFrame({"expected": self.bridge}, index=pd.to_datetime(self.bridge_at))
        expected = pd.concat([bridge, self.to_frame().set_index(pd.to_datetime(self.period_at))])
        keys = ("actual", "expected", "interval", "last_year")
        words = [say(f"outlook.{key}", language, level=f"{self.confidence:.0%}") for key in keys]
        return plots.forecast(history, expected, axes, words=words, language=language, **options)


def outlook(
    values: kpis.KpiTable,
    key: str,
    *,
    segment: str = "",
    as_of: date,
    months: int = 3,
    confidence: float = 0.9,
) -> Outlook:
    """Forecast one additive KPI over the next `months` whole months after `as_of`.

    A period belongs to the month in which it begins. Uplifts are later put on the same periods of last
    year where all of them are known.

    Raises
    ------
    KpiError
        If the KPI is a ratio, or its history is too short for an error to be known.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> outlook(values, "orders", as_of=date(2026, 11, 21)).period_at[0]
    datetime.date(2026, 12, 7)
    """
    _require(kpis.kpi(key).additive, f"{key} is a ratio; a plan is made for sums such as orders or revenue.")
    series = values.series(key, segment)
    series = series[series.index.end_time.date <= as_of]  # the running period is not over
    first = (as_of.replace(day=1) + timedelta(days=32)).replace(day=1)
    if (as_of + timedelta(days=1)).day == 1:
        first = as_of + timedelta(days=1)
    last = (pd.Timestamp(first) + pd.DateOffset(months=months)).date() - timedelta(days=1)
    _require(
        bool(series.notna().any()),
        f"{key} of {segment or 'all channels'} has no complete period up to {as_of}.",
    )
    future = pd.period_range(series.index[-1] + 1, pd.Timestamp(last), freq=series.index.freq)
    future = future[[p.start_time.date() <= last for p in future]]
    skip = sum(p.start_time.date() < first for p in future)
    season = SEASONS[values.grain]
    told: Forecast = forecast(series.to_numpy(), season=season, horizon=len(future), levels=(confidence,))
    low, high = told.interval(confidence)
    total, total_low, total_high = told.total(confidence, skip=skip)
    before = series.reindex([p - season for p in future[skip:]]).to_numpy(dtype=float)
    return Outlook(
        kpi=key, segment=segment, grain=values.grain, confidence=confidence, currency=values.currency,
        period_at=tuple(p.start_time.date() for p in future[skip:]),
        expected=tuple(told.mean[skip:].tolist()), expected_low=tuple(low[skip:].tolist()),
        expected_high=tuple(high[skip:].tolist()), last_year=tuple(before.tolist()),
        total=total, total_low=total_low, total_high=total_high, total_sd=told.total_sd(skip=skip),
        reference=float(before.sum()) if np.isfinite(before).all() and before.sum() > 0 else total,
        history_at=tuple(p.start_time.date() for p in series.index), history=tuple(series.tolist()),
        bridge_at=tuple(p.start_time.date() for p in future[:skip]), bridge=tuple(told.mean[:skip].tolist()),
    )  # fmt: skip


def outlook_channels(values: kpis.KpiTable, key: str, **options: Any) -> list[Outlook]:
    """Forecast one KPI for each channel that knows it; one that is too short keeps its place, with the reason.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["spend"], by="channel")
    >>> [o.segment for o in outlook_channels(values, "spend", as_of=date(2026, 11, 21))]
    ['Paid social', 'Paid search', 'Affiliate']
    """
    outlooks = []
    for segment in values.segments():
        if values.series(key, segment).notna().any():
            try:
                outlooks.append(outlook(values, key, segment=segment, **options))
            except KpiError as error:
                told = {"confidence": options.get("confidence", 0.9), "currency": values.currency}
                outlooks.append(Outlook(kpi=key, segment=segment, grain=values.grain, reason=str(error), **told))
    return outlooks


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TargetTable(Result):
    """Uplifts over last year for several KPIs and channels, graded; one row a KPI, segment and uplift.

    `grade` is "not enough data" and `probability` NaN where the odds cannot be computed.
    """

    kpi: tuple[str, ...]
    segment: tuple[str, ...]
    reference: tuple[float, ...]
    expected: tuple[float, ...]
    expected_low: tuple[float, ...]
    expected_high: tuple[float, ...]
    uplift: tuple[float, ...]
    target: tuple[float, ...]
    probability: tuple[float, ...]
    grade: tuple[str, ...]
    confidence: float
    currency: str

    def sentence(self, language: str = "en") -> str:
        """How many of the targets are safe."""
        return say("target_table.sentence", language, safe=self.grade.count("safe"), n=len(self.grade))

    def html(self, language: str = "en") -> str:
        """Grid: one row a KPI or channel, one column an uplift."""
        uplifts = [uplift(u, language) for u in dict.fromkeys(self.uplift)]
        parts = self.to_frame().groupby(["kpi", "segment"], sort=False)
        return table(
            [*say("target_table.heads", language).split("|"), *uplifts],
            [self._row(part, language) for _key, part in parts],
            caption=say("target_table.caption", language),
            note=say("target_table.note", language, level=f"{self.confidence:.0%}"),
            numeric=(1, 2),
        )

    def _row(self, part: pd.DataFrame, language: str) -> list[str]:
        first = part.iloc[0]
        k = kpis.kpi(first["kpi"])
        base = measure(first["reference"], k.unit, language, self.currency)
        range_ = span(first["expected_low"], first["expected_high"], k.unit, language, self.currency)
        name = html.escape(first["segment"] or k.name[language])
        under = f"<small>{k.name[language]}</small>" if first["segment"] else ""
        change = percent(first["expected"] / first["reference"] - 1, language, sign=True)
        odds = [_odds(p, g, language) for p, g in zip(part["probability"], part["grade"], strict=True)]
        return [name + under, base, f"{change}<small>{range_}</small>", *odds]


def grade_outlooks(outlooks: Sequence[Outlook], uplifts: Sequence[float]) -> TargetTable:
    """Grade each uplift over last year for each outlook.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> grade_outlooks([outlook(values, "orders", as_of=date(2026, 11, 21))], [0.05, 0.5]).grade
    ('safe', 'unrealistic')
    """
    whole = {o.kpi for o in outlooks if not o.segment}
    alone = [o for o in outlooks if o.segment and o.kpi in whole]
    if len(alone) == 1:  # the only channel says the same as the whole
        outlooks = [o for o in outlooks if o is not alone[0]]
    _require(len(outlooks) > 0, "There is no outlook to grade. Choose a KPI whose history is long enough.")
    rows = []
    for o in outlooks:
        targets = [o.reference * (1 + u) for u in uplifts]
        if o.total > 0 and o.total_sd > 0:
            graded = grade_uplifts(o.total, o.total_sd, [t / o.total - 1 for t in targets])
            odds = list(zip(graded.probability, graded.grade, strict=True))
        else:
            odds = [(math.nan, "not enough data")] * len(targets)
        rows += [
            (
                o.kpi,
                o.segment,
                o.reference if o.knows_last_year else math.nan,
                o.total,
                o.total_low,
                o.total_high,
                u,
                t,
                p,
                g,
            )
            for u, t, (p, g) in zip(uplifts, targets, odds, strict=True)
        ]
    names = ("kpi", "segment", "reference", "expected", "expected_low", "expected_high", "uplift", "target",
             "probability", "grade")  # fmt: skip
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    return TargetTable(**columns, confidence=outlooks[0].confidence, currency=outlooks[0].currency)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Result):
    """What to reach, by channel and month, in whole numbers that add up to the target."""

    kpi: str
    uplift: float
    total: int
    currency: str
    channel: tuple[str, ...]
    month_at: tuple[date, ...]
    target: tuple[int, ...]

    def sentence(self, language: str = "en") -> str:
        """The total and its split."""
        k = kpis.kpi(self.kpi)
        return say(
            "plan.sentence", language, name=k.name[language], uplift=uplift(self.uplift, language),
            total=measure(self.total, k.unit, language, self.currency),
        )  # fmt: skip

    def html(self, language: str = "en") -> str:
        """Channels by months, with totals."""
        grid = self.to_frame().pivot_table(index="channel", columns="month_at", values="target", aggfunc="sum")
        grid = grid.assign(total=grid.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
        divisor, unit = _scale(float(grid["total"].sum()), kpis.kpi(self.kpi).unit, self.currency, language)
        decimals = int(divisor > 1)
        cells = grid.drop(columns="total")
        step = divisor / 10**decimals  # what is printed must add up as well, so it is rounded by allocation too
        printed = np.array(allocate(round(self.total / step), cells.to_numpy().ravel())).reshape(cells.shape)
        printed = np.vstack([printed, printed.sum(axis=0)])
        printed = np.column_stack([printed, printed.sum(axis=1)]) / 10**decimals
        names = [*map(html.escape, grid.index), say("channel.all", language)]
        rows = [
            [name, *(number(v, language, decimals=decimals) for v in row)]
            for name, row in zip(names, printed, strict=True)
        ]
        months = [month(m, language) for m in cells.columns]
        heads = [say("channel.heading", language), *months, say("plan.total", language)]
        return table(
            heads, rows, caption=self.sentence(language), kind="tight",
            note=say("plan.note", language, unit=unit), total=True, numeric=range(1, len(heads)),
        )  # fmt: skip


def allocate_plan(whole: Outlook, channels: Sequence[Outlook], share: float) -> Plan:
    """Split the target of `whole` over channels and months in proportion to what each is heading for.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> whole = outlook(values, "orders", as_of=date(2026, 11, 21))
    >>> plan = allocate_plan(whole, [whole], 0.10)
    >>> sum(plan.target) == plan.total == round(whole.reference * 1.1)
    True
    """
    cells: dict[tuple[str, date], float] = {}
    for o in [o for o in channels if not o.reason] or [whole]:
        for at, value in zip(o.period_at, o.expected, strict=True):
            cell = (o.segment, at.replace(day=1))
            cells[cell] = cells.get(cell, 0.0) + max(value, 0.0)
    total = round(whole.reference * (1 + share))
    return Plan(
        kpi=whole.kpi, uplift=share, total=total, currency=whole.currency,
        channel=tuple(c for c, _m in cells), month_at=tuple(m for _c, m in cells),
        target=tuple(allocate(total, list(cells.values()))),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer(Result):
    """What to commit to and how sure that is: the head of the report.

    `uplift`, `probability` and `grade` are those of the target to commit to; `top_uplift` and
    `top_probability` those of the highest that was asked about.
    """

    kpi: str
    uplift: float
    probability: float
    grade: str
    target: float
    top_uplift: float
    top_probability: float
    outlook: Outlook
    as_of: date

    def to_frame(self) -> pd.DataFrame:
        """One row: the numbers of the answer."""
        columns = ("kpi", "uplift", "probability", "grade", "target", "top_uplift", "top_probability", "as_of")
        o = self.outlook
        expected = {"expected": o.total, "expected_low": o.total_low, "expected_high": o.total_high}
        return pd.DataFrame([{c: getattr(self, c) for c in columns} | expected])

    @property
    def commit(self) -> float:
        """Uplift to plan for: the safe one, or the expected change where none is safe."""
        return self.uplift if self.grade == "safe" else self.outlook.change

    def sentence(self, language: str = "en") -> str:
        """The answer in one or two short sentences."""
        return plain(self._headline(language))

    def html(self, language: str = "en") -> str:
        """Kicker, headline and standfirst."""
        o, told = self.outlook, self.outlook.told(language)
        first, last = o.period_at[0], o.period_at[-1]
        days = {"from_day": day(first, language), "to_day": day(last, language)}
        kicker = say("answer.kicker", language, as_of=day(self.as_of, language),
                     first=month(first, language), last=month(last, language))  # fmt: skip
        against = say("answer.against", language, **told) if o.knows_last_year else ""
        standfirst = say("answer.standfirst", language, against=against, **told, **days)
        return (
            f'<p class="kicker">{kicker}</p><h1>{self._headline(language)}</h1><p class="standfirst">{standfirst}</p>'
        )

    def _headline(self, language: str) -> str:
        told = {
            "name": kpis.kpi(self.kpi).name[language].lower(),
            "grade": say(f"status.{self.grade}", language).lower(),
            "uplift": uplift(self.uplift, language, sign=self.uplift < 0),
            "chance": probability(self.probability, language),
            "top": uplift(self.top_uplift, language, sign=False),
            "top_chance": probability(self.top_probability, language),
        }
        kinds = {"safe": ["safe"], "not enough data": ["unknown"]}.get(self.grade, ["unsafe"])
        if self.uplift <= 0 and self.grade != "not enough data":
            kinds = ["fall"]
        if self.grade == "safe" and self.top_uplift > self.uplift > 0:
            kinds.append("top")
        parts = (html.escape(say(f"answer.{kind}", language, **told)) for kind in kinds)
        return " ".join(f'<span class="sentence">{part}</span>' for part in parts)


def answer(graded: TargetTable, whole: Outlook, *, as_of: date) -> Answer:
    """Commit to the largest uplift that is safe; if none is, say how likely the smallest one is.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> whole = outlook(values, "orders", as_of=date(2026, 11, 21))
    >>> answer(grade_outlooks([whole], [0.05, 0.50]), whole, as_of=date(2026, 11, 21))
    Commit to 5% more orders: the chance is 93%. At 50% it falls to <1%.
    """
    rows = graded.to_frame().query("kpi == @whole.kpi and segment == @whole.segment").sort_values("uplift")
    safe = rows[rows["grade"] == "safe"]
    chosen, top = (safe.iloc[-1] if len(safe) else rows.iloc[0]), rows.iloc[-1]
    return Answer(
        kpi=whole.kpi, uplift=float(chosen["uplift"]), probability=float(chosen["probability"]),
        grade=str(chosen["grade"]), target=float(chosen["target"]), top_uplift=float(top["uplift"]),
        top_probability=float(top["probability"]), outlook=whole, as_of=as_of,
    )  # fmt: skip


def _odds(chance: float, grade: str, language: str) -> str:
    if not math.isfinite(chance):
        return pill(grade, language)
    bar = f'<span class="bar"><i style="--p:{chance:.0%}"></i></span>'
    written = html.escape(probability(chance, language))
    return f'<span class="odds {TONES[grade]}"><b>{written}</b>{bar}</span>{pill(grade, language)}'


def _scale(largest: float, unit: str, currency: str, language: str) -> tuple[float, str]:
    """One unit for a whole table or chart, and the words that name it."""
    million = unit == "money" and largest >= 1e8
    kind = {(True, True): "million", (True, False): "unnamed million", (False, True): "one"}
    named = kind.get((million, bool(currency) and unit == "money"), "none")
    return (1e6 if million else 1.0), say(f"unit.{named}", language, currency=currency)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise KpiError(message)
