"""Checks for the exercises: right, or the likely mistake. Answers come from the simulated company, not from a list."""

from dataclasses import dataclass
from datetime import date

from kpi_helpers import kpis, outlooks, simulate
from kpi_helpers.errors import require
from kpi_helpers.result import Result, say
from kpi_helpers.sources import connect
from kpi_helpers.targets import project


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict(Result):
    """What an exercise says to an answer; `heard` names the mistake, or is ``right`` or ``wrong``."""

    exercise: str
    heard: str

    def sentence(self, language: str = "en") -> str:
        key = self.heard if self.heard in ("right", "wrong") else f"{self.exercise}.{self.heard}"
        return say(f"lesson.{key}", language)


def check(exercise: str, value: float, *, tolerance: float = 0.005) -> Verdict:
    """Check an answer to `exercise` (pooled_rate, one_in_three, year_end) within a relative `tolerance`."""
    require(exercise in EXERCISES, f"There is no exercise {exercise!r}. Known are {', '.join(EXERCISES)}.")
    answers = EXERCISES[exercise]()
    near = [name for name, answer in answers.items() if abs(value / answer - 1) <= tolerance]
    return Verdict(exercise=exercise, heard="right" if "right" in near else near[0] if near else "wrong")


def _pooled_rate() -> dict[str, float]:
    """Orders per session of Email on the days on which both are known."""
    every = simulate.channel_daily().astype({"orders": float, "sessions": float}).dropna(subset=["sessions"])
    email = every.query("channel == 'Email'")
    return {
        "right": email["orders"].sum() / email["sessions"].sum(),
        "mean_of_rates": (email["orders"] / email["sessions"]).mean(),
        "all_channels": every["orders"].sum() / every["sessions"].sum(),
    }


def _one_in_three() -> dict[str, float]:
    """Orders of the plan's weeks that are reached one time in three."""
    values = kpis.compute(connect(simulate.HOME), ["orders"])
    o = outlooks.outlook(values, "orders", as_of=simulate.LAST)
    return {"right": o.target_at(1 / 3), "other_tail": o.target_at(2 / 3)}


def _year_end() -> dict[str, float]:
    """Orders of 2026, projected on 30 June by the weeks of 2025."""
    series = kpis.compute(connect(simulate.HOME), ["orders"]).series("orders")
    year, known = series.index.start_time.year, series.index.end_time.date <= date(2026, 6, 30)
    last, now = series[year == 2025], series[(year == 2026) & known]
    return {"right": project(now, last), "straight_line": float(now.mean() * len(last))}


EXERCISES = {f.__name__.strip("_"): f for f in (_pooled_rate, _one_in_three, _year_end)}
