"""An experiment analysed: guards first, then every metric, variant and segment, and what to do."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtrc, ndtr, ndtri, stdtrit

from kpi_helpers import contrasts
from kpi_helpers.comparisons import SplitCheck, check_split, contrast
from kpi_helpers.contrasts import Contrast
from kpi_helpers.errors import require, require_known
from kpi_helpers.looks import peeking
from kpi_helpers.metrics import ROWS, Metric, metric_of
from kpi_helpers.moments import Columns
from kpi_helpers.result import LANGUAGES, Text, both_say, number, percent
from kpi_helpers.stats import Floats, checked_confidence, corrected
from kpi_helpers.units import Sums, Units, open_units, read_caps, read_sums
from kpi_helpers.verdicts import Analysis

MOST_VARIANTS, MOST_LEVELS, POWER = 10, 1000, 0.8
#: error in one tail that skewness may add to 2.5% before it is told
SKEWED = 0.01


def analyse(
    table: Any, *, unit: str | None, variant: str, control: Any, metrics: Sequence[Metric | str] | Mapping[str, Metric],
    segments: Sequence[str] = (), planned: Mapping[Any, float] | Sequence[float] | None = None,
    cap: float | None = None, confidence: float = 0.95, correction: str = "holm", looks: int = 1,
) -> Analysis:  # fmt: skip
    """Analyse an experiment from the rows of its units, in one scan and one check of the units.

    Parameters: `table`, an Ibis table, a DataFrame or the path of a Parquet or CSV file, one row a unit (rows of one
    unit are added up and that is told, units in several variants are left out); `unit` and `variant`, columns; with
    `unit` None each row is one; `control`, the variant that others are compared with; `metrics`, a sequence or mapping
    by name of `rate`, `mean`, `ratio` or KPI ids of the catalogue, of which the first is the primary one unless others
    say so, and those with a margin are guardrails; `segments`, columns known before the start, each read by itself,
    with its interaction and its post-stratified total; `planned`, shares by variant or in the order of the sorted
    variants; `cap` in (0.5, 1), the quantile of all units to which outcomes of means are cut, at both ends if some are
    negative; `confidence` of each family (primary and secondary metrics, and each metric by one dimension) and its
    `correction` as in `adjust_p_values` (a guardrail must hold by itself: its interval has one side of that
    confidence); `looks`, how often the result was looked at with the intention to stop. Raises `KpiError` if a column
    or the control is not there, a value is not what its metric says, or there is one variant only.

    >>> from kpi_helpers.metrics import rate
    >>> rows = pd.DataFrame({"id": range(8000), "arm": ["a", "b"] * 4000, "bought": [0, 0, 0, 1] * 2000})
    >>> analyse(rows, unit="id", variant="arm", control="a", metrics=[rate("bought")]).verdicts
    {'b': 'ship'}
    """
    checked_confidence(confidence)
    require(looks >= 1, f"looks={looks}: the result that is being read is one.")
    asked = _asked(metrics)
    units = open_units(table, unit=unit, variant=variant, metrics=asked, keys=segments)
    rule = f"cap={cap} cuts the outcome of a unit, but units have several rows here: give one row a unit."
    require(cap is None or not units.repeated, rule)
    asked = [metric.of_rows() for metric in asked] if units.repeated else asked
    caps = read_caps(units, asked, cap)
    sums = read_sums(units, asked, segments, caps)
    first = sums.frames[asked[0].name]
    counts = first.groupby(variant)[ROWS].sum()
    variants = variants_of(counts, control, variant)
    split = check_split(counts.to_dict(), planned)
    parts = [Part(metric, sums, by, variants) for metric in asked for by in (None, *segments)]
    parts = [part for part in parts if part.metric.role != "guardrail" or part.by is None]
    _control_errors(parts, 1 - confidence, correction)
    frame = pd.concat([part.frame() for part in parts], ignore_index=True)
    whole = {"split": split, "interactions": _interactions(parts), "caps": caps, "metrics": {m.name: m for m in asked}}
    units.n_unassigned = int(first.loc[first[variant].isna(), ROWS].sum())
    whole["warnings"] = _warnings(units, parts, split, caps, looks, confidence)
    frame["decision"] = "invalid" if split.alarm else frame["decision"]
    return Analysis(frame=frame, whole=whole)


def _asked(metrics: Sequence[Metric | str] | Mapping[str, Metric | str]) -> list[Metric]:
    """Metrics by their names; without a primary one the first that is no guardrail is it."""
    named = metrics if isinstance(metrics, Mapping) else {m.name if isinstance(m, Metric) else m: m for m in metrics}
    require(len(named) == len(metrics), "Two metrics have one name: write name= for one of them.")
    asked = [replace(metric_of(m), name=name) for name, m in named.items()]
    require(bool(asked), "No metrics: write at least one, such as rate('converted').")
    free = [m for m in asked if m.role != "guardrail"]
    if free and not any(m.primary for m in asked):
        asked[asked.index(free[0])] = replace(free[0], primary=True)
    return asked


def variants_of(counts: pd.Series, control: Any, column: str) -> list[str]:
    """The control, then the others."""
    found = list(counts.index)
    rule = f"{column} has {len(found)} values, more than {MOST_VARIANTS}: is it the column of the variant?"
    require(len(found) <= MOST_VARIANTS, rule)
    require_known(str(control), found, f"control={control!r} is no value of {column}.")
    require(len(found) > 1, f"{column} has one value only, {control!r}: there is nothing to compare it with.")
    return [str(control), *(v for v in found if v != str(control))]


class Part:
    """One metric by one key: its moments, p-values, and the error that each interval may have."""

    def __init__(self, metric: Metric, sums: Sums, by: str | None, variants: list[Any]) -> None:
        self.metric, self.by, self.variants = metric, by, variants
        self.levels, self.columns, self.third, self.missing = sums.moments(metric, by, variants)
        require(len(self.levels) <= MOST_LEVELS, f"{by} has {len(self.levels)} values: too many for segments.")
        self.guards, sign = metric.role == "guardrail", 1 if metric.better == "up" else -1
        side = {1: "larger", -1: "smaller"}[sign] if self.guards else "two-sided"
        self.p = self.contrast(
            alpha=np.nan, alternative=side, null=-sign * (metric.margin or 0)
        ).p_value  # without bounds
        self.adjusted, self.alpha = self.p.copy(), np.full(self.p.shape, np.nan)

    def arms(self) -> tuple[Columns, Columns]:
        """The control, and the treatments beside it: shapes (levels, 1, ...) and (levels, treatments, ...)."""
        n, means, covariance = self.columns
        return (n[:, :1], means[:, :1], covariance[:, :1]), (n[:, 1:], means[:, 1:], covariance[:, 1:])

    def contrast(self, **options: Any) -> Contrast:
        """Each treatment against the control, (levels, treatments)."""
        return contrast(self.metric.kind, *self.arms(), pooled=self.metric.pooled, **options)

    def spread(self, prior: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Difference of each level and treatment, its variance, each arm with its own, and degrees of freedom.

        `prior` successes and failures are added to each arm of a rate, which without any knows no variance.
        """
        if self.metric.kind == "rate":
            rate, n = self.columns[1][..., 0], self.columns[0]
            with np.errstate(divide="ignore", invalid="ignore"):
                own = (p := (rate * n + prior) / (n + 2 * prior)) * (1 - p) / n
            return rate[:, 1:] - rate[:, :1], own[:, :1] + own[:, 1:], n[:, :1] + n[:, 1:] - 2
        found = self.contrast(alpha=0.05)
        return (
            found.difference,
            ((found.difference_high - found.difference_low) / 2 / stdtrit(found.degrees_of_freedom, 0.025)) ** 2,
            found.degrees_of_freedom,
        )

    def frame(self) -> pd.DataFrame:
        """Rows of the analysis: each level and treatment."""
        found = self.contrast(alpha=self.alpha)
        levels, names = [np.asarray(v, dtype=object) for v in (self.levels, self.variants[1:])]
        grid = {"segment": np.repeat(levels, len(names)), "variant": np.tile(names, len(levels))}
        n, q = self.columns[0], -ndtri(self.alpha / 2)
        error = np.sqrt(self.spread()[1])
        chance, loss = self.bayes(found, error)
        told = {k: v for k, v in found._asdict().items() if k != "degrees_of_freedom"} | {
            "p_value": self.p, "p_adjusted": self.adjusted,
            "confidence": 1 - self.alpha, "decision": self.decisions(found), "detectable": (q + ndtri(POWER)) * error,
            "chance_better": chance, "expected_loss": loss, "n_control": n[:, :1], "n_treatment": n[:, 1:],
        }  # fmt: skip
        frame = pd.DataFrame(grid | {k: np.broadcast_to(v, self.p.shape).ravel() for k, v in told.items()})
        frame.insert(0, "dimension", self.by or "")
        frame = frame.assign(metric=self.metric.name, role=self.metric.role)
        return frame[["metric", "role", "variant", "dimension", "segment", *told]]

    def decisions(self, found: Contrast) -> Any:
        """The word for each comparison; it and the interval are one."""
        low, high = self.metric.gain(found.difference_low, found.difference_high)
        good, bad, neither = ("holds", "broken", "open") if self.guards else ("better", "worse", "unclear")
        least = -(self.metric.margin or 0)
        said = np.where(low > least, good, np.where(high < least, bad, neither))
        return np.where(np.isnan(self.p), "cannot", said)

    def bayes(self, found: Contrast, error: Floats) -> tuple[Floats, Floats]:
        """Chance that the treatment is the better one, and the loss expected of choosing it."""
        up = self.metric.better == "up"
        if self.metric.kind != "rate":
            return contrasts.bayes_means(found.difference if up else -found.difference, error)
        return contrasts.bayes_rates(
            *((np.round(n * (m[..., 0] if up else 1 - m[..., 0])), n) for n, m, _c in self.arms())
        )


