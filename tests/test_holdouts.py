"""Models judged on time that they have not seen."""

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import histories, holdouts
from kpi_helpers.errors import KpiError

# CDNOW, weeks 40 to 78: measured with lifetimes 0.11.3 on the published summary, and by sums of the transactions;
# ../shared/reference/clv_churn.md, section 3d, printed to these digits.
CDNOW = {
    "bg/nbd": (1653.4, -0.1215, 0.7855, 1.6080, 0.7725), "mbg/nbd": (1576.7, -0.1622, 0.7648, 1.6072, 0.7728),
    "pareto/nbd": (1665.5, -0.1150, 0.7545, 1.6028, 0.7787), "pace": (2930.1, 0.557, 1.0237, 2.2119, None),
}  # fmt: skip
BY_X = [0.237, 0.697, 1.393, 1.560, 2.532, 2.947, 3.862, 6.359]


@pytest.fixture(scope="module")
def cdnow(cdnow_orders):
    return histories.summarise(cdnow_orders, split="1997-09-30", end="1998-06-30", currency="USD")


@pytest.fixture(scope="module")
def compared(cdnow):
    return holdouts.compare_models(cdnow)


@pytest.mark.parametrize("model", CDNOW)
def test_the_holdout_of_cdnow_is_as_measured_elsewhere(compared, model):
    row = compared.frame.set_index("model").loc[model]

    assert compared.actual == 1882
    for name, value, half in zip(
        ("predicted", "error", "mae", "rmse", "auc"), CDNOW[model], (0.1, 1e-3, *[6e-5] * 3), strict=True
    ):
        assert value is None or row[name] == pytest.approx(value, abs=half), name


def test_every_model_foresees_too_little_of_cdnow(compared):
    error = compared.frame.set_index("model")["error"][list(compared.fits)]

    assert error.between(-0.165, -0.11).all()


def test_calibration_tells_what_groups_did(compared):
    assert compared.calibration["actual"].round(3).tolist() == BY_X


def test_the_model_that_made_the_data_is_the_best():
    rng, n = np.random.default_rng(7), 6000
    rate, leave = rng.gamma(0.8, 1 / 16, n), rng.beta(1.0, 3.0, n)
    orders = []
    for i in range(n):  # one by one, as MBG/NBD tells it: a coin after each purchase, the first one too
        at = rng.uniform(0, 26)
        while at < 104:
            orders.append((i, at))
            at = 105 if rng.random() < leave[i] else at + rng.exponential(1 / rate[i])
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta((7 * np.array([at for _i, at in orders])).astype(int), unit="D")
    table = pd.DataFrame({"customer_id": [i for i, _at in orders], "ordered_at": days})

    found = holdouts.compare_models(histories.summarise(table, split="2025-01-01", end="2025-12-28"))

    assert found.best.model == "mbg/nbd"
    assert abs(found.frame.set_index("model").loc["mbg/nbd", "error"]) < 0.06


def test_the_planted_customers_are_found_again():
    """Paces are gamma with shape 0.8; a chance to stop after each order is planted by channel."""
    from kpi_helpers.records import PLANTED
    from kpi_helpers.valuations import fit_models

    found = {}
    every = pd.read_parquet(
        "data/demo/orders.parquet", columns=["customer_id", "ordered_at", "status", "channel", "revenue"]
    )
    first = (
        every.sort_values("ordered_at", kind="stable")
        .drop_duplicates("customer_id")
        .set_index("customer_id")["channel"]
    )
    for channel in ("Email", "Direct", "Paid social"):
        own = every[every["customer_id"].map(first) == channel]
        fit = fit_models(histories.summarise(own), "mbg/nbd")[0].parameters
        found[channel] = fit["a"] / (fit["a"] + fit["b"])
        assert fit["r"] == pytest.approx(PLANTED["pace_shape"], rel=0.1)
        # days with two orders are one purchase with two chances to stop
        assert found[channel] == pytest.approx(PLANTED["channels"][channel]["stops"], abs=0.05)
    assert found["Email"] < found["Direct"] < found["Paid social"]


def test_tracking_adds_up_to_all_repeat_purchases(cdnow, cdnow_orders, compared):
    tracked = holdouts.track(cdnow, cdnow_orders, compared.fits["bg/nbd"])
    rows = cdnow.rows

    assert tracked.actual[-1] == (rows["weight"] * (rows["frequency"] + rows["held_out"])).sum()
    new = compared.fits["bg/nbd"].expected_new(rows["age"] + (cdnow.end - cdnow.split).days / 7)
    assert tracked.expected[-1] == pytest.approx((rows["weight"] * new).sum(), rel=1e-9)
    assert (np.diff(tracked.expected) >= 0).all()


def test_without_a_split_nothing_can_be_judged(cdnow_orders):
    with pytest.raises(KpiError, match="Give split="):
        holdouts.compare_models(histories.summarise(cdnow_orders))


def test_nobody_buying_in_the_holdout_is_no_error(cdnow_orders):
    known = cdnow_orders[cdnow_orders["ordered_at"] <= "1997-09-30"]

    found = holdouts.compare_models(histories.summarise(known, split="1997-09-30", end="1998-06-30"), ["bg/nbd"])

    assert found.actual == 0
    assert found.frame["error"].isna().all()
    assert "0" in found.sentence()
