"""Audiences kept from ads: what that saves and loses against a hold-out, and where nobody can tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Any, ClassVar, NamedTuple

import ibis
import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri

from kpi_helpers import contrasts, kpis, plots
from kpi_helpers.before_after import difference_in_differences, read_panel
from kpi_helpers.errors import require, require_known
from kpi_helpers.monitors import threshold
from kpi_helpers.result import Framed, Result, day, labelled_pill, measure, number, percent, say
from kpi_helpers.scoring import GRAINS, last_full
from kpi_helpers.sources import Source
from kpi_helpers.stats import Floats, checked_confidence, moves, poisson_interval, wilson
from kpi_helpers.texts import EXACT
from kpi_helpers.units import as_table

FIELDS = ("people", "conversions", "revenue", "cost", "revenue_squared")
SIDES = ("excluded", "holdout", "included")
#: standard deviation of an order by its mean, where only sums are known: that of an exponential law
SPREAD = 1.0
#: so many audiences are tried in every combination
EXHAUSTIVE = 10
TONES = {"effective": "good", "harmful": "bad", "open": "none", "alone": "watch", "wasted": "bad", "pays": "good"}
PERIODS_SHOWN = {"day": 56, "week": 26, "month": 12}


class Excluded(Framed):
    """A result of notebook 07: its HTML has pills of its own."""

    aside: ClassVar = ("currency", "all")
    ways: ClassVar = {"mark": lambda key, words: labelled_pill(TONES[key], words), "kpi": kpis.kpi}

    def money(self, value: float, language: str) -> str:
        """A sum of money in words, with its sign."""
        return ("+" if value > 0 else "") + measure(value, "money", language, self.currency)


class Assessment(Excluded):
    """Each excluded group against its hold-out, and what excluding it brings.

    `rate`, `holdout_rate` and their `difference`; `lift` and `revenue_lift`, treated by hold-out less 1, of conversions
    and revenue a person. `decision`: ``effective`` if both intervals lie above −margin, ``harmful`` if one lies below,
    ``open`` or, without a hold-out, ``alone``; `naive` is the share without a conversion, which decides nothing.
    `avoided` cost less the `spent` is `saved`, less the margin of the conversions `lost` is `net`, each with bounds.
    `effectiveness` is the share of people in effective groups, `possible` that in groups not shown harmful.
    """

    def groups(self, decision: str) -> list[str]:
        """Groups with this decision."""
        return [str(g) for g in self.frame.loc[self.frame["decision"] == decision, "group"]]

    @property
    def ends(self) -> tuple[float, float]:
        """First and last place of an axis for all intervals of conversions."""
        told = np.array([self.lift_low, self.lift_high])[:, np.isfinite(self.lift)].ravel()
        places = np.clip([*told[np.isfinite(told)], -2 * self.margin, self.margin], -1, 1)
        return float(places.min()) - 0.02, float(places.max()) + 0.02

    def sentence(self, language: str = "en") -> str:
        told: dict[str, Any] = {"k": len(self.group), "n": len(self.groups("effective"))}
        told |= {key: percent(self.whole[key], language) for key in ("effectiveness", "possible", "naive", "margin")}
        told |= {key: self.money(self.whole[key], language) for key in ("net", "net_low", "net_high")}
        key = "decided" if self.effectiveness >= 0 else "undecided"
        return say(f"assessment.{key}", language, level=f"{self.confidence:.0%}", **told)


def assess(
    treated: Any, holdout: Any, *, margin: float, margin_per_conversion: float, confidence: float = 0.95,
    currency: str = "",
) -> Assessment:  # fmt: skip
    """Decide for each group whether excluding it loses no more than allowed, and what it saves, gross and net.

    A hold-out of people who fit the rule but saw the ads all the same tells what the excluded would have done. The
    ratio of conversion rates is Koopman's (score test). That of revenue a person multiplies it with the ratio of order
    values, distances of the ends added in squares on the logarithms (Zou & Donner 2008); the spread of orders is that
    of `revenue_squared`, or else their mean (exponential). A group is effective only if both pass, so that neither test
    needs a correction; and since each group is a decision of its own, none is made over groups: one with a loss of just
    the margin passes at most (1 - confidence) / 2 of the time. What the hold-out's ads cost is taken as exact.

    Parameters: `treated`, people who were excluded, and `holdout`: mappings of a group to (people, conversions,
    revenue, cost), and, if known, the sum of squared order values, or frames of these columns; revenue and cost may be
    NaN. `margin`: share of the hold-out's rates that may be lost, in (0, 1). `margin_per_conversion`: money, 0 or more.
    Raises `KpiError` for impossible sums, or a group that has a hold-out but is not excluded.

    >>> sums = {"A": (90_000, 1620, 810, 50)}, {"A": (10_000, 182, 91, 24)}
    >>> result = assess(*sums, margin=0.2, margin_per_conversion=1)
    >>> result.decision, [round(v) for v in (result.saved[0], result.lost[0])]
    (('effective',), [166, 18])
    """
    require(0 < margin < 1, f"margin={margin} is not in (0, 1). Write 0.1 to allow a loss of 10% of the rate.")
    fine = 0 <= margin_per_conversion < np.inf
    require(fine, f"margin_per_conversion={margin_per_conversion} must be money, at least 0.")
    t, h = _arm("treated", treated), _arm("holdout", holdout)
    alone = [str(g) for g in h.index if g not in t.index]
    require(not alone, f"{', '.join(alone)}: in holdout but not in treated. A hold-out is a part of an excluded group.")
    require(len(t) > 0, "treated has no group: there is nothing to assess.")
    h = h.reindex(t.index).fillna({"people": 0.0, "conversions": 0.0})
    alpha, n = 1 - checked_confidence(confidence), t["people"].to_numpy()
    c = contrasts.rates((h["conversions"], h["people"]), (t["conversions"], n), alpha=alpha)
    found = {"rate": c.treatment_value, "holdout_rate": c.control_value, "difference": c.difference}
    found |= {f"difference_{end}": getattr(c, f"difference_{end}") for end in ("low", "high")}
    found |= {"lift": c.lift, "lift_low": c.lift_low, "lift_high": c.lift_high}
    with np.errstate(divide="ignore", invalid="ignore"):
        found |= dict(zip(("revenue_lift", "revenue_low", "revenue_high"), _revenue(c, t, h, confidence), strict=True))
        found["avoided"] = (h["cost"] / h["people"].where(h["people"] > 0)).to_numpy() * n
        found["naive"] = 1 - t["conversions"].to_numpy() / n
    told = t["revenue"].notna() & h["revenue"].notna()
    kept = (found["lift_low"] > -margin) & ((found["revenue_low"] > -margin) | ~told)
    harmed = (found["lift_high"] < -margin) | (found["revenue_high"] < -margin)
    decided = np.select([h["people"] == 0, harmed, kept], ["alone", "harmful", "effective"], "open")
    found |= {"spent": t["cost"], "saved": found["avoided"] - t["cost"]}
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        found[f"lost{end}"] = -found[f"difference{other}"] * n
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        found[f"net{end}"] = found["saved"] - found[f"lost{other}"] * margin_per_conversion
    frame = pd.DataFrame({"people": n, "holdout_people": h["people"], "decision": decided, **found}, index=t.index)
    frame = frame.rename_axis("group").reset_index()
    share = {d: float(n[decided == d].sum() / n.sum()) if n.sum() else np.nan for d in TONES}
    whole = {"effectiveness": share["effective"] if (decided != "alone").any() else np.nan}
    whole |= {"possible": 1 - share["harmful"], "naive": 1 - t["conversions"].sum() / n.sum(), "people": n.sum()}
    whole |= dict(zip(("net", "net_low", "net_high"), _added(frame), strict=True))
    whole |= {"saved": frame["saved"].sum(min_count=1), "squares": bool(t["revenue_squared"].notna().all())}
    whole |= {"margin": margin, "margin_per_conversion": margin_per_conversion, "confidence": confidence}
    return Assessment(frame=frame, whole=whole | {"currency": currency})


def _arm(name: str, given: Any) -> pd.DataFrame:
    """People, conversions, revenue, cost and squares of each group, checked."""
    if not isinstance(given, pd.DataFrame):
        odd = [str(g) for g, row in given.items() if len(row) not in (4, 5)]
        require(not odd, f"{name}[{odd[:1]}] must be (people, conversions, revenue, cost).")
        given = pd.DataFrame([(*row, np.nan)[:5] for row in given.values()], list(given), FIELDS)
    for column in FIELDS[:2]:
        require_known(column, given.columns, f"{name} has no column {column}.")
    arm = given.reindex(columns=list(FIELDS)).astype(float)
    twice = sorted({str(g) for g in arm.index[arm.index.duplicated()]})
    require(not twice, f"{name} has {', '.join(twice)} more than once. Add its rows up.")
    for group, row in arm.iterrows():
        low = [f for f in FIELDS if row[f] < 0]
        require(not low, f"{name}[{group!r}]: {', '.join(low)} below 0. Counts and money cannot be.")
        known = np.isfinite(row[:2].to_numpy()).all()
        require(bool(known), f"{name}[{group!r}]: people and conversions must be numbers. Write 0 for none.")
        rule = "Count people who converted, each once."
        require(row["conversions"] <= row["people"], f"{name}[{group!r}]: {row['conversions']:g} conversions of "
                f"{row['people']:g} people. {rule}")  # fmt: skip
    return arm


def _revenue(c: contrasts.Contrast, t: pd.DataFrame, h: pd.DataFrame, confidence: float) -> tuple[Floats, ...]:
    """Revenue a person, treated by hold-out less 1, and its bounds; NaN where one side has no conversion or revenue."""
    arms = [tuple(arm[f].to_numpy() for f in ("conversions", "revenue", "revenue_squared")) for arm in (t, h)]
    more = [x * (x * s / r**2 - 1) * x / np.maximum(x - 1, 1) for x, r, s in arms]  # conversions x spread²
    n = arms[0][0] + arms[1][0]
    spread = (more[0] + more[1]).clip(0) / n
    spread = np.where(np.isfinite(spread), spread, SPREAD**2)
    (x1, r1, _s1), (x0, r0, _s0) = arms
    value = (r0 / x0) / (r1 / x1)
    step = np.exp(-ndtri((1 - confidence) / 2) * np.sqrt(spread * (1 / x0 + 1 / x1)))
    return moves((1 + c.lift, 1 + c.lift_low, 1 + c.lift_high), (value, value / step, value * step), relative=True)


def _added(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Sum of independent nets with bounds: distances of the ends add up in squares; NaN if none is known."""
    known = frame.dropna(subset=["net"])
    total = known["net"].sum(min_count=1)
    low, high = (np.sqrt(((known["net"] - known[end]) ** 2).sum()) for end in ("net_low", "net_high"))
    return float(total), float(total - low), float(total + high)


