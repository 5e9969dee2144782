"""The loop's picture of what is not over or not cleaned up, kept in memory and fed with what each commit changed.

It is read whole once. After that :meth:`Picture.refresh` reads the workloads that commits touched, each with its
attempts and leases, so that what an event costs does not depend on how many wait. That the picture is true is checked
now and then (:meth:`Picture.check`).
"""

from __future__ import annotations

import heapq
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from localml.control.jobs.demands import Waiting
from localml.control.jobs.queue import Queue
from localml.control.jobs.snapshot import Limits, Unit, load_limits, load_states, load_units
from localml.control.jobs.specs import SpecCache
from localml.core.work.states import TERMINAL, Desired, State
from localml.store.changes import Key
from localml.store.database import Database

log = logging.getLogger("localml.control")

FOLLOWED = {
    "workload": "id",
    "attempt": "workload_id",
    "gpu_lease": "workload_id",
    "gpu_mark": "gpu",
    "node_mark": "node",
    "pool": "id",
}
"""What the picture is made of: table -> the column that says which part of it a row belongs to."""
_UNITS = ("workload", "attempt", "gpu_lease")
_LIMITS = ("gpu_mark", "node_mark", "pool")


@dataclass(frozen=True, slots=True)
class News:
    """What a refresh changed: numbers of workloads, and whether more than newcomers to the queue came of it: what is
    held or limited is not what it was, or somebody has left the queue."""

    changed: frozenset[int] = frozenset()
    turned: bool = False


