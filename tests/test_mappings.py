"""Mappings: each option, on both engines where it applies; the public data sets and the layouts of tools."""

from collections import Counter
from datetime import date, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from kpi_helpers import cli, kpis
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"


def put(folder, text, name):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def frame(source, name):
    """A table of a source, small enough to hold."""
    return source.table(name).to_pyarrow().to_pandas()


def broken(check):
    return {(p.column, p.rule): p.n_rows for p in check.problems}


def notes(source):
    return [note.en for note in source.check().notes]


# --- public data: known results of their READMEs ----------------------------------------------------------


@pytest.mark.parametrize("mapping", ["facebook_posts", "facebook_posts_es"])
def test_facebook_posts_match_their_readme(real_data, mapping):
    source = connect(real_data("facebook-page-posts"), MAPPINGS / f"{mapping}.yaml")

    posts = frame(source, "content")

    interactions = posts["likes"] + posts["comments"] + posts["shares"]  # on every row: blanks are zero by the mapping
    assert (interactions.sum(), posts["reach"].sum()) == (106_060, 6_951_680)
    assert Counter(posts["kind"]) == {"Photo": 426, "Status": 45, "Link": 22, "Video": 7}
    means = interactions.astype(float).groupby(posts["kind"]).mean()
    assert dict(means.round(2)) == {"Video": 295.86, "Status": 217.04, "Photo": 216.58, "Link": 89.05}
    assert (posts["content_id"].nunique(), source.first_day(), source.as_of()) == (500, None, None)
    assert any("reach: 4 of 500 rows are above impressions" in note for note in notes(source))


def test_blanks_are_not_repaired_unless_the_mapping_says_so(real_data):
    columns = {"content_id": {"row": True}, "likes": "like", "shares": "share"}
    mapping = {"content": {"file": "dataset_Facebook.csv", "columns": columns}}

    posts = frame(connect(real_data("facebook-page-posts"), mapping), "content")

    assert (posts["likes"].isna().sum(), posts["shares"].isna().sum()) == (1, 4)  # quirks of its README


def test_online_shoppers_match_their_readme(real_data):
    source = connect(real_data("online-shoppers"), MAPPINGS / "online_shoppers.yaml")

    sessions = frame(source, "web_events")

    bought = sessions["event"].eq("purchase")
    assert (bought.sum(), len(sessions), sessions["visitor_id"].nunique()) == (1908, 12_330, 12_330)
    rates = bought.groupby(sessions["segment"]).agg(["mean", "size"])
    assert dict((100 * rates["mean"]).round(2)) == {"New_Visitor": 24.91, "Returning_Visitor": 13.93, "Other": 18.82}
    assert dict(rates["size"]) == {"New_Visitor": 1694, "Returning_Visitor": 10_551, "Other": 85}
    assert notes(source) == ["visitor_id: the source has no id, so rows are numbered and each counts as one of its own"]


def test_signup_funnel_matches_its_readme(real_data):
    source = connect(real_data("signup-funnel"), MAPPINGS / "signup_funnel.yaml")

    events = frame(source, "web_events")

    steps = ["visit", "search", "checkout", "purchase"]
    reached = events.groupby(["device", "event"])["visitor_id"].nunique().unstack()[steps]
    assert {device: list(row) for device, row in reached.iterrows()} == {
        "Desktop": [60_200, 30_100, 3010, 150], "Mobile": [30_200, 15_100, 3020, 302],
    }  # fmt: skip
    monthly = events.groupby([events["happened_at"].dt.month, "event"]).size().unstack()[steps]
    assert {month: list(row) for month, row in monthly.iterrows()} == {
        1: [22_600, 13_554, 2390, 189], 2: [22_600, 13_687, 2412, 173],
        3: [22_600, 8879, 631, 44], 4: [22_600, 9080, 597, 46],
    }  # fmt: skip
    assert (source.first_day(), source.as_of()) == (date(2015, 1, 1), date(2015, 4, 30))


OLIST = {
    "organic_search": (271, 2296), "paid_search": (195, 1586), "unknown": (179, 1099), "social": (75, 1350),
    "direct_traffic": (56, 499), "referral": (24, 284), "email": (15, 493), "": (14, 60), "display": (6, 118),
    "other": (4, 150), "other_publicities": (3, 65),
}  # fmt: skip


def test_olist_leads_match_their_readme(real_data):
    source = connect(real_data("olist-leads"), MAPPINGS / "olist_leads.yaml")

    leads = frame(source, "leads")

    won = leads["won_at"].notna().groupby(leads["channel"].fillna("")).agg(["sum", "size"])
    assert {channel: tuple(row) for channel, row in won.iterrows()} == OLIST  # unknown and blank stay two
    assert (leads["won_at"].min().date(), leads["won_at"].max().date()) == (date(2017, 12, 5), date(2018, 11, 14))
    assert (source.first_day(), source.as_of()) == (date(2017, 6, 14), date(2018, 5, 31))
    assert notes(source) == [
        "olist_closed_deals_dataset: 842 of 8,000 rows found their row there; 842 of the 842 rows there were used",
        "won_at: 1 of 8,000 rows are earlier than created_at (e.g. 06-03-2018 19:38); they are kept as they are",
    ]


def test_both_spellings_of_olist_dates_are_the_same_days_and_the_short_copy_tells(real_data):
    folder = real_data("olist-leads")
    whole, short = (connect(folder, MAPPINGS / f"{name}.yaml") for name in ("olist_leads", "olist_leads_us"))

    a, b = (frame(source, "leads").set_index("lead_id").sort_index() for source in (whole, short))

    assert (a["created_at"] == b["created_at"]).all()
    known = b["won_at"].notna()
    assert known.sum() == 380 and (a["won_at"].dt.floor("min")[known] == b["won_at"][known]).all()
    assert "380 of 8,000 rows found their row there; 380 of the 380 rows there were used" in notes(short)[0]


def test_campaign_response_matches_its_readme(real_data):
    source = connect(real_data("campaign-response"), MAPPINGS / "campaign_response.yaml")

    messages = frame(source, "messages")

    accepted = messages.groupby("campaign")["replied"].sum()
    assert list(accepted) == [144, 30, 163, 167, 163, 334]
    assert set(messages.groupby("campaign").size()) == {2240}
    assert source.table("customers").count().to_pyarrow().as_py() == 2240


def test_grocery_campaigns_match_their_readme(real_data):
    source = connect(real_data("grocery-campaigns"), MAPPINGS / "grocery_campaigns.yaml")

    orders, messages = frame(source, "orders"), frame(source, "messages")

    assert (len(orders), orders["order_id"].nunique(), orders["customer_id"].nunique()) == (47_243, 47_243, 2377)
    assert orders["revenue"].sum() == Decimal("233935.24")
    assert source.check("orders").n_rows == (75_000,)
    assert orders["ordered_at"].max() == pd.Timestamp("2018-01-01 03:47:38")  # its README: in UTC
    redeemed = messages[messages["replied"] == 1]
    assert (len(messages), messages["customer_id"].nunique(), redeemed["customer_id"].nunique()) == (6589, 1559, 410)
    assert messages["campaign"].nunique() == 27 and messages["sent_at"].notna().all()
    assert any("792 of the 2,102 rows there were used" in note for note in notes(source))
    assert any("75,000 lines were added up to 47,243 rows by order_id" in note for note in notes(source))
