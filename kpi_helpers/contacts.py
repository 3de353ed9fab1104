"""People and what reached them: reach, orders after a contact, sequences, automations, stickiness, re-engagement."""

from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _
from scipy.special import ndtri

from kpi_helpers import views
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, day, number, percent, say
from kpi_helpers.sources import Source
from kpi_helpers.stats import ratio_margin, wilson

DAY = 86_400
CROSSED = 0.1  # of those left alone who were contacted soon after: more, and they tell nothing


def recent(data: Source, name: str, at: str, as_of: date | None, days: int | None = None) -> ir.Table:
    """Rows of a table up to the end of a day, of the last `days` if given; all of them where nothing is dated."""
    rows = data.table(name)
    if as_of is None or at not in rows.columns:
        return rows
    rows = rows.filter(rows[at] < _end(as_of))
    return rows.filter(rows[at] >= _end(as_of - timedelta(days))) if days else rows


def _end(day: date) -> Any:
    return ibis.literal(pd.Timestamp(day + timedelta(1))).cast("timestamp")


def _seconds(later: Any, earlier: Any) -> Any:
    return later.epoch_seconds() - earlier.epoch_seconds()


def fetched(rows: Any) -> pd.DataFrame:
    """A small result of the engine."""
    return pd.DataFrame(rows.to_pyarrow().to_pandas())


class Shares(Framed):
    """`people` (or runs) of a `group`, `name` by name, as a `share` `out_of` so many, with its interval.

    `what`: ``reach`` (people met on a channel; `distinct` over all are fewer than the `summed`), ``ordered`` (contacted
    on the channel `group`, ordered on `name`), ``steps`` (of a sequence: of those in the step before), ``runs`` (of an
    automation), ``discovery`` (how people found us).
    """

    columns: ClassVar = ("group", "name", "people", "out_of", "share", "low", "high")

    def sentence(self, language: str = "en") -> str:
        written = {
            k: percent(v, language) if isinstance(v, float) else day(v, language) if isinstance(v, date) else
            number(v, language) if isinstance(v, int) else v for k, v in self.whole.items()
        }  # fmt: skip
        return say(f"shares.{self.what}" if len(self.frame) else "shares.none", language, **written)


def shares(what: str, f: pd.DataFrame, confidence: float, **whole: Any) -> Shares:
    """The result of rows with ``name, people, out_of``, and perhaps a ``group``."""
    f = f.assign(**{c: f[c].astype(float) for c in ("people", "out_of")})
    low, high = wilson(f["people"], f["out_of"], confidence=confidence)
    f = f.assign(share=f["people"] / f["out_of"].where(f["out_of"] > 0), low=low, high=high)
    f = f.assign(group=f.get("group", ""))[list(Shares.columns)].reset_index(drop=True)
    return Shares(frame=f, whole={"what": what, "level": f"{confidence:.0%}"} | whole)


def reach(data: Source, *, as_of: date | None, days: int = 28, confidence: float = 0.95) -> Shares:
    """Count distinct people by channel and over all: of contacts (touchpoints), or else of messages."""
    name, at = ("touchpoints", "touched_at") if "touchpoints" in data.tables else ("messages", "sent_at")
    pairs = recent(data, name, at, as_of, days).select("customer_id", name="channel").distinct()
    each = pairs.mutate(n=_.count().over(ibis.window(group_by="customer_id")))
    f = fetched(each.group_by("name").aggregate(people=_.count(), only=_.count(where=_.n == 1)))
    f = f.sort_values(["people", "name"], ascending=[False, True])
    n = int(pairs.customer_id.nunique().to_pyarrow().as_py())
    told = {"distinct": n, "summed": int(f["people"].sum()), "several": 1 - float(f["only"].sum()) / max(n, 1)}
    return shares("reach", f.assign(out_of=n), confidence, **told, days=days)


