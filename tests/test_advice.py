"""`kpi_helpers.plans`: what to warn about before a plan is agreed."""

import pytest

from kpi_helpers.errors import KpiError
from kpi_helpers.kpis import catalogue
from kpi_helpers.plans import ACTIVITIES, review_plan
from kpi_helpers.result import LANGUAGES

ENGAGED = {"Facebook": (500, 10_000), "Zalo OA": (600, 10_000), "Email": (550, 10_000), "Display": (50, 10_000)}


def warned(review):
    return list(zip(review.channel, review.kpi, review.warning, strict=True))


def test_a_sound_plan_has_nothing_to_warn_about():
    review = review_plan(
        {"Facebook": ["orders", "cpa"], "Email": ["ctr_email"]},
        grades={("Facebook", "orders"): "ambitious"},
        engagement=ENGAGED,
        activities={"Facebook": ["ads"], "Email": ["email"]},
    )

    assert warned(review) == []
    assert len(review.to_frame()) == 0
    assert "Nothing" in review.html() and "không" in review.html("vi")


@pytest.mark.parametrize(("n", "expected"), [(5, []), (6, [("Facebook", "", "many")])])
def test_more_than_five_kpis_on_a_channel_are_too_many(n, expected):
    ids = ["orders", "revenue", "roas", "cpa", "ctr_ad", "cpc"]

    assert warned(review_plan({"Facebook": ids[:n]})) == expected
    assert warned(review_plan({"Facebook": ids[:5] * 2})) == []  # one named twice is one


def test_vanity_metrics_are_named():
    assert warned(review_plan({"Facebook": ["impressions", "clicks"], "Blog": ["pageviews"]})) == [
        ("Facebook", "impressions", "vanity"),
        ("Blog", "pageviews", "vanity"),
    ]


def test_a_kpi_needs_an_activity_that_moves_it():
    # article 2: a content plan goes with sessions; white papers with leads; ads with clicks
    plan = {"Blog": ["sessions", "leads", "open_rate"]}

    def unmatched(*words):
        return [k for _c, k, w in warned(review_plan(plan, activities={"Blog": list(words)})) if w == "unmatched"]

    assert unmatched("content") == ["leads", "open_rate"]
    assert unmatched("content", "white_paper") == ["open_rate"]
    assert unmatched("email") == []
    assert unmatched("campaign") == []  # a campaign may move anything
    assert unmatched() == ["sessions", "leads", "open_rate"]
    assert [w for _c, _k, w in warned(review_plan(plan, activities={}))] == ["unmatched"] * 3
    assert warned(review_plan(plan)) == []  # no plan of activities, nothing to match


@pytest.mark.parametrize("grade", ["safe", "stretch", "ambitious", "unrealistic", "not enough data"])
def test_ambition_where_few_engage_is_warned_about(grade):
    grades = {("Display", "clicks"): grade, ("Facebook", "clicks"): grade}
    plan = {"Display": ["clicks"], "Facebook": ["clicks"]}
    expected = [("Display", "clicks", "cold")] if grade in ("ambitious", "unrealistic") else []

    assert warned(review_plan(plan, grades=grades, engagement=ENGAGED)) == expected
    does = {"Display": ["ads", "campaign"], "Facebook": ["ads"]}
    assert warned(review_plan(plan, grades=grades, engagement=ENGAGED, activities=does)) == []  # R20: a big campaign


def test_half_of_the_usual_engagement_is_the_bound_and_few_counts_do_not_decide():
    grades = {("Display", "clicks"): "ambitious"}

    def cold(successes, trials):
        engaged = ENGAGED | {"Display": (successes, trials)}
        return bool(review_plan({"Display": ["clicks"]}, grades=grades, engagement=engaged).warning)

    assert cold(200, 10_000)
    assert not cold(300, 10_000)
    assert not cold(0, 3)  # 0 of 3 says little: the rate is drawn to the others
    assert not review_plan({"Display": ["clicks"]}, grades=grades, engagement={"Display": (1, 900)}).warning
    assert not review_plan({"Other": ["clicks"]}, grades={("Other", "clicks"): "ambitious"}, engagement=ENGAGED).warning


def test_every_warning_speaks_both_languages_and_is_escaped():
    review = review_plan(
        {"<b>Display": ["impressions", "open_rate", "clicks", "cpc", "cpa", "ctr_ad"]},
        grades={("<b>Display", "clicks"): "ambitious"},
        engagement={**ENGAGED, "<b>Display": (40, 10_000)},
        activities={"<b>Display": ["ads"]},
    )

    assert sorted(review.warning) == ["cold", "many", "unmatched", "vanity"]
    assert all(en != vi for en, vi in zip(review.words, review.words_vi, strict=True))
    for language in LANGUAGES:
        page = review.html(language)
        assert "<b>Display" not in page and "&lt;b&gt;Display" in page
        assert catalogue()["open_rate"].name[language] in page
    assert "0.41%" in review.words[3] and "0,41%" in review.words_vi[3]
    assert [row["warning"] for row in review.to_json()["rows"]] == list(review.warning)


def test_what_is_not_known_is_refused():
    with pytest.raises(KpiError, match=r"activities \['tv'\] are not among content, white_paper"):
        review_plan({"Blog": ["sessions"]}, activities={"Blog": ["tv"]})
    with pytest.raises(KpiError, match=r"There is no KPI 'session'\. Did you mean sessions"):
        review_plan({"Blog": ["session"]})


def test_the_catalogue_knows_what_moves_each_kpi():
    for k in (k for k in catalogue() if k.tables == {"channel_daily"}):
        assert k.activities and set(k.activities) <= set(ACTIVITIES) - {"campaign"}, k.id
    assert {k.id for k in catalogue() if k.vanity} == {
        "impressions", "pageviews", "followers", "follower_growth"}  # fmt: skip
