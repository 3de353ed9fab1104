"""A churn score without a contract: customers at a snapshot, leakage, fit, calibration on a later window, how good."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar, Self

import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri, xlog1py, xlogy

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.hazards import design, levels_of
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence, wilson
from kpi_helpers.units import as_table


def snapshot(
    orders: Any, at: date | str, *, observe_days: int = 365, gap_days: int = 0, outcome_days: int = 90
) -> ir.Table:
    """Customers who ordered in the days up to `at`, what was known of them then, and whether they ``churned`` after.

    Churned is who completed no order in the `outcome_days` that begin `gap_days` after `at`. A row a customer:
    ``n_orders, recency_days, days_per_order, recent_share`` (of orders, last 90 days) and ``revenue`` of the observed
    days, ``tenure_days`` since the first order of all, ``first_channel``; the last two columns where orders have them.
    `orders` as in the contract, an Ibis table, DataFrame or file. Raises `KpiError` if the data end before the outcome.

    >>> days = ["2026-01-05", "2026-03-01", "2026-01-09", "2026-05-01"]
    >>> orders = pd.DataFrame({"customer_id": ["a", "a", "b", "c"], "ordered_at": days})
    >>> told = snapshot(orders, "2026-01-31").order_by("customer_id")
    >>> told.select("customer_id", "recency_days", "churned").to_pyarrow().to_pylist()[1]
    {'customer_id': 'b', 'recency_days': 22, 'churned': 1}
    """
    day = date.fromisoformat(str(at)[:10])
    spans = (
        f"observe_days={observe_days}, outcome_days={outcome_days} must be 1 or more, gap_days={gap_days} not below 0."
    )
    require(min(observe_days, outcome_days) >= 1 and gap_days >= 0, spans)
    rows = as_table(orders).filter(_.customer_id.notnull(), _.ordered_at.notnull())
    rows = rows.mutate(day=_.ordered_at.cast("date").epoch_days().cast("int64") - (day - date(1970, 1, 1)).days)
    there, last = rows.columns, rows.day.max().to_pyarrow().as_py()
    ends = day + timedelta(gap_days + outcome_days)
    told = f"Whether they churn is known on {ends}, but the orders end " + (
        f"{day + timedelta(last)}." if last is not None else "before they begin."
    )
    require(
        last is not None and last >= gap_days + outcome_days, f"{told} Take an earlier snapshot or a shorter outcome."
    )
    if "status" in there:
        rows = rows.filter(_.status.fill_null("completed") == "completed")
    seen = (_.day <= 0) & (_.day > -observe_days)
    known: dict[str, Any] = {"n_orders": seen.sum(), "recency_days": -_.day.max(where=seen)}
    known |= {"tenure_days": -_.day.min(where=_.day <= 0), "recent": (seen & (_.day > -90)).sum()}
    known |= {"revenue": _.revenue.cast("float64").sum(where=seen)} if "revenue" in there else {}
    known |= {"first_channel": _.channel.argmin(_.ordered_at)} if "channel" in there else {}
    after = (_.day > gap_days) & (_.day <= gap_days + outcome_days)
    made = rows.group_by("customer_id").aggregate(**known, bought=after.sum()).filter(_.n_orders > 0)
    watched = (_.tenure_days + 1 < observe_days).ifelse(_.tenure_days + 1, observe_days)
    share, per_order = _.recent / _.n_orders.cast("float64"), watched / _.n_orders.cast("float64")
    made = made.mutate(recent_share=share, days_per_order=per_order, churned=(_.bought == 0).ifelse(1, 0))
    return made.drop("recent", "bought")


class LeakageCheck(Framed):
    """What would tell the score the future: each `check` of a `feature`, its value and whether it is an `alarm`."""

    columns: ClassVar = ("check", "feature", "value", "alarm")

    def sentence(self, language: str = "en") -> str:
        bad = [f for f, alarm in zip(self.feature, self.alarm, strict=True) if alarm]
        told = {"features": ", ".join(dict.fromkeys(bad)), "n": number(len(self.check), language)}
        return say(f"leakage_check.{'alarm' if bad else 'fine'}", language, **told)


def check_leakage(
    frame: pd.DataFrame, label: str, features: Sequence[str], *, feature_dates: Mapping[str, Any] | None = None,
    snapshot: date | str | None = None, outcome: tuple[date | str, date | str] | None = None, model: Any = None,
) -> LeakageCheck:  # fmt: skip
    """Ask whether features know what comes after the snapshot.

    A feature dated later than `snapshot`; one that tells the label alone (AUC above 0.95, missing values as a level);
    `outcome` (first and last day) that does not begin after it; and a score fitted to half of the rows with labels
    permuted (seeded), whose AUC on the other half must stay in its 99.9% band around 0.5. Parameters: `frame`, a row a
    customer; `feature_dates`, by feature a day or the column of days on which it was known. Raises `KpiError` if a
    column is absent or `label` is not 0 and 1.

    >>> frame = pd.DataFrame({"churned": [0, 1] * 20, "closed": [0, 1] * 20, "orders": [1, 2, 2, 1] * 10})
    >>> check_leakage(frame, "churned", ["closed", "orders"]).sentence()
    'Leakage: closed. Leave out what was not known at the snapshot, then fit again.'
    """
    y = _labels(frame, label)
    at, rows = pd.Timestamp(snapshot) if snapshot is not None else None, []
    for name, known in (feature_dates or {}).items():
        last = pd.to_datetime(frame[known] if known in frame else pd.Series([known])).max()
        require(at is not None, "feature_dates need snapshot, the day up to which features may be known.")
        rows.append(("date", name, str(last)[:10], bool(last >= at + pd.Timedelta(days=1))))
    if at is not None and outcome is not None:
        rows.append(("windows", label, str(outcome[0])[:10], bool(pd.Timestamp(outcome[0]) <= at)))
    for name in features:
        require_known(name, frame.columns, f"There is no column {name!r}.")
        column = frame[name]
        words = not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column))
        told = y.groupby(column, dropna=False).transform("mean") if words else column.rank(na_option="top")
        auc = _auc(y.to_numpy(), told.to_numpy(float))[0]
        rows.append(("alone", name, max(auc, 1 - auc), max(auc, 1 - auc) > 0.95))
    rng = np.random.default_rng(0)
    mixed = frame.assign(**{label: rng.permutation(y.to_numpy())}).iloc[rng.permutation(len(y))]
    half, rest = mixed.iloc[: len(y) // 2], mixed.iloc[len(y) // 2 :]
    try:
        score = fit_churn(half, label=label, features=features, model=model).score(rest)
        ones, n = _labels(rest, label).sum(), len(rest)
        auc, band = _auc(rest[label].to_numpy(), score)[0], 3.29 * np.sqrt((n + 1) / 12 / ones / (n - ones))
    except KpiError:  # an empty cell, a rare level: said by fit_churn itself
        auc, band = np.nan, 1.0
    rows.append(("permuted", label, auc, bool(abs(auc - 0.5) > band)))
    return LeakageCheck.of(rows)


def _labels(frame: pd.DataFrame, label: str) -> pd.Series:
    require_known(label, frame.columns, f"There is no column {label!r}.")
    y = frame[label].astype(float)
    bad, ones = int((~y.isin([0, 1])).sum()), int((y == 1).sum())
    require(not bad, f"{label} is neither 0 nor 1 in {bad} of {len(y)} rows. Write 1 for who churned, else 0.")
    require(0 < ones < len(y), f"{label} cannot be learned, because {ones} of {len(y)} rows churned.")
    return y


def _auc(y: Floats, score: Floats) -> tuple[float, float]:
    """Chance that who churned scores higher than who did not, and its variance by DeLong et al. (1988)."""
    rank = lambda v: pd.Series(v).rank().to_numpy()  # noqa: E731
    one, n1 = y == 1, int((y == 1).sum())
    n0 = len(y) - n1
    whole = rank(score)
    above, below = (whole[one] - rank(score[one])) / n0, 1 - (whole[~one] - rank(score[~one])) / n1
    parts = [v.var(ddof=1) / len(v) if len(v) > 1 else np.nan for v in (above, below)]
    return float(above.mean()), float(sum(parts))


class ChurnScore(Framed):
    """A fitted churn score: odds ratios of a standard deviation (of words: of the level against the first).

    Of a model of your own there are no rows. `intercept` and `slope` recalibrate its logit, 0 and 1 as fitted.
    """

    columns: ClassVar = ("term", "coefficient", "odds_ratio", "low", "high", "p_value")
    aside: ClassVar = ("features", "levels", "centre", "spread", "model", "label")

    def sentence(self, language: str = "en") -> str:
        told = {"n": number(self.n, language), "share": percent(self.n_churned / self.n, language)}
        ends = {k: number(self.whole[k], language, decimals=2) for k in ("intercept", "slope")}
        return say(f"churn_score.{'calibrated' if self.later else 'fitted'}", language, **told, **ends)

    def score(self, frame: pd.DataFrame) -> Floats:
        """Probability that each row churns."""
        x = (design(frame, self.features, self.levels) - self.centre) / self.spread
        if self.model is None:
            linear = x.to_numpy() @ np.array(self.coefficient)
        else:
            linear = logit(np.asarray(self.model.predict_proba(x.iloc[:, 1:]))[:, 1].clip(1e-15, 1 - 1e-15))
        return np.asarray(expit(self.intercept + self.slope * linear))

    def calibrated(self, later: pd.DataFrame) -> Self:
        """The same score with its logit moved and stretched to fit a later window (Platt 1999)."""
        y = _labels(later, self.label)
        linear = logit(self.score(later))
        b = _logit(y.to_numpy(), np.column_stack([np.ones(len(y)), linear]))[0]
        moved = {"intercept": b[0] + b[1] * self.intercept, "slope": b[1] * self.slope, "later": len(y)}
        return type(self)(frame=self.frame, whole={**self.whole, **moved})


def _logit(y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Coefficients of a logistic regression and their standard errors."""
    from statsmodels.discrete.discrete_model import Logit

    rule = "Features or their levels say the same twice: leave one out."
    require(bool(np.linalg.matrix_rank(x) == x.shape[1]), rule)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            fitted = Logit(y, x).fit(disp=0, maxiter=100)
            b, se, settled = fitted.params, fitted.bse, fitted.mle_retvals["converged"]
    except np.linalg.LinAlgError:
        settled, b, se = False, np.full(1, np.nan), np.full(1, np.nan)
    fine = settled and bool(np.isfinite(b).all() and np.isfinite(se).all() and np.abs(b[1:]).max(initial=0) < 30)
    require(
        fine, "Features together separate who churned from who did not: no finite coefficients fit. Leave some out."
    )
    return np.asarray(b), np.asarray(se)


