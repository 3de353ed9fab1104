"""The scorecard on public data: the known results of their own descriptions (skipped where the data are absent)."""

import pytest

from kpi_helpers.kpis import scorecard
from kpi_helpers.sources import connect

FOLDERS = {"facebook_posts": "facebook-page-posts", "facebook_posts_es": "facebook-page-posts",
           "online_shoppers": "online-shoppers", "signup_funnel": "signup-funnel", "olist_leads": "olist-leads",
           "olist_leads_us": "olist-leads", "campaign_response": "campaign-response",
           "grocery_campaigns": "grocery-campaigns", "robyn_weekly": "robyn-weekly"}  # fmt: skip


@pytest.fixture(scope="module")
def told(real_data):
    """What a mapping gives: KPI -> numerator, denominator of the whole, or by a dimension."""
    sources = {}

    def score(mapping, key, by=None, **options):
        if mapping not in sources:
            sources[mapping] = connect(real_data(FOLDERS[mapping]), f"data/mappings/{mapping}.yaml")
        frame = scorecard(sources[mapping], [key], by=by if by and by != "period" else (), **options)
        rows = frame.set_index(by)[["numerator", "denominator"]].T if by else None
        return {s: tuple(rows[s]) for s in rows} if by else tuple(frame.loc[0, ["numerator", "denominator"]])

    return score


@pytest.mark.parametrize("mapping", FOLDERS)
def test_every_kpi_is_a_number_or_says_why_not(real_data, mapping):
    frame = scorecard(connect(real_data(FOLDERS[mapping]), f"data/mappings/{mapping}.yaml"))

    computed = frame["value"].notna()
    assert computed.any() and frame.loc[~computed, "note"].str.startswith("cannot be computed: ").all()


@pytest.mark.parametrize("mapping", ["facebook_posts", "facebook_posts_es"])
def test_facebook_posts(told, mapping):
    assert told(mapping, "content_volume")[0] == 500
    assert told(mapping, "interactions_total")[0] == 106_060
    assert told(mapping, "engagement_rate_reach") == (106_060, 6_951_680)
    kinds = {k: v[0] for k, v in told(mapping, "content_volume", by="kind").items()}
    assert sorted(kinds.values()) == [7, 22, 45, 426]


def test_online_shoppers(told):
    assert told("online_shoppers", "conv_rate_user") == (1908, 12330)
    by = told("online_shoppers", "conv_rate_user", by="segment")
    assert sorted(v[1] for v in by.values()) == [85, 1694, 10551]
    assert sorted(round(v[0] / v[1], 4) for v in by.values()) == [0.1393, 0.1882, 0.2491]


def test_signup_funnel(told):
    assert told("signup_funnel", "conv_rate_user") == (452, 90_400)
    by = told("signup_funnel", "conv_rate_user", by="device")
    assert {k.lower(): v for k, v in by.items()} == {"desktop": (150, 60_200), "mobile": (302, 30_200)}
    months = told("signup_funnel", "conv_rate_user", by="period", grain="month")
    assert list(months.values()) == [(189, 22_600), (173, 22_600), (44, 22_600), (46, 22_600)]


@pytest.mark.parametrize("mapping", ["olist_leads", "olist_leads_us"])
def test_olist_leads(told, mapping):
    won = {"olist_leads": 842, "olist_leads_us": 380}[mapping]  # the second copy lost the rest of the deals
    assert told(mapping, "lead_customer_rate") == (won, 8000)
    if mapping == "olist_leads":
        by = told(mapping, "lead_customer_rate", by="channel")
        assert by["organic_search"] == (271, 2296) and by["unknown"] == (179, 1099) and by[""] == (14, 60)


def test_campaign_response(told):
    by = told("campaign_response", "offer_response_rate", by="campaign")
    assert sorted(v[0] for v in by.values()) == [30, 144, 163, 163, 167, 334]
    assert {v[1] for v in by.values()} == {2240}


def test_grocery_campaigns(told):
    assert told("grocery_campaigns", "shop_orders")[0] == 47_243
    assert told("grocery_campaigns", "shop_revenue")[0] == pytest.approx(233_935.24, abs=0.005)
    assert told("grocery_campaigns", "active_customers")[0] == 2377


def test_robyn_weekly(told):
    assert told("robyn_weekly", "revenue")[0] == pytest.approx(379_005_696.67, abs=0.01)
    spend = {k: v[0] for k, v in told("robyn_weekly", "spend", by="channel").items()}
    assert spend["Out of home"] == pytest.approx(8_989_331.73, abs=0.01)
