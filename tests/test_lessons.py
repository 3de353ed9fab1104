"""The answers of the exercises are those of the simulated company."""

from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from kpi_helpers import attribution, churn, clv, engagement, experiments, kpis, lessons, outlooks, simulate
from kpi_helpers.backtests import baseline
from kpi_helpers.records import PLANTED
from kpi_helpers.sources import connect
from kpi_helpers.stats import holm
from kpi_helpers.targets import project

UNITS = {"unit": "unit_id", "variant": "variant", "control": "control"}


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


def lift(name, start=""):
    """Lift of an experiment's conversion rate, of the units assigned since a day."""
    rows = connect(simulate.HOME).table("experiment_units")
    rows = rows.filter(rows.experiment == name, rows.assigned_at >= (start or "2000-01-01"))
    found = experiments.analyse(rows, **UNITS, metrics=[experiments.rate("converted")])
    return float(found.lift[0])


def last_week_lift():
    """Lift of the big buy button for those assigned in the last seven days of its test, 8 to 14 November 2026."""
    name = next(iter(PLANTED["novelty"]["words"]["experiment"]))
    return {"right": lift(name, "2026-11-08"), "whole": lift(name), "two_weeks": lift(name, "2026-11-01")}


def wrong_unit():
    """False alarms of a t-test over rows, four weeks of each of 70 stores a side, correlation 0.9."""
    seen = experiments.false_alarms("wrong unit", n=(70, 70), runs=1000, correlation=0.9)
    return {"right": seen.share[0], "promised": 0.05, "one_tail": seen.share[1]}


def five_percent():
    """Customers in each group that find a lift of 5% of the checkout's control rate, four times in five."""
    rows = connect(simulate.HOME).table("experiment_units")
    rows = rows.filter(rows.experiment == next(iter(PLANTED["experiment"]["words"]["experiment"])))
    rate = experiments.analyse(rows, **UNITS, metrics=[experiments.rate("converted")]).control_value[0]
    plan = experiments.plan_rates(rate, 0.05 * rate)
    return {"right": plan.n_control, "both": plan.n_total, "points": experiments.plan_rates(rate, 0.05).n_control}


@cache
def members():
    """Subscriptions of the company, and its orders as histories with the channel of the first one."""
    data = connect(simulate.HOME)
    past = clv.summarise(data.table("orders"), by="channel", end=data.as_of())
    return data.table("subscriptions"), past, data.as_of()


def still_buying():
    """Chance that a customer still buys who came 50 weeks ago, bought four times and last 30 weeks ago."""
    fit = clv.fit_models(members()[1], "mbg/nbd")[0]
    told = {"right": (3, 20, 50), "since_last": (3, 30, 50), "all_four": (4, 20, 50)}
    return {name: float(fit.probability_alive(*customer)) for name, customer in told.items()}


