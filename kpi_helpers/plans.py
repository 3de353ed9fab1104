"""The KPI plan of notebook 01: outlook, graded targets, plan by month and channel, pacing, what to watch."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis, plots
from kpi_helpers.baselines import Forecast, forecast
from kpi_helpers.errors import KpiError
from kpi_helpers.result import STATUS, Result, Text, day, measure, month, number, percent, pill, probability, table
from kpi_helpers.stats import chance_above
from kpi_helpers.targets import allocate, grade_uplifts, project, rank

#: lowest probability of each status of a running target
STATUSES = ((0.8, "on track"), (0.4, "too close to call"), (0.1, "at risk"), (0.0, "behind"))
SEASONS = {"day": 364, "week": 52, "month": 12}  # 364 days keep the weekday


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
    history_at, history : tuple
        The periods before, for the chart.
    reason : str
        Why nothing can be forecast; empty when it can.
    """

    kpi: str
    segment: str
    grain: str
    confidence: float
    currency: str
    period_at: tuple[date, ...]
    expected: tuple[float, ...]
    expected_low: tuple[float, ...]
    expected_high: tuple[float, ...]
    last_year: tuple[float, ...]
    total: float
    total_low: float
    total_high: float
    total_sd: float
    reference: float
    history_at: tuple[date, ...]
    history: tuple[float, ...]
    reason: str = ""

    @property
    def change(self) -> float:
        """Expected change against last year, a fraction."""
        return self.total / self.reference - 1

    def to_frame(self) -> pd.DataFrame:
        """One row a period of the plan."""
        columns = ("period_at", "expected", "expected_low", "expected_high", "last_year")
        frame = pd.DataFrame({c: getattr(self, c) for c in columns})
        return frame.assign(kpi=self.kpi, segment=self.segment, confidence=self.confidence)

    def said(self, value: float, language: str) -> str:
        """Write a value in the KPI's unit."""
        return measure(value, kpis.kpi(self.kpi).unit, language, self.currency)

    def sentence(self, language: str = "en") -> str:
        """Expected total, interval, and change against last year."""
        name, level = kpis.kpi(self.kpi).name[language], f"{self.confidence:.0%}"
        total, low, high = (self.said(v, language) for v in (self.total, self.total_low, self.total_high))
        change = percent(self.change, language, sign=True)
        if language == "vi":
            return f"{name}: nếu không có gì thay đổi, dự kiến {total} ({low} đến {high}, {level}), {change} so với cùng kỳ."
        return f"{name}: if nothing changes, expect {total} ({low} to {high}, {level} interval), {change} on last year."

    def html(self, language: str = "en") -> str:
        """Chart of history and forecast, its numbers folded below."""
        name = kpis.kpi(self.kpi).name[language]
        heads = Text("Period from|Expected|Low|High|Last year", "Kỳ từ|Dự kiến|Thấp|Cao|Năm trước")[language].split("|")
        rows = [
            [day(at, language), *(self.said(v, language) for v in values)]
            for at, *values in zip(
                self.period_at, self.expected, self.expected_low, self.expected_high, self.last_year, strict=True
            )
        ]
        title = _outlook_title(self, name, language)
        periods = Text(f"per {self.grain}", {"day": "theo ngày", "week": "theo tuần", "month": "theo tháng"}[self.grain])
        unit = kpis.kpi(self.kpi).unit
        divisor, unit_words = _scale(max(self.expected_high), unit, self.currency)
        note = f"{name}, {periods[language]}. {unit_words[language]}".strip()
        labels = (Text("Actual", "Thực tế"), Text("Expected", "Dự kiến"),
                  Text(f"{self.confidence:.0%} interval", f"khoảng {self.confidence:.0%}"),
                  Text("Last year, dashed", "Năm trước, nét đứt"))  # fmt: skip
        drawn = plots.chart(
            lambda axes, narrow: self.plot(axes, narrow=narrow, language=language, scale=divisor,
                                           words=tuple(w[language] for w in labels)),
            title=title, note=note, alt=self.sentence(language),
        )  # fmt: skip
        summary = Text("Numbers of this chart", "Số liệu của biểu đồ")[language]
        folded = table(heads, rows, caption=title, kind="tight", numeric=range(1, 5))
        return f'{drawn}<details class="code"><summary>{summary}</summary>{folded}</details>'

    def plot(self, axes: Any = None, **options: Any) -> Any:
        """Draw history, forecast and last year on `axes` (a new one if none); returns the axes."""
        history = pd.Series(self.history, index=pd.to_datetime(self.history_at))
        expected = self.to_frame().set_index(pd.to_datetime(self.period_at))
        options.setdefault("words", ("Actual", "Expected", "interval", "Last year"))
        return plots.forecast(history, expected, axes or plots.new_axes(800, 372), **options)


