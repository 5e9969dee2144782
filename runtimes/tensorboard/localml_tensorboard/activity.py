"""Remembering when TensorBoard was last asked for something."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATH = "/localml/activity"
"""Where the gate tells it."""


class Activity:
    """When the last request came, and how many are being answered now. For any number of threads.

    Args:
        clock: tells the time in epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = self._last = clock()
        self._in_flight = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around whatever counts as use; both its begin and its end do."""
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def to_json(self) -> bytes:
        """``started`` (of this object) and ``last_activity`` in epoch seconds, ``in_flight``."""
        with self._lock:
            told = {"started": self._started, "last_activity": self._last, "in_flight": self._in_flight}
        return json.dumps(told).encode()

    def _note(self, change: int) -> None:
        with self._lock:
            self._in_flight += change
            self._last = self._clock()
