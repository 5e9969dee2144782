"""Every parameter reaches its sampler: with another value, the next proposal is another one."""

from __future__ import annotations

import random

import pytest
from helpers.algorithms import bowl, opened, setup_of

from localml.core.studies.space import Parameter, Values
from localml.hpo.base import Asked, Happening, Told
from localml.hpo.processes import Processes

SPACE = (Parameter(name="x", low=-5, high=10), Parameter(name="lr", low=1e-5, high=1e-1, log=True))
TPE = {"WarmUp": "41", "EICandidate": "5", "GoodRatio": "0.5", "GoodMax": "2"}
BAYESIAN = {"InitPoints": "41", "CubeSize": "20000", "Noiseless": "false"}


def history() -> list[Happening]:
    """Forty trials at random."""
    dice, found = random.Random(1), list[Happening]()
    for number in range(1, 41):
        values = {"x": dice.uniform(-5, 10), "lr": 10 ** dice.uniform(-5, -1)}
        found += [Asked(number, values), Told(number, bowl(values) + dice.uniform(0, 30))]
    return found


def next_of(suggesters: Processes, algorithm: str, params: dict[str, str]) -> Values | None:
    with opened(suggesters, setup_of(algorithm, params, space=SPACE), history()) as suggester:
        return suggester.ask(41).values


@pytest.mark.parametrize(
    ("algorithm", "params"), [("tpe", TPE), pytest.param("bayesian", BAYESIAN, marks=pytest.mark.slow)]
)
def test_each_parameter_counts(suggesters: Processes, algorithm: str, params: dict[str, str]) -> None:
    usual = next_of(suggesters, algorithm, {})
    others = {name: next_of(suggesters, algorithm, {name: value}) for name, value in params.items()}
    assert [name for name, other in others.items() if other == usual] == []


def test_while_it_warms_up_it_draws_as_random_search(suggesters: Processes) -> None:
    assert next_of(suggesters, "tpe", {"WarmUp": "41"}) == next_of(suggesters, "random", {})
