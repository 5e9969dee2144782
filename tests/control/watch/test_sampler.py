"""Measuring replicas: what is recorded, under which names, and when nothing is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import Rig, job, wait_until

from localml.control.watch import sampler as module
from localml.control.watch.sampler import Sampler, counters, gauges
from localml.core.series.samples import Samples
from localml.core.subjects import Subject
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.engines.base import EngineError, EngineUnreachable, Usage
from localml.gpus import GpuUsage

of = Subject.workload
CPU, MEMORY = "container_cpu_usage_seconds_total", "container_memory_usage_bytes"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def make(rig: Rig, **options: object) -> tuple[Sampler, Samples]:
    samples = Samples(rig.db)
    return Sampler(rig.db, rig.engine, samples, rig.clock, **options), samples  # type: ignore[arg-type]


def gang(count: int) -> WorkloadSpec:
    role = Role(name="worker", command=("run",), count=count, resources=Resources(cpu=1, memory=1 << 22))
    return WorkloadSpec(roles=(role,))


def test_every_running_replica_of_every_workload_is_measured(rig: Rig) -> None:
    one, samples = make(rig)
    first, second = rig.submit("a", gang(2)), rig.submit("b", job(None))
    rig.settle()
    rig.clock.advance(10)
    assert one.measure()
    rig.clock.advance(5)
    assert one.measure()
    found = samples.read(of(first))
    assert set(found) == {(f"worker-{index}", name) for index in (0, 1) for name in (CPU, MEMORY)}
    assert [point.value for point in found[("worker-1", CPU)]] == [10.0, 15.0]
    assert [point.at for point in found[("worker-1", CPU)]] == [rig.clock.now() - 5, rig.clock.now()]
    assert [point.value for point in found[("worker-0", MEMORY)]] == [float(1 << 22)] * 2
    assert set(samples.read(of(second))) == {("main-0", CPU), ("main-0", MEMORY)}
    assert {line.name: line.cumulative for line in samples.lines(of(second))} == {
        CPU: True,
        MEMORY: False,
    }


def test_whoever_reads_meanwhile_sees_all_figures_of_a_moment_or_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, samples = make(rig)
    number = rig.submit("a", job(None))
    rig.settle()
    rig.clock.advance(10)
    write, seen = rig.db.write, []

    def read_first(change: Callable[[Any], Any]) -> Any:
        """Before anything is written somebody reads, who is given what is buffered as well."""
        monkeypatch.setattr(rig.db, "write", write)
        seen.append({name for (_, name), points in samples.read(of(number)).items() if points})
        monkeypatch.setattr(rig.db, "write", read_first)
        return write(change)

    monkeypatch.setattr(rig.db, "write", read_first)
    one.measure()
    samples.flush()
    assert seen
    assert {frozenset(names) for names in seen} <= {frozenset(), frozenset({CPU, MEMORY})}


def test_with_nothing_running_there_is_nothing_to_come_back_for(rig: Rig) -> None:
    one, samples = make(rig)
    assert not one.measure()
    number = rig.submit("a", job(1))
    rig.settle()
    rig.clock.advance(2)
    rig.settle()
    assert rig.over(number)
    assert not one.measure()
    assert samples.read(of(number)) == {}


def test_gpus_are_measured_for_those_who_hold_them(rig: Rig) -> None:
    asked: list[int] = []

    def usage() -> dict[str, GpuUsage]:
        asked.append(1)
        return {f"GPU-{number}": GpuUsage(utilisation=10 * number, memory_used=100) for number in range(4)}

    one, samples = make(rig, gpus=usage)
    plain = rig.submit("plain", job(None))
    rig.settle()
    one.measure()
    assert not asked
    number = rig.submit("two", job(None, gpu=2))
    rig.settle()
    one.measure()
    assert asked == [1]
    held = sorted(int(lease.gpu[-1]) for lease in rig.get(number).leases)
    found = samples.read(of(number))
    assert found[("main-0", "container_accelerator_memory_used_bytes")][0].value == 200
    assert found[("main-0", "container_accelerator_duty_cycle")][0].value == sum(10 * one for one in held) / 2
    assert ("main-0", "container_accelerator_duty_cycle") not in samples.read(of(plain))


def test_an_engine_that_does_not_answer_is_asked_again(rig: Rig) -> None:
    one, samples = make(rig)
    number = rig.submit("a", job(None))
    rig.settle()
    rig.engine.fail_next("stats", EngineUnreachable("away"))
    assert one.measure()
    rig.engine.fail_next("stats", EngineError("no such thing"))
    assert one.measure()
    assert samples.read(of(number)) == {}
    assert one.measure()
    assert samples.read(of(number))


def test_all_figures_of_an_engine_have_their_names() -> None:
    usage = Usage(5.0, 3.0, 7, cpu_user_seconds=2.0, cpu_system_seconds=1.0, network_rx=10, network_tx=20, pids=1)
    assert counters(usage) == [
        (CPU, 3.0, 5.0),
        ("container_cpu_user_seconds_total", 2.0, 5.0),
        ("container_cpu_system_seconds_total", 1.0, 5.0),
        ("container_network_receive_bytes_total", 10.0, 5.0),
        ("container_network_transmit_bytes_total", 20.0, 5.0),
    ]
    assert gauges(usage, []) == [(MEMORY, 7.0, 5.0)]
    assert gauges(usage, [GpuUsage()]) == [(MEMORY, 7.0, 5.0)]
    assert counters(Usage(5.0, 3.0, 7)) == [(CPU, 3.0, 5.0)]


def test_the_thread_wakes_for_work_measures_and_sleeps_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "INTERVAL_S", 0.005)
    told: list[int] = []
    one, samples = make(rig, changed=told.append)
    rounds: list[bool] = []
    measure = one.measure

    def counted() -> bool:
        rounds.append(measure())
        return rounds[-1]

    monkeypatch.setattr(one, "measure", counted)
    one.start()
    try:
        wait_until(lambda: rounds == [False])  # what an earlier server left was looked for once
        number = rig.submit("a", job(60))
        rig.settle()
        assert rounds == [False]
        one.nudge()
        wait_until(lambda: told.count(number) >= 2)
        rig.clock.advance(60)
        rig.settle()
        wait_until(lambda: rounds[-1] is False)
        assert len(samples.read(of(number))) == 2
    finally:
        one.close()
    assert not one._worker.alive


def test_changes_between_two_rounds_bring_no_further_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, samples = make(rig)
    number = rig.submit("a", job(None))
    rig.settle()
    first = one.tick()
    assert first is not None
    assert 0 < first <= module.INTERVAL_S
    left = one.tick()
    assert left is not None
    assert 0 < left <= first
    assert len(samples.read(of(number))[("main-0", MEMORY)]) == 1


def test_a_defect_ends_a_round_and_not_the_thread(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "INTERVAL_S", 0.005)
    one, samples = make(rig)
    number = rig.submit("a", job(None))
    rig.settle()
    rig.engine.fail_next("stats", RuntimeError("broken"))
    one.start()
    try:
        wait_until(lambda: "measuring failed" in caplog.text)
        one.nudge()
        wait_until(lambda: bool(samples.read(of(number))))
    finally:
        one.close()


def test_old_points_are_looked_after_every_ten_minutes(rig: Rig) -> None:
    one, samples = make(rig)
    number = rig.submit("a")
    samples.add_many(of(number), [("x", 1.0, rig.clock.now() + second) for second in range(7200)], measured=True)
    samples.flush()
    assert one.thin_out()
    assert not one.thin_out()
    rig.clock.advance(86400)
    assert one.thin_out()
    assert len(samples.read(of(number))[("", "x")]) <= 121
