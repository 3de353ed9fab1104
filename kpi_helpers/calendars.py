"""Days that bend demand: Tết, which moves with the moon as seen from UTC+7, and the user's own holidays."""

from calendar import isleap
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd

from kpi_helpers.errors import KpiError, require

GRAINS = {"D": "day", "W": "week", "M": "month"}  # by the first letter of what pandas calls it
SEASONS = {"day": 364, "week": 52, "month": 12}  # periods in a year; 364 days keep the weekday
#: parts of the season of Tết: first and last day, counted from the first of the lunar year
TET_PARTS = {"tet_run_up": (-28, -15), "tet_rush": (-14, -3), "tet_pause": (-2, 6), "tet_recovery": (7, 13)}
HANOI = 7 / 24
# terms of the true new moon: size in days, then how often the anomalies of sun and moon and its latitude enter
_TERMS = np.array([
    (0.1734, 1, 0, 0), (0.0021, 2, 0, 0), (-0.4068, 0, 1, 0), (0.0161, 0, 2, 0), (-0.0004, 0, 3, 0),
    (0.0104, 0, 0, 2), (-0.0051, 1, 1, 0), (-0.0074, 1, -1, 0), (0.0004, 1, 0, 2), (-0.0004, -1, 0, 2),
    (-0.0006, 0, 1, 2), (0.0010, 0, -1, 2), (0.0005, 1, 2, 0),
])  # fmt: skip


@cache
def tet(year: int) -> date:
    """First day of the Vietnamese lunar year that begins in `year`, by the rule in force since 1968.

    Month 11 holds the winter solstice; where the next is 13 months away, the first month in which the sun enters no new
    twelfth of its way is a leap month. Hồ Ngọc Đức, Computing the Vietnamese lunar calendar
    (informatik.uni-leipzig.de/~duc/amlich); Meeus (1988), Astronomical Formulae for Calculators, ch. 18 and 32.

    >>> tet(2026), tet(2030)  # China's new year of 2030 is on 3 February
    (datetime.date(2026, 2, 17), datetime.date(2030, 2, 2))
    """
    require(1900 <= year <= 2100, f"year={year}: Tết is computed for 1900 to 2100.")
    eleven = _month_eleven(year - 1)
    twelfths = [_sun(_new_moon(eleven + i)) // 30 for i in range(4)]
    leap = _month_eleven(year) - eleven == 13 and (twelfths[1] == twelfths[2] or twelfths[2] == twelfths[3])
    return date(2000, 1, 1) + timedelta(_new_moon(eleven + 2 + leap) - 2451545)


def holiday_regressors(
    periods: pd.PeriodIndex, holidays: Mapping[str, Sequence[date | str]] | None = None
) -> pd.DataFrame:
    """Share of each period's days that belong to a part of Tết or are a holiday of the user's, (n, k) in [0, 1].

    `periods`: PeriodIndex (n,), 1900 to 2099. `holidays`: name to days, each a date, or "MM-DD" in every year, such as
    ``{"11.11": ["11-11"]}``. Raises a `KpiError` for anything else.

    >>> holiday_regressors(pd.period_range("2026-02", periods=1, freq="M")).round(2).iloc[0].tolist()
    [0.07, 0.43, 0.32, 0.18]
    """
    known = isinstance(periods, pd.PeriodIndex) and not periods.hasnans
    require(known, "periods must be a PeriodIndex without NaT. Call pd.period_range, or dropna and to_period.")
    first, last = (t.to_numpy().astype("datetime64[D]") for t in (periods.start_time, periods.end_time))
    years = range(periods.start_time.year.min(), periods.end_time.year.max() + 1) if len(periods) else range(0)
    new_years = [tet(y) for y in (*years, years.stop) if years]  # the run-up to January begins in December
    days = {k: [at + timedelta(i) for at in new_years for i in range(a, b + 1)] for k, (a, b) in TET_PARTS.items()}
    for name, given in (holidays or {}).items():
        require(name not in days, f"holidays names {name!r}, which is a part of Tết. Choose another name.")
        require(not isinstance(given, str), f"holidays[{name!r}]={given!r} must be a list of days: [{given!r}].")
        days[name] = [d for one in given for d in _dates(name, one, years)]
    own = {name: np.unique(np.array(found, dtype="datetime64[D]")) for name, found in days.items()}
    shares = {name: np.searchsorted(at, last, "right") - np.searchsorted(at, first) for name, at in own.items()}
    return pd.DataFrame(shares, index=periods).div((last - first).astype(int) + 1, axis=0)


def _dates(name: str, given: date | str, years: range) -> list[date]:
    if isinstance(given, date):
        return [given]
    try:
        day = date.fromisoformat(f"2000-{given}")
    except ValueError:
        raise KpiError(f"holidays[{name!r}] has {given!r}, which is neither a date nor MM-DD. Write 11-11.") from None
    return [day.replace(year=y) for y in years if isleap(y) or (day.month, day.day) != (2, 29)]


def _month_eleven(year: int) -> int:
    near = int((year - 1899) * 12.3685)  # new moon 0 was in January 1900; the sun is at 270° at the solstice
    return max(k for k in range(near - 2, near + 3) if 180 <= _sun(_new_moon(k)) < 270)


@cache
def _new_moon(k: int) -> int:
    """Julian day number of new moon `k` (0 in January 1900) as a civil day in UTC+7."""
    t = k / 1236.85
    sun = 359.2242 + 29.10535608 * k - 0.0000333 * t**2 - 0.00000347 * t**3
    moon = 306.0253 + 385.81691806 * k + 0.0107306 * t**2 + 0.00001236 * t**3
    latitude = 21.2964 + 390.67050646 * k - 0.0016528 * t**2 - 0.00000239 * t**3
    at = 2415020.75933 + 29.53058868 * k + 0.0001178 * t**2 - 0.000000155 * t**3
    at += 0.00033 * np.sin(np.radians(166.56 + 132.87 * t - 0.009173 * t**2))
    at += _TERMS[:, 0] @ np.sin(np.radians(_TERMS[:, 1:] @ [sun, moon, latitude]))
    at -= -0.000278 + 0.000265 * t + 0.000262 * t**2  # from dynamical to universal time
    return int(np.floor(at + 0.5 + HANOI))


def _sun(day: int) -> float:
    """Longitude of the sun in degrees, [0, 360), as Julian day number `day` begins in UTC+7."""
    t = (day - 0.5 - HANOI - 2451545) / 36525
    m = np.radians(357.5291 + 35999.0503 * t - 0.0001559 * t**2)
    centre = (1.9146 - 0.004817 * t) * np.sin(m) + 0.019993 * np.sin(2 * m) + 0.00029 * np.sin(3 * m)
    return float((280.46645 + 36000.76983 * t + 0.0003032 * t**2 + centre) % 360)
