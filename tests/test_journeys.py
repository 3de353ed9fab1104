"""Journeys made in the engine: ten rows by hand, both engines, rows in any order, and what is refused or set aside."""

import gc

import numpy as np
import pandas as pd
import pytest

from kpi_helpers.chains import markov
from kpi_helpers.credits import attribute
from kpi_helpers.errors import KpiError
from kpi_helpers.journeys import MOST_TOUCHES, read_journeys
from kpi_helpers.paths import BASELINE, MOST_CHANNELS, from_paths


def touches(*rows, **columns):
    frame = pd.DataFrame(rows, columns=["customer_id", "touched_at", "channel"]).astype({"customer_id": "str"})
    return frame.assign(touched_at=pd.to_datetime(frame["touched_at"]), **columns)


def orders(*rows, **columns):
    frame = pd.DataFrame(rows, columns=["customer_id", "ordered_at", "revenue"]).astype({"customer_id": "str"})
    return frame.assign(ordered_at=pd.to_datetime(frame["ordered_at"]), **columns)


# ten rows: an order at the very time of a touch, two orders of one person, a touch too old, one after the last order,
# a row twice, two touches at one time, a view, one who never bought, an order without a touch, one before the touch
TOUCHES = touches(
    ("a", "2026-01-01", "Ads"), ("a", "2026-02-10", "Email"), ("a", "2026-02-12", "Ads"), ("a", "2026-02-20", "Email"),
    ("b", "2026-02-01", "Ads"), ("b", "2026-02-01", "Ads"), ("b", "2026-02-01", "Email"), ("b", "2026-02-03", "Ads"),
    ("c", "2026-02-05", "Email"), ("d", "2026-02-06", "Direct"),
    kind=["click"] * 7 + ["VIEW", "click", "click"],
)  # fmt: skip
ORDERS = orders(
    ("a", "2026-02-11", 10.0), ("a", "2026-02-12", 20.0), ("b", "2026-02-04", 40.0), ("d", "2026-02-05", 80.0),
    ("e", "2026-02-07", 160.0),
)  # fmt: skip


def credit(read, model):
    frame = attribute(read, (model,), confidence=None).frame
    return {row.channel: (row.conversions, row.value) for row in frame.itertuples()}


