"""The KPI plan of notebook 01: graded targets, plan by month and channel, and the answer."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.errors import require
from kpi_helpers.outlooks import Outlook
from kpi_helpers.result import (
    TONES,
    Result,
    day,
    measure,
    month,
    number,
    one_unit,
    percent,
    pill,
    plain,
    probability,
    say,
    span,
    table,
    uplift,
)
from kpi_helpers.targets import GRADES, allocate, allocate_levels, rank


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
    missing: tuple[Outlook, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a KPI, segment and uplift."""
        columns = [f.name for f in fields(self) if f.name not in ("missing", "confidence", "currency")]
        frame = pd.DataFrame({c: getattr(self, c) for c in columns})
        return frame.assign(confidence=self.confidence, currency=self.currency)

    def sentence(self, language: str = "en") -> str:
        """How many of the targets are safe."""
        return say("target_table.sentence", language, safe=self.grade.count("safe"), n=len(self.grade))

    def html(self, language: str = "en") -> str:
        """Grid: one row a KPI or channel, one column an uplift."""
        uplifts = [uplift(u, language) for u in dict.fromkeys(self.uplift)]
        parts = self.to_frame().groupby(["kpi", "segment"], sort=False)
        reasons = "".join(f"<li>{html.escape(o.sentence(language))}</li>" for o in self.missing)
        grid = table(
            [*say("target_table.heads", language).split("|"), *uplifts],
            [self._row(part, language) for _key, part in parts],
            caption=say("target_table.caption", language),
            note=say("target_table.note", language, level=f"{self.confidence:.0%}"),
            numeric=(1, 2),
        )
        return grid + (f'<ul class="prose">{reasons}</ul>' if reasons else "")

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
    """Grade each uplift over last year for each outlook; for lower-is-better KPIs, each fall below it.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> grade_outlooks([outlook(values, "orders", as_of=date(2026, 11, 21))], [0.05, 0.5]).grade
    ('safe', 'unrealistic')
    """
    uplifts = sorted(set(uplifts))
    whole = {o.kpi for o in outlooks if not o.segment}
    alone = [o for o in outlooks if o.segment and o.kpi in whole]
    if len(alone) == 1:  # the only channel says the same as the whole
        outlooks = [o for o in outlooks if o is not alone[0]]
    require(len(outlooks) > 0, "There is no outlook to grade. Choose a KPI whose history is long enough.")
    rows = []
    for o in outlooks:
        better = -1 if kpis.kpi(o.kpi).direction == "down" else 1
        known = (o.reference if o.knows_last_year else math.nan, o.total, o.total_low, o.total_high)
        for u in uplifts:
            target = o.reference * (1 + better * u)
            p = o.chance(target) if o.graded and o.reference > 0 else math.nan
            grade = rank(p, GRADES) if math.isfinite(p) else "not enough data"
            rows.append((o.kpi, o.segment, *known, u, target, p, grade))
    names = ("kpi", "segment", "reference", "expected", "expected_low", "expected_high", "uplift", "target",
             "probability", "grade")  # fmt: skip
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    missing = tuple(o for o in outlooks if o.reason)
    return TargetTable(**columns, confidence=outlooks[0].confidence, currency=outlooks[0].currency, missing=missing)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Result):
    """What to reach, by month, period and channel, in whole numbers that add up to the target at every level."""

    kpi: str
    uplift: float
    total: int
    currency: str
    channel: tuple[str, ...]
    month_at: tuple[date, ...]
    period_at: tuple[date, ...]
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
        divisor, unit = one_unit(float(grid["total"].sum()), kpis.kpi(self.kpi).unit, self.currency, language)
        decimals = int(divisor > 1)
        cells = grid.drop(columns="total")
        step = divisor / 10**decimals  # what is printed must add up as well, so it is rounded by allocation too
        shares = cells.to_numpy().ravel() + (self.total == 0)
        printed = np.array(allocate(round(self.total / step), shares)).reshape(cells.shape)
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
    """Split the target of `whole` over months, periods and channels in proportion to what each is heading for.

    Raises
    ------
    KpiError
        If the KPI is a ratio, which does not add up, or its target is below 0.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders"])
    >>> whole = outlook(values, "orders", as_of=date(2026, 11, 21))
    >>> plan = allocate_plan(whole, [whole], 0.10)
    >>> sum(plan.target) == plan.total == round(whole.reference * 1.1)
    True
    """
    k, total = kpis.kpi(whole.kpi), round(whole.reference * (1 + share)) if math.isfinite(whole.reference) else -1
    require(k.additive, f"{k.id} is a ratio; only sums are split over channels and months. Choose orders, say.")
    require(total >= 0, f"{k.id} has no target to split, because it would be below 0. Choose another objective.")
    cells = sorted(
        ((at.replace(day=1), at, o.segment), max(value, 0.0))
        for o in [o for o in channels if not o.reason] or [whole]
        for at, value in zip(o.period_at, o.expected, strict=True)
    )
    keys, weights = zip(*cells, strict=True)
    parts = allocate_levels(total, pd.Series(weights if any(weights) else 1.0, pd.MultiIndex.from_tuples(keys)))
    months, periods, names = zip(*keys, strict=True)
    return Plan(
        kpi=whole.kpi, uplift=share, total=total, currency=whole.currency, channel=names, month_at=months,
        period_at=periods, target=tuple(parts.tolist()),
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
        if self.grade == "safe":
            return self.uplift
        better = -1 if kpis.kpi(self.kpi).direction == "down" else 1
        return better * self.outlook.change if math.isfinite(self.outlook.change) else 0.0

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
        standfirst = (
            say("answer.standfirst", language, against=against, **told, **days) if o.graded else o.sentence(language)
        )
        return (
            f'<p class="kicker">{kicker}</p><h1>{self._headline(language)}</h1><p class="standfirst">{standfirst}</p>'
        )

    def _headline(self, language: str) -> str:
        lower = kpis.kpi(self.kpi).direction == "down"
        change = -self.uplift if lower and self.uplift < 0 else self.uplift
        told = {
            "name": kpis.kpi(self.kpi).name[language].lower(),
            "grade": say(f"status.{self.grade}", language).lower(),
            "uplift": uplift(change, language, sign=self.uplift < 0),
            "chance": probability(self.probability, language),
            "top": uplift(self.top_uplift, language, sign=False),
            "top_chance": probability(self.top_probability, language),
        }
        kinds = {"safe": ["safe"], "not enough data": ["unknown"]}.get(self.grade, ["unsafe"])
        if self.uplift <= 0 and self.grade != "not enough data":
            kinds = ["fall"]
        if self.grade == "safe" and self.top_uplift > self.uplift > 0:
            kinds.append("top")
        kinds = [f"{kind} lower" if lower and kind != "unknown" else kind for kind in kinds]
        parts = (html.escape(say(f"answer.{kind}", language, **told)) for kind in kinds)
        return " ".join(f'<span class="sentence">{part}</span>' for part in parts)


def answer(graded: TargetTable, whole: Outlook, *, as_of: date) -> Answer:
    """Commit to the largest uplift that is safe; if none is, say how likely the smallest one is.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook
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
