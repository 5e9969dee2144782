"""What the vendor's own clients, portal and tests rely on beyond the document; see docs/vendors.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from helpers.openpai import PaiClient, role
from helpers.rig import wait_until

from localml.core.clock import ManualClock
from localml.core.work.specs import single
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission
from localml.dialects.openpai.translate.jobs import workspace
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

NewUser = Callable[..., PaiClient]
NO_TOKEN = {"error": "NotAuthorized", "message": "No authorization token was found"}


@pytest.mark.parametrize("modify", [False, True])
def test_a_user_that_is_stored_is_answered_with_201(client: PaiClient, modify: bool) -> None:
    if modify:
        client.put("/user", {"username": "bob", "password": "secret1"})
    answer = client.put("/user", {"username": "bob", "password": "other12", "modify": modify})
    assert (answer.status, answer.json) == (201, {"message": "update successfully"})


def test_the_token_says_who_is_an_administrator(nobody: PaiClient, platform: Platform, new_user: NewUser) -> None:
    given = platform.credentials
    new_user("bob")
    for name, password, admin in ((given.user, given.password, True), ("bob", "secret1", False)):
        answer = nobody.post("/token", {"username": name, "password": password})
        assert (answer.status, answer.json["user"], answer.json["admin"]) == (200, name, admin)


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize(
    ("seconds", "taken"), [(59, False), (60, True), (604800, True), (604801, False), (0, False), (-1, False)]
)
def test_a_token_lives_from_a_minute_to_a_week(
    nobody: PaiClient, platform: Platform, seconds: int, taken: bool, form: bool
) -> None:
    nobody.form = form
    given = platform.credentials
    body = {"username": given.user, "password": given.password, "expiration": seconds}
    answer = nobody.post("/token", body)
    assert answer.status == (200 if taken else 401)
    if taken:
        claims = jwt.decode(answer.json["token"], options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == seconds
    else:
        assert answer.json["error"] == "AuthenticationFailed"
        assert f"not {seconds}" in answer.json["message"]


def test_a_token_lives_for_a_day_when_nothing_is_said(nobody: PaiClient, platform: Platform) -> None:
    token = nobody.login(platform.credentials.user, platform.credentials.password).token
    claims = jwt.decode(token or "", options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 86400


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi"])
def test_a_request_without_a_token_is_told_so(nobody: PaiClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", "/jobs"), ("PUT", "/user"), ("DELETE", "/user"), ("PUT", "/jobs/x/executionType")):
        answer = nobody.send(method, "/api/v1" + path, {**headers, "Content-Type": "application/json"}, b"{}")
        assert (answer.status, answer.json) == (401, NO_TOKEN)


def test_a_token_that_is_none_is_another_thing(nobody: PaiClient) -> None:
    answer = PaiClient(nobody.send, "a.b.c").post("/jobs", {})
    assert answer.json == {"error": "NotAuthorized", "message": "not authorized"}


def test_the_api_says_that_it_is_there(nobody: PaiClient, client: PaiClient) -> None:
    for one in (nobody, client):
        answer = one.get("")
        assert (answer.status, set(answer.json)) == (200, {"message"})
        assert answer.headers["Content-Type"].startswith("application/json")
    assert nobody.post("", {}).status == 405


@pytest.mark.parametrize("path", ["", "/jobs", "/jobs/job", "/jobs/job/config", "/virtual-clusters/default"])
def test_a_final_slash_changes_nothing(client: PaiClient, path: str) -> None:
    """The vendor's server (Express) takes it."""
    client.submit("job", role())
    assert (client.get(path + "/").status, client.get(path + "/").json) == (200, client.get(path).json)
    assert client.put("/jobs/job/executionType/", {"value": "STOP"}).status == 200


@pytest.mark.parametrize("name", ["nothing", "a/b"])
def test_an_unknown_virtual_cluster_is_named(client: PaiClient, name: str) -> None:
    answer = client.post("/jobs", {"jobName": "job", "taskRoles": [role()], "virtualCluster": name})
    words = f"job update error: could not find virtual cluster {name}"
    assert (answer.status, answer.json) == (500, {"error": "JobUpdateError", "message": words})


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
def test_no_virtual_cluster_means_the_default_one(client: PaiClient, form: bool) -> None:
    client.form = form
    roles = '[{"name": "a", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "true"}]'
    given = {"jobName": "job", "taskRoles": roles if form else [role()], "virtualCluster": ""}
    assert client.post("/jobs", given).status == 201
    assert client.status("job")["virtualCluster"] == "default"