def ordered(data: Source, *, as_of: date, days: int = 28, within_days: int = 30, confidence: float = 0.95) -> Shares:
    """Tell who of those messaged in `days` days that are `within_days` past ordered since, and on which channel."""
    until = as_of - timedelta(within_days)
    sent = recent(data, "messages", "sent_at", until, days).select("customer_id", group="channel", at="sent_at")
    bought = _bought(data).filter(_.then >= _end(until - timedelta(days)))
    after = _seconds(bought.then, sent["at"])
    came = sent.join(bought, [sent.customer_id == bought.customer_id, after > 0, after <= within_days * DAY])
    people = {"people": came.customer_id.nunique()}
    f = fetched(came.group_by("group").aggregate(**people).mutate(name=ibis.literal("")))
    f = pd.concat([f, fetched(came.group_by("group", "name").aggregate(**people))])
    met = fetched(sent.group_by("group").aggregate(out_of=_.customer_id.nunique()))
    f = met.merge(f, on="group", how="left").fillna({"name": "", "people": 0}).assign(part=lambda f: f["name"] != "")
    f = f.sort_values(["out_of", "group", "part", "people", "name"], ascending=[False, True, True, False, True])
    told = {"first": until - timedelta(days - 1), "last": until, "within": within_days}
    return shares("ordered", f, confidence, **told)


def _bought(data: Source) -> ir.Table:
    rows = views.rows(data, "completed_orders", (), None, None).table
    name = rows.channel if "channel" in rows.columns else ibis.null("string")
    return rows.select("customer_id", then="ordered_at", name=name.fill_null("–"))


def follow(data: Source, *, as_of: date, window_days: int = 28, confidence: float = 0.95) -> Shares:
    """Follow who entered a sequence of messages for `window_days` each: the same people, step after step.

    Only those whose whole window is over count (`open_n` are too late). Who got a step without or before the one
    before it is set aside (`aside_n`). A last row tells who ordered within the window.
    """
    sent = recent(data, "messages", "sent_at", as_of).filter(_.workflow.notnull(), _.step.notnull())
    steps = sent.group_by("customer_id", "workflow", "step").aggregate(at=_.sent_at.min())
    whole = ibis.window(group_by=["customer_id", "workflow"])
    order = ibis.window(group_by=["customer_id", "workflow"], order_by="step")
    late = (steps["at"] < steps["at"].lag().over(order)).fill_null(False)
    wrong = (late | (steps.step != ibis.row_number().over(order) + 1)).ifelse(1, 0)
    steps = steps.mutate(wrong=wrong, begun=steps["at"].min().over(whole), first=steps.step.min().over(whole))
    steps = steps.mutate(wrong=_.wrong.max().over(whole), longest=_.step.max().over(ibis.window(group_by="workflow")))
    ripe, entry = _seconds(_end(as_of), steps.begun) >= window_days * DAY, steps.step == steps["first"]
    steps = steps.mutate(ripe=ripe, good=ripe & (steps.wrong == 0), entry=entry).filter(_.longest > 1)
    inside = steps.filter(steps.good, _seconds(steps["at"], steps.begun) <= window_days * DAY)
    f = fetched(inside.group_by(group="workflow", step="step").aggregate(people=_.count()))
    f = f.sort_values(["group", "step"], ignore_index=True)
    f = f.assign(name=f["step"].astype(int).astype(str), out_of=f.groupby("group")["people"].shift())
    if "orders" in data.tables:
        first, bought = inside.filter(_.step == 1), _bought(data).select("customer_id", "then")
        came = first.join(bought, "customer_id").mutate(after=_seconds(_.then, _.begun))
        came = came.filter(_.after > 0, _.after <= window_days * DAY).group_by(group="workflow")
        last = fetched(came.aggregate(people=_.customer_id.nunique())).assign(name="order", step=np.inf)
        last["out_of"] = last["group"].map(f[f["step"] == 1].set_index("group")["people"])
        f = pd.concat([f, last]).sort_values(["group", "step"])
    n = steps.filter(steps.entry).aggregate(open_n=_.count(where=~_.ripe), aside_n=_.count(where=_.wrong == 1))
    told = {k: int(v[0] or 0) for k, v in n.to_pyarrow().to_pydict().items()}
    return shares("steps", f, confidence, days=window_days, **told)


