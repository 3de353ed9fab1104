"""Mappings: each option, on both engines where it applies; the public data sets and the layouts of tools."""

from collections import Counter
from datetime import date, datetime
from decimal import Decimal

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpi_helpers import cli, kpis
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.mappings import read_mapping
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"


def put(folder, text, name):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def frame(source, name):
    """A table of a source, small enough to hold."""
    return source.table(name).to_pyarrow().to_pandas()


def broken(check):
    return {(p.column, p.rule): p.n_rows for p in check.problems}


def notes(source):
    return [note.en for note in source.check().notes]


# --- public data: known results of their READMEs ----------------------------------------------------------


@pytest.mark.parametrize("mapping", ["facebook_posts", "facebook_posts_es"])
def test_facebook_posts_match_their_readme(real_data, mapping):
    source = connect(real_data("facebook-page-posts"), MAPPINGS / f"{mapping}.yaml")

    posts = frame(source, "content")

    interactions = posts["likes"] + posts["comments"] + posts["shares"]  # on every row: blanks are zero by the mapping
    assert (interactions.sum(), posts["reach"].sum()) == (106_060, 6_951_680)
    assert Counter(posts["kind"]) == {"Photo": 426, "Status": 45, "Link": 22, "Video": 7}
    means = interactions.astype(float).groupby(posts["kind"]).mean()
    assert dict(means.round(2)) == {"Video": 295.86, "Status": 217.04, "Photo": 216.58, "Link": 89.05}
    assert (posts["content_id"].nunique(), source.first_day(), source.as_of()) == (500, None, None)
    assert any("reach: 4 of 500 rows are above impressions" in note for note in notes(source))


def test_blanks_are_not_repaired_unless_the_mapping_says_so(real_data):
    columns = {"content_id": {"row": True}, "likes": "like", "shares": "share"}
    mapping = {"content": {"file": "dataset_Facebook.csv", "columns": columns}}

    posts = frame(connect(real_data("facebook-page-posts"), mapping), "content")

    assert (posts["likes"].isna().sum(), posts["shares"].isna().sum()) == (1, 4)  # quirks of its README


def test_online_shoppers_match_their_readme(real_data):
    source = connect(real_data("online-shoppers"), MAPPINGS / "online_shoppers.yaml")

    sessions = frame(source, "web_events")

    bought = sessions["event"].eq("purchase")
    assert (bought.sum(), len(sessions), sessions["visitor_id"].nunique()) == (1908, 12_330, 12_330)
    rates = bought.groupby(sessions["segment"]).agg(["mean", "size"])
    assert dict((100 * rates["mean"]).round(2)) == {"New_Visitor": 24.91, "Returning_Visitor": 13.93, "Other": 18.82}
    assert dict(rates["size"]) == {"New_Visitor": 1694, "Returning_Visitor": 10_551, "Other": 85}
    assert notes(source) == ["visitor_id: the source has no id, so rows are numbered and each counts as one of its own"]


def test_signup_funnel_matches_its_readme(real_data):
    source = connect(real_data("signup-funnel"), MAPPINGS / "signup_funnel.yaml")

    events = frame(source, "web_events")

    steps = ["visit", "search", "checkout", "purchase"]
    reached = events.groupby(["device", "event"])["visitor_id"].nunique().unstack()[steps]  # noqa: PD010
    assert {device: list(row) for device, row in reached.iterrows()} == {
        "Desktop": [60_200, 30_100, 3010, 150], "Mobile": [30_200, 15_100, 3020, 302],
    }  # fmt: skip
    monthly = events.groupby([events["happened_at"].dt.month, "event"]).size().unstack()[steps]  # noqa: PD010
    assert {month: list(row) for month, row in monthly.iterrows()} == {
        1: [22_600, 13_554, 2390, 189], 2: [22_600, 13_687, 2412, 173],
        3: [22_600, 8879, 631, 44], 4: [22_600, 9080, 597, 46],
    }  # fmt: skip
    assert (source.first_day(), source.as_of()) == (date(2015, 1, 1), date(2015, 4, 30))


OLIST = {
    "organic_search": (271, 2296), "paid_search": (195, 1586), "unknown": (179, 1099), "social": (75, 1350),
    "direct_traffic": (56, 499), "referral": (24, 284), "email": (15, 493), "": (14, 60), "display": (6, 118),
    "other": (4, 150), "other_publicities": (3, 65),
}  # fmt: skip


def test_olist_leads_match_their_readme(real_data):
    source = connect(real_data("olist-leads"), MAPPINGS / "olist_leads.yaml")

    leads = frame(source, "leads")

    won = leads["won_at"].notna().groupby(leads["channel"].fillna("")).agg(["sum", "size"])
    assert {channel: tuple(row) for channel, row in won.iterrows()} == OLIST  # unknown and blank stay two
    assert (leads["won_at"].min().date(), leads["won_at"].max().date()) == (date(2017, 12, 5), date(2018, 11, 14))
    assert (source.first_day(), source.as_of()) == (date(2017, 6, 14), date(2018, 5, 31))
    assert notes(source) == [
        "olist_closed_deals_dataset.csv: 842 of 8,000 rows found their row there; 842 of the 842 rows there were used",
        "won_at: 1 of 8,000 rows are earlier than created_at (e.g. 06-03-2018 19:38); they are kept as they are",
    ]


