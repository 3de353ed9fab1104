"""Smaller tables of the simulated company: sales, members, surveys, audiences, calls, content, costs, targets."""

from typing import Any

import numpy as np
import pandas as pd

SEED = 20241101
#: stage of a lead: chance to reach it from the one before, median days until then
STAGES = {"mql": (0.58, 3), "sal": (0.72, 2), "opportunity": (0.60, 9), "negotiation": (0.62, 14), "won": (0.48, 12)}
#: sales person: how much more often an opportunity in negotiation is won
OWNERS = {"An": 1.0, "Bình": 1.15, "Chi": 0.85, "Dũng": 1.0, "Hà": 1.0}
#: welcome messages: days after the first order, chance to get the next one, share of opens and clicks
WELCOME, WELCOME_DAYS, WELCOME_NEXT, OPENS, CLICKS = "Chào mừng", (0, 2, 5, 10), 0.78, 0.40, 0.12
WINBACK, WINBACK_QUIET_DAYS, WINBACK_WITHIN_DAYS, WINBACK_LIFT = "Nhắc khách cũ", 90, 30, 1.4
#: plan: price a month before and after prices rose
PLANS, PRICES_ROSE = {"Bạc": (49_000, 59_000), "Vàng": (99_000, 119_000)}, "2026-01-01"
#: chance to leave in a month, different between members: mean, and members of the beta distribution it stands for
CHURN, CHURN_SPREAD = 0.07, 10
#: satisfaction 1 to 5: share of buyers, and how likely they answer a survey
SATISFACTION = {1: (0.05, 0.10), 2: (0.08, 0.12), 3: (0.17, 0.16), 4: (0.38, 0.26), 5: (0.32, 0.36)}
AWARE_UNAIDED, AWARE_AIDED = 0.21, 0.54
#: audience: people a day, share excluded, conversion when shown the ads, and when excluded
AUDIENCES = {
    "Mua trong 30 ngày": (9000, 0.60, 0.0180, 0.0178),
    "Đang khiếu nại": (1500, 0.80, 0.0060, 0.0060),
    "Nhân viên và đối tác": (700, 0.90, 0.0100, 0.0100),
    "Bỏ giỏ hàng": (4000, 0.50, 0.0420, 0.0240),
}
HOLDOUT_SHARE, VIEW_COST, ORDER_MARGIN = 0.10, 80, 125_000
ANSWERED, TALK_SECONDS = 0.83, 190
#: experiment: conversion of control, and how many times as often the treated convert
CONTROL_RATE, EXPERIMENT_LIFT = 0.062, 1.15
KINDS = {"photo": 0.030, "video": 0.048, "article": 0.022}
#: result of a campaign divided by its target
REACHED = {"orders": (1.06, 0.91, 1.12, 0.97), "revenue": (0.94, 1.05, 1.08), "leads": (1.03, 0.88)}

PLANTED = {
    "lead_stages": {name: {"chance": p, "median_days": days} for name, (p, days) in STAGES.items()},
    "owner_win_factor": OWNERS, "welcome_next_step": WELCOME_NEXT, "automation_open_rate": OPENS,
    "win_back": {"quiet_days": WINBACK_QUIET_DAYS, "within_days": WINBACK_WITHIN_DAYS, "lift": WINBACK_LIFT},
    "member_churn_a_month": CHURN, "prices_rose": PRICES_ROSE,
    "satisfaction": {k: {"share": p, "answers": a} for k, (p, a) in SATISFACTION.items()},
    "aware": {"unaided": AWARE_UNAIDED, "aided": AWARE_AIDED},
    "exclusion": {name: {"shown_rate": a[2], "excluded_rate": a[3]} for name, a in AUDIENCES.items()},
    "calls": {"answered": ANSWERED, "talk_seconds": TALK_SECONDS}, "engagement_by_kind": KINDS,
    "experiment": {"control_rate": CONTROL_RATE, "lift": EXPERIMENT_LIFT},
}  # fmt: skip


def generator(name: str) -> np.random.Generator:
    """Random numbers of one table, the same whatever other tables draw."""
    return np.random.default_rng([SEED, *name.encode()])


def names(letter: str, n: int) -> np.ndarray:
    """Codes such as C000001 to the `n`-th."""
    return np.array([f"{letter}{i:06}" for i in range(1, n + 1)], dtype=object)


