"""Smaller tables of the simulated company: sales, members, surveys, audiences, calls, content, costs, targets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import yaml

SEED = 20241101
ALWAYS = "Always on"
#: what is planted, as ``company.yaml`` tells it
PLANTED: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("company.yaml").read_text(encoding="utf-8"))
HOURS = np.repeat(np.arange(24), PLANTED["hours"])


def generator(name: str) -> np.random.Generator:
    """Random numbers of one table, the same whatever other tables draw."""
    return np.random.default_rng([SEED, *name.encode()])


def words(told: Iterable[Any]) -> Any:
    """Array of texts, from which many can be taken fast."""
    return pd.array([str(word) for word in told], dtype="str")


def names(letter: str, n: int) -> Any:
    """Codes such as C000001, from the first to the `n`-th."""
    begin = 10 ** max(6, len(str(n)))
    numbers = pc.cast(pa.array(np.arange(begin + 1, begin + n + 1)), pa.string())
    return pd.array(pc.utf8_replace_slice(numbers, 0, 1, letter), dtype="str")


def clock(dates: pd.Series, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Times on the `dates` at the places `row`, in the hours in which people buy."""
    seconds = 3600 * rng.choice(HOURS, len(row)) + rng.integers(3600, size=len(row))
    return np.asarray(dates.to_numpy("datetime64[s]")[row] + seconds)


def later(times: Any, low: int, high: int, rng: np.random.Generator) -> Any:
    """Each of the times and `low` to `high` seconds."""
    return (times + rng.integers(low, high, len(times)).astype("timedelta64[s]")).astype("datetime64[s]")


