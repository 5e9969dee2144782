"""What a container can do to its machine, tried from inside."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import wait_until

from localml.engines.base import Phase, ReplicaPlan
from localml.engines.docker import DockerEngine
from localml.engines.docker.daemon import open_client

pytestmark = pytest.mark.docker

_CAPABILITIES = {"MKNOD": 27, "NET_RAW": 13, "NET_ADMIN": 12, "SYS_ADMIN": 21, "SYS_PTRACE": 19, "SYS_MODULE": 16}
"""Numbers of Linux capabilities that no container has."""


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with clean_engine() as made:
        yield made


@pytest.fixture(scope="module")
def api(engine: DockerEngine) -> Iterator[docker.APIClient]:
    client = open_client()
    yield client
    client.close()


def run(engine: DockerEngine, name: str, script: str, **plan: object) -> str:
    """What a script wrote, once it has ended."""
    start(engine, name, script, **plan)
    wait_until(lambda: engine.inspect(name).phase is Phase.EXITED, "the script's end")
    return b"".join(chunk.data for chunk in engine.logs(name, {}, follow=False)).decode()


def start(engine: DockerEngine, name: str, script: str, **plan: object) -> None:
    image = engine.resolve_image(tiny_image())
    engine.start(ReplicaPlan(name=name, image=image, command=("sh", "-c", script), **plan))  # type: ignore[arg-type]


def test_a_fork_bomb_ends_at_its_limit(engine: DockerEngine) -> None:
    bomb = "i=0; while [ $i -lt 300 ]; do sleep 600 & i=$((i+1)); done; wait"
    start(engine, "bomb", bomb, pids=40)

    def forked() -> int:
        usage = engine.stats("bomb")
        return usage.pids or 0 if usage is not None else 0

    try:
        wait_until(lambda: forked() >= 35 or engine.inspect("bomb").phase is Phase.EXITED, "the bomb")
        assert forked() <= 40
    finally:
        engine.stop("bomb", 0)


def test_a_container_is_root_of_nothing_but_itself(engine: DockerEngine) -> None:
    said = dict(line.split(":", 1) for line in run(engine, "status", "cat /proc/self/status").splitlines())
    assert said["NoNewPrivs"].strip() == "1"
    bounding = int(said["CapBnd"], 16)
    assert [name for name, number in _CAPABILITIES.items() if bounding >> number & 1] == []


def test_it_makes_no_devices_and_forges_no_packets(engine: DockerEngine) -> None:
    said = run(
        engine, "device", "mknod /tmp/disk b 8 0 && echo made; arping -c 1 -w 1 10.0.0.1; ls /var/run/docker.sock"
    )
    assert "made" not in said
    assert "docker.sock" not in said.replace("/var/run/docker.sock: No such file", "")


def test_it_shares_no_namespace_with_the_machine(engine: DockerEngine, api: docker.APIClient) -> None:
    start(engine, "quiet", "sleep 600", pids=100)
    try:
        [found] = api.containers(filters={"label": "localml.name=quiet"})
        host = api.inspect_container(found["Id"])["HostConfig"]
        assert (host["Privileged"], host["CapAdd"], host["Devices"] or [], host["PidMode"]) == (False, None, [], "")
        assert host["NetworkMode"] != "host"
        assert host["IpcMode"] in ("", "private")
        assert host["UTSMode"] == ""
        assert host["PidsLimit"] == 100
        assert host["SecurityOpt"] == ["no-new-privileges"]
    finally:
        engine.stop("quiet", 0)