def _control_errors(parts: Iterable[Part], alpha: float, correction: str) -> None:
    """Adjust p-values within families: primary and secondary metrics, and each metric by one dimension."""
    families: dict[Any, list[Part]] = {}
    for part in parts:
        key = (part.metric.name, part.by) if part.by or part.guards else part.metric.role
        families.setdefault(key, []).append(part)
    for family in families.values():
        adjusted_p, level = corrected(np.concatenate([part.p.ravel() for part in family]), correction, alpha)
        for part in family:
            size = part.p.size
            if part.guards:  # each must hold by itself: 90% two-sided holds the 95% of its one side
                part.alpha[:] = min(2 * alpha, 0.999)
            else:
                part.adjusted, part.alpha = adjusted_p[:size].reshape(part.p.shape), level[:size].reshape(part.p.shape)
            adjusted_p, level = adjusted_p[size:], level[size:]


def _interactions(parts: Iterable[Part]) -> pd.DataFrame:
    """By dimension: does the difference depend on the segment, and the post-stratified total.

    The test is Welch's for means of unequal variance, applied to the differences (1951, Biometrika 38:330-336); the
    total weighs each segment's difference by its share of units.
    """
    rows = []
    for part in (part for part in parts if part.by):
        (difference, variance, _df), (_d, smoothed, freedom) = part.spread(), part.spread(prior=1)
        for t, variant in enumerate(part.variants[1:]):
            d, v, n = difference[:, t], variance[:, t], part.columns[0][:, [0, t + 1]].sum(axis=1)
            known = np.isfinite(d) & np.isfinite(v)
            share = n[known] / n[known].sum()
            total, error = (share * d[known]).sum(), np.sqrt((share**2 * v[known]).sum())
            p_total = 2 * ndtr(-abs(total) / error) if error else np.nan
            varied = (v[known] > 0).any()
            p = heterogeneity(d[known], smoothed[known, t], freedom[known, t]) if varied else np.nan
            rows.append((part.metric.name, variant, part.by, int(known.sum()), p, total, error, p_total))
    names = ["metric", "variant", "dimension", "segments", "p_value", "difference", "error", "p_difference"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(p_adjusted=corrected(frame["p_value"].astype(float))[0] if len(frame) else [])


def heterogeneity(value: Floats, variance: Floats, freedom: Floats) -> float:
    """p-value that estimates (k,) are all of one value, from their variances and degrees of freedom; Welch (1951).

    >>> round(heterogeneity(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 0.5]), np.array([9.0, 9.0, 9.0])), 4)
    0.1742
    """
    tested = (variance > 0) & (freedom > 0)
    x, w, k = value[tested], 1 / variance[tested], int(tested.sum())
    if k < 2:
        return np.nan
    off = ((1 - w / w.sum()) ** 2 / freedom[tested]).sum()
    f = (w * (x - (w * x).sum() / w.sum()) ** 2).sum() / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * off)
    return float(fdtrc(k - 1, (k**2 - 1) / (3 * off), f))


