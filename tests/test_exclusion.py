"""Exclusion: published tests and simulation, laws, the sums read in both engines, planted effects, tabs, bad input."""

import re
from datetime import date
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats import proportion

from kpi_helpers import exclusion, pages
from kpi_helpers.errors import KpiError
from kpi_helpers.records import PLANTED
from kpi_helpers.scoring import scorecard
from kpi_helpers.sources import connect

FIELDS = ("people", "conversions", "revenue", "cost")
MONEY = {"margin": 0.1, "margin_per_conversion": 100.0}
#: excluded and hold-out of four groups: kept, harmed, too few, without a hold-out
TREATED = {"kept": (900_000, 18_000, 9e6, 900), "harmed": (90_000, 900, 4.5e5, 90), "few": (900, 18, 9e3, 1),
           "blind": (9_000, 20, 1e4, 9)}  # fmt: skip
HOLDOUT = {"kept": (100_000, 2_000, 1e6, 24_000), "harmed": (10_000, 200, 1e5, 2_400), "few": (100, 2, 1e3, 24)}


@pytest.fixture(scope="module")
def demo():
    return connect("data/demo")


# --- the decision


@pytest.mark.parametrize(
    ("t", "h"), [((18_000, 900_000), (2_000, 100_000)), ((45, 2_000), (60, 2_200)), ((3, 40), (9, 50))]
)
def test_intervals_are_those_of_statsmodels(t, h):
    result = exclusion.assess({"A": (t[1], t[0], 1, 1)}, {"A": (h[1], h[0], 1, 1)}, **MONEY)
    ratio = proportion.confint_proportions_2indep(*t, *h, compare="ratio", method="score", correction=False)

    assert (1 + result.lift_low[0], 1 + result.lift_high[0]) == pytest.approx(ratio, rel=1e-6)
    assert result.difference[0] == pytest.approx(t[0] / t[1] - h[0] / h[1])
    assert result.difference_low[0] < result.difference[0] < result.difference_high[0]


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2, 0.3])
def test_decision_is_the_score_test_of_the_margin(margin):
    rng = np.random.default_rng(3)
    for x, y in zip(rng.binomial(30_000, 0.018, 40), rng.binomial(10_000, 0.02, 40), strict=True):
        # without revenue the decision is on conversions alone
        sums = {"A": (30_000, x, np.nan, 1)}, {"A": (10_000, y, np.nan, 1)}
        decided = exclusion.assess(*sums, margin=margin, margin_per_conversion=1).decision[0]
        told = {"value": 1 - margin, "compare": "ratio", "method": "score", "correction": False}
        above = proportion.test_proportions_2indep(x, 30_000, y, 10_000, alternative="larger", **told).pvalue < 0.025
        below = proportion.test_proportions_2indep(x, 30_000, y, 10_000, alternative="smaller", **told).pvalue < 0.025
        assert decided == ("effective" if above else "harmful" if below else "open")


def drawn(n_groups, loss, spread, squares, seed):
    """Groups of 30,000 excluded and 10,000 held out; conversion falls by `loss`, orders are lognormal."""
    rng, made = np.random.default_rng(seed), []
    sigma = np.sqrt(np.log1p(spread**2))
    for people, rate in ((30_000, 0.02 * (1 - loss)), (10_000, 0.02)):
        x = rng.binomial(people, rate, n_groups)
        orders, group = np.exp(rng.normal(-(sigma**2) / 2, sigma, x.sum())), np.repeat(np.arange(n_groups), x)
        told = {"people": people, "conversions": x, "revenue": np.bincount(group, orders, n_groups), "cost": 0.0}
        told |= {"revenue_squared": np.bincount(group, orders**2, n_groups)} if squares else {}
        made.append(pd.DataFrame(told))
    return made


@pytest.mark.parametrize(("spread", "squares"), [(0.6, True), (1.4, True), (1.0, False)])
def test_a_loss_of_just_the_margin_seldom_passes_and_intervals_cover(spread, squares):
    n = 4000
    f = exclusion.assess(*drawn(n, 0.1, spread, squares, 11), **MONEY).frame
    lost = 30_000 * 0.02 * 0.1

    most = stats.binom.ppf(0.999, n, 0.025) / n
    for passed in (f["decision"] == "effective", f["lift_low"] > -0.1, f["revenue_low"] > -0.1):
        assert passed.mean() <= most
    for low, high, true in (("lift_low", "lift_high", -0.1), ("lost_low", "lost_high", lost),
                            ("revenue_low", "revenue_high", -0.1)):  # fmt: skip
        covered = ((f[low] <= true) & (true <= f[high])).mean()
        assert covered == pytest.approx(0.95, abs=0.013), low  # 3.8 standard errors


