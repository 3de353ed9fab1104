"""The KPI plan of notebook 01: graded targets, plan by month and channel, and the answer."""

import html
import math
from collections.abc import Sequence
from datetime import date
from typing import ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.errors import require
from kpi_helpers.outlooks import OfKpis, Outlook
from kpi_helpers.result import measure, one_unit, plain, probability, say, uplift
from kpi_helpers.targets import GRADES, allocate, allocate_levels, rank


class TargetTable(OfKpis):
    """Uplifts over last year, graded; "not enough data" and `probability` NaN where odds cannot be computed.

    `missing`: outlooks that there are not, each with its reason.
    """

    columns = (
        "kpi", "segment", "reference", "expected", "expected_low", "expected_high", "uplift", "target", "probability",
        "grade",
    )  # fmt: skip
    aside: ClassVar = ("missing",)

    def sentence(self, language: str = "en") -> str:
        return say("target_table.sentence", language, safe=self.grade.count("safe"), n=len(self.grade))


def grade_outlooks(outlooks: Sequence[Outlook], uplifts: Sequence[float]) -> TargetTable:
    """Grade each uplift over last year for each outlook; for lower-is-better KPIs, each fall below it."""
    alone = [o for o in outlooks if o.segment and o.kpi in {w.kpi for w in outlooks if not w.segment}]
    if len(alone) == 1:  # the only channel says the same as the whole
        outlooks = [o for o in outlooks if o is not alone[0]]
    require(len(outlooks) > 0, "There is no outlook to grade. Choose a KPI whose history is long enough.")
    rows = []
    for o in outlooks:
        known = (o.reference if o.knows_last_year else math.nan, o.total, o.total_low, o.total_high)
        for u in sorted(set(uplifts)):
            target = o.reference * (1 + o.better * u)
            p = o.chance(target) if o.graded and o.reference > 0 else math.nan
            grade = rank(p, GRADES) if math.isfinite(p) else "not enough data"
            rows.append((o.kpi, o.segment, *known, u, target, p, grade))
    missing = tuple(o for o in outlooks if o.reason)
    return TargetTable.of(rows, confidence=outlooks[0].confidence, currency=outlooks[0].currency, missing=missing)


class Plan(OfKpis):
    """What to reach, by month, period and channel, in whole numbers that add up to the `total` at every level."""

    columns = ("channel", "month_at", "period_at", "target")

    def sentence(self, language: str = "en") -> str:
        k, by = kpis.kpi(self.kpi), uplift(self.uplift, language)
        total = measure(self.total, k.unit, language, self.currency)
        return say("plan.sentence", language, name=k.name[language], uplift=by, total=total)

    def printed(self, language: str) -> tuple[pd.DataFrame, str, int]:
        """Channels by months with totals, in one unit, the unit's words, and decimals."""
        grid = self.to_frame().pivot_table(index="channel", columns="month_at", values="target", aggfunc="sum")
        grid = grid.loc[grid.sum(axis=1).sort_values(ascending=False, kind="stable").index]
        divisor, unit = one_unit(float(self.total), kpis.kpi(self.kpi).unit, self.currency, language)
        step = divisor / 10 ** (decimals := int(divisor > 1))
        # what is printed must add up as well, so it is rounded by allocation too
        shares = grid.to_numpy().ravel() + (self.total == 0)
        grid.loc[:, :] = np.array(allocate(round(self.total / step), shares)).reshape(grid.shape)
        grid = pd.concat([grid, grid.sum().to_frame(say("channel.all", language)).T])
        return grid.assign(total=grid.sum(axis=1)) / 10**decimals, unit, decimals


def allocate_plan(whole: Outlook, channels: Sequence[Outlook], share: float) -> Plan:
    """Split the target of `whole` over months, periods and channels in proportion to what each is heading for."""
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
    rows = [(name, month, at, part) for (month, at, name), part in zip(keys, parts.tolist(), strict=True)]
    return Plan.of(rows, kpi=whole.kpi, uplift=share, total=total, currency=whole.currency)


class Answer(OfKpis):
    """What to commit to and how sure that is: the head of the report; `top_` is of the highest uplift asked about."""

    aside: ClassVar = ("outlook",)

    @property
    def commit(self) -> float:
        """Uplift to plan for: the safe one, or the expected change where none is safe."""
        o = self.outlook
        return float(self.uplift if self.grade == "safe" else o.better * o.change if math.isfinite(o.change) else 0.0)

    def sentence(self, language: str = "en") -> str:
        return plain(self.headline(language))

    def headline(self, language: str) -> str:
        """The answer in one or two short sentences, HTML."""
        lower = self.outlook.better < 0
        change = -self.uplift if lower and self.uplift < 0 else self.uplift
        told = {
            "name": kpis.kpi(self.kpi).lowered(language),
            "grade": say(f"status.{self.grade}", language).lower(),
            "uplift": uplift(change, language, sign=self.uplift < 0),
            "chance": probability(self.probability, language),
            "top": uplift(self.top_uplift, language, sign=False),
            "top_chance": probability(self.top_probability, language),
        }
        kind = {"safe": "safe", "not enough data": "unknown"}.get(self.grade, "unsafe")
        kinds = ["fall" if self.uplift <= 0 and kind != "unknown" else kind]
        kinds += ["top"] if self.grade == "safe" and self.top_uplift > self.uplift > 0 else []
        kinds = [f"{kind} lower" if lower and kind != "unknown" else kind for kind in kinds]
        parts = (html.escape(say(f"answer.{kind}", language, **told)) for kind in kinds)
        return " ".join(f'<span class="sentence">{part}</span>' for part in parts)


def answer(graded: TargetTable, whole: Outlook, *, as_of: date) -> Answer:
    """Commit to the largest uplift that is safe; if none is, say how likely the smallest one is."""
    rows = graded.to_frame().query("kpi == @whole.kpi and segment == @whole.segment").sort_values("uplift")
    safe, top = rows[rows["grade"] == "safe"], rows.iloc[-1][["uplift", "probability"]].add_prefix("top_")
    told = (safe.iloc[-1] if len(safe) else rows.iloc[0])[["uplift", "probability", "grade", "target"]]
    known = {"expected": whole.total, "expected_low": whole.total_low, "expected_high": whole.total_high}
    about = {"kpi": whole.kpi, **told, **top, "as_of": as_of, **known, "outlook": whole}
    return Answer.of([()], **about)
