"""Two arms compared: published and independent numbers, laws, error rates, messages."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep

from kpi_helpers import contrasts, experiments
from kpi_helpers.errors import KpiError
from kpi_helpers.experiments import CovariateMoments, Moments, RatioMoments
from kpi_helpers.stats import METHODS, corrected

G1, G2 = ((1000, 10000), (1100, 10000)), ((200, 2000), (270, 2400))


def bounds(c):
    return c.difference_low, c.difference_high


# Newcombe (1998), Statistics in Medicine 17:873-890, table II: method 5 (Mee), 4 decimals
@pytest.mark.parametrize(
    ("control", "treatment", "low", "high"),
    [((48, 80), (56, 70), 0.0533, 0.3377), ((3, 10), (9, 10), 0.1821, 0.8370), ((2, 7), (6, 7), 0.0544, 0.8478),
     ((0, 29), (5, 56), -0.0313, 0.1926)],
)  # fmt: skip
def test_difference_matches_newcombes_table(control, treatment, low, high):
    assert bounds(experiments.compare_rates(control, treatment)) == pytest.approx((low, high), abs=5e-5)


def test_difference_with_the_miettinen_nurminen_factor_is_theirs():
    """Their example 4, 0/10 and 0/20 (sasLM RDmn1: -0.1657585, 0.2843637; stops at 1e-5), by widening z."""
    wide = 2 * scipy_stats.norm.sf(scipy_stats.norm.isf(0.025) * math.sqrt(30 / 29))
    made = contrasts.rates((0, 20), (0, 10), alpha=wide)

    assert (float(made.difference_low), float(made.difference_high)) == pytest.approx((-0.1657585, 0.2843637), abs=3e-5)
    plain = contrasts.rates((0, 20), (0, 10))  # gsDesign::ciBinomial(0, 0, 10, 20): -0.161125, 0.2775562
    assert (float(plain.difference_low), float(plain.difference_high)) == pytest.approx(
        (-0.161125, 0.2775562), abs=3e-5
    )


def constrained_error(t, x0, n0, x1, n1):
    """Standard error at a difference, by maximising the likelihood numerically."""

    def score(r):
        return x0 / r - (n0 - x0) / (1 - r) + x1 / (r + t) - (n1 - x1) / (1 - r - t)

    r = optimize.brentq(score, max(0, -t) + 1e-12, min(1, 1 - t) - 1e-12, xtol=1e-16)
    return math.sqrt(r * (1 - r) / n0 + (r + t) * (1 - r - t) / n1)


@pytest.mark.parametrize(("control", "treatment"), [G1, G2, ((48, 80), (56, 70)), ((3, 100_000), (9, 100_000))])
def test_bounds_are_where_the_likelihood_puts_them(control, treatment):
    """statsmodels 0.15 puts count0 for nobs0 in the cubic (its issue 10269), so its bounds are off by 1e-5 relative."""
    c, z = experiments.compare_rates(control, treatment), 1.959963984540054
    for t, side in ((c.difference_low, 1), (c.difference_high, -1)):
        assert side * (c.difference - t) / constrained_error(t, *control, *treatment) == pytest.approx(z, rel=1e-8)


@pytest.mark.parametrize(
    ("arms", "p", "ratio"),
    [(G1, 0.0210751892737978, (1.01441741100579, 1.19282718956528)), (G2, 0.181342877218312, None)],
)
def test_rates_match_r_and_statsmodels(arms, p, ratio):
    """p: R prop.test(correct=FALSE). Ratio: Koopman by statsmodels, correction=False."""
    c = experiments.compare_rates(*arms)

    assert c.p_value == pytest.approx(p, rel=1e-12)
    (x0, n0), (x1, n1) = arms
    expected = confint_proportions_2indep(x1, n1, x0, n0, method="score", compare="ratio", correction=False)
    assert (1 + c.lift_low, 1 + c.lift_high) == pytest.approx(ratio or expected, rel=1e-10)


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(counts, counts, st.sampled_from([0.8, 0.95, 0.99]), st.sampled_from(contrasts.ALTERNATIVES))
def test_one_test_three_readings_agree(control, treatment, confidence, alternative):
    c = experiments.compare_rates(control, treatment, confidence=confidence, alternative=alternative)
    if c.reason:
        assert math.isnan(c.p_value) and "because" in c.sentence() and "vì" in c.sentence("vi")
        return
    significant = c.p_value < 1 - confidence

    assert -1 <= c.difference_low <= c.difference <= c.difference_high <= 1
    assert significant == (c.difference_low > 0 or c.difference_high < 0)
    assert significant == (c.lift_low > 0 or c.lift_high < 0)


@settings(deadline=None)
@given(counts, counts)
def test_swapping_arms_and_counting_failures_turn_the_difference(control, treatment):
    c, swapped = experiments.compare_rates(control, treatment), experiments.compare_rates(treatment, control)
    failures = experiments.compare_rates(*((n - x, n) for x, n in (control, treatment)))

    assert bounds(c) == pytest.approx([-v for v in reversed(bounds(swapped))], abs=1e-11)
    assert bounds(c) == pytest.approx([-v for v in reversed(bounds(failures))], abs=1e-11)


def test_score_interval_covers():
    rng = np.random.default_rng(3)
    x0, x1 = rng.binomial(400, 0.1, 20_000), rng.binomial(600, 0.15, 20_000)
    c = contrasts.rates((x0, 400), (x1, 600))

    for low, high, true in ((c.difference_low, c.difference_high, 0.05), (c.lift_low, c.lift_high, 0.5)):
        assert 0.9460 < np.mean((low <= true) & (true <= high)) < 0.9540  # 99% binomial band at 20,000 runs


def test_a_table_has_one_row_for_an_answer():
    compared, plan = experiments.compare_rates((48, 80), (56, 70)), experiments.plan_rates(0.1, 0.01)
    check = experiments.check_split({"a": 10, "b": 12})

    (row,) = compared.to_json()["rows"]
    assert row["difference"] == pytest.approx(0.2) and row["reason"] == "" and "theta" not in row
    assert plan.to_frame()[["n_control", "days"]].iloc[0].tolist() == pytest.approx([14751, math.nan], nan_ok=True)
    assert check.to_frame()[["variant", "n_units"]].values.tolist() == [["a", 10], ["b", 12]]


def test_non_inferiority_asks_whether_the_loss_is_small():
    c = experiments.compare_rates((5000, 50000), (4900, 50000), margin=0.005, alternative="larger")
    z = (-0.002 + 0.005) / constrained_error(-0.005, 5000, 50000, 4900, 50000)

    assert c.p_value == pytest.approx(scipy_stats.norm.sf(z), rel=1e-8)
    assert c.p_value == pytest.approx(0.05611704353452, abs=5e-5)  # Wald, by hand
    assert c.difference_low < -0.005 and c.difference_high == 1
    mirrored = experiments.compare_rates((45000, 50000), (45100, 50000), margin=0.005, alternative="smaller")
    assert mirrored.p_value == pytest.approx(c.p_value, rel=1e-9)


def test_one_sided_bounds_hold_their_level():
    larger = experiments.compare_rates(*G1, alternative="larger")
    both = experiments.compare_rates(*G1, confidence=0.9)

    assert larger.difference_low == pytest.approx(both.difference_low, rel=1e-12)
    assert (larger.difference_high, larger.lift_high) == (1, math.inf)
    # a peer puts the upper bound of "smaller" below the estimate for 1,100 v 1,000 of 10,000
    smaller = experiments.compare_rates(*G1, alternative="smaller")
    assert smaller.difference_high > smaller.difference and smaller.p_value > 0.95


def test_tiny_p_values_keep_their_digits():
    """A peer says 0.0 at z = 14.3, where the normal tail is 2.2e-46."""
    c = experiments.compare_rates((1000, 20000), (1700, 20000))
    z = (0.085 - 0.05) / math.sqrt(2700 / 40000 * (1 - 2700 / 40000) * 2 / 20000)
    assert c.p_value == pytest.approx(2 * scipy_stats.norm.sf(z), rel=1e-9) and 0 < c.p_value < 1e-40


# p one-sided: Barnard's test, scipy.stats.barnard_exact(pooled=True)
@pytest.mark.parametrize(("control", "treatment"), [((7, 15), (12, 15)), ((1, 20), (7, 18)), ((3, 40), (12, 50))])
def test_exact_matches_barnard(control, treatment):
    table = [[treatment[0], control[0]], [treatment[1] - treatment[0], control[1] - control[0]]]
    expected = scipy_stats.barnard_exact(table, alternative="greater", pooled=True).pvalue
    c = experiments.compare_rates(control, treatment, method="exact", alternative="larger")
    two = experiments.compare_rates(control, treatment, method="exact")

    assert c.p_value == pytest.approx(expected, abs=5e-5) and two.p_value == pytest.approx(2 * c.p_value)
    assert (two.p_value < 0.05) == (two.difference_low > 0) == (two.lift_low > 0)


def test_exact_interval_covers_at_least_as_promised():
    """Every outcome of 6 and 7 units, weighed by its chance."""
    made = {(i, j): contrasts.exact_rates((i, 6), (j, 7), alpha=0.1) for i in range(7) for j in range(8)}
    for p0, p1 in ((0.1, 0.1), (0.1, 0.4), (0.5, 0.7), (0.02, 0.3)):
        covered, lift = np.zeros(2), p1 / p0 - 1
        for (i, j), c in made.items():
            weight = scipy_stats.binom.pmf(i, 6, p0) * scipy_stats.binom.pmf(j, 7, p1)
            covered += weight * np.array(
                [c.difference_low <= p1 - p0 <= c.difference_high, not (c.lift_low > lift or c.lift_high < lift)]
            )
        assert (covered >= 0.9).all()


A = [12.1, 0, 5.5, 7.25, 0, 30, 2.4, 9.9, 0, 15.6]
B = [14.2, 3.3, 0, 8.8, 41.5, 0, 6.1, 12.9, 20, 1.5, 17.7, 0]


def sums(values, shift=0):
    x = [v - shift for v in values]
    return Moments.from_sums(len(x), sum(x), sum(v * v for v in x), shift=shift)


def test_means_match_r():
    """G3: R t.test = scipy."""
    c = experiments.compare_means(sums(A), sums(B))

    assert (c.p_value, c.degrees_of_freedom) == pytest.approx((0.632434006705592, 19.92377836186), rel=1e-9)
    assert bounds(c) == pytest.approx((-7.33192420669, 11.78192420669), rel=1e-9)


G3 = Moments.from_sums(1000, 5200, 90000), Moments.from_sums(1100, 6160, 121000)


def test_means_from_sums_match_two_packages():
    """G3: gbstats = tea-tasting; Fieller by the closed form and by inverting the test; Student pooled by R."""
    c = experiments.compare_means(*G3)

    assert (c.p_value, c.degrees_of_freedom) == pytest.approx((0.275678225923716, 2097.47915577556), rel=1e-9)
    assert bounds(c) == pytest.approx((-0.31942809611201, 1.11942809611201), rel=1e-9)
    assert (c.lift_low, c.lift_high) == pytest.approx((-0.05774614435061, 0.23107347701299), rel=1e-9)
    assert experiments.compare_means(*G3, method="pooled").p_value == pytest.approx(0.278210718461447, rel=1e-9)


G4 = (
    RatioMoments.from_sums(5000, 1900, 3300, 10300, 36500, 5700),
    RatioMoments.from_sums(5200, 2130, 3800, 10650, 37600, 6350),
)


def test_ratios_match_two_packages():
    """G4: gbstats = tea-tasting."""
    c = experiments.compare_ratios(*G4)

    assert (c.control_ratio, c.treatment_ratio) == pytest.approx((0.184466019417476, 0.2), rel=1e-12)
    assert (c.p_value, c.degrees_of_freedom) == pytest.approx((0.0240281101067458, 10197.0821915916), rel=1e-9)
    assert bounds(c) == pytest.approx((0.00204287172845, 0.02902508943659), rel=1e-9)
    assert (c.lift_low, c.lift_high) == pytest.approx((0.01070222884005, 0.16336270371277), abs=2e-5)  # theirs is of z


G5 = (
    CovariateMoments.from_sums(4000, 12000, 300000, 11800, 290000, 240000),
    CovariateMoments.from_sums(4100, 12900, 330000, 12000, 295000, 255000),
)


def test_adjusted_means_match_two_packages():
    """G5: gbstats = tea-tasting; the lift's denominator is tea-tasting's."""
    c = experiments.compare_adjusted_means(*G5)

    assert (c.theta[0], c.difference) == pytest.approx((0.818991097922849, 0.165318086415286), rel=1e-9)
    assert (c.p_value, c.degrees_of_freedom) == pytest.approx((0.142004203937091, 8097.9959226219), rel=1e-8)
    assert bounds(c) == pytest.approx((-0.05535839742235, 0.38599457025292), rel=1e-8)
    assert (c.control_mean, c.treatment_mean) == pytest.approx((2.99039454885152, 3.15571263526681), rel=1e-9)
    assert (c.lift, c.variance_reduction) == pytest.approx((0.0552830349690, 0.62422), abs=1e-5)


@settings(deadline=None)
@given(st.floats(0.2, 5), st.floats(0.5, 40), st.floats(-3, 3), st.floats(0.5, 40))
def test_fieller_inverts_the_test_of_the_ratio(mean, variance, step, other):
    """Each finite bound L is where treatment - (1 + L) control is as far from 0 as t allows."""
    c = contrasts.means((mean, variance, 50), (mean + step, other, 60))
    t = scipy_stats.t.isf(0.025, float(c.degrees_of_freedom))
    for bound in (float(c.lift_low), float(c.lift_high)):
        if math.isfinite(bound):
            apart = mean + step - (1 + bound) * mean
            assert abs(apart) == pytest.approx(t * math.sqrt(other / 60 + (1 + bound) ** 2 * variance / 50), rel=1e-6)
    assert (c.p_value < 0.05) == (c.lift_low > 0 or c.lift_high < 0) == (c.difference_low > 0 or c.difference_high < 0)
    assert c.lift_low <= c.lift <= c.lift_high


def test_a_mean_that_may_be_zero_has_an_unbounded_lift_and_says_so():
    c = experiments.compare_means(Moments.from_sums(50, 50, 5000), Moments.from_sums(50, 75, 2600))

    assert c.lift_high == math.inf and "no bound" in c.sentence() and "không có cận" in c.sentence("vi")


def test_lift_interval_covers_in_both_tails():
    """Dividing the interval by the control's mean misses 6 to 17%, the plain delta method 0.4 + 4.7%."""
    rng = np.random.default_rng(5)
    x, y = rng.exponential(1.0, (4000, 200)), rng.exponential(1.5, (4000, 200))
    c = contrasts.means((x.mean(1), x.var(1, ddof=1), 200), (y.mean(1), y.var(1, ddof=1), 200))

    assert 0.0187 < np.mean(c.lift_low > 0.5) < 0.0314 and 0.0187 < np.mean(c.lift_high < 0.5) < 0.0314  # 99% band


