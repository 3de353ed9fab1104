"""Running and publishing: same bytes twice, the last good report survives, every failure is told."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import unescape
from http.server import HTTPServer
from pathlib import Path

import nbformat
import pytest
from test_notices import Hook, hook_url, serving

from kpi_helpers import company, editions, reports, simulate
from kpi_helpers.cli import main
from kpi_helpers.errors import KpiError
from kpi_helpers.result import JSON_MIME

PUBLISHED = ("report.html", "report.vi.html", "notebook.ipynb", "results.json")
TITLES = {
    "02_fine": {"en": "Fine & <dry>", "vi": "Ổn & <khô>"},
    "03_fragile": {"en": "Fragile", "vi": "Mong manh"},
    "04_refused": {"en": "Refused", "vi": "Bị từ chối"},
    "05_dies": {"en": "Dies", "vi": "Ngừng đột ngột"},
}
PARAMETERS = """\
source: str = "data"  # folder
mapping: str | None = None  # YAML file
as_of: str | None = None  # last day to read
city: str | None = None  # whose shop
"""
#: leaves a mark, so that a test can see that a kernel was started
BEGUN = 'from pathlib import Path\n\nPath("begun").touch()'
CELLS = {
    "02_fine": ['print(f"city is {city!r}, data to {as_of}")'],
    "03_fragile": [
        'print("before the crash")',
        'if Path("broken").exists():\n    raise ValueError("the tap drips < 3 times")',
    ],
    "04_refused": ['from kpi_helpers.errors import ContractError\n\nraise ContractError("orders lacks 7 rows")'],
    "05_dies": ["import os\n\nos._exit(9)"],
}  # fmt: skip
LAST = date(2026, 3, 9)


def cell(kind, ident, source, *tags):
    made = {"cell_type": kind, "id": ident, "metadata": {"tags": list(tags)}, "source": source}
    return made if kind == "markdown" else {**made, "outputs": [], "execution_count": None}


def write_house(folder, *names):
    """A working folder with small notebooks and a small table; returns it."""
    (folder / "notebooks").mkdir()
    for name in names:
        cells = [
            cell("markdown", "lesson", "# Only for the class", "teach"),
            cell("code", "parameters", PARAMETERS, "parameters"),
            cell("code", "begin", BEGUN, "hide-input"),
            *(cell("code", f"step-{i}", source) for i, source in enumerate(CELLS[name])),
        ]
        about = {"title": TITLES[name], "tables": ["channel_daily"]}
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        made = {"cells": cells, "metadata": {"kpi": about, "kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(made), encoding="utf-8")
    write_data(folder)
    return folder


def write_data(folder, *, bad_day=None):
    """Ten days of two channels; the last day of one is not in yet, so that day 9 is the last complete one."""
    days = [LAST - timedelta(days=8 - i) for i in range(10)]
    rows = [f"{day},{channel},{5 + i}" for i, day in enumerate(days) for channel in ("Email", "Search")]
    if bad_day:
        rows[3] = f"{bad_day},Search,7"
    (folder / "data").mkdir(exist_ok=True)
    text = "\n".join(["date,channel,orders", *rows[:-1]]) + "\n"
    (folder / "data" / "channel_daily.csv").write_text(text, encoding="utf-8")


@dataclass
class Step:
    """One call of `reports.run`: its exit code, what it said, what then stood in the folder of reports."""

    code: int
    said: list[str]
    files: dict[str, bytes]
    begun: bool

    def text(self, path):
        return self.files[path].decode()

    def report(self, folder):
        """The published files of one report."""
        return {name: self.files.get(f"{folder}/{name}") for name in PUBLISHED}

    def failures(self):
        return [json.loads(data) for path, data in sorted(self.files.items()) if path.endswith("/failure.json")]


def step(folder, names, given=None, *, jobs=1):
    (folder / "begun").unlink(missing_ok=True)
    said: list[str] = []
    with contextlib.chdir(folder):
        code = reports.run(names, given or {}, out="reports", jobs=jobs, say=said.append)
    out = folder / "reports"
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    return Step(code, said, files, (folder / "begun").exists())


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A few weeks in the life of a scheduler, told once; the tests read from it."""
    folder = write_house(tmp_path_factory.mktemp("story"), "02_fine", "03_fragile")
    both, broken = ["02_fine", "03_fragile"], folder / "broken"
    steps = {}
    broken.touch()
    steps["first failed"] = step(folder, ["03_fragile"], {"as_of": "2026-03-05"})
    broken.unlink()
    steps["good"] = step(folder, both)
    broken.touch()
    steps["broken"] = step(folder, both)
    broken.unlink()
    write_data(folder, bad_day="yesterday")
    steps["bad data"] = step(folder, ["notebooks/02_fine.ipynb", "03_fragile"])
    write_data(folder)
    steps["city"] = step(folder, ["02_fine"], {"city": "Hà Nội", "as_of": "2026-03-05"})
    steps["mended"] = step(folder, both, jobs=2)
    return steps


