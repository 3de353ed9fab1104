"""Histories: the published summary of CDNOW, another implementation, and every odd input that is told or refused."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_helpers.errors import KpiError
from kpi_helpers.histories import KEYS, summarise


def orders(*lines, **more):
    """Orders from (customer, day of January or date, revenue)."""
    rows = pd.DataFrame(lines, columns=["customer_id", "ordered_at", "revenue"])
    days = [f"2026-01-{d:02d}" if isinstance(d, int) else d for d in rows["ordered_at"]]
    return rows.assign(ordered_at=pd.to_datetime(days, format="ISO8601"), **more)


def cdnow(folder):
    names = ["master", "customer_id", "on", "cds", "revenue"]
    rows = pd.read_csv(folder / "CDNOW_sample.txt", sep=r"\s+", header=None, names=names, dtype=str)
    rows["ordered_at"] = pd.to_datetime(rows["on"], format="%Y%m%d")
    return rows.assign(revenue=rows["revenue"].astype(float))[["customer_id", "ordered_at", "revenue"]]


def customers(found):
    """One row a customer, which only a test does."""
    return found.table.to_pyarrow().to_pandas().sort_values("customer_id", ignore_index=True)


def told(found):
    return dict(zip(found.issues.what, found.issues.n, strict=True)) if len(found.issues.frame) else {}


@pytest.fixture(scope="module")
def rows(real_data):
    return cdnow(real_data("cdnow"))


@pytest.fixture(scope="module")
def found(rows):
    return summarise(rows, split="1997-09-30", currency="USD")


class TestPublished:
    """Fader & Hardie's summary of CDNOW (brucehardie.com), weeks 1-39 and 40-78 of the sample of 2,357 customers."""

    def test_frequency_recency_and_age_are_the_published_ones(self, found, real_data):
        printed = pd.read_csv(real_data("cdnow") / "cdnow_customers_summary.csv")
        each = customers(found)

        assert (each["frequency"] == printed["frequency"]).all() and len(each) == 2357
        assert (each["recency_days"] / 7 - printed["recency"]).abs().max() < 0.005
        assert (each["age_days"] / 7 - printed["T"]).abs().max() < 0.005

    def test_sums_are_the_published_ones(self, found):
        r, each = found.rows, customers(found)

        assert (r["frequency"] * r["weight"]).sum() == 2457
        assert r["weight"][r["frequency"] == 0].sum() == 1411 and found.spend["weight"].sum() == 946
        assert len(r[list(KEYS)].drop_duplicates()) == 1016 and r["frequency"].max() == 29
        assert (r["held_out"] * r["weight"]).sum() == 1882 and r["weight"][r["held_out"] > 0].sum() == 684
        assert each["held_out_value"].sum() == pytest.approx(70_976, abs=1)
        # mean of the mean repeat spend of the 946 (Gamma-Gamma note 025: 35.08 by customer)
        assert np.average(found.spend["mean_value"], weights=found.spend["weight"]) == pytest.approx(35.08, abs=0.005)
        assert told(found) == {"merged": 223, "free": 8}
        assert (found.start, found.end, found.horizon_days) == (date(1997, 1, 1), date(1998, 6, 30), 273)
        assert found.n_customers == 2357 and found.currency == "USD" and found.margin is None

    def test_rows_in_any_order_say_the_same(self, rows, found):
        other = summarise(rows.sample(frac=1, random_state=1), split="1997-09-30")

        pd.testing.assert_frame_equal(other.rows, found.rows)
        pd.testing.assert_frame_equal(other.spend, found.spend)


def by_hand(rows, split):
    """The same in pandas, customer by customer."""
    split, told = pd.Timestamp(split), []
    for customer, mine in rows.groupby("customer_id"):
        days = mine.groupby(mine["ordered_at"].dt.normalize())["revenue"].agg(["sum", "min"])
        net, later = days["sum"][days.index <= split].sum(), days["sum"][days.index > split].sum()
        days = days[(days["sum"] > 0) | (days["min"] >= 0)]
        known, held = days[days.index <= split], days[days.index > split]
        if len(known):
            first, repeats = known.index[0], len(known) - 1
            told.append((
                customer, repeats, (known.index[-1] - first).days, (split - first).days,
                (net - known["sum"].iloc[0]) / repeats if repeats else np.nan, float(net), len(held), float(later),
            ))  # fmt: skip
    columns = ["mean_value", "total_value", "held_out", "held_out_value"]
    return pd.DataFrame(told, columns=["customer_id", *KEYS, *columns])


LINE = st.tuples(st.integers(1, 4), st.integers(1, 25), st.integers(-3, 4), st.integers(0, 23))


