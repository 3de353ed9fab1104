"""`kpi_helpers.hazards`: person-periods, discrete-time hazard, Cox."""

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from kpi_helpers.errors import KpiError
from kpi_helpers.hazards import fit_cox, fit_hazard, person_periods


def simulated(n=20_000, seed=5):
    """Months lived under log(-log(1 - h)) = base[t] + 0.7 [plan b] - 0.5 age + 0.4 [price rise from month 3 on]."""
    rng = np.random.default_rng(seed)
    plan, age, base = rng.choice(["a", "b"], n), rng.integers(0, 3, n), [-2.0, -2.5, -2.2, -2.8, -2.4, -2.6]
    rows, alive = [], np.ones(n, bool)
    for t, level in enumerate(base):
        eta = level + 0.7 * (plan == "b") - 0.5 * age + 0.4 * (t >= 3) * (plan == "a")
        left = alive & (rng.random(n) < -np.expm1(-np.exp(eta)))
        told = {"tenure": t, "plan": plan[alive], "age": age[alive], "events": left[alive].astype(int)}
        rows.append(pd.DataFrame(told).assign(price=float(t >= 3) * (plan[alive] == "a")))
        alive &= ~left
    return pd.concat(rows, ignore_index=True)


def grouped(rows, by):
    return rows.groupby(by, as_index=False).agg(at_risk=("events", "size"), events=("events", "sum"))


WHAT = {"events": "events", "at_risk": "at_risk"}


def test_planted_effects_are_recovered_also_those_that_change_over_time():
    counts = grouped(simulated(), ["tenure", "plan", "age", "price"]).astype({"tenure": "category"})

    made = fit_hazard(counts, **WHAT, covariates=["tenure", "plan", "age", "price"])

    told = made.frame.set_index("term")
    for term, planted in {"plan=b": 0.7, "age": -0.5, "price": 0.4, "constant": -2.0}.items():
        error = (np.log(told.loc[term, "high"]) - np.log(told.loc[term, "low"])) / 3.92
        assert abs(told.loc[term, "coefficient"] - planted) < 3.3 * error < 0.3, term
    assert told.loc["tenure=1", "coefficient"] == pytest.approx(-0.5, abs=0.15)


def test_groups_tell_the_same_as_single_rows_and_as_the_likelihood():
    rows = simulated(2000).assign(at_risk=1)
    x = np.column_stack([np.ones(len(rows)), rows["plan"] == "b", rows["age"]])

    def loss(b):
        hazard = -np.expm1(-np.exp(x @ b))
        return -np.where(rows["events"] == 1, np.log(hazard), np.log1p(-hazard)).sum()

    best = minimize(loss, [-2, 0, 0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}).x
    single = fit_hazard(rows, **WHAT, covariates=["plan", "age"])
    counts = fit_hazard(grouped(rows, ["plan", "age"]), **WHAT, covariates=["plan", "age"])

    told = single.frame.set_index("term").loc[["constant", "plan=b", "age"], "coefficient"]
    assert told.tolist() == pytest.approx(best.tolist(), abs=1e-5)
    assert counts.coefficient == pytest.approx(single.coefficient, rel=1e-7)
    assert counts.low == pytest.approx(single.low, rel=1e-6)


def test_hazard_of_a_saturated_model_is_the_observed_rate():
    counts = pd.DataFrame({"plan": ["a", "b", "c"], "at_risk": [50, 80, 200], "events": [5, 20, 100]})

    made = fit_hazard(counts, **WHAT, covariates=["plan"])

    eta = np.array(made.coefficient) @ [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    assert -np.expm1(-np.exp(eta)) == pytest.approx([0.1, 0.25, 0.5], rel=1e-8)


@pytest.mark.parametrize("events", [0, 40])
def test_level_where_nobody_or_everybody_left_is_said_and_changes_nothing_else(events):
    sound = grouped(simulated(3000), ["tenure", "plan", "age"])
    odd = pd.DataFrame({"tenure": [0], "plan": ["A0"], "age": [1], "at_risk": [40], "events": [events]})

    both = pd.concat([odd, sound], ignore_index=True)
    made = fit_hazard(both, **WHAT, covariates=["plan", "age"])
    as_category = fit_hazard(both.astype({"plan": "category"}), **WHAT, covariates=["plan", "age"])

    assert as_category.frame.equals(made.frame)

    assert made.left_out == ("plan=A0",)
    assert made.coefficient == pytest.approx(fit_hazard(sound, **WHAT, covariates=["plan", "age"]).coefficient)
    assert "plan=A0" in made.sentence() and "plan=A0" in made.sentence("vi") and "<table" in made.html("vi")


def test_a_number_that_separates_has_no_ratio():
    counts = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "at_risk": [50] * 4, "events": [0, 0, 50, 50]})

    made = fit_hazard(counts, **WHAT, covariates=["x"])

    assert made.left_out == ("x",) and np.isnan(made.hazard_ratio[1])


