"""Why a KPI changed between two times of a source: daily sums by segment, explained."""

import math
from datetime import date
from typing import Any, ClassVar

from scipy.special import stdtrit

from kpi_helpers import plots
from kpi_helpers.catalogue import declared
from kpi_helpers.changes import UNKNOWN, Change, explain_change
from kpi_helpers.errors import require
from kpi_helpers.kpis import daily_sums, feeds, kpi
from kpi_helpers.result import Framed, measure, number, one_unit, say
from kpi_helpers.sources import Source

Days = tuple[date, date]  # the first and the last


def explain(
    data: Source, key: str, *, by: str = "channel", before: Days, after: Days, confidence: float = 0.95
) -> Change:
    """Explain the change of a ratio KPI between two times, each (first day, last day), by one dimension.

    Days are the sample, so that a change within the usual difference of days needs no explanation. Raises a `KpiError`
    if the KPI is a sum, or the two times overlap.
    """
    k = kpi(key)
    require(not k.additive, f"{key} is a sum: it has no mix or rate. Explain a ratio, such as ctr_ad or aov.")
    require(before[1] < after[0], f"before={before} must end before after={after} begins.")
    sums = []
    for since, until in (before, after):
        days = daily_sums(data, [k], by=by, since=since, until=until).dropna()
        tables = {"index": "date", "columns": "segment", "aggfunc": "sum", "fill_value": 0}
        x, y = (days.pivot_table(values=f"{key}__{part}", **tables) for part in ("num", "den"))
        sums.append({str(s): (x[s], y[s] / k.scale) for s in x})
    words: dict[str, Any] = {"label": k.name, "currency": data.currency(), "by": by}
    if not all(sum(y.sum() for _x, y in segments.values()) > 0 for segments in sums):
        return Change.of([], **UNKNOWN, **words, unit=k.unit, confidence=confidence)
    found = explain_change(*sums, confidence=confidence, unit=k.unit)
    return Change(frame=found.frame, whole={**found.whole, **words})


class SumChange(Framed):
    """Why a sum changed: more or fewer units (volume), units that shifted between segments (mix), values within (rate).

    `after` - `before` = `total` = `volume` + `mix` + `rate`, in the unit of the sum; its interval from how days differ.
    `ratio` is the KPI of the values, empty where the source has none for this sum, and then nothing is split.
    """

    aside: ClassVar = ("why", "currency")

    @property
    def split(self) -> bool:
        """Whether the change is outside noise and can be split."""
        return self.why is not None and bool(self.total_low * self.total_high > 0)

    def told(self, language: str) -> dict[str, str]:
        """Names and numbers of the sentence, written out."""
        k, moves = kpi(self.kpi), ("total", "total_low", "total_high", "volume", "mix", "rate")
        values = {field: getattr(self, field) for field in ("before", "after", *moves)}
        told = {field: measure(value, k.unit, language, self.currency) for field, value in values.items()}
        told |= {field: "+" + told[field] for field in moves if values[field] > 0}
        if self.why:
            told |= {"ratio": kpi(self.ratio).name[language], "segments": self.why.told(language)["segments"]}
        return told | {"name": k.name[language], "level": f"{self.confidence:.0%}"}

    def sentence(self, language: str = "en") -> str:
        known = math.isfinite(self.total)
        kind = "split" if self.split else "unknown" if not known else "whole" if self.why is None else "same"
        return say(f"sum_change.{kind}", language, **self.told(language))

    def drawn(self, language: str) -> str:
        """The bridge from the sum before to the one after, as an HTML figure."""
        told, steps, why = self.told(language), [self.volume, self.mix, self.rate], self.why
        largest = max(abs(self.before), abs(self.after))
        size, told["unit"] = one_unit(largest, kpi(self.kpi).unit, self.currency, language)
        first, last = (number(end / size, language) for end in (self.before, self.after))
        numbers = [first, *(number(step / size, language, sign=True) for step in steps), last]
        clear = [True, why.mix_low * why.mix_high > 0, why.rate_low * why.rate_high > 0]  # both ends beside zero
        return plots.drawn_bridge(self, language, told, steps, numbers, clear)


def explain_sum(
    data: Source, key: str, *, by: str = "channel", before: Days, after: Days, confidence: float = 0.95
) -> SumChange:
    """Explain the change of a sum by the first ratio of the catalogue that it is the numerator of, such as revenue by
    average order value; the two times need as many days. Raises a `KpiError` if the KPI is a ratio.
    """
    k, times, lacking = kpi(key), (before, after), feeds(data)
    require(k.additive, f"{key} is no sum. Explain it with explain.")
    ratio = [o.id for o in declared().values() if o.numerator == k.numerator and o.denominator and not lacking[o.id]
             and o.tables == {"channel_daily"} and o.scale == 1]  # fmt: skip
    sums = [daily_sums(data, [k], since=a, until=b)[f"{key}__num"].dropna() for a, b in times]
    was, now = (float(s.sum()) if len(s) else math.nan for s in sums)
    free = sum(len(s) - 1 for s in sums)
    spread = math.sqrt(sum(len(s) * s.var() for s in sums)) if free > 0 else math.nan
    margin = stdtrit(max(free, 1), (1 + confidence) / 2) * spread
    told: dict[str, Any] = {"kpi": key, "ratio": "", "before": was, "after": now, "total": now - was}
    told |= {"total_low": now - was - margin, "total_high": now - was + margin}
    told |= dict.fromkeys(("volume", "mix", "rate"), math.nan)
    told |= {"confidence": confidence, "why": None, "currency": data.currency()}
    for other in ratio if math.isfinite(now - was) else ():
        why = explain(data, other, by=by, before=before, after=after, confidence=confidence)
        parts = {"volume": why.volume, "mix": why.numerator_mix, "rate": why.numerator_rate}
        if math.isclose(sum(parts.values()), now - was, rel_tol=1e-6, abs_tol=1e-6):  # the ratio knows all of the sum
            told |= {"ratio": other, "why": why, **parts}
            break
    return SumChange.of([()], **told)
