"""Funnels as cohorts, what broke in them, and marketing and sales on one page."""

from datetime import date, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.duration.survfunc import SurvfuncRight

from kpi_helpers import funnel, kpis, sales, simulate
from kpi_helpers.errors import KpiError
from kpi_helpers.records import PLANTED
from kpi_helpers.sources import connect
from kpi_helpers.stats import wilson

ROOT = Path(__file__).parents[1]
HOME = Path(simulate.HOME)
WEB = ["visit", "view", "cart", "checkout", "purchase"]
PAGES = ["visit", "search", "checkout", "purchase"]
LEADS = ["lead", "mql", "sal", "opportunity", "negotiation", "won"]
FIRST = pd.Timestamp("2026-03-01")


def events(rows, unit="who"):
    """Events from tuples of unit, step and day after 1 March 2026."""
    told = [(who, step, None if day is None else FIRST + pd.Timedelta(day, "D")) for who, step, day in rows]
    return pd.DataFrame(told, columns=[unit, "step", "at"]).astype({"at": "datetime64[us]"})


def reached(rows, steps="abc", window_days=7, **options):
    return funnel.read_steps(events(rows), unit="who", steps=list(steps), window_days=window_days, **options)


def by_hand(rows, steps, window):
    """Steps that each unit reached: walk its events in time, the earlier step first where times are equal."""
    found = {}
    for who in {r[0] for r in rows}:
        own = sorted((day, steps.index(step)) for name, step, day in rows if name == who)
        entry = next((day for day, place in own if place == 0), None)
        if entry is None:
            continue
        depth, last = 1, entry
        for place in range(1, len(steps)):
            days = [day for day, p in own if p == place and last <= day <= entry + window]
            if not days:
                break
            depth, last = depth + 1, min(days)
        found[who] = (entry, depth)
    return found


# --- published numbers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signups(real_data):
    """The sign-up funnel of the exercise by device, every user's window over."""
    data = connect(real_data("signup-funnel"), ROOT / "data" / "mappings" / "signup_funnel.yaml")
    options = {"window_days": 1, "by": "device", "as_of": "2015-05-02"}
    return funnel.read_steps(data.table("web_events"), unit="visitor_id", steps=PAGES, **options)


def test_signup_funnel_has_its_known_counts(signups):
    # ../shared/data/signup-funnel/README.md, "Known results"
    assert signups.rows()["n"].tolist() == [90_400, 45_200, 6_030, 452]
    assert signups.rows("Desktop")["n"].tolist() == [60_200, 30_100, 3_010, 150]
    assert signups.rows("Mobile")["n"].tolist() == [30_200, 15_100, 3_020, 302]
    assert (signups.rows()["rate"] * 100).round(2).tolist() == [100, 50.0, 13.34, 7.50]
    months = funnel.by_month(signups)
    assert months.rows("2015-01")["n"].tolist() == [22_600, 13_554, 2_390, 189]
    assert months.rows("2015-02")["n"].tolist() == [22_600, 13_687, 2_412, 173]
    assert months.rows("2015-03")["n"].tolist() == [22_600, 8_879, 631, 44]
    assert months.rows("2015-04")["n"].tolist() == [22_600, 9_080, 597, 46]
    assert signups.n_open == 0 and not any(signups.issues.values())


def test_two_breaks_of_march_are_found_and_no_other(signups):
    # ../shared/reference/lessons_and_reports.md, section 2e: users 15,050 and 7,550 in each month
    found = funnel.find_breaks(signups, before="2015-02", after="2015-03")

    rows = found.frame.set_index(["group", "step"])
    mobile, desktop = rows.loc[("Mobile", "search")], rows.loc[("Desktop", "checkout")]
    assert sorted(found.found[["group", "step"]].itertuples(index=False, name=None)) == [
        ("Desktop", "checkout"), ("Mobile", "search")
    ]  # fmt: skip
    assert (mobile["was_n"], mobile["now_n"]) == (7_550, 7_550)
    assert (round(mobile["was"] * 7_550), round(mobile["now"] * 7_550)) == (6_055, 1_509)
    assert (round(desktop["was"] * desktop["was_n"]), round(desktop["now"] * desktop["now_n"])) == (1_191, 296)
    printed = {key: (f"{row['was']:.1%}", f"{row['now']:.1%}") for key, row in rows.iterrows()}
    assert printed == {
        ("Mobile", "search"): ("80.2%", "20.0%"), ("Mobile", "checkout"): ("20.2%", "22.2%"),
        ("Mobile", "purchase"): ("9.7%", "9.0%"), ("Desktop", "search"): ("50.7%", "49.0%"),
        ("Desktop", "checkout"): ("15.6%", "4.0%"), ("Desktop", "purchase"): ("4.5%", "4.7%"),
    }  # fmt: skip
    assert (found.last_was, found.last_now) == (173, 44)
    assert "80.2% to 20.0%" in found.sentence() and "15.6% to 4.0%" in found.sentence()
    # the two steps set right give back what was lost, up to chance in the others
    assert mobile["returns"] + desktop["returns"] == pytest.approx(173 - 44, abs=10)


