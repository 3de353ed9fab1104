"""`kpi_helpers.changes`: why a ratio changed. Published splits first, then laws, coverage, words and shapes."""

import json
import math
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_helpers import changes, explanations, kpis
from kpi_helpers.errors import KpiError
from kpi_helpers.kpis import explain_change
from kpi_helpers.result import Text, plain

# ../shared/reference/kpi_baselines.md section 7, G2 (Marshall-Edgeworth midpoints; numpy, printed to 8 decimals)
G2 = ({"1": (50, 1000), "2": (20, 200)}, {"1": (33, 600), "2": (81, 900)})
# Sign-up funnel, February and March: 15,050 desktop and 7,550 mobile users in both months and 173 and 44 sign-ups
# (lessons_and_reports.md section 2e); by device the published rates of the steps give 54 + 119 and 14 + 30.
FUNNEL = ({"desktop": (54, 15050), "mobile": (119, 7550)}, {"desktop": (14, 15050), "mobile": (30, 7550)})
# Within each segment the ratio rises, the whole falls.
SIMPSON = ({"a": (100, 1000), "b": (400, 500)}, {"a": (300, 2000), "b": (90, 100)})

tops = st.integers(-(10**9), 10**9) | st.decimals(-1000, 1000, places=6) | st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
sizes = st.integers(0, 10**9) | st.decimals(0, 1000, places=6) | st.floats(0, 1e6).map(lambda v: round(v, 3))
sums = st.tuples(tops, sizes).map(lambda pair: pair if pair[1] else (0, 0))
periods = st.dictionaries(st.sampled_from("abcdefgh"), sums, min_size=1).filter(
    lambda period: any(y for _x, y in period.values())
)
quick = settings(max_examples=40, deadline=None)


def exact(before, after):
    """Mix and rate of each segment by plain loops over fractions, as section 3b prints the formula."""
    total = [sum(Fraction(y) for _x, y in p.values()) for p in (before, after)]
    ratio = [sum(Fraction(x) for x, _y in p.values()) / t for p, t in zip((before, after), total, strict=True)]
    found = {}
    for s in {*before, *after}:
        (x0, y0), (x1, y1) = ([Fraction(v) for v in p.get(s, (0, 0))] for p in (before, after))
        if not y0 and not y1:
            found[s] = (0, 0)
            continue
        w0, w1 = y0 / total[0], y1 / total[1]
        r0, r1 = (x0 / y0 if y0 else x1 / y1), (x1 / y1 if y1 else x0 / y0)
        found[s] = ((w1 - w0) * ((r0 + r1) / 2 - sum(ratio) / 2), (w0 + w1) / 2 * (r1 - r0))
    return found


def by_segment(change, column):
    return change.to_frame().set_index("segment")[column].to_dict()


