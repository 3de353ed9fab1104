"""Credit by every model against plain loops over people; intervals, totals, calibration by lift tests."""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from ad_worlds import simulate
from scipy.stats import t as student

from kpi_helpers.chains import markov
from kpi_helpers.credits import DEFAULT, MODELS, attribute, calibrate, custom, position, shapley, time_decay
from kpi_helpers.errors import KpiError
from kpi_helpers.journeys import read_journeys
from kpi_helpers.paths import BASELINE, from_paths
from kpi_helpers.pathways import claims

CHANNELS = ("(direct)", "Ads", "Email", "Search")
START = pd.Timestamp("2026-03-01")
OPTIONS = {
    "plain": {},
    "short lookback": {"lookback_days": 3},
    "views": {"view_credit": 0.25},
    "sessions": {"session_gap_days": 2.5},
    "sessions and lookback": {"session_gap_days": 4, "lookback_days": 6},
    "collapsed": {"collapse_repeats": True},
    "all at once": {"lookback_days": 8, "session_gap_days": 3, "view_credit": 0.5, "collapse_repeats": True},
}


def drawn(seed, people=60, days=40):
    """Touches and orders in no order, by the half day: ties, repeated rows, several orders a person, some of nobody."""
    rng = np.random.default_rng(seed)
    n, m = people * 8, people * 2
    at, bought = (START + pd.to_timedelta(rng.integers(0, days * 2, size) / 2, unit="D") for size in (n, m))
    touches = {"customer_id": rng.integers(0, people, n), "touched_at": at, "channel": rng.choice(CHANNELS, n)}
    touches = pd.DataFrame(touches | {"kind": rng.choice(["click", "view"], n, p=[0.7, 0.3])})
    orders = {
        "customer_id": rng.integers(0, people * 5 // 4, m),
        "ordered_at": bought,
        "revenue": rng.random(m) * 90 + 1,
    }
    return pd.concat([touches, touches.sample(9, random_state=seed)]), pd.DataFrame(orders)


def journeys_of(touches, orders, lookback_days=30, session_gap_days=None, view_credit=0.0, collapse_repeats=False):
    """Journeys one by one: person, [(age in days, channel, credit)], value or None; and orders that had no touch."""
    found, untouched = [], []
    credit = {"click": 1.0, "view": view_credit}
    of_touches, of_orders = (dict(list(rows.groupby("customer_id"))) for rows in (touches, orders))
    for person in sorted({*of_touches, *of_orders}):
        mine = of_touches.get(person, touches[:0])
        met = sorted(
            {(at, c, credit[k]) for at, c, k in zip(mine["touched_at"], mine["channel"], mine["kind"], strict=True)}
        )
        met = [touch for touch in met if touch[2] > 0]
        mine = of_orders.get(person, orders[:0]).sort_values(["ordered_at", "revenue"])
        since = pd.Timestamp.min
        for at, value in [*zip(mine["ordered_at"], mine["revenue"], strict=True), (None, None)]:
            between = [touch for touch in met if touch[0] > since and (at is None or touch[0] <= at)]
            since = since if at is None else at
            won = []
            for part in sessions(between, at, session_gap_days):
                due = at is not None and part[-1][0] == between[-1][0] and not late(part[-1][0], at, session_gap_days)
                fresh = [touch for touch in part if due and not late(touch[0], at, lookback_days)]
                for which, worth in ((fresh, value), ([touch for touch in part if touch not in fresh], None)):
                    if which:
                        kept = collapsed(which) if collapse_repeats else which
                        ages = [(at - when) / pd.Timedelta(days=1) if worth else None for when, _, _ in kept]
                        told = [(age, c, k) for age, (_, c, k) in zip(ages, kept, strict=True)]
                        found.append((person, told, worth))
                won += fresh
            untouched += [value] if at is not None and not won else []
    return found, untouched


def late(one, other, days):
    return days is not None and (other - one) / pd.Timedelta(days=1) > days


def sessions(touches, at, gap):
    parts = []
    for touch in touches:
        if parts and not late(parts[-1][-1][0], touch[0], gap):
            parts[-1].append(touch)
        else:
            parts.append([touch])
    return parts


def collapsed(touches):
    return [
        touch for touch, then in zip(touches, [*touches[1:], None], strict=True) if then is None or then[1] != touch[1]
    ]


@cache
def both(seed, case):
    """Journeys as the package reads them, as the loop does, and the orders without a touch."""
    return read_journeys(*drawn(seed), **OPTIONS[case]), *journeys_of(*drawn(seed), **OPTIONS[case])


def weights(model, told):
    """Weights of the touches of a journey, straight from the definitions."""
    n = len(told)
    if model == "first":
        return [1, *[0] * (n - 1)]
    if model == "last":
        return [*[0] * (n - 1), 1]
    if model == "last_non_direct":
        known = [i for i, (_, c, _) in enumerate(told) if c != "(direct)"]
        return [i == (known[-1] if known else n - 1) for i in range(n)]
    if model == "linear":
        return [1] * n
    if model == "position":
        return [1] if n == 1 else [1, 1] if n == 2 else [0.4, *[0.2 / (n - 2)] * (n - 2), 0.4]
    if model == "time_decay":
        return [0.5 ** (age / 7) for age, _, _ in told]
    return [(i + 1) ** 2 / n for i in range(n)]  # "late", a rule of one's own


def credited(found, model):
    """Conversions and value by channel, a journey at a time."""
    sums = defaultdict(lambda: np.zeros(2))
    for _, told, value in found:
        if value is None:
            continue
        if model == "shapley":
            of = {c: 1.0 for _, c, _ in told}
            shares = [(c, 1 / len(of)) for c in of]
        else:
            each = [w * credit for w, (_, _, credit) in zip(weights(model, told), told, strict=True)]
            shares = [(c, w / sum(each)) for w, (_, c, _) in zip(each, told, strict=True)]
        for c, share in shares:
            sums[c] += share * np.array([1, value])
    return np.array([sums[c] for c in CHANNELS])


def table_of(found):
    """The journeys as a table of paths."""
    rows = pd.DataFrame([(" > ".join(c for _, c, _ in told), v is not None, v is None, v or 0) for _, told, v in found])
    rows = rows.set_axis(["path", "won", "lost", "value"], axis=1).astype({"won": int, "lost": int})
    return from_paths(rows, path="path", conversions="won", nulls="lost", value="value")


def of(told, model):
    return told.frame[told.frame["model"] == model].set_index("channel")


RULES = ("first", "last", "last_non_direct", "linear", "position", "time_decay", "shapley")
LATE = custom("late", lambda position, length: position * position / length)


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("seed", [1, 2])
class TestLoops:
    def test_every_rule_is_the_loop_over_people(self, case, seed):
        read, found, untouched = both(seed, case)
        told = attribute(read, (*RULES, LATE), confidence=None)

        assert (read.conversions, read.untouched, read.nulls) == (
            len(drawn(seed)[1]), len(untouched), sum(value is None for *_, value in found)
        )  # fmt: skip
        for model in (*RULES, "late"):
            rows = of(told, model)
            assert rows.loc[list(CHANNELS), ["conversions", "value"]].to_numpy() == pytest.approx(
                credited(found, model)
            )
            assert rows.loc[BASELINE, ["conversions", "value"]].tolist() == pytest.approx(
                [len(untouched), sum(untouched)]
            )

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_chains_and_helpers_are_those_of_the_paths(self, case, seed, order):
        read, found, _ = both(seed, case)
        table = table_of(found)

        one, other = markov(read, order=order), markov(table, order=order)
        pd.testing.assert_frame_equal(one.frame, other.frame)
        pd.testing.assert_frame_equal(one.transitions, other.transitions)
        helped = Counter(c for _, t, v in found if v is not None for c in {c for _, c, _ in t} - {t[-1][1]})
        told = attribute(read, ("last",), confidence=None)
        assert of(told, "last")["assisted"].dropna().to_dict() == {c: helped[c] for c in CHANNELS}


def test_every_model_adds_up_to_all_conversions_and_their_value():
    touches, orders = drawn(5)
    read = read_journeys(touches, orders, people=100)
    told = attribute(read, (*MODELS, LATE), groups=5).frame

    sums = told.groupby("model")[["conversions", "value"]].sum()
    assert len(sums) == 10
    assert sums["conversions"].to_numpy() == pytest.approx(len(orders))
    assert sums["value"].to_numpy() == pytest.approx(orders["revenue"].sum())
    assert told.groupby("model")["share"].sum().to_numpy() == pytest.approx(1)
    kept = told["channel"] != BASELINE
    assert (told["share_low"] <= told["share"])[kept].all() and (told["share"] <= told["share_high"])[kept].all()


def test_rows_in_any_order_and_the_models_one_by_one_say_the_same():
    touches, orders = drawn(6)
    told = attribute(read_journeys(touches, orders, people=100), groups=7).frame
    mixed = read_journeys(touches.sample(frac=1, random_state=1), orders.sample(frac=1, random_state=2), people=100)

    pd.testing.assert_frame_equal(attribute(mixed, groups=7).frame, told)
    alone = pd.concat([attribute(mixed, (model,), groups=7).frame for model in DEFAULT], ignore_index=True)
    pd.testing.assert_frame_equal(alone, told)


def test_simplified_shapley_is_the_value_of_all_coalitions():
    rng, names = np.random.default_rng(3), "ABCDE"
    rows = [("".join(rng.choice(list(names), rng.integers(1, 7))), int(rng.integers(0, 9))) for _ in range(30)]
    frame = pd.DataFrame([(" > ".join(p), n, n * 7.0) for p, n in rows], columns=["path", "won", "value"])
    told = shapley(from_paths(frame, path="path", conversions="won", value="value")).frame

    def worth(coalition):
        return sum(n for p, n in rows if set(p) <= set(coalition))

    for name, found in zip(told["channel"], told["conversions"], strict=True):
        others = [c for c in names if c != name]
        parts = (
            factorial(k) * factorial(4 - k) / factorial(5) * (worth((*some, name)) - worth(some))
            for k in range(5) for some in combinations(others, k)
        )  # fmt: skip
        assert found == pytest.approx(sum(parts), abs=1e-10)
    assert told["value"].to_numpy() == pytest.approx(7 * told["conversions"])


def test_weights_of_position_and_half_lives():
    at = [START + pd.Timedelta(days=d) for d in (0, 7, 14, 14)]
    touches = pd.DataFrame({"customer_id": 1, "touched_at": at[:3], "channel": ["A", "B", "C"]})
    orders = pd.DataFrame({"customer_id": [1], "ordered_at": [at[3]], "revenue": [70.0]})
    models = (position(0.5, 0.3, "ends"), time_decay(3.5, "fast"), time_decay(14, "slow"))
    told = attribute(read_journeys(touches, orders), models, confidence=None)

    assert of(told, "ends")["conversions"].tolist()[:3] == pytest.approx([0.5, 0.2, 0.3])
    assert of(told, "fast")["value"].tolist()[:3] == pytest.approx([70 * w / 21 for w in (1, 4, 16)])
    w = np.array([0.5, 0.5**0.5, 1])
    assert of(told, "slow")["conversions"].tolist()[:3] == pytest.approx(w / w.sum())


class TestTables:
    """Path tables: no times, so some models are left out and said so."""

    TABLE = pd.DataFrame(
        {"p": ["A > (direct)", "B > A", "(direct)"], "won": [3, 2, 1], "lost": [4, 1, 2], "v": [9, 8, 7]}
    )

    def read(self):
        return from_paths(self.TABLE, path="p", conversions="won", nulls="lost", value="v")

    def test_models_that_need_times_are_left_out_and_named(self):
        told = attribute(self.read(), confidence=None)

        assert told.left_out == ("time_decay", "hazard") and set(told.models) == {*DEFAULT} - {"time_decay", "hazard"}
        assert BASELINE not in told.channel
        with pytest.raises(KpiError, match="need times of touches"):
            attribute(self.read(), ("hazard", time_decay(3, "fast")))

    def test_by_hand(self):
        told = attribute(self.read(), ("last_non_direct", "last"), spend={"A": 10.0, "B": 0.0}, confidence=None)

        rows = of(told, "last_non_direct")
        assert rows["conversions"].to_dict() == {"(direct)": 1, "A": 5, "B": 0}
        assert rows["value"].to_dict() == {"(direct)": 7, "A": 17, "B": 0}
        assert (rows.loc["A", "cpa"], rows.loc["A", "roas"], rows.loc["A", "assisted"]) == (2.0, 1.7, 3)
        assert rows.loc[["(direct)", "B"], ["cpa", "roas"]].isna().all(axis=None)
        assert told.shares.loc["A"].to_dict() == pytest.approx({"last_non_direct": 5 / 6, "last": 2 / 6})
        assert told.ranges.loc["A"].tolist() == [pytest.approx(2 / 6), pytest.approx(5 / 6), "last", "last_non_direct"]

    def test_each_journey_is_in_one_group(self):
        read = from_paths(
            self.TABLE.assign(won=[3000, 2000, 1000]), path="p", conversions="won", nulls="lost", value="v"
        )
        parts = read.shared(8)

        assert parts.sum(axis=0) == pytest.approx(read.shared()[0])
        assert parts[..., 0].sum(axis=1) == pytest.approx(np.full(8, 750), abs=100)

    def test_intervals_need_whole_counts(self):
        frame = pd.DataFrame({"p": ["A", "B"], "n": [1.5, 2]})
        with pytest.raises(KpiError, match="Counts of paths must be whole, or else give confidence=None"):
            attribute(from_paths(frame, path="p", conversions="n"), ("linear",))


def half_width(shares, confidence):
    """Delete-a-group jackknife from the shares without each group."""
    n = len(shares)
    error = np.sqrt((n - 1) / n * sum((s - np.mean(shares, axis=0)) ** 2 for s in shares))
    return student.ppf((1 + confidence) / 2, n - 1) * error


class TestIntervals:
    @pytest.mark.parametrize("model", ["linear", "last_non_direct", "time_decay", "shapley", "markov"])
    def test_they_are_those_of_a_loop_that_leaves_people_out(self, model):
        read, found, _ = both(8, "plain")
        rows = of(attribute(read, (model,), groups=9, confidence=0.8), model).loc[list(CHANNELS)]

        people, shares = sorted({person for person, *_ in found}), []
        for g in range(9):
            gone = set(people[g::9])
            left = [row for row in found if row[0] not in gone]
            if model == "markov":
                shares.append(np.array(list(markov(table_of(left)).shares.values())))
            else:
                part = credited(left, model)[:, 0]
                shares.append(part / part.sum())
        half = half_width(shares, 0.8)
        assert rows["share_low"].to_numpy() == pytest.approx((rows["share"] - half).clip(0), abs=1e-9)
        assert rows["share_high"].to_numpy() == pytest.approx((rows["share"] + half).clip(None, 1), abs=1e-9)

    def test_those_of_the_hazard_are_close_to_fitting_it_again(self):
        world = simulate("base", people=8000, seed=4)
        touches, orders = world.touchpoints, world.conversions
        read = read_journeys(touches, orders, people=8100)
        rows = of(attribute(read, ("hazard",), groups=8), "hazard").drop(BASELINE)

        people, shares = np.unique(touches["customer_id"]), []
        for g in range(8):
            gone = people[g::8]
            left = [frame[~frame["customer_id"].isin(gone)] for frame in (touches, orders)]
            part = attribute(read_journeys(*left, people=7100), ("hazard",), confidence=None)
            shares.append(of(part, "hazard").drop(BASELINE)["share"].to_numpy())
        half = half_width(shares, 0.95)
        known = (rows["share"] > 0.005).to_numpy()
        found = (rows["share_high"] - rows["share"]).to_numpy()
        assert found[known] == pytest.approx(half[known], rel=0.2)
        assert (found[~known] >= half[~known]).all()  # fits again stay at 0, which is no certainty

    @pytest.mark.parametrize("model", ["linear", "markov"])
    def test_they_cover_the_share_of_the_population(self, model):
        rng = np.random.default_rng(11)
        paths = [" > ".join(rng.choice(list("ABC"), n, p=[0.5, 0.3, 0.2])) for n in rng.integers(1, 6, 80)]
        weight, chance = rng.dirichlet(np.ones(80)), rng.random(80) * 0.6

        def read(won, lost):
            return from_paths(pd.DataFrame({"p": paths, "w": won, "l": lost}), path="p", conversions="w", nulls="l")

        def rows(*counts, **how):
            return of(attribute(read(*counts), (model,), **how), model)

        truth = rows(1e6 * weight * chance, 1e6 * weight * (1 - chance), confidence=None)["share"]
        hits = []
        for _ in range(200):
            n = rng.multinomial(400, weight)
            won = rng.binomial(n, chance)
            told = rows(won, n - won, groups=20)
            hits.append(((told["share_low"] <= truth) & (truth <= told["share_high"])).to_numpy())
        assert ((np.mean(hits, axis=0) > 0.90) & (np.mean(hits, axis=0) < 0.99)).all()

    def test_one_person_has_no_interval(self):
        touches = pd.DataFrame({"customer_id": 1, "touched_at": [START] * 2, "channel": ["A", "B"]})
        orders = pd.DataFrame({"customer_id": [1], "ordered_at": [START], "revenue": [1.0]})
        told = attribute(read_journeys(touches, orders), ("linear", "markov", "shapley", "hazard")).frame

        assert told[["share_low", "share_high"]].isna().all(axis=None)
        assert told["share"].dropna().tolist() == pytest.approx([0.5] * 8)

    def test_fewer_people_than_groups_are_groups_of_one(self):
        touches, orders = drawn(8, people=12)
        told = attribute(read_journeys(touches, orders), ("linear", "markov"), groups=50).frame

        pd.testing.assert_frame_equal(
            told, attribute(read_journeys(touches, orders), ("linear", "markov"), groups=12).frame
        )


class TestCalibration:
    @pytest.fixture
    def told(self):
        return attribute(both(9, "plain")[0], ("last", "linear", "markov"), confidence=None)

    def rows(self, told, effect, error, channel="Ads"):
        frame = calibrate(told, {channel: (effect, error)}).frame
        return frame[frame["channel"] == channel]

    def test_an_exact_test_gives_the_lift_and_a_vague_one_keeps_the_claim(self, told):
        exact, vague = self.rows(told, 5.0, 1e-9), self.rows(told, 5.0, 1e9)

        assert exact["conversions"].to_numpy() == pytest.approx(5.0)
        assert vague["conversions"].to_numpy() == pytest.approx(vague["claimed"].to_numpy())
        assert exact["weight"].to_numpy() == pytest.approx(1) and vague["weight"].to_numpy() == pytest.approx(
            0, abs=1e-9
        )

    def test_between_them_credit_moves_one_way(self, told):
        moved = np.array([self.rows(told, 5.0, error)["conversions"] for error in (0.1, 1, 3, 10, 30, 100)])

        assert (np.diff(moved, axis=0) > 0).all()  # the claims are larger
        one = self.rows(told, 5.0, 3.0)
        d = one["claimed"] - 5.0
        assert one["conversions"].to_numpy() == pytest.approx((one["claimed"] - d**3 / (d**2 + 9)).to_numpy())

    @pytest.mark.parametrize("effect", [-3.0, 0.0, 5.0, 80.0])
    def test_totals_of_conversions_and_value_are_kept_by_the_baseline(self, told, effect):
        found = calibrate(told, {"Ads": (effect, 2.0), "Search": (1.0, 5.0)}).frame

        columns = ["conversions", "value"]
        before, after = (frame.groupby("model")[columns].sum() for frame in (told.frame, found))
        assert after.to_numpy() == pytest.approx(before.to_numpy())
        rest = found["lift"].isna() & (found["channel"] != BASELINE)
        assert found.loc[rest, columns].to_numpy() == pytest.approx(told.frame.loc[rest, columns].to_numpy())
        kept = found["channel"] != BASELINE
        each = found["value"] / found["conversions"], told.frame["value"] / told.frame["conversions"]
        assert each[0][kept].to_numpy() == pytest.approx(each[1][kept].to_numpy())  # a conversion is worth what it was
        assert found[kept].groupby("model")["share"].sum().to_numpy() == pytest.approx(1)

    def test_a_path_table_gets_a_baseline(self):
        told = attribute(TestTables().read(), ("last", "markov"), confidence=None)
        found = calibrate(told, {"A": (0.5, 0.1)}).frame

        sums = found.groupby("model")[["conversions", "value"]].sum()
        assert sums.to_numpy() == pytest.approx(np.array([[6, 24], [6, 24]]))
        assert found["channel"].tolist().count(BASELINE) == 2

    def test_what_no_model_claimed_is_worth_an_average_conversion(self):
        told = attribute(TestTables().read(), ("last",), confidence=None)  # B closes nothing
        row = self.rows(told, 2.0, 1e-9, "B").iloc[0]

        assert (row["claimed"], row["conversions"]) == (0, pytest.approx(2)) and row["value"] == pytest.approx(
            2 * 24 / 6
        )

    @pytest.mark.parametrize(
        ("lift", "said"),
        [
            ({}, "lift is empty: give"),
            ({"Add": (1, 1)}, "The lift has a channel 'Add' that no touch has. Did you mean Ads"),
            ({BASELINE: (1, 1)}, "The lift has a channel 'baseline'"),
            ({"Ads": (1, 0)}, r"The lift of Ads is \(1, 0\): need .*standard error above 0"),
            ({"Ads": (np.nan, 1)}, "The lift of Ads is .*need"),
            ({"Ads": (1, np.inf)}, "The lift of Ads is .*need"),
            ({"Ads": 5}, "The lift of Ads is 5: need"),
            ({"Ads": (1e9, 1)}, "The tests found 1,000,000,000 of .* conversions: give lifts of these days"),
        ],
    )
    def test_what_is_refused(self, told, lift, said):
        with pytest.raises(KpiError, match=said):
            calibrate(told, lift)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda j: attribute(j, ("lest",)), "There is no model 'lest'. Did you mean last"),
        (lambda j: attribute(j, ()), "name at least one, and each once"),
        (lambda j: attribute(j, ("last", "last")), "name at least one, and each once"),
        (lambda j: attribute(j, ("last",), groups=1), "groups=1: leave one of two groups or more out"),
        (lambda j: attribute(j, ("last",), confidence=95), "confidence"),
        (
            lambda j: attribute(j, ("last",), spend={"Bing": 1.0}),
            "The spend has a channel 'Bing' that no touch has. Known",
        ),
        (lambda j: attribute(j, ("last",), spend={"Ads": -1.0}), "The spend of Ads is -1.0: it must be 0 or more"),
        (lambda j: attribute(j, (custom("none", lambda p, n: 0 * p),)), "'none' gives some journeys no weight"),
        (lambda j: attribute(j, (custom("minus", lambda p, n: 1.5 - p),)), "'minus' gives some journeys no weight"),
        (lambda j: attribute(j, ("last",), spend={"Ads": np.inf}), "The spend of Ads is inf: it must be"),
        (lambda j: attribute(j, ("last",), groups=2.5), "groups=2.5: leave one"),
        (lambda j: position(name="markov"), "'markov' is the name of another model"),
        (lambda j: custom("hazard", lambda p, n: p), "'hazard' is the name of another model"),
        (lambda j: position(0.9, 0.2), "must be positive parts of a whole"),
        (lambda j: time_decay(0), "half_life_days=0 must be positive"),
    ],
)
@pytest.mark.parametrize("kind", ["touches", "paths"])
def test_what_is_refused(ask, said, kind):
    read, found, _ = both(1, "plain")
    read = read if kind == "touches" else table_of(found)
    with pytest.raises(KpiError, match=said):
        ask(read)


