"""`kpi_helpers.baselines.forecast` against an independent seasonal naive rule, its properties, and its refusals."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from kpi_helpers.baselines import forecast
from kpi_helpers.errors import KpiError

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

SEASON = [10.0, 12.0, 11.0, 13.0]
histories = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))


def noisy(n, *, season, seed):
    """Seasonal series with trend and noise (n,)."""
    rng = np.random.default_rng(seed)
    return 100 + 10 * rng.standard_normal(season)[np.arange(n) % season] + 0.1 * np.arange(n) + rng.standard_normal(n)


def naive_by_hand(values, *, season, horizon):
    """Value of the latest known season plus the mean change over the same distance, step by step, with pandas."""
    y = pd.Series(values, dtype=float)
    steps = []
    for ahead in range(1, horizon + 1):
        lag = season * math.ceil(ahead / season)
        steps.append(y.iloc[len(y) + ahead - 1 - lag] + y.diff(lag).mean())
    return steps


def honest_sd(sums, horizon):
    """Spread of overlapping path sums, widened for how few of them are independent; with scipy.stats."""
    k = (len(sums) + horizon - 1) / horizon
    tails = student.ppf(0.95, max(k - 1, 1)) / norm.ppf(0.95)
    return np.std(sums, ddof=1) * math.sqrt((k + 1) / (k - 1)) * tails


def path_sums_by_hand(values, *, season, horizon):
    """What the whole horizon would have missed from each past origin, as pandas sums it, centred."""
    y = pd.Series(values, dtype=float)
    lags = [season * math.ceil(ahead / season) for ahead in range(1, horizon + 1)]
    paths = pd.concat([y.diff(lag).shift(1 - ahead) for ahead, lag in enumerate(lags, start=1)], axis=1)
    sums = paths.dropna().sum(axis=1)
    return (sums - sums.mean()).to_numpy()


@pytest.mark.parametrize(("season", "horizon"), [(1, 1), (1, 6), (4, 3), (4, 4), (4, 11), (7, 7), (12, 18)])
def test_the_point_matches_an_independent_seasonal_naive_rule(season, horizon):
    values = noisy(12 * season + 31, season=season, seed=season + horizon)

    told = forecast(values, season=season, horizon=horizon)

    assert told.season == season
    assert told.mean == pytest.approx(naive_by_hand(values, season=season, horizon=horizon), rel=1e-12)


@pytest.mark.parametrize(("season", "horizon"), [(1, 6), (4, 3), (4, 11), (12, 18)])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_interval_of_a_period_matches_quantiles_of_the_same_distance(season, horizon, level):
    values = noisy(12 * season + 31, season=season, seed=season)
    y, centre = pd.Series(values), np.array(naive_by_hand(values, season=season, horizon=horizon))
    changes = [y.diff(season * math.ceil(h / season)) for h in range(1, horizon + 1)]

    low, high = forecast(values, season=season, horizon=horizon, levels=[level]).interval(level)

    assert low == pytest.approx(centre + [(c - c.mean()).quantile((1 - level) / 2) for c in changes])
    assert high == pytest.approx(centre + [(c - c.mean()).quantile((1 + level) / 2) for c in changes])


@pytest.mark.parametrize(("season", "horizon", "missing"), [(1, 6, 0), (4, 3, 0), (4, 11, 0), (12, 18, 0), (4, 6, 5)])
def test_the_interval_of_the_total_matches_whole_paths(season, horizon, missing):
    values = noisy(12 * season + 31, season=season, seed=season)
    values[np.random.default_rng(1).choice(len(values) - 2 * season, missing, replace=False)] = np.nan
    sums = path_sums_by_hand(values, season=season, horizon=horizon)
    told = forecast(values, season=season, horizon=horizon)

    total, low, high = told.total(0.8)

    assert len(sums) >= 4
    assert told.total_sd() == pytest.approx(honest_sd(sums, horizon), rel=1e-9)
    assert low - total == pytest.approx(norm.ppf(0.1) * told.total_sd(), rel=1e-9)
    assert high - total == pytest.approx(norm.ppf(0.9) * told.total_sd(), rel=1e-9)


def test_the_interval_of_the_total_keeps_what_neighbouring_periods_share():
    # errors of a slow wave go together: adding the variances of the periods would make the total look surer
    rng = np.random.default_rng(5)
    slow = np.convolve(rng.standard_normal(430), np.ones(30), mode="valid")
    told = forecast(slow, season=4, horizon=8)

    independent = math.sqrt(sum(np.var(e, ddof=1) for e in told.errors))

    assert told.total_sd() > 1.5 * independent


def test_skipped_periods_are_left_out_of_the_total():
    values = noisy(90, season=4, seed=3)
    told = forecast(values, season=4, horizon=7)
    y = pd.Series(values)
    kept = pd.concat([y.diff(4 if h <= 4 else 8).shift(1 - h) for h in range(1, 8)], axis=1).dropna().iloc[:, 3:]

    assert told.total(0.8, skip=3)[0] == told.mean[3:].sum()
    assert told.total_sd(skip=3) == pytest.approx(honest_sd(kept.sum(axis=1), 4), rel=1e-9)


@pytest.mark.parametrize(("n", "phi", "least"), [(106, 0.0, 0.82), (106, 0.6, 0.78), (208, 0.6, 0.76)])
def test_the_interval_of_a_total_covers_nearly_as_often_as_it_says(n, phi, least):
    # Season plus AR(1), 15 of 52-week periods ahead, 90% intervals. Overlapping paths taken as independent covered
    # 63, 55 and 74% here. 300 runs: three standard errors of a coverage of 0.85 are 0.06.
    rng = np.random.default_rng(11)
    inside = []
    for _run in range(300):
        noise = rng.standard_normal(n + 15 + 50)
        for i in range(1, len(noise)):
            noise[i] += phi * noise[i - 1]
        y = 10 * np.sin(np.arange(n + 15) * 2 * np.pi / 52) + noise[50:]
        _mean, low, high = forecast(y[:n], season=52, horizon=15, levels=(0.9,)).total(0.9)
        inside.append(low <= y[n:].sum() <= high)
    assert least <= np.mean(inside) <= 0.97


def test_too_few_whole_paths_give_no_odds():
    told = forecast(noisy(106, season=52, seed=2), season=52, horizon=54)

    assert told.season == 52  # the season is kept, and nothing is made up about its total
    assert np.isnan(told.total_sd()) and np.isnan(told.total(0.8)[1:]).all()
    assert np.isfinite(told.interval(0.8)).all()


@pytest.mark.parametrize("horizon", [1, 4, 6, 13])
@pytest.mark.parametrize("trend", [0.0, 0.75, -0.25])
def test_a_season_on_a_straight_line_is_forecast_without_error(horizon, trend):
    t = np.arange(48 + horizon)
    series = np.array(SEASON)[t % 4] + trend * t  # all of it exact in binary

    told = forecast(series[:48], season=4, horizon=horizon)

    assert told.mean.tolist() == series[48:].tolist()
    for level in (0.8, 0.95):
        assert [bound.tolist() for bound in told.interval(level)] == [series[48:].tolist()] * 2
        assert told.total(level) == (series[48:].sum(),) * 3
    assert told.total_sd() == 0


@pytest.mark.parametrize("constant", [0.0, 7.0, -3.5, 1e12])
def test_a_constant_stays_as_it_is(constant):
    told = forecast([constant] * 20, season=4, horizon=5)

    assert told.mean.tolist() == [constant] * 5
    assert told.total(0.8) == (5 * constant,) * 3


def test_a_history_of_less_than_two_seasons_is_forecast_by_its_drift():
    told = forecast(np.arange(20.0), season=12, horizon=3)

    assert told.season == 1
    assert told.mean.tolist() == [20, 21, 22]
    assert forecast(np.arange(24.0), season=12, horizon=3).season == 12


@pytest.mark.parametrize(
    ("n", "season", "used"), [(24, 12, 12), (23, 12, 1), (728, 364, 364), (727, 364, 7), (13, 364, 1)]
)
def test_a_season_is_used_when_it_was_seen_twice(n, season, used):
    assert forecast(np.arange(float(n)), season=season, horizon=10).season == used


@given(histories, st.lists(st.floats(0.01, 0.99), min_size=2, max_size=4, unique=True))
def test_shapes_hold_and_intervals_are_nested(history, levels):
    season, horizon, seed = history
    told = forecast(noisy(8 * season + 2 * horizon, season=season, seed=seed), season=season, horizon=horizon,
                    levels=sorted(levels))  # fmt: skip

    lows, highs = (np.array(bounds) for bounds in zip(*map(told.interval, sorted(levels)), strict=True))
    totals = np.array([told.total(level) for level in sorted(levels)])

    assert told.mean.shape == (horizon,)
    assert lows.shape == highs.shape == (len(levels), horizon)
    assert np.isfinite([told.mean, *lows, *highs]).all()
    assert (np.diff(lows, axis=0) <= 0).all()
    assert (np.diff(highs, axis=0) >= 0).all()
    assert (lows <= highs).all()
    assert (totals[:, 0] == told.mean.sum()).all()
    assert (np.diff(totals[:, 1]) <= 0).all()
    assert (np.diff(totals[:, 2]) >= 0).all()
    assert (totals[:, 1] <= totals[:, 2]).all()


@given(histories, st.floats(1e-3, 1e6), st.floats(-1e6, 1e6))
def test_units_and_origin_carry_through(history, unit, origin):
    season, horizon, seed = history
    values = noisy(8 * season + 2 * horizon, season=season, seed=seed)
    plain, moved = (forecast(v, season=season, horizon=horizon) for v in (values, unit * values + origin))
    tolerance = {"rel": 1e-9, "abs": 1e-9 * (unit * 1e3 + abs(origin)) * horizon}

    assert moved.mean == pytest.approx(unit * plain.mean + origin, **tolerance)
    for one, other in zip(plain.interval(0.8), moved.interval(0.8), strict=True):
        assert other == pytest.approx(unit * one + origin, **tolerance)
    assert moved.total(0.8) == pytest.approx(unit * np.array(plain.total(0.8)) + horizon * origin, **tolerance)


@given(histories)
def test_the_order_of_the_levels_does_not_matter_and_the_input_is_left_alone(history):
    season, horizon, seed = history
    values = noisy(8 * season + 2 * horizon, season=season, seed=seed)
    kept = values.copy()

    one = forecast(values, season=season, horizon=horizon, levels=(0.8, 0.95))
    other = forecast(list(values), season=season, horizon=horizon, levels=[0.95, 0.8])

    assert (values == kept).all()
    assert one.total(0.95) == other.total(0.95)


def test_a_missing_period_is_neither_zero_nor_an_error():
    series = np.tile(SEASON, 8)
    series[[5, 14, 15, 30]] = np.nan  # the last one is looked at by the forecast: a season before stands in

    told = forecast(series, season=4, horizon=5)

    assert told.mean.tolist() == [10, 12, 11, 13, 10]
    assert told.total(0.95) == (56, 56, 56)


@pytest.mark.parametrize("missing", [[44], [45, 46], [43, 47], [40, 44]])
def test_growth_reaches_a_period_whose_last_season_is_missing(missing):
    # the value two seasons ago, plus the usual change since then: that of two seasons, not of one
    t = np.arange(54)
    series = np.array(SEASON)[t % 4] + 0.5 * t
    history = series[:48].copy()
    history[missing] = np.nan

    assert forecast(history, season=4, horizon=6).mean.tolist() == series[48:].tolist()


@pytest.mark.parametrize("unknown", [1, 3, 4, 6])
def test_missing_periods_at_the_end_are_forecast_too_but_not_told(unknown):
    t = np.arange(60)
    series = np.array(SEASON)[t % 4] + 0.5 * t
    history = np.append(series[: 48 - unknown], [np.nan] * unknown)

    told = forecast(history, season=4, horizon=6)

    assert told.mean.tolist() == series[48:54].tolist()
    assert told.total(0.8)[0] == series[48:54].sum()


def test_missing_periods_at_the_end_widen_the_interval():
    values = noisy(200, season=1, seed=8)
    later = np.append(values, [np.nan] * 5)

    told, blind = (forecast(np.cumsum(v - 100), season=1, horizon=2) for v in (values, later))

    assert np.ptp(blind.interval(0.8), axis=0) == pytest.approx(
        np.ptp(forecast(np.cumsum(values - 100), season=1, horizon=7).interval(0.8), axis=0)[5:]
    )
    assert (np.ptp(blind.interval(0.8), axis=0) > np.ptp(told.interval(0.8), axis=0)).all()
    assert np.ptp(blind.total(0.8)[1:]) == pytest.approx(
        np.ptp(forecast(np.cumsum(values - 100), season=1, horizon=7).total(0.8, skip=5)[1:])
    )


def test_missing_periods_at_the_beginning_change_nothing():
    values = noisy(60, season=4, seed=2)

    told, padded = (forecast(v, season=4, horizon=5) for v in (values, np.append([np.nan] * 7, values)))

    assert padded.mean.tolist() == told.mean.tolist()
    assert padded.total(0.8) == told.total(0.8)


@pytest.mark.parametrize(("season", "n", "horizon"), [(7, 371, 7), (4, 400, 8)])
def test_intervals_cover_as_often_as_they_say(season, n, horizon):
    # 500 seasonal series with independent noise. A period is covered 0.80 of the time: over 500 x horizon
    # periods, correlated at most wholly within a series, the standard error is at most 0.4/√500 = 0.018.
    # The total has that same error; its quantiles come from about n/horizon separate paths, which costs
    # another 0.01 to 0.02 of coverage. Bounds: three errors either way, and 0.02 more below for the total.
    rng = np.random.default_rng(20241101)
    periods, totals = [], []
    for _ in range(500):
        pattern = 100 + 10 * rng.standard_normal(season)
        y = pattern[np.arange(n + horizon) % season] + rng.standard_normal(n + horizon)
        told = forecast(y[:n], season=season, horizon=horizon, levels=[0.8])
        (low, high), (_total, least, most) = told.interval(0.8), told.total(0.8)
        periods.append(((low <= y[n:]) & (y[n:] <= high)).mean())
        totals.append(least <= y[n:].sum() <= most)

    assert 0.746 < np.mean(periods) < 0.854
    assert 0.726 < np.mean(totals) < 0.854


def test_a_level_that_was_not_asked_for_names_the_remedy():
    told = forecast(SEASON * 6, season=4, horizon=4, levels=(0.8,))

    for use in (told.interval, told.total):
        with pytest.raises(KpiError, match=r"level=0\.9 was not asked for.*\(0\.8,\).*Pass levels=\(0\.9,\)"):
            use(0.9)


@pytest.mark.parametrize("values", [[], [math.nan] * 12])
def test_a_history_without_a_value_says_so(values):
    with pytest.raises(KpiError, match=r"cannot be computed, because no value is known\. Check"):
        forecast(values, season=4, horizon=2)


@pytest.mark.parametrize(("n", "season", "horizon"), [(1, 1, 1), (4, 1, 1), (6, 3, 12)])
def test_too_short_a_history_says_how_much_is_missing(n, season, horizon):
    message = rf"forecast of {horizon} periods cannot be computed, because {n} known values leave \d past errors"
    with pytest.raises(KpiError, match=message + r".*; 4 are needed\. Use a longer history"):
        forecast(np.arange(float(n)), season=season, horizon=horizon)


def test_the_shortest_history_is_enough():
    assert forecast(np.arange(5.0), season=1, horizon=1).mean.tolist() == [5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": [[1.0, 2.0]] * 9}, r"shape \(9, 2\).*one series"),
        ({"values": 3.0}, r"shape \(\).*one series"),
        ({"values": [1, 2, math.inf] * 9}, r"finite numbers; NaN is missing"),
        ({"season": 0}, r"season=0, horizon=2.*whole numbers of periods, at least 1"),
        ({"season": 1.5}, r"season=1\.5.*whole numbers"),
        ({"horizon": 0}, r"horizon=0.*at least 1"),
        ({"horizon": -3}, r"horizon=-3.*at least 1"),
        ({"horizon": 2.5}, r"horizon=2\.5.*whole numbers"),
        ({"levels": (80,)}, r"80 is not in \(0, 1\).*Write 0\.95 for 95%"),
        ({"levels": (0.8, 1.0)}, r"1\.0 is not in \(0, 1\)"),
        ({"levels": (0.8, math.nan)}, r"nan is not in \(0, 1\)"),
        ({"regressors": np.ones((24, 1))}, r"no regressors\. Leave regressors out"),
    ],
)
def test_a_bad_argument_is_refused_with_the_remedy(changed, message):
    arguments = {"values": SEASON * 6, "season": 4, "horizon": 2} | changed

    with pytest.raises(KpiError, match=re.compile(message, re.DOTALL)):
        forecast(arguments.pop("values"), **arguments)
