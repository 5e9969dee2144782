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
from helpers.cloudml import Answer, SignedClient
from jsonschema import Draft202012Validator

from localml.core.errors import Code, LocalmlError
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "cloudml.yaml").read_text())
SERVED = {"train", "quota", "framework"}
JOB = "linear1"


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    said: dict[str, Any]

    def schema(self, status: int) -> dict[str, Any]:
        return _content(self.said["responses"][str(status)])["schema"]

    def url(self, query: str = "", job: str = JOB) -> str:
        return self.path.format(job_name=job) + query


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


REQUEST = _examples(OPERATIONS["submitTrainJob"].said["requestBody"]["content"]["application/json"])[0]


@pytest.fixture
def job(client: SignedClient) -> str:
    assert client.post("/train", REQUEST).status == 200
    return str(REQUEST["job_name"])


def test_the_contract_has_the_operations_that_are_meant() -> None:
    assert len(OPERATIONS) == 8
    assert len(_examples(OPERATIONS["submitTrainJob"].said["requestBody"]["content"]["application/json"])) == 1


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


def test_a_deletion_is_confirmed_in_the_documented_words(client: SignedClient, job: str) -> None:
    operation = OPERATIONS["deleteTrainJob"]
    answer = client.delete(f"/train/{job}")
    check(answer, operation)
    assert [answer.json] == _examples(_content(operation.said["responses"]["200"]))
    assert client.get("/train").json == {"data": []}


def _plain(query: str = "", job: str = JOB, body: Any = None) -> Callable[[SignedClient, Operation], Answer]:
    return lambda client, operation: client.call(operation.method, operation.url(query, job), body)


def _unsigned(client: SignedClient, operation: Operation) -> Answer:
    return client.send(operation.method, operation.url(), {}, b"")


def _put(client: SignedClient, operation: Operation) -> Answer:
    return client.call("PUT", operation.url())


FOREIGN, NO_ORG, NO_JOB = _plain("?org_id=999"), _plain("?org_id="), _plain(job="nothing")
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
    ("getQuota", 403): NO_ORG,
    ("getQuota", 404): FOREIGN,
    ("getQuota", 405): _put,
    ("listFrameworks", 405): _put,
} | {(name, 401): _unsigned for name in OPERATIONS if name != "listFrameworks"}
NEVER_SENT = {("listTrainJobs", 404)}  # nothing to list is an empty list


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
        answer = PROVOKED[name, status](client, operation)
    assert answer.status == status, answer.data
    check(answer, operation)
    for example in _examples(_content(operation.said["responses"][str(status)])):
        free = re.escape(example["message"]).replace("xxx", ".+").replace("999", "[^ ]+")
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


@pytest.mark.parametrize("name", ["TrainJobCreate", "TrainJob", "Error", "Event", "Quota"])
def test_the_served_schemas_have_the_contracts_members(name: str, document: dict[str, Any]) -> None:
    ours, theirs = document["components"]["schemas"][name], CONTRACT["components"]["schemas"][name]
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(theirs["required"]) <= set(ours["required"])
    if name == "TrainJobCreate":
        assert set(theirs["required"]) == set(ours["required"])


def test_the_served_document_names_no_operation_beyond_the_contract(document: dict[str, Any]) -> None:
    ids = {one["operationId"] for methods in document["paths"].values() for one in methods.values()}
    assert ids == set(OPERATIONS)


def test_the_document_needs_no_signature(app: Flask) -> None:
    assert app.test_client().get("/cloud_ml/openapi.json").status_code == 200
