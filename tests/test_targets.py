"""`kpi_helpers.targets`: odds and grades of uplifts, exact allocation, projection by season."""

import math
import re
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from kpi_helpers.errors import KpiError
from kpi_helpers.targets import (
    GRADES,
    allocate,
    allocate_levels,
    chance_of_all,
    grade_uplifts,
    project,
    rank,
    target_at,
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# kpi_baselines.md §7, G3: period total ~ N(12000, 900²). Odds are printed to 5 or 6 decimals, the rest to 1e-6.
G3_ODDS = [
    (0.10, 0.091211, 5e-7, "ambitious"),
    (0.15, 0.02275, 5e-6, "unrealistic"),
    (0.20, 0.00383, 5e-6, "unrealistic"),
]
G3_TARGETS = [(0.8, 11242.5409), (0.5, 12000), (0.2, 12757.4591)]
G3_ELASTICITIES = [(0.10, 1.0), (0.15, 1.466391), (0.20, 1.912928), (1.0, 7.272541)]
# kpi_baselines.md §7, G4: a year of 120,000 with the deep month of Tết
G4_INDICES = [0.9, 0.6, 0.9, 1, 1, 1, 1, 1, 1.05, 1.1, 1.15, 1.3]
G4_MONTHS = [9000, 6000, 9000, 10000, 10000, 10000, 10000, 10000, 10500, 11000, 11500, 13000]
G4_ACTUALS = [9100, 5600, 9400]

means, spreads = st.floats(1e-3, 1e9), st.floats(1e-3, 10)
weights = st.lists(st.integers(0, 10**6) | st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3)
totals = st.integers(0, 10**15)


@pytest.mark.parametrize(("uplift", "probability", "printed", "grade"), G3_ODDS)
def test_odds_match_golden_g3(uplift, probability, printed, grade):
    graded = grade_uplifts(12000, 900, [uplift])

    assert graded.target == pytest.approx([12000 * (1 + uplift)], rel=1e-12)
    assert graded.probability == pytest.approx([probability], abs=printed)  # half the last printed digit
    assert graded.grade == (grade,)


@pytest.mark.parametrize(("probability", "target"), G3_TARGETS)
def test_the_target_of_a_chance_matches_golden_g3(probability, target):
    # the target is printed to 4 decimals, which is 5e-9 of it: the odds agree far within 1e-6
    assert grade_uplifts(12000, 900, [target / 12000 - 1]).probability == pytest.approx([probability], rel=1e-6)


@pytest.mark.parametrize(("uplift", "elasticity"), G3_ELASTICITIES)
def test_the_implied_elasticity_matches_golden_g3(uplift, elasticity):
    graded = grade_uplifts(12000, 900, [uplift], spend_growth=0.10)

    assert graded.implied_elasticity == pytest.approx([elasticity], rel=1e-6)


def test_more_spend_moves_the_odds_as_golden_g3_says():
    # factor 1.058853, mean 12706.2342: the mean is reached with even odds
    even = grade_uplifts(12000, 900, [12706.2342 / 12000 - 1, 0.058853], spend_growth=0.10, elasticity=0.6)
    unsure = grade_uplifts(12000, 900, [0.10], spend_growth=0.10, elasticity=0.6, elasticity_se=0.1)

    assert even.probability == pytest.approx([0.5, 0.5], abs=3e-6)  # half the last printed digit of the factor
    assert unsure.probability == pytest.approx([0.293314], abs=5e-7)
    assert unsure.grade == ("stretch",)


@pytest.mark.parametrize(
    ("uplift", "options", "rejected"),
    [
        (1.00, {}, True),  # G3: double the traffic for 10% more spend implies 7.27
        (0.15, {}, False),  # 1.466
        (0.20, {}, True),  # 1.913
        (0.20, {"elasticity": 0.6, "elasticity_se": 0.1}, True),  # the upper bound 0.796 is below 1.5
        (0.20, {"elasticity": 1.6, "elasticity_se": 0.2}, False),  # history supports up to 1.992
        (0.20, {"elasticity": 1.8}, True),
        (-0.10, {}, False),
    ],
)
def test_an_elasticity_out_of_reach_is_rejected(uplift, options, rejected):
    graded = grade_uplifts(12000, 900, [uplift], spend_growth=0.10, **options)

    assert graded.rejected == (rejected,)
    assert ("rejected" in graded.sentence(), "bị loại" in graded.sentence("vi")) == (rejected, rejected)


def test_the_sentence_says_why_a_target_is_rejected():
    plain = grade_uplifts(12000, 900, [1.0], spend_growth=0.10)
    known = grade_uplifts(12000, 900, [1.0], spend_growth=0.10, elasticity=1.6, elasticity_se=0.2)

    why = "+100% for +10% spend implies an elasticity of 7.27; "
    assert why + "at most 1.50 is plausible: rejected" in plain.sentence()
    assert why + "history supports at most 1.99: rejected" in known.sentence()
    assert "+100% khi chi phí +10% đòi hỏi độ co giãn 7,27" in plain.sentence("vi")
    assert plain.grade == ("unrealistic",)  # the grade stays one of odds


@pytest.mark.parametrize("growth", [None, 0.0, -0.2])
def test_without_more_spend_no_elasticity_is_implied(growth):
    graded = grade_uplifts(12000, 900, [-0.3, 0.1, 3.0], spend_growth=growth)

    assert np.isnan(graded.implied_elasticity).all()
    assert graded.rejected == (False, False, False)


def test_a_cost_that_falls_is_not_rejected_for_its_elasticity():
    assert grade_uplifts(12000, 900, [0.9], spend_growth=0.10, direction="down").rejected == (False,)


@given(st.floats(0.01, 3), st.floats(0.001, 3), st.floats(-1, 3), st.floats(0, 1))
def test_rejection_follows_the_rule(uplift, growth, elasticity, se):
    graded = grade_uplifts(12000, 900, [uplift], spend_growth=growth, elasticity=elasticity, elasticity_se=se)

    assert graded.rejected[0] == (math.log1p(uplift) / math.log1p(growth) > max(1.5, elasticity + 1.96 * se))


def test_targets_at_chosen_odds_match_golden_g3():
    odds, printed = zip(*G3_TARGETS, strict=True)

    assert target_at(12000, 900, odds) == pytest.approx(printed, abs=5e-5)  # half the last printed digit
    mirrored = [24_000 - t for t in printed]
    assert target_at(12000, 900, odds, direction="down") == pytest.approx(mirrored, abs=5e-5)


@given(means, spreads, st.floats(0.001, 0.999), st.sampled_from(["up", "down"]))
def test_a_target_is_reached_with_the_odds_that_it_was_set_for(mean, spread, odds, direction):
    target = float(target_at(mean, spread * mean, odds, direction))

    chance = norm(mean, spread * mean).sf(target) if direction == "up" else norm(mean, spread * mean).cdf(target)
    assert chance == pytest.approx(odds, rel=1e-9)


def test_targets_are_set_for_many_at_once():
    assert target_at([100, 200], [10, 20], [[0.5], [0.2]]).shape == (2, 2)


@pytest.mark.parametrize("changed", [{"odds": 0}, {"odds": 1}, {"odds": 80}, {"odds": math.nan}, {"sd": 0},
                                     {"sd": math.nan}, {"mean": math.inf}, {"direction": "lower"}])  # fmt: skip
def test_odds_that_are_none_are_refused(changed):
    with pytest.raises(KpiError, match=rf"{next(iter(changed))}=.*odds in \(0, 1\)"):
        target_at(**{"mean": 12000, "sd": 900, "odds": 0.8} | changed)


def together(limits, correlation, directions="up"):
    """Odds that standard normals all reach `limits`."""
    k = len(limits)
    return chance_of_all(np.zeros(k), np.ones(k), correlation, limits, directions)


def one_factor(limits, rho):
    """An independent integral for equal correlations: given the common factor the rest is independent."""

    def at(z):
        return norm.pdf(z) * np.prod(norm.sf((np.array(limits) - math.sqrt(rho) * z) / math.sqrt(1 - rho)))

    return quad(at, -9, 9, epsabs=1e-10)[0]


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12), st.floats(0, 0.95))
@settings(max_examples=40)
def test_odds_of_all_match_an_integral_over_a_common_factor(limits, rho):
    correlation = np.full((len(limits), len(limits)), rho) + (1 - rho) * np.eye(len(limits))

    assert together(limits, correlation) == pytest.approx(one_factor(limits, rho), abs=1e-3)


