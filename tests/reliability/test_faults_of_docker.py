"""The Docker daemon fails under a running server, or people do: every job ends rightly, and nothing is left."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.faulty_daemon import (
    CLOSE_AFTER,
    CLOSE_BEFORE,
    HANG,
    Fault,
    FaultyDaemon,
    answer,
    cut,
    delay,
    faulty_daemon,
)
from helpers.private_daemon import remove_all
from helpers.records import Records
from helpers.server_process import Api, Running, servers

from localml.engines.docker import docker_available
from localml.engines.docker.daemon import open_client

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

LINES = 40
OUTPUT = b"".join(b"line %d\n" % number for number in range(LINES)) + b"end"
WRITES = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); usleep 10000; done; printf end"
ENDLESS = "echo begun; trap 'echo ended; exit 0' TERM; sleep 600 & wait"

INTERNAL, INTERNAL_ACTED = answer(500, "internal error"), answer(500, "internal error", acted=True)
NOT_FOUND = answer(404, "No such container: it")
REMOVING = answer(409, "removal of container it is already in progress")
CREATE, START = ("POST", "/containers/create"), ("POST", r"/containers/\w+/start")
INSPECT, LIST = ("GET", r"/containers/[^/]+/json"), ("GET", r"/containers/json")
STOP, REMOVE = ("POST", r"/containers/[^/]+/stop"), ("DELETE", r"/containers/")
LOGS = ("GET", "/logs")


@dataclass
class Scene:
    """A server, the daemon that fails it, and the real one."""

    proxy: FaultyDaemon
    server: Running
    client: docker.APIClient
    records: Records

    @property
    def api(self) -> Api:
        return self.server.api

    def submit(self, script: str, **fields: Any) -> int:
        role = {"image": tiny_image(), "command": ["sh", "-c", script], "resources": {"gpu": 1}}
        return self.api.submit(f"job-{secrets.token_hex(4)}", {"roles": [role], "stop_grace": 5, **fields})

    def container(self, number: int) -> str:
        """The id of a workload's container, once it runs and has written something."""
        wait_until(lambda: self.api.log(number, stream="stdout"), "output")
        rows = self.client.containers(filters={"label": f"localml.name={self.name(number)}"})
        return str(rows[0]["Id"])

    def name(self, number: int) -> str:
        return str(self.records.attempts(number)[-1]["name"])

    def runs(self, container: str) -> bool:
        return bool(self.client.inspect_container(container)["State"]["Running"])

    def check_nothing_left(self) -> None:
        """The GPU is free, and no container is left."""
        wait_until(lambda: self.api.get("/gpus")["gpus"][0]["leases"] == [], "the GPU's return")
        filters = {"label": f"localml.install={self.records.install()}"}
        wait_until(lambda: not self.client.containers(all=True, filters=filters), "the removal of containers")

    def told(self) -> list[str]:
        return [event["reason"] for event in self.api.get("/events")["events"]]


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if reason := docker_available():
        pytest.skip(reason)
    data, client = tmp_path_factory.mktemp("faults") / "data", open_client()
    tiny_image()
    with pytest.MonkeyPatch.context() as monkeypatch, faulty_daemon(monkeypatch) as proxy:
        with servers(data, engine="docker", gpus="simulated:1") as found:
            made = Scene(proxy, found.start(), client, Records(data))
            yield made
        proxy.mend()
    remove_all(made.records.install())
    client.close()


@pytest.fixture
def scene(one_server: Scene) -> Iterator[Scene]:
    yield one_server
    one_server.proxy.mend()
    for number, _ in one_server.records.active():
        one_server.api.post(f"/workloads/{number}/stop")
    one_server.check_nothing_left()


