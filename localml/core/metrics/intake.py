"""One workload's metrics on their way into the series: bounded in number, and in how many come at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from localml.core.errors import LocalmlError
from localml.core.limits import MOST_METRICS
from localml.core.metrics.lines import Reading
from localml.core.series.samples import Point, Samples
from localml.core.subjects import Subject

BURST = 1_000
"""Points of a series that are kept however fast they come."""
RATE = 10.0
"""Points of a series in a second that are kept beyond these; the last one always is."""
_AT_A_TIME = 1_000
_STEP = "step="
_LATEST = 1e11
"""Seconds since the epoch: what a file says beyond it is no time."""


def note_of(step: int | None) -> str:
    """How a point's note says which step it is of."""
    return "" if step is None else f"{_STEP}{step}"


def step_of(note: str) -> int | None:
    """The step that a point's note says, if it says one."""
    digits = note.removeprefix(_STEP)
    return int(digits) if note.startswith(_STEP) and digits.isascii() and digits.isdigit() else None


@dataclass(slots=True)
class _Flow:
    """How much of a series may still be kept at once: a bucket of points that fills with time."""

    room: float = BURST
    at: float = 0.0
    held: Point | None = None  # the last one, if it was not kept

    def takes(self, point: Point) -> bool:
        self.room = min(BURST, self.room + max(0.0, point.at - self.at) * RATE)
        self.at = max(self.at, point.at)
        self.held = None if self.room >= 1 else point
        self.room -= self.held is None
        return self.held is None


class Intake:
    """Takes in what is read of one workload.

    Args:
        known: (replica, name) of the series that there are.
    """

    def __init__(self, samples: Samples, subject: Subject, known: Iterable[tuple[str, str]] = ()) -> None:
        self._samples = samples
        self._subject = subject
        self._flows = {key: _Flow() for key in known}
        self._waiting: dict[str, list[tuple[str, Point]]] = {}
        self.left_out = 0  # readings of series beyond the limit
        self.floods = False  # nothing was kept of what came last: it comes faster than it is kept

    def take(self, replica: str, found: Iterable[Reading], at: float) -> None:
        """Take in what was said at a time (seconds since the epoch)."""
        if not 0 <= at <= _LATEST:
            return
        self.floods = True
        for one in found:
            flow = self._flow(replica, one.name)
            if flow is None:
                self.left_out += 1
                continue
            point = Point(at, one.value, "" if math.isfinite(one.value) else f"{one.value:g}", note_of(one.step))
            if flow.takes(point):
                self.floods = False
                self._put(replica, one.name, point)

    def finish(self) -> None:
        """Give everything to the series, the last points too, and have it on disk.

        Raises:
            LocalmlError: ``STORAGE``.
        """
        for (replica, name), flow in self._flows.items():
            if flow.held is not None:
                self._put(replica, name, flow.held)
                flow.held = None
        for replica in list(self._waiting):
            self._send(replica)
        self._samples.flush()

    def _flow(self, replica: str, name: str) -> _Flow | None:
        found = self._flows.get((replica, name))
        if found is None and len(self._flows) < MOST_METRICS:
            found = self._flows[replica, name] = _Flow()
        return found

    def _put(self, replica: str, name: str, point: Point) -> None:
        waiting = self._waiting.setdefault(replica, [])
        waiting.append((name, point))
        if len(waiting) >= _AT_A_TIME:
            self._send(replica)

    def _send(self, replica: str) -> None:
        points = self._waiting.pop(replica)
        try:
            self._samples.add_points(self._subject, points, replica=replica)
        except LocalmlError as error:
            if error.field != "name":
                raise
            self.left_out += len(points)  # its program has posted as many series as it may
