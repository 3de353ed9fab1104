"""Worlds in which the true effect of each channel is known: who sees which ad, and who buys because of it."""

from itertools import product
from math import factorial
from typing import NamedTuple

import numpy as np
import pandas as pd

#: channel -> chance to be met on a day, how much intent attracts it, extra hazard a unit of stock, days of decay
CHANNELS = {
    "display": (0.060, 0.0, 0.0016, 5), "social": (0.050, 0.0, 0.0010, 4), "generic": (0.030, 0.3, 0.0060, 3),
    "email": (0.035, 0.0, 0.0020, 3), "retarget": (0.030, 1.0, 0.0008, 3), "brand": (0.025, 1.3, 0.0, 2),
    "coupon": (0.015, 1.0, 0.0, 2),
}  # fmt: skip
#: scenario -> baseline hazard a day, whether intent decides who meets ads and buys, whether display leads to search
SCENARIOS = {
    "nobase": (0.0, False, False), "base": (0.0008, False, False), "selection": (0.0008, True, False),
    "all": (0.0008, True, True),
}  # fmt: skip
START = pd.Timestamp("2026-01-01")


class World(NamedTuple):
    """Touches and conversions as a shop would log them, and what is true: incremental conversions by channel."""

    touchpoints: pd.DataFrame
    conversions: pd.DataFrame
    incremental: pd.Series
    baseline: int


def simulate(scenario: str, *, people: int = 40_000, days: int = 30, seed: int = 1) -> World:
    """Simulate one world with all channels on, and each subset of them with the same luck, for the Shapley truth."""
    rng, k = np.random.default_rng(seed), len(CHANNELS)
    intent = rng.standard_normal(people)
    luck_met = rng.random((days, k, people), dtype=np.float32)
    luck_bought = rng.random((days, people), dtype=np.float32)
    met, day = _run(scenario, np.ones(k, bool), intent, luck_met, luck_bought)
    worlds = dict.fromkeys(product((0, 1), repeat=k), 0)
    for on in worlds:
        worlds[on] = int((_run(scenario, np.array(on, bool), intent, luck_met, luck_bought)[1] < days).sum())
    d, c, person = np.nonzero(met)
    keep = d <= day[person]
    d, c, person = d[keep], c[keep], person[keep]
    at = START + pd.to_timedelta(d * 86_400 + 3600 * (8 + c) + person % 3000, unit="s")  # brand and coupon come late
    touches = pd.DataFrame({"customer_id": person, "touched_at": at, "channel": np.array(list(CHANNELS))[c]})
    buyers = np.flatnonzero(day < days)
    bought = START + pd.to_timedelta(day[buyers] * 86_400 + 86_000, unit="s")
    orders = pd.DataFrame({"customer_id": buyers, "ordered_at": bought, "revenue": 100.0 + buyers % 7 * 10})
    truth = {}
    for i, name in enumerate(CHANNELS):
        parts = (
            (worlds[on] - worlds[(*on[:i], 0, *on[i + 1 :])]) * factorial(sum(on) - 1) * factorial(k - sum(on))
            for on in worlds if on[i]
        )  # fmt: skip
        truth[name] = sum(parts) / factorial(k)
    return World(touches, orders, pd.Series(truth), worlds[(0,) * k])


def _run(scenario, on, intent, luck_met, luck_bought):
    """Who met which channel on which day (days, channels, people), and the day of buying (people,), or `days`."""
    hazard, selected, spills = SCENARIOS[scenario]
    days, k, people = luck_met.shape
    chance, pull, effect, decay = (np.array(v) for v in zip(*CHANNELS.values(), strict=True))
    pull = pull if selected else 0 * pull
    base = (chance[:, None] * np.exp(np.outer(pull, intent) - pull[:, None] ** 2 / 2)).astype(np.float32)
    stock, keep = np.zeros((k, people), np.float32), np.exp(-1 / decay)[:, None].astype(np.float32)
    still = (hazard * np.exp(intent) if selected else np.full(people, hazard)).astype(np.float32)
    met, day, at = np.zeros(luck_met.shape, bool), np.full(people, days), {c: i for i, c in enumerate(CHANNELS)}
    for d in range(days):
        now = base.copy()
        if spills:
            now[at["generic"]] *= 1 + 1.5 * np.minimum(stock[at["display"]], 2)
            now[at["brand"]] *= 1 + 1.0 * np.minimum(stock[at["display"]], 2)
        met[d] = (luck_met[d] < now) & on[:, None]
        stock = stock * keep + met[d]
        bought = (luck_bought[d] < still + effect.astype(np.float32) @ stock) & (day == days)
        day[bought] = d
    return met, day


def recurrent(
    channels: dict[str, tuple[float, float, float, float]], *, way_in: float = 0.0, repeats: float = 0.0,
    by_day: bool = False, seed: int = 1, people: int = 40_000, days: int = 30, hazard: float = 0.001,
) -> World:  # fmt: skip
    """People who may buy again and again, in continuous time: each touch brings orders of its own, none stops another.

    `channels`: touches a person and day, orders brought a day at first, days of decay, days until it begins; `way_in`,
    share of orders that come by a click on Direct or Search minutes before; `repeats`, more orders soon after each.
    """
    rng = np.random.default_rng(seed)
    met, sold, brought = [], [rng.uniform(0, days, (rng.poisson(hazard * people * days), 1))], {}
    sold[0] = np.column_stack([rng.integers(people, size=len(sold[0])), sold[0]])
    for name, (rate, effect, decay, begins) in channels.items():
        n = rng.poisson(rate * people * days)
        who, at = rng.integers(people, size=n), rng.uniform(0, days, n)
        met.append(pd.DataFrame({"customer_id": who, "at": at, "channel": name}))
        by = np.repeat(np.arange(n), rng.poisson(effect * decay, n))
        then = at[by] + begins + rng.exponential(decay, len(by))
        sold.append(np.column_stack([who[by], then])[then < days])
        brought[name] = len(sold[-1]) * (1 + repeats)
    baseline, orders = round(len(sold[0]) * (1 + repeats)), np.vstack(sold)
    again = orders[np.repeat(np.arange(len(orders)), rng.poisson(repeats, len(orders)))]
    again[:, 1] += rng.uniform(0.001, 0.08, len(again))
    orders = pd.DataFrame(np.vstack([orders, again[again[:, 1] < days]]), columns=["customer_id", "at"])
    clicks = orders[rng.random(len(orders)) < way_in]
    clicks = clicks.assign(at=clicks["at"] - rng.uniform(0.0005, 0.02, len(clicks)))
    met.append(clicks[clicks["at"] > 0].assign(channel=lambda c: rng.choice(["Direct", "Search"], len(c))))
    tables = []
    for frame, name in ((pd.concat(met), "touched_at"), (orders, "ordered_at")):
        at = START + pd.to_timedelta((frame["at"] * 86_400).round(), unit="s")
        frame = frame.assign(**{name: at.dt.normalize() if by_day else at}).drop(columns="at")
        tables.append(frame.astype({"customer_id": "int64"}).reset_index(drop=True))
    return World(tables[0], tables[1].assign(revenue=100.0), pd.Series(brought), baseline)
