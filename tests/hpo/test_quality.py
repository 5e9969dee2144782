"""Searches find more than chance does; how much, beside Optuna's own, ``scripts/bench --only searches`` measures."""

from __future__ import annotations

import math
import statistics

import pytest
from helpers.algorithms import opened, setup_of

from localml.core.studies.space import Parameter, Values
from localml.hpo.processes import Processes

BRANIN = (Parameter(name="x", low=-5, high=10), Parameter(name="y", low=0, high=15))


def branin(values: Values) -> float:
    x, y = values["x"], values["y"]
    bowl = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return float(bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


def bests(suggesters: Processes, algorithm: str, trials: int, seeds: int) -> list[float]:
    """The least value after so many trials, for each seed."""
    found = []
    for seed in range(seeds):
        setup = setup_of(algorithm, {"WarmUp": "10"} if algorithm == "tpe" else None, space=BRANIN, seed=seed)
        with opened(suggesters, setup) as suggester:
            values = []
            for number in range(1, trials + 1):
                values.append(branin(suggester.ask(number).values or {}))
                suggester.tell(number, values[-1])
        found.append(min(values))
    return found


def test_tpe_finds_more_than_chance(suggesters: Processes) -> None:
    chance, found = (statistics.mean(bests(suggesters, name, 50, 4)) for name in ("random", "tpe"))
    assert found < chance


@pytest.mark.slow
def test_bayesian_search_finds_the_minimum(suggesters: Processes) -> None:
    assert max(bests(suggesters, "bayesian", 25, 2)) < 0.398 + 0.1 < min(bests(suggesters, "random", 25, 2))


def loss(values: Values, epochs: int) -> float:
    """A learning curve: better settings end lower, and all fall with the epochs."""
    return (values["x"] - 2) ** 2 / 50 + (values["y"] - 9) ** 2 / 50 + 1 / epochs


def test_hyperband_needs_fewer_epochs_for_the_same(suggesters: Processes) -> None:
    spent = {"hyperband": 0, "random": 0}
    for seed in range(5):
        setup = setup_of("hyperband", {"ResourceValue": "27"}, space=BRANIN, seed=seed)
        curve: list[tuple[int, float]] = []
        with opened(suggesters, setup) as suggester:
            while (values := suggester.ask(len(curve) + 1).values) is not None:
                before = curve[-1][0] if curve else 0
                curve.append((before + values["epochs"], loss(values, values["epochs"])))
                suggester.tell(len(curve), curve[-1][1])
        best = min(found for _, found in curve)
        spent["hyperband"] += next(epochs for epochs, found in curve if found <= best)
        with opened(suggesters, setup_of("random", space=BRANIN, seed=seed)) as suggester:
            for number in range(1, 200):
                values = suggester.ask(number).values or {}
                spent["random"] += 27
                if loss(values, 27) <= best:
                    break
                suggester.tell(number, loss(values, 27))
    assert spent["hyperband"] < spent["random"]
