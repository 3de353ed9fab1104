"""Purchase models, the summary of orders and survival, beside lifetimes, lifelines, pymc-marketing and bare work.

.venv/bin/python benchmarks/clv.py --peers PYTHON ... [--customers 2357 100000 1000000] [--repeats 5] [--quick]

All sides take turns, each in a process of its own, warm; a ratio is the median over the turns. CPU is of all threads,
without imports and reading of arrays or of the peer's DataFrame; ours reads its orders from the file each time. A peer
needs an environment of its own (CONTRIBUTING.md): give its python. `--quick` leaves out what takes minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PLANTED = {"bg/nbd": (0.243, 4.414, 0.793, 2.426), "pareto/nbd": (0.553, 10.578, 0.606, 11.669)}  # CDNOW, in weeks
GOALS = {"bg/nbd 2357": 20, "bg/nbd 100000": 25, "bg/nbd 1000000": 8, "pareto/nbd 100000": 30,
         "summary 10000000": 8, "survival 1000000": 25}  # fmt: skip
FIT = "from kpi_helpers.clv import fit_purchases as fit\nwork = lambda: [*fit(*data, model=task).parameters.values()]"
PEER_FIT = "import lifetimes\nwork = lambda: [*lifetimes.{}().fit(*data).params_]"
CODE = {  # task: side: what it prepares, and `work`, whose answer is compared with ours (bare work has none)
    "bg/nbd": {"ours": FIT, "lifetimes": PEER_FIT.format("BetaGeoFitter"), "pymc_marketing": """
import pandas as pd
from pymc_marketing.clv import BetaGeoModel
rows = pd.DataFrame(data.T, columns=["frequency", "recency", "T"]).assign(customer_id=range(data.shape[1]))
def work():  # most probable parameters under its default priors, which are felt in small data
    model = BetaGeoModel(data=rows)
    model.fit(method="map")
    return [float(model.fit_result[name].mean()) for name in ("r", "alpha", "a", "b")]
"""},
    "pareto/nbd": {"ours": FIT, "lifetimes": PEER_FIT.format("ParetoNBDFitter")},
    "summary": {"ours": """
from kpi_helpers.clv import summarise
def work():
    told = summarise(path)
    sums = told.rows[["frequency", "recency_days", "age_days"]].T @ told.rows["weight"]
    return [*sums, told.spend["mean_value"] @ told.spend["weight"]]
""", "bare": """
import duckdb
work = lambda: duckdb.execute(f'''
WITH days AS (SELECT customer_id, ordered_at::DATE d, sum(revenue) v FROM '{path}' GROUP BY ALL),
     who AS (SELECT count(*) - 1 x, max(d) - min(d) t, DATE '2025-12-30' - min(d) age,
                    (sum(v) - arg_min(v, d)) / nullif(count(*) - 1, 0) m FROM days GROUP BY customer_id)
SELECT x, t, age, count(*), sum(m) FROM who GROUP BY ALL''').fetchnumpy() and []
""", "lifetimes": """
import pandas as pd
from lifetimes.utils import summary_data_from_transaction_data as summarise
orders, told = pd.read_parquet(path), {"monetary_value_col": "revenue", "freq": "D"}
work = lambda: [*summarise(orders, "customer_id", "ordered_at", **told).sum()]
"""},
    "survival": {"ours": """
from kpi_helpers.churn import survival
ended = data[1] > 0
def work():
    frame = survival(data[0], ended).frame
    return frame["survival"][frame["time"] == 365]
""", "bare": """
ended = data[1] > 0
work = lambda: np.bincount(data[0] * 2 + ended)[:0].tolist()
""", "lifelines": """
from lifelines import KaplanMeierFitter
ended = data[1] > 0
work = lambda: [KaplanMeierFitter().fit(data[0], ended).predict(365)]
"""},
}  # fmt: skip
SERVE = """
import json, os, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
task, path, calls, code = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
data = np.load(path) if path.endswith("npy") else None
tell = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # progress bars and prints of peers
exec(code)
for _ in sys.stdin:  # one turn a line
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(calls):
        answer = work()
    taken = [(time.process_time() - cpu) / calls, (time.perf_counter() - clock) / calls]
    most = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024  # of this process alone
    print(json.dumps([*taken, most, [float(v) for v in answer]]), file=tell, flush=True)
"""


def simulate(model: str, n: int) -> np.ndarray:
    """Frequency, recency and age in weeks, by whole days, of customers who came in two years, or as CDNOW's."""
    rng, (r, alpha, a, b) = np.random.default_rng(1), PLANTED[model]
    rate, age = (
        rng.gamma(r, 1 / alpha / 7, n) + 1e-300,
        rng.integers(*((189, 273) if n == 2357 else (1, 731)), n).astype(float),
    )
    leaves, until = rng.beta(a, b, n), age
    if model == "pareto/nbd":  # leaves at a time, not after a purchase
        leaves, until = np.zeros(n), np.minimum(age, rng.exponential(1 / (rng.gamma(a, 1 / b / 7, n) + 1e-300)))
    now, x, last, there = np.zeros(n), np.zeros(n), np.zeros(n), np.arange(n)
    while there.size:
        now[there] += rng.exponential(1 / rate[there])
        there = there[now[there] <= until[there]]
        day = np.ceil(now[there])
        x[there] += day > last[there]
        last[there] = day
        there = there[rng.random(there.size) >= leaves[there]]
    return np.array([x, last / 7, age / 7])


