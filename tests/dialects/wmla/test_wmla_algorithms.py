"""Algorithms: those that are always there, and those that users install."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from helpers.cloudml import Answer
from helpers.wmla import BASE, WmlaClient, packed, part
from jsonschema import Draft202012Validator
from requests import Request

from localml.core.studies.studies import StudyQuery
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
OPTIMIZER = """
from plugins.core.base_plugin_opt import BasePluginOptimizer

class PluginOptimizer(BasePluginOptimizer):
    def search(self, number_samples, last_exp_results):
        return [{"lr": 0.05}] * number_samples
"""
PLUGIN = packed({"optimizer.py": OPTIMIZER})
BUILT_IN = ["Random", "Tpe", "Bayesian", "Hyperband", "ExperimentGridSearch"]
ALL = "/hypersearch/algorithm"
SEARCH: dict[str, Any] = {
    "modelSpec": {"args": "--exec-start scikit-learn --model-main main.py"},
    "algoDef": {"algorithm": "mine", "objectiveMetric": "loss", "objective": "minimize"},
    "hyperParams": [{"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 1}],
}


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    yield
    admin = platform.identity.user("admin")
    for study in platform.studies.page(StudyQuery(limit=1000)).items:
        platform.studies.stop(study.id or 0, admin, force=True)
        platform.studies.delete(study.id or 0, admin)
    for row in platform.algorithms.page():
        platform.algorithms.delete(row.name)


def install(client: WmlaClient, data: Any, file: bytes | None = None, filename: str = "algo.tar") -> Answer:
    text = data if isinstance(data, str) else json.dumps(data)
    files = [] if file is None else [part("file", file, filename)]
    return client.form(f"{ALL}/install", part("data", text.encode(), kind="text/plain"), *files)


def refused(answer: Answer, words: str, status: int = 400) -> None:
    assert (answer.status, words in answer.json["error"]) == (status, True), answer.data


def fits(answer: Answer, path: str, method: str = "get") -> bool:
    """Whether an answer is what the contract says of it."""
    said = CONTRACT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator({**said, "components": CONTRACT["components"]}).validate(answer.json)
    return True


def names(client: WmlaClient, **query: str) -> list[str]:
    return [one["name"] for one in client.get(ALL, **query).json]


# -- listing ------------------------------------------------------------------------------------------


def test_all_are_listed_and_each_kind(client: WmlaClient) -> None:
    assert install(client, {"name": "mine"}, PLUGIN).status == 200
    assert names(client) == [*BUILT_IN, "mine"]
    assert names(client, type="BUILD_IN") == BUILT_IN
    assert names(client, type="USER_PLUGIN") == ["mine"]
    assert fits(client.get(ALL), ALL)
    for other in ("BUILT_IN", "build_in", "x", ""):
        refused(client.get(ALL, type=other), "type")


def test_built_in_ones_have_nothing_of_plugins(client: WmlaClient) -> None:
    for name in (*BUILT_IN, "TPE", "random"):
        answer = client.get(f"{ALL}/{name}")
        assert fits(answer, f"{ALL}/{{algoName}}")
        assert answer.json.keys() == {"name", "type", "remoteExec"}
        assert answer.json["type"] == "BUILD_IN"
    assert client.get(f"{ALL}/TPE").json["name"] == "Tpe"


def test_names_that_are_none(client: WmlaClient) -> None:
    for name in ("nosuch", "install", "debug", "a" * 300):
        refused(client.get(f"{ALL}/{name}"), "does not exist", 400)
        refused(client.delete(f"{ALL}/{name}"), "does not exist", 404)
    refused(client.get(f"{ALL}/grid"), "does not exist", 400)  # our own name of it


# -- installing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "random_plugin_example"])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("write", [json.dumps, repr])
def test_an_upload(client: WmlaClient, platform: Platform, top: str, gz: bool, write: Callable[[Any], str]) -> None:
    """A tar of the folder or of what is in it, gzipped or not: clients name all of them ``.tar``."""
    given = {"name": "mine", "condaHome": "/opt/conda", "condaEnv": "hpo", "remoteExec": False, "logLevel": "DEBUG"}
    answer = install(client, write(given), packed({"optimizer.py": OPTIMIZER}, top, gz=gz))
    assert answer.json == {"uid": "mine", "href": f"{BASE}{ALL}/mine"}
    assert fits(answer, f"{ALL}/install", "post")
    shown = client.get(f"{ALL}/mine")
    assert fits(shown, f"{ALL}/{{algoName}}")
    rest = {"creator": "admin", "createtime": "2023-11-14T22:13:20Z", "type": "USER_PLUGIN"}
    path = shown.json["path"]
    assert shown.json == given | rest | {"path": path}
    assert (Path(path) / "optimizer.py").read_text() == OPTIMIZER


def test_a_folder_of_the_server(client: WmlaClient, tmp_path: Path, new_user: Callable[[str], WmlaClient]) -> None:
    (tmp_path / "optimizer.py").write_text(OPTIMIZER)
    given = {"name": "mine", "path": str(tmp_path)}
    refused(install(new_user("eve"), given), "only administrators", 403)
    assert install(client, given).status == 200
    shown = client.get(f"{ALL}/mine").json
    assert (shown["remoteExec"], shown["logLevel"], "condaEnv" in shown) == (False, "INFO", False)
    assert Path(shown["path"]) != tmp_path  # a copy, which nobody changes


def test_the_upload_wins_over_the_path(client: WmlaClient) -> None:
    assert install(client, {"name": "mine", "path": "/no/such/folder"}, PLUGIN).status == 200


@pytest.mark.parametrize("twice", [False, True])
def test_scripts_that_send_the_data_as_a_file(client: WmlaClient, tmp_path: Path, twice: bool) -> None:
    """``requests.post(url, data=mine, files=mine)``, as a notebook of the vendor's does where it uploads nothing."""
    (tmp_path / "optimizer.py").write_text(OPTIMIZER)
    data = {"data": json.dumps({"name": "mine", "path": str(tmp_path)})}
    url = f"http://localhost{BASE}{ALL}/install"
    made = Request("POST", url, data=data if twice else None, files=data).prepare()
    assert isinstance(made.body, bytes)
    kind = str(made.headers["Content-Type"])
    assert client.call("POST", f"{ALL}/install", made.body, Content_Type=kind).status == 200


