"""An experiment of many units: one scan beside the bare DuckDB scan, closed form of many segments, and peers.

.venv/bin/python benchmarks/experiments.py [--units 10000000] [--repeats 5] [--peers PYTHON ...]

CPU is of all threads, warm, medians of runs in turn; peak memory is that of a process of its own. A peer runs in an
environment of its own (tea-tasting 1.14 with ibis-framework[duckdb], spotify-confidence, gbstats): give its python.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

WHO = {"unit": "user", "variant": "variant", "control": "a"}
SUMS = ("orders", "revenue", "converted", "sessions", "revenue_pre")
PRODUCTS = (("orders", "sessions"), ("revenue", "revenue_pre"))
PEERS = {
    "tea-tasting": """
import ibis, tea_tasting as tt
table = ibis.read_parquet(path)
metrics = dict(orders=tt.Mean("orders"), revenue=tt.Mean("revenue", covariate="revenue_pre"),
               converted=tt.Mean("converted"), ratio=tt.RatioOfMeans("orders", "sessions"))
work = lambda: tt.Experiment(variant="variant", **metrics).analyze(table, control="a")
""",
    "spotify-confidence": """
import pandas as pd, spotify_confidence as sc
def work():
    data = pd.read_parquet(path)
    data["square"] = data["revenue"] ** 2
    sums = data.groupby("variant").agg(n=("user", "size"), total=("revenue", "sum"), squares=("square", "sum"),
                                       bought=("converted", "sum")).reset_index()
    for name, squares in (("total", "squares"), ("bought", "bought")):
        sc.ZTest(sums, name, squares, "n", categorical_group_columns="variant").difference("a", "b")
""",
    "gbstats": """
from gbstats.models.statistics import SampleMeanStatistic
from gbstats.frequentist.tests import TwoSidedTTest
def work():
    for _ in range(10_000):
        arms = [SampleMeanStatistic(n=1000, sum=s, sum_squares=s * 20.0) for s in (5200.0, 5600.0)]
        TwoSidedTTest(*arms).compute_result()
""",
}


def make(path: Path, units: int) -> None:
    """Users in two variants; revenue of a tenth of them, correlated with that of the time before."""
    import duckdb

    duckdb.sql(f"""COPY (
        SELECT "user", variant, sessions, (buyer * (1 + part))::INT AS orders, buyer AS converted,
               20 * part AS revenue_pre, buyer * (20 * part + exp(2 * other)) AS revenue
        FROM (SELECT i AS "user", CASE WHEN hash(i) % 2 = 0 THEN 'a' ELSE 'b' END AS variant,
                     1 + (hash(i + 1000000007) % 6)::INT AS sessions, (hash(i + 2000000011) % 100 < 9)::INT AS buyer,
                     (hash(i + 3000000019) % 1000000) / 1e6 AS part, (hash(i + 4000000007) % 1000000) / 1e6 AS other
              FROM range({units}) t(i))) TO '{path}' (FORMAT parquet, COMPRESSION zstd)""")


def bare(path: Path) -> Callable[[], object]:
    """The scan that any analysis of these metrics needs: counts, sums, squares and products by variant."""
    import duckdb
    import pandas as pd  # noqa: F401  what any closed form beside it would load, so that memory compares
    import scipy.special  # noqa: F401

    sums = [f"sum({c}), sum({c}::DOUBLE * {c})" for c in SUMS] + [f"sum({a}::DOUBLE * {b})" for a, b in PRODUCTS]
    sql = f"SELECT variant, count(*), {', '.join(sums)} FROM '{path}' GROUP BY variant"
    return lambda: duckdb.sql(sql).fetchall()


def bare_units(path: Path) -> Callable[[], object]:
    """The check that a row is a unit."""
    import duckdb
    import pandas as pd  # noqa: F401
    import scipy.special  # noqa: F401

    return lambda: duckdb.sql(
        f"SELECT count(*), sum(n) FROM (SELECT count(*) n FROM '{path}' GROUP BY \"user\")"
    ).fetchall()


def asked() -> list[Any]:
    from kpi_helpers.experiments import mean, rate, ratio

    return [mean("orders"), mean("revenue", pre="revenue_pre"), rate("converted"), ratio("orders", "sessions")]


def moments(path: Path) -> Callable[[], object]:
    """The same sums by `kpi_helpers`."""
    from kpi_helpers.units import open_units, read_sums

    units = open_units(path, unit=None, variant="variant", metrics=asked())
    return lambda: read_sums(units, asked())


def guards(path: Path) -> Callable[[], object]:
    """The same check by `kpi_helpers`."""
    from kpi_helpers.units import open_units

    return lambda: open_units(path, unit="user", variant="variant", metrics=asked())


def whole(path: Path) -> Callable[[], object]:
    """Everything: units, sums, statistics."""
    from kpi_helpers.experiments import analyse

    return lambda: analyse(path, metrics=asked(), **WHO)


def closed(_: Path) -> Callable[[], object]:
    """1,000 segments by 10 metrics, from their sums: p, interval of the difference, and of the lift."""
    import numpy as np

    from kpi_helpers import contrasts

    rng = np.random.default_rng(1)
    m, v, n = rng.normal(5, 0.1, (2, 10_000)), rng.uniform(50, 60, (2, 10_000)), np.full(10_000, 1000.0)
    return lambda: contrasts.means((m[0], v[0], n), (m[1], v[1], n))


def closed_rates(_: Path) -> Callable[[], object]:
    """The same of rates, whose intervals are searched."""
    import numpy as np

    from kpi_helpers import contrasts

    x = np.random.default_rng(1).binomial(1000, 0.1, (2, 10_000))
    return lambda: contrasts.rates((x[0], 1000), (x[1], 1000))


def segments(_: Path) -> Callable[[], object]:
    """`analyse` of 1,000 segments and 10 metrics, less the time of its queries."""
    import numpy as np
    import pandas as pd

    from kpi_helpers import analyses
    from kpi_helpers.experiments import analyse, mean, rate

    rng, n = np.random.default_rng(1), 40_000
    data = pd.DataFrame(
        {f"m{i}": rng.normal(5, 1, n) for i in range(8)} | {f"r{i}": rng.integers(0, 2, n) for i in (8, 9)}
    )
    data = data.assign(user=range(n), variant=np.tile(["a", "b"], n // 2), segment=rng.integers(0, 1000, n))
    metrics = [mean(f"m{i}") for i in range(8)] + [rate(f"r{i}") for i in (8, 9)]
    read = analyses.open_units, analyses.read_sums
    kept: dict[str, Any] = {}

    def once(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*a: Any, **k: Any) -> Any:
            kept[name] = kept[name] if name in kept else work(*a, **k)
            return kept[name]

        return call

    analyses.open_units, analyses.read_sums = once("units", read[0]), once("sums", read[1])
    return lambda: analyse(data, metrics=metrics, segments=["segment"], **WHO)


WORK = {f.__name__: f for f in (bare, moments, bare_units, guards, whole, closed, closed_rates, segments)}


def peak(name: str, path: Path, repeats: int) -> dict[str, Any]:
    """CPU seconds of each run and peak memory, in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--path", str(path), "--repeats", str(repeats)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def only(name: str, path: Path, repeats: int) -> None:
    """Run one kind of work and print what it took; once first, to warm up."""
    work, taken = WORK[name](path), []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    told = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's pages too
    (most,) = (line for line in told if line.startswith("VmHWM"))
    print(json.dumps({"cpu": taken[1:], "mb": int(most.split()[1]) / 1024}))


