"""Hyperband's brackets: how many configurations begin with how much of the resource, and how many go on.

After Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, 2018, algorithm 1, with 1 as
the least resource.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from localml.core.limits import MOST_TRIALS, over

_SLACK = 1e-9
"""So that ``log(243, 3)`` is 5 and not a hair less."""
_MOST_BRACKETS = 100


@dataclass(frozen=True, slots=True)
class Rung:
    """So many configurations are trained with so much of the resource."""

    configurations: int
    resource: int


@dataclass(frozen=True, slots=True)
class Bracket:
    """Rungs from the least resource to the whole; the best of each go on to the next."""

    rungs: tuple[Rung, ...]


def brackets(resource: int, eta: float) -> list[Bracket]:
    """The brackets in the order in which they run: the one with most configurations first.

    Args:
        resource: the most that one trial gets, at least 1.
        eta: one of so many goes on to the next rung, with so many times the resource; above 1.

    Raises:
        LocalmlError: ``INVALID`` with both numbers if there would be more trials than a study may have.
    """
    largest = _largest(resource, eta)
    if largest + 1 > _MOST_BRACKETS:
        raise over("eta", largest + 1, _MOST_BRACKETS, "brackets")
    first = math.ceil(eta**largest)
    if first > MOST_TRIALS:
        raise over("ResourceValue", first, MOST_TRIALS, "configurations in its first bracket")
    return [_bracket(one, largest, resource, eta) for one in range(largest, -1, -1)]


def _largest(resource: int, eta: float) -> int:
    return math.floor(math.log(resource) / math.log(eta) + _SLACK)


def _bracket(number: int, largest: int, resource: int, eta: float) -> Bracket:
    configurations = math.ceil((largest + 1) / (number + 1) * eta**number - _SLACK)
    rungs = []
    for index in range(number + 1):
        amount = resource if index == number else max(1, round(resource * eta ** (index - number)))
        rungs.append(Rung(max(1, math.floor(configurations / eta**index + _SLACK)), amount))
    return Bracket(tuple(rungs))
