"""Attribution of public data, read by their mappings: published results (skipped where absent)."""

from io import StringIO
from itertools import pairwise

import ibis
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from ibis import _

from kpi_helpers import attribution, cli
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"


def by_channel(frame, model, column):
    rows = frame[(frame["model"] == model) & (frame["channel"] != "baseline")]
    return rows.set_index("channel")[column]


@pytest.mark.parametrize(("folder", "mapping", "read"), [
    ("attribution-paths", "attribution_paths", "paths (10,000 rows)"),
    ("attribution-paths", "attribution_paths_semicolon", "paths (10,000 rows)"),
    ("touchpoint-log", "touchpoint_log", "touchpoints (31,517 rows), leads (8,000 rows)"),
])  # fmt: skip
def test_check_finds_nothing_wrong(real_data, capsys, folder, mapping, read):
    assert cli.main(["check", str(real_data(folder)), "--mapping", str(MAPPINGS / f"{mapping}.yaml")]) == 0

    said = capsys.readouterr().out
    assert f"{read}: every rule of the contract holds." in said
    if mapping == "touchpoint_log":
        assert "8,000 of 8,000 rows found their row there" in said  # each customer has a first touch


# --- a log of touches: the author's own table, and what is wrong with it ---------------------------------------------
# README of the data; attribution_comparison.csv and roi_analysis.csv of its author

FIRST = {
    "Organic Search": 815_160, "Paid Search": 801_840, "Email": 553_200, "Paid Social": 486_000, "Direct": 453_360,
    "Affiliate": 360_840, "Influencer": 239_760, "Video Ads": 187_200, "Display Ads": 181_680,
}  # fmt: skip


@pytest.fixture(scope="module")
def log(real_data):
    """The source, its journeys with every touch before a purchase, and the author's table."""
    folder = real_data("touchpoint-log")
    source = connect(folder, MAPPINGS / "touchpoint_log.yaml")
    won = source.table("leads").filter(_.won_at.notnull())
    bought = won.select(customer_id="lead_id", ordered_at="won_at", revenue="value")
    journeys = attribution.read_journeys(source.table("touchpoints"), bought, lookback_days=600, currency="USD")
    return source, journeys, pd.read_csv(folder / "attribution_comparison.csv", index_col="channel")


@pytest.fixture(scope="module")
def credited(log):
    """Three models with the spend of each channel."""
    spent = log[0].table("channel_daily").group_by("channel").aggregate(spend=_.spend.sum().cast("float64"))
    spend = dict(spent.to_pyarrow().to_pandas().to_numpy())
    told = attribution.attribute(log[1], ("first", "last", "linear", "position"), confidence=None, spend=spend)
    return told.to_frame(), pd.Series(spend)


def test_journeys_of_the_log_are_those_of_its_readme(log):
    _source, journeys, _author = log

    assert (journeys.conversions, journeys.nulls, journeys.value) == (2516, 8000 - 2516, 4_079_040)
    assert journeys.untouched == 0
    # 4 people bought on 29 June, the day after the last touch
    assert {what: n for what, n in journeys.issues.items() if n} == {"late": 4}


@pytest.mark.parametrize(("model", "theirs"), [
    ("last", "last_touch_revenue"), ("linear", "linear_revenue"), ("position", "u_shaped_revenue"),
])  # fmt: skip
def test_the_author_s_figures_are_met_to_the_cent(log, credited, model, theirs):
    found, printed = by_channel(credited[0], model, "value"), log[2][theirs]

    assert found.sum() == pytest.approx(4_079_040, abs=1e-6) and set(found.index) == set(printed.index)
    assert (found - printed).abs().max() < 0.005 + 1e-6


def test_first_touch_is_that_of_the_readme(credited):
    assert by_channel(credited[0], "first", "value").round(6).to_dict() == FIRST and sum(FIRST.values()) == 4_079_040


