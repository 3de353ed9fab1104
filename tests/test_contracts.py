from datetime import date
from importlib.resources import files

import ibis.expr.operations as ops
import ibis.expr.types as ir
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from kpi_helpers.contracts import TABLES, Problem
from kpi_helpers.errors import ContractError
from kpi_helpers.result import say
from kpi_helpers.sources import connect

DAY = date(2026, 1, 5)
WORDS = yaml.safe_load(files("kpi_helpers").joinpath("words.yaml").read_text(encoding="utf-8"))
RULES = {key.removeprefix("rule.") for key in WORDS if key.startswith("rule.")}


def table(**columns):
    """Rows of one day in channels A, B, C, ... with a hundred impressions each, and the given columns."""
    n = max((len(values) for values in columns.values()), default=1)
    channels = [chr(ord("A") + i) for i in range(n)]
    return pa.table({"date": [DAY] * n, "channel": channels, "impressions": [100] * n} | columns)


def broken(check):
    """Rules broken, by column, with the number of rows."""
    return {(problem.column, problem.rule): problem.n_rows for problem in check.problems}


@pytest.fixture
def asked(monkeypatch):
    """Queries that were sent to the engine, in order, whichever way."""
    queries = []

    def listen(asks):
        return lambda self, *args, **kwargs: queries.append(self.op()) or asks(self, *args, **kwargs)

    for kind in (ir.Table, ir.Column, ir.Scalar):
        for how in ("to_pyarrow", "to_pyarrow_batches", "execute"):
            monkeypatch.setattr(kind, how, listen(getattr(kind, how)))
    return queries


# --- each rule, broken -------------------------------------------------------------------------------


NAN, INF = float("nan"), float("inf")
#: rule, rows that break it, column that it is told of, rows told, rows in all, examples
BROKEN = [
    ("missing column", table().drop_columns("channel"), "channel", 0, 0, ()),
    ("missing column", table().drop_columns("date"), "date", 0, 0, ()),
    ("no measure", table().drop_columns("impressions"), "*", 0, 0, ()),
    ("no rows", table().slice(1), "date", 0, 0, ()),
    ("not a date", table(date=["05/01/2026", "5.1.2026"]), "date", 2, 2, ("05/01/2026", "5.1.2026")),
    ("not a number", table(spend=[1.5, NAN, None]), "spend", 1, 3, ("nan",)),
    ("not a number", table(spend=[INF, -INF, 0.0]), "spend", 2, 3, ("-inf", "inf")),
    ("not a number", table(spend=[2 * 10**18, 1]), "spend", 1, 2, ("2000000000000000000",)),
    ("not a number", table(clicks=["many", "few", None]), "clicks", 2, 3, ("few", "many")),
    ("empty", table(channel=["A", None, " "], campaign=["x", "y", "z"]), "channel", 2, 3, ()),
    ("empty", table(date=[DAY, None]), "date", 1, 2, ()),
    ("negative", table(clicks=[-1, -20, 3, 0]), "clicks", 2, 4, ("-1", "-20")),
    ("credit", table(spend=[-5, 1]), "spend", 1, 2, ("-5",)),
    ("too large", table(clicks=[101, 100, None]), "clicks", 1, 3, ("101",)),
    ("too large", table(sent=[5, 5, None], unique_opens=[6, 5, 9]), "unique_opens", 1, 3, ("6",)),
    ("duplicate", table(channel=["A", "A", "A", "B"]), "date", 2, 4, ("2026-01-05 | A",)),
]


def test_every_rule_is_broken_below():
    of_files = {"ragged", "ambiguous number", "micros"}  # tests/test_hostile.py
    of_others = {"not a time", "not a flag", "unknown word", "joined twice"}  # tests/test_mappings.py
    of_others |= {"off the scale"}  # tests/test_engagement.py
    assert {rule for rule, *_ in BROKEN} | {"not the first day"} | of_files | of_others == RULES  # a period: below


@pytest.mark.parametrize(("rule", "rows", "column", "n_rows", "n_total", "examples"), BROKEN)
def test_a_broken_rule_is_counted_with_examples(engine, rule, rows, column, n_rows, n_total, examples):
    check = engine.source(rows).check()

    assert not check.ok
    assert broken(check) == {(column, rule): n_rows}
    problem = check.problems[0]
    assert (problem.table, problem.n_total) == ("channel_daily", n_total)
    what = problem.what().lower().replace("infinity", "inf")  # each engine spells infinity its way
    assert all(f'"{example.lower()}"' in what for example in examples)
    assert what.count('"') == 2 * len(examples)