class TestPublished:
    def test_g2(self):
        change = explain_change(*G2)

        assert (change.before, change.after) == pytest.approx((0.05833333, 0.076), abs=5e-9)
        assert (change.total, change.mix, change.rate) == pytest.approx((0.01766667, 0.01841667, -0.00075), abs=5e-9)
        assert by_segment(change, "mix") == pytest.approx({"1": 0.00635556, "2": 0.01206111}, abs=5e-9)
        assert by_segment(change, "rate") == pytest.approx({"1": 0.00308333, "2": -0.00383333}, abs=5e-9)
        assert change.before != pytest.approx(0.075, abs=1e-3)  # the mean of the segments' rates is wrong

    def test_g2_in_numerators(self):
        change = explain_change(*G2)

        assert change.numerator_total == 44
        assert change.volume == pytest.approx(300 * (0.05833333 + 0.076) / 2, abs=1e-5)
        assert change.volume + change.numerator_mix + change.numerator_rate == pytest.approx(44, rel=1e-15)

    def test_funnel(self):
        # section 3c: "fell 0.57 points (0.77 -> 0.19 %, 95 % interval -0.70 to -0.44); all of it is lower rates,
        # none is mix; mobile accounts for 69 %"
        change = replace(explain_change(*FUNNEL), label=Text("Conversion rate", "Tỷ lệ chuyển đổi"), by="channel")

        assert change.mix == 0
        assert str(change) == (
            "Conversion rate fell 0.57 points (0.77% → 0.19%, 95% interval −0.70 to −0.44): all of it is lower rates "
            "within channels, none is a shift between channels; mobile accounts for 69%."
        )
        assert change.sentence("vi") == (
            "Tỷ lệ chuyển đổi giảm 0,57 điểm % (0,77% → 0,19%, khoảng tin cậy 95% −0,70 đến −0,44): toàn bộ là do tỷ lệ "
            "trong từng kênh thấp hơn, không phải do cơ cấu kênh thay đổi; mobile chiếm 69%."
        )

    def test_funnel_counts_are_those_of_the_data(self, real_data):
        folder = real_data("signup-funnel")
        users = pd.read_csv(folder / "user_table.csv.gz", parse_dates=["date"])
        paid = pd.read_csv(folder / "payment_confirmation_table.csv.gz")["user_id"]
        users["paid"] = users["user_id"].isin(paid)
        counts = users.groupby([users["date"].dt.month, "device"])["paid"].agg(["sum", "size"])

        for month, period in zip((2, 3), FUNNEL, strict=True):
            told = {device.lower(): tuple(row) for device, row in zip(counts.loc[month].index, counts.loc[month].values)}
            assert told == period

    # lessons_and_reports.md section 3b and 5: values printed to 4 decimals
    @pytest.mark.parametrize(
        ("by", "months", "total", "mix", "rate"),
        [
            ("TrafficType", ("May", "Nov"), 0.1450, 0.0479, 0.0971),
            ("VisitorType", ("Nov", "Dec"), -0.1284, 0.0051, -0.1336),
        ],
    )
    def test_online_shoppers(self, real_data, by, months, total, mix, rate):
        rows = pd.read_csv(real_data("online-shoppers") / "online_shoppers_intention.csv.gz", sep=";")
        counts = rows.groupby(["Month", by])["Revenue"].agg(["sum", "size"])
        sides = [{str(s): tuple(v) for s, v in counts.loc[m].T.to_dict("list").items()} for m in months]

        change = explain_change(*sides)

        assert (change.total, change.mix, change.rate) == pytest.approx((total, mix, rate), abs=5e-5)


