"""The talk with one study's suggester: opened from the records when it is needed, closed when it is not.

What it was asked and told is in the records, so a suggester can be thrown away at any moment: whatever goes wrong
between it and them, it is closed, and the next question opens one that knows what is recorded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from localml.core.ports import Store
from localml.core.studies.algorithms import checked
from localml.core.studies.space import Values
from localml.core.studies.specs import StudySpec
from localml.core.studies.trials import StudyRow, happenings, kept_state
from localml.hpo.base import Asked, Happening, Plugin, Proposal, Setup, Suggester, Suggesters, Told

IDLE_S = 600.0
"""A suggester's process that was not asked for so long is ended."""
MOST_OPEN = 16
"""Suggesters' processes at a time that are not being asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a suggester said when it was asked for a trial, and what it wants to be kept."""

    number: int
    proposal: Proposal
    state: bytes | None = None


class Talk:
    """One study's suggester. It is asked on a thread; everything else is done by the loop, while it is not being asked.

    Args:
        plugin: the installed algorithm of a name; None for a built-in one.
        progress: told what takes long while it is opened.
    """

    def __init__(
        self,
        store: Store,
        suggesters: Suggesters,
        plugin: Callable[[str], Plugin | None],
        study: int,
        progress: Callable[[str], None],
    ) -> None:
        self._store = store
        self._suggesters = suggesters
        self._plugin = plugin
        self._study = study
        self._progress = progress
        self._lock = threading.Lock()
        self._suggester: Suggester | None = None
        self._closed = False
        self._untold: list[tuple[int, Told]] = []
        self.used = time.monotonic()
        """When it was last asked, in monotonic seconds."""

    @property
    def open(self) -> bool:
        """Whether there is a process."""
        return self._suggester is not None

    def told(self, row: StudyRow, number: int, value: float | None, sequence: int) -> None:
        """What came of a trial was recorded: the suggester hears of it when it is asked the next time."""
        if self._suggester is not None:  # else it reads it from the records
            self._untold.append((sequence, Told(_place(row, number), value)))

    def ask(self, row: StudyRow, spec: StudySpec, number: int) -> Answer:
        """Ask for a trial.

        Raises:
            LocalmlError: in the suggester's own words; it is closed then.
        """
        try:
            suggester = self._suggester or self._opened(row, spec)
            for _, one in self._untold:
                suggester.tell(one.number, one.value)
            self._untold.clear()
            proposal = suggester.ask(_place(row, number))
            state = suggester.state() if proposal.values is not None else None
        except BaseException:
            self.close()
            raise
        self.used = time.monotonic()
        return Answer(number, proposal, state)

    def _opened(self, row: StudyRow, spec: StudySpec) -> Suggester:
        self._untold.clear()
        with self._store.read_raw() as connection:
            after, state = kept_state(connection, self._study)
            history = _history(row, happenings(connection, self._study, row.run, after))
        setup = setup_of(row, spec, self._plugin(spec.algorithm.name))
        found = self._suggesters.open(setup, history, state, self._progress)
        with self._lock:
            self._suggester = found
            closed = self._closed
        if closed:
            found.close()
        return found

    def close(self, *, for_good: bool = False) -> None:
        """End the process, if there is one.

        Args:
            for_good: one that is just being opened ends, too.
        """
        with self._lock:
            found, self._suggester = self._suggester, None
            self._closed = self._closed or for_good
        self._untold.clear()
        if found is not None:
            with suppress(Exception):  # it may be dead: that is why it is closed
                found.close()


def close_idle(talks: Iterable[Talk]) -> None:
    """Of those that are not being asked, close the ones that have not been for long, or for the longest where there are
    too many."""
    idle = sorted((one for one in talks if one.open), key=lambda one: one.used)
    for place, one in enumerate(idle):
        if one.used <= time.monotonic() - IDLE_S or place < len(idle) - MOST_OPEN:
            one.close()


def setup_of(row: StudyRow, spec: StudySpec, plugin: Plugin | None) -> Setup:
    """What a study's algorithm works on."""
    return Setup(
        algorithm=spec.algorithm.name,
        params=checked(spec.algorithm, spec),
        space=spec.space,
        goal=spec.objective.goal,
        seed=row.seed,
        max_trials=spec.max_trials,
        experiments=spec.experiments,
        plugin=plugin,
    )


def _place(row: StudyRow, number: int) -> int:
    """A trial's number as the suggester counts: 1 is the first one of this run, so a run is like the one before."""
    return number - row.first + 1


def _history(row: StudyRow, found: Iterable[tuple[int, int, Values | None, float | None]]) -> list[Happening]:
    return [
        Told(_place(row, number), value) if values is None else Asked(_place(row, number), values)
        for _, number, values, value in found
    ]
