"""Model services, development environments and tensorboards of Cloud-ML in real containers, asked for with signed
requests and then used as people use them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import docker
import httpx
import numpy as np
import ovmsclient
import pytest
from docker.models.containers import Container
from helpers.cloudml import SignedClient, over, put_trainer
from helpers.mlbench import EVERYTHING, need_image
from helpers.models import times
from helpers.people import tree_of
from helpers.rig import wait_until
from helpers.tools import execute, points, printed

from localml.config import Config
from localml.control.serving import gateway_process
from localml.core.catalog import cache_dir
from localml.engines.base import LABEL_INSTALL
from localml.platform import Platform
from localml.server import Server

START_S = 120.0
END_S = 60.0
MODEL = {
    "model_name": "linear",
    "model_version": "v1",
    "model_uri": "fds://models/linear",
    "cpu_limit": "0.5",
    "memory_limit": "512M",
    "replicas": "2",
}
DEV = {"dev_name": "lab", "password": "open-sesame", "cpu_limit": "1", "memory_limit": "1G", "gpu_limit": "1"}
BOARD = {"tensorboard_name": "losses", "logdir": "fds://runs/losses"}
TRAIN = {"job_name": "fall", "module_name": "trainer.task", "trainer_uri": "fds://code/trainer.tar.gz"}
LOSSES = [0.5, 0.25, 0.125]
WRITES_LOSSES = f"""
import os
from tensorboardX import SummaryWriter
with SummaryWriter(os.environ["LOCALML_BUCKETS"] + "/runs/losses/first") as events:
    for step, loss in enumerate({LOSSES}):
        events.add_scalar("loss", loss, step)
"""
COMPUTES = """
import os
numbers = open(os.environ["LOCALML_BUCKETS"] + "/data/numbers.txt").read()
with open("sum.txt", "w") as file:
    file.write(str(sum(map(int, numbers.split()))))
