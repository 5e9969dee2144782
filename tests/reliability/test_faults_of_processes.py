"""The process engine behind faults, with real programs, threads and time."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.engine_kits import wait_until
from helpers.faults import VERBS
from helpers.live_rig import Gated, LiveRig
from helpers.rig import INSTALL, ME
from sqlmodel import col, select

from localml.core.capacity.tables import GpuLease
from localml.core.work.causes import Cause
from localml.core.work.specs import Resources, WorkloadSpec, single
from localml.core.work.states import AttemptState, State
from localml.engines.process.engine import ProcessEngine

pytestmark = pytest.mark.slow

JOBS = 24
SHORT, LONG = 1, 25
SAYS = "touch {ran}; i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done; exit {code}"
WAITS = "touch {ran}; trap 'echo told; exit 143' TERM; echo ready; sleep 600 & wait"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LiveRig]:
    one = LiveRig(tmp_path, Gated(ProcessEngine(tmp_path / "replicas", INSTALL), random.Random(1)), gpus=1)
    yield one
    one.faulty.gate.set()  # type: ignore[attr-defined]
    one.close()


def shell(script: str, gpu: float = 0, **rest: object) -> WorkloadSpec:
    return single(["sh", "-c", script], resources=Resources(gpu=gpu), **rest)  # type: ignore[arg-type]


def test_the_gpu_goes_to_the_next_while_the_output_is_still_copied(rig: LiveRig) -> None:
    gate = rig.faulty.gate  # type: ignore[attr-defined]
    gate.clear()
    first = rig.submit("first", shell("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 3", gpu=1))
    second = rig.submit("second", shell("trap 'exit 0' TERM; echo there; sleep 600 & wait", gpu=1))
    wait_until(lambda: rig.state(second) == "running", "the second one's start")
    full = rig.get(first)
    assert (full.row.state, full.attempts[0].state, full.leases) == (State.RUNNING, AttemptState.RUNNING, [])
    assert full.attempts[0].exited_at is not None
    reason = rig.loop.why(first)
    assert reason is not None
    assert reason.code == "draining"
    gate.set()
    wait_until(lambda: rig.over(first), "the first one's end")
    row, one = rig.get(first).row, rig.get(first).attempts[0]
    assert (row.state, row.exit_code, rig.state(second)) == (State.FAILED, 3, "running")
    assert rig.logs.read(first, one.name, "stdout", 0, 1 << 20) == b"".join(b"line %d\n" % n for n in range(2000))


def test_programs_end_as_they_ended_whatever_the_engine_said_meanwhile(tmp_path: Path, long_form: bool) -> None:
    for seed in range(LONG if long_form else SHORT):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _storm(folder, random.Random(seed))
        shutil.rmtree(folder, ignore_errors=True)


def _storm(folder: Path, chance: random.Random) -> None:
    faulty = Gated(
        ProcessEngine(folder / "replicas", INSTALL), random.Random(chance.random()), 0.2, verbs=(*VERBS, "logs")
    )
    rig = LiveRig(folder, faulty, gpus=2, cpu=64)
    told: dict[
        int, tuple[int | None, int, Path]
    ] = {}  # job -> exit code (None: until stopped), lines, mark that it ran
    try:
        for number in range(JOBS):
            ran, code, lines = folder / f"ran-{number}", chance.choice([0, 3, None]), chance.choice([0, 1, 3000])
            script = WAITS if code is None else SAYS
            spec = shell(script.format(ran=ran, code=code, lines=lines), chance.choice([0, 0, 1]), stop_grace=2)
            told[rig.submit(f"j{number}", spec)] = code, lines, ran
            if chance.random() < 0.3:
                rig.workloads.stop(chance.choice(list(told)), ME)
        wait_until(lambda: _looks(rig) and faulty.faults.total() > 60, "some faults")
        faulty.calm()
        endless = [number for number, (code, _, _) in told.items() if code is None]
        for number in endless:
            rig.workloads.stop(number, ME)
        wait_until(lambda: all(rig.get(one).row.cleaned for one in told), "the end of everything")
        for number, (code, lines, ran) in told.items():
            _assert_told_as_it_was(rig, number, code, lines, ran)
        with rig.db.read() as session:
            assert session.exec(select(GpuLease.id).where(col(GpuLease.released_at).is_(None))).all() == []
        assert faulty.list() == {}
        count("faults injected", faulty.faults.total())
    finally:
        rig.close()


def _looks(rig: LiveRig) -> bool:
    """Have the loop ask the engine more often than it would."""
    rig.loop.eyes.look_again()
    rig.loop.nudge()
    return True


def _assert_told_as_it_was(rig: LiveRig, number: int, code: int | None, lines: int, ran: Path) -> None:
    full = rig.get(number)
    assert len(full.attempts) <= 1
    if not full.attempts or not ran.exists():
        assert full.row.state is not State.SUCCEEDED
        return
    one = full.attempts[0]
    assert one.cause not in (Cause.ENGINE_LOST, Cause.START_FAILED, Cause.IMAGE_MISSING, Cause.DEFECT), one.message
    assert one.message != "never started"
    output = rig.logs.read(number, one.name, "stdout", 0, 1 << 20)
    whole = b"".join(b"line %d\n" % n for n in range(lines))
    if code is None:
        assert output in (b"", b"ready\n", b"ready\ntold\n")
    elif one.exit_code == code:
        assert output == whole
    else:  # it was stopped in its midst
        assert full.row.state is State.STOPPED
        assert whole.startswith(output)
    count("bytes of output", len(output))
    if full.row.state in (State.SUCCEEDED, State.FAILED):
        assert (full.row.state is State.SUCCEEDED, full.row.exit_code) == (code == 0, code)
