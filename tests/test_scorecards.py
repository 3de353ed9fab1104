"""The scorecard: false alarms controlled, what is planted is found, sums add up."""

import math
import re
from datetime import date

import numpy as np
import pandas as pd
import pytest
import small_shop
from scipy.stats import binom

from kpi_helpers import channels, editions, explanations, lessons
from kpi_helpers.backtests import surprise
from kpi_helpers.channels import campaigns, drill, growth, roles
from kpi_helpers.errors import KpiError
from kpi_helpers.result import LANGUAGES
from kpi_helpers.scorecards import Scorecard, scorecard
from kpi_helpers.sources import connect
from kpi_helpers.stats import holm, moves, wilson

DEMO_DAY = date(2026, 11, 21)


@pytest.fixture(scope="module")
def demo():
    return connect("data/demo")


@pytest.fixture(scope="module")
def card(demo):
    return scorecard(demo, as_of=DEMO_DAY, holidays={"11-11": ["11-11"]}, benchmarks=["ctr_ad 0.02", "roi -5"],
                     goals=["orders 7000", "aov 428000"])  # fmt: skip


def weeks(values):
    return pd.Series(values, index=pd.period_range("2023-11-06", periods=len(values), freq="W-SUN"), dtype=float)


# --- false alarms


# Holm (1979), and R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") = 0.03 0.06 0.06 0.02
def test_holm_is_r_s():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_is_no_test():
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    assert holm([math.nan]).tolist() != [0.0] and len(holm([])) == 0


@pytest.fixture(scope="module")
def honest():
    """P-values of the last week of 6 KPIs in 100 calm companies, judged as on the page."""
    rng, n = np.random.default_rng(7), 110
    out = []
    for _company in range(100):
        slow = np.exp(0.05 * pd.Series(rng.standard_normal(n)).ewm(alpha=0.3).mean().to_numpy())
        made = [rng.poisson(400, n), rng.poisson(30, n) + 1.0, rng.binomial(5000, 0.03, n) / 5000, 1000 * slow,
                100 + 5 * rng.standard_normal(n), 500 * np.exp(0.06 * rng.standard_t(6, n))]  # fmt: skip
        out.append([surprise(weeks(values))[3] for values in made])
    return np.array(out)


def test_calm_kpis_are_red_as_often_as_told_one_by_one(honest):
    red = int((honest < 0.05).sum())

    assert red <= binom.ppf(0.999, honest.size, 0.05) and red >= binom.ppf(0.001, honest.size, 0.05)
    share = (honest < 0.05).any(axis=1).mean()  # 1 - 0.95^6 = 26% of the companies have a red one
    assert share == pytest.approx(1 - 0.95**6, abs=3.1 * math.sqrt(0.26 * 0.74 / len(honest)))


def test_controlled_calm_pages_show_a_red_at_most_once_in_twenty(honest):
    pages = sum(bool(holm(page).min() < 0.05) for page in honest)

    assert pages <= binom.ppf(0.999, len(honest), 0.05)


def test_a_forecast_of_nothing_but_steadiness_is_no_verdict():
    assert all(map(math.isnan, surprise(weeks([5.0] * 80))))
    assert all(map(math.isnan, surprise(weeks([1.0, 2.0, 3.0]))))


# --- what is planted is found: Paid social orders x 0.75 from 2026-08-10 (truth.json)


def found(demo, as_of):
    told = scorecard(demo, as_of=as_of, ids=["order_rate_session"], holidays={"11-11": ["11-11"]})
    return [(told.kpi[i], told.segment[i], told.status[i]) for i in told.outside]


def test_planted_fall_is_found_in_the_week_in_which_it_begins(demo):
    assert found(demo, date(2026, 8, 16)) == [("order_rate_session", "Paid social", "worse")]


@pytest.mark.parametrize("as_of", [date(2026, 7, 12), date(2026, 7, 19), date(2026, 8, 9)])
def test_nothing_is_found_before_the_fall(demo, as_of):
    assert found(demo, as_of) == []


# --- the card


