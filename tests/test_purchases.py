"""Models of purchases: published parameters, predictions to the last printed digit, laws, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import roots_genlaguerre, roots_sh_jacobi
from scipy.stats import beta as beta_law
from scipy.stats import nbinom

from kpi_helpers.errors import KpiError
from kpi_helpers.purchases import MODELS, PurchaseFit, fit_purchases, in_units

# Fader, Hardie & Lee (2005), Marketing Science 24:275-284, table 2 (BG/NBD, Pareto/NBD); further digits and MBG/NBD are
# those of lifetimes 0.11.3 on the published summary
CDNOW = {
    "bg/nbd": ({"r": 0.242593, "alpha": 4.413532, "a": 0.792886, "b": 2.425753}, -9582.4256),
    "mbg/nbd": ({"r": 0.52484, "alpha": 6.18299, "a": 0.89136, "b": 1.61400}, -9582.1327),
    "pareto/nbd": ({"r": 0.55328, "alpha": 10.5776, "s": 0.60621, "beta": 11.6679}, -9594.9739),
}
# mpmath with 40 digits, at these parameters as written
ROUNDED = {"r": 0.2426, "alpha": 4.4135, "a": 0.7929, "b": 2.4258}
CUSTOMERS = [(0, 0, 39), (1, 1.71, 38.86), (2, 30.43, 38.86), (26, 30.86, 31)]


@pytest.fixture(scope="module")
def cdnow(real_data):
    data = pd.read_csv(real_data("cdnow") / "cdnow_customers_summary.csv")
    return tuple(data[name].to_numpy(float) for name in ("frequency", "recency", "T"))


def at(model):
    return PurchaseFit.at(CDNOW[model][0], model=model)


def simulated(model, n, p, seed, longest=39.0, shortest=27.0):
    """Customers drawn as the model says; times are continuous."""
    draw = np.random.default_rng(seed)
    age, rate = draw.uniform(shortest, longest, n), draw.gamma(p[0], 1 / p[1], n)
    leave = draw.beta(p[2], p[3], n) if "bg" in model else draw.gamma(p[2], 1 / p[3], n)
    end = np.minimum(age, draw.exponential(size=n) / leave) if model == "pareto/nbd" else age
    x, t, now = np.zeros(n), np.zeros(n), np.zeros(n)
    on = np.flatnonzero(draw.random(n) > leave) if model == "mbg/nbd" else np.arange(n)
    while len(on):
        now[on] += draw.exponential(size=len(on)) / np.maximum(rate[on], 1e-300)
        on = on[now[on] < end[on]]
        x[on], t[on] = x[on] + 1, now[on]
        if "bg" in model:
            on = on[draw.random(len(on)) > leave[on]]
    return x, t, age


class TestPublished:
    @pytest.mark.parametrize("model", MODELS)
    def test_parameters(self, cdnow, model):
        fit = fit_purchases(*cdnow, model=model)

        parameters, log_likelihood = CDNOW[model]
        assert fit.parameters == pytest.approx(parameters, rel=1e-5)
        assert fit.log_likelihood == pytest.approx(log_likelihood, abs=1e-4)
        assert fit.gradient_norm < 1e-8
        assert (fit.n_customers, fit.n_rows, fit.notes) == (2357, 1016, ())
        assert fit.aic == pytest.approx(8 - 2 * log_likelihood, abs=1e-3)
        assert fit.bic == pytest.approx(4 * np.log(2357) - 2 * log_likelihood, abs=1e-3)

    def test_parameters_from_orders(self, real_data):
        names = ["master", "id", "date", "cds", "dollars"]
        orders = pd.read_csv(real_data("cdnow") / "CDNOW_sample.txt", sep=r"\s+", header=None, names=names)
        orders["date"] = pd.to_datetime(orders["date"].astype(str))
        days = orders[orders["date"] <= "1997-09-30"].groupby("id")["date"].agg(["min", "max", "nunique"])
        recency = (days["max"] - days["min"]).dt.days / 7
        age = (pd.Timestamp("1997-09-30") - days["min"]).dt.days / 7

        fit = fit_purchases(days["nunique"] - 1, recency, age)

        # CLVTools, tests/testthat/test_correctness_bgnbd.R; log-likelihood as in the data's README
        expected = {"r": 0.2425945, "alpha": 4.4136019, "a": 0.7929199, "b": 2.4258881}
        assert fit.parameters == pytest.approx(expected, rel=2e-5)  # that of CLVTools stops a little before the top
        assert fit.log_likelihood == pytest.approx(-9582.429207, abs=1e-5)

    @pytest.mark.parametrize(
        ("changed", "customer", "expected", "alive"),
        [
            ({}, (500, 38, 38.86), 9.220554936, 0.026799122),
            ({}, (2000, 38.86, 38.86), 1374.3433, None),
            ({"a": 1.0}, (2, 30.43, 38.86), 1.1019769949, None),
        ],
    )
    def test_bg_predictions(self, changed, customer, expected, alive):
        fit = PurchaseFit.at(ROUNDED | changed, model="bg/nbd")

        places = len(str(expected).split(".")[1])
        assert fit.expected_purchases(39, *customer) == pytest.approx(expected, rel=1e-9, abs=0.6 * 10.0**-places)
        if alive:
            assert fit.probability_alive(*customer) == pytest.approx(alive, abs=1e-9)

    def test_predictions_of_the_fit(self, cdnow):
        bg, pareto = fit_purchases(*cdnow), fit_purchases(*cdnow, model="pareto/nbd")

        two, many = (2, 30.43, 38.86), (26, 30.86, 31)  # the second: customer 1516 of Fader & Hardie
        assert bg.expected_purchases(39, *two) == pytest.approx(1.22591, abs=1e-5)
        assert bg.probability_alive(*two) == pytest.approx(0.72661, abs=1e-5)
        assert bg.expected_purchases(39, *many) == pytest.approx(20.7505, abs=2e-4)
        assert bg.probability_alive(*many) == pytest.approx(0.96892, abs=1e-5)
        assert pareto.expected_purchases(39, *two) == pytest.approx(1.45511, abs=1e-5)
        assert pareto.expected_purchases(39, *many) == pytest.approx(20.11573, rel=1e-5)
        assert pareto.probability_alive(*many) == pytest.approx(0.99791794, abs=1e-7)
        assert pareto.probability_alive(0, 0, 39) == pytest.approx(0.294277, abs=1e-6)
        assert pareto.expected_purchases(39, 0, 0, 39) == pytest.approx(0.106504, abs=2e-6)

    # log of the integral over the time of dropout with the factors before it, where 2F1 fails: mpmath
    @pytest.mark.parametrize(
        ("p", "customer", "expected"),
        [
            ((0.5, 0.1, 0.5, 500), (3000, 700, 730), 1351.676585),
            ((0.05, 0.5, 5, 1000), (500, 38, 38.86), 768.868575),
            ((0.05, 0.5, 5, 1000), (1000, 30, 38.86), 2475.699754),
        ],
    )
    def test_pareto_likelihood_where_the_hypergeometric_function_fails(self, p, customer, expected):
        assert likelihood("pareto/nbd", p, *customer) == pytest.approx(expected, abs=1e-5)


def likelihood(model, p, *customer):
    """Log-likelihood of one customer at given parameters."""
    from kpi_helpers.purchases import _objective

    x, t, age = (np.array([float(v)]) for v in customer)
    return -_objective(model, 0.0, x, x, t, age, np.ones(1), np.array([0]))(np.log(p))[0]


class TestDefinition:
    """Against integrals of the model as its papers define it, by scipy.integrate."""

    @pytest.mark.parametrize("customer", CUSTOMERS)
    @pytest.mark.parametrize("model", MODELS)
    def test_likelihood(self, model, customer):
        r, alpha, c, d = p = tuple(CDNOW[model][0].values())
        x, t, age = customer
        lam, share = roots_genlaguerre(150, r - 1)  # mean over the law of rates
        lam, share = lam / alpha, share / share.sum()
        buys = lambda y: share @ (lam**x * np.exp(-lam * y))  # noqa: E731
        if model == "pareto/nbd":
            mu, weight = roots_genlaguerre(150, c - 1)
            mu, weight = mu / d, weight / weight.sum()
            expected = buys(age) * (weight @ np.exp(-mu * age))
            expected += quad(lambda y: buys(y) * (weight @ (mu * np.exp(-mu * y))), t, age, epsrel=1e-11, epsabs=0)[0]
        else:
            leave, weight = roots_sh_jacobi(60, c + d - 1, c)
            weight, tosses = weight / weight.sum(), x + (model == "mbg/nbd")
            expected = buys(age) * (weight @ (1 - leave) ** tosses)
            expected += buys(t) * (weight @ (leave * (1 - leave) ** (tosses - 1))) if tosses else 0
        assert likelihood(model, p, *customer) == pytest.approx(np.log(expected), abs=1e-7)

    @pytest.mark.parametrize("customer", CUSTOMERS)
    @pytest.mark.parametrize("model", ["bg/nbd", "mbg/nbd"])
    def test_expectation_and_chance_of_a_geometric_dropout(self, model, customer):
        fit, (x, _t, age) = at(model), customer
        r, alpha, a, b = CDNOW[model][0].values()
        law = beta_law(a, b + x + (model == "mbg/nbd"))
        alive, n, rate = fit.probability_alive(*customer), r + x, alpha + age

        def mean(of):
            return quad(lambda u: of(law.ppf(u)), 0, 1, epsabs=1e-13, epsrel=1e-11, limit=500)[0]

        expected = alive * mean(lambda q: -np.expm1(-n * np.log1p(q * 39 / rate)) / q if q > 1e-12 else n * 39 / rate)
        assert fit.expected_purchases(39, *customer) == pytest.approx(expected, rel=1e-8)
        later = alive * mean(lambda q: (1 + q * 39 / rate) ** -n)
        assert fit.probability_alive(*customer, later=39) == pytest.approx(later, rel=1e-8)
        third = alive * nbinom(n, rate / (rate + 39)).sf(2) * mean(lambda q: (1 - q) ** 2)
        assert fit.chance_of(3, 39, *customer) == pytest.approx(third, rel=1e-8)

    @pytest.mark.parametrize("customer", CUSTOMERS)
    def test_expectation_and_chance_of_dropout_at_any_time(self, customer):
        fit, (x, t, age) = at("pareto/nbd"), customer
        r, alpha, s, beta = CDNOW["pareto/nbd"][0].values()
        n, top = r + x, (alpha + t) ** (r + x) * (beta + t) ** s

        def gone(y):
            return top * s * (alpha + y) ** -n * (beta + y) ** -(s + 1)

        stay = top * (alpha + age) ** -n * (beta + age) ** -s
        alive = stay / (stay + quad(gone, t, age, epsrel=1e-12)[0])
        assert fit.probability_alive(*customer) == pytest.approx(alive, rel=1e-9)
        kept = lambda u: ((beta + age) / (beta + age + u)) ** s  # noqa: E731
        expected = alive * n / (alpha + age) * quad(kept, 0, 39, epsrel=1e-12)[0]
        assert fit.expected_purchases(39, *customer) == pytest.approx(expected, rel=1e-9)
        reached = lambda u: nbinom(n, (alpha + age) / (alpha + age + u)).sf(2)  # noqa: E731
        dying = quad(lambda u: reached(u) * s * kept(u) / (beta + age + u), 0, 39, epsrel=1e-11)[0]
        assert fit.chance_of(3, 39, *customer) == pytest.approx(alive * (dying + kept(39) * reached(39)), rel=1e-8)

    @pytest.mark.parametrize("model", MODELS)
    def test_a_new_customer_is_one_of_the_simulation(self, model):
        p = tuple(CDNOW[model][0].values())
        x, *_ = simulated(model, 400_000, p, 5, longest=39.0, shortest=39.0)

        assert at(model).expected_new(39) == pytest.approx(x.mean(), abs=4 * x.std() / len(x) ** 0.5)


class TestLaws:
    @pytest.mark.parametrize("customer", [(0, 0, 0), *CUSTOMERS, (300, 38, 38.86)])
    @pytest.mark.parametrize("model", MODELS)
    def test_chances_add_up_to_the_expectation(self, model, customer):
        fit = at(model)

        chances = fit.chance_of(np.arange(1, 3000), 39, *customer)

        assert chances.sum() == pytest.approx(float(fit.expected_purchases(39, *customer)), rel=1e-8)
        assert (np.diff(chances) <= 1e-15).all()
        assert fit.chance_of(0, 39, *customer) == 1

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("factor", [7, 168, 604_800])
    def test_parameters_do_not_depend_on_the_unit(self, cdnow, model, factor):
        x, t, age = cdnow
        weeks, other = fit_purchases(x, t, age, model=model), fit_purchases(x, t * factor, age * factor, model=model)

        scale = np.where(np.isin(weeks.parameter, ["alpha", "beta"]), factor, 1)
        assert other.estimate == pytest.approx(weeks.estimate * scale, rel=1e-6)
        assert other.standard_error == pytest.approx(weeks.standard_error * scale, rel=1e-4)
        assert other.log_likelihood == pytest.approx(weeks.log_likelihood - x.sum() * np.log(factor), abs=1e-5)

    @pytest.mark.parametrize("model", MODELS)
    def test_weights_repeat_and_order_does_not_matter(self, cdnow, model):
        few = tuple(v[:300] for v in cdnow)
        w = np.arange(300) % 3 + 1
        order = np.random.default_rng(1).permutation(300)

        weighted = fit_purchases(*few, model=model, weights=w)
        repeated = fit_purchases(*(np.repeat(v, w) for v in few), model=model)
        mixed = fit_purchases(*(v[order] for v in few), model=model, weights=w[order])

        for other in (repeated, mixed):
            assert other.estimate == pytest.approx(weighted.estimate, rel=1e-7)
            assert other.standard_error == pytest.approx(weighted.standard_error, rel=1e-4)
            assert other.log_likelihood == pytest.approx(weighted.log_likelihood, rel=1e-12)

    def test_many_rows_end_where_few_do(self):
        data = simulated("bg/nbd", 20_000, tuple(ROUNDED.values()), 3)

        fit = fit_purchases(*data)

        assert fit.n_rows == 20_000 and fit.gradient_norm < 1e-8
        assert np.abs(np.log(np.array(fit.estimate) / list(ROUNDED.values()))).max() < 0.3
        assert np.array(fit.covariance) == pytest.approx(np.array(fit.covariance).T)

    def test_shrinkage_pulls_and_is_free_of_units(self, cdnow):
        x, t, age = cdnow
        free, weeks, days = (fit_purchases(x, t * k, age * k, shrink=s) for k, s in ((1, 0), (1, 50), (7, 50)))

        scale = age.max() / 10
        assert np.log(weeks.parameters["b"]) < np.log(free.parameters["b"])
        assert weeks.log_likelihood < free.log_likelihood
        assert (
            np.square(np.log(np.array(weeks.estimate) / [1, scale, 1, 1])).sum()
            < np.square(np.log(np.array(free.estimate) / [1, scale, 1, 1])).sum()
        )
        assert days.estimate == pytest.approx(np.array(weeks.estimate) * [1, 7, 1, 1], rel=1e-6)
        few = fit_purchases(x[:400], t[:400], age[:400], shrink=50)
        own = sum(likelihood("bg/nbd", few.estimate, *row) for row in zip(x[:400], t[:400], age[:400], strict=True))
        assert few.log_likelihood == pytest.approx(own, rel=1e-9)  # the penalty is no part of it

    def test_intervals_cover(self):
        truth = np.array([0.243, 4.414, 0.793, 2.426])  # CDNOW's size and parameters; the 99% band of 500 sets
        held = np.zeros(4)
        for seed in range(500):
            fit = fit_purchases(*simulated("bg/nbd", 2357, truth, seed))
            held += (np.array(fit.low) <= truth) & (truth <= np.array(fit.high))

        assert ((held / 500 > 0.924) & (held / 500 < 0.974)).all(), held / 500

    @pytest.mark.parametrize("model", MODELS)
    def test_standard_errors_are_the_curvature_of_the_likelihood(self, cdnow, model):
        fit, h = fit_purchases(*cdnow, model=model), 1e-3
        theta = np.log(fit.estimate)

        def total(*steps):
            from kpi_helpers.purchases import _objective

            x, t, age = cdnow
            counts, kind = np.unique(x, return_inverse=True)
            return -2357 * _objective(model, 0.0, counts, x, t, age, np.ones(2357), kind)(theta + sum(steps))[0]

        e = np.eye(4) * h
        bent = [[total(u, v) - total(u, -v) - total(-u, v) + total(-u, -v) for v in e] for u in e]
        covariance = np.linalg.inv(-np.array(bent) / (4 * h * h))
        assert np.sqrt(np.diag(covariance)) * fit.estimate == pytest.approx(np.array(fit.standard_error), rel=1e-3)

    @pytest.mark.parametrize("model", MODELS)
    def test_nothing_is_expected_of_no_time(self, model):
        x, t, age = np.array(CUSTOMERS).T
        assert at(model).expected_purchases(0, x, t, age) == pytest.approx(0, abs=1e-15)
        assert at(model).chance_of(1, 0, x, t, age) == pytest.approx(0, abs=1e-15)
        assert at(model).probability_alive(x, t, age) == pytest.approx(at(model).probability_alive(x, t, age, later=0))

    @pytest.mark.parametrize(("model", "name"), [("bg/nbd", "a"), ("mbg/nbd", "a"), ("pareto/nbd", "s")])
    def test_nothing_jumps_where_the_dropout_parameter_is_one(self, model, name):
        near = [PurchaseFit.at(CDNOW[model][0] | {name: 1 + d}, model=model) for d in (-1e-5, -1e-6, 0, 1e-6, 1e-5)]

        got = np.array([[fit.expected_purchases(39, *c) for c in [(0, 0, 0), *CUSTOMERS]] for fit in near])

        assert np.abs(np.diff(got, axis=0)).max() < 2e-5 * got.max()
        assert got[2] == pytest.approx((got[1] + got[3]) / 2, rel=1e-9)

    def test_nothing_jumps_where_a_and_b_add_up_to_one(self):
        for b in (0.2071, 0.2071 + 1e-6, 0.2071 - 1e-6, 0.1):
            fit = PurchaseFit.at(ROUNDED | {"b": b}, model="bg/nbd")
            total = fit.chance_of(np.arange(1, 4000), 39, 0, 0, 0).sum()
            assert fit.expected_new(39) == pytest.approx(total, rel=1e-7)

    @pytest.mark.parametrize("x", [0, 1, 500, 2000, 5000])
    @pytest.mark.parametrize("model", MODELS)
    def test_extreme_customers_have_finite_answers(self, model, x):
        got = at(model).expected_purchases(39, x, 38.86 * (x > 0), 38.86)
        assert 0 <= got <= (x + 1) * 39 / 38.86 and np.isfinite(at(model).probability_alive(x, x and 1e-3, 38.86))


class TestBadInput:
    def fit(self, x=(0, 1, 3, 2), t=(0, 5, 20, 9), age=(39, 39, 30, 30), **how):
        return fit_purchases(x, t, age, **how)

    @pytest.mark.parametrize(
        ("broken", "told"),
        [
            ({"t": (0, np.nan, 20, 9)}, r"1 of 4 rows \(the first: 1, counted from 0\) lack a value"),
            ({"age": (np.inf, 39, 30, 30)}, "lack a value"),
            ({"x": (0, -1, 3, 2.9)}, r"2 of 4 rows \(the first: 1, 3.*not 0, 1, 2"),
            ({"t": (0, -5, 20, 9)}, "time below 0"),
            ({"t": (0, 5, 31, 9)}, r"1 of 4 rows \(the first: 2.*recency > age"),
            ({"t": (4, 5, 20, 9)}, "recency but no repeat purchase"),
            ({"t": (0, 0, 20, 9)}, "repeat purchase at time 0. Count purchases of one period as one"),
            ({"x": (0, 1, 3)}, r"\[3, 4, 4\] rows"),
            (
                {"x": (0,) * 4, "t": (0,) * 4},
                "None of 4 customers bought again in 138 of time.*What can be said.*0.022",
            ),
            ({"weights": (1, 0, 1, 1)}, "weights must be above 0"),
            ({"weights": (1, np.nan, 1, 1)}, "weights must be above 0"),
            ({"weights": (1, 1)}, "one a row"),
            ({"model": "pareto"}, "Did you mean pareto/nbd"),
            ({"unit": "fortnight"}, "unit='fortnight'.*day, week"),
            ({"shrink": -1}, "shrink=-1"),
        ],
    )
    def test_fit_says_what_is_wrong(self, broken, told):
        with pytest.raises(KpiError, match=told):
            self.fit(**broken)

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("customer", [(2, 40, 39), (0, 3, 39), (2, 0, 39), (1.5, 3, 39), (np.nan, 3, 39)])
    def test_predictions_refuse_the_same(self, model, customer):
        with pytest.raises(KpiError, match="1 of 1 rows"):
            at(model).expected_purchases(39, *customer)
        with pytest.raises(KpiError, match="1 of 1 rows"):
            at(model).chance_of(1, 39, *customer)

    @pytest.mark.parametrize("horizon", [-1, np.nan, np.inf, "39", "soon", "2 fortnights", "-3 weeks"])
    def test_horizon_is_a_time(self, horizon):
        fit = PurchaseFit.at(ROUNDED, model="bg/nbd", unit="week")
        with pytest.raises(KpiError, match=r"time"):
            fit.expected_purchases(horizon, 2, 30.43, 38.86)

    def test_words_need_the_unit_of_the_data(self):
        with pytest.raises(KpiError, match="needs the unit of the data"):
            PurchaseFit.at(ROUNDED, model="bg/nbd").expected_new("39 weeks")

        assert PurchaseFit.at(ROUNDED, model="bg/nbd", unit="week").expected_new("39 weeks") == PurchaseFit.at(
            ROUNDED, model="bg/nbd"
        ).expected_new(39)
        assert in_units("1 year", "day") == 365.25
        assert in_units("2 Quarters", "month") == pytest.approx(6)
        assert in_units("1.5 weeks", "day") == 10.5

    @pytest.mark.parametrize("model", MODELS)
    def test_nobody_leaves(self, model):
        draw = np.random.default_rng(2)
        x = draw.poisson(draw.gamma(2, 1.0, 3000))

        fit = fit_purchases(x, np.where(x > 0, 39.0, 0.0), np.full(3000, 39.0), model=model)

        assert fit.notes == ("no dropout",) and "NBD" in fit.sentence() and "NBD" in fit.sentence("vi")
        assert np.isfinite(fit.log_likelihood)
        assert fit.expected_purchases(39, 3, 39, 39) == pytest.approx(
            (fit.estimate[0] + 3) / (fit.estimate[1] + 39) * 39, rel=0.01
        )

    @pytest.mark.parametrize("model", MODELS)
    def test_an_outlier_is_told(self, cdnow, model):
        x, t, age = cdnow
        fit = fit_purchases(np.append(x, 5000), np.append(t, 38.0), np.append(age, 38.86), model=model)

        assert fit.notes == ("outlier",) and "resellers" in fit.sentence()

    @pytest.mark.parametrize("model", MODELS)
    def test_two_customers_are_too_few_but_do_not_crash(self, model):
        fit = fit_purchases([1, 0], [3, 0], [10, 10], model=model)

        assert np.isfinite(fit.log_likelihood)
        assert fit.to_json()["rows"][0]["parameter"] == "r" and fit.html() and fit.html("vi")

    def test_chance_of_part_of_a_purchase_is_refused(self):
        with pytest.raises(KpiError, match="whole number"):
            at("bg/nbd").chance_of(1.5, 39, 0, 0, 39)
