"""A proxy before the Docker daemon that makes it fail as daemons fail: by rule, or by chance from a seed.

It hands on bytes and reads of them no more than the head of each request, so that upgraded connections, followed logs
and chunked bodies pass as they are. Each request has a connection of its own on both sides.
"""

from __future__ import annotations

import json
import random
import re
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import pytest
from docker.utils import kwargs_from_env, parse_host

from helpers.counts import count

_CHUNK = 1 << 16
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """What a client asked: ``raw`` is all that it sent so far, head and body."""

    method: str
    path: str
    raw: bytes
    client: socket.socket


Act = Callable[["FaultyDaemon", Request], None]


@dataclass(frozen=True)
class Fault:
    """One way to fail. ``act`` answers the request, or not; the connection is closed after it."""

    name: str
    act: Act


def answer(status: int, message: str, *, acted: bool = False) -> Fault:
    """That status and message; the daemon never hears of the request, or has acted (``acted``)."""

    def act(proxy: FaultyDaemon, request: Request) -> None:
        if acted:
            proxy.whole_answer(request)
        body = json.dumps({"message": message}).encode()
        first, length = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"
        lines = (first, "Content-Type: application/json", "Connection: close", length)
        request.client.sendall("\r\n".join(lines).encode() + _HEAD_END + body)

    return Fault(f"{status} {'after' if acted else 'before'}", act)


def _close_after(proxy: FaultyDaemon, request: Request) -> None:
    proxy.whole_answer(request)


def _hang(proxy: FaultyDaemon, request: Request) -> None:
    proxy.hold(request.client)


def _hang_after(proxy: FaultyDaemon, request: Request) -> None:
    proxy.whole_answer(request)
    proxy.hold(request.client)


CLOSE_BEFORE = Fault("close before", lambda _proxy, _request: None)
"""Closes the connection; the daemon never hears of the request."""
CLOSE_AFTER = Fault("close after", _close_after)
"""Closes the connection when the daemon has acted."""
HANG = Fault("hang", _hang)
"""Never answers, until :meth:`FaultyDaemon.release`; the daemon never hears of the request."""
HANG_AFTER = Fault("hang after", _hang_after)
"""Never answers though the daemon has acted."""


def cut(after: int) -> Fault:
    """Gives the answer's head and so many bytes of its body, then closes the connection."""
    return Fault("cut", lambda proxy, request: proxy.begin_answer(request, after))


def stall(after: int) -> Fault:
    """Gives the answer's head and so many bytes of its body, and then nothing more, until released."""

    def act(proxy: FaultyDaemon, request: Request) -> None:
        proxy.begin_answer(request, after)
        proxy.hold(request.client)

    return Fault("stall", act)


def delay(seconds: float) -> Fault:
    """Hands everything on, but later."""

    def act(proxy: FaultyDaemon, request: Request) -> None:
        proxy.closing.wait(seconds)
        proxy.hand_on(request)

    return Fault("delay", act)


@dataclass
class Rule:
    """Fails, of the calls that match, ``times`` from number ``nth`` on, or all from there."""

    fault: Fault
    method: re.Pattern[str]
    path: re.Pattern[str]
    nth: int = 1
    times: int | None = 1
    calls: int = 0
    hit: threading.Event = field(default_factory=threading.Event)
    """Set when it has failed a call."""

    def applies(self, request: Request) -> bool:
        if not (self.method.fullmatch(request.method) and self.path.search(request.path)):
            return False
        self.calls += 1
        return self.calls >= self.nth and (self.times is None or self.calls < self.nth + self.times)


@dataclass(frozen=True)
class Risk:
    """A fault that may happen to calls that match."""

    fault: Fault
    method: str = ".*"
    path: str = ""

    def may_happen(self, request: Request) -> bool:
        return bool(re.fullmatch(self.method, request.method) and re.search(self.path, request.path))


class Chance:
    """Lets that share of all calls fail, each in one of the ways in which it can."""

    def __init__(self, seed: int, share: float, risks: Sequence[Risk]) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._risks = risks

    def choose(self, request: Request) -> Fault | None:
        lot, which = self._random.random(), self._random.random()
        able = [risk for risk in self._risks if risk.may_happen(request)]
        return able[int(which * len(able))].fault if able and lot < self._share else None


