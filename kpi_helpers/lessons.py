"""Checks for the exercises: right, or the likely mistake."""

from dataclasses import dataclass

import numpy as np
import yaml
from scipy.special import stdtr

from kpi_helpers.errors import require
from kpi_helpers.result import Result, asset, say
from kpi_helpers.stats import Floats

#: exercise -> what is right, and what the likely mistakes give; tests/test_lessons.py works them out
EXERCISES: dict[str, dict[str, float]] = yaml.safe_load(asset("lessons.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict(Result):
    """What an exercise says to an answer; `heard` names the mistake, or is ``right`` or ``wrong``."""

    exercise: str
    heard: str

    def sentence(self, language: str = "en") -> str:
        key = self.heard if self.heard in ("right", "wrong") else f"{self.exercise}.{self.heard}"
        return say(f"lesson.{key}", language)


def check(exercise: str, value: float, *, tolerance: float = 0.005) -> Verdict:
    """Check an answer to `exercise` (one of `EXERCISES`, such as pooled_rate) within a relative `tolerance`."""
    require(exercise in EXERCISES, f"There is no exercise {exercise!r}. Known are {', '.join(EXERCISES)}.")
    near = [name for name, answer in EXERCISES[exercise].items() if abs(value - answer) <= tolerance * abs(answer)]
    return Verdict(exercise=exercise, heard="right" if "right" in near else near[0] if near else "wrong")


def honest_weeks(n_kpis: int = 20, n_weeks: int = 52) -> tuple[Floats, Floats]:
    """Weeks in which nothing happens, (n_weeks, n_kpis): each KPI's change since the week before, and its p-value.

    Values are normal and independent; each is judged by Student's t from the mean and spread of its 52 weeks before.
    """
    values = np.random.default_rng(20261121).standard_normal((52 + n_weeks, n_kpis))
    past = np.lib.stride_tricks.sliding_window_view(values[:-1], 52, axis=0)
    far = (values[52:] - past.mean(axis=-1)) / (past.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / 52))
    return values[52:] - values[51:-1], np.asarray(2 * stdtr(51, -np.abs(far)))
