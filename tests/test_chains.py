"""Markov chains of channels: published fractions, a chain solved anew without each channel, laws, the order chosen."""

from collections import Counter, defaultdict
from fractions import Fraction as F
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_helpers import chains
from kpi_helpers.chains import markov, order_selection
from kpi_helpers.credits import attribute
from kpi_helpers.errors import KpiError
from kpi_helpers.paths import from_paths

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# reference §5: (path, conversions, nulls), P(conversion), removal effects, shares
GOLDEN = {
    "G1, as in Anderl et al. (2016)": (
        [("C1>C2>C3", 1, 0), ("C1", 0, 1), ("C2>C3", 0, 1)], F(1, 3),
        {"C1": F(1, 2), "C2": F(1), "C3": F(1)}, {"C1": F(1, 5), "C2": F(2, 5), "C3": F(2, 5)},
    ),
    "G2, S. Puzyrov (2019)": (
        [("google", 2, 1), ("mailing", 1, 0), ("google>mailing", 1, 0)], F(4, 5),
        {"google": F(3, 4), "mailing": F(1, 2)}, {"google": F(3, 5), "mailing": F(2, 5)},
    ),
    "G3, white paper of ChannelAttribution": (
        [("A>B>A>B>B>A", 1, 0), ("A>B>B>A>A", 1, 0), ("A>A", 1, 0)], F(1),
        {"A": F(1), "B": F(1, 2)}, {"A": F(2, 3), "B": F(1, 3)},
    ),
}  # fmt: skip

