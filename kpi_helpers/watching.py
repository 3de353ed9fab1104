"""An experiment watched day by day: what each way of looking would have said, and what peeking costs."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import plots
from kpi_helpers.analyses import Part, variants_of
from kpi_helpers.errors import require, require_known
from kpi_helpers.looks import followed, peeking, sequential_boundaries
from kpi_helpers.metrics import ROWS, Metric, metric_of
from kpi_helpers.result import Framed, percent, say
from kpi_helpers.result import day as written_day
from kpi_helpers.stats import checked_confidence
from kpi_helpers.units import open_units, read_sums


class Watched(Framed):
    """A difference as it stood at each look, of all units so far.

    Rows: ``looked_at`` (day), ``n`` of both arms, ``difference``, its plain interval ``low, high`` as if that were the
    only look, ``planned_low, planned_high`` of an O'Brien-Fleming type boundary that was planned for these looks, and
    ``valid_low, valid_high``, which hold for any. `cost`: false alarms of stopping at the first plain one.
    """

    aside: ClassVar = ("metric", "variant", "cost", "confidence")

    @property
    def firsts(self) -> dict[str, int | None]:
        """First look at which each interval left out zero."""
        found = {}
        for rule, bounds in (("plain", ""), ("planned", "planned_"), ("valid", "valid_")):
            out = np.flatnonzero((self.frame[bounds + "low"] > 0) | (self.frame[bounds + "high"] < 0))
            found[rule] = int(out[0]) if len(out) else None
        return found

    def sentence(self, language: str = "en") -> str:
        plain, level = self.firsts["plain"], percent(1 - self.confidence, language, decimals=0)
        told = {"n": len(self.frame), "level": level, "cost": percent(self.cost, language, decimals=0)}
        told |= {"metric": self.metric.named(language), "last": self.written(self.difference[-1], language)}
        if plain is None:
            return say("watched.never", language, **told)
        at, first = written_day(self.looked_at[plain], language), self.written(self.difference[plain], language)
        return say("watched.sentence", language, at=at, first=first, **told)

    def written(self, value: float, language: str) -> str:
        """A difference in the unit of the metric."""
        return str(self.metric.written(value, language, change=True))

    def drawn(self, language: str) -> str:
        """The differences and their intervals by day, as an HTML figure."""
        words, rate = say("watched.lines", language).split("|"), self.metric.unit == "share"
        scale, unit = (0.01 if rate else 1.0), say("watched.points" if rate else "watched.unit", language)
        title = say("watched.title", language, metric=self.metric.named(language))
        return plots.chart(
            lambda axes, narrow: plots.looks(self.frame, axes, narrow, words=words, scale=scale, language=language),
            title=title, note=say("watched.note", language, unit=unit), alt=self.sentence(language),
        )  # fmt: skip


def watch(
    table: Any, *, unit: str | None, variant: str, control: Any, metric: Metric | str, day: str, treatment: Any = None,
    planned_n: float | None = None, confidence: float = 0.95,
) -> Watched:  # fmt: skip
    """Follow one metric of one treatment (by default the first) over the column `day`, units counted from their first.

    Table and columns as in `analyses.analyse`. `planned_n`, units of both arms at the planned end, tunes the boundaries
    and the always-valid interval; by default all that there are. Raises `KpiError` as `analyse` does.
    """
    asked = metric_of(metric)
    units = open_units(table, unit=unit, variant=variant, metrics=[asked], keys=[day])
    asked = asked.of_rows() if units.repeated else asked
    dtype = units.table[day].type()
    require(dtype.is_date() or dtype.is_timestamp(), f"{day} holds {dtype}: give days or times.")
    known = units.table.filter(units.table[day].notnull())
    units.table = known.mutate(**{day: known[day].cast("date")})
    sums = read_sums(units, [asked], [day])
    others = variants_of(sums.frames[asked.name].groupby(variant)[ROWS].sum(), control, variant)[1:]
    chosen = others[0] if treatment is None else str(treatment)
    require_known(chosen, others, f"treatment={treatment!r} is no value of {variant} beside the control.")
    part = Part(asked, sums.cumulated(day), day, [str(control), chosen])
    found, n = part.contrast(alpha=1 - checked_confidence(confidence)), part.columns[0].sum(axis=1)
    require(planned_n is None or planned_n > 0, f"planned_n={planned_n} must be above 0: units of both arms.")
    end = float(max(n[-1], planned_n or 0))
    told = {"looked_at": part.levels, "n": n, "difference": found.difference}
    told |= {"low": found.difference_low, "high": found.difference_high}
    frame = pd.DataFrame({name: np.ravel(v) for name, v in told.items()} | {"error": np.sqrt(part.spread()[1])[:, 0]})
    share = np.floor(1000 * frame["n"] / end).clip(1) / 1000  # within a thousandth of the plan the last look counts
    frame = frame[~share.duplicated(keep="last")].reset_index(drop=True)
    d, error, n = (frame[name].to_numpy(float) for name in ("difference", "error", "n"))
    z = sequential_boundaries(share.drop_duplicates(), confidence=confidence)
    _p, low, high = followed(d, error**2, n, planned_n=end, confidence=confidence)
    frame = frame.assign(planned_low=d - z * error, planned_high=d + z * error, valid_low=low, valid_high=high)
    cost = peeking(len(frame), confidence=confidence)
    return Watched(frame=frame, whole={"metric": asked, "variant": chosen, "cost": cost, "confidence": confidence})