def test_payment_pages_without_a_sign_up_are_abandoned(real_data):
    data = connect(real_data("signup-funnel"), ROOT / "data" / "mappings" / "signup_funnel.yaml")

    told = kpis.scorecard(data, ["checkout_abandon"], end=date(2015, 3, 31)).iloc[0]

    # payment pages and sign-ups of January to March in its README; both have the day alone
    assert told["denominator"] == 2_390 + 2_412 + 631
    assert told["value"] == pytest.approx(1 - (189 + 173 + 44) / 5_433, rel=1e-12)


@pytest.fixture(scope="module")
def olist(real_data):
    data = connect(real_data("olist-leads"), ROOT / "data" / "mappings" / "olist_leads.yaml")
    return funnel.stages(data.table("leads"))


def test_olist_has_its_known_results(olist):
    # ../shared/data/olist-leads/README.md: 842 of 8,000 won, one of them two days before its first contact
    options = {"unit": "lead_id", "steps": ["lead", "won"], "window_days": 428, "as_of": "2020-01-01"}
    found = funnel.read_steps(olist, by="channel", **options)

    assert found.rows()["n"].tolist() == [8_000, 841]
    assert found.issues["out_of_order"] == 1 and sum(found.issues.values()) == 1
    told = {name: tuple(found.rows(name)["n"][["won", "lead"]]) for name in dict.fromkeys(found.group) if name}
    known = {
        "organic_search": (271, 2296), "paid_search": (195, 1586), "unknown": (179, 1099), "social": (75, 1350),
        "direct_traffic": (56, 499), "referral": (24, 284), "email": (15, 493), "–": (14, 60), "display": (6, 118),
        "other": (4, 150), "other_publicities": (3, 65),
    }  # fmt: skip
    short = {name: (won - told[name][0], n - told[name][1]) for name, (won, n) in known.items()}
    assert sorted(short.values()) == [(0, 0)] * 10 + [(1, 0)]  # the one that is dated before its contact
    assert funnel.time_to_step(found).median == (14.0,)


def test_olist_leads_whose_window_runs_are_open(olist):
    options = {"unit": "lead_id", "steps": ["lead", "won"], "window_days": 90, "as_of": "2018-05-31"}
    found = funnel.read_steps(olist, **options)

    recent = funnel.by_month(found).rows("2018-03")
    assert found.n_open == 1174 - recent["n"]["lead"] + 1352 + 1303  # months 3 to 5 of the table of contacts
    assert "still within their window" in found.sentence()


def test_online_shoppers_convert_as_known(real_data):
    # ../shared/data/online-shoppers/README.md
    data = connect(real_data("online-shoppers"), ROOT / "data" / "mappings" / "online_shoppers.yaml")

    whole, split = (kpis.scorecard(data, ["conv_rate_user"], by=by) for by in ((), "segment"))

    assert (whole["numerator"][0], whole["denominator"][0]) == (1_908, 12_330)
    rates = dict(zip(split["segment"], (split["value"] * 100).round(2), strict=True))
    assert rates == {"New_Visitor": 24.91, "Returning_Visitor": 13.93, "Other": 18.82}


# --- how units are followed -------------------------------------------------------------------------