def runs(data: Source, *, as_of: date | None, days: int = 28, confidence: float = 0.95) -> Shares:
    """Count runs of automations, actions and people apart; a retry, which keeps its id, is the same run.

    A run is ``executed`` if any of its tries was, or else what the last one was.
    """
    rows = recent(data, "automation_runs", "run_at", as_of, days)
    rank = ibis.cases((rows.status == "executed", 2), else_=0)
    tries = ibis.row_number().over(ibis.window(group_by="run_id", order_by=[ibis.desc(rank), ibis.desc(rows.run_at)]))
    last = rows.mutate(nth=tries, n=_.count().over(ibis.window(group_by="run_id"))).filter(_.nth == 0)
    done = _.status == "executed"
    counts = {s: _.count(where=_.status == s) for s in ("executed", "failed", "skipped")}
    if "action" in rows.columns:
        counts |= {a: _.count(where=done & (_.action == a)) for a in ("send", "trigger")}
    if "customer_id" in rows.columns:
        counts |= {"contacts": _.customer_id.nunique(where=done)}
    f = fetched(last.group_by(group="workflow").aggregate(out_of=_.count(), **counts, retries=_.n.sum() - _.count()))
    f = f.melt(["group", "out_of"], value_name="people", var_name="name").sort_values(["group"], kind="stable")
    told = {
        "runs": int(f.drop_duplicates("group")["out_of"].sum()),
        "retries": int(f.query("name == 'retries'")["people"].sum()),
    }
    f["out_of"] = f["out_of"].where(f["name"].isin(["executed", "failed", "skipped"]))
    return shares("runs", f, confidence, **told, days=days)


class Stickiness(Framed):
    """Mean of people active on a `daily` day, as a `share` of all who were in the days, with its interval."""

    def sentence(self, language: str = "en") -> str:
        told = {k: percent(self.whole[k], language) for k in ("share", "low", "high")}
        told |= {k: number(self.whole[k], language) for k in ("daily", "people", "days")}
        return say("stickiness.sentence" if self.people else "stickiness.none", language, level=self.level, **told)


def stickiness(data: Source, *, as_of: date | None, days: int = 28, confidence: float = 0.95) -> Stickiness:
    """Tell how often people come back: active people of a mean day / people active in the days (DAU / MAU).

    It is the mean of each one's active days, so that its interval is that of a mean over people.
    """
    require(days >= 1, f"days={days} must be 1 or more.")
    rows = recent(data, "web_events", "happened_at", as_of, days)
    each = rows.group_by("visitor_id").aggregate(active=_.happened_at.cast("date").nunique())
    f = fetched(each.group_by("active").aggregate(people=_.count()))
    n, total = float(f["people"].sum()), float((f["active"] * f["people"]).sum())
    known = fetched(data.table("web_events").aggregate(first=_.happened_at.min()))["first"].iloc[0]
    if as_of and pd.notna(known):  # days before the data begin are no days without visits
        days = min(days, max((as_of - known.date()).days + 1, 1))
    share = total / (n * days) if n else np.nan
    squared = float(((f["active"] - share * days) ** 2 * f["people"]).sum())
    half = float(ratio_margin(n, n * days, squared, confidence=confidence))
    told = {"share": share, "low": max(share - half, 0), "high": share + half, "daily": total / days}
    return Stickiness.of([()], **told, people=n, days=days, level=f"{confidence:.0%}")


class Reengagement(Framed):
    """The quiet who were `contacted` on a day and `came` back, against as quiet ones who were not (`untouched`).

    `lift`: times as many came as without, less 1; `extra`: people that the contact brought; NaN without a hold-out.
    """

    columns: ClassVar = ("on", "contacted", "came", "untouched", "untouched_came")

    def sentence(self, language: str = "en") -> str:
        told = {k: number(self.whole[k], language) for k in ("people", "back", "extra", "alone", "crossed")}
        told |= {k: percent(self.whole[k], language, decimals=0, sign=True) for k in ("lift", "low", "high")}
        told |= {k: percent(self.whole[k], language) for k in ("rate", "without")}
        clear = "sentence" if self.low * self.high > 0 else "unclear"
        few = "crossed" if self.crossed > CROSSED * self.alone else "few" if self.alone else "alone"
        kind = clear if np.isfinite(self.lift) else few if self.people else "none"
        said = {"workflow": self.workflow, "quiet": self.quiet_days, "within": self.within_days, "level": self.level}
        return say(f"reengagement.{kind}", language, **said, **told)


