"""Runs with the MPI backend: one rank on each worker, started over SSH between their containers."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.mlbench import Dashboard, need_image, open_dashboard

from localml.core.catalog import cache_dir
from localml.dialects.mlbench.translate.images import OWN_MPI_IMAGE
from localml.dialects.mlbench.translate.mpi import mpi_script

ADD = """
import os, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(10 ** world.Get_rank())
line = f"rank {sys.argv[1]} is {world.Get_rank()} on {os.uname().nodename}: {total} {sys.argv[2:]}\\n"
os.write(1, line.encode())  # at once, as lines of several ranks come together
"""
RANKS = "import os; from mpi4py import MPI; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
FAIL = "import sys; from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); sys.exit(3 * MPI.COMM_WORLD.Get_rank())"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    need_image(OWN_MPI_IMAGE)
    one = open_dashboard(tmp_path_factory.mktemp("data"), "docker")
    yield one
    one.clean()
    one.server.close()


def start(one: Dashboard, program: str, words: str = "", workers: int = 2, **members: str) -> int:
    command = f"python -c {shlex.quote(program)} {{rank}} {words}"
    run = one.start(command, workers, custom_image_name=OWN_MPI_IMAGE, backend="MPI", **members)
    return int(run["id"])


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("everywhere", ["true", "false"])
def test_ranks_on_all_workers_add_up_by_mpi(everywhere: str, containers: Dashboard) -> None:
    run = containers.wait(start(containers, ADD, "'a  \"b\" $HOME' {hosts}", 3, run_all_nodes=everywhere))
    assert run["state"] == "FINISHED", run
    arguments = ['a  "b" $HOME', "worker-0,worker-1,worker-2"]
    output = run["job_metadata"]["stdout"]
    assert sorted(output) == [f"rank {n} is {n} on worker-{n}: 111 {arguments}" for n in range(3)]
    assert run["backend"] == "mpi"
    assert containers.get("pods/") == []


@pytest.mark.docker
@pytest.mark.slow
def test_the_benchmark_of_localml_trains_by_mpi(containers: Dashboard) -> None:
    form = {"name": "by MPI", "num_workers": 2, "num_cpus": "0.5", "backend": "MPI"}
    answer = containers.call("POST", "runs/", form=form)
    assert answer.status == 200, answer.data
    run = containers.wait(answer.json["id"])
    assert run["state"] == "FINISHED", run
    assert "\n".join(run["job_metadata"]["stdout"]).count("trained on 2 workers, loss ") == 2


@pytest.mark.docker
@pytest.mark.slow
def test_a_rank_that_fails_on_another_worker_fails_the_run(containers: Dashboard) -> None:
    number = start(containers, FAIL)
    assert containers.wait(number)["state"] == "FAILED"
    first = next(one for one in containers.platform.workloads.get(number).attempts if one.index == 0)
    assert first.exit_code == 3


@pytest.mark.docker
@pytest.mark.slow
def test_an_image_without_mpi_says_so(containers: Dashboard) -> None:
    run = containers.start("true", backend="MPI")
    ended = containers.wait(run["id"])
    assert ended["state"] == "FAILED"
    assert "localml/train-pytorch or an image made from it" in "\n".join(ended["job_metadata"]["stderr"])


def test_each_run_has_a_key_of_its_own_which_is_stored_sealed(dashboard: Dashboard) -> None:
    keys = []
    for _ in range(2):
        number = dashboard.start(backend="mpi")["id"]
        full = dashboard.platform.workloads.get(number)
        (role,) = full.spec.roles
        assert "PRIVATE KEY" not in full.spec.model_dump_json()
        keys.append(dashboard.platform.sealer.open(full.row.owner_id, role.sealed_env["LOCALML_MPI_KEY"]))
        assert [(port.label, port.publish) for port in role.ports] == [("rendezvous", False), ("ssh", False)]
        dashboard.clean()
    assert len(set(keys)) == 2
    assert all("OPENSSH PRIVATE KEY" in key for key in keys)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    one = open_dashboard(tmp_path_factory.mktemp("data"), "process", cache=cache_dir())
    yield one
    one.clean()
    one.server.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_containers_ranks_add_up_by_mpi_in_a_runtime_that_is_made_for_them(processes: Dashboard) -> None:
    number = start(processes, ADD, "'a  \"b\" $HOME' {hosts}", 3)
    run = processes.wait(number, 500)
    assert run["state"] == "FINISHED", run
    arguments, node = ['a  "b" $HOME', "127.0.0.1,127.0.0.1,127.0.0.1"], os.uname().nodename
    assert sorted(run["job_metadata"]["stdout"]) == [f"rank {n} is {n} on {node}: 111 {arguments}" for n in range(3)]
    grants = start(processes, RANKS, gpu_enabled="true")
    run = processes.wait(grants)
    assert run["state"] == "FINISHED", run
    assert len(set(run["job_metadata"]["stdout"])) == 2  # each rank has its own worker's GPU


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_containers_the_default_benchmark_trains_by_its_default_backend(processes: Dashboard) -> None:
    answer = processes.call("POST", "runs/", form={"name": "a", "num_workers": 2, "backend": "MPI"})
    assert answer.status == 200, answer.data
    run = processes.wait(answer.json["id"], 500)
    assert run["state"] == "FINISHED", run
    assert "\n".join(run["job_metadata"]["stdout"]).count("trained on 2 workers, loss ") == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_containers_a_rank_that_fails_or_is_killed_ends_the_run(processes: Dashboard) -> None:
    for program in (FAIL, "import os; os.kill(os.getpid(), 9 * int(os.environ['RANK']))"):
        assert processes.wait(start(processes, program), 500)["state"] == "FAILED"


def test_the_script_hands_the_command_to_the_launcher_unread(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nif [ "$1" = -m ]; then for word; do printf "<%s>" "$word"; done; fi\n')
    python.chmod(0o755)
    script = "exec echo \"$RANK\" 'it'\"'\"'s' `id`\n"
    found = subprocess.run(
        ["sh", "-c", mpi_script(script)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert found.stdout == f"<-m><localml_launcher><mpi><--><sh><-c><{script}>"
