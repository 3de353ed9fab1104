"""Alarms on the days of one KPI: gaps, spikes, dips and shifts at a stated rate of false alarms; plain thresholds."""

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, stdtr

from kpi_helpers.errors import KpiError, require
from kpi_helpers.stats import Floats

SEASONS, LEAST = 8, 56  # history before the first judgement: seasons, and known days at least
SPIKES, SHIFTS = 0.45, 0.35  # shares of the stated rate; the rest pays for estimated thresholds and what events upset
SLACK, BOUND, RUN = 0.5, 2.5, 3  # CUSUM: allowance, largest step in standard deviations; fewest days of a shift
GAP, GAP_FAR = 0.4, 4.5  # a gap is below this share of the expectation, and so many standard deviations
QUIET, WIDE = 0.01, 0.2  # relative noise: the least that is believed, the most that is seen on logarithms
COOL, REFIT, LOOK = 28, 14, 364  # days: a level before a shift is remembered, until the next fit, errors fitted
SPEEDS = np.array([0.04, 0.08, 0.16, 0.32])  # share of an error by which the level follows it; the data choose
# Student's t: degrees of freedom and scales that are weighed, distances at which their tails are known
_NU, _SCALE = np.array([2.5, 3, 4, 5, 7, 10, 20, 60])[:, None], np.exp(np.linspace(-0.45, 0.45, 9))
_FAR = np.exp(np.linspace(np.log(1.2), np.log(25), 60))
_TAIL = 2 * stdtr(_NU[..., None], -_FAR / _SCALE[:, None])
_DENSITY = gammaln((_NU + 1) / 2) - gammaln(_NU / 2) - np.log(_NU) / 2 - np.log(_SCALE)


