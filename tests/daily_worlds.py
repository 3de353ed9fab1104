"""Daily KPIs with events planted in them: weekly pattern, drift, noise that lasts, heavy tails, counts.

As in the comparison of detectors that the targets come from: counts (negative binomial) of 40 to 5,000 a day, 420 days
of which the last 300 are scored.
"""

from typing import NamedTuple

import numpy as np

DAYS, SCORED = 420, 300
#: kind -> days that it lasts (low, high), factor (low, high)
EVENTS = {"gap": (1, 3, 0.0, 0.3), "spike": (1, 1, 1.5, 2.5), "dip": (1, 2, 0.55, 0.75), "shift": (14, 14, 0.78, 0.88)}


class Series(NamedTuple):
    """A series of `values` and its events: (kind, first day, day after the last)."""

    values: np.ndarray
    events: list[tuple[str, int, int]]


class Score(NamedTuple):
    """Share of events hit, and of each kind; share of alarm days that lie in events; other alarm days a week."""

    recall: float
    by_kind: dict[str, float]
    precision: float
    false_a_week: float


def simulate(
    seed, *, clean=False, noise=(0.03, 0.08), carry=(0.2, 0.6), weekly=0.2, drift=0.0015, per_kind=1, size=300.0, df=5
):
    """One series; `noise`, `carry`: ranges of the spread of shocks and of what stays of them; `size`: of the counts."""
    rng, t = np.random.default_rng(seed), np.arange(DAYS)
    base, week = np.exp(rng.uniform(np.log(40), np.log(5000))), rng.normal(0, weekly, 7)
    slow = rng.normal(0, drift) * t + np.cumsum(rng.normal(0, drift, DAYS))
    sd, phi, lasting = rng.uniform(*noise), rng.uniform(*carry), np.zeros(DAYS)
    shocks = sd * rng.standard_t(df, DAYS) / np.sqrt(df / (df - 2))
    for i in range(1, DAYS):
        lasting[i] = phi * lasting[i - 1] + shocks[i] * np.sqrt(1 - phi**2)
    mean = base * np.exp(week[t % 7] - np.log(np.exp(week).mean()) + slow + lasting)
    events, free = [], t >= DAYS - SCORED + 7
    for kind in () if clean else [k for k in ("shift", "gap", "spike", "dip") for _ in range(per_kind)]:
        low, high, least, most = EVENTS[kind]
        n = int(rng.integers(low, high + 1))
        places = [i for i in range(DAYS - SCORED + 7, DAYS - n - 7) if free[i - 7 : i + n + 7].all()]
        if places:
            i = int(rng.choice(places))
            mean[i : i + n] *= rng.uniform(least, most, n) if kind == "gap" else rng.uniform(least, most)
            free[i - 7 : i + n + 7] = False
            events.append((kind, i, i + n))
    size = rng.uniform(size / 2, 2 * size)
    return Series(rng.negative_binomial(size, size / (size + mean)).astype(float), sorted(events, key=lambda e: e[1]))


def score(detect, seeds, **world):
    """Score a detector, values -> positions of alarms, on worlds of these seeds."""
    hits, good, bad, normal = [], 0, 0, 0
    for seed in seeds:
        values, events = simulate(seed, **world)
        alarms = np.unique([a for a in detect(values) if a >= DAYS - SCORED]).astype(int)
        inside = np.zeros(DAYS, bool)
        for kind, first, end in events:
            inside[first:end] = True
            hits.append((kind, bool(((alarms >= first) & (alarms < end)).any())))
        good, bad = good + inside[alarms].sum(), bad + (~inside[alarms]).sum()
        normal += (~inside[DAYS - SCORED :]).sum()
    by_kind = {k: float(np.mean([hit for kind, hit in hits if kind == k])) for k in EVENTS if hits}
    recall = float(np.mean([hit for _, hit in hits])) if hits else np.nan
    return Score(recall, by_kind, good / max(good + bad, 1), float(bad / normal * 7))