print(open("sum.txt").read(), os.environ["NVIDIA_VISIBLE_DEVICES"][:4])
"""

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Site:
    """A live server, the API's client and the Docker daemon itself, which knows what really runs."""

    platform: Platform
    api: SignedClient
    daemon: docker.DockerClient

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.api.post(path, body)
        assert answer.status == 200, answer.data
        return answer.json

    def ready(self, path: str, word: str = "running") -> Any:
        """What the API tells of something, once it has this state."""

        def there() -> bool:
            found.update(self.api.get(path).json)
            assert found["state"] in ("pending", "creating", "running", word), self.story(path)
            return bool(found["state"] == word)

        found: dict[str, Any] = {}
        wait_until(there, START_S)
        return found

    def story(self, path: str) -> str:
        """Why something is not as it should be."""
        return f"{self.api.get(path).json}\n{self.api.get(f'{path}/events').data!r}"

    def reasons(self, path: str) -> list[str]:
        """What happened, in order, after checking that it is told under both names that clients read."""
        found = self.api.get(f"{path}/events").json
        assert found["events"] == found["data"]
        return [event["reason"] for event in found["data"]]

    def log(self, path: str) -> str:
        """A log that has something in it, once its first lines have been copied."""
        wait_until(lambda: bool(self.api.get(path).json["logs"]), END_S)
        return str(self.api.get(path).json["logs"])

    def quota(self, kind: str) -> tuple[str, ...]:
        """Cores, memory, GPUs and number in use."""
        [quota] = self.api.get("/quota").json
        return tuple(quota[f"{kind}_{what}_used"] for what in ("cpu", "memory", "gpu", "count"))

    def containers(self) -> list[Container]:
        """All of this installation's, ended ones as well."""
        ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALL}={self.platform.install}"}
        return list(self.daemon.containers.list(all=True, filters=ours, ignore_removed=True))

    def limits(self) -> list[tuple[float, int]]:
        """Cores and bytes that each container may use."""
        hosts = [one.attrs["HostConfig"] for one in self.containers()]
        return [(host["NanoCpus"] / 1e9, host["Memory"]) for host in hosts]

    def delete(self, path: str) -> None:
        """Delete something: the API does not know it any more and no container is left."""
        answer = self.api.delete(path)
        assert (answer.status, answer.json["message"][:24]) == (200, "Successfully request to "), answer.data
        assert self.api.get(path).status == 404
        wait_until(lambda: not self.containers(), END_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("cloudml")
    config = Config(
        data, engine="docker", gpus="simulated:1", port=0, gateway_port=0, cpus=8, memory=16 << 30, cache=cache_dir()
    )
    server = Server(Platform(config))
    server.start()
    keys, daemon = server.platform.credentials, docker.from_env()
    try:
        yield Site(server.platform, SignedClient(keys.access_key, keys.secret_key, over(server.url)), daemon)
        _delete_all(server.platform)
    finally:
        server.close()
        gateway_process.stop(data, timeout=5)
        daemon.close()


def _delete_all(platform: Platform) -> None:
    """What a failed test left."""
    admin = platform.identity.user("admin")
    for endpoint in platform.endpoints.list(None):
        platform.endpoints.delete(endpoint.row.id or 0, admin)
    for row in platform.workloads.page(EVERYTHING).items:
        platform.workloads.delete(row.id or 0, admin)
    wait_until(lambda: all(row.cleaned for row in platform.workloads.page(EVERYTHING).items), END_S)


def predict(address: str, name: str, *rows: tuple[float, float]) -> list[float]:
    """What the model makes of some rows, asked over gRPC as vendor clients do."""
    client = ovmsclient.make_grpc_client(address)
    answer: Any = client.predict({"x": np.array(rows, "f4")}, name, timeout=30)
    return [float(one) for one in answer.ravel()]


def infer(address: str, *rows: tuple[float, float]) -> list[float]:
    """Ask a model through the Open Inference Protocol; no credentials, as the vendor's clients send none."""
    numbers = [number for row in rows for number in row]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": numbers}
    answer = httpx.post(f"{address}/infer", json={"inputs": [tensor]}, timeout=30)
    assert answer.status_code == 200, answer.text
    [output] = answer.json()["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("y", [len(rows), 2], "FP32")
    return [float(number) for number in output["data"]]


def test_a_model_service_predicts_and_tells_of_itself_until_it_is_deleted(site: Site) -> None:
    need_image("localml/onnx-server:latest")
    with tree_of(site.platform).open("fds://models/linear/model.onnx", "wb") as file:
        file.write(times(3))
    assert site.post("/model", MODEL)["state"] == "creating"
    found = site.ready("/model/linear/v1")
    wait_until(lambda: [one.status for one in site.containers()] == ["running"] * 2, START_S)
    assert site.limits() == [(0.5, 512 << 20)] * 2

    assert found["address"] != urlsplit(found["http_address"]).netloc
    model = f"{found['http_address']}/v2/models/linear.v1"
    assert predict(found["address"], MODEL["model_name"], (1, 2), (3, 4)) == [3, 6, 9, 12]
    assert [one["name"] for one in httpx.get(model, timeout=30).json()["inputs"]] == ["x"]
    assert infer(model, (1.0, 2.0), (-0.5, 10.0)) == [3.0, 6.0, -1.5, 30.0]

    assert {"Created", "Ready"} <= set(site.reasons("/model/linear/v1"))
    second = site.log("/model/linear/v1/logs?replica=1")
    logs = site.log("/model/linear/v1/logs")
    assert second in logs
    assert logs.count("[localml] ") == 2
    assert site.quota("model") == ("1.0", "1G 0M 0.0K", "0", "2")
    site.delete("/model/linear/v1")
    # the gateway hears of it when the last replica has ended, a moment after its container is gone
    wait_until(lambda: httpx.post(f"{model}/infer", json={}, timeout=30).status_code == 401, END_S)
    wait_until(lambda: site.quota("model") == ("0.0", "0.0K", "0", "0"), END_S)


def test_a_development_environment_computes_behind_its_password_until_it_is_deleted(site: Site) -> None:
    need_image("localml/notebook:latest")
    with tree_of(site.platform).open("fds://data/numbers.txt", "wb") as file:
        file.write(b"1 2 3")
    assert site.post("/dev", DEV)["address"] == ""
    found = site.ready("/dev/lab")
    assert site.limits() == [(1.0, 1 << 30)]

    base, password = f"http://{found['address']}", found["password"]
    wait_until(lambda: _answers(f"{base}/api"), START_S)
    assert httpx.get(f"{base}/api/status", timeout=30).status_code == 403
    status = httpx.get(f"{base}/api/status", headers={"Authorization": f"token {password}"}, timeout=30)
    assert (status.status_code, status.json()["kernels"]) == (200, 0)
    page = httpx.get(found["url"], follow_redirects=True, timeout=30)
    assert (page.status_code, "jupyter-config-data" in page.text) == (200, True)
    messages = asyncio.run(execute(base, password, COMPUTES))
    assert printed(messages) == "6 GPU-\n", messages

    assert {"Submitted", "Started"} <= set(site.reasons("/dev/lab"))
    assert site.quota("dev") == ("1.0", "1G 0M 0.0K", "1", "1")
    site.delete("/dev/lab")
    wait_until(lambda: site.quota("dev") == ("0.0", "0.0K", "0", "0"), END_S)
    admin = str(site.platform.identity.user("admin").id)
    assert (site.platform.data / "folders" / admin / "lab/sum.txt").read_text() == "6"  # its files outlast it


def test_a_tensorboard_shows_what_a_training_job_wrote_until_it_is_deleted(site: Site) -> None:
    need_image("localml/train-sklearn:latest")
    need_image("localml/tensorboard:latest")
    put_trainer(tree_of(site.platform), TRAIN["trainer_uri"], WRITES_LOSSES)
    tree_of(site.platform).create("runs")  # its program does not say that it writes there
    site.post("/train", TRAIN)
    site.ready("/train/fall", "completed")
    site.delete("/train/fall")

    assert site.post("/tensorboard", BOARD)["service_port"] == "None"
    found = site.ready("/tensorboard/losses")
    where, token = found["address"].split("/?token=")
    assert where.endswith(f":{found['service_port']}")
    base = f"http://{where}"
    wait_until(lambda: _answers(base, token), START_S)
    assert not _answers(base)
    with httpx.Client(base_url=base, timeout=30, headers={"Authorization": f"token {token}"}) as http:
        shown = points(http, "first", "loss", len(LOSSES))
        assert [(step, value) for _, step, value in shown] == list(enumerate(LOSSES))
        assert http.get("/data/runs").json() == ["first"]

    assert {"Submitted", "Started"} <= set(site.reasons("/tensorboard/losses"))
    [quota] = site.api.get("/quota").json
    assert quota["tensorboard_used"] == "1"
    site.delete("/tensorboard/losses")


def _answers(url: str, token: str = "") -> bool:
    """Whether a server that may still be starting answers."""
    headers = {"Authorization": f"token {token}"} if token else {}
    try:
        return httpx.get(url, timeout=30, headers=headers).status_code == 200
    except httpx.TransportError:
        return False
