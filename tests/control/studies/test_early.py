"""Trials that do worse than others are stopped early, where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.studies import StudyRig
from hypothesis import given
from hypothesis import strategies as st

from localml.control.studies import known
from localml.control.studies.early import averages, why_stop
from localml.core.studies.specs import EarlyStopping, Goal, Objective
from localml.core.studies.tables import StudyState
from localml.hpo.base import Told

RULE = EarlyStopping(min_trials=3, min_steps=2)
FLAT = [averages([1.0] * 10)] * 3


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyRig]:
    monkeypatch.setattr(known, "LOOK_S", 0.0)
    found = StudyRig(tmp_path)
    yield found
    found.driver.close()
    found.close()


def lines(*values: float) -> str:
    return "".join(f"loss={one}\n" for one in values)


def test_averages_are_those_up_to_each_step() -> None:
    assert list(averages([1.0, 3.0, 5.0])) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("values", "goal", "stops"),
    [
        ([2.0, 2.0, 2.0], Goal.MINIMIZE, True),
        ([2.0, 2.0], Goal.MINIMIZE, False),  # it may always take two steps
        ([2.0, 0.5, 9.0], Goal.MINIMIZE, False),  # its best counts
        ([1.0, 1.0, 1.0], Goal.MINIMIZE, False),  # as good as the median
        ([2.0, 2.0, 2.0], Goal.MAXIMIZE, False),
        ([0.5, 0.5, 0.5], Goal.MAXIMIZE, True),
        ([2.0] * 11, Goal.MINIMIZE, False),  # nobody came so far
    ],
)
def test_the_median_of_the_others_decides(values: list[float], goal: Goal, stops: bool) -> None:
    assert bool(why_stop(values, FLAT, RULE, goal)) is stops


def test_too_few_others_stop_nobody() -> None:
    assert why_stop([2.0] * 3, FLAT[:2], RULE, Goal.MINIMIZE) == ""


series = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(series, st.lists(series, max_size=8), st.sampled_from(Goal))
def test_the_best_of_all_is_never_stopped(values: list[float], others: list[list[float]], goal: Goal) -> None:
    best = min(one * goal.sign for other in [values, *others] for one in other) * goal.sign
    assert why_stop([*values, best], [averages(one) for one in others], RULE, goal) == ""


def test_a_trial_that_does_worse_is_stopped_and_the_search_goes_on(rig: StudyRig) -> None:
    number = rig.study(
        output=lines(1, 1, 1, 1).rstrip(),
        max_trials=5,
        parallel=1,
        early_stopping=RULE,
        objective=Objective(metric="loss"),
    )
    while rig.row(number).complete < 3:
        rig.steps(2)
        if rig.row(number).complete < 3:
            rig.clock.advance(1)
    rig.steps(2)
    trial = rig.trials(number)[3]
    assert trial.state == "running"
    rig.write(trial.workload_id, lines(5, 4, 3, 3))
    rig.steps(4)
    trial = rig.trials(number)[3]
    assert (trial.state, trial.value) == ("pruned", 3.0)
    assert trial.message == "stopped early: its best after 4 steps is 3, the median of 3 trials 1"
    assert trial.metrics["loss"]["steps"] == 4
    row = rig.run(number)
    assert (row.state, row.complete, row.pruned, row.best_value) == (StudyState.COMPLETE, 4, 1, 1.0)
    assert Told(4, 3.0) in rig.minds.opened[-1].happened


def test_without_being_asked_nothing_is_stopped(rig: StudyRig) -> None:
    number = rig.study(output=lines(1, 1, 1, 1).rstrip(), max_trials=5)
    while rig.row(number).complete < 3:
        rig.steps(2)
        rig.clock.advance(0.5)
    rig.steps(2)
    trial = rig.trials(number)[3]
    rig.write(trial.workload_id, lines(5, 4, 3, 3))
    rig.steps(4)
    assert rig.trials(number)[3].state == "running"


def test_the_others_are_known_again_after_a_restart(rig: StudyRig) -> None:
    number = rig.study(output=lines(1, 1, 1, 1).rstrip(), max_trials=5, early_stopping=RULE)
    while rig.row(number).complete < 3:
        rig.steps(2)
        if rig.row(number).complete < 3:
            rig.clock.advance(1)
    rig.steps(2)
    rig.restart()
    rig.steps(2)
    trial = rig.trials(number)[3]
    rig.write(trial.workload_id, lines(5, 5, 5))
    rig.steps(4)
    assert rig.trials(number)[3].state == "pruned"