class Groups(NamedTuple):
    """Sums of each group as `assess` takes them: people who were excluded, held out, and shown the ads."""

    treated: pd.DataFrame
    holdout: pd.DataFrame
    included: pd.DataFrame


def groups(
    table: Any, *, by: str | Sequence[str] = "audience", as_of: date | str | None = None, days: int | None = None
) -> Groups:
    """Sum ``audience_daily`` by the columns `by` over the last `days` up to `as_of`, in one query.

    `table` is a source, or the table as an Ibis table, DataFrame or file. How orders differ (`revenue_squared`) comes
    from how the mean order of its rows differs. Raises `KpiError` if a column lacks.
    """
    rows, by = _rows(table), (by,) if isinstance(by, str) else tuple(by)
    for column in by:
        require_known(column, rows.columns, f"audience_daily has no column {column}.")
    rows = rows.filter(_.date <= as_of) if as_of else rows
    rows = rows.filter(_.date > date.fromisoformat(str(as_of)) - timedelta(days)) if as_of and days else rows
    sums: dict[str, Any] = {}
    for side in SIDES:
        x, r = rows[f"{side}_conversions"], rows[f"{side}_revenue"]
        told = {"people": rows[side], "conversions": x, "revenue": r, "cost": rows[f"{side}_cost"]}
        each = (r.cast("float64") * r.cast("float64") / (x > 0).ifelse(x, None)).cast(EXACT)  # exact, in any order
        sums |= {f"{side} {name}": column.sum() for name, column in told.items()}
        sums |= {f"{side} each": each.sum(), f"{side} rows": each.count()}
    frame = rows.group_by({b: _[b].fill_null("–") for b in by}).aggregate(**sums).order_by(by).to_pyarrow().to_pandas()
    require(len(frame) > 0, f"audience_daily has no rows up to {as_of}. Choose a later as_of or more days.")
    frame = frame.set_axis(frame[list(by)].agg(" · ".join, axis=1)).drop(columns=list(by)).astype(float)
    frame = frame.sort_values("excluded people", ascending=False, kind="stable")
    found = []
    for side in SIDES:
        arm = frame[[f"{side} {f}" for f in FIELDS[:4]]].set_axis(list(FIELDS[:4]), axis=1)
        x, r, k = arm["conversions"], arm["revenue"], frame[f"{side} rows"]
        usual = r**2 / x.where(x > 0)
        arm["revenue_squared"] = usual + (x - 1) * (frame[f"{side} each"] - usual).clip(0) / (k - 1).where(k > 1)
        found.append(arm.fillna({"people": 0.0, "conversions": 0.0}))
    return Groups(found[0][found[0]["people"] > 0], found[1][found[0]["people"] > 0], found[2])


