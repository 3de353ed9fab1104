"""Subscriptions read in both engines: by hand, against plain loops over days, the catalogue's MRR, laws, bad input."""

from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_helpers.errors import KpiError
from kpi_helpers.recurring import bridge, cohorts, durations, standardised_churn, tenure_churn
from kpi_helpers.retention import survival
from kpi_helpers.scoring import scorecard

BY_HAND = pd.DataFrame(
    [
        ("s1", "A", "basic", "2026-01-05", "2026-02-05", "10.10"),
        ("s1", "A", "plus", "2026-02-05", "2026-04-10", "20.20"),  # a price change is a row of the same subscription
        ("s2", "B", "basic", "2026-01-09", None, "30.30"),
        ("s3", "A", "basic", "2026-06-01", None, "5.00"),  # A comes back
        ("s4", None, "free", "2026-03-03", None, "0"),  # nobody's name: a customer of its own, who pays nothing
        ("s5", "C", "plus", "2026-02-10", "2026-02-20", "99.99"),  # came and went between two ends
        ("s6", "D", "plus", "2026-03-01", "2026-05-15", "40.00"),
        ("s7", "D", "basic", "2026-05-15", None, "15.00"),  # swaps one for another: contraction, neither churn nor new
    ],
    columns=["subscription_id", "customer_id", "plan", "started_at", "ended_at", "price"],
)


def typed(rows):
    days = {
        c: [None if pd.isna(v) else date.fromisoformat(str(v)[:10]) for v in rows[c]]
        for c in ("started_at", "ended_at")
    }
    return rows.assign(**days, price=[Decimal(str(p)) for p in rows["price"]])


def random_rows(seed, n=120):
    """Subscriptions of few customers, with price changes, gaps, swaps, free plans and missing names."""
    rng, made = np.random.default_rng(seed), []
    for i in range(n):
        at = date(2025, 1, 1) + timedelta(int(rng.integers(0, 500)))
        who = None if rng.random() < 0.1 else f"c{rng.integers(0, n // 3)}"
        for _ in range(rng.integers(1, 4)):
            until = at + timedelta(int(rng.integers(1, 120)))
            ended = None if rng.random() < 0.15 else until
            made.append((f"s{i}", who, "ab"[i % 2], at, ended, Decimal(int(rng.integers(0, 9999))) / 100))
            if ended is None:
                break
            at = until
    return pd.DataFrame(made, columns=list(BY_HAND.columns))


def running(rows, day):
    """MRR of each customer as a day ends, by a plain loop."""
    found = {}
    for r in rows.itertuples():
        if r.started_at <= day and (pd.isna(r.ended_at) or r.ended_at > day):
            who = f"alone {r.subscription_id}" if pd.isna(r.customer_id) else r.customer_id
            found[who] = found.get(who, Decimal(0)) + r.price
    return found


def bridged(rows, grain, end):
    """The bridge by loops over days and customers."""
    first = min(rows.loc[rows["started_at"] <= end, "started_at"])
    periods = pd.period_range(first, end, freq={"month": "M", "week": "W-SUN", "day": "D"}[grain])
    levels, known, told = [{}, *(running(rows, min(p.end_time.date(), end)) for p in periods)], set(), []
    for period, (before, after) in zip(periods, pairwise(levels), strict=True):
        came, left = after.keys() - before.keys(), before.keys() - after.keys()
        steps = [after[who] - before[who] for who in after.keys() & before.keys()]
        told.append({
            "period": period.start_time.date(), "opening": sum(before.values()), "new": sum(after[w] for w in came),
            "expansion": sum(s for s in steps if s > 0), "contraction": -sum(s for s in steps if s < 0),
            "churn": sum(before[w] for w in left), "closing": sum(after.values()),
            "returned": sum(after[w] for w in came & known), "customers": len(before), "gained": len(came),
            "lost": len(left), "complete": period.end_time.date() <= end,
        })  # fmt: skip
        known |= set(after)
    return pd.DataFrame(told)


def assert_adds_up(frame):
    cents = (frame.select_dtypes("number") * 100).round()
    assert (cents["opening"] + cents["new"] + cents["expansion"] - cents["contraction"] - cents["churn"]).equals(
        cents["closing"]
    )
    assert cents["closing"][:-1].tolist() == cents["opening"][1:].tolist()


