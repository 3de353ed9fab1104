"""Executed notebook in, offline HTML page out; and the index of all reports."""

import html
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from kpi_helpers import __version__, plots
from kpi_helpers.editions import results, source_of, tags
from kpi_helpers.result import HTML_MIME, Text, day, pill, plain

WORDS = {
    "skip": Text("Skip to the answer", "Đến phần trả lời"),
    "brand": Text("KPI reports", "Báo cáo KPI"),
    "languages": Text("Language", "Ngôn ngữ"),
    "toc": Text("On this page", "Trong trang này"),
    "source": Text("Source", "Nguồn"),
    "provenance": Text("Where these numbers come from", "Số liệu lấy từ đâu"),
    "code": Text("Code of this step", "Mã của bước này"),
}
PAGE_NAMES = {"en": ("English", ".html"), "vi": ("Tiếng Việt", ".vi.html")}
VIETNAMESE = re.compile(r'<details lang="vi">\s*(?:<summary>.*?</summary>)?(.*?)</details>', re.DOTALL)


def report(notebook: Mapping[str, Any], language: str, provenance: Sequence[tuple[Text, Text]]) -> str:
    """HTML of an executed notebook in one language.

    Cells tagged ``answer`` head the page and cells tagged ``lead`` follow; every ``## heading`` begins a
    section. A markdown cell carries its Vietnamese in ``<details lang="vi">``.
    """
    answer = "".join(_outputs(c, language) for c in notebook["cells"] if "answer" in tags(c))
    lead = "".join(_outputs(c, language) for c in notebook["cells"] if "lead" in tags(c))
    said = {r["name"]: r["sentence"][language] for r in results(notebook)}
    title = Text(**notebook["metadata"]["kpi"]["title"])[language]
    headline = said.get("answer", title)
    return _page(
        "report", language, home="../../index" + PAGE_NAMES[language][1], title=f"{headline} | {title}",
        description=headline, answer=answer or f"<h1>{title}</h1>", lead=lead, toc=True,
        blocks=_blocks(notebook, language),
        provenance=[(html.escape(t[language]), html.escape(v[language])) for t, v in provenance],
    )  # fmt: skip


def markdown(text: str, language: str) -> str:
    """HTML of a markdown text in one language, formulas drawn.

    >>> markdown('Hello <details lang="vi"><summary>Tiếng Việt</summary>\\n\\nXin chào\\n\\n</details>', "vi")
    '<p>Xin chào</p>\\n'
    """
    import mistune

    vietnamese = VIETNAMESE.search(text)
    text = vietnamese[1] if vietnamese and language == "vi" else VIETNAMESE.sub("", text)
    drawn: list[str] = []

    def keep(match: re.Match[str]) -> str:
        drawn.append(plots.formula(match[1] or match[2]))
        return f"formula-{len(drawn) - 1}-drawn"

    text = re.sub(r"\$\$(.+?)\$\$|(?<![\w$])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", keep, text, flags=re.DOTALL)
    made = str(mistune.create_markdown(escape=False, plugins=["table"])(text.strip()))
    return re.sub(r"formula-(\d+)-drawn", lambda m: drawn[int(m[1])], made)


def _blocks(notebook: Mapping[str, Any], language: str) -> list[dict[str, str]]:
    blocks = [{"id": "begin", "title": "", "html": ""}]
    for number, c in enumerate(notebook["cells"]):
        if {"answer", "lead", "parameters", "injected-parameters"} & set(tags(c)):
            continue
        if c["cell_type"] == "markdown":
            made = markdown(source_of(c), language)
            head, *rest = re.split(r"<h2>(.*?)</h2>", made)
            blocks[-1]["html"] += head
            for title, body in zip(rest[::2], rest[1::2], strict=True):
                blocks.append({"id": f"s{number}", "title": title, "html": body})
        else:
            blocks[-1]["html"] += _outputs(c, language)
            if "hide-input" not in tags(c):
                code = html.escape(source_of(c).strip())
                words = WORDS["code"][language]
                blocks[-1]["html"] += (
                    f'<details class="code"><summary>{words}</summary><pre tabindex="0"><code>{code}</code></pre></details>'
                )
    return [b for b in blocks if b["title"] or b["html"].strip()]


def _outputs(cell: Mapping[str, Any], language: str) -> str:
    return "".join(_output(o, language) for o in cell.get("outputs", ()))


def _output(output: Mapping[str, Any], language: str) -> str:
    """HTML of one output: ours in the language of the page, else the richest that needs no script."""
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(_joined(output['text']))}</pre>"
    if output["output_type"] == "error":
        return f"<pre>{html.escape(output['ename'])}: {html.escape(output['evalue'])}</pre>"
    data = output["data"]
    alt = html.escape(_joined(data.get("text/plain", "")), quote=True)
    if HTML_MIME in data:
        return str(data[HTML_MIME][language])
    if "image/svg+xml" in data:
        return _joined(data["image/svg+xml"])
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{_joined(data["image/png"]).strip()}" alt="{alt}">'
    if "text/html" in data:
        return f'<div class="scroll">{_joined(data["text/html"])}</div>'
    return f"<pre>{alt}</pre>"


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "".join(text)