def _rows(table: Any) -> Any:
    """The table with every column that sums need, empty where it has none."""
    rows = table.table("audience_daily") if isinstance(table, Source) else as_table(table)
    for column in ("date", "excluded", "excluded_conversions"):
        require_known(column, rows.columns, f"audience_daily has no column {column}.")
    wanted = [f"{side}{more}" for side in SIDES for more in ("", "_conversions", "_revenue", "_cost")]
    return rows.mutate(**{c: ibis.null("int64") for c in [*wanted, "reach"] if c not in rows.columns})


class WastedBudget(Excluded):
    """What is spent on each group that sees the ads, against the conversions that would pay for it (`needed`).

    `profit`: margin of its conversions less its cost, with bounds; `decision`: ``wasted``, ``pays`` or ``open``.
    """

    def sentence(self, language: str = "en") -> str:
        lost = self.frame[self.frame["decision"] == "wasted"]
        told = {"n": len(lost), "k": len(self.group), "groups": ", ".join(lost["group"])}
        told["cost"] = measure(lost["cost"].sum(), "money", language, self.currency)
        return say(f"wasted_budget.{'some' if len(lost) else 'none'}", language, **told)


def wasted(
    included: pd.DataFrame, *, margin_per_conversion: float, confidence: float = 0.95, currency: str = ""
) -> WastedBudget:
    """Find groups whose conversions, all of them, surely do not pay for their ads: counts are Poisson (Garwood).

    >>> seen = pd.DataFrame({"people": [1000.0], "conversions": [2.0], "cost": [900.0]}, index=["A"])
    >>> wasted(seen, margin_per_conversion=100).decision
    ('wasted',)
    """
    f = included[included["cost"] > 0][["people", "conversions", "cost"]].rename_axis("group").reset_index()
    ends = (f["conversions"], *poisson_interval(f["conversions"], confidence=confidence))
    for name, x in zip(("profit", "profit_low", "profit_high"), ends, strict=True):
        f[name] = x * margin_per_conversion - f["cost"]
    f["needed"] = f["cost"] / margin_per_conversion if margin_per_conversion else np.inf
    f["decision"] = np.select([f["profit_high"] < 0, f["profit_low"] > 0], ["wasted", "pays"], "open")
    f = f.sort_values(["profit", "group"], kind="stable", ignore_index=True)
    return WastedBudget(frame=f, whole={"confidence": confidence, "currency": currency})


