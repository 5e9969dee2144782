"""Real servers in processes of their own, to be killed, and the calls that a client makes to them."""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from helpers.engine_kits import wait_until

_SCRIPT = Path(__file__).with_name("server_main.py")
_START_S = 60.0
_STOP_S = 60.0
_PER_TEST = ("DOCKER_HOST",)  # variables that a test may set for its own servers


class Down(Exception):
    """The server did not answer, or not to the end: whether it did what it was told is not known."""


class Answer:
    """An HTTP answer that came to its end."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """Calls of localml's own API, each sent once."""

    def __init__(self, url: str, token: str, pid: int = 0) -> None:
        self.pid = pid
        """Of the server's process."""
        self._pool = urllib3.connection_from_url(url, maxsize=8, timeout=60.0, retries=False)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """The answer, whatever its status.

        Raises:
            Down: there was none.
        """
        target = f"/localml/v1{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body)
        try:
            found = self._pool.urlopen(method, target, body=data, headers=self._headers)
        except (HTTPError, OSError) as error:
            raise Down(str(error)) from error
        return Answer(found.status, found.data, dict(found.headers))

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that must be a success."""
        answer = self.call("GET", path, **query)
        assert answer.ok, f"GET {path}: {answer.status} {answer.body!r}"
        return answer.json

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of an answer that must be a success."""
        answer = self.call("POST", path, body)
        assert answer.ok, f"POST {path}: {answer.status} {answer.body!r}"
        return answer.json

    def submit(self, name: str, spec: dict[str, Any]) -> int:
        """The id of a workload that was taken."""
        return int(self.post("/workloads", {"name": name, "spec": spec})["id"])

    def wait_over(self, number: int) -> dict[str, Any]:
        """A workload once it has ended."""
        while True:
            seen: dict[str, Any] = self.get(f"/workloads/{number}/wait", timeout=10)
            if seen["ended_at"] is not None:
                return seen

    def log(self, number: int, **query: Any) -> bytes:
        """What there is of the output of one stream."""
        answer = self.call("GET", f"/workloads/{number}/logs", prefix=False, limit=64 << 20, **query)
        assert answer.ok, f"logs of {number}: {answer.status} {answer.body!r}"
        return answer.body

    def close(self) -> None:
        self._pool.close()


class Running:
    """One server's life."""

    def __init__(self, data: Path, pid: int, ended: queue.SimpleQueue[dict[str, Any]]) -> None:
        self.data = data
        self.pid = pid
        self._ended = ended
        self._status: int | None = None
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        assert self._api is not None, "the server is not ready"
        return self._api

    def ready(self) -> bool:
        """Wait until it serves; False if it died before."""
        wait_until(lambda: self.poll() is not None or self._info(), "a server that answers")
        info = self._info()
        if info is None:
            return False
        token = json.loads((self.data / "credentials.json").read_text())["token"]
        self._api = Api(info["url"], token, self.pid)
        return True

    def _info(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.data / "server.json").read_text())
        except (OSError, ValueError):
            return None
        return found if found["pid"] == self.pid else None

    def poll(self) -> int | None:
        """Its exit status, None while it lives."""
        while self._status is None and not self._ended.empty():
            self._hear(0)
        return self._status

    def _hear(self, timeout: float) -> None:
        """Take one report; it is of another server if a test gave up waiting for that one's end."""
        said = self._ended.get(timeout=timeout)
        if said["ended"] == self.pid:
            self._status = said["status"]

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal, if it still lives, and wait for its end; its exit status."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended by itself, and its report is on the way
                os.kill(self.pid, number)
            try:
                while self._status is None:
                    self._hear(_STOP_S)
            except queue.Empty:
                raise AssertionError(f"the server did not end within {_STOP_S:g} s of {number.name}") from None
        if self._api is not None:
            self._api.close()
        assert self._status is not None
        return self._status


class _Parent:
    """The process that servers are forked from; one for all tests, because it takes seconds to begin."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in _PER_TEST},
            start_new_session=True,
        )
        self.begun: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self._close)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            (self.ended if "ended" in said else self.begun).put(said)

    def fork(self, order: dict[str, Any]) -> int:
        """Start a server; its process number."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return int(self.begun.get(timeout=_START_S)["pid"])

    def _close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_STOP_S)
        self._listener.join(_STOP_S)
        self._process.stdout.close()


_parent = cache(_Parent)


class Servers:
    """Starts servers on one data directory, one at a time.

    Args:
        settings: of :func:`localml.config.load`; engine ``process`` for users who trust each other, 64 cores, and any
            free port unless given.
    """

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data = data
        defaults = {
            "engine": "process",
            "trust_users": True,
            "cpus": 64,
            "port": 0,
            "data": str(data),
            "cache": str(data / "cache"),
            "images": {"none": "host"},
        }
        self._settings = {**defaults, **settings}
        self.log = data.with_name(data.name + ".log")
        self.current: Running | None = None

    def launch(self, failpoint: str | None = None) -> Running:
        """Begin a server; it may die at ``failpoint`` (``name:count``)."""
        assert self.current is None or self.current.poll() is not None, "one at a time"
        order = {
            "failpoint": failpoint,
            "settings": self._settings,
            "log": str(self.log),
            "environment": {name: os.environ[name] for name in _PER_TEST if name in os.environ},
        }
        parent = _parent()
        self.current = Running(self.data, parent.fork(order), parent.ended)
        return self.current

    def start(self, failpoint: str | None = None) -> Running:
        """A server that answers."""
        server = self.launch(failpoint)
        assert server.ready(), f"the server ended at once:\n{self.tail()}"
        return server

    def tail(self, size: int = 6000) -> str:
        """The last lines that the servers logged."""
        return self.log.read_bytes()[-size:].decode(errors="replace")

    def close(self) -> None:
        """Kill what still runs. Jobs go on."""
        if self.current is not None:
            self.current.end()


@contextmanager
def servers(data: Path, **settings: Any) -> Iterator[Servers]:
    """:class:`Servers` that leaves no server behind."""
    found = Servers(data, **settings)
    try:
        yield found
    finally:
        found.close()
