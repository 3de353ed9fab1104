"""An experiment analysed from its units: independent numbers, laws, warnings, messages, and any source of rows."""

import json
import re
from decimal import Decimal
from itertools import pairwise

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats
from statsmodels.stats.oneway import anova_generic
from statsmodels.stats.proportion import proportions_ztest

from kpi_helpers import contrasts, experiments
from kpi_helpers.analyses import Analysis, heterogeneity
from kpi_helpers.errors import KpiError
from kpi_helpers.experiments import analyse, mean, rate, ratio
from kpi_helpers.stats import METHODS

WHO = {"unit": "id", "variant": "arm", "control": "a"}


def people(n=3000, seed=1, arms=("a", "b", "c"), shares=None, lift=0.1):
    """Units with a flag, spend known before and after, sessions with orders, and a segment."""
    rng = np.random.default_rng(seed)
    arm = rng.choice(list(arms), n, p=shares)
    gain = 1 + lift * (arm == arms[1])
    before, age = rng.gamma(2, 10, n), rng.normal(40, 9, n)
    sessions = 1 + rng.poisson(2, n)
    return pd.DataFrame({
        "id": np.arange(n), "arm": arm, "segment": rng.choice(["north", "south", "west"], n, p=[0.5, 0.3, 0.2]),
        "bought": (rng.random(n) < 0.2 * gain).astype(int), "before": before, "age": age,
        "spend": (0.8 * before + 0.3 * age + rng.gamma(2, 5, n)) * gain,
        "sessions": sessions, "orders": rng.binomial(sessions, 0.15 * gain),
    })  # fmt: skip


def rows_of(analysis, metric=None, variant="b", dimension=""):
    frame = analysis.to_frame()
    chosen = frame[(frame["variant"] == variant) & (frame["dimension"] == dimension)]
    return chosen[chosen["metric"] == metric] if metric else chosen


def row(analysis, metric, variant="b"):
    (found,) = rows_of(analysis, metric, variant).itertuples()
    return found


# --- independent numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["b", "c"])
def test_rates_are_those_of_statsmodels(variant):
    data = people()
    found = row(analyse(data, **WHO, metrics=[rate("bought")]), "bought", variant)

    counts = data.groupby("arm")["bought"].agg(["sum", "count"]).loc[[variant, "a"]]
    z, p = proportions_ztest(counts["sum"].to_numpy(), counts["count"].to_numpy())
    assert found.p_value == pytest.approx(p, rel=1e-10)
    assert np.sign(found.difference) == np.sign(z)
    typed = experiments.compare_rates(tuple(counts.loc["a"]), tuple(counts.loc[variant]))
    assert (found.difference, found.lift, found.p_value) == pytest.approx((typed.difference, typed.lift, typed.p_value))
    assert (found.n_treatment, found.n_control) == tuple(counts["count"])


@pytest.mark.parametrize("variant", ["b", "c"])
def test_means_are_those_of_scipy(variant):
    data = people(arms=("a", variant))
    found = row(analyse(data, **WHO, metrics=[mean("spend")]), "spend", variant)

    arms = [data.loc[data["arm"] == v, "spend"] for v in (variant, "a")]
    truth = scipy_stats.ttest_ind(*arms, equal_var=False)
    low, high = truth.confidence_interval(0.95)
    assert (found.p_value, found.difference_low, found.difference_high) == pytest.approx((truth.pvalue, low, high))
    assert (found.treatment_value, found.control_value) == pytest.approx(tuple(a.mean() for a in arms))


def test_pooled_means_are_students():
    data = people(arms=("a", "b"))
    found = row(analyse(data, **WHO, metrics=[mean("spend", pooled=True)]), "spend")

    arms = [data.loc[data["arm"] == v, "spend"] for v in ("b", "a")]
    assert found.p_value == pytest.approx(scipy_stats.ttest_ind(*arms).pvalue)


@pytest.mark.parametrize("covariates", [["before"], ["before", "age"]])
def test_adjusted_means_are_the_regression_on_centred_covariates(covariates):
    """Coefficients of y on the covariates alone (no arm), then Welch on what is left (Deng et al., 2013)."""
    data = people(arms=("a", "b"))
    found = row(analyse(data, **WHO, metrics=[mean("spend", pre=covariates)]), "spend")

    line = sm.OLS(data["spend"], sm.add_constant(data[covariates])).fit()
    arms = [line.resid[data["arm"] == v] for v in ("b", "a")]
    truth = scipy_stats.ttest_ind(*arms, equal_var=False)
    assert (found.difference, found.p_value) == pytest.approx((arms[0].mean() - arms[1].mean(), truth.pvalue), rel=1e-8)
    ancova = sm.OLS(data["spend"], sm.add_constant(data[covariates].assign(b=data["arm"] == "b").astype(float)))
    told = ancova.fit(cov_type="HC1")
    half = (found.difference_high - found.difference_low) / 2
    # the arm explains a little of y as well, so both agree to that
    assert found.difference == pytest.approx(told.params["b"], rel=0.02)
    assert half == pytest.approx(1.96 * told.bse["b"], rel=0.02)
    plain = row(analyse(data, **WHO, metrics=[mean("spend")]), "spend")
    assert half < 0.6 * (plain.difference_high - plain.difference_low) / 2


