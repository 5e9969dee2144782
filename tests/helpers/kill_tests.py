"""The kill loops as tests: each share is a file of its own, because tests of one file run one after the other."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from helpers.counts import count
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.kill_helpers import Helpers
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


class DeathsOverProcesses:
    """A quarter of the 200 deaths of a server of the process engine; in the long form of 1,000."""

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_hundreds_of_deaths_lose_nothing_of_processes(self, tmp_path: Path, long_form: bool) -> None:
        print(f"RELIABILITY_SEED={SEED}")
        data = tmp_path / "data"
        with servers(data, gpus="simulated:3") as found:
            helpers = Helpers(data, SEED)
            loop = KillLoop(found, _jobs(tmp_path), SEED, lives=(0.2, 1.0), pace=0.2, helpers=helpers)
            try:
                run_kill_loop(loop, rounds=250 if long_form else 50, drain=240)
            except BaseException:
                print(found.tail())
                raise
            finally:
                count("kills of processes", loop.died_at.total())
        print(loop.told.calls, loop.died_at, len(loop.told.submitted))
        assert set(JOBS) <= set(loop.died_at), f"some fail-points were never reached: {loop.died_at}"
        assert len(loop.told.submitted) > 50
        programs = (".supervisor", ".zygote", ".pipes", ".box")
        left = [path.name for path in (data / "replicas").iterdir() if not path.name.startswith(programs)]
        assert left == []
        wait_until(lambda: not processes_with(str(tmp_path)), "the end of all processes")


class DeathsOverContainers:
    """Half of the 20 deaths of a server of the Docker engine; in the long form of 200."""

    @pytest.mark.docker
    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_dozens_of_deaths_lose_nothing_of_containers(self, tmp_path: Path, long_form: bool) -> None:
        print(f"RELIABILITY_SEED={SEED}")
        jobs = _jobs(tmp_path, image=tiny_image(), mounted="/ledger")
        with servers(tmp_path / "data", engine="docker", gpus="simulated:3") as found:
            loop = KillLoop(found, jobs, SEED, lives=(1.0, 4.0), pace=1.0, live=lambda: _running(loop.records))
            try:
                run_kill_loop(loop, rounds=100 if long_form else 10, drain=300)
            except BaseException:
                print(found.tail())
                raise
            finally:
                count("kills of containers", loop.died_at.total())
                install = loop.records.install()
                containers, networks = remove_all(install)
        print(loop.told.calls, loop.died_at, len(loop.told.submitted))
        assert containers == []
        assert set(networks) <= {f"lml-{install}-shared"}  # kept for the next job, where the default bridge won't do


def _running(records: Records) -> list[str]:
    """Names of all containers of this installation's that run."""
    if not records.workloads():  # it died before it had an id
        return []
    client = open_client()
    labels = ["localml.workload", f"localml.install={records.install()}"]
    names = [one["Names"][0].lstrip("/") for one in client.containers(filters={"label": labels})]
    client.close()
    return names
