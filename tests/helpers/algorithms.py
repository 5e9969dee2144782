"""Setups, optimizers in folders, and objectives for the tests of algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localml.core.studies.algorithms import checked
from localml.core.studies.space import Parameter, Type, Values
from localml.core.studies.specs import AlgorithmChoice, Goal, Objective, StudySpec
from localml.core.work.specs import Role, WorkloadSpec
from localml.hpo.base import Asked, Happening, Plugin, Setup, Suggester, Suggesters, Told

TRIAL = WorkloadSpec(roles=(Role(),))
SPACE = (
    Parameter(name="x", low=-5, high=10),
    Parameter(name="units", type=Type.INT, low=1, high=64),
    Parameter(name="rate", low=-4, high=-1, power=10),
    Parameter(name="width", type=Type.INT, low=2, high=9, step=1, power=2),
    Parameter(name="drop", low=0.1, high=0.9, step=0.1),
    Parameter(name="batch", type=Type.INT, low=8, high=40, step=8),
    Parameter(name="lr", low=1e-5, high=1e-1, log=True),
    Parameter(name="opt", choices=("sgd", "adam", 1, 1.0, True)),
    Parameter(name="fixed", value="same"),
)
PARAMS: dict[str, dict[str, str]] = {
    "random": {},
    "tpe": {"WarmUp": "4"},
    "bayesian": {"InitPoints": "4"},
    "hyperband": {"ResourceName": "epochs", "ResourceValue": "9"},
    "grid": {},
}


def setup_of(
    algorithm: str,
    params: dict[str, str] | None = None,
    *,
    space: tuple[Parameter, ...] = SPACE,
    seed: int = 1,
    goal: Goal = Goal.MINIMIZE,
    **members: Any,
) -> Setup:
    """A setup as the control plane makes it."""
    choice = AlgorithmChoice(name=algorithm, params={**PARAMS[algorithm], **(params or {})})
    spec = StudySpec(
        space=space, algorithm=choice, objective=Objective(metric="loss", goal=goal), trial=TRIAL, **members
    )
    return Setup(algorithm, checked(choice, spec), space, goal, seed, spec.max_trials, spec.experiments)


def plugin_setup(
    folder: Path, source: str, params: dict[str, str] | None = None, space: tuple[Parameter, ...] = SPACE[:2]
) -> Setup:
    """A setup of an optimizer with this source."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optimizer.py").write_text(source)
    return Setup("mine", params or {}, space, Goal.MINIMIZE, 1, plugin=Plugin("mine", folder))


@contextmanager
def opened(suggesters: Suggesters, setup: Setup, *rest: Any) -> Iterator[Suggester]:
    """A suggester for a while."""
    found = suggesters.open(setup, *rest)
    try:
        yield found
    finally:
        found.close()


def bowl(values: Values) -> float:
    """Something to minimize."""
    return (float(values.get("x", 0)) - 1) ** 2 + len(str(values.get("opt", ""))) / 10


def run(suggester: Suggester, trials: int, first: int = 1) -> list[Happening]:
    """Ask and tell in turn; what was asked and told."""
    history: list[Happening] = []
    for number in range(first, first + trials):
        proposal = suggester.ask(number)
        if proposal.values is None:
            break
        suggester.tell(number, bowl(proposal.values))
        history += [Asked(number, proposal.values), Told(number, bowl(proposal.values))]
    return history