@pytest.mark.parametrize("rho", [-1.0, -0.7, 0.0, 0.3, 0.9, 1.0])
def test_two_coin_tosses_follow_sheppard(rho):
    # Sheppard (1899): both above their means with 1/4 + asin(rho) / 2 pi
    assert together([0, 0], [[1, rho], [rho, 1]]) == pytest.approx(0.25 + math.asin(rho) / (2 * math.pi), abs=1e-6)


@st.composite
def problems(draw):
    k = draw(st.integers(2, 6))
    values = draw(st.lists(st.floats(-1, 1), min_size=k * k, max_size=k * k))
    loadings = np.array(values).reshape(k, k) + 0.1 * np.eye(k)
    covariance = loadings @ loadings.T + 1e-6 * np.eye(k)
    spread = np.sqrt(np.diag(covariance))
    limits = draw(st.lists(st.floats(-2, 2), min_size=k, max_size=k))
    ways = draw(st.lists(st.sampled_from(["up", "down"]), min_size=k, max_size=k))
    return np.array(limits), covariance / np.outer(spread, spread), ways


@given(problems())
@settings(max_examples=60)
def test_odds_of_all_match_scipy_and_keep_frechets_bounds(problem):
    limits, correlation, ways = problem
    sign = np.where(np.array(ways) == "up", 1, -1)
    alone = norm.sf(sign * limits)

    found = together(limits, correlation, ways)
    flipped = sign[:, None] * correlation * sign
    expected = multivariate_normal(cov=flipped, allow_singular=True, seed=11).cdf(-sign * limits)

    assert found == pytest.approx(expected, abs=2e-3)
    assert max(0, alone.sum() - len(limits) + 1) - 1e-12 <= found <= alone.min() + 1e-12
    assert together(limits, np.eye(len(limits)), ways) == pytest.approx(alone.prod(), abs=1e-4)
    assert together(limits, np.outer(sign, sign), ways) == pytest.approx(alone.min(), abs=1e-6)
    assert found == together(limits, correlation, ways)  # the same every time