SHORT = [
    (INTERNAL, CREATE, "create", 1),
    (INTERNAL_ACTED, START, "start", 1),
    (CLOSE_AFTER, START, "start", 1),
    (INTERNAL, INSPECT, "inspect", 2),
    (NOT_FOUND, INSPECT, "inspect", 2),
    (INTERNAL, LOGS, "logs", 1),
    (cut(300), LOGS, "logs", 1),
    (REMOVING, REMOVE, "remove", 1),
]
MORE = [
    (INTERNAL_ACTED, CREATE, "create", 1),
    (CLOSE_AFTER, CREATE, "create", 1),
    (INTERNAL, START, "start", 1),
    (NOT_FOUND, START, "start", 1),
    (INTERNAL, INSPECT, "inspect", 1),
    (cut(100), INSPECT, "inspect", 2),
    (NOT_FOUND, LOGS, "logs", 1),
    (INTERNAL, LOGS, "logs", 2),
    (INTERNAL, REMOVE, "remove", 1),
    (CLOSE_AFTER, REMOVE, "remove", 1),
    (delay(1.0), (".*", "/containers"), "all", 1),
]
ONCE = [
    pytest.param(fault, *calls, nth, id=f"{fault.name} {word} {nth}", marks=marks)
    for faults, marks in ((SHORT, ()), (MORE, pytest.mark.long))
    for fault, calls, word, nth in faults
]


@pytest.mark.parametrize(("fault", "method", "path", "nth"), ONCE)
def test_a_job_survives_one_fault(scene: Scene, fault: Fault, method: str, path: str, nth: int) -> None:
    scene.proxy.fail(fault, method, path, nth=nth)
    number = scene.submit(WRITES)
    over = scene.api.wait_over(number)
    assert (over["state"], over["attempt"]) == ("succeeded", 1), over["message"]
    assert scene.api.log(number, stream="stdout") == OUTPUT
    scene.check_nothing_left()


@pytest.mark.parametrize("fault", [INTERNAL, NOT_FOUND, CLOSE_BEFORE], ids=["500", "404", "close"])
def test_a_stop_survives_one_fault(scene: Scene, fault: Fault) -> None:
    number = scene.submit(ENDLESS, stop_grace=2)
    scene.container(number)
    scene.proxy.fail(fault, *STOP)
    scene.api.post(f"/workloads/{number}/stop")
    assert scene.api.wait_over(number)["state"] == "stopped"
    assert scene.api.log(number, stream="stdout") == b"begun\nended\n"


def test_a_start_that_is_never_possible_ends_with_the_daemons_words(scene: Scene) -> None:
    scene.proxy.fail(INTERNAL, *START, times=None)
    over = scene.api.wait_over(scene.submit(WRITES))
    assert (over["state"], over["cause"]) == ("failed", "start_failed")
    assert "internal error" in over["message"]


# what people do by hand


def test_a_renamed_container_is_what_it_was(scene: Scene) -> None:
    number = scene.submit(ENDLESS)
    container = scene.container(number)
    scene.client.rename(container, f"by-hand-{secrets.token_hex(4)}")
    scene.client.kill(container, signal="TERM")
    over = scene.api.wait_over(number)
    assert (over["state"], over["attempt"]) == ("succeeded", 1)
    assert scene.api.log(number, stream="stdout") == b"begun\nended\n"


def test_a_renamed_container_is_stopped_before_its_gpu_is_given_away(scene: Scene) -> None:
    number = scene.submit(ENDLESS)
    container = scene.container(number)
    scene.client.rename(container, f"by-hand-{secrets.token_hex(4)}")
    scene.api.post(f"/workloads/{number}/stop")
    assert scene.api.wait_over(number)["state"] == "stopped"
    running = [row["Id"] for row in scene.client.containers()]
    assert container not in running
    assert scene.api.log(number, stream="stdout") == b"begun\nended\n"


def test_a_container_that_somebody_removed_is_lost_and_its_output_stays(scene: Scene) -> None:
    number = scene.submit(ENDLESS)
    container = scene.container(number)
    scene.client.remove_container(container, force=True)
    wait_until(lambda: scene.records.attempts(number)[0]["state"] == "ended", "the end of the first try")
    first = scene.records.attempts(number)[0]
    assert first["cause"] == "engine_lost", first["message"]
    assert scene.records.log(number, first["name"], "stdout") == b"begun\n"
    wait_until(lambda: len(scene.records.attempts(number)) > 1, "another try")


