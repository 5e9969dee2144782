"""What is stuck: workloads under way of which nothing has been heard for too long, and what they wait for.

Nothing is done about them here but telling: the loop goes on trying. Each step has a longest time without progress, far
beyond what it takes where all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlmodel import Session

from localml.control.jobs.acts import Acts
from localml.control.jobs.demands import Reason
from localml.control.jobs.snapshot import AttemptRow, Unit
from localml.core.events.records import record_event
from localml.core.quantities import format_duration
from localml.core.subjects import PLATFORM, Subject
from localml.core.work.states import HOLDING, AttemptState, Desired, State
from localml.store.database import Database

START_S = 120.0
"""Making and beginning a container takes seconds; an image that is pulled tells how far it is, which is progress."""
STOP_S = 30.0
"""Beyond the grace: the kernel ends a killed program at once, unless it waits for a disk or a GPU."""
DRAIN_S = 120.0
"""Without any more of a dead program's output. Its pump gives up what the engine withholds after half of that."""
REMOVE_S = 120.0
"""Removing a container takes seconds; a large one, on a slow disk, a minute."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a workload waits for: since when, for how long at most (seconds), and the words around the time.

    ``key`` is the same as long as it is the same step.
    """

    key: tuple[str, int]
    since: float
    longest: float
    before: str
    after: str

    def words(self, now: float) -> str:
        """A sentence."""
        return f"stuck: {self.before} {format_duration(max(0.0, now - self.since))} ago{self.after}"


class Patience:
    """Knows who is stuck.

    Args:
        acts: say what is under way, and what failed.
        progress: when the start of a workload was last heard of, if it was; seconds since the epoch.
        written: bytes of output of an attempt that are on disk here.
        grace: of a workload, in seconds.
    """

    def __init__(
        self,
        db: Database,
        acts: Acts,
        *,
        progress: Callable[[int], float | None],
        written: Callable[[AttemptRow], int],
        grace: Callable[[int], float],
        changed: Callable[[int], None],
    ) -> None:
        self._db = db
        self._acts = acts
        self._progress = progress
        self._written = written
        self._grace = grace
        self._changed = changed
        self._stops: dict[int, tuple[int, float]] = {}  # workload -> the try that is being stopped, and since when
        self._sizes: dict[str, tuple[int, float]] = {}  # attempt -> bytes of its output, and when they last grew
        self._stuck: dict[int, Wait] = {}
        self._down = False

    def look(self, units: Collection[Unit], down: bool, now: float) -> None:
        """Tell, once for each step, of those who are stuck.

        Args:
            units: all of which the engine may have something.
            down: whether the engine does not answer.
        """
        self._down = down
        found = {unit.row.id: wait for unit in units if (wait := self._late(unit, now)) is not None}
        fresh = {number: wait for number, wait in found.items() if self._key(number) != wait.key}
        self._forget(units)
        if fresh:
            self._tell(fresh, {unit.row.id for unit in units if unit.row.state in HOLDING}, now)
        self._stuck = found

    def reason(self, number: int, now: float) -> Reason | None:
        """What a workload that is stuck waits for, and since when; None if it is not."""
        wait = self._stuck.get(number)
        return Reason("stuck", self._words(wait, now)) if wait is not None else None

    def _words(self, wait: Wait, now: float) -> str:
        return wait.words(now) + ("; the engine does not answer" if self._down else "")

    def _key(self, number: int) -> tuple[str, int] | None:
        known = self._stuck.get(number)
        return known.key if known is not None else None

    def _forget(self, units: Collection[Unit]) -> None:
        stopping = {unit.row.id for unit in units if _is_to_stop(unit)}
        self._stops = {number: value for number, value in self._stops.items() if number in stopping}
        draining = {one.name for unit in units for one in unit.attempts if _drains(one)}
        self._sizes = {name: value for name, value in self._sizes.items() if name in draining}

    def _tell(self, fresh: dict[int, Wait], live: set[int], now: float) -> None:
        def act(session: Session) -> None:
            for number, wait in fresh.items():
                words = self._words(wait, now)
                if number in live:
                    record_event(session, Subject.workload(number), "Stuck", words, now=now, warning=True)
                else:  # its own story is over
                    record_event(session, PLATFORM, "Stuck", f"workload {number}: {words}", now=now, warning=True)

        self._db.write(act)
        for number in fresh:
            self._changed(number)

    # -- what they wait for ----------------------------------------------------------------------

    def _late(self, unit: Unit, now: float) -> Wait | None:
        waits = self._waits(unit, now)
        return next((wait for wait in waits if now - wait.since > wait.longest), None)

    def _waits(self, unit: Unit, now: float) -> list[Wait]:
        if unit.row.state not in HOLDING:
            old = [one for one in unit.attempts if one.state is AttemptState.ENDED]
            return [self._removing(unit, old)] if old else []
        found: list[Wait] = []
        for one in unit.current:
            if one.state is AttemptState.PLANNED:
                found.append(self._starting(unit, one))
            elif _drains(one):
                found.append(self._draining(one, now))
            elif _is_to_stop(unit) and one.state is not AttemptState.ENDED:
                found.append(self._stopping(unit, one, now))
        return found

    def _starting(self, unit: Unit, one: AttemptRow) -> Wait:
        since = max(one.created_at, self._progress(unit.row.id) or 0.0)
        act = self._acts.under_way(("attempt", one.id))
        what = "start" if act is not None and act[0] == "start" else "removal"
        after = f"; its {what} has not come back" if act is not None else "; the engine has not done so"
        return Wait(("start", one.id), since, START_S, f"{_who(one)}: it was to be started", after + self._trouble(one))

    def _stopping(self, unit: Unit, one: AttemptRow, now: float) -> Wait:
        number = unit.row.id
        if self._stops.get(number, (0, 0.0))[0] != unit.row.attempt:
            self._stops[number] = unit.row.attempt, now
        grace = self._grace(number)
        after = f" (grace {grace:g} s); the engine has not ended it{self._trouble(one)}"
        before = f"{_who(one)}: its container's stop was asked for"
        return Wait(("stop", one.id), self._stops[number][1], grace + STOP_S, before, after)

    def _draining(self, one: AttemptRow, now: float) -> Wait:
        size, known = self._written(one), self._sizes.get(one.name)
        if known is None or known[0] != size:
            self._sizes[one.name] = size, (one.exited_at or now) if known is None else now
        since = self._sizes[one.name][1]
        before = f"{_who(one)}: its program has ended, and the last of its output came"
        return Wait(("drain", one.id), since, DRAIN_S, before, "; the engine does not give the rest")

    def _removing(self, unit: Unit, old: list[AttemptRow]) -> Wait:
        since = max(one.ended_at or 0.0 for one in old)
        trouble = self._acts.trouble(("clean", unit.row.id))
        after = "; the engine still has them" + (f": {trouble.words}" if trouble is not None else "")
        return Wait(("remove", old[-1].id), since, REMOVE_S, "its containers were to be removed", after)

    def _trouble(self, one: AttemptRow) -> str:
        found = self._acts.trouble(("attempt", one.id))
        return f": {found.words}" if found is not None else ""


def _is_to_stop(unit: Unit) -> bool:
    """Also while the engine does not answer, so that nothing is concluded."""
    return unit.row.state is State.STOPPING or unit.row.desired is Desired.STOP


def _drains(one: AttemptRow) -> bool:
    return one.state is not AttemptState.ENDED and one.exited_at is not None


def _who(one: AttemptRow) -> str:
    return f"{one.role}-{one.index}"
