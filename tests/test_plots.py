"""`kpi_helpers.plots`: charts that follow the page's colours, say their numbers, and are the same bytes twice."""

import re
from collections import defaultdict
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from kpi_helpers import plots

WEEKS = pd.date_range("2024-11-04", periods=120, freq="W-MON")
FORMULAS = [r"r^2", r"\frac{a}{b}", r"\frac{\sum x}{\sum y}", r"\sqrt{p\,(1-p)/n}", r"\hat{\beta} \pm z_{0.975} \, s"]


def draw_forecast(axes, narrow=False, **options):
    """Chart of a history with a gap, its forecast and last year."""
    values = 1000 + 200 * np.sin(np.arange(120) / 8)
    history = pd.Series(values[:108], index=WEEKS[:108])
    history.iloc[[80, 81]] = np.nan
    expected = pd.DataFrame(
        {"expected": values[108:], "expected_low": values[108:] - 90, "expected_high": values[108:] + 90,
         "last_year": values[56:68]}, index=WEEKS[108:],
    )  # fmt: skip
    options.setdefault("words", ("Actual", "Expected", "90% interval", "Dashed: last year"))
    return plots.forecast(history, expected, axes, narrow=narrow, **options)


def draw_bars(axes, narrow=False):
    """Another chart, with marks of its own."""
    axes.plot([1, 2, 3], [3, 1, 2], marker="o", color=plots.ORANGE)
    axes.bar([1, 2, 3], [1, 2, 3], color="#75808c")
    return axes


def made(draw=draw_forecast, **changed):
    """A chart with plain words."""
    words = {"title": "Orders fall", "note": "Orders per week", "alt": "1,234 orders expected, 1,100 to 1,400"}
    return plots.chart(draw, **words | changed)


@pytest.fixture(scope="module")
def forecast_chart():
    return made()


