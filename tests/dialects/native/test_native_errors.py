"""Whatever goes wrong, the answer has one shape, a fitting status, and a sentence that helps."""

from __future__ import annotations

import json

import pytest
from helpers.http_socket import Talk
from helpers.native import Http, sh

from localml.core.errors import Code
from localml.dialects.native.errors import STATUS
from localml.testing import Localml


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


BAD_SPEC = {"spec": {"roles": [{"command": ["true"], "count": 0}]}}
UNKNOWN_MEMBER = {"spec": {"roles": [{"command": ["true"], "colour": "red"}]}}
NO_SUCH_GPU = {"spec": {"roles": [{"command": ["true"], "resources": {"gpu": 99}}]}}
BAD_MEMORY = {"spec": {"roles": [{"command": ["true"], "resources": {"memory": "lots"}}]}}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("GET", "/nowhere", None, 404, "no_route", None),
        ("PATCH", "/workloads", None, 405, "method_not_allowed", None),
        ("POST", "/workloads", b"{", 400, "invalid", "body"),
        ("POST", "/workloads", b"[]", 400, "invalid", "body"),
        ("POST", "/workloads", b'{"spec": NaN}', 400, "invalid", "body"),
        ("POST", "/workloads", {}, 400, "invalid", "spec"),
        ("POST", "/workloads", BAD_SPEC, 400, "invalid", "spec.roles.0.count"),
        ("POST", "/workloads", UNKNOWN_MEMBER, 400, "invalid", "spec.roles.0.colour"),
        ("POST", "/workloads", BAD_MEMORY, 400, "invalid", "memory"),
        ("POST", "/workloads", NO_SUCH_GPU, 422, "capacity", "gpu"),
        ("POST", "/workloads", {"spec": sh("true"), "name": "a b"}, 400, "invalid", "name"),
        ("GET", "/workloads?sort=colour", None, 400, "invalid", "sort"),
        ("GET", "/workloads?limit=0", None, 400, "invalid", "limit"),
        ("GET", "/workloads?after=x", None, 400, "invalid", "after"),
        ("GET", "/workloads?colour=red", None, 400, "invalid", "colour"),
        ("GET", "/workloads?state=tired", None, 400, "invalid", "state.0"),
        ("GET", "/workloads/no-such", None, 404, "not_found", None),
        ("GET", "/workloads/%C2%B9", None, 404, "not_found", None),  # a digit that is no number
        ("GET", "/workloads/99999999999999999999", None, 404, "not_found", None),
        ("GET", "/events?after=99999999999999999999", None, 400, "invalid", "after"),
        ("GET", "/workloads/no-such/logs?offset=99999999999999999999", None, 400, "invalid", "offset"),
        ("DELETE", "/workloads/no-such", None, 404, "not_found", None),
        ("POST", "/workloads/no-such/stop", None, 404, "not_found", None),
        ("GET", "/workloads/no-such/logs?follow=true", None, 404, "not_found", None),
        ("GET", "/workloads/no-such/logs?stream=sideways", None, 400, "invalid", "stream"),
        ("POST", "/drain", {"gpu": "77"}, 404, "not_found", None),
        ("PUT", "/pools/team", {"gpu": -1}, 400, "invalid", "gpu"),
        ("GET", "/objects?uri=ftp://x", None, 400, "invalid", "uri"),
        ("GET", "/objects/content?uri=fds://no/such", None, 404, "not_found", None),
        ("PUT", "/objects/content?uri=fds://b/../../etc/passwd", b"x", 400, "invalid", "uri"),
        ("GET", "/env/vax", None, 400, "invalid", "dialect"),
        ("POST", "/images/build", {"names": ["no-such"]}, 404, "not_found", None),
        ("POST", "/prune", {"logs_days": -1}, 400, "invalid", "logs_days"),
        ("POST", "/users", {"name": "admin", "password": "x"}, 409, "conflict", "name"),
    ],
)
def test_one_shape(
    admin: Http, method: str, path: str, body: object, status: int, code: str, field: str | None
) -> None:
    answer = admin(method, path, body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    error = answer.json["error"]
    assert set(error) == {"code", "message", "field", "details"}
    assert (error["code"], error["field"]) == (code, field)
    assert error["message"]


def test_a_body_over_the_limit_is_refused(admin: Http) -> None:
    answer = admin("POST", "/workloads", b" " * (17 << 20))
    assert (answer.status, answer.json["error"]["code"]) == (413, "too_large")


def test_a_defect_is_answered_without_particulars(
    admin: Http, localml: Localml, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(localml.platform.pools, "list", broken)
    answer = admin("GET", "/pools")
    assert (answer.status, answer.json["error"]["code"]) == (500, "internal")
    assert b"secret" not in answer.data


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YWRtaW46d3Jvbmc="},  # admin:wrong
        {"Authorization": "Galaxy V3 x"},
    ],
)
def test_strangers_are_refused(localml: Localml, headers: dict[str, str]) -> None:
    answer = Http(localml.url, headers)("GET", "/status")
    assert (answer.status, answer.json["error"]["code"]) == (401, "unauthenticated")


def test_a_password_does_as_well_as_a_token(localml: Localml) -> None:
    import base64

    made = localml.platform.credentials
    pair = base64.b64encode(f"{made.user}:{made.password}".encode()).decode()
    assert Http(localml.url, {"Authorization": f"Basic {pair}"})("GET", "/status").json["user"] == "admin"


@pytest.mark.parametrize(
    ("target", "length", "status", "code"),
    [
        ("POST /localml/v1/workloads", 20 << 20, 413, "too_large"),  # over what an operation takes
        ("PUT /localml/v1/objects/content?uri=fds://b/k", 1 << 40, 413, "too_large"),  # over what the server takes
        ("PUT /localml/v1/nowhere", 5 << 20, 404, "no_route"),
    ],
)
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_large_body_is_refused_before_it_is_sent(
    localml: Localml, admin: Http, target: str, length: int, status: int, code: str, expect: tuple[str, ...]
) -> None:
    headers = [f"{name}: {value}" for name, value in admin.headers.items()]
    with Talk(int(localml.url.rpartition(":")[2])) as talk:
        talk.ask(target, f"Content-Length: {length}", *headers, *expect)
        answer = talk.answer()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, code)


def test_who_is_not_known_is_told_before_the_body(localml: Localml) -> None:
    with Talk(int(localml.url.rpartition(":")[2])) as talk:
        talk.ask("PUT /localml/v1/objects/content?uri=fds://b/k", f"Content-Length: {1 << 30}", "Expect: 100-continue")
        assert talk.answer().status == 401


def test_an_upload_that_breaks_off_is_refused_and_leaves_nothing(localml: Localml, admin: Http) -> None:
    headers = [f"{name}: {value}" for name, value in admin.headers.items()]
    with Talk(int(localml.url.rpartition(":")[2])) as talk:
        talk.ask("PUT /localml/v1/objects/content?uri=fds://broken/key", "Transfer-Encoding: chunked", *headers)
        talk.send(b"11170\r\n" + bytes(70_000) + b"\r\nnonsense\r\n")
        answer = talk.answer()
    assert (answer.status, json.loads(answer.body)["error"]["field"]) == (400, "body"), answer.body
    assert admin("GET", "/objects/content?uri=fds://broken/key").status == 404
