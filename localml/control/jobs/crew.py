"""Threads for calls that may never come back: those who wait are not held up by them for ever."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

LATE_S = 20.0
"""Seconds after which a call gives its seat to another one. A daemon that is well answers in one or two; pulling an
image may take as long as it likes, and holds up nobody else."""
MOST = 128
"""Threads of one crew at most, however many calls hang: each costs 8 MiB of address space and a connection."""
_IDLE_S = 10.0

_Task = tuple["Future[Any]", Callable[[], Any]]


class Crew(Executor):
    """Runs so many calls at a time. The threads end with the process, whatever they wait for.

    Args:
        seats: calls at a time, late ones not counted.
        name: of the threads.
    """

    def __init__(
        self,
        seats: int,
        name: str,
        *,
        most: int = MOST,
        late: float = LATE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seats = seats
        self._name = name
        self._most = most
        self._late = late
        self._now = now
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._began: dict[int, float] = {}  # thread -> when its call began
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See :meth:`concurrent.futures.Executor.submit`.

        Raises:
            RuntimeError: it was shut down.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{self._name} was shut down")
            self._tasks.append((future, lambda: fn(*args, **kwargs)))
            self._man()
        return future

    def relieve(self) -> bool:
        """Give the seats of late calls to those who wait. Returns whether somebody waits still."""
        with self._changed:
            self._man()
            return bool(self._tasks)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those under way go on; nobody waits for them."""
        with self._changed:
            self._closed = True
            while cancel_futures and self._tasks:
                self._tasks.popleft()[0].cancel()
            self._changed.notify_all()

    def _free(self) -> int:
        """Seats that nobody has, or somebody who is late."""
        now = self._now()
        return self._seats - sum(1 for began in self._began.values() if now - began < self._late)

    def _man(self) -> None:
        if not self._tasks or self._free() <= 0:
            return
        if self._idle:
            self._changed.notify_all()
        wanted = min(len(self._tasks), self._free()) - self._idle
        for _ in range(min(wanted, self._most - self._threads)):
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()

    def _run(self) -> None:
        me = threading.get_ident()
        while (task := self._next(me)) is not None:
            future, act = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(act())
                except BaseException as error:
                    future.set_exception(error)
            del task, future, act

    def _next(self, me: int) -> _Task | None:
        """The next call, as soon as there is one and a seat; None when the thread is not needed any more."""
        with self._changed:
            self._began.pop(me, None)
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._closed or (self._tasks and self._free() > 0), _IDLE_S)
                if not self._tasks or self._free() <= 0:
                    self._threads -= 1
                    return None
                self._began[me] = self._now()
                return self._tasks.popleft()
            finally:
                self._idle -= 1
