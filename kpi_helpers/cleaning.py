"""What a forecast should not learn from: tracking gaps, outliers and levels that are past; each is reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kpi_helpers.errors import require
from kpi_helpers.result import Result, day, number, percent, say, table
from kpi_helpers.stats import Floats

Positions = NDArray[np.int64]
#: grain: periods a level must last on either side of a break, in a year, by which Tết moves between years
SPANS = {"day": (28, 364, 21), "week": (8, 52, 3), "month": (6, 12, 1), "period": (8, 0, 0)}
#: robust standard deviations that an outlier, a break, a gap of one period must exceed; measured in tests/test_cleaning.py
OUTLIER, BREAK, GAP = 5.0, 5.0, 3.5
#: below this share of its expectation a period was not tracked; least noise and least change of level, as logarithms
LOW, LEAST_NOISE, LEAST_BREAK = 0.1, 0.05, 0.1


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cleaned(Result):
    """A series without its gaps and outliers, and every finding.

    Attributes
    ----------
    kind : tuple of str
        gap, outlier or break, by first period.
    first, last : tuple of date or int
        Periods of the finding, by date or position; the level after a break lasts until the next one.
    n : tuple of int
        Periods from first to last.
    observed, expected : tuple of float
        Mean of the finding and of what was expected; of a break, the usual value after and before it.
    values : array (n,)
        The series; gaps and outliers are NaN.
    since : date or int
        First period of the present level.
    n_gap, n_outlier : int
        Periods set aside.
    """

    kind: tuple[str, ...]
    first: tuple[date | int, ...]
    last: tuple[date | int, ...]
    n: tuple[int, ...]
    observed: tuple[float, ...]
    expected: tuple[float, ...]
    values: Floats
    since: date | int
    n_gap: int
    n_outlier: int
    grain: str

    def to_frame(self) -> pd.DataFrame:
        """One row a finding."""
        return pd.DataFrame({k: list(getattr(self, k)) for k in ("kind", "first", "last", "n", "observed", "expected")})

    def sentence(self, language: str = "en") -> str:
        """What was set aside, and since when the level is the present one."""
        counts = {"gap": self.kind.count("gap"), "outlier": self.n_outlier}
        length = say(f"cleaned.{'one ' * (self.n_gap == 1)}{self.grain}", language, n=self.n_gap)
        aside = [say(f"cleaned.{'one ' * (n == 1)}{k}", language, n=n, length=length) for k, n in counts.items() if n]
        said = [say("cleaned.aside", language, what=say("cleaned.and", language).join(aside))] if aside else []
        if "break" in self.kind:
            at = max(i for i, kind in enumerate(self.kind) if kind == "break")
            change = self.observed[at] / self.expected[at] - 1 if self.expected[at] > 0 else np.nan
            way = "higher" if change > 0 else "lower" if change < 0 else "moved"
            told = {"change": percent(abs(change), language, decimals=0), "since": self._at(self.since, language)}
            said.append(say(f"cleaned.{way}", language, **told))
        return " ".join(said) or say("cleaned.nothing", language)

    def html(self, language: str = "en") -> str:
        """The sentence, and a table of the findings."""
        said = f"<p>{escape(self.sentence(language))}</p>"
        rows = [
            [say(f"cleaned.kind {r.kind}", language), self._at(r.first, language), self._at(r.last, language), str(r.n),
             *(number(v, language, decimals=0 if abs(v) >= 100 else 2) for v in (r.observed, r.expected))]
            for r in self.to_frame().itertuples()
        ]  # fmt: skip
        heads, caption = say("cleaned.heads", language).split("|"), say("cleaned.caption", language)
        note = say("cleaned.note", language)
        return said + table(heads, rows, caption=caption, note=note, numeric=range(3, 6)) if rows else said

    @staticmethod
    def _at(at: date | int, language: str) -> str:
        return day(at, language) if isinstance(at, date) else say("cleaned.at", language, n=at + 1)


def clean(
    values: ArrayLike | pd.Series, *, season: int, at: Sequence[date] | None = None, expected: ArrayLike | None = None
) -> Cleaned:
    """Set tracking gaps and outliers aside and tell since when the level is the present one.

    Expectation: the lesser departure from the medians of the periods before and after, without the season of the
    same weekdays. Not findings: a trend, what stood out near the same date of another year, more than two periods
    in a row, and anything in a series that is often zero.

    Parameters
    ----------
    values : array_like (n,) or Series with a PeriodIndex
        Oldest first; NaN is missing.
    season : int
        Short season in periods: 7 for days, 1 for weeks and months; 52 or 12 for those of a year.
    at : sequence of date (n,), optional
        First days of the periods; taken from a PeriodIndex.
    expected : array_like of bool (n,), optional
        Periods to leave alone, such as Tết and days of sale.

    Raises
    ------
    KpiError
        If the values are not one series of finite numbers, or an argument does not fit them.

    References
    ----------
    Running median and MAD: Davies & Gather (1993), JASA 88:782-792. Long-run variance by AR(1): Andrews (1991),
    Econometrica 59:817-858.

    Examples
    --------
    >>> clean([100, 120, 90, 100, 120, 90, 100, 120, 90, 0, 120, 90, 100, 120, 90, 100, 120, 90], season=3)
    Set aside: 1 tracking gap (1 period).
    """
    y = np.asarray(values, dtype=float)
    require(y.ndim == 1 and not np.isinf(y).any(), f"values has shape {y.shape}: pass one series of finite numbers.")
    require(int(season) == season and season >= 1, f"season={season} must be a whole number of periods, at least 1.")
    if isinstance(values, pd.Series) and isinstance(values.index, pd.PeriodIndex):
        at = at or [t.date() for t in values.index.start_time]
    spare = np.zeros(len(y), bool) if expected is None else np.asarray(expected, dtype=bool)
    require(len(spare) == len(y), f"expected has {len(spare)} periods, values {len(y)}. Give one flag a period.")
    require(at is None or len(at) == len(y), f"at has {len(at or ())} dates, values {len(y)}. Give one a period.")
    grain = _grain(int(season), at)
    found, usual, breaks = _findings(y, int(season), spare, SPANS[grain])
    name = at if at is not None else range(len(y))
    rows = [(i, kind, j, np.mean(y[i:j]), np.mean(usual[i:j])) for kind in found for i, j in _runs(found[kind])]
    lasts = [p for p, *_ in breaks[1:]] + [len(y)]
    rows += [(p, "break", j, after, before) for (p, before, after), j in zip(breaks, lasts, strict=False)]
    rows.sort(key=lambda row: row[:2])
    known = np.flatnonzero(np.nan_to_num(y))
    begin = breaks[-1][0] if breaks else int(known[0]) if len(known) else 0
    return Cleaned(
        kind=tuple(kind for _, kind, *_ in rows),
        first=tuple(name[i] for i, *_ in rows),
        last=tuple(name[j - 1] for _, _, j, *_ in rows),
        n=tuple(j - i for i, _, j, *_ in rows),
        observed=tuple(float(o) for *_, o, _ in rows),
        expected=tuple(float(e) for *_, e in rows),
        values=np.where(found["gap"] | found["outlier"], np.nan, y),
        since=name[begin] if len(y) else 0,
        n_gap=int(found["gap"].sum()),
        n_outlier=int(found["outlier"].sum()),
        grain=grain,
    )


def _grain(season: int, at: Sequence[date] | None) -> str:
    step = float(np.median(np.diff(np.array(at, dtype="datetime64[D]")).astype(int))) if at and len(at) > 1 else 0
    by_date = {1: "day", 7: "week", 30: "month", 31: "month"}.get(int(step), "period")
    return by_date if step else {7: "day", 52: "week", 12: "month"}.get(season, "period")


def _findings(
    y: Floats, season: int, spare: NDArray[np.bool_], span: tuple[int, int, int]
) -> tuple[dict[str, NDArray[np.bool_]], Floats, list[tuple[int, float, float]]]:
    """Gaps and outliers (n,), expectation (n,), and breaks as (first period, usual value before, after)."""
    none = np.zeros(len(y), bool)
    known = y[np.isfinite(y) & ~spare]
    typical = float(np.median(known)) if len(known) else np.nan
    positive = bool(len(known) and known.min() >= 0)
    zero = y <= 0.02 * typical if positive else none
    if not len(known) or np.ptp(known) == 0 or typical == 0:
        return {"gap": none, "outlier": none}, y, []
    often = len(_runs(zero)) > 2 + 0.01 * len(y)
    log = positive and not often
    x = np.where(spare, np.nan, np.log(np.where(zero, np.nan, y)) if log else y)
    curve = _season(x, season)
    d = x - curve
    side = np.arange(1, 1 + (14 if season == 7 else 4))
    before, after = _median(d, -side), _median(d, side)
    level = np.where(np.isnan(before), after, np.where(np.isnan(after), before, (before + after) / 2))
    there = np.flatnonzero(np.isfinite(level))
    level = np.interp(np.arange(len(y)), there, level[there])
    usual = np.exp(level + curve) if log else level + curve
    noise = max(_spread(d - level), LEAST_NOISE if log else 0.0)
    rough = max(_spread(np.expm1(d - level)), LEAST_NOISE) if log else noise
    low = (y < LOW * usual) & ~spare & log
    gap = _gaps(y, low, span[0], rough)
    z = np.zeros(len(y))
    if noise > 0 and not often:
        sides = np.array([d - before, d - after])
        z = np.abs(sides).min(axis=0) / noise
        z = np.fmin(z, np.abs(np.expm1(sides)).min(axis=0) / rough) if log else z  # far on both scales
        z = np.where(~gap & (sides[0] * sides[1] > 0), z * np.sign(sides[0]), 0.0)
    outlier = _outliers(z, span)
    floor = np.where(zero, np.log(0.02 * typical) - curve, d) if log else d
    breaks = _breaks(np.where(gap | outlier | spare, np.nan, floor), span, log)
    shown = [(p, *(np.exp(v) if log else v for v in levels)) for p, *levels in breaks]
    return {"gap": gap, "outlier": outlier}, usual, shown


def _gaps(y: Floats, low: NDArray[np.bool_], lasting: int, rough: float) -> NDArray[np.bool_]:
    """Runs of missing values, and of values so low for so long that the series' own noise does not explain them."""
    gap, there = np.zeros(len(y), bool), np.flatnonzero(np.nan_to_num(y))
    for i, j in _runs(np.isnan(y) | low):
        zeros = int(low[i:j].sum())
        enough = zeros <= lasting and (1 - LOW) * np.sqrt(zeros) > GAP * rough
        gap[i:j] = i > there[0] and (enough if zeros else j <= there[-1])
    return gap