def test_units_drop_out_of_the_odds_of_all():
    correlation = [[1, 0.4], [0.4, 1]]

    plain = together([1, -0.5], correlation, ["up", "down"])
    scaled = chance_of_all([12000, 3], [900, 0.2], correlation, [12900, 2.9], ["up", "down"])

    assert scaled == pytest.approx(plain, abs=1e-9)
    assert plain == pytest.approx(multivariate_normal(cov=[[1, -0.4], [-0.4, 1]]).cdf([-1, -0.5]), abs=1e-5)


def test_a_correlation_that_no_data_can_have_is_mended():
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    slightly = np.array([[1, 0.8, 0.6], [0.8, 1, 0], [0.6, 0, 1]]) + 1e-9 * (1 - np.eye(3))

    assert np.linalg.eigvalsh(impossible).min() < -0.5
    assert 0 <= together([0, 0, 0], impossible) <= 0.5

    # the first is 0.8 of the second plus 0.6 of the third: an integral over these two
    def at(z):
        return norm.pdf(z) * norm.sf(max(0.0, -0.8 / 0.6 * z))

    assert together([0, 0, 0], slightly) == pytest.approx(quad(at, 0, 9)[0], abs=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"means": [1, 2, 3]}, {"sds": [1, 0]}, {"targets": [1, math.nan]}, {"directions": ["up"]},
        {"directions": "lower"}, {"correlation": np.eye(3)}, {"correlation": [[1, 0.5], [0.4, 1]]},
        {"correlation": [[1, math.nan], [math.nan, 1]]}, {"correlation": [[2, 0], [0, 1]]},
        {"correlation": [[1, 1.2], [1.2, 1]]}, {"means": [], "sds": [], "targets": [], "correlation": []},
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_together_are_refused(changed):
    arguments = {"means": [1, 2], "sds": [1, 1], "correlation": np.eye(2), "targets": [1, 2]} | changed

    with pytest.raises(KpiError, match=r"means need as many sds above 0, targets, directions \(up, down\)"):
        chance_of_all(**arguments)