def test_a_plain_form_names_a_folder(client: WmlaClient, tmp_path: Path) -> None:
    (tmp_path / "optimizer.py").write_text(OPTIMIZER)
    body = urlencode({"data": str({"name": "mine", "path": str(tmp_path), "remoteExec": True})}).encode()
    answer = client.call("POST", f"{ALL}/install", body, Content_Type="application/x-www-form-urlencoded")
    assert answer.status == 200, answer.data
    assert client.get(f"{ALL}/mine").json["remoteExec"] is True


def test_a_name_is_unique(client: WmlaClient, new_user: Callable[[str], WmlaClient]) -> None:
    assert install(client, {"name": "mine"}, PLUGIN).status == 200
    refused(install(client, {"name": "mine"}, PLUGIN), "name: an algorithm 'mine' exists already")
    refused(install(new_user("eve"), {"name": "mine"}, PLUGIN), "name: ")
    for name in ("Random", "random", "TPE", "ExperimentGridSearch", "experimentgridsearch", "grid"):
        refused(install(client, {"name": name}, PLUGIN), "is a built-in algorithm")
    assert names(client, type="USER_PLUGIN") == ["mine"]


def escaping() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("optimizer.py", "../../outside.py"):
            member = tarfile.TarInfo(name)
            member.size = len(OPTIMIZER)
            archive.addfile(member, io.BytesIO(OPTIMIZER.encode()))
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "file", "words"),
    [
        ({}, PLUGIN, "name: is required"),
        ({"name": ""}, PLUGIN, "name: must be"),
        ({"name": "a/b"}, PLUGIN, "name: must be"),
        ({"name": 7}, PLUGIN, "name: "),
        ({"name": "mine", "remoteExec": "yes"}, PLUGIN, "remoteExec: "),
        ({"name": "mine", "logLevel": 5}, PLUGIN, "logLevel: "),
        ({"name": "mine"}, None, "path: is required"),
        ({"name": "mine"}, b"", "path: is required"),
        ({"name": "mine", "path": ""}, None, "path: is required"),
        ({"name": "mine", "path": "/no/such/folder"}, None, "path: "),
        ({"name": "mine", "path": "relative"}, None, "path: "),
        ({"name": "mine"}, b"no tar", "file: is no tar"),
        ({"name": "mine"}, packed({"other.py": "x = 1"}), "optimizer.py"),
        ({"name": "mine"}, packed({"optimizer.py": "x = 1"}), "PluginOptimizer"),
        ({"name": "mine"}, escaping(), "file: member '../../outside.py'"),
        ("{'name': __import__('os')}", PLUGIN, "data: "),
        ("", PLUGIN, "data: "),
        ("[]", PLUGIN, "data: must be an object"),
    ],
)
def test_what_is_no_algorithm_leaves_nothing(
    client: WmlaClient, platform: Platform, data: Any, file: bytes | None, words: str
) -> None:
    refused(install(client, data, file), words)
    assert names(client, type="USER_PLUGIN") == []
    assert list((platform.data / "algorithms").glob("*")) == []


def test_the_form_is_needed(client: WmlaClient) -> None:
    refused(client.post(f"{ALL}/install", {"name": "mine"}), "must be multipart/form-data")
    refused(client.form(f"{ALL}/install", part("file", PLUGIN, "a.tar")), "data: is required")


# -- deleting -----------------------------------------------------------------------------------------


