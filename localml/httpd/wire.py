"""What all connections share, clients' and replicas': one can be held back, and bytes arrive on it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import cast

HIGH_WATER = 64 * 1024
"""Bytes that may wait unread before a connection's sender is held back."""
MOST_DROPPED = 64 << 20
"""Bytes of a body that is not wanted which are taken in, only to see when its sender leaves."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_TOGETHER = frozenset({1, 4, 5})
"""States of a connection (Linux's ``tcp_states.h``) whose peer has not ended it: established, or ended by us."""
CLOSED = 7
"""State of a connection that was reset."""


class Wire(asyncio.Protocol):
    """A connection. Reading is held while somebody holds it; ``drain`` waits while the peer reads too slowly."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.lost = False
        self.tunnel: Incoming | None = None
        self._holds = 0
        self._full = False
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionResetError("the connection is gone"))
        if self.tunnel is not None:
            self.tunnel.finish()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def write(self, data: bytes) -> None:
        """Hand bytes to the operating system, or keep them until it takes them."""
        if not self.lost:
            self.transport.write(data)

    async def drain(self, timeout: float) -> None:
        """Wait until the peer has read enough for more to be written.

        Raises:
            ConnectionResetError: the peer went away.
            TimeoutError: it read too little in ``timeout`` seconds.
        """
        if self.lost:
            raise ConnectionResetError("the connection is gone")
        if not self._full:
            return
        self._drained = self.loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._drained
        finally:
            self._drained = None

    def hold(self) -> None:
        """Read no more until ``release`` was called as often as this."""
        self._holds += 1
        if self._holds == 1 and not self.lost and not self.transport.is_closing():
            self.transport.pause_reading()

    def release(self) -> None:
        """Undo one ``hold``."""
        self._holds -= 1
        if self._holds == 0 and not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def _state(self) -> int:
        """What the system knows of the connection, also of what came behind bytes that were not read."""
        peer = self.transport.get_extra_info("socket")
        try:
            return int(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
        except (AttributeError, OSError):
            return min(_TOGETHER)

    @staticmethod
    def _ended(state: int) -> bool:
        """Whether the peer sends no more, in that state of a connection."""
        return state not in _TOGETHER

    def cut(self) -> None:
        """End the connection so that the peer can tell it from an orderly end: with a reset."""
        if self.lost:
            return
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            try:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # it is closed already
        self.transport.abort()


class Incoming:
    """Bytes of one body as they arrive: fed by the parser, read by one reader, bounded by holding the wire."""

    __slots__ = ("_dropped", "_error", "_held", "_pieces", "_size", "_waiter", "_wire", "ended")

    def __init__(self, wire: Wire) -> None:
        self.ended = False
        """All of it has arrived (it may not have been read)."""
        self._wire = wire
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._held = False
        self._dropped: int | None = None  # bytes that nobody wanted to have, once nobody does
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """Bytes that are here and were not read."""
        return self._size

    def feed(self, data: bytes) -> None:
        """More has arrived."""
        if self._dropped is not None:
            self._dropped += len(data)
            if self._dropped > MOST_DROPPED:
                self._wire.cut()
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._held:
            self._held = True
            self._wire.hold()
        self._notify()

    def finish(self) -> None:
        """That was all."""
        self.ended = True
        self._notify()

    def fail(self, error: Exception) -> None:
        """The rest will not come."""
        if not self.ended and self._error is None:
            self._error = error
            self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> bytes:
        """What is here now, without waiting; empty if nothing is."""
        if not self._pieces:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._held:
            self._held = False
            self._wire.release()
        return data

    async def read(self) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            Exception: the one given to :meth:`fail`, once what came before it was read.
        """
        while not self._pieces:
            if self.ended:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._wire.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    async def fill(self, size: int) -> None:
        """Wait until ``size`` bytes (at most HIGH_WATER) are here, or all there are.

        Raises:
            Exception: the one given to :meth:`fail`.
        """
        while self._size < size and not self.ended:
            if self._error is not None:
                raise self._error
            self._waiter = self._wire.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def whole(self) -> bytes:
        """All bytes; for bodies whose length is known to be small."""
        if self.ended:
            return self.take()
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def discard(self) -> None:
        """Drop what is here and let the wire read on."""
        self.take()

    def drop(self) -> None:
        """Drop what is here and what comes: nobody reads this body, and that its sender leaves is seen only behind it.
        Who goes on and on is cut off."""
        self._dropped = self._dropped or 0
        self.discard()
