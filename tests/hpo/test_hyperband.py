"""Hyperband: whose trials get how much, who goes on, who waits."""

from __future__ import annotations

from collections import Counter

from helpers.algorithms import SPACE, opened, setup_of

from localml.core.studies.halving import brackets
from localml.core.studies.specs import Goal
from localml.hpo.base import Proposal
from localml.hpo.processes import Processes

X = SPACE[:1]


def test_one_trial_at_a_time_runs_all_brackets_and_the_best_go_on(suggesters: Processes) -> None:
    trials: list[tuple[int, float]] = []
    with opened(suggesters, setup_of("hyperband", space=X)) as suggester:
        while (values := suggester.ask(len(trials) + 1).values) is not None:
            trials.append((values["epochs"], values["x"]))
            suggester.tell(len(trials), abs(values["x"]))
        assert suggester.ask(len(trials) + 1) == Proposal(None, over=True)
    at = 0
    for bracket in brackets(9, 3):
        entrants: list[float] = []
        for rung in bracket.rungs:
            here = trials[at : at + rung.configurations]
            assert {epochs for epochs, _ in here} == {rung.resource}
            best = sorted(entrants, key=abs)[: rung.configurations]
            assert not entrants or sorted(x for _, x in here) == sorted(best)
            entrants, at = [x for _, x in here], at + len(here)
    assert at == len(trials)


def test_a_rung_waits_for_its_trials_and_other_brackets_begin_meanwhile(suggesters: Processes) -> None:
    with opened(suggesters, setup_of("hyperband", space=X)) as suggester:
        resources = []
        while (values := suggester.ask(len(resources) + 1).values) is not None:
            resources.append(values["epochs"])
        first = [bracket.rungs[0] for bracket in brackets(9, 3)]
        assert Counter(resources) == {rung.resource: rung.configurations for rung in first}
        assert suggester.ask(len(resources) + 1) == Proposal(None, over=False)
        for number in range(1, first[0].configurations):
            suggester.tell(number, number)
            assert suggester.ask(100).values is None
        suggester.tell(first[0].configurations, 0.0)
        assert suggester.ask(100).values is not None


def test_failed_trials_do_not_go_on_and_a_bracket_of_failures_is_over(suggesters: Processes) -> None:
    with opened(suggesters, setup_of("hyperband", space=X, goal=Goal.MAXIMIZE)) as suggester:
        number, resources = 0, []
        while (values := suggester.ask(number + 1).values) is not None:
            number += 1
            resources.append(values["epochs"])
            suggester.tell(number, None if len(resources) <= 8 else 1.0)
        plan = brackets(9, 3)
    assert resources[:9] == [1] * 9
    assert resources[9] == 3  # the only one that did not fail goes on, alone
    assert resources[10] == 9
    assert len(resources) == 9 + 1 + 1 + sum(rung.configurations for one in plan[1:] for rung in one.rungs)


def test_the_parameters_reach_the_brackets(suggesters: Processes) -> None:
    params = {"ResourceName": "steps", "ResourceValue": "16", "eta": "4"}
    with opened(suggesters, setup_of("hyperband", params, space=X)) as suggester:
        values = [suggester.ask(number).values for number in range(1, 17)]
        assert [one["steps"] for one in values if one is not None] == [1] * 16
        for number in range(1, 17):
            suggester.tell(number, number)
        assert [(suggester.ask(number).values or {})["steps"] for number in range(17, 21)] == [4] * 4
