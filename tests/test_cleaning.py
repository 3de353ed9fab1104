"""Gaps, outliers and breaks: found where they were planted, hardly ever where there are none."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import simulate
from kpi_helpers.calendars import holiday_regressors
from kpi_helpers.cleaning import clean
from kpi_helpers.errors import KpiError

WEEK = np.array(simulate.PLANTED["weekday_factors"]) ** 2
DAYS = pd.period_range("2024-01-01", periods=791, freq="D")
WEEKS = pd.period_range("2024-01-01", periods=113, freq="W-SUN")
MONTHS = pd.period_range("2018-01", periods=96, freq="M")


def autoregressive(rng, n, memory, sd):
    shocks, path, level = rng.standard_normal(n) * sd * np.sqrt(1 - memory**2), [], rng.standard_normal() * sd
    for shock in shocks:
        level = memory * level + shock
        path.append(level)
    return np.array(path)


def counts(rng, mean, k=100):
    """Negative binomial: Poisson with a gamma spread of 1 / k."""
    return rng.poisson(mean * rng.gamma(k, 1 / k, len(mean))).astype(float)


def daily(rng, n=791, *, base=2000, memory=0.93, sd=0.05):
    return counts(rng, base * WEEK[np.arange(n) % 7] * np.exp(autoregressive(rng, n, memory, sd)))


def flights(rng, n):
    """What four weeks of more or less spend do to a channel that half depends on it."""
    return rng.choice([0.8, 1.0, 1.0, 1.25], size=n)


def found(result, kind):
    return [(r.first, r.n) for r in result.to_frame().itertuples() if r.kind == kind]


@pytest.fixture(scope="module")
def company():
    """Sessions of each channel by day and by week, and the periods of Tết and of sales."""
    table = (
        simulate.channel_daily()
        .pivot_table(index="date", columns="channel", values="sessions", dropna=False)
        .astype(float)
    )
    sales = {"sale": list(simulate.PLANTED["sale_days"])}
    by = {"day": table.set_axis(table.index.to_period("D"))}
    weekly = table.resample("W-SUN").sum(min_count=7)
    weekly = weekly.where(table.notna().resample("W-SUN").sum() == 7)
    by["week"] = weekly.set_axis(weekly.index.to_period("W-SUN"))[1:-1]  # the first and last are not whole
    return {k: (v, holiday_regressors(v.index, sales).gt(0).any(axis=1)) for k, v in by.items()}


# --- the simulated company: simulate.truth() ---


@pytest.mark.parametrize(("grain", "season"), [("day", 7), ("week", 1)])
@pytest.mark.parametrize("channel", simulate.PLANTED["channels"])
def test_company_s_level_shift_and_gap_are_found_and_nothing_else(company, grain, season, channel):
    table, expected = company[grain]
    result = clean(table[channel], season=season, expected=expected)

    since, shifted, _column, factor = simulate.PLANTED["level_shift"].values()
    assert found(result, "gap") == [
        (simulate.PLANTED["tracking_gap"]["first"], 3) if grain == "day" else (date(2026, 6, 8), 1)
    ]
    assert result.n_outlier == 0
    breaks = result.to_frame().query("kind == 'break'")
    if channel == shifted:
        assert breaks["first"].tolist() == [since] == [result.since]
        assert breaks["observed"].iloc[0] / breaks["expected"].iloc[0] == pytest.approx(factor, rel=0.1)
    else:
        assert breaks.empty and result.since == table.index[0].start_time.date()


# --- what is planted is found ---


@pytest.mark.parametrize("at", [40, 333, 788])
@pytest.mark.parametrize("length", [1, 3, 20])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_planted_gap_is_found_where_it_is(at, length, value):
    y = daily(np.random.default_rng(1))
    length = min(length, len(y) - at)
    y[at : at + length] = value
    result = clean(y, season=7)

    trailing = np.isnan(value) and at + length == len(y)  # days that have not come are no gap
    assert found(result, "gap") == ([] if trailing else [(at, length)])
    assert np.isnan(result.values[at : at + length]).all() and np.isfinite(result.values).sum() == len(y) - length
    assert result.n_gap == (0 if trailing else length)


@pytest.mark.parametrize(("at", "factor"), [(100, 3.0), (500, 0.35), (787, 2.5)])
def test_planted_outlier_is_found_and_set_aside(at, factor):
    y = daily(np.random.default_rng(2))
    usual = y[at]
    y[at] *= factor
    result = clean(y, season=7)

    assert found(result, "outlier") == [(at, 1)] and np.isnan(result.values[at])
    assert result.observed == (y[at],)
    assert result.expected[0] == pytest.approx(usual, rel=0.2)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("at", [60, 400, 740])
def test_planted_break_is_dated_and_sized(at, factor):
    y = daily(np.random.default_rng(3)) * np.where(np.arange(791) < at, 1, factor)
    result = clean(y, season=7)

    assert result.kind == ("break",)
    assert abs(result.since - at) <= 3
    assert result.observed[0] / result.expected[0] == pytest.approx(factor, rel=0.15)


def test_half_as_much_again_is_found_nearly_always():
    rng = np.random.default_rng(16)
    step = np.where(np.arange(791) < 501, 1, 1.5)
    breaks = [found(clean(daily(rng) * step, season=7), "break") for _ in range(40)]

    assert np.mean([len(b) == 1 and abs(b[0][0] - 501) <= 3 for b in breaks]) >= 0.8


def test_two_breaks_are_both_told_and_the_last_begins_the_present_level():
    y = daily(np.random.default_rng(4)) * np.repeat([1, 2, 1.2], [300, 200, 291])
    result = clean(pd.Series(y, DAYS), season=7)

    assert result.kind == ("break", "break")
    assert abs((result.first[0] - DAYS[300].start_time.date()).days) <= 3
    assert abs((result.since - DAYS[500].start_time.date()).days) <= 3
    assert result.since == result.first[1]


def test_findings_are_in_order_and_cover_what_is_missing():
    y = daily(np.random.default_rng(5)) * np.where(np.arange(791) < 500, 1, 1.6)
    y[[90, 600]] *= 4
    y[200:204], y[650:652] = 0, np.nan
    result = clean(y, season=7)

    assert result.kind == ("outlier", "gap", "break", "outlier", "gap")
    assert result.first == tuple(sorted(result.first))
    assert (result.n_gap, result.n_outlier, int(np.isnan(result.values).sum())) == (6, 2, 8)
    kept = np.isfinite(result.values)
    assert result.values[kept].tolist() == y[kept].tolist()


# --- laws ---


@pytest.mark.parametrize("scale", [1e-4, 7.0, 1e9])
def test_unit_does_not_matter(scale):
    y = daily(np.random.default_rng(6)) * np.where(np.arange(791) < 500, 1, 1.6)
    y[[90, 200, 201]] *= [4, 0, 0]
    one, other = clean(y, season=7), clean(y * scale, season=7)

    assert (one.kind, one.first, one.n) == (other.kind, other.first, other.n)
    assert other.observed == pytest.approx([scale * v for v in one.observed], rel=1e-9)


def test_dates_move_with_the_periods():
    y = daily(np.random.default_rng(7)) * np.where(np.arange(791) < 500, 1, 1.6)
    one, other = clean(pd.Series(y, DAYS), season=7), clean(pd.Series(y, DAYS + 100), season=7)

    assert [(a - b).days for a, b in zip(other.first, one.first, strict=True)] == [100] * len(one.first) != []


@pytest.mark.parametrize(
    "y",
    [[], [5.0], [np.nan] * 50, [0.0] * 100, [3.0] * 100, [-2.0, 1.0] * 60, [0.0, 0.0, 1.0] * 50, range(1, 200)],
)
@pytest.mark.parametrize("season", [1, 7, 12])
def test_nothing_is_found_where_nothing_is(y, season):
    result = clean(list(y), season=season)

    assert result.kind == () and result.since in (0, 2)
    assert np.array_equal(result.values, np.array(y, float), equal_nan=True)
    assert result.sentence() == "Nothing was set aside, and no lasting change of level was found."


def test_channel_that_has_not_begun_has_no_gap():
    y = np.concatenate([np.zeros(100), daily(np.random.default_rng(8), 400)])
    result = clean(y, season=7)

    assert result.n_gap == 0
    assert abs(result.since - 100) <= 3 or result.since == 100


def test_periods_to_leave_alone_are_left_alone():
    y = daily(np.random.default_rng(9))
    y[300] *= 5
    y[400:403] = 0
    expected = np.zeros(791, bool)
    expected[[300, 400, 401, 402]] = True

    assert clean(y, season=7).kind == ("outlier", "gap")
    assert clean(y, season=7, expected=expected).kind == ()


def test_day_that_stands_out_every_year_is_no_outlier():
    y = daily(np.random.default_rng(10))
    y[[150, 150 + 364 + 11]] *= 3  # near the same date, as far as Tết moves
    y[700] *= 3

    assert found(clean(y, season=7), "outlier") == [(700, 1)]


# --- false alarms: bounds for 60 series; of 100, four months have a break in 3%, all others in 0 to 1% ---

NOISE = {
    "counts, weekly season, AR(1) 0.93": (7, DAYS, lambda rng: daily(rng)),
    "small counts": (7, DAYS, lambda rng: daily(rng, base=8, memory=0.8, sd=0.1)),
    "mostly zero": (7, DAYS, lambda rng: counts(rng, np.full(791, 0.7), 2)),
    "one day in five is zero": (7, DAYS, lambda rng: daily(rng) * (rng.random(791) > 0.2)),
    "random walk": (7, DAYS, lambda rng: 1000 * np.exp(np.cumsum(0.02 * rng.standard_normal(791)))),
    "yearly season": (7, DAYS, lambda rng: daily(rng) * np.exp(0.3 * np.sin(np.arange(791) / 58.1 + rng.random() * 6))),
    "doubling each year": (7, DAYS, lambda rng: daily(rng) * 2 ** (np.arange(791) / 365)),
    "four months": (7, DAYS[:120], lambda rng: daily(rng, 120)),
    "weeks, AR(1) 0.6": (1, WEEKS, lambda rng: 5000 * np.exp(autoregressive(rng, 113, 0.6, 0.1))),
    "weeks, spend in four-week flights": (
        1, WEEKS,
        lambda rng: 5000 * np.exp(autoregressive(rng, 113, 0.6, 0.05)) * np.repeat(flights(rng, 29), 4)[:113],
    ),
    "weeks, random walk": (1, WEEKS, lambda rng: 5000 * np.exp(np.cumsum(0.05 * rng.standard_normal(113)))),
    "months, strong season": (
        12, MONTHS,
        lambda rng: 900 * np.exp(np.tile(0.4 * rng.standard_normal(12), 8) + autoregressive(rng, 96, 0.6, 0.08)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOISE)
def test_false_findings_are_rare(kind):
    season, periods, draw = NOISE[kind]
    rng = np.random.default_rng(20260316)
    results = [clean(pd.Series(draw(rng), periods), season=season) for _ in range(60)]

    assert np.mean(["gap" in r.kind for r in results]) <= 1 / 60
    assert np.mean([r.n_outlier / len(periods) for r in results]) <= 0.0005
    assert np.mean(["break" in r.kind for r in results]) <= 3 / 60


def test_dips_that_recur_each_year_are_no_break_even_unannounced():
    rng = np.random.default_rng(11)
    for _ in range(30):
        y = daily(rng)
        for new_year in (40, 40 + 364 + 19, 40 + 728 - 11):
            y[new_year - 20 : new_year - 2] *= 1.3
            y[new_year - 2 : new_year + 7] *= 0.4
        assert "break" not in clean(pd.Series(y, DAYS), season=7).kind


def test_iid_cusum_alarms_where_this_does_not():
    """The peer test, statsmodels' CUSUM of residuals at 5%, takes autocorrelation for breaks."""
    from statsmodels.stats.diagnostic import breaks_cusumolsresid

    rng = np.random.default_rng(12)
    series = [np.exp(autoregressive(rng, 791, 0.93, 0.1)) * 1000 for _ in range(40)]
    peer = [breaks_cusumolsresid(np.log(y) - np.log(y).mean(), ddof=1)[1] < 0.05 for y in series]
    ours = [bool(clean(y, season=7).kind) for y in series]

    assert np.mean(peer) > 0.8 and np.mean(ours) <= 1 / 40


