"""What a job may ask of the machine: processes and threads up to a limit, ports that are not the system's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import into
from helpers.openpai import PaiClient, role
from helpers.rig import wait_until

from localml.config import Config
from localml.control.jobs.hostports import is_free
from localml.control.serving import gateway_process
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.work.specs import PIDS, Port, Resources, Role, WorkloadSpec, most_pids
from localml.core.work.states import State
from localml.core.work.workloads import Submission
from localml.dialects import native
from localml.dialects.openpai import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    data = tmp_path_factory.mktemp("boxes")
    config = Config(data, engine="fake", gpus="none", cpus=64, port=7070, gateway_port=0)  # nobody listens there
    opened = Platform(config)
    opened.start()
    opened.identity.create_user("user", "a password", admin=False)
    yield opened
    opened.close()
    gateway_process.stop(config.data, timeout=2)


@pytest.fixture
def user(platform: Platform) -> Caller:
    return platform.identity.user("user")


def submit(platform: Platform, caller: Caller, **role_: Any) -> int:
    spec = WorkloadSpec(roles=(Role(command=("run",), env={"FAKE_SECONDS": "600"}, **role_),))
    return platform.workloads.submit(Submission(name=f"job-{next(_NUMBERS)}", spec=spec, caller=caller))


def plan_of(platform: Platform, number: int) -> Any:
    wait_until(lambda: platform.workloads.get(number).row.state is State.RUNNING)
    engine = platform.engine
    assert isinstance(engine, FakeEngine)
    return engine._world.replicas[platform.workloads.get(number).attempts[0].name].plan


@pytest.mark.parametrize("port", [Port(label="p", host=80), Port(label="p", host=1023), Port(label="p", prefer=22)])
def test_the_systems_ports_are_for_administrators(platform: Platform, user: Caller, port: Port) -> None:
    with pytest.raises(LocalmlError, match=r"ports: .*1024") as refused:
        submit(platform, user, ports=(port,))
    assert (refused.value.code, refused.value.field) == (Code.INVALID, "ports")
    assert submit(platform, platform.identity.user("admin"), ports=(port,))
    assert submit(platform, user, ports=(Port(label="p", container=80), Port(label="q", host=20_001)))


def test_nobody_waits_for_the_server_at_its_own_door(platform: Platform, user: Caller) -> None:
    for caller in (user, platform.identity.user("admin")):
        for port in (Port(label="p", host=platform.config.port), Port(label="p", prefer=platform.config.port)):
            with pytest.raises(LocalmlError, match=r"ports: .* localml's own"):
                submit(platform, caller, ports=(port,))


def test_openpai_names_its_own_member(platform: Platform) -> None:
    platform.pools.set_limits("openpai/default")
    client = PaiClient(into(create_app(platform))).login("user", "a password")
    asked = {"jobName": "low", "taskRoles": [role(portList=[{"label": "web", "beginAt": 80, "portNumber": 1}])]}
    answer = client.post("/jobs", asked)
    assert (answer.status, "portList: port 80" in answer.json["message"]) == (400, True), answer.data


def test_an_endpoints_own_port_is_none_of_the_systems_either(platform: Platform, user: Caller) -> None:
    send = into(native.create_app(platform))
    low = next(port for port in range(1023, 0, -1) if is_free(port))

    def create(caller: Caller) -> Any:
        token = platform.identity.create_token(caller)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = {"name": "low", "image": "their/server:1", "gateway_port": low}
        return send("POST", "/localml/v1/endpoints", headers, json.dumps(body).encode())

    refused = create(user)
    assert (refused.status, refused.json["error"]["field"]) == (400, "gateway_port")
    assert "1024" in refused.json["error"]["message"]
    assert create(platform.identity.user("admin")).status == 201


def test_every_container_has_a_limit_of_processes_and_nobody_asks_it_away(platform: Platform, user: Caller) -> None:
    assert plan_of(platform, submit(platform, user)).pids == PIDS
    assert plan_of(platform, submit(platform, user, resources=Resources(pids=100))).pids == 100
    with pytest.raises(LocalmlError, match=f"pids: at most {most_pids()}") as refused:
        submit(platform, user, resources=Resources(pids=most_pids() + 1))
    assert (refused.value.code, refused.value.field) == (Code.INVALID, "pids")
    assert submit(platform, platform.identity.user("admin"), resources=Resources(pids=most_pids() + 1))


def test_the_limit_leaves_the_machine_most_of_its_threads(tmp_path: Path) -> None:
    setting = tmp_path / "threads-max"
    setting.write_text("1000000\n")
    assert most_pids(setting) == 125_000
    setting.write_text("8000\n")
    assert most_pids(setting) == PIDS
    assert most_pids(tmp_path / "missing") == PIDS


@pytest.mark.parametrize("source", ["/var/run/docker.sock", "/run", "/", "/dev", "/proc", "/sys/fs/cgroup"])
def test_the_machines_own_files_are_not_a_users_to_mount(platform: Platform, user: Caller, source: str) -> None:
    mount = {"source": source, "target": "/x"}
    spec = WorkloadSpec.model_validate({"roles": [{"command": ["run"]}], "mounts": [mount]})
    with pytest.raises(LocalmlError, match="mounts: ") as refused:
        platform.workloads.submit(Submission(name="m", spec=spec, caller=user))
    assert (refused.value.code, refused.value.field) == (Code.FORBIDDEN, "mounts")


@pytest.mark.parametrize(
    "member", ["privileged", "network", "pid", "ipc", "cap_add", "devices", "security_opt", "user"]
)
def test_no_role_asks_for_more_of_the_machine(member: str) -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        WorkloadSpec.model_validate({"roles": [{"command": ["run"], member: True}]})
