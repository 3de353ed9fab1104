"""Pages of reports: offline, accessible, well-formed, complete, in both languages."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from kpi_helpers import editions, pages, plots
from kpi_helpers.result import HTML_MIME, JSON_MIME

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
#: 1 x 1 pixel
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass
class Element:
    """One element of a page, with all text within it."""

    tag: str
    attrs: dict[str, str | None]
    parents: tuple[str, ...] = ()
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def within(self, tag):
        """All elements of a kind below this one."""
        return [e for c in self.children for e in ([c] if c.tag == tag else []) + c.within(tag)]


class Page(HTMLParser):
    """A page as a reader of HTML meets it; `problems` are tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.source, self.problems = text, []
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{e.tag}> is never closed" for e in self._open]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        names = [name for name, _value in attrs]
        self.problems += [f"<{tag}> has {name} twice" for name in set(names) if names.count(name) > 1]
        element = Element(tag, dict(attrs), tuple(e.tag for e in self._open))
        if self._open:
            self._open[-1].children.append(element)
        self.elements.append(element)

    def handle_endtag(self, tag):
        if not self._open or self._open[-1].tag != tag:
            self.problems.append(f"</{tag}> closes {[e.tag for e in self._open[-3:]]} at {self.getpos()}")
        while self._open and self._open[-1].tag != tag:
            self._open.pop()
        if self._open:
            self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag):
        """Elements of a kind."""
        return [e for e in self.elements if e.tag == tag]

    @property
    def ids(self):
        """Ids in order."""
        return [e.attrs["id"] for e in self.elements if "id" in e.attrs]

    @property
    def text(self):
        """What stands in the body."""
        return self.all("body")[0].text


def requests(page):
    """Addresses that a browser would fetch when it opens the page."""
    asked = [
        e.attrs[name]
        for e in page.elements
        for name in ("src", "srcset", "poster", "data", "background", "action", "xlink:href")
        if e.attrs.get(name)
    ]
    asked += [e.attrs["href"] for e in page.elements if e.tag in ("link", "base", "use", "image")]
    styles = [e.text for e in page.all("style")] + [e.attrs.get("style") or "" for e in page.elements]
    asked += [address for css in styles for address in re.findall(r"url\(\s*['\"]?([^)'\"]+)", css)]
    asked += [found for css in styles for found in re.findall(r"@import.*", css)]
    return [address for address in asked if not address.startswith(("#", "data:"))]


def notebook(*cells, title=("Plan", "Kế hoạch")):
    about = {"title": {"en": title[0], "vi": title[1]}, "tables": []}
    return {"cells": [{**c, "id": f"c{i}"} for i, c in enumerate(cells)], "metadata": {"kpi": about}}


def code(source, *outputs, tags=()):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def markdown(source, tags=()):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": source}


def shown(kind="execute_result", **data):
    data = {name.replace("_", "/", 1): value for name, value in data.items()}
    return {"output_type": kind, "metadata": {}, "data": data}


def ours(name, html, kind="execute_result"):
    """Output of a result: HTML in both languages and what goes into ``results.json``."""
    said = {"en": f"{name} said", "vi": f"{name} đã nói"}
    record = {"name": name, "sentence": said, "rows": []}
    languages = {"en": html, "vi": html.replace("English", "Tiếng Việt")}
    return {
        "output_type": kind,
        "metadata": {},
        "data": {HTML_MIME: languages, JSON_MIME: record, "text/plain": "plain"},
    }


def render(*cells, language="en", provenance=None, **about):
    return Page(pages.report(notebook(*cells, **about), language, provenance or {}))


@pytest.fixture(scope="module")
def setup_notebook():
    """Notebook 01 as it is committed, with its outputs, without what a report leaves out."""
    given = editions.load("01_kpi_setup")
    return {**given, "cells": [c for c in given["cells"] if "teach" not in editions.tags(c)]}


@pytest.fixture(scope="module")
def torture():
    """One of everything that a notebook may hold."""
    chart = plots.chart(
        lambda axes, _narrow: axes.plot([1, 2, 3], [3, 1, 2]), title="It went down", note="Orders", alt="from 3 to 2"
    )
    other = plots.chart(
        lambda axes, _narrow: axes.plot([1, 2, 3], [5, 6, 9]), title="It went up", note="Visits", alt="from 5 to 9"
    )
    return notebook(
        markdown("Before the first heading: $n \\geq 2$ and $n \\geq 2$ again."),
        code("figure", ours("answer", "<h1>English answer</h1>"), tags=["answer", "hide-input"]),
        code("tiles", ours("pace", "<p>English tiles</p>"), tags=["lead"]),
        markdown(
            '## First\n\nText.\n\n<details lang="vi"><summary>Tiếng Việt</summary>\n\n## Một\n\nChữ.\n\n</details>'
        ),
        code("chart", ours("chart", chart)),
        code("other", ours("other", other)),
        markdown("## Second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Third\n\n$$\\frac{1}{n}$$\n\n- one\n- two"),
        code("frame", shown(text_html="<table><tr><td>7</td></tr></table>", text_plain="7")),
        code("photo", shown("display_data", image_png=PNG, text_plain='a "small" photo')),
        code("print('x < y & z')", {"output_type": "stream", "name": "stdout", "text": ["x < y\n", "& z\n"]}),
    )


