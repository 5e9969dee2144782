"""What an algorithm proposes, held against the search space: the server believes no process of its."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localml.core.studies.space import Parameter, Type, Values, need_values

_LARGEST = 1e300
"""Integers have no end, and floats do."""


def cleaned(space: Sequence[Parameter], proposed: Mapping[str, Any]) -> Values:
    """The values of a trial: of the types that the space has, on its steps, with those that are fixed.

    Raises:
        LocalmlError: ``INVALID`` naming the parameter that is missing, unknown or out of its range.
    """
    fixed = {one.name: one.value for one in space if one.value is not None}
    known = {one.name: one for one in space}
    found = {name: _cleaned(known[name], value) if name in known else value for name, value in proposed.items()}
    return need_values(space, fixed | found)


def _cleaned(one: Parameter, value: Any) -> Any:
    if not one.is_range:
        meant = [choice for choice in one.choices if _meant(choice, value)]
        return next((choice for choice in meant if type(choice) is type(value)), meant[0] if meant else value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        return None if isinstance(value, int) else value
    if one.step is not None and one.power is None and one.low is not None and one.high is not None:
        value = _stepped(one, float(value))
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if one.type is Type.INT and whole else float(value) if one.type is Type.FLOAT else value


def _stepped(one: Parameter, value: float) -> float:
    """The nearest step, for algorithms that know ranges only; what is out of range stays."""
    low, step = one.low or 0.0, one.step or 1.0
    if not low <= value <= (one.high or 0.0):
        return value
    return one.of_drawn(low + min(round((value - low) / step), (one.points or 1) - 1) * step)


def _meant(choice: Any, value: Any) -> bool:
    """Whether a value is a choice; numbers of either type are, but no boolean is a number."""
    if isinstance(choice, bool) or isinstance(value, bool) or isinstance(choice, str):
        return type(choice) is type(value) and bool(choice == value)
    return isinstance(value, int | float) and bool(choice == value)
