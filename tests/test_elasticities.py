"""`kpi_helpers.rates`: how a KPI went with spend, with an interval that allows for errors that last."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.signal import lfilter
from scipy.stats import t as student

from kpi_helpers.errors import KpiError
from kpi_helpers.rates import estimate_elasticity

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def history(n, season, *, elasticity=0.6, lasting=0.5, seed=0):
    """Spend and a KPI with season, trend, and errors of AR(1) in both."""
    random, t = np.random.default_rng(seed), np.arange(n)
    error, move = (
        lfilter([1], [1, -rho], random.normal(0, sd * math.sqrt(1 - rho**2), n + 100))[100:]
        for rho, sd in ((lasting, 0.1), (0.5, 0.3))
    )
    spend = np.exp(10 + 0.3 * np.cos(2 * np.pi * t / season) + move)
    return spend**elasticity * np.exp(3 + 0.2 * np.sin(2 * np.pi * t / season) + 0.1 * t / n + error), spend


def fitted_by_others(kpi, spend, season):
    """Slope of statsmodels; standard error from scipy's cosine transform of its scores, widened to Student's t."""
    t, n = np.arange(len(kpi)), len(kpi)
    waves = [f(2 * np.pi * k * t / season) for k in (1, 2, 3) for f in (np.cos, np.sin)]
    others = np.column_stack([np.ones(n), t, *waves])
    fit = sm.OLS(np.log(kpi), np.column_stack([np.log(spend), others])).fit()
    alone = sm.OLS(np.log(spend), others).fit().resid
    k = math.floor(0.4 * n ** (2 / 3))
    sums = dct(alone * fit.resid, type=2, norm="ortho")[1 : k + 1]  # orthonormal: each estimates the variance
    se = math.sqrt(n * np.mean(sums**2) * n / (n - 9)) / (alone @ alone)
    return fit.params[0], se * student.ppf(0.975, k) / 1.96


@pytest.mark.parametrize(("n", "season"), [(120, 52), (104, 52), (60, 7), (365, 7)])
def test_slope_and_standard_error_match_other_packages(n, season):
    kpi, spend = history(n, season)
    slope, se = fitted_by_others(kpi, spend, season)

    found = estimate_elasticity(kpi, spend, season=season)

    assert not found.shrunk
    assert (found.elasticity, found.se) == pytest.approx((slope, se), rel=1e-8)
    assert (found.low, found.high) == pytest.approx((slope - 1.96 * found.se, slope + 1.96 * found.se))


# periods, season, AR(1) of the errors beside spend of AR(1) 0.5: 400 rounds each, standard error 0.011. Measured 0.950,
# 0.938, 0.927, 0.922, 0.945 for a nominal 0.95; with errors that last long (0.8) two years of weeks give 0.887, one
# year of days 0.950. The lower bounds lie three standard errors below what was measured.
COVERAGE = [(104, 52, 0, 0.92), (104, 52, 0.5, 0.88), (156, 52, 0.5, 0.89), (180, 7, 0.5, 0.88), (365, 7, 0.5, 0.91),
            (104, 52, 0.8, 0.83), (365, 7, 0.8, 0.91)]  # fmt: skip


@pytest.mark.parametrize(("n", "season", "lasting", "least"), COVERAGE)
def test_the_interval_covers_a_known_elasticity(n, season, lasting, least):
    found = [estimate_elasticity(*history(n, season, lasting=lasting, seed=s), season=season) for s in range(400)]

    assert least <= np.mean([f.low <= 0.6 <= f.high for f in found]) <= 0.99
    assert np.mean([f.elasticity for f in found]) == pytest.approx(0.6, abs=0.01)  # no bias


def test_a_season_that_both_share_is_not_taken_for_an_elasticity():
    t, random = np.arange(208), np.random.default_rng(1)
    season = 0.8 * np.cos(2 * np.pi * t / 52)
    spend, kpi = (np.exp(5 + season + random.normal(0, 0.1, 208)) for _ in range(2))

    found = estimate_elasticity(kpi, spend, season=52)

    assert np.polyfit(np.log(spend), np.log(kpi), 1)[0] > 0.9  # what the plain line through the logs would say
    assert found.low < 0 < found.high


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_units_do_not_matter(kpi_unit, spend_unit):
    kpi, spend = history(120, 52)

    one, other = (estimate_elasticity(a * kpi, b * spend, season=52) for a, b in ((1, 1), (kpi_unit, spend_unit)))

    assert (other.elasticity, other.se) == pytest.approx((one.elasticity, one.se), rel=1e-6)


def test_a_power_added_to_the_kpi_adds_to_the_elasticity():
    kpi, spend = history(120, 52)

    one, other = estimate_elasticity(kpi, spend, season=52), estimate_elasticity(kpi * spend**0.3, spend, season=52)

    assert other.elasticity == pytest.approx(one.elasticity + 0.3, rel=1e-9)
    assert other.se == pytest.approx(one.se, rel=1e-9)


def test_periods_without_spend_or_value_are_left_out_and_counted():
    kpi, spend = history(200, 7)
    spend[10:30], kpi[50], spend[60], kpi[70] = 0, math.nan, math.nan, 0

    found = estimate_elasticity(kpi, spend, season=7)

    assert (found.n, found.n_zero) == (200 - 23, 21)
    spend[10:30], kpi[70] = math.nan, math.nan
    unknown = estimate_elasticity(kpi, spend, season=7)
    assert (unknown.n, unknown.n_zero) == (177, 0)
    assert (unknown.elasticity, unknown.se) == (found.elasticity, found.se)


def test_a_hole_in_the_history_keeps_the_distance_of_its_neighbours():
    kpi, spend = history(200, 7, lasting=0.9)
    kpi[1::2] = math.nan  # every second period

    found = estimate_elasticity(kpi, spend, season=7)
    t = np.arange(0, 200, 2)
    waves = [f(2 * np.pi * k * t / 7) for k in (1, 2, 3) for f in (np.cos, np.sin)]
    z = np.column_stack([np.ones(100), t, *waves])
    y, x = (v - z @ np.linalg.lstsq(z, v)[0] for v in (np.log(kpi[::2]), np.log(spend[::2])))
    scores = np.zeros(200)
    scores[::2] = x * (y - found.elasticity * x)
    sums = dct(scores, type=2, norm="ortho")[1:9]  # 0.4 * 100 ** (2 / 3) = 8.6
    expected = math.sqrt(200 * np.mean(sums**2) * 100 / 91) / (x @ x) * student.ppf(0.975, 8) / 1.96

    assert found.se == pytest.approx(expected, rel=1e-9)


def test_a_short_history_is_shrunk_and_says_so():
    kpi, spend = history(60, 52, elasticity=1.4)
    slope, se = fitted_by_others(kpi, spend, 52)

    found = estimate_elasticity(kpi, spend, season=52)

    assert found.shrunk
    precision = 1 / 0.3**2 + 1 / se**2  # two normal opinions, weighed by their precision
    assert found.elasticity == pytest.approx((0.5 / 0.3**2 + slope / se**2) / precision, rel=1e-8)
    assert found.se == pytest.approx(precision**-0.5, rel=1e-8)
    assert "short" in found.sentence() and "ngắn" in found.sentence("vi")


def test_two_seasons_stand_on_their_own():
    assert estimate_elasticity(*history(103, 52), season=52).shrunk
    assert not estimate_elasticity(*history(104, 52), season=52).shrunk
    assert estimate_elasticity(*history(400, 7), season=(7, 364)).shrunk


@pytest.mark.parametrize(
    ("reason", "kpi", "spend"),
    [
        ("short", *history(29, 7)),
        ("short", np.full(100, math.nan), np.ones(100)),
        ("short", np.ones(100), np.zeros(100)),
        ("short", np.array([]), np.array([])),
        ("flat", np.ones(100), np.ones(100)),
        ("flat", np.ones(200), np.exp(0.3 * np.cos(2 * np.pi * np.arange(200) / 7))),  # all of it season
        ("flat", np.ones(200), np.exp(np.arange(200) / 50)),  # all of it trend
        ("zeros", np.arange(100.0) % 4, history(100, 7)[1]),
    ],
)
def test_what_cannot_be_estimated_says_why(reason, kpi, spend):
    found = estimate_elasticity(kpi, spend, season=7)

    assert found.reason == reason
    assert math.isnan(found.elasticity) and math.isnan(found.high)
    assert "cannot be computed, because" in found.sentence()
    assert found.to_json()["rows"][0]["elasticity"] is None


@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_sentence_promises_no_effect(language):
    said = estimate_elasticity(*history(120, 52), season=52).sentence(language)

    assert ("went together with" in said) or ("thay đổi" in said)
    for word in ("cause", "lead to", "led to", "effect", "because"):
        assert word not in said.lower()


@pytest.mark.parametrize(
    ("kpi", "spend", "message"),
    [
        (np.ones(3), np.ones(4), r"kpi has shape \(3,\), spend \(4,\)"),
        (np.ones((2, 2)), np.ones((2, 2)), r"Give both by period"),
        (np.full(50, -1.0), np.ones(50), r"must not be negative"),
    ],
)
def test_histories_that_do_not_fit_are_refused(kpi, spend, message):
    with pytest.raises(KpiError, match=message):
        estimate_elasticity(kpi, spend, season=7)
