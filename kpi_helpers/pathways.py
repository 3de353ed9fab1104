"""Journeys read: how long, which paths, who opens and who closes, which test would settle what models cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from kpi_helpers import plots
from kpi_helpers.credits import Attribution, Calibration, called
from kpi_helpers.errors import require
from kpi_helpers.journeys import TouchJourneys
from kpi_helpers.paths import BASELINE, Journeys
from kpi_helpers.result import Framed, Result, number, percent, say
from kpi_helpers.stats import checked_confidence, wilson

LONG, DETECTABLE, HOPELESS = 6, 0.8, 100  # touches of one row; power wanted; times the people that nobody has


class JourneySummary(Framed):
    """What became of the rows: `what` was set aside and how many (`n`); totals of conversions and journeys."""

    columns: ClassVar = ("what", "n")

    def sentence(self, language: str = "en") -> str:
        told = {k: number(self.whole[k], language) for k in ("conversions", "untouched", "nulls", "channels")}
        return say("journey_summary.sentence", language, **told)


def summary(journeys: Journeys) -> JourneySummary:
    """Totals of the journeys and what was set aside on the way to them."""
    totals = {k: getattr(journeys, k) for k in ("conversions", "value", "untouched", "nulls", "currency")}
    found = [(what, n) for what, n in journeys.issues.items() if n]
    crowd = journeys.crowd if isinstance(journeys, TouchJourneys) else ()
    return JourneySummary.of(found, **totals, channels=len(journeys.channels), crowd=", ".join(crowd))


class PathLengths(Framed):
    """Conversions by the number of touches before them: ``touches, conversions, share, value_each``; and days.

    `median_days`, `late_days` (nine in ten): from the first touch to the conversion, NaN where times are not known.
    """

    columns: ClassVar = ("touches", "conversions", "share", "value_each")
    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        told = {"single": percent(self.share[0] if self.touches[0] == 1 else 0.0, language, decimals=0)}
        told |= {k: number(self.whole[k], language, decimals=1) for k in ("median_days", "late_days")}
        return say(f"path_lengths.{'timed' if np.isfinite(self.median_days) else 'said'}", language, **told)


def lengths(journeys: Journeys) -> PathLengths:
    """Tell how many touches and how many days there were before conversions."""
    won = journeys.won()
    touches = np.diff(won.begins).clip(None, LONG)
    n, value = (np.bincount(touches, by, LONG + 1)[1:] for by in (won.won_by_path, won.value_by_path))
    rows = [(i, k, k / n.sum(), v / k) for i, (k, v) in enumerate(zip(n, value, strict=True), 1) if k]
    days = [np.nan, np.nan]
    if isinstance(journeys, TouchJourneys):
        each = journeys.table.filter(journeys.table.conversion.notnull()).group_by("conversion")
        first = each.aggregate(age=journeys.table.age_days.max()).order_by("age").to_pyarrow()["age"].to_numpy()
        days = np.quantile(first, (0.5, 0.9)).tolist()
    return PathLengths.of(rows, median_days=days[0], late_days=days[1], currency=journeys.currency)


class TopPaths(Framed):
    """The most frequent paths that converted: ``path, conversions, value, share``."""

    columns: ClassVar = ("path", "conversions", "value", "share")
    aside: ClassVar = ("currency",)

    def sentence(self, language: str = "en") -> str:
        told = {"path": self.path[0], "share": percent(self.share[0], language, decimals=0)}
        return say("top_paths.sentence", language, n=len(self.path), **told)


def top_paths(journeys: Journeys, n: int = 10) -> TopPaths:
    """The `n` most frequent paths that converted; equal ones in the order of the alphabet."""
    won, names = journeys.won(), np.array(["", *journeys.channels])
    found = pd.DataFrame({"n": won.won_by_path, "value": won.value_by_path})
    found["path"] = [" > ".join(names[won.codes[a:b]]) for a, b in zip(won.begins[:-1], won.begins[1:], strict=True)]
    found = found.groupby("path", as_index=False).sum().sort_values(["n", "path"], ascending=[False, True])
    rows = ((row.path, row.n, row.value, row.n / won.won_by_path.sum()) for row in found.head(n).itertuples())
    return TopPaths.of(rows, currency=journeys.currency)


class Links(Framed):
    """Which channel helped which to close: ``channel, closer, conversions``; and of each channel what it does.

    `parts`: a row a channel with `closed` and `opened` conversions, `assisted` ones that others closed, `alone`.
    """

    columns: ClassVar = ("channel", "closer", "conversions")
    aside: ClassVar = ("parts",)

    def drawn(self, language: str) -> str:
        """Helpers by closers as an HTML figure, in shares of what the closer closed."""
        wide = self.frame.pivot_table(index="channel", columns="closer", values="conversions")
        wide = (wide / self.parts.set_index("channel")["closed"].reindex(wide.columns).replace(0, np.nan)).fillna(0.0)
        told = {key: say(f"links.{key}", language) for key in ("title", "note")}
        return plots.chart(partial(plots.heatmap, wide, language=language), **told, alt=self.sentence(language))

    def sentence(self, language: str = "en") -> str:
        ratio = self.parts["assisted"] / self.parts["closed"].replace(0, np.nan)
        told = {"main": self.parts.loc[self.parts["closed"].idxmax(), "channel"]}
        helper = self.parts.loc[ratio.fillna(-1).idxmax()]
        told |= {"support": helper["channel"], "times": number(ratio.max(), language, decimals=1)}
        return say("links.sentence", language, **told)


def links(journeys: Journeys) -> Links:
    """Tell main from support channels, and who helped whom: conversions of one channel in which another had a touch."""
    won, k = journeys.won(), len(journeys.channels)
    both, alone = won.met(), won.sets & (won.sets - 1) == 0
    places = (won.last, 1), (won.codes[won.begins[:-1]], 1), (won.last, alone)
    counts = [np.bincount(of, won.won_by_path * keep, k + 1)[1:] for of, keep in places]
    np.fill_diagonal(both, 0)
    parts = pd.DataFrame({"channel": journeys.channels, "closed": counts[0], "opened": counts[1]})
    parts = parts.assign(assisted=both.sum(axis=1), alone=counts[2])
    named = [*enumerate(journeys.channels)]
    rows = [(one, other, both[i, j]) for i, one in named for j, other in named if i != j]
    return Links.of(rows, parts=parts)


class ChannelsMet(Framed):
    """People by number of channels that touched them: ``channels, people, buyers, rate, low, high``."""

    columns: ClassVar = ("channels", "people", "buyers", "rate", "low", "high")

    def sentence(self, language: str = "en") -> str:
        several = self.frame[self.frame["channels"] > 1]
        told = {"share": percent(several["people"].sum() / sum(self.people), language, decimals=0)}
        one = self.frame.loc[self.frame["channels"] == 1, "rate"]
        rates = [
            one.iloc[0] if len(one) else np.nan,
            several["buyers"].sum() / several["people"].sum() if len(several) else np.nan,
        ]
        told |= {k: percent(v, language) for k, v in zip(("one", "more"), rates, strict=True)}
        return say("channels_met.sentence", language, **told)


def channels_met(journeys: TouchJourneys, *, confidence: float = 0.95) -> ChannelsMet:
    """Count people by the number of different channels that touched them, and how many of them bought afterwards."""
    from ibis import _

    one = journeys.table.group_by("person").aggregate(channels=_.channel.nunique(), bought=_.conversion.notnull().any())
    told = one.group_by("channels").aggregate(people=_.count(), buyers=_.bought.sum())
    frame = told.order_by("channels").to_pyarrow().to_pandas()
    low, high = wilson(frame["buyers"], frame["people"], confidence=confidence)
    frame = frame.assign(rate=frame["buyers"] / frame["people"], low=low, high=high)
    return ChannelsMet(frame=frame, whole={"confidence": confidence})


def media_spend(channel_daily: Any, journeys: TouchJourneys) -> dict[str, float]:
    """Spend on media by channel over the days of the journeys, for `attribute`; none where nothing was spent."""
    from ibis import _

    if "spend" not in channel_daily.columns:
        return {}
    during = channel_daily.filter(channel_daily.date.cast("date").between(journeys.since, journeys.until))
    told = during.group_by("channel").aggregate(spend=_.spend.sum()).filter(_.spend > 0).order_by("channel")
    return {row["channel"]: float(row["spend"]) for row in told.to_pyarrow().to_pylist()}


def lift_of(holdout: Any, journeys: Journeys) -> tuple[float, float]:
    """Incremental conversions and their standard error for `calibrate`, from the analysis of a hold-out.

    Its first metric is a rate, its control those who saw the ads, its only treatment those who did not.
    The share of conversions that the ads brought there, 1 - rate without / rate with, is taken to hold here, too.
    """
    row = holdout.frame.iloc[0]
    known = np.isfinite(row["lift_low"] + row["lift_high"])
    require(bool(known), "The hold-out has no interval of the relative difference: too few people converted in it.")
    error = (row["lift_high"] - row["lift_low"]) / 2 / ndtri((1 + row["confidence"]) / 2)
    return float(-row["lift"] * journeys.conversions), float(error * journeys.conversions)


class HoldoutPower(Framed):
    """What a test that withholds a channel from some people could find: ``channel, claim_low, claim_high, power_low,
    power_high, people``: the models' claims, the chance to see them, and the people needed to see the smaller one.
    """

    columns: ClassVar = ("channel", "claim_low", "claim_high", "power_low", "power_high", "people")

    def sentence(self, language: str = "en") -> str:
        clear = [c for c, p in zip(self.channel, self.power_low, strict=True) if p >= DETECTABLE]
        told = {"error": number(self.standard_error, language), "clear": ", ".join(clear)}
        return say(f"holdout_power.{'some' if clear else 'none'}", language, **told)


def holdout_power(
    attribution: Attribution, *, people: int, held_out: float = 0.5, confidence: float = 0.95
) -> HoldoutPower:
    """Tell which channels' claims a hold-out of the same length could confirm or refute.

    Ads of one channel are withheld from the share `held_out` of `people`; conversions are counts, so the difference,
    scaled to all people, has the standard error √(conversions · (1/held_out + 1/(1 - held_out))).
    """
    require(0 < held_out < 1, f"held_out={held_out} is not a share in (0, 1).")
    require(pd.api.types.is_number(people) and people > 0, f"people={people!r}: how many people could the ads reach?")
    error = float(np.sqrt(attribution.n_conversions * (1 / held_out + 1 / (1 - held_out))))
    z = float(ndtri((1 + checked_confidence(confidence)) / 2))
    claims = attribution.frame[attribution.frame["channel"] != BASELINE].groupby("channel")["conversions"]
    rows = []
    for channel, low, high in zip(claims.min().index, claims.min(), claims.max(), strict=True):
        power = [float(ndtr(claim / error - z)) for claim in (low, high)]
        needed = people * ((z + ndtri(DETECTABLE)) * error / max(low, 1e-9)) ** 2
        needed = needed if needed < HOPELESS * people else np.nan
        rows.append((channel, low, high, *power, needed))
    rows.sort(key=lambda row: -row[2])
    return HoldoutPower.of(rows, standard_error=error, held_out=held_out, confidence=confidence, of_people=people)


class AgainstTruth(Framed):
    """How far models are from a known truth: ``model, share_error, over_claim, to_nothing``.

    `share_error`: half the sum of the absolute differences of shares; `over_claim`: conversions credited for each that
    was caused; `to_nothing`: share of the credit for channels that caused nothing.
    """

    columns: ClassVar = ("model", "share_error", "over_claim", "to_nothing")
    ways: ClassVar = {"model_name": called}

    def sentence(self, language: str = "en") -> str:
        best, worst = (int(f(self.share_error)) for f in (np.argmin, np.argmax))
        names = {k: called(self.model[i], language) for k, i in (("best", best), ("worst", worst))}
        errors = {f"{k}_error": percent(self.share_error[i], language) for k, i in (("best", best), ("worst", worst))}
        return say("against_truth.sentence", language, **names, **errors)


def against_truth(attribution: Attribution, caused: Mapping[str, float]) -> AgainstTruth:
    """Compare every model with the conversions that each channel `caused`, as a simulation knows them."""
    told = attribution.frame[attribution.frame["channel"] != BASELINE]
    told = told.pivot_table(index="channel", columns="model", values="conversions")[attribution.models]
    true = pd.Series(caused, dtype=float).reindex(told.index).fillna(0.0)
    share = told / told.sum()
    error = share.sub(true / true.sum(), axis=0).abs().sum() / 2
    rows = zip(told.columns, error, told.sum() / true.sum(), share[true == 0].sum(), strict=True)
    return AgainstTruth.of(rows)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Claims(Result):
    """The head of the report: what models claim for one channel, and what a hold-out found, if there was one."""

    attribution: Attribution
    calibration: Calibration | None
    channel: str
    aside: ClassVar = ("attribution", "calibration")

    name = "answer"

    def sentence(self, language: str = "en") -> str:
        rows = self.attribution.frame.set_index(["channel", "model"]).loc[self.channel]
        by = _told_by(self.attribution)
        ends = {"low": rows["share"].min(), "high": rows["share"].max(), "claim": rows.loc[by, "share"]}
        told = {end: percent(v, language, decimals=0) for end, v in ends.items()}
        told |= {"n": number(len(rows), language), "channel": self.channel, "model": called(by, language)}
        if self.calibration is None:
            return say("claims.untested" if len(rows) > 1 else "claims.one", language, **told)
        test = self.calibration.frame.set_index(["channel", "model"]).loc[(self.channel, by)]
        beyond = (test["claimed"] - test["lift"]) / test["error"]
        told |= {k: number(test[k], language) for k in ("claimed", "lift", "error")}
        return say(f"claims.{'over' if beyond > 2 else 'under' if beyond < -2 else 'borne'}", language, **told)


def _told_by(attribution: Attribution) -> str:
    """The model whose claim is told: the one that books keep, if it was asked for."""
    return "last" if "last" in attribution.models else attribution.models[0]


def claims(attribution: Attribution, calibration: Calibration | None = None) -> Claims:
    """Say what is claimed for the channel that its test contradicts most, or else on which models differ most."""
    if calibration is not None:
        tested = calibration.frame[calibration.frame["lift"].notna()]
        tested = tested[tested["model"] == _told_by(attribution)]
        channel = tested.loc[(tested["claimed"] - tested["lift"]).abs().idxmax(), "channel"]
    else:
        channel = (attribution.ranges["high"] - attribution.ranges["low"]).idxmax()
    return Claims(attribution=attribution, calibration=calibration, channel=str(channel))