# --- public data ---


def test_cash_machines_lose_few_days(real_data):
    table = pd.read_csv(real_data("forecast-dev") / "nn5_daily.csv.gz")
    results = [clean(s.sort_values("t")["value"], season=7) for _, s in table.groupby("series")]

    assert np.mean([r.n_outlier / len(r.values) for r in results]) < 0.01
    assert not any("break" in r.kind for r in results)


def test_funnel_s_collapse_of_march_2015_is_dated(real_data):
    """The README beside the data: reach of the payment page, 2,412 in February to 631 in March; home is steady."""
    from statsmodels.stats.diagnostic import breaks_cusumolsresid

    folder = real_data("signup-funnel")
    users = pd.read_csv(folder / "user_table.csv.gz", parse_dates=["date"])
    paying = users[users["user_id"].isin(pd.read_csv(folder / "payment_page_table.csv.gz")["user_id"])]
    days = pd.period_range("2015-01-01", "2015-04-30", freq="D")
    home, payment = (t["date"].dt.to_period("D").value_counts().reindex(days, fill_value=0) for t in (users, paying))
    result = clean(payment, season=7)

    assert clean(home, season=7).kind == ()
    assert result.kind == ("break",) and result.since == date(2015, 3, 1)
    assert result.observed[0] / result.expected[0] == pytest.approx((631 / 31) / (2412 / 28), rel=0.1)
    assert breaks_cusumolsresid(payment.to_numpy() - payment.mean(), ddof=1)[1] < 1e-4


