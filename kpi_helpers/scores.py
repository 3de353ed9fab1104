"""A churn score without a contract: customers at a snapshot, leakage, fit, calibration on a later window, how good."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar, Self

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri, xlog1py, xlogy

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.hazards import design, ratios
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, auc, checked_confidence, wilson
from kpi_helpers.units import as_table

ALONE, PERMUTED = 0.95, 3.29  # AUC of one feature that is too good; z of the 99.9% band of permuted labels


def snapshot(
    orders: Any, at: date | str, *, observe_days: int = 365, gap_days: int = 0, outcome_days: int | None = 90
) -> ir.Table:
    """Customers who ordered in the days up to `at`, what was known of them then, and whether they ``churned`` after.

    Churned: no completed order in the `outcome_days` (None: not asked) that begin `gap_days` after `at`. A row a
    customer: ``n_orders``, ``recency_days``, ``days_per_order``, ``recent_share`` (of orders, last 90 days) and
    ``revenue`` of the observed days; ``tenure_days`` and ``first_channel`` of the first order of all. Parameters:
    `orders` as in the contract (Ibis, DataFrame or file; revenue, channel, status may be absent); days are whole ones.
    Raises `KpiError` if the orders end before the outcome.

    >>> days = ["2026-01-05", "2026-03-01", "2026-01-09", "2026-05-01"]
    >>> orders = pd.DataFrame({"customer_id": ["a", "a", "b", "c"], "ordered_at": days})
    >>> told = snapshot(orders, "2026-01-31").order_by("customer_id")
    >>> told.select("customer_id", "recency_days", "churned").to_pyarrow().to_pylist()[1]
    {'customer_id': 'b', 'recency_days': 22, 'churned': 1}
    """
    day, length = date.fromisoformat(str(at)[:10]), 1 if outcome_days is None else outcome_days
    given = f"observe_days={observe_days}, outcome_days={outcome_days}, gap_days={gap_days}"
    require(min(observe_days, length, gap_days + 1) >= 1, f"{given}: windows need a day or more, a gap 0 or more.")
    until = gap_days + (outcome_days or 0)
    rows = as_table(orders).filter(_.customer_id.notnull(), _.ordered_at.notnull())
    rows = rows.mutate(day=_.ordered_at.cast("date").epoch_days().cast("int64") - (day - date(1970, 1, 1)).days)
    first, last = (v.to_pyarrow().as_py() for v in (rows.day.min(), rows.day.max()))
    ends = "there are none" if last is None else f"the last is of {day + timedelta(last)}"
    rule = f"Who churned is known from orders up to {day + timedelta(until)}, but {ends}."
    require(last is not None and last >= until, f"{rule} Take an earlier snapshot or a shorter outcome.")
    require(first <= 0, f"No order is of {day} or earlier: nothing is known of anybody. Take a later snapshot.")
    if "status" in rows.columns:
        rows = rows.filter(_.status.fill_null("completed") == "completed")
    rows = rows.mutate(began=_.ordered_at.min().over(ibis.window(group_by="customer_id")))
    seen = (_.day <= 0) & (_.day > -observe_days)
    known = {"n_orders": seen.sum(), "recency_days": -_.day.max(where=seen), "tenure_days": -_.day.min()}
    known |= {"revenue": _.revenue.cast("float64").sum(where=seen)} if "revenue" in rows.columns else {}
    known |= {"first_channel": _.channel.min(where=_.ordered_at == _.began)} if "channel" in rows.columns else {}
    known |= {"recent": (seen & (_.day > -90)).sum(), "after": ((_.day > gap_days) & (_.day <= until)).sum()}
    made = rows.group_by("customer_id").aggregate(**known).filter(_.n_orders > 0)
    watched, n = (_.tenure_days + 1 < observe_days).ifelse(_.tenure_days + 1, observe_days), _.n_orders.cast("float64")
    label = {} if outcome_days is None else {"churned": (_.after == 0).ifelse(1, 0)}
    return (
        made.mutate(days_per_order=watched / n, recent_share=_.recent / n, **label)
        .drop("recent", "after")
        .order_by("customer_id")
    )


class LeakageCheck(Framed):
    """Whether features know the future: each `check` of a `feature`, its `value` and whether it is an `alarm`."""

    digits: ClassVar = 8
    columns: ClassVar = ("check", "feature", "value", "alarm")

    def sentence(self, language: str = "en") -> str:
        bad = dict.fromkeys(f for f, alarm in zip(self.feature, self.alarm, strict=True) if alarm)
        told = {"features": ", ".join(bad), "n": number(len(self.check), language)}
        return say(f"leakage_check.{'alarm' if bad else 'fine'}", language, **told)


def check_leakage(
    frame: pd.DataFrame, label: str, features: Sequence[str], *, feature_dates: Mapping[str, Any] | None = None,
    snapshot: date | str | None = None, outcome: tuple[date | str, date | str] | None = None, model: Any = None,
) -> LeakageCheck:  # fmt: skip
    """Ask whether features know what came after the snapshot.

    Alarms: a feature dated later than `snapshot`; an `outcome` (first and last day) that does not begin after it; a
    feature that tells the label alone (AUC above 0.95, empty cells count as a value); a score fitted to half of the
    rows with labels permuted (seeded) whose AUC on the other half leaves its 99.9% band around 0.5 (NaN if it cannot be
    fitted). Parameters: `frame`, a row a customer; `feature_dates`, by feature the day when it was known or the column
    of such days; `model` as in `fit_churn`. Raises `KpiError` if a column is absent or `label` is not 0 and 1.

    >>> frame = pd.DataFrame({"churned": [0, 1] * 20, "closed": [0, 1] * 20, "orders": [1, 2, 2, 1] * 10})
    >>> check_leakage(frame, "churned", ["closed", "orders"]).sentence()
    'Leakage: closed. Leave out what was not known at the snapshot, then fit again.'
    """
    rows: list[tuple[str, str, Any, bool]] = []
    y, at = _labels(frame, label, features), pd.Timestamp(date.max if snapshot is None else snapshot)
    require(snapshot is not None or not (feature_dates or outcome), "Dates need snapshot, the last day that is known.")
    for name, known in (feature_dates or {}).items():
        latest = pd.to_datetime(frame[known] if known in frame else pd.Series([known])).max()
        rows.append(("date", name, str(latest)[:10], bool(latest >= at.normalize() + pd.Timedelta(days=1))))
    if outcome is not None:
        rows.append(("windows", label, str(outcome[0])[:10], bool(pd.Timestamp(outcome[0]) <= at)))
    for name in features:
        column, kinds = frame[name], pd.api.types
        ordered = kinds.is_numeric_dtype(column) or kinds.is_datetime64_any_dtype(column)
        told = column.rank(na_option="top") if ordered else y.groupby(column, dropna=False).transform("mean")
        alone = auc(told, y)[0]
        rows.append(("alone", name, max(alone, 1 - alone), max(alone, 1 - alone) > ALONE))
    rng = np.random.default_rng(0)
    mixed = frame.assign(**{label: rng.permutation(y.to_numpy())}).iloc[rng.permutation(len(y))]
    half, rest = mixed.iloc[: len(y) // 2], mixed.iloc[len(y) // 2 :]
    try:
        score, shuffled = fit_churn(half, label=label, features=features, model=model).score(rest), _labels(rest, label)
        found, ones, n = auc(score, shuffled)[0], shuffled.sum(), len(rest)
        band = PERMUTED * np.sqrt((n + 1) / 12 / ones / (n - ones))  # of the Mann-Whitney statistic
    except KpiError:  # an empty cell, a rare level: `fit_churn` on the frame itself says which
        found, band = np.nan, 0.5
    return LeakageCheck.of([*rows, ("permuted", label, found, bool(abs(found - 0.5) > band))])


class ChurnScore(Framed):
    """A churn score: odds ratios for a standard deviation of numbers, of words for the level against the first.

    A model of one's own has no rows. `intercept` and `slope` recalibrate the logit: 0 and 1 as fitted.
    """

    digits: ClassVar = 8
    columns: ClassVar = ("term", "coefficient", "odds_ratio", "low", "high", "p_value")
    aside: ClassVar = ("features", "levels", "centre", "spread", "model", "label")

    def sentence(self, language: str = "en") -> str:
        told = {"n": number(self.n, language), "share": percent(self.n_churned / self.n, language)}
        told |= {k: number(self.whole[k], language, decimals=2) for k in ("intercept", "slope")}
        return say(f"churn_score.{'calibrated' if self.n_later else 'fitted'}", language, **told)

    def score(self, frame: pd.DataFrame) -> Floats:
        """Probability that each row churns."""
        x = (design(frame, self.features, self.levels)[0] - self.centre) / self.spread
        if self.model is None:
            linear = x.to_numpy() @ np.array(self.coefficient)
        else:
            linear = logit(np.asarray(self.model.predict_proba(x.iloc[:, 1:]))[:, 1].clip(1e-15, 1 - 1e-15))
        # rounded, so that equals stay equal on any processor
        return np.asarray(np.round(expit(self.intercept + self.slope * linear), 12))

    def calibrated(self, later: pd.DataFrame) -> Self:
        """The same score, its logit moved and stretched to the rates of a later window (Platt 1999)."""
        told = pd.DataFrame({"constant": 1.0, "score": logit(self.score(later))})
        (_constant, a, *_more), (_score, b, *_more) = _logit(_labels(later, self.label), told)
        moved = {"intercept": a + b * self.intercept, "slope": b * self.slope, "n_later": len(later)}
        return type(self)(frame=self.frame, whole={**self.whole, **moved})


def fit_churn(
    train: pd.DataFrame, *, label: str = "churned", features: Sequence[str], model: Any = None, confidence: float = 0.95
) -> ChurnScore:
    """Fit a churn score: a logistic regression of standardised features, or any `model` with fit and predict_proba.

    Parameters: `train`, a row a customer, such as `snapshot` makes; `label`, its column of 0 and 1; `features`, columns
    of numbers and words. Raises `KpiError` if cells are empty (how many), or features separate who churned.

    >>> train = pd.DataFrame({"churned": [0, 0, 1, 1, 0, 1], "recency": [1, 9, 8, 12, 5, 4]})
    >>> fit_churn(train, features=["recency"]).score(train).round(3).tolist()
    [0.19, 0.659, 0.598, 0.81, 0.402, 0.341]
    """
    y, (x, levels) = _labels(train, label), design(train, features)
    scaled = x[[c for c in features if c not in levels]]
    centre = scaled.mean().reindex(x.columns, fill_value=0.0)
    spread = scaled.std(ddof=0).replace(0, 1).reindex(x.columns, fill_value=1.0)
    x = (x - centre) / spread
    if model is not None:
        model.fit(x.iloc[:, 1:], y.to_numpy())
    rows = _logit(y, x, confidence) if model is None else []
    whole: dict[str, Any] = {"n": len(y), "n_churned": int(y.sum()), "n_later": 0, "features": tuple(features)}
    whole |= {"label": label, "levels": levels, "centre": centre, "spread": spread, "model": model}
    return ChurnScore.of(rows, **whole, intercept=0.0, slope=1.0, confidence=confidence)


def _labels(frame: pd.DataFrame, label: str, features: Sequence[str] = ()) -> pd.Series:
    for name in (label, *features):
        require_known(name, frame.columns, f"There is no column {name!r}.")
    y = frame[label].astype(float)
    bad, ones = int((~y.isin([0, 1])).sum()), int((y == 1).sum())
    require(not bad, f"{label} is neither 0 nor 1 in {bad} of {len(y)} rows. Write 1 for who churned, else 0.")
    require(0 < ones < len(y), f"{label} cannot be learned, because {ones} of {len(y)} rows churned.")
    return y


def _logit(y: pd.Series, x: pd.DataFrame, confidence: float = 0.95) -> list[tuple[Any, ...]]:
    """Rows of a logistic regression."""
    import statsmodels.api as sm  # type: ignore[import-untyped]

    def fit(scaled: pd.DataFrame) -> tuple[Any, Any]:
        made = sm.GLM(y.to_numpy(), scaled.to_numpy(), family=sm.families.Binomial()).fit()
        return made.params, made.bse

    rows = ratios(fit, x, confidence)
    apart = ", ".join(term for term, b, *_more in rows if np.isnan(b) and term != "constant")
    rule = "together tell who churned without error, or are levels where all or nobody did; check_leakage finds single"
    require(not apart, f"{apart} {rule} ones. Leave out what was not known at the snapshot, or join levels.")
    return rows


class ScoreQuality(Framed):
    """How good probabilities are; rows are tenths of the customers, most likely leavers first.

    ``brier, log_loss`` beside their ``_base`` of the base rate; ``auc, average_precision, lift`` (of the first tenth,
    interval at the given prevalence) with ``_low, _high``. What cannot be computed is NaN and `reason` says why.
    """

    digits: ClassVar = 8
    columns: ClassVar = ("tenth", "predicted", "rate", "low", "high", "captured")

    def sentence(self, language: str = "en") -> str:
        if self.reason:
            return say(f"score_quality.{self.reason}", language)
        keys = [name + end for name in ("auc", "lift") for end in ("", "_low", "_high")]
        told = {k: number(self.whole[k], language, decimals=2) for k in keys}
        told |= {k: number(self.whole[k], language, decimals=4) for k in ("brier", "brier_base")}
        off = int((~self.frame["predicted"].between(self.frame["low"], self.frame["high"])).sum())
        told["level"] = percent(self.confidence, language, decimals=0)
        return say("score_quality.told", language, off=off, **told)


def evaluate(label: ArrayLike, probability: ArrayLike, *, confidence: float = 0.95) -> ScoreQuality:
    """Judge probabilities of churn by what happened to customers that neither fitted nor calibrated them.

    AUC with DeLong's variance (1988, Biometrics 44:837-845) and average precision (Boyd, Eng & Page 2013, ECML PKDD)
    on the logit scale, rates by Wilson; equal probabilities share their places. Parameters: `label` (n,) of 0 and 1;
    `probability` (n,) in [0, 1]. Raises `KpiError` if one is outside.

    >>> told = evaluate([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])  # documentation of scikit-learn
    >>> told.auc, round(told.average_precision, 4)
    (0.75, 0.8333)
    """
    y, p = np.asarray(label, float), np.asarray(probability, float)
    fits = y.ndim == 1 and y.shape == p.shape and len(y) > 0 and bool((np.isin(y, (0, 1)) & (p >= 0) & (p <= 1)).all())
    require(fits, "label must be 0 or 1 and probability in [0, 1], one of each a customer, none missing.")
    n, base, z = len(y), float(y.mean()), ndtri((1 + checked_confidence(confidence)) / 2)
    whole: dict[str, Any] = {"n": n, "prevalence": base, "confidence": confidence}
    whole |= {"reason": "one_class" if base in (0, 1) else "constant" if np.ptp(p) == 0 else ""}
    for end, q in (("", p), ("_base", np.full(n, base))):
        whole[f"brier{end}"] = float(((q - y) ** 2).mean())
        whole[f"log_loss{end}"] = float(-(xlogy(y, q) + xlog1py(1 - y, -q)).mean())
    if whole["reason"]:
        names = (k + end for k in ("auc", "average_precision", "lift") for end in ("", "_low", "_high"))
        return ScoreQuality.of([], **whole, **dict.fromkeys(names, np.nan))
    values, place, ties = np.unique(-p, return_inverse=True, return_counts=True)
    churned, seen = np.bincount(place, y), np.append(0, np.cumsum(ties))
    found, expected = (np.append(0, np.cumsum(v)) for v in (churned, -values * ties))
    area, variance = auc(p, y)
    precision = float((churned * found[1:] / seen[1:]).sum() / y.sum())
    told = {"auc": (area, variance), "average_precision": (precision, precision * (1 - precision) / y.sum())}
    for name, (value, spread) in told.items():
        inside = 0 < value < 1 and spread > 0
        half = z * np.sqrt(spread) / (value * (1 - value)) if inside else np.nan
        ends = expit(logit(value) + np.array([-half, half]))
        whole |= {name: value, f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
    came, said = (np.diff(np.interp(np.linspace(0, n, 11), seen, total)) for total in (found, expected))
    low, high = wilson(came, np.full(10, n / 10), confidence=confidence)
    whole |= {"lift": came[0] * 10 / y.sum(), "lift_low": low[0] / base, "lift_high": high[0] / base}
    rows = range(1, 11), said * 10 / n, came * 10 / n, low, high, np.cumsum(came) / y.sum()
    return ScoreQuality.of(zip(*rows, strict=True), **whole)
