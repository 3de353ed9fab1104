"""What a forecast should not learn from: tracking gaps, outliers and levels that are past; each is reported."""

from datetime import date
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from kpi_helpers.calendars import GRAINS, SEASONS
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, day, percent, say
from kpi_helpers.stats import Floats

Flags = NDArray[np.bool_]
#: grain: periods a level must last before and after a break, how far Tết moves between years
SPANS = {"day": (28, 20), "week": (8, 3), "month": (6, 1), "period": (8, 0)}
GAP, OUTLIER = 3.5, 5.0  # robust standard deviations that each must exceed; rates are in tests/test_cleaning.py
LOW, LEAST_NOISE, FEWEST = 0.1, 0.05, 8  # shares of the expectation; fewest known values
#: a break: times the largest change that is none, least change of the log, most in a series
STANDS_OUT, LEAST_BREAK, MOST_BREAKS = 2.0, 0.1, 3


def _told(at: date | int, language: str) -> str:
    return day(at, language) if isinstance(at, date) else say("cleaned.at", language, n=at + 1)


class Cleaned(Framed):
    """A series without its gaps and outliers, and every finding, by date or position from 0.

    `observed`, `expected`: means of the periods and of what was usual; of a break, the usual values after and before.
    `values` (n,): NaN in gaps and outliers, `n_gap` and `n_outlier` of them. `since`: start of the present level.
    """

    columns = ("kind", "first", "last", "n", "observed", "expected")
    aside: ClassVar = ("values", "since", "n_gap", "n_outlier", "grain")
    ways: ClassVar = {"place": _told}

    def sentence(self, language: str = "en") -> str:
        length = say(f"cleaned.{'one ' * (self.n_gap == 1)}{self.grain}", language, n=self.n_gap)
        counts = {"gap": self.kind.count("gap"), "outlier": self.n_outlier}
        aside = [say(f"cleaned.{'one ' * (n == 1)}{k}", language, n=n, length=length) for k, n in counts.items() if n]
        said = [say("cleaned.aside", language, what=say("cleaned.and", language).join(aside))] if aside else []
        changes = [o / e - 1 for k, o, e in zip(self.kind, self.observed, self.expected, strict=True) if k == "break"]
        for change in changes[-1:]:
            told = {"change": percent(abs(change), language, decimals=0), "since": _told(self.since, language)}
            said.append(say(f"cleaned.{'higher' if change > 0 else 'lower'}", language, **told))
        return " ".join(said) or say("cleaned.nothing", language)


def clean(values: ArrayLike | pd.Series, *, season: int, expected: ArrayLike | None = None) -> Cleaned:
    """Set tracking gaps and outliers aside, and tell since when the level is the present one.

    Outliers are told by medians and absolute deviations from them (Davies & Gather 1993, JASA 88:782-792). No outlier
    is what stood out near the same date of another year, three periods in a row, or one of the last three. A series
    often zero or ever negative has only missing values found; a break needs four times the span in `SPANS`. `values`
    (n,) or Series with a PeriodIndex: oldest first, NaN is missing. `season` in periods: 7 for days, 1 for weeks and
    months, 12 for months that have five years. `expected`, bool (n,): periods to leave alone, such as Tết and sales.
    Raises a `KpiError` if the values are not one series of finite numbers, or an argument does not fit them.

    >>> clean([100, 120, 90] * 3 + [0, 0, 90] + [100, 120, 90] * 3, season=3)
    Set aside: 1 tracking gap (2 periods).
    """
    y = np.asarray(values, dtype=float)
    at = values.index if isinstance(values, pd.Series) and isinstance(values.index, pd.PeriodIndex) else None
    require(y.ndim == 1 and not np.isinf(y).any(), f"values has shape {y.shape}: pass one series of finite numbers.")
    require(season >= 1 and int(season) == season, f"season={season} must be a whole number of periods, at least 1.")
    spare = np.zeros(len(y), bool) if expected is None else np.asarray(expected, dtype=bool)
    require(spare.shape == y.shape, f"expected has shape {spare.shape}, values {y.shape}. Give a flag for each period.")
    by_season = {7: "day", 52: "week", 12: "month"}.get(season, "period")
    grain = by_season if at is None else GRAINS.get(at.freqstr[0], "period")
    gap, outlier, usual, breaks = _found(y, int(season), spare, SPANS[grain], SEASONS.get(grain, 0))
    ends = [p for p, *_ in breaks[1:]] + [len(y)]
    names = range(len(y) + 1) if at is None else [*at.start_time.date, None]
    found = [(p, end, "break", after, before) for (p, before, after), end in zip(breaks, ends, strict=False)]
    for kind, flag in (("gap", gap), ("outlier", outlier)):
        found += [(i, j, kind, float(np.mean(y[i:j])), float(np.mean(usual[i:j]))) for i, j in _runs(flag)]
    rows = [(kind, names[i], names[j - 1], j - i, *levels) for i, j, kind, *levels in sorted(found)]
    begin = breaks[-1][0] if breaks else int(np.argmax(np.nan_to_num(y) != 0)) if len(y) else 0
    return Cleaned.of(
        rows, values=np.where(gap | outlier, np.nan, y), since=names[begin],
        n_gap=int(gap.sum()), n_outlier=int(outlier.sum()), grain=grain,
    )  # fmt: skip


