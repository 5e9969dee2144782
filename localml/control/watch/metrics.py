"""Following what jobs report: their output is read for metrics soon after it came.

It is a guest: reading takes at most a twentieth of the time, however much is written, and goes on behind what
floods. Who asks for the metrics of a job has the rest of its output read at once (:meth:`Metrics.catch_up`).
"""

from __future__ import annotations

import threading
import time

from sqlmodel import col, select

from localml.control.worker import Worker
from localml.core.metrics.folders import AGAIN_S
from localml.core.metrics.reading import KINDS, Metrics
from localml.core.ports import Store
from localml.core.work.tables import Workload

SETTLE_S = 1.0
_SLICE_S = 0.02
"""Of one workload before the others have their turn."""
_TICK_S = 0.05
_REST = 19
"""So many times what a tick took is rested after it, whoever writes meanwhile: where cores are short, or many threads
want this process's, a tick takes others' time, too."""


class MetricsWatch:
    """Calls :meth:`Metrics.catch_up` for whatever wrote something."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._lock = threading.Lock()
        self._waiting: dict[int, None] = {}  # in the order in which they came
        self._folders: dict[int, float] = {}  # when they are looked at again, in monotonic seconds
        self._due = 0.0  # monotonic time before which nothing is read
        self._worker = Worker("metrics", self.tick, what="reading metrics", settle=SETTLE_S)

    def start(self) -> None:
        """Run on a thread of its own; goes on with what an earlier server has left."""
        live = select(Workload.id).where(col(Workload.ended_at).is_(None), col(Workload.kind).in_(KINDS))
        with self._store.read() as session, self._lock:
            self._waiting |= dict.fromkeys(number for number in session.exec(live) if number is not None)
        self._worker.start()

    def close(self) -> None:
        """Read no more."""
        self._worker.close()

    def nudge(self, number: int) -> None:
        """A workload wrote something, or ended; costs next to nothing."""
        with self._lock:
            self._waiting[number] = None
        self._worker.nudge()

    def tick(self) -> float | None:
        """Read for a while. Returns the seconds until there is more to do; None when nobody writes."""
        began = time.monotonic()
        if began < self._due:
            return self._due - began
        for number in [one for one, due in self._folders.items() if due <= began]:
            del self._folders[number]
            with self._lock:
                self._waiting.setdefault(number)
        while self._waiting and time.monotonic() - began < _TICK_S and not self._worker.stopping.is_set():
            with self._lock:
                number = next(iter(self._waiting))
                del self._waiting[number]
            self._one(number)
        now = time.monotonic()
        self._due = now + (now - began) * _REST
        if self._waiting:
            return self._due - now
        return max(0.0, min(self._folders.values()) - now) if self._folders else None

    def _one(self, number: int) -> None:
        done = self._metrics.catch_up(number, seconds=_SLICE_S)
        if not done:
            with self._lock:
                self._waiting.setdefault(number)
        elif self._metrics.waits_for_folders(number):
            self._folders[number] = time.monotonic() + AGAIN_S
