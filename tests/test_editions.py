"""Typed parameters, the report edition and the canonical form of a notebook."""

import copy
import json
import re

import nbformat
import pytest

from kpi_helpers import editions
from kpi_helpers.errors import KpiError
from kpi_helpers.result import JSON_MIME

CELL = """\
source: str = "data/demo"  # folder, DuckDB file or URL
mapping: str | None = None  # YAML file
months: int = 3  # whole months to plan, in [1, 12]
share: float = 0.9  # coverage, in (0, 1)
whole: bool = True  # leave out the running period
steps: list[float] = [
    0.1,
    -0.2,
]  # targets, fractions, in (-1, 10)
grain: str = "week"  # length of a period, one of day, week, month
"""


def notebook(*cells):
    about = {"title": {"en": "Plan", "vi": "Kế hoạch"}, "tables": ["channel_daily"]}
    return {"cells": list(cells), "metadata": {"kpi": about}, "nbformat": 4, "nbformat_minor": 5}


def code(ident, source, *outputs, tags=(), **metadata):
    metadata = {"tags": list(tags), **metadata} if tags else metadata
    return {"cell_type": "code", "id": ident, "metadata": metadata, "source": source, "outputs": list(outputs),
            "execution_count": 1}  # fmt: skip


def markdown(ident, source, *, tags=()):
    return {"cell_type": "markdown", "id": ident, "metadata": {"tags": list(tags)}, "source": source}


@pytest.fixture
def known():
    return editions.parameters(notebook(code("parameters", CELL, tags=["parameters"])))


# --- parameters


def test_parameters_are_read_in_order_with_type_default_and_comment(known):
    read = [(p.name, p.kind, p.default, p.comment) for p in known.values()]

    assert read == [
        ("source", "str", "data/demo", "folder, DuckDB file or URL"),
        ("mapping", "str | None", None, "YAML file"),
        ("months", "int", 3, "whole months to plan, in [1, 12]"),
        ("share", "float", 0.9, "coverage, in (0, 1)"),
        ("whole", "bool", True, "leave out the running period"),
        ("steps", "list[float]", [0.1, -0.2], "targets, fractions, in (-1, 10)"),
        ("grain", "str", "week", "length of a period, one of day, week, month"),
    ]


def test_parameters_come_from_the_tagged_cell_only():
    cells = code("other", "hidden: int = 1"), code("parameters", "seen: int = 1", tags=["parameters"])

    assert list(editions.parameters(notebook(*cells))) == ["seen"]


def test_source_may_be_a_list_of_lines_as_on_disk():
    lines = CELL.splitlines(keepends=True)

    found = editions.parameters(notebook(code("parameters", lines, tags=["parameters"])))

    assert list(found) == ["source", "mapping", "months", "share", "whole", "steps", "grain"]


def test_comment_and_its_rule_survive_a_vietnamese_default():
    cell = 'city: str = "Thành phố Hồ Chí Minh ở miền Nam"  # whose shop, one of Huế, Vinh'
    city = editions.parameters(notebook(code("parameters", cell, tags=["parameters"])))["city"]

    assert city.comment == "whose shop, one of Huế, Vinh"
    assert city.read("Huế") == "Huế"


def test_every_notebook_of_the_project_has_commented_parameters():
    for name in editions.names():
        found = editions.parameters(editions.load(name))

        assert {"source", "mapping", "as_of"} <= set(found)
        assert all(p.comment for p in found.values())
        assert {p.kind for p in found.values()} <= {
            "str",
            "str | None",
            "int",
            "int | None",
            "float",
            "float | None",
            "bool",
            "list[float]",
            "list[str]",
        }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("source", "my folder", "my folder"),
        ("mapping", "my.yaml", "my.yaml"),
        ("mapping", "None", None),
        ("mapping", None, None),
        ("months", "12", 12),
        ("months", " 1 ", 1),
        ("share", ".5", 0.5),
        ("share", 0.25, 0.25),
        ("whole", "false", False),
        ("whole", "True", True),
        ("steps", "0.05,1.5", [0.05, 1.5]),
        ("steps", "[0.05, 1.5]", [0.05, 1.5]),
        ("steps", [0.05], [0.05]),
        ("grain", "month", "month"),
    ],
)
def test_value_is_read_in_the_type_of_its_parameter(known, name, given, value):
    resolved = editions.resolve(known, {name: given})

    assert resolved[name] == value
    assert type(resolved[name]) is type(value)


