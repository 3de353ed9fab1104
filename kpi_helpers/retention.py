"""How long customers stay: the retention of cohorts projected, and survival of finished and running customers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

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
    """Share still there just after each `time`, by `group`, with intervals on the scale log(-log S).

    `medians` has a row a group; `chi2, df, p_value` are of the log-rank test that all groups last equally long.
    """

    columns: ClassVar = ("group", "time", "at_risk", "events", "survival", "low", "high")
    aside: ClassVar = ("medians",)

    def sentence(self, language: str = "en") -> str:
        later, table = say("survival_curves.later", language), self.medians
        halves = [number(m, language, decimals=1) if np.isfinite(m) else later for m in table["median"]]
        named = ", ".join(f"{group} {m}".strip() for group, m in zip(table["group"], halves, strict=True))
        told = {"n": number(table["n"].sum(), language), "halves": named, "p": p_words(self.p_value, language)}
        return say(f"survival_curves.{'test' if self.df else 'sentence'}", language, **told)

    def drawn(self, language: str) -> str:
        """The curves as an HTML figure."""
        title, note = (say(f"survival_curves.{k}", language, level=f"{self.confidence:.0%}") for k in ("title", "note"))
        draw, alt = partial(plots.steps, frame=self.frame, language=language), self.sentence(language)
        return plots.chart(lambda axes, _narrow: draw(axes), title=title, note=note, alt=alt)


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
    _none_bad("durations", t.dtype.kind == "f" or t.min() < 0, lambda: ~(np.isfinite(t) & (t >= 0)), "below 0")
    _none_bad("observed", e.dtype.kind != "b", lambda: ~((e == 0) | (e == 1)), "neither 0 nor 1")
    _none_bad("weights", w is not None, lambda: ~((x := np.asarray(w, float)) >= 0) | np.isinf(x), "below 0")
    _none_bad("groups", label is not None, lambda: pd.isna(label), "without a name")
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
        parts.append(np.column_stack([curve.time, curve.at_risk, d[there], *curve[2:]]))
        medians.append((name, (c + d).sum(), d.sum(), *curve.reached(0.5)))
    tested = dict(zip(("chi2", "df", "p_value"), log_rank(times, counts[..., 1], counts[..., 0]), strict=True))
    half = pd.DataFrame(medians, columns=["group", "n", "events", "median", "low", "high"])
    frame = pd.DataFrame(np.vstack(parts), columns=list(SurvivalCurves.columns[1:]))
    frame.insert(0, "group", np.repeat(half["group"].to_numpy(dtype=object), [len(p) for p in parts]))
    return SurvivalCurves(frame=frame, whole=tested | {"confidence": confidence, "medians": half})


def _none_bad(name: str, unsure: bool, bad: Callable[[], Any], what: str) -> None:
    n_bad = int(np.sum(bad())) if unsure else 0
    require(n_bad == 0, f"{name}: {n_bad} are missing or {what}. Correct these rows or leave them out.")


class RetentionForecast(Framed):
    """Share that stays from one period to the next (`observed`: in fact), and that is there after it (`survival`)."""

    columns: ClassVar = (
        "period",
        "observed",
        *(f"{k}{e}" for k in ("retention", "survival") for e in ("", "_low", "_high")),
    )

    def sentence(self, language: str = "en") -> str:
        ends = {k: percent(self.frame[k].iloc[-1], language) for k in self.columns[5:]}
        return say("retention_forecast.sentence", language, n=number(self.period[-1], language), **ends)


class RetentionFit(Framed):
    """Shifted-beta-geometric: each customer leaves at a constant rate of its own, and the rates are Beta(alpha, beta).

    Rows are the two parameters, with intervals on the log scale. Retention rises with age though nobody changes.
    """

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
        told = [percent(r, language) for r in self.forecast(len(self.observed)).retention]
        return say("retention_fit.sentence", language, first=told[0], last=told[-1], n=len(told))


def fit_retention(survivors: Sequence[Any] | SurvivalCurves, *, confidence: float = 0.95) -> RetentionFit:
    """Fit how customers of a contract stay, by maximum likelihood, to project cohorts beyond what was seen.

    Parameters: `survivors`, customers of a cohort after 0, 1, 2, ... renewals, a list of such cohorts of any length, or
    what `survival` says of whole periods. Raises `KpiError` if counts rise, are none or too few, or do not tell customers apart. Fader & Hardie (2007),
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

    def told_by(theta: Floats, order: int) -> Any:
        """Minus the mean log-likelihood at the logs of alpha and beta, or its slope or curvature."""
        a, b = both = np.exp(theta)
        left, right = kept / (b + t), n / (a + b + t)
        slope = np.array([a * right.sum() - lost, b * (right.sum() - left.sum())]) / n[0]
        if order == 2:
            own = np.diag([lost / a**2, (left / (b + t)).sum()]) - (right / (a + b + t)).sum()
            return own * np.outer(both, both) / n[0] + np.diag(slope)
        return slope if order else (n @ np.log(a + b + t) - kept @ np.log(b + t) - lost * theta[0]) / n[0]

    value, jac, hess = (partial(told_by, order=order) for order in range(3))
    start, precise = np.log([1, (1 - rate) / rate]), {"gtol": 1e-10}
    found = minimize(value, start, jac=jac, hess=hess, method="trust-exact", options=precise)
    require(bool(np.abs(found.jac).max() < 1e-6), f"{told} its likelihood has no peak. {remedy}")
    covariance = np.linalg.inv(hess(found.x)) / n[0]
    error, at = np.sqrt(np.diag(covariance)), np.exp(found.x)
    ends = np.exp(ndtri((1 + checked_confidence(confidence)) / 2) * error)
    rows = zip(("alpha", "beta"), at, at * error, at / ends, at * ends, strict=True)
    whole = {"log_likelihood": float(-found.fun * n[0]), "confidence": confidence}
    return RetentionFit.of(rows, **whole, covariance=covariance, observed=tuple(kept / n))


def _renewals(survivors: Sequence[Any] | SurvivalCurves) -> tuple[Floats, Floats]:
    """Customers of all cohorts before each renewal, and after it."""
    if isinstance(survivors, SurvivalCurves):
        held = survivors.frame.set_index("time")
        require(held.index.is_unique, "survivors holds several groups. Fit one curve at a time.")
        held = held.reindex(np.arange(1, held.index.max() + 1))
        n = held["at_risk"].bfill().to_numpy()
        return n, n - held["events"].fillna(0).to_numpy()
    given = list(survivors)
    cohorts = [np.asarray(c, dtype=float) for c in (given if np.ndim(given[:1]) > 1 else [given])]
    for c in cohorts:
        whole = bool((np.isfinite(c) & (c >= 0) & (c == np.floor(c))).all())
        require(whole, f"survivors={c.tolist()} must be counts: whole numbers from 0, without gaps.")
        require(bool((np.diff(c) <= 0).all()), f"survivors={c.tolist()} rise: nobody joins a cohort after its start.")
    k = max(map(len, cohorts), default=0)
    require(k > 2, "survivors needs three counts or more: the start of a cohort and two renewals.")
    n, kept = np.sum([np.pad([c[:-1], c[1:]], ((0, 0), (0, k - len(c)))) for c in cohorts if len(c)], axis=0)
    return n[n > 0], kept[n > 0]
