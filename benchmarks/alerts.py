"""Our detector beside common rules on simulated daily KPIs, and on the ad-exchange series of NAB.

.venv/bin/python benchmarks/alerts.py [SERIES] [FOLDER OF NAB-AD-EXCHANGE]

The rules are those of the table from which the targets come: means and deviations as dbt-elementary takes them, medians
of the same weekday, STL refitted every week with a CUSUM. Series are those of tests/daily_worlds.py, one and two events
of each kind, and none. NAB is hourly: one value is an hour there, the day is the season.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.tsa.seasonal import STL

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from daily_worlds import score, world

from kpi_helpers.monitors import detect

#: window recall, false events a week, event precision on 17 series (these six, tweets, taxi) from NAB's own results
NAB = {
    "windowedGaussian (NAB, 17 series)": (0.75, 0.54, 0.32), "Twitter ADVec (NAB, 17 series)": (0.71, 0.52, 0.32),
    "Numenta HTM (NAB, 17 series)": (0.77, 0.37, 0.41),
}  # fmt: skip


def ours(y: np.ndarray, **options) -> np.ndarray:
    return detect(y, **options)["position"].to_numpy()


def lately(y: np.ndarray, days: int, limit: float = 3) -> np.ndarray:
    """Beyond so many standard deviations of the days before."""
    past = pd.Series(y).shift().rolling(days)
    return np.flatnonzero(abs(y - past.mean()) > limit * past.std())


def weekday(y: np.ndarray, weeks: int = 8) -> np.ndarray:
    """Beyond three standard deviations of the same weekday."""
    past = np.stack([np.append(np.full(7 * k, np.nan), y[: -7 * k]) for k in range(1, weeks + 1)])
    return np.flatnonzero(abs(y - past.mean(0)) > 3 * past.std(0, ddof=1))


def medians(y: np.ndarray, limit: float, weeks: int = 8) -> np.ndarray:
    """Far from the median of the same weekday, in absolute deviations pooled over weekdays."""
    x, found = np.log(np.maximum(y, 0.5)), []
    for t in range(7 * weeks, len(x)):
        past = x[t - 7 * weeks : t].reshape(weeks, 7)
        middle = np.median(past, axis=0)
        if abs(x[t] - middle[0]) > limit * 1.4826 * np.median(abs(past - middle)):
            found.append(t)
    return np.array(found)


def stl(y: np.ndarray, limit: float = 4.5, slack: float = 0.75, height: float = 6) -> np.ndarray:
    """STL refitted every week, median level; CUSUM on the level of 35 days."""
    x, found, sums = np.log(np.maximum(y, 0.5)), [], [0.0, 0.0]
    for t in range(56, len(x)):
        if t % 7 == 0:
            fit = STL(x[:t], period=7, robust=True, seasonal=13).fit()
            free = x[:t] - fit.seasonal
            noise = 1.4826 * float((free - pd.Series(free).rolling(14).median().shift()).abs().median())
        value = x[t] - fit.seasonal[t % 7 - 7]
        far, slow = (value - np.median(free[-n:]) for n in (14, 35))
        free = np.append(free, value)
        sums = [max(0, s + side * np.clip(slow / noise, -3, 3) - slack) for s, side in zip(sums, (1, -1), strict=True)]
        if abs(far) > limit * noise or max(sums) > height:
            found.append(t)
            sums = [0.0, 0.0] if max(sums) > height else sums
    return np.array(found)


RULES = {
    "ours, 0.02 stated": ours,
    "mean 14 d, 3 sd": lambda y: lately(y, 14),
    "mean 28 d, 3 sd": lambda y: lately(y, 28),
    "weekday mean, 3 sd": weekday,
    "weekday median, MAD 3.5": lambda y: medians(y, 3.5),
    "weekday median, MAD 4.5": lambda y: medians(y, 4.5),
    "STL MAD 4.5 + CUSUM": stl,
}


def simulated(n: int) -> None:
    """Print a table for each number of events of a kind."""
    for each in (1, 2, 0):
        worlds, rows = [world(seed, each=each) for seed in range(10_000, 10_000 + n)], {}
        for name, rule in RULES.items():
            begin = time.process_time()
            found = [rule(w.values) for w in worlds]
            rows[name] = score(worlds, found)
            rows[name]["ms a series"] = (time.process_time() - begin) * 1000 / n
        print(f"\n{n} series, {each} of each kind\n{pd.DataFrame(rows).T.round(3).to_string()}")


def nab(folder: Path) -> None:
    """Windows hit, false events a week, share of events in a window; alarms within 24 hours are one event."""
    windows = json.loads((folder / "ad_exchange_labels.json").read_text())["windows"]
    rows = {}
    hourly = {f"ours, {rate} hours a week stated": rate for rate in (0.1, 0.5, 2.0)}
    rules = {name: lambda y, r=r: ours(y, season=24, false_alarms_per_week=r / 24) for name, r in hourly.items()}
    rules |= {"mean 7 d, 3 sd": lambda y: lately(y, 168), "mean 7 d, 5 sd": lambda y: lately(y, 168, 5)}
    for name, rule in rules.items():
        hit, of, good, bad, weeks = 0, 0, 0, 0, 0.0
        for file, spans in windows.items():
            table = pd.read_csv(folder / Path(file).name, parse_dates=["timestamp"])
            skip = min(int(0.15 * len(table)), 750)
            at = table["timestamp"].iloc[[p for p in rule(table["value"].to_numpy()) if p >= skip]]
            events = at[at.diff().isna() | (at.diff() > pd.Timedelta("24h"))]
            spans = [(pd.Timestamp(a), pd.Timestamp(b)) for a, b in spans]
            inside = [any(a <= e <= b for a, b in spans) for e in events]
            hit, of = hit + sum(bool(((at >= a) & (at <= b)).any()) for a, b in spans), of + len(spans)
            good, bad = good + sum(inside), bad + len(inside) - sum(inside)
            weeks += (len(table) - skip) / 168
        rows[name] = hit / of, bad / weeks, good / max(good + bad, 1)
    told = pd.DataFrame(rows | NAB, index=["window recall", "false events/week", "event precision"]).T
    print(f"\nNAB ad exchange, {of} windows\n{told.round(2).to_string()}")


if __name__ == "__main__":
    simulated(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2] / "shared/data/nab-ad-exchange"
    if place.is_dir():
        nab(place)
