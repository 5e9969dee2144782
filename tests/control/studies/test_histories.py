"""Whatever is asked of a study in whatever order, and whenever its server dies: the records stay consistent."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.rig import ME
from helpers.studies import StudyRig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from localml.core.errors import LocalmlError
from localml.core.studies.tables import OVER, StudyState, TrialState
from localml.core.work.states import TERMINAL, Kind
from localml.core.work.workloads import Query
from localml.hpo.base import Proposal

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.STOPPED)


class Histories(RuleBasedStateMachine):
    """One study, its owner, its server and time."""

    @initialize(
        parallel=st.integers(1, 3),
        trials=st.integers(1, 8),
        keeps=st.booleans(),
        failures=st.none() | st.integers(1, 2),
        time=st.none() | st.floats(2, 6),
    )
    def begin(self, parallel: int, trials: int, keeps: bool, failures: int | None, time: float | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="histories-"))
        self.rig = StudyRig(self.folder)
        self.rig.minds.keeps_state = keeps
        self.rig.minds.proposals = lambda mind, n: Proposal({"x": mind.thought(n) if n % 4 else "nan"})
        self.number = self.rig.study(
            max_trials=trials, parallel=parallel, max_failures=failures, max_time=time, seconds=1.5
        )
        self.trials, self.runs = trials, 1

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.driver.close()
            self.rig.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    @rule(seconds=st.sampled_from([0.0, 0.7, 2.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)
        self.rig.settle(2)
        self.rig.look()

    @rule()
    def the_jobs_alone_go_on(self) -> None:
        self.rig.clock.advance(1)
        self.rig.settle(2)

    @rule()
    def the_studies_alone_go_on(self) -> None:
        self.rig.look()

    @rule()
    def the_server_dies(self) -> None:
        self.rig.restart()

    @rule(force=st.booleans())
    def it_is_stopped(self, force: bool) -> None:
        self.rig.studies.stop(self.number, ME, force=force)
        assert self.rig.row(self.number).state in {*OVER, StudyState.STOPPING}

    @rule(more=st.none() | st.integers(1, 12))
    def it_is_resumed(self, more: int | None) -> None:
        with suppress(LocalmlError):
            self.rig.studies.resume(self.number, ME, max_trials=more)
            self.trials = self.trials if more is None else more

    @rule()
    def it_starts_over(self) -> None:
        if self.rig.row(self.number).state in OVER:
            self.rig.studies.restart(self.number, ME)
            self.runs += 1
        else:
            with pytest.raises(LocalmlError, match="once it is over"):
                self.rig.studies.restart(self.number, ME)

    @rule(place=st.integers(0, 3))
    def somebody_stops_a_trial(self, place: int) -> None:
        running = [one for one in self.rig.trials(self.number) if one.told is None]
        if running:
            self.rig.workloads.stop(running[place % len(running)].workload_id, ME)

    @invariant()
    def counts_are_those_of_the_trials(self) -> None:
        row, trials = self.rig.row(self.number), self.rig.trials(self.number)
        assert [one.number for one in trials] == list(range(1, row.asked + 1))
        assert row.running == sum(1 for one in trials if one.told is None)
        own = [one for one in trials if one.run == row.run]
        assert all(one.number >= row.first for one in own)
        for state in _COUNTED:
            assert getattr(row, state.value) == sum(1 for one in own if one.state is state), state
        told = sorted([one.asked for one in trials] + [one.told for one in trials if one.told is not None])
        assert told == list(range(1, row.sequence + 1))
        assert row.run == self.runs

    @invariant()
    def it_is_over_only_when_nothing_of_it_runs(self) -> None:
        row = self.rig.row(self.number)
        assert (row.state in OVER) is (row.ended_at is not None)
        if row.state in OVER:
            assert row.running == 0
            children = self.rig.workloads.page(Query(kinds=(Kind.TRIAL,), limit=100)).items
            assert all(one.state in TERMINAL for one in children)

    @invariant()
    def the_best_is_the_best_of_its_run(self) -> None:
        row = self.rig.row(self.number)
        own = [one for one in self.rig.trials(self.number) if one.run == row.run]
        values = [one.value for one in own if one.state is TrialState.COMPLETE and one.value is not None]
        assert row.best_value == min(values, default=None)

    @invariant()
    def no_more_run_than_may(self) -> None:
        row = self.rig.row(self.number)
        spec = self.rig.studies.spec(row)
        assert row.running <= spec.parallel
        assert row.asked - row.first + 1 <= max(self.trials, spec.max_trials or 0) or row.state in OVER

    @rule()
    def what_was_proposed_is_proposed_again(self) -> None:
        row = self.rig.row(self.number)
        if row.first == 1 and self.rig.minds.opened:
            self.rig.need_replayed(self.number)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=25, stateful_step_count=18, deadline=None, suppress_health_check=list(HealthCheck)
)
