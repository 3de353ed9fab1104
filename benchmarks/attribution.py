"""Attribution beside ChannelAttribution, marketing-attribution-models and bare work; from touches; beside the truth.

.venv/bin/python benchmarks/attribution.py --peers PYTHON [--sizes 10000:10 100000:20] [--repeats 5] [--quick] [--all]

Paths: all sides get one table of different paths (N:K, paths and channels) in memory and take turns, each in a process
of its own, warm; a ratio is the median over the turns. CPU is of all threads; memory is what a process grew by at its
peak. Above 100,000 paths a peer has one turn, and marketing-attribution-models (minutes and 6 GB) only with `--all`;
`--quick` leaves out all peers there. Touches: what all models add to the one pass over raw touches. Truth: worlds of
`tests/ad_worlds.py`, where the true effect of each channel is known. Peers need an environment (CONTRIBUTING.md).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

MODELS = ("first", "last", "last_non_direct", "linear", "position", "time_decay", "markov", "shapley", "hazard")
RULES = ("first", "last", "linear")
READ = "path='path', conversions='won', nulls='lost', value='value'"
MAM = "marketing_attribution_models"
PEERS = {"ChannelAttribution": "ChannelAttribution", MAM: "mam"}  # distribution: module
FEWEST = {"ChannelAttribution": {"markov 1": 5, "cached": 25, "markov 2": 1, "markov 3": 1}, MAM: {"markov 1": 10}}
OURS = f"""
from kpi_helpers.attribution import attribute, from_paths, markov, shapley
read = lambda table: from_paths(table, {READ})
"""
CHAIN = OURS + "work = lambda table: markov(read(table), order={}).shares\n"
CA = """
import ChannelAttribution as ca
told = dict(var_path='path', var_conv='won', var_value='value', flg_pro=False)
def shares(frame, column='total_conversions', before=''):
    return dict(zip(before + frame['channel_name'].astype(str), frame[column] / frame[column].sum()))
"""
CA_CHAIN = CA + "work = lambda table: shares(ca.markov_model(table, var_null='lost', order={}, **told))\n"
GROUPED = """
import polars as pl
from mam import MAM
def prepare(table):  # a row for what converted, a row for what did not, as it wants them
    rows = [pl.DataFrame({'path': table['path'].to_list(), 'conversion': won, 'times': table[column].to_numpy()})
            for won, column in ((True, 'won'), (False, 'lost'))]
    return pl.concat(rows).filter(pl.col('times') > 0)
def read(table):
    return MAM(table, 'grouped_journey', 'path', 'conversion', occurrences_colname='times')
def shares(told, before=''):
    rows = told.to_pandas()
    return dict(zip(before + rows['channels'].astype(str), rows['attribution'] / rows['attribution'].sum()))
"""
CODE = {  # task: side: `prepare` (not timed) and `work`, whose shares are compared with ours (bare work has none)
    "rules": {"ours": OURS + f"""
def work(table):
    rows = attribute(read(table), {RULES}, confidence=None).to_frame()
    return dict(zip(rows['model'] + ' ' + rows['channel'], rows['share']))
""", "ChannelAttribution": CA + f"""
def work(table):
    rows, parts = ca.heuristic_models(table, **told), {{}}
    for model, column in zip({RULES}, ('first_touch', 'last_touch', 'linear_touch')):
        parts |= shares(rows, column + '_conversions', model + ' ')
    return parts
""", MAM: GROUPED + f"""
def work(table):
    read_in = read(table)
    ran = zip({RULES}, (read_in.run_first_click(), read_in.run_last_click(), read_in.run_linear()))
    return {{key: share for model, told in ran for key, share in shares(told, model + ' ').items()}}
"""},
    "markov 1": {"ours": CHAIN.format(1), "cached": OURS + "prepare, work = read, lambda paths: markov(paths).shares",
                 "bare": """
import pyarrow as pa, pyarrow.compute as pc
def work(table):
    text = pa.Table.from_pandas(table[['path']])['path']  # a large frame comes in chunks
    split = pc.split_pattern(text.cast(pa.large_string()).combine_chunks(), ' > ')
    coded = split.flatten().dictionary_encode()
    codes, ends = coded.indices.to_numpy(), split.offsets.to_numpy()
    whole, k = np.repeat((table['won'] + table['lost']).to_numpy(float), np.diff(ends)), len(coded.dictionary)
    np.bincount(codes[:-1] * k + codes[1:], whole[:-1], k * k)
    return {}
