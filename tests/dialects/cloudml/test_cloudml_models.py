"""Model services: named by model and version, served by the gateway, counted in the model quota."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import ovmsclient
import pytest
from helpers.cloudml import SignedClient, over, put_trainer
from helpers.models import serving_environment, times
from helpers.rig import wait_until
from hypothesis import given
from hypothesis import strategies as st

from localml.config import Config
from localml.control.serving import gateway_process
from localml.core.errors import LocalmlError
from localml.core.serving.specs import EndpointState
from localml.core.serving.variants import ROUTE
from localml.dialects.cloudml.translate.services import STATE_WORDS, endpoint_name, route_name
from localml.engines.base import Phase
from localml.platform import Platform
from localml.server import Server

URI = "fds://cloud-ml-test/linear/model"
SERVICE = {
    "model_name": "linear",
    "model_version": "v1",
    "model_uri": URI,
    "enable_rank": 0,
    "save_mode": False,
    "cpu_limit": "1",
    "memory_limit": "512M",
}
PRINTED = {"model_uri", "model_args", "fds_endpoint", "fds_bucket", "replicas", "docker_image", "docker_command"}
"""What the published client prints without asking whether it is there."""


def test_a_service_is_answered_with_all_that_clients_print(client: SignedClient) -> None:
    made = client.post("/model", SERVICE).json
    assert set(made) >= PRINTED
    assert {name: made[name] for name in SERVICE} == SERVICE
    assert (made["state"], made["software"], made["replicas"]) == ("creating", "onnx", 1)
    assert made["address"] == f"127.0.0.1:{made['service_port']}"
    assert made["http_address"].startswith("http://127.0.0.1:")
    assert made["http_address"].endswith("/endpoints/linear.v1")
    assert client.get("/model/linear/v1").json == made
    assert client.get("/model").json == {"data": [made]}
    assert client.get("/model/linear/v1/logs").json == {"logs": ""}


def test_versions_live_side_by_side_and_a_pair_only_once(client: SignedClient) -> None:
    versions = ["v1", "v2", "2.0 beta ü"]
    for version in versions:
        assert client.post("/model", SERVICE | {"model_version": version}).status == 200
    again = client.post("/model", SERVICE)
    assert (again.status, again.json["message"]) == (
        403,
        "Invalid argument: model_version: there is a service of this model and version already.",
    )
    assert sorted(one["model_version"] for one in client.get("/model").json["data"]) == sorted(versions)
    for version in versions:
        assert client.get(f"/model/linear/{quote(version)}").json["model_version"] == version
    assert client.delete("/model/linear/v2").status == 200
    assert client.get("/model/linear/v2").status == 404


_ORGS = st.text(alphabet="ab._~-ü", min_size=1, max_size=4) | st.just("default")
_VERSIONS = st.text(alphabet="ab._~-ü 0F", min_size=1, max_size=6) | st.text(min_size=1, max_size=20)


@given(st.tuples(_ORGS, _VERSIONS), st.tuples(_ORGS, _VERSIONS))
def test_two_services_never_share_a_name_or_a_route(one: tuple[str, str], other: tuple[str, str]) -> None:
    try:
        names = [endpoint_name("m", version) for _, version in (one, other)]
    except LocalmlError:
        return
    assert len(set(names)) == len({one[1], other[1]})
    routes = {route_name(org, name) for (org, _), name in zip((one, other), names, strict=True)}
    assert len(routes) == len({one, other})
    assert all(ROUTE.fullmatch(route) or len(route) > 128 for route in routes)


def test_organisations_have_their_own_services_of_one_name(client: SignedClient, stranger: SignedClient) -> None:
    assert client.post("/model", SERVICE).status == 200
    assert stranger.get("/model/linear/v1").status == 404
    assert stranger.post("/model", SERVICE).status == 200
    mine, theirs = client.get("/model/linear/v1").json, stranger.get("/model/linear/v1").json
    assert mine["http_address"] != theirs["http_address"]
    assert mine["address"] != theirs["address"]
    assert stranger.delete("/model/linear/v1").status == 200
    assert client.get("/model/linear/v1").status == 200


def test_another_way_to_split_the_pair_is_another_service(client: SignedClient) -> None:
    client.post("/model", SERVICE | {"model_version": "v1.x"})
    assert client.get("/model/linear.v1/x").status == 404
    assert client.delete("/model/linear.v1/x").status == 404
    assert client.get("/model/linear/v1.x").status == 200


def test_documented_names_of_members_do_as_well(client: SignedClient) -> None:
    body = {name: value for name, value in SERVICE.items() if name != "model_uri"}
    made = client.post("/model", body | {"trainer_uri": URI, "job_args": "--fast"}).json
    assert (made["model_uri"], made["model_args"]) == (URI, "--fast")


def test_a_service_is_refused_when_the_model_quota_is_used_up(client: SignedClient, platform: Platform) -> None:
    platform.pools.set_limits("cloudml/model/default", cpu=2)
    try:
        refused = client.post("/model", SERVICE | {"replicas": 3})
        assert refused.status == 413
        assert client.get("/model").json == {"data": []}
    finally:
        platform.pools.set_limits("cloudml/model/default")


def test_the_model_quota_counts_what_was_asked_for_a_moment_ago(client: SignedClient, platform: Platform) -> None:
    platform.pools.set_limits("cloudml/model/default", cpu=2)
    try:
        assert client.post("/model", SERVICE | {"cpu_limit": "2"}).status == 200
        [quota] = client.get("/quota").json
        assert (quota["model_cpu_used"], quota["model_count_used"]) == ("2.0", "1")
        assert client.post("/model", SERVICE | {"model_version": "v2"}).status == 413
        platform.pools.set_limits("cloudml/model/default", max_workloads=3)
        assert client.post("/model", SERVICE | {"model_version": "v2", "replicas": 3}).status == 413
        assert client.post("/model", SERVICE | {"model_version": "v2", "replicas": 2}).status == 200
    finally:
        platform.pools.set_limits("cloudml/model/default")


@pytest.mark.parametrize("members", [{"gpu_limit": 1, "replicas": 3}, {"cpu_limit": "8", "replicas": 1000}])
def test_replicas_that_this_machine_never_has_room_for_are_413(members: dict[str, Any], client: SignedClient) -> None:
    refused = client.post("/model", SERVICE | members)
    assert (refused.status, "were asked for, this machine has" in refused.json["message"]) == (413, True)
    assert client.get("/model").json == {"data": []}


def test_services_of_the_same_files_share_one_copy(client: SignedClient, platform: Platform) -> None:
    def versions() -> int:
        return sum(len(found) for model, found in platform.registry.models() if model.name == "same")

    for _ in range(3):
        assert client.post("/model", SERVICE | {"model_name": "same"}).status == 200
        assert client.delete("/model/same/v1").status == 200
    assert versions() == 1
    assert client.post("/model", SERVICE | {"model_name": "same", "model_version": "a" * 200}).status == 403
    assert versions() == 1


def test_amounts_are_answered_as_their_type(client: SignedClient) -> None:
    assert client.post("/model", SERVICE | {"gpu_limit": "1"}).json["gpu_limit"] == 1


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"model_name": "No Spaces"}, "model_name"),
        ({"model_version": ""}, "model_version"),
        ({"model_version": "x" * 200}, "model_version"),
        ({"model_version": "a/b"}, "model_version"),
        ({"model_uri": None}, "model_uri"),
        ({"model_uri": "fds://b/../../x"}, "model_uri"),
        ({"model_uri": "fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz"}, "model_uri"),
        ({"docker_command": "serve"}, "docker_command"),
        ({"prepare_command": "true"}, "prepare_command"),
        ({"replicas": 0}, "replicas"),
        ({"volume_path": 5}, "volume_path"),
        ({"job_name": 7}, "job_name"),
        ({"cluster_env_var": {}}, "cluster_env_var"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_member_is_named(members: dict[str, Any], field: str, client: SignedClient, platform: Platform) -> None:
    put_trainer(platform.buckets, "fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz")
    refused = client.post("/model", SERVICE | members)
    assert refused.status == 403
    assert refused.json["message"].startswith(f"Invalid argument: {field}: ")
    assert client.get("/model").json == {"data": []}


def test_every_state_has_a_word() -> None:
    assert set(STATE_WORDS) == set(EndpointState)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Server, SignedClient]]:
    serving_environment(tmp_path / "cache")
    config = Config(tmp_path / "data", port=0, gateway_port=0, gpus="none", engine="process", cache=tmp_path / "cache")
    server = Server(Platform(config))
    server.start()
    given = server.platform.credentials
    client = SignedClient(given.access_key, given.secret_key, over(server.url))
    try:
        yield server, client
        for one in server.platform.endpoints.list(None, "cloudml"):
            server.platform.endpoints.delete(one.row.id or 0, server.platform.identity.user("admin"))
        wait_until(lambda: all(one.phase is not Phase.RUNNING for one in server.platform.engine.list().values()), 60)
    finally:
        server.close()
        gateway_process.stop(tmp_path / "data", timeout=2)


def test_a_service_really_predicts_and_its_events_and_log_tell_of_it(live: tuple[Server, SignedClient]) -> None:
    server, client = live
    with server.platform.buckets.open(f"{URI}/model.onnx", "wb") as file:
        file.write(times(3))
    assert client.post("/model", SERVICE).status == 200
    wait_until(lambda: bool(client.get("/model/linear/v1").json["state"] == "running"), 60)
    found = client.get("/model/linear/v1").json
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    url = f"{found['http_address']}/v2/models/linear.v1/infer"
    asked = Request(url, json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"})
    with urlopen(asked, timeout=60) as answer:
        assert json.load(answer)["outputs"][0]["data"] == [3.0, 6.0]
    events = client.get("/model/linear/v1/events").json
    assert {event["involvedObject"]["kind"] for event in events["data"]} == {"Deployment"}
    wait_until(lambda: bool(client.get("/model/linear/v1/logs").json["logs"]))
    assert client.get("/model/linear/v1/logs?replica=0").json["logs"]
    assert client.get("/model/linear/v1/logs?replica=1").status == 404
    [quota] = client.get("/quota").json
    assert (quota["model_cpu_used"], quota["model_count_used"]) == ("1.0", "1")
    assert client.delete("/model/linear/v1").status == 200


def test_each_version_is_asked_at_its_own_address(live: tuple[Server, SignedClient]) -> None:
    """The published client takes the address from the answer and sends the model's name alone."""
    server, client = live
    for version, factor in (("v1", 3), ("v2", 5)):
        with server.platform.buckets.open(f"s3://models/{version}/model.onnx", "wb") as file:
            file.write(times(factor))
        body = {**SERVICE, "model_version": version, "model_uri": f"s3://models/{version}"}
        assert client.post("/model", body).status == 200
    answers = []
    for version in ("v1", "v2"):
        path = f"/model/linear/{version}"
        wait_until(lambda path=path: bool(client.get(path).json["state"] == "running"), 60)
        grpc = ovmsclient.make_grpc_client(client.get(path).json["address"])
        answers.append(grpc.predict(inputs={"x": np.array([[1, 2]], "f4")}, model_name="linear", timeout=60).tolist())
    assert answers == [[[3, 6]], [[5, 10]]]
