"""Large bodies: refused by their head, or taken in at the app's pace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from helpers.engine_kits import wait_until
from helpers.http_socket import Talk, serving

from localml.httpd import body, pace
from localml.httpd.body import BodyBroken, BodyTooLarge
from localml.httpd.server import HttpServer

MIB = 1 << 20
LARGE = 600 * MIB


class Taker:
    """An app that reads its body as the path says, and remembers how that went."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        how = getattr(self, environ["PATH_INFO"].strip("/"))
        answer = json.dumps(how(environ["wsgi.input"], environ)).encode()
        status = "401 Unauthorized" if environ["PATH_INFO"] == "/refuse" else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [answer]

    def refuse(self, _file: Any, _environ: Any) -> str:
        return "who are you?"

    def lines(self, file: Any, _environ: Any) -> list[int]:
        return [len(file.readline()), len(file.readline(10)), len(file.read(5)), len(list(file))]

    def size(self, file: Any, _environ: Any) -> int:
        total = 0
        while piece := file.read(256 * 1024):
            total += len(piece)
        return total

    def late(self, file: Any, environ: Any) -> int:
        assert self.go.wait(60)
        return self.size(file, environ)

    def tries(self, file: Any, _environ: Any) -> str:
        try:
            file.read()
        except (BodyBroken, BodyTooLarge) as error:
            self.seen.append(error)
            return str(error)
        return "complete"


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture
def server(taker: Taker) -> Iterator[HttpServer]:
    def limit(environ: dict[str, Any]) -> int:
        return MIB if environ["PATH_INFO"] == "/tries" else 1000 * MIB

    with serving(taker, threads=2, limit=limit) as one:
        yield one


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_body_that_is_too_large_is_refused_by_its_head(server: HttpServer, expect: tuple[str, ...]) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /size", f"Content-Length: {1 << 40}", *expect)
        answer = talk.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert b"larger" in answer.body
        assert talk.closed()


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_the_app_refuses_by_the_head_too(server: HttpServer, expect: tuple[str, ...]) -> None:
    """Before a byte of the body, and without having asked for it."""
    with Talk(server.port) as talk:
        talk.ask("PUT /refuse", f"Content-Length: {MIB}", *expect)
        assert talk.answer().status == 401


def test_a_refused_client_that_sends_on_gets_to_read_why(server: HttpServer) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /refuse", f"Content-Length: {50 * MIB}")
        for _ in range(50):
            talk.send(bytes(MIB))
        assert talk.answer().status == 401
        assert talk.closed()


def test_a_connection_goes_on_after_a_refusal_whose_body_had_arrived(server: HttpServer) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /refuse", body=b"x" * 1000)
        assert talk.answer().status == 401
        talk.ask("PUT /size", body=b"x" * 1000)
        assert talk.answer().body == b"1000"


@pytest.mark.parametrize("size", [10, body.SMALL, MIB])
def test_a_client_that_waits_is_told_to_go_on_once_its_body_is_wanted(server: HttpServer, size: int) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /size", f"Content-Length: {size}", "Expect: 100-continue")
        assert talk.answer().status == 100
        talk.send(bytes(size))
        assert talk.answer().body == str(size).encode()
        talk.ask("PUT /size", body=b"and another")
        assert talk.answer().body == b"11"


def test_a_chunked_body_may_be_waited_for_as_well(server: HttpServer) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /size", "Transfer-Encoding: chunked", "Expect: 100-continue")
        assert talk.answer().status == 100
        talk.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert talk.answer().body == b"3"


def test_a_large_body_is_a_file_with_lines(server: HttpServer) -> None:
    data = b"first\n" + b"second line\n" + b"x" * 100_000 + b"\n" + b"last"
    with Talk(server.port) as talk:
        talk.ask("PUT /lines", body=data)
        assert json.loads(talk.answer().body) == [6, 10, 5, 2]


