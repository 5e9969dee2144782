"""Workspaces, members, tokens with a scope: what users make of them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.models import times
from helpers.native import Http, sh

from localml.testing import Localml

As = Callable[..., Http]


@pytest.fixture
def made_with(localml: Localml) -> Iterator[As]:
    """Somebody who calls with a new token of a user."""
    opened: list[Http] = []

    def make(user: str, **members: Any) -> Http:
        token = localml.client.create_token(user, **members)
        opened.append(Http(localml.url, {"Authorization": f"Bearer {token}"}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def eve_token(localml: Localml) -> str:
    return str(localml.client.create_user("eve", "secret")["token"])


@pytest.fixture
def eve(localml: Localml, eve_token: str) -> Iterator[Http]:
    """Another user who is no administrator."""
    caller = Http(localml.url, {"Authorization": f"Bearer {eve_token}"})
    yield caller
    caller.close()


@pytest.fixture
def team(bob: Http) -> Iterator[str]:
    """A workspace of bob's, with nobody else in it."""
    made = bob("POST", "/workspaces", {"name": "team", "description": "ours"})
    assert made.status == 201
    yield str(made.json["id"])
    for one in bob("GET", f"/workloads?deleted=true&workspace={made.json['id']}").json["workloads"]:
        bob("DELETE", f"/workloads/{one['id']}")
        bob("GET", f"/workloads/{one['id']}/wait?timeout=60")
    assert bob("DELETE", f"/workspaces/{made.json['id']}").status == 200


