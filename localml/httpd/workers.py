"""Threads that do for the event loop what may block."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("localml.httpd")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class Workers:
    """At most ``most`` threads, each started when it is first needed.

    Less than ``concurrent.futures`` on purpose: a request's way to a thread and back is the price of every request,
    and its futures with their conditions cost twice as much as this.

    Args:
        name: what the threads are called, with a number.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._open = 0  # jobs that were handed in and are not done
        self._closed = False

    async def run(self, act: Callable[[], T]) -> T:
        """Call ``act`` on a thread. One who gives up waiting (is cancelled) doesn't stop it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put((act, future))
        return await future

    def submit(self, act: Callable[[], object]) -> None:
        """Call ``act`` on a thread and forget it; what it raises is logged."""
        self._put((act, None))

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers have been dismissed")
            self._open += 1
            self._jobs.put(job)
            if self._open > len(self._threads) < self._most:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            del job  # an idle thread keeps nothing alive
            with self._lock:
                self._open -= 1

    def close(self, timeout: float) -> None:
        """Take no more jobs, let those at hand finish, and wait for that at most ``timeout`` seconds in all."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _do(act: Callable[[], Any], future: asyncio.Future[Any] | None) -> None:
    result, error = None, None
    try:
        result = act()
    except BaseException as raised:
        error = raised
    if future is None:
        if error is not None:
            log.error("a worker's job failed", exc_info=error)
        return
    try:
        future.get_loop().call_soon_threadsafe(_tell, future, result, error)
    except RuntimeError:
        pass  # the loop has ended, and nobody waits


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
