"""What moves the hazard of leaving: discrete time from counts of person-periods, and Cox."""

import warnings
from collections.abc import Callable, Sequence
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

Levels = dict[str, list[Any]]
MOST, FAR = 200, 15  # levels of a covariate; a coefficient, at spread 1, that only separation makes


class HazardRatios(Framed):
    """Ratio of hazards for a step of each term: of words from their first level.

    `left_out`: levels where nobody or everybody left (their rows are not used) and numbers that separate (NaN), of
    which no finite ratio fits. `proportional_p`, Cox only: of a ratio that stays the same over time.
    """

    columns: ClassVar = ("term", "coefficient", "hazard_ratio", "low", "high", "p_value", "proportional_p")
    aside: ClassVar = ("levels", "covariates", "left_out")

    def hazard(self, frame: pd.DataFrame) -> Floats:
        """Hazard of rows of covariates; of Cox relative to a row of zeros and first levels."""
        eta = design(frame, self.covariates, self.levels)[0][list(self.term)].to_numpy() @ np.array(self.coefficient)
        return np.asarray(np.exp(eta) if self.cox else -np.expm1(-np.exp(eta)))

    def sentence(self, language: str = "en") -> str:
        known, said = self.frame[self.frame["term"].ne("constant") & self.frame["p_value"].notna()], []
        if len(known):
            top, level = known.loc[known["p_value"].idxmin()], percent(self.confidence, language, decimals=0)
            ends = {k: number(top[k], language, decimals=2) for k in ("hazard_ratio", "low", "high")}
            said = [say("hazard_ratios.top", language, term=top["term"], level=level, **ends)]
        moving = self.frame["term"][holm(self.frame["proportional_p"]) < 0.05]
        for key, terms in (("moving", moving), ("left_out", self.left_out)):
            told = ", ".join(terms[:3]) + (f", … ({len(terms)})" if len(terms) > 3 else "")
            said += [say(f"hazard_ratios.{key}", language, terms=told)] if len(terms) else []
        return " ".join(said)


def design(frame: pd.DataFrame, covariates: Sequence[str], levels: Levels | None = None) -> tuple[pd.DataFrame, Levels]:
    """Covariates as numbers beside a constant, words as 0 or 1 against the first of their `levels`, and those.

    >>> design(pd.DataFrame({"plan": ["a", "b"], "age": [1, 2]}), ["plan", "age"])[0].columns.tolist()
    ['constant', 'age', 'plan=b']
    """
    for name in covariates:
        require_known(name, frame.columns, f"There is no column {name!r}.")
    if levels is None:
        words = [c for c in covariates if not pd.api.types.is_numeric_dtype(frame[c])]
        levels = {c: sorted(frame[c].dropna().unique()) for c in words}
        many = [c for c, v in levels.items() if len(v) > MOST]
        require(not many, f"{', '.join(many)}: more than {MOST} levels, an id or numbers as text? Leave it out.")
    told = {c: frame[c].astype(float).replace([np.inf, -np.inf], np.nan) for c in covariates if c not in levels}
    told |= {c: pd.Categorical(frame[c].astype(object).where(frame[c].isin(v)), v) for c, v in levels.items()}
    held = pd.DataFrame(told, frame.index)[list(covariates)]
    empty = ", ".join(f"{c} in {n} of {len(frame)} rows" for c, n in held.isna().sum().items() if n)
    require(not empty, f"Missing, infinite or a level not seen before: {empty}. Fill these in or leave the rows out.")
    made = pd.get_dummies(held, prefix_sep="=", drop_first=True, dtype=float)
    made.insert(0, "constant", 1.0)
    return made, levels