def test_ratios_are_the_delta_method_by_hand():
    data = people()
    found = row(analyse(data, **WHO, metrics=[ratio("orders", "sessions")]), "orders/sessions")

    told = []
    for v in ("a", "b"):
        own = data[data["arm"] == v]
        r = own["orders"].sum() / own["sessions"].sum()
        told.append((r, (own["orders"] - r * own["sessions"]).var(ddof=1) / own["sessions"].mean() ** 2, len(own)))
    (r0, v0, n0), (r1, v1, n1) = told
    truth = scipy_stats.ttest_ind_from_stats(r1, v1**0.5, n1, r0, v0**0.5, n0, equal_var=False)
    assert (found.control_value, found.treatment_value, found.difference) == pytest.approx((r0, r1, r1 - r0))
    assert found.p_value == pytest.approx(truth.pvalue, rel=1e-8)


def test_rows_of_a_unit_are_added_up_and_match_cluster_robust_regression():
    """A mean over rows of which units were randomised: statsmodels, OLS with errors clustered by unit."""
    data = people(900, arms=("a", "b"))
    rng = np.random.default_rng(2)
    many = data.loc[data.index.repeat(rng.integers(1, 6, len(data)))].reset_index(drop=True)
    many["spend"] += rng.normal(0, 5, len(many))

    made = analyse(many, **WHO, metrics=[mean("spend"), rate("bought")])

    x = sm.add_constant((many["arm"] == "b").astype(float))
    for metric in ("spend", "bought"):
        told = sm.OLS(many[metric], x).fit(cov_type="cluster", cov_kwds={"groups": many["id"]})
        found = row(made, metric)
        assert found.difference == pytest.approx(told.params["arm"])
        assert found.difference_high - found.difference == pytest.approx(1.96 * told.bse["arm"], rel=0.01)
        naive = sm.OLS(many[metric], x).fit().bse["arm"]
        assert told.bse["arm"] > 1.3 * naive  # what taking rows for units would have hidden
    assert "duplicate_units" in made.warnings


def strata():
    """Conversions in three strata, treatment and control; G12 of the reference."""
    rows = []
    for name, (treated, control) in {"x": ((60, 940), (50, 950)), "y": ((240, 1760), (200, 1800)),
                                     "z": ((30, 470), (36, 464))}.items():  # fmt: skip
        for arm, (yes, no) in (("b", treated), ("a", control)):
            rows += [(arm, name, 1)] * yes + [(arm, name, 0)] * no
    return pd.DataFrame(rows, columns=["arm", "segment", "bought"]).rename_axis("id").reset_index()


def test_post_stratified_total_is_the_published_one():
    (found,) = analyse(strata(), **WHO, metrics=[rate("bought")], segments=["segment"]).interactions.itertuples()

    assert found.difference == pytest.approx(0.0125714285714286, rel=1e-12)
    assert found.error == pytest.approx(0.00674133154654, rel=1e-11)
    assert found.p_difference == pytest.approx(0.0622054184999, rel=1e-9)
    # the Mantel-Haenszel test of the same tables (R: mantelhaen.test, correct=FALSE) asks nearly the same
    assert found.p_difference == pytest.approx(0.0623692751006, abs=2e-4)
    assert found.segments == 3


def test_interaction_is_welchs_test_of_statsmodels():
    """Of the differences, each with its own variance (of rates with one success and one failure more in each arm)."""
    data = people(6000, seed=3, lift=0.2)
    made = analyse(data, **WHO, metrics=[rate("bought"), mean("spend")], segments=["segment"]).interactions

    for metric in ("bought", "spend"):
        for variant in ("b", "c"):
            own = data[data["arm"].isin(["a", variant])]
            mu, n, v = (own.pivot_table(metric, "segment", "arm", aggfunc=f) for f in ("mean", "count", "var"))
            v = (mu * (1 - mu) if metric == "bought" else v) / n
            effect, spread = mu[variant] - mu["a"], v[variant] + v["a"]
            smooth = (mu * n + 1) / (n + 2)
            w = smooth * (1 - smooth) / n if metric == "bought" else v
            df = n.sum(axis=1) - 2 if metric == "bought" else spread**2 / (v**2 / (n - 1))[["a", variant]].sum(axis=1)
            own = ((w[variant] + w["a"]) * (df + 1)).to_numpy()  # as if each difference were a mean of df + 1 units
            q = anova_generic(effect.to_numpy(), own, df.to_numpy() + 1, use_var="unequal", welch_correction=True)
            (found,) = made[(made["metric"] == metric) & (made["variant"] == variant)].itertuples()
            share = n.sum(axis=1) / n.to_numpy().sum()
            assert found.p_value == pytest.approx(q.pvalue, rel=1e-8)
            assert found.difference == pytest.approx((share * effect).sum())
            assert found.error == pytest.approx(np.sqrt((share**2 * spread).sum()), rel=1e-8)


def test_segments_are_the_analysis_of_their_own_units():
    data = people()
    made = analyse(data, **WHO, metrics=[rate("bought"), mean("spend"), mean("spend", pre="before", name="sharp"),
                                         ratio("orders", "sessions")], segments=["segment"])  # fmt: skip

    told = ["control_value", "treatment_value", "difference", "lift", "p_value", "n_control", "n_treatment"]
    for name in ("north", "south", "west"):
        alone = analyse(data[data["segment"] == name], **WHO, metrics=list(made.metrics.values())).to_frame()
        frame = made.to_frame()
        part = frame[(frame["dimension"] == "segment") & (frame["segment"] == name)]
        pd.testing.assert_frame_equal(part[told].reset_index(drop=True), alone[told], rtol=1e-9)


def test_units_without_a_segment_are_a_segment_of_their_own():
    data = people()
    holes = data.assign(segment=data["segment"].where(data["id"] % 4 > 0))
    frame = analyse(holes, **WHO, metrics=[rate("bought")], segments=["segment"]).to_frame()

    whole, parts = frame[frame["dimension"] == ""], frame[frame["dimension"] == "segment"]
    assert whole[["n_control", "n_treatment"]].to_numpy().sum() == len(data) + (data["arm"] == "a").sum()
    assert set(parts["segment"]) == {"north", "south", "west", "–"}
    named = parts[(parts["variant"] == "b") & (parts["segment"] != "–")]
    assert named["n_treatment"].sum() == ((holes["arm"] == "b") & holes["segment"].notna()).sum()


