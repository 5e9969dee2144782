"""Who calls: Basic with every request, or a token that was got by logging on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from helpers.cloudml import Answer, into, over
from helpers.wmla import WmlaClient
from ibm_wmla.wmla_api_v1 import DeepLearningImpactV1

from localml.config import Config
from localml.core.clock import ManualClock
from localml.dialects.wmla import create_app
from localml.dialects.wmla.routes.logon import LIFETIME_S
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server

LOGON, LOGOFF = "/auth/v1/logon", "/auth/v1/logoff"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def ask(app: Flask) -> Callable[..., Answer]:
    send = into(app)
    return lambda method, path, **headers: send(
        method, path, {name.replace("_", "-"): value for name, value in headers.items()}, b""
    )


@pytest.fixture
def token(platform: Platform, ask: Callable[..., Answer]) -> str:
    answer = ask("GET", LOGON, **basic("admin", platform.credentials.password))
    assert answer.status == 200, answer.data
    assert set(answer.json) == {"accessToken"}
    return str(answer.json["accessToken"])


CONF = "/platform/rest/deeplearning/v1/conf"


def test_a_token_is_taken_in_either_header(token: str, ask: Callable[..., Answer]) -> None:
    assert ask("GET", CONF, Authorization=f"Bearer {token}").status == 200
    assert ask("GET", CONF, X_Auth_Token=token).status == 200


def test_it_is_good_for_twelve_hours(token: str, ask: Callable[..., Answer], clock: ManualClock) -> None:
    clock.advance(LIFETIME_S - 1)
    assert ask("GET", CONF, X_Auth_Token=token).status == 200
    clock.advance(1)
    assert ask("GET", CONF, X_Auth_Token=token).status == 401
    assert ask("GET", CONF, Authorization=f"Bearer {token}").status == 401


def test_logging_off_ends_it(token: str, ask: Callable[..., Answer]) -> None:
    answer = ask("POST", LOGOFF, Authorization=f"Bearer {token}")
    assert (answer.status, answer.json) == (200, {})
    assert ask("GET", CONF, Authorization=f"Bearer {token}").status == 401
    assert ask("POST", LOGOFF, Authorization=f"Bearer {token}").status == 401


def test_logging_off_ends_no_other_token(platform: Platform, ask: Callable[..., Answer]) -> None:
    own = platform.credentials.token
    assert ask("POST", LOGOFF, X_Auth_Token=own).status == 200
    assert ask("POST", LOGOFF, **basic("admin", platform.credentials.password)).status == 200
    assert ask("GET", CONF, X_Auth_Token=own).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nothing"},
        {"Authorization": "Galaxy V3 x"},
        {"X_Auth_Token": ""},
        {"X_Auth_Token": "nothing"},
        basic("admin", "wrong"),
        basic("nobody", "wrong"),
    ],
    ids=str,
)
def test_other_credentials_are_none(headers: dict[str, str], ask: Callable[..., Answer]) -> None:
    for path in (LOGON, CONF):
        answer = ask("GET", path, **headers)
        assert answer.status == 401
        assert answer.json["error"]
        assert answer.headers["Content-Type"] == "application/json"


def test_a_bearer_token_goes_before_the_other_header(token: str, ask: Callable[..., Answer]) -> None:
    assert ask("GET", CONF, Authorization="Bearer nothing", X_Auth_Token=token).status == 401
    assert ask("GET", CONF, Authorization="Bearer " + token, X_Auth_Token="nothing").status == 200


def test_a_token_that_is_good_for_reading_alone_gets_no_other(
    platform: Platform, ask: Callable[..., Answer], new_user: Callable[[str], WmlaClient]
) -> None:
    from localml.core.people.scopes import Scope

    new_user("eve")
    eve = platform.identity.user("eve")
    scoped = platform.identity.create_token(eve, scope=Scope.of(["read"]))
    assert ask("GET", CONF, X_Auth_Token=scoped).status == 200
    assert ask("GET", LOGON, X_Auth_Token=scoped).status == 403


def test_a_new_password_ends_what_was_got_with_the_old_one(
    platform: Platform, ask: Callable[..., Answer], new_user: Callable[[str], WmlaClient]
) -> None:
    new_user("ida")
    token = ask("GET", LOGON, **basic("ida", "secret1")).json["accessToken"]
    assert ask("GET", CONF, X_Auth_Token=token).status == 200
    platform.identity.set_password("ida", "secret2")
    assert ask("GET", CONF, X_Auth_Token=token).status == 401
    assert ask("GET", LOGON, **basic("ida", "secret2")).status == 200


@pytest.fixture
def unguarded(tmp_path: pytest.TempPathFactory) -> Iterator[Platform]:
    clock = ManualClock(1700000000.0)
    config = Config(tmp_path / "data", engine="fake", gpus="none", auth=False, port=0)  # type: ignore[operator]
    opened = Platform(config, engine=FakeEngine(clock), clock=clock)
    yield opened
    opened.close()


def test_without_authentication_everybody_is_the_administrator(unguarded: Platform) -> None:
    send = into(create_app(unguarded))
    assert send("GET", CONF, {}, b"").status == 200
    token = send("GET", LOGON, {}, b"").json["accessToken"]
    assert unguarded.identity.by_token(token).name == "admin"


def test_the_variables_that_env_prints_are_those_that_the_vendors_client_reads(
    server: Server, live: WmlaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = {"Authorization": f"Bearer {server.platform.credentials.token}"}
    printed = json.loads(over(server.url)("GET", "/localml/v1/env/wmla", bearer, b"").data)
    assert printed["served"] is True
    for name, value in printed["variables"].items():
        monkeypatch.setenv(name, value)
    found = DeepLearningImpactV1.new_instance().get_deep_learning_conf()
    assert found.get_status_code() == 200
    assert found.get_result() == live.get("/conf").json
    answer = over(server.url)(
        "GET", printed["variables"]["WMLA_REST_URL"].removeprefix(server.url) + "/conf", bearer, b""
    )
    assert answer.status == 200
