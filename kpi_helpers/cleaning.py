"""What a forecast should not learn from: tracking gaps, outliers and levels that are past; each is reported."""

from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kpi_helpers.errors import require
from kpi_helpers.result import Result, day, number, percent, say, table
from kpi_helpers.stats import Floats

Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
#: grain: periods a level must last before and after a break, periods in a year, how far Tết moves between years
SPANS = {"day": (28, 364, 20), "week": (8, 52, 3), "month": (6, 12, 1), "period": (8, 0, 0)}
#: robust standard deviations that a gap, an outlier and a break must exceed; rates are in tests/test_cleaning.py
GAP, OUTLIER, BREAK = 3.5, 5.0, 4.5
LOW, LEAST_NOISE, LEAST_BREAK, FEWEST = 0.1, 0.05, 0.1, 8  # shares of the expectation; fewest known values


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cleaned(Result):
    """A series without its gaps and outliers, and every finding.

    `kind` (gap, outlier, break), `first`, `last`, `n`: what lies where, by date or position from 0; the level after a
    break lasts until the next. `observed`, `expected`: means of the periods and their expectations; of a break, the
    usual values after and before. `values` (n,): NaN in gaps and outliers. `since`: first period of the present
    level. `n_gap`, `n_outlier`: periods set aside.
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
        length = say(f"cleaned.{'one ' * (self.n_gap == 1)}{self.grain}", language, n=self.n_gap)
        counts = {"gap": self.kind.count("gap"), "outlier": self.n_outlier}
        aside = [say(f"cleaned.{'one ' * (n == 1)}{k}", language, n=n, length=length) for k, n in counts.items() if n]
        said = [say("cleaned.aside", language, what=say("cleaned.and", language).join(aside))] if aside else []
        changes = [o / e - 1 for k, o, e in zip(self.kind, self.observed, self.expected, strict=True) if k == "break"]
        for change in changes[-1:]:
            told = {"change": percent(abs(change), language, decimals=0), "since": _told(self.since, language)}
            said.append(say(f"cleaned.{'higher' if change > 0 else 'lower'}", language, **told))
        return " ".join(said) or say("cleaned.nothing", language)

    def html(self, language: str = "en") -> str:
        """The sentence, and a table of the findings."""
        said = f"<p>{escape(self.sentence(language))}</p>"
        rows = [
            [say(f"cleaned.kind {r.kind}", language), _told(r.first, language), _told(r.last, language), str(r.n),
             *(number(v, language, decimals=0 if abs(v) >= 100 else 2) for v in (r.observed, r.expected))]
            for r in self.to_frame().itertuples()
        ]  # fmt: skip
        heads, caption = say("cleaned.heads", language).split("|"), say("cleaned.caption", language)
        note = say("cleaned.note", language)
        return said + table(heads, rows, caption=caption, note=note, numeric=range(3, 6)) if rows else said


def clean(
    values: ArrayLike | pd.Series, *, season: int, at: pd.PeriodIndex | None = None, expected: ArrayLike | None = None
) -> Cleaned:
    """Set tracking gaps and outliers aside, and tell since when the level is the present one.

    Conservative: a trend, what stood out near the same date of another year, three periods in a row or the last
    three are no outliers; only missing values are found in a series that is often zero or ever negative.

    Parameters
    ----------
    values : array_like (n,) or Series with a PeriodIndex
        Oldest first; NaN is missing.
    season : int
        Season in periods: 7 for days, 1 for weeks and months; 12 for months that have five years.
    at : PeriodIndex (n,), optional
        The periods, where `values` does not bring them.
    expected : array_like of bool (n,), optional
        Periods to leave alone, such as Tết and days of sale.

    Raises
    ------
    KpiError
        If the values are not one series of finite numbers, or an argument does not fit them.

    References
    ----------
    Davies & Gather (1993), JASA 88:782-792 (median and MAD); Andrews (1991), Econometrica 59:817-858 (AR(1)).

    Examples
    --------
    >>> clean([100, 120, 90] * 3 + [0, 0, 90] + [100, 120, 90] * 3, season=3)
    Set aside: 1 tracking gap (2 periods).
    """
    y = np.asarray(values, dtype=float)
    at = values.index if isinstance(values, pd.Series) and isinstance(values.index, pd.PeriodIndex) else at
    require(y.ndim == 1 and not np.isinf(y).any(), f"values has shape {y.shape}: pass one series of finite numbers.")
    require(season >= 1 and int(season) == season, f"season={season} must be a whole number of periods, at least 1.")
    spare = np.zeros(len(y), bool) if expected is None else np.asarray(expected, dtype=bool)
    require(spare.shape == y.shape, f"expected has shape {spare.shape}, values {y.shape}. Give a flag for each period.")
    require(at is None or len(at) == len(y), f"at has {0 if at is None else len(at)} periods, values {len(y)}.")
    by_season = {7: "day", 52: "week", 12: "month"}.get(season, "period")
    grain = by_season if at is None else {"D": "day", "W": "week", "M": "month"}.get(at.freqstr[0], "period")
    gap, outlier, usual, breaks = _found(y, int(season), spare, SPANS[grain])
    ends = [p for p, *_ in breaks[1:]] + [len(y)]
    rows = [(p, end, "break", after, before) for (p, before, after), end in zip(breaks, ends, strict=False)]
    for kind, flag in (("gap", gap), ("outlier", outlier)):
        rows += [(i, j, kind, float(np.mean(y[i:j])), float(np.mean(usual[i:j]))) for i, j in _runs(flag)]
    rows.sort()
    names = [i if at is None else at[i].start_time.date() for row in rows for i in (row[0], row[1] - 1)]
    begin = breaks[-1][0] if breaks else int(np.argmax(np.nan_to_num(y) != 0)) if len(y) else 0
    return Cleaned(
        kind=tuple(row[2] for row in rows), first=tuple(names[::2]), last=tuple(names[1::2]),
        n=tuple(j - i for i, j, *_ in rows), observed=tuple(row[3] for row in rows),
        expected=tuple(row[4] for row in rows), values=np.where(gap | outlier, np.nan, y),
        since=begin if at is None or not len(y) else at[begin].start_time.date(),
        n_gap=int(gap.sum()), n_outlier=int(outlier.sum()), grain=grain,
    )  # fmt: skip


def _told(at: date | int, language: str) -> str:
    return day(at, language) if isinstance(at, date) else say("cleaned.at", language, n=at + 1)


def _found(
    y: Floats, season: int, spare: Flags, span: tuple[int, int, int]
) -> tuple[Flags, Flags, Floats, list[tuple[int, float, float]]]:
    """Gaps, outliers, expectation (n,); breaks as first period, usual value before and after."""
    known = y[np.isfinite(y) & ~spare]
    typical = float(np.median(known)) if len(known) else 0.0
    zero = y <= 0.02 * typical
    there = np.flatnonzero(np.nan_to_num(y))
    inside = (np.arange(len(y)) >= there[0]) & (np.arange(len(y)) <= there[-1]) if len(there) else zero
    if len(known) < FEWEST or typical <= 0 or known.min() < 0 or len(_runs(zero & ~spare)) > 2 + 0.01 * len(y):
        return np.isnan(y) & inside, np.zeros(len(y), bool), y, []
    x = np.log(np.where(spare | zero, np.nan, y))
    curve = _season(x, season)
    d = x - curve
    side = np.arange(1, 15 if season == 7 else 5)
    before, after = _median(d, -side), _median(d, side)
    level = (np.fmin(before, after) + np.fmax(before, after)) / 2
    have = np.flatnonzero(np.isfinite(level))
    level = np.interp(np.arange(len(y)), have, level[have])
    usual = np.exp(level + curve)
    noise = max(_spread(_root(d - level)), LEAST_NOISE)
    gap, low = np.isnan(y) & inside, (y < LOW * usual) & ~spare
    for i, j in _runs(gap | low):
        n = int(low[i:j].sum())  # the longer a run is, the less noise explains it; a lasting one is a level
        gap[i:j] |= n > 0 and i > there[0] and n <= span[0] and (1 - LOW) * np.sqrt(n) > GAP * noise
    a, b = _root(d - before), _root(d - after)
    z = np.where((a * b > 0) & ~gap, np.sign(a) * np.minimum(abs(a), abs(b)) / noise, 0.0)  # both sides agree
    outlier = abs(z) > OUTLIER
    outlier[:3] = outlier[-3:] = False  # it may be a new level
    for i, j in _runs(outlier):
        outlier[i:j] = j - i <= 2 and bool((_twins(z, span, np.arange(i, j), 1) < OUTLIER / 2).all())
    raw = np.where(gap | outlier | spare, np.nan, np.where(zero, np.log(0.02 * typical) - curve, d))
    h, breaks = span[0], sorted(_breaks(raw, span))
    typical_of = [float(np.exp(_middle(raw[max(i, 0) : i + h]))) for p in breaks for i in (p - h, p)]
    return gap, outlier, usual, list(zip(breaks, typical_of[::2], typical_of[1::2], strict=True))


def _breaks(d: Floats, span: tuple[int, int, int]) -> list[int]:
    """First periods of levels that last, in a series without season.

    The median of the next w periods leaves that of the last w, for w = h or h / 4; at least half of that lasts
    for h; a step fits it better than a line. Held against the spread of such changes over the series and against an
    AR(1), both without the break: what wanders or has a long season must change by more than it does elsewhere.
    """
    h, n, stride = span[0], len(d), max(span[0] // 5, 1)
    t, found = np.arange(h, n - h + 1, stride), list[int]()
    lasting = _change(d, h, t) if len(t) > 1 else np.zeros(0)
    if n >= 8 * h and np.isfinite(lasting).any():  # growth is no break
        growth = _middle(lasting)
        d, lasting = d - growth / h * np.arange(n), lasting - growth
    windows = [h, h // 4]
    while windows and len(lasting) and len(found) < n // h:
        w = windows[0]
        change = lasting if w == h else _change(d, w, t)
        twin = _twins(change, span, np.arange(len(t)), stride)
        net = abs(change) - np.where(twin > 3 * _spread(change), twin, 0)
        net = np.nan_to_num(np.where((lasting * change > 0) & (abs(lasting) > abs(change) / 2), net, 0))
        p = _split(d, int(t[net.argmax()]), w)
        part = d[max(p - h, 0) : p + h]
        rest = d - (_middle(part[h:]) - _middle(part[:h])) * (np.arange(n) >= p)
        noise = max(_spread(_change(rest, w, t)), _wander(rest, w)) * (1 + w / (n - 2 * w))  # few windows tell little
        ramp = _explained(part, np.arange(len(part)) >= h) < _explained(part, np.arange(len(part)))
        if ramp or net.max() < max(BREAK * noise, LEAST_BREAK):
            windows = windows[1:]
        else:
            found, d, lasting = [*found, p], rest, _change(rest, h, t)
    return found


def _explained(part: Floats, x: NDArray[np.generic]) -> float:
    """Sum of squares of the known in `part` that a regression on x explains."""
    there = np.isfinite(part)
    z = x[there].astype(float)
    z -= z.mean()
    return float((z @ part[there]) ** 2 / max(float(z @ z), 1e-9))


def _change(d: Floats, h: int, t: Whole) -> Floats:
    known = np.concatenate([[0], np.cumsum(np.isfinite(d))])
    enough = np.minimum(known[t + h] - known[t], known[t] - known[t - h]) >= h / 2
    return np.where(enough, _median(d, np.arange(h), t) - _median(d, np.arange(-h, 0), t), np.nan)


def _split(d: Floats, t: int, h: int) -> int:
    """First known period of the new level: the split near t that leaves the least variance."""
    part = d[t - h : t + h]
    there = np.isfinite(part)
    total, m = np.cumsum(np.where(there, part, 0.0)), np.cumsum(there)
    total, m = total - total[-1] * m / m[-1], m * (m[-1] - m)  # the part's mean is taken out
    return t - h + 1 + int(np.argmax(np.where(there[1:], abs(total[:-1]) / np.sqrt(m[:-1].clip(1)), -1.0)))


def _wander(d: Floats, h: int) -> float:
    """Standard deviation of the change between two means of h periods, by an AR(1) of means of h / 4."""
    b, most = max(h // 4, 1), 3 * _spread(d)
    blocks = (d - _middle(d)).clip(-most, most)[len(d) % b :].reshape(-1, b)
    known = np.isfinite(blocks).any(axis=1)
    m = np.where(known, np.nansum(blocks, axis=1) / np.isfinite(blocks).sum(axis=1).clip(1), np.nan)
    m, n = m - np.nanmean(m), int(known.sum())
    variance = float(np.nansum(m**2)) / n
    if n < 6 or variance == 0:
        return np.inf if n < 6 else 0.0
    rho = float(np.nansum(m[1:] * m[:-1])) / max(int((known[1:] & known[:-1]).sum()), 1) / variance
    rho = min(max(rho + (1 + 4 * rho) / n, 0.0), 0.98)  # few blocks estimate it too small
    weight = np.repeat([-1.0, 1.0], h // b) / (h // b)
    lag = abs(np.subtract.outer(np.arange(len(weight)), np.arange(len(weight))))
    return float(np.sqrt(variance * n / (n - 2) * (weight @ rho**lag @ weight)))


def _twins(x: Floats, span: tuple[int, int, int], at: Whole, stride: int) -> Floats:
    """Largest value of the sign of x[at], at least 0, near the same date a year before or after."""
    year, reach = span[1] // stride, np.arange(-(span[2] // stride), span[2] // stride + 1)
    other = _near(x, np.concatenate([reach - year, reach + year]), at) if year else np.zeros((len(at), 1))
    return np.asarray(np.nan_to_num(other * np.sign(x[at])[:, None]).max(axis=1).clip(0))


def _season(x: Floats, season: int) -> Floats:
    """Median departure of the same season nearby from its running level; 0 with fewer than three seasons."""
    if season == 1 or len(x) < 3 * season:
        return np.zeros(len(x))
    half, most = (10, 8) if season == 7 else (season // 2, 4)
    return np.nan_to_num(_median(x - _median(x, np.arange(-half, half + 1)), season * np.arange(-most, most + 1)))


def _median(x: Floats, steps: Whole, at: Whole | None = None) -> Floats:
    """Median of the known among x[at + steps], NaN where none is."""
    near = np.sort(_near(x, steps, np.arange(len(x)) if at is None else at), axis=1)
    known, row = np.isfinite(near).sum(axis=1), np.arange(len(near))
    return np.asarray((near[row, (known - 1).clip(0) // 2] + near[row, np.minimum(known // 2, len(steps) - 1)]) / 2)


def _near(x: Floats, steps: Whole, at: Whole) -> Floats:
    far = np.full(int(abs(steps).max()), np.nan)
    return np.asarray(np.concatenate([far, x, far])[at[:, None] + (steps + len(far))])


def _middle(x: Floats) -> float:
    """Median of what is known; numpy's takes four times as long on short arrays."""
    x = np.sort(x[np.isfinite(x)])
    return float(x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2 if len(x) else np.nan


def _spread(x: Floats) -> float:
    return 1.4826 * _middle(abs(x - _middle(x)))  # standard deviation of a normal, unmoved by outliers


def _root(x: Floats) -> Floats:
    """Departure on the scale of square roots, on which small counts are as likely far above as far below."""
    return np.asarray(2 * np.expm1(x / 2))


def _runs(flag: Flags) -> list[tuple[int, int]]:
    """First position of each run of True, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flag, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
