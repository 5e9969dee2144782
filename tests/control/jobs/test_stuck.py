"""What makes no progress is told: why, since when, and once as an event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.faults import Faulty
from helpers.rig import ME, Rig, job

from localml.control.jobs.observe import EXIT_S
from localml.control.jobs.observe import START_S as GIVEN_UP_S
from localml.control.jobs.patience import DRAIN_S, REMOVE_S, START_S, STOP_S
from localml.core.events.records import Events
from localml.core.work.causes import Cause
from localml.core.work.specs import Role, WorkloadSpec
from localml.engines.base import EngineError, EngineUnreachable


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path, before=Faulty)  # type: ignore[arg-type]
    yield one
    one.close()


def faults(rig: Rig) -> Faulty:
    return rig.met  # type: ignore[return-value]


def passes(rig: Rig, seconds: float) -> None:
    """Time passes, and the loop looks now and then, as it does while something is under way."""
    for _ in range(4):
        rig.clock.advance(seconds / 4)
        rig.settle(2)


def why(rig: Rig, number: int) -> str:
    reason = rig.loop.why(number)
    return f"{reason.code}: {reason.message}" if reason is not None else ""


def told(rig: Rig, number: int) -> list[str]:
    return [event.message for event in rig.workloads.events(number) if event.reason == "Stuck"]


def test_a_stop_that_the_engine_does_not_carry_out(rig: Rig) -> None:
    number = rig.submit("a", WorkloadSpec(roles=(Role(command=("x",)),), stop_grace=10))
    rig.settle()
    faults(rig).next("stop", EngineError("500 Server Error"), times=1000)
    rig.workloads.stop(number, ME)
    rig.settle()
    passes(rig, 10 + STOP_S)
    assert (why(rig, number), told(rig, number)) == ("", [])
    passes(rig, 8)
    words = "main-0: its container's stop was asked for 48s ago (grace 10 s); the engine has not ended it: stop: 500"
    assert why(rig, number).startswith(f"stuck: stuck: {words}")
    passes(rig, 100)
    assert "2m28s ago" in why(rig, number)
    assert len(told(rig, number)) == 1
    faults(rig).calm()
    rig.settle()
    assert (rig.state(number), why(rig, number), len(told(rig, number))) == ("stopped", "", 1)


def test_a_start_that_does_not_come_about(rig: Rig) -> None:
    faults(rig).next("start", EngineUnreachable("read timed out"), times=1000)
    number = rig.submit("a", job(5))
    rig.settle()
    passes(rig, START_S)
    assert (why(rig, number), told(rig, number)) == ("", [])
    passes(rig, 10)
    assert "main-0: it was to be started 2m10s ago; the engine has not done so: start: read timed" in why(rig, number)
    assert len(told(rig, number)) == 1
    faults(rig).calm()
    rig.settle()
    assert (rig.state(number), why(rig, number)) == ("running", "")


def test_a_start_that_never_comes_about_gives_its_gpus_back(rig: Rig) -> None:
    faults(rig).next("start", EngineUnreachable("read timed out"), times=1000)
    number = rig.submit("a", job(5, gpu=4))
    next_one = rig.submit("next", job(5, gpu=4))
    rig.settle()
    passes(rig, GIVEN_UP_S - 20)
    assert (rig.state(number), len(rig.get(number).leases)) == ("preparing", 4), "it is tried for long"
    rig.clock.advance(40)
    rig.settle(2)
    faults(rig).next("remove", EngineUnreachable("read timed out"), times=3)
    rig.settle(4)
    assert len(rig.get(number).leases) == 4, "it may begin as long as the engine does not say that it is gone"
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause, rig.get(number).leases) == ("failed", Cause.START_FAILED, [])
    assert "the engine has not started it in" in row.message
    assert "read timed out" in row.message
    faults(rig).calm()
    rig.settle()
    assert rig.state(next_one) == "running"
    assert "FailedToStart" in rig.reasons(number)


def test_a_container_that_is_there_when_its_start_is_given_up_counts(rig: Rig) -> None:
    faults(rig).next("start", EngineUnreachable("read timed out"), times=1000, after=True)
    faults(rig).next("inspect", EngineUnreachable("read timed out"), times=1000)
    number = rig.submit("a", job(None, gpu=4))
    rig.settle()
    passes(rig, GIVEN_UP_S + 20)
    assert rig.state(number) == "preparing"
    faults(rig).calm()
    rig.settle()
    assert (rig.state(number), len(rig.get(number).leases)) == ("running", 4)


def test_an_engine_that_is_away_costs_nobody_a_start(rig: Rig) -> None:
    faults(rig).next("start", EngineUnreachable("no such socket"), times=3)
    number = rig.submit("a", job(None))
    rig.settle(2)
    faults(rig).next("list", EngineUnreachable("no such socket"), times=1000)
    passes(rig, 10 * GIVEN_UP_S)
    faults(rig).calm()
    rig.settle()
    assert rig.state(number) == "running"


def test_a_start_that_does_not_come_back_and_one_that_tells_how_far_it_is(rig: Rig) -> None:
    hung, pulls = rig.submit("hung", job(5)), rig.submit("pulls", job(5))
    kept = rig.loop.acts.run
    started: list[object] = []

    def hang(kind: str, keys: tuple[object, ...], subject: object, act: object) -> bool:
        if kind != "start":
            return kept(kind, keys, subject, act)  # type: ignore[arg-type]
        if not rig.loop.acts.busy(keys[0]):
            started.append(act)
            rig.loop.acts._busy.update(dict.fromkeys(keys, (kind, rig.clock.now())))
        return True

    rig.loop.acts.run = hang  # type: ignore[method-assign,assignment]
    rig.settle()
    assert len(started) == 2
    for _ in range(4):
        passes(rig, START_S / 3)
        rig.loop._launcher._heard[pulls] = rig.clock.now()
    assert "it was to be started 2m40s ago; its start has not come back" in why(rig, hung)
    assert (why(rig, pulls), told(rig, pulls), len(told(rig, hung))) == ("", [], 1)


def test_output_that_does_not_come_to_its_end(rig: Rig) -> None:
    number = rig.submit("a", job(None, gpu=1))
    rig.settle()
    name = rig.get(number).attempts[0].name
    rig.slow.add(name)
    rig.engine.finish(name, 3)
    rig.settle()
    rig.clock.advance(EXIT_S)
    rig.settle()
    assert "draining: the program ended with exit code 3 100ms ago; its output is being copied" in why(rig, number)
    passes(rig, DRAIN_S - 1)
    path = rig.logs.path(number, name, "stdout")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"some more")
    passes(rig, DRAIN_S)
    assert told(rig, number) == []
    passes(rig, DRAIN_S)
    assert "the last of its output came" in why(rig, number)
    assert len(told(rig, number)) == 1
    rig.slow.clear()
    rig.settle()
    assert (rig.state(number), why(rig, number)) == ("failed", "")


def test_containers_that_cannot_be_removed_are_told_of_when_their_workload_is_over(rig: Rig) -> None:
    faults(rig).next("remove", EngineError("device or resource busy"), times=1000)
    number = rig.submit("a", job(1))
    rig.settle()
    passes(rig, 2)
    assert (rig.state(number), rig.get(number).row.cleaned) == ("succeeded", False)
    passes(rig, REMOVE_S + 4)
    assert "its containers were to be removed" in why(rig, number)
    assert "remove: device or resource busy" in why(rig, number)
    others = [event.message for event in Events(rig.db).others() if event.reason == "Stuck"]
    assert (len(others), others[0].startswith(f"workload {number}: stuck:"), told(rig, number)) == (1, True, [])
    faults(rig).calm()
    rig.settle()
    assert (rig.get(number).row.cleaned, why(rig, number)) == (True, "")


def test_an_engine_that_does_not_answer_is_named(rig: Rig) -> None:
    number = rig.submit("a", job(None))
    rig.settle()
    rig.workloads.stop(number, ME)
    rig.engine.unreachable = True
    passes(rig, 400)
    assert rig.state(number) == "running"  # nothing is concluded
    assert "stop was asked for" in why(rig, number)
    assert why(rig, number).endswith("the engine does not answer")
    rig.engine.unreachable = False
    rig.settle()
    assert rig.state(number) == "stopped"
    late = rig.submit("b", job(1))
    rig.loop.tick()
    faults(rig).next("start", EngineUnreachable("no"), times=1000)
    other = rig.submit("c", job(1))
    rig.settle()
    rig.engine.unreachable = True
    passes(rig, START_S + 4)
    assert why(rig, other).endswith("the engine does not answer")
    assert why(rig, late) == ""


def test_what_waits_in_the_engine_or_runs_is_not_stuck(rig: Rig) -> None:
    held, runs = rig.submit("a", job(None, held=float("inf"))), rig.submit("b", job(None))
    rig.settle()
    passes(rig, 10_000)
    assert (told(rig, held), told(rig, runs)) == ([], [])
    assert why(rig, held).startswith("pending:")


def test_what_could_not_be_told_is_told_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that could not be written is told when there is room again."""
    number = rig.submit("a", WorkloadSpec(roles=(Role(command=("x",)),), stop_grace=0))
    rig.settle()
    faults(rig).next("stop", EngineError("no"), times=1000)
    rig.workloads.stop(number, ME)
    rig.settle()
    tell = rig.loop._patience._tell

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.loop._patience, "_tell", full)
    rig.clock.advance(STOP_S + 5)
    with pytest.raises(OSError, match="No space"):
        rig.loop.tick()
    monkeypatch.setattr(rig.loop._patience, "_tell", tell)
    passes(rig, 10)
    assert len(told(rig, number)) == 1
