"""What follows for a study is a pure function; here it is asked about every study that there could be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers.studies import study_spec
from hypothesis import given
from hypothesis import strategies as st

from localml.control.studies.plan import Plan, Report, TalkState, View, plan
from localml.core.studies.specs import StudySpec
from localml.core.studies.tables import OVER, StudyState, TrialState
from localml.core.studies.trials import StudyRow, TrialRow
from localml.core.work.causes import Cause
from localml.core.work.states import TERMINAL, Desired, State

ROW = StudyRow(
    id=1,
    name="tune",
    dialect="native",
    workspace="p",
    owner_id=1,
    pool="default",
    algorithm="tpe",
    seed=1,
    state=StudyState.RUNNING,
    desired=Desired.RUN,
    outcome=None,
    forced=False,
    message="",
    run=1,
    life=1,
    first=1,
    asked=0,
    running=0,
    complete=0,
    pruned=0,
    failed=0,
    stopped=0,
    failing=0,
    best=None,
    best_value=None,
    sequence=0,
    exhausted=False,
    started_at=None,
    deadline=None,
)
NOW = 1000.0
SPECS = [
    study_spec(max_trials=trials, parallel=parallel, max_failures=failures, max_time=5.0)
    for trials in (None, 1, 8, 20)
    for parallel in (1, 3)
    for failures in (None, 1, 3)
]


def trial(number: int, state: State | None = State.RUNNING, **members: Any) -> TrialRow:
    found = TrialRow(number, 100 + number, False, state, Desired.RUN, None, "", None)
    return replace(found, **members)


@st.composite
def views(draw: st.DrawFn) -> View:
    """A study that is not over, as consistent as the records keep it."""
    waiting = draw(st.lists(st.sampled_from([None, *State]), max_size=6))
    rows, reports, bad = [], {}, {}
    for number, state in enumerate(waiting, start=1):
        stopped = state is State.STOPPED
        cause = draw(st.sampled_from([Cause.STOPPED, Cause.TIME_LIMIT])) if stopped else None
        one = trial(number, state, pruning=draw(st.booleans()), cause=cause, message=draw(st.sampled_from(["", "why"])))
        one = replace(one, desired=draw(st.sampled_from(Desired)), grace=draw(st.sampled_from([None, 0.0])))
        rows.append(one)
        if state in TERMINAL and draw(st.booleans()):
            reports[number] = draw(st.sampled_from([Report(0.5, {}), Report(-1.0), Report(trouble="nan")]))
        if state is State.RUNNING and draw(st.booleans()):
            bad[number] = "worse"
    counts = {name: draw(st.integers(0, 5)) for name in ("complete", "pruned", "failed", "stopped")}
    had = len(rows) + sum(counts.values())
    best = draw(st.sampled_from([None, 0.0, 1.0])) if counts["complete"] else None
    stopping = draw(st.booleans())
    state = StudyState.STOPPING if stopping else StudyState.RUNNING if had else StudyState.WAITING
    row = replace(
        ROW,
        state=state,
        desired=draw(st.sampled_from(Desired)) if stopping else Desired.RUN,
        outcome=draw(st.sampled_from(sorted(OVER))) if stopping else None,
        forced=stopping and draw(st.booleans()),
        asked=had,
        running=len(rows),
        failing=draw(st.integers(0, counts["failed"])),
        best=None if best is None else had,
        best_value=best,
        sequence=had + sum(counts.values()),
        exhausted=draw(st.booleans()),
        deadline=draw(st.sampled_from([None, NOW - 1, NOW + 1])),
        **counts,
    )
    spec = draw(st.sampled_from(SPECS))
    return View(
        row,
        spec,
        tuple(rows),
        reports,
        bad,
        draw(st.sampled_from(TalkState)),
        exhausted=draw(st.booleans()),
        failure=draw(st.sampled_from(["", "it broke"])),
    )


def after(view: View, found: Plan) -> View:
    """The study once all of a plan was done."""
    told = {one.number for one in found.tells}
    stops = {one.trial.number: one for one in found.stops}
    rows = [
        replace(one, desired=Desired.STOP, grace=0.0 if stops[one.number].now else one.grace)
        if one.number in stops
        else one
        for one in view.trials
        if one.number not in told
    ]
    columns = {name: value for name, value in found.columns.items() if name != "ended_at"}
    reports = {number: one for number, one in view.reports.items() if number not in told}
    talk = TalkState.FREE if told and view.talk is TalkState.WAITS else view.talk
    return replace(view, row=replace(view.row, **columns), trials=tuple(rows), reports=reports, talk=talk)


@given(views())
def test_counts_stay_those_of_the_trials(view: View) -> None:
    found = plan(view, NOW)
    then = after(view, found).row
    tells = found.tells
    assert then.running == len(view.trials) - len(tells) >= 0
    assert then.sequence == view.row.sequence + len(tells)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.STOPPED):
        more = sum(1 for one in tells if one.outcome.state is state)
        assert getattr(then, state.value) == getattr(view.row, state.value) + more
    assert len({one.number for one in tells}) == len(tells)
    assert [one.number for one in tells] == sorted(one.number for one in tells)


@given(views())
def test_nothing_is_told_of_what_still_runs_or_was_not_read(view: View) -> None:
    by_number = {one.number: one for one in view.trials}
    for one in plan(view, NOW).tells:
        row = by_number[one.number]
        assert row.state is None or (row.state in TERMINAL and one.number in view.reports)
        if one.outcome.state is TrialState.COMPLETE:
            assert (row.state, one.outcome.value) == (State.SUCCEEDED, view.reports[one.number].value)
        elif one.outcome.state is not TrialState.PRUNED:
            assert one.outcome.value is None


@given(views())
def test_results_wait_while_the_suggester_is_asked_unless_the_study_ends(view: View) -> None:
    found = plan(view, NOW)
    if view.talk is TalkState.BUSY and view.row.state is not StudyState.STOPPING and not view.failure:
        assert found.tells == ()
        assert not found.asks


@given(views())
def test_a_trial_is_asked_for_only_where_there_is_room_for_it(view: View) -> None:
    found = plan(view, NOW)
    then = after(view, found).row
    if found.asks:
        assert view.talk is TalkState.FREE
        assert then.state in (StudyState.WAITING, StudyState.RUNNING)
        assert then.running < view.spec.parallel
        assert view.spec.max_trials is None or then.asked < view.spec.max_trials
        assert {then.exhausted, view.exhausted} == {False}
        assert not view.failure


@given(views())
def test_a_study_is_over_only_when_no_trial_runs_and_then_for_a_reason(view: View) -> None:
    found = plan(view, NOW)
    then = after(view, found).row
    assert found.over is (then.state in OVER) is ("ended_at" in found.columns)
    if found.over:
        assert then.running == 0
        assert not found.asks
        assert not found.stops
        assert [reason for reason, *_ in found.events].count("Ended") == 1
        assert then.state is not StudyState.FAILED or view.row.state is StudyState.STOPPING or then.message


@given(views())
def test_one_that_stops_stops_whatever_runs_and_no_other_trial(view: View) -> None:
    found = plan(view, NOW)
    then = after(view, found)
    for stop in found.stops:
        assert stop.trial.state not in TERMINAL
        assert stop.early is (then.row.state is not StudyState.STOPPING)
        assert stop.early or stop.words.startswith(
            ("its study failed", "its study is complete", "its study was stopped")
        )
        assert stop.words
    if then.row.state is StudyState.STOPPING:
        assert all(one.desired is Desired.STOP for one in then.trials if one.state not in {*TERMINAL, None})


@given(views())
def test_done_once_there_is_nothing_left_to_write(view: View) -> None:
    """Or the loop would never rest."""
    for _ in range(4):
        found = plan(view, NOW)
        if found.over or not found.writes:
            return
        view = after(view, found)
    raise AssertionError(f"still writes: {plan(view, NOW)}")


@given(views())
def test_a_study_never_hangs(view: View) -> None:
    """Where nothing is to be done, something is under way that will bring the next step."""
    while (found := plan(view, NOW)).writes:
        if found.over:
            return
        view = after(view, found)
    runs = any(one.state is not None and one.state not in TERMINAL for one in view.trials)
    assert runs or found.reads or found.asks or view.talk is TalkState.BUSY, view


@given(views())
def test_the_best_is_the_best_of_all_that_completed(view: View) -> None:
    then = after(view, plan(view, NOW)).row
    values = [one.outcome.value for one in plan(view, NOW).tells if one.outcome.state is TrialState.COMPLETE]
    known = [one for one in (view.row.best_value, *values) if one is not None]
    assert then.best_value == min(known, default=None)
    assert (then.best is None) is (then.best_value is None)


def steps(spec: StudySpec, row: StudyRow = ROW, **members: Any) -> Plan:
    return plan(View(row, spec, **members), NOW)


def test_the_first_question_is_asked_at_once() -> None:
    assert steps(study_spec(), replace(ROW, state=StudyState.WAITING)) == Plan(asks=True)


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        ({"max_trials": 2}, StudyState.COMPLETE, ""),
        ({"max_trials": 3}, None, None),
        ({"max_failures": 1}, StudyState.FAILED, "1 trials in a row failed; the last one: boom"),
    ],
)
def test_the_last_trials_end_decides(limit: dict[str, int], state: StudyState | None, words: str | None) -> None:
    row = replace(ROW, asked=2, running=1, complete=1, best=1, best_value=0.0)
    found = steps(
        study_spec(**{"max_trials": 2, "max_failures": None, **limit}),
        row,
        trials=(trial(2, State.FAILED, message="boom"),),
        reports={2: Report()},
    )
    assert found.columns.get("state") == state
    assert found.columns.get("message") == (words or None)
