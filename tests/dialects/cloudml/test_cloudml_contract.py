"""The vendor's contract file, operation by operation: its examples are sent, its statuses provoked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from helpers.cloudml import Answer, SignedClient, put_archive
from helpers.models import times
from jsonschema import Draft202012Validator

from localml.core.errors import Code, LocalmlError
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "cloudml.yaml").read_text())
SERVED = {"train", "model", "dev", "tensorboard", "quota", "framework"}
JOB = "linear1"


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    said: dict[str, Any]

    def schema(self, status: int) -> dict[str, Any]:
        return _content(self.said["responses"][str(status)])["schema"]

    def url(self, query: str = "", name: str | None = None) -> str:
        names = {"job_name": JOB, "dev_name": "dev4", "tensorboard_name": "mnist"}
        names |= {"model_name": "linear1", "model_version": "v1"}
        return self.path.format(**{key: name or value for key, value in names.items()}) + query


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = CONTRACT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def _content(response: dict[str, Any]) -> dict[str, Any]:
    return _resolved(response)["content"]["application/json"]


def _operations() -> Iterator[Operation]:
    for path, methods in CONTRACT["paths"].items():
        for method, said in methods.items():
            if SERVED & set(said["tags"]):
                yield Operation(said["operationId"], method.upper(), path, said)


OPERATIONS = {one.id: one for one in _operations()}


def _examples(content: dict[str, Any]) -> list[Any]:
    many = [_resolved(one)["value"] for one in content.get("examples", {}).values()]
    return many + ([content["example"]] if "example" in content else [])


def check(answer: Answer, operation: Operation) -> None:
    """The status is one that the contract lists, and the body has the schema that it gives."""
    assert str(answer.status) in operation.said["responses"], (answer.status, answer.data)
    schema = {"components": CONTRACT["components"], **operation.schema(answer.status)}
    Draft202012Validator(schema).validate(answer.json)


CREATE = ("submitTrainJob", "createModelService", "createDevEnv", "createTensorboard")


def _request(name: str) -> dict[str, Any]:
    """The last example: of the two of a model service the one with the members that the client sends."""
    return dict(_examples(OPERATIONS[name].said["requestBody"]["content"]["application/json"])[-1])


REQUEST = _request("submitTrainJob")


@pytest.fixture
def job(client: SignedClient) -> str:
    """One of each kind, as the examples have them; the job's name."""
    for name in CREATE:
        assert client.post(OPERATIONS[name].path, _request(name)).status == 200
    return str(REQUEST["job_name"])


def test_the_contract_has_the_operations_that_are_meant() -> None:
    assert len(OPERATIONS) == 24


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS.values() if one.method == "GET"], ids=lambda one: one.id
)
def test_everything_readable_is_answered_as_the_contract_says(
    operation: Operation, client: SignedClient, job: str
) -> None:
    answer = client.get(operation.url())
    assert answer.status == 200
    check(answer, operation)


def test_the_example_of_a_job_is_accepted_and_answered_member_by_member(client: SignedClient) -> None:
    operation = OPERATIONS["submitTrainJob"]
    answer = client.post("/train", REQUEST)
    assert answer.status == 200
    check(answer, operation)
    example = _examples(_content(operation.said["responses"]["200"]))[0]
    assert set(example) <= set(answer.json)
    same = set(REQUEST) & set(example)
    assert {name: answer.json[name] for name in same} == {name: REQUEST[name] for name in same}
    for name in ("cluster_name", "service_port", "mount_read_only", "create_time", "prepare_command"):
        expected = "2017-02-20 06:16:39" if name == "create_time" else example[name]
        assert answer.json[name] == expected
    assert client.get(f"/train/{JOB}").json == answer.json
    assert client.get("/train").json == {"data": [answer.json]}


ALL_EXAMPLES = [
    (name, dict(example))
    for name in CREATE[1:]
    for example in _examples(OPERATIONS[name].said["requestBody"]["content"]["application/json"])
]


