"""Inputs on which other libraries return NaN, infinity or a silently wrong answer, through the doors `clv` and `churn`.

Rows of ../shared/reference/clv_churn.md, section 5 (measured with lifetimes 0.11.3 and pymc-marketing 0.19.2), one id
each, and the bad input of the issue. Published values and laws of the models are in the tests of each module.
"""

import warnings

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import churn, clv
from kpi_helpers.errors import KpiError

MODELS = ("bg/nbd", "mbg/nbd", "pareto/nbd")
TRUE = {"r": 0.2426, "alpha": 4.4135, "a": 0.7929, "b": 2.4258}


@pytest.fixture(scope="module")
def customers():
    """x, t_x, T of 1,500 customers who buy at gamma rates until they leave at gamma rates, as Pareto/NBD has it."""
    draw, n = np.random.default_rng(4), 1500
    x, t, age = np.zeros(n), np.zeros(n), draw.integers(20, 40, n) * 1.0
    rate, now, on = draw.gamma(0.8, 1 / 6, n), np.zeros(n), np.arange(n)
    end = np.minimum(age, draw.exponential(size=n) / draw.gamma(0.8, 1 / 12, n))
    while len(on):
        now[on] += draw.exponential(size=len(on)) / rate[on]
        on = on[now[on] < end[on]]
        x[on], t[on] = x[on] + 1, now[on]
    return x, t, age


def orders(*rows, **columns):
    frame = pd.DataFrame(rows, columns=["customer_id", "ordered_at", "revenue"])
    return frame.assign(ordered_at=pd.to_datetime(frame["ordered_at"]), **columns)


def shop(**columns):
    """60 customers of 1 to 5 orders."""
    days = pd.date_range("2026-01-01", periods=5, freq="9D")
    return orders(*((f"c{i}", day, 10.0 + i) for i in range(60) for day in days[: 1 + i % 5]), **columns)


def fit(rows, model="bg/nbd", **how):
    return clv.fit_purchases(*rows, model=model, **how)


def spent(*given):
    return clv.fit_spend(*given)


def issues(frame, **how):
    found = clv.summarise(frame, **how)
    return dict(zip(found.issues.what, found.issues.n, strict=True)) if len(found.issues.frame) else {}


def with_row(customers, *row):
    return [np.append(v, value) for v, value in zip(customers, row, strict=True)]


# --- what must be refused: where peers fit, impute or print ------------------------------------------------------
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("row", "told"),
    [
        pytest.param((1, np.nan, 38), "lack a value", id="4 NaN recency"),
        pytest.param((-1, 3, 38), "not 0, 1, 2", id="5 frequency -1"),
        pytest.param((2.9, 3, 38), "not 0, 1, 2", id="5 frequency 2.9"),
        pytest.param((np.nan, 3, 38), "lack a value", id="5 NaN frequency"),
        pytest.param((2, 39, 38), "recency > age", id="6 t_x > T"),
        pytest.param((0, 3, 38), "a recency but no repeat purchase", id="7 x = 0, t_x > 0"),
        pytest.param((2, 0, 38), "repeat purchase at time 0", id="8 x > 0, t_x = 0"),
    ],
)
def test_an_impossible_customer_is_named_by_fit_and_forecast(customers, model, row, told, capsys):
    known = clv.PurchaseFit.at(fit(customers, model).parameters, model=model)

    with pytest.raises(KpiError, match=rf"1 of 1501 rows \(the first: 1500, counted from 0\).*{told}"):
        fit(with_row(customers, *row), model)
    for asked in (known.probability_alive, lambda *v: known.expected_purchases(39, *v)):
        with pytest.raises(KpiError, match=told):
            asked(*row)
    assert capsys.readouterr().out == ""  # row 23: nothing is printed


