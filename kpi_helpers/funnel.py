"""One door to funnels: which step of which segment fell, and what setting it right returns; and how funnels are read.

`read_steps` follows cohorts in the engine (`stages` makes events of a table of leads), `by_month` and `time_to_step`
read them further; `find_breaks` compares two months of entry.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kpi_helpers.contrasts import rates
from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Framed, Result, labelled_pill, month, number, percent, say
from kpi_helpers.stats import Floats, corrected, rate_difference, wilson
from kpi_helpers.steps import Funnel, by_month, covered, depths, read_steps, stages, step_name, time_to_step

EXPECTED = 5  # units, below which the score test raises too many alarms
LEAST = 0.1  # of its rate a step must lose to count as broken: with many units a trifle is clear, too
__all__ = ["Diagnosis", "by_month", "covered", "find_breaks", "read_steps", "stages", "time_to_step", "worth_fixing"]


class Breaks(Framed):
    """Steps of each segment in two months of entry: rates `was` and `now`, and p over all of them by Holm.

    The interval of the difference belongs to that decision; `broken` fell clearly. `returns`: how many more would reach
    the `last` step at the rate of before, later steps as now. Largest first.
    """

    columns: ClassVar = (
        "group", "previous", "step", "was", "was_n", "now", "now_n", "difference", "low", "high", "p", "broken",
        "returns", "returns_low", "returns_high",
    )  # fmt: skip
    ways: ClassVar = {"step_name": step_name, "labelled_pill": labelled_pill}
    expected: ClassVar = EXPECTED

    @property
    def found(self) -> pd.DataFrame:
        """The steps that broke."""
        return self.frame[self.frame["broken"]]

    def named(self, row: Any, language: str) -> str:
        """A step with its segment."""
        way = " → ".join(step_name(s, language) for s in (row["previous"], row["step"]))
        return f"{way} ({row['group']})" if row["group"] else way

    def months(self, language: str) -> tuple[str, ...]:
        """Both months as they are written."""
        return tuple(month(pd.Timestamp(at), language) for at in (self.before, self.after))

    def told(self, language: str) -> dict[str, str]:
        """Words of the sentences: how many reached the last step, in which months."""
        told = {k: number(self.whole[k], language) for k in ("last_was", "last_now")}
        told |= dict(zip(("before", "after"), self.months(language), strict=True))
        return told | {"last": step_name(self.last, language)}

    def broke(self, language: str) -> str:
        """What broke, by how much, and what setting it right returns."""
        parts = []
        for _i, row in self.found.iterrows():
            rate = {k: percent(row[k], language) for k in ("was", "now")}
            back = {k: number(row[k], language) for k in ("returns", "returns_low", "returns_high")}
            parts.append(say("breaks.one", language, step=self.named(row, language), **rate, **back))
        kind = "broke" if parts else "none"
        return say(f"breaks.{kind}", language, parts="; ".join(parts), k=len(parts), n=self.n)

    def sentence(self, language: str = "en") -> str:
        if not len(self.frame):
            return say("breaks.alone", language)
        return f"{say('breaks.sentence', language, **self.told(language))} {self.broke(language)}"


def find_breaks(funnel: Funnel, *, after: str | None = None, before: str | None = None) -> Breaks:
    """Tell which step of which segment fell from one month of entry to another, and what setting it right returns.

    Parameters: `after`, a month as YYYY-MM, by default the last whose windows are all over; `before`, by default the
    one before it. Every step of every segment is tested (score test) unless too few units are expected; Holm's method
    keeps the chance of any false alarm. Empty if only one month can be read. Raises `KpiError` if a month asked for has
    no units whose window is over, or the two are not in order.
    """
    at = funnel.counts["month"].astype(str).str[:7]
    closed = sorted(set(at[funnel.counts["open"] == 0]))
    over = pd.Timestamp(funnel.until) - pd.Timedelta(funnel.window_days - 1, "D")  # of those who entered before it
    after = str(
        after or max((m for m in closed if (pd.Period(m) + 1).start_time <= over), default=closed[-1:] or "none")
    )
    before = str(before or max((m for m in closed if m < after), default=""))
    if not before:
        return Breaks.of(
            (), before="", after=after, by=funnel.by, last=funnel.steps[-1], n=0, confidence=funnel.confidence
        )
    for asked in (before, after):
        require_known(asked, closed, f"No unit that entered in {asked} has its window behind it.")
    require(before < after, f"before={before} must be earlier than after={after}.")
    tables = []
    for asked in (before, after):
        names, n = depths(funnel.counts[at == asked], len(funnel.steps), "group" if funnel.by else "")
        tables.append(pd.DataFrame(n, index=names))
    groups = [g for g in dict.fromkeys([*tables[1].index, *tables[0].index]) if g or not funnel.by]
    was, now = (t.reindex(groups, fill_value=0).to_numpy() for t in tables)
    x0, n0, x1, n1 = was[:, 1:], was[:, :-1], now[:, 1:], now[:, :-1]
    common = (x0 + x1) / np.where(n0 + n1 > 0, n0 + n1, np.nan)
    expected = np.minimum(n0, n1) * np.minimum(common, 1 - common)
    tested = np.where(expected >= EXPECTED, rates((x0, n0), (x1, n1)).p_value, np.nan)
    p, level = corrected(tested.ravel(), alpha=1 - funnel.confidence)
    found = rates((x0, n0), (x1, n1), alpha=level.reshape(x0.shape))
    later = [np.where(x1 > 0, *ends) for ends in ((now[:, -1:], was[:, -1:]), (x1, x0))]  # none came: as before
    options: dict[str, Any] = {"confidence": funnel.confidence}
    cut, end = np.s_[:, :-1], np.s_[:, -1:]
    inner = worth_fixing((x0[cut], n0[cut]), (x1[cut], n1[cut]), (later[0][cut], later[1][cut]), **options)
    last = worth_fixing((x0[end], n0[end]), (x1[end], n1[end]), **options)
    back = [np.hstack(both).ravel() for both in zip(inner, last, strict=True)]
    broken = (p < 1 - funnel.confidence) & (found.difference <= -LEAST * found.control_value).ravel()
    steps = [list(funnel.steps[cut]) * len(groups) for cut in (slice(None, -1), slice(1, None))]
    cells = (found.control_value, n0, found.treatment_value, n1, found.difference, *found[3:5])
    columns = [np.repeat(groups, len(funnel.steps) - 1), *steps, *(c.ravel() for c in cells), p, broken, *back]
    order = np.lexsort((-np.nan_to_num(back[0], nan=-np.inf), ~broken))
    whole = {"before": before, "after": after, "by": funnel.by, "last": funnel.steps[-1], "n": len(p)} | options
    whole |= {f"last_{k}": int(t.loc["", len(funnel.steps) - 1]) for k, t in zip(("was", "now"), tables, strict=True)}
    frame = pd.DataFrame(dict(zip(Breaks.columns, columns, strict=True))).iloc[order].reset_index(drop=True)
    return Breaks(frame=frame, whole=whole)


def worth_fixing(
    was: tuple[ArrayLike, ArrayLike], now: tuple[ArrayLike, ArrayLike],
    later: tuple[ArrayLike, ArrayLike] | None = None, *, confidence: float = 0.95,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """How many more units reach the end if one step takes its rate of before and the steps after it stay as they are.

    Parameters: (successes, trials) of the step `was` and `now`, and of all steps `later` together, counts of one shape;
    after the last step there are none. Result: the number and its interval. The units that enter the step now are
    given; the errors of the difference of the two rates (Newcombe) and of the later rate (Wilson) add up in squares,
    each by the slope of the product (after Zou & Donner 2008, Statistics in Medicine 27:1693-1702).

    >>> [round(float(v)) for v in worth_fixing((80, 100), (400, 1000), (100, 400))]
    [100, 72, 126]
    """
    (x0, n0), (x1, n1) = ((np.asarray(a, float) for a in pair) for pair in (was, now))
    low, high = rate_difference((x0, n0), (x1, n1), confidence=confidence)
    d = x0 / np.where(n0 > 0, n0, np.nan) - x1 / np.where(n1 > 0, n1, np.nan)
    share, below, above = 1.0 + 0 * d, 0 * d, 0 * d
    if later:
        x, n = (np.asarray(a, float) for a in later)
        share = x / np.where(n > 0, n, np.nan)
        ends = wilson(x, n, confidence=confidence)
        below, above = share - ends[0], ends[1] - share
    below, above = np.where(d >= 0, below, above), np.where(d >= 0, above, below)
    down, up = np.hypot(share * (d - low), d * below), np.hypot(share * (high - d), d * above)
    return n1 * d * share, n1 * (d * share - down), n1 * (d * share + up)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diagnosis(Result):
    """What fell and what it costs (`breaks`), or else how units come through (`funnel`): the head of the report."""

    funnel: Funnel
    breaks: Breaks | None = None

    aside: ClassVar = ("funnel", "breaks")
    name = "answer"

    def to_frame(self) -> pd.DataFrame:
        return self.breaks.to_frame() if self.breaks else self.funnel.rows().reset_index().tail(1)

    def sentence(self, language: str = "en") -> str:
        if self.breaks is None or not len(self.breaks.found):
            return (self.breaks if self.breaks and len(self.breaks.frame) else self.funnel).sentence(language)
        parts = [self.breaks.named(row, language) for _i, row in self.breaks.found.iterrows()]
        return say("diagnosis.broken", language, parts="; ".join(parts), **self.breaks.told(language))
