"""Engagement: shrunk hours judged on later posts and the planted truth, cohorts and counts by hand, bad input."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2

from kpi_helpers import engagement, simulate, timings
from kpi_helpers.contacts import common_lift
from kpi_helpers.errors import KpiError
from kpi_helpers.records import PLANTED
from kpi_helpers.sources import connect

END = date(2026, 3, 31)


@pytest.fixture(scope="module")
def company():
    return connect(simulate.HOME)


@pytest.fixture(scope="module")
def last(company):
    return company.as_of()


def made(n=2000, groups=50, rho=0.02, seed=3):
    """Posts whose people act alike with the correlation `rho`, a rate of .05 in every group."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(50, 5000, n)
    p = rng.beta(0.05 * (1 / rho - 1), 0.95 * (1 / rho - 1), n)
    slot = rng.integers(groups, size=n)
    told = {"weekday": slot // 24, "hour": slot % 24, "hits": rng.binomial(shown, p), "shown": shown}
    return pd.DataFrame(told).astype(float)


class TestHours:
    @pytest.mark.parametrize("rho", [0.005, 0.02, 0.1])
    def test_the_likeness_of_people_who_saw_the_same_post_is_recovered(self, rho):
        posts = made(n=6000, rho=rho)
        found = timings.likeness(24 * posts["weekday"] + posts["hour"], posts["hits"], posts["shown"])

        assert found == pytest.approx(rho, rel=0.15)

    def test_honest_hours_seldom_look_clear(self):
        alarms = [(engagement.best_hours(made(n=600, groups=168, seed=s)).frame["clear"] > 0).mean() for s in range(20)]

        assert np.mean(alarms) < 0.05  # one side of a 90% interval

    def test_treating_people_as_the_sample_would_find_clear_hours_in_noise(self):
        posts = made(n=600, groups=168)
        found = timings._shrunk(
            timings._parts(posts, 0.0)[0].groupby(24 * posts["weekday"] + posts["hour"]).sum(), 0.05
        )

        assert (found["clear"] > 0).mean() > 0.2

    def test_intervals_hold_the_planted_rates_and_only_evenings_are_clear(self, company, last):
        hours = engagement.best_hours(engagement.read_posts(company, as_of=last))
        known, parts = PLANTED["content"], PLANTED["content"]["parts"]
        mean = np.average(list(known["rates"].values()), weights=[known["words"]["kind"][k] for k in known["rates"]])
        usual = mean * sum(parts[k] for k in ("likes", "comments", "shares"))
        true = usual * np.where(hours.frame["hour"] >= 19, known["evening"], 1.0)

        assert hours.frame["low"].le(true).mul(hours.frame["high"] >= true).mean() >= 0.85
        assert hours.hours == (19, 20, 21, 22, 23)
        assert set(hours.frame.query("clear > 0")["hour"]) <= set(range(19, 24))

    @pytest.mark.parametrize("ago", [31, 91, 183])
    def test_shrunk_rates_foretell_later_posts_better_than_raw_ones(self, company, last, ago):
        past = engagement.best_hours(engagement.read_posts(company, as_of=last - timedelta(ago)))
        later = engagement.read_posts(company, as_of=last, days=ago)
        later = later.merge(past.frame.nlargest(10, "raw"), on=["weekday", "hour"])
        missed = {k: ((later["hits"] / later["shown"] - later[k]) ** 2).mean() ** 0.5 for k in ("raw", "mean")}

        assert missed["mean"] < 0.95 * missed["raw"]

    def test_more_reactions_than_people_and_posts_nobody_saw_are_set_aside(self):
        posts = made().iloc[:60].reset_index(drop=True)
        posts.loc[0, "hits"], posts.loc[1, "shown"], posts.loc[2, "hour"] = 1e6, 0, np.nan

        assert (found := engagement.best_hours(posts)).aside_n == 3 and found.n == 57

    def test_the_order_of_posts_does_not_matter(self):
        one, two = made(n=300), made(n=300).sample(frac=1, random_state=1)

        pd.testing.assert_frame_equal(
            engagement.best_hours(one).frame, engagement.best_hours(two).frame, rtol=1e-6, check_exact=False
        )

    def test_expected_rates_lie_between_the_counted_and_the_usual_one(self):
        posts = made(n=900, groups=100)
        posts.loc[posts["shown"] > 3000, "hits"] //= 10  # large ones are seen by people who care less
        found = engagement.best_hours(posts)
        f = found.frame.dropna(subset=["raw"])

        # the intervals' own centre is the prior's mean, which is near the usual rate
        assert ((f["mean"] - f["raw"]) * (found.usual - f["raw"]) >= -1e-3 * f["raw"]).all()

    def test_no_hour_says_so(self):
        with pytest.raises(KpiError, match="no post has a time"):
            engagement.best_hours(made().assign(hour=np.nan))


def test_products_without_a_true_difference_do_not_stand_out(company, last):
    pages = engagement.top_pages(company, as_of=last)

    assert (pages.frame["clear"] == 0).all()
    assert np.ptp(pages.raw) > 3 * np.ptp(pages.mean)


def test_people_are_counted_once(company, last):
    rows = company.table("touchpoints").to_pyarrow().to_pandas()
    rows = rows[rows["touched_at"] >= pd.Timestamp(last - timedelta(27))]
    found, n = engagement.reach(company, as_of=last), rows.groupby("customer_id")["channel"].nunique()

    assert (found.distinct, found.summed) == (len(n), rows.groupby("channel")["customer_id"].nunique().sum())
    assert found.several == pytest.approx((n > 1).mean())
    assert max(found.people) <= found.distinct < found.summed


MESSAGES = pd.DataFrame(
    [
        ("a", "2026-01-01", 1), ("a", "2026-01-03", 2), ("a", "2026-01-05", 3),
        ("b", "2026-01-02", 1), ("b", "2026-01-04", 2),
        ("c", "2026-01-02", 1), ("c", "2026-02-20", 2),  # the second one too late for the window
        ("d", "2026-01-05", 2), ("d", "2026-01-06", 1),  # out of order
        ("e", "2026-01-05", 1), ("e", "2026-01-06", 3),  # a step left out
        ("f", "2026-03-20", 1), ("f", "2026-03-21", 2),  # cannot be judged yet
    ],
    columns=["customer_id", "sent_at", "step"],
).assign(workflow="W", channel="Email")  # fmt: skip
MESSAGES["sent_at"] = pd.to_datetime(MESSAGES["sent_at"])
ORDERS = pd.DataFrame(
    {"order_id": ["1", "2", "3"], "customer_id": ["a", "b", "c"], "channel": ["Zalo", "Zalo", "Ads"],
     "ordered_at": pd.to_datetime(["2026-01-10", "2026-01-01", "2026-01-09"])}
)  # fmt: skip


def test_a_sequence_follows_the_same_people(engine):
    found = engagement.follow(engine.source({"messages": MESSAGES, "orders": ORDERS}), as_of=END, window_days=28)
    rows = found.frame.set_index("name")

    assert rows["people"].to_dict() == {"1": 3, "2": 2, "3": 1, "order": 2}  # a, b, c; b ordered before
    assert rows["share"].iloc[1:].tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    assert (found.open_n, found.aside_n) == (1, 2)
    assert "set aside: 2" in found.sentence() and "không tính: 2" in found.sentence("vi")


def test_the_welcome_goes_on_as_planted(company, last):
    rows = engagement.follow(company, as_of=last).frame.set_index("name").loc[["2", "3", "4"]]

    assert (rows["low"] <= 0.78).all() and (rows["high"] >= 0.78).all()


def test_orders_after_a_contact_and_their_channel(engine):
    found = engagement.ordered(engine.source({"messages": MESSAGES, "orders": ORDERS}), as_of=END, days=60)
    rows = found.frame.set_index("name")

    assert found.out_of[0] == 5 and rows["people"].to_dict() == {"": 2, "Ads": 1, "Zalo": 1}


def test_retries_of_a_run_are_one_run(engine):
    runs = pd.DataFrame(
        [("1", 1, "failed", "a"), ("1", 2, "executed", "a"), ("2", 1, "failed", "b"), ("2", 3, "failed", "b"),
         ("3", 1, "executed", "a"), ("4", 1, "skipped", "c"), ("5", 1, "executed", "d"), ("5", 2, "failed", "d")],
        columns=["run_id", "run_at", "status", "customer_id"],
    )  # fmt: skip
    runs = runs.assign(
        run_at=pd.Timestamp("2026-03-20") + pd.to_timedelta(runs["run_at"], "h"), workflow="W", action="send"
    )
    found = engagement.runs(engine.source(runs, "automation_runs"), as_of=END)
    told = found.frame.set_index("name")["people"].to_dict()

    assert told == {"executed": 3, "failed": 1, "skipped": 1, "send": 3, "trigger": 0, "contacts": 2, "retries": 3}
    assert found.runs == 5


class TestReengaged:
    def test_one_stratum_is_the_ratio_of_two_rates(self):
        table = Table2x2([[30, 70], [20, 80]])
        low, high = table.riskratio_confint()

        assert common_lift([100], [30], [100], [20]) == pytest.approx((table.riskratio - 1, low - 1, high - 1))

    def test_strata_are_pooled_as_by_mantel_and_haenszel(self):
        tables = [np.array([[30, 70], [20, 80]]), np.array([[5, 45], [30, 600]])]
        sides = [[t[0].sum(), t[0, 0], t[1].sum(), t[1, 0]] for t in tables]

        assert common_lift(*zip(*sides, strict=True))[0] == pytest.approx(StratifiedTable(tables).riskratio_pooled - 1)

    def test_a_day_on_which_all_were_contacted_adds_nothing(self):
        assert common_lift([100, 50], [30, 9], [100, 0], [20, 0]) == common_lift([100], [30], [100], [20])

    def test_the_planted_lift_lies_in_the_interval(self, company, last):
        found, back = engagement.reengaged(company, as_of=last), PLANTED["win_back"]

        assert found.workflow == back["workflow"] and len(found.on) == len(back["days_ago"])
        assert found.low < back["lift"] - 1 < found.high
        assert found.rate > found.without > 0

    def quiet(self, engine, contacted):
        """Ten customers, quiet since October; some contacted on 1 February, the first five of all came in February."""
        who = [f"c{i}" for i in range(10)]
        first = pd.DataFrame({"customer_id": who, "ordered_at": pd.Timestamp("2025-10-01")})
        again = pd.DataFrame({"customer_id": who[:5], "ordered_at": pd.Timestamp("2026-02-10")})
        orders = pd.concat([first, again], ignore_index=True)
        sent = pd.DataFrame({"customer_id": contacted, "sent_at": pd.Timestamp("2026-02-01T12:00"), "channel": "SMS"})
        orders["order_id"] = orders.index.astype(str)
        return engine.source({"orders": orders, "messages": sent.assign(workflow="Back")})

    def test_by_hand(self, engine):
        found = engagement.reengaged(self.quiet(engine, ["c0", "c1", "c2", "c9"]), as_of=END)

        row = found.frame.iloc[0]
        assert row[["contacted", "came", "untouched", "untouched_came"]].tolist() == [4, 3, 6, 2]
        assert found.lift == pytest.approx((3 / 4) / (2 / 6) - 1)

    def test_reminders_of_one_quiet_time_are_one_contact(self, engine):
        data = self.quiet(engine, ["c0", "c1", "c2", "c9"])
        rows = data.table("messages").to_pyarrow().to_pandas()
        again = rows.assign(sent_at=rows["sent_at"] + pd.Timedelta(3, "D"))
        both = {"messages": pd.concat([rows, again]), "orders": data.table("orders").to_pyarrow().to_pandas()}

        found = engagement.reengaged(engine.source(both), as_of=END)

        assert (found.people, found.back) == (4, 3)

    def test_who_is_contacted_a_little_later_was_not_left_alone(self, engine):
        data = self.quiet(engine, ["c0", "c1", "c2", "c9"])
        rows = data.table("messages").to_pyarrow().to_pandas()
        rest = pd.DataFrame({"customer_id": ["c3", "c4", "c5"], "sent_at": pd.Timestamp("2026-02-03T12:00")})
        late = rest.assign(channel="SMS", workflow="Back")
        both = {"messages": pd.concat([rows, late]), "orders": data.table("orders").to_pyarrow().to_pandas()}

        found = engagement.reengaged(engine.source(both), as_of=END)

        assert np.isnan(found.lift) and found.crossed == 3
        assert "because 3 of the 9 left alone were contacted within the same days" in found.sentence()

    def test_without_a_hold_out_it_says_so(self, engine):
        found = engagement.reengaged(self.quiet(engine, [f"c{i}" for i in range(10)]), as_of=END)

        assert np.isnan(found.lift) and "cannot be told, because every quiet customer was contacted" in found.sentence()
        assert "giữ lại ngẫu nhiên" in found.sentence("vi")

    def test_nobody_quiet(self, engine):
        data = engine.source({"messages": MESSAGES, "orders": ORDERS})

        assert engagement.reengaged(data, as_of=END).sentence().startswith("No automation contacted customers")


def answers(csat, nps, silent=0, late=1):
    n = len(csat)
    rows = pd.DataFrame({"customer_id": [f"c{i}" for i in range(n + silent)], "survey": "S", "channel": "Email"})
    rows["sent_at"] = pd.Timestamp("2026-03-01")
    rows["answered_at"] = pd.Series([pd.Timestamp("2026-03-01") + pd.Timedelta(late, "h")] * n).reindex(rows.index)
    return rows.assign(csat=pd.Series(csat).reindex(rows.index), nps=pd.Series(nps).reindex(rows.index))


class TestSurvey:
    def test_intervals_and_bounds_by_hand(self, engine):
        data = engine.source(answers([5, 5, 4, 2] * 10, [10, 9, 8, 0] * 10, silent=60), "surveys")
        f = engagement.survey(data, as_of=END).frame.set_index("kpi")

        assert f.loc["csat", ["value", "worst", "best"]].tolist() == pytest.approx([0.75, 0.30, 0.90])
        assert f.loc["nps", ["value", "worst", "best"]].tolist() == pytest.approx([25, (10 - 60), (10 + 60)])
        # multinomial variance of an NPS, p + d - (p - d)^2 (Rocks 2016, The American Statistician 70:365-372), t of 39
        half = 2.022691 * np.sqrt((0.5 + 0.25 - 0.25**2) / 39) * 100
        assert f.loc["nps", "high"] - 25 == pytest.approx(half, rel=1e-5)

    def test_the_planted_silence_is_missed_by_the_interval_but_not_by_the_bounds(self, company, last):
        row, told = engagement.survey(company, as_of=last).frame.iloc[0], PLANTED["surveys"]["words"]["csat"]
        true = (told[4] + told[5]) / sum(told.values())

        assert row["low"] > true and row["worst"] < true < row["best"]

    @pytest.mark.parametrize(
        ("csat", "nps", "told"),
        [([6], [9], r"csat: 1 of 1 rows off the scale 1–5"), ([5], [-1], r"nps: 1 .*0–10.*another scale\?")],
    )
    def test_scores_off_the_scale(self, engine, csat, nps, told):
        with pytest.raises(KpiError, match=told):
            engagement.survey(engine.source(answers(csat, nps), "surveys"), as_of=END)

    def test_without_invitations_and_with_answers_before_them(self, engine):
        said = engagement.survey(engine.source(answers([5, 1], [9, 3], late=-2), "surveys"), as_of=END)

        assert "Every row is an answer" in said.sentence() and "Answered before they were sent: 2" in said.sentence()

    def test_invitations_without_any_answer(self, engine):
        found = engagement.survey(engine.source(answers([], [], silent=4), "surveys"), as_of=END)

        assert len(found.frame) == 0 and found.sentence() and found.html("vi")

    def test_answers_of_which_no_time_is_known(self, engine):
        rows = answers([5] * 3, [9] * 3, silent=7).drop(columns="answered_at")

        assert (
            "nobody can tell how many kept silent"
            in engagement.survey(engine.source(rows, "surveys"), as_of=END).sentence()
        )

    def test_how_people_found_us(self, engine):
        rows = answers([5] * 8, [9] * 8, silent=4).assign(discovery=["Zalo"] * 5 + ["Google"] * 3 + [None] * 4)
        found = engagement.discovery(engine.source(rows, "surveys"), as_of=END)

        assert found.frame["name"].tolist() == ["Zalo", "Google"] and found.share == (5 / 8, 3 / 8)


@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (7, 1.0), (28, 1.0)])
def test_days_before_the_data_are_no_days_without_visits(engine, n, share):
    at = [pd.Timestamp("2026-03-01 10:00") + pd.Timedelta(i, "D") for i in range(n)]
    rows = pd.DataFrame({"visitor_id": np.repeat(["u", "v"], n), "event": "visit", "happened_at": at * 2})
    found = engagement.stickiness(engine.source(rows, "web_events"), as_of=at[-1].date())

    assert (found.share, found.daily, found.days) == (share, 2, n)


