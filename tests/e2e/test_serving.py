"""A model is served, replaced and served on while the server dies: real server, real gateway, real inference server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import urllib3
from helpers.models import serving_environment, times
from helpers.server_process import Down, Servers, servers
from helpers.serving_load import Load

from localml.control.serving import gateway_process
from localml.engines.process.engine import ProcessEngine

_WAIT_S = 120.0

pytestmark = pytest.mark.timeout(400)


class Stage:
    """One installation, and clients that ask it."""

    def __init__(self, running: Servers) -> None:
        self.servers = running
        self.server = running.start()
        self.pool = urllib3.PoolManager(retries=False)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.server.api.call(method, path, body, **query)
        assert answer.ok, f"{method} {path}: {answer.status} {answer.body!r}"
        return answer.json

    def put(self, uri: str, content: bytes) -> None:
        info = json.loads((self.servers.data / "server.json").read_text())
        token = json.loads((self.servers.data / "credentials.json").read_text())["token"]
        url = f"{info['url']}/localml/v1/objects/content?uri={uri}"
        headers = {"Authorization": f"Bearer {token}"}
        assert self.pool.request("PUT", url, body=content, headers=headers).status < 300

    def register(self, factor: float) -> str:
        self.put("s3://b/model.onnx", times(factor))
        made = self.call("POST", "/models", {"name": "net", "source": "s3://b/model.onnx"})
        return f"{made['model']}:{made['version']}"

    def settled(self, name: str = "net") -> Any:
        deadline = time.monotonic() + _WAIT_S
        while True:
            found = self.call("GET", f"/endpoints/{name}/wait", timeout=10)
            if found["settled"]:
                return found
            assert time.monotonic() < deadline, f"still {found['state']}: {found['message']}\n{self.servers.tail()}"

    def ready(self, name: str = "net") -> set[str]:
        """Addresses of the replicas that serve."""
        variants = self.call("GET", f"/endpoints/{name}")["variants"]
        return {each["url"] for one in variants for each in one["replicas"] if each["state"] == "ready"}

    @contextmanager
    def replicas_held_back(self) -> Iterator[None]:
        """Replicas that begin meanwhile come no further than that."""
        (python,) = (self.servers.data / "cache").rglob("bin/python")
        usual, gate = python.read_text(), self.servers.data / "gate"
        python.write_text(usual.replace("\n", f'\nuntil [ -e "{gate}" ]; do sleep 0.05; done\n', 1))
        try:
            yield
        finally:
            gate.touch()
            python.write_text(usual)

    def ask(self, url: str, **headers: str) -> urllib3.BaseHTTPResponse:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 10]}]}
        return self.pool.request("POST", url, body=json.dumps(body).encode(), headers=headers, timeout=60.0)


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The installation; a test's parameter is its GPUs."""
    data = tmp_path / "data"
    data.mkdir()
    serving_environment(data / "cache")
    with servers(data, gateway_port=0, gpus=getattr(request, "param", "none")) as running:
        yield Stage(running)
    gateway_process.stop(data, timeout=2)
    engine = ProcessEngine(data / "replicas", _install(data))
    for name in engine.list():
        engine.stop(name, 0)
    engine.close()


def _install(data: Path) -> str:
    from localml.store.database import FILE_NAME, connect_raw

    connection = connect_raw(data / FILE_NAME)
    try:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()[0])
    finally:
        connection.close()


class Clients:
    """Ask without a pause, from several threads; every answer is kept."""

    def __init__(self, ask: Callable[[], urllib3.BaseHTTPResponse], count: int = 3) -> None:
        self._ask = ask
        self._over = threading.Event()
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Clients:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._ask()
                if answer.status == 200:
                    self.answers.append(answer.json()["outputs"][0]["data"][0])
                else:
                    self.failures.append(f"{answer.status} {answer.data[:200]!r}")
            except Exception as error:
                self.failures.append(repr(error))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            self._over.wait(0.01)


