"""Alerts delivered once per alert and date to mail, chat or webhook; what fails is tried again at the next run."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from kpi_helpers.errors import require
from kpi_helpers.result import dump, say, session_language

STATE = "_notices.json"
URLS, CONFIG, LINK = "KPI_NOTIFY_URLS", "KPI_NOTIFY_CONFIG", "KPI_REPORTS_URL"
HOME = "~/.config/kpi_helpers/notify.yml"


def targets() -> dict[str, str]:
    """Addresses to deliver to, by a digest of each: they hold secrets, so nothing else is ever written down.

    They come from the environment (``KPI_NOTIFY_URLS``, apart by blanks) and from a YAML list in the file that
    ``KPI_NOTIFY_CONFIG`` names, or in ``~/.config/kpi_helpers/notify.yml``.
    """
    place = Path(os.environ.get(CONFIG, HOME)).expanduser()
    told = yaml.safe_load(place.read_text(encoding="utf-8")) if place.is_file() else []
    fine = isinstance(told or [], list) and all(isinstance(url, str) for url in told or [])
    require(fine, f"{place} must be a list of addresses, each '- scheme://...'.")
    urls = [*os.environ.get(URLS, "").split(), *(told or [])]
    return {sha256(url.encode()).hexdigest()[:12]: url for url in urls}


def deliver(out: Path, records: Sequence[Mapping[str, Any]], tell: Callable[[str], None]) -> None:
    """Send what is new in the `records` of runs, and what could not be sent before; never fail for it."""
    place, to = out / STATE, targets()
    state = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"seen": [], "waiting": []}
    if not to:
        tell(f"notify: nowhere to send to. Set {URLS}, or list addresses in {HOME}.")
        return
    seen = set(state["seen"])
    for record in records:
        fresh = [a for a in record["alerts"] if not a["muted"] and _key(record, a) not in seen]
        if fresh:
            seen |= {_key(record, a) for a in fresh}
            state["waiting"] += [{"to": digest, "tried": 0, **_message(record, fresh)} for digest in sorted(to)]
    left = []
    for message in state["waiting"]:
        if message["to"] in to and not _sent(to[message["to"]], message, out):
            kind = re.match(r"\w+", to[message["to"]])
            tell(f"notify: {kind[0] if kind else 'a target'} did not take {message['title']!r}; tried again next time")
            left.append({**message, "tried": message["tried"] + 1})
    n = len(state["waiting"]) - len(left)
    tell(f"notify: {n} sent, {len(left)} waiting")
    part = place.with_suffix(".part")
    part.write_text(dump({"seen": sorted(seen), "waiting": left}), encoding="utf-8")
    part.replace(place)


def _key(record: Mapping[str, Any], alert: Mapping[str, Any]) -> str:
    told = (record["notebook"], record["key"], alert["rule"], alert["kpi"], alert["kind"], alert["date"])
    return " | ".join(map(str, told))


def _message(record: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Title and text: the headline of the report, each alert with its why and owner, and where the report is."""
    language = session_language()
    title = say("notice.title", language, report=record["title"][language], day=record["as_of"], n=len(alerts))
    lines = [record["headline"][language], ""]
    lines += [f"- {a['sentence'][language]}{' @' + a['owner'] if a['owner'] else ''}" for a in alerts]
    page = f"{record['folder']}/report{'.vi' * (language == 'vi')}.html"
    home = os.environ.get(LINK, "").rstrip("/")
    return {"title": title, "text": "\n".join(lines + (["", f"{home}/{page}"] if home else [])), "page": page}


def _sent(url: str, message: Mapping[str, Any], out: Path) -> bool:
    import apprise

    try:
        service = apprise.Apprise.instantiate(url)
        if service is None:
            return False
        page = out / message["page"]
        attach = str(page) if page.exists() and service.attachment_support else None
        return bool(service.notify(body=message["text"], title=message["title"], attach=attach))
    except Exception:  # a service may raise what it likes; its words may hold the address
        return False
