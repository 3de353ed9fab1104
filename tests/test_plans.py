"""`kpi_helpers.plans` and `kpi_helpers.pacing`: from a forecast to graded targets, a plan, a pace and an answer."""

import html
import math
import re
from dataclasses import replace
from datetime import date, timedelta
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from kpi_helpers import kpis, simulate, sources
from kpi_helpers.backtests import back_test, baseline
from kpi_helpers.baselines import Total
from kpi_helpers.errors import KpiError
from kpi_helpers.outlooks import outlook, outlook_channels, outlook_kpis, past_outlooks
from kpi_helpers.pacing import STATUSES, pace, watch
from kpi_helpers.plans import allocate_plan, answer, grade_outlooks
from kpi_helpers.result import HTML_MIME, JSON_MIME, MINUS, TONES, measure, say
from kpi_helpers.targets import GRADES, rank

AS_OF = date(2026, 11, 21)
# kpi_baselines.md §7, G4: a year of 120,000 by month, and the first quarter of the next
G4_MONTHS = [9000, 6000, 9000, 10000, 10000, 10000, 10000, 10000, 10500, 11000, 11500, 13000]
G4_ACTUALS = [9100, 5600, 9400]


def table_of(folder, rows, ids, *, period="day", **options):
    """Table of KPIs from rows of `channel_daily`, by way of a CSV file."""
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "channel_daily.csv", index=False)
    source = sources.connect(folder, {"channel_daily": {"period": period}})
    return kpis.compute(source, ids, **{"grain": period} | options)


def monthly_orders(folder, begin, values):
    """Table of orders by month; None is a month that is not known."""
    months = pd.date_range(begin, periods=len(values), freq="MS")
    return table_of(folder, {"date": months, "channel": "Shop", "orders": values}, ["orders"], period="month")


@pytest.fixture(scope="module")
def daily():
    return simulate.channel_daily()


@pytest.fixture(scope="module")
def company(tmp_path_factory):
    return sources.connect(simulate.write(tmp_path_factory.mktemp("company") / "demo"))


@pytest.fixture(scope="module")
def values(company):
    return kpis.compute(company, ["revenue", "orders", "sessions"], confidence=0.9)


@pytest.fixture(scope="module")
def by_grain(company):
    return {grain: kpis.compute(company, ["orders"], grain=grain) for grain in ("day", "week", "month")}


@pytest.fixture(scope="module")
def by_channel(company):
    return kpis.compute(company, ["revenue", "orders"], by="channel", confidence=0.9)


@pytest.fixture(scope="module")
def whole(values):
    return outlook(values, "orders", as_of=AS_OF)


@pytest.fixture(scope="module")
def channels(by_channel):
    return outlook_channels(by_channel, "orders", as_of=AS_OF)


def weekly(daily, column, channel=None):
    """Sums by Monday with pandas alone; NaN for a week with an unknown or missing day."""
    rows = daily if channel is None else daily[daily["channel"] == channel]
    days = rows.groupby("date")[column].agg(lambda s: s.astype(float).sum(skipna=False))
    monday = days.index - pd.to_timedelta(days.index.day_of_week, unit="D")
    return days.groupby(monday).agg(lambda s: s.sum(skipna=False) if len(s) == 7 else np.nan)


def shown(page):
    """What a reader sees or hears: text and labels without tags."""
    labels = re.findall(r'(?:aria-label|alt)="([^"]*)"', page)
    text = re.sub(r"<[^>]+>", " ", page)
    return html.unescape(" ".join([text, *labels])).replace("\u00a0", " ")


def cells(page):
    """Rows of the last table of a page, as text."""
    body = page[page.rindex("<table") : page.rindex("</table>") + 8]
    root = ElementTree.fromstring(body)
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def as_number(text):
    """A number as English readers write it."""
    return float(text.replace(",", "").replace(MINUS, "-"))


# --- outlook ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("months", [1, 3])
@pytest.mark.parametrize("grain", ["day", "week", "month"])
@pytest.mark.parametrize(
    "as_of", [date(2026, 11, 21), date(2026, 11, 1), date(2026, 10, 31), date(2026, 10, 30), date(2026, 2, 28)]
)
def test_a_plan_holds_the_periods_that_begin_in_the_whole_months_after(by_grain, as_of, grain, months):
    first = pd.Timestamp(as_of) + pd.offsets.MonthBegin(1)  # the day after a month's end is a month's first
    last = first + pd.offsets.MonthBegin(months) - pd.Timedelta(days=1)
    expected = pd.date_range(first, last, freq={"day": "D", "week": "W-MON", "month": "MS"}[grain])

    told = outlook(by_grain[grain], "orders", as_of=as_of, months=months)

    assert list(told.period_at) == [at.date() for at in expected]
    assert len(told.expected) == len(told.last_year) == len(expected)
    assert max(told.history.index.start_time.date) <= as_of


@pytest.mark.parametrize(("column", "scale"), [("orders", 1), ("revenue", 1)])
def test_the_reference_is_last_years_same_periods(daily, values, column, scale):
    told = outlook(values, column, as_of=AS_OF)
    by_week = weekly(daily, column)
    before = [by_week[pd.Timestamp(at) - pd.Timedelta(weeks=52)] for at in told.period_at]

    assert told.last_year == pytest.approx(before, rel=1e-12)
    assert told.reference == pytest.approx(sum(before), rel=1e-12)
    assert told.change == pytest.approx(told.total / sum(before) - 1, rel=1e-12)


def test_the_reference_of_a_channel_is_its_own(daily, by_channel):
    told = outlook(by_channel, "orders", segment="Zalo OA", as_of=AS_OF)
    by_week = weekly(daily, "orders", "Zalo OA")

    assert told.reference == sum(by_week[pd.Timestamp(at) - pd.Timedelta(weeks=52)] for at in told.period_at)
    assert told.segment == "Zalo OA"


def odds_above(total, target):
    """Chance of exceeding `target`, with scipy: each side of the median is half of a Student's t, 4 degrees."""
    far = np.log(np.maximum(target, 1e-300) / total.mean) if total.multiplicative else target - total.mean
    return student.sf(far / np.where(far < 0, total.spread_low, total.spread_high), 4)