FINE, FRAGILE = "02_fine/2026-03-09", "03_fragile/2026-03-09"


# --- notebook 01 on the simulated company, twice


def start(folder, out, *options, **environment):
    """Start `kpi run 01_kpi_setup` as a shell would, in a folder and an environment of its own."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("kpi"), "run", "01_kpi_setup", "--out", str(out), *options],
        cwd=folder, text=True, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two runs in two folders, time zones, languages and hash seeds."""
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    here = {"TZ": "UTC", "PYTHONHASHSEED": "1", "KPI_LANGUAGE": "en", "OMP_NUM_THREADS": "2"}
    there = {"TZ": "Asia/Ho_Chi_Minh", "PYTHONHASHSEED": "2", "KPI_LANGUAGE": "vi", "OMP_NUM_THREADS": "1"}
    runs = [start(one, one / "reports", **here), start(other, other / "made" / "here", "--jobs", "2", **there)]
    told = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    return one / "reports", other / "made" / "here", told


@pytest.fixture(scope="module")
def published(twins):
    """Folder of the report of the simulated company, named by the last day of its data."""
    folder = twins[0] / "01_kpi_setup" / "2026-11-21"
    assert folder.is_dir()
    return folder


@pytest.fixture(scope="module")
def results(published):
    return json.loads((published / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_two_runs_give_the_same_bytes(twins, name):
    one, other = (out / "01_kpi_setup" / "2026-11-21" / name for out in twins[:2])

    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["index.html", "index.vi.html"])
def test_two_runs_give_the_same_index(twins, name):
    assert (twins[0] / name).read_bytes() == (twins[1] / name).read_bytes()


def test_run_tells_its_progress_and_where_to_look(twins):
    out, _other, told = twins
    said, complaints = told[0]

    assert complaints == ""
    assert len(said.splitlines()) >= 3
    assert "01_kpi_setup" in said.splitlines()[0] and "2026-11-21" in said.splitlines()[0]
    assert str(out / "index.html") in said.splitlines()[-1]


def test_only_whole_reports_are_left_behind(twins):
    for out in twins[:2]:
        assert {p.name for p in out.iterdir()} - {".lock"} == {"01_kpi_setup", "index.html", "index.vi.html"}
        assert {p.name for p in (out / "01_kpi_setup").iterdir()} == {"2026-11-21"}
        assert {p.name for p in (out / "01_kpi_setup" / "2026-11-21").iterdir()} == {*PUBLISHED, "run.json"}


@pytest.mark.parametrize("name", ["report.html", "report.vi.html"])
def test_report_is_smaller_than_400_kb(published, name):
    assert 10_000 < (published / name).stat().st_size < 400_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_published_tells_where_it_was_run(twins, published, name):
    text = (published / name).read_text(encoding="utf-8")
    home = Path(reports.__file__).parents[1]

    assert [place for place in (str(twins[0]), str(home), str(Path.home()) + "/", "/tmp/") if place in text] == []


def test_results_have_the_promised_shape(results):
    assert list(results) == ["notebook", "parameters", "results", "alerts"]
    assert results["notebook"] == "01_kpi_setup"
    assert results["alerts"] == []
    assert results["results"]
    for each in results["results"]:
        assert set(each) == {"name", "sentence", "rows"}
        assert re.fullmatch("[a-z][a-z_]*", each["name"])
        assert set(each["sentence"]) == {"en", "vi"}
        assert all(
            text and not re.search("<[a-z/]|&[a-z]+;|\N{NO-BREAK SPACE}", text) for text in each["sentence"].values()
        )
        assert isinstance(each["rows"], list) and all(isinstance(row, dict) for row in each["rows"])
    assert {"answer", "outlook", "target_table"} <= {each["name"] for each in results["results"]}


def test_results_hold_all_parameters_and_the_day_of_the_data(results):
    known = editions.parameters(editions.load("01_kpi_setup"))

    assert results["parameters"] == {**{p.name: p.default for p in known.values()}, "as_of": "2026-11-21"}


def significant(literal):
    return len(literal.lower().split("e")[0].lstrip("-").replace(".", "").strip("0"))


def test_numbers_have_at_most_12_significant_digits(published):
    floats: list[str] = []

    json.loads((published / "results.json").read_text(encoding="utf-8"), parse_float=floats.append)

    assert len(floats) > 100
    assert [literal for literal in floats if significant(literal) > 12] == []
    assert max(significant(literal) for literal in floats) >= 11  # they are not rounded further


def test_what_is_recorded_is_what_was_shown(published, results):
    notebook = json.loads((published / "notebook.ipynb").read_text(encoding="utf-8"))
    shown = [o["data"] for c in notebook["cells"] for o in c.get("outputs", ()) if JSON_MIME in o.get("data", {})]

    assert [data[JSON_MIME] for data in shown] == results["results"]
    page = unescape((published / "report.html").read_text(encoding="utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    headline = next(r for r in results["results"] if r["name"] == "answer")["sentence"]["en"]
    assert headline in re.sub("<[^>]+>", "", page)


def test_published_notebook_is_valid_and_without_lessons(published):
    notebook = nbformat.read(published / "notebook.ipynb", as_version=4)
    lessons = [c for c in editions.load("01_kpi_setup")["cells"] if "teach" in editions.tags(c)]

    nbformat.validate(notebook)
    assert lessons
    assert {c["id"] for c in lessons}.isdisjoint(c["id"] for c in notebook.cells)
    assert [o for c in notebook.cells for o in c.get("outputs", ()) if o["output_type"] in ("error", "stream")] == []


def test_run_record_holds_times_and_provenance(published):
    record = json.loads((published / "run.json").read_text(encoding="utf-8"))

    assert datetime.fromisoformat(record["finished_at"]).tzinfo is not None
    assert 0 < record["seconds"] < 300
    assert record["as_of"] == "2026-11-21" and record["key"] == ""
    rows = company.channel_daily(simulate.channel_daily()).to_csv(index=False, lineterminator="\n").encode()
    fingerprint = record["inputs"]["channel_daily.csv"]
    assert len(fingerprint) >= 12 and hashlib.sha256(rows).hexdigest().startswith(fingerprint)
    assert hashlib.sha256((published / "results.json").read_bytes()).hexdigest().startswith(record["results"])
    lock = Path(reports.__file__).parents[1] / "requirements.lock"
    assert hashlib.sha256(lock.read_bytes()).hexdigest().startswith(record["lock"]) and record["lock"]
    assert record["python"] == sys.version.split()[0]
    assert {"ibis-framework", "duckdb", "pandas", "numpy"} <= set(record["packages"])


def test_runs_differ_only_in_their_times(twins):
    one, other = (
        json.loads((out / "01_kpi_setup" / "2026-11-21" / "run.json").read_text(encoding="utf-8")) for out in twins[:2]
    )

    assert {name for name in one if one[name] != other.get(name)} <= {"finished_at", "seconds"}
    assert list(one) == list(other)


def test_times_stand_in_the_run_record_only(published):
    record = json.loads((published / "run.json").read_text(encoding="utf-8"))
    clock = datetime.fromisoformat(record["finished_at"]).strftime("%H:%M:")

    texts = [(published / name).read_text(encoding="utf-8") for name in PUBLISHED]
    assert [text for text in texts if clock in text or "finished_at" in text or "start_time" in text] == []


def test_foot_of_the_report_tells_where_the_numbers_come_from(published):
    foot = (published / "report.html").read_text(encoding="utf-8").partition("<footer")[2]
    digest = hashlib.sha256((published / "results.json").read_bytes()).hexdigest()[:12]

    for told in ("data/demo", "21 Nov 2026", "01_kpi_setup", "8,508 rows", digest, "confidence 0.9"):
        assert told in foot


# --- parameters and folders


def test_as_of_is_the_last_complete_day_unless_given(story):
    assert f"{FINE}/report.html" in story["good"].files  # the table goes on to the 10th for one of two channels
    assert "data to 2026-03-09" in story["good"].text(f"{FINE}/notebook.ipynb")


def test_as_of_names_the_folder_and_the_key_tells_other_parameters(story):
    before, after = story["bad data"].files, story["city"].files

    [made] = {path.rpartition("/")[0] for path in set(after) - set(before) if path.endswith("run.json")}
    assert re.fullmatch("02_fine/2026-03-05-[0-9a-f]{8}", made)
    record = json.loads(after[f"{made}/run.json"])
    assert made.endswith(record["key"]) and record["folder"] == made
    assert record["parameters"]["city"] == "Hà Nội"
    assert story["city"].report(FINE) == story["good"].report(FINE)  # the other report is left alone


def test_optional_parameter_arrives_as_none_or_as_its_value(story):
    assert "city is None, data to 2026-03-09" in story["good"].text(f"{FINE}/report.html").replace("&#x27;", "'")
    [page] = [
        data.decode()
        for path, data in story["city"].files.items()
        if re.match(r"02_fine/2026-03-05-\w+/report.html", path)
    ]
    assert "city is 'Hà Nội', data to 2026-03-05" in page.replace("&#x27;", "'")


@pytest.mark.parametrize(
    "given", [{"ctiy": "Huế"}, {"as_of": "soon"}, {"as_of": "2026-03-10"}, {"as_of": "2026-02-01"}]
)
def test_wrong_parameter_stops_before_a_kernel_and_leaves_everything(tmp_path, given):
    write_house(tmp_path, "02_fine")

    with pytest.raises(KpiError, match=next(iter(given))):
        step(tmp_path, ["02_fine"], given)

    assert not (tmp_path / "begun").exists()
    assert list(tmp_path.glob("reports/[0-9]*")) + list(tmp_path.glob("reports/_failed")) == []


def test_one_wrong_name_among_many_stops_all(tmp_path):
    write_house(tmp_path, "02_fine")

    with pytest.raises(KpiError, match=r"Did you mean 02_fine\?"):
        step(tmp_path, ["02_fine", "02_fien"])

    assert not (tmp_path / "begun").exists()


# --- failures


def test_published_runs_end_with_0(story):
    assert [story[name].code for name in ("good", "city", "mended")] == [0, 0, 0]
    assert story["good"].begun


def test_failing_notebook_ends_with_1(story):
    assert [story[name].code for name in ("first failed", "broken")] == [1, 1]
    assert [line for line in story["broken"].said if "03_fragile" in line and "the tap drips < 3 times" in line]


def test_failing_notebook_keeps_the_last_good_report(story):
    assert story["broken"].report(FRAGILE) == story["good"].report(FRAGILE)
    assert None not in story["good"].report(FRAGILE).values()
    assert story["broken"].files[f"{FRAGILE}/run.json"] == story["good"].files[f"{FRAGILE}/run.json"]


def test_failing_notebook_does_not_stop_the_others(story):
    assert [line for line in story["broken"].said if "02_fine" in line and "published" in line]
    assert story["broken"].report(FINE) == story["good"].report(FINE)


def test_failure_is_recorded_with_the_notebook_as_far_as_it_got(story):
    files = story["broken"].files

    [record] = [f for f in story["broken"].failures() if f["as_of"] == "2026-03-09"]
    assert record["notebook"] == "03_fragile"
    assert "the tap drips < 3 times" in record["message"]
    notebook = json.loads(files["_failed/03_fragile/2026-03-09/notebook.ipynb"])
    kinds = [o["output_type"] for c in notebook["cells"] for o in c.get("outputs", ())]
    assert "stream" in kinds and "error" in kinds
    assert "before the crash" in json.dumps(notebook)


def test_first_run_that_fails_publishes_nothing(story):
    first = story["first failed"]

    assert [path for path in first.files if path.startswith("0")] == []
    assert "_failed/03_fragile/2026-03-05/failure.json" in first.files
    assert "the tap drips &lt; 3 times" in first.text("index.html")


@pytest.mark.parametrize("name", ["first failed", "good", "broken", "bad data", "city", "mended"])
def test_nothing_half_written_remains(story, name):
    hidden = [path for path in story[name].files if re.search(r"(^|/)\.", path)]

    assert [path for path in hidden if path != ".lock"] == []
    for path in story[name].files:
        if re.match(r"0\d_\w+/", path):
            assert None not in story[name].report(path.rpartition("/")[0]).values()


def test_success_clears_the_failure(story):
    assert "_failed/03_fragile/2026-03-09/failure.json" in story["broken"].files
    assert "_failed/03_fragile/2026-03-09/failure.json" not in story["mended"].files
    assert "the tap drips" in story["broken"].text("index.html")


def test_success_clears_the_failure_of_an_earlier_day(story):
    assert len(story["first failed"].failures()) == 1
    assert story["good"].failures() == []
    assert "the tap drips" not in story["good"].text("index.html")


def test_two_at_once_give_the_same_bytes_as_one_after_the_other(story):
    for folder in (FINE, FRAGILE):
        assert story["mended"].report(folder) == story["good"].report(folder)
        assert None not in story["good"].report(folder).values()


def test_broken_contract_ends_with_4_before_a_kernel_starts(story):
    bad = story["bad data"]

    assert bad.code == 4
    assert not bad.begun
    assert "yesterday" in "\n".join(bad.said) and "channel_daily.date" in "\n".join(bad.said)


def test_broken_contract_keeps_the_last_good_reports(story):
    for folder in (FINE, FRAGILE):
        assert story["bad data"].report(folder) == story["good"].report(folder)


def test_broken_contract_is_recorded_under_the_name_of_the_notebook(story):
    failed = [f["notebook"] for f in story["bad data"].failures() if "yesterday" in f["message"]]

    assert failed == ["02_fine", "03_fragile"]  # however the notebook was named
    assert {path.split("/")[1] for path in story["bad data"].files if path.startswith("_failed/")} == {
        "02_fine",
        "03_fragile",
    }


def test_good_data_clear_the_failure_of_bad_data(story):
    assert story["mended"].failures() == []
    assert "yesterday" in story["bad data"].text("index.html")
    assert "yesterday" not in story["mended"].text("index.html")


def test_other_parameters_do_not_clear_a_failure(story):
    assert story["city"].failures() == story["bad data"].failures() != []


def test_rest_of_a_killed_run_is_swept_away(tmp_path):
    write_house(tmp_path, "02_fine")
    write_data(tmp_path, bad_day="yesterday")
    rest = tmp_path / "reports" / ".staging-02_fine-2026-03-02"
    rest.mkdir(parents=True)
    (rest / "report.html").touch()

    assert [path for path in step(tmp_path, ["02_fine"]).files if path.startswith(".staging")] == []


def test_a_report_that_a_killed_run_had_taken_away_comes_back(tmp_path):
    """The kill came between the two renames, and the next run fails for its data."""
    write_house(tmp_path, "02_fine")
    write_data(tmp_path, bad_day="yesterday")
    kept = tmp_path / "reports" / ".staging-abc" / "old" / "02_fine" / "2026-03-02"
    kept.mkdir(parents=True)
    (kept / "report.html").write_text("last good one")
    (tmp_path / "reports" / "02_fine").mkdir()
    step(tmp_path, ["02_fine"])

    assert (tmp_path / "reports" / "02_fine" / "2026-03-02" / "report.html").read_text() == "last good one"
    assert not (tmp_path / "reports" / ".staging-abc").exists()


def test_a_report_stays_where_publishing_the_new_one_fails(tmp_path):
    target, folder = tmp_path / "02_fine" / "2026-03-02", tmp_path / ".staging-abc"
    (old := folder / "old" / "02_fine" / "2026-03-02").mkdir(parents=True)
    target.parent.mkdir()
    (old / "report.html").write_text("last good one")
    reports._restore(folder, tmp_path)

    assert (target / "report.html").read_text() == "last good one"
    (old / "report.html").parent.mkdir(parents=True)
    (target / "report.html").write_text("new one")
    reports._restore(folder, tmp_path)
    assert (target / "report.html").read_text() == "new one"


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One notebook that refuses its data, one whose kernel is killed."""
    folder = write_house(tmp_path_factory.mktemp("ended"), "04_refused", "05_dies")
    return step(folder, ["05_dies", "04_refused"], jobs=2)


def test_contract_broken_inside_a_notebook_ends_with_4(ended):
    assert ended.code == 4
    assert [
        f["message"]
        for f in ended.failures()
        if f["notebook"] == "04_refused" and "orders lacks 7 rows" in f["message"]
    ]


def test_killed_kernel_is_told_like_any_failure(ended):
    assert [f["notebook"] for f in ended.failures()] == ["04_refused", "05_dies"]
    assert [line for line in ended.said if "05_dies" in line and "FAILED" in line]
    assert [path for path in ended.files if path.startswith((".staging", "05"))] == []


# --- the index


def links(page):
    return [unescape(href) for href in re.findall(r'<a [^>]*href="([^"#]+)"', page)]


@pytest.mark.parametrize("name", ["good", "broken", "city"])
@pytest.mark.parametrize("index", ["index.html", "index.vi.html"])
def test_every_link_of_the_index_leads_to_a_file(story, name, index):
    found = links(story[name].text(index))

    assert [href for href in found if href not in story[name].files] == []
    assert {f"{folder}/report{end}" for folder in (FINE, FRAGILE) for end in (".html", ".vi.html")} <= set(found)
    assert {"index.html", "index.vi.html"} <= set(found)


@pytest.mark.parametrize("language", ["en", "vi"])
def test_links_of_a_report_lead_back_and_to_the_other_language(story, language):
    end = {"en": ".html", "vi": ".vi.html"}[language]

    found = links(story["good"].text(f"{FINE}/report{end}"))

    assert set(found) == {f"../../index{end}", "report.html", "report.vi.html"}


@pytest.mark.parametrize(("index", "language"), [("index.html", "en"), ("index.vi.html", "vi")])
def test_index_lists_every_report_in_its_language(story, index, language):
    page = story["city"].text(index)

    assert f'<html lang="{language}">' in page
    items = re.findall(r'<li class="report">.*?<h3>(.*?)</h3>', page, re.DOTALL)
    titles = [unescape(re.sub("<[^>]+>", "", item)) for item in items]
    listed = [name for title in titles for name in TITLES if title.startswith(TITLES[name][language])]
    assert listed == ["02_fine", "02_fine", "03_fragile"]
    assert titles[0] != titles[1]  # the report with other parameters says so


@pytest.mark.parametrize("index", ["index.html", "index.vi.html"])
def test_index_says_what_failed_and_why_and_keeps_the_link_to_the_last_good(story, index):
    page = story["broken"].text(index)

    assert "the tap drips &lt; 3 times" in page
    assert page.rindex("the tap drips") < page.index('class="report-list"')
    assert f'href="{FRAGILE}/report' in page


def test_index_counts_reports_and_failures(story):
    heads = {name: re.search("<h1>(.*?)</h1>", story[name].text("index.html"))[1] for name in story}

    assert re.findall(r"\d+", heads["good"]) in (["2"], ["2", "0"])
    assert re.findall(r"\d+", heads["broken"]) == ["2", "1"]
    assert re.findall(r"\d+", heads["mended"]) in (["3"], ["3", "0"])


def test_index_lists_the_last_runs_of_a_report_and_links_the_newest(tmp_path, story):
    record = json.loads(story["good"].files[f"{FINE}/run.json"])
    days = [(LAST - timedelta(weeks=8 - i)).isoformat() for i in range(9)]
    for day in days:
        folder = tmp_path / "02_fine" / day
        folder.mkdir(parents=True)
        changed = {
            **record,
            "as_of": day,
            "folder": f"02_fine/{day}",
            "headline": {"en": f"Said {day}", "vi": f"Nói {day}"},
        }
        (folder / "run.json").write_text(json.dumps(changed), encoding="utf-8")

    reports.write_index(tmp_path)

    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count('<li class="report">') == 1
    assert f"Said {days[-1]}" in page and f"Said {days[-2]}" not in page
    assert [day for day in days if f'"02_fine/{day}/report.html"' in page] == days[-6:]


# --- the lock


def test_folder_that_another_run_holds_ends_with_75(tmp_path, capsys, monkeypatch):
    write_house(tmp_path, "02_fine")
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    with Path("reports/.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)

        assert main(["run", "02_fine"]) == 75

    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert "reports" in said.err and "--out" in said.err
    assert not Path("begun").exists()
    assert [p.name for p in Path("reports").iterdir()] == [".lock"]


def test_lock_is_let_go_when_a_run_ends_badly(tmp_path):
    write_house(tmp_path, "02_fine")

    for _again in range(2):
        with pytest.raises(KpiError, match="as_of"):
            step(tmp_path, ["02_fine"], {"as_of": "soon"})


def test_an_active_alert_is_told_on_the_page_in_the_index_by_exit_code_and_to_a_webhook(tmp_path, monkeypatch, capsys):
    (tmp_path / "rules.yaml").write_text("- {kpi: exclusion_rate, above: 0.3, owner: Lan}\n", encoding="utf-8")
    hook = serving(HTTPServer, Hook)
    monkeypatch.setenv("KPI_NOTIFY_URLS", f"{hook_url(hook.server_address[1])} {hook_url(1)}")
    how = ["run", "07_exclusion", "--out", str(tmp_path / "out"), "--alerts", str(tmp_path / "rules.yaml")]
    try:
        code = main([*how, "--notify", "--fail-on-alert"])
    finally:
        hook.shutdown()
        hook.server_close()

    place = tmp_path / "out" / "07_exclusion" / "2026-11-21"
    (alert,) = json.loads((place / "results.json").read_text(encoding="utf-8"))["alerts"]
    said = alert["sentence"]["en"]
    assert code == 3 and "above its limit of 30.0%" in said and alert["kind"] == "above"
    assert json.loads((place / "run.json").read_text(encoding="utf-8"))["alerts"] == [alert]
    for page in (place / "report.html", tmp_path / "out" / "index.html"):
        assert said in page.read_text(encoding="utf-8")
    assert "vượt ngưỡng 30,0%" in (place / "report.vi.html").read_text(encoding="utf-8")
    (sent,) = hook.taken
    assert said in sent["message"] and sent["attachments"][0]["filename"] == "report.html"
    told = capsys.readouterr().out
    assert "alerts: 1" in told and "1 sent, 1 waiting" in told


SERIES = """\
from IPython.display import display

rows = [{"kpi": "orders", "date": f"2026-03-0{d}", "value": 10.0 * d} for d in range(1, 10)]
told = {"name": "series", "sentence": {"en": "Days.", "vi": "Ngày."}, "rows": rows}
display({"text/plain": "days", "%s": told}, raw=True)
"""


def test_rules_beside_the_notebooks_fire_the_same_alert_twice_and_an_unreachable_host_fails_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(CELLS, "02_fine", [SERIES % JSON_MIME])
    monkeypatch.setenv("KPI_NOTIFY_URLS", f"mailto://me:secret-word@127.0.0.1:1?to=you@example.com {hook_url(1)}")
    write_house(tmp_path, "02_fine")
    (tmp_path / "notebooks" / "alerts.yaml").write_text("- {kpi: orders, above: 65, name: too much}", encoding="utf-8")
    with contextlib.chdir(tmp_path):
        said: list[str] = []
        code = reports.run(["02_fine"], {}, out="reports", notify=True, say=said.append)
    pages = [(tmp_path / "reports" / FINE / name).read_bytes() for name in PUBLISHED]
    again = step(tmp_path, ["02_fine"])

    assert code == 0 and "notify: 0 sent, 1 waiting" in said
    (alert,) = json.loads(pages[-1])["alerts"]
    assert (alert["rule"], alert["date"], alert["value"], alert["open"]) == ("too much", "2026-03-08", 90.0, False)
    assert b"<b>too much</b>: Orders: above its limit of 65 on 3 of the last 3 days" in pages[0]
    assert list(again.report(FINE).values()) == pages
    assert "Alerts: 1." in again.text("index.html") and "1 cảnh báo." in again.text("index.vi.html")
    assert [name for name, data in again.files.items() if b"secret-word" in data or b"you@example" in data] == []


def test_a_muted_alert_is_shown_but_changes_no_exit_code(tmp_path, monkeypatch):
    monkeypatch.setitem(CELLS, "02_fine", [SERIES % JSON_MIME])
    write_house(tmp_path, "02_fine")
    (tmp_path / "rules.yaml").write_text("- {kpi: orders, above: 65, mute_until: 2026-03-09}", encoding="utf-8")
    with contextlib.chdir(tmp_path):
        code = reports.run(["02_fine"], {}, out="out", rules="rules.yaml", fail_on_alert=True, say=lambda line: None)

    page = (tmp_path / "out" / FINE / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "Muted</span>" in page and "Alerts: 1." not in (tmp_path / "out" / "index.html").read_text()


def test_a_broken_file_of_addresses_costs_no_kernel(tmp_path, monkeypatch):
    (tmp_path / "mine.yml").write_text("a: b", encoding="utf-8")
    monkeypatch.setenv("KPI_NOTIFY_CONFIG", str(tmp_path / "mine.yml"))
    write_house(tmp_path, "02_fine")
    with contextlib.chdir(tmp_path), pytest.raises(KpiError, match="must be a list of addresses"):
        reports.run(["02_fine"], {}, notify=True)

    assert not (tmp_path / "begun").exists()


def test_a_wrong_rule_costs_no_kernel(tmp_path, capsys):
    (tmp_path / "rules.yaml").write_text("- {kpi: exclusion_rat, above: 0.3}\n", encoding="utf-8")

    assert main(["run", "07_exclusion", "--out", str(tmp_path), "--alerts", str(tmp_path / "rules.yaml")]) == 2
    assert "there is no KPI 'exclusion_rat'. Did you mean exclusion_rate" in capsys.readouterr().err
