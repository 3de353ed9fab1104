"""Notebook 02: how channels grow, which of them sell and which bring people, and what campaigns reached."""

import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import numpy as np
import pandas as pd
from ibis import _

from kpi_helpers import kpis
from kpi_helpers.catalogue import declared
from kpi_helpers.errors import require
from kpi_helpers.result import day, one_unit, percent, say
from kpi_helpers.scorecards import IN_POINTS, TONES, Scores
from kpi_helpers.scoring import last_full
from kpi_helpers.sources import Source
from kpi_helpers.stats import Floats, moves, ratio_margin, wilson

TOP = 8  # rows of the table of campaigns and channels that are named


class Growth(Scores):
    """KPIs of each channel over some days with intervals, and how they moved against as many days before."""

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        clear = sum(low * high > 0 for low, high in zip(self.moved_low, self.moved_high, strict=True))
        known = sum(map(math.isfinite, self.moved))
        first, last = day(self.since_at, language), day(self.until_at, language)
        return say("growth.sentence", language, n=clear, k=known, days=self.days, first=first, last=last)


def growth(data: Source, ids: Sequence[str], *, as_of: date, days: int = 28, confidence: float = 0.95) -> Growth:
    """KPIs of each channel in the last `days` up to `as_of`, against as many days before."""
    since, until = as_of - timedelta(days=days - 1), as_of - timedelta(days=days)
    told: dict[str, Any] = {"by": "channel", "confidence": confidence}
    now = kpis.scorecard(data, ids, start=since, end=as_of, **told)
    was = kpis.scorecard(data, ids, start=since - timedelta(days=days), end=until, **told)
    both = now.merge(was, on=["kpi", "channel"], how="left", suffixes=("", "_was")).dropna(subset=["value"])
    ends = [both[[f"value{at}", f"low{at}", f"high{at}"]].to_numpy(dtype=float).T for at in ("", "_was")]
    moved = np.where(both["unit"].isin(IN_POINTS), moves(*ends), moves(*ends, relative=True))
    size = both["channel"].map(both[both["kpi"] == both["kpi"].iloc[0]].set_index("channel")["value"])
    order = np.argsort(-size.fillna(-math.inf).to_numpy(), kind="stable")
    frame = both[["channel", "kpi", "value", "low", "high"]]
    frame = frame.assign(**dict(zip(("moved", "moved_low", "moved_high"), moved, strict=True)))
    whole = {"days": days, "since_at": since, "until_at": as_of, "confidence": confidence, "currency": data.currency()}
    return Growth(frame=frame.iloc[order].reset_index(drop=True), whole=whole)


class Roles(Scores):
    """What each channel does: its share of the KPI that is sold and of the people whom it met first, in some days.

    A share counts as large where its whole interval lies above one n-th for n channels. `role`: ``main`` sells more
    than it brings, ``feeder`` brings more than it sells, ``both``, ``small``, or ``unclear``. `first` is NaN without
    touchpoints, and then no channel is a feeder.
    """

    aside: ClassVar = ("kpi", "currency")

    def sentence(self, language: str = "en") -> str:
        name = kpis.kpi(self.kpi).name[language]
        if len(self.channel) < 2:
            return say("roles.whole", language, name=name)
        called = {r: [c for c, role in zip(self.channel, self.role, strict=True) if role == r] for r in TONES}
        told = {r: ", ".join(called[r]) or "–" for r in ("main", "feeder", "both")}
        return say("roles.sentence" if math.isfinite(sum(self.first)) else "roles.alone", language, name=name, **told)


