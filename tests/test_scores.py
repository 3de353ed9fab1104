"""`kpi_helpers.scores`: snapshot, leakage, churn score, calibration, how good."""

from types import SimpleNamespace

import ibis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import mannwhitneyu

from kpi_helpers.errors import KpiError
from kpi_helpers.scores import check_leakage, evaluate, fit_churn, snapshot
from kpi_helpers.stats import wilson

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# How good ----------------------------------------


def test_small_example_matches_the_printed_values():
    # documentation of scikit-learn: roc_auc_score 0.75, average_precision_score 0.83..., brier_score_loss and log_loss
    made = evaluate([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])

    assert made.auc == 0.75
    assert made.average_precision == pytest.approx((1 + 2 / 3) / 2, rel=1e-12)
    assert evaluate([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]).brier == pytest.approx(0.0375, rel=1e-12)  # 0.037...
    assert evaluate([1, 0, 0, 1], [0.9, 0.1, 0.2, 0.65]).log_loss == pytest.approx(0.21616, abs=5e-6)


def test_delong_interval_matches_the_placements_by_hand():
    # positives .35, .8 beat 1 and 2 of the 2 negatives; negatives .1, .4 are beaten by 2 and 1 of the 2 positives
    variance = np.var([0.5, 1], ddof=1) / 2 + np.var([1, 0.5], ddof=1) / 2
    made = evaluate([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    half = 1.959963984540054 * variance**0.5 / (0.75 * 0.25)

    assert (made.auc_low, made.auc_high) == pytest.approx((expit(np.log(3) - half), expit(np.log(3) + half)), rel=1e-9)


def slow(y, p):
    """AUC by Mann-Whitney; average precision by its definition over every threshold."""
    auc = mannwhitneyu(p[y == 1], p[y == 0]).statistic / ((y == 1).sum() * (y == 0).sum())
    precision, before = 0.0, 0.0
    for cut in sorted(set(p), reverse=True):
        recall = y[p >= cut].sum() / y.sum()
        precision, before = precision + (recall - before) * y[p >= cut].mean(), recall
    return auc, precision


rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda k: k / 20)), min_size=2, max_size=60)


@given(rows)
def test_measures_match_slow_definitions_with_ties(given_rows):
    y, p = np.array(given_rows).T
    made = evaluate(y, p)

    assert made.brier == pytest.approx(np.mean((p - y) ** 2))
    if made.reason:
        assert y.min() == y.max() or p.min() == p.max()
        assert np.isnan(made.auc) and "cannot be computed" in made.sentence()
    else:
        assert (made.auc, made.average_precision) == pytest.approx(slow(y, p), rel=1e-9)
        assert np.mean(made.rate) == pytest.approx(y.mean()) and np.mean(made.predicted) == pytest.approx(p.mean())
        assert made.captured[-1] == pytest.approx(1)
        assert made.lift <= 1 / y.mean() + 1e-9


def test_tenths_match_cutting_by_hand_and_wilson():
    rng = np.random.default_rng(4)
    p = rng.permutation(np.linspace(0.01, 0.99, 500))
    y = (rng.random(500) < p).astype(int)
    made = evaluate(y, p)
    first = y[np.argsort(-p)[:50]]

    assert made.rate[0] == pytest.approx(first.mean())
    assert made.lift == pytest.approx(first.mean() / y.mean())
    assert (made.low[0], made.high[0]) == pytest.approx([float(v) for v in wilson(first.sum(), 50)])
    assert made.lift_low == pytest.approx(made.low[0] / y.mean())


def test_equal_probabilities_are_shared_whatever_the_order():
    y, p = np.array([1] * 5 + [0] * 15), np.array([0.5] * 10 + [0.1] * 10)

    assert evaluate(y, p).frame.equals(evaluate(y[::-1], p[::-1]).frame)
    assert evaluate(y, p).lift == pytest.approx(0.5 / 0.25)


def test_intervals_cover_as_they_say():
    rng = np.random.default_rng(9)
    world = expit(rng.normal(-1, 1.2, 400_000))
    happened = rng.random(400_000) < world
    truth, whole = evaluate(happened, world), {"auc": 0, "average_precision": 0}
    for _ in range(400):
        some = rng.integers(0, 400_000, 500)
        made = evaluate(happened[some], world[some])
        for k in whole:
            whole[k] += made.whole[f"{k}_low"] <= truth.whole[k] <= made.whole[f"{k}_high"]

    assert 0.915 < whole["auc"] / 400 < 0.98  # binomial 99.9 % band of 400 at 95 %
    assert 0.90 < whole["average_precision"] / 400 <= 1  # Boyd et al.: near the level, on the safe side