def test_without_an_elasticity_the_odds_are_those_of_the_status_quo():
    plain, spending = grade_uplifts(12000, 900, [0.1, 0.2]), grade_uplifts(12000, 900, [0.1, 0.2], spend_growth=0.10)

    assert spending.probability == plain.probability
    assert np.isnan(plain.implied_elasticity).all()
    assert np.isnan(grade_uplifts(12000, 900, [0.1], spend_growth=0.0).implied_elasticity).all()


@given(means, spreads, st.floats(-0.9, 3), st.integers(-90, 300), st.floats(-2, 2), st.floats(0, 1))
def test_odds_match_scipy(mean, spread, uplift, percent, elasticity, se):
    sd, growth = spread * mean, percent / 100
    centre = mean * (1 + growth) ** elasticity
    expected = norm.sf(mean * (1 + uplift), centre, math.hypot(sd, centre * math.log(1 + growth) * se))

    graded = grade_uplifts(mean, sd, [uplift], spend_growth=growth, elasticity=elasticity, elasticity_se=se)

    assert graded.probability == pytest.approx([expected], rel=1e-6, abs=1e-12)


@given(means, spreads, st.lists(st.floats(-0.99, 5), min_size=2, max_size=6))
def test_a_higher_target_is_never_more_likely(mean, spread, uplifts):
    graded = grade_uplifts(mean, spread * mean, sorted(uplifts))

    assert (np.diff(graded.probability) <= 0).all()
    assert (np.diff([[g for _p, g in GRADES].index(grade) for grade in graded.grade]) >= 0).all()


@given(st.floats(0.01, 5), st.floats(0.01, 5), st.floats(-0.9, 0.9))
def test_a_wider_spread_draws_the_odds_to_a_half(one, other, uplift):
    narrow, wide = (grade_uplifts(1.0, sd, [uplift]).probability[0] for sd in sorted([one, other]))

    assert abs(wide - 0.5) <= abs(narrow - 0.5) + 1e-12


@given(st.floats(100, 1e6), st.floats(1, 1.5), st.floats(-0.9, 1))
def test_a_higher_forecast_makes_the_same_target_likelier(mean, factor, uplift):
    target = mean * (1 + uplift)

    low, high = (grade_uplifts(m, 0.1 * mean, [target / m - 1]).probability[0] for m in (mean, mean * factor))

    assert low <= high + 1e-12


@given(means, spreads, st.floats(-0.9, 0.9))
def test_lower_is_better_mirrors_higher_is_better(mean, spread, uplift):
    up = grade_uplifts(mean, spread * mean, [uplift])
    down = grade_uplifts(mean, spread * mean, [uplift], direction="down")

    assert down.probability == pytest.approx(up.probability, rel=1e-9, abs=1e-12)  # as likely 10% lower as 10% higher
    assert down.target == pytest.approx([mean * (1 - uplift)], rel=1e-12)
    assert down.uplift == up.uplift


def test_lower_is_better_gets_harder_with_a_dearer_forecast():
    # spend 10% up makes costs of elasticity 0.6 rise to 12706: 10% below 12000 is the less likely
    still, dearer = (
        grade_uplifts(12000, 900, [0.1], direction="down", spend_growth=0.1, elasticity=e).probability[0]
        for e in (0.0, 0.6)
    )

    assert dearer == pytest.approx(norm.cdf(10800, 12706.2342, 900), rel=1e-6)
    assert dearer < still == pytest.approx(0.091211, abs=5e-7)


@pytest.mark.parametrize(
    ("chance", "grade"),
    [
        (1.0, "safe"), (0.5, "safe"), (np.nextafter(0.5, 0), "stretch"), (0.2, "stretch"),
        (np.nextafter(0.2, 0), "ambitious"), (0.05, "ambitious"), (np.nextafter(0.05, 0), "unrealistic"),
        (0.0, "unrealistic"),
    ],
)  # fmt: skip
def test_a_bound_belongs_to_the_better_grade(chance, grade):
    assert rank(chance, GRADES) == grade


def test_the_expected_total_itself_is_safe():
    graded = grade_uplifts(12000, 900, [0.0, 1e-9])

    assert graded.probability[0] == 0.5
    assert graded.grade == ("safe", "stretch")