def detect(
    values: ArrayLike | pd.Series, *, season: int = 7, false_alarms_per_week: float = 0.02, start: int | None = None,
    holidays: ArrayLike | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Days on which a KPI left its own past, each judged by the days before it only.

    Student's t, weighed over its parameters, tells spikes and dips; a CUSUM of bounded errors (Page 1954, Biometrika
    41:100-115), its height by Siegmund's formula (1985, Sequential Analysis, ch. 2), tells shifts. For 28 days after a
    shift, coming back is no alarm. A missing day is a gap unless the season before lacked it too. `values` (n,): one a
    day, oldest first, NaN is missing. `season` in days, 1 for none. `false_alarms_per_week`: alarm days in seven normal
    days, all kinds together, in (0, 1]. `start`: first position judged, never before eight seasons and 56 known days.
    `holidays` (n,): days above 0, such as Tết, are neither judged nor learned from. Returns ``position, kind ("gap",
    "spike", "dip", "shift"), expected, low, high, observed``; the day of a shift may lie between `low` and `high`.
    Raises a `KpiError` if too few days are known, or an argument is out of its range.

    >>> sales = [100, 120, 90, 95, 110, 160, 150] * 12
    >>> sales[75] = 0
    >>> detect(sales)[["position", "kind", "expected", "observed"]].round().values.tolist()
    [[75, 'gap', 160.0, 0.0]]
    """
    told = judge(values, season=season, false_alarms_per_week=false_alarms_per_week, start=start, holidays=holidays)
    return told[told["kind"] != ""].reset_index(drop=True)


def judge(
    values: ArrayLike | pd.Series, *, season: int = 7, false_alarms_per_week: float = 0.02, start: int | None = None,
    holidays: ArrayLike | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return every judged day, in the columns of `detect`; `kind` is "" on a normal one."""
    y, rate = _numbers(values), false_alarms_per_week
    require(not np.isinf(y).any(), "values has endless numbers. Make them NaN, which is missing.")
    require(0 < rate <= 1, f"false_alarms_per_week={rate!r} is not in (0, 1]. Write 0.02 for about one a year.")
    require(season >= 1 and int(season) == season, f"season={season!r} must be a whole number of days, at least 1.")
    skip = np.zeros(len(y), bool) if holidays is None else np.nan_to_num(np.asarray(holidays, dtype=float)) > 0
    require(skip.shape == y.shape, f"holidays has shape {skip.shape}, values {y.shape}. Give a number for each day.")
    known, needed = np.flatnonzero(np.isfinite(y) & ~skip), max(SEASONS * int(season), LEAST)
    require(len(known) > needed, f"{len(known)} days are known; {needed} must pass before the first that is judged.")
    first, season = int(known[0]), int(season)
    history = -(-int(known[needed - 1] + 1 - first) // season) * season
    monitor = _Monitor(y[first:], skip[first:], season, history, rate / 7)
    rows = [(first + t, *monitor.day(t), y[first + t]) for t in range(len(y) - first)][history:]
    told = pd.DataFrame(rows, columns=["position", "kind", "expected", "low", "high", "observed"])
    return told[told["position"] >= (start or 0)].reset_index(drop=True)


def threshold(
    values: ArrayLike, *, above: float | None = None, below: float | None = None, sustain: int = 2, of: int = 3
) -> NDArray[np.int64]:
    """Positions at which a limit is broken for long enough: on `sustain` of the last `of` days; a day a value.

    Each position in alarm is given, so that one broken day does not raise it, and one good day does not end it. Days
    without a value (NaN) break no limit. Raises `KpiError` where no limit, or an impossible `sustain`, is given.

    >>> threshold([1, 9, 1, 9, 9, 9, 1, 1], above=5).tolist()
    [3, 4, 5, 6]
    """
    y = _numbers(values)
    require(above is not None or below is not None, "Give a limit: above=..., below=..., or both.")
    fine = above is None or below is None or below < above
    require(fine, f"below={below} must be less than above={above}: between them nothing is wrong.")
    require(1 <= sustain <= of, f"sustain={sustain} must be in [1, of={of}]: days of the last so many.")
    beyond = (y > above if above is not None else False) | (y < below if below is not None else False)
    total = np.concatenate([np.zeros(of, int), np.cumsum(np.broadcast_to(beyond, y.shape), dtype=int)])
    return np.flatnonzero(total[of:] - total[: len(y)] >= sustain)


def _numbers(values: ArrayLike | pd.Series) -> Floats:
    try:
        y = values.to_numpy(float, na_value=np.nan) if isinstance(values, pd.Series) else np.array(values, float)
    except (TypeError, ValueError):
        raise KpiError("values has what is no number. Give one number a day, NaN where it is missing.") from None
    require(y.ndim == 1, f"values has shape {y.shape}. Give one series: values[:, 0].")
    return y


class _Monitor:
    """What is known of a series as its days pass; arrays (4,) hold one number for each of `SPEEDS`."""

    def __init__(self, y: Floats, skip: NDArray[np.bool_], season: int, history: int, rate: float) -> None:
        self.y, self.season, self.history, self.rate = np.where(skip, np.nan, y), season, history, rate
        self.skip, self.level, self.before = skip, np.full((2, 4), np.nan), np.zeros((2, 4))
        self.x, self.power, self.week, self.least, self.noise = _scaled(self.y, season, history)
        self.level[0] = np.nanmedian(self.x[:7] - np.resize(self.week, 7))  # beside it: the one before the last shift
        self.nothing = math.log(float(np.nanmedian(self.y[:history]))) - 3 if self.power == 0 else -math.inf
        self.far, self.height, self.chosen = 5 * self.noise, math.inf, 0
        self.wide, self.memory = np.full(4, self.noise), np.full(4, 0.2)
        self.apart, self.kept = np.full((len(y), 4), np.nan), np.zeros(len(y), bool)
        self.sums, self.since, self.begun = [0.0, 0.0], [0, 0], 0
        self.cool, self.near, self.last, self.run = 0, 0, "", 0

    def day(self, t: int) -> tuple[str, float, float, float]:
        """Kind of day t, what was expected, the normal range; then learn from it."""
        if t >= self.history and (t - self.history) % REFIT == 0:
            self._fit()
        r = self.x[t] - self.level - self.week[t % self.season]
        e = (r - self.memory * self.before)[:, self.chosen]
        miss = e[1] if self.cool and abs(e[1]) < abs(e[0]) else e[0]
        if max(self.x[t], self.x[t] - miss) < self.nothing:  # as expected, whatever the pattern was in better times
            r, e, miss = np.zeros((2, 4)), np.zeros(2), 0.0
        if np.isnan(miss):
            self.before *= self.memory
            usual = self.level[0, self.chosen] + self.week[t % self.season] + self.before[0, self.chosen]
            return "gap" if not self.skip[t] and np.isfinite(self.y[t - self.season]) else "", *self._range(usual)
        self.apart[t] = r[0]
        if (kind := self._kind(t, miss) if t >= self.history else "") == "shift":
            miss = r[0, self.chosen]
            self._jump(t)
            r = self.x[t] - self.level - self.week[t % self.season]
        self._learn(t, r, e, kind)
        return kind, *self._range(self.x[t] - miss)

    def _range(self, usual: float) -> tuple[float, float, float]:
        at = np.array([usual, usual - self.far, usual + self.far])
        a, b, c = at if self.power == 1 else np.maximum(at, 0) ** 2 if self.power else np.exp(np.minimum(at, 700))
        return float(a), float(b), float(c)

    def _kind(self, t: int, miss: float) -> str:
        low = self.power < 1 and self.y[t] < GAP * self._range(self.x[t] - miss)[0]
        kind = "" if abs(miss) <= self.far else "spike" if miss > 0 else "dip"
        kind = "gap" if low and (kind or (not self.power and -miss > GAP_FAR * self.noise)) else kind
        self.last, self.run = kind, self.run + 1 if kind == self.last else 1
        step = max(-BOUND, min(BOUND, miss / self.noise)) if not kind else math.copysign(1.5, miss)
        for i, to in enumerate((step, -step) if kind != "gap" and not self.cool else ()):
            self.sums[i] = max(0.0, self.sums[i] + to - SLACK)
            self.since[i] = self.since[i] if self.sums[i] else t + 1
            if self.sums[i] > self.height and t + 1 - self.since[i] >= RUN and not kind:
                self.begun, kind = self.since[i], "shift"
        if self.last and self.run > (7 if kind == "gap" else 2):  # no event of single days lasts so long
            self.begun, kind = t + 1 - self.run, "shift"
        return kind

    def _jump(self, t: int) -> None:
        """A new level, where the days since the shift began were; the present one is remembered."""
        run = self.apart[self.begun : t + 1]
        self.level[1], self.before[1] = self.level[0], self.before[0]
        self.level[0] += np.median(run[np.isfinite(run[:, 0])], axis=0)
        self.sums, self.cool, self.near, self.last = [0.0, 0.0], COOL + 1, 0, ""

    def _learn(self, t: int, r: Floats, e: Floats, kind: str) -> None:
        """Errors move the level and the week by a bounded step; gaps, spikes and dips do not."""
        near = kind != "shift" and self.cool > 0 and bool(abs(r[1, self.chosen]) < abs(r[0, self.chosen]))
        if kind in ("", "shift"):
            if not near:
                self.kept[t], self.apart[t] = True, r[0]
                speed = np.maximum(SPEEDS, 0.15) if self.cool else SPEEDS
                self.level[0] += speed * np.clip(r[0], -1.5 * self.wide, 1.5 * self.wide)
            self.week[t % self.season] += 0.1 * np.clip(e[int(near)], -1.5 * self.noise, 1.5 * self.noise)
            self.before = np.clip(r, -2.5 * self.wide, 2.5 * self.wide)
        else:
            self.before *= self.memory
        self.cool, self.near = max(self.cool - 1, 0), self.near + 1 if near else max(self.near - 1, 0)
        if self.near >= RUN:
            self.level[0], self.before[0], self.cool, self.near = self.level[1], self.before[1], 0, 0

    def _fit(self) -> None:
        """Speed of the level, memory, noise, its tail and the height of the CUSUM, from the errors of the last year."""
        r = self.apart[self.kept][-LOOK:]
        self.wide = np.maximum(1.4826 * np.median(abs(r), axis=0), self.least)
        a, b = np.clip(r[:-1], -2 * self.wide, 2 * self.wide), np.clip(r[1:], -2 * self.wide, 2 * self.wide)
        memory = (a * b).sum(0) / (a * a + 1e-300).sum(0)
        self.memory = np.clip(np.maximum(memory, 1.09 * memory), -0.3, 0.95)  # a level that follows hides some of it
        e = r[1:] - self.memory * np.clip(r[:-1], -2.5 * self.wide, 2.5 * self.wide)
        loss = np.minimum(abs(e), 3 * self.wide.min()).mean(0)
        self.chosen = int(np.argmax(loss <= 1.01 * loss.min()))  # the slowest that is as good keeps shifts apart
        self.noise, self.far = _tail(e[:, self.chosen], SPIKES * self.rate, self.least)
        self.height = _height(np.clip(e[:, self.chosen] / self.noise, -BOUND, BOUND), SHIFTS * self.rate / 2)


def _scaled(y: Floats, season: int, history: int, root: bool = False) -> tuple[Floats, float, Floats, float, float]:
    """Values as logarithms (power 0), as roots where noise is wide, as is where any is negative; pattern; noise."""
    usual, least = float(np.nanmedian(y[:history])), float(np.nanmin(y[:history]))
    power = 1.0 if least < 0 else 0.5 if root or usual == 0 else 0.0
    x = y if power == 1 else np.sqrt(np.maximum(y, 0)) if power else np.log(np.maximum(y, usual / 100))
    table = pd.DataFrame(x[:history].reshape(-1, season))
    table = table.sub(table.median(axis=1), axis=0) if season > 1 else table - table.median()
    week = table.median().fillna(0)
    spread = 1.4826 * float(np.nanmedian(abs(table - week)))
    if power == 0 and spread > WIDE:
        return _scaled(y, season, history, root=True)
    least = QUIET * (abs(usual) if power == 1 else math.sqrt(usual) / 2 if power else 1) + 1e-300
    return x, power, np.array(week - week.mean()), least, max(spread, least)


def _tail(e: Floats, rate: float, least: float) -> tuple[float, float]:
    """Robust deviation of errors; the distance that they exceed at this rate by Student's t, averaged over its fits."""
    middle, mean = 1.4826 * float(np.median(abs(e))), float(abs(e).mean())
    noise = max(middle, mean, least)
    square = (e / noise) ** 2
    fit = len(e) * _DENSITY - (_NU + 1) / 2 * np.log1p(square / (_NU * _SCALE**2)[..., None]).sum(-1)
    weight = np.exp(fit - fit.max())
    tail = np.tensordot(weight / weight.sum(), _TAIL, 2)
    far = noise * float(np.exp(np.interp(-math.log(rate), -np.log(tail), np.log(_FAR))))
    if middle < mean / 2:  # mostly the same value: no t looks like that
        far = max(far, 1.001 * float(abs(e).max()))
    return noise, far


def _height(u: Floats, rate: float) -> float:
    """Height at which a one-sided CUSUM of u alarms at this rate: Siegmund's formula with Lundberg's exponent."""
    fortnights = np.convolve(u, np.ones(14), "valid")  # where errors drift they add up to more than independent ones
    drift = float(np.median(abs(fortnights))) ** 2 / 0.455 / 14 / max(float((u * u).mean()), 1e-300)
    both = np.append(u, -u) - SLACK
    found = np.exp(6 * both).mean() > 1  # else hardly any error is beyond the slack
    power = float(brentq(lambda v: np.exp(v * both).mean() - 1, 1e-3, 6)) if found else 6.0
    power /= max(1.0, (drift * len(fortnights) + 28) / (len(fortnights) + 28))
    return float(brentq(lambda h: (math.exp(power * h) - power * h - 1) * rate - power * SLACK, 0, 500 / power)) - 1.166