def test_sums_alone_are_cautious_where_orders_differ_less_than_their_mean():
    narrow, wide = (exclusion.assess(*drawn(500, 0.0, 0.5, squares, 5), **MONEY).frame for squares in (True, False))

    assert (wide["revenue_low"] < narrow["revenue_low"]).all()
    assert np.allclose(wide["lift_low"], narrow["lift_low"])


def test_groups_are_told_apart_and_the_naive_figure_decides_nothing():
    result = exclusion.assess(TREATED, HOLDOUT, **MONEY)

    assert result.decision == ("effective", "harmful", "open", "no hold-out")
    people = [row[0] for row in TREATED.values()]
    assert result.effectiveness == pytest.approx(people[0] / sum(people))
    assert result.possible == pytest.approx(1 - people[1] / sum(people))
    assert result.naive == pytest.approx([1 - row[1] / row[0] for row in TREATED.values()])
    assert result.total_naive == pytest.approx(1 - sum(row[1] for row in TREATED.values()) / sum(people))
    assert "blind" in result.sentence() and "blind" in result.sentence("vi")
    assert np.isnan(result.frame["net"].iloc[3])


def test_savings_add_up():
    f = exclusion.assess(TREATED, HOLDOUT, **MONEY).frame.set_index("group")

    r = f.loc["harmed"]
    assert r["avoided"] == pytest.approx(2_400 / 10_000 * 90_000)
    assert r["saved"] == pytest.approx(r["avoided"] - 90)  # 90 were spent on the excluded all the same
    assert r["lost"] == pytest.approx(0.02 * 90_000 - 900)
    assert r["net"] == pytest.approx(r["saved"] - 100 * r["lost"])
    assert r["net_low"] == pytest.approx(r["saved"] - 100 * r["lost_high"])
    assert (f["net_low"].dropna() <= f["net"].dropna()).all()


def test_total_of_equal_groups_narrows_as_independent_sums_do():
    one = exclusion.assess({"a": TREATED["kept"]}, {"a": HOLDOUT["kept"]}, **MONEY)
    names = list("abcd")
    four = exclusion.assess(dict.fromkeys(names, TREATED["kept"]), dict.fromkeys(names, HOLDOUT["kept"]), **MONEY)

    assert four.total_net == pytest.approx(4 * one.net[0]) and four.total_saved == pytest.approx(4 * one.saved[0])
    assert four.total_net - four.total_net_low == pytest.approx(2 * (one.net[0] - one.net_low[0]))
    assert four.to_frame()["net"].tolist() == list(four.net)  # totals do not hide rows


def test_verdict_turns_where_the_interval_ends():
    options = {"margin_per_conversion": 1.0}
    first = exclusion.assess({"A": (9_000, 180, 90, 1)}, {"A": (3_000, 60, 30, 1)}, margin=0.1, **options)
    turns = -min(first.lift_low[0], first.revenue_low[0])

    for step, decided in ((1e-6, "effective"), (-1e-6, "open")):
        again = exclusion.assess({"A": (9_000, 180, 90, 1)}, {"A": (3_000, 60, 30, 1)}, margin=turns + step, **options)
        assert again.decision == (decided,)


def test_mappings_and_frames_say_the_same_and_money_scales():
    frames = [pd.DataFrame.from_dict(g, orient="index", columns=FIELDS) for g in (TREATED, HOLDOUT)]
    told, again = exclusion.assess(TREATED, HOLDOUT, **MONEY), exclusion.assess(*frames, **MONEY)
    pd.testing.assert_frame_equal(told.frame, again.frame)

    dear = [frame.assign(revenue=frame["revenue"] * 25_000) for frame in frames]
    pd.testing.assert_frame_equal(told.frame, exclusion.assess(*dear, **MONEY).frame, rtol=1e-9)


