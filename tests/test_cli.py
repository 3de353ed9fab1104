"""The `kpi` command: what it prints, how it ends, and that a wrong call is one clear message."""

import json
import re
import resource
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kpi_helpers import cli, editions, reports, simulate

ROOT = Path(reports.__file__).parents[1]
COMMANDS = ("list", "check", "demo", "run")
HEAVY = ("pandas", "numpy", "ibis", "duckdb", "matplotlib", "papermill", "nbformat", "nbclient", "jinja2", "scipy")


def kpi(*arguments):
    """Exit code of a command line; argparse ends by SystemExit."""
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as ended:
        return ended.code


@pytest.fixture
def shop(tmp_path):
    """A folder of data that keeps its contract."""
    folder = tmp_path / "shop"
    folder.mkdir()
    write(folder, "2026-03-01,Email,5", "2026-03-01,Search,7", "2026-03-02,Email,6", "2026-03-02,Search,8")
    return folder


def write(folder, *rows):
    text = "\n".join(["date,channel,orders", *rows]) + "\n"
    (folder / "channel_daily.csv").write_text(text, encoding="utf-8")


# --- list


def test_list_shows_each_notebook_with_its_parameters(capsys):
    assert kpi("list") == 0

    said = capsys.readouterr().out
    for name in editions.names():
        assert name in said
        for parameter in editions.parameters(editions.load(name)).values():
            assert re.search(rf"{parameter.name}=.*{re.escape(parameter.comment)}", said)


def test_list_as_json_is_for_machines(capsys):
    assert kpi("list", "--json") == 0

    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == editions.names()
    assert set(listed[0]["title"]) == {"en", "vi"}
    months = next(p for p in listed[0]["parameters"] if p["name"] == "months")
    assert months == {"name": "months", "type": "int", "default": 3, "help": "whole months to plan, in [1, 12]"}


def test_list_speaks_vietnamese_where_asked(capsys, monkeypatch):
    monkeypatch.setenv("KPI_LANGUAGE", "vi")

    assert kpi("list") == 0

    assert editions.load("01_kpi_setup")["metadata"]["kpi"]["title"]["vi"] in capsys.readouterr().out


# --- check


def test_check_of_good_data_ends_with_0(capsys, shop):
    assert kpi("check", shop) == 0

    assert "channel_daily (4 rows)" in capsys.readouterr().out


def test_check_tells_every_problem_at_once_and_ends_with_4(capsys, shop):
    write(
        shop,
        "2026-03-01,Email,5",
        "yesterday,Email,7",
        "2026-03-02,,6",
        "2026-03-02,Search,many",
        "2026-03-03,Email,-1",
    )

    assert kpi("check", shop) == 4

    said = capsys.readouterr()
    for found in ("channel_daily.date", "yesterday", "channel_daily.channel", "channel_daily.orders", "many", "-1"):
        assert found in said.out
    assert "Traceback" not in said.out + said.err


def test_data_that_do_not_read_end_a_run_with_4_and_stand_on_the_index(capsys, tmp_path, shop):
    (shop / "channel_daily.csv").write_bytes(b"date,channel,clicks\n2026-03-01,T\xecm ki\xeam,5\n")  # not UTF-8

    assert kpi("run", "01_kpi_setup", "--source", shop, "--out", tmp_path / "out") == 4

    assert "UTF-8" in capsys.readouterr().out
    assert "UTF-8" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_grain_finer_than_the_data_stops_before_a_kernel_and_records_nothing(capsys, tmp_path, shop):
    write(shop, "2026-03-02,Email,5", "2026-03-09,Email,7")
    mapping = tmp_path / "weekly.yaml"
    mapping.write_text("channel_daily: {period: week}\n", encoding="utf-8")
    asked = ["run", "01_kpi_setup", "--source", shop, "--mapping", mapping, "-p", "grain=day"]

    assert kpi(*asked, "--out", tmp_path / "out") == 2

    assert "cover a week each" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_failed").exists()


def test_check_reads_the_mapping(capsys, shop):
    (shop / "channel_daily.csv").rename(shop / "export.csv")
    mapping = shop / "mapping.yaml"
    mapping.write_text("channel_daily:\n  file: export.csv\n", encoding="utf-8")

    assert kpi("check", shop) == 4
    assert "export.csv" in capsys.readouterr().err  # it says what there is
    assert kpi("check", shop, "--mapping", mapping) == 0


