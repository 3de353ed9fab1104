"""How often customers buy and whether they still do: BG/NBD, MBG/NBD and Pareto/NBD by maximum likelihood.

Of a customer they need `frequency` x (repeat purchases, one a period at most), `recency` t_x (time of the last one) and
`age` T (time watched), both since the first purchase. Equal customers are one row with a weight.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import betainc, betaln, digamma, expit, exprel, gammaln, hyp2f1, ndtri

from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import Framed, number, say
from kpi_helpers.stats import Floats, checked_confidence

MODELS = dict.fromkeys(("bg/nbd", "mbg/nbd"), ("r", "alpha", "a", "b")) | {
    "pareto/nbd": ("r", "alpha", "s", "beta")
}
DAYS = {"day": 1, "week": 7, "month": 30.4375, "quarter": 91.3125, "year": 365.25}
FAR, NEAR = 14.0, 3e-6  # bounds of log-parameters; distance from a removable singularity that is bridged


def in_units(horizon: ArrayLike, unit: str | None = None) -> Any:
    """Tell a time in units of the data: a number as it is, words such as "39 weeks" where their `unit` is known."""
    if isinstance(horizon, str):
        told = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]+?)s?", horizon.strip().lower())
        if told is None or told[2] not in DAYS:
            raise KpiError(
                f"horizon={horizon!r} is not a time. Write a number and one of {', '.join(DAYS)}: '39 weeks'."
            )
        if unit is None:
            raise KpiError(
                f"horizon={horizon!r} needs the unit of the data. Fit with unit='week', say, or give a number."
            )
        return float(told[1]) * DAYS[told[2]] / DAYS[unit]
    time = np.asarray(horizon, dtype=float)
    require(bool((np.isfinite(time) & (time >= 0)).all()), f"horizon={horizon!r} must be a time of 0 or more.")
    return time


def checked(frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> tuple[Floats, ...]:
    """The three as float arrays of one shape; a KpiError tells how many rows break which rule, and the first."""
    given = [np.asarray(v, dtype=float) for v in (frequency, recency, age)]
    try:
        x, t, age = np.broadcast_arrays(*given)
    except ValueError:
        lengths = ", ".join(str(v.size) for v in given)
        raise KpiError(f"frequency, recency and age have {lengths} rows. Give one of each a customer.") from None
    for broken, rule in (
        (~np.isfinite(x + t + age), "have a value that is missing or infinite. Leave them out or correct them"),
        ((x < 0) | (x % 1 != 0), "have a frequency that is not 0, 1, 2, ... Count repeat purchases"),
        ((t < 0) | (age < 0), "have a time below 0. Are dates after the end of the data?"),
        (t > age, "have recency > age. Measure both from the first purchase, in one unit"),
        ((x == 0) & (t > 0), "have no repeat purchase but a recency above 0. It is 0 where frequency is 0"),
        ((x > 0) & (t == 0), "have a repeat purchase at time 0. Count purchases of one period as one"),
    ):
        if broken.any():
            first = ", ".join(str(i) for i in np.flatnonzero(broken)[:3])
            raise KpiError(f"{int(broken.sum())} of {x.size} rows (the first at {first}, from 0) {rule}.")
    return x, t, age


class PurchaseFit(Framed):
    """Parameters of a model of purchases with 95% intervals (of their logarithms); it predicts for any customer.

    `log_likelihood` is the true one in the unit of the data; `gradient_norm` that of a customer's mean; `covariance`
    that of the log-parameters; `notes` tell what to doubt: "no dropout", "edge", "outlier", "not converged".
    """

    columns: ClassVar = ("parameter", "estimate", "standard_error", "low", "high")
    aside: ClassVar = ("covariance", "notes")

    @classmethod
    def at(cls, model: str, parameters: Mapping[str, float], unit: str | None = None) -> Self:
        """The model at given parameters, for predictions."""
        none = float("nan")
        rows = [(name, parameters[name], none, none, none) for name in MODELS[model]]
        return cls.of(rows, model=model, unit=unit, notes=())

    @property
    def parameters(self) -> dict[str, float]:
        """Estimates by name."""
        return dict(zip(self.parameter, self.estimate, strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors by name."""
        return dict(zip(self.parameter, self.standard_error, strict=True))

    def probability_alive(
        self, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, later: ArrayLike = 0.0
    ) -> Floats:
        """Chance that a customer will still buy some day, now or at age + `later` (a time, or words)."""
        x, t, age, later = np.broadcast_arrays(*checked(frequency, recency, age), in_units(later, self.unit))
        r, alpha, c, d = p = self.frame["estimate"].to_numpy()
        if self.model == "pareto/nbd":
            parts = _cut(512, x.ravel(), t.ravel(), age.ravel())
            alive = np.concatenate([_pareto(p, *part, 24)[1] for part in parts]).reshape(x.shape)
            return alive * ((d + age) / (d + age + later)) ** c
        k, z = x + (self.model == "mbg/nbd"), later / (alpha + age + later)
        now = expit(-_odds(p, k, x, np.log((alpha + age) / (alpha + t))))
        return now * (1 - z) ** c * hyp2f1(c, c + d + k - r - x, c + d + k, z)

    def expected_purchases(
        self, horizon: ArrayLike, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike
    ) -> Floats:
        """Purchases that a customer is expected to make within `horizon` (a time, or words) from now."""
        alive, time = self.probability_alive(frequency, recency, age), in_units(horizon, self.unit)
        x, age = np.asarray(frequency, dtype=float), np.asarray(age, dtype=float)
        r, alpha, c, d = self.frame["estimate"]
        if self.model == "pareto/nbd":
            long = np.log1p(time / (d + age))
            return alive * (r + x) / (alpha + age) * (d + age) * long * exprel((1 - c) * long)
        return alive * _while_alive(r + x, time / (alpha + age + time), c, d, x + (self.model == "mbg/nbd"))

    def expected_new(self, horizon: ArrayLike) -> Floats:
        """Repeat purchases that a new customer is expected to make within `horizon` of the first one."""
        return self.expected_purchases(horizon, 0, 0, 0)

    def chance_of(
        self, n: ArrayLike, horizon: ArrayLike, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike
    ) -> Floats:
        """Chance of at least `n` purchases within `horizon` from now."""
        n, time = np.asarray(n, dtype=float), np.asarray(in_units(horizon, self.unit))
        require(bool(((n >= 0) & (n % 1 == 0)).all()), f"n={n} must be a whole number of 0 or more.")
        alive = self.probability_alive(frequency, recency, age)
        x, age = np.asarray(frequency, dtype=float), np.asarray(age, dtype=float)
        r, alpha, c, d = self.frame["estimate"]
        m, some = np.maximum(n, 1), n > 0
        if self.model == "pareto/nbd":  # bought before the dropout, or before the horizon
            nodes, share = _nodes(96)
            long = np.asarray(np.log1p(time / (d + age)))[..., None]
            until = (d + age)[..., None] * np.expm1(np.append(nodes, 1) * long)
            dying = np.append(c * long * share * np.exp(-c * nodes * long), np.exp(-c * long), axis=-1)
            reach = betainc(m[..., None], (r + x)[..., None], until / ((alpha + age)[..., None] + until))
            return np.where(some, alive * (dying * reach).sum(axis=-1), 1.0)
        k = x + (self.model == "mbg/nbd")
        stays = np.exp(betaln(c, d + k + m - 1) - betaln(c, d + k))
        return np.where(some, alive * stays * betainc(m, r + x, time / (alpha + age + time)), 1.0)

    def interval(
        self, horizon: ArrayLike, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, *, confidence: float = 0.8
    ) -> tuple[Floats, Floats]:
        """Fewest and most purchases within `horizon`, each side missed with a chance of (1 - confidence) / 2 or less."""
        tail, data = (1 - checked_confidence(confidence)) / 2, (horizon, frequency, recency, age)
        bounds = []
        for level in (1 - tail, tail):  # the least n that is exceeded with this chance or less
            low, high = np.zeros(2)
            while (open_ := self.chance_of(high + 1, *data) > level).any():
                low, high = np.where(open_, high + 1, low), np.where(open_, 2 * high + 1, high)
            while (low < high).any():
                middle = (low + high) // 2
                above = self.chance_of(middle + 1, *data) > level
                low, high = np.where(above, middle + 1, low), np.where(above, high, middle)
            bounds.append(high)
        return bounds[0], bounds[1]

    def sentence(self, language: str = "en") -> str:
        told = {"model": self.model.upper(), "n": number(self.n_customers, language)}
        notes = [say(f"purchase_fit.{note}", language) for note in self.notes]
        return " ".join([say("purchase_fit.fitted", language, **told), *notes])