def test_the_outlook_is_the_baseline_of_the_complete_weeks(daily, whole):
    # independent: latest complete week begins on 9 November; the plan begins with the fourth week after it
    y = weekly(daily, "orders")[: pd.Timestamp(2026, 11, 9)]
    y = y[y.first_valid_index() :].to_period("W-SUN")
    told, _cleaned = baseline(y, 15)
    odds = told.whole([0] * 3 + [1] * 12)

    assert [(pd.Timestamp(at) - pd.Timestamp(2026, 11, 9)).days // 7 for at in whole.period_at] == list(range(4, 16))
    assert whole.expected == pytest.approx(told.mean[3:], rel=1e-12)
    assert whole.bridge.tolist() == pytest.approx(told.mean[:3], rel=1e-12)
    assert whole.total == pytest.approx(told.mean[3:].sum(), rel=1e-12)
    assert (whole.odds, whole.weights) == (odds, (0.0,) * 3 + (1.0,) * 12)
    low, high = student.ppf(0.05, 4) * odds.spread_low, student.ppf(0.95, 4) * odds.spread_high
    interval = odds.mean * np.exp(low), odds.mean * np.exp(high)
    assert (whole.total_low, whole.total_high) == pytest.approx(interval, rel=1e-9)


def test_an_exact_season_that_grows_is_carried_on(tmp_path):
    # worked by hand: each month is 240 above that of the year before, so that last year plus the change is exact
    months = np.array(G4_MONTHS) + 240 * np.arange(4)[:, None]
    told = outlook(monthly_orders(tmp_path / "a", "2022-01-01", months.ravel()), "orders", as_of=date(2025, 12, 31))

    assert told.expected == pytest.approx([9960, 6960, 9960])
    assert (told.reference, told.total) == pytest.approx((26_160, 26_880))
    assert told.change == pytest.approx(720 / 26_160)


def test_holidays_reach_the_forecast(tmp_path, values):
    # 60 days of sale at 1.5 times the usual, on dates that no season knows
    rng, days = np.random.default_rng(5), pd.date_range("2025-01-01", "2026-04-30")
    sale = sorted(rng.choice(days[:-40], 60, replace=False))
    orders = 1000 * np.exp(0.02 * rng.standard_normal(len(days))) * np.where(days.isin(sale), 1.5, 1.0)
    table = table_of(tmp_path / "a", {"date": days, "channel": "Shop", "orders": orders.round()}, ["orders"])
    ahead = {"sale": [*(pd.Timestamp(d).date() for d in sale), date(2026, 5, 20)]}

    plain, told = (outlook(table, "orders", as_of=date(2026, 4, 30), months=1, holidays=h) for h in (None, ahead))

    assert told.expected[19] / np.mean(told.expected[:19]) == pytest.approx(1.5, rel=0.05)
    assert plain.expected[19] / np.mean(plain.expected[:19]) == pytest.approx(1.0, rel=0.1)
    for make in (outlook_kpis, pace, past_outlooks):  # a wrong day is not taken for a short history
        which = plain if make is past_outlooks else ["orders"]
        extra = {"uplift": 0.1} if make is pace else {}
        with pytest.raises(KpiError, match="neither a date nor MM-DD"):
            make(table, which, as_of=date(2026, 4, 30), holidays={"sale": ["2-30"]}, **extra)


def test_past_outlooks_keep_the_plans_distance_and_periods(values, whole):
    past = past_outlooks(values, whole, as_of=AS_OF)
    y = values.series("orders")[: pd.Period("2026-11-09", "W-SUN")]

    assert past == back_test(y, 15, weights=[0] * 3 + [1] * 12, confidence=0.9)
    for at, came in zip(past.origin_at, past.actual, strict=True):  # from the fourth week on, twelve of them
        since = pd.Period(at, "W-SUN")
        assert came == y[since + 3 : since + 14].sum()


# --- ratios -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """Three years of spend and orders by month, whose cost per order drifts, and delivered of sent."""
    rng = np.random.default_rng(7)
    orders = np.tile(G4_MONTHS, 3) * np.exp(0.05 * rng.standard_normal(36))
    sent, bounced = np.full(36, 20_000), rng.integers(0, 60, 36)
    rows = {
        "date": pd.date_range("2023-01-01", periods=36, freq="MS"), "channel": "Email", "orders": orders.round(),
        "spend": (orders * 50 * np.exp(0.1 * rng.standard_normal(36))).round(),
        "sent": sent, "hard_bounces": bounced, "soft_bounces": 0,
    }  # fmt: skip
    return pd.DataFrame(rows), table_of(
        tmp_path_factory.mktemp("costs") / "a", rows, ["cpa", "delivery_rate"], period="month"
    )


def test_a_ratio_is_weighed_by_last_years_denominators(costs):
    rows, table = costs
    told = outlook(table, "cpa", as_of=date(2025, 12, 31))
    last = rows[rows["date"].between("2025-01-01", "2025-03-31")]
    orders = last["orders"].to_numpy()

    assert told.knows_last_year
    assert told.reference == pytest.approx(last["spend"].sum() / orders.sum(), rel=1e-12)
    assert told.total == pytest.approx(np.average(told.expected, weights=orders), rel=1e-12)
    assert sum(told.weights) == pytest.approx(1)
    assert np.count_nonzero(told.weights) == 3


def test_a_lower_cost_is_the_better_target(costs):
    told = outlook(costs[1], "cpa", as_of=date(2025, 12, 31))
    graded = grade_outlooks([told], [-0.1, 0.0, 0.1])
    targets = [told.reference * f for f in (1.1, 1.0, 0.9)]

    assert graded.target == pytest.approx(targets, rel=1e-12)
    assert graded.probability == pytest.approx(1 - odds_above(told.odds, np.array(targets)), rel=1e-9)
    assert graded.probability[0] > graded.probability[1] > graded.probability[2]
    assert told.chance(told.target_at(0.3)) == pytest.approx(0.3)
    easy, hard = (answer(grade_outlooks([told], [u]), told, as_of=date(2025, 12, 31)) for u in (-0.6, 0.6))
    for language, less, more in (("en", "less", "more"), ("vi", "giảm", "tăng")):
        assert less in hard.sentence(language) and more not in hard.sentence(language)
        assert "+60%" in easy.sentence(language)
    assert hard.commit == pytest.approx(-told.change)


def test_a_share_is_never_above_one(costs):
    told = outlook(costs[1], "delivery_rate", as_of=date(2025, 12, 31), confidence=0.99)

    assert 0.99 < told.total <= told.total_high <= 1
    assert max(told.expected_high) <= 1
    assert told.chance(1.01) == 0
    assert told.target_at(1e-9) <= 1
    assert grade_outlooks([told], [0.1]).grade == ("unrealistic",)


def test_a_ratio_is_neither_split_nor_summed(costs):
    told = outlook(costs[1], "cpa", as_of=date(2025, 12, 31))

    with pytest.raises(KpiError, match="cpa is a ratio; only sums are split"):
        allocate_plan(told, [told], 0.1)
    with pytest.raises(KpiError, match="cpa: a ratio does not add up over a year"):
        pace(costs[1], ["cpa"], as_of=date(2025, 10, 31), uplift=0.1)


def test_a_period_without_denominator_needs_no_last_year(tmp_path):
    # a newsletter that pauses every third month: 0 of 0 delivered is no rate, and it weighs nothing
    sent = np.where(np.arange(36) % 3 == 2, 0, 10_000)
    bounced = np.where(sent > 0, np.arange(36) % 7 * 10 + 200, 0)
    rows = {"date": pd.date_range("2023-01-01", periods=36, freq="MS"), "channel": "Email", "sent": sent,
            "hard_bounces": bounced, "soft_bounces": 0}  # fmt: skip
    told = outlook(table_of(tmp_path / "a", rows, ["delivery_rate"], period="month"), "delivery_rate",
                   as_of=date(2025, 12, 31))  # fmt: skip

    assert math.isnan(told.last_year[2])
    assert told.weights == pytest.approx([0.5, 0.5, 0])
    assert told.knows_last_year
    assert told.reference == pytest.approx(1 - (bounced[24] + bounced[25]) / 20_000)


# --- a day of the past, silence, and little data ----------------------------------------------------------


def test_a_plan_of_a_year_does_not_know_the_month_that_was_running(tmp_path):
    rng = np.random.default_rng(2)
    days = pd.date_range("2023-01-01", "2026-12-31")
    rows = {"date": days, "channel": "Shop", "orders": rng.poisson(100, len(days)), "spend": 1000}
    later = table_of(tmp_path / "a", rows, ["cpa"], grain="month")

    told = outlook(later, "cpa", as_of=date(2025, 12, 15), months=12)

    assert math.isnan(told.last_year[-1])  # December 2025 was not over
    assert not told.knows_last_year
    assert set(told.weights[1:]) == {1 / 12}


def test_a_channel_that_was_silent_then_has_ended_then(tmp_path):
    months = pd.date_range("2023-01-01", periods=40, freq="MS")
    there = np.r_[0:30, 34:40]
    rows = {"date": months[there], "channel": "Shop", "orders": 60 + there * 7 % 40}
    table = table_of(tmp_path / "a", rows, ["orders"], period="month", by="channel")

    reasons = [outlook_channels(table, "orders", as_of=d)[0].reason for d in (date(2025, 10, 31), date(2026, 4, 30))]

    assert reasons == ["ended", ""]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"months": 0}, "months=0"), ({"confidence": 2}, "confidence=2"), ({"months": -1}, "months=-1")],
)
def test_what_was_asked_for_wrongly_is_not_called_short(values, wrong, told):
    for make in (outlook, lambda v, k, **o: outlook_kpis(v, [k], **o)):
        with pytest.raises(KpiError, match=told):
            make(values, "orders", as_of=AS_OF, **wrong)


