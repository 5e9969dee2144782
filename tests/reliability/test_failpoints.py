"""The server dies at each named point of a gang's life: the gang runs once, and nothing is lost or left over."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.kill_jobs import KINDS, Jobs
from helpers.kill_loop import KillLoop
from helpers.private_daemon import remove_all
from helpers.records import Records
from helpers.server_process import Down, Servers, servers

POINTS = ["after-intent", "after-create", "after-create:2", "after-start", "after-start:2", "before-remove"]
COMMITS = [f"before-commit:{count}" for count in range(1, 9)]  # the first ones are those of the server's own start


def _die_at(found: Servers, jobs: Jobs, point: str) -> None:
    """Submit a gang to a server that dies at ``point``, and let the next one bring it to its end."""
    found.start().end(signal.SIGTERM)
    loop = KillLoop(found, jobs, 0, lives=(0, 0), pace=0)
    server = found.launch(failpoint=point)
    if server.ready():
        with suppress(Down):
            loop.told.submitted[server.api.submit("gpus.one", jobs.spec(KINDS["gpus"]))] = "gpus.one"
    wait_until(lambda: server.poll() is not None, f"death at {point}")
    assert server.poll() == -signal.SIGKILL
    loop.records.check_after_death(loop.told.submitted)
    loop.drain(100)
    loop.check()
    if loop.records.workloads():  # a death before the submission was on disk leaves none
        assert jobs.runs() == {"gpus.one-main-0-1": 1, "gpus.one-main-1-1": 1}
    else:
        assert point.startswith("before-commit")


@pytest.mark.parametrize("point", POINTS + COMMITS)
def test_a_gang_of_processes_outlives_a_death(tmp_path: Path, point: str) -> None:
    (tmp_path / "ledger").mkdir()
    with servers(tmp_path / "data", gpus="simulated:2") as found:
        _die_at(found, Jobs(tmp_path / "ledger"), point)
    assert [
        one.name
        for one in (tmp_path / "data" / "replicas").iterdir()
        if not one.name.startswith((".supervisor", ".zygote", ".pipes", ".box"))
    ] == []


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_gang_of_containers_outlives_a_death(tmp_path: Path, point: str) -> None:
    (tmp_path / "ledger").mkdir()
    with servers(tmp_path / "data", engine="docker", gpus="simulated:2") as found:
        try:
            _die_at(found, Jobs(tmp_path / "ledger", tiny_image(), "/ledger"), point)
        finally:
            install = Records(found.data).install()
            containers, networks = remove_all(install)
    assert containers == []
    assert set(networks) <= {f"lml-{install}-shared"}


@pytest.mark.parametrize("commit", range(1, 6))
def test_a_first_start_that_dies_leaves_an_installation_that_starts(tmp_path: Path, commit: int) -> None:
    """Keys are made then, in the database and in a file: whichever is missing, the next start has both."""
    with servers(tmp_path / "data", gpus="none") as found:
        first = found.launch(f"before-commit:{commit}")
        first.ready()
        first.end(signal.SIGKILL)
        server = found.start()
        assert server.api.get("/status")["user"] == "admin"
        number = server.api.submit("one", {"roles": [{"image": "none", "command": ["true"]}]})
        assert server.api.wait_over(number)["state"] == "succeeded"
    assert (tmp_path / "data" / "credentials.json").stat().st_mode & 0o777 == 0o600