def cdnow_next():
    """Purchases of CDNOW's customers in weeks 40 to 78: counted in the transactions (tests/test_holdouts.py)."""
    fit = clv.PurchaseFit.at({"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}, model="bg/nbd")
    return {"right": 1882, "own_pace": 2457 / 33 * 39, "from_the_start": 2357 * float(fit.expected_new(39))}


def most_paid():
    """Margin of a new customer of Paid social within half a year."""
    past = members()[1]
    half, year = (
        clv.new_customers(past, "channel", model="mbg/nbd", horizon=h).frame.set_index("group").loc["Paid social"]
        for h in ("6 months", "1 year")
    )
    told = {"right": half["value"], "whole_year": year["value"], "first_only": half["first"]}
    whole = clv.new_customers(past, "channel", model="mbg/nbd", horizon="6 months", margin=1.0)
    return {**told, "revenue": whole.frame.set_index("group").loc["Paid social", "value"]}


def same_tenures():
    """Churn of members in October 2025 at the tenures of October 2024."""
    rows, _past, end = members()
    days = churn.month_and_year_before("2025-10", end)
    found = churn.standardised_churn(*(churn.tenure_churn(rows, *d) for d in days))
    row = churn.bridge(rows, as_of=end).frame.set_index("period").loc[days[0][0]]
    diluted = row["lost"] / (row["customers"] + row["gained"])
    return {"right": found.standardised, "crude": found.now, "diluted": diluted, "then": found.was}


def still_members():
    """Share of new members of the plan Vàng who are there after 24 months."""
    counts = churn.durations(members()[0], members()[2], by="plan")

    def fitted(rows):
        return churn.fit_retention(churn.survival(rows["duration"], rows["observed"], weights=rows["n"]))

    gold, every = (
        fitted(counts[counts["plan"] == "Vàng"]),
        fitted(counts.groupby(["duration", "observed"])["n"].sum().reset_index()),
    )
    assert every.parameters["alpha"] / sum(every.parameters.values()) == pytest.approx(
        PLANTED["members"]["leave"], abs=0.005
    )
    ends = {"right": gold.forecast(24).survival[-1], "constant": gold.forecast(1).survival[0] ** 24}
    return {**ends, "all_plans": every.forecast(24).survival[-1]}


def break_even():
    """Chance to leave from which contacting a customer worth 300,000 pays: (d + f) / (acceptance (V - d) + d)."""
    return {"right": 43 / (0.15 * 260 + 40), "contact_only": 3 / (0.15 * 300), "all_accept": 43 / 300}


@cache
def credited():
    """Journeys of the company, all models, and its spend."""
    data = connect(simulate.HOME)
    journeys = attribution.read_journeys(data.table("touchpoints"), data.table("orders"), view_credit=1.0)
    spend = attribution.media_spend(data.table("channel_daily"), journeys)
    return data, journeys, attribution.attribute(journeys, spend=spend, confidence=None)


def rank_flips():
    """Share by the hazard of the channel whose rank differs most between last touch and hazard: Paid social."""
    shares = credited()[2].shares.loc["Paid social"]
    ranks = credited()[2].shares.rank(ascending=False)
    assert (ranks["last"] - ranks["hazard"]).abs().idxmax() == "Paid social"
    return {"right": shares["hazard"]} | {name: shares[name] for name in ("last", "first", "markov")}


def people_needed():
    """n so that claim / error is 1.96 + 0.84; the error of a difference of two halves is 2 sqrt(orders)."""
    claims = credited()[2].frame.query("channel == 'Paid social'")["conversions"]
    per_person = claims / 120_000
    variance = 4 * credited()[1].conversions / 120_000

    def needed(claim, z):
        return z**2 * variance / claim**2

    z = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    ends = {"right": needed(per_person.min(), sum(z)), "largest": needed(per_person.max(), sum(z))}
    return {**ends, "even_chance": needed(per_person.min(), z[0])}


def cost_of_one_more():
    """Spend on Paid search by the orders that the hold-out says it brought, 1 - rate without / rate with."""
    data, journeys, told = credited()
    rows = experiments.of_experiment(data.table("experiment_units"), "Tắt quảng cáo tìm kiếm")
    rates = rows.group_by("variant").aggregate(rate=rows.converted.mean()).to_pyarrow().to_pandas()
    rate = rates.set_index("variant")["rate"].astype(float)
    row = told.frame.query("channel == 'Paid search' and model == 'last'").iloc[0]
    part = 1 - rate["no ads"] / rate["ads"]
    units = rows.filter(rows.variant == "ads").count().to_pyarrow().as_py()
    found = {"right": row["cost"] / (part * journeys.conversions), "last": row["cpa"]}
    return {**found, "per_person": row["cost"] / ((rate["ads"] - rate["no ads"]) * units)}


def one_repair():
    """Purchases of October 2026 that the mobile step to the cart returns: sessions · fall · later rate."""
    rows = connect(simulate.HOME).table("web_events").to_pyarrow().to_pandas()
    rows["month"] = rows.groupby("session_id")["happened_at"].transform("min").dt.strftime("%Y-%m")
    n = rows.pivot_table("session_id", ["device", "month"], "event", aggfunc="nunique")

    def lost(device, before, step):
        was, now = n.loc[(device, "2026-09")], n.loc[(device, "2026-10")]
        return now[before] * (was[step] / was[before] - now[step] / now[before]), now["purchase"] / now[step]

    carts, later = lost("mobile", "view", "cart")
    desktop = float(np.prod(lost("desktop", "cart", "checkout")))
    return {"right": carts * later, "desktop": desktop, "both": carts * later + desktop, "carts": carts}


def won_in_sixty():
    """Leads won within 60 days of all that came 60 days before the end or earlier."""
    rows = connect(simulate.HOME).table("leads").to_pyarrow().to_pandas()
    took = rows["won_at"] - rows["created_at"]
    end = pd.Timestamp(simulate.LAST) + pd.Timedelta(1, "D")

    def of(days):
        return rows["created_at"] + pd.Timedelta(days, "D") < end, took <= pd.Timedelta(days, "D")

    (old, won), (old_90, won_90) = of(60), of(90)
    begun = (rows["opportunity_at"] - rows["created_at"])[old] <= pd.Timedelta(60, "D")
    ends = {"right": (won & old).sum() / old.sum(), "ninety": (won_90 & old_90).sum() / old_90.sum()}
    return {**ends, "open_too": won.mean(), "of_opportunities": (won & old).sum() / begun.sum()}


def media_alone():
    """Margin of the campaign 8.3 2026 less what its media cost."""
    daily = simulate_table("channel_daily")
    own, costs = daily[daily["campaign"] == "8.3 2026"], simulate_table("costs")["amount"].sum()
    margin, spend, loaded = own["margin"].sum(), own["spend"].sum(), float(costs / daily["spend"].sum())
    ends = {"right": margin - spend, "all_costs": float(margin) - loaded * float(spend)}
    return {k: float(v) for k, v in {**ends, "revenue": own["revenue"].sum() - spend}.items()}


def simulate_table(name):
    """One table of the company."""
    return connect(simulate.HOME).table(name).to_pyarrow().to_pandas()


@cache
def four_weeks():
    """Sums of audience_daily in the last 28 days by audience, from the file."""
    rows = pd.read_csv(f"{simulate.HOME}/audience_daily.csv", parse_dates=["date"])
    rows = rows[rows["date"] > rows["date"].max() - pd.Timedelta(28, "D")]
    return rows, rows.groupby("audience").sum(numeric_only=True)


def margin_turns():
    """Lower end of conversions (Koopman's interval solved here) and of revenue, excluded by hold-out, of complaints."""
    rows, sums = four_weeks()
    mine, r = rows[rows["audience"] == "Đang khiếu nại"], sums.loc["Đang khiếu nại"]
    x, n, y, m = (float(r[c]) for c in ("excluded_conversions", "excluded", "holdout_conversions", "holdout"))

    def excess(ratio, z):
        a, b = (n + m) * ratio, -((n + y) * ratio + x + m)  # Koopman's p of the hold-out at this ratio
        p = (-b - np.sqrt(b * b - 4 * a * (x + y))) / (2 * a)
        q = ratio * p
        return x / n - ratio * y / m - z * np.sqrt(q * (1 - q) / n + ratio**2 * p * (1 - p) / m)

    z, rate = stats.norm.ppf(0.975), (x / n) / (y / m)
    low, high = optimize.brentq(excess, 0.5, rate, (z,)), optimize.brentq(excess, rate, 2, (-z,))
    spread = 0.0
    for side, k in (("excluded", x), ("holdout", y)):  # each row's mean order varies by spread / its orders
        c = mine[mine[f"{side}_conversions"] > 0]
        order, each = r[f"{side}_revenue"] / k, c[f"{side}_revenue"] / c[f"{side}_conversions"]
        spread += k * ((each - order) ** 2 @ c[f"{side}_conversions"]) / (len(c) - 1) / order**2 / (x + y)
    orders = (r["excluded_revenue"] / x) / (r["holdout_revenue"] / y)
    far = np.hypot(np.log(rate / low), z * np.sqrt(spread * (1 / x + 1 / y)))
    assert low < rate < high
    return {"right": 1 - rate * orders * np.exp(-far), "conversions_only": 1 - low, "estimate": rate - 1}


def net_without():
    """Cost that the hold-out's ads tell, less what was spent and the margin of lost orders; without abandoned carts."""
    s = four_weeks()[1].query("holdout > 0")
    saved = s["holdout_cost"] / s["holdout"] * s["excluded"] - s["excluded_cost"]
    lost = s["holdout_conversions"] / s["holdout"] * s["excluded"] - s["excluded_conversions"]
    net = saved - 125_000 * lost
    kept = net.index != "Bỏ giỏ hàng"
    return {"right": net[kept].sum(), "today": net.sum(), "gross": saved[kept].sum()}


def conversions_needed():
    """Spend on those who never click, by the margin of an order."""
    r = four_weeks()[1].loc["Không bấm trong 60 ngày"]
    order = r["included_revenue"] / r["included_conversions"]
    found = {"right": r["included_cost"] / 125_000, "had": r["included_conversions"]}
    return {**found, "revenue": r["included_cost"] / order}


def next_month():
    """Rate to expect of posts in the ten hours that were best up to 31 days before the end, shrunk."""
    data = connect(simulate.HOME)
    past = engagement.best_hours(engagement.read_posts(data, as_of=data.as_of() - timedelta(31)))
    top = past.frame.nlargest(10, "raw")
    return {"right": top["mean"].mean(), "raw": top["raw"].mean(), "usual": past.usual}


def fourth_message():
    """Share of the welcomed who got the fourth message within 28 days, as known on 31 October 2026; .78 ** 3."""
    data = connect(simulate.HOME)
    steps = engagement.follow(data, as_of=date(2026, 10, 31)).frame.set_index("name")
    sent = data.table("messages").to_pyarrow().to_pandas()
    october = sent[sent["workflow"].notna() & (sent["sent_at"].dt.strftime("%Y-%m") == "2026-10")]
    n = october[october["workflow"] == "Chào mừng"]["step"].value_counts()
    assert PLANTED["welcome"]["goes_on"][1] ** 3 == pytest.approx(
        steps["people"]["4"] / steps["people"]["1"], abs=0.015
    )
    return {
        "right": steps["people"]["4"] / steps["people"]["1"],
        "same_month": n[4] / n[1],
        "last_step": steps["share"]["4"],
    }


def two_channels():
    """People met by Email or Zalo OA in the last 28 days."""
    rows = connect(simulate.HOME).table("touchpoints").to_pyarrow().to_pandas()
    rows = rows[(rows["touched_at"] >= "2026-10-25") & rows["channel"].isin(["Email", "Zalo OA"])]
    each = rows.groupby("channel")["customer_id"].nunique()
    return {"right": rows["customer_id"].nunique(), "summed": each.sum(), "email": each["Email"]}


ALL = (
    one_repair, won_in_sixty, media_alone,
    pooled_rate, one_in_three, year_end, honest_reds, october_opens, august_drop, last_week_lift, wrong_unit,
    five_percent, still_buying, cdnow_next, most_paid, same_tenures, still_members, break_even,
    margin_turns, net_without, conversions_needed,
    rank_flips, people_needed, cost_of_one_more, next_month, fourth_message, two_channels,
)  # fmt: skip
WORKED_OUT = {f.__name__: f for f in ALL}


@pytest.mark.parametrize("exercise", lessons.EXERCISES)
def test_answers_are_those_of_the_company(exercise):
    assert lessons.EXERCISES[exercise] == pytest.approx(WORKED_OUT[exercise](), rel=1e-6)
