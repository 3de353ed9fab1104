"""Rows of the simulated company behind the sums of its channels: each table tells the same story as they do."""

from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import records
from kpi_helpers.records import ALWAYS, PLANTED, clock, drawn, generator, later, names, words

CHANNELS = PLANTED["channels"]
DAY = pd.Timedelta(1, "D")


def tables(base: pd.DataFrame, scale: float = 1.0) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Every table, from the sums `base` of a day and channel of a company of size `scale`; and their totals."""
    daily, last = channel_daily(base), base["date"].max()
    orders, customers = orders_and_customers(daily)
    automated = automation(orders, customers, last + DAY)
    touches, true = touchpoints(daily, orders, scale)
    made = {
        "channel_daily": daily, "orders": orders.drop(columns="customer"), "customers": customers,
        "touchpoints": touches, "web_events": web_events(daily),
        "messages": messages(daily, customers, automated), "automation_runs": automation_runs(automated),
        "leads": records.leads(last, scale), "subscriptions": records.subscriptions(customers, last, scale),
        "surveys": records.surveys(orders, last, scale), "audience_daily": records.audience_daily(last, scale),
        "calls": records.things("calls", last, scale)[0], "search_rankings": records.search_rankings(last),
        "content": records.content(daily), "partners": records.partners(last), "costs": records.costs(daily),
        "targets": records.targets(daily), "experiment_units": records.experiment_units(last, scale),
    }  # fmt: skip
    sums = {name: int(daily[name].sum()) for name in daily.select_dtypes("Int64") if name not in PLANTED["stocks"]}
    return made, {"sums": sums, "ad_effects": true}


def channel_daily(base: pd.DataFrame) -> pd.DataFrame:
    """Split `base` into campaigns, whose sums it keeps, and add what only the shop's other tools know."""
    rng, measures = generator("campaigns"), list(base.columns[2:])
    chosen, share = pd.Series(ALWAYS, index=base.index), pd.Series(0.0, index=base.index)
    for name, c in PLANTED["campaigns"].items():
        rows = base["date"].between(c["first"], c["last"]) & base["channel"].isin(c["channels"])
        chosen[rows], share[rows] = name, c["share"]
    whole = base[measures].fillna(0).astype(np.int64)
    own = pd.DataFrame(0, index=base.index, columns=measures)
    for column, (held, lift) in PLANTED["split"].items():
        rest = whole[column] - whole[held].sum(axis=1)  # sessions that were not tracked hold no orders
        own[column] = rng.binomial(rest.clip(0), share * lift) + own[held].sum(axis=1)
    own["spend"] = whole["spend"] // 1000 * np.round(share * 100).astype(np.int64) // 100 * 1000
    own["revenue"] = whole["revenue"] // 1000 * own["orders"] // whole["orders"].clip(1) * 1000
    own = base.assign(campaign=chosen, **own.astype("Int64").where(base[measures].notna()))
    rest = base.assign(campaign=ALWAYS, **(base[measures] - own[measures]))
    rows = pd.concat([rest, own[share > 0]]).sort_values(["date", "channel", "campaign"], ignore_index=True)
    return _with_stocks(_with_more(rows[["date", "channel", "campaign", *measures]]))