UNITS, DAYS = st.sampled_from("uvwxyz"), st.integers(0, 12)
LOGS = st.lists(st.tuples(UNITS, st.sampled_from("abc"), DAYS), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(rows=LOGS, window=st.integers(1, 6))
def test_units_reach_what_a_walk_through_their_events_reaches(rows, window):
    rows = [*rows, ("s", "a", 0), ("s", "b", 0), ("s", "c", 0), ("end", "a", 20)]  # each step occurs
    found = reached(rows, window_days=window)

    walked = by_hand(rows, "abc", window)
    closed = [depth for entry, depth in walked.values() if entry + window <= 20]
    assert found.rows()["n"].tolist() == [sum(depth > i for depth in closed) for i in range(3)]
    assert found.n_open == len(walked) - len(closed)
    assert found.issues["no_start"] == len({r[0] for r in rows}) - len(walked)


def test_each_engine_follows_alike(engine):
    rng = np.random.default_rng(5)
    rows = [(f"u{rng.integers(60)}", "abc"[rng.integers(3)], int(rng.integers(30))) for _i in range(400)]
    rows += [("end", "a", 40)]
    table = events(rows, "visitor_id").rename(columns={"step": "event", "at": "happened_at"})
    table["device"] = np.where(table["visitor_id"].str[-1] < "5", "mobile", "desktop")

    data = engine.source(table, "web_events").table("web_events")
    found = funnel.read_steps(data, unit="visitor_id", steps=["a", "b", "c"], window_days=9, by="device")

    walked = by_hand(rows, "abc", 9)
    for device in ("mobile", "desktop"):
        expected = [d for who, (e, d) in walked.items() if e + 9 <= 40 and (who[-1] < "5") == (device == "mobile")]
        assert found.rows(device)["n"].tolist() == [sum(d > i for d in expected) for i in range(3)]
    assert found.n_open == 1


def test_going_back_takes_nothing_back():
    once = [("u", "a", 0), ("u", "b", 1), ("u", "c", 2), ("end", "a", 30)]

    again = [*once, ("u", "a", 3), ("u", "b", 4), ("u", "a", 5)]

    assert reached(again).rows()["n"].tolist() == reached(once).rows()["n"].tolist() == [1, 1, 1]


def test_steps_at_one_time_count_in_their_order_and_the_last_day_counts():
    rows = [("u", "c", 0), ("u", "b", 0), ("u", "a", 0), ("v", "a", 0), ("v", "b", 7), ("v", "c", 8), ("end", "a", 30)]

    assert reached(rows).rows()["n"].tolist() == [2, 2, 1]
    assert reached(rows).issues["late"] == 1


def test_an_entry_counts_as_soon_as_its_window_is_over():
    rows = [("u", "a", 0), ("u", "b", 1), ("u", "c", 1), ("v", "a", 3)]

    at = {day: reached(rows, as_of=f"2026-03-{day:02}") for day in (7, 8, 10, 11)}

    assert [found.n_open for found in at.values()] == [2, 1, 1, 0]
    assert "cannot be computed" in at[7].sentence() and np.isnan(at[7].rows()["rate"]).all()


@settings(max_examples=20, deadline=None)
@given(rows=LOGS)
def test_a_longer_window_never_loses_and_steps_multiply_to_the_whole(rows):
    rows = [*rows, ("s", "a", 0), ("s", "b", 0), ("s", "c", 0)]
    short, long = (reached(rows, window_days=w, as_of="2026-12-31") for w in (2, 9))

    assert (long.rows()["n"] >= short.rows()["n"]).all()
    assert long.rows()["n"].is_monotonic_decreasing
    assert long.rows()["rate"].prod() == pytest.approx(long.rows()["overall"].iloc[-1], rel=1e-12)
    low, high = wilson(long.rows()["n"], long.rows()["before"])
    assert np.allclose(long.rows()[["low", "high"]], np.column_stack([low, high]))


def test_what_is_wrong_with_the_data_is_counted_and_told():
    rows = [
        ("fine", "a", 0), ("fine", "b", 1), ("fine", "c", 2), ("early", "a", 5), ("early", "b", 3),
        ("gap", "a", 0), ("gap", "c", 2), ("twice", "a", 0), ("twice", "b", 0), ("twice", "c", 1), ("twice", "c", 2),
        ("late", "a", 0), ("late", "b", 20), ("never", "b", 1), (None, "a", 1), ("", "b", 1), ("when", "a", None),
        ("end", "a", 40),
    ]  # fmt: skip

    found = reached(rows)

    assert found.issues == {
        "no_unit": 2, "no_time": 1, "no_start": 1, "out_of_order": 1, "skipped": 1, "again": 1, "late": 1
    }  # fmt: skip
    assert found.rows()["n"].tolist() == [5, 2, 2]
    for language, words in (("en", ("dates out of order", "won twice")), ("vi", ("sai thứ tự ngày", "chốt hai lần"))):
        assert len(found.told(language)) == 7
        assert all(word in found.html(language) for word in words)


def test_leads_become_events_and_keep_their_texts():
    at = pd.to_datetime(["2026-03-01", "2026-03-02", None])
    leads = pd.DataFrame({"lead_id": ["x", "y", "z"], "created_at": at, "channel": ["A", None, "B"],
                          "won_at": pd.to_datetime([None, "2026-03-05", "2026-03-06"])})  # fmt: skip

    found = funnel.read_steps(
        funnel.stages(leads), unit="lead_id", steps=["lead", "won"], window_days=3, by="channel", as_of="2026-04-01"
    )

    assert found.rows()["n"].tolist() == [2, 1] and found.rows("–")["n"].tolist() == [1, 1]
    assert (found.issues["no_time"], found.issues["no_start"]) == (1, 1)


BAD = [
    ({"steps": ["lead", "wonn"]}, r"No row with who and at has the step 'wonn'. Did you mean won\?"),
    ({"steps": ["lead"]}, "must be two or more, each once"),
    ({"steps": ["lead", "won", "lead"]}, "must be two or more, each once"),
    ({"window_days": 0}, "window_days=0 must be a whole number of days, 1 to 3660"),
    ({"window_days": 1.5}, "window_days=1.5 must be a whole number"),
    ({"unit": "whom"}, r"no column 'whom'. Did you mean who\?"),
    ({"by": "colour"}, "no column 'colour'"),
    ({"as_of": "1 March"}, "'1 March' is no day"),
    ({"as_of": "2020-01-01"}, "No row has who, step and at"),
    ({"confidence": 1}, r"not in \(0, 1\)"),
]


@pytest.mark.parametrize(("wrong", "told"), BAD, ids=lambda v: str(v)[:30])
def test_requests_that_cannot_be_met_say_why(wrong, told):
    rows = events([("u", "lead", 0), ("u", "won", 1)])

    with pytest.raises(KpiError, match=told):
        funnel.read_steps(rows, **({"unit": "who", "steps": ["lead", "won"], "window_days": 7} | wrong))


def test_tables_that_cannot_be_read_say_why():
    rows = events([("u", "a", 0), ("u", "b", 1)])
    options = {"unit": "who", "steps": ["a", "b"], "window_days": 7}

    with pytest.raises(KpiError, match="at is string, not a date or local time"):
        funnel.read_steps(rows.astype({"at": str}), **options)
    with pytest.raises(KpiError, match="no column 'at'"):
        funnel.read_steps(rows.drop(columns="at"), **options)
    with pytest.raises(KpiError, match="No row has who, step and at: check the export"):
        funnel.read_steps(rows.assign(who=None).astype({"who": str}).assign(who=""), **options)
    with pytest.raises(KpiError, match="The leads have no column lead_id"):
        funnel.stages(rows)


# --- times ------------------------------------------------------------------------------------------


def test_time_to_a_step_is_that_of_kaplan_and_meier():
    rng = np.random.default_rng(11)
    begun, wait = rng.integers(0, 60, 300), np.where(rng.random(300) < 0.6, rng.integers(0, 50, 300), 999)
    rows = [(i, "a", int(b)) for i, b in enumerate(begun)]
    rows += [(i, "b", int(b + w)) for i, (b, w) in enumerate(zip(begun, wait, strict=True)) if b + w <= 70]
    found = reached(rows, "ab", 30, as_of=FIRST + pd.Timedelta(70, "D"))

    told = funnel.time_to_step(found).frame.iloc[0]

    seen = np.minimum(np.minimum(wait, 30), 70 - begun)
    took = (wait <= 30) & (begun + wait <= 70)
    curve = SurvfuncRight(seen, took.astype(int))  # statsmodels, at half of those who ever convert
    assert told["share"] == pytest.approx(1 - curve.surv_prob[-1], rel=1e-12)
    assert told["median"] == curve.quantile((1 - curve.surv_prob[-1]) / 2)
    assert told["low"] <= told["median"] <= told["high"]
    assert (told["n"], told["events"]) == (300, took.sum())


def test_times_of_short_windows_are_minutes_and_nobody_is_told():
    at = pd.to_datetime(["2026-03-01 10:00", "2026-03-01 10:25", "2026-03-05 10:00"])
    web = pd.DataFrame({"who": ["u", "u", "v"], "step": ["a", "b", "a"], "at": at})
    found = funnel.read_steps(web, unit="who", steps=["a", "b"], window_days=1)
    assert (funnel.time_to_step(found).median, found.time_unit) == ((25.0,), "minutes")

    none = reached([("u", "a", 0), ("v", "b", 1), ("end", "a", 30)], "ab")
    assert "nobody took one" in funnel.time_to_step(none).sentence()


# --- breaks -----------------------------------------------------------------------------------------


def two_months(was, now, steps="abc"):
    """A funnel with so many units at each step of two months, by segment."""
    rows = []
    for day, table in ((0, was), (31, now)):
        for name, n in table.items():
            depth = np.repeat(np.arange(1, len(n) + 1), np.array(n) - np.array([*n[1:], 0]))
            for i, d in enumerate(depth):
                rows += [(f"{name}-{day}-{i}", steps[k], day, name) for k in range(d)]
    table = events([r[:3] for r in rows]).assign(device=[r[3] for r in rows])
    options = {"window_days": 1, "as_of": "2026-12-31"}
    return funnel.read_steps(table, unit="who", steps=list(steps), by="device", **options)


def test_a_break_is_where_it_was_made_and_what_it_returns_is_exact():
    was = {"mobile": (1000, 500, 250), "desktop": (800, 400, 100)}
    now = {"mobile": (1000, 200, 100), "desktop": (800, 400, 100)}

    found = funnel.find_breaks(two_months(was, now), before="2026-03", after="2026-04")

    assert found.found[["group", "previous", "step"]].to_numpy().tolist() == [["mobile", "a", "b"]]
    assert found.frame["returns"].round(9).tolist() == [150, 0, 0, 0]  # 1000 (.5 - .2) · .5
    assert found.n == 4 and found.frame["broken"].sum() == 1
    assert "a → b (mobile) from 50.0% to 20.0%" in found.sentence()
    same = funnel.find_breaks(two_months(was, was), before="2026-03", after="2026-04")
    assert not same.frame["broken"].any() and "None of the 4 steps broke" in same.sentence()


def test_interval_and_decision_of_a_step_agree_among_all_steps():
    was = {"mobile": (1000, 500, 250), "desktop": (800, 400, 100)}
    now = {"mobile": (1000, 455, 228), "desktop": (800, 400, 100)}  # p = .044 alone, .18 among four

    row = funnel.find_breaks(two_months(was, now), before="2026-03", after="2026-04").frame.iloc[0]

    assert (row["group"], row["step"]) == ("mobile", "b")
    assert row["p"] == pytest.approx(4 * 0.0440, abs=0.001) and row["low"] < 0 < row["high"]


def test_a_step_that_nobody_takes_any_more_returns_by_the_later_rates_of_before():
    found = funnel.find_breaks(
        two_months({"x": (1000, 500, 250)}, {"x": (1000, 0, 0)}), before="2026-03", after="2026-04"
    )

    row = found.found.iloc[0]
    assert (row["step"], row["returns"]) == ("b", 250)
    assert found.frame.set_index("step").loc["c", ["now", "p", "returns"]].isna().all()
    assert "–" in found.html()


def test_months_without_a_closed_window_are_told():
    found = two_months({"x": (10, 5, 2)}, {"x": (10, 5, 2)})

    with pytest.raises(KpiError, match=r"entered in 2026-05 has its window behind it. Did you mean 2026-0"):
        funnel.find_breaks(found, before="2026-03", after="2026-05")


# segments, units that enter in the month before and after, rates of the steps
QUIET = {"equal": (3, 2000, 2000, (0.5, 0.3, 0.6)), "new channels": (20, 20, 1000, (0.02,)),
         "few before": (20, 30, 600, (0.5, 0.1, 0.3)), "few after": (10, 1000, 20, (0.98, 0.9))}  # fmt: skip


@pytest.mark.parametrize("case", QUIET)
def test_without_a_break_false_alarms_are_rare(case):
    rng, alarms, (groups, before, after, rates) = np.random.default_rng(3), 0, QUIET[case]
    steps = "abcd"[: len(rates) + 1]
    base = two_months({"x": range(len(steps), 0, -1)}, {"x": range(len(steps), 0, -1)}, steps)
    for _run in range(300):
        rows = []
        for month, entered in (("2026-03-01", before), ("2026-04-01", after)):
            for group in range(groups):
                n = [entered]
                for rate in rates:
                    n.append(rng.binomial(n[-1], rate))
                stop = np.array(n) - np.array([*n[1:], 0])
                rows += [(pd.Timestamp(month), f"{group}", depth, 0, k) for depth, k in enumerate(stop, 1)]
        counts = pd.DataFrame(rows, columns=["month", "group", "depth", "open", "n"])
        drawn = funnel.Funnel(frame=base.frame, whole={**base.whole, "counts": counts})
        found = funnel.find_breaks(drawn, before="2026-03", after="2026-04")
        alarms += bool((found.frame["p"] < 0.05).any())
    assert alarms / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_steps_with_too_few_units_are_not_judged():
    found = funnel.find_breaks(two_months({"x": (20, 2)}, {"x": (1000, 20)}, "ab"), before="2026-03", after="2026-04")

    assert found.frame["p"].isna().all() and not found.frame["broken"].any() and "Too few" in found.html()


@pytest.mark.parametrize(("share", "n"), [(0.1, 1000), (0.5, 300), (0.95, 200)])
def test_the_interval_of_a_median_time_covers_it(share, n):
    rng, base = np.random.default_rng(4), two_months({"x": (2, 1)}, {"x": (2, 1)}, "ab")
    covered = []
    for _run in range(300):
        time = np.floor(rng.exponential(20, n) * 1000) / 1000
        frame = pd.DataFrame({"step": 1, "time": time, "events": (rng.random(n) < share).astype(int)})
        frame["waiting"] = 1 - frame["events"]
        frame.loc[frame["waiting"] == 1, "time"] = 400.0
        waits = frame.groupby(["step", "time"], as_index=False).sum()
        row = funnel.time_to_step(funnel.Funnel(frame=base.frame, whole={**base.whole, "waits": waits})).frame.iloc[0]
        covered.append(row["low"] <= 20 * np.log(2) <= row["high"])

    assert 0.91 < np.mean(covered) < 0.985


@pytest.mark.parametrize(("was", "now", "later", "n"), [(0.8, 0.2, 0.1, 1000), (0.15, 0.04, 0.05, 7500)])
def test_what_fixing_returns_is_covered_as_promised(was, now, later, n):
    rng, runs = np.random.default_rng(7), 4000
    x0, x1 = rng.binomial(n, was, runs), rng.binomial(n, now, runs)
    end = rng.binomial(x1, later)

    _value, low, high = funnel.worth_fixing((x0, np.full(runs, n)), (x1, np.full(runs, n)), (end, x1))

    truth = n * (was - now) * later
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.02)