def fit_churn(
    train: pd.DataFrame, *, label: str = "churned", features: Sequence[str], model: Any = None, confidence: float = 0.95
) -> ChurnScore:
    """Fit a churn score: a logistic regression of standardised features, or any `model` with fit and predict_proba.

    Parameters: `train`, a row a customer, such as `snapshot`; `label`, its column of 0 and 1; `features`, columns of
    numbers and words. Raises `KpiError` if a cell is empty (how many), or a feature separates who churned.

    >>> train = pd.DataFrame({"churned": [0, 0, 1, 1, 0, 1], "recency": [1, 9, 8, 12, 5, 4]})
    >>> fit_churn(train, features=["recency"]).score(train).round(3).tolist()
    [0.19, 0.659, 0.598, 0.81, 0.402, 0.341]
    """
    y, levels = _labels(train, label), levels_of(train, features)
    x = design(train, features, levels)
    split = {c: x[c].groupby(y.to_numpy()).agg(["min", "max"]) for c in x.columns[1:]}
    apart = [c for c, v in split.items() if v.loc[0, "max"] < v.loc[1, "min"] or v.loc[1, "max"] < v.loc[0, "min"]]
    pure = [c for c, v in levels.items() if y.groupby(train[c]).mean().isin([0, 1]).any()]
    numbers = [c for c in features if c not in levels]
    zero = pd.Series(0.0, x.columns)
    centre, spread = (
        zero.add(x[numbers].mean(), fill_value=0)[x.columns],
        (zero + 1).mul(x[numbers].std(ddof=0).replace(0, 1), fill_value=1)[x.columns],
    )
    whole: dict[str, Any] = {"n": len(y), "n_churned": int(y.sum()), "features": tuple(features), "levels": levels}
    whole |= {
        "label": label,
        "centre": centre,
        "spread": spread,
        "model": model,
        "intercept": 0.0,
        "slope": 1.0,
        "later": 0,
    }
    x = (x - centre) / spread
    if model is not None:
        model.fit(x.iloc[:, 1:], y.to_numpy())
        return ChurnScore.of([], **whole)
    found = ", ".join([*apart, *pure])
    rule = "tells who churned without error, or has a level where all or nobody did"
    require(
        not found,
        f"{found} {rule}: no finite coefficient fits. Was it known at the snapshot? Leave it out, or join levels.",
    )
    b, se = _logit(y.to_numpy(), x.to_numpy())
    z = ndtri((1 + checked_confidence(confidence)) / 2)
    from scipy.special import ndtr

    rows = zip(x.columns, b, np.exp(b), np.exp(b - z * se), np.exp(b + z * se), 2 * ndtr(-np.abs(b / se)), strict=True)
    return ChurnScore.of(rows, **whole)