@pytest.mark.parametrize(("y", "p", "why"), [([1, 1], [0.2, 0.9], "one_class"), ([0, 1], [0.3, 0.3], "constant")])
def test_what_cannot_be_computed_says_why(y, p, why):
    made = evaluate(y, p)

    assert made.reason == why and "cannot be computed, because" in made.sentence()
    assert "Không thể tính" in made.sentence("vi") and made.html("vi").startswith("<p>")


# The score ----------------------------------------


def customers(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    t = pd.DataFrame(
        {"recency": rng.exponential(30, n), "orders": rng.poisson(3, n), "channel": rng.choice(["a", "b"], n)}
    )
    eta = -1 + 0.03 * t["recency"] - 0.4 * t["orders"] + 0.5 * (t["channel"] == "b") + shift
    return t.assign(churned=(rng.random(n) < expit(eta)).astype(int), truth=expit(eta))


FEATURES = ["recency", "orders", "channel"]


def test_planted_coefficients_are_recovered_and_probabilities_are_right():
    train, later = customers(20_000, 1), customers(20_000, 2)
    score = fit_churn(train, features=FEATURES)
    told = score.frame.set_index("term")

    planted = {
        "recency": 0.03 * train["recency"].std(ddof=0),
        "orders": -0.4 * train["orders"].std(ddof=0),
        "channel=b": 0.5,
    }
    for term, value in planted.items():
        assert np.log(told.loc[term, "low"]) - 0.03 < value < np.log(told.loc[term, "high"]) + 0.03, term
    assert np.abs(score.score(later) - later["truth"]).max() < 0.04
    quality = evaluate(later["churned"], score.score(later))
    assert quality.brier < quality.brier_base and quality.log_loss < quality.log_loss_base
    assert "<table" in score.html("vi") and "<table" in quality.html("vi") and "lần mức chung" in quality.sentence("vi")


def test_a_later_window_calibrates_a_shifted_world():
    train, later, test = customers(20_000, 1), customers(20_000, 2, shift=-1.0), customers(20_000, 3, shift=-1.0)
    score = fit_churn(train, features=FEATURES)
    moved = score.calibrated(later)

    assert (moved.intercept, moved.slope) == (pytest.approx(-1, abs=0.15), pytest.approx(1, abs=0.1))
    assert moved.score(test).mean() == pytest.approx(test["churned"].mean(), abs=0.01)
    assert evaluate(test["churned"], moved.score(test)).auc == pytest.approx(
        evaluate(test["churned"], score.score(test)).auc
    )
    again = moved.calibrated(later)  # nothing is left to move
    assert (again.intercept, again.slope) == (
        pytest.approx(moved.intercept, abs=1e-6),
        pytest.approx(moved.slope, abs=1e-6),
    )
    assert "calibrated on a later window" in moved.sentence() and "chưa hiệu chỉnh" in score.sentence("vi")


def test_calibrating_twice_is_calibrating_on_the_last_window():
    rng = np.random.default_rng(12)
    train, noisy, later = (customers(3000, seed) for seed in (1, 2, 3))
    noisy["churned"] = np.where(rng.random(3000) < 0.5, noisy["churned"], rng.random(3000) < 0.2)  # half is noise
    score = fit_churn(train, features=FEATURES)

    twice, once = score.calibrated(noisy).calibrated(later), score.calibrated(later)

    assert score.calibrated(noisy).slope < 0.7
    assert (twice.intercept, twice.slope) == pytest.approx((once.intercept, once.slope), rel=1e-6)


class Memory:
    """A model of one's own: the churn rate of each pattern, half-way to the base rate."""

    def key(self, x):
        return [f"{a:.4f} {b:.4f}" for a, b in x.to_numpy()]

    def fit(self, x, y):
        self.base = y.mean()
        self.rate = pd.Series(y).groupby(self.key(x)).mean()

    def predict_proba(self, x):
        p = (self.rate.reindex(self.key(x)).fillna(self.base).to_numpy() + self.base) / 2
        return np.column_stack([1 - p, p])


def test_any_model_with_fit_and_predict_proba_is_accepted():
    train, later = customers(4000, 1), customers(4000, 2)

    score = fit_churn(train, features=["orders", "channel"], model=Memory())

    assert len(score.frame) == 0
    assert evaluate(later["churned"], score.score(later)).auc > 0.6
    assert score.calibrated(later).slope > 1  # it was too timid


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.assign(orders=t["churned"] * 5 + 1.0), "orders tells who churned without error"),
        (lambda t: t.assign(channel=t["channel"].where(t["churned"].cumsum() > 3, t["churned"].astype(str))),
         "channel .* has a level where all or nobody did"),
        (lambda t: t.assign(recency=t["recency"].where(t.index > 4)), "recency in 5 of 300 rows"),
        (lambda t: t.assign(orders=2 * t["recency"]), "follows from the others"),
        (lambda t: t.assign(churned=1), "cannot be learned, because 300 of 300 rows churned"),
        (lambda t: t.assign(churned=t["churned"].where(t.index > 1)), "neither 0 nor 1 in 2 of 300 rows"),
        (lambda t: t.assign(channel=t.index.astype(str)), "more than 200 levels, an id"),
        (lambda t: t.drop(columns="orders"), "no column 'orders'"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(change, told):
    with pytest.raises(KpiError, match=told):
        fit_churn(change(customers(300, 6)), features=FEATURES)


def test_two_features_that_separate_together_are_refused():
    t = customers(300, 6).assign(orders=lambda t: t["recency"] + np.where(t["churned"] == 1, 1, -1))

    with pytest.raises(KpiError, match="together separate"):
        fit_churn(t, features=FEATURES)


def test_new_level_at_scoring_is_refused():
    score = fit_churn(customers(2000, 1), features=FEATURES)

    with pytest.raises(KpiError, match="not seen before: channel in 1 of 5"):
        score.score(customers(5, 2).assign(channel=["a", "b", "c", "a", "b"]))


# Snapshot and leakage ----------------------------------------
AT = pd.Timestamp("2026-03-31")
ORDERS = pd.DataFrame(
    [
        ("early", "2025-01-10", 9), ("early", "2026-01-30", 10), ("early", "2026-03-31 23:59", 20),
        ("early", "2026-04-20", 99), ("gone", "2026-02-01", 30), ("gone", "2026-07-01", 99), ("old", "2024-12-31", 5),
        ("new", "2026-04-02", 7), ("back", "2026-03-01", 4), ("back", "2026-04-05", 99), ("back", "2026-08-01", 1),
    ], columns=["customer_id", "ordered_at", "revenue"],
).assign(ordered_at=lambda t: pd.to_datetime(t["ordered_at"], format="mixed"), channel=list("abcdefghijk"))  # fmt: skip
ORDERS["order_id"], ORDERS["status"] = ORDERS.index.astype(str), "completed"
ORDERS.loc[len(ORDERS)] = ["gone", pd.Timestamp("2026-04-10"), 1.0, "z", "x", "cancelled"]


def test_snapshot_knows_nothing_after_its_day(engine):
    table = engine.source(ORDERS, "orders").table("orders")

    made = snapshot(table, "2026-03-31", outcome_days=30).order_by("customer_id").to_pyarrow().to_pandas()

    assert made["customer_id"].tolist() == ["back", "early", "gone"]  # old is before, new after
    assert made["churned"].tolist() == [0, 0, 1]  # the cancelled order is none
    assert made["n_orders"].tolist() == [1, 2, 1]
    assert made["recency_days"].tolist() == [30, 0, 58]
    assert made["tenure_days"].tolist() == [30, 445, 58]
    assert made["revenue"].tolist() == [4.0, 30.0, 30.0]
    assert made["days_per_order"].tolist() == [31, 182.5, 59]
    assert made["first_channel"].tolist() == ["i", "a", "e"]
    for days, churned in ((4, 1), (5, 0)):  # the order of 5 April is of the fifth day
        one = snapshot(table, "2026-03-31", outcome_days=days).filter(ibis._.customer_id == "back")
        assert one.to_pyarrow()["churned"].to_pylist() == [churned]
    gap = snapshot(table, "2026-03-31", gap_days=5, outcome_days=30).order_by("customer_id").to_pyarrow().to_pandas()
    assert gap["churned"].tolist() == [1, 0, 1]  # the order of 5 April lies within the gap
    assert gap.drop(columns="churned").equals(made.drop(columns="churned"))


def test_features_stay_when_the_future_changes():
    rng = np.random.default_rng(3)
    days = pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 600, 3000), "D")
    orders = pd.DataFrame({"customer_id": rng.integers(0, 300, 3000).astype(str), "ordered_at": days, "revenue": 1.0})
    until = orders[orders["ordered_at"] <= AT]
    last = pd.DataFrame({"customer_id": ["x"], "ordered_at": [pd.Timestamp("2026-08-01")], "revenue": [1.0]})

    full, cut = (
        snapshot(t, AT.date()).order_by("customer_id").to_pyarrow().to_pandas()
        for t in (orders, pd.concat([until, last]))
    )

    assert cut["churned"].eq(1).all() and 0 < full["churned"].mean() < 1
    assert full.drop(columns="churned").equals(cut.drop(columns="churned"))


