"""Smaller tables of the simulated company: sales, members, surveys, audiences, calls, content, costs, targets."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

#: what is planted, as ``company.yaml`` tells it
PLANTED: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("company.yaml").read_text(encoding="utf-8"))
ALWAYS = "Always on"
EXPERIMENTS = ("experiment", "broken_split", "novelty", "holdout")
HOURS = np.repeat(np.arange(24), PLANTED["hours"])


def generator(name: str) -> np.random.Generator:
    """Random numbers of one table, the same whatever other tables draw."""
    return np.random.default_rng([PLANTED["seed"], *name.encode()])


def words(told: Iterable[Any]) -> Any:
    """Array of texts, from which many can be taken fast."""
    return pd.array([str(word) for word in told], dtype="str")


def drawn(rng: np.random.Generator, weights: Mapping[str, float], n: int) -> Any:
    """Array of `n` words, each as often as its weight says."""
    chances = np.array(list(weights.values()), dtype=float)
    return words(weights)[rng.choice(len(chances), n, p=chances / chances.sum())]


def names(letter: str, n: int) -> Any:
    """Codes such as C000001, from the first to the `n`-th."""
    width = max(6, len(str(n)))
    return words(f"{letter}{i:0{width}}" for i in range(1, n + 1))


def clock(dates: Any, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Times on the `dates` at the places `row`, to the minute, in the hours in which people buy."""
    seconds = 3600 * rng.choice(HOURS, len(row)) + 60 * rng.integers(60, size=len(row))
    return np.asarray(dates.to_numpy("datetime64[s]")[row] + seconds)


def later(times: Any, low: Any, high: int, rng: np.random.Generator) -> Any:
    """Each of the times and `low` to `high` seconds."""
    return (times + rng.integers(low, high, len(times)).astype("timedelta64[s]")).astype("datetime64[s]")


def things(name: str, last: pd.Timestamp, scale: float) -> tuple[pd.DataFrame, np.random.Generator]:
    """So many things of the last days, as `name` is planted: codes, times, words, amounts; and what draws the rest."""
    rng, known = generator(name), PLANTED[name]
    n, days = round(known["count"] * scale), pd.date_range(end=last, periods=known["days"])
    code, letter, at = known["rows"]
    times = np.sort(clock(days, rng.integers(len(days), size=n), rng))
    rows = pd.DataFrame({code: names(letter, n), at: times})
    for column, weights in known["words"].items():
        rows[column] = drawn(rng, weights, n)
    for column, (by, means) in known.get("amounts", {}).items():
        rows[column] = np.ceil(rng.exponential(rows[by].map(means))).astype(np.int64)
    return rows, rng


