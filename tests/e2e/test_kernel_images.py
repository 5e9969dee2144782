"""Users' own code behind a URL, in an image of theirs that knows nothing of localml's server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import urllib3
from helpers.mlbench import need_image
from helpers.rig import wait_until

from localml.client import Client, Endpoint
from localml.config import Config
from localml.control.serving import gateway_process
from localml.core.catalog import cache_dir
from localml.platform import Platform
from localml.server import Server

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

IMAGE = "localml/train-sklearn:latest"
"""Has scikit-learn, which the server's own image has not, and no HTTP server."""
READY_S = 120.0
MODEL = """
from sklearn.datasets import load_digits
from sklearn.svm import SVC
digits = load_digits()
held_out, truth = digits.data[1500:], digits.target[1500:]
svc = SVC(gamma=0.001).fit(digits.data[:1500], digits.target[:1500])
"""
PYTHON = f"""
import numpy
{MODEL}
class Digits:
    inputs, outputs = [("row", "INT64", [-1])], [("right", "BOOL", [-1]), ("numpy", "BYTES", [1])]
    def load(self, path): pass
    def predict(self, inputs):
        rows = inputs["row"]
        return {{"right": svc.predict(held_out[rows]) == truth[rows], "numpy": numpy.array([numpy.__file__])}}
"""
WMLA = f"""
import json
from redhareapi import Kernel
{MODEL}
class Digits(Kernel):
    def on_kernel_start(self, context): pass
    def on_task_invoke(self, task):
        while task is not None:
            row = json.loads(task.get_input_data())["row"]
            task.set_output_data(json.dumps({{"right": bool(svc.predict([held_out[row]])[0] == truth[row])}}))
            task = task.next()
    def on_kernel_shutdown(self): pass
if __name__ == "__main__":
    Digits().run()
"""
ROWS = 200


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    need_image(IMAGE)
    data = tmp_path_factory.mktemp("kernels")
    server = Server(Platform(Config(data, engine="docker", gpus="none", port=0, gateway_port=0, cache=cache_dir())))
    server.start()
    asks = Client(server.url, server.platform.credentials.token)
    try:
        assert [one["built"] for one in asks.build_images(onto=IMAGE) if "built" in one] == ["onnx-server"]
        yield asks
        for endpoint in asks.endpoints():
            asks.delete_endpoint(endpoint.id)
        wait_until(lambda: not server.platform.engine.list(), READY_S)
    finally:
        asks.close()
        server.close()
        gateway_process.stop(data, timeout=5)


def serve(client: Client, name: str, files: dict[str, str]) -> Endpoint:
    for file, text in files.items():
        client.put(f"s3://kernels/{name}/{file}", text.encode())
    client.register(name, f"s3://kernels/{name}/")
    made = client.serve(name, image=IMAGE, public=True)
    wait_until(lambda: client.endpoint(made.id).state in ("ready", "failed"), READY_S)
    ready = client.endpoint(made.id)
    assert ready.state == "ready", (ready, client.endpoint_events(made.id))
    return ready


def test_a_kernel_uses_what_its_image_has(client: Client) -> None:
    served = serve(client, "digits", {"kernel.py": PYTHON})
    rows = {"name": "row", "datatype": "INT64", "shape": [ROWS], "data": list(range(ROWS))}
    found = {one["name"]: one["data"] for one in client.predict(served.id, {"inputs": [rows]})["outputs"]}
    assert len(found["right"]) == ROWS
    assert sum(found["right"]) >= 0.9 * ROWS
    assert found["numpy"][0].startswith("/opt/venv/")  # the image's own, not the one beside the server
    [url] = [each["url"] for one in served.variants for each in one["replicas"]]
    assert urllib3.request("GET", f"{url}/v2/health/ready", retries=False).status == 401  # by the gateway alone


def test_a_kernel_of_wmla_does_so_unchanged(client: Client) -> None:
    served = serve(client, "wmla", {"digits.py": WMLA, "model.json": json.dumps({"kernel_path": "digits.py"})})
    answers = [client.predict(served.id, {"row": row})["right"] for row in range(20)]
    assert sum(answers) >= 18
