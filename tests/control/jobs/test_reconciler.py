"""What users see of the control loop: queueing, starting, ending, stopping, retrying, and surviving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME, Rig, job
from sqlmodel import col, select

from localml.control.jobs import records
from localml.control.jobs.observe import GONE_AGAIN_S
from localml.core.events.records import Events
from localml.core.prune import PruneRules, prune
from localml.core.work.causes import Cause
from localml.core.work.specs import Completion, Port, Resources, RetryPolicy, Role, WorkloadSpec, single
from localml.core.work.states import State
from localml.core.work.tables import Workload
from localml.engines.base import EngineError, ImageMissing, Phase, PortTaken, ReplicaPlan
from localml.engines.fake.engine import ServerDied


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_a_job_runs_and_succeeds_and_leaves_nothing_behind(rig: Rig) -> None:
    number = rig.submit("a", job(5))
    rig.settle()
    assert rig.state(number) == "running"
    rig.clock.advance(5)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause, row.exit_code) == (State.SUCCEEDED, Cause.COMPLETED, 0)
    assert row.cleaned
    assert rig.engine.list() == {}
    assert rig.reasons(number) == ["Submitted", "Scheduled", "Started", "Running", "Succeeded"]


def test_a_failing_job_says_why_and_how_to_go_on(rig: Rig) -> None:
    number = rig.submit("a", job(1, exit_code=3))
    rig.settle()
    rig.clock.advance(1)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause, row.exit_code) == (State.FAILED, Cause.EXIT_CODE, 3)
    assert "exit code 3" in row.message
    assert "localml logs" in rig.workloads.events(number)[-1].message


def test_the_log_is_kept_after_the_container_is_gone(rig: Rig) -> None:
    spec = WorkloadSpec(roles=(Role(command=("x",), env={"FAKE_SECONDS": "1", "FAKE_OUTPUT": "hello"}),))
    number = rig.submit("a", spec)
    rig.settle()
    rig.clock.advance(1)
    rig.settle()
    attempt = rig.get(number).attempts[0]
    assert rig.engine.inspect(attempt.name).phase is Phase.GONE
    assert rig.logs.read(number, attempt.name, "stdout", 0, 100) == b"hello"


def test_exactly_as_many_run_as_there_are_gpus_each_with_its_own(rig: Rig) -> None:
    numbers = [rig.submit(f"j{n}", job(None, gpu=1)) for n in range(8)]
    rig.settle()
    assert [rig.state(n) for n in numbers] == ["running"] * 4 + ["queued"] * 4
    leased = [lease.gpu for n in numbers for lease in rig.get(n).leases]
    assert sorted(leased) == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    reason = rig.loop.why(numbers[4])
    assert reason is not None
    assert reason.message == "waits for 1 GPU (0 GPUs free)"
    assert set(reason.holders) == set(numbers[:4])
    rig.engine.finish(rig.get(numbers[1]).attempts[0].name, 0)
    rig.settle()
    assert rig.state(numbers[4]) == "running"
    assert rig.get(numbers[4]).leases[0].gpu == "GPU-1"


def test_a_stop_request_ends_a_queued_job_at_once_and_a_running_one_in_order(rig: Rig) -> None:
    running = rig.submit("a", job(None, gpu=4))
    queued = rig.submit("b", job(None, gpu=1))
    rig.settle()
    rig.workloads.stop(queued, ME)
    rig.workloads.stop(running, ME)
    rig.settle()
    for number in (queued, running):
        row = rig.get(number).row
        assert (row.state, row.cause, row.message) == (State.STOPPED, Cause.STOPPED, "stopped by me")
    assert rig.get(running).leases == []


def test_a_program_that_ignores_the_request_is_killed_after_its_grace(rig: Rig) -> None:
    env = {"FAKE_IGNORE_TERM": "1"}
    number = rig.submit("a", WorkloadSpec(roles=(Role(command=("x",), env=env),), stop_grace=5))
    rig.settle()
    rig.workloads.stop(number, ME)
    rig.settle()
    assert rig.state(number) == "stopping"
    rig.clock.advance(5)
    rig.settle()
    assert rig.state(number) == "stopped"


def test_deleting_hides_a_workload_but_keeps_its_story(rig: Rig) -> None:
    number = rig.submit("a", job(None))
    rig.settle()
    rig.workloads.delete(number, ME)
    again = rig.submit("a", job(None))
    rig.settle()
    assert rig.state(number) == "stopped"
    assert rig.state(again) == "running"
    assert rig.workloads.named("a").row.id == again
    assert "Deleted" in rig.reasons(number)


def test_failures_are_retried_with_growing_pauses_as_often_as_asked(rig: Rig) -> None:
    number = rig.submit("a", job(1, exit_code=1, retries=RetryPolicy(limit=2, backoff=10, factor=3)))
    for pause in (10, 30):
        rig.settle()
        assert rig.state(number) == "running"
        rig.clock.advance(1)
        rig.settle()
        row = rig.get(number).row
        assert row.state is State.QUEUED
        assert row.not_before == pytest.approx(rig.clock.now() + pause)
        reason = rig.loop.why(number)
        assert reason is not None
        assert reason.code == "hold"
        rig.clock.advance(pause)
    rig.settle()
    rig.clock.advance(1)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.attempt, row.retries) == (State.FAILED, 3, 2)
    assert [one.number for one in rig.get(number).attempts] == [1, 2, 3]
    assert rig.engine.list() == {}


def test_a_container_that_vanishes_is_tried_again_without_counting_and_told(rig: Rig) -> None:
    number = rig.submit("a", job(5))
    rig.settle()
    rig.engine.lose(rig.get(number).attempts[0].name)
    rig.settle()
    assert rig.state(number) == "running"  # it is looked for once more
    rig.clock.advance(GONE_AGAIN_S)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.retries, row.attempt) == (State.QUEUED, 0, 2)
    assert "ContainerLost" in rig.reasons(number)
    rig.clock.advance(1)
    rig.settle()
    assert rig.state(number) == "running"


def test_a_container_that_the_engines_list_leaves_out_is_not_held_for_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rig.submit("a", job(600))
    rig.settle()
    monkeypatch.setattr(rig.engine, "list", dict)
    rig.clock.advance(60)
    rig.settle()
    assert (rig.state(number), rig.get(number).row.attempt) == ("running", 1)


def test_an_engine_that_does_not_answer_changes_nothing(rig: Rig) -> None:
    running = rig.submit("a", job(5))
    rig.settle()
    rig.engine.unreachable = True
    waiting = rig.submit("b", job(5))
    to_stop = rig.submit("c", job(5))
    rig.workloads.stop(to_stop, ME)
    rig.clock.advance(60)
    rig.settle()
    assert rig.state(running) == "running"
    assert rig.state(waiting) == "queued"
    assert rig.state(to_stop) == "stopped"
    assert rig.loop.engine_down
    why = rig.loop.why(waiting)
    assert why is not None
    assert (why.code, why.words.startswith("the fake engine does not answer: ")) == ("engine", True)
    rig.engine.unreachable = False
    rig.settle()
    assert rig.loop.why(waiting) is None
    assert rig.state(running) == "succeeded"
    assert [event.reason for event in Events(rig.db).others()] == ["EngineUnreachable", "EngineAnswers"]


def test_a_time_limit_counts_from_the_real_start(rig: Rig) -> None:
    hog = rig.submit("hog", job(100, gpu=4))
    number = rig.submit("a", job(None, gpu=1, time_limit=50))
    rig.settle()
    rig.clock.advance(100)
    rig.settle()
    assert (rig.state(hog), rig.state(number)) == ("succeeded", "running")
    rig.clock.advance(49)
    rig.settle()
    assert rig.state(number) == "running"
    rig.clock.advance(1)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause) == (State.FAILED, Cause.TIME_LIMIT)
    assert "50 s" in row.message


def test_dependencies_wait_and_break(rig: Rig) -> None:
    first = rig.submit("first", job(1))
    second = rig.submit("second", job(1, depends_on=(first,)))
    bad = rig.submit("bad", job(1, exit_code=1))
    never = rig.submit("never", job(1, depends_on=(bad,)))
    rig.settle()
    assert rig.state(second) == "queued"
    rig.clock.advance(1)
    rig.settle()
    assert rig.state(second) == "running"
    row = rig.get(never).row
    assert (row.state, row.cause) == (State.FAILED, Cause.DEPENDENCY)


def test_a_missing_image_ends_the_job_and_names_it(rig: Rig) -> None:
    rig.engine.fail_next("resolve_image", ImageMissing("image 'nope:1' is not here"))
    number = rig.submit("a", job(1))
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause) == (State.FAILED, Cause.IMAGE_MISSING)
    assert "nope:1" in row.message


def test_a_long_build_is_an_event_a_minute(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = rig.engine.resolve_image

    def builds(image: str, progress: Any = None, **rest: Any) -> str:
        for done in range(0, 200, 5):
            rig.clock.advance(5)
            progress(f"building base, {done} s")
        progress("copying base")
        return resolve(image, progress, **rest)

    monkeypatch.setattr(rig.engine, "resolve_image", builds)
    number = rig.submit("a", job(1))
    rig.settle()
    told = [one.message for one in rig.workloads.events(number) if one.reason == "Pulling"]
    assert told == [f"building base, {done} s" for done in (0, 60, 120, 180)] + ["copying base"]


def test_a_start_that_the_engine_refuses_ends_the_job_with_its_words(rig: Rig) -> None:
    rig.engine.fail_next("start", EngineError("no such device"))
    number = rig.submit("a", job(1, gpu=1))
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.cause) == (State.FAILED, Cause.START_FAILED)
    assert "no such device" in row.message
    assert rig.get(number).leases == []


def test_a_taken_port_is_chosen_anew(rig: Rig) -> None:
    role = Role(command=("x",), ports=(Port(label="http", container=80),))
    rig.engine.fail_next("start", PortTaken("port is already allocated"))
    number = rig.submit("a", WorkloadSpec(roles=(role,)))
    rig.settle()
    assert rig.state(number) == "running"


def test_a_sick_gpu_is_fenced_and_its_job_goes_elsewhere(rig: Rig) -> None:
    number = rig.submit("a", job(None, gpu=1))
    rig.settle()
    first = rig.get(number).leases[0].gpu
    rig.sick[first] = "XID 79: GPU has fallen off the bus"
    rig.settle()
    rig.clock.advance(2)
    rig.settle()
    full = rig.get(number)
    assert full.row.state is State.RUNNING
    assert full.leases[0].gpu != first
    assert any(event.reason == "Retrying" and "fallen off" in event.message for event in rig.workloads.events(number))
    assert any(event.reason == "GpuFenced" for event in Events(rig.db).others())


def gang(*, ps: int = 1, workers: int = 2, seconds: float = 5, **worker: object) -> WorkloadSpec:
    env = {"FAKE_SECONDS": str(seconds)}
    return WorkloadSpec(
        roles=(
            Role(name="ps", command=("x",), count=ps, service=True, resources=Resources(cpu=1)),
            Role(name="worker", command=("x",), count=workers, env=env, resources=Resources(cpu=1), **worker),
        )
    )


def test_a_gang_starts_together_and_its_services_end_with_it(rig: Rig) -> None:
    number = rig.submit("a", gang())
    rig.settle()
    full = rig.get(number)
    assert full.row.state is State.RUNNING
    assert len(full.attempts) == 3
    assert len({one.network for one in (rig.engine._world.replicas[a.name].plan for a in full.attempts)}) == 1
    rig.clock.advance(5)
    rig.settle()
    assert rig.state(number) == "succeeded"
    assert rig.engine.list() == {}
    assert rig.engine.networks() == set()


def test_one_failed_worker_ends_its_gang(rig: Rig) -> None:
    number = rig.submit("a", gang(seconds=100))
    rig.settle()
    worker = next(one for one in rig.get(number).attempts if one.role == "worker" and one.index == 1)
    rig.engine.finish(worker.name, 7)
    rig.settle()
    row = rig.get(number).row
    assert (row.state, row.exit_code) == (State.FAILED, 7)
    assert "worker-1" in row.message
    assert rig.engine.list() == {}


def test_enough_successes_end_a_role_that_says_so(rig: Rig) -> None:
    number = rig.submit("a", gang(workers=3, seconds=100, completion=Completion(min_failed=None, min_succeeded=1)))
    rig.settle()
    worker = next(one for one in rig.get(number).attempts if one.role == "worker")
    rig.engine.finish(worker.name, 0)
    rig.settle()
    assert rig.state(number) == "succeeded"


def test_a_gang_that_does_not_fit_holds_nothing(rig: Rig) -> None:
    first = rig.submit("first", gang(ps=2, workers=3, seconds=100))  # 5 of 8 cores
    second = rig.submit("second", gang(ps=2, workers=3, seconds=100))
    rig.settle()
    assert (rig.state(first), rig.state(second)) == ("running", "queued")
    assert rig.get(second).attempts == []


@pytest.mark.parametrize("verb", ["start", "stop", "remove", "list"])
def test_a_server_that_dies_in_the_middle_of_an_act_finds_its_own_work_again(rig: Rig, verb: str) -> None:
    number = rig.submit("a", job(5, gpu=1))
    other = rig.submit("b", job(None))
    died = 0
    rig.engine.crash_after(verb)
    for step in range(4):
        try:
            rig.settle()
            if step == 1:
                rig.clock.advance(5)
                rig.workloads.stop(other, ME)
        except ServerDied:
            died += 1
            rig.restart()
    rig.settle()
    assert died == 1
    assert (rig.state(number), rig.state(other)) == ("succeeded", "stopped")
    assert rig.engine.list() == {}
    assert len(rig.get(number).attempts) == 1


def test_containers_that_no_record_speaks_of_are_removed(rig: Rig) -> None:
    from localml.engines.base import ReplicaPlan

    rig.engine.start(ReplicaPlan(f"lml-{rig.engine._install}-99-main-0-1", "x"))
    rig.settle()
    assert rig.engine.list() == {}


def test_a_job_costs_the_loop_four_transactions(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place; that it runs; how it ended; that nothing of it is left. Each is a wait for the disk."""
    number = rig.submit("one", job(1))
    writes: list[object] = []
    write = rig.db.write
    monkeypatch.setattr(rig.db, "write", lambda act: writes.append(act) or write(act))
    rig.settle()
    assert rig.state(number) == "running"
    assert len(writes) == 2
    rig.clock.advance(2)
    rig.settle()
    assert rig.state(number) == "succeeded"
    assert len(writes) == 4
    with rig.db.read() as session:
        assert session.exec(select(Workload.id).where(col(Workload.cleaned).is_(False))).all() == []


