"""Real servers in processes of their own, to be killed, and the calls that a client makes to them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from helpers.engine_kits import wait_until

_SCRIPT = Path(__file__).with_name("server_main.py")
_START_S = 60.0
_STOP_S = 30.0


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

    def __init__(self, url: str, token: str) -> None:
        self._pool = urllib3.connection_from_url(url, maxsize=8, timeout=20.0, retries=False)
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
        self._api = Api(info["url"], token)
        return True

    def _info(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.data / "server.json").read_text())
        except (OSError, ValueError):
            return None
        return found if found["pid"] == self.pid else None

    def poll(self) -> int | None:
        """Its exit status, None while it lives."""
        if self._status is None and not self._ended.empty():
            self._status = self._ended.get()["status"]
        return self._status

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal, if it still lives, and wait for its end; its exit status."""
        if self.poll() is None:
            os.kill(self.pid, number)  # not reaped before its end was reported, so the number is still its own
            try:
                self._status = self._ended.get(timeout=_STOP_S)["status"]
            except queue.Empty:
                raise AssertionError(f"the server did not end within {_STOP_S:g} s of {number.name}") from None
        if self._api is not None:
            self._api.close()
        assert self._status is not None
        return self._status


class Servers:
    """Starts servers on one data directory, one at a time.

    Args:
        settings: of :func:`localml.config.load`; engine ``process`` and any free port unless given.
        environment: added to that of the servers.
    """

    def __init__(self, data: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> None:
        self.data = data
        defaults = {"engine": "process", "port": 0, "data": str(data), "cache": str(data / "cache")}
        self._settings = {**defaults, **settings}
        self.log = data.with_name(data.name + ".log")
        with self.log.open("ab") as log:
            self._parent = subprocess.Popen(
                [sys.executable, str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._begun: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.current: Running | None = None

    def _listen(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            said = json.loads(line)
            (self._ended if "ended" in said else self._begun).put(said)

    def launch(self, failpoint: str | None = None) -> Running:
        """Begin a server; it may die at ``failpoint`` (``name:count``)."""
        assert self.current is None or self.current.poll() is not None, "one at a time"
        assert self._parent.stdin is not None
        order = json.dumps({"failpoint": failpoint, "settings": self._settings})
        self._parent.stdin.write(order.encode() + b"\n")
        self._parent.stdin.flush()
        self.current = Running(self.data, self._begun.get(timeout=_START_S)["pid"], self._ended)
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
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(_STOP_S)
        assert self._parent.stdout is not None
        self._parent.stdout.close()


@contextmanager
def servers(data: Path, **settings: Any) -> Iterator[Servers]:
    """:class:`Servers` that leaves no server behind."""
    found = Servers(data, **settings)
    try:
        yield found
    finally:
        found.close()
