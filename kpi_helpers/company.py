"""Every table of the simulated company, from the sums of its channels: each row tells the same story as they do."""

from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers import records

ALWAYS = "Always on"
#: campaign: first and last day, share of the day's activity, channels
CAMPAIGNS = {
    "11.11 2024": ("2024-10-28", "2024-11-14", 0.35, ("Paid search", "Paid social", "Email")),
    "Tết 2025": ("2025-01-03", "2025-01-28", 0.40, ("Paid social", "Email", "Zalo OA")),
    "8.3 2025": ("2025-02-24", "2025-03-09", 0.25, ("Paid social", "Zalo OA")),
    "Back to school 2025": ("2025-08-04", "2025-09-05", 0.30, ("Paid search", "Affiliate")),
    "11.11 2025": ("2025-10-27", "2025-11-14", 0.40, ("Paid search", "Paid social", "Email", "Zalo OA")),
    "Tết 2026": ("2026-01-20", "2026-02-16", 0.45, ("Paid search", "Paid social", "Email", "Zalo OA")),
    "8.3 2026": ("2026-02-23", "2026-03-09", 0.25, ("Paid social", "Zalo OA")),
    "Summer 2026": ("2026-06-01", "2026-06-21", 0.30, ("Paid social", "Affiliate", "Email")),
    "Back to school 2026": ("2026-08-03", "2026-09-05", 0.30, ("Paid search", "Affiliate")),
    "10.10 2026": ("2026-09-28", "2026-10-12", 0.30, ("Paid search", "Email")),
    "11.11 2026": ("2026-10-26", "2026-11-15", 0.40, ("Paid search", "Paid social", "Email", "Zalo OA")),
}
#: a session of a campaign orders this many times as often
CAMPAIGN_LIFT = 1.15
#: channel: medium, share of sessions with engagement, gross margin, chance that a customer stops after an order
CHANNELS = {
    "Organic search": ("organic", 0.62, 0.31, 0.22),
    "Paid search": ("paid", 0.55, 0.29, 0.26),
    "Paid social": ("social", 0.41, 0.28, 0.38),
    "Email": ("email", 0.68, 0.32, 0.16),
    "Zalo OA": ("social", 0.60, 0.31, 0.18),
    "Affiliate": ("referral", 0.47, 0.26, 0.34),
    "Direct": ("direct", 0.66, 0.33, 0.18),
}
PAID = ("Paid search", "Paid social", "Affiliate")
#: First orders among all: everybody is new on the first day, and later this share is.
NEW_SHARE, NEW_FADES_DAYS = 0.33, 100
REPLIES, COMPLAINTS = {"Email": 0.002, "Zalo OA": 0.012}, 0.0003
SEGMENTS = np.array(["Hà Nội"] * 7 + ["TP. Hồ Chí Minh"] * 8 + ["Đà Nẵng"] * 2 + ["Khác"] * 3, dtype=object)
#: hours in which people buy, as often as they do
HOURS = np.repeat(
    np.arange(24), [3, 1, 1, 1, 1, 2, 4, 7, 12, 16, 18, 19, 20, 17, 15, 15, 15, 15, 16, 22, 28, 26, 17, 8]
)
OTHER_FIRST_CHANNEL, REFERRED, VOID_ORDERS = 0.15, 0.06, 0.03
TOUCH_DAYS, NEVER_CONVERTED = 60, 30_000
WEB_DAYS, PANEL_SHARE, MESSAGE_DAYS = 92, 0.05, 14
#: tenths of orders with so many contacts before the last; where those happen, and how many of ten only saw it
ASSISTS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
ASSISTING = {"Paid social": 5, "Organic search": 1, "Email": 2, "Zalo OA": 2, "Affiliate": 3, "Paid search": 1}
#: event of a session: share of sessions; of those that put into the cart and pay, times the order rate
BROWSING = {"visit": 1.0, "read": 0.25, "search": 0.2, "promo": 0.12, "view": 0.5, "form_start": 0.04}
BROWSING |= {"form_complete": 0.025, "download": 0.015}
BUYING = {"cart": 3.2, "checkout": 1.6, "purchase": 1.0}
EVENTS = np.array([*BROWSING, *BUYING], dtype=object)
MOBILE_SHARE, MOBILE_BUYS, DESKTOP_BUYS = 0.72, 0.9, 1.26

