"""Each point of a grid, or each of the listed trials, once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from localml.core.studies.space import Parameter, Values, grid_of


def opened(setup: dict[str, Any], history: list[list[Any]], _: bytes | None) -> Grid:
    """The grid of a setup, after the trials of its history."""
    space = tuple(Parameter.model_validate(one) for one in setup["space"])
    points = iter(setup["experiments"]) if setup["experiments"] else grid_of(space)
    return Grid(points, {number: values for what, number, values in history if what == "asked"})


class Grid:
    """Points in order."""

    keeps = False

    def __init__(self, points: Iterator[Values], asked: dict[int, Values]) -> None:
        self._points = islice(points, len(asked), None)
        self._asked = asked

    def ask(self, number: int) -> tuple[Values | None, bool]:
        """The next point; over after the last."""
        if number not in self._asked:
            point = next(self._points, None)
            if point is None:
                return None, True
            self._asked[number] = point
        return self._asked[number], False

    def tell(self, number: int, value: float | None) -> None:
        """Nothing is learned."""

    def state(self) -> bytes:
        """Nothing beyond the history."""
        return b""