def test_capped_means_are_scipy_on_clipped_data():
    data = people(arms=("a", "b"))
    made = analyse(data, **WHO, metrics=[mean("spend"), rate("bought")], cap=0.99)

    top = data["spend"].quantile(0.99)
    arms = [data.loc[data["arm"] == v, "spend"].clip(upper=top) for v in ("b", "a")]
    found = row(made, "spend")
    assert found.p_value == pytest.approx(scipy_stats.ttest_ind(*arms, equal_var=False).pvalue, rel=1e-8)
    assert made.caps["spend"][1:] == (pytest.approx(top), (data["spend"] > top).sum())
    assert "30" in made.warnings["capped"].en and "30" in made.warnings["capped"].vi
    refunds = analyse(data.assign(spend=data["spend"] - 40), **WHO, metrics=[mean("spend")], cap=0.99)
    low, high = (data["spend"] - 40).quantile([0.01, 0.99])
    assert refunds.caps["spend"] == pytest.approx((low, high, 60))


# --- shape ------------------------------------------------------------------------------------------------


def test_columns_are_named_as_promised():
    made = analyse(people(), **WHO, metrics=[rate("bought"), mean("spend")], segments=["segment"])
    frame = made.to_frame()

    promised = [
        "metric", "variant", "segment", "control_value", "treatment_value", "difference", "difference_low",
        "difference_high", "lift", "lift_low", "lift_high", "p_value", "p_adjusted", "decision",
    ]  # fmt: skip
    assert [c for c in frame.columns if c in promised] == promised
    assert isinstance(made, Analysis)
    assert len(frame) == 2 * 2 * (1 + 3)
    assert not frame.duplicated(["metric", "variant", "dimension", "segment"]).any()
    assert set(frame["decision"]) <= {"better", "worse", "unclear"}
    assert json.loads(json.dumps(made.to_json()))
    assert list(made.verdicts) == ["b", "c"]


def test_metrics_have_the_names_of_their_mapping():
    made = analyse(people(), **WHO, metrics={"conversion": rate("bought"), "basket": mean("spend")})

    assert list(made.metrics) == ["conversion", "basket"]
    assert list(dict.fromkeys(made.to_frame()["metric"])) == ["conversion", "basket"]
    assert list(dict.fromkeys(made.to_frame()["role"])) == ["primary", "secondary"]


def test_a_kpi_of_the_catalogue_is_a_metric():
    data = people()
    kpi = analyse(data, **WHO, metrics=["order_rate_session"]).to_frame()
    same = analyse(data, **WHO, metrics=[ratio("orders", "sessions", name="order_rate_session")]).to_frame()

    pd.testing.assert_frame_equal(kpi, same)


# --- decisions --------------------------------------------------------------------------------------------


def test_p_values_are_adjusted_within_families():
    made = analyse(
        people(), **WHO, segments=["segment"],
        metrics=[rate("bought"), mean("spend"), ratio("orders", "sessions"), mean("age", margin=1)],
    )  # fmt: skip
    frame = made.to_frame()

    free = frame[frame["role"] != "guardrail"]
    families = free["metric"].where(free["dimension"] != "", free["role"]) + "/" + free["dimension"]
    assert families.nunique() == 2 + 3
    for _family, own in free.groupby(families):
        told = experiments.adjust_p_values(own["p_value"].to_numpy(), "holm")
        assert own["p_adjusted"].to_numpy() == pytest.approx(told, rel=1e-12)
    guard = frame[frame["role"] == "guardrail"]
    assert (guard["p_adjusted"] == guard["p_value"]).all()
    assert list(guard["dimension"].unique()) == [""]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([*METHODS]), st.sampled_from([0.8, 0.95, 0.99]),
    st.sampled_from([0, 0.1, 0.3, -0.2]),
)  # fmt: skip
def test_decision_and_interval_are_one(seed, correction, confidence, lift):
    made = analyse(
        people(300, seed=seed, lift=lift), **WHO, segments=["segment"], correction=correction, confidence=confidence,
        metrics=[rate("bought"), mean("spend", pre="before"), mean("age", better="down"), ratio("orders", "sessions")],
    )  # fmt: skip
    frame = made.to_frame()
    down = frame["metric"] == "age"

    known = ~frame["decision"].isin(["cannot", "invalid"])
    up, under = frame["difference_low"] > 0, frame["difference_high"] < 0
    said = np.where(np.where(down, under, up), "better", np.where(np.where(down, up, under), "worse", "unclear"))
    assert (frame.loc[known, "decision"] == said[known]).all()
    significant = frame["p_adjusted"] < 1 - confidence
    close = (frame["p_adjusted"] - (1 - confidence)).abs() < 1e-9
    assert (significant == (up | under))[known & ~close].all()
    lift_known = known & frame["lift"].notna() & ~close
    assert (significant == ((frame["lift_low"] > 0) | (frame["lift_high"] < 0)))[lift_known].all()
    if frame["decision"].eq("invalid").any():
        assert made.split.alarm and frame["decision"].eq("invalid").all()


def counted(control, treatment):
    """Units of two arms from successes and trials."""
    arms = [("a", *control), ("b", *treatment)]
    flags = [(arm, int(k < x)) for arm, x, n in arms for k in range(n)]
    return pd.DataFrame(flags, columns=["arm", "left"]).rename_axis("id").reset_index()


