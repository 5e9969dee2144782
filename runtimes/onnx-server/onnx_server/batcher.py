"""The queue in front of a worker, and the batches that are made of it.

A worker runs one batch at a time. A request that finds it idle runs at once; those that come meanwhile wait, and the
next batch is what has gathered. So one client alone never waits for company. With a delay set, an idle worker waits
that long for as many requests as were there the last time, which makes batches fuller when several clients are there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from onnx_server import wire
from onnx_server.errors import RequestError, unavailable
from onnx_server.link import Done, RunTimeout, WorkerDied

Run = Callable[[wire.Batch, Done], None]


@dataclass(slots=True)
class _Waiting:
    item: Any
    rows: int
    arrived: float
    answer: asyncio.Future[Any]


class Batcher:
    """The requests of one version.

    Args:
        run: runs a batch, one at a time.
        max_batch: rows that are run together at most. A request with more rows is run by itself.
        max_delay: seconds that a request waits at most for others while the worker is idle.
        capacity: requests that wait at most.
        observe: is told the rows of each batch.
    """

    def __init__(
        self, run: Run, max_batch: int, max_delay: float, capacity: int, observe: Callable[[int], None]
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._capacity = capacity
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._groups: dict[tuple[tuple[str, ...], Hashable], deque[_Waiting]] = {}
        self._waiting = 0
        self._present = 1
        """Requests that were there, running or waiting, when the last batch was made."""
        self._running: list[_Waiting] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._waiting

    def submit(self, key: tuple[str, ...], shapes: Hashable, item: Any, rows: int) -> asyncio.Future[Any]:
        """Queue a request.

        Args:
            key: the outputs that it wants.
            shapes: what requests must share to be run together; None if this one must run by itself.
            item: what the worker gets.
            rows: its rows.

        Returns:
            The answer, or a ``RequestError``.

        Raises:
            RequestError: the queue is full (503).
        """
        if self._waiting >= self._capacity:
            raise unavailable(f"the queue is full: {self._waiting} requests wait")
        answer: asyncio.Future[Any] = self._loop.create_future()
        # An object of its own as key: equal to nothing else.
        group = (key, object() if shapes is None or rows > self._max_batch else shapes)
        self._groups.setdefault(group, deque()).append(_Waiting(item, rows, self._loop.time(), answer))
        self._waiting += 1
        self._pump()
        return answer

    def fail(self, reason: str) -> None:
        """Answer everything that waits with 503."""
        for group in self._groups.values():
            for one in group:
                _settle(one, unavailable(reason))
        self._groups.clear()
        self._waiting = 0
        if not self._running:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until nothing waits or runs."""
        self._max_delay = 0.0
        self._start()
        await self._idle.wait()

    def _pump(self) -> None:
        if self._running or not self._waiting:
            return
        if self._max_delay and self._waiting < self._present:
            oldest = min(group[0].arrived for group in self._groups.values())
            if (left := oldest + self._max_delay - self._loop.time()) > 0:
                if self._timer is None:
                    self._timer = self._loop.call_later(left, self._start)
                return
        self._start()

    def _start(self) -> None:
        """Make a batch of the group whose head has waited longest, and run it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running or not self._waiting:
            return
        self._present = self._waiting
        key = next(iter(self._groups))
        if len(self._groups) > 1:
            key = min(self._groups, key=lambda one: self._groups[one][0].arrived)
        group = self._groups[key]
        batch = [group.popleft()]
        rows = batch[0].rows
        while group and rows + group[0].rows <= self._max_batch:
            rows += group[0].rows
            batch.append(group.popleft())
        if not group:
            del self._groups[key]
        self._waiting -= len(batch)
        self._running = batch
        self._idle.clear()
        self._run(wire.Batch(key[0], [one.item for one in batch]), self._finish)
        self._observe(rows)  # while the worker works

    def _finish(self, answers: list[Any] | WorkerDied) -> None:
        batch, self._running = self._running, []
        if isinstance(answers, WorkerDied):
            answers = [_failure(answers)] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            _settle(one, answer)
        if self._waiting:
            self._pump()
        else:
            self._idle.set()


def _failure(how: WorkerDied) -> RequestError:
    if isinstance(how, RunTimeout):
        # Not 503: a router would try it elsewhere, and it might well block that worker, too.
        return RequestError(504, f"the request was given up, and its worker process {how}")
    return unavailable(f"the worker process died while it ran this request: {how}")


def _settle(one: _Waiting, answer: Any) -> None:
    if one.answer.done():  # the caller has gone
        return
    if isinstance(answer, wire.Failure):
        answer = RequestError(answer.status, answer.message, 1 if answer.status == 503 else None)
    if isinstance(answer, Exception):
        one.answer.set_exception(answer)
    else:
        one.answer.set_result(answer)