@pytest.mark.parametrize(("rule", "rows", "column", "n_rows", "n_total", "examples"), BROKEN)
def test_a_broken_rule_is_told_in_both_languages(rule, rows, column, n_rows, n_total, examples):
    problem = Problem("channel_daily", column, rule, n_rows, n_total, examples)

    for language, such in (("en", "e.g."), ("vi", "ví dụ")):
        line = problem.line(language)
        assert line.startswith(f"channel_daily.{column}: ") and line.endswith(".")
        assert problem.what(language) in line and problem.remedy(language) in line
        assert "{" not in line.replace("columns: {", "")
        assert not n_rows or f"{n_rows} " in line
        assert all(f'"{example}"' in line for example in examples)
        assert (such in problem.what(language)) == bool(examples)
    assert not say(f"rule.{rule}", "vi", column="", more="", wanted="", n="", total="").isascii()
    assert not problem.remedy("vi").isascii()


LINES = [
    (
        table(clicks=[-1, 3]),
        'channel_daily.clicks: 1 of 2 rows below zero (e.g. "-1"). A count cannot be negative: correct the source.',
        'channel_daily.clicks: 1 trên 2 dòng nhỏ hơn 0 (ví dụ "-1"). Số đếm không thể âm: hãy sửa dữ liệu nguồn.',
    ),
    (
        table(sent=[5], hard_bounces=[6]),
        'channel_daily.hard_bounces: 1 of 1 rows above sent (e.g. "6"). Check which column was mapped to which.',
        'channel_daily.hard_bounces: 1 trên 1 dòng lớn hơn sent (ví dụ "6"). Kiểm tra lại cột nào được ánh xạ vào đâu.',
    ),
    (
        table().drop_columns("channel"),
        "channel_daily.channel: the column is not there; the source has date, impressions. "
        "Name your column in the mapping, such as columns: {channel: your_name}.",
        "channel_daily.channel: thiếu cột này; nguồn chỉ có date, impressions. "
        "Khai báo tên cột của bạn trong tệp ánh xạ, ví dụ columns: {channel: ten_cot}.",
    ),
]


@pytest.mark.parametrize(("rows", "en", "vi"), LINES)
def test_a_line_says_where_what_how_often_and_the_remedy(engine, rows, en, vi):
    check = engine.source(rows).check()

    assert check.lines("en")[1:] == [en]
    assert check.lines("vi")[1:] == [vi]


LIMITS = [
    table(clicks=[0, None], spend=[5.0, 0.01], revenue=[-7.0, None]),  # refunds
    table(sent=[5, None, 0], unique_opens=[5, 9, 0], hard_bounces=[None, 1, 0]),
    table(unique_opens=[5]),
    table(channel=["A", "A", "A", "a"], campaign=["x", "y", None, None]),
    table(channel=["A | B", "A"], campaign=["C", "B | C"]),  # not the same channel and campaign
]


@pytest.mark.parametrize("rows", LIMITS)
def test_what_the_contract_allows_is_no_problem(engine, rows):
    assert engine.source(rows).check().lines() == [
        f"Read channel_daily ({rows.num_rows} rows): every rule of the contract holds."
    ]


@pytest.mark.parametrize(
    ("period", "begins", "n_wrong", "example"),
    [
        ("week", [date(2026, 1, 4), date(2026, 1, 12)], 1, "2026-01-04"),  # a Sunday and a Monday
        ("month", [date(2026, 1, 1), date(2026, 2, 28)], 1, "2026-02-28"),
    ],
)
def test_a_period_is_dated_by_its_first_day(engine, period, begins, n_wrong, example):
    check = engine.source(table(date=begins), mapping={"channel_daily": {"period": period}}).check()

    assert [(p.column, p.rule, p.n_rows, p.examples) for p in check.problems] == [
        ("date", "not the first day", n_wrong, (example,))
    ]


# --- every problem at once ---------------------------------------------------------------------------


