"""The vendor's contract file, operation by operation: its examples are sent, its statuses provoked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from helpers.cloudml import Answer
from helpers.openpai import PaiClient
from jsonschema import Draft202012Validator

from localml.core.errors import Code, LocalmlError
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "openpai.yaml").read_text())
JOB, USER, CLUSTER = "test", "new_user1", "vc1"
CLUSTERS = ("listVirtualClusters", "getVirtualCluster")


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    said: dict[str, Any]

    @property
    def success(self) -> int:
        return next(int(status) for status in self.said["responses"] if status.startswith("2"))

    def content(self, status: int) -> dict[str, Any]:
        found: dict[str, Any] = self.said["responses"][str(status)]["content"]["application/json"]
        return found

    def url(self, job: str = JOB, username: str = USER, cluster: str = CLUSTER) -> str:
        return self.path.removeprefix("/api/v1").format(jobName=job, username=username, vcName=cluster)

    @property
    def body(self) -> Any:
        return self.said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")


OPERATIONS = {
    said["operationId"]: Operation(said["operationId"], method.upper(), path, said)
    for path, methods in CONTRACT["paths"].items()
    for method, said in methods.items()
}


def check(answer: Answer, operation: Operation) -> None:
    """The status is one that the contract lists, and the body has the schema that it gives."""
    assert str(answer.status) in operation.said["responses"], (answer.status, answer.data)
    assert answer.headers["Content-Type"].startswith("application/json")
    schema = {"components": CONTRACT["components"], **operation.content(answer.status)["schema"]}
    Draft202012Validator(schema).validate(answer.json)


def filled(text: str) -> str:
    return text.replace("$jobName", JOB).replace("$vcName", CLUSTER)


@pytest.fixture
def ready(client: PaiClient, platform: Platform) -> Iterator[PaiClient]:
    """A client that finds the job, the user and the ssh service that the contract's examples speak of."""

    class Ssh:
        def info(self, workload_id: int) -> Any:
            return self

        containers = [("main-0", "127.0.0.1", 2222)]
        folder = "hdfs://localml:9000/Container/admin/test/ssh/keyFiles"
        public_key_name, private_key_name = "test.pub", "test"

        def private_key(self, workload_id: int, user: Any) -> bytes:
            return b"key"

    before = getattr(platform, "ssh", None)
    platform.ssh = Ssh()  # type: ignore[attr-defined]
    yield client
    platform.ssh = before  # type: ignore[attr-defined]


def prepare(operation: Operation, client: PaiClient) -> None:
    if operation.id != "submitJob":
        assert client.post("/jobs", OPERATIONS["submitJob"].body).status == 201
    if operation.id in ("removeUser", "assignVirtualClusters"):
        assert client.put("/user", OPERATIONS["upsertUser"].body).status == 201


def send(operation: Operation, client: PaiClient, platform: Platform, body: Any = None, **names: str) -> Answer:
    body = body if body is not None else operation.body
    if operation.id == "issueToken" and body == operation.body:
        given = platform.credentials
        body = {**body, "username": given.user, "password": given.password}
    if operation.method == "GET":
        body = {}  # clients send this with every GET
    return client.call(operation.method, operation.url(**names) + ("?_=1530000000000" if not body else ""), body)


def test_the_contract_has_the_operations_that_are_meant() -> None:
    assert len(OPERATIONS) == 12


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda one: one.id)
def test_every_example_is_taken_and_answered_as_the_contract_says(
    operation: Operation, form: bool, ready: PaiClient, platform: Platform
) -> None:
    prepare(operation, ready)
    ready.form = form
    answer = send(operation, ready, platform)
    assert answer.status == operation.success, answer.data
    check(answer, operation)
    example = operation.content(answer.status).get("example")
    if isinstance(example, dict) and "message" in example:
        assert answer.json == {"message": filled(example["message"])}
    elif isinstance(example, dict) and operation.id != "listVirtualClusters":
        assert set(example) <= set(answer.json)


def unauthorized(operation: Operation, client: PaiClient, platform: Platform) -> Answer:
    return send(operation, PaiClient(client.send, "a.b.c"), platform)


def missing(operation: Operation, client: PaiClient, platform: Platform) -> Answer:
    return send(operation, client, platform, job="nothing", username="nobody", cluster="nothing")


