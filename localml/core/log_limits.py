"""Words that would fill a log: of one cause one line a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

EVERY = 60.0
"""Seconds between two lines of one cause."""


class Sparing:
    """A logger that says the same thing once in a while, and then how often it was left unsaid.

    Args:
        every: seconds between two lines of one cause.
        clock: seconds, monotonic.
    """

    def __init__(self, log: logging.Logger, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every, self._clock = log, every, clock
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}  # cause -> when it was said, how often it was not since

    def warning(self, cause: str, message: str, *arguments: object) -> bool:
        """Log ``message % arguments``, if nothing was said of the ``cause`` (one of a few) lately; whether it was."""
        now = self._clock()
        with self._lock:
            at, kept = self._said.get(cause, (now - self._every, 0))
            due = now - at >= self._every
            self._said[cause] = (now, 0) if due else (at, kept + 1)
        if due:
            more = f" ({kept} times more since this was last said)" if kept else ""
            self._log.warning("%s%s", message % arguments, more)
        return due