def tables(
    daily: pd.DataFrame, orders: pd.DataFrame, customers: pd.DataFrame, scale: float
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The smaller tables, and what was counted while they were made."""
    last = daily["date"].max()
    survey, satisfied = surveys(orders, last, scale)
    targeted, met = targets(daily)
    made = {
        "leads": leads(last, scale), "subscriptions": subscriptions(customers, last, scale), "surveys": survey,
        "audience_daily": audience_daily(last, scale), "calls": calls(last, scale), "content": content(daily),
        "partners": partners(daily), "costs": costs(daily), "search_rankings": search_rankings(last),
        "targets": targeted, "experiment_units": experiment_units(last, scale),
    }  # fmt: skip
    return made, {"satisfied_share_of_invited": satisfied, "targets_met": met}


def _pick(rng: np.random.Generator, told: Iterable[Any], n: int) -> Any:
    told = list(told)
    return words(told)[rng.integers(len(told), size=n)]


def _moments(rng: np.random.Generator, last: pd.Timestamp, days: int, n: int) -> np.ndarray:
    """Times of the `days` that end with `last` (n,), in order."""
    dates = pd.Series(pd.date_range(end=last, periods=days))
    return np.sort(clock(dates, rng.integers(days, size=n), rng))


def leads(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Wholesale leads; stages after the last day have not happened yet."""
    rng, known = generator("leads"), PLANTED["leads"]
    n = round(known["count"] * scale)
    rows = pd.DataFrame({"lead_id": names("L", n), "created_at": _moments(rng, last, known["days"], n)})
    rows["channel"], rows["campaign"] = _pick(rng, known["channels"], n), "Bán sỉ"
    rows["owner"] = _pick(rng, known["owner_win_factor"], n)
    at, open_, lost = rows["created_at"], np.ones(n, bool), pd.Series(pd.NaT, index=rows.index, dtype="datetime64[s]")
    for stage, told in known["stages"].items():
        days = told["days"] * np.exp(0.8 * rng.standard_normal(n))
        at = at + np.round(86_400 * days).astype("timedelta64[s]")
        better = rows["owner"].map(known["owner_win_factor"]) if stage == "won" else 1.0
        reached = rng.random(n) < told["chance"] * better
        lost = lost.mask(open_ & ~reached & (rng.random(n) < known["closed"]), at)
        open_ = open_ & reached
        rows[f"{stage}_at"] = at.where(open_)
    rows["lost_at"] = lost
    stages = list(rows.columns[5:])
    rows[stages] = rows[stages].where(rows[stages] < last + pd.Timedelta(1, "D"))
    value = 2_000_000 + 1_000_000 * np.round(18 * np.exp(0.7 * rng.standard_normal(n))).astype(np.int64)
    return rows.assign(value=pd.Series(value, dtype="Int64").where(rows["opportunity_at"].notna()))


def subscriptions(customers: pd.DataFrame, last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Members of two plans: some leave each month; a new row where the price or the plan changed."""
    rng, known = generator("subscriptions"), PLANTED["members"]
    able = customers[customers["registered_at"].between(last - pd.DateOffset(months=30), last - pd.Timedelta(60, "D"))]
    chosen = np.sort(rng.choice(len(able), min(round(known["count"] * scale), len(able)), replace=False))
    who, n = able.iloc[chosen].reset_index(drop=True), len(chosen)
    rows = pd.DataFrame({"subscription_id": names("M", n), "customer_id": who["customer_id"]})
    rows["plan"], rows["channel"] = _pick(rng, ["Bạc", "Bạc", "Vàng"], n), who["channel"]
    rows["started_at"] = who["registered_at"].dt.normalize() + pd.to_timedelta(rng.integers(60, size=n), unit="D")
    risk = rng.beta(known["leave"] * known["leave_spread"], (1 - known["leave"]) * known["leave_spread"], n)
    months = rng.geometric(np.round(risk.clip(0.01), 4))
    rows["ended_at"] = rows["started_at"] + pd.to_timedelta(30 * months, unit="D")
    rose = pd.Timestamp(known["rose"])
    before = rows[rows["started_at"] < rose].assign(ended_at=rows["ended_at"].clip(upper=rose))
    after = rows[rows["ended_at"] > rose].assign(started_at=rows["started_at"].clip(lower=rose))
    moved = (rng.random(len(after)) < after["plan"].map(known["moved"])) & after.index.isin(before.index)
    after["plan"] = after["plan"].mask(moved, after["plan"].map({"Bạc": "Vàng", "Vàng": "Bạc"}))
    parts = [rows.assign(price=rows["plan"].map(known["prices"]).str[i]) for i, rows in enumerate((before, after))]
    both = pd.concat(parts).sort_values(["started_at", "subscription_id"], kind="stable", ignore_index=True)
    return both[both["started_at"] <= last].assign(ended_at=both["ended_at"].where(both["ended_at"] <= last))


def surveys(orders: pd.DataFrame, last: pd.Timestamp, scale: float) -> tuple[pd.DataFrame, float]:
    """A survey after purchase, which the satisfied answer more often, and one about the brand."""
    rng, known, felt_as = generator("surveys"), PLANTED["surveys"], PLANTED["satisfaction"]
    late = orders[orders["ordered_at"].between(last - pd.Timedelta(90, "D"), last) & (orders["status"] == "completed")]
    late = late.drop_duplicates("customer")
    n, m = min(round(known["invited"] * scale), len(late)), round(known["brand_invited"] * scale)
    late = late.iloc[np.sort(rng.choice(len(late), n, replace=False))]
    felt = rng.choice(list(felt_as["share"]), n, p=list(felt_as["share"].values()))
    rows = pd.DataFrame({"survey": "Sau mua hàng", "customer_id": late["customer_id"].array, "csat": felt})
    rows["channel"] = _pick(rng, ["Email", "Zalo OA", "SMS"], n)
    rows["sent_at"] = later(late["ordered_at"].array, 3600, 86_400, rng)
    rows["nps"] = np.clip(2 * felt + rng.integers(-2, 2, n), 0, 10)
    rows["says"] = rng.random(n) < rows["csat"].map(felt_as["answers"])
    brand = pd.DataFrame({"survey": "Thương hiệu", "customer_id": names("B", m), "channel": "Panel"})
    brand["sent_at"], aware = _moments(rng, last, 60, m), rng.random(m)
    brand["aware_unaided"], brand["aware_aided"] = aware < known["aware_unaided"], aware < known["aware_aided"]
    found = pd.Series(_pick(rng, ["Facebook", "Google", "Zalo", "Bạn bè", "TikTok"], m))
    brand["discovery"], brand["says"] = found.where(brand["aware_aided"]), rng.random(m) < known["brand_answers"]
    both = pd.concat([rows, brand], ignore_index=True)
    both["answered_at"] = later(both["sent_at"], 300, 172_800, rng)
    says = both.pop("says").astype(bool) & (both["answered_at"] < last + pd.Timedelta(1, "D"))
    told = ["answered_at", "csat", "nps", "aware_unaided", "aware_aided", "discovery"]
    both[told] = both[told].where(says, axis=0)
    return both.astype(dict.fromkeys(told[1:5], "Int8")), round(float((felt >= 4).mean()), 6)


def audience_daily(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Audiences left out of two campaigns, beside people of them who saw the ads all the same."""
    rng, known = generator("audiences"), PLANTED["exclusion"]
    keys = {"date": pd.date_range(end=last, periods=120), "audience": list(known)}
    keys |= {"campaign": ["Back to school 2026", "11.11 2026"], "segment": ["Hà Nội", "TP. Hồ Chí Minh"]}
    rows = pd.MultiIndex.from_product(keys.values(), names=keys).to_frame(index=False).assign(channel="Paid social")
    rule = pd.DataFrame(known).T.loc[rows["audience"]].reset_index(drop=True)
    rows["eligible"] = rng.poisson(np.round(rule["people"] * scale / 2, 6))
    fits = rng.binomial(rows["eligible"], rule["fits"])
    rows["holdout"] = rng.binomial(fits, PLANTED["exclusion_holdout"])
    rows["excluded"], rows["included"] = fits - rows["holdout"], rows["eligible"] - fits
    for part, rate in {"excluded": "excluded", "holdout": "shown", "included": "shown"}.items():
        rows[f"{part}_conversions"] = rng.binomial(rows[part], rule[rate])
    rows["avoided_cost"] = rows["excluded"] * 240  # three views at 80 VND each
    rows["lost_margin"] = (rows["excluded"] * (rule["shown"] - rule["excluded"]) * 125_000).round().astype(np.int64)
    rows["reach_without"] = rng.binomial(rows["eligible"], 0.7)
    rows["reach"] = rng.binomial(rows["reach_without"], 1 - 0.8 * rule["fits"])
    for part, people, leaving in (("excluded", "excluded", 0.61), ("baseline", "included", 0.43)):
        rows[f"{part}_sessions"] = rng.binomial(rows[people], 0.2)
        rows[f"{part}_exits"] = rng.binomial(rows[f"{part}_sessions"], leaving)
    return rows


def calls(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Calls to the hotline."""
    rng, known = generator("calls"), PLANTED["calls"]
    n = round(known["count"] * scale)
    rows = pd.DataFrame({"call_id": names("T", n), "called_at": _moments(rng, last, known["days"], n)})
    rows["channel"] = _pick(rng, ["Hotline", "Hotline", "Paid search", "Zalo OA"], n)
    rows["agent"], answered = _pick(rng, ["Lan", "Minh", "Ngọc", "Phúc"], n), rng.random(n) < known["answered"]
    rows["status"] = words(["missed", "answered"])[answered.astype(int)]
    talk = np.round(rng.gamma(1.6, known["talk_seconds"] / 1.6, n)).astype(np.int64) + 1
    return rows.assign(talk_seconds=pd.Series(talk, dtype="Int64").where(answered))


def content(daily: pd.DataFrame) -> pd.DataFrame:
    """Posts of a year; videos and evenings bring more interactions."""
    rng, known, last = generator("content"), PLANTED["content"], daily["date"].max()
    n = known["count"]
    rows = pd.DataFrame({"content_id": names("N", n), "published_at": _moments(rng, last, 365, n)})
    rows["kind"] = _pick(rng, ["photo", "photo", "video", "article"], n)
    article, video = rows["kind"] == "article", rows["kind"] == "video"
    rows["channel"] = pd.Series(_pick(rng, ["Paid social", "Zalo OA"], n)).mask(article, "Organic search")
    size = daily.dropna(subset=["followers"]).set_index(["date", "channel"])["followers"]
    at = rows["published_at"].dt.normalize().astype(daily["date"].dtype)
    rows["followers"] = size.reindex(pd.MultiIndex.from_arrays([at, rows["channel"]])).array
    people = rows["followers"].fillna(round(size.mean() / 4)).astype(float)
    rows["reach"] = np.round(people * 0.12 * np.exp(0.4 * rng.standard_normal(n))).astype(np.int64)
    rows["impressions"] = rows["reach"] + rng.binomial(rows["reach"], 0.35)
    rate = rows["kind"].map(known["rates"]) * np.where(rows["published_at"].dt.hour >= 19, known["evening"], 1.0)
    for column, part in known["parts"].items():
        rows[column] = rng.binomial(rows["reach"], rate * part)
    for column, part, of in (("video_views", 0.3, video), ("downloads", 0.01, article)):
        rows[column] = pd.Series(rng.binomial(rows["reach"], part), dtype="Int64").where(of)
    return rows


def partners(daily: pd.DataFrame, n: int = 120) -> pd.DataFrame:
    """Partners who joined over the years, and those who left."""
    rng, first, last = generator("partners"), daily["date"].min(), daily["date"].max()
    rows = pd.DataFrame({"partner_id": names("A", n), "channel": _pick(rng, ["Affiliate", "KOL", "Đại lý"], n)})
    rows["joined_at"] = first + pd.to_timedelta(np.sort(rng.integers((last - first).days, size=n)), unit="D")
    left = rows["joined_at"] + pd.to_timedelta(rng.integers(60, 2400, n), unit="D")
    return rows.assign(left_at=left.where(left <= last))


def costs(daily: pd.DataFrame) -> pd.DataFrame:
    """Ads as `daily` has them, and production, salaries and tools on the first of each month."""
    rng, months = generator("costs"), pd.date_range(daily["date"].min(), daily["date"].max(), freq="MS")
    ads = daily.groupby(["date", "channel"], as_index=False)["spend"].sum(min_count=1).dropna().assign(category="ads")
    fixed = pd.MultiIndex.from_product([months, PLANTED["costs"]], names=["date", "category"]).to_frame(index=False)
    usual = int(daily["spend"].sum()) / len(months) * fixed["category"].map(PLANTED["costs"])
    usual *= np.where(fixed["category"] == "production", np.exp(0.2 * rng.standard_normal(len(fixed))), 1.0)
    both = pd.concat([ads, fixed.assign(spend=(usual / 100_000).round().astype("Int64") * 100_000)])
    both = both.sort_values(["date", "category", "channel"], kind="stable", ignore_index=True)
    return both.rename(columns={"spend": "amount"})


def search_rankings(last: pd.Timestamp, n: int = 60, weeks: int = 26) -> pd.DataFrame:
    """Weekly places of keywords, which slowly rise; empty beyond the hundredth."""
    rng = generator("rankings")
    moves = np.vstack([rng.integers(3, 110, (1, n)), rng.integers(-6, 5, (weeks - 1, n))])
    place = pd.Series(moves.cumsum(axis=0).clip(1).ravel(), dtype="Int64")
    days = pd.date_range(end=last, periods=weeks, freq="7D").repeat(n)
    keyword = [f"từ khóa {i:02}" for i in range(1, n + 1)] * weeks
    return pd.DataFrame({"date": days, "keyword": keyword, "position": place.where(place <= 100)})


def targets(daily: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, bool]]:
    """What each campaign should reach, written down before it began; and whether it did."""
    rows, met = [], {}
    for i, (name, c) in enumerate(PLANTED["campaigns"].items()):
        own = daily[daily["campaign"] == name]
        registered = pd.Timestamp(c["first"]) - pd.Timedelta(7 + 3 * (i % 4), "D")
        for kpi, factors in PLANTED["target_reached"].items():
            reached = int(own[kpi].sum())
            goal = round(reached / factors[i % len(factors)], -6 if kpi == "revenue" else 0)
            met[f"{name}: {kpi}"] = reached >= goal
            rows.append((name, kpi, int(goal), c["first"], c["last"], registered.date()))
    return pd.DataFrame(rows, columns=["campaign", "kpi", "target", "starts_on", "ends_on", "registered_on"]), met


def experiment_units(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """A new checkout shown to every second visitor; what they spent before tells part of what they spend now."""
    rng, known = generator("experiment"), PLANTED["experiment"]
    n = round(known["units"] * scale)
    treated = rng.permutation(np.arange(n) % 2)
    rows = pd.DataFrame({"experiment": known["name"], "unit_id": names("U", n)})
    rows["variant"] = words(["control", "treatment"])[treated]
    rows["assigned_at"] = _moments(rng, last - pd.Timedelta(7, "D"), 28, n)
    rows["segment"] = _pick(rng, ["mobile", "mobile", "mobile", "desktop"], n)
    bought = rng.random(n) < 0.45
    before = np.round(420 * np.exp(0.6 * rng.standard_normal(n))).astype(np.int64) * bought
    rate = known["control_rate"] * (0.7 + 0.3 / 0.45 * bought) * np.where(treated == 1, known["lift"], 1.0)
    rows["converted"] = (rng.random(n) < rate).astype(np.int8)
    size = np.round(np.exp(0.4 * rng.standard_normal(n)) * (300 + 0.35 * before)).astype(np.int64)
    rows["revenue"], rows["revenue_before"] = 1000 * size * rows["converted"], 1000 * before
    return rows.assign(sessions=1 + rng.poisson(1.4, n))


def automation(orders: pd.DataFrame, customers: pd.DataFrame, last: pd.Timestamp) -> pd.DataFrame:
    """Messages of two automations: a welcome in steps, and a reminder to customers who had gone quiet."""
    rng, hello, end = generator("automation"), PLANTED["welcome"], last + pd.Timedelta(1, "D")
    fresh = customers[customers["registered_at"] >= end - pd.Timedelta(hello["days"], "D")]
    steps = (rng.random((len(fresh), len(hello["after_days"]) - 1)) < hello["next"]).cumprod(axis=1).sum(axis=1) + 1
    parts = [_reminders(orders, customers, end)]
    for step, days in enumerate(hello["after_days"], 1):
        part = fresh.loc[steps >= step, ["customer_id"]].assign(step=step, workflow=hello["workflow"])
        parts.append(part.assign(channel=hello["channel"], sent_at=fresh["registered_at"] + pd.Timedelta(days, "D")))
    rows = pd.concat(parts).query("sent_at < @end")
    rows = rows.sort_values(["sent_at", "customer_id"], kind="stable", ignore_index=True).assign(campaign=ALWAYS)
    known, fate, act = PLANTED["automation"], rng.random(len(rows)), rng.random(len(rows))
    good = fate >= known["hard_bounce"] + known["soft_bounce"]
    rows["status"] = words(["hard_bounce", "soft_bounce", "delivered"])[good + 1 * (fate >= known["hard_bounce"])]
    rows["opened"], rows["clicked"] = good & (act < known["opened"]), good & (act < known["clicked"])
    rows["replied"] = pd.Series(act < known["replied"]).where(good)
    return as_messages(rows.assign(unsubscribed=good & (act > 1 - known["left"])))


def _reminders(orders: pd.DataFrame, customers: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """Reminders to quiet customers, drawn such that the reminded came back more often than the others."""
    rng, back = generator("win-back"), PLANTED["win_back"]
    since = end - pd.Timedelta(back["within_days"], "D")
    bought = orders[orders["status"] == "completed"]
    after, latest = bought["ordered_at"] >= since, pd.Series(pd.NaT, index=range(len(customers)), dtype="datetime64[s]")
    before = bought[~after].drop_duplicates("customer", keep="last")
    latest[before["customer"].to_numpy()] = before["ordered_at"].to_numpy()
    returned = latest.index.isin(bought.loc[after, "customer"])
    chance = back["share"] * np.where(returned, back["lift"], 1.0)
    chosen = (latest < since - pd.Timedelta(back["quiet_days"], "D")) & (rng.random(len(latest)) < chance)
    told = {"step": 1, "workflow": back["workflow"], "channel": back["channel"]}
    return customers.loc[chosen, ["customer_id"]].assign(sent_at=since + pd.Timedelta(10, "h"), **told)


def as_messages(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages with their columns in order and flags as 0 and 1."""
    flags = ["opened", "clicked", "replied", "unsubscribed"]
    heads = ["customer_id", "sent_at", "channel", "campaign", "workflow", "step", "status", *flags]
    rows = rows.reindex(columns=heads).astype({"sent_at": "datetime64[s]", "workflow": "str", "step": "Int8"})
    return rows.astype(dict.fromkeys(flags, "boolean")).astype(dict.fromkeys(flags, "Int8"))


def automation_runs(sent: pd.DataFrame) -> pd.DataFrame:
    """Runs behind the messages of automations, with those that failed or were skipped."""
    rng = generator("runs")
    rows = sent.rename(columns={"sent_at": "run_at"})[["run_at", "workflow", "channel", "customer_id"]]
    rows = rows.assign(action="send", status="executed")
    extra = rows[rng.random(len(rows)) < PLANTED["automation"]["unexecuted"]]
    extra = extra.assign(status=_pick(rng, ["failed", "skipped", "skipped"], len(extra)))
    rows = pd.concat([rows[sent["step"] == 1].assign(action="trigger"), rows, extra])
    rows = rows.sort_values(["run_at", "customer_id"], kind="stable", ignore_index=True)
    return rows.assign(run_id=names("R", len(rows)))
