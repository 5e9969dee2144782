"""Failures that say nothing: what ran is never told "never started" or "gone", and one's trouble is its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import Faulty
from helpers.rig import ME, Rig, job, wait_until
from sqlmodel import Session

from localml.control.jobs import judging, records
from localml.control.jobs.acts import Acts
from localml.control.jobs.asking import Asker
from localml.control.jobs.crew import Crew
from localml.control.jobs.observe import GONE_AGAIN_S
from localml.control.jobs.quarantine import TRIES
from localml.core.events.records import Events
from localml.core.sql import driver
from localml.core.work.causes import Cause
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import AttemptState, State
from localml.engines.base import EngineError, EngineUnreachable, Phase


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path, before=Faulty)  # type: ignore[arg-type]
    yield one
    one.close()


def faults(rig: Rig) -> Faulty:
    return rig.met  # type: ignore[return-value]


UNKNOWN = [EngineError("500 Server Error"), ConnectionResetError(104, "reset"), ValueError("not JSON"), KeyError("Id")]


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
def test_a_start_that_fails_though_the_container_is_there_is_a_start(rig: Rig, error: Exception) -> None:
    faults(rig).next("start", error, after=True)
    number = rig.submit("a", job(5, exit_code=3))
    rig.settle()
    assert (rig.state(number), "FailedToStart" in rig.reasons(number)) == ("running", False)
    rig.clock.advance(5)
    rig.settle()
    assert (rig.state(number), rig.get(number).row.exit_code, len(rig.get(number).attempts)) == ("failed", 3, 1)


def test_whether_it_is_there_is_asked_until_there_is_an_answer(rig: Rig) -> None:
    faults(rig).next("start", EngineError("500 Server Error"), after=True)
    faults(rig).next("inspect", EngineUnreachable("no answer"))
    number = rig.submit("a", job(5))
    rig.settle()
    assert rig.state(number) == "running"


def test_what_is_wrongly_not_found_once_is_there(rig: Rig) -> None:
    faults(rig).next("start", EngineError("500 Server Error"), after=True)
    faults(rig).next("inspect", None)
    number = rig.submit("a", job(5))
    rig.settle()
    assert rig.state(number) == "running"
    faults(rig).next("list", None)
    faults(rig).next("inspect", None)
    rig.settle()
    rig.clock.advance(GONE_AGAIN_S)
    rig.settle()
    assert (rig.state(number), len(rig.get(number).attempts)) == ("running", 1)


def planned_but_there(rig: Rig, seconds: float | None) -> int:
    """A workload whose server died after its container came into being; it has been asked to stop meanwhile."""
    number = rig.submit("a", job(seconds, gpu=1))
    faults(rig).next("start", EngineUnreachable("died"), after=True)
    rig.loop.tick()
    assert rig.get(number).attempts[0].state is AttemptState.PLANNED
    rig.engine.write(rig.get(number).attempts[0].name, "stdout", b"it ran")
    rig.workloads.stop(number, ME)
    rig.restart()
    return number


@pytest.mark.parametrize("seconds", [None, 1])
def test_a_planned_start_is_looked_up_before_it_is_judged(rig: Rig, seconds: float | None) -> None:
    number = planned_but_there(rig, seconds)
    rig.clock.advance(2)
    rig.settle()
    full, one = rig.get(number), rig.get(number).attempts[0]
    assert (full.row.state, full.row.cleaned, full.leases) == (State.STOPPED, True, [])
    assert one.message != "never started"
    assert (one.signal, one.exit_code) == ((15, None) if seconds is None else (None, 0))
    assert rig.logs.read(number, one.name, "stdout", 0, 100) == b"it ran"


def test_one_that_waits_in_the_engine_is_stopped_there(rig: Rig) -> None:
    number = rig.submit("a", job(None, held=float("inf")))
    faults(rig).next("start", EngineUnreachable("died"), after=True)
    rig.loop.tick()
    rig.workloads.stop(number, ME)
    rig.settle()
    assert (rig.state(number), rig.engine.list()) == ("stopped", {})


def test_what_never_started_is_told_so(rig: Rig) -> None:
    number = rig.submit("a", job(None))
    faults(rig).next("start", EngineUnreachable("no answer"))
    rig.loop.tick()
    rig.workloads.stop(number, ME)
    rig.settle()
    assert rig.get(number).attempts[0].message == "never started"


def test_images_that_cannot_be_looked_for_end_no_container_that_is_there(rig: Rig) -> None:
    number = rig.submit("a", job(5))
    faults(rig).next("start", EngineUnreachable("died"), after=True)
    rig.loop.tick()
    rig.restart()
    faults(rig).next("resolve_image", OSError(5, "Input/output error"))
    rig.settle()
    assert rig.state(number) == "running"


@pytest.mark.parametrize("verb", ["inspect", "list", "stop", "remove"])
@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
def test_no_failure_of_the_engine_stops_the_loop_or_decides_anything(rig: Rig, verb: str, error: Exception) -> None:
    number, other = rig.submit("a", job(5, gpu=1)), rig.submit("b", job(None))
    rig.settle()
    rig.loop.hint(rig.get(number).attempts[0].name)
    faults(rig).next(verb, error, times=3)
    rig.workloads.stop(other, ME)
    rig.settle()
    rig.clock.advance(5)
    rig.settle()
    rig.clock.advance(40)
    rig.settle()
    assert (rig.state(number), rig.state(other), rig.engine.list()) == ("succeeded", "stopped", {})
    assert len(rig.get(number).attempts) == 1


def test_one_container_that_cannot_be_removed_keeps_no_other(rig: Rig) -> None:
    worker = Role(name="worker", command=("x",), count=3, env={"FAKE_SECONDS": "1"}, resources=Resources(cpu=1))
    number = rig.submit("gang", WorkloadSpec(roles=(worker,)))
    rig.settle()
    faults(rig).next("remove", EngineError("removal is already in progress"))
    rig.clock.advance(1)
    rig.loop.eyes.look_again()
    rig.loop.tick()
    rig.loop.tick()
    assert (rig.state(number), len(rig.engine.list())) == ("succeeded", 1)
    rig.settle()
    assert (rig.engine.list(), rig.engine.networks(), rig.get(number).row.cleaned) == ({}, set(), True)


def test_gpus_whose_health_cannot_be_asked_for_stop_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("NVML: driver not loaded")

    monkeypatch.setattr(rig.loop.eyes, "_unhealthy", broken)
    number = rig.submit("a", job(5, gpu=1))
    rig.settle()
    rig.clock.advance(5)
    rig.settle()
    assert rig.state(number) == "succeeded"


# -- one workload's defect is its own ----------------------------------------------------------------


def spoil(rig: Rig, number: int) -> None:
    def act(session: Session) -> None:
        query = "UPDATE workload_detail SET spec = '{\"roles\": 7}' WHERE workload_id = ?"
        driver(session).execute(query, (number,))

    rig.db.write(act)


def test_a_record_that_cannot_be_read_ends_its_workload_alone(rig: Rig) -> None:
    hog = rig.submit("hog", job(10, gpu=4))
    rig.settle()
    running, queued, other = (rig.submit(name, job(60, gpu=gpu)) for name, gpu in (("r", 0), ("q", 4), ("o", 4)))
    rig.settle()
    assert [rig.state(one) for one in (running, queued, other)] == ["running", "queued", "queued"]
    for number in (running, queued):
        spoil(rig, number)
    rig.restart()
    rig.settle()
    for number in (running, queued):
        row = rig.workloads.row(number)
        assert (row.state, row.cause, row.cleaned) == (State.FAILED, Cause.DEFECT, True)
        assert "its record cannot be read" in row.message
    rig.clock.advance(10)
    rig.settle()
    assert (rig.state(hog), rig.state(other)) == ("succeeded", "running")


def failing(number: int, real: Callable[..., Any], which: Callable[..., int], times: int) -> Callable[..., Any]:
    left = [times]

    def act(*args: Any, **rest: Any) -> Any:
        if which(*args) == number and left[0] > 0:
            left[0] -= 1
            raise IndexError("a defect")
        return real(*args, **rest)

    return act


@pytest.mark.parametrize("times", [1, 10_000])
@pytest.mark.parametrize("where", ["decide", "write", "result", "place"])
def test_a_defect_with_one_workload_is_tried_again_and_then_ends_it_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str, times: int
) -> None:
    good, bad = rig.submit("good", job(50)), rig.submit("bad", job(50))
    if where in ("decide", "write"):
        rig.settle()
    if where == "decide":
        times = min(times, TRIES)  # it has to be decided some time
        monkeypatch.setattr(judging, "decide", failing(bad, judging.decide, lambda view, *_: view.id, times))
    elif where == "write":
        times = min(times, TRIES + 1)  # once with the other's, then alone
        monkeypatch.setattr(records, "carry_out", failing(bad, records.carry_out, lambda _, row, *__: row.id, times))
    elif where == "place":
        monkeypatch.setattr(records, "place", failing(bad, records.place, lambda _, row, *__: row.id, times))
    else:
        results = rig.loop._results
        launched = failing(bad, results._launched, lambda row, *_: row.id, times)
        monkeypatch.setattr(results, "_launched", launched)
    rig.clock.advance(50)
    for _ in range(8):
        rig.settle(3)
        rig.clock.advance(50)
    rows = {number: rig.get(number).row for number in (good, bad)}
    assert rows[good].state is State.SUCCEEDED
    assert (rows[bad].state, rows[bad].cause) == (
        (State.SUCCEEDED, Cause.COMPLETED) if times == 1 else (State.FAILED, Cause.DEFECT)
    )
    assert (rig.engine.list(), rows[bad].cleaned, rig.get(bad).leases) == ({}, True, [])


# -- acts that do not come back ----------------------------------------------------------------------


def test_calls_that_hang_give_their_seats_to_others() -> None:
    time, hang = [0.0], threading.Event()
    crew = Crew(2, "test", late=20, now=lambda: time[0])
    stuck = [crew.submit(hang.wait, 60) for _ in range(2)]
    wait_until(lambda: all(one.running() for one in stuck))
    late = [crew.submit(lambda n=n: n) for n in range(20)]
    assert crew.relieve()
    assert not late[0].running()
    time[0] = 21.0
    crew.relieve()
    assert [one.result(timeout=30) for one in late] == list(range(20))
    assert not crew.relieve()
    hang.set()
    assert [one.result(timeout=30) for one in stuck] == [True, True]
    crew.shutdown()
    with pytest.raises(RuntimeError):
        crew.submit(print)


def test_at_most_so_many_calls_run_at_a_time() -> None:
    crew, running, most, lock = Crew(3, "test"), [0], [0], threading.Lock()
    gate = threading.Barrier(3)

    def act() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(30)
        with lock:
            running[0] -= 1

    for one in [crew.submit(act) for _ in range(30)]:
        one.result(timeout=30)
    assert most[0] == 3
    crew.shutdown()


def test_what_fails_again_and_again_is_tried_ever_more_seldom() -> None:
    now = [100.0]
    acts = Acts(lambda: None, now=lambda: now[0])
    rests = []
    for _ in range(8):
        acts.run("stop", ("key",), "subject", lambda: 1 / 0)
        found: list[Any] = []
        wait_until(lambda found=found: bool(found.extend(acts.take()) or found))
        rests.append(acts.failed(found[0], found[0].error))
        acts.settle(found[0], failed=True)
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    trouble = acts.trouble("key")
    assert trouble is not None
    assert (trouble.times, "division by zero" in trouble.words) == (8, True)
    acts.close()


def test_an_engine_that_lists_nothing_that_can_be_understood_has_not_answered(rig: Rig) -> None:
    number = rig.submit("a", job(600))
    rig.settle()
    faults(rig).next("list", ValueError("Expecting value"), times=3)
    for _ in range(3):
        rig.loop.eyes.look_again()
        rig.loop.tick()
        assert rig.loop.engine_down
    rig.settle()
    assert (rig.state(number), rig.loop.engine_down) == ("running", False)
    assert [event.reason for event in Events(rig.db).others()] == ["EngineUnreachable", "EngineAnswers"]


def test_a_single_container_that_cannot_be_looked_at_keeps_no_other_waiting(rig: Rig) -> None:
    odd, other = rig.submit("odd", job(600)), rig.submit("other", job(5))
    rig.settle()
    name = rig.get(odd).attempts[0].name
    inspect = rig.met.inspect
    rig.met.inspect = lambda one: 1 / 0 if one == name else inspect(one)  # type: ignore[method-assign,assignment,return-value]
    rig.clock.advance(5)
    rig.engine.tick()
    for one in (odd, other):
        rig.loop.hint(rig.get(one).attempts[0].name)
    rig.loop.tick()
    assert (rig.state(odd), rig.state(other)) == ("running", "succeeded")
    assert rig.engine.inspect(name).phase is Phase.RUNNING


def test_a_question_that_hangs_is_none_that_was_answered() -> None:
    time, hang = [0.0], threading.Event()
    ask = Asker("it", patience=0.05, again=60, now=lambda: time[0])
    assert ask(lambda: 7) == 7
    with pytest.raises(EngineUnreachable, match="no answer within 0"):
        ask(lambda: hang.wait(60))
    time[0] = 40.0
    with pytest.raises(EngineUnreachable, match="has not answered for 40 s"):
        ask(lambda: 8)
    time[0] = 61.0
    assert ask(lambda: 9) == 9  # asked anew, on another thread
    hang.set()
    with pytest.raises(TimeoutError, match="its own"):
        ask(lambda: exec("raise TimeoutError('its own')"))


def test_a_hanging_engine_keeps_the_loop_from_nothing_that_needs_no_engine(rig: Rig) -> None:
    number = rig.submit("a", job(600))
    rig.settle()
    hang = threading.Event()
    rig.loop.eyes.seen._question = Asker("the engine", patience=0.05)
    rig.met.list = lambda: hang.wait(60) or {}  # type: ignore[method-assign]
    queued = rig.submit("b", job(5))
    rig.workloads.stop(queued, ME)
    rig.settle(3)
    assert (rig.state(number), rig.state(queued), rig.loop.engine_down) == ("running", "stopped", True)
    del rig.met.list  # type: ignore[attr-defined]
    hang.set()
    wait_until(lambda: rig.settle(1) or not rig.loop.engine_down)
    assert rig.state(number) == "running"
