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

tops = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
sizes = st.integers(0, 10**9) | st.floats(0, 1e6).map(lambda v: round(v, 3))
sums = st.tuples(tops, sizes).map(lambda pair: pair if pair[1] else (0, 0))
periods = st.dictionaries(st.sampled_from("abcdefgh"), sums, min_size=1).filter(
    lambda period: any(y for _x, y in period.values())
)
quick = settings(max_examples=20, deadline=None)


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


def told_of(change, **words):
    """The same change with words of its own."""
    return replace(change, whole=change.whole | words)


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

        assert change.volume == pytest.approx(300 * (0.05833333 + 0.076) / 2, abs=1e-5)
        assert change.volume + change.numerator_mix + change.numerator_rate == pytest.approx(44, rel=1e-15)

    def test_funnel(self):
        # section 3c: "fell 0.57 points (0.77 -> 0.19 %, 95 % interval -0.70 to -0.44); all of it is lower rates,
        # none is mix; mobile accounts for 69 %"
        change = told_of(explain_change(*FUNNEL), label=Text("Conversion rate", "Tỷ lệ chuyển đổi"), by="channel")

        assert change.mix == 0
        assert str(change) == (
            "Conversion rate fell 0.57 points (0.77% → 0.19%, 95% interval −0.70 to −0.44): all of it is lower rates "
            "within channels, none is a shift between channels; mobile accounts for 69%."
        )
        assert change.sentence("vi") == (
            "Tỷ lệ chuyển đổi giảm 0,57 điểm % (0,77% → 0,19%, khoảng tin cậy 95% −0,70 đến −0,44): toàn bộ là do "
            "tỷ lệ trong từng kênh thấp hơn, không phải do cơ cấu kênh thay đổi; riêng mobile chiếm 69% mức thay đổi."
        )

    def test_funnel_counts_are_those_of_the_data(self, real_data):
        folder = real_data("signup-funnel")
        users = pd.read_csv(folder / "user_table.csv.gz", parse_dates=["date"])
        paid = pd.read_csv(folder / "payment_confirmation_table.csv.gz")["user_id"]
        users["paid"] = users["user_id"].isin(paid)
        counts = users.groupby([users["date"].dt.month, "device"])["paid"].agg(["sum", "size"])

        for month, period in zip((2, 3), FUNNEL, strict=True):
            told = {device.lower(): tuple(row) for device, row in counts.loc[month].T.items()}
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
        moved = [sum(Fraction(x) for x, _y in period.values()) for period in (before, after)]
        assert change.volume + change.numerator_mix + change.numerator_rate == pytest.approx(
            float(moved[1] - moved[0]), abs=1e-15 * top
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
    @given(periods, periods, st.integers(-20, 20))
    def test_scale(self, before, after, factor):
        change = explain_change(before, after)
        factor = 2.0**factor  # exact in floats
        up = [{s: (x * factor, y) for s, (x, y) in p.items()} for p in (before, after)]
        large = [{s: (x * factor, y * factor) for s, (x, y) in p.items()} for p in (before, after)]

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
        size = sum(frame[["mix", "rate"]].abs().to_numpy().sum() for frame in (apart, together))
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
        for before, after in [
            ({"a": (5, 100)}, {"a": (5, 100), "new": (9, 50)}),
            ({"a": (5, 100), "new": (9, 50)}, {"a": (5, 100)}),
        ]:
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


def draw(rng, share, ratio, n):
    d = rng.multinomial(n, share)
    return {str(s): pair for s, pair in enumerate(zip(rng.binomial(d, ratio).tolist(), d.tolist(), strict=True))}


class TestNoise:
    def test_intervals_of_mix_and_rate_cover(self):
        # 2,500 draws: the standard error of a coverage of 95% is 0.44 points, so 94 to 96% is 2.3 of them
        shares, ratios = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]]), np.array([[0.05, 0.1, 0.2], [0.06, 0.08, 0.2]])
        w, r, total = np.diff(shares, axis=0)[0], ratios.mean(axis=0), (shares * ratios).sum() / 2
        true = {"mix": (w * (r - total)).sum(), "rate": (shares.mean(axis=0) * np.diff(ratios, axis=0)[0]).sum()}
        rng, n = np.random.default_rng(20), 4000
        drawn = [
            explain_change(draw(rng, shares[0], ratios[0], 6000), draw(rng, shares[1], ratios[1], 9000))
            for _ in range(n)
        ]

        for key, value in true.items():
            covered = np.mean([getattr(c, f"{key}_low") <= value <= getattr(c, f"{key}_high") for c in drawn])
            assert 0.94 <= covered <= 0.96, key
        truth = sum(true.values())
        assert 0.94 <= np.mean([c.total_low <= truth <= c.total_high for c in drawn]) <= 0.96

    def test_gate_opens_by_chance_as_often_as_it_says(self):
        # 800 draws: 5% has a standard error of 0.77 points; three of them
        rng, share, ratio = np.random.default_rng(5), [0.6, 0.3, 0.1], [0.05, 0.1, 0.02]
        opened = [
            explain_change(draw(rng, share, ratio, 5000), draw(rng, share, ratio, 5000)).changed for _ in range(800)
        ]

        assert np.mean(opened) == pytest.approx(0.05, abs=0.023)

    def test_gate_holds_when_days_differ_and_channels_move_together(self):
        # nothing changed but the luck of days, common to both channels: the binomial alone would open far too often
        rng, opened, naive = np.random.default_rng(8), [], []
        for _ in range(400):
            sides = []
            for _period in range(2):
                d = rng.poisson(rng.gamma(20, 1 / 20, (21, 1)) * [400, 200])
                x = rng.binomial(d, np.clip(rng.normal(1, 0.25, (21, 1)) * [0.1, 0.2], 0, 1))
                sides.append({s: (x[:, i], d[:, i]) for i, s in enumerate("ab")})
            opened.append(explain_change(*sides).changed)
            naive.append(
                explain_change(*({s: (int(x.sum()), int(d.sum())) for s, (x, d) in p.items()} for p in sides)).changed
            )

        assert np.mean(opened) == pytest.approx(0.05, abs=0.033)  # three standard errors of 400 draws
        assert np.mean(naive) > 0.3

    def test_interval_of_a_share_is_the_two_sample_one(self):
        # Wald interval of two proportions, 114/1500 less 70/1200, Newcombe (1998), Stat. Med. 17:873, method 1
        change, half = explain_change(*G2), 1.959964 * math.sqrt(0.058333 * 0.941667 / 1200 + 0.076 * 0.924 / 1500)

        assert (change.total_low, change.total_high) == pytest.approx(
            (change.total - half, change.total + half), abs=1e-7
        )

    def test_intervals_are_the_delta_method_by_numbers(self):
        # numerical gradient times the multinomial covariance of the counts (successes, failures by segment)
        sides = ({"a": (60, 500), "b": (90, 300), "c": (20, 400)}, {"a": (150, 900), "b": (30, 150), "c": (40, 350)})
        change, variance = explain_change(*sides), np.zeros(5)
        order = list(change.segment)

        def effects(period, move):
            moved = [dict(side) for side in sides]
            moved[period] = {s: (x + move.get((s, 1), 0), y + move.get((s, 1), 0) + move.get((s, 0), 0))
                             for s, (x, y) in sides[period].items()}  # fmt: skip
            c = explain_change(*moved)
            whole = c.to_frame().set_index("segment")[["mix", "rate"]].sum(axis=1)
            return np.array([c.mix, c.rate, *whole[order]])

        step = Fraction(1, 1000)
        for period, side in enumerate(sides):
            units = [(s, hit) for s in side for hit in (0, 1)]
            n = np.array([x if hit else y - x for s, hit in units for x, y in [side[s]]])
            gradient = np.array([effects(period, {u: step}) - effects(period, {u: -step}) for u in units]) / (
                2 * float(step)
            )
            covariance = np.diag(n) - np.outer(n, n) / n.sum()
            variance += np.einsum("ik,ij,jk->k", gradient, covariance, gradient)

        found = [change.mix_high - change.mix, change.rate_high - change.rate]
        found += [(high - low) / 2 for low, high in zip(change.low, change.high, strict=True)]
        assert found == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)

    def test_interval_of_days_is_that_of_the_ratio(self):
        # one period against one that has no error: stats.ratio_margin, checked against Cochran there
        from kpi_helpers.stats import ratio_margin

        x, y = np.array([30.0, 44, 25, 60, 41]), np.array([10.0, 12, 11, 15, 13])
        fixed = ([2.0 * v for v in y], y)
        change = explain_change({"a": fixed}, {"a": (x, y)})
        margin = ratio_margin(5, y.sum(), ((x - x.sum() / y.sum() * y) ** 2).sum())

        assert change.total_high - change.total == pytest.approx(float(margin), rel=1e-12)

    def test_interval_grows_with_confidence_and_turns_with_the_periods(self):
        narrow, wide = (explain_change(*G2, confidence=c) for c in (0.8, 0.99))
        back = explain_change(*G2[::-1], confidence=0.8)

        assert wide.mix_low < narrow.mix_low < narrow.mix < narrow.mix_high < wide.mix_high
        assert (narrow.rate_low, narrow.total_low) == pytest.approx((-back.rate_high, -back.total_high), rel=1e-12)