@pytest.fixture(params=["setup-en", "setup-vi", "torture-en", "torture-vi"])
def page(request, setup_notebook, torture):
    which, language = request.param.split("-")
    made = pages.report({"setup": setup_notebook, "torture": torture}[which], language, {"data": "data/demo"})
    return Page(made)


# --- every page


def test_page_names_its_language(page, request):
    language = request.node.callspec.params["page"][-2:]

    assert page.all("html")[0].attrs["lang"] == language
    current = [e for e in page.all("a") if e.attrs.get("aria-current") == "page"]
    assert [e.attrs["hreflang"] for e in current] == [language]


def test_page_forbids_everything_but_its_own_styles_and_inline_images(page):
    metas = [e.attrs for e in page.all("meta")]
    policies = [m["content"] for m in metas if (m.get("http-equiv") or "").lower() == "content-security-policy"]

    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";") if rule.strip())
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.source.index("Content-Security-Policy") < page.source.index("<style")


def test_page_requests_nothing_and_runs_nothing(page):
    assert requests(page) == []
    assert [e.tag for e in page.elements if e.tag in ("script", "link", "iframe", "object", "embed", "form")] == []
    assert [name for e in page.elements for name in e.attrs if name.startswith("on")] == []
    assert [e.attrs["href"] for e in page.all("a") if (e.attrs["href"] or "").startswith(("http", "javascript"))] == []


def test_page_is_well_formed(page):
    assert page.problems == []
    assert page.source.startswith("<!doctype html>")


def test_page_has_one_main_heading_and_none_is_empty(page):
    assert len(page.all("h1")) == 1
    assert [e.tag for e in page.elements if e.tag in ("h1", "h2", "h3") and not e.text.strip()] == []


def test_ids_are_unique(page):
    assert [ident for ident in set(page.ids) if page.ids.count(ident) > 1] == []


def test_every_reference_within_the_page_resolves(page):
    values = [(name, value or "") for e in page.elements for name, value in e.attrs.items()]
    wanted = {v[1:] for name, v in values if name in ("href", "xlink:href") and v.startswith("#")}
    wanted |= {ident for _name, v in values for ident in re.findall(r"url\(#([^)]+)\)", v)}
    wanted |= {ident for name, v in values if name in ("aria-labelledby", "aria-describedby") for ident in v.split()}

    assert wanted - set(page.ids) == set()


def test_table_of_contents_lists_every_section(page):
    toc = next(e for e in page.all("nav") if e.attrs.get("class") == "toc")
    listed = [(a.attrs["href"], a.text) for a in toc.within("a")]
    sections = [(f"#{s.attrs['id']}", s.within("h2")[0].text) for s in page.all("section") if s.within("h2")]

    assert len(sections) >= 3
    assert listed[:-1] == sections
    assert listed[-1][0] == "#source"


def test_every_picture_has_words(page):
    drawings = [e for e in page.all("svg") if e.attrs.get("role") == "img"]

    assert drawings
    assert [e for e in drawings if not (e.attrs.get("aria-label") or "").strip()] == []
    assert [e for e in page.all("svg") if e.attrs.get("role") != "img" and e.attrs.get("aria-hidden") != "true"] == []
    assert [e for e in page.all("img") if not (e.attrs.get("alt") or "").strip()] == []


def test_cells_of_our_tables_carry_the_label_of_their_column(page):
    for table in page.all("table"):
        if table.attrs.get("role") == "table":
            heads = [th.text for th in table.within("thead")[0].within("th")]
            rows = [row.children for row in table.within("tr")]

            assert [len(row) for row in rows] == [len(heads)] * len(rows)
            assert all([c.attrs["data-label"] for c in row[1:]] == heads[1:] for row in rows[1:])
            assert table.within("caption")[0].text.strip()


