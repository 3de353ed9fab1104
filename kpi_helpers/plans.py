"""The KPI plan of notebook 01: graded targets, the answer, the plan by month and channel, and what it needs."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from kpi_helpers import kpis
from kpi_helpers.calendars import SEASONS
from kpi_helpers.catalogue import OfKpis
from kpi_helpers.errors import require, require_known
from kpi_helpers.outlooks import Outlook
from kpi_helpers.rates import Elasticity, estimate_elasticity, shrink_rates, upstream_needs
from kpi_helpers.result import LANGUAGES, Text, both_say, measure, number, one_unit, probability, say, uplift
from kpi_helpers.sources import Source
from kpi_helpers.targets import GRADES, MOST_ELASTIC, allocate, allocate_levels, chance_of_all, rank

#: what a KPI is made of: divide it by the ratio and the next KPI upstream remains
MADE_OF = {"revenue": ("aov", "orders"), "orders": ("order_rate_session", "sessions"),
           "conversions": ("conv_rate_session", "sessions")}  # fmt: skip
#: what a plan may do on a channel; the catalogue tells which of them move a KPI, a campaign moves them all
ACTIVITIES = ("content", "white_paper", "seo", "social", "email", "messaging", "ads", "campaign")
MOST = 5  # KPIs on a channel


class TargetTable(OfKpis):
    """Uplifts over last year, graded; `missing`: outlooks that cannot be computed, each with its reason."""

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
        return " ".join(self.parts(language))

    def parts(self, language: str) -> list[str]:
        """The answer in one or two short sentences."""
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
        return [say(f"answer.{kind}", language, **told) for kind in kinds]


def answer(graded: TargetTable, whole: Outlook, *, as_of: date) -> Answer:
    """Commit to the largest uplift that is safe; if none is, say how likely the smallest one is."""
    rows = graded.to_frame().query("kpi == @whole.kpi and segment == @whole.segment").sort_values("uplift")
    safe, top = rows[rows["grade"] == "safe"], rows.iloc[-1][["uplift", "probability"]].add_prefix("top_")
    told = (safe.iloc[-1] if len(safe) else rows.iloc[0])[["uplift", "probability", "grade", "target"]]
    known = {"expected": whole.total, "expected_low": whole.total_low, "expected_high": whole.total_high}
    about = {"kpi": whole.kpi, **told, **top, "as_of": as_of, **known, "outlook": whole}
    return Answer.of([()], **about)


class OddsTable(OfKpis):
    """Targets at chosen odds, and `change` against last year; `together`: chance that all are met at once, or NaN."""

    columns = ("kpi", "odds", "target", "change", "together")

    def sentence(self, language: str = "en") -> str:
        n = len(set(self.kpi))
        if not n:
            return say("odds_table.none", language)
        if n < 2 or not math.isfinite(self.together[0]):
            return say("odds_table.alone", language)
        together = probability(self.together[0], language)
        return say("odds_table.sentence", language, n=n, odds=f"{self.odds[0]:.0%}", together=together)


def targets_at(outlooks: Sequence[Outlook], odds: Sequence[float] = (0.8, 0.5, 0.2)) -> OddsTable:
    """Set the target of each KPI at the same odds, and tell how likely all are met at once: a multivariate normal with
    the correlation of what the forecasts missed on the same past dates.
    """
    graded = [o for o in outlooks if o.graded]
    n, k, all_of = min((len(o.missed) for o in graded), default=0), len(graded), dict.fromkeys(odds, math.nan)
    if n >= 12:  # fewer past dates tell no correlation
        moved = np.atleast_2d(np.corrcoef([o.better * np.array(o.missed[-n:]) for o in graded]))
        all_of = {p: chance_of_all([0.0] * k, [1.0] * k, moved, [float(ndtri(1 - p))] * k) for p in odds}
    rows = [
        (o.kpi, p, o.target_at(p), o.target_at(p) / o.reference - 1 if o.knows_last_year else math.nan, all_of[p])
        for o in graded for p in odds
    ]  # fmt: skip
    return OddsTable.of(rows, currency=graded[0].currency if graded else "")


class Needs(OfKpis):
    """What a planned total needs upstream at the rates of the last weeks, with 90% interval; the target comes first."""

    columns = ("kpi", "need", "need_low", "need_high", "rate")
    ways: ClassVar = {"kpi": kpis.kpi, "made_of": MADE_OF}

    def sentence(self, language: str = "en") -> str:
        if len(self.kpi) < 2:
            return say("needs.none", language)
        steps = zip(map(kpis.kpi, self.kpi), self.need, strict=True)
        told = [(k.lowered(language), measure(v, k.unit, language, self.currency)) for k, v in steps]
        first, *rest = (say("needs.part", language, name=name, value=value) for name, value in told)
        return say("needs.sentence", language, first=first, rest=say("needs.and", language).join(rest))


def needs(data: Source, plan: Plan, *, since: date, until: date) -> Needs:
    """What the plan's total needs upstream, at the ratios between `since` and `until`, taken as independent."""
    lacking = kpis.feeds(data)
    key, need, spread = plan.kpi, float(plan.total), 0.0
    rows = [(key, need, need, need, math.nan)]
    while key in MADE_OF and not lacking[MADE_OF[key][0]]:
        ratio, key = MADE_OF[key]
        found = kpis.compute(data, [ratio], grain="total", since=since, until=until, confidence=0.9)
        rate, low, high = found.value[0], found.value_low[0], found.value_high[0]
        if not (math.isfinite(low) and low > 0):
            break
        step = round(found.numerator[0]), round(found.denominator[0])
        counted = kpis.kpi(ratio).unit == "share"  # whole counts through the step, never less than the target asks for
        need = float(upstream_needs(need, [step]).need[0] if counted else math.ceil(need / rate))
        spread = math.hypot(spread, math.log(high / low) / 2)
        rows.append((key, need, need * math.exp(-spread), need * math.exp(spread), rate))
    return Needs.of(rows, currency=data.currency())