@pytest.mark.slow
def test_requests_go_on_while_versions_change_and_the_server_is_killed(stage: Stage) -> None:
    first = stage.register(2.0)
    stage.call("POST", "/endpoints", {"model": first, "bake": 0.5})
    served = stage.settled()
    assert served["state"] == "ready", served["message"]
    url = served["infer_url"]
    assert stage.ask(url).status == 401
    token = json.loads((stage.servers.data / "credentials.json").read_text())["token"]

    def ask() -> urllib3.BaseHTTPResponse:
        return stage.ask(url, Authorization=f"Bearer {token}")

    assert ask().json()["outputs"][0]["data"] == [2.0, 20.0]
    gateway = gateway_process.find(stage.servers.data)
    second = stage.register(3.0)
    with Clients(ask) as clients:
        stage.call("POST", "/endpoints/net/rollout", {"model": second})
        assert stage.settled()["state"] == "ready"
        clients.wait_for(lambda: clients.answers[-20:] == [3.0] * 20)
        stage.server.end()  # SIGKILL
        seen = len(clients.answers)
        clients.wait_for(lambda: len(clients.answers) > seen + 50)
        stage.server = stage.servers.start()
        after = len(clients.answers)
        clients.wait_for(lambda: len(clients.answers) > after + 50)
        assert stage.settled()["state"] == "ready"
    assert clients.failures == []
    assert set(clients.answers) == {2.0, 3.0}
    assert stage.call("GET", "/endpoints/net")["variants"][0]["ready"] == 1
    assert stage.call("GET", "/status")["gateway_up"]
    assert gateway_process.find(stage.servers.data) == gateway  # adopted, not started again
    started = stage.call("GET", "/workloads", kind="endpoint", deleted=True)["workloads"]
    assert len(started) == 2  # one for each version: nothing was started twice


@pytest.mark.slow
def test_the_server_dies_in_the_middle_of_a_rollout_and_finishes_it(stage: Stage) -> None:
    first = stage.register(2.0)
    stage.call("POST", "/endpoints", {"model": first, "bake": 0.2, "public": True})
    url = stage.settled()["infer_url"]
    second = stage.register(3.0)
    with Clients(lambda: stage.ask(url)) as clients:
        for point in ("after-replica", "after-table"):
            stage.server.end()
            stage.server = stage.servers.start(failpoint=point)
            with suppress(Down):  # it may die before it answers
                answer = stage.server.api.call("POST", "/endpoints/net/rollout", {"model": second})
                assert answer.status in (200, 500, 503)
            clients.wait_for(lambda: stage.server.poll() is not None)
            stage.server = stage.servers.start()
            done = stage.settled()
            assert (done["state"], done["variants"][0]["model"]) == ("ready", second)
            second = stage.register(4.0)
        clients.wait_for(lambda: 3.0 in clients.answers)
    assert clients.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["simulated:1"], indirect=True)
def test_with_one_gpu_a_version_takes_over_from_one_that_ends_first_and_requests_wait(stage: Stage) -> None:
    first, second = stage.register(2.0), stage.register(3.0)
    stage.call("POST", "/endpoints", {"model": first, "bake": 0.5, "public": True, "resources": {"gpu": 1}})
    served = stage.settled()
    with Clients(lambda: stage.ask(served["infer_url"])) as clients:
        stage.call("POST", "/endpoints/net/rollout", {"model": second})
        clients.wait_for(lambda: "'recreate' would end" in stage.call("GET", "/endpoints/net")["message"])
        stage.call("POST", "/endpoints/net/rollout", {"model": second, "recreate": True})
        done = stage.settled()
        assert (done["state"], done["variants"][0]["model"]) == ("ready", second)
        clients.wait_for(lambda: clients.answers[-20:] == [3.0] * 20)
    assert clients.failures == []
    assert set(clients.answers) == {2.0, 3.0}

    stage.put("s3://b/broken/kernel.py", b"raise RuntimeError('cannot be loaded')")
    broken = stage.call("POST", "/models", {"name": "broken", "source": "s3://b/broken/"})
    body = {"model": f"broken:{broken['version']}", "recreate": True, "weight": 100}
    stage.call("POST", "/endpoints/net/rollout", body)
    done = stage.settled()
    assert (done["state"], done["variants"][0]["state"]) == ("ready", "failed")
    assert "cannot be loaded" in done["message"]
    assert stage.ask(served["infer_url"]).json()["outputs"][0]["data"] == [3.0, 30.0]
    refused = stage.server.api.call("POST", "/endpoints/net/rollout", {**body, "weight": 10})
    assert (refused.status, refused.json["error"]["field"]) == (400, "recreate")