def test_every_problem_of_a_table_is_told_at_once(engine):
    rows = pa.table(
        {
            "date": [DAY, DAY, DAY, None],
            "channel": ["A", "A", None, "B"],
            "clicks": [-1, 2, 3, -4],
            "spend": [NAN, 1.0, INF, -2.0],
            "sent": [10, 10, 10, 10],
            "soft_bounces": [11, 0, 0, 0],
        }
    )
    source = engine.source(rows)

    check = source.check()

    assert broken(check) == {
        ("date", "empty"): 1,
        ("channel", "empty"): 1,
        ("clicks", "negative"): 2,
        ("spend", "not a number"): 2,
        ("spend", "credit"): 1,
        ("soft_bounces", "too large"): 1,
        ("date", "duplicate"): 1,
    }
    with pytest.raises(ContractError) as refused:
        source.table("channel_daily")
    assert all(line in str(refused.value) for line in check.lines())


MESSY = """date,channel,campaign,spend,clicks,sent,unique_opens
2026-01-05,A,,12,3,,
2026-01-06,A,,twelve,-3,10,11
05/01/2026,A,,"1,5",-4,10,10
2026-01-06,A,,13,three,,
,,x,1,1,,
"""


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    (tmp_path / "channel_daily.csv").write_text(MESSY)

    found = connect(tmp_path).check().to_frame().set_index(["column", "rule"])

    assert dict(found["n_rows"]) == {
        ("date", "not a date"): 1,
        ("date", "empty"): 1,
        ("channel", "empty"): 1,
        ("spend", "not a number"): 2,
        ("clicks", "not a number"): 1,
        ("clicks", "negative"): 2,
        ("unique_opens", "too large"): 1,
        ("date", "duplicate"): 1,
    }
    assert set(found["table"]) == {"channel_daily"}
    assert found.loc[("spend", "not a number"), "examples"] == "1,5, twelve"
    assert "5 rows" in found.loc[("clicks", "negative"), "what"] and all(found["remedy"])


def test_a_missing_column_does_not_hide_the_problems_of_the_others(engine):
    rows = table(clicks=[-1, 2], spend=[NAN, 1.0]).drop_columns("channel")

    found = broken(engine.source(rows).check())

    assert ("channel", "missing column") in found
    assert found.get(("clicks", "negative")) == 1
    assert found.get(("spend", "not a number")) == 1


def test_every_missing_column_is_told_at_once(engine):
    rows = pa.table({"day": [DAY], "clicks": [1]})
    mapping = {"channel_daily": {"columns": {"spend": "cost", "date": "dya"}}}

    found = broken(engine.source(rows, mapping=mapping).check())

    assert set(found) == {(c, "missing column") for c in ("date", "channel", "spend")}


def test_the_spellings_of_a_date_column_are_counted(tmp_path):
    cells = ["1/5/2026"] * 7 + ["2026-01-05"] * 3 + ["05.01.26", ""]
    lines = [f"{cell},A,{i},1\n" for i, cell in enumerate(cells)]
    (tmp_path / "channel_daily.csv").write_text("date,channel,campaign,spend\n" + "".join(lines))

    line = connect(tmp_path).check().lines()[1]

    assert '8 of 12 rows cannot be read as a date in the format %Y-%m-%d [7 × "1/5/2026", 3 × "2026-01-05", ' in line
    assert '1 × "05.01.26"]' in line  # an empty cell is no spelling


def test_large_counts_are_written_as_the_language_writes_them(tmp_path):
    lines = [f"2026-01-05,A,{i},-1\n" for i in range(1234)]
    (tmp_path / "channel_daily.csv").write_text("date,channel,campaign,clicks\n" + "".join(lines))

    check = connect(tmp_path).check()

    assert "1,234 of 1,234 rows below zero" in check.lines("en")[1]
    assert "1.234 trên 1.234 dòng nhỏ hơn 0" in check.lines("vi")[1]


def test_examples_that_hold_markup_are_escaped_in_html(tmp_path):
    (tmp_path / "channel_daily.csv").write_text("date,channel,clicks\n2026-01-05,A,<b>many</b>\n")

    shown = connect(tmp_path).check().html()

    assert "&lt;b&gt;many&lt;/b&gt;" in shown and "<b>many" not in shown


# --- one aggregate scan ------------------------------------------------------------------------------


def test_all_rules_are_counted_in_one_aggregate_query_beside_the_calendar(engine, asked):
    rows = table(clicks=[-1, 2], spend=[NAN, 1.0], sent=[1, 1], unique_opens=[2, 2], channel=["A", None])
    source = engine.source(rows)

    check = source.check()

    assert len(check.problems) == 4
    assert len(asked) == 2
    assert isinstance(asked[0], ops.Aggregate) and not asked[0].groups


