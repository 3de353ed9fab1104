"""Who is credited with the conversions: every model side by side, with intervals; and what a hold-out makes of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kpi_helpers import plots
from kpi_helpers.additive import Additive, fit_additive
from kpi_helpers.chains import Chain, credited
from kpi_helpers.errors import require, require_known
from kpi_helpers.journeys import TouchJourneys
from kpi_helpers.paths import BASELINE, Journeys, Rule, Touches
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence

MODELS = ("first", "last", "last_non_direct", "linear", "position", "time_decay", "markov", "shapley", "hazard")
TIMED = ("time_decay", "hazard")
DEFAULT = ("last", "last_non_direct", "first", "linear", "position", "time_decay", "shapley", "markov", "hazard")


class Weights(NamedTuple):
    """A rule that shares a conversion out between its touches, by a name of its own; `timed` if it needs times.

    A model that is no rule, such as a chain, has None for it.
    """

    name: str
    rule: Rule | None
    timed: bool = False


def _own(name: str, default: str = "") -> str:
    require(name == default or name not in MODELS, f"{name!r} is the name of another model. Choose one of your own.")
    return name


def position(first: float = 0.4, last: float = 0.4, name: str = "position") -> Weights:
    """So much of the credit to the first and last touch, the rest evenly to those between."""
    fine = first > 0 and last > 0 and first + last <= 1
    require(fine, f"first={first}, last={last} must be positive parts of a whole.")

    def rule(t: Touches) -> Any:
        between = t.where(t.length > 2, (1 - first - last) / t.where(t.length > 2, t.length - 2, 1), 0.0)
        return t.where(t.position == 1, first, t.where(t.position == t.length, last, between))

    return Weights(_own(name, "position"), rule)


def time_decay(half_life_days: float = 7.0, name: str = "time_decay") -> Weights:
    """Half the credit for each `half_life_days` that a touch lies further back."""
    require(half_life_days > 0, f"half_life_days={half_life_days} must be positive.")
    return Weights(_own(name, "time_decay"), lambda t: 2.0 ** (-t.age_days / half_life_days), timed=True)


def custom(name: str, weight: Callable[[Any, Any], Any]) -> Weights:
    """Weights of your own: arithmetic of the position (from 1) and the length of the journey.

    Raises `KpiError` for the name of another model. Weights below 0 are refused where they are used.

    >>> late = custom("late", lambda position, length: position / length)
    >>> late.name
    'late'
    """
    return Weights(_own(name), lambda t: weight(t.position, t.length))


RULES = {
    rule.name: rule for rule in (
        Weights("first", lambda t: t.where(t.position == 1, 1.0, 0.0)),
        Weights("last", lambda t: t.where(t.position == t.length, 1.0, 0.0)),
        Weights("last_non_direct", lambda t: t.where(t.position == t.closer, 1.0, 0.0)),
        Weights("linear", lambda t: t.where(t.position >= 1, 1.0, 0.0)),
        position(), time_decay(),
    )
}  # fmt: skip


def called(model: str, language: str) -> str:
    """Name of a model as a reader knows it; one of your own by its own name."""
    return say(f"model.{model}", language) if model in MODELS else model


class Attribution(Framed):
    """Conversions and value credited to channels by each model, a row each, and to the baseline where it is known.

    Columns: ``model, channel, conversions, value, share`` (of the conversions credited to channels) with ``share_low,
    share_high``, ``assisted`` (conversions that another channel closed), ``cost, cpa`` (cost / conversion), ``roas``
    (value / cost). The baseline are conversions that no channel is credited with: for a hazard, what would have come
    anyway; for the others, conversions without a touch.
    """

    columns: ClassVar = (
        "model", "channel", "conversions", "value", "share", "share_low", "share_high", "assisted", "cost", "cpa",
        "roas",
    )  # fmt: skip
    aside: ClassVar = ("left_out", "currency")
    digits: ClassVar = 8
    ways: ClassVar = {"model_name": called}

    @property
    def money(self) -> pd.DataFrame:
        """CPA and ROAS from the worst to the best claim, of the channels with a cost."""
        rows = self.frame[self.frame["cost"].notna()].groupby("channel")
        told = {
            f"{c}_{end}": getattr(rows[c], how)()
            for c in ("cpa", "roas")
            for end, how in (("low", "min"), ("high", "max"))
        }
        return pd.DataFrame({"cost": rows["cost"].first(), **told, "assisted": rows["assisted"].first()})

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the rows."""
        return list(dict.fromkeys(self.model))

    @property
    def shares(self) -> pd.DataFrame:
        """Shares of the conversions, a row a channel and a column a model."""
        rows = self.frame[self.frame["channel"] != BASELINE]
        return rows.pivot_table(index="channel", columns="model", values="share", dropna=False)[self.models]

    @property
    def ranges(self) -> pd.DataFrame:
        """Least and greatest share of a channel by any model, the largest first: ``low, high, low_by, high_by``."""
        told = self.shares
        found = {"low": told.min(axis=1), "high": told.max(axis=1), "low_by": told.idxmin(axis=1)}
        found["high_by"] = told.idxmax(axis=1)
        return pd.DataFrame(found).sort_values("high", ascending=False, kind="stable")

    def drawn(self, language: str) -> str:
        """Shares of each channel by all models, as an HTML figure."""
        told = self.shares.loc[self.ranges.index]
        marked = {m: c for m, c in (("last", plots.ORANGE), ("hazard", plots.BLUE)) if m in told}
        words = [called(m, language) for m in marked]
        draw = partial(plots.spread, told, marked=marked, words=words, language=language)
        said = {key: say(f"attribution.{key}", language) for key in ("title", "note")}
        return plots.chart(draw, **said, alt=self.sentence(language))

    def sentence(self, language: str = "en") -> str:
        told = self.ranges
        widest = (told["high"] - told["low"]).idxmax()
        row = told.loc[widest]
        ends = {end: percent(row[end], language, decimals=0) for end in ("low", "high")}
        by = {f"{end}_by": called(row[f"{end}_by"], language) for end in ("low", "high")}
        key = "attribution.sentence" if len(self.models) > 1 else "attribution.one"
        return say(key, language, channel=widest, n=len(self.models), **ends, **by)


