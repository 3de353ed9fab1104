"""Monitors keep their stated rate on series that are only noise, find planted events, and never look ahead."""

import numpy as np
import pandas as pd
import pytest
from daily_worlds import score, world
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from kpi_helpers.errors import KpiError
from kpi_helpers.monitors import SLACK, _height, _tail, detect, judge, threshold

WEEK = np.exp(np.array([0.0, 0.1, -0.1, 0.05, 0.2, 0.4, 0.3]))


def calm(n=300, seed=0, base=400.0):
    """Counts with a weekly pattern and no event."""
    return np.random.default_rng(seed).poisson(base * np.resize(WEEK, n)).astype(float)


def told(values, **options):
    found = detect(values, **options)
    return list(zip(found["position"].tolist(), found["kind"], strict=True))


def rate(make, n, **options):
    """Alarm days a week of `n` series of noise, 420 days each."""
    found = sum(len(detect(make(np.random.default_rng(seed)), **options)) for seed in range(n))
    return found / (n * (420 - 56) / 7)


# The targets: recall .70, precision .85, every gap, at most 1.5 times the stated .02 false-alarm days a week; the best
# of thirteen detectors on such series reached .66, .87 and .014 (study behind the design, section 5a).


# In worlds as noisy as the last, weekday medians (limit 4.5) find .51 of dips, as they do in that table.
@pytest.mark.parametrize(("n", "how"), [(96, {"each": 1}), (48, {"each": 2}), (48, {"shock": 0.075})])
def test_planted_events_are_found_at_the_stated_rate(n, how):
    worlds = [world(seed, **how) for seed in range(n)]

    reached = score(worlds, [detect(w.values)["position"] for w in worlds])

    assert reached["gap"] == 1
    assert reached["recall"] >= 0.70 and reached["precision"] >= 0.85
    assert reached["false"] <= 0.03


def autoregressive(rng, phi=0.7):
    noise, jolts = np.zeros(420), rng.standard_normal(420) * 0.06
    for i in range(1, 420):
        noise[i] = phi * noise[i - 1] + jolts[i]
    return np.exp(6 + noise)