def test_the_author_s_first_touch_is_zero_as_revenue_stands_on_the_last(log, real_data):
    rows = pd.read_csv(real_data("touchpoint-log") / "touchpoints.csv.gz")
    summed = rows[rows["is_first_touch"]].groupby("channel")["revenue_usd"].sum()

    # a converting journey has two touches or more, and its revenue stands on its last row alone
    assert (rows.loc[rows["revenue_usd"] > 0, "is_last_touch"]).all() and (rows["revenue_usd"] > 0).sum() == 2516
    assert summed.to_dict() == log[2]["first_touch_revenue"].to_dict() == dict.fromkeys(FIRST, 0)
    right = rows[rows["is_first_touch"]].set_index("customer_id")["channel"]
    paid = rows.groupby("customer_id")["revenue_usd"].sum()
    assert paid.groupby(right).sum().to_dict() == FIRST  # the channel of the first row, the revenue of the journey


def test_two_sources_of_cost_do_not_reconcile(log, credited, real_data):
    touched = log[0].table("touchpoints").group_by("channel").aggregate(cost=_.cost.sum().cast("float64"))
    costs = touched.to_pyarrow().to_pandas().set_index("channel")["cost"]
    told, spend = credited

    assert (costs.sum(), spend.sum()) == pytest.approx((105_665.63, 8_129_234.21), abs=0.0051)
    assert (spend / costs).min() > 5  # of no channel do they agree
    printed = pd.read_csv(real_data("touchpoint-log") / "roi_analysis.csv", index_col="channel")
    pd.testing.assert_series_equal(spend.sort_index(), printed["total_spend"], check_names=False)
    roas, last = (by_channel(told, "last", column) for column in ("roas", "value"))
    assert roas.to_dict() == pytest.approx((log[2]["last_touch_revenue"] / printed["total_spend"]).to_dict())
    assert (roas["Direct"] > 20) and (roas["Display Ads"] < 0.2) and (last > 0).all()


# --- a table of paths: ChannelAttribution's sample -------------------------------------------------------------------
# ../shared/reference/attribution.md, section 5: first, last, linear and their values (ChannelAttribution 2.2.5 gives
# the same to 1e-10), removal effect, Markov conversions and value exact, simplified Shapley

PRINTED = """
channel first last linear first_v last_v linear_v effect markov markov_v shapley
eta 3164 4167 3539.951157 11909.476213 16754.203800 13783.497051 .349026 3340.847402 12991.736667 3613.655952
iota 4606 3355 3857.096221 19597.261277 13487.974271 15988.988995 .405835 3884.614702 14978.437288 3505.044048
alpha 6308 8447 7574.718594 19121.272356 28414.214274 24524.709569 .558399 5344.947682 18799.170626 7627.944048
beta 2831 989 2083.500145 12235.591744 3850.020987 8954.266717 .264039 2527.352167 9687.809216 1982.739286
theta 1606 653 1022.801394 6652.349347 2799.091988 4295.743619 .206010 1971.912880 7511.048475 1190.963095
lambda 902 1207 1035.257572 3735.602165 5249.949985 4430.316169 .134022 1282.847223 5142.720297 987.782143
kappa 74 230 137.964078 305.743250 1069.384250 599.747786 .028663 274.363256 1136.092538 159.057143
zeta 27 107 136.551540 103.004000 453.260750 539.528763 .039811 381.062553 1468.703015 199.991667
epsilon 99 531 272.170438 412.301243 2202.612289 1106.270065 .062639 599.570650 2348.653825 374.677381
gamma 165 92 121.041639 718.977992 506.013992 569.417358 .017880 171.145443 719.236746 138.185714
delta 1 5 1.725000 6.119000 10.972000 4.404050 .000482 4.613618 13.918384 2.292857
mi 2 2 2.222222 5.273000 5.273000 6.081444 .000180 1.722425 5.444509 2.666667
"""
GOLDEN = pd.read_csv(StringIO(PRINTED), sep=" ", index_col="channel").sort_index()
THIRD = {"alpha": 0.546420, "iota": 0.360379, "eta": 0.322834, "beta": 0.228673, "theta": 0.175845}


@pytest.fixture(scope="module", params=["attribution_paths", "attribution_paths_semicolon"])
def paths(request, real_data):
    """Journeys of each spelling of the file."""
    table = connect(real_data("attribution-paths"), MAPPINGS / f"{request.param}.yaml").table("paths")
    rows = table.mutate(ibis.selectors.across(ibis.selectors.numeric(), _.cast("float64")))
    return attribution.from_paths(rows, path="path", conversions="conversions", nulls="nulls", value="value")


