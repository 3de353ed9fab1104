"""Alerts delivered to a real mail server and a real webhook on loopback: once, tried again, no address written down."""

import json
import socket
import socketserver
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kpi_helpers import notices
from kpi_helpers.errors import KpiError


class Mail(socketserver.StreamRequestHandler):
    """A mail server that takes everything: the commands of RFC 5321 that a client needs."""

    def handle(self):
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.taken.append(message_from_bytes(b"".join(lines)))
            said = {b"QUIT": b"221 bye", b"EHLO": b"250-test\r\n250 AUTH PLAIN", b"AUTH": b"235 welcome"}
            self.wfile.write(said.get(word, b"250 ok") + b"\r\n")
            if word == b"QUIT":
                return


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def serving(kind, handler, port=0):
    server = kind(("127.0.0.1", port), handler)
    server.taken = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture
def mail():
    server = serving(socketserver.ThreadingTCPServer, Mail)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hook():
    server = serving(HTTPServer, Hook)
    yield server
    server.shutdown()
    server.server_close()


def mail_url(server):
    port = server.server_address[1]
    return f"mailto://me:secret-word@127.0.0.1:{port}?from=kpi@example.com&to=you@example.com&mode=insecure"


def hook_url(port):
    return f"json://user:secret-word@127.0.0.1:{port}/hook"


def alert(day="2026-11-20", **more):
    sentence = {"en": f"Orders fell on {day}: Ads.", "vi": f"Đơn hàng giảm ngày {day}: Ads."}
    return {
        "rule": "r",
        "name": "",
        "open": False,
        "kpi": "orders",
        "kind": "dip",
        "date": day,
        "muted": False,
        "owner": "Lan",
        "sentence": sentence,
    } | more


@pytest.fixture
def out(tmp_path):
    place = tmp_path / "reports" / "02" / "2026-11-21"
    place.mkdir(parents=True)
    (place / "report.html").write_text("<h1>report</h1>", encoding="utf-8")
    return tmp_path / "reports"


def record(*alerts):
    headline = {"en": "The headline", "vi": "Kết luận"}
    return {"notebook": "02", "key": "", "as_of": "2026-11-21", "title": {"en": "Scorecard", "vi": "Bảng điểm"},
            "headline": headline, "folder": "02/2026-11-21", "alerts": list(alerts)}  # fmt: skip


@pytest.fixture
def told():
    return []


