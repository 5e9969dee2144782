"""Who waits, follows, uploads slowly or asks for much work stops nobody else, and whoever has left is noticed."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import signed
from helpers.counts import count
from helpers.http_socket import Talk
from helpers.native import Http, sh
from helpers.rig import wait_until
from helpers.small_server import small_server

from localml.core.subjects import PEOPLE
from localml.dialects.kit import seats
from localml.httpd import server as httpd
from localml.platform import Platform
from localml.server import Server

NOTICED_S = 2.0
MANY = 40
"""More than there are threads for anything."""
WAIT = "GET /localml/v1/workloads/long/wait?timeout=60"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with small_server(tmp_path, threads=4) as one:
        yield one
    wait_until(lambda: seats.taken("requests") == seats.taken("uploads") == 0)


@pytest.fixture
def admin(server: Server) -> Iterator[Http]:
    one = Http(server.url, bearer(server.platform.credentials.token))
    yield one
    one.close()


@pytest.fixture
def crowd(server: Server) -> Iterator[Callable[[], Talk]]:
    """Makes connections, which are closed in the end."""
    made: list[Talk] = []

    def connect() -> Talk:
        made.append(Talk(server.port))
        return made[-1]

    yield connect
    for talk in made:
        talk.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def newcomer(server: Server, name: str) -> dict[str, str]:
    """Headers of a new user."""
    identity = server.platform.identity
    return bearer(identity.create_token(identity.create_user(name, f"the password of {name}")))


def waiting(platform: Platform) -> int:
    """How many wait for a change of anything."""
    return sum(len(each) for about, each in list(platform.feed._watchers.items()) if about != PEOPLE)


def healthy(server: Server) -> None:
    """It answers, and takes work in."""
    with Talk(server.port) as talk:
        talk.ask("GET /healthz")
        assert talk.answer().status == 200
        talk.ask("POST /localml/v1/workloads", *lines(bearer(server.platform.credentials.token)), *JSON, body=JOB)
        assert talk.answer().status == 201


JSON = ("Content-Type: application/json",)
JOB = b'{"spec": {"roles": [{"command": ["true"]}]}}'


# -- who has left -----------------------------------------------------------------------------------

_RESET = struct.pack("ii", 1, 0)


def leave(talk: Talk, how: str) -> None:
    if how == "reset":
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    talk.close()


BEHIND = {
    "nothing": ((), b""),
    "an unread body": (("Content-Length: 900000",), bytes(900_000)),
    "half a body": (("Content-Length: 900000",), bytes(400_000)),
    "chunks": (("Transfer-Encoding: chunked",), b"4000\r\n%b\r\n" % bytes(0x4000) * 40),
    "more requests": ((), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500),
}


WAYS = {
    "wait": (WAIT, ()),
    "follow": ("GET /localml/v1/workloads/long/logs?follow=true", ()),
    "events": ("GET /localml/v1/workloads/long/logs", ("Accept: text/event-stream",)),
}


HOWS = ("end", "reset")


@pytest.mark.parametrize("behind", BEHIND)
def test_whoever_leaves_is_noticed_whatever_they_had_still_to_say(
    server: Server, admin: Http, crowd: Callable[[], Talk], behind: str, long_form: bool
) -> None:
    admin("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"})
    more, data = BEHIND[behind]
    each = 16 if long_form and not more else 3  # of those with a body that is still to come one user has 32 at a time
    talks = [(crowd(), way, how) for way in WAYS for how in HOWS for _ in range(each)]
    for talk, way, _ in talks:
        line, accept = WAYS[way]
        talk.ask(line, *lines(admin.headers), *accept, *more)
        talk.socket.settimeout(1.0)  # not all of it may be taken
        talk.try_to_send(data)
    count("requests tried", len(talks))
    wait_until(lambda: waiting(server.platform) == len(talks))
    for talk, _, how in talks:
        leave(talk, how)
    wait_until(lambda: waiting(server.platform) == 0 and server._http.busy == 0, NOTICED_S)


def test_a_machine_that_vanished_is_given_up(server: Server, admin: Http) -> None:
    """Without a word nobody can know at once; the system asks after it, and gives it up after a minute or so."""
    admin("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"})
    with Talk(server.port) as talk:
        talk.ask(WAIT, *lines(admin.headers))
        wait_until(lambda: waiting(server.platform) == 1)
        (client,) = [one for one in server._http._clients if one.busy]
        sock = client.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, every, times = (sock.getsockopt(socket.IPPROTO_TCP, one) for one in options)
        assert idle + every * times <= 75


# -- what holds a thread ------------------------------------------------------------------------------


class Stuck:
    """Work that takes until it is told to end. Counts how many are at it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.inside = 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.inside += 1
        self.began.release()
        assert self.go.wait(60)
        self.inside -= 1
        raise OSError("it came to nothing")


