"""KPIs watched: what is planted is told with its cause, false alarms are controlled over all KPIs of a day."""

import json
import re
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import alarms
from kpi_helpers.alarms import Watched, watch
from kpi_helpers.errors import KpiError
from kpi_helpers.sources import connect

FIRST, DAYS = date(2025, 1, 6), 330
LAST = FIRST + timedelta(DAYS - 1)
IDS = ["sessions", "orders", "order_rate_session", "aov"]
#: days ago
GAP, DIP, SPIKE, MIX = (9, 8), 5, 2, 20


def shop(planted=""):
    """Daily rows of six campaigns: counts that vary a little more than by chance, by weekday alike."""
    rng, rows = np.random.default_rng(3), []
    for channel, base in (("Ads", 6000), ("Email", 3000), ("Search", 5000)):
        for campaign in "XY":
            week, t = np.resize([1, 1, 1, 1.1, 1.2, 1.3, 1.1], DAYS), np.arange(DAYS, 0, -1) - 1
            mean = base * week * np.exp(rng.normal(0, 0.02, DAYS))
            rate = 0.03 * np.exp(rng.normal(0, 0.02, DAYS))
            if planted == "mix":
                mean *= np.where(t <= MIX, {"Email": 2, "Search": 0.4}.get(channel, 1), 1)
            if planted == "events":
                rate *= np.where((t == DIP) & (channel == "Ads") & (campaign == "X"), 0.05, 1)
                rate *= np.where((t == SPIKE) & (channel == "Email"), 3, 1)
            sessions = rng.poisson(mean).astype(float)
            orders = rng.binomial(sessions.astype(int), rate)
            if planted == "events":
                sessions[np.isin(t, GAP)] = np.nan
            days = [FIRST + timedelta(i) for i in range(DAYS)]
            revenue = np.round(orders * rng.normal(40, 0.5, DAYS), 2)
            rows.append(pd.DataFrame({"date": days, "channel": channel, "campaign": campaign, "sessions": sessions,
                                      "orders": orders, "revenue": revenue}))  # fmt: skip
    return pd.concat(rows)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    def made(planted="", **mapping):
        folder = tmp_path_factory.mktemp("shop")
        shop(planted).to_csv(folder / "channel_daily.csv", index=False)
        return connect(folder, {"channel_daily": mapping} if mapping else None)

    return made


@pytest.fixture(scope="module")
def seen(source):
    return watch(source("events"), IDS, as_of=LAST)


def told(result, key, ago):
    found = result.alarms.query("kpi == @key")
    return found[found["date"] == LAST - timedelta(ago)].iloc[0]


def test_rows_and_json_keep_the_contract(seen):
    held = seen.to_json()

    assert tuple(seen.frame) == Watched.columns and len(seen.frame) == 28 * len(IDS)
    assert held["name"] == "watched" and len(held["rows"]) == 28 * len(IDS)
    assert set(seen.kind) <= {"", "gap", "spike", "dip", "shift", "mix"}
    assert [set(row) for row in held["why"]] == [{"kpi", "date", "en", "vi"}] * len(seen.alarms)
    assert json.dumps(held, allow_nan=False)
    assert max(seen.date) == LAST and min(seen.date) == LAST - timedelta(27)


def test_values_are_ratios_of_the_sums_of_a_day(seen):
    rows = shop("events").query("date == @LAST")
    value = seen.frame.query("kpi == 'order_rate_session' and date == @LAST")["value"].item()

    assert value == pytest.approx(rows["orders"].sum() / rows["sessions"].sum(), rel=1e-12)


def test_a_gap_is_a_gap_and_has_no_other_cause(seen):
    for key in ("sessions", "order_rate_session"):
        for ago in GAP:
            row = told(seen, key, ago)
            assert row["kind"] == "gap" and "tracking" in row["en"] and np.isnan(row["value"])


def test_a_dip_of_a_ratio_is_told_as_rate_and_by_its_segment(seen):
    row = told(seen, "order_rate_session", DIP)

    assert row["kind"] == "dip" and row["low"] > row["value"]
    assert "within channels" in row["en"] and "channel = Ads, campaign = X" in row["en"]
    assert "trong từng kênh" in row["vi"] and "channel = Ads, campaign = X" in row["vi"]