@pytest.mark.parametrize(("name", "request_"), ALL_EXAMPLES, ids=lambda value: str(value)[:60])
def test_the_examples_of_tools_are_accepted_and_answered_member_by_member(
    name: str, request_: dict[str, Any], client: SignedClient, platform: Platform
) -> None:
    operation, request = OPERATIONS[name], request_
    if "trainer_uri" in request:  # the document serves an archive
        put_archive(platform.buckets, request["trainer_uri"], {"model/model.onnx": times(2)})
    answer = client.post(operation.path, request)
    assert answer.status == 200, answer.data
    check(answer, operation)
    example = _examples(_content(operation.said["responses"]["200"]))[0]
    assert set(example) <= set(answer.json)
    assert {member: answer.json[member] for member in request} == request
    assert answer.json["create_time"] == "2017-02-20 06:16:39"
    one = next(other for other in OPERATIONS.values() if other.path.startswith(operation.path + "/{"))
    assert client.get(one.url()).json == answer.json
    assert client.get(operation.path).json == {"data": [answer.json]}


@pytest.mark.parametrize("name", ["deleteTrainJob", "deleteModelService", "deleteDevEnv", "deleteTensorboard"])
def test_a_deletion_is_confirmed_in_the_documented_words(name: str, client: SignedClient, job: str) -> None:
    operation = OPERATIONS[name]
    answer = client.delete(operation.url())
    check(answer, operation)
    assert [answer.json] == _examples(_content(operation.said["responses"]["200"]))
    assert client.get(operation.path.partition("/{")[0]).json == {"data": []}


def _plain(query: str = "", name: str | None = None, body: Any = None) -> Callable[[SignedClient, Operation], Answer]:
    return lambda client, operation: client.call(operation.method, operation.url(query, name), body)


def _unsigned(client: SignedClient, operation: Operation) -> Answer:
    return client.send(operation.method, operation.url(), {}, b"")


def _put(client: SignedClient, operation: Operation) -> Answer:
    return client.call("PUT", operation.url())


FOREIGN, NO_ORG, NO_JOB = _plain("?org_id=999"), _plain("?org_id="), _plain(name="nothing")
DEV, BOARD = _request("createDevEnv"), _request("createTensorboard")
MODEL = _request("createModelService")
PROVOKED: dict[tuple[str, int], Callable[[SignedClient, Operation], Answer]] = {
    ("listTrainJobs", 403): FOREIGN,
    ("submitTrainJob", 403): _plain(body={**REQUEST, "job_name": "Not Allowed"}),
    ("submitTrainJob", 413): _plain(body={**REQUEST, "job_name": "greedy", "gpu_limit": 3}),
    ("getTrainJob", 403): FOREIGN,
    ("getTrainJob", 404): NO_JOB,
    ("deleteTrainJob", 403): NO_ORG,
    ("deleteTrainJob", 404): NO_JOB,
    ("deleteTrainJob", 503): _plain(),
    ("getTrainJobLogs", 403): FOREIGN,
    ("getTrainJobLogs", 404): NO_JOB,
    ("listTrainJobEvents", 403): FOREIGN,
    ("listTrainJobEvents", 404): NO_JOB,
    ("listModelServices", 403): NO_ORG,
    ("createModelService", 403): _plain(body={**MODEL, "model_uri": "fds://nothing/there"}),
    ("createModelService", 413): _plain(body={**MODEL, "model_name": "greedy", "gpu_limit": 3}),
    ("createModelService", 503): _plain(body={**MODEL, "model_name": "unlucky"}),
    ("getModelService", 403): NO_ORG,
    ("getModelService", 404): NO_JOB,
    ("deleteModelService", 403): NO_ORG,
    ("deleteModelService", 404): NO_JOB,
    ("deleteModelService", 503): _plain(),
    ("getModelServiceLogs", 403): FOREIGN,
    ("getModelServiceLogs", 404): NO_JOB,
    ("listModelServiceEvents", 403): FOREIGN,
    ("listModelServiceEvents", 404): NO_JOB,
    ("listDevEnvs", 403): NO_ORG,
    ("createDevEnv", 403): _plain(body={**DEV, "dev_name": "Not Allowed"}),
    ("createDevEnv", 413): _plain(body={**DEV, "dev_name": "greedy", "gpu_limit": 3}),
    ("createDevEnv", 503): _plain(body={**DEV, "dev_name": "unlucky"}),
    ("getDevEnv", 403): NO_ORG,
    ("getDevEnv", 404): NO_JOB,
    ("deleteDevEnv", 403): NO_ORG,
    ("deleteDevEnv", 404): NO_JOB,
    ("deleteDevEnv", 503): _plain(),
    ("listDevEnvEvents", 403): FOREIGN,
    ("listDevEnvEvents", 404): NO_JOB,
    ("createTensorboard", 403): _plain(body={**BOARD, "tensorboard_name": "bad", "logdir": "fds://up/../../etc"}),
    ("createTensorboard", 413): _plain(body={**BOARD, "tensorboard_name": "one-too-many"}),
    ("createTensorboard", 503): _plain(body={**BOARD, "tensorboard_name": "unlucky"}),
    ("getTensorboard", 403): NO_ORG,
    ("getTensorboard", 404): NO_JOB,
    ("deleteTensorboard", 404): NO_JOB,
    ("deleteTensorboard", 503): _plain(),
    ("listTensorboardEvents", 403): FOREIGN,
    ("listTensorboardEvents", 404): NO_JOB,
    ("getQuota", 403): NO_ORG,
    ("getQuota", 404): FOREIGN,
    ("getQuota", 405): _put,
    ("listFrameworks", 405): _put,
} | {(name, 401): _unsigned for name in OPERATIONS if name != "listFrameworks"}
NEVER_SENT = {
    # nothing to list is an empty list, and creating finds nothing missing
    *((name, 404) for name in ("listTrainJobs", "listModelServices", "listDevEnvs", "listTensorboards")),
    *((name, 404) for name in ("createDevEnv", "createTensorboard")),
}