def test_rows_are_the_values_of_the_scorecard_of_all_kpis(demo, card):
    from kpi_helpers import kpis

    held = card.to_frame().query("segment == ''").set_index("kpi")["value"]
    direct = kpis.scorecard(demo, list(held.index), start=date(2026, 11, 9), end=date(2026, 11, 15)).set_index("kpi")

    assert held.to_dict() == pytest.approx(direct["value"].to_dict())
    assert card.period_at == date(2026, 11, 9) and card.until_at == date(2026, 11, 15)


def test_change_against_last_year_is_that_of_the_same_week(card, demo):
    from kpi_helpers import kpis

    weekly = kpis.compute(demo, ["orders"], until=date(2026, 11, 15)).series("orders")
    row = card.to_frame().query("kpi == 'orders' and segment == ''").iloc[0]

    assert row["before"] == weekly[pd.Period("2026-11-02", "W-SUN")]
    assert row["last_year"] == weekly[pd.Period("2025-11-10", "W-SUN")]


def test_all_rows_are_controlled_together(card):
    p, adjusted = np.array(card.p), np.array(card.adjusted)

    assert adjusted == pytest.approx(holm(p), nan_ok=True)
    assert {s for s, alone, a in zip(card.status, p, adjusted, strict=True) if alone < 0.05 <= a} == {"noise"}


def test_goals_and_benchmarks_are_judged_by_the_interval(card):
    rows = card.to_frame().query("segment == ''").set_index("kpi")

    assert rows.loc["orders", "target_status"] == "missed" and rows.loc["aov", "target_status"] == "open"
    assert rows.loc["ctr_ad", "benchmark_status"] == "missed" and rows.loc["roi", "benchmark_status"] == "met"
    assert rows.loc["revenue", "target_status"] == ""


@pytest.mark.parametrize("line", ["ctr_ad", "ctr_ad much", "ctr_add 0.1"])
def test_a_line_that_is_no_kpi_and_number_says_so(demo, line):
    with pytest.raises(KpiError, match=r'"ctr_ad 0\.012"|Did you mean'):
        scorecard(demo, as_of=DEMO_DAY, goals=[line])


@pytest.mark.parametrize("grain", ["day", "month"])
def test_other_grains_have_full_periods_of_their_own(demo, grain):
    told = scorecard(demo, as_of=DEMO_DAY, grain=grain, ids=["revenue", "order_rate_session"])

    assert told.until_at == (DEMO_DAY if grain == "day" else date(2026, 10, 31))
    assert np.isfinite(told.p).all()


@pytest.fixture
def tiny(duckdb_engine):
    days = pd.date_range("2026-01-05", "2026-02-15")
    rows = [
        {"date": d, "channel": c, "revenue": 100.0 + i + (c == "B"), "sessions": 50}
        for i, d in enumerate(days)
        for c in "AB"
    ]
    return duckdb_engine.source(pd.DataFrame(rows))


def test_a_short_history_of_one_table_says_what_cannot_be_told(tiny):
    card = scorecard(tiny, as_of=date(2026, 2, 15))

    assert set(card.status) == {"unknown"} and card.outside == []
    assert "too short" in card.call().sentence()
    assert ("open_rate", "channel_daily.hard_bounces, channel_daily.sent, channel_daily.soft_bounces, "
            "channel_daily.unique_opens") in card.missing  # fmt: skip
    assert campaigns(tiny, as_of=date(2026, 2, 15)).sentence().startswith("Success of campaigns cannot be computed")
    assert "touchpoints" in roles(tiny, "revenue", as_of=date(2026, 2, 15)).sentence()
    for result in (card, card.call(), campaigns(tiny, as_of=date(2026, 2, 15))):
        assert all(result.html(language) for language in LANGUAGES)


# --- growth


def test_growth_by_hand(tiny):
    told = growth(tiny, ["revenue"], as_of=date(2026, 2, 15), days=7).to_frame().set_index("channel")

    # A earns 100 + i on day i: days 35 to 41 make 966, days 28 to 34 make 917
    assert told.loc["A", "value"] == 966 and told.loc["A", "moved"] == pytest.approx(966 / 917 - 1)
    assert told.loc["A", "moved_low"] < 966 / 917 - 1 < told.loc["A", "moved_high"]


