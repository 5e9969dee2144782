"""Servers to measure: real ``localml up`` processes, or the platform in this process; with data as years leave it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.client import Client, request

LOCALML = Path(sys.executable).parent / "localml"
TINY_JOB = ("true",)
GPUS = 4
CPUS = 16 * (os.cpu_count() or 1)
"""Declared, so that as many jobs run at a time as containers may."""
IMAGE = "localml/base:latest"
POOLS = ("default", "cloudml/train/default", "openpai/default")
NATIVE, CLOUDML, OPENPAI, MLBENCH = "/localml/v1", "/cloud_ml/v1", "/api/v1", "/api"
WMLA = "/platform/rest/deeplearning/v1"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until ``/healthz`` is answered well."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("bench: the server ended at once")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                if b" 200 " in connection.recv(100):
                    return
        except OSError:
            time.sleep(0.002)
    raise SystemExit("bench: the server did not answer within 60 s")


@dataclass
class Server:
    """A server process, and requests as the clients of each API make them."""

    port: int
    pid: int
    data: Path

    @cached_property
    def credentials(self) -> dict[str, str]:
        """Those of the administrator."""
        found: dict[str, str] = json.loads((self.data / "credentials.json").read_text())
        return found

    @cached_property
    def control(self) -> Client:
        """A connection for what is not measured."""
        return Client(self.port)

    def client(self) -> Client:
        """A new connection."""
        return Client(self.port)

    def native(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        """A request to localml's own API."""
        return self._bearer(method, NATIVE + path, body, self.credentials["token"], **headers)

    def openpai(self, method: str, path: str, body: Any = None) -> bytes:
        """A request with a token of OpenPAI's own."""
        return self._bearer(method, OPENPAI + path, body, self._pai_token)

    def mlbench(self, method: str, path: str, form: str = "") -> bytes:
        """A request of MLBench, whose bodies are forms."""
        kind = {"Content_Type": "application/x-www-form-urlencoded"} if form else {}
        return request(
            method, MLBENCH + path, form.encode(), Authorization=f"Bearer {self.credentials['token']}", **kind
        )

    def cloudml(self, method: str, path: str, body: Any = None) -> bytes:
        """A signed request."""
        data = b"" if body is None else json.dumps(body).encode()
        stamp, digest = str(int(time.time())), hashlib.md5(data, usedforsecurity=False).hexdigest()
        text = f"{CLOUDML}{path.partition('?')[0]}\n{stamp}\n{digest}\n"
        key = self.credentials["secret_key"].encode()
        signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha1).digest()).decode()
        signed = {
            "X_Xiaomi_Timestamp": stamp,
            "X_Xiaomi_Content_MD5": digest,
            "X_Xiaomi_Secret_Key_Id": self.credentials["access_key"],
            "Authorization": f"Galaxy V3 {signature}",
        }
        return request(method, CLOUDML + path, data, **signed)

    def wmla(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """A request as the vendor's client sends it: by name and password."""
        pair = f"{self.credentials['user']}:{self.credentials['password']}".encode()
        return request(method, WMLA + path, body, Authorization=f"Basic {base64.b64encode(pair).decode()}", **headers)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of localml's own API."""
        return self.control.send(self.native(method, path, body)).json

    def settled(self, number: int) -> str:
        """The state of a workload once it is over."""
        for _ in range(20):
            state = str(self.ask("GET", f"/workloads/{number}/wait?timeout=30")["state"])
            if state in ("succeeded", "failed", "stopped"):
                return state
        raise RuntimeError(f"workload {number} did not end: {state}")

    @cached_property
    def _pai_token(self) -> str:
        given = {"username": self.credentials["user"], "password": self.credentials["password"]}
        body = json.dumps(given).encode()
        sent = request("POST", f"{OPENPAI}/token", body, Content_Type="application/json")
        return str(self.control.send(sent).json["token"])

    @staticmethod
    def _bearer(method: str, path: str, body: Any, token: str, **headers: str) -> bytes:
        """Bytes are sent as they are, all else as JSON."""
        raw = isinstance(body, bytes)
        data = b"" if body is None else body if raw else json.dumps(body).encode()
        kind = {"Content_Type": "application/x-tar" if raw else "application/json"} if data else {}
        return request(method, path, data, Authorization=f"Bearer {token}", **kind, **headers)

    def await_leases(self) -> None:
        """Wait until all GPUs are held: until the first jobs of the queue have started."""
        while not all(gpu["leases"] for gpu in self.ask("GET", "/gpus")["gpus"]):
            time.sleep(0.05)

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of processor time that its threads have used."""
        found = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                found += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:  # ended meanwhile
                continue
        return found / 1e9


@contextmanager
def serving(data: Path, engine: str, told: int = subprocess.DEVNULL, **environment: str) -> Iterator[Server]:
    """A server that answers.

    Args:
        told: file descriptor for what it says on stderr.
    """
    port = free_port()
    command = [LOCALML, "up", "--data", data, "--engine", engine, "--port", port, "--gpus", f"simulated:{GPUS}"]
    command += ["--gateway-port", free_port(), "--cpus", CPUS, "--max-replicas", CPUS]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=told, env=os.environ | environment
    )
    try:
        await_answer(port, process)
        yield Server(port, process.pid, data)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def platform(data: Path, engine: str, *, start: bool = True) -> Iterator[Any]:
    """The platform in this process."""
    from localml.config import load
    from localml.platform import Platform

    one = Platform(load({}, data=data, engine=engine, gpus=f"simulated:{GPUS}", cpus=CPUS, max_replicas=CPUS))
    if start:
        one.start()
    try:
        yield one
    finally:
        one.close()


def submission(one: Any, name: str) -> Any:
    """A job of one line."""
    from localml.core.work.specs import single
    from localml.core.work.workloads import Submission

    return Submission(name, single(TINY_JOB), one.identity.user("admin"))


WORKSPACES = 20
"""Among which the rows are spread."""


def fill(data: Path, *, ended: int = 0, waiting: int = 0) -> None:
    """Rows as years of use leave them: nearly all over, of many owners and workspaces; and jobs that wait for a GPU."""
    with platform(data, "fake", start=False) as one:
        for pool in POOLS:
            one.pools.ensure(pool)
        for n in range(WORKSPACES):
            one.workspaces.create(one.identity.user("admin"), f"team-{n}")
        one.db.write(lambda session: _insert(session, ended, waiting))


def _insert(session: Any, ended: int, waiting: int) -> None:
    from localml.core.logs.tables import LogFile
    from localml.core.sql import table_of
    from localml.core.work.specs import Resources, single
    from localml.core.work.tables import Attempt, Workload, WorkloadDetail

    plain = single(TINY_JOB)
    role = plain.roles[0].model_copy(update={"resources": Resources(cpu=1.0, memory=1 << 30, gpu=1.0)})
    spec = plain.model_copy(update={"roles": (role,)}).model_dump_json(exclude_defaults=True)
    numbers = range(1, ended + waiting + 1)
    connection = session.connection()
    connection.execute(table_of(Workload).insert(), [_row(n, waits=n > ended) for n in numbers])
    details = [{"workload_id": n, "spec": spec, "request": None} for n in numbers]
    connection.execute(table_of(WorkloadDetail).insert(), details)
    if ended:
        connection.execute(table_of(Attempt).insert(), [_attempt(n) for n in numbers[:ended]])
        files = [_log_file(n, stream) for n in numbers[:ended] for stream in ("stdout", "stderr")]
        connection.execute(table_of(LogFile).insert(), files)


def _row(n: int, *, waits: bool) -> dict[str, Any]:
    from localml.core.work.states import Desired, Kind, State

    over = (State.SUCCEEDED,) * 6 + (State.FAILED,) * 2 + (State.STOPPED,)
    at = time.time() - 1e6 + n
    chance = random.Random(n)
    return {
        "kind": Kind.JOB if chance.random() > 0.02 else Kind.NOTEBOOK,
        "dialect": "native",
        "workspace": f"team-{chance.randrange(WORKSPACES)}",
        "owner": f"user-{chance.randrange(10)}",
        "owner_id": 1,  # the administrator, who may run what waits
        "name": f"job-{n}",
        "version": "",
        "pool": chance.choice(POOLS),
        "priority": chance.randrange(5),
        "desired": Desired.RUN,
        "state": State.QUEUED if waits else chance.choice(over),
        "message": "" if waits else "exit code 0",
        "attempt": 1,
        "retries": 0,
        "cpu": 1.0,
        "memory": 1 << 30,
        "gpu": 1.0,
        "created_at": at,
        "updated_at": at if waits else at + 5,
        "queued_at": at,
        "started_at": None if waits else at + 1,
        "ended_at": None if waits else at + 4,
        "cleaned": not waits,
    }


def _attempt(n: int) -> dict[str, Any]:
    from localml.core.work.states import AttemptState

    at = time.time() - 1e6 + n
    names = {"id": n, "workload_id": n, "role": "main", "index": 0, "number": 1, "name": f"bench-{n}", "node": "local"}
    times = {"created_at": at, "started_at": at + 1, "ended_at": at + 4}
    return {**names, **times, "state": AttemptState.ENDED, "exit_code": 0, "message": "", "removed": True}


def _log_file(n: int, stream: str) -> dict[str, Any]:
    from localml.core.subjects import Noun

    of = {"subject_kind": Noun.WORKLOAD, "subject_id": n, "attempt_id": n}
    return {**of, "stream": stream, "path": f"logs/{n}/bench-{n}.{stream}", "size": 1000, "closed": True}