@pytest.mark.parametrize(("t", "h", "decided"), [
    ((10_000, 0, 0, 1), (10_000, 500, 500, 9), "harmful"),  # nobody converts: no order value, but clear
    ((100, 0, 0, 1), (100, 1, 1, 1), "open"),
    ((100, 0, 0, 1), (100, 0, 0, 1), "open"),
    ((0, 0, 0, 0), (100, 3, 3, 1), "open"),
    ((100, 3, 3, 1), (0, 0, 0, 0), "no hold-out"),
    ((10_000, 200, np.nan, np.nan), (10_000, 100, np.nan, np.nan), "effective"),  # conversions alone are known
])  # fmt: skip
def test_degenerate_groups_have_a_plain_decision(t, h, decided):
    result = exclusion.assess({"A": t}, {"A": h}, **MONEY)

    assert result.decision == (decided,)
    for language in ("en", "vi"):
        assert result.html(language) and "nan" not in result.html(language)


def test_without_any_hold_out_it_says_so():
    result = exclusion.assess(TREATED, {}, **MONEY)

    assert set(result.decision) == {"no hold-out"} and np.isnan(result.effectiveness)
    assert "cannot be decided" in result.sentence() and "naive" in result.sentence()
    with pytest.raises(KpiError, match="No group has a hold-out"):
        exclusion.what_if(result)


@pytest.mark.parametrize(("treated", "holdout", "options", "told"), [
    ({"A": (10, 11, 1, 1)}, {}, {}, "treated has A with more conversions than people"),
    ({"A": (10, 1, 1, 1)}, {"A": (10, -1, 1, 1)}, {}, "holdout has A below 0"),
    ({"A": (10, 1, 1, 1)}, {"B": (10, 1, 1, 1)}, {}, "B: in holdout, not in treated"),
    ({"A": (np.nan, 1, 1, 1)}, {}, {}, "treated has A without people"),
    ({"A": ("ten", 1, 1, 1)}, {}, {}, "treated must hold numbers"),
    ({"A": (10, 1)}, {}, {}, r"treated: A must be \(people, conversions, revenue, cost\)"),
    ({}, {}, {}, "treated has no group"),
    (pd.DataFrame([(5, 1)] * 2, ["A", "A"], FIELDS[:2]), {}, {}, "A more than once. Add its rows up"),
    (pd.DataFrame({"people": [5]}, ["A"]), {}, {}, "treated has no column conversions"),
    ({"A": (10, 1, 1, 1)}, {}, {"margin": 0.0}, r"margin=0.0 is not in \(0, 1\)"),
    ({"A": (10, 1, 1, 1)}, {}, {"margin": 10}, r"margin=10 is not in \(0, 1\)"),
    ({"A": (10, 1, 1, 1)}, {}, {"margin_per_conversion": -5.0}, "margin_per_conversion=-5.0"),
    ({"A": (10, 1, 1, 1)}, {}, {"confidence": 95}, "confidence=95"),
])  # fmt: skip
def test_bad_input_is_told(treated, holdout, options, told):
    with pytest.raises(KpiError, match=told):
        exclusion.assess(treated, holdout, **MONEY | options)


# --- what is read


def rows_by_hand(seed=1, days=20):
    rng = np.random.default_rng(seed)
    keys = pd.MultiIndex.from_product(
        [pd.date_range("2026-01-01", periods=days), ["A", "B"], ["x", "y"]], names=["date", "audience", "segment"]
    ).to_frame(index=False)
    for side, people in (("excluded", 900), ("holdout", 100), ("included", 500)):
        keys[side] = rng.poisson(people, len(keys))
        keys[f"{side}_conversions"] = rng.binomial(keys[side], 0.02)
        keys[f"{side}_revenue"] = np.round(100 * rng.gamma(keys[f"{side}_conversions"] / 0.36) * 0.36)
        keys[f"{side}_cost"] = 3 * keys[side]
    keys["eligible"] = keys[["excluded", "holdout", "included"]].sum(axis=1)
    return keys.assign(date=keys["date"].dt.date)


@pytest.mark.parametrize("by", ["audience", ["audience", "segment"]])
def test_sums_are_those_of_pandas_in_both_engines(engine, by):
    rows = rows_by_hand()
    found = exclusion.groups(engine.source(rows, "audience_daily"), by=by, as_of="2026-01-18", days=7)

    some = rows[rows["date"].between(date(2026, 1, 12), date(2026, 1, 18))]
    name = some[by] if isinstance(by, str) else some[by].agg(" · ".join, axis=1)
    for side, arm in zip(("excluded", "holdout", "included"), found, strict=True):
        want = some.groupby(name).sum(numeric_only=True)
        for field, column in zip(FIELDS, (side, f"{side}_conversions", f"{side}_revenue", f"{side}_cost"), strict=True):
            assert arm[field].to_dict() == want[column].astype(float).to_dict()
    assert found.treated["people"].is_monotonic_decreasing


