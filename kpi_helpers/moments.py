"""The arm of an experiment as exact sums: what is measured of each unit, its mean and how it varies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from kpi_helpers.errors import require
from kpi_helpers.stats import Floats

Arm = tuple[Floats, Floats, Floats]  # estimate, variance of one unit, units
Columns = tuple[Floats, Floats, Floats]  # units (...), means (..., k), covariance (..., k, k)
LEFT = 2.3e-10  # of the squares left as variance: less, and fewer than six digits of a float are


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Units of an arm with mean and covariance of what was measured of each: one column, or several.

    `value` is what arms are compared by and `variance` that of one unit.
    """

    n: float
    means: Floats
    covariance: Floats

    @classmethod
    def from_sums(cls, n: int, total: Any, total_of_squares: Any, *, shift: Any = 0) -> Self:
        """Moments of one column from Σ(x - shift) and Σ(x - shift)².

        Parameters: `n` units, at least 1; sums as ints or Decimals, which are exact, or as floats: of these give sums
        of x less a rough mean, and that as `shift`. Raises `KpiError` if no sample has these sums, or floats cancel so
        far that fewer than six digits of variance are left.

        >>> arm = Moments.from_sums(1000, 5200, 90000)
        >>> arm.value, round(arm.variance, 4)
        (5.2, 63.023)
        """
        return cls._of(n, [total], [[total_of_squares]], shift)

    @classmethod
    def _of(cls, n: int, totals: Sequence[Any], products: Sequence[Sequence[Any]], shift: Any = 0) -> Self:
        told = [n, *totals, *(p for row in products for p in row)]
        numbers = all(isinstance(v, int | float | Decimal | np.number) for v in told)
        fine = numbers and all(map(math.isfinite, told)) and n == int(n) >= 1
        require(fine, f"Sums {told} must be finite numbers, of a whole number of units, at least one.")
        exact = all(isinstance(v, int | Decimal) for v in told)
        kind = Fraction if exact else float
        t, q = [kind(v) for v in totals], [[kind(v) for v in row] for row in products]
        left = [[q[i][j] - a * b / n for j, b in enumerate(t)] for i, a in enumerate(t)]
        for i, j in np.argwhere(np.tri(len(t))):
            lost = i == j and not exact and t[i] != 0 and left[i][i] < LEFT * q[i][i]
            remedy = (
                "sum x less a rough mean and give that as shift, or give whole numbers or Decimals: these are exact."
            )
            require(not lost, f"Σx² = {products[i][i]} with Σx = {totals[i]} loses the variance in rounding: {remedy}")
            most = left[i][i] * left[j][j] * (1 if exact else 1 + 1e-9)
            fits = left[i][i] >= 0 if i == j else left[i][j] ** 2 <= most
            rule = f"Σxy = {products[i][j]} and Σx = {totals[i]} of n = {n} units: no sample has these sums."
            require(bool(fits), f"{rule} Were the sum and the sum of squares swapped?")
        covariance = np.array([[float(v) for v in row] for row in left]) / (n - 1 if n > 1 else math.nan)
        offset = Fraction(shift) if exact else shift
        return cls(n=n, means=np.array([float(v / n + offset) for v in t]), covariance=covariance)

    @property
    def columns(self) -> Columns:
        """Units, means and covariance as arrays."""
        return np.asarray(self.n, dtype=float), self.means, self.covariance

    @property
    def value(self) -> float:
        """What arms are compared by: the mean."""
        return float(self.means[0])

    @property
    def variance(self) -> float:
        """Variance of one unit."""
        return float(self.covariance[0, 0])


class RatioMoments(Moments):
    """An arm whose units bring a numerator and a denominator, such as orders and sessions: `value` is Σx / Σy."""

    @classmethod
    def from_sums(  # type: ignore[override]
        cls, n: int, numerator: Any, numerator_squares: Any, denominator: Any, denominator_squares: Any, products: Any
    ) -> Self:
        """Moments from n, Σx, Σx², Σy, Σy² and Σxy over the units that were randomised, as in `Moments.from_sums`.

        >>> round(RatioMoments.from_sums(5000, 1900, 3300, 10300, 36500, 5700).value, 6)
        0.184466
        """
        require(denominator > 0, f"denominator={denominator} must be above 0: a ratio needs something to divide by.")
        return cls._of(n, [numerator, denominator], [[numerator_squares, products], [products, denominator_squares]])

    @property
    def value(self) -> float:
        """Sum of numerators by sum of denominators."""
        return float(self.means[0] / self.means[1])

    @property
    def variance(self) -> float:
        """Of one unit, by the delta method."""
        return float(ratio_variance(self.means, self.covariance))