def cells(page):
    """Rows of the table of a page as lists of plain text."""
    rows = re.findall(r"<tr role=\"row\">(.*?)</tr>", page, re.S)[1:]
    return [[plain(re.sub(r"<small>.*?</small>", "", c)) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)]
            for row in rows]  # fmt: skip


def printed(text):
    return Decimal(text.replace("−", "-").replace("+", "").replace(",", "").replace("%", ""))


def many(seed, k=9):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 9000, (2, k)).tolist()
    return [
        {f"c{i}": (int(rng.binomial(d, up * (0.05 + 0.01 * i))), d) for i, d in enumerate(period)}
        for up, period in zip((1, 1.5), sizes, strict=True)
    ]


class TestShown:
    def test_gate_first(self):
        change = explain_change(*G2)

        assert not change.changed
        assert str(change) == (
            "The ratio did not change beyond noise (5.83% → 7.60%, 95% interval of the change −0.12 to +3.65 points): "
            "no explanation needed."
        )
        assert "<figure" not in change.html() and "<table" not in change.html()

    @pytest.mark.parametrize("before_after", [({"a": (5, 10)}, {"a": (9, 10)}), ({"a": (50, 10)}, {"a": (90, 10)})])
    def test_no_interval_no_claim(self, before_after):
        change = explain_change(*before_after)

        assert math.isnan(change.total_low) and not change.changed
        assert "cannot be computed, because" in str(change)
        assert "<table" not in change.html()

    @pytest.mark.parametrize("language", ["en", "vi"])
    @pytest.mark.parametrize("seed", range(3))
    def test_printed_columns_and_rows_add_up(self, seed, language):
        change = explain_change(*many(seed))
        page = change.html(language)
        rows = cells(page if language == "en" else page.replace(",", "."))

        assert change.changed and len(rows) == 7
        for i in (3, 4, 5):
            assert sum(printed(row[i]) for row in rows[:-1]) == printed(rows[-1][i])
        assert all(printed(row[3]) + printed(row[4]) == printed(row[5]) for row in rows)
        assert rows[-1][1] == "100.0% → 100.0%"

    def test_table_names_the_five_largest_and_pools_the_small(self):
        before, after = many(3)
        change = explain_change(before | {"tiny": (0, 29)}, after | {"tiny": (29, 29)})
        frame = change.to_frame()
        rows = cells(change.html())

        assert [row[0] for row in rows] == [*frame["segment"][:5], "All other (5)", "Total"]
        assert frame["segment"].iloc[-1] == "tiny" and len(frame) == 10
        effect = (frame["mix"] + frame["rate"]).abs()[:-1]
        assert effect.is_monotonic_decreasing

    def test_simpson_is_flagged(self):
        change = explain_change(*SIMPSON)

        assert change.simpson and change.rate > 0 > change.total
        assert str(change).endswith("(Simpson's paradox).")
        assert "nghịch lý Simpson" in change.sentence("vi")

    def test_no_direction_is_said_whose_interval_holds_zero(self):
        # the rates fell clearly; the shift is small and may be none
        before, after = {"a": (5000, 10000), "b": (400, 1000)}, {"a": (4000, 10000), "b": (320, 1030)}
        change = explain_change(before, after)

        assert change.mix_low < 0 < change.mix_high
        assert "too close to call" in str(change) or "none is a shift" in str(change)

    def test_money_and_names_are_written_safely(self):
        before, after = (
            {"<b>": ([24e7, 26e7], [490, 510]), "y": ([20e7, 20e7], [250, 250])},
            {"<b>": ([31e7, 29e7], [500, 500]), "y": ([9.9e7, 10.1e7], [300, 300])},
        )
        change = explain_change(before, after, unit="money")
        change = told_of(change, currency="VND", label=Text("Order value", "Giá trị đơn"), by="campaign")

        assert "₫600,000 → ₫500,000" in str(change)
        assert "<b>" not in change.html() and "&lt;b&gt;" in change.html()
        assert "600.000 ₫" in plain(change.sentence("vi"))

    def test_chart_marks_what_may_be_nothing_hollow(self):
        from matplotlib.colors import to_hex

        from kpi_helpers import plots

        axes = plots.bridge(plots.new_axes(800, 372), 0.2, [0.001, -0.1], list("abcd"), list("abcd"), [False, True])
        faces = [(bar.get_facecolor()[3], to_hex(bar.get_facecolor())) for bar in axes.patches]

        assert [alpha for alpha, _colour in faces] == [0, 1]
        assert faces[1][1] == plots.BLUE

    def test_rows_of_the_json_are_finite(self):
        made = explain_change({"a": (10, 100)}, {"a": (40, 100), "new": (9, 50)}).to_json()

        assert made["name"] == "change" and json.dumps(made, allow_nan=False)
        assert all(isinstance(v, str | bool) or math.isfinite(v) for row in made["rows"] for v in row.values())