def test_spread_of_orders_comes_from_the_days():
    f = exclusion.groups(rows_by_hand(days=400)).treated
    spread = f["conversions"] * f["revenue_squared"] / f["revenue"] ** 2 - 1

    assert spread.to_numpy() ** 0.5 == pytest.approx([0.6, 0.6], rel=0.05)


def test_a_table_without_money_or_hold_out_is_read_all_the_same():
    rows = rows_by_hand().drop(
        columns=[f"{s}_{c}" for s in ("excluded", "holdout", "included") for c in ("cost", "revenue")]
    )
    found = exclusion.groups(rows)
    result = exclusion.assess(found.treated, found.holdout, **MONEY)
    bare = exclusion.groups(rows[["date", "audience", "excluded", "excluded_conversions"]])

    assert result.frame["lift"].notna().all() and result.frame["net"].isna().all()
    assert set(exclusion.assess(bare.treated, bare.holdout, **MONEY).decision) == {"no hold-out"}
    assert (
        exclusion.wasted(bare.included, margin_per_conversion=1)
        .sentence()
        .startswith("What is wasted cannot be computed")
    )
    with pytest.raises(KpiError, match="no column campaign"):
        exclusion.groups(rows, by="campaign")
    with pytest.raises(KpiError, match="no rows"):
        exclusion.groups(rows, as_of="2020-01-01")


def test_kpi_of_the_catalogue_agrees_where_only_conversions_are_known(demo):
    for days in (7, 28, 90):
        start = demo.as_of() - pd.Timedelta(days - 1, "D")
        row = scorecard(demo, ["exclusion_effectiveness"], start=start, end=demo.as_of()).iloc[0]
        arms = [a.drop(columns=["revenue"]) for a in exclusion.groups(demo, as_of=demo.as_of(), days=days)[:2]]
        assert row["value"] == pytest.approx(exclusion.assess(*arms, **MONEY).effectiveness)


def test_planted_audiences_are_judged_as_planted(demo):
    found = exclusion.groups(demo, as_of=demo.as_of(), days=28)
    result = exclusion.assess(found.treated, found.holdout, margin=0.1, margin_per_conversion=125_000)
    decided = dict(zip(result.group, result.decision, strict=True))

    assert decided["Bỏ giỏ hàng"] == "harmful"
    assert decided["Mua trong 30 ngày"] == "effective"
    assert decided["Không bấm trong 60 ngày"] == "no hold-out"
    for name, row in result.frame.set_index("group").dropna().iterrows():
        told = PLANTED["exclusion"][name]
        assert row["lift_low"] < told["excluded"] / told["shown"] - 1 < row["lift_high"]


# --- before and after, waste, other rules, overlaps


def test_switch_finds_what_the_rule_did(demo):
    told, wave = PLANTED["exclusion"], PLANTED["exclusion_wave"]
    found = exclusion.switched(
        demo, start=wave["since"], where=wave["segments"], margin_per_conversion=125_000, as_of=demo.as_of()
    )
    f = found.frame.set_index("what")
    shown, lost = 0.0, 0.0
    for name, r in told.items():
        late = name in wave["audiences"]
        kept = 1 - r["fits"] * (1 - r["holdout"]) * (0 if late else 1)  # of the people, before
        shown += r["people"] * (kept * r["shown"] + (1 - kept) * r["excluded"])
        lost += late * r["people"] * r["fits"] * (1 - r["holdout"]) * (r["shown"] - r["excluded"])

    assert f.loc["conversions", "lift_low"] < -lost / shown < f.loc["conversions", "lift_high"]
    assert found.verdict == "down" and f.loc["included", "lift_low"] > 0  # the wrong answer rises
    for language in ("en", "vi"):
        assert found.sentence(language)[:20] in found.html(language)
    with pytest.raises(KpiError, match=r"No row has the segment 'Huế'\. Known are"):
        exclusion.switched(demo, start=wave["since"], where=["Huế"], margin_per_conversion=1)


