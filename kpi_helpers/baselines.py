"""What would happen if nothing changed: a forecast whose intervals come from its own past forecast errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc, ndtri, stdtr, stdtrit

from kpi_helpers.candidates import drift, follow, repeat, smooth
from kpi_helpers.errors import require
from kpi_helpers.stats import Floats, checked_confidence, weighted_quantile

SMOOTHED = 24  # longest season that smoothing follows phase by phase; beyond it each is seen too seldom
FEWEST_ERRORS = 4
TAIL, SHAPE = 0.2, 4  # where the spread of a total is measured below and above; degrees of freedom of Student's t


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Distribution of a sum over several periods: two halves of a Student's t around its median `mean`.

    `spread_low`, `spread_high`: scales of the halves, NaN if not known; of the logarithm if `multiplicative`.
    """

    mean: float
    spread_low: float
    spread_high: float
    multiplicative: bool

    def quantile(self, probability: ArrayLike) -> Floats:
        """Value that is not exceeded with that probability: the target at odds p is ``quantile(1 - p)``."""
        p = np.asarray(probability, dtype=float)
        t = np.where(p == 0, -np.inf, stdtrit(SHAPE, p))  # scipy answers +inf at 0
        step = np.where(t < 0, self.spread_low, self.spread_high) * t
        return np.asarray(self.mean * np.exp(step) if self.multiplicative else self.mean + step)

    def chance_above(self, value: ArrayLike) -> Floats:
        """Probability that the sum exceeds `value`; NaN if the spread is not known or 0."""
        x = np.asarray(value, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.log(np.maximum(x, 0.0) / self.mean) if self.multiplicative else x - self.mean
            spread = np.where(far < 0, self.spread_low, self.spread_high)
            return np.where(spread > 0, stdtr(SHAPE, -far / spread), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Forecast:
    """Forecast `mean` (horizon,) of a series, with intervals from the errors that the same rules made in the past.

    `season`: of the heaviest rule. `weights`: rule -> weight, such as ``{"smooth 7": 0.8, "repeat 364": 0.2}``.
    `multiplicative`: errors are factors. `scale` (horizon,): size of the past errors of each step, widened for how few
    are independent; `shape`: past errors over their size, and how much each counts. `paths` (origins, horizon),
    `path_weights`: errors of whole paths. `noise` (horizon, horizon): covariance of the effects of the regressors.
    """

    mean: Floats
    season: int
    weights: dict[str, float]
    multiplicative: bool
    scale: Floats
    shape: tuple[Floats, Floats]
    paths: Floats
    path_weights: Floats
    noise: Floats
    never_negative: bool

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Prediction interval of each period: (low, high), arrays (horizon,)."""
        checked_confidence(level)
        ends = [(1 - level) / 2, (1 + level) / 2]
        below, above = weighted_quantile(*self.shape, ends) if len(self.shape[0]) else np.zeros(2)
        return self._moved(self.scale * min(below, 0.0)), self._moved(self.scale * max(above, 0.0))

    def total(self, level: float, *, weights: ArrayLike | None = None) -> tuple[float, float, float]:
        """Prediction interval of the sum over the horizon, or of a weighted sum: (mean, low, high)."""
        checked_confidence(level)
        whole = self.whole(weights)
        low, high = whole.quantile([(1 - level) / 2, (1 + level) / 2]).tolist()
        return whole.mean, max(low, 0.0) if self.never_negative else low, high

    def whole(self, weights: ArrayLike | None = None) -> Total:
        """Distribution of Σ weights × periods (horizon,), all 1 by default, from the errors of whole paths.

        Errors of neighbouring periods go together, so the variances of the periods must not be added.
        """
        w = np.ones(len(self.mean)) if weights is None else np.asarray(weights, dtype=float)
        centre, low, high = float(w @ self.mean), math.nan, math.nan
        multiplicative = self.multiplicative and centre > 0
        if len(self.paths) >= FEWEST_ERRORS:
            missed, lever = self.missed(w), w * self.mean / centre if multiplicative else w
            tails = weighted_quantile(missed, self.path_weights, [TAIL, 1 - TAIL]) / stdtrit(SHAPE, [TAIL, 1 - TAIL])
            wider, noise = _wider(self.path_weights, np.count_nonzero(w)), float(lever @ self.noise @ lever)
            low, high = (math.hypot(max(float(spread), 0.0) * wider, math.sqrt(noise)) for spread in tails)
        return Total(mean=centre, spread_low=low, spread_high=high, multiplicative=multiplicative)

    def missed(self, weights: ArrayLike) -> Floats:
        """What the weighted sum missed on each past path (origins,), oldest first; of its logarithm for factors."""
        w = np.asarray(weights, dtype=float)
        if not (self.multiplicative and w @ self.mean > 0):
            return np.asarray(self.paths @ w)
        return np.asarray(np.log(np.exp(self.paths) @ (w * self.mean) / (w @ self.mean)))

    def _moved(self, by: Floats) -> Floats:
        moved = self.mean * np.exp(by) if self.multiplicative else self.mean + by
        return np.maximum(moved, 0.0) if self.never_negative else moved


def forecast(
    values: ArrayLike, *, season: int, horizon: int,
    levels: Sequence[float] = (0.8, 0.95), regressors: ArrayLike | None = None,
) -> Forecast:  # fmt: skip
    """Forecast a series by a weighted mean of simple rules, with intervals from their past forecast errors.

    The rules are those of `candidates`. Each forecasts from every point of the past; the smaller its errors, the more
    it weighs: a season which does not help is declined. Hyndman & Athanasopoulos (2021), Forecasting: Principles and
    Practice, sections 5.5, 5.8, 5.10, 13.4. Parameters: `values` (n,), oldest first, NaN is missing; `season`, the
    longest, in periods (52 for weeks, 364 for days, which have a week of 7 too), taken once seen twice; `horizon`,
    periods to forecast, at least 1; `levels`, coverages that will be asked for, each in (0, 1); `regressors` (n +
    horizon, k), known ahead, such as the days of Tết in each period: effects are factors where all values are above 0,
    estimated on changes from season to season. Raises `KpiError` if an argument is out of range, or the history is too
    short to have made errors.

    >>> forecast([1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 7, 8] * 2, season=12, horizon=3).mean.tolist()
    [1.0, 2.0, 3.0]
    """
    y = np.asarray(values, dtype=float)
    require(y.ndim == 1 and not np.isinf(y).any(),
            f"values has shape {y.shape} and must be one series of finite numbers; NaN is missing.")  # fmt: skip
    require(season >= 1 and horizon >= 1 and int(season) == season and int(horizon) == horizon,
            f"season={season}, horizon={horizon}: both are whole numbers of periods, at least 1.")  # fmt: skip
    for level in levels:
        checked_confidence(level)
    known = np.flatnonzero(np.isfinite(y))
    require(len(known) > 0, "A forecast cannot be computed, because no value is known. Check the column and dates.")
    first, last = int(known[0]), int(known[-1]) + 1
    y, cut = y[first:last], len(y) - last  # periods since the last known value are forecast too
    positive = bool(np.nanmin(y) > 0)
    short, long = _seasons(len(y), int(season))
    effect, noise = np.zeros(len(y) + cut + horizon), np.zeros((horizon, horizon))
    if regressors is not None:
        x = _checked_regressors(regressors, len(values) + horizon)[first:]  # type: ignore[arg-type]
        effect, noise = _effects(np.log(y) if positive else y, x, short, horizon)
    calm = y / np.exp(effect[: len(y)]) if positive else y - effect[: len(y)]
    made, weights = _combined(calm, short, long, cut + horizon)
    if positive:  # smoothing may step below 0 where a series collapsed
        made = np.maximum(made, np.nanmin(calm) / 2)
    errors = _errors(np.log(calm), np.log(made)) if positive else _errors(calm, made)
    errors[np.abs(errors) <= 1e-12 * (1.0 if positive else float(np.nanmax(np.abs(y))))] = 0.0  # rounding is no error
    n_errors = int(np.isfinite(errors[:, cut]).sum())
    require(n_errors >= FEWEST_ERRORS,
            f"A forecast of {horizon} periods cannot be computed, because {len(known)} known values leave "
            f"{n_errors} past errors to learn from; {FEWEST_ERRORS} are needed. Use a longer history.")  # fmt: skip
    return _calibrated(made[-1, cut:], errors[:, cut:], effect[len(y) + cut :], noise, positive,
                       never_negative=bool(np.nanmin(y) >= 0), weights=weights)  # fmt: skip


def _seasons(n: int, longest: int) -> tuple[int, int]:
    """Season to smooth and season to repeat, both seen twice; days of a year have a week too."""
    tried = [m for m in (longest, 7 if longest % 7 == 0 else 1) if n >= 2 * m]
    return next((m for m in tried if m <= SMOOTHED), 1), tried[0] if tried else 1


def _combined(y: Floats, short: int, long: int, ahead: int) -> tuple[Floats, dict[str, float]]:
    """Forecasts from every origin (n, ahead) by the weighted mean of the rules; NaN before the first origin."""
    rules = {f"smooth {m}": smooth(y, m, ahead) for m in sorted({1, short})}
    rules |= {f"repeat {long}": repeat(y, long, ahead), f"drift {long}": drift(y, long, ahead)}
    if long > SMOOTHED and ahead + long // 24 <= long:
        rules[f"follow {long}"] = follow(y, short, long, ahead)
    made = np.stack(list(rules.values()))
    # rules have settled after three seasons; a short history spares half of what its horizon leaves
    made[:, : min(max(3 * long, 20), max(long + FEWEST_ERRORS, (len(y) - ahead) // 2)) - 1] = np.nan
    known = np.asarray(np.isfinite(made[:, -1]).all(axis=1))  # a rule without a forecast from the end is left out
    if not known.any():
        return np.full((len(y), ahead), np.nan), {}
    missed = np.abs(_errors(y, made[known]))
    common = np.isfinite(missed).all(axis=0) * _recency(len(y), ahead)[:, None]
    size = (np.nan_to_num(missed) * common).sum(axis=(1, 2))
    # the smaller the mean absolute error of a rule, the more it is preferred
    share = (size / size.max()) ** -8.0 if size.min() > 0 else (size == size.min()).astype(float)
    share = share / share.sum()
    names = np.array([*rules])[known].tolist()
    return np.tensordot(share, made[known], 1), dict(zip(names, share.tolist(), strict=True))


def _errors(y: Floats, made: Floats) -> Floats:
    """What each forecast (..., n, ahead) missed; NaN where the truth is not known."""
    n, ahead = made.shape[-2:]
    at = np.arange(n)[:, None] + np.arange(1, ahead + 1)
    return np.append(y, np.full(ahead, np.nan))[at] - made


def _recency(n: int, ahead: int) -> Floats:
    """Weight of past errors, half after four horizons."""
    return np.asarray(0.5 ** (np.arange(n)[::-1] / (4 * ahead)), dtype=float)


def _wider(weights: Floats, steps: ArrayLike) -> Floats:
    """Factor for a spread that was learned from overlapping errors: one in h / 2 origins, k in all, is independent."""
    origins = weights.sum() ** 2 / (weights**2).sum() if len(weights) else 1.0
    k = 1 + 2 * origins / np.asarray(steps, dtype=float)
    return np.asarray(np.sqrt(1 + 1 / k) * stdtrit(k, 0.9) / ndtri(0.9))


def _calibrated(
    centre: Floats, errors: Floats, effect: Floats, noise: Floats, positive: bool, *, never_negative: bool,
    weights: dict[str, float],
) -> Forecast:  # fmt: skip
    """Turn a combined forecast and its past errors into a forecast without bias and with measured spread."""
    recent, paths = _recency(*errors.shape), _bridged(errors)
    whole, size = np.isfinite(paths).all(axis=1), _sizes(errors, recent)
    past, shift = paths[whole], np.zeros(len(size))
    # the usual miss of the whole path, over all of the past, is taken out of each step in proportion to its size
    if len(past) >= FEWEST_ERRORS and size.any():
        missed = np.log((centre * np.exp(past)).sum(axis=1) / centre.sum()) if positive else past.sum(axis=1)
        shift = np.median(missed) * size / (centre @ size / centre.sum() if positive else size.sum())
    mean = centre * np.exp(shift) * np.exp(effect) if positive else centre + shift + effect
    left = errors - shift
    known = np.isfinite(left) & (size > 0)
    wider = _wider(recent[whole] if whole.any() else recent, np.arange(1, len(size) + 1))
    return Forecast(
        mean=np.maximum(mean, 0.0) if never_negative else mean, weights=weights, multiplicative=positive,
        season=int(max(weights, key=lambda rule: weights[rule]).split()[1]),
        scale=np.hypot(size * wider, np.sqrt(np.diag(noise))),
        shape=((left / np.where(size > 0, size, 1))[known], np.broadcast_to(recent[:, None], left.shape)[known]),
        paths=past - shift, path_weights=recent[whole], noise=noise, never_negative=never_negative,
    )  # fmt: skip


def _bridged(errors: Floats) -> Floats:
    """Gaps inside a path bridged, where its ends and half of it are known, or one would cost as many paths as steps."""
    known, at, out = np.isfinite(errors), np.arange(errors.shape[1]), errors.copy()
    for i in np.flatnonzero(known[:, 0] & known[:, -1] & (known.mean(axis=1) >= 0.5) & ~known.all(axis=1)):
        out[i] = np.interp(at, at[known[i]], errors[i, known[i]])
    return out


def _sizes(errors: Floats, recent: Floats) -> Floats:
    """Weighted root mean square of each step's errors, never falling; steps beyond the known grow with the root."""
    known = np.isfinite(errors)
    weight = (recent[:, None] * known).sum(axis=0)
    squares = (recent[:, None] * np.nan_to_num(errors) ** 2).sum(axis=0)
    size = np.sqrt(squares / np.where(weight > 0, weight, 1))
    reach = int(np.flatnonzero(known.sum(axis=0) >= FEWEST_ERRORS)[-1]) + 1
    size = np.maximum.accumulate(size[:reach])
    return np.append(size, size[-1] * np.sqrt(np.arange(reach + 1, len(weight) + 1) / reach))


def _checked_regressors(regressors: ArrayLike, n: int) -> Floats:
    x = np.asarray(regressors, dtype=float)
    x = x[:, None] if x.ndim == 1 else x
    good = x.ndim == 2 and len(x) == n and bool(np.isfinite(x).all())
    require(good, f"regressors has shape {x.shape}; it needs {n} rows, history and horizon, all finite numbers.")
    return x


def _effects(z: Floats, x: Floats, season: int, horizon: int) -> tuple[Floats, Floats]:
    """Effects of regressors on all rows of `x` and covariance of those ahead: least squares on changes, F test (1%)."""
    dz, dx = z[season:] - z[:-season], x[season : len(z)] - x[: len(z) - season]
    dz, dx = dz[known := np.isfinite(dz)], np.column_stack([np.ones(known.sum()), dx[known]])
    inverse = np.linalg.pinv(dx.T @ dx, rcond=1e-10, hermitian=True)
    beta, rank = inverse @ dx.T @ dz, int(np.linalg.matrix_rank(dx))
    k, free = rank - 1, len(dz) - rank
    nothing = np.zeros(len(x)), np.zeros((horizon, horizon))
    if k < 1 or free < 1:
        return nothing
    missed, fitted = dz - dx @ beta, dx @ beta - dz.mean()
    # errors that last make effects that last look surer than they are: Bartlett's factor for two AR(1)
    shared = np.clip(_lasting(missed) * _lasting(fitted), 0.0, 0.95)
    left = float((missed**2).sum()) * float((1 + shared) / (1 - shared))
    if fdtrc(k, free, float((fitted**2).sum()) / k / max(left / free, 1e-300)) > 0.01:
        return nothing
    spread = inverse[1:, 1:] * left / free
    return x @ beta[1:], x[-horizon:] @ spread @ x[-horizon:].T


def _lasting(x: Floats) -> float:
    """First autocorrelation, 0 for a constant."""
    return float(x[1:] @ x[:-1] / max(float(x @ x), 1e-300))
