"""`kpi_helpers.looks`: boundaries of planned looks, always-valid intervals, the cost of peeking."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multivariate_normal, norm

from kpi_helpers.errors import KpiError
from kpi_helpers.looks import always_valid, peeking, sequential_boundaries

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

FIFTHS = [0.2, 0.4, 0.6, 0.8, 1]
# experiments.md G10: cumulative looks; p by look and the interval of the last, gbstats with planned_n=5000
CONTROL = ([100, 205, 309, 402, 498], [1000, 2000, 3000, 4000, 5000])
TREATMENT = ([120, 241, 359, 472, 585], [1000, 2000, 3000, 4000, 5000])
G10_P = [0.93888560396515, 0.65927876552039, 0.48184479358479, 0.19969831780045, 0.10262618883386]
G10_LAST = (-0.00162016929257, 0.03642016929257)

# rpact 3.3.4, sided = 2, alpha = .05 (experiments.md G9, printed to 7 decimals)
RPACT = [
    (FIFTHS, "obrien-fleming", [4.8768849, 3.3570119, 2.6802801, 2.2898168, 2.0310320]),
    (FIFTHS, "pocock", [2.4379767, 2.4268139, 2.4101938, 2.3966454, 2.3859846]),
    ([0.5, 1], "obrien-fleming", [2.9625880, 1.9685956]),
]

rising_shares = st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True).map(
    lambda parts: np.sort(parts) / 1000
)


@pytest.mark.parametrize(("shares", "spending", "expected"), RPACT)
def test_boundaries_match_rpact(shares, spending, expected):
    assert sequential_boundaries(shares, spending=spending) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize("shares", [[0.3, 0.45, 1.0], [0.1, 0.7, 0.72], [0.25, 0.5, 0.75]])
def test_unequal_boundaries_match_the_multivariate_normal(shares, spending):
    # independent: probability that no look crosses, by Genz' integration; two-sided spending of both sides
    z = sequential_boundaries(shares, spending=spending)
    t = np.array(shares)
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    normal = multivariate_normal(np.zeros(len(t)), correlation, abseps=1e-9, releps=1e-9, maxpts=2_000_000, seed=1)

    inside = normal.cdf(z, lower_limit=-z)

    last = shares[-1]
    spent = 4 * norm.sf(norm.isf(0.0125) / last**0.5) if spending != "pocock" else 0.05 * np.log1p((np.e - 1) * last)
    assert 1 - inside == pytest.approx(spent, abs=2e-6)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_false_alarms_over_all_looks_lie_in_the_band(spending):
    shares = np.array([0.1, 0.15, 0.4, 0.5, 0.8, 1.0])
    rng = np.random.default_rng(20261)
    paths = np.cumsum(rng.normal(size=(20_000, 6)) * np.sqrt(np.diff(shares, prepend=0)), axis=1) / np.sqrt(shares)
    z = sequential_boundaries(shares, spending=spending)
    low, high = binom.ppf([0.005, 0.995], 20_000, [0.05, 0.05])
    each = binom.ppf([0.005, 0.995], 20_000, [0.025, 0.025])

    assert low <= (np.abs(paths) > z).any(axis=1).sum() <= high
    for side in (paths, -paths):
        assert each[0] <= (side > z).any(axis=1).sum() <= each[1]


@given(st.floats(0.5, 0.999))
def test_one_look_is_the_plain_z(confidence):
    for spending in ("obrien-fleming", "pocock"):
        only = sequential_boundaries([1], spending=spending, confidence=confidence)
        assert only == pytest.approx([norm.isf((1 - confidence) / 2)], abs=1e-9)


@given(rising_shares)
def test_every_boundary_is_beyond_the_plain_z_and_needs_no_later_share(shares):
    for spending in ("obrien-fleming", "pocock"):
        z = sequential_boundaries(shares, spending=spending)
        assert np.all(z >= norm.isf(0.025) - 1e-9)
        assert sequential_boundaries(shares[:-1].tolist() or [1], spending=spending)[: len(z) - 1] == pytest.approx(
            z[:-1].tolist() or [norm.isf(0.025)][: len(z) - 1], abs=1e-9
        )


def test_looks_next_to_each_other_and_the_first_moments_do_not_break_it():
    early = sequential_boundaries([0.001, 0.0021, 0.5, 0.501, 0.502, 0.9, 1])

    assert np.isinf(early[:2]).all()  # nothing to spend that early
    assert early[2] == pytest.approx(2.9625880, abs=1e-7)  # so the half is rpact's
    assert np.isfinite(sequential_boundaries([0.001, 0.0021, 0.5, 0.501, 1], spending="pocock")).all()


def test_twenty_looks_take_less_than_a_tenth_of_a_second():
    shares = np.arange(1, 21) / 20
    start = time.process_time()
    sequential_boundaries(shares)

    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        ([0.5, 0.4], {}, "must rise by 0.001 or more"),
        ([0.5, 0.5], {}, "must rise by 0.001 or more"),
        ([0.5, 1.1], {}, "up to 1"),
        ([0, 1], {}, "up to 1"),
        ([], {}, "up to 1"),
        ([0.5, float("nan")], {}, "up to 1"),
        ([0.5, 0.50001], {}, "by 0.001 or more"),
        ([0.5, 1], {"spending": "obrien"}, "Did you mean obrien-fleming"),
        ([0.5, 1], {"confidence": 95}, "Write 0.95"),
    ],
)
def test_impossible_looks_are_told(shares, options, message):
    with pytest.raises(KpiError, match=message):
        sequential_boundaries(shares, **options)


def test_peeking_matches_the_known_shares():
    # experiments.md section 5: 200,000 simulated paths, so within .0025
    known = {1: 0.048, 2: 0.083, 5: 0.142, 10: 0.193, 20: 0.247, 50: 0.321}

    assert [peeking(n) for n in known] == pytest.approx(list(known.values()), abs=0.0025)
    assert peeking(1) == pytest.approx(0.05, abs=1e-12)
    # two correlated normals, exactly
    both = multivariate_normal([0, 0], [[1, 0.5**0.5], [0.5**0.5, 1]])
    z = norm.isf(0.025)
    assert peeking(2) == pytest.approx(1 - both.cdf([z, z], lower_limit=[-z, -z]), abs=1e-7)


@pytest.mark.parametrize("n_looks", [7, 30])
def test_peeking_matches_a_simulation(n_looks):
    steps = np.random.default_rng(5).normal(size=(40_000, n_looks))
    z = np.cumsum(steps, axis=1) / np.sqrt(np.arange(1, n_looks + 1))
    alarms = (np.abs(z) > norm.isf(0.05)).any(axis=1).sum()
    exact = peeking(n_looks, confidence=0.9)

    assert binom.ppf(0.005, 40_000, exact) <= alarms <= binom.ppf(0.995, 40_000, exact)


@pytest.mark.parametrize("n_looks", [0, 1001, 2.5, -1])
def test_peeking_needs_whole_looks(n_looks):
    with pytest.raises(KpiError, match="whole number from 1 to 1000"):
        peeking(n_looks)


def test_each_look_matches_golden_g10():
    for k, p in enumerate(G10_P):
        alone = [([x[k]], [n[k]]) for x, n in (CONTROL, TREATMENT)]
        assert always_valid(*alone, planned_n=5000).p_values == pytest.approx([p], rel=1e-9)
    assert (alone := always_valid(*alone, planned_n=5000)).low == pytest.approx(G10_LAST[:1], abs=5e-14)
    assert alone.high == pytest.approx(G10_LAST[1:], abs=5e-14)


def test_the_series_runs_minima_and_intersections_of_golden_g10():
    series = always_valid(CONTROL, TREATMENT, planned_n=5000)

    assert series.p_values == pytest.approx(np.minimum.accumulate(G10_P), rel=1e-9)
    assert (series.low[-1], series.high[-1]) == pytest.approx(G10_LAST, abs=5e-14)
    assert series.n == (2000, 4000, 6000, 8000, 10000)
    assert series.difference[-1] == pytest.approx(0.0174, abs=1e-12)
    assert list(series.to_frame().columns)[:5] == ["n", "difference", "p_values", "low", "high"]


def test_a_given_mixture_is_the_likelihood_ratio_integrated():
    # independent: the ratio of normal densities averaged over the mixture, by quadrature
    tau = 0.013
    series = always_valid(CONTROL, TREATMENT, mixture_sd=tau)
    (x0, n0), (x1, n1) = ([np.array(a) for a in arm] for arm in (CONTROL, TREATMENT))
    d, v = x1 / n1 - x0 / n0, x0 * (n0 - x0) / n0**3 + x1 * (n1 - x1) / n1**3
    true = np.linspace(-12 * tau, 12 * tau, 200_001)[:, None]

    ratio = (norm.pdf(d, true, v**0.5) / norm.pdf(d, 0, v**0.5) * norm.pdf(true, 0, tau)).sum(0) * (true[1] - true[0])

    assert series.p_values == pytest.approx(np.minimum.accumulate(np.minimum(1, 1 / ratio)), rel=1e-9)


def test_without_a_plan_it_is_tuned_to_the_last_look():
    assert always_valid(CONTROL, TREATMENT) == always_valid(CONTROL, TREATMENT, planned_n=10_000)
    # tuned there it is narrowest there
    narrow = [always_valid(CONTROL, TREATMENT, planned_n=n) for n in (2_500, 10_000, 40_000)]
    widths = [r.high[-1] - r.low[-1] for r in narrow]
    assert widths[1] < min(widths[0], widths[2])


def test_peeking_at_every_look_keeps_the_level():
    rng = np.random.default_rng(11)
    x = rng.binomial(200, 0.1, size=(2, 2_000, 30)).cumsum(axis=2)
    n = 200 * np.arange(1, 31)
    alarms = [always_valid((a, n), (b, n)).p_values[-1] < 0.05 for a, b in zip(*x, strict=True)]

    assert sum(alarms) <= binom.ppf(0.995, 2_000, 0.05)
    assert sum(alarms) < 0.03 * 2_000  # .011-.013 with 20 looks (experiments.md section 5)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_intervals_narrow_p_values_fall_and_both_agree(k, seed):
    rng = np.random.default_rng(seed)
    trials = rng.integers(20, 400, size=(2, k))
    (x0, x1), (n0, n1) = rng.binomial(trials, rng.uniform(0, 1, (2, 1))).cumsum(axis=1), trials.cumsum(axis=1)
    ab, ba = always_valid((x0, n0), (x1, n1)), always_valid((x1, n1), (x0, n0))

    assert ba.p_values == pytest.approx(ab.p_values, rel=1e-12)
    assert ba.low == pytest.approx(-np.array(ab.high), rel=1e-9, abs=1e-12, nan_ok=True)
    assert np.all(np.diff(ab.p_values) <= 0)
    for p, low, high in zip(ab.p_values, ab.low, ab.high, strict=True):
        if not np.isnan(low):
            assert (p < 0.05) == (not low <= 0 <= high)


def test_looks_before_anything_varies_are_unbounded():
    quiet = always_valid(([0, 0, 40], [0, 50, 500]), ([0, 0, 60], [0, 50, 500]))

    assert quiet.p_values[:2] == (1, 1) and np.isinf(quiet.low[:2]).all() and np.isinf(quiet.high[:2]).all()
    assert np.isfinite(quiet.high[2]) and quiet.reason == ""
    none = always_valid(([0], [50]), ([0], [50]))
    assert (none.p_values, none.reason) == ((1,), "unbounded")
    assert "because the results of a group do not vary" in none.sentence()


def test_an_effect_that_turns_round_empties_the_interval_and_says_so():
    turned = always_valid(([1000, 21_000], [10_000, 60_000]), ([2000, 17_000], [10_000, 60_000]))

    assert turned.low[0] > 0 and np.isnan([turned.low[1], turned.high[1]]).all()
    assert turned.reason == "empty" and turned.p_values[-1] < 0.05
    assert "no single difference fits all looks" in turned.sentence()
    assert "không có mức chênh lệch nào" in turned.sentence("vi")
    assert turned.to_json()["rows"][1]["low"] is None


def test_the_sentence_says_whether_to_stop():
    assert always_valid(CONTROL, TREATMENT, planned_n=5000).sentence() == (
        "After 10,000 customers and 5 looks the difference is +1.74 pp (−0.16 pp to +3.64 pp, valid at every look; "
        "p = 0.103): not enough to decide, go on."
    )
    clear = always_valid(([100], [1000]), ([200], [1000]))
    assert "may stop now" in clear.sentence() and "có thể dừng" in clear.sentence("vi")


@pytest.mark.parametrize(
    ("control", "treatment", "options", "message"),
    [
        (([1, 2], [10, 20]), ([1], [10]), {}, "control has 2 looks, treatment 1"),
        (([1, 2], [10]), ([1], [10]), {}, "control must be"),
        (([], []), ([], []), {}, "control must be"),
        (([5, 4], [10, 20]), ([1, 2], [10, 20]), {}, "control falls.*cumsum"),
        (([5, 9], [10, 11]), ([1, 2], [10, 20]), {}, "control falls in successes or misses"),
        (([1, 2], [10, 20]), ([11, 12], [10, 20]), {}, "treatment: need 0 <= successes <= trials.*swapped"),
        (([1, float("nan")], [10, 20]), ([1, 2], [10, 20]), {}, "control: need"),
        (([1], [10]), ([2], [10]), {"planned_n": 50, "mixture_sd": 0.1}, "Give one"),
        (([1], [10]), ([2], [10]), {"planned_n": 0}, "above 0"),
        (([1], [10]), ([2], [10]), {"mixture_sd": -1}, "above 0"),
        (([1], [10]), ([2], [10]), {"confidence": 95}, "Write 0.95"),
    ],
)
def test_impossible_counts_are_told(control, treatment, options, message):
    with pytest.raises(KpiError, match=message):
        always_valid(control, treatment, **options)