@settings(max_examples=20, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=30))
def test_agrees_with_pandas_on_random_orders(lines):
    lines = [*lines, (1, 1, 200, 0), (1, 28, 200, 0)]  # somebody bought first and last
    rows = orders(*[(c, f"2026-01-{d:02d}T{h:02d}:30", v * 1.1) for c, d, v, h in lines])
    found, expected = summarise(rows, split="2026-01-15", unit="day"), by_hand(rows, "2026-01-15")
    each = customers(found)[list(expected)]

    pd.testing.assert_frame_equal(each, expected, check_dtype=False, rtol=1e-9, atol=1e-9)
    counted = each.groupby([*KEYS, "held_out"], as_index=False).size().rename(columns={"size": "weight"})
    pd.testing.assert_frame_equal(found.rows[list(counted)], counted, check_dtype=False)


ODD = orders(
    ("a", 1, 10.5), ("a", 1, 5.0), ("a", 8, -2.0), ("a", 8, 12.0), ("a", 20, 7.0), ("a", 25, -7.0), ("b", 2, 0.0),
    ("b", 9, 4.0), ("b", 9, -4.0), ("c", 18, 3.0), (None, 3, 1.0), ("d", 3, np.nan), ("d", 5, 9.0), ("a", 31, 1.0),
    order_id=["1", "1", "2", "3", "4", "4", "5", "6", "7", "8", "9", "10", "10", "11"],
    status=["completed", None, *["completed"] * 10, "cancelled", "completed"],
    channel=["Ads", "Email", *["Web"] * 12], margin=[5.25] + [None] * 13, currency=["VND"] * 14,
)  # fmt: skip


def stored(engine, rows):
    """The rows as a table of the engine, whether they keep the contract or not."""
    source = engine.source(rows, name="orders")
    place = None if engine.name == "duckdb" else source._mapping["orders"]["table"].split(".")[0]
    return source._backend.table("orders", database=place)


def test_what_is_odd_is_netted_and_counted_on_both_engines(engine):
    found = summarise(stored(engine, ODD), split="2026-01-15", end="2026-01-30", by="channel")
    each = customers(found).set_index("customer_id")

    assert told(found) == {
        "unnamed": 1, "late": 1, "undone": 1, "unpriced": 1, "lines": 2, "refunds": 3, "merged": 3, "void": 2,
        "free": 2, "after_split": 1,
    }  # fmt: skip
    assert each.loc["a", ["frequency", "recency_days", "age_days", "mean_value", "total_value"]].tolist() == [
        1, 7, 14, 10.0, 25.5,
    ]  # fmt: skip
    assert each.loc["a", ["held_out", "held_out_value", "total_margin", "channel"]].tolist() == [1, 0.0, 5.25, "Ads"]
    assert each.loc["b", "frequency"] == 0 and each.loc["d", "total_value"] == 0 and list(each.index) == ["a", "b", "d"]
    assert found.margin == 0.5 and found.currency == "VND" and found.rows["weight"].sum() == 3
    assert found.rows["age"].tolist() == pytest.approx((found.rows["age_days"] / 7).tolist())
    scores = found.rows[list(KEYS)].drop_duplicates().assign(alive=lambda r: r["age_days"] * 2.0)
    scored = found.score(scores).to_pyarrow().to_pandas()
    assert len(scored) == 3 and (scored["alive"] == 2 * scored["age_days"]).all()


def test_both_engines_and_a_file_say_the_same(engine, tmp_path):
    random = np.random.default_rng(5)
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 60 * 24, 400), "h")
    data = pd.DataFrame({"customer_id": random.integers(0, 60, 400).astype(str), "ordered_at": days})
    data["revenue"] = random.integers(-500, 3000, 400) / 100
    data.to_parquet(tmp_path / "orders.parquet")
    data.to_csv(tmp_path / "orders.csv", index=False)
    found = summarise(stored(engine, data), split="2026-02-10")

    for other in (data, tmp_path / "orders.parquet", tmp_path / "orders.csv"):
        again = summarise(other, split="2026-02-10")
        pd.testing.assert_frame_equal(again.rows, found.rows)
        pd.testing.assert_frame_equal(again.spend, found.spend)
        assert told(again) == told(found)


def test_a_split_that_nobody_came_after_and_no_money():
    found = summarise(
        orders(("a", 1, 1), ("a", 9, 1), ("b", 5, 1)).drop(columns="revenue"), unit="month", end="2026-01-31"
    )

    assert found.rows["recency"].tolist() == pytest.approx([0, 8 / 30.4375]) and found.spend.empty
    assert "held_out" not in found.rows and found.horizon_days == 0 and found.margin is None
    held = summarise(orders(("a", 1, 1), ("b", 5, 1)), split="2026-01-06", end="2026-01-31")
    assert held.rows["held_out"].tolist() == [0, 0] and held.horizon_days == 25


