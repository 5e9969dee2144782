"""Who may go on to a replica now, and who waits: for a place, or for a sleeping endpoint to wake."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from localml.core.serving.routes_table import Limits

WAKE_EVERY = 1.0
"""Seconds between two wake calls while requests are held."""


class Refused(Exception):
    """The gateway answers by itself. ``code`` is for machines and is what is counted.

    Args:
        retry_after: seconds after which another try may do; None where it would not.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


class NothingReady(Refused):
    """No replica takes requests now."""

    def __init__(self) -> None:
        super().__init__(503, "no_replica", "no replica of this endpoint is ready", retry_after=1)


class Gate:
    """The entrance of one endpoint: at most ``max_concurrent`` inside, the others in a bounded queue, first come first
    served.

    Args:
        wake: asks for a replica; called when the first request has to be held, then every :data:`WAKE_EVERY` seconds.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wake = wake
        self._limits = Limits()
        self._routable = False
        self._holds = False
        self._caller: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many are held."""
        return len(self._waiting)

    def configure(self, limits: Limits, *, routable: bool, holds: bool) -> None:
        """Take over what the table says now.

        Args:
            routable: some replica takes requests.
            holds: requests wait while none does; otherwise they are refused.
        """
        self._limits, self._routable, self._holds = limits, routable, holds
        if not routable and not holds:
            self._refuse_all(NothingReady())
        self._admit()
        if self._waiting:
            self._call()

    def close(self) -> None:
        """The endpoint is gone; so are those who wait for it."""
        self._routable = self._holds = False
        self._refuse_all(Refused(404, "not_found", "the endpoint was removed while the request waited"))

    def try_enter(self) -> bool:
        """Go in if nobody has to wait; whoever did calls :meth:`leave`."""
        if self._waiting or not self._has_place():
            return False
        self.inside += 1
        return True

    async def enter(self) -> None:
        """Go in, waiting as long as the limits allow; whoever did calls :meth:`leave`.

        Raises:
            Refused: no replica and no waiting for one; the queue is full; the wait was too long.
        """
        if self.try_enter():
            return
        if not self._routable and not self._holds:
            raise NothingReady
        if len(self._waiting) >= self._limits.max_queue:
            raise Refused(503, "queue_full", f"{len(self._waiting)} requests wait already", retry_after=1)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._call()
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await place
        except BaseException as error:
            self._give_up(place)
            if isinstance(error, TimeoutError):
                waited = f"the request waited {self._limits.queue_timeout_s:g} s"
                raise Refused(503, "queue_timeout", f"{waited} in vain", retry_after=1) from None
            raise

    def leave(self) -> None:
        """One is out; the next may go in."""
        self.inside -= 1
        if self._waiting:
            self._admit()

    def _has_place(self) -> bool:
        limit = self._limits.max_concurrent
        return self._routable and (limit is None or self.inside < limit)

    def _admit(self) -> None:
        while self._waiting and self._has_place():
            place = self._waiting.popleft()
            if not place.done():
                self.inside += 1  # here, so that nobody else takes the place before the waiter runs
                place.set_result(None)

    def _give_up(self, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self.leave()  # the place came at the very moment
        elif place in self._waiting:
            self._waiting.remove(place)

    def _refuse_all(self, error: Refused) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def _call(self) -> None:
        """Ask for a replica now and as long as somebody waits for one."""
        if self._caller is None and not self._routable:
            self._wake()
            self._caller = asyncio.get_running_loop().call_later(WAKE_EVERY, self._call_again)

    def _call_again(self) -> None:
        self._caller = None
        if self._waiting:
            self._call()
