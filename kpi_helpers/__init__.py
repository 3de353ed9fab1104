"""Measure marketing: KPIs with intervals, baselines, targets and repeatable reports."""

__version__ = "0.1.0"
