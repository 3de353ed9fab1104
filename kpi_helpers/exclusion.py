"""One door to audience exclusion: groups judged, the rate over time, before and after a rule, the report's head."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, ClassVar

import ibis
import numpy as np
import pandas as pd
from ibis import _

from kpi_helpers import kpis, plots
from kpi_helpers.before_after import difference_in_differences, read_panel
from kpi_helpers.catalogue import OfKpis
from kpi_helpers.errors import require, require_known
from kpi_helpers.monitors import threshold
from kpi_helpers.result import Framed, Result, day, measure, percent, say, uplift
from kpi_helpers.scoring import GRAINS
from kpi_helpers.sources import Source
from kpi_helpers.stats import moves, wilson
from kpi_helpers.withheld import ENDS, SIDES, Assessment, Excluded, added, groups, known_rows
from kpi_helpers.withheld import assess as assess
from kpi_helpers.withheld import overlap as overlap
from kpi_helpers.withheld import wasted as wasted
from kpi_helpers.withheld import what_if as what_if

SHOWN = {"day": 56, "week": 26, "month": 12}  # periods that are drawn


class Switch(Framed):
    """What a rule changed where it was switched on, less the change elsewhere: `lift` of each sum, with bounds.

    Rows (`what`): ``spend``, ``reach``, ``conversions`` of everyone, ``profit`` (their margin less the spend), and
    ``included``, the conversion rate of those who still see the ads, before and after without a control. `verdict`:
    that of `BeforeAfter` on profit.
    """

    def drawn(self, language: str) -> str:
        """Lifts of everything as an HTML figure."""
        told = {"values": self.lift, "low": self.lift_low, "high": self.lift_high, "language": language}
        told["clear"] = tuple(self.frame["lift_low"] * self.frame["lift_high"] > 0)
        told["words"] = [say(f"switch.{what}", language) for what in self.what]
        note = say("switch.note", language, day=day(self.start, language), level=f"{self.confidence:.0%}")
        labels = {"title": say("switch.title", language), "note": note, "alt": self.sentence(language)}
        return plots.chart(lambda axes, narrow: plots.forest(axes, narrow, **told), **labels)

    def sentence(self, language: str = "en") -> str:
        rows = self.frame.set_index("what").stack()  # noqa: PD013
        told = {f"{what}_{end}": percent(value, language, sign=True) for (what, end), value in rows.items()}
        verdict = "open" if self.verdict == "unknown" else self.verdict
        return f"{say(f'switch.verdict {verdict}', language)} {say('switch.sentence', language, **told)}"


def switched(
    table: Any, *, start: date | str, where: Sequence[str], margin_per_conversion: float, by: str = "segment",
    as_of: date | str = date.max, confidence: float = 0.95,
) -> Switch:  # fmt: skip
    """Compare before and after `start` in the places `where` (of the column `by`) with the same days elsewhere.

    A unit is a place and campaign; see `before_after`, whose errors it raises. Excluded, held out and included people
    all count: what the included alone do is no verdict.
    """
    rows = known_rows(table)
    require_known(by, rows.columns, f"audience_daily has no column {by}.")
    places = sorted(str(v) for v in rows.select(by).distinct().to_pyarrow()[by].to_pylist() if v is not None)
    for place in where:
        require_known(str(place), places, f"No row has the {by} {place!r}.")
    n, spend = (sum(rows[f"{side}_{what}"].fill_null(0) for side in SIDES) for what in ("conversions", "cost"))
    campaign = rows["campaign"].fill_null("–") if "campaign" in rows.columns else ibis.literal("")
    rows = rows.mutate(conversions=n, spend=spend, profit=n * margin_per_conversion - spend)
    rows = rows.mutate(treated=rows[by].isin(list(where)), unit=campaign + " · " + rows[by])
    told: dict[str, tuple[Any, ...]] = {}
    for what in ("spend", "reach", "conversions", "profit"):
        panel = read_panel(rows, unit="unit", at="date", value=what, treated="treated", start=start, end=as_of)
        losing = (panel.sums[:, :-1].sum(axis=1) < 0).any()  # of what falls below 0 amounts are compared, not ratios
        found = difference_in_differences(panel, scale="absolute" if losing else "relative", confidence=confidence)
        told[what] = tuple(found.whole[end] for end in ENDS["lift"])
    there, ends = rows.filter(_.treated), []
    for part in (there.filter(_.date >= panel.begins[-1]), there.filter(_.date < panel.begins[-1])):
        seen = groups(part, by=by).included.sum()
        ends.append(
            (seen["conversions"] / seen["people"], *wilson(*seen[["conversions", "people"]], confidence=confidence))
        )
    told["included"] = moves(*ends, relative=True)
    frame = pd.DataFrame.from_dict(told, orient="index", columns=list(ENDS["lift"]), dtype=float)
    whole = {"verdict": found.verdict, "start": panel.begins[-1], "confidence": confidence}
    return Switch(frame=frame.rename_axis("what").reset_index(), whole=whole)


class ExclusionTrend(Excluded):
    """Exclusion rate by day, week and month (`grain`), whole periods only; `alarm` marks days over the `limit`.

    A day counts as over where its whole interval is, and alarms with another of three; `since_at` is the first day of
    the alarm that holds as the data end, or None.
    """

    def drawn(self, grain: str, language: str) -> str:
        """One grain as an HTML figure."""
        rows = self.frame[self.frame["grain"] == grain]
        note = say("exclusion_trend.note", language, level=f"{self.confidence:.0%}")
        told = {"title": say(f"exclusion_trend.{grain}", language), "note": note, "alt": self.sentence(language)}
        word = say("exclusion_trend.limit", language, limit=uplift(self.limit, language, sign=False))
        line = {"limit": self.limit, "word": word, "language": language}
        return plots.chart(lambda axes, _narrow: plots.limited(rows, axes, **line), **told)

    def sentence(self, language: str = "en") -> str:
        last = self.frame[self.frame["grain"] == self.grain[0]].iloc[-1]
        told = {"limit": uplift(self.limit, language, sign=False), "since": day(self.since_at, language)}
        above = last["value"] > self.limit
        key = ("over" if above else "over_not_now") if self.since_at else "above" if above else "under"
        return say(f"exclusion_trend.{key}", language, value=percent(last["value"], language), **told)


def trend(data: Source, *, as_of: date, limit: float, confidence: float = 0.95) -> ExclusionTrend:
    """Read the exclusion rate by day, week and month up to `as_of`, and judge its days by the `limit`, in (0, 1)."""
    require(0 < limit < 1, f"limit={limit} is not in (0, 1). Write 0.2 for 20%.")
    found: list[pd.DataFrame] = []
    first = None
    for grain in list(SHOWN)[list(SHOWN).index(data.period("audience_daily")) :]:
        f = kpis.scorecard(data, ["exclusion_rate"], grain=grain, end=as_of, confidence=confidence)
        f = f.dropna(subset="value").assign(grain=grain, alarm=False)
        first = first or f["period"].min()  # a week that began before is not whole
        over = f["period"].dt.to_period(GRAINS[grain]).dt.end_time.dt.date <= as_of
        found.append(f[over & (f["period"] >= first)][["grain", "period", "value", "low", "high", "alarm"]])
    days = found[0]
    require("eligible" in data.columns("audience_daily"), "audience_daily has no column eligible: no rate, no trend.")
    require(len(days) > 0, f"audience_daily has no whole period up to {as_of}: its rate has no trend.")
    at = pd.PeriodIndex(days["period"], freq=GRAINS[days["grain"].iloc[0]])
    low = days.set_index(at)["low"].reindex(pd.period_range(at[0], at[-1]))  # days without rows are days, too
    alarm = np.isin(np.arange(len(low)), threshold(low.to_numpy(), above=limit))
    calm = int(np.flatnonzero(np.append(True, ~alarm))[-1])  # place after the last calm day
    broke = np.flatnonzero(low.to_numpy() > limit)
    since = low.index[broke[broke >= calm - 2][0]].start_time.date() if calm < len(low) else None
    days = days.assign(alarm=pd.Series(alarm, low.index)[at].to_numpy())
    shown = [f.tail(SHOWN[f["grain"].iloc[0]]) for f in (days, *found[1:]) if len(f)]
    frame = pd.concat(shown, ignore_index=True)
    return ExclusionTrend(frame=frame, whole={"limit": limit, "since_at": since, "confidence": confidence})


class ExclusionStrip(OfKpis):
    """The KPIs of exclusion in one line: `value`, `low`, `high` and, where there is one, the `target`."""

    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        told = ((kpis.kpi(k), v) for k, v in zip(self.kpi, self.value, strict=True))
        words = (f"{k.name[language]} {measure(v, k.unit, language, self.currency)}" for k, v in told)
        return say("exclusion_strip.sentence", language, told="; ".join(words))


def strip(data: Source, assessment: Assessment, *, as_of: date, days: int, limit: float) -> ExclusionStrip:
    """Put the KPIs of exclusion side by side: read from the data, and of `assessment` what needs a hold-out."""
    a, ids = assessment, ["exclusion_rate", "conv_rate_included", "reach_impact", "bounce_rate_excluded"]
    since = as_of - timedelta(days - 1)
    f = kpis.scorecard(data, ids, start=since, end=as_of, confidence=a.confidence).set_index("kpi")
    f = f[["value", "low", "high"]].assign(target=np.nan)
    f.loc["exclusion_rate", "target"] = limit
    f.loc["exclusion_effectiveness"] = a.effectiveness, a.effectiveness, a.possible, np.nan
    f.loc["exclusion_savings"] = a.total_net, a.total_net_low, a.total_net_high, np.nan
    f = f.loc[[ids[0], "exclusion_effectiveness", "exclusion_savings", *ids[1:]]].dropna(subset="value")
    return ExclusionStrip(
        frame=f.reset_index(), whole={"days": days, "confidence": a.confidence, "currency": a.currency}
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeptOut(Result):
    """Is exclusion over its limit, whom to bring back and what that is worth: the head of the report."""

    assessment: Assessment
    trend: ExclusionTrend

    aside: ClassVar = ("assessment", "trend")

    name = "answer"

    def to_frame(self) -> pd.DataFrame:
        return self.assessment.frame[["group", "decision", *ENDS["net"]]]

    def parts(self, language: str) -> list[str]:
        """The sentences of the headline."""
        bad, known = self.assessment.groups("harmful"), self.assessment.effectiveness >= 0
        key = "back" if bad else "keep" if known else "unknown"
        return [self.trend.sentence(language), say(f"kept_out.{key}", language, groups=", ".join(bad))]

    def sentence(self, language: str = "en") -> str:
        return " ".join(self.parts(language))

    def worth(self, language: str = "en") -> str:
        """What bringing the harmful groups back is worth."""
        a, bad = self.assessment, self.assessment.frame["decision"] == "harmful"
        own, rest = added(a.frame[bad]), added(a.frame[~bad])
        sums = (own[0], *rest)
        ends = dict(zip(("lost", *ENDS["net"]), (measure(v, "money", language, a.currency) for v in sums), strict=True))
        kind = "worth" if own[2] < 0 else "saves" if own[1] > 0 else "even" if np.isfinite(own[0]) else "no_net"
        said = say(f"kept_out.{kind}", language, groups=", ".join(a.groups("harmful")), **ends) if bad.any() else ""
        return f"{said} {say('kept_out.without', language, **ends)}" if said and np.isfinite(rest[0]) else said
