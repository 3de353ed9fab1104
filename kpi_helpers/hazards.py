"""What moves the hazard of leaving: discrete time from counts of person-periods, and Cox."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import numpy as np
import pandas as pd
from ibis import _
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr, ndtri

from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence, holm
from kpi_helpers.units import as_table

Levels = Mapping[str, Sequence[Any]]
MOST = 200  # levels of one covariate


class HazardRatios(Framed):
    """Ratio of hazards for a step of each term, with its interval; of words a step from their first level.

    `left_out`: levels where nobody, or everybody, left (their rows are not used), and numbers that separate (NaN): no
    finite ratio fits. `proportional_p`: of the hypothesis that the ratio stays the same over time, Cox only.
    """

    columns: ClassVar = ("term", "coefficient", "hazard_ratio", "low", "high", "p_value", "proportional_p")
    aside: ClassVar = ("levels", "covariates", "left_out")

    def hazard(self, frame: pd.DataFrame) -> Floats:
        """Hazard of rows of covariates; of Cox by that of a row of zeros and first levels."""
        eta = design(frame, self.covariates, self.levels)[list(self.term)].to_numpy() @ np.array(self.coefficient)
        return np.asarray(np.exp(eta) if self.cox else -np.expm1(-np.exp(eta)))

    def sentence(self, language: str = "en") -> str:
        known, said = self.frame[self.frame["term"].ne("constant") & self.frame["p_value"].notna()], []
        if len(known):
            top = known.loc[known["p_value"].idxmin()]
            told = {k: number(top[k], language, decimals=2) for k in ("hazard_ratio", "low", "high")}
            level = percent(self.confidence, language, decimals=0)
            said = [say("hazard_ratios.top", language, term=top["term"], level=level, **told)]
        if moving := self.frame["term"][holm(self.frame["proportional_p"]) < 0.05].tolist():
            said.append(say("hazard_ratios.moving", language, terms=", ".join(moving)))
        if self.left_out or not said:
            said.append(say("hazard_ratios.left_out", language, terms=", ".join(self.left_out) or "–"))
        return " ".join(said)


def design(frame: pd.DataFrame, covariates: Sequence[str], levels: Levels) -> pd.DataFrame:
    """Covariates as numbers beside a constant: words, whose `levels` are told, are 0 or 1 against their first level.

    >>> design(pd.DataFrame({"plan": ["a", "b"], "age": [1, 2]}), ["plan", "age"], {"plan": "ab"}).columns.tolist()
    ['constant', 'age', 'plan=b']
    """
    held = frame[list(covariates)].assign(**{c: pd.Categorical(frame[c], list(v)) for c, v in levels.items()})
    numbers = [c for c in covariates if c not in levels]
    held = held.assign(**{c: held[c].astype(float).replace([np.inf, -np.inf], np.nan) for c in numbers})
    told = ", ".join(f"{c} in {n} of {len(frame)} rows" for c, n in held.isna().sum().items() if n)
    require(not told, f"Missing, infinite or a level not seen before: {told}. Fill these in or leave the rows out.")
    made = pd.get_dummies(held, prefix_sep="=", drop_first=True, dtype=float)
    made.insert(0, "constant", 1.0)
    return made


def levels_of(frame: pd.DataFrame, covariates: Sequence[str]) -> dict[str, list[Any]]:
    """Levels of the covariates that are words or categories, sorted.

    >>> levels_of(pd.DataFrame({"plan": ["b", "a"], "age": [1, 2]}), ["plan", "age"])
    {'plan': ['a', 'b']}
    """
    for name in covariates:
        require_known(name, frame.columns, f"There is no column {name!r}.")
    words = [c for c in covariates if not pd.api.types.is_numeric_dtype(frame[c])]
    found = {c: sorted(frame[c].dropna().unique()) for c in words}
    many = [f"{c} has {len(v)}" for c, v in found.items() if len(v) > MOST]
    require(not many, f"{', '.join(many)} levels, more than {MOST}: an id? Leave it out, or join its rare levels.")
    return found


def fit_hazard(
    counts: pd.DataFrame, *, events: str, at_risk: str, covariates: Sequence[str], cluster: str | None = None,
    confidence: float = 0.95,
) -> HazardRatios:  # fmt: skip
    """Discrete-time hazard of grouped person-periods: a binomial GLM with cloglog link, so ratios are those of Cox.

    Prentice & Gloeckler (1978), Biometrics 34:57-67. Parameters: `counts`, rows of `person_periods` or alike, with
    columns of `events` and `at_risk`; `covariates`, columns that may change over time; the tenure as a category is a
    hazard for each period, as a logarithm a smooth one; `cluster`, column within which rows depend on each other.
    Raises `KpiError` if counts are impossible, cells empty, or covariates say the same.

    >>> rows = pd.DataFrame({"plan": ["a", "b"], "n": [100, 100], "left": [10, 20]})
    >>> fit_hazard(rows, events="left", at_risk="n", covariates=["plan"]).hazard_ratio[1].__round__(6)  # log .8/log .9
    2.117905
    """
    import statsmodels.api as sm

    d, n = (counts[c].to_numpy(float) for c in (events, at_risk))
    require(bool(((d >= 0) & (d <= n)).all()), f"Need 0 <= {events} <= {at_risk} in every row. Were they swapped?")
    keep, levels, left_out = _estimable(counts, covariates, d, n)
    x = design(counts[keep], covariates, levels)
    y, family = np.column_stack([d, n - d])[keep], sm.families.Binomial(sm.families.links.CLogLog())
    how = (
        {}
        if cluster is None
        else {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(counts[cluster][keep])[0]}}
    )
    return _told(lambda z: sm.GLM(y, z, family=family), x, left_out, covariates, levels, confidence, how)


def fit_cox(
    durations: ArrayLike, observed: ArrayLike, covariates: pd.DataFrame, *, confidence: float = 0.95
) -> HazardRatios:
    """Cox's proportional hazards with Efron's ties, and whether they are proportional (Grambsch & Therneau 1994).

    Cox (1972), JRSS B 34:187-220; the test correlates scaled Schoenfeld residuals with the rank of time. Parameters:
    `durations` (n,) 0 or more; `observed` (n,), whether each ended in leaving; `covariates` (n, k), numbers and words,
    known at the start. Raises `KpiError` as `fit_hazard` does.

    >>> made = fit_cox([1, 2, 3, 4], [1, 1, 1, 0], pd.DataFrame({"x": [1, 0, 1, 0]}))
    >>> made.hazard_ratio[0].__round__(4)  # (1 + sqrt 17) / 2 by hand
    2.5616
    """
    from statsmodels.duration.hazard_regression import PHReg

    t, d = np.asarray(durations, float), np.asarray(observed, float)
    fits = t.shape == d.shape == (len(covariates),) and bool((np.isfinite(t) & (t >= 0) & np.isin(d, (0, 1))).all())
    require(fits, "durations must be 0 or more and observed 0 or 1, one for each row of covariates.")
    names = list(covariates.columns)
    keep, levels, left_out = _estimable(covariates, names, d, np.full(len(d), np.inf))
    x, t, d = design(covariates[keep], names, levels), t[keep], d[keep]
    return _told(lambda z: PHReg(t, z, status=d, ties="efron"), x, left_out, names, levels, confidence, {}, t)


def _estimable(
    frame: pd.DataFrame, covariates: Sequence[str], d: Floats, n: Floats
) -> tuple[Any, dict[str, list[Any]], list[str]]:
    """Rows left without levels where nobody or everybody left, whose ratio would be infinite; the levels; those out."""
    keep, out = n > 0, []
    while True:
        levels = levels_of(frame[keep], covariates)
        sums = pd.DataFrame({"d": d, "n": n})[keep]
        bad = [
            (c, v) for c in levels for v, s in sums.groupby(frame[c][keep].to_numpy()).sum().iterrows()
            if s["d"] in (0, s["n"])
        ]  # fmt: skip
        if not bad:
            break
        out += [f"{c}={v}" for c, v in bad]
        for c, v in bad:
            keep = keep & (frame[c] != v).to_numpy()
    require(0 < d[keep].sum() < n[keep].sum(), "A hazard cannot be computed, because nobody or everybody left.")
    return keep, levels, out


def _told(
    make: Any, x: pd.DataFrame, left_out: list[str], covariates: Sequence[str], levels: Levels, confidence: float,
    how: Any, time: Any = None,
) -> HazardRatios:  # fmt: skip
    """Fit on covariates of spread 1 and tell the terms on their own scale."""
    spread = x.std(ddof=0).replace(0, 1.0)
    same = np.linalg.matrix_rank(x / spread) < x.shape[1]
    require(not same, f"{', '.join(x.columns[1:])}: one of these follows from the others. Leave it out.")
    used = x.columns[1:] if time is not None else x.columns
    scale = spread[used].to_numpy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what does not settle is told below
        model = make((x[used] / spread[used]).to_numpy())
        fitted = model.fit(disp=0, **how) if time is not None else model.fit(**how)
        b, se = np.array(fitted.params), np.array(fitted.bse)
        far = ~((np.abs(b) < 15) & (se < 100)) & (used != "constant")
        p, z = 2 * ndtr(-np.abs(b / se)), ndtri((1 + checked_confidence(confidence)) / 2)
        moves = np.full(len(b), np.nan)
        if time is not None:
            residual = np.asarray(fitted.schoenfeld_residuals)
            event = np.isfinite(residual).all(axis=1)
            g, v = pd.Series(time[event]).rank().to_numpy(), fitted.cov_params()
            g = g - g.mean()
            score = (g @ residual[event] @ v) ** 2 * event.sum() / (np.diag(v) * (g @ g))
            moves = chdtrc(1, score)
    ratios = np.exp(np.array([b, b - z * se, b + z * se]) / scale)
    rows = np.where(far, np.nan, [b / scale, *ratios, p, moves])
    left_out = left_out + [str(c) for c in used[far]]
    told: dict[str, Any] = {"covariates": tuple(covariates), "levels": levels, "left_out": tuple(left_out)}
    return HazardRatios.of(zip(used, *rows, strict=True), cox=time is not None, confidence=confidence, **told)


def person_periods(
    spells: Any, *, start: str, end: str, until: date | str, by: Sequence[str] = (), calendar: bool = False
) -> pd.DataFrame:
    """Spells to counts of `at_risk` and `events` by tenure in calendar months (0 is that of the start) and by `by`.

    Parameters: `spells`, an Ibis table, DataFrame or file with a date of `start` and of `end`, empty while it lasts;
    `until`, last day of the data: a month that it cuts is left out; `calendar` adds the ``month`` (2026-03) itself.
    Raises `KpiError` if a spell has no start or ends before it.
    """
    after = date.fromisoformat(str(until)[:10]) + timedelta(1)
    last, table = after.year * 12 + after.month - 2, as_table(spells)
    for name in (start, end, *by):
        require_known(name, table.columns, f"The table has no column {name!r}.")
    days = table.select(*by, one=_[start].cast("date"), two=_[end].cast("date"))
    wrong = days.filter(_.one.isnull() | (_.two < _.one)).count().to_pyarrow().as_py()
    require(not wrong, f"{wrong} spells have no {start} or end before it. Correct these rows or leave them out.")
    month = {"begun": _.one.year() * 12 + _.one.month() - 1, "over": _.two.year() * 12 + _.two.month() - 1}
    rows = days.mutate(**month).filter(_.begun <= last)
    rows = rows.mutate(over=ibis.least(_.over.fill_null(last + 1), last + 1))
    rows = rows.group_by(*by, "begun", "over").aggregate(n=_.count())
    rows = rows.mutate(tenure=ibis.range(0, ibis.least(_.over, last) - _.begun + 1).unnest())
    rows = rows.mutate(at=_.begun + _.tenure)
    keys = [*by, "tenure", *(["at"] if calendar else [])]
    rows = rows.group_by(keys).aggregate(at_risk=_.n.sum(), events=(_.at == _.over).ifelse(_.n, 0).sum())
    found: pd.DataFrame = rows.order_by(keys).to_pyarrow().to_pandas()
    if calendar:
        found["month"] = [f"{m // 12}-{m % 12 + 1:02}" for m in found.pop("at")]
    return found