class TestByHand:
    """a: (Ads, too old) | Email -> 10 | Ads -> 20 | Email; b: Ads, Email (, Ads seen) -> 40; c, d: nothing then."""

    @pytest.fixture
    def read(self):
        return read_journeys(TOUCHES, ORDERS, people=10, currency="VND")

    def test_totals_and_what_was_set_aside(self, read):
        assert (read.channels, read.conversions, read.value) == (("Ads", "Direct", "Email"), 5, 310)
        assert (read.untouched, read.untouched_value, read.nulls) == (2, 240, 4)  # Ads too old, a's last, c, d
        assert read.issues == {
            "unnamed": 0,
            "unpriced": 0,
            "uncompleted": 0,
            "late": 0,
            "other_type": 0,
            "crowd_conversions": 0,
            "views": 1,
            "old": 1,
            "crowd": 0,
            "crowd_touches": 0,
            "repeated": 1,
            "unseen": 0,
        }
        assert (read.n_days, read.sample, read.people, read.currency) == (51, 4, 10, "VND")

    def test_credit(self, read):
        base = {BASELINE: (2, 240)}
        assert credit(read, "first") == {"Ads": (2, 60), "Direct": (0, 0), "Email": (1, 10)} | base
        assert credit(read, "last") == {"Ads": (1, 20), "Direct": (0, 0), "Email": (2, 50)} | base
        assert credit(read, "linear") == {"Ads": (1.5, 40), "Direct": (0, 0), "Email": (1.5, 30)} | base

    def test_chain(self, read):
        found = markov(read)

        # start: Ads 3 (too old, 20, b), Email 3 (10, a's last, c), Direct 1; from Ads: 1 won, 1 lost, 1 to Email
        rows = {(r["from"], r["to"]): r["n"] for r in found.transitions.to_dict("records")}
        assert rows == {
            ("start", "Ads"): 3, ("start", "Email"): 3, ("start", "Direct"): 1, ("Ads", "conversion"): 1,
            ("Ads", "null"): 1, ("Ads", "Email"): 1, ("Email", "conversion"): 2, ("Email", "null"): 2,
            ("Direct", "null"): 1,
        }  # fmt: skip
        assert found.conversion_probability == pytest.approx(3 / 7)
        # without Ads 3/7 * 1/2, without Email 3/7 * 1/3
        assert found.removal_effects == pytest.approx({"Ads": 1 / 2, "Direct": 0.0, "Email": 2 / 3})

    def test_views_with_credit(self):
        read = read_journeys(TOUCHES, ORDERS, view_credit=0.5)

        assert credit(read, "last")["Ads"] == (2, 60) and read.issues["views"] == 0
        assert credit(read, "linear")["Ads"] == pytest.approx((1 + 1.5 / 2.5, 20 + 40 * 1.5 / 2.5))

    def test_paths_that_converted(self, read):
        won = read.won()

        assert (won.codes.tolist(), won.begins.tolist()) == ([1, 1, 3, 3], [0, 1, 3, 4])
        assert (won.won_by_path.tolist(), won.value_by_path.tolist()) == ([1, 1, 1], [20, 40, 10])

    def test_exposure(self, read):
        seen = read.exposure()

        alive = seen.alive.sort_values(["channel", "alive"])[["channel", "alive", "n"]].to_numpy().tolist()
        # to the end, Feb 20, or for 29 days; Ads: a 29 and 8, b 19; Direct: d 14; Email: a 10 and 0, b 19, c 15
        assert alive == [[1, 8, 1], [1, 19, 1], [1, 29, 1], [2, 14, 1], [3, 0, 1], [3, 10, 1], [3, 15, 1], [3, 19, 1]]
        # a's second order still has the e-mail before the first
        assert seen.before[["conversion", "channel", "days", "n", "value"]].to_numpy().tolist() == [
            [0, 3, 1, 1, 10], [1, 1, 0, 1, 20], [1, 3, 2, 1, 20], [2, 1, 3, 1, 40], [2, 3, 3, 1, 40]
        ]  # fmt: skip
        assert seen.touched == (3, 70)
        day = 86_399 / 86_400  # of the last
        seen = read_journeys(TOUCHES, ORDERS).exposure()
        assert seen.active_days == pytest.approx(30 + 2 + 8 + day + 19 + day + 15 + day + 14 + day)  # a; b; c; d
        assert seen.later_days == pytest.approx(29 + 9 + day + 18 + day + 14 + day + 13 + day)


def everything(read):
    told = attribute(read, groups=3).frame
    return [told, markov(read, order=2).frame, pd.Series(read.issues), pd.Series([read.nulls, read.untouched])]


def test_rows_in_any_order_say_the_same():
    one = read_journeys(TOUCHES, ORDERS, people=10, view_credit=0.5)
    other = read_journeys(TOUCHES[::-1], ORDERS.sample(frac=1, random_state=2), people=10, view_credit=0.5)

    for a, b in zip(everything(one), everything(other), strict=True):
        assert_same(a, b)


def assert_same(a, b):
    (pd.testing.assert_frame_equal if isinstance(a, pd.DataFrame) else pd.testing.assert_series_equal)(a, b)


def larger(n=300):
    rng = np.random.default_rng(2)
    hours = pd.to_timedelta(rng.integers(0, 24 * 60, n * 4), unit="h")
    met = pd.DataFrame({"customer_id": [f"c{i}" for i in rng.integers(0, n, n * 4)], "touched_at": hours})
    met = met.assign(touched_at=pd.Timestamp("2026-01-01") + met["touched_at"])
    met = met.assign(channel=rng.choice(["Ads", "Direct", "Email", "Tìm kiếm"], n * 4))
    met["kind"] = rng.choice(["click", "view"], n * 4)
    bought = pd.DataFrame({"customer_id": [f"c{i}" for i in rng.integers(0, n + 20, n)]})
    bought = bought.assign(ordered_at=pd.Timestamp("2026-01-01") + hours[:n] + pd.Timedelta(hours=30))
    return met, bought.assign(revenue=rng.integers(1, 99, n) * 1.5)