def test_after_the_last_step_nothing_is_uncertain_but_the_step():
    value, low, high = funnel.worth_fixing((50, 100), (40, 100))

    assert float(value) == pytest.approx(10)
    # Newcombe (1998), Stat. Med. 17:873-890, method 10, of 50/100 less 40/100, times 100
    from statsmodels.stats.proportion import confint_proportions_2indep

    ends = confint_proportions_2indep(50, 100, 40, 100, method="newcomb")
    assert (float(low), float(high)) == pytest.approx(tuple(100 * e for e in ends), rel=1e-9)


# --- the simulated company --------------------------------------------------------------------------


@cache
def demo():
    return connect(simulate.write(simulate.HOME))


@cache
def sessions(by="device"):
    options = {"unit": "session_id", "steps": WEB, "window_days": 1}
    return funnel.read_steps(demo().table("web_events"), by=by, **options)


def test_the_planted_breaks_are_found_by_device_and_hidden_without():
    broken = funnel.find_breaks(sessions(), before="2026-09", after="2026-10")
    whole = funnel.find_breaks(sessions(""), before="2026-09", after="2026-10")

    planted = {(device, told[0]) for device, told in list(PLANTED["web"]["breaks"].items())[2:]}
    assert set(broken.found[["group", "step"]].itertuples(index=False, name=None)) == planted
    assert whole.found["step"].tolist() == ["checkout", "cart"]  # both steps of everybody, checkout first
    mobile = broken.frame.set_index(["group", "step"]).loc[("mobile", "checkout")]
    assert not mobile["broken"] and mobile["difference"] > 0