def _with_more(rows: pd.DataFrame) -> pd.DataFrame:
    """Add medium, engagement, first orders, margin, replies and complaints."""
    rng, known, n = generator("more"), PLANTED["new_customers"], rows.iloc[:, 3:].fillna(0).astype(np.int64)
    traits = pd.DataFrame.from_dict(CHANNELS, orient="index").loc[rows["channel"]].reset_index(drop=True)
    day = (rows["date"] - rows.loc[n["orders"] > 0, "date"].min()).dt.days.clip(lower=0)  # nobody ordered before
    fresh = np.round(known["share_of_orders"] + (1 - known["share_of_orders"]) * np.exp(-day / known["fades_days"]), 6)
    rate = np.round(traits["margin"] * (1 + 0.02 * rng.standard_normal(len(rows))), 4)
    arrived, sent = n["sent"] - n["hard_bounces"] - n["soft_bounces"], rows["sent"].notna()
    more = {"engaged_sessions": rng.binomial(n["sessions"], traits["engaged"])}
    more["new_customers"] = rng.binomial(n["orders"], fresh)
    more["margin"] = (n["revenue"] // 1000 * rate).round() * 1000
    for column in ("replies", "complaints"):
        more[column] = rng.binomial(arrived, traits[column])
    rows = rows.assign(medium=traits["medium"], **more).astype(dict.fromkeys(more, "Int64"))
    rows["engaged_sessions"] = rows["engaged_sessions"].where(rows["sessions"].notna())
    return rows.assign(**rows[["replies", "complaints"]].where(sent))


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
    stops = daily["channel"].map({name: told["stops"] for name, told in CHANNELS.items()}).to_numpy()
    sort, customer = np.argsort(at, kind="stable"), np.empty(len(row), dtype=np.int64)
    customer[sort] = _buyers(at[sort], new[sort], stops[row[sort][new[sort]]], rng)
    weight = np.exp(0.35 * rng.standard_normal(int(new.sum())))[customer] * np.exp(0.45 * rng.standard_normal(len(row)))
    weight = np.round(1000 * weight).astype(np.int64) + 1
    orders = pd.DataFrame({"ordered_at": at, "customer": customer, "row": row, "status": 0})
    for column in ("revenue", "margin"):  # whole thousands by weight, that add up to those of the row
        whole = np.bincount(row, weight, len(n)).astype(np.int64)
        within = np.cumsum(weight) - (np.cumsum(whole) - whole)[row]
        reached = daily[column].to_numpy(np.int64)[row] // 1000 * within // whole[row]
        part = np.where(np.diff(row, prepend=-1) == 0, np.diff(reached, prepend=0), reached)
        orders[column], weight = part * 1000, part + 1
    first = orders[new].sort_values("customer")
    customers = _customers(first["ordered_at"], daily["channel"].array[first["row"]], rng)
    void = orders[at < at.max() - 3 * DAY].iloc[:: PLANTED["void_every"]].assign(revenue=0, margin=0)
    void["ordered_at"], void["status"] = later(void["ordered_at"], 600, 200_000, rng), rng.choice([1, 1, 2], len(void))
    orders = pd.concat([orders, void]).sort_values("ordered_at", kind="stable", ignore_index=True)
    orders["status"] = words(["completed", "cancelled", "returned"])[orders["status"]]
    orders["customer_id"] = customers["customer_id"].array[orders["customer"]]
    more = {column: daily[column].array[orders["row"]] for column in ("channel", "campaign")}
    return orders.drop(columns="row").assign(**more, order_id=names("D", len(orders))), customers


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


def _customers(at: pd.Series, channel: Any, rng: np.random.Generator) -> pd.DataFrame:
    """Customers in the order of their first purchase; some followed before, or came from another channel."""
    n, known = len(at), PLANTED["customers"]
    followed = rng.integers(3600, 2_000_000, n) * (rng.random(n) < known["followed_before_buying"])
    rows = pd.DataFrame({"customer_id": names("C", n), "channel": channel})
    rows["registered_at"] = (at - pd.to_timedelta(followed, unit="s")).array
    elsewhere = rng.random(n) < known["other_first_channel"] * len(CHANNELS) / (len(CHANNELS) - 1)
    rows["first_channel"] = rows["channel"].mask(elsewhere, drawn(rng, dict.fromkeys(CHANNELS, 1), n))
    rows["segment"] = drawn(rng, PLANTED["segments"], n)
    referrer = rows["customer_id"].array[(rng.random(n) * rows.index).astype(np.int64)]
    return rows.assign(referred_by=pd.Series(referrer).where((rng.random(n) < known["referred"]) & (rows.index > 0)))


def touchpoints(daily: pd.DataFrame, orders: pd.DataFrame, scale: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Contacts of the last days: ads, and the click by which each order came; and how many orders the ads caused."""
    rng, known = generator("touchpoints"), PLANTED["touchpoints"]
    begin = daily["date"].max() - (known["days"] - 1) * DAY
    late = orders.query("ordered_at >= @begin and status == 'completed'")
    person, buyers = pd.factorize(late["customer_id"])
    n, late = max(round(known["people"] * scale), len(buyers)), late.assign(person=person)
    ads = _ads(late, n, begin, rng)
    since = late.groupby("person")["ordered_at"].diff().dt.total_seconds().fillna(7200).clip(1, 7200)  # an order before
    came = late.assign(kind=False, touched_at=later(late["ordered_at"].array, -since.to_numpy(np.int64), 0, rng))
    touches = pd.concat([came, ads])[["person", "touched_at", "channel", "campaign", "kind"]]
    touches = touches.sort_values(["touched_at", "person"], kind="stable", ignore_index=True)
    touches["kind"] = words(["click", "view"])[touches["kind"].astype(int)]
    touches["customer_id"] = words([*buyers, *names("P", n - len(buyers))])[touches.pop("person")]
    caused = {channel: int((ads["caused"] & (ads["channel"] == channel)).sum()) for channel in known["caused"]}
    true = {"people": n, "orders": len(late), "anyway": len(late) - sum(caused.values()), "caused": caused}
    return touches[["customer_id", *touches.columns[:-1]]].assign(cost=_cost(daily, touches)), true


def _ads(late: pd.DataFrame, people: int, begin: pd.Timestamp, rng: np.random.Generator) -> pd.DataFrame:
    """Ads that people met whether they buy or not, and some time before each order that an ad caused, that ad."""
    known, n = PLANTED["touchpoints"], round(people * sum(PLANTED["touchpoints"]["met"].values()))
    met = pd.DataFrame({"person": rng.integers(people, size=n), "channel": drawn(rng, known["met"], n)})
    met["touched_at"] = later(pd.Series(begin, met.index), 0, known["days"] * 86_400, rng)
    ago = 7200 + np.ceil(rng.exponential(known["decay_days"] * 86_400, len(late))).astype("timedelta64[s]")
    by = drawn(rng, {**known["caused"], "": 1 - sum(known["caused"].values())}, len(late))  # "": came anyway
    due = late.assign(channel=by, touched_at=late["ordered_at"] - ago)
    due = due[(by != "") & (due["touched_at"] >= begin)]  # those of ads before these days are on no record
    ads = pd.concat([met.assign(caused=False), due.assign(caused=True)]).sort_values("touched_at", kind="stable")
    # in the two hours before an order there is nothing but the click by which it came
    order = late[["person", "ordered_at"]].assign(soon=True)
    at = {"left_on": "touched_at", "right_on": "ordered_at", "by": "person", "direction": "forward"}
    soon = pd.merge_asof(ads[["person", "touched_at"]], order, **at, tolerance=2 * DAY / 24)["soon"]
    ads = ads[soon.isna().to_numpy()]
    return ads.assign(campaign=ALWAYS, kind=rng.random(len(ads)) < ads["channel"].map(known["viewed"]))


def _cost(daily: pd.DataFrame, touches: pd.DataFrame) -> pd.Series:
    """Cost of each click on an ad; all of a day never cost more than the channel did."""
    of, clicked = [touches["touched_at"].dt.normalize(), touches["channel"]], touches["kind"] == "click"
    day = daily.groupby(["date", "channel"])[["spend", "clicks"]].sum(min_count=1)
    day = day.reindex(pd.MultiIndex.from_arrays(of)).reset_index(drop=True)
    cost = day["spend"] // day["clicks"].clip(clicked.groupby(of).transform("sum").clip(1))
    return cost.where(clicked | cost.isna(), 0)


def web_events(daily: pd.DataFrame) -> pd.DataFrame:
    """Events of a panel of visitors over three months; one draw a session makes the steps to a purchase nested."""
    rng, web = generator("web"), PLANTED["web"]
    late = daily[daily["date"] > daily["date"].max() - web["days"] * DAY].reset_index(drop=True)
    row = np.repeat(np.arange(len(late)), rng.binomial(late["sessions"].to_numpy(np.int64), web["panel_share"]))
    at, k, share = clock(late["date"], row, rng), len(row), web["sessions"] | web["orders"]
    people = pd.DataFrame({"visitor_id": names("V", k)})
    people["device"], people["segment"] = (drawn(rng, weights, k) for weights in (web["devices"], PLANTED["segments"]))
    rows = people.take((rng.random(k) ** 2 * k / 2).astype(np.int64)).assign(happened_at=at)  # a few come often
    rows["channel"], rows["rate"] = late["channel"].array[row], (late["orders"] / late["sessions"]).array[row]
    rows = rows.sort_values("happened_at", kind="stable").assign(session_id=names("S", k))
    rate = rows.pop("rate").to_numpy(float) * rows["device"].map(web["buys"]).to_numpy()
    draws = {event: rng.random(k) for event in share if event not in web["within"]}
    chance = {event: share[event] * (rate if event in web["orders"] else 1.0) for event in share}
    happened = [draws[web["within"].get(event, event)] < chance[event] for event in share]
    session, event = np.nonzero(np.column_stack(happened))
    rows = rows.take(session).reset_index(drop=True).assign(event=words(share)[event])
    rows["happened_at"] += pd.to_timedelta(event * rng.integers(15, 60, k)[session], unit="s")
    piece = pd.Series((1 + rng.random(len(rows)) ** 2 * web["pieces"]).astype(int))  # some are seen far more often
    rows["content"] = rows["event"].map(web["pages"]) + " " + piece.astype("str")
    first, last, *breaks = web["breaks"].items()
    luck, during = (
        generator("web breaks").random(k)[session],
        rows["happened_at"].between(first[1], f"{last[1]} 23:59:59"),
    )
    lost = [
        during & (rows["device"] == device) & (event >= list(share).index(step)) & (luck >= kept)
        for device, (step, kept) in breaks
    ]  # a lost step takes those after it along
    return rows[~np.any(lost, axis=0)].reset_index(drop=True)


def messages(daily: pd.DataFrame, customers: pd.DataFrame, automated: pd.DataFrame) -> pd.DataFrame:
    """The messages of automations, and every one behind the sums of the last days; nobody gets the same one twice."""
    rng, begin = generator("messages"), daily["date"].max() - (PLANTED["message_days"] - 1) * DAY
    late = daily[(daily["date"] >= begin) & (daily["sent"].fillna(0) > 0)]
    known = customers.loc[customers["registered_at"] < begin, "customer_id"].array
    lists, parts = {channel: rng.permutation(len(known)) for channel in late["channel"].unique()}, [automated]
    for r in late.itertuples():
        who = lists[r.channel][: r.sent] if r.campaign == ALWAYS else lists[r.channel][-r.sent :]
        bounced = r.hard_bounces + r.soft_bounces
        rank = rng.permutation(r.sent) - bounced  # below 0: bounced
        part = pd.DataFrame({"customer_id": known[np.sort(who)], "sent_at": r.date + pd.Timedelta(9, "h")})
        part["status"] = words(["delivered", "soft_bounce", "hard_bounce"])[1 * (rank < 0) + (rank < -r.soft_bounces)]
        did = {"opened": (0, r.unique_opens), "clicked": (0, r.unique_clicks), "replied": (0, r.replies)}
        did["unsubscribed"] = (r.sent - bounced - r.unsubscribes, r.sent)
        parts.append(_acted(part.assign(channel=r.channel, campaign=r.campaign), rank, did))
    return pd.concat(parts, ignore_index=True)


def automation(orders: pd.DataFrame, customers: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """Messages of two automations: a welcome in steps, and a reminder to customers who had gone quiet."""
    rng, hello, known = generator("automation"), PLANTED["welcome"], PLANTED["automation"]
    fresh = customers[customers["registered_at"] >= end - hello["days"] * DAY]
    goes_on = (rng.random((len(fresh), len(hello["goes_on"]))) < hello["goes_on"]).cumprod(axis=1)
    step, who = np.nonzero(goes_on.T)
    rows = fresh.iloc[who].assign(step=step + 1, workflow=hello["workflow"], channel=hello["channel"])
    minutes = np.array(hello["after_days"])[step] * 1440 + 5
    rows["sent_at"] = rows["registered_at"] + pd.to_timedelta(minutes, unit="min")
    parts = [_reminders(orders, customers, end - days * DAY) for days in PLANTED["win_back"]["days_ago"]]
    rows = pd.concat([rows, *parts]).query("sent_at < @end").assign(campaign=ALWAYS)
    rows = rows.sort_values(["sent_at", "customer_id"], kind="stable", ignore_index=True)
    return _acted(rows.assign(status=drawn(rng, known["status"], len(rows))), rng.random(len(rows)), known["did"])


def _reminders(orders: pd.DataFrame, customers: pd.DataFrame, day: pd.Timestamp) -> pd.DataFrame:
    """Reminders to customers who are quiet on a day, drawn such that the reminded come back more often."""
    rng, back, at = generator(f"win-back {day:%Y-%m-%d}"), PLANTED["win_back"], (day + DAY / 2).to_datetime64()
    bought = orders[orders["status"] == "completed"]
    who, when = bought["customer"].to_numpy(), bought["ordered_at"].to_numpy()
    latest, chance = np.full(len(customers), at), np.full(len(customers), back["share"])
    latest[who[when < at]] = when[when < at]  # the last one stays
    chance[who[(when >= at) & (when < at + np.timedelta64(back["within_days"], "D"))]] *= back["lift"]
    chosen = (latest < at - np.timedelta64(back["quiet_days"], "D")) & (rng.random(len(chance)) < chance)
    told = {"step": 1, "workflow": back["workflow"], "channel": back["channel"]}
    return customers.loc[chosen, ["customer_id"]].assign(sent_at=at, **told)


def _acted(rows: pd.DataFrame, draw: np.ndarray, did: Any) -> pd.DataFrame:
    """Messages with flags: of the delivered, those whose draw lies between its two bounds `did` it."""
    rows = rows.reindex(columns=["customer_id", "sent_at", "channel", "campaign", "workflow", "step", "status", *did])
    arrived = rows["status"] == "delivered"
    for flag, (low, high) in did.items():
        rows[flag] = (arrived & (draw >= low) & (draw < high)).astype("Int8")
    rows["replied"] = rows["replied"].where(arrived)
    return rows.astype({"sent_at": "datetime64[s]", "workflow": "str", "step": "Int8"})


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
