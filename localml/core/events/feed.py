"""Waking those who follow a workload (its log, its state) when something about it changes; nobody polls."""

from __future__ import annotations

import threading


class Feed:
    """Counts changes per workload; a follower waits until the count it has seen is passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[int, int] = {}
        self._waiters: dict[int, list[threading.Event]] = {}
        self._closed = False

    def changed(self, workload_id: int) -> None:
        """Something about this workload changed (state, log, events)."""
        with self._lock:
            self._versions[workload_id] = self._versions.get(workload_id, 0) + 1
            for waiter in self._waiters.pop(workload_id, ()):
                waiter.set()

    def version(self, workload_id: int) -> int:
        """The count of changes so far; read it before looking, so that no change is missed."""
        return self._versions.get(workload_id, 0)

    def wait(self, workload_id: int, seen: int, timeout: float) -> bool:
        """Wait until there is a change after ``seen``. False when the time is over or the feed is closed."""
        with self._lock:
            if self._closed:
                return False
            if self._versions.get(workload_id, 0) != seen:
                return True
            waiter = threading.Event()
            self._waiters.setdefault(workload_id, []).append(waiter)
        woken = waiter.wait(timeout)
        with self._lock:
            waiters = self._waiters.get(workload_id)
            if waiters and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[workload_id]
        return woken and not self._closed

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed

    def close(self) -> None:
        """Wake everybody for good."""
        with self._lock:
            self._closed = True
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.set()
            self._waiters.clear()


def endpoint_feed(endpoint_id: int) -> int:
    """The key of an endpoint's changes; workloads have the positive ones, and 0 is the platform's."""
    return -endpoint_id