def reengaged(
    data: Source, *, as_of: date, workflow: str = "", quiet_days: int = 90, within_days: int = 30,
    confidence: float = 0.95,
) -> Reengagement:  # fmt: skip
    """Compare the quiet whom an automation contacted with those it left alone on the same day, all as quiet.

    The ratio is that of Mantel and Haenszel over the days, with the variance of Greenland & Robins (1985, Biometrics
    41:55-68). It tells what the contact did only if chance chose whom to contact. `workflow`: by default the one that
    contacted most quiet people. Its first contact of a quiet time counts, reminders do not; who was contacted by it
    within the days before is no hold-out. Where more than a tenth of those left alone were contacted within the days
    after (`crossed`), the effect cannot be told.
    """
    sent = recent(data, "messages", "sent_at", as_of - timedelta(within_days)).filter(_.workflow.notnull())
    sent = sent.select("workflow", who="customer_id", at=_.sent_at.epoch_seconds(), on=_.sent_at.cast("date"))
    order = ibis.window(group_by="customer_id", order_by="then")
    spells = _bought(data).mutate(next=_.then.lead().over(order)).mutate(begun=_.then.epoch_seconds())
    spells = spells.select(person="customer_id", begun=_.begun + quiet_days * DAY, ended=_.next.epoch_seconds())

    def asleep(rows: ir.Table) -> list[Any]:
        return [spells.begun < rows["at"], spells.ended.isnull() | (spells.ended >= rows["at"])]

    if not workflow:
        met = sent.join(spells, [sent.who == spells.person, *asleep(sent)]).group_by("workflow")
        most = fetched(met.aggregate(n=_.count()).order_by(ibis.desc("n"), "workflow").limit(1))
        workflow = str(most["workflow"].iloc[0]) if len(most) else ""
    sent = sent.filter(_.workflow == workflow)
    waves = sent.group_by("on").aggregate(at=_["at"].min())
    told = spells.join(waves, asleep(waves)).mutate(
        came=(_.ended < _["at"] + within_days * DAY).fill_null(False).ifelse(1, 0)
    )
    again = [sent.who == spells.person, *asleep(sent)]
    firsts = sent.join(spells, again).group_by("person", "begun").aggregate(on=_.on.min())
    met = told.semi_join(firsts, ["person", "begun", "on"])
    near = [told.person == sent.who, told.on >= sent.on, told["at"] <= sent["at"] + within_days * DAY]
    counts = {"n": _.count(), "came": _.came.sum()}
    alone_rows = told.anti_join(sent, near)
    later = sent.view()
    after = [alone_rows.person == later.who, later["at"] > alone_rows["at"],
             later["at"] <= alone_rows["at"] + within_days * DAY]  # fmt: skip
    crossed = float(alone_rows.semi_join(later, after).count().to_pyarrow().as_py())
    first, rest = (fetched(t.group_by("on").aggregate(**counts)) for t in (met, alone_rows))
    f = first.merge(rest, on="on", how="left", suffixes=("", "_alone")).fillna(0).sort_values("on", ignore_index=True)
    f = f.rename(columns={"n": "contacted", "n_alone": "untouched", "came_alone": "untouched_came"})
    lift, low, high = common_lift(*(f[c] for c in Reengagement.columns[1:]), confidence=confidence)
    people, back, alone = (float(f[c].sum()) for c in ("contacted", "came", "untouched"))
    if crossed > CROSSED * alone:
        lift = low = high = np.nan
    whole: dict[str, Any] = {"people": people, "back": back, "alone": alone, "lift": lift, "low": low, "high": high}
    whole |= {"rate": back / max(people, 1), "without": back / max(people, 1) / (1 + lift)}
    whole |= {"extra": back * (1 - 1 / (1 + lift)), "workflow": workflow, "level": f"{confidence:.0%}"}
    whole |= {"quiet_days": quiet_days, "within_days": within_days, "crossed": crossed}
    return Reengagement(frame=f[list(Reengagement.columns)], whole=whole)


def common_lift(
    n: Any, x: Any, n_without: Any, x_without: Any, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Ratio of two rates less 1 over strata (Mantel-Haenszel) with its interval; NaN where one side has no one.

    >>> [round(v, 3) for v in common_lift([100], [30], [100], [20])]
    [0.5, -0.084, 1.456]
    """
    n1, a, n0, c = (np.asarray(v, dtype=float) for v in (n, x, n_without, x_without))
    whole = np.where((n1 > 0) & (n0 > 0), n1 + n0, np.inf)
    above, below = float((a * n0 / whole).sum()), float((c * n1 / whole).sum())
    if not above * below > 0:
        return np.nan, np.nan, np.nan
    spread = ((n1 * n0 * (a + c) / whole - a * c) / whole)[np.isfinite(whole)].sum() / (above * below)
    half = float(ndtri((1 + confidence) / 2) * np.sqrt(spread))
    return above / below - 1, above / below * float(np.exp(-half)) - 1, above / below * float(np.exp(half)) - 1
