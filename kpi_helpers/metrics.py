"""What is measured of each unit of an experiment: rates, means, ratios, and KPIs of the catalogue."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kpi_helpers.catalogue import kpi
from kpi_helpers.errors import require
from kpi_helpers.result import Text, both_say, measure, say

ROWS = "# rows"  # how a count of rows is called: no column has such a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured of each unit: signed columns of the outcome, then of a denominator or of covariates.

    `better` is "up" or "down"; with a `margin`, the loss allowed, it is a guardrail. `worthwhile` is the least lift
    that would be worth it, a fraction.
    """

    kind: str
    name: str
    columns: tuple[tuple[str, ...], ...]
    primary: bool = False
    label: Text | None = None
    unit: str = "ratio"
    better: str = "up"
    margin: float | None = None
    worthwhile: float = 0.0
    pooled: bool = False

    def __post_init__(self) -> None:
        require(self.better in ("up", "down"), f"{self.name}: better={self.better!r} is not one of up, down.")
        fine = self.margin is None or self.margin > 0
        require(fine, f"{self.name}: margin={self.margin} must be above 0: the loss allowed.")

    def of_rows(self) -> "Metric":
        """The same where rows of a unit were added up: a rate or mean of rows is a ratio of sums over units."""
        rule = f"{self.name} is adjusted by what was known of a unit: give one row a unit."
        require(self.kind != "adjusted", rule)
        return self if self.kind == "ratio" else replace(self, kind="ratio", columns=(*self.columns, (ROWS,)))

    @property
    def names(self) -> list[str]:
        """Its columns, the signed parts of each joined."""
        return [".".join(signed) for signed in self.columns]

    @property
    def skewed(self) -> bool:
        """Whether its values may be skewed enough to mislead Welch's test."""
        return self.kind != "rate" and not self.pooled

    def named(self, language: str) -> str:
        """Its label in a language, or else its name."""
        return str(self.label[language]) if self.label else self.name

    def written(self, value: float, language: str, *, change: bool = False) -> str:
        """A value, or a change, in the unit of the metric."""
        unit = "pp" if change and self.unit == "share" else self.unit
        return measure(value, unit, language, "") if math.isfinite(value) else say("compare.unbounded", language)

    def gain(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Bounds of what is won, whichever way is better."""
        return (low, high) if self.better == "up" else (-high, -low)

    @property
    def role(self) -> str:
        """Guardrail, primary or secondary."""
        return "guardrail" if self.margin is not None else "primary" if self.primary else "secondary"


def rate(column: str, *, name: str = "", **options: Any) -> Metric:
    """Share of units of which `column` is 1 (or true), such as those that converted; options as in `Metric`.

    >>> rate("converted", primary=True).role
    'primary'
    """
    return Metric(kind="rate", name=name or column, columns=((column,),), unit="share", **options)


def mean(column: str, pre: str | Sequence[str] | None = None, *, name: str = "", **options: Any) -> Metric:
    """Mean of `column` over units; `pre` are columns known before the start, which then sharpen it (CUPED).

    `pooled` takes one variance for both arms. Options as in `Metric`.

    >>> mean("revenue", pre="revenue_before").kind
    'adjusted'
    """
    before = [pre] if isinstance(pre, str) else list(pre or [])
    require(column not in before, f"{column} cannot sharpen itself: pre takes what was known before the start.")
    columns = ((column,), *((c,) for c in before))
    return Metric(kind="adjusted" if before else "mean", name=name or column, columns=columns, **options)


def ratio(numerator: str, denominator: str, *, name: str = "", **options: Any) -> Metric:
    """Sum of `numerator` by sum of `denominator`, such as orders per session of customers that were randomised.

    >>> ratio("orders", "sessions").name
    'orders/sessions'
    """
    columns = ((numerator,), (denominator,))
    return Metric(kind="ratio", name=name or f"{numerator}/{denominator}", columns=columns, **options)


def standard(columns: Sequence[str]) -> list[Metric]:
    """The metrics of the contract ``experiment_units`` that these columns feed.

    >>> [metric.name for metric in standard(["unit_id", "variant", "converted", "revenue"])]
    ['converted', 'revenue']
    """
    made = [
        rate("converted"), mean("revenue", "revenue_before" if "revenue_before" in columns else None, unit="money"),
        mean("sessions"), rate("unsubscribed", better="down", margin=0.005),
    ]  # fmt: skip
    return [replace(metric, label=both_say(f"metric.{metric.name}")) for metric in made if metric.name in columns]


def metric_of(given: Metric | str) -> Metric:
    """A metric, or a KPI of the catalogue by its id: a ratio of its columns, or their mean over units.

    >>> metric_of("order_rate_session").columns
    (('orders',), ('sessions',))
    """
    if isinstance(given, Metric):
        return given
    declared = kpi(given)
    plain = declared.kind in ("additive", "ratio", "mean") and not (declared.less or declared.change)
    require(plain, f"{given} is no sum or ratio of sums of units: name its columns with rate, mean or ratio.")
    columns = tuple(c for c in (declared.numerator, declared.denominator) if c)
    kind, better = "ratio" if len(columns) > 1 else "mean", "down" if declared.direction == "down" else "up"
    told: dict[str, Any] = {"label": declared.name, "unit": declared.unit, "better": better}
    return Metric(kind=kind, name=declared.id, columns=columns, **told)
