"""People kept from ads against a hold-out: what it saves and loses, other rules, wasted budget, overlaps."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import product
from typing import Any, ClassVar, NamedTuple

import ibis
import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri

from kpi_helpers import contrasts
from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.recurring import Day, known_day
from kpi_helpers.result import Framed, labelled_pill, measure, number, percent, say, uplift
from kpi_helpers.sources import Source
from kpi_helpers.stats import Floats, checked_confidence, moves, poisson_interval
from kpi_helpers.texts import EXACT
from kpi_helpers.units import as_table

FIELDS = ("people", "conversions", "revenue", "cost", "revenue_squared")
SIDES = ("excluded", "holdout", "included")
#: standard deviation of an order by its mean, where only sums are known: that of an exponential law
SPREAD = 1.0
EXHAUSTIVE = 10  # so many groups are tried in every combination
#: decision -> tone of its pill
TONES = {
    "effective": "good", "harmful": "bad", "open": "none", "no hold-out": "watch", "wasted": "bad", "unproven": "none",
}  # fmt: skip


class Excluded(Framed):
    """A result of notebook 07: its HTML has pills of its own, and money with its sign."""

    aside: ClassVar = ("currency", "all")
    ways: ClassVar = {"mark": lambda key, words: labelled_pill(TONES[key], words)}

    def money(self, value: float, language: str) -> str:
        """A sum of money in words, with its sign."""
        return ("+" if value > 0 else "") + measure(value, "money", language, self.currency)


class Assessment(Excluded):
    """Each excluded group against its hold-out, and what excluding it brings.

    `rate`, `holdout_rate` and their `difference`; `lift` and `revenue_lift`, treated by hold-out less 1, of conversions
    and revenue a person. `decision`: ``effective`` if both intervals lie above −margin, ``harmful`` if one lies below,
    ``open`` or ``no hold-out``; `naive` is the share without a conversion, which decides nothing. `avoided` cost less
    the `spent` (on the excluded all the same) is `saved`, less the margin of the conversions `lost` is `net`; of all
    groups ``total_saved``, ... `effectiveness` is the share of people in effective groups, `possible` that in groups
    not shown harmful.
    """

    def groups(self, decision: str) -> list[str]:
        """Groups with this decision."""
        return [str(g) for g in self.frame.loc[self.frame["decision"] == decision, "group"]]

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of an axis for all intervals of conversions."""
        known = self.frame[["lift_low", "lift_high"]].clip(-1, 1).to_numpy()
        return float(np.nanmin([*known[:, 0], -2 * self.margin])), float(np.nanmax([*known[:, 1], self.margin]))

    def sentence(self, language: str = "en") -> str:
        told: dict[str, Any] = {"k": len(self.group), "n": len(self.groups("effective"))}
        told |= {key: percent(self.whole[key], language) for key in ("effectiveness", "possible", "total_naive")}
        told |= {k: measure(self.whole[f"total_{k}"], "money", language, self.currency) for k in ENDS["net"]}
        told |= {"margin": uplift(self.margin, language, sign=False), "level": f"{self.confidence:.0%}"}
        if np.isnan(self.effectiveness):
            return say("assessment.undecided", language, **told)
        alone = ", ".join(self.groups("no hold-out"))
        more = " " + say("assessment.unknown", language, groups=alone) if alone else ""
        lacking = self.frame[self.frame["net"].isna() & (self.frame["decision"] != "no hold-out")]["group"]
        more += " " + say("assessment.no_net", language, groups=", ".join(lacking)) if len(lacking) else ""
        return say("assessment.decided", language, **told) + more


ENDS = {k: (k, f"{k}_low", f"{k}_high") for k in ("lift", "difference", "lost", "net")}