def make(task: str, n: int, path: Path) -> None:
    """Write the data of a task; orders: of two years and a tenth as many customers, some better than others."""
    if task == "summary":
        import duckdb

        duckdb.execute(f"""COPY (
            SELECT (pow(u, 1.5) * {n // 10})::BIGINT AS customer_id, round(5 + 95 * v, 2) AS revenue,
                   TIMESTAMP '2024-01-01' + to_seconds((hash(i + 3 * {n}) % (730 * 86400))::BIGINT) AS ordered_at
            FROM (SELECT i, (hash(i) % 1000003) / 1000003 AS u, (hash(i + {n}) % 1000003) / 1000003 AS v
                  FROM range({n}) t(i))) TO '{path}' (FORMAT parquet, COMPRESSION zstd)""")
    elif task == "survival":
        rng = np.random.default_rng(1)
        lasts, watched = rng.exponential(1 / rng.gamma(0.7, 1 / 100, n)), rng.uniform(1, 730, n)
        np.save(path, np.array([np.ceil(np.minimum(lasts, watched)), lasts <= watched]).astype(int))
    else:
        np.save(path, simulate(task, n))


def compare(pythons: dict[str, str], task: str, n: int, path: Path, repeats: int) -> None:
    """Take turns, the first to warm up (unless there is one only), and print a line a side."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # its idle threads would count as work
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    calls = {s: "1" if s == "pymc_marketing" else str(max(1, 50_000 // n)) for s in pythons}  # a turn
    asked = {s: [p, "-c", SERVE, task, str(path), calls[s], CODE[task][s]] for s, p in pythons.items()}
    sides = {s: subprocess.Popen(command, **pipes) for s, command in asked.items()}
    told: dict[str, list[Any]] = {side: [] for side in sides}
    for _ in range(repeats + (repeats > 1)):
        for side, process in sides.items():
            print("go", file=process.stdin, flush=True)
            told[side] = [*told[side], json.loads(process.stdout.readline())][-repeats:]
    print(f"{task} {n:,} (goal: {GOALS.get(f'{task} {n}', 'none')})")
    for side, rows in told.items():
        sides[side].communicate()
        cpu, clock, peak = (median(row[i] for row in rows) for i in range(3))
        times = [median(row[i] / ours[i] for row, ours in zip(rows, told["ours"], strict=True)) for i in (0, 1)]
        apart = [abs(a / b - 1) for a, b in zip(rows[-1][3], told["ours"][-1][3], strict=False)]
        print(f"  {side:15}CPU {cpu:.4f} s, {times[0]:.2f} times ours; clock {clock:.4f} s, {times[1]:.2f} times; "
              f"peak {peak:.0f} MB" + (f"; differs by {max(apart):.0e}" if apart else ""), flush=True)  # fmt: skip


def main() -> None:
    """Print each comparison."""
    asks = argparse.ArgumentParser(description=__doc__)
    asks.add_argument("--customers", type=int, nargs="*", default=[2357, 10**5, 10**6])
    asks.add_argument("--orders", type=int, default=10**7)
    asks.add_argument("--repeats", type=int, default=5)
    asks.add_argument("--peers", nargs="*", default=[])
    asks.add_argument("--quick", action="store_true")
    asks.add_argument("--only", nargs="*", default=[*CODE])
    given, has = asks.parse_args(), {"ours": sys.executable, "bare": sys.executable}
    for python, name in ((p, n) for p in given.peers for n in ("lifetimes", "lifelines", "pymc_marketing")):
        asked = f"import importlib.util as u, sys; sys.exit(u.find_spec('{name}') is None)"
        has |= {name: python} if subprocess.run([python, "-c", asked], check=False).returncode == 0 else {}
    plan = [("bg/nbd", n, given.repeats) for n in given.customers]
    plan += [("summary", given.orders, given.repeats), ("survival", 10**6, given.repeats), ("pareto/nbd", 10**5, 1)]
    print(f"{os.cpu_count()} processors, other environments: {', '.join([*has][2:]) or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        for task, n, repeats in plan:
            slow = {"pymc_marketing"} if given.quick or n > 2357 else set()
            if task in given.only and not (given.quick and task == "pareto/nbd"):
                path = Path(folder) / f"{task.replace('/', '-')}-{n}.{'parquet' if task == 'summary' else 'npy'}"
                make(task, n, path)
                pythons = {side: has[side] for side in CODE[task] if side in has and side not in slow}
                compare(pythons, task, n, path, repeats)


if __name__ == "__main__":
    main()
