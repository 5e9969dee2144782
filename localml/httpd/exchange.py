"""The loop's side of a request: its app is called on a worker, its answer goes out as fast as the client reads."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from localml.httpd.call import Call
from localml.httpd.connection import Client
from localml.httpd.environ import set_input
from localml.httpd.guard import GUARD, Guard, Watch
from localml.httpd.headers import LAST_CHUNK, chunk
from localml.httpd.held import PARKED, SEAT, FileAnswer, Held, Parked
from localml.httpd.request import Request
from localml.httpd.turns import Turns
from localml.httpd.workers import Workers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

STALLED = 120.0
"""Seconds that a client may take nothing of its answer."""
_BODILESS = frozenset({204, 304})


class Stalled(Exception):
    """The client has gone or reads nothing, in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class Seats:
    """Threads beside those that call apps, each kind for itself, so that none has to wait for the others.

    Attributes:
        waiters: look whether what is waited for has come, and whether who was let in still is.
        streamers: read what held answers and files consist of.
        slow: call apps for what may take long.
    """

    waiters: Workers
    streamers: Turns
    slow: Turns

    def close(self, timeout: float) -> None:
        """See :meth:`Workers.close`."""
        deadline = time.monotonic() + timeout
        for each in (self.waiters, self.streamers, self.slow):
            each.close(max(0.0, deadline - time.monotonic()))


class Exchange:
    """One request and its answer.

    Args:
        workers: call the app.
        seats: where else there are threads.
    """

    def __init__(self, request: Request, client: Client, workers: Workers, seats: Seats) -> None:
        self._request, self._client = request, client
        self._workers, self._seats = workers, seats
        self._bodiless = False
        self._chunked = False
        self._left: int | None = None  # bytes that were promised and are to come

    async def run(self, app: WSGIApplication, environ: WSGIEnvironment, body: bytes | BinaryIO) -> None:
        """Answer the request with an app; ask it again for as long as it wants to be.

        Raises:
            Stalled: see there.
            Exception: the app's own.
        """
        slow_for: object = None
        while True:
            call = self._call(app, environ, body)
            try:
                await self._begin(call, slow_for)
                if not isinstance(call.result, Parked):
                    await self._answer(call)
                    call.release()
                    return
                parked = call.result
                self._request.body.drop()
                await self._wait(parked, call.guard)
            except BaseException:
                call.release()
                raise
            finally:
                if call.give_up():
                    self._workers.submit(call.close)
            environ = {**environ, PARKED: parked, GUARD: call.guard, SEAT: call.seat}
            slow_for = parked.slow_for

    async def _begin(self, call: Call, slow_for: object) -> None:
        if slow_for is None:
            await self._workers.run(call.begin)
            return
        with self._client.staying():
            await self._seats.slow.run(slow_for, call.begin)

    async def _wait(self, parked: Parked, guard: Guard | None) -> None:
        """Wait for what a request waits for, or until it is to be asked again because a right was lost."""
        lost = self._client.loop.create_future()
        run = self._seats.waiters.run
        waiting = self._client.loop.create_task(parked.wait(run))
        try:
            with self._client.staying(), Watch(guard, run, partial(lost.set_result, None)):
                await asyncio.wait((waiting, lost), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()

    def _call(self, app: WSGIApplication, environ: WSGIEnvironment, body: bytes | BinaryIO) -> Call:
        own = dict(environ)  # apps write into it
        set_input(own, body, self._request.length)

        def post(piece: bytes) -> None:
            self._client.loop.call_soon_threadsafe(self._arrived, call, piece)

        call = Call(app, own, post, lambda: self._client.lost)
        return call

    # -- the answer --------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> None:
        self._start(call)
        if self._bodiless:
            return
        if isinstance(call.result, (Held, FileAnswer)):
            self._request.body.drop()
        if not call.complete:
            with self._client.staying(), Watch(call.guard, self._seats.waiters.run, self._lost):
                await self._body(call)
        self._end()

    def _lost(self) -> None:
        """The answer is for somebody who may not have it any more; an end would say that it is whole."""
        self._client.cut()

    async def _body(self, call: Call) -> None:
        run = partial(self._seats.streamers.run, getattr(call.seat, "owner", None))
        if isinstance(call.result, Held):
            async with aclosing(call.result.pieces(run)) as pieces:
                async for piece in pieces:
                    self._send(piece)
                    await self._drain()
        elif isinstance(call.result, FileAnswer):
            while piece := await run(call.result.read):
                self._send(piece)
                await self._drain()
        else:
            while not await self._workers.run(call.more):
                await self._drain()

    def _start(self, call: Call) -> None:
        if not call.status:
            raise AssertionError("the app never called start_response")
        head, length = self._request.method == b"HEAD", call.length
        if call.complete and length is None and (call.first or not head):
            length = len(call.first)
        self._bodiless = head or call.status in _BODILESS
        first = b""
        if not self._bodiless:
            first = call.first[:length]
            self._left = None if length is None else length - len(first)
        elif call.status in _BODILESS or length is None:
            length = -1
        if call.closes:
            self._client.leave()
        lines = b"%bdate: %b\r\nserver: localml\r\n" % (call.lines, _date())
        self._chunked = self._client.start(self._request, call.status, lines, length, first, call.phrase)

    def _arrived(self, call: Call, piece: bytes) -> None:
        call.written += len(piece)
        self._send(piece)

    def _send(self, piece: bytes) -> None:
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        if piece:
            self._client.write(chunk(piece) if self._chunked else piece)

    async def _drain(self) -> None:
        try:
            await self._client.drain(STALLED)
        except (TimeoutError, ConnectionResetError) as error:
            raise Stalled from error

    def _end(self) -> None:
        if self._chunked:
            self._client.write(LAST_CHUNK)
        elif self._left:
            raise Stalled(f"the app gave {self._left} bytes less than it promised")


_dated = (0, b"")


def _date() -> bytes:
    """Now, as the Date header has it; made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True).encode())
    return _dated[1]
