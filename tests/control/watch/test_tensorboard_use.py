"""What a TensorBoard's answer about its use is taken for, over real HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from localml.control.watch.tensorboard import Use, last_use
from localml.core.errors import Code, LocalmlError

Board = Callable[[int, bytes], str]


class Handler(BaseHTTPRequestHandler):
    status = 200
    body = b""
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def board() -> Iterator[Board]:
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int, body: bytes) -> str:
        Handler.status, Handler.body, Handler.asked = status, body, []
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(("in_flight", "busy"), [(0, False), (2, True)])
def test_a_tensorboard_of_ours_tells(board: Board, in_flight: int, busy: bool) -> None:
    base = board(200, b'{"started": 5, "last_activity": 7.5, "in_flight": %d}' % in_flight)
    assert last_use(base, "t") == Use(busy, 5.0, 7.5)
    assert last_use(base, "") == Use(busy, 5.0, 7.5)
    assert Handler.asked == [("/localml/activity", "Bearer t"), ("/localml/activity", None)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"started": 1, "last_activity": 1, "in_flight": 0}'),
        (401, b""),
        (302, b""),
        (200, b"<html>every path is this page</html>"),
        (200, b"\xff\xfe"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"started": 1, "last_activity": null, "in_flight": 0}'),
        (200, b'{"started": 1, "last_activity": 1, "in_flight": "no"}'),
        (200, b'{"started": NaN, "last_activity": 1, "in_flight": 0}'),
        (200, b'{"started": 1, "last_activity": 1e999, "in_flight": 0}'),
        (200, b'{"started": 1, "last_activity": 1%s, "in_flight": 0}' % (b"0" * 400)),
        (200, b"[" * 100_000),
    ],
)
def test_one_of_somebody_elses_does_not_tell(board: Board, status: int, body: bytes) -> None:
    assert last_use(board(status, body), "t") is None


def test_silence_is_not_taken_for_idleness(board: Board) -> None:
    with pytest.raises(LocalmlError) as starting:
        last_use(board(503, b"{}"), "t")
    assert starting.value.code is Code.UNAVAILABLE
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(LocalmlError) as gone:
            last_use(f"http://127.0.0.1:{held.getsockname()[1]}", "t")
    assert gone.value.code is Code.UNAVAILABLE
