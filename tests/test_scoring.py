"""Every KPI of the catalogue against a shop small enough to work it out by hand; intervals against their sources."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from small_shop import BY_HAND, tables
from statsmodels.duration.survfunc import SurvfuncRight

from kpi_helpers import kpis
from kpi_helpers.errors import KpiError
from kpi_helpers.kpis import catalogue, scorecard
from kpi_helpers.stats import kaplan_meier, poisson_interval, rate_difference

END = date(2026, 3, 10)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    from conftest import Engine

    engine = Engine("duckdb", tmp_path_factory.mktemp("shop"))
    yield engine.source(tables())
    engine.close()


@pytest.fixture(scope="module")
def scored(shop):
    return scorecard(shop, end=END).set_index("kpi")


def test_the_hand_knows_every_kpi():
    assert set(BY_HAND) == {k.id for k in catalogue()} and len(catalogue()) >= 75


@pytest.mark.parametrize("key", BY_HAND)
def test_kpi_worked_out_by_hand(scored, key):
    above, below, *other = BY_HAND[key]
    row = scored.loc[key]

    assert (row["numerator"], row["denominator"]) == pytest.approx((above, below), rel=1e-12, nan_ok=True)
    want = other[0] if other else above / below if below == below else above
    assert row["value"] == pytest.approx(want, rel=1e-12)
    assert row["note"] == "" and (row["unit"], row["direction"]) == (catalogue()[key].unit, catalogue()[key].direction)


def test_every_kpi_has_an_interval_around_its_value(scored):
    few = {"conv_time", "sales_cycle"}  # of three or four durations the upper end is open
    told = scored.drop(index=few)

    assert (told["low"] <= told["value"] + 1e-12).all() and (told["value"] <= told["high"] + 1e-12).all()


def test_the_other_engine_says_the_same(postgres_engine, scored):
    other = scorecard(postgres_engine.source(tables()), end=END).set_index("kpi")

    numbers = ["value", "low", "high", "numerator", "denominator"]
    pd.testing.assert_frame_equal(other[numbers].astype(float), scored[numbers].astype(float), rtol=1e-12)


def test_a_weighted_rate_is_not_the_mean_of_rates(shop):
    by_channel = scorecard(shop, ["order_rate_session"], by="channel", end=END)
    whole = scorecard(shop, ["order_rate_session"], end=END)["value"][0]

    assert whole == pytest.approx(13 / 350)  # channels: 6/120, 4/110, 3/120
    assert by_channel["value"].dropna().mean() == pytest.approx((6 / 120 + 4 / 110 + 3 / 120) / 3)
    assert whole != pytest.approx(by_channel["value"].dropna().mean(), rel=1e-4)


def test_people_do_not_add_up_over_days(shop):
    days = scorecard(shop, ["visitors"], grain="day", end=END)
    months = scorecard(shop, ["visitors"], grain="month", end=END)

    assert months["value"].tolist() == [4, 2]  # v1 to v4 in February, v1 and v3 in March
    assert days["value"].sum() == 8 and scorecard(shop, ["visitors"], end=END)["value"][0] == 4


def test_a_level_is_the_last_one_and_adds_up_over_segments(shop):
    told = scorecard(shop, ["followers", "mrr"], grain="month", end=END).set_index(["kpi", "period"])["value"]

    assert told["followers"].tolist() == [500, 530]
    assert told["mrr"].tolist() == [300, 400, 400]  # s1 + s2, s1 + s3, and so on 10 March


def test_period_kpis_compare_each_period_with_the_one_before(shop):
    told = scorecard(shop, ["retention_rate", "interaction_change"], grain="month", end=END)
    kept = told[told["kpi"] == "retention_rate"].set_index("period")

    assert kept.loc[pd.Timestamp("2026-02-01"), ["numerator", "denominator"]].tolist() == [1, 2]
    march = kept.loc[pd.Timestamp("2026-03-01")]  # c1, c3, c5, c7 bought in February; none of them so far
    assert (march["numerator"], march["denominator"], march["note"]) == (0, 4, "the period is not over")


def test_dimensions_of_one_table_are_lacking_in_another(shop):
    told = scorecard(shop, ["orders", "mql", "conv_rate_user"], by=("channel", "campaign"), end=END).set_index("kpi")

    assert told.loc[["orders"], "value"].sum() == 13
    assert told.loc["mql", "note"] == "cannot be computed: lead_stages.campaign is missing"
    assert "web_events.campaign" in told.loc["conv_rate_user", "note"] and np.isnan(told.loc["conv_rate_user", "value"])


def test_missing_columns_and_tables_are_named_and_the_rest_computes(duckdb_engine):
    rows = pd.DataFrame({"date": [END], "channel": "A", "sessions": 10, "orders": 2, "conversions": 12})
    told = scorecard(duckdb_engine.source(rows)).set_index("kpi")

    assert told.loc["order_rate_session", "value"] == 0.2
    assert told.loc["roi", "note"] == "cannot be computed: channel_daily.margin, channel_daily.spend is missing"
    assert told.loc["mql", "note"] == "cannot be computed: leads is missing"
    assert told.loc["conv_rate_session", "value"] == 1.2  # flagged, not clipped
    assert told.loc["conv_rate_session", "note"].startswith("above 100%")
    assert set(told.index[told["value"].notna()]) == {
        "orders", "order_rate_session", "sessions", "conversions", "conv_rate_session"}  # fmt: skip


def test_a_denominator_of_zero_gives_no_value_and_says_so(duckdb_engine):
    rows = pd.DataFrame({"date": [END], "channel": "A", "sessions": 0, "orders": 2})
    row = scorecard(duckdb_engine.source(rows), ["order_rate_session"]).iloc[0]

    assert np.isnan(row["value"]) and row["note"] == "cannot be computed: the denominator is 0"


@pytest.mark.parametrize(("given", "told"), [
    ({"kpis": ["opn_rate"]}, "There is no KPI 'opn_rate'. Did you mean open_rate"),
    ({"grain": "year"}, "grain='year' is not one of day, week, month"),
    ({"confidence": 95}, "confidence=95 is not in"),
    ({"by": "chanel"}, "by='chanel' is no dimension of any table. Did you mean channel"),
    ({"start": date(2026, 3, 1), "end": date(2026, 2, 1)}, "start=2026-03-01 lies after end=2026-02-01"),
])  # fmt: skip
def test_a_wrong_request_is_one_message(shop, given, told):
    with pytest.raises(KpiError, match=told):
        scorecard(shop, **given)


def test_notes_are_in_the_language_of_the_screen(shop, monkeypatch):
    monkeypatch.setenv("KPI_LANGUAGE", "vi")

    assert scorecard(shop, ["mql"], by="campaign", end=END)["note"][0] == "không tính được: thiếu lead_stages.campaign"


def test_one_query_a_table_however_many_kpis(shop, monkeypatch):
    import ibis.expr.types as ir

    asked = []
    plain = ir.Table.to_pyarrow
    monkeypatch.setattr(ir.Table, "to_pyarrow", lambda self, *a, **k: asked.append(1) or plain(self, *a, **k))
    daily = [k.id for k in catalogue() if k.tables == {"channel_daily"}]
    scorecard(shop, daily, by="channel", grain="week", end=END)

    assert len(daily) > 40 and len(asked) == 1


def test_conv_rate_is_one_of_the_named_rates():
    assert kpis.kpi("conv_rate").id == "conv_rate_session" and "conv_rate" in catalogue()
    assert kpis.cost_per("lead").id == "cpl"


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_rows_does_not_matter(duckdb_engine, scored, seed):
    mixed = {name: rows.sample(frac=1, random_state=seed) for name, rows in tables().items()}

    told = scorecard(duckdb_engine.source(mixed), end=END).set_index("kpi")

    pd.testing.assert_frame_equal(told, scored)


@pytest.mark.parametrize("by", ["channel", "campaign"])
def test_sums_add_up_over_segments_and_months(shop, scored, by):
    ids = [k.id for k in catalogue() if k.additive and k.kind == "additive"]
    parts = scorecard(shop, ids, by=by, grain="month", end=END).groupby("kpi")["value"].sum(min_count=1).dropna()

    counted = parts.drop(labels=["active_customers"], errors="ignore")  # people, who come again
    assert len(counted) > 10
    assert counted.to_dict() == pytest.approx(scored.loc[counted.index, "value"].to_dict())


def test_ten_times_the_spend_is_ten_times_the_cost(duckdb_engine, scored):
    rows = tables()["channel_daily"]
    told = scorecard(duckdb_engine.source(rows.assign(spend=rows["spend"] * 10)), ["cpc", "roas"], end=END)

    want = scored.loc[["cpc", "roas"], ["value", "low", "high"]].mul([10, 0.1], axis=0)
    assert told[["value", "low", "high"]].to_numpy() == pytest.approx(want.to_numpy(dtype=float))


# --- suggestions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["sales", "leads", "traffic", "awareness", "loyalty"])
@pytest.mark.parametrize("campaign", ["", "acquisition", "brand", "nurture", "promotion", "retention"])
def test_three_to_five_kpis_for_each_group(objective, campaign):
    told = kpis.suggest(objective, campaign).to_frame()

    assert told.groupby("group").size().between(3, 5).all() and not told["kpi"].duplicated().any()
    assert not {k.id for k in catalogue() if k.vanity} & set(told["kpi"])


def test_the_type_of_campaign_moves_its_kpis_to_the_front():
    assert "retention_rate" in kpis.suggest("loyalty", "retention").kpi[:9]
    assert kpis.suggest("sales", "promotion").kpi != kpis.suggest("sales", "acquisition").kpi
    with pytest.raises(KpiError, match="campaign_type='sale' is not one of"):
        kpis.suggest("sales", "sale")


# --- kernels ----------------------------------------------------------------------------------------------------


# Garwood (1936), Biometrika 28, table: 95% limits, printed to 2 decimals (count 0: 3.69; 1: 0.03 and 5.57).
@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 3.69), (1, 0.03, 5.57), (10, 4.80, 18.39)])
def test_poisson_limits_match_garwood(count, low, high):
    assert np.ravel(poisson_interval(count)) == pytest.approx([low, high], abs=5e-3)


# Newcombe (1998), Stat. Med. 17:873-890, table II, method 10; printed to 4 decimals.
@pytest.mark.parametrize(("first", "second", "low", "high"), [
    ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((5, 56), (0, 29), -0.0381, 0.1926),
])  # fmt: skip
def test_difference_of_rates_matches_newcombe(first, second, low, high):
    assert np.ravel(rate_difference(first, second)) == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize("seed", range(5))
def test_kaplan_meier_matches_statsmodels(seed):
    rng = np.random.default_rng(seed)
    time, status = rng.integers(1, 30, 80), rng.integers(0, 2, 80)
    days = np.unique(time)
    events = np.array([((time == t) & (status == 1)).sum() for t in days])
    ours = kaplan_meier(days, events, [(time == t).sum() for t in days] - events)

    theirs = SurvfuncRight(time, status)
    at = np.searchsorted(days, theirs.surv_times)
    assert ours.survival[at] == pytest.approx(theirs.surv_prob, rel=1e-12)
    assert ours.at_risk[at] == pytest.approx(theirs.n_risk)
    median = theirs.quantile(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a curve that ends at 0
        low, high = theirs.quantile_ci(0.5, method="cloglog")
    assert ours.reached(0.5)[0] == median
    assert ours.reached(0.5)[1] == pytest.approx(low) and (ours.reached(0.5)[2] == high or np.isnan(high))


def test_the_interval_of_a_median_covers_it():
    rng, covered = np.random.default_rng(5), 0
    for _draw in range(400):
        time, until = rng.geometric(0.1, 120), rng.integers(5, 40, 120)  # the median of the first is 7
        days, seen = np.arange(1, 60), np.minimum(time, until)
        events = np.bincount(seen[time <= until], minlength=60)[1:]
        curve = kaplan_meier(days, events, np.bincount(seen, minlength=60)[1:] - events)
        _at, low, high = curve.reached(0.5)
        covered += low <= 7 <= high
    assert 0.92 <= covered / 400 <= 0.995  # 95%; whole days make it wider, never narrower


def posts(rng, runs, each):
    """Posts of many runs whose likes differ by far more than chance: a few go round."""
    n = runs * each
    reach = rng.integers(500, 5000, n)
    likes = rng.poisson(reach * 0.04 * np.exp(rng.normal(0, 0.6, n) - 0.18))
    told = {"content_id": np.arange(n).astype(str), "channel": np.repeat(np.arange(runs), each).astype(str)}
    told |= {"published_at": pd.Timestamp("2026-03-01 10:00"), "reach": reach, "likes": likes, "comments": 0}
    return pd.DataFrame(told | {"shares": 0})


def test_what_posts_earn_varies_from_post_to_post(duckdb_engine):
    rows = posts(np.random.default_rng(4), 400, 30)
    found = scorecard(duckdb_engine.source(rows, "content"), ["engagement_rate_reach"], by="channel", end=END)
    covered = found["low"].le(0.04) & found["high"].ge(0.04)

    assert 0.90 < covered.mean() < 0.98  # by counting likes alone it is 0.18
    one = rows[rows["channel"] == "0"]
    x, y = one["likes"], one["reach"]  # Cochran (1977), section 6.3
    error = np.sqrt(30 / 29 * ((x - x.sum() / y.sum() * y) ** 2).sum()) / y.sum()
    assert found.set_index("channel").loc["0", "high"] == pytest.approx(x.sum() / y.sum() + 2.04523 * error, rel=1e-6)


def test_a_sum_over_posts_varies_with_their_number_and_size(duckdb_engine):
    rows = posts(np.random.default_rng(5), 1, 30)
    row = scorecard(duckdb_engine.source(rows, "content"), ["interactions_total"], end=END).iloc[0]

    # compound Poisson: the sum of squares is the variance
    assert row["high"] - row["value"] == pytest.approx(1.959964 * np.sqrt((rows["likes"] ** 2).sum()), rel=1e-6)


def test_the_interval_of_a_mean_covers_it(duckdb_engine):
    rng, covered = np.random.default_rng(8), 0
    talks = pd.DataFrame({"called_at": pd.date_range("2026-01-01", periods=4000, freq="h"), "status": "answered",
                          "channel": np.repeat([f"c{i}" for i in range(100)], 40),
                          "call_id": [str(i) for i in range(4000)],
                          "talk_seconds": rng.gamma(2.0, 60.0, 4000).round(6)})  # fmt: skip
    told = scorecard(duckdb_engine.source({"calls": talks}), ["call_time"], by="channel", end=date(2026, 12, 31))
    covered = ((told["low"] <= 120) & (told["high"] >= 120)).sum()

    assert 88 <= covered <= 99  # 99% band of 95 in 100 is 89 to 100; skewed talks cost a point
