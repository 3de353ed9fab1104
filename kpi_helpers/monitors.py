"""A daily KPI judged by its own past, with a stated rate of false alarms: spikes, dips, new levels, tracking gaps."""

from math import exp, expm1, log
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import gammaln, stdtr, stdtrit

from kpi_helpers.errors import require
from kpi_helpers.stats import Floats

KINDS = ("gap", "spike", "dip", "shift")
COLUMNS = ("position", "kind", "expected", "low", "high", "observed")
#: how fast levels follow, and how much of yesterday's error stays; the pair with the smallest past errors forecasts
FOLLOWS, STAYS = (g.ravel() for g in np.meshgrid([0.03, 0.1, 0.25], [0.0, 0.3, 0.6]))
FREEDOM = np.array([3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 100.0])  # of Student's t, one of which errors follow
SPREAD = 1.4826 * stdtrit(FREEDOM, 0.75)  # of their errors, in units of 1.4826 times the median absolute error
LIMITS = np.linspace(2.0, 16.0, 281)
TAILS = 2 * stdtr(FREEDOM, -LIMITS[:, None] * SPREAD)  # chance beyond each limit
SLACK, CUT = 0.75, 3.0  # of CUSUM, and where it cuts errors: one odd day is no new level
# of the stated rate, days and levels; calibrated on simulated series: the tail fitted to at most 180 errors is on the
# safe side, a level taken from 35 days is not
DAYS_PART, LEVEL_PART, LEVEL_FACTOR = 1.2, 0.4, 1.3
MEMORY, LEVEL_DAYS, QUIET, IN_A_ROW = 182, 35, 28, 3  # days
TRACKED = 0.4  # of what is expected: below this, and far below what is usual, tracking has failed


