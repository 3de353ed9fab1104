"""A shop of a few rows in every table, and each KPI of it as worked out by hand."""

from math import nan

import pandas as pd


def rows(text, times=(), dates=("date",)):
    """A table from lines of cells between bars, heads first; `-` is unknown."""
    head, *lines = [[c.strip() for c in line.split("|")] for line in text.strip().splitlines()]
    table = pd.DataFrame(lines, columns=head).replace("-", None)
    for name in head:
        if name in times:
            table[name] = pd.to_datetime(table[name], format="ISO8601")
        elif name in dates:
            table[name] = pd.to_datetime(table[name]).dt.date
        else:
            numbers = pd.to_numeric(table[name], errors="coerce")
            if numbers.notna().sum() == table[name].notna().sum() and not name.endswith("_id"):
                table[name] = numbers.astype("Int64")
    return table


#: 0 sums of days: an ad channel, an e-mail list, a search channel and a page with followers
DAILY = """
date|channel|campaign|medium|impressions|clicks|sessions|engaged_sessions|pageviews|spend|leads|conversions|orders|new_customers|revenue|margin
2026-01-10|Ads|A|paid|1000|50|40|30|100|500|4|5|2|1|2000|800
2026-01-20|Email|-|email|-|-|60|30|120|-|1|4|3|1|3000|1000
2026-02-10|Ads|A|paid|3000|90|80|50|180|700|6|7|4|2|5000|1600
2026-02-20|Search|-|organic|-|-|120|90|300|-|9|6|3|1|2000|600
2026-02-25|Email|-|email|-|-|50|25|60|-|0|2|1|0|1000|400
2026-01-31|Page|-|social|-|-|-|-|-|-|-|-|-|-|-|-
2026-02-28|Page|-|social|-|-|-|-|-|-|-|-|-|-|-|-
"""
SENT = """
date|channel|sent|hard_bounces|soft_bounces|unique_opens|unique_clicks|replies|unsubscribes|complaints|subscribers|followers
2026-01-20|Email|200|6|4|76|19|2|1|1|1000|-
2026-02-25|Email|300|9|6|57|38|4|2|0|1100|-
2026-01-31|Page|-|-|-|-|-|-|-|-|-|500
2026-02-28|Page|-|-|-|-|-|-|-|-|-|530
"""
#: bought again in February: c1 of c1 and c2; c7 and c8 had slept for more than 90 days when they were messaged
ORDERS = """
order_id|customer_id|ordered_at|status|channel|margin|revenue
o1|c1|2026-01-05T10:00|completed|Ads|100|100
o2|c2|2026-01-15T10:00|completed|Ads|200|200
o3|c1|2026-02-03T10:00|completed|Email|300|300
o4|c3|2026-02-10T10:00|completed|Ads|50|400
o5|c3|2026-02-12T10:00|completed|Ads|150|500
o6|c4|2026-02-20T10:00|cancelled|Ads|0|0
o7|c2|2026-03-05T10:00|completed|Email|400|700
o8|c5|2026-02-25T10:00|-|Search|0|800
o9|c7|2025-10-01T10:00|completed|Ads|0|900
o10|c7|2026-02-15T10:00|completed|Email|0|1000
o11|c8|2025-09-01T10:00|completed|Ads|0|1100
"""
CUSTOMERS = """
customer_id|registered_at|first_channel|channel|referred_by
c1|2025-12-01|Ads|Email|-
c2|2025-12-01|Email|Email|-
c3|2025-12-01|Search|-|-
c4|2025-12-01|-|-|c1
c5|2025-12-01|Ads|Ads|c1
"""
#: c4's cart was bought after 16 days, the last cart is younger than 7 days
WEB = """
visitor_id|session_id|happened_at|event|device
v1|s1|2026-02-01T10:00|visit|mobile
v1|s1|2026-02-01T10:01|read|mobile
v1|s1|2026-02-01T10:02|view|mobile
v1|s1|2026-02-01T10:03|cart|mobile
v1|s1|2026-02-01T10:04|checkout|mobile
v1|s1|2026-02-01T10:05|purchase|mobile
v2|s2|2026-02-02T10:00|visit|desktop
v2|s2|2026-02-02T10:01|view|desktop
v2|s2|2026-02-02T10:02|promo|desktop
v2|s2|2026-02-02T10:03|cart|desktop
v2|s2|2026-02-02T10:04|checkout|desktop
v2|s3|2026-02-05T10:00|purchase|desktop
v3|s4|2026-02-03T10:00|visit|mobile
v3|s4|2026-02-03T10:01|form_start|mobile
v3|s4|2026-02-03T10:02|form_complete|mobile
v3|s4|2026-02-03T10:03|download|mobile
v4|s5|2026-02-04T10:00|form_start|mobile
v4|s5|2026-02-04T10:01|cart|mobile
v4|s6|2026-02-20T10:00|purchase|mobile
v1|s7|2026-03-01T10:00|cart|mobile
v3|s8|2026-03-02T10:00|visit|mobile
"""
MESSAGES = """
customer_id|sent_at|channel|campaign|workflow|step|replied
c1|2026-01-20T09:00|Email|-|-|-|1
c2|2026-01-25T09:00|Email|-|-|-|0
c3|2026-01-30T09:00|Zalo|-|-|-|0
c6|2026-01-10T09:00|Zalo|-|-|-|0
c7|2026-01-20T09:00|Email|-|-|-|0
c8|2026-01-20T09:00|Email|-|-|-|-
c1|2026-03-01T09:00|Email|-|-|-|-
c1|2026-01-05T11:00|Email|-|Welcome|1|-
c1|2026-01-08T11:00|Email|-|Welcome|2|-
c2|2026-01-15T12:00|Email|-|Welcome|1|-
c3|2026-02-10T11:00|Email|-|Welcome|1|-
c3|2026-02-12T11:00|Email|-|Welcome|2|-
c3|2026-02-20T11:00|Email|-|Welcome|3|-
"""
TOUCHES = """
customer_id|touched_at|channel|kind
c1|2026-01-04T09:00|Ads|click
c1|2026-01-04T10:00|Email|view
c2|2026-01-10T09:00|Email|click
c2|2026-01-12T09:00|Ads|click
c3|2026-02-01T09:00|Ads|view
c9|2026-01-15T09:00|Ads|click
"""
#: l5 was won after 20 days, l1 after 10, l2 never
LEADS = """
lead_id|created_at|channel|mql_at|sal_at|opportunity_at|negotiation_at|won_at|lost_at
l1|2026-01-05|Ads|2026-01-06|2026-01-08|2026-01-10|2026-01-15|2026-01-20|-
l2|2026-01-10|Ads|2026-01-12|2026-01-15|2026-01-20|-|-|2026-02-01
l3|2026-02-01|Email|2026-02-05|-|-|-|-|-
l4|2026-02-03|Email|-|-|-|-|-|-
l5|2026-02-10|Email|2026-02-11|2026-02-12|2026-02-14|2026-02-20|2026-03-06|-
"""
SUBSCRIPTIONS = """
subscription_id|started_at|ended_at|price
s1|2026-01-01|-|100
s2|2026-01-15|2026-02-15|200
s3|2026-02-20|-|300
"""
CALLS = """
call_id|called_at|status|talk_seconds
1|2026-02-01|answered|60
2|2026-02-02|answered|120
3|2026-02-03|answered|30
4|2026-02-03|missed|-
"""
RUNS = """
run_id|run_at|workflow|status
1|2026-02-01|Welcome|executed
2|2026-02-02|Welcome|executed
3|2026-02-03|Welcome|executed
4|2026-02-04|Welcome|failed
"""
CONTENT = """
content_id|published_at|channel|impressions|reach|likes|comments|shares|video_views|downloads|followers
p1|2026-01-10|Page|100|80|5|2|1|10|0|500
p2|2026-02-10|Page|300|200|10|4|2|0|3|520
"""
SURVEYS = """
survey|customer_id|sent_at|answered_at|csat|nps|aware_unaided|aware_aided
q|c1|2026-02-01|2026-02-02|5|10|1|1
q|c2|2026-02-01|2026-02-02|4|9|0|1
q|c3|2026-02-01|2026-02-02|2|6|0|0
q|c4|2026-02-01|2026-02-02|-|8|1|1
q|c5|2026-02-01|-|-|-|-|-
"""
#: A converts as its hold-out does, B at half the rate
AUDIENCES = """
date|audience|campaign|eligible|excluded|excluded_conversions|holdout|holdout_conversions|included|included_conversions|avoided_cost|lost_margin|reach|reach_without|excluded_sessions|excluded_exits|baseline_sessions|baseline_exits
2026-02-01|A|X|1000000|400000|8000|400000|8000|600000|12000|5000|0|900|1000|200|120|300|90
2026-02-02|B|X|500000|100000|1000|100000|2000|400000|4000|3000|4000|450|500|100|60|200|60
"""
COSTS = """
date|category|amount
2026-01-31|salaries|1000
2026-02-28|ads|1200
2026-02-28|tools|800
"""
RANKINGS = """
date|keyword|position
2026-02-01|k1|5
2026-02-01|k2|20
2026-03-01|k1|8
2026-03-01|k2|9
2026-03-01|k3|50
"""
#: at the end of January p1, p2 and p4; of February p1, p2, p3 and p5
PARTNERS = """
partner_id|joined_at|left_at
p1|2025-12-01|-
p2|2026-01-10|-
p3|2026-02-05|-
p4|2025-11-01|2026-02-10
p5|2026-02-20|-
"""
#: met, missed, written down too late, not finished, 1,200 spent where 1,000 were the limit
TARGETS = """
campaign|kpi|target|starts_on|ends_on|registered_on
A|orders|5|2026-01-01|2026-02-28|2025-12-20
A|leads|20|2026-01-01|2026-02-28|-
A|revenue|1|2026-01-01|2026-02-28|2026-01-02
A|sessions|1|2026-01-01|2026-03-31|2025-12-20
A|spend|1000|2026-01-01|2026-02-28|2025-12-20
"""