NOISE = {
    "counts": lambda rng: rng.poisson(np.resize(WEEK, 420) * rng.choice([10, 100, 1000])),
    "gauss": lambda rng: 5 + rng.standard_normal(420),
    "t3": lambda rng: np.exp(6 + 0.06 * rng.standard_t(3, 420)),
    "t4": lambda rng: np.exp(6 + 0.06 * rng.standard_t(4, 420)),
    "strong AR": autoregressive,
    "walk": lambda rng: np.exp(6 + np.cumsum(rng.standard_normal(420) * 0.02) + 0.06 * rng.standard_normal(420)),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise_alarms_no_more_than_half_above_the_stated_rate(kind):
    assert rate(NOISE[kind], 32) <= 1.5 * 0.02


@pytest.mark.parametrize("stated", [0.02, 0.05, 0.1, 0.5])
def test_series_without_events_alarm_at_the_stated_rate(stated):
    worlds = [world(seed, each=0) for seed in range(500, 532)]

    found = score(worlds, [detect(w.values, false_alarms_per_week=stated)["position"] for w in worlds])["false"]

    assert 0.3 * stated <= found <= 1.5 * stated


@pytest.mark.parametrize("run", [200, 600])
def test_height_of_the_cusum_is_reached_as_rarely_as_stated(run):
    rng = np.random.default_rng(run)
    height = _height(rng.standard_normal(20_000), 1 / run)
    total, lengths = np.zeros(2000), np.zeros(2000)
    going = np.ones(2000, bool)
    while going.any():
        total[going] = np.maximum(0, total[going] + rng.standard_normal(going.sum()) - SLACK)
        lengths += going
        going &= total <= height

    assert lengths.mean() == pytest.approx(run, rel=0.2)


@pytest.mark.parametrize("freedom", [3, 5, 20])
def test_tail_of_many_errors_is_that_of_their_student_t(freedom):
    many = stdtrit(freedom, (np.arange(4000) + 0.5) / 4000)

    assert _tail(many, 0.001, 1e-9)[1] == pytest.approx(stdtrit(freedom, 1 - 0.0005), rel=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_no_value_changes_what_was_said_before_it(seed):
    values = world(seed, each=3, quiet=60).values
    values[[100, 101, 240]] = np.nan
    all_days = judge(values)

    for n in (57, 58, 71, 120, 200, 241, 333, 419):
        pd.testing.assert_frame_equal(judge(values[:n]), all_days[all_days["position"] < n])
        changed = np.concatenate([values[:n], values[n:] * 7 + 1])
        pd.testing.assert_frame_equal(judge(changed)[: n - 56], all_days[all_days["position"] < n])


@pytest.mark.parametrize("factor", [1e-6, 7.0, 1e9])
@pytest.mark.parametrize("base", [2.0, 400.0])  # roots and logarithms
def test_the_unit_of_a_kpi_does_not_matter(factor, base):
    values = calm(base=base) * np.where(np.isin(np.arange(300), (150, 200)), 3, 1)

    assert told(values * factor) == told(values) != []


def test_a_start_in_other_days_moves_the_positions():
    values = world(1).values

    assert told(np.append(np.full(10, np.nan), values)) == [(at + 10, kind) for at, kind in told(values)]


def test_turning_a_series_over_turns_spikes_into_dips():
    values = np.random.default_rng(0).standard_normal(300)
    values[200], values[250] = 9, -9

    assert told(values) == [(200, "spike"), (250, "dip")]
    assert told(-values) == [(200, "dip"), (250, "spike")]


@pytest.mark.parametrize("to", [0.5, 0.78, 1.3, 4.0])
def test_a_shift_is_one_alarm_and_coming_back_is_none(to):
    values = calm()
    values[200:214] *= to

    found = told(values)

    assert [kind for _at, kind in found].count("shift") == 1
    assert all(200 <= at < 214 for at, _kind in found)
    assert len(found) <= 3


def test_a_lasting_shift_is_learnt():
    values = calm()
    values[200:] *= 1.5

    days = judge(values).set_index("position")

    assert days["kind"].iloc[-80:].eq("").all()
    assert days.loc[299, "expected"] == pytest.approx(1.5 * 400 * WEEK[299 % 7], rel=0.1)


@pytest.mark.parametrize(("factor", "kind"), [(0.0, "gap"), (0.3, "gap"), (0.6, "dip"), (2.0, "spike")])
def test_odd_days_are_named_and_leave_no_mark(factor, kind):
    values = calm()
    values[200:202] *= factor
    missing = np.where(np.isin(np.arange(300), (200, 201)), np.nan, values)

    assert told(values) == [(200, kind), (201, kind)]
    after = judge(values)["expected"][146:].to_numpy()
    assert after == pytest.approx(judge(missing)["expected"][146:].to_numpy(), rel=0.02)


def test_a_missing_day_is_a_gap_and_a_missing_weekday_is_none():
    values = calm()
    values[200] = np.nan
    values[210:] = np.nan
    shop = np.where(np.arange(300) % 7 == 6, np.nan, calm())

    assert told(values) == [(200, "gap"), *((at, "gap") for at in range(210, 217))]
    assert told(shop) == []


def test_a_counter_that_stays_at_nothing_is_a_gap_of_a_week_and_then_a_level():
    values = calm()
    values[200:] = 0

    assert told(values) == [*((at, "gap") for at in range(200, 207)), (207, "shift")]


def test_holidays_are_neither_judged_nor_learnt_from():
    values, tet = calm(), np.isin(np.arange(300), np.arange(200, 210))
    values[tet] *= 0.4
    values[203] = np.nan
    days = judge(values, holidays=tet)

    assert len(detect(values)) > 2 and days["kind"].eq("").all() and len(days) == 244
    other = judge(np.where(tet, 9999, values), holidays=tet)
    pd.testing.assert_frame_equal(other.drop(columns="observed"), days.drop(columns="observed"))


def test_start_only_leaves_out_days():
    values = world(2).values
    whole = detect(values)

    assert (whole["position"] >= 56).all() and len(whole) > 3
    for start in (0, 56, 200, 999):
        rest = whole[whole["position"] >= start].reset_index(drop=True)
        pd.testing.assert_frame_equal(detect(values, start=start), rest, check_dtype=bool(len(rest)))


def test_what_never_moved_or_hardly_ever_sold_is_judged_honestly():
    rare = np.random.default_rng(1).poisson(0.1, 400)

    assert told([5.0] * 100) == told([0.0] * 100) == told(rare) == []
    assert told([5.0] * 80 + [0.0] + [5.0] * 20) == [(80, "gap")]
    assert told([0.0] * 80 + [1.0] + [0.0] * 20) == [(80, "spike")]
    assert told(np.append(rare[:300], [40])) == [(300, "spike")]


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([1.0] * 56, {}, "56 days are known; 56 must pass"),
        ([np.nan] * 99, {}, "0 days are known"),
        ([1.0] * 100, {"season": 24}, "192 must pass"),
        ([1.0] * 99 + [np.inf], {}, "endless"),
        (np.ones((60, 2)), {}, r"shape \(60, 2\)"),
        (["a"] * 99, {}, "no number"),
        ([1.0] * 99, {"false_alarms_per_week": 0}, r"not in \(0, 1\]"),
        ([1.0] * 99, {"false_alarms_per_week": 1.5}, r"not in \(0, 1\]"),
        ([1.0] * 99, {"false_alarms_per_week": np.nan}, r"not in \(0, 1\]"),
        ([1.0] * 99, {"season": 0}, "whole number"),
        ([1.0] * 99, {"season": 3.5}, "whole number"),
        ([1.0] * 99, {"holidays": [0] * 98}, "holidays has shape"),
    ],
)
def test_what_cannot_be_judged_is_told(values, options, said):
    with pytest.raises(KpiError, match=said):
        detect(values, **options)


class TestThreshold:
    def test_by_hand(self):
        values = [1, 6, 1, 6, 6, 1, 1, np.nan, 6, np.nan, 6]

        assert threshold(values, above=5).tolist() == [3, 4, 5, 10]
        assert threshold(values, below=2, sustain=2, of=2).tolist() == [6]
        assert threshold(values, above=5, sustain=1, of=1).tolist() == [1, 3, 4, 8, 10]
        assert threshold([], above=1).tolist() == []

    @given(st.lists(st.floats(0, 10) | st.just(np.nan), max_size=40), st.integers(1, 4), st.integers(0, 3))
    def test_by_plain_counting(self, values, sustain, more):
        of = sustain + more
        plain = [i for i in range(len(values)) if sum(v > 5 for v in values[max(0, i - of + 1) : i + 1]) >= sustain]

        assert threshold(values, above=5, sustain=sustain, of=of).tolist() == plain

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({}, "Give a limit"),
            ({"above": 1, "below": 2}, "below=2 must be less than above=1"),
            ({"above": 1, "sustain": 4}, "sustain=4 must be in"),
            ({"above": 1, "sustain": 0}, "sustain=0 must be in"),
        ],
    )
    def test_what_is_refused(self, how, said):
        with pytest.raises(KpiError, match=said):
            threshold([1.0], **how)