def leads(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Wholesale leads; stages after the last day have not happened yet."""
    (rows, rng), known = things("leads", last, scale), PLANTED["leads"]
    n, at, reached = len(rows), rows["created_at"], np.ones(len(rows), bool)
    rows["lost_at"] = pd.Series(pd.NaT, rows.index, dtype=at.dtype)
    for stage, told in known["stages"].items():
        at = at + np.round(86_400 * told["days"] * np.exp(0.8 * rng.standard_normal(n))).astype("timedelta64[s]")
        better = rows["owner"].map(known["owner_win_factor"]) if stage == "won" else 1.0
        before, reached = reached, reached & (rng.random(n) < told["chance"] * better)
        rows["lost_at"] = rows["lost_at"].mask(before & ~reached & (rng.random(n) < known["closed"]), at)
        rows[f"{stage}_at"] = at.where(reached)
    times = list(rows.select_dtypes("datetime"))
    rows[times] = rows[times].where(rows[times] < last + pd.Timedelta(1, "D"))
    value = pd.Series(2_000_000 + 1_000_000 * np.round(18 * np.exp(0.7 * rng.standard_normal(n))))
    return rows.assign(value=value.where(rows["opportunity_at"].notna()).astype("Int64"))


def subscriptions(customers: pd.DataFrame, last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Members of two plans: some leave each month; a new row where the price rose; a drive brought many at once."""
    (rows, rng), known = things("members", last, scale), PLANTED["members"]
    early = customers[customers["registered_at"] < last - pd.Timedelta(known["days"], "D")]
    who = early.iloc[rng.integers(len(early), size=len(rows))].reset_index(drop=True)
    rows = rows.assign(started_at=rows["started_at"].dt.normalize(), **who[["customer_id", "channel"]])
    drive, days = generator("drive"), pd.date_range(known["drive"]["first"], known["drive"]["last"])
    joined = days[drive.integers(len(days), size=len(rows))]
    rows["started_at"] = rows["started_at"].where(drive.random(len(rows)) >= known["drive"]["share"], joined)
    risk = rng.beta(known["leave"] * known["leave_spread"], (1 - known["leave"]) * known["leave_spread"], len(rows))
    rows["ended_at"] = rows["started_at"] + pd.to_timedelta(30 * rng.geometric(risk.clip(0.01).round(4)), unit="D")
    rose, price = pd.Timestamp(known["rose"]), rows["plan"].map(known["prices"])
    before = rows.assign(price=price.str[0], ended_at=rows["ended_at"].clip(upper=rose))
    after = rows.assign(price=price.str[1], started_at=rows["started_at"].clip(lower=rose))
    both = pd.concat([before, after]).query("started_at < ended_at")
    both = both.sort_values(["started_at", "subscription_id"], kind="stable", ignore_index=True)
    return both.assign(ended_at=both["ended_at"].where(both["ended_at"] <= last))


def surveys(orders: pd.DataFrame, last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """A survey after purchase, which the satisfied answer more often, and one about the brand."""
    (rows, rng), (brand, more), known = things("surveys", last, scale), things("brand", last, scale), PLANTED["brand"]
    late = orders[orders["ordered_at"].between(last - pd.Timedelta(90, "D"), last) & (orders["status"] == "completed")]
    late = late.drop_duplicates("customer").sample(len(rows), random_state=rng).sort_index()
    rows["customer_id"], rows["csat"] = late["customer_id"].array, rows["csat"].astype(int)
    rows["sent_at"] = later(late["ordered_at"].array, 3600, 86_400, rng)
    rows["nps"] = np.clip(2 * rows["csat"] + rng.integers(-2, 2, len(rows)), 0, 10)
    rows["chance"] = rows["csat"].map(PLANTED["surveys"]["answers"])
    aware = more.random(len(brand))
    brand["aware_unaided"], brand["aware_aided"] = aware < known["aware_unaided"], aware < known["aware_aided"]
    brand["discovery"], brand["chance"] = brand["discovery"].where(brand["aware_aided"]), known["answers"]
    both = pd.concat([rows, brand], ignore_index=True)
    both["answered_at"] = later(both["sent_at"], 300, 172_800, rng)
    says = (rng.random(len(both)) < both.pop("chance")) & (both["answered_at"] < last + pd.Timedelta(1, "D"))
    told = ["answered_at", "csat", "nps", "aware_unaided", "aware_aided", "discovery"]
    both[told] = both[told].where(says, axis=0)
    return both.astype(dict.fromkeys(told[1:5], "Int8"))


def audience_daily(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Audiences left out of two campaigns, beside people of them who saw the ads all the same; two began late."""
    rng, known, wave = generator("audiences"), PLANTED["exclusion"], PLANTED["exclusion_wave"]
    keys = {"date": pd.date_range(end=last, periods=PLANTED["exclusion_days"]), "audience": list(known)}
    keys |= PLANTED["exclusion_where"] | {"channel": ["Paid social"]}
    rows = pd.MultiIndex.from_product(keys.values(), names=keys).to_frame(index=False)
    rule = pd.DataFrame(known).T.loc[rows["audience"]].reset_index(drop=True)
    runs = ~rows["audience"].isin(wave["audiences"])
    runs |= rows["segment"].isin(wave["segments"]) & (rows["date"] >= wave["since"])
    rule["reached"] = rule["reached"].where(runs, 1.0)
    rows["eligible"] = rng.poisson(np.round(rule["people"] * scale / 2, 6))
    fits = rng.binomial(rows["eligible"], rule["fits"] * runs)
    rows["holdout"] = rng.binomial(fits, rule["holdout"])
    rows["excluded"], rows["included"] = fits - rows["holdout"], rows["eligible"] - fits
    for column, (whole, share) in PLANTED["exclusion_parts"].items():
        rows[column] = rng.binomial(rows[whole], rule.get(share, share))
    views, (order, spread) = PLANTED["exclusion_views"], PLANTED["exclusion_order"]
    for who in ("excluded", "holdout", "included"):
        rows[f"{who}_cost"] = views["each"] * rng.poisson(views[who] * rows[who])
        worth = spread**2 * order * rng.gamma(rows[f"{who}_conversions"] / spread**2)
        rows[f"{who}_revenue"] = np.round(worth, -3).astype(np.int64)
    rows["avoided_cost"] = rows["excluded"] * views["each"] * views["included"]
    lost = rows["excluded"] * (rule["shown"] - rule["excluded"]) * PLANTED["exclusion_margin"]
    return rows.assign(lost_margin=lost.round().astype(np.int64))


def content(daily: pd.DataFrame) -> pd.DataFrame:
    """Posts of a year; videos and evenings bring more interactions."""
    (rows, rng), known = things("content", daily["date"].max(), 1.0), PLANTED["content"]
    size = daily.dropna(subset=["followers"]).set_index(["date", "channel"])["followers"]
    day = rows["published_at"].dt.normalize().astype(daily["date"].dtype)
    rows["followers"] = size.reindex(pd.MultiIndex.from_arrays([day, rows["channel"]])).array
    people = rows["followers"].fillna(round(size.mean() / 4)).astype(float)
    rows["reach"] = np.round(people * 0.12 * np.exp(0.4 * rng.standard_normal(len(rows)))).astype(np.int64)
    rows["impressions"] = rows["reach"] + rng.binomial(rows["reach"], 0.35)
    rate = rows["kind"].map(known["rates"]) * np.where(rows["published_at"].dt.hour >= 19, known["evening"], 1.0)
    chances = {column: rate * part for column, part in known["parts"].items()}
    chances |= {column: part * (rows["kind"] == kind) for column, (kind, part) in known["used"].items()}
    return rows.assign(**{column: rng.binomial(rows["reach"], chance) for column, chance in chances.items()})


def partners(last: pd.Timestamp) -> pd.DataFrame:
    """Partners who joined over the years, and those who left."""
    rows, rng = things("partners", last, 1.0)
    left = rows["joined_at"] + pd.to_timedelta(rng.integers(60, 2400, len(rows)), unit="D")
    return rows.assign(joined_at=rows["joined_at"].dt.normalize(), left_at=left.where(left <= last).dt.normalize())


def costs(daily: pd.DataFrame) -> pd.DataFrame:
    """Ads as `daily` has them, and production, salaries and tools on the first of each month."""
    months = pd.date_range(daily["date"].min(), daily["date"].max(), freq="MS")
    ads = daily.groupby(["date", "channel"], as_index=False)["spend"].sum(min_count=1).dropna().assign(category="ads")
    fixed = pd.MultiIndex.from_product([months, PLANTED["costs"]], names=["date", "category"]).to_frame(index=False)
    usual = int(daily["spend"].sum()) / len(months) * fixed["category"].map(PLANTED["costs"])
    both = pd.concat([ads, fixed.assign(spend=usual.round(-5).astype("Int64"))]).rename(columns={"spend": "amount"})
    return both.sort_values(["date", "category", "channel"], kind="stable", ignore_index=True)


def search_rankings(last: pd.Timestamp) -> pd.DataFrame:
    """Weekly places of keywords, which slowly rise; empty beyond the hundredth."""
    rng, (n, weeks) = generator("rankings"), PLANTED["search_rankings"].values()
    moves = np.vstack([rng.integers(3, 110, (1, n)), rng.integers(-6, 5, (weeks - 1, n))])
    place = pd.Series(moves.cumsum(axis=0).clip(1).ravel(), dtype="Int64")
    days, keyword = pd.date_range(end=last, periods=weeks, freq="7D"), [f"từ khóa {i + 1:02}" for i in range(n)]
    return pd.DataFrame({"date": days.repeat(n), "keyword": keyword * weeks, "position": place.where(place <= 100)})


def targets(daily: pd.DataFrame) -> pd.DataFrame:
    """What each campaign should reach, written down before it began; some were met."""
    rows = []
    for i, (name, c) in enumerate(PLANTED["campaigns"].items()):
        registered = (pd.Timestamp(c["first"]) - pd.Timedelta(7 + 3 * (i % 4), "D")).date()
        for kpi, factors in PLANTED["target_reached"].items():
            reached = int(daily.loc[daily["campaign"] == name, kpi].sum())
            goal = int(round(reached / factors[i % len(factors)], -6 if kpi == "revenue" else 0))
            rows.append((name, kpi, goal, c["first"], c["last"], registered))
    return pd.DataFrame(rows, columns=["campaign", "kpi", "target", "starts_on", "ends_on", "registered_on"])


def experiment_units(last: pd.Timestamp, scale: float) -> pd.DataFrame:
    """Units of four experiments, half and half: a sound one, one that loses units, one only new, one without ads."""
    return pd.concat([_units(name, last, scale) for name in EXPERIMENTS], ignore_index=True)


def _units(name: str, last: pd.Timestamp, scale: float) -> pd.DataFrame:
    (rows, rng), known = things(name, last - pd.Timedelta(PLANTED[name]["ago"], "D"), scale), PLANTED[name]
    n, treated = len(rows), rng.permutation(np.arange(len(rows)) % 2) == 1
    rows["variant"] = words(known["variants"])[treated.astype(int)]
    regular, (share, times) = rng.random(n) < known["regulars"][0], known["regulars"]
    before = np.round(900 * np.exp(0.6 * rng.standard_normal(n))).astype(np.int64) * regular
    rate = known["control_rate"] * np.where(regular, times, (1 - share * times) / (1 - share))
    slow = (rng.random(n) < known["slow"]) & rows["segment"].eq("mobile").to_numpy()
    rate *= np.where(slow, known["slow_factor"], 1.0)
    day = (rows["assigned_at"] - rows["assigned_at"].min().normalize()).dt.days.to_numpy()
    left = (1 - day / known["fades"]).clip(0) if known["fades"] else 1.0  # of the lift, which may be that of the new
    rows["converted"] = (rng.random(n) < rate * np.where(treated, 1 + (known["lift"] - 1) * left, 1.0)).astype(np.int8)
    spent = np.round(np.exp(0.35 * rng.standard_normal(n)) * np.where(regular, before, 300)).clip(1).astype(np.int64)
    rows["revenue"], rows["revenue_before"] = 1000 * spent * rows["converted"], 1000 * before
    rows["sessions"] = 1 + rng.poisson(1.4, n)
    rows["unsubscribed"] = (rng.random(n) < known["unsubscribed"]).astype(np.int8)
    return rows[~(treated & slow & (rng.random(n) < known["lost"]))]