def test_a_single_uplift_needs_no_list_and_a_table_has_the_promised_columns():
    frame = grade_uplifts(12000, 900, 0.10, spend_growth=0.10).to_frame()

    assert {"uplift", "probability", "grade", "implied_elasticity"} <= set(frame.columns)
    assert frame[["uplift", "grade"]].to_numpy().tolist() == [[0.10, "ambitious"]]


@pytest.mark.parametrize(("language", "words"), [("en", ["<1%", "unrealistic", ">99%", "safe"]),
                                                 ("vi", ["<1%", "không khả thi", ">99%", "an toàn"])])  # fmt: skip
def test_what_is_said_survives_on_its_way_to_json(language, words):
    # "<1% ... >" looks like a tag to whoever strips markup
    graded = grade_uplifts(12000, 900, [0.5, -0.5])

    said = graded.to_json()["sentence"][language]

    assert [w for w in words if w not in said] == []


def test_a_history_that_never_missed_its_forecast_has_no_odds():
    with pytest.raises(KpiError, match=r"cannot be computed, because sd=0"):
        grade_uplifts(12000, 0, [0.1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": 0}, r"mean=0 must be above 0"),
        ({"mean": -5}, r"mean=-5 must be above 0"),
        ({"mean": math.nan}, r"mean=nan must be above 0"),
        ({"mean": math.inf}, r"mean=inf must be above 0"),
        ({"sd": -1}, r"sd=-1 must be a standard deviation"),
        ({"sd": math.nan}, r"sd=nan must be a standard deviation"),
        ({"sd": math.inf}, r"sd=inf must be a standard deviation"),
        ({"uplifts": [0.1, -1.0]}, r"uplifts=.*fractions above -1: 0\.10 is 10%"),
        ({"uplifts": [math.nan]}, r"uplifts=.*fractions above -1"),
        ({"uplifts": [math.inf]}, r"uplifts=.*fractions above -1"),
        ({"direction": "lower"}, r"direction='lower' is neither 'up' nor 'down'"),
        ({"direction": "down", "uplifts": [1.0]}, r"cannot fall by 100% or more"),
        ({"spend_growth": -1.0}, r"spend_growth=-1\.0 must be above -1: 0\.10 is 10%"),
        ({"spend_growth": math.nan}, r"spend_growth=nan must be above -1"),
        ({"elasticity": 0.6}, r"elasticity needs spend_growth\. Pass both or neither"),
        ({"elasticity_se": 0.1, "spend_growth": 0.1}, r"elasticity_se=0\.1 needs an elasticity"),
        ({"elasticity_se": -0.1, "spend_growth": 0.1, "elasticity": 0.6}, r"elasticity_se=-0\.1.*not be negative"),
        ({"elasticity_se": math.nan, "spend_growth": 0.1, "elasticity": 0.6}, r"elasticity_se=nan"),
        ({"elasticity": math.nan, "spend_growth": 0.1}, r"elasticity=nan"),
    ],
)
def test_a_bad_argument_is_refused_with_the_remedy(changed, message):
    arguments = {"mean": 12000, "sd": 900, "uplifts": [0.1]} | changed

    with pytest.raises(KpiError, match=re.compile(message, re.DOTALL)):
        grade_uplifts(**arguments)


def test_allocation_matches_golden_g4():
    assert allocate(120_000, G4_INDICES) == G4_MONTHS


def test_ties_go_to_the_earlier():
    assert allocate(10, [1, 1, 1]) == [4, 3, 3]
    assert allocate(2, [0.1, 0.1, 0.1]) == [1, 1, 0]
    assert allocate(1, [0.7, 0.1, 0.7]) == [1, 0, 0]
    assert allocate(3, [0.5, 1.5, 1]) == [1, 1, 1]  # 0.5, 1.5, 1: the first of two halves
    assert allocate(3, [0.3, 0.2, 0.1]) == [2, 1, 0]  # 1.5, 1, 0.5: a tie as written, though not in binary


@given(totals, weights)
@example(10**15, [1, 3, 10**6])
@example(7, [1e-12, 1e6])
def test_the_parts_add_up_and_lie_within_one_of_their_share(total, weights):
    parts = allocate(total, weights)
    whole = sum(Fraction(repr(float(w))) for w in weights)

    assert sum(parts) == total
    assert all(isinstance(part, int) for part in parts)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * Fraction(repr(float(weight))) / whole) < 1
        assert part == 0 or weight > 0