class SpendCheck(OfKpis):
    """Whether planned spend can carry each uplift: `rejected` where the elasticity that it implies exceeds `most`.

    `implied` is ln(target / expected total) / ln(1 + spend growth), NaN where spend does not grow; `history` the
    `Elasticity` of the past, if known.
    """

    columns = ("uplift", "target", "implied", "rejected")
    aside: ClassVar = ("most", "history", "currency")

    def sentence(self, language: str = "en") -> str:
        history = self.history.sentence(language) if self.history else say("spend_check.no_spend", language)
        told = {"growth": uplift(self.spend_growth, language), "most": number(self.most, language, decimals=1)}
        kind = "rejected" if True in self.rejected else "fine" if self.spend_growth > 0 else ""
        if kind == "rejected":
            first = self.rejected.index(True)
            told |= {"uplift": uplift(self.uplift[first], language)}
            told |= {"implied": number(self.implied[first], language, decimals=1)}
        return f"{history} {say(f'spend_check.{kind}', language, **told)}" if kind else history


def check_spend(data: Source, outlook: Outlook, uplifts: Sequence[float], spend_growth: float) -> SpendCheck:
    """Reject uplifts that would need far more of each unit of spend than history shows, such as double for +10%."""
    found, season = None, SEASONS[outlook.grain]
    if "spend" in data.table("channel_daily").columns:
        spend = kpis.compute(data, ["spend"], grain=outlook.grain).series("spend")
        both = outlook.history, spend.reindex(outlook.history.index)
        made, paid = (series.clip(lower=0).to_numpy(dtype=float) for series in both)
        found = estimate_elasticity(made, paid, season=(7, season) if outlook.grain == "day" else season)
    most = max(MOST_ELASTIC, found.high if found and not found.reason else 0.0)
    targets = [outlook.reference * (1 + u) for u in uplifts]
    grows = spend_growth > 0 and outlook.total > 0
    implied = [math.log(t / outlook.total) / math.log1p(spend_growth) if grows and t > 0 else math.nan for t in targets]
    rows = zip(uplifts, targets, implied, [e > most for e in implied], strict=True)
    past = found or Elasticity(n=0, n_zero=0)
    slope = {"elasticity": past.elasticity, "elasticity_low": past.low, "elasticity_high": past.high}
    told = {"kpi": outlook.kpi, "spend_growth": spend_growth, "most": most, "currency": outlook.currency}
    return SpendCheck.of(rows, **told, **slope, history=found)