def tables():
    """Every table of the shop."""
    stages = [f"{s}_at" for s in ("created", "mql", "sal", "opportunity", "negotiation", "won", "lost")]
    return {
        "channel_daily": rows(DAILY).merge(rows(SENT), on=["date", "channel"], how="left"),
        "orders": rows(ORDERS, ["ordered_at"]), "customers": rows(CUSTOMERS, ["registered_at"]),
        "web_events": rows(WEB, ["happened_at"]), "messages": rows(MESSAGES, ["sent_at"]),
        "touchpoints": rows(TOUCHES, ["touched_at"]), "leads": rows(LEADS, stages),
        "subscriptions": rows(SUBSCRIPTIONS, dates=["started_at", "ended_at"]), "calls": rows(CALLS, ["called_at"]),
        "automation_runs": rows(RUNS, ["run_at"]), "content": rows(CONTENT, ["published_at"]),
        "surveys": rows(SURVEYS, ["sent_at", "answered_at"]), "audience_daily": rows(AUDIENCES),
        "costs": rows(COSTS), "search_rankings": rows(RANKINGS),
        "partners": rows(PARTNERS, dates=["joined_at", "left_at"]),
        "targets": rows(TARGETS, dates=["starts_on", "ends_on", "registered_on"]),
    }  # fmt: skip