def outlook(
    values: kpis.KpiTable, key: str, *, segment: str = "", as_of: date, months: int = 3, confidence: float = 0.9
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
    _require(bool(series.notna().any()), f"{key} of {segment or 'all channels'} has no complete period up to {as_of}.")
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
                outlooks.append(_no_outlook(values, key, segment, str(error)))
    return outlooks


def _no_outlook(values: kpis.KpiTable, key: str, segment: str, reason: str) -> Outlook:
    nothing: dict[str, Any] = dict.fromkeys(("total", "total_low", "total_high", "total_sd", "reference"), math.nan)
    empty: dict[str, Any] = dict.fromkeys(
        ("period_at", "expected", "expected_low", "expected_high", "last_year", "history_at", "history"), ()
    )
    return Outlook(kpi=key, segment=segment, grain=values.grain, confidence=0.9, currency=values.currency,
                   reason=reason, **nothing, **empty)  # fmt: skip


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

    def chance(self, key: str, uplift: float, segment: str = "") -> float:
        """Probability of one uplift of one KPI."""
        found = self.to_frame().query("kpi == @key and segment == @segment and uplift == @uplift")
        return float(found["probability"].iloc[0])

    def sentence(self, language: str = "en") -> str:
        """How many of the targets are safe."""
        safe, n = self.grade.count("safe"), len(self.grade)
        if language == "vi":
            return f"{safe} trên {n} mục tiêu là chắc đạt (khả năng đạt từ 50%)."
        return f"{safe} of {n} targets are safe (a chance of 50% or more)."

    def html(self, language: str = "en") -> str:
        """Grid: one row a KPI or channel, one column an uplift."""
        frame = self.to_frame()
        uplifts = list(dict.fromkeys(self.uplift))
        heads = Text("KPI|Last year|Expected", "KPI|Năm trước|Dự kiến")[language].split("|")
        heads += [percent(u, language, decimals=0, sign=True) for u in uplifts]
        rows = []
        for (key, segment), part in frame.groupby(["kpi", "segment"], sort=False):
            first, unit = part.iloc[0], kpis.kpi(key).unit
            low, high, base = (
                measure(first[c], unit, language, self.currency) for c in ("expected_low", "expected_high", "reference")
            )
            change = percent(first["expected"] / first["reference"] - 1, language, sign=True)
            name = html.escape(segment or kpis.kpi(key).name[language])
            under = f"<small>{kpis.kpi(key).name[language]}</small>" if segment else ""
            odds = [_odds(p, g, language) for p, g in zip(part["probability"], part["grade"], strict=True)]
            rows.append([name + under, base, f"{change}<small>{low}–{high}</small>", *odds])
        note = Text(
            f"Chance that the plan's periods together reach last year's value plus the uplift, if nothing changes. "
            f"Safe: 50% or more. Stretch: 20% to 50%. Ambitious: 5% to 20%. Unrealistic: under 5%. "
            f"Ranges: {self.confidence:.0%} interval.",
            f"Khả năng tổng các kỳ trong kế hoạch đạt mức năm trước cộng phần tăng, nếu không có gì thay đổi. "
            f"Chắc đạt: từ 50%. Vừa sức: 20% đến 50%. Tham vọng: 5% đến 20%. Không thực tế: dưới 5%. "
            f"Khoảng: khoảng dự báo {self.confidence:.0%}.",
        )[language]  # fmt: skip
        caption = Text("How likely is each target?", "Mỗi mục tiêu khả thi đến đâu?")[language]
        return table(heads, rows, caption=caption, note=note, numeric=(1, 2))


def grade_outlooks(outlooks: Sequence[Outlook], uplifts: Sequence[float]) -> TargetTable:
    """Grade each uplift over last year for each outlook.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> grade_outlooks([outlook(values, "orders", as_of=date(2026, 11, 21))], [0.05, 0.5]).grade
    ('safe', 'unrealistic')
    """
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
            (o.kpi, o.segment, o.reference, o.total, o.total_low, o.total_high, u, t, p, g)
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
        k, n, m = kpis.kpi(self.kpi), len(set(self.channel)), len(set(self.month_at))
        total = measure(self.total, k.unit, language, self.currency)
        up = percent(self.uplift, language, decimals=0, sign=True)
        if language == "vi":
            return f"{k.name.vi} {up}: {total}, chia cho {n} kênh và {m} tháng."
        return f"{k.name.en} {up}: {total}, split over {n} channels and {m} months."

    def html(self, language: str = "en") -> str:
        """Channels by months, with totals."""
        grid = self.to_frame().pivot_table(index="channel", columns="month_at", values="target", sort=False)
        grid = grid.assign(total=grid.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
        grid.loc[Text("All channels", "Tất cả kênh")[language]] = grid.sum()
        divisor, words = _scale(float(grid["total"].iloc[0]), kpis.kpi(self.kpi).unit, self.currency)
        rows = [
            [html.escape(str(name)), *(number(v / divisor, language, decimals=int(divisor > 1)) for v in row)]
            for name, row in zip(grid.index, grid.to_numpy(), strict=True)
        ]
        heads = [Text("Channel", "Kênh")[language], *(month(m, language) for m in grid.columns[:-1]),
                 Text("Total", "Tổng")[language]]  # fmt: skip
        note = Text("A week counts in the month in which it begins. Shares follow the forecast. ",
                    "Tuần được tính vào tháng có ngày đầu tuần. Tỷ trọng theo dự báo. ")[language]  # fmt: skip
        return table(heads, rows, caption=self.sentence(language), note=note + words[language], kind="tight",
                     total=True, numeric=range(1, len(heads)))  # fmt: skip


def allocate_plan(whole: Outlook, channels: Sequence[Outlook], uplift: float) -> Plan:
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
    for o in channels:  # one without an outlook has no cells
        for at, value in zip(o.period_at, o.expected, strict=True):
            cell = (o.segment, at.replace(day=1))
            cells[cell] = cells.get(cell, 0.0) + max(value, 0.0)
    total = round(whole.reference * (1 + uplift))
    return Plan(
        kpi=whole.kpi, uplift=uplift, total=total, currency=whole.currency,
        channel=tuple(c for c, _m in cells), month_at=tuple(m for _c, m in cells),
        target=tuple(allocate(total, list(cells.values()))),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Pace(Result):
    """The running calendar year against its target, one row a KPI.

    Attributes
    ----------
    actual : tuple of float
        Sum of the complete periods so far.
    projected, projected_low, projected_high : tuple of float
        Seasonal projection of the whole year and its interval.
    target, last_year : tuple of float
        Last year's value, and that plus the uplift.
    remaining_factor : tuple of float
        What the rest of the year must reach, relative to the target's own share of the rest (1 = on plan).
    probability, status : tuple
        Chance of meeting the target, and its word.
    """

    kpi: tuple[str, ...]
    actual: tuple[float, ...]
    projected: tuple[float, ...]
    projected_low: tuple[float, ...]
    projected_high: tuple[float, ...]
    last_year: tuple[float, ...]
    target: tuple[float, ...]
    remaining_factor: tuple[float, ...]
    probability: tuple[float, ...]
    status: tuple[str, ...]
    year: int
    uplift: float
    confidence: float
    currency: str

    def sentence(self, language: str = "en") -> str:
        """Chance of the first KPI's yearly target."""
        name = kpis.kpi(self.kpi[0]).name[language]
        up, word = percent(self.uplift, language, decimals=0, sign=True), STATUS[self.status[0]][1][language].lower()
        chance = probability(self.probability[0], language)
        if not math.isfinite(self.probability[0]):
            return Text(f"{name} {self.year}: the pace cannot be computed, because last year is not fully known.",
                        f"{name} {self.year}: chưa tính được tiến độ vì năm trước chưa đủ dữ liệu.")[language]  # fmt: skip
        return Text(f"{name} {self.year}, target {up} on last year: {word}, chance {chance}.",
                    f"{name} năm {self.year}, mục tiêu {up} so với năm trước: {word}, khả năng đạt {chance}.")[language]  # fmt: skip

    def html(self, language: str = "en") -> str:
        """One tile a KPI: so far, projection, target, chance, status."""
        words = Text(f"so far|At 31 Dec|{self.confidence:.0%} interval|Target|Chance",
                     f"đến nay|Đến 31/12|Khoảng {self.confidence:.0%}|Mục tiêu|Khả năng")[language].split("|")  # fmt: skip
        tiles = "".join(self._tile(i, words, language) for i in range(len(self.kpi)))
        up = percent(self.uplift, language, decimals=0, sign=True)
        note = Text(
            f"{self.year} to date, complete periods. Target: {up} on {self.year - 1}. “Chance”: odds of meeting the "
            "target if the rest of the year follows last year's season.",
            f"Năm {self.year} đến nay, chỉ tính kỳ trọn vẹn. Mục tiêu: {up} so với {self.year - 1}. “Khả năng”: xác suất "
            "đạt mục tiêu nếu phần còn lại của năm theo mùa vụ năm trước.",
        )[language]  # fmt: skip
        return f'<ul class="strip">{tiles}</ul><p class="strip-note">{note}</p>'

    def _tile(self, i: int, words: list[str], language: str) -> str:
        k = kpis.kpi(self.kpi[i])
        names = ("actual", "projected", "projected_low", "projected_high", "target")
        values = [getattr(self, name)[i] for name in names]
        actual, projected, low, high, target = (measure(v, k.unit, language, self.currency) for v in values)
        drawn = _range(values[1], values[2], values[3], values[4]) if math.isfinite(self.probability[i]) else ""
        facts = zip(words[1:], (projected, f"{low}–{high}", target, probability(self.probability[i], language)), strict=True)
        listed = "".join(f"<div><dt>{w}</dt><dd>{html.escape(v)}</dd></div>" for w, v in facts)
        return (
            f'<li class="tile"><h3>{k.name[language]}</h3><p class="value">{actual} <span class="unit">{words[0]}</span></p>'
            f"{drawn}<dl>{listed}</dl>{pill(self.status[i], language)}</li>"
        )


def pace(
    values: kpis.KpiTable, keys: Sequence[str], *, as_of: date, uplift: float, confidence: float = 0.9
) -> Pace:
    """Compare the running year with last year plus `uplift`, by season.

    A period belongs to the year in which it begins; missing periods take the seasonal share of the known
    ones. A KPI whose last year is less than 80% known is "not enough data".

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> pace(values, ["orders"], as_of=date(2026, 11, 21), uplift=0.05).status
    ('on track',)
    """
    rows = [_pace_row(values.series(key), key, SEASONS[values.grain], as_of, uplift, confidence) for key in keys]
    names = ("kpi", "actual", "projected", "projected_low", "projected_high", "last_year", "target",
             "remaining_factor", "probability", "status")  # fmt: skip
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    return Pace(**columns, year=as_of.year, uplift=uplift, confidence=confidence, currency=values.currency)


def _pace_row(series: pd.Series, key: str, season: int, as_of: date, uplift: float, confidence: float) -> tuple[Any, ...]:
    series = series[series.index.end_time.date <= as_of]
    unknown = (math.nan,) * 7
    year = pd.period_range(f"{as_of.year}-01-01", f"{as_of.year}-12-31", freq=series.index.freq)
    year = year[year.start_time.year == as_of.year]
    last_year = series.reindex(year - season)
    done = series.reindex(year)[: int((year.end_time.date <= as_of).sum())].to_numpy(dtype=float)
    if last_year.notna().mean() < 0.8 or not np.isfinite(done).any() or last_year.sum() <= 0:
        return (key, float(np.nansum(done)), *unknown, "not enough data")
    weights = last_year.interpolate(limit_direction="both").clip(lower=0).to_numpy(dtype=float)
    projected, target = project(done, weights), weights.sum() * (1 + uplift)
    actual, share = float(np.nansum(done)), weights[: len(done)].sum() / weights.sum()
    ahead = len(year) - len(done)
    if ahead:
        told = forecast(series.to_numpy(), season=season, horizon=ahead, levels=(confidence,))
        mean, low, high = told.total(confidence)
        sd = told.total_sd()
        low, high = projected + low - mean, projected + high - mean
        chance = float(chance_above(target, projected, sd)) if sd > 0 else math.nan
    else:
        low, high, chance = projected, projected, float(projected >= target)
    left = (target - actual) / (target * (1 - share)) if share < 1 else math.nan
    status = rank(chance, STATUSES) if math.isfinite(chance) else "not enough data"
    return (key, actual, projected, low, high, float(weights.sum()), float(target), left, chance, status)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Watch(Result):
    """Rates and costs that moved clearly against the same weeks of last year, largest change first.

    Clear means that the two intervals do not overlap, which is stricter than a test at the same level.
    """

    kpi: tuple[str, ...]
    segment: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]
    now_low: tuple[float, ...]
    now_high: tuple[float, ...]
    better: tuple[bool, ...]
    confidence: float
    currency: str

    def sentence(self, language: str = "en") -> str:
        """How many moved, how many for the worse."""
        n, worse = len(self.kpi), self.better.count(False)
        if language == "vi":
            return f"{n} chỉ số thay đổi rõ so với cùng kỳ năm trước, {worse} theo hướng xấu." if n else (
                "Không chỉ số nào thay đổi rõ so với cùng kỳ năm trước."
            )  # fmt: skip
        if not n:
            return "No rate or cost moved clearly against the same weeks of last year."
        return f"{n} rates and costs moved clearly against the same weeks of last year, {worse} for the worse."

    def html(self, language: str = "en") -> str:
        """Up to eight rows: what, before, now with interval, better or worse."""
        heads = Text("KPI|Last year|Now|Change", "KPI|Năm trước|Hiện nay|Thay đổi")[language].split("|")
        good, bad = Text("better", "tốt lên")[language], Text("worse", "xấu đi")[language]
        rows = []
        for i, key in list(enumerate(self.kpi))[:8]:
            unit = kpis.kpi(key).unit
            before, now, low, high = (
                measure(v[i], unit, language, self.currency) for v in (self.before, self.now, self.now_low, self.now_high)
            )
            change = percent(self.now[i] / self.before[i] - 1, language, sign=True)
            under = f"<small>{html.escape(self.segment[i])}</small>" if self.segment[i] else ""
            verdict = good if self.better[i] else bad
            rows.append([kpis.kpi(key).name[language] + under, before, f"{now}<small>{low}–{high}</small>",
                         f"{change}<small>{verdict}</small>"])  # fmt: skip
        said = self.sentence(language)
        return table(heads, rows, caption=said, numeric=(1, 2, 3)) if rows else f"<p>{said}</p>"


def watch(now: kpis.KpiTable, before: kpis.KpiTable) -> Watch:
    """Compare two tables of totals, KPI by KPI and segment by segment; sums are left to the pace.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> total = kpis.compute(connect("data/demo"), ["aov"], by="channel", grain="total")
    >>> watch(total, total)
    No rate or cost moved clearly against the same weeks of last year.
    """
    keys = ["kpi", "segment"]
    both = now.to_frame().merge(before.to_frame(), on=keys, suffixes=("", "_was")).dropna(subset=["value_low", "value_low_was"])
    rose, fell = both["value_low"] > both["value_high_was"], both["value_high"] < both["value_low_was"]
    directions = both["kpi"].map(lambda k: kpis.kpi(k).direction)
    moved = both[(rose | fell) & (directions != "none")].assign(better=rose == (directions == "up"))
    moved = moved.assign(size=np.abs(np.log(moved["value"] / moved["value_was"])))
    moved = moved.sort_values(["size", *keys], ascending=[False, True, True])
    return Watch(
        kpi=tuple(moved["kpi"]), segment=tuple(moved["segment"]), before=tuple(moved["value_was"].tolist()),
        now=tuple(moved["value"].tolist()), now_low=tuple(moved["value_low"].tolist()),
        now_high=tuple(moved["value_high"].tolist()), better=tuple(moved["better"].tolist()),
        confidence=now.confidence, currency=now.currency,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer(Result):
    """What to commit to and how sure that is: the head of the report."""

    kpi: str
    uplift: float
    probability: float
    grade: str
    target: float
    headline: Text
    standfirst: Text
    kicker: Text

    def sentence(self, language: str = "en") -> str:
        """The answer in one or two short sentences."""
        return str(self.headline[language])

    def html(self, language: str = "en") -> str:
        """Kicker, headline and standfirst."""
        return (
            f'<p class="kicker">{self.kicker[language]}</p><h1>{self.headline[language]}</h1>'
            f'<p class="standfirst">{self.standfirst[language]}</p>'
        )


def answer(graded: TargetTable, whole: Outlook, *, as_of: date) -> Answer:
    """Commit to the largest uplift that is safe; if none is, say how likely the smallest one is.

    Examples
    --------
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> whole = outlook(values, "orders", as_of=date(2026, 11, 21))
    >>> answer(grade_outlooks([whole], [0.05, 0.50]), whole, as_of=date(2026, 11, 21))
    Commit to 5% more orders: the chance is 84%. At 50% it falls to <1%.
    """
    rows = graded.to_frame().query("kpi == @whole.kpi and segment == @whole.segment").sort_values("uplift")
    safe = rows[rows["grade"] == "safe"]
    chosen, top = (safe.iloc[-1] if len(safe) else rows.iloc[0]), rows.iloc[-1]
    headline = _headline(chosen, top, kpis.kpi(whole.kpi).name)
    first, last = whole.period_at[0], whole.period_at[-1]
    total, low, high = (Text(whole.said(v, "en"), whole.said(v, "vi")) for v in (whole.total, whole.total_low, whole.total_high))
    level = f"{whole.confidence:.0%}"
    standfirst = Text(
        f"If nothing changes, we expect <b>{total.en}</b> in the periods that begin from {day(first)} to {day(last)} "
        f"({level} interval {low.en} to {high.en}): {percent(whole.change, sign=True)} on the same periods of last year.",
        f"Nếu không có gì thay đổi, dự kiến <b>{total.vi}</b> cho các kỳ bắt đầu từ {day(first, 'vi')} đến "
        f"{day(last, 'vi')} (khoảng dự báo {level}: {low.vi} đến {high.vi}), {percent(whole.change, 'vi', sign=True)} "
        "so với cùng kỳ năm trước.",
    )  # fmt: skip
    kicker = Text(
        f"<b>01 KPI setup</b>, data to {day(as_of)}, plan for {month(first)} to {month(last)}",
        f"<b>01 Thiết lập KPI</b>, dữ liệu đến {day(as_of, 'vi')}, kế hoạch {month(first, 'vi')} đến {month(last, 'vi')}",
    )
    return Answer(
        kpi=whole.kpi, uplift=float(chosen["uplift"]), probability=float(chosen["probability"]), grade=chosen["grade"],
        target=float(chosen["target"]), headline=headline, standfirst=standfirst, kicker=kicker,
    )  # fmt: skip


def _headline(chosen: Any, top: Any, name: Text) -> Text:
    said = []
    for language in ("en", "vi"):
        up, high = (percent(r["uplift"], language, decimals=0) for r in (chosen, top))
        chance, falls = (html.escape(probability(r["probability"], language)) for r in (chosen, top))
        what = name[language].lower()
        if chosen["grade"] == "not enough data":
            parts = [Text(f"No target for {what} can be graded: the history is too short.",
                          f"Chưa thể đánh giá mục tiêu {what}: chuỗi dữ liệu quá ngắn.")[language]]  # fmt: skip
        elif chosen["grade"] == "safe":
            parts = [Text(f"Commit to {up} more {what}: the chance is {chance}.",
                          f"Nên cam kết tăng {up} {what}: khả năng đạt {chance}.")[language]]  # fmt: skip
            if top["uplift"] > chosen["uplift"]:
                parts.append(Text(f"At {high} it falls to {falls}.", f"Với mức {high}, khả năng còn {falls}.")[language])
        else:
            word = STATUS[chosen["grade"]][1][language].lower()
            parts = [Text(f"Even {up} more {what} is {word}: the chance is {chance}.",
                          f"Ngay cả tăng {up} {what} cũng {word}: khả năng đạt {chance}.")[language]]  # fmt: skip
        said.append(" ".join(f'<span class="sentence">{part}</span>' for part in parts))
    return Text(*said)


def _range(value: float, low: float, high: float, target: float) -> str:
    """An interval, its estimate and the target on one axis, for the eye only."""
    left, right = min(low, target), max(high, target)
    pad = 0.2 * (right - left) or 1.0
    at = [f"{(v - left + pad) / (right - left + 2 * pad):.1%}" for v in (low, high, value, target)]
    return (
        f'<span class="range" aria-hidden="true"><i class="iv" style="--lo:{at[0]};--hi:{at[1]}"></i>'
        f'<i class="pt" style="--at:{at[2]}"></i><i class="tg" style="--tg:{at[3]}"></i></span>'
    )


def _odds(chance: float, grade: str, language: str) -> str:
    if not math.isfinite(chance):
        return pill(grade, language)
    bar = f'<span class="bar"><i style="--p:{chance:.0%}"></i></span>'
    return f'<span class="odds {STATUS[grade][0]}"><b>{html.escape(probability(chance, language))}</b>{bar}</span>' + pill(grade, language)


def _outlook_title(o: Outlook, name: str, language: str) -> str:
    """The finding, at most ten words; no direction is claimed where the interval holds last year's value."""
    change = percent(abs(o.change), language)
    if o.total_low <= o.reference <= o.total_high:
        words = Text(f"{name}: no clear change against last year", f"{name}: chưa thấy thay đổi rõ so với năm trước")
    elif o.change > 0:
        words = Text(f"{name} is heading for {change} more than last year", f"{name} dự kiến tăng {change} so với năm trước")
    else:
        words = Text(f"{name} is heading for {change} less than last year", f"{name} dự kiến giảm {change} so với năm trước")
    return str(words[language])


def _scale(largest: float, unit: str, currency: str) -> tuple[float, Text]:
    """One unit for a whole table, and the words that name it."""
    name = {"VND": "VND"}.get(currency, currency) if unit == "money" else ""
    if unit == "money" and largest >= 1e8:
        return 1e6, Text(f"Unit: million {name}.", f"Đơn vị: triệu {name}.")
    return 1.0, Text(f"Unit: {name}." if name else "", f"Đơn vị: {name}." if name else "")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise KpiError(message)