@pytest.mark.parametrize(
    ("treatment", "decision"), [((500, 5000), "holds"), ((700, 5000), "broken"), ((560, 5000), "open")]
)
@pytest.mark.parametrize("better", ["down", "up"])
def test_guardrails_agree_with_the_comparison_of_their_counts(treatment, decision, better):
    control = (500, 5000)
    if better == "up":  # those who stay
        control, treatment = (4500, 5000), (5000 - treatment[0], 5000)
    made = analyse(counted(control, treatment), **WHO, metrics=[rate("left", margin=0.02, better=better)])
    found, side = row(made, "left"), {"up": "larger", "down": "smaller"}[better]

    typed = experiments.compare_rates(control, treatment, margin=0.02, alternative=side)
    assert found.p_value == pytest.approx(typed.p_value, rel=1e-9)
    assert found.decision == decision
    assert (typed.p_value < 0.05) == (decision == "holds")
    edge = ("difference_low", "difference_high")[better == "down"]
    assert getattr(found, edge) == pytest.approx(getattr(typed, edge), rel=1e-9)
    other = "smaller" if side == "larger" else "larger"
    worse = experiments.compare_rates(control, treatment, alternative=other)
    beyond = max(abs(worse.difference_low), abs(worse.difference_high)) if decision == "broken" else 0
    assert beyond >= 0.02 or decision != "broken"


def test_verdicts_ask_the_guardrails():
    good = people(20_000, arms=("a", "b"), lift=0.3)
    fine = good.assign(left=np.arange(len(good)) % 10 == 0)
    asked = [rate("bought"), rate("left", better="down", margin=0.02)]

    assert analyse(fine, **WHO, metrics=asked).verdicts == {"b": "ship"}
    hurt = fine.assign(left=fine["left"] | ((fine["arm"] == "b") & (np.arange(len(good)) % 5 == 1)))
    assert analyse(hurt, **WHO, metrics=asked).verdicts == {"b": "guard"}
    vague = [rate("bought"), rate("left", better="down", margin=0.0001)]
    assert analyse(fine, **WHO, metrics=vague).verdicts == {"b": "wait"}
    assert analyse(fine, **WHO, metrics=[rate("bought", better="down")]).verdicts == {"b": "keep"}
    assert analyse(fine, **WHO, metrics=[rate("bought", worthwhile=0.5)]).verdicts == {"b": "small"}
    for made in (analyse(fine, **WHO, metrics=asked), analyse(hurt, **WHO, metrics=asked)):
        assert made.sentence("en") != made.sentence("vi")


# --- warnings ---------------------------------------------------------------------------------------------


def warned(code, analysis, english, vietnamese):
    told = analysis.warnings[code]
    assert re.search(english, told.en), told.en
    assert re.search(vietnamese, told.vi), told.vi


def split_of(a, b):
    return pd.DataFrame({"id": range(a + b), "arm": ["a"] * a + ["b"] * b, "bought": np.arange(a + b) % 3 == 0})


def test_a_broken_split_makes_every_decision_invalid():
    made = analyse(split_of(5000, 4500), **WHO, metrics=[rate("bought")])

    warned("split", made, "The split is broken .*5,000.*0.001", "lỗi.*5.000.*0,001")
    assert set(made.to_frame()["decision"]) == {"invalid"}
    assert made.verdicts == {"b": "invalid"}
    assert "do not use" in made.sentence()
    assert "đừng dùng" in made.sentence("vi")


def test_an_unusual_split_is_a_warning_and_no_alarm():
    made = analyse(split_of(44_700, 45_489), **WHO, metrics=[rate("bought")])  # Cookie Cats: chi2 6.90, p .0086

    assert made.split.p_value == pytest.approx(0.0086, abs=5e-5)
    warned("split", made, "unusual.*above the alarm at 0.001", "bất thường.*0,001")
    assert set(made.to_frame()["decision"]) <= {"better", "worse", "unclear"}


def test_a_split_as_planned_is_silent_and_the_plan_may_be_given_by_name_or_in_order():
    data = split_of(9000, 1010)

    assert "split" in analyse(data, **WHO, metrics=[rate("bought")]).warnings
    for planned in ({"b": 0.1, "a": 0.9}, [9, 1]):
        assert "split" not in analyse(data, **WHO, metrics=[rate("bought")], planned=planned).warnings
    with pytest.raises(KpiError, match="planned names x, a, but the variants are a, b"):
        analyse(data, **WHO, metrics=[rate("bought")], planned={"x": 1, "a": 1})


def spenders(n, rng):
    return np.where(rng.random(n) < 0.05, rng.lognormal(0, 1.5, n), 0)


def test_skewed_spend_in_an_unequal_split_warns_nearly_always_and_its_remedies_are_silent():
    rng, arm, warnings = np.random.default_rng(4), np.repeat(["a", "b"], [9000, 1000]), []
    shares = {"a": 9, "b": 1}
    for _ in range(200):
        data = pd.DataFrame({"id": np.arange(10_000), "arm": arm, "spend": spenders(10_000, rng)})
        made = analyse(data, **WHO, metrics=[mean("spend")], planned=shares)
        warnings.append("skew" in made.warnings)

    assert np.mean(warnings) >= 0.95  # Welch's p-value is below 0.05 in 11% of such experiments
    warned(
        "skew",
        made,
        r"spend is so skewed.*cap=0.999.*pooled=True",
        r"spend có phân phối quá lệch.*cap=0.999.*pooled=True",
    )
    pooled = analyse(data, **WHO, metrics=[mean("spend", pooled=True)], planned=shares)
    many = pd.DataFrame({"id": np.arange(100_000), "arm": np.repeat(arm, 10), "spend": spenders(100_000, rng)})
    open_end, capped = (analyse(many, **WHO, metrics=[mean("spend")], planned=shares, cap=c) for c in (None, 0.995))
    assert "skew" in open_end.warnings
    assert not {"skew"} & {*pooled.warnings, *capped.warnings}
    even = data.assign(arm=np.tile(["a", "b"], 5000))
    assert "skew" not in analyse(even, **WHO, metrics=[mean("spend")]).warnings