def test_both_spellings_of_olist_dates_are_the_same_days_and_the_short_copy_tells(real_data):
    folder = real_data("olist-leads")
    whole, short = (connect(folder, MAPPINGS / f"{name}.yaml") for name in ("olist_leads", "olist_leads_us"))

    a, b = (frame(source, "leads").set_index("lead_id").sort_index() for source in (whole, short))

    assert (a["created_at"] == b["created_at"]).all()
    known = b["won_at"].notna()
    assert known.sum() == 380 and (a["won_at"].dt.floor("min")[known] == b["won_at"][known]).all()
    assert "380 of 8,000 rows found their row there; 380 of the 380 rows there were used" in notes(short)[0]


def test_campaign_response_matches_its_readme(real_data):
    source = connect(real_data("campaign-response"), MAPPINGS / "campaign_response.yaml")

    messages = frame(source, "messages")

    accepted = messages.groupby("campaign")["replied"].sum()
    assert list(accepted) == [144, 30, 163, 167, 163, 334]
    assert set(messages.groupby("campaign").size()) == {2240}
    assert source.table("customers").count().to_pyarrow().as_py() == 2240


def test_grocery_campaigns_match_their_readme(real_data):
    source = connect(real_data("grocery-campaigns"), MAPPINGS / "grocery_campaigns.yaml")

    orders, messages = frame(source, "orders"), frame(source, "messages")

    assert (len(orders), orders["order_id"].nunique(), orders["customer_id"].nunique()) == (47_243, 47_243, 2377)
    assert orders["revenue"].sum() == Decimal("233935.24")
    assert source.check("orders").n_rows == (75_000,)
    assert orders["ordered_at"].max() == pd.Timestamp("2018-01-01 03:47:38")  # its README: in UTC
    redeemed = messages[messages["replied"] == 1]
    assert (len(messages), messages["customer_id"].nunique(), redeemed["customer_id"].nunique()) == (6589, 1559, 410)
    assert messages["campaign"].nunique() == 27 and messages["sent_at"].notna().all()
    assert any("792 of the 2,102 rows there were used" in note for note in notes(source))
    assert any("75,000 lines were added up to 47,243 rows by order_id" in note for note in notes(source))


# --- layouts of tools: small files as they write them, sums by hand --------------------------------------------


def test_ga4_export_reads_nested_columns_of_every_day(tmp_path):
    value = pa.struct([("string_value", pa.string()), ("int_value", pa.int64()), ("double_value", pa.float64())])
    params = pa.list_(pa.struct([("key", pa.string()), ("value", value)]))
    source = pa.struct([("medium", pa.string()), ("source", pa.string())])
    device = pa.struct([("category", pa.string())])
    kinds = [pa.string()] * 3 + [params, source, device]
    names = ["event_date", "event_name", "user_pseudo_id", "event_params", "traffic_source", "device"]

    def event(day, name, user, session, page, medium):
        given = [
            {"key": "page_location", "value": {"string_value": page}},
            {"key": "ga_session_id", "value": {"int_value": session}},
        ]
        return (day, name, user, given, {"medium": medium, "source": "x"}, {"category": "mobile"})

    days = {
        "20260105": [event("20260105", "session_start", "u.1", 1767600000, "/a", "cpc"),
                     event("20260105", "page_view", "u.1", 1767600000, "/a", "cpc"),
                     event("20260105", "session_start", "u.2", 1767600000, "/b", "organic")],
        "20260106": [event("20260106", "purchase", "u.1", 1767690000, "/thanks", "cpc")],
    }  # fmt: skip
    for day, rows in days.items():
        arrays = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
        pq.write_table(pa.table(arrays, names=names), tmp_path / f"events_{day}.parquet")
    data = connect(tmp_path, MAPPINGS / "ga4_bigquery.yaml")

    events = frame(data, "web_events").sort_values(["happened_at", "visitor_id", "event"])

    assert list(events["event"]) == ["read", "visit", "visit", "purchase"]
    assert list(events["channel"]) == ["cpc", "cpc", "organic", "cpc"]
    assert events["session_id"].nunique() == 3  # one second, two visitors: two sessions
    assert (set(events["device"]), list(events["content"])) == ({"mobile"}, ["/a", "/a", "/b", "/thanks"])
    assert (data.first_day(), data.as_of()) == (date(2026, 1, 5), date(2026, 1, 6))
    assert [file.name for file in data.files()] == ["events_20260105.parquet", "events_20260106.parquet"]


