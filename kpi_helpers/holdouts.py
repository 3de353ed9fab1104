"""Purchase models on weeks that they have not seen: totals, customers, and week by week."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import plots
from kpi_helpers.errors import require
from kpi_helpers.histories import Histories, opened, purchase_days
from kpi_helpers.purchases import DAYS, MODELS, PurchaseFit, fit_purchases
from kpi_helpers.result import Framed, both_say, number, percent, say
from kpi_helpers.stats import auc

MOST_SHOWN = 7  # customers with so many repeat purchases or more are one group


class ModelComparison(Framed):
    """Models fitted up to the split, and what they foresaw of the holdout, beside two rules without a model.

    Columns: ``model, log_likelihood, aic, bic`` (NaN for the rules), ``predicted`` purchases of all, ``error`` (by the
    actual ones, less 1), ``mae, rmse`` per customer, ``auc`` of who buys at all, ``log_score``, mean logarithm of the
    chance that the model gave to what each customer did. `actual`: purchases in the holdout; `fits` by name.
    """

    digits: ClassVar = 8
    columns = ("model", "log_likelihood", "aic", "bic", "predicted", "error", "mae", "rmse", "auc", "log_score")
    aside: ClassVar = ("fits", "calibration")

    @property
    def best_error(self) -> float:
        """By how much the best model missed the purchases in the holdout."""
        return float(self.frame.set_index("model")["error"].loc[self.best.model])

    @property
    def best(self) -> PurchaseFit:
        """The fit with the highest log score, which rewards nothing but the truth; MAE rewards forecasts too low."""
        settled = [m for m, fit in self.fits.items() if "not converged" not in fit.notes] or list(self.fits)
        fit: PurchaseFit = self.fits[self.frame.set_index("model")["log_score"].loc[settled].idxmax()]
        return fit

    def sentence(self, language: str = "en") -> str:
        of = self.frame.set_index("model").loc
        told = {"actual": self.actual, "horizon": self.days, "model": self.best.model.upper()}
        for name, row in (("model", of[self.best.model]), ("pace", of["pace"])):
            told[f"{name}_predicted"] = round(row["predicted"])
            told[f"{name}_error"] = percent(row["error"], language, sign=True)
        return str(both_say("model_comparison.sentence", **told)[language])

    def drawn(self, language: str) -> str:
        """Purchases in the holdout by purchases before it, foreseen and actual, as an HTML figure."""
        words = say("model_comparison.lines", language).split("|")
        draw = {"frame": self.calibration, "words": words, "language": language}
        return plots.chart(
            lambda axes, _narrow: plots.paired(axes, **draw), title=say("model_comparison.title", language),
            note=say("model_comparison.note", language), alt=self.sentence(language),
        )  # fmt: skip


def compare_models(histories: Histories, models: Sequence[str] = tuple(MODELS)) -> ModelComparison:
    """Fit `models` on the purchases up to the split and judge each on those after it.

    "pace" goes on as each customer did (x / T), "mean" gives everybody the same. Raises `KpiError` without a split, and
    what `fit_purchases` raises. Fader, Hardie & Lee (2005), Marketing Science 24:275-284 compare in this way.
    """
    require(histories.split is not None, "Models are compared on time they have not seen. Give split= to summarise.")
    rows, days = histories.rows, histories.horizon_days / DAYS[histories.unit]
    x, w, held = (rows[c].to_numpy(float) for c in ("frequency", "weight", "held_out"))
    told = [rows[c].to_numpy(float) for c in ("frequency", "recency", "age")]
    fits = {m: fit_purchases(*told, model=m, weights=w, unit=histories.unit) for m in models}
    foreseen = {m: fit.expected_purchases(days, *told) for m, fit in fits.items()}
    foreseen["pace"] = x / np.where(told[2] > 0, told[2], 1) * days
    foreseen["mean"] = np.full(len(x), np.average(foreseen["pace"], weights=w))
    actual = (w * held).sum()
    told_of = {m: (fit.log_likelihood, fit.aic, fit.bic) for m, fit in fits.items()}
    seen = {m: f.chance_of(held, days, *told) - f.chance_of(held + 1, days, *told) for m, f in fits.items()}
    lines = [
        (m, *told_of.get(m, (np.nan,) * 3), total := (w * f).sum(), total / actual - 1 if actual else np.nan,
         np.average(np.abs(f - held), weights=w), np.sqrt(np.average((f - held) ** 2, weights=w)),
         auc(f, held > 0, w)[0], np.average(np.log(np.maximum(seen[m], 1e-300)), weights=w) if m in seen else np.nan)
        for m, f in foreseen.items()
    ]  # fmt: skip
    result = ModelComparison.of(lines, fits=fits, actual=int(actual), days=histories.horizon_days, calibration=None)
    group = np.minimum(x, MOST_SHOWN).astype(int)
    told_by = {"customers": w, "actual": w * held, "predicted": w * foreseen[result.best.model]}
    by = pd.DataFrame({k: np.bincount(group, v, MOST_SHOWN + 1) for k, v in told_by.items()}).query("customers > 0")
    by[["actual", "predicted"]] = by[["actual", "predicted"]].div(by["customers"], axis=0)
    return ModelComparison(frame=result.frame, whole={**result.whole, "calibration": by})


class Tracking(Framed):
    """Repeat purchases of all customers up to each day, and what a model expects; `split` is where it stops to look."""

    digits: ClassVar = 8
    columns = ("day_at", "actual", "expected")

    def sentence(self, language: str = "en") -> str:
        last = self.frame.iloc[-1]
        told = {name: number(last[name], language) for name in ("actual", "expected")}
        error = percent(last["expected"] / last["actual"] - 1, language, sign=True)
        return say("tracking.sentence", language, model=self.model.upper(), error=error, **told)

    def drawn(self, language: str) -> str:
        """Both lines and the split, as an HTML figure."""
        words = say("tracking.lines", language).split("|")
        how = {"split": self.split, "words": words, "language": language}
        return plots.chart(
            lambda axes, narrow: plots.tracked(self.frame, axes, narrow, **how),
            title=say("tracking.title", language), note=say("tracking.note", language), alt=self.sentence(language),
        )  # fmt: skip


def track(histories: Histories, orders: Any, fit: PurchaseFit) -> Tracking:
    """Purchases week by week as they were and as a fit expects them of new customers, without looking at any of them.

    Each customer brings the expected purchases of a new one since the own first day; the sum over all is the line.
    `orders` as `histories.summarise` took them.
    """
    from ibis import _

    days = purchase_days(opened(orders).filter(_.bought, _.on <= histories.end)).filter(~_.void)
    days = days.inner_join(histories.table.select("customer_id", "first_on"), "customer_id")
    counts = {"firsts": _.count(where=_.on == _.first_on), "repeats": _.count(where=_.on > _.first_on)}
    daily = days.group_by("on").aggregate(**counts).order_by("on").to_pyarrow().to_pandas()
    weeks = pd.date_range(histories.start, histories.end, freq="7D")[1:].union([pd.Timestamp(histories.end)])
    since = (weeks.to_numpy()[:, None] - pd.to_datetime(daily["on"]).to_numpy()) / np.timedelta64(1, "D")
    steps, place = np.unique(np.maximum(since, 0), return_inverse=True)
    new = fit.expected_new(steps / DAYS[histories.unit])[place].reshape(since.shape)
    lines = zip(weeks.date, (since >= 0) @ daily["repeats"], new @ daily["firsts"], strict=True)
    return Tracking.of(lines, split=histories.split, model=fit.model)
