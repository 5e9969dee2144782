"""A request's body as WSGI wants it: a file to read from."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import CancelledError
from typing import BinaryIO, cast

from localml.httpd.connection import Client
from localml.httpd.headers import CONTINUE
from localml.httpd.request import BadRequest, Request

SMALL = 64 * 1024
"""Bytes that are waited for on the loop, before a worker is bothered; a body up to this size is whole then."""
PAUSE = 60.0
"""Seconds that a client may pause in the middle of a body."""


class BodyTooLarge(Exception):
    """A chunked body turned out longer than is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body has more than the {limit} bytes that are taken")
        self.limit = limit


class BodyBroken(OSError):
    """The client went away, paused for too long or sent nonsense in the middle of its body."""


async def receive(request: Request, client: Client, limit: int) -> bytes | BinaryIO:
    """A small body whole; of others what is read by a worker, bit by bit as it arrives.

    One that is declared to be large isn't waited for, so that the app can refuse it by its head. A client that waits
    to be told to go on is told when its body is wanted: at once if it is small, else when the app first reads.

    Raises:
        BadRequest: it broke off (400), or paused for too long (408).
    """
    body = request.body
    if request.length == 0:
        return b""
    waits = request.expects_continue and not body.ended
    small = request.length is not None and request.length <= SMALL
    if small or (request.length is None and not waits):
        if waits:
            client.write(CONTINUE)
            waits = False
        try:
            await body.fill(SMALL, PAUSE)
        except TimeoutError:
            raise BadRequest(f"the body paused for {PAUSE:g} s", 408) from None
    if body.ended and body.waiting <= limit:
        return body.take()
    return cast(BinaryIO, io.BufferedReader(_Body(request, client, limit, waits=waits), SMALL))


class _Body(io.RawIOBase):
    """Read on a worker's thread, while the loop takes in what comes; a worker that is slower holds the sender back."""

    def __init__(self, request: Request, client: Client, limit: int, *, waits: bool) -> None:
        self._request, self._client, self._limit = request, client, limit
        self._waits = waits
        self._size = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what is here; 0 at the end.

        Raises:
            BodyTooLarge, BodyBroken: see there.
        """
        if not self._rest:
            self._rest = memoryview(self._next())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bytes:
        try:
            piece = asyncio.run_coroutine_threadsafe(self._read(), self._client.loop).result()
        except TimeoutError:
            raise BodyBroken(f"the body paused for {PAUSE:g} s") from None
        except (BadRequest, RuntimeError, CancelledError) as error:
            raise BodyBroken(str(error) or "the server is shutting down") from error
        self._size += len(piece)
        if self._size > self._limit:
            raise BodyTooLarge(self._limit)
        return piece

    async def _read(self) -> bytes:
        body = self._request.body
        if self._waits:
            self._waits = False
            if not self._client.head_sent:
                self._client.write(CONTINUE)
        if body.waiting or body.ended:
            return body.take()
        async with asyncio.timeout(PAUSE):
            return await body.read()
