"""Which segments moved otherwise than the rest, and days on which shares of segments shifted: searched, not guessed."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betainc, ndtri, stdtr

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.result import Framed, measure, percent, say
from kpi_helpers.stats import Floats

#: a day's shares are compared with those of so many weeks; so many judged days tell how far they usually lie off
WEEKS, LEAST, MOST = 4, 28, 56
RARE = 0.01  # usual shares are taken to be no smaller
CHI2_MEDIAN = 0.4549  # with one degree of freedom
Cells = Mapping[tuple[str, ...], tuple[Any, pd.DataFrame]]  # dimensions -> number of each leaf's cell, cells by number


class Suspects(Framed):
    """Segments that moved otherwise than the rest, in the order found; the last row, without a name, is all the rest.

    `before` and `after` are ratios, or sums of as many days; `effect` is what a segment adds to the change of the
    whole, mix and rate together: effects add up to it, `share` to 1. `p` is corrected for all cells `tested`.
    """

    columns = ("segment", "before", "after", "effect", "share", "p")

    def sentence(self, language: str = "en") -> str:
        named = []
        for row in self.frame[:-1].itertuples():
            was, now = (measure(v, self.unit, language, self.currency) for v in (row.before, row.after))
            told = {"segment": row.segment, "share": percent(row.share, language, decimals=0)}
            named.append(say("suspects.one", language, before=was, after=now, **told))
        told = {"n": self.tested, "level": percent(self.level, language, decimals=0), "named": "; ".join(named)}
        return say("suspects.sentence" if named else "suspects.none", language, **told)


def find_segments(
    before: pd.DataFrame, after: pd.DataFrame, dimensions: Sequence[str], *, numerator: str, denominator: str = "",
    level: float = 0.05, most: int = 3, inflation: float | None = None,
) -> Suspects:  # fmt: skip
    """Search all cells of one and two dimensions for those that moved otherwise than the rest, relative to their size.

    Score test that a cell changed by the factor common to all, leaf by leaf: shifts between leaves raise no suspicion.
    Bonferroni over all cells is the gate for noise; the top is taken, its rows leave, and so on. Counts vary as Poisson
    or binomial ones, times `inflation`, at least; where rows have a `date`, as they varied over the days before: all
    cells, and by shocks to whole cells. Days are taken as alike and apart: where shares of cells wander from day to day
    or errors are as heavy as Student's with 3 degrees, `level` is missed by up to 2.5 times. McCullagh & Nelder (1989),
    Generalized Linear Models, section 9.3. Parameters: `before` and `after`, rows of sums with the columns
    `dimensions`, `numerator`, `denominator` (none: sums a day or period are compared); `inflation`, needed without
    dates: 1 says that sums are counts of independent things; `level`, chance to name any segment where none differs;
    `most`, segments named at most. Raises `KpiError` if sums are impossible, or have neither days nor inflation to tell
    how they vary.

    >>> rows = pd.DataFrame({"device": ["mobile", "desktop"], "n": [1000, 900], "orders": [50, 45]})
    >>> find_segments(rows, rows.assign(orders=[20, 46]), ["device"], numerator="orders", denominator="n").segment
    ('device = mobile', '')
    """
    x, d, leaves = _periods(before, after, list(dimensions), numerator, denominator)
    counts = bool(denominator) and not (x % 1).any() and bool((x <= d).all())
    need = f"How far {numerator} varies by chance is not known: give rows a day with a column date, or inflation"
    fine = x.shape[1] > 2 or inflation is not None or counts
    require(fine, f"{need} (1 for counts of independent things; money varies more).")
    least = 1.0 if inflation is None else inflation
    require(least >= 1, f"inflation={inflation}: 1 for counts, more for what varies more.")
    cells, found, left = {}, list[tuple[str, Any, float]](), np.ones(len(leaves), bool)
    for names in (list(some) for size in (1, 2) for some in combinations(leaves, size)):
        cells[tuple(names)] = leaves.groupby(names, sort=False).ngroup().to_numpy(), leaves[names].drop_duplicates()
    tested, counted = sum(len(labels) for _code, labels in cells.values()), bool(denominator and (x <= d).all())
    while len(found) < most:
        top = _top(x * left[:, None], d * left[:, None], cells, least, counted, level / tested)
        if not top:
            break
        (code, labels), cell = cells[top[0]], top[1]
        text = ", ".join(f"{name} = {value or '–'}" for name, value in labels.iloc[cell].items())
        found.append((text, hit := left & (code == cell), top[2] * tested))
        left = left & ~hit
    found.append(("", left, np.nan))
    x1, d1, x0, d0 = np.array([[v[hit][:, cut].sum() for cut in (slice(1), slice(1, None)) for v in (x, d)]
                               for _text, hit, _p in found]).T  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        if denominator:
            (r0, s0), (r1, s1) = ((n.sum() / m.sum(), m / m.sum()) for n, m in ((x0, d0), (x1, d1)))
            was, now, effect = x0 / d0, x1 / d1, x1 / d1.sum() - x0 / d0.sum() - (s1 - s0) * (r0 + r1) / 2
        else:
            was, now = x0 * d[0, 0] / d[0, 1:].sum(), x1
            effect = now - was
        share = effect / effect.sum()
    told = {"tested": tested, "level": level, "currency": ""}
    told["unit"] = "share" if counted else "ratio" if denominator else "count"
    texts, _hits, ps = zip(*found, strict=True)
    return Suspects.of(zip(texts, was, now, effect, share, ps, strict=True), **told)


def _periods(
    before: pd.DataFrame, after: pd.DataFrame, by: list[str], numerator: str, denominator: str
) -> tuple[Floats, Floats, pd.DataFrame]:
    """Numerators and denominators (leaves, periods) and the leaves: `after`, then `before` cut into as many days."""
    sums = [numerator, *([denominator] if denominator else [])]
    for at, given in (("before", before), ("after", after)):
        for name in (*by, *sums):
            require_known(name, given.columns, f"{at} has no column {name}.")
    alone = len(by) > 0 and len({*by, *sums, "date"}) == len(by) + len(sums) + 1
    require(alone, f"dimensions={by}: name columns, each once, other than the date and the sums.")
    dated = ["date"] if "date" in before and "date" in after else []
    names: dict[str, Any] = {name: i for i, name in enumerate(by)} | dict(zip(sums, ("x", "d"), strict=False))
    parts = [given[[*names, *dated]].rename(columns=names).assign(at=k) for k, given in enumerate((after, before))]
    rows, held = pd.concat(parts, ignore_index=True), ["x", "d"][: len(sums)]
    rows[held] = _numbers(rows[held])
    rows = rows.dropna(subset=[*held, *dated])
    require(set(rows["at"]) == {0, 1}, "One of the two times has no rows: there is nothing to compare.")
    day = rows.groupby("at")["date"].rank("dense").astype(int) - 1 if dated else 0 * rows["at"]
    period = rows["at"] * (1 + day // (day[rows["at"] == 0].max() + 1))
    cells = {i: rows[i].fillna("").astype(str) for i in range(len(by))}
    rows = rows.assign(period=period, day=day, **{f"by{i}": cell for i, cell in cells.items()})
    table = rows.pivot_table(
        index=[f"by{i}" for i in cells], columns="period", values=held, aggfunc="sum", fill_value=0.0
    )
    days = rows.groupby("period")["day"].nunique().to_numpy(float)
    x = table["x"].to_numpy(float)
    d = table["d"].to_numpy(float) if denominator else np.tile(days, (len(x), 1))
    good = np.isfinite(x + d).all() and (x >= 0).all() and (d >= 0).all()
    require(bool(good), f"{' and '.join(sums)} must be finite and not below 0 in each segment.")
    return x, d, table.index.to_frame(index=False).set_axis(by, axis=1)


def _numbers(values: pd.DataFrame) -> Floats:
    try:
        return np.asarray(values.to_numpy(float))
    except (TypeError, ValueError) as error:
        raise KpiError(f"{', '.join(map(str, values))} must hold numbers: {error}.") from error


@np.errstate(all="ignore")  # what cannot be computed is NaN and never named
def _top(
    x: Floats, d: Floats, cells: Cells, inflation: float, counted: bool, level: float
) -> tuple[tuple[str, ...], int, float] | None:
    """Dimensions, number and p-value of the surest cell below the level, if there is one."""
    # first column: after against all before; the others: each period before against all other ones, for the noise
    kept = x.shape[1] if x.shape[1] > 2 else 1
    x0, d0 = ((v[:, 1:].sum(axis=1, keepdims=True) - np.c_[0 * v[:, :1], v[:, 1:]])[:, :kept] for v in (x, d))
    both, x1, d1 = d0 + d[:, :kept], x[:, :kept], d[:, :kept]
    n, x1, factor = np.where(both > 0, x0 + x1, 0), np.where(both > 0, x1, 0), np.ones(kept)
    for _ in range(40):  # Newton's steps to the factor common to all
        chance = np.nan_to_num(d1 * factor / (d0 + d1 * factor))
        u, v = x1 - n * chance, n * chance * (1 - chance)
        factor = factor * np.exp(np.clip(u.sum(axis=0) / v.sum(axis=0), -2, 2))
    w = v * (1 - np.nan_to_num(n / both)) if counted else v
    leaf = np.stack([u, v, w, n, x1, np.nan_to_num(n * d1 / both)])
    added = [[[np.bincount(code, c, len(labels)) for c in m.T] for m in leaf] for code, labels in cells.values()]
    score, v, w_cell, n, after, alone = np.concatenate(added, axis=2).transpose(0, 2, 1)
    part = v / leaf[1].sum(axis=0)
    plain, shock = w_cell * (1 - 2 * part) + part**2 * w.sum(axis=0), v * (1 - part)
    group = np.repeat(np.arange(len(cells)), [len(labels) for _code, labels in cells.values()])
    past = (v > 1) & (plain > 1e-9 * v) & (np.arange(kept) > 0)
    y = np.where(past, score**2 / plain, np.nan)
    base = max(inflation, np.nanmedian(y) / CHI2_MEDIAN) if past.any() else inflation
    over, unit = (np.bincount(group, np.where(past, m, 0).sum(axis=1)) for m in (y - base, shock**2 / plain))
    shocks = np.nan_to_num(over / unit).clip(0)[group]  # variance of what hits whole cells of these dimensions
    score, v, n, after, alone = (m[:, 0] for m in (score, v, n, after, alone))
    variance = base * plain[:, 0] + shocks * shock[:, 0] ** 2
    # the tail of a binomial count that varies as far: exact where it is small; few days know their noise badly
    mean, few, many = (after - score) / n, v / variance * after, v / variance * (n - after)
    tail = np.fmin(betainc(few, many + 1, mean), betainc(many, few + 1, 1 - mean))
    free = np.array([max(len(cells[name,][1]) - 1 for name in names) for names in cells])[group] * (kept - 2)
    p = 2 * (stdtr(free, ndtri(tail)) if kept > 1 else tail)
    # a cell and all the rest are equally far apart: the one that moved itself; the same rows by fewer dimensions
    far, own = np.abs(score) / np.sqrt(variance), np.abs(np.log((after + 1) / (alone + 1)))
    able = np.flatnonzero((p < level) & np.isfinite(far))
    order = sorted(able, key=lambda i: (-round(far[i] / far[able].max(), 6), -round(own[i], 6), i))
    return (
        (list(cells)[group[order[0]]], order[0] - np.searchsorted(group, group[order[0]]), p[order[0]])
        if order
        else None
    )


def mix_shifts(values: pd.DataFrame, *, season: int = 7) -> pd.DataFrame:
    """Judge the shares of segments on each day against the same weekdays of the four weeks before.

    The distance G = 2 Σ x·log(share / usual share) is held against those of the 56 days before, so that it does not
    matter how far shares usually vary: its cube root is nearly normal (Wilson & Hilferty 1931, PNAS 17:684-688); centre
    and spread are medians, p is Student's. To alarm where ``p < rate / 7`` gives about `rate` false alarm days a week,
    from three things a day on; of money of few, very unequal orders (60 a day, log-normal, sigma 1.2) three times as
    many. Parameters: `values` (days, segments), sums in the order of days, NaN where unknown, below 0 counts as 0;
    `season`, days of a week. Rows ``position, p, segment, expected, observed`` of the days that can be judged: the
    segment whose share lies farthest off, its usual share and that of the day. Raises `KpiError` if `season` is below 1
    or a value is no number.

    >>> days = pd.DataFrame({"a": [50, 51, 49, 50, 48, 52, 50, 51] * 10, "b": 50})
    >>> mix_shifts(pd.concat([days, days[:1] * [3, 1]])).iloc[-1]["segment"]
    'a'
    """
    require(isinstance(season, int) and season >= 1, f"season={season!r}: days of a week, 7 in most data.")
    require(len(values.columns) > 0, "values has no column: give one of each segment.")
    x = pd.DataFrame(np.nan_to_num(_numbers(values)).clip(0), columns=values.columns)
    # four weekdays and one mean day of eight weeks, so that a rare segment that they lacked is no surprise
    usual = sum((x.shift(k * season) for k in range(1, WEEKS + 1)), x.shift().rolling(MOST, min_periods=LEAST).mean())
    share, usual = (v.div(v.sum(axis=1).where(x.sum(axis=1) > 0), axis=0) for v in (x, usual))
    usual = usual.clip(RARE).div(usual.clip(RARE).sum(axis=1), axis=0)
    g = 2 * (x * np.log((share / usual).where(x > 0, 1.0))).sum(axis=1, skipna=False)
    root = np.cbrt(g.where(x.sum(axis=1) > 0))
    past = root.shift().rolling(MOST, min_periods=LEAST)
    spread = past.apply(lambda r: np.nanmedian(np.abs(r - np.nanmedian(r))), raw=True) / ndtri(0.75)
    z = (root - past.median()) / spread.where(spread > 0)
    judged = np.flatnonzero(z.notna())
    p = stdtr(past.count().to_numpy()[judged] / 4, -z.to_numpy()[judged])  # a median deviation knows as much as a third
    share, usual = share.to_numpy()[judged], usual.to_numpy()[judged]
    far = (np.arange(len(judged)), (np.abs(share - usual) / np.sqrt(usual)).argmax(axis=1))
    told = {"position": judged, "p": p, "segment": x.columns[far[1]], "expected": usual[far], "observed": share[far]}
    return pd.DataFrame(told)
