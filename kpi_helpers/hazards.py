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

    `left_out`: levels where nobody or everybody left (their rows are not used) and numbers that separate (NaN).
    `proportional_p`, Cox only: of a ratio that stays the same over time.
    """

    digits: ClassVar = 8
    columns: ClassVar = ("term", "coefficient", "hazard_ratio", "low", "high", "p_value", "proportional_p")
    aside: ClassVar = ("left_out",)

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
    """Covariates as numbers beside a constant, words as 0 or 1 against the first of their `levels`, and those."""
    for name in covariates:
        require_known(name, frame.columns, f"There is no column {name!r}.")
    if levels is None:
        numeric = pd.api.types.is_numeric_dtype
        levels = {c: sorted(frame[c].dropna().unique()) for c in covariates if not numeric(frame[c])}
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


def ratios(fit: Callable[[pd.DataFrame], Sequence[Any]], x: pd.DataFrame, confidence: float) -> list[tuple[Any, ...]]:
    """Term, coefficient, its exponential with low and high, p-value, and what else `fit` tells of `x` at spread 1.

    On the scale of `x`; NaN where terms separate, so that no finite coefficient fits.
    """
    spread, z = x.std(ddof=0).replace(0, 1), ndtri((1 + checked_confidence(confidence)) / 2)
    own = np.abs(np.diag(np.linalg.qr(x / spread, mode="r")))  # what a column adds to those before it
    rest = x.columns[np.append(own, [0.0] * (x.shape[1] - len(own))) < 1e-7]
    require(len(rest) == 0, f"{', '.join(rest)}: each follows from the others before it. Leave it out.")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what has no finite estimate is told by its size
        b, se, *more = (np.asarray(told) for told in fit(x / spread))
    used = x.columns[-len(b) :]
    far = (used != "constant") & ~((np.abs(b) < FAR) & (se < FAR))
    lost = far | (far.any() & (used == "constant"))  # it takes up what a separating number leaves
    b, se = (np.where(lost, np.nan, value) / spread[used].to_numpy() for value in (b, se))
    rows = b, np.exp(b), np.exp(b - z * se), np.exp(b + z * se), 2 * ndtr(-np.abs(b / se)), *more
    return list(zip(used, *rows, strict=True))


def fit_hazard(
    counts: pd.DataFrame, *, events: str, at_risk: str, covariates: Sequence[str], confidence: float = 0.95
) -> HazardRatios:
    """Discrete-time hazard of grouped person-periods: a binomial GLM with cloglog link, so its ratios are Cox's.

    Prentice & Gloeckler (1978), Biometrics 34:57-67. Parameters: `counts`, rows such as `person_periods` makes;
    `events` and `at_risk`, their columns; `covariates`, columns that may change over time: the tenure as a category
    gives a hazard for each period, its logarithm a smooth one. Raises `KpiError` if counts are impossible, cells empty,
    or a covariate follows from others.

    >>> rows = pd.DataFrame({"plan": ["a", "b"], "n": [100, 100], "left": [10, 20]})
    >>> fit_hazard(rows, events="left", at_risk="n", covariates=["plan"]).hazard_ratio[1].__round__(6)  # log .8/log .9
    2.117905
    """
    import statsmodels.api as sm  # type: ignore[import-untyped]

    d, n = (counts[c].to_numpy(float) for c in (events, at_risk))
    require(bool(((d >= 0) & (d <= n)).all()), f"Need 0 <= {events} <= {at_risk} in every row. Were they swapped?")
    family = sm.families.Binomial(sm.families.links.CLogLog())

    def fit(x: pd.DataFrame, keep: Any) -> Sequence[Any]:
        made = sm.GLM(np.column_stack([d, n - d])[keep], x.to_numpy(), family=family).fit()
        return made.params, made.bse, np.full(x.shape[1], np.nan)

    return _told(fit, counts, covariates, d, n, confidence)


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

    def fit(x: pd.DataFrame, keep: Any) -> Sequence[Any]:
        made = PHReg(t[keep], x.iloc[:, 1:].to_numpy(), status=d[keep], ties="efron").fit()
        residual, v = np.asarray(made.schoenfeld_residuals), np.asarray(made.cov_params())
        event = np.isfinite(residual).all(axis=1)
        late = pd.Series(t[keep][event]).rank().to_numpy() - (event.sum() + 1) / 2
        moves = (late @ residual[event] @ v) ** 2 * len(late) / (np.diag(v) * (late @ late))
        return made.params, made.bse, chdtrc(1, moves)

    return _told(fit, covariates, list(covariates), d, np.full(len(d), np.inf), confidence)


def _told(
    fit: Callable[[pd.DataFrame, Any], Sequence[Any]], frame: pd.DataFrame, covariates: Sequence[str], d: Floats,
    n: Floats, confidence: float,
) -> HazardRatios:  # fmt: skip
    """Fit without the rows of levels that would have infinite ratios."""
    keep, out = n > 0, list[str]()
    while True:
        require(0 < d[keep].sum() < n[keep].sum(), "A hazard cannot be computed, because nobody or everybody left.")
        x, levels = design(frame[keep], covariates)
        cells = {f"{c}={v}": keep & (frame[c] == v).to_numpy() for c, known in levels.items() for v in known}
        pure = {name: rows for name, rows in cells.items() if d[rows].sum() in (0, n[rows].sum())}
        if not pure:
            break
        out += pure
        keep = keep & ~np.any(list(pure.values()), axis=0)
    rows = ratios(lambda x: fit(x, keep), x, confidence)
    out += [term for term, b, *_more in rows if np.isnan(b) and term != "constant"]
    return HazardRatios.of(rows, left_out=tuple(out), confidence=confidence)


def person_periods(spells: Any, *, start: str, end: str, until: date | str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Spells to counts of `at_risk` and `events` by `by`, `tenure` in calendar months since the start, and `month`.

    Parameters: `spells`, an Ibis table, DataFrame or file with a day of `start` and of `end`, empty while it lasts;
    `until`, last day of the data: a month that it cuts is left out. Raises `KpiError` if a spell has no start or ends
    before it.

    >>> spells = pd.DataFrame({"since": ["2026-01-15", "2026-02-01"], "to": ["2026-02-10", None]})
    >>> person_periods(spells, start="since", end="to", until="2026-02-28").to_numpy().tolist()
    [[0, '2026-01', 1, 0], [0, '2026-02', 1, 0], [1, '2026-02', 1, 1]]
    """
    after, table = date.fromisoformat(str(until)[:10]) + timedelta(1), as_table(spells)
    last = after.year * 12 + after.month - 2
    for name in (start, end, *by):
        require_known(name, table.columns, f"The table has no column {name!r}.")
    days = table.select(*by, one=_[start].cast("date"), two=_[end].cast("date"))
    wrong = days.filter(_.one.isnull() | (_.two < _.one)).count().to_pyarrow().as_py()
    require(not wrong, f"{wrong} spells have no {start} or end before it. Correct these rows or leave them out.")
    begun, over = (day.year() * 12 + day.month() - 1 for day in (_.one, _.two))
    rows = days.mutate(begun=begun, over=over).filter(_.begun <= last).group_by(*by, "begun", "over")
    rows = rows.aggregate(n=_.count()).mutate(to=ibis.least(_.over.fill_null(last), last))
    rows = rows.mutate(tenure=ibis.range(0, rows.to - rows.begun + 1).unnest()).mutate(month=_.begun + _.tenure)
    ended, keys = (_.month == _.over).fill_null(False), [*by, "tenure", "month"]
    told = rows.group_by(keys).aggregate(at_risk=_.n.sum(), events=ended.ifelse(_.n, 0).sum()).order_by(keys)
    found: pd.DataFrame = told.to_pyarrow().to_pandas()
    return found.assign(month=[f"{m // 12}-{m % 12 + 1:02}" for m in found["month"]])