def detect(
    values: ArrayLike, *, season: int = 7, false_alarms_per_week: float = 0.02, start: int | None = None,
    holidays: ArrayLike | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Find days that a daily series' own past does not explain; each is judged by earlier values only.

    `values`, one a day, NaN where nothing is known; `season`, days of a pattern; `false_alarms_per_week`, days of an
    undisturbed series that are alarms, in (0, 1]; `start`, the first position that is judged (8 seasons by default, 5
    at least); `holidays`, true where the calendar explains the value: not judged, not learned from. Returns a row an
    alarm: ``position, kind, expected, low, high, observed``; none where the first weeks are mostly 0. A "spike" or
    "dip" is a day outside `low` to `high`; a "gap" has no value, or nearly none; a "shift" is the day on which a new
    level is certain, told once; for four weeks then only single days are judged, against the new and the old level.
    Raises `KpiError` for wrong options.

    A level and a weekly pattern follow the logarithm of the series (itself, if its first weeks fall below 0), without
    the alarms, by exponential smoothing (Holt 1957, Winters 1960). Limits come from Student's t with
    the likeliest of several degrees of freedom, fitted to the errors of half a year; new levels from CUSUM (Page 1954,
    Biometrika 41) with Siegmund's (1985) run length.

    >>> days = np.arange(140)
    >>> sold = 200 + 20 * np.sin(2 * np.pi * days / 7) + days * 37 % 11
    >>> sold[100], sold[120] = 420.0, np.nan
    >>> detect(sold)[["position", "kind"]].to_numpy().tolist()
    [[100, 'spike'], [120, 'gap']]
    """
    y = np.asarray(values, dtype=float)
    require(y.ndim == 1, f"values has {y.ndim} dimensions: give one series, a value a day.")
    require(not np.isinf(y).any(), "values are endless in places: give NaN where nothing is known.")
    rate = false_alarms_per_week
    require(0 < rate <= 1, f"false_alarms_per_week={rate} is not in (0, 1].")
    require(season >= 2, f"season={season}: a pattern has 2 days or more; 7 is a week.")
    begin = 8 * season if start is None else start
    require(begin >= 5 * season, f"start={start}: the first {5 * season} days are needed to learn the pattern.")
    away = np.zeros(len(y), bool) if holidays is None else np.asarray(holidays, bool)
    require(away.shape == y.shape, "holidays must have a value a day, as values has.")
    known = y[: 4 * season][np.isfinite(y[: 4 * season])]
    rare = len(known) == 0 or (known.min() >= 0 and np.median(known) == 0)
    rows: list[tuple[Any, ...]] = []
    if len(y) > begin and not rare:
        monitor = _Monitor(y, away, season, rate)
        rows = [row for t in range(len(y)) for row in monitor.judged(t, t >= begin)]
    return pd.DataFrame(rows, columns=[*COLUMNS]).astype({"position": int, **dict.fromkeys(COLUMNS[2:], float)})


class _Monitor:
    """What is known of a series up to a day: level, pattern, usual errors, limits, sums of errors to either side."""

    def __init__(self, y: Floats, away: np.ndarray[Any, Any], season: int, rate: float) -> None:
        head = y[: 4 * season]
        known = head[np.isfinite(head)]
        self.y, self.away, self.season, self.learnt = y, away, season, 4 * season
        self.logs = bool(known.min() >= 0)
        self.floor = 0.02 * float(np.median(known)) if self.logs else -np.inf
        self.chance = rate / 7 * DAYS_PART
        self.limit_of_level = LEVEL_FACTOR * _run_limit(2 / (rate / 7 * LEVEL_PART))
        weeks = np.array([self._scaled(v, 0.0) if np.isfinite(v) else np.nan for v in head]).reshape(4, season)
        middle = np.nanmedian(weeks)
        rows = np.where(np.isfinite(weeks).any(axis=1), _median(weeks, axis=1), middle)[:, None]
        self.pattern = np.nan_to_num(_median(weeks - rows, axis=0))
        errors = (weeks - middle - self.pattern).ravel()
        self.level, self.last = np.full(len(FOLLOWS), middle), np.zeros(len(FOLLOWS))
        self.loss = np.zeros(len(FOLLOWS))
        self.usual, self.limit = _usual(errors[np.isfinite(errors)]), 4.0
        self.errors, self.free, self.around = (np.full(len(y), np.nan) for _ in range(3))
        self.stays, self.yesterday, self.usual_new = 0.3, 0.0, self.usual
        self.sums, self.since, self.quiet, self.old = [0.0, 0.0], [0, 0], -1, 0.0
        self.row, self.kind = list[int](), ""

    def _scaled(self, value: float, expected: float) -> float:
        return log(max(value, self.floor, 1e-3 * exp(expected) if expected else 0.0)) if self.logs else value

    def _told(self, at: float) -> float:
        return exp(at) if self.logs else at

    def judged(self, t: int, judge: bool) -> list[tuple[Any, ...]]:
        """Alarms of day `t`; afterwards it is a part of the past."""
        if t >= self.learnt and t % self.season == 0:
            self._learn(t)
        day, best = t % self.season, int(np.argmin(self.loss)) if t >= self.learnt else 4
        forecasts = self.level + self.pattern[day] + STAYS * self.last
        f, value = float(forecasts[best]), float(self.y[t])
        ends = tuple(self._told(f + side * self.limit * self.usual) for side in (0, -1, 1))
        if self.away[t] or not np.isfinite(value):
            self.last = self.last * STAYS
            met = np.isfinite(self.y[t - 4 * self.season : t : self.season]).sum()
            missing = judge and not self.away[t] and met >= 2  # a shop that is always closed on Sundays has no gaps
            return [(t, "gap", *ends, value)] if missing else []
        x = self._scaled(value, f)
        kind = self._kind(x, f, value, day, t) if judge else ""
        self.row = [*self.row, t] if kind in ("spike", "dip") and kind == self.kind else [t]
        self.kind = kind
        shifted = self._shifted(x - self.pattern[day], t, kind == "gap", judge) if t >= self.learnt else False
        if t >= self.learnt and not kind:
            self.errors[t] = x - f
        if kind != "gap":
            self._follow(x, forecasts, day, best, kind == "")
        else:
            self.last = self.last * STAYS
        kind = "shift" if shifted else kind
        return [(t, kind, *ends, value)] if kind else []

    def _kind(self, x: float, f: float, value: float, day: int, t: int) -> str:
        """Name of what is odd about a day by itself."""
        z = (x - f) / self.usual
        if t <= self.quiet:  # back at the level before is not odd
            z = min(z, (x - self.old - self.pattern[day]) / self.usual, key=abs)
        if self.logs and value < TRACKED * exp(f) and z < -3.5:
            return "gap"
        return ("spike" if z > 0 else "dip") if abs(z) > self.limit else ""

    def _shifted(self, free: float, t: int, gap: bool, judge: bool) -> bool:
        """Whether the level, free of its pattern, is a new one; then start from it."""
        first = max(0, t - LEVEL_DAYS, self.quiet - 10)
        past = self.free[first:t]
        past = past[np.isfinite(past)]
        middle = float(np.median(past)) if len(past) >= self.season else float(self.level[4])
        if gap:
            return False
        self.free[t], self.around[t] = free, free - middle
        z = (free - middle - self.stays * self.yesterday) / self.usual_new
        self.yesterday = free - middle
        if len(self.row) >= IN_A_ROW and self.kind in ("spike", "dip"):
            told = t > self.quiet
            self._start_anew(self.free[self.row], middle, t)
            return told
        if not judge or t <= self.quiet:
            return False
        for i, side in enumerate((1, -1)):
            self.since[i] = t if self.sums[i] == 0 else self.since[i]
            self.sums[i] = max(0.0, self.sums[i] + side * min(max(z, -CUT), CUT) - SLACK)
        if max(self.sums) <= self.limit_of_level:
            return False
        new = self.free[self.since[int(np.argmax(self.sums))] : t + 1]
        self._start_anew(new[np.abs(new - free) <= np.abs(new - middle)], middle, t)  # nearer to today than to before
        return True

    def _start_anew(self, new: Floats, middle: float, t: int) -> None:
        """Take the level from the `new` values; for a while the one before, `middle`, is known too."""
        self.level[:] = np.median(new)
        self.last[:], self.sums, self.row = 0.0, [0.0, 0.0], []
        self.old, self.quiet = (self.old, self.quiet) if t <= self.quiet else (middle, t + QUIET)

    def _follow(self, x: float, forecasts: Floats, day: int, best: int, plain: bool) -> None:
        """Let level and pattern follow, no further than a usual error allows."""
        most = 2.5 * self.usual
        self.loss = 0.995 * self.loss + np.abs(np.clip(x - forecasts, -most, most))
        self.level = self.level + FOLLOWS * np.clip(x - self.level - self.pattern[day], -most, most)
        self.pattern[day] += 0.08 * min(max(x - self.pattern[day] - self.level[best], -most), most)
        left = np.clip(x - self.level - self.pattern[day], -most, most)
        self.last = left if plain else 0 * left

    def _learn(self, t: int) -> None:
        """Usual errors and limits from the last half year, once a season."""
        past, around = (e[max(self.learnt, t - MEMORY) : t] for e in (self.errors, self.around))
        past, around = past[np.isfinite(past)], around[np.isfinite(around)]
        if len(past) >= 20:
            usual = _usual(past)
            part = min(1.0, len(past) / 60)
            self.usual = part * usual + (1 - part) * self.usual
            self.limit = _limit(past / usual, self.chance) * usual / self.usual
        if len(around) > 30:
            cut = np.clip(around, -4 * self.usual, 4 * self.usual)
            self.stays = float(np.clip(cut[1:] @ cut[:-1] / max(cut @ cut, 1e-300), 0, 0.7))
            self.usual_new = _usual(around[1:] - self.stays * around[:-1])


def _median(of: Floats, axis: int) -> Floats:
    """Median of what is known; NaN, without a warning, where nothing is."""
    ordered, n = np.sort(of, axis=axis), np.isfinite(of).sum(axis=axis, keepdims=True)
    ends = (np.take_along_axis(ordered, np.clip(at, 0, None), axis=axis) for at in ((n - 1) // 2, n // 2))
    return np.asarray(sum(ends) / 2).squeeze(axis)


def _usual(errors: Floats) -> float:
    """Spread that few odd values cannot widen; a tiny one where hardly any value differs from the others."""
    middle = 1.4826 * float(np.median(np.abs(errors)))
    return max(middle, float(errors.std()) if middle == 0 else 0.0, 1e-9)


def _limit(errors: Floats, chance: float) -> float:
    """Errors, in units of their spread, beyond which only the `chance` lies, by Student's t of likely freedom."""
    z = np.abs(errors)[:, None] * SPREAD
    constant = gammaln((FREEDOM + 1) / 2) - gammaln(FREEDOM / 2) - np.log(FREEDOM) / 2 + np.log(SPREAD)
    told = len(errors) * constant - (FREEDOM + 1) / 2 * np.log1p(z**2 / FREEDOM).sum(axis=0)
    told = told - np.log(FREEDOM / 6) ** 2 / 2  # before any error is seen, about 6 are likely
    weights = np.exp(told - told.max())
    tail = TAILS @ (weights / weights.sum())
    return float(np.interp(-chance, -tail, LIMITS))


def _run_limit(days: float) -> float:
    """Sum of errors that a side of CUSUM reaches once in so many days by chance: Siegmund's approximation, inverted."""
    low, high = 0.0, 60.0
    for _step in range(60):
        b = (low + high) / 2
        short = (expm1(2 * SLACK * b) - 2 * SLACK * b) / (2 * SLACK**2) < days
        low, high = (b, high) if short else (low, b)
    return max(low - 1.166, 1.0)


def threshold(
    values: ArrayLike, *, above: float | None = None, below: float | None = None, sustain: int = 2, of: int = 3
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions at which a limit is broken for long enough: on `sustain` of the last `of` days; a day a value.

    Each position in alarm is given, so that one broken day does not raise it, and one good day does not end it. Days
    without a value (NaN) break no limit. Raises `KpiError` where no limit, or an impossible `sustain`, is given.

    >>> threshold([1, 9, 1, 9, 9, 9, 1, 1], above=5).tolist()
    [3, 4, 5, 6]
    """
    y = np.asarray(values, dtype=float)
    require(y.ndim == 1, f"values has {y.ndim} dimensions: give one series, a value a day.")
    require(above is not None or below is not None, "Give a limit: above=..., below=..., or both.")
    fine = above is None or below is None or below < above
    require(fine, f"below={below} must be less than above={above}: between them nothing is wrong.")
    require(1 <= sustain <= of, f"sustain={sustain} must be in [1, of={of}]: days of the last so many.")
    beyond = (y > above if above is not None else False) | (y < below if below is not None else False)
    total = np.concatenate([np.zeros(of, int), np.cumsum(np.broadcast_to(beyond, y.shape), dtype=int)])
    return np.flatnonzero(total[of:] - total[: len(y)] >= sustain)