def attribute(
    journeys: Journeys, models: Sequence[str | Weights] = DEFAULT, *, confidence: float | None = 0.95, groups: int = 50,
    spend: Mapping[str, float] | None = None,
) -> Attribution:  # fmt: skip
    """Credit channels by several models at once; none of them is the truth, their range is shown.

    `models`: names of `MODELS`, or `position`, `time_decay`, `custom` with weights of their own; those that need times
    are left out for path tables. Intervals are a jackknife that leaves out one of `groups` of people (of paths: of
    journeys) at a time; `confidence=None` asks for none. `spend`: money by channel, for CPA and ROAS. Raises `KpiError`
    for unknown models and channels. A view weighs its `view_credit` in linear, position, time_decay, hazard and your
    own weights; first, last, Markov and Shapley ask only whether there was a touch. Zhao, Mahboobi & Bagheri (2018),
    arXiv 1804.05327 (Shapley); see `markov` and `fit_additive` for their sources.

    >>> from kpi_helpers.paths import from_paths
    >>> rows = pd.DataFrame({"path": ["A > B > A > B > B > A", "A > B > B > A > A", "A > A"], "won": [1, 1, 1]})
    >>> told = attribute(from_paths(rows, path="path", conversions="won"), ("linear", "shapley"), confidence=None)
    >>> told.to_frame()[["model", "channel", "conversions"]].round(3).to_numpy().tolist()
    [['linear', 'A', 2.1], ['linear', 'B', 0.9], ['shapley', 'A', 2.0], ['shapley', 'B', 1.0]]
    """
    for name in (spend := spend or {}):
        require_known(name, journeys.channels, f"The spend has a channel {name!r} that no touch has.")
        require(0 <= spend[name] < np.inf, f"The spend of {name} is {spend[name]}: it must be 0 or more, and finite.")
    require(not isinstance(models, str), f"models={models!r}: write a list of names, such as [{models!r}].")
    for name in (m for m in models if isinstance(m, str)):
        require_known(name, MODELS, f"There is no model {name!r}.")
    whole_number = isinstance(groups, int | np.integer) and groups >= 2
    require(whole_number, f"groups={groups}: leave one of two groups or more out, or write confidence=None.")
    n_groups = 1 if confidence is None else min(groups, journeys.sample)
    asked = [RULES.get(m, Weights(m, None, m in TIMED)) if isinstance(m, str) else m for m in models]
    names = [m.name for m in asked]
    require(len(set(names)) == len(names) > 0, f"models={names}: name at least one, and each once.")
    used = [m for m in asked if journeys.timed or not m.timed]
    require(bool(used), "These models need times of touches, which a table of paths does not have.")
    credits, found = _credits(journeys, used, n_groups)
    used = [m for m in used if m.name in credits]
    require(bool(used), say("attribution.no_effect", "en"))
    rows, k = [], len(journeys.channels)
    assisted = _assisted(journeys)
    cost = np.array([spend.get(name, np.nan) for name in journeys.channels])
    for model in used:
        told = credits[model.name]
        share = _parts(told[:, :k])[..., 0]
        low, high = _interval(share, confidence)
        of_channel = told[0, :k].T
        with np.errstate(divide="ignore", invalid="ignore"):  # less than half a conversion has no cost that means much
            per = (
                cost / np.where(of_channel[0] >= 0.5, of_channel[0], 0),
                of_channel[1] / np.where(cost > 0, cost, np.nan),
            )
        columns = (journeys.channels, *of_channel, share[0], low, high, assisted, cost, *per)
        rows += [(model.name, *row) for row in zip(*columns, strict=True)]
        if journeys.timed:
            rows.append((model.name, BASELINE, *told[0, k], *[np.nan] * 7))
    whole: dict[str, Any] = {
        "confidence": confidence,
        "n_conversions": journeys.conversions,
        "untouched": journeys.untouched,
    }
    whole |= {"baseline_known": journeys.people is not None, "currency": journeys.currency}
    whole["view_credit"] = journeys.view_credit
    whole |= {"left_out": tuple(m.name for m in asked if m not in used)} | found
    return Attribution.of(rows, **whole)