def roles(data: Source, key: str, *, as_of: date, days: int = 28, confidence: float = 0.95) -> Roles:
    """Tell main channels, which sell, from feeders, which bring people, by a sum such as ``revenue``."""
    since = as_of - timedelta(days=days - 1)
    sums = kpis.daily_sums(data, [kpis.kpi(key)], by="channel", since=since, until=as_of)
    x = sums.pivot_table(index="date", columns="segment", values=f"{key}__num", aggfunc="sum").fillna(0.0)
    x = x.loc[:, x.sum() != 0]
    value, whole = x.sum(), x.sum(axis=1).to_numpy()
    share = (value / whole.sum()).to_numpy()
    missed = ((x.to_numpy() - whole[:, None] * share) ** 2).sum(axis=0)
    margin = ratio_margin(np.full(len(share), len(x)), whole.sum(), missed, confidence=confidence)
    met = _first_met(data, since, as_of).reindex(x.columns, fill_value=0)
    first = met.to_numpy() / met.sum() if met.sum() else np.full(len(share), math.nan)
    ends = wilson(met, met.sum(), confidence=confidence) if met.sum() else (first, first)
    fair = 1 / max(len(share), 1)
    sells, brings = _large(fair, share - margin, share + margin), _large(fair, *ends)
    words = {(1, -1): "main", (-1, 1): "feeder", (1, 1): "both", (-1, -1): "small", (1, 2): "main", (-1, 2): "small"}
    told: dict[str, Any] = {"channel": x.columns.tolist(), "value": value.to_numpy(), "share": share}
    told |= {"share_low": share - margin, "share_high": share + margin}
    told |= {"first": first, "first_low": ends[0], "first_high": ends[1]}
    told["role"] = [words.get(pair, "unclear") for pair in zip(sells, brings, strict=True)]
    frame = pd.DataFrame(told).sort_values("value", ascending=False, kind="stable", ignore_index=True)
    return Roles(frame=frame, whole={"kpi": key, "days": days, "confidence": confidence, "currency": data.currency()})


def _large(fair: float, low: Floats, high: Floats) -> list[int]:
    """Whether shares are large (1), small (-1) or too close to call (0); 2 where nothing is known."""
    return [2 if math.isnan(a) else 1 if a >= fair else -1 if b < fair else 0 for a, b in zip(low, high, strict=True)]


def _first_met(data: Source, since: date, until: date) -> pd.Series:
    """People by the channel of their first contact in these days."""
    if "touchpoints" not in data.tables:
        return pd.Series(dtype=float)
    touches = data.table("touchpoints").mutate(on=_.touched_at.cast("date")).filter(_.on.between(since, until))
    order = ibis.window(group_by="customer_id", order_by=["touched_at", "channel"])
    first = touches.mutate(nth=ibis.row_number().over(order)).filter(_.nth == 0)
    frame = first.group_by("channel").aggregate(people=_.count()).to_pyarrow().to_pandas()
    return frame.set_index("channel")["people"].astype(float)


class Campaigns(Scores):
    """Targets of campaigns against what came, newest first, and the share that was met with its interval."""

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        if not self.campaign:
            return say("campaigns.none", language)
        done = [s for s in self.status if s in ("met", "missed")]
        shares = zip(("share", "low", "high"), (self.met, self.met_low, self.met_high), strict=True)
        told = {name: percent(share, language, decimals=0) for name, share in shares}
        told |= {"level": f"{self.confidence:.0%}"}
        return say("campaigns.sentence", language, n=done.count("met"), k=len(done), **told)


def campaigns(data: Source, *, as_of: date, confidence: float = 0.95) -> Campaigns:
    """Compare the targets of campaigns with their sums up to `as_of`; empty where the source has none."""
    columns, known = ("campaign", "kpi", "target", "actual", "ends_on", "status"), ("met", "met_low", "met_high")
    whole = {"confidence": confidence, "currency": data.currency()}
    if kpis.feeds(data)["campaign_success"]:
        return Campaigns(frame=pd.DataFrame(columns=columns), whole=dict.fromkeys(known, math.nan) | whole)
    asked = data.table("targets").to_pyarrow().to_pandas()
    asked = asked[pd.to_datetime(asked["starts_on"]) <= pd.Timestamp(as_of)]
    summed = [k for k in map(kpis.kpi, sorted(set(asked["kpi"]) & declared().keys())) if k.numerator == (k.id,)]
    daily = kpis.daily_sums(data, summed, by="campaign", until=as_of)
    rows = []
    for t in asked[asked["kpi"].isin([k.id for k in summed])].itertuples():
        during = daily["date"].between(pd.Timestamp(t.starts_on), pd.Timestamp(t.ends_on))
        actual = float(daily.loc[during & (daily["segment"] == t.campaign), f"{t.kpi}__num"].sum())
        ends = pd.Timestamp(t.ends_on).date()
        late = pd.notna(told := getattr(t, "registered_on", None)) and pd.Timestamp(told) > pd.Timestamp(t.starts_on)
        status = "running" if ends > as_of else "late" if late else "met" if actual >= t.target else "missed"
        rows.append((t.campaign, t.kpi, float(t.target), actual, ends, status))
    rows.sort(key=lambda row: (-row[4].toordinal(), row[0], row[1]))
    met = kpis.scorecard(data, ["campaign_success"], end=as_of, confidence=confidence).iloc[0]
    share = dict(zip(known, map(float, met[["value", "low", "high"]]), strict=True))
    return Campaigns(frame=pd.DataFrame(rows, columns=columns), whole=share | whole)


