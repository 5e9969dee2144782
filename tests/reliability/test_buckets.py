"""Two users and their buckets: what is one's is not there for the other, in every API that names objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.native import Answer, Http, sh

import localml
from localml.testing import Localml

SECRET = b"registry.example\neva\nhunter2\n"
MINE, UNKNOWN = "fds://evas/auth", "fds://nowhere/auth"


@pytest.fixture
def users(localml_fresh: Localml) -> Iterator[dict[str, Http]]:
    made: dict[str, Http] = {}
    for name in ("eva", "kim"):
        token = localml_fresh.client.create_user(name, "secret")["token"]
        made[name] = Http(localml_fresh.url, {"Authorization": f"Bearer {token}"})
    assert made["eva"]("PUT", f"/objects/content?uri={MINE}", SECRET).status == 201
    yield made
    for one in made.values():
        one.close()


def told(answer: Answer) -> tuple[int, str]:
    """What a caller learns, whatever name was asked for."""
    return answer.status, answer.data.decode().replace("evas", "nowhere")


ASKED: list[tuple[str, str, Any]] = [
    ("GET", "/objects?uri={uri}", None),
    ("GET", "/objects/info?uri={uri}", None),
    ("GET", "/objects/content?uri={uri}", None),
    ("DELETE", "/objects?uri={uri}", None),
    ("DELETE", "/objects?uri=fds://{bucket}&recursive=true", None),
    ("GET", "/buckets/{bucket}", None),
    ("PATCH", "/buckets/{bucket}", {"everyone": "member"}),
    ("DELETE", "/buckets/{bucket}?recursive=true", None),
    ("POST", "/models", {"name": "m", "source": "{uri}"}),
    ("POST", "/workloads", {"spec": {**sh("true"), "mounts": [{"source": "/{bucket}/auth", "target": "/mnt"}]}}),
    ("POST", "/workloads", {"spec": sh("true", registry_auth="{uri}")}),
]


@pytest.mark.parametrize(("method", "path", "body"), ASKED)
def test_a_colleagues_bucket_is_answered_like_one_that_does_not_exist(
    users: dict[str, Http], method: str, path: str, body: Any
) -> None:
    def ask(uri: str) -> tuple[int, str]:
        bucket = uri.split("/")[2]
        return told(users["kim"](method, path.format(uri=uri, bucket=bucket), filled(body, uri, bucket)))

    assert ask(MINE) == ask(UNKNOWN)
    assert ask(MINE)[0] >= 400
    assert users["eva"]("GET", f"/objects/content?uri={MINE}").data == SECRET


def filled(body: Any, uri: str, bucket: str) -> Any:
    if isinstance(body, dict):
        return {name: filled(value, uri, bucket) for name, value in body.items()}
    if isinstance(body, list):
        return [filled(value, uri, bucket) for value in body]
    return body.replace("{uri}", uri).replace("{bucket}", bucket) if isinstance(body, str) else body


def test_nobody_writes_into_a_colleagues_bucket_or_takes_its_name(users: dict[str, Http]) -> None:
    kim = users["kim"]
    for answer in (
        kim("PUT", "/objects/content?uri=fds://evas/new", b"x"),
        kim("PUT", "/objects/content?uri=fds://evas/folder/"),
        kim("POST", "/buckets", {"name": "evas"}),
        kim("POST", "/tensorboards", {"logdir": "fds://evas/runs"}),
        kim("POST", "/workloads", {"spec": {**sh("true"), "mounts": [{"source": "fds://evas/x", "target": "/mnt"}]}}),
    ):
        assert answer.status == 409, answer.data
        assert "a bucket 'evas' exists" in answer.json["error"]["message"]
    assert [one["name"] for one in users["eva"]("GET", "/objects?uri=fds://evas").json["objects"]] == ["auth"]


def test_lists_show_what_the_caller_may_read(users: dict[str, Http]) -> None:
    assert [one["name"] for one in users["eva"]("GET", "/buckets").json["buckets"]] == ["evas", "hdfs"]
    assert [one["name"] for one in users["kim"]("GET", "/buckets").json["buckets"]] == ["hdfs"]


def test_a_bucket_is_shared_with_a_workspace_and_with_everyone_and_closed_again(users: dict[str, Http]) -> None:
    eva, kim = users["eva"], users["kim"]
    assert eva("PATCH", "/buckets/evas", {"everyone": "viewer"}).status == 200
    assert kim("GET", f"/objects/content?uri={MINE}").data == SECRET
    assert kim("PUT", f"/objects/content?uri={MINE}", b"x").status == 403
    assert kim("PATCH", "/buckets/evas", {"everyone": "member"}).status == 403
    assert kim("DELETE", "/buckets/evas?recursive=true").status == 403
    assert eva("PATCH", "/buckets/evas", {"everyone": None}).status == 200
    assert kim("GET", f"/objects/content?uri={MINE}").status == 404

    assert eva("POST", "/workspaces", {"name": "team"}).status == 201
    assert eva("PUT", "/workspaces/team/members/kim", {"role": "member"}).status == 200
    assert eva("PATCH", "/buckets/evas", {"workspace": "team"}).status == 200
    assert kim("PUT", "/objects/content?uri=fds://evas/more", b"x").status == 201
    assert kim("DELETE", "/objects?uri=fds://evas/more").status == 200
    assert kim("DELETE", "/buckets/evas?recursive=true").status == 403
    assert eva("DELETE", "/workspaces/team").status == 409
    assert eva("DELETE", "/workspaces/team/members/kim").status == 200
    assert kim("GET", f"/objects/content?uri={MINE}").status == 404


def test_a_token_for_one_workspace_reaches_no_bucket_of_another(localml_fresh: Localml, users: dict[str, Http]) -> None:
    assert users["eva"]("POST", "/workspaces", {"name": "team"}).status == 201
    made = users["eva"]("POST", "/users/eva/tokens", {"workspace": "team"}).json
    narrow = Http(localml_fresh.url, {"Authorization": f"Bearer {made['token']}"})
    assert narrow("GET", f"/objects/content?uri={MINE}").status == 404
    assert narrow("PUT", "/objects/content?uri=fds://teams/x", b"x").status == 201
    found = users["eva"]("GET", "/buckets/teams").json
    assert found["workspace"] == users["eva"]("GET", "/workspaces/team").json["id"]
    narrow.close()


def test_every_api_asks_whose_an_object_is_by_one_way() -> None:
    """The tree itself knows no rights; what serves requests gets it from nobody but ``Platform.buckets_for``."""
    found = [
        f"{path}:{number}"
        for path in (Path(localml.__file__).parent / "dialects").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"platform(\(\))?\.(buckets|mounts)\b|\bBuckets\(", line)
    ]
    assert found == []
