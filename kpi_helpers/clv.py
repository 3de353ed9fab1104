"""Customer lifetime value, from orders to whom to keep: one door to its rooms.

`summarise` orders to histories, `compare_models` on weeks held out, `fit_models`, then `value` every customer and
`new_customers`; `rfm`, `migration`, `lifecycle` tell who they are. `fit_purchases` and `fit_spend` take plain arrays.
"""

from kpi_helpers.histories import Histories, before, summarise
from kpi_helpers.holdouts import compare_models, track
from kpi_helpers.lifecycles import lifecycle, migration, rfm
from kpi_helpers.newcomers import media_cost, new_customers
from kpi_helpers.purchases import PurchaseFit, fit_purchases
from kpi_helpers.spending import SpendFit, fit_spend
from kpi_helpers.valuations import Valuation, Worth, at_stake, fit_models, for_life, value

__all__ = [
    "Histories", "PurchaseFit", "SpendFit", "Valuation", "Worth", "at_stake", "before", "compare_models", "fit_models",
    "fit_purchases", "fit_spend", "for_life", "lifecycle", "media_cost", "migration", "new_customers", "rfm",
    "summarise", "track", "value",
]  # fmt: skip
