"""Tokens, users and virtual clusters: who may do what, and what a change of a user does to its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from helpers.openpai import PaiClient, role

from localml.core.clock import ManualClock
from localml.core.people.rights import MemberRole
from localml.dialects.openpai.translate.jobs import workspace
from localml.platform import Platform

NewUser = Callable[..., PaiClient]
MINE = {"username": "bob", "password": "other12"}


def allowed(client: PaiClient) -> bool:
    """Whether the client's token is good."""
    answer = client.put("/jobs/nothing/executionType", {"value": "STOP"})
    assert answer.status in (401, 500)
    return answer.status == 500


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
def test_a_token_lives_as_long_as_was_asked_for(
    nobody: PaiClient, platform: Platform, clock: ManualClock, form: bool, client: PaiClient
) -> None:
    given = platform.credentials
    nobody.form = form
    short = nobody.login(given.user, given.password, expiration="60")
    plain = nobody.login(given.user, given.password)
    clock.advance(59)
    assert allowed(short)
    clock.advance(1)
    assert not allowed(short)
    clock.advance(24 * 3600 - 61)
    assert allowed(plain)
    clock.advance(1)
    assert not allowed(plain)


@pytest.mark.parametrize("expiration", [0, -1, "abc", 1.5, True, 10**12])
def test_no_token_without_a_sensible_life(nobody: PaiClient, platform: Platform, expiration: Any) -> None:
    given = platform.credentials
    body = {"username": given.user, "password": given.password, "expiration": expiration}
    answer = nobody.post("/token", body)
    assert (answer.status, answer.json["error"]) == (401, "AuthenticationFailed")
    assert "expiration" in answer.json["message"]


def test_the_installations_own_token_is_taken_too(nobody: PaiClient, platform: Platform) -> None:
    assert allowed(PaiClient(nobody.send, platform.credentials.token))


@pytest.mark.parametrize(
    "forge",
    [
        lambda claims, key: jwt.encode(claims, b"x" * 32, "HS256"),
        lambda claims, key: jwt.encode(claims, "", "none"),
        lambda claims, key: jwt.encode(claims, key, "HS512"),
        lambda claims, key: jwt.encode({**claims, "stamp": "0" * 32}, key, "HS256"),
        lambda claims, key: jwt.encode({**claims, "username": "nobody"}, key, "HS256"),
        lambda claims, key: jwt.encode({"username": "admin", "exp": 2**40}, key, "HS256"),
        lambda claims, key: "a.b.c",
        lambda claims, key: "",
    ],
    ids=["key", "none", "algorithm", "stamp", "user", "no stamp", "garbage", "empty"],
)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_forged_tokens_are_refused(nobody: PaiClient, platform: Platform, forge: Any) -> None:
    client = nobody.login(platform.credentials.user, platform.credentials.password)
    claims = jwt.decode(client.token or "", options={"verify_signature": False})
    token = forge(claims, platform.identity.signing_key("openpai-token"))
    assert allowed(client)
    assert not allowed(PaiClient(client.send, token))


def test_an_administrator_adds_changes_and_removes_users(
    client: PaiClient, new_user: NewUser, nobody: PaiClient
) -> None:
    bob = new_user("bob")
    assert client.put("/user", {**MINE, "modify": True, "admin": True}).status == 201
    assert not allowed(bob)  # the password that the token was given for is no more
    bob = nobody.login("bob", "other12")
    assert bob.put("/user", {"username": "carl", "password": "secret1"}).status == 201  # bob is an administrator now
    assert client.put("/user", {**MINE, "modify": True, "admin": False}).status == 201
    assert client.delete("/user", {"username": "bob"}).status == 200
    assert not allowed(bob)
    assert nobody.post("/token", MINE).status == 401
    assert new_user("bob").token != bob.token
    assert not allowed(bob)  # another user of the same name