TOOLS = {
    "google_ads": (
        "segments.date,campaign.name,metrics.impressions,metrics.clicks,metrics.cost_micros,metrics.conversions,"
        "metrics.conversions_value\n2026-01-05,Brand,1000,50,1250500000,2.5,900\n2026-01-06,Brand,800,40,999500000,1,0\n",
        {"impressions": 1800, "clicks": 90, "spend": 2250, "conversions": Decimal("3.5"), "revenue": 900},
        "Google Ads",
    ),
    "meta_ads": (
        "\ufeffCampaign name,Day,Impressions,Link clicks,Amount spent (VND),Purchases,Purchases conversion value,"
        "Reporting starts,Reporting ends\nTết,2026-01-05,5000,70,350000,2,900000,2026-01-05,2026-01-06\n"
        "Tết,2026-01-06,4000,,150000,,,2026-01-05,2026-01-06\n",
        {"impressions": 9000, "clicks": 70, "spend": 500_000, "conversions": 2, "revenue": 900_000},
        "Meta Ads",
    ),
    "zalo_oa": (
        "Tên tin;Thời gian gửi;Đã gửi;Đã nhận;Đã xem\nSale 8/3;05/03/2026 09:00;12.000;11.500;3.250\n"
        "Hàng mới;13/03/2026 17:30;10.500;10.100;2.000\n",
        {"sent": 22_500, "unique_opens": 5250},
        "Zalo OA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_layouts_of_tools_add_up(tmp_path, tool):
    text, sums, channel = TOOLS[tool]

    rows = frame(connect(put(tmp_path, text, f"{tool}.csv"), MAPPINGS / f"{tool}.yaml"), "channel_daily")

    assert {column: rows[column].sum() for column in sums} == sums
    assert set(rows["channel"]) == {channel} and len(rows) == 2


def test_every_mapping_that_is_shipped_is_accepted():
    for path in MAPPINGS.glob("*.yaml"):
        connect("data", path)


# --- kinds ------------------------------------------------------------------------------------------------


def test_flags_and_times_are_the_same_from_every_engine(engine):
    rows = pa.table({
        "customer_id": ["1", "2", "3"], "channel": ["email"] * 3,
        "sent_at": pa.array([datetime(2026, 1, 5, 9, 30), None, datetime(2026, 1, 6)], pa.timestamp("us")),
        "opened": [True, False, None], "clicked": [1, 0, None], "replied": ["Yes", "No", None],
    })  # fmt: skip
    mapping = {"messages": {"columns": {"replied": {"column": "replied", "values": {"Yes": 1, "No": 0}}}}}
    source = engine.source(rows, "messages", mapping)

    read = source.table("messages").order_by("customer_id")

    assert read.schema()["sent_at"].is_timestamp()
    assert read.to_pyarrow()["sent_at"].to_pylist() == [datetime(2026, 1, 5, 9, 30), None, datetime(2026, 1, 6)]
    for flag in ("opened", "clicked", "replied"):
        assert read.to_pyarrow()[flag].to_pylist() == [1, 0, None], flag
    assert (source.first_day(), source.as_of()) == (date(2026, 1, 5), date(2026, 1, 6))


def test_a_date_where_a_time_is_meant_is_its_midnight(engine):
    rows = pa.table({"order_id": ["1"], "customer_id": ["a"], "ordered_at": [date(2026, 1, 5)], "revenue": [5]})

    assert engine.source(rows, "orders").table("orders").to_pyarrow()["ordered_at"].to_pylist() == [
        datetime(2026, 1, 5)
    ]


def orders(folder, cells, **options):
    """Orders of a file placed at each of the times."""
    put(
        folder, "order_id,customer_id,ordered_at\n" + "".join(f"{i},a,{c}\n" for i, c in enumerate(cells)), "orders.csv"
    )
    return connect(folder, {"orders": options} if options else None)


def test_iso_times_are_read_to_the_microsecond(tmp_path):
    cells = ["2026-01-05", "2026-01-05 09:30", "2026-01-05T09:30:15", "2026-01-05 09:30:15.25"]

    read = orders(tmp_path, cells).table("orders").order_by("order_id").to_pyarrow()["ordered_at"].to_pylist()

    assert read == [datetime(2026, 1, 5, *rest) for rest in ((), (9, 30), (9, 30, 15), (9, 30, 15, 250_000))]


@pytest.mark.parametrize("cell", ["2026-01-05T09:30:00Z", "2026-01-05 09:30:00+07:00", "2026-01-05 09:30+07"])
def test_text_with_a_zone_is_refused_with_its_remedy(tmp_path, cell):
    (problem,) = orders(tmp_path, [cell, "2026-01-05"]).check().problems

    assert (problem.column, problem.rule, problem.n_rows) == ("ordered_at", "not a time", 1)
    assert "time zone" in problem.remedy() and "múi giờ" in problem.remedy("vi")


def test_timestamps_with_a_zone_are_refused_with_their_remedy(tmp_path, postgres_engine):
    moments = pa.array([datetime(2026, 1, 5)], pa.timestamp("us", "Asia/Ho_Chi_Minh"))
    for column, name, rest in (("ordered_at", "orders", {"order_id": ["1"], "customer_id": ["a"]}),
                               ("date", "channel_daily", {"channel": ["a"], "spend": [1]})):  # fmt: skip
        pq.write_table(pa.table({column: moments, **rest}), tmp_path / f"{name}.parquet")
        (problem,) = connect(tmp_path).check(name).problems
        assert problem.n_rows == 1 and "time zone" in problem.remedy()


def test_a_word_that_is_no_flag_is_counted_and_the_line_helps(tmp_path):
    put(tmp_path, "customer_id,channel,opened\n1,email,1\n2,email,yes\n3,email,2\n", "messages.csv")

    (problem,) = connect(tmp_path).check().problems

    assert (problem.rule, problem.n_rows, problem.examples) == ("not a flag", 2, ("2", "yes"))
    put(tmp_path, "messages:\n  columns: {opened: {column: opened, values: {yes: 1, 2: 1}}}\n", "m.yaml")
    read = connect(tmp_path, tmp_path / "m.yaml").table("messages").order_by("customer_id").to_pyarrow()
    assert read["opened"].to_pylist() == [1, 1, 1]


# --- values, constants, rows ---------------------------------------------------------------------------------


def test_words_are_translated_and_the_others_meet_the_contract(engine):
    rows = pa.table(
        {"call_id": ["1", "2", "3"], "called_at": [datetime(2026, 1, 5)] * 3, "state": ["OK", "no", "busy"]}
    )
    columns = {"status": {"column": "state", "values": {"OK": "answered", "no": "missed"}}}

    (problem,) = engine.source(rows, "calls", {"calls": {"columns": columns}}).check().problems

    assert (problem.rule, problem.n_rows, problem.examples) == ("unknown word", 1, ("busy",))
    columns["status"]["values"]["*"] = "missed"
    read = engine.source(rows, "calls", {"calls": {"columns": columns}}).table("calls").order_by("call_id")
    assert read.to_pyarrow()["status"].to_pylist() == ["answered", "missed", "missed"]


def test_an_empty_cell_can_mean_a_word_or_a_number(engine):
    rows = pa.table({"content_id": ["1", "2"], "kind": [None, "video"], "likes": [None, 3]})
    columns = {"kind": {"column": "kind", "values": {"": "photo"}}, "likes": {"column": "likes", "values": {"": 0}}}

    read = engine.source(rows, "content", {"content": {"columns": columns}}).table("content").order_by("content_id")

    assert read.select("kind", "likes").to_pyarrow().to_pylist() == [
        {"kind": "photo", "likes": 0}, {"kind": "video", "likes": 3},
    ]  # fmt: skip


def test_constants_are_words(engine):
    columns = {"channel": {"constant": "Zalo"}, "campaign": {"constant": 7}}
    source = engine.source(pa.table({"customer_id": ["1"]}), "messages", {"messages": {"columns": columns}})

    assert source.table("messages").to_pyarrow().to_pylist() == [
        {"customer_id": "1", "channel": "Zalo", "campaign": "7"}
    ]


def test_rows_are_numbered_in_the_order_of_the_file(tmp_path):
    put(tmp_path, "likes\n" + "".join(f"{i}\n" for i in range(5000)), "posts.csv")
    columns = {"content_id": {"row": True}}

    read = frame(connect(tmp_path, {"content": {"file": "posts.csv", "columns": columns}}), "content")

    assert all(
        content == f"posts:{int(likes) + 1}" for content, likes in zip(read["content_id"], read["likes"], strict=True)
    )


def test_a_time_may_stand_in_two_columns(tmp_path):
    put(tmp_path, "id,who,day,clock\n1,a,5/1/2026,09:30\n2,b,5/1/2026,\n3,c,,09:30\n4,d,5/1/2026,25:00\n", "o.csv")
    columns = {"order_id": "id", "customer_id": "who", "ordered_at": {"column": ["day", "clock"]}}
    forms = ["%d/%m/%Y %H:%M", "%d/%m/%Y"]  # a day alone only where it is named
    mapping = {"orders": {"file": "o.csv", "date_format": forms, "columns": columns}}

    found = broken(connect(tmp_path, mapping).check())
    assert found == {("ordered_at", "not a time"): 2}  # neither a time without a day nor an hour 25
    put(tmp_path, "id,who,day,clock\n1,a,5/1/2026,09:30\n2,b,5/1/2026,\n", "o.csv")
    read = frame(connect(tmp_path, mapping), "orders").sort_values("order_id")["ordered_at"]
    assert read.tolist() == [pd.Timestamp("2026-01-05 09:30"), pd.Timestamp("2026-01-05")]


def test_a_time_in_two_columns_of_postgres_is_cast_in_a_view(duckdb_engine, postgres_engine):
    rows = pa.table({"order_id": ["1"], "customer_id": ["a"], "day": [date(2026, 1, 5)], "clock": ["09:30"]})
    mapping = {"orders": {"columns": {"ordered_at": {"column": ["day", "clock"]}}}}
    read, refused = (each.source(rows, "orders", mapping) for each in (duckdb_engine, postgres_engine))

    assert frame(read, "orders")["ordered_at"].tolist() == [pd.Timestamp("2026-01-05 09:30")]
    [problem] = refused.check().problems
    assert problem.column == "ordered_at" and "a view" in problem.remedy()


def test_rows_of_a_database_have_no_number(engine):
    source = engine.source(pa.table({"likes": [1]}), "content", {"content": {"columns": {"content_id": {"row": True}}}})

    with pytest.raises(KpiError, match="a table has no order"):
        source.check()


def test_a_key_that_no_event_has_is_noted(tmp_path):
    given = [[{"key": "page", "value": {"string_value": "/a"}}]]
    pq.write_table(pa.table({"visitor_id": ["1"], "event": ["read"], "params": given}), tmp_path / "web_events.parquet")
    columns = {"content": "params.page", "segment": "params.pgae"}

    source = connect(tmp_path, {"web_events": {"columns": columns}})

    assert frame(source, "web_events")["content"].tolist() == ["/a"]
    assert notes(source) == ["empty in every row: segment"]
    assert source.columns("web_events") == ["visitor_id", "event", "segment", "content"]
    wrong = connect(tmp_path, {"web_events": {"columns": {"content": "page.params"}}})
    assert broken(wrong.check()) == {("content", "missing column"): 0}


def test_names_in_parquet_are_read_in_one_spelling(tmp_path):
    rows = pa.table(
        {"date": [date(2026, 1, 5)] * 2, "channel": ["Tìm kiếm", "Ti\u0300m\u00a0kiê\u0301m"], "spend": [1, 2]}
    )
    pq.write_table(rows, tmp_path / "channel_daily.parquet")

    assert broken(connect(tmp_path).check()) == {("date", "duplicate"): 1}


# --- header, spaces -------------------------------------------------------------------------------------------

SPACED = " 007  20260105    1.50\r\n\n 007 20260106 0.25 \n12\t20260107 10\n"
OWN = {
    "order_id": {"row": True}, "customer_id": "who", "revenue": "paid",
    "ordered_at": {"column": "on", "date_format": "%Y%m%d"},
}  # fmt: skip


@pytest.mark.parametrize("text", [SPACED, "who  on paid\n" + SPACED, " ".join(SPACED.split(" "))])
def test_spaces_separate_and_a_header_is_named_where_there_is_none(tmp_path, text):
    told = {} if text.startswith("who") else {"header": ["who", "on", "paid"]}
    source = connect(put(tmp_path, text, "o.txt"), {"orders": {"file": "o.txt", "spaces": True, "columns": OWN} | told})

    rows = frame(source, "orders").sort_values("order_id")

    assert rows["order_id"].tolist() == ["o:1", "o:2", "o:3"] and rows["customer_id"].tolist() == ["007", "007", "12"]
    assert rows["revenue"].tolist() == [Decimal("1.5"), Decimal("0.25"), 10]
    assert rows["ordered_at"].dt.day.tolist() == [5, 6, 7]


def test_a_file_may_be_read_with_and_without_its_first_line(tmp_path):
    spec = {"file": "o.csv", "columns": {**OWN, "ordered_at": "on", "order_id": "paid"}}
    put(tmp_path, "who,on,paid\n1,2026-01-05,2\n", "o.csv")

    check = connect(tmp_path, {"orders": [spec, {**spec, "header": ["who", "on", "paid"]}]}).check()

    told = {("ordered_at", "not a time"): 1, ("revenue", "not a number"): 1, ("order_id", "duplicate"): 1}
    assert (check.n_rows, broken(check)) == ((3,), told)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"header": ["who", "on"]}, "3 of 3 lines with more or fewer than the 2 cells"),
        ({"header": ["who", "on", "cost"]}, "paid"),
        ({"header": []}, r"header holds \[\], but needs names of the columns"),
        ({"header": "who"}, "header holds 'who', but needs names of the columns"),
        ({"spaces": False}, "spaces holds False, but needs true"),
    ],
)
def test_a_header_or_spaces_that_do_not_fit_are_told(tmp_path, told, why):
    put(tmp_path, SPACED, "o.txt")

    with pytest.raises(KpiError, match=why):
        connect(tmp_path, {"orders": {"file": "o.txt", "spaces": True, "columns": OWN} | told}).table("orders")