def test_totals_have_no_outlook(company):
    table = kpis.compute(company, ["orders"], grain="total")

    for make in (lambda: outlook(table, "orders", as_of=AS_OF), lambda: pace(table, ["orders"], as_of=AS_OF, uplift=0)):
        with pytest.raises(KpiError, match="needs days, weeks or months, not grain='total'"):
            make()


def test_refunds_larger_than_sales_have_no_target(tmp_path):
    months = pd.date_range("2023-01-01", periods=36, freq="MS")
    rows = {"date": months, "channel": "Shop", "revenue": -1000 - np.arange(36) * 37 % 200, "orders": 5}
    table = table_of(tmp_path / "a", rows, ["revenue"], period="month")
    told = outlook(table, "revenue", as_of=date(2025, 12, 31))
    graded = grade_outlooks([told], [0.1])

    assert told.total < 0
    assert graded.grade == ("not enough data",)
    assert pace(table, ["revenue"], as_of=date(2025, 10, 31), uplift=0.1).status == ("not enough data",)
    with pytest.raises(KpiError, match="no target to split"):
        allocate_plan(told, [told], 0.1)
    assert "nan" not in shown(answer(graded, told, as_of=date(2025, 12, 31)).html("en"))


def test_few_orders_are_told_without_nan(tmp_path):
    months = pd.date_range("2023-01-01", periods=40, freq="MS")
    rows = {"date": months, "channel": "Kiosk", "orders": np.random.default_rng(4).poisson(1, 40)}
    table = table_of(tmp_path / "a", rows, ["orders"], period="month", by="channel")
    (told,) = outlook_channels(table, "orders", as_of=date(2026, 4, 30))
    graded = grade_outlooks([told], [-0.5, 0.1, 2.0])

    assert told.total_low >= 0
    assert list(graded.probability) == sorted(graded.probability, reverse=True)
    assert "nan" not in shown(graded.html("en"))


def test_the_running_week_does_not_count_until_it_is_over(values):
    saturday, sunday = (outlook(values, "orders", as_of=date(2026, 11, day)) for day in (14, 15))

    assert max(saturday.history.index.start_time.date) == date(2026, 11, 2)
    assert max(sunday.history.index.start_time.date) == date(2026, 11, 9)


def test_what_comes_after_the_day_is_not_known_to_the_outlook(company, values):
    early = date(2026, 9, 30)
    cut = kpis.compute(company, ["orders"], until=early)

    assert outlook(values, "orders", as_of=early).to_json() == outlook(cut, "orders", as_of=early).to_json()


@pytest.mark.parametrize("language", ["en", "vi"])
def test_an_unknown_last_year_is_not_called_unchanged(tmp_path, language):
    # ten months of history: nothing of last year's same months is known, so nothing can be said against it
    noisy = 1000 + 50 * np.random.default_rng(1).standard_normal(10).round(2)
    table = monthly_orders(tmp_path / "a", "2026-01-01", noisy)
    told = outlook(table, "orders", as_of=date(2026, 10, 31), months=2)
    graded = grade_outlooks([told], [0.1])
    page = answer(graded, told, as_of=date(2026, 10, 31)).html(language)

    assert np.isnan(told.last_year).all()
    assert told.reference == told.total  # uplifts are put on the forecast instead
    for text in (told.sentence(language), told.title(language), shown(told.html(language)), shown(page)):
        assert re.findall(r"\b0[.,]0%", text) == []
        assert say("outlook.flat", language, name="")[2:] not in text
    assert cells(graded.html(language))[1][1] != measure(told.total, "count", language)  # the column "last year"


