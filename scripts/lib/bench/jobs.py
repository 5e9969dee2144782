"""Whole jobs, from the submission over HTTP until the server says that they have ended."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.rows import Row, folder, ms, skipped, timed
from bench.server import IMAGE, TINY_JOB, Server, serving

_OVER_PROCESS, _OVER_CONTAINER = 0.025, 0.010


def processes(quick: bool) -> Iterator[Row]:
    """Jobs of the process engine beside bare processes."""
    count = 50 if quick else 300

    def bare() -> None:
        subprocess.run(TINY_JOB, check=True)

    with folder() as path, serving(path / "data", "process") as server:
        floor, job = _in_turn(server, bare, 10 if quick else 40)
        yield _over("process job, submit -> finished: p50", job, floor, "a bare process", _OVER_PROCESS)
        rate = count / timed(lambda: drain(server, count, "d"))
    yield Row("process jobs drained", f"{rate:.0f}/s", ">= 100/s", f"{1 / floor:.0f}/s bare processes", rate >= 100)


def containers(quick: bool) -> Iterator[Row]:
    """Jobs in containers beside the bare Docker SDK."""
    from localml.engines.docker import docker_available

    what = "container job, submit -> finished: p50"
    if reason := docker_available():
        yield skipped(what, reason)
        return
    import docker

    api = docker.from_env(timeout=60).api
    if not api.images(IMAGE):
        yield skipped(what, f"{IMAGE} is not built")
        return

    def bare() -> None:
        made = api.create_container(IMAGE, list(TINY_JOB), entrypoint=[])
        api.start(made["Id"])
        api.wait(made["Id"])
        api.remove_container(made["Id"])

    with folder() as path, serving(path / "data", "docker") as server:
        floor, job = _in_turn(server, bare, 5 if quick else 25)
    yield _over(what, job, floor, "create+start+wait+remove", _OVER_CONTAINER)


def drain(server: Server, count: int, name: str) -> None:
    """Submit so many jobs, and wait until all have ended."""
    spec = {"roles": [{"command": list(TINY_JOB)}]}
    numbers = [server.ask("POST", "/workloads", {"name": f"{name}-{n}", "spec": spec})["id"] for n in range(count)]
    for number in numbers:
        _need(server.settled(number))


def _in_turn(server: Server, bare: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Medians of the floor and of a job, in turns, so that noise hits both."""
    bare()
    _run(server, "warm")
    pairs = []
    for n in range(rounds):
        pairs.append((timed(bare), _run(server, f"j{n}")))
        time.sleep(0.05)  # what is left of the job is cleaned up; a user's next job comes later, too
    return statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs)


def _run(server: Server, name: str) -> float:
    spec = {"roles": [{"command": list(TINY_JOB), "image": IMAGE}]}
    begin = time.perf_counter()
    number = server.ask("POST", "/workloads", {"name": name, "spec": spec})["id"]
    state = server.settled(number)
    spent = time.perf_counter() - begin
    _need(state)
    return spent


def _need(state: str) -> None:
    if state != "succeeded":
        raise RuntimeError(f"a job ended as {state}")


def _over(what: str, job: float, floor: float, beside: str, most: float) -> Row:
    over = job - floor
    measured = f"{ms(job)} ({over * 1000:+.1f} ms)"
    return Row(what, measured, f"<= floor + {most * 1000:.0f} ms", f"{ms(floor)} {beside}", over <= most)
