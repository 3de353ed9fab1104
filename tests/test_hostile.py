"""Hostile files: everything found at once, named, counted, with the option to write; what is accepted is exact."""

import csv
import io
import re
import unicodedata
from collections import Counter
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

import ibis
import pyarrow as pa
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpi_helpers import cli, texts
from kpi_helpers.errors import ContractError, KpiError
from kpi_helpers.sources import connect

MAPPINGS = ROOT / "data" / "mappings"
TIM_KIEM = "Tìm kiếm"
NFD, NBSP = unicodedata.normalize("NFD", TIM_KIEM), TIM_KIEM.replace(" ", "\u00a0")
QUICK = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def put(folder, text, name="channel_daily.csv"):
    """Write a file of a user's folder, byte for byte."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def checked(folder, text, **options):
    """Check of a folder that holds the text as its table."""
    return connect(put(folder, text), {"channel_daily": options} if options else None).check()


def column(folder, cells, name="spend", **options):
    """Check of a file with each of the cells in a row of its own; spend may be a credit."""
    if name == "spend":
        options = {"columns": {"spend": {"column": "spend", "signed": True}}} | options
    rows = [f"2026-01-01;A;{i:03};{cell}\n" for i, cell in enumerate(cells)]
    return checked(folder, f"date;channel;campaign;{name}\n" + "".join(rows), **options)


def broken(check):
    """Rules broken, by column, with the number of rows."""
    return {(problem.column, problem.rule): problem.n_rows for problem in check.problems}


def windows_1258(text):
    """Vietnamese as Windows writes it: letters with their marks, tones as signs of their own."""
    written = b""
    for letter in text:
        base, *signs = unicodedata.normalize("NFD", letter)
        tones = "".join(s for s in signs if s in "\u0300\u0301\u0303\u0309\u0323")
        kept = unicodedata.normalize("NFC", base + "".join(s for s in signs if s not in tones))
        written += (kept + tones).encode("cp1258")
    return written


# --- everything at once ---------------------------------------------------------------------------------


#: date, channel, campaign, spend, clicks, impressions, leads, orders: each line breaks what its comment says
WRONG = [
    ("2026-01-01", TIM_KIEM, "a", "5", "10", "100", "1.234", "1"),  # a point that may part thousands
    ("2026-01-02", NFD, "a", "5", "10", "100", "2.500", "1"),  # accents in another code; the same point
    ("2026-01-03", NBSP, "a", "-5", "10", "100", "7", "1"),  # a no-break space; a credit
    ("2026-01-03", f" {TIM_KIEM}", "a", "5", "10", "100", "7", "1"),  # spaces around; the key of the line above
    ("04/01/2026", "Email", "b", "5", "10", "100", "7", "1"),  # a slash date
    ("05/13/2026", "Email", "b", "5", "10", "100", "7", "1"),  # another, month first
    ("46028", "Email", "b", "5", "10", "100", "7", "1"),  # a spreadsheet's day
    ("", "Email", "b", "5", "10", "100", "7", "1"),  # no date
    ("2026-01-10", " ", "b", "5", "10", "100", "7", "1"),  # no channel
    ("2026-01-11", "Email", "b", "1.234.567 ₫", "10", "100", "7", "1"),  # money as text
    ("2026-01-12", "Email", "b", "12.500 đ", "10", "100", "7", "1"),
    ("2026-01-13", "Email", "b", "Select", "10", "100", "7", "1"),  # words for nothing
    ("2026-01-14", "Email", "b", "Err:509", "#N/A", "100", "7", "-"),
    ("2026-01-15", "Email", "b", "5", "101", "100", "7", "1"),  # clicks above impressions
    ("2026-01-16", "Email", "b", "5", "-1", "100", "7", "-2"),  # counts below zero
]
FOUND = {
    ("*", "ragged"): 1,
    ("date", "not a date"): 3,
    ("date", "empty"): 1,
    ("date", "duplicate"): 1,
    ("channel", "empty"): 1,
    ("spend", "not a number"): 4,
    ("spend", "credit"): 1,
    ("clicks", "not a number"): 1,
    ("clicks", "negative"): 1,
    ("clicks", "too large"): 1,
    ("orders", "not a number"): 1,
    ("orders", "negative"): 1,
    ("leads", "ambiguous number"): 2,
}
HEAD = "Ngày\u00a0;channel;campaign;spend;clicks;impressions;leads;orders;note;note\r\n"


@pytest.fixture
def everything(tmp_path):
    lines = ["\ufeff" + HEAD, *(";".join(row) + ";x;y\r\n" for row in WRONG), "2026-01-17;Email\r\n"]
    put(tmp_path, "".join(lines))
    put(tmp_path, "channel_daily:\n  columns: {date: Ngày}\n", "mapping.yaml")
    return tmp_path


def test_everything_that_is_wrong_is_found_at_once(everything):
    check = connect(everything, everything / "mapping.yaml").check()

    assert broken(check) == FOUND
    assert all(p.n_total == len(WRONG) + (p.rule == "ragged") for p in check.problems)
    assert check.n_rows == (len(WRONG),)


def test_the_command_prints_the_option_to_write_for_each_and_ends_with_4(everything, capsys):
    assert cli.main(["check", str(everything), "--mapping", str(everything / "mapping.yaml")]) == 4

    told = capsys.readouterr().out
    for option in (
        '"%d/%m/%Y"', '"%m/%d/%Y"', '1 × "46028"', '1 × "Err:509"', '1 × "Select"', '1 × "#N/A"', '1 × "-"',
        '1 × "12.500 đ"', 'decimal: ",", thousands: ".", currency: "VND" or null_values: ["n/a"]',
        '17: 2026-01-17;Email',
    ):  # fmt: skip
        assert option in told, option
    assert "Traceback" not in told


def test_what_was_made_alike_is_noted_never_silent(everything):
    notes = [note.en for note in connect(everything, everything / "mapping.yaml").check().notes]

    assert any("byte order mark" in note for note in notes)
    assert [note for note in notes if "channel: 3 of 15 rows were read without extra spaces" in note] != []


def test_each_problem_is_told_in_vietnamese_too(everything):
    check = connect(everything, everything / "mapping.yaml").check()

    assert all(p.line("vi") != p.line("en") and not p.remedy("vi").isascii() for p in check.problems)


# --- bytes that are no CSV ------------------------------------------------------------------------------

ROW = "date,channel,spend\n2026-01-01,Tìm kiếm,5\n"
NOT_CSV = {
    "XLSX": (b"PK\x03\x04\x14\x00\x06\x00", r"is a spreadsheet \(XLSX\), not CSV. Open it and save it as CSV UTF-8"),
    "XLS": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"is a spreadsheet \(XLS\)"),
    "HTML": (b"\n <!DOCTYPE html><table><tr><td>", r"is a web page \(HTML\)"),
    "UTF-16": (ROW.encode("utf-16"), "is UTF-16. Write encoding: utf-16 in the mapping"),
    "UTF-16 without mark": ("date,channel,spend\n".encode("utf-16-le"), "line 1: a NUL byte"),
    "Windows-1258": (windows_1258(ROW), 'UTF-8: line 2 .*If "2026-01-01,Tìm kiếm,5" .*encoding: windows-1258'),
    "NUL": (ROW.encode() + b"2026-01-02,A,\x005\n", "line 3: a NUL byte"),
    "open quote": (ROW.encode() + b'2026-01-02,"A,5\n2026-01-03,A,5\n', "line 3: a quotation mark is not closed"),
    "one endless cell": (b"[" + b"x" * 200_000, "line 1: .*field larger"),
    "stray quote": (ROW.encode() + b'2026-01-02,"A"B,5\n', "line 3: a quotation mark"),
}


@pytest.mark.parametrize("kind", NOT_CSV)
def test_what_is_no_csv_says_what_it_is_where_and_what_to_do(tmp_path, kind):
    content, told = NOT_CSV[kind]

    with pytest.raises(ContractError) as refused:
        checked(tmp_path, content)

    message = unicodedata.normalize("NFC", str(refused.value))
    assert "channel_daily.csv" in message and re.search(told, message), message


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("windows-1258", windows_1258(ROW)), ("UTF-16", ROW.encode("utf-16")), ("utf-16", ROW.encode("utf-16"))],
)
def test_an_encoding_that_the_mapping_names_is_read_and_noted(tmp_path, encoding, content):
    source = connect(put(tmp_path, content), {"channel_daily": {"encoding": encoding}})

    assert source.table("channel_daily").to_pyarrow()["channel"].to_pylist() == [TIM_KIEM]
    assert encoding.lower() in source.check().notes[0].en


def test_utf_8_that_the_mapping_calls_windows_1258_is_refused(tmp_path):
    with pytest.raises(ContractError, match=r"is UTF-8 already\. Leave encoding: windows-1258 out"):
        checked(tmp_path, ROW, encoding="windows-1258")


@pytest.mark.parametrize(("text", "rules"), [
    ("", {("date", "missing column"), ("channel", "missing column"), ("*", "no measure"), ("date", "no rows")}),
    ("\r\n\r\n", {("date", "missing column"), ("channel", "missing column"), ("*", "no measure"), ("date", "no rows")}),
    ("date,channel,spend\n", {("date", "no rows")}),
])  # fmt: skip
def test_a_file_without_rows_says_so(tmp_path, text, rules):
    assert set(broken(checked(tmp_path, text))) == rules


def test_lines_of_another_length_are_counted_with_their_numbers(tmp_path):
    text = "date,channel,spend\n2026-01-02,A,1,5\n2026-01-01,A,1\n\n2026-01-03,A,1\n2026-01-04,A\n"

    (problem,) = checked(tmp_path, text).problems

    assert (problem.rule, problem.n_rows, problem.n_total) == ("ragged", 2, 4)
    assert problem.examples == ("2: 2026-01-02,A,1,5", "6: 2026-01-04,A")


# --- headers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", [" Chi tiêu", "Chi\u00a0tiêu ", unicodedata.normalize("NFD", "Chi tiêu"), "\u200bChi tiêu"]
)
@pytest.mark.parametrize("asked", ["Chi tiêu", "Chi\u00a0tiêu", unicodedata.normalize("NFD", "Chi tiêu")])
def test_a_header_is_found_whatever_its_spaces_and_code(tmp_path, head, asked):
    assert checked(tmp_path, f"date,channel,{head}\n2026-01-01,A,5\n", columns={"spend": asked}).ok


@pytest.mark.parametrize("columns", [{}, {"spend": "spend"}])
def test_a_name_that_the_header_repeats_is_never_chosen(tmp_path, columns):
    check = checked(tmp_path, "date,channel,spend,Spend,clicks\n2026-01-01,A,5,6,1\n", columns=columns)

    assert broken(check) == {("spend", "missing column"): 0}
    assert "spend (3), Spend (4)" in check.problems[0].what()


def test_a_repeated_name_can_be_chosen_by_its_place(tmp_path):
    source = connect(put(tmp_path, "date,channel,spend,spend\n2026-01-01,A,5,6\n"),
                     {"channel_daily": {"columns": {"spend": "spend (4)"}}})  # fmt: skip

    assert source.table("channel_daily").to_pyarrow()["spend"].to_pylist() == [6]


# --- numbers ----------------------------------------------------------------------------------------------

MONEY = [
    ("VND", {"thousands": ".", "decimal": ","}, ["1.234.567 ₫", "₫1.234.567", "1.234đ", "1.234 VND", "-₫5", "5 vnđ"],
     [1234567, 1234567, 1234, 1234, -5, 5]),
    ("EUR", {"thousands": " ", "decimal": ","}, ["1 234,50 €", "1\u00a0234,50\u00a0€", "€5", "1\u202f234,50 EUR"],
     ["1234.5", "1234.5", 5, "1234.5"]),
    ("USD", {"thousands": ","}, ["$1,234.50", "-$5", "$-5", "US$ 7", "5"], ["1234.5", -5, -5, 7, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("currency", "marks", "cells", "values"), MONEY)
def test_money_as_text_is_read_in_the_currency_of_the_mapping(tmp_path, currency, marks, cells, values):
    assert column(tmp_path, cells, currency=currency, **marks).ok

    credits = {"columns": {"spend": {"column": "spend", "signed": True}}}
    read = connect(tmp_path, {"channel_daily": {"currency": currency, **marks, **credits}}).table("channel_daily")
    assert read.order_by("campaign").to_pyarrow()["spend"].to_pylist() == [Decimal(v) for v in values]


@pytest.mark.parametrize("cell", ["$5", "5k", "5 tr", "₫5₫", "5 ₫ ₫", "₫ -", "--5 ₫", "1.5₫5"])
def test_money_in_another_currency_or_shorthand_is_refused(tmp_path, cell):
    assert broken(column(tmp_path, [cell], currency="VND")) == {("spend", "not a number"): 1}


def test_only_money_carries_a_currency(tmp_path):
    assert broken(column(tmp_path, ["5 ₫"], "clicks", currency="VND")) == {("clicks", "not a number"): 1}


REMEDIES = [
    (["1.234.567 ₫", "2.000 ₫"], 'decimal: ",", thousands: ".", currency: "VND"'),
    (["₫1,234", "₫12,500,000"], 'decimal: ".", thousands: ",", currency: "VND"'),
    (["1 234,50 €", "5,10 €"], 'decimal: ",", thousands: " ", currency: "EUR"'),
    (["$5", "$7.5"], 'currency: "USD"'),
    (["1,5", "1234,75"], 'decimal: ","'),
    (["1,234.5", "7"], 'decimal: ".", thousands: ","'),
    (["1,234", "12,345"], 'decimal: "," / decimal: ".", thousands: ","'),  # only the user knows
    (["5", "Select", "Err:509", "#N/A", "–", "nan"], 'null_values: ["#N/A", "Err:509", "Select", "nan", "–"]'),
]


@pytest.mark.parametrize(("cells", "line"), REMEDIES)
def test_a_remedy_prints_the_cells_and_the_options_and_the_options_help(tmp_path, cells, line):
    (problem,) = column(tmp_path, cells).problems

    assert f'× "{cells[-1]}"' in problem.remedy() or f'× "{cells[0]}"' in problem.remedy() or cells[0] == "5"
    assert all(re.sub(r":.*", ":", option) in problem.remedy() for option in re.findall(r"[a-z_]+: ", line))
    for way in line.split(" / "):
        options = yaml.safe_load("{" + way + "}")
        assert column(tmp_path, cells, **options).ok


@pytest.mark.parametrize("cells", [["1.234"], ["1.234", "12", "999.000"], ["-1.234", "2"], ["1.234", "n/a"]])
def test_points_that_may_part_thousands_are_asked_about(tmp_path, cells):
    check = column(tmp_path, cells, null_values=["n/a"])

    n = sum("." in cell for cell in cells)
    assert broken(check) == {("spend", "ambiguous number"): n}
    assert column(tmp_path, cells, null_values=["n/a"], decimal=".").ok
    assert column(tmp_path, cells, null_values=["n/a"], decimal=",", thousands=".").ok


@pytest.mark.parametrize(
    "cells", [["1.234", "1.5"], ["1.234", "1234.567"], ["1.234", "0.123"], ["12", "7"], ["1.2345"]]
)
def test_one_certain_point_tells_of_all(tmp_path, cells):
    assert column(tmp_path, cells).ok


def test_a_column_called_micros_needs_its_unit(tmp_path):
    text = "date,channel,cost_micros\n2026-01-01,A,1500000\n"
    (problem,) = checked(tmp_path, text, columns={"spend": "cost_micros"}).problems

    assert problem.rule == "micros" and "{spend: {column: cost_micros, factor: 0.000001}}" in problem.remedy()
    assert checked(tmp_path, text, columns={"spend": {"column": "cost_micros", "factor": 1e-6}}).ok
    assert checked(tmp_path, text, columns={"clicks": "cost_micros"}).ok  # no money


# --- dates ------------------------------------------------------------------------------------------------


def dates(folder, cells, **options):
    return checked(
        folder, "date,channel,campaign,spend\n" + "".join(f"{c},A,{i},1\n" for i, c in enumerate(cells)), **options
    )


def test_a_slash_date_needs_a_format_and_both_that_fit_are_named(tmp_path):
    (problem,) = dates(tmp_path, ["03/04/2026", "05/06/2026"]).problems

    assert '"%d/%m/%Y" or "%m/%d/%Y"' in problem.remedy() and '2 × "03/04/2026"' in problem.what()


def test_a_text_that_two_formats_read_differently_is_counted(tmp_path):
    (problem,) = dates(
        tmp_path, ["03/03/2026", "03/04/2026", "25/04/2026"], date_format=["%d/%m/%Y", "%m/%d/%Y"]
    ).problems

    assert problem.n_rows == 1


@pytest.mark.parametrize("cell", ["epoch", "infinity", "-infinity", "today", "17/2/26"])
def test_a_word_is_no_date(tmp_path, cell):
    assert broken(dates(tmp_path, [cell]))["date", "not a date"] == 1
    assert broken(dates(tmp_path, [cell], date_format="%d/%m/%Y"))["date", "not a date"] == 1


def test_a_missing_day_is_a_note_beside_the_problems(tmp_path):
    check = checked(tmp_path, "date,channel,clicks\n2026-01-01,A,-1\n2026-01-03,A,1\n")

    assert broken(check) == {("clicks", "negative"): 1}
    assert [note.en for note in check.notes] == ["A: 1 of 3 days missing between 2026-01-01 and 2026-01-03"]


# --- names ------------------------------------------------------------------------------------------------


def test_names_that_differ_by_case_or_accents_stay_apart(tmp_path):
    names = ["Email", "email", "Tim kiem", TIM_KIEM, NFD]
    text = "date,channel,spend\n" + "".join(f"2026-01-{i:02},{name},1\n" for i, name in enumerate(names, 1))

    read = connect(put(tmp_path, text)).table("channel_daily").to_pyarrow()["channel"].to_pylist()

    assert Counter(read) == {"Email": 1, "email": 1, "Tim kiem": 1, TIM_KIEM: 2}


def test_variants_of_one_name_on_one_day_are_a_repeated_key(tmp_path):
    text = f"date,channel,spend\n2026-01-01,{TIM_KIEM},1\n2026-01-01,{NFD},1\n2026-01-01,{NBSP},1\n"

    assert broken(checked(tmp_path, text)) == {("date", "duplicate"): 2}


def test_a_channel_that_looks_like_nothing_is_noted(tmp_path):
    check = checked(tmp_path, "date,channel,spend\n2026-01-01,#N/A,1\n")

    assert check.ok and 'null_values: ["#N/A"]' in check.notes[0].en


def test_text_in_a_database_is_told_where_to_cast(postgres_engine):
    rows = pa.table({"date": ["2026-01-01"], "channel": ["A"], "spend": ["5"]})

    problems = postgres_engine.source(rows).check().problems

    assert {p.column: p.n_rows for p in problems} == {"date": 1, "spend": 1}
    assert all("cast it to a" in p.remedy() and "null_values" not in p.remedy() for p in problems)


# --- real files -------------------------------------------------------------------------------------------


def test_meridian_sums_are_those_of_its_cells(real_data):
    folder = real_data("meridian-national")
    with (folder / "national_all_channels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = connect(folder, MAPPINGS / "meridian_national.yaml")

    table = source.table("channel_daily").to_pyarrow().to_pylist()

    def total(channel, measure):
        return sum(r[measure] for r in table if r["channel"] == channel and r[measure] is not None)

    def stated(name):
        return sum(Decimal(r[name]).quantize(Decimal("1e-6"), ROUND_HALF_UP) for r in rows)

    for i in range(5):
        assert total(f"Channel {i}", "impressions") == stated(f"Channel{i}_impression")
        assert total(f"Channel {i}", "spend") == stated(f"Channel{i}_spend")
    assert total("Organic channel 0", "impressions") == stated("Organic_channel0_impression")
    assert total("All conversions", "conversions") == stated("conversions")
    assert source.check().n_rows == (156,)  # as its README says; not once a channel
    assert source.first_day() == date(2021, 1, 25)


def test_hourly_rates_repeat_the_key_of_their_day(real_data):
    folder = real_data("nab-ad-exchange")
    with (folder / "exchange-2_cpc_results.csv").open(newline="") as file:
        days = Counter(row["timestamp"][:10] for row in csv.DictReader(file))

    (problem,) = connect(folder, MAPPINGS / "nab_ad_exchange.yaml").check().problems

    assert (problem.rule, problem.n_total) == ("duplicate", 1624)  # rows of its README
    assert problem.n_rows == sum(days.values()) - len(days)


# --- random files -----------------------------------------------------------------------------------------

NASTY = [
    "Select", "Err:509", "#N/A", "-", "nan", "inf", "1e999", "0x10", "1_000", "½", "٣", "₫", "5₫", "$5", "1.234", "1,5",
    "1.2.3", "12%", "(5)", "--1", "+-1", "1e5", "1E-7", "1e-400", "−5", "2026-01-05", '5"', "'5", "=1+1", "TRUE", "e5",
    ".5", "5.", "00012", "", " ", "\u00a0", "1 234,5", "\u200b7", "\ufeff5", "9" * 19, "0." + "9" * 25, "a" * 300, "💩",
]  # fmt: skip
SANE = st.integers(-(10**9), 10**9).map(str) | st.decimals(-(10**9), 10**9, places=4).map(str)
GROUPS = st.lists(st.text("0123456789", min_size=1, max_size=4), min_size=2, max_size=3)
PARTED = st.builds(str.join, st.sampled_from(",."), GROUPS)
CELLS = st.sampled_from(NASTY) | SANE | PARTED | st.text("0123456789.,eE+- ₫$'\u00a0", max_size=12)
SPELT = st.sampled_from(
    ["2026-01-05", "2026-01-06", "2026-1-7", "05/01/2026", "13/01/2026", "46028", "", "epoch", "2026-02-30"]
)
NAMES = st.sampled_from([TIM_KIEM, NFD, NBSP, "Email", " email", "", "Zalo;OA", 'a "b"', "a\nb", "\u200bX"])
MEASURES = ("spend", "clicks", "leads", "orders", "revenue", "sent")
MARKS = [{"decimal": ","}, {"decimal": ",", "thousands": "."}, {"thousands": ","}]
OTHERS = [{}, {"currency": "VND"}, {"null_values": ["-", "nan"]}, {"date_format": ["%d/%m/%Y", "%Y-%m-%d"]}]
OPTIONS = st.sampled_from([*MARKS, *OTHERS])


def exact(cell, options, *, money):
    """Value of a cell, by a way of its own: signs, symbols and marks are taken off by hand; None if it is none."""
    for odd in "\u00a0\u202f":
        cell = cell.replace(odd, " ")
    cell = cell.replace("\u200b", "").replace("\ufeff", "").strip()
    if money and (code := options.get("currency")):
        coins = {"VND": ["VND", "₫", "vnđ", "đồng", "đ"]}[code]
        for coin in coins:
            before, found, after = cell.partition(coin)
            if found and (before in ("", "+", "-") or not after):
                cell = before.strip() + after.strip() if after or before not in ("+", "-") else "?"
                break
    sign, body = (cell[0], cell[1:]) if cell[:1] in ("+", "-") else ("", cell)
    number, _e, power = body.replace("E", "e").partition("e")
    whole, point, rest = number.partition(options.get("decimal", "."))
    first, *groups = whole.split(options["thousands"]) if options.get("thousands") else [whole]
    parts = [first, *groups, *([rest] if point else []), *([power.lstrip("+-") or "?"] if _e else [])]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(power) - len(power.lstrip("+-")) > 1:
        return None
    if groups and (len(first) > 3 or any(len(group) != 3 for group in groups)):
        return None
    try:
        value = Decimal(f"{sign}{first}{''.join(groups)}.{rest or 0}e{power or 0}")
        rounded = value.quantize(Decimal("1e-6"), ROUND_HALF_UP)
    except InvalidOperation:
        return None
    return rounded if abs(rounded) < 10**18 else None


@pytest.fixture(scope="module")
def engine_of_files():
    return ibis.duckdb.connect()


@given(cells=st.lists(CELLS, min_size=300, max_size=400), options=OPTIONS)
@settings(QUICK, max_examples=25)
def test_thousands_of_cells_are_read_exactly_or_not_at_all(engine_of_files, cells, options):
    table = engine_of_files.create_table("cells", pa.table({"i": range(len(cells)), "cell": cells}), overwrite=True)
    read = texts.text_as_number(texts.cleaned(table.cell), options)

    values = table.select("i", value=read).order_by("i").to_pyarrow()["value"].to_pylist()

    for cell, value in zip(cells, values, strict=True):
        if value is not None:  # what is read is right; what is right but spelt oddly may be refused
            assert value == exact(cell, options, money=True), (cell, options)


@given(content=st.binary(max_size=60) | st.text('a,;\t|"\r\n1é\u0300\u00a0', max_size=60).map(str.encode))
@settings(QUICK, max_examples=2000)
def test_any_bytes_are_cells_or_one_message(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)

    try:
        sheet = texts.read_csv(path, "utf-8", "utf-8-sig")
    except ContractError as refused:
        assert str(path) in str(refused) and len(str(refused).splitlines()) <= 3
    else:
        names = sheet.cells.column_names
        assert len({name.casefold() for name in names}) == len(names) and all(names)
        lines = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
        assert len(sheet.cells) + len(sheet.ragged) <= max(len(lines) - 1, 0) or '"' in content.decode()


@st.composite
def files(draw):
    """A CSV file of random cells, its rows as they were meant, and a mapping's options."""
    measures = draw(st.lists(st.sampled_from(MEASURES), min_size=1, max_size=5, unique=True))
    sane = draw(st.booleans())  # half of the files could be accepted
    days = st.dates(date(2026, 1, 1), date(2026, 12, 31)).map(str) if sane else SPELT
    counts = st.integers(0, 9999).map(str) | st.decimals(0, 9999, places=2).map(str)
    one = st.tuples(days, NAMES.filter(str.strip) if sane else NAMES, *[counts if sane else CELLS] * len(measures))
    rows = draw(st.lists(one, min_size=1, max_size=8, unique_by=lambda row: row[0] if sane else id(row)))
    heads = ["date", "channel", *measures]
    if not sane:
        heads = [draw(st.sampled_from([head, head + " ", head.upper(), head, head])) for head in heads]
    written = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(written, delimiter=draw(st.sampled_from(",;\t|")), lineterminator=end).writerows([heads, *rows])
    text = written.getvalue()
    if draw(st.integers(0, 9)) == 0:
        text = text[: draw(st.integers(0, len(text)))]  # an export that broke off
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-8-sig", "utf-8", "utf-16"])))
    return content, heads, rows, draw(st.sampled_from(OTHERS) if sane else OPTIONS)