def test_a_spike_of_a_sum_is_told_as_volume_by_segment(seen):
    row = told(seen, "orders", SPIKE)

    assert row["kind"] == "spike" and "channel = Email" in row["en"] and "% of the change" in row["en"]


def test_a_shift_of_the_mix_is_told_once_where_the_total_is_ordinary(source):
    seen = watch(source("mix"), IDS, as_of=LAST)
    first = seen.alarms.query("kind == 'mix' and kpi == 'sessions'")

    assert set(seen.frame.query("kpi == 'sessions'")["kind"]) == {"", "mix"} and "Mix shifted" in seen.html()
    assert len(first) == 1 and first["date"].item() in [LAST - timedelta(MIX - i) for i in range(3)]
    assert re.search(r"mix shifted: (Email|Search) makes up", first["en"].item())


def test_a_calm_shop_says_so_with_its_rate(source):
    calm = watch(source(), IDS, as_of=LAST)

    assert calm.alarms.empty and calm.why.empty and calm.to_json()["why"] == []
    assert "No alarm in the last 28 days (KPIs watched: 4)" in calm.sentence()
    assert "0.08 alarm days" in calm.sentence()  # 0.02 a week, four weeks
    assert calm.html() == f"<p>{calm.sentence()}</p>"


def test_the_report_shows_kind_in_words_the_range_and_why(seen):
    en, vi = seen.html("en"), seen.html("vi")

    for kind in ("Gap in tracking", "Spike", "Dip"):
        assert kind in en
    assert "Thiếu dữ liệu" in vi and 'class="pill watch"' in en and '<svg class="spark"' in en
    assert en.count('<tr role="row">') == 1 + len(seen.alarms)
    assert told(seen, "orders", SPIKE)["en"] in seen.sentence() or seen.alarms["en"][0] in seen.sentence()
    assert "nan" not in re.sub(r"<[^>]*>", " ", en).lower()


def test_a_later_as_of_keeps_the_alarms_of_before(source, seen):
    earlier = watch(source("events"), IDS, as_of=LAST - timedelta(3), days=20)
    days = set(earlier.date)
    kept = seen.frame[seen.frame["date"].isin(days)].sort_values(["kpi", "date"])[["kpi", "date", "kind"]]

    pd.testing.assert_frame_equal(
        earlier.frame.sort_values(["kpi", "date"])[["kpi", "date", "kind"]].reset_index(drop=True),
        kept.reset_index(drop=True),
    )


# --- false alarms over many KPIs


@pytest.mark.parametrize("n", [3, 20])
def test_all_kpis_together_keep_the_stated_rate(monkeypatch, n):
    # Benjamini & Hochberg (1995): where nothing happens, any alarm at all has at most the level of a day
    rng, weeks = np.random.default_rng(8), 2000
    p = pd.DataFrame(rng.uniform(size=(7 * weeks, n)), index=pd.date_range("1990-01-01", periods=7 * weeks))
    p.columns = [f"{key}" for key in list(alarms.feeds(connect("data/demo")))[:n]]

    def fake(values, *, false_alarms_per_week, **_rest):
        at = np.flatnonzero(values < false_alarms_per_week / 7)
        return pd.DataFrame({"position": at, "kind": "dip", "expected": 0.5, "low": 0.0, "high": 1.0, "observed": 0.0})

    monkeypatch.setattr(alarms, "detect", fake)
    found = alarms._controlled(p, {}, 0.35)
    alone = sum(len(fake(v, false_alarms_per_week=0.35)) for _k, v in p.items()) / weeks

    assert found["date"].nunique() / weeks < 1.1 * 0.35
    assert alone == pytest.approx(0.35 * n, rel=0.1)  # without control: that many times as often


