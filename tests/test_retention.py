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


def test_cohorts_of_different_ages_add_up():
    one, many = fit_retention(HIGH_END), fit_retention([HIGH_END, HIGH_END])
    young = fit_retention([HIGH_END, REGULAR[:4], [500, 400]])

    assert many.parameters == pytest.approx(one.parameters, rel=1e-6)
    assert many.log_likelihood == pytest.approx(2 * one.log_likelihood, rel=1e-9)
    assert many.standard_errors["alpha"] == pytest.approx(one.standard_errors["alpha"] / np.sqrt(2), rel=1e-4)
    assert young.observed[0] == pytest.approx((869 + 631 + 400) / 2500)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, alpha, beta, hits = np.random.default_rng(11), 0.8, 3.0, []
    truth = np.cumprod((beta + np.arange(12)) / (alpha + beta + np.arange(12)))
    for _ in range(200):
        ends = rng.geometric(rng.beta(alpha, beta, 2000))
        fit = fit_retention([int((ends > t).sum()) for t in range(8)])
        low, high = (fit.frame[c].to_numpy() for c in ("low", "high"))
        far = fit.forecast(12).frame.iloc[-1]
        hits.append(
            [*((low < (alpha, beta)) & ((alpha, beta) < high)), far.survival_low < truth[-1] < far.survival_high]
        )

    assert ((np.mean(hits, axis=0) >= 0.91) & (np.mean(hits, axis=0) <= 0.985)).all()


def test_forecast_is_the_recursion_of_the_paper_and_its_interval_the_delta_method():
    fit = fit_retention(HIGH_END)
    a, b = fit.estimate
    told = fit.forecast(12).frame
    survival_at = lambda a, b, t: np.exp(betaln(a, b + t) - betaln(a, b))  # noqa: E731
    t, step = told["period"].to_numpy(), 1e-5

    logit = [np.log(s / (1 - s)) for s in (survival_at(a * np.exp(x), b * np.exp(y), t) for x, y in
             [(step, 0), (-step, 0), (0, step), (0, -step)])]  # fmt: skip
    slope = np.array([logit[0] - logit[1], logit[2] - logit[3]]) / (2 * step)
    half = 1.959963984540054 * np.sqrt(np.einsum("it,ij,jt->t", slope, fit.covariance, slope))
    s = survival_at(a, b, t)

    assert told["survival"].to_numpy() == pytest.approx(s, rel=1e-9)
    assert told["retention"].to_numpy() == pytest.approx(s / np.array([1, *s[:-1]]), rel=1e-9)
    assert told["survival_low"].to_numpy() == pytest.approx(1 / (1 + (1 - s) / s * np.exp(half)), rel=1e-6)
    assert (np.diff(told["retention"]) > 0).all()  # though nobody changes
    assert told["observed"].isna().sum() == 5


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([1000, 900, 950], "rise: nobody joins"),
        ([1000, 900], "three counts"),
        ([], "three counts"),
        ([1000, -1, -2], "whole numbers from 0"),
        ([1000, 900.5, 800], "whole numbers from 0"),
        ([1000, np.nan, 800], "whole numbers from 0"),
        ([1000, 1000, 1000], "nobody is known to have left after the first"),
        ([1000, 500, 500, 500], "nobody is known to have left after the first"),
        ([0, 0, 0], "nobody is known to have left after the first"),
        ([1000, 800, 640, 512], "does not rise with age.*20.00%"),
        ([1000, 900, 700, 300], "does not rise with age"),
        ([100, 50, 0], "does not rise with age"),
    ],
)
def test_counts_that_tell_nothing_are_refused(counts, told):
    with pytest.raises(KpiError, match=told):
        fit_retention(counts)


def test_nearly_equal_customers_are_fitted():
    fit = fit_retention([10**6, 800_001, 640_202, 512_803])

    assert fit.parameters["alpha"] / (fit.parameters["alpha"] + fit.parameters["beta"]) == pytest.approx(0.2, abs=0.01)
    assert np.isfinite(fit.frame[["low", "high"]].to_numpy()).all()


# --- survival


# Freireich et al. (1963), Blood 21:699-716: weeks of remission in leukaemia, 6-MP against placebo, as in every textbook
MP6 = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
MP6_ENDED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
WEEKS, ENDED, ARM = MP6 + PLACEBO, MP6_ENDED + [1] * 21, ["6-MP"] * 21 + ["placebo"] * 21


def test_leukaemia_log_rank_and_medians():
    told = survival(WEEKS, ENDED, groups=ARM)

    assert told.chi2 == pytest.approx(16.79, abs=0.005)  # Kleinbaum & Klein, Survival Analysis, chapter 2
    assert told.chi2 == pytest.approx(survdiff(np.array(WEEKS), np.array(ENDED), np.array(ARM))[0], rel=1e-9)
    assert (told.df, told.medians["median"].tolist()) == (1, [23, 8])
    assert told.medians["n"].tolist() == [21, 21] and told.medians["events"].tolist() == [9, 21]


