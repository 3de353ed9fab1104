"""Experiments from plan to decision: one door to its rooms.

Plan with `plan_rates` and `plan_means`, check with `check_split`, compare from a few numbers with `compare_rates` and
its kin, analyse tables of units with `analyse`, watch with `sequential_boundaries` and `always_valid`, and try
them all on experiments without an effect with `false_alarms`.
"""

from kpi_helpers.analyses import analyse
from kpi_helpers.comparisons import (
    adjust_p_values,
    check_split,
    compare_adjusted_means,
    compare_means,
    compare_rates,
    compare_ratios,
)
from kpi_helpers.contrasts import bayes_means, bayes_rates
from kpi_helpers.designs import plan_means, plan_rates
from kpi_helpers.looks import always_valid, peeking, sequential_boundaries
from kpi_helpers.metrics import mean, rate, ratio, standard
from kpi_helpers.moments import CovariateMoments, Moments, RatioMoments
from kpi_helpers.trials import false_alarms
from kpi_helpers.units import history, of_experiment, reached
from kpi_helpers.verdicts import Decision
from kpi_helpers.watching import watch

__all__ = [
    "CovariateMoments", "Decision", "Moments", "RatioMoments", "adjust_p_values", "always_valid", "analyse",
    "bayes_means", "bayes_rates", "check_split", "compare_adjusted_means", "compare_means", "compare_rates",
    "compare_ratios", "false_alarms", "history", "mean", "of_experiment", "peeking", "plan_means", "plan_rates", "rate",
    "ratio", "reached", "sequential_boundaries", "standard", "watch",
]  # fmt: skip
