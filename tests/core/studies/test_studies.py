"""Studies as records: made, found, listed, stopped, resumed, started over, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME, Rig

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.studies.space import Parameter, Type
from localml.core.studies.specs import Objective, StudySpec
from localml.core.studies.studies import Studies, StudyQuery, StudySubmission
from localml.core.studies.tables import StudyState
from localml.core.subjects import Noun, Subject
from localml.core.work.specs import single


def spec(**members: Any) -> StudySpec:
    space = (Parameter(name="x", low=0, high=1), Parameter(name="n", type=Type.INT, low=1, high=9))
    members = {"space": space, "objective": Objective(metric="loss"), "trial": single(["train", "{x}"])} | members
    return StudySpec(**members)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = Rig(tmp_path)
    yield found
    found.close()


@pytest.fixture
def studies(rig: Rig) -> Studies:
    return Studies(rig.db, rig.clock)


def make(studies: Studies, name: str | None = "tune", caller: Caller = ME, **members: Any) -> int:
    return studies.create(StudySubmission(name, spec(**members), caller)).id or 0


def refused(call: Any, *args: Any, **kwargs: Any) -> LocalmlError:
    with pytest.raises(LocalmlError) as caught:
        call(*args, **kwargs)
    return caught.value


def test_one_is_made_and_found(studies: Studies) -> None:
    number = make(studies, max_trials=7)
    row = studies.get(number)
    assert (row.name, row.state, row.owner_id, row.workspace) == ("tune", StudyState.WAITING, ME.id, ME.workspace)
    assert studies.spec(row) == spec(max_trials=7)
    found = studies.find(dialect="native", name="tune", workspaces=["p"])
    assert found is not None
    assert found.id == number
    assert studies.find(dialect="native", name="tune", workspaces=["other"]) is None
    assert studies.find(dialect="wmla", name="tune") is None
    assert studies.named("tune").id == studies.named(str(number)).id == number
    assert [one.reason for one in studies.events(number)] == ["Created"]
    assert (studies.trials(number), studies.best(number)) == ([], None)


def test_a_name_is_made_up_and_a_seed_drawn(studies: Studies) -> None:
    one, two = (studies.get(make(studies, None)) for _ in range(2))
    assert one.name != two.name
    assert one.name.startswith("study-")
    assert one.seed != two.seed  # of 2 to the 32
    assert studies.get(make(studies, "seeded", seed=11)).seed == 11


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 129, "..", "ü"])
def test_a_name_that_is_none_is_refused(studies: Studies, name: str) -> None:
    error = refused(make, studies, name)
    assert (error.code, error.field) == (Code.INVALID, "name")


def test_a_taken_name_is_refused_until_the_study_is_deleted(studies: Studies) -> None:
    number = make(studies)
    error = refused(make, studies)
    assert (error.code, error.field) == (Code.CONFLICT, "name")
    studies.stop(number, ME)
    studies.delete(number, ME)
    assert make(studies) != number
    assert studies.get(number).deleted_at is not None


def test_a_study_in_a_workspace_that_is_not_there_is_refused(studies: Studies) -> None:
    error = refused(studies.create, StudySubmission("x", spec(), ME, workspace="nowhere"))
    assert error.code is Code.NOT_FOUND
    assert studies.page(StudyQuery()).items == []


def test_pages_lead_to_all_of_them_once(studies: Studies) -> None:
    numbers = [make(studies, f"tune-{n}") for n in range(7)]
    found, after = [], None
    while True:
        page = studies.page(StudyQuery(limit=3, after=after))
        found += [one.id for one in page.items]
        after = page.cursor
        if after is None:
            break
    assert found == numbers[::-1]


def test_lists_are_filtered(studies: Studies) -> None:
    one, two = make(studies, "a-1"), make(studies, "b-1")
    studies.stop(two, ME)

    def listed(**members: Any) -> list[int | None]:
        return [row.id for row in studies.page(StudyQuery(**members)).items]

    assert listed(contains="a-") == [one]
    assert listed(states=(StudyState.STOPPED,)) == [two]
    assert listed(workspaces=[]) == listed(dialect="wmla") == listed(owner_id=9) == []
    assert listed(owner_id=ME.id, workspaces=["p"], dialect="native") == [two, one]
    for wrong, field in ((StudyQuery(limit=0), "limit"), (StudyQuery(after="x"), "after")):
        assert refused(studies.page, wrong).field == field


def test_one_without_trials_is_stopped_at_once(studies: Studies) -> None:
    number = make(studies)
    row = studies.stop(number, ME)
    assert (row.state, row.message) == (StudyState.STOPPED, "stopped by me")
    assert row.ended_at is not None
    again = studies.stop(number, ME)
    assert again.ended_at == row.ended_at
    assert [one.reason for one in studies.events(number)] == ["Created", "StopRequested", "Ended"]


def test_what_is_not_over_is_not_deleted_resumed_or_started_over(studies: Studies) -> None:
    number = make(studies)
    for call in (studies.delete, studies.resume, studies.restart):
        assert refused(call, number, ME).code is Code.WRONG_STATE


def test_one_that_was_stopped_is_resumed_or_started_over(studies: Studies) -> None:
    number = make(studies)
    studies.stop(number, ME)
    row = studies.resume(number, ME)
    assert (row.state, row.message, row.ended_at, row.run) == (StudyState.WAITING, "", None, 1)
    studies.stop(number, ME)
    row = studies.restart(number, ME)
    assert (row.state, row.run, row.first) == (StudyState.WAITING, 2, 1)


def test_what_is_not_there_is_not_found(studies: Studies) -> None:
    number = make(studies)
    studies.stop(number, ME)
    studies.delete(number, ME)
    for call in (studies.stop, studies.resume, studies.restart, studies.delete):
        assert refused(call, number, ME).code is Code.NOT_FOUND
    for name in ("tune", str(number), "99"):
        assert refused(studies.named, name).code is Code.NOT_FOUND
    assert refused(studies.get, 99).code is refused(studies.trial, number, 1).code is Code.NOT_FOUND


def test_followers_and_the_control_plane_are_told_of_every_change(rig: Rig) -> None:
    told: list[Subject] = []
    studies = Studies(rig.db, rig.clock, changed=told.append)
    nudged: list[int] = []
    studies.nudge = nudged.append
    number = make(studies)
    for call in (studies.stop, studies.resume, studies.stop, studies.restart, studies.stop, studies.delete):
        call(number, ME)
    assert told == [Subject(Noun.STUDY, number)] * 7
    assert nudged == [number] * 7