def test_units_in_both_variants_are_left_out():
    data = people(2000, arms=("a", "b"))
    twice = data.head(40).assign(arm=np.where(data["arm"].head(40) == "a", "b", "a"))
    made = analyse(pd.concat([data, twice]), **WHO, metrics=[rate("bought")])

    warned("both_variants", made, "40 of 2,000 units were seen in more than one", r"40 trên 2\.000 khách")
    rest = row(analyse(data[40:], **WHO, metrics=[rate("bought")]), "bought")
    found = row(made, "bought")
    assert (found.difference, found.n_control) == (pytest.approx(rest.difference), rest.n_control)


def test_repeated_units_are_told():
    data = people(2000, arms=("a", "b"))
    made = analyse(pd.concat([data, data]), **WHO, metrics=[rate("bought"), mean("spend")])

    warned("duplicate_units", made, "4,000 rows are of 2,000 customers", r"4\.000 dòng thuộc về 2\.000 khách")
    once = analyse(data, **WHO, metrics=[rate("bought"), mean("spend")])
    assert row(made, "spend").p_value == pytest.approx(row(once, "spend").p_value, rel=1e-6)
    assert row(made, "bought").n_control == row(once, "bought").n_control


def test_missing_outcomes_are_counted_and_unequal_ones_are_worse():
    data = people(4000, arms=("a", "b"))
    some = data.assign(spend=data["spend"].where(np.arange(4000) % 20 > 0))
    made = analyse(some, **WHO, metrics=[mean("spend")])
    warned("missing", made, "200 of 4,000 units have no outcome", r"200 trên 4\.000 khách không có kết quả")
    arms = [some.loc[some["arm"] == v, "spend"].dropna() for v in ("b", "a")]
    assert row(made, "spend").p_value == pytest.approx(scipy_stats.ttest_ind(*arms, equal_var=False).pvalue)

    gone = data.assign(spend=data["spend"].where((data["arm"] == "a") | (np.arange(4000) % 5 > 0)))
    made = analyse(gone, **WHO, metrics=[mean("spend")])
    warned("missing_unequal", made, "not equally often in each variant", "tỷ lệ thiếu khác nhau")
    assert "missing" not in made.warnings


def test_a_unit_without_its_covariate_is_left_out_of_that_metric_only():
    data = people(4000, arms=("a", "b"))
    holes = data.assign(before=data["before"].where(np.arange(4000) % 10 > 0))
    made = analyse(holes, **WHO, metrics=[mean("spend", pre="before", name="sharp"), mean("spend")])

    assert made.to_frame().set_index("metric")[["n_control", "n_treatment"]].sum(axis=1).to_dict() == {
        "sharp": 3600,
        "spend": 4000,
    }
    whole = analyse(holes.dropna(), **WHO, metrics=[mean("spend", pre="before")])
    assert row(made, "sharp").difference == pytest.approx(row(whole, "spend").difference)


def test_a_covariate_measured_after_the_assignment_is_found():
    data = people(6000, arms=("a", "b"), lift=0.3)
    late = data.assign(after=0.5 * data["spend"])
    made = analyse(late, **WHO, metrics=[mean("spend", pre="after")])

    warned("pre_balance", made, "measured after the assignment.*leave it out", "đo sau khi chia nhóm.*hãy bỏ ra")
    assert "pre_balance" not in analyse(late, **WHO, metrics=[mean("spend", pre=["before", "age"])]).warnings


def test_looks_tell_what_peeking_costs():
    made = analyse(people(), **WHO, metrics=[rate("bought")], looks=5)

    # Armitage, McPherson & Rowe (1969), table 2: 5 looks at 5% are 14.2%
    warned("looks", made, "looked at 5 times.*14% of such tests", "đã được xem 5 lần.*14%")
    assert "looks" not in analyse(people(), **WHO, metrics=[rate("bought")]).warnings


def test_small_counts_and_no_variation_are_told():
    few = analyse(counted((3, 500), (9, 500)), **WHO, metrics=[rate("left")])
    warned("small_counts", few, "fewer than five units.*method='exact'", "chưa tới năm.*method='exact'")

    flat = people().assign(bought=0, spend=7.5)
    none = analyse(flat, **WHO, metrics=[rate("bought"), mean("spend")], segments=["segment"])
    assert none.interactions["p_value"].isna().all()
    assert none.interactions["p_difference"].isna().all()
    warned("no_variation", none, "cannot be computed, because the outcome is the same", "không thể tính, vì")
    assert set(none.to_frame()["decision"]) == {"cannot"}
    assert none.to_frame()["p_value"].isna().all()
    assert none.verdicts == {"b": "cannot", "c": "cannot"}
    assert "cannot be judged" in none.sentence()
    assert "Không thể đánh giá" in none.sentence("vi")


def test_rows_without_a_unit_are_taken_one_by_one_and_that_is_told():
    data = people()
    made = analyse(data, unit=None, variant="arm", control="a", metrics=[rate("bought")])

    warned("unit_unchecked", made, "Each row was taken as one unit", "Mỗi dòng được coi là một khách")
    pd.testing.assert_frame_equal(made.to_frame(), analyse(data, **WHO, metrics=[rate("bought")]).to_frame())


