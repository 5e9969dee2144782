"""WSGI servers side by side: same app, same client, same run.

    python scripts/lib/bench_servers.py [--quick] [--json] [--only NAME ...]

The app is bare Flask: ``POST /submit`` stores its body with one durable commit (WAL, ``synchronous=FULL``; those that
wait at the same time share one), ``GET /healthz`` does nothing. The three checks are what a server has to be able to
do to be chosen at all. A candidate that isn't installed is left out with a word.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import queue
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from bench.client import request as message
from bench.crowd import HOST, drive
from bench.server import free_port
from flask import Flask, Response, abort, request

from localml.httpd.held import HOLDS, Held

THREADS = 8
STREAMS = 64
NOTICED_S = 2.0
"""Seconds in which a client's departure must be noticed, and a plain request be answered beside idle streams."""
BODY_LIMIT = 1 << 20
DATA = "LOCALML_BENCH_DATA"
SUBMISSION = json.dumps({"name": "job", "command": ["true"], "resources": {"cpu": 1}}).encode()


# -- the app -------------------------------------------------------------------------------------


class Commits:
    """One thread that writes; what waits at the same time shares one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[bytes, Future[int]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, body: bytes) -> int:
        """Store a body; returns its number once that is on disk."""
        future: Future[int] = Future()
        self._queue.put((body, future))
        return future.result()

    def _run(self) -> None:
        file = sqlite3.connect(self._path, isolation_level=None)
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=FULL")
        file.execute("CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, body BLOB)")
        while True:
            group = [self._queue.get()]
            with suppress(queue.Empty):
                while True:
                    group.append(self._queue.get_nowait())
            file.execute("BEGIN IMMEDIATE")
            ids = [int(file.execute("INSERT INTO job (body) VALUES (?)", (body,)).lastrowid or 0) for body, _ in group]
            file.execute("COMMIT")
            for number, (_, future) in zip(ids, group, strict=True):
                future.set_result(number)


class Idle(Held):
    """A stream that says hello and then nothing, until its client has gone."""

    def __init__(self, ended: Callable[[], None], gone: Callable[[], bool]) -> None:
        self._ended, self._gone = ended, gone

    async def pieces(self, run: Any) -> AsyncGenerator[bytes, None]:
        """On our own server's event loop."""
        try:
            yield b": hello\n\n"
            await asyncio.Event().wait()
        finally:
            self._ended()

    def __iter__(self) -> Iterator[bytes]:
        """On a worker of any other; it looks whether anybody is there as often as that server lets it."""
        try:
            yield b": hello\n\n"
            while not self._gone():
                time.sleep(0.2)
                yield b""
        finally:
            self._ended()


class _Stream(Response):
    def __init__(self, body: Idle) -> None:
        super().__init__(mimetype="text/event-stream")
        self._idle = body

    def __call__(self, environ: Any, start_response: Any) -> Any:
        _, status, headers = self.get_wsgi_response(environ)
        start_response(status, [one for one in headers if one[0].lower() != "content-length"])
        return self._idle if HOLDS in environ else iter(self._idle)


def application() -> Flask:
    """The app that all candidates serve."""
    app = Flask("bench")
    commits = Commits(Path(os.environ[DATA]) / "bench.db")
    ended: list[int] = []

    @app.get("/healthz")
    def healthz() -> Any:
        return {"status": "ok"}

    @app.post("/submit")
    def submit() -> Any:
        body = request.get_json()
        return {"id": commits.add(json.dumps(body).encode()), "name": body["name"]}, 201

    @app.put("/upload")
    def upload() -> Any:
        if (request.content_length or 0) > BODY_LIMIT:
            abort(413)
        with suppress(OSError):  # the client has gone
            return {"size": len(request.get_data())}
        abort(400)

    @app.get("/stream")
    def stream() -> Any:
        gone = request.environ.get("waitress.client_disconnected", lambda: False)
        return _Stream(Idle(lambda: ended.append(1), gone))

    @app.get("/ended")
    def gone() -> Any:
        return {"ended": len(ended)}

    return app


# -- the candidates ------------------------------------------------------------------------------


def serve_own(port: int, threads: int = THREADS) -> None:
    """The app on localml's own server, until the process ends."""
    from localml.httpd.server import HttpServer

    HttpServer(application(), HOST, port, threads=threads).start()
    threading.Event().wait()


def _serve_waitress(port: int) -> None:
    import waitress

    logging.getLogger("waitress").setLevel(logging.ERROR)  # how long its queue is

    waitress.serve(
        application(), host=HOST, port=port, threads=THREADS, channel_request_lookahead=1, connection_limit=1100
    )


