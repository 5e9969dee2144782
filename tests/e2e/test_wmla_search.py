"""Searches as WMLA's users run them: each training learns scikit-learn's digits, and the server is killed meanwhile."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import over
from helpers.rig import wait_until
from helpers.server_process import Servers, servers
from helpers.wmla import OVER, WmlaClient, packed, part

from localml.core.catalog import cache_dir
from localml.engines.runtimes import open_images

TRAINER = """
import json, os
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

given = json.load(open("config.json"))
pixels, digits = load_digits(return_X_y=True)
train, test, known, wanted = train_test_split(pixels / 16.0, digits, random_state=0)
model = SGDClassifier(loss="log_loss", alpha=given["alpha"], eta0=given["lr"], learning_rate="constant", random_state=0)
told = []
for step in range(1, given.get("epochs", 4) + 1):
    model.partial_fit(train, known, classes=range(10))
    loss = log_loss(wanted, model.predict_proba(test))
    told.append({"step": step, "loss": loss, "accuracy": model.score(test, wanted)})
    print(told[-1], flush=True)
with open(os.environ["RESULT_DIR"] + "/val_dict_list.json", "w") as file:
    json.dump(told, file)
"""
OPTIMIZER = '''
"""Draws evenly, and remembers where it was: as the vendor's example does, with the standard library alone."""
import random

from plugins.core.base_plugin_opt import BasePluginOptimizer
from plugins.core.logger import logger


class PluginOptimizer(BasePluginOptimizer):
    def __init__(self, name, hyper_parameters, **kwargs):
        super(PluginOptimizer, self).__init__(name, hyper_parameters, **kwargs)
        logger.info("hyper parameters: {}".format(hyper_parameters))
        self._params = hyper_parameters
        self._drawn = random.Random(int(kwargs.get("random_seed")))

    def search(self, number_samples, last_exp_results):
        logger.info("last results: {}".format(last_exp_results))
        return [{one.get("name"): self._one(one) for one in self._params} for _ in range(number_samples)]

    def _one(self, one):
        if one.get("type") == "Discrete":
            return self._drawn.choice(one.get("discreteDbVal"))
        if one.get("dataType") == "INT":
            return self._drawn.randint(one.get("minIntVal"), one.get("maxIntVal"))
        return self._drawn.uniform(one.get("minDbVal"), one.get("maxDbVal"))

    def get_state(self):
        return {"drawn": self._drawn.getstate()}

    def set_state(self, state_dict):
        self._drawn.setstate(state_dict.get("drawn"))
