"""Turns at a few threads, so that nobody has all of them: who already has a share waits, and others go first."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from localml.httpd.workers import Workers

T = TypeVar("T")


class Turns:
    """Work of many owners for ``most`` threads, of which one owner has ``each`` at a time. Used from one event loop."""

    def __init__(self, most: int, each: int, name: str) -> None:
        self._workers = Workers(most, name)
        self._most, self._each = most, each
        self._inside: Counter[object] = Counter()
        self._total = 0
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}  # whose owner is next comes first

    async def run(self, owner: object, act: Callable[[], T]) -> T:
        """Call ``act`` on a thread in its owner's turn. One who gives up meanwhile leaves the queue; what has begun
        goes on, and keeps its owner's place until it has ended."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(owner)  # it came at the very moment
            raise

        def work() -> T:
            try:
                return act()
            finally:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._leave, owner)

        return await self._workers.run(work)

    def _admit(self) -> None:
        """One of each owner after the other, for as long as there is a place."""
        for owner in list(self._waiting):
            turns = self._waiting.pop(owner)
            while turns and turns[0].done():  # they gave up
                turns.popleft()
            if turns and self._total < self._most and self._inside[owner] < self._each:
                self._inside[owner] += 1
                self._total += 1
                turns.popleft().set_result(None)
            if turns:
                self._waiting[owner] = turns

    def _leave(self, owner: object) -> None:
        self._total -= 1
        self._inside[owner] -= 1
        if not self._inside[owner]:
            del self._inside[owner]
        self._admit()

    def close(self, timeout: float) -> None:
        """See :meth:`Workers.close`."""
        self._workers.close(timeout)
