"""Our forecast beside other libraries on real series: accuracy, coverage, odds, and CPU as a ratio to one of them.

    .venv/bin/python benchmarks/forecasts.py [--peers PEERS/bin/python] [--every 4]

Needs ../shared/data/forecast-dev. Libraries that do not work with our pandas live in an environment of their own
(CONTRIBUTING.md) and are run by its interpreter; without it, only ours and those of statsmodels. The reference is
statsmodels' ETS in the same process: additive, damped, with the season of days and months, without it for weeks.
Our CPU includes all past forecasts that calibrate the intervals.
"""

import argparse
import json
import os
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "forecast-dev"
#: file, longest season that we consider, season of the peers and of the scale of MASE and MSIS
FILES = {"monthly": ("tourism_monthly", 12, 12), "daily": ("nn5_daily", 7, 7), "weekly": ("m4_weekly", 52, 1)}
ODDS = (0.8, 0.5, 0.2)
SHOWN = {"mase": 3, "smape": 1, "msis": 2, "c80": 3, "c95": 3, "total": 3}


def windows(name, back=0, folder=DATA):
    """(train, test) of each series: the official split, or `back` windows before it, of the same length.

    A window is left out where less than four seasons and 30 periods lie before it or 30 % of it are missing.
    """
    rows, m = pd.read_csv(folder / f"{FILES[name][0]}.csv.gz"), FILES[name][2]
    for _, one in rows.groupby("series", sort=False):
        y, h = one["value"].to_numpy(dtype=float), int((one["split"] == "test").sum())
        end = len(y) - back * h
        test = y[end - h : end] if end > h else y[:0]
        if back == 0 or (end - h >= 4 * m + 30 and np.isfinite(test).sum() >= 0.7 * h):
            yield y[: end - h], test


def score(train, test, m, told):
    """Metrics of one forecast `told`: mean, (low, high) of 80 % and of 95 %. Missing test periods are left out."""
    mean, (low, high), (least, most) = told
    known, scale = np.isfinite(test), np.nanmean(np.abs(train[m:] - train[:-m]))
    outside = np.maximum(least - test, 0) + np.maximum(test - most, 0)
    return {
        "mase": np.nanmean(np.abs(test - mean)) / scale,
        "smape": 200 * np.nanmean(np.abs(test - mean) / (np.abs(test) + np.abs(mean))),
        "msis": np.nanmean(most - least + 40 * outside) / scale,
        "c80": ((low <= test) & (test <= high))[known].mean(),
        "c95": ((least <= test) & (test <= most))[known].mean(),
        "total": abs((mean - test)[known].sum()) / test[known].sum(),
    }


def ours(train, season, horizon):
    """Our forecast."""
    from kpi_helpers.baselines import forecast

    return forecast(train, season=season, horizon=horizon)


def met(told, test):
    """Whether targets that our forecast `told` sets at each of the `ODDS` were met by the known periods."""
    known = np.isfinite(test)
    return (test[known].sum() >= told.whole(known).quantile(1 - np.array(ODDS))).tolist()