def error(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json["error"]["message"]


def test_a_workspace_is_its_makers_until_it_is_shared(bob: Http, eve: Http, admin: Http, team: str) -> None:
    shown = bob("GET", "/workspaces/team").json
    assert (shown["id"], shown["owner"], shown["role"], shown["description"]) == (team, "bob", "owner", "ours")
    assert [(one["user"], one["role"]) for one in shown["members"]] == [("bob", "owner")]
    for reference in (team, "team", "nothing"):
        assert error(eve("GET", f"/workspaces/{reference}")) == (404, f"workspace '{reference}' does not exist")
    assert {"bob", "default", "team"} <= {one["name"] for one in bob("GET", "/workspaces").json["workspaces"]}
    assert "team" not in {one["name"] for one in eve("GET", "/workspaces").json["workspaces"]}
    assert admin("GET", "/workspaces/team").json["role"] is None


def test_members_see_run_and_change_as_their_role_says(bob: Http, eve: Http, team: str) -> None:
    work = {"name": "shared", "workspace": "team", "spec": sh("sleep 60")}
    number = bob("POST", "/workloads", work).json["id"]
    paths = [("GET", ""), ("GET", "/logs"), ("GET", "/events"), ("POST", "/stop")]
    assert {eve(method, f"/workloads/{number}{path}").status for method, path in paths} == {404}

    bob("PUT", "/workspaces/team/members/eve", {"role": "viewer"})
    assert {eve(method, f"/workloads/shared{path}").status for method, path in paths[:3]} == {200}
    assert eve("POST", f"/workloads/{number}/stop").status == 403
    assert eve("POST", "/workloads", work | {"name": "mine"}).status == 403
    assert eve("PUT", "/workspaces/team/members/eve", {"role": "owner"}).status == 403

    bob("PUT", "/workspaces/team/members/eve", {})
    mine = eve("POST", "/workloads", work | {"name": "mine"}).json
    assert (mine["workspace"], mine["owner"]) == (team, "eve")
    assert eve("DELETE", "/workloads/mine").status == 200
    assert error(eve("POST", "/workloads/shared/stop")) == (
        403,
        "eve may not stop this workload: only bob, editors of its workspace and administrators may",
    )
    assert eve("POST", "/workloads/shared/ssh").status == 403

    bob("PUT", "/workspaces/team/members/eve", {"role": "editor"})
    assert eve("POST", "/workloads/shared/stop").status == 200
    assert eve("DELETE", "/workspaces/team/members/eve").status == 200  # everybody may leave
    assert eve("GET", f"/workloads/{number}").status == 404


def test_an_editor_changes_a_notebook_but_not_so_that_it_lets_the_editor_in(bob: Http, eve: Http, team: str) -> None:
    made = {"name": "lab", "workspace": "team", "command": ["sleep", "60"], "token": "secret"}
    assert bob("POST", "/notebooks", made).status == 201
    bob("PUT", "/workspaces/team/members/eve", {"role": "editor"})
    for setting in (
        {"token": "known"},
        {"image": "other"},
        {"command": ["env"]},
        {"env": {"A": "b"}},
        {"mounts": []},
        {"folder": "other"},
    ):
        assert eve("PATCH", "/notebooks/lab", setting).status == 403
    assert eve("PATCH", "/notebooks/lab", {"time_limit": 600}).status == 200
    assert eve("POST", "/notebooks/lab/stop").status == 200
    bob("GET", "/workloads/lab/wait?timeout=60")
    assert eve("POST", "/notebooks", {**made, "token": "known"}).status == 403
    assert bob("PATCH", "/notebooks/lab", {"token": "another"}).status == 200
    assert bob("GET", "/notebooks/lab").json["token"] == "secret"  # that of the last run
    assert bob("DELETE", "/notebooks/lab").status == 200


def test_nobody_waits_for_a_workload_that_is_not_to_be_seen(bob: Http, eve: Http, team: str) -> None:
    number = bob("POST", "/workloads", {"workspace": "team", "spec": sh("true")}).json["id"]
    after = {"spec": {**sh("true"), "depends_on": [number]}}
    assert error(eve("POST", "/workloads", after)) == (404, f"depends_on: workload '{number}' does not exist")
    bob("PUT", "/workspaces/team/members/eve", {"role": "viewer"})
    made = eve("POST", "/workloads", after)
    assert made.status == 201
    assert eve("GET", f"/workloads/{made.json['id']}/wait?timeout=60").json["state"] == "succeeded"


def test_lists_are_of_all_that_one_sees_or_of_one_workspace(bob: Http, eve: Http, team: str) -> None:
    there = bob("POST", "/workloads", {"workspace": team, "spec": sh("true")}).json["id"]
    own = bob("POST", "/workloads", {"spec": sh("true")}).json["id"]

    def listed(who: Http, query: str = "") -> set[int]:
        return {one["id"] for one in who("GET", f"/workloads?limit=1000{query}").json["workloads"]}

    assert {there, own} <= listed(bob)
    assert listed(bob, "&workspace=team") == {there}
    assert listed(eve).isdisjoint({there, own})
    for path in ("/endpoints", "/models"):
        assert bob("GET", f"{path}?workspace=team").status == 200
        assert eve("GET", f"{path}?workspace=team").status == 404


def test_a_workspace_with_work_in_it_is_not_deleted(bob: Http, team: str) -> None:
    number = bob("POST", "/workloads", {"workspace": "team", "spec": sh("sleep 60")}).json["id"]
    assert error(bob("DELETE", "/workspaces/team")) == (409, "workspace team holds 1 workload")
    bob("POST", f"/workloads/{number}/stop")
    assert error(bob("DELETE", "/workspaces/bob")) == (409, "workspace bob is bob's own")


def test_a_workspace_is_renamed_and_opened_to_all(bob: Http, eve: Http, team: str) -> None:
    assert bob("PATCH", "/workspaces/team", {"everyone": "member"}).json["everyone"] == "member"
    assert eve("GET", "/workspaces/team").json["role"] == "member"
    assert eve("PATCH", "/workspaces/team", {"name": "mine"}).status == 403
    changed = bob("PATCH", f"/workspaces/{team}", {"name": "gang"}).json
    assert (changed["name"], changed["everyone"], changed["description"]) == ("gang", "member", "ours")
    assert bob("PATCH", "/workspaces/gang", {"everyone": None}).json["everyone"] is None
    assert eve("GET", "/workspaces/gang").status == 404
    assert bob("PATCH", "/workspaces/bob", {"name": "rob"}).status == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/workspaces", {}, 400, "name"),
        ("POST", "/workspaces", {"name": "a/b"}, 400, "name"),
        ("POST", "/workspaces", {"name": "default"}, 409, "name"),
        ("POST", "/workspaces", {"name": "x", "description": "x" * 1001}, 400, "description"),
        ("POST", "/workspaces", {"name": "x", "everyone": "king"}, 400, "everyone"),
        ("PUT", "/workspaces/bob/members/eve", {"role": "king"}, 400, "role"),
        ("PUT", "/workspaces/bob/members/nobody", {"role": "viewer"}, 404, None),
        ("DELETE", "/workspaces/bob/members/eve", None, 404, None),
        ("DELETE", "/workspaces/bob/members/bob", None, 409, None),
        ("POST", "/workloads", {"workspace": "nothing", "spec": sh("true")}, 404, None),
        ("POST", "/users/bob/tokens", {"scope": ["fly"]}, 400, "scope"),
        ("POST", "/users/bob/tokens", {"thing": "workload"}, 400, "thing"),
        ("POST", "/users/bob/tokens", {"thing": "workload:nothing"}, 404, None),
        ("POST", "/users/bob/tokens", {"workspace": "admin"}, 404, None),
        ("POST", "/users/bob/tokens", {"lifetime": 0}, 400, "lifetime"),
        ("DELETE", "/users/bob/tokens/nothing", None, 404, None),
        ("DELETE", "/users/bob", None, 403, None),
    ],
)
def test_what_is_refused(bob: Http, eve: Http, method: str, path: str, body: Any, status: int, field: str) -> None:
    answer = bob(method, path, body)
    assert (answer.status, answer.json["error"]["field"]) == (status, field)


