"""Rows of the simulated company: they add up to its channels, they nest, and what was planted is found again."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import company, simulate
from kpi_helpers.contracts import TABLES
from kpi_helpers.kpis import catalogue, scorecard
from kpi_helpers.records import ALWAYS, PLANTED

BASE = simulate.channel_daily(0.1)
OLD = list(BASE.columns[2:])


@pytest.fixture(scope="module")
def made():
    return company.tables(BASE, 0.1)


@pytest.fixture(scope="module")
def tables(made):
    return made[0]


@pytest.fixture(scope="module")
def daily(tables):
    return tables["channel_daily"]


@pytest.fixture(scope="module")
def completed(tables):
    return tables["orders"].query("status == 'completed'")


def close_to(share, planted, n, errors=4.5):
    """Whether a share of `n` is the planted one, up to so many standard errors."""
    return abs(share - planted) <= errors * np.sqrt(planted * (1 - planted) / n)


# --- channels ---------------------------------------------------------------------------------------


def test_every_table_has_the_columns_of_its_contract_only(tables):
    assert set(tables) == {*TABLES} - {"paths"}  # which other tools export in place of touchpoints
    for name, rows in tables.items():
        assert set(rows.columns) == {c.name for c in TABLES[name].columns}, name


def test_campaigns_split_each_channel_without_changing_its_sums(daily):
    split = daily.groupby(["date", "channel"], as_index=False)[OLD].sum(min_count=1)

    pd.testing.assert_frame_equal(split[OLD].astype("Int64"), BASE[OLD])
    unknown = daily.merge(BASE, on=["date", "channel"], suffixes=("", "_base"))
    for column in OLD:  # what is not known of the channel is known of no campaign, and the other way round
        assert (unknown[column].isna() == unknown[f"{column}_base"].isna()).all(), column


def test_each_part_of_a_channel_is_possible(daily):
    known = daily.drop(columns=["date", "channel", "campaign", "medium"]).astype(float)
    inside = {
        "clicks": "impressions", "orders": "sessions", "conversions": "sessions", "engaged_sessions": "sessions",
        "unique_clicks": "unique_opens", "new_customers": "orders", "margin": "revenue",
    }  # fmt: skip
    reached = known["sent"] - known["hard_bounces"] - known["soft_bounces"]

    assert known.min().min() >= 0
    for part, whole in inside.items():
        assert not (known[part] > known[whole]).any(), part
    for part in ("unique_opens", "replies", "unsubscribes", "complaints"):
        assert not (known[part] > reached).any(), part
    assert (known["clicks"] == known["unique_clicks"])[known["sent"].notna()].all()


def test_campaigns_run_on_their_days_and_channels(daily):
    for name, told in PLANTED["campaigns"].items():
        rows = daily[daily["campaign"] == name]
        days = pd.date_range(told["first"], told["last"])
        assert set(zip(rows["date"], rows["channel"], strict=True)) == {(d, c) for d in days for c in told["channels"]}
    sums = daily[daily["campaign"] != ALWAYS].dropna(subset=["sessions"]).groupby("campaign")[["sessions"]].sum()
    whole = daily.merge(daily.loc[daily["campaign"] != ALWAYS, ["date", "channel"]]).dropna(subset=["sessions"])
    assert float(sums["sessions"].sum() / whole["sessions"].sum()) == pytest.approx(0.36, abs=0.03)


def test_lists_grow_by_who_joins_and_shrink_by_who_leaves(daily):
    # the tool that sends does not report who joined: it is what the size of the list leaves over
    for channel in ("Email", "Zalo OA"):
        own = daily[daily["channel"] == channel].groupby("date")
        sums = own[["unsubscribes", "hard_bounces", "complaints", "sent"]].sum().astype(float)
        size = own["subscribers"].sum(min_count=1).astype(float)
        joined = size.diff() + sums["unsubscribes"] + sums["hard_bounces"] + sums["complaints"]
        assert joined.min() >= 0, channel
        assert (sums["sent"] < size).all(), channel
    known = daily.dropna(subset=["subscribers"])
    assert set(known["campaign"]) == {ALWAYS}
    assert set(known["channel"]) == {"Email", "Zalo OA"}
    assert set(daily.dropna(subset=["followers"])["channel"]) == {"Paid social", "Zalo OA"}


def test_margin_is_the_planted_part_of_revenue(daily):
    sums = daily.groupby("channel")[["revenue", "margin"]].sum().astype(float)

    for channel, told in PLANTED["channels"].items():
        assert sums["margin"][channel] / sums["revenue"][channel] == pytest.approx(told["margin"], rel=0.01)


# --- orders and customers ---------------------------------------------------------------------------


def test_orders_add_up_to_every_row_of_the_channels(daily, completed):
    keys = ["date", "channel", "campaign"]
    sums = completed.assign(date=completed["ordered_at"].dt.normalize(), orders=1).groupby(keys)
    sums = sums[["orders", "revenue", "margin"]].sum()
    expected = daily.set_index(keys)[["orders", "revenue", "margin"]].astype(np.int64)
    expected = expected[expected["orders"] > 0].sort_index()

    assert (sums.to_numpy() == expected.to_numpy()).all()
    assert [tuple(key) for key in sums.index] == [tuple(key) for key in expected.index]
    assert (completed[["revenue", "margin"]] % 1000 == 0).all(axis=None)


def test_first_orders_are_the_new_customers_of_the_channels(daily, completed, tables):
    first = completed.drop_duplicates("customer_id")
    sums = first.assign(date=first["ordered_at"].dt.normalize()).groupby(["date", "channel", "campaign"]).size()
    new = daily.set_index(["date", "channel", "campaign"])["new_customers"]

    assert (sums == new[new > 0].sort_index().to_numpy()).all()
    assert (first["customer_id"].to_numpy() == tables["customers"]["customer_id"].to_numpy()).all()
    assert (tables["customers"]["channel"].to_numpy() == first["channel"].to_numpy()).all()
    assert (tables["customers"]["registered_at"].to_numpy() <= first["ordered_at"].to_numpy()).all()


def test_void_orders_bring_nothing(tables, completed):
    void = tables["orders"][tables["orders"]["status"] != "completed"]

    assert void[["revenue", "margin"]].to_numpy().sum() == 0
    assert len(void) / len(completed) == pytest.approx(1 / PLANTED["void_every"], rel=0.02)
    assert set(void["status"]) == {"cancelled", "returned"}


def test_customers_stop_as_their_first_channel_says(completed, tables):
    # who came by Paid social is lost soonest: the share that ever bought again, of those who had a year to do so
    old = tables["customers"][tables["customers"]["registered_at"] < "2025-10-01"]
    n = completed.groupby("customer_id").size()
    again = (n[old["customer_id"]].to_numpy() > 1).astype(float)
    share = pd.Series(again).groupby(old["channel"].array).mean()

    assert share["Paid social"] < share["Affiliate"] < share["Organic search"] < share["Email"]


def test_retention_falls_and_levels_off(completed):
    quarter = completed["ordered_at"].dt.to_period("Q")
    first = quarter.groupby(completed["customer_id"]).transform("min")
    age = quarter.astype("int64") - first.astype("int64")
    cohort = completed[first == pd.Period("2024Q1")].groupby(age)["customer_id"].nunique()
    share = (cohort / cohort[0]).to_numpy()[:8]

    assert (np.diff(share) < 0.02).all()
    assert 0.2 < share[1] < 0.4
    assert share[4] / share[3] > share[2] / share[1] - 0.15 > 0.5


def test_shares_of_customers_are_the_planted_ones(tables):
    rows, told = tables["customers"], PLANTED["customers"]
    number = rows["customer_id"].str[1:].astype(int)
    referrer = rows["referred_by"].dropna()

    assert close_to((rows["first_channel"] != rows["channel"]).mean(), told["other_first_channel"], len(rows))
    assert close_to(rows["referred_by"].notna().mean(), told["referred"], len(rows))
    assert (referrer.str[1:].astype(int) < number[referrer.index]).all()


# --- contacts, website, messages --------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """Contacts of the company of ordinary size, its orders of these days, and how many the ads caused."""
    daily = company.channel_daily(simulate.channel_daily())
    orders, _customers = company.orders_and_customers(daily)
    touches, true = company.touchpoints(daily, orders, 1.0)
    begin = daily["date"].max() - pd.Timedelta(PLANTED["touchpoints"]["days"] - 1, "D")
    return touches, orders[(orders["ordered_at"] >= begin) & (orders["status"] == "completed")], true, begin


def test_the_last_contact_before_each_late_order_is_a_click_on_its_channel(world):
    touches, late, _true, _begin = world
    found = pd.merge_asof(
        late, touches.assign(at=touches["touched_at"]), left_on="ordered_at", right_on="touched_at", by="customer_id",
        allow_exact_matches=False, suffixes=("", "_last"),
    )  # fmt: skip
    other = found[(found["channel"] != found["channel_last"]) | (found["campaign"] != found["campaign_last"])]

    assert (found["ordered_at"] - found["at"]).max() <= pd.Timedelta(2, "h")
    assert (found["kind"] == "click").all()
    again = late.duplicated(["customer_id", "ordered_at"], keep=False)  # two orders in one minute: the way in of either
    assert set(other["order_id"]) <= set(late.loc[again, "order_id"])
    assert len(other) <= 1


def test_ads_cause_the_planted_shares_of_orders(world):
    touches, late, true, begin = world
    known, days = PLANTED["touchpoints"], (late["ordered_at"] - begin) / pd.Timedelta(1, "D")
    on_record = 1 - np.exp(-(days - 2 / 24).clip(lower=0) / known["decay_days"])  # not by an ad before these days

    assert true["orders"] == len(late)
    assert true["anyway"] + sum(true["caused"].values()) == len(late)
    assert set(true["caused"]) == set(PLANTED["channels"])
    for channel, share in known["caused"].items():
        expected = share * on_record.sum()
        assert abs(true["caused"][channel] - expected) <= 4 * np.sqrt(expected), channel
    n = touches["channel"].value_counts()
    met = n - late["channel"].value_counts().reindex(n.index) - pd.Series(true["caused"]).reindex(n.index)
    for channel, each in known["met"].items():  # a few of them fell in the two hours before an order
        assert met[channel] / true["people"] == pytest.approx(each, rel=0.03), channel
    assert met["Direct"] == 0
    assert len(touches) < 350_000


def test_people_who_never_bought_are_the_rest(world, tables, completed):
    touches, late, true, _begin = world
    never = set(touches["customer_id"]) - set(late["customer_id"])

    assert true["people"] == PLANTED["touchpoints"]["people"]
    assert {name[0] for name in never} == {"P"}
    assert max(int(name[1:]) for name in never) <= true["people"] - late["customer_id"].nunique()
    unmet = np.exp(-sum(PLANTED["touchpoints"]["met"].values()))  # chance to meet no ad
    assert close_to(1 - len(never) / (true["people"] - late["customer_id"].nunique()), unmet, len(never))


def orders_after(who, at, customer, ordered):
    """Orders of each person (n,) from two hours to three days after a time (n,), in seconds; and those until then."""
    span = 10**10  # one line of time, a person after the other
    line = np.sort(customer * span + ordered)
    until = [np.searchsorted(line, who * span + at + after, side="right") for after in (0, 7200, 3 * 86_400)]
    return until[2] - until[1], until[1] - until[0]


@pytest.mark.parametrize("channel", list(PLANTED["touchpoints"]["caused"])[:6])
def test_an_ad_raises_the_chance_of_an_order_by_what_was_planted(world, channel):
    # Against the orders in so many hours after any moment of all people's time. The click by which an order came is
    # no ad that was met: contacts with an order within two hours are left out.
    touches, late, true, begin = world
    seconds = [((at - begin) / pd.Timedelta(1, "s")).to_numpy().astype(np.int64) for at in
               (touches["touched_at"], late["ordered_at"])]  # fmt: skip
    length = (PLANTED["touchpoints"]["days"] - 3) * 86_400
    codes = pd.factorize(pd.concat([touches["customer_id"], late["customer_id"]]))[0]
    own = (touches["channel"] == channel).to_numpy() & (seconds[0] >= 0) & (seconds[0] < length)
    after, soon = orders_after(codes[: len(touches)][own], seconds[0][own], codes[len(touches) :], seconds[1])
    rate, n = after[soon == 0].mean(), (soon == 0).sum()
    moments = np.clip(seconds[1] - 7200, 0, length) - np.clip(seconds[1] - 3 * 86_400, 0, length)
    usual = moments.sum() / true["people"] / length
    known = PLANTED["touchpoints"]
    seen = known["days"] - known["decay_days"] - 2 / 24  # ads of the last days have not caused all their orders yet
    effect = true["caused"][channel] / (n * seen * 86_400 / length)
    planted = effect * (1 - np.exp(-(3 - 2 / 24) / known["decay_days"]))

    assert abs(rate - usual - planted) <= 3 * np.sqrt(rate / n)
    assert (rate > 2.5 * usual) == (known["caused"][channel] > 0)


def test_contacts_never_cost_more_than_the_channel_spent(tables, daily):
    touches = tables["touchpoints"]
    cost = touches.groupby([touches["touched_at"].dt.normalize(), "channel"])["cost"].sum(min_count=1).dropna()
    spend = daily.groupby(["date", "channel"])["spend"].sum(min_count=1).dropna()

    assert set(cost.index.get_level_values(1)) == {"Paid search", "Paid social", "Affiliate"}
    assert (cost.to_numpy() <= spend.reindex(cost.index).to_numpy()).all()
    assert cost.sum() > 0
    assert (touches.loc[touches["kind"] == "view", "cost"].fillna(0) == 0).all()


def test_contacts_of_a_day_with_few_clicks_share_its_spend():
    day = {"date": [pd.Timestamp("2026-11-01")], "channel": ["Paid search"], "spend": [9000], "clicks": [2]}
    touches = pd.DataFrame(
        {"touched_at": pd.Timestamp("2026-11-01 10:00"), "channel": "Paid search", "kind": ["click"] * 4}
    )

    assert company._cost(pd.DataFrame(day).astype({"spend": "Int64"}), touches).tolist() == [2250] * 4


def test_steps_on_the_website_are_nested_and_as_frequent_as_planted(tables, daily):
    every, web = tables["web_events"], PLANTED["web"]
    at = every["session_id"].map(every.groupby("session_id")["happened_at"].min()).dt.strftime("%Y-%m-%d")
    events = every[~at.between(web["breaks"]["first"], web["breaks"]["last"])]
    daily = daily[~daily["date"].between(web["breaks"]["first"], web["breaks"]["last"])]
    in_session = events.groupby("event")["session_id"].agg(set)
    n = {event: len(sessions) for event, sessions in in_session.items()}

    assert in_session["purchase"] <= in_session["checkout"] <= in_session["cart"] <= in_session["view"]
    assert in_session["form_complete"] <= in_session["form_start"]
    for event, share in web["sessions"].items():
        assert share == 1 or close_to(n[event] / n["visit"], share, n["visit"]), event
    for event in ("checkout", "purchase"):
        assert close_to(n[event] / n["cart"], web["orders"][event] / web["orders"]["cart"], n["cart"]), event
    late = daily[daily["date"] > daily["date"].max() - pd.Timedelta(web["days"], "D")]
    assert close_to(n["visit"] / int(late["sessions"].sum()), web["panel_share"], int(late["sessions"].sum()))
    assert n["purchase"] / (web["panel_share"] * int(late["orders"].sum())) == pytest.approx(1, abs=0.2)
    assert every.groupby("session_id")["visitor_id"].nunique().max() == 1
    assert every.groupby("session_id")["device"].nunique().max() == 1


def test_a_release_breaks_another_step_on_each_device(tables):
    events, web = tables["web_events"], PLANTED["web"]
    first, last, *breaks = web["breaks"].items()
    during = events["happened_at"].between(first[1], f"{last[1]} 23:59:59")
    n = events.assign(during=during).pivot_table("session_id", ["during", "device"], "event", aggfunc="count")
    for device, (step, kept) in breaks:
        before = {"cart": "view", "checkout": "cart"}[step]
        was, now = (n.loc[(at, device), step] / n.loc[(at, device), before] for at in (False, True))
        assert close_to(now / was, kept, n.loc[(True, device), step]), device
    assert web["orders"]["checkout"] / web["orders"]["cart"] == pytest.approx(0.5)
    mobile = n.loc[(True, "mobile"), "checkout"] / n.loc[(True, "mobile"), "cart"]
    assert close_to(mobile, 0.5, n.loc[(True, "mobile"), "cart"])  # of those who still get there as many go on


def test_messages_add_up_to_the_channels(tables, daily):
    rows = tables["messages"]
    sent = rows[rows["workflow"].isna()]
    begin = daily["date"].max() - pd.Timedelta(PLANTED["message_days"] - 1, "D")
    sums = sent.assign(
        date=sent["sent_at"].dt.normalize(), sent=1, hard_bounces=sent["status"] == "hard_bounce",
        soft_bounces=sent["status"] == "soft_bounce", unique_opens=sent["opened"], unique_clicks=sent["clicked"],
        replies=sent["replied"].fillna(0), unsubscribes=sent["unsubscribed"],
    )  # fmt: skip
    names = ["sent", "hard_bounces", "soft_bounces", "unique_opens", "unique_clicks", "replies", "unsubscribes"]
    sums = sums.groupby(["date", "channel", "campaign"])[names].sum().astype(np.int64)
    expected = daily[(daily["date"] >= begin) & (daily["sent"].fillna(0) > 0)]
    expected = expected.set_index(["date", "channel", "campaign"])[names].astype(np.int64).sort_index()

    assert sums.to_dict() == expected.to_dict()
    assert not sent.duplicated(["customer_id", "sent_at", "channel"]).any()
    bounced = rows[rows["status"] != "delivered"]
    assert bounced[["opened", "clicked", "unsubscribed"]].to_numpy().sum() == 0
    assert bounced["replied"].isna().all()
    assert (rows["clicked"] <= rows["opened"]).all()
    assert set(rows.loc[rows["workflow"].notna(), "channel"]) == {"Web push", "SMS"}


def test_welcome_goes_on_as_planted(tables, daily):
    hello = PLANTED["welcome"]
    rows = tables["messages"].query("workflow == @hello['workflow']")
    steps = rows.groupby("customer_id")["step"].agg(["max", "size"])

    assert (steps["max"] == steps["size"]).all()  # nobody gets a step before the one above it
    known = tables["customers"].set_index("customer_id")["registered_at"]
    end = daily["date"].max() + pd.Timedelta(1, "D")
    begun, over = (end - pd.Timedelta(days, "D") for days in (hello["days"], hello["after_days"][-1] + 1))
    fresh = known[(known >= begun) & (known < over)]
    whole = steps["max"].reindex(fresh.index).fillna(0)
    for step, chance in enumerate(hello["goes_on"]):
        assert close_to((whole > step).sum() / (whole >= step).sum(), chance, (whole >= step).sum())
    waited = rows["sent_at"] - rows["customer_id"].map(known)
    assert set((waited - pd.Timedelta(5, "min")) / pd.Timedelta(1, "D")) == set(hello["after_days"])


def test_reminded_customers_come_back_more_often():
    # every tenth of 200,000 quiet customers returned
    n, back = 200_000, PLANTED["win_back"]
    customers = pd.DataFrame({"customer_id": company.names("C", n)})
    quiet, returned = np.arange(n), np.arange(0, n, 10)
    orders = pd.DataFrame({"customer": np.r_[quiet, returned], "status": "completed"})
    orders["ordered_at"] = pd.to_datetime(np.repeat(["2026-06-01", "2026-11-10"], [n, n // 10])).as_unit("s")
    rows = company._reminders(orders, customers, pd.Timestamp("2026-10-22"))
    treated = customers["customer_id"].isin(rows["customer_id"]).to_numpy()
    came = quiet % 10 == 0

    assert treated[~came].mean() == pytest.approx(back["share"], rel=0.06)
    assert treated[came].mean() == pytest.approx(back["share"] * back["lift"], rel=0.12)
    assert company._reminders(orders, customers, pd.Timestamp("2026-08-29")).empty  # not quiet for so long


def test_only_quiet_customers_are_reminded_and_in_time_to_come_back(tables, completed, daily):
    back = PLANTED["win_back"]
    reminded = tables["messages"].query("workflow == @back['workflow']")
    order = pd.merge_asof(
        reminded[["customer_id", "sent_at"]], completed[["customer_id", "ordered_at"]], left_on="sent_at",
        right_on="ordered_at", by="customer_id",
    )  # fmt: skip
    days_ago = (daily["date"].max() + pd.Timedelta(1, "D") - reminded["sent_at"]).dt.ceil("D").dt.days

    assert (order["sent_at"] - order["ordered_at"] > pd.Timedelta(back["quiet_days"], "D")).all()
    assert sorted(set(days_ago)) == sorted(back["days_ago"])
    assert min(back["days_ago"]) > back["within_days"]
    assert (days_ago.value_counts() > 200).all()  # 8,000 of the ordinary company


def test_runs_are_behind_the_messages_of_automations(tables):
    runs, sent = tables["automation_runs"], tables["messages"].dropna(subset=["workflow"])
    executed = runs[(runs["status"] == "executed") & (runs["action"] == "send")]
    keys = ["customer_id", "workflow", "channel"]

    assert executed.groupby(keys).size().equals(sent.groupby(keys).size())
    assert (runs["status"] != "executed").mean() == pytest.approx(PLANTED["automation"]["unexecuted"], rel=0.5)


# --- smaller tables ---------------------------------------------------------------------------------


def test_stages_of_leads_follow_each_other_as_planted():
    rows, stages = company.records.leads(BASE["date"].max(), 10.0), PLANTED["leads"]["stages"]
    times = ["created_at", *(f"{stage}_at" for stage in stages)]

    for before, after in pairwise(times):
        assert rows.loc[rows[after].notna(), before].notna().all(), after
        assert not (rows[after] < rows[before]).any(), after
    assert rows[[*times, "lost_at"]].max().max() < BASE["date"].max() + pd.Timedelta(1, "D")
    assert not (rows["won_at"].notna() & rows["lost_at"].notna()).any()
    ripe = rows[rows["created_at"] < rows["created_at"].max() - pd.Timedelta(240, "D")]
    n = ripe[times].notna().sum()
    for before, after in pairwise(times):
        assert close_to(n[after] / n[before], stages[after.removesuffix("_at")]["chance"], n[before]), after
    days = (ripe["mql_at"] - ripe["created_at"]).dt.total_seconds().median() / 86_400
    assert days == pytest.approx(stages["mql"]["days"], rel=0.06)


def test_members_pay_one_price_at_a_time_and_leave_as_planted(tables):
    rows = company.records.subscriptions(tables["customers"], BASE["date"].max(), 10.0)
    rows = rows.sort_values(["subscription_id", "started_at"])
    again = rows["subscription_id"].eq(rows["subscription_id"].shift())
    known = tables["customers"].set_index("customer_id")["registered_at"]

    assert (rows["started_at"] > rows["customer_id"].map(known)).all()
    assert (rows["ended_at"].isna() | (rows["ended_at"] > rows["started_at"])).all()
    assert (rows["started_at"] == rows["ended_at"].shift())[again].all()
    for plan, prices in PLANTED["members"]["prices"].items():
        old = rows["started_at"] < PLANTED["members"]["rose"]
        assert [set(rows.loc[(rows["plan"] == plan) & part, "price"]) for part in (old, ~old)] == [{p} for p in prices]
    begun = rows.groupby("subscription_id").agg(start=("started_at", "min"), end=("ended_at", lambda at: at.iloc[-1]))
    month = begun[begun["start"] < begun["start"].max() - pd.Timedelta(31, "D")]
    left = (month["end"] - month["start"] == pd.Timedelta(30, "D")).mean()
    assert close_to(left, PLANTED["members"]["leave"], len(month))


def test_the_satisfied_answer_more_often():
    orders = pd.DataFrame({"ordered_at": pd.date_range("2026-09-01", periods=80_000, freq="s"), "status": "completed"})
    orders["customer"] = orders["customer_id"] = np.arange(80_000)
    rows = company.records.surveys(orders, BASE["date"].max(), 10.0)
    bought, told = rows[rows["survey"] == "Sau mua hàng"], PLANTED["surveys"]
    share, answers = told["words"]["csat"], told["answers"]
    expected = sum(share[k] * answers[k] for k in share)
    answered = bought["answered_at"].notna()

    assert answered.mean() == pytest.approx(expected, rel=0.03)
    rated = bought.loc[answered, "csat"].astype(int)
    for k in share:
        assert close_to((rated == k).mean(), share[k] * answers[k] / expected, len(rated)), k
    assert (rated >= 4).mean() - share[4] - share[5] > 0.1  # what the answers alone would say
    blank = rows["answered_at"].isna()
    assert rows.loc[blank, ["csat", "nps", "aware_unaided", "aware_aided", "discovery"]].isna().all(axis=None)
    assert (rows["answered_at"] > rows["sent_at"])[~blank].all()
    assert (rows["aware_unaided"].dropna() <= rows["aware_aided"].dropna()).all()


def test_exclusion_hurts_one_audience_only():
    rows = company.records.audience_daily(BASE["date"].max(), 10.0).groupby("audience").sum(numeric_only=True)

    for name, told in PLANTED["exclusion"].items():
        r = rows.loc[name]
        assert close_to(r["excluded_conversions"] / r["excluded"], told["excluded"], r["excluded"]), name
        assert close_to(r["holdout"] / (r["holdout"] + r["excluded"]), told["holdout"], r["holdout"] + r["excluded"])
        assert close_to(r["included_conversions"] / r["included"], told["shown"], r["included"]), name
        if told["holdout"]:
            assert close_to(r["holdout_conversions"] / r["holdout"], told["shown"], r["holdout"]), name
    hurt = [name for name, told in PLANTED["exclusion"].items() if told["excluded"] < 0.9 * told["shown"]]
    assert hurt == ["Bỏ giỏ hàng"]
    assert [name for name, told in PLANTED["exclusion"].items() if not told["holdout"]] == ["Không bấm trong 60 ngày"]


def test_exclusion_has_a_late_rule_with_regions_without_it():
    rows, wave = company.records.audience_daily(BASE["date"].max(), 1.0), PLANTED["exclusion_wave"]
    late = rows["audience"].isin(wave["audiences"])
    ran = rows["segment"].isin(wave["segments"]) & (rows["date"] >= wave["since"])

    assert rows.loc[late & ~ran, ["excluded", "holdout"]].eq(0).all(axis=None)
    assert rows.loc[~late | ran, "excluded"].gt(0).all()
    assert rows.loc[late & ~ran, "reach"].eq(rows.loc[late & ~ran, "reach_without"]).all()
    order, spread = PLANTED["exclusion_order"]
    n, revenue = rows["included_conversions"], rows["included_revenue"]
    assert revenue.sum() / n.sum() == pytest.approx(order, rel=0.01)
    within = ((revenue - n * order) ** 2 / n.where(n > 0)).mean()  # of n orders, a row
    assert within**0.5 / order == pytest.approx(spread, rel=0.05)
    views = PLANTED["exclusion_views"]
    for who in ("excluded", "holdout", "included"):
        assert rows[f"{who}_cost"].sum() / rows[who].sum() == pytest.approx(views["each"] * views[who], rel=0.01)


def test_costs_hold_the_spend_of_each_day(tables, daily):
    rows = tables["costs"]
    ads = rows[rows["category"] == "ads"].set_index(["date", "channel"])["amount"].sort_index()
    spend = daily.groupby(["date", "channel"])["spend"].sum(min_count=1).dropna()

    assert ads.equals(spend.rename("amount"))
    assert set(rows["category"]) == {"ads", *PLANTED["costs"]}
    assert rows.loc[rows["category"] != "ads", "channel"].isna().all()


def test_targets_were_written_down_before_and_are_met_as_planted(tables, daily):
    rows = tables["targets"]
    met = {}

    assert (pd.to_datetime(rows["registered_on"]) < pd.to_datetime(rows["starts_on"])).all()
    for r in rows[rows["kpi"] != "revenue"].itertuples():
        reached = int(daily.loc[daily["campaign"] == r.campaign, r.kpi].sum())
        i, factors = list(PLANTED["campaigns"]).index(r.campaign), PLANTED["target_reached"][r.kpi]
        assert r.target == pytest.approx(reached / factors[i % len(factors)], abs=0.5)
        met[r.campaign, r.kpi] = reached >= r.target
    assert 0 < sum(met.values()) < len(met)


@pytest.fixture(scope="module")
def experiments():
    """Units of the experiments, by size of the company and what is planted."""
    names = {next(iter(PLANTED[key]["words"]["experiment"])): key for key in company.records.EXPERIMENTS}
    sizes = {scale: company.records.experiment_units(BASE["date"].max(), scale) for scale in (1.0, 10.0)}
    return {(names[told], scale): units for scale, rows in sizes.items() for told, units in rows.groupby("experiment")}


def won(units):
    """z of the difference of conversion, treatment less control, pooled (statsmodels)."""
    from statsmodels.stats.proportion import proportions_ztest

    treatment, control = (units.loc[units["variant"] == v, "converted"] for v in ("treatment", "control"))
    return proportions_ztest([treatment.sum(), control.sum()], [len(treatment), len(control)])[0]


def test_the_experiment_has_its_lift(experiments):
    rows, told = experiments["experiment", 10.0], PLANTED["experiment"]
    rate = rows.groupby("variant")["converted"].mean()

    assert rows["variant"].value_counts().tolist() == [100_000, 100_000]
    assert close_to(rate["control"], told["control_rate"], 100_000)
    assert close_to(rate["treatment"], told["control_rate"] * told["lift"], 100_000)
    assert ((rows["revenue"] > 0) == (rows["converted"] == 1)).all()
    for _variant, units in rows.groupby("variant"):
        assert close_to(units["unsubscribed"].mean(), told["unsubscribed"], 100_000)
    for segment, units in rows.groupby("segment"):  # no interaction: one lift, up to its error on the log scale
        converted = units.groupby("variant")["converted"].agg(["mean", "sum"])
        lift = converted.loc["treatment", "mean"] / converted.loc["control", "mean"]
        assert abs(np.log(lift / told["lift"])) < 4 * np.sqrt((1 / converted["sum"]).sum()), segment


def test_revenue_before_tells_much_of_revenue(experiments):
    units = experiments["experiment", 1.0]

    assert 2 < won(units) < 4  # 20,000 units suffice, without certainty
    assert 0.6 < units["revenue"].corr(units["revenue_before"]) < 0.7
    assert units["revenue"].skew() > 5


def test_a_broken_split_looks_like_a_win(experiments):
    from scipy.stats import chisquare

    units, more, told = (*(experiments["broken_split", scale] for scale in (1.0, 10.0)), PLANTED["broken_split"])
    lost = 1 - more["variant"].eq("treatment").sum() / more["variant"].eq("control").sum()
    kept = more[more["segment"] == "desktop"]  # nobody was lost there

    assert told["lift"] == 1
    assert 3 < won(units) < 4  # p about 0.001, for nothing
    assert chisquare(units["variant"].value_counts()).pvalue < 1e-40
    assert close_to(lost, 0.75 * told["slow"] * told["lost"], 100_000)
    assert abs(won(kept)) < 3
    assert close_to(kept["variant"].eq("treatment").mean(), 0.5, len(kept))


def test_a_novelty_fades(experiments):
    units, told = experiments["novelty", 1.0], PLANTED["novelty"]
    day = (units["assigned_at"] - units["assigned_at"].min().normalize()).dt.days
    weekly = experiments["novelty", 10.0].assign(
        week=lambda t: (t["assigned_at"] - t["assigned_at"].min()).dt.days // 7
    )
    rates = weekly.pivot_table(values="converted", index="week", columns="variant", aggfunc=["mean", "sum"])
    lift, error = rates["mean"]["treatment"] / rates["mean"]["control"], np.sqrt((1 / rates["sum"]).sum(axis=1))
    planted = [
        np.mean([1 + (told["lift"] - 1) * max(1 - d / told["fades"], 0) for d in range(7 * w, 7 * w + 7)])
        for w in range(4)
    ]

    assert won(units) > 3.5
    assert abs(won(units[day >= 21])) < 1.96
    assert (np.abs(np.log(lift / planted)) < 4 * error).all()
    assert units["variant"].value_counts().tolist() == [10_000, 10_000]


def test_withheld_ads_cost_what_they_cause_a_person(experiments, world):
    # 45 days without the ads, of which those of the days before still cause a few orders
    _touches, late, true, _begin = world
    rows, told, known = experiments["holdout", 10.0], PLANTED["holdout"], PLANTED["touchpoints"]
    rate, per_person = rows.groupby("variant")["converted"].mean(), len(late) / true["people"]
    carried = (known["decay_days"] + 2 / 24) / known["days"]
    end = rows["assigned_at"].dt.normalize() + pd.Timedelta(known["days"] + known["days"], "D")

    assert rows["variant"].value_counts().to_dict() == {"ads": 400_000, "no ads": 400_000}
    assert close_to(rate["no ads"], told["control_rate"], 400_000)
    assert close_to(rate["ads"], told["control_rate"] * told["lift"], 400_000)
    assert told["control_rate"] * told["lift"] == pytest.approx(per_person, rel=0.002)
    caused = known["caused"]["Paid search"] * per_person * (1 - carried)
    assert told["control_rate"] * (told["lift"] - 1) == pytest.approx(caused, rel=0.002)
    assert set(end) == {BASE["date"].max() + pd.Timedelta(1, "D")}
    own = experiments["holdout", 1.0].groupby("variant")["converted"].mean()
    assert abs(own["ads"] - own["no ads"] - caused) < 1.96 * np.sqrt(2 * 0.3 * 0.7 / 40_000)


def test_posts_calls_and_keywords_are_what_was_planted(tables):
    posts, calls, keywords = (
        tables["content"],
        company.records.things("calls", BASE["date"].max(), 10.0)[0],
        tables["search_rankings"],
    )
    rate = (
        posts.assign(acts=posts[["likes", "comments", "shares", "saves"]].sum(axis=1))
        .groupby("kind")[["acts", "reach"]]
        .sum()
    )
    rate = rate["acts"] / rate["reach"]

    assert rate["video"] > 1.3 * rate["photo"] > 1.3 * rate["article"]
    for column, (kind, part) in PLANTED["content"]["used"].items():  # none is 0: blank would be "not known"
        own = posts["kind"] == kind
        assert posts.loc[~own, column].eq(0).all(), column
        assert close_to(
            posts.loc[own, column].sum() / posts.loc[own, "reach"].sum(), part, posts.loc[own, "reach"].sum()
        )
    assert close_to((calls["status"] == "answered").mean(), PLANTED["calls"]["words"]["status"]["answered"], len(calls))
    talk = calls.loc[calls["status"] == "answered", "talk_seconds"]
    assert talk.mean() == pytest.approx(PLANTED["calls"]["amounts"]["talk_seconds"][1]["answered"], rel=0.02)
    assert ((calls["talk_seconds"] > 0) == (calls["status"] == "answered")).all()
    top = keywords[keywords["position"] <= 10].groupby("date").size()
    assert len(top) == 26 and top.iloc[-1] > top.iloc[0]


def test_partners_leave_after_they_joined(tables):
    rows = tables["partners"]

    assert (rows["left_at"].isna() | (rows["left_at"] > rows["joined_at"])).all()
    assert 0 < rows["left_at"].notna().sum() < len(rows) / 2 + 30


def test_every_kpi_has_a_value(tmp_path):
    # 20,000 customers are enough
    card = scorecard(simulate.write(tmp_path / "demo", 20_000)).set_index("kpi")

    assert list(card.index) == [k.id for k in catalogue()] and len(card) == len(catalogue())
    assert card.loc[card["value"].isna(), "note"].to_dict() == {}
    asleep = card.loc["reengagement_rate"]
    assert asleep["denominator"] > 500
    assert 0 < asleep["low"] < asleep["value"] < asleep["high"] < 0.2
