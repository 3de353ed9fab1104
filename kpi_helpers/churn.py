"""Churn and retention, with a contract and without: one door to its rooms.

`setting` decides which it is. With a contract: `bridge`, `cohorts`, `survival`, `fit_retention`, `fit_hazard`,
`fit_cox`, and `tenure_churn` for `standardised_churn`. Without: `snapshot`, `check_leakage`, `fit_churn`, `evaluate`.
Whom to contact: `campaign_profit`.
"""

from kpi_helpers.hazards import fit_cox, fit_hazard, person_periods
from kpi_helpers.profits import campaign_profit
from kpi_helpers.recurring import (
    Leaving,
    bridge,
    cohorts,
    durations,
    month_and_year_before,
    setting,
    spells,
    standardised_churn,
    tenure_churn,
)
from kpi_helpers.retention import fit_retention, survival
from kpi_helpers.scores import check_leakage, evaluate, fit_churn, snapshot

__all__ = [
    "Leaving", "bridge", "campaign_profit", "check_leakage", "cohorts", "durations", "evaluate", "fit_churn", "fit_cox",
    "fit_hazard", "fit_retention", "month_and_year_before", "person_periods", "setting", "snapshot", "spells",
    "standardised_churn", "survival", "tenure_churn",
]  # fmt: skip