""", "ChannelAttribution": CA_CHAIN.format(1), MAM: GROUPED + "work = lambda table: shares(read(table).run_markov())"},
    "markov 2": {"ours": CHAIN.format(2), "ChannelAttribution": CA_CHAIN.format(2)},
    "markov 3": {"ours": CHAIN.format(3), "ChannelAttribution": CA_CHAIN.format(3)},
    "shapley": {"ours": OURS + """
def work(table):
    rows = shapley(read(table)).to_frame()
    return dict(zip(rows['channel'], rows['share']))
""", MAM: GROUPED + "work = lambda table: shares(read(table).run_shapley())"},
    "effects": {"ours": OURS + "work = lambda table: markov(read(table)).removal_effects",
                "ChannelAttribution": CA + """
def work(table):
    told_more = ca.markov_model(table, var_null='lost', out_more=True, **told)
    rows = told_more['removal_effects'] if isinstance(told_more, dict) else told_more[2]
    return dict(zip(rows.iloc[:, 0].astype(str), rows.iloc[:, 1]))
""", MAM: GROUPED + "work = lambda t: read(t).run_markov().metadata['removal_effect']['removal_effect'].to_dict()"},
    "touches": {"ours": f"""
from kpi_helpers.attribution import attribute, read_journeys
people = int(pd.read_parquet(path + '/orders.parquet')['people'].iloc[0])
def work(folder):
    begun = time.perf_counter(), time.process_time()
    journeys = read_journeys(folder + '/touches.parquet', folder + '/orders.parquet', people=people)
    taken = time.perf_counter() - begun[0], time.process_time() - begun[1]
    rows = attribute(journeys, {MODELS}, confidence=None).to_frame()
    return {{'pass clock': taken[0], 'pass CPU': taken[1], 'models': rows['model'].nunique()}}
"""},
}  # fmt: skip
SERVE = """
import json, os, sys, time, warnings
import numpy as np, pandas as pd, pyarrow
warnings.simplefilter("ignore")
path, calls, code = sys.argv[1], int(sys.argv[2]), sys.argv[3]
tell = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # prints of peers
prepare = lambda table: table
memory = lambda of: int(open("/proc/self/status").read().split(of + ":")[1].split()[0]) / 1024
exec(code)
if path.endswith("parquet"):
    table = pd.read_parquet(path)
    work(prepare(table.head(1000).copy()))
    ready = prepare(table)
else:
    ready = path
pyarrow.default_memory_pool().release_unused()
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = memory("VmRSS")
for _ in sys.stdin:  # one turn a line
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(calls):
        answer = work(ready)
    taken = [(time.process_time() - cpu) / calls, (time.perf_counter() - clock) / calls]
    answer = {key: float(value) for key, value in answer.items()}
    print(json.dumps([*taken, memory("VmHWM") - before, answer]), file=tell, flush=True)
"""


def make_paths(n: int, k: int, path: Path) -> None:
    """Write `n` different paths of up to 20 of `k` channels, some more common than others and some that convert."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    common = 1 / np.sqrt(np.arange(1, k + 1))
    lengths = 1 + rng.binomial(19, 0.42, int(n * 1.2) + 100)
    codes = rng.choice(k, lengths.sum(), p=common / common.sum()).astype(np.int32)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    steps = pa.array([f"ch{i + 1}" for i in range(k)], pa.string()).take(pa.array(codes))
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array(begins, pa.int32()), steps), " > ").to_numpy(
        zero_copy_only=False
    )
    first = np.sort(np.unique(text, return_index=True)[1])[:n]
    drawn, pull = rng.geometric(0.4, len(text)), np.add.reduceat(rng.uniform(0, 0.04, k)[codes], begins[:-1])
    won = rng.binomial(drawn, np.minimum(pull, 0.9))
    worth = np.round(won * rng.gamma(4, 12, len(text)), 2)
    told = {"path": text, "won": won, "lost": drawn - won, "value": worth}
    pq.write_table(pa.table({name: column[first] for name, column in told.items()}), path)
    if len(first) < n:
        raise SystemExit(f"There are only {len(first):,} different paths of {k} channels.")