def _odds(p: Floats, k: Floats, x: Floats, since: Floats) -> Floats:
    """Log-odds that a customer left at the last purchase; k coins were tossed until then, `since` = log (a+T)/(a+t)."""
    r, _, a, b = p
    return np.asarray((r + x) * since + np.log(a) - np.log(np.where(k > 0, b + k - 1, np.inf)))


def _while_alive(r: Any, z: Any, a: float, b: float, k: Any) -> Any:
    """Expected purchases of a customer alive, by Euler's transform: the first parameters of 2F1 are small."""
    for gap, step in ((a - 1, (NEAR, 0.0)), (a + b - 1, (0.0, NEAR))):
        if abs(gap) < NEAR / 2:  # a removable singularity: the line between both sides
            low, high = (_while_alive(r, z, a - gap + side * step[0] + gap * (step[0] == 0), b, k) for side in (-1, 1))
            return low + (high - low) * (gap / NEAR + 1) / 2
    c = a + b + k - 1
    return c / (a - 1) * (1 - (1 - z) ** (a - 1) * hyp2f1(a - 1, c - r, c, z))


@cache
def _nodes(n: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre on [0, 1]."""
    at, share = leggauss(n)
    return (at + 1) / 2, share / 2


def _cut(size: int, *arrays: Floats) -> Iterator[tuple[Floats, ...]]:
    """Pieces that stay in the processor's cache."""
    for start in range(0, len(arrays[0]), size):
        yield tuple(v[start : start + size] for v in arrays)


def _geometric(p: Floats, x: Floats, t: Floats, age: Floats, k: Floats) -> tuple[Floats, ...]:
    """Log-likelihood of rows less what depends on x alone, chance of being alive, gradient of the first."""
    r, alpha, a, b = p
    log_age = np.log(alpha + age)
    since = log_age - np.log(alpha + t)
    odds = _odds(p, k, x, since)
    soft = np.logaddexp(0, odds)
    alive = np.exp(-soft)
    gone = 1 - alive
    by_alpha = -(r + x) * (alive / (alpha + age) + gone / (alpha + t))
    past = gone / np.where(k > 0, b + k - 1, np.inf)
    return soft - (r + x) * log_age, alive, gone * since - log_age, by_alpha, gone / a, -past


def _pareto(p: Floats, x: Floats, t: Floats, age: Floats, n_nodes: int) -> tuple[Floats, ...]:
    """The same; the time of dropout is integrated on v = log(min(alpha, beta) + time), as far as anything is left."""
    r, alpha, s, beta = p
    near, gap, (at, share) = min(alpha, beta), abs(alpha - beta), _nodes(n_nodes)
    start, n = np.log(near + t), r + x
    fall = n * (near + t) / (alpha + t) + (s + 1) * (near + t) / (beta + t) - 1
    width = np.minimum(np.log(near + age) - start, 45 / np.maximum(fall, 1e-9))
    v = start[:, None] + width[:, None] * at
    y = np.exp(v)
    far = np.log(y + gap)
    (log_a, log_b), (a, b) = ((v, far), (y, y + gap)) if alpha <= beta else ((far, v), (y + gap, y))
    inside = v + np.log(s * share) - n[:, None] * log_a - (s + 1) * log_b
    last_a, last_b = np.log(alpha + age), np.log(beta + age)
    alive = -n * last_a - s * last_b
    top = np.maximum(alive, inside.max(axis=1))
    inside = width[:, None] * np.exp(inside - top[:, None])
    alive = np.exp(alive - top)
    gone = inside.sum(axis=1)
    total = alive + gone
    alive, inside, gone = alive / total, inside / total[:, None], gone / total
    by_r = -alive * last_a - np.einsum("ij,ij->i", inside, log_a)
    by_alpha = -n * (alive / (alpha + age) + (inside / a).sum(axis=1))
    by_s = gone / s - alive * last_b - np.einsum("ij,ij->i", inside, log_b)
    by_beta = -s * alive / (beta + age) - (s + 1) * (inside / b).sum(axis=1)
    return top + np.log(total), alive, by_r, by_alpha, by_s, by_beta


def _objective(model: str, rows: tuple[Floats, ...], n_nodes: int) -> Callable[[Floats], tuple[float, Floats]]:
    """Log-likelihood of log-parameters and its gradient; gamma functions once for each x."""
    x, _t, _age, w = rows
    counts, many = np.unique(x, return_inverse=True)
    many, total = np.bincount(many, w), w.sum()
    pareto, extra = model == "pareto/nbd", float(model == "mbg/nbd")
    parts = list(_cut(512 if pareto else 8192, *rows))
    k = counts + extra

    def value(theta: Floats) -> tuple[float, Floats]:
        r, alpha, c, d = p = np.exp(theta)
        sums = np.zeros(5)
        for x, t, age, w in parts:
            told = _pareto(p, x, t, age, n_nodes) if pareto else _geometric(p, x, t, age, x + extra)
            sums += [w @ told[0], *(w @ v for v in told[2:])]
        sums[0] += many @ (gammaln(r + counts) - gammaln(r)) + total * r * np.log(alpha)
        sums[1] += many @ digamma(r + counts) - total * (digamma(r) - np.log(alpha))
        sums[2] += total * r / alpha
        if pareto:
            sums += total * np.array([c * np.log(d), 0, 0, np.log(d), c / d])
        else:
            both = digamma(c + d) - digamma(c + d + k)
            sums[0] += many @ (betaln(c, d + k) - betaln(c, d))
            sums[3:] += [many @ both, many @ (both + digamma(d + k) - digamma(d))]
        return sums[0], sums[1:] * p

    return value


def _unique(x: Floats, t: Floats, age: Floats, w: Floats) -> tuple[Floats, ...]:
    """Equal rows as one, by hashing, where ages repeat; else nothing is gained."""
    import pandas as pd

    codes, kinds = zip(*(pd.factorize(v) for v in (age, t, x)), strict=True)
    sizes = [len(v) for v in kinds]
    if sizes[0] > len(x) / 2 or float(sizes[0]) * sizes[1] * sizes[2] > 2**62:
        return x, t, age, w
    row, code = pd.factorize((codes[2] * sizes[1] + codes[1]) * sizes[0] + codes[0])
    rest, at = np.divmod(code, sizes[0])
    return kinds[2][rest // sizes[1]], kinds[1][rest % sizes[1]], kinds[0][at], np.bincount(row, w)


def fit_purchases(
    frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, *, model: str = "bg/nbd", weights: ArrayLike | None = None,
    unit: str | None = None, shrink: float = 0.0,
) -> PurchaseFit:  # fmt: skip
    """Fit a model of purchases."""
    from scipy.optimize import minimize

    x, t, age = checked(frequency, recency, age)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)
    scale, total = age.max() / 10, w.sum()
    rows = _unique(x, t, age, w)
    rows = rows[0], rows[1] / scale, rows[2] / scale, rows[3]

    def least(log_likelihood):
        def value(theta):
            v, g = log_likelihood(theta)
            return (shrink / 2 * theta @ theta - v) / total, (shrink * theta - g) / total

        return value

    search = least(_objective(model, rows, 16))
    found = minimize(
        search,
        np.zeros(4),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-FAR, FAR)] * 4,
        options={"ftol": 1e-12, "gtol": 1e-6},
    )
    theta = found.x
    final = _objective(model, rows, 24)
    f = least(final)
    h = 1e-4
    hess = np.array([(f(theta + h * e)[1] - f(theta - h * e)[1]) / (2 * h) for e in np.eye(4)])
    hess = (hess + hess.T) / 2
    for _ in range(2):
        theta = theta - np.linalg.solve(hess, f(theta)[1])
    value, _ = final(theta)
    g = f(theta)[1]
    cov = np.linalg.inv(hess) / total
    value -= x @ w * np.log(scale)
    est = np.exp(theta) * np.array([1, scale, 1, scale if model == "pareto/nbd" else 1])
    se = np.sqrt(np.diag(cov))
    z = ndtri(0.975)
    out = zip(MODELS[model], est, est * se, est * np.exp(-z * se), est * np.exp(z * se), strict=True)
    return PurchaseFit.of(
        out,
        model=model,
        log_likelihood=value,
        aic=8 - 2 * value,
        bic=4 * np.log(total) - 2 * value,
        gradient_norm=float(np.linalg.norm(g)),
        n_customers=total,
        n_rows=len(rows[0]),
        unit=unit,
        covariance=cov,
        notes=(),
        evals=found.nfev,
    )
