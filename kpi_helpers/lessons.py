"""Checks for the exercises: right, or the likely mistake. Answers come from the simulated company, not from a list."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from scipy.special import stdtr

from kpi_helpers import experiments, kpis, outlooks, simulate
from kpi_helpers.backtests import baseline
from kpi_helpers.errors import require
from kpi_helpers.records import PLANTED
from kpi_helpers.result import Result, say
from kpi_helpers.sources import connect
from kpi_helpers.stats import Floats, holm
from kpi_helpers.targets import project

UNITS: dict[str, Any] = {"unit": "unit_id", "variant": "variant", "control": "control"}


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
    answers = EXERCISES[exercise]()
    near = [name for name, answer in answers.items() if abs(value - answer) <= tolerance * abs(answer)]
    return Verdict(exercise=exercise, heard="right" if "right" in near else near[0] if near else "wrong")


def _pooled_rate() -> dict[str, float]:
    """Orders per session of Email on the days on which both are known."""
    every = simulate.channel_daily().astype({"orders": float, "sessions": float}).dropna(subset=["sessions"])
    email = every.query("channel == 'Email'")
    orders, sessions = email["orders"], email["sessions"]
    return {
        "right": orders.sum() / sessions.sum(), "mean_of_rates": (orders / sessions).mean(),
        "all_channels": every["orders"].sum() / every["sessions"].sum(),
    }  # fmt: skip


def _one_in_three() -> dict[str, float]:
    """Orders of the plan's weeks that are reached one time in three."""
    o = outlooks.outlook(kpis.compute(connect(simulate.HOME), ["orders"]), "orders", as_of=simulate.LAST)
    return {"right": o.target_at(1 / 3), "other_tail": o.target_at(2 / 3)}


def _year_end() -> dict[str, float]:
    """Orders of 2026, projected on 30 June by the weeks of 2025."""
    series = kpis.compute(connect(simulate.HOME), ["orders"]).series("orders")
    year = series.index.start_time.year
    last, now = series[year == 2025], series[(year == 2026) & (series.index.end_time < "2026-07-01")]
    return {"right": project(now, last), "straight_line": float(now.mean() * len(last))}


def honest_weeks(n_kpis: int = 20, n_weeks: int = 52) -> tuple[Floats, Floats]:
    """Weeks in which nothing happens, (n_weeks, n_kpis): each KPI's change since the week before, and its p-value.

    Values are normal and independent; each is judged by Student's t from the mean and spread of its 52 weeks before.
    """
    values = np.random.default_rng(20261121).standard_normal((52 + n_weeks, n_kpis))
    past = np.lib.stride_tricks.sliding_window_view(values[:-1], 52, axis=0)
    far = (values[52:] - past.mean(axis=-1)) / (past.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / 52))
    return values[52:] - values[51:-1], np.asarray(2 * stdtr(51, -np.abs(far)))


def _honest_reds() -> dict[str, float]:
    """Weeks of 52 in which any of 20 honest KPIs is red, false alarms of each week controlled."""
    _moved, p = honest_weeks()
    weekly = np.array([holm(week) for week in p])
    return {
        "right": float((weekly < 0.05).any(axis=1).sum()), "before_control": float((p < 0.05).any(axis=1).sum()),
        "values": float((p < 0.05).sum()),
        "whole_year": float((holm(p.ravel()).reshape(p.shape) < 0.05).any(axis=1).sum()),
    }  # fmt: skip


def _october_opens() -> dict[str, float]:
    """Opens per message delivered of both message channels in October 2026."""
    every = simulate.channel_daily()
    every = every[every["date"].astype(str).str.startswith("2026-10") & every["sent"].notna()]
    sums = every.groupby("channel")[["unique_opens", "sent", "hard_bounces", "soft_bounces"]].sum().astype(float)
    delivered = sums["sent"] - sums["hard_bounces"] - sums["soft_bounces"]
    opens, rates = sums["unique_opens"], sums["unique_opens"] / delivered
    return {
        "right": opens.sum() / delivered.sum(), "mean_of_rates": rates.mean(), "one_channel": rates["Email"],
        "per_sent": opens.sum() / sums["sent"].sum(),
    }  # fmt: skip


def _august_drop() -> dict[str, float]:
    """Orders per session of Paid social in the week to 16 August 2026, against its forecast from the weeks before."""
    table = kpis.compute(connect(simulate.HOME), ["order_rate_session"], by="channel", until=date(2026, 8, 16))
    series = table.series("order_rate_session", "Paid social")
    value, usual = float(series.iloc[-1]), float(baseline(series.iloc[:-1], 1)[0].mean[0])
    return {
        "right": value / usual - 1, "week_before": value / series.iloc[-2] - 1, "points": value - usual,
        "last_year": value / series.iloc[-53] - 1,
    }  # fmt: skip


def _lift(name: str, start: str = "") -> float:
    """Lift of an experiment's conversion rate, of the units assigned since a day."""
    rows = connect(simulate.HOME).table("experiment_units")
    rows = rows.filter(rows.experiment == name, rows.assigned_at >= (start or "2000-01-01"))
    found = experiments.analyse(rows, **UNITS, metrics=[experiments.rate("converted")])
    return float(found.lift[0])


def _last_week_lift() -> dict[str, float]:
    """Lift of the big buy button for those assigned in the last seven days of its test, 8 to 14 November 2026."""
    name = next(iter(PLANTED["novelty"]["words"]["experiment"]))
    return {"right": _lift(name, "2026-11-08"), "whole": _lift(name), "two_weeks": _lift(name, "2026-11-01")}


def _wrong_unit() -> dict[str, float]:
    """False alarms of a t-test over rows, four weeks of each of 70 stores a side, correlation 0.9."""
    seen = experiments.false_alarms("wrong unit", n=(70, 70), runs=1000, correlation=0.9)
    return {"right": seen.share[0], "promised": 0.05, "one_tail": seen.share[1]}


def _five_percent() -> dict[str, float]:
    """Customers in each group that find a lift of 5% of the checkout's control rate, four times in five."""
    rows = connect(simulate.HOME).table("experiment_units")
    rows = rows.filter(rows.experiment == next(iter(PLANTED["experiment"]["words"]["experiment"])))
    rate = experiments.analyse(rows, **UNITS, metrics=[experiments.rate("converted")]).control_value[0]
    plan = experiments.plan_rates(rate, 0.05 * rate)
    return {"right": plan.n_control, "both": plan.n_total, "points": experiments.plan_rates(rate, 0.05).n_control}


ALL = (
    _pooled_rate, _one_in_three, _year_end, _honest_reds, _october_opens, _august_drop, _last_week_lift, _wrong_unit,
    _five_percent,
)  # fmt: skip
EXERCISES = {f.__name__.strip("_"): f for f in ALL}