def fit_hazard(
    counts: pd.DataFrame, *, events: str, at_risk: str, covariates: Sequence[str], cluster: str | None = None,
    confidence: float = 0.95,
) -> HazardRatios:  # fmt: skip
    """Discrete-time hazard of grouped person-periods: a binomial GLM with cloglog link, so its ratios are Cox's.

    Prentice & Gloeckler (1978), Biometrics 34:57-67. Parameters: `counts`, rows such as `person_periods` makes;
    `events` and `at_risk`, their columns; `covariates`, columns that may change over time: the tenure as a category
    gives a hazard for each period, its logarithm a smooth one; `cluster`, column within which rows depend on each
    other. Raises `KpiError` if counts are impossible, cells empty, or a covariate follows from others.

    >>> rows = pd.DataFrame({"plan": ["a", "b"], "n": [100, 100], "left": [10, 20]})
    >>> fit_hazard(rows, events="left", at_risk="n", covariates=["plan"]).hazard_ratio[1].__round__(6)  # log .8/log .9
    2.117905
    """
    import statsmodels.api as sm  # type: ignore[import-untyped]

    d, n = (counts[c].to_numpy(float) for c in (events, at_risk))
    require(bool(((d >= 0) & (d <= n)).all()), f"Need 0 <= {events} <= {at_risk} in every row. Were they swapped?")
    family = sm.families.Binomial(sm.families.links.CLogLog())

    def fit(x: pd.DataFrame, keep: Any) -> Any:
        groups = {} if cluster is None else {"groups": pd.factorize(counts[cluster][keep])[0]}
        model = sm.GLM(np.column_stack([d, n - d])[keep], x.to_numpy(), family=family)
        return model.fit(cov_type="cluster", cov_kwds=groups) if groups else model.fit()

    return _told(fit, counts, list(covariates), d, n, confidence)


def fit_cox(
    durations: ArrayLike, observed: ArrayLike, covariates: pd.DataFrame, *, confidence: float = 0.95
) -> HazardRatios:
    """Cox's proportional hazards with Efron's ties, and whether they are proportional.

    Cox (1972), JRSS B 34:187-220; Grambsch & Therneau (1994), Biometrika 81:515-526, against the rank of time.
    Parameters: `durations` (n,) 0 or more; `observed` (n,), whether each ended in leaving; `covariates` (n, k), numbers
    and words, known at the start. Raises `KpiError` as `fit_hazard` does.

    >>> made = fit_cox([1, 2, 3, 4], [1, 1, 1, 0], pd.DataFrame({"x": [1, 0, 1, 0]}))
    >>> made.hazard_ratio[0].__round__(4)  # (1 + sqrt 17) / 2 by hand
    2.5616
    """
    from statsmodels.duration.hazard_regression import PHReg  # type: ignore[import-untyped]

    t, d = np.asarray(durations, float), np.asarray(observed, float)
    fits = t.shape == d.shape == (len(covariates),) and bool((np.isfinite(t) & (t >= 0) & np.isin(d, (0, 1))).all())
    require(fits, "durations must be 0 or more and observed 0 or 1, one for each row of covariates.")

    def fit(x: pd.DataFrame, keep: Any) -> Any:
        return PHReg(t[keep], x.iloc[:, 1:].to_numpy(), status=d[keep], ties="efron").fit()

    return _told(fit, covariates, list(covariates), d, np.full(len(d), np.inf), confidence, t)


