"""What a task trained, deployed: kernels of elastic inference and ONNX models, asked at the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from helpers.models import serving_environment, times
from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, packed, wmla_server

from localml.server import Server

PATIENCE_S = 60.0
MAIN = """
import os, shutil
out = os.environ["RESULT_DIR"]
os.makedirs(out + "/trained")
shutil.copy("net.onnx", out + "/trained/net.onnx")
with open(out + "/trained/factor", "w") as file:
    file.write("21")
"""
KERNEL = """
import json, os
import redhareapiversion
from redhareapi import Kernel

class Times(Kernel):
    def on_kernel_start(self, context):
        self.told = json.loads(context.get_model_description())
        with open(os.path.join(self.told["model_path"], self.told["weight_path"])) as file:
            self.factor = float(file.read())
        self.attributes = {one["key"]: one["value"] for one in self.told["attributes"]}

    def on_task_invoke(self, task):
        while task is not None:
            given = json.loads(task.get_input_data())
            answer = {"id": given["id"], "outputs": [self.factor * one for one in given["inputs"][0]["data"]]}
            answer |= {"attributes": self.attributes, "mode": os.environ["MODE"], "name": self.told["name"]}
            task.set_output_data(json.dumps(answer))
            task = task.next()

if __name__ == "__main__":
    Times().run()
"""
ROW = {"id": "7", "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [2.0]}], "outputs": []}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has the server of models."""
    data = tmp_path_factory.mktemp("deployed")
    serving_environment(data / "cache")
    with wmla_server(data) as one:
        yield one


@pytest.fixture(scope="module")
def trained(server: Server, live: WmlaClient) -> str:
    """A task that has left weights and an ONNX model."""
    files = {"main.py": MAIN, "serve/kernel.py": KERNEL, "net.onnx": times(2, width=1)}
    made = live.start("--exec-start Python --model-main main.py", packed(files, "m"))
    assert made.status == 200, made.data
    path = f"/execs/{made.json['id']}"
    wait_until(lambda: live.get(path).json["state"] in OVER, PATIENCE_S)
    assert live.get(path).json["state"] == "FINISHED", live.get(f"{path}/log").data
    return str(made.json["id"])


def ask(server: Server, name: str, body: Any, **headers: str) -> urllib3.BaseHTTPResponse:
    url = f"{server.platform.gateway_url}/dlim/v1/inference/{name}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.request("POST", url, json=body, headers=named, retries=False)


def ready(server: Server, name: str) -> None:
    def states() -> list[Any]:
        return [one.row.state for one in server.platform.endpoints.list() if one.row.route == name]

    wait_until(lambda: states() and states()[0] in ("ready", "failed"), PATIENCE_S)
    assert states() == ["ready"]


def test_a_kernel_answers_with_its_weights_attributes_and_environment(
    server: Server, live: WmlaClient, trained: str
) -> None:
    body = {
        "name": "times",
        "tag": "first",
        "kernel": "serve/kernel.py",
        "weight": "trained/factor",
        "attributes": [{"name": "labels", "value": "a b"}],
        "environments": [{"name": "MODE", "value": "%{index}"}],
    }
    made = live.post(f"/execs/{trained}/deploy", body)
    assert (made.status, made.json) == (200, {"uid": "times", "href": "/dlim/v1/inference/times"}), made.data
    ready(server, "times")
    token = server.platform.credentials.token
    answer = ask(server, "times", ROW, X_User_Token=token)
    assert answer.status == 200, answer.data
    assert answer.json() == {
        "id": "7",
        "outputs": [42.0],
        "attributes": {"labels": "a b"},
        "mode": "%{index}",
        "name": "times",
    }
    assert ask(server, "times", ROW, X_Auth_Token=token).status == 200
    assert ask(server, "times", ROW, Authorization=f"Bearer {token}").status == 200
    assert "Deployed: times:1 answers at /dlim/v1/inference/times" in live.get(f"/execs/{trained}").json["events"]