def lopsided(columns: Columns, third: Floats) -> Floats:
    """Error that skewness adds to one tail of Welch's test at 5%, by one term of Edgeworth's expansion.

    Of one shape for control and treatment, since that of each is known too badly: arms of one size cancel. Hall (1992),
    The Bootstrap and Edgeworth Expansion, section 2.6.
    """
    n, z = columns[0], 1.96
    first, rest = n[:, :1], n[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        v, m3 = ((n * m)[:, :1] + (n * m)[:, 1:] for m in (columns[2][..., 0, 0], third))
        shape = np.sqrt(first + rest) * m3 / v**1.5  # skewness of both together
        skew = shape * (1 / rest**2 - 1 / first**2) / (1 / first + 1 / rest) ** 1.5
    return np.asarray(np.abs(skew) * (2 * z**2 + 1) / 6 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))


def _warnings(
    units: Units, parts: Sequence[Part], split: SplitCheck, caps: Mapping[str, Any], looks: int, confidence: float
) -> dict[str, Text]:
    """What a reader must know before the result, by code; several of one code follow each other."""
    found: list[tuple[str, dict[str, Any]]] = []
    if units.n_units is None:
        found.append(("unit_unchecked", {}))
    if units.n_unassigned:
        found.append(("unassigned", {"n": units.n_unassigned}))
    if units.n_both:
        found.append(("both_variants", {"n": units.n_both, "total": units.n_units}))
    if units.repeated:
        found.append(("duplicate_units", {"n": units.n_rows, "total": units.n_units}))
    if looks > 1:
        cost = peeking(looks, confidence=confidence)
        found.append(("looks", {"n": looks, "rate": Text(*(percent(cost, la, decimals=0) for la in LANGUAGES))}))
    for part in (part for part in parts if part.by is None):
        name = Text(*(part.metric.named(language) for language in LANGUAGES))
        found += [(code, {"metric": name, **told}) for code, told in _of_metric(part)]
    for outcome, (low, high, n) in caps.items():
        ends = Text(*(f"{number(low, language)}–{number(high, language)}" for language in LANGUAGES))
        found.append(("capped", {"metric": outcome, "range": ends, "n": n}))
    told = {"split": Text(*(split.sentence(language) for language in LANGUAGES))} if split.warning else {}
    for code, words in found:
        said = both_say(f"warn.{code}", **words)
        told[code] = Text(f"{told[code].en} {said.en}", f"{told[code].vi} {said.vi}") if code in told else said
    return told


def _of_metric(part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    """Codes of the warnings that one metric gives, with what they tell."""
    n, means, covariance = part.columns
    if part.missing.sum():
        whole = n + part.missing
        p = contrasts.rates((part.missing[:, :1], whole[:, :1]), (part.missing[:, 1:], whole[:, 1:])).p_value.min()
        yield "missing_unequal" if p < 0.001 else "missing", {"n": int(part.missing.sum()), "total": int(whole.sum())}
    if (lopsided(part.columns, part.third) > SKEWED).any():
        yield "skew", {}
    if part.metric.kind == "adjusted":
        v = np.diagonal(covariance, axis1=-2, axis2=-1)
        first, *others = ((means[:, [k], 1:], v[:, [k], 1:], n[:, [k], None]) for k in range(n.shape[1]))
        if min(contrasts.means(first, other).p_value.min() for other in others) < 0.001:
            yield "pre_balance", {}
    x = means[..., 0] * n
    if part.metric.kind == "rate" and (np.minimum(x, n - x) < 5).any() and not np.isnan(part.p).all():
        yield "small_counts", {}
    if np.isnan(part.p).any():
        yield "no_variation", {}