def test_parameters_not_given_keep_their_defaults(known):
    resolved = editions.resolve(known, {"months": "4"})

    assert resolved == {name: 4 if name == "months" else p.default for name, p in known.items()}
    assert list(resolved) == list(known)


# --- what is refused


@pytest.mark.parametrize(
    ("given", "close"),
    [("monhts", "months"), ("Share", "share"), ("map", "mapping"), ("step", "steps")],
)
def test_misspelt_parameter_is_refused_with_the_name_that_was_meant(known, given, close):
    with pytest.raises(KpiError, match=rf"'{given}'.*Did you mean {close}\?"):
        editions.resolve(known, {given: "1"})


def test_parameter_like_no_other_lists_the_known_ones(known):
    with pytest.raises(KpiError, match=r"'zzz'.*source, mapping, months") as caught:
        editions.resolve(known, {"zzz": "1"})

    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("months", "three", "int"),
        ("months", "2.5", "int"),
        ("months", "", "int"),
        ("share", "90%", "float"),
        ("share", "0,9", "float"),
        ("whole", "yes", "bool"),
        ("steps", "0.1,x", "float"),
        ("steps", "", "float"),
    ],
)
def test_wrong_type_names_the_value_and_the_type(known, name, given, kind):
    with pytest.raises(KpiError, match=rf"{name}=.*{kind}"):
        editions.resolve(known, {name: given})


@pytest.mark.parametrize("given", ["0", "1", "-0.5", "1.5", "nan", "inf"])
def test_round_brackets_exclude_the_bounds(known, given):
    with pytest.raises(KpiError, match=rf"share={given}.*\(0, 1\)"):
        editions.resolve(known, {"share": given})


@pytest.mark.parametrize("given", ["0", "13", "-1"])
def test_square_brackets_refuse_what_lies_beyond(known, given):
    with pytest.raises(KpiError, match=rf"months={given}.*\[1, 12\]"):
        editions.resolve(known, {"months": given})


@pytest.mark.parametrize("given", ["1", "12"])
def test_square_brackets_include_the_bounds(known, given):
    assert editions.resolve(known, {"months": given})["months"] == int(given)


def test_range_of_a_list_holds_for_each_item(known):
    with pytest.raises(KpiError, match=r"steps=10.*\(-1, 10\)"):
        editions.resolve(known, {"steps": "0.1,10,0.2"})


def test_value_that_is_no_choice_is_refused_with_the_one_that_was_meant(known):
    with pytest.raises(KpiError, match=r"grain='weak'.*day, week, month.*Did you mean week\?"):
        editions.resolve(known, {"grain": "weak"})


@pytest.mark.parametrize("name", ["password", "api_key", "apikey", "access_token", "client_SECRET"])
def test_parameter_named_like_a_secret_is_refused(name):
    cell = code("parameters", f"{name}: str | None = None  # for the shop", tags=["parameters"])
    known = editions.parameters(notebook(cell))

    with pytest.raises(KpiError, match=rf"{name}.*env:") as caught:
        editions.resolve(known, {name: "hunter2"})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@db.local/shop",
        "postgresql://ann:hunter%402@db.local/shop",
        "postgresql://ann:hunter2/7@db.local/shop",
        "postgresql://db.local/shop?user=ann&password=hunter2",
        "snowflake://ann@account/shop?token=hunter2",
    ],
)
def test_password_in_a_value_is_refused_and_not_repeated(known, url):
    with pytest.raises(KpiError, match="env:") as caught:
        editions.resolve(known, {"source": url})

    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://ann@db.local:5432/shop", "duckdb:///tmp/shop.duckdb", "env:SHOP"])
def test_address_without_a_password_is_no_secret(known, url):
    assert editions.resolve(known, {"source": url})["source"] == url


