"""A WMLA training task in a real container: it trains digits, is fetched and deployed, and answers at the gateway."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers.cloudml import over
from helpers.mlbench import need_image
from helpers.rig import wait_until
from helpers.wmla import MEETS, OVER, WmlaClient, packed, wmla_server

from localml.client import Client
from localml.core.catalog import cache_dir
from localml.server import Server

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

IMAGE = "localml/train-sklearn:latest"
DIGITS = Path(__file__).parents[2] / "scripts" / "examples" / "wmla" / "digits"
ARGS = "--exec-start scikit-learn --model-main main.py --model-dir digits --workerDeviceType cpu --epochs 15"
READY_S = 180.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need_image(IMAGE)
    with wmla_server(tmp_path_factory.mktemp("wmla"), "docker", gpus="none", cpus=None, cache=cache_dir()) as one:
        yield one
        for endpoint in one.platform.endpoints.list():
            one.platform.endpoints.delete(endpoint.row.id or 0, one.platform.identity.user("admin"))
        wait_until(lambda: not one.platform.engine.list(), READY_S)


@pytest.fixture(scope="module")
def live(server: Server) -> WmlaClient:
    return WmlaClient(over(server.url), "admin", server.platform.credentials.password)


def packed_digits() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(DIGITS, arcname="digits")
    return made.getvalue()


def finished(live: WmlaClient, args: str, model: bytes) -> str:
    made = live.start(args, model)
    assert made.status == 200, made.data
    path = f"/execs/{made.json['id']}"
    wait_until(lambda: live.get(path).json["state"] in OVER, READY_S)
    assert live.get(path).json["state"] == "FINISHED", live.get(f"{path}/log").data
    return str(made.json["id"])


@pytest.fixture(scope="module")
def trained(live: WmlaClient) -> str:
    """A task that has trained the digits."""
    return finished(live, ARGS, packed_digits())


def asked(server: Server, name: str, body: Any) -> Any:
    wait_until(lambda: _state(server, name) in ("ready", "failed"), READY_S)
    assert _state(server, name) == "ready"
    url = f"{server.platform.gateway_url}/dlim/v1/inference/{name}"
    headers = {"X-User-Token": server.platform.credentials.token}
    answer = urllib3.request("POST", url, json=body, headers=headers, retries=False)
    assert answer.status == 200, answer.data
    assert urllib3.request("POST", url, json=body, retries=False).status == 401
    return answer.json()


def _state(server: Server, name: str) -> str:
    return next(str(one.row.state) for one in server.platform.endpoints.list() if one.row.route == name)


def left(live: WmlaClient, exec_id: str) -> dict[str, bytes]:
    """What a task left."""
    with zipfile.ZipFile(io.BytesIO(live.get(f"/execs/{exec_id}/result").data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def row_input(rows: list[list[float]]) -> dict[str, Any]:
    data = [one for row in rows for one in row]
    return {"id": "1", "inputs": [{"name": "x", "shape": [len(rows), 64], "datatype": "FP32", "data": data}]}


def test_what_a_container_trained_is_fetched(live: WmlaClient, trained: str) -> None:
    assert "epoch=15/15" in live.get(f"/execs/{trained}/log").data.decode()
    found = left(live, trained)
    assert {"model.onnx", "model.pkl", "val_dict_list.json"} <= set(found)
    history = json.loads(found["val_dict_list.json"])
    assert [one["step"] for one in history] == list(range(1, 16))
    assert history[-1]["accuracy"] > 0.9


def test_workers_in_containers_meet_under_their_names(live: WmlaClient) -> None:
    args = "--exec-start Python --model-main main.py --numWorker 2 --workerCPULimit 0.5"
    assert left(live, finished(live, args, packed({"main.py": MEETS})))["met.txt"] == b"worker 1\n"


def test_its_model_is_deployed_and_answers(server: Server, live: WmlaClient, trained: str) -> None:
    test = json.loads(left(live, trained)["test.json"])
    assert live.post(f"/execs/{trained}/deploy", {"name": "digits", "weight": "model.onnx"}).status == 200
    shaded = [[one / 16 for one in row] for row in test["x"]]
    answer = asked(server, "digits", row_input(shaded))
    found = next(one["data"] for one in answer["outputs"] if one["name"].endswith("label"))
    assert right(found, test["y"]) > 0.9


def test_its_kernel_runs_in_the_image_that_it_was_trained_in(server: Server, live: WmlaClient, trained: str) -> None:
    with Client(server.url, server.platform.credentials.token) as asks:
        assert [one["built"] for one in asks.build_images(onto=IMAGE) if "built" in one] == ["onnx-server"]
    body = {
        "name": "kernel",
        "kernel": "kernel.py",
        "weight": "model.pkl",
        "attributes": [{"name": "scale", "value": "16"}],
    }
    assert live.post(f"/execs/{trained}/deploy", body).status == 200
    test = json.loads(left(live, trained)["test.json"])
    answer = asked(server, "kernel", row_input(test["x"]))
    assert right(answer["outputs"][0]["data"], test["y"]) > 0.9


def right(found: list[int], truth: list[int]) -> float:
    return sum(one == other for one, other in zip(found, truth, strict=True)) / len(truth)