# --- joins ----------------------------------------------------------------------------------------------------

LEADS = "id,created_at,owner,value\nL1,2026-01-05,An,1\nL2,2026-01-06,,2\n L3 ,2026-01-07,Bình,3\n,2026-01-08,,\n"
JOIN = {"leads": {"file": "l.csv", "join": [{"file": "deals.csv", "on": {"id": "lead"}}],
                  "columns": {"lead_id": "id", "won_at": "won", "value": "deals.value"}}}  # fmt: skip


def test_a_join_keeps_every_row_and_says_what_it_found(tmp_path):
    put(tmp_path, LEADS.replace("\n,2026-01-08,,", "\nL4,2026-01-08,,"), "l.csv")
    put(tmp_path, "lead,won,value\nL1,2026-02-01,10\nL3,2026-02-03,30\nL9,2026-02-09,90\n", "deals.csv")
    source = connect(tmp_path, JOIN)

    read = frame(source, "leads").sort_values("lead_id")

    assert [None if pd.isna(v) else int(v) for v in read["value"]] == [10, None, 30, None]
    assert list(read["lead_id"]) == ["L1", "L2", "L3", "L4"]
    assert "deals.csv: 2 of 4 rows found their row there; 2 of the 3 rows there were used" in notes(source)
    assert [file.name for file in source.files()] == ["l.csv", "deals.csv"]


