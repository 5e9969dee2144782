"""A full disk is told, harms nothing that was stored, and is over when there is room again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.engine_kits import wait_until
from helpers.records import Records
from helpers.server_process import Api, Servers, servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root"),
]

BULK = "x" * 60_000


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at ``folder``, where that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"f" * size)
            except OSError:
                continue


def _job(script: str, **env: str) -> dict[str, Any]:
    return {"roles": [{"image": "none", "command": ["sh", "-c", script], "env": env}]}


def _submit_until_refused(api: Api) -> tuple[dict[int, str], dict[str, Any]]:
    """What was taken nevertheless, and the error of the first one that was not."""
    taken: dict[int, str] = {}
    for number in range(500):
        name = f"late-{number}"
        answer = api.call("POST", "/workloads", {"name": name, "spec": _job("true", BULK=BULK)})
        if not answer.ok:
            assert answer.status == 507, answer.body
            error: dict[str, Any] = answer.json["error"]
            return taken, error
        taken[answer.json["id"]] = name
    raise AssertionError("a full disk took 500 large jobs")


def test_a_full_disk_refuses_work_and_resumes_when_there_is_room(tmp_path: Path) -> None:
    data = tmp_path / "disk" / "data"
    with small_disk(tmp_path / "disk", "24m"), servers(data, gpus="simulated:1") as found:
        server = found.start()
        api = server.api
        go = tmp_path / "go"
        early = api.submit("early", _job(f"echo begun; while [ ! -e {go} ]; do sleep 0.02; done; exit 0"))
        wait_until(lambda: api.get(f"/workloads/{early}")["state"] == "running", "a running job")

        fill(tmp_path / "disk" / "filler")
        taken, error = _submit_until_refused(api)
        assert error["code"] == "storage"
        assert "full" in error["message"]
        assert api.get("/status")["pid"] == server.pid
        assert api.get(f"/workloads/{early}")["state"] == "running"
        go.touch()  # it ends while its end cannot be stored

        (tmp_path / "disk" / "filler").unlink()
        wait_until(lambda: api.call("POST", "/workloads", {"name": "after", "spec": _job("echo fine")}).ok, "room")
        assert api.wait_over(early)["state"] == "succeeded"
        after = api.get("/workloads/after")["id"]
        assert api.wait_over(after)["state"] == "succeeded"
        assert api.log(after, stream="stdout") == b"fine\n"
        _check_taken(api, taken)
        _check_records(found, taken | {early: "early", after: "after"})


def _check_taken(api: Api, taken: dict[int, str]) -> None:
    """What was acknowledged while the disk was full ran, or says that the disk was full."""
    for number, name in taken.items():
        over = api.wait_over(number)
        assert over["name"] == name
        assert over["state"] == "succeeded" or over["cause"] == "disk_full", over


def _check_records(found: Servers, acknowledged: dict[int, str]) -> None:
    records = Records(found.data)
    wait_until(lambda: not records.unfinished(), "the cleaning up")
    assert found.current is not None
    assert found.current.end(signal.SIGTERM) == 0
    records.check_after_death(acknowledged)
    records.check_at_end()


def test_a_server_killed_on_a_full_disk_comes_back_when_there_is_room(tmp_path: Path) -> None:
    data = tmp_path / "disk" / "data"
    with small_disk(tmp_path / "disk", "24m"), servers(data, gpus="none") as found:
        api = found.start().api
        first = api.submit("first", _job("echo kept"))
        assert api.wait_over(first)["state"] == "succeeded"
        fill(tmp_path / "disk" / "filler")
        taken, _ = _submit_until_refused(api)
        assert found.current is not None
        found.current.end(signal.SIGKILL)

        refused = found.launch()
        if not refused.ready():  # it may find just enough room; if not, it says what is missing
            assert refused.poll() == 1
            last = found.tail().splitlines()[-1]
            assert "localml: " in last, found.tail()
            assert "full" in last or "No space left" in last
        else:
            refused.end(signal.SIGKILL)
        (tmp_path / "disk" / "filler").unlink()
        api = found.start().api
        assert api.log(first, stream="stdout") == b"kept\n"
        _check_taken(api, taken)
        _check_records(found, taken | {first: "first"})


def test_a_log_that_finds_no_room_says_so_and_goes_on_without_a_gap(tmp_path: Path) -> None:
    data = tmp_path / "data"
    script = "i=0; while [ $i -lt 40000 ]; do printf 'line %d of a log that grows \\377\\n' $i; i=$((i+1)); done"
    expected = b"".join(b"line %d of a log that grows \xff\n" % number for number in range(40_000))
    with small_disk(data / "logs", "1m"), servers(data, gpus="none") as found:
        api = found.start().api
        number = api.submit("chatty", _job(script))
        wait_until(lambda: "LogStalled" in _reasons(api, number), "notice of the full disk")
        assert expected.startswith(api.log(number, stream="stdout"))
        assert api.get(f"/workloads/{number}")["state"] == "running"  # not over before its output is kept
        subprocess.run(["mount", "-o", "remount,size=16m", data / "logs"], check=True)
        assert api.wait_over(number)["state"] == "succeeded"
        assert api.log(number, stream="stdout") == expected


def _reasons(api: Api, number: int) -> list[str]:
    return [event["reason"] for event in api.get(f"/workloads/{number}/events")["events"]]


def test_jobs_that_write_more_than_the_disk_has_never_see_it_full(tmp_path: Path) -> None:
    """The oldest output goes in time, also where the disk fills within seconds."""
    data = tmp_path / "disk" / "data"
    with (
        small_disk(tmp_path / "disk", "96m"),
        servers(data, gpus="none", free_disk=32 << 20, keep_logs=1 << 30, cache=str(tmp_path / "cache")) as found,
    ):
        api = found.start().api
        for one in range(40):
            number = api.submit(f"writes-{one}", _job("head -c 3000000 /dev/zero | base64; sleep 0.2"))
            assert api.wait_over(number)["state"] == "succeeded", found.tail()
            assert "LogStalled" not in _reasons(api, number)
        last = api.log(number, stream="stdout")
        assert len(last) > 4_000_000
        told = {event["reason"] for event in api.get("/events")["events"]}
        assert {"Pruning", "Pruned"} <= told
        assert "DiskFull" not in told
