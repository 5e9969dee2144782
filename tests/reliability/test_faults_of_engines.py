"""Engines that fail in every verb, before they have acted or after it: when they are well again, all is as it should.

Nothing is left, no lease is held, every container that ran has the end that it had, and all of its output.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.faults import Faulty
from helpers.rig import ME, Rig, job
from sqlmodel import col, select

from localml.core.capacity.tables import GpuLease
from localml.core.errors import LocalmlError
from localml.core.events.records import Events
from localml.core.logs.tables import LogFile
from localml.core.work.causes import Cause
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload
from localml.engines.base import STREAMS
from localml.engines.fake.world import Replica

STEPS = 150
SHORT, LONG = 3, 30
"""Seeds that each of the parameters tries."""


class Storm:
    """One installation whose engine fails; ``replicas`` are all that ever began there."""

    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        self.chance = random.Random(seed)
        self.rig = Rig(folder, before=lambda engine: Faulty(engine, self.chance, rate))  # type: ignore[arg-type,return-value]
        self.faulty: Faulty = self.rig.met  # type: ignore[assignment]
        self.replicas: dict[str, Replica] = {}
        self.rig.engine.on_start(lambda plan: self.replicas.update({plan.name: self.world[plan.name]}))
        self.jobs: list[int] = []

    @property
    def world(self) -> dict[str, Replica]:
        return self.rig.engine._world.replicas

    def step(self) -> None:
        act = self.chance.choice(
            [self.submit] * 4 + [self.stop] * 2 + [self.program] * 6 + [self.tick] * 8 + [self.time] * 4 + [self.die]
        )
        act()

    def submit(self) -> None:
        pick = self.chance
        name, seconds, code = f"j{len(self.jobs)}", pick.choice([None, 1, 3, 20]), pick.choice([0, 0, 3])
        if pick.random() < 0.3:
            env = {"FAKE_EXIT": str(code)} | ({} if seconds is None else {"FAKE_SECONDS": str(seconds)})
            role = Role(name="w", command=("x",), count=pick.randint(2, 4), env=env, resources=Resources(gpu=1, cpu=1))
            spec = WorkloadSpec(roles=(role,), stop_grace=2)
        else:
            rest: dict[str, Any] = {"held": pick.choice([2, 30])} if pick.random() < 0.2 else {}
            spec = job(seconds, code, pick.choice([0, 0.5, 1, 2]), stop_grace=2, **rest)
        self.jobs.append(self.rig.submit(name, spec))

    def stop(self) -> None:
        if self.jobs:
            verb = self.chance.choice([self.rig.workloads.stop, self.rig.workloads.stop, self.rig.workloads.delete])
            try:
                verb(self.chance.choice(self.jobs), ME)
            except LocalmlError:
                pass  # it was deleted already

    def program(self) -> None:
        """Some program writes, or ends."""
        live = sorted(name for name, one in self.world.items() if not one.over and one.started_at is not None)
        if not live:
            return
        name = self.chance.choice(live)
        self.rig.engine.write(name, self.chance.choice(STREAMS), self.chance.randbytes(self.chance.choice([1, 70])))
        if self.chance.random() < 0.3:
            self.rig.slow ^= {name}
        if self.chance.random() < 0.2:
            self.rig.engine.finish(name, self.chance.choice([0, 1]))

    def tick(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            if self.chance.random() < 0.5:
                self.rig.loop.eyes.look_again()
            self.rig.loop.tick()
            if self.chance.random() < 0.5:
                self.rig.rest()

    def time(self) -> None:
        self.rig.clock.advance(self.chance.choice([0.5, 2, 4, 40]))

    def die(self) -> None:
        self.rig.restart()

    def calm(self) -> None:
        """All is well again: who would run for ever is stopped, and everything has time enough."""
        self.faulty.calm()
        self.rig.slow.clear()
        for number in self.jobs:
            self.rig.workloads.stop(number, ME)
        for _ in range(8):
            self.rig.settle(3)
            self.rig.clock.advance(45)
        self.rig.settle(3)


def assert_all_is_well(storm: Storm) -> None:
    rig = storm.rig
    assert rig.engine._world.replicas == {}
    assert rig.engine._world.networks == set()
    assert rig.loop._picture.check(rig.clock.now()) == []
    with rig.db.read() as session:
        leaked = session.exec(select(GpuLease.id).where(col(GpuLease.released_at).is_(None))).all()
        left = session.exec(select(Workload.id, Workload.state).where(col(Workload.cleaned).is_(False))).all()
        attempts = session.exec(select(Attempt)).all()
        rows = {row.id: row for row in session.exec(select(Workload))}
        files = {(one.attempt_id, one.stream): one.size for one in session.exec(select(LogFile))}
    assert (leaked, left) == ([], [])
    count("leases leaked", len(leaked))
    assert storm.replicas.keys() <= {one.name for one in attempts}
    doubles = [
        key for key, times in Counter((one.workload_id, one.role, one.index) for one in attempts).items() if times > 1
    ]
    assert doubles == []  # nothing asked for another try, and nothing was lost
    count("jobs doubled", len(doubles))
    for one in attempts:
        replica = storm.replicas.get(one.name)
        if replica is not None:
            assert_told_as_it_was(rig, one, replica, files)
    for number, row in rows.items():
        mine = [one for one in attempts if one.workload_id == number]
        if row.state is State.SUCCEEDED:
            assert all(storm.replicas[one.name].outcome == (0, None) for one in mine)
    assert all(event.reason in ("EngineUnreachable", "EngineAnswers", "Stuck") for event in Events(rig.db).others())


def assert_told_as_it_was(rig: Rig, one: Attempt, replica: Replica, files: dict[Any, int]) -> None:
    """What is recorded of a container that ran is what it did."""
    assert one.message != "never started"
    assert one.cause not in (Cause.ENGINE_LOST, Cause.START_FAILED, Cause.IMAGE_MISSING, Cause.DEFECT), one.message
    assert (one.exit_code, one.signal) == replica.outcome, one
    assert one.started_at == replica.started_at
    for stream in STREAMS:
        wrote = b"".join(data for _, data in replica.output[stream])
        differs = rig.logs.read(one.workload_id, one.name, stream, 0, 1 << 20) != wrote
        count("logs that differ", int(differs))
        assert not differs, (one.name, stream)
        assert files[one.id, stream] == len(wrote)
    count("bytes of output", sum(len(data) for stream in STREAMS for _, data in replica.output[stream]))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("part", range(2))
def test_nothing_is_lost_doubled_leaked_or_told_wrongly(
    tmp_path: Path, rate: float, part: int, long_form: bool
) -> None:
    for seed in range(LONG if long_form else SHORT):
        folder = tmp_path / str(seed)
        folder.mkdir()
        storm = Storm(folder, 1000 * part + seed, rate)
        for _ in range(STEPS):
            storm.step()
        storm.calm()
        assert_all_is_well(storm)
        count("faults injected", storm.faulty.faults.total())
        storm.rig.close()
