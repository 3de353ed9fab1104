"""Before and after with a control: against statsmodels and scipy on real regions, coverage, laws, bad input."""

from datetime import date

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import stdtrit
from scipy.stats import ttest_ind

from kpi_helpers.before_after import Panel, difference_in_differences, read_panel
from kpi_helpers.errors import KpiError

NAMES = {"unit": "geo", "at": "date", "value": "sales", "treated": "treated"}
TEST = {"start": "2015-02-16", "end": "2015-03-15"}


@pytest.fixture(scope="module")
def geo(real_data):
    """Rows of Google's geo experiment: 100 regions, cost in the treated ones from 16 February to 15 March 2015."""
    sales, groups = (
        pd.read_csv(real_data("geo-experiment") / f"{n}.csv.gz") for n in ("salesandcost", "geoassignment")
    )
    return sales.merge(groups, on="geo").assign(treated=lambda t: t["geo.group"] == 2)


@pytest.fixture(scope="module")
def panel(geo):
    return read_panel(geo, **NAMES, **TEST)


def means(panel):
    """Mean of each unit and day before and after."""
    before = panel.sums[:, :-1].sum(axis=1) / panel.days[:, :-1].sum(axis=1)
    return before, panel.sums[:, -1] / panel.days[:, -1]


def rows(frame, what):
    return frame[frame["what"] == what]


# --- real regions


def test_sums_are_the_published_ones(geo):
    sales, cost = (read_panel(geo, **NAMES | {"value": v}, start=TEST["start"]) for v in ("sales", "cost"))

    assert sales.days.sum() == 9225  # rows, sums and cost: README of the data
    assert sales.sums.sum() == pytest.approx(5_596_024.66, abs=0.005)
    assert cost.sums.sum() == pytest.approx(50_000, abs=0.005)
    assert cost.sums[~cost.treated].sum() == 0
    assert sales.n_missing == 100 * 93 - 9225
    assert (len(sales.treated), sales.treated.sum(), sales.n_left_out) == (100, 50, 0)


def test_unit_means_leave_out_missing_days(geo, panel):
    held = geo[geo["date"].between("2015-01-05", "2015-03-15")]
    after = held["date"] >= TEST["start"]

    assert panel.n_missing == 70 * 100 - len(held) > 0
    for got, part in zip(means(panel), (held[~after], held[after]), strict=True):
        expected = part.assign(geo=part["geo"].astype(str)).groupby("geo")["sales"].mean()
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_relative_effect_is_that_of_weighted_regression(panel):
    import statsmodels.api as sm

    result, (before, after), t = difference_in_differences(panel), means(panel), panel.treated
    fit = sm.WLS(after, np.column_stack([before * ~t, before * t]), weights=1 / before).fit(cov_type="HC2")
    times = before[t].sum() * 28

    assert result.effect == pytest.approx((fit.params[1] - fit.params[0]) * times, rel=1e-9)
    half = stdtrit(result.degrees_of_freedom, 0.975) * np.hypot(*fit.bse) * times
    assert (result.effect_high - result.effect_low) / 2 == pytest.approx(half, rel=1e-9)
    assert result.lift == pytest.approx(fit.params[1] / fit.params[0] - 1, rel=1e-9)
    assert result.actual - result.expected == pytest.approx(result.effect, rel=1e-9)
    assert result.actual == pytest.approx(after[t].sum() * 28, rel=1e-9)


def test_absolute_effect_is_that_of_clustered_least_squares(panel):
    import statsmodels.api as sm

    result, (before, after), t = difference_in_differences(panel, scale="absolute"), means(panel), panel.treated
    late, group = np.repeat([0, 1], 100), np.tile(t, 2)
    design = np.column_stack([np.ones(200), group, late, group * late])
    clustered = {"cov_type": "cluster", "cov_kwds": {"groups": np.tile(np.arange(100), 2)}}
    fit = sm.OLS(np.concatenate([before, after]), design).fit(**clustered)
    welch = ttest_ind((after - before)[t], (after - before)[~t], equal_var=False)

    assert result.effect == pytest.approx(fit.params[3] * 50 * 28, rel=1e-9)
    error = (result.effect_high - result.effect_low) / 2 / stdtrit(result.degrees_of_freedom, 0.975)
    assert error == pytest.approx(fit.bse[3] * 50 * 28, rel=0.01)  # its correction for few clusters is another
    assert result.effect_p_value == pytest.approx(welch.pvalue, rel=1e-9)
    ends = np.array(welch.confidence_interval()) * 50 * 28
    assert (result.effect_low, result.effect_high) == pytest.approx(ends, rel=1e-9)


