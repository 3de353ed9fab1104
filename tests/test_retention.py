"""Retention of cohorts and survival: published fits, statsmodels, recovery, laws, real customers, bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import betaln
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from kpi_helpers.errors import KpiError
from kpi_helpers.retention import fit_retention, survival

HIGH_END = [1000, 869, 743, 653, 593, 551, 517, 491]
REGULAR = [1000, 631, 468, 382, 326, 289, 262, 241]


# Fader & Hardie (2007), J. Interactive Marketing 21:76-90: both cohorts, parameters printed to three decimals
@pytest.mark.parametrize(("counts", "alpha", "beta"), [(HIGH_END, 0.668, 3.806), (REGULAR, 0.704, 1.182)])
def test_parameters_are_the_published_ones(counts, alpha, beta):
    fit = fit_retention(counts)

    assert fit.parameters == {"alpha": pytest.approx(alpha, abs=5e-4), "beta": pytest.approx(beta, abs=5e-4)}


@pytest.mark.parametrize("counts", [HIGH_END, REGULAR, [50, 20, 15, 12], [10**7, 8 * 10**6, 7 * 10**6, 6.5 * 10**6]])
def test_fit_is_the_peak_of_the_likelihood_written_with_beta_functions(counts):
    def loss(theta):
        (a, b), t = np.exp(theta), np.arange(1, len(counts))
        lost = betaln(a + 1, b + t - 1) - betaln(a, b)
        return lost @ np.diff(counts) - counts[-1] * (betaln(a, b + t[-1]) - betaln(a, b))

    found = minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-10, "maxiter": 5000})
    fit = fit_retention(counts)

    assert list(fit.parameters.values()) == pytest.approx(np.exp(found.x), rel=1e-4)
    assert fit.log_likelihood == pytest.approx(-found.fun, rel=1e-9)
