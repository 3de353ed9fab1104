"""One door to alerts: limits and monitors of a series, KPIs watched, which segment, rules on the results of a run."""

from kpi_helpers.alarms import watch
from kpi_helpers.monitors import detect, threshold
from kpi_helpers.rules import evaluate, read_rules
from kpi_helpers.suspects import find_segments

__all__ = ["detect", "evaluate", "find_segments", "read_rules", "threshold", "watch"]