# Newcombe (1998), Stat. Med. 17:873-890, table II, method 10: 56/70 against 48/80, from the Wilson intervals of each
def test_moves_of_shares_are_newcombe_s():
    now, was = (0.8, *wilson(56, 70)), (0.6, *wilson(48, 80))

    assert np.array(moves(now, was)) == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)


def test_moves_of_sums_are_relative_and_turn_with_their_sides():
    there, back = (moves(*sides, relative=True) for sides in (((120, 110, 131), (100, 92, 109)),
                                                              ((100, 92, 109), (120, 110, 131))))  # fmt: skip

    assert there[0] == pytest.approx(0.2)
    assert (1 + there[1]) * (1 + back[2]) == pytest.approx(1)
    assert np.isnan(moves((5, 4, 6), (0, 0, 1), relative=True)).all()


# --- why: a sum


def test_sum_changes_by_volume_mix_and_rate(demo):
    before, after = (date(2025, 10, 26), date(2025, 11, 22)), (date(2026, 10, 25), date(2026, 11, 21))
    told = explanations.explain_sum(demo, "revenue", before=before, after=after)

    assert told.ratio == "aov" and told.split
    assert told.volume + told.mix + told.rate == pytest.approx(told.total, rel=1e-9)
    assert told.total_low < told.total < told.total_high
    assert "cannot" not in told.sentence()


def test_sum_without_a_ratio_is_not_split(tiny):
    times = {"before": (date(2026, 2, 2), date(2026, 2, 8)), "after": (date(2026, 2, 9), date(2026, 2, 15))}

    assert "cannot be told apart" in explanations.explain_sum(tiny, "revenue", **times).sentence()
    with pytest.raises(KpiError, match="no sum"):
        explanations.explain_sum(tiny, "aov", **times)


# --- main and feeder channels


def test_roles_of_a_hand_made_company(tmp_path):
    days = pd.date_range("2026-01-05", periods=28)
    sold = {"Search": 600.0, "Social": 100.0, "Email": 250.0, "Radio": 50.0}
    rows = [
        {"date": d, "channel": c, "revenue": v + (-1) ** i * v / 3} for i, d in enumerate(days) for c, v in sold.items()
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "channel_daily.csv", index=False)
    # 1,000 people met Social first, 200 Search, 100 Email, 20 Radio; half of them met Search later
    met = [("Social", 1000), ("Search", 200), ("Email", 100), ("Radio", 20)]
    who = [c for c, n in met for _ in range(n)]
    when = pd.Timestamp("2026-01-10 10:00")
    first = pd.DataFrame({"customer_id": [f"c{i}" for i in range(len(who))], "touched_at": when, "channel": who})
    again = first.iloc[::2].assign(touched_at=when + pd.Timedelta(days=1), channel="Search")
    pd.concat([first, again]).assign(kind="click").to_parquet(tmp_path / "touchpoints.parquet", index=False)

    told = roles(connect(tmp_path), "revenue", as_of=date(2026, 2, 1)).to_frame().set_index("channel")

    assert told["role"].to_dict() == {"Search": "main", "Email": "unclear", "Social": "feeder", "Radio": "small"}
    assert told["value"].sum() == sum(row["revenue"] for row in rows)
    assert told.loc["Social", "first"] == pytest.approx(1000 / 1320)
    assert told["share"].sum() == pytest.approx(1) and told["first"].sum() == pytest.approx(1)


# --- campaigns


def test_campaign_targets_agree_with_the_kpi_and_the_truth(demo):
    told = campaigns(demo, as_of=DEMO_DAY)

    assert told.status.count("met") / (told.status.count("met") + told.status.count("missed")) == pytest.approx(
        told.met
    )
    assert told.met_low < told.met < told.met_high


