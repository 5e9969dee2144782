"""The next start finds another engine: what the first one has is never taken for gone, and runs only once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.private_daemon import PrivateDaemon, private_daemon, remove_all
from helpers.server_process import Api, Servers, servers

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

BEGINS = "echo began >> {shared}/begun; while [ ! -e {shared}/enough ]; do sleep 0.05; done"
"""Tells each time that it begins, wherever it runs."""


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path_factory.mktemp("dockerd"), monkeypatch) as found:
        yield found


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


PROCESSES: dict[str, Any] = {"engine": "process", "images": {"*": "host"}}
"""Child processes, for which the image of the tests is this machine's Python."""


def _server(data: Path, **settings: Any) -> Servers:
    return Servers(data, gpus="simulated:1", **settings)


def _job(shared: Path) -> dict[str, Any]:
    role = {"image": tiny_image(), "command": ["sh", "-c", BEGINS.format(shared=shared)], "resources": {"gpu": 1}}
    return {"roles": [role], "mounts": [{"source": str(shared), "target": str(shared)}]}


def _begun(shared: Path) -> int:
    file = shared / "begun"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _running(server: Servers, shared: Path) -> int:
    """A job that runs in the engine of this server, which has ended in an orderly way."""
    number = server.start().api.submit("train", _job(shared))
    wait_until(lambda: _begun(shared) == 1, "the job's beginning")
    assert server.current is not None
    wait_until(lambda: server.current.api.get(f"/workloads/{number}")["state"] == "running", "its record")
    server.current.end(signal.SIGTERM)
    return number


def _refusal(server: Servers) -> str:
    try:
        assert not server.launch().ready(), "it started all the same"
    finally:
        server.close()
    return server.tail()


def _ran_once(api: Api, number: int, shared: Path) -> None:
    (shared / "enough").touch()
    over = api.wait_over(number)
    assert (over["state"], over["attempt"], _begun(shared)) == ("succeeded", 1, 1)
    count("jobs doubled", 0)


def test_what_docker_has_waits_for_docker_at_a_start_without_it(
    daemon: PrivateDaemon, tmp_path: Path, shared: Path
) -> None:
    """As at boot, where the daemon comes later than the server."""
    with servers(tmp_path / "data", engine="auto", gpus="simulated:1") as server:
        number = _running(server, shared)
        daemon.kill(signal.SIGTERM)  # its containers go on
        api = server.start().api
        wait_until(lambda: not api.get("/status")["engine_up"], "notice of its absence")
        status = api.get("/status")
        assert status["engine"] == "docker"
        assert "train" in status["engine_note"]
        assert "--abandon docker" in status["engine_note"]
        later = api.submit("later", _job(shared))
        assert api.get(f"/workloads/{later}")["state"] == "queued"
        assert api.get(f"/workloads/{number}")["state"] == "running"
        daemon.start()
        wait_until(lambda: api.get("/status")["engine_up"], "its return")
        assert api.get("/status")["engine_note"] == ""
        _ran_once(api, number, shared)
        assert api.wait_over(later)["state"] == "succeeded"


def test_another_engine_is_refused_with_what_to_do(
    daemon: PrivateDaemon, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with servers(data, engine="auto", gpus="simulated:1") as server:
        number = _running(server, shared)
    said = _refusal(_server(data, engine="process"))
    assert "train" in said
    assert "localml up --engine docker" in said
    assert "--abandon docker" in said
    monkeypatch.delenv("DOCKER_HOST")  # the machine's own daemon, which has none of it
    said = _refusal(_server(data, engine="auto"))
    assert "train" in said
    assert "another Docker daemon" in said
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    with servers(data, engine="auto", gpus="simulated:1") as server:
        _ran_once(server.start().api, number, shared)


def test_what_is_taken_for_lost_begins_again_elsewhere_and_ends_where_it_was(
    daemon: PrivateDaemon, tmp_path: Path, shared: Path
) -> None:
    data = tmp_path / "data"
    with servers(data, engine="auto", gpus="simulated:1") as server:
        number = _running(server, shared)
    with servers(data, **PROCESSES, gpus="simulated:1", abandon="docker") as server:
        api = server.start().api
        wait_until(lambda: _begun(shared) == 2, "its second beginning")
        assert remove_all(api.get("/status")["install"])[0] == [], "what the daemon had is still there"
        (shared / "enough").touch()
        over = api.wait_over(number)
        assert (over["state"], over["attempt"]) == ("succeeded", 2)
        assert "EngineAbandoned" in [event["reason"] for event in api.get("/events")["events"]]


def test_what_runs_as_child_processes_keeps_docker_away(daemon: PrivateDaemon, tmp_path: Path, shared: Path) -> None:
    data = tmp_path / "data"
    with servers(data, **PROCESSES, gpus="simulated:1") as server:
        number = _running(server, shared)
    said = _refusal(_server(data, engine="docker"))
    assert "train" in said
    assert "localml up --engine process" in said
    with servers(data, engine="auto", gpus="simulated:1") as server:
        api = server.start().api
        status = api.get("/status")
        assert status["engine"] == "process"
        assert "train" in status["engine_note"]
        _ran_once(api, number, shared)
