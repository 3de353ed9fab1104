"""Two arms compared: rates, means, ratios and adjusted means; was the split as planned; several answers at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from kpi_helpers import contrasts
from kpi_helpers.contrasts import Contrast
from kpi_helpers.errors import require
from kpi_helpers.moments import Columns, CovariateMoments, Moments, RatioMoments, adjusted, ratio_variance
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence, corrected

EXACT_MOST = 40_000  # pairs of counts; beyond, the score test is accurate and the exact one slow


def contrast(kind: str, control: Columns, treatment: Columns, *, pooled: bool = False, **options: Any) -> Contrast:
    """Treatment against control, arms as units, means and covariance; a "rate", "mean", "ratio" or "adjusted" mean.

    Further options are those of `contrasts.rates` and `contrasts.means`.
    """
    arms, base = (control, treatment), None
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "rate":
            return contrasts.rates(*((np.round(n * m[..., 0]), n) for n, m, _c in arms), **options)
        if kind == "ratio":
            first, second = ((m[..., 0] / m[..., 1], ratio_variance(m, c), n) for n, m, c in arms)
        elif kind == "adjusted":
            (first, second, base), _theta, _reduction = adjusted(*arms)
        else:
            first, second = ((m[..., 0], c[..., 0, 0], n) for n, m, c in arms)
        return contrasts.means(first, second, base=base, pooled=pooled, **options)


class Comparison(Framed):
    """Treatment against control: rates and differences of rates as fractions, else in the unit of the outcome.

    ``control_value, treatment_value, difference, difference_low, difference_high, lift, lift_low, lift_high, p_value,
    degrees_of_freedom``, and what was asked: ``kind, confidence, alternative, margin, method``. `lift` is the
    difference as a fraction of the control's value; an infinite bound says that this cannot be told from zero. The
    interval leaves out the null (0, or the edge of the margin) where, and only where, `p_value` is below one less
    `confidence`. What cannot be computed is NaN and `reason` says why. `theta` (one a covariate) and
    `variance_reduction` are of an adjustment, whose lift divides by the control's adjusted mean.
    """

    aside: ClassVar = ("theta",)

    control_rate = control_mean = control_ratio = property(lambda self: self.control_value, doc="Value of the control.")
    treatment_rate = treatment_mean = treatment_ratio = property(lambda self: self.treatment_value, doc="Its value.")

    def sentence(self, language: str = "en") -> str:
        if self.reason:
            return say(f"compare.not.{self.reason}", language)
        values = {name: self._written(getattr(self, name), language) for name in ("control_value", "treatment_value")}
        ends = ("difference", "difference_low", "difference_high")
        values |= {name: self._written(getattr(self, name), language, change=True) for name in ends}
        values |= {name: bounded(getattr(self, name), language) for name in ("lift", "lift_low", "lift_high")}
        values |= {"confidence": percent(self.confidence, language, decimals=0), "p": p_words(self.p_value, language)}
        said = say(f"compare.{self.alternative}", language, **values)
        if self.margin:
            margin = self._written(self.margin, language, change=True).lstrip("+")
            said += say("compare.margin", language, margin=margin)
        elif self.alternative == "two-sided" and math.isfinite(self.lift):
            said += say("compare.lift", language, **values)
        return said + "."

    def _written(self, value: float, language: str, *, change: bool = False) -> str:
        largest = max(abs(self.control_value), abs(self.treatment_value), 1e-9)
        if math.isinf(value):
            return say("compare.unbounded", language)
        if self.kind != "rate":
            digits = 2 - math.floor(math.log10(largest))
            return number(value, language, decimals=max(0, min(6, digits)), sign=change)
        said = percent(value, language, decimals=max(2, min(7, -1 - math.floor(math.log10(largest)))), sign=change)
        return said.replace("%", say("unit.pp", language)) if change else said


def bounded(value: float, language: str = "en", *, decimals: int = 1, sign: bool = True) -> str:
    """A fraction in percent; a bound without an end says so."""
    unbounded = say("compare.unbounded", language)
    return unbounded if math.isinf(value) else percent(value, language, decimals=decimals, sign=sign)


def p_words(p: float, language: str = "en") -> str:
    """A p-value as it is written: with its sign, never 0."""
    least = number(0.001, language, decimals=3)
    return f"< {least}" if p < 0.001 else f"= {number(p, language, decimals=3)}"


def compare_rates(
    control: tuple[int, int], treatment: tuple[int, int], *, confidence: float = 0.95, alternative: str = "two-sided",
    margin: float | None = None, method: str = "score",
) -> Comparison:  # fmt: skip
    """Compare two rates from four counts: one test, inverted for the difference and for the lift.

    Parameters: arms as (successes, trials), ``0 <= successes <= trials``, ``trials >= 1``; `confidence` in (0, 1), of a
    one-sided question that of its one side; `alternative`, what the treatment is asked to be: "two-sided" (different),
    "larger" or "smaller"; `margin` in (0, 1), the loss allowed, with "larger" (or "smaller", where less is better): p
    and bound then tell whether the loss is smaller than that (non-inferiority); `method`, "score" (the pooled z test;
    see `contrasts.rates`) or, for small counts, "exact" (see `contrasts.exact_rates`). Raises `KpiError` if counts are
    impossible or an option is unknown.

    >>> result = compare_rates((48, 80), (56, 70))  # Newcombe (1998), Statistics in Medicine 17:873-890, method 5
    >>> round(result.difference_low, 4), round(result.difference_high, 4)
    (0.0533, 0.3377)
    """
    control, treatment = _counts("control", control), _counts("treatment", treatment)
    require(method in ("score", "exact"), f"method={method!r} is not one of score, exact.")
    require(margin is None or margin < 1, f"margin={margin} is a difference of rates. Write 0.01 for one point.")
    size = (control[1] + 1) * (treatment[1] + 1)
    rule = f"up to {EXACT_MOST:,} pairs of counts, not {size:,}: method='score' is accurate there."
    require(method == "score" or size <= EXACT_MOST, f"method='exact' is for {rule}")
    test = contrasts.rates if method == "score" else contrasts.exact_rates
    made = test(control, treatment, **_options(confidence, alternative, margin))
    successes, trials = control[0] + treatment[0], control[1] + treatment[1]
    reason = {0: "none", trials: "all"}.get(successes, "") if margin is None else ""
    return _told("rate", made, reason, confidence=confidence, alternative=alternative, margin=margin, method=method)


def compare_means(
    control: Moments, treatment: Moments, *, confidence: float = 0.95, alternative: str = "two-sided",
    margin: float | None = None, method: str = "welch",
) -> Comparison:  # fmt: skip
    """Compare two means by Welch's test, with Fieller's interval for the lift; see `contrasts.means`.

    Options as in `compare_rates`; `margin` is in the unit of the mean. ``method="pooled"`` takes one variance for both
    arms, for a skewed outcome that is split unequally.

    >>> result = compare_means(Moments.from_sums(1000, 5200, 90000), Moments.from_sums(1100, 6160, 121000))
    >>> round(result.p_value, 6), round(result.lift_low, 4), round(result.lift_high, 4)
    (0.275678, -0.0577, 0.2311)
    """
    require(method in ("welch", "pooled"), f"method={method!r} is not one of welch, pooled.")
    return _of_means("mean", Moments, control, treatment, confidence, alternative, margin, method)


def compare_ratios(
    control: RatioMoments, treatment: RatioMoments, *, confidence: float = 0.95, alternative: str = "two-sided",
    margin: float | None = None,
) -> Comparison:  # fmt: skip
    """Compare two ratios of sums over units, such as orders per session of randomised customers, by the delta method.

    Options as in `compare_means`. Deng, Knoblich & Lu (2018), KDD '18:233-242.

    >>> control = RatioMoments.from_sums(5000, 1900, 3300, 10300, 36500, 5700)
    >>> treatment = RatioMoments.from_sums(5200, 2130, 3800, 10650, 37600, 6350)
    >>> round(compare_ratios(control, treatment).p_value, 6)
    0.024028
    """
    return _of_means("ratio", RatioMoments, control, treatment, confidence, alternative, margin, "delta")


def compare_adjusted_means(
    control: CovariateMoments, treatment: CovariateMoments, *, confidence: float = 0.95, alternative: str = "two-sided",
    margin: float | None = None,
) -> Comparison:  # fmt: skip
    """Compare two means after taking off what was known of the units before the start (CUPED).

    Options as in `compare_means`. Coefficients are of both arms together; the
    lift divides by the control's adjusted mean, whose error counts. Deng, Xu, Kohavi & Walker (2013), WSDM '13:123-132.

    >>> control = CovariateMoments.from_sums(4000, 12000, 300000, 11800, 290000, 240000)
    >>> treatment = CovariateMoments.from_sums(4100, 12900, 330000, 12000, 295000, 255000)
    >>> result = compare_adjusted_means(control, treatment)
    >>> round(result.difference, 6), round(result.p_value, 6), round(result.variance_reduction, 5)
    (0.165318, 0.142004, 0.62422)
    """
    made = _of_means("adjusted", CovariateMoments, control, treatment, confidence, alternative, margin, "adjusted")
    spread = np.diagonal(control.covariance)[1:] + np.diagonal(treatment.covariance)[1:]
    require(bool((spread > 0).all()), "A covariate has the same value for every unit of an arm: leave it out.")
    _arms, theta, reduction = adjusted(control.columns, treatment.columns)
    told = {"theta": tuple(theta.tolist()), "variance_reduction": float(reduction)}
    return replace(made, whole={**made.whole, **told})


def _counts(name: str, arm: tuple[Any, Any]) -> tuple[int, int]:
    """Successes and trials as whole numbers."""
    try:
        x, n = (int(v) for v in arm)
        fine = (x, n) == tuple(arm) and 0 <= x <= n >= 1
    except (TypeError, ValueError, OverflowError):
        fine = False
    rule = "need whole numbers with 0 <= successes <= trials and trials >= 1. Were the two swapped?"
    told = f"({arm[0]}, {arm[1]})" if isinstance(arm, tuple) and len(arm) == 2 else repr(arm)
    require(fine, f"{name}={told} cannot be (successes, trials): {rule}")
    return x, n


def _options(confidence: float, alternative: str, margin: float | None) -> dict[str, Any]:
    """Error, side and null of a question."""
    contrasts.tails(0.05, alternative)
    if margin is not None:
        require(margin > 0, f"margin={margin} must be above 0: the loss allowed, in units of the difference.")
        remedy = "write alternative='larger', or 'smaller' where less is better"
        require(alternative != "two-sided", f"A margin asks whether a loss is small, which has one side: {remedy}.")
    null = 0.0 if margin is None else -margin if alternative == "larger" else margin
    return {"alpha": 1 - checked_confidence(confidence), "alternative": alternative, "null": null}


def _of_means(
    kind: str, needed: type[Moments], control: Moments, treatment: Moments, confidence: float, alternative: str,
    margin: float | None, method: str,
) -> Comparison:  # fmt: skip
    fine = isinstance(control, needed) and isinstance(treatment, needed)
    require(fine, f"An arm must be {needed.__name__}. Make one by {needed.__name__}.from_sums.")
    options = _options(confidence, alternative, margin)
    made = contrast(kind, control.columns, treatment.columns, pooled=method == "pooled", **options)
    reason = "few" if min(control.n, treatment.n) < 2 else "flat" if math.isnan(made.p_value) else ""
    return _told(kind, made, reason, confidence=confidence, alternative=alternative, margin=margin, method=method)


def _told(kind: str, made: Contrast, reason: str, **question: Any) -> Comparison:
    """The answer to a question; without a p-value if there is a reason for that."""
    told: dict[str, Any] = {name: float(v) for name, v in made._asdict().items()}
    told |= {"reason": reason, "theta": (), "variance_reduction": math.nan}
    return Comparison.of([()], kind=kind, **question, **(told | ({"p_value": math.nan} if reason else {})))


class SplitCheck(Framed):
    """Units found in each variant against those planned; `p_value` below `threshold`: not chance split them so."""

    columns: ClassVar = ("variant", "n_units", "n_planned")

    @property
    def alarm(self) -> bool:
        """The split is broken: no result should be read."""
        return bool(self.p_value < self.threshold)

    @property
    def warning(self) -> bool:
        """Seldom by chance: worth a look at how units were assigned and logged."""
        return bool(self.p_value < max(0.01, self.threshold))

    def sentence(self, language: str = "en") -> str:
        key = "alarm" if self.alarm else "warning" if self.warning else "fine"
        found = ", ".join(f"{v} {number(n, language)}" for v, n in zip(self.variant, self.n_units, strict=True))
        threshold = number(self.threshold, language, decimals=3)
        return say(f"split.{key}", language, found=found, p=p_words(self.p_value, language), threshold=threshold)


def check_split(
    counts: Mapping[str, int] | Sequence[int], planned: Mapping[str, float] | Sequence[float] | None = None, *,
    threshold: float = 0.001,
) -> SplitCheck:  # fmt: skip
    """Ask whether units fell to the variants as planned (sample ratio), before any result is read.

    Pearson's chi-square; Fabijan et al. (2019), KDD '19:2156-2164, on causes and on so strict a threshold. Parameters:
    `counts`, distinct units of two variants or more; `planned`, their shares or weights in that order or by name, equal
    if left out; `threshold` in (0, 1), the p-value that sets off the alarm; below 0.01 there is a warning. Raises
    `KpiError` if counts or shares are none.

    >>> check = check_split({"control": 821588, "treatment": 815482})
    >>> check.alarm, f"{check.p_value:.2e}"
    (True, '1.82e-06')
    """
    named = counts if isinstance(counts, Mapping) else {str(i): n for i, n in enumerate(counts)}
    names, found = [str(v) for v in named], np.array(list(named.values()), dtype=float)
    require(len(found) > 1, f"counts={dict(named)} has one variant only: a split needs at least two.")
    fine = bool(np.isfinite(found).all() and (found >= 0).all() and found.sum() > 0)
    require(fine, f"counts={dict(named)} must be numbers of units.")
    if isinstance(planned, Mapping):
        rule = f"planned names {', '.join(map(str, planned))}, but the variants are {', '.join(names)}."
        require({str(v) for v in planned} == set(names), rule)
        planned = [{str(v): share for v, share in planned.items()}[name] for name in names]
    shares = np.ones(len(found)) if planned is None else np.asarray(planned, dtype=float)
    fine = shares.shape == found.shape and bool(np.isfinite(shares).all() and (shares > 0).all())
    require(fine, f"planned={planned} must hold one share above 0 for each of {len(found)} variants.")
    require(0 < threshold < 1, f"threshold={threshold} is not in (0, 1). 0.001 is usual.")
    expected = found.sum() * shares / shares.sum()
    p = float(chdtrc(len(found) - 1, ((found - expected) ** 2 / expected).sum()))
    return SplitCheck.of(zip(names, found.astype(int), expected, strict=True), p_value=p, threshold=threshold)


def adjust_p_values(p_values: ArrayLike, method: str = "holm") -> Floats:
    """P-values of one family of questions, adjusted; the order is kept, NaN is no question.

    `method` is "holm", "hochberg", "benjamini-hochberg" or "benjamini-yekutieli", see `stats.corrected`.

    >>> adjust_p_values([0.04, 0.001, 0.03, 0.02, 0.5]).tolist()
    [0.09, 0.005, 0.09, 0.08, 0.5]
    """
    p = np.atleast_1d(np.asarray(p_values, dtype=float))
    require(bool((np.isnan(p) | ((p >= 0) & (p <= 1))).all()), f"p_values={p.tolist()} must lie in [0, 1].")
    return corrected(p, method)[0]
