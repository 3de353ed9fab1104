"""Rows of the simulated company behind the sums of its channels: each table tells the same story as they do."""

from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import records
from kpi_helpers.records import ALWAYS, PLANTED, clock, generator, later, names, words

CHANNELS = PLANTED["channels"]
WEB = PLANTED["web"]
SEGMENTS = np.repeat(np.arange(4), list(PLANTED["segments"].values()))


def tables(base: pd.DataFrame, scale: float = 1.0) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Every table of the contracts, from the sums `base` of a day and channel, and what was counted on the way.

    `scale` is the size of the company, 1 for the ordinary one; the volumes of `base` are scaled already.
    """
    daily = channel_daily(base)
    orders, customers = orders_and_customers(daily)
    automated = records.automation(orders, customers, daily["date"].max())
    made = {"channel_daily": daily, "orders": orders.drop(columns="customer"), "customers": customers}
    made["touchpoints"] = touchpoints(daily, orders, round(PLANTED["touchpoints"]["never_converted"] * scale))
    made["web_events"] = web_events(daily)
    made["messages"] = pd.concat([messages(daily, customers), automated], ignore_index=True)
    made["automation_runs"] = records.automation_runs(automated)
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
    group, weight = np.argsort(row, kind="stable"), np.round(1000 * basket).astype(np.int64) + 1
    orders = pd.DataFrame({"ordered_at": at, "customer": customer, "row": row, "status": 0})
    for column in ("revenue", "margin"):
        part = _portions(daily[column].to_numpy(np.int64) // 1000, weight[group], row[group])
        weight[group] = part
        orders[column], weight = weight * 1000, weight + 1
    void = orders[at < at.max() - np.timedelta64(3, "D")].iloc[:: PLANTED["void_every"]].assign(revenue=0, margin=0)
    void["ordered_at"], void["status"] = later(void["ordered_at"], 600, 200_000, rng), rng.choice([1, 1, 2], len(void))
    orders = pd.concat([orders, void]).sort_values("ordered_at", kind="stable", ignore_index=True)
    customers = _customers(at[new], daily["channel"].array[row[new]], rng)
    orders["channel"], orders["campaign"] = (daily[c].array[orders["row"]] for c in ("channel", "campaign"))
    orders["status"] = words(["completed", "cancelled", "returned"])[orders.pop("status")]
    orders["order_id"], orders["customer_id"] = (
        names("D", len(orders)),
        customers["customer_id"].array[orders["customer"]],
    )
    return orders.drop(columns="row"), customers


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
    reached = np.cumsum(weights)
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    length = np.diff(np.r_[first, len(group)])
    before = np.repeat((reached - weights)[first], length)
    share = totals[group] * (reached - before) // (np.repeat(reached[first + length - 1], length) - before)
    part = np.diff(share, prepend=0)
    part[first] = share[first]
    return np.asarray(part)


def _customers(at: np.ndarray, channel: Any, rng: np.random.Generator) -> pd.DataFrame:
    """Customers in the order of their first purchase; some followed before, or came from another channel."""
    n, known = len(at), PLANTED["customers"]
    followed = np.where(rng.random(n) < known["followed_before_buying"], rng.integers(3600, 2_000_000, n), 0)
    other = words(CHANNELS)[rng.integers(len(CHANNELS), size=n)]
    elsewhere = rng.random(n) < known["other_first_channel"] * len(CHANNELS) / (len(CHANNELS) - 1)
    referrer, referred = (rng.random(n) * np.arange(n)).astype(np.int64), rng.random(n) < known["referred"]
    rows = pd.DataFrame({"customer_id": names("C", n), "registered_at": at - followed})
    rows["first_channel"] = pd.Series(other).where(elsewhere, pd.Series(channel))
    rows["channel"], rows["segment"] = channel, words(PLANTED["segments"])[rng.choice(SEGMENTS, n)]
    rows["referred_by"] = rows["customer_id"].take(referrer).reset_index(drop=True).where(referred & (np.arange(n) > 0))
    return rows


def touchpoints(daily: pd.DataFrame, orders: pd.DataFrame, n_never: int) -> pd.DataFrame:
    """Contacts before the orders of two months, the last one a click, and of people who bought nothing."""
    rng, known = generator("touchpoints"), PLANTED["touchpoints"]
    begin = daily["date"].max() - pd.Timedelta(known["days"] - 1, "D")
    late = orders.rename(columns={"ordered_at": "touched_at"}).query("touched_at >= @begin and status == 'completed'")
    earlier = late.loc[late.index.repeat(rng.choice(known["before"], len(late)))].reset_index(drop=True)
    never = pd.DataFrame({"customer_id": names("P", n_never).repeat(rng.integers(1, 4, n_never)), "touched_at": begin})
    never["touched_at"] = later(never["touched_at"], 0, known["days"] * 86_400, rng)
    late["touched_at"] = later(late["touched_at"], -7200, -60, rng)
    earlier["touched_at"] = later(earlier["touched_at"], -14 * 86_400, -7200, rng)
    others = pd.concat([earlier, never], ignore_index=True)
    mix = np.repeat(np.arange(len(known["channels"])), list(known["channels"].values()))
    others["channel"], others["campaign"] = words(known["channels"])[rng.choice(mix, len(others))], ALWAYS
    viewed = rng.random(len(others)) < others["channel"].map(known["viewed"]).fillna(0)
    touches = pd.concat([late.assign(kind="click"), others.assign(kind=words(["click", "view"])[viewed.astype(int)])])
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
    rng, shares = generator("web"), WEB["sessions"]
    late = daily[daily["date"] > daily["date"].max() - pd.Timedelta(WEB["days"], "D")].reset_index(drop=True)
    row = np.repeat(np.arange(len(late)), rng.binomial(late["sessions"].to_numpy(np.int64), WEB["panel_share"]))
    at, k = clock(late["date"], row, rng), len(row)
    row, at = row[np.argsort(at, kind="stable")], np.sort(at)
    visitor = (rng.random(k) ** 2 * (k // 2 + 1)).astype(np.int64)  # a few come often
    mobile, segment = (rng.random(k + 1) < WEB["mobile_share"])[visitor], rng.choice(SEGMENTS, k + 1)[visitor]
    rate = (late["orders"] / late["sessions"].clip(1)).to_numpy(float)[row]
    rate *= np.where(mobile, WEB["buys"]["mobile"], WEB["buys"]["desktop"])
    draw = dict(zip(("read", "search", "promo", "download", "form", "buy"), rng.random((6, k)), strict=True))
    draw |= {"visit": np.zeros(k), "view": draw["buy"], "form_start": draw["form"], "form_complete": draw["form"]}
    order = ("visit", "read", "search", "promo", "view", "form_start", "form_complete", "download")
    happened = [draw[event] < shares[event] for event in order]
    happened += [draw["buy"] < times * rate for times in WEB["orders"].values()]
    session, event = np.nonzero(np.column_stack(happened))
    rows = pd.DataFrame({"visitor_id": names("V", k // 2 + 1)[visitor[session]], "session_id": names("S", k)[session]})
    rows["happened_at"] = at[session] + event * rng.integers(15, 60, k)[session]
    rows["event"] = words([*order, *WEB["orders"]])[event]
    rows["channel"] = late["channel"].array[row[session]]
    rows["device"] = words(["desktop", "mobile"])[mobile[session].astype(int)]
    rows["segment"] = words(PLANTED["segments"])[segment[session]]
    told, most = zip(*(WEB["pages"].get(name, ["", 1]) for name in [*order, *WEB["orders"]]), strict=True)
    piece = 1 + (rng.random(len(event)) ** 2 * np.array(most)[event]).astype(np.int64)  # some are seen far more often
    page = pd.Series(words(told)[event]) + " " + pd.Series(words(range(max(most) + 1))[piece])
    return rows.assign(content=page.where(np.array(most)[event] > 1))


def messages(daily: pd.DataFrame, customers: pd.DataFrame) -> pd.DataFrame:
    """Every message behind the sums of two weeks; nobody gets the same one twice."""
    rng, begin = generator("messages"), daily["date"].max() - pd.Timedelta(PLANTED["message_days"] - 1, "D")
    late = daily[(daily["date"] >= begin) & (daily["sent"].fillna(0) > 0)]
    known = customers.loc[customers["registered_at"] < begin, "customer_id"].array
    lists = {channel: rng.permutation(len(known)) for channel in late["channel"].unique()}
    parts, reached = [], dict.fromkeys(zip(late["date"], late["channel"], strict=True), 0)
    for r in late.itertuples():
        key, n, delivered = (r.date, r.channel), r.sent, r.sent - r.hard_bounces - r.soft_bounces
        who = np.sort(lists[r.channel][reached[key] : reached[key] + n])
        reached[key] += n
        rank = rng.permutation(n) - (n - delivered)  # below 0: bounced
        left = min(r.unique_clicks, delivered - r.unsubscribes)
        part = pd.DataFrame({"customer_id": known[who], "sent_at": r.date + pd.Timedelta(9, "h")})
        part["channel"], part["campaign"] = r.channel, r.campaign
        part["status"] = words(["delivered", "soft_bounce", "hard_bounce"])[1 * (rank < 0) + (rank < -r.soft_bounces)]
        part["opened"], part["clicked"] = (rank >= 0) & (rank < r.unique_opens), (rank >= 0) & (rank < r.unique_clicks)
        part["replied"] = pd.Series(rank < r.replies).where(rank >= 0)
        part["unsubscribed"] = (rank >= left) & (rank < left + r.unsubscribes)
        parts.append(part)
    return records.as_messages(pd.concat(parts, ignore_index=True))