def test_alarms_of_all_kpis_on_one_day_stand_at_the_full_rate(monkeypatch):
    p = pd.DataFrame(0.5, index=pd.date_range("2026-01-01", periods=50), columns=["orders", "sessions", "aov", "leads"])
    p.iloc[40], p.iloc[45, 0], p.iloc[47, 0] = 0.9 * 0.02 / 7, 0.9 * 0.02 / 7, 0.9 * 0.02 / 28

    def fake(values, *, false_alarms_per_week, **_rest):
        at = np.flatnonzero(values < false_alarms_per_week / 7)
        return pd.DataFrame(
            {"position": at, "kind": "spike", "expected": 0.5, "low": 0.0, "high": 1.0, "observed": 0.0}
        )

    monkeypatch.setattr(alarms, "detect", fake)
    found = alarms._controlled(p, {}, 0.02)

    assert found["date"].value_counts().to_dict() == {p.index[40]: 4, p.index[47]: 1}


@pytest.mark.parametrize(("now", "told"), [(0.125, False), (0.15, True), (0.09, True)])
def test_a_mix_that_hardly_shifted_is_no_news_however_certain(now, told):
    days = pd.date_range("2026-01-01", periods=90)
    rows = pd.DataFrame({"date": days[80:81], "p": 1e-12, "segment": "Ads", "usual": 0.121, "now": now, "kind": "mix"})

    found = alarms._controlled(pd.DataFrame(index=days), {"orders": rows}, 0.02)

    assert found["segment"].tolist() == ["Ads"] * told


# --- bad input


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["order"], "no KPI 'order'. Did you mean orders"),
        ([], "watch at least one KPI"),
        (["retention_rate"], "no figure of single days"),
        (["ctr_ad"], "cannot feed ctr_ad: it lacks channel_daily.clicks"),
    ],
)
def test_kpis_that_cannot_be_watched_are_told(source, ids, said):
    with pytest.raises(KpiError, match=said):
        watch(source(), ids, as_of=LAST)


def test_weeks_cannot_be_watched_by_day(source):
    with pytest.raises(KpiError, match="cover a week each"):
        watch(source(period="week"), ["orders"], as_of=LAST)


def test_days_before_the_data_begin_are_told(source):
    with pytest.raises(KpiError, match="has no day up to 2024-01-01"):
        watch(source(), ["orders"], as_of=date(2024, 1, 1))


def test_kpis_known_for_too_short_are_named_as_not_judged(source):
    early = watch(source("events"), IDS, as_of=FIRST + timedelta(50))
    later = watch(source("events"), IDS, as_of=FIRST + timedelta(90))

    assert early.young == IDS and len(early.alarms) == 0 and len(early.frame) == 28 * len(IDS)
    assert "Not judged, since 56 earlier days are not known yet: Sessions, " in early.sentence()
    assert "Chưa đánh giá" in early.sentence("vi")
    assert later.young == [] and "Not judged" not in later.sentence()


# --- the simulated company: company.yaml tells what is planted


@pytest.fixture(scope="module")
def demo():
    return connect("data/demo")


def test_the_tracking_gap_of_the_company_is_named(demo):
    seen = watch(demo, ["sessions", "conversions", "shop_orders"], as_of=date(2026, 6, 20))
    gaps = seen.frame.query("kind == 'gap'")

    assert set(gaps["kpi"]) == {"sessions", "conversions"}
    assert sorted(set(gaps["date"])) == [date(2026, 6, 9), date(2026, 6, 10), date(2026, 6, 11)]


def test_the_new_level_of_one_channel_shifts_the_mix(demo):
    # Zalo OA has half as many sessions again from 16 March on: 5 points of the total, which moves more by itself
    seen = watch(demo, ["sessions", "aov"], as_of=date(2026, 4, 5))
    found = seen.alarms.query("kpi == 'sessions' and kind == 'mix'")

    assert date(2026, 3, 16) <= found["date"].item() <= date(2026, 3, 20)
    assert "Zalo OA makes up" in found["en"].item() and "Zalo OA chiếm" in found["vi"].item()


def test_single_things_and_what_ripens_are_no_gaps(demo):
    # offers are judged 30 days after they were sent: the last days are not known yet, which is no gap
    seen = watch(demo, ["offer_response_rate", "visitors", "csat", "shop_revenue"], as_of=date(2026, 11, 21))

    assert "gap" not in set(seen.kind)