@given(totals, st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any))
def test_no_other_split_gives_more_to_the_larger_remainder(total, weights):
    # an independent largest remainder in whole numbers
    shares = [divmod(total * w, sum(weights)) for w in weights]
    order = sorted(range(len(weights)), key=lambda i: -shares[i][1])  # a stable sort keeps the earlier first
    expected = [whole for whole, _rest in shares]
    for i in order[: total - sum(expected)]:
        expected[i] += 1

    assert allocate(total, weights) == expected


@given(st.data(), totals, st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(any))
def test_the_order_of_the_weights_matters_to_ties_alone(data, total, weights):
    order = data.draw(st.permutations(range(len(weights))))

    parts, shuffled = allocate(total, weights), allocate(total, [weights[i] for i in order])

    assert sorted(shuffled) == sorted(parts)
    assert all(abs(shuffled[k] - parts[i]) <= 1 for k, i in enumerate(order))


@given(totals, weights, st.sampled_from([2.0, 0.5, 1024.0]))
def test_only_the_proportions_of_the_weights_matter(total, weights, factor):
    exact = [float(int(w)) for w in weights]
    if sum(exact):
        assert allocate(total, [w * factor for w in exact]) == allocate(total, exact)


@pytest.mark.parametrize("total", [10**15, 10**15 + 1, 2**53 + 1, 10**18 + 1])
def test_a_huge_total_loses_nothing(total):
    parts = allocate(total, [1, 1, 1])

    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("total", [10, 10.0, np.int64(10), np.float64(10)])
def test_a_whole_number_of_any_type_is_split(total):
    assert allocate(total, np.array([1, 3])) == [3, 7]


@pytest.mark.parametrize("total", [10.5, -1, -0.5, math.nan, math.inf])
def test_a_total_that_is_no_count_is_refused_with_the_remedy(total):
    with pytest.raises(KpiError, match=rf"total={total} must be a whole number, 0 or more\. Round it"):
        allocate(total, [1, 2])


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [1, math.nan], [1, math.inf], [[1, 2]]])
def test_weights_that_are_no_proportions_are_refused(weights):
    with pytest.raises(KpiError, match=re.compile(r"weights=.*none negative, not all 0", re.DOTALL)):
        allocate(10, weights)


def leaves(depth=4, most=3):
    """Weights by year, month, week and channel."""
    keys = st.lists(st.tuples(*[st.integers(0, most)] * depth), min_size=1, max_size=25, unique=True)
    return keys.flatmap(
        lambda ks: (
            st.lists(st.integers(0, 10**4) | st.floats(0, 1e4), min_size=len(ks), max_size=len(ks))
            .filter(lambda w: sum(w) > 1e-3)
            .map(lambda w: pd.Series(w, pd.MultiIndex.from_tuples(ks, names=["year", "month", "week", "channel"])))
        )
    )


@given(st.integers(0, 10**12), leaves())
def test_every_level_adds_up_to_its_parent_and_lies_within_one_of_its_share(total, weights):
    parts = allocate_levels(total, weights)

    assert parts.index.equals(weights.index)
    assert parts.sum() == total

    def sums(values, level):
        found = {}
        for key, value in zip(weights.index, values, strict=True):
            found[key[:level]] = found.get(key[:level], 0) + value
        return found

    exact = [Fraction(repr(float(w))) for w in weights]
    for level in range(1, 5):
        above, above_weight = sums(parts, level - 1), sums(exact, level - 1)
        got, weight = sums(parts, level), sums(exact, level)
        for name, part in got.items():
            assert abs(part - above[name[:-1]] * weight[name] / (above_weight[name[:-1]] or 1)) < 1
        for name, whole in above.items():
            assert sum(part for key, part in got.items() if key[:-1] == name) == whole


@given(st.integers(0, 10**9), leaves(), st.sampled_from([2.0, 0.5, 1024.0]))
def test_only_the_proportions_of_the_leaves_matter(total, weights, factor):
    weights = weights.astype(int).astype(float)
    if weights.sum():
        assert allocate_levels(total, weights * factor).equals(allocate_levels(total, weights))


