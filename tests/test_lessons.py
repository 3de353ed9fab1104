"""The answers of the exercises are those of the simulated company."""

from datetime import date

import numpy as np
import pytest

from kpi_helpers import kpis, lessons, outlooks, simulate
from kpi_helpers.backtests import baseline
from kpi_helpers.sources import connect
from kpi_helpers.stats import holm
from kpi_helpers.targets import project


def pooled_rate():
    """Orders per session of Email on the days on which both are known."""
    every = simulate.channel_daily().astype({"orders": float, "sessions": float}).dropna(subset=["sessions"])
    email = every.query("channel == 'Email'")
    orders, sessions = email["orders"], email["sessions"]
    return {
        "right": orders.sum() / sessions.sum(), "mean_of_rates": (orders / sessions).mean(),
        "all_channels": every["orders"].sum() / every["sessions"].sum(),
    }  # fmt: skip


def one_in_three():
    """Orders of the plan's weeks that are reached one time in three."""
    o = outlooks.outlook(kpis.compute(connect(simulate.HOME), ["orders"]), "orders", as_of=simulate.LAST)
    return {"right": o.target_at(1 / 3), "other_tail": o.target_at(2 / 3)}


def year_end():
    """Orders of 2026, projected on 30 June by the weeks of 2025."""
    series = kpis.compute(connect(simulate.HOME), ["orders"]).series("orders")
    year = series.index.start_time.year
    last, now = series[year == 2025], series[(year == 2026) & (series.index.end_time < "2026-07-01")]
    return {"right": project(now, last), "straight_line": float(now.mean() * len(last))}


def honest_reds():
    """Weeks of 52 in which any of 20 honest KPIs is red, false alarms of each week controlled."""
    _moved, p = lessons.honest_weeks()
    weekly = np.array([holm(week) for week in p])
    return {
        "right": float((weekly < 0.05).any(axis=1).sum()), "before_control": float((p < 0.05).any(axis=1).sum()),
        "values": float((p < 0.05).sum()),
        "whole_year": float((holm(p.ravel()).reshape(p.shape) < 0.05).any(axis=1).sum()),
    }  # fmt: skip


def october_opens():
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


def august_drop():
    """Orders per session of Paid social in the week to 16 August 2026, against its forecast from the weeks before."""
    table = kpis.compute(connect(simulate.HOME), ["order_rate_session"], by="channel", until=date(2026, 8, 16))
    series = table.series("order_rate_session", "Paid social")
    value, usual = float(series.iloc[-1]), float(baseline(series.iloc[:-1], 1)[0].mean[0])
    return {
        "right": value / usual - 1, "week_before": value / series.iloc[-2] - 1, "points": value - usual,
        "last_year": value / series.iloc[-53] - 1,
    }  # fmt: skip


WORKED_OUT = {f.__name__: f for f in (pooled_rate, one_in_three, year_end, honest_reds, october_opens, august_drop)}


@pytest.mark.parametrize("exercise", lessons.EXERCISES)
def test_answers_are_those_of_the_company(exercise):
    assert lessons.EXERCISES[exercise] == pytest.approx(WORKED_OUT[exercise](), rel=1e-6)
