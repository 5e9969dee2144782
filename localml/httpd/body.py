"""A request's body as WSGI wants it: a file to read from."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import CancelledError
from typing import BinaryIO, cast

from localml.httpd.connection import Client
from localml.httpd.headers import CONTINUE
from localml.httpd.pace import Pace
from localml.httpd.request import BadRequest, Request

SMALL = 64 * 1024
"""Bytes that are waited for on the loop, before a worker is bothered; a body up to this size is whole then."""
SMALL_TIMEOUT = 30.0
"""Seconds that a small body is waited for in all."""
TOO_SLOW = "the body comes too slowly"


class BodyTooLarge(Exception):
    """A chunked body turned out longer than is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body has more than the {limit} bytes that are taken")
        self.limit = limit


class BodyBroken(OSError):
    """The client went away, was too slow or sent nonsense in the middle of its body."""


async def receive(request: Request, client: Client, limit: int) -> bytes | BinaryIO:
    """A small body whole; of others what is read by a worker, bit by bit as it arrives.

    One that is declared to be large isn't waited for, so that the app can refuse it by its head. A client that waits
    to be told to go on is told when the app first reads, and never if the app refuses it.

    Raises:
        BadRequest: it broke off (400), or came too slowly (408).
    """
    body = request.body
    if request.length == 0:
        return b""
    waits = request.expects_continue and not body.ended
    if not (waits or body.ended) and (request.length is None or request.length <= SMALL):
        await _fill(request, client)
    if body.ended and body.waiting <= limit:
        return body.take()
    return cast(BinaryIO, io.BufferedReader(_Body(request, client, limit, waits=waits), SMALL))


async def _fill(request: Request, client: Client) -> None:
    try:
        with client.owing():
            async with asyncio.timeout(SMALL_TIMEOUT):
                await request.body.fill(SMALL)
    except TimeoutError:
        if request.length is not None:  # the app may find one without a length, which has begun, worth waiting for
            raise BadRequest(TOO_SLOW, 408) from None


class _Body(io.RawIOBase):
    """Read on a worker's thread, while the loop takes in what comes; a worker that is slower holds the sender back."""

    def __init__(self, request: Request, client: Client, limit: int, *, waits: bool) -> None:
        self._request, self._client, self._limit = request, client, limit
        self._waits = waits
        self._size = 0
        self._pace = Pace()
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
            raise BodyBroken(TOO_SLOW) from None
        except (BadRequest, RuntimeError, CancelledError) as error:
            raise BodyBroken(str(error) or "the server is shutting down") from error
        self._size += len(piece)
        if self._size > self._limit:
            raise BodyTooLarge(self._limit)
        return piece

    async def _read(self) -> bytes:
        if self._waits:
            self._waits = False
            if not self._client.head_sent:
                self._client.write(CONTINUE)
        return await self._pace.read(self._request.body)
