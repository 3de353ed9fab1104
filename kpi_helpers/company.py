"""Rows of the simulated company behind the sums of its channels: each table tells the same story as they do."""

from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import records
from kpi_helpers.records import ALWAYS, PLANTED, clock, drawn, generator, later, names, words

CHANNELS = PLANTED["channels"]
DAY = pd.Timedelta(1, "D")


def tables(base: pd.DataFrame, scale: float = 1.0) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Every table of the contracts, from the sums `base` of a day and channel, and what was counted on the way.

    `scale` is the size of the company, 1 for the ordinary one; the volumes of `base` are scaled already.
    """
    daily = channel_daily(base)
    orders, customers = orders_and_customers(daily)
    automated = automation(orders, customers, daily["date"].max() + DAY)
    made = {
        "channel_daily": daily, "orders": orders.drop(columns="customer"), "customers": customers,
        "touchpoints": touchpoints(daily, orders, scale), "web_events": web_events(daily),
        "messages": messages(daily, customers, automated), "automation_runs": automation_runs(automated),
    }  # fmt: skip
    small, counted = records.tables(daily, orders, customers, scale)
    people = pd.Series(made["touchpoints"]["customer_id"].unique())
    counted |= {"touched": len(people), "never_converted": int(people.str.startswith("P").sum())}
    sums = {name: int(daily[name].sum()) for name in daily.select_dtypes("Int64") if name not in PLANTED["stocks"]}
    return made | small, counted | {"sums": sums}


def channel_daily(base: pd.DataFrame) -> pd.DataFrame:
    """Split `base` into campaigns, whose sums it keeps, and add what only the shop's other tools know."""
    rng, measures = generator("campaigns"), list(base.columns[2:])
    chosen, share = pd.Series(ALWAYS, index=base.index), pd.Series(0.0, index=base.index)
    for name, c in PLANTED["campaigns"].items():
        rows = base["date"].between(c["first"], c["last"]) & base["channel"].isin(c["channels"])
        chosen[rows], share[rows] = name, c["share"]
    part = base[share > 0].assign(campaign=chosen)
    own = _share_of(part[measures].fillna(0).astype(np.int64), share[part.index].to_numpy(), rng)[measures]
    rest = base.assign(campaign=ALWAYS, **(base[measures] - own.reindex(base.index, fill_value=0)))
    part = part.assign(**own.astype("Int64").where(part[measures].notna()))
    rows = pd.concat([rest, part]).sort_values(["date", "channel", "campaign"], kind="stable", ignore_index=True)
    return _with_stocks(_with_more(rows[["date", "channel", "campaign", *measures]]))