@given(totals, weights)
def test_one_level_is_plain_allocation(total, weights):
    assert allocate_levels(total, pd.Series(weights)).tolist() == allocate(total, weights)


def test_a_year_goes_down_to_months_and_channels_in_the_order_given():
    # G4's year; half of each month to either channel, the odd one to the earlier; rows of a month stand apart
    index = [(month, channel) for channel in ("Zalo OA", "Ads") for month in range(12)]
    weights = pd.Series([*G4_INDICES, *G4_INDICES], pd.MultiIndex.from_tuples(index, names=["month", "channel"]))

    parts = allocate_levels(120_001, weights)

    by_month = parts.groupby("month").sum()
    assert np.abs(by_month - G4_MONTHS).max() <= 1
    assert by_month.sum() == 120_001
    assert (parts.xs("Zalo OA", level="channel") - parts.xs("Ads", level="channel")).tolist() == (by_month % 2).tolist()
    assert parts.index.equals(weights.index)


def test_ties_go_to_the_branch_named_first_even_as_decimals():
    # 0.1 + 0.2 and 0.3 are a tie as written, though not in binary
    weights = pd.Series([0.1, 0.2, 0.3], pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]))

    assert allocate_levels(1, weights).tolist() == [0, 1, 0]
    assert allocate_levels(1, weights.iloc[[2, 0, 1]]).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("total", "values", "index", "message"),
    [
        (10.5, [1, 2], [("a", 1), ("a", 2)], r"total=10\.5 must be a whole number"),
        (10, [0, 0], [("a", 1), ("a", 2)], r"none negative, not all 0"),
        (10, [1, math.nan], [("a", 1), ("a", 2)], r"none negative, not all 0"),
        (10, [1, 2], [("a", 1), ("a", 1)], r"weights need a unique index, none missing"),
        (10, [1, 2], [("a", 1), ("a", None)], r"weights need a unique index, none missing"),
    ],
)
def test_leaves_that_cannot_be_split_are_refused(total, values, index, message):
    with pytest.raises(KpiError, match=message):
        allocate_levels(total, pd.Series(values, pd.MultiIndex.from_tuples(index)))


def test_projection_matches_golden_g4():
    assert project(G4_ACTUALS, G4_INDICES) == pytest.approx(120_500, rel=1e-12)
    assert project(G4_ACTUALS, G4_MONTHS) == pytest.approx(120_500, rel=1e-12)


def test_projection_is_not_a_straight_line():
    assert project(G4_ACTUALS, G4_INDICES) != pytest.approx(24_100 * 4, rel=0.1)  # G4: 96,400 must not be reported


def test_projection_takes_the_season_of_the_periods_it_knows():
    # without February the other two stand for 1.8 of 12
    assert project([9100, math.nan, 9400], G4_INDICES) == pytest.approx(18_500 * 12 / 1.8, rel=1e-12)
    assert project([9100, math.nan, 9400, math.nan], G4_INDICES) == pytest.approx(18_500 * 12 / 1.8, rel=1e-12)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20), st.integers(1, 20), st.floats(0.01, 100))
def test_a_year_on_its_season_is_projected_exactly(season, known, level):
    actuals = [level * w for w in season[:known]]

    assert project(actuals, season) == pytest.approx(level * sum(season), rel=1e-9)


def test_a_whole_year_is_its_own_projection():
    assert project(G4_MONTHS, np.ones(12)) == 120_000


@pytest.mark.parametrize(
    ("actuals", "weights", "message"),
    [
        ([1, 2, 3], [1, 1], r"3 actuals but 2 weights\. Give a weight for each period"),
        ([1], [1, -1], r"weights must be numbers, none negative and none missing"),
        ([1], [1, math.nan], r"weights must be numbers, none negative and none missing"),
        ([], [1, 1], r"cannot be computed, because no period with weight is known"),
        ([math.nan], [1, 1], r"cannot be computed, because no period with weight is known"),
        ([5.0], [0, 1], r"cannot be computed, because no period with weight is known"),
    ],
)
def test_a_projection_from_nothing_is_refused(actuals, weights, message):
    with pytest.raises(KpiError, match=message):
        project(actuals, weights)