def test_a_file_may_be_a_table_and_joined_to_another(tmp_path):
    put(tmp_path, "who,at,channel\na,2026-01-05,Ads\na,2026-01-06,Email\n", "touches.csv")
    put(tmp_path, "who\na\nb\n", "people.csv")
    touches = {"file": "touches.csv", "columns": {"customer_id": "who", "touched_at": "at"}}
    join = [{"file": "touches.csv", "on": "who", "first": "at"}]
    people = {"file": "people.csv", "join": join, "columns": {"customer_id": "who", "first_channel": "channel"}}
    source = connect(tmp_path, {"touchpoints": touches, "customers": people})

    assert source.check().ok and len(frame(source, "touchpoints")) == 2
    assert frame(source, "customers").set_index("customer_id")["first_channel"].dropna().to_dict() == {"a": "Ads"}


def test_a_repeated_key_is_counted_unless_the_first_is_asked_for(tmp_path):
    put(tmp_path, LEADS.replace("\n,2026-01-08,,", ""), "l.csv")
    put(tmp_path, "lead,won,value\nL1,2026-02-09,99\nL1,2026-02-01,10\nL3,2026-02-03,30\n", "deals.csv")

    (problem,) = connect(tmp_path, JOIN).check().problems

    assert (problem.column, problem.rule, problem.n_rows, problem.examples) == ("id", "joined twice", 1, ("L1",))
    assert "first: your_date" in problem.remedy()
    join = [{"file": "deals.csv", "on": {"id": "lead"}, "first": "won"}]
    source = connect(tmp_path, {"leads": JOIN["leads"] | {"join": join}})
    assert list(frame(source, "leads").sort_values("lead_id")["value"].fillna(0)) == [10, 0, 30]
    assert "2 of the 3 rows there were used" in notes(source)[0]