def assess(
    treated: Any, holdout: Any, *, margin: float, margin_per_conversion: float, confidence: float = 0.95,
    currency: str = "",
) -> Assessment:  # fmt: skip
    """Decide for each group whether excluding it loses no more than allowed, and what it saves, gross and net.

    A hold-out of people who fit the rule but saw the ads all the same tells what the excluded would have done. The
    ratio of conversion rates is Koopman's (score test). That of revenue a person is the same times the ratio of order
    values, distances of the ends added in squares on the logarithms (Zou & Donner 2008); the spread of orders is that
    of `revenue_squared`, or else their mean (exponential). A group is effective only if both pass, so that neither test
    needs a correction; and each group is a decision of its own: one with a loss of just the margin passes at most
    (1 - confidence) / 2 of the time. What the hold-out's ads cost a person is taken as exact.

    Parameters: `treated`, people who were excluded, and `holdout`: mappings of a group to (people, conversions,
    revenue, cost), and, if known, the sum of squared order values, or frames of these columns; revenue and cost may be
    NaN. `margin`: share of the hold-out's rates that may be lost, in (0, 1). `margin_per_conversion`: money, 0 or more.
    Raises `KpiError` for impossible sums, or a group that has a hold-out but is not excluded.

    >>> sums = {"A": (90_000, 1620, 810, 50)}, {"A": (10_000, 182, 91, 24)}
    >>> result = assess(*sums, margin=0.25, margin_per_conversion=1)
    >>> result.decision, [round(v) for v in (result.saved[0], result.lost[0])]
    (('effective',), [166, 18])
    """
    require(0 < margin < 1, f"margin={margin} is not in (0, 1). Write 0.1 to allow a loss of 10% of the rate.")
    fine = 0 <= margin_per_conversion < np.inf
    require(fine, f"margin_per_conversion={margin_per_conversion} is no gross margin. Write money, 0 or more.")
    t, h = _arm("treated", treated), _arm("holdout", holdout)
    require(len(t) > 0, "treated has no group: there is nothing to assess.")
    alone = [str(g) for g in h.index if g not in t.index]
    require(not alone, f"{', '.join(alone)}: in holdout, not in treated. A hold-out is a part of an excluded group.")
    h = h.reindex(t.index).fillna({"people": 0.0, "conversions": 0.0})
    n, x = t["people"].to_numpy(), t["conversions"].to_numpy()
    c = contrasts.rates((h["conversions"], h["people"]), (x, n), alpha=1 - checked_confidence(confidence))
    found = {"rate": c.treatment_value, "holdout_rate": c.control_value}
    found |= {end: getattr(c, end) for end in (*ENDS["difference"], *ENDS["lift"])}
    with np.errstate(divide="ignore", invalid="ignore"):
        told = zip(("revenue_lift", "revenue_low", "revenue_high"), _revenue(c, t, h, confidence), strict=True)
        found |= dict(told) | {"naive": 1 - x / n, "avoided": (h["cost"] / h["people"]).to_numpy() * n}
    passed = (found["revenue_low"] > -margin) | (t["revenue"] + h["revenue"]).isna()
    harmed = (found["lift_high"] < -margin) | (found["revenue_high"] < -margin)
    kinds = [h["people"] == 0, harmed, passed & (found["lift_low"] > -margin)]
    decided = np.select(kinds, ["no hold-out", "harmful", "effective"], "open")
    found |= {"spent": t["cost"].to_numpy(), "saved": found["avoided"] - t["cost"].to_numpy()}
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        found[f"lost{end}"] = -found[f"difference{other}"] * n
        found[f"net{other}"] = found["saved"] - found[f"lost{end}"] * margin_per_conversion
    frame = pd.DataFrame({"group": t.index, "people": n, "holdout_people": h["people"].array, "decision": decided})
    frame = frame.assign(**found)
    share = {d: n[decided == d].sum() / n.sum() if n.sum() else np.nan for d in ("effective", "harmful")}
    whole = {"effectiveness": np.nan if (decided == "no hold-out").all() else share["effective"]}
    whole |= {"possible": 1 - share["harmful"], "total_naive": 1 - x.sum() / n.sum() if n.sum() else np.nan}
    whole |= {"total_people": n.sum(), "total_saved": frame["saved"].sum(min_count=1)}
    whole |= {f"total_{end}": value for end, value in zip(ENDS["net"], added(frame), strict=True)}
    whole |= {"margin": margin, "margin_per_conversion": margin_per_conversion, "confidence": confidence}
    return Assessment(frame=frame, whole=whole | {"currency": currency})