def paired(name: str, base: str, path: Path, repeats: int) -> str:
    """Both in one process in turn for CPU, each in its own for memory."""
    works, taken = (WORK[name](path), WORK[base](path)), ([], [])  # type: tuple[Any, ...], tuple[list[float], list[float]]
    for run in range(repeats + 1):
        for work, cpu in zip(works, taken, strict=True):
            start = time.process_time()
            work()
            if run:
                cpu.append(time.process_time() - start)
    ratio = median(a / b for a, b in zip(*taken, strict=True))
    memory = [peak(each, path, 2)["mb"] for each in (name, base)]
    return (f"{name}: CPU {median(taken[0]):.3f} s, {base} {median(taken[1]):.3f} s, ratio {ratio:.2f}; "
            f"peak {memory[0]:.0f} MB, {base} {memory[1]:.0f} MB, {memory[0] - memory[1]:+.0f} MB")  # fmt: skip


def peer(python: str, path: Path) -> str:
    """CPU of the peers that an environment has, with that of their import left out."""
    told = []
    for name, code in PEERS.items():
        run = (f"import time\npath = {str(path)!r}\n{code}\nwork()\nstart = time.process_time()\nwork()\n"
               "print(time.process_time() - start)")  # fmt: skip
        done = subprocess.run([python, "-W", "ignore", "-c", run], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            told.append(f"{name}: CPU {float(done.stdout.split()[-1]):.3f} s")
        elif "ModuleNotFoundError" not in done.stderr:
            told.append(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return "; ".join(told) or f"{python} has none of {', '.join(PEERS)}"


def main() -> None:
    """Print one line a comparison."""
    asks = argparse.ArgumentParser(description=__doc__)
    asks.add_argument("--units", type=int, default=10_000_000)
    asks.add_argument("--repeats", type=int, default=5)
    asks.add_argument("--peers", nargs="*", default=[])
    asks.add_argument("--only", help=argparse.SUPPRESS)
    asks.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = asks.parse_args()
    if given.only:
        return only(given.only, given.path, given.repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = given.path or Path(folder) / "units.parquet"
        if not path.exists():
            make(path, given.units)
        print(f"{given.units:,} units, {path.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} processors")
        print(paired("moments", "bare", path, given.repeats))
        print(paired("guards", "bare_units", path, given.repeats))
        print(paired("whole", "bare", path, given.repeats))
        for name in ("closed", "closed_rates", "segments"):
            print(f"{name}, 10,000 comparisons: CPU {median(peak(name, path, given.repeats)['cpu']):.3f} s")
        for python in given.peers:
            print(peer(python, path))
    return None


if __name__ == "__main__":
    main()