class FaultyDaemon:
    """The proxy. ``host`` is what ``DOCKER_HOST`` should say; without rules it only hands on."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.host = f"unix://{path}"
        self.injected: Counter[str] = Counter()
        self.closing = threading.Event()
        self._upstream = upstream
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._chance: Chance | None = None
        self._sockets: set[socket.socket] = set()
        self._held = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._accept, name="faulty-daemon", daemon=True)
        self._thread.start()

    # -- what fails ------------------------------------------------------------------------------

    def fail(self, fault: Fault, method: str, path: str, *, nth: int = 1, times: int | None = 1) -> Rule:
        """Add a rule; both words are regular expressions, ``path`` (with its query) is searched."""
        rule = Rule(fault, re.compile(method), re.compile(path), nth, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def by_chance(self, seed: int, share: float, risks: Sequence[Risk]) -> None:
        """Let calls fail by chance, until :meth:`mend`."""
        with self._lock:
            self._chance = Chance(seed, share, risks)

    def mend(self) -> None:
        """No call fails from now on, and what hangs is closed."""
        with self._lock:
            self._rules.clear()
            self._chance = None
        self.release()

    def release(self) -> None:
        """Close what hangs; later calls may hang again."""
        with self._lock:
            held, self._held = self._held, threading.Event()
        held.set()

    # -- how it fails ----------------------------------------------------------------------------

    def hold(self, client: socket.socket) -> None:
        """Wait until released, or until the client has gone."""
        held = self._held
        client.settimeout(0.05)
        while not held.is_set() and not self.closing.is_set():
            with suppress(TimeoutError):
                if not client.recv(_CHUNK):
                    return

    def whole_answer(self, request: Request) -> bytes:
        """Let the daemon act; its answer, to the end."""
        answered = bytearray()
        with self._connected(request) as daemon:
            while piece := daemon.recv(_CHUNK):
                answered += piece
        return bytes(answered)

    def begin_answer(self, request: Request, after: int) -> None:
        """Hand on the head of the daemon's answer, and ``after`` bytes of what follows."""
        answered, limit = bytearray(), -1
        with self._connected(request) as daemon:
            while limit < 0 or len(answered) < limit:
                piece = daemon.recv(_CHUNK)
                if not piece:
                    break
                answered += piece
                if limit < 0 and (end := answered.find(_HEAD_END)) >= 0:
                    limit = end + len(_HEAD_END) + after
            request.client.sendall(answered[:limit] if limit >= 0 else answered)

    def hand_on(self, request: Request) -> None:
        """Everything in both directions, until the daemon has closed its side."""
        with self._connected(request) as daemon:
            back = threading.Thread(target=_copy, args=(request.client, daemon), daemon=True)
            back.start()
            _copy(daemon, request.client)
            with suppress(OSError):
                request.client.shutdown(socket.SHUT_RDWR)
            back.join()

    # -- connections -----------------------------------------------------------------------------

    @contextmanager
    def _connected(self, request: Request) -> Iterator[socket.socket]:
        daemon = socket.socket(socket.AF_UNIX)
        with self._known(daemon):
            daemon.connect(self._upstream)
            daemon.sendall(request.raw)
            yield daemon

    @contextmanager
    def _known(self, one: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(one)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(one)
            one.close()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="faulty-daemon-call", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._known(client), suppress(OSError):
            request = _read_request(client)
            if request is None:
                return
            fault = self._choose(request)
            if fault is None:
                self.hand_on(request)
            else:
                fault.act(self, request)

    def _choose(self, request: Request) -> Fault | None:
        with self._lock:
            applying = [rule for rule in self._rules if rule.applies(request)]
            fault = applying[0].fault if applying else self._chance and self._chance.choose(request)
            if fault:
                self.injected[fault.name] += 1
        if applying:
            applying[0].hit.set()
        if fault:
            count("faults injected")
        return fault

    def close(self) -> None:
        """Close all connections."""
        self.closing.set()
        self.release()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def _read_request(client: socket.socket) -> Request | None:
    """A request with its body, as far as that has a length; told to be the connection's last unless it upgrades."""
    data = b""
    while (end := data.find(_HEAD_END)) < 0:
        piece = client.recv(_CHUNK)
        if not piece:
            return None
        data += piece
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = data[end + len(_HEAD_END) :]
    while len(body) < int(headers.get("content-length", 0)):
        piece = client.recv(_CHUNK)
        if not piece:
            return None
        body += piece
    if "upgrade" not in headers:
        lines = [line for line in lines if not line.lower().startswith("connection:")] + ["Connection: close"]
    method, path, _ = first.split(" ", 2)
    return Request(method, path, "\r\n".join([first, *lines]).encode("latin-1") + _HEAD_END + body, client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """All bytes, and then the end of them."""
    with suppress(OSError):
        while piece := source.recv(_CHUNK):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def faulty_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyDaemon]:
    """A proxy before the daemon that the environment names; ``DOCKER_HOST`` names the proxy from then on."""
    host = dict(kwargs_from_env()).get("base_url")
    address = str(parse_host(str(host) if host else None, False, False))
    if not address.startswith("http+unix://"):
        pytest.skip("the daemon is not reached through a socket of this machine")
    upstream = "/" + address.removeprefix("http+unix://").lstrip("/")
    with tempfile.TemporaryDirectory(prefix="faulty") as folder:  # a socket's path has to be short
        proxy = FaultyDaemon(Path(folder) / "docker.sock", upstream)
        monkeypatch.setenv("DOCKER_HOST", proxy.host)
        try:
            yield proxy
        finally:
            proxy.close()