# --- demo


def test_demo_writes_the_same_bytes_every_time(tmp_path, capsys):
    places = [tmp_path / name for name in ("one", "deeper/two", "one")]
    assert [kpi("demo", place, "--customers", "2000") for place in places] == [0, 0, 0]

    written = [{file.name: file.read_bytes() for file in place.iterdir()} for place in places]
    assert written[0] == written[1]
    assert len(written[0]) == 19  # eighteen tables and their truth
    assert str(tmp_path / "one") in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"one", "deeper"}  # no rest of the staging


def test_demo_mends_a_folder_that_another_version_wrote(tmp_path):
    folder = simulate.write(tmp_path / "demo", 2000)
    good = (folder / "channel_daily.csv").read_bytes()
    (folder / "channel_daily.csv").write_text("old", encoding="utf-8")
    (folder / "truth.json").write_text('{"made_by": "another version"}', encoding="utf-8")

    assert kpi("demo", folder, "--customers", "2000") == 0

    assert (folder / "channel_daily.csv").read_bytes() == good


def test_demo_tells_how_large_it_is_and_how_small_it_can_be(tmp_path, capsys):
    assert kpi("demo", "--help") == 0
    assert f"default: {simulate.CUSTOMERS}" in " ".join(capsys.readouterr().out.split())

    assert kpi("demo", tmp_path / "demo", "--customers", "10") == 2
    assert "customers=10" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- wrong calls


