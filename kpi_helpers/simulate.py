"""The simulated company: an online retailer in Vietnam whose truth is known. Same bytes every time."""

import hashlib
import json
import shutil
import tempfile
from datetime import date
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from kpi_helpers import company, records
from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import require

HOME = "data/demo"
FIRST, LAST = date(2023, 11, 1), date(2026, 11, 21)
SEED = 20241101
CURRENCY = "VND"
#: customers of the ordinary size after three years, rounded
CUSTOMERS = 290_000

#: First day of the lunar year; Vietnam counts in UTC+7.
TET = (date(2024, 2, 10), date(2025, 1, 29), date(2026, 2, 17))
#: Days of sale and how much they multiply demand.
SALE_DAYS = {(11, 11): 2.3, (12, 12): 1.9, (3, 8): 1.3, (10, 20): 1.3}
#: Demand from Monday to Sunday.
WEEK = (0.96, 0.95, 0.97, 1.0, 1.06, 1.08, 0.98)
#: Website tracking was off: sessions, pageviews and conversions are unknown; the shop's own orders are not.
TRACKING_GAP = (date(2026, 6, 9), date(2026, 6, 11))
#: From this day a mini-app brings half as many sessions again from Zalo OA.
LEVEL_SHIFT = (date(2026, 3, 16), "Zalo OA", 1.5)
#: From this day fewer sessions from Paid social order: the audience had seen the same pictures too often.
RATE_DROP = (date(2026, 8, 10), "Paid social", 0.75)
YEARLY_GROWTH = 0.10

MESSAGES = ["sent", "hard_bounces", "soft_bounces", "unique_opens", "unique_clicks", "unsubscribes"]
TRACKED = ["sessions", "pageviews", "conversions"]
COUNTED = ["impressions", "clicks", "sessions", "pageviews", "spend", "leads", "conversions", "orders", "revenue"]
MEASURES = COUNTED + MESSAGES

#: channel: sessions a day without spend, order rate per session, average order in VND
CHANNELS = {
    "Organic search": (4900, 0.0255, 415_000),
    "Paid search": (300, 0.0290, 430_000),
    "Paid social": (350, 0.0145, 390_000),
    "Email": (1500, 0.0420, 445_000),
    "Zalo OA": (1700, 0.0330, 405_000),
    "Affiliate": (400, 0.0240, 420_000),
    "Direct": (3300, 0.0300, 460_000),
}
#: channel: budget a day in VND, most sessions that spend can buy in a day, spend that buys half of them,
#: sessions per click, clicks per impression. Sessions = most * spend / (spend + half): they saturate.
PAID = {
    "Paid search": (9_000_000, 6800, 8_000_000, 0.93, 0.034),
    "Paid social": (11_000_000, 10_500, 14_000_000, 0.82, 0.011),
    "Affiliate": (2_600_000, 3400, 2_500_000, 0.90, 0.021),
}
#: channel: subscribers at the start, messages a week to each, open rate, click rate among openers
LISTS = {"Email": (62_000, 2, 0.235, 0.115), "Zalo OA": (41_000, 1, 0.58, 0.14)}


def demand(days: pd.DatetimeIndex) -> np.ndarray:
    """Expected demand of each day relative to an ordinary day of the first year (n,).

    Product of growth, weekday, days of sale, and Tết: three weeks of shopping before it, a deep and
    short pause during it.

    >>> round(float(demand(pd.DatetimeIndex(["2026-02-17"]))[0]), 2)
    0.43
    """
    growth = (1 + YEARLY_GROWTH) ** ((days - pd.Timestamp(FIRST)).days.to_numpy() / 365.25)
    week = np.array(WEEK)[days.day_of_week]
    sale = np.array([SALE_DAYS.get((d.month, d.day), 1.0) for d in days])
    tet = np.ones(len(days))
    for new_year in TET:
        ahead = (pd.Timestamp(new_year) - days).days.to_numpy()
        tet = np.where((ahead > 2) & (ahead <= 24), 1.0 + 0.4 * (1 - np.abs(ahead - 12) / 12).clip(0), tet)
        tet = np.where((ahead <= 2) & (ahead > -6), 0.36, tet)
        tet = np.where((ahead <= -6) & (ahead > -12), 0.75, tet)
    return np.asarray(growth * week * sale * tet)