class ScoreQuality(Framed):
    """How good probabilities are; rows are tenths of the customers, most likely leavers first.

    ``brier, log_loss`` beside those of the base rate, ``auc, average_precision, lift`` (of the first tenth) with their
    ``_low, _high``; a row: mean probability `predicted`, the `rate` that came true with its interval, `lift`, and the
    `captured` share of leavers up to it. What cannot be computed is NaN and `reason` says why.
    """

    columns: ClassVar = ("tenth", "predicted", "rate", "low", "high", "decile_lift", "captured")

    def sentence(self, language: str = "en") -> str:
        if self.reason:
            return say(f"score_quality.{self.reason}", language)
        told = {
            k: number(self.whole[k], language, decimals=2)
            for k in ("auc", "auc_low", "auc_high", "lift", "lift_low", "lift_high")
        }
        told |= {k: number(self.whole[k], language, decimals=4) for k in ("brier", "brier_base")}
        off = sum(not low <= p <= high for p, low, high in zip(self.predicted, self.low, self.high, strict=True))
        level = percent(self.confidence, language, decimals=0)
        return say("score_quality.told", language, level=level, off=off, **told)


def evaluate(label: ArrayLike, probability: ArrayLike, *, confidence: float = 0.95) -> ScoreQuality:
    """Judge probabilities of churn against what happened, on customers that neither fitted nor calibrated them.

    AUC with DeLong's variance on the logit scale (1988, Biometrics 44:837-845), average precision with the logit
    interval of Boyd, Eng & Page (2013, ECML PKDD), rates by Wilson; equal probabilities share their place. Parameters:
    `label` (n,) of 0 and 1; `probability` (n,) in [0, 1]. Raises `KpiError` if one is outside.

    >>> told = evaluate([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])  # documentation of scikit-learn
    >>> told.auc, round(told.average_precision, 4)
    (0.75, 0.8333)
    """
    y, p = np.asarray(label, float), np.asarray(probability, float)
    fits = y.ndim == 1 and y.shape == p.shape and len(y) > 0 and bool((np.isin(y, (0, 1)) & (p >= 0) & (p <= 1)).all())
    require(fits, "label must be 0 or 1 and probability in [0, 1], one of each a customer, none missing.")
    n, base, z = len(y), float(y.mean()), ndtri((1 + checked_confidence(confidence)) / 2)
    reason = "one_class" if base in (0, 1) else "constant" if np.ptp(p) == 0 else ""
    whole: dict[str, Any] = {"n": n, "prevalence": base, "confidence": confidence, "reason": reason}
    whole |= {"brier": ((p - y) ** 2).mean(), "brier_base": base * (1 - base)}
    for name, q in (("log_loss", p), ("log_loss_base", np.full(n, base))):
        whole[name] = float(-(xlogy(y, q) + xlog1py(1 - y, -q)).mean())
    if reason:
        nothing = {k + end: np.nan for k in ("auc", "average_precision", "lift") for end in ("", "_low", "_high")}
        return ScoreQuality.of([], **whole, **nothing)
    auc, variance = _auc(y, p)
    values, place, ties = np.unique(-p, return_inverse=True, return_counts=True)
    churned = np.bincount(place, y)
    found, seen = np.cumsum(churned), np.cumsum(ties)
    precision = float((churned * found / seen).sum() / y.sum())
    spreads = {
        "auc": (auc, variance / (auc * (1 - auc)) ** 2),
        "average_precision": (precision, 1 / (y.sum() * precision * (1 - precision))),
    }
    for name, (value, spread) in spreads.items():
        half = z * np.sqrt(spread) if 0 < value < 1 and spread > 0 else np.nan
        whole |= {
            name: value,
            f"{name}_low": float(expit(logit(value) - half)),
            f"{name}_high": float(expit(logit(value) + half)),
        }
    cuts = np.linspace(0, n, 11)
    came, said = (
        np.diff(np.interp(cuts, np.append(0, seen), np.append(0, np.cumsum(v)))) for v in (churned, -values * ties)
    )
    low, high = wilson(came, np.full(10, n / 10), confidence=confidence)
    rows = zip(
        range(1, 11),
        said / n * 10,
        came / n * 10,
        low,
        high,
        came / n * 10 / base,
        np.cumsum(came) / y.sum(),
        strict=True,
    )
    whole |= {"lift": came[0] / n * 10 / base, "lift_low": low[0] / base, "lift_high": min(high[0] / base, 1 / base)}
    return ScoreQuality.of(rows, **whole)