def test_snapshot_whose_outcome_is_not_known_is_refused():
    with pytest.raises(KpiError, match="up to 2026-08-28, but the last is of 2026-08-01"):
        snapshot(ORDERS, "2026-03-31", outcome_days=150)
    with pytest.raises(KpiError, match="but there are none"):
        snapshot(ORDERS.iloc[:0], "2026-03-31")
    with pytest.raises(KpiError, match="gap_days=-1: windows need a day or more"):
        snapshot(ORDERS, "2026-03-31", gap_days=-1)


def test_planted_leaks_are_found_and_nothing_else():
    t = customers(3000, 8).assign(known_on=pd.Timestamp("2026-03-30"))
    t["orders_later"] = np.where(t["churned"] == 1, 0, 1 + t["orders"])  # counted in the outcome window
    t["closed_on"] = pd.Timestamp("2026-04-02") + pd.to_timedelta(t.index % 9, "D")
    t["closed_on"] = t["closed_on"].where(t["churned"] == 1)
    t["reason"] = np.where(t["churned"] == 1, "price", None)
    dates = {"recency": "known_on", "closed_on": "closed_on"}

    bad = check_leakage(t, "churned", [*FEATURES, "orders_later", "closed_on", "reason"], feature_dates=dates,
                        snapshot="2026-03-31", outcome=("2026-03-31", "2026-06-30"))  # fmt: skip
    good = check_leakage(t, "churned", FEATURES, feature_dates={"recency": "known_on"}, snapshot="2026-03-31",
                         outcome=("2026-04-01", "2026-06-30"))  # fmt: skip

    found = set(zip(bad.check, bad.feature, bad.alarm, strict=True))
    expected = {
        ("date", "closed_on"),
        ("windows", "churned"),
        *(("alone", c) for c in ("orders_later", "closed_on", "reason")),
    }
    assert {(check, feature) for check, feature, alarm in found if alarm} == expected
    assert not any(good.alarm) and good.check[-1] == "permuted" and 0.4 < good.value[-1] < 0.6
    assert "orders_later" in bad.sentence() and "No sign" in good.sentence() and "Rò rỉ" in bad.html("vi")