def test_adjusted_lift_covers_and_several_covariates_help():
    rng = np.random.default_rng(9)
    missed, reductions = 0, []
    for _ in range(2000):
        arms = []
        for effect in (0.0, 1.0):
            x = rng.gamma(2, 2, (2, 150))
            y = 5 + effect + x[0] + 0.5 * x[1] + rng.normal(0, 1, 150)
            told = (150, y.sum(), (y * y).sum(), x.sum(1), x @ x.T, x @ y)
            arms.append(CovariateMoments.from_sums(*told))
        c = experiments.compare_adjusted_means(*arms)
        missed += not c.lift_low < 1 / 11 < c.lift_high  # the control's mean is 5 + 4 + 2
        reductions.append(c.variance_reduction)
    assert 0.0384 < missed / 2000 < 0.0635  # 99% band
    assert np.mean(reductions) == pytest.approx(10 / 11, abs=0.01)  # 8 + 2 of 11 is the covariates' variance


def test_shifted_sums_keep_the_variance():
    """Raw squares of 1e8 + N(0, 1) give peers a variance of 2.62 or -353.9 instead of 1.0003."""
    x = 1e8 + np.random.default_rng(1).normal(size=100_000)
    shifted = Moments.from_sums(len(x), (x - 1e8).sum(), ((x - 1e8) ** 2).sum(), shift=10**8)
    exact = [Decimal(float(v)) for v in x[:2000]]
    told = Moments.from_sums(2000, sum(exact), sum(v * v for v in exact))

    assert shifted.variance == pytest.approx(x.var(ddof=1), rel=1e-9) and shifted.value == pytest.approx(x.mean())
    assert told.variance == pytest.approx(x[:2000].var(ddof=1), rel=1e-9)
    with pytest.raises(KpiError, match="shift"):
        Moments.from_sums(len(x), x.sum(), (x * x).sum())