class CovariateMoments(Moments):
    """An arm whose units are known by an outcome and by what was known of them before: one covariate or several."""

    @classmethod
    def from_sums(  # type: ignore[override]
        cls, n: int, outcome: Any, outcome_squares: Any, covariate: Any, covariate_squares: Any, products: Any
    ) -> Self:
        """Moments from n, Σy, Σy², Σx, Σx² and Σxy, as in `Moments.from_sums`.

        Of k covariates: Σx and Σxy have k values and Σx² is a k × k table of the sums of their products.

        >>> CovariateMoments.from_sums(4000, 12000, 300000, 11800, 290000, 240000).value
        3.0
        """
        x, xx, xy = covariate, covariate_squares, products
        if not isinstance(covariate, Sequence | np.ndarray):
            x, xx, xy = [x], [[xx]], [xy]
        table = [[outcome_squares, *xy], *([b, *row] for b, row in zip(xy, xx, strict=True))]
        return cls._of(n, [outcome, *x], table)


def ratio_variance(means: ArrayLike, covariance: ArrayLike) -> Floats:
    """Variance of one unit of a ratio of means (..., 2) with covariance (..., 2, 2), by the delta method."""
    m, c = np.asarray(means), np.asarray(covariance)
    r = m[..., 0] / m[..., 1]
    spread = c[..., 0, 0] - 2 * r * c[..., 0, 1] + r**2 * c[..., 1, 1]
    return np.asarray(np.maximum(spread, 0) / m[..., 1] ** 2)


def adjusted(control: Columns, treatment: Columns) -> tuple[tuple[Arm, Arm, Arm], Floats, Floats]:
    """Arms less what their covariates explain: as `contrasts.means` takes them (arms, base), theta, variance taken off.

    An arm is n (...), means (..., 1 + k) and covariance (..., 1 + k, 1 + k), the outcome first.
    """
    (n0, m0, c0), (n1, m1, c1) = control, treatment
    n, apart = n0 + n1, m1 - m0
    within = (n0 - 1)[..., None, None] * c0 + (n1 - 1)[..., None, None] * c1
    whole = within + (n0 * n1 / n)[..., None, None] * apart[..., :, None] * apart[..., None, :]
    spread = np.diagonal(within, axis1=-2, axis2=-1)[..., 1:] > LEFT * np.diagonal(whole, axis1=-2, axis2=-1)[..., 1:]
    known = spread[..., :, None] & spread[..., None, :]  # a constant in each arm tells nothing of a unit
    theta = solved(np.where(known, whole[..., 1:, 1:], 0), np.where(spread, whole[..., 1:, 0], 0))
    line = np.concatenate([np.ones((*theta.shape[:-1], 1)), -theta], axis=-1)  # y - theta x, as weights
    part = np.concatenate([0 * line[..., :1], -theta], axis=-1)
    share = (n1 / n)[..., None]

    def times(a: Floats, c: Floats, b: Floats) -> Floats:
        return np.asarray(np.einsum("...i,...ij,...j->...", a, c, b))

    first = ((line * m0).sum(-1), times(line, c0, line), n0)
    second = ((line * m1).sum(-1), times(line, c1, line), n1)
    # the control's adjusted mean: at the covariates' mean over both arms, which treatment's units know too
    own, other = line - part + share * part, -share * part
    value = m0[..., 0] + (share * part * (m0 - m1)).sum(-1)
    variance = times(own, c0, own) / n0 + times(other, c1, other) / n1
    together = times(other, c1, line) / n1 - times(own, c0, line) / n0
    reduction = 1 - (first[1] / n0 + second[1] / n1) / (c0[..., 0, 0] / n0 + c1[..., 0, 0] / n1)
    return (first, second, (value, variance, together)), theta, reduction


def solved(a: Floats, b: Floats) -> Floats:
    """Solutions of a x = b for covariances `a`; a constant has 0, columns that repeat each other share theirs."""
    spread = np.sqrt(np.diagonal(a, axis1=-2, axis2=-1))
    scale = np.where(spread > 0, spread, 1)
    even = np.linalg.pinv(a / (scale[..., :, None] * scale[..., None, :]), rcond=LEFT, hermitian=True)
    return np.asarray((even @ (b / scale)[..., None])[..., 0] / scale)
