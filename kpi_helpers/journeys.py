"""Journeys, made in the engine: touches and conversions to one windowed table, of which every model is an aggregate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kpi_helpers.errors import require
from kpi_helpers.exposures import DAY, Exposure, exposed
from kpi_helpers.paths import (
    BEGUN,
    CONVERTED,
    DIRECT,
    LEFT,
    Journeys,
    PathTable,
    Rule,
    Steps,
    Touches,
    require_few,
    split_evenly,
)  # fmt: skip
from kpi_helpers.stats import Floats
from kpi_helpers.touches import checked, read_all, read_conversions, read_touchpoints
from kpi_helpers.units import as_table

if TYPE_CHECKING:
    import ibis.expr.types as ir

MOST_TOUCHES = 1000  # of one person
EPOCH = 719_163  # day number of 1970-01-01


@dataclass(frozen=True, kw_only=True, eq=False)
class TouchJourneys(Journeys):
    """Journeys in the engine: `table` has a row a touch, with its place, neighbours and time to the conversion.

    `touches` and `sold` are all touches and conversions of people, before any journey was cut.
    """

    table: "ir.Table"
    touches: "ir.Table"
    sold: "ir.Table"
    lookback_days: int
    since: date
    until: date
    crowd: tuple[str, ...] = ()

    @property
    def n_days(self) -> int:
        """Days from the first touch or conversion to the last."""
        return (self.until - self.since).days + 1

    def credit(self, rules: Mapping[str, Rule], groups: int = 1) -> dict[str, Floats]:
        import ibis

        t = self._touched
        given = Touches(t.position, t.length, t.closer, t.age_days, ibis.ifelse)
        weighed = t.mutate(**{f"{name} weight": rule(given) * t.credit for name, rule in rules.items()})
        of = ibis.window(group_by="conversion")
        whole = weighed.mutate(**{f"{name} whole": weighed[f"{name} weight"].sum().over(of) for name in rules})
        sums: dict[str, Any] = {}
        for name in rules:
            weight, every = whole[f"{name} weight"], whole[f"{name} whole"]
            share = weight / every.nullif(0)
            sums |= {f"{name} n": share.sum(), f"{name} value": (share * whole.value).sum()}
            sums |= {f"{name} least": every.min(), f"{name} worst": weight.min()}
        told = read_all(
            whole.group_by(g=whole.person % groups, channel=whole.channel).aggregate(**sums), "g", "channel"
        )
        credits = {}
        for name in rules:
            fine = (told[f"{name} least"] > 0).all() and (told[f"{name} worst"] >= 0).all()
            require(fine, f"The model {name!r} gives some journeys no weight: weights must be positive.")
            credits[name] = np.zeros((groups, len(self.channels), 2))
            credits[name][told["g"], told["channel"] - 1] = told[[f"{name} n", f"{name} value"]]
        return credits

    @property
    def _touched(self) -> "ir.Table":
        return self.table.filter(self.table.conversion.notnull())

    def steps(self, order: int = 1, groups: int = 1) -> Steps:
        import ibis
        from ibis import _

        base, t = len(self.channels) + 1, self.table
        state = t.channel.cast("int64")
        for back in range(1, order):
            state += t[f"before_{back}"].fill_null(0).cast("int64") * base**back
        end = t.conversion.notnull().ifelse(CONVERTED, LEFT)
        then, first = (t.position == t.length).ifelse(end, t.after), ibis.least(t.length, order)
        rows = t.mutate(state=state, then=then, begun=t.position == first).filter(t.position >= first)
        sums = {"n": _.count(), "begun": _.begun.sum(), "value": _.value.sum(where=_.then == CONVERTED)}
        told = read_all(rows.group_by("state", "then", g=_.person % groups).aggregate(**sums), "g", "state", "then")
        begun = told.groupby(["g", "state"], as_index=False)["begun"].sum().rename(columns={"begun": "n"})
        told = pd.concat([told, begun[begun["n"] > 0].assign(then=BEGUN, value=0.0)])
        told = told.rename(columns={"g": "group"}).astype({"n": float, "then": "int64"})
        columns: dict[str, Any] = {name: told[name].to_numpy() for name in Steps._fields[:5]}
        return Steps(**columns, order=order, n_channels=base - 1)

    def shared(self, groups: int = 1) -> Floats:
        from ibis import _

        sets = self._touched.group_by("conversion").aggregate(
            mask=_.bit.bit_or(), value=_.value.max(), g=(_.person % groups).max()
        )
        told = read_all(sets.group_by("g", "mask").aggregate(n=_.count(), value=_.value.sum()), "g", "mask")
        masks, of = np.unique(told["mask"].to_numpy("int64"), return_inverse=True)
        sums = np.zeros((groups, 2, len(masks)))
        sums[told["g"], :, of] = told[["n", "value"]]
        return split_evenly(masks, sums, len(self.channels))

    def won(self) -> PathTable:
        from ibis import _

        one = self._touched.group_by("conversion").aggregate(
            path=_.channel.collect(order_by=_.position), value=_.value.max()
        )
        told = read_all(one.group_by("path").aggregate(n=_.count(), value=_.value.sum()), "path")
        begins = np.cumsum([0, *map(len, told["path"])])
        codes = np.concatenate(told["path"].to_list()).astype(np.int64)
        n, value = (told[name].to_numpy(float) for name in ("n", "value"))
        return PathTable(
            channels=self.channels, codes=codes, begins=begins, won_by_path=n, value_by_path=value, lost_by_path=0 * n,
            conversions=float(n.sum()), value=float(value.sum()), nulls=0.0, currency=self.currency,
            sample=int(n.sum()),
        )  # fmt: skip

    def exposure(self, groups: int = 1) -> Exposure:
        """Counts that an additive hazard needs, for any decay."""
        return exposed(
            self.touches, self.sold, lookback_days=self.lookback_days, end=_last_second(self.until),
            people=self.people, groups=groups,
        )  # fmt: skip


def _last_second(of: date) -> int:
    return (of.toordinal() - EPOCH + 1) * DAY - 1


def read_journeys(
    touchpoints: Any, conversions: Any, *, lookback_days: int = 30, session_gap_days: float | None = None,
    collapse_repeats: bool = False, view_credit: float = 0.0, people: int | None = None, conversion: str | None = None,
    currency: str = "",
) -> TouchJourneys:  # fmt: skip
    """Make journeys of touches and conversions, inside the engine: one windowed pass, kept there.

    A touch counts for the next conversion of its person only, and not if it is older than `lookback_days`; what is too
    old, or was followed by nothing, is a journey without conversion. At equal times a touch comes before a conversion.

    Parameters: `touchpoints` and `conversions`, Ibis tables, DataFrames or paths of Parquet files, with ``customer_id,
    touched_at, channel`` and maybe ``kind`` (click or view), and with ``customer_id, ordered_at`` (or converted_at) and
    maybe ``revenue`` (or value), ``status``, ``conversion``; `session_gap_days`, days without a touch that end a
    journey; `collapse_repeats`, keep the last of several touches of one channel in a row; `view_credit`, what a view
    weighs beside a click, in [0, 1] (0: views are left out); `people`, how many could have been reached, touched or
    not; `conversion`, the type of conversion to credit, where there are several: others end a journey uncredited.
    `.issues` counts what was set aside. Raises `KpiError` for wrong options and columns, negative value, dates far
    ahead, more than 62 channels, and where no conversion has a touch.

    >>> at = pd.to_datetime(["2026-01-05", "2026-01-01", "2026-01-07"])
    >>> touches = pd.DataFrame({"customer_id": ["a", "a", "b"], "touched_at": at, "channel": ["Email", "Ads", "Ads"]})
    >>> orders = pd.DataFrame({"customer_id": ["a"], "ordered_at": [at[2]], "revenue": [20.0]})
    >>> found = read_journeys(touches, orders)
    >>> found.channels, found.conversions, found.nulls
    (('Ads', 'Email'), 1.0, 1.0)
    """
    from ibis import _

    require(lookback_days >= 1, f"lookback_days={lookback_days}: a touch must be able to count for a day or more.")
    require(0 <= view_credit <= 1, f"view_credit={view_credit} is not in [0, 1], the part of a click's credit.")
    fine = session_gap_days is None or session_gap_days > 0
    require(fine, f"session_gap_days={session_gap_days} must be a number of days above 0, or None.")
    whole = people is None or (isinstance(people, int) and not isinstance(people, bool))
    require(whole, f"people={people!r}: how many could have been reached, a whole number, or None.")
    touched, every = read_touchpoints(touchpoints, view_credit), read_conversions(conversions)
    bought = every.filter("used")
    kinds = {t.customer_id.type().is_string() for t in (touched, bought)}
    require(len(kinds) == 1, "customer_id is text in one of the tables and a number in the other: nobody would match.")
    counts, begin, last = checked(touched, bought, lookback_days)
    touches = touched.filter("named", "used").select("customer_id", "at", "channel", "credit").distinct().cache()
    channels = sorted(touches.channel.as_table().distinct().to_pyarrow()["channel"].to_pylist())
    require_few(channels)
    persons = touches.group_by("customer_id").aggregate(n=_.count())
    persons = persons.mutate(crowd=persons.n > MOST_TOUCHES).mutate(person=_row_number("crowd", "customer_id")).cache()
    during = bought.filter("named").filter(_.at >= begin, _.at.date() <= last)
    n_during = during.count().to_pyarrow().as_py()
    counts["unseen"] -= n_during  # touches before these are not in the log
    counts["uncompleted"] = every.count().to_pyarrow().as_py() - bought.count().to_pyarrow().as_py()
    bought = during.left_join(persons, "customer_id").filter(~_.crowd.fill_null(False))
    bought = bought.mutate(id=_row_number("customer_id", "at", "value", "kind"))
    bought = bought.select("id", "person", "customer_id", "value", "kind", bought_at=bought.at).cache()
    n_bought = bought.count().to_pyarrow().as_py()
    counts |= {"crowd_conversions": n_during - n_bought, "other_type": 0}
    codes = pd.DataFrame({"channel": channels, "code": np.arange(1, len(channels) + 1)})
    codes = as_table(codes.assign(bit=np.int64(1) << (codes["code"] - 1)))
    coded = touches.join(persons.filter(~_.crowd), "customer_id").join(codes, "channel")
    table = every_touch = _matched(coded, bought, lookback_days)
    if session_gap_days is not None:
        table = _cut(table, session_gap_days)
    if conversion is not None:  # touches before others are journeys that did not convert
        asked = (_.kind == conversion).fill_null(False)
        table, bought = table.mutate(wanted=asked), bought.filter(asked).cache()
        counts["other_type"] = n_bought - bought.count().to_pyarrow().as_py()
    if collapse_repeats:
        table = table.mutate(later=_.code.lead().over(_journey(table))).filter(_.later.isnull() | (_.later != _.code))
    table = _placed(table, [i for i, name in enumerate(channels, 1) if name.casefold() in DIRECT]).cache()
    rest = {"since": begin.date(), "until": last, "lookback_days": lookback_days, "currency": currency}
    rest["view_credit"] = view_credit or 1.0  # at 0 there are none
    rest |= {
        "touches": every_touch.rename(channel="code") if collapse_repeats else table,
        "sold": bought.filter(_.person.notnull()),
    }
    return _told(table, bought, persons, channels, counts, people, **rest)


def _row_number(*by: str) -> Any:
    import ibis

    return ibis.row_number().over(order_by=list(by))


def _matched(coded: "ir.Table", bought: "ir.Table", lookback_days: int) -> "ir.Table":
    """Touches with the next conversion of their person; `old` are those too old for it, journeys of their own."""
    import ibis
    from ibis import _

    events = coded.select("person", "at", "code", "bit", "credit", rank=1, id=ibis.null("int64"))
    nothing = {name: ibis.null(events[name].type()) for name in ("code", "bit", "credit")}
    sold = bought.filter(_.person.notnull()).select("person", at="bought_at", **nothing, rank=0, id="id")
    both = events.union(sold)
    back = ibis.cumulative_window(group_by="person", order_by=[both.at.desc(), both["rank"]])
    touches = both.mutate(id=both.id.min().over(back)).filter(_.code.notnull()).drop("rank")
    joined = touches.left_join(bought.select("id", "bought_at", "value", "kind"), "id").drop("id_right")
    age = (joined.bought_at.epoch_seconds() - joined.at.epoch_seconds()) / DAY
    led = (age < 1).fill_null(False)
    return joined.mutate(age_days=age, old=(age > lookback_days).ifelse(1, 0), led=led)


def _journey(table: "ir.Table", **how: Any) -> Any:
    import ibis

    return ibis.window(group_by=["person", "id", "old"], order_by=["at", "code", "credit"], **how)


def _cut(table: "ir.Table", gap_days: float) -> "ir.Table":
    """Journeys cut where a person was not touched for so long: what came before is a journey without conversion."""
    import ibis
    from ibis import _

    next_touch = _.at.lead().over(ibis.window(group_by=["person", "id"], order_by=["at", "code", "credit"]))
    gap = ibis.coalesce(next_touch, _.bought_at).epoch_seconds() - _.at.epoch_seconds()
    table = table.mutate(cut=(gap / DAY > gap_days).ifelse(1, 0))
    back = [table[name].desc() for name in ("at", "code", "credit")]
    cuts = table.cut.sum().over(ibis.cumulative_window(group_by=["person", "id"], order_by=back))
    return table.mutate(old=(cuts > 0).ifelse(cuts + 1, table.old))


def _placed(table: "ir.Table", direct: Sequence[int]) -> "ir.Table":
    """The columns that models ask for, each touch with its place and neighbours in its journey."""
    import ibis

    whole, order, won = (
        ibis.window(group_by=["person", "id", "old"]),
        _journey(table),
        table.id.notnull() & (table.old == 0) & (table.wanted if "wanted" in table.columns else True),
    )
    position, length = ibis.row_number().over(order) + 1, table.count().over(whole)
    placed = table.select(
        "person", "at", "bit", "credit", "age_days", "led", channel=table.code, conversion=won.ifelse(table.id, None),
        value=won.ifelse(table.value, 0.0), position=position, length=length, before_1=table.code.lag(1).over(order),
        before_2=table.code.lag(2).over(order), after=table.code.lead(1).over(order), old=table.old, group=table.id,
    )  # fmt: skip
    if not direct:
        return placed.mutate(closer=placed.length)
    known = placed.channel.notin(direct).ifelse(placed.position, None)
    return placed.mutate(
        closer=known.max().over(ibis.window(group_by=["person", "group", "old"])).fill_null(placed.length)
    )


def _told(
    table: "ir.Table", bought: "ir.Table", persons: "ir.Table", channels: Sequence[str], counts: dict[str, int],
    people: int | None, **rest: Any,
) -> TouchJourneys:  # fmt: skip
    """Totals of the journeys, and how many rows were set aside."""
    from ibis import _

    ends = _.position == _.length
    sums = {"rows": _.count(), "old": (_.old > 0).sum(), "won": (ends & _.conversion.notnull()).sum()}
    sums |= {"nulls": (ends & _.conversion.isnull()).sum(), "value": _.value.sum(where=ends)}
    told = table.aggregate(**sums).to_pyarrow().to_pylist()[0]
    whole = bought.aggregate(n=_.count(), value=_.value.sum(), new=_.customer_id.nunique(where=_.person.isnull()))
    whole = whole.to_pyarrow().to_pylist()[0]
    rule = "No conversion is left: none is completed, of the type asked for and on days that touches could reach."
    require(whole["n"] > 0, rule)
    require(bool(np.isfinite(whole["value"])), "A conversion has an infinite value. Correct it or leave it out.")
    require(told["won"] > 0, "No conversion has a touch within the lookback: nothing can be attributed.")
    crowd = persons.filter("crowd").order_by(_.n.desc(), "customer_id").to_pyarrow().to_pylist()
    sample = persons.filter(~_.crowd).count().to_pyarrow().as_py()
    seen = sample + whole["new"]
    require(people is None or people >= seen, f"people={people}, but {seen} people were touched or converted.")
    kept = ("unnamed", "unpriced", "uncompleted", "other_type", "unseen", "late", "views")
    issues = {what: counts[what] for what in kept} | {"old": told["old"]}
    issues |= {"crowd": len(crowd), "crowd_touches": sum(row["n"] for row in crowd)}
    issues["crowd_conversions"] = counts["crowd_conversions"]
    issues["repeated"] = counts["used"] - persons.n.sum().to_pyarrow().as_py()
    totals: dict[str, Any] = {
        "conversions": float(whole["n"]),
        "value": float(whole["value"] or 0),
        "nulls": float(told["nulls"]),
    }
    totals |= {"untouched": whole["n"] - told["won"], "untouched_value": totals["value"] - (told["value"] or 0)}
    return TouchJourneys(
        channels=tuple(channels), table=table, timed=True, people=people, sample=sample, issues=issues,
        crowd=tuple(str(row["customer_id"]) for row in crowd[:3]), **totals, **rest,
    )  # fmt: skip