def test_split_matches_r():
    """G6: R chisq.test = scipy."""
    p = [0.0585309655661574, 1.82179287e-06, 0.00283474908026, 0.00272956108392]
    given = [([50000, 50600], None), ([821588, 815482], None), ([9000, 1100], [9, 1]), ([10000, 10180, 9700], None)]
    for (found, planned), expected in zip(given, p, strict=True):
        check = experiments.check_split(found, planned)
        assert check.p_value == pytest.approx(expected, rel=1e-8) and check.alarm == (expected < 0.001)


def test_cookie_cats_is_a_warning_and_its_threshold_visible():
    """44,700 and 45,489 players: p = 0.0086."""
    check = experiments.check_split({"gate_30": 44700, "gate_40": 45489})

    assert check.p_value == pytest.approx(0.0086, abs=5e-5) and check.warning and not check.alarm
    assert "0.001" in check.sentence() and "0,001" in check.sentence("vi")


# G7: R p.adjust = statsmodels
TEN = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
ADJUSTED = {
    "holm": [0.01, 0.072] + [0.312] * 5 + [0.615] * 3,
    "hochberg": [0.01, 0.072] + [0.216] * 8,
    "benjamini-hochberg": [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.105714285714] + [0.216] * 3,
    "benjamini-yekutieli":
        [0.0292896825397, 0.1171587301587] + [0.2460333333333] * 3 + [0.2928968253968, 0.3096337868481]
        + [0.6326571428571] * 3,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_adjusted_p_values_match_r(method):
    assert experiments.adjust_p_values(TEN, method).tolist() == pytest.approx(ADJUSTED[method], rel=1e-9)
    order = [3, 0, 9, 1, 2, 8, 4, 7, 5, 6]
    shuffled = experiments.adjust_p_values([TEN[i] for i in order], method)
    assert shuffled.tolist() == pytest.approx([ADJUSTED[method][i] for i in order], rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=12), st.sampled_from(METHODS))
