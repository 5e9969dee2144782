"""Hints for watchers: names of replicas that changed, handed to everybody who waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator


class Hints:
    """Any number of readers; each gets every name told after it subscribed, and sleeps in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._readers: list[queue.SimpleQueue[str | None]] = []

    def tell(self, name: str) -> None:
        """Give a name to all readers."""
        self._put(name)

    def subscribe(self, stop: threading.Event) -> Iterator[str]:
        """Names from now on, until ``stop`` is set or this is closed."""
        reader: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._lock:
            self._readers.append(reader)

        def wake_at_stop() -> None:
            stop.wait()
            reader.put(None)

        # A thread that sleeps on the event spares the reader from waking up to look at it.
        threading.Thread(target=wake_at_stop, name="watch-stop", daemon=True).start()
        return self._read(reader, stop)

    def close(self) -> None:
        """End all reading."""
        self._closed = True
        self._put(None)

    def _put(self, name: str | None) -> None:
        with self._lock:
            for reader in self._readers:
                reader.put(name)

    def _read(self, reader: queue.SimpleQueue[str | None], stop: threading.Event) -> Iterator[str]:
        try:
            while not stop.is_set() and not self._closed and (name := reader.get()) is not None:
                yield name
        finally:
            with self._lock:
                self._readers.remove(reader)
