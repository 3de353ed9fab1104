"""What customers spend a purchase: the Gamma-Gamma model by maximum likelihood."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, gammaln

from kpi_helpers.errors import KpiError, require
from kpi_helpers.purchases import Fit
from kpi_helpers.result import number, say
from kpi_helpers.stats import Floats


class SpendFit(Fit):
    """A fitted model of spending; `spearman`, `pearson`: correlation of frequency and mean value, which it takes for 0.

    `n_dropped` customers without a repeat purchase told nothing. `notes`: "infinite mean", "constant", "edge", ...
    """

    @property
    def population_mean(self) -> float:
        """Spend a purchase of customers at large; a `KpiError` if it is infinite."""
        p, q, gamma = self.estimate
        if "constant" in self.notes:
            return float(gamma)
        require(q > 1, f"q={q:.3g} is 1 or less: mean spend is infinite. Use its median, or cap the spend and refit.")
        return float(p * gamma / (q - 1))

    def expected_spend(self, frequency: ArrayLike, mean_value: ArrayLike) -> Any:
        """Spend a purchase to be expected of customers: their mean drawn to the population's; that at frequency 0."""
        mean, (p, q, gamma) = self.population_mean, self.estimate
        x, z = _checked(frequency, mean_value)
        if "constant" in self.notes:
            return np.full(x.shape, mean)
        return np.where(x > 0, p * (gamma + x * np.where(x > 0, z, 0)) / np.where(x > 0, p * x + q - 1, 1), mean)

    def sentence(self, language: str = "en") -> str:
        told = {k: number(getattr(self, k), language, decimals=2) for k in ("spearman", "pearson")}
        told |= {k: number(self.whole[k], language) for k in ("n_customers", "n_dropped")}
        notes = [*self.notes, *["dependent"] * (abs(self.spearman) > 0.15)]
        return " ".join(say(f"spend_fit.{key}", language, **told) for key in ("fitted", *notes))


def _checked(frequency: ArrayLike, mean_value: ArrayLike) -> tuple[Floats, Floats]:
    try:
        x, z = np.broadcast_arrays(np.asarray(frequency, dtype=float), np.asarray(mean_value, dtype=float))
    except ValueError:
        raise KpiError("frequency and mean_value must have one row a customer, both as many.") from None
    odd, low = ~(x >= 0) | (x % 1 != 0), (x > 0) & ~((z > 0) & (z < np.inf))
    require(not odd.any(), f"{odd.sum()} of {x.size} rows have a frequency that is not 0, 1, 2, ...")
    if low.any():
        first = ", ".join(map(str, np.flatnonzero(low)[:3]))
        raise KpiError(f"{low.sum()} of {x.size} rows (the first: {first}, from 0) bought again at a mean value "
                       "of 0 or less, or none. Net refunds by day, and leave out what was free.")  # fmt: skip
    return x, z


def _correlation(x: Floats, y: Floats, w: Floats) -> float:
    x, y = x - w @ x / w.sum(), y - w @ y / w.sum()
    scale = np.sqrt((w @ x**2) * (w @ y**2))
    return float(w @ (x * y) / scale) if scale > 0 else 0.0


def _rank(v: Floats, w: Floats) -> Floats:
    _, at = np.unique(v, return_inverse=True)
    many = np.bincount(at, w)
    return np.asarray((np.cumsum(many) - many / 2)[at])


def fit_spend(frequency: ArrayLike, mean_value: ArrayLike, *, weights: ArrayLike | None = None) -> SpendFit:
    """Fit what customers spend a purchase: each varies around a level of its own, the same however often it buys.

    Parameters: `frequency` (n,), repeat purchases; `mean_value` (n,), mean spend of those, ignored at frequency 0;
    `weights`, equal customers a row. `gamma` is money, p and q are numbers. Raises `KpiError` if nobody bought again
    or a value is not above 0. References: Fader & Hardie (2013), The Gamma-Gamma Model of Monetary Value.

    >>> fit = fit_spend([1, 1, 1, 1, 9, 9, 9, 0], [5.0, 80.0, 30.0, 12.0, 22.0, 28.0, 45.0, 0.0])
    >>> round(float(fit.expected_spend(2, 35.0)), 1), fit.n_dropped
    (31.7, 1.0)
    """
    x, z = map(np.atleast_1d, _checked(frequency, mean_value))
    w = np.ones(x.shape) if weights is None else np.asarray(weights, dtype=float)
    require(w.shape == x.shape and bool(((w > 0) & (w < np.inf)).all()), "weights must be above 0, one a row.")
    dropped, again = float(w[x == 0].sum()), x > 0
    x, z, w = x[again], z[again], w[again]
    require(len(x) > 0, "Nobody bought again, so no spend a purchase can be modelled. Use the mean of first purchases.")
    n, scale = float(w.sum()), float(w @ z / w.sum())
    told: dict[str, Any] = {"n_dropped": dropped, "pearson": _correlation(x, z, w)}
    told["spearman"] = _correlation(_rank(x, w), _rank(z, w), w)
    if np.ptp(z) <= 1e-9 * scale:  # no spread: p and q have no bound
        fit = SpendFit.at({"p": np.inf, "q": np.inf, "gamma": scale}, n_customers=n, log_likelihood=np.inf, **told)
        return fit.noting("constant")
    log_z, log_x, z = np.log(z / scale), np.log(x), z / scale

    def objective(theta: Floats) -> tuple[float, Floats]:
        p, q, gamma = np.exp(theta)
        shape, both = p * x, gamma + x * z
        log_both = np.log(both)
        value = gammaln(shape + q) - gammaln(shape) - gammaln(q) + q * theta[2] - log_z
        value += shape * (log_z + log_x - log_both) - q * log_both
        common = digamma(shape + q)
        by_p = x * (common - digamma(shape) + log_z + log_x - log_both)
        by_q, by_gamma = common - digamma(q) + theta[2] - log_both, q / gamma - (shape + q) / both
        return -(w @ value) / n, -np.array([w @ by_p, w @ by_q, w @ by_gamma]) * np.exp(theta) / n

    scales = {"p": 1.0, "q": 1.0, "gamma": scale}
    fit = SpendFit.climbed(objective, np.log([3.0, 3.0, 1.0]), scales, n, shift=n * np.log(scale), **told)
    return fit.noting(*["infinite mean"] * (fit.parameters["q"] <= 1), *fit.notes)