def test_levels_of_intervals_match_the_decisions(p, method):
    adjusted, level = corrected(p, method)

    assert ((adjusted < 0.05) == (np.asarray(p) < level)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: experiments.compare_rates((80, 48), (56, 70)), r"control=\(80, 48\).*swapped"),
        (lambda: experiments.compare_rates((math.nan, 48), (56, 70)), r"control=\(nan, 48\)"),
        (lambda: experiments.compare_rates((1.5, 48), (56, 70)), "whole numbers"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), margin=-0.1, alternative="larger"), "above 0"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), margin=0.1), "one side"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), margin=2, alternative="larger"), "0.01 for one point"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), alternative="greater"), "larger"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), method="fisher"), "score, exact"),
        (lambda: experiments.compare_rates((1, 4800), (5, 7000), method="exact"), "score' is accurate"),
        (lambda: experiments.compare_rates((1, 48), (5, 70), confidence=95), "0.95"),
        (lambda: Moments.from_sums(10, 100, 5), "swapped"),
        (lambda: Moments.from_sums(10, math.nan, 5), "finite"),
        (lambda: RatioMoments.from_sums(10, 5, 5, 0, 0, 0), "divide"),
        (lambda: RatioMoments.from_sums(10, 5, 5, 10, 10, 900), "no sample"),
        (lambda: experiments.compare_adjusted_means(*[CovariateMoments.from_sums(9, 5, 5, 9, 9, 5)] * 2), "same value"),
        (lambda: experiments.check_split([5]), "one variant"),
        (lambda: experiments.check_split({"a": 5, "b": 6}, {"a": 1, "c": 1}), "planned names a, c"),
        (lambda: experiments.check_split([5, 6], [1, 0]), "above 0"),
        (lambda: experiments.adjust_p_values([0.1, 1.2]), r"\[0, 1\]"),
        (lambda: experiments.adjust_p_values([0.1], "sidak"), "holm"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(KpiError, match=message):
        call()


@pytest.mark.parametrize(
    ("arms", "reason"),
    [((Moments.from_sums(5, 0, 0), Moments.from_sums(5, 0, 0)), "flat"),
     ((Moments.from_sums(1, 2, 4), Moments.from_sums(5, 3, 9)), "few")],
)  # fmt: skip
def test_what_cannot_be_computed_says_why(arms, reason):
    c = experiments.compare_means(*arms)

    assert c.reason == reason and math.isnan(c.p_value) and "Cannot be computed" in c.sentence()
