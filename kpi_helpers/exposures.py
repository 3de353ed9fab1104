"""How long touches could work, and which came before conversions: what an additive hazard is fitted to."""

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = 86_400  # seconds


class Exposure(NamedTuple):
    """Counts of touches, for any decay. Days are of 24 hours: a click before midnight is near to an order after it.

    `alive`: touches (`n`) by group `g`, `channel` and the whole days (`alive`) that they could still work; `before`:
    those before each `conversion` of some `value`, by `channel` and `days`; `active_days`, on which some touch of a
    person could work, and `later_days`, on which one could that is a day old or more.
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


def exposed(touches: "ir.Table", sold: "ir.Table", *, lookback_days: int, end: int, groups: int = 1) -> Exposure:
    """Count touches (person, at, code, credit) and those before conversions (id, person, bought_at, value).

    A touch works for `lookback_days`, also beyond a conversion, since people buy again; nothing is known after `end`
    (seconds since 1970). People fall into `groups`.
    """
    import ibis
    from ibis import _

    at = touches.at.epoch_seconds()
    last = ibis.least((end - at) // DAY, lookback_days - 1)
    alive = touches.group_by(channel=_.code, alive=last, g=_.person % groups).aggregate(n=_.credit.sum())
    age = _.bought_at.epoch_seconds() - _.at.epoch_seconds()
    pairs = sold.join(touches, "person").mutate(age=age).filter(_.age >= 0, _.age < lookback_days * DAY)
    before = pairs.group_by(conversion=_.id, channel=_.code, days=_.age // DAY).aggregate(
        n=_.credit.sum(), value=_.value.max(), g=(_.person % groups).max()
    )
    pause = at.lead().over(ibis.window(group_by="person", order_by=["at", "code", "credit"])) - at
    free = ibis.least(pause.fill_null(lookback_days * DAY), end - at)
    spans = touches.select(active=ibis.least(free, lookback_days * DAY), later=_later(pause, end - at, lookback_days))
    days = spans.aggregate(active=_.active.sum(), later=_.later.sum()).to_pyarrow().to_pylist()[0]
    return Exposure(
        alive.order_by("g", "channel", "alive").to_pyarrow().to_pandas(),
        before.order_by("conversion", "channel", "days").to_pyarrow().to_pandas(),
        days["active"] / DAY, days["later"] / DAY,
    )  # fmt: skip


def _later(pause: "ir.Value", left: "ir.Value", lookback_days: int) -> "ir.Value":
    """Seconds from a day after a touch to a day after the next one, or to when the touch or the data end."""
    import ibis

    return ibis.greatest(ibis.least(pause.fill_null(lookback_days * DAY), left - DAY, (lookback_days - 1) * DAY), 0)
