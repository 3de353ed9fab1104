"""The baseline of one KPI: its history cleaned, Tết and holidays known, and the whole tested on its own past."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from kpi_helpers.baselines import SEASONS, Forecast, forecast
from kpi_helpers.calendars import holiday_regressors
from kpi_helpers.cleaning import Cleaned, clean
from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import Result, day, number, percent, say, table
from kpi_helpers.stats import Floats

#: user's own days that bend demand: name -> dates, or "MM-DD" of every year
Holidays = Mapping[str, Sequence[date | str]]
GRAINS = {"D": "day", "W": "week", "M": "month"}
ODDS = (0.8, 0.5, 0.2)
LEVELS = (0.8, 0.95)
SPANS = {"1": "none", "7": "week"}


def baseline(series: pd.Series, horizon: int, holidays: Holidays | None = None) -> tuple[Forecast, Cleaned]:
    """Forecast a KPI from its cleaned history, with Tết and `holidays` known ahead.

    Gaps and outliers are left out, values before a lasting change are brought to the present level, and what was
    found is the second answer. Tết and holidays count only if the past shows their effect.

    Parameters
    ----------
    series : Series with a PeriodIndex (n,)
        Days, weeks or months without holes; NaN is missing.
    horizon : int
        Periods to forecast.
    holidays : mapping, optional
        Such as ``{"11.11": ["11-11"]}``.

    Raises
    ------
    KpiError
        If the history is too short.

    Examples
    --------
    >>> at = pd.period_range("2024-01-01", periods=130, freq="W-SUN")
    >>> told, cleaned = baseline(pd.Series(100.0, index=at), 4)
    >>> told.mean.round(9).tolist(), cleaned
    ([100.0, 100.0, 100.0, 100.0], Nothing was set aside, and no lasting change of level was found.)
    """
    require(len(series) > 0, "A forecast cannot be computed, because no value is known. Check the column and dates.")
    grain = GRAINS[series.index.freqstr[0]]
    ahead = pd.period_range(series.index[-1] + 1, periods=horizon, freq=series.index.freq)
    moved = holiday_regressors(series.index.append(ahead), holidays)
    x = moved.to_numpy()
    found = clean(series, season=7 if grain == "day" else 1, expected=(x[: len(series)] > 0).any(axis=1))
    level = pd.Series(found.values, index=series.index)
    for kind, first, now, was in zip(found.kind, found.first, found.observed, found.expected, strict=True):
        if kind == "break" and was > 0:
            level[level.index.start_time < pd.Timestamp(first)] *= now / was
    return forecast(level.to_numpy(), season=SEASONS[grain], horizon=horizon, regressors=x), found


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BackTest(Result):
    """What the same method would have said on past dates, beside what came.

    Attributes
    ----------
    origin_at : tuple of date
        First day that was not known.
    actual, expected, expected_low, expected_high : tuple of float
        Total of the plan's periods: what came, what was expected, and the interval.
    chance : tuple of float
        Probability that had been given to a total above the one that came.
    same_as_last_year : tuple of float
        The total that last year's periods would have promised; NaN if not known.
    covered_80, covered_95, below_80, above_80 : float
        Shares of single periods inside their intervals, and outside on either side of the 80% interval.
    mase : float
        Mean absolute error of a period over that of the seasonal naive rule within the history.
    rule, weight : tuple
        Rules of today's forecast and their weights.
    """

    origin_at: tuple[date, ...]
    actual: tuple[float, ...]
    expected: tuple[float, ...]
    expected_low: tuple[float, ...]
    expected_high: tuple[float, ...]
    chance: tuple[float, ...]
    same_as_last_year: tuple[float, ...]
    covered_80: float
    covered_95: float
    below_80: float
    above_80: float
    mase: float
    rule: tuple[str, ...]
    weight: tuple[float, ...]
    confidence: float
    n_periods: int
    grain: str

    def to_frame(self) -> pd.DataFrame:
        """One row a past date."""
        columns = ("origin_at", "actual", "expected", "expected_low", "expected_high", "chance", "same_as_last_year")
        whole = ("covered_80", "covered_95", "below_80", "above_80", "mase", "confidence")
        frame = pd.DataFrame({c: list(getattr(self, c)) for c in columns})
        return frame.assign(**{c: getattr(self, c) for c in whole})

    @property
    def error(self) -> float:
        """Mean absolute error of the totals, a share of their sum."""
        return _error(self.expected, self.actual)

    @property
    def error_last_year(self) -> float:
        """The same of the rule "as last year", on the dates on which it is known; NaN if on none."""
        return _error(self.same_as_last_year, self.actual)

    @property
    def n_inside(self) -> int:
        """Totals inside their interval, of those that have one."""
        rows = zip(self.expected_low, self.actual, self.expected_high, strict=True)
        return sum(low <= came <= high for low, came, high in rows)

    def met(self, odds: float) -> int:
        """How often a target that had been set at these odds was met, of those with known odds."""
        return sum(chance <= odds for chance in self.chance)

    def sentence(self, language: str = "en") -> str:
        """Error of the totals, and how often the interval held."""
        if not self.actual:
            return say("back_test.none", language)
        told = {
            "n": len(self.actual), "inside": self.n_inside, "of": _known(self.expected_low),
            "level": f"{self.confidence:.0%}", "error": percent(self.error, language),
            "before": percent(self.error_last_year, language),
        }  # fmt: skip
        kind = "sentence" if math.isfinite(self.error_last_year) else "alone"
        worse = self.error > self.error_last_year
        return say(f"back_test.{kind}", language, **told) + (f" {say('back_test.worse', language)}" if worse else "")

    def html(self, language: str = "en") -> str:
        """The sentence, what the rules weigh, a table of the odds; each date folded below."""
        said = f"<p>{html.escape(self.sentence(language))}</p>"
        parts = []
        for (rule, n), weight in zip(map(str.split, self.rule), self.weight, strict=True):
            if weight >= 0.005:
                season, share = say(f"season.{SPANS.get(n, 'year')}", language), f"{weight:.0%}"
                parts.append(say(f"rule_of.{rule}", language, season=season, weight=share))
        rules = "; ".join(parts)
        said += f"<p>{html.escape(say('back_test.rules', language, rules=rules))}</p>"
        if not self.actual:
            return said
        rows = [
            [say("back_test.target", language, odds=f"{odds:.0%}"), f"{odds:.0%}",
             say("back_test.of", language, k=self.met(odds), n=_known(self.chance))]
            for odds in ODDS
        ]  # fmt: skip
        for level, held in zip(LEVELS, (self.covered_80, self.covered_95), strict=True):
            rows.append([say("back_test.period", language, level=f"{level:.0%}"), f"{level:.0%}", f"{held:.0%}"])
        note = say("back_test.note", language, below=f"{self.below_80:.0%}", above=f"{self.above_80:.0%}",
                   mase=number(self.mase, language, decimals=2))  # fmt: skip
        heads = say("back_test.heads", language).split("|")
        grid = table(heads, rows, caption=say("back_test.caption", language), note=note, kind="tight", numeric=(1, 2))
        return f"{said}{grid}{self._dates(language)}"

    def _dates(self, language: str) -> str:
        parts = (self.origin_at, self.expected, self.expected_low, self.expected_high, self.actual)
        largest = max(map(abs, self.actual))
        decimals = 0 if largest >= 100 else 2 if largest >= 1 else 4
        rows = [
            [day(at, language), *(number(v, language, decimals=decimals) for v in values)]
            for at, *values in zip(*parts, strict=True)
        ]
        heads = say("back_test.date_heads", language).split("|")
        folded = table(heads, rows, caption=self.sentence(language), kind="tight", numeric=range(1, 5))
        return f'<details class="code"><summary>{say("back_test.dates", language)}</summary>{folded}</details>'


def back_test(
    series: pd.Series, horizon: int, *, weights: Sequence[float] | None = None, holidays: Holidays | None = None,
    most: int = 8, confidence: float = 0.9,
) -> BackTest:  # fmt: skip
    """Repeat the whole baseline on past dates: cleaning, effects, rules, intervals, each from what was known then.

    Parameters
    ----------
    series : Series with a PeriodIndex (n,)
        As for `baseline`.
    horizon : int
        Periods ahead.
    weights : sequence of float (horizon,), optional
        What the total sums; 0 leaves out the periods before a plan begins.
    most : int
        Past dates at most, evenly spaced; a date needs half of the history, and two seasons where there are more.

    Examples
    --------
    >>> at = pd.period_range("2024-01-01", periods=130, freq="W-SUN")
    >>> round(back_test(pd.Series(100.0, index=at), 4).error, 9)
    0.0
    """
    require(most >= 1, f"most={most}: at least one past date.")
    w = np.ones(horizon) if weights is None else np.asarray(weights, dtype=float)
    season = SEASONS[GRAINS[series.index.freqstr[0]]]
    y, n = series.to_numpy(dtype=float), len(series)
    first = 2 * season + 8 if n >= 2 * season + horizon + 12 else n // 2
    origins = np.unique(np.linspace(first, n - horizon, most).astype(int)).tolist() if n - horizon >= first else []
    rows, periods = [], []
    for o in origins:
        came = y[o : o + horizon]
        known = np.isfinite(came)
        try:
            told, _found = baseline(series.iloc[:o], horizon, holidays)
        except KpiError:
            continue
        if not (w[known] > 0).any():
            continue
        part = w * known
        last = y[o - season : o - season + horizon] if o >= season else came * np.nan
        total = told.total(confidence, weights=part)
        actual = float(part[known] @ came[known])
        before = float(part[known] @ last[known]) if len(last) == horizon else math.nan
        rows.append((series.index[o].start_time.date(), actual, *total,
                     float(told.whole(part).chance_above(actual)), before))  # fmt: skip
        periods.append(_scored(told, came, y[:o], season))
    today, _found = baseline(series, horizon, holidays)
    at, actual_, mean, low, high, chance, before_ = zip(*rows, strict=True) if rows else ((),) * 7
    covered = [_mean(np.array(column)) for column in zip(*periods, strict=True)] or [math.nan] * 5
    return BackTest(
        origin_at=at, actual=actual_, expected=mean, expected_low=low, expected_high=high, chance=chance,
        same_as_last_year=before_, covered_80=covered[0], covered_95=covered[1], below_80=covered[2],
        above_80=covered[3], mase=covered[4], rule=tuple(today.weights), weight=tuple(today.weights.values()),
        confidence=confidence, n_periods=int(np.count_nonzero(w)), grain=GRAINS[series.index.freqstr[0]],
    )  # fmt: skip


def _scored(told: Forecast, came: Floats, before: Floats, season: int) -> list[float]:
    """Shares of known periods inside 80% and 95%, below and above 80%, and the mean absolute scaled error."""
    known = np.isfinite(came)
    (low, high), (least, most) = (told.interval(level) for level in LEVELS)
    inside = [((a <= came) & (came <= b))[known].mean() for a, b in ((low, high), (least, most))]
    lag = season if len(before) > season else 1
    scale = _mean(np.abs(before[lag:] - before[:-lag]))
    error = np.abs(came - told.mean)[known].mean()
    out = [*inside, (came < low)[known].mean(), (came > high)[known].mean(), error / scale if scale > 0 else math.nan]
    return [float(v) for v in out]


def _mean(values: Floats) -> float:
    """Mean of what is known, NaN if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _known(values: Sequence[float]) -> int:
    return sum(map(math.isfinite, values))


def _error(said: Sequence[float], came: Sequence[float]) -> float:
    pairs = np.array([(s, c) for s, c in zip(said, came, strict=True) if math.isfinite(s)]).reshape(-1, 2)
    missed, total = np.abs(pairs[:, 0] - pairs[:, 1]).sum(), np.abs(pairs[:, 1]).sum()
    return float(missed / total) if total > 0 else 0.0 if len(pairs) and missed == 0 else math.nan
