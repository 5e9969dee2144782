"""Searches of a whole installation, whose loops run on threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import wait_until
from helpers.studies import Mind, Minds, study_spec

from localml.config import Config
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.core.people.rights import MemberRole
from localml.core.studies.specs import AlgorithmChoice, ResultFile
from localml.core.studies.studies import StudySubmission, subject_of
from localml.core.studies.tables import Study, StudyState
from localml.core.work.specs import Resources
from localml.platform import Platform


class Live:
    """An installation with suggesters that are told what to do, and a fake engine."""

    def __init__(self, data: Path) -> None:
        self.platform = Platform(Config(data, engine="fake", gpus="none", cpus=64, port=0, gateway_port=0))
        self.minds = Minds()
        self.platform.searching.driver._suggesters = self.minds
        self.me = self.platform.identity.user(ADMIN)
        self.platform.start()

    def study(self, name: str = "tune", caller: Caller | None = None, **members: Any) -> int:
        spec = study_spec(seconds=members.pop("seconds", 0), **members)
        return self.platform.studies.create(StudySubmission(name, spec, caller or self.me)).id or 0

    def row(self, number: int) -> Study:
        return self.platform.studies.get(number)

    def over(self, number: int) -> Study:
        wait_until(lambda: self.row(number).ended_at is not None)
        return self.row(number)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    found = Live(tmp_path)
    yield found
    found.platform.close()


def test_a_slow_algorithm_holds_up_no_other_search(live: Live) -> None:
    free = threading.Event()
    asked = threading.Event()

    def slow(mind: Mind, _: int) -> None:
        if mind.setup.seed == 1:
            asked.set()
            free.wait(60)

    live.minds.before_ask = slow
    one = live.study("slow", seed=1, max_trials=1)
    assert asked.wait(30)
    assert live.over(live.study("quick", max_trials=3)).complete == 3
    assert live.row(one).asked == 0
    free.set()
    assert live.over(one).complete == 1


def test_one_that_is_asked_is_stopped_all_the_same(live: Live) -> None:
    free, asked = threading.Event(), threading.Event()
    live.minds.before_ask = lambda *_: (asked.set(), free.wait(60), None)[2]
    number = live.study(max_trials=1)
    assert asked.wait(30)
    live.platform.studies.stop(number, live.me)
    row = live.row(number)
    assert (row.state, row.asked) == (StudyState.STOPPED, 0)
    live.platform.studies.resume(number, live.me)
    live.minds.before_ask = lambda *_: None
    free.set()
    row = live.over(number)
    assert (row.state, row.complete, row.asked) == (StudyState.COMPLETE, 1, 1)


def test_followers_are_woken_until_the_end(live: Live) -> None:
    number = live.study(max_trials=3)
    feed, of = live.platform.feed, subject_of(number)
    seen = []
    while not seen or seen[-1].ended_at is None:
        version = feed.version(of)
        seen.append(live.row(number))
        if seen[-1].ended_at is None:
            assert feed.wait(of, version, 30)
    assert seen[-1].complete == 3


def test_a_search_of_a_removed_user_is_stopped(live: Live) -> None:
    platform = live.platform
    platform.identity.create_user("ann", "ann's password")
    ann = platform.identity.user("ann")
    number = live.study(caller=ann, seconds=None, parallel=2)
    wait_until(lambda: live.row(number).running == 2)
    platform.identity.remove_user("ann")
    row = live.over(number)
    assert (row.state, row.message) == (StudyState.STOPPED, "ann, whose it is, may not be inside any more")
    assert (row.stopped, row.running) == (2, 0)


def test_a_search_in_a_workspace_that_its_owner_left_is_stopped(live: Live) -> None:
    platform = live.platform
    platform.identity.create_user("ann", "ann's password")
    place = platform.workspaces.create(live.me, "shared").id
    platform.workspaces.set_member(place, "ann", MemberRole.MEMBER)
    spec = study_spec(seconds=None)
    new = StudySubmission("tune", spec, platform.identity.user("ann"), workspace=place)
    number = platform.studies.create(new).id or 0
    wait_until(lambda: live.row(number).running == 1)
    platform.workspaces.remove_member(place, "ann")
    assert live.over(number).state is StudyState.STOPPED


@pytest.mark.parametrize(
    ("members", "code", "field"),
    [
        ({"job": {"resources": Resources(memory=1 << 49)}}, Code.CAPACITY, "trial."),
        ({"job": {"code": f"sha256:{'0' * 64}"}}, Code.NOT_FOUND, "trial.code"),
        ({"job": {"priority": 900}}, Code.INVALID, "priority"),
        ({"algorithm": AlgorithmChoice(name="nonesuch")}, Code.INVALID, "algorithm"),
        ({"algorithm": AlgorithmChoice(name="tpe", params={"WarmUp": "x"})}, Code.INVALID, "WarmUp"),
        ({"result": ResultFile(uri="fds://ann/out.json"), "max_trials": 2}, Code.INVALID, "result.uri"),
        ({"result": ResultFile(uri="/../../x-{trial}")}, Code.INVALID, "result.uri"),
        ({"result": ResultFile(uri="file:///x-{trial}.json")}, Code.INVALID, "result.uri"),
    ],
)
def test_what_could_never_run_is_refused_and_nothing_is_left(
    live: Live, members: dict[str, Any], code: Code, field: str
) -> None:
    live.platform.identity.create_user("ann", "ann's password")
    ann = live.platform.identity.user("ann")
    with pytest.raises(LocalmlError) as caught:
        live.study(caller=ann, **members)
    assert (caught.value.code, (caught.value.field or "trial.").startswith(field)) == (code, True), caught.value
    assert live.platform.studies.active() == []