def test_a_short_history_and_an_early_day_are_refused_with_the_reason(values, tmp_path):
    short = monthly_orders(tmp_path / "a", "2026-01-01", [5, 6, 7])

    with pytest.raises(KpiError, match=r"cannot be computed, because 3 known values.*Use a longer history"):
        outlook(short, "orders", as_of=date(2026, 3, 31))
    with pytest.raises(KpiError, match=r"orders of all channels has no complete period up to 2023-11-05"):
        outlook(values, "orders", as_of=date(2023, 11, 5))


def test_a_channel_without_an_outlook_keeps_its_place_with_the_reason(tmp_path):
    months = pd.date_range("2024-01-01", periods=30, freq="MS")
    old = pd.DataFrame({"date": months, "channel": "Shop", "orders": np.arange(30) * 7 % 40 + 60})
    new = pd.DataFrame({"date": months[-2:], "channel": "Kiosk", "orders": [4000, 5000]})
    table = table_of(tmp_path / "a", pd.concat([old, new]), ["orders"], period="month", by="channel")

    told = outlook_channels(table, "orders", as_of=date(2026, 6, 30), confidence=0.8)
    graded = grade_outlooks(told, [0.1])

    assert [o.segment for o in told] == ["Kiosk", "Shop"]
    assert told[0].reason == "short"
    assert told[1].reason == ""
    assert {o.confidence for o in told} == {0.8}
    assert graded.grade[0] == "not enough data"
    assert graded.grade[1] in TONES
    for language in ("en", "vi"):
        assert told[0].sentence(language) in shown(told[0].html(language))
        assert told[0].sentence(language) in shown(graded.html(language))  # below the table, too


def test_a_channel_that_has_ended_gets_no_share_of_the_plan(daily, tmp_path):
    ended = daily[(daily["channel"] != "Email") | (daily["date"] < "2026-03-01")][["date", "channel", "orders"]]
    table = table_of(tmp_path / "a", ended, ["orders"], by="channel", grain="week")

    told = outlook_channels(table, "orders", as_of=AS_OF)
    plan = allocate_plan(next(o for o in told if o.segment == "Direct"), told, 0.1)

    assert [o.segment for o in told if o.reason == "ended"] == ["Email"]
    assert "Email" not in plan.channel


def test_a_plan_of_a_year_keeps_the_season_and_makes_no_odds_up(company):
    two_years = kpis.compute(company, ["orders"], since=date(2024, 11, 1))
    told = outlook(two_years, "orders", as_of=AS_OF, months=12)
    graded = grade_outlooks([told], [0.1])

    assert told.seasonal and np.ptp(told.expected) > 2000  # Tết is lower than 11.11
    assert graded.grade == ("not enough data",)
    for language in ("en", "vi"):
        page = shown(answer(graded, told, as_of=AS_OF).html(language))
        assert "10%" not in page and "nan" not in page


@pytest.mark.parametrize("value", [0, 500])
def test_a_series_that_never_varies_is_told_not_graded(tmp_path, value):
    table = monthly_orders(tmp_path / "a", "2023-01-01", [value] * 40)
    told = outlook(table, "orders", as_of=date(2026, 4, 30))
    graded = grade_outlooks([told], [0.1, 0.1])
    told_answer = answer(graded, told, as_of=date(2026, 4, 30))

    assert graded.grade == ("not enough data",)  # and an uplift given twice is graded once
    for language in ("en", "vi"):
        page = shown(told_answer.html(language) + graded.html(language))
        assert "nan" not in page and "inf" not in page
    assert sum(allocate_plan(told, [told], told_answer.commit).target) == 3 * value


# --- targets ----------------------------------------------------------------------------------------------


def test_odds_are_those_of_the_totals_distribution(whole, channels):
    uplifts = [-0.05, 0.0, 0.10, 0.15, 0.20]
    told = [whole, *channels]

    graded = grade_outlooks(told, uplifts)

    targets = [o.reference * (1 + u) for o in told for u in uplifts]
    chances = [odds_above(o.odds, o.reference * (1 + u)) for o in told for u in uplifts]
    assert graded.target == pytest.approx(targets, rel=1e-12)
    assert graded.probability == pytest.approx(chances, rel=1e-9)
    assert graded.grade == tuple(rank(p, GRADES) for p in chances)
    assert graded.segment == tuple(o.segment for o in told for _u in uplifts)
    assert graded.uplift == tuple(uplifts) * len(told)


TOTALS = st.builds(
    Total, mean=st.floats(1, 1e9), spread_low=st.floats(0.01, 1), spread_high=st.floats(0.01, 1),
    multiplicative=st.booleans(),
)  # fmt: skip


@given(odds=TOTALS, chances=st.tuples(*[st.floats(0.01, 0.99)] * 2), key=st.sampled_from(["orders", "cpa"]))
def test_a_harder_target_is_less_likely_and_its_odds_are_its_own(whole, odds, chances, key):
    told = outlook_like(whole, odds=odds, kpi=key)
    low, high = sorted(chances)
    easy, hard = told.target_at(high), told.target_at(low)

    assert (easy <= hard) == (key == "orders") or easy == hard
    assert told.chance(easy) >= told.chance(hard)
    for p, target in ((low, hard), (high, easy)):
        assert told.chance(target) == pytest.approx(p, rel=1e-4)


def test_a_side_whose_spread_is_not_known_has_no_odds(whole):
    told = outlook_like(whole, odds=Total(mean=whole.total, spread_low=0.0, spread_high=0.1, multiplicative=True))
    change = whole.total / whole.reference - 1

    assert grade_outlooks([told], [change - 0.1, change + 0.1]).grade[0] == "not enough data"
    assert grade_outlooks([told], [change - 0.1, change + 0.1]).grade[1] in TONES


def test_a_history_without_an_error_has_no_odds(tmp_path):
    table = monthly_orders(tmp_path / "a", "2023-01-01", [*range(1, 13)] * 3)
    told = outlook(table, "orders", as_of=date(2025, 12, 31))

    graded = grade_outlooks([told], [0.1, 0.2])

    assert told.odds.spread_low == told.odds.spread_high == 0
    assert not told.graded
    assert graded.grade == ("not enough data",) * 2
    assert np.isnan(graded.probability).all()
    assert [row["probability"] for row in graded.to_json()["rows"]] == [None, None]


def test_nothing_to_grade_is_refused():
    with pytest.raises(KpiError, match=r"no outlook to grade\. Choose a KPI"):
        grade_outlooks([], [0.1])


