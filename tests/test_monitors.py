"""Alarms of a daily series: worlds of known events, rates of false alarms, causality, laws, odd input."""

from functools import cache
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from daily_worlds import score, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kpi_helpers.errors import KpiError
from kpi_helpers.monitors import FREEDOM, LIMITS, SLACK, SPREAD, TAILS, _run_limit, detect, threshold


def positions(values, **how):
    return detect(values, **how)["position"].tolist()


#: harder than those of the comparison, where a rule of weekday medians finds twice as many dips
HARD = {"noise": (0.04, 0.10), "size": 200.0}


class TestWorlds:
    """Targets: recall .70, precision .85, every gap, false alarm days at most 1.5 times as stated (.02 a week)."""

    @pytest.mark.parametrize("world", [{}, {"per_kind": 2}, HARD], ids=["one of each", "two of each", "hard"])
    def test_recall_and_precision(self, world):
        found = score(positions, range(96), **world)

        assert found.recall >= (0.65 if world is HARD else 0.70)
        assert found.precision >= 0.85
        assert found.by_kind["gap"] == 1.0
        assert found.false_a_week <= 0.03

    CLEAN: ClassVar = {
        "as usual": {}, "heavy tails": {"df": 3, "noise": (0.04, 0.1)}, "errors last": {"carry": (0.6, 0.8)},
        "Poisson": {"noise": (1e-4, 2e-4), "size": 1e5, "drift": 0.0}, "drift": {"drift": 0.004},
    }  # fmt: skip

    @pytest.mark.parametrize("world", CLEAN)
    def test_false_alarms_where_nothing_happens(self, world):
        assert score(positions, range(500, 596), clean=True, **self.CLEAN[world]).false_a_week <= 0.03

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
    def test_other_rates(self, rate):
        found = score(lambda v: positions(v, false_alarms_per_week=rate), range(700, 732), clean=True)

        assert 0.3 * rate < found.false_a_week <= 1.5 * rate

    def test_a_normal_series_that_falls_below_zero(self):
        rng = np.random.default_rng(3)
        week = 3 * np.sin(2 * np.pi * np.arange(420) / 7)
        alarms = [len(positions(week + rng.standard_normal(420))) for _ in range(48)]

        assert sum(alarms) / (48 * 364) * 7 <= 0.03


@cache
def eventful():
    return simulate(4, per_kind=2).values


class TestCausal:
    @pytest.mark.parametrize("seed", range(6))
    def test_a_later_end_changes_no_row(self, seed):
        values = simulate(seed, per_kind=2).values
        values[[150, 290]] = np.nan
        whole = detect(values)

        for n in (57, 151, 200, 263, 355, 419):
            pd.testing.assert_frame_equal(
                detect(values[:n]), whole[whole["position"] < n], check_dtype=False, rtol=1e-12
            )

    @given(st.floats(0, 1e6), st.integers(60, 418))
    @settings(max_examples=20, deadline=None)
    def test_what_comes_later_does_not_matter(self, value, at):
        values = eventful().copy()
        values[at + 1 :] = value

        pd.testing.assert_frame_equal(*(f[f["position"] <= at] for f in (detect(values), detect(eventful()))))