PLANTED = {
    "campaigns": {
        name: {"first": c[0], "last": c[1], "share": c[2], "channels": c[3]} for name, c in CAMPAIGNS.items()
    },
    "campaign_order_lift": CAMPAIGN_LIFT,
    "stops_after_an_order": {name: c[3] for name, c in CHANNELS.items()},
    "margin_rate": {name: c[2] for name, c in CHANNELS.items()},
    "web_panel_share": PANEL_SHARE,
    "web_share_of_sessions": BROWSING,
    "web_per_order": BUYING,
    "other_first_channel_share": OTHER_FIRST_CHANNEL,
    "referred_share": REFERRED,
} | records.PLANTED


def tables(base: pd.DataFrame, scale: float = 1.0) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Every table of the contracts from the sums `base` of a day and channel, and what was counted on the way.

    `scale` is the size of the company, 1 for the ordinary one; the volumes of `base` are scaled already.
    """
    daily = channel_daily(base)
    orders, customers = orders_and_customers(daily)
    made = {"channel_daily": daily, "orders": orders, "customers": customers}
    made["touchpoints"] = touchpoints(daily, orders, round(NEVER_CONVERTED * scale))
    made["web_events"] = web_events(daily)
    automated = records.automation(orders, customers)
    made["messages"] = pd.concat([messages(daily, customers), automated], ignore_index=True)
    made["automation_runs"] = records.automation_runs(automated)
    small, counted = records.tables(daily, orders, customers, scale)
    people = made["touchpoints"]["customer_id"].drop_duplicates()
    never = {"people_touched": len(people), "never_converted": int(people.str.startswith("P").sum())}
    return made | small, counted | never


def channel_daily(base: pd.DataFrame) -> pd.DataFrame:
    """Split `base` into campaigns, whose sums it keeps, and add what only the shop's other tools know."""
    rng, measures = records.generator("campaigns"), list(base.columns[2:])
    chosen, part_of = pd.Series(ALWAYS, index=base.index), pd.Series(0.0, index=base.index)
    for name, (first, last, share, channels) in CAMPAIGNS.items():
        rows = base["date"].between(first, last) & base["channel"].isin(channels)
        chosen[rows], part_of[rows] = name, share
    part = base[part_of > 0].assign(campaign=chosen)
    own = _share_of(part[measures].fillna(0).astype(np.int64), part_of[part.index].to_numpy(), rng)[measures]
    rest = base.assign(campaign=ALWAYS, **(base[measures] - own.reindex(base.index, fill_value=0)))
    part = part.assign(**own.astype("Int64").where(part[measures].notna()))
    rows = pd.concat([rest, part]).sort_values(["date", "channel", "campaign"], kind="stable", ignore_index=True)
    return _with_more(rows[["date", "channel", "campaign", *measures]])


