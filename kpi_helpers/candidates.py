"""Simple forecasting rules, each from every origin in one pass, so that every past error is a true forecast error."""

from itertools import product

import numpy as np

from kpi_helpers.stats import Floats

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 0.99)
TRENDS = ((0.0, 0.0), *product((0.05, 0.2), (0.9, 0.98, 1.0)))  # gain of the trend, and how it is damped
SEASONS = (0.0, 0.05, 0.15, 0.4)
CHANGES = (0.0, 0.03, 0.1, 0.25, 0.5, 0.8)


def smooth(y: Floats, season: int, horizon: int) -> Floats:
    """Forecast by additive exponential smoothing with damped trend and season, from every origin: array (n, horizon).

    All gains run side by side; each origin takes those whose one-step errors have been smallest so far. They begin as
    those of a running mean. Row t holds the forecasts made from y[:t+1], NaN in the first season; at a NaN the state is
    carried on. Gardner (2006), IJF 22:637-666 (error correction).
    """
    combined = product(LEVELS, TRENDS, SEASONS if season > 1 else (0.0,))
    gain, trend_gain, damping, season_gain = np.array([(a, b, phi, g) for a, (b, phi), g in combined]).T
    n, first, trend = len(y), y[:season], np.zeros(len(gain))
    levels, trends, seasons, errors = np.zeros((4, n, len(gain)))
    start = float(np.nanmean(first if np.isfinite(first).any() else y))
    level = trend + start
    seasons[:season] = np.nan_to_num(first - start)[:, None]
    for t in range(season, n):
        cycle, carried = t // season + 1, damping * trend
        seen = seasons[t - season] if season > 1 else 0.0
        error = y[t] - level - carried - seen
        if np.isnan(y[t]):
            level, trend, seasons[t] = level + carried, carried, seen
        else:
            eager = np.maximum(gain, 1 / (cycle + 1))
            level, trend = level + carried + eager * error, carried + trend_gain * eager * error
            errors[t] = error
            if season > 1:
                seasons[t] = seen + np.maximum(season_gain, 1 / cycle) * (1 - eager) * error
        levels[t], trends[t] = level, trend
    best = np.cumsum(errors**2, axis=0).argmin(axis=1)
    at, h = np.arange(n), np.arange(1, horizon + 1)
    made = levels[at, best][:, None] + trends[at, best][:, None] * np.cumsum(damping[best][:, None] ** h, axis=1)
    if season > 1:
        made = made + seasons[np.maximum(_same_season(n, season, horizon), 0), best[:, None]]
    made[: season - 1 or 1] = np.nan
    return np.asarray(made, dtype=float)


def repeat(y: Floats, season: int, horizon: int) -> Floats:
    """Forecast the latest value of the same season (seasonal naive), from every origin: array (n, horizon)."""
    back = _same_season(len(y), season, horizon)
    return np.where(back >= 0, filled(y, season)[np.maximum(back, 0)], np.nan)


def drift(y: Floats, season: int, horizon: int) -> Floats:
    """Forecast the latest value of the same season plus its smoothed (over several seasons: mean) change."""
    n, gains = len(y), np.array(CHANGES if horizon <= season else CHANGES[:1])
    change = np.full(n, np.nan)
    change[season:] = y[season:] - y[:-season]
    usual, (usuals, errors) = np.zeros(len(gains)), np.zeros((2, n, len(gains)))
    for known, t in enumerate(np.flatnonzero(np.isfinite(change)), start=1):
        errors[t] = (change[t] - usual) * (known > 1)
        usual = usual + np.maximum(gains, 1 / known) * (change[t] - usual)
        usuals[t] = usual
    last = np.maximum.accumulate(np.where(np.isfinite(change), np.arange(n), 0))
    best = np.cumsum(errors**2, axis=0).argmin(axis=1)
    ahead = -(-np.arange(1, horizon + 1) // season)
    made = repeat(y, season, horizon) + usuals[last, best][:, None] * ahead
    made[: season + 1] = np.nan
    return np.asarray(made, dtype=float)


def follow(y: Floats, short: int, season: int, horizon: int) -> Floats:
    """Forecast by smoothing with the `short` season, moved half as much as last year moved from the same point on.

    The move is that of a centred mean over a twelfth of the season, NaN where it is not fully known at an origin.
    """
    n, half = len(y), max(season // 24, 1)
    padded = np.pad(filled(y, season), half, mode="edge")
    mean = np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")
    t = np.arange(n)[:, None]
    then, ahead = t - season, t - season + np.arange(1, horizon + 1)
    known = (then >= half) & (ahead + half <= t)
    before, after = mean[np.maximum(then, 0)], mean[np.clip(ahead, 0, n - 1)]
    made = smooth(y, short, horizon)
    moved = made * np.sqrt(after / before) if np.nanmin(y) > 0 else made + (after - before) / 2
    return np.where(known, moved, np.nan)


def filled(y: Floats, season: int) -> Floats:
    """Stand-ins for missing values: the same season before, else the first known of its kind, else the mean."""
    out = y.copy()
    for i in np.flatnonzero(np.isnan(y)):
        same = y[i % season :: season]
        known = same[np.isfinite(same)]
        out[i] = out[i - season] if i >= season else known[0] if len(known) else np.nanmean(y)
    return out


def _same_season(n: int, season: int, horizon: int) -> np.ndarray:
    """Where the latest value of the same season stands, for each origin and step: (n, horizon), below 0 if none."""
    h = np.arange(1, horizon + 1)
    return np.arange(n)[:, None] + h - season * -(-h // season)
