"""What the process engine promises beyond the conformance suite: limits, environment, hostile jobs, full disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.conformance import read_all
from helpers.engine_kits import DEADLINE, ProcessKit, wait_until
from helpers.sleepers import OWN, alive

from localml.engines import ENGINES, engine_class
from localml.engines.base import Bind, EngineError, EngineUnreachable, Phase, PublishedPort, ReplicaPlan
from localml.engines.process.engine import ProcessEngine

OWN_OF_LIBC = 1 << 31 | 1 << 32  # signals 32 and 33, which no program can set


def test_importing_the_package_loads_no_engine() -> None:
    script = "import localml.engines, sys; print([m for m in ('docker', 'psutil') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_engines_are_found_by_name() -> None:
    assert engine_class("process") is ProcessEngine
    assert {engine_class(name).name for name in ENGINES} == set(ENGINES)


def test_it_says_what_is_isolated(process_kit: ProcessKit) -> None:
    (node,) = process_kit.engine.nodes()
    assert process_kit.engine.capabilities.accounts is not node.isolation.startswith("none:")


def test_the_servers_own_environment_does_not_leak(process_kit: ProcessKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALML_TEST_SECRET", "hunter2")
    plan = process_kit.plan("env")
    process_kit.run(plan)
    lines = process_kit.output(plan.name)["stdout"].decode().splitlines()
    names = {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_", "OLDPWD"}
    expected = {"HOME", "PATH", "LANG", "TMPDIR", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"}
    assert names <= expected
    assert "CUDA_VISIBLE_DEVICES=" in lines


def test_an_image_is_a_choice_of_environment(tmp_path: Path) -> None:
    known = {"torch": {"PATH": "/opt/torch/bin:/usr/bin:/bin", "WHO": "image", "ONLY": "image"}}
    engine = ProcessEngine(tmp_path, "i", environments=known.get)
    kit = ProcessKit(tmp_path)
    plan = kit.plan('echo "$PATH $WHO $ONLY"', env={"WHO": "plan"})
    plan = ReplicaPlan(plan.name, "torch", plan.command, env=plan.env)
    engine.start(plan)
    wait_until(lambda: engine.inspect(plan.name).phase is Phase.EXITED, "end")
    data = b"".join(chunk.data for chunk in engine.logs(plan.name, {}, follow=False))
    assert data == b"/opt/torch/bin:/usr/bin:/bin plan image\n"
    engine.close()
    kit.close()


def test_the_home_is_the_work_folder_and_the_folder_is_private(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan('test "$HOME" = "$PWD" && pwd', env={"TOKEN": "secret"}, workdir="/no/such/folder")
    assert process_kit.run(plan).exit_code == 0
    folder = tmp_path / "replicas" / plan.name
    assert process_kit.output(plan.name)["stdout"].decode().strip() == str(folder / "work")
    assert [path.name for path in folder.iterdir() if path.stat().st_mode & 0o077] == []


def test_a_work_folder_inside_a_bind_is_the_bound_folder(process_kit: ProcessKit, tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    bind = Bind(str(tmp_path / "data"), "/mnt/no-such-mount")
    plan = process_kit.plan("pwd", workdir="/mnt/no-such-mount/sub", binds=(bind,))
    process_kit.run(plan)
    assert process_kit.output(plan.name)["stdout"].decode().strip() == str(tmp_path / "data" / "sub")


@pytest.mark.parametrize("name", ["", ".hidden", "../other", "a/b", "a\0b"])
def test_a_name_cannot_lead_out_of_the_folder(process_kit: ProcessKit, name: str) -> None:
    with pytest.raises(EngineError, match="no name of a replica"):
        process_kit.engine.start(ReplicaPlan(name, "none", ("true",)))


def test_plans_that_cannot_work_are_refused_and_leave_nothing(process_kit: ProcessKit) -> None:
    ports = (PublishedPort("web", 80, 8080),)
    for fields, message in (
        ({"command": ()}, "a command is needed"),
        ({"command": ("true",), "ports": ports}, "cannot map 80 to 8080"),
        ({"command": ("tr\0ue",)}, "NUL"),
        ({"command": ("true",), "env": {"A=B": "c"}}, "environment variable"),
    ):
        with pytest.raises(EngineError, match=message):
            process_kit.engine.start(ReplicaPlan("refused", "none", **fields))  # type: ignore[arg-type]
    assert process_kit.engine.list() == {}


def test_a_file_that_is_no_program_fails_with_126(process_kit: ProcessKit) -> None:
    plan = ReplicaPlan("not-executable", "none", ("/etc/passwd",))
    assert process_kit.run(plan).exit_code == 126
    assert b"cannot run '/etc/passwd': Permission denied" in process_kit.output(plan.name)["stderr"]


def test_arguments_arrive_exactly(process_kit: ProcessKit) -> None:
    words = ("printf", "%s|", "", " two words ", "ünï", "$HOME", "new\nline")
    plan = ReplicaPlan("words", "none", words)
    process_kit.run(plan)
    assert process_kit.output(plan.name)["stdout"].decode() == "| two words |ünï|$HOME|new\nline|"


def test_the_program_gets_ordinary_signals_and_no_stray_files(process_kit: ProcessKit) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    high = fcntl.fcntl(leaked, fcntl.F_DUPFD, 99)  # inheritable, as a library of the server might have it
    script = "echo /proc/$$/fd/*; grep -E 'SigBlk|SigIgn' /proc/self/status"
    plan = process_kit.plan(script)
    process_kit.run(plan)
    os.close(leaked)
    os.close(high)
    words = process_kit.output(plan.name)["stdout"].decode().split()
    assert [Path(word).name for word in words[:-4]] == ["0", "1", "2", "3"]  # 3: the shell reads the folder
    assert [int(word, 16) & ~OWN_OF_LIBC for word in words[-3::2]] == [0, 0]


@pytest.fixture
def background() -> Iterator[None]:
    """A shell's background job: Ctrl-C is not meant for it, so it ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("background")
