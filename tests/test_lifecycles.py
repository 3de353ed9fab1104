"""Segments, how they move, and the lifecycle: against other implementations, the catalogue's KPIs and by laws."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from conftest import Engine
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shop import tables
from test_histories import orders, stored

from kpi_helpers.errors import KpiError
from kpi_helpers.histories import summarise
from kpi_helpers.kpis import scorecard
from kpi_helpers.lifecycles import RULES, lifecycle, migration, rfm, scored


def random_orders(n=600, seed=4):
    random = np.random.default_rng(seed)
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 180, n), "D")
    who = random.geometric(0.02, n).astype(str)
    return pd.DataFrame({"customer_id": who, "ordered_at": days, "revenue": random.integers(0, 40, n)})


# Amplitude's lifecycle by hand: February of the small shop keeps c1 of c1 and c2; c7 comes back from 2025
def test_lifecycle_agrees_with_the_catalogue_on_the_small_shop(tmp_path):
    engine = Engine("duckdb", tmp_path)
    shop = engine.source(tables())
    told = lifecycle(shop.table("orders")).frame.set_index("period")
    asked = ["retention_rate", "churn_rate", "active_customers"]
    kpis = scorecard(shop, asked, grain="month", end=date(2026, 3, 10))
    engine.close()

    assert told.loc[date(2026, 2, 1), ["active", "new", "current", "resurrected", "dormant"]].tolist() == [
        4,
        2,
        1,
        1,
        1,
    ]
    # September, October 2025: one each; c2 is back in March
    assert told["active"].tolist() == [1, 1, 0, 0, 2, 4, 1] and told["new"].tolist() == [1, 1, 0, 0, 2, 2, 0]
    assert told["complete"].tolist() == [True] * 6 + [False]
    for row in kpis[kpis["kpi"] != "active_customers"].itertuples():
        ours = told.loc[row.period.date()]
        assert row.numerator == (ours["current"] if row.kpi == "retention_rate" else ours["dormant"])
        assert row.denominator == ours["current"] + ours["dormant"]


PAIRS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=25)


@settings(max_examples=15, deadline=None)
@given(PAIRS)
def test_lifecycle_agrees_with_sets_and_adds_up(pairs):
    told = lifecycle(orders(*[(c, f"2026-{m:02d}-10", 1.0) for c, m in pairs])).frame
    months = range(min(m for _c, m in pairs), max(m for _c, m in pairs) + 1)
    bought = {m: {c for c, month in pairs if month == m} for m in range(14)}
    earlier = {m: {c for c, month in pairs if month < m} for m in range(14)}

    assert told["new"].tolist() == [len(bought[m] - earlier[m]) for m in months]
    assert told["current"].tolist() == [len(bought[m] & bought[m - 1]) for m in months]
    assert told["resurrected"].tolist() == [len((bought[m] & earlier[m]) - bought[m - 1]) for m in months]
    assert told["dormant"].tolist() == [len(bought[m - 1] - bought[m]) for m in months]
    assert (told["active"] == told["new"] + told["current"] + told["resurrected"]).all()
    assert told["new"].sum() == len({c for c, _m in pairs})


def test_engines_agree_at_every_grain(engine):
    data = random_orders()
    table = stored(engine, data)

    for grain in ("day", "week", "month"):
        ours, theirs = lifecycle(data, grain=grain).frame, lifecycle(table, grain=grain).frame
        pd.testing.assert_frame_equal(ours, theirs)
        assert (ours["active"].shift(fill_value=0) == ours["current"] + ours["dormant"]).all()


def segments_by_hand(each):
    n = len(each)
    r, f, m = (5 * (each[c].rank(method="min") - 1) // n + 1 for c in ("last_on", "frequency", "total_value"))
    v = (f + m + 1) // 2
    return [next(name for name, (a, b) in RULES.items() if x >= a and y >= b) for x, y in zip(r, v, strict=True)]


def test_segments_agree_with_pandas_on_both_engines(engine):
    data = random_orders()
    found = summarise(stored(engine, data), split="2026-05-31", currency="USD")
    told, each = rfm(found), scored(found).to_pyarrow().to_pandas()

    assert each["segment"].tolist() == segments_by_hand(each)
    assert set(told.segment) == set(RULES) and sum(told.n) == found.n_customers
    assert dict(zip(told.segment, told.n, strict=True)) == each["segment"].value_counts().to_dict()
    assert sum(told.share) == pytest.approx(1) and sum(told.revenue) == pytest.approx(each["total_value"].sum())
    pd.testing.assert_frame_equal(rfm(summarise(data[::-1], split="2026-05-31", currency="USD")).frame, told.frame)


def test_customers_who_are_alike_share_a_score():
    data = orders(*[(i, 5, 10.0) for i in range(8)], ("x", 5, 10.0), ("x", 9, 10.0))
    each = scored(summarise(data.astype({"customer_id": str}))).to_pyarrow().to_pandas().set_index("customer_id")

    assert each.drop("x")[["r", "f", "m"]].drop_duplicates().to_numpy().tolist() == [[1, 1, 1]]
    assert each.loc["x", ["r", "f", "m", "segment"]].tolist() == [5, 5, 5, "champions"]


def test_without_revenue_segments_go_by_recency_and_frequency():
    told = rfm(summarise(random_orders().drop(columns="revenue")))

    assert sum(told.share) == pytest.approx(1) and told.segment[0] == "champions"
    assert "nan" not in told.html() and "nan" not in told.sentence()


def test_migration_holds_every_customer_once_at_both_days():
    data = random_orders()
    told = migration(data, "2026-03-31", "2026-06-20")
    old, new = (rfm(summarise(data, end=end)) for end in ("2026-03-31", "2026-06-20"))

    for side, whole in (("segment_before", old), ("segment_after", new)):
        counted = told.frame[told.frame[side] != "new"].groupby(side)["n"].sum()
        assert counted.to_dict() == dict(zip(whole.segment, whole.n, strict=True))
    joined = told.frame.set_index("segment_before").loc[["new"], "n"].sum()
    assert joined == sum(new.n) - sum(old.n)


def test_pages_hold_segments_moves_and_periods():
    data = random_orders()
    told, moved, cycle = rfm(summarise(data)), migration(data, "2026-03-31", "2026-06-20"), lifecycle(data)

    for language, asleep in (("en", "Hibernating"), ("vi", "Ngủ đông")):
        pages = [result.html(language) for result in (told, moved, cycle)]
        assert asleep in pages[0] and pages[0].count("<tr") == 7
        assert pages[1].count("<tr") == 1 + len(set(moved.segment_before))
        assert pages[2].count("<svg") == 2 and pages[2].count("<tr") == 1 + len(cycle.period)
        assert all(result.sentence(language) in page for result, page in zip((told, moved), pages, strict=False))


def test_what_cannot_be_asked_is_told():
    with pytest.raises(KpiError, match="grain='years' is not known"):
        lifecycle(random_orders(), grain="years")
    with pytest.raises(KpiError, match="before=2026-06-01 must be earlier than after=2026-05-01"):
        migration(random_orders(), "2026-06-01", "2026-05-01")
    with pytest.raises(KpiError, match="No order is completed"):
        lifecycle(random_orders().assign(status="returned"))
