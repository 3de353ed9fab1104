"""Why a ratio changed between two periods: mix and rate that add up exactly, behind a gate for noise."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kpi_helpers import plots
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, measure, number, one_unit, percent, say
from kpi_helpers.stats import Floats, checked_confidence

#: Segments named in the table; segments with fewer denominators come last, and single sums of so few have no interval.
SHOWN, FEWEST = 5, 30
SUMS = ("numerator_before", "denominator_before", "numerator_after", "denominator_after")
#: what is not known of a change without sums
UNKNOWN = dict.fromkeys((
    "before", "after", "total", "total_low", "total_high", "mix", "mix_low", "mix_high", "rate", "rate_low",
    "rate_high", "volume", "numerator_mix", "numerator_rate",
), math.nan)  # fmt: skip


class Change(Framed):
    """Why a ratio changed: shares that shifted between segments (mix), and ratios within them that moved (rate).

    Segments by falling effect, small ones last: their sums, `mix`, `rate`, `low` and `high` of mix + rate. Of the
    whole: `before`, `after`; `total` = `mix` + `rate`, each with ``_low`` and ``_high``; `volume`, `numerator_mix` and
    `numerator_rate` add up to the change of the sum of numerators.
    """

    columns = ("segment", *SUMS, "mix", "rate", "low", "high")

    @property
    def changed(self) -> bool:
        """Whether the change is outside noise; if not, no explanation is needed."""
        return _clear(self.total_low, self.total_high)

    @property
    def simpson(self) -> bool:
        """Whether ratios within segments moved against the total, both outside noise (Simpson's paradox)."""
        return bool(self.changed and _clear(self.rate_low, self.rate_high) and self.rate * self.total < 0)

    def to_frame(self) -> pd.DataFrame:
        return self.frame.assign(total=self.total, total_low=self.total_low, total_high=self.total_high)

    def sentence(self, language: str = "en") -> str:
        told = self.told(language)
        if not self.changed:
            kind = "unknown" if math.isnan(self.total) else "spread" if math.isnan(self.total_low) else "same"
            return say(f"change.{kind}", language, **told)
        clear = {"rate": _clear(self.rate_low, self.rate_high), "mix": _clear(self.mix_low, self.mix_high)}
        why = ", ".join(say(f"change.{key}_{'clear' if clear[key] else 'open'}", language, **told) for key in clear)
        nothing = [key for key in clear if not told[key].strip("0.,") and not clear[key] and any(clear.values())]
        why = say(f"change.no_{nothing[-1]}", language, **told) if nothing else why
        first = self.frame.iloc[0]
        share = (first["mix"] + first["rate"]) / self.total
        told |= {"segment": first["segment"] or "–", "share": percent(share, language, decimals=0), "why": why}
        named = len(self.frame) > 1 and 0 < share <= 1 and _clear(first["low"], first["high"])
        most = say("change.share", language, **told) if named else ""
        flag = say("change.simpson", language, **told) if self.simpson else ""
        return say("change.sentence", language, most=most, flag=flag, **told)

    def drawn(self, language: str) -> str:
        """The bridge from the value before to the one after, as an HTML figure."""
        told, clear = self.told(language), [_clear(self.mix_low, self.mix_high), _clear(self.rate_low, self.rate_high)]
        numbers = [told[key] for key in ("before", "mix", "rate", "after")]
        return plots.drawn_bridge(self, language, told, [self.mix, self.rate], numbers, clear)

    def printed(self, language: str) -> pd.DataFrame:
        """The largest segments, all others and the total; printed numbers add up, down and across."""
        held = self.frame
        sums = held.groupby(held.index.to_numpy().clip(max=SHOWN))[[*SUMS, "mix", "rate"]].sum()
        sums["mix"], sums["rate"] = np.split(self._printed([*sums["mix"], *sums["rate"]]), 2)
        for at in ("before", "after"):
            sums[f"share_{at}"] = _rounded(sums[f"denominator_{at}"] / sums[f"denominator_{at}"].sum(), 3)
        sums.loc["total"] = sums.sum()
        sums["before"] = sums["numerator_before"] / sums["denominator_before"]
        sums["after"] = sums["numerator_after"] / sums["denominator_after"]
        names = [*held["segment"].replace("", "–")[:SHOWN], say("change.others", language, n=len(held) - SHOWN)]
        ranges = [self._range(row.low, row.high, language) for row in held[:SHOWN].itertuples()]
        named = sums.assign(range=[*ranges, "", ""][: len(sums)])
        return named.set_axis([*names[: len(sums) - 1], say("change.total", language)])

    @property
    def _size(self) -> tuple[int, int]:
        """Points of a percentage for a share; decimals of the effects."""
        return (100, 2) if self.unit == "share" else (1, 0 if abs(self.before) >= 100 else 2)

    def _printed(self, effects: Sequence[float]) -> Floats:
        return _rounded(np.array(effects) * self._size[0], self._size[1])

    def step(self, printed: float, language: str) -> str:
        """Write an effect as printed, with its sign."""
        return number(printed, language, decimals=self._size[1], sign=True)

    def _range(self, low: float, high: float, language: str) -> str:
        first, last = (self.step(end * self._size[0], language) for end in (low, high))
        return say("change.range", language, low=first, high=last)

    def told(self, language: str) -> dict[str, str]:
        """The numbers and words of the sentence, written out."""
        by = self.by if self.by in ("channel", "campaign") else "segment"
        kind = say(f"change.{'share' if self.unit == 'share' else 'value'}_words", language).split("|")
        told = {"points": kind[0], "rates": kind[1], "segments": say(f"change.{by}", language)}
        told["unit"] = kind[2] or one_unit(0, self.unit, self.currency, language)[1]
        told["name"] = self.label[language] if self.label else say("change.ratio", language)
        told |= {at: measure(getattr(self, at), self.unit, language, self.currency) for at in ("before", "after")}
        mix, rate = self._printed([self.mix, self.rate])
        for key, printed in {"mix": mix, "rate": rate, "total": mix + rate}.items():
            between = self._range(getattr(self, f"{key}_low"), getattr(self, f"{key}_high"), language)
            told |= {key: self.step(printed, language), f"{key}_range": between}
            words = say(f"change.{'up' if getattr(self, key) > 0 else 'down'}", language).split("|")
            told |= dict(zip((f"{key}_moved", f"{key}_level"), words, strict=True))
        return told | {"size": told["total"].lstrip("+−"), "level": f"{self.confidence:.0%}"}


def explain_change(
    before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]], *, confidence: float = 0.95, unit: str = ""
) -> Change:
    """Explain the change of a ratio of sums by shares that shifted (mix) and ratios within segments that moved (rate).

    With w the share of a segment in the denominators D, r its ratio, R the ratio of all, and means of the two periods
    barred: rate = w̄·Δr, mix = Δw·(r̄ − R̄), and the sum of numerators changes by ΔD·R̄ (volume) + D̄·ΔR, exactly. A
    segment without denominator in one period is all mix. Never add across dimensions. Bennet (1920), Journal of the
    Royal Statistical Society; Cochran (1977), Sampling Techniques, section 6.3. Parameters: `before` and `after`,
    segment -> (numerator, denominator), or lists of them by day, and then the days are the sample; single sums have
    intervals for a share only. `confidence`, coverage of the intervals (delta method, independent periods), in (0, 1).
    `unit`, "share", "ratio" or "money"; a share is assumed where no numerator leaves [0, denominator]. Raises
    `KpiError` if the sums are impossible, or a period has no denominator at all.

    >>> change = explain_change({"1": (50, 1000), "2": (20, 200)}, {"1": (33, 600), "2": (81, 900)})
    >>> round(change.mix, 8), round(change.rate, 8), round(change.volume, 2)
    (0.01841667, -0.00075, 20.15)
    """
    checked_confidence(confidence)
    require(unit in ("", "share", "ratio", "money"), f"unit={unit!r} is not share, ratio or money.")
    names = sorted({*before, *after})
    days = [_read(before, names, "before"), _read(after, names, "after")]
    sums = [_sums(period, names) for period in (before, after)]
    counted = all(((n >= 0) & (n <= d)).all() for n, d in sums)
    unit = unit or ("share" if counted else "ratio")
    (mix, rate), margins = _effects(*sums), _margins(days, counted and unit == "share", confidence)
    (n0, d0), (n1, d1) = (period.sum(axis=1) for period in sums)
    told = {"before": n0 / d0, "after": n1 / d1, "volume": (d1 - d0) * (n0 / d0 + n1 / d1) / 2}
    told |= {"total": (mix + rate).sum(), "mix": mix.sum(), "rate": rate.sum()}
    told |= {f"numerator_{key}": (d0 + d1) / 2 * told[key] for key in ("mix", "rate")}
    for key, margin in zip(("total", "mix", "rate"), margins, strict=False):
        told |= {f"{key}_low": told[key] - margin, f"{key}_high": told[key] + margin}
    both, small = mix + rate, np.maximum(sums[0][1], sums[1][1]) < FEWEST
    columns = (*sums[0], *sums[1], mix, rate, both - margins[3:], both + margins[3:])
    order = sorted(range(len(names)), key=lambda i: (small[i], -abs(both[i])))
    rows = [(names[i], *(float(column[i]) for column in columns)) for i in order]
    whole = {key: float(v) for key, v in told.items()} | {"confidence": confidence, "unit": unit, "currency": ""}
    return Change.of(rows, **whole, label=None, by="")