def test_bridge_by_hand():
    told = bridge(typed(BY_HAND), as_of="2026-06-15").frame.set_index("period")

    names = [
        "opening",
        "new",
        "expansion",
        "contraction",
        "churn",
        "closing",
        "returned",
        "customers",
        "gained",
        "lost",
    ]
    assert told[names].to_numpy().tolist() == [
        [0, 40.4, 0, 0, 0, 40.4, 0, 0, 2, 0],
        [40.4, 0, 10.1, 0, 0, 50.5, 0, 2, 0, 0],
        [50.5, 40, 0, 0, 0, 90.5, 0, 2, 2, 0],
        [90.5, 0, 0, 0, 20.2, 70.3, 0, 4, 0, 1],
        [70.3, 0, 0, 25, 0, 45.3, 0, 3, 0, 0],
        [45.3, 5, 0, 0, 0, 50.3, 5, 3, 1, 0],
    ]
    assert told["complete"].tolist() == [True] * 5 + [False]
    april = told.loc[date(2026, 4, 1)]
    assert april["logo_churn"] == 0.25
    assert april[["gross_retention", "net_retention"]].tolist() == pytest.approx([70.3 / 90.5] * 2)
    assert told["net_retention"].iloc[1] == pytest.approx(50.5 / 40.4)
    assert told["gross_retention"].iloc[4] == pytest.approx(45.3 / 70.3)


@pytest.mark.parametrize("grain", ["month", "week", "day"])
def test_bridge_is_that_of_plain_loops_and_of_the_catalogue(engine, grain):
    rows, end = random_rows(5), date(2026, 4, 17)
    source = engine.source(rows, "subscriptions")

    told = bridge(source.table("subscriptions"), grain, as_of=end).frame
    expected = bridged(rows, grain, end)

    for name in expected:
        assert [v if name in ("period", "complete") else round(float(v) * 100) for v in expected[name]] == [
            v if name in ("period", "complete") else round(v * 100) for v in told[name]
        ], name
    assert_adds_up(told)
    if grain == "month":
        mrr = scorecard(source, ["mrr"], grain=grain, end=end)["value"]
        assert mrr.tolist() == pytest.approx(told["closing"].tolist(), rel=1e-12)


@given(seed=st.integers(0, 10**6), after=st.integers(0, 600))
@settings(max_examples=12, deadline=None)
def test_bridge_of_any_rows_and_day(seed, after):
    rows = random_rows(seed, 12)
    end = min(rows["started_at"]) + timedelta(after)

    told, expected = bridge(rows, as_of=end).frame, bridged(rows, "month", end)

    for name in expected.columns[1:-1]:
        assert told[name].to_numpy() == pytest.approx(expected[name].astype(float).to_numpy(), abs=1e-9), name
    assert_adds_up(told)


def test_floats_add_up_to_the_cent():
    rows = pd.DataFrame({"subscription_id": range(3000), "started_at": pd.Timestamp("2026-01-01"), "price": 0.1})

    assert bridge(rows, as_of="2026-01-31").closing == (300.0,)


def test_prices_in_dong_stay_whole(engine):
    rows = random_rows(2).assign(price=lambda t: [int(p * 10**8) for p in t["price"]])

    told = bridge(engine.source(rows, "subscriptions").table("subscriptions"), as_of="2026-03-31").frame

    assert (told["closing"] % 1 == 0).all()
    assert told["closing"].tolist() == [float(v) for v in bridged(rows, "month", date(2026, 3, 31))["closing"]]


def test_triangle_is_that_of_plain_loops_and_adds_up_to_the_bridge(engine):
    rows, end = random_rows(7), date(2026, 4, 17)
    table = engine.source(rows, "subscriptions").table("subscriptions")
    told = cohorts(table, as_of=end).frame

    who = np.where(rows["customer_id"].isna(), "alone " + rows["subscription_id"], rows["customer_id"].astype(str))
    starts = rows.assign(who=who)[rows["started_at"] <= end].groupby("who")["started_at"].min()
    begun = {name: day.replace(day=1) for name, day in starts.items()}
    for row in told.itertuples():
        at = pd.Period(row.cohort, "M") + row.age
        level = {w: v for w, v in running(rows, at.end_time.date()).items() if begun[w] == row.cohort}
        assert (row.customers, row.revenue) == (len(level), pytest.approx(float(sum(level.values()))))
        assert row.started == sum(day == row.cohort for day in begun.values())
    assert max(told["cohort"]) <= date(2026, 3, 1)
    assert told.groupby("cohort")["age"].max().tolist() == [
        (pd.Period("2026-03", "M") - pd.Period(c, "M")).n for c in sorted(set(told["cohort"]))
    ]
    months = [pd.Period(c, "M") + a for c, a in zip(told["cohort"], told["age"], strict=True)]
    whole = bridge(table, as_of=end).frame.query("complete")
    assert told.groupby(months)["revenue"].sum().tolist() == pytest.approx(whole["closing"].tolist())


