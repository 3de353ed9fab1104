"""How often customers buy and whether they still do: BG/NBD, MBG/NBD and Pareto/NBD by maximum likelihood.

Of a customer they need `frequency` x (repeat purchases, one a period at most), `recency` t_x (time of the last) and
`age` T (time watched), both since the first. A `horizon` is a time in their unit, or words such as "39 weeks".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv, betaln, digamma, exprel, gammaln, hyp2f1, ndtri

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.result import Framed, number, say
from kpi_helpers.stats import Floats, weighted_quantile

MODELS = dict.fromkeys(("bg/nbd", "mbg/nbd"), ("r", "alpha", "a", "b")) | {"pareto/nbd": ("r", "alpha", "s", "beta")}
DAYS = {"day": 1, "week": 7, "month": 30.4375, "quarter": 91.3125, "year": 365.25}
FAR, NEAR = 14.0, 3e-6  # bound of log-parameters; half a bridge over a removable singularity
NODES = {n: (leggauss(n)[0] / 2 + 0.5, leggauss(n)[1] / 2) for n in (24, 96)}  # Gauss-Legendre on [0, 1]
Objective = Callable[[Floats], tuple[float, Floats]]


def in_units(horizon: Any, unit: str | None = None) -> Any:
    """Tell a time in the `unit` of the data: a number as it is, words where the unit is known."""
    if isinstance(horizon, str):
        told = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]+?)s?", horizon.strip().lower())
        if told is None or told[2] not in DAYS:
            raise KpiError(f"{horizon!r} is not a time. Write a number and one of {', '.join(DAYS)}: '39 weeks'.")
        if unit is None:
            raise KpiError(f"{horizon!r} needs the unit of the data. Fit with unit='week', say, or give a number.")
        return float(told[1]) * DAYS[told[2]] / DAYS[unit]
    time = np.asarray(horizon, dtype=float)
    require(bool((np.isfinite(time) & (time >= 0)).all()), f"horizon={horizon!r} must be a time of 0 or more.")
    return time


def checked(frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> tuple[Floats, ...]:
    """The three as float arrays of one shape; a `KpiError` tells how many rows break which rule, and the first."""
    given = [np.asarray(v, dtype=float) for v in (frequency, recency, age)]
    try:
        x, t, age = np.broadcast_arrays(*given)
    except ValueError:
        raise KpiError(
            f"frequency, recency and age have {[v.size for v in given]} rows. Give a row a customer."
        ) from None
    for broken, rule in (
        (~np.isfinite(x + t + age), "lack a value. Leave them out or correct them"),
        ((x < 0) | (x % 1 != 0), "have a frequency that is not 0, 1, 2, ... Count repeat purchases"),
        ((t < 0) | (age < 0), "have a time below 0. Are there dates after the end of the data?"),
        (t > age, "have recency > age. Measure both from the first purchase, in one unit"),
        ((x == 0) & (t > 0), "have a recency but no repeat purchase. Write 0 where frequency is 0"),
        ((x > 0) & (t == 0), "have a repeat purchase at time 0. Count purchases of one period as one"),
    ):
        if broken.any():
            first = ", ".join(map(str, np.flatnonzero(broken)[:3]))
            raise KpiError(f"{broken.sum()} of {x.size} rows (the first: {first}, counted from 0) {rule}.")
    return x, t, age


class Fit(Framed):
    """Parameters of a model with 95% intervals (of their logarithms); `notes` tell what to doubt.

    `log_likelihood` is in the units given, `gradient_norm` of a customer's mean, `covariance` of the log-parameters.
    """

    digits: ClassVar = 8
    columns: ClassVar = ("parameter", "estimate", "standard_error", "low", "high")
    aside: ClassVar = ("covariance", "notes", "gradient_norm")

    @classmethod
    def at(cls, parameters: Mapping[str, float], **whole: Any) -> Self:
        """The model at given parameters, for predictions."""
        whole = {"unit": None, "notes": (), "covariance": np.zeros((len(parameters),) * 2)} | whole
        return cls.of(((k, v, *[np.nan] * 3) for k, v in parameters.items()), **whole)

    @classmethod
    def climbed(
        cls, objective: Objective, start: Floats, scales: Mapping[str, float], n: float, shift: float = 0.0,
        shrink: float = 0.0, hessian: Floats | None = None, **whole: Any,
    ) -> Self:  # fmt: skip
        """The fit to `n` customers where the search ends, in the units given; time or money was divided by `scales`."""
        value, theta, gradient, hessian = _least(objective, start, hessian)
        size, axes = np.linalg.eigh(hessian)
        covariance = (axes / size) @ axes.T / n
        # numerical slopes know seven digits: the sixth is the last that each processor writes alike
        covariance = np.array([[float(f"{v:.6g}") for v in row] for row in covariance])
        at, sd = np.exp(theta) * list(scales.values()), np.sqrt(np.diag(covariance))
        sd = np.where(sd < 10, sd, np.inf)  # nothing is known
        rows = zip(scales, at, at * sd, *(at * np.exp(ndtri(q) * sd) for q in (0.025, 0.975)), strict=True)
        value, norm = shrink / 2 * float(theta @ theta) - value * n - shift, float(np.linalg.norm(gradient))
        edge = ["edge"] * bool(size[0] < 1e-6 or abs(theta).max() > FAR - 3) + ["not converged"] * (norm > 1e-6)
        told = {"log_likelihood": value, "aic": 2 * (len(theta) - value), "bic": len(theta) * np.log(n) - 2 * value}
        told |= {"gradient_norm": norm, "n_customers": n, "covariance": covariance, **whole}
        return cls.of(rows, **told, notes=tuple(edge))

    @property
    def parameters(self) -> dict[str, float]:
        """Estimates by name."""
        return dict(zip(self.parameter, self.estimate, strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors by name."""
        return dict(zip(self.parameter, self.standard_error, strict=True))

    def noting(self, *notes: str) -> Self:
        """The same with these notes."""
        return replace(self, whole={**self.whole, "notes": notes})