def _share_of(whole: pd.DataFrame, share: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """A campaign's part of each count, such that neither part breaks what counts owe each other."""
    whole = whole.assign(delivered=whole["sent"] - whole["hard_bounces"] - whole["soft_bounces"])
    whole["bounced"] = whole["sent"] - whole["delivered"]
    own = pd.DataFrame(0, index=whole.index, columns=whole.columns)

    def draw(column: str, within: str | None = None, lift: float = 1.0) -> None:
        n = whole[column].to_numpy()
        drawn = rng.binomial(n, share * lift)
        if within:
            bounded = np.clip(drawn, n - (whole[within] - own[within]), own[within])
            drawn = np.where(whole[within] >= n, bounded, drawn)  # sessions that were not tracked bound nothing
        own[column] = drawn

    for column in ("impressions", "sessions", "pageviews", "leads", "sent"):
        draw(column)
    draw("clicks", "impressions")
    draw("orders", "sessions", CAMPAIGN_LIFT)
    draw("delivered", "sent")
    own["bounced"] = own["sent"] - own["delivered"]
    draw("hard_bounces", "bounced")
    draw("unique_opens", "delivered", CAMPAIGN_LIFT)
    draw("unique_clicks", "unique_opens", CAMPAIGN_LIFT)
    draw("unsubscribes", "delivered")
    own["soft_bounces"], own["conversions"] = own["bounced"] - own["hard_bounces"], own["orders"]
    own["clicks"] = own["clicks"].where(whole["sent"] + whole["unique_clicks"] == 0, own["unique_clicks"])
    own["spend"] = whole["spend"] // 1000 * np.round(share * 100).astype(np.int64) // 100 * 1000
    own["revenue"] = whole["revenue"] // 1000 * own["orders"] // whole["orders"].clip(1) * 1000
    return own


def _with_more(rows: pd.DataFrame) -> pd.DataFrame:
    rng, n, channel = records.generator("more"), len(rows), rows["channel"]
    traits = {name: channel.map({c: t[i] for c, t in CHANNELS.items()}) for i, name in enumerate(("medium", "e", "m"))}
    whole = rows.drop(columns=["date", "channel", "campaign"]).fillna(0).astype(np.int64)
    ordered = whole["orders"].groupby(rows["date"]).sum().cumsum()
    day = (rows["date"] - rows["date"].min()).dt.days.to_numpy()
    fresh = np.round(NEW_SHARE + (1 - NEW_SHARE) * np.exp(-day / NEW_FADES_DAYS), 6)
    fresh[rows["date"] <= ordered[ordered > 0].index[0]] = 1.0  # nobody could order again yet
    delivered = whole["sent"] - whole["hard_bounces"] - whole["soft_bounces"]
    rate = np.round(traits["m"] * (1 + 0.02 * rng.standard_normal(n)), 4)
    more = rows.assign(
        medium=traits["medium"], engaged_sessions=rng.binomial(whole["sessions"], traits["e"]),
        new_customers=rng.binomial(whole["orders"], fresh), margin=(whole["revenue"] * rate / 1000).round() * 1000,
        replies=rng.binomial(delivered, channel.map(REPLIES).fillna(0)), complaints=rng.binomial(delivered, COMPLAINTS),
    )  # fmt: skip
    more["engaged_sessions"] = more["engaged_sessions"].where(rows["sessions"].notna())
    more[["replies", "complaints"]] = more[["replies", "complaints"]].where(rows["sent"].notna(), axis=0)
    lost = whole["unsubscribes"] + whole["hard_bounces"] + more["complaints"].fillna(0)
    for name, column, start, daily in (
        ("Email", "subscribers", 1.1, 0.0037), ("Zalo OA", "subscribers", 1.1, 0.0022),
        ("Paid social", "followers", 60.0, 0.0007), ("Zalo OA", "followers", 1.4, 0.0006),
    ):  # fmt: skip
        own = more[(channel == name) & (rows["campaign"] == ALWAYS)]
        counts = whole.loc[channel == name, ["sent", "leads"]]
        size = start * (counts["leads"].head(100).mean() if name == "Paid social" else counts["sent"].head(8).max())
        joined = rng.poisson(np.round(size * daily * np.exp(0.18 * np.arange(len(own)) / 365.25), 6))
        left = lost[channel == name].groupby(rows["date"]).sum().to_numpy() if column == "subscribers" else 0
        more.loc[own.index, column] = round(size) + np.cumsum(joined - left)
    counts = list(more.columns.difference(["date", "channel", "campaign", "medium"]))
    return more.astype(dict.fromkeys(counts, "Int64"))


def orders_and_customers(daily: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every order behind `daily`, and every customer: who buys again is drawn by own pace until he stops."""
    rng = records.generator("orders")
    n, channel = daily["orders"].to_numpy(np.int64), daily["channel"].to_numpy(object)
    row = np.repeat(np.arange(len(daily)), n)
    place = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    second = 3600 * rng.choice(HOURS, len(row)) + rng.integers(3600, size=len(row))
    at = daily["date"].to_numpy("datetime64[s]")[row] + second
    new = place < daily["new_customers"].to_numpy(np.int64)[row]
    sort = np.argsort(at, kind="stable")
    row, at, new = row[sort], at[sort], new[sort]
    customer = _buyers(at, new, np.array([CHANNELS[c][3] for c in channel])[row[new]], rng)
    ticket = np.exp(0.35 * rng.standard_normal(new.sum()))[customer] * np.exp(0.45 * rng.standard_normal(len(row)))
    group = np.argsort(row, kind="stable")
    weight = np.round(1000 * ticket).astype(np.int64)[group]
    money = {}
    for column in ("revenue", "margin"):
        part = _portions(daily[column].to_numpy(np.int64) // 1000, weight, row[group])
        weight, money[column] = part + 1, np.empty_like(part)
        money[column][group] = part * 1000
    orders = pd.DataFrame({"ordered_at": at, "row": row, "customer": customer, "status": "completed", **money})
    void = orders[at < at.max() - np.timedelta64(3, "D")].iloc[:: round(1 / VOID_ORDERS)].assign(revenue=0, margin=0)
    void["ordered_at"] += rng.integers(600, 200_000, len(void)).astype("timedelta64[s]")
    void["status"] = np.array(["cancelled", "cancelled", "returned"], dtype=object)[rng.integers(3, size=len(void))]
    ids = records.names("C", int(new.sum()))
    all_orders = pd.concat([orders, void]).sort_values("ordered_at", kind="stable", ignore_index=True)
    told = {"order_id": records.names("D", len(all_orders)), "customer_id": ids[all_orders["customer"]]}
    told["ordered_at"] = all_orders["ordered_at"]
    told |= {c: daily[c].to_numpy(object)[all_orders["row"]] for c in ("channel", "campaign")}
    told |= {c: all_orders[c] for c in ("status", "revenue", "margin")}
    return pd.DataFrame(told), _customers(ids, at[new], channel[row[new]], rng)


def _buyers(at: np.ndarray, new: np.ndarray, stops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Customer of each order (n,): paces differ between customers, and each order may be the last."""
    pace = np.round(rng.gamma(0.8, 1000, len(stops))).astype(np.int64) + 2  # whole, so that sums are exact
    stop = np.round(10_000 * rng.beta(4 * stops, 4 * (1 - stops))).astype(np.int64)
    customer, weight = np.cumsum(new) - 1, np.zeros(len(stops), dtype=np.int64)
    day = at.astype("datetime64[D]")
    ends = [*np.flatnonzero(day[1:] != day[:-1]) + 1, len(day)]
    for begin, end in zip([0, *ends], ends, strict=False):
        again = begin + np.flatnonzero(~new[begin:end])
        if len(again):
            reach = np.cumsum(weight[: customer[begin] + (not new[begin])])
            customer[again] = np.searchsorted(reach, rng.integers(reach[-1], size=len(again)), side="right")
        came, bought = customer[begin:end][new[begin:end]], customer[begin:end]
        weight[came] = pace[came]
        weight[bought[rng.integers(10_000, size=end - begin) < stop[bought]]] = 1  # hardly ever seen again
    return customer


def _portions(totals: np.ndarray, weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whole parts of each group's total, in proportion to whole `weights`, that add up to it exactly."""
    reached = np.cumsum(weights)
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    length = np.diff(np.r_[first, len(group)])
    before = np.repeat((reached - weights)[first], length)
    whole = np.repeat(reached[first + length - 1], length) - before
    share = totals[group] * (reached - before) // whole
    part = np.diff(share, prepend=0)
    part[first] = share[first]
    return part


def _customers(ids: np.ndarray, at: np.ndarray, channel: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    n = len(ids)
    followed = np.where(rng.random(n) < 0.25, rng.integers(3600, 2_000_000, n), 0)
    other = np.array(list(CHANNELS), dtype=object)[rng.integers(len(CHANNELS), size=n)]
    elsewhere = rng.random(n) < OTHER_FIRST_CHANNEL * len(CHANNELS) / (len(CHANNELS) - 1)
    referrer = (rng.random(n) * np.arange(n)).astype(np.int64)
    told = {"registered_at": at - followed, "first_channel": np.where(elsewhere, other, channel), "channel": channel}
    referred = np.where((rng.random(n) < REFERRED) & (np.arange(n) > 0), ids[referrer], None)
    segment = SEGMENTS[rng.integers(len(SEGMENTS), size=n)]
    return pd.DataFrame({"customer_id": ids, **told, "segment": segment, "referred_by": referred})


def touchpoints(daily: pd.DataFrame, orders: pd.DataFrame, n_never: int) -> pd.DataFrame:
    """Contacts before each order of the last two months, the last one a click, and those of people who bought nothing."""
    rng, channels = (
        records.generator("touchpoints"),
        np.repeat(list(ASSISTING), list(ASSISTING.values())).astype(object),
    )
    end = orders["ordered_at"].max().normalize()
    late = orders[(orders["ordered_at"] > end - pd.Timedelta(TOUCH_DAYS - 1, "D")) & (orders["status"] == "completed")]
    earlier = late.loc[late.index.repeat(ASSISTS[rng.integers(10, size=len(late))])]
    people = records.names("P", n_never).repeat(rng.integers(1, 4, n_never))
    ago = {"last": rng.integers(60, 7200, len(late)), "before": rng.integers(7200, 14 * 86_400, len(earlier))}
    parts = [late.assign(touched_at=late["ordered_at"] - pd.to_timedelta(ago["last"], unit="s"), kind="click")]
    parts += [earlier.assign(touched_at=earlier["ordered_at"] - pd.to_timedelta(ago["before"], unit="s"))]
    when = end - pd.to_timedelta(rng.integers(-86_400, (TOUCH_DAYS - 1) * 86_400, len(people)), unit="s")
    parts += [pd.DataFrame({"customer_id": people, "touched_at": when.as_unit("s")})]
    for part in parts[1:]:
        part["channel"], part["campaign"] = channels[rng.integers(len(channels), size=len(part))], ALWAYS
        seen = rng.random(len(part)) < part["channel"].map({"Paid social": 0.5, "Affiliate": 0.2}).fillna(0)
        part["kind"] = np.where(seen, "view", "click")
    touches = pd.concat(parts)[["customer_id", "touched_at", "channel", "campaign", "kind"]]
    touches = touches.sort_values(["touched_at", "customer_id"], kind="stable", ignore_index=True)
    day, paid = touches["touched_at"].dt.normalize().rename("date"), touches["kind"] == "click"
    spent = daily.groupby(["date", "channel"])[["spend", "clicks"]].sum().astype(np.int64)
    known = spent.reindex(pd.MultiIndex.from_arrays([day, touches["channel"]])).reset_index(drop=True)
    held = paid.groupby([day, touches["channel"]]).transform("sum")  # contacts never cost more than the channel did
    cost = known["spend"] // np.maximum(known["clicks"], held).clip(1)
    return touches.assign(cost=cost.where(paid, 0).where(touches["channel"].isin(PAID)).astype("Int64"))


def web_events(daily: pd.DataFrame) -> pd.DataFrame:
    """Events of a panel of visitors over the last three months; one draw a session makes the steps nested."""
    rng = records.generator("web")
    late = daily[daily["date"] > daily["date"].max() - pd.Timedelta(WEB_DAYS, "D")]
    n = rng.binomial(late["sessions"].to_numpy(np.int64), PANEL_SHARE)
    row, k = np.repeat(np.arange(len(late)), n), int(n.sum())
    at = late["date"].to_numpy("datetime64[s]")[row] + 3600 * rng.choice(HOURS, k) + rng.integers(3600, size=k)
    sort = np.argsort(at, kind="stable")
    row, at = row[sort], at[sort]
    visitor = (rng.random(k) ** 2 * (k // 2)).astype(np.int64)
    mobile, segment = rng.random(k) < MOBILE_SHARE, SEGMENTS[rng.integers(len(SEGMENTS), size=k)]
    mobile, segment = mobile[visitor], segment[visitor]
    rate = (late["orders"] / late["sessions"].clip(1)).to_numpy(float)[row] * np.where(
        mobile, MOBILE_BUYS, DESKTOP_BUYS
    )
    buys, reads, forms = rng.random(k), rng.random((k, 4)), rng.random(k)
    shares = list(BROWSING.values())
    happened = [np.ones(k, bool), *(reads[:, i] < shares[i + 1] for i in range(3)), buys < BROWSING["view"]]
    happened += [forms < BROWSING["form_start"], forms < BROWSING["form_complete"], reads[:, 3] < BROWSING["download"]]
    happened += [buys < times * rate for times in BUYING.values()]
    session, event = np.nonzero(np.column_stack(happened))
    when = at[session] + event * rng.integers(15, 60, k)[session]
    piece = (rng.random(len(event)) ** 2 * np.array([1, 30, 1, 8, 200, 1, 1, 4, 200, 1, 1])[event]).astype(int) + 1
    named = np.array([None, "Bài ", None, "Ưu đãi ", "SP ", None, None, "Cẩm nang ", "SP ", None, None], dtype=object)[
        event
    ]
    return pd.DataFrame({
        "visitor_id": records.names("V", k // 2 + 1)[visitor][session], "session_id": records.names("S", k)[session],
        "happened_at": when, "event": EVENTS[event], "channel": late["channel"].to_numpy(object)[row][session],
        "device": np.where(mobile, "mobile", "desktop")[session], "segment": segment[session],
        "content": pd.Series(named) + pd.Series(piece).astype(str),
    })  # fmt: skip


def messages(daily: pd.DataFrame, customers: pd.DataFrame) -> pd.DataFrame:
    """Every message behind the sums of the last two weeks; nobody gets the same one twice."""
    rng, last = records.generator("messages"), daily["date"].max()
    late = daily[(daily["date"] > last - pd.Timedelta(MESSAGE_DAYS, "D")) & (daily["sent"].fillna(0) > 0)]
    known = customers.loc[customers["registered_at"] < last - pd.Timedelta(MESSAGE_DAYS, "D"), "customer_id"].to_numpy()
    lists = {channel: rng.permutation(len(known)) for channel in late["channel"].unique()}
    parts, begin = [], dict.fromkeys(zip(late["date"], late["channel"], strict=True), 0)
    for r in late.itertuples():
        key, n = (r.date, r.channel), r.sent
        who = np.sort(lists[r.channel][begin[key] : begin[key] + n])
        begin[key] += n
        rank = rng.permutation(n) - r.hard_bounces - r.soft_bounces  # from 0 on: delivered
        left = min(r.unique_clicks, n - r.hard_bounces - r.soft_bounces - r.unsubscribes)
        status = np.select([rank < -r.soft_bounces, rank < 0], ["hard_bounce", "soft_bounce"], "delivered")
        replied = pd.array((rank >= 0) & (rank < r.replies), dtype="Int8")
        replied[rank < 0] = pd.NA
        parts.append(pd.DataFrame({
            "customer_id": known[who], "sent_at": r.date + pd.Timedelta(9 if r.channel == "Email" else 19, "h"),
            "channel": r.channel, "campaign": r.campaign, "workflow": None, "step": pd.NA, "status": status.astype(object),
            "opened": (rank >= 0) & (rank < r.unique_opens), "clicked": (rank >= 0) & (rank < r.unique_clicks),
            "replied": replied, "unsubscribed": (rank >= left) & (rank < left + r.unsubscribes),
        }))  # fmt: skip
    return records.with_flags(pd.concat(parts, ignore_index=True))