@pytest.fixture
def odd(tmp_path):
    """Files that are not what a command needs."""
    (tmp_path / "file.csv").write_text("date,channel,orders\n", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("- not a table\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("channel_daily: {file: [\n", encoding="utf-8")
    (tmp_path / "typo.yaml").write_text("channel_daily:\n  fiel: a.csv\n", encoding="utf-8")
    return tmp_path


WRONG = {
    "no command": ([], "COMMAND"),
    "unknown command": (["chekc"], "chekc"),
    "check without a source": (["check"], "source"),
    "check of what is not there": (["check", "no/such/folder"], "no/such/folder"),
    "check of a file": (["check", "{odd}/file.csv"], "file.csv"),
    "check with a mapping that is not there": (["check", "data/demo", "--mapping", "no.yaml"], "no.yaml"),
    "check of an unset variable": (["check", "env:KPI_NOT_SET"], "KPI_NOT_SET"),
    "demo into a file": (["demo", "{odd}/file.csv"], "file.csv"),
    "demo below a file": (["demo", "{odd}/file.csv/demo"], "file.csv"),
    "run without a name": (["run"], "01_kpi_setup"),
    "unknown notebook": (["run", "01_kpi_setpu"], "Did you mean 01_kpi_setup?"),
    "unknown option": (["run", "01_kpi_setup", "--form", "2026-01-01"], "--form"),
    "misspelt parameter": (["run", "01_kpi_setup", "-p", "monhts=3"], "Did you mean months?"),
    "parameter without a value": (["run", "01_kpi_setup", "-p", "months"], "NAME=VALUE"),
    "wrong type": (["run", "01_kpi_setup", "-p", "months=three"], "months='three'"),
    "out of range": (["run", "01_kpi_setup", "-p", "months=13"], "[1, 12]"),
    "out of an open range": (["run", "01_kpi_setup", "-p", "confidence=1"], "[0.5, 0.99]"),
    "wrong choice": (["run", "01_kpi_setup", "-p", "grain=weak"], "Did you mean week?"),
    "wrong item of a list": (["run", "01_kpi_setup", "-p", "uplifts=0.1,much"], "uplifts='much'"),
    "no date": (["run", "01_kpi_setup", "--as-of", "tomorrow"], "YYYY-MM-DD"),
    "no such day": (["run", "01_kpi_setup", "--as-of", "2026-02-30"], "2026-02-30"),
    "day after the data": (["run", "01_kpi_setup", "--as-of", "2030-01-01"], "2026-11-21"),
    "day before the data": (["run", "01_kpi_setup", "--as-of", "2020-01-01"], "2020-01-01"),
    "source that is not there": (["run", "01_kpi_setup", "--source", "no/such/folder"], "no/such/folder"),
    "source with a password": (["run", "01_kpi_setup", "--source", "postgresql://ann:pw@db/shop"], "env:NAME"),
    "mapping that is not there": (["run", "01_kpi_setup", "--mapping", "no.yaml"], "no.yaml"),
    "mapping that is no table": (["run", "01_kpi_setup", "--mapping", "{odd}/list.yaml"], "list.yaml"),
    "mapping that is no YAML": (["run", "01_kpi_setup", "--mapping", "{odd}/broken.yaml"], "broken.yaml"),
    "mapping with a typo": (["run", "01_kpi_setup", "--mapping", "{odd}/typo.yaml"], "Did you mean file?"),
    "no job": (["run", "01_kpi_setup", "--jobs", "0"], "--jobs 0"),
    "jobs that are no number": (["run", "01_kpi_setup", "--jobs", "two"], "--jobs"),
    "out is a file": (["run", "01_kpi_setup", "--out", "{odd}/file.csv"], "file.csv"),
    "out is below a file": (["run", "01_kpi_setup", "--out", "{odd}/file.csv/reports"], "file.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_call_is_one_message_and_ends_with_2(name, odd, capsys):
    arguments, told = WRONG[name]
    arguments = [a.format(odd=odd) for a in arguments]
    if arguments[:1] == ["run"] and "--out" not in arguments:
        arguments += ["--out", str(odd / "reports")]

    assert kpi(*arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert len(re.findall(r"^kpi\b.*: ", said.err, re.MULTILINE)) == 1
    assert "Traceback" not in said.err and "Errno" not in said.err
    assert list(odd.glob("reports/*")) in ([], [odd / "reports" / ".lock"])


def test_broken_data_end_a_run_with_4_and_tell_every_problem(shop, tmp_path, capsys):
    write(shop, "yesterday,Email,5", "2026-03-02,,6", "2026-03-02,Search,8")

    assert kpi("run", "01_kpi_setup", "--source", shop, "--out", tmp_path / "reports") == 4

    said = capsys.readouterr()
    assert "channel_daily.date" in said.out and "channel_daily.channel" in said.out
    assert "Traceback" not in said.out + said.err
    assert (tmp_path / "reports" / "index.html").exists()


# --- help


def test_help_names_every_command_and_gives_examples_and_exit_codes(capsys):
    assert kpi("--help") == 0

    said = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", said, re.MULTILINE)
    assert len(re.findall(r"^ +kpi (list|check|run)\b", said, re.MULTILINE)) >= 3
    codes = said.partition("exit codes:")[2]
    ends = (reports.PUBLISHED, reports.FAILED, reports.USAGE, reports.CONTRACT, reports.LOCKED)
    assert ends == (0, 1, 2, 4, 75)
    assert [code for code in ends if not re.search(rf"\b{code} +[a-z]", codes)] == []


def test_help_covers_the_commands_that_there_are(capsys):
    [action] = [a for a in cli.parser()._actions if a.dest == "command"]

    assert tuple(action.choices) == COMMANDS


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("list", ["--json"]),
        ("check", ["source", "--mapping"]),
        ("demo", ["folder"]),
        ("run", ["--all", "--source", "--mapping", "-p", "--as-of", "--out", "--jobs"]),
    ],
)
def test_help_of_a_command_explains_each_option(command, options, capsys):
    assert kpi(command, "--help") == 0

    said = capsys.readouterr().out
    for option in options:
        assert re.search(rf"^  {option}\b.*(\s+\S+){{2}}", said, re.MULTILINE)


def test_examples_of_the_help_are_understood():
    lines = [line.split("  ")[1] for line in cli.parser().epilog.splitlines() if line.startswith("  kpi ")]

    assert len(lines) >= 4
    assert {cli.parser().parse_args(line.split()[1:]).command for line in lines} >= {"list", "check", "run"}


HELP = """
import sys
from kpi_helpers import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
print("IMPORTED", *sorted(sys.modules))
"""


def test_help_imports_nothing_heavy():
    told = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)

    imported = told.stdout.partition("IMPORTED")[2].split()
    assert "kpi_helpers.cli" in imported
    assert [name for name in HEAVY if name in imported] == []


def test_help_takes_less_than_a_third_of_a_second_of_cpu():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _again in range(3)) < 0.3


def test_command_is_installed_under_its_name():
    [command] = entry_points(group="console_scripts", name="kpi")

    assert command.load() is cli.main


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_documents_the_command(command):
    assert re.search(rf"\bkpi {command}\b", (ROOT / "README.md").read_text(encoding="utf-8"))