class RuleChoice(Excluded):
    """Which groups to exclude: sets of groups (`chosen`), people and net savings with bounds, the best first.

    ``now`` marks today's rule, ``safe`` the groups that surely save. Groups without a hold-out have no say.
    """

    def sentence(self, language: str = "en") -> str:
        best, now = self.frame.iloc[0], self.frame[self.frame["now"]].iloc[0]
        told = {key: self.money(row["net"], language) for key, row in (("best", best), ("today", now))}
        return say("rule_choice.sentence", language, groups=", ".join(best["chosen"]) or "–", n=len(self.frame), **told)


def what_if(assessment: Assessment) -> RuleChoice:
    """Try every set of groups with a hold-out (of more than 10 those that take the best ones first).

    Groups are independent, so nets add up and distances of their ends add up in squares. Raises `KpiError` if no net
    is known.
    """
    f = assessment.frame.dropna(subset=["net"]).sort_values("net", ascending=False, kind="stable", ignore_index=True)
    require(len(f) > 0, "No group has a hold-out with costs: there is nothing to choose from.")
    k = len(f)
    sets = np.array(list(product([True, False], repeat=k))) if k <= EXHAUSTIVE else np.tri(k + 1, k, -1, bool)
    low, high = (np.sqrt(sets @ (f["net"] - f[end]).to_numpy() ** 2) for end in ("net_low", "net_high"))
    net, safe = sets @ f["net"].to_numpy(), (f["net_low"] > 0).to_numpy()
    told = {"people": sets @ f["people"].to_numpy(), "net": net, "net_low": net - low, "net_high": net + high}
    marks = {"now": sets.all(axis=1), "safe": (sets == safe).all(axis=1)}
    chosen = [tuple(f["group"][mask]) for mask in sets]
    frame = pd.DataFrame({"chosen": chosen, **told, **marks}).sort_values("net", ascending=False, kind="stable")
    whole = {"all": tuple(f["group"]), "confidence": assessment.confidence, "currency": assessment.currency}
    return RuleChoice(frame=frame.reset_index(drop=True), whole=whole)