def test_cost_brought_three_times_itself_and_the_naive_change_twice_as_much(panel):
    import statsmodels.api as sm

    result, absolute = (difference_in_differences(panel, scale=s, cost=50_000) for s in ("relative", "absolute"))
    (before, after), spent = means(panel), np.where(panel.treated, 1.0, 0.0)
    spent *= before / before[panel.treated].sum() * 50_000 / 28  # the cost of a region went with its sales
    # Vaver & Koehler (2011), equation 1: after on before and cost, weights 1 / before
    ours = sm.WLS(after, np.column_stack([np.ones(100), before, spent]), weights=1 / before).fit()

    assert result.per_cost_low < ours.params[2] < result.per_cost_high
    assert result.per_cost == pytest.approx(3.013, abs=5e-4)
    assert result.value[1] > 2.2 * result.effect
    width, wide = (r.effect_high - r.effect_low for r in (result, absolute))
    assert 7.8 < wide / width < 7.9  # as the docstring says
    assert (result.verdict, absolute.verdict) == ("up", "open")


def test_placebos_are_effects_of_pretended_starts(geo, panel):
    result = difference_in_differences(panel)
    pretended = rows(result.frame, "placebo")
    last = [*pretended["start"][1:], date(2015, 2, 16)]

    assert pretended["start"].tolist() == [date(2015, 1, 17), date(2015, 1, 27), date(2015, 2, 6)]
    for row, end in zip(pretended.itertuples(), last, strict=True):
        again = difference_in_differences(
            read_panel(geo, **NAMES, start=row.start, end=end - pd.Timedelta(days=1)), scale="relative"
        )
        size = result.effect / again.effect * (row.value / result.effect)  # both sums are of other days
        ends = (row.value, row.low, row.high)
        assert ends == pytest.approx([size * e for e in (again.effect, again.effect_low, again.effect_high)], rel=1e-9)
        assert row.p_value == pytest.approx(again.effect_p_value, rel=1e-9)
    assert result.n_alarms == 0


def test_drift_is_the_difference_of_the_trends(geo, panel):
    before = geo[geo["date"] < TEST["start"]].assign(day=lambda t: pd.to_datetime(t["date"]).astype("int64"))
    unit = before.assign(day=before["day"].rank(method="dense")).groupby(["treated", "geo"])
    slopes = unit.apply(lambda t: np.polyfit(t["day"], t["sales"], 1)[0])
    size = unit["sales"].mean().groupby("treated").sum()
    trends = slopes.groupby("treated").sum() / size * 35 * size[True] * 28  # 35 days between the middles

    result = difference_in_differences(panel)

    assert panel.gap == 35
    assert rows(result.frame, "drift")["value"].item() == pytest.approx(trends[True] - trends[False], rel=1e-9)
    absolute = rows(difference_in_differences(panel, scale="absolute").frame, "drift").iloc[0]
    welch = ttest_ind(slopes[True], slopes[False], equal_var=False)
    assert absolute["p_value"] == pytest.approx(welch.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [100, 20])