def make_touches(n: int, folder: Path) -> None:
    """Write `n` touches of n / 7 people in 20 channels and 60 days in no order, and orders of 3 % of the people."""
    import duckdb

    people = n // 7
    drawn = "(hash(i * 10 + {}) % 1000003) / 1000003"
    at = "TIMESTAMP '2026-01-01' + to_seconds((hash(i * 10 + {}) % (60 * 86400))::BIGINT)"
    duckdb.execute(f"""COPY (
        SELECT (hash(i) % {people})::BIGINT AS customer_id, {at.format(1)} AS touched_at,
               'ch' || (1 + floor(20 * pow({drawn.format(2)}, 1.5)))::INT AS channel FROM range({n}) t(i)
        ) TO '{folder}/touches.parquet' (FORMAT parquet, COMPRESSION zstd)""")
    duckdb.execute(f"""COPY (
        SELECT customer_id, {at.format(3)} AS ordered_at, round(20 + 80 * {drawn.format(4)}, 2) AS revenue,
               {people} AS people
        FROM (SELECT customer_id, customer_id * 5 + nth AS i FROM range({people}) p(customer_id), range(3) o(nth)
              WHERE hash(customer_id + 77) % 1000 < 30 AND hash(customer_id * 3 + nth + 7) % 5 < CASE nth WHEN 0 THEN 5
              ELSE 1 END)) TO '{folder}/orders.parquet' (FORMAT parquet, COMPRESSION zstd)""")