def _outliers(z: Floats, span: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Periods that stand alone, one or two in a row, and did not stand out near the same date of another year."""
    outlier = np.abs(z) > OUTLIER
    outlier[:3] = outlier[-3:] = False  # one side is not known yet: it may be a new level
    for i, j in _runs(outlier):
        outlier[i:j] = j - i <= 2 and bool((_twins(z, span, z, np.arange(i, j)) < OUTLIER / 2).all())
    return outlier


def _twins(x: Floats, span: tuple[int, int, int], sign: Floats, at: Positions, stride: int = 1) -> Floats:
    """Largest x of the same sign, at least 0, within `span`'s reach of the same date in another year."""
    _, year, reach = span
    if not year:
        return np.zeros(len(at))
    near = np.arange(-(reach // stride), reach // stride + 1)
    found = _near(x, np.concatenate([near - year // stride, near + year // stride]), at)
    return np.asarray(np.nan_to_num(found * np.sign(sign[at])[:, None]).max(axis=1).clip(0))


def _breaks(d: Floats, span: tuple[int, int, int], log: bool) -> list[tuple[int, float, float]]:
    """Lasting changes of the level of a series without season: first period, level before and after.

    The change of the median between neighbouring windows, less that of last and next year, must exceed its own
    spread over the series and that of an AR(1) process, both computed without it.
    """
    h, n, raw = span[0], len(d), d
    stride = max(h // 7, 1)
    t = np.arange(h, n - h + 1, stride)
    found: list[int] = []
    if len(t) < 2:
        return []
    change = _change(d, h, t)
    if n >= 8 * h and np.isfinite(change).any():  # growth is no break
        slope = np.nanmedian(change) / h
        d, change = d - slope * np.arange(n), change - slope * h
    threshold = BREAK * (1 + h / (n - 2 * h))  # few windows: their spread is uncertain
    while np.isfinite(change).any() and len(found) < n // h:
        net = np.abs(change) - _twins(change, span, change, np.arange(len(t)), stride)
        c = int(np.nanargmax(net))
        p = _split(d, int(t[c]), h)
        step = np.nanmedian(d[p : p + h]) - np.nanmedian(d[max(p - h, 0) : p])
        rest = d - step * (np.arange(n) >= p)
        left = _change(rest, h, t)
        if not net[c] > max(threshold * max(_spread(left), _wander(rest, h)), LEAST_BREAK * log):
            break
        found, d, change = [*found, p], rest, left
    return [(p, np.nanmedian(raw[max(p - h, 0) : p]), np.nanmedian(raw[p : p + h])) for p in sorted(set(found))]


def _change(d: Floats, h: int, t: Positions) -> Floats:
    """Median of h periods from t less that of the h before; NaN where half of either is unknown."""
    known = np.concatenate([[0], np.cumsum(np.isfinite(d))])
    enough = np.minimum(known[t + h] - known[t], known[t] - known[t - h]) >= h / 2
    return np.where(enough, _median(d, np.arange(h), t) - _median(d, np.arange(-h, 0), t), np.nan)


def _split(d: Floats, t: int, h: int) -> int:
    """First period of the new level near t: the split of 2h periods that leaves the least variance."""
    part = d[t - h : t + h]
    there = np.isfinite(part)
    total, m = np.cumsum(np.where(there, part, 0.0)), np.cumsum(there)
    left, right = np.maximum(m[:-1], 1), np.maximum(m[-1] - m[:-1], 1)
    gain = np.abs(total[:-1] / left - (total[-1] - total[:-1]) / right) * np.sqrt(m[:-1] * (m[-1] - m[:-1]))
    return t - h + 1 + int(np.argmax(np.where(there[1:], gain, -1.0)))


def _wander(rest: Floats, h: int) -> float:
    """Standard deviation of the difference between two means of h periods, from an AR(1) of quarters of h."""
    b, spread = max(h // 4, 1), _spread(rest)
    rest = (rest - np.nanmedian(rest)).clip(-3 * spread, 3 * spread)[len(rest) % b :].reshape(-1, b)
    known = np.isfinite(rest).sum(axis=1)
    m = np.where(known > 0, np.nansum(rest, axis=1) / np.maximum(known, 1), np.nan)
    n = int((known > 0).sum())
    m = m - np.nanmean(m)
    variance = float(np.nanmean(m**2))
    if n < 6 or variance == 0:
        return np.inf if n < 6 else 0.0
    rho = float(np.nanmean(m[1:] * m[:-1])) / variance
    rho = min(max(rho + (1 + 4 * rho) / n, 0.0), 0.98)  # estimated from few blocks, it comes out too small
    weights, lags = np.repeat([-0.25, 0.25], 4), np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    return float(np.sqrt(variance * n / (n - 2) * (weights @ rho**lags @ weights)))


def _season(x: Floats, season: int) -> Floats:
    """Median departure of the same season nearby from its running level; 0 with fewer than three seasons."""
    if season == 1 or len(x) < 3 * season:
        return np.zeros(len(x))
    half, most = (10, 8) if season == 7 else (season // 2, 4)
    return np.nan_to_num(_median(x - _median(x, np.arange(-half, half + 1)), season * np.arange(-most, most + 1)))


def _median(x: Floats, steps: Positions, at: Positions | None = None) -> Floats:
    """Median of the known among x[at + steps]; NaN where none is known."""
    near = np.sort(_near(x, steps, np.arange(len(x)) if at is None else at), axis=1)
    known = np.isfinite(near).sum(axis=1)
    rows = np.arange(len(near))
    return np.asarray((near[rows, (known - 1).clip(0) // 2] + near[rows, np.minimum(known // 2, len(steps) - 1)]) / 2)


def _near(x: Floats, steps: Positions, at: Positions) -> Floats:
    far = int(np.abs(steps).max())
    padded = np.concatenate([np.full(far, np.nan), x, np.full(far, np.nan)])
    return np.asarray(padded[at[:, None] + (steps + far)])


def _spread(x: Floats) -> float:
    """Robust standard deviation of what is known."""
    x = x[np.isfinite(x)]
    return 1.4826 * float(np.median(np.abs(x - np.median(x)))) if len(x) else np.nan


def _runs(flag: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and behind-last position of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flag, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
