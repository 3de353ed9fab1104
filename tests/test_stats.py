"""Kernels of `kpi_helpers.stats`: the score interval, the margin of a ratio, the chance of a normal total."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from kpi_helpers.errors import KpiError
from kpi_helpers.stats import auc, chance_above, checked_confidence, ratio_margin, weighted_quantile, wilson

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Newcombe (1998), Stat. Med. 17:857-872, table I, method 3 (score, no continuity correction); printed to 4 decimals.
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0000),
]

counts = st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.01, 0.999)


@pytest.mark.parametrize(("successes", "trials", "low", "high"), NEWCOMBE)
def test_wilson_matches_newcombe_table(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)  # half the last printed digit


def test_wilson_matches_the_golden_open_rate():
    # kpi_baselines.md, G1: 2,425 unique opens of 9,700 delivered; printed to 6 decimals
    assert wilson(2425, 9700) == pytest.approx((0.241483, 0.258715), abs=5e-7)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("trials", [1, 2, 7, 60, 4_001, 10**6, 10**9])
def test_wilson_matches_statsmodels(trials, confidence):
    successes = np.unique([0, 1, trials // 3, trials // 2, trials - 1, trials])
    expected = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")

    # at 0 successes the exact bound is 0, where a subtraction of equals leaves 1e-17
    assert np.array(wilson(successes, trials, confidence=confidence)) == pytest.approx(
        np.array(expected), rel=1e-9, abs=1e-15
    )


@given(counts, confidences)
def test_swapping_successes_and_failures_mirrors_wilson(count, confidence):
    successes, trials = count
    low, high = wilson(successes, trials, confidence=confidence)

    mirrored_low, mirrored_high = wilson(trials - successes, trials, confidence=confidence)

    assert (low, high) == pytest.approx((1 - mirrored_high, 1 - mirrored_low), abs=1e-12)


@given(counts, confidences)
def test_wilson_holds_the_observed_rate_and_stays_between_0_and_1(count, confidence):
    successes, trials = count
    low, high = wilson(successes, trials, confidence=confidence)

    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert low < high


@pytest.mark.parametrize("confidence", [0.5, 0.68, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
def test_wilson_reaches_its_limits_exactly(confidence):
    trials = np.append(np.arange(1, 500), 10**9)  # for some of them the formula rounds to 1 + 2e-16

    assert (wilson(0 * trials, trials, confidence=confidence)[0] == 0).all()
    assert (wilson(trials, trials, confidence=confidence)[1] == 1).all()


def test_wilson_narrows_with_trials_and_widens_with_confidence():
    by_trials = np.diff(wilson([3, 30, 300], [10, 100, 1000]), axis=0)[0]
    by_confidence = [np.diff(wilson(3, 10, confidence=c), axis=0).item() for c in (0.5, 0.8, 0.95, 0.99)]

    assert (np.diff(by_trials) < 0).all()
    assert (np.diff(by_confidence) > 0).all()


def test_wilson_of_one_success_more_lies_higher():
    low, high = wilson(np.arange(51), np.full(51, 50))

    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (1, 0), (-1, 5), (6, 5), (1, -5), (np.nan, 5), (1, np.nan)])
def test_wilson_of_impossible_counts_is_unknown(successes, trials):
    low, high = wilson([successes, 1], [trials, 5])

    assert np.isnan([low[0], high[0]]).all()
    assert np.isfinite([low[1], high[1]]).all()  # and spoils nothing beside it


@pytest.mark.parametrize(("trials", "lowest_mean"), [(20, 0.945), (200, 0.9475)])
def test_wilson_covers_the_truth_as_often_as_it_says(trials, lowest_mean):
    # Exact, not simulated: every outcome of the binomial, weighed by its probability. On average over rates
    # the score interval keeps its level. It dips just below the lower bound of a single success, where
    # λ = n·rate solves (1 - λ)²/λ = z²: there only "no success" covers, with probability e^-0.1765 = 0.838.
    truth = np.linspace(0.01, 0.99, 393)
    outcomes = np.arange(trials + 1)
    low, high = wilson(outcomes, np.full(trials + 1, trials))

    covered = (low[:, None] <= truth) & (truth <= high[:, None])
    coverage = (covered * binom.pmf(outcomes[:, None], trials, truth)).sum(axis=0)

    assert lowest_mean < coverage.mean() < 0.96
    assert coverage.min() > 0.83


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (7, 0.8), (60, 0.95), (365, 0.99)])
def test_ratio_margin_matches_weighted_least_squares(n, confidence):
    # Σx/Σy is the slope of x on y with weights 1/y; HC1 is the delta method with n - 1 degrees of freedom
    rng = np.random.default_rng(n)
    y = rng.gamma(4, 25, n)
    x = 12 * y + 6 * y * rng.standard_normal(n)
    fitted = sm.WLS(x, y, weights=1 / y).fit(cov_type="HC1", use_t=True)

    slope = x.sum() / y.sum()
    margin = ratio_margin(n, y.sum(), ((x - slope * y) ** 2).sum(), confidence=confidence)

    expected = fitted.conf_int(alpha=1 - confidence)[0]
    assert (slope - margin, slope + margin) == pytest.approx(expected, rel=1e-9)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_ratio_margin_follows_the_units(cost_unit, count_unit):
    x, y = np.array([10.0, 22.0, 28.0, 41.0]), np.array([1.0, 2.0, 3.0, 4.0])

    def margin(x, y):
        return ratio_margin(len(x), y.sum(), ((x - x.sum() / y.sum() * y) ** 2).sum())

    assert margin(x * cost_unit, y * count_unit) == pytest.approx(margin(x, y) * cost_unit / count_unit, rel=1e-9)


def test_ratio_margin_covers_the_truth_as_often_as_it_says():
    # 4,000 samples of 60 days: the share covered has a standard error of 0.0034. HC1 with skewed weights
    # falls a little short of its level, so that 0.95 is allowed to lose 0.02 and to gain three errors.
    rng = np.random.default_rng(20241101)
    y = rng.gamma(4, 25, (4000, 60))
    x = 12 * y + 6 * y * rng.standard_normal(y.shape)
    ratio = x.sum(axis=1) / y.sum(axis=1)

    margin = ratio_margin(np.full(4000, 60), y.sum(axis=1), ((x - ratio[:, None] * y) ** 2).sum(axis=1))

    assert 0.93 < (np.abs(ratio - 12) <= margin).mean() < 0.96


def test_ratio_margin_is_zero_where_each_day_has_the_same_ratio():
    assert ratio_margin(3, 6, 0) == 0


@pytest.mark.parametrize(("n", "total"), [(0, 5), (1, 5), (3, 0), (np.nan, 5), (3, np.nan)])
def test_ratio_margin_of_too_little_is_unknown(n, total):
    margin = ratio_margin([n, 3], [total, 5], [1, 1])

    assert np.isnan(margin[0])
    assert np.isfinite(margin[1])


def test_ratio_margin_takes_a_negative_denominator():
    assert ratio_margin(3, -6, 8) == ratio_margin(3, 6, 8) > 0


def test_chance_above_matches_golden_g3():
    # kpi_baselines.md, G3: a total ~ N(12000, 900²); printed to 6 and 5 decimals
    assert chance_above([13200, 13800, 14400], 12000, 900) == pytest.approx([0.091211, 0.02275, 0.00383], abs=5e-6)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.1, 50))
def test_chance_above_matches_scipy(threshold, mean, sd):
    assert chance_above(threshold, mean, sd) == pytest.approx(norm.sf(threshold, mean, sd), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, np.nan])
def test_a_confidence_in_percent_is_refused_with_the_remedy(confidence):
    for use in (
        lambda c: checked_confidence(c),
        lambda c: wilson(1, 2, confidence=c),
        lambda c: ratio_margin(3, 6, 8, confidence=c),
    ):
        with pytest.raises(KpiError, match=r"confidence=.* is not in \(0, 1\).*Write 0\.95 for 95%"):
            use(confidence)


# --- weighted_quantile ---

samples = st.lists(
    st.tuples(st.floats(-1e6, 1e6), st.integers(1, 9)), min_size=1, max_size=20, unique_by=lambda r: r[0]
)


@given(samples, st.floats(0, 1))
def test_equal_weights_give_definition_5_of_hyndman_and_fan(rows, p):
    x = [value for value, _ in rows]

    assert weighted_quantile(x, [0.3] * len(x), p) == pytest.approx(
        np.quantile(x, p, method="hazen"), rel=1e-9, abs=1e-6
    )


@given(samples)
def test_a_weight_counts_like_so_many_repetitions(rows):
    # repetitions stand at a plateau, whose middle is the place of the weighted point
    x, w = np.array(sorted(rows)).T
    places = (np.cumsum(w) - w / 2) / w.sum()

    repeated = np.quantile(np.repeat(x, w.astype(int)), places, method="hazen")

    near = 1e-9 + 1e-12 * np.ptp(
        x
    )  # a place is rounded, and next to a plateau the quantile is as steep as the values are wide
    assert weighted_quantile(x, w, places) == pytest.approx(repeated, rel=1e-9, abs=near)


@given(samples, st.floats(1e-3, 1e3))
def test_weighted_quantiles_rise_stay_inside_and_know_only_relative_weights(rows, unit):
    x, w = np.array(rows).T
    at = np.linspace(0, 1, 21)
    found = weighted_quantile(x, w, at)

    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (x.min(), x.max())
    assert weighted_quantile(x[::-1], unit * w[::-1], at) == pytest.approx(found, rel=1e-6, abs=1e-6)


@given(samples)
def test_area_under_the_curve_of_weights_is_that_of_repetitions(rows):
    score, w = (np.array(v) for v in zip(*rows, strict=True))
    happened = np.arange(len(score)) % 2
    n = w.astype(int)

    weighted, repeated = auc(score, happened, n), auc(np.repeat(score, n), np.repeat(happened, n))

    assert weighted == pytest.approx(repeated, rel=1e-9, nan_ok=True)