def test_priorities_above_all_users_work_are_for_administrators(bob: Http, eve: Http, admin: Http, team: str) -> None:
    def work(priority: int, **rest: Any) -> dict[str, Any]:
        return {"spec": {**sh("true"), "priority": priority}, **rest}

    words = "priority: must be between -1000 and 100, not 101; more is for administrators"
    refused = bob("POST", "/workloads", work(101))
    assert (*error(refused), refused.json["error"]["field"]) == (400, words, "priority")
    for priority in (-1000, 100):
        assert bob("POST", "/workloads", work(priority)).json["priority"] == priority
    assert bob("POST", "/workloads", work(101, kind="notebook")).status == 400
    assert admin("POST", "/workloads", work(1000)).json["priority"] == 1000
    lab = {"name": "lab", "workspace": "team", "command": ["sleep", "60"]}
    assert error(bob("POST", "/notebooks", lab | {"priority": 101})) == (400, words)
    assert bob("POST", "/notebooks", lab | {"priority": 50}).json["priority"] == 50
    assert error(bob("PATCH", "/notebooks/lab", {"priority": 101})) == (400, words)
    assert admin("PATCH", "/notebooks/lab", {"priority": 500}).status == 200
    bob("PUT", "/workspaces/team/members/eve", {"role": "editor"})
    assert error(eve("PATCH", "/notebooks/lab", {"priority": 501})) == (400, words.replace("101", "501"))
    assert eve("PATCH", "/notebooks/lab", {"time_limit": 600}).status == 200  # what an administrator gave stays
    bob("POST", "/notebooks/lab/restart")
    bob("GET", "/workloads/lab/wait?timeout=60")
    assert bob("DELETE", "/notebooks/lab").status == 200


