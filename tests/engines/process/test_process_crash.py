"""The process engine when things die: the server at any point, the supervisor, the whole machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.engine_kits import ProcessKit, wait_until
from helpers.sleepers import OWN, alive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localml.engines.base import Phase, ReplicaPlan
from localml.engines.process.engine import ProcessEngine
from localml.engines.process.folder import EndRecord, ReplicaDir
from localml.engines.process.launch import Launch

SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from localml.engines.base import ReplicaPlan
from localml.engines.process.engine import ProcessEngine
engine = ProcessEngine(Path(sys.argv[1]), "conformance")
engine.start(ReplicaPlan("job", "none", ("sh", "-c", sys.argv[2])))
if sys.argv[3] == "remove":
    engine.remove("job")
print("went on", flush=True)
"""


def _server(root: Path, script: str, *, failpoint: str = "", verb: str = "start") -> int:
    """Run a server of its own that starts a job, and perhaps dies at a failpoint; its exit status."""
    env = {**os.environ, "LOCALML_FAILPOINT": failpoint} if failpoint else dict(os.environ)
    done = subprocess.run([sys.executable, "-c", SERVER, root, script, verb], env=env, capture_output=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.mark.parametrize("failpoint", ["after-create", "after-start"])
def test_a_server_killed_during_start_leads_to_one_run(process_kit: ProcessKit, tmp_path: Path, failpoint: str) -> None:
    root = tmp_path / "replicas"
    assert _server(root, "echo ran; sleep 0.1", failpoint=failpoint) == -signal.SIGKILL
    assert process_kit.engine.inspect("job").phase is not Phase.GONE
    process_kit.engine.start(ReplicaPlan("job", "none", ("sh", "-c", "echo ran; sleep 0.1")))
    assert process_kit.wait_end("job").exit_code == 0
    assert process_kit.output("job")["stdout"] == b"ran\n"


def test_a_server_killed_during_remove_leaves_it_to_the_next(process_kit: ProcessKit, tmp_path: Path) -> None:
    root = tmp_path / "replicas"
    assert _server(root, "sleep 600", failpoint="before-remove", verb="remove") == -signal.SIGKILL
    assert process_kit.wait_end("job").phase is Phase.EXITED
    process_kit.engine.remove("job")
    assert not (root / "job").exists()


def test_a_job_outlives_its_server_and_its_end_is_known(process_kit: ProcessKit, tmp_path: Path) -> None:
    assert _server(tmp_path / "replicas", 'trap "exit 21" TERM; echo ready; sleep 600 & wait') == 0
    process_kit.wait_ready("job")
    assert process_kit.engine.inspect("job").phase is Phase.RUNNING
    process_kit.engine.stop("job", 30)
    assert process_kit.wait_end("job").exit_code == 21


def test_a_job_that_ended_while_no_server_ran_is_found_ended(process_kit: ProcessKit, tmp_path: Path) -> None:
    assert _server(tmp_path / "replicas", "exit 22") == 0
    assert process_kit.wait_end("job").exit_code == 22


def test_two_engines_that_start_the_same_at_once_make_one(process_kit: ProcessKit) -> None:
    engines = [process_kit.engine, process_kit.reopen()]
    for _ in range(5):
        plan = process_kit.plan("echo ran")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i, plan=plan: engines[i % 2].start(plan), range(4)))  # type: ignore[misc]
        assert process_kit.wait_end(plan.name).exit_code == 0
        assert process_kit.output(plan.name)["stdout"] == b"ran\n"


def test_stopping_what_was_never_begun_ends_it_without_a_run(process_kit: ProcessKit, tmp_path: Path) -> None:
    assert _server(tmp_path / "replicas", "echo ran", failpoint="after-create") == -signal.SIGKILL
    assert process_kit.engine.inspect("job").phase is Phase.CREATED
    process_kit.engine.stop("job", 5)
    seen = process_kit.wait_end("job")
    assert (seen.signal, seen.error) == (15, "stopped before it began")
    assert process_kit.output("job")["stdout"] == b""