def test_page_is_readable_on_a_phone_in_the_dark_and_on_paper(page):
    metas = {e.attrs["name"]: e.attrs["content"] for e in page.all("meta") if "name" in e.attrs}

    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark"
    assert metas["description"].strip()
    css = page.all("style")[0].text
    assert "prefers-color-scheme: dark" in css and "@media print" in css


# --- the report of notebook 01


def unnamed(source):
    """HTML with single spaces and without the names of the parts of a drawing, which a page may change."""
    return " ".join(re.sub(r' id="[^"]*"|url\(#[^)]*\)|href="#[^"]*"', "", source).split())


@pytest.mark.parametrize("language", ["en", "vi"])
def test_setup_report_says_every_result(setup_notebook, language):
    page = Page(pages.report(setup_notebook, language, {}))

    given = [o["data"] for c in setup_notebook["cells"] for o in c.get("outputs", ())]
    assert len(given) >= 7
    source = unnamed(page.source)
    assert [source.count(unnamed(data[HTML_MIME][language])) for data in given] == [1] * len(given)
    answer = next(data[JSON_MIME] for data in given if data[JSON_MIME]["name"] == "answer")
    assert answer["sentence"][language] in page.all("title")[0].text


def test_setup_report_in_vietnamese_has_vietnamese_headings(setup_notebook):
    english, vietnamese = (Page(pages.report(setup_notebook, language, {})) for language in ("en", "vi"))

    heads = [[e.text for e in page.all("section")[0:9] for e in e.within("h2")] for page in (english, vietnamese)]
    assert len(heads[0]) == len(heads[1]) >= 5
    assert set(heads[0]).isdisjoint(heads[1])


# --- what the cells show


def every_output():
    return {
        "ours": ours("r", "<p>MARK-ours</p>"),
        "ours displayed": ours("r", "<p>MARK-ours-displayed</p>", "display_data"),
        "text": shown(text_plain="MARK-text"),
        "text displayed": shown("display_data", text_plain=["MARK-text-", "displayed"]),
        "html": shown(text_html="<b>MARK-html</b>", text_plain="no"),
        "html displayed": shown("display_data", text_html=["<b>MARK-html-", "displayed</b>"], text_plain="no"),
        "svg": shown(**{"image_svg+xml": '<svg role="img" aria-label="MARK-svg"></svg>'}, text_plain="no"),
        "png": shown("display_data", image_png=PNG, text_plain="MARK-png"),
        "stdout": {"output_type": "stream", "name": "stdout", "text": "MARK-stdout\n"},
        "stdout lines": {"output_type": "stream", "name": "stdout", "text": ["MARK-stdout-", "lines\n"]},
        "error": {"output_type": "error", "ename": "ValueError", "evalue": "MARK-error", "traceback": []},
    }


@pytest.mark.parametrize("name", list(every_output()))
def test_each_kind_of_output_appears_once(name):
    page = render(code("work", every_output()[name]))

    assert page.source.count("MARK-" + name.replace(" ", "-")) == 1
    assert page.problems == []


@pytest.mark.parametrize("tags", [[], ["hide-input"], ["answer"], ["lead"]])
def test_all_outputs_of_a_cell_appear_in_order(tags):
    page = render(code("work", *every_output().values(), tags=tags))

    marks = [name.replace(" ", "-") for name in every_output()]
    assert re.findall(r"MARK-([a-z-]*[a-z])", page.source) == marks


def test_our_output_is_shown_in_the_language_of_the_page():
    output = ours("r", "<p>in English</p>")

    assert "in English" in render(code("r", output)).text
    assert "in Tiếng Việt" in render(code("r", output), language="vi").text


def test_printed_text_is_shown_as_text():
    page = render(code("work", {"output_type": "stream", "name": "stdout", "text": "<b>5</b> & 6\n"}))

    assert "<b>5</b> & 6" in page.text
    assert page.all("b") == []


def test_output_that_needs_a_script_falls_back_to_its_text():
    script = '<div id="plot"></div><script src="https://cdn.example/plot.js">draw()</script>'

    page = render(code("figure", shown(text_html=script, text_plain="a plot of 7 points")))

    assert page.all("script") == [] and requests(page) == []
    assert "a plot of 7 points" in page.text


def test_code_is_folded_away_and_hidden_where_asked():
    page = render(
        code("months: int = 3", tags=["parameters"]),
        code("months = 4", tags=["injected-parameters"]),
        code("import this", tags=["hide-input"]),
        code('print("<b>5</b> & 6")'),
    )

    folded = [e for e in page.all("details") if e.attrs.get("class") == "code"]
    assert [e.within("code")[0].text for e in folded] == ['print("<b>5</b> & 6")']
    assert [e.attrs for e in folded] == [{"class": "code"}]  # not open
    assert len(page.all("code")) == 1