@pytest.mark.parametrize(
    "chance", [0.4999, 0.4951, 0.5, 0.5001, 0.1999, 0.1951, 0.2, 0.0499, 0.0451, 0.05, 0.0099, 0.01]
)
@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_rounded_chance_never_contradicts_the_grade(whole, chance, language):
    # rule 9 of the look: grade on the full number; if the rounded one sits on a bound, show one more digit
    uplift = whole.target_at(chance + 1e-9) / whole.reference - 1
    graded = grade_outlooks([whole], [uplift])
    grade = rank(chance + 1e-9, GRADES)
    assert graded.grade == (grade,)

    (in_the_table,) = re.findall(r"<b>(.*?)</b>", graded.html(language))
    in_the_headline = re.findall(r"[<>]?[\d.,]+%", answer(graded, whole, as_of=AS_OF).sentence(language))[-1]

    for text in (html.unescape(in_the_table), in_the_headline):
        assert ("." if language == "vi" else ",") not in text
        read = float(text.strip("<>%").replace(",", ".")) / 100 - (0.005 if "<" in text else 0)
        assert rank(round(read, 9), GRADES) == grade, text


# --- plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uplift", [-0.05, 0.0, 0.1, 0.15])
@pytest.mark.parametrize("column", ["orders", "revenue"])
def test_the_plan_adds_up_to_the_target_exactly(values, by_channel, column, uplift):
    whole = outlook(values, column, as_of=AS_OF)
    channels = outlook_channels(by_channel, column, as_of=AS_OF)

    plan = allocate_plan(whole, channels, uplift)

    frame = plan.to_frame()
    months = [date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]
    assert plan.total == sum(plan.target) == round(whole.reference * (1 + uplift))
    assert all(isinstance(part, int) for part in plan.target)
    assert sorted(set(plan.month_at)) == months
    assert set(plan.channel) == set(simulate.PLANTED["channels"])
    assert set(plan.period_at) == set(whole.period_at)
    assert len(frame) == len(whole.period_at) * len(simulate.PLANTED["channels"])
    assert frame.groupby("month_at")["target"].sum().sum() == plan.total
    assert frame.groupby("channel")["target"].sum().sum() == plan.total


def test_each_cell_of_the_plan_has_its_share_of_the_outlook(whole, channels):
    plan = allocate_plan(whole, channels, 0.10)
    expected = pd.Series(
        [value for o in channels for value in o.expected],
        index=pd.MultiIndex.from_tuples([(o.segment, at) for o in channels for at in o.period_at]),
    )
    share = expected / expected.sum()

    for channel, at, target in zip(plan.channel, plan.period_at, plan.target, strict=True):
        assert abs(target - plan.total * share[channel, at]) < 3  # months, periods and channels are each rounded
    by_month = plan.to_frame().groupby("month_at")["target"].sum()
    months = share.groupby(lambda cell: cell[1].replace(day=1)).sum() * plan.total
    assert (by_month - months).abs().max() < 1


@pytest.mark.parametrize("column", ["orders", "revenue"])
def test_the_plan_that_is_printed_adds_up_too(values, by_channel, column):
    # a manager who adds the rows and columns of the page finds its totals
    whole = outlook(values, column, as_of=AS_OF)
    plan = allocate_plan(whole, outlook_channels(by_channel, column, as_of=AS_OF), 0.10)

    head, *rows = cells(plan.html("en"))
    grid = np.array([[as_number(text) for text in row[1:]] for row in rows]).round(6)

    assert head[1:4] == ["Dec 2026", "Jan 2027", "Feb 2027"]
    assert grid[:, :-1].sum(axis=1) == pytest.approx(grid[:, -1], abs=1e-6)
    assert grid[:-1].sum(axis=0) == pytest.approx(grid[-1], abs=1e-6)
    assert (np.diff(grid[:-1, -1]) <= 0).all()  # the largest channel first


def test_a_channel_heading_below_zero_is_asked_for_nothing(whole):
    rising, falling = (
        outlook_like(whole, segment=name, expected=tuple(sign * v for v in whole.expected))
        for name, sign in (("up", 1), ("down", -1))
    )

    plan = allocate_plan(whole, [rising, falling], 0.10)

    assert plan.to_frame().groupby("channel")["target"].sum().to_dict() == {"up": plan.total, "down": 0}


def outlook_like(whole, **changed):
    """The same outlook with other fields."""
    columns = {name: changed.pop(name) for name in list(changed) if name in whole.frame}
    return replace(whole, frame=whole.frame.assign(**columns), whole=whole.whole | changed)


# --- pace -------------------------------------------------------------------------------------------------


def test_pace_knows_what_golden_g4_knows(tmp_path):
    # the projection of G4 is that of `targets.project`: three months of a second year are too few for a season
    table = monthly_orders(tmp_path / "a", "2025-01-01", [*G4_MONTHS, *G4_ACTUALS])

    told = pace(table, ["orders"], as_of=date(2026, 3, 31), uplift=0.0)

    assert (told.actual, told.target, told.last_year) == ((24_100,), (120_000,), (120_000,))
    assert told.actual[0] / 24_000 == pytest.approx(1.00416667, rel=1e-8)
    assert told.remaining_factor == pytest.approx([0.99895833], rel=1e-8)


def test_pace_is_what_is_known_and_the_forecast_of_the_rest(tmp_path):
    # worked by hand: each month is 240 above that of the year before, give or take nothing
    months = np.array(G4_MONTHS) + 240 * np.arange(4)[:, None]
    table = monthly_orders(tmp_path / "a", "2022-01-01", months.ravel()[:39])

    told = pace(table, ["orders"], as_of=date(2025, 3, 31), uplift=0.1)

    assert told.actual == (24_000 + 3 * 720,)
    assert told.last_year == (120_000 + 12 * 480,)
    assert told.projected == pytest.approx([120_000 + 12 * 720])
    assert told.status == ("not enough data",)  # a history that never missed has no odds


