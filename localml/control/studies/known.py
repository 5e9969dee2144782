"""What the loop keeps of a study in memory, all of it found again from the records."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from localml.control.studies.plan import Plan, Report, TalkState, View
from localml.control.studies.talk import Answer, Talk
from localml.core.studies.specs import StudySpec
from localml.core.studies.trials import StudyRow, TrialRow

LOOK_S = 1.0
"""Seconds between two looks at the trials of a study, whatever they write."""
FIRST_REST_S, LAST_REST_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A study as its records are, and its trials that are not told."""

    row: StudyRow
    running: tuple[TrialRow, ...]

    def after(self, done: Plan) -> Seen:
        """The same once a plan without stops was recorded."""
        told = {one.number for one in done.tells}
        return Seen(replace(self.row, **done.columns), tuple(one for one in self.running if one.number not in told))

    def begun(self, columns: Mapping[str, Any], trial: TrialRow) -> Seen:
        """The same once a trial was begun."""
        return Seen(replace(self.row, **columns), (*self.running, trial))


@dataclass(slots=True)
class Known:
    """A study that is not over.

    Attributes:
        life: which of its lives it is known in; whatever was meant for an earlier one is forgotten.
        seen: how it was left; None: it is to be loaded.
        asking: whether its suggester is being asked; ``answer`` is what it said, until that is recorded.
        waits: it has nothing to propose before it is told more.
        tries: how often in a row something failed.
        reading: trials whose results are being read; ``reports`` are those of trials that are not told yet.
        bad: trials that are to be stopped early.
        workloads: of all its trials that were begun since it is known.
        curves: of completed trials, by number, where others are compared with them.
        deadline: when it ends; None: it has the time that it takes.
        looking: whether trials are being compared; ``look_at`` is when they are again, in monotonic seconds.
        rest_until: when something that failed is tried again, in monotonic seconds; 0: nothing failed.
    """

    life: int
    spec: StudySpec
    talk: Talk
    seen: Seen | None = None
    asking: bool = False
    answer: Answer | None = None
    waits: bool = False
    exhausted: bool = False
    failure: str = ""
    tries: int = 0
    reading: set[int] = field(default_factory=set)
    reports: dict[int, Report] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    workloads: set[int] = field(default_factory=set)
    curves: dict[int, array[float]] = field(default_factory=dict)
    deadline: float | None = None
    looking: bool = False
    look_at: float | None = None
    looked_at: float = 0.0
    rest_until: float = 0.0
    rest: float = FIRST_REST_S

    def view(self, row: StudyRow, trials: tuple[TrialRow, ...]) -> View:
        """What the plan of it is made from."""
        state = TalkState.BUSY if self.asking else TalkState.WAITS if self.waits else TalkState.FREE
        return View(row, self.spec, trials, self.reports, self.bad, state, self.exhausted, self.failure)

    @property
    def rests(self) -> bool:
        """Whether what failed is to be tried again later."""
        return self.rest_until > time.monotonic()

    def again_later(self) -> None:
        """Something failed that is no fault of the study's: try again, after a longer rest each time."""
        self.rest_until = time.monotonic() + self.rest
        self.rest = min(LAST_REST_S, self.rest * 2)
        self.tries += 1

    def went_well(self) -> None:
        """What was tried worked."""
        self.rest_until, self.rest, self.tries = 0.0, FIRST_REST_S, 0

    def told(self, number: int, workload: int) -> None:
        """What came of a trial was recorded."""
        self.waits = False
        self.reports.pop(number, None)
        self.bad.pop(number, None)
        self.workloads.discard(workload)

    def look_soon(self) -> None:
        """A trial wrote something: compare it with the others, if that is wanted."""
        if self.spec.early_stopping is not None and self.look_at is None:
            self.look_at = max(time.monotonic(), self.looked_at + LOOK_S)

    def due_in(self, wall: float) -> float | None:
        """Seconds until there is something to do that nothing else tells of; not positive: now. None: nothing.

        Args:
            wall: now, in seconds since the epoch.
        """
        now = time.monotonic()
        left = [self.deadline - wall] if self.deadline is not None else []
        left += [self.rest_until - now] if self.rest_until else []
        left += [self.look_at - now] if self.look_at is not None and not self.looking else []
        return min(left, default=None)
