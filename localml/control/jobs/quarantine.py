"""Workloads with which the loop cannot go on: a defect of ours, or a record that cannot be read. They are tried again,
and then ended alone; everybody else goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from localml.core.clock import Clock

log = logging.getLogger("localml.control")

TRIES = 3
"""So often a step fails before its workload is given up."""
FIRST_REST_S, LAST_REST_S = 1.0, 60.0
_FORGET_S = 300.0


@dataclass(frozen=True, slots=True)
class _Case:
    times: int
    at: float
    rests_until: float
    words: str


class Quarantine:
    """Remembers what failed with whom."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cases: dict[int, _Case] = {}

    def blame(self, number: int, error: Exception) -> None:
        """A step of this workload failed; 0 stands for what belongs to none."""
        log.error("a defect: a step of workload %s failed", number or "-", exc_info=error)
        if not number:
            return
        now = self._clock.now()
        known = self._cases.get(number)
        times = 1 + (known.times if known is not None and now - known.at < _FORGET_S else 0)
        rest = min(LAST_REST_S, FIRST_REST_S * 2.0 ** (times - 1))
        words = f"a defect of localml keeps it from going on ({type(error).__name__}: {error})"
        self._cases[number] = _Case(times, now, now + rest, words)

    def rests(self, number: int) -> bool:
        """Whether it is left alone for now."""
        case = self._cases.get(number)
        return case is not None and case.at <= self._clock.now() < case.rests_until

    def condemned(self, number: int) -> str:
        """Why it is given up; empty while it is not."""
        case = self._cases.get(number)
        return case.words if case is not None and case.times >= TRIES else ""

    def due(self) -> set[int]:
        """Those to be looked at again, whether something changed or not."""
        return {number for number in self._cases if not self.rests(number)}

    def next_due(self) -> float | None:
        """When the next one has rested; seconds since the epoch."""
        now = self._clock.now()
        return min((case.rests_until for case in self._cases.values() if case.rests_until > now), default=None)

    def forget(self, number: int) -> None:
        """A workload that is over."""
        self._cases.pop(number, None)
