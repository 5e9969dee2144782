"""Slow acts on the engine, run on threads outside any database session, each reported back as a plain result.

An act holds the keys of what it works on, and a key has at most one act under way. Results wait in a queue that
the reconciler empties at the start of its next tick; nothing here writes to the database. A key can also be held
for a while after its act, so that what failed is not tried again at once. An act that does not come back keeps its
keys, and says since when it has been under way; others get its seat (:mod:`.crew`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from localml.control.jobs.crew import Crew

LONGEST_REST_S = 30.0
"""Between two tries of what fails again and again."""
_FORGET_S = 3600.0


@dataclass(frozen=True, slots=True)
class Done:
    """A finished act: ``value`` is what it returned, or ``error`` what it raised."""

    kind: str
    keys: tuple[Hashable, ...]
    subject: Any
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happened to the acts on a key that failed one after the other: how often, what the last one said, when,
    and when the first one failed."""

    times: int
    words: str
    at: float
    since: float


class Acts:
    """Runs acts and collects their results.

    Args:
        nudge: called (from the act's thread) when a result is ready.
        executors: kind -> executor; kinds are kept apart so that slow stops never hold up starts.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        nudge: Callable[[], None],
        executors: dict[str, Executor] | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._nudge = nudge
        self._executors = executors or {
            "start": Crew(8, "localml-start"),
            "pin": Crew(2, "localml-pin"),
            "stop": Crew(32, "localml-stop"),
            "remove": Crew(4, "localml-remove"),
        }
        self._now = now
        self._busy: dict[Hashable, tuple[str, float]] = {}  # key -> what is under way, and since when
        self._trouble: dict[Hashable, Trouble] = {}
        self._held: dict[Hashable, float] = {}  # key -> monotonic time until which it rests
        self._lock = threading.Lock()
        self._results: deque[Done] = deque()

    def busy(self, key: Hashable) -> bool:
        """Whether an act on this key is under way, its result not yet recorded, or the key resting."""
        return key in self._busy or self._held.get(key, 0.0) > time.monotonic()

    def run(self, kind: str, keys: tuple[Hashable, ...], subject: Any, act: Callable[[], Any]) -> bool:
        """Start an act unless one of its keys is busy; returns whether it was started."""
        with self._lock:
            if any(self.busy(key) for key in keys):
                return False
            self._busy.update(dict.fromkeys(keys, (kind, self._now())))
        try:
            self._executors[kind].submit(self._work, kind, keys, subject, act)
        except RuntimeError:  # shut down
            self._free(keys)
            return False
        return True

    def _work(self, kind: str, keys: tuple[Hashable, ...], subject: Any, act: Callable[[], Any]) -> None:
        try:
            result = Done(kind, keys, subject, value=act())
        except Exception as error:
            result = Done(kind, keys, subject, error=error)
        self._results.append(result)
        self._nudge()

    def take(self) -> list[Done]:
        """All results since the last call; their keys stay busy until :meth:`settle`."""
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def put_back(self, results: Iterable[Done]) -> None:
        """Results that could not be recorded: :meth:`take` gives them again, before newer ones."""
        self._results.extendleft(reversed(list(results)))

    def settle(self, result: Done, rest: float = 0.0, *, failed: bool = False) -> None:
        """Free the keys of a result that was recorded, or let them rest for some seconds."""
        with self._lock:
            self._free(result.keys)
            if not failed:
                for key in result.keys:
                    self._trouble.pop(key, None)
            if rest > 0:
                self._held.update(dict.fromkeys(result.keys, time.monotonic() + rest))

    def failed(self, result: Done, error: Exception) -> float:
        """Remember a failure. Returns the seconds that its keys should rest: longer with each."""
        now = self._now()
        with self._lock:
            self._trouble = {key: one for key, one in self._trouble.items() if now - one.at < _FORGET_S}
            before = [self._trouble[key] for key in result.keys if key in self._trouble]
            times = 1 + max((one.times for one in before), default=0)
            since = min((one.since for one in before), default=now)
            self._trouble.update(dict.fromkeys(result.keys, Trouble(times, f"{result.kind}: {error}", now, since)))
        return min(LONGEST_REST_S, 2.0 ** min(times - 1, 10))

    def under_way(self, key: Hashable) -> tuple[str, float] | None:
        """What kind of act is under way on a key, and since when."""
        return self._busy.get(key)

    def trouble(self, key: Hashable) -> Trouble | None:
        """Why the last act on a key failed; None if it did not."""
        return self._trouble.get(key)

    def relieve(self) -> bool:
        """Let nobody wait for an act that hangs. Returns whether somebody waits for a seat."""
        waiting = [one.relieve() for one in self._executors.values() if isinstance(one, Crew)]
        return any(waiting)

    def _free(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._busy.pop(key, None)

    def next_free(self) -> float | None:
        """Seconds until the first resting key is free again; None when none rests."""
        now = time.monotonic()
        with self._lock:
            self._held = {key: until for key, until in self._held.items() if until > now}
            return min(self._held.values()) - now if self._held else None

    def close(self) -> None:
        """Take no more acts; those under way go on, and are found again by the next start."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
