"""Connections that are only held: the owner's requests get through, and the server needs nothing for it."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.engine_kits import wait_until
from helpers.http_socket import Talk, serving
from helpers.limited_server import limited

from localml.core.log_limits import Sparing
from localml.httpd import body as bodies
from localml.httpd import connection, pace, server
from localml.httpd.held import Held

JOB = {"roles": [{"image": "none", "command": ["true"]}]}
FEW = 512


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """For this side of the connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[0] < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(3000, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def strangers(port: int, count: int, says: bytes = b"", address: str = "127.0.0.1") -> Iterator[list[Talk]]:
    """Connections of somebody who says this and no more; those that the server ends stay open on this side."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(stack.enter_context(Talk(port, source=address)))
            made[-1].try_to_send(says)
        yield made


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"G",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /localml/v1/workloads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{",
        b"PUT /localml/v1/objects/content?uri=/a/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\nx",
    ],
    ids=["nothing", "a byte", "and is kept", "half a body", "much, without a token"],
)
def test_the_owner_gets_through_however_many_are_held(tmp_path: Path, says: bytes) -> None:
    with limited(tmp_path, FEW, FEW) as one, strangers(one.port, 2 * FEW, says):
        before = one.seconds
        for number in range(5):
            assert one.api.submit(f"mine-{number}", JOB)
        with strangers(one.port, FEW // 2, says):
            assert len(one.api.get("/workloads")["workloads"]) == 5
        assert one.process.num_fds() <= FEW - FEW // 8, "a part is kept for the database and the engine"
        assert one.seconds - before < 3.0
        assert "Traceback" not in one.log
        assert one.log.count("no room") + one.log.count("no connection") <= 2


def test_the_server_takes_what_the_system_allows_and_jobs_get_what_they_had(tmp_path: Path) -> None:
    with limited(tmp_path, 256, 1024, engine="process") as one:
        number = one.api.submit("asks", {"roles": [{"image": "none", "command": ["sh", "-c", "ulimit -n"]}]})
        assert one.api.wait_over(number)["state"] == "succeeded"
        assert one.api.log(number) == b"256\n"
        assert one.process.rlimit(psutil.RLIMIT_NOFILE) == (1024, 1024)


_HOG = """
import logging, os, resource, sys, threading
logging.basicConfig(level=logging.INFO)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from localml.httpd.server import HttpServer
def app(environ, start_response):
    held, pause = [], threading.Event()
    try:
        while environ["PATH_INFO"] == "/take":
            held.append(open("/dev/null"))
    except OSError:
        while not os.path.exists(sys.argv[1]):
            pause.wait(0.01)
    while held:
        held.pop().close()
    start_response("200 OK", [])
    return [b"ok"]
server = HttpServer(app)
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


def test_without_any_descriptor_it_waits_and_says_so_once(tmp_path: Path) -> None:
    log, enough = tmp_path / "log", tmp_path / "enough"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", _HOG, str(enough)],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with Talk(port) as hog:
                hog.ask("GET /take")
                wait_until(lambda: psutil.Process(process.pid).num_fds() == 100, "the end of all descriptors")
                with Talk(port) as late, strangers(port, 20, b"G"):
                    late.ask("GET /")
                    wait_until(lambda: "no connection can be taken" in log.read_text(), "a line that says so")
                    used = psutil.Process(process.pid).cpu_times().user
                    assert not select.select([late.socket], [], [], 1.2)[0]
                    assert psutil.Process(process.pid).cpu_times().user - used < 0.5
                    enough.touch()
                    assert hog.answer().body == b"ok"
                    assert late.answer().body == b"ok"
            assert log.read_text().count("no connection can be taken") == 1
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()


# -- within one process, with shorter limits -------------------------------------------------------


class Slow:
    """Follows something until it is told to go on; other requests wait for that, or are answered."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/follow":
            return _Followed(self.go)
        if environ["PATH_INFO"] == "/busy":
            assert self.go.wait(30)
        return [environ["wsgi.input"].read()[:2] or b"ok"]


class _Followed(Held):
    def __init__(self, go: threading.Event) -> None:
        self._go = go

    async def pieces(self, run: Any) -> Any:
        yield b"first"
        await run(lambda: self._go.wait(30))
        yield b"last"

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError


def test_what_is_followed_or_worked_at_is_never_sent_away() -> None:
    app = Slow()
    with serving(app, most_clients=20) as one, Talk(one.port) as follower, Talk(one.port) as busy:
        follower.ask("GET /follow")
        assert follower.head().status == 200
        busy.ask("GET /busy")
        with strangers(one.port, 100, b"G"), Talk(one.port) as owner:
            owner.ask("GET /")
            assert owner.answer().body == b"ok"
            app.go.set()
            assert list(follower.chunks()) == [b"first", b"last"]
            assert busy.answer().body == b"ok"


def test_those_go_that_have_waited_longest() -> None:
    with serving(Slow(), most_clients=20) as one, strangers(one.port, 10) as old, Talk(one.port) as kept:
        kept.ask("GET /")
        assert kept.answer().body == b"ok"
        with strangers(one.port, 8) as young:
            assert old[0].closed()
            kept.ask("GET /")
            assert kept.answer().body == b"ok"
            young[-1].ask("GET /")
            assert young[-1].answer().body == b"ok"


def test_nobody_takes_all_of_the_room() -> None:
    """Not even with requests that are worked at: a quarter is left for other addresses."""
    app = Slow()
    busy = b"GET /busy HTTP/1.1\r\n\r\n"
    with (
        serving(app, most_clients=20, threads=20) as one,
        strangers(one.port, 15, busy, address="127.0.0.2"),
    ):
        wait_until(lambda: one.busy == 15, "requests of one address")
        with Talk(one.port, source="127.0.0.2") as more:
            assert more.answer().status == 503
        with Talk(one.port) as other:
            other.ask("GET /")
            assert other.answer().body == b"ok"
        app.go.set()


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("begins", "drips", "status"),
    [
        (b"", b"", None),
        (b"", b"\r\n", None),
        (b"GET / HTTP/1.1\r\n", b"x", 408),
        (HEAD + b"Content-Length: 9999\r\n\r\n", b"x", 408),
        (HEAD + b"Content-Length: 9999999\r\n\r\n", b"x", 500),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 500),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", 500),
        (HEAD + b"\r\n", b"\r\n", 200),
    ],
    ids=[
        "silence",
        "empty lines",
        "head",
        "small body",
        "large body",
        "chunks",
        "a note on a chunk",
        "after an answer",
    ],
)
def test_a_byte_now_and_then_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch, begins: bytes, drips: bytes, status: int | None
) -> None:
    """The limits are for the whole, not for a pause. (The app of this test does not word what breaks off: 500.)"""
    for module, name in (
        (connection, "OPEN_TIMEOUT"),
        (connection, "HEAD_TIMEOUT"),
        (connection, "IDLE_TIMEOUT"),
        (bodies, "SMALL_TIMEOUT"),
        (pace, "ALLOWANCE"),
    ):
        monkeypatch.setattr(module, name, 0.4)
    monkeypatch.setattr(connection, "LINGER", 0.05)
    monkeypatch.setattr(server, "SWEEP", 0.05)
    with serving(Slow()) as one, Talk(one.port) as talk:
        talk.try_to_send(begins)
        if status == 200:
            assert talk.answer().status == status
            status = None
        for _ in range(200):
            if select.select([talk.socket], [], [], 0.02)[0]:
                break
            talk.try_to_send(drips)
            if talk.broken:
                break
        else:
            pytest.fail("it is still held after ten times the limit")
        if status is not None and not talk.broken:
            assert talk.answer().status == status
            assert talk.closed()


def test_a_body_that_really_comes_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "ALLOWANCE", 0.1)
    monkeypatch.setattr(pace, "LOWEST_RATE", 50_000.0)
    with serving(Slow()) as one, Talk(one.port) as talk:
        talk.ask("PUT /", "Content-Length: 200000")
        for _ in range(20):
            assert not select.select([talk.socket], [], [], 0.05)[0]
            talk.send(bytes(10_000))
        assert talk.answer().status == 200


def test_kept_connections_are_kept_shorter_in_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    from localml.httpd import room

    monkeypatch.setattr(server, "SWEEP", 0.05)
    monkeypatch.setattr(room, "CROWDED_IDLE", 0.1)
    with serving(Slow(), most_clients=10) as one, Talk(one.port) as kept:
        kept.ask("GET /")
        assert kept.answer().status == 200
        assert not select.select([kept.socket], [], [], 0.4)[0]
        with strangers(one.port, 5):
            assert kept.closed()


def test_one_cause_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    now = [0.0]
    log = Sparing(logging.getLogger("test"), clock=lambda: now[0])
    for second in range(150):
        now[0] = float(second)
        log.warning("disk", "the disk is full (%d)", second)
        log.warning("net", "the net is down")
    said = [record.getMessage() for record in caplog.records if "disk" in record.getMessage()]
    assert said == [
        "the disk is full (0)",
        "the disk is full (60) (59 times more since this was last said)",
        "the disk is full (120) (59 times more since this was last said)",
    ]
    assert len(caplog.records) == 6
