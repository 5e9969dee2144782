"""The Docker daemon dies under a running server: what runs is kept, or its loss is told; it is never just gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.private_daemon import PrivateDaemon, private_daemon
from helpers.server_process import Api, servers

from localml.engines.docker.daemon import open_client

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

WRITES = """
i=0; while [ ! -e /shared/enough ]; do echo line $i; i=$((i+1)); sleep 0.05; done
printf end; echo $i > /shared/n
"""
Scene = tuple[PrivateDaemon, Api]


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a private daemon, and a server that uses it."""

    @contextmanager
    def make(data: Path, *, live_restore: bool) -> Iterator[Scene]:
        root = tmp_path_factory.mktemp("dockerd")
        with private_daemon(root, monkeypatch, live_restore=live_restore) as daemon, ExitStack() as stack:
            found = stack.enter_context(servers(data, engine="docker", gpus="simulated:1"))
            yield daemon, found.start().api

    return make


def _spec(script: str, shared: Path, gpu: int = 0) -> dict[str, Any]:
    role = {"image": tiny_image(), "command": ["sh", "-c", script], "resources": {"gpu": gpu}}
    return {"roles": [role], "mounts": [{"source": str(shared), "target": "/shared"}]}


def _states(api: Api, *numbers: int) -> list[str]:
    return [api.get(f"/workloads/{number}")["state"] for number in numbers]


def _threads(api: Api) -> int:
    return len(list(Path(f"/proc/{api.pid}/task").iterdir()))


def _told(api: Api) -> list[str]:
    return [event["reason"] for event in api.get("/events")["events"]]


