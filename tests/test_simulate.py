"""The simulated company: same bytes every time, and what was planted can be found again in the data."""

import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from kpi_helpers import simulate, sources
from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import KpiError

TRUTH = simulate.truth()
SMALL = 2000
UNPAID = ["Organic search", "Email", "Direct"]


@pytest.fixture(scope="module")
def rows():
    return simulate.channel_daily()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulate.write(tmp_path_factory.mktemp("company") / "demo", SMALL)


@pytest.fixture(scope="module")
def sessions(rows):
    """Sessions by day and channel, relative to the demand of the day."""
    wide = rows.pivot_table(index="date", columns="channel", values="sessions").astype(float)
    return wide.div(simulate.demand(wide.index), axis=0)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_two_folders_hold_the_same_bytes(folder, tmp_path):
    other = simulate.write(tmp_path / "deeper" / "demo", SMALL)

    assert {name.partition(".")[0] for name in contents(other)} == {*TABLES, "truth"} - {"paths"}
    assert [p.name for p in other.parent.iterdir()] == ["demo"]  # and nothing half-written beside it
    assert contents(other) == contents(folder)


def test_another_process_writes_the_same_bytes(folder, tmp_path):
    code = f"from kpi_helpers import simulate; simulate.write({str(tmp_path / 'demo')!r}, {SMALL})"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "1"})

    assert contents(tmp_path / "demo") == contents(folder)


