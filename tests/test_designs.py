"""`kpi_helpers.designs`: units, power, smallest effect and days before an experiment."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import power_proportions_2indep, samplesize_proportions_2indep_onetail

from kpi_helpers.designs import plan_means, plan_rates
from kpi_helpers.errors import KpiError

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

SPEND = SimpleNamespace(value=50.0, variance=100.0)


def test_ten_to_eleven_percent_needs_what_r_says():
    plan = plan_rates(0.10, 0.01)  # R power.prop.test = statsmodels: 14750.79046904 (experiments.md G8)

    assert (plan.n_control, plan.n_treatment, plan.n_total) == (14_751, 14_751, 29_502)
    assert plan_rates(0.05, 0.005, power=0.9).n_control == 41_813  # R 41812.21294888


def test_nine_to_one_needs_what_statsmodels_says():
    plan = plan_rates(0.10, 0.01, allocation=1 / 9)  # 8081.9568 and 72737.61 (experiments.md G8)

    assert (plan.n_treatment, plan.n_control) == (8_082, 72_738)


@pytest.mark.parametrize("allocation", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("rate", "effect"), [(0.1, 0.01), (0.02, 0.004), (0.5, -0.05), (0.9, 0.03)])
@pytest.mark.parametrize("power", [0.7, 0.95])
def test_units_match_statsmodels(rate, effect, allocation, power):
    plan = plan_rates(rate, effect, allocation=allocation, power=power)

    # its prop1 is diff + prop2, and its ratio is n2 / n1
    treatment = samplesize_proportions_2indep_onetail(effect, rate, power, ratio=1 / allocation)
    assert -0.2 < plan.n_treatment - treatment < 1.01  # it leaves the other tail out, which saves less than a unit
    assert -0.5 / allocation < plan.n_control - treatment / allocation < 1.01


def test_power_of_ten_thousand_is_r_with_both_tails():
    # R power.prop.test(strict = TRUE) = statsmodels (experiments.md G8)
    assert plan_rates(0.10, 0.01, n_control=10_000).power == pytest.approx(0.635607896278600, rel=1e-12)


@pytest.mark.parametrize("effect", [-0.02, 0.005, 0.01])
def test_power_matches_statsmodels(effect):
    for alternative in ("two-sided", "larger", "smaller"):
        ours = plan_rates(0.1, effect, n_control=6_000, allocation=0.5, alternative=alternative)
        theirs = power_proportions_2indep(effect, 0.1, 3_000, ratio=2, alternative=alternative)
        assert ours.power == pytest.approx(theirs.power, rel=1e-9, abs=1e-12)


def test_the_smallest_effect_has_the_power():
    found = plan_rates(0.10, n_control=20_000)

    # R power.prop.test gives .008557213, by a search that stops within 1e-4 of the rate; statsmodels is the judge
    assert found.effect == pytest.approx(0.008557213, abs=1e-5)
    assert power_proportions_2indep(found.effect, 0.1, 20_000).power == pytest.approx(0.8, abs=1e-9)
    down = plan_rates(0.10, n_control=20_000, alternative="smaller").effect
    assert power_proportions_2indep(down, 0.1, 20_000, alternative="smaller").power == pytest.approx(0.8, abs=1e-9)


def test_means_match_the_noncentral_t():
    # statsmodels (experiments.md G8): 1570.7331 and .608366706
    assert plan_means(SPEND, 1).n_control == 1_571
    assert plan_means(SPEND, 1, n_control=1_000).power == pytest.approx(0.608366706, abs=5e-10)


@pytest.mark.parametrize("allocation", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("effect", [-20.0, -0.3, 1.0, 5.0, 13.0])
def test_units_and_effects_of_means_match_statsmodels(effect, allocation):
    judge = TTestIndPower()
    n = judge.solve_power(abs(effect) / 10, power=0.8, alpha=0.05, ratio=allocation)
    plan = plan_means(SPEND, effect, allocation=allocation)

    assert plan.n_control == max(math.ceil(n - 1e-6), 2 * max(1, 1 / allocation))
    found = plan_means(SPEND, n_control=plan.n_control, allocation=allocation).effect
    assert judge.power(found / 10, plan.n_control, 0.05, ratio=allocation) == pytest.approx(0.8, abs=1e-8)


def test_non_inferiority_matches_chow_shao_and_wang():
    # Chow, Shao & Wang (2008), p. 90: 25 a group; R code at powerandsamplesize.com
    plan = plan_rates(0.65, 0.20, margin=0.10, alternative="larger")

    assert (plan.n_control, plan.n_treatment) == (25, 25)
    n = 2 * 0.1 * 0.9 * ((norm.isf(0.05) + norm.isf(0.2)) / 0.005) ** 2
    assert plan_rates(0.1, 0, margin=0.005, alternative="larger").n_control == math.ceil(n)
    assert plan_rates(0.1, 0, margin=0.005, alternative="smaller").n_control == math.ceil(n)  # lower is better


@pytest.mark.parametrize("margin", [None, 0.03])
def test_a_simulation_has_the_planned_power(margin):
    plan = plan_rates(0.2, 0.02 if margin is None else 0, margin=margin, alternative="larger", allocation=0.5)
    rng = np.random.default_rng(3)
    n0, n1 = plan.n_control, plan.n_treatment
    p0, p1 = rng.binomial(n0, 0.2, 20_000) / n0, rng.binomial(n1, 0.2 + plan.effect, 20_000) / n1
    pooled = (n0 * p0 + n1 * p1) / (n0 + n1)
    variance = pooled * (1 - pooled) * (1 / n0 + 1 / n1) if margin is None else p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1

    found = ((p1 - p0 + (margin or 0)) / variance**0.5 > norm.isf(0.05)).mean()

    assert found == pytest.approx(0.8, abs=0.012)


def test_a_simulation_of_welch_has_the_planned_power():
    from scipy.stats import ttest_ind

    plan = plan_means(SimpleNamespace(value=10, variance=9), 1.5, allocation=2)
    rng = np.random.default_rng(4)
    a, b = rng.normal(10, 3, (20_000, plan.n_control)), rng.normal(11.5, 3, (20_000, plan.n_treatment))

    assert (ttest_ind(b, a, axis=1, equal_var=False).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.015)


def test_metrics_share_the_false_alarms():
    assert plan_rates(0.1, 0.01, metrics=5).n_control == plan_rates(0.1, 0.01, confidence=0.99).n_control
    assert "5 metrics share 5% of false alarms (Bonferroni)" in plan_rates(0.1, 0.01, metrics=5).sentence()


@given(st.floats(0.02, 0.98), st.floats(0.001, 0.3), st.floats(0.1, 10), st.floats(0.3, 0.99))
def test_the_units_reach_the_power_and_fewer_do_not(rate, effect, allocation, power):
    effect = effect if rate + effect <= 1 else -effect
    if not 0 <= rate + effect <= 1:
        return
    for solve in (lambda *a, **k: plan_rates(rate, *a, **k), lambda *a, **k: plan_means(SPEND, *a, **k)):
        plan = solve(effect, allocation=allocation, power=power)
        fewest = 2 * max(1, 1 / allocation)
        assert solve(effect, n_control=plan.n_control, allocation=allocation).power >= power - 1e-9
        if plan.n_control - 1 >= fewest:
            assert solve(effect, n_control=plan.n_control - 1, allocation=allocation).power < power


@given(st.floats(0.05, 0.95), st.floats(0.001, 0.04), st.integers(50, 10**6))
def test_power_rises_and_signs_and_complements_agree(rate, effect, n):
    power = plan_rates(rate, effect, n_control=n).power

    assert plan_rates(rate, effect, n_control=2 * n).power >= power
    assert plan_rates(1 - rate, -effect, n_control=n).power == pytest.approx(power, rel=1e-9)
    # swapping the groups asks the same question
    assert plan_rates(rate + effect, -effect, n_control=n).power == pytest.approx(power, rel=1e-9)
    both = [plan_means(SPEND, d, n_control=n, allocation=2).power for d in (effect, -effect)]
    assert both[0] == both[1] == pytest.approx(plan_means(SPEND, effect, n_control=2 * n, allocation=0.5).power)


@given(st.floats(0.05, 0.9), st.integers(100, 10**7))
def test_the_smallest_effect_is_found_again(rate, n):
    least = plan_rates(rate, n_control=n).effect

    if not math.isnan(least):
        assert plan_rates(rate, least, n_control=n).power == pytest.approx(0.8, abs=1e-6)


def test_days_follow_the_units_of_the_history_not_a_line():
    # the same people come back: 9,000 on the first day, 5% fewer new ones each day
    reached = np.cumsum(9_000 * 0.95 ** np.arange(28)).round()
    plan = plan_rates(0.10, 0.01, reached=reached)

    assert plan.days == 1 + np.flatnonzero(reached >= 29_502)[0] == 4
    assert plan_rates(0.10, 0.01, reached=[29_501, 29_502, 40_000]).days == 2
    assert plan.sentence() == (
        "To see +1.00 pp on 10.0% (80% power), the test needs 14,751 customers in each group: "
        "4 days at the pace of the history."
    )
    assert "mỗi nhóm 14.751 khách hàng: 4 ngày" in plan.sentence("vi")


def test_beyond_the_history_the_days_cannot_be_told():
    plan = plan_rates(0.10, 0.01, reached=[100, 200])

    assert (math.isnan(plan.days), plan.reason, plan.known_days) == (True, "history", 2)
    assert "cannot be told, because the history has only 2 days" in plan.sentence()
    assert "chỉ có 2 ngày" in plan.sentence("vi")


def test_units_too_few_for_any_effect_say_so():
    plan = plan_rates(0.10, n_control=3)

    assert math.isnan(plan.effect) and plan.reason == "none"
    assert "no change of 10.0% is seen" in plan.sentence() and "Cần thêm khách hàng" in plan.sentence("vi")


@pytest.mark.parametrize("language", ["en", "vi"])
def test_every_question_has_its_sentence(language):
    asked = [
        plan_rates(0.1, 0.01, n_control=10_000),
        plan_rates(0.1, n_control=10_000, allocation=0.5),
        plan_rates(0.1, 0, margin=0.01, alternative="larger"),
        plan_means(SimpleNamespace(value=0.0042, variance=1e-5), 0.0001),
        plan_means(SimpleNamespace(value=0.0, variance=1.0), n_control=50, metrics=2),
        plan_rates(0.1, n_control=3, reached=[1, 2]),
    ]
    said = [plan.sentence(language) for plan in asked]

    assert len(set(said)) == len(said)
    assert ("+0.000100 on 0.00420" if language == "en" else "+0,000100 so với 0,00420") in said[3]
    assert all("{" not in s and "nan" not in s and s.endswith((".", ").")) for s in said)


def test_a_real_history_plans(real_data):
    import pandas as pd

    spend = pd.read_csv(real_data("hillstrom-email") / "hillstrom.csv.gz")["spend"]
    history = SimpleNamespace(value=spend.mean(), variance=spend.var(), n=len(spend))
    plan = plan_means(history, 0.1 * history.value)

    theirs = TTestIndPower().solve_power(0.1 * spend.mean() / spend.std(), power=0.8, alpha=0.05)
    assert plan.n_control == math.ceil(theirs)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((10, 1), {}, "Write 0.1 for 10%"),
        ((0, 0.1), {}, r"\(0, 1\)"),
        ((float("nan"), 0.1), {}, r"\(0, 1\)"),
        ((0.1, 1), {}, "Write 0.01 for one point"),
        ((0.1, -0.2), {}, "impossible from 0.1"),
        ((0.1, float("nan")), {}, "impossible"),
        ((0.1, 0), {}, "no number of units shows it"),
        ((0.1,), {}, "no number of units shows it"),
        ((0.1, 0.01), {"alternative": "smaller"}, "side that is tested"),
        ((0.1, 0.01), {"alternative": "large"}, "Did you mean larger"),
        ((0.1, 0.01), {"power": 80}, "below 1, as 0.8"),
        ((0.1, 0.01), {"power": 0.01}, "above the false alarms, 0.05"),
        ((0.1, 0.01), {"confidence": 95}, "Write 0.95"),
        ((0.1, 0.01), {"allocation": 0}, "above 0"),
        ((0.1, 0.01), {"metrics": 0}, "metrics=0 must be 1 or more"),
        ((0.1, 0), {"margin": 0.01}, "allowed: above 0, with an effect and alternative"),
        ((0.1, 0), {"margin": -0.01, "alternative": "larger"}, "above 0"),
        ((0.1,), {"margin": 0.01, "alternative": "larger", "n_control": 9}, "with an effect"),
        ((0.1, 0.01), {"n_control": 1}, "two units or more"),
        ((0.1, 0.01), {"n_control": 10, "allocation": 0.1}, "two units or more"),
        ((0.1, 0.01), {"n_control": float("nan")}, "two units or more"),
        ((0.1, 0.01), {"reached": [5, 4]}, "reached falls"),
        ((SimpleNamespace(value=1.0, variance=0.0), 1), {}, "cannot be computed, because the history has variance 0"),
        ((SimpleNamespace(value=1.0, variance=math.nan), 1), {}, "cannot be computed"),
    ],
)
def test_impossible_plans_are_told(given, options, message):
    with pytest.raises(KpiError, match=message):
        plan_rates(*given, **options)


def test_the_pooled_test_keeps_its_level_at_the_planned_size():
    plan = plan_rates(0.05, 0.01)
    n = plan.n_control
    rng = np.random.default_rng(8)
    x, y = rng.binomial(n, 0.05, (2, 20_000))
    p = (x + y) / (2 * n)
    alarms = (np.abs(y - x) / n > norm.isf(0.025) * np.sqrt(2 * p * (1 - p) / n)).sum()

    assert binom.ppf(0.005, 20_000, 0.05) <= alarms <= binom.ppf(0.995, 20_000, 0.05)