def test_who_installed_it_deletes_it(
    client: WmlaClient, nobody: WmlaClient, new_user: Callable[[str], WmlaClient]
) -> None:
    eve, bob = new_user("eve"), new_user("bob")
    assert install(eve, {"name": "hers"}, PLUGIN).status == 200
    assert names(bob, type="USER_PLUGIN") == ["hers"]  # for everybody to use
    assert bob.delete(f"{ALL}/hers").status == 403
    assert nobody.delete(f"{ALL}/hers").status == nobody.get(ALL).status == install(nobody, {}, PLUGIN).status == 401
    gone = eve.delete(f"{ALL}/hers")
    assert (gone.status, gone.data) == (204, b"")
    assert names(client) == BUILT_IN
    assert install(bob, {"name": "hers"}, PLUGIN).status == 200
    assert client.delete(f"{ALL}/hers").status == 204  # an administrator


def test_built_in_ones_stay(client: WmlaClient) -> None:
    for name in (*BUILT_IN, "tpe"):
        refused(client.delete(f"{ALL}/{name}"), "built-in", 403)


def test_one_that_a_search_uses_stays_until_that_is_over(client: WmlaClient) -> None:
    install(client, {"name": "mine"}, PLUGIN)
    started = client.search(SEARCH | {"hpoName": "user"}, packed({"main.py": ""}))
    assert started.status == 200, started.data
    refused(client.delete(f"{ALL}/mine"), "user", 400)
    client.put("/hypersearch/user")
    assert client.delete(f"{ALL}/mine").status == 204
    refused(client.search(SEARCH, packed({"main.py": ""})), "there is no algorithm 'mine'")


# -- task_attr.pb -------------------------------------------------------------------------------------


def test_debugging_answers_a_file_and_starts_nothing(client: WmlaClient, nobody: WmlaClient) -> None:
    answer = client.post(f"{ALL}/debug", SEARCH)
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment;filename=task_attr.pb"
    assert b"lr" in answer.data
    assert client.get("/hypersearch").json == []
    assert nobody.post(f"{ALL}/debug", SEARCH).status == 401


@pytest.mark.parametrize("example", CONTRACT["components"]["schemas"]["HpoDebugRequest"]["examples"])
def test_debugging_takes_both_forms(client: WmlaClient, example: dict[str, Any]) -> None:
    assert client.post(f"{ALL}/debug", example).status == 200
    more = {"modelSpec": {"args": "x", "dataSource": [{"type": "fs"}]}, "sigName": "x"}
    more["algoDef"] = example["algoDef"] | {"additionalMetrics": {"a": "latest"}, "objectiveMetric": "m"}
    assert client.post(f"{ALL}/debug", example | more).status == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"algoDef": None}, "algoDef: is required"),
        ({"algoDef": {"algorithm": "x", "objective": "minimize"}}, "algoDef.objectiveMetric: is required"),
        ({"algoDef": {"algorithm": "x", "objectiveMetric": "m"}}, "algoDef.objective: is required"),
        ({"modelSpec": None}, "modelSpec: is required"),
        ({"modelSpec": None, "modelName": "m", "hpoName": "h"}, "modelSpec: is required"),
        ({"modelSpec": None, "modelName": "m", "hpoName": "h", "resDef": {}}, "resDef.framework: is required"),
        ({"hyperParams": []}, "hyperParams: "),
        ({"hyperParams": [SEARCH["hyperParams"][0] | {"minDbVal": 2}]}, "is above"),
        ({"experiments": [{"id": 1, "hyperParams": []}]}, "one of hyperParams and experiments"),
        ({"hpoName": "algorithm"}, "hpoName: "),
    ],
)
def test_debugging_has_the_rules_of_a_start(client: WmlaClient, change: dict[str, Any], words: str) -> None:
    refused(client.post(f"{ALL}/debug", SEARCH | change), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"framework": "Torch"}, "resDef.framework"),
        ({"maxiteration": None}, "resDef.maxiteration: is required"),
        ({"maxiteration": True}, "resDef.maxiteration"),
        ({"batchsize": "32"}, "resDef.batchsize"),
        ({"syncMode": "BOTH"}, "resDef.syncMode"),
        ({}, None),
        ({"maxiteration": "100", "miniteration": 2, "syncMode": "ASYNC", "gpuNum": 1}, None),
    ],
)
def test_resources_of_the_old_form(client: WmlaClient, change: dict[str, Any], words: str | None) -> None:
    resources = {"framework": "PyTorchOnElastic", "maxiteration": 100, "batchsize": 32, **change}
    old = {"modelName": "m1", "hpoName": "h1", "modelSpec": None, "resDef": resources}
    answer = client.post(f"{ALL}/debug", SEARCH | old)
    if words is None:
        assert answer.status == 200, answer.data
    else:
        refused(answer, words)


def test_debugging_takes_json_alone(client: WmlaClient) -> None:
    refused(client.call("POST", f"{ALL}/debug", str(SEARCH).encode()), "is not JSON")
    assert client.form(f"{ALL}/debug", part("data", json.dumps(SEARCH).encode())).status == 400
    assert client.call("POST", f"{ALL}/debug").status == 400
