"""Searches as the vendor's notebooks, its published client and people's scripts send them: their spellings, their
leftovers, their ways to build a form."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.wmla import BASE, WmlaClient, packed
from requests import Request

from localml.core.studies.specs import StudySpec
from localml.core.studies.studies import StudyQuery
from localml.core.studies.tables import Study
from localml.platform import Platform

MODEL = packed({"convolutional_network.py": "print(1)"}, "tf-model", gz=True)
"""A gzipped tar with one folder at its top, called ``*.modelDir.tar`` all the same."""
ARGS = """--exec-start tensorflow --python-version 2.7 --cs-datastore-meta type=fs \\
          --gpuPerWorker 1 --model-main convolutional_network.py --model-dir tf-model\\
          --trainImagesFile /data/train-images.gz \\
          --debug-level debug"""
UNUSED: dict[str, Any] = {
    "minIntVal": 0,
    "maxIntVal": 0,
    "discreteDbVal": [],
    "discreteIntVal": [],
    "discreateStrVal": [],
}


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    yield
    admin = platform.identity.user("admin")
    for row in platform.studies.page(StudyQuery(limit=1000)).items:
        platform.studies.stop(row.id or 0, admin, force=True)
        platform.studies.delete(row.id or 0, admin)


def sent(client: WmlaClient, data: Any, files: Any) -> str:
    """What ``requests.post(url, data=..., files=...)`` would send; the name of the search."""
    made = Request("POST", f"http://localhost{BASE}/hypersearch", data=data, files=files).prepare()
    assert isinstance(made.body, bytes)
    kind = str(made.headers["Content-Type"])
    answer = client.call("POST", "/hypersearch", made.body, Content_Type=kind, Accept="application/json")
    assert answer.status == 200, answer.data
    return str(answer.json["uid"])


def tar() -> io.BytesIO:
    file = io.BytesIO(MODEL)
    file.name = "/somewhere/tmpkx2ab.modelDir.tar"
    return file


def spec_of(platform: Platform, name: str) -> StudySpec:
    row = platform.studies.find(dialect="wmla", name=name)
    assert isinstance(row, Study)
    return platform.studies.spec(row)


def algo(name: str, **members: Any) -> dict[str, Any]:
    limits = {"maxRunTime": -1, "maxJobNum": 12, "maxParalleJobNum": 6}
    return {"algorithm": name, **limits, "objectiveMetric": "loss", "objective": "minimize", **members}


def test_a_notebook_that_searches_with_hyperband(client: WmlaClient, platform: Platform) -> None:
    resource = [{"name": "ResourceName", "value": "epochs"}, {"name": "ResourceValue", "value": "81"}]
    rate = {"name": "learning_rate", "type": "Range", "dataType": "DOUBLE", "minDbVal": 0.001, "maxDbVal": 0.1}
    data = {
        "modelSpec": {"sigName": "sig0", "args": ARGS.replace("tensorflow", "PyTorch")},
        "algoDef": algo("Hyperband", hyperbandEta=3.0, algoParams=resource),
        "hyperParams": [{**rate, **UNUSED, "step": "0.002"}],
    }
    spec = spec_of(platform, sent(client, {"data": json.dumps(data)}, {"file": tar()}))
    assert spec.algorithm.name == "hyperband"
    assert (spec.algorithm.params["eta"], spec.parallel, spec.max_trials) == ("3.0", 6, 12)
    (space,) = spec.space
    assert (space.name, space.low, space.high, space.step) == ("learning_rate", 0.001, 0.1, 0.002)
    command = spec.trial.roles[0].command
    assert command[-4:] == ("--python-version", "2.7", "--trainImagesFile", "/data/train-images.gz")


def test_numbers_where_texts_should_be(client: WmlaClient, platform: Platform) -> None:
    """``power`` and ``step`` as plain numbers, in the text that Python prints of a dict."""
    rate = {"name": "learning_rate", "type": "Range", "dataType": "DOUBLE", "minDbVal": -3, "maxDbVal": 0, "power": 10}
    rounds = {"name": "rounds", "type": "Range", "dataType": "INT", "minIntVal": 1, "maxIntVal": 1000, "step": 1}
    data = {
        "modelSpec": {"sigName": "wml-ig", "args": "--exec-start scikit-learn --model-main convolutional_network.py"},
        "algoDef": algo("Random", objectiveMetric="auc_dev", objective="maximize"),
        "hyperParams": [rate, rounds],
    }
    spec = spec_of(platform, sent(client, {"data": str(data)}, {"file": tar()}))
    assert [(one.power, one.step, one.points) for one in spec.space] == [(10.0, None, None), (None, 1.0, 1000)]
    assert spec.space[0].takes(0.002)
    assert spec.objective.goal == "maximize"


def test_experiments_with_what_other_algorithms_have(client: WmlaClient, platform: Platform) -> None:
    """Parameters of Hyperband are left in a grid search; texts are STRING; experiments differ in their names."""
    params = [{"name": "ResourceName", "value": "epochs"}, {"name": "ResourceValue", "value": "10"}]
    first = [
        {"name": "learning_rate", "dataType": "DOUBLE", "fixedVal": "0.1"},
        {"name": "optimizer", "dataType": "STRING", "fixedVal": "Adam"},
    ]
    data = {
        "modelSpec": {"args": "--exec-start scikit-learn --model-main convolutional_network.py"},
        "algoDef": algo("ExperimentGridSearch", maxJobNum=2, hyperbandEta=3.0, algoParams=params),
        "experiments": [{"id": 1, "hyperParams": first}, {"id": 2, "hyperParams": first[:1]}],
    }
    spec = spec_of(platform, sent(client, {"data": json.dumps(data)}, {"file": tar()}))
    assert spec.experiments == ({"learning_rate": 0.1, "optimizer": "Adam"}, {"learning_rate": 0.1})
    assert spec.algorithm.params == {}


def test_the_generated_client_sends_parts_without_names(client: WmlaClient, platform: Platform) -> None:
    data = {
        "hpoName": "generated",
        "modelSpec": {"sigName": "x", "args": "--exec-start PyTorch --model-main convolutional_network.py"},
        "algoDef": algo("Tpe", algoParams=[{"name": "WarmUp", "value": "10"}]),
        "hyperParams": [{"name": "n", "type": "Discreate", "dataType": "INT", "discreteIntVal": [1, 2, 3]}],
    }
    parts = [
        ("file", (None, io.BytesIO(MODEL), "application/octet-stream")),
        ("data", (None, json.dumps(data), "text/plain")),
    ]
    assert sent(client, None, parts) == "generated"
    assert spec_of(platform, "generated").space[0].choices == (1, 2, 3)


def test_the_data_also_comes_as_a_file(client: WmlaClient, platform: Platform) -> None:
    """``files={"data": text}`` names the part's file ``data``."""
    data = {
        "modelSpec": {"args": "--exec-start PyTorch --model-main convolutional_network.py"},
        "algoDef": algo("Bayesian"),
        "hyperParams": [{"name": "n", "type": "Range", "dataType": "INT", "minIntVal": 1, "maxIntVal": 3}],
    }
    text = json.dumps(data)
    for fields in (None, {"data": text}):  # and twice, as one of them sends it
        assert spec_of(platform, sent(client, fields, {"file": tar(), "data": text})).algorithm.name == "bayesian"
