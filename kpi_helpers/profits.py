"""Whom a retention campaign should contact: expected profit of each customer, of each share, and the best share."""

from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betaincc, ndtri

from kpi_helpers import plots
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, measure, percent, say
from kpi_helpers.stats import checked_confidence


class CampaignProfit(Framed):
    """Expected profit by share contacted, most profitable first, and `total` at the best share.

    `customers`: ``profit``, probability of leaving to ``break_even`` (NaN if none), whether to ``contact``. `emp`:
    expected maximum a customer, as if the acceptance were known before. Bounds tell the scatter by chance, no error of
    probabilities or CLV.
    """

    digits: ClassVar = 8
    columns: ClassVar = ("share", "n", "profit")
    aside: ClassVar = ("customers",)

    def sentence(self, language: str = "en") -> str:
        ends = ("total", "total_low", "total_high", "everybody")
        told = {name: measure(self.whole[name], "money", language, self.currency) for name in ends}
        told |= {"share": percent(self.best_share, language), "level": percent(self.confidence, language, decimals=0)}
        said = say(f"campaign_profit.{'contact' if self.best_share else 'nobody'}", language, **told)
        return f"{said} {say('campaign_profit.warning', language)}"

    def drawn(self, language: str) -> str:
        """Profit by share contacted, as an HTML figure."""
        return plots.profit_curve(self, language)


def campaign_profit(
    probability: ArrayLike, clv: ArrayLike, *, contact_cost: float, offer_cost: float,
    acceptance: float | tuple[float, float], confidence: float = 0.95, currency: str = "",
) -> CampaignProfit:  # fmt: skip
    """Tell whom to contact: who would leave but accepts keeps CLV less both costs, who refuses costs the contact only.

    Who would have stayed takes the offer too. Verbraken, Verbeke & Baesens (2013), IEEE TKDE 25:961-973, with each
    customer's own CLV. Parameters: `probability` (n,) of leaving, in [0, 1]; `clv` (n,) or one, what staying brings
    more than leaving (of the silent: `valuations.at_stake`); costs of one contact and of one offer taken, 0 or more;
    `acceptance` by who would leave, in (0, 1), or (alpha, beta) of its Beta distribution, such as (6, 14). Raises
    `KpiError` if one is outside.

    >>> made = campaign_profit([0.5, 0.1], 200, contact_cost=1, offer_cost=10, acceptance=0.3)
    >>> made.customers["profit"].tolist(), made.best_share, made.customers["break_even"].round(4).tolist()
    ([22.5, -4.3], 0.5, [0.1642, 0.1642])
    """
    p, value = np.atleast_1d(np.asarray(probability, float)), np.asarray(clv, float)
    bad, n = int((~((p >= 0) & (p <= 1))).sum()), p.size
    require(p.ndim == 1 and n > 0 and not bad, f"probability: {bad} of {n} are not in [0, 1]. Give one a customer.")
    fits = value.shape in ((), p.shape) and bool(np.isfinite(value).all())
    require(fits, f"clv needs one finite number, or one for each of {n} customers.")
    f, d = contact_cost, offer_cost
    require(0 <= f < np.inf and 0 <= d < np.inf, f"Costs {f}, {d} must be 0 or more, in the currency of clv.")
    drawn, (a, b) = isinstance(acceptance, tuple), acceptance if isinstance(acceptance, tuple) else (acceptance, 1)
    rule = f"acceptance={acceptance} is not in (0, 1), nor a pair above 0. Write 0.3 for 30%, or (6, 14)."
    require(a > 0 and b > 0 and (drawn or a < 1), rule)
    mean, spread = (a / (a + b), a * b / (a + b) ** 2 / (a + b + 1)) if drawn else (a, 0.0)
    kept, lost = p * (value - d), p * d - d - f  # the profit is kept * acceptance + lost
    profit, need = kept * mean + lost, mean * (value - d) + d
    even = np.where(need >= max(d + f, 1e-300), (d + f) / np.where(need > 0, need, 1), np.nan) + 0 * p
    worth, curve = profit > 0, np.append(0.0, np.cumsum(np.sort(profit)[::-1]))
    squares = p * (mean * (value - d - f) ** 2 + (1 - mean) * f**2) + (1 - p) * (d + f) ** 2
    own = squares - profit**2 - spread * kept**2  # variance of each at a given acceptance, which moves all alike
    error = np.sqrt(max(own[worth].sum() + spread * kept[worth].sum() ** 2, 0.0))
    total, half = float(profit[worth].sum()), float(ndtri((1 + checked_confidence(confidence)) / 2) * error)
    pays = np.clip(np.minimum(-lost, kept) / np.where(kept > 0, kept, 1), 0, 1)  # from this acceptance on
    most = np.where(kept > 0, kept * mean * betaincc(a + 1, b, pays) + lost * betaincc(a, b, pays), 0)
    counts = np.round(np.linspace(0, 1, 11) * n).astype(int)
    whole = {"total": total, "total_low": total - half, "total_high": total + half, "everybody": float(profit.sum())}
    whole |= {"best_share": float(worth.mean()), "emp": float(most.mean()) if drawn else total / n}
    customers = pd.DataFrame({"profit": profit, "break_even": even, "contact": worth})
    told = {"n_contacted": int(worth.sum()), "confidence": confidence, "currency": currency, "customers": customers}
    return CampaignProfit.of(zip(counts / n, counts, curve[counts], strict=True), **whole, **told)
