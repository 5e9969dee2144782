"""Threads that do for the event loop what may block."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("localml.httpd")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class Workers:
    """At most ``most`` threads, each started when it is first needed. Used from one event loop.

    Not ``concurrent.futures``, because its threads keep a process alive that was told to end. There are no locks:
    every count has one writer.

    Args:
        name: what the threads are called, with a number.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._given = 0
        self._done: list[int] = []  # jobs that each thread has done
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
        if self._closed:
            raise RuntimeError("the workers have been dismissed")
        self._given += 1
        self._jobs.put(job)
        if len(self._threads) < self._most and self._given - sum(self._done) > len(self._threads):
            number = len(self._threads)
            self._done.append(0)
            thread = threading.Thread(target=self._work, args=(number,), name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(number, *job)
            del job  # an idle thread keeps nothing alive

    def _do(self, number: int, act: Callable[[], Any], future: asyncio.Future[Any] | None) -> None:
        result, error = None, None
        try:
            result = act()
        except BaseException as raised:
            error = raised
            if not _may_cross(raised):
                error = RuntimeError(f"{raised!r} was raised on a worker")
                error.__cause__ = raised
        self._done[number] += 1
        if future is not None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                future.get_loop().call_soon_threadsafe(_tell, future, result, error)
        elif error is not None:
            log.error("a worker's job failed", exc_info=error)

    def close(self, timeout: float) -> None:
        """Take no more jobs, let those at hand finish, and wait for that at most ``timeout`` seconds in all."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _may_cross(error: BaseException) -> bool:
    """Whether it means the same to the event loop: others end the loop, cancel the task or never arrive."""
    return isinstance(error, Exception) and not isinstance(error, StopIteration)


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
