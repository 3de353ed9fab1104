"""Experiments without an effect: tests that keep their promise, and ways that do not."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from kpi_helpers import trials
from kpi_helpers.errors import KpiError
from kpi_helpers.experiments import false_alarms


@pytest.mark.parametrize("kind", ["rate", "mean", "ratio", "adjusted"])
def test_false_alarms_are_in_the_binomial_band_on_both_sides(kind):
    found = false_alarms(kind, n=(1000, 1000) if kind == "adjusted" else (2000, 2000))

    # exact binomial, 99%: scipy.stats.binom.ppf([.005, .995], 10_000, (.05, .025)) / 10_000
    assert (found.low, found.high) == ((0.0445, 0.0211, 0.0211), (0.0557, 0.0291, 0.0291))
    assert found.inside
    assert 0.0445 <= found.share[0] <= 0.0557
    assert all(0.0211 <= side <= 0.0291 for side in found.share[1:])
    assert found.share[0] == pytest.approx(sum(found.share[1:]), abs=1e-12)


@pytest.mark.parametrize(("runs", "low", "high"), [(500, 0.026, 0.076), (1000, 0.033, 0.069), (2000, 0.038, 0.063)])
def test_band_is_the_exact_binomial_one(runs, low, high):
    found = false_alarms("rate", runs=runs)

    assert (found.low[0], found.high[0]) == tuple(stats.binom.ppf([0.005, 0.995], runs, 0.05) / runs)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize("correlation", [0, 0.5, 0.9])
def test_weeks_taken_for_stores_raise_the_alarms_of_the_formula(correlation):
    found = false_alarms("wrong unit", n=(200, 200), correlation=correlation)

    # the error of a mean of four weeks is sqrt(1 + 3 rho) times that of four stores
    truth = 2 * stats.norm.cdf(-1.96 / math.sqrt(1 + 3 * correlation))
    assert found.share[0] == pytest.approx(truth, abs=4 * math.sqrt(truth * (1 - truth) / 10_000))
    assert found.inside == (correlation == 0)


def test_best_of_twenty_metrics_is_an_alarm_in_two_of_three_experiments():
    found = false_alarms("many metrics")

    # counts are whole numbers, so a single test has between 4.5% and 5.5%
    assert 1 - 0.955**20 < found.share[0] < 1 - 0.945**20
    assert not found.inside


# 11.0% and 10.8% in one tail by an independent simulation of 9,000 and 1,000 units, 7.9% of 45,000 and 5,000
@pytest.mark.parametrize(("n", "share", "lower"), [((9000, 1000), 0.110, 0.108), ((45_000, 5000), 0.079, 0.075)])
def test_skewed_spend_in_an_unequal_split_is_an_alarm_too_often_in_one_tail(n, share, lower):
    found = false_alarms("skewed", n=n)

    assert found.share[:2] == pytest.approx((share, lower), abs=0.012)
    assert not found.inside


def test_pooled_variance_brings_the_alarms_of_skewed_spend_back_to_their_level():
    assert false_alarms("skewed", n=(9000, 1000), pooled=True).share[0] == pytest.approx(0.05, abs=0.0057)


def test_skewed_spend_in_an_equal_split_is_on_the_safe_side():
    found = false_alarms("skewed", n=(1000, 1000))

    assert found.share[0] == pytest.approx(0.0339, abs=0.006)  # the same simulation, 1,000 an arm


@pytest.mark.parametrize("kind", ["mean", "adjusted", "ratio", "skewed", "wrong unit"])
def test_moments_of_arms_are_those_of_drawn_units(kind):
    """What is drawn has the mean and the variance that its law has."""
    n, means, covariance = trials._arm(kind, np.random.default_rng(3), 2000, 400, 0.9)
    buys, user = math.exp(1.125), trials.USERS[:, :2]
    truth = {
        "mean": ([1], [[1]]),
        "adjusted": ([2, 1], [[2, 1], [1, 1]]),
        "ratio": (trials.USERS[:, 2] @ user, np.cov(user.T, aweights=trials.USERS[:, 2], ddof=0)),
        "skewed": ([0.05 * buys], [[0.05 * math.exp(4.5) - (0.05 * buys) ** 2]]),
        "wrong unit": ([0], [[1]]),
    }[kind]

    assert (n == (8000 if kind == "wrong unit" else 2000)).all()
    assert means.mean(axis=0) == pytest.approx(np.array(truth[0]), abs=0.02)
    assert covariance.mean(axis=0) == pytest.approx(np.array(truth[1]), rel=0.2 if kind == "skewed" else 0.02, abs=0.02)


def test_same_seed_gives_the_same_result_and_runs_of_one_block_or_several_too(monkeypatch):
    assert false_alarms("mean", runs=300).to_json() == false_alarms("mean", runs=300).to_json()
    assert false_alarms("mean", runs=300, seed=2).share != false_alarms("mean", runs=300).share

    whole = false_alarms("mean", runs=300)
    monkeypatch.setattr(trials, "DRAWN", 3 * 2000)
    assert false_alarms("mean", runs=300) == whole


def test_result_says_itself_in_both_languages_and_as_rows():
    right, wrong = false_alarms("rate"), false_alarms("wrong unit", n=(50, 50), runs=2000)

    assert "keeps its promise" in right.sentence()
    assert "do not trust this p-value" in wrong.sentence()
    assert "phép kiểm định này đáng tin" in right.sentence("vi")
    assert "đừng tin giá trị p này" in wrong.sentence("vi")
    assert list(right.to_frame()["tail"]) == ["all", "lower", "higher"]
    assert json.loads(json.dumps(right.to_json())) == right.to_json()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "rates"}, "kind='rates' is not known.*rate"),
        ({"kind": "mean", "n": (1, 100)}, r"n=\(1, 100\).*two units"),
        ({"kind": "mean", "runs": 0}, "runs=0.*one run"),
        ({"kind": "wrong unit", "correlation": 1.5}, "correlation=1.5"),
        ({"kind": "wrong unit", "correlation": math.nan}, "correlation=nan"),
    ],
)
def test_impossible_trials_are_refused(options, said):
    with pytest.raises(KpiError, match=said):
        false_alarms(**options)
