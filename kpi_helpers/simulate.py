"""The simulated company: an online retailer in Vietnam whose truth is known. Same bytes every time."""

import hashlib
import json
import tempfile
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from kpi_helpers import company
from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import require
from kpi_helpers.records import PLANTED

HOME = "data/demo"
CURRENCY = "VND"
#: customers of the ordinary size after three years, rounded
CUSTOMERS = 290_000

FIRST, LAST = PLANTED["first"], PLANTED["last"]
MESSAGES, MEASURES = PLANTED["message_counts"], PLANTED["counts"] + PLANTED["message_counts"]


def demand(days: pd.DatetimeIndex) -> np.ndarray:
    """Expected demand of each day relative to an ordinary one of the first year (n,): growth, weekday, sales, Tết.

    >>> round(float(demand(pd.DatetimeIndex(["2026-02-17"]))[0]), 2)
    0.43
    """
    growth = (1 + PLANTED["yearly_growth"]) ** ((days - pd.Timestamp(FIRST)).days.to_numpy() / 365.25)
    week = np.array(PLANTED["weekday_factors"])[days.day_of_week]
    sale = days.strftime("%m-%d").map(PLANTED["sale_days"]).fillna(1.0).to_numpy()
    tet = np.ones(len(days))
    for new_year in PLANTED["tet"]:  # weeks of shopping before it, a deep and short pause during it
        ahead = (pd.Timestamp(new_year) - days).days.to_numpy()
        tet = np.where((ahead > 2) & (ahead <= 24), 1.0 + 0.4 * (1 - np.abs(ahead - 12) / 12).clip(0), tet)
        tet = np.where((ahead <= 2) & (ahead > -6), 0.36, tet)
        tet = np.where((ahead <= -6) & (ahead > -12), 0.75, tet)
    return np.asarray(growth * week * sale * tet)


def channel_daily(scale: float = 1.0) -> pd.DataFrame:
    """Daily sums of the seven channels before they are split into campaigns; `scale` multiplies what is expected.

    >>> channel_daily().shape
    (7819, 17)
    """
    rng, days, gap = np.random.default_rng(PLANTED["seed"]), pd.date_range(FIRST, LAST), PLANTED["tracking_gap"]
    table = pd.concat([_channel(name, days, rng, scale) for name in PLANTED["channels"]])
    table = table.sort_values(["date", "channel"], kind="stable", ignore_index=True)
    table.loc[table["date"].between(str(gap["first"]), str(gap["last"])), gap["columns"]] = pd.NA
    return table.astype(dict.fromkeys(MEASURES, "Int64"))


def truth() -> dict[str, object]:
    """What was planted: the values that forecasts and notebooks are checked against."""
    return dict(json.loads(json.dumps(PLANTED, default=str)))


def write(folder: str | Path, customers: int | None = None) -> Path:
    """Write the company into `folder`, unless this version of it is there: its tables, and ``truth.json``.

    `customers`, at least 1,000 or else a `KpiError`, is its size, about `CUSTOMERS` if not given.
    """
    folder, size = Path(folder), CUSTOMERS if customers is None else customers
    require(size >= 1000, f"customers={size}: a company so small shows nothing. Give 1000 or more.")
    sources = ("simulate.py", "company.py", "records.py", "company.yaml")
    code = b"".join(Path(__file__).with_name(source).read_bytes() for source in sources)
    made_by, known = hashlib.sha256(code + str(size).encode()).hexdigest()[:12], folder / "truth.json"
    told = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    if told.get("made_by") == made_by and all((folder / file).exists() for file in told["files"]):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo-") as staging:  # two notebooks may begin together
        made, counted = company.tables(channel_daily(size / CUSTOMERS), size / CUSTOMERS)
        files = {_store(table, Path(staging, name)).name: len(table) for name, table in made.items()}
        whole = {"made_by": made_by, "scale": size / CUSTOMERS, "files": files, **truth(), **counted}
        Path(staging, known.name).write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in set(told.get("files", ())) - set(files):  # another version stored this table otherwise
            (folder / name).unlink(missing_ok=True)
        for name in (*files, known.name):  # the file that says "done" comes last
            Path(staging, name).replace(folder / name)
    return folder