@pytest.mark.parametrize(
    "how",
    [{}, {"view_credit": 0.3, "session_gap_days": 6.0, "lookback_days": 9, "collapse_repeats": True}],
    ids=["plain", "all options"],
)
def test_both_engines_say_the_same(engine, how):
    met, bought = larger()
    source = engine.source({"touchpoints": met, "orders": bought})
    place = None if engine.name == "duckdb" else source._mapping["orders"]["table"].split(".")[0]
    tables = [source._backend.table(name, database=place) for name in ("touchpoints", "orders")]

    found = everything(read_journeys(*tables, people=400, **how))
    gc.collect()  # what is kept in the engine goes before the engine does
    for a, b in zip(found, everything(read_journeys(met, bought, people=400, **how)), strict=True):
        assert_same(a, b)


class TestOptions:
    def test_other_types_of_conversion_end_journeys_uncredited(self):
        met = touches(
            ("a", "2026-01-01", "Ads"),
            ("a", "2026-01-03", "Email"),
            ("b", "2026-01-03", "Ads"),
            ("c", "2026-01-02", "Ads"),
        )
        bought = orders(("a", "2026-01-02", 0.0), ("a", "2026-01-04", 9.0), ("c", "2026-01-03", 5.0))
        read = read_journeys(met, bought.assign(conversion=["lead", "sale", None]), conversion="sale")

        # a's first and c's journeys ended with something else, b's with nothing
        assert (read.conversions, read.value, read.untouched, read.nulls) == (1, 9, 0, 3)
        assert credit(read, "linear")["Email"] == (1, 9) and credit(read, "linear")["Ads"] == (0, 0)
        assert read.issues["other_type"] == 2
        assert markov(read).conversion_probability == pytest.approx(1 / 4)

    def test_conversions_of_two_types_at_one_time_have_an_order(self):
        met, bought = touches(("a", "2026-01-01", "Ads")), orders(*[("a", "2026-01-02", 5.0)] * 2)
        for kinds in (["sale", "lead"], ["lead", "sale"]):
            read = read_journeys(met, bought.assign(conversion=kinds), conversion="lead")
            assert (read.conversions, read.untouched) == (1, 0)

    def test_orders_that_were_not_completed_do_not_count(self):
        bought = ORDERS.assign(status=["completed", "cancelled", None, "completed", "completed"])

        read = read_journeys(TOUCHES, bought)
        assert read.conversions == 4 and read.issues["uncompleted"] == 1

    def test_views_by_other_names(self):
        kinds = [" Impression", "CLICK", "view", None, "", *["click"] * 5]

        assert read_journeys(TOUCHES.assign(kind=kinds), ORDERS).issues["views"] == 2

    def test_cuts_of_journeys_do_not_change_how_long_touches_work(self):
        met, bought = larger()
        one, other = (read_journeys(met, bought, **how).exposure() for how in ({}, {"session_gap_days": 2.0,
                      "collapse_repeats": True}))  # fmt: skip

        assert one.active_days == other.active_days
        for a, b in zip(one[:2], other[:2], strict=True):
            pd.testing.assert_frame_equal(a, b)

    def test_names_of_columns_of_other_tools(self):
        bought = ORDERS.rename(columns={"ordered_at": "converted_at", "revenue": "value"})

        assert read_journeys(TOUCHES, bought).value == 310

    def test_dates_are_midnights(self):
        read = read_journeys(TOUCHES.assign(touched_at=TOUCHES["touched_at"].dt.date), ORDERS)

        assert read.nulls == 4

    @pytest.mark.parametrize("suffix", ["parquet", "csv.gz"])
    def test_files(self, tmp_path, suffix):
        for name, frame in (("t", TOUCHES), ("o", ORDERS)):
            path = tmp_path / f"{name}.{suffix}"
            frame.to_parquet(path, index=False) if suffix == "parquet" else frame.to_csv(path, index=False)

        assert read_journeys(*(str(tmp_path / f"{name}.{suffix}") for name in "to")).value == 310


