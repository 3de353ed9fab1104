"""`kpi_helpers.rates`: shrinkage of small counts, and what a funnel needs upstream."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom
from statsmodels.stats.proportion import proportion_confint

from kpi_helpers import targets
from kpi_helpers.errors import KpiError
from kpi_helpers.rates import shrink_rates, upstream_needs

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# kpi_baselines.md §7, G5
G5_SUCCESSES, G5_TRIALS = (3, 12, 0, 45, 7, 150), (40, 300, 15, 900, 60, 2500)
G5_MEANS = [0.06153846, 0.04358974, 0.04761905, 0.05050505, 0.08, 0.05984556]
SPREAD_SUCCESSES, SPREAD_TRIALS = (2, 30, 1, 90, 20), (100, 300, 40, 600, 500)
SPREAD_MEANS = [0.032027, 0.097529, 0.045253, 0.146350, 0.041824]

counts = st.lists(
    st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=8
)


def likelihood(a, b, successes, trials):
    """An independent beta-binomial log likelihood."""
    return betabinom.logpmf(np.array(successes), np.array(trials), a, b).sum()


def test_a_given_prior_matches_golden_g5():
    shrunk = shrink_rates(G5_SUCCESSES, G5_TRIALS, prior=(5, 85))

    assert shrunk.mean == pytest.approx(G5_MEANS, abs=5e-9)  # half the last printed digit
    assert (shrunk.mean_low[2], shrunk.mean_high[2]) == pytest.approx((0.01913227, 0.08585143), abs=5e-9)
    assert (shrunk.a, shrunk.b, shrunk.pooled) == (5, 85, False)


def test_no_more_spread_than_chance_pools_completely_as_golden_g5_says():
    shrunk = targets.shrink_rates(G5_SUCCESSES, G5_TRIALS)

    assert shrunk.pooled
    assert shrunk.mean == pytest.approx([217 / 3815] * 6, rel=1e-12)
    assert math.isinf(shrunk.a) and math.isinf(shrunk.b)
    widths = np.subtract(shrunk.mean_high, shrunk.mean_low)
    assert np.argmin(widths) == np.argmax(G5_TRIALS)  # the more trials, the more is known of a segment


def test_the_golden_edge_has_no_finite_maximum():
    # an independent look: along every ray the likelihood only rises towards one rate for all
    rate = 217 / 3815
    rising = [likelihood(rate * s, (1 - rate) * s, G5_SUCCESSES, G5_TRIALS) for s in (1e2, 1e3, 1e4, 1e5, 1e6)]

    assert np.all(np.diff(rising) > 0)


def test_more_spread_than_chance_matches_golden_g5():
    shrunk = shrink_rates(SPREAD_SUCCESSES, SPREAD_TRIALS)

    assert not shrunk.pooled
    assert shrunk.a == pytest.approx(2.15319, abs=1e-3)
    assert shrunk.b == pytest.approx(27.5256, abs=1e-3)
    assert shrunk.mean == pytest.approx(SPREAD_MEANS, abs=2e-5)
    # the golden log likelihood leaves the binomial coefficients out
    coefficients = sum(math.log(math.comb(n, x)) for x, n in zip(SPREAD_SUCCESSES, SPREAD_TRIALS, strict=True))
    kernel = likelihood(shrunk.a, shrunk.b, SPREAD_SUCCESSES, SPREAD_TRIALS) - coefficients
    assert kernel == pytest.approx(-457.186905, abs=5e-7)


@pytest.mark.parametrize(
    ("successes", "trials"),
    [
        (SPREAD_SUCCESSES, SPREAD_TRIALS),
        ((1, 9, 5, 2, 30), (10, 12, 10, 40, 31)),
        ((0, 0, 3, 40), (20, 30, 10, 50)),
        ((400, 900, 1500), (10_000, 10_000, 10_000)),
    ],
)
def test_no_point_of_a_grid_is_likelier(successes, trials):
    shrunk = shrink_rates(successes, trials)
    rates, sizes = np.meshgrid(np.linspace(0.005, 0.995, 199), np.geomspace(1, 1e5, 101))
    a, b = (rates * sizes)[..., None], ((1 - rates) * sizes)[..., None]
    grid = betabinom.logpmf(np.array(successes), np.array(trials), a, b).sum(axis=-1)

    assert not shrunk.pooled
    assert likelihood(shrunk.a, shrunk.b, successes, trials) >= grid.max() - 1e-9


@given(counts)
def test_shrunk_rates_lie_between_their_own_and_the_common_rate(pairs):
    successes, trials = zip(*pairs, strict=True)
    if not sum(trials):
        return
    shrunk = shrink_rates(successes, trials)
    common = sum(successes) / sum(trials) if shrunk.pooled else shrunk.a / (shrunk.a + shrunk.b)

    for x, n, mean, low, high in zip(successes, trials, shrunk.mean, shrunk.mean_low, shrunk.mean_high, strict=True):
        own = x / n if n else common
        assert 0 <= low <= mean <= high <= 1
        if shrunk.pooled:
            assert mean == pytest.approx(common, rel=1e-12)
        else:
            assert min(own, common) - 1e-9 <= mean <= max(own, common) + 1e-9


@given(counts, st.randoms(use_true_random=False))
def test_the_order_of_the_segments_does_not_matter(pairs, random):
    if not sum(n for _x, n in pairs):
        return
    order = random.sample(range(len(pairs)), len(pairs))

    one = shrink_rates(*zip(*pairs, strict=True))
    other = shrink_rates(*zip(*[pairs[i] for i in order], strict=True))

    assert other.pooled == one.pooled
    assert other.mean == pytest.approx([one.mean[i] for i in order], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("successes", "trials", "mean"),
    [([0, 0], [10, 20], 0.0), ([10, 20], [10, 20], 1.0), ([3], [12], 0.25), ([0, 1, 0], [1, 1, 0], 0.5)],
)
def test_what_cannot_show_a_spread_is_pooled(successes, trials, mean):
    shrunk = shrink_rates(successes, trials)

    assert shrunk.pooled
    assert shrunk.mean == pytest.approx([mean] * len(trials))


def test_a_segment_without_trials_gets_the_common_distribution():
    shrunk = shrink_rates([*SPREAD_SUCCESSES, 0], [*SPREAD_TRIALS, 0])
    common = beta(shrunk.a, shrunk.b)

    assert shrunk.mean[-1] == pytest.approx(common.mean())
    low, high = common.interval(0.9)  # of a distribution that were known
    assert shrunk.mean_low[-1] < low and shrunk.mean_high[-1] > high


def test_intervals_match_draws_from_the_posterior():
    # an independent walk (Metropolis) over a / (a + b) and 1 / sqrt(a + b), both uniform; the rates are beta given them
    random, at, draws = np.random.default_rng(2), (0.07, 0.2), []

    def log_posterior(rate, root):
        inside = 0 < rate < 1 and 0 < root < 1
        return likelihood(rate / root**2, (1 - rate) / root**2, SPREAD_SUCCESSES, SPREAD_TRIALS) if inside else -np.inf

    here = log_posterior(*at)
    for _step in range(8000):
        there = (at[0] + 0.03 * random.normal(), at[1] + 0.08 * random.normal())
        proposed = log_posterior(*there)
        if math.log(random.random()) < proposed - here:
            at, here = there, proposed
        draws.append(at)
    rate, root = np.array(draws[500:]).T
    for x, n, low, high in zip(SPREAD_SUCCESSES, SPREAD_TRIALS, *_ends(SPREAD_SUCCESSES, SPREAD_TRIALS), strict=True):
        own = random.beta(rate / root**2 + x, (1 - rate) / root**2 + n - x)
        assert (low, high) == pytest.approx(np.quantile(own, [0.05, 0.95]), rel=0.12, abs=0.003)


def _ends(successes, trials):
    shrunk = shrink_rates(successes, trials)
    return shrunk.mean_low, shrunk.mean_high


def test_rates_as_far_apart_as_can_be_keep_an_interval():
    shrunk = shrink_rates([0, 10], [10, 10])  # a + b would fall to 0, and the intervals to a point

    assert shrunk.a + shrunk.b == pytest.approx(1)
    assert shrunk.mean_high[0] > 0.1 and shrunk.mean_low[1] < 0.9


@pytest.mark.parametrize(("segments", "common"), [(3, 80), (6, 80), (20, 80), (6, 800)])
def test_intervals_cover_the_rates_that_made_the_counts(segments, common):
    # rates of mean 5% and Beta size 80, or so alike (800) that half of the rounds pool; 20 to 400 trials, 300 rounds.
    # Measured 0.889, 0.893, 0.896 and 0.960 for a nominal 0.90; standard errors 0.01, 0.008, 0.005, 0.008
    random, hits = np.random.default_rng(7), []
    for _round in range(300):
        rates = random.beta(0.05 * common, 0.95 * common, segments)
        trials = random.integers(20, 400, segments)
        shrunk = shrink_rates(random.binomial(trials, rates), trials)
        hits.append(np.mean((shrunk.mean_low <= rates) & (rates <= shrunk.mean_high)))

    assert 0.86 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], [3]), r"successes=\[5\.\], trials=\[3\.\].*swapped"),
        (([-1], [3]), r"0 <= successes <= trials"),
        (([1, 2], [3]), r"0 <= successes <= trials"),
        (([], []), r"0 <= successes <= trials"),
        (([math.nan], [3]), r"0 <= successes <= trials"),
        (([1], [math.inf]), r"0 <= successes <= trials"),
        (([0, 0], [0, 0]), r"cannot be computed, because no segment has a trial\. Give a prior"),
    ],
)
def test_impossible_counts_are_refused_with_the_remedy(arguments, message):
    with pytest.raises(KpiError, match=message):
        shrink_rates(*arguments)


def test_a_bad_prior_is_refused():
    with pytest.raises(KpiError, match=r"prior=\(0, 5\) must be two numbers above 0"):
        shrink_rates([1], [3], prior=(0, 5))


@pytest.mark.parametrize(("language", "word"), [("en", "no more than chance"), ("vi", "ngẫu nhiên")])
def test_the_sentence_says_that_the_rates_were_pooled(language, word):
    assert word in shrink_rates(G5_SUCCESSES, G5_TRIALS).sentence(language)


steps = st.lists(
    st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), min_size=1, max_size=5
)


def test_needs_are_the_target_over_the_product_of_the_rates():
    # 10,000 sessions -> 500 leads -> 60 orders: 0.006 overall, so 120 orders need 20,000 sessions and 1,000 leads
    needs = upstream_needs(120, [(500, 10_000), (60, 500)])

    assert needs.need == (20_000, 1_000)
    assert needs.target == 120


@given(st.integers(1, 10**6), steps)
def test_the_needs_fed_through_the_rates_give_the_target(target, chain):
    needs = upstream_needs(target, chain)

    for need, (x, n), wanted in zip(needs.need, chain, [*needs.need[1:], target], strict=True):
        assert (need - 1) * Fraction(x, n) < wanted <= need * Fraction(x, n)  # as many as it takes, and no more
    for low, need, high in zip(needs.need_low, needs.need, needs.need_high, strict=True):
        assert target <= low <= need <= high


@given(st.integers(1, 10**6), steps)
def test_a_step_that_always_succeeds_changes_no_need(target, chain):
    assert upstream_needs(target, [*chain, (10, 10)]).need[:-1] == upstream_needs(target, chain).need


@pytest.mark.parametrize(("x", "n"), [(60, 10_000), (3, 40), (5, 5)])
def test_the_interval_of_one_step_is_wilsons(x, n):
    low, high = proportion_confint(x, n, alpha=0.1, method="wilson")

    needs = upstream_needs(1_000_000, [(x, n)])

    assert needs.need_low[0] == pytest.approx(1_000_000 / min(high, 1), rel=1e-6)
    assert needs.need_high[0] == pytest.approx(1_000_000 / low, rel=1e-6)


def test_the_interval_of_a_funnel_covers_the_true_need():
    # 5% and 12%, 4000 sessions; 2000 rounds. Measured 0.894 for a nominal 0.90; four standard errors are 0.027.
    random, hits = np.random.default_rng(3), 0
    for leads in random.binomial(4000, 0.05, 2000):
        needs = upstream_needs(1000, [(leads, 4000), (max(random.binomial(leads, 0.12), 1), leads)])
        hits += needs.need_low[0] <= 1000 / 0.006 <= needs.need_high[0]

    assert hits / 2000 == pytest.approx(0.9, abs=0.027)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, [(1, 2)]), r"target=0 must be a count above 0"),
        ((math.nan, [(1, 2)]), r"target=nan must be a count above 0"),
        ((10, []), r"steps=\[\] must be pairs"),
        ((10, [(3, 2)]), r"pairs of whole counts \(successes, trials\)\. Were they swapped"),
        ((10, [(0.5, 2)]), r"pairs of whole counts"),
        ((10, [(1, 2), (0, 5)]), r"cannot be computed, because a step never succeeded: .*0, 5"),
        ((10, [(0, 0)]), r"pairs of whole counts"),
    ],
)
def test_a_funnel_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(KpiError, match=re.compile(message)):
        upstream_needs(*arguments)


@pytest.mark.parametrize(("language", "said"), [("en", "20,000"), ("vi", "20.000")])
def test_the_sentence_names_the_first_step(language, said):
    assert said in upstream_needs(120, [(500, 10_000), (60, 500)]).sentence(language)
