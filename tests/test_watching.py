"""An experiment as it shows itself: day by day, and as the head of a report."""

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats as scipy_stats

from kpi_helpers import experiments, lessons
from kpi_helpers.errors import KpiError

COLUMNS = {"unit": "id", "variant": "arm", "control": "a"}


def units(n=6000, lift=0.03, days=6):
    rng = np.random.default_rng(4)
    arm = rng.choice(["a", "b"], n)
    bought = rng.random(n) < 0.1 + lift * (arm == "b")
    spent = rng.exponential(10, n) * bought
    at = pd.Timestamp("2026-03-02 10:00") + pd.to_timedelta(rng.integers(0, days, n), "D")
    return pd.DataFrame({"id": np.arange(n), "arm": arm, "bought": bought.astype(int), "spent": spent, "at": at})


def test_each_day_counts_all_units_so_far():
    rows = units()
    seen = experiments.watch(rows, metric=experiments.rate("bought"), day="at", **COLUMNS)

    for day, n, low, high in zip(seen.looked_at, seen.n, seen.low, seen.high, strict=True):
        past = rows[rows["at"].dt.date <= day]
        arms = [(int(g["bought"].sum()), len(g)) for _arm, g in past.groupby("arm")]
        c = experiments.compare_rates(*arms)
        assert n == len(past) and (low, high) == pytest.approx((c.difference_low, c.difference_high), rel=1e-9)


def test_means_are_watched_as_welch_compares_them():
    rows = units()
    seen = experiments.watch(rows, metric=experiments.mean("spent"), day="at", **COLUMNS)
    a, b = (g["spent"] for _arm, g in rows.groupby("arm"))
    interval = scipy_stats.ttest_ind(b, a, equal_var=False).confidence_interval()

    assert (seen.low[-1], seen.high[-1]) == pytest.approx(tuple(interval), rel=1e-6)


def test_boundaries_and_always_valid_intervals_are_those_of_looks():
    rows = units()
    seen = experiments.watch(rows, metric=experiments.rate("bought"), day="at", **COLUMNS)
    last = {arm: (g["bought"].sum(), len(g)) for arm, g in rows.groupby("arm")}
    days = [rows[rows["at"].dt.date <= day].groupby("arm")["bought"].agg(["sum", "count"]) for day in seen.looked_at]
    control, treatment = (([d.loc[a, "sum"] for d in days], [d.loc[a, "count"] for d in days]) for a in "ab")
    valid = experiments.always_valid(control, treatment)
    z = experiments.sequential_boundaries(np.floor(1000 * np.array(seen.n) / seen.n[-1]) / 1000)

    assert seen.valid_low == pytest.approx(valid.low, rel=1e-9)
    assert (seen.planned_high[-1] - seen.difference[-1]) / seen.error[-1] == pytest.approx(z[-1], rel=1e-9)
    assert all(low <= plain for low, plain in zip(seen.planned_low, seen.low, strict=True)) and last["a"][1] > 0
    assert seen.cost == experiments.peeking(len(seen.n))


def test_a_page_names_the_first_day_of_each_rule():
    seen = experiments.watch(units(lift=0.05), metric=experiments.rate("bought"), day="at", **COLUMNS)
    firsts = seen.firsts

    assert firsts["plain"] <= firsts["planned"] and firsts["plain"] <= firsts["valid"]
    assert "stopped on" in seen.sentence() and "dừng vào" in seen.sentence("vi")
    assert seen.html("vi").count("<tr") == 4 and "O'Brien-Fleming" in seen.html()
    calm = experiments.watch(units(lift=0), metric=experiments.rate("bought"), day="at", **COLUMNS)
    assert calm.firsts["valid"] is None and "On no day" in calm.sentence()


def test_an_unknown_treatment_is_refused():
    with pytest.raises(KpiError, match="treatment='c'"):
        experiments.watch(units(600), metric=experiments.rate("bought"), day="at", treatment="c", **COLUMNS)


def test_the_head_of_a_report_says_what_to_do_and_what_it_brings():
    found = experiments.analyse(units(lift=0.05), metrics=[experiments.rate("bought")], **COLUMNS)
    head = experiments.Decision(analysis=found, title="Checkout", days=6)
    row = found.frame.iloc[0]

    assert head.sentence() == "Ship b." and head.sentence("vi") == "Nên áp dụng b."
    assert f"{7000 * row['difference']:.0f} a week" in head.weekly()  # 6,000 units in six days are 7,000 a week
    assert "Checkout" in head.html() and "Ship b." in head.html()
    page = found.html("vi")
    assert "Tỷ lệ chia nhóm" in page and "Tốt hơn" in page and "<svg" in page


def test_a_broken_split_shows_no_result():
    rows = units()
    found = experiments.analyse(
        rows[(rows["arm"] == "a") | (rows["id"] % 3 > 0)], metrics=[experiments.rate("bought")], **COLUMNS
    )

    assert set(found.decision) == {"invalid"} and found.verdicts == {"b": "invalid"}
    assert "do not use" in found.sentence() and '<svg class="wide"' not in found.html()
    assert experiments.Decision(analysis=found).sentence() == "Do not use this test: its split is broken."


@pytest.mark.parametrize(("exercise", "mistake"), [("last_week_lift", "whole"), ("five_percent", "both")])
def test_exercises_name_the_likely_mistake(exercise, mistake):
    answers = lessons.EXERCISES[exercise]

    assert lessons.check(exercise, answers["right"]).heard == "right"
    assert lessons.check(exercise, answers[mistake]).heard == mistake


@pytest.mark.parametrize("planned", [1000, 4000, 10**6])
def test_a_plan_may_be_missed_by_far(planned):
    seen = experiments.watch(units(), metric=experiments.rate("bought"), day="at", planned_n=planned, **COLUMNS)

    assert seen.n[-1] == 6000 and np.isfinite(seen.valid_low[-1])


def test_a_day_that_is_no_day_is_refused_and_an_empty_one_left_out():
    rows = units(900)
    with pytest.raises(KpiError, match="give days or times"):
        experiments.watch(rows.assign(at="monday"), metric=experiments.rate("bought"), day="at", **COLUMNS)
    holes = rows.assign(at=rows["at"].where(rows["id"] > 9))
    assert experiments.watch(holes, metric=experiments.rate("bought"), day="at", **COLUMNS).n[-1] == 890


def test_one_experiment_of_several_is_named():
    rows = ibis.memtable(pa.table({"experiment": ["new page", "old page", "old page"], "n": [1, 2, 3]}))

    assert experiments.of_experiment(rows, "old page").count().to_pyarrow().as_py() == 2
    with pytest.raises(KpiError, match="Did you mean new page"):
        experiments.of_experiment(rows, "new pge")
    with pytest.raises(KpiError, match="holds 2 experiments"):
        experiments.of_experiment(rows, "")
    assert experiments.of_experiment(rows.drop("experiment"), "any").count().to_pyarrow().as_py() == 3


def test_of_several_winners_the_head_names_the_best():
    rows = units(9000, lift=0.05)
    rng = np.random.default_rng(1)
    third = rows.assign(arm="c", id=rows["id"] + 10_000, bought=(rng.random(len(rows)) < 0.3).astype(int))
    found = experiments.analyse(
        pd.concat([rows, third]), metrics=[experiments.rate("bought")], planned={"a": 1, "b": 1, "c": 2}, **COLUMNS
    )

    assert found.verdicts == {"b": "ship", "c": "ship"}
    assert experiments.Decision(analysis=found).sentence() == "Ship c: 2 variants beat the control, it by most."
