"""What would happen if nothing changed: the seasonal naive forecast with its own empirical errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

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
        Season that was used, in periods; 7 or 1 when the history is shorter than two seasons.
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
        mean, sd = float(self.mean[skip:].sum()), self.total_sd(skip=skip)
        half = float(ndtri(self._tails(level)[1])) * sd
        return mean, mean - half, mean + half

    def total_sd(self, *, skip: int = 0) -> float:
        """Standard deviation of the sum over the horizon; NaN with too few whole paths to tell.

        Paths overlap, so m paths of h periods hold only k = (m + h - 1) / h independent ones: their spread is
        widened for the mean error that was estimated from them, sqrt((k + 1) / (k - 1)), and so that a normal
        90% interval is as wide as Student's with k - 1 degrees of freedom.

        >>> forecast([10, 12, 11, 13] * 6, season=4, horizon=4).total_sd()
        0.0
        """
        sums, h = self.paths[:, skip:].sum(axis=1), self.paths.shape[1] - skip
        k = (len(sums) + h - 1) / h
        if len(sums) < FEWEST_ERRORS or k < 1.5:
            return float("nan")
        tails = stdtrit(max(k - 1, 1.0), 0.95) / ndtri(0.95)
        return float(np.std(sums, ddof=1) * np.sqrt((k + 1) / (k - 1)) * tails)

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
    it knows no holiday that moves, such as Tết.

    Parameters
    ----------
    values : array_like (n,)
        History, oldest first; NaN is a missing period.
    season : int
        Longest season to consider, in periods (52 for weeks of a year). When the history is shorter than two
        of them, 7 is used for a multiple of 7 (364 days), else 1.
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
    shorter = 7 if season % 7 == 0 else 1  # days of a year fall back on days of a week
    used = next((m for m in (int(season), shorter) if len(y) >= 2 * m), 1)
    own = _lagged(y, used)
    if len(own) < FEWEST_ERRORS:
        raise KpiError(
            f"A forecast of {horizon} periods cannot be computed, because {int(np.isfinite(y).sum())} known values "
            f"leave {len(own)} past errors to learn from; {FEWEST_ERRORS} are needed. Use a longer history."
        )
    steps = [used * -(-h // used) for h in range(1, ahead + 1)]  # how far back step h looks
    naive, paths = _naive_paths(y, steps)
    far = {lag: _lagged(y, lag) for lag in set(steps)}  # beyond what the history holds, errors grow with the distance
    errors = [far[lag] if len(far[lag]) >= FEWEST_ERRORS else own * (lag / used) for lag in steps]
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
