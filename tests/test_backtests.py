"""`kpi_helpers.backtests`: what the baseline knows of Tết, holidays and levels, and its test on its own past."""

import json
import math
import re
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from kpi_helpers.backtests import ODDS, back_test, baseline
from kpi_helpers.baselines import forecast
from kpi_helpers.calendars import SEASONS, holiday_regressors, tet
from kpi_helpers.errors import KpiError

#: on logarithms: run-up, rush, pause, recovery
EFFECTS = [0.1, 0.4, -0.9, -0.2]
SALE = {"11.11": ["11-11"]}


def company(freq, start, n, *, noise, seed=1):
    """Sums of a daily demand with a summer and a moving Tết, as periods (n,)."""
    at = pd.period_range(start, periods=n, freq=freq)
    days = pd.period_range(at[0].start_time, at[-1].end_time, freq="D")
    wave = 0.1 * np.sin(2 * np.pi * days.day_of_year / 365.25)
    demand = pd.Series(100 * np.exp(holiday_regressors(days).to_numpy() @ EFFECTS + wave), index=days)
    sums = demand.groupby(days.asfreq(freq)).sum().reindex(at)
    return sums * np.exp(noise * np.random.default_rng(seed).standard_normal(n))


def weekly(n=130, seed=0, sd=5.0):
    at = pd.period_range("2022-01-03", periods=n, freq="W-SUN")
    return pd.Series(np.random.default_rng(seed).normal(100, sd, n), index=at)


# --- the baseline ---


@pytest.mark.parametrize(
    ("freq", "start", "n", "horizon", "noise"),
    [
        ("W-SUN", "2022-01-03", 200, 13, 0.03),  # ahead: November 2025 to 1 February 2026; Tết is on 17 February
        ("W-SUN", "2021-01-04", 205, 13, 0.03),  # ahead: 9 December 2024 to 9 March 2025; Tết is on 29 January
        ("M", "2017-01", 100, 12, 0.02),  # ahead: May 2025 to April 2026
        ("D", "2023-01-01", 1100, 60, 0.08),  # ahead: 5 January to 5 March 2026
        ("D", "2024-03-01", 680, 60, 0.08),  # ahead: 10 January 2026 on, one Tết seen
    ],
)
def test_the_peak_moves_with_the_moon(freq, start, n, horizon, noise):
    whole = company(freq, start, n + horizon, noise=noise)
    history, came = whole[:n], whole[n:].to_numpy()
    grain = {"W": "week", "M": "month", "D": "day"}[freq[0]]

    told, _found = baseline(history, horizon)
    blind = forecast(history, season=SEASONS[grain], horizon=horizon)
    missed, missed_blind = (np.abs(f.mean / came - 1).mean() for f in (told, blind))

    assert told.noise.any()  # its effects were shown by the past
    assert missed < 0.8 * missed_blind
    assert missed < 0.09


def test_the_deepest_week_ahead_is_that_of_tet():
    # Tết was on 1 Feb 2022, 22 Jan 2023, 10 Feb 2024; the same weeks of a year before would miss 29 Jan 2025
    whole = company("W-SUN", "2021-01-04", 218, noise=0.03)
    told, _found = baseline(whole[:205], 13)

    deepest = whole.index[205 + int(told.mean.argmin())]

    assert deepest.start_time.date() <= tet(2025) <= deepest.end_time.date()


def test_days_that_the_user_names_are_known_ahead():
    at = pd.period_range("2023-03-01", periods=640, freq="D")
    share = holiday_regressors(at, SALE).to_numpy()[:, -1] * 0.8
    series = pd.Series(1000 * np.exp(share + 0.05 * np.random.default_rng(1).standard_normal(640)), index=at)
    day = int(np.flatnonzero(share)[-1])  # 11 November 2024

    told, found = baseline(series[: day - 5], 10, SALE)
    blind, found_blind = baseline(series[: day - 5], 10)

    assert told.mean[5] / np.delete(told.mean, 5).mean() == pytest.approx(math.exp(0.8), rel=0.1)
    assert blind.mean[5] == pytest.approx(1000, rel=0.1)
    assert found.n_outlier == 0 and found_blind.n_outlier == 1  # a sale that was not named is an outlier


