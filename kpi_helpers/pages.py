"""Executed notebook in, offline HTML page out; and the index of all reports."""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from itertools import groupby
from typing import Any

from kpi_helpers import __version__, plots
from kpi_helpers.editions import results, source_of, tags
from kpi_helpers.result import HTML_MIME, asset, day, labelled_pill, plain, say

PAGE_NAMES = {"en": ("English", ".html"), "vi": ("Tiếng Việt", ".vi.html")}
VIETNAMESE = re.compile(r'<details lang="vi">\s*(?:<summary>.*?</summary>)?(.*?)</details>', re.DOTALL)


def report(
    notebook: Mapping[str, Any], language: str, provenance: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]] = ()
) -> str:
    """HTML of an executed notebook in one language: its alerts and cells tagged ``answer``, ``lead``, then sections."""
    cells, title = notebook["cells"], notebook["metadata"]["kpi"]["title"][language]
    shown = {tag: "".join(_outputs(c, language) for c in cells if tag in tags(c)) for tag in ("answer", "lead")}
    headline = {r["name"]: r["sentence"][language] for r in results(notebook)}.get("answer", title)
    if "<h1" not in shown["answer"]:
        shown["answer"] = f"<h1>{html.escape(title)}</h1>{shown['answer']}"
    parts = {**shown, "toc": True, "blocks": _blocks(notebook, language), "alerts": alerts}
    return _page("report", language, "../../index", f"{headline} | {title}", headline, provenance, **parts)


def markdown(text: str, language: str) -> str:
    """HTML of a markdown text in one language, formulas drawn."""
    import mistune

    vietnamese = VIETNAMESE.search(text)
    text = vietnamese[1] if vietnamese and language == "vi" else VIETNAMESE.sub("", text)
    drawn: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if not match[0].startswith("`"):  # code stays code
            drawn.append(plots.formula((match[1] or match[2]).strip()))
        return match[0] if match[0].startswith("`") else f"formula-{len(drawn) - 1}-drawn"

    text = re.sub(r"`[^`]+`|\$\$(.+?)\$\$|(?<![\w$])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", keep, text, flags=re.DOTALL)
    made = str(mistune.create_markdown(escape=False, plugins=["table"])(text.strip()))
    made = re.sub(r"<(/?)h1>", r"<\1h2>", made)  # the answer is the one h1
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
            pairs = enumerate(zip(rest[::2], rest[1::2], strict=True))
            blocks += [{"id": f"s{number}-{n}", "title": title, "html": body} for n, (title, body) in pairs]
        else:
            blocks[-1]["html"] += _outputs(c, language)
            if "hide-input" not in tags(c):
                block = f'<pre tabindex="0"><code>{html.escape(source_of(c).strip())}</code></pre>'
                summary = f"<summary>{say('page.code', language)}</summary>"
                blocks[-1]["html"] += f'<details class="code">{summary}{block}</details>'
    return [b for b in blocks if b["title"] or b["html"].strip()]


def _outputs(cell: Mapping[str, Any], language: str) -> str:
    # ids of drawings and names of tabs are unique on the page: the cell, and the output within it
    name, made = re.sub(r"\W", "-", str(cell.get("id", "cell"))), ""
    for n, output in enumerate(cell.get("outputs", ())):
        mine = rf"\g<1>{name}-{n}-"
        made += re.sub(r'( id="|url\(#|href="#| name=")(?=(?:wide|narrow|tabs)-)', mine, _output(output, language))
    return made


def _output(output: Mapping[str, Any], language: str) -> str:
    """HTML of one output: ours in the language of the page, else the richest that needs no script."""
    if output.get("name") == "stderr":
        return ""  # warnings are for whoever runs it
    if "data" not in output:  # what was printed, or an error
        printed = output["output_type"] == "stream"
        told = "".join(output["text"]) if printed else f"{output['ename']}: {output['evalue']}"
        return f"<pre>{html.escape(told)}</pre>"
    data = {kind: "".join(made) for kind, made in output["data"].items() if isinstance(made, str | list)}
    alt = html.escape(data.get("text/plain", ""))
    if HTML_MIME in output["data"]:
        return str(output["data"][HTML_MIME][language])
    if "image/svg+xml" in data:
        return data["image/svg+xml"]
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="{alt}">'
    if "text/html" in data and "<script" not in data["text/html"]:
        return f'<div class="scroll">{data["text/html"]}</div>'
    return f"<pre>{alt}</pre>"


def index(runs: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]], language: str) -> str:
    """HTML of the index from the records of runs and failures: failures first, then each report with its last runs."""
    ordered = sorted(runs, key=lambda r: (r["notebook"], r["key"], r["as_of"]))
    groups = {one: list(made) for one, made in groupby(ordered, key=lambda r: (r["notebook"], r["key"]))}
    fate = say("index.failed", language, n=len(failures)) if failures else say("index.none_failed", language)
    headline = f"{say('index.published', language, n=len(groups))} {fate}"
    active = [a for made in groups.values() for a in made[-1]["alerts"] if not a["muted"]]
    headline += f" {say('index.alerts', language, n=len(active))}." if active else ""
    brand, latest = say("page.brand", language), max((r["as_of"] for r in runs), default="")
    until = say("index.to", language, day=iso_day(latest, language)) if latest else ""
    answer = f'<p class="kicker"><b>{brand}</b>{until}</p><h1>{headline}</h1>'
    parts = {"answer": answer, "failures": failures, "reports": groups.items()}
    parts["failed"], version = [(f["notebook"], f["key"]) for f in failures], {"version": f"kpi_helpers {__version__}"}
    return _page("index", language, "index", f"{brand} | {headline}", headline, version, **parts)


def iso_day(iso: str, language: str) -> str:
    """Write an ISO date for a reader; what is no date stays as it is."""
    try:
        return day(date.fromisoformat(iso), language)
    except ValueError:
        return iso


def _page(
    stem: str, language: str, home: str, title: str, description: str, provenance: Mapping[str, Any], **parts: Any
) -> str:
    import jinja2

    templates = jinja2.Environment(autoescape=False)
    templates.filters["e"] = html.escape
    ending, links = PAGE_NAMES[language][1], [(code, name, stem + end) for code, (name, end) in PAGE_NAMES.items()]
    parts |= {"language": language, "css": asset("style.css"), "links": links, "ending": ending, "home": home + ending}
    parts |= {"title": plain(title), "description": plain(description), "provenance": provenance}
    ways = {"say": partial(say, language=language), "day": partial(iso_day, language=language), "pill": labelled_pill}
    return re.sub(r"[ \t]+\n", "\n", templates.from_string(asset("report.html.j2")).render(**parts, **ways))
