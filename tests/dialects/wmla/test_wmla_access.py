"""Who calls, and how failures are worded."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask
from helpers.cloudml import into
from helpers.wmla import WmlaClient, packed

from localml.platform import Platform
from localml.server import Server


def test_basic_bearer_and_the_token_header_are_taken(platform: Platform, nobody: WmlaClient) -> None:
    token = platform.credentials.token
    basic = WmlaClient(nobody.send, "admin", platform.credentials.password)
    assert basic.get("/no/such/path").status == 404
    assert nobody.call("GET", "/openapi.json").status == 200
    for headers in ({"Authorization": f"Bearer {token}"}, {"X-Auth-Token": token}):
        assert nobody.call("GET", "/no/such/path", **headers).status == 404


def test_a_failure_says_its_words_where_the_vendors_client_looks(nobody: WmlaClient) -> None:
    answer = nobody.get("/no/such/path")
    assert answer.status == 404
    assert set(answer.json) == {"error", "field", "code"}
    assert isinstance(answer.json["error"], str)
    assert answer.json["code"] == 404


def test_a_live_server_serves_the_document(server: Server, live: WmlaClient, app: Flask) -> None:
    assert live.get("/openapi.json").json["info"] == WmlaClient(into(app)).get("/openapi.json").json["info"]


def test_who_has_the_name_of_one_who_left_starts_tasks_and_sees_nothing_old(
    platform: Platform, new_user: Callable[[str], WmlaClient]
) -> None:
    places = []
    for _ in range(2):
        client = new_user("left")
        assert client.get("/execs").json == client.get("/hypersearch").json == []
        answer = client.start("--exec-start Python --model-main main.py", packed({"main.py": "print(1)"}))
        assert answer.status == 200, answer.data
        places.append(answer.json["workDir"].split("/")[2])
        platform.identity.remove_user("left")
    assert places[0] == "wmla-left"
    assert places[1].startswith("wmla-left-")
