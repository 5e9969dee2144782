"""The floors: what must be spent without localml.

F is a bare Flask app with one durable commit: ``python -m bench.floor --port N --data DIR`` serves it.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Client, request
from bench.rows import folder
from bench.server import await_answer, free_port

_BODY = b'{"name": "x", "spec": {"roles": [{"command": ["true"]}]}}'
SUBMIT = request("POST", "/submit", _BODY, Content_Type="application/json")


def open_database(path: Path) -> sqlite3.Connection:
    """A durable SQLite file with one table."""
    file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA journal_mode=WAL").close()
    file.execute("PRAGMA synchronous=FULL").close()
    file.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a, b, c, d)")
    return file


def commit(file: sqlite3.Connection, n: int) -> None:
    """One durable commit of three small rows: as many as a submission has."""
    file.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        file.execute("INSERT INTO t (a, b, c, d) VALUES (?, ?, ?, ?)", (n, "x" * 100, "y" * 300, 1.0))
    file.execute("COMMIT")


def bare_commits(path: Path, count: int) -> float:
    """Median seconds of one durable commit with sqlite3 alone."""
    file = open_database(path)
    times = []
    for n in range(count):
        begin = time.perf_counter()
        commit(file, n)
        times.append(time.perf_counter() - begin)
    file.close()
    return statistics.median(times)


@contextmanager
def floor_server() -> Iterator[int]:
    """The port of F, in a process of its own."""
    port = free_port()
    with folder() as path:
        command = [sys.executable, "-m", "bench.floor", "--port", str(port), "--data", str(path)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
        try:
            await_answer(port, process)
            client = Client(port)
            for _ in range(100):  # warm
                client.send(SUBMIT)
            client.close()
            yield port
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    """Serve F."""
    from flask import Flask, jsonify, request

    from localml.httpd.server import HttpServer  # the fastest that qualifies: docs/http-server.md

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="an empty folder")
    given = parser.parse_args()
    app, lock, file = Flask(__name__), threading.Lock(), open_database(given.data / "floor.db")

    @app.get("/healthz")
    def health() -> str:
        return "ok"

    @app.post("/submit")
    def submit() -> object:
        body = request.get_json()
        with lock:
            commit(file, len(body["name"]))
        return jsonify(body), 201

    HttpServer(app, port=given.port).start()
    threading.Event().wait()


if __name__ == "__main__":
    os.environ.pop("FLASK_DEBUG", None)
    main()
