"""Multichannel attribution, from touches to what a hold-out says: one door to its rooms.

`read_journeys` of touches and conversions, or `from_paths` of a table of paths; `attribute` them by every model;
`markov`, `shapley` one by one; `calibrate` by lift tests. None of the models is the truth: read their range.
"""

from kpi_helpers.chains import Markov, markov, order_selection
from kpi_helpers.credits import Attribution, attribute, calibrate, custom, position, shapley, time_decay
from kpi_helpers.journeys import read_journeys
from kpi_helpers.paths import Journeys, from_paths
from kpi_helpers.pathways import (
    against_truth,
    channels_met,
    claims,
    holdout_power,
    lengths,
    lift_of,
    links,
    media_spend,
    summary,
    top_paths,
)  # fmt: skip

__all__ = [
    "Attribution", "Journeys", "Markov", "against_truth", "attribute", "calibrate", "channels_met", "claims", "custom",
    "from_paths", "holdout_power", "lengths", "lift_of", "links", "markov", "media_spend", "order_selection",
    "position", "read_journeys", "shapley", "summary", "time_decay", "top_paths",
]  # fmt: skip
