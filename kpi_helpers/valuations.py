"""What customers will bring: each one in the engine, groups of them with intervals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from kpi_helpers.errors import require, require_known
from kpi_helpers.histories import KEYS, Histories
from kpi_helpers.purchases import DAYS, PurchaseFit, fit_purchases, in_units
from kpi_helpers.result import Framed, Result, measure, number, percent, say
from kpi_helpers.spending import SpendFit, fit_spend
from kpi_helpers.stats import Floats, checked_confidence

if TYPE_CHECKING:
    import ibis.expr.types as ir

LEGENDRE = np.polynomial.legendre.leggauss(8)
STEP = 1e-3  # of the logarithm of a parameter, to see what it moves


def discounted(expected: Callable[[float], Floats], horizon: float, rate: float) -> Floats:
    """Purchases up to `horizon`, each worth exp(-rate x time), from those `expected` up to any time.

    By parts: exp(-rate h) E(h) + rate ∫ exp(-rate t) E(t) dt, by Gauss-Legendre with 8 nodes.

    >>> round(float(discounted(lambda t: np.array(2 * t), 10.0, 0.05)), 9)  # 40 (1 - exp(-0.5))
    15.738773611
    """
    times, weights = (LEGENDRE[0] + 1) * horizon / 2, LEGENDRE[1] * horizon / 2
    inside = sum(w * np.exp(-rate * t) * expected(float(t)) for t, w in zip(times, weights, strict=True))
    return np.asarray(np.exp(-rate * horizon) * expected(horizon) + rate * inside)


def for_life(fit: PurchaseFit, frequency: Any, recency: Any, age: Any, *, rate: float) -> Floats:
    """Purchases of the whole rest of a customer's life, discounted by `rate` a unit of time, in closed form.

    Only Pareto/NBD has one: P(alive) (r + x) / (alpha + T) ∫ exp(-rate t) (1 + t / (beta + T))^-s dt, where the
    integral is (beta + T) U(1, 2 - s, rate (beta + T)). Raises `KpiError` for other models and rates not above 0.
    Fader, Hardie & Lee (2005), Journal of Marketing Research 42:415-430, equation 3.
    """
    from scipy.special import hyperu

    rule = f"{fit.model} has no closed form of a whole life. Give a horizon such as '5 years'."
    require(fit.model == "pareto/nbd", rule)
    require(rate > 0, f"rate={rate} must be above 0: an endless life without discount has no sum.")
    r, alpha, s, beta = fit.parameters.values()
    since = beta + np.asarray(age, dtype=float)
    alive = fit.probability_alive(frequency, recency, age)
    return np.asarray(alive * (r + frequency) / (alpha + age) * since * hyperu(1, 2 - s, rate * since))


@dataclass(frozen=True, slots=True)
class Valuation:
    """Every customer with what he will bring within a horizon; `table` holds one row a customer, in the engine.

    Its columns beside those of the histories: `p_alive`; `purchases` expected; `purchases_low` and `purchases_high`,
    between which the customer's own number lies with the `confidence`; `spend` expected of a purchase; `clv`, which is
    discounted purchases x spend x margin; `tenth` of the customers by it, 1 the best.
    """

    scored: "ir.Table"  # the table, and columns that its intervals need, their names begin with a blank
    horizon: str
    confidence: float
    margin: float | None
    currency: str
    purchases: PurchaseFit
    spend: SpendFit

    @property
    def table(self) -> "ir.Table":
        """One row a customer."""
        return self.scored.select(*(c for c in self.scored.columns if c[0] != " "))

    def segments(self, by: str = "tenth") -> "ValueSegments":
        """Add up customers by a column of the table, with intervals of their sums, in one query.

        An interval holds the chance of what each customer does and the errors of the parameters of both models (delta
        method, on the logarithm). It cannot hold what the model itself gets wrong: see the holdout.
        """
        t = self.scored
        require_known(by, [c for c in t.columns if not c.startswith(" ")], f"The customers have no column {by!r}.")
        sums: dict[str, Any] = {"customers": t.count(), " unknown": t[" own"].isnull().sum()}
        added = ["p_alive", "purchases", "clv", *(c for c in t.columns if c[0] == " ")]
        grouped = t.group_by(segment=t[by]).aggregate(**sums, **{c: t[c].sum() for c in added}).order_by("segment")
        frame = grouped.to_pyarrow().to_pandas().set_index("segment").astype(float)
        frame.loc["total"] = frame.sum()
        variance = frame[" own"].where(frame[" unknown"] == 0).to_numpy()  # infinite in the model
        for kind, fit in (("purchases", self.purchases), ("spend", self.spend)):
            up, down = (frame[[name for name, _fit in moved(kind, fit) if name.endswith(s)]].to_numpy() for s in "+-")
            slope = (up - down) / (2 * STEP)
            known = np.nan_to_num(fit.covariance)  # of everybody spending the same nothing is in doubt
            variance = variance + np.einsum("si,ij,sj->s", slope, known, slope)
        with np.errstate(invalid="ignore", divide="ignore"):
            far = np.exp(ndtri((1 + self.confidence) / 2) * np.sqrt(variance) / frame["clv"])
        frame = frame.assign(clv_low=frame["clv"] / far, clv_high=frame["clv"] * far)
        frame["p_alive"] /= frame["customers"]
        frame["share"] = frame["clv"] / frame["clv"].iloc[-1]
        told = {"horizon": self.horizon, "confidence": self.confidence, "currency": self.currency, "by": by}
        told |= {"of_margin": self.margin is not None, "total": frame.iloc[-1]}
        return ValueSegments(frame=frame.iloc[:-1].reset_index()[list(ValueSegments.columns)], whole=told)


class Spoken(Framed):
    """A result that names its horizon and what its values are of."""

    digits: ClassVar = 8

    def horizon_told(self, language: str = "en") -> str:
        """The horizon in the words of a language: "1 year", "39 weeks"; 1 năm, 39 tuần."""
        n, unit = self.horizon.split()
        return str(self.horizon) if language == "en" else f"{n} {say('period.' + unit.rstrip('s'), language)}"

    def what(self, language: str = "en") -> str:
        """Gross margin, or revenue where no margin is known."""
        return say(f"value.{'margin' if self.of_margin else 'revenue'}", language)


class ValueSegments(Spoken):
    """Groups of customers: ``segment, customers, p_alive, purchases, clv, clv_low, clv_high, share`` of all clv."""

    columns = ("segment", "customers", "p_alive", "purchases", "clv", "clv_low", "clv_high", "share")
    aside: ClassVar = ("total",)

    def sentence(self, language: str = "en") -> str:
        first, n = self.frame.loc[self.frame["clv"].idxmax()], self.total["customers"]
        told = {"total": measure(self.total["clv"], "money", language, self.currency), "what": self.what(language)}
        told |= {"n": number(n, language), "share": percent(first["share"], language, decimals=0)}
        told |= {"part": percent(first["customers"] / n, language, decimals=0), "horizon": self.horizon_told(language)}
        return say("value_segments.sentence", language, **told)


def fit_models(histories: Histories, model: str = "bg/nbd") -> tuple[PurchaseFit, SpendFit]:
    """Fit a model of purchases and Gamma-Gamma of what they are worth to the unique rows of the histories."""
    rows, spend = histories.rows, histories.spend
    told = (rows[c].to_numpy(float) for c in ("frequency", "recency", "age"))
    fit = fit_purchases(*told, model=model, weights=rows["weight"].to_numpy(float), unit=histories.unit)
    paid = spend[spend["mean_value"] > 0]  # free purchases tell nothing of spend
    require(len(paid) > 0, "No purchase after the first has revenue: customers cannot be valued. See fit_purchases.")
    return fit, fit_spend(paid["frequency"], paid["mean_value"], weights=paid["weight"])


def value(
    histories: Histories, purchases: PurchaseFit, spend: SpendFit, *, horizon: str = "1 year", discount: float = 0.10,
    margin: float | None = None, confidence: float = 0.8,
) -> Valuation:  # fmt: skip
    """Value every customer inside the engine: Python sees unique rows only, which are joined back.

    `horizon` in words ("39 weeks", "1 year"), `discount` a year as a fraction, `margin` as a share of revenue (that of
    the histories by default; without any the value is revenue). Raises `KpiError` for a discount below 0, a margin
    outside (0, 1], a horizon of nothing, and where the mean spend is infinite.
    """
    import ibis

    margin, confidence = checked_margin(histories, margin), checked_confidence(confidence)
    length, rate = clock(histories, horizon, discount)
    spend.expected_spend(0, 0)  # refuses an infinite mean
    rows = histories.rows.drop_duplicates(list(KEYS), ignore_index=True)
    told = [rows[c].to_numpy(float) for c in ("frequency", "recency", "age")]
    expected = purchases.expected_purchases(length, *told)
    require(bool(np.isfinite(expected).all()), f"{purchases.model} has no finite forecast here: take another model.")
    low, high, squared = _spread(purchases, length, told, confidence)
    share = discounted(lambda t: purchases.expected_purchases(t, *told), length, rate) / np.maximum(expected, 1e-300)
    scores = {"p_alive": purchases.probability_alive(*told), "purchases": expected, "purchases_low": low}
    scores |= {"purchases_high": high, " squared": squared, " share": share}
    scores |= {name: fit.expected_purchases(length, *told) for name, fit in moved("purchases", purchases)}
    t = histories.score(rows[list(KEYS)].assign(**scores))
    each = (margin or 1.0) * t[" share"]
    mean, of_squares = _spend(t, spend)
    p = spend.parameters["p"]
    own = each * each * (of_squares * (t.purchases / p + t[" squared"]) - (t.purchases * mean) * (t.purchases * mean))
    made = {"spend": mean, "clv": each * mean * t.purchases, " own": own}
    made |= {name: each * mean * t[name] for name, _fit in moved("purchases", purchases)}
    made |= {name: each * _spend(t, fit)[0] * t.purchases for name, fit in moved("spend", spend)}
    table = t.mutate(**made)
    best = ibis.window(order_by=[table.clv.desc(), table.customer_id])
    table = table.mutate(tenth=1 + ibis.ntile(10).over(best)).drop(" squared", " share").cache()
    return Valuation(table, horizon, confidence, margin, histories.currency, purchases, spend)


def at_stake(
    histories: Histories, purchases: PurchaseFit, spend: SpendFit, *, silent_days: int, horizon: str = "1 year",
    discount: float = 0.10, margin: float | None = None,
) -> "ir.Table":  # fmt: skip
    """What is lost of each customer who goes silent: ``customer_id, at_stake``, for a campaign that keeps him buying.

    The value of one who still buys less that of one who was silent for `silent_days`: the silent come back, too, only
    more seldom. Parameters and errors as in `value`.
    """
    length, rate = clock(histories, horizon, discount)
    silent = silent_days / DAYS[histories.unit]
    require(0 < silent < length, f"silent_days={silent_days} must lie between 0 and the horizon, {horizon}.")
    rows = histories.rows.drop_duplicates(list(KEYS), ignore_index=True)
    x, t, age = told = [rows[c].to_numpy(float) for c in ("frequency", "recency", "age")]
    buying = discounted(lambda u: purchases.expected_purchases(u, *told), length, rate)
    quiet = discounted(lambda u: purchases.expected_purchases(u, x, t, age + silent), length - silent, rate)
    gap = buying / purchases.probability_alive(*told) - np.exp(-rate * silent) * quiet
    table = histories.score(rows[list(KEYS)].assign(gap=np.maximum(gap, 0)))
    worth = table.gap * _spend(table, spend)[0] * (checked_margin(histories, margin) or 1.0)
    return table.select("customer_id", at_stake=worth)


def checked_margin(histories: Histories, margin: float | None) -> float | None:
    """A margin as a share of revenue, that of the histories unless given; None if neither is known."""
    margin = histories.margin if margin is None else margin
    require(margin is None or 0 < margin <= 1, f"margin={margin} is not in (0, 1]. Write 0.3 for 30% of revenue.")
    return margin


def clock(histories: Histories, horizon: str, discount: float) -> tuple[float, float]:
    """Horizon and discount rate in the unit of the histories."""
    require(discount >= 0, f"discount={discount} is below 0. Write 0.1 for 10% a year.")
    length = float(in_units(horizon, histories.unit))
    require(length > 0, f"horizon={horizon!r}: nothing can be bought in it.")
    return length, float(np.log1p(discount)) * DAYS[histories.unit] / 365.25


def moved(kind: str, fit: Any) -> Iterator[tuple[str, Any]]:
    """The fit with each parameter a little up and down, and how its column is called."""
    for i in range(len(fit.frame)):
        for side, step in (("+", STEP), ("-", -STEP)):
            estimate = fit.frame["estimate"].to_numpy(float) * np.exp(np.where(np.arange(len(fit.frame)) == i, step, 0))
            yield f" moved {kind} {i} {side}", replace(fit, frame=fit.frame.assign(estimate=estimate))


def _spread(fit: PurchaseFit, horizon: float, told: list[Floats], confidence: float) -> list[Floats]:
    """Fewest and most purchases, each side missed with (1 - confidence) / 2 or less, and the mean of their square.

    All from the chances of at least n purchases, n = 1, 2, ..., as far as they are not small.
    """
    tail, (low, high, squared) = (1 - confidence) / 2, np.zeros((3, len(told[0])))
    open_, n = np.arange(len(told[0])), 1
    while len(open_):
        chance = fit.chance_of(n, horizon, *(v[open_] for v in told))
        low[open_] += chance >= 1 - tail
        high[open_] += chance > tail
        squared[open_] += (2 * n - 1) * chance
        open_, n = open_[(chance * n * n > 1e-6) | (chance > tail)], n + 1
    return [low, high, squared]


def _spend(t: "ir.Table", fit: SpendFit) -> tuple[Any, Any]:
    """Expected mean spend of a customer, and that of its square (null if infinite), in the engine; Gamma-Gamma."""
    p, q, gamma = fit.parameters.values()
    x = t.frequency.cast("float64")  # an engine that takes the parameters for decimals has no room for large ones
    if not np.isfinite(p):  # everybody spends the same
        return 0 * x + gamma, 0 * x + gamma**2
    known = gamma + x * t.mean_value.fill_null(0.0).clip(lower=0.0)  # refunds may leave less than nothing
    px = p * x + q
    finite = (px > 2).ifelse((px - 1) * (px - 2), None)
    return p * known / (px - 1), p * p * known * known / finite


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Worth(Result):
    """What all customers will bring: the head of the report. `error` is that of the model on the weeks held out."""

    segments: ValueSegments
    error: float

    aside: ClassVar = ("segments",)
    digits: ClassVar = 8

    @property
    def name(self) -> str:
        """The answer of the report."""
        return "answer"

    @property
    def currency(self) -> str:
        """That of the customers' money."""
        return str(self.segments.currency)

    def to_frame(self) -> pd.DataFrame:
        total = self.segments.total[["customers", "p_alive", "purchases", "clv", "clv_low", "clv_high"]]
        return pd.DataFrame([{**total, "held_out_error": self.error}])

    def sentence(self, language: str = "en") -> str:
        return self.segments.sentence(language)
