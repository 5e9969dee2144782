"""A program's exit frees what it held at once; its end is recorded when its output is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, job
from sqlmodel import col, select

from localml.control.jobs.holdings import ports_in_use
from localml.control.jobs.observe import EXIT_S, GONE_AGAIN_S
from localml.core.capacity.tables import GpuLease
from localml.core.work.causes import Cause
from localml.core.work.listing import last_exits
from localml.core.work.specs import Port, Resources, RetryPolicy, Role, WorkloadSpec
from localml.core.work.states import AttemptState, State


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def draining(rig: Rig, number: int) -> str:
    """Let the only replica's output take its time from now on. Returns the engine's name of it."""
    name = rig.get(number).attempts[0].name
    rig.slow.add(name)
    return name


def exits(rig: Rig) -> None:
    """Let the loop learn of an exit, and wait the moment in which the output may come to its end."""
    rig.settle()
    rig.clock.advance(EXIT_S)
    rig.settle()


def all_drained(rig: Rig) -> None:
    rig.slow.clear()
    rig.settle()


def test_another_gets_the_gpu_cores_and_memory_while_the_output_is_still_copied(rig: Rig) -> None:
    all_of_it = Resources(gpu=4, cpu=8, memory=16 << 30)
    first, second = (rig.submit(name, job(None, resources=all_of_it)) for name in ("first", "second"))
    rig.settle()
    assert (rig.state(first), rig.state(second)) == ("running", "queued")
    rig.engine.finish(draining(rig, first), 3)
    exits(rig)
    full = rig.get(first)
    assert (full.row.state, full.leases, full.attempts[0].exit_code) == (State.RUNNING, [], 3)
    assert full.attempts[0].exited_at == rig.clock.now() - EXIT_S
    assert (rig.state(second), len(rig.get(second).leases)) == ("running", 4)
    reason = rig.loop.why(first)
    assert reason is not None
    assert (reason.code, "its output is being copied" in reason.message) == ("draining", True)
    with rig.db.read_raw() as connection:
        assert last_exits(connection, [first, second]) == {first: full.attempts[0].exited_at}
    all_drained(rig)
    assert (rig.state(first), rig.get(first).row.exit_code) == ("failed", 3)
    assert rig.loop._picture.check(rig.clock.now()) == []


def test_its_ports_are_free_and_its_pool_has_room(rig: Rig) -> None:
    rig.pools.set_limits("small", max_workloads=1, cpu=2)
    role = Role(command=("x",), ports=(Port(label="http", container=80),), resources=Resources(cpu=2))
    first, second = (rig.submit(name, WorkloadSpec(roles=(role,)), pool="small") for name in ("first", "second"))
    rig.settle()
    ports = ports_in_use(rig.loop._picture.live.values())
    assert (len(ports), rig.state(second)) == (1, "queued")
    rig.engine.finish(draining(rig, first))
    exits(rig)
    assert rig.state(second) == "running"
    assert len(ports_in_use(rig.loop._picture.live.values())) == 1
    used = rig.pools.get("small").used
    assert (used.cpu, used.workloads) == (2, 1)


def test_of_a_gang_only_the_member_that_has_exited_gives_back_what_it_had(rig: Rig) -> None:
    rig.pools.set_limits("small")
    worker = Role(name="worker", command=("x",), count=2, resources=Resources(cpu=4, gpu=2))
    gang = rig.submit("gang", WorkloadSpec(roles=(worker,)), pool="small")
    other = rig.submit("other", job(None, resources=Resources(cpu=4, gpu=2)))
    late = rig.submit("late", job(None, resources=Resources(cpu=1)))
    rig.settle()
    assert (rig.state(other), rig.state(late)) == ("queued", "queued")
    rig.engine.finish(draining(rig, gang))
    exits(rig)
    assert (rig.state(gang), rig.state(other), rig.state(late)) == ("running", "running", "queued")
    used = rig.pools.get("small").used
    assert (used.cpu, used.gpu, used.workloads) == (4, 2, 1)


@pytest.mark.parametrize("left", [True, False])
def test_an_exit_is_not_taken_back_when_the_server_dies_or_the_container_vanishes(rig: Rig, left: bool) -> None:
    number = rig.submit("a", job(None, gpu=1))
    rig.settle()
    name = draining(rig, number)
    rig.engine.finish(name, 0)
    exits(rig)
    rig.restart()
    if not left:
        rig.engine.lose(name)
    rig.settle()
    one = rig.get(number).attempts[0]
    assert (one.state, rig.get(number).leases, rig.state(number)) == (AttemptState.RUNNING, [], "running")
    rig.clock.advance(GONE_AGAIN_S)
    all_drained(rig)
    row, one = rig.get(number).row, rig.get(number).attempts[0]
    assert (row.state, row.exit_code, one.cause) == (State.SUCCEEDED, 0, Cause.COMPLETED)
    assert ("vanished" in one.message) is not left


def test_what_the_kernel_or_a_gpu_did_is_remembered_until_the_end(rig: Rig) -> None:
    sick, fat = (rig.submit(name, job(None, gpu=1)) for name in ("sick", "fat"))
    rig.settle()
    gpu = rig.get(sick).leases[0].gpu
    rig.engine.finish(draining(rig, fat), 137, oom_killed=True)
    rig.sick[gpu] = "XID 79"
    rig.engine.finish(draining(rig, sick), 1)
    exits(rig)
    del rig.sick[gpu]
    rig.engine.lose(rig.get(fat).attempts[0].name)
    rig.settle()
    rig.clock.advance(GONE_AGAIN_S)
    all_drained(rig)
    assert [rig.get(one).attempts[0].cause for one in (sick, fat)] == [Cause.GPU_LOST, Cause.OOM]


def test_what_has_exited_can_lose_no_gpu_nor_run_out_of_time_nor_be_stopped(rig: Rig) -> None:
    number = rig.submit("a", job(None, gpu=1, time_limit=50, retries=RetryPolicy(limit=0)))
    rig.settle()
    gpu = rig.get(number).leases[0].gpu
    rig.engine.finish(draining(rig, number), 0)
    exits(rig)
    rig.sick[gpu] = "XID 79"
    rig.clock.advance(100)
    rig.settle()
    assert rig.state(number) == "running"
    all_drained(rig)
    assert (rig.state(number), rig.get(number).row.cause) == ("succeeded", Cause.COMPLETED)


def test_a_stop_while_the_output_is_copied_asks_the_engine_for_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rig.submit("a", job(None))
    rig.settle()
    rig.engine.finish(draining(rig, number), 0)
    exits(rig)
    asked: list[str] = []
    monkeypatch.setattr(rig.engine, "stop", lambda name, grace: asked.append(name))
    rig.workloads.stop(number, ME)
    rig.settle()
    assert (rig.state(number), asked) == ("stopping", [])
    all_drained(rig)
    assert rig.state(number) == "stopped"


def test_an_exit_and_an_end_that_are_known_at_once_are_one_write(rig: Rig) -> None:
    number = rig.submit("a", job(1, gpu=1))
    rig.settle()
    rig.clock.advance(1)
    rig.settle()
    assert (rig.state(number), rig.get(number).attempts[0].exited_at) == ("succeeded", None)
    with rig.db.read() as session:
        assert session.exec(select(GpuLease.id).where(col(GpuLease.released_at).is_(None))).all() == []


def test_an_exit_whose_output_comes_to_its_end_in_a_moment_is_one_write_and_no_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rig.submit("a", job(None, gpu=1))
    rig.settle()
    asked: list[str] = []
    monkeypatch.setattr(rig.engine, "stop", lambda name, grace: asked.append(name))
    rig.engine.finish(draining(rig, number), 0)
    rig.settle()
    assert (rig.get(number).attempts[0].exited_at, asked) == (None, []), "it waits a moment, and nothing is stopped"
    all_drained(rig)
    assert (rig.state(number), rig.get(number).attempts[0].exited_at, asked) == ("succeeded", None, [])
