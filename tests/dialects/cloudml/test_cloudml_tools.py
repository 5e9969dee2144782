"""Development environments and tensorboards: what becomes of the members of a request, and what clients read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.cloudml import SignedClient
from helpers.rig import wait_until

from localml.core.work.states import ACTIVE, Kind, State
from localml.core.work.workloads import Full, Query
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

DEV = {"dev_name": "lab", "password": "open-sesame", "cpu_limit": "1", "memory_limit": "1G", "enable_rank": 0}
BOARD = {"tensorboard_name": "board", "logdir": "fds://runs/mnist", "enable_rank": 0}
PRINTED = {"password", "notebook_port", "ssh_port", "address", "ssh_address", "proxy_whitelist", "network"}
PRINTED |= {"fds_endpoint", "fds_bucket", "hdfs_krb_account", "hdfs_endpoint"}
"""What the published client prints of an environment, without asking whether it is there."""
BOARD_PRINTED = {"docker_image", "docker_command", "framework", "framework_version", "fds_endpoint", "fds_bucket"}
"""The same of a tensorboard."""


@pytest.fixture(autouse=True)
def _all_is_over_afterwards(platform: Platform) -> Iterator[None]:
    """What was deleted has really ended before the next test counts what is used."""
    yield

    def over() -> bool:
        platform.reconciler.tick()
        platform.clock.advance(30)  # type: ignore[attr-defined]
        return not platform.workloads.page(Query(states=tuple(ACTIVE), deleted=True)).items

    wait_until(over)


@pytest.fixture
def running(platform: Platform) -> Callable[[Kind], Full]:
    """Lets the control loop run until the one workload of a kind does."""

    def run(kind: Kind) -> Full:
        def started() -> bool:
            platform.reconciler.tick()
            [row] = platform.workloads.page(Query(kinds=(kind,))).items
            return row.state is State.RUNNING

        wait_until(started)
        [row] = platform.workloads.page(Query(kinds=(kind,))).items
        return platform.workloads.get(row.id or 0)

    return run


def test_an_environment_that_runs_says_where_it_is_and_how_to_open_it(
    client: SignedClient, running: Callable[[Kind], Full]
) -> None:
    made = client.post("/dev", DEV).json
    assert set(made) >= PRINTED
    assert (made["state"], made["notebook_port"], made["address"], made["url"]) == ("pending", "", "", None)
    running(Kind.NOTEBOOK)
    for found in (client.get("/dev/lab").json, *client.get("/dev").json["data"]):
        port = found["notebook_port"]
        assert int(port) > 0
        assert (found["state"], found["address"], found["ssh_port"]) == ("running", f"127.0.0.1:{port}", "")
        assert found["password"] == "open-sesame"
        assert found["url"] == f"http://127.0.0.1:{port}/lab?token=open-sesame"
        assert found["network"][0] == {
            "protocol": "JUPYTER", "port": 8888, "address": f"127.0.0.1:{port}", "whitelist": [],
        }  # fmt: skip


def test_the_password_is_the_token_and_is_not_kept_readable(
    client: SignedClient, platform: Platform, engine: FakeEngine, running: Callable[[Kind], Full]
) -> None:
    client.post("/dev", DEV)
    full = running(Kind.NOTEBOOK)
    assert "open-sesame" not in full.spec.model_dump_json() + str(full.request)
    assert engine._world.replicas[full.attempts[0].name].plan.env["JUPYTER_TOKEN"] == "open-sesame"
    assert [mount.source for mount in full.spec.mounts] == ["workspace:lab"]


def test_a_colleague_does_not_see_the_password(
    client: SignedClient, platform: Platform, running: Callable[[Kind], Full]
) -> None:
    client.post("/dev", DEV)
    client.post("/tensorboard", BOARD)
    for kind in (Kind.NOTEBOOK, Kind.TENSORBOARD):
        running(kind)
    cara = platform.identity.create_user("cara", "secret", org="default")  # an editor
    colleague = SignedClient(*platform.identity.create_key(cara), client.send)
    for one in (colleague.get("/dev/lab").json, *colleague.get("/dev").json["data"]):
        assert (one["password"], one["url"]) == ("******", f"http://{one['address']}")
    board = colleague.get("/tensorboard/board").json
    assert "token" not in board["address"] + board["url"]
    assert client.get("/dev/lab").json["password"] == "open-sesame"
    assert "open-sesame" in client.get("/dev/lab").json["url"]
    assert colleague.delete("/dev/lab").status == 200
    platform.identity.remove_user("cara")


def test_without_a_password_one_is_made_and_answered(client: SignedClient) -> None:
    body = {name: value for name, value in DEV.items() if name != "password"}
    made = client.post("/dev", body).json
    assert len(made["password"]) >= 32
    assert client.get("/dev/lab").json["password"] == made["password"]


def test_an_environment_counts_in_the_dev_quota_and_a_tensorboard_by_its_number(client: SignedClient) -> None:
    client.post("/dev", DEV | {"gpu_limit": "1"})
    client.post("/tensorboard", BOARD)
    [quota] = client.get("/quota").json
    assert (quota["dev_cpu_used"], quota["dev_memory_used"], quota["dev_gpu_used"]) == ("1.0", "1G 0M 0.0K", "1")
    assert (quota["dev_count_used"], quota["tensorboard_used"]) == ("1", "1")
    assert (quota["train_cpu_used"], quota["model_cpu_used"]) == ("0.0", "0.0")


def test_further_ports_are_published_and_whitelists_refused(
    client: SignedClient, running: Callable[[Kind], Full]
) -> None:
    network: list[dict[str, Any]] = [{"protocol": "JUPYTER", "port": 8888}, {"protocol": "TCP", "port": 5000}]
    assert client.post("/dev", DEV | {"network": network}).status == 200
    running(Kind.NOTEBOOK)
    [_, entry] = client.get("/dev/lab").json["network"]
    assert (entry["protocol"], entry["port"]) == ("TCP", 5000)
    assert int(entry["address"].rpartition(":")[2]) > 0
    network[1]["whitelist"] = ["0.0.0.0/0"]  # what the published client sends when it is given none
    made = client.post("/dev", DEV | {"dev_name": "open", "network": network})
    assert (made.status, made.json["network"][1]["whitelist"]) == (200, ["0.0.0.0/0"])
    network[1]["whitelist"] = ["10.0.0.0/8"]
    refused = client.post("/dev", DEV | {"dev_name": "other", "network": network})
    assert refused.status == 403
    assert refused.json["message"].startswith("Invalid argument: network: whitelists")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"dev_name": "No Spaces"}, "dev_name"),
        ({"password": "two words"}, "password"),
        ({"framework": "nothing"}, "framework"),
        ({"docker_command": "jupyter lab"}, "docker_command"),
        ({"mount_path": "/data"}, "volume_path"),
        ({"volume_path": "fds://b/../x", "mount_path": "/data"}, "volume_path"),
        ({"network": [{"protocol": "TCP", "port": 0}]}, "network.0.port"),
        ({"network": [{"protocol": "TCP", "port": 8888}]}, "network"),
        ({"network": [{"protocol": "JUPYTER", "port": 9999}]}, "network"),
        ({"network": [{"protocol": "TCP", "port": port} for port in range(1, 18)]}, "network"),
        ({"prepare_command": "true"}, "prepare_command"),
        ({"ceph_volume": "c", "ceph_mode": "rw"}, "ceph_volume"),
        ({"cpu_limit": "much"}, "cpu_limit"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_member_is_named(members: dict[str, Any], field: str, client: SignedClient) -> None:
    refused = client.post("/dev", DEV | members)
    assert refused.status == 403
    assert refused.json["message"].startswith(f"Invalid argument: {field}: ")
    assert client.get("/dev").json == {"data": []}


@pytest.mark.parametrize(
    ("framework", "image"), [("scikitlearn", "notebook"), ("torch", "notebook-pytorch"), (None, "notebook:latest")]
)
def test_a_notebook_has_the_framework_that_was_asked_for(
    client: SignedClient, platform: Platform, framework: str | None, image: str
) -> None:
    made = client.post("/dev", DEV | ({"framework": framework} if framework else {}))
    assert (made.status, made.json["software"]) == (200, framework or "scikitlearn")
    [row] = platform.workloads.page(Query(kinds=(Kind.NOTEBOOK,))).items
    [role] = platform.workloads.get(row.id or 0).spec.roles
    assert (role.image, role.command) == (f"localml/{image}", ("python", "-m", "localml_notebook"))


def test_a_name_in_use_is_refused_for_its_kind_only(client: SignedClient) -> None:
    assert client.post("/dev", DEV).status == 200
    assert client.post("/dev", DEV).status == 403
    assert client.post("/tensorboard", BOARD | {"tensorboard_name": "lab"}).status == 200
    assert client.get("/train").json == {"data": []}


def test_an_image_of_ones_own_is_run_with_ones_own_command(client: SignedClient, platform: Platform) -> None:
    body = DEV | {"docker_image": "jupyter/base:1", "docker_command": "start-notebook.sh", "framework": "torch"}
    made = client.post("/dev", body).json
    assert (made["docker_image"], made["software"], made["version"]) == ("jupyter/base:1", "torch", "2.13.0")
    [row] = platform.workloads.page(Query(kinds=(Kind.NOTEBOOK,))).items
    [role] = platform.workloads.get(row.id or 0).spec.roles
    assert (role.image, role.command) == ("jupyter/base:1", ("sh", "-c", "start-notebook.sh"))


def test_a_tensorboard_tells_its_address_once_it_has_one(
    client: SignedClient, platform: Platform, running: Callable[[Kind], Full]
) -> None:
    made = client.post("/tensorboard", BOARD).json
    assert set(made) >= BOARD_PRINTED
    assert (made["service_port"], made["address"]) == ("None", "127.0.0.1:None")
    full = running(Kind.TENSORBOARD)
    [found] = client.get("/tensorboard").json["data"]
    # any program of this machine reaches the port, and the address is all that the vendor's clients print
    token = engine_token(platform, full)
    assert len(token) >= 32
    assert found["address"] == f"127.0.0.1:{found['service_port']}/?token={token}"
    assert int(found["service_port"]) > 0
    assert full.spec.roles[0].env["LOCALML_LOGDIR"] == "runs/mnist"
    assert found["url"] == f"http://{found['address']}"


def test_others_can_open_a_tensorboard_only_with_its_token(
    client: SignedClient, platform: Platform, running: Callable[[Kind], Full], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(platform, "config", replace(platform.config, host="0.0.0.0"))
    client.post("/tensorboard", BOARD)
    full = running(Kind.TENSORBOARD)
    token = engine_token(platform, full)
    assert len(token) >= 32
    found = client.get("/tensorboard/board").json
    assert found["url"] == f"http://localhost:{found['service_port']}/?token={token}", (
        "by the name that it was asked by"
    )
    assert found["url"] == f"http://{found['address']}"


def engine_token(platform: Platform, full: Full) -> str:
    engine = platform.engine
    assert isinstance(engine, FakeEngine)
    return str(engine._world.replicas[full.attempts[0].name].plan.env["LOCALML_TOKEN"])


@pytest.mark.parametrize("query", ["?org_id=999", "?org_id="])
def test_another_organisations_tensorboards_are_not_there(query: str, client: SignedClient) -> None:
    client.post("/tensorboard", BOARD)
    for answer in (client.get(f"/tensorboard{query}"), client.delete(f"/tensorboard/board{query}")):
        assert (answer.status, answer.json["message"]) == (404, "TensorboardService doesn't exist")
    assert client.get("/tensorboard/board").status == 200


def test_events_of_an_environment_name_it(client: SignedClient) -> None:
    client.post("/dev", DEV)
    found = client.get("/dev/lab/events").json
    assert found["data"] == found["events"]
    assert found["data"][0]["reason"] == "Submitted"
    assert found["data"][0]["involvedObject"]["name"] == "lab"


def test_a_deleted_environment_ends_and_its_name_is_free(
    client: SignedClient, platform: Platform, running: Callable[[Kind], Full]
) -> None:
    client.post("/dev", DEV)
    full = running(Kind.NOTEBOOK)
    assert client.delete("/dev/lab").status == 200
    assert client.get("/dev/lab").status == 404

    def over() -> bool:
        platform.reconciler.tick()
        platform.clock.advance(30)  # type: ignore[attr-defined]
        return platform.workloads.row(full.row.id or 0).state is State.STOPPED

    wait_until(over)
    assert client.post("/dev", DEV).status == 200