@pytest.mark.parametrize("column", ["orders", "sessions"])
def test_pace_matches_an_independent_computation(daily, values, column):
    y = weekly(daily, column)[: pd.Timestamp(2026, 11, 9)]
    year = pd.date_range("2026-01-01", "2026-12-31", freq="W-MON")
    season = y.reindex(year - pd.Timedelta(weeks=52)).set_axis(year)
    done = y.reindex(year).loc[: y.index[-1]]
    known = done.notna()  # the week of the tracking gap is not among the sessions
    so_far = done.sum() * season[done.index].sum() / season[done.index][known].sum()
    ahead = len(year) - len(done)
    rest = baseline(y[y.first_valid_index() :].to_period("W-SUN"), ahead)[0].whole()
    target = season.sum() * 1.3

    told = pace(values, [column], as_of=AS_OF, uplift=0.3).to_frame().iloc[0]

    assert known.sum() == len(done) - (column == "sessions")
    assert (len(year), ahead, told["year"]) == (52, 7, 2026)
    assert told["actual"] == done.sum()
    assert told["last_year"] == season.sum()
    assert told["target"] == pytest.approx(target, rel=1e-12)
    assert told["projected"] == pytest.approx(so_far + rest.mean, rel=1e-12)
    share = season[done.index].sum() / season.sum()
    assert told["remaining_factor"] == pytest.approx((target - so_far) / (target * (1 - share)), rel=1e-9)
    assert told["probability"] == pytest.approx(odds_above(rest, target - so_far), rel=1e-9)
    low, high = student.ppf(0.05, 4) * rest.spread_low, student.ppf(0.95, 4) * rest.spread_high
    interval = so_far + rest.mean * np.exp(low), so_far + rest.mean * np.exp(high)
    assert (told["projected_low"], told["projected_high"]) == pytest.approx(interval, rel=1e-9)
    assert told["status"] == rank(told["probability"], STATUSES)


def test_a_gap_is_not_asked_of_the_rest_again(tmp_path):
    # exactly on plan, but March was not counted: the rest must reach its own share, not March's too
    table = monthly_orders(tmp_path / "a", "2023-01-01", [*G4_MONTHS * 3, *G4_MONTHS[:2], None, *G4_MONTHS[3:6]])

    assert pace(table, ["orders"], as_of=date(2026, 6, 30), uplift=0.0).remaining_factor == pytest.approx((1.0,))


def test_a_kpi_that_fell_silent_has_no_pace(tmp_path):
    history = [*G4_MONTHS * 3, *G4_MONTHS[:3], *[None] * 4, 900]
    table = monthly_orders(tmp_path / "a", "2023-01-01", history)

    silent = pace(table, ["orders"], as_of=date(2026, 7, 31), uplift=0.0)

    assert (silent.status, silent.actual) == (("not enough data",), (24_000,))


def test_refunds_count_in_last_years_value(tmp_path):
    history = np.array([*G4_MONTHS * 3, *G4_MONTHS[:3]], dtype=float)
    history[25] = -500  # February 2025
    rows = {"date": pd.date_range("2023-01-01", periods=39, freq="MS"), "channel": "Shop", "revenue": history}
    told = pace(table_of(tmp_path / "a", rows, ["revenue"], period="month"), ["revenue"], as_of=date(2026, 3, 31),
                uplift=0.0)  # fmt: skip

    assert told.last_year == told.target == (120_000 - 6000 - 500,)


@pytest.mark.parametrize(
    ("chance", "status"),
    [
        (1.0, "on track"), (0.8, "on track"), (np.nextafter(0.8, 0), "too close to call"),
        (0.4, "too close to call"), (np.nextafter(0.4, 0), "at risk"), (0.1, "at risk"),
        (np.nextafter(0.1, 0), "behind"), (0.0, "behind"),
    ],
)  # fmt: skip
def test_a_bound_belongs_to_the_better_status(chance, status):
    assert rank(chance, STATUSES) == status


@pytest.mark.parametrize(
    ("chance", "status"),
    [(0.81, "on track"), (0.79, "too close to call"), (0.41, "too close to call"), (0.39, "at risk"),
     (0.11, "at risk"), (0.09, "behind")],
)  # fmt: skip
def test_the_status_of_a_year_follows_its_odds(values, chance, status):
    assert uplift_of(values, chance).status == (status,)


@pytest.mark.parametrize("chance", [0.7999, 0.7951, 0.8, 0.3999, 0.3951, 0.0999, 0.0951, 0.1])
@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_rounded_chance_never_contradicts_the_status(values, chance, language):
    told = uplift_of(values, chance + 1e-9)
    status = rank(chance + 1e-9, STATUSES)
    assert told.status == (status,)

    said = re.findall(r"[<>]?[\d.,]+%", told.sentence(language))[-1]
    in_the_tile = re.findall(r"<dd>([<>&;\w.,]+%)</dd>", told.html(language))[-1]

    for text in (said, in_the_tile):
        assert rank(round(float(text.strip("%").replace(",", ".")) / 100, 9), STATUSES) == status, text


def uplift_of(values, chance):
    """Pace of the orders against the target that has this chance."""
    now = pace(values, ["orders"], as_of=AS_OF, uplift=0.0)
    rest = baseline(values.series("orders")[: pd.Period("2026-11-09", "W-SUN")], 7)[0].whole()
    target = now.actual[0] + float(rest.quantile(1 - chance))
    return pace(values, ["orders"], as_of=AS_OF, uplift=target / now.last_year[0] - 1)


@pytest.mark.parametrize("language", ["en", "vi"])
def test_without_last_year_there_is_not_enough_data(tmp_path, language):
    table = monthly_orders(tmp_path / "a", "2025-06-01", [100, 120, 90, 110, 130, 95, 105, 125, 99, 111])

    told = pace(table, ["orders"], as_of=date(2026, 3, 31), uplift=0.1)

    assert told.status == ("not enough data",)
    assert told.actual == (125 + 99 + 111,)
    assert np.isnan([told.projected, told.target, told.probability, told.remaining_factor]).all()
    assert told.to_json()["rows"][0]["probability"] is None
    assert say("status.not enough data", language) in shown(told.html(language))
    assert "nan" not in shown(told.html(language)) + told.sentence(language)


def test_four_fifths_of_last_year_are_enough(tmp_path):
    rng = np.random.default_rng(3)
    year = (1000 + 100 * rng.standard_normal(12)).round()
    ten, nine = ([*np.where(np.arange(12) < missing, np.nan, year), *year[:3]] for missing in (2, 3))

    enough, short = (
        pace(monthly_orders(tmp_path / name, "2025-01-01", history), ["orders"], as_of=date(2026, 3, 31), uplift=0.0)
        for name, history in (("ten", ten), ("nine", nine))
    )

    assert short.status == ("not enough data",)
    assert math.isfinite(enough.projected[0])


def test_a_year_that_is_over_was_met_or_not(tmp_path):
    history = [*G4_MONTHS, *G4_MONTHS, *G4_MONTHS]

    table = monthly_orders(tmp_path / "a", "2024-01-01", history)
    met, missed = (pace(table, ["orders"], as_of=date(2026, 12, 31), uplift=u) for u in (0.0, 0.001))

    assert met.actual == met.projected == met.projected_low == met.projected_high == (120_000,)
    assert (met.probability, met.status) == ((1.0,), ("on track",))
    assert (missed.probability, missed.status) == ((0.0,), ("behind",))