class TestLaws:
    def test_the_unit_does_not_matter(self):
        one, other = detect(eventful()), detect(eventful() * 1e-4)

        assert one[["position", "kind"]].equals(other[["position", "kind"]])
        assert other["expected"].to_numpy() * 1e4 == pytest.approx(one["expected"].to_numpy(), nan_ok=True)

    def test_limits_and_kinds_agree(self):
        told = detect(eventful(), false_alarms_per_week=0.3)
        single = told[told["kind"].isin(["spike", "dip"])]

        assert {*told["kind"]} >= {"gap", "spike", "dip", "shift"}
        assert (told["low"] < told["expected"]).all() and (told["expected"] < told["high"]).all()
        out = (single["observed"] > single["high"]) | (single["observed"] < single["low"])
        assert out.all()

    def test_a_higher_rate_raises_no_fewer_alarms(self):
        counts = [len(detect(simulate(9).values, false_alarms_per_week=r)) for r in (0.005, 0.02, 0.1, 0.5)]

        assert counts == sorted(counts)

    def test_a_new_level_is_told_once_and_learned(self):
        rng = np.random.default_rng(1)
        values = rng.poisson(np.where(np.arange(400) < 200, 1000, 700)).astype(float)
        told = detect(values)

        assert told["kind"].tolist().count("shift") == 1
        assert told["position"].between(200, 206).all()

    @pytest.mark.parametrize("noise", [0.002, 0.02])
    @pytest.mark.parametrize("times", [0.5, 0.8, 1.5, 3.0])
    def test_a_large_new_level_is_learned_at_once(self, times, noise):
        rng = np.random.default_rng(7)
        values = 100 * np.exp(noise * rng.standard_normal(200)) * np.where(np.arange(200) < 120, 1, times)
        told = detect(values)

        assert "shift" in set(told["kind"]) and told["position"].between(120, 124).all()

    def test_single_days_around_it_are_known(self):
        values = np.tile([100.0, 120, 130, 110, 90, 60, 50], 40)
        values = values + np.arange(280) % 5
        values[[150, 170, 190]] = [260, 55, 3]
        told = detect(values)

        assert told[["position", "kind"]].to_numpy().tolist() == [[150, "spike"], [170, "dip"], [190, "gap"]]
        assert told["expected"].tolist() == pytest.approx([112, 132, 122], rel=0.1)

    def test_holidays_are_neither_judged_nor_learned_from(self):
        values, away = eventful().copy(), np.zeros(420, bool)
        away[230:240] = True
        values[230:240] *= 0.1
        told = detect(values, holidays=away)

        assert not told["position"].between(230, 239).any()
        values[230:240] = np.nan
        pd.testing.assert_frame_equal(told, detect(values, holidays=away))

    def test_a_shop_that_is_closed_on_sundays_has_no_gaps(self):
        rng = np.random.default_rng(2)
        for closed in (0.0, np.nan):
            values = rng.poisson(300, 280).astype(float)
            values[6::7] = closed

            assert not (detect(values)["kind"] == "gap").any()

    def test_run_length_of_cusum(self):
        rng = np.random.default_rng(5)
        limit, lengths = _run_limit(250), []
        for _run in range(400):
            total = n = 0
            while total <= limit:
                total, n = max(0.0, total + rng.standard_normal() - SLACK), n + 1
            lengths.append(n)

        assert np.mean(lengths) == pytest.approx(250, rel=0.2)

    def test_tails_are_those_of_student(self):
        for j, df in enumerate(FREEDOM):
            scale = 1.4826 * stats.t.ppf(0.75, df)
            assert SPREAD[j] == pytest.approx(scale)
            assert TAILS[:, j] == pytest.approx(2 * stats.t.sf(LIMITS * scale, df))


class TestOddInput:
    @pytest.mark.parametrize(
        ("values", "how", "said"),
        [
            ([[1.0]], {}, "values has 2 dimensions: give one series"),
            ([1.0, np.inf], {}, "endless in places: give NaN"),
            (range(99), {"false_alarms_per_week": 0}, r"false_alarms_per_week=0 is not in \(0, 1\]"),
            (range(99), {"start": 20}, "start=20: the first 35 days are needed"),
            (range(99), {"season": 1}, "season=1: a pattern has 2 days or more"),
            (range(99), {"holidays": [True]}, "holidays must have a value a day"),
        ],
    )
    def test_what_is_refused(self, values, how, said):
        with pytest.raises(KpiError, match=said):
            detect(values, **how)

    @pytest.mark.parametrize("values", [[], [5.0] * 56, [np.nan] * 300, [0.0] * 300, [7.0] * 300])
    def test_nothing_to_judge(self, values):
        assert len(detect(values)) == 0

    def test_a_constant_series_that_moves(self):
        assert detect([7.0] * 100 + [9.0] + [7.0] * 20)["position"].tolist() == [100]

    def test_mostly_nothing_is_not_judged(self):
        assert len(detect(np.random.default_rng(8).poisson(0.3, 420))) == 0


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