class TestErrors:
    @pytest.mark.parametrize(
        "cell",
        [
            (1,),
            (1, 2, 3, 4),
            (1, -2),
            (math.nan, 2),
            (1, math.inf),
            ("x", 2),
            (None, 2),
            ([1, 2], [3]),
            (1, 2, 0.1),
            5,
            None,
        ],
    )
    def test_impossible_sums_are_named(self, cell):
        with pytest.raises(KpiError, match=r"after\['mobile'\]=.* cannot be \(numerator, denominator\)"):
            explain_change({"mobile": (1, 2)}, {"mobile": cell})

    @pytest.mark.parametrize("nothing", [{}, {"a": (0, 0)}, {"a": ([], [])}])
    def test_period_without_denominator(self, nothing):
        with pytest.raises(KpiError, match="cannot be computed, because the denominators before sum to 0"):
            explain_change(nothing, {"a": (1, 2)})

    def test_options(self):
        with pytest.raises(KpiError, match="confidence=95"):
            explain_change(*G2, confidence=95)
        with pytest.raises(KpiError, match="unit='rate'"):
            explain_change(*G2, unit="rate")


MARCH = {"before": (date(2025, 3, 1), date(2025, 3, 14)), "after": (date(2025, 3, 15), date(2025, 3, 28))}


