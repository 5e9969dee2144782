"""What a page of another site can do by way of a browser on this machine: nothing, also where nobody has to sign in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from helpers.http_socket import Answer, Talk

from localml.config import Config
from localml.dialects import DIALECTS
from localml.engines.fake.engine import FakeEngine
from localml.httpd.origin import from_foreign_page, is_own_host
from localml.platform import Platform
from localml.server import Server

SAFE = {"GET", "HEAD", "OPTIONS"}
JOB = b'{"name": "of-a-page", "spec": {"roles": [{"image": "none", "command": ["id"]}]}}'
SIMPLE = "Content-Type: text/plain"
"""What a page may send without asking first."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without authentication: every request is the administrator's."""
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="none", port=0, auth=False)
    made = Server(Platform(config, engine=FakeEngine()))
    made.start()
    yield made
    made.close()


def ask(server: Server, line: str, *headers: str, body: bytes = b"{}") -> Answer:
    """Ask as a browser does, whose Host header has the port."""
    lines = [f"{line} HTTP/1.1", f"Host: localhost:{server.port}", *headers, f"Content-Length: {len(body)}"]
    with Talk(server.port) as talk:
        talk.send("\r\n".join([*lines, "", ""]).encode() + body)
        return talk.answer()


def changing(server: Server) -> Iterator[tuple[str, str]]:
    """Method and path of each operation that is no plain read, of all dialects."""
    for prefix in dict(DIALECTS):
        app: Any = server.app.app(prefix)
        assert isinstance(app, Flask)
        for rule in app.url_map.iter_rules():
            _, path = rule.build(dict.fromkeys(rule.arguments, "1")) or ("", "")
            if path.startswith(prefix):
                yield from ((method, path) for method in (rule.methods or set()) - SAFE)


FOREIGN = [
    "Origin: http://evil.example",
    "Origin: null",
    "Origin: http://localhost",  # another port of this machine: some other program's page, perhaps a job's
    "Origin: http://localhost:1",
    "Origin: https://localhost:{port}",
    "Origin: http://127.0.0.1:{port}",
    "Origin: http://localhost:{port}.evil.example",
    "Origin: ",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
]


@pytest.mark.parametrize("header", FOREIGN)
def test_a_page_starts_no_job(server: Server, header: str) -> None:
    answer = ask(server, "POST /localml/v1/workloads", header.format(port=server.port), SIMPLE, body=JOB)
    assert answer.status == 403, answer
    assert json.loads(answer.body)["error"]["code"] == "forbidden"
    found = json.loads(ask(server, "GET /localml/v1/workloads", body=b"").body)["workloads"]
    assert "of-a-page" not in [one["name"] for one in found]


def test_no_operation_of_any_dialect_is_done_for_a_page(server: Server) -> None:
    operations = sorted(set(changing(server)))
    assert len(operations) > 60
    for method, path in operations:
        answer = ask(server, f"{method} {path}", "Sec-Fetch-Site: cross-site", SIMPLE)
        assert answer.status == 403, (method, path, answer)
        assert "pages of other sites" in answer.body.decode(), (method, path)
        assert "json" in answer.headers["content-type"]


def test_it_is_refused_before_anybody_is_asked_who_he_is(tmp_path: Path) -> None:
    made = Server(Platform(Config(tmp_path / "data", engine="fake", gpus="none", port=0), engine=FakeEngine()))
    made.start()
    try:
        assert ask(made, "POST /localml/v1/workloads", body=JOB).status == 401
        assert ask(made, "POST /localml/v1/workloads", "Origin: http://evil.example", body=JOB).status == 403
        assert ask(made, "POST /metrics", "Origin: http://evil.example").status == 403
    finally:
        made.close()


def test_pages_of_our_own_and_programs_are_served(server: Server) -> None:
    for number, header in enumerate(("Origin: http://localhost:{port}", "Sec-Fetch-Site: none", "X-Nothing: 1")):
        body = JOB.replace(b"of-a-page", b"ours-%d" % number)
        header = header.format(port=server.port)
        answer = ask(server, "POST /localml/v1/workloads", header, "Content-Type: application/json", body=body)
        assert answer.status == 201, answer