def test_misspelt_notebook_is_refused_with_the_one_that_was_meant():
    with pytest.raises(KpiError, match=r"'01_kpi_setpu'.*Did you mean 01_kpi_setup\?"):
        editions.load("01_kpi_setpu")


def test_notebooks_of_the_working_folder_come_first(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name in ("12_late", "03_early", "draft"):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps(notebook(markdown("a", name))), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert editions.names() == ["03_early", "12_late"]
    assert editions.load("12_late")["cells"][0]["source"] == "12_late"


# --- the key of a set of parameters


def key(known, **given):
    return editions.changed(known, editions.resolve(known, given))[1]


def test_key_is_empty_for_the_defaults_however_they_are_written(known):
    assert key(known) == ""
    assert key(known, share="0.90", months="3", mapping="none", steps="[0.1,-0.2]", whole="1") == ""


def test_key_is_the_same_for_the_same_values_in_any_order(known):
    one, other = {"months": "4", "share": "0.50"}, {"share": 0.5, "months": 4}

    resolved = editions.resolve(known, one)
    assert key(known, **one) == key(known, **other) == editions.changed(known, dict(reversed(resolved.items())))[1]
    assert re.fullmatch("[0-9a-f]{8}", key(known, **one))


def test_key_differs_with_a_value_and_with_a_name(known):
    keys = [key(known, months=4), key(known, months=5), key(known, share=0.5), key(known, source="4")]

    assert len(set(keys)) == 4


def test_as_of_does_not_count_for_the_key():
    cell = "as_of: str | None = None  # day\nmonths: int = 3  # months"
    known = editions.parameters(notebook(code("parameters", cell, tags=["parameters"])))

    assert key(known, as_of="2026-11-21") == ""
    assert key(known, as_of="2026-11-21", months=4) == key(known, as_of="2026-11-14", months=4) != ""


# --- editions


def test_report_edition_leaves_out_what_teaches_and_empties_outputs():
    given = notebook(
        markdown("question", "# Question", tags=["teach"]),
        code("wrong", "1 / 0", tags=["teach", "solution"]),
        code("right", "1 + 1", {"output_type": "stream", "name": "stdout", "text": "old"}),
        markdown("told", "What we see"),
    )
    before = copy.deepcopy(given)

    edition = editions.report_edition(given)

    assert [c["id"] for c in edition["cells"]] == ["right", "told"]
    assert edition["cells"][0]["outputs"] == [] and edition["cells"][0]["execution_count"] is None
    assert edition["metadata"] == given["metadata"]
    assert given == before  # the notebook itself is left as it was


def test_where_printed_text_is_cut_does_not_matter():
    def printed(*texts):
        outputs = [{"output_type": "stream", "name": "stdout", "text": text} for text in texts]
        return {"cells": [code("c00", "print(1)", *outputs)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}

    assert editions.canonical(printed("1\n", "2\n")) == editions.canonical(printed("1\n2\n"))


def test_class_edition_leaves_the_solutions_to_the_trainee():
    given = notebook(
        markdown("question", "# Question", tags=["teach"]),
        code("shown", "1 + 1", {"output_type": "stream", "name": "stdout", "text": "old"}),
        code("solved", "answer = 42", tags=["teach", "solution"]),
    )
    before = copy.deepcopy(given)

    edition = editions.class_edition(given)

    assert [c["id"] for c in edition["cells"]] == ["question", "shown", "solved"]
    assert "42" not in json.dumps(edition) and "old" not in json.dumps(edition)
    assert edition["cells"][1]["source"] == "1 + 1"
    assert given == before


# --- the canonical form

STYLER = (
    '<style>#T_{styler}_row0_col0 {{ color: red }}</style><table id="T_{styler}">'
    '<td id="T_{styler}_row0_col0">7</td></table>'
)
FIRST = {
    "time": "2026-11-22T06:00:01.000001", "ident": "3f9a0c1d", "banner": "a1b2c3d4", "address": "7f3a5c2b9d10",
    "process": "4711", "styler": "0a1b2",
}  # fmt: skip
SECOND = {
    "time": "2026-11-23T09:30:59.123456", "ident": "77e0b2aa", "banner": "00ff00ff", "address": "55d0c0ffee90",
    "process": "815", "styler": "fedc9",
}  # fmt: skip


def executed(*, time, ident, banner, address, process, styler):
    """A notebook as papermill leaves it: with times, random ids, addresses and the number of a process."""
    times = {"execution": {"iopub.execute_input": time}, "papermill": {"start_time": time, "duration": len(time)}}
    plain = f"<function f at 0x{address}>"
    shown = {"text/plain": plain, "text/html": f"<p>&lt;Axes at 0x{address}&gt;</p>"}
    warning = f"/tmp/ipykernel_{process}/{process}99.py:1: UserWarning: mind the gap\n  f()\n"
    made = notebook(
        markdown(banner, "An exception was met", tags=["papermill-error-cell-tag"]),
        markdown(banner[::-1], "An exception was met here", tags=["papermill-error-cell-tag"]),
        code("parameters", "months: int = 3\nshare: float = 0.9", tags=["parameters"], **times),
        code(ident, "months = 4", tags=["injected-parameters"], **times),
        markdown("told", ["What\n", "we see"]),
        code(
            "work", "f",
            {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": shown},
            {"output_type": "stream", "name": "stderr", "text": [warning]},
            {"output_type": "display_data", "metadata": {}, "data": {"text/html": STYLER.format(styler=styler),
             "text/plain": "the table"}},
            **times,
        ),
    )  # fmt: skip
    made["metadata"] |= {
        "papermill": {"start_time": time, "output_path": f"/tmp/{ident}/out.ipynb", "version": "2.7.0"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    return made


@pytest.mark.parametrize("differs", list(FIRST))
def test_canonical_form_is_the_same_for_two_runs(differs):
    one, other = executed(**FIRST), executed(**{**FIRST, differs: SECOND[differs]})
    assert one != other

    assert editions.written(editions.canonical(one)) == editions.written(editions.canonical(other))


def test_canonical_form_is_idempotent():
    once = editions.canonical(executed(**FIRST))

    assert editions.canonical(once) == once


def test_canonical_form_keeps_what_was_said_and_shown():
    cells = {c["id"]: c for c in editions.canonical(executed(**FIRST))["cells"]}

    assert cells["parameters"]["metadata"] == {"tags": ["parameters"]}
    assert editions.source_of(cells["told"]) == "What\nwe see"
    result, warning, table = cells["work"]["outputs"]
    assert result["data"]["text/plain"].startswith("<function f")
    assert "UserWarning: mind the gap" in "".join(warning["text"])
    assert ">7</td>" in table["data"]["text/html"]


def test_canonical_form_keeps_the_title_and_drops_the_time_of_the_run():
    made = editions.canonical(executed(**FIRST))

    assert made["metadata"]["kpi"]["title"] == {"en": "Plan", "vi": "Kế hoạch"}
    text = editions.written(made)
    assert not [value for value in FIRST.values() if value in text]
    assert "papermill.start" not in text and "duration" not in text


def test_canonical_form_is_a_valid_notebook():
    made = nbformat.reads(editions.written(editions.canonical(executed(**FIRST))), as_version=4)

    nbformat.validate(made)


def test_file_of_a_notebook_does_not_depend_on_the_order_of_its_keys():
    made = editions.canonical(executed(**FIRST))
    turned = dict(reversed(made.items()))

    text = editions.written(made)

    assert text == editions.written(turned)
    assert "Kế hoạch" in text and text.endswith("}\n")


def test_results_are_collected_in_the_order_shown():
    def shown(name):
        return {"output_type": "display_data", "metadata": {}, "data": {JSON_MIME: {"name": name}, "text/plain": name}}

    plain = {"output_type": "stream", "name": "stdout", "text": "not a result"}
    given = notebook(
        markdown("a", "text"), code("b", "", shown("zeta"), plain, shown("alpha")), code("c", "", shown("mu"))
    )

    assert [r["name"] for r in editions.results(given)] == ["zeta", "alpha", "mu"]


def test_an_empty_list_of_words_is_empty():
    days = editions.Parameter("holidays", "list[str]", ["11-11"], "days")

    assert [days.read(given) for given in ("", "[]", "11-11, 12-12")] == [[], [], ["11-11", "12-12"]]
