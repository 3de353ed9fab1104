"""What an experiment's analysis says: every row in words, what to do, and the head of its report."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import plots
from kpi_helpers.comparisons import bounded, p_words
from kpi_helpers.result import Framed, Result, labelled_pill, measure, number, percent, say

MOST_DRAWN = 14
#: decision -> tone of its pill
TONES = {
    "better": "good", "worse": "bad", "unclear": "none", "holds": "good", "broken": "bad", "open": "watch",
    "invalid": "bad", "cannot": "none",
}  # fmt: skip


class Analysis(Framed):
    """Every metric, treatment and segment of an experiment; `warnings` by code, `split` the check that comes first.

    Columns: ``metric, role, variant, dimension, segment`` (both empty for all units), ``control_value, treatment_value,
    difference, difference_low, difference_high, lift, lift_low, lift_high, p_value, p_adjusted, confidence`` (of the
    row's intervals: they leave out 0 where p_adjusted is below one less the confidence asked for), ``decision``
    (better, worse, unclear; of guardrails holds, broken, open; cannot, or invalid after a broken split),
    ``detectable`` (difference seen four times in five), ``chance_better, expected_loss`` (Bayesian, of choosing the
    treatment), ``n_control, n_treatment``.
    """

    aside: ClassVar = ("warnings", "split", "interactions", "caps", "metrics")
    ways: ClassVar = {
        "mark": lambda s, words: labelled_pill(TONES[s], words), "bounded": lambda *a, **k: bounded(*a, **k),
        "p_words": lambda *a: p_words(*a), "level": lambda *a: level(*a),
    }  # fmt: skip

    @property
    def verdicts(self) -> dict[str, str]:
        """What to do with each treatment: ship, small, guard, wait, keep, safe, unclear, cannot or invalid."""
        return {variant: verdict for variant, (verdict, _row) in self.decided().items()}

    def decided(self) -> dict[str, tuple[str, Any]]:
        """The verdict on each treatment, and the row that it stands on."""
        whole = self.frame[self.frame["dimension"] == ""]
        return {str(v): self._verdict(list(rows.itertuples())) for v, rows in whole.groupby("variant", sort=False)}

    def _verdict(self, rows: list[Any]) -> tuple[str, Any]:
        main = [row for row in rows if row.role == "primary"] or rows
        guards = {row.decision for row in rows if row.role == "guardrail"}
        found = {row.decision: row for row in reversed(main)}
        if self.split.alarm:
            return "invalid", main[0]
        if main[0].role == "guardrail":  # only guardrails: is it safe?
            return "guard" if "broken" in guards else "wait" if guards - {"holds"} else "safe", main[0]
        if "worse" in found:
            return "keep", found["worse"]
        if "better" not in found:
            return "unclear" if "unclear" in found else "cannot", main[0]
        if guards - {"holds"}:
            return "guard" if "broken" in guards else "wait", found["better"]
        row = found["better"]
        metric = self.metrics[row.metric]
        least = metric.gain(row.lift_low, row.lift_high)[0]
        return "small" if metric.worthwhile and not least >= metric.worthwhile else "ship", row

    def sentence(self, language: str = "en") -> str:
        if self.split.alarm:
            return str(self.split.sentence(language))
        told = self.decided().items()
        said = (say(f"verdict.{v}", language, variant=name, **self.told(row, language)) for name, (v, row) in told)
        return " ".join(said)

    def told(self, row: Any, language: str) -> dict[str, str]:
        """Numbers of a row in words; of a lift that cannot be formed the difference stands in its place."""
        metric = self.metrics[row.metric]
        ends = {"difference": row.difference, "low": row.difference_low, "high": row.difference_high}
        words = {name: metric.written(value, language, change=True) for name, value in ends.items()}
        if np.isfinite(row.lift):
            lifts = {"lift": row.lift, "lift_low": row.lift_low, "lift_high": row.lift_high}
            words |= {name: bounded(value, language) for name, value in lifts.items()}
            seen = bounded(row.detectable / row.control_value, language, sign=False)
        else:
            words |= {"lift": words["difference"], "lift_low": words["low"], "lift_high": words["high"]}
            seen = metric.written(row.detectable, language, change=True)
        words |= {"control": metric.written(row.control_value, language), "confidence": level(row.confidence, language)}
        words |= {"treatment": metric.written(row.treatment_value, language), "metric": metric.named(language)}
        return words | {"p": p_words(row.p_adjusted, language), "detectable": seen}

    def drawn(self, language: str) -> str:
        """Lifts of all metrics, and of the main one by segment, as an HTML figure."""
        frame = self.frame[np.isfinite(self.frame["lift"].astype(float))]
        one = len(set(frame["variant"])) == 1
        frame = frame[(frame["dimension"] == "") | ((frame["role"] == "primary") & one)].head(MOST_DRAWN)
        if frame.empty:
            return ""
        words = [self.labelled(row, language, one) for row in frame.itertuples()]
        columns = {"values": frame["lift"], "low": frame["lift_low"], "high": frame["lift_high"]}
        told: dict[str, Any] = {name: column.astype(float).tolist() for name, column in columns.items()}
        clear = (frame["difference_low"] > 0) | (frame["difference_high"] < 0)
        told |= {"words": words, "clear": clear.tolist()}
        return plots.chart(
            lambda axes, narrow: plots.forest(axes, narrow, language=language, **told),
            title=say("analysis.title", language), note=say("analysis.note", language), alt=self.sentence(language),
        )  # fmt: skip

    def labelled(self, row: Any, language: str, one: bool) -> str:
        """A row in words: metric, segment and, where there are several, the variant."""
        parts = [self.metrics[row.metric].named(language), str(row.segment), "" if one else str(row.variant)]
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Decision(Result):
    """What to do with the treatments of an analysis: the head of the report. `days` are those of the assignment."""

    analysis: Analysis
    title: str = ""
    days: int = 0

    aside: ClassVar = ("analysis",)

    @property
    def name(self) -> str:
        """The answer of the report."""
        return "answer"

    def to_frame(self) -> pd.DataFrame:
        verdicts = self.analysis.verdicts
        return pd.DataFrame({"variant": list(verdicts), "verdict": list(verdicts.values())})

    def sentence(self, language: str = "en") -> str:
        decided = self.analysis.decided()
        ship = {name: row for name, (verdict, row) in decided.items() if verdict == "ship"}
        if len(ship) > 1:  # of several that win the largest effect; the others are in the table
            best = max(ship, key=lambda name: abs(ship[name].difference))
            return say("headline.best", language, variant=best, n=len(ship))
        said = (say(f"headline.{v}", language, variant=name) for name, (v, _row) in decided.items())
        return " ".join(dict.fromkeys(said))

    def weekly(self, language: str = "en") -> str:
        """What the one treatment to ship brings a week, if all units get it."""
        verdicts, frame = self.analysis.verdicts, self.analysis.frame
        row = frame[(frame["role"] == "primary") & (frame["dimension"] == "")].iloc[0]
        metric = self.analysis.metrics[row["metric"]]
        if not self.days or set(verdicts.values()) != {"ship"} or len(verdicts) > 1 or metric.kind == "ratio":
            return ""
        n = sum(self.analysis.split.n_units) * 7 / self.days
        ends = {"more": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
        unit = "money" if metric.unit == "money" else "count"
        told = {name: measure(value * n, unit, language, "") for name, value in ends.items()}
        return say("decision.weekly", language, n=number(n, language), **told)


def level(confidence: float, language: str = "en") -> str:
    """A confidence in percent, with one decimal where it has one."""
    return percent(confidence, language, decimals=0 if abs(confidence * 100 - round(confidence * 100)) < 0.05 else 1)