def test_sound_data_cost_one_query_for_the_rules_and_one_for_the_calendar(engine, asked):
    source = engine.source(table(clicks=[1, 2], spend=[0.5, 1.0]))

    source.check()
    source.table("channel_daily")
    source.check("channel_daily")

    assert len(asked) == 2  # and nothing is asked twice
    assert sum(isinstance(op, ops.Aggregate) and not op.groups for op in asked) == 1


def test_only_texts_that_do_not_read_and_keys_cost_a_query_each(tmp_path, asked):
    (tmp_path / "channel_daily.csv").write_text(MESSY)

    connect(tmp_path).check()

    assert len(asked) == 6  # the rules; date, spend, clicks; keys; the calendar


def test_every_table_is_checked_in_one_scan_of_its_own(tmp_path, asked):
    (tmp_path / "channel_daily.csv").write_text("date,channel,spend\n2026-01-05,A,1\n")
    (tmp_path / "orders.csv").write_text("order_id,customer_id,ordered_at,day\n1,a,2026-01-05,x\n2,a,2026-01-06,y\n")
    (tmp_path / "l.csv").write_text("lead_id,created_at,day\n1,2026-01-05,x\n")
    (tmp_path / "d.csv").write_text("day,won\nx,2026-01-09\n")
    join = [{"file": "d.csv", "on": "day"}]
    source = connect(tmp_path, {"leads": {"file": "l.csv", "join": join, "columns": {"won_at": "won"}}})

    check = source.check()

    assert check.ok and check.tables == ("channel_daily", "orders", "leads")
    assert len(asked) == 4  # one each, and the calendar of channel_daily
    assert sum(isinstance(op, ops.Aggregate) and not op.groups for op in asked) == 3
    del asked[:]
    assert (source.first_day(), source.as_of()) == (DAY, DAY) and len(asked) == 1  # the ends of each channel


# --- notes and sentences -----------------------------------------------------------------------------


def days(*begins, channel="A"):
    return pd.DataFrame({"date": [date.fromisoformat(d) for d in begins], "channel": channel, "spend": 1})


def test_missing_days_are_a_note_not_a_problem(engine):
    rows = pd.concat([days("2026-01-05", "2026-01-09"), days("2026-01-05", "2026-01-06", channel="B")])

    check = engine.source(rows).check()

    assert check.ok
    assert check.lines("en")[1:] == ["note: A: 3 of 5 days missing between 2026-01-05 and 2026-01-09"]
    assert check.lines("vi")[1:] == ["lưu ý: A: thiếu 3 trên 5 ngày từ 2026-01-05 đến 2026-01-09"]


@pytest.mark.parametrize(
    ("period", "begins"),
    [("week", ("2026-01-05", "2026-01-12", "2026-01-26")), ("month", ("2025-11-01", "2025-12-01", "2026-02-01"))],
)
def test_missing_periods_are_counted_in_periods(engine, period, begins):
    source = engine.source(days(*begins), mapping={"channel_daily": {"period": period}})

    assert [note.en for note in source.check().notes] == [
        f"A: 1 of 4 {period}s missing between {begins[0]} and {begins[-1]}"
    ]


def test_a_check_says_what_was_read_and_what_was_found(engine):
    sound, wrong = engine.source(table(clicks=[1, 2])).check(), engine.source(table(clicks=[-1, 2])).check()

    assert sound.sentence("en") == "Read channel_daily (2 rows): every rule of the contract holds."
    assert sound.sentence("vi") == "Đã đọc channel_daily (2 dòng): dữ liệu đúng quy ước."
    assert "rules of the contract that are broken: 1." in wrong.sentence("en") and "1 quy tắc" in wrong.sentence("vi")


def test_every_column_of_a_contract_is_of_a_known_kind():
    for contract in TABLES.values():
        named = {column.name for column in contract.columns}
        for column in contract.columns:
            assert column.kind in ("date", "time", "text", "number", "flag")
            assert {column.at_most, column.after, column.below} <= {None, *named}
        assert set(contract.key) <= named


@pytest.mark.parametrize("key", sorted(key for key in WORDS if key.split(".")[0] in ("rule", "remedy", "check")))
def test_every_message_of_the_check_fills_the_same_fields_in_both_languages(key):
    english, vietnamese = ({part.split("}")[0] for part in WORDS[key][lang].split("{")[1:]} for lang in ("en", "vi"))

    assert english == vietnamese


def test_every_rule_has_its_remedy():
    assert {key.removeprefix("remedy.") for key in WORDS if key.startswith("remedy.")} == RULES