def _told(
    fit: Callable[[pd.DataFrame, Any], Any], frame: pd.DataFrame, covariates: list[str], d: Floats, n: Floats,
    confidence: float, time: Floats | None = None,
) -> HazardRatios:  # fmt: skip
    """Fit on covariates of spread 1, without levels that would have infinite ratios; terms on their own scale."""
    keep, out = n > 0, []
    while True:
        require(0 < d[keep].sum() < n[keep].sum(), "A hazard cannot be computed, because nobody or everybody left.")
        x, levels = design(frame[keep], covariates)
        sums = [(c, v, (frame[c] == v).to_numpy() & keep) for c, known in levels.items() for v in known]
        found = [(f"{c}={v}", rows) for c, v, rows in sums if d[rows].sum() in (0, n[rows].sum())]
        if not found:
            break
        out += [name for name, _rows in found]
        keep = keep & ~np.any([rows for _name, rows in found], axis=0)
    spread = x.std(ddof=0).replace(0, 1)
    same = np.linalg.matrix_rank(x / spread) < x.shape[1]
    require(not same, f"{', '.join(x.columns[1:])}: one of these follows from the others. Leave it out.")
    z, moves = ndtri((1 + checked_confidence(confidence)) / 2), np.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what has no finite estimate is told by its size
        fitted = fit(x / spread, keep)
        b, se = np.asarray(fitted.params), np.asarray(fitted.bse)
        if time is not None:
            residual, v = np.asarray(fitted.schoenfeld_residuals), np.asarray(fitted.cov_params())
            event = np.isfinite(residual).all(axis=1)
            late = pd.Series(time[keep][event]).rank().to_numpy() - (event.sum() + 1) / 2
            moves = chdtrc(1, (late @ residual[event] @ v) ** 2 * len(late) / (np.diag(v) * (late @ late)))
    used = x.columns[-len(b) :]
    far = (used != "constant") & ~((np.abs(b) < FAR) & (se < FAR))
    lost = far | (far.any() & (used == "constant"))  # it takes up what a separating number leaves
    b, se = (np.where(lost, np.nan, value) / spread[used].to_numpy() for value in (b, se))
    rows = b, np.exp(b), np.exp(b - z * se), np.exp(b + z * se), 2 * ndtr(-np.abs(b / se)), moves + 0 * b
    whole = {"covariates": tuple(covariates), "levels": levels, "left_out": (*out, *used[far])}
    return HazardRatios.of(zip(used, *rows, strict=True), cox=time is not None, confidence=confidence, **whole)


def person_periods(
    spells: Any, *, start: str, end: str, until: date | str, by: Sequence[str] = (), calendar: bool = False
) -> pd.DataFrame:
    """Spells to counts of `at_risk` and `events` by `tenure`, in calendar months since that of the start, and `by`.

    Parameters: `spells`, an Ibis table, DataFrame or file with a day of `start` and of `end`, empty while it lasts;
    `until`, last day of the data: a month that it cuts is left out; `calendar` adds the ``month`` itself (2026-03).
    Raises `KpiError` if a spell has no start or ends before it.

    >>> spells = pd.DataFrame({"since": ["2026-01-15", "2026-02-01"], "to": ["2026-02-10", None]})
    >>> person_periods(spells, start="since", end="to", until="2026-02-28").to_numpy().tolist()
    [[0, 2, 0], [1, 1, 1]]
    """
    after, table = date.fromisoformat(str(until)[:10]) + timedelta(1), as_table(spells)
    last = after.year * 12 + after.month - 2
    for name in (start, end, *by):
        require_known(name, table.columns, f"The table has no column {name!r}.")
    days = table.select(*by, one=_[start].cast("date"), two=_[end].cast("date"))
    wrong = days.filter(_.one.isnull() | (_.two < _.one)).count().to_pyarrow().as_py()
    require(not wrong, f"{wrong} spells have no {start} or end before it. Correct these rows or leave them out.")
    month = {"begun": _.one.year() * 12 + _.one.month() - 1, "over": _.two.year() * 12 + _.two.month() - 1}
    rows = days.mutate(**month).filter(_.begun <= last).mutate(over=ibis.least(_.over.fill_null(last + 1), last + 1))
    rows = rows.group_by(*by, "begun", "over").aggregate(n=_.count())
    rows = rows.mutate(tenure=ibis.range(0, ibis.least(rows.over, last) - rows.begun + 1).unnest())
    rows, keys = rows.mutate(at=_.begun + _.tenure), [*by, "tenure", *(["at"] if calendar else [])]
    rows = rows.group_by(keys).aggregate(at_risk=_.n.sum(), events=(_.at == _.over).ifelse(_.n, 0).sum())
    found: pd.DataFrame = rows.order_by(keys).to_pyarrow().to_pandas()
    return found.assign(month=[f"{m // 12}-{m % 12 + 1:02}" for m in found.pop("at")]) if calendar else found
