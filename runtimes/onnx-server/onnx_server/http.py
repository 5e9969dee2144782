"""uvicorn's HTTP protocol, with head and body of an answer written together.

uvicorn writes an answer's head as soon as it has it, and the body after that: two system calls, and a client that is
woken twice. For a small model that is a good part of a request's time.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers; more are answered with 431."""
HEAD_TIMEOUT = 30.0
"""Seconds from a connection's or a request's first byte to the end of its head; then 408."""


class JoiningTransport:
    """A transport that holds a write back until the next one, or until the event loop's next turn.

    Args:
        transport: what is written to; everything but writing and closing is its own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, together with what is held back."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is held back, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


class Protocol(HttpToolsProtocol):
    """One connection. uvicorn takes heads of any size and for any time; here both are bounded."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport)))
        self._head = 0  # bytes of a head that is not complete
        self._reading_head, self._begun, self._ended = True, False, False
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._ended = False
        super().data_received(data)
        if not self._reading_head or self._ended or self.transport.is_closing():
            return  # what follows a body in the same piece is counted from the next one on
        self._head += len(data)
        if self._head > MAX_HEAD:
            self._refuse(431, "Request Header Fields Too Large", f"the head has more than {MAX_HEAD} bytes")
        elif self._deadline is None and self._begun:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def eof_received(self) -> bool:  # type: ignore[override]
        """See ``asyncio.Protocol``. Who closes its own side alone after a whole request is answered."""
        waits = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if waits:
            self.cycle.keep_alive = False
        return waits

    def on_message_begin(self) -> None:
        """See ``httptools``."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See ``httptools``."""
        self._reading_head = self._begun = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See ``httptools``."""
        self._reading_head, self._head, self._ended = True, 0, True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse(408, "Request Timeout", f"no complete head came within {HEAD_TIMEOUT:g} s")

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Answer in place of the application, which never hears of the request, and close."""
        body = orjson.dumps({"error": message})
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