def test_a_killed_daemon_loses_no_job_and_no_line(scene: Callable[..., Any], tmp_path: Path) -> None:
    with scene(tmp_path / "data", live_restore=True) as (daemon, api):
        runs = api.submit("runs", _spec(WRITES, tmp_path, gpu=1))
        wait_until(lambda: b"line 3" in api.log(runs, stream="stdout"), "some output")

        daemon.kill(signal.SIGKILL)
        wait_until(lambda: _told(api)[-1:] == ["EngineUnreachable"], "notice of the daemon's death")
        assert not api.get("/status")["engine_up"]
        waits = api.submit("waits", _spec("echo came later", tmp_path))
        assert _states(api, runs, waits) == ["running", "queued"]
        lease = api.get("/gpus")["gpus"][0]["leases"]
        assert [one["workload_id"] for one in lease] == [runs]

        daemon.start()
        wait_until(lambda: _told(api)[-1:] == ["EngineAnswers"], "notice of its return")
        wait_until(lambda: api.get("/status")["engine_up"], "an engine that answers")
        told = _told(api)  # a daemon that begins may answer and be silent again: each change is told once
        assert told == ["EngineUnreachable", "EngineAnswers"] * (len(told) // 2)
        (tmp_path / "enough").touch()
        over = api.wait_over(runs)
        assert (over["state"], over["attempt"]) == ("succeeded", 1)
        lines = int((tmp_path / "n").read_text())
        assert api.log(runs, stream="stdout") == b"".join(b"line %d\n" % one for one in range(lines)) + b"end"
        assert api.wait_over(waits)["state"] == "succeeded"
        assert api.log(waits, stream="stdout") == b"came later\n"


def test_what_a_daemon_ends_when_it_comes_back_is_told_as_lost(scene: Callable[..., Any], tmp_path: Path) -> None:
    with scene(tmp_path / "data", live_restore=False) as (daemon, api):
        runs = api.submit("runs", _spec(WRITES, tmp_path, gpu=1))
        wait_until(lambda: b"line 3" in api.log(runs, stream="stdout"), "some output")
        daemon.kill(signal.SIGKILL)
        wait_until(lambda: not api.get("/status")["engine_up"], "notice of the daemon's death")
        assert _states(api, runs) == ["running"]
        daemon.start()
        wait_until(lambda: api.get("/status")["engine_up"], "notice of its return")
        wait_until(lambda: _states(api, runs) != ["running"] or api.get(f"/workloads/{runs}")["attempt"] > 1, "the end")
        first = api.get(f"/workloads/{runs}")["replicas"][0]
        assert first["state"] == "ended"
        assert first["cause"] == "engine_lost"
        events = api.get(f"/workloads/{runs}/events")["events"]
        assert [event["reason"] for event in events if event["severity"] == "warning"][:2] == [
            "ContainerLost",
            "Retrying",
        ]
        (tmp_path / "enough").touch()
        if api.wait_over(runs)["state"] == "succeeded":
            assert api.get(f"/workloads/{runs}")["attempt"] > 1
        wait_until(lambda: api.get("/gpus")["gpus"][0]["leases"] == [], "the GPU's return")


TRIES = """
echo try $LOCALML_ATTEMPT; {trap}
if [ $LOCALML_ATTEMPT = 1 ]; then echo up >> /shared/{name}; while :; do sleep 1 & wait; done; fi
if [ $LOCALML_ATTEMPT = 2 ]; then exit 5; fi
"""
"""The first try goes on until it is ended, the second fails by itself, and the third succeeds."""
TRAPS = {"plain": "", "saves": "trap 'exit 0' TERM", "fails": "trap 'exit 3' TERM", "deaf": "trap '' TERM"}


def _tries(api: Api, shared: Path, names: list[str]) -> dict[str, int]:
    """Jobs with one retry, of which the first try runs."""
    found = {}
    for name in names:
        spec = _spec(TRIES.format(trap=TRAPS[name], name=name), shared) | {"retries": {"limit": 1, "backoff": 0.01}}
        found[name] = api.submit(name, spec)
    wait_until(lambda: all((shared / name).exists() for name in names), "all jobs to run")
    wait_until(lambda: _states(api, *found.values()) == ["running"] * len(names), "their records")
    return found


def _assert_interrupted(api: Api, jobs: dict[str, int]) -> None:
    """The daemon's own end was told from the program's, and took none of the user's retries."""
    for name, number in jobs.items():
        over = api.wait_over(number)
        events = api.get(f"/workloads/{number}/events")["events"]
        assert (name, over["state"], over["attempt"], over["retries"]) == (name, "succeeded", 3, 1), events
        lost = [event["message"] for event in events if event["reason"] == "ContainerLost"]
        assert len(lost) == 1, (name, lost)
        assert "the Docker daemon was restarted" in lost[0]
    count("jobs lost", 0)


def test_an_ordered_restart_of_the_daemon_costs_no_retry(scene: Callable[..., Any], tmp_path: Path) -> None:
    with scene(tmp_path / "data", live_restore=False) as (daemon, api):
        jobs = _tries(api, tmp_path, list(TRAPS))
        daemon.kill(signal.SIGTERM)
        daemon.start()
        _assert_interrupted(api, jobs)


@pytest.mark.parametrize("how", ["restart", "out of memory", "crash of all"])
def test_a_restart_of_the_daemon_while_no_server_looks_costs_no_retry(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As when the machine is shut down: server and daemon end in any order."""
    root = tmp_path_factory.mktemp("dockerd")
    with (
        private_daemon(root, monkeypatch, live_restore=False) as daemon,
        servers(tmp_path / "data", engine="docker", gpus="none") as found,
    ):
        jobs = _tries(found.start().api, tmp_path, ["plain", "deaf"])
        assert found.current is not None
        found.current.end(signal.SIGTERM)
        if how == "crash of all":
            daemon.crash()
        else:
            daemon.kill(signal.SIGTERM if how == "restart" else signal.SIGKILL)
        daemon.start()
        _assert_interrupted(found.start().api, jobs)


def test_what_a_person_kills_was_not_the_daemons(scene: Callable[..., Any], tmp_path: Path) -> None:
    with scene(tmp_path / "data", live_restore=False) as (_, api):
        number = _tries(api, tmp_path, ["plain"])["plain"]
        client = open_client()
        client.kill(api.get(f"/workloads/{number}")["replicas"][0]["name"], signal="SIGTERM")
        client.close()
        over = api.wait_over(number)  # the retry went to the kill, so that the second try's end is the last
        assert (over["state"], over["attempt"], over["cause"], over["exit_code"]) == ("failed", 2, "exit_code", 5)


def test_a_daemon_that_stands_still_holds_up_nobody_and_costs_nothing(
    scene: Callable[..., Any], tmp_path: Path, long_form: bool
) -> None:
    """Everything is asked for while it stands still; afterwards everything is done, and no thread is left."""
    with scene(tmp_path / "data", live_restore=True) as (daemon, api):
        runs = api.submit("runs", _spec(WRITES, tmp_path, gpu=1))
        ends = api.submit("ends", _spec("trap 'echo told; exit 0' TERM; echo ready; sleep 600 & wait", tmp_path))
        wait_until(lambda: b"line 3" in api.log(runs, stream="stdout"), "some output")
        wait_until(lambda: b"ready" in api.log(ends, stream="stdout"), "a program to stop")
        threads = _threads(api)

        daemon.signal(signal.SIGSTOP)
        try:
            assert api.post(f"/workloads/{ends}/stop")
            waiting = [api.submit(f"waits-{one}", _spec("echo came later", tmp_path)) for one in range(10)]
            wait_until(lambda: not api.get("/status")["engine_up"], "notice of its silence")
            slowest = 0.0
            for _ in range(100):
                began = time.monotonic()
                assert api.get(f"/workloads/{waiting[0]}")["state"] in ("queued", "preparing")
                api.get(f"/workloads/{ends}/why")
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 5, "nobody waits for the engine"
            assert api.get(f"/workloads/{runs}")["state"] == "running"
            if long_form:
                wait_until(lambda: "stuck" in str(api.get(f"/workloads/{ends}/why")), "a word about it")
        finally:
            daemon.signal(signal.SIGCONT)

        wait_until(lambda: api.get("/status")["engine_up"], "notice of its return")
        assert [api.wait_over(one)["state"] for one in waiting] == ["succeeded"] * 10
        assert all(api.log(one, stream="stdout") == b"came later\n" for one in waiting)
        assert api.wait_over(ends)["state"] == "stopped"
        assert api.log(ends, stream="stdout") == b"ready\ntold\n"
        wait_until(lambda: _threads(api) <= threads, "the end of all threads")
        (tmp_path / "enough").touch()
        assert api.wait_over(runs)["state"] == "succeeded"
        lines = int((tmp_path / "n").read_text())
        assert api.log(runs, stream="stdout") == b"".join(b"line %d\n" % one for one in range(lines)) + b"end"
