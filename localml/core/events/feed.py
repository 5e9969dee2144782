"""Waking those who follow something (a workload's log, an endpoint's state) when it changes; nobody polls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from typing import Final

from localml.core.subjects import Subject

Wake = Callable[[], None]
_MOST: Final = 2_000


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
        self._watchers: dict[Subject, dict[object, Wake]] = {}
        self._closed = False

    def changed(self, subject: Subject) -> None:
        """Something about it changed (state, log, events)."""
        with self._lock:
            self._latest += 1
            self._versions.pop(subject, None)
            self._versions[subject] = self._latest
            if len(self._versions) > _MOST:
                self._forget()
            watchers = self._watchers.pop(subject, None)
        if watchers is not None:
            for wake in watchers.values():
                wake()

    def _forget(self) -> None:
        for subject in list(islice(self._versions, _MOST // 2)):
            self._forgotten = self._versions.pop(subject)

    def version(self, subject: Subject) -> int:
        """The count at its last change; read it before looking, so that no change is missed."""
        with self._lock:
            return self._version(subject)

    def _version(self, subject: Subject) -> int:
        return self._versions.get(subject, self._forgotten)

    def watch(self, subject: Subject, seen: int, wake: Wake) -> Callable[[], None]:
        """Call ``wake`` once, on whatever thread, when there is a change after ``seen`` or the feed is closed.

        It must not block. Returns what takes the wish back; then it may still be called for a moment.
        """
        token = object()
        with self._lock:
            if not self._closed and self._version(subject) == seen:
                self._watchers.setdefault(subject, {})[token] = wake
                return lambda: self._unwatch(subject, token)
        wake()
        return lambda: None

    def _unwatch(self, subject: Subject, token: object) -> None:
        with self._lock:
            watchers = self._watchers.get(subject)
            if watchers is not None and watchers.pop(token, None) is not None and not watchers:
                del self._watchers[subject]

    def wait(self, subject: Subject, seen: int, timeout: float) -> bool:
        """Wait until there is a change after ``seen``. False when the time is over or the feed is closed."""
        woken = threading.Event()
        forget = self.watch(subject, seen, woken.set)
        try:
            return woken.wait(timeout) and not self._closed
        finally:
            forget()

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed

    def close(self) -> None:
        """Wake everybody for good."""
        with self._lock:
            self._closed = True
            watchers = [wake for each in self._watchers.values() for wake in each.values()]
            self._watchers.clear()
        for wake in watchers:
            wake()