#: KPI: numerator, denominator (nan: none), value where it is not their ratio
BY_HAND = {
    "revenue": (13000, nan), "orders": (13, nan), "aov": (13000, 13), "order_rate_session": (13, 350),
    "conv_rate_click": (12, 140), "conv_rate_session": (24, 350), "roas": (7000, 1200), "spend": (1200, nan),
    "cost_per_conv": (1200, 12), "cpa": (1200, 6), "conversions": (24, nan), "cpl": (1200, 10), "leads": (20, nan),
    "sessions": (350, nan), "pageviews": (760, nan), "pages_per_session": (760, 350), "impressions": (4000, nan),
    "clicks": (140, nan), "ctr_ad": (140, 4000), "cpc": (1200, 140), "cpm": (1200, 4000, 300), "sent": (500, nan),
    "delivered": (475, nan), "delivery_rate": (475, 500), "open_rate": (133, 475), "open_rate_sent": (133, 500),
    "ctr_email": (57, 475), "ctor": (57, 133), "bounce_rate_email": (25, 500), "unsub_rate": (3, 475),
    "roi": (1200, 1200), "cac": (3000, 5), "cost_sales_ratio": (3000, 13000), "conv_rate_delivered": (6, 475),
    "ad_conv_rate": (12, 140), "organic_search_sessions": (120, nan), "engagement_rate_site": (225, 350),
    "bounce_rate_site": (125, 350), "visitor_lead_rate": (20, 350), "complaint_rate": (1, 475),
    "response_rate": (6, 475), "list_growth_rate": (1100, 1000, 0.1), "followers": (530, nan),
    "follower_growth": (530, 500, 0.06), "visitors": (4, nan), "conv_rate_user": (3, 4), "completion_rate": (1, 2),
    "cart_abandon": (1, 3), "checkout_abandon": (0, 2), "downloads": (1, nan), "download_rate": (1, 8),
    "behaviours": (11, nan), "articles_read": (1, nan), "products_viewed": (2, nan), "promotions_viewed": (1, nan),
    "carts_filled": (4, nan), "purchases": (3, nan), "retention_rate": (1, 2), "churn_rate": (1, 2),
    "repeat_purchase": (4, 6), "referral_rate": (1, 5), "clv": (1200, 6), "cross_channel_follows": (1, nan),
    "cross_channel_rate": (1, 3), "order_customer_rate": (3, 6), "reengagement_rate": (1, 2),
    "conv_rate_channel": (3, 4), "multi_engagement": (1, 4), "conv_time": (3, 4, 5), "mql": (4, nan), "sal": (3, nan),
    "opportunities": (3, nan), "step_rate": (12, 15), "mql_rate": (4, 5), "sal_rate": (3, 4),
    "lead_customer_rate": (2, 5), "win_rate": (2, 3), "win_rate_negotiation": (2, 2), "sales_cycle": (2, 3, 10),
    "call_time": (210, 3), "call_answer_rate": (3, 4), "mrr": (400, nan), "revenue_campaign": (7000, nan),
    "revenue_channel": (13000, nan), "automation_exec": (3, nan), "msg_journey_step_rate": (3, 5),
    "content_volume": (2, nan), "interactions_total": (24, nan), "interaction_change": (16, 8, 1.0),
    "engagement_rate_social": (24, 400), "engagement_rate_reach": (24, 280), "engagement_rate_followers": (24, 1020),
    "content_engagement": (19, nan), "csat": (2, 3), "csat_mean": (11, 3), "nps": (1, 4, 25),
    "survey_response": (4, 5), "brand_awareness": (2, 4), "brand_awareness_aided": (3, 4),
    "exclusion_rate": (500000, 1500000), "exclusion_effectiveness": (400000, 500000), "exclusion_savings": (4000, nan),
    "conv_rate_included": (16000, 1000000), "reach_impact": (-150, 1500), "bounce_rate_excluded": (180, 300, 0.3),
    "ranked_keywords": (2, nan), "partner_growth": (4, 3, 1 / 3), "campaign_success": (1, 3),
    "shop_orders": (10, nan), "shop_revenue": (6000, nan), "order_value": (6000, 10), "active_customers": (6, nan),
    "offer_response_rate": (1, 5),
}  # fmt: skip