def test_without_months_the_last_that_is_over_is_compared():
    assert (lambda b: (b.before, b.after))(funnel.find_breaks(sessions())) == ("2026-09", "2026-10")
    none = reached([("u", "a", 0), ("v", "b", 1), ("v", "c", 2)])
    for alone in (funnel.find_breaks(sessions(), after="2026-08"), funnel.find_breaks(none)):
        assert len(alone.frame) == 0 and "No two months can be compared" in alone.sentence()
        assert "reached purchase" in funnel.Diagnosis(funnel=sessions(), breaks=alone).sentence() and alone.html("vi")
    with pytest.raises(KpiError, match="before=2026-10 must be earlier than after=2026-09"):
        funnel.find_breaks(sessions(), before="2026-10", after="2026-09")


def test_a_month_of_which_only_the_first_days_are_known_is_not_compared():
    entries = [(f"{i}", "a", i / 4) for i in range(4 * 66)]  # March, April and five days of May
    found = reached(entries + [(f"{i}", "b", i / 4 + 1) for i in range(4 * 60)], "ab", as_of="2026-05-15")

    breaks = funnel.find_breaks(found)

    assert (found.n_open, breaks.before, breaks.after) == (0, "2026-03", "2026-04")


def test_units_are_followed_no_longer_than_their_table_goes():
    rows = events([("u", "a", 0), ("u", "b", 3), ("v", "a", 19)])

    assert funnel.covered(rows, "2027-01-01") == FIRST.date() + timedelta(19)
    told = {"unit": "who", "steps": ["a", "b"], "window_days": 7}
    assert funnel.read_steps(rows, **told, as_of=funnel.covered(rows, "2027-01-01")).n_open == 1
    assert funnel.read_steps(rows, **told, as_of="2027-01-01").n_open == 0  # whoever says so, knows it