@pytest.mark.slow
def test_a_dead_gateway_is_started_again_on_its_port(stage: Stage) -> None:
    stage.call("POST", "/endpoints", {"model": stage.register(2.0), "public": True})
    url = stage.settled()["infer_url"]
    gateway = gateway_process.find(stage.servers.data)
    assert gateway is not None
    gateway.kill()
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            if stage.ask(url).status == 200:
                break
        except urllib3.exceptions.HTTPError:
            pass
        assert time.monotonic() < deadline, "the gateway did not come back"
        threading.Event().wait(0.05)
    reasons = [one["reason"] for one in stage.call("GET", "/events")["events"]]
    assert "GatewayEnded" in reasons


@pytest.mark.slow
def test_ten_thousand_requests_survive_two_rollouts_a_dead_replica_and_a_dead_server(stage: Stage) -> None:
    first, second, third = (stage.register(factor) for factor in (2.0, 3.0, 4.0))
    stage.call("POST", "/endpoints", {"model": first, "bake": 0.5, "scaling": {"minimum": 2, "maximum": 2}})
    url = stage.settled()["infer_url"]
    token = json.loads((stage.servers.data / "credentials.json").read_text())["token"]
    gateway = gateway_process.find(stage.servers.data)
    with Load(url, token, {2.0, 3.0, 4.0}) as load:
        deadline = time.monotonic() + 240
        load.wait_served(1000, deadline)
        to_second = _roll(stage, second)

        before = stage.ready()
        _kill_listener(min(before))
        load.wait_for(lambda: len(stage.ready() - before) == 1, "another replica for the killed one", deadline)
        assert stage.settled()["variants"][0]["ready"] == 2

        began = time.monotonic()
        with stage.replicas_held_back():
            stage.call("POST", "/endpoints/net/rollout", {"model": third})
            assert stage.call("GET", "/endpoints/net")["state"] == "updating"
            stage.server.end()  # SIGKILL, in the middle of the rollout
            alone = time.monotonic()
        load.wait_served(len(load.served) + 500, deadline)
        assert {one.factor for one in load.served if one.sent > alone} == {3.0}  # nobody is there to go on with it
        stage.server = stage.servers.start()
        assert stage.settled()["variants"][0]["model"] == third
        to_third = (began, time.monotonic())
        load.wait_served(max(10_000, len(load.served) + 500), deadline)
    assert load.failures == []
    assert load.connections == 8  # none was closed either
    lives = {2.0: (0.0, to_second[1]), 3.0: (to_second[0], to_third[1]), 4.0: (to_third[0], float("inf"))}
    for factor, (since, until) in lives.items():
        mine = [one for one in load.served if one.factor == factor]
        assert mine
        assert min(one.answered for one in mine) > since
        assert max(one.sent for one in mine) < until
    assert gateway_process.find(stage.servers.data) == gateway
    assert stage.settled()["state"] == "ready"


def _roll(stage: Stage, model: str) -> tuple[float, float]:
    """Roll a version out; when that began, and when it was over."""
    began = time.monotonic()
    stage.call("POST", "/endpoints/net/rollout", {"model": model})
    served = stage.settled()
    assert (served["state"], served["variants"][0]["model"]) == ("ready", model), served["message"]
    return began, time.monotonic()


def _kill_listener(url: str) -> None:
    """End the process that serves an address, without a word to it."""
    port = urlsplit(url).port
    found = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None
    }
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)