class Picture:
    """Everything that is not over or not cleaned up.

    Args:
        told: called from the database's thread after a commit that changed something of it.

    Attributes:
        waiting: queued workloads by number.
        live: those of which the engine may have something: all that have begun, and those that wait for another try.
        queue: of those waiting, who waits for nothing but resources.
        limits: pools, marks and drained machines.
        specs: of all that are not over.
        states: of the workloads that some waiting one depends on; None for one that does not exist.
    """

    def __init__(self, db: Database, told: Callable[[], None] = lambda: None) -> None:
        self._db = db
        self._changes = db.follow(FOLLOWED, told)
        self._read = False
        self.waiting: dict[int, Unit] = {}
        self.live: dict[int, Unit] = {}
        self.queue = Queue()
        self.limits = Limits()
        self.specs = SpecCache()
        self.states: dict[int, State | None] = {}
        self._dependents: dict[int, set[int]] = {}
        self._due: list[tuple[float, int]] = []

    def refresh(self, now: float) -> News:
        """Take in what was committed since the last time, and who need not wait for the clock any more."""
        taken = self._changes.take()
        due = self._pop_due(now)
        if self._read and not due and not any(taken.values()):
            return News()
        try:
            with self._db.read_raw() as connection:
                if not self._read:
                    return self._read_all(connection, now)
                return self._read_some(connection, taken, due, now)
        except BaseException:
            self._changes.put_back({**taken, "workload": taken["workload"] | due})
            raise

    def next_due(self) -> float | None:
        """When the clock alone lets the next one wait for resources only; seconds since the epoch."""
        return self._due[0][0] if self._due else None

    def hold(self, unit: Unit, now: float) -> str:
        """What keeps a waiting workload from being looked at: a pause before another try, or what it depends on."""
        row = unit.row
        if row.not_before is not None and row.not_before > now:
            return f"try {row.attempt} starts in {row.not_before - now:.0f} s"
        needed = self.specs.spec(row.id).depends_on
        open_ones = [one for one in needed if self.states[one] is not State.SUCCEEDED]
        if open_ones:
            return f"depends on {', '.join(map(str, open_ones))}, which has not succeeded yet"
        return ""

    def broken_dependency(self, number: int) -> int | None:
        """A workload that this one depends on and that can no longer succeed, if there is one."""
        for one in self.specs.spec(number).depends_on:
            if self.states[one] in (None, State.FAILED, State.STOPPED):
                return one
        return None

    # -- reading ---------------------------------------------------------------------------------

    def _read_all(self, connection: sqlite3.Connection, now: float) -> News:
        units = load_units(connection)
        self.limits = load_limits(connection)
        self._take_in(connection, units.keys(), units, now)
        self._read = True
        return News(frozenset(units), turned=True)

    def _read_some(
        self, connection: sqlite3.Connection, taken: Mapping[str, set[Key]], due: set[int], now: float
    ) -> News:
        ids = {int(key) for table in _UNITS for key in taken[table]} | due
        limits = any(taken[table] for table in _LIMITS)
        if limits:
            self.limits = load_limits(connection)
        if not ids:
            return News(turned=limits)
        turned, woken = self._take_in(connection, ids, load_units(connection, ids), now)
        return News(frozenset(ids | woken), turned or limits)

    def _take_in(
        self, connection: sqlite3.Connection, ids: Iterable[int], units: Mapping[int, Unit], now: float
    ) -> tuple[bool, set[int]]:
        """Put these in place of what was known. Returns whether more than newcomers came of it, and who depends on
        them."""
        kinds = {number: unit.row.kind for number, unit in units.items() if unit.row.state not in TERMINAL}
        self.specs.load(connection, kinds)
        stood = {number: self.queue.jobs.get(number) for number in ids}
        before = {number: self._forget(number) for number in ids}
        self._load_states(connection, before.keys(), units)
        for unit in units.values():
            self._add(unit, now)
        woken = {one for number in before for one in self._dependents.get(number, ())} - before.keys()
        for number in woken:
            self._enqueue(self.waiting[number], now)
        for number in before:
            if number not in units or units[number].row.state in TERMINAL:
                self.specs.forget(number)
        turned = any(self.live.get(number) != old for number, old in before.items())
        left = any(job is not None and self.queue.jobs.get(number) != job for number, job in stood.items())
        return turned or left, woken

    def _load_states(self, connection: sqlite3.Connection, ids: Iterable[int], units: Mapping[int, Unit]) -> None:
        queued = [unit.row.id for unit in units.values() if unit.row.state is State.QUEUED]
        needed = {one for number in queued for one in self.specs.spec(number).depends_on}
        wanted = {one for one in needed if one not in self.states} | {one for one in ids if one in self._dependents}
        if wanted:
            self.states |= dict.fromkeys(wanted) | load_states(connection, wanted)

    def _forget(self, number: int) -> Unit | None:
        """Take one out. Returns what it was among those of which the engine may have something."""
        waited = self.waiting.pop(number, None)
        if waited is not None:
            self.queue.remove(number)
            for one in self.specs.spec(number).depends_on:
                self._dependents[one].discard(number)
                if not self._dependents[one]:
                    del self._dependents[one], self.states[one]
        return self.live.pop(number, None)

    def _add(self, unit: Unit, now: float) -> None:
        row = unit.row
        if row.state is State.QUEUED:
            self.waiting[row.id] = unit
            for one in self.specs.spec(row.id).depends_on:
                self._dependents.setdefault(one, set()).add(row.id)
            self._enqueue(unit, now)
            if row.not_before is not None and row.not_before > now:
                heapq.heappush(self._due, (row.not_before, row.id))
        if row.state is not State.QUEUED or unit.attempts:
            self.live[row.id] = unit

    def _enqueue(self, unit: Unit, now: float) -> None:
        if self._stands(unit, now):
            self.queue.add(self.as_waiting(unit))
        else:
            self.queue.remove(unit.row.id)

    def _stands(self, unit: Unit, now: float) -> bool:
        """Whether a waiting workload belongs in the queue."""
        sound = unit.row.desired is Desired.RUN and unit.row.id not in self.specs.broken
        return sound and not self.hold(unit, now)

    def as_waiting(self, unit: Unit) -> Waiting:
        """A waiting workload as admission wants it."""
        row = unit.row
        limit = self.specs.spec(row.id).time_limit
        return Waiting(row.id, row.name, row.pool, row.priority, self.specs.shape(row.id), limit)

    def _pop_due(self, now: float) -> set[int]:
        found = set()
        while self._due and self._due[0][0] <= now:
            found.add(heapq.heappop(self._due)[1])
        return found

    # -- is it true? -----------------------------------------------------------------------------

    def check(self, now: float) -> list[str]:
        """Compare all of it with the records. Whatever differs is a defect: it is told, and read again by the next
        :meth:`refresh`.

        Returns:
            What differed, such as ``workload 7``.
        """
        with self._db.read_raw() as connection:
            units, limits = load_units(connection), load_limits(connection)
            states = load_states(connection, self.states)
        self._db.write(lambda session: None)  # what was committed until it was read has been told after this
        fresh = self._changes.take()
        told = {int(key) for table in _UNITS for key in fresh[table]}
        known = self.waiting | self.live
        wrong = {one for one in units.keys() | known.keys() if units.get(one) != known.get(one)} - told
        wrong |= {one for one in self._misplaced(now) if one not in told}
        stale = {one for one, state in self.states.items() if states.get(one) != state} - told
        found = [f"workload {one}" for one in sorted(wrong | stale)]
        if limits != self.limits and not any(fresh[table] for table in _LIMITS):
            found.append("limits")
            fresh["pool"].add(0)
        fresh["workload"] |= wrong | stale
        self._changes.put_back(fresh)
        return found

    def _misplaced(self, now: float) -> set[int]:
        """Workloads that are in the queue and should not be, or the other way round, or with other values."""
        due = {number for _, number in self._due}
        expected = {
            number: self.as_waiting(unit)
            for number, unit in self.waiting.items()
            if number not in due and self._stands(unit, now)
        }
        found = {number: job for number, job in self.queue.jobs.items() if number not in due}
        return {one for one in expected.keys() | found.keys() if expected.get(one) != found.get(one)}