def test_times_that_are_numbers_or_carry_a_zone_are_refused():
    leads = pd.DataFrame({"lead_id": ["1"], "created_at": [20260101], "won_at": pd.Timestamp("2026-01-05")})
    with pytest.raises(KpiError, match="created_at is int64, not a date or local time"):
        funnel.stages(leads)
    zoned = leads.assign(created_at=pd.Timestamp("2026-01-01", tz="Asia/Ho_Chi_Minh"))
    with pytest.raises(KpiError, match=r"created_at is timestamp.*Ho_Chi_Minh.*not a date or local time"):
        funnel.stages(zoned)


def test_a_purchase_on_the_day_of_its_cart_comes_after_it(tmp_path):
    rows = pd.DataFrame({"visitor_id": list("uuvw"), "event": ["cart", "purchase", "cart", "cart"],
                         "happened_at": ["2026-03-01"] * 3 + ["2026-03-20"]})  # fmt: skip
    rows.to_csv(tmp_path / "web_events.csv", index=False)

    assert kpis.scorecard(connect(tmp_path), ["cart_abandon"])["value"][0] == 0.5


def test_the_leads_are_followed_as_planted():
    found = funnel.read_steps(funnel.stages(demo().table("leads")), unit="lead_id", steps=LEADS, window_days=180)

    for step, told in list(PLANTED["leads"]["stages"].items())[:4]:
        row = found.rows().loc[step]
        assert abs(row["rate"] - told["chance"]) < 4 * np.sqrt(0.25 / row["before"]), step
    times = funnel.time_to_step(found).frame.set_index("step")
    for step, told in PLANTED["leads"]["stages"].items():
        assert times.loc[step, "median"] == pytest.approx(told["days"], abs=0.3 * told["days"] + 1), step


# --- sales ------------------------------------------------------------------------------------------


def test_the_page_reconciles_to_the_tables_to_the_cent():
    page, daily = sales.page(demo()).frame, simulate.channel_daily()
    costs = pd.read_csv(HOME / "costs.csv")
    leads = pd.read_parquet(HOME / "leads.parquet")

    assert page["cost"].sum() == costs["amount"].sum()
    assert page.set_index("channel")["cost"][""] == costs.loc[costs["channel"].isna(), "amount"].sum()
    assert page["revenue"].sum() == int(demo().table("channel_daily").revenue.sum().to_pyarrow().as_py())
    assert page["orders"].sum() == kpis.scorecard(demo(), ["orders"])["numerator"][0]
    assert (page["leads"].sum(), page["won"].sum()) == (len(leads), leads["won_at"].notna().sum())
    by = costs.groupby("channel")["amount"].sum()
    assert page.set_index("channel").loc[by.index, "cost"].tolist() == by.tolist()
    assert set(page["channel"]) - {""} == set(daily["channel"])


def test_loaded_cost_cac_roi_and_roas_are_four_numbers_and_reconcile():
    told = sales.figures(demo()).frame.set_index("kpi")
    costs = pd.read_csv(HOME / "costs.csv")["amount"].sum()
    daily = pd.read_csv(HOME / "channel_daily.csv")
    paid = daily[daily["spend"].notna()]

    assert told.loc["cost_sales_ratio", "value"] == pytest.approx(costs / daily["revenue"].sum(), rel=1e-12)
    assert told.loc["cac", "value"] == pytest.approx(costs / daily["new_customers"].sum(), rel=1e-12)
    assert told.loc["roas", "value"] == pytest.approx(paid["revenue"].sum() / paid["spend"].sum(), rel=1e-12)
    expected = (paid["margin"].sum() - paid["spend"].sum()) / paid["spend"].sum()
    assert told.loc["roi", "value"] == pytest.approx(expected, rel=1e-12)
    assert told.loc["win_rate", "numerator"] == told.loc["win_rate_negotiation", "numerator"]
    assert told.loc["win_rate", "denominator"] > told.loc["win_rate_negotiation", "denominator"]