@given(file=files())
@settings(QUICK, max_examples=60)
def test_a_random_file_is_a_checked_table_or_one_report(tmp_path_factory, file):
    content, heads, rows, options = file
    folder = put(tmp_path_factory.mktemp("random"), content)
    source = connect(folder, {"channel_daily": options} if options else None)
    try:
        table = source.table("channel_daily").to_pyarrow().to_pylist()
    except KpiError as refused:
        told = str(refused)
        assert "channel_daily" in told and "Traceback" not in told and "Error:" not in told, told
        assert content.startswith(b"\xff\xfe") or not source.check().ok
        for problem in source.check().problems if not content.startswith(b"\xff\xfe") else ():
            assert problem.what() and len(problem.remedy()) > 20 and problem.remedy("vi")
        return
    rows = rows[: len(table)]  # of an export that broke off within its last cells, those that came
    for i, measure in enumerate(heads[2:], 2):
        cells = [row[i] for row in rows]
        if measure in source.table("channel_daily").columns and content.decode("utf-8-sig").endswith(("\n", "\r\n")):
            money = measure in ("spend", "revenue")
            stated = [exact(cell, options, money=money) for cell in cells]
            assert sum(r[measure] or 0 for r in table) == sum(value or 0 for value in stated), (measure, cells)