def twice(operation: Operation, client: PaiClient, platform: Platform) -> Answer:
    send(operation, client, platform)
    return send(operation, client, platform)


def wrong(**body: Any) -> Callable[[Operation, PaiClient, Platform], Answer]:
    return lambda operation, client, platform: send(operation, client, platform, body)


PROVOKED: dict[tuple[str, int], Callable[[Operation, PaiClient, Platform], Answer]] = {
    ("issueToken", 401): wrong(username="admin", password="not mine"),
    ("upsertUser", 500): twice,
    ("removeUser", 500): wrong(username="nobody"),
    ("assignVirtualClusters", 500): missing,
    ("submitJob", 400): twice,
    ("getJobStatus", 404): missing,
    ("getJobConfig", 404): missing,
    ("getJobSsh", 404): missing,
    ("setExecutionType", 500): missing,
    ("getVirtualCluster", 404): missing,
} | {
    (name, 401): unauthorized
    for name in ("upsertUser", "removeUser", "assignVirtualClusters", "submitJob", "setExecutionType")
}
BROKEN = ("listJobs", "submitJob", "getJobStatus", "getJobConfig", "getJobSsh", *CLUSTERS)
FAILURES = sorted(
    (one.id, int(status)) for one in OPERATIONS.values() for status in one.said["responses"] if int(status) >= 400
)


def test_every_documented_failure_is_provoked() -> None:
    assert set(PROVOKED) | {(name, 500) for name in BROKEN} == set(FAILURES)


@pytest.mark.parametrize(("name", "status"), FAILURES, ids=str)
def test_failures_come_with_the_documented_status_code_and_words(
    name: str, status: int, ready: PaiClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = OPERATIONS[name]
    prepare(operation, ready)
    with monkeypatch.context() as patched:
        if (name, status) not in PROVOKED:
            for service in ("find", "page", "submit"):
                patched.setattr(platform.workloads, service, _disk_full)
            patched.setattr(platform.pools, "list", _disk_full)
        provoke = PROVOKED.get((name, status), send)
        answer = provoke(operation, ready, platform)
    assert answer.status == status, answer.data
    check(answer, operation)
    words = filled(operation.content(status)["example"]["message"])
    if status == 404:
        words = words.replace(JOB, "nothing").replace(CLUSTER, "nothing")
    if status == 500 and words.startswith("<"):
        assert answer.json["message"] == "the disk is full"
    elif status == 500:
        assert answer.json["message"].startswith(words)
    else:
        assert answer.json["message"] == words


def _disk_full(*_: object, **__: object) -> None:
    raise LocalmlError(Code.STORAGE, "the disk is full")


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = app.test_client().get("/api/v1/openapi.json").get_json()
    return found


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda one: one.id)
def test_the_served_document_lists_the_operation_with_its_parameters_statuses_and_bodies(
    operation: Operation, document: dict[str, Any]
) -> None:
    ours = document["paths"][operation.path][operation.method.lower()]
    assert ours["operationId"] == operation.id
    assert ours["tags"] == operation.said["tags"]
    assert set(ours["responses"]) == set(operation.said["responses"])
    known = {(one["in"], one["name"]) for one in ours.get("parameters", [])}
    assert {(_resolved(one)["in"], _resolved(one)["name"]) for one in operation.said.get("parameters", [])} <= known
    theirs = operation.said.get("requestBody", {}).get("content", {})
    assert set(theirs) <= set(ours.get("requestBody", {}).get("content", {}))
    assert ({} in ours["security"]) == (operation.said["security"] == [])


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    return CONTRACT["components"]["parameters"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


@pytest.mark.parametrize("name", ["Credentials", "Token", "UserUpdate", "JobConfig", "JobStatus", "JobSsh", "Error"])
def test_the_served_schemas_have_the_contracts_members(name: str, document: dict[str, Any]) -> None:
    ours, theirs = document["components"]["schemas"][name], CONTRACT["components"]["schemas"][name]
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(theirs["required"]) <= set(ours["required"])
    if name in ("Credentials", "UserUpdate", "JobConfig"):
        assert set(theirs["required"]) == set(ours["required"])


def test_the_served_document_names_no_operation_beyond_the_contract(document: dict[str, Any]) -> None:
    ids = {one["operationId"] for methods in document["paths"].values() for one in methods.values()}
    assert ids == set(OPERATIONS)