def test_durations_by_hand():
    rows = typed(BY_HAND)
    months = durations(rows, "2026-06-15", by="plan")

    # s1 5 Jan to 10 Apr: its fourth month had begun; s2 from 9 Jan: five whole months; s6 is one spell of its own
    assert [tuple(r) for r in months.to_numpy().tolist()] == [
        ("basic", 0, 0, 1), ("basic", 1, 0, 1), ("basic", 4, 1, 1), ("basic", 5, 0, 1), ("free", 3, 0, 1),
        ("plus", 1, 1, 1), ("plus", 3, 1, 1),
    ]  # fmt: skip


def test_durations_feed_survival(engine):
    rows = random_rows(9)
    counted = durations(engine.source(rows, "subscriptions").table("subscriptions"), "2026-02-01")

    spells = rows[rows["started_at"] <= date(2026, 2, 1)].groupby("subscription_id")
    spells = spells.agg(begun=("started_at", "min"), last=("ended_at", lambda v: max(v) if v.notna().all() else None))
    ended = [pd.notna(v) and v <= date(2026, 2, 1) for v in spells["last"]]
    now, lasted = date(2026, 2, 1), []
    for i, (begun, last) in enumerate(zip(spells["begun"], spells["last"], strict=True)):
        so_far = (now.year - begun.year) * 12 + now.month - begun.month - (now.day < begun.day)
        if ended[i]:
            months = (last.year - begun.year) * 12 + last.month - begun.month + (last.day > begun.day)
            ended[i] = months <= so_far  # a month that has begun only is not over
        lasted.append(months if ended[i] else so_far)

    told = survival(counted["duration"], counted["observed"], weights=counted["n"])
    pd.testing.assert_frame_equal(told.frame, survival(lasted, ended).frame, check_dtype=False)


def test_survival_in_months_is_that_of_customers_who_leave_at_random(engine):
    """A constant chance to leave each month: the curve falls by it, wherever the last day cuts."""
    rng = np.random.default_rng(12)
    begun = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, 6000), unit="D")
    over = begun + pd.to_timedelta(np.ceil(rng.exponential(30.4375 / 0.1, 6000)), unit="D")
    rows = pd.DataFrame(
        {"subscription_id": np.arange(6000).astype(str), "started_at": begun.date, "ended_at": over.date}
    )
    counted = durations(engine.source(rows, "subscriptions").table("subscriptions"), "2025-12-20")

    curve = survival(counted["duration"], counted["observed"], weights=counted["n"]).frame.set_index("time")
    for month in (1, 3, 6, 12):
        assert curve.loc[month, "survival"] == pytest.approx(np.exp(-0.1 * month), abs=0.02)


def test_tenure_churn_is_that_of_plain_loops(engine):
    rows, first, last = random_rows(3), date(2025, 11, 1), date(2025, 11, 30)
    table = engine.source(rows, "subscriptions").table("subscriptions")
    told = tenure_churn(table, first, last)

    was, now = running(rows, first - timedelta(1)), running(rows, last)
    month = bridge(table, as_of=last).frame.iloc[-1]
    assert (told["at_risk"].sum(), told["lost"].sum()) == (len(was), len(was.keys() - now.keys()))
    assert (month["customers"], month["lost"]) == (told["at_risk"].sum(), told["lost"].sum())
    who = np.where(rows["customer_id"].isna(), "alone " + rows["subscription_id"], rows["customer_id"].astype(str))
    since = rows.assign(who=who).groupby("who")["started_at"].min()
    tenures = [(first.year - d.year) * 12 + first.month - d.month - (d.day > 1) for d in (since[w] for w in was)]
    assert dict(zip(told["tenure"], told["at_risk"], strict=True)) == pd.Series(tenures).value_counts().to_dict()


def test_new_members_change_churn_though_nobody_stays_longer():
    rate = np.array([0.12, 0.08, 0.04])
    was = pd.DataFrame({"tenure": range(3), "at_risk": [1000, 1000, 4000]}).assign(lost=lambda t: t["at_risk"] * rate)
    now = pd.DataFrame({"tenure": range(3), "at_risk": [6000, 1000, 4000]}).assign(lost=lambda t: t["at_risk"] * rate)

    told = standardised_churn(now, was)

    assert (told.was, told.now) == (pytest.approx(0.06), pytest.approx(960 / 11000))
    assert told.standardised == pytest.approx(told.was)
    assert told.change_low < 0 < told.change_high and told.covered == 1
    assert "nothing shows" in told.sentence()


