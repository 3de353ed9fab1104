"""What would happen if nothing changed: the seasonal naive forecast with its own empirical errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kpi_helpers.errors import KpiError
from kpi_helpers.stats import Floats, checked_confidence

#: periods in a year by grain; 364 days keep the weekday
SEASONS = {"day": 364, "week": 52, "month": 12}
FEWEST_ERRORS = 4


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Forecast:
    """Forecast of a series, with intervals from the errors that the same rule made in the past.

    Attributes
    ----------
    mean : array (horizon,)
        Expected values.
    season : int
        Season that was used, in periods; 1 when the history is shorter than two seasons or leaves fewer than
        four past forecasts of the whole horizon.
    errors : tuple of arrays
        For each step ahead, the errors of that step over every past origin, centred on zero.
    paths : array (origins, horizon)
        Errors of whole paths, each path from one origin.
    """

    mean: Floats
    season: int
    errors: tuple[Floats, ...]
    paths: Floats
    levels: tuple[float, ...]

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Prediction interval of each period: (low, high), arrays (horizon,).

        >>> low, high = forecast([10, 12, 11, 13] * 6, season=4, horizon=4).interval(0.8)
        >>> low.tolist() == high.tolist()  # the season never failed
        True
        """
        tails = self._tails(level)
        spread = np.array([np.quantile(e, tails) for e in self.errors])
        return self.mean + spread[:, 0], self.mean + spread[:, 1]

    def total(self, level: float, *, skip: int = 0) -> tuple[float, float, float]:
        """Prediction interval of the sum over the horizon: (mean, low, high).

        It comes from the errors of whole paths: errors of neighbouring periods go together, so the
        variances of the periods must not be added. `skip` leaves out the first periods.

        >>> forecast([10, 12, 11, 13] * 6, season=4, horizon=4).total(0.8)
        (46.0, 46.0, 46.0)
        """
        mean = float(self.mean[skip:].sum())
        low, high = np.quantile(self._sums(skip), self._tails(level))
        return mean, mean + float(low), mean + float(high)

    def total_sd(self, *, skip: int = 0) -> float:
        """Standard deviation of the sum over the horizon; NaN with too few whole paths to tell.

        >>> forecast([10, 12, 11, 13] * 6, season=4, horizon=4).total_sd()
        0.0
        """
        return float(np.std(self._sums(skip), ddof=1))

    def _sums(self, skip: int) -> Floats:
        sums: Floats = self.paths[:, skip:].sum(axis=1)
        return np.asarray(sums - sums.mean())

    def _tails(self, level: float) -> list[float]:
        if level not in self.levels:
            raise KpiError(
                f"level={level} was not asked for; the forecast holds {self.levels}. "
                f"Pass levels=({level},) to forecast."
            )
        return [(1 - level) / 2, (1 + level) / 2]


def forecast(
    values: ArrayLike, *, season: int, horizon: int,
    levels: Sequence[float] = (0.8, 0.95), regressors: ArrayLike | None = None,
) -> Forecast:  # fmt: skip
    """Forecast by the seasonal naive rule: the value one season ago, plus the usual change since then.

    Each forecast is the latest known value of the same season; its error over the past, at the same
    distance, gives the usual change (the mean error) and the interval (its quantiles). A simple yardstick:
    it knows no holiday that moves, such as Tết, and its intervals are as wide as one's history is long.

    Parameters
    ----------
    values : array_like (n,)
        History, oldest first; NaN is a missing period.
    season : int
        Longest season to consider, in periods (52 for weeks of a year); 1 is used instead when the history
        is shorter than two of them, or leaves fewer than four past forecasts of the whole horizon.
    horizon : int
        Periods to forecast, at least 1.
    levels : sequence of float
        Coverages for `interval` and `total`, each in (0, 1).
    regressors : None
        Not used by this rule; anything else is refused.

    Raises
    ------
    KpiError
        If an argument is out of range, or the history is too short to have made the errors of one horizon.

    References
    ----------
    Hyndman & Athanasopoulos (2021), Forecasting: Principles and Practice, 3rd ed., sections 5.2 and 5.5.

    Examples
    --------
    >>> forecast([1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 7, 8], season=4, horizon=4).mean.tolist()
    [7.0, 8.0, 9.0, 10.0]
    """
    y = np.asarray(values, dtype=float)
    if y.ndim != 1 or np.isinf(y).any():
        raise KpiError(f"values has shape {y.shape} and must be one series of finite numbers; NaN is missing.")
    if season < 1 or horizon < 1 or int(season) != season or int(horizon) != horizon:
        raise KpiError(f"season={season}, horizon={horizon}: both are whole numbers of periods, at least 1.")
    if regressors is not None:
        raise KpiError("The seasonal naive rule uses no regressors. Leave regressors out.")
    first, last = _known_span(y)
    ahead = horizon + (len(y) - last)  # periods since the last known value are forecast too
    y = y[first:last]
    used = int(season) if len(y) >= 2 * season else 1
    while True:  # the longest season that leaves enough past origins
        steps = [used * -(-h // used) for h in range(1, ahead + 1)]  # how far back step h looks
        naive, paths = _naive_paths(y, steps)
        if len(paths) >= FEWEST_ERRORS or used == 1:
            break
        used = 1
    if len(paths) < FEWEST_ERRORS:
        raise KpiError(
            f"A forecast of {horizon} periods cannot be computed, because {int(np.isfinite(y).sum())} known "
            f"values leave {len(paths)} past forecasts to learn the error from; {FEWEST_ERRORS} are needed. "
            "Use a longer history or a shorter horizon."
        )
    errors = [_lagged(y, lag) for lag in steps]
    usual = np.array([e.mean() for e in errors])
    cut = ahead - horizon
    return Forecast(
        mean=(naive + usual)[cut:],
        season=used,
        errors=tuple(e - m for e, m in zip(errors[cut:], usual[cut:], strict=True)),
        paths=paths[:, cut:],
        levels=tuple(checked_confidence(level) for level in levels),
    )


def _known_span(y: Floats) -> tuple[int, int]:
    known = np.flatnonzero(np.isfinite(y))
    if not len(known):
        raise KpiError("A forecast cannot be computed, because no value is known. Check the column and dates.")
    return int(known[0]), int(known[-1]) + 1


def _naive_paths(y: Floats, steps: list[int]) -> tuple[Floats, Floats]:
    """Naive forecast from the end (horizon,), and error paths from every origin that knows them all."""
    filled = _filled(y, min(steps))
    n, h = len(y), np.arange(len(steps))
    back = np.array(steps)
    naive = filled[n + h - back]
    origins = np.arange(max(back - h), n - len(steps) + 1)
    if len(origins) < 1:
        return naive, np.empty((0, len(steps)))
    at = origins[:, None] + h
    paths = y[at] - y[at - back]
    return naive, paths[np.isfinite(paths).all(axis=1)]


def _lagged(y: Floats, lag: int) -> Floats:
    change = y[lag:] - y[:-lag]
    return change[np.isfinite(change)]


def _filled(y: Floats, season: int) -> Floats:
    """Stand-ins for missing values: a season before plus the usual change, else the first known of its kind.

    Forecasts look there, errors never do.
    """
    filled, change = y.copy(), _lagged(y, season)
    usual = change.mean() if len(change) else 0.0
    for i in np.flatnonzero(np.isnan(y)):
        same = y[i % season :: season]
        known = same[np.isfinite(same)]
        before = filled[i - season] + usual if i >= season else np.nan
        filled[i] = before if np.isfinite(before) else known[0] if len(known) else np.nanmean(y)
    return filled
