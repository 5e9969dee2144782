"""Talking to a localml server from Python.

>>> with Client.connect() as client:                            # doctest: +SKIP
...     done = client.run(["python", "train.py"], gpus=1, wait=True)
...     print(done.state, client.text(done.id))

Every method raises :class:`ClientError` with the server's code, the member at fault and a sentence.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from localml.client.containers import Containers
from localml.client.errors import ClientError
from localml.client.jobs import Jobs, Reference, part
from localml.client.metrics import Compared, Metric, Metrics, Report
from localml.client.names import Names, Thing
from localml.client.objects import Objects
from localml.client.people import People
from localml.client.serving import Endpoint, Model, ModelVersion, Serving
from localml.client.studies import Algorithm, Studies, Study, StudyPage, Trial
from localml.client.tools import Tools
from localml.client.transport import FOLLOW_S, JSON, Transport, find_server
from localml.client.types import (
    Event,
    Gpu,
    LogPiece,
    ObjectInfo,
    Output,
    Page,
    Pool,
    Reason,
    Replica,
    Workload,
    lines_of,
    make,
    workload,
)

__all__ = [
    "Algorithm",
    "Client",
    "ClientError",
    "Compared",
    "Endpoint",
    "Event",
    "Gpu",
    "LogPiece",
    "Metric",
    "Model",
    "ModelVersion",
    "ObjectInfo",
    "Output",
    "Page",
    "Pool",
    "Reason",
    "Replica",
    "Report",
    "Study",
    "StudyPage",
    "Thing",
    "Trial",
    "Workload",
]

_WAIT_S = 30.0
_BLOCK = 1 << 20
_REJOIN_S = 15.0
"""How long who follows or waits tries to find a server again that went away."""
_AWAY = ("unreachable", "unavailable")
_PAUSE_S = 0.2
"""A server that restarts is asked again soon, but not in a tight loop."""


class Client(Jobs, Containers, Serving, Objects, Metrics, Names):
    """A server's own API, typed. Use it as a context manager, or call :meth:`close`.

    Args:
        url: of the server, such as ``http://127.0.0.1:7070``.
        token: a bearer token; not needed when the server runs without authentication.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self._http = Transport(url, token)
        self.tools = Tools(self._http)
        self.people = People(self._http)
        self.studies = Studies(self._http, self.send_code)

    @classmethod
    def connect(cls, data: Path | str | None = None) -> Client:
        """The server of a data directory, or the one that the environment names (see :func:`find_server`)."""
        return cls(*find_server(data))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    # -- workloads -------------------------------------------------------------------------------

    def get(self, ref: Reference) -> Workload:
        """Everything about a workload."""
        return workload(self._http.json("GET", f"/workloads/{part(ref)}"))

    def workloads(self, **filters: Any) -> Page:
        """One page: ``kind``, ``state`` (one or several each), ``dialect``, ``workspace``, ``owner``, ``pool``,
        ``name``, ``contains``, ``parent_kind`` with ``parent_id``, ``deleted``, ``sort``, ``order`` (asc, desc),
        ``limit``, ``after``, ``why`` (whether to say why those wait that do)."""
        found = self._http.json("GET", "/workloads", **filters)
        return Page([workload(one) for one in found["workloads"]], found["next"])

    def all(self, **filters: Any) -> Iterator[Workload]:
        """All workloads that fit, page by page."""
        page = self.workloads(**filters)
        yield from page.workloads
        while page.next:
            page = self.workloads(**{**filters, "after": page.next})
            yield from page.workloads

    def stop(self, ref: Reference) -> Workload:
        """Ask for a workload to be stopped."""
        return workload(self._http.json("POST", f"/workloads/{part(ref)}/stop"))

    def delete(self, ref: Reference) -> Workload:
        """Stop and hide a workload."""
        return workload(self._http.json("DELETE", f"/workloads/{part(ref)}"))

    def why(self, ref: Reference) -> Reason | None:
        """Why a workload waits; None when it does not."""
        found = self._http.json("GET", f"/workloads/{part(ref)}/why")["why"]
        return make(Reason, found) if found else None

    def wait(self, ref: Reference, timeout: float | None = None) -> Workload:
        """The workload once it has ended. The server answers when that happens; nobody polls. It may restart meanwhile.

        Raises:
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        left, broken_at = 0.0, None  # the first answer comes at once: from then on there was a server
        known: Workload | None = None
        while True:
            try:
                known, broken_at = workload(self._http.json("GET", f"/workloads/{part(ref)}/wait", timeout=left)), None
            except ClientError as error:
                broken_at = broken_at or time.monotonic()
                if known is None or error.code not in _AWAY or time.monotonic() - broken_at > _REJOIN_S:
                    raise
                time.sleep(_PAUSE_S)
            if known.ended:
                return known
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"workload '{known.name}' is {known.state} after {timeout:g} s")
            left = _WAIT_S if deadline is None else min(_WAIT_S, max(0.0, deadline - time.monotonic()))

    def events(self, ref: Reference | None = None, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of a workload, or of the platform, oldest first."""
        path = "/events" if ref is None else f"/workloads/{part(ref)}/events"
        return [make(Event, one) for one in self._http.json("GET", path, after=after, limit=limit)["events"]]

    def ssh(self, ref: Reference) -> dict[str, Any]:
        """Open ssh access: ``user``, ``private_key``, ``host_key``, and in ``doors`` where each running replica is."""
        return dict(self._http.json("POST", f"/workloads/{part(ref)}/ssh"))

    # -- output ----------------------------------------------------------------------------------

    def output(self, ref: Reference, **query: Any) -> Output:
        """A part of the output.

        Args:
            query: ``role``, ``index``, ``attempt`` (a number or ``all``), ``stream``, ``offset``, ``limit`` (bytes),
                ``tail`` (lines), ``prefix``.
        """
        with self._http.stream("GET", f"/workloads/{part(ref)}/logs", **query) as answer:
            data = answer.read()
            complete = answer.headers.get("Localml-Complete") == "true"
            offset, end = answer.headers.get("Localml-Offset", "0"), answer.headers.get("Localml-End", "0")
            start, tail = answer.headers.get("Localml-Start", "0"), answer.headers.get("Localml-Tail")
            return Output(data, offset, complete, end, start, tail)

    def parts(self, ref: Reference, **query: Any) -> Iterator[Output]:
        """What there is by now of the output (see :meth:`output`), part by part; not what is added meanwhile."""
        end: str | None = None
        while True:
            found = self.output(ref, **query)
            end = end or found.end
            query.pop("tail", None)  # only says where to begin
            if found.tail is not None:  # more than one answer holds
                query["offset"] = found.tail
                continue
            if found.data:
                yield found
            if found.complete or not found.data or not found.left(end):
                return
            query["offset"] = found.offset

    def blocks(self, ref: Reference, **query: Any) -> Iterator[bytes]:
        """The bytes of :meth:`parts`."""
        return (part.data for part in self.parts(ref, **query))

    def text(self, ref: Reference, **query: Any) -> str:
        """All output by now as text; what is no UTF-8 becomes U+FFFD."""
        return b"".join(self.blocks(ref, **query)).decode("utf-8", "replace")

    def follow(
        self, ref: Reference, *, state: Callable[[str], None] = lambda _: None, **query: Any
    ) -> Iterator[LogPiece]:
        """Output as it is written, from the beginning (or the last ``tail`` lines) until the workload has ended.

        When the connection breaks, as in a restart of the server, it is taken up again without loss or doubles.

        Args:
            state: told each new state of the workload, the last one included.
            query: ``role``, ``index``, ``attempt``, ``stream``, ``tail``.
        """
        last: str | None = None
        broken_at: float | None = None
        while True:
            try:
                for kind, number, body in self._events(ref, last, query):
                    last, broken_at = number or last, None
                    if kind == "log":
                        yield make(LogPiece, body)
                    elif kind == "gone":
                        words = f"[localml] {body.pop('bytes')} bytes of older output are kept no more\n"
                        yield make(LogPiece, {"text": words, **body})
                    elif kind in ("state", "end"):
                        state(str(body["state"]))
                    if kind == "end":
                        return
            except ClientError as error:
                if error.code not in _AWAY:
                    raise
                broken_at = broken_at or time.monotonic()
                if last is None or time.monotonic() - broken_at > _REJOIN_S:
                    raise
            time.sleep(_PAUSE_S)

    def _events(self, ref: Reference, last: str | None, query: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
        """(event, id, data) of the server-sent events."""
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = last
        path = f"/workloads/{part(ref)}/logs"
        with self._http.stream("GET", path, headers=headers, timeout=FOLLOW_S, **query) as answer:
            members: dict[str, str] = {}
            for line in lines_of(answer.stream(_BLOCK)):
                if line:
                    name, _, value = line.partition(": ")
                    members[name] = value
                elif "data" in members:
                    yield members.get("event", ""), members.get("id", ""), json.loads(members["data"])
                    members = {}
                else:
                    members = {}

    # -- samples ---------------------------------------------------------------------------------

    def add_samples(self, ref: Reference, points: Sequence[Mapping[str, Any]], *, replica: str = "") -> None:
        """Give points (``name``, ``value`` and perhaps ``at``) to a workload's series."""
        self._http.json("POST", f"/workloads/{part(ref)}/samples", {"replica": replica, "points": list(points)})

    def samples(self, ref: Reference, **query: Any) -> dict[tuple[str, str], list[tuple[float, float]]]:
        """(replica, name) -> (time, value) pairs; ``since``, ``name`` and ``replica`` restrict."""
        found = self._http.json("GET", f"/workloads/{part(ref)}/samples", **query)["series"]
        return {(one["replica"], one["name"]): [(at, value) for at, value in one["points"]] for one in found}

    # -- the machine -----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The installation at a glance."""
        return dict(self._http.json("GET", "/status"))

    def gpus(self) -> list[Gpu]:
        """All GPUs."""
        return [make(Gpu, one) for one in self._http.json("GET", "/gpus")["gpus"]]

    def drain(self, gpu: str | None = None, *, reason: str | None = None) -> str:
        """Give a GPU, or the machine, no new work; returns what was drained."""
        body = {"gpu": gpu, **({"reason": reason} if reason else {})}
        return str(self._http.json("POST", "/drain", body)["drained"])

    def undrain(self, gpu: str | None = None) -> str:
        """Give it work again."""
        return str(self._http.json("POST", "/undrain", {"gpu": gpu})["undrained"])

    def pools(self) -> list[Pool]:
        """All pools."""
        return [make(Pool, one) for one in self._http.json("GET", "/pools")["pools"]]

    def set_limits(self, pool: str, **limits: Any) -> Pool:
        """Set all limits of a pool (``cpu``, ``memory``, ``gpu``, ``max_workloads``); one left out is lifted."""
        return make(Pool, self._http.json("PUT", f"/pools/{quote(pool)}", limits))

    def delete_pool(self, pool: str) -> None:
        """Remove a pool that nothing uses."""
        self._http.json("DELETE", f"/pools/{quote(pool)}")

    def images(self) -> list[dict[str, Any]]:
        """The runtimes, and which of them are built."""
        return list(self._http.json("GET", "/images")["images"])

    def build_images(self, names: Sequence[str] = (), *, onto: str = "") -> Iterator[dict[str, Any]]:
        """Build runtimes; gives ``{"line"}`` while it works and ``{"built", "reference", "size"}`` for each.

        Args:
            onto: an image of one's own, in which the server of Python kernels is made ready to run instead.
        """
        body = json.dumps({"names": list(names), "onto": onto}).encode()
        with self._http.stream("POST", "/images/build", body, headers=JSON, timeout=None) as answer:
            for line in lines_of(answer.stream(_BLOCK)):
                found = json.loads(line)
                if "error" in found:
                    raise ClientError(found["error"]["code"], found["error"]["message"])
                yield found

    # -- the installation ------------------------------------------------------------------------

    def env(self, dialect: str) -> dict[str, Any]:
        """What a client of one of the APIs needs: endpoint, credentials, environment variables."""
        return dict(self._http.json("GET", f"/env/{part(dialect)}"))

    def prune(self, **rules: Any) -> dict[str, Any]:
        """Remove old output and records: ``logs_days``, ``keep_log_bytes``, ``deleted_days``, ``dry_run``."""
        return dict(self._http.json("POST", "/prune", rules))

    def backup(self) -> dict[str, Any]:
        """Copy the database; answers ``path`` and ``size``."""
        return dict(self._http.json("POST", "/backup"))

    def users(self) -> list[dict[str, Any]]:
        """All users."""
        return list(self._http.json("GET", "/users")["users"])

    def create_user(self, name: str, password: str, *, admin: bool = False) -> dict[str, Any]:
        """Add a user; the answer holds a token and a key pair, which are shown once."""
        return self.people.create_user(name, password, admin=admin)

    def set_password(self, name: str, password: str) -> None:
        """Change a user's password; see :meth:`localml.client.people.People.set_password`."""
        self.people.set_password(name, password)

    def create_token(self, user: str, **members: Any) -> str:
        """A new token for a user; members as in :meth:`localml.client.people.People.create_token`."""
        return str(self.people.create_token(user, **members)["token"])