def ask(pythons: dict[str, str], task: str, path: Path, repeats: int, *, calls: int = 1, once: Any = ()) -> Any:
    """CPU, clock, growth of memory and answer of each turn of each side; those of `once` have the last turn only."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # idle threads would count as work
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    asked = {s: [p, "-c", SERVE, str(path), str(calls), CODE[task][s]] for s, p in pythons.items()}
    sides = {s: subprocess.Popen(command, **pipes) for s, command in asked.items()}
    told: dict[str, list[Any]] = {side: [] for side in sides}
    for turn in range(repeats + (repeats > 1)):  # the first to warm up, unless there is one only
        for side, process in sides.items():
            if turn == repeats - (repeats == 1) or side not in once:
                try:
                    print("go", file=process.stdin, flush=True)
                    told[side].append(json.loads(process.stdout.readline()))
                except (BrokenPipeError, json.JSONDecodeError):  # what it died of is on the screen
                    once = {*once, side}
    for process in sides.values():
        process.communicate()
    return {side: rows[-repeats:] for side, rows in told.items() if rows}


def compare(pythons: dict[str, str], task: str, n: int, k: int, path: Path, repeats: int) -> None:
    """Print a line a side."""
    once = {*PEERS} if n > 10**5 else ()
    told = ask(pythons, task, path, repeats, calls=max(1, 50_000 // n), once=once)
    print(f"{task}, {n:,} paths of {k} channels")
    for side, rows in told.items():
        cpu, clock = (median(row[i] for row in rows) for i in range(2))
        line = f"  {side:29}CPU {cpu:8.3f} s, clock {clock:8.3f} s, grew {max(row[2] for row in rows):6.0f} MB"
        for base in ("ours", "cached") if side in PEERS else ("ours",) * (side != "ours"):
            if base in told:
                pairs = [*zip(rows, told[base][-len(rows) :], strict=True)]
                times = [median(a[i] / b[i] for a, b in pairs) for i in (0, 1)]
                goal = FEWEST.get(side, {}).get(task if base == "ours" else base)
                line += f"; {times[0]:.2f} / {times[1]:.2f} times {base}" + (f" (goal {goal})" if goal else "")
        found, ours = rows[-1][3], told["ours"][-1][3]
        if side in PEERS and found:
            apart = sum(abs(found.get(key, 0) - share) for key, share in ours.items()) / 2 / sum(ours.values())
            line += f"; {apart:.1%} of the credit elsewhere"
        print(line, flush=True)


def effects(pythons: dict[str, str], n: int, k: int, path: Path) -> None:
    """Print what a channel's removal costs. Ours is exact; ChannelAttribution simulates, and by default counts as lost
    what it simulates longer than the longest path of the table: with max_step=1000 most of its distance is gone."""
    told = {side: rows[0][3] for side, rows in ask(pythons, "effects", path, 1).items()}
    print(f"Removal effects, {n:,} paths of {k} channels\n  " + "".join(f"{name:>30}" for name in ("", *told)))
    for channel in sorted(told["ours"], key=told["ours"].get, reverse=True):
        print("  " + f"{channel:>30}" + "".join(f"{found.get(channel, np.nan):30.6f}" for found in told.values()))
    for side, found in told.items():
        print(f"  {side}: at most {max(abs(found.get(c, 0) / ours - 1) for c, ours in told['ours'].items()):.1e} off")


def touches(n: int, folder: Path, repeats: int) -> None:
    """Print the one pass over raw touches and what all the models add to it."""
    make_touches(n, folder)
    rows = ask({"ours": sys.executable}, "touches", folder, repeats)["ours"]
    print(f"touches, {n:,} raw (goal: 1.3 times the pass)")
    for name, i in (("CPU", 0), ("clock", 1)):
        once = median(row[3][f"pass {name}"] for row in rows)
        whole, times = median(row[i] for row in rows), median(row[i] / row[3][f"pass {name}"] for row in rows)
        print(f"  {name:5} pass {once:.2f} s, with {rows[0][3]['models']:.0f} models {whole:.2f} s: {times:.3f} times")
    print(f"  grew {max(row[2] for row in rows):.0f} MB", flush=True)


def truth(people: int, seeds: list[int]) -> None:
    """Print how far each model is from the known effects."""
    from kpi_helpers.attribution import attribute, read_journeys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import ad_worlds

    told: dict[str, dict[str, list[tuple[float, ...]]]] = {model: {} for model in MODELS}
    for scenario in ad_worlds.SCENARIOS:
        for seed in seeds:
            world = ad_worlds.simulate(scenario, people=people, seed=seed)
            true = world.incremental / world.incremental.sum()
            journeys = read_journeys(world.touchpoints, world.conversions, people=people)
            for model, part in attribute(journeys, MODELS, confidence=None).to_frame().groupby("model"):
                part = part.set_index("channel").reindex(true.index).fillna({"conversions": 0.0, "share": 0.0})
                far, over = (part["share"] - true).abs().sum() / 2, part["conversions"].sum() / world.incremental.sum()
                told[model].setdefault(scenario, []).append((far, over, part["share"][["brand", "coupon"]].sum()))
    print(
        f"truth, {people:,} people, seeds {seeds}: share error, mean (worst); over-claim; share of brand + coupon (0)"
    )
    print(f"  {'':16}" + "".join(f"{scenario:>27}" for scenario in ad_worlds.SCENARIOS))
    for model, by_scenario in told.items():
        line = f"  {model:16}"
        for rows in by_scenario.values():
            far, over, none = zip(*rows, strict=True)
            line += f"{mean(far):9.3f} ({max(far):.3f}) {mean(over):4.2f} {mean(none):5.1%}"
        print(line)


def main() -> None:
    """Print each comparison."""
    asks = argparse.ArgumentParser(description=__doc__)
    asks.add_argument("--sizes", nargs="*", default=["10000:10", "100000:20", "1000000:50"])
    asks.add_argument("--touches", type=int, default=10**7)
    asks.add_argument("--people", type=int, default=40_000)
    asks.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    asks.add_argument("--repeats", type=int, default=5)
    asks.add_argument("--peers", nargs="*", default=[])
    asks.add_argument("--quick", action="store_true")
    asks.add_argument("--all", action="store_true")
    asks.add_argument("--only", nargs="*", default=[*CODE, "truth"])
    given, has = asks.parse_args(), dict.fromkeys(("ours", "cached", "bare"), sys.executable)
    for python, (name, module) in ((p, peer) for p in given.peers for peer in PEERS.items()):
        asked = f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)"
        has |= {name: python} if subprocess.run([python, "-c", asked], check=False).returncode == 0 else {}
    print(f"{os.cpu_count()} processors, other environments: {', '.join([*has][3:]) or 'none'}; CPU / clock")
    with tempfile.TemporaryDirectory() as folder:
        for n, k in (map(int, size.split(":")) for size in given.sizes):
            path = Path(folder) / f"{n}.parquet"
            tasks = [task for task in CODE if task in given.only and task != "touches"]
            if tasks:
                make_paths(n, k, path)
            for task in tasks:
                slow = {*PEERS} if given.quick else set() if given.all else {MAM}
                pythons = {s: has[s] for s in CODE[task] if s in has and (n <= 10**5 or s not in slow)}
                if task != "effects":
                    compare(pythons, task, n, k, path, given.repeats)
                elif n <= 10**5:
                    effects(pythons, n, k, path)
        if "touches" in given.only:
            touches(given.touches, Path(folder), min(given.repeats, 3))
    if "truth" in given.only:
        truth(given.people, given.seeds)


if __name__ == "__main__":
    main()