def test_a_mail_brings_headline_why_owner_and_the_report(out, mail, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", mail_url(mail))
    monkeypatch.setenv("KPI_REPORTS_URL", "https://example.com/kpi/")
    notices.deliver(out, [record(alert())], told.append)

    (got,) = mail.taken
    parts = [*got.walk()]
    text = (
        next(p for p in parts if p.get_content_type() in ("text/plain", "text/html")).get_payload(decode=True).decode()
    )
    assert "Scorecard" in str(got["Subject"]) and "The headline" in text
    assert "Orders fell on 2026-11-20: Ads." in text and "@Lan" in text
    assert "https://example.com/kpi/02/2026-11-21/report.html" in text
    assert any(p.get_filename() == "report.html" for p in parts)
    assert told == ["notify: 1 sent, 0 waiting"]


def test_a_mail_keeps_its_lines_and_its_signs(out, mail, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", mail_url(mail))
    both = [alert(name="low orders", sentence={"en": f"a < b & {i}", "vi": "x"}, kpi=f"k{i}") for i in (1, 2)]
    notices.deliver(out, [record(*both)], told.append)

    parts = {
        p.get_content_type(): p.get_payload(decode=True).decode()
        for p in [*mail.taken[0].walk()][:4]
        if not p.is_multipart()
    }
    assert parts["text/html"].count("<li>low orders: a &lt; b &amp; ") == 2
    assert parts["text/plain"].splitlines()[-2:] == [f"- low orders: a < b & {i} @Lan" for i in (1, 2)]


def test_an_alert_that_lasts_longer_than_the_days_shown_is_not_told_again(out, hook, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", hook_url(hook.server_address[1]))
    for begin, as_of in ((1, 21), (1, 12), (15, 28), (20, 30)):  # the second repeats an earlier day
        lasting = alert(f"2026-11-{begin:02}", open=begin > 1)
        notices.deliver(out, [{**record(lasting), "as_of": f"2026-11-{as_of}"}], told.append)
        assert len(hook.taken) == 1
    notices.deliver(out, [{**record(alert("2026-12-07", open=True)), "as_of": "2027-01-04"}], told.append)
    assert len(hook.taken) == 2  # nobody looked in between: it may be another one


def test_a_corrected_address_gets_what_waited_and_the_others_do_not_again(out, hook, mail, told, monkeypatch):
    fine = hook_url(hook.server_address[1])
    monkeypatch.setenv("KPI_NOTIFY_URLS", f"{fine} {hook_url(1)}")
    notices.deliver(out, [record(alert())], told.append)
    (waits,) = json.loads((out / notices.STATE).read_text(encoding="utf-8"))["waiting"]
    assert waits["tried"] == 1 and "no connection" in waits["reason"] and len(waits["done"]) == 1

    monkeypatch.setenv("KPI_NOTIFY_URLS", f"{fine} {mail_url(mail)}")
    notices.deliver(out, [record(alert())], told.append)
    assert len(hook.taken) == len(mail.taken) == 1
    assert told[-1] == "notify: 1 sent, 0 waiting"


def test_a_record_that_cannot_be_read_is_begun_anew(out, hook, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", hook_url(hook.server_address[1]))
    every = ("{", "[]", '{"seen": 3}', '{"waiting": [{}]}', '{"waiting": ["x"]}', '{"seen": {"a": null}}')
    for broken in every:
        (out / notices.STATE).write_text(broken, encoding="utf-8")
        notices.deliver(out, [record(alert())], told.append)

    assert len(hook.taken) == 6 and sum("could not be read" in line for line in told) == 6


def test_a_record_that_cannot_be_written_is_told(out, hook, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", hook_url(hook.server_address[1]))
    (out / f"{notices.STATE}.part").mkdir()
    notices.deliver(out, [record(alert())], told.append)

    assert len(hook.taken) == 1 and "could not be written" in told[-1]


def test_a_broken_file_of_addresses_is_told_without_its_lines(monkeypatch, tmp_path):
    (tmp_path / "mine.yml").write_text("- json://user:secret-word@host\n  bad: [", encoding="utf-8")
    monkeypatch.setenv("KPI_NOTIFY_CONFIG", str(tmp_path / "mine.yml"))
    with pytest.raises(KpiError, match="is no YAML in UTF-8") as error:
        notices.targets()

    assert "secret" not in str(error.value) and error.value.__cause__ is None


def test_each_alert_is_delivered_once_a_date_and_muted_ones_never(out, hook, told, monkeypatch):
    monkeypatch.setenv("KPI_NOTIFY_URLS", hook_url(hook.server_address[1]))
    for alerts in ([alert()], [alert()], [alert(), alert("2026-11-21")], [alert(kpi="aov", muted=True)]):
        notices.deliver(out, [record(*alerts)], told.append)

    assert len(hook.taken) == 2
    assert "2026-11-21" in hook.taken[1]["message"] and "2026-11-20" not in hook.taken[1]["message"]


def test_what_fails_is_tried_again_and_does_not_hold_up_the_others(out, hook, told, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("KPI_NOTIFY_URLS", f"{hook_url(hook.server_address[1])} {hook_url(port)}")
    notices.deliver(out, [record(alert())], told.append)
    notices.deliver(out, [record(alert())], told.append)

    assert len(hook.taken) == 1
    assert "json did not take" in told[0] and told[-1] == "notify: 0 sent, 1 waiting"
    assert json.loads((out / notices.STATE).read_text())["waiting"][0]["tried"] == 2

    server = serving(HTTPServer, Hook, port)
    try:
        notices.deliver(out, [], told.append)  # though nothing is new
    finally:
        server.shutdown()
        server.server_close()
    assert len(server.taken) == 1 and "Orders fell" in server.taken[0]["message"]
    assert told[-1] == "notify: 1 sent, 0 waiting"


def test_an_unreachable_mail_server_is_recorded(out, told, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("KPI_NOTIFY_URLS", f"mailto://me:secret-word@127.0.0.1:{port}?to=you@example.com&mode=insecure")
    notices.deliver(out, [record(alert())], told.append)

    assert "mailto did not take" in told[0] and told[-1] == "notify: 0 sent, 1 waiting"


def test_addresses_and_passwords_are_written_nowhere(out, hook, told, monkeypatch):
    monkeypatch.setenv(
        "KPI_NOTIFY_URLS", f"{hook_url(hook.server_address[1])} {hook_url(1)} secret-word@nowhere json://[secret-word@x"
    )
    notices.deliver(out, [record(alert())], told.append)
    assert "notify: an address did not take" in "".join(told) and "does not understand the address" in "".join(told)

    written = "".join(p.read_text(encoding="utf-8") for p in out.rglob("*.*") if p.is_file())
    for secret in ("secret-word@", "127.0.0.1", "user:"):
        assert secret not in written and secret not in "".join(told)


def test_a_file_of_the_user_names_addresses_too(out, hook, told, monkeypatch, tmp_path):
    (tmp_path / "mine.yml").write_text(f"- {hook_url(hook.server_address[1])}\n", encoding="utf-8")
    monkeypatch.setenv("KPI_NOTIFY_CONFIG", str(tmp_path / "mine.yml"))
    notices.deliver(out, [record(alert())], told.append)
    assert len(hook.taken) == 1

    (tmp_path / "mine.yml").write_text("a: b", encoding="utf-8")
    with pytest.raises(KpiError, match="must be a list of addresses"):
        notices.targets()


def test_nowhere_to_send_is_said(out, told, monkeypatch, tmp_path):
    monkeypatch.setenv("KPI_NOTIFY_CONFIG", str(tmp_path / "none.yml"))
    monkeypatch.delenv("KPI_NOTIFY_URLS", raising=False)
    notices.deliver(out, [record(alert())], told.append)

    assert told == [
        "notify: nowhere to send to. Set KPI_NOTIFY_URLS, or list addresses in ~/.config/kpi_helpers/notify.yml."
    ]