def test_kinds_of_one_post_each_are_not_told_apart_by_their_people():
    rng, clear = np.random.default_rng(6), 0
    for _run in range(200):
        posts = pd.DataFrame({"name": list("xyz"), "kind": list("abc"), "shown": [2e4] * 3})
        posts["hits"] = rng.binomial(20_000, rng.beta(20, 500, 3)).astype(float)
        clear += bool(engagement.rank_rates(posts, "kind", what="kinds").frame["clear"].any())
    assert clear / 200 <= 0.1

    with pytest.raises(KpiError, match="cannot be told of a single post"):
        engagement.best_hours(posts.head(1).assign(weekday=1, hour=9.0))


def test_stickiness_is_the_mean_share_of_active_days(company, last):
    rows = company.table("web_events").to_pyarrow().to_pandas()
    rows = rows[rows["happened_at"] >= pd.Timestamp(last - timedelta(27))]
    days = rows.groupby("visitor_id")["happened_at"].agg(lambda t: t.dt.date.nunique())
    found = engagement.stickiness(company, as_of=last)

    assert found.share == pytest.approx(days.mean() / 28)
    assert found.high - found.share == pytest.approx(1.96 * days.std() / 28 / len(days) ** 0.5, rel=1e-3)


def test_posts_that_nobody_is_known_to_have_seen(engine):
    posts = pd.DataFrame({"content_id": ["1"], "likes": [3]})
    with pytest.raises(KpiError, match="neither reach nor impressions"):
        engagement.read_posts(engine.source(posts, "content"), as_of=None)