def naive(train, m, horizon):
    """The bare limit: the value of one season ago, and quantiles of its past misses."""
    y, back = filled(train, m), m * -(-np.arange(1, horizon + 1) // m)
    mean = y[len(y) + np.arange(horizon) - back]
    missed = {k: y[k:] - y[:-k] for k in np.unique(back)}
    return mean, *(
        tuple(mean + [np.quantile(missed[k], (1 + side * p) / 2) for k in back] for side in (-1, 1))
        for p in (0.8, 0.95)
    )


def filled(y, m):
    """Gaps filled for libraries that take none: the median of the same season before and after."""
    out = y.copy()
    for i in np.flatnonzero(np.isnan(y)):
        near = [y[j] for j in (i - 2 * m, i - m, i + m, i + 2 * m) if 0 <= j < len(y) and np.isfinite(y[j])]
        out[i] = np.median(near) if near else np.nanmedian(y)
    return out


def ets(train, m, horizon):
    """Additive damped ETS of statsmodels, the reference."""
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    season = {"seasonal": "add", "seasonal_periods": m} if m > 1 else {}
    model = ETSModel(pd.Series(filled(train, m)), trend="add", damped_trend=True, **season)
    told = model.fit(disp=False).get_prediction(start=len(train), end=len(train) + horizon - 1)
    return told.predicted_mean.to_numpy(), *(_ends(told, p) for p in (0.8, 0.95))


def _ends(told, level):
    return tuple(told.pred_int(alpha=1 - level).to_numpy().T)


def stl_ets(train, m, horizon):
    """STL and ETS of statsmodels; it has no weekly variant without a season, so weeks take 52."""
    from statsmodels.tsa.api import STLForecast
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    m = m if m > 1 else 52
    if len(train) <= 2 * m:
        return ets(train, 1, horizon)
    model = {"trend": "add", "damped_trend": True}
    fitted = STLForecast(pd.Series(filled(train, m)), ETSModel, model_kwargs=model, period=m).fit(
        fit_kwargs={"disp": False}
    )
    told = fitted.get_prediction(start=len(train), end=len(train) + horizon - 1)
    frames = [told.summary_frame(alpha=1 - p) for p in (0.8, 0.95)]
    ends = [tuple(f[k].to_numpy() for k in ("mean_ci_lower", "mean_ci_upper")) for f in frames]
    return frames[0]["mean"].to_numpy(), *ends


def of_statsforecast(name):
    """AutoETS, AutoTheta or MSTL of statsforecast; MSTL takes a year for weeks, where it was seen twice."""

    def run(train, m, horizon):
        from statsforecast import models

        season = 52 if name == "MSTL" and m == 1 else m
        seen = len(train) > 2 * season or name != "MSTL"
        model = getattr(models, name)(season_length=season) if seen else models.AutoETS(season_length=1)
        told = model.forecast(y=filled(train, m), h=horizon, level=[80, 95])
        return told["mean"], (told["lo-80"], told["hi-80"]), (told["lo-95"], told["hi-95"])

    return run


STATSMODELS = {"statsmodels ETS": ets, "statsmodels STL+ETS": stl_ets}
PEERS = {f"statsforecast {n}": of_statsforecast(n) for n in ("AutoETS", "AutoTheta", "MSTL")}


def measured(name, run, every=1):
    """Mean metrics of a forecaster on the official split of a file, and CPU in ms a series."""
    m, rows, spent = FILES[name][2], [], 0.0
    for train, test in list(windows(name))[::every]:
        begun = time.process_time()
        told = run(train, m, len(test))
        spent += time.process_time() - begun
        rows.append(score(train, test, m, told))
    return {**pd.DataFrame(rows).mean().to_dict(), "cpu": 1e3 * spent / len(rows), "n": len(rows)}


def compared(forecasters, every):
    """File -> forecaster -> metrics, CPU as a ratio to the ETS of this process."""
    found = {}
    for name in FILES:
        for run in forecasters.values():  # the first call loads libraries
            run(*next(iter((train, FILES[name][2], len(test)) for train, test in windows(name))))
        rows = {label: measured(name, run, every) for label, run in forecasters.items()}
        unit = rows["statsmodels ETS"]["cpu"]
        found[name] = {label: {**row, "cpu": row["cpu"] / unit} for label, row in rows.items()}
    return found


def as_peer(train, m, horizon):
    """Our forecast in the form of the peers."""
    told = ours(train, next(longest for _, longest, season in FILES.values() if season == m), horizon)
    return told.mean, told.interval(0.8), told.interval(0.95)


def odds_table(every, backs=range(5)):
    """Share of targets that were met: a row for each file over the windows `backs`, and for the official split."""
    shares, last = {}, []
    for name, (_, season, _) in FILES.items():
        rows = []
        for back in backs:
            for train, test in list(windows(name, back))[::every]:
                rows.append(met(ours(train, season, len(test)), test))
            last += rows if back == 0 else []
        shares[f"{name}, {len(backs)} windows"] = np.array(rows)
    shares["all three, official split"] = np.array(last)
    return {label: (len(rows), *rows.mean(axis=0)) for label, rows in shares.items()}


def main():
    """Print both tables."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--peers", help="interpreter of an environment with statsforecast")
    asked.add_argument("--every", type=int, default=1, help="only each n-th series")
    asked.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)
    told = asked.parse_args()
    warnings.filterwarnings("ignore")  # the optimisers of the peers
    if told.as_json:
        print(json.dumps(compared({"statsmodels ETS": ets, **PEERS}, told.every)))
        return
    found = compared({"kpi_helpers": as_peer, "seasonal naive (bare limit)": naive, **STATSMODELS}, told.every)
    if told.peers:
        command = [told.peers, __file__, "--as-json", "--every", str(told.every)]
        other = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for name, rows in other.items():
            found[name] |= {label: row for label, row in rows.items() if label in PEERS}
    for name, rows in found.items():
        print(f"\n{name:29}" + "".join(f"{k:>8}" for k in (*SHOWN, "CPU", "n")))
        for label, row in rows.items():
            cells = "".join(f"{row[k]:8.{d}f}" for k, d in SHOWN.items())
            print(f"{label:29}{cells}{row['cpu']:8.2f}{row['n']:8}")
    print(f"\n{'targets met at odds of':29}" + "".join(f"{p:8.0%}" for p in ODDS) + f"{'n':>8}")
    for label, (n, *shares) in odds_table(told.every).items():
        print(f"{label:29}" + "".join(f"{s:8.3f}" for s in shares) + f"{n:8}")


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1"}
    main()