def rows_of_days(late=1.0):
    days = pd.date_range("2025-03-01", "2025-03-28")
    rng = np.random.default_rng(4)
    frames = []
    for channel, rate in (("Ads", 0.05), ("Email", 0.1)):
        clicks = rng.poisson(500, len(days))
        conversions = rng.binomial(clicks, rate * np.where(days < "2025-03-15", 1, late))
        counts = {"clicks": clicks, "impressions": clicks * 50, "spend": clicks * 2.5, "conversions": conversions}
        frames.append(pd.DataFrame({"date": days.date, "channel": channel, **counts}))
    return pd.concat(frames)


class TestReader:
    def test_same_as_sums_by_day(self, duckdb_engine):
        rows = rows_of_days(late=0.5)
        change = explanations.explain(duckdb_engine.source(rows), "conv_rate_click", **MARCH)
        sides = [
            {c: (part["conversions"].to_numpy(), part["clicks"].to_numpy()) for c, part in side.groupby("channel")}
            for side in (rows[rows["date"] < date(2025, 3, 15)], rows[rows["date"] >= date(2025, 3, 15)])
        ]

        known = explain_change(*sides)

        assert change.to_frame().equals(known.to_frame())
        assert change.changed and change.label.en in str(change) and "within channels" in str(change)

    def test_scale_of_the_kpi_is_kept(self, duckdb_engine):
        change = explanations.explain(duckdb_engine.source(rows_of_days()), "cpm", **MARCH)

        assert change.before == pytest.approx(50, rel=1e-9)  # 2.5 a click, 50 impressions a click
        assert change.unit == "money"

    def test_unknown_period_is_said(self, duckdb_engine):
        data = duckdb_engine.source(rows_of_days())
        windows = MARCH | {"before": (date(2024, 3, 1), date(2024, 3, 14))}
        change = explanations.explain(data, "conv_rate_click", **windows)

        assert "cannot be computed, because nothing is known" in str(change)
        assert change.to_json()["rows"] == [] and "<figure" not in change.html("vi")

    def test_sum_and_overlap_are_refused(self, duckdb_engine):
        data = duckdb_engine.source(rows_of_days())
        with pytest.raises(KpiError, match="clicks is a sum"):
            explanations.explain(data, "clicks", **MARCH)
        with pytest.raises(KpiError, match="must end before"):
            explanations.explain(data, "cpm", before=MARCH["before"], after=MARCH["before"])

    def test_named_as_agreed(self):
        assert kpis.explain_change is changes.explain_change


def test_large_whole_numbers_and_decimals_are_exact():
    large, tenth = 2**53, Decimal("0.1")

    assert explain_change({"a": (large, 2 * large)}, {"a": (large + 1, 2 * large)}).numerator_rate == 1
    three = explain_change({"a": (tenth, 1), "b": (2 * tenth, 1)}, {"a": (3 * tenth, 1), "b": (0, 1)})
    assert three.total == 0 == three.volume