def test_a_first_that_does_not_read_as_a_date_is_never_taken(tmp_path):
    put(tmp_path, LEADS.replace("\n,2026-01-08,,", ""), "l.csv")
    put(tmp_path, "lead,won,value\nL1,09/02/2026,99\nL1,01/02/2026,10\n", "deals.csv")
    join = {"file": "deals.csv", "on": {"id": "lead"}, "first": "won"}
    mapping = {"leads": JOIN["leads"] | {"join": [join], "date_format": ["%Y-%m-%d", "%d/%m/%Y"]}}

    refused = connect(tmp_path, {"leads": JOIN["leads"] | {"join": [join]}}).check()

    assert ("id", "joined twice") in broken(refused)
    assert frame(connect(tmp_path, mapping), "leads").sort_values("lead_id")["value"].iloc[0] == 10


def test_tables_of_a_database_join_too(duckdb_engine, tmp_path):
    import duckdb

    with duckdb.connect(str(tmp_path / "x.duckdb")) as database:
        database.execute("CREATE TABLE l AS SELECT 1 AS id, TIMESTAMP '2026-01-05' AS created_at")
        database.execute("CREATE TABLE deals AS SELECT '1' AS lead, TIMESTAMP '2026-02-05' AS won")
    join = [{"table": "deals", "on": {"id": "lead"}}]
    mapping = {"leads": {"table": "l", "join": join, "columns": {"lead_id": "id", "won_at": "won"}}}

    read = connect(tmp_path / "x.duckdb", mapping).table("leads").to_pyarrow().to_pylist()

    assert [row["won_at"] for row in read] == [datetime(2026, 2, 5)]


def test_a_join_on_a_table_of_postgres_counts_in_one_scan(postgres_engine):
    leads = postgres_engine.source(pa.table({"lead_id": ["1", "2"], "created_at": [date(2026, 1, 5)] * 2}), "leads")
    deals = postgres_engine.source(pa.table({"id": [1, 1], "won": [date(2026, 1, 4), date(2026, 1, 9)]}), "partners")
    place = leads._mapping["leads"]["table"]
    place_of_partners = deals._mapping["partners"]["table"]
    join = {"table": place_of_partners, "on": {"lead_id": "id"}, "first": "won"}
    source = connect(postgres_engine._url, {"leads": {"table": place, "join": [join], "columns": {"won_at": "won"}}})

    assert source.table("leads").order_by("lead_id").to_pyarrow()["won_at"].to_pylist() == [datetime(2026, 1, 4), None]
    assert notes(source) == [
        f"{place_of_partners}: 1 of 2 rows found their row there; 1 of the 2 rows there were used",
        "won_at: 1 of 2 rows are earlier than created_at (e.g. 2026-01-04); they are kept as they are",
    ]
    source._backend.disconnect()


def test_a_join_on_a_column_that_is_not_there_names_those_that_are(tmp_path):
    put(tmp_path, LEADS, "l.csv")
    put(tmp_path, "lead_id,won\nL1,2026-02-09\n", "deals.csv")

    with pytest.raises(KpiError, match=r"join with deals\.csv: the column lead is not there; there are lead_id, won"):
        connect(tmp_path, JOIN).check()


def test_a_join_with_several_files_is_refused(tmp_path):
    put(put(put(tmp_path, LEADS, "l.csv"), "lead,won\n", "deals_1.csv"), "lead,won\n", "deals_2.csv")
    join = [{"file": "deals_*.csv", "on": {"id": "lead"}}]

    with pytest.raises(KpiError, match="join takes one file"):
        connect(tmp_path, {"leads": JOIN["leads"] | {"join": join}}).check()


# --- parts, lines, currency ------------------------------------------------------------------------------------


def test_parts_are_stacked_each_with_its_own_spelling(tmp_path):
    put(tmp_path, 'd,spend\n05/01/2026,"1.500,5"\n', "zalo.csv")
    put(tmp_path, "day,cost\n2026-01-06,7\n", "meta.csv")
    parts = [
        {"file": "zalo.csv", "date_format": "%d/%m/%Y", "decimal": ",", "thousands": ".",
         "columns": {"date": "d", "channel": {"constant": "Zalo"}}},
        {"file": "meta.csv", "columns": {"date": "day", "spend": "cost", "channel": {"constant": "Meta"}}},
    ]  # fmt: skip
    source = connect(tmp_path, {"channel_daily": parts})

    read = frame(source, "channel_daily").sort_values("date")

    assert list(zip(read["channel"], read["spend"], strict=True)) == [("Zalo", Decimal("1500.5")), ("Meta", 7)]
    assert (source.check().n_rows, source.as_of()) == ((2,), date(2026, 1, 5))


def test_a_part_that_lacks_a_column_is_named(tmp_path):
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n", "a.csv")
    put(tmp_path, "day,channel,spend\n2026-01-05,B,1\n", "b.csv")

    lines = connect(tmp_path, {"channel_daily": [{"file": "a.csv"}, {"file": "b.csv"}]}).check().lines()

    assert any(
        "channel_daily.date: the column is not there; the source has b: day, channel, spend" in line for line in lines
    )


def test_parts_that_repeat_a_key_are_told(tmp_path):
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n", "a.csv")

    check = connect(tmp_path, {"channel_daily": [{"file": "a.csv"}, {"file": "a.csv"}]}).check()

    assert broken(check) == {("date", "duplicate"): 1}


def test_files_of_one_pattern_are_read_as_one(tmp_path):
    for month in ("01", "02"):
        put(tmp_path, f"date,channel,spend\n2026-{month}-05,A,{month}\n", f"ads_{month}.csv")

    assert frame(connect(tmp_path, {"channel_daily": {"file": "ads_*.csv"}}), "channel_daily")["spend"].sum() == 3


