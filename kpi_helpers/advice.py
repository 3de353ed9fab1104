"""Look over a plan before it is agreed: what to warn about, KPI by KPI."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kpi_helpers.errors import require
from kpi_helpers.kpis import kpi
from kpi_helpers.rates import shrink_rates
from kpi_helpers.result import LANGUAGES, Result, measure, say, table

#: what a plan may do on a channel; the catalogue tells which of them move a KPI, a campaign moves them all
ACTIVITIES = ("content", "white_paper", "seo", "social", "email", "messaging", "ads", "campaign")
MOST = 5  # KPIs on a channel


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlanReview(Result):
    """Warnings on a plan: many, vanity, unmatched or cold (little engagement); `kpi` is empty for a whole channel."""

    channel: tuple[str, ...]
    kpi: tuple[str, ...]
    warning: tuple[str, ...]
    words: tuple[str, ...]
    words_vi: tuple[str, ...]

    def sentence(self, language: str = "en") -> str:
        """How many warnings on how many channels."""
        kind = "some" if self.warning else "none"
        return say(f"plan_review.{kind}", language, n=len(self.warning), k=len(set(self.channel)))

    def html(self, language: str = "en") -> str:
        """One row a warning."""
        said = self.words_vi if language == "vi" else self.words
        names = [kpi(k).name[language] if k else "–" for k in self.kpi]
        rows = [[html.escape(cell) for cell in row] for row in zip(self.channel, names, said, strict=True)]
        heads = say("plan_review.heads", language).split("|")
        return table(heads, rows, caption=self.sentence(language)) if rows else Result.html(self, language)


def review_plan(
    kpis_by_channel: Mapping[str, Sequence[str]], *, grades: Mapping[tuple[str, str], str] | pd.DataFrame | None = None,
    engagement: Mapping[str, tuple[float, float]] | None = None, activities: Mapping[str, Sequence[str]] | None = None,
) -> PlanReview:  # fmt: skip
    """Warn of too many KPIs, vanity metrics, KPIs that nothing planned moves, ambition where few engage.

    Parameters
    ----------
    kpis_by_channel : channel -> ids of the catalogue, at most five without a warning
    grades : (channel, KPI) -> grade of its target, or a frame with the columns channel, kpi, grade
    engagement : channel -> (successes, trials) of one rate that means the same on all; shrunk, and little where
        it is below half of their median
    activities : channel -> planned words of `ACTIVITIES`; without it nothing is matched

    Raises `KpiError` if a KPI or an activity is unknown, or a target has two grades.

    >>> review_plan({"Blog": ["pageviews", "leads"]}, activities={"Blog": ["content"]}).warning
    ('vanity', 'unmatched')
    """
    if isinstance(grades, pd.DataFrame):
        keyed = grades.set_index(["channel", "kpi"])["grade"]
        require(keyed.index.is_unique, "grades hold two grades for a channel and KPI. Keep the uplift that is planned.")
        grades = keyed.to_dict()
    graded, planned, engaged = grades or {}, activities or {}, engagement or {}
    unknown = {word for words in planned.values() for word in words} - {*ACTIVITIES}
    require(not unknown, f"activities {sorted(unknown)} are not among {', '.join(ACTIVITIES)}.")
    rates = shrink_rates(*np.array([*engaged.values()], dtype=float).T).mean if engaged else (0.0,)
    rate, middle = dict(zip(engaged, rates, strict=False)), float(np.median(rates))

    def warnings(language: str) -> Iterator[tuple[str, str, str, dict[str, object]]]:
        for channel, keys in kpis_by_channel.items():
            does, n = planned.get(channel, ()), len({*keys})
            if n > MOST:
                yield channel, "", "many", {"n": n, "most": MOST}
            for k in map(kpi, dict.fromkeys(keys)):
                name, grade = k.name[language], graded.get((channel, k.id))
                if k.vanity:
                    yield channel, k.id, "vanity", {"name": name}
                if activities is not None and not {*does} & {*k.activities, "campaign"}:
                    moves = ", ".join(say(f"activity.{a}", language) for a in k.activities)
                    yield channel, k.id, "unmatched", {"name": name, "activities": moves}
                little = rate.get(channel, middle) < middle / 2 and "campaign" not in does
                if little and grade in ("ambitious", "unrealistic"):
                    here, usual = (measure(v, "share", language) for v in (rate[channel], middle))
                    graded_as = say(f"status.{grade}", language).lower()
                    yield channel, k.id, "cold", {"grade": graded_as, "rate": here, "middle": usual}

    said = [[(*row, say(f"plan_review.{row[2]}", lang, **told)) for *row, told in warnings(lang)] for lang in LANGUAGES]
    rows = [(*english, vietnamese[-1]) for english, vietnamese in zip(*said, strict=True)]
    columns = zip(*rows, strict=True) if rows else [()] * 5
    return PlanReview(**dict(zip(PlanReview.__slots__, columns, strict=True)))