def test_the_first_order_decides_by_time_then_id_then_value():
    rows = orders(
        *[("a", 3, 1.0)] * 3, ("a", "2026-01-03T09:00", -0.5), ("b", 4, 1.0), ("b", 4, 1.0), ("a", 5, 9.0),
        order_id=["2", "1", "1", "0", "7", "7", "9"], channel=["x", "z", "y", "r", "q", None, "p"],
    )  # fmt: skip
    rows["ordered_at"] += pd.to_timedelta([10, 10, 10, 0, 0, 0, 0], "h")

    for seed in range(3):
        found = summarise(rows.sample(frac=1, random_state=seed), by="channel")
        assert customers(found).set_index("customer_id")["channel"].to_dict() == {"a": "y", "b": "q"}
    bought = summarise(rows[rows["revenue"] > 0], by="channel")
    assert customers(bought)["channel"].tolist() == ["y", "q"]


def test_an_order_a_second_is_told():
    seconds = pd.date_range("2026-01-01", periods=86, freq="s")
    test = pd.DataFrame({"customer_id": "test", "ordered_at": seconds, "revenue": 1.0})
    found = summarise(pd.concat([test, orders(("a", 2, 1.0))]))

    assert told(found) == {"merged": 85, "mad": 1} and found.rows["frequency"].tolist() == [0, 0]
    assert "more than 20 rows on a day" in found.issues.html() and "nothing" not in found.issues.sentence("en")


GOOD = orders(("a", 1, 1.0), ("b", 9, 2.0))


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (GOOD.assign(currency=["VND", "USD"]), {}, "Orders in USD, VND do not add up"),
        (GOOD, {"split": "2026-01-09"}, "split=2026-01-09 must lie from 2026-01-01 to before 2026-01-09"),
        (GOOD, {"split": "2025-12-31"}, "must lie from 2026-01-01"),
        (GOOD, {"end": "2025-12-31"}, "end=2025-12-31 is before the first order, 2026-01-01"),
        (GOOD, {"split": "31/01/2026"}, "Write YYYY-MM-DD"),
        (GOOD, {"unit": "weeks"}, "unit='weeks' is not known. Did you mean week?"),
        (GOOD, {"by": "chanel"}, "no column chanel"),
        (GOOD.drop(columns="customer_id"), {}, "no column customer_id"),
        (GOOD.assign(ordered_at=["01/02/2026", "03/02/2026"]), {}, "ordered_at is string, not a date"),
        (GOOD.assign(ordered_at=[20260101, 20260102]), {}, "ordered_at is int64, not a date"),
        (GOOD.assign(ordered_at=GOOD["ordered_at"].dt.tz_localize("UTC")), {}, "not a date or local time without zone"),
        (GOOD.assign(revenue=["1,5", "2"]), {}, "revenue is string: money must be numbers"),
        (GOOD.iloc[:0], {}, "No order is completed"),
        (GOOD.assign(status="cancelled"), {}, "No order is completed"),
        (GOOD.assign(revenue=-1.0), {}, "every day was refunded"),
        (orders(("a", 1, 1.0), ("b", "2062-01-01", 1.0)), {}, "a date in the future? Give end="),
    ],
)
def test_what_cannot_be_summarised_is_told(rows, options, told):
    with pytest.raises(KpiError) as error:
        summarise(rows, **options)
    assert told in str(error.value)


def test_dates_of_a_csv_file_are_never_guessed(tmp_path):
    (tmp_path / "orders.csv").write_text("customer_id,ordered_at\n1,01/02/2026\n2,03/02/2026\n")
    with pytest.raises(KpiError, match="YYYY-MM-DD"):
        summarise(tmp_path / "orders.csv")
    (tmp_path / "orders.csv").write_text("customer_id,ordered_at\n1,2026-02-01T10:00:00\n2,03/02/2026\n,2026-02-03\n")
    assert told(summarise(tmp_path / "orders.csv")) == {"unnamed": 2}


def test_margin_is_of_rows_that_know_both_up_to_the_split():
    data = orders(("a", 1, 10.0), ("a", 2, np.nan), ("a", 3, 8.0), ("a", 9, 10.0), margin=[4.0, 5.0, None, 10.0])

    assert summarise(data, split="2026-01-05").margin == 0.4
    assert summarise(data).margin == 0.7 and summarise(data.assign(margin=np.nan)).margin is None


def test_nobody_is_not_a_customer_and_any_column_splits():
    found = summarise(orders(("a", 1, 1.0), (" ", 2, 1.0), ("", 3, 1.0), currency="VND"), by="currency")

    assert told(found) == {"unnamed": 2} and found.rows["currency"].tolist() == ["VND"]


def test_a_wrong_date_is_left_out_by_an_end():
    found = summarise(orders(("a", 1, 1.0), ("a", 9, 1.0), ("b", "2062-01-01", 1.0)), end="2026-01-09")

    assert told(found) == {"late": 1} and found.n_customers == 1


def test_scores_must_name_each_history_once():
    found = summarise(GOOD)

    with pytest.raises(KpiError, match="each combination of frequency, recency_days, age_days once"):
        found.score(pd.concat([found.rows, found.rows]))
