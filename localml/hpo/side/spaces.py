"""A search space as Optuna's distributions, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from localml.core.studies.space import Parameter, Type


class Distributions:
    """The distributions of the parameters that have more than one value.

    Choices are drawn by their place, as are the values of a range with steps: so no two of them are taken for the same
    (``1``, ``1.0`` and ``True`` are equal), and the last step is where the parameter says.
    """

    def __init__(self, space: Sequence[Parameter]) -> None:
        self._space = space
        self.drawn: dict[str, BaseDistribution] = {one.name: _distribution(one) for one in space if one.points != 1}

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a trial for what was drawn."""
        return {one.name: _value(one, drawn.get(one.name)) for one in self._space}

    def places(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What was drawn for the values of a trial."""
        return {one.name: _place(one, values[one.name]) for one in self._space if one.name in self.drawn}


def _distribution(one: Parameter) -> BaseDistribution:
    if not one.is_range:
        return CategoricalDistribution(range(len(one.choices)))
    low, high = one.low or 0.0, one.high or 0.0
    if one.step is not None:
        return IntDistribution(0, (one.points or 1) - 1)
    if one.type is Type.INT and one.power is None:
        return IntDistribution(int(low), int(high), log=one.log)
    return FloatDistribution(low, high, log=one.log)


def _value(one: Parameter, drawn: Any) -> Any:
    if not one.is_range:
        return one.choices[drawn or 0] if one.choices else one.value
    if drawn is None:
        return one.of_drawn(one.low or 0.0)
    return one.of_drawn((one.low or 0.0) + drawn * one.step if one.step is not None else drawn)


def _place(one: Parameter, value: Any) -> Any:
    if not one.is_range:
        return next(place for place, choice in enumerate(one.choices) if _same(choice, value))
    low, high = one.low or 0.0, one.high or 0.0
    drawn = float(value) if one.power is None else _exponent(one.power, float(value), low, high)
    if one.step is not None:
        return min(max(round((drawn - low) / one.step), 0), (one.points or 1) - 1)
    return int(value) if one.type is Type.INT and one.power is None else min(max(drawn, low), high)


def _exponent(power: float, value: float, low: float, high: float) -> float:
    """The number from ``low`` to ``high`` for a value, which may have been rounded, to 0 even."""
    if power == 1:
        return low
    if value <= 0:
        return low if power > 1 else high
    return math.log(value) / math.log(power)


def _same(choice: Any, value: Any) -> bool:
    return type(choice) is type(value) and bool(choice == value)
