"""Clients that send no more: they have left, or wait for the answer with their own side closed (RFC 9293, 3.6).

Both look the same until something is sent: who has left answers that with a reset. So whoever waits for the head of an
answer is sent ``100 Continue``, which every client of HTTP/1.1 has to put up with at any time (RFC 9110, 15.2). While
an answer's body comes, only what is still to be sent tells; who has had all that there was so far, has left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from localml.httpd.request import Request
from localml.httpd.wire import CLOSED, Wire

FIRST_LOOK = 0.05
"""Seconds from a client's end to the look at what it said to the ``100 Continue``."""
_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Leaving(Wire):
    """A connection whose client may close its side before its answer is complete."""

    head_sent: bool
    _keep_alive: bool
    _task: asyncio.Task[None] | None
    _current: Request | None
    _queue: deque[Request]
    _parsing: Request | None

    def __init__(self) -> None:
        super().__init__()
        self._staying = False
        self._half = False  # the client sends no more
        self._asked_in: Request | None = None

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether it is still to be answered."""
        waits = self._task is not None and self._parsing is None and self.tunnel is None
        if not waits or (self.head_sent and not self.transport.get_write_buffer_size()):
            return False
        self._half = True
        self._keep_alive = self._keep_alive and bool(self._queue)
        self._ask()
        return True

    @contextmanager
    def staying(self) -> Iterator[None]:
        """While the client has nothing to do but to be there; see :meth:`look`."""
        self._staying = True
        try:
            yield
        finally:
            self._staying = False

    def look(self) -> None:
        """End the connection if its peer has left while nothing is read, so that the end wasn't seen: there are bytes
        before it that nobody wants to have, such as a body, or many further requests; or an end was seen before."""
        if self.lost or not (self._half or (self._staying and self._holds)):
            return
        state = self._state()
        if state == CLOSED or (not self._half and self._ended(state) and self.head_sent):
            self.transport.abort()
        elif self._half or self._ended(state):
            self._ask()

    def _ask(self) -> None:
        """Send what only somebody who is there takes."""
        request = self._current
        if not self.head_sent and request is not None and not request.http10:
            self.write(_STILL_THERE)
        if request is not self._asked_in:
            self._asked_in = request
            self.loop.call_later(FIRST_LOOK, self.look)
