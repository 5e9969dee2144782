"""Requests at the edges of what the contract allows: its examples, its spellings, each bound from both sides."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cloudml import Answer
from helpers.wmla import PLUGIN, WmlaClient, packed, part
from helpers.wmla_world import ARGS, GRID, RANDOM, TRIAL
from jsonschema import Draft202012Validator

from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
SCHEMAS = CONTRACT["components"]["schemas"]
MODEL = packed({"main.py": TRIAL}, "model")
_NUMBERS = itertools.count(1)
Change = Callable[[dict[str, Any]], None]


def valid(name: str, value: Any) -> bool:
    """Whether a schema of the contract takes it."""
    whole = {"components": CONTRACT["components"], **SCHEMAS[name]}
    return bool(Draft202012Validator(whole).is_valid(value))


def new_name() -> str:
    return f"edge{next(_NUMBERS)}"


def started(client: WmlaClient, request: dict[str, Any]) -> Answer:
    return client.search({**request, "hpoName": request.get("hpoName", new_name())}, MODEL)


# -- examples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACT["components"]["examples"])
def test_the_documents_examples_have_the_shape_of_their_answers(name: str) -> None:
    operation = next(
        said
        for methods in CONTRACT["paths"].values()
        for said in methods.values()
        if isinstance(said, dict) and said.get("operationId") == name
    )
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {"components": CONTRACT["components"], **schema}
    Draft202012Validator(whole).validate(CONTRACT["components"]["examples"][name]["value"])


def test_all_examples_of_requests_are_tried_here() -> None:
    assert {name for name, one in SCHEMAS.items() if "examples" in one} == {
        *("TaskData", "HpoTaskRequest", "HpoDebugRequest", "HpoAlgorithmInstallRequest")
    }


@pytest.mark.parametrize("first", ["file", "data"])
@pytest.mark.parametrize("text", [json.dumps, repr], ids=["json", "dict"])
@pytest.mark.parametrize("example", SCHEMAS["HpoTaskRequest"]["examples"], ids=lambda one: one["algoDef"]["algorithm"])
def test_the_examples_of_searches_are_started(
    example: dict[str, Any], text: Callable[[Any], str], first: str, client: WmlaClient
) -> None:
    data = text({**example, "hpoName": new_name()})
    parts = [part("file", MODEL, "model.modelDir.tar"), part("data", data.encode(), kind="text/plain")]
    answer = client.form("/hypersearch", *(parts if first == "file" else reversed(parts)))
    assert answer.status == 200, answer.data
    assert set(answer.json) == {"uid", "href"}
    found = client.get(f"/hypersearch/{answer.json['uid']}")
    assert (found.status, found.json["state"]) == (200, "SUBMITTED")
    assert answer.json["href"].endswith(f"/hypersearch/{answer.json['uid']}")


def test_the_example_of_the_operation_is_started(client: WmlaClient) -> None:
    said = CONTRACT["paths"]["/hypersearch"]["post"]["requestBody"]["content"]["multipart/form-data"]
    answer = client.search(said["examples"]["randomPythonDict"]["value"]["data"], MODEL)
    assert (answer.status, answer.json["uid"]) == (200, "rs1")
    assert client.search(said["examples"]["randomPythonDict"]["value"]["data"], MODEL).status == 409


@pytest.mark.parametrize("example", SCHEMAS["HpoDebugRequest"]["examples"], ids=["startHPO", "HpoTaskInput"])
def test_the_examples_of_debugging_give_a_file(example: dict[str, Any], client: WmlaClient) -> None:
    answer = client.post("/hypersearch/algorithm/debug", example)
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "task_attr.pb" in answer.headers["Content-Disposition"]
    assert answer.data


@pytest.mark.parametrize("text", [json.dumps, repr], ids=["json", "dict"])
def test_the_example_of_an_installation_needs_the_folder_that_it_names(
    text: Callable[[Any], str], client: WmlaClient, tmp_path: Path
) -> None:
    (example,) = SCHEMAS["HpoAlgorithmInstallRequest"]["examples"]
    answer = client.install(text(example))
    assert answer.status == 400
    assert example["path"] in answer.json["error"]
    (tmp_path / "optimizer.py").write_text(PLUGIN)
    name = new_name()
    answer = client.install(text({**example, "name": name, "path": str(tmp_path)}))
    assert (answer.status, answer.json["uid"]) == (200, name)
    assert client.get(f"/hypersearch/algorithm/{name}").json["type"] == "USER_PLUGIN"


def test_the_example_of_data_sources_is_started_once_they_are_there(client: WmlaClient, platform: Platform) -> None:
    (example,) = SCHEMAS["TaskData"]["examples"]
    with platform.buckets.open("s3://b1/train/a.csv", "wb") as file:
        file.write(b"1")
    with platform.buckets.open("s3://b1/train/b.csv", "wb") as file:
        file.write(b"2")
    answer = client.start("", MODEL, json.dumps(example))
    assert answer.status == 200, answer.data
    assert answer.json["args"] == example["args"]


ARGS_EXAMPLES = CONTRACT["paths"]["/execs"]["post"]["parameters"][0]["examples"]


def test_the_examples_of_options_are_started_with_what_the_catalog_has(client: WmlaClient) -> None:
    file = packed({"TF_mnist.py": "print(1)", "PyTorch_mnist.py": "print(1)"})
    answer = client.start(ARGS_EXAMPLES["pytorch"]["value"], file)
    assert answer.status == 200, answer.data
    assert answer.json["args"] == ARGS_EXAMPLES["pytorch"]["value"]
    assert {"id", "appId", "uid", "href"} <= set(answer.json)
    refused = client.start(ARGS_EXAMPLES["tensorflow"]["value"], file)
    assert refused.status == 400
    assert all(one["name"] in refused.json["error"] for one in client.get("/execs/frameworks").json)


def test_the_example_with_a_data_source_is_read_as_python(client: WmlaClient, platform: Platform) -> None:
    said = CONTRACT["paths"]["/execs"]["post"]["requestBody"]["content"]["multipart/form-data"]
    data = said["examples"]["withDataSource"]["value"]["data"]
    refused = client.start(ARGS, MODEL, data)
    assert refused.status == 400
    assert "data-pvc/mnist" in refused.json["error"]
    with platform.buckets.open("s3://data-pvc/mnist/a.csv", "wb") as file:
        file.write(b"1")
    answer = client.start("", MODEL, data)
    assert answer.status == 200, answer.data
    assert answer.json["args"].startswith("--exec-start PyTorch")


# -- bounds of a search ---------------------------------------------------------------------------------


def algorithm(name: str, **params: str) -> Change:
    def change(request: dict[str, Any]) -> None:
        request["algoDef"]["algorithm"] = name
        request["algoDef"]["algoParams"] = [{"name": key, "value": value} for key, value in params.items()]

    return change


def settings(**members: Any) -> Change:
    return lambda request: request["algoDef"].update(members)


def without(name: str) -> Change:
    return lambda request: request["algoDef"].pop(name) and None


def parameter(**members: Any) -> Change:
    """Of the one parameter; None takes a member away."""

    def change(request: dict[str, Any]) -> None:
        one = request["hyperParams"][0]
        one.update(members)
        request["hyperParams"][0] = {name: value for name, value in one.items() if value is not None}

    return change


def only(**members: Any) -> Change:
    """The one parameter anew."""
    return lambda request: request.update(hyperParams=[{"name": "lr", **members}])


def top(**members: Any) -> Change:
    return lambda request: request.update(members)


def both(*changes: Change) -> Change:
    def change(request: dict[str, Any]) -> None:
        for one in changes:
            one(request)

    return change


HYPERBAND = {"ResourceName": "epochs", "ResourceValue": "9"}
EDGES: dict[str, tuple[Change, Change]] = {
    "maxRunTime": (settings(maxRunTime=-1), settings(maxRunTime=-2)),
    "maxJobNum": (settings(maxJobNum=-1), settings(maxJobNum=-2)),
    "maxParalleJob": (settings(maxParalleJob=1), settings(maxParalleJob=0)),
    "maxParalleJobNum": (settings(maxParalleJobNum=1), settings(maxParalleJobNum=0)),
    "a whole number": (settings(maxJobNum=3), settings(maxJobNum=2.5)),
    "objective": (settings(objective="MAXIMIZE"), settings(objective="best")),
    "objective that is missing": (settings(objective="Minimize"), without("objective")),
    "objectiveMetric": (settings(objectiveMetric="loss"), without("objectiveMetric")),
    "algorithm": (settings(algorithm="Random"), settings(algorithm="Randomly")),
    "additionalMetrics": (settings(additionalMetrics={"a": "any word"}), settings(additionalMetrics=["a"])),
    "WarmUp": (algorithm("Tpe", WarmUp="3"), algorithm("Tpe", WarmUp="2")),
    "EICandidate": (algorithm("Tpe", EICandidate="2"), algorithm("Tpe", EICandidate="1")),
    "GoodRatio": (algorithm("Tpe", GoodRatio="0.0001"), algorithm("Tpe", GoodRatio="0")),
    "GoodRatio above 1": (algorithm("Tpe", GoodRatio="2.5"), algorithm("Tpe", GoodRatio="much")),
    "GoodMax": (algorithm("Tpe", GoodMax="2"), algorithm("Tpe", GoodMax="1")),
    "InitPoints": (algorithm("Bayesian", InitPoints="0"), algorithm("Bayesian", InitPoints="-1")),
    "CubeSize": (
        both(algorithm("Bayesian", CubeSize="20"), settings(maxJobNum=20)),
        both(algorithm("Bayesian", CubeSize="19"), settings(maxJobNum=20)),
    ),
    "CubeSize without an end": (
        both(algorithm("Bayesian", CubeSize="1"), settings(maxJobNum=-1)),
        both(algorithm("Bayesian", CubeSize="0"), settings(maxJobNum=-1)),
    ),
    "Noiseless": (algorithm("Bayesian", Noiseless="False"), algorithm("Bayesian", Noiseless="perhaps")),
    "eta": (algorithm("Hyperband", **HYPERBAND, eta="1.5"), algorithm("Hyperband", **HYPERBAND, eta="1")),
    "ResourceName": (algorithm("Hyperband", **HYPERBAND), algorithm("Hyperband", ResourceValue="9")),
    "ResourceValue": (
        algorithm("Hyperband", ResourceName="epochs", ResourceValue="1"),
        algorithm("Hyperband", ResourceName="epochs", ResourceValue="0"),
    ),
    "ResourceValue that is missing": (algorithm("Hyperband", **HYPERBAND), algorithm("Hyperband", ResourceName="e")),
    "a parameter nobody knows": (algorithm("Random", Nothing="1"), algorithm("Random", RandomSeed="-x")),
    "range": (parameter(minDbVal=0.1, maxDbVal=0.1), parameter(minDbVal=0.2, maxDbVal=0.1)),
    "range of integers": (
        only(type="Range", dataType="int", minIntVal=1, maxIntVal=1),
        only(type="Range", dataType="int", minIntVal=2, maxIntVal=1),
    ),
    "ends of integers": (
        only(type="Range", dataType="int", minIntVal=1, maxIntVal=9),
        only(type="Range", dataType="int", minDbVal=1, maxDbVal=9),
    ),
    "an end": (parameter(maxDbVal=1.5), parameter(maxDbVal=None)),
    "texts": (
        only(type="Discrete", dataType="str", discreateStrVal=["a"]),
        only(type="Range", dataType="str", minDbVal=0, maxDbVal=1),
    ),
    "texts by their right name": (
        only(type="Discrete", dataType="str", discreteStrVal=["a"]),
        only(type="Discrete", dataType="str", discreteIntVal=[1]),
    ),
    "choices": (
        only(type="Discrete", dataType="int", discreteIntVal=[1]),
        only(type="Discrete", dataType="int", discreteIntVal=[]),
    ),
    "choices of numbers": (
        only(type="Discrete", dataType="double", discreteDbVal=[0.5]),
        only(type="Discrete", dataType="double", discreteDbVal=["a half"]),
    ),
    "a fixed value": (
        only(type="Fix", dataType="int", fixedVal="3"),
        only(type="Fix", dataType="int", fixedVal="three"),
    ),
    "a fixed value that is missing": (
        only(type="fix", dataType="str", fixedVal="x"),
        only(type="fix", dataType="str"),
    ),
    "step": (parameter(step="0.01"), parameter(step="0")),
    "step downwards": (parameter(step="1e-3"), parameter(step="-0.01")),
    "step that is no number": (parameter(step=".5"), parameter(step="half")),
    "power": (parameter(power="10", minDbVal=-4, maxDbVal=-1), parameter(power="ten")),
    "step and power on choices": (
        only(type="Discrete", dataType="int", discreteIntVal=[1, 2], step="0", power="2"),
        only(type="Discrete", dataType="int", step="1"),
    ),
    "type": (parameter(type="rAnGe"), parameter(type="Between")),
    "type as in the model": (
        only(type="Discreate", dataType="INT", discreteIntVal=[1]),
        only(type="Discreat", dataType="INT", discreteIntVal=[1]),
    ),
    "dataType": (parameter(dataType="DOUBLE"), parameter(dataType="float")),
    "name": (parameter(name="a-b.c"), parameter(name="")),
    "a name once": (
        lambda request: request["hyperParams"].append({**request["hyperParams"][0], "name": "other"}),
        lambda request: request["hyperParams"].append(dict(request["hyperParams"][0])),
    ),
    "one of two": (top(experiments=[]), top(experiments=GRID["experiments"])),
    "at least one": (top(experiments=None), top(hyperParams=[])),
    "experiments for the grid alone": (
        both(algorithm("ExperimentGridSearch"), top(experiments=GRID["experiments"], hyperParams=[])),
        both(algorithm("Random"), top(experiments=GRID["experiments"], hyperParams=[])),
    ),
    "a space for the others": (
        both(algorithm("Bayesian")),
        both(algorithm("ExperimentGridSearch")),
    ),
    "sigName": (top(modelSpec={"args": ARGS, "sigName": "x"}), top(modelSpec={"sigName": "x"})),
    "quotes": (
        top(modelSpec={"args": ARGS + " --name 'a b'"}),
        top(modelSpec={"args": ARGS + " --name 'a b"}),
    ),
    "--exec-start": (top(modelSpec={"args": ARGS.lower()}), top(modelSpec={"args": "--model-main main.py"})),
}
UNDEMANDED = {
    *("a parameter nobody knows", "eta", "CubeSize", "texts by their right name", "type", "range", "step downwards"),
    *("range of integers", "step", "a name once", "quotes", "--exec-start", "at least one", "algorithm", "objective"),
    *("a fixed value",),
}
"""Where the schema takes more or less than the words of the contract do."""


def changed(change: Change) -> dict[str, Any]:
    request = copy.deepcopy(RANDOM)
    change(request)
    return {name: value for name, value in request.items() if value is not None}


@pytest.mark.parametrize("edge", EDGES)
def test_just_inside_is_what_the_contract_takes_and_just_outside_what_it_does_not(edge: str) -> None:
    inside, outside = (valid("HpoTaskRequest", changed(one)) for one in EDGES[edge])
    assert (inside, outside) == (True, False) or edge in UNDEMANDED


@pytest.mark.parametrize("edge", EDGES)
def test_just_inside_is_started_and_just_outside_refused(edge: str, client: WmlaClient) -> None:
    inside, outside = EDGES[edge]
    answer = started(client, changed(inside))
    assert answer.status == 200, answer.data
    before = client.get("/hypersearch").json
    answer = started(client, changed(outside))
    assert answer.status == 400, answer.data
    assert answer.json["error"]
    assert client.get("/hypersearch").json == before


@pytest.mark.parametrize("edge", [one for one in EDGES if one not in ("algorithm", "quotes", "--exec-start")])
def test_debugging_has_the_same_bounds(edge: str, client: WmlaClient) -> None:
    """But for who proposes, which is what is being written, and for what a training runs, because none does."""
    inside, outside = EDGES[edge]
    assert client.post("/hypersearch/algorithm/debug", changed(inside)).status == 200
    assert client.post("/hypersearch/algorithm/debug", changed(outside)).status == 400


FIXED = {
    "double": ([0.1, "0.1", 1, "-1e-3"], ["a tenth", "", "0x1"]),
    "int": ([1, "1", "-7", "+3"], [1.5, "1.5", "one"]),
    "str": (["", "a", "1"], [1, 0.5]),
    "INT": (["2"], ["2.0"]),
}


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("spelling", ["hyperParams", "fixedHyperParams"])
def test_values_of_experiments_have_their_types(kind: str, spelling: str, client: WmlaClient) -> None:
    good, bad = FIXED[kind]
    for values, status in ((good, 200), (bad, 400)):
        for value in values:
            fixed = [{"name": "x", "dataType": kind, "fixedVal": value}]
            request = {**GRID, "experiments": [{"id": 1, spelling: fixed}]}
            assert valid("HpoTaskRequest", request) == (status == 200)
            answer = started(client, request)
            assert answer.status == status, (value, answer.data)


def test_the_documents_spelling_wins_over_the_models(client: WmlaClient) -> None:
    algo = {**GRID["algoDef"], "maxParalleJob": 1, "maxParalleJobNum": 0}
    assert started(client, {**GRID, "algoDef": {**algo, "maxParalleJobNum": 7}}).status == 200
    one = {"name": "lr", "dataType": "double"}
    experiment = {"id": 1, "hyperParams": [{**one, "fixedVal": 0.5}], "fixedHyperParams": [{**one, "fixedVal": 0.25}]}
    answer = started(client, {**GRID, "experiments": [experiment]})
    assert answer.status == 200, answer.data


@pytest.mark.parametrize("name", ["algorithm", "a/b", " ", "x" * 300, "\u0000"])
def test_a_search_has_a_name_that_a_path_can_hold(name: str, client: WmlaClient) -> None:
    answer = client.search({**GRID, "hpoName": name}, MODEL)
    assert answer.status == 400, answer.data


def test_without_a_name_it_gets_one(client: WmlaClient) -> None:
    request = {name: value for name, value in GRID.items() if name != "hpoName"}
    first, second = (client.search(request, MODEL).json["uid"] for _ in range(2))
    assert first != second


BAD_DATA = [
    "",
    "{",
    "[]",
    "null",
    "1",
    "'a'",
    "{'a': open('x')}",
    "__import__('os').getcwd()",
    "{" * 5000,
    "{'a': 1" * 300,
]


@pytest.mark.parametrize("text", BAD_DATA, ids=lambda text: text[:12])
def test_what_is_neither_json_nor_a_dict_is_refused(text: str, client: WmlaClient) -> None:
    for answer in (client.search(text, MODEL), client.install(text, packed({"optimizer.py": PLUGIN}))):
        assert answer.status == 400, answer.data
        assert answer.json["field"] == "data"
    if text:
        assert client.start(ARGS, MODEL, text).status == 400


def test_both_parts_are_needed(client: WmlaClient) -> None:
    assert client.form("/hypersearch", part("data", json.dumps(GRID).encode())).status == 400
    assert client.form("/hypersearch", part("file", MODEL, "m.modelDir.tar")).status == 400
    assert client.form(f"/execs?args={ARGS.replace(' ', '+')}", part("data", b"{}")).status == 400
    assert client.form("/hypersearch/algorithm/install", part("file", MODEL, "m.tar")).status == 400
    assert client.install({"name": new_name()}).status == 400


BAD_SOURCES: list[Any] = [{"type": "ftp"}, {"location": []}, {"location": {"paths": 1}}, {"asset": "a"}, "fs", None]


@pytest.mark.parametrize("source", BAD_SOURCES, ids=str)
def test_a_data_source_that_is_none_is_refused(source: Any, client: WmlaClient) -> None:
    task = client.start(ARGS, MODEL, json.dumps({"dataSource": [source]}))
    search = started(client, {**RANDOM, "modelSpec": {"args": ARGS, "dataSource": [source]}})
    for answer in (task, search):
        assert answer.status == 400, answer.data
        assert "dataSource" in answer.json["error"]