def test_intervals_hold_on_regions_that_nothing_was_done_to(geo, n):
    quiet = read_panel(geo[geo["date"] < TEST["start"]], **NAMES, start="2015-02-02")
    rng, missed = np.random.default_rng(5), 0
    for _run in range(500):
        chosen = rng.permutation(100)[:n]
        picked = quiet._replace(days=quiet.days[chosen], sums=quiet.sums[chosen], slope=quiet.slope[chosen])
        missed += difference_in_differences(picked._replace(treated=rng.permutation(n) < n // 2)).effect_p_value < 0.05

    assert 0.02 < missed / 500 < 0.076


# --- simulated units


def simulated(rng, n=40, k=5, effect=0.0, drift=0.0, spread=1.5, noise=1.0, days=20):
    """Units of very different size, whose noise grows with the root of it, in `k` stretches and that of treatment."""
    size, treated = 1000 * np.exp(spread * rng.standard_normal(n)), np.arange(n) % 2 == 1
    season = rng.uniform(0.7, 1.3, k + 1)
    trend = 1 + drift * np.outer(treated, np.arange(k + 1))
    daily = size[:, None] * season * trend + noise * np.sqrt(size)[:, None] * rng.standard_normal((n, k + 1))
    daily[treated, -1] += effect * size[treated] * season[-1]
    at = (np.arange(k) - (k - 1) / 2) * days
    begins = tuple(date(2026, 1, 1) + pd.Timedelta(days=days * i) for i in range(k + 1))
    slope = daily[:, :k] @ at / max(at @ at, 1)
    gap = days * (k + 1) / 2
    panel = Panel(treated, np.full((n, k + 1), days), daily * days, slope, begins, gap, days)
    return panel, effect * size[treated].sum() * season[-1] * days


@pytest.mark.parametrize(("scale", "spread"), [("relative", 1.5), ("absolute", 0.0)])
def test_interval_covers_the_planted_effect_as_often_as_it_says(scale, spread):
    rng, low, high, alarms, apart, n = np.random.default_rng(11), 0, 0, 0, 0, 1000
    for _run in range(n):
        panel, truth = simulated(rng, effect=0.1, spread=spread)
        result = difference_in_differences(panel, scale=scale)
        low, high = low + (truth < result.effect_low), high + (truth > result.effect_high)
        alarms, apart = alarms + result.n_alarms, apart + (result.verdict == "apart")

    assert 0.033 <= (low + high) / n <= 0.069  # 99% band of 0.05 in 1,000
    assert 0.013 <= min(low, high) / n <= max(low, high) / n <= 0.039  # and of 0.025
    assert 0.041 <= alarms / (4 * n) <= 0.060  # and of 4,000
    assert apart / n < 0.10  # trend and placebos, each at its own level


def test_groups_that_moved_apart_before_are_found():
    rng = np.random.default_rng(3)
    found = [difference_in_differences(simulated(rng, drift=0.03)[0]) for _run in range(50)]

    assert sum(r.verdict == "apart" for r in found) >= 48
    assert "moved apart before" in found[0].sentence()
    drift = [rows(r.frame, "drift")["value"].item() / r.expected for r in found]
    assert np.mean(drift) == pytest.approx(0.09, abs=0.02)  # 3% a stretch, three stretches from middle to middle


def test_trends_alone_can_tell_that_groups_moved_apart():
    panel, _truth = simulated(np.random.default_rng(9), k=1)
    size = panel.sums[:, 0] / 20
    even = size * np.random.default_rng(10).normal(0, 0.001, 40)

    same, apart = (difference_in_differences(panel._replace(slope=even + d * panel.treated * size)) for d in (0, 0.01))

    assert same.what == apart.what == ("effect", "naive", "drift")
    assert (same.verdict, apart.verdict) == ("open", "apart")


# --- laws


def test_order_of_units_does_not_matter():
    panel, _truth = simulated(np.random.default_rng(1), effect=0.05)
    turned = panel._replace(**{f: getattr(panel, f)[::-1] for f in ("treated", "days", "sums", "slope")})

    left, right = (difference_in_differences(p).frame for p in (panel, turned))
    pd.testing.assert_frame_equal(left, right, rtol=1e-9)


def test_order_of_rows_and_parts_of_a_day_do_not_matter(geo, panel):
    parts = pd.concat([geo.assign(sales=geo["sales"] * share) for share in (0.25, 0.75)]).sample(frac=1, random_state=1)

    again = read_panel(parts, **NAMES, **TEST)

    np.testing.assert_allclose(again.sums, panel.sums, rtol=1e-12)
    np.testing.assert_array_equal(again.days, panel.days)


def test_a_constant_of_a_unit_and_a_shock_of_all_change_nothing_absolute():
    panel, _truth = simulated(np.random.default_rng(2), effect=0.05)
    more = panel.sums + panel.days * np.random.default_rng(4).uniform(0, 500, (40, 1))
    more[:, -1] += 123 * panel.days[:, -1]

    before, after = (difference_in_differences(panel._replace(sums=s), scale="absolute") for s in (panel.sums, more))

    assert after.effect == pytest.approx(before.effect, rel=1e-9)
    assert (after.effect_low, after.effect_high) == pytest.approx((before.effect_low, before.effect_high), rel=1e-9)


def test_a_shock_that_multiplies_all_keeps_the_lift():
    panel, _truth = simulated(np.random.default_rng(2), effect=0.05)
    shocked = panel.sums * np.where(np.arange(6) == 5, 1.7, 1.0)

    before, after = (difference_in_differences(panel._replace(sums=s)) for s in (panel.sums, shocked))

    for end in ("lift", "lift_low", "lift_high"):
        assert getattr(after, end) == pytest.approx(getattr(before, end), rel=1e-9)
    assert after.effect == pytest.approx(1.7 * before.effect, rel=1e-9)


def test_swapping_the_groups_turns_the_effect():
    panel, _truth = simulated(np.random.default_rng(2), effect=0.05)
    swapped = panel._replace(treated=~panel.treated)

    for scale in ("relative", "absolute"):
        one, other = (difference_in_differences(p, scale=scale) for p in (panel, swapped))
        assert other.effect_p_value == pytest.approx(one.effect_p_value, rel=1e-9)
        if scale == "relative":
            assert 1 + other.lift == pytest.approx(1 / (1 + one.lift), rel=1e-9)
            assert 1 + other.lift_low == pytest.approx(1 / (1 + one.lift_high), rel=1e-9)
        else:
            assert (other.effect, other.effect_low) == pytest.approx((-one.effect, -one.effect_high), rel=1e-9)


def test_lift_excludes_zero_exactly_when_the_effect_does():
    rng = np.random.default_rng(8)
    for _run in range(200):
        for scale in ("relative", "absolute"):
            r = difference_in_differences(simulated(rng, n=8, effect=0.05)[0], scale=scale)
            if np.isfinite(r.lift_low):
                assert (r.lift_low * r.lift_high > 0) == (r.effect_low * r.effect_high > 0) == (r.effect_p_value < 0.05)


# --- reading and saying


def test_both_engines_read_the_same(engine):
    rng, days = np.random.default_rng(1), pd.date_range("2026-01-01", periods=30)
    frame = pd.MultiIndex.from_product([[f"S{i}" for i in range(8)], days], names=["shop", "day"]).to_frame(index=False)
    frame = frame.assign(
        amount=rng.uniform(1, 9, len(frame)).round(2), new=frame["shop"].isin(["S1", "S2", "S3", "S5"])
    )
    frame.loc[3:5, "amount"] = np.nan
    named = {"unit": "shop", "at": "day", "value": "amount", "treated": "new", "start": date(2026, 1, 21)}
    source = engine.source(frame, "calls", {"calls": {"columns": {"call_id": "shop", "called_at": "day"}}})
    stored = source._backend.table("calls", database=None if engine.name == "duckdb" else _place(source))

    ours, theirs = read_panel(frame, **named), read_panel(stored, **named)

    assert ours[4:] == theirs[4:]
    assert ours.n_missing == 3
    for left, right in zip(ours[:4], theirs[:4], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9)


def _place(source):
    return source._mapping["calls"]["table"].split(".")[0]


@pytest.mark.parametrize("language", ["en", "vi"])
def test_page_holds_groups_effect_naive_change_and_checks(panel, language):
    result = difference_in_differences(panel, cost=50_000, unit="money", currency="USD")
    page = result.html(language)

    told = {
        "en": ("$150,657", "$334,295", "+17.9%", "Pretended", "3.01", "missing, not zero", "0 of 3"),
        "vi": ("150.657 $", "334.295 $", "+17,9%", "giả sử bắt đầu", "3,01", "đối chứng", "0 trên 3"),
    }
    for words in told[language]:
        assert words in page.replace("\u00a0", " ").replace("Placebo: pretended", "Pretended"), words
    assert page.count("<tr") == 1 + 2 + 1 + 6 + 1


def test_every_verdict_has_its_sentence():
    rng = np.random.default_rng(1)
    quiet = simulated(rng)[0]
    flat = quiet._replace(sums=np.repeat(quiet.sums[:, :1], 6, axis=1), slope=np.zeros(40))
    cases = {
        "up": (simulated(rng, effect=0.2)[0], "brought the treated units"),
        "down": (simulated(rng, effect=-0.2)[0], "cost the treated units"),
        "open": (simulated(np.random.default_rng(6))[0], "Too close to call"),
        "unknown": (flat, "cannot be computed"),
    }
    for verdict, (panel, words) in cases.items():
        result = difference_in_differences(panel)
        assert result.verdict == verdict
        assert words in result.sentence()
        assert result.sentence("vi") != result.sentence()


def test_a_lift_without_bounds_is_none():
    # the control's ratio is 2 with an error of 2: that of the treated may be any multiple of it
    sums = np.array([[10, 0], [10, 0], [10, 60], [10, 10], [10, 11], [10, 12]])
    panel = Panel(np.repeat([False, True], 3), np.ones((6, 2)), sums, np.zeros(6), (date(2026, 1, 1),) * 2, 1, 1)
    below = panel._replace(sums=panel.sums - [0, 100])

    result, negative = difference_in_differences(panel), difference_in_differences(below, scale="absolute")

    assert np.isfinite([result.effect_low, result.effect_high, negative.effect_low]).all()
    assert result.lift == pytest.approx(1.1 / 2 - 1)
    assert np.isnan([result.lift_low, result.lift_high, negative.lift]).all()


# --- bad input


def small(**changed):
    days = pd.date_range("2026-01-01", periods=10)
    keys = pd.MultiIndex.from_product([[f"S{i}" for i in range(6)], days], names=["shop", "day"])
    frame = keys.to_frame(index=False).assign(amount=5.0, new=lambda t: t["shop"] >= "S3")
    return frame.assign(amount=np.arange(60) % 7 + 1.0, **changed)


SMALL = {"unit": "shop", "at": "day", "value": "amount", "treated": "new", "start": "2026-01-06"}


def test_reader_says_what_is_wrong():
    torn, whole = small(), small()
    torn.loc[33, "new"] = False

    with pytest.raises(KpiError, match=r"new must be 0 or 1, one for all rows of a unit, unlike S3"):
        read_panel(torn, **SMALL)
    with pytest.raises(KpiError, match=r"unlike S0, S1, S2"):
        read_panel(small(new=0.5), **SMALL)
    with pytest.raises(KpiError, match=r"new is string.*Give 1 or true"):
        read_panel(small(new="yes"), **SMALL)
    with pytest.raises(KpiError, match=r"known on 0 days before it and 10 from it"):
        read_panel(whole, **SMALL | {"start": "2026-01-01"})
    with pytest.raises(KpiError, match=r"known on 10 days before it and 0 from it.*needs days on both sides"):
        read_panel(whole, **SMALL | {"start": "2026-02-01"})
    with pytest.raises(KpiError, match=r"known on 0 days"):
        read_panel(whole.assign(amount=np.nan), **SMALL)
    with pytest.raises(KpiError, match=r"start=16/02/2015, .* must be days. Write YYYY-MM-DD"):
        read_panel(whole, **SMALL | {"start": "16/02/2015"})
    with pytest.raises(KpiError, match=r"'sales.csv' is no file, DataFrame or Ibis table"):
        read_panel("sales.csv", **SMALL)
    with pytest.raises(KpiError, match=r"no column amout. Did you mean amount"):
        read_panel(whole, **SMALL | {"value": "amout"})


def test_calculator_says_what_is_wrong():
    panel = read_panel(small(), **SMALL)
    nan = panel._replace(sums=np.where(np.arange(6)[:, None] == 2, np.nan, panel.sums))
    below = panel._replace(sums=-panel.sums)

    with pytest.raises(KpiError, match=r"control group has 0 units"):
        difference_in_differences(panel._replace(treated=np.ones(6, bool)))
    with pytest.raises(KpiError, match=r"treated group has 2 units to compare and needs 3: days of one unit"):
        difference_in_differences(panel._replace(treated=np.arange(6) > 3))
    with pytest.raises(KpiError, match=r"holds a NaN"):
        difference_in_differences(nan)
    with pytest.raises(KpiError, match=r'below 0 before the start. Write scale="absolute"'):
        difference_in_differences(below)
    with pytest.raises(KpiError, match=r"scale='absolut' is unknown. Did you mean absolute"):
        difference_in_differences(panel, scale="absolut")
    with pytest.raises(KpiError, match=r"confidence=95 is not in"):
        difference_in_differences(panel, confidence=95)
    assert difference_in_differences(below, scale="absolute").n_treated == 3


def test_units_without_before_or_after_are_left_out_and_counted():
    frame = small()
    new = frame[frame["shop"] == "S0"].assign(shop="S9").query("day >= '2026-01-06'")

    gone = new.assign(shop="S8", day=new["day"] - pd.Timedelta(days=5))

    panel = read_panel(pd.concat([frame, new, gone]), **SMALL)

    assert (len(panel.treated), panel.n_left_out, panel.n_missing) == (6, 2, 10)
    assert difference_in_differences(panel).n_control == 3


def test_not_a_number_is_missing_too():
    rows = pa.Table.from_pandas(small(), preserve_index=False)
    amounts = np.where(np.arange(60) % 9 == 4, np.nan, np.arange(60.0))  # NaN, not null

    panel = read_panel(ibis.memtable(rows.set_column(2, "amount", pa.array(amounts))), **SMALL)

    assert panel.n_missing == np.isnan(amounts).sum()
    assert panel.sums.sum() == np.nansum(amounts)


def test_one_day_before_has_neither_trend_nor_placebo():
    result = difference_in_differences(read_panel(small(), **SMALL | {"start": "2026-01-02"}))

    assert result.what == ("effect", "naive", "drift")
    assert np.isnan(result.value[2])
    assert result.verdict in ("up", "down", "open")
    assert "–" in result.html("vi")