def test_provenance_stands_at_the_foot_as_text():
    told = {"data": "<shop> & sons", "data_to": {"en": "22 Nov 2026", "vi": "22/11/2026"}}

    feet = [render(language=language, provenance=told).all("footer")[0] for language in ("en", "vi")]

    assert [e.text for e in feet[0].within("dt")] == ["Data", "Data to"]
    assert [e.text for e in feet[0].within("dd")] == ["<shop> & sons", "22 Nov 2026"]
    assert [e.text for e in feet[1].within("dd")] == ["<shop> & sons", "22/11/2026"]


def test_title_is_text():
    page = render(title=("Q&A <fast>", "Hỏi & đáp"))

    assert page.problems == []
    assert page.all("h1")[0].text == "Q&A <fast>"


@pytest.mark.parametrize(
    "cells",
    [
        [markdown("Only text.")],
        [markdown("# 02 · Did it lift conversion?\n\nYes.")],
        [code("x", shown(text_plain="7"), tags=["answer"])],
        [code("x", ours("answer", "<h1>English answer</h1>"), tags=["answer"]), markdown("# 02 · Did it lift?")],
    ],
    ids=["no answer", "title cell", "answer without a heading", "answer and title cell"],
)
def test_there_is_one_main_heading_whatever_the_cells_hold(cells):
    assert len(render(*cells).all("h1")) == 1


# --- markdown


@pytest.mark.parametrize("text", ["so $x^2$ grows", "$x^2$", "so\n\n$$x^2$$\n\ngrows", "$$\nx^2\n$$", "($x^2$)."])
@pytest.mark.parametrize("language", ["en", "vi"])
def test_formula_becomes_a_drawing_with_its_tex_as_words(text, language):
    page = render(markdown(text), language=language)

    drawn = [e.attrs["aria-label"].strip() for e in page.all("svg") if e.attrs.get("class") == "formula"]
    assert drawn == ["x^2"]
    assert "$" not in page.text
    assert "drawn" not in page.text


def test_formula_with_signs_of_html_is_drawn():
    page = render(markdown("where $p < 0.05$ and $a > b$"))

    drawn = [e.attrs["aria-label"] for e in page.all("svg") if e.attrs.get("class") == "formula"]
    assert drawn == ["p < 0.05", "a > b"]
    assert page.problems == []


@pytest.mark.parametrize(
    "text",
    [
        "costs $5 to $6",
        "costs $5",
        "US$5 and US$6",
        "from $5, then $6, then $7",
        "between 5$ and 6$ today",
        "a budget of $ 5 or $ 6",
        "set `$HOME` and `$PATH`",
        "the formula is written `$x^2$`",
    ],
)
def test_money_and_code_are_no_formula(text):
    page = render(markdown(text))

    assert [e for e in page.all("svg") if e.attrs.get("class") == "formula"] == []
    assert text.replace("`", "") in page.text


BOTH = 'In English.\n\n<details lang="vi"><summary>Tiếng Việt</summary>\n\nBằng *tiếng mẹ đẻ* $x$.\n\n</details>\n'


def test_english_page_leaves_out_the_vietnamese():
    page = render(markdown(BOTH))

    assert "In English." in page.text
    assert "mẹ đẻ" not in page.source
    assert [e for e in page.all("details") if e.attrs.get("lang") == "vi"] == []


def test_vietnamese_page_takes_the_vietnamese_instead():
    page = render(markdown(BOTH), language="vi")

    assert "Bằng tiếng mẹ đẻ" in page.text
    assert "In English." not in page.source
    assert page.all("em")[0].text == "tiếng mẹ đẻ"
    assert page.all("details") == []  # unfolded, without its summary
    assert page.all("summary") == []


def test_text_without_vietnamese_stands_on_both_pages():
    assert "Same for all" in render(markdown("Same for all"), language="vi").text


def test_two_headings_in_one_cell_are_two_sections():
    page = render(markdown("## First\n\none\n\n## Second\n\ntwo"))

    sections = page.all("section")
    assert [s.within("h2")[0].text for s in sections] == ["First", "Second"]
    assert len({s.attrs["id"] for s in sections}) == 2
    assert ["one" in sections[0].text, "two" in sections[0].text] == [True, False]


def test_warnings_of_the_interpreter_do_not_reach_the_page():
    said = {"output_type": "stream", "name": "stderr", "text": "/home/x/plots.py:1: UserWarning: ticks"}

    assert pages._output(said, "en") == ""
    assert "ticks" in pages._output(said | {"name": "stdout"}, "en")
