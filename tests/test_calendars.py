"""Tết by the moon over Hanoi, and days of sale as shares of periods."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import simulate
from kpi_helpers.calendars import TET_PARTS, holiday_regressors, tet
from kpi_helpers.errors import KpiError

# Lunar New Year of Vietnam in the package holidays 0.109 (country VN, category public), 2015 to 2035; 2022 to 2032 also
# in the table "Tet Nguyen Dan 2022-2032" of boxhoidap.com/tet2023.
PUBLISHED = """
2015-02-19 2016-02-08 2017-01-28 2018-02-16 2019-02-05 2020-01-25 2021-02-12 2022-02-01 2023-01-22 2024-02-10
2025-01-29 2026-02-17 2027-02-06 2028-01-26 2029-02-13 2030-02-02 2031-01-23 2032-02-11 2033-01-31 2034-02-19
2035-02-08
"""
# Years in which Vietnam's and China's new year differ since Vietnam counts by UTC+7 (1968): Hồ Ngọc Đức, Vietnamese
# lunar calendar; 2030 and 2053 also in scienceinfo.net/why-is-the-vietnamese-and-chinese-new-year-a-day-different.
# China's dates: package lunardate 0.3.0.
CHINA = {
    1968: ("1968-01-29", "1968-01-30"), 1969: ("1969-02-16", "1969-02-17"), 1985: ("1985-01-21", "1985-02-20"),
    2007: ("2007-02-17", "2007-02-18"), 2030: ("2030-02-02", "2030-02-03"), 2053: ("2053-02-18", "2053-02-19"),
}  # fmt: skip


@pytest.mark.parametrize("published", PUBLISHED.split())
def test_tet_is_the_published_day(published):
    assert tet(int(published[:4])).isoformat() == published


@pytest.mark.parametrize("year", CHINA)
def test_tet_is_vietnam_s_and_not_china_s(year):
    vietnam, china = CHINA[year]

    assert tet(year).isoformat() == vietnam != china


@pytest.mark.parametrize("year", range(1901, 2101))
def test_tet_lies_between_21_january_and_21_february_a_whole_number_of_months_after_the_last(year):
    days = (tet(year) - tet(year - 1)).days

    assert (1, 20) <= (tet(year).month, tet(year).day) <= (2, 21)
    assert days in (353, 354, 355, 383, 384, 385)  # 12 or 13 months of 29 or 30 days


def test_simulated_company_has_its_tet_on_the_computed_day():
    assert [tet(day.year) for day in simulate.PLANTED["tet"]] == simulate.PLANTED["tet"]


@pytest.mark.parametrize("year", [1899, 2101])
def test_year_out_of_range_is_refused(year):
    with pytest.raises(KpiError, match=f"year={year}.*1900 to 2100"):
        tet(year)


def by_hand(periods, days):
    """Share of each period's days that are in `days`, one day at a time."""
    spans = [pd.date_range(p.start_time, p.end_time.normalize()).date for p in periods]
    return [sum(d in days for d in span) / len(span) for span in spans]


@pytest.mark.parametrize(("freq", "n"), [("D", 800), ("W-SUN", 115), ("M", 27)])
def test_columns_are_the_share_of_days(freq, n):
    periods = pd.period_range("2024-10-05", periods=n, freq=freq)
    found = holiday_regressors(periods, {"11.11": ["11-11"], "launch": [date(2025, 3, 4), date(2026, 5, 9)]})

    for part, (begin, end) in TET_PARTS.items():
        window = {tet(y) + timedelta(i) for y in range(2024, 2029) for i in range(begin, end + 1)}
        assert found[part].tolist() == pytest.approx(by_hand(periods, window))
    assert found["11.11"].tolist() == pytest.approx(by_hand(periods, {date(y, 11, 11) for y in range(2024, 2028)}))
    assert found["launch"].tolist() == pytest.approx(by_hand(periods, {date(2025, 3, 4), date(2026, 5, 9)}))


def test_every_day_of_the_season_of_tet_is_counted_once():
    days = holiday_regressors(pd.period_range("2026-01-01", "2026-12-31", freq="D"))

    assert days.sum().to_dict() == {part: end - begin + 1 for part, (begin, end) in TET_PARTS.items()}
    assert days.sum(axis=1).max() == 1


def test_months_hold_as_many_days_as_their_days():
    span = ("2019-01-01", "2031-12-31")
    days = holiday_regressors(pd.period_range(*span, freq="D"))
    months = holiday_regressors(pd.period_range(*span, freq="M"))

    total = months.mul(months.index.days_in_month, axis=0).sum()
    assert total.to_numpy() == pytest.approx(days.sum().to_numpy())


def test_parts_of_tet_explain_the_simulated_season():
    days = pd.date_range("2024-11-01", "2026-10-31")
    effect = np.log(simulate.demand(days)) - 0.1 * np.arange(len(days)) / 365.25
    x = holiday_regressors(days.to_period("D"), {"sale": list(simulate.PLANTED["sale_days"])})
    design = np.column_stack([x, pd.get_dummies(days.day_of_week).to_numpy(float)])

    left = effect - design @ np.linalg.lstsq(design, effect, rcond=None)[0]
    window = x.iloc[:, :4].any(axis=1).to_numpy()

    assert left[window].var() < 0.15 * effect[window].var()


def test_29_february_exists_in_leap_years_only():
    found = holiday_regressors(pd.period_range("2023", "2025", freq="Y-DEC"), {"leap": ["02-29"]})

    assert (found["leap"] > 0).tolist() == [False, True, False]


def test_week_that_begins_in_another_year_has_the_days_of_both():
    found = holiday_regressors(pd.period_range("2026-01-01", periods=1, freq="W-SUN"), {"eve": ["12-31", "01-01"]})

    assert found["eve"].tolist() == [2 / 7]


def test_order_and_shape_are_kept():
    periods = pd.period_range("2026-01-05", periods=60, freq="W-SUN")
    found = holiday_regressors(periods, {"never": [date(2001, 1, 1)]})

    assert found.index.equals(periods) and list(found) == [*TET_PARTS, "never"]
    assert (found["never"] == 0).all()
    pd.testing.assert_frame_equal(holiday_regressors(periods[::-1], {"never": [date(2001, 1, 1)]}), found[::-1])
    assert holiday_regressors(periods[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("periods", "holidays", "message"),
    [
        (pd.date_range("2026", periods=2), None, "PeriodIndex"),
        (pd.PeriodIndex(["2026-01-01", "NaT"], freq="D"), None, "without NaT"),
        (pd.period_range("2026", periods=2, freq="D"), {"a": ["31-12"]}, r"'31-12'.*neither a date nor MM-DD"),
        (pd.period_range("2026", periods=2, freq="D"), {"a": [12]}, "neither a date nor MM-DD"),
        (pd.period_range("2026", periods=2, freq="D"), {"a": "11-11"}, r"must be a list of days: \['11-11'\]"),
        (pd.period_range("2026", periods=2, freq="D"), {"tet_rush": ["11-11"]}, "part of Tết"),
    ],
)
def test_what_cannot_be_read_is_told(periods, holidays, message):
    with pytest.raises(KpiError, match=message):
        holiday_regressors(periods, holidays)
