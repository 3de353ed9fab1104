"""The search for segments finds what is planted, names nothing in noise, and its parts add up."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2_contingency

from kpi_helpers.changes import explain_change
from kpi_helpers.errors import KpiError
from kpi_helpers.suspects import find_segments, mix_shifts

BY = ["channel", "device", "city"]
LEAVES = pd.DataFrame(list(itertools.product("ABCDEF", ["desktop", "mobile", "tablet"], "HSK")), columns=BY)


LEAF = np.random.default_rng(1)
VISITS, RATE = np.exp(LEAF.normal(0, 0.7, len(LEAVES))), 0.03 * np.exp(LEAF.normal(0, 0.3, len(LEAVES)))
CODES = {name: pd.factorize(LEAVES[name])[0] for name in BY}


def days(rng, n, *, size=400, shocks=0.0, money=False):
    """Daily sums of each leaf: visits, orders (their rate shaken by day, by channel and day, by device and day)."""
    rate = RATE * np.exp(rng.normal(0, 0.1, (n, 1)))
    for name, sd in (("channel", shocks), ("device", shocks / 2)):
        rate = rate * np.exp(rng.normal(0, sd, (n, CODES[name].max() + 1)))[:, CODES[name]]
    visits = rng.poisson(size * VISITS, (n, len(LEAVES)))
    orders = rng.binomial(visits, rate.clip(0, 1)).astype(float)
    orders = rng.gamma(orders * 1.5, 20) if money else orders  # of so many orders, each a gamma one
    rows = pd.concat([LEAVES] * n, ignore_index=True)
    return rows.assign(date=np.repeat(np.arange(n), len(LEAVES)), visits=visits.ravel(), orders=orders.ravel())


def fallen(rng, rows, where, share=0.4):
    hit = rows.eval(where)
    return rows.assign(orders=np.where(hit, rng.binomial(rows["orders"].astype(int), 1 - share), rows["orders"]))


# 8 weeks of a weekday against one day; 4 weeks; sums without days; orders alone; money
NOISE = {
    "binomial": ({}, 1, "visits"),
    "shaken": ({"shocks": 0.12}, 4, "visits"),
    "shaken, large": ({"shocks": 0.12, "size": 4000}, 8, "visits"),
    "shaken money": ({"shocks": 0.12, "money": True, "size": 100}, 4, ""),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise_raises_at_most_five_percent_false_explanations(kind):
    how, n, denominator = NOISE[kind]
    rng, false = np.random.default_rng(20), 0
    for _ in range(200):
        before, after = days(rng, n, **how), days(rng, 1, **how)
        if n == 1:
            before, after = before.drop(columns="date"), after.drop(columns="date")
        false += len(find_segments(before, after, BY, numerator="orders", denominator=denominator).frame) > 1

    assert false <= binom.ppf(0.99, 200, 0.05)


@pytest.mark.parametrize(("how", "n"), [({"size": 4000}, 1), ({"size": 4000}, 8), ({"size": 4000, "shocks": 0.05}, 8)])
def test_a_planted_cell_of_two_dimensions_is_found_first(how, n):
    # lessons_and_reports.md section 3b: one channel x device at -40%, found first in 40 of 40 runs
    rng, first, extra = np.random.default_rng(21), 0, 0
    for _ in range(40):
        before, after = days(rng, n, **how), fallen(rng, days(rng, 1, **how), "channel == 'C' and device == 'mobile'")
        found = find_segments(before, after, BY, numerator="orders", denominator="visits").segment
        first += found[0] == "channel = C, device = mobile"
        extra += len(found) > 2

    assert first >= 39 and extra <= binom.ppf(0.999, 40, 0.05)


def test_a_weeks_shift_and_two_causes_are_told_apart():
    rng = np.random.default_rng(22)
    before, after = days(rng, 28, shocks=0.1, size=1000), days(rng, 7, shocks=0.1, size=1000)
    after = fallen(rng, fallen(rng, after, "channel == 'B'", 0.5), "device == 'tablet' and city == 'K'", 0.6)

    found = find_segments(before, after, BY, numerator="orders", denominator="visits")

    assert set(found.segment[:-1]) == {"channel = B", "device = tablet, city = K"}


def test_of_two_halves_the_one_that_moved_is_named():
    rows = pd.DataFrame({"device": ["mobile", "desktop"], "visits": [90_000, 30_000], "orders": [2700, 900]})

    for moved, orders in (("mobile", [1900, 905]), ("desktop", [2710, 600])):
        found = find_segments(rows, rows.assign(orders=orders), ["device"], numerator="orders", denominator="visits")
        assert found.segment == (f"device = {moved}", "")


def test_one_factor_for_all_and_shifts_between_leaves_raise_no_suspicion():
    rng = np.random.default_rng(23)
    before, after = days(rng, 1, size=20_000), days(rng, 1, size=20_000)
    told = {"numerator": "orders", "denominator": "visits"}
    less = fallen(rng, after, "visits >= 0", 0.3)
    triple = after["channel"].eq("A") * 2 + 1
    shifted = after.assign(visits=after["visits"] * triple, orders=rng.poisson(after["orders"] * triple))

    assert find_segments(before, less, BY, **told).segment == ("",)
    assert find_segments(before, shifted, BY, **told).segment == ("",)
    assert "none" not in find_segments(before, less, BY, **told).sentence().lower()


def test_p_is_pearsons_of_the_fourfold_table_times_the_cells():
    # the score test of a logistic slope for a group is Pearson's chi-square: Agresti (2013), section 5.3.5
    before = pd.DataFrame({"channel": ["A", "B"], "orders": [5000, 8000]})
    found = find_segments(before, before.assign(orders=[5350, 7900]), ["channel"], numerator="orders", inflation=1)
    expected = chi2_contingency([[5000, 5350], [8000, 7900]], correction=False).pvalue

    assert found.p[0] == pytest.approx(2 * expected, rel=0.05)  # two cells; here the tail is the binomial one


def test_effects_add_up_and_are_those_of_mix_and_rate():
    rng = np.random.default_rng(24)
    before, after = days(rng, 1, size=4000), fallen(rng, days(rng, 1, size=4000), "channel == 'C'")
    found = find_segments(before, after, BY, numerator="orders", denominator="visits")
    sums = [{c: (p["orders"].sum(), p["visits"].sum()) for c, p in f.assign(c=f["channel"].eq("C")).groupby("c")}
            for f in (before, after)]  # fmt: skip
    change = explain_change(*sums)
    by_name = dict(zip(change.segment, np.add(change.mix if isinstance(change.mix, tuple) else change.frame["mix"],
                                              change.frame["rate"]), strict=True))  # fmt: skip

    assert found.effect == pytest.approx([by_name[True], by_name[False]], rel=1e-9)
    assert sum(found.effect) == pytest.approx(change.total, rel=1e-9) and sum(found.share) == pytest.approx(1)
    assert f"{found.share[0]:.0%}" in found.sentence() and found.sentence("vi") != found.sentence()


def test_volume_by_segment_and_a_segment_that_was_not_there():
    rng = np.random.default_rng(25)
    before, after = days(rng, 4, size=1000), days(rng, 1, size=1000)
    new = after[after["channel"] == "A"].assign(channel="New")
    found = find_segments(before, pd.concat([after, new]), BY, numerator="orders")

    assert found.segment == ("channel = New", "") and found.before[0] == 0
    assert sum(found.effect) == pytest.approx(found.after[0] + found.after[1] - before["orders"].sum() / 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"orders": 7}, r"How far orders varies by chance is not known: give rows a day.*\(1 for counts"),
        ({"orders": -1.0}, "must be finite and not below 0"),
        ({"orders": np.nan}, "One of the two times has no rows"),
    ],
)
def test_sums_that_cannot_be_are_told(change, said):
    rows = pd.DataFrame({"channel": ["A", "B"], "orders": [10.0, 20.0]})

    with pytest.raises(KpiError, match=said):
        find_segments(rows, rows.assign(**change), ["channel"], numerator="orders")
    with pytest.raises(KpiError, match=r"before has no column chanel\. Did you mean channel"):
        find_segments(rows, rows, ["chanel"], numerator="orders")


@pytest.mark.parametrize("orders", [[0, 0], [10, 20]])
def test_nothing_that_can_be_compared_names_nothing(orders):
    rows = pd.DataFrame({"channel": ["A", "A"], "device": ["", None], "orders": orders})

    assert find_segments(rows, rows, ["channel", "device"], numerator="orders", inflation=1).segment == ("",)


@pytest.mark.parametrize("name", ["at", "period", "day", "x", "0"])
def test_dimensions_may_have_any_name(name):
    before = pd.DataFrame({name: ["A", "B"], "orders": [500, 800], "visits": [5000, 8000]})
    told = {"numerator": "orders", "denominator": "visits"}

    assert find_segments(before, before.assign(orders=[300, 800]), [name], **told).segment == (f"{name} = A", "")


@pytest.mark.parametrize(
    ("by", "change", "said"),
    [
        ([], {}, "name columns, each once"),
        (["channel", "channel"], {}, "name columns, each once"),
        (["orders"], {}, "other than the date and the sums"),
        (["channel"], {"orders": "many"}, "must hold numbers"),
        (["channel"], {"date": pd.NaT}, "One of the two times has no rows"),
    ],
)
def test_a_search_that_makes_no_sense_is_told(by, change, said):
    rows = pd.DataFrame({"channel": ["A", "B"], "orders": [10.0, 20.0], "date": pd.Timestamp("2026-03-01")})

    with pytest.raises(KpiError, match=said):
        find_segments(rows, rows.assign(**change), by, numerator="orders")


def shares(rng, n=420, k=5, shock=0.1, size=2000):
    """Counts of k segments a day: weekdays differ by segment, totals wander, shocks last a little."""
    week, lasting = np.exp(rng.normal(0, 0.1, (7, k))), np.zeros((n, k))
    for t in range(1, n):
        lasting[t] = 0.4 * lasting[t - 1] + rng.normal(0, shock, k)
    mean = size * rng.dirichlet(np.full(k, 3.0)) * week[np.arange(n) % 7] * np.exp(lasting)
    return pd.DataFrame(rng.poisson(mean * np.exp(rng.normal(0, 0.2, (n, 1)))), columns=list("abcdefgh"[:k])).astype(
        float
    )


def test_mix_alarms_keep_their_stated_rate():
    rng, alarms, n = np.random.default_rng(26), 0, 0
    for k in range(60):
        judged = mix_shifts(shares(rng, k=2 + k % 6, shock=(0, 0.08, 0.15)[k % 3]))
        alarms, n = alarms + (judged["p"] < 0.02 / 7).sum(), n + len(judged)

    assert n == 60 * (420 - 56)
    assert alarms / n * 7 < 1.5 * 0.02


@pytest.mark.parametrize("a_day", [3, 6, 15, 50])
def test_mix_alarms_keep_their_rate_of_few_things_a_day(a_day):
    alarms = n = 0
    for seed in range(16):
        counts = np.random.default_rng(seed).multinomial(a_day, [0.5, 0.3, 0.15, 0.05], 420)
        judged = mix_shifts(pd.DataFrame(counts))
        alarms, n = alarms + (judged["p"] < 0.02 / 7).sum(), n + len(judged)

    assert alarms / n * 7 < 1.5 * 0.02


@pytest.mark.parametrize(
    ("values", "season"), [(pd.DataFrame({"a": ["x"]}), 7), (pd.DataFrame({"a": [1]}), "7"), (pd.DataFrame(), 7)]
)
def test_what_is_no_number_is_told(values, season):
    with pytest.raises(KpiError, match=r"must hold numbers|season='7'|has no column"):
        mix_shifts(values, season=season)


def test_a_shift_of_the_mix_is_found_and_a_larger_total_is_not():
    rng, found = np.random.default_rng(27), 0
    for _ in range(20):
        days_ = shares(rng, shock=0.05)
        shifted, doubled = days_.copy(), days_.copy()
        main = days_.sum().idxmax()
        shifted.loc[400:, main] *= 0.5
        doubled.loc[400:] *= 2
        judged = mix_shifts(shifted).query("400 <= position < 403 and p < 0.02 / 7")
        found += len(judged) > 0 and judged["observed"].notna().all()
        later = mix_shifts(doubled).query("position >= 400")["p"]
        assert (later < 0.02 / 7).mean() < 0.2

    assert found >= 16


def test_mix_is_judged_by_earlier_days_only_and_unknown_days_are_left_out():
    days_ = shares(np.random.default_rng(28))
    days_.iloc[100] = np.nan
    judged = mix_shifts(days_)

    pd.testing.assert_frame_equal(judged[judged["position"] < 300], mix_shifts(days_[:300]))
    assert 100 not in set(judged["position"]) and judged["p"].between(0, 1).all()
    assert mix_shifts(days_[:50]).empty and list(mix_shifts(days_[:50])) == list(judged)
