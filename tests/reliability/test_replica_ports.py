"""The ports behind the gateway: who is not the gateway gets nothing from a replica, whatever it asks for."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
import urllib3
from aiohttp import web
from helpers.gateway import GatewayProcess, client, endpoint, replica, running, until, wait_for
from helpers.models import serving_environment, times
from helpers.server_process import Servers, servers

from localml.control.serving import gateway_process
from localml.control.serving.gateway_process import GatewaySupervisor
from localml.core.serving.gateway_stats import read_address, write_address
from localml.core.serving.routes_table import (
    EndpointRoute,
    HealthCheck,
    ReplicaState,
    read_routes,
    routes_path,
    token_hash,
)
from localml.core.serving.specs import REPLICA_TOKEN

_BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 10]}]}).encode()
_PATHS = ("/", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/net", "/metrics", "/v2/models/other")
_HTTP = urllib3.PoolManager(retries=False, timeout=60.0)

pytestmark = pytest.mark.timeout(300)


class Served:
    """A server with one public endpoint, and where its only replica listens."""

    def __init__(self, running: Servers, endpoint: dict[str, Any]) -> None:
        self.data, self.api = running.data, running.start().api if running.current is None else running.current.api
        self.endpoint = endpoint

    @property
    def replica(self) -> str:
        [url] = [one["url"] for one in self.api.get("/endpoints/net")["variants"][0]["replicas"]]
        return str(url)

    @property
    def token(self) -> str:
        """What the gateway was told."""
        table = read_routes(self.data)
        assert table is not None
        replicas = [one for variant in table.endpoints[0].variants for one in variant.replicas]
        [ready] = [one for one in replicas if one.state is ReplicaState.READY]
        return ready.token

    def answers(self) -> str:
        """What the API tells an administrator of endpoint, replica and platform."""
        told = [self.api.get(path) for path in ("/endpoints/net", "/endpoints/net/events", "/events", "/models")]
        for one in self.api.get("/workloads", kind="endpoint")["workloads"]:
            told += [self.api.get(f"/workloads/{one['id']}"), self.api.get(f"/workloads/{one['id']}/events")]
        return json.dumps(told)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("replicas") / "data"
    data.mkdir()
    serving_environment(data / "cache")
    with servers(data, gateway_port=0, gpus="none") as running:
        running.start()
        yield _serve(running)
        api = running.current.api if running.current is not None else running.start().api
        api.call("DELETE", "/endpoints/net")
        wait_for(lambda: all(one["ended_at"] for one in api.get("/workloads", kind="endpoint")["workloads"]))
        wait_for(lambda: not any((data / "replicas").glob("lml-*/plan.json")))
    gateway_process.stop(data, timeout=2)


def _serve(running: Servers) -> Served:
    assert running.current is not None
    api = running.current.api
    info, secrets = (json.loads((running.data / f"{name}.json").read_text()) for name in ("server", "credentials"))
    put = f"{info['url']}/localml/v1/objects/content?uri=s3://b/model.onnx"
    _HTTP.request("PUT", put, body=times(2.0), headers={"Authorization": f"Bearer {secrets['token']}"})
    made = api.post("/models", {"name": "net", "source": "s3://b/model.onnx"})
    api.post("/endpoints", {"model": f"{made['model']}:{made['version']}", "public": True, "bake": 0.1})
    while not (found := api.get("/endpoints/net/wait", timeout=30))["settled"]:
        pass
    assert found["state"] == "ready", found["message"]
    return Served(running, found)


def test_a_replica_answers_the_gateway_and_nobody_else(served: Served) -> None:
    assert _HTTP.request("POST", served.endpoint["infer_url"], body=_BODY).json()["outputs"][0]["data"] == [2.0, 20.0]
    for path in _PATHS:
        answer = _HTTP.request("GET", served.replica + path)
        assert (answer.status, "gateway" in answer.json()["error"]) == (401, True), path
    for given in ({}, {REPLICA_TOKEN: ""}, {REPLICA_TOKEN: "guess"}, {REPLICA_TOKEN: served.token[:-1]}):
        for path in ("/v2/models/net/infer", "/dlim/v1/inference/net", "/v2/models/net/versions/1/infer"):
            assert _HTTP.request("POST", served.replica + path, body=_BODY, headers=given).status == 401


def test_it_answers_whoever_has_the_gateways_word(served: Served) -> None:
    headers = {REPLICA_TOKEN: served.token}
    assert _HTTP.request("GET", f"{served.replica}/v2/health/ready", headers=headers).status == 200


def test_only_administrators_read_what_the_gateway_counts(served: Served) -> None:
    metrics = f"{served.endpoint['infer_url'].split('/endpoints/')[0]}/metrics"
    admin = json.loads((served.data / "credentials.json").read_text())["token"]
    served.api.post("/users", {"name": "somebody", "password": "a password"})
    user = served.api.post("/users/somebody/tokens", {"name": "reads"})["token"]
    for token, status in (("", 401), (user, 401), (admin, 200)):
        answer = _HTTP.request("GET", metrics, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status, b"localml_gateway" in answer.data) == (status, status == 200)


def test_a_body_of_somebody_else_is_refused_before_it_is_read(served: Served) -> None:
    parts = urlsplit(served.replica)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as caller:
        caller.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert caller.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_the_word_is_in_the_gateways_table_alone(served: Served) -> None:
    assert len(served.token) >= 32
    assert stat.S_IMODE(routes_path(served.data).stat().st_mode) == 0o600
    assert served.token not in served.answers()
    assert REPLICA_TOKEN.lower() not in served.answers().lower()
    told = [path for path in served.data.rglob("*") if path.is_file() and served.token.encode() in path.read_bytes()]
    assert {path.name for path in told} <= {"routes.json", "plan.json", "launch"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in told)


def test_another_replica_has_another_word(served: Served) -> None:
    before = served.token
    served.api.post("/endpoints/net/rollout", {"model": "net:1", "recreate": True, "env": {"AGAIN": "1"}})
    while not (found := served.api.get("/endpoints/net/wait", timeout=30))["settled"]:
        pass
    assert found["state"] == "ready", found["message"]
    assert served.token != before
    assert _HTTP.request("POST", served.endpoint["infer_url"], body=_BODY).status == 200


# -- the gateway's side -----------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from running(tmp_path / "gateway")


def _with_token(route: EndpointRoute, token: str) -> EndpointRoute:
    """The same, with a token for its only replica."""
    [variant] = route.variants
    [one] = variant.replicas
    replicas = (one.model_copy(update={"token": token}),)
    return route.model_copy(update={"variants": (variant.model_copy(update={"replicas": replicas}),)})


def test_a_client_neither_brings_the_gateways_word_nor_gets_to_see_it(gateway: GatewayProcess) -> None:
    shown: list[list[str]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        shown.append(request.headers.getall(REPLICA_TOKEN, []))
        return web.Response(text="ok", headers={REPLICA_TOKEN: ",".join(shown[-1])})

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            for token in ("first", "second", ""):  # another table tells another word, or none
                await gateway.publish(_with_token(endpoint("d", url), token))
                for given in ({}, {REPLICA_TOKEN: "mine"}, {"connection": REPLICA_TOKEN, REPLICA_TOKEN: "mine"}):
                    async with session.get("/endpoints/d/x", headers=given) as answer:
                        assert (answer.status, REPLICA_TOKEN in answer.headers) == (200, False)
                    assert shown.pop() == ([token] if token else [])

    asyncio.run(act())


def test_checks_and_websockets_bring_it_too(gateway: GatewayProcess) -> None:
    seen: set[tuple[str, str | None]] = set()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.add((request.path, request.headers.get(REPLICA_TOKEN)))
        if request.path == "/ws":
            socket_ = web.WebSocketResponse()
            await socket_.prepare(request)
            return socket_
        return web.Response()

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            check = HealthCheck(path="/check", interval_s=0.05)
            await gateway.publish(_with_token(endpoint("d", url, health=check), "word"))
            async with session.ws_connect("/endpoints/d/ws"):
                await until(lambda: seen >= {("/ws", "word"), ("/check", "word")})
            assert {word for _, word in seen} == {"word"}

    asyncio.run(act())


def test_what_the_gateway_counts_is_told_to_those_whom_the_table_names(gateway: GatewayProcess) -> None:
    gateway.readers = (token_hash("mine"),)
    asyncio.run(gateway.publish())
    for token, status in ((None, 401), ("guess", 401), ("mine", 200)):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        assert _HTTP.request("GET", f"{gateway.url}/metrics", headers=headers).status == status


def test_the_grpc_servers_own_port_lets_only_the_gateway_in(gateway: GatewayProcess) -> None:
    from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import prediction_service_pb2_grpc
    from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.predict_pb2 import PredictRequest

    def code(port: int) -> grpc.StatusCode:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as failure:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(PredictRequest(), timeout=60)
        found: grpc.StatusCode = failure.value.code()
        return found

    assert code(gateway.port) is grpc.StatusCode.UNAUTHENTICATED
    ports = {one.laddr.port for one in psutil.Process(gateway.process.pid).net_connections("tcp") if not one.raddr}
    [inner] = ports - {gateway.port}
    assert code(inner) is grpc.StatusCode.PERMISSION_DENIED


def test_a_gateway_of_an_older_version_which_has_no_word_for_replicas_is_replaced(tmp_path: Path) -> None:
    def supervised() -> int:
        """Number of the process that a server finds or starts."""
        supervisor = GatewaySupervisor(tmp_path, "127.0.0.1", 0, tell=lambda *_: None)
        supervisor.ensure()
        try:
            wait_for(lambda: (found := read_address(tmp_path)) is not None and psutil.pid_exists(found.pid))
            found = read_address(tmp_path)
            assert found is not None
            return found.pid
        finally:
            supervisor.close()

    first = supervised()
    try:
        assert supervised() == first
        address = read_address(tmp_path)
        assert address is not None
        write_address(tmp_path, address.model_copy(update={"format": 0}))
        before = psutil.Process(first)
        supervisor = GatewaySupervisor(tmp_path, "127.0.0.1", 0, tell=lambda *_: None)
        supervisor.ensure()
        wait_for(lambda: not before.is_running())
        wait_for(lambda: (found := read_address(tmp_path)) is not None and found.pid not in (0, first))
        supervisor.close()
        found = read_address(tmp_path)
        assert found is not None
        assert (found.port, found.format) == (address.port, 1)
    finally:
        gateway_process.stop(tmp_path, timeout=2)