def test_a_clean_experiment_has_no_warnings():
    made = analyse(people(), **WHO, metrics=[rate("bought"), mean("spend", pre="before")], segments=["segment"])

    assert made.warnings == {}


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda d: d, {"control": "A"}, "control='A' is no value of arm.*a"),
        (lambda d: d[d["arm"] == "a"], {}, "arm has one value only, 'a': there is nothing to compare it with"),
        (lambda d: d.assign(arm=["a", *(f"v{i % 40}" for i in range(len(d) - 1))]), {},
         "arm has 41 values, more than 10: is it the column of the variant"),
        (lambda d: d, {"variant": "arms"}, "no column 'arms'.*arm"),
        (lambda d: d, {"unit": "user"}, "no column 'user'"),
        (lambda d: d, {"segments": ["segmen"]}, "no column 'segmen'.*segment"),
        (lambda d: d, {"metrics": [rate("boght")]}, "no column 'boght'.*bought"),
        (lambda d: d, {"metrics": []}, "No metrics: write at least one"),
        (lambda d: d, {"metrics": [rate("bought"), rate("bought")]}, "Two metrics have one name"),
        (lambda d: d, {"metrics": [rate("spend")]}, "spend is a rate, but spend holds other values than 0 and 1"),
        (lambda d: d, {"metrics": [mean("segment")]}, "segment holds string: a metric needs numbers"),
        (lambda d: d, {"metrics": ["roass"]}, "roass"),
        (lambda d: d.assign(spend=[np.inf, *d["spend"][1:]]), {"metrics": [mean("spend")]}, "spend holds NaN or inf"),
        (lambda d: d.head(0), {}, "no rows"),
        (lambda d: d.assign(id=d["id"].astype("Int64").where(d["id"] > 3)), {}, "id is empty in some rows"),
        (lambda d: d, {"cap": 99}, r"cap=99 is no quantile in \(0.5, 1\)"),
        (lambda d: d, {"confidence": 95}, "confidence=95"),
        (lambda d: d, {"correction": "bonferoni"}, "bonferoni"),
        (lambda d: d, {"planned": [0.5, 0.5]}, "planned="),
        (lambda d: pd.concat([d, d]), {"metrics": [mean("spend", pre="before")]}, "give one row a unit"),
        (lambda d: d.assign(segment=d["id"]), {"segments": ["segment"]}, "segment has 3000 values: too many"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, options, said):
    asked = {**WHO, "metrics": [rate("bought")], **options}
    with pytest.raises(KpiError, match=said):
        analyse(change(people()), **asked)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rate("x", better="larger"), "better='larger' is not one of up, down"),
        (lambda: mean("x", margin=-1), "margin=-1 must be above 0"),
        (lambda: mean("x", pre="x"), "x cannot sharpen itself"),
        (lambda: analyse("nowhere.parquet", **WHO, metrics=[rate("x")]), "'nowhere.parquet' is no file"),
    ],
)
def test_impossible_metrics_and_tables_are_named(make, said):
    with pytest.raises(KpiError, match=said):
        make()


# --- any source, any type, any order ----------------------------------------------------------------------


ASKED = (rate("bought"), mean("spend", pre="before"), ratio("orders", "sessions"))


def plain(analysis):
    return json.dumps(analysis.to_json()).encode()


def test_order_of_rows_does_not_matter():
    data = people().astype({"spend": int, "before": int})  # sums of floats depend on their order in the last digit
    made = analyse(data, **WHO, metrics=ASKED, segments=["segment"])

    for seed in range(3):
        mixed = data.sample(frac=1, random_state=seed)
        assert plain(analyse(mixed, **WHO, metrics=ASKED, segments=["segment"])) == plain(made)


def test_same_result_from_frame_parquet_csv_and_ibis(tmp_path):
    data = people()
    data.to_parquet(tmp_path / "units.parquet", index=False)
    data.to_csv(tmp_path / "units.csv", index=False)
    made = analyse(data, **WHO, metrics=ASKED, segments=["segment"])

    given = [tmp_path / "units.parquet", str(tmp_path / "units.csv"), ibis.memtable(pa.Table.from_pandas(data))]
    for table in given:
        found = analyse(table, **WHO, metrics=ASKED, segments=["segment"])
        pd.testing.assert_frame_equal(found.to_frame(), made.to_frame(), rtol=1e-9)


def units_table(n=2000, seed=5):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "unit_id": [f"u{i}" for i in range(n)], "experiment": "checkout", "variant": rng.choice(["a", "b"], n),
        "segment": rng.choice(["new", "old"], n), "converted": rng.integers(0, 2, n), "sessions": rng.integers(1, 5, n),
        "revenue": rng.integers(0, 100_000, n), "revenue_before": rng.integers(0, 100_000, n),
    })  # fmt: skip


def test_each_engine_gives_the_same_through_the_contract(engine):
    data = units_table()
    who = {"unit": "unit_id", "variant": "variant", "control": "a", "segments": ["segment"]}
    asked = [rate("converted"), mean("revenue", pre="revenue_before"), ratio("revenue", "sessions", name="per visit")]
    repeated = pd.concat([data, data[data["unit_id"] < "u2"]])

    table = engine.source(data, "experiment_units").table("experiment_units")
    found = analyse(table, **who, metrics=asked)
    pd.testing.assert_frame_equal(
        found.to_frame(), analyse(data, **who, metrics=asked).to_frame(), rtol=1e-9, check_dtype=False
    )
    twice = table.union(table.filter(table.unit_id < "u2"))
    many, same = (analyse(t, **who, metrics=[rate("converted"), asked[2]]) for t in (twice, repeated))
    assert many.warnings == same.warnings
    assert "duplicate_units" in many.warnings
    pd.testing.assert_frame_equal(many.to_frame(), same.to_frame(), rtol=1e-9, check_dtype=False)