def test_who_asks_the_server_is_told_where_the_gateway_is(server: Server) -> None:
    answer = urllib3.request("POST", f"{server.url}/dlim/v1/inference/times", json=ROW, retries=False)
    port = urlsplit(server.platform.gateway_url or "").port
    assert answer.status == 404
    assert answer.json()["message"].endswith(f"; models answer at the gateway, which is at port {port}")


def test_only_who_may_use_it_is_answered(server: Server, trained: str) -> None:
    stranger = server.platform.identity.create_token(server.platform.identity.create_user("mallory", "secret1"))
    for headers in ({}, {"X_User_Token": "nonsense"}, {"X_User_Token": stranger}):
        assert ask(server, "times", ROW, **headers).status in (401, 404)


def test_an_onnx_model_is_served_as_it_is(server: Server, live: WmlaClient, trained: str) -> None:
    assert live.post(f"/execs/{trained}/deploy", {"name": "net", "weight": "trained/net.onnx"}).status == 200
    ready(server, "net")
    answer = ask(server, "net", ROW, X_User_Token=server.platform.credentials.token)
    assert answer.status == 200, answer.data
    assert answer.json()["outputs"][0]["data"] == [4.0]


def test_the_vendors_command_line_sends_plain_objects(server: Server, live: WmlaClient, trained: str) -> None:
    body = {
        "kernel": "serve/kernel.py",
        "weight": "trained/factor",
        "attributes": {"a": 1, "b": True, "c": "x"},
        "environments": {"MODE": "x"},
    }
    assert live.post(f"/execs/{trained}/deploy", body).json["uid"] == trained
    ready(server, trained)
    answer = ask(server, trained, ROW, X_User_Token=server.platform.credentials.token)
    assert (answer.json()["attributes"], answer.json()["mode"]) == ({"a": "1", "b": "true", "c": "x"}, "x")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kernel": "missing.py"}, "kernel"),
        ({"kernel": "../main.py"}, "kernel"),
        ({"kernel": "/etc/passwd"}, "kernel"),
        ({"kernel": "serve/kernel.py", "weight": "missing"}, "weight"),
        ({"weight": "trained/factor"}, "kernel"),
        ({"name": "a/b", "kernel": "serve/kernel.py"}, "name"),
        ({"name": "times", "kernel": "serve/kernel.py"}, "name"),
        ({"kernel": "serve/kernel.py", "environments": [{"name": "1A", "value": ""}]}, "environments"),
        ({"kernel": "serve/kernel.py", "attributes": 3}, "attributes"),
        ([], "body"),
    ],
)
def test_what_cannot_be_deployed_is_refused_and_nothing_is_made(
    server: Server, live: WmlaClient, trained: str, body: Any, field: str
) -> None:
    before = [versions for _, versions in server.platform.registry.models()]
    answer = live.post(f"/execs/{trained}/deploy", {"name": "other", **body} if isinstance(body, dict) else body)
    assert answer.status == 400, answer.data
    assert answer.json["field"] == field
    assert [versions for _, versions in server.platform.registry.models()] == before
    models = Path(server.platform.data) / "models"
    assert not [one for one in models.iterdir() if one.name.startswith(".")]


def test_the_description_that_came_with_a_model_is_kept(server: Server, live: WmlaClient) -> None:
    described = {"schema_version": "2.0", "attributes": [{"key": "given", "value": "1"}], "extra": 5}
    files = {"main.py": "", "kernel.py": KERNEL, "model.json": json.dumps(described), "factor": "3"}
    made = live.start("--exec-start Python --model-main main.py", packed(files)).json
    wait_until(lambda: live.get(f"/execs/{made['id']}").json["state"] in OVER, PATIENCE_S)
    body = {"name": "own", "kernel": "kernel.py", "weight": "factor", "environments": {"MODE": ""}}
    assert live.post(f"/execs/{made['id']}/deploy", body).status == 200
    (version,) = (versions[0] for model, versions in server.platform.registry.models() if model.name == "own")
    kept = json.loads((server.platform.registry.folder(version) / "1" / "model.json").read_text())
    assert (kept["schema_version"], kept["extra"], kept["attributes"]) == ("2.0", 5, described["attributes"])
    assert (kept["name"], kept["kernel_path"], kept["weight_path"]) == ("own", "kernel.py", "factor")
