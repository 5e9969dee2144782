"""Slow acts on the engine, run on threads outside any database session, each reported back as a plain result.

An act holds the keys of what it works on, and a key has at most one act under way. Results wait in a queue that
the reconciler empties at the start of its next tick; nothing here writes to the database. A key can also be held
for a while after its act, so that what failed is not tried again at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """A finished act: ``value`` is what it returned, or ``error`` what it raised."""

    kind: str
    keys: tuple[Hashable, ...]
    subject: Any
    value: Any = None
    error: Exception | None = None


class Acts:
    """Runs acts and collects their results.

    Args:
        nudge: called (from the act's thread) when a result is ready.
        executors: kind -> executor; kinds are kept apart so that slow stops never hold up starts.
    """

    def __init__(self, nudge: Callable[[], None], executors: dict[str, Executor] | None = None) -> None:
        self._nudge = nudge
        self._executors = executors or {
            "start": ThreadPoolExecutor(8, "localml-start"),
            "pin": ThreadPoolExecutor(2, "localml-pin"),
            "stop": ThreadPoolExecutor(32, "localml-stop"),
            "remove": ThreadPoolExecutor(4, "localml-remove"),
        }
        self._busy: set[Hashable] = set()
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
            self._busy.update(keys)
        try:
            self._executors[kind].submit(self._work, kind, keys, subject, act)
        except RuntimeError:  # shut down
            self._busy.difference_update(keys)
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

    def settle(self, result: Done, rest: float = 0.0) -> None:
        """Free the keys of a result that was recorded, or let them rest for some seconds."""
        with self._lock:
            self._busy.difference_update(result.keys)
            if rest > 0:
                self._held.update(dict.fromkeys(result.keys, time.monotonic() + rest))

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