def test_no_answer_lets_a_page_read_it(server: Server) -> None:
    for line in ("OPTIONS /localml/v1/workloads", "GET /localml/v1/workloads", "GET /api/v1/", "GET /healthz"):
        answer = ask(server, line, "Origin: http://evil.example", "Access-Control-Request-Method: POST", body=b"")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")], line


_FOREIGN = ["evil.example", "evil.example:7070", "192.0.2.7", "[2001:db8::1]:7070", "10.0.0.1:1"]
_TRICKS = ["localhost:80@evil.example", "127.0.0.1%evil.example", "localhost, evil.example", "[::1]x"]


@pytest.mark.parametrize("host", [*_FOREIGN, *_TRICKS])
def test_what_is_meant_for_another_machine_is_refused(server: Server, host: str) -> None:
    for path in ("/localml/v1/workloads", "/api/v1/jobs", "/metrics", "/healthz"):
        with Talk(server.port) as talk:
            talk.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = talk.answer()
        assert (answer.status, b"another machine" in answer.body) == (403, True), (path, answer)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.:1", "127.0.0.1:7", "127.9.9.9", "[::1]:7070", ""])
def test_what_is_meant_for_this_one_is_not(server: Server, host: str) -> None:
    with Talk(server.port) as talk:
        talk.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert talk.answer().status == 200


@pytest.mark.parametrize(
    "head",
    [
        "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost",
        "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
    ],
)
def test_a_request_says_once_whom_it_is_for(server: Server, head: str) -> None:
    with Talk(server.port) as talk:
        talk.send(f"{head}\r\n\r\n".encode())
        assert talk.answer().status == 400
        assert talk.closed()


def test_the_address_that_a_connection_came_to_is_ours() -> None:
    names = frozenset({"localhost"})
    for host, local, own in [
        ("172.17.0.1:7070", "172.17.0.1", True),  # a container's way to its host
        ("172.17.0.1:7070", "192.168.1.5", False),
        ("192.168.1.5", "::ffff:192.168.1.5", True),
        ("[fe80::1%25eth0]", "fe80::1%eth0", True),
        ("[2001:DB8:0::1]:70", "2001:db8::1", True),
        ("0.0.0.0:7070", "127.0.0.1", False),
        ("172.17.0.1.evil.example", "172.17.0.1", False),
        ("localhost", "", True),
        ("2130706433", "127.0.0.1", False),
    ]:
        assert is_own_host(host, names, local) is own, (host, local)


def test_a_site_is_its_scheme_name_and_port() -> None:
    for host, origin, foreign in [
        ("localhost", "http://localhost", False),
        ("localhost:80", "http://localhost", False),
        ("localhost", "http://localhost:80", False),
        ("[::1]:7070", "http://[::1]:7070", False),
        ("[::1]", "http://[::1]", False),
        ("[::1]", "http://[::1]:7070", True),
        ("Box:7070", "http://box:7070", False),
        ("localhost:7070", "https://localhost:7070", True),
        ("localhost:7070", "http://localhost:7071", True),
        ("", "http://localhost", True),
        ("localhost", "null", True),
        ("localhost", "", True),
    ]:
        assert from_foreign_page("POST", host, origin, None) is foreign, (host, origin)
        assert not from_foreign_page("GET", host, origin, None)


@pytest.mark.parametrize("path", ["/localml/v1/workloads", "/localml/v1/users", "/api/runs/", "/api/v1/jobs"])
@pytest.mark.parametrize("kind", ["Content-Type: text/plain", "X-None: 1"])
def test_what_does_not_say_that_it_is_json_is_not_read(server: Server, path: str, kind: str) -> None:
    """A page cannot leave this to chance: to say it, it has to ask first, and is refused."""
    answer = ask(server, f"POST {path}", kind, body=JOB)
    assert (answer.status, b"Content-Type" in answer.body) == (400 if "v1/jobs" in path else 415, True), answer