class TestSetAside:
    def test_a_conversion_without_a_value_is_counted(self):
        found = read_journeys(TOUCHES, ORDERS.assign(revenue=[float("nan")] + [1.0] * (len(ORDERS) - 1)))

        assert found.issues["unpriced"] == 1
        assert found.value <= len(ORDERS) - 1

    """Bad rows are counted; the rest is read."""

    def test_people_times_and_channels_that_are_missing_or_blank(self):
        bad = touches(
            (None, "2026-02-01", "Ads"), (" ", "2026-02-01", "Ads"), ("a", None, "Ads"), ("a", "2026-02-01", "")
        )
        bad["customer_id"] = [None, " ", "a", "a"]
        lost = orders(("x", "2026-02-01", 5.0)).assign(customer_id=None)
        read = read_journeys(pd.concat([TOUCHES, bad]), pd.concat([ORDERS, lost]))

        assert read.issues["unnamed"] == 5 and (read.conversions, read.value) == (5, 310)

    def test_a_crowd_under_one_name_is_named_and_left_out(self):
        n = 1_000_000
        at = pd.Timestamp("2026-02-01") + pd.to_timedelta(np.arange(n) % 86_400 * 10, unit="s")
        crowd = pd.DataFrame(
            {"customer_id": "anonymous", "touched_at": at, "channel": np.where(np.arange(n) % 2, "Ads", "Email")}
        )
        read = read_journeys(pd.concat([TOUCHES, crowd]), pd.concat([ORDERS, orders(("anonymous", "2026-02-02", 1e6))]))

        assert read.crowd == ("anonymous",) and read.issues["crowd"] == read.issues["crowd_conversions"] == 1
        assert read.issues["crowd_touches"] + read.issues["repeated"] == n + 1  # one row twice among the others
        assert (read.conversions, read.value, read.nulls, read.sample) == (5, 310, 4, 4)

    def test_the_busiest_person_who_still_counts(self):
        at = pd.Timestamp("2026-02-01") + pd.to_timedelta(np.arange(MOST_TOUCHES + 1), unit="min")
        busy = pd.DataFrame({"customer_id": "z", "touched_at": at, "channel": "Ads"})

        assert read_journeys(pd.concat([TOUCHES, busy[:-1]]), ORDERS).crowd == ()
        assert read_journeys(pd.concat([TOUCHES, busy]), ORDERS).crowd == ("z",)

    def test_a_crowd_is_in_no_group_of_people(self):
        at = pd.Timestamp("2026-02-01") + pd.to_timedelta(np.arange(MOST_TOUCHES + 1), unit="min")
        one, two = (pd.DataFrame({"customer_id": k, "touched_at": at, "channel": "Ads"}) for k in ("aa", "ab"))

        one, other = (attribute(read_journeys(t, ORDERS)) for t in (TOUCHES, pd.concat([one, two, TOUCHES])))
        pd.testing.assert_frame_equal(one.frame, other.frame)

    def test_orders_before_every_touch_have_none_and_of_days_without_records_nothing_is_known(self):
        assert read_journeys(TOUCHES, pd.concat([ORDERS, orders(("a", "2026-02-21", 7.0))])).issues["late"] == 1
        early = orders(("a", "2025-12-01", 7.0), ("c", "2026-01-02", 8.0), ("c", "2027-01-01", 1.0))
        read = read_journeys(TOUCHES, pd.concat([ORDERS, early]))

        assert (read.conversions, read.untouched, read.issues["unseen"]) == (6, 3, 2)
        assert (read.since.isoformat(), read.until.isoformat()) == ("2026-01-01", "2026-03-22")
        assert credit(read, "last")["Email"] == (2, 50)

    def test_channels_with_spaces_around_are_one(self):
        spaced = TOUCHES.assign(
            channel=TOUCHES["channel"].where(TOUCHES.index % 2 == 0, " " + TOUCHES["channel"] + " ")
        )

        assert read_journeys(spaced, ORDERS).channels == ("Ads", "Direct", "Email")


def without(frame, column):
    return frame.drop(columns=column)


def many(n):
    return touches(*(("a", "2026-02-10", f"c{i}") for i in range(n)))