@pytest.mark.parametrize("kind", ["bool", "int", "float", "decimal", "nullable"])
def test_types_of_columns_give_one_result(kind):
    data = people().astype({"spend": int})
    made = analyse(data, **WHO, metrics=[rate("bought"), mean("spend")])
    change = {
        "bool": {"bought": data["bought"].astype(bool)},
        "int": {"bought": data["bought"].astype("int8")},
        "float": {"bought": data["bought"].astype(float), "spend": data["spend"].astype(float)},
        "decimal": {"spend": [Decimal(v) for v in data["spend"]]},
        "nullable": {"bought": data["bought"].astype("boolean"), "spend": data["spend"].astype("Int64")},
    }[kind]

    found = analyse(data.assign(**change), **WHO, metrics=[rate("bought"), mean("spend")])
    pd.testing.assert_frame_equal(found.to_frame(), made.to_frame(), rtol=1e-12)


def test_nulls_are_missing_and_not_zero():
    data = people()
    table = pa.Table.from_pandas(data.assign(spend=data["spend"].where(data["id"] % 7 > 0)))
    made = analyse(ibis.memtable(table), **WHO, metrics=[mean("spend")])

    left = data[data["id"] % 7 > 0]
    arms = [left.loc[left["arm"] == v, "spend"] for v in ("b", "a")]
    assert row(made, "spend").p_value == pytest.approx(scipy_stats.ttest_ind(*arms, equal_var=False).pvalue)


def test_large_values_keep_their_variance():
    """Of 1e8 + N(0, 1), plain sums of squares keep no digit of the variance."""
    data = people(20_000, arms=("a", "b"))
    noise = np.random.default_rng(6).normal(0, 1, len(data))
    far = analyse(data.assign(spend=1e8 + noise), **WHO, metrics=[mean("spend")])

    arms = [noise[data["arm"] == v] for v in ("b", "a")]
    truth = scipy_stats.ttest_ind(*arms, equal_var=False)
    found = row(far, "spend")
    assert found.difference_high - found.difference_low == pytest.approx(
        np.diff(truth.confidence_interval(0.95)).item(), rel=1e-5
    )
    assert found.p_value == pytest.approx(truth.pvalue, rel=1e-5)


# --- the Bayesian reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "treatment", "chance", "loss_treatment", "loss_control"),
    [
        ((1000, 10000), (1100, 10000), 0.98945735443, 1.55824438322e-05, 0.010013582843752),
        ((200, 2000), (270, 2400), 0.90871725183, 0.000398630108172, 0.012821677502077),
    ],
)
def test_bayes_of_rates_is_the_published_one(control, treatment, chance, loss_treatment, loss_control):
    found, loss = contrasts.bayes_rates(control, treatment)
    difference = (treatment[0] + 1) / (treatment[1] + 2) - (control[0] + 1) / (control[1] + 2)

    assert float(found) == pytest.approx(chance, abs=1e-11)
    assert float(loss) == pytest.approx(loss_treatment, rel=1e-9)
    assert float(loss) + difference == pytest.approx(loss_control, rel=1e-9)


@pytest.mark.parametrize(
    ("control", "treatment"),
    [((5, 20), (30_000, 100_000)), ((30_000, 100_000), (5, 20)), ((0, 10), (1, 10)), ((3, 1000), (90, 20_000)),
     ((100, 1000), (100, 1000)), ((0, 50_000), (3, 200))],
)  # fmt: skip
def test_bayes_of_arms_of_any_size_is_quadrature(control, treatment):
    first, second = (scipy_stats.beta(x + 1, n - x + 1) for x, n in (control, treatment))
    ends = [*first.ppf([1e-13, 0.5, 1 - 1e-13]), *second.ppf([1e-13, 0.5, 1 - 1e-13])]
    ends = sorted(ends)

    def over(f):
        return sum(
            integrate.quad(f, low, high, epsabs=1e-15, epsrel=1e-11, limit=200)[0] for low, high in pairwise(ends)
        )

    chance, loss = contrasts.bayes_rates(control, treatment)
    assert float(chance) == pytest.approx(over(lambda x: second.pdf(x) * first.cdf(x)), abs=1e-9)
    # E max(control - treatment, 0) is the area where the treatment is below and the control above
    assert float(loss) == pytest.approx(over(lambda x: second.cdf(x) * first.sf(x)), rel=1e-7, abs=1e-13)


def test_bayes_of_an_analysis_is_that_of_its_counts():
    made = analyse(counted((200, 2000), (270, 2400)), **WHO, metrics=[rate("left")], planned=[2000, 2400])
    found = row(made, "left")
    assert (found.chance_better, found.expected_loss) == pytest.approx((0.90871725183, 0.000398630108172), rel=1e-9)

    turned = analyse(counted((200, 2000), (270, 2400)), **WHO, metrics=[rate("left", better="down")], planned=[2, 2.4])
    found = row(turned, "left")
    assert (found.chance_better, found.expected_loss) == pytest.approx((1 - 0.90871725183, 0.012821677502077), rel=1e-9)


