"""Supervisors are forked, not started anew: what dies with the zygote (nothing), and what happens without one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from helpers.engine_kits import ProcessKit, wait_until
from helpers.sleepers import OWN, alive

from localml.engines.base import Phase
from localml.engines.process import spawn
from localml.engines.process.folder import ReplicaDir, RunningRecord

SERVER = """
import sys
import threading
from pathlib import Path
from localml.engines.base import ReplicaPlan
from localml.engines.process.engine import ProcessEngine
engine = ProcessEngine(Path(sys.argv[1]), "conformance")
engine.start(ReplicaPlan("job", "none", ("sh", "-c", sys.argv[2])))
print("started", flush=True)
sys.stdin.read()
"""


def zygotes(root: Path, server: int | None = None) -> list[psutil.Process]:
    """The living zygotes that a server has for this root."""
    return [
        child
        for child in psutil.Process(server).children()
        if child.status() != psutil.STATUS_ZOMBIE and any(f"{root}/.zygote-" in word for word in child.cmdline())
    ]


def _running(root: Path, name: str) -> RunningRecord:
    return wait_until(ReplicaDir(root / name).running, "start")  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replicas"


def test_one_zygote_forks_every_supervisor_into_a_session_of_its_own(process_kit: ProcessKit, root: Path) -> None:
    plans = [process_kit.endless() for _ in range(3)]
    for plan in plans:
        process_kit.engine.start(plan)
    (zygote,) = zygotes(root)
    supervisors = [_running(root, plan.name).supervisor for plan in plans]
    assert [psutil.Process(pid).ppid() for pid in supervisors] == [zygote.pid] * 3
    assert [os.getsid(pid) for pid in supervisors] == supervisors


def test_jobs_outlive_a_killed_zygote_and_the_next_one_takes_over(process_kit: ProcessKit, root: Path) -> None:
    first, second = process_kit.plan('trap "exit 21" TERM; echo ready; sleep 600 & wait'), process_kit.ending(4)
    process_kit.engine.start(first)
    process_kit.wait_ready(first.name)
    (zygote,) = zygotes(root)
    zygote.kill()
    assert process_kit.run(second).exit_code == 4
    assert [one.pid for one in zygotes(root)] != [zygote.pid]
    assert process_kit.engine.inspect(first.name).phase is Phase.RUNNING
    process_kit.engine.stop(first.name, 30)
    assert process_kit.wait_end(first.name).exit_code == 21


def test_a_killed_server_takes_its_zygote_along_and_leaves_the_job(process_kit: ProcessKit, root: Path) -> None:
    command = [sys.executable, "-c", SERVER, root, f"sleep 7201.{OWN}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"started\n"
        (zygote,) = zygotes(root, server.pid)
        server.kill()
    wait_until(lambda: not zygote.is_running() or zygote.status() == psutil.STATUS_ZOMBIE, "end of the zygote")
    wait_until(lambda: alive("7201"), "the job")
    assert process_kit.engine.inspect("job").phase is Phase.RUNNING


def test_a_killed_server_leaves_no_zygote_that_was_stopped_once_another_watches(
    process_kit: ProcessKit, root: Path
) -> None:
    command = [sys.executable, "-c", SERVER, root, f"sleep 7202.{OWN}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"started\n"
        (zygote,) = zygotes(root, server.pid)
        zygote.send_signal(signal.SIGSTOP)
        wait_until(lambda: zygote.status() == psutil.STATUS_STOPPED, "a standstill")
        server.kill()
    process_kit.engine.watch(threading.Event())
    wait_until(lambda: not zygote.is_running() or zygote.status() == psutil.STATUS_ZOMBIE, "end of the zygote")


def test_a_closed_engine_leaves_neither_zygote_nor_open_files(process_kit: ProcessKit, root: Path) -> None:
    engine = process_kit.reopen()
    before = len(os.listdir("/proc/self/fd"))
    engine = process_kit.reopen()
    for plan in [process_kit.ending() for _ in range(5)]:
        engine.start(plan)
        process_kit.wait_end(plan.name)
    engine.close()
    assert zygotes(root) == []
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "closed files")


def test_many_jobs_leave_no_open_files(process_kit: ProcessKit) -> None:
    process_kit.run(process_kit.ending())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        process_kit.run(process_kit.ending())
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "closed files")


def test_a_supervisor_has_no_file_of_the_zygote(process_kit: ProcessKit, root: Path) -> None:
    plan = process_kit.endless()
    process_kit.engine.start(plan)
    pid = _running(root, plan.name).supervisor
    files = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert not [name for name in files if name.startswith("socket:")]


def test_a_zygote_keeps_nothing_open_that_the_server_let_it_inherit(process_kit: ProcessKit, root: Path) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    high = fcntl.fcntl(leaked, fcntl.F_DUPFD, 99)  # inheritable, as a library of the server might have it
    process_kit.run(process_kit.ending())
    os.close(leaked)
    os.close(high)
    (zygote,) = zygotes(root)
    assert sorted(os.listdir(f"/proc/{zygote.pid}/fd")) == ["0", "1", "2"]


def test_a_zygote_that_cannot_be_used_is_done_without(process_kit: ProcessKit, root: Path) -> None:
    next(root.glob(".zygote-*.pyc")).write_bytes(b"broken")
    for code in (0, 3):
        assert process_kit.run(process_kit.ending(code)).exit_code == code
    assert zygotes(root) == []


def test_a_zygote_that_hangs_is_replaced(process_kit: ProcessKit, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_ANSWER_WAIT", 0.5)
    process_kit.run(process_kit.ending())
    (zygote,) = zygotes(root)
    zygote.send_signal(signal.SIGSTOP)
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: number == signal.SIGCONT or kill(pid, number))
    assert process_kit.run(process_kit.ending(5)).exit_code == 5
    assert zygote.pid not in [one.pid for one in zygotes(root)]


def test_a_zygote_that_was_stopped_goes_on(process_kit: ProcessKit, root: Path) -> None:
    process_kit.run(process_kit.ending())
    (zygote,) = zygotes(root)
    zygote.send_signal(signal.SIGSTOP)
    assert process_kit.run(process_kit.ending(5)).exit_code == 5
    assert [one.pid for one in zygotes(root)] == [zygote.pid]


def test_a_job_has_the_servers_umask(process_kit: ProcessKit) -> None:
    mask = os.umask(0)
    os.umask(mask)
    plan = process_kit.plan("umask")
    process_kit.run(plan)
    assert int(process_kit.output(plan.name)["stdout"], 8) == mask


def test_the_first_job_finds_the_zygote_warm_once_somebody_watches(process_kit: ProcessKit, root: Path) -> None:
    stop = threading.Event()
    process_kit.engine.watch(stop)
    assert len(wait_until(lambda: zygotes(root), "a zygote")) == 1  # its name shows once it runs its own program
    stop.set()
