"""The built-in algorithms: what they propose is of the space, the same for the same seed, and goes on after a crash."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from helpers.algorithms import SPACE, bowl, opened, run, setup_of
from hypothesis import given, settings
from hypothesis import strategies as st

from localml.core.studies.algorithms import trial_space
from localml.core.studies.space import Parameter, Type, need_values
from localml.core.studies.specs import Goal
from localml.hpo.base import Asked, Happening, Told
from localml.hpo.processes import Processes

SEEDED = ["random", "tpe", "hyperband"]
ALL_SEEDED = [*SEEDED, pytest.param("bayesian", marks=pytest.mark.slow)]


@pytest.mark.parametrize("algorithm", SEEDED)
def test_every_proposal_is_a_value_of_the_space(suggesters: Processes, algorithm: str) -> None:
    setup = setup_of(algorithm)
    space = trial_space(algorithm, setup.params, SPACE)
    with opened(suggesters, setup) as suggester:
        history = run(suggester, 12)
    asked = [one for one in history if isinstance(one, Asked)]
    assert len(asked) == 12
    assert all(need_values(space, one.values) for one in asked)
    assert all(one.values["fixed"] == "same" for one in asked)


@pytest.mark.parametrize("algorithm", SEEDED)
def test_the_same_seed_proposes_the_same_and_another_something_else(suggesters: Processes, algorithm: str) -> None:
    runs = []
    for seed in (1, 1, 2):
        with opened(suggesters, setup_of(algorithm, seed=seed)) as suggester:
            runs.append(run(suggester, 8))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("algorithm", ALL_SEEDED)
def test_the_sequence_goes_on_in_another_process(suggesters: Processes, algorithm: str) -> None:
    setup = setup_of(algorithm)
    with opened(suggesters, setup) as suggester:
        whole = run(suggester, 9)
    with opened(suggesters, setup, whole[:9]) as suggester:  # killed while trial 5 ran
        assert suggester.ask(5).values == whole[8].values  # type: ignore[union-attr]
        suggester.tell(5, whole[9].value)  # type: ignore[union-attr]
        assert run(suggester, 4, first=6) == whole[10:]


@settings(max_examples=3)
@given(seed=st.integers(0, 1 << 30), cut=st.integers(0, 40), parallel=st.integers(2, 5))
@pytest.mark.parametrize("algorithm", [*SEEDED, pytest.param("bayesian", marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_replayed_order_of_asks_and_tells_proposes_the_same(
    suggesters: Processes, algorithm: str, seed: int, cut: int, parallel: int
) -> None:
    setup = setup_of(algorithm, seed=seed)
    with opened(suggesters, setup) as suggester:
        history: list[Happening] = []
        dice, running, number = random.Random(seed), {}, 0
        while len(history) < 40:
            proposal = suggester.ask(number + 1) if len(running) < parallel else None
            if proposal is not None and proposal.values is not None:
                number += 1
                running[number] = proposal.values
                history.append(Asked(number, proposal.values))
            elif not running:
                break
            else:
                ended = dice.choice(sorted(running))
                value = None if dice.random() < 0.2 else bowl(running[ended])
                running.pop(ended)
                suggester.tell(ended, value)
                history.append(Told(ended, value))
    with opened(suggesters, setup, history[:cut]) as again:
        for one in history[cut:]:
            if isinstance(one, Asked):
                assert again.ask(one.number).values == one.values
            else:
                again.tell(one.number, one.value)


def test_a_name_is_taken_in_any_case(suggesters: Processes) -> None:
    setup = setup_of("tpe")
    with opened(suggesters, setup) as one, opened(suggesters, replace(setup, algorithm="TPE")) as other:
        assert run(one, 8) == run(other, 8)


def test_asking_again_for_a_trial_that_runs_gives_the_same(suggesters: Processes) -> None:
    for algorithm in ("random", "tpe", "hyperband"):
        with opened(suggesters, setup_of(algorithm)) as suggester:
            assert suggester.ask(1) == suggester.ask(1)


def test_a_power_that_is_rounded_is_found_again(suggesters: Processes) -> None:
    space = (
        Parameter(name="small", type=Type.INT, low=-3, high=2, power=2),
        Parameter(name="less", low=1, high=3, power=0.5),
        Parameter(name="one", low=1, high=3, power=1),
    )
    setup = setup_of("tpe", space=space)
    with opened(suggesters, setup) as suggester:
        whole = run(suggester, 8)
    with opened(suggesters, setup, whole[:10]) as suggester:
        assert run(suggester, 3, first=6) == whole[10:]


def test_tpe_maximizes_what_is_to_be_maximized(suggesters: Processes) -> None:
    best = {}
    for goal in Goal:
        with opened(suggesters, setup_of("tpe", space=SPACE[:1], goal=goal)) as suggester:
            tried = []
            for number in range(1, 26):
                values = suggester.ask(number).values
                assert values is not None
                suggester.tell(number, values["x"])
                tried.append(values["x"])
            best[goal] = sum(tried[10:]) / 15
    assert best[Goal.MINIMIZE] < 0 < 5 < best[Goal.MAXIMIZE]


def test_failed_trials_do_not_count_as_warm_up(suggesters: Processes) -> None:
    """A search whose first trials all fail goes on at random."""
    with opened(suggesters, setup_of("tpe")) as suggester:
        proposals = []
        for number in range(1, 10):
            proposals.append(suggester.ask(number).values)
            suggester.tell(number, None)
    with opened(suggesters, setup_of("random")) as suggester:
        at_random = []
        for number in range(1, 10):
            at_random.append(suggester.ask(number).values)
            suggester.tell(number, None)
    assert proposals == at_random


def test_a_grid_is_gone_through_in_order_once(suggesters: Processes) -> None:
    space = (Parameter(name="a", choices=("u", "v")), Parameter(name="b", low=0, high=1, step=0.5))
    points = [{"a": a, "b": b} for a in "uv" for b in (0.0, 0.5, 1.0)]
    setup = setup_of("grid", space=space)
    with opened(suggesters, setup) as suggester:
        assert [suggester.ask(number).values for number in range(1, 7)] == points
        assert suggester.ask(7).over
    with opened(suggesters, setup, [Asked(1, points[0]), Asked(2, points[1])]) as suggester:
        assert suggester.ask(3).values == points[2]


def test_listed_trials_are_run_as_they_are(suggesters: Processes) -> None:
    listed = ({"lr": 0.1, "opt": "sgd"}, {"other": 7})
    with opened(suggesters, setup_of("grid", space=(), experiments=listed)) as suggester:
        assert [suggester.ask(number).values for number in (1, 2)] == list(listed)
        assert suggester.ask(3).over