def test_what_a_source_lacks_is_named(engine):
    found = engagement.sections(engine.source({"messages": MESSAGES}))

    assert "steps" in found and "reach" in found and "ordered" not in found
    assert "orders after a contact (orders.ordered_at)" in found.sentence()


@pytest.mark.parametrize("mapping", ["facebook_posts", "facebook_posts_es"])
def test_facebook_posts_by_kind(real_data, mapping):
    posts = engagement.read_posts(
        connect(real_data("facebook-page-posts"), f"data/mappings/{mapping}.yaml"), as_of=None
    )
    kinds = posts.groupby("kind")["hits"]

    # the file's own description: 500 posts, 106,060 interactions of 6,951,680 people reached, means by kind
    assert (posts["hits"].sum(), posts["shown"].sum()) == (106_060, 6_951_680)
    assert kinds.size().to_dict() == {"Photo": 426, "Status": 45, "Link": 22, "Video": 7}
    assert kinds.mean().round(2).to_dict() == {"Video": 295.86, "Status": 217.04, "Photo": 216.58, "Link": 89.05}
    ranked = engagement.rank_rates(posts, "kind", what="kinds").frame.set_index("name")
    assert (ranked["mean"] - ranked["raw"]).abs().max() < 0.01  # of one kind of mean: posts, not people
    assert ranked.index[-1] == "Link" and ranked.loc["Video", "high"] - ranked.loc["Video", "low"] > 0.01


def test_facebook_hours_are_mostly_luck(real_data):
    rows = pd.read_csv(real_data("facebook-page-posts") / "dataset_Facebook.csv", sep=";").fillna(
        {"like": 0, "share": 0}
    )
    told = {"weekday": rows["Weekday"] - 1, "hour": rows["Hour"] % 24}
    hours = engagement.best_hours(
        pd.DataFrame(told | {"hits": rows["T_Interactions"], "shown": rows["T_Reach"]}).astype(float)
    )

    best = hours.frame.loc[hours.frame["raw"].idxmax()]
    assert best["raw"] > 2 * hours.usual and best["mean"] - hours.usual < (best["raw"] - hours.usual) / 2