class Overlap(Framed):
    """Pairs of audiences (`audience`, `other`) with people in both at the same time, the largest first.

    `pairs`: people by pairs of audiences; `shared` of the `people` are in two or more and would count twice.
    """

    def sentence(self, language: str = "en") -> str:
        told = {key: number(self.whole[key], language) for key in ("pairs", "shared", "people")}
        return say("overlap.sentence", language, share=percent(self.shared / self.people, language), **told)


def overlap(members: Any, *, unit: str = "customer_id", audience: str = "audience") -> Overlap:
    """Count who is in several audiences at once, in the engine.

    `members`: a row a person and audience; with ``starts_on`` and ``ends_on`` only shared days count. `members` is what
    `units.as_table` takes. Raises `KpiError` if a column lacks or there are no rows.
    """
    rows = as_table(members)
    for column in (unit, audience):
        require_known(column, rows.columns, f"The table has no column {column}.")
    dated = {"starts_on", "ends_on"} <= set(rows.columns)
    rows = rows.select(who=_[unit], group=_[audience].cast("string"), **({
        "begun": _.starts_on.cast("date"), "over": _.ends_on.cast("date")} if dated else {})).distinct()  # fmt: skip
    other = rows.view()
    same = [rows.who == other.who, rows.group < other.group]
    same += [rows.begun <= other.over, other.begun <= rows.over] if dated else []
    both = rows.inner_join(other, same, rname="{name}_too").select("who", "group", "group_too").distinct()
    counts = {"people": rows.who.nunique(), "pairs": both.count().as_scalar(), "shared": both.who.nunique().as_scalar()}
    whole = {k: int(v) for k, v in rows.aggregate(**counts).to_pyarrow().to_pylist()[0].items()}
    require(whole["people"] > 0, "The table of members has no rows.")
    pairs = both.group_by(audience=_.group, other=_.group_too).aggregate(people=_.count()).to_pyarrow().to_pandas()
    frame = pairs.sort_values(["people", "audience", "other"], ascending=[False, True, True], ignore_index=True)
    return Overlap(frame=frame.rename(columns={"people": "in_both"}), whole=whole)


