"""A search space: the parameters that a study may set, and what is a value of each.

Pure, and without a numeric library: the suggesters, which have one, run in processes of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from localml.core.errors import invalid
from localml.core.limits import MOST_CHOICES, MOST_GRID_POINTS
from localml.core.work.specs import Frozen

Value = StrictBool | StrictInt | StrictFloat | StrictStr
"""What a parameter can be set to; JSON keeps its type."""
Values = dict[str, Any]
"""Parameter -> :data:`Value`."""
_LARGEST_INTEGER = float(1 << 63)
_MOST_STEPS = float(1 << 53)
"""Of a range: with more of them two that are neighbours could be one number."""
_SLACK = 1e-9
"""Of a step: how far a value may lie from the grid that it was rounded to."""


class Type(StrEnum):
    """What the values of a range are."""

    INT = "int"
    FLOAT = "float"


class Parameter(Frozen):
    """One parameter: a range (``low`` and ``high``, both included), ``choices``, or a fixed ``value``.

    Attributes:
        step: of a range: its values are ``low``, ``low + step``, ... up to ``high``.
        log: of a range: drawn evenly in its logarithm; not with ``step``.
        power: of a range: ``x`` is drawn from it (from its steps, where it has some), and the value is ``power ** x``.
    """

    name: str = Field(min_length=1, max_length=200)
    type: Type = Type.FLOAT
    low: float | None = None
    high: float | None = None
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    power: float | None = Field(default=None, gt=0)
    choices: Annotated[tuple[Value, ...], Field(max_length=MOST_CHOICES)] = ()
    value: Value | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> Parameter:
        ranged = self.low is not None or self.high is not None
        if ranged + bool(self.choices) + (self.value is not None) != 1:
            raise ValueError(f"{self.name}: give one of low and high, choices, value")
        if not ranged:
            if self.step is not None or self.log or self.power is not None:
                raise ValueError(f"{self.name}: step, log and power are of ranges only")
            if len({(type(one), one) for one in self.choices}) != len(self.choices):
                raise ValueError(f"{self.name}: choices must differ")
            return self
        return self._checked_range()

    def _checked_range(self) -> Parameter:
        low, high = self.low, self.high
        if low is None or high is None:
            raise ValueError(f"{self.name}: a range needs both low and high")
        if low > high:
            raise ValueError(f"{self.name}: low ({low:g}) is above high ({high:g})")
        if not math.isfinite(high - low):
            raise ValueError(f"{self.name}: from {low:g} to {high:g} is too wide a range")
        if self.step is not None and not (high - low) / self.step <= _MOST_STEPS:
            raise ValueError(f"{self.name}: {self.step:g} is too small a step from {low:g} to {high:g}")
        if self.type is Type.INT and self.power is None:
            self._check_integers(low, high)
        if self.log and (low <= 0 or self.step is not None or self.power is not None):
            raise ValueError(f"{self.name}: log needs low above 0, and goes neither with step nor with power")
        return self._checked_power()

    def _check_integers(self, low: float, high: float) -> None:
        if low != int(low) or high != int(high):
            raise ValueError(f"{self.name}: the ends of a range of integers must be integers")
        if max(-low, high) > _LARGEST_INTEGER:
            raise ValueError(f"{self.name}: the ends of a range of integers must be within 2^63")
        if self.step is not None and self.step != int(self.step):
            raise ValueError(f"{self.name}: the step of a range of integers must be an integer")

    def _checked_power(self) -> Parameter:
        if self.power is None:
            return self
        try:
            ends = [self.power ** (end or 0.0) for end in (self.low, self.high)]
        except OverflowError:
            ends = [math.inf]
        if not all(math.isfinite(end) for end in ends):
            raise ValueError(f"{self.name}: {self.power:g} to the power of {self.high:g} is too large a number")
        return self

    @property
    def is_range(self) -> bool:
        """Whether it has ``low`` and ``high``."""
        return self.low is not None

    @property
    def points(self) -> int | None:
        """How many values it has; None where they are not counted (a range of numbers without steps)."""
        if not self.is_range:
            return len(self.choices) or 1
        low, high = self.low or 0.0, self.high or 0.0
        if low == high:
            return 1
        step = self.step or (1.0 if self.type is Type.INT and self.power is None else None)
        return None if step is None else math.floor((high - low) / step + _SLACK) + 1

    def grid(self) -> Iterator[Any]:
        """Its values in order, where :attr:`points` counts them.

        Raises:
            LocalmlError: ``INVALID`` for a range without steps.
        """
        if not self.is_range:
            yield from self.choices or (self.value,)
            return
        points = self.points
        if points is None:
            raise invalid(self.name, "a grid needs choices, integers or a step")
        step = self.step or 1.0
        for index in range(points):
            yield self.of_drawn((self.low or 0.0) + index * step)

    def of_drawn(self, drawn: float) -> int | float:
        """The value for a number that was drawn from ``low`` to ``high``."""
        found = drawn if self.power is None else self.power**drawn
        if self.step is not None and self.power is None:
            found = float(f"{found:.12g}")  # 0.043, where adding steps makes 0.043000000000000003
        return round(found) if self.type is Type.INT else float(found)

    def takes(self, value: Any) -> bool:
        """Whether a value is one of its."""
        if not self.is_range:
            return any(type(one) is type(value) and one == value for one in self.choices or (self.value,))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.type is Type.INT and value != int(value):
            return False
        return self._within(float(value))

    def _within(self, value: float) -> bool:
        low, high = self.low or 0.0, self.high or 0.0
        if self.power is not None:
            ends = sorted((self.of_drawn(low), self.of_drawn(high)))
            return ends[0] * (1 - _SLACK) <= value <= ends[1] * (1 + _SLACK)
        slack = _SLACK * max(1.0, abs(low), abs(high))
        if not low - slack <= value <= high + slack:
            return False
        if self.step is None:
            return True
        steps = (value - low) / self.step
        return abs(steps - round(steps)) <= 1e-6


def need_values(space: Sequence[Parameter], values: Mapping[str, Any]) -> Values:
    """The values of one trial, in the order of the space.

    Raises:
        LocalmlError: ``INVALID`` naming the parameter that is missing, unknown or out of its range.
    """
    known = {one.name for one in space}
    for name in values:
        if name not in known:
            raise invalid(str(name), "is no parameter of this study")
    for one in space:
        if one.name not in values:
            raise invalid(one.name, "has no value")
        if not one.takes(values[one.name]):
            raise invalid(one.name, f"{values[one.name]!r} is no value of this parameter")
    return {one.name: values[one.name] for one in space}


def grid_points(space: Sequence[Parameter]) -> int:
    """How many points the grid of a space has.

    Raises:
        LocalmlError: ``INVALID`` for a range without steps, or with both numbers where there are too many.
    """
    total = 1
    for one in space:
        if one.points is None:
            raise invalid(one.name, "a grid needs choices, integers or a step")
        total *= one.points
    if total > MOST_GRID_POINTS:
        raise invalid("space", f"its grid has {total} points, and may have {MOST_GRID_POINTS}")
    return total


def grid_of(space: Sequence[Parameter]) -> Iterator[Values]:
    """Every point of the grid of a space; the last parameter changes first. Raises as :func:`grid_points`."""
    grid_points(space)
    names = [one.name for one in space]
    for point in itertools.product(*(list(one.grid()) for one in space)):
        yield dict(zip(names, point, strict=True))


def need_space(space: Sequence[Parameter]) -> None:
    """Refuse a space in which a name stands twice."""
    seen: set[str] = set()
    for one in space:
        if one.name in seen:
            raise invalid(one.name, "is there twice")
        seen.add(one.name)
