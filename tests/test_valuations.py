"""What customers will bring: discounting, every customer in the engine, groups with intervals, new customers."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from kpi_helpers import histories, newcomers, valuations
from kpi_helpers.errors import KpiError
from kpi_helpers.purchases import PurchaseFit, fit_purchases
from kpi_helpers.spending import fit_spend
from kpi_helpers.units import as_table

# published for CDNOW: Fader, Hardie & Lee (2005), both papers
PARETO = PurchaseFit.at({"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669}, model="pareto/nbd")
BG = PurchaseFit.at({"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}, model="bg/nbd")


@pytest.fixture(scope="module")
def cdnow(cdnow_orders):
    return histories.summarise(cdnow_orders, end="1997-09-30", currency="USD")


@pytest.mark.parametrize("fit", [PARETO, BG], ids=["pareto/nbd", "bg/nbd"])
@pytest.mark.parametrize("rate", [0.0, 0.0027, 0.05])
def test_discounting_is_that_of_each_purchase_at_its_time(fit, rate):
    def speed(t):
        return (fit.expected_purchases(t + 1e-4, 2, 30.43, 38.86) - fit.expected_purchases(t, 2, 30.43, 38.86)) / 1e-4

    expected = quad(lambda t: np.exp(-rate * t) * speed(t), 0, 52, epsabs=1e-9)[0]

    found = valuations.discounted(lambda t: fit.expected_purchases(t, 2, 30.43, 38.86), 52.0, rate)

    assert float(found) == pytest.approx(expected, rel=2e-5)


def test_a_whole_life_is_the_limit_of_long_horizons():
    """15% a year of continuous compounding, 0.0027 a week, as in Fader, Hardie & Lee (2005), JMR."""
    told = (2, 30.43, 38.86)

    whole = valuations.for_life(PARETO, *told, rate=0.0027)
    # by parts, with the time as -log(u) / rate: rate x exp(-rate t) dt = -du
    limit = quad(lambda u: float(PARETO.expected_purchases(-np.log(u) / 0.0027, *told)), 0, 1, limit=200)[0]

    assert float(whole) == pytest.approx(limit, rel=1e-6)
    assert whole > valuations.discounted(lambda t: PARETO.expected_purchases(t, *told), 520.0, 0.0027)


def test_a_whole_life_needs_a_closed_form_and_a_discount():
    with pytest.raises(KpiError, match="bg/nbd has no closed form"):
        valuations.for_life(BG, 2, 30.43, 38.86, rate=0.0027)
    with pytest.raises(KpiError, match=r"rate=0 must be above 0"):
        valuations.for_life(PARETO, 2, 30.43, 38.86, rate=0)


# spend in the 39 weeks after, by products of lifetimes' predictions: ../shared/reference/clv_churn.md, section 3d;
# from t_x and T of two decimals, hence the tolerance
@pytest.mark.parametrize(("model", "spend"), [("bg/nbd", 59_932), ("pareto/nbd", 60_449)])
def test_spend_of_cdnow_is_as_measured_elsewhere(cdnow, model, spend):
    fits = valuations.fit_models(cdnow, model)

    total = valuations.value(cdnow, *fits, horizon="39 weeks", discount=0).segments().total

    assert total["clv"] == pytest.approx(spend, rel=5e-4)
    assert total["clv"] / 70_976 - 1 == pytest.approx({"bg/nbd": -0.156, "pareto/nbd": -0.148}[model], abs=1e-3)


def test_customers_are_valued_in_the_engine_as_one_by_one(cdnow):
    purchases, spend = valuations.fit_models(cdnow, "bg/nbd")
    valued = valuations.value(cdnow, purchases, spend, horizon="1 year", discount=0.1, margin=0.3)
    rows = valued.table.order_by("customer_id").to_pyarrow().to_pandas()
    told = [rows["frequency"].astype(float), rows["recency_days"] / 7, rows["age_days"] / 7]

    each = valuations.discounted(lambda t: purchases.expected_purchases(t, *told), 365.25 / 7, np.log(1.1) * 7 / 365.25)
    expected = 0.3 * each * spend.expected_spend(told[0], rows["mean_value"].fillna(0))

    assert len(rows) == 2357
    assert rows["clv"].to_numpy() == pytest.approx(np.asarray(expected), rel=1e-9)
    assert rows["p_alive"].to_numpy() == pytest.approx(purchases.probability_alive(*told), rel=1e-12)
    assert (rows["purchases_low"] <= rows["purchases_high"]).all()
    assert rows.groupby("tenth")["clv"].min().is_monotonic_decreasing
    assert not any(name.startswith(" ") for name in rows)


@pytest.mark.parametrize("fit", [PARETO, BG], ids=["pareto/nbd", "bg/nbd"])
def test_a_customer_s_range_holds_its_tails_tightly(fit):
    told = [np.array(v, float) for v in ((0, 2, 26, 300), (0, 30.43, 30.86, 38), (39, 38.86, 31, 38.86))]

    low, high, _squared = valuations._spread(fit, 39.0, told, 0.9)

    assert (1 - fit.chance_of(low, 39, *told) <= 0.05).all() and (1 - fit.chance_of(low + 1, 39, *told) > 0.05).all()
    assert (fit.chance_of(high + 1, 39, *told) <= 0.05).all()
    assert (fit.chance_of(np.maximum(high, 1), 39, *told)[high > 0] > 0.05).all()


def test_groups_add_up_and_scale_with_the_margin(cdnow):
    fits = valuations.fit_models(cdnow, "mbg/nbd")
    one, part = (valuations.value(cdnow, *fits, margin=m).segments() for m in (None, 0.25))

    assert one.frame["clv"].sum() == pytest.approx(one.total["clv"])
    assert one.frame["customers"].sum() == 2357
    assert part.frame[["clv", "clv_low", "clv_high"]].to_numpy() == pytest.approx(
        0.25 * one.frame[["clv", "clv_low", "clv_high"]].to_numpy()
    )
    assert "revenue" in one.sentence()
    assert "lợi nhuận gộp" in part.sentence("vi")


def simulated(seed, n=1500):
    """Histories up to week 52 of customers of MBG/NBD with Gamma-Gamma spend, and what they paid in the year after."""
    rng = np.random.default_rng(seed)
    rate, leave, scale = rng.gamma(0.8, 1 / 12, n), rng.beta(1.0, 3.0, n), rng.gamma(8.0, 1 / 400, n)
    lines, later = [], 0.0
    for i in range(n):
        at, x, last, total = first, *_ = (rng.uniform(0, 20), -1, 0.0, 0.0)
        while at < 104:
            paid = rng.gamma(6.0, 1 / scale[i])
            if at < 52:
                x, last, total = x + 1, at - first, total + (paid if x >= 0 else 0)
            else:
                later += paid
            at = 105 if rng.random() < leave[i] else at + rng.exponential(1 / rate[i])
        lines.append((i, x, last, 52 - first, total / x if x else np.nan))
    return pd.DataFrame(lines, columns=["customer_id", "frequency", "recency", "age", "mean_value"]), later


def test_the_interval_of_a_total_holds_what_customers_do():
    """80% intervals of 40 simulated companies; 99% of Binomial(40, 0.8) lies between 25 and 38."""
    held = 0
    for seed in range(40):
        rows, later = simulated(seed)
        keys = {f"{name}_days": np.round(rows[name] * 1e6).astype(int) for name in ("recency", "age")}
        rows = rows.assign(**keys, weight=1)
        known = rows[rows["frequency"] > 0]
        fits = (
            fit_purchases(rows["frequency"], rows["recency"], rows["age"], model="mbg/nbd", unit="week"),
            fit_spend(known["frequency"], known["mean_value"]),
        )
        table = as_table(rows[["customer_id", "frequency", *keys, "mean_value"]])
        past = histories.Histories.__new__(histories.Histories)
        whole = {"table": table, "rows": rows, "unit": "week", "currency": "", "margin": None}
        for name, value in whole.items():
            object.__setattr__(past, name, value)
        total = valuations.value(past, *fits, horizon="52 weeks", discount=0).segments().total
        held += total["clv_low"] <= later <= total["clv_high"]

    assert 25 <= held <= 38


def test_new_customers_are_worth_their_first_and_later_purchases(cdnow_orders):
    orders = cdnow_orders.assign(channel=np.where(cdnow_orders["customer_id"].astype(int) % 2, "odd", "even"))
    past = histories.summarise(orders, end="1997-09-30", by="channel")

    found = newcomers.new_customers(past, "channel", cac={"odd": 30.0}, horizon="39 weeks", discount=0, margin=0.5)

    row = found.frame.set_index("group").loc["odd"]
    own = orders[(orders["channel"] == "odd") & (orders["ordered_at"] <= "1997-09-30")]
    days = own.groupby(["customer_id", "ordered_at"])["revenue"].sum().reset_index()
    first = days.sort_values("ordered_at").groupby("customer_id")["revenue"].first()
    later = days["revenue"].sum() - first.sum()
    rows = past.rows[past.rows["channel"] == "odd"]
    fit = fit_purchases(rows["frequency"], rows["recency"], rows["age"], weights=rows["weight"])
    each = first.mean() + fit.expected_new(39) * later / (len(days) - len(first))
    assert row["first"] == pytest.approx(0.5 * first.mean())
    assert row["value"] == pytest.approx(0.5 * each)
    assert row["ratio"] == pytest.approx(0.5 * each / 30)
    assert row["value_low"] < row["value"] < row["value_high"]
    assert 0 < row["payback_days"] < 273
    back = newcomers.new_customers(past, "channel", horizon=f"{row['payback_days']:.6f} days", discount=0, margin=0.5)
    assert back.frame.set_index("group").loc["odd", "value"] == pytest.approx(30.0, rel=0.01)
    assert np.isnan(found.frame.set_index("group").loc["even", "cac"])


def test_what_is_at_stake_is_less_than_all_that_a_buyer_is_worth(cdnow):
    fits = valuations.fit_models(cdnow, "mbg/nbd")
    valued = (
        valuations.value(cdnow, *fits, horizon="52 weeks", discount=0)
        .table.order_by("customer_id")
        .to_pyarrow()
        .to_pandas()
    )
    staked = valuations.at_stake(cdnow, *fits, silent_days=91, horizon="52 weeks", discount=0)
    staked = staked.order_by("customer_id").to_pyarrow().to_pandas()["at_stake"].to_numpy()
    told = [valued["frequency"].astype(float), valued["recency_days"] / 7, valued["age_days"] / 7]

    quiet = fits[0].expected_purchases(39, told[0], told[1], told[2] + 13)
    expected = (valued["purchases"] / valued["p_alive"] - quiet) * valued["spend"]

    assert staked == pytest.approx(expected.to_numpy().clip(0), rel=1e-9)
    assert (staked <= (valued["clv"] / valued["p_alive"]).to_numpy() + 1e-9).all() and staked.mean() > 0
    with pytest.raises(KpiError, match="silent_days=400 must lie between"):
        valuations.at_stake(cdnow, *fits, silent_days=400)


def test_media_cost_is_spend_per_new_customer():
    from datetime import date

    days = pd.DataFrame({
        "date": [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 1), date(2025, 1, 1)],
        "channel": ["Ads", "Ads", "Direct", "Ads"], "spend": [100, 50, 0, 900], "new_customers": [10, 20, 5, 1],
    })  # fmt: skip

    assert newcomers.media_cost(as_table(days), since=date(2026, 1, 1), until=date(2026, 1, 31)) == {"Ads": 5.0}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"discount": -0.1}, "discount=-0.1 is below 0"), ({"margin": 30}, r"margin=30 is not in \(0, 1\]"),
        ({"horizon": "0 weeks"}, "nothing can be bought"), ({"horizon": "soon"}, "is not a time"),
        ({"confidence": 80}, "confidence=80"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_named(cdnow, options, told):
    with pytest.raises(KpiError, match=told):
        valuations.value(cdnow, *valuations.fit_models(cdnow), **options)


def test_groups_that_are_not_known_are_named(cdnow):
    with pytest.raises(KpiError, match="do not know 'channel'"):
        newcomers.new_customers(cdnow, "channel")
    with pytest.raises(KpiError, match="no column 'city'"):
        valuations.value(cdnow, *valuations.fit_models(cdnow)).segments("city")