class Drill(Scores):
    """One KPI by campaign and channel, or by one column, and period: the largest rows, all others, and the total."""

    aside: ClassVar = ("by",)

    def to_frame(self) -> pd.DataFrame:
        columns = [d.isoformat() for d in self.period_at]
        return pd.DataFrame(self.values, columns=columns).assign(segment=self.segment, kpi=self.kpi)

    def sentence(self, language: str = "en") -> str:
        what = say(f"drill.{self.by or 'both'}", language).lower()
        return say("drill.sentence", language, name=kpis.kpi(self.kpi).name[language], what=what)

    def printed(self, language: str) -> tuple[Floats, str, int]:
        """Cells in one unit, rounded so that the columns of a sum add up as printed; the unit's words, decimals."""
        k, cells = kpis.kpi(self.kpi), np.array(self.values)
        size, unit = one_unit(float(np.nanmax(np.abs(cells))), k.unit, self.currency, language)
        if not k.additive:
            return cells, "", -1
        decimals = int(size > 1)
        ends = np.round(np.cumsum(np.nan_to_num(cells[:-1]) / size, axis=0), decimals)
        parts = np.where(np.isfinite(cells[:-1]), np.diff(ends, axis=0, prepend=0), np.nan)  # a gap is no zero
        return np.vstack([parts, ends[-1:]]), unit, decimals


def drill(
    data: Source, key: str, *, as_of: date, grain: str = "week", periods: int = 5, by: str | None = None
) -> Drill:
    """Split a KPI of ``channel_daily`` by campaign and channel over the last full periods; any other by a column."""
    k, last = kpis.kpi(key), last_full(as_of, grain)
    rule = f"drill={key!r} is no KPI of channel_daily. Choose one such as orders."
    require(bool(by) or k.tables == {"channel_daily"}, rule)
    at = pd.period_range(last - (periods - 1), last, freq=last.freq)
    columns = [by] if by else [c for c in ("campaign", "channel") if c in data.columns("channel_daily")]
    frame = kpis.scorecard(
        data, [key], by=columns, grain=grain, start=at[0].start_time.date(), end=last.end_time.date()
    )
    name = frame[columns].replace("", "–").agg(" · ".join, axis=1)
    sums = pd.DataFrame({"num": frame["numerator"], "den": frame["denominator"].fillna(1.0)})
    size = sums["num" if k.additive else "den"].groupby(name).sum().sort_values(ascending=False, kind="stable")
    named = [*size.index[:TOP], *(["other"] if len(size) > TOP else [])]
    at_of = {"name": name.where(name.isin(named), "other"), "period": frame["period"]}
    split = sums.assign(**at_of).pivot_table(index="name", columns="period", aggfunc="sum")
    whole = sums.groupby(frame["period"]).sum()
    num, den = (split[c].T.assign(total=whole[c]).T.reindex(columns=at.start_time).loc[[*named, "total"]] for c in sums)
    cells = num if k.additive else num / den.where(den != 0) * k.scale
    made = pd.DataFrame({"segment": cells.index, "values": cells.to_numpy(dtype=float).tolist()})
    whole_of = {
        "period_at": tuple(at.start_time.date),
        "kpi": k.id,
        "grain": grain,
        "by": by,
        "currency": data.currency(),
    }
    return Drill(frame=made, whole=whole_of)
