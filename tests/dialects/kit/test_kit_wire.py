"""Requests as clients send them, failures as dialects word them: an app of a made-up vendor."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, Request, request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from localml.config import Config
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit import Dialect, Operations, caller, make_app, platform
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.open import TABLE, Group, Open
from localml.dialects.kit.wire import parse_json
from localml.engines.fake.engine import FakeEngine
from localml.httpd.server import HttpServer
from localml.platform import Platform


class Thing(BaseModel):
    """A body."""

    name: str
    fast: bool = False


class Rest(BaseModel):
    """What follows in the URL."""

    rest: str


class Failure(BaseModel):
    """An error."""

    code: str


api = Operations("acme", __name__, url_prefix="/acme", abp_responses={400: Failure})


@api.post("/things")
def make(body: Thing) -> dict[str, Any]:
    """Make a thing"""
    return {"name": body.name, "fast": body.fast, "by": caller().name, "install": platform().install}


@api.put("/things", doc_ui=False)
def change(body: Thing) -> dict[str, Any]:
    """Change a thing"""
    return make(body)


@api.get("/things/<path:rest>")
def show(path: Rest) -> dict[str, Any]:
    """Show the path"""
    return {"rest": path.rest, "raw": request.raw_path}  # type: ignore[attr-defined]


@api.get("/open")
def public() -> dict[str, Any]:
    """Show nothing"""
    return {}


@api.get("/defect")
def defect() -> dict[str, Any]:
    """Fail"""
    raise RuntimeError("the secret is 42")


def _authenticate(found: Platform, given: Request) -> Caller:
    if given.headers.get("X-User") != "me":
        raise LocalmlError(Code.UNAUTHENTICATED, "who are you")
    return found.identity.user(ADMIN)


def _render(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    status = {Code.INTERNAL: 500, Code.UNAUTHENTICATED: 401, Code.NO_ROUTE: 404, Code.METHOD_NOT_ALLOWED: 405}
    return status.get(error.code, 413 if error.code is Code.TOO_LARGE else 400), {
        "code": error.code,
        "words": error.message,
        "field": error.field,
    }


ACME = Dialect(
    name=__name__,
    prefix="/acme",
    title="Acme",
    version="1",
    authenticate=_authenticate,
    render_error=_render,
    apis=(api,),
    max_body=1000,
    takes_forms=True,
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = Platform(Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="none"), engine=FakeEngine())
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(opened: Platform) -> Iterator[Flask]:
    rows = [Open("test_kit_wire", name, Group.DOCUMENTS, "a test") for name in ("acme.public", "document")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("localml.dialects.kit.open.TABLE", (*TABLE, *rows))
        yield make_app(ACME, opened)


def send(app: Flask, method: str, path: str, data: bytes = b"", **headers: str) -> tuple[int, Any]:
    """Send JSON; ``Content_Type=""`` leaves the type away."""
    given = {"X-User": "me", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    given = {name: value for name, value in given.items() if value}
    found = app.test_client().open(path, method=method, data=data, headers=given)
    return found.status_code, found.get_json()


KINDS = ["application/json", "application/vnd.acme+json; charset=utf-8", "application/x-www-form-urlencoded"]
UNTYPED = ["", "text/plain", "application/octet-stream"]


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_read_where_the_type_says_so_or_is_that_of_curl(app: Flask, kind: str) -> None:
    assert send(app, "POST", "/acme/things", b'{"name": "a"}', Content_Type=kind)[1]["name"] == "a"


@pytest.mark.parametrize("kind", UNTYPED)
def test_a_body_that_does_not_say_that_it_is_json_is_refused(app: Flask, kind: str) -> None:
    _, found = send(app, "POST", "/acme/things", b'{"name": "a"}', Content_Type=kind)
    assert (found["code"], "application/json" in found["words"], kind in found["words"]) == ("media_type", True, True)


@pytest.mark.parametrize("kind", [*KINDS, *UNTYPED])
def test_but_not_where_the_vendors_client_says_nothing(opened: Platform, kind: str) -> None:
    app = make_app(replace(ACME, typeless=True, takes_forms=False), opened)
    assert send(app, "POST", "/acme/things", b'{"name": "a"}', Content_Type=kind)[1]["name"] == "a"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_forms_are_read_and_their_booleans_understood(app: Flask, method: str) -> None:
    status, found = send(
        app, method, "/acme/things", b"name=a+b&fast=true", Content_Type="application/x-www-form-urlencoded"
    )
    assert (status, found["name"], found["fast"]) == (200, "a b", True)


def test_multipart_forms_are_read(app: Flask) -> None:
    found = app.test_client().post(
        "/acme/things", data={"name": "a"}, content_type="multipart/form-data", headers={"X-User": "me"}
    )
    assert found.get_json()["name"] == "a"


def test_who_calls_and_the_platform_are_known_to_the_operation(app: Flask) -> None:
    found = send(app, "POST", "/acme/things", b'{"name": "a"}')[1]
    assert found["by"] == "admin"
    assert len(found["install"]) == 8


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code"),
    [
        ("GET", "/acme/nothing", b"", 404, "no_route"),
        ("DELETE", "/acme/things", b"", 405, "method_not_allowed"),
        ("OPTIONS", "/acme/things", b"", 405, "method_not_allowed"),
        ("POST", "/acme/things", b"", 400, "invalid"),
        ("POST", "/acme/things", b"{", 400, "invalid"),
        ("POST", "/acme/things", b"null", 400, "invalid"),
        ("POST", "/acme/things", b'{"name": 1}', 400, "invalid"),
        ("POST", "/acme/things", b'{"name": "' + b"a" * 1000 + b'"}', 413, "too_large"),
        ("GET", "/acme/defect", b"", 500, "internal"),
    ],
)
def test_every_failure_has_the_dialects_shape(
    app: Flask, method: str, path: str, data: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = send(app, method, path, data)
    assert (found[0], found[1]["code"]) == (status, code)
    assert "42" not in found[1]["words"]


def test_a_defect_is_logged_with_its_trace(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "localml.dialects"):
        send(app, "GET", "/acme/defect")
    assert "the secret is 42" in caplog.text
    assert "GET /acme/defect" in caplog.text


def test_a_caller_is_asked_for_before_the_body_is_looked_at(app: Flask) -> None:
    assert send(app, "POST", "/acme/things", b"{", X_User="you") == (
        401,
        {"code": "unauthenticated", "words": "who are you", "field": None},
    )


def test_public_operations_and_unknown_addresses_need_no_caller(app: Flask) -> None:
    assert send(app, "GET", "/acme/open", X_User="you")[0] == 200
    assert send(app, "GET", "/acme/nothing", X_User="you")[0] == 404
    assert send(app, "GET", "/acme/openapi.json", X_User="you")[0] == 200


def test_a_missing_member_is_named(app: Flask) -> None:
    assert send(app, "POST", "/acme/things", b"{}")[1] == {
        "code": "invalid",
        "words": "name: is required",
        "field": "name",
    }


def test_the_document_has_no_answers_that_are_never_sent(app: Flask) -> None:
    document = send(app, "GET", "/acme/openapi.json")[1]
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/acme/things"]["post"]["responses"]) == {"400"}
    assert "put" not in document["paths"]["/acme/things"]
    assert "ValidationErrorModel" not in document["components"]["schemas"]


PATHS = [
    ("/acme/things/a", "a", "/acme/things/a"),
    ("/acme//things/a", "a", "/acme//things/a"),
    ("/acme/things/a?x=/y//z", "a", "/acme/things/a"),
    ("/acme/things/%61%20b%2Fc", "a b/c", "/acme/things/%61%20b%2Fc"),
    ("/acme/things/%E4%BD%A0", "你", "/acme/things/%E4%BD%A0"),
    ("/acme/things/~a;b=c,d", "~a;b=c,d", "/acme/things/~a;b=c,d"),
]


@pytest.mark.parametrize(("sent", "rest", "raw"), PATHS)
def test_the_path_is_known_as_it_was_sent(app: Flask, sent: str, rest: str, raw: str) -> None:
    assert send(app, "GET", sent) == (200, {"rest": rest, "raw": raw})


def test_the_path_is_known_as_it_was_sent_behind_the_real_server(app: Flask) -> None:
    import http.client

    server = HttpServer(app, threads=2)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        for sent, rest, raw in PATHS:
            connection.request("GET", sent, headers={"X-User": "me"})
            assert json.loads(connection.getresponse().read()) == {"rest": rest, "raw": raw}
    finally:
        connection.close()
        server.close()


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[1e999]", '{"a": "\\u0000"}', '["\\udfff"]', "[" * 100_000])
def test_json_beyond_the_standard_is_refused(text: str) -> None:
    with pytest.raises(LocalmlError) as failure:
        parse_json(text.encode())
    assert failure.value.field == "body"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(TEXT, JSON, max_size=3))
@settings(max_examples=50)
def test_all_other_json_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=40))
@settings(max_examples=100)
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    with suppress(LocalmlError):
        parse_json(data)


def test_failures_of_the_core_name_the_vendors_members() -> None:
    with pytest.raises(LocalmlError) as failure, renamed(cpu="cpu_limit"):
        raise LocalmlError(Code.CAPACITY, "cpu: too much", field="cpu", details={"asked": 3})
    assert (failure.value.message, failure.value.field) == ("cpu_limit: too much", "cpu_limit")
    assert failure.value.details == {"asked": 3}
    with pytest.raises(LocalmlError, match="gpu: too much"), renamed(cpu="cpu_limit"):
        raise LocalmlError(Code.CAPACITY, "gpu: too much", field="gpu")