class PlanReview(OfKpis):
    """Warnings on a plan: many, vanity, unmatched or cold (little engagement); `kpi` is empty for a whole channel."""

    columns = ("channel", "kpi", "warning", "words", "words_vi")

    def sentence(self, language: str = "en") -> str:
        kind = "some" if self.warning else "none"
        return say(f"plan_review.{kind}", language, n=len(self.warning), k=len(set(self.channel)))


def review_plan(
    kpis_by_channel: Mapping[str, Sequence[str]], *, grades: Mapping[tuple[str, str], str] | None = None,
    engagement: Mapping[str, tuple[float, float]] | None = None, activities: Mapping[str, Sequence[str]] | None = None,
) -> PlanReview:  # fmt: skip
    """Warn of too many KPIs, vanity metrics, KPIs that nothing planned moves, ambition where few engage.

    By channel: ids of the catalogue; `engagement`: (successes, trials) of one rate that means the same on all, little
    below half of their median; `activities`: planned words of `ACTIVITIES`. `grades` by (channel, KPI).
    Raises a `KpiError` if a KPI or an activity is unknown.
    """
    graded, planned, engaged = grades or {}, activities or {}, engagement or {}
    unknown = {word for words in planned.values() for word in words} - {*ACTIVITIES}
    require(not unknown, f"activities {sorted(unknown)} are not among {', '.join(ACTIVITIES)}.")
    rates = shrink_rates(*np.array([*engaged.values()], dtype=float).T).mean if engaged else (0.0,)
    rate, middle = dict(zip(engaged, rates, strict=False)), float(np.median(rates))

    found: list[tuple[str, str, str, dict[str, Any]]] = []
    for channel, keys in kpis_by_channel.items():
        does, n = planned.get(channel, ()), len({*keys})
        if n > MOST:
            found.append((channel, "", "many", {"n": n, "most": MOST}))
        for k in map(kpis.kpi, dict.fromkeys(keys)):
            if k.vanity:
                found.append((channel, k.id, "vanity", {"name": k.name}))
            if activities is not None and not {*does} & {*k.activities, "campaign"}:
                moves = [", ".join(say(f"activity.{a}", lang) for a in k.activities) for lang in LANGUAGES]
                found.append((channel, k.id, "unmatched", {"name": k.name, "activities": Text(*moves)}))
            little = rate.get(channel, middle) < middle / 2 and "campaign" not in does
            if little and (grade := graded.get((channel, k.id))) in ("ambitious", "unrealistic"):
                both = (rate[channel], middle)
                here, usual = (Text(*(measure(v, "share", lang) for lang in LANGUAGES)) for v in both)
                words = Text(*(say(f"status.{grade}", lang).lower() for lang in LANGUAGES))
                found.append((channel, k.id, "cold", {"grade": words, "rate": here, "middle": usual}))
    return PlanReview.of([(*row, *both_say(f"plan_review.{row[2]}", **told)) for *row, told in found])


def review(
    graded: TargetTable, recent: kpis.KpiTable, uplift: float, activities: Mapping[str, Sequence[str]] | None = None
) -> PlanReview:
    """Warn of what weakens the plan; see `review_plan`. `recent` are KPIs by channel over the last weeks."""
    frame = recent.to_frame().dropna(subset=["value"])
    for channel in activities or {}:
        require_known(channel, frame["segment"].unique(), f"activities: there is no channel {channel!r} in the data.")
    frame = frame[[kpis.kpi(k).direction != "none" for k in frame["kpi"]]]
    by_channel = {str(s): part["kpi"].tolist() for s, part in frame.groupby("segment", sort=False)}
    # rates of visitors who act, which mean the same on every channel
    acts = frame[frame["kpi"].isin(["order_rate_session", "conv_rate_session"])].drop_duplicates("segment")
    engagement = {str(row.segment): (row.numerator, row.denominator) for row in acts.itertuples()}
    chosen = graded.frame.query("uplift == @uplift and segment != ''").set_index(["segment", "kpi"])["grade"]
    return review_plan(by_channel, grades=chosen.to_dict(), engagement=engagement, activities=activities or None)
