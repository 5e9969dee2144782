"""Bodies of whoever has no credentials: nothing is kept of them, and the head alone is judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.http_socket import Answer, Talk

from localml.config import Config
from localml.dialects.kit.bodies import STRANGERS
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server

MIB = 1 << 20
LARGE = 64 * MIB
CLOSED = [
    ("PUT /localml/v1/objects/content?uri=/a/b", 401),
    ("POST /localml/v1/workloads", 401),
    ("POST /localml/v1/nowhere", 404),
    ("POST /localml/v1/status", 405),
    ("POST /cloud_ml/v1/train", 401),
    ("POST /api/v1/jobs", 401),
    ("PUT /api/v1/user", 401),
    ("POST /healthz", 405),
    ("POST /metrics", 405),
    ("POST /nowhere", 404),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    temporary = folder / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        patched.setattr("tempfile.tempdir", None)
        made = Server(Platform(Config(folder / "data", engine="fake", gpus="none", port=0), engine=FakeEngine()))
        made.start()
        yield made
        made.close()


@pytest.fixture
def token(server: Server) -> str:
    return f"Authorization: Bearer {server.platform.credentials.token}"


def kept(folder: Path) -> int:
    """Bytes of all files of the server but its database's."""
    files = [one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("localml.db")]
    return sum(one.stat().st_size for one in files)


def send(server: Server, line: str, *headers: str, size: int, chunked: bool, kind: str) -> Answer:
    """Send a body until the server has answered, or the body is at its end."""
    form = kind.startswith("multipart")
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' if form else b"{"
    piece = bytes(MIB)
    with Talk(server.port) as talk:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        talk.ask(line, f"Content-Type: {kind}", framing, *headers)
        sent = 0
        for data in [head, *[piece] * (size // MIB)]:
            data = data[: size - sent]
            talk.try_to_send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            sent += len(data)
            if talk.broken:
                break
        return talk.answer()


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("chunked", [False, True])
def test_nothing_is_kept_of_a_strangers_body(server: Server, folder: Path, chunked: bool, kind: str) -> None:
    before = kept(folder)
    for line, status in CLOSED:
        answer = send(server, line, size=LARGE, chunked=chunked, kind=kind)
        assert answer.status == status, (line, answer)
        assert answer.headers["connection"] == "close", "what is still under way is not read"
    assert kept(folder) - before < MIB


@pytest.mark.parametrize("chunked", [False, True])
def test_who_calls_is_asked_before_the_size(server: Server, token: str, chunked: bool) -> None:
    line, kind = "POST /localml/v1/workloads", "application/json"
    assert send(server, line, size=LARGE, chunked=chunked, kind=kind).status == 401
    assert send(server, line, token, size=LARGE, chunked=chunked, kind=kind).status == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_what_anybody_may_call_takes_little(server: Server, chunked: bool) -> None:
    asked = json.dumps({"username": "nobody", "password": "x" * STRANGERS}).encode()
    with Talk(server.port) as talk:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(asked)}"
        talk.ask("POST /api/v1/token", "Content-Type: application/json", framing)
        talk.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(asked), asked) if chunked else asked)
        answer = talk.answer()
    assert answer.status >= 400
    assert b"bytes" in answer.body, answer


@pytest.mark.parametrize(("line", "status"), CLOSED)
@pytest.mark.parametrize("framing", ["Content-Length: 5", f"Content-Length: {LARGE}", "Transfer-Encoding: chunked"])
def test_who_waits_for_the_word_to_go_on_gets_the_verdict(server: Server, line: str, status: int, framing: str) -> None:
    with Talk(server.port) as talk:
        talk.ask(line, framing, "Expect: 100-continue", "Content-Type: application/json")
        answer = talk.answer()
    assert answer.status == status, answer


def test_and_the_word_once_it_is_wanted(server: Server, token: str) -> None:
    with Talk(server.port) as talk:
        talk.ask("POST /localml/v1/workloads", f"Content-Length: {LARGE}", "Expect: 100-continue", token)
        assert talk.answer().status == 413
    with Talk(server.port) as talk:
        body = b'{"name": "waits", "spec": {"roles": [{"image": "none", "command": ["true"]}]}}'
        head = (f"Content-Length: {len(body)}", "Expect: 100-continue", "Content-Type: application/json", token)
        talk.ask("POST /localml/v1/workloads", "Origin: http://evil.example", *head)
        assert talk.answer().status == 403
    with Talk(server.port) as talk:
        talk.ask("POST /localml/v1/workloads", *head)
        assert talk.answer().status == 100
        talk.send(body)
        assert talk.answer().status == 201
        talk.ask("GET /localml/v1/status", token)
        assert talk.answer().status == 200, "the connection goes on"