def _serve_cheroot(port: int) -> None:
    from cheroot.wsgi import Server

    Server((HOST, port), application(), numthreads=THREADS).start()


def _own_command(name: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, __file__, "serve", name, "--port", str(port)]


def _gunicorn(port: int) -> list[str]:
    options = ["--worker-class", "gthread", "--threads", str(THREADS), "--log-level", "warning"]
    return [sys.executable, "-m", "gunicorn", *options, "--bind", f"{HOST}:{port}", "bench_servers:application()"]


def _granian(port: int) -> list[str]:
    options = ["--interface", "wsgi", "--workers", "1", "--blocking-threads", str(THREADS), "--log-level", "warning"]
    target = ["--host", HOST, "--port", str(port), "--factory", "bench_servers:application"]
    return [str(Path(sys.executable).parent / "granian"), *options, *target]


CANDIDATES: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    "own": ("httptools", _own_command("own")),
    "waitress": ("waitress", _own_command("waitress")),
    "cheroot": ("cheroot", _own_command("cheroot")),
    "gunicorn": ("gunicorn", _gunicorn),
    "granian": ("granian", _granian),
}
"""name -> (package that must be there, command line for a port)"""


@contextmanager
def running(name: str) -> Iterator[tuple[int, psutil.Process, float]]:
    """A candidate in a process of its own: its port, its process, and the seconds until its first answer."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="localml-bench-") as data:
        root = Path(__file__).parents[2]
        paths = [str(root), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, DATA: data, "PYTHONPATH": os.pathsep.join(paths)}
        begin = time.perf_counter()
        server = subprocess.Popen(CANDIDATES[name][1](port), env=environment, cwd=data)
        try:
            _wait_for(server, port)
            yield port, psutil.Process(server.pid), time.perf_counter() - begin
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:  # it waits for who follows something
                for child in psutil.Process(server.pid).children(recursive=True):
                    child.kill()
                server.kill()
                server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=5) as one:
            one.sendall(_GET)
            if one.recv(100).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.005)
    raise RuntimeError(f"{server.args!r} does not answer")


_GET = message("GET", "/healthz")
_POST = message("POST", "/submit", SUBMISSION, Content_Type="application/json")

# -- the checks ----------------------------------------------------------------------------------


def _says(port: int, message: bytes, timeout: float = NOTICED_S) -> bytes:
    """The first bytes that a server answers; empty when none come in time."""
    with socket.create_connection((HOST, port), timeout=timeout) as one:
        one.sendall(message)
        with suppress(OSError):
            return one.recv(4096)
    return b""


def refuses_on_the_head(port: int) -> bool:
    """A body that is far too long is refused with 413 before any of it, and before it was asked for."""
    head = b"PUT /upload HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n" % (1 << 35)
    plain = _says(port, head + b"\r\n")
    waiting = _says(port, head + b"Expect: 100-continue\r\n\r\n")
    small = _says(port, b"PUT /upload HTTP/1.1\r\nHost: bench\r\nContent-Length: 70000\r\nExpect: 100-continue\r\n\r\n")
    return plain[:12] == waiting[:12] == b"HTTP/1.1 413" and small.startswith(b"HTTP/1.1 100")


def holds_streams(port: int) -> bool:
    """With 64 silent streams open on 8 threads, all have begun and a plain request is answered."""
    held = [socket.create_connection((HOST, port), timeout=NOTICED_S) for _ in range(STREAMS)]
    try:
        for one in held:
            one.sendall(b"GET /stream HTTP/1.1\r\nHost: bench\r\n\r\n")
        deadline = time.monotonic() + NOTICED_S
        begun = sum(_begins(one, deadline) for one in held)
        return begun == STREAMS and _says(port, _GET).startswith(b"HTTP/1.1 200")
    finally:
        for one in held:
            one.close()


def _begins(one: socket.socket, deadline: float) -> bool:
    got = b""
    with suppress(OSError):
        while b": hello" not in got:
            one.settimeout(max(0.01, deadline - time.monotonic()))
            data = one.recv(4096)
            if not data:
                return False
            got += data
    return b": hello" in got


def notices_departures(port: int) -> bool:
    """The app is told within two seconds that the client of a silent stream has gone."""
    before = _ended(port)
    one = socket.create_connection((HOST, port), timeout=NOTICED_S)
    one.sendall(b"GET /stream HTTP/1.1\r\nHost: bench\r\n\r\n")
    begun = _begins(one, time.monotonic() + NOTICED_S)
    one.close()
    deadline = time.monotonic() + NOTICED_S
    while begun and time.monotonic() < deadline:
        if _ended(port) > before:
            return True
        time.sleep(0.05)
    return False


def _ended(port: int) -> int:
    answer = _says(port, b"GET /ended HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    found = answer.rpartition(b'"ended":')[2].strip(b" }\r\n")
    return int(found) if found.isdigit() else 0


CHECKS = {
    "refuses on the head": refuses_on_the_head,
    "notices departures": notices_departures,
    "holds 64 streams on 8 threads": holds_streams,
}
"""What a server must be able to do; the last may leave it unable to answer anything."""


# -- the table -----------------------------------------------------------------------------------

LOADS = {"GET, 1 client": (_GET, 1), "POST, 1 client": (_POST, 1), "GET, 8": (_GET, 8), "POST, 8": (_POST, 8)}


@dataclass
class Result:
    """What was found out of one candidate; times in seconds, memory in bytes."""

    name: str
    version: str
    start: float
    memory: int
    checks: dict[str, bool]
    rounds: dict[str, list[dict[str, float]]]

    @property
    def qualifies(self) -> bool:
        return all(self.checks.values())

    def median(self, load: str, what: str) -> float:
        return statistics.median(one[what] for one in self.rounds[load])


def measure(name: str, rounds: int, count: int, into: dict[str, Result]) -> None:
    """One round of one candidate; the checks in the first, after the loads."""
    with running(name) as (port, process, start):
        for load, (wanted, clients) in LOADS.items():
            found = drive(port, clients, count, wanted)
            if name in into:
                into[name].rounds[load].append({"p50": found.p50, "p99": found.p99, "rate": found.rate})
            else:
                version = _version(name)
                into[name] = Result(name, version, start, 0, {}, {one: [] for one in LOADS})
                into[name].rounds[load].append({"p50": found.p50, "p99": found.p99, "rate": found.rate})
        if not into[name].checks:
            tree = [process, *process.children(recursive=True)]
            into[name].memory = sum(one.memory_info().rss for one in tree)
            into[name].checks = {what: check(port) for what, check in CHECKS.items()}


def _version(name: str) -> str:
    package = CANDIDATES[name][0]
    return f"{package} {importlib.metadata.version(package)}"


def show(results: list[Result]) -> None:
    """As tables in Markdown."""
    print(f"\n{_machine()}\n")
    print("| server | " + " | ".join(CHECKS) + " | qualifies | first answer | memory |")
    print("|---|" + "---|" * (len(CHECKS) + 3))
    for one in results:
        checks = " | ".join("yes" if ok else "**no**" for ok in one.checks.values())
        qualifies = "yes" if one.qualifies else "no"
        print(
            f"| {one.name} ({one.version}) | {checks} | {qualifies} | {one.start:.2f} s | {one.memory / 1e6:.0f} MB |"
        )
    print("\n| server | " + " | ".join(f"{load}: p50 / p99, ms; rate" for load in LOADS) + " |")
    print("|---|" + "---|" * len(LOADS))
    for one in results:
        cells = [
            f"{one.median(load, 'p50') * 1e3:.2f} / {one.median(load, 'p99') * 1e3:.2f}; {one.median(load, 'rate'):.0f}"
            for load in LOADS
        ]
        print(f"| {one.name} | " + " | ".join(cells) + " |")


def _machine() -> str:
    model = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model}, Python {platform.python_version()}"


def compare(names: list[str], rounds: int, count: int) -> list[Result]:
    """All candidates, in turns, so that a noisy minute is everybody's."""
    there = []
    for name in names:
        if importlib.util.find_spec(CANDIDATES[name][0]) is None:
            print(f"{name} is left out: the package {CANDIDATES[name][0]} is not installed", file=sys.stderr)
        else:
            there.append(name)
    found: dict[str, Result] = {}
    for number in range(rounds):
        for name in there:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            measure(name, rounds, count, found)
    return list(found.values())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", action="store_true", help="all rounds, as JSON")
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    commands = parser.add_subparsers(dest="command")
    serve = commands.add_parser("serve", help="one candidate, in this process")
    serve.add_argument("name", choices=["own", "waitress", "cheroot"])
    serve.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    if given.command == "serve":
        {"own": serve_own, "waitress": _serve_waitress, "cheroot": _serve_cheroot}[given.name](given.port)
    else:
        results = compare(given.only, 1 if given.quick else 5, 500 if given.quick else 2000)
        if given.json:
            print(json.dumps([asdict(one) for one in results], indent=1))
        else:
            show(results)


if __name__ == "__main__":
    main()