def _share_of(whole: pd.DataFrame, share: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """A campaign's part of each count, such that neither part breaks what the counts owe each other."""
    whole = whole.assign(delivered=whole["sent"] - whole["hard_bounces"] - whole["soft_bounces"])
    whole["bounced"] = whole["sent"] - whole["delivered"]
    own = pd.DataFrame(0, index=whole.index, columns=whole.columns)

    def draw(column: str, within: str = "", lift: float = 1.0) -> None:
        n = whole[column]
        own[column] = drawn = rng.binomial(n, share * lift)
        if within:  # where it is known: sessions that were not tracked bound nothing
            bounded = np.clip(drawn, n - (whole[within] - own[within]), own[within])
            own[column] = np.where(whole[within] >= n, bounded, drawn)

    lift = PLANTED["campaign_order_lift"]
    for column in ("impressions", "sessions", "pageviews", "leads", "sent"):
        draw(column)
    for column, within in {"clicks": "impressions", "delivered": "sent", "unsubscribes": "delivered"}.items():
        draw(column, within)
    for column, within in {"orders": "sessions", "unique_opens": "delivered", "unique_clicks": "unique_opens"}.items():
        draw(column, within, lift)
    own["bounced"] = own["sent"] - own["delivered"]
    draw("hard_bounces", "bounced")
    own["soft_bounces"], own["conversions"] = own["bounced"] - own["hard_bounces"], own["orders"]
    own["clicks"] = own["clicks"].where(whole["unique_clicks"] == 0, own["unique_clicks"])
    own["spend"] = whole["spend"] // 1000 * np.round(share * 100).astype(np.int64) // 100 * 1000
    own["revenue"] = whole["revenue"] // 1000 * own["orders"] // whole["orders"].clip(1) * 1000
    return own


def _with_more(rows: pd.DataFrame) -> pd.DataFrame:
    """Add medium, engagement, first orders, margin, replies and complaints."""
    rng, known = generator("more"), PLANTED["new_customers"]
    whole = rows.drop(columns=["date", "channel", "campaign"]).fillna(0).astype(np.int64)
    traits = pd.DataFrame(CHANNELS).T.loc[rows["channel"]].reset_index(drop=True)
    begun = rows.loc[whole["orders"] > 0, "date"].min()  # nobody could order again before
    day = (rows["date"] - begun).dt.days.clip(lower=0).to_numpy()
    fresh = np.round(known["share_of_orders"] + (1 - known["share_of_orders"]) * np.exp(-day / known["fades_days"]), 6)
    delivered = whole["sent"] - whole["hard_bounces"] - whole["soft_bounces"]
    rate = np.round(traits["margin"].astype(float) * (1 + 0.02 * rng.standard_normal(len(rows))), 4)
    more = rows.assign(medium=traits["medium"].astype("str"))
    more["engaged_sessions"] = rng.binomial(whole["sessions"], traits["engaged"].astype(float))
    more["new_customers"] = rng.binomial(whole["orders"], fresh)
    more["margin"] = (whole["revenue"] // 1000 * rate).round().astype(np.int64) * 1000
    more["replies"] = rng.binomial(delivered, rows["channel"].map(PLANTED["replies"]).fillna(0))
    more["complaints"] = rng.binomial(delivered, PLANTED["complaints"])
    for column, like in {"engaged_sessions": "sessions", "replies": "sent", "complaints": "sent"}.items():
        more[column] = more[column].astype("Int64").where(rows[like].notna())
    return more


def _with_stocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the size of lists and pages: who was there, who joined, less who left."""
    rng, day = generator("stocks"), rows["date"].rank(method="dense") - 1
    left = rows[["unsubscribes", "hard_bounces", "complaints"]].sum(axis=1).groupby([rows["channel"], day]).sum()
    for column, channels in PLANTED["stocks"].items():
        rows[column] = pd.array([pd.NA] * len(rows), dtype="Int64")
        for name, (people, joining) in channels.items():
            own = rows.index[(rows["channel"] == name) & (rows["campaign"] == ALWAYS)]
            start = people * float(rows.loc[own[:100], "orders"].mean())
            joined = rng.poisson(np.round(start * joining * np.exp(0.18 * day[own] / 365.25), 6))
            gone = left[name].to_numpy(np.int64) if column == "subscribers" else 0
            rows.loc[own, column] = round(start) + np.cumsum(joined - gone)
    return rows


def orders_and_customers(daily: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every order behind `daily`, and every customer: who buys again is drawn by own pace, until he stops."""
    rng, n = generator("orders"), daily["orders"].to_numpy(np.int64)
    row = np.repeat(np.arange(len(daily)), n)
    new = np.arange(len(row)) < (np.cumsum(n) - n + daily["new_customers"].to_numpy(np.int64))[row]
    at = clock(daily["date"], row, rng)
    sort = np.argsort(at, kind="stable")
    row, at, new = row[sort], at[sort], new[sort]
    stops = daily["channel"].map({name: told["stops"] for name, told in CHANNELS.items()}).to_numpy()
    customer = _buyers(at, new, stops[row[new]], rng)
    basket = np.exp(0.35 * rng.standard_normal(int(new.sum())))[customer] * np.exp(0.45 * rng.standard_normal(len(row)))
    orders = pd.DataFrame({"ordered_at": at, "customer": customer, "row": row, "status": "completed"})
    group, weight = np.argsort(row, kind="stable"), np.round(1000 * basket).astype(np.int64) + 1
    weight = weight[group]
    for column in ("revenue", "margin"):
        weight = _portions(daily[column].to_numpy(np.int64) // 1000, weight, row[group])
        orders.loc[group, column], weight = weight * 1000, weight + 1
    void = orders[at < at.max() - 3 * DAY].iloc[:: PLANTED["void_every"]].assign(revenue=0, margin=0)
    void["ordered_at"] = later(void["ordered_at"], 600, 200_000, rng)
    void["status"] = drawn(rng, PLANTED["void"], len(void))
    orders = pd.concat([orders, void]).sort_values("ordered_at", kind="stable", ignore_index=True)
    customers = _customers(at[new], daily["channel"].array[row[new]], rng)
    row = orders.pop("row")
    more = {name: daily[name].array[row] for name in ("channel", "campaign")}
    codes = {"order_id": names("D", len(orders)), "customer_id": customers["customer_id"].array[orders["customer"]]}
    return orders.assign(**more, **codes), customers


def _buyers(at: np.ndarray, new: np.ndarray, stops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Customer of each order (n,): paces differ between customers, and each order may be the last."""
    pace = np.round(rng.gamma(PLANTED["pace_shape"], 1000, len(stops))).astype(np.int64) + 2  # whole: exact sums
    stop = np.round(10_000 * rng.beta(4 * stops, 4 * (1 - stops))).astype(np.int64)
    customer, weight = np.cumsum(new) - 1, np.zeros(len(stops), dtype=np.int64)
    day = at.astype("datetime64[D]")
    ends = [*np.flatnonzero(day[1:] != day[:-1]) + 1, len(day)]
    for begin, end in zip([0, *ends], ends, strict=False):
        again = begin + np.flatnonzero(~new[begin:end])
        if len(again):
            reach = np.cumsum(weight[: customer[begin] + 1])  # who came today weighs nothing yet
            customer[again] = np.searchsorted(reach, rng.integers(reach[-1], size=len(again)), side="right")
        bought = customer[begin:end]
        came = bought[new[begin:end]]
        weight[came] = pace[came]
        weight[bought[rng.integers(10_000, size=end - begin) < stop[bought]]] = 1  # hardly ever seen again
    return customer


def _portions(totals: np.ndarray, weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whole parts of each group's total, in proportion to whole `weights`, that add up to it exactly."""
    by = pd.Series(weights).groupby(group)
    reached = totals[group] * by.cumsum().to_numpy() // by.transform("sum").to_numpy()
    return np.where(group == np.r_[-1, group[:-1]], np.diff(reached, prepend=0), reached)


def _customers(at: np.ndarray, channel: Any, rng: np.random.Generator) -> pd.DataFrame:
    """Customers in the order of their first purchase; some followed before, or came from another channel."""
    n, known = len(at), PLANTED["customers"]
    followed = np.where(rng.random(n) < known["followed_before_buying"], rng.integers(3600, 2_000_000, n), 0)
    rows = pd.DataFrame({"customer_id": names("C", n), "registered_at": at - followed, "channel": channel})
    other = pd.Series(drawn(rng, dict.fromkeys(CHANNELS, 1), n))
    elsewhere = rng.random(n) < known["other_first_channel"] * len(CHANNELS) / (len(CHANNELS) - 1)
    rows["first_channel"], rows["segment"] = other.where(elsewhere, rows["channel"]), drawn(rng, PLANTED["segments"], n)
    referrer = rows["customer_id"].take((rng.random(n) * np.arange(n)).astype(np.int64)).reset_index(drop=True)
    return rows.assign(referred_by=referrer.where((rng.random(n) < known["referred"]) & (rows.index > 0)))


def touchpoints(daily: pd.DataFrame, orders: pd.DataFrame, scale: float) -> pd.DataFrame:
    """Contacts before late orders, the last one a click, and of people who bought nothing."""
    rng, known = generator("touchpoints"), PLANTED["touchpoints"]
    begin, n = daily["date"].max() - (known["days"] - 1) * DAY, round(known["never_converted"] * scale)
    late = orders.rename(columns={"ordered_at": "touched_at"}).query("touched_at >= @begin and status == 'completed'")
    earlier = late.loc[late.index.repeat(rng.choice(known["before"], len(late)))].reset_index(drop=True)
    never = pd.DataFrame({"customer_id": names("P", n).repeat(rng.integers(1, 4, n)), "touched_at": begin})
    never["touched_at"] = later(never["touched_at"], 0, known["days"] * 86_400, rng)
    earlier["touched_at"] = later(earlier["touched_at"], -14 * 86_400, -7200, rng)
    others = pd.concat([earlier, never], ignore_index=True)
    others["channel"], others["campaign"] = drawn(rng, known["channels"], len(others)), ALWAYS
    viewed = rng.random(len(others)) < others["channel"].map(known["viewed"]).fillna(0)
    others["kind"] = words(["click", "view"])[viewed.astype(int)]
    touches = pd.concat([late.assign(kind="click", touched_at=later(late["touched_at"], -7200, -60, rng)), others])
    touches = touches[["customer_id", "touched_at", "channel", "campaign", "kind"]]
    touches = touches.sort_values(["touched_at", "customer_id"], kind="stable", ignore_index=True)
    return touches.assign(cost=_cost(daily, touches))


def _cost(daily: pd.DataFrame, touches: pd.DataFrame) -> pd.Series:
    """Cost of each click on an ad; all of a day never cost more than the channel did."""
    of, clicked = [touches["touched_at"].dt.normalize(), touches["channel"]], touches["kind"] == "click"
    spent = daily.groupby(["date", "channel"])[["spend", "clicks"]].sum(min_count=1)
    held = clicked.astype("Int64").groupby(of).transform("sum")
    day = spent.reindex(pd.MultiIndex.from_arrays(of)).reset_index(drop=True)
    cost = day["spend"] // day["clicks"].where(day["clicks"] > held, held).clip(1)
    return cost.where(clicked | cost.isna(), 0)


def web_events(daily: pd.DataFrame) -> pd.DataFrame:
    """Events of a panel of visitors over three months; one draw a session makes the steps to a purchase nested."""
    rng, web = generator("web"), PLANTED["web"]
    late = daily[daily["date"] > daily["date"].max() - web["days"] * DAY].reset_index(drop=True)
    row = np.repeat(np.arange(len(late)), rng.binomial(late["sessions"].to_numpy(np.int64), web["panel_share"]))
    at, k = clock(late["date"], row, rng), len(row)
    row, at = row[np.argsort(at, kind="stable")], np.sort(at)
    visitor = (rng.random(k) ** 2 * (k // 2 + 1)).astype(np.int64)  # a few come often
    people = pd.DataFrame({"visitor_id": names("V", k // 2 + 1)})
    people["device"], people["segment"] = (
        drawn(rng, web["devices"], len(people)),
        drawn(rng, PLANTED["segments"], len(people)),
    )
    sessions = people.take(visitor).assign(session_id=names("S", k), channel=late["channel"].array[row])
    rate = (late["orders"] / late["sessions"].clip(1)).to_numpy(float)[row] * sessions["device"].map(
        web["buys"]
    ).to_numpy()
    share = {**web["sessions"], **web["orders"]}
    draws = {event: rng.random(k) for event in share if event not in web["within"]}
    happened = [
        draws[web["within"].get(event, event)] / (rate if event in web["orders"] else 1) < share[event]
        for event in share
    ]
    session, event = np.nonzero(np.column_stack(happened))
    rows = sessions.take(session).reset_index(drop=True)
    rows["happened_at"] = at[session] + event * rng.integers(15, 60, k)[session]
    rows["event"] = words(share)[event]
    page, most = (rows["event"].map({name: told[i] for name, told in web["pages"].items()}) for i in (0, 1))
    piece = (1 + rng.random(len(rows)) ** 2 * most.fillna(0)).astype(int)  # some are seen far more often
    return rows.assign(content=page + " " + pd.Series(words(range(201))[piece]))


def messages(daily: pd.DataFrame, customers: pd.DataFrame, automated: pd.DataFrame) -> pd.DataFrame:
    """The messages of automations, and every one behind the sums of two weeks; nobody gets the same one twice."""
    rng, begin = generator("messages"), daily["date"].max() - (PLANTED["message_days"] - 1) * DAY
    late = daily[(daily["date"] >= begin) & (daily["sent"].fillna(0) > 0)]
    known = customers.loc[customers["registered_at"] < begin, "customer_id"].array
    lists, parts = {channel: rng.permutation(len(known)) for channel in late["channel"].unique()}, [automated]
    for r in late.itertuples():
        who, delivered = lists[r.channel], r.sent - r.hard_bounces - r.soft_bounces
        who = np.sort(who[: r.sent] if r.campaign == ALWAYS else who[-r.sent :])  # no one is in both
        rank = rng.permutation(r.sent) - (r.sent - delivered)  # below 0: bounced
        left = min(r.unique_clicks, delivered - r.unsubscribes)
        part = pd.DataFrame({"customer_id": known[who], "sent_at": r.date + pd.Timedelta(9, "h")})
        part["status"] = words(["delivered", "soft_bounce", "hard_bounce"])[1 * (rank < 0) + (rank < -r.soft_bounces)]
        did = {"opened": (0, r.unique_opens), "clicked": (0, r.unique_clicks), "replied": (0, r.replies)}
        part = _acted(part, rank, did | {"unsubscribed": (left, left + r.unsubscribes)})
        parts.append(part.assign(channel=r.channel, campaign=r.campaign))
    return pd.concat(parts, ignore_index=True)


def automation(orders: pd.DataFrame, customers: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """Messages of two automations: a welcome in steps, and a reminder to customers who had gone quiet."""
    rng, hello, known = generator("automation"), PLANTED["welcome"], PLANTED["automation"]
    fresh = customers[customers["registered_at"] >= end - hello["days"] * DAY]
    goes_on = (rng.random((len(fresh), len(hello["goes_on"]))) < hello["goes_on"]).cumprod(axis=1).astype(bool)
    parts = [_reminders(orders, customers, end - days * DAY) for days in PLANTED["win_back"]["days_ago"]]
    for step, days in enumerate(hello["after_days"], 1):
        part = fresh.loc[goes_on[:, step - 1], ["customer_id", "registered_at"]].assign(step=step)
        part["sent_at"] = part["registered_at"] + pd.Timedelta(days, "D") + pd.Timedelta(5, "min")
        parts.append(part.assign(workflow=hello["workflow"], channel=hello["channel"]))
    rows = pd.concat(parts).query("sent_at < @end").assign(campaign=ALWAYS)
    rows = rows.sort_values(["sent_at", "customer_id"], kind="stable", ignore_index=True)
    rows["status"] = drawn(rng, known["status"], len(rows))
    return _acted(rows, rng.random(len(rows)), known["did"])


def _acted(rows: pd.DataFrame, draw: np.ndarray, did: Any) -> pd.DataFrame:
    """Messages with flags: the delivered ones whose draw lies between the bounds of a flag `did` it."""
    rows = rows.reindex(columns=["customer_id", "sent_at", "channel", "campaign", "workflow", "step", "status", *did])
    arrived = rows["status"] == "delivered"
    for flag, (low, high) in did.items():
        rows[flag] = pd.Series(arrived & (draw >= low) & (draw < high), dtype="Int8")
    return rows.astype({"sent_at": "datetime64[s]", "workflow": "str", "step": "Int8"}).assign(
        replied=rows["replied"].where(arrived)
    )


def _reminders(orders: pd.DataFrame, customers: pd.DataFrame, at: pd.Timestamp) -> pd.DataFrame:
    """Reminders to the quiet customers of a day, drawn such that the reminded came back more often than the others."""
    rng, back = generator(f"win-back {at:%Y-%m-%d}"), PLANTED["win_back"]
    at, bought = at + DAY / 2, orders[(orders["status"] == "completed")]
    latest = bought[bought["ordered_at"] < at].drop_duplicates("customer", keep="last").set_index("customer")
    quiet = latest.index[latest["ordered_at"] < at - back["quiet_days"] * DAY].sort_values()
    after = bought.loc[bought["ordered_at"].between(at, at + back["within_days"] * DAY), "customer"]
    chance = back["share"] * np.where(quiet.isin(after), back["lift"], 1.0)
    told = {"step": 1, "workflow": back["workflow"], "channel": back["channel"], "sent_at": at}
    return customers.loc[quiet[rng.random(len(quiet)) < chance], ["customer_id"]].assign(**told)


def automation_runs(sent: pd.DataFrame) -> pd.DataFrame:
    """Runs behind the messages of automations, with those that failed or were skipped."""
    rng, known = generator("runs"), PLANTED["automation"]
    rows = sent.rename(columns={"sent_at": "run_at"})[["run_at", "workflow", "channel", "customer_id"]]
    rows = rows.assign(action="send", status="executed")
    extra = rows[rng.random(len(rows)) < known["unexecuted"]]
    extra = extra.assign(status=drawn(rng, known["why_not"], len(extra)))
    rows = pd.concat([rows[sent["step"] == 1].assign(action="trigger"), rows, extra])
    rows = rows.sort_values(["run_at", "customer_id"], kind="stable", ignore_index=True)
    return rows.assign(run_id=names("R", len(rows)))
