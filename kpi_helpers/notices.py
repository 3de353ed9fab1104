"""Alerts delivered once per alert and date to mail, chat or webhook; what fails is tried again at the next run."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kpi_helpers.errors import KpiError, require
from kpi_helpers.result import dump, say, session_language

STATE = "_notices.json"
URLS, CONFIG, LINK = "KPI_NOTIFY_URLS", "KPI_NOTIFY_CONFIG", "KPI_REPORTS_URL"
HOME = "~/.config/kpi_helpers/notify.yml"


def targets() -> dict[str, str]:
    """Addresses to deliver to, by a digest of each: they hold secrets, so nothing else is ever written down.

    They come from the environment (``KPI_NOTIFY_URLS``, apart by blanks) and from a YAML list in the file that
    ``KPI_NOTIFY_CONFIG`` names, or in ``~/.config/kpi_helpers/notify.yml``. Raises a `KpiError` if that is no list.
    """
    place = Path(os.environ.get(CONFIG, HOME)).expanduser()
    try:
        told = yaml.safe_load(place.read_text(encoding="utf-8")) if place.is_file() else []
    except (yaml.YAMLError, ValueError):  # its message would quote the line
        raise KpiError(f"{place} is no YAML in UTF-8. Write one address a line: '- scheme://...'.") from None
    fine = isinstance(told or [], list) and all(isinstance(url, str) for url in told or [])
    require(fine, f"{place} must be a list of addresses, each '- scheme://...'.")
    urls = [*os.environ.get(URLS, "").split(), *(told or [])]
    return {sha256(url.encode()).hexdigest()[:12]: url for url in urls}


def deliver(out: Path, records: Sequence[Mapping[str, Any]], tell: Callable[[str], None]) -> None:
    """Send what is new in the `records` of runs, and what could not be sent before; never fail for it.

    What waits goes to each address of today that has not had it: a corrected address gets it, the others do not again.
    """
    if not (to := targets()):
        tell(f"notify: nowhere to send to. Set {URLS}, or list addresses in {HOME}.")
        return
    seen, waiting, sent = *_state(out, tell), 0
    for record in records:
        fresh = [a for a in record["alerts"] if not a["muted"] and _fresh(record, a, seen)]
        for key in (_key(record, a) for a in record["alerts"] if not a["muted"]):
            seen[key] = max(record["as_of"], seen.get(key, ""))
        waiting += [{**_message(record, fresh), "done": [], "tried": 0}] if fresh else []
    for message in waiting:
        for digest in sorted(set(to) - set(message["done"])):
            if reason := _failure(to[digest], message, out):
                kind = re.match(r"\w+(?=://)", to[digest])
                tell(f"notify: {kind[0] if kind else 'an address'} did not take {message['title']!r}: {reason}; "
                     "tried again next time")  # fmt: skip
                message["reason"] = reason
            else:
                message["done"].append(digest)
                sent += 1
        message["tried"] += 1
    left = [message for message in waiting if set(to) - set(message["done"])]
    tell(f"notify: {sent} sent, {len(left)} waiting")
    try:
        (part := out / f"{STATE}.part").write_text(dump({"seen": seen, "waiting": left}), encoding="utf-8")
        part.replace(out / STATE)
    except OSError as error:
        tell(f"notify: {STATE} could not be written ({error.strerror}), so the next run sends them again")


def _state(out: Path, tell: Callable[[str], None]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Alerts that were told, with the last day on which they were, and messages that wait."""
    try:
        told = json.loads((out / STATE).read_text(encoding="utf-8")) if (out / STATE).exists() else {}
        seen, waiting = dict(told.get("seen", {})), list(told.get("waiting", []))
        for message in waiting:
            _ = message["title"] + message["text"] + message["page"], message["tried"] + len(message["done"])
        _ = "".join(seen.values())
        return seen, waiting
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        tell(f"notify: {STATE} could not be read; what is active is sent again")
        return {}, []


def _key(record: Mapping[str, Any], alert: Mapping[str, Any], *, on: bool = True) -> str:
    told = (record["notebook"], record["key"], alert["rule"], alert["kpi"], alert["kind"], alert["date"] if on else "")
    return " | ".join(map(str, told))


def _fresh(record: Mapping[str, Any], alert: Mapping[str, Any], seen: Mapping[str, str]) -> bool:
    """Whether it was never told; if `open`, whose first day is only the first that is shown, on no day since then."""
    same = _key(record, alert, on=False)
    known = any(key.startswith(same) and last >= alert["date"] for key, last in seen.items())
    return _key(record, alert) not in seen and not (alert["open"] and known)


def _message(record: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Title and text: the headline of the report, each alert with its why and owner, and where the report is."""
    language = session_language()
    title = say("notice.title", language, report=record["title"][language], day=record["as_of"], n=len(alerts))
    page = f"{record['folder']}/report{'.vi' * (language == 'vi')}.html"
    lines = [record["headline"][language]]
    for a in alerts:
        named, owner = (f"{a['name']}: " if a["name"] else ""), (f" @{a['owner']}" if a["owner"] else "")
        lines.append(f"{named}{a['sentence'][language]}{owner}")
    head, *items = map(escape, lines)
    link = f"<p>{escape(os.environ[LINK].rstrip('/'))}/{page}</p>" if os.environ.get(LINK) else ""
    text = f"<p>{head}</p><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>{link}"
    return {"title": title, "text": text, "page": page}


def _failure(url: str, message: Mapping[str, Any], out: Path) -> str:
    """Deliver a message; why it failed, in words that hold no address, or nothing."""
    import apprise

    try:
        if (service := apprise.Apprise.instantiate(url)) is None:
            return "apprise does not understand the address"
        (sender := apprise.Apprise()).add(service)
        page, told = out / message["page"], {"title": message["title"], "body": message["text"]}
        attach = str(page) if page.exists() and service.attachment_support else None
        form = apprise.NotifyFormat.HTML  # of which it makes plain text where a service wants that
        sent = sender.notify(**told, attach=attach, body_format=form)
        return "" if sent else "refused, or no connection: check host, port and password"
    except Exception as error:  # a service may raise what it likes; its words may hold the address
        return type(error).__name__