@pytest.mark.parametrize(("day", "late"), [("2026-03-31 23:59", False), ("2026-04-01", True)])
def test_feature_may_be_known_up_to_the_end_of_the_snapshot_day(day, late):
    t = customers(300, 8).assign(known_on=pd.Timestamp(day))

    for known in ("known_on", day):
        dates = {"recency": known}
        assert check_leakage(t, "churned", FEATURES, feature_dates=dates, snapshot="2026-03-31").alarm[0] is late


def test_cells_that_are_empty_by_chance_are_no_leak():
    t = customers(3000, 8)
    t["recency"] = t["recency"].where(np.random.default_rng(1).random(3000) < 0.1)

    made = check_leakage(t, "churned", ["recency", "orders"])

    assert not any(made.alarm) and made.value[0] < 0.6
    assert np.isnan(made.value[-1])  # and the score cannot be fitted before they are filled in


def test_a_model_that_saw_the_labels_fails_on_permuted_ones():
    t = customers(400, 8).assign(orders=lambda t: t.index)
    seen = SimpleNamespace(fit=lambda x, y: None, predict_proba=lambda x: np.column_stack([1 - peek(x), peek(x)]))
    y = np.random.default_rng(0).permutation(t["churned"].to_numpy())  # as check_leakage permutes them

    def peek(x):
        return y[order[len(x) :]] * 0.8 + 0.1

    rng = np.random.default_rng(0)
    rng.permutation(400)
    order = rng.permutation(400)

    assert check_leakage(t, "churned", ["orders"], model=seen).alarm[-1]


def test_permuted_labels_alarm_as_seldom_as_they_should():
    values = [check_leakage(customers(200, seed), "churned", FEATURES).alarm[-1] for seed in range(40)]

    assert sum(values) <= 1
