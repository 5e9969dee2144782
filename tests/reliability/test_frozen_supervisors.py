"""A supervisor that is frozen, killed or stuck keeps no GPU: its replica's end comes, in bounded time."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers.counts import count
from helpers.engine_kits import ProcessKit, wait_until
from helpers.sleepers import OWN, alive

from localml.engines.base import EngineError, Phase
from localml.engines.process import exec as exec_module
from localml.engines.process import folder as folders
from localml.engines.process import supervisor
from localml.engines.process.exits import ExitWatcher, Watched
from localml.engines.process.folder import ReplicaDir, RunningRecord
from localml.engines.process.io import kill_session
from localml.engines.process.supervisors import LAST, LATE

_SOON = LATE + LAST + 5.0


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[ProcessKit]:
    found = ProcessKit(tmp_path / "replicas")
    yield found
    found.close()


@pytest.fixture
def running(kit: ProcessKit, tmp_path: Path) -> Callable[..., tuple[str, RunningRecord]]:
    """Starts a script; its name and who runs it, once it has written something."""

    def begin(script: str) -> tuple[str, RunningRecord]:
        plan = kit.plan(script)
        kit.engine.start(plan)
        kit.wait_ready(plan.name)
        record = ReplicaDir(tmp_path / "replicas" / plan.name).running()
        assert record is not None
        count("faults injected")
        return plan.name, record

    return begin


Begin = Callable[..., tuple[str, RunningRecord]]


def _freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "a standstill")


def test_a_stop_wakes_a_frozen_supervisor(kit: ProcessKit, running: Begin) -> None:
    name, record = running('trap "exit 21" TERM; echo ready; sleep 600 & wait')
    _freeze(record.supervisor)
    kit.engine.stop(name, 30)
    assert kit.wait_end(name).exit_code == 21


def test_a_program_that_ended_while_its_supervisor_was_frozen_has_its_own_end(kit: ProcessKit, running: Begin) -> None:
    name, record = running("echo ready; sleep 0.2; exit 7")
    _freeze(record.supervisor)
    wait_until(lambda: psutil.Process(record.child).status() == psutil.STATUS_ZOMBIE, "the program's end")
    assert wait_until(lambda: kit.engine.list()[name].phase is Phase.EXITED, "its end being known")
    assert kit.engine.inspect(name).exit_code == 7


def test_a_frozen_program_is_killed_after_the_grace(kit: ProcessKit, running: Begin) -> None:
    name, record = running(f"setsid sleep 7301.{OWN} & echo ready; wait")
    _freeze(record.child)
    kit.engine.stop(name, 0.2)
    assert kit.wait_end(name).signal == 9
    assert alive("7301") == []


def test_a_supervisor_that_cannot_be_woken_is_done_without(
    kit: ProcessKit, running: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, record = running(f"trap '' TERM; setsid sleep 7302.{OWN} & sleep 7303.{OWN} & echo ready; wait; wait")
    send = Watched.send
    monkeypatch.setattr(Watched, "send", lambda self, number: number == signal.SIGCONT or send(self, number))
    _freeze(record.supervisor)
    began = time.monotonic()
    kit.engine.stop(name, 0.2)
    assert kit.wait_end(name).signal == 9
    assert time.monotonic() - began < _SOON
    assert alive("7302", "7303") == []


def test_a_frozen_one_is_removed(kit: ProcessKit, running: Begin) -> None:
    name, record = running("echo ready; sleep 600")
    _freeze(record.supervisor)
    _freeze(record.child)
    kit.engine.remove(name)
    assert kit.engine.inspect(name).phase is Phase.GONE
    assert not psutil.pid_exists(record.child)


def test_what_escaped_a_killed_supervisor_is_found_by_its_output(kit: ProcessKit, running: Begin) -> None:
    """It left the session, and its parent: only what it writes to tells whose it is."""
    name, record = running(f"(setsid sh -c 'sleep 7304.{OWN} & sleep 7305.{OWN}' &); sleep 0.2; echo ready; sleep 600")
    os.kill(record.supervisor, signal.SIGKILL)
    assert kit.wait_end(name).signal == 9
    assert alive("7304", "7305") == []


def test_what_a_killed_supervisor_leaves_does_not_go_on_in_between(kit: ProcessKit, running: Begin) -> None:
    """A program whose child was killed first would write on, as if the child had come to its own end."""
    for _ in range(20):
        name, record = running("echo ready; i=0; while sleep 600; [ $i -lt 9 ]; do echo went on; i=$((i+1)); done")
        os.kill(record.supervisor, signal.SIGKILL)
        assert kit.wait_end(name).signal == 9
        assert kit.output(name)["stdout"] == b"ready\n"
        kit.engine.remove(name)


def test_without_its_lock_a_replica_is_found_and_stopped_by_the_next_server(kit: ProcessKit, running: Begin) -> None:
    name, _ = running('trap "exit 21" TERM; echo ready; sleep 600 & wait')
    [lock] = Path(kit.engine._root).glob(f"{name}/lock")  # type: ignore[attr-defined]
    lock.unlink()
    engine = kit.reopen()
    assert engine.inspect(name).phase is Phase.RUNNING
    engine.stop(name, 30)
    assert kit.wait_end(name).exit_code == 21
    engine.remove(name)


def test_without_its_lock_a_killed_supervisor_is_still_an_end(kit: ProcessKit, running: Begin) -> None:
    name, record = running(f"echo ready; sleep 7306.{OWN}")
    [lock] = Path(kit.engine._root).glob(f"{name}/lock")  # type: ignore[attr-defined]
    lock.unlink()
    engine = kit.reopen()
    os.kill(record.supervisor, signal.SIGKILL)
    assert wait_until(lambda: engine.inspect(name).phase is Phase.EXITED, "its end")
    assert alive("7306") == []


def test_a_full_disk_does_not_keep_a_job_running(
    kit: ProcessKit, running: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = running("echo ready; sleep 600")

    def full(path: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders, "_write_private", full)
    kit.engine.stop(name, 0.0)
    assert kit.wait_end(name).phase is Phase.EXITED


def test_an_end_that_no_disk_takes_is_told_all_the_same(
    kit: ProcessKit, running: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, record = running("echo ready; sleep 600")

    def refuse(self: ReplicaDir, end: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(ReplicaDir, "write_end", refuse)
    os.kill(record.supervisor, signal.SIGKILL)
    assert kit.wait_end(name).signal == 9


def test_a_folder_that_cannot_be_read_hides_no_other_and_is_no_end(
    kit: ProcessKit, running: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, _ = running("echo ready; sleep 600")
    whole, _ = running("echo ready; sleep 600")
    read = ReplicaDir._read

    def fail(self: ReplicaDir, name: str) -> object:
        if self.path.name == broken and name == "exit.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return read(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(ReplicaDir, "_read", fail)
        assert {name: seen.phase for name, seen in kit.engine.list().items()} == {
            broken: Phase.RUNNING,
            whole: Phase.RUNNING,
        }


@pytest.mark.parametrize("file", ["running.json", "exit.json"])
def test_a_record_of_other_members_stops_nobody(kit: ProcessKit, running: Begin, file: str) -> None:
    name, record = running("echo ready; sleep 600")
    (Path(kit.engine._root) / name / file).write_text('{"unknown": 1}')  # type: ignore[attr-defined]
    assert kit.engine.list()[name].phase is Phase.RUNNING
    os.kill(record.supervisor, signal.SIGKILL)
    assert kit.wait_end(name).phase is Phase.EXITED


def test_who_watches_ends_outlives_what_fails_there(caplog: pytest.LogCaptureFixture) -> None:
    def fail(watched: object) -> None:
        raise ValueError("a defect")

    exits = ExitWatcher(fail)
    for _ in range(2):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        watched = exits.add("job", pid)
        with caplog.at_level(logging.ERROR, "localml.engines"):
            assert watched is None or watched.ended.wait(10)
    exits.close()


def test_a_command_whose_child_holds_its_output_does_not_hold_who_asked(kit: ProcessKit, running: Begin) -> None:
    name, _ = running("echo ready; sleep 600")
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"did not end within 0\.5 s"):
        kit.engine.exec(name, ("sh", "-c", f"(setsid sleep 7307.{OWN} &) ; sleep 7308.{OWN}"), timeout=0.5)
    assert time.monotonic() - began < 8
    assert alive("7307", "7308") == []


def test_letting_go_of_a_command_that_cannot_be_killed_takes_seconds(
    kit: ProcessKit, running: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = running("echo ready; sleep 600")
    stream = kit.engine.open(name, ("sh", "-c", f"trap '' HUP; sleep 7309.{OWN} & wait; wait"))
    wait_until(lambda: alive("7309"), "the command")
    with monkeypatch.context() as patched:
        patched.setattr(exec_module, "kill_session", lambda leader, ticks: set())
        patched.setattr(signal, "pidfd_send_signal", lambda descriptor, number: None)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 10
    kill_session(stream._pid, stream._ticks)  # type: ignore[attr-defined]
    os.kill(stream._pid, signal.SIGKILL)  # type: ignore[attr-defined]
    os.waitpid(stream._pid, 0)  # type: ignore[attr-defined]


def test_a_supervisor_gives_up_on_what_hangs_in_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be made to hang there at will, so one is made up: never reaped, always there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "REST_WAIT", 0.2)
    monkeypatch.setattr(supervisor, "_children", lambda: [99])
    monkeypatch.setattr(supervisor, "_send", lambda send, target, number: None)
    monkeypatch.setattr(supervisor.os, "waitpid", lambda pid, options: (0, 0))
    one = supervisor.Supervisor(supervisor.Launch(b"\0\0true\0"))
    assert one._kill_rest() == "processes that hang in the kernel are left: [99]"