'''
TRIALS = 12
SPACE = [
    {"name": "lr", "type": "Range", "dataType": "DOUBLE", "minDbVal": 0.001, "maxDbVal": 0.3},
    {"name": "alpha", "type": "Discrete", "dataType": "DOUBLE", "discreteDbVal": [1e-5, 1e-4, 1e-3]},
]
SEARCH_S = 400.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """Servers that can be killed, with the runtime built."""
    open_images(request.param, cache_dir()).build("train-sklearn", lambda _: None)
    settings = {"engine": request.param, "cache": str(cache_dir()), "gpus": "simulated:1", "cpus": 8, "images": {}}
    with servers(tmp_path / "data", **settings) as found:
        yield found


def client_of(running: Servers) -> WmlaClient:
    """The administrator's client of a server that has just been started."""
    running.start()
    url = json.loads((running.data / "server.json").read_text())["url"]
    return WmlaClient(over(url), "admin", json.loads((running.data / "credentials.json").read_text())["password"])


def start(client: WmlaClient, name: str, algorithm: str, **params: Any) -> None:
    given = [{"name": one, "value": str(value)} for one, value in params.items()]
    algo = {"algorithm": algorithm, "maxJobNum": TRIALS, "maxParalleJobNum": 3, "algoParams": given}
    wanted = {"objectiveMetric": "accuracy", "objective": "maximize", "additionalMetrics": {"loss": "latest"}}
    data = {
        "hpoName": name,
        "modelSpec": {"args": "--exec-start scikit-learn --model-main digits.py --model-dir digits"},
        "algoDef": algo | wanted,
        "hyperParams": SPACE,
    }
    answer = client.search(repr(data), packed({"digits.py": TRAINER}, "digits", gz=True))
    assert answer.status == 200, answer.data


def shown(client: WmlaClient, name: str) -> Any:
    answer = client.get(f"/hypersearch/{name}")
    assert answer.status == 200, answer.data
    return answer.json


def finished(client: WmlaClient, name: str) -> Any:
    wait_until(lambda: shown(client, name)["state"] in OVER, SEARCH_S)
    found = shown(client, name)
    assert (found["state"], found["complete"], found["failed"], found["running"]) == ("FINISHED", TRIALS, 0, 0), found
    return found


def values(found: Any, name: str) -> list[Any]:
    """What each experiment had of a hyperparameter, in order."""
    return [
        next(param["fixedVal"] for param in one["hyperParams"] if param["name"] == name) for one in found["experiments"]
    ]


def killed_in_the_middle(running: Servers, client: WmlaClient, name: str) -> WmlaClient:
    """The client of the next server."""

    def half() -> bool:
        seen = shown(client, name)
        return seen["complete"] >= 3 and seen["running"] > 0

    wait_until(half, SEARCH_S)
    assert running.current is not None
    running.current.end()
    return client_of(running)


def test_a_search_that_learns_digits_survives_its_server(running: Servers) -> None:
    client = client_of(running)
    start(client, "calm", "Random", RandomSeed=7)
    calm = finished(client, "calm")
    accuracies = [one["metricVal"] for one in calm["experiments"]]
    assert calm["best"]["metricVal"] == max(accuracies) > 0.9
    assert len(set(values(calm, "lr"))) == TRIALS
    assert calm["progress"] == f"{TRIALS}/{TRIALS}"
    for one in calm["experiments"]:
        assert [(metric["name"], metric["min"] <= metric["latest"] <= metric["max"]) for metric in one["metrics"]] == [
            ("accuracy", True),
            ("loss", True),
        ]
        assert (one["state"], one["maxiteration"]) == ("FINISHED", 4)

    start(client, "killed", "Random", RandomSeed=7)
    client = killed_in_the_middle(running, client, "killed")
    killed = finished(client, "killed")
    for name in ("lr", "alpha"):
        assert values(killed, name) == values(calm, name)
    assert [one["metricVal"] for one in killed["experiments"]] == accuracies
    assert killed["best"]["id"] == calm["best"]["id"]
    assert len({one["appId"] for one in killed["experiments"]}) == TRIALS
    tries = running.data.glob("buckets/wmla-admin/admin/batchworkdir/*/val_dict_list.json")
    assert len(list(tries)) == 2 * TRIALS  # each training ran once, as what it left shows


def test_an_optimizer_in_the_vendors_layout_proposes_on_after_a_kill(running: Servers) -> None:
    client = client_of(running)
    upload = part("file", packed({"optimizer.py": OPTIMIZER}, "even"), "even.tar")
    installed = client.form("/hypersearch/algorithm/install", part("data", b"{'name': 'even'}"), upload)
    assert installed.status == 200, installed.data
    start(client, "mine", "even", random_seed=5)
    client = killed_in_the_middle(running, client, "mine")
    found = finished(client, "mine")
    drawn, expected = random.Random(5), []
    for _ in range(TRIALS):
        expected.append((repr(drawn.uniform(0.001, 0.3)), repr(drawn.choice([1e-5, 1e-4, 1e-3]))))
    assert list(zip(values(found, "lr"), values(found, "alpha"), strict=True)) == expected
    assert client.delete("/hypersearch").status == 204
    assert client.delete("/hypersearch/algorithm/even").status == 204
