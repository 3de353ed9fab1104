"""Can the plan be kept: targets at chosen odds, all of them together, what they need upstream, what to mind."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from scipy.special import ndtri

from kpi_helpers import kpis
from kpi_helpers.advice import PlanReview, review_plan
from kpi_helpers.baselines import SEASONS
from kpi_helpers.elasticities import Elasticity, estimate_elasticity
from kpi_helpers.errors import require_known
from kpi_helpers.outlooks import Outlook
from kpi_helpers.plans import Plan, TargetTable
from kpi_helpers.rates import upstream_needs
from kpi_helpers.result import Result, labelled_pill, measure, number, percent, probability, say, table
from kpi_helpers.result import uplift as uplift_
from kpi_helpers.sources import Source
from kpi_helpers.targets import MOST_ELASTIC, chance_of_all

#: what a KPI is made of: divide it by the ratio and the next KPI upstream remains
MADE_OF = {"revenue": ("aov", "orders"), "orders": ("order_rate_session", "sessions"),
           "conversions": ("conv_rate_session", "sessions")}  # fmt: skip
#: rates of visitors who act, which mean the same on every channel
ENGAGEMENT = ("order_rate_session", "conv_rate_session")
FEWEST_PATHS = 12


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OddsTable(Result):
    """Targets at chosen odds, one row a KPI and odds; `together` is the chance that all KPIs meet theirs at once.

    `change` is the target against last year, a fraction; `together` is NaN where the past is too short to tell.
    """

    kpi: tuple[str, ...]
    odds: tuple[float, ...]
    target: tuple[float, ...]
    change: tuple[float, ...]
    together: tuple[float, ...]
    currency: str

    def sentence(self, language: str = "en") -> str:
        """How the chance of a single target and of all together differ."""
        n = len(set(self.kpi))
        if n < 2 or not math.isfinite(self.together[0]):
            return say("odds_table.alone", language)
        told = {"n": n, "odds": f"{self.odds[0]:.0%}", "together": probability(self.together[0], language)}
        return say("odds_table.sentence", language, **told)

    def html(self, language: str = "en") -> str:
        """One row a KPI, one column odds; the last row is the chance of all."""
        if not self.kpi:
            return f"<p>{say('odds_table.none', language)}</p>"
        frame, odds = self.to_frame(), list(dict.fromkeys(self.odds))
        rows = []
        for key, part in frame.groupby("kpi", sort=False):
            k = kpis.kpi(str(key))
            cells = [
                measure(row.target, k.unit, language, self.currency)
                + f"<small>{percent(row.change, language, sign=True)}</small>"
                for row in part.itertuples()
            ]
            rows.append([html.escape(k.name[language]), *cells])
        last = [probability(self.together[i], language) for i in range(len(odds))]
        rows.append([say("odds_table.together", language), *map(html.escape, last)])
        heads = [say("odds_table.heads", language), *(f"{p:.0%}" for p in odds)]
        note = say("odds_table.note", language)
        return table(heads, rows, caption=self.sentence(language), note=note, total=True, numeric=range(1, len(heads)))


def targets_at(outlooks: Sequence[Outlook], odds: Sequence[float] = (0.8, 0.5, 0.2)) -> OddsTable:
    """Set the target of each KPI at the same odds, and tell how likely all are met at once.

    KPIs rise and fall together: the correlation of what their forecasts missed on the same past dates is
    carried into a multivariate normal.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook_kpis
    >>> from kpi_helpers.sources import connect
    >>> values = kpis.compute(connect("data/demo"), ["orders", "revenue"])
    >>> told = targets_at(outlook_kpis(values, ["orders", "revenue"], as_of=date(2026, 11, 21)), [0.8])
    >>> 0.6 < told.together[0] < 0.8
    True
    """
    graded = [o for o in outlooks if o.graded]
    all_of = {p: _together(graded, p) for p in odds}
    rows = [
        (o.kpi, p, o.target_at(p), o.target_at(p) / o.reference - 1 if o.knows_last_year else math.nan, all_of[p])
        for o in graded for p in odds
    ]  # fmt: skip
    columns = zip(*rows, strict=True) if rows else ((),) * 5
    names = ("kpi", "odds", "target", "change", "together")
    return OddsTable(**dict(zip(names, columns, strict=True)), currency=graded[0].currency if graded else "")


def _together(outlooks: Sequence[Outlook], odds: float) -> float:
    n = min((len(o.missed) for o in outlooks), default=0)
    if n < FEWEST_PATHS:
        return math.nan
    signs = [-1 if kpis.kpi(o.kpi).direction == "down" else 1 for o in outlooks]
    missed = np.array([s * np.array(o.missed[-n:]) for s, o in zip(signs, outlooks, strict=True)])
    correlation = np.atleast_2d(np.corrcoef(missed))
    k = len(outlooks)
    return chance_of_all([0.0] * k, [1.0] * k, correlation, [float(ndtri(1 - odds))] * k)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Needs(Result):
    """What a planned total needs upstream at the rates of the last weeks, from the outcome up.

    `need` and its 90% interval are totals over the plan; of the outcome itself they are the target.
    """

    kpi: tuple[str, ...]
    need: tuple[float, ...]
    need_low: tuple[float, ...]
    need_high: tuple[float, ...]
    rate: tuple[float, ...]
    currency: str

    def sentence(self, language: str = "en") -> str:
        """The outcome and what it takes."""
        if len(self.kpi) < 2:
            return say("needs.none", language)
        steps = zip(map(kpis.kpi, self.kpi), self.need, strict=True)
        told = [(k.name[language].lower(), measure(v, k.unit, language, self.currency)) for k, v in steps]
        first, *rest = (say("needs.part", language, name=name, value=value) for name, value in told)
        return say("needs.sentence", language, first=first, rest=say("needs.and", language).join(rest))

    def html(self, language: str = "en") -> str:
        """One row a step: what is needed, its interval and the rate that was taken."""
        if len(self.kpi) < 2:
            return Result.html(self, language)
        rows = []
        for i, k in enumerate(map(kpis.kpi, self.kpi)):
            value, low, high = (
                measure(v[i], k.unit, language, self.currency) for v in (self.need, self.need_low, self.need_high)
            )
            how = ""
            if i:
                ratio = kpis.kpi(MADE_OF[self.kpi[i - 1]][0])
                how = f"{ratio.name[language]} {measure(self.rate[i], ratio.unit, language, self.currency)}"
            rows.append([html.escape(k.name[language]), value, f"{low} – {high}" if i else "", html.escape(how)])
        heads = say("needs.heads", language).split("|")
        return table(heads, rows, caption=self.sentence(language), note=say("needs.note", language), numeric=(1, 2))


def needs(data: Source, plan: Plan, *, since: date, until: date) -> Needs:
    """What the plan's total needs upstream, at the ratios between `since` and `until`.

    Money is divided by the average order, counts by the rate of the step above; the intervals (90%) of the ratios
    are carried along as if their errors were independent.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook
    >>> from kpi_helpers.plans import allocate_plan
    >>> from kpi_helpers.sources import connect
    >>> data = connect("data/demo")
    >>> whole = outlook(kpis.compute(data, ["orders"]), "orders", as_of=date(2026, 11, 21))
    >>> needs(data, allocate_plan(whole, [], 0.1), since=date(2026, 8, 24), until=date(2026, 11, 21)).kpi
    ('orders', 'sessions')
    """
    held = set(data.table("channel_daily").columns)
    key, need, spread = plan.kpi, float(plan.total), 0.0
    rows = [(key, need, need, need, math.nan)]
    while key in MADE_OF and kpis.kpi(MADE_OF[key][0]).columns <= held:
        ratio, key = MADE_OF[key]
        found = kpis.compute(data, [ratio], grain="total", since=since, until=until, confidence=0.9)
        rate, low, high = found.value[0], found.value_low[0], found.value_high[0]
        if not (math.isfinite(low) and low > 0):
            break
        if kpis.kpi(ratio).unit == "share":  # whole counts through the step, never less than the target asks for
            won, tried = round(found.numerator[0]), round(found.denominator[0])
            need = float(upstream_needs(math.ceil(need), [(won, tried)]).need[0])
        else:
            need = math.ceil(need / rate)
        spread = math.hypot(spread, math.log(high / low) / 2)
        rows.append((key, need, need * math.exp(-spread), need * math.exp(spread), rate))
    columns = dict(zip(("kpi", "need", "need_low", "need_high", "rate"), zip(*rows, strict=True), strict=True))
    return Needs(**columns, currency=data.currency())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SpendCheck(Result):
    """Whether planned spend can carry each uplift over last year: the elasticity that it implies, beside history's.

    `implied` is ln(target / expected total) / ln(1 + spend growth); `rejected` where it exceeds `most`, which is 1.5
    or, if higher, the upper 95% bound of `elasticity`. NaN and never rejected where spend does not grow.
    """

    uplift: tuple[float, ...]
    target: tuple[float, ...]
    implied: tuple[float, ...]
    rejected: tuple[bool, ...]
    most: float
    spend_growth: float
    elasticity: Elasticity | None
    kpi: str
    currency: str

    def to_frame(self) -> pd.DataFrame:
        """One row an uplift, with the elasticity of the past and its interval."""
        e = self.elasticity or Elasticity(n=0, n_zero=0)
        rows = pd.DataFrame({c: getattr(self, c) for c in ("uplift", "target", "implied", "rejected")})
        return rows.assign(kpi=self.kpi, spend_growth=self.spend_growth, elasticity=e.elasticity,
                           elasticity_low=e.low, elasticity_high=e.high)  # fmt: skip

    def sentence(self, language: str = "en") -> str:
        """What history shows, and the first uplift that is rejected, with the reason."""
        history = self.elasticity.sentence(language) if self.elasticity else say("spend_check.no_spend", language)
        told = {"growth": uplift_(self.spend_growth, language), "most": number(self.most, language, decimals=1)}
        first = next((i for i, no in enumerate(self.rejected) if no), None)
        if first is None:
            return f"{history} {say('spend_check.fine', language, **told)}" if self.spend_growth > 0 else history
        told |= {"uplift": uplift_(self.uplift[first], language),
                 "implied": number(self.implied[first], language, decimals=1)}  # fmt: skip
        return f"{history} {say('spend_check.rejected', language, **told)}"

    def html(self, language: str = "en") -> str:
        """The sentence, and one row an uplift."""
        said = Result.html(self, language)
        if not self.spend_growth > 0:
            return said
        unit = kpis.kpi(self.kpi).unit
        verdicts = [("bad", "spend_check.no") if no else ("none", "spend_check.yes") for no in self.rejected]
        rows = [
            [uplift_(u, language), measure(t, unit, language, self.currency),
             number(e, language, decimals=1), labelled_pill(tone, say(key, language))]
            for u, t, e, (tone, key) in zip(self.uplift, self.target, self.implied, verdicts, strict=True)
        ]  # fmt: skip
        caption = say("spend_check.caption", language, growth=uplift_(self.spend_growth, language))
        heads = say("spend_check.heads", language).split("|")
        return said + table(heads, rows, caption=caption, kind="tight", numeric=(1, 2))


def check_spend(data: Source, outlook: Outlook, uplifts: Sequence[float], spend_growth: float) -> SpendCheck:
    """Reject uplifts that would need far more of each unit of spend than history shows, such as double for +10%.

    Examples
    --------
    >>> from kpi_helpers.outlooks import outlook
    >>> from kpi_helpers.sources import connect
    >>> data = connect("data/demo")
    >>> whole = outlook(kpis.compute(data, ["orders"]), "orders", as_of=date(2026, 11, 21))
    >>> check_spend(data, whole, [0.1, 1.0], 0.10).rejected
    (False, True)
    """
    found, season = None, SEASONS[outlook.grain]
    if "spend" in data.table("channel_daily").columns:
        spend = kpis.compute(data, ["spend"], grain=outlook.grain).series("spend")
        at = pd.PeriodIndex(outlook.history_at, freq=spend.index.freq)
        paid = spend.reindex(at).clip(lower=0).to_numpy(dtype=float)
        made = pd.Series(outlook.history).clip(lower=0).to_numpy(dtype=float)
        found = estimate_elasticity(made, paid, season=(7, season) if outlook.grain == "day" else season)
    most = max(MOST_ELASTIC, found.high if found and not found.reason else 0.0)
    targets = [outlook.reference * (1 + u) for u in uplifts]
    grows = spend_growth > 0 and outlook.total > 0
    implied = [math.log(t / outlook.total) / math.log1p(spend_growth) if grows and t > 0 else math.nan for t in targets]
    return SpendCheck(
        uplift=tuple(uplifts), target=tuple(targets), implied=tuple(implied), most=most, spend_growth=spend_growth,
        rejected=tuple(e > most for e in implied), elasticity=found, kpi=outlook.kpi, currency=outlook.currency,
    )  # fmt: skip


def review(
    graded: TargetTable, recent: kpis.KpiTable, uplift: float, activities: Mapping[str, Sequence[str]] | None = None
) -> PlanReview:
    """Warn of what weakens the plan; see `advice.review_plan`. `recent` are KPIs by channel over the last weeks."""
    frame = recent.to_frame().dropna(subset=["value"])
    channels = list(dict.fromkeys(frame["segment"]))
    for channel in activities or {}:
        require_known(channel, channels, f"activities: there is no channel {channel!r} in the data.")
    frame = frame[[kpis.kpi(k).direction != "none" for k in frame["kpi"]]]
    by_channel = {str(s): part["kpi"].tolist() for s, part in frame.groupby("segment", sort=False)}
    acts = frame[frame["kpi"].isin(ENGAGEMENT)].drop_duplicates("segment").set_index("segment")
    engagement = {str(s): (row.numerator, row.denominator) for s, row in acts.iterrows()}
    chosen = graded.to_frame().query("uplift == @uplift and segment != ''").rename(columns={"segment": "channel"})
    return review_plan(by_channel, grades=chosen, engagement=engagement, activities=activities or None)
