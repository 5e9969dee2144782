"""GPUs, pools, objects, credentials and upkeep through our own API."""

from __future__ import annotations

import sqlite3

import httpx
import pytest
from helpers.native import Http, sh
from helpers.rig import wait_until

from localml.dialects import REGISTRY, Registered
from localml.testing import Localml


def test_where_the_data_lies_is_told_to_administrators(admin: Http, bob: Http, localml: Localml) -> None:
    assert admin("GET", "/status").json["data"] == str(localml.platform.data)
    told = bob("GET", "/status")
    assert (told.json["data"], str(localml.platform.data) in told.data.decode()) == (None, False)


def test_status_tells_the_installation_at_a_glance(admin: Http, localml: Localml) -> None:
    status = admin("GET", "/status").json
    assert status["url"] == localml.url
    assert (status["engine"], status["engine_up"], status["user"]) == ("process", True, "admin")
    assert {"pid", "gateway_url", "data", "install", "version", "uptime", "counts", "gpus", "drained"} <= set(status)


def test_a_leased_gpu_says_who_has_it(admin: Http) -> None:
    made = admin("POST", "/workloads", {"name": "holder", "spec": sh("sleep 600", resources={"gpu": 0.5})}).json
    wait_until(lambda: admin("GET", "/workloads/holder").json["state"] == "running")
    held = [one for one in admin("GET", "/gpus").json["gpus"] if one["leases"]]
    assert [(one["leases"][0]["name"], one["free"]) for one in held] == [("holder", 0.5)]
    admin("DELETE", f"/workloads/{made['id']}")
    admin("GET", f"/workloads/{made['id']}/wait?timeout=60")


def test_a_drained_gpu_is_marked_until_it_is_undrained(admin: Http) -> None:
    uuid = admin("POST", "/drain", {"gpu": "1", "reason": "loud fan"}).json["drained"]
    marked = [one for one in admin("GET", "/gpus").json["gpus"] if one["drained"]]
    assert [(one["uuid"], one["reason"]) for one in marked] == [(uuid, "loud fan")]
    assert admin("POST", "/undrain", {"gpu": uuid}).status == 200
    assert not any(one["drained"] for one in admin("GET", "/gpus").json["gpus"])


def test_a_drained_machine_says_so_and_starts_nothing(admin: Http) -> None:
    admin("POST", "/drain", {"reason": "holiday"})
    assert admin("GET", "/status").json["drained"]["reason"] == "holiday"
    number = admin("POST", "/workloads", {"spec": sh("true")}).json["id"]
    assert "holiday" in admin("GET", f"/workloads/{number}/why").json["why"]["message"]
    admin("POST", "/undrain", {})
    assert admin("GET", f"/workloads/{number}/wait?timeout=60").json["state"] == "succeeded"
    reasons = [one["reason"] for one in admin("GET", "/events").json["events"]]
    assert "Drained" in reasons
    assert "Undrained" in reasons


def test_limits_of_a_pool_hold_and_can_be_lifted(admin: Http) -> None:
    made = admin("PUT", "/pools/team/train", {"memory": "2G", "max_workloads": 0}).json
    assert (made["parent"], made["memory"], made["max_workloads"]) == ("team", 2 << 30, 0)
    number = admin("POST", "/workloads", {"spec": sh("true"), "pool": "team/train"}).json["id"]
    assert admin("GET", f"/workloads/{number}/why").json["why"]["code"] == "pool"
    admin("PUT", "/pools/team/train", {})
    assert admin("GET", f"/workloads/{number}/wait?timeout=60").json["state"] == "succeeded"


def test_a_pool_is_removed_once_nothing_uses_it(admin: Http, bob: Http) -> None:
    admin("PUT", "/pools/gone/soon", {"max_workloads": 0})
    number = admin("POST", "/workloads", {"spec": sh("true"), "pool": "gone/soon"}).json["id"]
    refused = admin("DELETE", "/pools/gone/soon")
    assert (refused.status, refused.json["error"]["details"]) == (409, {"workloads": 1})
    admin("POST", f"/workloads/{number}/stop")
    admin("GET", f"/workloads/{number}/wait?timeout=60")
    assert bob("DELETE", "/pools/gone/soon").status == 403
    assert admin("DELETE", "/pools/gone/soon").json == {"deleted": "gone/soon"}
    assert admin("DELETE", "/pools/gone/soon").status == 404


