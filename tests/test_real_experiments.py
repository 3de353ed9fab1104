"""Experiments on public data: the known results of their own descriptions (skipped where the data are absent)."""

import pytest
from conftest import ROOT
from scipy import stats

from kpi_helpers.experiments import analyse, mean, rate
from kpi_helpers.sources import connect

WHO = {"unit": "unit_id", "variant": "variant", "control": "No E-Mail"}
ARMS = ["Mens E-Mail", "Womens E-Mail"]


@pytest.fixture(scope="module")
def mailing(real_data):
    """64,000 customers in three arms."""
    return connect(real_data("hillstrom-email"), ROOT / "data" / "mappings" / "hillstrom.yaml").table(
        "experiment_units"
    )


def test_each_row_is_a_customer_and_the_split_is_as_planned(mailing):
    made = analyse(mailing, **WHO, metrics=[rate("converted")])

    assert made.split.n_units == (21_307, 21_306, 21_387)
    assert made.split.p_value == pytest.approx(stats.chi2.sf(0.2025, 2), abs=5e-5)
    assert made.warnings == {}  # 6,562 rows repeat another: they are customers all the same


# README of the data: pooled two-proportion z against No E-Mail, Welch's t on spend
@pytest.mark.parametrize(
    ("metric", "z"),
    [(rate("sessions"), (22.486, 13.949)), (rate("converted"), (7.385, 3.780)), (mean("revenue"), (5.300, 3.256))],
)
def test_published_statistics_come_out(mailing, metric, z):
    frame = analyse(mailing, **WHO, metrics=[metric]).to_frame().set_index("variant")

    for arm, known in zip(ARMS, z, strict=True):
        law = stats.t(36_000) if metric.kind == "mean" else stats.norm  # Welch's degrees of freedom, by their sd
        assert law.isf(frame.loc[arm, "p_value"] / 2) == pytest.approx(known, abs=5e-4)
        assert frame.loc[arm, "decision"] == "better"


def test_published_levels_come_out(mailing):
    asked = [rate("converted"), rate("sessions"), mean("revenue")]
    made = analyse(mailing, **WHO, metrics=asked, segments=["segment"])
    frame = made.to_frame()

    whole = frame[frame["dimension"] == ""].set_index(["metric", "variant"])
    shares = {"sessions": (0.1828, 0.1514, 0.1062), "converted": (0.01253, 0.00884, 0.00573),
              "revenue": (1.4226, 1.0772, 0.6528)}  # fmt: skip
    for metric, (mens, womens, none) in shares.items():
        rows = whole.loc[metric]
        found = (*rows.loc[ARMS, "treatment_value"], rows.loc[ARMS[0], "control_value"])
        assert found == pytest.approx((mens, womens, none), abs=5e-5)
    assert made.verdicts == dict.fromkeys(ARMS, "ship")
    assert set(frame["segment"]) == {"", "Phone", "Web", "Multichannel"}
    assert made.interactions["p_difference"].max() < 0.01  # the total over channels agrees with the whole


def test_spend_of_the_year_before_says_little_about_two_weeks(mailing):
    plain = analyse(mailing, **WHO, metrics=[mean("revenue")]).to_frame()
    sharp = analyse(mailing, **WHO, metrics=[mean("revenue", pre="revenue_before")])

    assert "pre_balance" not in sharp.warnings
    width = [f["difference_high"] - f["difference_low"] for f in (plain, sharp.to_frame())]
    assert (width[1] / width[0]).tolist() == pytest.approx([1, 1], abs=0.01)


def test_response_by_segment_is_a_comparison_and_no_experiment(real_data):
    """campaign-response assigned nobody to a variant: education is what customers are, so a difference is no effect."""
    source = connect(real_data("campaign-response"), ROOT / "data" / "mappings" / "campaign_response.yaml")
    messages, customers = source.table("messages"), source.table("customers")
    last = messages.filter(messages.campaign == "Campaign 6")
    units = last.join(customers.select("customer_id", education="segment"), "customer_id")

    made = analyse(units, unit="customer_id", variant="education", control="Graduation", metrics=[rate("replied")])

    assert sum(made.split.n_units) == 2240
    assert made.split.alarm  # nobody planned one fifth of customers in each level of education
    assert set(made.to_frame()["decision"]) == {"invalid"}
    replied = made.to_frame().eval("treatment_value * n_treatment").sum()
    control = made.to_frame().loc[0, ["control_value", "n_control"]].prod()
    assert replied + control == pytest.approx(334)