def test_leukaemia_curve_by_hand():
    told = survival(MP6, MP6_ENDED).frame.set_index("time")["survival"]

    assert told[6] == pytest.approx(18 / 21)
    assert told[10] == pytest.approx(18 / 21 * 16 / 17 * 14 / 15)
    assert told[35] == pytest.approx(18 / 21 * 16 / 17 * 14 / 15 * 11 / 12 * 10 / 11 * 6 / 7 * 5 / 6)


@pytest.mark.parametrize("scale", [1, 0.37, 1000])
def test_survival_and_log_rank_match_statsmodels(scale):
    rng = np.random.default_rng(3)
    t, e, g, w = (
        rng.integers(0, 30, 500) * scale,
        rng.random(500) < 0.6,
        rng.integers(0, 4, 500),
        rng.integers(1, 4, 500),
    )

    told = survival(t, e, groups=g, weights=w)
    chi2, p = survdiff(np.repeat(t, w), np.repeat(e, w).astype(int), np.repeat(g, w))

    assert (told.chi2, told.p_value, told.df) == (pytest.approx(chi2, rel=1e-9), pytest.approx(p, rel=1e-9), 3)
    for group, own in told.frame.groupby("group"):
        mine = g == int(group)
        expected = SurvfuncRight(np.repeat(t[mine], w[mine]), np.repeat(e[mine], w[mine]).astype(int))
        seen = own[own["events"] > 0]
        assert seen["time"].to_numpy() == pytest.approx(expected.surv_times)
        assert seen["survival"].to_numpy() == pytest.approx(expected.surv_prob)
        assert seen["at_risk"].to_numpy() == pytest.approx(expected.n_risk)


def test_order_types_and_repetition_change_nothing():
    t, e, g = np.array(WEEKS), np.array(ENDED), np.array(ARM)
    one = survival(t, e, groups=g)
    turned = survival(pd.Series(t[::-1].astype(float)), pd.Series(e[::-1] == 1), groups=pd.Series(g[::-1]))
    double = survival(t, e, groups=g, weights=np.full(42, 2))

    pd.testing.assert_frame_equal(one.frame, turned.frame, check_dtype=False)
    assert double.survival == pytest.approx(one.survival)
    assert double.at_risk == tuple(2 * n for n in one.at_risk)


def test_log_rank_without_information_has_no_p_value():
    assert np.isnan(survival([1, 2], [0, 0], groups=["a", "b"]).p_value)
    assert np.isnan(survival([1, 2], [1, 1]).p_value)
    assert np.isnan(survival([1, 9], [0, 1], groups=["a", "b"]).p_value)  # nobody of a is there when b leaves


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([1, np.nan, -1], [1, 1, 1]), "durations: 2 are missing or below 0"),
        (([1, 2], [1, 2]), "observed: 1 are missing or neither"),
        (([1, 2], ["yes", "no"]), "observed: 2 are missing or neither"),
        (([1, 2], [1, np.nan]), "observed: 1 are missing"),
        (([1, 2], [1]), "all need as many"),
        (([], []), "all need as many"),
        ((["a"], [1]), "Give numbers of days or months"),
    ],
)
def test_bad_rows_are_counted(given, told):
    with pytest.raises(KpiError, match=told):
        survival(*given)


def test_bad_weights_and_groups_are_counted():
    with pytest.raises(KpiError, match="weights: 1 are missing or below 0"):
        survival([1, 2], [1, 1], weights=[-1, 2])
    with pytest.raises(KpiError, match="groups: 1 are missing"):
        survival([1, 2], [1, 1], groups=["a", None])


def test_results_show_themselves():
    fit = fit_retention(HIGH_END)
    for result in (fit, fit.forecast(9), survival(WEEKS, ENDED, groups=ARM), survival(WEEKS, ENDED)):
        for language in ("en", "vi"):
            assert "nan" not in result.html(language).lower().replace("finance", "")
    assert "6-MP 23.0, placebo 8.0" in repr(survival(WEEKS, ENDED, groups=ARM))
    assert '<svg class="wide"' in survival(WEEKS, ENDED, groups=ARM).html()
    assert survival([1, 2, 3], [0, 0, 1], weights=[5, 5, 1]).sentence().endswith("3.0.")


# --- real customers: numbers from the README of the data


@pytest.fixture(scope="module")
def telco(real_data):
    return pd.read_csv(real_data("telco-churn") / "Telco-Customer-Churn.csv.gz").assign(
        left=lambda t: t["Churn"] == "Yes"
    )


def test_telco_survival_by_contract(telco):
    told = survival(telco["tenure"], telco["left"], groups=telco["Contract"])
    medians = told.medians.set_index("group")
    share = medians["events"] / medians["n"]

    assert medians["events"].sum() / medians["n"].sum() == pytest.approx(0.26537, abs=5e-6)
    assert share.round(4).tolist() == [0.4271, 0.1127, 0.0283]
    assert told.frame.groupby("group")["at_risk"].max().sum() == 7043 and (telco["tenure"] == 0).sum() == 11
    chi2, _p = survdiff(telco["tenure"].to_numpy(), telco["left"].astype(int).to_numpy(), telco["Contract"].to_numpy())
    assert told.chi2 == pytest.approx(chi2, rel=1e-9) and told.p_value < 1e-300
    assert told.df == 2