def test_standardised_interval_holds_the_truth_as_often_as_it_says():
    rng, weight, rate, n = (
        np.random.default_rng(8),
        np.array([0.2, 0.3, 0.5]),
        np.array([0.2, 0.1, 0.03]),
        [300, 80, 60],
    )
    was = pd.DataFrame({"tenure": range(3), "at_risk": 1000 * weight, "lost": 1000 * weight * rate})
    now = [pd.DataFrame({"tenure": range(3), "at_risk": n, "lost": rng.binomial(n, rate)}) for _ in range(150)]
    told = [standardised_churn(each, was) for each in now]

    assert 0.9 <= np.mean([t.low <= weight @ rate <= t.high for t in told]) <= 0.985


def test_standardised_churn_leaves_out_tenures_that_are_gone():
    was = pd.DataFrame({"tenure": [0, 1], "at_risk": [100, 100], "lost": [20, 10]})
    now = pd.DataFrame({"tenure": [1, 2], "at_risk": [50, 50], "lost": [0, 5]})
    told = standardised_churn(now, was)

    assert (told.was, told.standardised, told.now, told.covered) == (0.1, 0, 0.05, 0.5)
    assert told.low == 0 < told.high  # nobody left, which is no proof that nobody will
    with pytest.raises(KpiError, match="no tenure in common"):
        standardised_churn(now[now["tenure"] == 2], was)


def test_results_show_themselves():
    rows = typed(BY_HAND)
    counted = tenure_churn(rows, "2026-04-01", "2026-04-30")
    for result in (bridge(rows, currency="USD"), cohorts(rows), standardised_churn(counted, counted)):
        for language in ("en", "vi"):
            assert "nan" not in result.html(language)
        assert len(result.to_json()["rows"]) == len(result.frame)
    assert "from $70.30 to $45.30 in the period from 1 May 2026" in repr(
        bridge(rows, as_of="2026-06-15", currency="USD")
    )
    assert 'class="heat" style="--heat:40%">100%' in cohorts(rows, as_of="2026-06-15").html()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda t: bridge(t, "fortnight"), "grain='fortnight' is not known"),
        (lambda t: bridge(t, as_of="June"), "'June' is no day"),
        (lambda t: bridge(t.drop(columns="started_at")), "no column started_at"),
        (lambda t: bridge(t.drop(columns="price")), "no column price"),
        (lambda t: bridge(t.iloc[:0]), "no rows"),
        (lambda t: bridge(t, as_of="2020-01-01"), "no rows up to 2020-01-01"),
        (lambda t: cohorts(t, as_of="2026-01-20"), "No month is over by 2026-01-20"),
        (lambda t: cohorts(t, as_of="2020-01-20"), "no rows"),
        (lambda t: durations(t, by="planet"), "no column planet.*plan"),
    ],
)
def test_what_cannot_be_computed_says_why(ask, told):
    with pytest.raises(KpiError, match=told):
        ask(typed(BY_HAND))


def test_ends_on_the_day_of_a_period_or_a_month():
    rows = typed(BY_HAND)
    left = tenure_churn(rows, "2026-04-10", "2026-04-30")  # A ends on 10 April, three months after 5 January

    assert left[["tenure", "at_risk", "lost"]].to_numpy().tolist() == [[1, 2, 0], [3, 2, 1]]
    whole = rows.iloc[[0]].assign(started_at=date(2026, 1, 15), ended_at=date(2026, 3, 15))
    assert durations(whole, "2026-06-15").to_numpy().tolist() == [[2, 1, 1]]
    assert durations(whole, "2026-03-14").to_numpy().tolist() == [[1, 0, 1]]


def test_an_interval_holds_where_tenures_have_one_customer():
    """A tenure of one customer has no spread of its own: undrawn to the mean 5% of intervals held."""
    rng, tenure = np.random.default_rng(3), np.arange(24)
    hazard = 1 / (10 + tenure)
    was_n, now_n = np.full(24, 30), np.where(tenure < 12, 60, 1)
    held = 0
    for _ in range(200):
        lost = rng.binomial(now_n, hazard)
        now = pd.DataFrame({"tenure": tenure, "at_risk": now_n, "lost": lost})
        was = pd.DataFrame({"tenure": tenure, "at_risk": was_n, "lost": rng.binomial(was_n, hazard)})
        found = standardised_churn(now, was)
        held += found.low <= hazard.mean() <= found.high

    assert held >= 180  # 99% of Binomial(200, 0.95) are 179 or more