def test_a_colleagues_model_gets_no_version_from_who_may_not_change_it(bob: Http, eve: Http, team: str) -> None:
    assert bob("POST", "/buckets", {"name": "rights-models", "workspace": "team"}).status == 201
    assert bob("PUT", "/objects/content?uri=fds://rights-models/m.onnx", times(2)).status == 201
    model = {"name": "linear", "workspace": "team", "source": "fds://rights-models/m.onnx"}
    assert bob("POST", "/models", model).status == 201
    bob("PUT", "/workspaces/team/members/eve", {"role": "member"})
    assert eve("POST", "/models", model).status == 403
    assert eve("POST", "/models", model | {"name": "mine"}).status == 201
    assert [one["version"] for one in bob("GET", "/models?workspace=team").json["models"][0]["versions"]] == [1]
    bob("PUT", "/workspaces/team/members/eve", {"role": "editor"})
    assert eve("POST", "/models", model).json["version"] == 2
    for path in ("models/linear:1", "models/linear:2", "models/mine", "buckets/rights-models?recursive=true"):
        assert bob("DELETE", f"/{path}").status == 200


class TestTokens:
    """Tokens with a name, an end and a scope."""

    def test_are_listed_and_revoked_by_their_owner(self, bob: Http, eve: Http, made_with: As) -> None:
        made = bob("POST", "/users/bob/tokens", {"name": "ci", "scope": ["workload:read", "stop"], "lifetime": 60})
        assert (made.status, made.json["user"], made.json["name"]) == (201, "bob", "ci")
        listed = bob("GET", "/users/bob/tokens").json["tokens"]
        [mine] = [one for one in listed if one["id"] == made.json["id"]]
        assert mine["scope"] == {"rights": ["*:stop", "workload:read"], "workspace": None, "thing": None}
        assert mine["expires_at"] - mine["created_at"] == 60
        assert not any("token" in one for one in listed)

        with_it = Http(bob.url, {"Authorization": f"Bearer {made.json['token']}"})
        assert with_it("GET", "/workloads").status == 200
        [mine] = [one for one in bob("GET", "/users/bob/tokens").json["tokens"] if one["id"] == mine["id"]]
        assert mine["used_at"] >= mine["created_at"]
        for method, path in (("GET", ""), ("DELETE", "/ci"), ("POST", "")):
            assert eve(method, f"/users/bob/tokens{path}", {} if method == "POST" else None).status == 403
        assert bob("DELETE", "/users/bob/tokens/ci").json["id"] == mine["id"]
        assert with_it("GET", "/workloads").status == 401
        with_it.close()

    def test_of_a_removed_user_are_worth_nothing(self, admin: Http, localml: Localml, made_with: As) -> None:
        localml.client.create_user("tom", "secret")
        tom = made_with("tom")
        assert tom("GET", "/status").status == 200
        assert admin("DELETE", "/users/tom").status == 200
        assert tom("GET", "/status").status == 401

    def test_may_less_than_their_owner(self, bob: Http, made_with: As, team: str) -> None:
        number = bob("POST", "/workloads", {"name": "job", "workspace": team, "spec": sh("sleep 60")}).json["id"]
        other = bob("POST", "/workloads", {"name": "other", "spec": sh("true")}).json["id"]
        reader = made_with("bob", scope=["read"])
        assert reader("GET", f"/workloads/{number}").status == 200
        assert reader("GET", "/workloads").status == 200
        assert error(reader("POST", f"/workloads/{number}/stop")) == (
            403,
            "bob may not stop this workload with this token: its scope leaves that out",
        )
        of_team = made_with("bob", workspace="team")
        assert [one["id"] for one in of_team("GET", "/workloads").json["workloads"]] == [number]
        assert of_team("GET", f"/workloads/{other}").status == 404
        made = of_team("POST", "/workloads", {"spec": sh("true")})
        assert (made.status, made.json["workspace"]) == (201, team)
        assert of_team("POST", "/workloads", {"workspace": "bob", "spec": sh("true")}).status == 404
        of_one = made_with("bob", scope=["workload:read", "workload:change"], thing="workload:job")
        assert of_one("GET", "/workloads/job").status == 200
        points = {"points": [{"name": "loss", "value": 1.0}]}
        assert of_one("POST", "/workloads/job/samples", points).status == 202
        assert of_one("POST", f"/workloads/{other}/samples", points).status == 404
        assert of_one("GET", "/workloads").status == 403

    def test_make_no_others(self, made_with: As) -> None:
        for scope in ({"scope": ["*"]}, {"scope": ["token", "user"]}, {"workspace": "default"}):
            token = made_with("admin", **scope)
            assert token("POST", "/users/admin/tokens", {}).status == 403
            assert token("POST", "/users", {"name": "mal", "password": "x", "admin": True}).status == 403
            assert token("PUT", "/users/admin/password", {"password": "x"}).status == 403

    def test_are_held_to_their_scope_by_every_api(self, localml: Localml) -> None:
        import urllib3

        token = localml.client.create_token("admin", scope=["read"])
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/api/v1/jobs", "/api/v1/virtual-clusters", "/api/runs/", "/api/pods/"):
            assert urllib3.request("GET", localml.url + path, headers=headers).status == 200
        task = {"name": "t", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "true"}
        job = {"jobName": "by-token", "image": "i", "taskRoles": [task]}
        for method, path, body in (
            ("DELETE", "/api/v1/user", {"username": "nobody"}),
            ("POST", "/api/v1/jobs", job),
            ("DELETE", "/api/runs/1/", None),
        ):
            found = urllib3.request(method, localml.url + path, headers=headers, json=body)
            assert found.status in (401, 403, 404), (path, found.data)
        nothing = localml.client.create_token("admin", scope=["token:delete"], thing="token:none")
        for path in ("/api/v1/jobs", "/api/v1/virtual-clusters"):  # open to nobody, and closed to who says so much
            headers = {"Authorization": f"Bearer {nothing}"}
            assert urllib3.request("GET", localml.url + path, headers=headers).status == 401