def _found(
    y: Floats, season: int, spare: Flags, span: tuple[int, int], year: int
) -> tuple[Flags, Flags, Floats, list[tuple[int, float, float]]]:
    """Gaps, outliers, expectation (n,); breaks as first period, usual value before and after."""
    known = y[np.isfinite(y) & ~spare]
    typical = float(np.median(known)) if len(known) else 0.0
    zero = y <= 0.02 * typical
    alive = np.nan_to_num(y) != 0
    begun, ended = np.logical_or.accumulate(alive), ~np.logical_or.accumulate(alive[::-1])[::-1]
    missing = np.isnan(y) & begun & ~ended
    if len(known) < FEWEST or typical <= 0 or known.min() < 0 or len(_runs(zero & ~spare)) > 2 + 0.01 * len(y):
        return missing, np.zeros(len(y), bool), y, []
    x = np.log(np.where(spare | zero, np.nan, y))
    curve = _season(x, season)
    d = x - curve
    before, after = _lately(d, span[0] // 2), _lately(d[::-1], span[0] // 2)[::-1]
    middle = pd.Series((np.fmin(before, after) + np.fmax(before, after)) / 2)
    level = middle.interpolate(limit_direction="both").to_numpy()
    # on the scale of square roots small counts are as likely far above as far below
    a, b, apart = (2 * np.expm1((d - near) / 2) for near in (before, after, level))
    usual = np.exp(level + curve)
    noise = max(1.4826 * float(pd.Series(apart).abs().median()), LEAST_NOISE)  # robust standard deviation
    low = (y < LOW * usual) & begun & ~spare
    for i, j in _runs(low):  # the longer a run is, the less noise explains it; a lasting one is a level
        low[i:j] = j - i <= span[0] and (1 - LOW) * np.sqrt(j - i) > GAP * noise
    gap = missing | low
    z = np.where((a * b > 0) & ~gap, np.sign(a) * np.minimum(abs(a), abs(b)) / noise, 0.0)  # both sides agree
    outlier = abs(z) > OUTLIER
    outlier[:3] = outlier[-3:] = False  # it may be a new level
    for i, j in _runs(outlier):
        outlier[i:j] = j - i <= 2 and not any(_recurs(z, k, year, span[1]) for k in range(i, j))
    d = np.where(zero, np.log(0.02 * typical) - curve, d)
    d[gap | outlier | spare] = np.nan
    return gap, outlier, usual, _breaks(d, span[0])


def _lately(d: Floats, n: int) -> Floats:
    """Median of what is known of the n values before each, NaN where nothing is."""
    return np.asarray(pd.Series(d).shift().rolling(n, min_periods=1).median())


def _recurs(z: Floats, i: int, year: int, reach: int) -> bool:
    """Whether what stands out at i does so near the same date of another year too."""
    near = [z[max(i + shift - reach, 0) : max(i + shift + reach + 1, 0)] for shift in (-year, year)]
    return year > 0 and bool((np.concatenate(near) * np.sign(z[i]) >= OUTLIER / 2).any())


def _breaks(d: Floats, h: int) -> list[tuple[int, float, float]]:
    """Levels that last h known periods, in logs: first period, usual value before and after.

    The largest changes are taken out one by one; breaks stand out from the largest that is left.
    """
    at = np.flatnonzero(np.isfinite(d))
    left = d = d[at]
    n, most, taken = len(d), min(MOST_BREAKS, len(d) // (4 * h)), list[tuple[int, float]]()
    for _ in range(most + 1 if most else 0):
        p, size = _largest(left, h)
        taken.append((p, size))
        left = left - (np.median(left[p : p + h]) - np.median(left[max(p - h, 0) : p])) * (np.arange(n) >= p)
    few = 1 + h / max(n - 2 * h, 1)  # a short series leaves little to compare with
    least, sizes = [max(STANDS_OUT * few * size, LEAST_BREAK) for _p, size in taken], [size for _p, size in taken]
    count = max((k for k in range(1, most + 1) if min(sizes[:k]) > least[k]), default=0)
    levels = [(p, np.median(d[max(p - h, 0) : p]), np.median(d[p : p + h])) for p, _size in sorted(taken[:count])]
    return [(int(at[p]), float(np.exp(a)), float(np.exp(b))) for p, a, b in levels]


def _largest(d: Floats, h: int) -> tuple[int, float]:
    """Largest change that comes at once (between medians of h / 4) and lasts (of h): where, and how large."""
    inner = np.arange(h, len(d) - h + 1)
    medians = {w: np.median(sliding_window_view(d, w), axis=1) for w in (h, h // 4)}
    lasting, sudden = (m[inner] - m[inner - w] for w, m in medians.items())  # the next w less the last w
    size = np.where(lasting * sudden > 0, np.minimum(abs(lasting), abs(sudden)), 0.0)
    t = int(inner[size.argmax()])
    part, n = d[t - h : t + h], np.arange(1, 2 * h)
    gain = np.cumsum(part - part.mean())[:-1] ** 2 / (n * n[::-1])  # of variance, by a split behind each period
    return t - h + 1 + int(gain.argmax()), float(size.max())


def _season(x: Floats, season: int) -> Floats:
    """Median departure of the same season nearby from its running level; 0 with fewer than three seasons."""
    if season == 1 or len(x) < 3 * season:
        return np.zeros(len(x))
    level = pd.Series(x).rolling(season // 2 * 2 + 1, center=True, min_periods=1).median()
    apart = np.append(x - level, np.full(-len(x) % season, np.nan)).reshape(-1, season)  # one row a season
    curve = pd.DataFrame(apart).rolling(17, center=True, min_periods=1).median()
    return np.asarray(curve.fillna(0)).ravel()[: len(x)]


def _runs(flag: Flags) -> list[tuple[int, int]]:
    """First position of each run of True, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flag, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
