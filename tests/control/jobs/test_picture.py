"""The loop's picture beside the records: over any history, crashes and failed writes included, never a difference."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME, Rig, job
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlmodel import Session

from localml.control.jobs import reconciler
from localml.control.jobs.admission import Pass
from localml.control.jobs.demands import Placement
from localml.control.jobs.picture import Picture
from localml.control.jobs.snapshot import load_limits, load_states, load_units
from localml.core.capacity.tables import GpuMark, NodeMark
from localml.core.errors import LocalmlError
from localml.core.work.specs import RetryPolicy
from localml.core.work.states import TERMINAL, State
from localml.core.work.tables import Workload
from localml.engines.fake.engine import ServerDied, Verb

Wish = tuple[float, float | None, int, int, float | None, list[int], float | None]
wishes = st.tuples(
    st.sampled_from([0, 0.5, 1, 2, 4, 4]),
    st.sampled_from([None, None, 1, 30]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 0, -1, 1]),
    st.sampled_from([None, None, 5.0, 100.0]),
    st.sampled_from([[], [], [], [0], [1, 3]]),
    st.sampled_from([None, None, None, 3, inf]),
)


class Broken(Exception):
    """A write that fails in its middle."""


class History(RuleBasedStateMachine):
    """Random wishes, limits, ends, failed writes and deaths; who may start is asked the slow way as well."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="localml-picture-"))
        self.rig = Rig(self.folder)
        self.submitted: list[int] = []
        self._listen()

    def teardown(self) -> None:
        self.rig.close()
        shutil.rmtree(self.folder)

    def _listen(self) -> None:
        """Compare each answer of the admitter with that of a whole pass."""
        admitter = self.rig.loop._admitter
        kept = admitter.placements

        def compared(lost: Mapping[str, str], now: float) -> dict[int, Placement]:
            whole = admitter._fresh(tuple(admitter.machines()), lost, now).run(admitter._picture.queue)
            found = kept(lost, now)
            assert found == whole
            return found

        admitter.placements = compared  # type: ignore[method-assign]

    def _tick(self) -> None:
        try:
            self.rig.loop.tick()
        except ServerDied:
            self._restart()
        self.rig.rest()

    def _restart(self) -> None:
        self.rig.restart()
        self._listen()

    @rule(wanted=st.lists(wishes, min_size=1, max_size=5), pool=st.sampled_from(["default", "small", "small/below"]))
    def submit(self, wanted: list[Wish], pool: str) -> None:
        for gpu, seconds, code, priority, limit, after, held in wanted:
            needed = {self.submitted[-1 - one % len(self.submitted)] for one in after} if self.submitted else set()
            rules = {"time_limit": limit, "depends_on": tuple(needed), "retries": RetryPolicy(limit=code)}
            spec = job(seconds, code, gpu=gpu, priority=priority, held=held, **rules)
            try:
                self.submitted.append(self.rig.submit(f"j{len(self.submitted)}", spec, pool=pool))
            except LocalmlError:
                pass  # what it depends on was deleted

    @rule(which=st.integers(0, 30), delete=st.sampled_from([False, False, True]))
    def stop(self, which: int, delete: bool) -> None:
        if self.submitted:
            number = self.submitted[which % len(self.submitted)]
            try:
                (self.rig.workloads.delete if delete else self.rig.workloads.stop)(number, ME)
            except LocalmlError:
                pass  # it is deleted already

    @rule(gpu=st.sampled_from([None, 0, 1, 3]), most=st.sampled_from([None, 1]))
    def limit_pool(self, gpu: float | None, most: int | None) -> None:
        self.rig.pools.set_limits("small", gpu=gpu, max_workloads=most)

    @rule(on=st.sampled_from([True, False, False]), gpu=st.integers(0, 3), machine=st.booleans())
    def mark(self, on: bool, gpu: int, machine: bool) -> None:
        row: Any = NodeMark(node="local", at=1) if machine else GpuMark(gpu=f"GPU-{gpu}", reason="hot", at=1)

        def act(session: Session) -> None:
            if on:
                session.merge(row)
            elif (found := session.get(type(row), "local" if machine else (row.gpu, "local"))) is not None:
                session.delete(found)

        self.rig.db.write(act)

    @rule(which=st.integers(0, 30))
    def a_write_fails_in_its_middle(self, which: int) -> None:
        def act(session: Session) -> None:
            found = session.get(Workload, self.submitted[which % len(self.submitted)])
            if found is not None:
                found.state = State.FAILED
                session.add(found)
                session.flush()
            raise Broken

        if self.submitted:
            with pytest.raises(Broken):
                self.rig.db.write(act)

    @rule(which=st.integers(0, 5))
    def one_that_waits_is_given_up(self, which: int) -> None:
        if waiting := sorted(self.rig.loop._picture.waiting):
            self.rig.workloads.stop(waiting[which % len(waiting)], ME)
            self._tick()

    @rule(which=st.integers(0, 30))
    def one_that_is_held_begins(self, which: int) -> None:
        held = [name for name, one in self.rig.engine._world.replicas.items() if one.held]
        if held:
            self.rig.engine.begin(held[which % len(held)])

    @rule(which=st.integers(0, 30))
    def output_takes_its_time_or_is_there(self, which: int) -> None:
        if names := sorted(self.rig.engine._world.replicas):
            self.rig.slow ^= {names[which % len(names)]}

    @rule(seconds=st.sampled_from([0.5, 2, 40, 400]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    @rule(count=st.integers(1, 3), look=st.booleans())
    def ticks(self, count: int, look: bool) -> None:
        for _ in range(count):
            if look:
                self.rig.loop.eyes.look_again()
            self._tick()

    @rule(verb=st.sampled_from(["start", "remove", "stop", "list"]))
    def the_server_dies_after(self, verb: Verb) -> None:
        self.rig.engine.crash_after(verb)

    @rule()
    def the_server_dies(self) -> None:
        self._restart()

    @rule()
    def the_engine_is_silent_for_a_tick(self) -> None:
        self.rig.engine.unreachable = True
        self._tick()
        self.rig.engine.unreachable = False

    @invariant()
    def is_that_of_the_records(self) -> None:
        now = self.rig.clock.now()
        loop = self.rig.loop
        loop._refresh(now)
        assert differences(loop._picture, self.rig, now) == {}
        assert loop._picture.check(now) == []


def differences(picture: Picture, rig: Rig, now: float) -> dict[str, Any]:
    """What is not as a whole reading has it."""
    with rig.db.read_raw() as connection:
        units, limits = load_units(connection), load_limits(connection)
        needed = {
            one
            for number, unit in units.items()
            if unit.row.state is State.QUEUED
            for one in picture.specs.spec(number).depends_on
        }
        states = dict.fromkeys(needed) | load_states(connection, needed)
    known = picture.waiting | picture.live
    found: dict[str, Any] = {
        one: (units.get(one), known.get(one)) for one in units | known if units.get(one) != known.get(one)
    }
    if limits != picture.limits:
        found["limits"] = (limits, picture.limits)
    if states != picture.states:
        found["states"] = (states, picture.states)
    alive = {number for number, unit in units.items() if unit.row.state not in TERMINAL}
    if alive != picture.specs._known.keys():
        found["specs"] = (alive, picture.specs._known.keys())
    if misplaced := picture._misplaced(now):
        found["queue"] = misplaced
    return found


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_difference_is_told_and_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "CHECK_S", 0.0)
    rig = Rig(tmp_path)
    rig.loop._check_at = 0.0
    number = rig.submit("waits", job(None, gpu=4))
    rig.submit("hog", job(None, gpu=4, priority=1))
    rig.loop.tick()
    picture = rig.loop._picture
    unit = picture.waiting.pop(number)  # as if a change had gone unnoticed
    with caplog.at_level(logging.ERROR, "localml.control"):
        rig.loop.tick()
    assert f"workload {number}" in caplog.text
    rig.loop.tick()
    assert picture.waiting[number] == unit
    caplog.clear()
    with caplog.at_level(logging.ERROR, "localml.control"):
        rig.loop.tick()
    assert caplog.text == ""
    rig.close()


def waiting_rig(folder: Path, count: int) -> tuple[Rig, list[int]]:
    """All GPUs are held for ever, and so many wait for one."""
    rig = Rig(folder)
    rig.submit("hog", job(None, gpu=4))
    rig.settle()
    numbers = [rig.submit(f"j{n}", job(None, gpu=1)) for n in range(count)]
    rig.settle()
    return rig, numbers


def test_a_newcomer_is_looked_at_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, _ = waiting_rig(tmp_path, 20)
    looked: list[int] = []
    consider = Pass.consider
    monkeypatch.setattr(Pass, "consider", lambda self, one: looked.append(one.id) or consider(self, one))
    same = rig.submit("same", job(None, gpu=1))
    rig.loop.tick()
    assert looked == []  # its equals were refused
    other = rig.submit("other", job(None, gpu=2))
    rig.loop.tick()
    assert looked == [other]
    free = rig.submit("free", job(None))
    rig.loop.tick()
    assert looked == [other, free]
    rig.settle()
    assert (rig.state(same), rig.state(other), rig.state(free)) == ("queued", "queued", "running")
    rig.close()


def test_when_the_first_in_the_queue_gives_up_who_waits_behind_it_starts(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.submit("hog", job(None, gpu=2))
    rig.settle()
    first, second = rig.submit("first", job(None, gpu=4)), rig.submit("second", job(None, gpu=2))
    rig.settle()
    assert rig.state(second) == "queued"
    rig.workloads.stop(first, ME)
    rig.settle()
    assert rig.state(second) == "running"
    rig.close()


def test_who_leaves_the_queue_makes_the_others_be_looked_at_again(tmp_path: Path) -> None:
    rig, numbers = waiting_rig(tmp_path, 3)
    picture, now = rig.loop._picture, rig.clock.now()
    rig.submit("more", job(None, gpu=1))
    assert not picture.refresh(now).turned
    rig.workloads.stop(numbers[0], ME)
    assert picture.refresh(now).turned
    rig.close()


def test_who_depends_on_another_starts_when_that_has_succeeded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = rig.submit("first", job(5))
    second = rig.submit("second", job(None, depends_on=(first,)))
    rig.settle()
    assert (rig.state(first), rig.state(second)) == ("running", "queued")
    rig.clock.advance(6)
    rig.settle()
    assert (rig.state(first), rig.state(second)) == ("succeeded", "running")
    rig.close()


def test_one_that_is_depended_on_twice_is_one_dependency(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = rig.submit("first", job(5))
    twice = rig.submit("twice", job(None, depends_on=(first, first)))
    given_up = rig.submit("given-up", job(None, depends_on=(first, first)))
    rig.settle()
    rig.workloads.stop(given_up, ME)
    rig.clock.advance(6)
    rig.settle()
    assert (rig.state(twice), rig.state(given_up)) == ("running", "stopped")
    rig.close()
