"""Waking those who follow something (a workload's log, an endpoint's state) when it changes; nobody polls."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Final

from localml.core.subjects import Subject

_MOST: Final = 20_000


class Feed:
    """Counts changes; a follower waits until the count that it has seen of its subject is passed.

    All subjects share one counter. Of many subjects the counts of those that changed longest ago are forgotten: they
    then read as the highest forgotten one, so a follower may be woken for nothing, but misses no change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[Subject, int] = {}  # the one that changed last is at the end
        self._latest = 0
        self._forgotten = 0
        self._waiters: dict[Subject, list[threading.Event]] = {}
        self._closed = False

    def changed(self, subject: Subject) -> None:
        """Something about it changed (state, log, events)."""
        with self._lock:
            self._latest += 1
            self._versions.pop(subject, None)
            self._versions[subject] = self._latest
            if len(self._versions) > _MOST:
                self._forget()
            for waiter in self._waiters.pop(subject, ()):
                waiter.set()

    def _forget(self) -> None:
        for subject in list(islice(self._versions, _MOST // 2)):
            self._forgotten = self._versions.pop(subject)

    def version(self, subject: Subject) -> int:
        """The count at its last change; read it before looking, so that no change is missed."""
        with self._lock:
            return self._version(subject)

    def _version(self, subject: Subject) -> int:
        return self._versions.get(subject, self._forgotten)

    def wait(self, subject: Subject, seen: int, timeout: float) -> bool:
        """Wait until there is a change after ``seen``. False when the time is over or the feed is closed."""
        with self._lock:
            if self._closed:
                return False
            if self._version(subject) != seen:
                return True
            waiter = threading.Event()
            self._waiters.setdefault(subject, []).append(waiter)
        woken = waiter.wait(timeout)
        with self._lock:
            waiters = self._waiters.get(subject)
            if waiters and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[subject]
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
