"""What the service is set to."""

from __future__ import annotations

from collections.abc import Callable

from helpers.wmla import WmlaClient

from localml import __version__
from localml.core.people.scopes import Scope
from localml.platform import Platform


def test_settings_are_texts_by_name(client: WmlaClient) -> None:
    answer = client.get("/conf")
    assert answer.status == 200
    found = answer.json
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in found.items())
    assert found["MSD_ENABLED"] == "true"  # what the vendor's command line asks first
    assert found["DLI_REST_URL"].endswith("/platform/rest/deeplearning/v1")
    assert (found["LOCALML_VERSION"], found["LOCALML_ENGINE"], found["LOCALML_CPUS"]) == (__version__, "fake", "8")
    assert (found["LOCALML_GPUS"], found["LOCALML_MEMORY"]) == ("2", str(16 << 30))
    assert found["LOCALML_NO_AUTH"] == "false"


def test_nothing_in_it_is_secret(client: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient]) -> None:
    text = client.get("/conf").data.decode()
    kept = platform.credentials
    for secret in (kept.password, kept.token, kept.secret_key, kept.access_key, str(platform.data)):
        assert secret not in text
    assert new_user("eve").get("/conf").json == client.get("/conf").json


def test_it_is_for_those_who_are_known(client: WmlaClient, nobody: WmlaClient, platform: Platform) -> None:
    assert nobody.get("/conf").status == 401
    admin = platform.identity.user("admin")
    token = platform.identity.create_token(admin, scope=Scope.of(["workload:create"]))
    assert nobody.call("GET", "/conf", X_Auth_Token=token).status == 403
    assert client.post("/conf", {}).status == 405