class Switch(Excluded):
    """What a rule changed where it was switched on, less the change elsewhere: `lift` of each sum, with bounds.

    Rows (`what`): ``spend``, ``reach``, ``conversions`` of everyone, ``profit`` (their margin less the spend), and
    ``included``, the conversion rate of those who still see the ads, before and after without a control. `verdict`:
    that on profit: ``up``, ``down``, ``open``, or ``apart`` if the places moved apart before.
    """

    def drawn(self, language: str) -> str:
        """Lifts of everything as an HTML figure."""
        told = {"values": self.lift, "low": self.low, "high": self.high}
        told["clear"] = tuple(low * high > 0 for low, high in zip(self.low, self.high, strict=True))
        told["words"] = [say(f"switch.{what}", language) for what in self.what]
        note = say("switch.note", language, day=day(self.start, language), level=f"{self.confidence:.0%}")
        return plots.chart(
            lambda axes, narrow: plots.forest(axes, narrow, language=language, **told),
            title=say("switch.title", language), note=note, alt=self.sentence(language),
        )  # fmt: skip

    def sentence(self, language: str = "en") -> str:
        rows = self.frame.set_index("what")
        told = {f"{w}_{end}": percent(rows.loc[w, end], language, sign=True) for w in self.what for end in rows.columns}
        return say(f"switch.verdict {self.verdict}", language, **told)


def switched(
    table: Any, *, start: date | str, where: Sequence[str], margin_per_conversion: float, by: str = "segment",
    as_of: date | str = date.max, confidence: float = 0.95,
) -> Switch:  # fmt: skip
    """Compare before and after `start` in the places `where` (of the column `by`) with the same days elsewhere.

    A unit is a place and campaign; see `before_after`, whose errors it raises. Excluded, held out and included people
    all count: what the included alone do is no verdict.
    """
    rows = _rows(table)
    require_known(by, rows.columns, f"audience_daily has no column {by}.")
    absent = set(where) - set(rows.select(by).distinct().to_pyarrow()[by].to_pylist())
    require(bool(where) and not absent, f"where: {by} has no {', '.join(sorted(absent)) or 'place without a name'}.")
    n, spend = (sum(_[f"{side}_{what}"].fill_null(0) for side in SIDES) for what in ("conversions", "cost"))
    rows = rows.mutate(conversions=n, spend=spend, profit=n * margin_per_conversion - spend, treated=_[by].isin(where))
    campaign = rows["campaign"].fill_null("–") if "campaign" in rows.columns else ibis.literal("")
    rows, verdict = rows.mutate(unit=campaign + " · " + rows[by]), "open"
    told: list[tuple[Any, ...]] = []
    for what in ("spend", "reach", "conversions", "profit"):
        panel = read_panel(rows, unit="unit", at="date", value=what, treated="treated", start=start, end=as_of)
        found = difference_in_differences(panel, confidence=confidence)
        told.append((what, found.lift, found.lift_low, found.lift_high))
        verdict = found.verdict
    first, there = panel.begins[-1], rows.filter(_.treated)
    sums = [groups(t, by=by).included.sum() for t in (there.filter(_.date < first), there.filter(_.date >= first))]
    was, now = ((s["conversions"], s["people"]) for s in sums)
    ends = [(x / n, *wilson(x, n, confidence=confidence)) for x, n in (now, was)]
    told.append(("included", *moves(*ends, relative=True)))
    frame = pd.DataFrame(told, columns=["what", "lift", "low", "high"])
    whole = {"verdict": verdict, "start": first, "confidence": confidence}
    return Switch(frame=frame, whole=whole | {"before": ends[1][0], "after": ends[0][0]})


