"""What users of WMLA have runs as it is: models, algorithms and kernels in the layouts of the vendor's samples."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from helpers.cloudml import over
from helpers.models import serving_environment
from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, packed, wmla_server

from localml.server import Server

MAIN = """
import argparse
import json
import os

import net
from metrics import Recorder

options = argparse.ArgumentParser()
options.add_argument("--batch-size", type=int, default=10)
options.add_argument("--trainFile", default="")
given, unknown = options.parse_known_args()
with open("config.json") as file:
    params = json.load(file)
with open(os.path.join(os.environ["DATA_DIR"], given.trainFile)) as file:
    rows = [float(line) for line in file]
result = "%s/%s/batchworkdir/%s" % (os.environ["DLI_RESULT_FS"], os.environ["USER"], os.environ["DLI_EXECID"])
assert os.path.samefile(result, os.environ["RESULT_DIR"])
with Recorder("1") as recorder:
    for step in range(1, 4):
        recorder.record(step, net.loss(rows, float(params["learning_rate"]), step), given.batch_size)
os.makedirs(os.path.join(os.environ["RESULT_DIR"], "model", "saved"))
with open(os.path.join(os.environ["RESULT_DIR"], "model", "saved", "weights"), "wb") as file:
    file.write(bytes(range(256)))
"""
NET = "def loss(rows, rate, step):\n    return sum(rows) * abs(rate - 0.1) + 1 / step\n"
METRICS = """
import json
import os


class Recorder:
    def __init__(self, name):
        folder = os.path.join(os.environ["LOG_DIR"], name)
        os.makedirs(folder, exist_ok=True)
        self.log = open(os.path.join(folder, "evaluation-metrics.txt"), "a")
        self.history = []

    def __enter__(self):
        return self

    def record(self, step, loss, batch_size):
        self.history.append({"steps": step, "loss": loss, "batch": batch_size})
        self.log.write(json.dumps({"etimes": {"iteration": step}, "values": {"loss": str(loss)}}) + "\\n")
        self.log.flush()

    def __exit__(self, kind, error, trace):
        self.log.close()
        open(os.path.join(os.environ["RESULT_DIR"], "val_dict_list.json"), "w").write(json.dumps(self.history))
"""
MODEL = packed({"main.py": MAIN, "net.py": NET, "metrics.py": METRICS}, "my_model", gz=True)
ARGS = r"""--exec-start PyTorch --cs-datastore-meta type=fs,data_path=samples \
    --model-dir my_model --model-main main.py --workerDeviceNum 0 --workerMemory 1g \
    --conda-env-name any --batch-size 200 --trainFile rows.csv"""
RANDOM = """
import numpy as np

from plugins.core.logger import logger
from plugins.core.base_plugin_opt import BasePluginOptimizer


class PluginOptimizer(BasePluginOptimizer):
    def __init__(self, name, hyper_parameters, **kwargs):
        super(PluginOptimizer, self).__init__(name, hyper_parameters, **kwargs)
        logger.info("parameters: {}, options: {}".format(hyper_parameters, kwargs))
        self._space, self._seen = hyper_parameters, []
        np.random.seed(int(kwargs.get("random_seed")))

    def search(self, number_samples, last_exp_results):
        if last_exp_results is not None and len(last_exp_results) > 0:
            self._seen.extend(last_exp_results)
        return [{one.get("name"): self._value(one) for one in self._space} for _ in range(number_samples)]

    def _value(self, one):
        if one.get("type") == "Range" and one.get("dataType") == "DOUBLE":
            return one.get("minDbVal") + np.random.rand() * (one.get("maxDbVal") - one.get("minDbVal"))
        if one.get("type") == "Range" and one.get("dataType") == "INT":
            return np.random.randint(one.get("minIntVal"), one.get("maxIntVal"))
        values = {"DOUBLE": "discreteDbVal", "INT": "discreteIntVal", "STR": "discreateStrVal"}[one.get("dataType")]
        return one.get(values)[np.random.randint(len(one.get(values)))]

    def get_state(self):
        return {"rng_state": np.random.get_state()}

    def set_state(self, state_dict):
        np.random.set_state(state_dict.get("rng_state"))
"""
GRID = """
from itertools import product

import numpy as np
from plugins.core.base_plugin_opt import BasePluginOptimizer
from plugins.core.logger import logger


