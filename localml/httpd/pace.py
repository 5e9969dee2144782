"""How long a client may take over a request's body: a while, and longer only for as long as it really sends."""

from __future__ import annotations

import asyncio

from localml.httpd.wire import Incoming

PAUSE = 60.0
"""Seconds that a client may pause in the middle of a body."""
ALLOWANCE = 60.0
"""Seconds that a body may be waited for in all, beside what its size takes at :data:`LOWEST_RATE`."""
LOWEST_RATE = 1024.0
"""Bytes a second. Only the time counts that somebody waits for the client."""


class Pace:
    """Reads one body, whose sender may not be slower than that."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._size = 0

    async def read(self, body: Incoming) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            TimeoutError: it takes too long.
            Exception: see :meth:`Incoming.read`.
        """
        if body.waiting or body.ended:
            piece = body.take()
        else:
            clock = asyncio.get_running_loop().time
            began = clock()
            async with asyncio.timeout(min(PAUSE, self._left)):
                piece = await body.read()
            self._waited += clock() - began
        self._size += len(piece)
        return piece

    @property
    def _left(self) -> float:
        return max(0.0, ALLOWANCE + self._size / LOWEST_RATE - self._waited)