@pytest.mark.parametrize(("levels", "n", "rate"), [(100, 5, None), (50, 40, None), (50, 20, 0.1), (20, 100, 0.05)])
def test_interaction_keeps_its_level_in_many_small_segments(levels, n, rate):
    """Cochran's Q says yes in 55% of tests of 100 segments with 5 units an arm, and none of them differs."""
    rng, alarms, runs = np.random.default_rng(8), 0, 400
    for _ in range(runs):
        if rate is None:
            x = rng.exponential(1.0, (2, levels, n))
            m, v = x.mean(2), x.var(2, ddof=1) / n
            df = v.sum(0) ** 2 / (v**2 / (n - 1)).sum(0)
        else:
            m = rng.binomial(n, rate, (2, levels)) / n
            p = (m * n + 1) / (n + 2)
            v, df = p * (1 - p) / n, np.full(levels, 2 * n - 2.0)
        alarms += heterogeneity(m[1] - m[0], v.sum(0), df) < 0.05
    assert alarms / runs < 0.11


def test_a_covariate_that_is_constant_in_one_segment_adjusts_only_the_others():
    data = people(arms=("a", "b"))
    flat = data.assign(before=data["before"].where(data["segment"] != "north", 2.0))
    frame = analyse(flat, **WHO, metrics=[mean("spend", pre="before")], segments=["segment"]).to_frame()
    north = frame[frame["segment"] == "north"].iloc[0]
    mine = data[data["segment"] == "north"]
    a, b = (mine.loc[mine["arm"] == arm, "spend"] for arm in "ab")

    assert north["difference"] == pytest.approx(b.mean() - a.mean(), rel=1e-9)
    assert north["p_value"] == pytest.approx(scipy_stats.ttest_ind(b, a, equal_var=False).pvalue, rel=1e-6)


def test_the_verdict_stands_on_the_metric_that_decided():
    data = people(arms=("a", "b"), lift=0.5)
    same = data.assign(same=(data["id"] % 10 == 0).astype(int))
    both = [rate("same", primary=True), rate("bought", primary=True)]
    found = analyse(same, **WHO, metrics=both)

    assert found.verdicts == {"b": "ship"} and "bought" in found.sentence() and "same" not in found.sentence()
    worse = analyse(same, **WHO, metrics=[rate("same", primary=True), rate("bought", primary=True, better="down")])
    assert worse.verdicts == {"b": "keep"} and "bought" in worse.sentence()


def test_a_gain_on_a_value_below_zero_is_told_as_a_difference():
    data = people(arms=("a", "b"), lift=0.5)
    loss = data.assign(spend=data["bought"] * 3.0 - 10)
    found = analyse(loss, **WHO, metrics=[mean("spend")])

    assert found.verdicts == {"b": "ship"} and "–" not in found.sentence()


def test_guardrails_alone_say_whether_it_is_safe():
    data = people(arms=("a", "b"), lift=0.0)
    found = analyse(data, **WHO, metrics=[rate("bought", margin=0.05)])

    assert found.verdicts == {"b": "safe"} and "no more harm" in found.sentence()


@pytest.mark.parametrize("labels", [(0, 1), (False, True)])
def test_variants_may_be_numbers_or_truths(labels):
    data = people(arms=("a", "b"))
    named = data.assign(arm=data["arm"].map(dict(zip("ab", labels, strict=True))))
    found = analyse(named, unit="id", variant="arm", control=labels[0], metrics=[rate("bought")])

    assert str(labels[1]) in found.verdicts and found.sentence()


def test_values_that_are_no_ones_and_zeros_are_no_rate():
    data = people(arms=("a", "b"))
    for wrong in (data["bought"] + 1, -data["bought"], data["bought"] * 0.5):
        with pytest.raises(KpiError, match="other values than 0 and 1"):
            analyse(data.assign(bought=wrong), **WHO, metrics=[rate("bought")])


def test_columns_may_be_called_as_counts_are():
    data = people(arms=("a", "b")).rename(columns={"spend": "rows", "orders": "n_rows"})
    twice = pd.concat([data, data.iloc[:50]])
    found = analyse(twice, **WHO, metrics=[mean("rows"), mean("n_rows")])

    assert "duplicate_units" in found.warnings and np.isfinite(found.p_value).all()


def test_several_metrics_of_one_warning_are_all_told():
    data = people(arms=("a", "b"))
    holes = data.assign(spend=data["spend"].where(data["id"] % 7 > 0), orders=data["orders"].where(data["id"] % 5 > 0))
    told = analyse(holes, **WHO, metrics=[mean("spend"), mean("orders")]).warnings["missing"]

    assert "spend" in told.en and "orders" in told.en and "orders" in told.vi


def test_a_skewed_ratio_in_an_unequal_split_is_warned_of():
    rng = np.random.default_rng(2)
    arm = np.where(rng.random(10_000) < 0.9, "a", "b")
    spent = rng.lognormal(0, 1.5, 10_000) * (rng.random(10_000) < 0.05)
    data = pd.DataFrame({"id": range(10_000), "arm": arm, "spent": spent, "visits": 1 + rng.poisson(1, 10_000)})
    planned = {"a": 0.9, "b": 0.1}

    assert "skew" in analyse(data, **WHO, metrics=[ratio("spent", "visits")], planned=planned).warnings


def test_an_adjusted_mean_may_pool_its_variances():
    """As compare_adjusted_means does not: by hand, from the residuals of both arms."""
    data = people(arms=("a", "b"), shares=(0.8, 0.2))
    frame = analyse(data, **WHO, metrics=[mean("spend", pre="before", pooled=True)], planned={"a": 0.8, "b": 0.2})
    theta = data[["spend", "before"]].cov().iloc[0, 1] / data["before"].var()
    left = data["spend"] - theta * data["before"]
    a, b = (left[data["arm"] == arm] for arm in "ab")

    assert frame.p_value[0] == pytest.approx(scipy_stats.ttest_ind(b, a).pvalue, rel=1e-6)