def test_a_chunked_body_over_the_limit_ends_while_it_comes(server: HttpServer, taker: Taker) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /tries", "Transfer-Encoding: chunked")
        for _ in range(30):
            talk.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        answer = talk.answer()
        assert b"more than the 1048576 bytes" in answer.body
        assert answer.headers["connection"] == "close"
    assert isinstance(taker.seen[0], BodyTooLarge)


def test_a_client_that_leaves_in_the_middle_breaks_the_body(server: HttpServer, taker: Taker) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /tries", f"Content-Length: {MIB}")
        talk.send(bytes(100_000))
    wait_until(lambda: taker.seen, "the end of the body")
    assert isinstance(taker.seen[0], BodyBroken)


def test_nonsense_between_chunks_breaks_the_body(server: HttpServer, taker: Taker) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /tries", "Transfer-Encoding: chunked")
        talk.send(b"11170\r\n" + bytes(70_000) + b"\r\nnonsense\r\n")
        assert talk.answer().status == 200
        assert talk.closed()
    assert isinstance(taker.seen[0], BodyBroken)


def test_a_body_that_pauses_for_too_long_is_given_up(
    server: HttpServer, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PAUSE", 0.2)
    with Talk(server.port) as talk:
        talk.ask("PUT /tries", f"Content-Length: {MIB}")
        talk.send(bytes(100_000))
        assert b"too slowly" in talk.answer().body
    assert isinstance(taker.seen[0], BodyBroken)


def test_an_app_that_does_not_read_holds_its_client_back(server: HttpServer, taker: Taker) -> None:
    with Talk(server.port) as talk:
        talk.ask("PUT /late", f"Content-Length: {100 * MIB}")
        talk.socket.setblocking(False)
        sent, pause = 0, threading.Event()
        idle = 0
        while idle < 20:
            try:
                sent += talk.socket.send(bytes(MIB))
                idle = 0
            except BlockingIOError:
                idle += 1
                pause.wait(0.01)
        assert sent < 20 * MIB  # the system's buffers, and little else
        talk.socket.settimeout(60)
        taker.go.set()
        for start in range(sent, 100 * MIB, MIB):
            talk.send(bytes(min(MIB, 100 * MIB - start)))
        assert talk.answer().body == str(100 * MIB).encode()


def test_slow_uploads_take_no_thread_from_anybody_else(server: HttpServer) -> None:
    """Two threads answer; five clients that send large bodies slowly, or small ones, are waited for besides."""
    slow = [Talk(server.port) for _ in range(5)]
    for number, talk in enumerate(slow):
        talk.ask("PUT /size", f"Content-Length: {1000 if number % 2 else MIB}")
        talk.send(b"x")
    with Talk(server.port) as quick:
        for _ in range(10):
            quick.ask("PUT /size", body=b"abc")
            assert quick.answer().body == b"3"
    for number, talk in enumerate(slow):
        size = 1000 if number % 2 else MIB
        talk.send(bytes(size - 1))
        assert talk.answer().body == str(size).encode()
        talk.close()


_SERVE = """
import threading
from localml.httpd.server import HttpServer
from test_bodies import Taker
server = HttpServer(Taker(), threads=2)
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


def test_memory_stays_flat_for_a_body_of_600_mib() -> None:
    paths = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", ""), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            before, most = psutil.Process(process.pid).memory_info().rss, 0
            for chunked in (False, True):
                with Talk(port) as talk:
                    for _ in _upload(talk, chunked=chunked):
                        most = max(most, psutil.Process(process.pid).memory_info().rss)
                    assert talk.answer().body == str(LARGE).encode()
            assert most - before < 30 * MIB
        finally:
            process.kill()


def _upload(talk: Talk, *, chunked: bool) -> Iterator[None]:
    talk.ask("PUT /size", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE}")
    piece = bytes(4 * MIB)
    for _ in range(LARGE // len(piece)):
        talk.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        yield
    if chunked:
        talk.send(b"0\r\n\r\n")