LINES = pa.table({
    "order_id": ["a", "a", "b"], "customer_id": ["1", "1", "2"], "revenue": [10, -2, 5], "margin": [None, 1, None],
    "ordered_at": [datetime(2026, 1, 5, 10), datetime(2026, 1, 5, 9), datetime(2026, 1, 6)],
})  # fmt: skip


def test_lines_are_added_up_by_their_key(engine):
    source = engine.source(LINES, "orders", {"orders": {"lines": True}})

    read = source.table("orders").order_by("order_id").to_pyarrow().to_pylist()

    told = [(r["order_id"], r["revenue"], r["margin"], r["ordered_at"].hour) for r in read]
    assert told == [("a", 8, 1, 9), ("b", 5, None, 0)]
    assert notes(source) == ["3 lines were added up to 2 rows by order_id"]
    assert broken(engine.source(LINES, "orders").check()) == {("order_id", "duplicate"): 1}


def test_rules_hold_for_each_line(engine):
    wrong = LINES.set_column(0, "order_id", pa.array(["a", None, "b"]))

    assert broken(engine.source(wrong, "orders", {"orders": {"lines": True}}).check()) == {("order_id", "empty"): 1}


def test_money_is_of_one_currency(tmp_path):
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n", "channel_daily.csv")
    put(tmp_path, "date,category,amount\n2026-01-05,ads,1\n", "costs.csv")

    one = connect(tmp_path, {"costs": {"currency": "VND"}})
    two = connect(tmp_path, {"costs": {"currency": "VND"}, "channel_daily": {"currency": "USD"}})

    assert (connect(tmp_path).currency(), one.currency()) == ("", "VND")
    with pytest.raises(KpiError, match="channel_daily in USD and costs in VND: money is never mixed"):
        two.currency()


# --- how far the data reach -------------------------------------------------------------------------------------


def test_the_span_is_that_of_channel_daily_or_else_of_every_dated_table(tmp_path):
    put(tmp_path, "order_id,customer_id,ordered_at\n1,a,2025-03-01\n2,b,2026-02-01 10:00\n", "orders.csv")
    put(tmp_path, "date,category,amount\n2026-01-05,ads,1\n", "costs.csv")
    put(tmp_path, "campaign,kpi,target,starts_on,ends_on\nx,orders,9,2026-01-01,2026-12-31\n", "targets.csv")
    source = connect(tmp_path, {"costs": {"period": "week"}})

    assert (source.first_day(), source.as_of(), source.period()) == (date(2025, 3, 1), date(2026, 2, 1), "week")
    assert (source.period("orders"), source.period("costs")) == ("day", "week")
    with pytest.raises(KpiError, match="cover a week each"):
        source.require_grain("day")
    source.require_grain("day", "orders")
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n2026-01-06,A,1\n", "channel_daily.csv")
    assert connect(tmp_path).first_day() == date(2026, 1, 5)
    assert connect(tmp_path).as_of() == date(2026, 1, 6)


def test_a_source_without_dates_says_so(tmp_path):
    put(tmp_path, "content_id,likes\n1,5\n", "content.csv")
    source = connect(tmp_path)

    assert (source.first_day(), source.as_of(), source.period()) == (None, None, "day")
    with pytest.raises(KpiError, match=r"no table of .* is dated. Leave as_of out"):
        source.as_of("2026-01-05")


def test_only_the_dated_column_is_held_to_the_first_day_of_a_period(tmp_path):
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n", "channel_daily.csv")
    put(tmp_path, "subscription_id,started_at\n1,2026-01-07\n", "subscriptions.csv")

    assert connect(tmp_path, {"channel_daily": {"period": "week"}}).check().ok


# --- what is refused -------------------------------------------------------------------------------------------

WRONG = [
    ({"orders": {"join": [{"file": "x.csv"}]}}, "join holds .*needs a list"),
    (
        {"orders": {"join": [{"file": "x.csv", "on": "id", "frist": "d"}]}},
        "'frist' is no option of join. Did you mean first",
    ),
    (
        {"orders": {"columns": {"status": {"column": "s", "values": {"ok": "done"}}}}},
        "status: values: ok holds 'done', but needs one among completed, cancelled, returned",
    ),
    ({"orders": {"columns": {"ordered_at": {"column": "s", "values": {"x": 1}}}}}, "values holds .*a column of words"),
    ({"messages": {"columns": {"opened": {"column": "s", "values": {"x": 2}}}}}, r"0 or 1"),
    ({"orders": {"columns": {"ordered_at": {"constant": "05/01/2026"}}}}, "constant holds .*only text is constant"),
    ({"orders": {"columns": {"revenue": {"constant": "5"}}}}, "constant holds .*only text is constant"),
    (
        {"orders": {"columns": {"status": {"constant": "done"}}}},
        "constant holds 'done', but needs one among completed, cancelled",
    ),
    ({"orders": {"columns": {"revenue": {"row": True}}}}, "only text is constant or made of row numbers"),
    ({"orders": {"columns": {"revenue": {"column": ["a", "b"]}}}}, "only text and dates are made of several columns"),
    ({"orders": {"columns": {"order_id": {"row": True, "column": "a"}}}}, "needs column: your_name"),
    ({"orders": {"columns": {"order_id": {"row": False}}}}, "row holds False, but needs true"),
    ({"orders": {"columns": {"order_id": {"column": "a", "value": {}}}}}, "'value' is no option .*Did you mean values"),
    ({"orders": {"period": "week"}}, "period is for sums of a day; a row of orders is an order"),
    ({"web_events": {"lines": True}}, "a row of web_events has none"),
    ({"orders": []}, "orders holds"),
    ({"channel_daily": [{"file": "a", "period": "week"}, {"file": "b"}]}, "must be the same for each part"),
]