def drawings(page):
    """Roots of the SVGs of a page; fails if one is no well-formed XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


@pytest.fixture(scope="module", params=["forecast", "bars", *FORMULAS])
def page(request):
    """Each kind of drawing in turn."""
    charts = {"forecast": draw_forecast, "bars": draw_bars}
    return made(charts[request.param]) if request.param in charts else plots.formula(request.param)


def test_a_drawing_runs_and_loads_nothing(page):
    tags = {element.tag for root in drawings(page) for element in root.iter()}
    attributes = {name for root in drawings(page) for element in root.iter() for name in element.attrib}

    assert tags <= {"svg", "defs", "g", "path", "rect", "use", "text", "tspan", "clipPath"}
    assert [name for name in attributes if name.startswith("on")] == []
    assert re.findall(r"https?:|javascript:|@import|<style|<script|<image|data:", page) == []
    assert re.findall(r'(?:href="|url\()(?!#)', page) == []


def test_every_colour_is_a_variable_of_the_page(page):
    bare = re.sub(r"var\(--[a-z-]+, #[0-9a-f]{6}\)", "", page)

    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?!\")", re.sub(r'(?:href="|url\()#[^")]+', "", bare)) == []
    assert re.findall(r"(?:fill|stroke|color)[:=]\"? *(?!none|var|;|\")\w+", bare) == []
    for name, colour in re.findall(r"var\(--([a-z-]+), #([0-9a-f]{6})\)", page):
        assert plots.TOKENS[colour] == name


def test_no_mark_falls_back_to_black(page):
    # black is what a browser paints where no fill is said: unreadable on a dark page
    def unpainted(element, painted):
        painted = painted or "fill" in element.get("style", "") or element.get("fill") is not None
        shown = element.tag in ("text", "tspan", "rect", "use") and (element.text or "").strip() + element.tag != "text"
        own = [element.tag] if shown and not painted else []
        return own + [
            tag for child in element if element.tag not in ("defs", "clipPath") for tag in unpainted(child, painted)
        ]

    assert [tag for root in drawings(page) for tag in unpainted(root, False)] == []


def test_an_id_names_one_thing_on_a_page_of_many_charts(forecast_chart):
    page = forecast_chart + made(draw_bars) + made(lambda axes, narrow: draw_forecast(axes, narrow, scale=10.0))
    page += "".join(map(plots.formula, FORMULAS))
    meant = defaultdict(set)
    for root in drawings(page):
        for element in root.iter():
            if name := element.attrib.pop("id", None):
                meant[name].add(re.sub(r"\s+", " ", ElementTree.tostring(element, encoding="unicode")))

    assert meant
    assert {name: bodies for name, bodies in meant.items() if len(bodies) > 1} == {}
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert used == set(meant)  # every reference finds its mark, and no id stands idle


def test_each_drawing_refers_only_to_its_own_marks(forecast_chart):
    # on a phone the wide drawing is not displayed, and a mark inside it would not be painted
    for root in drawings(forecast_chart):
        text = ElementTree.tostring(root, encoding="unicode")
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == set(re.findall(r' id="([^"]+)"', text))


def test_a_chart_is_drawn_twice_and_says_its_numbers():
    wide, narrow = drawings(made(alt='1,234 orders & <5% "more"'))

    assert (wide.get("class"), narrow.get("class")) == ("wide", "narrow")
    assert (wide.get("viewBox"), narrow.get("viewBox")) == ("0 0 800 372", "0 0 358 300")
    for root in (wide, narrow):
        assert root.get("role") == "img"
        assert root.get("aria-label") == '1,234 orders & <5% "more"'
        assert root.get("width") is root.get("height") is None  # the page gives the size


def test_title_and_note_are_text_not_markup():
    page = made(title="Orders < plan & behind", note='per week <script>alert("x")</script>')
    caption = ElementTree.fromstring(page[page.index("<figcaption>") : page.index("</figcaption>") + 13])

    assert caption.text == "Orders < plan & behind"
    assert caption.find("small").text == 'per week <script>alert("x")</script>'
    assert "<script" not in page


def test_the_same_chart_is_the_same_bytes(forecast_chart):
    assert made() == forecast_chart
    assert made(draw_bars) == made(draw_bars) != forecast_chart


def test_the_same_formula_is_the_same_bytes():
    assert [plots.formula(tex) for tex in FORMULAS] == [plots.formula(tex) for tex in FORMULAS]


def test_drawing_leaves_the_style_of_others_alone():
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        before = dict(mpl.rcParams)
        made()

        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("label", ["11.11", "12.12 and 3.14159", "2.25%", "#0a5fa0", "<1%", "38.600 ₫"])
def test_a_label_is_never_rounded_or_rewritten(label):
    page = made(lambda axes, _narrow: axes.annotate(label, (0.5, 0.5)), alt=f"Sold {label}")

    for root in drawings(page):
        assert label in [text.text for text in root.iter("text")]
        assert root.get("aria-label") == f"Sold {label}"


def test_coordinates_are_short(forecast_chart):
    assert re.findall(r"<path[^>]*?[ \"]-?\d+\.\d\d", forecast_chart) == []


def test_the_forecast_shows_history_gap_and_interval():
    axes = draw_forecast(plots.new_axes(800, 372))
    history, expected, last_year = (line.get_ydata() for line in axes.lines)

    assert len(history) == 108
    assert np.isnan(history[[80, 81]]).all()  # a gap is a gap, not a zero
    assert len(expected) == len(last_year) == 12
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > max(expected) + 90
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((expected.min() - 90, expected.max() + 90))


def test_the_phone_shows_a_shorter_history_that_ends_alike():
    wide, narrow = (draw_forecast(plots.new_axes(w, 300), n).lines[0] for w, n in ((800, False), (358, True)))

    assert len(narrow.get_ydata()) < len(wide.get_ydata())
    assert narrow.get_xdata()[-1] == wide.get_xdata()[-1]


def test_labels_stand_at_the_lines_and_no_legend_is_needed():
    words = ("Thực tế", "Dự kiến", "khoảng dự báo 90%", "Nét đứt: cùng kỳ năm trước")
    page = made(lambda axes, narrow: draw_forecast(axes, narrow, words=words, language="vi"))

    for root in drawings(page):
        shown = [text.text for text in root.iter("text")]
        assert all(any(word in (text or "") for text in shown) for word in words)
        assert any(re.fullmatch(r"Th\d+/20\d\d", text or "") for text in shown)
        assert "1.000" in shown  # the axis reads as the language writes


def test_the_scale_divides_everything_drawn():
    plain, thousands = (draw_forecast(plots.new_axes(800, 372), scale=s) for s in (1.0, 1000.0))

    for one, other in zip(plain.lines, thousands.lines, strict=True):
        assert other.get_ydata() == pytest.approx(one.get_ydata() / 1000, nan_ok=True)
    assert thousands.get_ylim()[1] == pytest.approx(plain.get_ylim()[1] / 1000)


def test_last_year_that_is_not_known_is_left_out():
    history = pd.Series(np.arange(20.0), index=WEEKS[:20])
    unknown = pd.DataFrame(dict.fromkeys(("expected", "expected_low", "expected_high"), 20.0), index=WEEKS[20:24])

    axes = plots.forecast(
        history, unknown.assign(last_year=np.nan), plots.new_axes(800, 372), words=("a", "b", "c", "d")
    )

    assert np.isnan(axes.lines[2].get_ydata()).all()


@pytest.mark.parametrize("tex", FORMULAS)
def test_a_formula_reads_out_its_tex(tex):
    (root,) = drawings(plots.formula(tex))

    assert root.get("aria-label") == tex
    assert root.get("role") == "img"
    assert re.fullmatch(r"width:\d+\.\d\dem", root.get("style"))


def test_a_fraction_has_numerator_bar_and_denominator():
    (root,) = drawings(plots.formula(r"\frac{x}{y}"))
    at = {span.text: float(span.get("y")) for span in root.iter("tspan")}
    (bar,) = root.iter("rect")

    assert at["x"] < float(bar.get("y")) < at["y"]  # downwards on a page
    assert float(bar.get("width")) > 0
    assert float(bar.get("height")) > 0


@pytest.mark.parametrize("tex", FORMULAS)
def test_a_formula_keeps_inside_its_box(tex):
    (root,) = drawings(plots.formula(tex))
    _left, _top, width, height = map(float, root.get("viewBox").split())
    (shift,) = {g.get("transform") for g in root.iter("g")} - {None}
    dx, dy = map(float, re.fullmatch(r"translate\((\S+) (\S+)\)", shift).groups())

    for mark in [*root.iter("tspan"), *root.iter("rect")]:
        for x in mark.get("x").split():
            assert -0.5 <= float(x) + dx <= width + 0.5
        assert -0.5 <= float(mark.get("y")) + dy <= height + 0.5
