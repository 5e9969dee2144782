"""Instances: what stops and starts again under one id, over the control loop with a fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME, Rig, job
from sqlalchemy import event

from localml.control.watch.restarts import Restarts
from localml.core.errors import Code, LocalmlError
from localml.core.instances.instances import Change, InstanceFull, Instances
from localml.core.people.identity import Caller
from localml.core.prune import PruneRules, prune
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.specs import Port, Resources, WorkloadSpec
from localml.core.work.states import Kind, State
from localml.core.work.workloads import Query, Submission


class Lab:
    """A rig with instances; the server may die at any moment."""

    def __init__(self, data: Path) -> None:
        self.rig = Rig(data)
        self.open()

    def open(self) -> None:
        self.instances = Instances(self.rig.db, self.rig.clock, self.rig.workloads, self._owner)
        self.restarts = Restarts(self.instances)

    @staticmethod
    def _owner(number: int) -> Caller:
        return Caller(number, ME.name, False, ME.workspace, "default")

    def restart_server(self) -> None:
        self.rig.restart()
        self.open()

    def create(self, name: str = "lab", **members: Any) -> InstanceFull:
        return self.instances.create(Submission(name, spec(), ME, kind=Kind.NOTEBOOK, **members))

    def settle(self) -> None:
        self.rig.settle()
        self.restarts.tick()
        self.rig.settle()

    def at(self, number: int) -> tuple[State, int]:
        """How it is, and in which run."""
        found = self.instances.get(number)
        return found.state, found.row.run


def spec(**members: Any) -> WorkloadSpec:
    made = job(None, **members)
    port = (Port(label="http", container=8888),)
    roles = tuple(role.model_copy(update={"ports": port}) for role in made.roles)
    return made.model_copy(update={"roles": roles, "until_stopped": True})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path)
    yield found
    found.rig.close()


def test_it_stops_and_starts_again_under_one_id_and_name(lab: Lab) -> None:
    made = lab.create()
    number = made.row.id or 0
    assert (made.state, made.row.run) == (State.QUEUED, 1)
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 1)
    lab.instances.stop(number, ME)
    lab.settle()
    stopped = lab.instances.get(number)
    assert (stopped.state, stopped.message, stopped.live) == (State.STOPPED, "stopped by me", False)
    assert lab.instances.start(number, ME).state is State.QUEUED
    lab.settle()
    again = lab.instances.get(number)
    assert (again.state, again.row.run, again.run.row.name) == (State.RUNNING, 2, "lab")
    assert again.row.workload_id != made.row.workload_id
    assert [one.row.id for one in lab.instances.list()] == [number]


def test_it_keeps_its_port_while_that_is_free(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    [first] = lab.instances.get(number).run.attempts
    lab.instances.restart(number, ME)
    lab.settle()
    found = lab.instances.get(number)
    [second] = found.run.attempts
    assert found.row.run == 2
    assert second.ports == first.ports


def test_a_restart_begins_when_the_run_before_is_over(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    asked = lab.instances.restart(number, ME)
    assert (asked.pending, asked.live, asked.row.run) == (True, True, 1)
    assert lab.instances.start(number, ME).row.asked == 2  # asking twice asks for one run
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 2)
    assert lab.restarts.tick() is None
    assert lab.at(number) == (State.RUNNING, 2)


def test_a_wish_survives_the_death_of_the_server(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)
    lab.restart_server()
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 2)


def test_what_was_wanted_and_not_begun_can_be_taken_back(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)
    assert lab.instances.stop(number, ME).pending is False
    lab.settle()
    assert lab.at(number) == (State.STOPPED, 1)


def test_starting_what_runs_changes_nothing(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    assert lab.instances.start(number, ME).row.run == 1
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 1)


def test_whatever_ends_its_run_it_can_be_started_again(lab: Lab) -> None:
    made = lab.create()
    number = made.row.id or 0
    lab.settle()
    [attempt] = lab.instances.get(number).run.attempts
    lab.rig.engine.finish(attempt.name, exit_code=3)
    lab.settle()
    assert lab.at(number)[0] is State.FAILED
    lab.instances.start(number, ME)
    lab.settle()
    lab.rig.workloads.stop(lab.instances.get(number).row.workload_id, ME, "idle for 1h")
    lab.settle()
    idle = lab.instances.get(number)
    assert (idle.state, idle.message) == (State.STOPPED, "idle for 1h")
    lab.instances.start(number, ME)
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 3)


def test_changes_count_from_the_next_start(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    changed = lab.instances.modify(number, ME, Change(spec(gpu=1), {"size": "large"}))
    assert (changed.run.row.gpu, changed.spec.roles[0].resources.gpu) == (0, 1)
    lab.instances.restart(number, ME)
    lab.settle()
    found = lab.instances.get(number)
    assert (found.run.row.gpu, found.run.request) == (1, {"size": "large"})


def test_a_start_that_is_refused_says_why_and_leaves_it_stopped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)  # waits for the end of the run, so nobody is there to be told

    def refuse(_: Submission) -> None:
        raise LocalmlError(Code.CAPACITY, "gpu: the machine has fewer")

    monkeypatch.setattr(lab.rig.workloads, "_check", refuse)
    lab.settle()
    found = lab.instances.get(number)
    assert (found.state, found.message, found.pending) == (State.STOPPED, "gpu: the machine has fewer", False)
    with pytest.raises(LocalmlError, match="gpu: the machine has fewer"):
        lab.instances.start(number, ME)
    with pytest.raises(LocalmlError, match="gpu: the machine has fewer"):
        lab.instances.modify(number, ME, Change(spec(gpu=99)))
    monkeypatch.undo()
    assert lab.instances.start(number, ME).message == ""
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 2)


def test_what_was_asked_of_it_is_told(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.modify(number, ME, Change(pool="other"))
    lab.instances.restart(number, ME)
    lab.settle()
    lab.instances.stop(number, ME)
    lab.settle()
    lab.instances.stop(number, ME)
    lab.instances.start(number, ME)
    lab.settle()
    lab.instances.delete(number, ME)
    told = [one.reason for one in lab.instances.events(number)]
    assert told == ["Created", "Changed", "RestartRequested", "StopRequested", "StartRequested", "Deleted"]


def test_two_who_start_it_at_once_get_one_run(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.stop(number, ME)
    lab.settle()
    before = lab.instances.get(number)
    lab.instances.start(number, ME)
    stale = InstanceFull(before.row.model_copy(update={"asked": 2}), before.run)
    assert lab.instances.advance(stale)  # who looked before the other began it
    lab.settle()
    assert lab.at(number) == (State.RUNNING, 2)


def test_a_name_is_taken_until_it_is_deleted(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.stop(number, ME)
    lab.settle()
    with pytest.raises(LocalmlError, match="name: 'lab' is already used"):
        lab.create()
    lab.instances.delete(number, ME)
    with pytest.raises(LocalmlError, match="instance '1' does not exist"):
        lab.instances.start(number, ME)
    assert lab.create().row.id != number


def test_deleting_it_stops_its_run_and_hides_both(lab: Lab) -> None:
    made = lab.create()
    number = made.row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)
    lab.instances.delete(number, ME)
    lab.settle()
    assert lab.at(number) == (State.STOPPED, 1)
    assert lab.instances.list() == []
    assert lab.rig.workloads.row(made.row.workload_id).deleted_at is not None


def test_it_is_found_by_name_kind_and_dialect_and_by_its_run(lab: Lab) -> None:
    one = lab.create()
    other = lab.create(dialect="cloudml")
    assert [found.row.id for found in lab.instances.list(name="lab")] == [other.row.id, one.row.id]
    assert [found.row.id for found in lab.instances.list(name="lab", dialect="native")] == [one.row.id]
    assert lab.instances.list(name="lab", kinds=(Kind.TENSORBOARD,)) == []
    assert lab.instances.list(workspaces=("elsewhere",)) == []
    assert len(lab.instances.list(workspaces=(ME.workspace, "elsewhere"))) == 2
    run = lab.rig.workloads.row(one.row.workload_id)
    found = lab.instances.of_run(run)
    assert found is not None
    assert found.row.id == one.row.id
    assert lab.instances.of_run(lab.rig.workloads.row(lab.rig.submit("job"))) is None
    lab.instances.delete(one.row.id or 0, ME)
    assert lab.instances.of_run(run) is None


def test_its_runs_are_its_children(lab: Lab) -> None:
    number = lab.create().row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)
    lab.settle()
    parent = Subject(Noun.INSTANCE, number)
    runs = lab.rig.workloads.page(Query(parent=parent, deleted=True)).items
    assert [(one.parent, one.deleted_at is None) for one in runs] == [
        (Parent(parent, 2), True),
        (Parent(parent, 1), False),  # hidden, and found by its id
    ]


def test_it_keeps_its_pool_from_being_removed(lab: Lab) -> None:
    number = lab.create(pool="team").row.id or 0
    lab.settle()
    lab.instances.stop(number, ME)
    lab.settle()
    with pytest.raises(LocalmlError, match="1 instance"):
        lab.rig.pools.delete("team")
    lab.instances.modify(number, ME, Change(pool="other"))
    lab.rig.pools.delete("team")
    lab.instances.start(number, ME)
    lab.settle()
    assert lab.instances.get(number).run.row.pool == "other"


def test_pruning_forgets_runs_that_were_replaced_and_what_was_deleted(lab: Lab) -> None:
    made = lab.create()
    number = made.row.id or 0
    lab.settle()
    lab.instances.restart(number, ME)
    lab.settle()
    gone = PruneRules(deleted_older_than=0.0)
    lab.rig.clock.advance(1)
    assert prune(lab.rig.db, lab.rig.data, gone, now=lab.rig.clock.now()).workloads == [made.row.workload_id]
    lab.instances.delete(number, ME)
    lab.settle()
    lab.rig.clock.advance(1)
    assert len(prune(lab.rig.db, lab.rig.data, gone, now=lab.rig.clock.now()).workloads) == 1
    with pytest.raises(LocalmlError, match="does not exist"):
        lab.instances.get(number)
    assert lab.instances.events(number) == []


def test_resources_of_a_pool_that_is_full_make_the_start_wait(lab: Lab) -> None:
    lab.rig.pools.set_limits("small", gpu=0)
    number = lab.create(pool="small").row.id or 0
    lab.settle()
    lab.instances.stop(number, ME)
    lab.settle()
    lab.instances.start(number, ME, Change(spec().model_copy(update={"roles": (_with_gpu(),)})))
    lab.settle()
    assert lab.at(number) == (State.QUEUED, 2)


def _with_gpu() -> Any:
    return spec().roles[0].model_copy(update={"resources": Resources(gpu=1)})


def test_a_list_of_many_takes_no_more_statements_than_one_of_few(lab: Lab) -> None:
    said: list[str] = []

    def note(*given: Any) -> None:
        said.append(given[2])

    def statements() -> int:
        said.clear()
        event.listen(lab.rig.db._readers, "before_cursor_execute", note)
        found = lab.instances.list()
        event.remove(lab.rig.db._readers, "before_cursor_execute", note)
        assert [one.run.row.id for one in found] == [one.row.workload_id for one in found]
        assert all(one.spec.roles for one in found)
        return len(said)

    few = [lab.create(f"a{number}") for number in range(2)]
    before = statements()
    for number in range(20):
        lab.create(f"b{number}")
    assert statements() == before
    assert few[0].run == lab.instances.get(few[0].row.id or 0).run