def _store(table: pd.DataFrame, path: Path) -> Path:
    """Write a small table without times as CSV, any other as Parquet, the same bytes every time."""
    if len(table) < 10_000 and all(c.kind != "time" for c in TABLES[path.name].columns):
        table.to_csv(path := path.with_suffix(".csv"), index=False, lineterminator="\n")
        return path
    rows = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    packed = {f.name: "DELTA_BINARY_PACKED" for f in rows.schema if pa.types.is_timestamp(f.type)}
    codes = "order_id" if path.name == "orders" else "_id"  # the customers of orders recur, in no order
    packed |= {name: "DELTA_BYTE_ARRAY" for name in table if name.endswith(codes)}
    pq.write_table(
        rows, path.with_suffix(".parquet"), compression="zstd", compression_level=3, store_schema=False,
        use_dictionary=[name for name in rows.column_names if name not in packed], column_encoding=packed,
        dictionary_pagesize_limit=1 << 23,
    )  # fmt: skip
    return path.with_suffix(".parquet")


def _channel(name: str, days: pd.DatetimeIndex, rng: np.random.Generator, scale: float) -> pd.DataFrame:
    """Sums of one channel: what it is worth by itself and for its spend, on days that pull more or less."""
    n, pull, response = len(days), demand(days), PLANTED["spend_response"].get(name)
    changes = (PLANTED["level_shift"], PLANTED["rate_drop"])
    shifted, dropped = (
        np.where((days >= str(each["since"])) & (each["channel"] == name), each["factor"], 1.0) for each in changes
    )
    shocks = rng.standard_normal(n) * 0.05 * np.sqrt(1 - 0.93**2)  # weeks in which a channel does better or worse
    mood = np.exp(list(accumulate(shocks, lambda level, shock: 0.93 * level + shock))) * shifted
    table = pd.DataFrame({"date": days, "channel": name, **dict.fromkeys(MEASURES)})
    expected = PLANTED["base_sessions"][name] * scale * mood
    if response:
        *bought, per_click, per_impression = response.values()
        budget, most, half = (scale * each for each in bought)
        campaign = np.repeat(rng.choice([0.6, 1.0, 1.0, 1.5], size=n // 28 + 1), 28)[:n]  # four-week flights
        spend = np.round(budget * campaign * np.exp(0.12 * rng.standard_normal(n)), -3)
        expected = expected + most * spend / (spend + half) * mood
        clicks = _count(expected * pull / per_click, rng)
        table["spend"], table["clicks"] = spend.astype(np.int64), clicks
        table["impressions"] = _count(clicks / per_impression, rng) + clicks
    if name in PLANTED["lists"]:
        table[MESSAGES] = _messages(name, days, rng, scale)
        table["clicks"] = table["unique_clicks"]
    sessions = _count(expected * pull, rng)
    orders = rng.binomial(sessions, PLANTED["order_rate"][name] * dropped * np.exp(0.03 * rng.standard_normal(n)))
    basket = PLANTED["average_order"][name] * np.exp(rng.standard_normal(n) * 0.55 / np.sqrt(orders.clip(1)))
    table["sessions"], table["orders"], table["conversions"] = sessions, orders, orders
    table["pageviews"] = _count(sessions * 4.2, rng)
    table["leads"] = rng.binomial(sessions, 0.012)
    table["revenue"] = np.round(orders * basket, -3).astype(np.int64)
    return table


def _messages(name: str, days: pd.DatetimeIndex, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Columns sent, hard and soft bounces, unique opens and clicks, unsubscribes (n, 6)."""
    known, n = PLANTED["lists"][name], len(days)
    subscribers = known["start"] * scale * np.exp(0.18 * np.arange(n) / 365.25)
    sent = np.where(np.isin(days.day_of_week, known["weekdays"]), _count(subscribers, rng), 0)
    hard, soft = rng.binomial(sent, 0.009), rng.binomial(sent, 0.012)
    delivered = sent - hard - soft
    opens = rng.binomial(delivered, known["opened"] * np.exp(0.05 * rng.standard_normal(n)))
    clicks = rng.binomial(opens, known["clicked"])
    return np.column_stack([sent, hard, soft, opens, clicks, rng.binomial(delivered, 0.0018)])


def _count(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts a little more variable than Poisson's; the mean is rounded so that every processor draws alike."""
    return rng.poisson(np.round(expected * np.exp(0.03 * rng.standard_normal(len(expected))), 6))