def test_both_spellings_are_the_same_rows(real_data):
    names = ("attribution_paths", "attribution_paths_semicolon")
    one, other = (connect(real_data("attribution-paths"), MAPPINGS / f"{name}.yaml").table("paths") for name in names)
    one, other = (table.to_pyarrow().to_pandas() for table in (one, other))

    assert len(one) == 10_000 and one["path"].duplicated().sum() == 4592  # rows repeat, and all of them are kept
    pd.testing.assert_frame_equal(*(rows.sort_values([*rows], ignore_index=True) for rows in (one, other)))


def test_paths_add_up_in_both_spellings(paths):
    assert (paths.conversions, paths.nulls) == (19_785, 68_602) and paths.channels == tuple(GOLDEN.index)
    assert paths.value == pytest.approx(74_802.97158721084, abs=1e-3)  # the contract keeps six places of 10,000 rows


@pytest.mark.parametrize("model", ["first", "last", "linear", "markov", "shapley"])
def test_models_of_paths_are_the_golden_ones(paths, model):
    told = attribution.attribute(paths, (model,), confidence=None).to_frame()

    assert by_channel(told, model, "conversions").to_numpy() == pytest.approx(GOLDEN[model].to_numpy(), abs=1e-6)
    if f"{model}_v" in GOLDEN:
        assert by_channel(told, model, "value").to_numpy() == pytest.approx(GOLDEN[f"{model}_v"].to_numpy(), abs=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_chains_of_every_order_are_the_golden_ones(paths, order):
    chain = attribution.markov(paths, order=order)
    effects = pd.Series(chain.removal_effects).sort_index()

    assert chain.conversion_probability == pytest.approx(0.2238451355968638, abs=1e-9)  # 19785 / 88387 at every order
    if order == 1:
        assert effects.to_numpy() == pytest.approx(GOLDEN["effect"].to_numpy(), abs=5.01e-7)
    if order == 3:
        assert {name: effects[name] for name in THIRD} == pytest.approx(THIRD, abs=5.01e-7)
    assert effects.between(0, 1).all() and set(effects.index) == set(GOLDEN.index)


def by_deletion(journeys, order):
    """Removal effects of the definition: send each state that holds the channel to nothing, and solve again."""
    numbers, steps = {}, []
    for i, (begin, end) in enumerate(zip(journeys.begins[:-1], journeys.begins[1:], strict=True)):
        path, won, lost = tuple(journeys.codes[begin:end]), journeys.won_by_path[i], journeys.lost_by_path[i]
        states = [path[j : j + order] for j in range(max(len(path) - order, 0) + 1)]
        at = [numbers.setdefault(state, len(numbers)) for state in states]
        steps += [(-1, at[0], won + lost), *((a, b, won + lost) for a, b in pairwise(at))]
        steps += [(at[-1], -1, won), (at[-1], -2, lost)]
    n = len(numbers)
    counts = np.zeros((n + 1, n + 2))  # from states and the beginning, to states, nothing and conversion
    for a, b, weight in steps:
        counts[a, b] += weight
    share = counts / counts.sum(axis=1, keepdims=True)
    holds = np.array([[c in state for state in numbers] for c in range(1, len(journeys.channels) + 1)])
    reached = []
    for gone in (np.zeros(n, bool), *holds):
        kept = ~gone
        won = np.linalg.solve(np.eye(kept.sum()) - share[:n, :n][np.ix_(kept, kept)], share[:n, -1][kept])
        reached.append(share[n, :n][kept] @ won)
    return reached[0], 1 - np.array(reached[1:]) / reached[0], n


@pytest.mark.parametrize(("order", "n_states"), [(1, 12), (2, 120), (3, 933)])
def test_chains_are_those_of_the_definition(paths, order, n_states):
    chain = attribution.markov(paths, order=order)
    converting, effects, n = by_deletion(paths, order)

    assert n == n_states and chain.conversion_probability == pytest.approx(converting, abs=1e-9)
    assert [chain.removal_effects[name] for name in paths.channels] == pytest.approx(effects.tolist(), abs=1e-8)
