"""CPU of 40 KPIs over a million rows, beside the bare DuckDB aggregate over the same columns, in one process, warm.

.venv/bin/python benchmarks/scorecard.py [ROWS] [REPEATS]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from kpi_helpers import kpis
from kpi_helpers.contracts import CHANNEL_DAILY
from kpi_helpers.sources import connect


def company(rows: int) -> pd.DataFrame:
    """Rows of channel_daily: three years, ten channels, as many campaigns as it takes; each number column is known."""
    rng = np.random.default_rng(1)
    days, channels = pd.date_range("2023-01-01", periods=1095), [f"channel {i}" for i in range(10)]
    campaigns = -(-rows // (len(days) * len(channels)))
    index = pd.MultiIndex.from_product([days, channels, [f"campaign {i}" for i in range(campaigns)]])[:rows]
    table = index.to_frame(index=False, name=["date", "channel", "campaign"])
    table["medium"] = "paid"
    parts = {c.at_most for c in CHANNEL_DAILY.columns if c.at_most}
    for name in CHANNEL_DAILY.numbers:
        table[name] = rng.integers(1000, 2000, rows) if name in parts else rng.integers(0, 100, rows)
    return table


def cpu(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds, all threads, after one run to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken)


def main(rows: int = 1_000_000, repeats: int = 5) -> None:
    """Print CPU seconds and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        company(rows).to_parquet(Path(folder) / "channel_daily.parquet", index=False)
        data = connect(folder)
        ids = [k.id for k in kpis.catalogue() if k.tables == {"channel_daily"}][:40]
        data.table("channel_daily")
        needed = sorted({c for k in ids for c in kpis.kpi(k).columns} & set(CHANNEL_DAILY.numbers))
        typed = data.table("channel_daily")
        backend, name = typed.get_backend(), "bare"
        backend.create_table(name, typed.select("date", "channel", *needed), temp=True)
        sums = ", ".join(f"sum({c})" for c in needed)
        sql = f"SELECT date, channel, {sums} FROM {name} GROUP BY ALL"
        raw = backend.con
        bare = cpu(lambda: raw.execute(sql).fetchall(), repeats)
        ours = cpu(lambda: kpis.scorecard(data, ids, by="channel"), repeats)
        print(f"{len(ids)} KPIs, {rows:,} rows, {len(needed)} columns, CPU s: ours {ours:.3f}, "
              f"bare DuckDB {bare:.3f}, ratio {ours / bare:.2f}")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