def test_two_processes_may_write_at_once(folder, tmp_path):
    code = f"from kpi_helpers import simulate; simulate.write({str(tmp_path / 'demo')!r}, {SMALL})"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]

    assert [each.wait() for each in running] == [0, 0]
    assert contents(tmp_path / "demo") == contents(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_a_folder_that_is_up_to_date_is_left_alone(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}

    simulate.write(folder, SMALL)

    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.parametrize("truth", ['{"made_by": "an older version", "files": {"leads.csv": 1}}', "{}", None])
def test_a_stale_folder_is_rewritten(folder, tmp_path, truth):
    made = tmp_path / "demo"
    made.mkdir()
    (made / "channel_daily.csv").write_text("date,channel\n", encoding="utf-8")
    if truth:
        (made / "truth.json").write_text(truth, encoding="utf-8")
    if truth and "leads" in truth:
        (made / "leads.csv").write_text("an older version wrote it as CSV\n", encoding="utf-8")

    simulate.write(made, SMALL)

    assert contents(made) == contents(folder)


@pytest.mark.parametrize("name", ["channel_daily.csv", "orders.parquet"])
def test_a_table_that_was_deleted_is_written_again(folder, name):
    whole = contents(folder)
    (folder / name).unlink()

    simulate.write(folder, SMALL)

    assert contents(folder) == whole


def test_another_size_is_another_company(tmp_path):
    small = json.loads((simulate.write(tmp_path / "demo", 1000) / "truth.json").read_text(encoding="utf-8"))
    larger = json.loads((simulate.write(tmp_path / "demo", 2000) / "truth.json").read_text(encoding="utf-8"))

    assert small["files"]["customers.parquet"] == pytest.approx(1000, rel=0.1)
    assert larger["files"]["customers.parquet"] == pytest.approx(2000, rel=0.1)
    with pytest.raises(KpiError, match=r"customers=999: .* Give 1000 or more"):
        simulate.write(tmp_path / "demo", 999)


def test_the_company_keeps_the_contract(folder):
    check = sources.connect(folder).check()

    assert check.ok, check.lines()
    assert check.tables == tuple(name for name in TABLES if name != "paths")
    assert min(check.n_rows) > 10
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    written = pd.read_csv(folder / "channel_daily.csv")
    assert truth["sums"] == written[list(truth["sums"])].sum().to_dict()
    assert dict(zip(check.tables, check.n_rows, strict=True)) == {
        name.partition(".")[0]: n for name, n in truth["files"].items()
    }


def test_sums_of_channels_are_those_of_earlier_versions(rows):
    # of the table as it was before it was split into campaigns: notebook 01 rests on it
    written = rows.to_csv(index=False, lineterminator="\n").encode()

    assert hashlib.sha256(written).hexdigest() == "93a74f1b424619b36994cf88387a80705e77318f611801557e02d08f266b84af"


def test_every_day_of_three_years_has_seven_channels(rows):
    days = pd.date_range(date(2023, 11, 1), date(2026, 11, 21))
    channels = {"Organic search", "Paid search", "Paid social", "Email", "Zalo OA", "Affiliate", "Direct"}

    assert set(rows["channel"]) == channels
    assert pd.MultiIndex.from_frame(rows[["date", "channel"]]).equals(
        pd.MultiIndex.from_product([days, sorted(channels)], names=["date", "channel"])
    )


def test_counts_are_whole_and_possible(rows):
    measures = rows.drop(columns=["date", "channel"]).astype(float).fillna(0)
    mail = rows.dropna(subset=["sent"])

    assert (measures % 1 == 0).all(axis=None)
    assert (measures >= 0).all(axis=None)
    assert (rows["orders"] <= rows["sessions"].fillna(10**9)).all()
    assert (mail["unique_opens"] + mail["hard_bounces"] + mail["soft_bounces"] <= mail["sent"]).all()
    assert (mail["unique_clicks"] <= mail["unique_opens"]).all()
    assert (mail["unsubscribes"] <= mail["sent"]).all()


def test_counts_are_written_as_whole_numbers(folder):
    written = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.csv"))

    assert re.findall(r"\d\.0\b", written)[:3] == []  # 1569.0 sessions is what no export writes


def test_a_channel_knows_only_what_it_can(rows):
    known = rows.drop(columns=["date"]).groupby("channel").count() > 0

    assert sorted(known.index[known["spend"]]) == ["Affiliate", "Paid search", "Paid social"]
    assert sorted(known.index[known["impressions"]]) == ["Affiliate", "Paid search", "Paid social"]
    assert sorted(known.index[known["sent"]]) == ["Email", "Zalo OA"]
    assert known[["sessions", "orders", "revenue"]].all(axis=None)


def test_messages_go_out_on_their_weekdays(rows):
    sent = rows[rows["sent"].fillna(0) > 0].groupby("channel")["date"].agg(lambda at: sorted(set(at.dt.day_name())))

    assert sent.to_dict() == {"Email": ["Friday", "Tuesday"], "Zalo OA": ["Thursday"]}


def test_the_tracking_gap_is_unknown_in_its_columns_only(rows):
    gap = TRUTH["tracking_gap"]
    inside = rows["date"].between(gap["first"], gap["last"])

    assert (gap["first"], gap["last"]) == ("2026-06-09", "2026-06-11")
    assert inside.sum() == 3 * 7
    assert set(gap["columns"]) == {"sessions", "pageviews", "conversions"}
    for column in gap["columns"]:
        assert (rows[column].isna() == inside).all(), column
    assert rows.loc[inside, ["orders", "revenue", "leads"]].notna().all(axis=None)  # the shop counted on
    assert (rows.loc[inside, "orders"] > 0).all()


def test_zalo_sessions_shift_and_no_other_channel_does(sessions):
    # Eight weeks on either side. A channel's own mood moves by 5% with a memory of two weeks: the ratio of two
    # such means has a standard error near 0.05·√(2/4) = 0.035, so that 0.1 is three of them.
    shift = TRUTH["level_shift"]
    since = pd.Timestamp(shift["since"])
    weeks = pd.Timedelta(weeks=8)
    after = sessions[(sessions.index >= since) & (sessions.index < since + weeks)].mean()
    before = sessions[(sessions.index < since) & (sessions.index >= since - weeks)].mean()

    assert (shift["channel"], shift["column"]) == ("Zalo OA", "sessions")
    assert (after / before)["Zalo OA"] / shift["factor"] == pytest.approx(1, abs=0.1)
    assert (after / before)[UNPAID].to_numpy() == pytest.approx(np.ones(3), abs=0.1)


@pytest.mark.parametrize("channel", sorted(TRUTH["spend_response"]))
def test_sessions_saturate_with_spend_as_planted(rows, sessions, channel):
    # fitted to 1,114 days whose mood drifts by 5%; the two parameters trade off, hence 15%
    spend = rows[rows["channel"] == channel].set_index("date")["spend"].astype(float)
    base, response = TRUTH["base_sessions"][channel], TRUTH["spend_response"][channel]
    known = sessions[channel].dropna()
    spent = spend[known.index]

    (most, half), _cov = curve_fit(lambda s, most, half: base + most * s / (s + half), spent, known, p0=[5e3, 5e6])
    low, high = (
        np.polyfit(spent[part], known[part], 1)[0] for part in (spent < spent.median(), spent >= spent.median())
    )

    assert (most, half) == pytest.approx((response["most_sessions"], response["half_spend"]), rel=0.15)
    assert 0 < high < 0.75 * low  # the next đồng buys less


@pytest.mark.parametrize("new_year", TRUTH["tet"])
def test_orders_rise_before_tet_and_fall_during_it(rows, new_year):
    orders = rows.groupby("date")["orders"].sum().astype(float)

    def mean(first, last):
        days = pd.Timestamp(new_year) + pd.to_timedelta([first, last], unit="D")
        return orders[days[0] : days[1]].mean()

    usual = (mean(-56, -29) + mean(20, 47)) / 2
    assert 0.30 < mean(-1, 4) / usual < 0.45  # planted: 0.36
    assert 1.15 < mean(-16, -8) / usual < 1.5  # planted: up to 1.4
    assert 0.9 < mean(15, 25) / usual < 1.15  # and it is over


def test_new_years_are_those_of_the_calendar():
    # kpi_baselines.md §3b: the public holidays are 27 Jan - 1 Feb 2025 and 16 - 20 Feb 2026, around the first day;
    # of 2024: 8 - 14 Feb, around 10 Feb
    assert TRUTH["tet"] == ["2024-02-10", "2025-01-29", "2026-02-17"]


def test_demand_grows_as_planted(sessions):
    # The same weekday a year later, in channels without spend. Their moods (5%, two weeks' memory) leave a
    # standard error of about 0.05·√2/√(11 memories × 3 channels) = 0.012: 0.04 is three of them.
    raw = sessions[UNPAID].mul(simulate.demand(sessions.index), axis=0)
    quiet = raw[(raw.index < "2026-01-10") | (raw.index > "2026-03-05")]  # Tết moves
    yearly = np.nanmedian(np.log(quiet / raw.shift(364).loc[quiet.index])) * 365.25 / 364

    assert np.exp(yearly) - 1 == pytest.approx(TRUTH["yearly_growth"], abs=0.04)


def test_days_of_sale_multiply_demand_as_planted(rows):
    orders = rows.groupby("date")["orders"].sum().astype(float)
    week = pd.Timedelta(weeks=1)

    for day in pd.to_datetime(
        ["2024-11-11", "2025-11-11", "2023-12-12", "2024-12-12", "2025-12-12", "2025-10-20", "2026-10-20"]
    ):
        factor = TRUTH["sale_days"][day.strftime("%m-%d")]
        expected = simulate.demand(pd.DatetimeIndex([day, day - week, day + week]))
        assert 2 * expected[0] / expected[1:].sum() == pytest.approx(factor, rel=0.001)  # growth all but cancels
        assert 2 * orders[day] / (orders[day - week] + orders[day + week]) == pytest.approx(factor, rel=0.2)


def test_weekdays_follow_their_planted_pattern(rows):
    orders = rows.groupby("date")["orders"].sum().astype(float)
    around = orders / orders.rolling(7, center=True).mean()

    assert around.groupby(around.index.day_of_week).median().to_numpy() == pytest.approx(
        TRUTH["weekday_factors"], abs=0.02
    )


def test_order_rates_and_baskets_are_the_planted_ones(rows):
    sums = rows.dropna(subset=["sessions"]).groupby("channel")[["sessions", "orders", "revenue"]].sum().astype(float)

    # some 40,000 orders a channel: rates are known to 0.5%; the daily mood of 3% averages out
    # revenue carries the mean of a log-normal day, exp(0.55²/2n) for n orders: 1.003 with fifty
    assert (sums["orders"] / sums["sessions"]).to_dict() == pytest.approx(TRUTH["order_rate"], rel=0.05)
    assert (sums["revenue"] / sums["orders"]).to_dict() == pytest.approx(TRUTH["average_order"], rel=0.02)


def test_the_truth_stands_beside_the_data(folder):
    written = json.loads((folder / "truth.json").read_text(encoding="utf-8"))

    assert written["made_by"]
    assert {name: written[name] for name in TRUTH} == TRUTH
    assert written["first"] == "2023-11-01"
    assert written["last"] == "2026-11-21"
    assert written["seed"] == simulate.PLANTED["seed"]
    effects = written["ad_effects"]
    assert effects["people"] == round(TRUTH["touchpoints"]["people"] * written["scale"])
    assert effects["anyway"] + sum(effects["caused"].values()) == effects["orders"]
    assert {channel for channel, n in effects["caused"].items() if n} < set(TRUTH["touchpoints"]["met"])
