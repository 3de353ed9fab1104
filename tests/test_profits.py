"""`kpi_helpers.profits`: whom a retention campaign should contact."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import isotonic_regression
from scipy.stats import beta

from kpi_helpers.errors import KpiError
from kpi_helpers.profits import campaign_profit

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
COSTS = {"contact_cost": 1, "offer_cost": 10}


def calibrated(label, score):
    """Shares of leavers where a score is at most as good as isotonic: the slopes of the ROC's convex hull."""
    _v, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    return isotonic_regression(np.bincount(place, np.asarray(label, float)) / ties, weights=ties).x[place]


def test_expected_maximum_profit_matches_empulse():
    # documentation of empulse.metrics.empc_score, defaults alpha=6, beta=14, clv=200, d=10, f=1 as in R's EMP
    p = calibrated([0, 1, 0, 1, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9])

    assert campaign_profit(p, 200, acceptance=(6, 14), **COSTS).emp == pytest.approx(23.875593418348124, rel=1e-12)


def test_expected_maximum_profit_matches_integration_over_cut_offs():
    # Verbraken et al. (2013), equations 7 and 14: the best cut-off of the scores at each acceptance, integrated
    rng = np.random.default_rng(7)
    score = rng.beta(1, 4, 200).round(2)
    label = rng.random(200) < score**1.3
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    left = np.append(0, np.cumsum(label[order])[last])
    stayed = np.append(0, np.cumsum(~label[order])[last])

    def best(g):
        return max((left * (g * 190 - 1) - stayed * 11).max(), 0) / 200 * beta.pdf(g, 6, 14)

    expected = sum(quad(best, a / 200, (a + 1) / 200)[0] for a in range(200))
    made = campaign_profit(calibrated(label, score), 200, acceptance=(6, 14), **COSTS)

    assert made.emp == pytest.approx(expected, rel=1e-6)
    assert made.emp >= made.total / 200  # knowing the acceptance cannot hurt


def outcomes(p, clv, gamma):
    """What a contacted customer brings, and how likely, by the three cases of the paper."""
    return [(p * gamma, clv - 10 - 1), (p * (1 - gamma), -1), (1 - p, -10 - 1)]


customer = st.tuples(st.floats(0, 1), st.floats(-50, 2000))


@given(st.lists(customer, min_size=1, max_size=7), st.floats(0.05, 0.95))
def test_best_set_is_the_best_of_all_subsets(customers, gamma):
    p, clv = np.array(customers).T
    profit = [sum(w * v for w, v in outcomes(*c, gamma)) for c in customers]

    made = campaign_profit(p, clv, acceptance=gamma, **COSTS)

    totals = [float(np.dot(chosen, profit)) for chosen in product((0, 1), repeat=len(p))]
    assert made.customers["profit"].tolist() == pytest.approx(profit, abs=1e-9)
    assert made.total == pytest.approx(max(totals), abs=1e-6)
    assert max(made.profit) <= made.total + 1e-6 and made.profit[0] == 0
    assert made.profit[-1] == pytest.approx(sum(profit), abs=1e-6)


@given(customer, st.floats(0.05, 0.95))
def test_at_the_break_even_probability_contact_brings_nothing(one, gamma):
    even = campaign_profit(*one, acceptance=gamma, **COSTS).customers["break_even"][0]

    if np.isfinite(even):
        assert campaign_profit(even, one[1], acceptance=gamma, **COSTS).everybody == pytest.approx(0, abs=1e-8)
    else:
        assert campaign_profit(1, one[1], acceptance=gamma, **COSTS).everybody < 1e-9


@pytest.mark.parametrize("acceptance", [0.3, (6, 14)])
def test_interval_is_the_scatter_of_simulated_campaigns(acceptance):
    rng = np.random.default_rng(3)
    p, clv = rng.beta(2, 5, 400), rng.gamma(2, 150, 400)
    made = campaign_profit(p, clv, acceptance=acceptance, **COSTS)
    chosen = made.customers["contact"].to_numpy()
    totals = []
    for _ in range(4000):
        gamma = rng.beta(6, 14) if isinstance(acceptance, tuple) else acceptance
        leaves, accepts = rng.random(400) < p, rng.random(400) < gamma
        brings = np.where(leaves, np.where(accepts, clv - 11, -1), -11)
        totals.append(brings[chosen].sum())

    assert np.mean(totals) == pytest.approx(made.total, rel=0.03)
    assert 1.96 * np.std(totals) == pytest.approx(made.total_high - made.total, rel=0.05)


def test_nobody_worth_it_is_said():
    made = campaign_profit([0.01, 0.02], 100, acceptance=0.3, currency="USD", **COSTS)

    assert (made.best_share, made.total, made.n_contacted) == (0, 0, 0)
    assert made.sentence().startswith("No customer is worth contacting")


def test_says_in_both_languages_that_a_score_is_not_persuadability():
    made = campaign_profit(np.linspace(0, 1, 50), 200, acceptance=(6, 14), currency="VND", **COSTS)

    for language, word in (("en", "not whom an offer keeps"), ("vi", "không cho biết ưu đãi giữ được ai")):
        assert word in made.sentence(language) and "03_ab_testing" in made.sentence(language)
        assert "<figure" in made.html(language) and made.html(language).count("<tr") == 7
    assert "customers" not in made.to_json()["rows"][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"probability": [0.2, np.nan]}, r"1 of 2 are not in \[0, 1\]"),
        ({"probability": [20, 30]}, "2 of 2 are not in"),
        ({"probability": []}, "Give one a customer"),
        ({"clv": [1, 2, 3]}, "one for each of 2 customers"),
        ({"clv": np.inf}, "one finite number"),
        ({"offer_cost": -1}, "must be 0 or more"),
        ({"acceptance": 30}, "Write 0.3 for 30%"),
        ({"acceptance": (0, 14)}, "nor a pair above 0"),
        ({"confidence": 95}, "0.95"),
    ],
)
def test_impossible_input_is_refused(change, told):
    given_ = {"probability": [0.2, 0.4], "clv": 200, "acceptance": 0.3, **COSTS, **change}

    with pytest.raises(KpiError, match=told):
        campaign_profit(given_.pop("probability"), given_.pop("clv"), **given_)