class PluginOptimizer(BasePluginOptimizer):
    def __init__(self, name, hyper_parameters, **kwargs):
        super().__init__(name, hyper_parameters, **kwargs)
        axes = {one.get("name"): self._axis(one) for one in hyper_parameters}
        self._points = [dict(zip(axes, values)) for values in product(*axes.values())]
        self._next = 0
        logger.info("points: {}".format(len(self._points)))

    def _axis(self, one):
        if one.get("type") == "Range":
            return np.arange(one.get("minDbVal"), one.get("maxDbVal"), 0.1)
        return one.get("discreateStrVal")

    def search(self, number_samples, last_exp_results=None):
        found = self._points[self._next : self._next + number_samples]
        self._next += len(found)
        return found
"""
KERNEL = """
#!/usr/bin/env python
import redhareapiversion
from redhareapi import Kernel

import json
import os


class Doubling(Kernel):
    def on_kernel_start(self, kernel_context):
        description = json.loads(kernel_context.get_model_description())
        folder = description["model_path"] or os.getcwd()
        with open(folder + "/" + description["weight_path"]) as file:
            self.factor = float(file.read())
        self.attributes = {one["name"]: one["value"] for one in description["attributes"]}
        Kernel.log_info("loaded in " + os.environ["REDHARE_MODEL_PATH"])

    def on_task_invoke(self, task_context):
        while task_context != None:
            given = json.loads(task_context.get_input_data())
            values = [value * self.factor for value in given["inputs"][0]["data"]]
            said = {"key": given["id"], "data": values, "unit": self.attributes["unit"], "mode": os.environ["MODE"]}
            task_context.set_output_data(json.dumps(said))
            task_context = task_context.next()


if __name__ == "__main__":
    ppkernel = Doubling()
    ppkernel.run()
"""
EXPORT = """
import os

folder = os.environ["RESULT_DIR"]
with open("kernel.py") as source, open(folder + "/kernel.py", "w") as target:
    target.write(source.read())
