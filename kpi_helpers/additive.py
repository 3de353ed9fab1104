"""Additive hazard of converting: a baseline, and what each touch adds and loses again, by maximum likelihood."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri

from kpi_helpers.exposures import Exposure
from kpi_helpers.paths import Ints
from kpi_helpers.stats import Floats

SAMPLE = 10_000  # conversions from which the decay is chosen
DECAYS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0)  # days, tried
ODD = 1e-6  # chance at which touches on the day itself are told apart from later effects
AT_ONCE, FEWEST = 0.5, 20  # share of a channel's touches followed by a conversion within a day, and their number


class Additive(NamedTuple):
    """What an additive hazard credits, (groups + 1, channels + 1, 2): conversions and value, the last row the baseline.

    The first of the groups is the whole, the others leave one group of people out. `decay_days`: after so many days a
    touch has lost 63% of its effect. `days`: "all" where effects fade from the start; "later" where there are more
    touches within a day before conversions than that explains, the way in: effects are learned from what happens a day
    and more later; "apart" where there are fewer, since effects begin late. `learned`: whether there are any effects.
    """

    credit: Floats
    decay_days: float
    days: str
    learned: bool


class _Rows(NamedTuple):
    """Conversions: how much of each component acts on them (n, components), `weight`, value, group; `time` at risk.

    `near`: first days of touches that are not among the `acts`, though they have an effect, too.
    """

    acts: Floats
    near: Floats
    time: Floats
    weight: Floats
    value: Floats
    group: Ints
    time_by_group: Floats


def fit_additive(
    seen: Exposure, n_channels: int, *, person_days: float | None, untouched: float = 0.0, untouched_value: float = 0.0,
    groups: int = 1,
) -> Additive:  # fmt: skip
    """Fit the hazard of a day, b0 + Σ b_k x_k, where a touch adds 1 to x of its channel and fades, e^(-days / decay).

    The decay is the most likely of 1 to 14 days. `person_days`: days at risk of all people; `untouched` conversions
    come from the baseline. Without them only days on which some touch could work are at risk. Only conversions and
    sums over all touches are needed: log L = Σ log hazard - Σ hazard. Xu, Duan & Whinston (2014), Management Science
    60(6), 1392-1412; Ji & Wang (2017), AAAI, 1259-1265.
    """

    def rows(decay: float, days: str) -> _Rows:
        told, at_risk = seen, person_days or (seen.later_days if days == "later" else seen.active_days)
        if days == "later" and person_days is None:  # at risk are people with a touch that is a day old
            b = seen.before
            old = ((b["days"] > 0) & ~b["led"]).groupby(b["conversion"]).transform("any")
            told = seen._replace(before=b[old])
        return _rows(told, n_channels, decay, days, at_risk, untouched, untouched_value, groups)

    decay, likely = _best(lambda d: rows(d, "all"))
    apart, better = _best(lambda d: rows(d, "apart"))
    days = _days(rows(apart, "apart"), n_channels, 2 * (better - likely) > chdtri(n_channels, ODD))
    if days == "later" and not ((seen.before["days"] > 0) & ~seen.before["led"]).any():
        return Additive(np.zeros((1, n_channels + 1, 2)), decay, days, False)
    if days != "all":
        decay = apart if days == "apart" else _best(lambda d: rows(d, days))[0]
    told = rows(decay, days)
    theta, likely = _climbed(told)
    alone = -(1 + np.log(told.time[0])) * told.weight.sum()  # of a baseline only
    learned = days != "later" or bool(2 * (likely - alone) > chdtri(n_channels, 0.01))
    left_out = _left_out(told, theta, groups) if groups > 1 else []
    credit = [_credited(told, b, g, n_channels) for g, b in enumerate([theta, *left_out], -1)]
    return Additive(np.array(credit), decay, days, learned)


def _days(apart: _Rows, k: int, differ: bool) -> str:
    """Which days of touches tell their effect; `differ`: whether the first has a rate of its own."""
    rate, first = _climbed(apart)[0], apart.time[1 + k :]
    fading = np.divide(rate[1 : 1 + k], apart.time[1 : 1 + k], out=np.zeros(k), where=apart.time[1 : 1 + k] > 0)
    at_once = apart.weight @ apart.acts[:, 1 + k :]
    if (differ and rate[1 + k :].sum() > fading @ first) or ((at_once > AT_ONCE * first) & (at_once >= FEWEST)).any():
        return "later"
    return "apart" if differ else "all"


def _rows(
    seen: Exposure, k: int, decay: float, days: str, person_days: float, untouched: float, untouched_value: float,
    groups: int,
) -> _Rows:  # fmt: skip
    """Components: the baseline and channels, with `all` days, the first 24 hours `apart`, or `later` ones only."""
    b, a, keep = seen.before, seen.alive, np.exp(-1 / decay)
    if days == "later":  # a click on the way in says that its person buys often: it stands for no effect later on
        works, worked = (~t["led"].to_numpy() for t in (a, b))
    else:
        works, worked = True, True
    codes, row = np.unique(b["conversion"], return_inverse=True)
    n, same = len(codes), (b["days"] == 0).to_numpy()
    cell, amount = row * k + b["channel"].to_numpy() - 1, b["n"].to_numpy(float)
    of_day, later = (
        np.bincount(cell, v, n * k).reshape(n, k)
        for v in (amount * same, amount * keep ** b["days"] * (~same & worked))
    )
    place, touches = a["g"].to_numpy() % groups * k + a["channel"].to_numpy() - 1, a["n"].to_numpy(float)
    fading = touches * works * keep * (1 - keep ** a["alive"]) / (1 - keep)
    days_same, days_later = (np.bincount(place, v, groups * k).reshape(groups, k) for v in (touches, fading))
    each, time = later + of_day * (days == "all"), days_later + days_same * (days == "all")
    if days == "apart":
        each, time = np.hstack([later, of_day]), np.hstack([days_later, days_same])
    near = (days_same.sum(axis=0) - of_day.sum(axis=0)) * (days == "later")  # a way in had no time to work
    acts: Floats = np.vstack([np.hstack([np.ones((n, 1)), each]), np.eye(1, each.shape[1] + 1)])
    at_risk: Floats = np.hstack([np.full((groups, 1), person_days / groups), time])
    first = np.append(np.flatnonzero(np.diff(row, prepend=-1)), 0)  # rows are ordered by conversion
    value, group = b["value"].to_numpy(float)[first], b["g"].to_numpy()[first] % groups
    value[-1], group[-1] = untouched_value / untouched if untouched else 0, -1  # the last row: all without a touch
    weight, to = np.append(np.ones(n), untouched), None if untouched else -1
    return _Rows(acts[:to], near, at_risk.sum(axis=0), weight[:to], value[:to], group[:to], at_risk)


def _best(rows: Callable[[float], _Rows]) -> tuple[float, float]:
    """The most likely decay and its log-likelihood, from `SAMPLE` conversions if there are more."""
    found: dict[float, float] = {}
    start = None
    for decay in DECAYS:
        told = rows(decay)
        every = -(-len(told.acts) // SAMPLE)
        keep = (np.arange(len(told.acts)) % every == 0) | (told.group < 0)
        weight = np.where(told.group < 0, told.weight / every, told.weight)[keep]
        start, found[decay] = _climbed(told._replace(acts=told.acts[keep], weight=weight), start)
    decay = max(found, key=lambda d: found[d])
    return decay, found[decay]


def _climbed(rows: _Rows, start: Floats | None = None) -> tuple[Floats, float]:
    """Conversions that each component explains, at the greatest likelihood, and its logarithm."""
    from scipy.optimize import minimize

    n, parts = rows.weight.sum(), rows.acts / np.where(rows.time > 0, rows.time, np.inf)

    def loss(share: Floats) -> tuple[float, Floats]:
        hazard = parts @ share
        return float(share.sum() - rows.weight @ np.log(hazard) / n), 1 - parts.T @ (rows.weight / hazard) / n

    p = parts.shape[1]
    begin = np.full(p, 1 / p) if start is None else (start / n).clip(1e-4)
    options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=[(1e-12, None)] * p, options=options)
    share, free = found.x.copy(), found.x > 1e-7
    for _step in range(3):  # Newton's steps to the last digit, so that every processor writes the same
        hazard = parts @ share
        slope = (parts.T @ (rows.weight / hazard) / n - 1)[free]
        info = (parts[:, free].T * (rows.weight / hazard**2)) @ parts[:, free] / n
        share[free] = (share[free] + np.linalg.lstsq(info, slope, rcond=None)[0]).clip(1e-12)
    share = share * (parts.T @ (rows.weight / (parts @ share))) / n  # a step of EM: they add up to all conversions
    return share * n, -float(found.fun) * n


def _left_out(rows: _Rows, theta: Floats, groups: int) -> list[Floats]:
    """What components explain when each group of people is left out: one Newton step from the whole."""
    known = rows.time > 0
    parts = rows.acts[:, known] / rows.time[known]
    hazard = parts @ theta[known]
    info = parts.T @ (parts * (rows.weight / hazard**2)[:, None])
    scores, lesser = [], []
    for g in range(groups):
        of = rows.group == g
        scores.append((parts[of] / hazard[of, None]).sum(axis=0) - rows.time_by_group[g][known] / rows.time[known])
        lesser.append(info - (parts[of] / hazard[of, None] ** 2).T @ parts[of])
    # what is 0 at the maximum has a slope there: only how groups differ tells how uncertain it is
    moved = [
        np.linalg.lstsq(m, s, rcond=None)[0] for m, s in zip(lesser, scores - np.mean(scores, axis=0), strict=True)
    ]
    found = np.tile(theta, (groups, 1))
    found[:, known] -= moved
    return list(found)


def _credited(rows: _Rows, theta: Floats, without: int, k: int) -> Floats:
    """Conversions and value by channel and baseline (channels + 1, 2), without one group (-1: all)."""
    rate = np.divide(theta, rows.time, out=np.zeros_like(theta), where=rows.time > 0)
    weight = rows.weight * (rows.group != without) if without >= 0 else rows.weight
    with np.errstate(invalid="ignore", divide="ignore"):
        part = rows.acts * rate / (rows.acts @ rate)[:, None] * weight[:, None]
    told = np.stack([np.nansum(part, axis=0), np.nansum(part * rows.value[:, None], axis=0)], axis=1)
    whole = np.array([weight.sum(), weight @ rows.value])
    found = told[1 : 1 + k]
    near = weight.sum() / rows.weight.sum() * rate[1 : 1 + k] * rows.near
    found = found * (1 + near / np.where(found[:, 0] > 0, found[:, 0], np.inf))[:, None]
    if len(told) > 1 + k:
        found = found + told[1 + k :]
    with np.errstate(divide="ignore"):
        found = found * (whole / found.sum(axis=0)).clip(max=1)  # no more than all conversions
    return np.vstack([found, whole - found.sum(axis=0)])
