"""Why a KPI changed between two times of a source: daily sums by segment, explained."""

from dataclasses import replace
from datetime import date
from typing import Any

from kpi_helpers.changes import Change, explain_change
from kpi_helpers.errors import require
from kpi_helpers.kpis import daily_sums, kpi
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
        days = daily_sums(data, [k], by=by, since=since, until=until).dropna().groupby(["date", "segment"]).sum()
        x, y = (days[f"{key}__{part}"].unstack(fill_value=0) for part in ("num", "den"))
        sums.append({str(s): (x[s], y[s] / k.scale) for s in x})
    words: dict[str, Any] = {"label": k.name, "currency": data.currency(), "by": by}
    if not all(sum(y.sum() for _x, y in segments.values()) > 0 for segments in sums):
        return Change(**words, unit=k.unit, confidence=confidence)
    return replace(explain_change(*sums, confidence=confidence, unit=k.unit), **words)
