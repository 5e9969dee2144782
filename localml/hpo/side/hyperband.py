"""Hyperband: the brackets of :mod:`localml.core.studies.halving`, whose first rungs Optuna's random sampler fills.

A configuration that goes on is a new trial, with more of the resource. A rung is decided once all of its trials are
over; meanwhile trials of the next bracket begin. After all brackets the search is over.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import RandomSampler

from localml.core.studies.halving import Rung, brackets
from localml.core.studies.space import Parameter
from localml.hpo.side.sampled import mixed
from localml.hpo.side.spaces import Distributions


def opened(setup: dict[str, Any], history: list[list[Any]], _: bytes | None) -> Hyperband:
    """The search of a setup, told its history."""
    params = setup["params"]
    name = params["ResourceName"]
    space = [Parameter.model_validate(one) for one in setup["space"] if one["name"] != name]
    plan = brackets(int(params["ResourceValue"]), float(params["eta"]))
    sign = 1 if setup["goal"] == "minimize" else -1
    made = [Halving(list(one.rungs), space, mixed(setup["seed"], index), sign) for index, one in enumerate(plan)]
    found = Hyperband(name, made)
    for what, number, told in history:
        if what == "asked":
            found.replay(number, told)
        else:
            found.tell(number, told)
    return found


class Halving:
    """One bracket: configurations by their number, and the values of each in each rung."""

    def __init__(self, rungs: list[Rung], space: list[Parameter], seed: int, sign: int) -> None:
        self._rungs = rungs
        self._distributions = Distributions(space)
        self._seed = seed
        self._sign = sign
        self._study = optuna.create_study()
        self._configurations: list[dict[str, Any]] = []
        self._rung = 0
        self._begun = 0  # of the entrants, in this rung
        self._entrants = list(range(rungs[0].configurations))
        self._results: dict[int, float | None] = {}
        self.over = False

    def next(self) -> tuple[int, dict[str, Any], int] | None:
        """Number, configuration and resource of a trial; None while the rung is not decided, or when it is over."""
        if self.over or self._begun == len(self._entrants):
            return None
        number = self._entrants[self._begun]
        self._begun += 1
        if number == len(self._configurations):
            self._configurations.append(self._drawn(number))
        return number, self._configurations[number], self._rungs[self._rung].resource

    def recorded(self, number: int, values: dict[str, Any]) -> None:
        """Take the configuration that was really proposed."""
        self._configurations[number] = values

    def told(self, number: int, value: float | None) -> None:
        """Take a result; after the last of a rung the best go on."""
        self._results[number] = value
        if len(self._results) == len(self._entrants):
            self._decide()

    def _decide(self) -> None:
        ranked = sorted((value * self._sign, number) for number, value in self._results.items() if value is not None)
        self._rung += 1
        if self._rung == len(self._rungs) or not ranked:
            self.over = True
            return
        self._entrants = [number for _, number in ranked[: self._rungs[self._rung].configurations]]
        self._begun = 0
        self._results = {}

    def _drawn(self, number: int) -> dict[str, Any]:
        self._study.sampler = RandomSampler(seed=mixed(self._seed, number))
        return self._distributions.values(self._study.ask(self._distributions.drawn).params)


class Hyperband:
    """All brackets, the first of them that has something to do first."""

    keeps = False

    def __init__(self, resource: str, halvings: list[Halving]) -> None:
        self._resource = resource
        self._halvings = halvings
        self._running: dict[int, tuple[Halving, int, dict[str, Any]]] = {}

    def ask(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """The next trial, or nothing while all rungs wait for results."""
        if number not in self._running:
            found = self._next()
            if found is None:
                return None, all(one.over for one in self._halvings)
            self._running[number] = found
        return self._running[number][2], False

    def replay(self, number: int, values: dict[str, Any]) -> None:
        """Take a trial that was proposed before."""
        found = self._next()
        if found is None:
            raise ValueError(f"trial {number} cannot have been proposed when it was")
        halving, configuration, _ = found
        halving.recorded(configuration, {name: one for name, one in values.items() if name != self._resource})
        self._running[number] = (halving, configuration, values)

    def tell(self, number: int, value: float | None) -> None:
        """Take a result of a trial that runs."""
        halving, configuration, _ = self._running.pop(number)
        halving.told(configuration, value)

    def _next(self) -> tuple[Halving, int, dict[str, Any]] | None:
        for halving in self._halvings:
            found = halving.next()
            if found is not None:
                configuration, values, resource = found
                return halving, configuration, {**values, self._resource: resource}
        return None

    def state(self) -> bytes:
        """Nothing beyond the history."""
        return b""
