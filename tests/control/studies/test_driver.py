"""The loop of studies over the job loop with a fake engine: what a user sees of a search, from first trial to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.rig import ME
from helpers.studies import StudyRig

from localml.core.errors import Code, LocalmlError
from localml.core.studies.specs import Goal, Objective, ResultFile, Strategy, Take
from localml.core.studies.tables import StudyState
from localml.core.work.specs import single
from localml.core.work.states import Kind
from localml.core.work.workloads import Query
from localml.hpo.base import Proposal


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[StudyRig]:
    found = StudyRig(tmp_path)
    yield found
    found.driver.close()
    found.close()


def test_a_search_runs_its_trials_and_knows_the_best(rig: StudyRig) -> None:
    number = rig.study(max_trials=5)
    row = rig.run(number)
    assert (row.state, row.complete, row.asked, row.running) == (StudyState.COMPLETE, 5, 5, 0), row
    trials = rig.trials(number)
    values = {one.number: one.value for one in trials}
    assert [one.params["x"] for one in trials] == list(values.values())
    assert (row.best, row.best_value) == min(values.items(), key=lambda one: one[1])
    better = [n for n, value in values.items() if value == min(list(values.values())[:n])]
    assert [one.number for one in trials if one.improves] == better
    assert rig.events_of(number)[:2] == ["Created", "Started"]
    assert rig.events_of(number)[-1] == "Ended"
    assert trials[0].metrics == {"loss": {"min": values[1], "max": values[1], "latest": values[1], "steps": 1}}


def test_a_trial_is_a_child_of_its_study(rig: StudyRig) -> None:
    number = rig.study(max_trials=3, parallel=3)
    rig.steps(2)
    page = rig.workloads.page(Query(kinds=(Kind.TRIAL,), descending=False))
    assert [(one.name, one.parent_id, one.parent_index) for one in page.items] == [
        (f"tune-{n}", number, n) for n in (1, 2, 3)
    ]
    full = rig.get(page.items[1].id or 0)
    trial = rig.studies.trial(number, 2)
    assert trial.workload_id == full.row.id
    assert full.spec.roles[0].command == ("run", json.dumps(trial.params["x"]))
    assert full.spec.roles[0].env["LOCALML_TRIAL"] == "2"


def test_no_more_than_asked_for_run_at_a_time(rig: StudyRig) -> None:
    number = rig.study(max_trials=7, parallel=3)
    most = 0
    for _ in range(20):
        rig.steps(2)
        most = max(most, rig.row(number).running)
        rig.clock.advance(1)
    row = rig.row(number)
    assert (most, row.complete, row.state) == (3, 7, StudyState.COMPLETE)


def test_the_algorithm_ends_a_search_that_has_no_number_of_trials(rig: StudyRig) -> None:
    rig.minds.proposals = lambda _, n: Proposal({"x": n / 10}) if n < 4 else Proposal(over=True)
    row = rig.run(rig.study(parallel=2))
    assert (row.state, row.complete, row.exhausted) == (StudyState.COMPLETE, 3, True)


def test_an_algorithm_that_waits_is_asked_again_once_it_was_told(rig: StudyRig) -> None:
    """As one does that goes on in rounds."""

    def in_rounds(mind: object, number: int) -> Proposal:
        told = sum(1 for one in mind.happened if hasattr(one, "value"))  # type: ignore[attr-defined]
        return Proposal({"x": 0.5}) if number <= 2 or told >= 2 else Proposal()

    rig.minds.proposals = in_rounds
    number = rig.study(max_trials=4, parallel=4)
    rig.steps(2)
    assert rig.row(number).asked == 2
    assert rig.run(number).complete == 4


def test_an_algorithm_that_waits_for_nothing_ends_the_search(rig: StudyRig) -> None:
    rig.minds.proposals = lambda _, n: Proposal({"x": 0.5}) if n == 1 else Proposal()
    assert rig.run(rig.study(parallel=2)).state is StudyState.COMPLETE


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("nothing", "its output has no metric 'loss'"),
        ("acc=0.5", "its output has no metric 'loss', but acc"),
        ("loss=nan", "its 'loss' is nan"),
        ("loss=inf", "its 'loss' is inf"),
    ],
)
def test_a_trial_without_a_result_fails_and_the_search_goes_on(rig: StudyRig, output: str, told: str) -> None:
    number = rig.study(output=output, max_trials=3, max_failures=None)
    row = rig.run(number)
    assert (row.failed, row.state) == (3, StudyState.FAILED)
    assert row.message == f"none of its 3 trials gave a result; the last one: {told}"
    assert {one.message for one in rig.trials(number)} == {told}


def test_failures_in_a_row_end_the_search_with_the_last_ones_words(rig: StudyRig) -> None:
    number = rig.study(exit_code=3, max_trials=50, max_failures=2)
    row = rig.run(number)
    assert (row.state, row.failed, row.asked) == (StudyState.FAILED, 2, 2)
    assert "2 trials in a row failed; the last one: main-0: exit code 3" in row.message


def test_a_success_between_failures_lets_the_search_go_on(rig: StudyRig) -> None:
    rig.minds.proposals = lambda _, n: Proposal({"x": 0.5 if n % 2 else "nan"})
    row = rig.run(rig.study(max_trials=6, max_failures=2))
    assert (row.state, row.complete, row.failed) == (StudyState.COMPLETE, 3, 3)


def test_a_trial_beyond_its_time_limit_fails_with_that_reason(rig: StudyRig) -> None:
    number = rig.study(seconds=None, max_trials=1, job={"time_limit": 5.0})
    row = rig.run(number)
    [trial] = rig.trials(number)
    assert (row.state, trial.value, trial.state) == (StudyState.FAILED, None, "failed")
    assert "time limit" in trial.message
    assert trial.metrics["loss"]["steps"] == 1  # what it had reported is shown all the same


def test_a_search_ends_when_its_time_is_over_and_its_trials_with_it(rig: StudyRig) -> None:
    number = rig.study(seconds=10, parallel=2, max_time=25.0)
    row = rig.run(number)
    assert (row.state, row.message) == (StudyState.COMPLETE, "its time of 25 s is over")
    assert (row.complete, row.stopped, row.running) == (4, 2, 0)
    assert row.ended_at is not None
    assert row.started_at is not None
    assert row.ended_at - row.started_at < 30


def test_a_search_is_stopped_with_its_trials(rig: StudyRig) -> None:
    number = rig.study(seconds=None, parallel=2)
    rig.steps(3)
    rig.studies.stop(number, ME)
    assert rig.row(number).state is StudyState.STOPPING
    rig.steps(3)
    row = rig.row(number)
    assert (row.state, row.stopped, row.message) == (StudyState.STOPPED, 2, "stopped by me")
    assert {rig.state(one.workload_id) for one in rig.trials(number)} == {"stopped"}
    assert rig.driver._study_of == {}
    assert rig.minds.live == 0


def test_a_forced_stop_gives_trials_no_time(rig: StudyRig) -> None:
    number = rig.study(seconds=None, max_trials=1)
    rig.steps(3)
    rig.studies.stop(number, ME, force=True)
    rig.steps(3)
    [trial] = rig.trials(number)
    assert rig.get(trial.workload_id).row.grace == 0
    assert rig.row(number).state is StudyState.STOPPED


def test_one_that_is_being_stopped_may_be_forced_then(rig: StudyRig) -> None:
    env = {"FAKE_IGNORE_TERM": "1"}
    number = rig.study(trial=single(["run"], env=env, stop_grace=1000.0), max_trials=1)
    rig.steps(3)
    rig.studies.stop(number, ME)
    rig.steps(3)
    [trial] = rig.trials(number)
    assert (rig.row(number).state, rig.get(trial.workload_id).row.grace) == (StudyState.STOPPING, None)
    rig.studies.stop(number, ME, force=True)
    rig.steps(3)
    assert rig.get(trial.workload_id).row.grace == 0
    assert rig.reasons(trial.workload_id).count("StopRequested") == 2


def test_one_trial_that_somebody_stops_is_no_failure(rig: StudyRig) -> None:
    number = rig.study(seconds=5, max_trials=3, max_failures=1)
    rig.steps(3)
    rig.workloads.stop(rig.trials(number)[0].workload_id, ME)
    row = rig.run(number)
    assert (row.state, row.stopped, row.complete) == (StudyState.COMPLETE, 1, 2)


def test_a_stopped_search_is_resumed_where_it_was(rig: StudyRig) -> None:
    whole = rig.study("whole", max_trials=6)
    rig.run(whole)
    number = rig.study(max_trials=3)
    rig.run(number)
    row = rig.studies.resume(number, ME, max_trials=6)
    assert row.state is StudyState.RUNNING
    row = rig.run(number)
    assert (row.state, row.complete, row.best) == (StudyState.COMPLETE, 6, rig.row(whole).best)
    assert rig.told(number) == rig.told(whole)


def test_one_that_had_all_its_trials_is_not_resumed_without_more(rig: StudyRig) -> None:
    number = rig.study(max_trials=2)
    rig.run(number)
    with pytest.raises(LocalmlError, match="it had 2 trials, and may have 2; give more") as caught:
        rig.studies.resume(number, ME)
    assert caught.value.code is Code.WRONG_STATE


def test_a_search_that_starts_over_proposes_the_same_again(rig: StudyRig) -> None:
    number = rig.study(max_trials=3)
    first = rig.run(number)
    rig.studies.restart(number, ME)
    row = rig.run(number)
    assert (row.run, row.first, row.complete, row.asked) == (2, 4, 3, 6)
    assert (row.best or 0) - 3 == first.best
    told = rig.told(number)
    assert [one[2] for one in told[:3]] == [one[2] for one in told[3:]]
    assert [one.number for one in rig.studies.trials(number, run=2)] == [4, 5, 6]


def test_a_deleted_study_takes_its_trials_along(rig: StudyRig) -> None:
    number = rig.study(max_trials=2)
    rig.run(number)
    rig.studies.delete(number, ME)
    assert all(rig.get(one.workload_id).row.deleted_at is not None for one in rig.trials(number))
    assert rig.workloads.page(Query(kinds=(Kind.TRIAL,))).items == []


def test_what_is_better_and_which_value_counts(rig: StudyRig) -> None:
    output = "loss=0.5 acc=0.1\nloss=0.2 acc=0.9\nloss=0.3 acc=0.4"
    lines = output.replace("\n", "{x}\n").replace("{x}", "")
    for name, objective, value in (
        ("a", Objective(metric="loss"), 0.2),
        ("b", Objective(metric="acc", goal=Goal.MAXIMIZE), 0.9),
        ("c", Objective(metric="acc", goal=Goal.MAXIMIZE, take=Take.LAST), 0.4),
    ):
        number = rig.study(name, output=lines, objective=objective, max_trials=1)
        assert rig.run(number).best_value == value
    [trial] = rig.trials(number)
    assert trial.metrics["loss"] == {"min": 0.2, "max": 0.5, "latest": 0.3, "steps": 3}


def test_results_are_read_from_files(rig: StudyRig) -> None:
    rig.files.found = {
        "/b/1.json": b'[{"step": 1, "loss": 0.5}, {"step": 2, "loss": "0.25", "note": "x"}]',
        "/b/2.json": b'{"loss": 3}',
        "/b/3.json": b"[1]",
        "/b/4.json": b"{",
        "/b/5.json": b'{"loss": NaN}',
        "/b/6.json": b"[]",
    }
    result = ResultFile(uri="/b/{trial}.json")
    metrics = {"step": Strategy.LATEST}
    number = rig.study(max_trials=7, max_failures=None, result=result, metrics=metrics, parallel=7)
    assert rig.run(number).best == 1
    trials = rig.trials(number)
    assert [one.value for one in trials] == [0.25, 3.0, None, None, None, None, None]
    assert trials[0].metrics == {
        "loss": {"min": 0.25, "max": 0.5, "latest": 0.25, "steps": 2},
        "step": {"min": 1.0, "max": 2.0, "latest": 2.0, "steps": 2},
    }
    assert [one.message for one in trials[2:]] == [
        "its result /b/3.json is neither a list of objects nor an object",
        "its result /b/4.json is no JSON",
        "its 'loss' is no finite number",
        "its result /b/6.json has no metric 'loss'",
        "it left no result: object '/b/7.json' does not exist",
    ]


# -- suggesters ----------------------------------------------------------------------------------------


def fails(*numbers: int, words: str = "the algorithm broke", trace: str = "Traceback: line 1") -> object:
    def before(_: object, number: int) -> None:
        if number in numbers:
            raise LocalmlError(Code.INTERNAL, words, details={"traceback": trace})

    return before


def test_a_suggester_that_fails_fails_the_search_in_its_own_words(rig: StudyRig) -> None:
    rig.minds.before_ask = fails(2)  # type: ignore[assignment]
    row = rig.run(rig.study(max_trials=5))
    assert (row.state, row.complete) == (StudyState.FAILED, 1)
    assert row.message == "the algorithm broke\nTraceback: line 1"
    assert rig.minds.asked == [1, 2, 2]  # one that had worked is opened once more
    assert rig.minds.live == 0


def test_one_that_fails_at_its_first_question_is_not_asked_again(rig: StudyRig) -> None:
    rig.minds.before_ask = fails(1)  # type: ignore[assignment]
    row = rig.run(rig.study(max_trials=5))
    assert (row.state, row.asked, rig.minds.asked) == (StudyState.FAILED, 0, [1])


def test_a_suggester_that_died_is_opened_again_and_proposes_the_same(rig: StudyRig) -> None:
    died: list[int] = []

    def dies_once(_: object, number: int) -> None:
        if number in (3, 5) and number not in died:
            died.append(number)
            raise LocalmlError(Code.INTERNAL, "killed")

    rig.minds.before_ask = dies_once
    number = rig.study(max_trials=6, parallel=2)
    assert rig.run(number).complete == 6
    assert died == [3, 5]
    rig.need_replayed(number)


@pytest.mark.parametrize("keeps_state", [False, True])
@pytest.mark.parametrize("parallel", [1, 3])
def test_the_server_is_started_again_at_any_moment_and_the_search_is_the_same(
    rig: StudyRig, keeps_state: bool, parallel: int
) -> None:
    rig.minds.keeps_state = keeps_state
    whole = rig.study("whole", max_trials=9, parallel=parallel)
    rig.run(whole)
    rig.need_replayed(whole)
    number = rig.study(max_trials=9, parallel=parallel)
    for _ in range(60):
        rig.restart()
        rig.settle(2)
        rig.look()
        if rig.row(number).ended_at is not None:
            break
        rig.clock.advance(0.5)
    assert rig.row(number).complete == 9
    rig.need_replayed(number)
    if parallel == 1:
        assert rig.told(number) == rig.told(whole)
        assert rig.row(number).best == rig.row(whole).best


def test_nothing_begins_in_the_name_of_somebody_who_is_gone(rig: StudyRig) -> None:
    number = rig.study(max_trials=3)
    rig.steps(2)
    rig.gone = "me may not run anything here any more"
    row = rig.run(number)
    assert (row.state, row.complete) == (StudyState.FAILED, 1)
    assert row.message == "trial 2 cannot run: me may not run anything here any more"


def test_a_trial_that_the_machine_never_has_room_for_fails_the_search(rig: StudyRig) -> None:
    def too_large(submission: object) -> object:
        raise LocalmlError(Code.CAPACITY, "cpu: 999 asked, 64 there")

    number = rig.study(max_trials=3)
    rig.workloads._check = too_large  # type: ignore[assignment]
    row = rig.run(number)
    assert (row.state, row.message) == (StudyState.FAILED, "trial 1 cannot run: cpu: 999 asked, 64 there")


def test_a_trial_that_finds_no_room_in_the_queue_waits(rig: StudyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [True]

    def no_room(*_: object) -> None:
        if full[0]:
            raise LocalmlError(Code.TOO_MANY_REQUESTS, "queue: full")

    monkeypatch.setattr("localml.control.studies.driver.need_room", no_room)
    number = rig.study(max_trials=2)
    rig.steps(2)
    assert (rig.row(number).asked, rig.row(number).state) == (0, StudyState.WAITING)
    full[0] = False
    rig.driver._known[number].rest_until = 0.001
    assert rig.run(number).complete == 2


def test_suggesters_that_nobody_asks_for_long_are_closed(rig: StudyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    number = rig.study(seconds=None, max_trials=2)
    rig.steps(2)
    assert rig.minds.live == 1
    rig.driver._known[number].talk.used -= 3600
    rig.driver.tick()
    assert rig.minds.live == 0


def test_an_idle_loop_sleeps(rig: StudyRig) -> None:
    assert rig.driver.tick() is None
    rig.run(rig.study(max_trials=1))
    assert rig.driver.tick() is None


def test_a_failed_trial_says_what_its_program_said_last(rig: StudyRig) -> None:
    number = rig.study(seconds=5, exit_code=3, max_trials=1)
    rig.steps(3)
    [trial] = rig.trials(number)
    name = rig.get(trial.workload_id).attempts[0].name
    rig.engine.write(name, "stderr", b"Traceback (most recent call last):\nValueError: lr is too large\n\n")
    row = rig.run(number)
    assert rig.trials(number)[0].message == "main-0: exit code 3: ValueError: lr is too large"
    assert row.message.endswith("; the last one: main-0: exit code 3: ValueError: lr is too large")


def test_a_full_disk_holds_a_search_up_and_takes_nothing_from_it(
    rig: StudyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rig.study(max_trials=4)
    write, full = rig.db.write, [0]

    def sometimes(act: object) -> object:
        full[0] += 1
        if full[0] % 3 == 0:
            raise LocalmlError(Code.STORAGE, "the disk is full")
        return write(act)  # type: ignore[arg-type]

    def look() -> None:
        monkeypatch.setattr(rig.db, "write", sometimes)
        for _ in range(4):
            with suppress(LocalmlError):
                for workload in list(rig.driver._study_of):
                    rig.driver.changed(workload)
                rig.driver.tick()
            for known in rig.driver._known.values():
                known.rest_until = 0.001  # the rest is over
        monkeypatch.setattr(rig.db, "write", write)

    monkeypatch.setattr(rig, "look", look)
    row = rig.run(number)
    assert (row.state, row.complete, row.asked) == (StudyState.COMPLETE, 4, 4)
    assert full[0] > 3
    rig.need_replayed(number)
