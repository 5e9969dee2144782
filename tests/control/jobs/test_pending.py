"""A replica that the engine has taken but not begun still waits: its user sees that, its time does not count."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, job

from localml.control.jobs.observe import GONE_AGAIN_S
from localml.core.work.causes import Cause
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import AttemptState, State
from localml.engines.base import Phase
from localml.engines.fake.engine import ServerDied


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def _name(rig: Rig, number: int) -> str:
    return rig.get(number).attempts[0].name


def test_it_is_preparing_and_says_what_the_engine_says(rig: Rig) -> None:
    number = rig.submit("a", job(5, held=inf))
    rig.settle()
    full = rig.get(number)
    assert (full.row.state, full.row.started_at) == (State.PREPARING, None)
    assert [one.state for one in full.attempts] == [AttemptState.PENDING]
    why = rig.loop.why(number)
    assert why is not None
    assert (why.code, why.message) == ("pending", "main-0 waits in the engine: the queue is long")
    assert rig.reasons(number) == ["Submitted", "Scheduled", "Pending"]


def test_its_time_counts_from_the_real_start(rig: Rig) -> None:
    number = rig.submit("a", job(None, held=1000, time_limit=60))
    rig.settle()
    rig.clock.advance(1000)
    begun = rig.clock.now()
    rig.clock.advance(30)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.started_at) == (State.RUNNING, begun)
    assert rig.loop.why(number) is None
    rig.clock.advance(30)
    rig.settle()
    assert (rig.state(number), rig.get(number).row.cause) == ("failed", Cause.TIME_LIMIT)


def test_what_begins_and_ends_between_two_looks_has_both_and_its_output(rig: Rig) -> None:
    env = {"FAKE_SECONDS": "5", "FAKE_OUTPUT": "hello", "FAKE_PENDING": "busy", "FAKE_PENDING_SECONDS": "10"}
    number = rig.submit("a", WorkloadSpec(roles=(Role(command=("x",), env=env),)))
    rig.settle()
    taken = rig.clock.now()
    rig.clock.advance(100)
    rig.settle()
    full = rig.get(number)
    assert (full.row.state, full.row.started_at) == (State.SUCCEEDED, taken + 10)
    assert (full.attempts[0].started_at, full.attempts[0].ended_at) == (taken + 10, taken + 15)
    assert rig.logs.read(number, full.attempts[0].name, "stdout", 0, 100) == b"hello"


def test_a_hint_of_the_engine_is_enough_to_see_the_beginning(rig: Rig) -> None:
    number = rig.submit("a", job(None, held=inf))
    rig.settle()
    rig.engine.begin(_name(rig, number))
    rig.loop.hint(_name(rig, number))
    rig.loop.tick()
    assert rig.state(number) == "running"


def test_a_gang_runs_when_its_last_member_has_begun(rig: Rig) -> None:
    held = {"FAKE_PENDING": "busy", "FAKE_PENDING_SECONDS": "50"}
    roles = (Role(name="chief", command=("x",)), Role(name="worker", command=("x",), env=held))
    number = rig.submit("a", WorkloadSpec(roles=roles))
    rig.settle()
    assert [one.state for one in rig.get(number).attempts] == [AttemptState.RUNNING, AttemptState.PENDING]
    assert rig.state(number) == "preparing"
    rig.clock.advance(50)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.started_at) == (State.RUNNING, rig.clock.now())


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_it_can_be_stopped_and_never_runs(rig: Rig, verb: str) -> None:
    number = rig.submit("a", job(None, gpu=4, held=inf))
    after = rig.submit("b", job(1, gpu=1))
    rig.settle()
    assert rig.state(after) == "queued"
    getattr(rig.workloads, verb)(number, ME)
    rig.settle()
    assert list(rig.engine.list()) == [_name(rig, after)]
    assert rig.state(after) == "running"
    if verb == "stop":
        row = rig.get(number).row
        assert (row.state, row.started_at) == (State.STOPPED, None)
        assert "Started" not in rig.reasons(number)


def test_one_that_vanishes_in_the_engine_is_lost_and_tried_again(rig: Rig) -> None:
    number = rig.submit("a", job(None, held=inf))
    rig.settle()
    rig.engine.lose(_name(rig, number))
    rig.settle()
    rig.clock.advance(GONE_AGAIN_S)
    rig.settle()
    assert rig.get(number).attempts[0].cause is Cause.ENGINE_LOST
    assert rig.get(number).row.attempt == 2


def test_a_server_that_dies_while_it_waits_loses_nothing(rig: Rig) -> None:
    rig.engine.crash_after("start")
    number = rig.submit("a", job(5, held=inf))
    with pytest.raises(ServerDied):
        rig.settle()
    rig.restart()
    rig.settle()
    assert [one.phase for one in rig.engine.list().values()] == [Phase.PENDING]
    rig.restart()
    begun = rig.clock.now()
    rig.engine.begin(_name(rig, number))
    rig.clock.advance(3)
    rig.settle()
    assert (rig.state(number), rig.get(number).row.started_at) == ("running", begun)
    rig.clock.advance(2)
    rig.restart()
    rig.settle()
    assert rig.state(number) == "succeeded"
    assert rig.reasons(number).count("Started") == 1
    assert rig.engine.list() == {}


def test_its_place_is_held_while_it_waits(rig: Rig) -> None:
    first = rig.submit("a", job(None, held=inf, resources=Resources(gpu=4)))
    second = rig.submit("b", job(None, gpu=1))
    rig.settle()
    assert (rig.state(first), rig.state(second)) == ("preparing", "queued")