def with_flags(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages with their flags as 0 and 1."""
    flags = ["opened", "clicked", "replied", "unsubscribed", "step"]
    return rows.astype(dict.fromkeys(flags, "Int8")).astype({"sent_at": "datetime64[s]"})


def tables(
    daily: pd.DataFrame, orders: pd.DataFrame, customers: pd.DataFrame, scale: float
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The smaller tables, and what was counted while they were made."""
    last = daily["date"].max()
    survey, satisfied = surveys(orders, customers, last, scale)
    targeted, met = targets(daily)
    made = {
        "leads": leads(last, round(4000 * scale)), "subscriptions": subscriptions(customers, last, round(3000 * scale)),
        "surveys": survey, "audience_daily": audience_daily(last, scale), "calls": calls(last, scale),
        "content": content(daily, 700), "partners": partners(daily), "costs": costs(daily),
        "search_rankings": search_rankings(last), "targets": targeted,
        "experiment_units": experiment_units(last, round(20_000 * scale)),
    }  # fmt: skip
    return made, {"satisfied_share_of_invited": satisfied, "targets_met": met}


def _pick(rng: np.random.Generator, words: Any, n: int) -> np.ndarray:
    return np.array(list(words), dtype=object)[rng.integers(len(words), size=n)]


def _moments(rng: np.random.Generator, last: pd.Timestamp, days: int, n: int) -> np.ndarray:
    """Times of office hours in the last `days` (n,), in order."""
    day = rng.integers(days, size=n) * 86_400
    return np.sort(np.datetime64(last, "s") - day + rng.integers(8 * 3600, 21 * 3600, n))


def leads(last: pd.Timestamp, n: int) -> pd.DataFrame:
    """Wholesale leads of eighteen months; stages after the last day have not happened yet."""
    rng = generator("leads")
    created, owner = _moments(rng, last, 548, n), _pick(rng, OWNERS, n)
    rows = pd.DataFrame({"lead_id": names("L", n), "created_at": created})
    rows["channel"] = _pick(rng, ["Organic search", "Organic search", "Paid search", "Direct", "Email", "Affiliate"], n)
    rows["campaign"], rows["owner"] = "Bán sỉ", owner
    at, open_, lost = created, np.ones(n, bool), np.full(n, np.datetime64("NaT"), "datetime64[s]")
    for stage, (chance, days) in STAGES.items():
        at = at + np.round(days * 86_400 * np.exp(0.8 * rng.standard_normal(n))).astype("timedelta64[s]")
        better = np.array([OWNERS[o] for o in owner]) if stage == "won" else 1.0
        on, told = rng.random(n) < chance * better, rng.random(n) < 0.9  # the others are never closed
        lost = np.where(open_ & ~on & told, at, lost)
        open_ = open_ & on
        rows[f"{stage}_at"] = np.where(open_, at, np.datetime64("NaT"))
    rows["lost_at"] = lost
    stages = [c for c in rows if c.endswith("_at")]
    rows[stages] = rows[stages].where(rows[stages] < last + pd.Timedelta(1, "D"))
    value = (np.exp(0.7 * rng.standard_normal(n)) * 18).round() * 1_000_000 + 2_000_000
    return rows.assign(value=pd.Series(value).where(rows["opportunity_at"].notna()).astype("Int64"))


def subscriptions(customers: pd.DataFrame, last: pd.Timestamp, n: int) -> pd.DataFrame:
    """Members of two plans: some leave each month; a new row where the price or the plan changed."""
    rng = generator("subscriptions")
    known = customers[customers["registered_at"] > last - pd.DateOffset(months=30)]
    who = known.iloc[np.sort(rng.choice(len(known), min(n, len(known)), replace=False))].reset_index(drop=True)
    n = len(who)
    start = who["registered_at"].dt.normalize() + pd.to_timedelta(rng.integers(60, size=n), unit="D")
    risk = rng.beta(CHURN * CHURN_SPREAD, (1 - CHURN) * CHURN_SPREAD, n).clip(0.001)
    months = np.minimum(rng.geometric(np.round(risk, 4)), 60)
    rows = pd.DataFrame({"subscription_id": names("M", n), "customer_id": who["customer_id"]})
    rows["plan"], rows["channel"] = _pick(rng, ["Bạc", "Bạc", "Vàng"], n), who["channel"]
    rows["started_at"], rows["ended_at"] = start, start + pd.to_timedelta(months * 30, unit="D")
    rows["price"] = rows["plan"].map({plan: p[0] for plan, p in PLANS.items()})
    rose = pd.Timestamp(PRICES_ROSE)
    after = rows[rows["ended_at"] > rose].copy()
    moved = rng.random(len(after)) < after["plan"].map({"Bạc": 0.10, "Vàng": 0.12})
    moved &= after["started_at"] < rose
    after["plan"] = after["plan"].where(~moved, after["plan"].map({"Bạc": "Vàng", "Vàng": "Bạc"}))
    after["price"] = after["plan"].map({plan: p[1] for plan, p in PLANS.items()})
    after["started_at"] = after["started_at"].clip(lower=rose)
    before = rows[rows["started_at"] < rose].assign(ended_at=lambda r: r["ended_at"].clip(upper=rose))
    both = pd.concat([before, after]).query("started_at <= @last")
    both["ended_at"] = both["ended_at"].where(both["ended_at"] <= last)
    return both.sort_values(["started_at", "subscription_id"], kind="stable", ignore_index=True)


def surveys(
    orders: pd.DataFrame, customers: pd.DataFrame, last: pd.Timestamp, scale: float
) -> tuple[pd.DataFrame, float]:
    """A survey after purchase, which the satisfied answer more often, and one about the brand."""
    rng, n, blank = generator("surveys"), round(8000 * scale), round(3000 * scale)
    late = orders[(orders["ordered_at"] > last - pd.Timedelta(90, "D")) & (orders["ordered_at"] < last)]
    late = late[late["status"] == "completed"].drop_duplicates("customer_id")
    late = late.iloc[np.sort(rng.choice(len(late), min(n, len(late)), replace=False))]
    n = len(late)
    share, answers = np.array(list(SATISFACTION.values())).T
    felt = 1 + np.searchsorted(np.cumsum(share), rng.random(n) * 0.999999, side="right")
    nps = np.clip(2 * felt + rng.integers(-2, 2, n), 0, 10)
    sent = late["ordered_at"] + pd.to_timedelta(rng.integers(3600, 86_400, n), unit="s")
    rows = pd.DataFrame(
        {
            "survey": "Sau mua hàng",
            "customer_id": late["customer_id"],
            "channel": _pick(rng, ["Email", "Zalo OA", "SMS"], n),
        }
    )
    rows["sent_at"] = sent
    rows["answered_at"] = sent + pd.to_timedelta(rng.integers(300, 172_800, n), unit="s")
    rows["csat"], rows["nps"], answered = felt, nps, rng.random(n) < answers[felt - 1]
    when = _moments(rng, last, 60, blank)
    brand = pd.DataFrame(
        {"survey": "Thương hiệu", "customer_id": names("B", blank), "channel": "Panel", "sent_at": when}
    )
    brand["answered_at"] = brand["sent_at"] + pd.to_timedelta(rng.integers(300, 172_800, blank), unit="s")
    aware = rng.random(blank)
    brand["aware_unaided"], brand["aware_aided"] = aware < AWARE_UNAIDED, aware < AWARE_AIDED
    brand["discovery"] = np.where(
        aware < AWARE_AIDED, _pick(rng, ["Facebook", "Google", "Zalo", "Bạn bè", "TikTok"], blank), None
    )
    both = pd.concat([rows, brand], ignore_index=True)
    known = np.r_[answered, rng.random(blank) < 0.45] & (both["answered_at"] < last + pd.Timedelta(1, "D"))
    told = ["answered_at", "csat", "nps", "aware_unaided", "aware_aided", "discovery"]
    both[told] = both[told].where(known, axis=0)
    both = both.astype(dict.fromkeys(told[1:5], "Int8"))
    return both, round(float((felt >= 4).mean()), 6)


def audience_daily(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Audiences left out of two campaigns, beside people of them who saw the ads all the same."""
    rng = generator("audiences")
    index = pd.MultiIndex.from_product([
        pd.date_range(last - pd.Timedelta(119, "D"), last), AUDIENCES, ["Back to school 2026", "11.11 2026"],
        ["Hà Nội", "TP. Hồ Chí Minh"],
    ], names=["date", "audience", "campaign", "segment"])  # fmt: skip
    rows = index.to_frame(index=False).assign(channel="Paid social")
    size, share, shown, out = (np.array([AUDIENCES[a][i] for a in rows["audience"]]) for i in range(4))
    rows["eligible"] = rng.poisson(size * scale / 4)
    fits = rng.binomial(rows["eligible"], share)
    rows["holdout"] = rng.binomial(fits, HOLDOUT_SHARE)
    rows["excluded"] = fits - rows["holdout"]
    rows["excluded_conversions"] = rng.binomial(rows["excluded"], out)
    rows["holdout_conversions"] = rng.binomial(rows["holdout"], shown)
    rows["included"] = rows["eligible"] - fits
    rows["included_conversions"] = rng.binomial(rows["included"], shown * 1.1)
    rows["avoided_cost"] = rows["excluded"] * 3 * VIEW_COST
    rows["lost_margin"] = (rows["excluded"] * (shown - out) * ORDER_MARGIN).round().astype(np.int64)
    rows["reach_without"] = rng.binomial(rows["eligible"], 0.7)
    rows["reach"] = rng.binomial(rows["reach_without"], 1 - 0.8 * share)
    rows["excluded_sessions"], rows["baseline_sessions"] = (
        rng.binomial(rows["excluded"], 0.2),
        rng.poisson(300 * scale, len(rows)),
    )
    rows["excluded_exits"], rows["baseline_exits"] = (
        rng.binomial(rows["excluded_sessions"], 0.61),
        rng.binomial(rows["baseline_sessions"], 0.43),
    )
    return rows


def calls(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Calls to the hotline over half a year."""
    rng, n = generator("calls"), round(7000 * scale)
    rows = pd.DataFrame({"call_id": names("T", n), "called_at": _moments(rng, last, 182, n)})
    rows["channel"], rows["agent"] = (
        _pick(rng, ["Hotline", "Hotline", "Paid search", "Zalo OA"], n),
        _pick(rng, ["Lan", "Minh", "Ngọc", "Phúc"], n),
    )
    answered, talk = rng.random(n) < ANSWERED, np.round(rng.gamma(1.6, TALK_SECONDS / 1.6, n)) + 1
    rows["status"] = np.where(answered, "answered", "missed")
    return rows.assign(talk_seconds=pd.Series(talk).where(answered).astype("Int64"))


def content(daily: pd.DataFrame, n: int) -> pd.DataFrame:
    """Posts of a year; videos and evenings bring more interactions."""
    rng, last = generator("content"), daily["date"].max()
    at, kind = _moments(rng, last, 365, n), _pick(rng, ["photo", "photo", "video", "article"], n)
    rows = pd.DataFrame({"content_id": names("N", n), "published_at": at, "kind": kind})
    rows["channel"] = np.where(kind == "article", "Organic search", _pick(rng, ["Paid social", "Zalo OA"], n))
    size = daily.dropna(subset=["followers"]).set_index(["date", "channel"])["followers"]
    day = rows["published_at"].dt.normalize().astype(daily["date"].dtype)
    rows["followers"] = size.reindex(pd.MultiIndex.from_arrays([day, rows["channel"]])).to_numpy()
    people = rows["followers"].fillna(round(size.mean() / 4)).to_numpy(float)
    rows["reach"] = np.round(people * 0.12 * np.exp(0.4 * rng.standard_normal(n))).astype(np.int64)
    rows["impressions"] = rows["reach"] + rng.binomial(rows["reach"], 0.35)
    rate = np.array([KINDS[k] for k in kind]) * np.where(pd.DatetimeIndex(at).hour >= 19, 1.5, 1.0)
    for column, part in {"likes": 0.75, "comments": 0.12, "shares": 0.08, "saves": 0.05}.items():
        rows[column] = rng.binomial(rows["reach"], rate * part)
    rows["video_views"] = pd.Series(rng.binomial(rows["reach"], 0.3)).where(kind == "video").astype("Int64")
    rows["downloads"] = pd.Series(rng.binomial(rows["reach"], 0.01)).where(kind == "article").astype("Int64")
    return rows


def partners(daily: pd.DataFrame, n: int = 120) -> pd.DataFrame:
    """Partners who joined over the three years, and those who left."""
    rng, first, last = generator("partners"), daily["date"].min(), daily["date"].max()
    joined = first + pd.to_timedelta(np.sort(rng.integers((last - first).days, size=n)), unit="D")
    left = joined + pd.to_timedelta(rng.integers(60, 2400, n), unit="D")
    rows = pd.DataFrame({"partner_id": names("A", n), "joined_at": joined, "left_at": left})
    rows["left_at"] = rows["left_at"].where(rows["left_at"] <= last)
    return rows.assign(channel=_pick(rng, ["Affiliate", "KOL", "Đại lý"], n))


def costs(daily: pd.DataFrame) -> pd.DataFrame:
    """Ads as `daily` has them, and production, tools and salaries on the first of each month."""
    ads = daily.groupby(["date", "channel"], as_index=False)["spend"].sum(min_count=1).dropna().assign(category="ads")
    rng, months = generator("costs"), pd.date_range(daily["date"].min(), daily["date"].max(), freq="MS")
    monthly = {"production": 0.18, "tools": 0.04, "salaries": 0.35}  # of the year's average spend
    usual = float(daily["spend"].sum()) / len(months)
    fixed = pd.DataFrame({"date": months.repeat(3), "category": list(monthly) * len(months), "channel": None})
    noise = np.where(fixed["category"] == "production", np.exp(0.2 * rng.standard_normal(len(fixed))), 1.0)
    fixed["spend"] = (fixed["category"].map(monthly) * usual * noise / 100_000).round() * 100_000
    both = pd.concat([ads, fixed]).sort_values(["date", "category", "channel"], kind="stable", ignore_index=True)
    return both.rename(columns={"spend": "amount"})[["date", "category", "channel", "amount"]].astype(
        {"amount": "Int64"}
    )


def search_rankings(last: pd.Timestamp, n: int = 60, weeks: int = 26) -> pd.DataFrame:
    """Weekly places of keywords, which slowly rise; empty beyond the hundredth."""
    rng = generator("rankings")
    moves = np.column_stack([rng.integers(3, 110, n), rng.integers(-6, 5, (n, weeks - 1))]).cumsum(axis=1)
    place = pd.Series(np.maximum(moves, 1).ravel(order="F"))
    days = pd.date_range(end=last, periods=weeks, freq="7D").repeat(n)
    keyword = [f"từ khóa {i:02}" for i in range(1, n + 1)] * weeks
    return pd.DataFrame({"date": days, "keyword": keyword, "position": place.where(place <= 100).astype("Int64")})


def targets(daily: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, bool]]:
    """What each campaign should reach, written down before it began; and whether it did."""
    sums = (
        daily[daily["campaign"] != "Always on"]
        .groupby("campaign")
        .agg(
            starts_on=("date", "min"),
            ends_on=("date", "max"),
            orders=("orders", "sum"),
            revenue=("revenue", "sum"),
            leads=("leads", "sum"),
        )
    )
    rows, met = [], {}
    for i, (campaign, r) in enumerate(sums.sort_values("starts_on").iterrows()):
        for kpi, reached in REACHED.items():
            factor = reached[i % len(reached)]
            goal = int(round(int(r[kpi]) / factor, -1 if kpi != "revenue" else -6))
            met[f"{campaign}: {kpi}"] = bool(r[kpi] >= goal)
            on = r["starts_on"] - pd.Timedelta(7 + 3 * (i % 4), "D")
            rows.append((campaign, kpi, goal, r["starts_on"], r["ends_on"], on))
    return pd.DataFrame(rows, columns=["campaign", "kpi", "target", "starts_on", "ends_on", "registered_on"]), met


def experiment_units(last: pd.Timestamp, n: int) -> pd.DataFrame:
    """A new checkout shown to every second visitor; what they spent before tells part of what they spend now."""
    rng = generator("experiment")
    treated = rng.permutation(np.arange(n) % 2)
    before = np.where(rng.random(n) < 0.45, np.round(np.exp(0.6 * rng.standard_normal(n)) * 420) * 1000, 0).astype(
        np.int64
    )
    rate = CONTROL_RATE * (0.7 + 0.3 / 0.45 * (before > 0)) * np.where(treated == 1, EXPERIMENT_LIFT, 1.0)
    converted = (rng.random(n) < rate).astype(np.int8)
    size = np.exp(0.4 * rng.standard_normal(n)) * (300 + 0.35 * before / 1000)
    rows = pd.DataFrame({"experiment": "Trang thanh toán mới", "unit_id": names("U", n)})
    rows["variant"] = np.where(treated == 1, "treatment", "control")
    rows["assigned_at"] = _moments(rng, last - pd.Timedelta(7, "D"), 28, n)
    rows["segment"] = _pick(rng, ["mobile", "mobile", "mobile", "desktop"], n)
    rows["converted"], rows["revenue"] = converted, np.round(size).astype(np.int64) * 1000 * converted
    return rows.assign(sessions=1 + rng.poisson(1.4, n), revenue_before=before)


def automation(orders: pd.DataFrame, customers: pd.DataFrame) -> pd.DataFrame:
    """Messages of two automations: a welcome in four steps, and a reminder to customers who had gone quiet."""
    rng, end = generator("automation"), orders["ordered_at"].max().normalize() + pd.Timedelta(1, "D")
    fresh = customers[customers["registered_at"] > end - pd.Timedelta(60, "D")]
    stays = np.cumprod(rng.random((len(fresh), 3)) < WELCOME_NEXT, axis=1)
    parts = []
    for i, days in enumerate(WELCOME_DAYS):
        got = fresh if i == 0 else fresh[stays[:, i - 1] == 1]
        when = got["registered_at"] + pd.Timedelta(days, "D") + pd.Timedelta(30, "min")
        parts.append(
            pd.DataFrame(
                {
                    "customer_id": got["customer_id"],
                    "sent_at": when,
                    "channel": "Web push",
                    "workflow": WELCOME,
                    "step": i + 1,
                }
            )
        )
    since = end - pd.Timedelta(WINBACK_WITHIN_DAYS, "D")
    bought = orders[orders["status"] == "completed"]
    latest = bought[bought["ordered_at"] < since].groupby("customer_id")["ordered_at"].max()
    quiet = latest.index[latest < since - pd.Timedelta(WINBACK_QUIET_DAYS, "D")]
    back = quiet.isin(bought.loc[bought["ordered_at"] >= since, "customer_id"].unique())
    chosen = rng.random(len(quiet)) < 0.08 * np.where(back, WINBACK_LIFT, 1.0)  # reminded people came back more often
    parts.append(
        pd.DataFrame(
            {
                "customer_id": quiet[chosen],
                "sent_at": since + pd.Timedelta(10, "h"),
                "channel": "SMS",
                "workflow": WINBACK,
                "step": 1,
            }
        )
    )
    rows = pd.concat(parts).query("sent_at < @end").sort_values(["sent_at", "customer_id"], ignore_index=True)
    fate, act = rng.random(len(rows)), rng.random(len(rows))
    good = fate >= 0.02
    rows["campaign"] = "Always on"
    rows["status"] = np.select([fate < 0.008, fate < 0.02], ["hard_bounce", "soft_bounce"], "delivered")
    rows["opened"], rows["clicked"] = good & (act < OPENS), good & (act < CLICKS)
    rows["replied"] = pd.Series(act < 0.05).astype("Int8").where(good)
    rows["unsubscribed"] = good & (act > 0.996)
    return with_flags(rows)


def automation_runs(sent: pd.DataFrame) -> pd.DataFrame:
    """Runs behind the messages of automations, with those that failed or were skipped."""
    rng = generator("runs")
    rows = sent.rename(columns={"sent_at": "run_at"})[["run_at", "workflow", "channel", "customer_id"]]
    rows = rows.assign(action="send", status="executed")
    extra = rows[rng.random(len(rows)) < 0.06].assign(
        status=lambda r: _pick(rng, ["failed", "skipped", "skipped"], len(r))
    )
    begun = rows[sent["step"] == 1].assign(action="trigger")
    rows = pd.concat([begun, rows, extra]).sort_values(["run_at", "customer_id"], kind="stable", ignore_index=True)
    return rows.assign(run_id=names("R", len(rows)))
