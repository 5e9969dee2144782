"""One client's connection: its HTTP/1.0 and 1.1 requests, one after the other; HTTP/2 is left to the owner.

A client that left before the answer is complete has given up: the request's task is cancelled, and with it all that was
only done for it. One that has closed its own side alone is answered (:mod:`localml.httpd.leaving`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import httptools

from localml.httpd import headers as heads
from localml.httpd.headers import Header
from localml.httpd.leaving import Leaving
from localml.httpd.owner import Owner
from localml.httpd.request import BadRequest, Request
from localml.httpd.wire import Incoming

log = logging.getLogger("localml.httpd")

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers; more are answered with 431."""
MAX_HEADERS = 200
HEAD_TIMEOUT = 30.0
"""Seconds from a request's first byte to the end of its head."""
OPEN_TIMEOUT = 20.0
"""Seconds from a connection's beginning to its first byte."""
IDLE_TIMEOUT = 120.0
"""Seconds that a connection may stay without another request."""
LINGER = 2.0
"""Seconds that an unread body is thrown away for, so that the client gets to read the answer that refused it."""
_PIPELINE = 8
_HTTP2 = b"PRI "
"""What HTTP/2 begins with; no method of HTTP/1 is called so (RFC 9113, 3.4)."""


class Client(Leaving):
    """One client's connection.

    Args:
        only: what the port is for that it has come to; empty for a port that serves everything.
    """

    def __init__(self, owner: Owner, only: str = "") -> None:
        super().__init__()
        self._owner = owner
        self.only = only
        self.peer = b"unknown"
        self.local_address = ""
        """The address of this machine that the client has come to."""
        self.descriptor = -1
        self.deadline = 0.0
        """Loop time after which the server ends this connection, however many bytes have come by then."""
        self.waiting_since = inf
        """Loop time since which nothing is done for the client, which has to say something first; ``inf`` while a
        request is answered. See :mod:`localml.httpd.room`."""
        self.known = False
        """The app has found out from credentials who this is."""
        self.head_sent = False
        self._keep_alive = True
        self._spoken = False
        self._lingering = False
        self._kept = False  # a request was answered
        self._broken: BadRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._current: Request | None = None
        self._queue: deque[Request] = deque()
        self._parsing: Request | None = None  # whose body arrives now
        self._ghost = False  # the parser reads a head that we made up
        self._in_head = False
        self._new_parser()
        self._reset_head()

    # -- the connection ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        if name:
            self.peer = str(name[0]).encode()
        own = transport.get_extra_info("sockname")
        if own:
            self.local_address = str(own[0])
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.waiting_since = self.loop.time()
        self.deadline = self.waiting_since + OPEN_TIMEOUT
        self._owner.arrived(self)

    def turn_away(self, message: str) -> None:
        """Answer with 503, whatever the client wants, and close."""
        self._refuse(BadRequest(message, 503))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._parsing is not None:
            self._parsing.body.fail(BadRequest("the client went away"))
        if self._task is not None:
            self._task.cancel()
        self._owner.left(self)

    @property
    def busy(self) -> bool:
        """A request is being answered, or it speaks HTTP/2."""
        return self._task is not None

    @property
    def kept_since(self) -> float:
        """Loop time of the last answer, while the connection is kept for another request; else ``inf``."""
        return self.waiting_since if self._kept and not self._in_head and self._task is None else inf

    def data_received(self, data: bytes) -> None:
        while data and not self._lingering and self._broken is None:
            if self.tunnel is not None:
                self.tunnel.feed(data)
                return
            if not self._spoken:
                self._spoken = True
                if data.startswith(_HTTP2):
                    self._led_in(data)
                    return
            data = self._parse(data)

    def _parse(self, data: bytes) -> bytes:
        """Hand bytes to the parser. Returns those that another one, or a tunnel, is to go on with."""
        self._unused += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._upgraded(data[upgrade.args[0] :])
        except BadRequest as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, BadRequest) else BadRequest(str(error)))
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"this is not valid HTTP: {error}"))
        else:
            if self._unused > MAX_HEAD and (self._in_head or self._parsing is not None):
                self._refuse(_too_long())
        return b""

    def _led_in(self, data: bytes) -> None:
        self.tunnel = Incoming(self)
        self.tunnel.feed(data)
        self.deadline = self.waiting_since = inf
        self._task = self.loop.create_task(self._lead_in())

    async def _lead_in(self) -> None:
        try:
            await self._owner.lead_in(self)
        except Exception:
            log.exception("a client that speaks HTTP/2 could not be served")
            self.cut()
        finally:
            self._task = None

    def _refuse(self, error: BadRequest) -> None:
        """Nothing more can be understood on this connection."""
        self._broken = error
        if self._parsing is not None:
            self._parsing.body.fail(error)
            self._parsing = None
        if self._current is None:
            self._answer_broken(error)

    def _answer_broken(self, error: BadRequest) -> None:
        self._keep_alive = False
        self.send(error.status, self._owner.failure(error.status, "bad_request", str(error)))
        self._close()

    # -- the parser's callbacks --------------------------------------------------------------------

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def _reset_head(self) -> None:
        self._target = b""
        self._headers: list[Header] = []
        self._first: dict[bytes, bytes] = {}
        self._unused = 0  # bytes that came and are of no body: of the head, or of what is between and after chunks

    def on_message_begin(self) -> None:
        if not self._ghost:
            self._reset_head()
            self._in_head = True
            if self._current is None:
                self.deadline = self.loop.time() + HEAD_TIMEOUT

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer, or a head of our own
        lowered = name.lower()
        self._headers.append((lowered, name, value))
        self._first.setdefault(lowered, value)
        if len(self._headers) > MAX_HEADERS:
            raise _too_long()

    def on_headers_complete(self) -> None:
        if self._ghost:
            return
        self._in_head = False
        self._unused = 0
        size = len(self._target) + sum(len(name) + len(value) for _, name, value in self._headers)
        if size > MAX_HEAD:
            raise _too_long()
        request = Request(
            method=self._parser.get_method(),
            target=self._target,
            http10=self._parser.get_http_version() == "1.0",
            headers=self._headers,
            first=self._first,
            keep_alive=self._parser.should_keep_alive() and not self._parser.should_upgrade(),
            body=Incoming(self),
        )
        request.check(may_upgrade=self._parser.should_upgrade())
        self._parsing = request
        self._queue.append(request)
        if len(self._queue) == _PIPELINE:
            self.hold()
        if self._current is None:
            self._next()

    def on_body(self, data: bytes) -> None:
        self._unused = 0
        if self._parsing is not None:
            self._parsing.body.feed(data)

    def on_message_complete(self) -> None:
        request = self._parsing
        if request is None or (self._parser.should_upgrade() and request.length != 0 and not self._ghost):
            return  # the parser takes every upgrade for granted and leaves the body to us: see _upgraded
        request.body.finish()
        self._parsing = None

    def _upgraded(self, rest: bytes) -> bytes:
        """The parser stopped at a request that asks for another protocol. Returns what is still to be taken in.

        Only WebSocket is passed on. Any other wish may be ignored (RFC 9110, 7.8), and some clients state one with
        every first request, with a body (Java's asks for h2c): a new parser goes on from there.
        """
        request = self._queue[-1] if self._queue else self._current
        if request is None or request.method == b"CONNECT":
            self._refuse(BadRequest("CONNECT is not served here", 405))
            return b""
        if request.websocket:
            self.tunnel = Incoming(self)
            return rest
        self._new_parser()
        if self._parsing is not None:
            self._ghost = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + heads.length_line(self._parsing.length) + b"\r\n")
            self._ghost = False
        return rest

    # -- one request after the other ---------------------------------------------------------------

    def _next(self) -> None:
        request = self._queue.popleft()
        if len(self._queue) == _PIPELINE - 1:
            self.release()
        self._current = request
        self.head_sent = False
        self._keep_alive = request.keep_alive and (not self._half or bool(self._queue))
        self.deadline = self.waiting_since = inf  # while a request is served, its own limits count
        self._task = self.loop.create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        try:
            await self._owner.handle(request, self)
        except asyncio.CancelledError:
            if not self.lost:  # not by the client: the server ends
                self.cut()
            return
        except Exception:
            log.exception("a request failed")
            if self.head_sent:
                self.cut()
            else:
                self._keep_alive = False
                self.send(
                    500, self._owner.failure(500, "internal", "an internal error, which the server's log describes")
                )
        self._after(request)

    def _after(self, request: Request) -> None:
        self._current = self._task = None
        self.waiting_since = self.loop.time()
        if self.lost:
            return
        if not self._keep_alive or not request.body.ended:
            self._close(lingering=not request.body.ended)
            request.body.discard()
            return
        request.body.discard()
        self._kept = True
        self.deadline = self.waiting_since + IDLE_TIMEOUT
        if self._queue:
            self._next()
        elif self._broken is not None:
            self._answer_broken(self._broken)
        elif self._in_head:
            self.deadline = self.loop.time() + HEAD_TIMEOUT

    def _close(self, *, lingering: bool = True) -> None:
        """Close when all is sent; what the client still sends is thrown away for a moment before."""
        self.deadline = self.loop.time() + IDLE_TIMEOUT  # for a client that never reads its answer
        if not lingering or self.lost or self.transport.is_closing():
            self.transport.close()
            return
        self._lingering = True
        self.waiting_since = -inf
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    # -- answers -----------------------------------------------------------------------------------

    def start(
        self, request: Request, status: int, lines: bytes, length: int | None, first: bytes = b"", phrase: bytes = b""
    ) -> bool:
        """Send the head of an answer and the ``first`` bytes of its body in one write.

        Args:
            lines: the headers, without those that frame the body.
            length: of the body; None if it is not known. -1 if the status or the method has none.
            phrase: of the status, where it is not the usual one.

        Returns:
            Whether the body is sent in chunks.
        """
        chunked = length is None and not request.http10
        if (length is None and not chunked) or not request.body.ended or self._owner.closing:
            self._keep_alive = False
        head = bytearray(b"HTTP/1.1 %d %b\r\n" % (status, phrase or heads.reason(status)))
        head += lines
        if chunked or (length is not None and length >= 0):
            head += heads.length_line(length)
        if not self._keep_alive:
            head += b"connection: close\r\n"
        elif request.http10:
            head += b"connection: keep-alive\r\n"
        head += b"\r\n"
        if first:
            head += heads.chunk(first) if chunked else first
        self.head_sent = True
        self.write(bytes(head))
        return chunked

    def send(self, status: int, body: bytes, lines: bytes = b"", kind: bytes = b"application/json") -> None:
        """A whole answer of the owner's own."""
        request = self._current
        if self._owner.closing or request is None or not request.body.ended:
            self._keep_alive = False
        head = bytearray(b"HTTP/1.1 %d %b\r\n" % (status, heads.reason(status)))
        head += b"content-type: %b\r\ncontent-length: %d\r\n" % (kind, len(body))
        head += lines
        if not self._keep_alive:
            head += b"connection: close\r\n"
        elif request is not None and request.http10:
            head += b"connection: keep-alive\r\n"
        head += b"\r\n"
        if request is None or request.method != b"HEAD":
            head += body
        self.head_sent = True
        self.write(bytes(head))

    def leave(self) -> None:
        """The answer to the request at hand is this connection's last."""
        self._keep_alive = False

    def switch(self, lines: bytes) -> None:
        """Tell the client that the tunnel is open; this connection carries no further request."""
        self._keep_alive = False
        self.head_sent = True
        self.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % lines)

    @contextmanager
    def owing(self) -> Iterator[None]:
        """While something of a request is still to come that nobody has looked at, nothing is done for the client."""
        self.waiting_since = self.loop.time()
        try:
            yield
        finally:
            self.waiting_since = inf

    def close_idle(self) -> None:
        """End a connection that no request uses."""
        if not self.busy and not self.lost and not self._lingering:
            self.transport.close()

    def expire(self) -> None:
        """The deadline is over: a head that does not come to its end is answered, all else is cut."""
        if self._in_head and self._current is None and self._broken is None and not self._lingering:
            self._refuse(BadRequest(f"the head took longer than {HEAD_TIMEOUT:g} s", 408))
        elif self.transport.is_closing() or self._lingering:
            self.cut()
        else:
            self.transport.close()


def _too_long() -> BadRequest:
    return BadRequest(f"the head has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers", 431)
