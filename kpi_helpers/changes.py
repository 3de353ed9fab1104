"""Why a ratio changed between two periods: mix and rate that add up exactly, behind a gate for noise."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kpi_helpers import plots
from kpi_helpers.errors import require
from kpi_helpers.result import Result, Text, measure, number, one_unit, percent, say, table
from kpi_helpers.stats import Floats, checked_confidence

#: Segments named in the table; one with fewer denominators in both periods is never named, and so few have no interval.
SHOWN, FEWEST = 5, 30
TIMES = ("before", "after")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Change(Result):
    """Why a ratio changed: shares that shifted between segments (mix), and ratios within them that moved (rate).

    Attributes
    ----------
    segment, segment_mix, segment_rate, segment_low, segment_high : tuple
        Segments by falling effect, small ones last; effects in the unit of the ratio, interval of mix + rate.
    numerator_before, denominator_before, numerator_after, denominator_after : tuple of float
        Sums of each segment.
    before, after, total, mix, rate : float
        The ratio; after - before = total = mix + rate, with intervals; NaN where they cannot be computed.
    other_low, other_high : float
        Interval of mix + rate of the segments after the first `shown`, taken together.
    volume, numerator_mix, numerator_rate, numerator_total : float
        The same for the sum of numerators, in its own unit: volume + mix + rate = total.
    unit, currency, label, by : str
        Unit, currency and name of the ratio, and dimension of the segments, for the words.
    """

    segment: tuple[str, ...] = ()
    numerator_before: tuple[float, ...] = ()
    denominator_before: tuple[float, ...] = ()
    numerator_after: tuple[float, ...] = ()
    denominator_after: tuple[float, ...] = ()
    segment_mix: tuple[float, ...] = ()
    segment_rate: tuple[float, ...] = ()
    segment_low: tuple[float, ...] = ()
    segment_high: tuple[float, ...] = ()
    before: float = math.nan
    after: float = math.nan
    total: float = math.nan
    total_low: float = math.nan
    total_high: float = math.nan
    mix: float = math.nan
    mix_low: float = math.nan
    mix_high: float = math.nan
    rate: float = math.nan
    rate_low: float = math.nan
    rate_high: float = math.nan
    other_low: float = math.nan
    other_high: float = math.nan
    volume: float = math.nan
    numerator_mix: float = math.nan
    numerator_rate: float = math.nan
    numerator_total: float = math.nan
    shown: int = 0
    confidence: float
    unit: str
    currency: str = ""
    label: Text | None = None
    by: str = ""

    @property
    def changed(self) -> bool:
        """Whether the change is outside noise; if not, no explanation is needed."""
        return _clear(self.total_low, self.total_high)

    @property
    def simpson(self) -> bool:
        """Whether ratios within segments moved against the total, both outside noise (Simpson's paradox)."""
        return self.changed and _clear(self.rate_low, self.rate_high) and self.rate * self.total < 0

    @property
    def against(self) -> list[bool]:
        """For each segment, whether it clearly moved against the total."""
        ends = zip(self.segment_low, self.segment_high, strict=True)
        return [self.changed and _clear(low, high) and low * self.total < 0 for low, high in ends]

    def to_frame(self) -> pd.DataFrame:
        """One row a segment: its sums, mix, rate, interval of both together; beside them the ratio of all."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "label"}
        columns = {name.removeprefix("segment_"): v for name, v in held.items() if isinstance(v, tuple)}
        keys = ("before", "after", "total", "total_low", "total_high", "confidence")
        return pd.DataFrame(columns).assign(against=self.against, **{key: held[key] for key in keys})

    def sentence(self, language: str = "en") -> str:
        """Whether the ratio changed, by how much and why; no direction whose interval includes zero."""
        told = self._told(language)
        if not self.changed:
            kind = "unknown" if math.isnan(self.total) else "spread" if math.isnan(self.total_low) else "same"
            return say(f"change.{kind}", language, **told)
        clear = {"rate": _clear(self.rate_low, self.rate_high), "mix": _clear(self.mix_low, self.mix_high)}
        why = ", ".join(say(f"change.{key}_{'clear' if clear[key] else 'open'}", language, **told) for key in clear)
        for key, other, printed in zip(("mix", "rate"), ("rate", "mix"), self._steps(), strict=True):
            if clear[other] and not clear[key] and not printed:
                why = say(f"change.no_{key}", language, **told)
        share, most = (self.segment_mix[0] + self.segment_rate[0]) / self.total, ""
        if self.shown and len(self.segment) > 1 and _clear(self.segment_low[0], self.segment_high[0]):
            told |= {"segment": self.segment[0] or "–", "share": percent(share, language, decimals=0)}
            most = say(f"change.{'share' if 0 < share <= 1 else 'most'}", language, **told)
        flag = say("change.simpson", language, **told) if self.simpson else ""
        return say("change.sentence", language, why=why, most=most, flag=flag, **told)

    def html(self, language: str = "en") -> str:
        """Sentence, bridge and table; the sentence alone where there is nothing to explain."""
        said, told = self.sentence(language), self._told(language)
        if not self.changed:
            return f"<p>{html.escape(said)}</p>"
        steps, words = [[told[k], told[f"{k}_range"]] for k in ("mix", "rate")], say("change.bars", language, **told)
        numbers = [told["before"], *map("\n".join, steps), told["after"]]
        folded = ["\n".join(text.rsplit(" ", 1)) for text in numbers]  # the phone has no room for a range in one line
        clear = [_clear(self.mix_low, self.mix_high), _clear(self.rate_low, self.rate_high)]
        bars = (self.before, [self.mix, self.rate], words.split("|"))
        drawn = plots.chart(
            lambda axes, narrow: plots.bridge(axes, *bars, told=folded if narrow else numbers, clear=clear),
            title=say("change.title", language, **told), note=say("change.bridge", language, **told), alt=said,
        )  # fmt: skip
        return f"<p>{html.escape(said)}</p>{drawn}{self._table(language, told)}"

    def _table(self, language: str, told: dict[str, str]) -> str:
        """The largest segments, all others and the total; printed steps add up, down and across."""
        held = self.to_frame()
        rows = held.groupby(np.minimum(held.index, self.shown))
        sums, size = rows[[*held.columns[1:5], "mix", "rate"]].sum(), self._points * 10**self._decimals
        steps = [_parts(sums[key] * size, whole) for key, whole in zip(("mix", "rate"), self._steps(), strict=True)]
        shares = [_parts(sums[f"denominator_{at}"] / sums[f"denominator_{at}"].sum() * 1000, 1000) for at in TIMES]
        flag = f"<small>{say('change.against', language)}</small>"
        names = [html.escape(part["segment"].iloc[0] or "–") + flag * bool(part["against"].iloc[0])
                 if len(part) == 1 else say("change.others", language, n=len(part)) for _i, part in rows]  # fmt: skip
        ends = [*zip(self.segment_low, self.segment_high, strict=True)][: self.shown]
        ends = [*[*ends, (self.other_low, self.other_high)][: len(names)], (self.total_low, self.total_high)]
        sums.loc[len(sums)] = sums.sum()
        ratios = [sums[f"numerator_{at}"] / sums[f"denominator_{at}"] for at in TIMES]
        lines = [
            [name, " → ".join(percent(s / 1000, language) for s in share),
             " → ".join(self._level(r, language) for r in ratio), *(self._step(s, language) for s in step),
             f"{self._step(sum(step), language)}<small>{self._range(*end, language)}</small>"]
            for name, share, ratio, step, end in zip(
                [*names, say("change.total", language)], zip(*([*s, sum(s)] for s in shares), strict=True),
                zip(*ratios, strict=True), zip(*([*s, sum(s)] for s in steps), strict=True), ends, strict=True)
        ]  # fmt: skip
        heads, caption, note = (say(f"change.{key}", language, **told) for key in ("heads", "caption", "note"))
        return table(heads.split("|"), lines, caption=caption, note=note, total=True, numeric=range(1, 6))

    @property
    def _points(self) -> int:
        return 100 if self.unit == "share" else 1

    @property
    def _decimals(self) -> int:
        """Two figures of the larger effect; points have at least one decimal."""
        largest = max(map(abs, (self.total, self.mix, self.rate))) * self._points
        return max(1 - math.floor(math.log10(largest)) if largest > 1e-9 else 0, int(self.unit == "share"))

    def _steps(self) -> list[int]:
        """Mix and rate in units of the last printed digit; they add up to the printed total."""
        size = self._points * 10**self._decimals
        return _parts([self.mix * size, self.rate * size], _nearest(self.total * size))

    def _step(self, units: int, language: str) -> str:
        return number(units / 10**self._decimals, language, decimals=self._decimals, sign=True)

    def _level(self, value: float, language: str) -> str:
        if self.unit == "share":
            return percent(value, language, decimals=self._decimals)
        return measure(value, self.unit, language, self.currency)

    def _range(self, low: float, high: float, language: str) -> str:
        decimals = self._decimals  # a bound that is clear of zero is not printed as zero
        while _clear(low, high) and min(abs(low), abs(high)) * self._points * 10**decimals < 0.5 and decimals < 9:
            decimals += 1
        first, last = (number(v * self._points, language, decimals=decimals, sign=True) for v in (low, high))
        return say("change.range", language, low=first, high=last)

    def _told(self, language: str) -> dict[str, str]:
        """The numbers and words of the sentence, written out."""
        told = {"name": self.label[language] if self.label else say("change.ratio", language)}
        if math.isnan(self.total):
            return told
        by = say(f"change.{self.by if self.by in ('channel', 'campaign') else 'segment'}", language)
        kind = say(f"change.{'share' if self.unit == 'share' else 'value'}_words", language).split("|")
        told |= {"points": kind[0], "rates": kind[1], "segments": by, "level": f"{self.confidence:.0%}"}
        told["unit"] = kind[2] or one_unit(0, self.unit, self.currency, language)[1]
        told |= {"before": self._level(self.before, language), "after": self._level(self.after, language)}
        steps = self._steps()
        for key, units in zip(("mix", "rate", "total"), (*steps, sum(steps)), strict=True):
            between = self._range(getattr(self, f"{key}_low"), getattr(self, f"{key}_high"), language)
            moved, level = say(f"change.{'up' if getattr(self, key) > 0 else 'down'}", language).split("|")
            told |= {key: self._step(units, language), f"{key}_range": between}
            told |= {f"{key}_moved": moved, f"{key}_level": level}
        return told | {"size": told["total"].lstrip("+−")}


def explain_change(
    before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]], *, confidence: float = 0.95, unit: str = ""
) -> Change:
    """Explain the change of a ratio of sums by shares that shifted (mix) and ratios within segments that moved (rate).

    With w the share of a segment in the denominators D, r its ratio, R the ratio of all, and means of the two
    periods barred: rate = w̄·Δr, mix = Δw·(r̄ − R̄), and the sum of numerators changes by ΔD·R̄ (volume) + D̄·ΔR.
    Both add up exactly. A segment without denominator in one period is all mix. Never add across dimensions.

    Parameters
    ----------
    before, after : mapping of segment -> (numerator, denominator) or (numerator, denominator, se)
        Sums, or lists of them by day, and then days are the sample; `se` is the standard error of the ratio.
        A share takes the wider of that and the binomial; sums of other ratios have no interval without `se`.
    confidence : float
        Coverage of the intervals (delta method, independent periods), in (0, 1).
    unit : {"share", "ratio", "money"}, optional
        A share counts units out of units; assumed where no numerator leaves [0, denominator].

    Raises
    ------
    KpiError
        If the sums are impossible, or a period has no denominator at all.

    References
    ----------
    Bennet (1920), J. R. Stat. Soc. 83:455-462, for midpoints; Cochran (1977), Sampling Techniques, section 6.3.

    Examples
    --------
    >>> change = explain_change({"1": (50, 1000), "2": (20, 200)}, {"1": (33, 600), "2": (81, 900)})
    >>> round(change.mix, 8), round(change.rate, 8), round(change.volume, 2)
    (0.01841667, -0.00075, 20.15)
    """
    checked_confidence(confidence)
    require(unit in ("", "share", "ratio", "money"), f"unit={unit!r} is not share, ratio or money.")
    names = sorted({*before, *after})
    read = [_read(given, names, at) for given, at in zip((before, after), TIMES, strict=True)]
    n, d = (np.stack([sums[i].sum(axis=0) for sums in read]) for i in (0, 1))  # (periods, segments), exact
    unit = unit or ("share" if ((n >= 0) & (n <= d)).all() else "ratio")
    mix, rate = _effects(n, d)
    effect, small = mix + rate, d.max(axis=0) < FEWEST
    order = sorted(range(len(names)), key=lambda i: (small[i], -abs(effect[i]), names[i]))
    shown = min(SHOWN, len(names) - int(small.sum()))
    rest = np.array(order[shown:], dtype=int)
    values = np.array([effect.sum(), mix.sum(), rate.sum(), effect[rest].sum(), *effect], dtype=float)
    margins = _margins(read, n, d, rest, unit == "share", confidence)
    columns = {"segment_mix": mix, "segment_rate": rate}
    columns |= {f"numerator_{at}": n[i] for i, at in enumerate(TIMES)}
    columns |= {f"denominator_{at}": d[i] for i, at in enumerate(TIMES)}
    top, size = (sums.sum(axis=1) for sums in (n, d))
    told = {"total": effect.sum(), "mix": mix.sum(), "rate": rate.sum()}
    told |= {"before": top[0] / size[0], "after": top[1] / size[1], "numerator_total": top[1] - top[0]}
    told |= {f"numerator_{key}": size.sum() / 2 * told[key] for key in ("mix", "rate")}
    told["volume"] = (size[1] - size[0]) * (told["before"] + told["after"]) / 2
    for end, bound in (("low", values - margins), ("high", values + margins)):
        told |= {f"{key}_{end}": bound[i] for i, key in enumerate(("total", "mix", "rate", "other"))}
        columns[f"segment_{end}"] = bound[4:]
    record: dict[str, Any] = {key: tuple(float(v[i]) for i in order) for key, v in columns.items()}
    record |= {key: float(v) for key, v in told.items()}
    return Change(segment=tuple(names[i] for i in order), shown=shown, confidence=confidence, unit=unit, **record)


def _read(given: Mapping[str, Sequence[Any]], names: Sequence[str], at: str) -> tuple[Any, Any, Floats]:
    """Numerators and denominators (days, segments) as exact fractions, errors of the ratios; the absent had nothing."""
    days = max((np.size(cell[0]) for cell in given.values() if isinstance(cell, list | tuple) and cell), default=1)
    columns: list[Any] = []
    for name in names:
        cell = given.get(name, ([0] * days, [0] * days))
        try:
            x, y, *se = ([Fraction(v) for v in np.atleast_1d(part).astype(object)] for part in cell)
            good = len(x) == len(y) == days and sum(y) >= 0 and len(se) <= 1 and all(e[0] >= 0 for e in se)
        except (TypeError, ValueError, OverflowError):
            good = False
        require(good, f"{at}[{name!r}]={cell!r} cannot be (numerator, denominator): need two finite numbers, or two "
                f"lists of {days}, and no denominator below 0.")  # fmt: skip
        columns.append((x, y, float(se[0][0]) if se else math.nan))
    tops, sizes = (np.array([c[i] for c in columns], dtype=object).T for i in (0, 1))
    require(sizes.sum() > 0, f"The change cannot be computed, because the denominators {at} sum to 0.")
    return tops, sizes, np.array([c[2] for c in columns])


def _effects(n: Any, d: Any) -> tuple[Any, Any]:
    """Mix and rate of each segment from sums (2, segments); fractions in, fractions out."""
    size = d.sum(axis=1, keepdims=True)
    part, share, ratio = n / size, d / size, n / np.where(d == 0, 1, d)
    both = part[1] - part[0] - (share[1] - share[0]) * part.sum() / 2
    rate = np.where((d != 0).all(axis=0), (share[0] + share[1]) / 2 * (ratio[1] - ratio[0]), 0 * both)
    return both - rate, rate


@np.errstate(all="ignore")  # what cannot be computed is NaN
def _margins(read: Sequence[Any], n: Any, d: Any, rest: Any, share: bool, confidence: float) -> Floats:
    """Half-widths of total, mix, rate, the rest together and each segment; NaN where no spread is known."""
    n, d = n.astype(float), d.astype(float)
    variance = weight = np.zeros(4 + len(n[0]))
    for i, (x, y, se) in enumerate(read):
        ratio, days, one = n[i] / np.where(d[i] > 0, d[i], 1), len(x), np.eye(len(se))
        counted = (n[i] >= 0) & (n[i] <= d[i]) & share & (d[i].sum() >= FEWEST)
        error = np.where(np.isnan(se), np.where(counted, n[i] * (1 - ratio), np.nan) ** 0.5, d[i] * se)
        error = np.where(d[i] > 0, error, 0)
        # a unit of a segment shifts the shares by one; the error of its ratio comes on top
        by_unit = d[i] @ _moves(ratio * one, one, n, d, i, rest) ** 2
        by_unit = by_unit + (_moves(error * one, 0 * one, n, d, i, rest) ** 2).sum(axis=0)
        by_day = (_moves(x.astype(float), y.astype(float), n, d, i, rest) ** 2).sum(axis=0)
        by_day = by_day * days / (days - 1) if days > 1 else by_unit * np.nan
        wider = np.fmax(by_unit, by_day)
        variance = variance + wider
        weight = weight + np.where(wider == by_day, wider**2 / max(days - 1, 1), 0)
    # no weight: the normal quantile
    t = stdtrit(np.where(weight > 0, variance**2 / weight, np.inf), (1 + confidence) / 2)
    return np.asarray(t * np.sqrt(variance), dtype=float)


def _moves(x: Floats, y: Floats, n: Floats, d: Floats, i: int, rest: Any) -> Floats:
    """What each row of sums (rows, segments) of period `i` moves the effects by, to first order."""
    size, safe, sign = d.sum(axis=1)[:, None], np.where(d > 0, d, 1), 2 * i - 1
    part, share, ratio, rows = n / size, d / size, n / safe, y.sum(axis=1, keepdims=True)
    of_part, of_share = (x - part[i] * rows) / size[i], (y - share[i] * rows) / size[i]
    of_ratio = (x - ratio[i] * y) / safe[i]
    both = sign * (of_part - part.sum() / 2 * of_share) - (share[1] - share[0]) / 2 * of_part.sum(axis=1, keepdims=True)
    rate = sign * share.mean(axis=0) * of_ratio + (ratio[1] - ratio[0]) / 2 * of_share
    rate = np.where((d > 0).all(axis=0), rate, 0)
    return np.column_stack([*(v.sum(axis=1) for v in (both, both - rate, rate, both[:, rest])), both])


def _clear(low: float, high: float) -> bool:
    """Whether an interval leaves out zero."""
    return low > 0 or high < 0


def _nearest(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _parts(values: Sequence[float], whole: int) -> list[int]:
    """Round to whole numbers that sum to `whole`: the largest remainders go up first, ties to the earlier."""
    parts = [math.floor(v) for v in values]
    each, more = divmod(whole - sum(parts), len(parts))
    first = sorted(range(len(parts)), key=lambda i: (parts[i] - values[i], i))[:more]
    return [part + each + (i in first) for i, part in enumerate(parts)]