class ExclusionTrend(Excluded):
    """Exclusion rate by day, week and month (`grain`), whole periods only; `alarm` marks days over the `limit`.

    A day counts as over where its whole interval is, and raises the alarm with another of three; `since_at` is the
    first day of the alarm that holds as the data end, or None.
    """

    def drawn(self, grain: str, language: str) -> str:
        """One grain as an HTML figure."""
        f = self.frame[self.frame["grain"] == grain]
        told = {"title": say(f"exclusion_trend.{grain}", language), "alt": self.sentence(language)}
        note = say("exclusion_trend.note", language, level=f"{self.confidence:.0%}")
        word = say("exclusion_trend.limit", language, limit=percent(self.limit, language))
        return plots.chart(
            lambda axes, _narrow: plots.limited(f, axes, limit=self.limit, word=word, language=language),
            note=note, **told,
        )  # fmt: skip

    def sentence(self, language: str = "en") -> str:
        last = self.frame[self.frame["grain"] == self.grain[0]].iloc[-1]
        told = {"limit": percent(self.limit, language), "since": day(self.since_at, language)}
        told |= {key: percent(last[key], language) for key in ("value", "low", "high")}
        return say(f"exclusion_trend.{'over' if self.since_at else 'under'}", language, **told)


def trend(data: Source, *, limit: float, as_of: date | None = None, confidence: float = 0.95) -> ExclusionTrend:
    """Read the exclusion rate by day, week and month up to `as_of`, and judge its days by the `limit`, in (0, 1)."""
    require(0 < limit < 1, f"limit={limit} is not in (0, 1). Write 0.2 for 20%.")
    end, found = as_of or data.as_of(), list[pd.DataFrame]()
    for grain in list(PERIODS_SHOWN)[list(PERIODS_SHOWN).index(data.period("audience_daily")) :]:
        f = kpis.scorecard(data, ["exclusion_rate"], grain=grain, end=end, confidence=confidence)
        f = f.dropna(subset="value").assign(grain=grain)[["grain", "period", "value", "low", "high"]]
        whole = f["period"].dt.to_period(GRAINS[grain]).dt.end_time.dt.date <= end
        first = found[0]["period"].iloc[0] if found else f["period"].min()
        found.append(f[whole & (f["period"] >= first)].assign(alarm=False))
    days = found[0]
    over = np.isin(np.arange(len(days)), threshold(days["low"].to_numpy(), above=limit))
    calm = np.flatnonzero(~over)
    began = int(calm[-1]) + 1 if len(calm) else 0
    since = days["period"].iloc[began].date() if began < len(days) else None
    found[0] = days.assign(alarm=over)
    shown = [f.tail(PERIODS_SHOWN[f["grain"].iloc[0]]) for f in found if len(f)]
    frame = pd.concat(shown, ignore_index=True)
    return ExclusionTrend(frame=frame, whole={"limit": limit, "since_at": since, "confidence": confidence})


class ExclusionBreakdown(Excluded):
    """Exclusion rate of each audience, campaign and segment (`by`, `name`) in the last whole weeks (`period`)."""

    def sentence(self, language: str = "en") -> str:
        last = self.frame[self.frame["period"] == self.frame["period"].max()].dropna()
        top = last[last["by"] == self.by[0]].sort_values("value").iloc[-1]
        return say("exclusion_breakdown.sentence", language, name=top["name"], value=percent(top["value"], language))