def test_spend_below_zero_is_told_until_the_mapping_calls_it_a_credit(tmp_path):
    (tmp_path / "channel_daily.csv").write_text(
        "date,channel,spend,clicks\n2026-01-01,Ads,-20000,1\n2026-01-02,Ads,5,1\n"
    )
    credited = {"channel_daily": {"columns": {"spend": {"column": "spend", "signed": True}}}}

    told, allowed = connect(tmp_path).check(), connect(tmp_path, credited)

    assert [(p.column, p.rule, p.n_rows, p.examples) for p in told.problems] == [("spend", "credit", 1, ("-20000",))]
    assert "signed: true" in told.problems[0].remedy() and "signed: true" in told.problems[0].remedy("vi")
    assert allowed.check().ok and allowed.table("channel_daily").spend.sum().to_pyarrow().as_py() == -19995


@pytest.mark.parametrize("day", ["9999-12-31", "2203-01-01", "1066-10-14"])
def test_a_year_that_cannot_be_meant_is_no_date(tmp_path, day):
    check = checked(tmp_path, f"date,channel,clicks\n{day},A,1\n2026-01-02,A,1\n")

    assert broken(check) == {("date", "not a date"): 1}


def test_words_for_nothing_as_a_channel_are_noted_beside_other_problems(tmp_path):
    check = checked(tmp_path, "date,channel,clicks\n2026-01-01,Select,-1\n2026-01-02,A,1\n")

    assert broken(check) == {("clicks", "negative"): 1}
    assert any('"Select"' in note.en for note in check.notes)