def test_wasted_budget_is_what_its_conversions_surely_do_not_pay():
    included = pd.DataFrame({"conversions": [0.0, 9, 20, 5], "cost": [400.0, 1000, 1000, 0]}, index=list("abcd"))
    f = exclusion.wasted(included, margin_per_conversion=100).frame.set_index("group")

    assert f["decision"].to_dict() == {"a": "wasted", "b": "open", "c": "unproven"}  # without cost nothing is wasted
    assert f["profit"].to_dict() == {"a": -400, "b": -100, "c": 1000}
    # Garwood (1936): nothing seen leaves up to 3.689 (95%), 20 seen at least 12.217
    assert f.loc["a", "profit_high"] == pytest.approx(100 * 3.688879 - 400, abs=1e-3)
    assert f.loc["c", "profit_low"] == pytest.approx(100 * 12.21652 - 1000, abs=1e-2)


def test_every_rule_is_tried_and_the_best_holds_what_gains():
    result = exclusion.assess(TREATED, HOLDOUT, **MONEY)
    told = exclusion.what_if(result)
    net = dict(zip(result.group, result.net, strict=True))
    net.pop("blind")

    every = {frozenset(c): sum(net[g] for g in c) for k in range(4) for c in combinations(net, k)}
    assert {frozenset(c) for c in told.chosen} == set(every)
    for chosen, value in zip(told.chosen, told.frame["net"], strict=True):
        assert value == pytest.approx(every[frozenset(chosen)])
    assert told.frame["net"].is_monotonic_decreasing
    assert set(told.chosen[0]) == {g for g, v in net.items() if v > 0}
    assert sum(told.now) == sum(told.safe) == 1


def test_many_groups_are_tried_best_first():
    names = [f"g{i}" for i in range(12)]
    treated = {g: (9_000, 100 + 10 * i, 1, 1) for i, g in enumerate(names)}
    told = exclusion.what_if(exclusion.assess(treated, dict.fromkeys(names, (1_000, 20, 1, 240)), **MONEY))

    assert len(told.chosen) == 13 and max(map(len, told.chosen)) == 12
    assert sum(told.now) == 1


def test_overlap_counts_people_once_and_pairs_of_audiences():
    members = pd.DataFrame({"customer_id": ["p", "p", "p", "q", "q", "r", "r"], "audience": list("abcabaa")})
    told = exclusion.overlap(members)

    assert (told.people, told.shared, told.pairs) == (3, 2, 4)
    assert told.frame.to_numpy().tolist() == [["a", "b", 2], ["a", "c", 1], ["b", "c", 1]]
    begun = ["2026-01-01", "2026-01-05", "2026-02-01", *["2026-01-01"] * 4]
    over = ["2026-01-05", "2026-01-09", "2026-02-03", *["2026-01-02"] * 4]
    dated = members.assign(starts_on=pd.to_datetime(begun), ends_on=pd.to_datetime(over))
    assert exclusion.overlap(dated).pairs == 2  # p in a and b share one day, c comes later
    turned = dated.assign(audience=dated["audience"].map({"a": "z", "b": "b", "c": "c"}))
    assert exclusion.overlap(turned).pairs == 2  # the same days, whichever name comes first
    with pytest.raises(KpiError, match="no column customer_id"):
        exclusion.overlap(members.drop(columns="customer_id"))
    with pytest.raises(KpiError, match="no rows"):
        exclusion.overlap(members.head(0))


def test_a_rule_is_judged_where_places_lose_money(demo):
    wave = PLANTED["exclusion_wave"]
    told = exclusion.switched(demo, start=wave["since"], where=list(wave["segments"]), margin_per_conversion=1)

    assert told.verdict == "up"  # conversions are worth nothing, the ads that are saved are
    assert "profit by –" in told.sentence() and "nan" not in told.html()


def test_a_membership_without_an_end_goes_on():
    at = pd.to_datetime
    members = pd.DataFrame({"customer_id": [*"ppqq"], "audience": [*"abab"],
                            "starts_on": at(["2026-01-01", "2026-02-01", None, "2026-02-01"]),
                            "ends_on": at(["2026-12-31", None, "2026-12-31", "2026-12-31"])})  # fmt: skip

    assert (exclusion.overlap(members).shared, exclusion.overlap(members).pairs) == (2, 2)