class TestWords:
    def test_one_model_is_not_compared(self):
        read, _, _ = both(1, "plain")
        told = attribute(read, ("last",), confidence=None)

        assert "by last touch. Another model may say something else" in told.sentence()
        assert "1 models" not in claims(told).html("en") and "Compare other models" in claims(told).sentence()

    def test_what_is_told_is_the_model_that_is_contradicted(self):
        read, _, _ = both(1, "plain")
        told = attribute(read, ("last", "first"), confidence=None)
        last = told.frame[told.frame["model"] == "last"].set_index("channel")["conversions"]
        lifts = {c: (last[c] - 3 * i, 1.0) for i, c in enumerate(read.channels)}  # the last one is contradicted most

        assert claims(told, calibrate(told, lifts)).channel == read.channels[-1]

    def test_a_view_that_weighs_less_is_told(self):
        read, _, _ = both(1, "plain")

        assert "weighs 30% of a click" in attribute(replace(read, view_credit=0.3), ("last",)).html("en")
        assert "of a click" not in attribute(read, ("last",)).html("en")


def test_weights_may_have_any_name():
    read, _, _ = both(1, "plain")
    names = ("value", "conversion", "channel", "person")
    told = [attribute(read, (custom(n, lambda p, n: p),), confidence=None).frame.drop(columns="model") for n in names]

    for other in told[1:]:
        pd.testing.assert_frame_equal(told[0], other)


def test_what_a_test_found_beyond_the_baseline_comes_from_channels_without_one():
    read, _, _ = both(1, "plain")
    told = attribute(read, ("last",), confidence=None)
    one = told.frame.iloc[0]
    found = calibrate(told, {one["channel"]: (read.conversions - 1, 1e-6)}).frame

    assert found["conversions"].sum() == pytest.approx(read.conversions)
    assert (found["conversions"] >= -1e-9).all()
