"""How requests are taken in, byte by byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.engine_kits import wait_until
from helpers.http_socket import Talk, serving

from localml.httpd import connection, server
from localml.httpd.server import HttpServer


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers what it got: the environment's texts, and the body as it was read."""
    body = environ["wsgi.input"].read().decode("latin-1")
    text = {key: value for key, value in environ.items() if isinstance(value, str)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({**text, "body": body}).encode()]


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpServer]:
    with serving(echo, threads=2) as one:
        yield one


def asked(talk: Talk) -> dict[str, Any]:
    answer = talk.answer()
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_the_environment_is_complete_and_the_target_as_it_was_sent(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        talk.ask("PUT /a%2Fb//c%C3%BC?x=%31&y", "X-One: 1", "x-one: 2", "Cookie: a=1", "Cookie: b=2", body=b"hello")
        found = asked(talk)
    assert found["REQUEST_URI"] == "/a%2Fb//c%C3%BC?x=%31&y"
    assert found["PATH_INFO"].encode("latin-1").decode() == "/a/b//cü"
    assert found["QUERY_STRING"] == "x=%31&y"
    assert (found["REQUEST_METHOD"], found["SERVER_PROTOCOL"], found["SCRIPT_NAME"]) == ("PUT", "HTTP/1.1", "")
    assert (found["HTTP_X_ONE"], found["HTTP_COOKIE"]) == ("1, 2", "a=1; b=2")
    assert (found["CONTENT_LENGTH"], found["body"]) == ("5", "hello")
    assert (found["REMOTE_ADDR"], found["SERVER_PORT"], found["wsgi.url_scheme"]) == (
        "127.0.0.1",
        str(shared.port),
        "http",
    )


def test_what_clients_say_of_proxies_or_disguise_is_not_passed_on(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        talk.ask("GET /", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=x", "Proxy: x", "X_Forwarded_Host: evil")
        found = asked(talk)
    assert not [key for key in found if "FORWARDED" in key or "PROXY" in key]


def test_doubled_slashes_at_the_beginning_name_no_host(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        talk.ask("GET //a/b?q")
        found = asked(talk)
    assert (found["PATH_INFO"], found["REQUEST_URI"]) == ("/a/b", "//a/b?q")


def test_a_request_may_come_byte_by_byte(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        for byte in b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabcGET /y HTTP/1.1\r\n\r\n":
            talk.send(bytes([byte]))
        first, second = asked(talk), asked(talk)
    assert (first["body"], second["PATH_INFO"]) == ("abc", "/y")


def test_pipelined_requests_are_answered_in_their_order(shared: HttpServer) -> None:
    count = 50
    with Talk(shared.port) as talk:
        talk.send(
            b"".join(b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (n, n, b"x" * n) for n in range(count))
        )
        for number in range(count):
            found = asked(talk)
            assert (found["PATH_INFO"], len(found["body"])) == (f"/{number}", number)


@pytest.mark.parametrize("size", [0, 5, 70_000, 3_000_000])
def test_chunked_bodies_are_read_to_their_end(shared: HttpServer, size: int) -> None:
    data = b"0123456789" * (size // 10) + b"x" * (size % 10)
    with Talk(shared.port) as talk:
        talk.send(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, size, 40_000):
            piece = data[start : start + 40_000]
            talk.send(b"%x;note=1\r\n%b\r\n" % (len(piece), piece))
        talk.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        found = asked(talk)
        assert found["body"].encode() == data
        if size < 60_000:  # it is here as a whole, so its length is known
            assert found["CONTENT_LENGTH"] == str(size)
        talk.ask("GET /again")
        assert asked(talk)["PATH_INFO"] == "/again"


def test_a_get_with_an_empty_chunked_body_is_a_get(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        talk.send(b"GET /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert asked(talk)["body"] == ""


def test_an_upgrade_that_is_not_granted_is_ignored(shared: HttpServer) -> None:
    """Java's client asks for HTTP/2 with its first request, body and all."""
    with Talk(shared.port) as talk:
        talk.ask("POST /x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM", body=b"abc")
        assert asked(talk)["body"] == "abc"


def test_so_are_a_thousand_in_a_row(shared: HttpServer) -> None:
    """After the first the connection ends: the client might mean another protocol."""
    with Talk(shared.port) as talk:
        talk.send(b"GET /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" * 1000)
        assert asked(talk)["PATH_INFO"] == "/x"
        assert talk.closed()


def test_http_1_0_ends_with_its_answer_unless_it_asks_for_more(shared: HttpServer) -> None:
    with Talk(shared.port) as talk:
        talk.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert asked(talk)["SERVER_PROTOCOL"] == "HTTP/1.0"
        assert talk.closed()
    with Talk(shared.port) as talk:
        for path in ("/a", "/b"):
            talk.send(f"GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            assert asked(talk)["PATH_INFO"] == path


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: " + b"y" * 400_000, 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"y" * 400_000, 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET http://localhost:1/a/b?q HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: 1\r\n folded\r\n\r\n", 400),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(shared: HttpServer, sent: bytes, status: int) -> None:
    with Talk(shared.port) as talk:
        talk.send(sent)
        answer = talk.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (status, "bad_request")
        assert talk.closed()
    with Talk(shared.port) as talk:
        talk.ask("GET /still-there")
        assert asked(talk)["PATH_INFO"] == "/still-there"


def test_clients_that_stop_in_a_head_or_say_nothing_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SWEEP", 0.05)
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "OPEN_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT", 0.4)
    with serving(echo) as one, Talk(one.port) as slow, Talk(one.port) as silent, Talk(one.port) as kept:
        kept.ask("GET /")
        assert asked(kept)["PATH_INFO"] == "/"
        slow.send(b"GET / HTTP/1.1\r\nHo")
        assert slow.answer().status == 408
        assert slow.closed()
        assert silent.closed()
        assert kept.closed()


def test_a_body_that_stops_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    from localml.httpd import body

    monkeypatch.setattr(body, "SMALL_TIMEOUT", 0.2)
    with serving(echo) as one, Talk(one.port) as talk:
        talk.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        assert talk.answer().status == 408
        assert talk.closed()


def test_more_connections_than_there_is_room_for_are_told_so() -> None:
    """Where all are busy; those that say nothing make room (tests/reliability/test_connections.py)."""
    go = threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert go.wait(30)
        return echo(environ, start_response)

    with serving(slow, most_clients=4) as one:
        busy = [Talk(one.port) for _ in range(3)]
        for talk in busy:
            talk.ask("GET /busy")
        wait_until(lambda: one.busy == 3, "three requests at hand")
        with Talk(one.port) as late:
            assert late.answer().status == 503
            assert late.closed()
        go.set()
        for talk in busy:
            assert asked(talk)["PATH_INFO"] == "/busy"
            talk.ask("GET /again")
            asked(talk)
            talk.close()


def test_several_servers_run_in_one_process_and_end_orderly() -> None:
    before = set(threading.enumerate())
    with serving(echo) as one, serving(echo) as other:
        assert one.port != other.port
        for each in (one, other):
            with Talk(each.port) as talk:
                talk.ask("GET /")
                assert asked(talk)["SERVER_PORT"] == str(each.port)
    assert set(threading.enumerate()) == before


def test_a_port_in_use_is_an_error_and_localhost_means_all_its_addresses() -> None:
    with serving(echo, host="localhost") as one:
        with Talk(one.port) as talk:
            talk.ask("GET /")
            asked(talk)
        with pytest.raises(OSError, match="in use"):
            HttpServer(echo, "localhost", one.port)
    again = HttpServer(echo, "localhost", one.port)
    again.close()