class PurchaseFit(Fit):
    """A fitted model of purchases, which predicts; times are in the unit of the data, or words where it is known."""

    def sentence(self, language: str = "en") -> str:
        told = {"n": number(self.n_customers, language), "model": self.model.upper()}
        return " ".join(say(f"purchase_fit.{key}", language, **told) for key in ("fitted", *self.notes))

    def probability_alive(self, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, later: Any = 0.0) -> Any:
        """Chance that a customer has not left for good, now or `later`, a time from now."""
        x, t, age, later = np.broadcast_arrays(*checked(frequency, recency, age), in_units(later, self.unit))
        r, alpha, c, d = p = self.frame["estimate"].to_numpy()
        if self.model == "pareto/nbd":
            parts = _cut(512, r + x.ravel(), t.ravel(), age.ravel())
            alive = np.concatenate([_pareto(p, *part)[1] for part in parts]).reshape(x.shape)
            return alive * ((d + age) / (d + age + later)) ** c
        k, z = x + (self.model == "mbg/nbd"), later / (alpha + age + later)
        alive = _geometric(p, r + x, t, age, _lost(c, d, k))[1]
        with np.errstate(all="ignore"):
            stays = np.asarray((1 - z) ** c * hyp2f1(c, c + d + k - r - x, c + d + k, z))
        if (lost := ~np.isfinite(stays)).any():  # no 2F1 is at hand: the mean over chances p to leave, of Beta(a, b)
            (at, share), (odds, n, b) = NODES[96], (v[lost][:, None] for v in (z / (1 - z), r + x, d + k))
            stays[lost] = (share * np.exp(-n * np.log1p(betaincinv(c, b, at) * odds))).sum(axis=1)
        return alive * stays

    def expected_purchases(self, horizon: Any, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Any:
        """Purchases to be expected of a customer within `horizon` from now."""
        alive, time = self.probability_alive(frequency, recency, age), in_units(horizon, self.unit)
        x, age, (r, alpha, c, d) = np.asarray(frequency, float), np.asarray(age, float), self.estimate
        if self.model == "pareto/nbd":
            long = np.log1p(time / (d + age))
            return alive * (r + x) / (alpha + age) * (d + age) * long * exprel((1 - c) * long)
        return alive * _while_alive(r + x, time / (alpha + age + time), c, d, x + (self.model == "mbg/nbd"))

    def expected_new(self, horizon: Any) -> Any:
        """Repeat purchases to be expected within `horizon` of a first purchase."""
        return self.expected_purchases(horizon, 0, 0, 0)

    def chance_of(self, n: Any, horizon: Any, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Any:
        """Chance of `n` purchases or more within `horizon` from now."""
        alive, time = self.probability_alive(frequency, recency, age), in_units(horizon, self.unit)
        x, age, (r, alpha, c, d) = np.asarray(frequency, float), np.asarray(age, float), self.estimate
        n = np.asarray(n, float)
        require(bool(((n >= 0) & (n % 1 == 0)).all()), f"n={n} must be a whole number of 0 or more.")
        some, k = np.maximum(n, 1), x + (self.model == "mbg/nbd")
        if self.model == "pareto/nbd":  # as many before the dropout, or before the horizon without one
            at, share = NODES[96]
            told = np.broadcast_arrays(np.log1p(time / (d + age)), alpha + age, d + age, some, r + x)
            long, a, b, most, shape = (v[..., None] for v in told)
            until = b * np.expm1(np.append(at, 1) * long)
            ends = np.concatenate([c * long * share * np.exp(-c * at * long), np.exp(-c * long)], axis=-1)
            chance = (ends * betainc(most, shape, until / (a + until))).sum(axis=-1)
        else:  # as many would be made, and none but the last ends it
            stays = np.exp(betaln(c, d + k + some - 1) - betaln(c, d + k))
            chance = stays * betainc(some, r + x, time / (alpha + age + time))
        return np.where(n > 0, alive * chance, 1.0)


def _lost(a: float, b: float, k: Any) -> Any:
    """Odds that the last of k tosses ended it, against none; nothing is tossed before the first."""
    return np.maximum(a / np.where(k > 0, b + k - 1, np.inf), 1e-300)


def _while_alive(r: Any, z: Any, a: float, b: float, k: Any) -> Any:
    """Expected purchases of who is alive, in Euler's form: the first parameters of its 2F1 stay small."""
    for gap, (da, db) in ((a - 1, (NEAR, 0)), (a + b - 1, (0, NEAR))):
        if abs(gap) < 0.99 * NEAR:  # a removable singularity: the line between both sides
            a, b = a - gap * (da > 0), b - gap * (db > 0)
            low, high = (_while_alive(r, z, a + side * da, b + side * db, k) for side in (-1, 1))
            return low + (high - low) * (gap / NEAR + 1) / 2
    c = a + b + k - 1
    with np.errstate(invalid="ignore"):
        found = np.asarray(c / (a - 1) * (1 - (1 - z) ** (a - 1) * hyp2f1(a - 1, c - r, c, z)))
    if (lost := ~np.isfinite(found)).any():  # no 2F1 is at hand: chances of n purchases or more are added up
        r, z, k = (np.broadcast_to(v, found.shape)[lost] for v in (r, z, k))
        found[lost], term, n = 0.0, np.ones(1), 0
        while term.max() > 1e-12:
            term, n = np.exp(betaln(a, b + k + n) - betaln(a, b + k)) * betainc(n + 1, r, z), n + 1
            found[lost] += term
    return found


def _cut(size: int, *arrays: Floats) -> Iterator[tuple[Floats, ...]]:
    """Pieces that stay in the processor's cache."""
    for start in range(0, len(arrays[0]), size):
        yield tuple(v[start : start + size] for v in arrays)


def _geometric(p: Floats, n: Floats, t: Floats, age: Floats, lost: Floats) -> tuple[Floats, ...]:
    """Of rows, with n = r + x: log-likelihood but for what depends on x alone, chance to be alive, gradient."""
    _, alpha, a, _ = p
    log_age = np.log(alpha + age)
    since = log_age - np.log(alpha + t)
    odds = n * since + np.log(lost)
    gone = np.exp(np.minimum(odds, 700))
    alive = 1 / (1 + gone)
    value = np.log(1 + gone) + np.maximum(odds - 700, 0) - n * log_age
    gone = gone * alive
    by_a = gone / a
    return value, alive, gone * since - log_age, -n * (alive / (alpha + age) + gone / (alpha + t)), by_a, -by_a * lost


def _pareto(p: Floats, n: Floats, t: Floats, age: Floats) -> tuple[Floats, ...]:
    """The same; times of dropout are integrated in v = log(min(alpha, beta) + time), as far as anything is left."""
    _, alpha, s, beta = p
    near, gap, (at, share) = min(alpha, beta), abs(alpha - beta), NODES[24]
    start, last_a, last_b = np.log(near + t), np.log(alpha + age), np.log(beta + age)
    fall = (near + t) * (n / (alpha + t) + (s + 1) / (beta + t)) - 1  # it only grows, so 45 of it are the end
    width = np.minimum(np.log(near + age) - start, 45 / np.maximum(fall, 1e-9))
    v = start[:, None] + width[:, None] * at
    y = np.exp(v)
    (log_a, a), (log_b, b) = sides = [(v, y), (np.log(y + gap), y + gap)]
    if alpha > beta:
        (log_b, b), (log_a, a) = sides
    gone = v + np.log(s * share) - n[:, None] * log_a - (s + 1) * log_b
    alive = -n * last_a - s * last_b
    top = np.maximum(alive, gone.max(axis=1))
    gone, alive = width[:, None] * np.exp(gone - top[:, None]), np.exp(alive - top)
    total = alive + gone.sum(axis=1)
    gone, alive = gone / total[:, None], alive / total
    by_r = -alive * last_a - np.einsum("ij,ij->i", gone, log_a)
    by_alpha = -n * (alive / (alpha + age) + (gone / a).sum(axis=1))
    by_s = (1 - alive) / s - alive * last_b - np.einsum("ij,ij->i", gone, log_b)
    by_beta = -s * alive / (beta + age) - (s + 1) * (gone / b).sum(axis=1)
    return top + np.log(total), alive, by_r, by_alpha, by_s, by_beta


def _objective(model: str, shrink: float, counts: Floats, *rows: Any) -> Objective:
    """Mean of -log-likelihood, penalised, and its gradient; `rows`: x, t, age, w, place in `counts`."""
    many, total, k = np.bincount(rows[4], rows[3], len(counts)), rows[3].sum(), counts + (model == "mbg/nbd")
    pareto = model == "pareto/nbd"
    parts = list(_cut(512 if pareto else 8192, *rows))

    def value(theta: Floats) -> tuple[float, Floats]:
        r, alpha, c, d = p = np.exp(theta)
        sums, lost = np.zeros(5), _lost(c, d, k)
        for x, t, age, w, kind in parts:
            told = _pareto(p, r + x, t, age) if pareto else _geometric(p, r + x, t, age, lost[kind])
            sums += [w @ told[0], *(w @ v for v in told[2:])]
        sums[0] += many @ gammaln(r + counts) + total * (r * theta[1] - gammaln(r))
        sums[1:3] += many @ digamma(r + counts) + total * (theta[1] - digamma(r)), total * r / alpha
        if pareto:
            sums += total * np.array([c * theta[3], 0, 0, theta[3], c / d])
        else:
            both = digamma(c + d) - digamma(c + d + k)
            sums[0] += many @ betaln(c, d + k) - total * betaln(c, d)
            sums[3:] += many @ both, many @ (both + digamma(d + k) - digamma(d))
        return (shrink / 2 * theta @ theta - sums[0]) / total, (shrink * theta - sums[1:] * p) / total

    return value


def _least(objective: Objective, theta: Floats, hessian: Floats | None) -> tuple[float, Floats, Floats, Floats]:
    """Minimum over log-parameters by BFGS and a step of Newton: value, place, gradient, Hessian there."""
    value, gradient = objective(theta)
    hessian = _curvature(objective, theta, gradient, np.eye(len(theta))) if hessian is None else hessian
    for _ in range(200):
        step = -np.linalg.solve(hessian, gradient)
        there = np.clip(theta + step / max(1, abs(step).max() / 3), -FAR, FAR)
        while not (new := objective(there))[0] <= value + 1e-14 and abs(there - theta).max() > 1e-9:
            there = theta + (there - theta) / 4
        s, y = there - theta, new[1] - gradient
        if s @ y > 1e-12 * (s @ s):
            hs = hessian @ s
            hessian = hessian + np.outer(y, y) / (s @ y) - np.outer(hs, hs) / (s @ hs)
        theta, (value, gradient) = there, new
        if abs(gradient).max() < 1e-9 or abs(s).max() < 1e-9:
            break
    hessian = _curvature(objective, theta, gradient, hessian)
    theta = np.clip(theta - np.linalg.solve(hessian, gradient), theta - 1e-3, theta + 1e-3)
    value, gradient = objective(theta)
    return value, theta, gradient, hessian


def _curvature(objective: Objective, theta: Floats, gradient: Floats, near: Floats) -> Floats:
    """Hessian, made positive, by differences of the gradient along steps of one length under another `near` it."""
    root = np.linalg.cholesky(near)
    found = root @ [(objective(theta + 1e-6 * v)[1] - gradient) / 1e-6 for v in np.linalg.inv(root)]
    size, axes = np.linalg.eigh((found + found.T) / 2)
    return np.asarray((axes * np.maximum(abs(size), 1e-9)) @ axes.T)


def _unique(x: Floats, t: Floats, age: Floats, w: Floats) -> tuple[Any, ...]:
    """Equal rows as one, by hashing, where ages repeat; else little would be gained."""
    import pandas as pd

    codes, kinds = zip(*(pd.factorize(v) for v in (age, t, x)), strict=True)
    n_ages, n_times, n_counts = map(len, kinds)
    if 2 * n_ages > len(x) or n_ages * n_times * n_counts > 2**62:
        return x, t, age, w
    row, code = pd.factorize((codes[2] * n_times + codes[1]) * n_ages + codes[0])
    rest, at = np.divmod(code, n_ages)
    return kinds[2][rest // n_times], kinds[1][rest % n_times], kinds[0][at], np.bincount(row, w)


def fit_purchases(
    frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, *, model: str = "bg/nbd",
    weights: ArrayLike | None = None, unit: str | None = None, shrink: float = 0.0,
) -> PurchaseFit:  # fmt: skip
    """Fit a model of purchases to customers: how fast they buy, how soon they leave, how much both differ.

    Parameters: `frequency`, `recency`, `age`, (n,) each, or one row for `weights` equal customers; `model`: in "bg/nbd"
    a customer may leave after each repeat purchase, in "mbg/nbd" after the first one too, in "pareto/nbd" at any time;
    `unit` of the times, one of `DAYS`; `shrink`, ridge on the log-parameters, with time in tenths of the longest age.
    Raises `KpiError` if rows are impossible or nobody bought again. References: Fader, Hardie & Lee (2005), Marketing
    Science 24:275-284; Batislam, Denizel & Filiztekin (2007), IJRM 24:201-209; Schmittlein, Morrison & Colombo (1987),
    Management Science 33:1-24.

    >>> fit = fit_purchases([0, 1, 2, 8], [0, 1.7, 30.4, 37], [39, 39, 39, 38], weights=[60, 20, 15, 5], unit="week")
    >>> round(float(fit.expected_purchases("1 year", 8, 37, 38)), 1)
    10.5
    """
    require_known(model, MODELS, f"model={model!r} is not known.")
    require(shrink >= 0, f"shrink={shrink} must be 0 (none) or more.")
    require(unit in (None, *DAYS), f"unit={unit!r} is not known. Write one of {', '.join(DAYS)}.")
    x, t, end = (np.atleast_1d(v) for v in checked(frequency, recency, age))
    w = np.ones(x.shape) if weights is None else np.asarray(weights, dtype=float)
    require(w.shape == x.shape and bool(((w > 0) & (w < np.inf)).all()), "weights must be above 0, one a row.")
    n, repeats, time = float(w.sum()), float(w @ x), float(w @ end)
    if repeats == 0:
        rate = f"What can be said: less than {3 / time:.2g} a {unit or 'unit of time'} each (95%)." if time else "Wait."
        raise KpiError(f"None of {n:g} customers bought again in {time:g} of time: no model can tell who will. {rate}")
    x, t, end, w = _unique(x, t, end, w)
    scale = end.max() / 10
    counts, kind = np.unique(x, return_inverse=True)
    rows = x, t / scale, end / scale, w, kind
    start, hessian = np.log([0.5, 0.25 * time / scale / repeats, 1, 2 if "bg" in model else 3]), None
    if len(x) > 5000 and np.count_nonzero(x[::16]) > 99:  # from where a part of the rows leads
        start, _, hessian = _least(_objective(model, shrink, counts, *(v[::16] for v in rows)), start, None)[1:]
    scales = {k: scale if k in ("alpha", "beta") else 1.0 for k in MODELS[model]}
    fit = PurchaseFit.climbed(
        _objective(model, shrink, counts, *rows), start, scales, n, shift=repeats * np.log(scale), shrink=shrink,
        hessian=hessian, model=model, unit=unit, n_rows=len(x),
    )  # fmt: skip
    c, d = fit.estimate[2:]
    stay = c / (c + d) < 1e-3 if "bg" in model else (d / (d + end.max())) ** c > 0.999
    top = counts[-1] > 5 * np.maximum(1, weighted_quantile(counts, np.bincount(kind, w), 0.999))
    notes = ("no dropout",) if stay else fit.notes  # which explains a search that ends at an edge
    return fit.noting(*["outlier"] * bool(top), *notes)