# --- words and errors ---


def test_sentence_and_table_speak_both_languages():
    y = daily(np.random.default_rng(15)) * np.where(np.arange(791) < 500, 1, 1.5)
    y[100:102], y[200:203], y[300] = np.nan, 0, y[300] * 4
    result = clean(pd.Series(y, DAYS), season=7)

    since = result.since
    assert result.sentence().startswith("Set aside: 2 tracking gaps (5 days) and 1 outlier. The level has been ")
    assert result.sentence().endswith(f"higher since {since.day} {since:%b %Y}.")
    assert result.sentence("vi").startswith("Đã loại ra khi tính: 2 đoạn mất số liệu (5 ngày) và 1 giá trị bất thường.")
    assert result.html().count("<tr") == 1 + 4 and "Thay đổi mức nền" in result.html("vi")
    assert [row["kind"] for row in result.to_json()["rows"]] == ["gap", "gap", "outlier", "break"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (3.0, {"season": 7}, "one series"),
        ([[1.0, 2.0]], {"season": 7}, "one series"),
        ([1.0, np.inf], {"season": 7}, "one series of finite numbers"),
        ([1.0] * 9, {"season": 0}, "season=0"),
        ([1.0] * 9, {"season": 1, "expected": [True]}, "Give a flag for each period"),
    ],
)
def test_what_does_not_fit_is_told(values, options, message):
    with pytest.raises(KpiError, match=message):
        clean(values, **options)
