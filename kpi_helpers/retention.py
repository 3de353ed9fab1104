"""How long customers stay: the retention of cohorts projected, and survival of finished and running customers."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri

from kpi_helpers import plots
from kpi_helpers.comparisons import p_words
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence, kaplan_meier, log_rank


class SurvivalCurves(Framed):
    """Share still there just after each `time`, intervals by log(-log S); `medians` and log-rank test of the groups."""

    columns: ClassVar = ("group", "time", "at_risk", "events", "survival", "low", "high")
    aside: ClassVar = ("medians",)

    def sentence(self, language: str = "en") -> str:
        later, told = say("survival_curves.later", language), []
        for group, median in self.medians[["group", "median"]].itertuples(index=False):
            told.append(f"{group} {number(median, language, decimals=1) if np.isfinite(median) else later}".strip())
        n, p = number(self.medians["n"].sum(), language), p_words(self.p_value, language)
        return say(f"survival_curves.{'test' if self.df else 'sentence'}", language, n=n, p=p, halves=", ".join(told))

    def drawn(self, language: str) -> str:
        """The curves as an HTML figure."""
        title, note = (say(f"survival_curves.{k}", language, level=f"{self.confidence:.0%}") for k in ("title", "note"))
        told = {"title": title, "note": note, "alt": self.sentence(language)}
        return plots.chart(lambda axes, _narrow: plots.steps(axes, self.frame, language), **told)


def survival(
    durations: ArrayLike, observed: ArrayLike, *, weights: ArrayLike | None = None, confidence: float = 0.95,
    groups: ArrayLike | None = None,
) -> SurvivalCurves:  # fmt: skip
    """Tell how long customers stay, the running ones counted as far as they got (Kaplan-Meier), by group if wanted.

    Parameters, all (n,): `durations` from 0, in any one unit; `observed`, 1 or true if it ended then, 0 or false if it
    still runs; `weights`, customers that a row stands for; `groups` are compared by the log-rank test. Raises a
    `KpiError` that counts the rows where something is none of these.

    >>> survival([1, 2, 2, 3], [1, 1, 0, 1]).survival
    (0.75, 0.5, 0.0)
    """
    t, e = np.asarray(durations), np.asarray(observed)
    w, label = (None if v is None else np.asarray(v) for v in (weights, groups))
    sizes = {len(v) for v in (t, e, w, label) if v is not None}
    require(len(sizes) == 1 and len(t) > 0, f"durations and the rest have {sizes} rows: all need as many, 1 or more.")
    require(t.dtype.kind in "iuf", f"durations are {t.dtype}. Give numbers of days or months.")
    checks = [("durations", np.isfinite(t) & (t >= 0), "below 0")]
    checks += [("observed", (e == 0) | (e == 1), "neither 0 nor 1")] if e.dtype.kind != "b" else []
    checks += [("weights", np.isfinite(w) & (w >= 0), "below 0")] if w is not None else []
    checks += [("groups", pd.notna(label), "without a name")] if label is not None else []
    for name, good, what in checks:
        n_bad = int((~good).sum())
        require(n_bad == 0, f"{name}: {n_bad} are missing or {what}. Correct these rows or leave them out.")
    code, names = (0, [""]) if label is None else pd.factorize(label, sort=True)
    if t.max() <= 2 * len(t) + 1000 and (t.dtype.kind in "iu" or bool((t == np.floor(t)).all())):
        times, at = np.arange(int(t.max()) + 1), t.astype(np.int64, copy=False)
    else:
        times, at = np.unique(t, return_inverse=True)
    cell = 2 * (at if label is None else code * len(times) + at)
    cell += e.astype(bool)
    counts = np.bincount(cell, w, minlength=2 * len(names) * len(times)).reshape(len(names), len(times), 2)
    parts, medians = [], []
    for name, (c, d) in zip(map(str, names), np.moveaxis(counts, 2, 1), strict=True):
        there = c + d > 0
        curve = kaplan_meier(times[there], d[there], c[there], confidence=confidence)
        parts.append(pd.DataFrame({**curve._asdict(), "group": name, "events": d[there].astype(float)}))
        medians.append((name, (c + d).sum(), d.sum(), *curve.reached(0.5)))
    tested = dict(zip(("chi2", "df", "p_value"), log_rank(times, counts[..., 1], counts[..., 0]), strict=True))
    half = pd.DataFrame(medians, columns=["group", "n", "events", "median", "low", "high"])
    frame = pd.concat(parts, ignore_index=True)[list(SurvivalCurves.columns)]
    return SurvivalCurves(frame=frame, whole=tested | {"confidence": confidence, "medians": half})


class RetentionForecast(Framed):
    """Share that stays from one period to the next (`observed`: in fact), and that is there after it (`survival`)."""

    digits: ClassVar = 8
    columns: ClassVar = (
        "period", "observed", "retention", "retention_low", "retention_high", "survival", "survival_low",
        "survival_high",
    )  # fmt: skip

    def sentence(self, language: str = "en") -> str:
        ends = {k: percent(self.frame[k].iloc[-1], language) for k in self.columns[5:]}
        return say("retention_forecast.sentence", language, n=number(self.period[-1], language), **ends)


class RetentionFit(Framed):
    """Shifted-beta-geometric: each leaves at a constant rate of its own, Beta(alpha, beta); intervals by logarithms."""

    digits: ClassVar = 8
    columns: ClassVar = ("parameter", "estimate", "standard_error", "low", "high")
    aside: ClassVar = ("covariance", "observed")
    parameters = property(lambda self: dict(zip(self.parameter, self.estimate, strict=True)), doc="By name.")
    standard_errors = property(lambda self: dict(zip(self.parameter, self.standard_error, strict=True)), doc="By name.")

    def forecast(self, periods: int) -> RetentionForecast:
        """Retention and survival in periods 1 to `periods` of a cohort, with the error of the parameters."""
        require(periods == int(periods) and periods >= 1, f"periods={periods!r} must be a whole number from 1.")
        (a, b), t = self.estimate, np.arange(int(periods))
        stays, all_log = np.log((b + t) / a), np.log((b + t) / (a + b + t)).cumsum()
        slopes = np.array([[-a / (a + b + t), b / (b + t) - b / (a + b + t)]]).cumsum(axis=2) / -np.expm1(all_log)
        slopes = np.concatenate([[[-np.ones(len(t)), b / (b + t)]], slopes])  # of both logits by log alpha, log beta
        at = np.array([stays, logit(np.exp(all_log))])
        half = ndtri((1 + self.confidence) / 2) * np.sqrt(np.einsum("vit,ij,vjt->vt", slopes, self.covariance, slopes))
        found = expit(np.stack([at, at - half, at + half], axis=1)).reshape(6, -1)
        observed = np.resize([*self.observed, *[np.nan] * len(t)], len(t))
        return RetentionForecast.of(zip(t + 1, observed, *found, strict=True), confidence=self.confidence)

    def sentence(self, language: str = "en") -> str:
        first, *_between, last = (percent(r, language) for r in self.forecast(len(self.observed)).retention)
        return say("retention_fit.sentence", language, first=first, last=last, n=len(self.observed))


def fit_retention(survivors: Sequence[float] | SurvivalCurves, *, confidence: float = 0.95) -> RetentionFit:
    """Fit how customers of a contract stay, by maximum likelihood, to project cohorts beyond what was seen.

    Parameters: `survivors`, customers of a cohort after 0, 1, 2, ... renewals, or what `survival` says, in
    whole periods. Raises `KpiError` if counts rise, are too few, or do not tell customers apart. Fader & Hardie (2007),
    Journal of Interactive Marketing 21:76-90.

    >>> fit = fit_retention([1000, 869, 743, 653, 593, 551, 517, 491])
    >>> {k: round(v, 3) for k, v in fit.parameters.items()}, round(fit.log_likelihood, 1)  # theirs: .668, 3.806
    ({'alpha': 0.668, 'beta': 3.806}, -1611.2)
    """
    from scipy.optimize import minimize

    n, kept = _renewals(survivors)
    t, lost, rate = np.arange(len(n)), (n - kept).sum(), (n - kept).sum() / max(n.sum(), 1)
    told, remedy = "The model cannot be fitted, because", f"Churn in each period is {rate:.2%}: project with that."
    require(bool((n - kept)[1:].any()), f"{told} nobody is known to have left after the first period. Give more.")
    rises = kept @ t > n @ t * (1 - rate)  # slope of the likelihood where all customers are alike
    require(bool(rises), f"{told} retention does not rise with age: customers seem to be alike. {remedy}")

    def loss(theta: Floats) -> tuple[float, Floats]:
        """Minus the mean log-likelihood at the logs of alpha and beta, and its slope."""
        a, b = np.exp(theta)
        left, right = (kept / (b + t)).sum(), (n / (a + b + t)).sum()
        value = n @ np.log(a + b + t) - kept @ np.log(b + t) - lost * theta[0]
        return value / n[0], np.array([a * right - lost, b * (right - left)]) / n[0]

    def curvature(theta: Floats) -> Floats:
        a, b = both = np.exp(theta)
        own = np.diag([lost / a**2, (kept / (b + t) ** 2).sum()]) - (n / (a + b + t) ** 2).sum()
        return np.asarray(own * np.outer(both, both) / n[0] + np.diag(loss(theta)[1]))

    start, precise = np.log([1, (1 - rate) / rate]), {"gtol": 1e-10}
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options=precise)
    require(bool(np.abs(found.jac).max() < 1e-6), f"{told} its likelihood has no peak. {remedy}")
    covariance = np.linalg.inv(curvature(found.x)) / n[0]
    error, at = np.sqrt(np.diag(covariance)), np.exp(found.x)
    ends = np.exp(ndtri((1 + checked_confidence(confidence)) / 2) * error)
    rows = zip(("alpha", "beta"), at, at * error, at / ends, at * ends, strict=True)
    whole = {"log_likelihood": float(-found.fun * n[0]), "confidence": confidence}
    return RetentionFit.of(rows, **whole, covariance=covariance, observed=tuple(kept / n))


def _renewals(survivors: Sequence[float] | SurvivalCurves) -> tuple[Floats, Floats]:
    """Customers before each renewal, and after it."""
    if isinstance(survivors, SurvivalCurves):
        held = survivors.frame.set_index("time")
        require(held.index.is_unique, "survivors holds several groups. Fit one curve at a time.")
        held = held.reindex(np.arange(1, held.index.max() + 1))
        n = held["at_risk"].bfill().to_numpy()
        return n, n - held["events"].fillna(0).to_numpy()
    c = np.asarray(survivors, dtype=float)
    fits = bool((np.isfinite(c) & (c >= 0) & (c == np.floor(c))).all() and (np.diff(c) <= 0).all())
    require(fits, f"survivors={c.tolist()} must be counts, whole numbers from 0 that never rise: nobody joins late.")
    require(len(c) > 2, "survivors needs three counts or more: the start of a cohort and two renewals.")
    return c[:-1][c[:-1] > 0], c[1:][c[:-1] > 0]