def channel_daily(scale: float = 1.0) -> pd.DataFrame:
    """Daily sums of the seven channels, one row a day and channel, before they are split into campaigns.

    `scale` multiplies what is expected of each day.

    >>> channel_daily().shape
    (7819, 17)
    """
    rng = np.random.default_rng(SEED)
    days = pd.date_range(FIRST, LAST)
    pull = demand(days)
    tables = [_channel(name, days, pull, rng, scale) for name in CHANNELS]
    table = pd.concat(tables).sort_values(["date", "channel"], kind="stable", ignore_index=True)
    gap = table["date"].between(pd.Timestamp(TRACKING_GAP[0]), pd.Timestamp(TRACKING_GAP[1]))
    table.loc[gap, TRACKED] = pd.NA
    return table.astype(dict.fromkeys(MEASURES, "Int64"))


def truth() -> dict[str, object]:
    """What was planted: the values that forecasts and notebooks are checked against."""
    since, channel, factor = LEVEL_SHIFT
    shift = {"since": since, "channel": channel, "column": "sessions", "factor": factor}
    since, channel, factor = RATE_DROP
    drop = {"since": since, "channel": channel, "column": "orders", "factor": factor}
    planted = {
        "first": FIRST, "last": LAST, "seed": SEED, "yearly_growth": YEARLY_GROWTH, "tet": TET,
        "weekday_factors": WEEK, "sale_days": {f"{m:02}-{d:02}": factor for (m, d), factor in SALE_DAYS.items()},
        "tracking_gap": {"first": TRACKING_GAP[0], "last": TRACKING_GAP[1], "columns": TRACKED},
        "level_shift": shift, "rate_drop": drop,
        "spend_response": {name: {"most_sessions": p[1], "half_spend": p[2]} for name, p in PAID.items()},
        "order_rate": {name: rate for name, (_, rate, _) in CHANNELS.items()},
        "average_order": {name: ticket for name, (_, _, ticket) in CHANNELS.items()}, **records.PLANTED,
    }  # fmt: skip
    written: dict[str, object] = json.loads(json.dumps(planted, default=str))
    return written


def write(folder: str | Path, customers: int | None = None) -> Path:
    """Write the company into `folder` unless this version of it is already there.

    `customers` is its size, about `CUSTOMERS` if not given. Returns the folder: a file for each table, and
    ``truth.json`` with what was planted and counted. Takes some six seconds for the ordinary size.

    Raises
    ------
    KpiError
        If `customers` is below 1,000.
    """
    folder, size = Path(folder), CUSTOMERS if customers is None else customers
    require(size >= 1000, f"customers={size}: a company so small shows nothing. Give 1000 or more.")
    sources = (__file__, company.__file__, records.__file__, Path(records.__file__).with_name("company.yaml"))
    code = b"".join(Path(source).read_bytes() for source in sources)
    made_by, known = hashlib.sha256(code + str(size).encode()).hexdigest()[:12], folder / "truth.json"
    told = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    if told.get("made_by") == made_by and all((folder / file).exists() for file in told["files"]):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".demo-"))  # two notebooks may begin together
    try:
        made, counted = company.tables(channel_daily(size / CUSTOMERS), size / CUSTOMERS)
        files = {_store(table, staging / name).name: len(table) for name, table in made.items()}
        whole = {"made_by": made_by, "scale": size / CUSTOMERS, "files": files, **truth(), **counted}
        text = json.dumps(whole, ensure_ascii=False, indent=1)
        (staging / known.name).write_text(text + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in set(told.get("files", ())) - set(files):  # another version stored this table otherwise
            (folder / name).unlink(missing_ok=True)
        for name in (*files, known.name):  # the file that says "done" comes last
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging)
    return folder