with open(folder + "/factor.txt", "w") as file:
    file.write("2.5")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that can serve models, with a file of data."""
    folder = tmp_path_factory.mktemp("samples")
    serving_environment(folder / "cache")
    with wmla_server(folder) as one:
        yield one


@pytest.fixture(scope="module")
def live(server: Server) -> WmlaClient:
    one = WmlaClient(over(server.url), "admin", server.platform.credentials.password)
    with server.platform.buckets.open("s3://samples/rows.csv", "wb") as file:
        file.write(b"1\n2\n3\n")
    return one


def ended(client: WmlaClient, path: str) -> dict[str, Any]:
    wait_until(lambda: client.get(path).json["state"] in OVER, 90)
    found: dict[str, Any] = client.get(path).json
    return found


SPACE = [{"name": "learning_rate", "type": "Range", "dataType": "DOUBLE", "minDbVal": 0.1, "maxDbVal": 0.4}]
OBJECTIVE = {"objectiveMetric": "loss", "objective": "minimize"}


def test_a_model_trains_in_a_search_as_it_is(live: WmlaClient) -> None:
    algorithm = {"algorithm": "Random", **OBJECTIVE, "maxJobNum": 3, "maxParalleJob": 3}
    algorithm |= {"algoParams": [{"name": "RandomSeed", "value": "5"}], "additionalMetrics": {"batch": "latest"}}
    request = {"modelSpec": {"args": ARGS}, "algoDef": algorithm, "hyperParams": SPACE}
    name = live.search(request, MODEL).json["uid"]
    found = ended(live, f"/hypersearch/{name}")
    assert (found["state"], found["complete"], found["failed"]) == ("FINISHED", 3, 0), found
    for one in found["experiments"]:
        (parameter,) = one["hyperParams"]
        rate = float(parameter["fixedVal"])
        assert 0.1 <= rate <= 0.4
        metrics = {metric["name"]: metric for metric in one["metrics"]}
        assert metrics["loss"]["min"] == pytest.approx(one["metricVal"]) == pytest.approx(6 * (rate - 0.1) + 1 / 3)
        assert metrics["loss"]["max"] == pytest.approx(6 * (rate - 0.1) + 1)
        assert metrics["batch"]["latest"] == 200
    best = min(found["experiments"], key=lambda one: one["metricVal"])
    assert found["best"]["id"] == best["id"]


def test_the_same_model_is_a_task_when_it_brings_its_parameters(live: WmlaClient) -> None:
    files = {"main.py": MAIN, "net.py": NET, "metrics.py": METRICS, "config.json": '{"learning_rate": 0.2}'}
    number = live.start(ARGS, packed(files, "my_model", gz=True), filename="tmpx.modelDir.tar").json["id"]
    found = ended(live, f"/execs/{number}")
    assert found["state"] == "FINISHED", live.get(f"/execs/{number}/log").data
    answer = live.get(f"/execs/{number}/result")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        (weights,) = [name for name in archive.namelist() if name.endswith("weights")]
        assert weights.endswith("model/saved/weights")
        assert archive.read(weights) == bytes(range(256))


def installed(client: WmlaClient, name: str, source: str) -> None:
    answer = client.install({"name": name, "logLevel": "DEBUG"}, packed({"optimizer.py": source}, name))
    assert answer.status == 200, answer.data


def test_an_algorithm_of_ones_own_proposes_as_it_is(live: WmlaClient) -> None:
    installed(live, "Drawing", RANDOM)
    params = [{"name": "random_seed", "value": "7"}]
    algorithm = {"algorithm": "Drawing", **OBJECTIVE, "maxJobNum": 3, "algoParams": params}
    space = [
        *SPACE,
        {"name": "layers", "type": "Range", "dataType": "int", "minIntVal": 1, "maxIntVal": 4},
        {"name": "opt", "type": "Discrete", "dataType": "str", "discreateStrVal": ["sgd", "adam"]},
    ]
    request = {"modelSpec": {"args": ARGS}, "algoDef": algorithm, "hyperParams": space}
    drawn = []
    for _ in range(2):
        found = ended(live, f"/hypersearch/{live.search(request, MODEL).json['uid']}")
        assert (found["state"], found["complete"]) == ("FINISHED", 3), found
        drawn.append([{p["name"]: p["fixedVal"] for p in one["hyperParams"]} for one in found["experiments"]])
    assert drawn[0] == drawn[1]
    assert len({one["learning_rate"] for one in drawn[0]}) == 3


def test_one_that_has_no_more_to_propose_ends_the_search(live: WmlaClient) -> None:
    installed(live, "Points", GRID)
    algorithm = {"algorithm": "Points", **OBJECTIVE, "maxParalleJob": 4}
    space = [SPACE[0] | {"maxDbVal": 0.3}, {"name": "opt", "type": "Discrete", "dataType": "STR"}]
    space[1]["discreateStrVal"] = ["a", "b"]
    request = {"modelSpec": {"args": ARGS}, "algoDef": algorithm, "hyperParams": space}
    found = ended(live, f"/hypersearch/{live.search(request, MODEL).json['uid']}")
    assert (found["state"], found["complete"]) == ("FINISHED", 4), found


ASKED = {"id": 7, "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "outputs": []}
SAID = {"key": 7, "data": [2.5, 5.0], "unit": "cm", "mode": "fast"}


@pytest.fixture(scope="module")
def inference(server: Server, live: WmlaClient) -> str:
    """Where models answer, once the kernel that a task left does."""
    files = {"main.py": EXPORT, "kernel.py": KERNEL.lstrip()}
    number = live.start("--exec-start PyTorch --model-main main.py", packed(files)).json["id"]
    assert ended(live, f"/execs/{number}")["state"] == "FINISHED", live.get(f"/execs/{number}/log").data
    description = {
        **{"name": "doubling", "tag": "v1", "runtime": "dlipy3", "kernel": "kernel.py", "weight": "factor.txt"},
        "attributes": [{"name": "unit", "value": "cm"}],
        "environments": [{"name": "MODE", "value": "fast"}],
    }
    answer = live.post(f"/execs/{number}/deploy", description)
    assert answer.status == 200, answer.data
    wait_until(lambda: live.get("/conf").json["DLI_EDI_REST_URL"] != "", 60)
    url = str(live.get("/conf").json["DLI_EDI_REST_URL"])
    wait_until(lambda: asked(url, server.platform.credentials.token).status_code == 200, 60)
    return url


def asked(url: str, token: str | None) -> requests.Response:
    headers = {} if token is None else {"X-User-Token": token}
    return requests.post(f"{url}/dlim/v1/inference/doubling", json=ASKED, headers=headers, timeout=30)


def test_a_kernel_that_a_task_left_answers_at_the_vendors_address(server: Server, inference: str) -> None:
    assert asked(inference, server.platform.credentials.token).json() == SAID
    assert asked(inference, None).status_code == 401
    assert asked(inference, "of-nobody").status_code == 401


@pytest.mark.vendor
def test_the_vendors_inference_client_asks_it(server: Server, inference: str) -> None:
    client = pytest.importorskip("ibm_wmla.wmla_api_edi_v2", reason="vendor: ibm-wmla is not installed")
    authentication = pytest.importorskip("ibm_wmla.edi_authentication")
    token = server.platform.credentials.token
    who = authentication.ElasticDistributedInferenceAuthenticator(user_access_token=token, url=inference)
    service = client.ElasticDistributedInferenceV2(who)
    service.set_service_url(inference)
    assert service.run_inference("doubling", ASKED).get_result() == SAID