def test_a_paused_container_runs_and_is_stopped(scene: Scene) -> None:
    number = scene.submit(ENDLESS, stop_grace=1)
    scene.client.pause(scene.container(number))
    assert scene.api.get(f"/workloads/{number}")["state"] == "running"
    scene.api.post(f"/workloads/{number}/stop")
    assert scene.api.wait_over(number)["state"] == "stopped"


def test_a_container_that_somebody_restarts_has_one_end(scene: Scene) -> None:
    """Whether its first end is seen, or not: no GPU is given away that a program goes on using."""
    number = scene.submit(ENDLESS)
    container = scene.container(number)
    scene.client.restart(container, timeout=5)
    wait_until(lambda: b"begun\nended\nbegun\n" in scene.api.log(number, stream="stdout"), "the second begin")
    if not scene.api.get("/gpus")["gpus"][0]["leases"]:  # its first end was seen
        wait_until(lambda: not scene.runs(container), "the end of what has no GPU any more")
    scene.api.call("POST", f"/workloads/{number}/stop")
    over = scene.api.wait_over(number)
    assert (over["state"], over["attempt"]) in (("stopped", 1), ("succeeded", 1))


def test_what_somebody_starts_again_after_its_end_is_stopped(scene: Scene) -> None:
    """Its gang goes on, so that its container stays for a while."""
    roles = [
        {"name": name, "image": tiny_image(), "command": ["sh", "-c", script], "resources": {"gpu": gpu}}
        for name, script, gpu in (
            ("short", "[ -e /tmp/again ] && sleep 600; touch /tmp/again", 1),
            ("long", ENDLESS, 0),
        )
    ]
    number = scene.api.submit(f"gang-{secrets.token_hex(4)}", {"roles": roles, "stop_grace": 5})

    def first() -> dict[str, Any]:
        return next(one for one in scene.records.attempts(number) if one["role"] == "short")

    wait_until(lambda: scene.records.attempts(number) and first()["state"] == "ended", "its end")
    scene.client.start(first()["name"])
    assert scene.runs(first()["name"])
    wait_until(lambda: not scene.runs(first()["name"]), "its second end")
    assert scene.api.get(f"/workloads/{number}")["state"] == "running"


# silence


def test_a_silent_daemon_holds_up_nobody(scene: Scene) -> None:
    runs, waits = scene.submit(ENDLESS), scene.submit("echo never")
    scene.container(runs)
    scene.proxy.fail(HANG, ".*", "", times=None)
    began = time.monotonic()
    wait_until(lambda: scene.told()[-1:] == ["EngineUnreachable"], "notice of the silence")
    assert time.monotonic() - began < 15  # the next look at all containers, and the wait for its answer

    asked = time.monotonic()
    later = scene.submit("echo came later")
    assert scene.api.get(f"/workloads/{later}/why")
    assert not scene.api.get("/status")["engine_up"]
    with urllib.request.urlopen(_health(scene), timeout=5) as found:
        assert found.status == 200
    assert time.monotonic() - asked < 3
    scene.api.post(f"/workloads/{waits}/stop")
    assert scene.api.wait_over(waits)["state"] == "stopped"  # what only waits needs no engine
    assert time.monotonic() - asked < 15
    scene.api.post(f"/workloads/{runs}/stop")
    assert scene.api.get(f"/workloads/{runs}")["state"] in ("running", "stopping")

    scene.proxy.mend()
    assert scene.api.wait_over(runs)["state"] == "stopped"
    assert scene.api.wait_over(later)["state"] == "succeeded"
    assert scene.told()[-1:] == ["EngineAnswers"]


def _health(scene: Scene) -> str:
    return f"http://{scene.api._pool.host}:{scene.api._pool.port}/healthz"