# --- what is not known


@pytest.fixture(scope="module")
def daily():
    return pd.read_csv("data/demo/audience_daily.csv", parse_dates=["date"])


def decided(rows):
    sums = exclusion.groups(rows)
    return exclusion.assess(sums.treated, sums.holdout, margin=0.1, margin_per_conversion=125_000)


def test_a_hold_out_of_which_nothing_is_known_is_none(daily):
    found = decided(daily.drop(columns=["holdout_conversions", "holdout_revenue"]))

    assert set(found.decision) == {"no hold-out"} and np.isnan(found.effectiveness)
    seen = exclusion.groups(daily.drop(columns="included_conversions")).included
    assert "cannot be computed" in exclusion.wasted(seen, margin_per_conversion=125_000).sentence()


@pytest.mark.parametrize("side", ["holdout", "excluded", "included"])
def test_conversions_that_are_empty_in_some_rows_are_refused(daily, side):
    rows = daily.assign(**{f"{side}_conversions": daily[f"{side}_conversions"].where(daily.index % 2 == 0)})

    with pytest.raises(KpiError, match=rf"{side}_conversions is empty in \d+ rows with people: write 0"):
        exclusion.groups(rows)


def test_money_that_is_known_in_some_rows_is_not_known(daily):
    cost = daily["holdout_cost"].where((daily.index % 2 == 0) | (daily["audience"] != "Mua trong 30 ngày"))
    found = decided(daily.assign(holdout_cost=cost))

    assert found.frame.set_index("group")["net"].isna().to_dict()["Mua trong 30 ngày"]
    assert "Not in the sums, since costs are not known: Mua trong 30 ngày." in found.sentence()


@pytest.mark.parametrize(
    ("ads", "told"),
    [(100, "since the lost orders are worth more"), (50_000, "worth more (+"), (np.nan, "costs are not known")],
)
def test_what_bringing_back_is_worth_is_said_by_its_sign(demo, ads, told):
    rate = exclusion.trend(demo, as_of=date(2026, 11, 19), limit=0.35)
    found = exclusion.assess({"A": (90_000, 1200, 120_000, 0)}, {"A": (10_000, 200, 20_000, ads)},
                             margin=0.1, margin_per_conversion=100)  # fmt: skip

    assert found.decision == ("harmful",)
    worth = exclusion.KeptOut(assessment=found, trend=rate).worth()
    assert (told if ads != 50_000 else "are worth more") in worth and "–" not in worth.replace("−", "")


def place(tmp_path, rates, skip=()):
    """Days with these shares of 10,000 people excluded."""
    days = pd.date_range("2026-01-01", periods=len(rates))
    rows = pd.DataFrame({"date": days, "audience": "A", "eligible": 10_000,
                         "excluded": (np.array(rates) * 10_000).astype(int)})  # fmt: skip
    rows.drop(index=list(skip)).to_csv(tmp_path / "audience_daily.csv", index=False)
    return exclusion.trend(connect(tmp_path), as_of=days[-1].date(), limit=0.35)


def test_an_alarm_older_than_the_days_drawn_keeps_its_first_day(tmp_path):
    told = place(tmp_path, [0.2] * 40 + [0.5] * 120)

    assert told.since_at == date(2026, 2, 10) and told.grain.count("day") == 56


@pytest.mark.parametrize(
    ("rates", "skip", "said"),
    [
        ([0.2] * 40 + [0.5], (), "above its limit today, not yet on two days of three: 50.0%"),
        ([0.2] * 40 + [0.5, 0.5, 0.2], (), "over its limit of 35% since 10 Feb 2026; on the last day it was 20.0%"),
        ([0.2] * 40 + [0.5, 0.2, 0.2, 0.2, 0.5], (41, 42, 43), "not yet on two days of three"),
        ([0.2] * 40, (), "within its limit: 20.0%"),
    ],
)
def test_what_is_said_of_the_limit_is_true_today(tmp_path, rates, skip, said):
    assert said in place(tmp_path, rates, skip).sentence()


