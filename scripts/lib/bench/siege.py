"""A siege: some wait, some follow floods, one uploads slowly, one doesn't read; and what that leaves for others.

The same server is measured calm and besieged in turns. The floods are real jobs of the process engine; the besiegers
run in a process of their own, so that reading the floods doesn't slow down the clients that are measured.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from bench.answers import HEALTH
from bench.client import Client, request
from bench.rows import Row, folder, ms, percentile, times
from bench.server import GPUS, NATIVE, Server, serving

WAITERS, FLOODS = 40, 8
UPLOAD = 1 << 30
"""Bytes that the slow uploader promises."""
SLOWLY = 1 << 20
"""Bytes of it a second."""
MOST_HEALTH = 0.05
MOST_SUBMIT = 3.0
_PACE = 0.01
"""Seconds between two requests that are measured; more would be a siege of its own."""
_TURN = 5.0
_PAUSES = {0.01: "floods", 0.0: "floods without a pause"}
"""Seconds between two thousand lines of a flood, and what it is then."""
_FLOOD = """
import os, time
lines = b"".join(b"%06d a line of output as long as many are, more or less, of a flood\\n" % one for one in range(1000))
while True:
    left = lines
    while left:
        left = left[os.write(1, left):]
    time.sleep(float(os.environ["PAUSE"]))
"""


def siege(quick: bool) -> Iterator[Row]:
    """``/healthz`` and a submission, while others besiege the server, beside the same when they don't."""
    turns, seconds = (1, 3.0) if quick else (3, _TURN)
    calm, besieged = Times(), {pause: Times() for pause in _PAUSES}
    with folder() as path, serving(path / "data", "process") as server, closing(server.client()) as client:
        _hold_gpus(server)
        calm.take(server, client, seconds)  # warms
        calm = Times()
        for turn in range(turns):
            calm.take(server, client, seconds)
            for pause, times_ in besieged.items():
                with besiegers(server, path, turn, pause) as read:
                    before = read.value
                    times_.take(server, client, seconds)
                    times_.followed += read.value - before
    for pause, floods in _PAUSES.items():
        what = f"{WAITERS} wait, {FLOODS} follow {floods}, one uploads, one doesn't read"
        yield from _rows(what, calm, besieged[pause], turns * seconds)


def _rows(what: str, calm: Times, besieged: Times, seconds: float) -> Iterator[Row]:
    p99, usual = percentile(besieged.health, 0.99), percentile(calm.health, 0.99)
    floods = f"{besieged.followed / seconds / 1e6:.1f} MB/s followed"
    yield Row(f"/healthz while {what}: p99", ms(p99), "<= 50 ms", f"{ms(usual)} calm; {floods}", p99 <= MOST_HEALTH)
    p50, usual = statistics.median(besieged.submit), statistics.median(calm.submit)
    beside = f"{ms(usual)} calm; p99 {ms(percentile(besieged.submit, 0.99))}, {ms(percentile(calm.submit, 0.99))} calm"
    ratio = p50 / usual
    yield Row("a submit meanwhile: p50", f"{ms(p50)} ({times(ratio)})", "<= 3 of calm", beside, ratio <= MOST_SUBMIT)


@dataclass
class Times:
    """Seconds of single requests, and bytes that followers got meanwhile."""

    health: list[float] = field(default_factory=list)
    submit: list[float] = field(default_factory=list)
    followed: int = 0

    def take(self, server: Server, client: Client, seconds: float) -> None:
        """Measure for a while: health and submissions in turns, each submission undone outside of its time."""
        end = time.monotonic() + seconds
        spec = {"roles": [{"command": ["true"], "resources": {"gpu": 1}}]}
        while time.monotonic() < end:
            self.health.append(client.time(HEALTH))
            name = f"waits-{time.monotonic_ns()}"
            spent, answer = client.timed(server.native("POST", "/workloads", {"name": name, "spec": spec}))
            self.submit.append(spent)
            client.send(server.native("DELETE", f"/workloads/{answer.json['id']}"))
            time.sleep(_PACE)


