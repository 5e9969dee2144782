"""Promise 3: killing the server at any moment loses no job, no log line and no GPU."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.kill_jobs import Jobs
from helpers.kill_loop import KillLoop, processes_with, run_kill_loop
from helpers.private_daemon import remove_all
from helpers.records import Records
from helpers.server_process import servers

from localml.core.failpoints import JOBS
from localml.engines.docker.daemon import open_client

SEED = int(os.environ.get("RELIABILITY_SEED") or secrets.randbits(32))
"""Printed when a test fails; set the variable to repeat its choices."""


def _jobs(tmp_path: Path, **how: str) -> Jobs:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    return Jobs(ledger, **how)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_deaths_lose_nothing_of_processes(tmp_path: Path) -> None:
    print(f"RELIABILITY_SEED={SEED}")
    with servers(tmp_path / "data", gpus="simulated:3") as found:
        loop = KillLoop(found, _jobs(tmp_path), SEED, lives=(0.2, 1.0), pace=0.2)
        try:
            run_kill_loop(loop, rounds=200, drain=240)
        except BaseException:
            print(found.tail())
            raise
    print(loop.told.calls, loop.died_at, len(loop.told.submitted))
    assert set(JOBS) <= set(loop.died_at), f"some fail-points were never reached: {loop.died_at}"
    assert len(loop.told.submitted) > 200
    left = [
        path.name
        for path in (tmp_path / "data" / "replicas").iterdir()
        if not path.name.startswith((".supervisor", ".zygote", ".box"))
    ]
    assert left == []
    wait_until(lambda: not processes_with(str(tmp_path)), "the end of all processes")


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_deaths_lose_nothing_of_containers(tmp_path: Path) -> None:
    print(f"RELIABILITY_SEED={SEED}")
    jobs = _jobs(tmp_path, image=tiny_image(), mounted="/ledger")
    with servers(tmp_path / "data", engine="docker", gpus="simulated:3") as found:
        loop = KillLoop(found, jobs, SEED, lives=(1.0, 4.0), pace=1.0, live=lambda: _running(loop.records))
        try:
            run_kill_loop(loop, rounds=20, drain=300)
        except BaseException:
            print(found.tail())
            raise
        finally:
            install = loop.records.install()
            left = remove_all(install)
    print(loop.told.calls, loop.died_at, len(loop.told.submitted))
    containers, networks = left
    assert containers == []
    assert set(networks) <= {f"lml-{install}-shared"}  # kept for the next job, where the default bridge will not do


def _running(records: Records) -> list[str]:
    """Names of all containers of this installation's that run."""
    if not records.workloads():  # it died before it had an id
        return []
    client = open_client()
    labels = ["localml.workload", f"localml.install={records.install()}"]
    names = [one["Names"][0].lstrip("/") for one in client.containers(filters={"label": labels})]
    client.close()
    return names