@pytest.mark.parametrize(("mapping", "told"), WRONG)
def test_what_a_mapping_cannot_mean_is_refused(tmp_path, mapping, told):
    with pytest.raises(KpiError, match=told):
        connect(tmp_path, mapping)


@pytest.mark.parametrize("word", [0, 1, True, False])
def test_a_flag_may_be_a_truth_or_a_number(word):
    told = {"messages": {"columns": {"opened": {"column": "seen", "values": {"Yes": word}}}}}

    assert read_mapping(told) == told


def test_yes_no_and_on_are_words_in_a_mapping(tmp_path):
    put(tmp_path, "customer_id,channel,opened\n1,email,Yes\n2,email,No\n", "messages.csv")
    put(tmp_path, "messages:\n  columns: {opened: {column: opened, values: {Yes: 1, No: 0}}}\n", "m.yaml")

    assert frame(connect(tmp_path, tmp_path / "m.yaml"), "messages")["opened"].sum() == 1


# --- the command -----------------------------------------------------------------------------------------------


def test_check_lists_what_the_data_feed_and_what_the_rest_lacks(tmp_path, capsys, monkeypatch):
    put(tmp_path, "date,channel,spend\n2026-01-05,A,1\n", "channel_daily.csv")
    lacking = {"mql": ("leads",), "cpc": (), "sal": ("leads",), "roi": ("channel_daily.margin",)}
    monkeypatch.setattr(kpis, "feeds", lambda data: lacking, raising=False)

    assert cli.main(["check", str(tmp_path)]) == 0

    told = capsys.readouterr().out.splitlines()
    assert told[1:4] == [
        "KPIs that can be computed: 1 of 4", "  channel_daily.margin -> roi", "  leads: no table -> mql, sal",
    ]  # fmt: skip
    assert any(line.startswith("Notebooks that can run: ") for line in told)
    monkeypatch.setenv("KPI_LANGUAGE", "vi")
    cli.main(["check", str(tmp_path)])
    assert "KPI tính được: 1 trên 4" in capsys.readouterr().out


def test_notebooks_name_the_tables_that_they_lack(tmp_path, capsys):
    put(tmp_path, "content_id,likes\n1,5\n", "content.csv")

    cli.main(["check", str(tmp_path)])

    assert "  channel_daily: no table -> 01_kpi_setup" in capsys.readouterr().out


def test_a_table_that_breaks_its_contract_names_every_table_checked(tmp_path):
    put(tmp_path, "content_id,likes\n1,-5\n", "content.csv")
    put(tmp_path, "order_id,customer_id,ordered_at\n1,,2026-01-05\n", "orders.csv")

    with pytest.raises(ContractError, match=r"orders\.customer_id: 1 of 1 rows without a value"):
        connect(tmp_path).table("orders")
    assert broken(connect(tmp_path).check()) == {("likes", "negative"): 1, ("customer_id", "empty"): 1}


# --- laws --------------------------------------------------------------------------------------------------------

FEW = settings(deadline=None, derandomize=True, max_examples=12, suppress_health_check=list(HealthCheck))
KEYS = st.sampled_from(["a", "b", "c", " a", "D", "đ", ""])


@given(
    lines=st.lists(st.tuples(st.sampled_from("abc"), st.decimals(-99, 99, places=2)), min_size=1), cut=st.integers(0, 9)
)
@FEW
def test_lines_add_up_the_same_however_they_are_cut_into_files(tmp_path_factory, lines, cut):
    folder = tmp_path_factory.mktemp("lines")
    for i, part in enumerate((lines[:cut], lines[cut:])):
        rows = "".join(f"{order},x,2026-01-05,{value}\n" for order, value in part)
        put(folder, "order_id,customer_id,ordered_at,revenue\n" + rows, f"o_{i}.csv")
    source = connect(folder, {"orders": [{"file": f"o_{i}.csv", "lines": True} for i in (0, 1)]})

    read = {r["order_id"]: r["revenue"] for r in source.table("orders").to_pyarrow().to_pylist()}

    assert read == {order: sum(v for o, v in lines if o == order) for order, _value in lines}


@given(left=st.lists(KEYS, min_size=1, max_size=9), right=st.lists(st.tuples(KEYS, st.integers(0, 99)), max_size=9))
@FEW
def test_a_join_is_that_of_a_dictionary_or_a_counted_problem(tmp_path_factory, left, right):
    folder = tmp_path_factory.mktemp("join")
    put(folder, "content_id,k\n" + "".join(f"{i},{key}\n" for i, key in enumerate(left)), "posts.csv")
    put(folder, "k,n\n" + "".join(f"{key},{n}\n" for key, n in right), "likes.csv")
    mapping = {"file": "posts.csv", "join": [{"file": "likes.csv", "on": "k"}], "columns": {"likes": "n"}}
    source = connect(folder, {"content": mapping})
    counted = Counter(key.strip() for key, _n in right)

    repeated = sum(counted[key.strip()] > 1 for key in left if key.strip())

    assert broken(source.check()) == ({("k", "joined twice"): repeated} if repeated else {})
    if not repeated:
        there = {key.strip(): n for key, n in right if key.strip()}
        read = source.table("content").order_by(ibis._.content_id.cast("int64")).to_pyarrow()["likes"].to_pylist()
        assert read == [there.get(key.strip()) for key in left]
