"""Log pumps: threads that carry containers' output into files, gap-free and without doubles.

The file is the truth: a pump resumes at the file's size, so a server that was killed at any moment goes on exactly
where its last completed write ended. A side file of (offset, time) pairs answers questions about time; losing its
tail costs nothing but precision.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import closing, suppress

from localml.core.logs.files import LogStore
from localml.core.logs.writer import LogWriter
from localml.engines.base import STREAMS, Engine, EngineUnreachable

_RETRY_S = 0.5


class LogPumps:
    """One thread per container whose output is still coming.

    Args:
        engine: where the output comes from.
        store: where it goes.
        done: called (from the pump's thread) when a container's output is complete.
        changed: called after bytes were written, so that followers wake up.
        trouble: called with the attempt's name and a sentence when the output cannot be written.
    """

    def __init__(
        self,
        engine: Engine,
        store: LogStore,
        *,
        done: Callable[[], None],
        changed: Callable[[int], None],
        trouble: Callable[[int, str, str], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._done = done
        self._changed = changed
        self._trouble = trouble
        self._lock = threading.Lock()
        self._active: dict[str, threading.Thread] = {}
        self._finished: set[str] = set()
        self._stop = threading.Event()

    def ensure(self, workload_id: int, name: str) -> None:
        """Make sure that this container's output is being carried over; cheap to repeat."""
        if name in self._active or name in self._finished:  # in the order in which it gets there
            return
        thread = threading.Thread(target=self._pump, args=(workload_id, name), name=f"log-{name}", daemon=True)
        with self._lock:
            if self._stop.is_set():
                return
            self._active[name] = thread
        thread.start()

    def drained(self, name: str) -> bool:
        """Whether all output of this container is in its files."""
        return name in self._finished

    def forget(self, name: str) -> None:
        """Drop the memory of a container whose end is recorded."""
        self._finished.discard(name)

    def close(self) -> None:
        """Stop carrying; the next start goes on where the files end."""
        self._stop.set()

    def _pump(self, workload_id: int, name: str) -> None:
        complete = False
        while not self._stop.is_set() and not complete:
            try:
                self._carry(workload_id, name)
                complete = not self._stop.is_set()
            except EngineUnreachable:
                self._stop.wait(_RETRY_S)
            except OSError as error:
                self._trouble(workload_id, name, self._words(error))
                self._stop.wait(_RETRY_S * 4)
        with self._lock:
            self._active.pop(name, None)
            if complete:
                self._finished.add(name)
        if complete:
            self._done()

    def _carry(self, workload_id: int, name: str) -> None:
        with closing(LogWriter(self._store, workload_id, name)) as writer:
            since = {stream: writer.size(stream) for stream in STREAMS}
            chunks = self._engine.logs(name, since, follow=True)
            try:
                for chunk in chunks:
                    writer.append(chunk.stream, chunk.data, chunk.at)
                    self._changed(workload_id)
                    if self._stop.is_set():
                        return
            finally:
                with suppress(Exception):
                    chunks.close()  # type: ignore[attr-defined]

    @staticmethod
    def _words(error: OSError) -> str:
        if error.errno == errno.ENOSPC:
            return "the disk is full: the log cannot be written and waits for room"
        return f"the log cannot be written: {error.strerror or error}"