# Cox ------------------------------------------------------------------------------------------------------------------
SIX = pd.DataFrame({"x": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], "z": [0.2, 1.4, 0.1, 0.9, 1.1, 0.3]})
TIMES, LEFT = np.array([2, 2, 3, 5, 5, 8]), np.array([1, 1, 1, 1, 0, 0])


def efron(b):
    """Minus the log partial likelihood of the six rows, ties by Efron (1977), written out term by term."""
    r = np.exp(SIX.to_numpy() @ b)
    tied = np.log(r.sum()) + np.log(r.sum() - (r[0] + r[1]) / 2)
    return -(np.log(r[[0, 1, 2, 3]]).sum() - tied - np.log(r[2:].sum()) - np.log(r[3:].sum()))


def test_cox_is_the_maximum_of_the_partial_likelihood_written_out():
    best = minimize(efron, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x

    made = fit_cox(TIMES, LEFT, SIX)

    assert made.coefficient == pytest.approx(best.tolist(), abs=1e-5)


def test_planted_ratio_is_recovered_and_proportional_until_it_is_not():
    rng = np.random.default_rng(11)
    x, base = rng.integers(0, 2, 1000), rng.exponential(1, 1000)
    steady = base / np.exp(0.6 * x)
    turning = np.where(x == 1, base ** (1 / 2), base)  # Weibull shapes 2 and 1: the ratio grows with time
    found = []
    for t in (steady, turning):
        made = fit_cox(np.minimum(t, 2), t < 2, pd.DataFrame({"vip": x}))
        found.append(made.proportional_p[0])
        if t is steady:
            assert made.coefficient[0] == pytest.approx(0.6, abs=0.25)
            assert made.low[0] < np.exp(0.6) < made.high[0]

    assert found[0] > 0.01 and found[1] < 1e-6
    assert "changes with tenure" in made.sentence() and "theo thâm niên" in made.sentence("vi")


def test_constant_ratio_is_rejected_as_often_as_the_level_says():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(50):
        x = rng.normal(size=40)
        t = rng.exponential(1, 40) / np.exp(0.5 * x)
        p.append(fit_cox(np.minimum(t, 1.5), t < 1.5, pd.DataFrame({"x": x})).proportional_p[0])

    assert np.sum(np.array(p) < 0.05) <= 8  # binomial 99.9 % quantile of 50 at 5 %
    assert np.sum(np.array(p) < 0.5) >= 14  # and 0.1 % quantile at 50 %: not too cautious either


def test_telco_contract_and_charges(real_data):
    with gzip.open(real_data("telco-churn") / "Telco-Customer-Churn.csv.gz", "rt") as file:
        t = pd.read_csv(file)
    made = fit_cox(t["tenure"], t["Churn"] == "Yes", t[["Contract", "MonthlyCharges"]])
    told = made.frame.set_index("term")

    def loss(b):  # Breslow's partial likelihood by sorting: few ties a month at 7,043 rows would not do, so Efron
        x = np.column_stack([t["MonthlyCharges"], t["Contract"] == "One year", t["Contract"] == "Two year"]) @ b
        d, risk, total = (t["Churn"] == "Yes").to_numpy(), np.exp(x), x[t["Churn"] == "Yes"].sum()
        for at in np.unique(t["tenure"][d]):
            here, dying = (t["tenure"] >= at).to_numpy(), d & (t["tenure"] == at).to_numpy()
            m = dying.sum()
            total -= np.log(risk[here].sum() - np.arange(m) / m * risk[dying].sum()).sum()
        return -total

    b = told.loc[["MonthlyCharges", "Contract=One year", "Contract=Two year"], "coefficient"].to_numpy()
    for step in np.diag([1e-4, 1e-2, 1e-2]):
        assert loss(b) < min(loss(b + step), loss(b - step))  # a maximum in every direction
    assert told.loc["Contract=Two year", "hazard_ratio"] < told.loc["Contract=One year", "hazard_ratio"] < 0.25


# Person-periods -------------------------------------------------------------------------------------------------------
SPELLS = pd.DataFrame(
    {
        "plan": ["a", "a", "b", "a", "b"],
        "since": pd.to_datetime(["2026-01-15", "2026-02-01", "2026-02-10", "2026-04-02", "2026-03-31"]),
        "to": pd.to_datetime(["2026-03-02", None, "2026-02-28", None, "2026-04-03"]),
    }
)


def test_person_periods_count_months_lived_and_left(engine):
    orders = engine.source(SPELLS.rename(columns={"since": "started_at", "to": "ended_at"}).assign(
        subscription_id=list("vwxyz"), customer_id=list("vwxyz")), "subscriptions").table("subscriptions")  # fmt: skip
    what = {"start": "started_at", "end": "ended_at", "by": ["plan"]}

    counts = person_periods(orders, until="2026-03-31", **what)
    cut = person_periods(orders, until="2026-04-29", **what)  # April is not whole, so it is left out
    dated = person_periods(orders, until="2026-04-30", **what)

    by = counts.groupby(["plan", "tenure"], as_index=False)[["at_risk", "events"]].sum()
    assert by.to_numpy().tolist() == [
        ["a", 0, 2, 0], ["a", 1, 2, 0], ["a", 2, 1, 1], ["b", 0, 2, 1]
    ]  # fmt: skip
    assert cut.equals(counts)
    april = dated[dated["month"] == "2026-04"]
    assert april[["plan", "tenure", "at_risk", "events"]].to_numpy().tolist() == [
        ["a", 0, 1, 0], ["a", 2, 1, 0], ["b", 1, 1, 1]
    ]  # fmt: skip


def test_person_periods_of_many_spells_match_a_count_one_by_one():
    rng = np.random.default_rng(8)
    since = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 900, 500), "D")
    to = (since + pd.to_timedelta(rng.integers(0, 500, 500), "D")).where(rng.random(500) < 0.7)
    spells = pd.DataFrame({"since": since, "to": to})
    found = {}
    for a, z in zip(since, to, strict=True):
        month, t = a.to_period("M"), 0
        while month <= pd.Period("2026-06", "M"):
            at_risk, events = found.get(t, (0, 0))
            over = pd.notna(z) and z.to_period("M") == month
            found[t] = (at_risk + 1, events + over)
            month, t = month + 1, t + 1
            if over:
                break

    counts = person_periods(spells, start="since", end="to", until="2026-06-30")

    told = counts.groupby("tenure")[["at_risk", "events"]].sum()
    assert {r.Index: (r.at_risk, r.events) for r in told.itertuples()} == found


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: fit_hazard(c.assign(events=99), **WHAT, covariates=["plan"]), "Were they swapped"),
        (lambda c: fit_hazard(c.assign(events=np.nan), **WHAT, covariates=["plan"]), "Need 0 <= events <= at_risk"),
        (lambda c: fit_hazard(c.assign(events=0), **WHAT, covariates=["plan"]), "because nobody or everybody left"),
        (lambda c: fit_hazard(c, **WHAT, covariates=["plans"]), "Did you mean plan"),
        (lambda c: fit_hazard(c.assign(age=[1, None]), **WHAT, covariates=["age"]), "age in 1 of 2 rows"),
        (lambda c: fit_hazard(c.assign(x=3), **WHAT, covariates=["plan", "x"]), "follows from the others"),
        (lambda c: fit_hazard(c, **WHAT, covariates=["plan"], confidence=95), "0.95"),
        (lambda c: fit_cox([1, -1], [1, 0], c[["plan"]]), "durations must be 0 or more"),
        (lambda c: fit_cox([1, np.nan], [1, 0], c[["plan"]]), "durations must be 0 or more"),
        (lambda c: fit_cox([1, 2], [0, 0], c[["plan"]]), "because nobody or everybody left"),
        (lambda c: person_periods(SPELLS, start="to", end="since", until="2026-03-31"), "5 spells have no to or end"),
        (lambda c: person_periods(SPELLS, start="since", end="until", until="2026-03-31"), "no column 'until'"),
    ],
)  # fmt: skip
def test_impossible_input_is_refused(call, told):
    with pytest.raises(KpiError, match=told):
        call(pd.DataFrame({"plan": ["a", "b"], "at_risk": [50, 80], "events": [5, 20]}))