def test_an_image_that_was_found_for_a_workload_that_is_forgotten_meanwhile_stops_nobody(rig: Rig) -> None:
    rig.submit("hog", job(None, gpu=4))
    rig.settle()
    number, late = rig.submit("waits", job(gpu=4)), []
    run = rig.loop.acts.run
    rig.loop.acts.run = lambda *given: late.append(given) or True  # type: ignore[assignment,func-returns-value]
    rig.loop.tick()
    assert [given[0] for given in late] == ["pin"]
    rig.workloads.delete(number, ME)
    rig.loop.tick()
    gone = prune(rig.db, rig.data, PruneRules(deleted_older_than=0), now=rig.clock.now()).workloads
    assert gone == [number]
    rig.loop.acts.run = run  # type: ignore[method-assign]
    run(*late[0])
    other = rig.submit("other", job(None))
    rig.settle()
    assert rig.state(other) == "running"


def test_an_image_that_another_engine_has_pinned_is_looked_for_by_its_name(rig: Rig) -> None:
    """An id of Docker's would be an unknown image to child processes, and run with whatever the machine has."""
    number = rig.submit("j", single(["run"], image="localml/train"))
    rig.db.write(lambda s: records.pin_images(s, number, {"main": "sha256:1f"}))
    rig.engine.capabilities = replace(rig.engine.capabilities, images=False)
    rig.restart()
    plans: list[ReplicaPlan] = []
    rig.engine.on_start(plans.append)
    rig.settle()
    assert [one.image for one in plans] == ["localml/train"]