class TestLaws:
    @quick
    @given(periods, periods)
    def test_split_is_that_of_the_formula_to_the_last_digit(self, before, after):
        change, known = explain_change(before, after), exact(before, after)

        assert by_segment(change, "mix") == {s: float(mix) for s, (mix, _rate) in known.items()}
        assert by_segment(change, "rate") == {s: float(rate) for s, (_mix, rate) in known.items()}
        assert change.mix == float(sum(mix for mix, _rate in known.values()))
        assert change.total == float(sum(mix + rate for mix, rate in known.values()))

    @quick
    @given(periods, periods)
    def test_parts_add_up(self, before, after):
        change = explain_change(before, after)
        largest = max(map(abs, (change.mix, change.rate, change.before, change.after)))
        top = max(map(abs, (change.volume, change.numerator_mix, change.numerator_rate)))

        assert change.total == pytest.approx(change.mix + change.rate, abs=4e-16 * largest)
        assert change.total == pytest.approx(change.after - change.before, abs=4e-16 * largest)
        assert change.numerator_total == pytest.approx(
            change.volume + change.numerator_mix + change.numerator_rate, abs=1e-15 * top
        )
        frame = change.to_frame()
        size = max(frame["mix"].abs().sum(), frame["rate"].abs().sum(), 1e-300)
        assert math.fsum(frame["mix"]) == pytest.approx(change.mix, abs=4e-16 * size)
        assert math.fsum(frame["rate"]) == pytest.approx(change.rate, abs=4e-16 * size)

    @quick
    @given(periods, periods)
    def test_swapping_the_periods_turns_every_sign(self, before, after):
        there, back = explain_change(before, after), explain_change(after, before)

        assert (there.total, there.mix, there.rate, there.volume) == (-back.total, -back.mix, -back.rate, -back.volume)
        assert by_segment(there, "mix") == {s: -v for s, v in by_segment(back, "mix").items()}

    @quick
    @given(periods, periods, st.integers(1, 1000))
    def test_scale(self, before, after, factor):
        change = explain_change(before, after)
        up = [{s: (Fraction(x) * factor, y) for s, (x, y) in p.items()} for p in (before, after)]
        large = [{s: (Fraction(x) * factor, Fraction(y) * factor) for s, (x, y) in p.items()} for p in (before, after)]

        assert explain_change(*up).mix == pytest.approx(factor * change.mix, rel=1e-15)
        assert explain_change(*large).rate == change.rate
        assert explain_change(*large).volume == pytest.approx(factor * change.volume, rel=1e-15)

    @quick
    @given(periods, periods)
    def test_merging_segments_keeps_their_effect_together(self, before, after):
        merged = []
        for period in (before, after):
            pair = [period.get(s, (0, 0)) for s in "ab"]
            rest = {s: v for s, v in period.items() if s not in "ab"}
            merged.append({"ab": tuple(sum(Fraction(v[i]) for v in pair) for i in (0, 1)), **rest})

        apart, together = (explain_change(*p).to_frame().set_index("segment") for p in ((before, after), merged))

        known = apart[["mix", "rate"]].sum(axis=1)
        size = apart[["mix", "rate"]].abs().to_numpy().sum()
        assert together.loc["ab", ["mix", "rate"]].sum() == pytest.approx(
            known[known.index.isin(["a", "b"])].sum(), abs=1e-15 * size
        )

    @quick
    @given(st.lists(st.integers(1, 99), min_size=4, max_size=4))
    def test_merging_segments_of_the_same_rates_changes_no_split(self, sizes):
        # 10% and then 30% in both parts, whatever their shares; 50% and 20% in the other segment
        apart = ({"a": (sizes[0], 10 * sizes[0]), "b": (sizes[1], 10 * sizes[1]), "c": (50, 100)},
                 {"a": (3 * sizes[2], 10 * sizes[2]), "b": (3 * sizes[3], 10 * sizes[3]), "c": (20, 100)})  # fmt: skip
        together = [{"ab": tuple(np.add(p["a"], p["b"])), "c": p["c"]} for p in apart]

        one, two = explain_change(*apart), explain_change(*together)

        assert (one.mix, one.rate) == pytest.approx((two.mix, two.rate), rel=1e-14, abs=1e-17)

    @quick
    @given(sums.filter(lambda v: v[1]), sums.filter(lambda v: v[1]))
    def test_one_segment_has_no_mix(self, before, after):
        assert explain_change({"all": before}, {"all": after}).mix == 0

    def test_segment_of_one_period_is_all_mix(self):
        for before, after in [({"a": (5, 100)}, {"a": (5, 100), "new": (9, 50)}), ({"a": (5, 100), "new": (9, 50)}, {"a": (5, 100)})]:
            change = explain_change(before, after)

            assert by_segment(change, "rate") == {"a": 0, "new": 0}
            assert change.mix == change.total != 0

    def test_centring_reads_as_grew_and_converts_worse(self):
        frame = explain_change({"good": (50, 100), "bad": (10, 100)}, {"good": (50, 100), "bad": (40, 400)}).to_frame()

        assert (frame["mix"] < 0).all()

    def test_refunds_count(self):
        change = explain_change({"shop": (-50, 100), "app": (30, 50)}, {"shop": (20, 100), "app": (-10, 50)})

        assert change.total == pytest.approx(30 / 150, rel=1e-15)
        assert change.unit == "ratio"

    def test_numbers_of_every_kind_are_read_exactly(self):
        kinds = [
            {"a": (np.int64(2**62), np.int64(2**62 + 1)), "b": (1, 2)},
            {"a": (Decimal("0.1"), Decimal("0.3")), "b": (np.float64(0.5), 2**70)},
        ]

        assert by_segment(explain_change(*kinds), "mix") == {
            s: float(mix) for s, (mix, _rate) in exact(
                {"a": (2**62, 2**62 + 1), "b": (1, 2)}, {"a": ("0.1", "0.3"), "b": (0.5, 2**70)}
            ).items()
        }  # fmt: skip
