"""Output goes through pipes: who writes is held back when nobody keeps up or the disk is full, and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.engine_kits import BoxedKit, ProcessKit, wait_until
from helpers.sleepers import OWN, alive

from localml.engines.base import Account, Phase
from localml.engines.process import pipes
from localml.engines.process.engine import ProcessEngine
from localml.engines.process.folder import ReplicaDir

REOPENS = """
import os, sys
for number, name in ((1, "/dev/stdout"), (2, "/dev/stderr")):
    os.write(number, b"first\\n")
    for mode in ("w", "a", "wb"):
        with open(name, mode) as file:
            file.write(b"b\\n" if "b" in mode else mode + "\\n")
    os.write(number, b"last\\n")
"""


def _file(root: Path, name: str) -> Path:
    return root / "replicas" / name / "stdout"


def test_a_program_of_another_user_opens_its_own_output_anew(tmp_path: Path) -> None:
    kit = BoxedKit(tmp_path / "replicas")
    try:
        plan = kit._plan(command=(sys.executable, "-I", "-S", "-c", REOPENS), account=Account(2_000_000_005, 5, ()))
        assert kit.run(plan).exit_code == 0, kit.output(plan.name)
        assert kit.output(plan.name) == dict.fromkeys(("stdout", "stderr"), b"first\nw\na\nb\nlast\n")
    finally:
        kit.close()


def test_all_of_a_flood_arrives_and_in_its_order(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("seq 300000 & seq 300000 >&2; wait")
    assert process_kit.run(plan).exit_code == 0
    expected = b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert process_kit.output(plan.name) == {"stdout": expected, "stderr": expected}


def test_what_was_written_just_before_a_kill_is_kept(process_kit: ProcessKit) -> None:
    for _ in range(10):
        plan = process_kit.plan("head -c 50000 /dev/zero; echo ready >&2; kill -9 $$")
        assert process_kit.run(plan).signal == 9
        assert process_kit.output(plan.name) == {"stdout": bytes(50_000), "stderr": b"ready\n"}


def test_who_is_far_ahead_is_held_back_and_comes_to_its_end(process_kit: ProcessKit, tmp_path: Path) -> None:
    """Nobody carries its output away, as when no server runs; when somebody does, it goes on at full speed."""
    size = pipes.NEAR + (8 << 20)
    slow, swift = (process_kit.plan(f"head -c {size} /dev/zero") for _ in range(2))
    began = time.monotonic()
    assert process_kit.run(slow).exit_code == 0
    held = time.monotonic() - began
    assert _file(tmp_path, slow.name).stat().st_size == size
    assert held >= (size - pipes.NEAR) / pipes.FAST  # it may be more on a busy machine, never less
    process_kit.engine.start(swift)
    path = _file(tmp_path, swift.name)

    def over() -> bool:
        process_kit.engine.carried(swift.name, {"stdout": path.stat().st_size})
        return process_kit.engine.inspect(swift.name).phase is Phase.EXITED

    wait_until(over, "its end")
    assert path.stat().st_size == size


def test_a_frozen_supervisor_holds_its_program_back_and_loses_nothing(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan("echo ready; read x < work; head -c 1000000 /dev/zero; exit 4", workdir=str(tmp_path))
    os.mkfifo(tmp_path / "work")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    record = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert record is not None
    os.kill(record.supervisor, signal.SIGSTOP)
    (tmp_path / "work").write_text("go\n")
    child = psutil.Process(record.child)
    wait_until(lambda: any(one.name() == "head" for one in child.children()), "the flood")
    assert wait_until(lambda: process_kit.engine.list()[plan.name].phase is Phase.EXITED, "its end")
    assert process_kit.engine.inspect(plan.name).exit_code == 4
    assert process_kit.output(plan.name)["stdout"] == b"ready\n" + bytes(1_000_000)


def test_who_holds_the_pipe_from_outside_delays_an_end_by_seconds_at_most(
    process_kit: ProcessKit, tmp_path: Path
) -> None:
    plan = process_kit.plan("echo ready; sleep 600")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    record = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert record is not None
    with open(f"/proc/{record.child}/fd/1", "wb", buffering=0):
        began = time.monotonic()
        process_kit.engine.stop(plan.name, 30)
        assert process_kit.wait_end(plan.name).signal == signal.SIGTERM
        assert time.monotonic() - began < pipes.HELD_WAIT + 5
    assert process_kit.output(plan.name)["stdout"] == b"ready\n"


def test_a_supervisor_sleeps_while_nothing_is_written(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan("echo ready; sleep 600")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    record = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert record is not None
    tasks = Path(f"/proc/{record.supervisor}/task")
    wait_until(lambda: len(list(tasks.iterdir())) == 3, "its threads")

    def awake() -> set[str]:
        """System calls that its threads wait in, where the kernel says so."""
        return {(task / "wchan").read_text() for task in tasks.iterdir()} & {"hrtimer_nanosleep"}

    wait_until(lambda: not awake(), "rest")
    before = psutil.Process(record.supervisor).num_ctx_switches()
    process_kit.run(process_kit.plan("sleep 0.3"))
    assert psutil.Process(record.supervisor).num_ctx_switches() == before


def test_replicas_of_before_there_were_pipes_go_on(process_kit: ProcessKit, tmp_path: Path) -> None:
    """Their record names none, and who writes to their files is found by these."""
    plan = process_kit.plan(f"(setsid sh -c 'sleep 7401.{OWN} >> ../stdout' &); echo ready; sleep 600")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    wait_until(lambda: alive("7401"), "what left the session")
    folder = ReplicaDir(tmp_path / "replicas" / plan.name)
    record = folder.running()
    assert record is not None
    text = (folder.path / "running.json").read_text()
    before, _, rest = text.partition('"outputs"')
    (folder.path / "running.json").write_text(before + rest[rest.index('"boot_id"') :])
    assert folder.running() is not None
    assert process_kit.reopen().inspect(plan.name).phase is Phase.RUNNING
    os.kill(record.supervisor, signal.SIGKILL)
    assert process_kit.wait_end(plan.name).signal == 9
    assert alive("7401") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where that is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class SmallKit(ProcessKit):
    """The process engine on a disk that is soon full."""

    def __init__(self, disk: Path) -> None:
        super().__init__(disk / "replicas")


def test_on_a_full_disk_a_program_waits_and_nothing_is_lost(small_disk: Path) -> None:
    kit = SmallKit(small_disk)
    plan = kit.plan("head -c 3000000 /dev/zero; echo $?")
    kit.engine.start(plan)
    wait_until(lambda: os.statvfs(small_disk).f_bfree == 0, "a full disk")
    assert kit.engine.inspect(plan.name).phase is Phase.RUNNING
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert kit.wait_end(plan.name).error == ""
    assert kit.output(plan.name)["stdout"] == bytes(3_000_000) + b"0\n"
    kit.close()


def test_on_a_full_disk_a_program_that_waits_is_stopped_and_what_is_missing_is_said(small_disk: Path) -> None:
    kit = SmallKit(small_disk)
    plan = kit.plan("head -c 3000000 /dev/zero")
    kit.engine.start(plan)
    wait_until(lambda: os.statvfs(small_disk).f_bfree == 0, "a full disk")
    began = time.monotonic()
    kit.engine.stop(plan.name, 5)
    seen = kit.wait_end(plan.name)
    assert (seen.signal, seen.error) == (signal.SIGTERM, "stdout is not complete: No space left on device")
    assert time.monotonic() - began < 5 + pipes.HELD_WAIT
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    kit.close()


def test_a_disk_that_fails_for_good_ends_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a failing write would tell the program; ``/dev/full`` is no full disk if it says something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipes, "PATIENCE", 0.1)
    monkeypatch.setattr(pipes, "FULL", ())
    (tmp_path / "stdout").symlink_to("/dev/full")
    made = pipes.Pipes(None)
    writing = [os.dup(number) for number in made._given]
    made.begin()
    os.write(writing[0], b"lost")

    def told() -> bool:
        try:
            return os.write(writing[0], b"more") < 0
        except BrokenPipeError:
            return True

    wait_until(told, "the end of the pipe")
    for number in writing:
        os.close(number)
    assert made.finish(lambda: False) == "stdout is not complete: No space left on device"


def test_without_room_for_a_thread_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(function: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pipes._thread, "start_new_thread", refuse)
    with pytest.raises(OSError, match="can't start new thread to copy the output"):
        pipes.Pipes(None).begin()


def test_an_engine_without_a_zygote_copies_as_well(tmp_path: Path) -> None:
    kit = ProcessKit(tmp_path / "replicas")
    assert isinstance(kit.engine, ProcessEngine)
    kit.engine._supervisors._spawner._usable = False
    plan = kit.plan("echo one; echo two > /dev/stdout")
    assert kit.run(plan).exit_code == 0
    assert kit.output(plan.name)["stdout"] == b"one\ntwo\n"
    kit.close()