def _arm(name: str, given: Any) -> pd.DataFrame:
    """People, conversions, revenue, cost and squares of each group, checked."""
    if not isinstance(given, pd.DataFrame):
        odd = [str(g) for g, row in given.items() if len(row) not in (4, 5)]
        require(not odd, f"{name}: {', '.join(odd)} must be (people, conversions, revenue, cost).")
        given = pd.DataFrame([(*row, np.nan)[:5] for row in given.values()], list(given), FIELDS)
    for column in FIELDS[:2]:
        require_known(column, given.columns, f"{name} has no column {column}.")
    try:
        arm = given.reindex(columns=list(FIELDS)).astype(float)
    except (TypeError, ValueError) as error:
        raise KpiError(f"{name} must hold numbers: {error}.") from error
    rules = {
        "more than once. Add its rows up.": arm.index.duplicated(),
        "below 0. Counts and money cannot be.": (arm < 0).any(axis=1),
        "without people or conversions. Write 0 for none.": ~np.isfinite(arm[list(FIELDS[:2])]).all(axis=1),
        "with more conversions than people. Count people who converted, each once.": arm["conversions"] > arm["people"],
    }
    for rule, wrong in rules.items():
        groups = [str(g) for g in arm.index[wrong]]
        require(not groups, f"{name} has {', '.join(dict.fromkeys(groups))} {rule}")
    return arm


def _revenue(c: contrasts.Contrast, t: pd.DataFrame, h: pd.DataFrame, confidence: float) -> tuple[Floats, ...]:
    """Revenue a person, treated by hold-out less 1, and its bounds; NaN where one side has no conversion or revenue."""
    (x, r, s), (y, q, u) = (arm[["conversions", "revenue", "revenue_squared"]].to_numpy().T for arm in (t, h))
    told = [k * (k * square / money**2 - 1) * k / np.maximum(k - 1, 1) for k, money, square in ((x, r, s), (y, q, u))]
    spread = (told[0] + told[1]).clip(0) / (x + y)  # squared, of both arms together
    spread = np.where(np.isfinite(spread), spread, SPREAD**2)
    value, step = (q / y) / (r / x), np.exp(ndtri((1 + confidence) / 2) * np.sqrt(spread * (1 / x + 1 / y)))
    return moves((1 + c.lift, 1 + c.lift_low, 1 + c.lift_high), (value, value / step, value * step), relative=True)