# reference §5, Data.csv of ChannelAttribution: first, last, linear, the same of value, removal effect, conversions and
# value by Markov of order 1 (solved exactly; the package itself draws them), simplified Shapley
DEMO = """
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
ORDER_3 = {"alpha": 0.546420, "iota": 0.360379, "eta": 0.322834, "beta": 0.228673, "theta": 0.175845}

#: (path, conversions, nulls, value of each conversion); channels repeat, also in a row
path = st.lists(st.integers(0, 4), min_size=1, max_size=7)
table = st.lists(
    st.tuples(path, st.integers(0, 4), st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=12
).filter(lambda rows: sum(row[1] for row in rows) > 0)  # fmt: skip


def journeys(rows, names="ABCDE"):
    told = [(" > ".join(names[c] for c in p), won, lost, won * each) for p, won, lost, each in rows]
    frame = pd.DataFrame(told, columns=["path", "won", "lost", "value"])
    return from_paths(frame, path="path", conversions="won", nulls="lost", value="value")


def drawn(seed, n=25, k=5):
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(0, k, rng.integers(1, 9)).tolist(), *rng.integers(0, 5, 2), 3) for _ in range(n)]
    return [([0, 0, 1], 2, 1, 5), *((p, int(won), int(lost), each) for p, won, lost, each in rows)]


def solved(rows, order, without=()):
    """P(conversion) and expected value of a chain, built by hand; states with a channel of `without` end there."""
    moves, ends, begins = defaultdict(Counter), defaultdict(lambda: np.zeros(2)), Counter()
    for p, won, lost, each in rows:
        n = won + lost
        grams = [tuple(p[i : i + order]) for i in range(max(1, len(p) - order + 1))]
        begins[grams[0]] += n
        for one, other in pairwise(grams):
            moves[one][other] += n
        moves[grams[-1]]["end"] += n
        ends[grams[-1]] += [won, won * each]
    states = [s for s in moves if sum(moves[s].values())]
    keep = [s for s in states if not set(s) & set(without)]
    q = np.array([[moves[a][b] / sum(moves[a].values()) for b in keep] for a in keep]).reshape(len(keep), len(keep))
    r = np.array([ends[a] / sum(moves[a].values()) for a in keep]).reshape(len(keep), 2)
    start = np.array([begins[s] for s in keep], float) / sum(begins.values())
    return start @ np.linalg.solve(np.eye(len(keep)) - q, r)


def effects(rows, order, channels):
    whole = solved(rows, order)
    return 1 - np.array([solved(rows, order, {c}) for c in channels]) / whole


def of(found, names="ABCDE"):
    """Channels as numbers, their two effects side by side."""
    return [names.index(c) for c in found.channel], found.frame[["removal_effect", "value_removal_effect"]].to_numpy()


@pytest.mark.parametrize("case", GOLDEN)
def test_published_fractions(case):
    rows, chance, effect, share = GOLDEN[case]
    frame = pd.DataFrame(rows, columns=["path", "won", "lost"])
    found = markov(from_paths(frame, path="path", conversions="won", nulls="lost", separator=">"))

    near = {"rel": 1e-12, "abs": 1e-12}
    assert found.conversion_probability == pytest.approx(float(chance), **near)
    assert found.removal_effects == pytest.approx({k: float(v) for k, v in effect.items()}, **near)
    assert found.shares == pytest.approx({k: float(v) for k, v in share.items()}, **near)
    total = sum(row[1] for row in rows)
    assert dict(zip(found.channel, found.conversions, strict=True)) == pytest.approx(
        {k: float(v * total) for k, v in share.items()}, **near
    )


@pytest.fixture(scope="module")
def frame(real_data):
    return pd.read_csv(real_data("attribution-paths") / "Data_semicolon.csv.gz", sep=";")


@pytest.fixture(scope="module")
def read(frame):
    return from_paths(
        frame, path="path", conversions="total_conversions", nulls="total_null", value="total_conversion_value"
    )


@pytest.fixture(scope="module")
def golden():
    rows = [line.split() for line in DEMO.split("\n") if line]
    return pd.DataFrame([r[1:] for r in rows], index=[r[0] for r in rows]).astype(float).sort_index()


class TestDemoData:
    def test_totals(self, read):
        assert (read.conversions, read.nulls, len(read.channels)) == (19_785, 68_602, 12)
        assert read.value == pytest.approx(74_802.971587, abs=1e-6)

    def test_the_table_of_all_models(self, read, golden):
        told = attribute(read, ("first", "last", "linear", "markov", "shapley"), confidence=None).frame
        wide = told.pivot_table(index="channel", columns="model", values=["conversions", "value"])

        rules = ["first", "last", "linear"]
        assert np.abs(wide["conversions"][rules].to_numpy() - golden[[0, 1, 2]]).max(axis=None) < 6e-7
        assert np.abs(wide["value"][rules].to_numpy() - golden[[3, 4, 5]]).max(axis=None) < 6e-7
        assert np.abs(wide["conversions"]["markov"] - golden[7]).max() < 6e-7
        assert np.abs(wide["value"]["markov"] - golden[8]).max() < 6e-7
        assert np.abs(wide["conversions"]["shapley"] - golden[9]).max() < 6e-7

    @pytest.mark.parametrize(("order", "states"), [(1, 12), (2, 120), (3, 933)])
    def test_each_order_finds_the_rate_of_the_data_and_what_a_deletion_costs(self, read, frame, golden, order, states):
        found = markov(read, order=order)

        assert found.n_states == states and found.conversion_probability == pytest.approx(19_785 / 88_387, rel=1e-12)
        if order == 1:
            assert np.abs(np.array(found.removal_effect) - golden[6]).max() < 6e-7
        if order == 3:
            assert {k: found.removal_effects[k] for k in ORDER_3} == pytest.approx(ORDER_3, abs=6e-7)
        columns = ("path", "total_conversions", "total_null", "total_conversion_value")
        rows = [
            (p.split(" > "), won, lost, value / won if won else 0)
            for p, won, lost, value in zip(*(frame[c] for c in columns), strict=True)
        ]
        asked = found.channels if order < 3 else ("alpha", "mi")
        at = [found.channels.index(c) for c in asked]
        assert np.abs(of(found, found.channels)[1][at] - effects(rows, order, asked)).max() < 1e-10


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("few", "near"), [(chains.FEW_STATES, 1e-10), (0, 1e-8)], ids=["dense", "iterated"])
class TestDeletion:
    @pytest.mark.parametrize("seed", range(4))
    def test_effects_are_those_of_a_chain_solved_without_the_channel(self, monkeypatch, order, few, near, seed):
        monkeypatch.setattr(chains, "FEW_STATES", few)
        rows = drawn(seed)
        found = markov(journeys(rows), order=order)

        channels, both = of(found)
        assert np.abs(both - effects(rows, order, channels)).max() < near
        assert found.conversion_probability == pytest.approx(solved(rows, order)[0], abs=near)

    def test_so_are_those_of_sets(self, monkeypatch, order, few, near):
        monkeypatch.setattr(chains, "FEW_STATES", few)
        rows = drawn(9)
        found, whole = markov(journeys(rows), order=order), solved(rows, order)

        for n in (2, 3, 5):
            for channels in combinations(range(5), n):
                expected = 1 - solved(rows, order, channels)[0] / whole[0]
                assert found.removal_effect_of(*("ABCDE"[c] for c in channels)) == pytest.approx(expected, abs=near)


@given(rows=table, order=st.integers(1, 3))
@settings(max_examples=60)
def test_any_table_agrees_with_deletion_and_keeps_its_totals(rows, order):
    read = journeys(rows)
    found = markov(read, order=order)

    channels, both = of(found)
    assert np.abs(both - effects(rows, order, channels)).max() < 1e-10
    assert found.conversion_probability == pytest.approx(read.conversions / (read.conversions + read.nulls), abs=1e-12)
    assert sum(found.share) == pytest.approx(1) and sum(found.conversions) == pytest.approx(read.conversions)
    assert sum(found.value) == pytest.approx(read.value)


@given(rows=table, order=st.integers(1, 3))
@settings(max_examples=40)
def test_a_channel_is_worth_something_if_and_only_if_a_conversion_can_follow_it(rows, order):
    found = markov(journeys(rows), order=order)

    edges = {(a, b) for p, won, lost, _ in rows if won + lost for a, b in zip(*grams(p, order), strict=True)}
    able = {grams(p, order, ends=True) for p, won, _, _ in rows if won}
    while more := {a for a, b in edges if b in able} - able:
        able |= more
    worth = {c for state in able for c in state}
    assert {c for c, effect in zip(*of(found), strict=True) if effect[0] > 1e-12} == worth
    assert {c for p, won, _, _ in rows if won for c in p} <= worth


def grams(p, order, ends=False):
    states = [tuple(p[i : i + order]) for i in range(max(1, len(p) - order + 1))]
    return states[-1] if ends else (states[:-1], states[1:])


@given(rows=table.map(lambda rows: [(p[:3], *rest) for p, *rest in rows]))
@settings(max_examples=40)
def test_an_order_as_long_as_the_paths_gives_the_share_of_conversions_that_a_channel_touched(rows):
    found = markov(journeys(rows), order=3)

    won, value = np.array([row[1] for row in rows]), np.array([row[1] * row[3] for row in rows])
    for c, effect in zip(*of(found), strict=True):
        touched = np.array([c in row[0] for row in rows])
        assert effect == pytest.approx([won[touched].sum() / won.sum(), value[touched].sum() / value.sum()])


@given(rows=table, order=st.integers(1, 3), seed=st.integers(0, 99), factor=st.integers(2, 1000))
@settings(max_examples=40)
def test_names_order_of_rows_repeated_rows_and_scale_do_not_matter(rows, order, seed, factor):
    rng = np.random.default_rng(seed)
    expected = of(markov(journeys(rows), order=order))[1]

    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    split = [(p, *part, each) for p, won, lost, each in rows for part in ((won, 0), (0, lost))]
    scaled = [(p, won * factor, lost * factor, each) for p, won, lost, each in rows]
    for other in (shuffled, split, scaled):
        assert of(markov(journeys(other), order=order))[1] == pytest.approx(expected, abs=1e-10)
    names = "".join(rng.permutation(list("ABCDE")))
    channels, effect = of(markov(journeys(rows, names), order=order), names)
    assert effect[np.argsort(channels)] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_only_channel_is_worth_everything(order):
    found = markov(journeys([([0], 1, 2, 1), ([0, 0, 0, 0], 2, 0, 1)]), order=order)

    assert found.removal_effect == pytest.approx((1.0,)) and found.share == (1.0,)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_transitions_are_counts_of_the_paths(order):
    rows = drawn(3)
    found = markov(journeys(rows), order=order).transitions

    counts = Counter()
    for p, won, lost, _ in rows:
        states = [" > ".join("ABCDE"[c] for c in s) for s in (*grams(p, order)[0], grams(p, order, ends=True))]
        for edge, n in [*((edge, won + lost) for edge in pairwise(["start", *states])),
                        ((states[-1], "conversion"), won), ((states[-1], "null"), lost)]:  # fmt: skip
            counts[edge] += n
    told = {(row["from"], row["to"]): row["n"] for row in found.to_dict("records")}
    assert told == {edge: n for edge, n in counts.items() if n}
    assert found.groupby("from")["probability"].sum().to_numpy() == pytest.approx(1)


def test_without_value_there_are_no_effects_on_value():
    found = markov(from_paths(pd.DataFrame({"p": ["A > B"], "n": [1]}), path="p", conversions="n"))

    assert np.isnan(found.value_removal_effect).all() and found.value == (0.0, 0.0)
    assert found.shares == {"A": 0.5, "B": 0.5}


def test_rows_of_nobody_do_not_count():
    rows = pd.DataFrame({"p": ["A", "B > C > B"], "n": [1, 0], "lost": [0, 0]})
    found = markov(from_paths(rows, path="p", conversions="n", nulls="lost"))

    assert found.removal_effects == {"A": 1.0, "B": 0.0, "C": 0.0} and found.n_states == 1


class TestOrder:
    """Paths drawn from chains of known order."""

    def simulated(self, order, n=6000, k=3):
        rng, counts = np.random.default_rng(order), Counter()
        then = rng.dirichlet(np.ones(k) * 0.5, (k,) * order)
        for _ in range(n):
            p = rng.integers(0, k, order).tolist()
            while rng.random() > 0.15:
                p.append(int(rng.choice(k, p=then[tuple(p[-order:])])))
            counts[tuple(p), bool(rng.random() < 0.3)] += 1
        return journeys([(list(p), n * won, n * (not won), 1) for (p, won), n in counts.items()])

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_the_order_of_the_data_is_chosen(self, order):
        assert order_selection(self.simulated(order)).best == order

    def test_likelihoods_are_those_of_the_journeys_one_by_one(self):
        rows = drawn(5)
        found = order_selection(journeys(rows))

        for order in (1, 2, 3):
            steps = markov(journeys(rows), order=order).transitions
            assert found.log_likelihood[order - 1] == pytest.approx((steps["n"] * np.log(steps["probability"])).sum())
            free = len(steps) - steps["from"].nunique()
            assert found.parameters[order - 1] == free
            assert found.bic[order - 1] == pytest.approx(
                free * np.log(steps_of(rows)) - 2 * found.log_likelihood[order - 1]
            )


def steps_of(rows):
    """The same observations at every order: the steps of all journeys."""
    return sum((won + lost) * len(p) for p, won, lost, _ in rows)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda j: markov(j, order=4), "order=4: a state is the last 1, 2 or 3 channels"),
        (lambda j: markov(j).removal_effect_of("a"), "There is no channel 'a'. "),
        (lambda j: order_selection(j, max_order=0), "max_order=0 must be 1, 2 or 3"),
    ],
)
def test_what_is_refused(ask, told):
    with pytest.raises(KpiError, match=told):
        ask(journeys(drawn(1)))