REFUSED = {
    "3 nobody bought again": (lambda: fit(([0] * 50, [0] * 50, [39] * 50), unit="week"), "0.0015 a week each"),
    "3 nor was watched": (lambda: fit(([0, 0], [0, 0], [0, 0])), r"in 0 of time.*Wait\."),
    "14 infinite mean spend": (
        lambda: spent(np.random.default_rng(0).poisson(2, 3000) + 1, np.random.default_rng(0).lognormal(3, 2.2, 3000))
        .expected_spend(1, 5.0), "mean spend is infinite. Use its median, or cap"),
    "15 nobody has a value": (lambda: spent([0, 0], [0.0, 0.0]), "Nobody bought again"),
    "16 value below 0": (lambda: spent([1, 2], [5.0, -7.0]), "1 of 2 rows.*Net refunds by day"),
    "21 freq of pandas": (lambda: issues(shop(), unit="M"), "unit='M' is not known. Known are day, week, month"),
    "no revenue": (lambda: clv.fit_models(clv.summarise(shop().drop(columns="revenue"))), "customers cannot be valued"),
    "one date in the future": (lambda: issues(pd.concat([shop(), orders(("z", "2062-01-01", 1.0))])),
                               "between 2026-02-06 and 2062-01-01: .*Give end="),
    "two dates in the future": (
        lambda: issues(pd.concat([shop(), orders(("z", "2062-01-01", 1.0), ("y", "2062-02-01", 1.0))])),
        "between 2026-02-06 and 2062-01-01: .*Give end="),
    "a date of 1970": (lambda: issues(pd.concat([shop(), orders(("z", "1970-01-01", 1.0))])),
                       "between 1970-01-01 and 2026-01-01: a wrong date"),
    "currencies mixed": (lambda: issues(shop(currency=["VND", "USD"] * 90)), "Orders in USD, VND do not add up"),
    "churn of nobody": (lambda: churn.snapshot(shop(), "2025-12-01", outcome_days=9), "No order is of 2025-12-01 or"),
    "churn not known yet": (lambda: churn.snapshot(shop(), "2026-02-01"), "known from orders up to 2026-05-02, but"),
    "a feature twice": (lambda: churn.fit_churn(
        pd.DataFrame({"churned": [0, 1, 0, 1], "a": [1, 2, 3, 1.0], "b": [2, 4, 6, 2.0]}), features=["a", "b"]),
        "^b: each follows from the others"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused_in_words(case):
    asked, told = REFUSED[case]

    with pytest.raises(KpiError, match=told):
        asked()


# --- what has an answer: where peers fail, or answer wrongly -----------------------------------------------------
@pytest.mark.parametrize("model", MODELS)
def test_1_parameters_scale_with_the_unit_and_not_with_a_prior(customers, model):
    x, t, age = customers
    weeks, seconds = fit(customers, model), fit((x, t * 604_800, age * 604_800), model)

    scale = np.where(np.isin(weeks.parameter, ["alpha", "beta"]), 604_800, 1)
    assert seconds.estimate == pytest.approx(np.array(weeks.estimate) * scale, rel=1e-6)
    assert seconds.log_likelihood == pytest.approx(weeks.log_likelihood - x.sum() * np.log(604_800), abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_2_fits_are_of_maximum_likelihood_unless_shrinkage_is_asked_for(customers, model):
    free, shrunk = fit(customers, model), fit(customers, model, shrink=20)

    assert free.log_likelihood > shrunk.log_likelihood and free.gradient_norm < 1e-8
    assert free.aic == pytest.approx(8 - 2 * free.log_likelihood)


@pytest.mark.parametrize("model", MODELS)
def test_9_without_dropout_the_fit_says_so_and_is_finite(model):
    draw = np.random.default_rng(2)
    x = draw.poisson(draw.gamma(2, 1.0, 2000))
    found = fit((x, np.where(x > 0, 39.0, 0.0), np.full(2000, 39.0)), model)

    assert found.notes == ("no dropout",) and np.isfinite(found.log_likelihood)
    assert found.expected_purchases([39, 4000], 3, 39, 39) == pytest.approx(
        (found.estimate[0] + 3) / (found.estimate[1] + 39) * np.array([39, 4000]), rel=0.02
    )


# mpmath 1.3, 60 digits, of the textbook form c / (a - 1) (1 - (1 - z)^r 2F1(r, b + k; c; z)); the last by its limit
HARD = {
    "10 x = 2000": (TRUE, (39, 2000, 38.86, 38.86), 1374.3432767484317, 1e-9),
    "11 a = 1": (TRUE | {"a": 1.0}, (39, 2, 30.43, 38.86), 1.1019769949, 1e-9),
    "long horizon, seldom left": (
        {"r": 3.0, "alpha": 1.0, "a": 6.0, "b": 253.0},
        (19, 0, 0, 0),
        29.850903573283049,
        1e-9,
    ),
    "all leave alike": ({"r": 2.0, "alpha": 4.0, "a": 4e5, "b": 8e5}, (52, 0, 0, 0), None, 1e-5),
}


@pytest.mark.parametrize("case", HARD)
def test_forecasts_are_right_where_the_hypergeometric_function_is_not(case):
    parameters, asked, expected, near = HARD[case]
    horizon, *customer = asked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = float(clv.PurchaseFit.at(parameters, model="bg/nbd").expected_purchases(horizon, *customer))

    if expected is None:  # one chance of leaving p for all: (1 - E exp(-rate p t)) / p
        r, alpha, a, b = parameters.values()
        p = a / (a + b)
        expected = (1 - (alpha / (alpha + p * horizon)) ** r) / p
    assert found == pytest.approx(expected, rel=near)


@pytest.mark.parametrize("s", [1.0, 1 - 1e-9, 1 + 1e-9])
def test_11_pareto_at_s_one_is_its_limit(s):
    at = clv.PurchaseFit.at({"r": 0.55, "alpha": 10.6, "s": s, "beta": 11.7}, model="pareto/nbd")
    alive = at.probability_alive(2, 30.43, 38.86)

    known = alive * (0.55 + 2) / (10.6 + 38.86) * (11.7 + 38.86) * np.log((11.7 + 38.86 + 39) / (11.7 + 38.86))
    assert at.expected_purchases(39, 2, 30.43, 38.86) == pytest.approx(known, rel=1e-7)


@pytest.mark.parametrize("p", [(0.5, 0.1, 0.5, 500.0), (0.05, 0.5, 5.0, 1000.0)])
@pytest.mark.parametrize("customer", [(500, 38, 38.86), (1000, 30, 38.86), (3000, 700, 730)])
def test_12_pareto_is_finite_for_a_small_alpha_and_many_purchases(p, customer):
    at = clv.PurchaseFit.at(dict(zip(("r", "alpha", "s", "beta"), p, strict=True)), model="pareto/nbd")

    assert 0 <= at.probability_alive(*customer) <= 1
    assert 0 <= at.expected_purchases(39, *customer) <= 39 * (customer[0] + 1) / customer[2]


@pytest.mark.parametrize("model", MODELS)
def test_13_an_outlier_is_told(customers, model):
    assert "outlier" in fit(with_row(customers, 5000, 38, 39), model).notes


def test_15_customers_without_a_repeat_purchase_are_dropped_and_expected_at_the_mean():
    found = spent([0, 1, 2, 3, 0], [0.0, 5.0, 9.0, 3.0, np.nan])

    assert found.n_dropped == 2 and found.expected_spend(0, np.nan) == found.population_mean


def test_16_refunds_are_netted_by_day_and_counted():
    frame = orders(("a", "2026-01-01", 10.0), ("a", "2026-01-05", 10.0), ("a", "2026-01-05", -10.0),
                   ("b", "2026-01-02", 5.0), ("b", "2026-01-09", -7.0), ("b", "2026-01-12", 5.0))  # fmt: skip

    assert issues(frame) == {"refunds": 2, "merged": 1, "void": 2}
    rows = clv.summarise(frame, unit="day").rows
    assert rows[["frequency", "recency", "weight"]].to_numpy().tolist() == [[0, 0, 1], [1, 10, 1]]


@pytest.mark.parametrize(("spread", "note"), [(0.0, "constant"), (1e-3, "edge")])
def test_17_constant_spend_goes_through_to_the_value_of_customers(spread, note):
    past = clv.summarise(shop().eval(f"revenue = 10 + {spread} * (revenue % 7)"))
    purchases, spend = clv.fit_models(past, "mbg/nbd")
    valued = clv.value(past, purchases, spend, discount=0.0)

    assert spend.population_mean == pytest.approx(10, abs=10 * spread) and note in spend.notes
    total = valued.segments().total
    assert total["clv"] == pytest.approx(10 * total["purchases"], rel=1e-3) and np.isfinite(total["clv"])


def test_17_customers_who_spend_nearly_alike_have_a_value():
    past = clv.summarise(shop())
    alike = clv.SpendFit.at({"p": 1.1288921917873334, "q": 646784.129843303, "gamma": 5.7e6}, notes=("edge",))

    total = clv.value(past, clv.fit_models(past, "mbg/nbd")[0], alike, discount=0.0).segments().total
    assert total["clv"] > 9 * total["purchases"]  # an engine that reads these as decimals has no room for their product


@pytest.mark.parametrize("factor", [1e6, 1e-4])
def test_18_amounts_of_any_size_change_gamma_alone(factor):
    one, other = (clv.fit_models(clv.summarise(shop().eval(f"revenue = revenue * {k}")))[1] for k in (1, factor))

    assert other.estimate == pytest.approx(np.array(one.estimate) * [1, 1, factor], rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_19_20_22_errors_are_symmetric_known_and_above_zero(customers, model):
    found = fit(customers, model)
    covariance = np.array(found.covariance)

    assert covariance == pytest.approx(covariance.T) and (np.linalg.eigvalsh(covariance) > 0).all()
    assert list(found.standard_errors.values()) == pytest.approx(np.sqrt(np.diag(covariance)) * found.estimate)
    assert (np.array(found.low) > 0).all()
    assert np.array(found.low) * found.high == pytest.approx(np.square(found.estimate))  # even on the scale of logs


def test_21_a_holdout_without_buyers_is_zeros():
    compared = clv.compare_models(clv.summarise(shop(), split="2026-03-01", end="2026-06-30"), ["bg/nbd"])

    assert compared.actual == 0 and np.isfinite(compared.frame["predicted"]).all() and compared.sentence()
    assert issues(shop(), unit="month") == {} and clv.summarise(shop(), unit="month").rows["age"].max() == 36 / 30.4375


# --- the bad input of the issue that has an answer ----------------------------------------------------------------
def test_an_order_a_second_is_one_purchase_and_told():
    seconds = pd.date_range("2026-01-03", periods=5000, freq="s")

    assert issues(pd.concat([shop(), orders(*(("s", at, 1.0) for at in seconds))])) == {"merged": 4999, "mad": 1}


def test_order_ids_that_repeat_are_counted():
    assert issues(shop(order_id="1")) == {"lines": 179, "shared": 1}


def test_wrong_dates_ahead_are_left_out_by_an_end():
    assert issues(pd.concat([shop(), orders(("z", "2062-01-01", 1.0))]), end="2026-03-01") == {"late": 1}


def test_of_customers_who_all_bought_once_the_rest_can_still_be_said():
    once = orders(*((f"c{i}", f"2026-0{1 + i % 3}-0{1 + i % 9}", 10.0 + i) for i in range(90)))
    past = clv.summarise(once)

    with pytest.raises(KpiError, match=r"None of 90 customers bought again.*What can be said: less than"):
        clv.fit_models(past)
    assert clv.rfm(past).frame["n"].sum() == 90 and clv.lifecycle(once).new == (30, 30, 30)
    assert clv.lifecycle(once).frame["current"].sum() == 0