def added(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Sum of independent nets with bounds: distances of the ends add up in squares; NaN if none is known."""
    known = frame.dropna(subset=["net"])
    total = float(known["net"].sum(min_count=1))
    low, high = (float(np.sqrt(((known["net"] - known[end]) ** 2).sum())) for end in ENDS["net"][1:])
    return total, total - low, total + high


class Groups(NamedTuple):
    """Sums of each group as `assess` takes them: people who were excluded, held out, and shown the ads."""

    treated: pd.DataFrame
    holdout: pd.DataFrame
    included: pd.DataFrame


def groups(table: Any, *, by: str | Sequence[str] = "audience", as_of: Day = None, days: int | None = None) -> Groups:
    """Sum ``audience_daily`` by the columns `by` over the last `days` up to `as_of` (all, without), in one query.

    `table` is a source, or the table as an Ibis table, DataFrame or file. How orders differ (`revenue_squared`) comes
    from how the mean orders of its rows differ. A hold-out whose conversions are nowhere known is none; revenue or
    costs that are known in some rows only are unknown. Raises `KpiError` if a column or any row lacks, or conversions
    are empty in some rows with people.
    """
    rows, by = known_rows(table), (by,) if isinstance(by, str) else tuple(by)
    require(len(by) > 0, "by names no column: write by='audience'.")
    require(days is None or days >= 1, f"days={days} must be 1 or more.")
    for column in by:
        require_known(column, rows.columns, f"audience_daily has no column {column}.")
    if as_of:
        last = known_day(as_of)
        rows = rows.filter(_.date.between(last - timedelta(days - 1), last) if days else _.date <= last)
    sums: dict[str, Any] = {}
    for side in SIDES:
        x, r = rows[f"{side}_conversions"], rows[f"{side}_revenue"]
        told = {"people": rows[side], "conversions": x, "revenue": r, "cost": rows[f"{side}_cost"]}
        each = (r.cast("float64") * r.cast("float64") / (x > 0).ifelse(x, None)).cast(EXACT)  # exact, in any order
        sums |= {f"{side} {name}": column.sum() for name, column in told.items()}
        sums |= {f"{side} each": each.sum(), f"{side} rows": each.count()}
        met = (rows[side] > 0).fill_null(False)
        sums |= {f"{side} no {name}": (met & told[name].isnull()).sum() for name in FIELDS[1:4]}
        sums |= {f"{side} some": (met & x.notnull()).sum()}
    frame = rows.group_by(**{b: rows[b].fill_null("–") for b in by}).aggregate(**sums).order_by(by)
    frame = frame.to_pyarrow().to_pandas()
    require(len(frame) > 0, f"audience_daily has no rows in the days up to {as_of}. Choose a later day or more days.")
    frame = frame.set_axis(frame[list(by)].agg(" · ".join, axis=1)).drop(columns=list(by)).astype(float)
    for side in SIDES:
        _require_known(frame, side)
    frame = frame.sort_values("excluded people", ascending=False, kind="stable")
    found = []
    for side in SIDES:
        arm = frame[[f"{side} {f}" for f in FIELDS[:4]]].set_axis(list(FIELDS[:4]), axis=1)
        arm[["revenue", "cost"]] = arm[["revenue", "cost"]].where(
            frame[[f"{side} no {f}" for f in ("revenue", "cost")]].to_numpy() == 0
        )
        x, r, k = arm["conversions"], arm["revenue"], frame[f"{side} rows"]
        usual = r**2 / x.where(x > 0)
        arm["revenue_squared"] = usual + (x - 1) * (frame[f"{side} each"] - usual).clip(0) / (k - 1).where(k > 1)
        if not frame[f"{side} some"].any() and side == "holdout":  # people of whom nothing is known are no hold-out
            arm["people"] = 0.0
        known = frame[f"{side} some"].any() or side == "holdout"
        found.append(arm.fillna({"people": 0.0} | ({"conversions": 0.0} if known else {})))
    ran = found[0]["people"] > 0
    return Groups(found[0][ran], found[1][ran], found[2])


def _require_known(frame: pd.DataFrame, side: str) -> None:
    """Refuse conversions that only some rows with people hold, or none of those that were excluded."""
    n, some = int(frame[f"{side} no conversions"].sum()), frame[f"{side} some"].any()
    more = f"{side}_conversions is empty in {n} rows with people"
    require(n == 0 or (not some and side != "excluded"), f"{more}: write 0 where nobody converted, or leave them out.")


def known_rows(table: Any) -> Any:
    """The table with every column that sums need, empty where it has none."""
    rows = table.table("audience_daily") if isinstance(table, Source) else as_table(table)
    for column in ("date", "excluded", "excluded_conversions"):
        require_known(column, rows.columns, f"audience_daily has no column {column}.")
    wanted = [f"{side}{more}" for side in SIDES for more in ("", "_conversions", "_revenue", "_cost")]
    none = [c for c in [*wanted, "reach"] if c not in rows.columns or rows[c].type().is_null()]
    return rows.mutate(**{c: ibis.null("int64") for c in none})


class WastedBudget(Excluded):
    """What is spent on each group that sees the ads, against the conversions that would pay for it (`needed`).

    `profit`: margin of its conversions less its cost, with bounds; `decision`: ``wasted``, ``unproven`` (all its
    conversions would pay, if the ads won them) or ``open``.
    """

    def sentence(self, language: str = "en") -> str:
        lost = self.frame[self.frame["decision"] == "wasted"]
        told = {"n": len(lost), "k": len(self.group), "groups": ", ".join(lost["group"])}
        cost = measure(lost["cost"].sum(), "money", language, self.currency)
        kind = "some" if len(lost) else "none" if len(self.group) else "unknown"
        return say(f"wasted_budget.{kind}", language, cost=cost, **told)


def wasted(
    included: pd.DataFrame, *, margin_per_conversion: float, confidence: float = 0.95, currency: str = ""
) -> WastedBudget:
    """Find groups whose conversions, all of them, surely do not pay for their ads; counts are Poisson (Garwood).

    >>> seen = pd.DataFrame({"conversions": [2.0], "cost": [900.0]}, index=["A"])
    >>> wasted(seen, margin_per_conversion=100).decision
    ('wasted',)
    """
    fine = 0 <= margin_per_conversion < np.inf
    require(fine, f"margin_per_conversion={margin_per_conversion} is no gross margin. Write money, 0 or more.")
    for column in ("conversions", "cost"):
        require_known(column, included.columns, f"included has no column {column}.")
    f = included[included["cost"] > 0][["conversions", "cost"]].dropna().rename_axis("group").reset_index()
    counts = (f["conversions"], *poisson_interval(f["conversions"], confidence=confidence))
    for name, x in zip(("profit", "profit_low", "profit_high"), counts, strict=True):
        f[name] = x * margin_per_conversion - f["cost"]
    f["needed"] = f["cost"] / margin_per_conversion if margin_per_conversion else np.inf
    f["decision"] = np.select([f["profit_high"] < 0, f["profit_low"] > 0], ["wasted", "unproven"], "open")
    f = f.sort_values(["profit", "group"], kind="stable", ignore_index=True)
    return WastedBudget(frame=f, whole={"confidence": confidence, "currency": currency})


class RuleChoice(Excluded):
    """Which groups to exclude: sets of groups (`chosen`), people and net savings with bounds, the best first.

    ``now`` marks today's rule, ``safe`` that of the groups that surely save. Those without a hold-out have no say.
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
    k, net = len(f), f["net"].to_numpy()
    sets = np.array(list(product([True, False], repeat=k))) if k <= EXHAUSTIVE else np.tri(k + 1, k, -1, bool)
    sets = np.unique(np.vstack([sets, (f["net_low"] > 0).to_numpy()]), axis=0)
    low, high = (np.sqrt(sets @ (net - f[end].to_numpy()) ** 2) for end in ENDS["net"][1:])
    told = {"people": sets @ f["people"].to_numpy(), "net": sets @ net}
    told |= {"net_low": told["net"] - low, "net_high": told["net"] + high}
    told |= {"now": sets.all(axis=1), "safe": (sets == (f["net_low"] > 0).to_numpy()).all(axis=1)}
    frame = pd.DataFrame({"chosen": [tuple(f["group"][mask]) for mask in sets], **told})
    whole = {"all": tuple(f["group"]), "confidence": assessment.confidence, "currency": assessment.currency}
    return RuleChoice(frame=frame.sort_values("net", ascending=False, kind="stable", ignore_index=True), whole=whole)


class Overlap(Framed):
    """Pairs of audiences (`audience`, `other`) with people `in_both` at the same time, the largest first.

    `pairs`: people by pairs of audiences; `shared` of the `people` are in two or more and would count twice.
    """

    def sentence(self, language: str = "en") -> str:
        told = {key: number(self.whole[key], language) for key in ("pairs", "shared", "people")}
        return say("overlap.sentence", language, share=percent(self.shared / self.people, language), **told)


def overlap(members: Any, *, unit: str = "customer_id", audience: str = "audience") -> Overlap:
    """Count who is in several audiences at once, in the engine.

    `members`: what `units.as_table` takes, a row a person and audience; with ``starts_on`` and ``ends_on`` only those
    who share a day count. Raises `KpiError` if a column lacks or there are no rows.
    """
    rows = as_table(members)
    for column in (unit, audience):
        require_known(column, rows.columns, f"The table of members has no column {column}.")
    dated = {"starts_on", "ends_on"} <= set(rows.columns)
    days = {"begun": _.starts_on.cast("date"), "over": _.ends_on.cast("date")} if dated else {}
    rows = rows.select(who=_[unit], audience=_[audience].cast("string"), **days).distinct()
    other = rows.view()
    same = [rows.who == other.who, rows.audience < other.audience]
    for one, two in ((rows, other), (other, rows)) if dated else ():  # no end: a member still
        same.append(one.begun.isnull() | two.over.isnull() | (one.begun <= two.over))
    both = rows.inner_join(other, same, rname="other_{name}").distinct(on=["who", "audience", "other_audience"])
    counts = {"people": rows.who.nunique(), "pairs": both.count().as_scalar(), "shared": both.who.nunique().as_scalar()}
    whole = {k: int(v) for k, v in rows.aggregate(**counts).to_pyarrow().to_pylist()[0].items()}
    require(whole["people"] > 0, "The table of members has no rows.")
    pairs = both.group_by("audience", other=_.other_audience).aggregate(in_both=_.count()).to_pyarrow().to_pandas()
    order = {"by": ["in_both", "audience", "other"], "ascending": [False, True, True]}
    return Overlap(frame=pairs.sort_values(**order, ignore_index=True), whole=whole)