def _read(given: Mapping[str, Sequence[Any]], names: Sequence[str], at: str) -> Floats:
    """Sums of a period as (numerators and denominators, days, segments); a segment that is absent had nothing."""
    cells: dict[str, Floats] = {}
    for name, cell in given.items():
        try:
            cells[name] = made = np.array([np.atleast_1d(part) for part in cell], dtype=float)
            same = made.shape == (2, next(iter(cells.values())).shape[1])
            good = same and bool(np.isfinite(made).all()) and made[1].sum() >= 0
        except (TypeError, ValueError, OverflowError):
            good = False
        require(good, f"{at}[{name!r}]={cell!r} cannot be (numerator, denominator): need two finite numbers, or two "
                "lists of as many days as the other segments, and no denominator below 0.")  # fmt: skip
    known = any(made[1].sum() > 0 for made in cells.values())
    require(known, f"The change cannot be computed, because the denominators {at} sum to 0.")
    nothing = np.zeros_like(next(iter(cells.values())))
    return np.stack([cells.get(name, nothing) for name in names], axis=-1)


def _sums(given: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Any:
    """The same as exact fractions (2, segments), so that the parts add up to the last digit."""
    cells = [given.get(name, (0, 0)) for name in names]
    parts = [[np.atleast_1d(cell[k]).tolist() for cell in cells] for k in (0, 1)]
    return np.array([[sum(map(Fraction, days), Fraction()) for days in row] for row in parts], dtype=object)


def _effects(before: Any, after: Any) -> tuple[Any, Any]:
    """Mix and rate of each segment, from numerators and denominators (..., segments) of each period."""
    (n, d), (n_after, d_after) = before, after
    size, size_after = d.sum(axis=-1, keepdims=True), d_after.sum(axis=-1, keepdims=True)
    part, part_after, share, share_after = n / size, n_after / size_after, d / size, d_after / size_after
    mean = (part + part_after).sum(axis=-1, keepdims=True) / 2
    both = part_after - part - (share_after - share) * mean
    known = (d.real != 0) & (d_after.real != 0)
    moved = n_after / np.where(known, d_after, 1) - n / np.where(known, d, 1)
    rate = np.where(known, (share + share_after) / 2 * moved, 0 * both)
    return both - rate, rate


@np.errstate(all="ignore")  # what cannot be computed is NaN
def _margins(days: Sequence[Floats], counted: bool, confidence: float) -> Floats:
    """Half-widths of the intervals of total, mix, rate and each segment, by the delta method; NaN if unknown.

    What varies are the days; or the units of single sums, each a success (1, 1) or a failure (0, 1). Exact derivatives:
    that of f along x is the imaginary part of f(sums + i·h·x) / h for a tiny h.
    """
    h, variance, freedom = 1e-30, [], []
    for i, moves in enumerate(days):
        sums, many = [period.sum(axis=1) for period in days], moves.shape[1]
        n, d = sums[i]
        if many > 1:
            weight = np.full(many, many / (many - 1))
        else:
            one, known = np.eye(len(n)), 1 if counted and d.sum() >= FEWEST else math.nan
            moves, weight = np.array([[*one, *(0 * one)], [*one, *one]]), known * np.array([*n, *(d - n)])
        sums[i] = sums[i][:, None] + 1j * h * moves
        mix, rate = _effects(*sums)
        effects = np.column_stack([*(v.sum(axis=1) for v in (mix + rate, mix, rate)), mix + rate])
        variance.append(weight @ (effects.imag / h) ** 2)
        freedom.append(many - 1 or math.inf)
    both = variance[0] + variance[1]
    welch = both**2 / (variance[0] ** 2 / freedom[0] + variance[1] ** 2 / freedom[1])
    return np.asarray(stdtrit(np.fmax(welch, 1), (1 + confidence) / 2) * np.sqrt(both))  # never below 1 but for 0 / 0


def _clear(low: float, high: float) -> bool:
    """Whether an interval leaves out zero."""
    return low > 0 or high < 0


def _rounded(values: Any, decimals: int) -> Floats:
    """Round the running sums, not the values, so that printed columns add up; each is off by less than one digit."""
    return np.diff(np.round(np.cumsum([0, *values]), decimals))