def test_a_command_has_ordinary_signals_where_the_server_runs_in_the_background(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("sleep 600")
    process_kit.engine.start(plan)
    stream = process_kit.engine.open(plan.name, ("grep", "SigIgn", "/proc/self/status"))
    _, ignored = read_all(stream)["stdout"].split()
    assert int(ignored, 16) & ~OWN_OF_LIBC == 0
    assert stream.wait() == 0
    stream.close()


def test_nothing_that_a_job_started_outlives_it(process_kit: ProcessKit) -> None:
    # One in the background, one in a session of its own, one orphaned twice over.
    script = (
        f"sleep 7001.{OWN} & setsid sleep 7002.{OWN} & (setsid sh -c 'sleep 7003.{OWN} & wait' &) ; "
        f"until [ $(ps ax | grep -c 'sleep 700[123].{OWN}$') -ge 3 ]; do :; done; echo $$"
    )
    plan = process_kit.plan(script)
    process_kit.run(plan)
    assert process_kit.output(plan.name)["stdout"].strip().isdigit()
    assert alive("7001", "7002", "7003") == []


def test_an_orphan_that_a_job_leaves_in_its_first_moment_does_not_outlive_it(process_kit: ProcessKit) -> None:
    """What a job does first must find the supervisor ready, however slow that is: so it is tried several times."""
    for number in range(20):
        process_kit.run(process_kit.plan(f"(setsid sleep 70{10 + number}.{OWN} &)"))
    assert alive(*(f"70{10 + number}" for number in range(20))) == []


def test_a_killed_job_takes_its_children_along(process_kit: ProcessKit) -> None:
    plan = process_kit.plan(f"trap '' TERM; setsid sleep 7004.{OWN} & sleep 7005.{OWN} & echo ready; wait; wait")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    process_kit.engine.stop(plan.name, 0)
    assert process_kit.wait_end(plan.name).signal == 9
    assert alive("7004", "7005") == []


def test_no_zombies_are_left(process_kit: ProcessKit) -> None:
    before = {child.pid for child in psutil.Process().children()}  # one of an earlier test may end now
    for _ in range(3):
        process_kit.run(process_kit.ending())
    wait_until(lambda: _zombies() <= before, "reaping")
    plan = process_kit.endless()
    process_kit.engine.start(plan)
    process_kit.engine.remove(plan.name)
    assert _zombies() <= before


def test_memory_over_the_limit_is_refused_to_the_program(process_kit: ProcessKit) -> None:
    script = "bytearray(300 << 20)"
    plan = ReplicaPlan("greedy", "none", (sys.executable, "-S", "-c", script), memory=200 << 20)
    assert process_kit.run(plan).exit_code == 1
    assert b"MemoryError" in process_kit.output(plan.name)["stderr"]
    modest = ReplicaPlan("modest", "none", (sys.executable, "-S", "-c", script), memory=400 << 20)
    assert process_kit.run(modest).exit_code == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_cpu_is_limited_to_cores_which_take_turns(process_kit: ProcessKit) -> None:
    seen = []
    for _ in range(2):
        plan = process_kit.plan("grep Cpus_allowed_list /proc/self/status", cpu=0.5)
        process_kit.run(plan)
        seen.append(process_kit.output(plan.name)["stdout"].split()[-1])
    assert all(cores.isdigit() for cores in seen)
    assert seen[0] != seen[1]


def test_use_counts_the_whole_tree(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("setsid sleep 600 & sleep 600 & sh -c 'while :; do :; done'")
    process_kit.engine.start(plan)

    def busy() -> bool:
        use = process_kit.engine.stats(plan.name)
        return use is not None and use.cpu_seconds > 0.05 and (use.pids or 0) >= 4

    wait_until(busy, "four processes that use the processor")


def test_a_command_beside_a_replica_is_killed_when_it_takes_too_long(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("sleep 600")
    process_kit.engine.start(plan)
    with pytest.raises(EngineError, match=r"did not end within 0\.05 s"):
        process_kit.engine.exec(plan.name, ("sh", "-c", f"sleep 7006.{OWN}; true"), timeout=0.05)
    assert alive("7006") == []
    assert process_kit.engine.exec(plan.name, ("no-such-program",)).exit_code == 127


def test_folders_that_forbid_everything_are_removed(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan("mkdir -p a/b; touch a/b/c; chmod 0 a/b/c a/b a; ln -s /etc/passwd link")
    process_kit.run(plan)
    process_kit.engine.remove(plan.name)
    assert [path.name for path in (tmp_path / "replicas").iterdir() if not path.name.startswith(".")] == []
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("later", [False, True], ids=["same server", "another server"])
def test_what_runs_without_its_folder_is_killed_before_it_is_called_gone(
    process_kit: ProcessKit, tmp_path: Path, later: bool
) -> None:
    """A cleaner of temporary files, say: its GPU is given to others from then on."""
    plan = process_kit.plan(f"setsid sleep 7010.{OWN} & exec sleep 7010.{OWN}")
    process_kit.engine.start(plan)
    wait_until(lambda: len(alive("7010")) == 2, "its processes")
    stands = subprocess.Popen(["sleep", "600"], cwd=tmp_path / "replicas" / plan.name)
    try:
        shutil.rmtree(tmp_path / "replicas" / plan.name)
        engine = process_kit.reopen() if later else process_kit.engine
        assert engine.inspect(plan.name).phase is Phase.GONE
        assert alive("7010") == []
        assert stands.poll() is None, "who only stands there is not ours"
    finally:
        stands.kill()
        stands.wait()


def test_a_root_that_vanished_says_nothing_about_replicas(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.ending()
    process_kit.run(plan)
    (tmp_path / "replicas").rename(tmp_path / "away")
    with pytest.raises(EngineUnreachable):
        process_kit.engine.inspect(plan.name)
    with pytest.raises(EngineUnreachable):
        process_kit.engine.list()
    (tmp_path / "away").rename(tmp_path / "replicas")
    assert process_kit.engine.inspect(plan.name).exit_code == 0


def test_an_engine_at_rest_uses_no_cpu(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("echo ready; sleep 600")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    stop = threading.Event()
    names = process_kit.engine.watch(stop)
    reader = threading.Thread(target=lambda: list(names), daemon=True)
    reader.start()
    mine = {thread.native_id for thread in threading.enumerate() if thread.name in {"process-exits", reader.name}}

    def rests() -> bool:
        before = _switches(mine)
        threading.Event().wait(0.3)
        return _switches(mine) - before <= 2

    wait_until(rests, "rest after the beginning")
    stop.set()
    reader.join(DEADLINE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_job_that_fills_the_disk_still_has_an_end(small_disk: Path) -> None:
    engine = ProcessEngine(small_disk / "replicas", "i")
    engine.start(ReplicaPlan("filler", "none", ("sh", "-c", "cat /dev/zero > fill; exit 6")))
    wait_until(lambda: engine.inspect("filler").phase is Phase.EXITED, "end")
    assert engine.inspect("filler").exit_code == 6
    with pytest.raises(EngineError, match="No space left on device"):
        engine.start(ReplicaPlan("next", "none", ("true",)))
    assert list(engine.list()) == ["filler"]
    engine.remove("filler")
    assert engine.start(ReplicaPlan("next", "none", ("true",))).phase is Phase.RUNNING
    wait_until(lambda: engine.inspect("next").phase is Phase.EXITED, "end")
    engine.close()


def _zombies() -> set[int]:
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def _switches(threads: set[int | None]) -> int:
    """How often threads of this process went to sleep."""
    total = 0
    for thread in threads:
        for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