def test_the_first_days_of_a_year_have_no_pace(values):
    told = pace(values, ["orders"], as_of=date(2026, 1, 4), uplift=0.1)

    assert (told.actual, told.status) == ((0.0,), ("not enough data",))


# --- watch ------------------------------------------------------------------------------------------------


def totals(folder, rows, ids, **options):
    """Table of totals by channel."""
    return table_of(folder, rows, ids, period="day", grain="total", by="channel", **options)


def test_only_intervals_that_do_not_overlap_are_flagged(tmp_path):
    rng = np.random.default_rng(11)
    names = [f"Channel {i:02}" for i in range(60)]
    sessions = rng.integers(2000, 60_000, (2, 60))
    orders = rng.binomial(sessions, rng.uniform(0.02, 0.026, (2, 60)))
    was, now = (
        totals(tmp_path / name, {"date": "2026-01-05", "channel": names, "orders": o, "sessions": s},
               ["order_rate_session", "orders"], confidence=0.9)
        for name, o, s in zip(("was", "now"), orders, sessions, strict=True)
    )  # fmt: skip
    low, high = proportion_confint(orders, sessions, alpha=0.1, method="wilson")
    clear = (low[1] > high[0]) | (high[1] < low[0])

    flagged = watch(now, was)

    assert 5 < clear.sum() < 55  # the example has both
    assert set(flagged.segment) == {name for name, moved in zip(names, clear, strict=True) if moved}
    assert set(flagged.kpi) == {"order_rate_session"}  # a sum was counted: it is left to the pace
    rates = orders / sessions
    for name, better, before, after in zip(flagged.segment, flagged.better, flagged.before, flagged.now, strict=True):
        assert (before, after) == pytest.approx(rates[:, names.index(name)])
        assert better == (after > before)
    sizes = np.abs(np.log(np.array(flagged.now) / np.array(flagged.before)))
    assert (np.diff(sizes) <= 1e-12).all()  # the largest first


def test_lower_is_better_turns_the_verdict(tmp_path):
    def month(spend, unsubscribes):
        days = pd.date_range("2026-01-05", periods=10)
        rows = {
            "date": days,
            "channel": "Email",
            "spend": spend * np.arange(99, 109),
            "clicks": 10 * np.arange(99, 109),
        }
        sent = {"sent": 10_000, "hard_bounces": 0, "soft_bounces": 0, "unsubscribes": unsubscribes}
        return pd.DataFrame(rows | sent | {"orders": 50, "sessions": 1000, "pageviews": 100 * spend + np.arange(10)})

    ids = ["cpc", "unsub_rate", "order_rate_session", "pages_per_session"]
    cheap, dear = (totals(tmp_path / n, month(*m), ids) for n, m in (("cheap", (20, 10)), ("dear", (30, 40))))

    dearer, cheaper = watch(dear, cheap), watch(cheap, dear)

    assert set(dearer.kpi) == set(cheaper.kpi) == {"cpc", "unsub_rate"}  # pages per session has no better
    assert set(dearer.better) == {False}
    assert set(cheaper.better) == {True}
    assert dict(zip(dearer.kpi, dearer.now, strict=True)) == pytest.approx({"cpc": 3.0, "unsub_rate": 0.004})
    for language in ("en", "vi"):
        assert shown(dearer.html(language)).count(say("watch.worse", language)) >= 2
        assert shown(cheaper.html(language)).count(say("watch.better", language)) >= 2


def test_nothing_moved_against_itself(company):
    table = kpis.compute(company, ["order_rate_session", "cpc"], by="channel", grain="total")

    flagged = watch(table, table)

    assert flagged.kpi == ()
    for language in ("en", "vi"):
        assert flagged.sentence(language) == say("watch.none", language)
        assert flagged.sentence(language) in flagged.html(language)


def test_a_channel_that_is_new_is_no_change(tmp_path):
    rows = {"date": "2026-01-05", "orders": 50, "sessions": 1000}

    was = totals(tmp_path / "was", rows | {"channel": ["Shop"]}, ["order_rate_session"])
    now = totals(tmp_path / "now", rows | {"channel": ["Kiosk", "Shop"]}, ["order_rate_session"])

    assert watch(now, was).kpi == ()


@pytest.mark.parametrize(("before", "after"), [(0, 400), (400, 0)])
def test_a_rate_from_or_to_nothing_is_told(tmp_path, before, after):
    def month(unsubscribes):
        rows = {"date": "2026-01-05", "channel": ["Email", "Zalo OA"], "sent": 100_000, "hard_bounces": 0}
        return pd.DataFrame(rows | {"soft_bounces": 0, "unsubscribes": [unsubscribes, 0]})

    was, now = (totals(tmp_path / f"{n}", month(n), ["unsub_rate"]) for n in (before, after))

    flagged = watch(now, was)

    assert (flagged.segment, flagged.better) == (("Email",), (after == 0,))
    for language in ("en", "vi"):
        text = shown(flagged.html(language))
        assert say("watch.better" if after == 0 else "watch.worse", language) in text
        assert "inf" not in text
        assert "nan" not in text


# --- answer -----------------------------------------------------------------------------------------------


def answered(whole, uplifts):
    """The answer about one outlook."""
    return answer(grade_outlooks([whole], uplifts), whole, as_of=AS_OF)


@pytest.mark.parametrize(("language", "noun"), [("en", "orders"), ("vi", "số đơn hàng")])
def test_the_answer_commits_to_the_largest_safe_target(whole, language, noun):
    odds = dict(zip([0.02, 0.04, 0.5], grade_outlooks([whole], [0.02, 0.04, 0.5]).probability, strict=True))
    assert odds[0.02] > odds[0.04] > 0.5 > odds[0.5]

    told = answered(whole, [0.5, 0.02, 0.04])
    first, second = re.findall(r"<span class=\"sentence\">(.*?)</span>", told.html(language))

    assert (told.uplift, told.grade) == (0.04, "safe")
    assert told.probability == pytest.approx(odds[0.04])
    assert told.target == pytest.approx(whole.reference * 1.04)
    assert "4%" in first
    assert noun in first
    assert f"{odds[0.04]:.0%}" in first
    assert "50%" in second
    assert "&lt;1%" in second
    assert told.sentence(language) == html.unescape(f"{first} {second}")


@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_only_target_needs_no_second_sentence(whole, language):
    assert answered(whole, [0.04]).html(language).count('class="sentence"') == 1


