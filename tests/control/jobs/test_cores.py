"""Cores mean something: what names none reserves what is usual for its kind, and no core is given out twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, job

from localml.control.jobs.demands import Reason
from localml.core.capacity.pools import usage_by_pool
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import Kind


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A machine of two cores."""
    made = Rig(tmp_path, cpu=2)
    yield made
    made.close()


def cores(number: float) -> WorkloadSpec:
    """A job that names so many and runs until it is stopped."""
    return job(None, resources=Resources(cpu=number))


def running(rig: Rig, numbers: list[int]) -> list[int]:
    rig.settle()
    return [number for number in numbers if rig.state(number) == "running"]


def why(rig: Rig, number: int) -> Reason:
    found = rig.loop.why(number)
    assert found is not None
    return found


def stop(rig: Rig, number: int) -> None:
    rig.workloads.stop(number, ME)


def test_of_eight_jobs_that_name_no_cores_two_start_on_two(rig: Rig) -> None:
    numbers = [rig.submit(f"j{n}", job(None)) for n in range(8)]
    assert running(rig, numbers) == numbers[:2]
    assert why(rig, numbers[2]).message == "waits for 1 CPU core (0 of 2 free)"
    assert set(why(rig, numbers[2]).holders) == set(numbers[:2])
    stop(rig, numbers[0])
    assert running(rig, numbers) == numbers[1:3]


@pytest.mark.parametrize("kind", [Kind.NOTEBOOK, Kind.TENSORBOARD, Kind.ENDPOINT])
def test_a_service_reserves_a_quarter(rig: Rig, kind: Kind) -> None:
    numbers = [rig.submit(f"s{n}", job(None), kind=kind) for n in range(9)]
    assert running(rig, numbers) == numbers[:8]
    assert why(rig, numbers[8]).message == "waits for 0.25 CPU cores (0 of 2 free)"
    with rig.db.read() as session:
        assert sum(used.cpu for used in usage_by_pool(session).values()) == 9 / 4


@pytest.mark.parametrize(
    "spec",
    [
        cores(3),
        WorkloadSpec(roles=(Role(command=("run",), count=4),)),
        WorkloadSpec(roles=(Role(name="ps", command=("run",), service=True), Role(command=("run",), count=3))),
    ],
    ids=["one replica", "a gang", "two roles"],
)
def test_more_cores_than_there_are_start_when_they_have_the_machine_to_themselves(rig: Rig, spec: WorkloadSpec) -> None:
    before = rig.submit("before", job(None))
    large = rig.submit("large", spec)
    behind = rig.submit("behind", job(None))
    asked = rig.get(large).row.cpu
    assert running(rig, [before, large, behind]) == [before]
    assert why(rig, large).message == (
        f"waits until it has the machine to itself: it asks for {asked:g} CPU cores, there are 2, and others hold 1"
    )
    assert why(rig, large).holders == (before,)
    assert why(rig, behind).ahead == "large"
    stop(rig, before)
    assert running(rig, [large, behind]) == [large]
    (scheduled,) = [event for event in rig.workloads.events(large) if event.reason == "Scheduled"]
    assert scheduled.message.endswith(f"asks for {asked:g} CPU cores of 2 and has the machine to itself")
    assert why(rig, behind).message == "waits for 1 CPU core (0 of 2 free)"
    rig.restart()  # what is held is read from the records
    assert running(rig, [large, behind]) == [large]
    stop(rig, large)
    assert running(rig, [behind]) == [behind]


def test_a_notebook_that_named_no_cores_keeps_nobody_waiting(rig: Rig) -> None:
    notebook = rig.submit("nb", job(None), kind=Kind.NOTEBOOK)
    before = rig.submit("before", cores(1))
    large, other = rig.submit("large", cores(2)), rig.submit("other", cores(1))
    assert running(rig, [notebook, before, large, other]) == [notebook, before]
    assert why(rig, large).message == (
        "waits until it has the machine to itself: it asks for 2 CPU cores, there are 2, services hold 0.25 and others "
        "hold 1"
    )
    stop(rig, before)
    assert running(rig, [notebook, large, other]) == [notebook, large]
    (scheduled,) = [event for event in rig.workloads.events(large) if event.reason == "Scheduled"]
    assert scheduled.message.endswith(
        "asks for 2 CPU cores of 2 and has the machine to itself, but for services that hold 0.25"
    )
    stop(rig, large)
    assert running(rig, [notebook, other]) == [notebook, other]


def test_a_service_starts_past_a_job_that_waits_for_cores_and_keeps_it_waiting_no_longer(rig: Rig) -> None:
    one, job_that_runs = rig.submit("nb1", job(None), kind=Kind.NOTEBOOK), rig.submit("runs", job(None))
    waits, endpoint = rig.submit("waits", job(None)), rig.submit("replica", job(None), kind=Kind.ENDPOINT)
    behind = rig.submit("behind", job(None))
    assert running(rig, [one, job_that_runs, waits, endpoint, behind]) == [one, job_that_runs, endpoint]
    assert why(rig, waits).holders == (one, job_that_runs, endpoint)
    stop(rig, job_that_runs)
    assert running(rig, [one, waits, endpoint, behind]) == [one, waits, endpoint]


def test_a_gang_that_gives_cores_back_one_by_one_is_waited_for_so(rig: Rig) -> None:
    rig.machine = replace(rig.machine, cpu=4)
    gang = rig.submit("gang", WorkloadSpec(roles=(Role(command=("run",), count=3),)))
    waits, notebook = rig.submit("waits", cores(2)), rig.submit("nb", job(None), kind=Kind.NOTEBOOK)
    assert running(rig, [gang, waits, notebook]) == [gang]  # one member's end is enough for who waits, and would not be


def test_the_limit_of_containers_is_told(rig: Rig) -> None:
    rig.machine = replace(rig.machine, max_replicas=4)
    numbers = [rig.submit(f"j{n}", cores(0.1)) for n in range(6)]
    assert running(rig, numbers) == numbers[:4]
    words = "waits for room: 4 replicas run, and this machine runs at most 4 at a time (localml up --max-replicas)"
    assert why(rig, numbers[4]).message == words
