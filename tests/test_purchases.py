"""Models of purchases: published parameters, predictions to the last printed digit, laws, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from kpi_helpers.purchases import MODELS, PurchaseFit, fit_purchases

# Published: Fader, Hardie & Lee (2005), Marketing Science 24:275-284 (BG/NBD, Pareto/NBD); more digits: lifetimes 0.11.3
CDNOW = {
    "bg/nbd": ({"r": 0.242593, "alpha": 4.413532, "a": 0.792886, "b": 2.425753}, -9582.4256),
    "mbg/nbd": ({"r": 0.52484, "alpha": 6.18299, "a": 0.89136, "b": 1.61400}, -9582.1327),
    "pareto/nbd": ({"r": 0.55328, "alpha": 10.5776, "s": 0.60621, "beta": 11.6679}, -9594.9739),
}


@pytest.fixture(scope="module")
def cdnow(real_data):
    data = pd.read_csv(real_data("cdnow") / "cdnow_customers_summary.csv")
    return data["frequency"], data["recency"], data["T"]


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_the_published_ones(cdnow, model):
    fit = fit_purchases(*cdnow, model=model)

    parameters, log_likelihood = CDNOW[model]
    assert fit.parameters == pytest.approx(parameters, rel=1e-5)
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=1e-4)
    assert fit.gradient_norm < 1e-8


# mpmath with 40 digits, at parameters rounded as written
ROUNDED = {"r": 0.2426, "alpha": 4.4135, "a": 0.7929, "b": 2.4258}


@pytest.mark.parametrize(
    ("changed", "customer", "expected"),
    [
        ({}, (500, 38, 38.86), 9.220554936),
        ({}, (2000, 38.86, 38.86), 1374.3433),
        ({"a": 1.0}, (2, 30.43, 38.86), 1.1019769949),
    ],
)
def test_predictions_at_given_parameters(changed, customer, expected):
    fit = PurchaseFit.at("bg/nbd", ROUNDED | changed)

    places = len(str(expected).split(".")[1])
    assert fit.expected_purchases(39, *customer) == pytest.approx(expected, rel=1e-9, abs=0.6 * 10.0**-places)


def test_chances_add_up_to_the_expectation():
    for model, (parameters, _) in CDNOW.items():
        fit = PurchaseFit.at(model, parameters)
        chances = fit.chance_of(np.arange(1, 3000), 39, 26, 30.86, 31)
        assert chances.sum() == pytest.approx(float(fit.expected_purchases(39, 26, 30.86, 31)), rel=1e-8), model
