import gzip
from datetime import date, datetime
from decimal import Decimal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from conftest import ROOT

from kpi_helpers.contracts import TABLES
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"


def put(folder, text, name="channel_daily.csv"):
    """Write a file of a user's folder, byte for byte."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def rows_of(source):
    """Rows that keep the contract, in the order of date and channel."""
    return source.table("channel_daily").order_by("date", "channel").to_pyarrow().to_pylist()


def spends(folder, cells, **options):
    """Source of a CSV file, separated by semicolons, with each of the cells as spend in a row of its own."""
    lines = [f"2026-01-01;A;{i:03};{cell}\n" for i, cell in enumerate(cells)]
    put(folder, "date;channel;campaign;spend\n" + "".join(lines))
    credits = {"columns": {"spend": {"column": "spend", "signed": True}}}
    return connect(folder, {"channel_daily": credits | options})


def dates(folder, cells, **options):
    """Source of a CSV file with each of the cells as date in a row of its own."""
    put(folder, "date,channel,campaign,spend\n" + "".join(f"{cell},A,{i:03},1\n" for i, cell in enumerate(cells)))
    return connect(folder, {"channel_daily": options})


def column_of(source, name):
    """One column, in the order of the lines of `spends` and `dates`."""
    return source.table("channel_daily").order_by("campaign").to_pyarrow()[name].to_pylist()


# --- published numbers -------------------------------------------------------------------------------


# README of robyn-weekly, "Known results"; printed to 2 decimals.
ROBYN = {
    ("All sales", "revenue"): 379_005_696.67,
    ("Out of home", "spend"): 8_989_331.73,
    ("TV", "spend"): 3_087_487.77,
    ("Search", "spend"): 1_230_426.67,
    ("Print", "spend"): 775_555.51,
    ("Facebook", "spend"): 446_296.83,
}


@pytest.fixture(scope="module")
def robyn(real_data):
    return connect(real_data("robyn-weekly"), MAPPINGS / "robyn_weekly.yaml")


def test_robyn_weekly_sums_match_its_readme(robyn):
    sums = pd.DataFrame(rows_of(robyn)).groupby("channel")[["revenue", "spend"]].sum().astype(float)

    assert {key: sums.loc[key] for key in ROBYN} == pytest.approx(ROBYN, abs=0.005)
    assert sums.to_numpy().sum() == pytest.approx(sum(ROBYN.values()), abs=0.03)  # and nothing besides


def test_robyn_weekly_has_208_weeks_that_end_on_a_sunday(robyn):
    dates = {row["date"] for row in rows_of(robyn)}

    assert (len(dates), min(dates), max(dates)) == (208, date(2015, 11, 23), date(2019, 11, 11))
    assert robyn.as_of() == date(2019, 11, 17)
    assert robyn.check().notes == ()  # no week is missing


def test_website_visitors_sums_match_their_readme(real_data):
    source = connect(real_data("website-visitors"), MAPPINGS / "website_visitors.yaml")

    rows = rows_of(source)

    assert (len(rows), rows[0]["date"], rows[-1]["date"]) == (2167, date(2014, 9, 14), date(2020, 8, 19))
    assert sum(row["pageviews"] for row in rows) == 8_921_516
    assert sum(row["sessions"] for row in rows) == 6_378_882


def test_mixed_date_spellings_are_counted_and_refused(real_data):
    source = connect(real_data("website-visitors"), MAPPINGS / "website_visitors_spreadsheet.yaml")

    with pytest.raises(ContractError) as refused:
        source.table("channel_daily")

    told = str(refused.value)
    assert "channel_daily.date: 852 of 2,167 rows cannot be read as a date in the format %m/%d/%Y" in told
    assert '1,315 × "' in told and '852 × "' in told
    assert "date_format" in told and "no format is guessed" in told
    assert [(p.rule, p.n_rows, p.n_total) for p in source.check().problems] == [("not a date", 852, 2167)]


def test_both_spellings_named_load_both_copies_to_the_same_values(real_data):
    folder = real_data("website-visitors")
    mapping = yaml.safe_load((MAPPINGS / "website_visitors_spreadsheet.yaml").read_text(encoding="utf-8"))
    mapping["channel_daily"]["date_format"] = ["%m/%d/%Y", "%m-%d-%Y"]

    rewritten = rows_of(connect(folder, mapping))

    assert len(rewritten) == 2167
    assert rewritten == rows_of(connect(folder, MAPPINGS / "website_visitors.yaml"))


# --- the same rows out of everything that holds them ----------------------------------------------------


STORED = pd.DataFrame(
    {
        "date": [date(2026, 2, 16), date(2026, 2, 17), date(2026, 2, 17)],
        "channel": ["Tìm kiếm trả phí", "Quảng cáo Zalo", "Tìm kiếm trả phí"],
        "campaign": ["Tết Bính Ngọ", None, "Tết; sale, 50%"],
        "clicks": pd.array([120, 0, None], dtype="Int64"),
        "spend": [1_234_567.5, 20_000.0, 0.1],
    }
)
READ = [
    {"date": date(2026, 2, 16), "channel": "Tìm kiếm trả phí", "campaign": "Tết Bính Ngọ",
     "clicks": Decimal(120), "spend": Decimal("1234567.5")},
    {"date": date(2026, 2, 17), "channel": "Quảng cáo Zalo", "campaign": None,
     "clicks": Decimal(0), "spend": Decimal("20000")},
    {"date": date(2026, 2, 17), "channel": "Tìm kiếm trả phí", "campaign": "Tết; sale, 50%",
     "clicks": None, "spend": Decimal("0.1")},
]  # fmt: skip


@pytest.fixture(params=["csv", "csv.gz", "parquet", "duckdb", "postgres"])
def stored(request, tmp_path):
    """The same three rows in each kind of place."""
    if request.param in ("duckdb", "postgres"):
        return request.getfixturevalue(f"{request.param}_engine").source(STORED)
    file = tmp_path / f"channel_daily.{request.param}"
    if request.param == "parquet":
        STORED.to_parquet(file, index=False)
    else:
        STORED.to_csv(file, index=False)
    return connect(tmp_path)


def test_every_store_gives_the_same_rows(stored):
    assert stored.check().ok
    assert rows_of(stored) == READ


def test_every_store_gives_exact_types(stored):
    kinds = {name: str(kind) for name, kind in stored.table("channel_daily").schema().items()}

    assert kinds.pop("clicks") in ("int64", "decimal(24, 6)")  # whole numbers where the store has them
    assert kinds == {"date": "date", "channel": "string", "campaign": "string", "spend": "decimal(24, 6)"}


CSV = "date,channel,campaign,clicks,spend\n" + "\n".join(
    [
        "2026-02-17,Tìm kiếm trả phí,\"Tết; sale, 50%\",,0.1",
        "2026-02-16,Tìm kiếm trả phí,Tết Bính Ngọ,120,1234567.5",
        "2026-02-17,Quảng cáo Zalo,,0,20000",
    ]
)  # fmt: skip
SPELLINGS = {
    "no last line break": CSV,
    "byte order mark": "\ufeff" + CSV + "\n",
    "CRLF": CSV.replace("\n", "\r\n") + "\r\n",
    "byte order mark and CRLF": "\ufeff" + CSV.replace("\n", "\r\n"),
    "everything quoted": "\n".join(
        ",".join(f'"{cell}"' for cell in line.replace('"Tết; sale, 50%"', "Tết; sale| 50%").split(","))
        for line in CSV.split("\n")
    ).replace("|", ","),
    "semicolons": CSV.replace('"Tết; sale, 50%"', "§").replace(",", ";").replace("§", '"Tết; sale, 50%"'),
    "tabs": CSV.replace('"Tết; sale, 50%"', "§").replace(",", "\t").replace("§", "Tết; sale, 50%"),
    "spaces around": CSV.replace("120,", " 120 ,").replace("Bính Ngọ,", "Bính Ngọ  ,"),
    "a column that nobody mapped": CSV.replace("\n", ",na\n").replace("spend,na", "spend,events") + ",na",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_csv_file_gives_the_same_rows(tmp_path, spelling):
    assert rows_of(connect(put(tmp_path, SPELLINGS[spelling]))) == READ


def test_a_compressed_file_with_a_byte_order_mark_reads_too(tmp_path):
    put(tmp_path, gzip.compress(SPELLINGS["byte order mark and CRLF"].encode()), "channel_daily.csv.gz")

    assert rows_of(connect(tmp_path)) == READ


def test_the_order_of_the_rows_does_not_matter(engine):
    turned = engine.source(STORED.iloc[::-1])

    assert rows_of(turned) == READ


def test_a_timestamp_column_is_read_as_its_day(engine):
    times = pd.to_datetime(["2026-02-16 00:00", "2026-02-16 23:59"])

    read = rows_of(engine.source(pd.DataFrame({"date": times, "channel": ["A", "B"], "spend": [1, 2]})))

    assert [row["date"] for row in read] == [date(2026, 2, 16)] * 2


def test_text_columns_of_a_table_are_cleaned_like_those_of_a_file(engine):
    rows = pd.DataFrame({"date": [date(2026, 1, 1)], "channel": [" A "], "campaign": ["  "], "spend": [1]})

    read = rows_of(engine.source(rows))[0]

    assert (read["channel"], read["campaign"]) == ("A", None)


def test_a_real_database_table_can_have_any_name_and_columns(engine):
    rows = STORED.rename(columns={"date": "Ngày", "channel": "utm.source", "spend": "Chi phí (₫)"})
    columns = {"date": "Ngày", "channel": "utm.source", "spend": "Chi phí (₫)"}

    read = rows_of(engine.source(rows, mapping={"channel_daily": {"columns": columns}}))

    assert read == [{name: row[name] for name in read[0]} for row in READ]


def test_micros_of_a_database_are_scaled(engine):
    rows = pd.DataFrame({"date": [date(2026, 1, 1)], "channel": ["A"], "cost_micros": [1_234_567]})
    columns = {"spend": {"column": "cost_micros", "factor": 1e-6}}

    read = rows_of(engine.source(rows, mapping={"channel_daily": {"columns": columns}}))

    assert read[0]["spend"] == Decimal("1.234567")


def test_wide_tables_of_a_database_become_rows_of_channels(engine):
    rows = pd.DataFrame({"date": [date(2026, 1, 5)], "tv": [70.0], "web": [30.0], "visits": [900]})
    blocks = {"TV": {"spend": "tv"}, "Web": {"spend": "web", "sessions": "visits"}}

    read = rows_of(engine.source(rows, mapping={"channel_daily": {"channels": blocks}}))

    assert [(r["channel"], r["spend"], r["sessions"]) for r in read] == [("TV", 70, None), ("Web", 30, 900)]


def test_a_duckdb_table_is_found_by_the_name_that_the_mapping_gives(tmp_path):
    with duckdb.connect(str(tmp_path / "company.duckdb")) as database:
        database.register("stored", pa.Table.from_pandas(STORED, preserve_index=False))
        database.execute("CREATE SCHEMA marts; CREATE TABLE marts.ads AS FROM stored")
        database.execute("CREATE VIEW everything AS FROM marts.ads")

    for table in ("marts.ads", "everything"):
        assert rows_of(connect(tmp_path / "company.duckdb", {"channel_daily": {"table": table}})) == READ


@pytest.mark.parametrize("name", ["dữ liệu 2026", "a#b", "100% thật"])
def test_a_duckdb_file_is_found_in_a_folder_of_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    with duckdb.connect(str(tmp_path / name / "company.duckdb")) as database:
        database.register("stored", pa.Table.from_pandas(STORED, preserve_index=False))
        database.execute("CREATE TABLE channel_daily AS FROM stored")

    assert rows_of(connect(tmp_path / name / "company.duckdb")) == READ
    assert [p.name for p in tmp_path.iterdir()] == [name]  # and no new database beside it


def test_a_database_url_can_come_from_the_environment(postgres_engine, monkeypatch):
    place = postgres_engine.source(STORED)._mapping["channel_daily"]["table"]
    monkeypatch.setenv("KPI_TEST_URL", postgres_engine._url)

    source = connect("env:KPI_TEST_URL", {"channel_daily": {"table": place}})

    assert rows_of(source) == READ
    assert source.name == "env:KPI_TEST_URL"  # reports store the name, never the URL
    source._backend.disconnect()


def test_files_of_a_source_are_those_behind_its_tables(tmp_path, engine):
    (tmp_path / "folder").mkdir()
    put(tmp_path / "folder", "nothing of ours", "notes.txt")

    assert connect(put(tmp_path / "folder", CSV)).files() == [tmp_path / "folder" / "channel_daily.csv"]
    assert engine.source(STORED).files() == []


def test_the_simulated_company_is_written_on_first_use():
    source = connect("data/demo")

    assert source.check("channel_daily").ok
    assert source.tables == [name for name in TABLES if name != "paths"]
    assert {file.resolve().parent for file in source.files()} == {ROOT / "data" / "demo"}
    assert source.currency() == "VND"


# --- options of a mapping ---------------------------------------------------------------------------


def test_a_mapping_file_says_everything_about_a_foreign_export(tmp_path):
    put(tmp_path, "Ngày;Kênh;Chi tiêu;Nhấp\n16/02/2026;Tìm kiếm;1.234.567,5;n/a\n", "báo cáo.csv")
    put(
        tmp_path,
        """
        channel_daily:
          file: báo cáo.csv
          date_format: "%d/%m/%Y"
          decimal: ","
          thousands: "."
          null_values: [n/a]
          columns:
            date: Ngày
            channel: Kênh
            spend: {column: Chi tiêu, factor: 0.001}
            clicks: Nhấp
        """,
        "mapping.yaml",
    )

    read = rows_of(connect(tmp_path, tmp_path / "mapping.yaml"))

    spent = Decimal("1234.5675")
    assert read == [{"date": date(2026, 2, 16), "channel": "Tìm kiếm", "clicks": None, "spend": spent}]


def test_a_mapping_may_name_the_file_of_either_kind(tmp_path):
    STORED.to_parquet(tmp_path / "ads 2026.parquet", index=False)
    put(tmp_path, CSV, "ads.csv")

    for file in ("ads 2026.parquet", "ads.csv"):
        assert rows_of(connect(tmp_path, {"channel_daily": {"file": file}})) == READ


NUMBERS = [
    ({}, {"1234.5": "1234.5", "-7": "-7", "+7": "7", "1e3": "1000", " 8 ": "8", "0.1234567": "0.123457"}),
    ({"decimal": ","}, {"1,5": "1.5", "1234,5": "1234.5", "7": "7"}),
    ({"decimal": ",", "thousands": "."}, {"1.234.567,5": "1234567.5", "1234567,5": "1234567.5", "1.234": "1234"}),
    ({"thousands": ","}, {"2,146": "2146", "12,345,678.25": "12345678.25", "152": "152"}),
    ({"thousands": " "}, {"2 146": "2146", "999999999999.999999": "999999999999.999999"}),
]


@pytest.mark.parametrize(("options", "cells"), NUMBERS)
def test_numbers_are_read_as_the_mapping_says(tmp_path, options, cells):
    read = column_of(spends(tmp_path, cells, **options), "spend")

    assert dict(zip(cells, read, strict=True)) == {cell: Decimal(value) for cell, value in cells.items()}


NO_NUMBERS = [
    ({}, ["1,5", "12 %", "₫12", "(12)", "nan", "inf", "0x10", "1e999", "9999999999999999999", "n/a", "1.2.3"]),
    ({"null_values": ["na"]}, ["n/a", "NA"]),
    ({"decimal": ","}, ["1.5"]),
    ({"decimal": ",", "thousands": "."}, ["1.5", "15.00", "1,5.5", "1.23.456"]),
    ({"thousands": ","}, ["1,50", "1,2345", "1234,567", ",234", "1,"]),
]


@pytest.mark.parametrize(("options", "cells"), NO_NUMBERS)
def test_what_is_not_certainly_a_number_is_reported_never_guessed(tmp_path, options, cells):
    (problem,) = spends(tmp_path, [*cells, "7"], **options).check().problems

    assert (problem.column, problem.rule, problem.n_rows) == ("spend", "not a number", len(cells))


@pytest.mark.parametrize("cell", ["1.5", "1.50", "15"])
def test_a_point_is_never_both_decimal_mark_and_thousands_separator(tmp_path, cell):
    with pytest.raises(KpiError, match=r"decimal.*thousands"):
        spends(tmp_path, [cell], thousands=".").table("channel_daily")


@pytest.mark.parametrize("tokens", [["na", "-"], "na"])
def test_null_values_are_nothing_be_they_one_or_a_list(tmp_path, tokens):
    assert column_of(spends(tmp_path, ["na", "7"], null_values=tokens), "spend") == [None, 7]


def test_one_null_value_is_a_word_not_its_letters(tmp_path):
    assert spends(tmp_path, ["n", "a"], null_values="na").check().problems[0].n_rows == 2


def test_null_values_of_a_column_are_its_own(tmp_path):
    put(tmp_path, "date,channel,revenue,clicks\n2026-01-01,A,-999,-999\n")
    columns = {"clicks": {"column": "clicks", "null_values": ["-999"]}}

    read = rows_of(connect(tmp_path, {"channel_daily": {"columns": columns}}))[0]

    assert (read["clicks"], read["revenue"]) == (None, Decimal(-999))


def test_a_factor_turns_micros_into_money(tmp_path):
    columns = {"spend": {"column": "spend", "factor": 1e-6}}

    assert column_of(spends(tmp_path, ["1234567"], columns=columns), "spend") == [Decimal("1.234567")]


DATES = [
    (None, ["2026-02-17", "2026-02-17 23:59:59", "2026-02-17T00:00:00"]),
    ("%d/%m/%Y", ["17/02/2026", "17/2/2026"]),
    ("%m/%d/%Y", ["02/17/2026", "2/17/2026"]),
    ("%d/%m/%y", ["17/2/26"]),
    ("%Y%m%d", ["20260217"]),
    (["%d/%m/%Y", "%d.%m.%Y"], ["17.02.2026", "17/02/2026"]),
    (["%d/%m/%Y", "%m/%d/%Y"], ["17/02/2026", "02/17/2026"]),  # only one of them can read it
]


@pytest.mark.parametrize(("form", "cells"), DATES)
def test_dates_are_read_in_the_named_formats(tmp_path, form, cells):
    read = column_of(dates(tmp_path, cells, **({"date_format": form} if form else {})), "date")

    assert read == [date(2026, 2, 17)] * len(cells)


def test_a_date_that_two_formats_read_alike_is_certain(tmp_path):
    read = column_of(dates(tmp_path, ["03/03/2026"], date_format=["%d/%m/%Y", "%m/%d/%Y"]), "date")

    assert read == [date(2026, 3, 3)]


NO_DATES = [
    (["%d/%m/%Y", "%m/%d/%Y"], ["03/04/2026"]),  # 3 April or 4 March
    (None, ["03/04/2026", "26-02-17", "2026-02", "46070", "tomorrow", "2026-02-30"]),  # 46070: a spreadsheet's
    ("%m/%d/%Y", ["02-17-2026", "2/30/2026", "17/2/2026", "2/17/26"]),  # not the year 26
]


@pytest.mark.parametrize(("form", "cells"), NO_DATES)
def test_what_is_not_certainly_a_date_is_reported_never_guessed(tmp_path, form, cells):
    (problem,) = dates(tmp_path, cells, **({"date_format": form} if form else {})).check().problems

    assert (problem.column, problem.rule, problem.n_rows) == ("date", "not a date", len(cells))
    assert cells[0] in problem.what()


def test_a_wide_file_becomes_rows_of_channels(tmp_path):
    put(tmp_path, "day,tv,fb,fb_shown,sales\n2026-01-05,70,30,9000,500\n2026-01-12,0,,8000,400\n")
    blocks = {
        "TV": {"spend": "tv"},
        "Facebook": {"spend": "fb", "impressions": "fb_shown"},
        "Shop": {"revenue": "sales"},
    }

    read = rows_of(connect(tmp_path, {"channel_daily": {"columns": {"date": "day"}, "channels": blocks}}))

    told = [tuple(row[c] for c in ("date", "channel", "impressions", "spend", "revenue")) for row in read]
    first, second = date(2026, 1, 5), date(2026, 1, 12)
    assert told == [
        (first, "Facebook", 9000, 30, None), (first, "Shop", None, None, 500), (first, "TV", None, 70, None),
        (second, "Facebook", 8000, None, None), (second, "Shop", None, None, 400), (second, "TV", None, 0, None),
    ]  # fmt: skip


# --- how far the data reach -----------------------------------------------------------------------------


def ends(engine, *, period="day", **channels):
    """A source whose channels end on the given dates; each reports once more, 20 periods earlier."""
    step = pd.DateOffset(**{f"{period}s": 20})
    rows = [
        {"date": day, "channel": channel, "spend": 1}
        for channel, end in channels.items()
        for day in ((pd.Timestamp(end) - step).date(), date.fromisoformat(end))
    ]
    return engine.source(pd.DataFrame(rows), mapping={"channel_daily": {"period": period}})


LAST_DAYS = [
    ("day", {"A": "2026-03-10", "B": "2026-03-10"}, "2026-03-10"),
    ("day", {"A": "2026-03-10", "B": "2026-03-08"}, "2026-03-08"),  # lags
    ("day", {"A": "2026-03-10", "B": "2026-03-03"}, "2026-03-03"),  # lags by a week
    ("day", {"A": "2026-03-10", "B": "2026-03-02"}, "2026-03-10"),  # has ended
    ("day", {"A": "2026-03-10", "B": "2026-03-09", "C": "2025-01-01"}, "2026-03-09"),
    ("week", {"A": "2026-03-09", "B": "2026-03-09"}, "2026-03-15"),
    ("week", {"A": "2026-03-09", "B": "2026-03-02"}, "2026-03-08"),
    ("week", {"A": "2026-03-09", "B": "2026-02-23"}, "2026-03-01"),  # lags by two periods
    ("week", {"A": "2026-03-09", "B": "2026-02-16"}, "2026-03-15"),  # has ended
    ("month", {"A": "2026-02-01", "B": "2026-02-01"}, "2026-02-28"),
    ("month", {"A": "2026-02-01", "B": "2026-01-01"}, "2026-01-31"),
    ("month", {"A": "2026-02-01", "B": "2025-12-01"}, "2025-12-31"),
    ("month", {"A": "2026-02-01", "B": "2025-11-01"}, "2026-02-28"),
]


@pytest.mark.parametrize(("period", "channels", "day"), LAST_DAYS)
def test_a_channel_that_lags_holds_the_others_back_and_one_that_ended_does_not(duckdb_engine, period, channels, day):
    source = ends(duckdb_engine, period=period, **channels)

    assert source.as_of() == date.fromisoformat(day)


def test_an_earlier_as_of_is_taken_and_none_is_the_last_complete_day(engine):
    source = ends(engine, A="2026-03-10", B="2026-03-08", C="2025-01-01")

    assert source.as_of("2026-02-28") == date(2026, 2, 28)
    assert source.as_of() == source.as_of("2026-03-08") == date(2026, 3, 8)


# --- error texts ----------------------------------------------------------------------------------------


def test_an_as_of_that_the_data_do_not_reach_is_refused(engine):
    source = ends(engine, A="2026-03-10", B="2026-03-08")

    with pytest.raises(KpiError, match=r"as_of=2026-03-09 .*last complete day.*Give 2026-03-08 or earlier"):
        source.as_of("2026-03-09")


@pytest.mark.parametrize("day", ["10/03/2026", "2026-02-30", "yesterday", ""])
def test_an_as_of_that_is_no_date_is_refused(duckdb_engine, day):
    with pytest.raises(KpiError, match=rf"as_of='{day}' is no date. Write YYYY-MM-DD, such as 2026-03-10"):
        ends(duckdb_engine, A="2026-03-10").as_of(day)


MISSPELT = [
    ({"chanel_daily": {}}, "'chanel_daily' is no table. Did you mean channel_daily"),
    ({"channel_daily": {"colums": {}}}, "'colums' is no option of channel_daily. Did you mean columns"),
    ({"channel_daily": {"dateformat": "%d"}}, "'dateformat' .*Did you mean date_format"),
    ({"channel_daily": {"columns": {"chanel": "x"}}}, "'chanel' is no column of channel_daily. Did you mean channel"),
    ({"channel_daily": {"channels": {"TV": {"spnd": "x"}}}}, "'spnd' .*Did you mean spend"),
    ({"channel_daily": {"columns": {"spend": {"column": "spend", "facter": 1e-6}}}}, "'facter' .*Did you mean factor"),
    ({"channel_daily": {"zzz": 1}}, "'zzz' .*Known are channels, columns"),
]


@pytest.mark.parametrize(("mapping", "told"), MISSPELT)
def test_a_misspelt_mapping_is_told_what_was_meant(tmp_path, mapping, told):
    with pytest.raises(KpiError, match=told):
        connect(put(tmp_path, CSV), mapping)


def test_a_misspelt_name_of_a_source_column_is_shown_beside_those_that_are_there(engine):
    columns = {"spend": "csot"}
    source = engine.source(STORED.rename(columns={"spend": "cost"}), mapping={"channel_daily": {"columns": columns}})

    line = source.check().lines()[1]

    assert line.startswith("channel_daily.spend: ") and "csot" in line and "clicks, cost" in line


MALFORMED = [
    ([], "holds no table"),
    ({"channel_daily": None}, "channel_daily holds None"),
    ({"channel_daily": {"columns": ["spend"]}}, "columns"),
    ({"channel_daily": {"columns": {"spend": {"factor": 1e-6}}}}, "spend.*column"),
    ({"channel_daily": {"encoding": "utf8mb4"}}, "holds 'utf8mb4', but needs one of utf-8, utf-16, windows-1258"),
    ({"channel_daily": {"columns": {"spend": {"column": "spend", "factor": "a million"}}}}, "factor.*a million"),
    ({"channel_daily": {"channels": ["TV"]}}, "channels"),
    ({"channel_daily": {"channels": {"TV": None}}}, "TV"),
    ({"channel_daily": {"period": "year"}}, "period holds 'year', but needs one of day, week, month"),
    ({"channel_daily": {"thousands": "."}}, "decimal.*thousands"),
    ({"channel_daily": {"thousands": ",", "decimal": ","}}, "decimal.*thousands"),
    ({"channel_daily": {"thousands": 0}}, "thousands"),
    ({"channel_daily": {"date_format": 2026}}, "date_format"),
    ({"channel_daily": {"columns": {"channel": None}}}, r"channel_daily\.channel: the column.* is not there"),
]


@pytest.mark.parametrize(("mapping", "told"), MALFORMED)
def test_a_malformed_mapping_is_one_message(tmp_path, mapping, told):
    with pytest.raises(KpiError, match=told):
        connect(put(tmp_path, CSV), mapping).table("channel_daily")


MAPPING_FILES = [
    ("channel_daily: {file: [", "is not YAML"),
    ("channel_daily", "holds no table. Begin with a line such as channel_daily:"),
    ("", "holds no table"),
]


@pytest.mark.parametrize(("text", "told"), MAPPING_FILES)
def test_a_mapping_file_that_does_not_read_is_one_message(tmp_path, text, told):
    put(tmp_path, text, "mapping.yaml")

    with pytest.raises(KpiError, match=told):
        connect(tmp_path, tmp_path / "mapping.yaml")


def test_a_mapping_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KpiError, match=r"mapping='.*nowhere.yaml' does not exist. Give the path of a YAML file"):
        connect(tmp_path, tmp_path / "nowhere.yaml")


UNREADABLE = {
    "latin-1": ("channel_daily.csv", CSV.replace("ế", "é").encode("cp1252", "replace"), "UTF-8"),
    "utf-16": ("channel_daily.csv", CSV.encode("utf-16"), "UTF-8"),
    "no Parquet": ("channel_daily.parquet", b"date,channel,spend\n", "channel_daily.parquet"),
    "no gzip": ("channel_daily.csv.gz", b"date,channel,spend\n2026-01-01,A,1\n", "channel_daily.csv.gz"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_does_not_read_is_one_message_that_names_it(tmp_path, kind):
    name, content, told = UNREADABLE[kind]

    with pytest.raises(KpiError) as refused:
        connect(put(tmp_path, content, name)).table("channel_daily")

    assert name in str(refused.value) and told in str(refused.value)


@pytest.mark.parametrize("line", ["2026-01-09,A,1,2", "2026-01-09,A"])
@pytest.mark.parametrize("n_before", [3, 30_000])  # within and beyond what a reader samples
def test_a_line_with_too_many_or_too_few_cells_is_never_dropped(tmp_path, line, n_before):
    days = pd.date_range("1940-01-01", periods=n_before).strftime("%Y-%m-%d,A,1\n")
    put(tmp_path, "date,channel,spend\n" + "".join(days) + line + "\n2026-01-10,A,1\n")

    with pytest.raises(KpiError, match=r"channel_daily"):
        connect(tmp_path).table("channel_daily")


def test_an_empty_file_says_what_is_lacking(tmp_path):
    with pytest.raises(ContractError, match=r"channel_daily\.date"):
        connect(put(tmp_path, "")).table("channel_daily")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("date", pa.array([20260101])),
        ("date", pa.array([True])),
        ("spend", pa.array([date(2026, 1, 1)])),
        ("spend", pa.array([datetime(2026, 1, 1)], pa.timestamp("us"))),
    ],
)
def test_a_column_of_another_type_is_a_problem_of_the_data(engine, column, values):
    table = pa.table({"date": pa.array([date(2026, 1, 1)]), "channel": ["A"], "spend": [1], "clicks": [1]})
    wrong = table.set_column(table.column_names.index(column), column, values)

    with pytest.raises(ContractError, match=rf"channel_daily\.{column}: 1 of 1 rows"):
        engine.source(wrong).table("channel_daily")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(KpiError, match=r"source='.*nowhere' does not exist. Give a folder"):
        connect(tmp_path / "nowhere")


def test_a_file_where_a_folder_is_needed_says_how_to_name_it(tmp_path):
    put(tmp_path, CSV)

    with pytest.raises(
        KpiError, match=r"channel_daily\.csv' is a file. Give a folder \(and name its file in the mapping"
    ):
        connect(tmp_path / "channel_daily.csv")


def test_a_database_file_that_is_none_is_one_message(tmp_path):
    put(tmp_path, CSV * 100, "company.duckdb")

    with pytest.raises(KpiError, match=r"company\.duckdb does not answer"):
        connect(tmp_path / "company.duckdb")


def test_a_folder_without_the_table_lists_what_it_holds(tmp_path):
    put(tmp_path, CSV, "export.csv")

    told = r"holds no table channel_daily, orders, customers or another .*; it holds export\.csv\. .*mapping"
    with pytest.raises(ContractError, match=told):
        connect(tmp_path).check()


def test_two_files_of_one_table_are_refused(tmp_path):
    put(tmp_path, CSV)
    STORED.to_parquet(tmp_path / "channel_daily.parquet", index=False)

    with pytest.raises(KpiError, match=r"holds channel_daily\.parquet and channel_daily\.csv\. Keep one"):
        connect(tmp_path).table("channel_daily")


def test_a_named_file_that_is_not_there_lists_what_is(tmp_path):
    with pytest.raises(KpiError, match=r'has no "ads\.csv" for channel_daily; it holds channel_daily\.csv'):
        connect(put(tmp_path, CSV), {"channel_daily": {"file": "ads.csv"}}).table("channel_daily")


@pytest.mark.parametrize("table", ["ads", "nowhere.ads", "main.ads"])
def test_a_named_table_that_is_not_there_lists_what_is(duckdb_engine, tmp_path, table):
    duckdb_engine.source(STORED)
    file = next(tmp_path.glob("*.duckdb"))
    duckdb_engine.close()

    with pytest.raises(KpiError, match=rf'has no "{table}" for channel_daily; it holds channel_daily'):
        connect(file, {"channel_daily": {"table": table}}).table("channel_daily")


def test_a_postgres_schema_that_is_not_there_is_one_message(postgres_url):
    source = connect(postgres_url, {"channel_daily": {"table": "nowhere.ads"}})

    with pytest.raises(KpiError, match=r'has no "nowhere\.ads" for channel_daily'):
        source.table("channel_daily")
    source._backend.disconnect()


PASSWORDS = [
    "postgresql://anna:secret@127.0.0.1:1/marketing",
    "postgresql://anna:sec/ret@127.0.0.1:1/marketing",
    "postgresql://anna:secret@here@127.0.0.1:1/marketing",
    "postgresql://anna@127.0.0.1:1/marketing?password=secret",
    "postgresql://127.0.0.1:1/marketing?user=anna&password=secret",
]


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_in_the_url_is_refused_and_not_repeated(url):
    with pytest.raises(KpiError, match=r"holds a password.*source=env:NAME") as refused:
        connect(url)

    assert "sec" not in str(refused.value)


def test_a_database_that_does_not_answer_is_one_message_without_its_secrets(monkeypatch):
    monkeypatch.setenv("KPI_TEST_URL", "postgresql://anna:secret@127.0.0.1:1/marketing")

    with pytest.raises(KpiError, match=r"env:KPI_TEST_URL does not answer.*Check address, user and driver") as refused:
        connect("env:KPI_TEST_URL")

    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_an_environment_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("KPI_TEST_URL", raising=False)

    with pytest.raises(KpiError, match=r"there is no environment variable KPI_TEST_URL. Set it to the URL"):
        connect("env:KPI_TEST_URL")


def test_an_environment_variable_that_is_empty_is_like_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("KPI_TEST_URL", "")

    with pytest.raises(KpiError, match=r"KPI_TEST_URL.*Set it to the URL"):
        connect("env:KPI_TEST_URL")


def test_a_url_of_an_unknown_kind_is_one_message():
    with pytest.raises(KpiError, match=r"paradox://127.0.0.1/x does not answer"):
        connect("paradox://127.0.0.1/x")
