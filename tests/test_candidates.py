"""`kpi_helpers.candidates`: each rule against an independent one, and no origin knows what came after it."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from kpi_helpers import candidates
from kpi_helpers.candidates import drift, filled, repeat, smooth

RULES = [smooth, repeat, drift]


def waves(n, *, season, seed=1, missing=0):
    rng = np.random.default_rng(seed)
    y = 50 + 8 * rng.standard_normal(season)[np.arange(n) % season] + np.cumsum(rng.standard_normal(n))
    y[rng.choice(np.arange(season, n), missing, replace=False)] = np.nan
    return y


@pytest.fixture
def gains(monkeypatch):
    """Function that leaves one combination of gains: level, trend, damping, season."""

    def leave(level, trend, damping, season):
        monkeypatch.setattr(candidates, "LEVELS", (level,))
        monkeypatch.setattr(candidates, "TRENDS", ((trend, damping),))
        monkeypatch.setattr(candidates, "SEASONS", (season,))

    return leave


def smooth_by_hand(y, season, horizon, *, level, trend, damping, gamma):
    """One combination, one state after another, in the words of Gardner (2006): error-correction form."""
    first = [v for v in y[:season] if v == v]
    at, slope, phase = (
        sum(first) / len(first),
        0.0,
        [v - sum(first) / len(first) if v == v else 0.0 for v in y[:season]],
    )
    for t in range(season, len(y)):
        seen = phase[t % season] if season > 1 else 0.0
        ahead = at + damping * slope
        error = 0.0 if y[t] != y[t] else y[t] - ahead - seen
        share = max(level, 1 / (t // season + 2))
        at, slope = ahead + share * error, damping * slope + trend * share * error
        if season > 1:
            phase[t % season] = seen + max(gamma, 1 / (t // season + 1)) * (1 - share) * error
    made, reach = [], 0.0
    for h in range(1, horizon + 1):
        reach += damping**h
        made.append(at + slope * reach + (phase[(len(y) - 1 + h) % season] if season > 1 else 0.0))
    return made


@pytest.mark.parametrize("season", [1, 4, 7])
@pytest.mark.parametrize("n", [9, 30, 120])
@pytest.mark.parametrize("missing", [0, 2])
def test_smoothing_is_the_recursion_written_out(gains, season, n, missing):
    gains(0.2, 0.05, 0.9, 0.15)
    y = waves(n, season=season, missing=missing)

    made = smooth(y, season, 2 * season + 1)[-1]

    assert made == pytest.approx(
        smooth_by_hand(y, season, 2 * season + 1, level=0.2, trend=0.05, damping=0.9, gamma=0.15)
    )


@pytest.mark.parametrize(("season", "level", "trend", "damping", "gamma"), [
    (1, 0.35, 0.2, 0.9, 0.0), (1, 0.8, 0.05, 0.98, 0.0), (4, 0.35, 0.2, 0.98, 0.4), (12, 0.55, 0.05, 0.9, 0.4),
])  # fmt: skip
def test_smoothing_agrees_with_statsmodels_once_the_start_is_forgotten(gains, season, level, trend, damping, gamma):
    gains(level, trend, damping, gamma)
    y = waves(900 if season < 12 else 3000, season=season)
    kind = {"seasonal": "add", "seasonal_periods": season} if season > 1 else {}
    start = {"initial_seasonal": np.zeros(season)} if season > 1 else {}
    model = ETSModel(
        pd.Series(y), trend="add", damped_trend=True, initialization_method="known", initial_level=y[0],
        initial_trend=0.0, **kind, **start,
    )  # fmt: skip
    # statsmodels' gains of trend and season are products with those of the level and of what the level leaves
    found = {"smoothing_level": level, "smoothing_trend": trend * level, "damping_trend": damping}
    found |= {"smoothing_seasonal": gamma * (1 - level)} if season > 1 else {}
    fixed = model.smooth(
        [found.get(name, value) for name, value in zip(model.param_names, model.start_params, strict=True)]
    )

    assert smooth(y, season, 20)[-1] == pytest.approx(fixed.forecast(20).to_numpy(), rel=1e-6)


def test_smoothing_takes_the_gains_with_the_smallest_errors(monkeypatch, gains):
    y, alone = waves(200, season=4, seed=3), []
    grid = [candidates.LEVELS[::2], candidates.TRENDS[::2], candidates.SEASONS]
    for level, (trend, damping), season in product(*grid):
        gains(level, trend, damping, season)
        made = smooth(y, 4, 3)
        alone.append((((y[4:] - made[3:-1, 0]) ** 2).sum(), made[-1]))
    for name, values in zip(("LEVELS", "TRENDS", "SEASONS"), grid, strict=True):
        monkeypatch.setattr(candidates, name, values)

    assert smooth(y, 4, 3)[-1] == pytest.approx(min(alone, key=lambda one: one[0])[1])


@pytest.mark.parametrize(("season", "horizon"), [(1, 3), (4, 3), (4, 11), (12, 18)])
def test_repeating_is_the_shifted_series(season, horizon):
    y = pd.Series(waves(60, season=season))
    expected = pd.concat([y.shift(season * -(-h // season) - h) for h in range(1, horizon + 1)], axis=1)

    assert repeat(y.to_numpy(), season, horizon) == pytest.approx(expected.to_numpy(), nan_ok=True)


@pytest.mark.parametrize(("season", "horizon"), [(1, 3), (4, 5), (4, 11), (12, 18)])
def test_drift_over_several_seasons_adds_the_mean_change(season, horizon):
    y = pd.Series(waves(60, season=season))
    change = y.diff(season).expanding().mean()
    expected = pd.concat(
        [y.shift(season * -(-h // season) - h) + change * -(-h // season) for h in range(1, horizon + 1)], axis=1
    )
    expected.iloc[: season + 1] = np.nan  # one change alone is no usual change

    assert drift(y.to_numpy(), season, horizon) == pytest.approx(expected.to_numpy(), nan_ok=True)


@pytest.mark.parametrize("gain", candidates.CHANGES)
def test_drift_within_a_season_smooths_the_change(monkeypatch, gain):
    monkeypatch.setattr(candidates, "CHANGES", (gain,))
    y, usual = waves(40, season=4), 0.0
    for known, change in enumerate(y[4:] - y[:-4], start=1):
        usual += max(gain, 1 / known) * (change - usual)

    assert drift(y, 4, 4)[-1] == pytest.approx(y[-4:] + usual)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("season", "horizon", "missing"), [(1, 2, 0), (4, 3, 0), (4, 9, 4), (12, 14, 3)])
def test_no_origin_knows_what_came_after_it(rule, season, horizon, missing):
    y = waves(70, season=season, missing=missing)
    made = rule(y, season, horizon)

    for origin in (season + 5, 33, 50, 68):
        changed = y.copy()
        changed[origin + 1 :] = np.random.default_rng(origin).normal(0, 1e4, 69 - origin)
        assert np.array_equal(rule(changed, season, horizon)[: origin + 1], made[: origin + 1], equal_nan=True)
        assert np.array_equal(rule(y[: origin + 1], season, horizon)[-1], made[origin], equal_nan=True)


@pytest.mark.parametrize("rule", RULES)
def test_all_rules_know_a_season_and_drift_its_growth_too(rule):
    t = np.arange(60)
    season, growth = np.array([10.0, 12.0, 11.0, 13.0])[t % 4], 0.5 * t

    assert rule(season[:48], 4, 12)[-1].tolist() == season[48:].tolist()
    if rule is drift:
        assert rule((season + growth)[:48], 4, 12)[-1].tolist() == (season + growth)[48:].tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("missing", [[], [20, 21], [31], list(range(28, 36))])
def test_a_missing_value_is_carried_over(rule, missing):
    y = np.tile([10.0, 12.0, 11.0, 13.0], 10)
    y[missing] = np.nan

    assert rule(y, 4, 4)[-1].tolist() == [10, 12, 11, 13]


def test_stand_ins_come_from_the_same_season():
    nan, mean = np.nan, 11 / 6
    y = np.array([1.0, nan, 3.0, nan, 1.5, nan, nan, nan])

    assert filled(y, 4) == pytest.approx([1, mean, 3, mean, 1.5, mean, 3, mean])
    assert filled(np.array([nan, 2.0, 5.0, nan, nan, 2.5]), 2).tolist() == [5, 2, 5, 2, 5, 2.5]