BROKEN: list[tuple[str, str, Any, str]] = [
    ("POST", "/jobs", {}, "jobName: is required"),
    ("POST", "/jobs", {"jobName": "job", "image": "i"}, "taskRoles: is required"),
    ("POST", "/jobs", {"jobName": "job", "image": "i", "taskRoles": None}, "taskRoles"),
    ("POST", "/jobs", {"jobName": "job", "image": "i", "taskRoles": []}, "taskRoles"),
    ("POST", "/jobs", {"jobName": "job", "taskRoles": [role(memoryMB=99)]}, "taskRoles.0.memoryMB"),
    ("POST", "/jobs", {"jobName": "a b", "taskRoles": [role()]}, "jobName"),
    ("POST", "/jobs", {"jobName": "job", "taskRoles": [role()], "retryCount": -3}, "retryCount"),
    ("POST", "/jobs", b"{", "body: is not JSON"),
    ("PUT", "/user", {"username": "a b", "password": "secret1"}, "username"),
    ("PUT", "/user", {"username": "bob", "password": "12345"}, "password"),
    ("PUT", "/user", {"username": "bob"}, "password: is required"),
    ("PUT", "/user", {"username": "a-b", "password": "secret1"}, "username"),
    ("PUT", "/user", {"username": "", "password": "secret1"}, "username"),
    ("PUT", "/user", {"password": "secret1"}, "username: is required"),
    ("PUT", "/user", {"username": "bob", "password": "secret1", "admin": "perhaps"}, "admin"),
    ("PUT", "/user", b"{", "body: is not JSON"),
    ("PUT", "/user", b"[]", ""),
    ("DELETE", "/user", {}, "username: is required"),
    ("PUT", "/user/admin/virtualClusters", {}, "virtualClusters: is required"),
    ("PUT", "/jobs/job/executionType", {"value": "start"}, "value"),
    ("PUT", "/jobs/job/executionType", {}, "value: is required"),
]


@pytest.mark.parametrize(("method", "path", "body", "reason"), BROKEN)
def test_a_body_that_breaks_the_schema_is_called_that(
    client: PaiClient, method: str, path: str, body: Any, reason: str
) -> None:
    answer = client.call(method, path, body)
    assert (answer.status, answer.json["error"]) == (500, "ParameterValidationError")
    assert answer.json["message"].startswith("Could not validate request data.\n")
    assert reason in answer.json["message"]


def test_an_administrator_is_not_removed_before_it_is_one_no_more(client: PaiClient, new_user: NewUser) -> None:
    new_user("bob", admin=True)
    for name in ("admin", "bob"):
        answer = client.delete("/user", {"username": name})
        assert (answer.status, answer.json["error"]) == (500, "RemoveFailed")
        assert answer.json["message"].startswith("remove failed")
    assert client.put("/user", {"username": "bob", "password": "secret1", "admin": False, "modify": True}).status == 201
    assert client.delete("/user", {"username": "bob"}).status == 200


@pytest.mark.parametrize("word", ["true", "false"])
def test_booleans_come_as_texts_in_json_too(client: PaiClient, nobody: PaiClient, word: str) -> None:
    given = {"username": "bob", "password": "secret1", "admin": word, "modify": "false"}
    assert client.put("/user", given).status == 201
    assert nobody.post("/token", {"username": "bob", "password": "secret1"}).json["admin"] is (word == "true")


def fails(client: PaiClient, platform: Platform, engine: FakeEngine, clock: ManualClock, retries: int) -> int:
    """How often a job that always fails is tried again, of a dozen times that it may be."""
    given = {"jobEnvs": {"FAKE_SECONDS": "0", "FAKE_EXIT": "3"}, "retryCount": retries}
    client.submit("job", role(), **given)

    def settled() -> bool:
        clock.advance(301)  # the longest pause before a try
        engine.tick()
        platform.reconciler.tick()
        found = client.status("job")
        return found["state"] == "FAILED" or found["retries"] >= 12

    wait_until(settled)
    return int(client.status("job")["retries"])


@pytest.mark.parametrize(("count", "tries"), [(0, 0), (2, 2), (-1, 0), (-2, 12)])
def test_a_job_is_tried_again_as_often_as_it_says(
    client: PaiClient, platform: Platform, engine: FakeEngine, clock: ManualClock, count: int, tries: int
) -> None:
    """-2 is for ever; -1 is whenever it was not the user's fault, and a program's exit code is."""
    assert fails(client, platform, engine, clock, count) == tries
    assert client.get("/jobs/job/config").json["retryCount"] == count


def test_a_job_without_tasks_of_a_former_version_is_started_again(client: PaiClient, platform: Platform) -> None:
    admin = platform.identity.user("admin")
    given = {"jobName": "old", "image": "i"}
    submission = Submission("old", single([], image="i"), admin, dialect="openpai", kind=Kind.JOB, request=given)
    number = platform.workloads.submit(replace(submission, workspace=workspace(platform), pool="openpai/default"))
    platform.workloads.stop(number, admin)
    wait_until(lambda: (platform.reconciler.tick(), client.status("old")["state"])[1] == "STOPPED")
    assert client.put("/jobs/old/executionType", {"value": "START"}).status == 200
    assert client.status("old")["state"] == "WAITING"
    assert client.get("/jobs/old/config").json == given