def breakdown(data: Source, *, as_of: date, limit: float = 1.0, weeks: int = 6) -> ExclusionBreakdown:
    """Read the exclusion rate by audience, campaign and segment, week by week, where the table has them."""
    last = last_full(as_of, "week")
    days = {"start": (last - weeks + 1).start_time.date(), "end": last.end_time.date()}
    known = [c for c in ("audience", "campaign", "segment") if c in data.columns("audience_daily")]
    found = [
        kpis.scorecard(data, ["exclusion_rate"], by=c, grain="week", **days).rename(columns={c: "name"}).assign(by=c)
        for c in known
    ]
    frame = pd.concat(found, ignore_index=True).dropna(subset="value")[["by", "name", "period", "value"]]
    return ExclusionBreakdown(frame=frame, whole={"limit": limit})


class ExclusionStrip(Excluded):
    """The KPIs of exclusion in one line: `value`, `low`, `high` and, where there is one, the `target`."""

    def sentence(self, language: str = "en") -> str:
        told = ((kpis.kpi(k), v) for k, v in zip(self.kpi, self.value, strict=True))
        words = (f"{k.name[language]} {measure(v, k.unit, language, self.currency)}" for k, v in told)
        return say("exclusion_strip.sentence", language, told="; ".join(words))


def strip(data: Source, assessment: Assessment, *, as_of: date, days: int, limit: float) -> ExclusionStrip:
    """Put the KPIs of exclusion side by side: read from the data, and of `assessment` what needs a hold-out."""
    ids = ["exclusion_rate", "conv_rate_included", "reach_impact", "bounce_rate_excluded"]
    options = {"start": as_of - timedelta(days - 1), "end": as_of, "confidence": assessment.confidence}
    f = kpis.scorecard(data, ids, **options)[["kpi", "value", "low", "high"]].set_index("kpi")
    a = assessment
    f.loc["exclusion_effectiveness"] = a.effectiveness, a.effectiveness, a.possible
    f.loc["exclusion_savings"] = a.net, a.net_low, a.net_high
    order = [ids[0], "exclusion_effectiveness", "exclusion_savings", *ids[1:]]
    f = f.loc[order].dropna(subset="value").reset_index().assign(target=np.nan)
    f.loc[f["kpi"] == ids[0], "target"] = limit
    return ExclusionStrip(frame=f, whole={"days": days, "confidence": a.confidence, "currency": a.currency})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeptOut(Result):
    """Is exclusion over its limit, whom to bring back and what that is worth: the head of the report."""

    assessment: Assessment
    trend: ExclusionTrend

    aside: ClassVar = ("assessment", "trend")

    name = "answer"

    def to_frame(self) -> pd.DataFrame:
        return self.assessment.frame[["group", "decision", "net", "net_low", "net_high"]]

    def parts(self, language: str) -> list[str]:
        """The sentences of the headline."""
        bad, known = self.assessment.groups("harmful"), self.assessment.effectiveness >= 0
        key = "back" if bad else "keep" if known else "unknown"
        return [self.trend.sentence(language), say(f"kept_out.{key}", language, groups=", ".join(bad))]

    def sentence(self, language: str = "en") -> str:
        return " ".join(self.parts(language))

    def worth(self, language: str = "en") -> str:
        """What bringing the harmful groups back is worth."""
        a = self.assessment
        rest = a.frame[a.frame["decision"] != "harmful"]
        told = dict(zip(("net", "net_low", "net_high"), (a.money(v, language) for v in _added(rest)), strict=True))
        lost = a.frame.loc[a.frame["decision"] == "harmful", "net"].sum()
        return say("kept_out.worth", language, lost=a.money(lost, language), **told) if a.groups("harmful") else ""
