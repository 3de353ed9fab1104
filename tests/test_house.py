"""The house holds to its own plan: floors, names, documents, notebooks, words."""

import ast
import inspect
import json
import re
import string
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from kpi_helpers import cli, editions
from kpi_helpers.catalogue import CAMPAIGN_TYPES, KINDS
from kpi_helpers.catalogue import page as catalogue_page
from kpi_helpers.contracts import TABLES
from kpi_helpers.kpis import catalogue
from kpi_helpers.result import HTML_MIME, JSON_MIME, Result
from kpi_helpers.views import VIEWS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kpi_helpers"
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__")
FLOORS = {
    name: int(floor)
    for floor, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.M)
}
# their examples stand for a published method
CALCULATORS = (
    "stats", "baselines", "targets", "changes", "rates", "looks", "designs", "purchases", "spending",
    "retention", "hazards", "scores", "profits", "chains", "suspects",
)  # fmt: skip


#: one line each, told by their name
SMALL = (
    "holm", "poisson_interval", "checked_confidence", "chance_above", "weighted_quantile", "rank", "design", "ratios",
    "in_units", "checked", "auc", "credited",
)  # fmt: skip


def imports(module):
    """Modules of the package that `module` imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "kpi_helpers":
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kpi_helpers."):
            found.add(node.module.split(".")[1])
    return found


def public(module):
    """Public functions, classes and methods that a module defines itself."""
    loaded = import_module(f"kpi_helpers.{module}")
    for name, value in vars(loaded).items():
        if name.startswith("_") or getattr(value, "__module__", "") != loaded.__name__:
            continue
        value = inspect.unwrap(value)
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
            if inspect.isclass(value):
                for inner, method in vars(value).items():
                    if not inner.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                        yield f"{name}.{inner}", method


def test_architecture_lists_exactly_the_modules_of_the_folder():
    assert sorted(FLOORS) == MODULES


def test_architecture_names_every_file_beside_the_modules():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")

    assert [p.name for p in PACKAGE.iterdir() if p.is_file() and p.suffix != ".py" and p.name not in text] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_floors_below(module):
    assert {name: FLOORS[name] for name in imports(module) if FLOORS[name] >= FLOORS[module]} == {}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "sources"])
def test_only_sources_names_an_engine(module):
    code = (PACKAGE / f"{module}.py").read_text("utf-8").lower()
    if module in ("cli", "reports"):  # the help text and the record of versions tell of them
        code = re.sub(r'".*?"', "", code)

    assert re.findall(r"duckdb|postgres|pyspark|select .* from ", code) == []


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module):
    bare = [name for name, value in public(module) if not (inspect.getdoc(value) or "").strip()]

    assert bare == []


@pytest.mark.parametrize("module", CALCULATORS)
def test_calculators_tell_units_errors_source_and_example(module):
    for name, function in public(module):
        if not inspect.isfunction(function) or "." in name or name in SMALL:
            continue
        doc = inspect.getdoc(function)
        assert ">>>" in doc, f"{name} has no example"
        assert "Parameters" in doc, f"{name} does not tell its parameters"
        if module != "stats":
            assert "Raises" in doc, f"{name} does not tell its errors"


def test_results_are_frozen_records():
    for module in MODULES:
        for _name, value in public(module):
            if inspect.isclass(value) and issubclass(value, Result):
                assert value.__dataclass_params__.frozen, value


def test_readme_documents_every_command_and_option():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = cli.parser()._subparsers._group_actions[0].choices

    for name, command in commands.items():
        assert f"kpi {name}" in readme
        for action in command._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            assert option in ("", "--help") or option in readme, f"kpi {name} {option}"


def dictionary() -> str:
    """The tables as data/README.md lists them; print it there after a change of contracts.yaml."""
    lines = []
    for t in TABLES.values():
        key = f"; together once: {', '.join(f'`{k}`' for k in t.key)}" if t.key else ""
        lines += [f"### {t.name}", "", f"One row: {t.about.en} ({t.about.vi}){key}.", ""]
        lines += ["| column | kind | meaning | nghĩa |", "|---|---|---|---|"]
        for c in t.columns:
            kind = ", ".join([c.kind, *(mark for mark in ("money", "required") if getattr(c, mark))])
            lines.append(f"| `{c.name}` | {kind} | {c.about.en} | {c.about.vi} |")
        lines.append("")
    return "\n".join(lines)


def test_dictionary_is_the_one_of_the_contracts():
    text = (ROOT / "data" / "README.md").read_text("utf-8")
    listed = re.search(r"<!-- dictionary: .* -->\n(.*)<!-- end of the dictionary -->", text, re.S)[1]

    assert listed == dictionary()
    for table in TABLES.values():
        for about in (table.about, *(column.about for column in table.columns)):
            assert about.en.isascii() and about.vi != about.en, (table.name, about)


def test_words_say_the_same_fields_in_both_languages():
    words = yaml.safe_load((PACKAGE / "words.yaml").read_text("utf-8"))

    def asked(text):
        return sorted({field for _text, field, _spec, _conversion in string.Formatter().parse(text) if field})

    for key, entry in words.items():
        assert sorted(entry) == ["en", "vi"], key
        assert asked(entry["en"]) == asked(entry["vi"]), key
        assert entry["en"].count("|") == entry["vi"].count("|"), key


def test_every_word_that_the_code_asks_for_exists_and_is_used():
    words = yaml.safe_load((PACKAGE / "words.yaml").read_text("utf-8"))
    code = "".join(p.read_text("utf-8") for p in PACKAGE.iterdir() if p.suffix in (".py", ".j2"))
    asked = set(re.findall(r'say\(\s*f?"([a-z_]+)\.', code))

    assert asked == {key.split(".")[0] for key in words}
    for key in re.findall(r'say\(\s*"([^"{]+)"(?! ~)', code):
        assert key in words


def test_catalogue_speaks_both_languages():
    for k in catalogue():
        for text in (k.name, k.meaning, k.pitfall):
            assert text.en.strip() and text.vi.strip() and text.en != text.vi, k.id


@pytest.mark.parametrize("name", editions.names())
class TestNotebookShape:
    def test_cells_are_few_and_short(self, name):
        cells = editions.load(name)["cells"]
        code = [editions.source_of(c) for c in cells if c["cell_type"] == "code"]

        assert len(cells) <= 35
        assert max(len(source.splitlines()) for source in code) <= 12
        assert sum(len(source.splitlines()) for source in code) <= 120

    def test_code_defines_nothing_and_reaches_nowhere(self, name):
        for c in editions.load(name)["cells"]:
            if c["cell_type"] == "code":
                assert not re.search(r"\b(def|class) |https?://|\bpip\b|filterwarnings", editions.source_of(c))

    def test_parameters_are_typed_and_commented(self, name):
        known = editions.parameters(editions.load(name))

        assert {"source", "mapping", "as_of"} <= set(known)
        assert known["source"].default == "data/demo"
        assert [p.name for p in known.values() if not p.comment] == []

    def test_prose_speaks_vietnamese_too(self, name):
        for c in editions.load(name)["cells"]:
            if c["cell_type"] == "markdown":
                english, _tag, vietnamese = editions.source_of(c).partition('<details lang="vi">')
                assert len(vietnamese) > 0.6 * len(english), c["id"]

    def test_lesson_has_a_wrong_answer_key_ideas_and_three_solutions(self, name):
        cells = editions.load(name)["cells"]
        text = "\n".join(editions.source_of(c) for c in cells)

        assert "wrong answer" in text and "## Key ideas" in text
        assert sum("solution" in editions.tags(c) for c in cells) == 3

    def test_outputs_are_committed_in_canonical_form(self, name):
        path = editions.folder() / f"{name}.ipynb"
        notebook = editions.load(name)

        assert editions.written(editions.canonical(notebook)) == path.read_text("utf-8")
        assert any(c["outputs"] for c in notebook["cells"] if c["cell_type"] == "code")
        assert path.stat().st_size < 600_000  # ten results, each in two languages, charts in two widths
        assert str(ROOT) not in json.dumps(notebook)


def test_readme_table_shows_what_the_notebook_computed():
    outputs = [o["data"] for c in editions.load("01_kpi_setup")["cells"] for o in c.get("outputs", ()) if "data" in o]
    table = next(data[HTML_MIME]["en"] for data in outputs if data.get(JSON_MIME, {}).get("name") == "target_table")
    computed = [re.sub(r"<[^>]+>", " ", row).replace("\xa0", " ").split() for row in table.split("<tr ")]
    readme = (ROOT / "README.md").read_text("utf-8")

    for name, said in (("all channels", computed[2]), ("Direct", next(row for row in computed if "Direct" in row))):
        shown = re.search(rf"^\| {name} \|(.*)\|$", readme, re.M)[1]
        for figure in re.findall(r"₫[\d.]+|[+−]?[\d.]+%|<1%", shown):
            assert figure in said, (name, figure, said)


def test_readme_mapping_is_accepted_as_printed(tmp_path):
    from kpi_helpers.sources import connect

    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[1]
    (tmp_path / "my_mapping.yaml").write_text(block, encoding="utf-8")
    row = "Ngày;Kênh;cost_micros;Doanh thu\n31/12/2025;Zalo OA;1500000;1.234,50\n01/01/2026;Zalo OA;n/a;-\n"
    (tmp_path / "export_2026.csv").write_text(row, encoding="utf-8")

    table = connect(tmp_path, tmp_path / "my_mapping.yaml").table("channel_daily").order_by("date")

    rows = table.select("channel", "spend", "revenue").to_pyarrow().to_pylist()
    assert [(r["channel"], r["spend"], r["revenue"]) for r in rows] == [
        ("Zalo OA", pytest.approx(1.5), pytest.approx(1234.5)),
        ("Zalo OA", None, None),
    ]


def test_the_catalogue_page_is_generated():
    assert (ROOT / "data" / "KPIS.md").read_text(encoding="utf-8") == catalogue_page(), "run make docs"


@pytest.mark.parametrize("k", catalogue(), ids=lambda k: k.id)
def test_every_kpi_reads_measures_that_its_tables_have(k):
    for table, measure in k.measures:
        if table in VIEWS:
            assert measure in VIEWS[table].measures
        else:
            assert measure in (*TABLES[table].numbers, *TABLES[table].measures)
    assert k.kind in KINDS and set(k.campaigns) <= set(CAMPAIGN_TYPES)
