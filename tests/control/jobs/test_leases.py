"""Whatever happens, in whatever order: no GPU has two owners, none leaks, and what is over stays over."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from helpers.rig import ME, Rig, job
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlmodel import col, select

from localml.core.capacity.tables import GpuLease
from localml.core.work.causes import Cause
from localml.core.work.specs import Resources, RetryPolicy, Role, WorkloadSpec
from localml.core.work.states import HOLDING, TERMINAL, AttemptState, State
from localml.core.work.tables import Attempt, Workload
from localml.engines.base import EngineError
from localml.engines.fake.engine import VERBS, ServerDied


class Installation(RuleBasedStateMachine):
    """Random wishes, ends, losses, refusals, silences and deaths over four GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="localml-leases-"))
        self.rig = Rig(self.folder)
        self.finals: dict[int, State] = {}
        self.submitted: list[int] = []

    def teardown(self) -> None:
        self.rig.engine.unreachable = False
        self.rig.sick.clear()
        self.rig.slow.clear()
        self._drain()
        with self.rig.db.read() as session:
            assert session.exec(select(GpuLease).where(col(GpuLease.released_at).is_(None))).all() == []
            assert session.exec(select(Workload).where(col(Workload.cleaned).is_(False))).all() == []
        assert self.rig.engine._world.replicas == {}
        self.rig.close()
        shutil.rmtree(self.folder)

    def _drain(self) -> None:
        """Stop everything and let it end; nothing may be left afterwards."""
        self.rig.restart()
        for number in self.submitted:
            self.rig.workloads.stop(number, ME)
        for _ in range(6):
            self._tick()
            self.rig.clock.advance(400)

    def _tick(self) -> None:
        try:
            self.rig.settle(3)
        except ServerDied:
            self.rig.restart()

    @rule(gpu=st.sampled_from([0, 0.5, 1, 2, 4]), seconds=st.sampled_from([None, 1, 30]), code=st.integers(0, 1),
          retries=st.integers(0, 2))  # fmt: skip
    def submit(self, gpu: float, seconds: float | None, code: int, retries: int) -> None:
        spec = job(seconds, code, gpu, retries=RetryPolicy(limit=retries))
        self.submitted.append(self.rig.submit(f"j{len(self.submitted)}", spec))

    @rule(count=st.integers(2, 5), gpu=st.sampled_from([0, 0.5, 1]))
    def submit_gang(self, count: int, gpu: float) -> None:
        if gpu * count > 4:
            return
        env = {"FAKE_SECONDS": "20"}
        role = Role(name="w", command=("x",), count=count, env=env, resources=Resources(gpu=gpu))
        self.submitted.append(self.rig.submit(f"j{len(self.submitted)}", WorkloadSpec(roles=(role,))))

    @rule()
    def tick(self) -> None:
        self._tick()

    @rule(seconds=st.sampled_from([1, 10, 100]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.rig.workloads.stop(data.draw(st.sampled_from(self.submitted)), ME)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.rig.workloads.delete(data.draw(st.sampled_from(self.submitted)), ME)

    # What is drawn depends on nothing that threads do: which replicas of a gang are there after a refusal is by chance.
    @rule(which=st.integers(0, 99))
    def lose_a_container(self, which: int) -> None:
        if names := sorted(self.rig.engine._world.replicas):
            self.rig.engine.lose(names[which % len(names)])

    @rule(which=st.integers(0, 99))
    def output_takes_its_time_or_is_there(self, which: int) -> None:
        if names := sorted(self.rig.engine._world.replicas):
            self.rig.slow ^= {names[which % len(names)]}

    @rule(verb=st.sampled_from(["start", "remove", "stop"]))
    def the_engine_refuses_once(self, verb: str) -> None:
        self.rig.engine.fail_next(verb, EngineError("no"))

    @rule(down=st.booleans())
    def the_engine_is_silent(self, down: bool) -> None:
        self.rig.engine.unreachable = down

    @rule(verb=st.sampled_from([one for one in VERBS if one in ("start", "remove", "stop", "list", "resolve_image")]))
    def the_server_dies_after(self, verb: str) -> None:
        self.rig.engine.crash_after(verb)

    @rule()
    def the_server_is_restarted(self) -> None:
        self.rig.restart()

    @rule(gpu=st.integers(0, 3), sick=st.booleans())
    def a_gpu_falls_sick_or_heals(self, gpu: int, sick: bool) -> None:
        name = f"GPU-{gpu}"
        if sick:
            self.rig.sick[name] = "XID 79"
        else:
            self.rig.sick.pop(name, None)

    @invariant()
    def no_gpu_has_two_owners(self) -> None:
        with self.rig.db.read() as session:
            held: dict[str, float] = {}
            for lease in session.exec(select(GpuLease).where(col(GpuLease.released_at).is_(None))):
                held[lease.gpu] = held.get(lease.gpu, 0) + lease.fraction
                attempt = session.get(Attempt, lease.attempt_id)
                assert attempt is not None
                assert attempt.state is not AttemptState.ENDED, "a lease outlived its container"
                assert attempt.exited_at is None, "a lease outlived its program"
            assert all(share <= 1 + 1e-6 for share in held.values()), held

    @invariant()
    def what_is_over_stays_over(self) -> None:
        with self.rig.db.read() as session:
            for row in session.exec(select(Workload)):
                number = row.id or 0
                if number in self.finals:
                    assert row.state is self.finals[number]
                elif row.state in TERMINAL:
                    self.finals[number] = row.state
                if row.state is State.SUCCEEDED:
                    assert row.cause is Cause.COMPLETED
                if row.state not in HOLDING:
                    live = select(Attempt).where(Attempt.workload_id == number, Attempt.state != AttemptState.ENDED)
                    assert session.exec(live).all() == []

    @invariant()
    def a_replica_has_at_most_one_live_container(self) -> None:
        world = self.rig.engine._world.replicas  # the engine's verbs would set off the failures that are planned
        live = [name for name, replica in world.items() if not replica.over]
        replicas = [name.rsplit("-", 1)[0] for name in live]
        assert len(set(replicas)) == len(replicas), live


TestInstallation = Installation.TestCase
TestInstallation.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