def test_no_operation_forgets_to_ask(localml: Localml, admin: Http) -> None:
    """A token that is good for nothing here is refused by every operation there is."""
    document = admin("GET", "/openapi.json").json
    token = localml.client.create_token("admin", scope=["token:delete"], thing="token:none")
    nobody = Http(localml.url, {"Authorization": f"Bearer {token}"})
    let_in = []
    for path, operations in document["paths"].items():
        for method in operations:
            nothing = None if method in ("get", "delete") else {}
            body = BODIES.get((method, path.removeprefix("/localml/v1")), nothing)
            answer = nobody(method.upper(), filled(path), body)
            if answer.status not in (403, 404):
                let_in.append((method, path, answer.status, answer.data))
    nobody.close()
    assert let_in == [("get", "/localml/v1/workspaces", 200, b'{"workspaces":[]}\n')]


def filled(path: str) -> str:
    """A path of the document as a request's, with the parameters that it needs."""
    known = {"name": "admin", "user": "admin", "dialect": "native"}
    path = re.sub(r"{(\w+)}", lambda found: known.get(found[1], "1"), path.removeprefix("/localml/v1"))
    needed = {"objects": "?uri=fds://b/k", "resolve": "?ref=admin"}
    return path + needed.get(path.split("/")[1], "")


BODIES: dict[tuple[str, str], Any] = {
    ("post", "/workloads"): {"spec": sh("true")},
    ("post", "/workloads/{ref}/samples"): {"points": [{"name": "x", "value": 1}]},
    ("post", "/studies"): {
        "spec": {"space": [{"name": "x", "value": 1}], "objective": {"metric": "loss"}, "trial": sh("true")}
    },
    ("post", "/endpoints"): {"name": "e", "image": "i"},
    ("post", "/endpoints/{ref}/rollout"): {"image": "i"},
    ("put", "/endpoints/{ref}/variants"): {"variants": [{"image": "i", "weight": 100}]},
    ("post", "/models"): {"name": "m", "source": "fds://b/k"},
    ("post", "/buckets"): {"name": "nobodys"},
    ("post", "/tensorboards"): {"logdir": "fds://b/k"},
    ("put", "/folders/{name}/code"): {"code": "sha256:" + "0" * 64},
    ("post", "/users"): {"name": "mal", "password": "x"},
    ("put", "/users/{name}/password"): {"password": "x"},
    ("post", "/workspaces"): {"name": "mals"},
    ("patch", "/workspaces/{ref}"): {"name": "mals"},
}