@pytest.mark.parametrize("key", ["orders", "revenue", "order_rate_session"])
def test_drill_columns_add_up_to_the_total(demo, key):
    told = drill(demo, key, as_of=DEMO_DAY)
    cells, _unit, _decimals = told.printed("en")

    assert told.segment[-2:] == ("other", "total") and len(told.segment) == channels.TOP + 2
    if key != "order_rate_session":
        assert np.nansum(cells[:-1], axis=0) == pytest.approx(cells[-1], rel=1e-12)
        assert np.nansum(told.values[:-1], axis=0) == pytest.approx(told.values[-1])
    else:  # orders of the week over its sessions, not a mean of rates
        assert cells[-1][-1] == pytest.approx(0.025288, abs=1e-6)


def test_drill_refuses_other_tables(demo):
    with pytest.raises(KpiError, match="channel_daily"):
        drill(demo, "opportunities", as_of=DEMO_DAY)


# --- what is shown


def test_every_result_speaks_both_languages(demo, card):
    made = [growth(demo, ["orders", "ctr_ad"], as_of=DEMO_DAY), campaigns(demo, as_of=DEMO_DAY)]
    made += [roles(demo, "revenue", as_of=DEMO_DAY), drill(demo, "revenue", as_of=DEMO_DAY)]
    for result in (card, card.call(), *made):
        en, vi = (result.html(language) for language in LANGUAGES)
        assert en != vi and "None" not in en and "nan" not in en.replace("finance", "")
    assert 'role="img" aria-label="Last 13 periods' in card.html("en")
    assert isinstance(card, Scorecard)


def test_the_lesson_tells_what_its_outputs_say():
    notebook = editions.load("02_kpi_scorecard")
    said = next(r["sentence"]["en"] for r in editions.results(notebook) if r["name"] == "scorecard")
    red, of, alone, left = (int(x) for x in re.findall(r"(?<![\d.])\d+(?![\d%])", said.replace("95%", "")))

    first = editions.source_of(notebook["cells"][0])
    assert f"{red} of {of} values" in first and f"{red} trên {of}" in first
    assert f" {alone} lay outside" in first and left == 0 and "none is left" in first


# --- exercises

MISTAKES = [("honest_reds", "before_control"), ("honest_reds", "values"), ("october_opens", "mean_of_rates"),
            ("october_opens", "one_channel"), ("october_opens", "per_sent"), ("august_drop", "week_before"),
            ("august_drop", "last_year"), ("august_drop", "points")]  # fmt: skip


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES)
def test_exercise_names_the_mistake(exercise, mistake):
    answers = lessons.EXERCISES[exercise]

    assert lessons.check(exercise, answers["right"]).heard == "right"
    assert lessons.check(exercise, answers[mistake]).heard == mistake
    assert all(lessons.check(exercise, answers[mistake]).sentence(language) for language in LANGUAGES)


def test_honest_weeks_raise_the_alarms_that_the_lesson_tells():
    _moved, p = lessons.honest_weeks(20, 4000)
    alarms, controlled = (p < 0.05).any(axis=1).mean(), np.mean([holm(week).min() < 0.05 for week in p])

    assert alarms == pytest.approx(1 - 0.95**20, abs=0.04)
    assert controlled <= binom.ppf(0.999, len(p), 0.05) / len(p)


def test_both_engines_tell_the_same_of_channels(duckdb_engine, postgres_engine):
    end, said = date(2026, 3, 10), []
    for engine in (duckdb_engine, postgres_engine):
        data = engine.source(small_shop.tables())
        said.append([
            channels.growth(data, ["revenue", "orders"], as_of=end, days=60),
            channels.roles(data, "revenue", as_of=end, days=90),
            channels.campaigns(data, as_of=end),
            channels.drill(data, "orders", as_of=end, grain="month"),
            explanations.explain_sum(data, "orders", by="channel", before=(date(2026, 1, 1), date(2026, 1, 31)),
                                     after=(date(2026, 2, 1), date(2026, 2, 28))),
        ])  # fmt: skip

    for ours, theirs in zip(*said, strict=True):
        pd.testing.assert_frame_equal(ours.to_frame(), theirs.to_frame())