@pytest.mark.parametrize("language", ["en", "vi"])
@pytest.mark.parametrize("grade", ["stretch", "ambitious", "unrealistic"])
def test_without_a_safe_target_the_answer_says_how_unlikely_the_smallest_is(whole, grade, language):
    chance = {"stretch": 0.35, "ambitious": 0.12, "unrealistic": 0.03}[grade]
    uplift = whole.target_at(chance) / whole.reference - 1

    told = answered(whole, [2.0, uplift])

    assert (told.grade, told.uplift) == (grade, pytest.approx(uplift))
    assert say(f"status.{grade}", language).lower() in told.sentence(language)
    assert f"{chance:.0%}" in told.sentence(language)
    assert say("answer.safe", "en", uplift="", name="", chance="")[:9] not in told.sentence("en")


@pytest.mark.parametrize("language", ["en", "vi"])
def test_without_odds_the_answer_says_that_none_can_be_given(tmp_path, language):
    table = monthly_orders(tmp_path / "a", "2023-01-01", [*range(1, 13)] * 3)
    whole = outlook(table, "orders", as_of=date(2025, 12, 31))

    told = answer(grade_outlooks([whole], [0.1, 0.2]), whole, as_of=date(2025, 12, 31))

    assert told.grade == "not enough data"
    assert "%" not in told.sentence(language)
    assert "nan" not in shown(told.html(language))
    assert kpis.kpi("orders").name[language].lower() in told.sentence(language)


@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_answer_names_its_interval_its_days_and_its_date(whole, language):
    page = shown(answered(whole, [0.04, 0.1]).html(language))
    told = whole.told(language)

    dates = {"en": ["21 Nov 2026", "7 Dec 2026", "22 Feb 2027"], "vi": ["21/11/2026", "07/12/2026", "22/02/2027"]}
    for text in [*dates[language], told["total"], told["low"], told["high"], told["change"], "90%"]:
        assert text.replace("\u00a0", " ") in page


@pytest.mark.parametrize(("language", "written"), [("en", "12.5%"), ("vi", "12,5%")])
def test_a_target_is_named_as_it_was_graded(values, whole, channels, language, written):
    # 12.5% rounded to 13% would commit to another target than the one with these odds
    graded = grade_outlooks([whole], [0.125])

    assert written in answer(graded, whole, as_of=AS_OF).sentence(language)
    assert written in shown(graded.html(language))
    assert written in allocate_plan(whole, channels, 0.125).sentence(language)
    assert written in pace(values, ["orders"], as_of=AS_OF, uplift=0.125).sentence(language)


def test_a_safe_fall_is_not_called_more(whole):
    told = answered(whole, [-0.05])

    assert told.grade == "safe"
    assert f"{MINUS}5% more" not in told.sentence("en")
    assert f"tăng {MINUS}5%" not in told.sentence("vi")


# --- both languages, and no status by colour alone --------------------------------------------------------


@pytest.fixture(scope="module")
def everything(company, values, by_channel):
    """One of each result that a report shows."""
    whole = outlook(values, "revenue", as_of=AS_OF)
    channels = outlook_channels(by_channel, "revenue", as_of=AS_OF)
    graded = grade_outlooks([whole, outlook(values, "orders", as_of=AS_OF), *channels], [-0.2, 0.1, 0.2, 0.5])
    year = timedelta(days=364)
    rates = ["aov", "order_rate_session", "cpc", "ctr_ad", "open_rate"]
    now, before = (
        kpis.compute(company, rates, by="channel", grain="total", until=day, since=day - timedelta(days=27))
        for day in (AS_OF, AS_OF - year)
    )
    results = {
        "outlook": whole,
        "graded": graded,
        "plan": allocate_plan(whole, channels, 0.1),
        "pace": pace(values, ["revenue", "orders", "sessions"], as_of=AS_OF, uplift=0.1),
        "watch": watch(now, before),
        "answer": answer(graded, whole, as_of=AS_OF),
    }
    return {name: (result, result._repr_mimebundle_()) for name, result in results.items()}


RESULTS = pytest.mark.parametrize("name", ["outlook", "graded", "plan", "pace", "watch", "answer"])
NAMES = {"Organic", "search", "Paid", "social", "Email", "Zalo", "Affiliate", "Direct"}  # channels keep theirs


@RESULTS
def test_each_result_speaks_both_languages(everything, name):
    _result, bundle = everything[name]
    words = {lang: set(re.findall(r"[^\W\d_]{4,}", shown(bundle[HTML_MIME][lang]))) for lang in ("en", "vi")}

    assert len(words["en"] - NAMES) >= 4
    assert len(words["vi"] - NAMES) >= 2
    assert words["en"] & words["vi"] <= NAMES
    assert bundle[JSON_MIME]["sentence"]["en"] != bundle[JSON_MIME]["sentence"]["vi"]
    for word in words["en"]:
        assert word.isascii(), word  # no Vietnamese in the English page


@RESULTS
def test_vietnamese_numbers_are_written_the_vietnamese_way(everything, name):
    text = shown(everything[name][1][HTML_MIME]["vi"])

    assert re.findall(r"\d,\d{3}(?!\d)|\d\.\d{1,2}(?!\d)", text) == []  # 1,234 and 3.5 are English


@RESULTS
def test_each_result_says_no_nan_and_each_row_is_json(everything, name):
    result, bundle = everything[name]

    assert re.findall(r"\bnan\b|\binf\b|None", shown(" ".join(bundle[HTML_MIME].values()))) == []
    assert len(result.to_json()["rows"]) == len(result.to_frame())


@RESULTS
@pytest.mark.parametrize("language", ["en", "vi"])
def test_no_status_is_shown_by_colour_alone(everything, name, language):
    page = everything[name][1][HTML_MIME][language]
    words = {say(f"status.{status}", language): tone for status, tone in TONES.items()}

    pills = re.findall(r'<span class="pill (\w+)">(.*?)</span>', page)
    coloured = re.findall(rf'class="[^"]*\b({"|".join(set(TONES.values()))})\b', page)

    assert (len(pills) > 0) == (name in ("graded", "pace"))
    for tone, inside in pills:
        icon, word = re.fullmatch(r'<svg.*?href="#i-(\w+)".*?</svg>(.+)', inside).groups()
        assert (icon, words[word]) == (tone, tone)
    # the only other coloured thing is the bar of a chance, which stands beside a pill of the same tone
    assert len(coloured) == len(pills) + page.count('class="odds ')


@RESULTS
def test_the_same_result_is_the_same_bytes(everything, name):
    result, bundle = everything[name]

    assert result.html("vi") == bundle[HTML_MIME]["vi"]
