"""Whatever is sent to a model, straight and through the gateway: an answer or a refusal, and nothing in the logs."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.counts import count
from helpers.fuzz import spoiled
from helpers.fuzz_apis import UNFIT
from helpers.fuzz_raw import AUTHORIZATIONS, BODIES, HEADERS, METHODS, NAMES, QUERIES, TEXTS
from helpers.gateway import GatewayProcess, endpoint, running
from helpers.onnx_bench import Server, binary, matmul, save, serving

INFER = "/v2/models/m/infer"
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
WHOLE = {
    **{
        "id": "a",
        "inputs": [ROW | {"parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": True},
    },
    "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 1}}],
}
PLAIN = {"inputs": [ROW], "outputs": [{"name": "y"}]}
LENGTH = "Inference-Header-Content-Length"
SHORT, LONG = 300, 4000


@dataclass(frozen=True)
class Door:
    """Where requests go in: address, and what stands before the path."""

    port: int
    before: str

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, self.before + path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            found = connection.getresponse()
            return found.status, found.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("onnx") / "matmul"
    save(folder, matmul())
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, model: Server) -> Iterator[GatewayProcess]:
    for one in running(tmp_path_factory.mktemp("gateway")):
        asyncio.run(one.publish(endpoint("e", f"http://127.0.0.1:{model.port}")))
        yield one


@pytest.fixture(params=["straight", "gateway"])
def door(request: pytest.FixtureRequest, model: Server, gateway: GatewayProcess) -> Iterator[Door]:
    yield Door(model.port, "") if request.param == "straight" else Door(gateway.port, "/endpoints/e")
    for log in (model.log, gateway.log()):
        assert "Traceback" not in log, log[-3000:]
    answer = model.infer(ROW)
    assert (answer.status_code, gateway.health()["status"]) == (200, "ok")


def check(door: Door, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    """The status of the answer, which is a failure of nobody but the client."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, data = door.send(method, path, body, named)
    count("requests tried")
    count("requests tried of models and the gateway")
    shown = (method, path[:200], named, body[:500], status, data[:300])
    assert status < 500, shown
    assert status < 400 or method == "HEAD" or isinstance(json.loads(data), dict), shown
    return status


def test_whatever_the_body_says(door: Door, long_form: bool) -> None:
    dice = random.Random(None if long_form else 1)
    raw = np.ones(4, "f4").tobytes()
    seen = set[int]()
    for _ in range(LONG if long_form else SHORT):
        given: Any = dice.choice((PLAIN, WHOLE))
        for _ in range(dice.randint(1, 2)):
            given = spoiled(given, dice) if isinstance(given, dict | list) else given
        head = json.dumps(given).encode()
        if dice.random() < 0.5:
            seen.add(check(door, "POST", INFER, head))
        else:
            length = dice.choice((str(len(head)), "0", "-1", "x", "\xb2", "9" * 30, str(len(head) + 17), "1_0", ""))
            seen.add(
                check(door, "POST", INFER, head + raw * dice.randint(0, 3), Inference_Header_Content_Length=length)
            )
    assert {200, 400} <= seen


def test_whatever_the_body_is(door: Door) -> None:
    for kind, body in BODIES:
        check(door, "POST", INFER, body, Content_Type=kind)
    body, headers = binary({"x": ("FP32", [1, 4], np.ones(4, "f4").tobytes())})
    for cut in (0, 1, 10, len(body) // 2, len(body) - 1):
        check(door, "POST", INFER, body[:cut], **{LENGTH: headers[LENGTH]})


def test_whatever_stands_in_the_path_and_the_headers(door: Door) -> None:
    for name in NAMES:
        for path in (
            f"/v2/models/{name}/infer",
            f"/v2/models/m/versions/{name}/infer",
            f"/v2/models/{name}",
            f"/{name}",
        ):
            check(door, "POST", "/v2/" + path.format(name), json.dumps(PLAIN).encode())
    for query in (*QUERIES, *TEXTS):
        check(door, "POST", f"{INFER}?{query}", json.dumps(PLAIN).encode())
    for value in AUTHORIZATIONS:
        check(door, "GET", "/v2/models/m", Authorization=value)
    for name, value in HEADERS:
        check(door, "GET", "/v2/models/m", **{name: value})
    for method in METHODS:
        check(door, method, INFER)


def test_numbers_that_are_none(door: Door) -> None:
    for one in UNFIT:
        check(door, "POST", INFER, json.dumps({"inputs": [ROW | {"shape": [one, 4]}]}).encode())
        check(door, "POST", INFER, json.dumps({"inputs": [ROW | {"data": [one, 2, 3, 4]}]}).encode())


def test_pages_of_the_gateway(gateway: GatewayProcess) -> None:
    for page in ("/metrics", "/healthz", "/", *(f"/endpoints/{name}/v2" for name in NAMES)):
        for value in AUTHORIZATIONS:
            check(Door(gateway.port, ""), "GET", page, Authorization=value)
    assert "Traceback" not in gateway.log()