SLOW: dict[str, tuple[str, str, bytes]] = {
    "registry.register": ("POST /localml/v1/models", "", b'{"name": "m", "source": "fds://b/m"}'),
    "backup": ("POST /localml/v1/backup", "", b"{}"),
    "ssh.info": ("POST /localml/v1/workloads/long/ssh", "", b"{}"),
    "images": ("GET /localml/v1/images", "", b""),
    "buckets.listing": ("GET /localml/v1/objects?uri=fds://b&recursive=true", "", b""),
    "logs.size": ("GET /localml/v1/workloads/long/logs?tail=100000", "", b""),
    "buckets.delete": ("DELETE /localml/v1/objects?uri=fds://b&recursive=true", "", b""),
    "buckets.size": ("GET /localml/v1/buckets/b", "", b""),
    "buckets.exists": ("DELETE /localml/v1/buckets/b?recursive=true", "", b""),
    "samples.lines": ("GET /localml/v1/workloads/long/samples", "", b""),
}
"""What a request waits for -> the request."""


@pytest.mark.parametrize("place", SLOW)
def test_slow_work_stops_nobody_else(
    server: Server, admin: Http, crowd: Callable[[], Talk], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    admin("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"})
    server.platform.buckets.make_folder("fds://b/m/")
    owner, _, name = place.rpartition(".")
    stuck = Stuck()
    monkeypatch.setattr(getattr(server.platform, owner) if owner else server.platform, name, stuck)
    line, _, body = SLOW[place]
    talks = [crowd() for _ in range(MANY)]
    for talk in talks:
        talk.ask(line, *lines(admin.headers), *(JSON if body else ()), body=body)
    try:
        assert stuck.began.acquire(timeout=30)
        for _ in range(3):
            healthy(server)
        for talk in talks[MANY // 2 :]:
            talk.close()
        wait_until(lambda: server._http.busy <= MANY // 2, NOTICED_S)
    finally:
        stuck.go.set()
    for talk in talks[: MANY // 2]:
        assert talk.answer().status >= 500
    count("requests tried", MANY)


def test_one_user_leaves_some_of_the_slow_seats(
    server: Server, admin: Http, crowd: Callable[[], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(server.platform.registry, "register", stuck)
    line, _, body = SLOW["registry.register"]
    for _ in range(MANY):
        crowd().ask(line, *lines(admin.headers), *JSON, body=body)
    try:
        assert stuck.began.acquire(timeout=30)
        other = Http(server.url, newcomer(server, "other"))
        assert other("GET", "/objects?uri=fds://nothing/x").status == 404
        assert stuck.inside <= httpd.SLOW // 2
        other.close()
    finally:
        stuck.go.set()


def test_images_are_built_without_a_thread_of_the_servers(
    server: Server, admin: Http, crowd: Callable[[], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    class Images:
        def status(self) -> list[Any]:
            return []

        def build_onto(self, onto: str, progress: Callable[[str], None]) -> Any:
            progress("step 1")
            begun.release()
            assert go.wait(60)
            raise OSError("no daemon")

    monkeypatch.setattr(server.platform, "images", Images)
    talks = [crowd() for _ in range(MANY)]
    for talk in talks:
        talk.ask("POST /localml/v1/images/build", *lines(admin.headers), *JSON, body=b'{"onto": "base"}')
        head = talk.head()
        assert (head.status, head.headers["content-type"]) == (200, "application/x-ndjson")
    for _ in talks:
        assert begun.acquire(timeout=30)
    healthy(server)
    for talk in talks[1:]:
        talk.close()
    wait_until(lambda: server._http.busy == 1, NOTICED_S)
    go.set()
    said = b"".join(talks[0].chunks())
    assert b'{"line": "step 1"}\n' in said
    assert b'"error"' in said.splitlines()[-1], "an end that says how it ended"


# -- what one user may hold ---------------------------------------------------------------------------


def test_slow_uploads_of_one_user_leave_seats_for_others(
    server: Server, admin: Http, crowd: Callable[[], Talk]
) -> None:
    refused = 0
    for number in range(seats.UPLOADS + 3):
        talk = crowd()
        where = f"PUT /localml/v1/objects/content?uri=fds://mine/{number}"
        talk.ask(where, *lines(admin.headers), "Content-Length: 1000000")
        talk.send(bytes(100_000))
        if number == seats.UPLOADS - 1:
            wait_until(lambda: seats.taken("uploads") == seats.UPLOADS)
        if number >= seats.UPLOADS:
            answer = talk.answer()
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert f"{seats.UPLOADS}" in str(answer.body)
            refused += 1
    assert refused == 3
    other = Http(server.url, newcomer(server, "other"))
    assert other("PUT", "/objects/content?uri=fds://theirs/x", bytes(200_000)).status == 201
    other.close()
    healthy(server)


def test_one_user_does_not_take_all_that_can_be_held(
    server: Server, admin: Http, crowd: Callable[[], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "_share", lambda environ: 30)
    admin("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"})
    held = [crowd() for _ in range(30)]
    for talk in held:
        talk.ask(WAIT, *lines(admin.headers))
    wait_until(lambda: waiting(server.platform) == 30)
    given = server.platform.credentials
    for line, headers in (
        (WAIT, admin.headers),
        ("GET /cloud_ml/v1/train", signed(given.access_key, given.secret_key, "/cloud_ml/v1/train")),
        ("GET /api/pods/", admin.headers),
    ):
        talk = crowd()
        talk.ask(line, *lines(headers))
        assert talk.answer().status == 429
    other = Http(server.url, newcomer(server, "other"))
    assert other("GET", "/workloads").status == 200
    other.close()
    held[0].close()
    wait_until(lambda: waiting(server.platform) == 29, NOTICED_S)
    assert admin("GET", "/workloads").status == 200, "a seat that was left is free"
