"""`kpi_helpers.targets`: odds and grades of uplifts, exact allocation, projection by season."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from kpi_helpers.errors import KpiError
from kpi_helpers.targets import GRADES, allocate, grade_uplifts, project, rank

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
