"""One server's life beside its jobs: it stops and they go on, it is killed and their output has no gap."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.private_daemon import remove_all
from helpers.records import Records
from helpers.server_process import Running, Servers, servers

from localml.config import load
from localml.core.errors import Code, LocalmlError
from localml.platform import Platform

IDLE_SECONDS = 5.0
_WRITE = r"""
i=0; until [ -e {folder}/enough ]; do
  printf 'line %d \000\377\r\n' $i; printf 'e%d \201' $i >&2; i=$((i+1))
  [ $((i % 20)) = 0 ] && sleep 0.03
done; printf 'and no newline \376'; echo $i > {folder}/count
"""
"""Writes to both streams until it is told that it is enough, and leaves word how many lines it wrote."""


def job(script: str, **more: Any) -> dict[str, Any]:
    """One replica of a shell script."""
    return {"roles": [{"image": "none", "command": ["sh", "-c", script]}], **more}


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Servers]:
    with servers(tmp_path / "data", gpus="simulated:2") as made:
        yield made
        if made.current is None or made.current.poll() is not None:
            made.start()
        assert made.current is not None
        _stop_all(made.current)


def _stop_all(server: Running) -> None:
    records = Records(server.data)
    for number, _ in records.active():
        server.api.post(f"/workloads/{number}/stop")
    wait_until(lambda: not records.unfinished(), "the end of all jobs")


def _wait_state(server: Running, number: int, state: str) -> None:
    wait_until(lambda: server.api.get(f"/workloads/{number}")["state"] == state, f"{state} of workload {number}")


def test_a_second_server_on_the_same_data_is_refused_and_told_who_holds_it(found: Servers) -> None:
    server = found.start()
    with pytest.raises(LocalmlError) as refusal:
        Platform(load({}, data=str(found.data), engine="process", gpus="none"))
    assert refusal.value.code is Code.CONFLICT
    assert f"process {server.pid}" in refusal.value.message
    assert refusal.value.details["url"] in refusal.value.message
    assert server.api.get("/status")["pid"] == server.pid


def test_after_a_kill_the_data_is_free_for_the_next_server(found: Servers) -> None:
    first = found.start()
    first.end(signal.SIGKILL)
    assert (found.data / "server.json").exists()  # the dead one's note, which says nothing now
    second = found.start()
    assert second.api.get("/status")["pid"] == second.pid != first.pid


def test_jobs_go_on_while_no_server_runs_and_the_next_one_adopts_them(found: Servers, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"echo begun; while [ ! -e {go} ]; do sleep 0.02; done; echo done"
    server = found.start()
    ends = server.api.submit("ends", job(waits))
    stays = server.api.submit("stays", {"roles": [{**job("echo up; sleep 600")["roles"][0], "resources": {"gpu": 1}}]})
    for number in (ends, stays):
        _wait_state(server, number, "running")
    assert server.end(signal.SIGTERM) == 0
    records = Records(found.data)
    before = {row["id"]: row["handle"] for row in records.ask("select id, handle from attempt")}
    folder = records.attempts(ends)[0]["name"]
    go.touch()
    wait_until((found.data / "replicas" / folder / "exit.json").exists, "the end of the job without a server")

    server = found.start()
    assert server.api.wait_over(ends)["state"] == "succeeded"
    assert server.api.log(ends, stream="stdout") == b"begun\ndone\n"
    _wait_state(server, stays, "running")
    assert {row["id"]: row["handle"] for row in records.ask("select id, handle from attempt")} == before
    held = [lease for gpu in server.api.get("/gpus")["gpus"] for lease in gpu["leases"]]
    assert [lease["workload_id"] for lease in held] == [stays]
    assert [event["reason"] for event in server.api.get(f"/workloads/{ends}/events")["events"]].count("Started") == 1


def test_a_stop_that_was_acknowledged_survives_the_kill(found: Servers) -> None:
    server = found.start()
    number = server.api.submit("stubborn", job("trap '' TERM; echo up; while :; do sleep 1; done", stop_grace=3))
    wait_until(lambda: server.api.log(number, stream="stdout"), "its first output")
    server.api.post(f"/workloads/{number}/stop")
    server.end(signal.SIGKILL)
    server = found.start()
    seen = server.api.wait_over(number)
    assert (seen["state"], seen["cause"]) == ("stopped", "stopped")


def _written(stream: str, lines: int) -> bytes:
    if stream == "stderr":
        return b"".join(b"e%d \x81" % number for number in range(lines))
    return b"".join(b"line %d \x00\xff\r\n" % number for number in range(lines)) + b"and no newline \xfe"


def _kill_while_it_writes(found: Servers, spec: dict[str, Any], folder: Path, deaths: int) -> None:
    """The log is complete whatever happened to the servers that carried it."""
    server = found.start()
    number = server.api.submit("writer", spec)
    seen = b""
    for _ in range(deaths):
        wait_until(lambda: server.api.log(number, stream="stdout").startswith(seen + b"line"), "more output")  # noqa: B023
        seen = server.api.log(number, stream="stdout").rpartition(b"line")[0]
        server.end(signal.SIGKILL)
        server = found.start()
    (folder / "enough").touch()
    over = server.api.wait_over(number)
    assert (over["state"], over["attempt"]) == ("succeeded", 1)
    lines = int((folder / "count").read_text())
    for stream in ("stdout", "stderr"):
        assert server.api.log(number, stream=stream) == _written(stream, lines)


def test_the_log_of_a_process_has_no_gap_after_several_kills(found: Servers, tmp_path: Path) -> None:
    _kill_while_it_writes(found, job(_WRITE.replace("{folder}", str(tmp_path))), tmp_path, deaths=5)


@pytest.mark.docker
@pytest.mark.slow
def test_the_log_of_a_container_has_no_gap_after_several_kills(tmp_path: Path) -> None:
    role = {"image": tiny_image(), "command": ["sh", "-c", _WRITE.replace("{folder}", "/shared")]}
    spec = {"roles": [role], "mounts": [{"source": str(tmp_path), "target": "/shared"}]}
    with servers(tmp_path / "data", engine="docker", gpus="none") as found:
        try:
            _kill_while_it_writes(found, spec, tmp_path, deaths=4)
        finally:
            remove_all(Records(found.data).install())


def test_an_idle_server_sleeps(found: Servers) -> None:
    """After work is done the processor is left alone: what is counted is the process's own time."""
    server = found.start()
    server.api.wait_over(server.api.submit("one", job("true")))
    wait_until(lambda: not Records(found.data).unfinished(), "the cleaning up")
    process = psutil.Process(server.pid)
    said: list[str] = []

    def sleeps() -> bool:
        before, switches = process.cpu_times(), _wake_ups(server.pid)
        threading.Event().wait(IDLE_SECONDS)
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        woken = {name: count - switches.get(name, 0) for name, count in _wake_ups(server.pid).items()}
        said.append(f"{used / IDLE_SECONDS:.2%} of a core and these wake-ups in {IDLE_SECONDS:g} s: {woken}")
        # the clock ticks 100 times a second, so 0.3 % of five seconds is one tick and a half
        return round(used, 3) <= 0.02 and sum(woken.values()) <= 3 * IDLE_SECONDS

    # what was begun settles first, and the kernel may count a tick of somebody else's
    assert any(sleeps() for _ in range(5)), said
    assert process.num_threads() < 64


def _wake_ups(pid: int) -> dict[str, int]:
    """How often each thread of a process went to sleep so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it may end while it is looked at
            lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            found[f"{task.name} {lines['Name'].strip()}"] = int(lines["voluntary_ctxt_switches"])
    return found