def index(runs: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]], language: str) -> str:
    """HTML of the index: failures first, then each report with its answer and its last six runs.

    `runs` are the ``run.json`` records of published reports, each with ``headline``, ``title``, ``label``
    and ``folder``; `failures` have ``title``, ``label``, ``as_of`` and ``message``.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda r: (r["notebook"], r["key"], r["as_of"])):
        groups.setdefault((run["notebook"], run["key"]), []).append(run)
    n = len(groups)
    headline = Text(
        f"{n} report{'s' * (n != 1)} published. " + (f"{len(failures)} failed." if failures else "None failed."),
        f"Đã xuất {n} báo cáo. " + (f"{len(failures)} báo cáo lỗi." if failures else "Không có lỗi."),
    )[language]
    failed = {(f["notebook"], f["key"]) for f in failures}
    items = "".join(_index_item(g, (g[-1]["notebook"], g[-1]["key"]) in failed, language) for g in groups.values())
    latest = max((r["as_of"] for r in runs), default="")
    kicker = f"<b>{WORDS['brand'][language]}</b>"
    if latest:
        kicker += Text(f", data to {_day(latest, 'en')}", f", dữ liệu đến {_day(latest, 'vi')}")[language]
    return _page(
        "index", language, home="index" + PAGE_NAMES[language][1], title=f"{WORDS['brand'][language]} | {headline}",
        description=headline, answer=f'<p class="kicker">{kicker}</p><h1>{headline}</h1>',
        lead="".join(_callout(f, language) for f in failures), toc=False,
        blocks=[{"id": "reports", "title": Text("Reports", "Các báo cáo")[language],
                 "html": f'<ol class="report-list">{items}</ol>'}],
        provenance=[(Text("Version", "Phiên bản")[language], f"kpi_helpers {__version__}")],
    )  # fmt: skip


def _index_item(group: Sequence[Mapping[str, Any]], failed: bool, language: str) -> str:
    run, ending = group[-1], PAGE_NAMES[language][1]
    past = "".join(
        f'<li><a class="good" href="{r["folder"]}/report{ending}" title="{r["as_of"]}">'
        f'<svg class="icon" role="img" aria-label="{r["as_of"]}"><use href="#i-good"/></svg></a></li>'
        for r in group[-6:]
    )
    status = pill("behind" if failed else "on track", language)
    word = Text("Failed, last good shown", "Lỗi, giữ bản gần nhất") if failed else Text("Current", "Mới nhất")
    status = re.sub(r"</svg>.*?</span>", f"</svg>{word[language]}</span>", status)
    other = "vi" if language == "en" else "en"
    name, end = PAGE_NAMES[other]
    also = Text("also in", "bản")[language]
    until = Text(f"Data to {_day(run['as_of'], 'en')}", f"Dữ liệu đến {_day(run['as_of'], 'vi')}")[language]
    title, label = html.escape(Text(**run["title"])[language]), html.escape(run["label"])
    said = html.escape(run["headline"][language])
    return (
        f'<li class="report"><span class="no">{run["notebook"][:2]}</span>'
        f'<div><h3><a href="{run["folder"]}/report{ending}">{title}{": " + label if label else ""}</a></h3><p>{said}</p>'
        f'<p class="meta">{until} · {also} <a href="{run["folder"]}/report{end}" lang="{other}">{name}</a></p></div>'
        f'<div class="side"></div><div class="side">{status}<ul class="runs">{past}</ul></div></li>'
    )


def _callout(failure: Mapping[str, Any], language: str) -> str:
    title, label = Text(**failure["title"])[language], failure["label"]
    did = Text("did not run", "không chạy được")[language]
    return (
        f'<div class="callout is-bad"><h2>{html.escape(title)}{": " + html.escape(label) if label else ""} {did}</h2>'
        f"<p>{html.escape(failure['message'])}</p><p class=\"small muted\">{_day(failure['as_of'], language)}</p></div>"
    )


def _day(iso: str, language: str) -> str:
    from datetime import date

    try:
        return day(date.fromisoformat(iso), language)
    except ValueError:
        return iso


@cache
def _asset(name: str) -> str:
    return files("kpi_helpers").joinpath(name).read_text(encoding="utf-8")


def _page(stem: str, language: str, **parts: Any) -> str:
    import jinja2

    parts |= {"title": plain(parts["title"]), "description": plain(parts["description"])}
    template = jinja2.Environment(autoescape=False).from_string(_asset("report.html.j2"))  # noqa: S701
    links = [(code, name, stem + ending) for code, (name, ending) in PAGE_NAMES.items()]
    words = {key: text[language] for key, text in WORDS.items()}
    made = template.render(language=language, css=_asset("style.css"), links=links, words=words, **parts)
    return re.sub(r"[ \t]+\n", "\n", made)