@pytest.mark.parametrize(("freq", "n"), [("D", 400), ("W-SUN", 150), ("M", 60)])
def test_a_lasting_change_is_brought_to_the_present_level(freq, n):
    at, rng = pd.period_range("2022-01-03", periods=n, freq=freq), np.random.default_rng(1)
    values = 100 * np.exp(0.05 * rng.standard_normal(n)) * np.where(np.arange(n) >= 2 * n // 3, 1.5, 1)

    told, found = baseline(pd.Series(values, index=at), 12)
    low, high = told.total(0.8)[1:]

    assert found.kind == ("break",)
    assert told.mean == pytest.approx(np.full(12, 150), rel=0.12)
    assert high - low < 0.35 * 12 * 150  # the step is no error of the past


def test_gaps_and_outliers_are_left_out_and_told():
    series = weekly()
    holed = series.copy()
    holed.iloc[[60, 100]] = [0.0, 900.0]

    told, found = baseline(holed, 6)

    assert set(found.kind) == {"gap", "outlier"}
    assert told.mean == pytest.approx(baseline(series, 6)[0].mean, rel=0.05)
    assert holed.iloc[100] == 900  # the input is left alone


@pytest.mark.parametrize("use", [baseline, back_test])
@pytest.mark.parametrize(("series", "message"), [
    (weekly(0), "no value is known"), (weekly(30) * math.nan, "no value is known"),
    (weekly(5), r"5 known values leave \d past errors to learn from; 4 are needed. Use a longer history"),
])  # fmt: skip
def test_a_history_that_is_too_short_says_so(use, series, message):
    with pytest.raises(KpiError, match=message):
        use(series, 6)


# --- the test on the past ---


@pytest.mark.parametrize("at", [0, 3, 6])
def test_an_origin_knows_nothing_of_what_came_after_it(at):
    series = company("W-SUN", "2022-01-03", 180, noise=0.05)
    before = back_test(series, 8, holidays=SALE)
    origin = int(np.flatnonzero([p.start_time.date() == before.origin_at[at] for p in series.index])[0])
    changed = series.copy()
    changed.iloc[origin:] = np.random.default_rng(2).gamma(2, 500, 180 - origin)

    after = back_test(changed, 8, holidays=SALE)

    for field in ("origin_at", "expected", "expected_low", "expected_high", "same_as_last_year"):
        assert getattr(after, field)[: at + 1] == getattr(before, field)[: at + 1]
    assert after.actual[at] != before.actual[at]


def test_each_past_date_is_the_baseline_of_that_day():
    series, w = weekly(150), [0, 0, 1, 1, 1, 0.5]
    told = back_test(series, 6, weights=w, confidence=0.8)
    o = int(np.flatnonzero([p.start_time.date() == told.origin_at[2] for p in series.index])[0])

    then, _found = baseline(series[:o], 6)
    actual = float(series.iloc[o : o + 6] @ w)

    assert told.actual[2] == pytest.approx(actual)
    assert (told.expected[2], told.expected_low[2], told.expected_high[2]) == then.total(0.8, weights=w)
    assert told.chance[2] == pytest.approx(float(then.whole(w).chance_above(actual)))
    assert told.same_as_last_year[2] == pytest.approx(float(series.iloc[o - 52 : o - 46] @ w))
    assert told.confidence == 0.8
    assert told.weight == tuple(baseline(series, 6)[0].weights.values())


def test_shares_and_errors_are_counted():
    told = back_test(weekly(150), 6)
    frame = told.to_frame()
    inside = (frame["expected_low"] <= frame["actual"]) & (frame["actual"] <= frame["expected_high"])

    assert len(frame) == 8
    assert told.n_inside == inside.sum()
    assert told.error == pytest.approx((frame["actual"] - frame["expected"]).abs().sum() / frame["actual"].sum())
    for odds in ODDS:
        assert told.met(odds) == (frame["chance"] <= odds).sum()
    assert told.met(0.8) >= told.met(0.5) >= told.met(0.2)
    assert told.covered_80 + told.below_80 + told.above_80 == pytest.approx(1)
    assert told.covered_80 <= told.covered_95 <= 1


def test_a_target_is_met_if_the_total_exceeds_the_quantile_at_its_odds():
    series = weekly(150)
    told = back_test(series, 6)
    met = dict.fromkeys(ODDS, 0)
    for origin_at, actual in zip(told.origin_at, told.actual, strict=True):
        history = series[series.index.start_time < pd.Timestamp(origin_at)]
        whole = baseline(history, 6)[0].whole()
        for odds in ODDS:
            met[odds] += actual >= whole.quantile(1 - odds)

    assert {odds: told.met(odds) for odds in ODDS} == met


def test_what_is_not_known_is_not_counted():
    frame = pd.DataFrame({
        "origin_at": [date(2024, 1, 1)] * 3, "actual": [5.0, 5.0, 5.0], "expected": [5.0, 5.0, 10.0],
        "expected_low": [math.nan, 4.0, 6.0], "expected_high": [math.nan, 6.0, 12.0],
        "chance": [math.nan, 0.4, 0.9], "same_as_last_year": [math.nan, 4.0, math.nan],
    })  # fmt: skip
    told = replace(back_test(weekly(150), 6), frame=frame)

    assert [told.met(odds) for odds in ODDS] == [1, 1, 0]
    assert "1 of 2" in told.html() and "0 of 2" in told.html()
    assert told.error == pytest.approx(1 / 3) and told.error_last_year == pytest.approx(0.2)
    assert "interval: 1 of 2." in told.sentence()
    assert "1/2 lần" in told.sentence("vi")


def test_nothing_came_and_something_was_expected_is_no_error_of_nought():
    frame = pd.DataFrame({"actual": [0.0], "expected": [5.0], "same_as_last_year": [0.0]})
    told = replace(back_test(weekly(150), 6), frame=frame)

    assert math.isnan(told.error)
    assert told.error_last_year == 0


def test_missing_periods_of_a_past_window_are_left_out_on_both_sides():
    series = weekly(150)
    series.iloc[110:116] = math.nan
    told = back_test(series, 8, most=20)
    rows = told.to_frame()
    at = {p.start_time.date(): i for i, p in enumerate(series.index)}

    for row in rows.itertuples():
        came = series.iloc[at[row.origin_at] : at[row.origin_at] + 8]
        assert row.actual == pytest.approx(came.sum())
        assert row.expected == pytest.approx(100 * came.notna().sum(), rel=0.1)
    assert len(rows) == 20

    series.iloc[104:] = series.iloc[104:].where(np.arange(46) > 37)  # all but the last windows are unknown
    assert len(back_test(series, 8, most=20).actual) < 10


@pytest.mark.parametrize("kind", ["constant", "zeros", "every second", "one value late", "tracking lost"])
def test_an_odd_series_is_tested_without_a_warning(kind):
    series = weekly(130)
    n = np.arange(130)
    series = {
        "constant": series * 0 + 7, "zeros": series * 0, "every second": series.where(n % 2 == 0),
        "one value late": series.where((n < 40) | (n == 129)), "tracking lost": series.where(n < 90, 0.0),
    }[kind]  # fmt: skip

    if kind == "one value late":
        with pytest.raises(KpiError, match=r"41 known values leave 1 past errors to learn from"):
            back_test(series, 6)
        return
    told = back_test(series, 6)

    assert all(math.isfinite(v) for v in (*told.actual, *told.expected))
    for language in ("en", "vi"):
        assert "nan" not in told.sentence(language) + told.html(language).lower()
    json.dumps(told.to_json(), allow_nan=False)


@pytest.mark.parametrize("language", ["en", "vi"])
@pytest.mark.parametrize(("freq", "n"), [("D", 800), ("W-SUN", 130), ("M", 84)])
def test_the_answer_is_written_in_both_languages(freq, n, language):
    told = back_test(company(freq, "2022-01-03", n, noise=0.05), 6)
    page = told.html(language)
    words = {
        "en": ["Targets set at odds of 80%", "Single periods inside their 95% interval"],
        "vi": ["Mục tiêu có xác suất đạt 80%", "Từng kỳ nằm trong khoảng dự báo 95%"],
    }[language]

    assert all(word in page for word in words)
    assert len(re.findall({"en": r">\d of [78]<", "vi": r">\d/[78] lần<"}[language], page)) == 3
    assert page.count("<tr") == 1 + 5
    assert "{" not in page and "}" not in page
    assert {"en": "Past dates tried: 8.", "vi": "Thử lại tại 8 thời điểm"}[language] in told.sentence(language)


def test_json_holds_every_date_and_finite_numbers():
    told = back_test(weekly(150), 6)

    loaded = json.loads(json.dumps(told.to_json(), allow_nan=False))

    assert loaded["name"] == "back_test"
    assert [row["origin_at"] for row in loaded["rows"]] == [at.isoformat() for at in told.origin_at]
    assert all(isinstance(row["chance"], float) for row in loaded["rows"])


@pytest.mark.parametrize("language", ["en", "vi"])
def test_a_short_history_says_that_it_cannot_be_tested(language):
    told = back_test(weekly(14), 6)

    assert told.actual == ()
    assert {"en": "too short", "vi": "quá ngắn"}[language] in told.sentence(language)
    assert told.sentence(language) in told.html(language)
    assert math.isnan(told.error) and math.isnan(told.covered_80)
    json.dumps(told.to_json(), allow_nan=False)


@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_dates_than_asked_for(most):
    assert len(back_test(weekly(150), 6, most=most).actual) == most
    with pytest.raises(KpiError, match="most=0: at least one past date"):
        back_test(weekly(150), 6, most=0)