def test_a_stop_at_the_worst_moment_is_not_lost(process_kit: ProcessKit, tmp_path: Path) -> None:
    """The supervisor waits for its signals and handles none: a handled one that comes just before it blocks would be
    seen when the job is over. That moment cannot be met at will, so what is asked is that none is handled."""
    plan = process_kit.plan("exec sleep 600")
    process_kit.engine.start(plan)
    folder = ReplicaDir(tmp_path / "replicas" / plan.name)
    running = wait_until(folder.running, "start")
    lines = dict(line.split(":\t") for line in Path(f"/proc/{running.supervisor}/status").read_text().splitlines())
    assert not int(lines["SigCgt"], 16) & (1 << (signal.SIGTERM - 1))
    process_kit.engine.stop(plan.name, 0)
    assert process_kit.wait_end(plan.name).signal in (signal.SIGTERM, signal.SIGKILL)


def test_a_killed_supervisor_is_an_end_and_leaves_no_process(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan(f"sleep 7101.{OWN} & sleep 7102.{OWN} & echo ready; wait")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    running = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert running is not None
    os.kill(running.supervisor, signal.SIGKILL)
    seen = process_kit.wait_end(plan.name)
    assert (seen.exit_code, seen.signal, seen.error) == (None, 9, "the supervisor was killed")
    assert seen.interrupted == "the supervisor was killed"
    wait_until(lambda: not alive("7101", "7102"), "end of the leftovers")


@pytest.mark.parametrize("code", [0, 3, None])
def test_a_shutdown_is_told_from_a_stop(process_kit: ProcessKit, tmp_path: Path, code: int | None) -> None:
    """Whoever ends all processes of the machine, or of a service, ends the supervisors, too; nobody asked for that."""
    trap = "" if code is None else f"trap 'exit {code}' TERM; "
    plan = process_kit.plan(f"{trap}echo ready; while :; do sleep 0.05; done")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    running = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert running is not None
    os.kill(running.supervisor, signal.SIGTERM)
    seen = process_kit.wait_end(plan.name)
    assert seen.exit_code == code
    assert "the machine, or the service that it belongs to, was shut down" in seen.interrupted


def test_a_shutdown_that_ends_the_program_first_is_told_all_the_same(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan("echo ready; exec sleep 600")
    process_kit.engine.start(plan)
    process_kit.wait_ready(plan.name)
    running = ReplicaDir(tmp_path / "replicas" / plan.name).running()
    assert running is not None
    os.kill(running.child, signal.SIGTERM)
    os.kill(running.supervisor, signal.SIGTERM)
    seen = process_kit.wait_end(plan.name)
    assert seen.signal == signal.SIGTERM
    assert seen.interrupted


@pytest.mark.parametrize("script", ["exec sleep 600", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"])
def test_a_stop_and_a_kill_are_no_shutdown(process_kit: ProcessKit, tmp_path: Path, script: str) -> None:
    for end in ("stop", "kill"):
        plan = process_kit.plan(f"echo ready; {script}")
        process_kit.engine.start(plan)
        process_kit.wait_ready(plan.name)
        running = ReplicaDir(tmp_path / "replicas" / plan.name).running()
        assert running is not None
        if end == "stop":
            process_kit.engine.stop(plan.name, 5)
        else:
            os.kill(running.child, signal.SIGTERM)
        assert process_kit.wait_end(plan.name).interrupted == "", end


def test_a_supervisor_killed_while_no_server_ran(process_kit: ProcessKit, tmp_path: Path) -> None:
    root = tmp_path / "replicas"
    assert _server(root, f"echo ready; sleep 7103.{OWN}") == 0
    process_kit.wait_ready("job")
    running = ReplicaDir(root / "job").running()
    assert running is not None
    os.kill(running.supervisor, signal.SIGKILL)
    assert process_kit.wait_end("job").error == "the supervisor was killed"
    wait_until(lambda: not alive("7103"), "end of the leftovers")


def test_a_supervisor_that_fails_before_it_runs_anything_is_told(process_kit: ProcessKit, tmp_path: Path) -> None:
    (next((tmp_path / "replicas").glob(".supervisor-*.pyc"))).write_bytes(b"broken")
    plan = process_kit.ending()
    process_kit.engine.start(plan)
    seen = process_kit.wait_end(plan.name)
    assert seen.exit_code == 125
    assert seen.error.startswith("the supervisor failed:")


def test_a_restarted_machine_is_told_from_a_killed_supervisor(process_kit: ProcessKit, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        folder = _interrupted(tmp_path, bystander.pid, boot="another-boot")
        seen = process_kit.engine.inspect(folder.path.name)
        assert (seen.phase, seen.signal, seen.error) == (Phase.EXITED, 9, "the machine was restarted")
        assert seen.interrupted == "the machine was restarted"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_got_the_supervisors_number_is_not_harmed(process_kit: ProcessKit, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        folder = _interrupted(tmp_path, bystander.pid, boot=boot)
        assert process_kit.engine.inspect(folder.path.name).error == "the supervisor was killed"
        assert bystander.poll() is None
    finally:
        os.killpg(bystander.pid, signal.SIGKILL)
        bystander.wait()


def test_a_folder_without_a_whole_plan_is_no_replica(process_kit: ProcessKit, tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("torn", b'{"plan": {'), ("other", b"[]")):
        (tmp_path / "replicas" / name).mkdir()
        (tmp_path / "replicas" / name / "plan.json").write_bytes(content)
    assert process_kit.engine.list() == {}
    (tmp_path / "replicas" / "no-plan").mkdir()
    assert process_kit.run(ReplicaPlan("no-plan", "none", ("true",))).exit_code == 0
    assert process_kit.run(ReplicaPlan("torn", "none", ("true",))).exit_code == 0


ENDS = st.one_of(
    st.builds(EndRecord, st.integers(0, 255), st.none(), st.booleans(), st.floats(1.0, 4e9)),
    st.builds(EndRecord, st.none(), st.integers(1, 64), st.booleans(), st.floats(1.0, 4e9), error=st.text(max_size=50)),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(plan=st.booleans(), running=st.booleans(), end=st.none() | ENDS, stop=st.booleans())
def test_every_set_of_files_has_one_meaning_that_stays(
    tmp_path: Path, plan: bool, running: bool, end: EndRecord | None, stop: bool
) -> None:
    """Whatever was written before everything died: the phase follows, twice the same, and an end never changes."""
    engine = ProcessEngine(tmp_path / "replicas", "i")
    folder = ReplicaDir(tmp_path / "replicas" / "job")
    folder.delete()
    folder.create(ReplicaPlan("job", "none"), {"localml.install": "i"}, Launch(("true",), {}, "/"))
    if running:
        _write_running(folder, 1 << 22, "another-boot")
    if end is not None:
        with folder.owned() as owned:
            assert owned
            folder.write_end(end)
    if stop:
        folder.ask_to_stop(1.0)
    if not plan:
        folder.forget()
    first = engine.inspect("job")
    expected = Phase.GONE if not plan else Phase.EXITED if end is not None or running else Phase.CREATED
    assert first.phase is expected
    if plan and end is not None:
        assert (first.exit_code, first.signal, first.error) == (end.exit_code, end.signal, end.error)
    other = ProcessEngine(tmp_path / "replicas", "i")
    assert engine.inspect("job") == other.inspect("job") == first
    engine.close()
    other.close()


def _interrupted(tmp_path: Path, supervisor: int, boot: str) -> ReplicaDir:
    """A folder as it is left by a machine that stopped while a job ran."""
    folder = ReplicaDir(tmp_path / "replicas" / "interrupted")
    launch = Launch(("true",), {}, "/")
    folder.create(ReplicaPlan("interrupted", "none"), {"localml.install": "conformance"}, launch)
    _write_running(folder, supervisor, boot)
    return folder


def _write_running(folder: ReplicaDir, supervisor: int, boot: str) -> None:
    fields = {"supervisor": supervisor, "start_ticks": 1, "child": supervisor, "boot_id": boot, "started_at": 1.0}
    (folder.path / "running.json").write_text(json.dumps(fields))
