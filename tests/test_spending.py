"""The Gamma-Gamma model of spending: published parameters, its definition, laws, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import gamma, pearsonr, spearmanr

from kpi_helpers.errors import KpiError
from kpi_helpers.spending import SpendFit, fit_spend


@pytest.fixture(scope="module")
def cdnow(real_data):
    """Repeat purchases and their mean value of the published sample, one purchase a customer and day."""
    names = ["master", "id", "date", "cds", "dollars"]
    orders = pd.read_csv(real_data("cdnow") / "CDNOW_sample.txt", sep=r"\s+", header=None, names=names)
    days = orders[orders["date"] <= 19970930].groupby(["id", "date"])["dollars"].sum().reset_index()
    again = days[days["id"].duplicated()].groupby("id")["dollars"].agg(["size", "mean"])
    told = again.reindex(days["id"].unique(), fill_value=0)
    return told["size"].to_numpy(float), told["mean"].to_numpy(float)


@pytest.fixture(scope="module")
def drawn():
    """Customers as the model draws them: p 6, q 4, gamma 15."""
    draw = np.random.default_rng(4)
    x = draw.integers(0, 8, 4000)
    rate = draw.gamma(4, 1 / 15, 4000)
    return x, np.where(x > 0, draw.gamma(6 * np.maximum(x, 1)) / np.maximum(x, 1) / rate, 0)


# Fader & Hardie (2013), note 025, prints 6.25, 3.74, 15.44; CLVTools, test_correctness_gg.R: -4055.9177; further digits
# by lifetimes 0.11.3 on days
def test_parameters_are_the_published_ones(cdnow):
    fit = fit_spend(*cdnow)

    assert fit.parameters == pytest.approx({"p": 6.2496, "q": 3.7442, "gamma": 15.4435}, abs=6e-5)
    assert fit.log_likelihood == pytest.approx(-4055.9177, abs=6e-5)
    assert (fit.n_customers, fit.n_dropped, fit.notes) == (946, 1411, ())
    assert fit.population_mean == pytest.approx(35.171, abs=2e-3)
    assert fit.gradient_norm < 1e-8


def test_expected_spend_at_given_parameters():
    fit = SpendFit.at({"p": 6.24880, "q": 3.74459, "gamma": 15.44775})

    assert fit.population_mean == pytest.approx(35.171, abs=1e-3)
    assert fit.expected_spend(2, 22.35) == pytest.approx(24.6587, abs=1e-4)  # lifetimes, issue 81, shows 24.6586
    assert fit.expected_spend([0, 2], [0, 22.35]) == pytest.approx([fit.population_mean, 24.6587], abs=1e-4)


def test_dependence_of_spend_and_frequency_is_told(cdnow):
    fit, (x, z) = fit_spend(*cdnow), cdnow

    assert fit.spearman == pytest.approx(0.206, abs=5e-4) and fit.pearson == pytest.approx(0.114, abs=5e-4)
    assert fit.spearman == pytest.approx(spearmanr(x[x > 0], z[x > 0])[0], rel=1e-9)
    assert fit.pearson == pytest.approx(pearsonr(x[x > 0], z[x > 0])[0], rel=1e-9)
    assert "Spearman 0.21" in fit.sentence() and "Spearman 0,21" in fit.sentence("vi")


def test_likelihood_and_expectation_are_those_of_the_definition():
    x, z = np.array([1, 3, 7]), np.array([12.0, 31.0, 24.0])
    fit = fit_spend(np.tile(x, 4), np.concatenate([z, z * 2.5, z / 2, z * 0.9]))
    p, q, scale = fit.estimate

    def parts(n, mean):  # the density of a mean of n, and the spend that is expected of who had it
        law = lambda nu: gamma.pdf(nu, q, scale=1 / scale) * gamma.pdf(mean, p * n, scale=1 / (n * nu))  # noqa: E731
        both = [quad(of, 0, np.inf, epsabs=0, epsrel=1e-11, limit=300)[0] for of in (law, lambda v: law(v) * p / v)]
        return both[0], both[1] / both[0]

    told = [parts(n, m) for scale_ in (1, 2.5, 0.5, 0.9) for n, m in zip(x, z * scale_, strict=True)]
    assert fit.log_likelihood == pytest.approx(sum(np.log(density) for density, _ in told), abs=1e-6)
    assert fit.expected_spend(x, z) == pytest.approx([expected for _, expected in told[:3]], rel=1e-7)


def test_parameters_that_drew_the_data_are_found(drawn):
    fit = fit_spend(*drawn)

    for found, error, truth in zip(fit.estimate, fit.standard_error, (6, 4, 15), strict=True):
        assert abs(found - truth) < 3 * error


@pytest.mark.parametrize("factor", [1e6, 1e-6, 25_000])
def test_unit_of_money_changes_gamma_alone(drawn, factor):
    x, z = drawn
    one, other = fit_spend(x, z), fit_spend(x, z * factor)

    assert other.estimate == pytest.approx(np.array(one.estimate) * [1, 1, factor], rel=1e-6)
    assert other.log_likelihood == pytest.approx(one.log_likelihood - np.sum(x > 0) * np.log(factor), rel=1e-9)


def test_weights_repeat_and_order_does_not_matter(drawn):
    x, z = (v[:200] for v in drawn)
    w, order = np.arange(200) % 3 + 1, np.random.default_rng(1).permutation(200)

    weighted = fit_spend(x, z, weights=w)
    for other in (fit_spend(np.repeat(x, w), np.repeat(z, w)), fit_spend(x[order], z[order], weights=w[order])):
        assert other.estimate == pytest.approx(weighted.estimate, rel=1e-7)
        assert (other.n_customers, other.n_dropped) == (weighted.n_customers, weighted.n_dropped)
        assert other.spearman == pytest.approx(weighted.spearman, rel=1e-9)


def test_expected_spend_lies_between_a_customers_own_mean_and_that_of_all(drawn):
    fit = fit_spend(*drawn)
    x, z = drawn

    got, mean = fit.expected_spend(x, z), fit.population_mean
    own = np.where(x > 0, z, mean)
    assert ((got >= np.minimum(own, mean) - 1e-9) & (got <= np.maximum(own, mean) + 1e-9)).all()
    assert fit.expected_spend(10**6, 50.0) == pytest.approx(50, rel=1e-4)


def test_a_heavy_tail_has_no_mean():
    draw = np.random.default_rng(0)
    x, z = draw.poisson(2, 3000) + 1, draw.lognormal(3, 2.2, 3000)

    fit = fit_spend(x, z)

    assert fit.parameters["q"] < 1 and fit.notes == ("infinite mean",) and "median" in fit.sentence()
    for asked in (lambda: fit.expected_spend(1, 5.0), lambda: fit.population_mean):
        with pytest.raises(KpiError, match=r"infinite.*median.*cap"):
            asked()


def test_constant_spend_is_expected_again():
    fit = fit_spend([1, 2, 5, 0], [10.0, 10.0, 10.0, 0.0])

    assert fit.notes == ("constant",) and fit.population_mean == 10 and fit.n_dropped == 1
    assert fit.expected_spend([0, 3], [0, 10.0]) == pytest.approx(10)
    assert "same" in fit.sentence() and fit.to_json() and fit.html("vi")


@pytest.mark.parametrize(
    ("x", "z", "told"),
    [
        ([1, 2, 3], [5.0, -7.0, 0.0], r"2 of 3 rows \(the first: 1, 2.*mean value of 0 or less"),
        ([1, 2, 3], [5.0, np.nan, 3.0], r"1 of 3 rows.*mean value"),
        ([1, 2, 3], [5.0, np.inf, 3.0], r"1 of 3 rows.*mean value"),
        ([1, -2, 3], [5.0, 5.0, 3.0], "1 of 3 rows have a frequency"),
        ([1, np.nan, 3.5], [5.0, 5.0, 3.0], "2 of 3 rows have a frequency"),
        ([1, 2, 3], [5.0, 5.0], "as many"),
        ([0, 0], [0.0, 0.0], "Nobody bought again"),
    ],
)
def test_bad_rows_are_counted(x, z, told):
    with pytest.raises(KpiError, match=told):
        fit_spend(x, z)


def test_weights_must_be_positive():
    with pytest.raises(KpiError, match="weights"):
        fit_spend([1, 2], [5.0, 6.0], weights=[1, -1])


def test_predictions_refuse_the_same(drawn):
    with pytest.raises(KpiError, match="1 of 1 rows"):
        fit_spend(*drawn).expected_spend(2, -1)