def test_overlap_of_the_grocery_campaigns_is_the_known_one(real_data):
    # shared/data/grocery-campaigns/README.md: 875 of 1,559 households, 2,986 overlapping pairs
    folder = real_data("grocery-campaigns")
    told = pd.read_csv(folder / "campaign_descriptions.csv.gz")
    members = pd.read_csv(folder / "campaigns.csv.gz").merge(told, on="campaign_id")
    members = members.rename(columns={"start_date": "starts_on", "end_date": "ends_on"})
    found = exclusion.overlap(members, unit="household_id", audience="campaign_id")

    assert (found.people, found.shared, found.pairs) == (1559, 875, 2986)
    assert sum(found.in_both) == 2986


# --- trend, tabs, report


def test_trend_is_whole_periods_and_tells_since_when_it_is_over(demo):
    told = exclusion.trend(demo, as_of=date(2026, 11, 19), limit=0.35)
    f = told.frame

    assert list(dict.fromkeys(told.grain)) == ["day", "week", "month"]
    last = f.groupby("grain")["period"].max().dt.date.to_dict()
    assert last == {"day": date(2026, 11, 19), "week": date(2026, 11, 9), "month": date(2026, 10, 1)}
    begun = f.groupby("grain")["period"].min().dt.date.to_dict()
    assert begun == {"day": date(2026, 9, 25), "week": date(2026, 7, 27), "month": date(2026, 8, 1)}  # rows: 25 July on
    since = pd.Timestamp(PLANTED["exclusion_wave"]["since"]).date()
    assert told.since_at == since  # the first day over the limit, though the alarm came on the second
    assert not f.loc[f["grain"] != "day", "alarm"].any()
    assert f.loc[f["alarm"], "low"].gt(0.35).all()
    calm = exclusion.trend(demo, as_of=date(2026, 11, 19), limit=0.6)
    assert calm.since_at is None and "within" in calm.sentence()
    with pytest.raises(KpiError, match=r"limit=35 is not in \(0, 1\)"):
        exclusion.trend(demo, as_of=date(2026, 11, 19), limit=35)


def test_tabs_need_no_script_and_are_apart_on_a_page(demo):
    told = exclusion.trend(demo, as_of=date(2026, 11, 19), limit=0.35)
    page = told.html("vi")

    assert re.findall(r'<input type="radio" name="tabs-grain" class="tab-(\w+)"( checked)?>', page) == [
        ("day", " checked"), ("week", ""), ("month", ""),
    ]  # fmt: skip
    assert re.findall(r'class="panel panel-(\w+)"', page) == ["day", "week", "month"]
    assert 'role="radiogroup" aria-label="Xem theo"' in page and "<script" not in page and " onclick" not in page
    css = pages.asset("style.css")
    for grain in ("day", "week", "month"):
        assert f".tabs:has(.tab-{grain}:checked) .panel-{grain}" in css
    paper = css[css.index("@media print") :]
    assert ".tabs .panel { display: block !important; }" in paper
    cells = [{"id": f"c{i}", "outputs": [{"data": {pages.HTML_MIME: {"en": page}}}]} for i in range(2)]
    names = set(re.findall(r'<input type="radio" name="([^"]+)"', "".join(pages._outputs(c, "en") for c in cells)))
    assert names == {"c0-0-tabs-grain", "c1-0-tabs-grain"}


def test_head_names_whom_to_bring_back_and_speaks_both_languages(demo):
    end = demo.as_of()
    found = exclusion.groups(demo, as_of=end, days=28)
    groups = exclusion.assess(found.treated, found.holdout, margin=0.1, margin_per_conversion=125_000, currency="VND")
    rate = exclusion.trend(demo, as_of=end, limit=0.35)
    head = exclusion.KeptOut(assessment=groups, trend=rate)
    tiles = exclusion.strip(demo, groups, as_of=end, days=28, limit=0.35)

    assert head.sentence().endswith("Bring back: Bỏ giỏ hàng.") and "35%" in head.sentence()
    rest = groups.frame[groups.frame["group"] != "Bỏ giỏ hàng"]["net"].sum()
    assert f"₫{rest / 1e6:.1f}" in head.worth()
    assert len(tiles.kpi) == 6 and tiles.target[0] == 0.35
    for result in (head, groups, rate, tiles, exclusion.what_if(groups)):
        for language in ("en", "vi"):
            made = result.html(language)
            assert len(made) > 100 and "undefined" not in made
        assert result.to_json()["rows"]
    without = exclusion.KeptOut(assessment=exclusion.assess(TREATED, {}, **MONEY), trend=rate)
    assert without.sentence().endswith("there is no hold-out.") and without.worth() == ""
