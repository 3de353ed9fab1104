"""Customers of public data, read by their mappings: published results, and plain pandas (skipped where absent)."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from conftest import ROOT
from scipy.stats import mannwhitneyu

from kpi_helpers import churn, clv
from kpi_helpers.errors import KpiError
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"


def counted(histories):
    return dict(zip(histories.issues.what, histories.issues.n, strict=True))


def told_of(orders, split):
    """Frequency, recency and age in days of each customer, purchases after the split: by pandas, a day at a time."""
    orders = orders.assign(on=orders["ordered_at"].dt.normalize()).drop_duplicates(["customer_id", "on"])
    known, later = orders[orders["on"] <= split], orders[orders["on"] > split]
    days = known.groupby("customer_id")["on"].agg(["min", "max", "size"])
    made = {"frequency": days["size"] - 1, "recency_days": (days["max"] - days["min"]).dt.days}
    held = later.groupby("customer_id").size().reindex(days.index, fill_value=0)
    return pd.DataFrame(made | {"age_days": (pd.Timestamp(split) - days["min"]).dt.days, "held_out": held})


def same_rows(histories, expected):
    """Unique rows with weights are what pandas counts."""
    counts = expected.value_counts().sort_index()
    found = histories.rows.set_index(list(counts.index.names))["weight"].sort_index()
    return found.index.equals(counts.index) and (found == counts).all()


# --- CDNOW ----------------------------------------------------------------------------------------------------------
# Fader & Hardie, brucehardie.com; digits of README.md of the data (lifetimes, CLVTools tests) and of
# ../shared/reference/clv_churn.md, sections 3a, 3b, 3d
SPLIT = "1997-09-30"


@pytest.fixture(scope="module", params=["cdnow_sample", "cdnow"])
def cdnow(request, real_data):
    source = connect(real_data("cdnow"), MAPPINGS / f"{request.param}.yaml")
    orders = source.table("orders")
    read = orders.to_pyarrow().to_pandas()
    return request.param, read, clv.summarise(orders, split=SPLIT, currency=source.currency())


def test_cdnow_is_read_as_published(cdnow):
    name, orders, past = cdnow
    n, customers, money, merged, free = {
        "cdnow": (69_659, 23_570, "2500315.63", 2068, 80), "cdnow_sample": (6919, 2357, "244091.94", 223, 8)
    }[name]  # fmt: skip

    assert (len(orders), orders["customer_id"].nunique(), orders["revenue"].sum()) == (n, customers, Decimal(money))
    assert set(orders["customer_id"].str.len()) == {5 if name == "cdnow" else 4} and orders["order_id"].is_unique
    assert (orders["ordered_at"].min(), orders["ordered_at"].max()) == tuple(
        map(pd.Timestamp, ("1997-01-01", "1998-06-30"))
    )
    assert counted(past) == {"merged": merged, "free": free} and past.currency == "USD"
    assert same_rows(past, told_of(orders, SPLIT))


@pytest.mark.parametrize("cdnow", ["cdnow_sample"], indirect=True)
def test_summary_and_fits_of_cdnow_are_the_published_ones(cdnow, real_data):
    _name, _orders, past = cdnow
    printed = pd.read_csv(real_data("cdnow") / "cdnow_customers_summary.csv")
    each = past.table.order_by("customer_id").to_pyarrow().to_pandas()

    assert each["customer_id"].astype(int).tolist() == printed["ID"].tolist()  # 0001 is 1
    assert each["frequency"].tolist() == printed["frequency"].tolist() and printed["frequency"].sum() == 2457
    assert (each["frequency"] == 0).sum() == 1411
    for ours, theirs in (("recency_days", "recency"), ("age_days", "T")):
        assert (each[ours] / 7 - printed[theirs]).abs().max() < 0.005
    purchases, spend = clv.fit_models(past)
    assert list(purchases.estimate) == pytest.approx([0.2425945, 4.4136026, 0.792922, 2.4259072], rel=1e-6)
    assert purchases.log_likelihood == pytest.approx(-9582.429207, abs=1e-6)
    assert list(spend.estimate) == pytest.approx([6.2496, 3.7442, 15.4435], abs=5e-5)
    assert spend.log_likelihood == pytest.approx(-4055.9177, abs=5e-5) and spend.n_customers == 946


def test_every_model_foresees_too_little_of_cdnow(cdnow):
    name, _orders, past = cdnow
    error = clv.compare_models(past).frame.set_index("model")["error"]

    assert error[["bg/nbd", "pareto/nbd"]].between(-0.17, -0.11).all()
    assert error["mbg/nbd"] == pytest.approx(-0.162 if name == "cdnow_sample" else -0.191, abs=5e-4)
    assert error["pace"] > 0.45


# --- a grocer: a sample of the lines of baskets, no refunds, many free ------------------------------------------------


@pytest.fixture(scope="module")
def grocery(real_data):
    folder = real_data("grocery-campaigns")
    lines = pd.read_csv(folder / "transactions_sample.csv.gz", dtype={"basket_id": str, "household_id": str})
    whole = lines.groupby("basket_id").agg(
        customer_id=("household_id", "min"), ordered_at=("transaction_timestamp", "min"), revenue=("sales_value", "sum")
    )
    baskets = whole.assign(ordered_at=pd.to_datetime(whole["ordered_at"]).dt.tz_localize(None))
    return lines, baskets, connect(folder, MAPPINGS / "grocery_campaigns.yaml").table("orders")


def test_grocery_histories_reconcile(grocery):
    lines, baskets, orders = grocery
    past, now = clv.summarise(orders, split=SPLIT.replace("1997", "2017")), clv.summarise(orders)
    days = baskets.assign(on=baskets["ordered_at"].dt.normalize()).groupby(["customer_id", "on"])["revenue"].sum()

    assert (lines["sales_value"] <= 0).sum() == 528 and lines["sales_value"].min() == 0  # its README: free, not refunds
    merged, free = len(baskets) - len(days), int((days.round(6) == 0).sum())
    assert counted(now) == {"merged": merged, "free": free} and min(merged, free) > 200
    assert now.n_customers == 2377 and past.n_customers + counted(past)["after_split"] == 2377
    assert same_rows(past, told_of(baskets, "2017-09-30"))
    first = days.index.get_level_values("on") == days.groupby("customer_id").transform(
        lambda own: own.index.get_level_values("on").min()
    )
    again = days[~first].groupby("customer_id").mean().sort_index()
    each = now.table.filter(now.table.frequency > 0).order_by("customer_id").to_pyarrow().to_pandas()
    assert each["customer_id"].tolist() == again.index.tolist()
    assert each["mean_value"].to_numpy() == pytest.approx(again.to_numpy(), abs=1e-9)


def test_grocery_models_segments_and_scores_reconcile(grocery):
    _lines, baskets, orders = grocery
    past = clv.summarise(orders, split="2017-09-30")
    compared, segments = clv.compare_models(past), clv.rfm(clv.summarise(orders))
    expected = told_of(baskets, "2017-09-30")

    assert compared.actual == expected["held_out"].sum()
    assert compared.frame["predicted"].between(11_400, 11_800).all()  # hardly anybody leaves: all go on at their pace
    pace = expected["frequency"] / expected["age_days"].clip(lower=1) * 93
    row = compared.frame.set_index("model").loc["pace"]
    assert (row["predicted"], row["mae"]) == pytest.approx((pace.sum(), (pace - expected["held_out"]).abs().mean()))
    assert (sum(segments.n), sum(segments.revenue)) == (2377, pytest.approx(233_935.24))
    learn, judge = (churn.snapshot(orders, day).to_pyarrow().to_pandas() for day in ("2017-06-30", "2017-09-30"))
    stayed = baskets[baskets["ordered_at"].between("2017-10-01", "2017-12-29 23:59:59.9")]["customer_id"].unique()
    seen = baskets[baskets["ordered_at"] < "2017-10-01"]
    judge = judge.set_index("customer_id").sort_index()
    assert judge.index.tolist() == sorted(seen["customer_id"].unique())
    assert judge["churned"].tolist() == (~judge.index.isin(stayed)).astype(int).tolist()
    assert judge["n_orders"].tolist() == seen.groupby("customer_id").size().sort_index().tolist()
    chance = churn.fit_churn(learn, features=["n_orders", "recency_days", "tenure_days"]).score(judge)
    left = judge["churned"].to_numpy() == 1
    beaten = mannwhitneyu(chance[left], chance[~left]).statistic / left.sum() / (~left).sum()
    assert churn.evaluate(judge["churned"], chance).auc == pytest.approx(beaten) and beaten > 0.8


# --- a telecom: a contract, tenures but no dates ------------------------------------------------------------------
NUMBERS, WORDS = ["tenure", "MonthlyCharges", "SeniorCitizen"], ["Contract", "InternetService", "PaymentMethod"]


@pytest.fixture(scope="module")
def telco(real_data):
    rows = pd.read_csv(real_data("telco-churn") / "Telco-Customer-Churn.csv.gz")
    return rows.assign(churned=(rows["Churn"] == "Yes").astype(int))


def test_telco_survival_by_contract(telco):
    curves = churn.survival(telco["tenure"], telco["churned"], groups=telco["Contract"])
    start = curves.frame[curves.frame["time"] == 0]
    ends = curves.medians.set_index("group").eval("events / n")

    assert telco["churned"].mean() == pytest.approx(0.26537, abs=5e-6)  # its README, and the next line
    assert ends.round(4).to_dict() == {"Month-to-month": 0.4271, "One year": 0.1127, "Two year": 0.0283}
    # eleven customers of this month are counted, at risk for no time
    assert start["events"].sum() == 0 and (start["survival"] == 1).all() and curves.medians["n"].sum() == 7043
    assert curves.frame[curves.frame["time"] == 1]["at_risk"].sum() == 7032
    for contract, own in telco.groupby("Contract"):
        share = 1.0
        for month in range(1, 25):
            at_risk = own["tenure"] >= month
            share *= 1 - own["churned"][own["tenure"] == month].sum() / at_risk.sum()
        told = curves.frame[(curves.frame["group"] == contract) & (curves.frame["time"] <= 24)]
        assert told["survival"].iloc[-1] == pytest.approx(share)


def test_telco_blanks_are_told_not_guessed(telco):
    blank = telco.assign(TotalCharges=pd.to_numeric(telco["TotalCharges"], errors="coerce"))

    with pytest.raises(KpiError, match="TotalCharges: more than 200 levels, an id or numbers as text"):
        churn.fit_churn(telco, features=["TotalCharges"])
    with pytest.raises(KpiError, match="TotalCharges in 11 of 7043 rows"):
        churn.fit_churn(blank, features=["TotalCharges"])
    assert (blank["TotalCharges"].isna() == (telco["tenure"] == 0)).all()  # new this month: nothing was charged yet
    assert churn.fit_churn(blank.fillna({"TotalCharges": 0}), features=["TotalCharges"]).n == 7043
    with pytest.raises(KpiError, match=r"TechSupport=No internet service, PhoneService=Yes: .*follow"):
        churn.fit_churn(telco, features=["InternetService", "TechSupport", "MultipleLines", "PhoneService"])


def test_telco_score_of_the_other_half(telco):
    train, rest = telco.iloc[::2], telco.iloc[1::2]
    found = churn.fit_churn(train, features=NUMBERS + WORDS).score(rest)

    # the same by iteratively reweighted least squares on raw columns
    x = pd.get_dummies(telco[NUMBERS + WORDS], columns=WORDS, drop_first=True, dtype=float).assign(one=1.0)
    fitted = sm.GLM(train["churned"], x.iloc[::2], family=sm.families.Binomial()).fit()
    assert found == pytest.approx(np.asarray(fitted.predict(x.iloc[1::2])), abs=1e-7)
    left = rest["churned"].to_numpy() == 1
    told = churn.evaluate(rest["churned"], found)
    assert told.auc == pytest.approx(mannwhitneyu(found[left], found[~left]).statistic / left.sum() / (~left).sum())
    assert 0.82 < told.auc < 0.86 and told.brier < 0.75 * told.brier_base
    assert not churn.check_leakage(telco, "churned", NUMBERS + WORDS).frame["alarm"].any()


def test_telco_campaign_pays_as_the_customers_who_left_say(telco):
    train, rest = telco.iloc[::2], telco.iloc[1::2]
    chance = churn.fit_churn(train, features=NUMBERS + WORDS).score(rest)
    value, left = 12 * rest["MonthlyCharges"].to_numpy(), rest["churned"].to_numpy()
    made = churn.campaign_profit(chance, value, contact_cost=1, offer_cost=20, acceptance=0.3, currency="USD")

    def profit(gone):  # Verbraken, Verbeke & Baesens (2013), by who goes
        return gone * (0.3 * (value - 20) - 1) - (1 - gone) * (20 + 1)

    contact = made.customers["contact"].to_numpy()
    assert made.customers["profit"].to_numpy() == pytest.approx(profit(chance))
    assert made.total == pytest.approx(max(np.cumsum(np.sort(profit(chance))[::-1]).max(), 0))
    assert made.total_low < profit(left)[contact].sum() < made.total_high  # they were not asked for their acceptance
    assert profit(left)[~contact].mean() < 0 < made.everybody < made.total