REFUSED = {
    "negative value": (lambda: read_journeys(TOUCHES, ORDERS.assign(revenue=[-1, 2, 3, 4, 5.0])),
                       "1 conversions have a negative value. Net refunds with their orders, or leave them out"),
    "all before every touch": (
        lambda: read_journeys(TOUCHES, orders(("a", "2025-12-31", 1.0), ("c", "2026-02-04", 1.0))),
        "No conversion has a touch within the lookback"),
    "nothing left after lookback": (
        lambda: read_journeys(touches(("a", "2026-01-01", "Ads")), orders(("a", "2026-02-01", 1.0)), lookback_days=30),
        "No conversion is left: none is completed, of the type asked for and on days that touches"),
    "a date in the future": (lambda: read_journeys(pd.concat([TOUCHES, touches(("a", "2099-01-01", "Ads"))]), ORDERS),
                             "Nothing happened between 2026-02-20 and 2099-01-01: a wrong date.*Correct or leave"),
    "a date of 1970": (lambda: read_journeys(pd.concat([TOUCHES, touches(("a", "1970-01-01", "Ads"))]), ORDERS),
                       "Nothing happened between 1970-01-01 and 2026-01-01"),
    "a date a month ahead": (
        lambda: read_journeys(pd.concat([TOUCHES] * 20 + [touches(("a", "2026-04-20", "Ads"))]), ORDERS),
        "Nothing happened between 2026-02-20 and 2026-04-20: a wrong date"),
    "other kinds": (lambda: read_journeys(TOUCHES.assign(kind="like"), ORDERS), "kind is one of .'like'.: a touch is"),
    "numbers as channels": (lambda: read_journeys(TOUCHES.assign(channel=1), ORDERS), "channel is int64, not text"),
    "people as text": (lambda: read_journeys(TOUCHES, ORDERS, people="300"), "people='300': how many .* whole number"),
    "63 channels": (lambda: read_journeys(many(MOST_CHANNELS + 1), ORDERS),
                    "63 channels, but 62 at most can be told apart. Put the rarest together as 'other'"),
    "text dates": (lambda: read_journeys(TOUCHES.assign(touched_at="01/02/2026"), ORDERS),
                   "touched_at is string, not a date or local time without zone. Convert it"),
    "times of a zone": (lambda: read_journeys(TOUCHES, ORDERS.assign(ordered_at=pd.Timestamp("2026-02-11", tz="UTC"))),
                        "ordered_at is timestamp.*not a date or local time"),
    "no channel": (lambda: read_journeys(without(TOUCHES, "channel"), ORDERS), "touchpoints have no column channel"),
    "no time": (lambda: read_journeys(TOUCHES, without(ORDERS, "ordered_at")), "conversions have no column ordered_at"),
    "nobody": (lambda: read_journeys(TOUCHES.assign(customer_id=""), ORDERS), "touches and conversions with a person"),
    "no touches": (lambda: read_journeys(TOUCHES[:0], ORDERS), "touches and conversions with a person"),
    "no orders": (lambda: read_journeys(TOUCHES, ORDERS[:0]), "touches and conversions with a person"),
    "none completed": (lambda: read_journeys(TOUCHES, ORDERS.assign(status="cancelled")), "touches and conversions"),
    "only views": (lambda: read_journeys(TOUCHES.assign(kind="view"), ORDERS), "There are no channels: no touch"),
    "value as text": (lambda: read_journeys(TOUCHES, ORDERS.assign(revenue="1,5")), "revenue holds text"),
    "ids of two kinds": (lambda: read_journeys(TOUCHES.assign(customer_id=1), ORDERS), "text in one of the tables"),
    "endless value": (lambda: read_journeys(TOUCHES, ORDERS.assign(revenue=float("inf"))), "has an infinite value"),
    "no such type": (lambda: read_journeys(TOUCHES, ORDERS.assign(conversion="sale"), conversion="lead"),
                     "No conversion is left: none is completed, of the type"),
    "fewer people than seen": (lambda: read_journeys(TOUCHES, ORDERS, people=4),
                               "people=4, but 5 people were touched or converted"),
    "no lookback": (lambda: read_journeys(TOUCHES, ORDERS, lookback_days=0), "lookback_days=0: a touch must"),
    "view credit": (lambda: read_journeys(TOUCHES, ORDERS, view_credit=1.5), r"view_credit=1.5 is not in \[0, 1\]"),
    "session gap": (lambda: read_journeys(TOUCHES, ORDERS, session_gap_days=0), "session_gap_days=0 must be"),
    "no file": (lambda: read_journeys("no.parquet", ORDERS), "no file, DataFrame or Ibis table"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    asked, said = REFUSED[case]
    with pytest.raises(KpiError, match=said):
        asked()


def paths(*rows):
    return pd.DataFrame(rows, columns=["p", "n", "lost", "value"])


def read_paths(*rows, **how):
    return from_paths(paths(*rows), path="p", conversions="n", nulls="lost", value="value", **how)


class TestPathTables:
    @pytest.mark.parametrize("separator", [">", " > ", ">  "])
    def test_separators_with_and_without_spaces(self, separator):
        read = read_paths(("A>B >C", 1, 0, 5.0), (" A > B>C ", 1, 2, 5.0), separator=separator)

        assert read.channels == ("A", "B", "C") and (read.conversions, read.nulls, read.value) == (2, 2, 10)

    def test_other_separators_and_names_with_spaces(self):
        assert read_paths(("Paid Search|E mail", 1, 0, 5.0), separator="|").channels == ("E mail", "Paid Search")
        assert read_paths(("e-mail - Search", 1, 0, 5.0), separator=" - ").channels == ("Search", "e-mail")
        assert read_paths(("Paid Search", 1, 0, 5.0), separator=" ").channels == ("Paid", "Search")

    def test_62_channels_are_told_apart(self):
        read = read_paths((" > ".join(f"c{i:02}" for i in range(MOST_CHANNELS)), 62, 1, 62.0))

        assert attribute(read, ("shapley",), confidence=None).conversions == pytest.approx([1.0] * 62)
        assert markov(read, order=3).shares["c61"] == pytest.approx(1 / 62)  # the largest keys there are

    def test_arrow_and_missing_columns(self):
        read = from_paths(pd.DataFrame(paths(("A", 2, 1, 1.0))), path="p", conversions="n")

        assert (read.nulls, read.value, read.sample) == (0, 0, 2)

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([("A >  > B", 1, 0, 1.0)], "A path has an empty channel. Is ' > ' the separator"),
            ([("", 1, 0, 1.0)], "A path has an empty channel"),
            (
                [("A", -1, 0, 1.0), ("B", 5, 0, 1.0)],
                "n is negative or missing in 1 rows. Counts and values must be 0 or more",
            ),
            ([("A", 1, np.nan, 1.0)], "lost is negative or missing in 1 rows"),
            ([("A", 1, 0, np.inf)], "value is negative or missing in 1 rows"),
            ([("A", "1", 0, 1.0)], "n is .*: it must hold numbers"),
            ([(None, 1, 0, 1.0), ("A", 1, 0, 1.0)], "1 rows have no path. Leave them out"),
            ([("A > Baseline", 1, 0, 1.0)], "A channel is called ..Baseline..: so are conversions"),
            ([("A", 0, 3, 0.0)], "No path converted: there is nothing to attribute"),
            ([("A", 0, 3, 9.0), ("B", 1, 0, 1.0)], "1 rows have a value but no conversion"),
            ([(" > ".join(f"c{i}" for i in range(63)), 1, 0, 1.0)], "63 channels, but 62 at most"),
            ([], "No path converted|There are no channels"),
        ],
    )
    def test_what_is_refused(self, rows, said):
        with pytest.raises(KpiError, match=said):
            read_paths(*rows)

    def test_frames_put_together_are_read(self):
        rows = paths(("A > B", 3, 1, 1.0), ("A", 1, 0, 1.0))
        twice = from_paths(pd.concat([rows, rows], ignore_index=True), path="p", conversions="n")

        assert twice.channels == ("A", "B")
        assert twice.conversions == 8

    def test_a_missing_column_is_named(self):
        with pytest.raises(KpiError, match=r"The table of paths has no column 'path'\. Known are p, n"):
            from_paths(paths(("A", 1, 0, 1.0)), path="path", conversions="n")