def _hold_gpus(server: Server) -> None:
    """So that each submission waits, as it does wherever there is a queue."""
    spec = {"roles": [{"command": ["sleep", "600"], "resources": {"gpu": GPUS}}]}
    server.ask("POST", "/workloads", {"name": "holds", "spec": spec})
    server.await_leases()


@contextmanager
def besiegers(server: Server, path: Path, turn: int, pause: float) -> Iterator[Synchronized[int]]:
    """Everybody at once; gives how many bytes the followers of floods have got.

    Args:
        turn: a number that makes the jobs' names new.
        pause: seconds between two thousand lines of a flood.
    """
    script = path / "flood.py"
    script.write_text(_FLOOD)
    spec = {"roles": [{"command": [sys.executable, str(script)], "env": {"PAUSE": str(pause)}}]}
    numbers = [
        int(server.ask("POST", "/workloads", {"name": f"flood-{turn}-{pause}-{one}", "spec": spec})["id"])
        for one in range(FLOODS)
    ]
    _await_running(server, numbers)
    read = multiprocessing.get_context("fork").Value("q", 0)
    crowd = multiprocessing.get_context("fork").Process(target=_besiege, args=(server, numbers, read), daemon=True)
    crowd.start()
    try:
        _await_floods(read)
        yield read
        if not crowd.is_alive():
            raise RuntimeError("the siege was given up: somebody got an answer, or none")
    finally:
        crowd.kill()
        crowd.join()
        for number in numbers:
            server.ask("POST", f"/workloads/{number}/stop")
        for number in numbers:
            server.settled(number)


def _await_running(server: Server, numbers: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(server.ask("GET", f"/workloads/{one}")["state"] != "running" for one in numbers):
        if time.monotonic() > deadline:
            raise RuntimeError("the floods did not start")
        time.sleep(0.05)


def _await_floods(read: Synchronized[int]) -> None:
    deadline = time.monotonic() + 60
    while read.value < 1 << 20:
        if time.monotonic() > deadline:
            raise RuntimeError("the floods did not arrive")
        time.sleep(0.05)


def _besiege(server: Server, numbers: list[int], read: Synchronized[int]) -> None:
    """All besiegers, on one selector: half of those who wait do so for what floods. It ends when nobody else should."""
    waited = [numbers[one % len(numbers)] if one % 2 else 1 for one in range(WAITERS)]
    waits = [_sent(server.port, server.native("GET", f"/workloads/{one}/wait?timeout=60")) for one in waited]
    follows = [_sent(server.port, _follow(server, number, one)) for one, number in enumerate(numbers)]
    unread = _sent(server.port, server.native("GET", f"/workloads/{numbers[0]}/logs?follow=true"), buffer=4096)
    selector = selectors.DefaultSelector()
    for one in (*waits, *follows):
        selector.register(one, selectors.EVENT_READ, one in follows)
    uploader = _Uploader(_sent(server.port, _upload(server)))
    while unread.fileno() >= 0:
        for key, _ in selector.select(0.05):
            piece = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
            if not piece or not key.data:
                raise SystemExit(f"a besieger was told {piece[:200]!r}")
            read.value += len(piece)
        uploader.go_on()


class _Uploader:
    """Sends as much as its pace allows by now, and the server takes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection, self._at = connection, time.monotonic()

    def go_on(self) -> None:
        now = time.monotonic()
        size = int((now - self._at) * SLOWLY)
        if size < 1 << 14:
            return
        self._at = now
        with suppress(BlockingIOError):
            self._connection.send(bytes(min(size, 1 << 18)))


def _follow(server: Server, number: int, one: int) -> bytes:
    """As bytes, and as events."""
    path = f"/workloads/{number}/logs?follow=true&tail=10"
    return server.native("GET", path, Accept="text/event-stream") if one % 2 else server.native("GET", path)


def _upload(server: Server) -> bytes:
    path = f"{NATIVE}/objects/content?uri=fds://siege/large"
    head = request("PUT", path, Authorization=f"Bearer {server.credentials['token']}")
    return head.replace(b"Content-Length: 0", b"Content-Length: %d" % UPLOAD)


def _sent(port: int, raw: bytes, buffer: int = 0) -> socket.socket:
    one = socket.socket()
    if buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.connect(("127.0.0.1", port))
    one.sendall(raw)
    return one