def test_a_user_changes_its_own_password_and_nothing_else(new_user: NewUser, nobody: PaiClient) -> None:
    new_user("_carl")
    bob = new_user("bob")
    for refused in (
        {"username": "_carl", "password": "other12", "modify": True},
        {"username": "dora", "password": "other12"},
        {**MINE, "admin": True},
        {**MINE, "modify": False},
    ):
        assert bob.put("/user", refused).json == {"error": "NotAuthorized", "message": "not authorized"}
    assert bob.delete("/user", {"username": "_carl"}).status == 401
    assert bob.put("/user/bob/virtualClusters", {"virtualClusters": "vc1"}).status == 401
    assert bob.put("/user", {**MINE, "modify": True}).status == 201
    bob = nobody.login("bob", "other12")
    assert bob.put("/user", {"username": "bob", "password": "third12"}).status == 201


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"username": "bob", "password": "secret1", "modify": True}, "does not exist"),
        ({"username": "admin", "password": "secret1", "modify": False}, "exists"),
        ({"username": "admin", "password": "secret1", "admin": False}, "stays an administrator"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(client: PaiClient, body: Any, reason: str) -> None:
    answer = client.put("/user", body)
    assert (answer.status, answer.json["error"]) == (500, "UpdateFailed")
    assert answer.json["message"].startswith("update failed: ")
    assert reason in answer.json["message"]


def test_the_first_administrator_stays(client: PaiClient) -> None:
    answer = client.delete("/user", {"username": "admin"})
    assert (answer.status, answer.json["error"]) == (500, "RemoveFailed")
    assert allowed(client)


def test_the_shortest_password_is_taken_and_booleans_come_as_text_in_forms(
    client: PaiClient, nobody: PaiClient
) -> None:
    client.form = True
    assert (
        client.put("/user", {"username": "bob", "password": "123456", "admin": "false", "modify": "false"}).status
        == 201
    )
    bob = nobody.login("bob", "123456")
    assert bob.delete("/user", {"username": "bob"}).status == 401
    assert client.delete("/user", {"username": "bob"}).status == 200


def test_a_user_uses_the_virtual_clusters_that_it_was_given(client: PaiClient, new_user: NewUser) -> None:
    bob = new_user("bob")
    assert bob.submit("anyone", role())["virtualCluster"] == "default"
    job = {"taskRoles": [role()], "virtualCluster": "vc1"}
    assert bob.post("/jobs", {"jobName": "vc", **job}).status == 401
    assert client.put("/user/bob/virtualClusters", {"virtualClusters": " vc1 ,vc2,"}).status == 201
    assert bob.post("/jobs", {"jobName": "vc", **job}).status == 201
    assert client.put("/user/bob/virtualClusters", {"virtualClusters": "vc2"}).status == 201
    assert bob.post("/jobs", {"jobName": "vc-2", **job}).status == 401
    assert client.post("/jobs", {"jobName": "vc-2", **job}).status == 201  # administrators use all
    for unknown in ("vc1,nothing", "a/b"):
        answer = client.put("/user/bob/virtualClusters", {"virtualClusters": unknown})
        assert (answer.status, answer.json["error"]) == (500, "UpdateVcFailed")
    assert bob.post("/jobs", {"jobName": "vc-3", **job, "virtualCluster": "vc2"}).status == 201
    assert client.put("/user/bob/virtualClusters", {"virtualClusters": ""}).status == 201
    assert bob.post("/jobs", {"jobName": "vc-4", **job, "virtualCluster": "vc2"}).status == 401


def test_a_job_is_its_owners_and_the_administrators(client: PaiClient, new_user: NewUser) -> None:
    bob, carl = new_user("bob"), new_user("carl")
    bob.submit("bobs", role())
    assert carl.put("/jobs/bobs/executionType", {"value": "STOP"}).json["error"] == "NotAuthorized"
    assert bob.put("/jobs/bobs/executionType", {"value": "STOP"}).status == 200
    assert client.put("/jobs/bobs/executionType", {"value": "STOP"}).status == 200
    assert [one["name"] for one in carl.get("/jobs?username=bob&_=1530000000000").json] == ["bobs"]
    assert carl.get("/jobs?username=carl").json == []


def test_passwords_are_nowhere_to_be_read(
    client: PaiClient, new_user: NewUser, platform: Platform, tmp_path: Any
) -> None:
    bob = new_user("bob")
    platform.backup(tmp_path / "copy.db")
    raw = (tmp_path / "copy.db").read_bytes()
    assert b"secret1" not in raw
    assert (bob.token or "").encode() not in raw


def test_who_says_who_it_is_finds_what_it_may_read(
    client: PaiClient, nobody: PaiClient, new_user: Callable[..., PaiClient], platform: Platform
) -> None:
    """The reads that are open to all are so by the vendor's document; a workspace that was closed is closed."""
    client.submit("hidden", role())
    eve = new_user("eve")
    assert eve.get("/jobs/hidden").status == 200
    platform.workspaces.change(workspace(platform), everyone=None)
    try:
        for path in ("", "/config", "/ssh", "/ssh/privateKey"):
            found, unknown = eve.get(f"/jobs/hidden{path}"), eve.get(f"/jobs/nobody{path}")
            assert (found.status, unknown.status) == (404, 404)
            assert found.data.replace(b"hidden", b"nobody") == unknown.data
        for wish in ("STOP", "START"):
            found, unknown = (eve.put(f"/jobs/{one}/executionType", {"value": wish}) for one in ("hidden", "nobody"))
            assert found.data.replace(b"hidden", b"nobody") == unknown.data
        assert eve.get("/jobs").json == []
        assert eve.post("/jobs", {"jobName": "mine", "taskRoles": [role()]}).status == 401
        assert nobody.get("/jobs/hidden").status == 200
        assert PaiClient(nobody.send, "a.wrong.token").get("/jobs/hidden").status == 200
        assert client.get("/jobs/hidden").status == 200
    finally:
        platform.workspaces.change(workspace(platform), everyone=MemberRole.MEMBER)
