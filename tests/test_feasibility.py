"""Can the plan be kept: targets at odds, all at once, needs upstream, spend, warnings; on the simulated company."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from kpi_helpers import kpis, outlooks, plans, simulate
from kpi_helpers.errors import KpiError
from kpi_helpers.sources import connect

SINCE, UNTIL = date(2026, 8, 23), date(2026, 11, 21)


@pytest.fixture(scope="module")
def data():
    return connect(simulate.HOME)


@pytest.fixture(scope="module")
def told(data):
    values = kpis.compute(data, ["orders", "revenue", "cpa"])
    return outlooks.outlook_kpis(values, ["orders", "revenue", "cpa"], as_of=UNTIL)


def test_targets_are_met_with_the_odds_that_were_chosen(told):
    table = plans.targets_at(told, [0.8, 0.5, 0.2])

    by_kpi = {o.kpi: o for o in told}
    for row in table.to_frame().itertuples():
        assert by_kpi[row.kpi].chance(row.target) == pytest.approx(row.odds, abs=1e-9)
    cost = table.to_frame().query("kpi == 'cpa'")["target"]
    assert cost.is_monotonic_decreasing  # a bolder target for a cost is lower


def test_all_at_once_lies_between_the_bounds_and_is_likelier_for_kpis_that_move_together(told):
    orders, revenue, cost = told

    for odds in (0.8, 0.5, 0.2):
        alone, together = (
            plans.targets_at(some, [odds]).together[0] for some in ([orders], [orders, revenue])
        )  # fmt: skip
        assert alone == pytest.approx(odds, abs=2e-3)
        assert max(0, 2 * odds - 1) <= together <= odds
        assert together > odds**2  # orders make revenue
        assert plans.targets_at([orders, revenue, cost], [odds]).together[0] <= together + 2e-3


def test_too_few_past_paths_leave_the_chance_of_all_open(told):
    short = [o for o in told if o.kpi != "cpa"]
    few = [replace(o, whole=o.whole | {"missed": o.missed[:5]}) for o in short]

    assert math.isnan(plans.targets_at(few).together[0])
    assert plans.targets_at([]).html("vi").startswith("<p>")


def test_needs_lead_back_to_the_target(data, told):
    plan = plans.allocate_plan(told[1], [], 0.10)

    needs = plans.needs(data, plan, since=SINCE, until=UNTIL)

    rows = simulate.channel_daily().query("@SINCE <= date.dt.date <= @UNTIL").astype({"revenue": float})
    known = rows.dropna(subset=["sessions"])
    assert needs.kpi == ("revenue", "orders", "sessions")
    assert needs.rate[1] == pytest.approx(rows["revenue"].sum() / rows["orders"].sum())
    assert needs.rate[2] == pytest.approx(known["orders"].sum() / known["sessions"].sum())
    assert needs.need[2] * needs.rate[2] >= needs.need[1] and needs.need[1] * needs.rate[1] >= plan.total
    assert (np.array(needs.need_low) <= needs.need).all() and (np.array(needs.need_high) >= needs.need).all()
    assert "sessions" in needs.sentence() and "<table" in needs.html("vi")


def test_double_the_revenue_for_a_tenth_more_spend_is_rejected(data, told):
    # implied elasticity ln(target / expected) / ln(1.1), by hand
    check = plans.check_spend(data, told[1], [0.1, 1.0], 0.10)

    assert check.implied[1] == pytest.approx(math.log(2 * told[1].reference / told[1].total) / math.log(1.1))
    assert check.rejected == (False, True) and check.most == max(1.5, check.elasticity_high)
    assert "rejected" in check.sentence() and "cause" not in check.sentence()
    assert plans.check_spend(data, told[1], [1.0], 0.0).rejected == (False,)  # nothing is implied


def test_warnings_are_for_the_target_that_is_planned_and_channels_that_there_are(data):
    values = kpis.compute(data, ["revenue"], by="channel")
    graded = plans.grade_outlooks(outlooks.outlook_channels(values, "revenue", as_of=UNTIL), [0.1, 0.9])
    recent = kpis.compute(
        data, ["revenue", "order_rate_session", "spend"], by="channel", grain="total", since=SINCE, until=UNTIL
    )

    timid, bold = (plans.review(graded, recent, uplift) for uplift in (0.1, 0.9))
    planned = plans.review(graded, recent, 0.1, {"Email": ["email"]})

    assert len(bold.warning) >= len(timid.warning)
    assert "cold" in bold.warning and ("Email", "revenue") not in zip(planned.channel, planned.kpi, strict=True)
    assert "spend" not in planned.kpi  # no target, no activity to match
    with pytest.raises(KpiError, match=r"no channel 'Emial'.*Did you mean Email"):
        plans.review(graded, recent, 0.1, {"Emial": ["email"]})