def _failures() -> set[tuple[str, int]]:
    return {(one.id, int(status)) for one in OPERATIONS.values() for status in one.said["responses"] if status != "200"}


def test_every_documented_failure_is_provoked_or_never_sent() -> None:
    assert set(PROVOKED) | NEVER_SENT == _failures()


@pytest.mark.parametrize(("name", "status"), sorted(PROVOKED), ids=str)
def test_failures_come_with_the_documented_status_and_words(
    name: str, status: int, client: SignedClient, job: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = OPERATIONS[name]
    with monkeypatch.context() as patched:
        if status == 503:
            patched.setattr(platform.workloads, "delete", _disk_full)
            patched.setattr(platform.workloads, "queued", _disk_full)
            patched.setattr(platform.instances, "create", _disk_full)
            patched.setattr(platform.endpoints, "create", _disk_full)
            patched.setattr(platform.endpoints, "delete", _disk_full)
        if (name, status) == ("createTensorboard", 413):
            platform.pools.set_limits("cloudml/tensorboard/default", max_workloads=1)
        try:
            answer = PROVOKED[name, status](client, operation)
        finally:
            platform.pools.set_limits("cloudml/tensorboard/default")
    assert answer.status == status, answer.data
    check(answer, operation)
    for example in _examples(_content(operation.said["responses"][str(status)])):
        free = re.escape(example["message"]).replace("xxx", ".+").replace("XX", ".+").replace("999", "[^ ]+")
        assert re.fullmatch(free, answer.json["message"], re.DOTALL)


def _disk_full(*_: object) -> None:
    raise LocalmlError(Code.STORAGE, "the disk is full")


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    return app.test_client().get("/cloud_ml/openapi.json").get_json()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda one: one.id)
def test_the_served_document_lists_the_operation_with_its_parameters_and_statuses(
    operation: Operation, document: dict[str, Any]
) -> None:
    ours = document["paths"][operation.path][operation.method.lower()]
    assert ours["operationId"] == operation.id
    assert ours["tags"] == operation.said["tags"]
    assert set(ours["responses"]) == set(operation.said["responses"])
    known = {(one["in"], one["name"]) for one in ours.get("parameters", [])}
    assert {(_resolved(one)["in"], _resolved(one)["name"]) for one in operation.said["parameters"]} <= known


SCHEMAS = (
    "TrainJobCreate",
    "TrainJob",
    "ModelServiceCreate",
    "ModelService",
    "DevEnv",
    "TensorboardCreate",
    "Tensorboard",
    "Error",
    "Event",
    "Quota",
)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_served_schemas_have_the_contracts_members(name: str, document: dict[str, Any]) -> None:
    ours, theirs = document["components"]["schemas"][name], CONTRACT["components"]["schemas"][name]
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(theirs["required"]) <= set(ours["required"])
    if name.endswith("Create"):
        assert set(theirs["required"]) == set(ours["required"])


def test_the_served_document_names_no_operation_beyond_the_contract(document: dict[str, Any]) -> None:
    ids = {one["operationId"] for methods in document["paths"].values() for one in methods.values()}
    assert ids == set(OPERATIONS)


def test_the_document_needs_no_signature(app: Flask) -> None:
    assert app.test_client().get("/cloud_ml/openapi.json").status_code == 200
