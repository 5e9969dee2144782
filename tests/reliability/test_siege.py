"""Forty clients wait, eight follow floods, one uploads slowly, one doesn't read: all others are answered, and nothing
grows. How quickly is measured by ``scripts/bench --only siege``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.engine_kits import wait_until
from helpers.http_socket import Talk
from helpers.limited_server import Limited, limited
from helpers.native import spec

WAITERS, FLOODS = 40, 8
UPLOAD = 1 << 30
_FLOOD = """
import os, time
lines = b"".join(b"%06d a line of output as long as many are, more or less\\n" % one for one in range(1000))
while True:
    left = lines
    while left:
        left = left[os.write(1, left):]
    time.sleep(float(os.environ["PAUSE"]))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Limited]:
    with limited(tmp_path, 1024, 4096, engine="process") as one:
        try:
            yield one
        finally:
            for row in one.api.get("/workloads", limit=200)["workloads"]:
                one.api.post(f"/workloads/{row['id']}/stop")
                one.api.wait_over(row["id"])


class Reader(threading.Thread):
    """Reads what comes until it ends or breaks off."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(daemon=True)
        self.talk, self.size = talk, 0
        self.start()

    def run(self) -> None:
        try:
            for piece in self.talk.chunks():
                self.size += len(piece)
        except (OSError, ValueError):
            pass  # the connection was closed by this side


class Uploader(threading.Thread):
    """Sends a body that has no end in sight, slowly."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(daemon=True)
        self.talk, self.size, self.enough = talk, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.enough.wait(0.02) and not self.talk.broken:
            self.talk.try_to_send(bytes(1 << 14))
            self.size += 1 << 14


@pytest.mark.parametrize("pause", [0.02, 0.0])
def test_a_siege_starves_nobody(server: Limited, long_form: bool, pause: float) -> None:
    command = (sys.executable, "-c", _FLOOD)
    floods = [server.api.submit(f"flood-{one}", spec(*command, env={"PAUSE": str(pause)})) for one in range(FLOODS)]
    silent = server.api.submit("silent", spec("sleep", "600"))
    wait_until(lambda: all(server.api.get(f"/workloads/{one}")["state"] == "running" for one in floods), "floods")
    before = server.process.num_fds(), server.process.num_threads(), server.process.memory_info().rss
    with ExitStack() as stack:
        connect = _asker(server, stack)
        waits = [
            connect(f"GET /localml/v1/workloads/{floods[one % FLOODS] if one % 2 else silent}/wait?timeout=60")
            for one in range(WAITERS)
        ]
        readers = []
        for number, one in enumerate(floods):
            accept = "text/event-stream" if number % 2 else "*/*"
            talk = connect(f"GET /localml/v1/workloads/{one}/logs?follow=true", f"Accept: {accept}")
            assert talk.head().status == 200
            readers.append(Reader(talk))
        unread = connect(f"GET /localml/v1/workloads/{floods[0]}/logs?follow=true")
        uploader = Uploader(connect("PUT /localml/v1/objects/content?uri=fds://siege/x", f"Content-Length: {UPLOAD}"))
        _ask_meanwhile(server, silent, 1000 if long_form else 100)
        for reader in readers:
            wait_until(lambda one=reader: one.size > 1 << 20, "a flood that is followed")  # type: ignore[misc]
        count("bytes of output", sum(reader.size for reader in readers))
        assert uploader.size > 1 << 18
        assert not uploader.talk.broken
        assert server.process.memory_info().rss - before[2] < 200 << 20

        server.api.post(f"/workloads/{silent}/stop")
        for talk in waits[::2]:
            assert b'"state":"stopped"' in talk.answer().body
        for one in floods:
            server.api.post(f"/workloads/{one}/stop")
        for talk in waits[1::2]:
            assert b'"state":"stopped"' in talk.answer().body
        for reader in readers:
            reader.join(60)
            assert not reader.is_alive(), "a follower is told that it is over"
        uploader.enough.set()
        uploader.join()
        assert unread.head().status == 200
    wait_until(lambda: server.process.num_fds() <= before[0] + 8, "descriptors of those who left")
    assert server.process.num_threads() < before[1] + 40
    assert "Traceback" not in server.log


def _asker(server: Limited, stack: ExitStack) -> Callable[..., Talk]:
    def ask(line: str, *headers: str) -> Talk:
        talk = stack.enter_context(Talk(server.port, receive_buffer=1 << 16))
        talk.ask(line, f"Authorization: Bearer {server.token}", *headers)
        return talk

    return ask


def _ask_meanwhile(server: Limited, silent: int, rounds: int) -> None:
    """What everybody else does: looks whether it is well, and works; what is submitted waits for the silent one."""
    work = {**spec("true"), "depends_on": [silent]}
    with Talk(server.port) as talk:
        for number in range(rounds):
            talk.ask("GET /healthz")
            assert talk.answer().status == 200
            one = server.api.submit(f"meanwhile-{number}", work)
            assert server.api.call("DELETE", f"/workloads/{one}").ok
    count("requests tried", 3 * rounds)