def _store(table: pd.DataFrame, path: Path) -> Path:
    """Write a small table without times as CSV, any other as Parquet, the same bytes every time."""
    timed = any(c.kind == "time" for c in TABLES[path.name].columns)
    if len(table) < 10_000 and not timed:
        table.to_csv(path.with_suffix(".csv"), index=False, lineterminator="\n")
        return path.with_suffix(".csv")
    rows = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    codes = [name for name in rows.column_names if name.endswith("_id") or name == "referred_by"]
    packed = dict.fromkeys(codes, "DELTA_BYTE_ARRAY")
    packed |= {f.name: "DELTA_BINARY_PACKED" for f in rows.schema if pa.types.is_timestamp(f.type)}
    pq.write_table(
        rows, path.with_suffix(".parquet"), compression="zstd", compression_level=5, store_schema=False,
        use_dictionary=[name for name in rows.column_names if name not in packed], column_encoding=packed,
    )  # fmt: skip
    return path.with_suffix(".parquet")


def _channel(
    name: str, days: pd.DatetimeIndex, pull: np.ndarray, rng: np.random.Generator, scale: float
) -> pd.DataFrame:
    base, order_rate, ticket = CHANNELS[name]
    n = len(days)
    mood = np.exp(_slow_noise(n, rng, scale=0.05))  # weeks in which a channel does better or worse
    if name == LEVEL_SHIFT[1]:
        mood = mood * np.where(days >= pd.Timestamp(LEVEL_SHIFT[0]), LEVEL_SHIFT[2], 1.0)
    table = pd.DataFrame({"date": days, "channel": name, **dict.fromkeys(MEASURES)})
    expected = base * scale * mood
    if name in PAID:
        *bought, per_click, per_impression = PAID[name]
        budget, most, half = (scale * each for each in bought)
        campaign = np.repeat(rng.choice([0.6, 1.0, 1.0, 1.5], size=n // 28 + 1), 28)[:n]  # four-week flights
        spend = np.round(budget * campaign * np.exp(0.12 * rng.standard_normal(n)), -3)
        expected = expected + most * spend / (spend + half) * mood
        clicks = _count(expected * pull / per_click, rng)
        table["spend"], table["clicks"] = spend.astype(np.int64), clicks
        table["impressions"] = _count(clicks / per_impression, rng) + clicks
    if name in LISTS:
        table[MESSAGES] = _messages(name, days, rng, scale)
        table["clicks"] = table["unique_clicks"]
    sessions = _count(expected * pull, rng)
    rate = np.full(n, order_rate)
    if name == RATE_DROP[1]:
        rate[days >= pd.Timestamp(RATE_DROP[0])] *= RATE_DROP[2]
    orders = rng.binomial(sessions, rate * np.exp(0.03 * rng.standard_normal(n)))
    revenue = orders * ticket * np.exp(rng.standard_normal(n) * 0.55 / np.sqrt(orders.clip(1)))
    table["sessions"], table["orders"], table["conversions"] = sessions, orders, orders
    table["pageviews"] = _count(sessions * 4.2, rng)
    table["leads"] = rng.binomial(sessions, 0.012)
    table["revenue"] = np.round(revenue, -3).astype(np.int64)
    return table


def _messages(name: str, days: pd.DatetimeIndex, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Columns sent, hard and soft bounces, unique opens and clicks, unsubscribes (n, 6)."""
    start, weekly, opened, clicked = LISTS[name]
    n = len(days)
    subscribers = start * scale * np.exp(0.18 * np.arange(n) / 365.25)
    sending = np.isin(days.day_of_week, (1, 4) if weekly == 2 else (3,))
    sent = np.where(sending, _count(subscribers, rng), 0)
    hard, soft = rng.binomial(sent, 0.009), rng.binomial(sent, 0.012)
    delivered = sent - hard - soft
    opens = rng.binomial(delivered, opened * np.exp(0.05 * rng.standard_normal(n)))
    return np.column_stack([sent, hard, soft, opens, rng.binomial(opens, clicked), rng.binomial(delivered, 0.0018)])


def _count(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts a little more variable than Poisson's; the mean is rounded so that every processor draws alike."""
    return rng.poisson(np.round(expected * np.exp(0.03 * rng.standard_normal(len(expected))), 6))


def _slow_noise(n: int, rng: np.random.Generator, *, scale: float) -> np.ndarray:
    """First-order autoregression with a memory of about two weeks."""
    shocks = rng.standard_normal(n) * scale * np.sqrt(1 - 0.93**2)
    return np.array(list(accumulate(shocks, lambda level, shock: 0.93 * level + shock)))