def test_objects_go_in_and_come_out(admin: Http) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    assert admin("PUT", "/objects/content?uri=fds://bucket/a/b.bin", data).json["size"] == len(data)
    assert admin("GET", "/objects/content?uri=s3://bucket/a/b.bin").data == data
    part = admin("GET", "/objects/content?uri=fds://bucket/a/b.bin", headers={"Range": "bytes=10-19"})
    assert (part.status, part.data) == (206, data[10:20])
    info = admin("GET", "/objects/info?uri=fds://bucket/a/b.bin").json
    assert (info["uri"], info["size"], info["is_folder"]) == ("fds://bucket/a/b.bin", len(data), False)
    listed = admin("GET", "/objects?uri=fds://bucket&recursive=true").json["objects"]
    assert [one["uri"] for one in listed] == ["fds://bucket/a", "fds://bucket/a/b.bin"]
    assert admin("DELETE", "/objects?uri=fds://bucket/a").json["error"]["code"] == "wrong_state"
    assert admin("DELETE", "/objects?uri=fds://bucket/a&recursive=true").status == 200
    assert admin("GET", "/objects/info?uri=fds://bucket/a").status == 404


@pytest.mark.parametrize("api", REGISTRY, ids=lambda one: one.name)
def test_credentials_for_every_api(admin: Http, localml: Localml, api: Registered) -> None:
    env = admin("GET", f"/env/{api.name}").json
    made = localml.platform.credentials
    scheme, _, place = env["url"].partition("://")
    credentials, _, place = place.rpartition("@")
    assert f"{scheme}://{place}" == localml.url
    assert credentials.partition(":")[0] == ("admin" if api.name == "mlbench" else "")
    assert env["endpoint"].startswith(localml.url)
    for name in ("access_key", "secret_key", "user", "password", "project_id", "token"):
        assert env[name] == getattr(made, name)
    assert env["variables"]
    assert env["served"] is bool(api.prefixes)
    for url in [localml.url + prefix for prefix in api.prefixes] or [env["endpoint"]]:
        own = "the APIs are below" in httpx.get(url, timeout=60).text  # the server's own words where no API is
        assert own is not env["served"]


def test_the_environment_has_the_gateway_s_address_where_it_listens_now(admin: Http, localml: Localml) -> None:
    """Its port is another one where the usual one was taken: examples with a number in them would ask somebody else."""
    gateway = localml.platform.serving.gateway
    gateway.ensure()
    wait_until(lambda: gateway.url is not None and gateway.listening, 30)
    for dialect, name in (("native", "LOCALML_GATEWAY_URL"), ("wmla", "WMLA_INFERENCE_URL")):
        assert admin("GET", f"/env/{dialect}").json["variables"][name] == gateway.url


def test_a_backup_is_a_database_of_its_own(admin: Http) -> None:
    admin("POST", "/workloads", {"name": "kept", "spec": sh("true")})
    made = admin("POST", "/backup").json
    connection = sqlite3.connect(made["path"])
    try:
        assert connection.execute("SELECT count(*) FROM workload WHERE name = 'kept'").fetchone() == (1,)
    finally:
        connection.close()


def test_the_document_describes_the_routes(admin: Http, localml: Localml) -> None:
    document = Http(localml.url, {})("GET", "/openapi.json").json
    paths = document["paths"]
    assert "post" in paths["/localml/v1/workloads"]
    assert "401" in paths["/localml/v1/workloads"]["get"]["responses"]


def test_runtimes_are_listed(admin: Http) -> None:
    listed = {one["name"]: one for one in admin("GET", "/images").json["images"]}
    assert listed["base"]["default"] is True


def test_an_object_larger_than_other_bodies_goes_up_and_comes_back(admin: Http) -> None:
    data = bytes(range(256)) * (40 << 12)
    stored = admin("PUT", "/objects/content?uri=fds://large/object", data)
    assert (stored.status, stored.json["size"]) == (201, 40 << 20)
    assert admin("GET", "/objects/content?uri=fds://large/object").data == data