def test_profits_of_campaigns_add_up_and_have_the_interval_of_their_orders():
    found = sales.campaign_profits(demo())
    daily = pd.read_csv(HOME / "channel_daily.csv")
    orders = pd.read_parquet(HOME / "orders.parquet")

    rows = found.frame.set_index("campaign")
    sums = daily.groupby("campaign")[["margin", "spend"]].sum()
    assert rows["margin"].sort_index().tolist() == sums.loc[rows.index, "margin"].sort_index().tolist()
    assert rows["loaded"].sum() == pytest.approx(pd.read_csv(HOME / "costs.csv")["amount"].sum(), rel=1e-12)
    one = orders[orders["campaign"] == "10.10 2026"]["margin"].astype(float)
    half = 1.959963984540054 * np.sqrt((one**2).sum())
    assert rows.loc["10.10 2026", "high"] - rows.loc["10.10 2026", "profit"] == pytest.approx(half, rel=1e-9)
    assert one.sum() == rows.loc["10.10 2026", "margin"]  # the table of orders tells the same story
    assert rows.loc["8.3 2026", "verdict"] == "loss" and rows.loc["11.11 2026", "verdict"] == "profit"


def shop(tmp_path, n, seed=0, **tables):
    """A shop of 30 days with one campaign, orders by chance."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("2026-03-01", periods=30)
    n = rng.poisson(n, 30)
    margins = np.round(rng.gamma(2, 50, n.sum()), 2)
    at = np.repeat(days, n)
    daily = pd.DataFrame({"date": days, "channel": "Ads", "campaign": "Spring", "orders": n, "spend": 1000.0,
                          "margin": np.bincount(np.repeat(np.arange(30), n), margins, 30).round(2)})  # fmt: skip
    orders = pd.DataFrame({"order_id": range(n.sum()), "customer_id": "c", "ordered_at": at, "margin": margins,
                           "campaign": "Spring"})  # fmt: skip
    for name, table in {"channel_daily": daily, "orders": orders, **tables}.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return connect(tmp_path)


@pytest.mark.parametrize(("n", "verdict"), [(14, "profit"), (10, "open"), (7, "loss")])
def test_a_campaign_pays_loses_or_cannot_be_told(tmp_path, n, verdict):
    row = sales.campaign_profits(shop(tmp_path, n)).frame.iloc[0]

    assert (row["verdict"], row["cost"], row["loaded"]) == (verdict, 30_000, 30_000)


def channels(tmp_path, rows, **tables):
    """Daily rows of a channel: tuples of campaign, orders, spend and margin, a row a day and campaign, and tables."""
    for name, table in {"channel_daily": rows, **tables}.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return sales.campaign_profits(connect(tmp_path))


def ads(**columns):
    told = {"date": pd.date_range("2026-03-01", periods=20), "channel": "Ads", "campaign": "X", "spend": 100.0}
    return pd.DataFrame(told | columns)


def test_a_margin_that_is_not_known_is_no_loss(tmp_path):
    margin = np.where(np.arange(20) < 15, np.nan, 150.0 + np.arange(20))
    found = channels(tmp_path, ads(orders=3, margin=margin))
    row = found.frame.iloc[0]

    assert row["missing"] == 15 and row["verdict"] == "open" and np.isnan([row["profit"], row["low"]]).all()
    assert "margin unknown on 15 days" in found.html() and "nan" not in found.html()
    none = channels(tmp_path, ads(orders=0, margin=np.where(np.arange(20) < 15, np.nan, 150.0))).frame.iloc[0]
    assert (none["missing"], none["margin"]) == (0, 750)  # days without an order have no margin


def test_a_margin_that_never_differs_tells_nothing_of_chance(tmp_path):
    row = channels(tmp_path, ads(margin=101.0)).frame.iloc[0]

    assert (row["profit"], row["verdict"]) == (20, "open") and np.isnan(row["low"])


def test_a_campaign_without_any_order_lost_its_cost(tmp_path):
    orders = pd.DataFrame({"order_id": range(50), "customer_id": "c", "ordered_at": "2026-03-02", "margin": 10,
                           "campaign": "Y"})  # fmt: skip
    row = channels(tmp_path, ads(orders=0, margin=0.0), orders=orders).frame.iloc[0]

    assert (row["profit"], row["low"], row["verdict"]) == (-2000, -2000, "loss")
    assert row["high"] == pytest.approx(-2000 + 3.6889 * 10, abs=0.01)  # Poisson: none came, at most 3.69 expected


def test_costs_are_shared_by_all_spend_of_the_same_days(tmp_path):
    rest = ads(campaign=None, spend=900.0, margin=0.0, orders=0)
    rows = pd.concat([ads(orders=3, margin=150.0 + np.arange(20)), rest])
    days = pd.date_range("2026-02-09", periods=40)  # as many days before as in the channels' table
    costs = pd.DataFrame({"date": days, "channel": "Ads", "category": "ads", "amount": 1000.0})
    found = channels(tmp_path, rows, costs=costs)

    assert found.factor == pytest.approx(1) and found.frame["loaded"].tolist() == [2000]


def test_the_interval_of_a_campaign_covers_its_expected_profit():
    rng, hits, runs = np.random.default_rng(1), 0, 3000
    for _run in range(runs):  # a compound Poisson sum of margins with mean 100 and 200 orders expected
        m = rng.gamma(2, 50, rng.poisson(200))
        hits += abs(m.sum() - 200 * 100) <= 1.959964 * np.sqrt((m**2).sum())
    assert hits / runs == pytest.approx(0.95, abs=0.015)


def test_goals_share_the_target_by_the_days_of_last_year():
    told = sales.goals(demo(), as_of=date(2026, 11, 6))
    row, days = told.summary.iloc[0], told.frame[told.frame["kpi"] == "orders"]
    daily = pd.read_csv(HOME / "channel_daily.csv", parse_dates=["date"])

    whole = daily[daily["date"].between("2025-10-26", "2025-11-15")].groupby("date")["orders"].sum()
    part = whole[:"2025-11-06"].sum() / whole.sum()
    assert row["planned"] == pytest.approx(row["target"] * part, rel=1e-12)
    assert days["actual_so_far"].iloc[-1] == row["actual"] == days["actual"].sum()
    assert row["projected"] == pytest.approx(row["actual"] / part, rel=1e-12)  # targets.project by these shares
    assert (row["campaign"], row["done"], row["days"]) == ("11.11 2026", 12, 21)
    over = sales.goals(demo()).summary
    assert set(over["status"]) <= {"met", "missed"} and over["planned"].tolist() == pytest.approx(
        over["target"].tolist()
    )


def wanted(campaign="Spring", kpi="orders", target=600, first="2026-03-01"):
    return {"campaign": campaign, "kpi": kpi, "target": target, "starts_on": first, "ends_on": "2026-03-30"}


def test_a_campaign_that_no_row_names_is_not_missed(tmp_path):
    found = sales.goals(shop(tmp_path, 14, targets=pd.DataFrame([wanted("spring")])))

    assert found.summary["status"].tolist() == ["not enough data"] and found.summary["actual"].isna().all()
    assert "spring cannot be followed, because no row" in found.sentence() and "nan" not in found.html()


def test_only_kpis_of_which_more_or_less_is_better_have_goals(tmp_path):
    targets = pd.DataFrame([wanted(kpi="spend", target=1000), wanted(kpi="orders")])

    assert sales.goals(shop(tmp_path, 14, targets=targets)).summary["kpi"].tolist() == ["orders"]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_the_newest_campaign_does_not_depend_on_the_order_of_rows(tmp_path, order):
    rows = [wanted("P"), wanted("P", "revenue", first="2026-03-10"), wanted("Q", first="2026-03-05")]

    assert sales.goals(shop(tmp_path, 14, targets=pd.DataFrame(rows).iloc[order])).summary["campaign"][0] == "P"


def test_goals_without_a_year_before_are_even(tmp_path):
    target = {"campaign": ["Spring"], "kpi": ["orders"], "target": [600], "starts_on": ["2026-03-01"]}
    targets = pd.DataFrame({**target, "ends_on": ["2026-03-30"]})

    row = sales.goals(shop(tmp_path, 14, targets=targets), as_of=date(2026, 3, 15)).summary.iloc[0]

    assert row["planned"] == pytest.approx(300) and 0 < row["chance"] < 0.05


def test_what_a_source_lacks_is_said(tmp_path):
    data = shop(tmp_path, 5)
    (tmp_path / "orders.csv").unlink()
    leads = pd.DataFrame({"lead_id": ["x", "y"], "created_at": ["2026-03-01", "2026-03-02"], "channel": ["A", "B"]})
    leads.assign(won_at=["2026-03-05", None]).to_csv(tmp_path / "leads.csv", index=False)
    (tmp_path / "channel_daily.csv").unlink()
    data = connect(tmp_path)

    assert "cannot be computed" in sales.campaign_profits(data).sentence()
    assert "cannot be followed" in sales.goals(data).sentence()
    page = sales.page(data)
    assert list(page.frame) == ["channel", "leads", "won"] and page.frame[["leads", "won"]].sum().tolist() == [2, 1]
    assert page.sentence() == "Marketing and sales together: 2 leads, of which 1 were won."
    with pytest.raises(KpiError, match="feeds none of"):
        sales.figures(data, ["call_time"])


@pytest.mark.parametrize("language", ["en", "vi"])
def test_every_result_shows_itself(language):
    found = sessions()
    broken = funnel.find_breaks(found, before="2026-09", after="2026-10")
    head = funnel.Diagnosis(funnel=found, breaks=broken)
    results = [found, broken, head, funnel.Diagnosis(funnel=found), funnel.by_month(found)]
    results += [funnel.time_to_step(found), sales.figures(demo()), sales.page(demo()), sales.campaign_profits(demo())]
    for result in (*results, sales.goals(demo())):
        assert "nan" not in result.html(language).replace("finance", "") and result.to_json()["rows"]
        assert result.sentence(language) and "{" not in result.sentence(language)
