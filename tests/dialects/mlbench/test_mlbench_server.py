"""Runs that really run: workers that find each other by name, add up numbers, and post metrics."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.mlbench import Dashboard, need_image, open_dashboard
from helpers.rig import wait_until

PYTORCH = "localml/train-pytorch:latest"
GLOO = """
import os, sys, torch, torch.distributed as dist
rank, hosts = int(sys.argv[1]), sys.argv[2].split(",")
assert os.environ["MASTER_ADDR"] == hosts[0] and os.environ["WORLD_SIZE"] == str(len(hosts))
dist.init_process_group(sys.argv[3], rank=rank, world_size=len(hosts))
numbers = torch.full((1000,), float(rank + 1))
dist.all_reduce(numbers)
print("sum", int(numbers.sum()), "of run", sys.argv[4], flush=True)
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Dashboard]]:
    opened: list[Dashboard] = []

    def start(engine: str) -> Dashboard:
        opened.append(open_dashboard(tmp_path / "data", engine))
        return opened[-1]

    yield start
    for one in opened:
        one.clean()
        one.server.close()


def _trains_and_posts(one: Dashboard, *, reachable: bool) -> None:
    answer = one.call("POST", "runs", form={"name": "Quiet Mink", "num_workers": 2, "num_cpus": "0.5"})
    assert answer.status == 200, answer.data
    number = answer.json["id"]
    run = one.wait(number)
    output = run["job_metadata"]["stdout"]
    assert run["state"] == "FINISHED", run
    assert [line for line in output if line.startswith("trained on 2 workers, loss ")]
    assert run["finished_at"] > run["created_at"]
    assert one.get("pods/") == []
    if not reachable:
        return
    metrics = one.get(f"metrics/{number}", metric_type="run")
    assert set(metrics) == {f"{name} @ {rank}" for name in ("train_loss", "total_train_time") for rank in (0, 1)}
    losses = [float(point["value"]) for point in metrics["train_loss @ 0"]]
    # the workers have different data and the same weights: the loss that they agree on falls
    assert losses == [float(point["value"]) for point in metrics["train_loss @ 1"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3


def test_the_benchmark_of_localml_trains_on_two_workers_and_posts_its_metrics(serve) -> None:  # type: ignore[no-untyped-def]
    _trains_and_posts(serve("process"), reachable=True)


@pytest.mark.docker
def test_the_benchmark_of_localml_trains_in_two_containers(serve) -> None:  # type: ignore[no-untyped-def]
    _trains_and_posts(serve("docker"), reachable=False)  # containers do not reach a server that is bound to loopback


@pytest.mark.docker
@pytest.mark.slow
def test_two_containers_all_reduce_with_gloo(serve) -> None:  # type: ignore[no-untyped-def]
    need_image(PYTORCH)
    one = serve("docker")
    command = f"python -c {shlex.quote(GLOO)} {{rank}} {{hosts}} {{backend}} {{run_id}}"
    run = one.start(command, custom_image_name=PYTORCH)
    ended = one.wait(run["id"])
    assert ended["state"] == "FINISHED", ended["job_metadata"]
    assert ended["job_metadata"]["stdout"] == [f"sum 3000 of run {run['id']}"] * 2


def test_a_command_gets_its_words_as_they_are_and_no_shell_reads_them(serve) -> None:  # type: ignore[no-untyped-def]
    one = serve("process")
    command = """python -c 'import sys; print(sys.argv[1:])' '$HOME `id`' "a  b" {rank} --hosts={hosts} {other} '' *"""
    number = one.start(command, light_target="true", use_horovod="true")["id"]
    run = one.wait(number)
    hosts = "127.0.0.1,127.0.0.1"
    expected = [
        str(["$HOME `id`", "a  b", str(rank), f"--hosts={hosts}", "{other}", "", "*", "--light", "--horovod"])
        for rank in range(2)
    ]
    assert sorted(run["job_metadata"]["stdout"]) == expected
    assert run["command"] == run["job_metadata"]["command"] == command


def test_by_default_only_the_first_worker_runs_the_command_and_the_others_wait(serve) -> None:  # type: ignore[no-untyped-def]
    one = serve("process")
    command = """python -c 'import os; print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])'"""
    number = one.start(command, workers=3, run_all_nodes="false")["id"]
    run = one.wait(number)
    assert (run["state"], run["job_metadata"]["stdout"]) == ("FINISHED", ["rank 0 of 3"])
    assert len(run["job_metadata"]["pods"]) == 3


def test_a_worker_that_fails_fails_the_run_and_its_output_is_kept(serve) -> None:  # type: ignore[no-untyped-def]
    one = serve("process")
    number = one.start("""python -c 'import sys; print("bad luck", file=sys.stderr); sys.exit({rank})'""")["id"]
    run = one.wait(number)
    assert run["state"] == "FAILED"
    assert "bad luck" in run["job_metadata"]["stderr"]


def test_running_workers_are_measured(serve) -> None:  # type: ignore[no-untyped-def]
    one = serve("process")
    number = one.start("python -c 'while True: pass'", workers=1)["id"]
    (pod,) = one.pods(1)
    names = {"container_cpu_usage_seconds_total", "container_memory_usage_bytes", "container_cpu_user_seconds_total"}

    def used() -> float:
        points = one.get(f"metrics/{pod}").get("container_cpu_usage_seconds_total") or [{"value": "0"}]
        return float(points[-1]["value"])

    wait_until(lambda: used() > 0.1)  # it may be measured when it has hardly begun
    found = one.get(f"metrics/{pod}")
    assert names <= set(found)
    assert float(found["container_memory_usage_bytes"][-1]["value"]) > 1 << 20
    assert set(one.get("metrics/")) == {pod}
    assert one.call("DELETE", f"runs/{number}").status == 204
    wait_until(lambda: one.get("pods/") == [])
    assert one.call("GET", f"metrics/{pod}").status == 404
