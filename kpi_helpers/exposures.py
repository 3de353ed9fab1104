"""How long touches could work, and which came before conversions: what an additive hazard is fitted to."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = 86_400  # seconds


class Exposure(NamedTuple):
    """Counts of touches, for any decay. Days are of 24 hours: a click before midnight is near to an order after it.

    `alive`: touches (`n`) by group `g`, `channel` and the whole days (`alive`) that they could still work; `before`:
    those before each `conversion` of some `value`, by `channel` and `days`. `led`: a conversion came within a day of
    the touch. `active_days`, on which some touch of a person could work, and `later_days`, on which one could that is
    a day old or more and did not lead; NaN where it is not asked for.
    """

    alive: pd.DataFrame
    before: pd.DataFrame
    active_days: float
    later_days: float

    @property
    def touched(self) -> tuple[float, float]:
        """Conversions that had a touch, and their value."""
        each = self.before.drop_duplicates("conversion")
        return float(len(each)), float(each["value"].sum())


def exposed(
    touches: "ir.Table", sold: "ir.Table", *, lookback_days: int, end: int, people: int | None = None, groups: int = 1
) -> Exposure:
    """Count touches (person, at, channel, credit, led) and those before conversions (id, person, bought_at, value).

    A touch works for `lookback_days`, also beyond a conversion, since people buy again; nothing is known after `end`
    (seconds since 1970). People fall into `groups`. Days at risk are counted where nobody knows how many `people` are.
    """
    import ibis
    from ibis import _

    pairs = sold.join(touches, "person")
    pairs = pairs.mutate(age=_.bought_at.epoch_seconds() - _.at.epoch_seconds())
    pairs = pairs.filter(_.age >= 0, _.age < lookback_days * DAY)
    last = ibis.least((end - _.at.epoch_seconds()) // DAY, lookback_days - 1)
    alive = touches.group_by("led", "channel", alive=last, g=_.person % groups).aggregate(n=_.credit.sum())
    before = pairs.group_by("led", "channel", conversion=_.id, days=_.age // DAY).aggregate(
        n=_.credit.sum(), value=_.value.max(), g=(_.person % groups).max()
    )
    active = later = math.nan
    if people is None:
        whole = lookback_days * DAY
        active = _spans(touches, end, lambda pause, left: ibis.least(pause.fill_null(whole), whole, left))
        # from a day after a touch to a day after the next one, or to when the touch or the data end
        old = touches.filter(~_.led)
        later = _spans(old, end, lambda pause, left: ibis.greatest(
            ibis.least(pause.fill_null(whole), whole - DAY, left - DAY), 0))  # fmt: skip
    return Exposure(
        alive.order_by("g", "channel", "alive", "led").to_pyarrow().to_pandas(),
        before.order_by("conversion", "channel", "days", "led").to_pyarrow().to_pandas(),
        active, later,
    )  # fmt: skip


def _spans(touches: "ir.Table", end: int, span: Callable[[Any, Any], Any]) -> float:
    """Days summed over touches, of which each has its `span`, from the pause until the next one and what is left."""
    import ibis

    at = touches.at.epoch_seconds()
    pause = at.lead().over(ibis.window(group_by="person", order_by=["at", "channel", "credit"])) - at
    told = touches.select(span=span(pause, end - at))
    return float(told.span.sum().to_pyarrow().as_py() or 0) / DAY