def _credits(journeys: Journeys, models: Sequence[Weights], groups: int) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Credit by model (1 + groups, channels + 1, 2), the last channel the baseline; and what the hazard found.

    The first row is of all people, the others leave one group out.
    """
    rules = {m.name: m.rule for m in models if m.rule}
    parts = journeys.credit(rules, groups) if rules else {}
    names, told = [m.name for m in models], dict[str, Floats]()
    found: dict[str, Any] = {"decay_days": np.nan, "hazard_days": ""}
    if "shapley" in names:
        parts["shapley"] = journeys.shared(groups)
    untouched = np.array([journeys.untouched, journeys.untouched_value])
    for name, part in parts.items():
        whole = part.sum(axis=0, keepdims=True)
        told[name] = np.concatenate([whole, whole - part] if groups > 1 else [whole])
    if "markov" in names:
        told["markov"] = _markov_left_out(journeys, groups)
    if "hazard" in names:
        told["hazard"], found["decay_days"], found["hazard_days"], learned = _hazard(journeys, groups)
        if not learned:  # its shares would be noise
            del told["hazard"]
    base = np.broadcast_to(untouched, (1 + groups * (groups > 1), 1, 2))
    based = {n: part if n == "hazard" else np.concatenate([part, base], axis=1) for n, part in told.items()}
    return based, found


def _markov_left_out(journeys: Journeys, groups: int) -> Floats:
    steps, left_out = journeys.steps(1, groups), range(groups) if groups > 1 else ()
    return np.array([credited(Chain(steps.without(g)).effects(), journeys).T for g in (-1, *left_out)])


def _hazard(journeys: Journeys, groups: int) -> Additive:
    """The additive hazard; without `people` its channels share all conversions that had a touch."""
    assert isinstance(journeys, TouchJourneys)  # others are told that it is left out
    seen, k = journeys.exposure(groups), len(journeys.channels)
    whole = np.array([journeys.conversions, journeys.value])
    if journeys.people is None:
        fit = fit_additive(seen, k, person_days=None, groups=groups)
        touched = np.array(seen.touched)
        base = np.broadcast_to(whole - touched, (len(fit.credit), 1, 2))
        return fit._replace(credit=np.concatenate([_parts(fit.credit[:, :k]) * touched, base], axis=1))
    alone = dict(zip(("untouched", "untouched_value"), whole - seen.touched, strict=True))
    return fit_additive(seen, k, person_days=journeys.people * journeys.n_days, groups=groups, **alone)


def _assisted(journeys: Journeys) -> Floats:
    """Conversions in which a channel had a touch, but another one the last."""
    met = journeys.won().met()
    return np.asarray(met.sum(axis=1) - np.diag(met))


def _parts(credit: Floats) -> Floats:
    """Of the sums over channels (groups, channels, 2); NaN where a group of people had all the conversions."""
    with np.errstate(invalid="ignore"):
        return np.asarray(credit / credit.sum(axis=1, keepdims=True))


def _interval(share: Floats, confidence: float | None) -> tuple[Floats, Floats]:
    """Bounds of shares (groups + 1, channels), of which the first row is the whole: delete-a-group jackknife."""
    left, n = share[1:], len(share) - 1
    if confidence is None or n < 2:
        return np.full(share.shape[1], np.nan), np.full(share.shape[1], np.nan)
    error = np.sqrt((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    half = stdtrit(n - 1, (1 + checked_confidence(confidence)) / 2) * error
    return (share[0] - half).clip(0), (share[0] + half).clip(None, 1)


def shapley(journeys: Journeys) -> Attribution:
    """Credit by Shapley's value where a set of channels is worth the conversions of journeys within it.

    It equals an even split between the different channels of a journey: no order, no time, no journeys that failed.
    """
    return attribute(journeys, ("shapley",), confidence=None)


class Calibration(Framed):
    """Credit after lift tests: ``model, channel, conversions, value, share, claimed, lift, error, weight``.

    A tested channel is moved from what the model `claimed` towards the `lift`, by `weight`; the rest is baseline.
    """

    columns: ClassVar = ("model", "channel", "conversions", "value", "share", "claimed", "lift", "error", "weight")
    aside: ClassVar = ("currency",)
    digits: ClassVar = 8
    ways: ClassVar = {"model_name": called}

    def sentence(self, language: str = "en") -> str:
        tested = self.frame[self.frame["lift"].notna()]
        worst = tested.loc[(tested["claimed"] - tested["lift"]).abs().idxmax()]
        told = {name: number(worst[name], language) for name in ("claimed", "lift", "conversions")}
        return say("calibration.sentence", language, channel=worst["channel"],
                   model=called(worst["model"], language), **told)  # fmt: skip


def calibrate(attribution: Attribution, lift: Mapping[str, tuple[float, float]]) -> Calibration:
    """Move credit towards what randomised tests found: (incremental conversions, standard error) by channel.

    Over the same days and people as the attribution. With d the distance of claim and test, the weight of the test is
    d² / (d² + error²): an exact test is taken as it is, a weak one changes little. Channels without a test keep their
    claim; what is taken away from (or found beyond) a claim goes to (or comes from) the baseline, and when that is
    used up, from the channels without a test. Raises `KpiError` where tests found more than all conversions.
    """
    known = [name for name in dict.fromkeys(attribution.channel) if name != BASELINE]
    require(bool(lift), "lift is empty: give (incremental conversions, standard error) of a channel at least.")
    for name, told in lift.items():
        require_known(name, known, f"The lift has a channel {name!r} that no touch has.")
        fine = np.shape(told) == (2,) and np.isfinite(told[0]) and 0 < told[1] < np.inf
        require(fine, f"The lift of {name} is {told}: need (incremental conversions, standard error above 0).")
    whole = pd.MultiIndex.from_product([attribution.models, [*known, BASELINE]], names=["model", "channel"])
    claims = attribution.frame.set_index(["model", "channel"])[["conversions", "value"]]
    claims = claims.reindex(whole, fill_value=0.0).reset_index()
    claimed, base = claims["conversions"], claims["channel"] == BASELINE
    found, error = (claims["channel"].map({k: v[i] for k, v in lift.items()}).astype(float) for i in (0, 1))
    weight = (claimed - found) ** 2 / ((claimed - found) ** 2 + error**2)
    moved = (claimed + weight * (found - claimed)).fillna(claimed)
    sums = claims.groupby("model")[["conversions", "value"]].transform("sum")
    untested, by = found.isna() & ~base, claims["model"]
    lifted, others = (moved.where(of, 0.0).groupby(by).transform("sum") for of in (found.notna(), untested))
    left, most = sums["conversions"] - lifted, sums["conversions"].max()
    rule = f"The tests found {lifted.max():,.0f} of {most:,.0f} conversions: give lifts of these days and people."
    require(bool((left >= -1e-9 * most).all()), rule)
    moved = moved.where(~untested, moved * (left / others.where(others > 0, 1)).clip(0, 1))
    each = (claims["value"] / claimed.where(claimed > 0)).fillna(sums["value"] / sums["conversions"])
    rows = claims.assign(conversions=moved, value=moved * each)
    rest = sums - rows.groupby("model")[["conversions", "value"]].transform("sum")
    rows.loc[base, ["conversions", "value"]] += rest[base]
    gained = moved.clip(0)  # a channel that drives buyers away has no share
    total = gained.where(~base).groupby(rows["model"]).transform("sum")
    told = rows.assign(share=(gained / total).where(~base), claimed=claimed, lift=found, error=error, weight=weight)
    return Calibration(frame=told[[*Calibration.columns]], whole={"currency": attribution.currency})
