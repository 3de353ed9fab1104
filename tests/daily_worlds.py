"""Daily KPIs with planted events, after kpi_baselines §5a of the design: counts with a weekly pattern, drift, noise."""

from typing import NamedTuple

import numpy as np
import pandas as pd

#: kind -> first and last length in days, range of the factor
EVENTS = {"gap": (1, 3, 0.0, 0.3), "spike": (1, 1, 1.5, 2.5), "dip": (1, 2, 0.55, 0.75), "shift": (14, 14, 0.78, 0.88)}


class World(NamedTuple):
    """A series of counts and its events: kind, first and last position."""

    values: np.ndarray
    events: list[tuple[str, int, int]]


def world(
    seed: int, *, days: int = 420, quiet: int = 120, each: int = 2, size: tuple[float, float] = (100, 400),
    correlation: tuple[float, float] = (0.0, 0.5), shock: float = 0.06, weekly: tuple[float, float] = (0.05, 0.35),
    yearly: float = 0.1, walk: float = 0.003, apart: int = 5, base: tuple[float, float] = (40, 5000),
) -> World:  # fmt: skip
    """One series; `each` events of every kind after `quiet` days, at least `apart` days between two.

    `size` of the negative binomial; `correlation` of the AR(1) noise, whose spread and that of the t5 shocks are up to
    `shock`; log amplitudes of the week and the year; `walk`: daily step of a random drift beside a straight one.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(days)
    level = np.log(base[0]) + rng.random() * np.log(base[1] / base[0]) + rng.uniform(-0.3, 0.3) * t / 365
    level = level + rng.uniform(0, yearly) * np.sin(2 * np.pi * (t / 365 + rng.random()))
    level = level + np.cumsum(rng.normal(0, rng.uniform(0, walk), days))
    level = level + (rng.standard_normal(7) * rng.uniform(*weekly))[t % 7]
    phi, step = rng.uniform(*correlation), rng.uniform(0.3, 1) * shock
    noise = np.zeros(days)
    jolts = rng.standard_normal(days) * step * np.sqrt(1 - phi**2)
    for i in range(1, days):
        noise[i] = phi * noise[i - 1] + jolts[i]
    heavy = rng.standard_t(5, days) * np.sqrt(3 / 5) * rng.uniform(0.3, 1) * shock
    factor, events = _events(rng, days, quiet, each, apart)
    mean, n = np.exp(level + noise + heavy) * factor, rng.uniform(*size)
    return World(rng.poisson(rng.gamma(n, 1 / n, days) * mean).astype(float), events)


def _events(rng, days, quiet, each, apart):
    kinds = rng.permutation(np.repeat(list(EVENTS), each))
    lengths = [int(rng.integers(EVENTS[k][0], EVENTS[k][1] + 1)) for k in kinds]
    spare = days - quiet - sum(lengths) - apart * (len(kinds) + 1)
    cuts = np.sort(rng.integers(0, spare + 1, len(kinds)))
    factor, events, used = np.ones(days), [], 0
    for i, (kind, n) in enumerate(zip(kinds, lengths, strict=True)):
        first = quiet + int(cuts[i]) + used + apart * (i + 1)
        factor[first : first + n] = rng.uniform(*EVENTS[kind][2:]) if kind != "gap" else rng.uniform(0, 0.3, n)
        events.append((str(kind), first, first + n - 1))
        used += n
    return factor, events


def score(worlds, alarms, *, quiet: int = 120) -> pd.Series:
    """Recall (all, by kind), precision and false-alarm days a normal week; `alarms`: positions of each series."""
    hit, false, right, weeks = [], 0, 0, 0.0
    for w, found in zip(worlds, alarms, strict=True):
        at = np.asarray(found, dtype=int)
        at = at[at >= quiet]
        inside = np.zeros(len(w.values), bool)
        for kind, first, last in w.events:
            inside[first : last + 1] = True
            hit.append((kind, bool(((at >= first) & (at <= last)).any())))
        right, false = right + int(inside[at].sum()), false + int((~inside[at]).sum())
        weeks += (~inside[quiet:]).sum() / 7
    told = pd.DataFrame(hit, columns=["kind", "hit"])
    by = {k: told.hit[told.kind == k].mean() for k in EVENTS}
    precision = right / max(right + false, 1)
    return pd.Series({"recall": told.hit.mean(), **by, "precision": precision, "false": false / weeks})
